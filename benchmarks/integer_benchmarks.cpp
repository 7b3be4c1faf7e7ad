// SPDX-License-Identifier: Apache-2.0
// Requantizing sums, and clustering samples, on one thread.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "benchmarks.hpp"
#include "buffer.hpp"
#include "int4q.h"
#include "random_floats.hpp"
#include "stopwatch.hpp"

namespace int4q_bench {
namespace {

constexpr int64_t kRows = 2048, kColumns = 4096, kSamples = 100000, kDimensions = 384;

void Require(int4q_status status) {
    if (status != INT4Q_OK) throw std::runtime_error(int4q_status_string(status));
}

void BM_Requantize(benchmark::State &state, int32_t type, int32_t low, int32_t high, int32_t shift) {
    std::vector<int32_t> sums(kRows * kColumns);
    for (size_t i = 0; i < sums.size(); i++) sums[i] = static_cast<int32_t>(i * 2654435761u) >> 12;
    const std::vector<int32_t> multipliers(kColumns, 1717986918), shifts(kColumns, shift), bias(kColumns, 100);
    int4q_requantization how{};
    how.struct_size = sizeof how;
    how.codes_type = type;
    how.n = how.multiplier_count = kColumns;
    how.multipliers = multipliers.data(), how.shifts = shifts.data(), how.bias = bias.data();
    how.low = low, how.high = high;
    const Buffer codes(sums.size() * 4);
    const Stopwatch stopwatch;
    for (auto _ : state) {
        Require(int4q_requantize_rows(&how, sums.data(), kColumns, kRows, codes.data(), codes.size(), 0, kRows));
    }
    const double read = static_cast<double>(sums.size() * 4) * static_cast<double>(state.iterations());
    state.counters["GB/s"] = read / stopwatch.Seconds() / 1e9;
}

void BM_Select(benchmark::State &state, int64_t iterations) {
    const std::vector<float> features = RandomFloats(kSamples * kDimensions);
    int4q_clustering clustering{};
    clustering.struct_size = sizeof clustering;
    clustering.clusters = 64, clustering.max_iterations = iterations;
    uint64_t bytes = 0;
    Require(int4q_select_representatives_scratch(kSamples, kDimensions, clustering.clusters, &bytes));
    const Buffer scratch(static_cast<size_t>(bytes));
    std::vector<int64_t> indices(static_cast<size_t>(clustering.clusters));
    for (auto _ : state) {
        Require(int4q_select_representatives(&clustering, features.data(), INT4Q_TYPE_F32, kSamples, kDimensions, kDimensions,
                                             scratch.data(), bytes, indices.data(), nullptr, nullptr, nullptr));
    }
}

void Register(const std::string &name, int32_t type, int32_t low, int32_t high) {
    for (int32_t shift : {-7, 1}) {
        const std::string full = "requantize/" + name + (shift > 0 ? "/left_shift" : "");
        benchmark::RegisterBenchmark(full.c_str(), BM_Requantize, type, low, high, shift)->Unit(benchmark::kMillisecond);
    }
}

}  // namespace

void RegisterIntegerBenchmarks() {
    Register("int8", INT4Q_CODES_INT8, -128, 127);
    Register("int4", INT4Q_CODES_INT4, -8, 7);
    Register("int32", INT4Q_CODES_INT32, INT32_MIN, INT32_MAX);
    benchmark::RegisterBenchmark("select/seeds", BM_Select, 0)->Unit(benchmark::kMillisecond)->Iterations(1);
    benchmark::RegisterBenchmark("select/iterations:10", BM_Select, 10)->Unit(benchmark::kMillisecond)->Iterations(1);
}

}  // namespace int4q_bench
