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

// Independent sums hide the instruction's latency. They start from different values: the compiler would compute equal ones
// once.
constexpr int kSums = 12;
constexpr int kRounds = 4'000'000;

// Not the intrinsic, around which GCC 12 copies every sum from register to register.
__attribute__((target("avx512f,avx512vnni"), always_inline)) inline __m512i AddDotProducts(
    __m512i sum, __m512i unsigned_bytes, __m512i signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
    return sum;
}

__attribute__((target("avx512f,avx512vnni"))) void DotProducts(int) {
    const __m512i unsigned_bytes = _mm512_set1_epi8(15);
    const __m512i signed_bytes = _mm512_set1_epi8(-127);
    __m512i sums[kSums];
    for (int i = 0; i < kSums; i++) sums[i] = _mm512_set1_epi32(i);
    for (int round = 0; round < kRounds; round++) {
        for (__m512i &sum : sums) sum = AddDotProducts(sum, unsigned_bytes, signed_bytes);
    }
    __m512i total = _mm512_setzero_si512();
    for (const __m512i &sum : sums) total = _mm512_xor_si512(total, sum);
    benchmark::DoNotOptimize(total);  // not of each sum, which would keep them in memory
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
