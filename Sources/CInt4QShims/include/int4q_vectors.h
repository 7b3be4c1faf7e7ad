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

typedef float i4q_f32x4_near __attribute__((ext_vector_type(4), aligned(4)));

/* Asks for a cache line that will be read soon. Any address is allowed: nothing is read by it. */
I4Q_VECTOR void i4q_prefetch(const void *address) { __builtin_prefetch(address, 0, 3); }
/* Into the second-level cache only. */
I4Q_VECTOR void i4q_prefetch_far(const void *address) { __builtin_prefetch(address, 0, 2); }

/* Conversions; to float and to integers as C converts (ties to even; integers truncate). */
I4Q_VECTOR i4q_f64x16 i4q_widen_f32(i4q_f32x16 v) { return __builtin_convertvector(v, i4q_f64x16); }
I4Q_VECTOR i4q_f32x16 i4q_narrow_f64(i4q_f64x16 v) { return __builtin_convertvector(v, i4q_f32x16); }
I4Q_VECTOR i4q_f32x16 i4q_float_from_i32(i4q_i32x16 v) { return __builtin_convertvector(v, i4q_f32x16); }
I4Q_VECTOR i4q_i32x16 i4q_truncate_f32(i4q_f32x16 v) { return __builtin_convertvector(v, i4q_i32x16); }
I4Q_VECTOR i4q_u32x16 i4q_widen_u16(i4q_u16x16 v) { return __builtin_convertvector(v, i4q_u32x16); }
I4Q_VECTOR i4q_u16x16 i4q_narrow_u32(i4q_u32x16 v) { return __builtin_convertvector(v, i4q_u16x16); }
I4Q_VECTOR i4q_u32x16 i4q_widen_u8(i4q_u8x16 v) { return __builtin_convertvector(v, i4q_u32x16); }
I4Q_VECTOR i4q_u8x16 i4q_narrow_u32_u8(i4q_u32x16 v) { return __builtin_convertvector(v, i4q_u8x16); }

/* Arithmetic that quantizing repeats for each value. Swift has all of it, as loops over lanes that become single instructions
 * only after the compiler has decided that a function with so many loops is too large to be inlined. */
I4Q_VECTOR i4q_f32x16 i4q_subtract(i4q_f32x16 a, i4q_f32x16 b) { return a - b; }
I4Q_VECTOR i4q_f32x16 i4q_pick_by_sign(i4q_f32x16 v, i4q_f32x16 below_zero, i4q_f32x16 others) { return v < 0 ? below_zero : others; }
I4Q_VECTOR i4q_f32x16 i4q_unless_zero(i4q_f32x16 scale, i4q_f32x16 v) { return scale == 0 ? 0 : v; }
/* The lanes before `count`, zeros behind. */
I4Q_VECTOR i4q_i32x16 i4q_first_lanes(i4q_i32x16 v, int64_t count) {
    const i4q_i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return lane < (int32_t)count ? v : 0;
}
I4Q_VECTOR i4q_f32x16 i4q_divide(i4q_f32x16 a, i4q_f32x16 b) { return a / b; }
/* NaN becomes `low`. */
I4Q_VECTOR i4q_f32x16 i4q_clip(i4q_f32x16 v, i4q_f32x16 low, i4q_f32x16 high) {
    const i4q_f32x16 below = v > high ? high : v;
    return below > low ? below : low;
}
I4Q_VECTOR i4q_f32x16 i4q_square_root(i4q_f32x16 v) { return __builtin_elementwise_sqrt(v); }
I4Q_VECTOR i4q_f32x16 i4q_smaller(i4q_f32x16 kept, i4q_f32x16 v) { return v < kept ? v : kept; }
I4Q_VECTOR i4q_f32x16 i4q_greater(i4q_f32x16 kept, i4q_f32x16 v) { return v > kept ? v : kept; }
I4Q_VECTOR i4q_u32x16 i4q_larger_magnitude(i4q_u32x16 kept, i4q_f32x16 v) {
    const i4q_u32x16 magnitude = (i4q_u32x16)v & 0x7fffffff;
    return magnitude > kept ? magnitude : kept;
}
/* `v` where its magnitude is larger than the bits of `largest`, else `kept`. */
I4Q_VECTOR i4q_f32x16 i4q_value_if_larger(i4q_u32x16 largest, i4q_f32x16 kept, i4q_f32x16 v) {
    const i4q_u32x16 magnitude = (i4q_u32x16)v & 0x7fffffff;
    return magnitude > largest ? v : kept;
}
/* `sum` plus `step` where v is above the limit. */
I4Q_VECTOR i4q_i32x16 i4q_step_above(i4q_i32x16 sum, i4q_f32x16 v, float limit, int32_t step) {
    const i4q_i32x16 is_above = v > (i4q_f32x16)limit;
    return sum + (is_above & (i4q_i32x16)step);
}
/* In 16 lanes: codes and values are [16][16], what lanes get that are above no limit, the first of [15][16] limits, the second ...
 * Codes go to `code`, aligned to 64. In a loop, for the sake of size. */
I4Q_VECTOR i4q_f32x16 i4q_climb_lanes(const void *limits, const void *codes, const void *values, i4q_f32x16 v, void *code) {
    const i4q_f32x16 *limit = (const i4q_f32x16 *)limits, *next_value = (const i4q_f32x16 *)values;
    const i4q_i32x16 *next_code = (const i4q_i32x16 *)codes;
    i4q_f32x16 value = next_value[0];
    i4q_i32x16 chosen = next_code[0];
#pragma clang loop unroll(disable)
    for (int i = 0; i < 15; i++) {
        const i4q_i32x16 above = v > limit[i];
        chosen = above ? next_code[i + 1] : chosen;
        value = above ? next_value[i + 1] : value;
    }
    *(i4q_i32x16 *)code = chosen;
    return value;
}
/* Of all lanes. */
I4Q_VECTOR uint32_t i4q_largest_lane(i4q_u32x16 v) { return __builtin_reduce_max(v); }
I4Q_VECTOR int32_t i4q_sum_of_lanes(i4q_i32x16 v) { return __builtin_reduce_add(v); }
/* The low bytes of lanes k0 k1 .. k7 as k0 k4 k1 k5 k2 k6 k3 k7, twice. */
I4Q_VECTOR i4q_u8x16 i4q_interleaved_bytes(i4q_i32x16 v) {
    const i4q_u8x16 bytes = __builtin_convertvector(v, i4q_u8x16);
    return __builtin_shufflevector(bytes, bytes, 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
}
/* v, or 0 from the limit on. NaN becomes 0. */
I4Q_VECTOR i4q_f32x16 i4q_below(i4q_f32x16 v, float limit) { return v < (i4q_f32x16)limit ? v : (i4q_f32x16)0.0f; }
I4Q_VECTOR i4q_i32x16 i4q_clip_codes(i4q_i32x16 v, i4q_i32x16 low, i4q_i32x16 high) {
    const i4q_i32x16 below = v > high ? high : v;
    return below > low ? below : low;
}
/* lanes[0..15] -= v[0..15] * factor in binary64, and sums[0..15] += v[0..15]^2; aligned to 64. In binary64 the product of two binary32
 * is exact, so that fusing would change nothing. */
I4Q_VECTOR void i4q_subtract_product(double *lanes, const float *v, float factor) {
#pragma clang loop unroll(disable)
    for (int i = 0; i < 16; i += 4) {
        typedef double f64x4 __attribute__((ext_vector_type(4), aligned(8)));
        const f64x4 product = __builtin_convertvector(*(const i4q_f32x4_near *)(v + i), f64x4) * (double)factor;
        *(f64x4 *)(lanes + i) -= product;
    }
}
I4Q_VECTOR void i4q_add_squares(double *sums, const double *v) {
#pragma clang loop unroll(disable)
    for (int i = 0; i < 16; i++) {
        const double square = v[i] * v[i]; /* a statement of its own: not to be fused */
        sums[i] += square;
    }
}
/* sums[0..15] += weight * v[0..15]^2 */
I4Q_VECTOR void i4q_add_weighted_squares(double *sums, const float *v, double weight) {
#pragma clang loop unroll(disable)
    for (int i = 0; i < 16; i++) {
        const double square = (double)v[i] * v[i], term = weight * square;
        sums[i] += term;
    }
}
/* sums[0..15] += v, or v * v, in binary64; aligned to 64. */
typedef double i4q_doubles __attribute__((ext_vector_type(16), aligned(64)));
I4Q_VECTOR void i4q_add_lanes(double *sums, i4q_f32x16 v) { *(i4q_doubles *)sums += __builtin_convertvector(v, i4q_f64x16); }
I4Q_VECTOR void i4q_add_squares_of_lanes(double *sums, i4q_f32x16 v) {
    const i4q_f64x16 wide = __builtin_convertvector(v, i4q_f64x16);
    *(i4q_doubles *)sums += wide * wide; /* the square of a binary32 is exact, so that fusing would change nothing */
}
I4Q_VECTOR i4q_u32x16 i4q_insert_code(i4q_u32x16 row, i4q_i32x16 code, uint32_t shift) { return row | (i4q_u32x16)code << shift; }
/* Half to even, plus `zero`; |v| below 2^22. 12582912 is 1.5 * 2^23: the sum's unit in the last place is 1. */
I4Q_VECTOR i4q_u32x16 i4q_round_and_add(i4q_f32x16 v, i4q_i32x16 zero) {
    return (i4q_u32x16)((i4q_i32x16)(v + 12582912.0f) - 0x4b400000 + zero);
}
/* Eight codes of a lane, k 0..7: 0 2 4 6 in the low half, 1 3 5 7 in the high half. */
I4Q_VECTOR i4q_u32x16 i4q_join_nibbles(i4q_u32x16 k0, i4q_u32x16 k1, i4q_u32x16 k2, i4q_u32x16 k3, i4q_u32x16 k4,
                                       i4q_u32x16 k5, i4q_u32x16 k6, i4q_u32x16 k7) {
    return (k0 | k2 << 4 | k4 << 8 | k6 << 12) | (k1 | k3 << 4 | k5 << 8 | k7 << 12) << 16;
}

/* Eight codes of each of 16 lanes, `packed`, become floats, each lane's through its own table: values of k 0..7, `stride` bytes
 * apart. tables: [16 entries][16 lanes], aligned to 64 like all that is pointed at. Each bit of a code, moved to the sign, chooses
 * between halves of what is left. In a loop: written out eight times it is 20 KB with SSE2. */
I4Q_VECTOR void i4q_decode_lanes(const void *packed, const void *tables, void *values, int64_t stride) {
    const i4q_f32x16 *entries = (const i4q_f32x16 *)tables;
    i4q_u32x16 word = *(const i4q_u32x16 *)packed;
#pragma clang loop unroll(disable)
    for (int i = 0; i < 8; i++) {
        const i4q_i32x16 bit0 = (i4q_i32x16)(word << 31), bit1 = (i4q_i32x16)(word << 30);
        const i4q_i32x16 bit2 = (i4q_i32x16)(word << 29), bit3 = (i4q_i32x16)(word << 28);
        i4q_f32x16 left[4];
#pragma clang loop unroll(full)
        for (int j = 0; j < 4; j++) {
            const i4q_f32x16 low = bit0 < 0 ? entries[4 * j + 1] : entries[4 * j];
            const i4q_f32x16 high = bit0 < 0 ? entries[4 * j + 3] : entries[4 * j + 2];
            left[j] = bit1 < 0 ? high : low;
        }
        const i4q_f32x16 low = bit2 < 0 ? left[1] : left[0], high = bit2 < 0 ? left[3] : left[2];
        /* A lane's lower half holds k 0, 2, 4, 6, its upper half 1, 3, 5, 7. */
        *(i4q_f32x16 *)((char *)values + (i < 4 ? 2 * i : 2 * i - 7) * stride) = bit3 < 0 ? high : low;
        word >>= 4;
    }
}

/* Transposes 16 x 16 floats: columns 4 c .. 4 c + 3 of all rows are read so that four registers have a square of 4 x 4 in each quarter, which
 * two rounds of zipping turn. (Quarters are put together as they are read; four rounds on whole rows took 2.6 to 4 times as long.) Here, and not in
 * Swift, since there the compiler leaves the rounds as loops over memory. `target` is aligned to 64 and does not overlap the source. */
I4Q_VECTOR void i4q_transpose_f32x16(const void *source, int64_t row_bytes, void *target) {
    typedef float f32x8 __attribute__((ext_vector_type(8)));
#pragma clang loop unroll(full)
    for (int column = 0; column < 16; column += 4) {
        i4q_f32x16 rows[4], zipped[4];
#pragma clang loop unroll(full)
        for (int i = 0; i < 4; i++) { /* rows i, i + 4, i + 8, i + 12 */
            const char *const row = (const char *)source + i * row_bytes + column * 4;
            const f32x8 low = __builtin_shufflevector(*(const i4q_f32x4_near *)row, *(const i4q_f32x4_near *)(row + 4 * row_bytes),
                                                      0, 1, 2, 3, 4, 5, 6, 7);
            const f32x8 high = __builtin_shufflevector(*(const i4q_f32x4_near *)(row + 8 * row_bytes),
                                                       *(const i4q_f32x4_near *)(row + 12 * row_bytes), 0, 1, 2, 3, 4, 5, 6, 7);
            rows[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < 4; i += 2) {
            const i4q_f32x16 a = rows[i], b = rows[i + 1];
            zipped[i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
            zipped[i + 1] = __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < 2; i++) {
            const i4q_f32x16 a = zipped[i], b = zipped[i + 2];
            i4q_f32x16 *const columns = (i4q_f32x16 *)target + column + 2 * i;
            columns[0] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
            columns[1] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        }
    }
}

/* sum + a * b in 32 lanes of 16 bits, two in each lane of 32; wraps around. (Swift's SIMD32 compiles to loops.) */
I4Q_VECTOR i4q_u32x16 i4q_multiply_add_i16(i4q_u32x16 sum, i4q_u32x16 a, i4q_u32x16 b) {
    typedef uint16_t u16x32 __attribute__((ext_vector_type(32)));
    return (i4q_u32x16)((u16x32)sum + (u16x32)a * (u16x32)b);
}

/* ---- Runs of floats whose length is a multiple of 16, aligned to 64 (those that are added: to 4); for code that is the same on every processor, which is
 * compiled for the least of them: vectors of 16 bytes wherever one is an argument ---- */

/* lanes[i] += floats[i], floats[16 + i] ... in binary64. `lanes` is aligned to 64. */
I4Q_VECTOR void i4q_add_run(const float *floats, int64_t count, double *lanes) {
    typedef float unaligned __attribute__((ext_vector_type(16), aligned(4)));
    typedef double of_64_bytes __attribute__((ext_vector_type(16), aligned(64)));
    i4q_f64x16 sum = *(const of_64_bytes *)lanes;
    for (int64_t i = 0; i < count; i += 16) sum += __builtin_convertvector(*(const unaligned *)(floats + i), i4q_f64x16);
    *(of_64_bytes *)lanes = sum;
}

/* The same of squared distances from the mean. */
I4Q_VECTOR void i4q_add_squares_of_run(const float *floats, int64_t count, double mean, double *lanes) {
    typedef float unaligned __attribute__((ext_vector_type(16), aligned(4)));
    typedef double of_64_bytes __attribute__((ext_vector_type(16), aligned(64)));
    i4q_f64x16 sum = *(const of_64_bytes *)lanes;
    for (int64_t i = 0; i < count; i += 16) {
        const i4q_f64x16 distance = __builtin_convertvector(*(const unaligned *)(floats + i), i4q_f64x16) - mean;
        const i4q_f64x16 square = distance * distance; /* a statement of its own: not to be fused */
        sum += square;
    }
    *(of_64_bytes *)lanes = sum;
}

typedef float i4q_f32x4 __attribute__((ext_vector_type(4)));
typedef int32_t i4q_i32x4 __attribute__((ext_vector_type(4)));

/* Subtracts the offset from each float; the bits of the largest magnitude then (NaN counts as larger than infinity). */
I4Q_VECTOR uint32_t i4q_shift_run(float *floats, int64_t count, float offset) {
    i4q_i32x4 largest = 0;
    for (int64_t i = 0; i < count; i += 4) {
        const i4q_f32x4 shifted = *(const i4q_f32x4 *)(floats + i) - offset;
        *(i4q_f32x4 *)(floats + i) = shifted;
        const i4q_i32x4 magnitude = (i4q_i32x4)shifted & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    int32_t result = 0;
    for (int i = 0; i < 4; i++) result = largest[i] > result ? largest[i] : result;
    return (uint32_t)result;
}

/* A twin-range quantizer: see int4q_twin_ranges in the public header. */
typedef struct i4q_twin {
    float first;
    float second;
    float split; /* SOFTMAX: the largest value of the first range */
    int32_t is_gelu;
    int32_t by_error;
} i4q_twin;

/* v / step, clipped to low..7 and rounded half to even: 12582912 is 1.5 * 2^23. */
I4Q_VECTOR i4q_f32x4 i4q_steps(i4q_f32x4 v, i4q_f32x4 step, float low) {
    const i4q_f32x4 quotient = v / step, most = (i4q_f32x4)7.0f, least = (i4q_f32x4)low;
    const i4q_f32x4 below = quotient > most ? most : quotient;
    const i4q_f32x4 within = below > least ? below : least;
    return (within + 12582912.0f) - 12582912.0f;
}

/* How many steps each value takes, in the range that `second` (all ones: the second) says. The two flags are the twin's, as
 * constants where loops want to be rid of them. */
I4Q_VECTOR i4q_f32x4 i4q_twin_steps(const i4q_twin *twin, int is_gelu, int by_error, i4q_f32x4 v, i4q_i32x4 *second) {
    const i4q_f32x4 first_step = (i4q_f32x4)twin->first, second_step = (i4q_f32x4)twin->second;
    if (is_gelu || !by_error) {
        *second = is_gelu ? v >= (i4q_f32x4)0.0f : v > (i4q_f32x4)twin->split;
        return i4q_steps(v, *second ? second_step : first_step, is_gelu ? -8.0f : 0.0f);
    }
    const i4q_f32x4 fine = i4q_steps(v, first_step, 0), coarse = i4q_steps(v, second_step, 0);
    const i4q_f32x4 fine_value = fine * first_step, coarse_value = coarse * second_step;
    const i4q_f32x4 fine_error = v - fine_value, coarse_error = v - coarse_value;
    *second = coarse_error * coarse_error < fine_error * fine_error;
    return *second ? coarse : fine;
}

I4Q_VECTOR double i4q_twin_error_of_kind(const i4q_twin *twin, int is_gelu, int by_error, const float *floats, int64_t count) {
    const i4q_twin copy = *twin;
    i4q_f32x4 sum = (i4q_f32x4)0.0f;
    for (int64_t i = 0; i < count; i += 4) {
        const i4q_f32x4 v = *(const i4q_f32x4 *)(floats + i);
        i4q_i32x4 second;
        const i4q_f32x4 steps = i4q_twin_steps(&copy, is_gelu, by_error, v, &second);
        const i4q_f32x4 value = steps * (second ? (i4q_f32x4)copy.second : (i4q_f32x4)copy.first);
        const i4q_f32x4 error = v - value;
        const i4q_f32x4 square = error * error;
        sum += square;
    }
    return ((double)sum[0] + (double)sum[1]) + ((double)sum[2] + (double)sum[3]);
}

/* The sum of squared errors: binary32 over the run in each of four lanes, then binary64. */
I4Q_VECTOR double i4q_twin_error_of_run(const i4q_twin *twin, const float *floats, int64_t count) {
    if (twin->is_gelu) return i4q_twin_error_of_kind(twin, 1, 0, floats, count);
    if (twin->by_error) return i4q_twin_error_of_kind(twin, 0, 1, floats, count);
    return i4q_twin_error_of_kind(twin, 0, 0, floats, count);
}

I4Q_VECTOR i4q_f32x4 i4q_twin_codes(const i4q_twin *twin, int is_gelu, int by_error, const float *floats) {
    const i4q_f32x4 eight = (i4q_f32x4)8.0f;
    i4q_i32x4 second;
    const i4q_f32x4 steps = i4q_twin_steps(twin, is_gelu, by_error, *(const i4q_f32x4 *)floats, &second);
    return steps + (is_gelu ? eight : (i4q_f32x4)(second & (i4q_i32x4)eight));
}

I4Q_VECTOR void i4q_twin_encode_kind(const i4q_twin *twin, int is_gelu, int by_error, const float *floats, int64_t count,
                                     uint8_t *codes) {
    typedef uint8_t u8x4 __attribute__((ext_vector_type(4)));
    const i4q_twin copy = *twin;
    for (int64_t i = 0; i < count; i += 8) {
        const i4q_f32x4 a = i4q_twin_codes(&copy, is_gelu, by_error, floats + i);
        const i4q_f32x4 b = i4q_twin_codes(&copy, is_gelu, by_error, floats + i + 4);
        const i4q_f32x4 even = __builtin_shufflevector(a, b, 0, 2, 4, 6), odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
        const i4q_i32x4 pairs = __builtin_convertvector(even + 16.0f * odd, i4q_i32x4); /* whole numbers up to 255 */
        const u8x4 bytes = __builtin_convertvector(pairs, u8x4);
        __builtin_memcpy(codes + i / 2, &bytes, 4);
    }
}

/* Codes, two to a byte, low nibble first: count / 2 bytes. */
I4Q_VECTOR void i4q_twin_encode_run(const i4q_twin *twin, const float *floats, int64_t count, uint8_t *codes) {
    if (twin->is_gelu) i4q_twin_encode_kind(twin, 1, 0, floats, count, codes);
    else if (twin->by_error) i4q_twin_encode_kind(twin, 0, 1, floats, count, codes);
    else i4q_twin_encode_kind(twin, 0, 0, floats, count, codes);
}

/* The first float from `from` on that is below `low` or above `high`; `count` if there is none. */
I4Q_VECTOR int64_t i4q_next_outside(const float *floats, int64_t from, int64_t count, float low, float high) {
    int64_t i = from;
    for (; i < count && i % 16 != 0; i++)
        if (floats[i] < low || floats[i] > high) return i;
    for (; i + 16 <= count; i += 16) {
        i4q_i32x4 outside = 0;
        for (int j = 0; j < 16; j += 4) {
            const i4q_f32x4 v = *(const i4q_f32x4 *)(floats + i + j);
            outside |= (v < (i4q_f32x4)low) | (v > (i4q_f32x4)high);
        }
        if (outside[0] | outside[1] | outside[2] | outside[3]) break;
    }
    for (; i < count; i++)
        if (floats[i] < low || floats[i] > high) return i;
    return count;
}

/* ---- Observers: statistics of runs of floats, all of them finite; `floats` need not be aligned beyond its elements ---- */
typedef float i4q_f32x4_anywhere __attribute__((ext_vector_type(4), aligned(4)));

/* The bins of a histogram of 2 * bins bins around zero: bins + floor(|v| * scale) for v >= 0, and its mirror image below. The
 * products must be below `bins`. */
I4Q_VECTOR int32_t i4q_bin_of(float v, float scale, int32_t bins) {
    const int32_t bin = (int32_t)(__builtin_fabsf(v) * scale);
    return bins + (v < 0 ? ~bin : bin);
}
I4Q_VECTOR void i4q_bins_of_run(const float *floats, int64_t count, float scale, int32_t bins, int32_t *indices) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const i4q_f32x4 v = *(const i4q_f32x4_anywhere *)(floats + i);
        const i4q_i32x4 below = v < (i4q_f32x4)0.0f;
        const i4q_f32x4 magnitude = (i4q_f32x4)((i4q_i32x4)v & 0x7fffffff);
        *(i4q_i32x4 *)(indices + i) = (__builtin_convertvector(magnitude * scale, i4q_i32x4) ^ below) + bins;
    }
    for (; i < count; i++) indices[i] = i4q_bin_of(floats[i], scale, bins);
}

/* The same for one element of each of 16 histograms that follow one another, each with a scale of its own. */
I4Q_VECTOR void i4q_bins_of_columns(const float *floats, const float *scales, int32_t bins, int32_t *indices) {
    i4q_i32x4 zero = {bins, 3 * bins, 5 * bins, 7 * bins};
    for (int64_t i = 0; i < 16; i += 4) {
        const i4q_f32x4 v = *(const i4q_f32x4_anywhere *)(floats + i);
        const i4q_i32x4 below = v < (i4q_f32x4)0.0f;
        const i4q_f32x4 magnitude = (i4q_f32x4)((i4q_i32x4)v & 0x7fffffff);
        const i4q_f32x4 scale = *(const i4q_f32x4_anywhere *)(scales + i);
        *(i4q_i32x4 *)(indices + i) = (__builtin_convertvector(magnitude * scale, i4q_i32x4) ^ below) + zero;
        zero += 8 * bins;
    }
}

/* Adds the run's sum, sum of magnitudes and sum of squares; element i belongs to partial sum i % 4. */
I4Q_VECTOR void i4q_add_moments_of_run(const float *floats, int64_t count, double *sum, double *magnitudes, double *squares) {
    typedef double f64x4 __attribute__((ext_vector_type(4)));
    f64x4 sums = 0, magnitude_sums = 0, square_sums = 0;
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const f64x4 v = __builtin_convertvector(*(const i4q_f32x4_anywhere *)(floats + i), f64x4);
        const f64x4 square = v * v; /* a statement of its own: not to be fused */
        sums += v;
        magnitude_sums += __builtin_elementwise_abs(v);
        square_sums += square;
    }
    for (int lane = 0; i < count; i++, lane++) {
        const double v = floats[i];
        const double square = v * v;
        sums[lane] += v;
        magnitude_sums[lane] += __builtin_fabs(v);
        square_sums[lane] += square;
    }
    *sum += (sums[0] + sums[1]) + (sums[2] + sums[3]);
    *magnitudes += (magnitude_sums[0] + magnitude_sums[1]) + (magnitude_sums[2] + magnitude_sums[3]);
    *squares += (square_sums[0] + square_sums[1]) + (square_sums[2] + square_sums[3]);
}

/* The same for each element's own sums. */
I4Q_VECTOR void i4q_add_moments_of_each(const float *floats, int64_t count, double *sums, double *magnitudes, double *squares) {
#pragma clang loop vectorize(enable) interleave(enable)
    for (int64_t i = 0; i < count; i++) {
        const double v = floats[i];
        const double square = v * v;
        sums[i] += v;
        magnitudes[i] += __builtin_fabs(v);
        squares[i] += square;
    }
}

/* Sums, sums of magnitudes and largest magnitudes of 16 columns that stand side by side, row after row. */
I4Q_VECTOR void i4q_add_channels(const float *floats, int64_t rows, double *sums, double *magnitudes, float *maxima) {
#pragma clang loop unroll(disable)
    for (int64_t row = 0; row < rows; row++) {
#pragma clang loop unroll(disable)
        for (int i = 0; i < 16; i += 4) {
            typedef double f64x4 __attribute__((ext_vector_type(4), aligned(8)));
            const i4q_f32x4 v = *(const i4q_f32x4_anywhere *)(floats + 16 * row + i);
            const i4q_f32x4 magnitude = __builtin_elementwise_abs(v), largest = *(const i4q_f32x4_anywhere *)(maxima + i);
            *(f64x4 *)(sums + i) += __builtin_convertvector(v, f64x4);
            *(f64x4 *)(magnitudes + i) += __builtin_convertvector(magnitude, f64x4);
            *(i4q_f32x4_anywhere *)(maxima + i) = magnitude > largest ? magnitude : largest;
        }
    }
}

/* Each element's least and largest so far; negative zeros count as positive ones. */
I4Q_VECTOR void i4q_extremes_of_each(const float *floats, int64_t count, float *lows, float *highs) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const i4q_f32x4 v = *(const i4q_f32x4_anywhere *)(floats + i) + 0.0f;
        const i4q_f32x4 low = *(const i4q_f32x4_anywhere *)(lows + i), high = *(const i4q_f32x4_anywhere *)(highs + i);
        *(i4q_f32x4_anywhere *)(lows + i) = v < low ? v : low;
        *(i4q_f32x4_anywhere *)(highs + i) = v > high ? v : high;
    }
    for (; i < count; i++) {
        const float v = floats[i] + 0.0f;
        if (v < lows[i]) lows[i] = v;
        if (v > highs[i]) highs[i] = v;
    }
}

/* The least and the largest of each column of an even number of rows. As many streams as there are rows keep memory busy.
 * `count` is a multiple of 8. Nonzero if all values are finite; only then the result counts. */
I4Q_VECTOR int32_t i4q_extremes_of_rows(const float *floats, int64_t row_bytes, int64_t rows, int64_t count, float *lows,
                                        float *highs) {
    typedef float f32x8 __attribute__((ext_vector_type(8)));
    typedef float f32x8_anywhere __attribute__((ext_vector_type(8), aligned(4)));
    f32x8 nothing = 0; /* stays zero unless a value minus itself is NaN */
    for (int64_t i = 0; i < count; i += 8) {
        const char *place = (const char *)(floats + i);
        f32x8 low = *(const f32x8_anywhere *)place, high = low;
        for (int64_t row = 0; row < rows; row += 2, place += 2 * row_bytes) {
            const f32x8 v = *(const f32x8_anywhere *)place, w = *(const f32x8_anywhere *)(place + row_bytes);
            const f32x8 smaller = v < w ? v : w, larger = v > w ? v : w;
            low = smaller < low ? smaller : low;
            high = larger > high ? larger : high;
            nothing += (v - v) + (w - w);
        }
        *(f32x8_anywhere *)(lows + i) = low;
        *(f32x8_anywhere *)(highs + i) = high;
    }
    int32_t is_finite = 1;
    for (int lane = 0; lane < 8; lane++) is_finite &= nothing[lane] == 0;
    return is_finite;
}

/* floats[i] *= the scale of its sign. */
I4Q_VECTOR void i4q_twin_scale_run(float *floats, int64_t count, float negative, float positive) {
    for (int64_t i = 0; i < count; i += 4) {
        const i4q_f32x4 v = *(const i4q_f32x4 *)(floats + i);
        const i4q_i32x4 below = v < (i4q_f32x4)0.0f;
        *(i4q_f32x4 *)(floats + i) = v * (below ? (i4q_f32x4)negative : (i4q_f32x4)positive);
    }
}

/* ---- Block formats: as many lanes as one register has. Each operation rounds by itself, also where one instruction could do
 * two: other projects' results are matched to the bit. Masks are all ones or zeros in each lane. ---- */
#if defined(__AVX512F__)
#define I4Q_SLICE 16
#elif defined(__AVX2__)
#define I4Q_SLICE 8
#else
#define I4Q_SLICE 4
#endif
typedef float i4q_slice __attribute__((ext_vector_type(I4Q_SLICE)));
typedef int32_t i4q_slice_mask __attribute__((ext_vector_type(I4Q_SLICE)));

I4Q_VECTOR i4q_slice i4q_plus(i4q_slice a, i4q_slice b) { return a + b; }
I4Q_VECTOR i4q_slice i4q_minus(i4q_slice a, i4q_slice b) { return a - b; }
I4Q_VECTOR i4q_slice i4q_times(i4q_slice a, i4q_slice b) { return a * b; }
I4Q_VECTOR i4q_slice i4q_over(i4q_slice a, i4q_slice b) { return a / b; }
I4Q_VECTOR i4q_slice i4q_plus_product(i4q_slice sum, i4q_slice a, i4q_slice b) {
#pragma clang fp contract(off)
    const i4q_slice product = a * b;
    return sum + product;
}
I4Q_VECTOR i4q_slice i4q_root(i4q_slice v) { return __builtin_elementwise_sqrt(v); }
I4Q_VECTOR i4q_slice i4q_abs(i4q_slice v) { return (i4q_slice)((i4q_slice_mask)v & 0x7fffffff); }
I4Q_VECTOR i4q_slice_mask i4q_above(i4q_slice a, i4q_slice b) { return (i4q_slice_mask)(a > b); }
I4Q_VECTOR i4q_slice_mask i4q_not(i4q_slice_mask mask) { return ~mask; }
I4Q_VECTOR i4q_slice_mask i4q_both(i4q_slice_mask a, i4q_slice_mask b) { return a & b; }
I4Q_VECTOR i4q_slice i4q_pick(i4q_slice_mask mask, i4q_slice yes, i4q_slice no) {
    return (i4q_slice)(((i4q_slice_mask)yes & mask) | ((i4q_slice_mask)no & ~mask));
}
I4Q_VECTOR i4q_slice i4q_least(i4q_slice kept, i4q_slice v) { return v < kept ? v : kept; }
I4Q_VECTOR i4q_slice i4q_most(i4q_slice kept, i4q_slice v) { return v > kept ? v : kept; }
/* NaN becomes `low`. */
I4Q_VECTOR i4q_slice i4q_bounded(i4q_slice v, float low, float high) {
    const i4q_slice least = low, most = high, below = v > most ? most : v;
    return below > least ? below : least;
}
/* Half to even, for |v| below 2^22; beyond, 22 bits of whatever the sum's bits are, which is what ggml's nearest_int gives. */
I4Q_VECTOR i4q_slice i4q_nearest(i4q_slice v) {
    const i4q_slice_mask bits = (i4q_slice_mask)(v + 12582912.0f);
    return __builtin_convertvector((bits & 0x7fffff) - 0x400000, i4q_slice);
}
/* Rounded to binary16, half to even; beyond its range infinite. */
I4Q_VECTOR i4q_slice i4q_half(i4q_slice v) {
    const i4q_slice_mask bits = (i4q_slice_mask)v, sign = bits & (int32_t)0x80000000, magnitude = bits & 0x7fffffff;
    const i4q_slice_mask normal = (magnitude + 0xfff + ((magnitude >> 13) & 1)) & ~0x1fff;
    /* The sum with 0.5 has binary16's smallest step as its unit in the last place. */
    const i4q_slice raised = (i4q_slice)magnitude + 0.5f, subnormal = raised - 0.5f;
    const i4q_slice_mask small = (i4q_slice_mask)(magnitude < 0x38800000), large = (i4q_slice_mask)(normal > 0x477fe000);
    const i4q_slice_mask finite = (normal & ~small) | ((i4q_slice_mask)subnormal & small);
    const i4q_slice_mask infinite = magnitude > 0x7f800000 ? magnitude : 0x7f800000 + (magnitude & 0);
    return (i4q_slice)(sign | (finite & ~large) | (infinite & large));
}
/* Adds to `sum` the steps of all bounds that v reaches; NaN reaches none. */
I4Q_VECTOR i4q_slice i4q_climb(i4q_slice sum, i4q_slice v, const float *bounds, const float *steps) {
    const i4q_slice none = 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < 15; i++) {
        const i4q_slice step = steps[i];
        sum += v >= bounds[i] ? step : none;
    }
    return sum;
}
/* ggml's IQ4_NL: the value nearest to v, ties upwards; and its code. */
static const float i4q_iq4nl_bounds[15] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};
static const float i4q_iq4nl_steps[15] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};
static const float i4q_ones[15] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
I4Q_VECTOR i4q_slice i4q_iq4nl_value(i4q_slice v) { return i4q_climb((i4q_slice)-127.0f, v, i4q_iq4nl_bounds, i4q_iq4nl_steps); }
I4Q_VECTOR i4q_slice i4q_iq4nl_code(i4q_slice v) { return i4q_climb((i4q_slice)0.0f, v, i4q_iq4nl_bounds, i4q_ones); }
/* E2M1, its values doubled: the nearest to v / scale, ties to the smaller magnitude; or with `is_code` its code. */
I4Q_VECTOR i4q_slice i4q_e2m1(i4q_slice v, i4q_slice scale, int is_code) {
    static const float bounds[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10}, steps[7] = {1, 1, 1, 1, 2, 2, 4};
    const i4q_slice magnitude = i4q_abs(v), none = 0, eight = 8;
    i4q_slice sum = 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < 7; i++) {
        const i4q_slice step = is_code ? 1 : steps[i];
        sum += magnitude > scale * bounds[i] ? step : none;
    }
    if (!is_code) return v < 0 ? -sum : sum;
    const i4q_slice signed_code = sum + (v < 0 ? eight : none);
    return sum > 0 ? signed_code : none;
}
/* The code by trying all 16 values in order, the first of the smallest errors as they are rounded: as ggml does. Differs where
 * values are far beyond the scale's, and for a scale of zero. */
I4Q_VECTOR i4q_slice i4q_e2m1_tried(i4q_slice v, i4q_slice scale) {
#pragma clang fp contract(off)
    static const float values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    i4q_slice best = 0, error = i4q_abs(v);
#pragma clang loop unroll(disable)
    for (int i = 1; i < 16; i++) {
        const i4q_slice product = scale * values[i], code = (float)i;
        const i4q_slice tried = i4q_abs(product - v);
        best = tried < error ? code : best;
        error = tried < error ? tried : error;
    }
    return best;
}
/* Four codes of each lane, of rows 64 bytes apart, as the bytes of a word. */
I4Q_VECTOR void i4q_join_codes(const void *levels, void *words) {
    typedef uint32_t u32 __attribute__((ext_vector_type(I4Q_SLICE)));
    u32 word = 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
        const i4q_slice level = *(const i4q_slice *)((const char *)levels + 64 * i);
        word |= (u32)__builtin_convertvector(level, i4q_slice_mask) << (8 * i);
    }
    *(u32 *)words = word;
}
/* Four values of each of four lanes, to rows 64 bytes apart. */
I4Q_VECTOR void i4q_transpose_4x4(const float *a, const float *b, const float *c, const float *d, float *target) {
    typedef float f32x4 __attribute__((ext_vector_type(4)));
    typedef float unaligned __attribute__((ext_vector_type(4), aligned(4)));
    const f32x4 r0 = *(const unaligned *)a, r1 = *(const unaligned *)b, r2 = *(const unaligned *)c, r3 = *(const unaligned *)d;
    const f32x4 low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    const f32x4 high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7), high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    *(f32x4 *)target = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
    *(f32x4 *)(target + 16) = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
    *(f32x4 *)(target + 32) = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
    *(f32x4 *)(target + 48) = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}

#if defined(__AVX2__)
I4Q_VECTOR __m256 i4q_avx2_fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
I4Q_VECTOR __m256i i4q_avx2_maddubs(__m256i u, __m256i s) { return _mm256_maddubs_epi16(u, s); }
I4Q_VECTOR __m256i i4q_avx2_madd(__m256i a, __m256i b) { return _mm256_madd_epi16(a, b); }
I4Q_VECTOR __m256 i4q_avx2_permute(__m256 table, __m256i index) { return _mm256_permutevar8x32_ps(table, index); }
I4Q_VECTOR __m256 i4q_avx2_select_by_sign(__m256 a, __m256 b, __m256 mask) { return _mm256_blendv_ps(a, b, mask); }
I4Q_VECTOR __m256i i4q_avx2_lookup_bytes(__m256i table, __m256i index) { return _mm256_shuffle_epi8(table, index); }
I4Q_VECTOR __m256i i4q_avx2_abs_bytes(__m256i v) { return _mm256_abs_epi8(v); }
I4Q_VECTOR __m256i i4q_avx2_sign_bytes(__m256i v, __m256i signs) { return _mm256_sign_epi8(v, signs); }
I4Q_VECTOR __m256 i4q_avx2_widen_half(__m128i h) { return _mm256_cvtph_ps(h); }
I4Q_VECTOR __m128i i4q_avx2_narrow_half(__m256 f) {
    return _mm256_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* i4q_decode_lanes() with columns: [16 lanes][16 entries]. Two permutations and a choice by the fourth bit look up k 0..7 of one
 * lane; what is left is to transpose 8 x 8, twice. */
I4Q_VECTOR void i4q_avx2_decode_lanes(const void *packed, const void *columns, void *values, int64_t stride) {
    const __m256i shifts = _mm256_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28);
#pragma clang loop unroll(disable)
    for (int half = 0; half < 2; half++) {
        const int32_t *words = (const int32_t *)packed + 8 * half;
        const float *tables = (const float *)columns + 128 * half;
        char *const at = (char *)values + 32 * half;
        __m256 rows[8], pairs[8];
#pragma clang loop unroll(full)
        for (int i = 0; i < 8; i++) {
            const __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32(words[i]), shifts);
            const __m256 low = _mm256_permutevar8x32_ps(*(const __m256 *)(tables + 16 * i), index);
            const __m256 high = _mm256_permutevar8x32_ps(*(const __m256 *)(tables + 16 * i + 8), index);
            rows[i] = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < 8; i += 4) {
            const __m256 a = _mm256_unpacklo_ps(rows[i], rows[i + 1]), b = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
            const __m256 c = _mm256_unpackhi_ps(rows[i], rows[i + 1]), d = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
            pairs[i] = _mm256_shuffle_ps(a, b, 0x44); /* k 0 and, in the upper half, 4 */
            pairs[i + 1] = _mm256_shuffle_ps(a, b, 0xee);
            pairs[i + 2] = _mm256_shuffle_ps(c, d, 0x44);
            pairs[i + 3] = _mm256_shuffle_ps(c, d, 0xee);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < 4; i++) {
            *(__m256 *)(at + i * stride) = _mm256_permute2f128_ps(pairs[i], pairs[i + 4], 0x20);
            *(__m256 *)(at + (i + 4) * stride) = _mm256_permute2f128_ps(pairs[i], pairs[i + 4], 0x31);
        }
    }
}
#endif

#if defined(I4Q_AVXVNNI_AS_AVX512) /* for tests where AVX-512 has the instruction in its own encoding only */
I4Q_VECTOR __m256i i4q_avxvnni_dot(__m256i sum, __m256i u, __m256i s) { return _mm256_dpbusd_epi32(sum, u, s); }
#elif defined(__AVXVNNI__)
I4Q_VECTOR __m256i i4q_avxvnni_dot(__m256i sum, __m256i u, __m256i s) { return _mm256_dpbusd_avx_epi32(sum, u, s); }
#endif

#if defined(__AVX512VNNI__)
I4Q_VECTOR __m512 i4q_avx512_fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
I4Q_VECTOR __m512 i4q_avx512_permute(__m512i index, __m512 table) { return _mm512_permutexvar_ps(index, table); }
I4Q_VECTOR __m512i i4q_avx512_dot(__m512i sum, __m512i u, __m512i s) { return _mm512_dpbusd_epi32(sum, u, s); }
I4Q_VECTOR __m512i i4q_avx512_permute_halves(__m512i index, __m512i table) { return _mm512_permutexvar_epi16(index, table); }
I4Q_VECTOR __m512i i4q_avx512_subtract_bytes(__m512i a, __m512i b) { return _mm512_sub_epi8(a, b); }
I4Q_VECTOR __m512i i4q_avx512_subtract_halves(__m512i a, __m512i b) { return _mm512_sub_epi16(a, b); }
I4Q_VECTOR __m512i i4q_avx512_lookup_bytes(__m512i table, __m512i index) { return _mm512_shuffle_epi8(table, index); }

/* i4q_decode_lanes() with columns: [16 lanes][16 entries]. One permutation looks up k 0..7 of two lanes, which stand side by side then;
 * what is left is to transpose 8 x 8 such pairs. */
I4Q_VECTOR void i4q_avx512_decode_lanes(const void *packed, const void *columns, void *values, int64_t stride) {
    const __m512i shifts = _mm512_setr_epi32(0, 0, 16, 16, 4, 4, 20, 20, 8, 8, 24, 24, 12, 12, 28, 28);
    const __m512i nibble = _mm512_set1_epi32(15), second = _mm512_set1_epi64((int64_t)16 << 32);
    __m512d pairs[8], even[4], odd[4];
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++) {
        const __m512i words = _mm512_srlv_epi32(_mm512_set1_epi64(((const long long *)packed)[i]), shifts);
        const __m512i index = _mm512_ternarylogic_epi32(words, nibble, second, 0xea); /* words & nibble | second */
        const __m512 *tables = (const __m512 *)columns + 2 * i;
        pairs[i] = _mm512_castps_pd(_mm512_permutex2var_ps(tables[0], index, tables[1]));
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
        even[i] = _mm512_unpacklo_pd(pairs[2 * i], pairs[2 * i + 1]); /* k 0, 2, 4, 6 */
        odd[i] = _mm512_unpackhi_pd(pairs[2 * i], pairs[2 * i + 1]);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) {
        const __m512d *v = i ? odd : even;
        const __m512d low04 = _mm512_shuffle_f64x2(v[0], v[1], 0x88), low26 = _mm512_shuffle_f64x2(v[0], v[1], 0xdd);
        const __m512d high04 = _mm512_shuffle_f64x2(v[2], v[3], 0x88), high26 = _mm512_shuffle_f64x2(v[2], v[3], 0xdd);
        char *const at = (char *)values + i * stride;
        *(__m512d *)at = _mm512_shuffle_f64x2(low04, high04, 0x88);
        *(__m512d *)(at + 2 * stride) = _mm512_shuffle_f64x2(low26, high26, 0x88);
        *(__m512d *)(at + 4 * stride) = _mm512_shuffle_f64x2(low04, high04, 0xdd);
        *(__m512d *)(at + 6 * stride) = _mm512_shuffle_f64x2(low26, high26, 0xdd);
    }
}
I4Q_VECTOR __m512 i4q_avx512_widen_half(__m256i h) { return _mm512_cvtph_ps(h); }
I4Q_VECTOR __m256i i4q_avx512_narrow_half(__m512 f) {
    return _mm512_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#endif

#if defined(__AVX512VPOPCNTDQ__)
I4Q_VECTOR __m512i i4q_avx512_popcount(__m512i v) { return _mm512_popcnt_epi32(v); }
#endif

#if defined(__AVX512BF16__)
I4Q_VECTOR __m512 i4q_avx512_dot_bf16(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* Two times 16 floats, rounded half to even (denormals to zero). */
I4Q_VECTOR __m512i i4q_avx512_narrow_bf16(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* The same, as 16 pairs, the even one in the low half. */
I4Q_VECTOR __m512i i4q_avx512_pairs_of_bf16(__m512 even, __m512 odd) {
    typedef uint16_t u16x32 __attribute__((ext_vector_type(32)));
    const u16x32 halves = (u16x32)i4q_avx512_narrow_bf16(even, odd);
    return (__m512i)__builtin_shufflevector(halves, halves, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9,
                                            25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#endif

#endif
