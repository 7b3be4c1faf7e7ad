// SPDX-License-Identifier: Apache-2.0
#include "limits/limits.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace int4q_bench {
namespace {

Limits Measure(int threads) {
    Limits limits;
    for (size_t i = 0; i < kStreamCounts.size(); i++) {
        limits.dram_read_by_streams[i] = MeasureDramRead(threads, kStreamCounts[i]);
    }
    const auto &rates = limits.dram_read_by_streams;
    limits.dram_read = *std::max_element(rates.begin(), rates.end());
    limits.fma_f32 = MeasureFmaF32(threads);
    limits.vnni_int8 = MeasureVnniInt8(threads);
    limits.bf16_dot = MeasureBf16Dot(threads);
    limits.amx_int8 = MeasureAmxInt8(threads);
    limits.amx_bf16 = MeasureAmxBf16(threads);
    return limits;
}

std::string Billions(std::optional<double> rate, const char *unit) {
    if (!rate) return "not on this machine";
    char text[64];
    std::snprintf(text, sizeof text, "%.1f %s", *rate / 1e9, unit);
    return text;
}

void Report(int threads) {
    const Limits &limits = LimitsOf(threads);
    const std::string on_threads = ", threads " + std::to_string(threads);
    for (size_t i = 0; i < kStreamCounts.size(); i++) {
        const std::string name = "limit: DRAM read, streams " + std::to_string(kStreamCounts[i]) + on_threads;
        benchmark::AddCustomContext(name, Billions(limits.dram_read_by_streams[i], "GB/s"));
    }
    benchmark::AddCustomContext("limit: FMA f32" + on_threads, Billions(limits.fma_f32, "GFLOP/s"));
    benchmark::AddCustomContext("limit: VNNI int8" + on_threads, Billions(limits.vnni_int8, "GOP/s"));
    benchmark::AddCustomContext("limit: vdpbf16ps" + on_threads, Billions(limits.bf16_dot, "GFLOP/s"));
    benchmark::AddCustomContext("limit: AMX int8" + on_threads, Billions(limits.amx_int8, "GOP/s"));
    benchmark::AddCustomContext("limit: AMX bf16" + on_threads, Billions(limits.amx_bf16, "GFLOP/s"));
}

}  // namespace

const Limits &LimitsOf(int threads) {
    static const std::array<Limits, kMostThreads> all = {Measure(1), Measure(2)};
    return all.at(static_cast<size_t>(threads) - 1);
}

void ReportLimits() {
    for (int threads = 1; threads <= kMostThreads; threads++) Report(threads);
}

}  // namespace int4q_bench
