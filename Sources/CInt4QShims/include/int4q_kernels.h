/*
 * The line between the library and its kernels: one table of C functions per instruction set.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each Kernels* module is compiled for its own instruction set and defines one symbol, which returns its table. Nothing
 * else crosses in either direction, so code for a newer processor cannot leak into what every processor runs.
 * Not part of the public contract. All arguments have been checked by the caller.
 */
#ifndef INT4Q_KERNELS_H
#define INT4Q_KERNELS_H

#include <stdint.h>

/* One row of activations to prepare. Prepared rows, F32:
 *
 *     [k_padded floats, zero beyond k] [group_count floats: each group's sum]
 *
 * and INT8, where each run of eight codes is stored as k0 k4 k1 k5 k2 k6 k3 k7, the order in which the low and then the
 * high nibbles of a packed lane come out:
 *
 *     [k_padded signed bytes] [group_count floats: scales] [group_count int32: sums of the codes]
 */
typedef struct i4q_activations {
    const void *source;      /* k elements */
    int64_t source_type;     /* INT4Q_TYPE_* */
    int64_t k;
    int64_t k_padded;        /* multiple of 32 */
    int64_t group_size;      /* multiple of 16 */
    int64_t group_count;
    uint8_t *prepared;       /* aligned to 64 */
    int64_t scales_offset;   /* bytes from `prepared`; INT8 only */
    int64_t sums_offset;
} i4q_activations;

/* What all tiles of one product share. */
typedef struct i4q_product {
    const uint8_t *blocks;        /* the blob's column blocks */
    int64_t block_bytes;          /* from one block to the next */
    int64_t scales_offset;        /* within a block */
    int64_t zeros_offset;         /* within a block: zero points or offsets */
    int64_t scale_type;           /* INT4Q_TYPE_* */
    int64_t kind;                 /* INT4Q_KIND_* */
    int64_t k_padded;
    int64_t group_size;
    int64_t group_count;
    const float *codebook;        /* 16 values; NULL unless CODEBOOK */
    const uint8_t *prepared;      /* prepared activations, row 0 */
    int64_t prepared_row_bytes;
    int64_t prepared_scales_offset;
    int64_t prepared_sums_offset;
} i4q_product;

/* A rectangle of the result: rows of x times blocks of 16 columns, written as dense floats. */
typedef struct i4q_tile {
    int64_t row_begin;
    int64_t row_count;
    int64_t block_begin;
    int64_t block_count;
    float *out;          /* [row_count][block_count * 16], aligned to 64 */
    int64_t out_stride;  /* floats */
} i4q_tile;

/* What a quantizer needs to know of a group. */
typedef struct i4q_group_range {
    float min;
    float max;
    int64_t first_not_finite; /* index, or -1: then min and max are valid */
} i4q_group_range;

/* How a run of values becomes codes: q = clip(round((x * gain - offset) / scale) + zero, low, high). The gain is 1, or
 * one half (and scale and offset halved) where x - offset would overflow. */
typedef struct i4q_encoding {
    float scale;
    float offset;
    float gain;
    int32_t zero;
    int32_t low;
    int32_t high;
    float reciprocal;       /* ggml rounding only: 1 / scale before it was rounded */
    float ggml_bias;        /* ggml rounding only: 8.5 or 0.5; else 0 */
    const float *codebook;  /* CODEBOOK only, else NULL: the nearest of 16, ties to the lower code */
} i4q_encoding;

/* How codes become values: x = fma(scale, q - zero, offset), or scale * codebook[q]. An offset of -0 is none. */
typedef struct i4q_decoding {
    float scale;
    float offset;
    int32_t zero;
    const float *codebook;
} i4q_decoding;

typedef struct i4q_kernels {
    const char *tile_f32_name;
    const char *tile_int8_name;

    /* Activations and products. */
    void (*prepare_f32)(const i4q_activations *activations);
    void (*prepare_int8)(const i4q_activations *activations);
    void (*tile_f32)(const i4q_product *product, const i4q_tile *tile);
    void (*tile_int8)(const i4q_product *product, const i4q_tile *tile);

    /* `count` elements between a type and binary32. */
    void (*load)(const void *source, int64_t type, int64_t count, float *floats);
    void (*store)(const float *floats, int64_t count, int64_t type, void *destination);

    /* Quantizing: `count` floats; codes are packed two to a byte, low nibble first, a last odd one with a zero nibble. */
    void (*group_range)(const float *floats, int64_t count, i4q_group_range *range);
    void (*encode)(const i4q_encoding *encoding, const float *floats, int64_t count, uint8_t *codes);
    void (*decode)(const i4q_decoding *decoding, const uint8_t *codes, int64_t count, float *floats);
} i4q_kernels;

i4q_kernels i4q_kernels_portable(void);
i4q_kernels i4q_kernels_avx2(void);
i4q_kernels i4q_kernels_avx512vnni(void);

#endif
