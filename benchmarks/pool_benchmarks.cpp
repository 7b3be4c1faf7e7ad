// SPDX-License-Identifier: Apache-2.0
// What it costs to spread work over the library's pool.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "benchmarks.hpp"
#include "limits/limits.hpp"
#include "pool.hpp"
#include "stopwatch.hpp"

namespace int4q_bench {
namespace {

void RunEmptyTasks(const Pool &pool, int count) {
    const int4q_task empty_task = [](void *, int64_t, uint32_t) {};
    int4q_pool_parallel_for(pool.host(), count, static_cast<uint32_t>(count), empty_task, nullptr);
}

// By then the pool's threads sleep. The caller does not: it comes from work of its own.
void Pause() {
    constexpr double kPauseSeconds = 1e-3;
    const Stopwatch stopwatch;
    while (stopwatch.Seconds() < kPauseSeconds) {
    }
}

// The median: where cores are shared with other work, single calls take long.
double SecondsAfterPause(const Pool &pool, int threads) {
    constexpr size_t kCalls = 201;
    std::vector<double> seconds(kCalls);
    for (double &each : seconds) {
        Pause();
        const Stopwatch stopwatch;
        RunEmptyTasks(pool, threads);
        each = stopwatch.Seconds();
    }
    const auto middle = seconds.begin() + kCalls / 2;
    std::nth_element(seconds.begin(), middle, seconds.end());
    return *middle;
}

// Google Benchmark's time is that of calls back to back.
void BM_Wake(benchmark::State &state, int threads) {
    const Pool pool(threads);
    RunEmptyTasks(pool, threads);
    const Stopwatch stopwatch;
    for (auto _ : state) RunEmptyTasks(pool, threads);
    state.counters["back_to_back_us"] = stopwatch.Seconds() / static_cast<double>(state.iterations()) * 1e6;
    state.counters["after_1ms_us"] = SecondsAfterPause(pool, threads) * 1e6;
}

}  // namespace

void RegisterPoolBenchmarks() {
    const std::string name = "pool/wake/t" + std::to_string(kMostThreads);
    benchmark::RegisterBenchmark(name.c_str(), BM_Wake, kMostThreads)->Unit(benchmark::kMicrosecond);
}

}  // namespace int4q_bench
