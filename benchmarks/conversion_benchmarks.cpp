// SPDX-License-Identifier: Apache-2.0
// Quantizing and packing a 4096 x 4096 matrix: each on one thread, and both in one pass.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>

#include "benchmarks.hpp"
#include "limits/limits.hpp"
#include "pool.hpp"
#include "random_floats.hpp"
#include "rotation.hpp"
#include "stopwatch.hpp"
#include "weights.hpp"

namespace int4q_bench {
namespace {

// Bytes are those read; what is written comes on top.
void SetRates(benchmark::State &state, int threads, size_t bytes_per_iteration, double seconds) {
    const double rate = static_cast<double>(bytes_per_iteration) * static_cast<double>(state.iterations()) / seconds;
    state.counters["GB/s"] = rate / 1e9;
    state.counters["share"] = rate / LimitsOf(threads).dram_read;
}

// The source, 67 MB, is too large for most caches and not rotated.
void BM_Quantize(benchmark::State &state, const MatrixShape &shape) {
    const std::vector<float> source = RandomFloats(shape.n * shape.k);
    const Buffer memory(TensorBytes(shape));
    const int4q_tensor tensor = TensorIn(memory.data(), shape);
    const Stopwatch stopwatch;
    for (auto _ : state) Quantize(tensor, source);
    SetRates(state, 1, source.size() * sizeof(float), stopwatch.Seconds());
}

void BM_Pack(benchmark::State &state, const MatrixShape &shape) {
    Rotation tensors(MakeTensor(shape));
    const Buffer blob(BlobBytes(shape));
    const Stopwatch stopwatch;
    for (auto _ : state) Pack(TensorIn(tensors.Next(), shape), blob);
    SetRates(state, 1, TensorBytes(shape), stopwatch.Seconds());
}

// Tasks of some rows each, for a pool.
struct QuantizePackJob {
    const MatrixShape &shape;
    const std::vector<float> &source;
    const Buffer &blob;

    static constexpr int64_t kTaskRows = 4 * INT4Q_BLOB_BLOCK_ROWS;

    int64_t task_count() const { return (shape.n + kTaskRows - 1) / kTaskRows; }

    static void RunTask(void *context, int64_t index, uint32_t) {
        const auto &job = *static_cast<const QuantizePackJob *>(context);
        const int64_t begin = index * kTaskRows;
        QuantizePack(job.shape, job.source, job.blob, begin, std::min(begin + kTaskRows, job.shape.n));
    }
};

void BM_QuantizePack(benchmark::State &state, const MatrixShape &shape, int threads) {
    const std::vector<float> source = RandomFloats(shape.n * shape.k);
    const Buffer blob(BlobBytes(shape));
    const Pool pool(threads);
    QuantizePackJob job = {shape, source, blob};
    const auto workers = static_cast<uint32_t>(threads);
    const Stopwatch stopwatch;
    for (auto _ : state) {
        int4q_pool_parallel_for(pool.host(), job.task_count(), workers, QuantizePackJob::RunTask, &job);
    }
    SetRates(state, threads, source.size() * sizeof(float), stopwatch.Seconds());
}

// What follows the shape is the function's.
template <typename Function, typename... Arguments>
void Register(const std::string &name, const MatrixShape &shape, Function function, Arguments... arguments) {
    benchmark::RegisterBenchmark(name.c_str(), function, shape, arguments...)->Unit(benchmark::kMillisecond);
}

}  // namespace

void RegisterConversionBenchmarks() {
    for (int32_t group_size : {32, 128}) {
        const MatrixShape shape = {4096, 4096, group_size};
        const std::string suffix = "/g" + std::to_string(group_size) + "/4096x4096";
        Register("quantize" + suffix, shape, BM_Quantize);
        Register("pack" + suffix, shape, BM_Pack);
        for (int threads = 1; threads <= kMostThreads; threads++) {
            Register("quantize_pack" + suffix + "/t" + std::to_string(threads), shape, BM_QuantizePack, threads);
        }
    }
}

}  // namespace int4q_bench
