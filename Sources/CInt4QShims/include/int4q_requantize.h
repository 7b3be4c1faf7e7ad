/*
 * Requantizing runs of int32 sums, four lanes at a time; compiled for the least of each architecture's processors.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef INT4Q_REQUANTIZE_H
#define INT4Q_REQUANTIZE_H

#include "int4q_vectors.h"

/* A run's columns: `bias`, `multipliers` and `weights` (2^(31 - right shift)) have one element for each, aligned to 16. */
typedef struct i4q_requantizer {
    const uint32_t *bias;
    const uint32_t *multipliers;
    const uint32_t *weights;
    int32_t lowest; /* the ends of the range before the zero point is added */
    int32_t highest;
    int32_t zero_point;
    int32_t result_bits; /* 32, 8, or 4: two to a byte, low nibble first */
} i4q_requantizer;

typedef uint32_t i4q_u32x4 __attribute__((ext_vector_type(4)));
typedef uint32_t i4q_u32x4_anywhere __attribute__((ext_vector_type(4), aligned(4)));
typedef int32_t i4q_i32x4_anywhere __attribute__((ext_vector_type(4), aligned(4)));

/* The lower 32 bits of (a * b + 2^30) >> 31, the product being of 64 bits. (SSE2 multiplies every other lane.) */
I4Q_VECTOR i4q_u32x4 i4q_rounded_high_product(i4q_u32x4 a, i4q_u32x4 b) {
    typedef uint64_t u64x2 __attribute__((ext_vector_type(2)));
    const u64x2 lower = (u64x2)UINT64_C(0xffffffff), half = (u64x2)UINT64_C(0x40000000);
    const u64x2 even = ((u64x2)a & lower) * ((u64x2)b & lower) + half;
    const u64x2 odd = ((u64x2)a >> 32) * ((u64x2)b >> 32) + half;
    return (i4q_u32x4)(((even >> 31) & lower) | ((odd << 1) & ~lower));
}

I4Q_VECTOR i4q_i32x4 i4q_requantize_lanes(const i4q_requantizer *r, const int32_t *sums, int64_t i) {
    const i4q_u32x4 v = *(const i4q_u32x4_anywhere *)(sums + i) + *(const i4q_u32x4 *)(r->bias + i);
    const i4q_u32x4 by = *(const i4q_u32x4 *)(r->multipliers + i);
    /* Read as unsigned, a factor below zero is 2^32 too large, and the product's upper half by the other factor. */
    const i4q_u32x4 excess = ((i4q_u32x4)((i4q_i32x4)v >> 31) & by) + ((i4q_u32x4)((i4q_i32x4)by >> 31) & v);
    const i4q_u32x4 least = (i4q_u32x4)UINT32_C(0x80000000);
    const i4q_u32x4 overflows = (i4q_u32x4)(v == least) & (i4q_u32x4)(by == least);
    const i4q_u32x4 product = (i4q_rounded_high_product(v, by) - excess - excess) ^ overflows;
    const i4q_u32x4 sign = (i4q_u32x4)((i4q_i32x4)product >> 31);
    const i4q_u32x4 magnitude = (product ^ sign) - sign;
    const i4q_u32x4 shifted = i4q_rounded_high_product(magnitude, *(const i4q_u32x4 *)(r->weights + i));
    const i4q_i32x4 result = (i4q_i32x4)((shifted ^ sign) - sign);
    const i4q_i32x4 highest = (i4q_i32x4)r->highest, lowest = (i4q_i32x4)r->lowest;
    const i4q_i32x4 below = result > highest ? highest : result;
    const i4q_i32x4 within = below > lowest ? below : lowest;
    return (i4q_i32x4)((i4q_u32x4)within + (uint32_t)r->zero_point);
}

/* `count` is a multiple of 16. `codes` may be `sums` if result_bits is 32. */
I4Q_VECTOR void i4q_requantize_run(const i4q_requantizer *requantizer, const int32_t *sums, int64_t count, void *codes) {
    typedef uint8_t u8x16 __attribute__((ext_vector_type(16), aligned(1)));
    typedef uint16_t u16x8 __attribute__((ext_vector_type(8)));
    typedef uint8_t u8x8 __attribute__((ext_vector_type(8), aligned(1)));
    const i4q_requantizer r = *requantizer;
    for (int64_t i = 0; i < count; i += 16) {
        i4q_i32x4 lanes[4];
#pragma clang loop unroll(disable) /* four times the code is not faster */
        for (int j = 0; j < 4; j++) lanes[j] = i4q_requantize_lanes(&r, sums, i + 4 * j);
        if (r.result_bits == 32) {
            for (int j = 0; j < 4; j++) *(i4q_i32x4_anywhere *)((int32_t *)codes + i + 4 * j) = lanes[j];
            continue;
        }
        i4q_i32x16 all;
        for (int j = 0; j < 16; j++) all[j] = lanes[j / 4][j % 4];
        const i4q_u8x16 bytes = __builtin_convertvector((i4q_u32x16)all, i4q_u8x16);
        if (r.result_bits == 8) {
            *(u8x16 *)((uint8_t *)codes + i) = bytes;
            continue;
        }
        const u16x8 pairs = (u16x8)bytes;
        *(u8x8 *)((uint8_t *)codes + i / 2) = __builtin_convertvector((pairs & 15) | ((pairs >> 4) & 0xf0), u8x8);
    }
}

/* staged[i] + bias[i] = (sums[i] + bias[i]) * 2^shifts[i], kept within int32. In few bytes: left shifts are rare. */
I4Q_VECTOR void i4q_shift_sums(const int32_t *sums, const int32_t *bias, const int32_t *shifts, int64_t count, int32_t *staged) {
#pragma clang loop vectorize(disable) unroll(disable)
    for (int64_t i = 0; i < count; i++) {
        const int64_t shifted = (int64_t)(int32_t)((uint32_t)sums[i] + (uint32_t)bias[i]) * ((int64_t)1 << shifts[i]);
        const int64_t below = shifted > INT32_MAX ? INT32_MAX : shifted, within = below < INT32_MIN ? INT32_MIN : below;
        staged[i] = (int32_t)((uint32_t)within - (uint32_t)bias[i]);
    }
}

#endif
