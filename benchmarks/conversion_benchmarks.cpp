// SPDX-License-Identifier: Apache-2.0
// Quantizing and packing a 4096 x 4096 matrix on one thread.
#include <benchmark/benchmark.h>

#include <string>

#include "benchmarks.hpp"
#include "limits/limits.hpp"
#include "random_floats.hpp"
#include "rotation.hpp"
#include "stopwatch.hpp"
#include "weights.hpp"

namespace int4q_bench {
namespace {

// Bytes are those read; what is written comes on top.
void SetRates(benchmark::State &state, size_t bytes_per_iteration, double seconds) {
    const double rate = static_cast<double>(bytes_per_iteration) * static_cast<double>(state.iterations()) / seconds;
    state.counters["GB/s"] = rate / 1e9;
    state.counters["share"] = rate / LimitsOf(1).dram_read;
}

// The source, 67 MB, is too large for most caches and not rotated.
void BM_Quantize(benchmark::State &state, const MatrixShape &shape) {
    const std::vector<float> source = RandomFloats(shape.n * shape.k);
    const Buffer memory(TensorBytes(shape));
    const int4q_tensor tensor = TensorIn(memory.data(), shape);
    const Stopwatch stopwatch;
    for (auto _ : state) Quantize(tensor, source);
    SetRates(state, source.size() * sizeof(float), stopwatch.Seconds());
}

void BM_Pack(benchmark::State &state, const MatrixShape &shape) {
    Rotation tensors(MakeTensor(shape));
    const Buffer blob(BlobBytes(shape));
    const Stopwatch stopwatch;
    for (auto _ : state) Pack(TensorIn(tensors.Next(), shape), blob);
    SetRates(state, TensorBytes(shape), stopwatch.Seconds());
}

void Register(const char *name, void (*function)(benchmark::State &, const MatrixShape &), int32_t group_size) {
    const std::string full_name = std::string(name) + "/g" + std::to_string(group_size) + "/4096x4096";
    const MatrixShape shape = {4096, 4096, group_size};
    benchmark::RegisterBenchmark(full_name.c_str(), function, shape)->Unit(benchmark::kMillisecond);
}

}  // namespace

void RegisterConversionBenchmarks() {
    for (int32_t group_size : {32, 128}) {
        Register("quantize", BM_Quantize, group_size);
        Register("pack", BM_Pack, group_size);
    }
}

}  // namespace int4q_bench
