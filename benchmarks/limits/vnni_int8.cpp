// SPDX-License-Identifier: Apache-2.0
// How many int8 operations vpdpbusd does: 64 products and as many additions an instruction.
#include <benchmark/benchmark.h>

#include "limits/best_time.hpp"
#include "limits/limits.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace int4q_bench {

#if defined(__x86_64__)
namespace {

// Independent sums hide the instruction's latency.
constexpr int kSums = 12;
constexpr int kRounds = 4'000'000;

// Not the intrinsic: around that GCC 12 copies every sum from register to register.
__attribute__((target("avx512f,avx512vnni"), always_inline)) inline void AddDotProducts(
    __m512i &sum, const __m512i &unsigned_bytes, const __m512i &signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}

__attribute__((target("avx512f,avx512vnni"))) void DotProducts(int) {
    const __m512i unsigned_bytes = _mm512_set1_epi8(15);
    const __m512i signed_bytes = _mm512_set1_epi8(-127);
    __m512i sums[kSums];
    for (__m512i &sum : sums) sum = _mm512_setzero_si512();
    for (int round = 0; round < kRounds; round++) {
        for (__m512i &sum : sums) AddDotProducts(sum, unsigned_bytes, signed_bytes);
    }
    for (__m512i &sum : sums) benchmark::DoNotOptimize(sum);
}

}  // namespace

std::optional<double> MeasureVnniInt8(int threads) {
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vnni")) return std::nullopt;
    constexpr double kOperations = 2.0 * 64 * kSums * kRounds;
    return threads * kOperations / BestTime(threads, DotProducts);
}

#else

std::optional<double> MeasureVnniInt8(int) { return std::nullopt; }

#endif

}  // namespace int4q_bench
