/*
 * AMX's tile registers, as the kernels use them: tiles 0..3 sums, 4 and 5 activations, 6 and 7 weights. Sum c = 2 r + b is that
 * of activations 4 + r and weights 6 + b.
 *
 * With I4Q_TILES_MODEL the same functions work on memory as Intel's manual says the instructions do ("Intel Architecture
 * Instruction Set Extensions and Future Features", chapter 3), for tests on processors without tiles. What the processor would
 * refuse traps.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef INT4Q_TILES_H
#define INT4Q_TILES_H

#include <stdint.h>
#include "int4q_vectors.h"

enum { I4Q_TILE_COUNT = 8, I4Q_TILE_ROWS = 16, I4Q_TILE_ROW_BYTES = 64 };

/* What ldtilecfg reads. */
typedef struct i4q_tiles_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) i4q_tiles_config;

/* Up to 16 rows of x for tiles 4, 0 and 1; up to 16 more for 5, 2 and 3, or none: then those are not there. A step takes step_bytes
 * of each row of x, a multiple of 4, and a quarter as many rows of weights. */
static inline i4q_tiles_config i4q_tiles_config_of(int64_t upper_rows, int64_t lower_rows, int64_t step_bytes) {
    i4q_tiles_config config = {.palette = 1};
    for (int tile = 0; tile < I4Q_TILE_COUNT; tile++) {
        const int is_lower = tile == 2 || tile == 3 || tile == 5;
        const int64_t rows = tile >= 6 ? step_bytes / 4 : is_lower ? lower_rows : upper_rows;
        const int64_t row_bytes = tile == 4 || tile == 5 ? step_bytes : I4Q_TILE_ROW_BYTES;
        config.rows[tile] = (uint8_t)rows;
        config.row_bytes[tile] = (uint16_t)(rows ? row_bytes : 0);
    }
    return config;
}

#if defined(I4Q_TILES_MODEL)

typedef struct i4q_tiles_model {
    i4q_tiles_config config; /* of palette 0: nothing configured */
    uint8_t data[I4Q_TILE_COUNT][I4Q_TILE_ROWS][I4Q_TILE_ROW_BYTES] __attribute__((aligned(64)));
} i4q_tiles_model;

/* A static of a function: Swift's importer emits those with the function, and variables of the header not at all. */
static inline i4q_tiles_model *i4q_tiles(void) {
    static _Thread_local i4q_tiles_model model;
    return &model;
}

static inline void i4q_tiles_require(int condition) {
    if (!condition) __builtin_trap();
}

static inline void i4q_tiles_configure(int64_t upper_rows, int64_t lower_rows, int64_t step_bytes) {
    i4q_tiles_require(upper_rows >= 1 && upper_rows <= I4Q_TILE_ROWS && lower_rows >= 0 && lower_rows <= I4Q_TILE_ROWS);
    i4q_tiles_require(step_bytes >= 4 && step_bytes <= I4Q_TILE_ROW_BYTES && step_bytes % 4 == 0);
    __builtin_memset(i4q_tiles(), 0, sizeof(i4q_tiles_model));
    i4q_tiles()->config = i4q_tiles_config_of(upper_rows, lower_rows, step_bytes);
}

static inline i4q_u32x16 i4q_tiles_held(void) {
    i4q_u32x16 held;
    __builtin_memcpy(&held, &i4q_tiles()->config, sizeof held);
    return held;
}

static inline void i4q_tiles_give_back(i4q_u32x16 held) {
    __builtin_memset(i4q_tiles(), 0, sizeof(i4q_tiles_model));
    __builtin_memcpy(&i4q_tiles()->config, &held, sizeof held);
}

static inline void i4q_tile_zero(int tile) {
    i4q_tiles_require(i4q_tiles()->config.rows[tile]);
    __builtin_memset(i4q_tiles()->data[tile], 0, sizeof i4q_tiles()->data[tile]);
}

static inline void i4q_tile_load(int tile, const void *source, int64_t stride) {
    i4q_tile_zero(tile);
    for (int row = 0; row < i4q_tiles()->config.rows[tile]; row++)
        __builtin_memcpy(i4q_tiles()->data[tile][row], (const char *)source + row * stride, i4q_tiles()->config.row_bytes[tile]);
}

static inline void i4q_tile_store(int tile, void *target, int64_t stride) {
    i4q_tiles_require(i4q_tiles()->config.rows[tile]);
    for (int row = 0; row < i4q_tiles()->config.rows[tile]; row++)
        __builtin_memcpy((char *)target + row * stride, i4q_tiles()->data[tile][row], i4q_tiles()->config.row_bytes[tile]);
}

/* Sizes that do not fit are an invalid instruction. */
static inline void i4q_tiles_require_fit(int sum, int activations, int weights) {
    const i4q_tiles_config *config = &i4q_tiles()->config;
    i4q_tiles_require(config->rows[sum] && config->rows[sum] == config->rows[activations] &&
                      config->row_bytes[sum] == config->row_bytes[weights] &&
                      config->row_bytes[activations] == 4 * config->rows[weights]);
}

/* Denormals to zero, the sign kept. (Of results: those below 2^-126 after they have been rounded as denormals.) */
static inline i4q_f32x16 i4q_tiles_flush(i4q_f32x16 v) {
    const i4q_u32x16 bits = (i4q_u32x16)v;
    const i4q_u32x16 is_small = (i4q_u32x16)((bits & 0x7f800000u) == 0u);
    return (i4q_f32x16)(bits & ~(is_small & 0x7fffffffu));
}

static inline i4q_f32x16 i4q_tiles_fma(i4q_u32x16 x, i4q_u32x16 w, i4q_f32x16 sum) {
    return i4q_tiles_flush(__builtin_elementwise_fma(i4q_tiles_flush((i4q_f32x16)x), i4q_tiles_flush((i4q_f32x16)w), sum));
}

/* tdpbf16ps: the even and the odd elements of pairs have sums of their own, which join in the end. */
static inline void i4q_tile_multiply_bf16(int sum) {
    const int activations = 4 + sum / 2, weights = 6 + sum % 2;
    i4q_tiles_require_fit(sum, activations, weights);
    for (int row = 0; row < i4q_tiles()->config.rows[sum]; row++) {
        i4q_f32x16 even = 0.0f, odd = 0.0f, total;
        for (int pair = 0; pair < i4q_tiles()->config.rows[weights]; pair++) {
            uint32_t x;
            i4q_u32x16 w;
            __builtin_memcpy(&x, i4q_tiles()->data[activations][row] + 4 * pair, sizeof x);
            __builtin_memcpy(&w, i4q_tiles()->data[weights][pair], sizeof w);
            even = i4q_tiles_fma((i4q_u32x16)(x << 16), w << 16, even);
            odd = i4q_tiles_fma((i4q_u32x16)(x & 0xffff0000u), w & 0xffff0000u, odd);
        }
        __builtin_memcpy(&total, i4q_tiles()->data[sum][row], sizeof total);
        total = i4q_tiles_flush(i4q_tiles_flush(total) + i4q_tiles_flush(even + odd));
        __builtin_memcpy(i4q_tiles()->data[sum][row], &total, sizeof total);
    }
}

/* tdpbssd: signed bytes; int32 wraps around. */
static inline void i4q_tile_multiply_int8(int sum) {
    const int activations = 4 + sum / 2, weights = 6 + sum % 2;
    i4q_tiles_require_fit(sum, activations, weights);
    for (int row = 0; row < i4q_tiles()->config.rows[sum]; row++) {
        i4q_u32x16 total;
        __builtin_memcpy(&total, i4q_tiles()->data[sum][row], sizeof total);
        for (int quad = 0; quad < i4q_tiles()->config.rows[weights]; quad++) {
            i4q_u32x16 w;
            __builtin_memcpy(&w, i4q_tiles()->data[weights][quad], sizeof w);
            for (int byte = 0; byte < 4; byte++) {
                const int32_t x = (int8_t)i4q_tiles()->data[activations][row][4 * quad + byte];
                total += (i4q_u32x16)((i4q_i32x16)(w << (uint32_t)(24 - 8 * byte)) >> 24) * (i4q_u32x16)(uint32_t)x;
            }
        }
        __builtin_memcpy(i4q_tiles()->data[sum][row], &total, sizeof total);
    }
}

#elif defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)

I4Q_VECTOR void i4q_tiles_configure(int64_t upper_rows, int64_t lower_rows, int64_t step_bytes) {
    const i4q_tiles_config config = i4q_tiles_config_of(upper_rows, lower_rows, step_bytes);
    /* Some compilers do not know that ldtilecfg reads memory, and drop what was stored there. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

/* The thread's configuration, in a type that Swift knows; of palette 0 if there is none. */
I4Q_VECTOR i4q_u32x16 i4q_tiles_held(void) {
    i4q_u32x16 held;
    _tile_storeconfig(&held);
    __asm__ volatile("" : : "r"(&held) : "memory");
    return held;
}

/* Back to what was held before. */
I4Q_VECTOR void i4q_tiles_give_back(i4q_u32x16 held) {
    if ((held[0] & 0xffu) == 0) {
        _tile_release();
        return;
    }
    __asm__ volatile("" : : "r"(&held) : "memory");
    _tile_loadconfig(&held);
}

/* Instructions hold their tiles' numbers: callers pass constants, and one case remains of each switch. */
#define I4Q_EACH_TILE(tile, DO) \
    switch (tile) { \
        case 0: DO(0); break; \
        case 1: DO(1); break; \
        case 2: DO(2); break; \
        case 3: DO(3); break; \
        case 4: DO(4); break; \
        case 5: DO(5); break; \
        case 6: DO(6); break; \
        default: DO(7); break; \
    }
#define I4Q_EACH_SUM(sum, DO) \
    switch (sum) { \
        case 0: DO(0, 4, 6); break; \
        case 1: DO(1, 4, 7); break; \
        case 2: DO(2, 5, 6); break; \
        default: DO(3, 5, 7); break; \
    }

I4Q_VECTOR void i4q_tile_zero(int tile) { I4Q_EACH_TILE(tile, _tile_zero) }

I4Q_VECTOR void i4q_tile_load(int tile, const void *source, int64_t stride) {
#define I4Q_LOAD(number) _tile_loadd(number, source, stride)
    I4Q_EACH_TILE(tile, I4Q_LOAD)
#undef I4Q_LOAD
}

I4Q_VECTOR void i4q_tile_store(int tile, void *target, int64_t stride) {
#define I4Q_STORE(number) _tile_stored(number, target, stride)
    I4Q_EACH_TILE(tile, I4Q_STORE)
#undef I4Q_STORE
}

/* Pairs of bfloat16 into floats. */
I4Q_VECTOR void i4q_tile_multiply_bf16(int sum) { I4Q_EACH_SUM(sum, _tile_dpbf16ps) }

/* Four signed bytes by four signed bytes into int32. */
I4Q_VECTOR void i4q_tile_multiply_int8(int sum) { I4Q_EACH_SUM(sum, _tile_dpbssd) }

#undef I4Q_EACH_TILE
#undef I4Q_EACH_SUM

#endif
#endif
