/*
 * Vector operations that Swift's SIMD types have no name for: conversions on any target, and x86 intrinsics where the
 * module that includes this is compiled for them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef INT4Q_VECTORS_H
#define INT4Q_VECTORS_H

#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define I4Q_VECTOR static inline __attribute__((always_inline))

typedef float i4q_f32x16 __attribute__((ext_vector_type(16)));
typedef double i4q_f64x16 __attribute__((ext_vector_type(16)));
typedef int32_t i4q_i32x16 __attribute__((ext_vector_type(16)));
typedef uint32_t i4q_u32x16 __attribute__((ext_vector_type(16)));
typedef uint16_t i4q_u16x16 __attribute__((ext_vector_type(16)));
typedef uint8_t i4q_u8x16 __attribute__((ext_vector_type(16)));

/* Conversions; to float and to integers as C converts (ties to even; integers truncate). */
I4Q_VECTOR i4q_f64x16 i4q_widen_f32(i4q_f32x16 v) { return __builtin_convertvector(v, i4q_f64x16); }
I4Q_VECTOR i4q_f32x16 i4q_narrow_f64(i4q_f64x16 v) { return __builtin_convertvector(v, i4q_f32x16); }
I4Q_VECTOR i4q_f32x16 i4q_float_from_i32(i4q_i32x16 v) { return __builtin_convertvector(v, i4q_f32x16); }
I4Q_VECTOR i4q_i32x16 i4q_truncate_f32(i4q_f32x16 v) { return __builtin_convertvector(v, i4q_i32x16); }
I4Q_VECTOR i4q_u32x16 i4q_widen_u16(i4q_u16x16 v) { return __builtin_convertvector(v, i4q_u32x16); }
I4Q_VECTOR i4q_u16x16 i4q_narrow_u32(i4q_u32x16 v) { return __builtin_convertvector(v, i4q_u16x16); }
I4Q_VECTOR i4q_u32x16 i4q_widen_u8(i4q_u8x16 v) { return __builtin_convertvector(v, i4q_u32x16); }
I4Q_VECTOR i4q_u8x16 i4q_narrow_u32_u8(i4q_u32x16 v) { return __builtin_convertvector(v, i4q_u8x16); }

/* sum + a * b in 32 lanes of 16 bits, two in each lane of 32; wraps around. (Swift's SIMD32 compiles to loops.) */
I4Q_VECTOR i4q_u32x16 i4q_multiply_add_i16(i4q_u32x16 sum, i4q_u32x16 a, i4q_u32x16 b) {
    typedef uint16_t u16x32 __attribute__((ext_vector_type(32)));
    return (i4q_u32x16)((u16x32)sum + (u16x32)a * (u16x32)b);
}

#if defined(__AVX2__)
I4Q_VECTOR __m256 i4q_avx2_fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
I4Q_VECTOR __m256i i4q_avx2_maddubs(__m256i u, __m256i s) { return _mm256_maddubs_epi16(u, s); }
I4Q_VECTOR __m256i i4q_avx2_madd(__m256i a, __m256i b) { return _mm256_madd_epi16(a, b); }
I4Q_VECTOR __m256 i4q_avx2_permute(__m256 table, __m256i index) { return _mm256_permutevar8x32_ps(table, index); }
I4Q_VECTOR __m256 i4q_avx2_select_by_sign(__m256 a, __m256 b, __m256 mask) { return _mm256_blendv_ps(a, b, mask); }
I4Q_VECTOR __m256 i4q_avx2_widen_half(__m128i h) { return _mm256_cvtph_ps(h); }
I4Q_VECTOR __m128i i4q_avx2_narrow_half(__m256 f) {
    return _mm256_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#endif

#if defined(__AVX512VNNI__)
I4Q_VECTOR __m512 i4q_avx512_fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
I4Q_VECTOR __m512 i4q_avx512_permute(__m512i index, __m512 table) { return _mm512_permutexvar_ps(index, table); }
I4Q_VECTOR __m512i i4q_avx512_dot(__m512i sum, __m512i u, __m512i s) { return _mm512_dpbusd_epi32(sum, u, s); }
I4Q_VECTOR __m512 i4q_avx512_widen_half(__m256i h) { return _mm512_cvtph_ps(h); }
I4Q_VECTOR __m256i i4q_avx512_narrow_half(__m512 f) {
    return _mm512_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#endif

#endif
