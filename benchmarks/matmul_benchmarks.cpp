// SPDX-License-Identifier: Apache-2.0
// int4q_matmul() with f32 activations and results.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <string>

#include "benchmarks.hpp"
#include "check.hpp"
#include "limits/limits.hpp"
#include "random_floats.hpp"
#include "rotation.hpp"
#include "stopwatch.hpp"
#include "weights.hpp"

namespace int4q_bench {
namespace {

struct Case {
    int4q_compute_mode mode;
    MatrixShape shape;
    int64_t m;
    int threads;
};

const char *NameOf(int4q_compute_mode mode) { return mode == INT4Q_MODE_F32 ? "f32" : "int8"; }

std::string NameOf(const Case &c) {
    return std::string("matmul/") + NameOf(c.mode) + "/g" + std::to_string(c.shape.group_size) + "/" +
           std::to_string(c.shape.n) + "x" + std::to_string(c.shape.k) + "/m" + std::to_string(c.m) + "/t" +
           std::to_string(c.threads);
}

// Few rows of x leave a product waiting for weights: they then come from memory, as in a model that no cache holds. With
// more rows the same blob serves every time.
bool RotatesWeights(const Case &c) { return c.m <= 4; }

// Kept until another shape is asked for: Google Benchmark calls a benchmark several times, and many share their weights.
struct SharedWeights {
    explicit SharedWeights(const MatrixShape &shape) : shape(shape), blob(MakeBlob(shape)), copies(blob) {}

    const MatrixShape shape;
    const Buffer blob;
    Rotation copies;
};

SharedWeights &WeightsOf(const MatrixShape &shape) {
    static std::unique_ptr<SharedWeights> weights;
    if (!weights || !(weights->shape == shape)) {
        weights.reset();  // first, so that there are never two
        weights = std::make_unique<SharedWeights>(shape);
    }
    return *weights;
}

// The library's own threads; none for one worker.
class Pool {
public:
    explicit Pool(int threads) {
        if (threads > 1) Check(int4q_pool_create(static_cast<uint32_t>(threads), &pool_));
    }
    ~Pool() { int4q_pool_destroy(pool_); }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    int4q_parallel_for parallel_for() const { return pool_ ? int4q_pool_parallel_for : nullptr; }
    void *host() const { return pool_; }

private:
    int4q_pool *pool_ = nullptr;
};

int4q_matmul_desc DescriptionOf(const Case &c) {
    int4q_matmul_desc desc = {};
    desc.struct_size = sizeof desc;
    desc.mode = c.mode;
    desc.m = c.m;
    desc.n = c.shape.n;
    desc.k = c.shape.k;
    desc.scheme = SchemeOf(c.shape);
    desc.x_type = INT4Q_TYPE_F32;
    desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = static_cast<uint32_t>(c.threads);
    return desc;
}

int4q_matmul_plan PlanOf(const Case &c) {
    const int4q_matmul_desc desc = DescriptionOf(c);
    int4q_matmul_plan plan = {};
    plan.struct_size = sizeof plan;
    Check(int4q_matmul_plan_init(&desc, &plan));
    return plan;
}

// One product, ready to run, with all its memory.
class Product {
public:
    explicit Product(const Case &c)
        : plan_(PlanOf(c)),
          pool_(c.threads),
          x_(RandomFloats(c.m * c.shape.k)),
          y_(static_cast<size_t>(c.m * c.shape.n)),
          scratch_(plan_.scratch_bytes) {
        args_.struct_size = sizeof args_;
        args_.x = x_.data();
        args_.ldx = c.shape.k;
        args_.blob_bytes = BlobBytes(c.shape);
        args_.y = y_.data();
        args_.ldy = c.shape.n;
        args_.scratch = scratch_.data();
        args_.scratch_bytes = scratch_.size();
    }

    void Run(const uint8_t *blob) {
        args_.blob = blob;
        Check(int4q_matmul(&plan_, &args_, pool_.parallel_for(), pool_.host()));
    }

private:
    const int4q_matmul_plan plan_;
    const Pool pool_;
    const std::vector<float> x_;
    std::vector<float> y_;
    const Buffer scratch_;
    int4q_matmul_args args_ = {};
};

std::optional<double> PeakOf(const Case &c) {
    const Limits &limits = LimitsOf(c.threads);
    return c.mode == INT4Q_MODE_F32 ? limits.fma_f32 : limits.vnni_int8;
}

// "share" is of the limit that binds: the one that comes nearest to being reached.
void SetShares(benchmark::State &state, const Case &c, double flops, double blob_bytes) {
    double share = 0;
    if (RotatesWeights(c)) {
        state.counters["GB/s"] = blob_bytes / 1e9;
        state.counters["of_dram"] = share = blob_bytes / LimitsOf(c.threads).dram_read;
    }
    if (const std::optional<double> peak = PeakOf(c)) {
        state.counters["of_peak"] = flops / *peak;
        share = std::max(share, flops / *peak);
    }
    if (share > 0) state.counters["share"] = share;
}

void SetRates(benchmark::State &state, const Case &c, double seconds) {
    const double products_per_second = static_cast<double>(state.iterations()) / seconds;
    const double flops = 2.0 * static_cast<double>(c.m * c.shape.n * c.shape.k) * products_per_second;
    state.counters["GFLOP/s"] = flops / 1e9;
    SetShares(state, c, flops, static_cast<double>(BlobBytes(c.shape)) * products_per_second);
}

void BM_Matmul(benchmark::State &state, const Case &c) {
    SharedWeights &weights = WeightsOf(c.shape);
    Product product(c);
    const bool rotates = RotatesWeights(c);
    product.Run(weights.blob.data());  // wakes the pool, takes the first page faults
    const Stopwatch stopwatch;
    for (auto _ : state) product.Run(rotates ? weights.copies.Next() : weights.blob.data());
    SetRates(state, c, stopwatch.Seconds());
}

void Register(const Case &c) {
    benchmark::RegisterBenchmark(NameOf(c).c_str(), BM_Matmul, c)->Unit(benchmark::kMicrosecond);
}

void RegisterShape(const MatrixShape &shape) {
    for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8}) {
        for (int64_t m : {1, 4, 16, 128}) {
            for (int threads = 1; threads <= kMostThreads; threads++) Register({mode, shape, m, threads});
        }
    }
}

std::string DispatchOf(const Case &c) {
    const int4q_matmul_desc desc = DescriptionOf(c);
    char text[2048];
    Check(int4q_describe_dispatch(&desc, text, sizeof text, nullptr));
    return text;
}

}  // namespace

// Cases with the same weights follow one another.
void RegisterMatmulBenchmarks() {
    for (int32_t group_size : {32, 128}) {
        RegisterShape({4096, 4096, group_size});
        RegisterShape({1536, 576, group_size});
    }
}

void ReportDispatch() {
    for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8}) {
        const Case c = {mode, {4096, 4096, 32}, 1, 1};
        benchmark::AddCustomContext("dispatch: " + NameOf(c), DispatchOf(c));
    }
}

}  // namespace int4q_bench
