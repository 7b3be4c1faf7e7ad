// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most, measured in the same run as what it is compared with.
#pragma once

#include <array>
#include <optional>

namespace int4q_bench {

constexpr int kMostThreads = 2;
constexpr std::array<int, 4> kStreamCounts = {1, 4, 8, 16};

// Bytes per second read from memory by so many threads at once, each walking so many streams in turn.
double MeasureDramRead(int threads, int streams);

// Operations per second from registers, a multiplication and an addition counting as two. Nothing where the processor
// lacks the instruction or the system keeps it from us.
std::optional<double> MeasureFmaF32(int threads);
std::optional<double> MeasureVnniInt8(int threads);
std::optional<double> MeasureBf16Dot(int threads);
std::optional<double> MeasureAmxInt8(int threads);
std::optional<double> MeasureAmxBf16(int threads);

// The limits that so many threads share. Two threads are measured rather than assumed to do twice the work of one: they
// share the memory, and may share a core.
struct Limits {
    std::array<double, kStreamCounts.size()> dram_read_by_streams;
    double dram_read;  // the best of those
    std::optional<double> fma_f32;
    std::optional<double> vnni_int8;
    std::optional<double> bf16_dot;
    std::optional<double> amx_int8;
    std::optional<double> amx_bf16;
};

// Measures on the first call, which is main()'s.
const Limits &LimitsOf(int threads);

// Adds all limits to what Google Benchmark prints and stores ahead of its results.
void ReportLimits();

}  // namespace int4q_bench
