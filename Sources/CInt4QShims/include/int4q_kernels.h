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
 * BF16: as F32 with values rounded to bfloat16, and stored as bfloat16 where the table's bf16_element_bytes is 2. INT8, where
 * each run of eight codes is stored as k0 k4 k1 k5 k2 k6 k3 k7, the order in which the low and then the high nibbles of a
 * packed lane come out:
 *
 *     [k_padded signed bytes] [group_count pairs: float step, int32 share]
 *
 * A share is the sum of the group's codes times what each code of the weights is too large by: -8 (codes of 8 bits: -128), or -1
 * for ASYMMETRIC and CODEBOOK (the zero point is the column's, the bias of a table the instruction set's), BINARY and TERNARY.
 *
 * BINARY: a bit for each code's bit, set where x is below zero, in the order of packed lanes; TERNARY's two bits are equal:
 *
 *     [k_padded * code_bits / 8 bytes] [group_count pairs: float mean |x|, int32 number of elements]
 */
typedef struct i4q_activations {
    const void *source;      /* k elements */
    int64_t source_type;     /* INT4Q_TYPE_* */
    int64_t k;
    int64_t k_padded;        /* multiple of 32 */
    int64_t group_size;      /* multiple of 16 */
    int64_t group_count;
    uint8_t *prepared;       /* aligned to 64 */
    int64_t line_stride;     /* from one 64 bytes of the row to the next: 64, or more in F32, BF16 and INT8 mode. Offsets do not count it */
    int64_t scales_offset;   /* bytes from `prepared`, to the pairs; INT8 and BINARY only */
    int64_t sums_offset;     /* F32 and BF16 only; negative: nobody asks for sums */
    const float *steps;      /* INT8: the caller's scales; NULL: found here */
    int64_t steps_stride;    /* 1, or 0 if all groups have the same */
    int32_t share_factor;    /* INT8: -128, -8 or -1 */
    int32_t code_bits;       /* BINARY: of the weights, 1 or 2 */
} i4q_activations;

/* What all tiles of one product share. */
typedef struct i4q_product {
    const uint8_t *blocks;        /* the blob's column blocks */
    int64_t block_bytes;          /* from one block to the next */
    int64_t scales_offset;        /* within a block */
    int64_t zeros_offset;         /* within a block: zero points or offsets */
    int64_t scale_type;           /* INT4Q_TYPE_* */
    int64_t kind;                 /* INT4Q_KIND_* */
    int64_t code_bits;            /* 1, 2, 4 or 8 */
    int64_t k_padded;
    int64_t group_size;
    int64_t group_count;
    const float *codebook;        /* 16 values; NULL unless CODEBOOK with one for the tensor */
    int64_t codebooks_offset;     /* within a block: [code][16 columns] floats, CODEBOOK with one for each row; else 0 */
    const uint8_t *prepared;      /* prepared activations, row 0 */
    int64_t prepared_row_bytes;
    int64_t prepared_line_stride; /* 64: row after row; 2048: of 32 rows at a time first all their first 64 bytes, then the next */
    int64_t prepared_scales_offset;
    int64_t prepared_sums_offset;
    const int8_t *int8_codebook;  /* INT8 mode with a codebook: its 16 values as integers, */
    float int8_codebook_step;     /* and what one of those is worth */
    int64_t rounds_weights;       /* BF16 mode: whether weights are dequantized and rounded, and codes not exact */
} i4q_product;

/* A rectangle of the result: rows of x times blocks of 16 columns, written as dense floats. */
typedef struct i4q_tile {
    int64_t row_begin;
    int64_t row_count;
    int64_t block_begin;
    int64_t block_count;
    float *out;          /* [row_count][block_count * 16], aligned to 64 */
    int64_t out_stride;  /* floats */
    void *panel;         /* I4Q_PANEL_BYTES of working memory, aligned to 64 */
} i4q_tile;

/* Four blocks' weights of 256 values of k as floats, and 8 KiB for what belongs to them. */
enum { I4Q_PANEL_BYTES = 73728 };

/* What follows the product in one row of a tile; pointers stand at the row's first column of the tile. */
typedef struct i4q_epilogue {
    int64_t activation;    /* INT4Q_ACTIVATION_* */
    const void *bias;      /* or NULL */
    const void *up_bias;   /* or NULL */
    int64_t bias_type;
    const float *up;       /* totals of the second matrix, or NULL: not gated */
    const void *residual;  /* or NULL */
    int64_t residual_type;
} i4q_epilogue;

/* out[p] = x . matrix[p] for one row of x: 16 partial sums of fused multiply-adds, element j in partial j mod 16, then folded as a
 * group's sum. */
typedef struct i4q_projection {
    const float *x;      /* k floats, then zeros up to a multiple of 16 */
    const void *matrix;  /* [rank][k] */
    int64_t type;        /* INT4Q_TYPE_*, of the matrix */
    int64_t k;
    int64_t rank;
    float *out;          /* [rank] */
} i4q_projection;

/* What a blob carries beside its codes, to be added to a tile's totals: a chain of fused multiply-adds from +0 over a row's
 * sparse elements, in order, and one over the ranks. Indices may be anything; they are kept within the sizes. */
typedef struct i4q_parts_product {
    const int64_t *row_offsets; /* [n + 1]; NULL without a sparse part */
    const int32_t *columns;
    const float *values;
    int64_t sparse_count;
    int64_t m;
    int64_t n;
    int64_t k;
    const float *x;          /* [m / 16][k][16], then [m mod 16][k] */
    const void *matrix;      /* [ceil(n / 16)][rank][16]; NULL without a low-rank part */
    int64_t type;            /* INT4Q_TYPE_*, of the matrix */
    int64_t rank;
    const float *projected;  /* [m][projected_stride] */
    int64_t projected_stride;
} i4q_parts_product;

/* What a quantizer needs to know of a group. */
typedef struct i4q_group_range {
    float min;
    float max;
    int64_t first_not_finite; /* index, or -1: then min and max are valid */
} i4q_group_range;

/* How CODEBOOK chooses codes: a value w / scale gets `first` plus the steps of all limits that it is above. */
typedef struct i4q_code_table {
    float limits[16];  /* ascending; infinity from the last one on */
    int32_t steps[16];
    int32_t first;     /* the code of the smallest value */
    float divisor;     /* the scale is max|w| / divisor; 0: the scale is 1 */
} i4q_code_table;

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
    const i4q_code_table *table; /* CODEBOOK and BINARY, else NULL */
    int32_t makes_bytes;    /* whether each code gets a byte of its own; else two share one */
} i4q_encoding;

/* How codes become values: x = fma(scale, (q << shift) - zero, offset), or scale * codebook[q]. An offset of -0 is none. */
typedef struct i4q_decoding {
    float scale;
    float offset;
    int32_t zero;
    const float *codebook;
    int32_t code_bits;   /* 1, 2, 4 or 8 */
    int32_t shift;
} i4q_decoding;

/* 16 rows of a matrix, to be quantized into a block of a blob; for all schemes but those that round as ggml does, or have a
 * codebook for each row. */
typedef struct i4q_block_quantization {
    const void *source;      /* the block's first row */
    int64_t source_type;     /* INT4Q_TYPE_* */
    int64_t row_bytes;       /* from one row to the next */
    int64_t row_count;       /* 1..16 */
    int64_t k;
    int64_t group_size;      /* of packed groups, each with a scale of its own */
    int64_t group_count;
    int64_t kind;            /* INT4Q_KIND_*, or I4Q_KIND_TWIN */
    int64_t is_signed;       /* SYMMETRIC: scale = (first value of largest magnitude) / -8 ... */
    float divisor;           /* ... else max|w| / this; CODEBOOK: the table's */
    int32_t low;             /* SYMMETRIC: lowest code */
    int64_t scale_type;      /* INT4Q_TYPE_* */
    int64_t scales_offset;   /* within the block */
    int64_t zeros_offset;
    uint8_t *block;          /* zeroed, aligned to 64 */
    const i4q_code_table *table; /* CODEBOOK only, else NULL */
    void *scratch;           /* I4Q_QUANTIZING_SCRATCH bytes, aligned to 64 */
    int64_t is_mlx;          /* OFFSET: with MLX's rounding */
} i4q_block_quantization;

/* Weights with one scale below zero and one above, which stand where OFFSET's scales and offsets do. */
enum { I4Q_KIND_TWIN = 100 };

/* What quantize_block, quantize_batch and unpack_codes need besides: 538 lines of 64 bytes. */
enum { I4Q_QUANTIZING_SCRATCH = 34432 };

/* Codes of a block, to be written to up to 16 rows of a tensor. */
typedef struct i4q_code_unpacking {
    const uint8_t *block;  /* code rows of 64 bytes */
    int64_t code_rows;
    int64_t row_count;     /* 1..16 */
    int64_t row_bytes;     /* that each row gets */
    uint8_t *codes;        /* of the first row */
    int64_t stride;        /* bytes from one row to the next */
    void *scratch;         /* I4Q_QUANTIZING_SCRATCH bytes, aligned to 64 */
} i4q_code_unpacking;

/* Up to 16 blocks (or Q4_K's sub-blocks) of a block format, one per lane. */
enum { I4Q_BATCH_LANES = 16 };
typedef struct i4q_block_batch {
    const void *const *values;      /* lane_count pointers to a lane's 32 values (NVFP4: 16) */
    const void *const *importance;  /* lane_count pointers to their importance, floats; or NULL */
    const float *mean_squares;      /* Q4_0 and Q4_1 with importance: 16, of each lane's row */
    int64_t source_type;            /* INT4Q_TYPE_* */
    int64_t lane_count;             /* 1..16; Q4_K: 8 or 16, NVFP4: a multiple of 4 */
    int64_t format;                 /* INT4Q_FORMAT_* */
    int64_t search;                 /* INT4Q_SEARCH_* */
    float global_scale;             /* NVFP4: values are divided by it */
    uint8_t *blocks;                /* the first lane's block; lanes follow one another */
    void *scratch;                  /* I4Q_QUANTIZING_SCRATCH bytes, aligned to 64 */
} i4q_block_batch;

/* out[i][j] += sum over p of left[p][i] * right[p][j]. Matrices lie in panels of 16 columns: [panel][row][16]. A sum is a chain of
 * fused multiply-adds in binary32 over p in ascending order, and is then added to `out` in binary64. */
typedef struct i4q_rank_update {
    const float *left;     /* aligned to 64, as all that follows */
    int64_t left_stride;   /* floats from one panel to the next */
    int64_t left_panels;
    const float *right;
    int64_t right_stride;
    int64_t right_panels;  /* 1 or 2 */
    int64_t depth;         /* rows of both */
    double *out;           /* left_panels * 16 rows of each of right_panels panels */
    int64_t out_stride;
} i4q_rank_update;

/* out[j][lane] += sum over p of matrix[p][j] * vectors[p][lane], j and lane 0..15, in binary64: a product is rounded, then added,
 * p in ascending order. Aligned to 64. */
typedef struct i4q_wide_product {
    const double *matrix;  /* [depth][16] */
    const float *vectors;  /* [depth][16] */
    int64_t depth;
    double *out;           /* [16][16] */
} i4q_wide_product;

/* How the values of one group of each of 16 rows become codes, and codes values: i4q_encoding and i4q_decoding in 16 lanes.
 * q = clip(round((x * gain - offset) / divisor) + zero, low, high), value = fma(scale, q - zero, shift); with ggml's rounding
 * the divisor is the reciprocal that is multiplied by. With a table `divisor` is what values are divided by, and the value is
 * scale * the table's. */
typedef struct i4q_lane_encoding {
    float divisor[16];
    float offset[16];
    float gain[16];
    float scale[16];
    float shift[16];
    int32_t zero[16];
    int32_t low[16];
    int32_t high[16];
} i4q_lane_encoding;

/* Sixteen rows' codebooks: a value gets entry 0, or i + 1 for the last limit i that it is above. */
typedef struct i4q_lane_table {
    float limits[15][16];
    int32_t codes[16][16];
    float values[16][16];
} i4q_lane_table;

/* Rounds columns begin..end-1 of 16 rows one after the other, and spreads each one's error over the columns after it, up to
 * `columns`: current[j] -= (current[i] - value[i]) / factor[i][i] * factor[i][j]. Lanes are rows. */
typedef struct i4q_column_rounding {
    float *current;        /* [columns][16], aligned to 64, as all that follows */
    const float *factor;   /* upper triangular, panels of 16 columns: [columns / 16][columns][16] */
    int64_t columns;       /* a multiple of 16 */
    int64_t begin;
    int64_t end;
    const int32_t *groups; /* [columns]: each column's encoding */
    const i4q_lane_encoding *encodings;
    const i4q_lane_table *table; /* CODEBOOK only, else NULL */
    float ggml_bias;       /* ggml's rounding only: 8.5 or 0.5; else 0 */
    uint8_t *codes;        /* [columns][16] */
    float *values;         /* [columns][16] */
    double *losses;        /* [16]: increased by the squares of all errors (current - value) / factor */
} i4q_column_rounding;

typedef struct i4q_kernels {
    const char *tile_f32_name;
    const char *tile_int8_name;
    const char *tile_bf16_name;
    const char *tile_binary_name;
    int64_t bf16_element_bytes; /* of prepared activations: 2 or 4 */
    int64_t bf16_rounds_groups_below; /* BF16 mode rounds dequantized weights in groups of fewer k and in all of OFFSET; 0: never */
    int64_t largest_tile_rows;   /* of INT8 and BF16 mode, for many rows; F32: 128 rows, 16 blocks; BINARY: 128, 4 */
    int64_t largest_tile_blocks;
    int64_t interleaves_rows;    /* whether INT8 and BF16 mode want many rows of activations by lines (prepared_line_stride) */

    /* Activations and products. */
    void (*prepare_f32)(const i4q_activations *activations);
    void (*prepare_int8)(const i4q_activations *activations);
    void (*prepare_bf16)(const i4q_activations *activations);
    void (*prepare_binary)(const i4q_activations *activations);
    void (*tile_f32)(const i4q_product *product, const i4q_tile *tile);
    void (*tile_int8)(const i4q_product *product, const i4q_tile *tile);
    void (*tile_bf16)(const i4q_product *product, const i4q_tile *tile);
    void (*tile_binary)(const i4q_product *product, const i4q_tile *tile);
    void (*project)(const i4q_projection *projection);
    void (*add_parts)(const i4q_parts_product *parts, const i4q_tile *tile); /* after a tile_*; uses the panel, too */
    /* `totals` has at least `count` rounded up to 16 elements. */
    void (*finish_row)(const i4q_epilogue *epilogue, const float *totals, int64_t count, int64_t type, void *destination);

    /* `count` elements between a type and binary32. */
    void (*load)(const void *source, int64_t type, int64_t count, float *floats);
    void (*store)(const float *floats, int64_t count, int64_t type, void *destination);

    /* Quantizing: `count` floats; codes are packed two to a byte, low nibble first, a last odd one with a zero nibble (unless they
     * are to be bytes). */
    void (*group_range)(const float *floats, int64_t count, i4q_group_range *range);
    void (*encode)(const i4q_encoding *encoding, const float *floats, int64_t count, uint8_t *codes);
    /* Quantizes groups from `first` on; returns the first group that needs `group_range` and `encode` (not finite, constant,
     * or a scale out of its type's range) or group_count. */
    int64_t (*quantize_block)(const i4q_block_quantization *quantization, int64_t first);
    void (*unpack_codes)(const i4q_code_unpacking *unpacking);
    void (*decode)(const i4q_decoding *decoding, const uint8_t *codes, int64_t count, float *floats);
    /* Quantizes a batch. Returns 0, or a bit for each lane that has values that are not finite or a scale beyond its type's
     * range; then nothing is written. AVX-512's tables leave it NULL: they get AVX2's. */
    int64_t (*quantize_batch)(const i4q_block_batch *batch);

    /* Reconstruction. */
    void (*rank_update)(const i4q_rank_update *update);
    void (*wide_product)(const i4q_wide_product *product);
    void (*round_columns)(const i4q_column_rounding *rounding);
} i4q_kernels;

i4q_kernels i4q_kernels_portable(void);
i4q_kernels i4q_kernels_avx2(void);
i4q_kernels i4q_kernels_avx512vnni(void);
/* The table of the instruction set below, with what this one does better. */
i4q_kernels i4q_kernels_avxvnni(i4q_kernels avx2);
i4q_kernels i4q_kernels_avx512bf16(i4q_kernels avx512vnni);
i4q_kernels i4q_kernels_avx512vpopcntdq(i4q_kernels avx512);
i4q_kernels i4q_kernels_amx(i4q_kernels avx512bf16);

#endif
