/*
 * Distances between rows of floats; compiled for the least of each architecture's processors.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef INT4Q_DISTANCES_H
#define INT4Q_DISTANCES_H

#include "int4q_vectors.h"

/* The sum of (row[i] - point[i])^2; element i is added to partial sum i % 8. */
I4Q_VECTOR double i4q_squared_distance(const float *row, const double *point, int64_t count) {
    typedef float f32x8 __attribute__((ext_vector_type(8), aligned(4)));
    typedef double f64x8 __attribute__((ext_vector_type(8)));
    typedef double f64x8_anywhere __attribute__((ext_vector_type(8), aligned(8)));
    f64x8 sums = 0;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const f64x8 difference = __builtin_convertvector(*(const f32x8 *)(row + i), f64x8) - *(const f64x8_anywhere *)(point + i);
        const f64x8 square = difference * difference; /* a statement of its own: not to be fused */
        sums += square;
    }
    for (int j = 0; i < count; i++, j++) {
        const double difference = (double)row[i] - point[i];
        const double square = difference * difference;
        sums[j] += square;
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/* sums[i] += row[i]; both aligned to 64, count a multiple of 16. */
I4Q_VECTOR void i4q_add_row(const float *row, int64_t count, double *sums) {
    typedef double f64x4 __attribute__((ext_vector_type(4)));
    for (int64_t i = 0; i < count; i += 4) *(f64x4 *)(sums + i) += __builtin_convertvector(*(const i4q_f32x4 *)(row + i), f64x4);
}

/* difference[i] = row[i] - origin[i]; the sum of the differences' squares. All aligned to 64, count a multiple of 16. */
I4Q_VECTOR double i4q_subtract_row(const float *row, const float *origin, int64_t count, float *difference) {
    typedef double f64x4 __attribute__((ext_vector_type(4)));
    f64x4 sum = 0;
    for (int64_t i = 0; i < count; i += 4) {
        const i4q_f32x4 v = *(const i4q_f32x4 *)(row + i) - *(const i4q_f32x4 *)(origin + i);
        *(i4q_f32x4 *)(difference + i) = v;
        const f64x4 wide = __builtin_convertvector(v, f64x4);
        sum += wide * wide;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* scores[i][j] = halves[j] - rows[i] . points[j] for an even number of rows and four points, both [..][length], in binary32:
 * element l of a dot product is added to partial sum l % 4. All aligned to 16, length a multiple of 4. */
I4Q_VECTOR void i4q_score_four(const float *rows, int64_t row_count, const float *points, int64_t length, const float *halves,
                               float *scores, int64_t score_stride) {
    for (int64_t i = 0; i < row_count; i += 2) {
        const float *const first = rows + i * length, *const second = first + length;
        i4q_f32x4 a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
        for (int64_t l = 0; l < length; l += 4) {
            const i4q_f32x4 a = *(const i4q_f32x4 *)(first + l), b = *(const i4q_f32x4 *)(second + l);
            const i4q_f32x4 p0 = *(const i4q_f32x4 *)(points + l), p1 = *(const i4q_f32x4 *)(points + length + l);
            const i4q_f32x4 p2 = *(const i4q_f32x4 *)(points + 2 * length + l), p3 = *(const i4q_f32x4 *)(points + 3 * length + l);
            a0 += a * p0, a1 += a * p1, a2 += a * p2, a3 += a * p3;
            b0 += b * p0, b1 += b * p1, b2 += b * p2, b3 += b * p3;
        }
        const i4q_f32x4 half = *(const i4q_f32x4 *)halves;
#define I4Q_ADD_ACROSS(v0, v1) \
    (__builtin_shufflevector(v0, v1, 0, 4, 1, 5) + __builtin_shufflevector(v0, v1, 2, 6, 3, 7))
#define I4Q_FOUR_SUMS(v0, v1, v2, v3) \
    (__builtin_shufflevector(I4Q_ADD_ACROSS(v0, v1), I4Q_ADD_ACROSS(v2, v3), 0, 1, 4, 5) + \
     __builtin_shufflevector(I4Q_ADD_ACROSS(v0, v1), I4Q_ADD_ACROSS(v2, v3), 2, 3, 6, 7))
        *(i4q_f32x4 *)(scores + i * score_stride) = half - I4Q_FOUR_SUMS(a0, a1, a2, a3);
        *(i4q_f32x4 *)(scores + (i + 1) * score_stride) = half - I4Q_FOUR_SUMS(b0, b1, b2, b3);
#undef I4Q_FOUR_SUMS
#undef I4Q_ADD_ACROSS
    }
}

#endif
