// SPDX-License-Identifier: Apache-2.0
// How many binary32 operations the processor's fused multiply-add units do.
#include <benchmark/benchmark.h>

#include "limits/best_time.hpp"
#include "limits/limits.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace int4q_bench {

#if defined(__x86_64__)
namespace {

// Twelve independent sums hide the latency of two units with five cycles each; with two operands they still fit in the 16
// registers that AVX2 has. They start from different values, since the compiler would compute equal ones once, and none
// from 2, since 0.5 * 2 + 1 is known to stay 2.
constexpr int kSums = 12;
constexpr int kRounds = 4'000'000;

__attribute__((target("avx512f"))) void MultiplyAdd512(int) {
    const __m512 factor = _mm512_set1_ps(0.5F);
    const __m512 addend = _mm512_set1_ps(1.0F);
    __m512 sums[kSums];
    for (int i = 0; i < kSums; i++) sums[i] = _mm512_set1_ps(static_cast<float>(-i));
    for (int round = 0; round < kRounds; round++) {
        for (__m512 &sum : sums) sum = _mm512_fmadd_ps(sum, factor, addend);
    }
    __m512 total = addend;
    for (const __m512 &sum : sums) total = _mm512_add_ps(total, sum);
    benchmark::DoNotOptimize(total);  // not of each sum, which would keep them in memory
}

__attribute__((target("avx2,fma"))) void MultiplyAdd256(int) {
    const __m256 factor = _mm256_set1_ps(0.5F);
    const __m256 addend = _mm256_set1_ps(1.0F);
    __m256 sums[kSums];
    for (int i = 0; i < kSums; i++) sums[i] = _mm256_set1_ps(static_cast<float>(-i));
    for (int round = 0; round < kRounds; round++) {
        for (__m256 &sum : sums) sum = _mm256_fmadd_ps(sum, factor, addend);
    }
    __m256 total = addend;
    for (const __m256 &sum : sums) total = _mm256_add_ps(total, sum);
    benchmark::DoNotOptimize(total);  // not of each sum, which would keep them in memory
}

double Rate(int threads, int lanes, void (*work)(int)) {
    return 2.0 * threads * lanes * kSums * kRounds / BestTime(threads, work);
}

}  // namespace

std::optional<double> MeasureFmaF32(int threads) {
    if (__builtin_cpu_supports("avx512f")) return Rate(threads, 16, MultiplyAdd512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Rate(threads, 8, MultiplyAdd256);
    return std::nullopt;
}

#else

std::optional<double> MeasureFmaF32(int) { return std::nullopt; }

#endif

}  // namespace int4q_bench
