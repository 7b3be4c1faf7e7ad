// SPDX-License-Identifier: Apache-2.0
// int4q_matmul() with one matrix and no epilogue.
#include <benchmark/benchmark.h>

#include "benchmarks.hpp"
#include "limits/limits.hpp"
#include "product.hpp"
#include "random_floats.hpp"
#include "rates.hpp"
#include "shared_weights.hpp"
#include "stopwatch.hpp"

namespace int4q_bench {
namespace {

// Few rows of x leave a product waiting for weights: they then come from memory, as in a model that no cache holds. With
// more rows the same blob serves every time.
bool RotatesWeights(const Case &c) { return c.m <= 4; }

Work WorkOf(const Case &c) {
    const double operations = 2.0 * static_cast<double>(c.m * c.shape.n * c.shape.k);
    return {c.mode, c.threads, operations, RotatesWeights(c) ? static_cast<double>(BlobBytes(c.shape)) : 0};
}

void BM_Matmul(benchmark::State &state, const Case &c) {
    SharedWeights &weights = WeightsOf(c.shape);
    const std::vector<float> x = RandomFloats(c.m * c.shape.k);
    const Pool pool(c.threads);
    Product product(DescriptionOf(c), x, pool);
    product.args().blob = weights.blob.data();
    product.args().blob_bytes = weights.blob.size();
    const bool rotates = RotatesWeights(c);
    product.Run();  // wakes the pool, takes the first page faults
    const Stopwatch stopwatch;
    for (auto _ : state) {
        if (rotates) product.args().blob = weights.copies.Next();
        product.Run();
    }
    SetRates(state, WorkOf(c), stopwatch.Seconds() / static_cast<double>(state.iterations()));
}

void Register(const MatrixShape &shape, const std::vector<int64_t> &row_counts) {
    for (int4q_compute_mode mode : kModes) {
        for (int64_t m : row_counts) {
            for (int threads = 1; threads <= kMostThreads; threads++) {
                const Case c = {mode, shape, m, threads};
                benchmark::RegisterBenchmark(NameOf("matmul", c).c_str(), BM_Matmul, c)->Unit(benchmark::kMicrosecond);
            }
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
        Register({4096, 4096, group_size}, {1, 4, 16, 128, 512});
        Register({11008, 4096, group_size}, {1, 128});
        Register({1536, 576, group_size}, {1, 4, 16, 128, 512});
    }
}

void ReportDispatch() {
    for (int4q_compute_mode mode : kModes) {
        const Case c = {mode, {4096, 4096, 32}, 1, 1};
        benchmark::AddCustomContext("dispatch: " + NameOf("matmul", c), DispatchOf(c));
    }
}

}  // namespace int4q_bench
