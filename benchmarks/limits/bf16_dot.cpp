// SPDX-License-Identifier: Apache-2.0
// How many bfloat16 operations vdpbf16ps does: 32 products and as many additions an instruction.
#include <benchmark/benchmark.h>

#include "limits/best_time.hpp"
#include "limits/limits.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace int4q_bench {

#if defined(__x86_64__)
namespace {

// As for vpdpbusd.
constexpr int kSums = 12;
constexpr int kRounds = 4'000'000;
constexpr int kOne = 0x3F80;  // 1 as bfloat16

__attribute__((target("avx512f,avx512bf16"), always_inline)) inline __m512 AddDotProducts(__m512 sum, __m512i a,
                                                                                          __m512i b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

__attribute__((target("avx512f,avx512bf16"))) void DotProducts(int) {
    const __m512i ones = _mm512_set1_epi32(kOne << 16 | kOne);
    __m512 sums[kSums];
    for (int i = 0; i < kSums; i++) sums[i] = _mm512_set1_ps(static_cast<float>(-i));
    for (int round = 0; round < kRounds; round++) {
        for (__m512 &sum : sums) sum = AddDotProducts(sum, ones, ones);
    }
    __m512 total = _mm512_setzero_ps();
    for (const __m512 &sum : sums) total = _mm512_add_ps(total, sum);
    benchmark::DoNotOptimize(total);  // not of each sum, which would keep them in memory
}

}  // namespace

std::optional<double> MeasureBf16Dot(int threads) {
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bf16")) return std::nullopt;
    constexpr double kOperations = 2.0 * 32 * kSums * kRounds;
    return threads * kOperations / BestTime(threads, DotProducts);
}

#else

std::optional<double> MeasureBf16Dot(int) { return std::nullopt; }

#endif

}  // namespace int4q_bench
