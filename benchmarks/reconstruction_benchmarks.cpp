// SPDX-License-Identifier: Apache-2.0
// Gram matrices, as a share of what the processor multiplies and adds at most, and GPTQ of a 4096 x 4096 layer.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "benchmarks.hpp"
#include "buffer.hpp"
#include "check.hpp"
#include "int4q.h"
#include "limits/limits.hpp"
#include "pool.hpp"
#include "random_floats.hpp"
#include "stopwatch.hpp"

namespace int4q_bench {
namespace {

constexpr int64_t kRows = 2048;

struct Gram {
    explicit Gram(int64_t k) : k(k), memory(Bytes(k)), scratch(ScratchBytes(k)) {
        Check(int4q_gram_init(k, memory.data(), memory.size()));
    }
    void Push(const std::vector<float> &x, int threads, const Pool &pool) {
        Check(int4q_gram_push(memory.data(), memory.size(), x.data(), INT4Q_TYPE_F32, static_cast<int64_t>(x.size()) / k, k, k,
                              scratch.data(), scratch.size(), static_cast<uint32_t>(threads), pool.parallel_for(), pool.host()));
    }
    static uint64_t Bytes(int64_t k) {
        uint64_t bytes = 0;
        Check(int4q_gram_size(k, &bytes));
        return bytes;
    }
    static uint64_t ScratchBytes(int64_t k) {
        uint64_t bytes = 0;
        Check(int4q_gram_push_scratch(k, &bytes));
        return bytes;
    }

    int64_t k;
    Buffer memory, scratch;
};

void BM_Gram(benchmark::State &state, int64_t k, int threads) {
    const Pool pool(threads);
    const std::vector<float> x = RandomFloats(kRows * k);
    Gram gram(k);
    gram.Push(x, threads, pool);
    const Stopwatch stopwatch;
    for (auto _ : state) gram.Push(x, threads, pool);
    const double operations = static_cast<double>(kRows * k * (k + 1)) * static_cast<double>(state.iterations());
    state.counters["GFLOP/s"] = operations / stopwatch.Seconds() / 1e9;
    if (const auto peak = LimitsOf(threads).fma_f32) state.counters["share"] = operations / stopwatch.Seconds() / *peak;
}

void BM_Gptq(benchmark::State &state, int64_t n, int64_t k, int32_t group_size, int threads) {
    const Pool pool(threads);
    Gram gram(k);
    gram.Push(RandomFloats(kRows * k), threads, pool);
    gram.Push(RandomFloats(2 * kRows * k), threads, pool);
    const std::vector<float> weights = RandomFloats(n * k);
    int4q_tensor tensor{};
    tensor.struct_size = sizeof tensor;
    tensor.scheme.kind = INT4Q_KIND_ASYMMETRIC;
    tensor.scheme.group_size = group_size;
    tensor.scheme.scale_type = INT4Q_TYPE_F16;
    tensor.n = n, tensor.k = k;
    int4q_tensor_layout layout{};
    layout.struct_size = sizeof layout;
    Check(int4q_tensor_sizes(&tensor.scheme, n, k, &layout));
    const Buffer codes(layout.codes_bytes), scales(layout.scales_bytes), zero_points(layout.zero_points_bytes);
    tensor.codes = codes.data(), tensor.codes_bytes = codes.size();
    tensor.scales = scales.data(), tensor.scales_bytes = scales.size();
    tensor.zero_points = zero_points.data(), tensor.zero_points_bytes = zero_points.size();
    int4q_gptq_options options{};
    options.struct_size = sizeof options;
    options.worker_count = static_cast<uint32_t>(threads);
    options.damping = 0.01, options.damping_step = 0.01, options.attempts = 10;
    uint64_t bytes = 0;
    Check(int4q_gptq_scratch(&tensor.scheme, k, options.worker_count, &bytes));
    const Buffer scratch(bytes);
    int4q_gptq_report report{};
    report.struct_size = sizeof report;
    for (auto _ : state) {
        Check(int4q_gptq_quantize(&tensor, weights.data(), INT4Q_TYPE_F32, k, gram.memory.data(), gram.memory.size(), &options,
                                  scratch.data(), scratch.size(), pool.parallel_for(), pool.host(), &report));
    }
    state.counters["scratch_MB"] = static_cast<double>(bytes) / 1e6;
    state.counters["loss"] = report.loss;
}

}  // namespace

void RegisterReconstructionBenchmarks() {
    for (int threads : {1, 2}) {
        const std::string suffix = "/threads:" + std::to_string(threads);
        for (int64_t k : {1024, 4096}) {
            benchmark::RegisterBenchmark(("gram/k:" + std::to_string(k) + suffix).c_str(), BM_Gram, k, threads)
                ->Unit(benchmark::kMillisecond)->UseRealTime();
        }
        for (int32_t group_size : {32, 128}) {
            benchmark::RegisterBenchmark(("gptq/4096x4096/group:" + std::to_string(group_size) + suffix).c_str(), BM_Gptq, 4096, 4096,
                                         group_size, threads)->Unit(benchmark::kMillisecond)->UseRealTime();
        }
    }
}

}  // namespace int4q_bench
