/*
 * libint4q: 4-bit weight quantization and matrix products on packed 4-bit weights, for CPUs.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 * This file is the contract. It is written by hand and is the only copy: the library is compiled against it, and the
 * compiler rejects an implementation whose type differs.
 *
 *     float weights --quantize--> tensor --pack--> blob --matmul(x)--> y
 *
 * Rules that hold for every function, unless its comment says otherwise:
 *
 *  - Return value: INT4Q_OK (0), or one of the other status codes below. On failure int4q_last_error() tells, for the
 *    calling thread, the function, the argument, its value and what was expected. Nothing a caller passes aborts the
 *    process.
 *  - Memory: the caller owns it all. The library allocates nothing, except in int4q_pool_create(), and takes less than
 *    64 KiB of the stack. It reads and writes
 *    only bytes that the caller declared; no padding after a buffer is asked for. On failure an output may have been
 *    written in part, within its declared bytes.
 *  - Matrices are row-major. Sizes named *_bytes count bytes; strides (ldx, ldy, *_stride) count elements between the
 *    starts of two rows and must be at least the row's length.
 *  - Pointers to elements must be aligned to the element's size; blobs and scratch to INT4Q_ALIGNMENT (64) bytes.
 *  - Inputs may overlap one another. An output must overlap neither an input nor another output; this is not checked.
 *  - Threads: every function may be called at any time from any thread, as long as no two calls write the same bytes
 *    and none reads bytes that another is writing. The exceptions are int4q_pool_destroy() and one pool used by two
 *    callers at once, which is described there.
 *  - Numbers: IEEE 754, round half to even. Fields named `reserved` must be zero.
 *  - Enumerators never change their value. A struct that starts with `struct_size` may grow at its end: set the field to
 *    sizeof(the struct); a size that this library does not know is INT4Q_ERROR_STRUCT_SIZE. The other structs are fixed.
 */
#ifndef INT4Q_H
#define INT4Q_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#define INT4Q_API __attribute__((visibility("default")))
#else
#define INT4Q_API
#endif

/* ---------------------------------------------------------------------------------------------------------------------
 * 1. Version, status, errors
 * ------------------------------------------------------------------------------------------------------------------ */

#define INT4Q_VERSION_MAJOR 0
#define INT4Q_VERSION_MINOR 1
#define INT4Q_VERSION_PATCH 0

/* Counts incompatible changes of this header; equals the number in the library's soname. */
#define INT4Q_ABI_VERSION 0

/* Blobs and scratch memory start at a multiple of this many bytes. */
#define INT4Q_ALIGNMENT 64

/* major * 1000000 + minor * 1000 + patch of the library that is loaded. Never fails. */
INT4Q_API int32_t int4q_version(void);

/* The loaded library's INT4Q_ABI_VERSION. A program compiled with another one must not use it. Never fails. */
INT4Q_API int32_t int4q_abi_version(void);

typedef int32_t int4q_status;
enum {
    INT4Q_OK = 0,
    INT4Q_ERROR_NULL_POINTER = 1,     /* a required pointer is NULL */
    INT4Q_ERROR_STRUCT_SIZE = 2,      /* struct_size is not one that this library knows */
    INT4Q_ERROR_INVALID_ARGUMENT = 3, /* an unknown enumerator, or a number outside its range */
    INT4Q_ERROR_SIZE_OVERFLOW = 4,    /* the sizes asked for do not fit in 63 bits */
    INT4Q_ERROR_MISALIGNED = 5,       /* a pointer is not aligned as required */
    INT4Q_ERROR_BUFFER_TOO_SMALL = 6, /* a buffer's declared size is less than what is needed */
    INT4Q_ERROR_NOT_FINITE = 7,       /* NaN or infinity where the policy forbids it, or a scale beyond its type */
    INT4Q_ERROR_UNSUPPORTED = 8,      /* valid, but this library has no code for it */
    INT4Q_ERROR_CORRUPT = 9,          /* a blob or plan whose contents contradict themselves or their checksum */
    INT4Q_ERROR_BLOB_VERSION = 10,    /* a blob of a format version that this library does not know */
    INT4Q_ERROR_MISMATCH = 11,        /* two arguments that must agree do not (a plan and a blob, a tensor and a blob) */
    INT4Q_ERROR_OUT_OF_MEMORY = 12,   /* memory for a pool could not be had */
    INT4Q_ERROR_THREAD = 13,          /* the system refused to start a thread */
    INT4Q_ERROR_CANCELLED = 14        /* a progress callback asked for an end */
};

/* The name of a status code ("INT4Q_ERROR_NULL_POINTER"), or "unknown int4q status". Static memory; never NULL. */
INT4Q_API const char *int4q_status_string(int4q_status status);

/* What is known about a failure. The strings belong to the library and to the calling thread; they stay valid until
 * that thread's next failing call or its end. None is NULL. Example:
 *   function "int4q_blob_size", argument "k", value "-3", expected "at least 1",
 *   message  "int4q_blob_size: k is -3; expected at least 1" */
typedef struct int4q_error {
    uint32_t struct_size;
    int4q_status status;
    const char *function;
    const char *argument;
    const char *value;
    const char *expected;
    const char *message;
} int4q_error;

/* Fills *error with the calling thread's latest failure (status INT4Q_OK and empty strings if there was none). A call
 * that succeeds leaves it as it was. Fails only for error == NULL or a wrong struct_size, and then changes nothing. */
INT4Q_API int4q_status int4q_last_error(int4q_error *error);

/* ---------------------------------------------------------------------------------------------------------------------
 * 2. Instruction sets
 *
 * The library detects once what the processor and the operating system offer (cpuid and xgetbv) and runs nothing beyond
 * it. A limit lowers the choice; in F32 and INT8 mode results have the same bits whatever the limit. The environment
 * variable INT4Q_ISA (a name as int4q_isa_name() has them) sets a limit unless int4q_isa_set_limit() was called; a name
 * that is none of these makes every call that chooses kernels fail with INT4Q_ERROR_INVALID_ARGUMENT. An empty value
 * counts as unset.
 * ------------------------------------------------------------------------------------------------------------------ */

typedef int32_t int4q_isa;
enum {
    INT4Q_ISA_PORTABLE = 0,    /* any processor; on x86-64 no more than SSE2 */
    INT4Q_ISA_AVX2 = 100,      /* AVX2, FMA, F16C */
    INT4Q_ISA_AVXVNNI = 150,   /* and AVX-VNNI */
    INT4Q_ISA_AVX512VNNI = 200, /* AVX-512 F, BW, VL, DQ and VNNI */
    INT4Q_ISA_AVX512BF16 = 250, /* and AVX-512 BF16 */
    INT4Q_ISA_AMX = 300        /* and AMX with int8 and bf16, if the system grants its registers */
};

/* For int4q_isa_set_limit(): no limit by call; the environment's counts again. */
#define INT4Q_ISA_NO_LIMIT (-1)

/* Writes the best instruction set that both this machine and this library have. Not affected by limits. */
INT4Q_API int4q_status int4q_isa_detected(int4q_isa *isa);

/* Writes the one that plans made now will use: the best one that is detected and not above the limit. */
INT4Q_API int4q_status int4q_isa_active(int4q_isa *isa);

/* Limits plans made from now on, in the whole process; plans made before keep theirs. `limit` is an enumerator above
 * (one above what is detected is no error: nothing undetected is ever used) or INT4Q_ISA_NO_LIMIT. */
INT4Q_API int4q_status int4q_isa_set_limit(int4q_isa limit);

/* "portable", "avx2", "avxvnni", "avx512vnni", "avx512bf16", "amx", or "unknown". Static memory; never NULL. */
INT4Q_API const char *int4q_isa_name(int4q_isa isa);

/* ---------------------------------------------------------------------------------------------------------------------
 * 3. Schemes, quantized tensors
 *
 * A weight matrix W has n rows (output features) of k elements (input features). Each row is cut into groups of
 * `group_size` neighbours in k; the last group of a row may be shorter. A group shares one scale s and, for some kinds,
 * one zero point z or offset o. A code q is an unsigned integer of 4 bits,
 * 0..15:
 *
 *     SYMMETRIC    w = s * (q - 8)
 *     ASYMMETRIC   w = s * (q - z)          z integer, 0..15
 *     OFFSET       w = s * q + o            o of the scale's type (ggml Q4_1, MLX)
 *     CODEBOOK     w = s * codebook[q]      16 values of the caller, shared by the tensor or by a row of it
 *
 * Beside them, for comparison and for models that mix precisions, in the same calls: the first three with codes of 8 bits
 * (scheme.code_bits), where 255, 128, 127 and 127.5 stand for 15, 8, 7 and 7.5 in all that is said here; and
 *
 *     BINARY       w = s * (2 q - 1)        1 bit:  -s, s
 *     TERNARY      w = s * (q - 1)          2 bits: -s, 0, s; q 0..2
 *
 * Scales and offsets are rounded to their stored type first; codes are then chosen with the stored values, nearest and
 * half to even (INT4Q_ROUNDING_GGML and _MLX, and CODEBOOK, where ties get the lower code, are exceptions). Sources:
 * docs/quantizers.md.
 *
 * All-zero groups come back as exact zeros. A group whose elements all equal c comes back as c rounded to the scale's
 * type: exactly c where c has that type's precision. (Not in INT4Q_ROUNDING_GGML, which does what ggml does, with scales that are
 * powers of two or the caller's, nor with CODEBOOK and TERNARY, whose values are what they can give.)
 * A scale too small for its type becomes 0 and the group zero (or, OFFSET, the offset).
 * ------------------------------------------------------------------------------------------------------------------ */

typedef int32_t int4q_type;
enum {
    INT4Q_TYPE_F32 = 1, /* IEEE binary32 */
    INT4Q_TYPE_F16 = 2, /* IEEE binary16 */
    INT4Q_TYPE_BF16 = 3 /* bfloat16: the upper half of a binary32 */
};

enum {
    INT4Q_KIND_SYMMETRIC = 1,
    INT4Q_KIND_ASYMMETRIC = 2,
    INT4Q_KIND_OFFSET = 3,
    INT4Q_KIND_CODEBOOK = 4,
    INT4Q_KIND_BINARY = 5, /* groups of 32 and more, or per row */
    INT4Q_KIND_TERNARY = 6 /* as BINARY */
};

/* How SYMMETRIC derives a scale from a group; must be INT4Q_SCALE_DEFAULT, or what is said here, for the other kinds:
 * ASYMMETRIC s = (max - min) / 15 with 0 included in the range, z = round(-min / s) clipped to 0..15;
 * OFFSET s = (max - min) / 15, o = min;  CODEBOOK s = max|w| / max|codebook|, or INT4Q_SCALE_ONE;
 * BINARY s = mean|w|, q = 1 for w >= 0 (Rastegari et al., "XNOR-Net", 2016);
 * TERNARY s = mean|w|, q - 1 = round(w / s) clipped to -1..1 (Ma et al., "The Era of 1-bit LLMs", 2024), or INT4Q_SCALE_AMAX_7.
 * Sums for means are binary64. */
enum {
    INT4Q_SCALE_DEFAULT = 0,      /* SYMMETRIC: as INT4Q_SCALE_SIGNED_MAX_8; with 8 bits as INT4Q_SCALE_AMAX_7, max|w| / 127 */
    INT4Q_SCALE_AMAX_7 = 1,       /* max|w| / 7 (AWQ, most textbooks); TERNARY: max|w| (ggml's TQ1_0 and TQ2_0) */
    INT4Q_SCALE_AMAX_7_5 = 2,     /* max|w| / 7.5 (compressed-tensors, GPTQ) */
    INT4Q_SCALE_SIGNED_MAX_8 = 3, /* (first element of largest magnitude, with its sign) / -8 (ggml, ONNX Runtime) */
    /* CODEBOOK only: 1 for every group. The codebook holds the weights' values themselves (a fitted one, bins of a range, GOBO's
     * centroids); weights beyond its ends get the nearest end. */
    INT4Q_SCALE_ONE = 4,
    /* SYMMETRIC only: the least power of two that is max|w| / 7 or more, so that scaling is a shift. (A group of equal elements
     * is not given back exactly.) */
    INT4Q_SCALE_POWER_OF_TWO = 5,
    /* All kinds: the tensor's scales, zero points and offsets are the caller's, of a calibration say, or one for all groups; only
     * codes are chosen, nearest and clipped. They are finite and zero points codes. Not for int4q_quantize_pack_rows(). */
    INT4Q_SCALE_GIVEN = 6
};

enum {
    INT4Q_RANGE_FULL = 0,      /* q - 8 in -8..7 */
    INT4Q_RANGE_RESTRICTED = 1 /* q - 8 in -7..7; SYMMETRIC with an AMAX scale only */
};

enum {
    INT4Q_ROUNDING_NEAREST_EVEN = 0,
    /* What ggml's reference quantizers do, to the bit: codes from the scale before it is rounded, through its
     * reciprocal, half up. Q4_0: SYMMETRIC, SIGNED_MAX_8, F16, group 32. Q4_1: OFFSET, F16, group 32. Other group
     * sizes and scale types are allowed; other kinds and rules are not. */
    INT4Q_ROUNDING_GGML = 1,
    /* CODEBOOK only: nearest in logarithm. Two neighbouring values of one sign meet at their geometric mean (2^k and 2^(k+1)
     * at sqrt(2) * 2^k), zero and a value v next to it at v / sqrt(2), two values of both signs at zero. */
    INT4Q_ROUNDING_NEAREST_LOG = 2,
    /* OFFSET only: what MLX's affine `quantize` does, to the bit. With e the end of the range of larger magnitude (max if they are
     * equal) and s = +-max((max - min) / 15, 1e-7), positive if e is the minimum: r = round(e / s); if r is not 0, s = e / r and
     * o = e, so that zero is exactly a code's value; else o = 0. Codes come from s before it is rounded to its type. MLX stores
     * scales in the weights' type. A scale may be negative. */
    INT4Q_ROUNDING_MLX = 3
};

/* Whose the 16 values of CODEBOOK are. What is said of a codebook holds for each row's own with PER_ROW: its values are finite
 * and not all zero, INT4Q_SCALE_DEFAULT divides by its largest magnitude, codes are the nearest of its values. Products by such
 * matrices have INT4Q_MODE_F32 only. */
enum {
    INT4Q_CODEBOOK_PER_TENSOR = 0, /* float codebook[16] */
    INT4Q_CODEBOOK_PER_ROW = 1     /* float codebook[n][16]; CODEBOOK only */
};

/* Values of group_size besides 16, 32, 64, 128 and 256. */
#define INT4Q_GROUP_PER_ROW (-1)

/* What a code means and how it is chosen. Fixed size (48 bytes); zero-initialise it. */
typedef struct int4q_scheme {
    int32_t kind;       /* INT4Q_KIND_* */
    int32_t group_size; /* 16, 32, 64, 128, 256 or INT4Q_GROUP_PER_ROW */
    int4q_type scale_type;
    int32_t scale_rule; /* INT4Q_SCALE_* */
    int32_t code_range; /* INT4Q_RANGE_* */
    int32_t rounding;   /* INT4Q_ROUNDING_* */
    int32_t codebook_scope; /* INT4Q_CODEBOOK_PER_TENSOR, or CODEBOOK also INT4Q_CODEBOOK_PER_ROW */
    int32_t code_bits;      /* 0: the kind's own, 4, BINARY 1, TERNARY 2. 8: codes of a byte; SYMMETRIC, ASYMMETRIC and OFFSET */
    int32_t reserved[4];
} int4q_scheme;

/* What int4q_tensor_sizes() tells. */
typedef struct int4q_tensor_layout {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t groups_per_row;      /* ceil(k / group_size); 1 for INT4Q_GROUP_PER_ROW */
    uint64_t codes_row_bytes;    /* ceil(k * bits of a code / 8) */
    uint64_t codes_bytes;        /* n * codes_row_bytes */
    uint64_t scales_bytes;       /* n * groups_per_row * size of the scale's type */
    uint64_t zero_points_bytes;  /* n * groups_per_row for ASYMMETRIC, else 0 */
    uint64_t offsets_bytes;      /* as scales_bytes for OFFSET, else 0 */
} int4q_tensor_layout;

/* A quantized matrix over the caller's memory.
 *
 *   codes        [n][codes_row_bytes]  element k of a row: low nibble of byte k/2 if k is even, else the high nibble;
 *                                      a row of odd length ends in a zero nibble. 8 bits: a byte each. BINARY: bit k%8 of byte
 *                                      k/8, bit 0 the lowest; TERNARY: bits 2(k%4) and 2(k%4)+1 of byte k/4; unused ones zero
 *   scales       [n][groups_per_row]   scale_type
 *   zero_points  [n][groups_per_row]   one byte each, 0..15 (8 bits: 0..255); ASYMMETRIC only, else NULL
 *   offsets      [n][groups_per_row]   scale_type; OFFSET only, else NULL
 *   codebook     16 finite floats, not all zero; with INT4Q_CODEBOOK_PER_ROW [n][16], each row's so; CODEBOOK only, else NULL
 *
 * A codebook that is NaN or infinite anywhere is INT4Q_ERROR_NOT_FINITE, one of zeros INT4Q_ERROR_INVALID_ARGUMENT. Of
 * codebooks per row, those of the rows that a call is asked for are looked at, before anything is written; the error's value
 * names row and code as row and column.
 */
typedef struct int4q_tensor {
    uint32_t struct_size;
    uint32_t reserved;
    int4q_scheme scheme;
    int64_t n;
    int64_t k;
    void *codes;
    uint64_t codes_bytes;
    void *scales;
    uint64_t scales_bytes;
    void *zero_points;
    uint64_t zero_points_bytes;
    void *offsets;
    uint64_t offsets_bytes;
    const float *codebook;
} int4q_tensor;

/* Writes the sizes of a quantized n x k matrix's parts. n and k are at least 1. */
INT4Q_API int4q_status int4q_tensor_sizes(const int4q_scheme *scheme, int64_t n, int64_t k,
                                          int4q_tensor_layout *layout);

/* Quantizes rows row_begin..row_end-1 of source[n][k] into the same rows of *tensor, so that a host may spread the rows
 * over its threads. `source` points at row 0. The result does not depend on how the rows are split.
 * A NaN or infinity in those rows, or a scale or offset that its type cannot hold (beyond 65504 in F16), is
 * INT4Q_ERROR_NOT_FINITE; the error's value names row and column. Denormals count as what they are. */
INT4Q_API int4q_status int4q_quantize_rows(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                           int64_t source_stride, int64_t row_begin, int64_t row_end);

/* Writes rows row_begin..row_end-1 of the matrix that *tensor stands for into the same rows of destination[n][k]
 * (`destination` points at row 0). Values are computed in binary32 (OFFSET with one rounding, as a fused multiply-add)
 * and then rounded to the destination's type; beyond its range they become infinity, as IEEE 754 says. */
INT4Q_API int4q_status int4q_dequantize_rows(const int4q_tensor *tensor, void *destination,
                                             int4q_type destination_type, int64_t destination_stride,
                                             int64_t row_begin, int64_t row_end);

/* ---------------------------------------------------------------------------------------------------------------------
 * 4. Blobs
 *
 * A blob is a quantized matrix in the layout that the kernels read, for every instruction set the same: one flat,
 * position-independent block with a header, checksums and zeroed padding. Written to a file and mapped again it is used
 * as it is. Packing the same tensor gives the same bytes. The format, to the byte: docs/blob-format.md.
 * ------------------------------------------------------------------------------------------------------------------ */

/* Rows are packed in blocks of this many; row ranges of pack and unpack calls start at a multiple of it. */
#define INT4Q_BLOB_BLOCK_ROWS 16

/* Levels of int4q_blob_validate(). */
enum {
    INT4Q_VALIDATE_HEADER = 0, /* the header alone: magic, version, its checksum, every size recomputed */
    INT4Q_VALIDATE_FULL = 1    /* also every block's checksum, finite scales and offsets, zero points, rows' codebooks (finite,
                                * not all zero), zero padding; of parts all that int4q_blob_attach() asks, and their checksum */
};

/* What a blob may carry beside its codes: see int4q_parts. */
enum {
    INT4Q_PART_PERMUTATION = 1,
    INT4Q_PART_ROTATION = 2,
    INT4Q_PART_SPARSE = 4,
    INT4Q_PART_LOW_RANK = 8
};

typedef struct int4q_blob_info {
    uint32_t struct_size;
    uint32_t format_version;
    int4q_scheme scheme;
    int64_t n;
    int64_t k;
    uint64_t total_bytes;      /* the whole blob, with its parts */
    uint64_t block_count;      /* ceil(n / 16) */
    uint64_t block_bytes;      /* codes, scales and zero points, offsets or codebooks of 16 rows */
    uint64_t header_checksum;  /* XXH64 of the header; it does not depend on the payload */
    float codebook[16];        /* zeros unless CODEBOOK, and with INT4Q_CODEBOOK_PER_ROW: int4q_blob_codebooks() has those */
    uint32_t part_flags;       /* INT4Q_PART_* of the parts that the blob carries, or 0: for int4q_matmul_desc */
    uint32_t part_rank;        /* of the low-rank part; 0 without: for int4q_matmul_desc */
    uint64_t parts_bytes;      /* of total_bytes; 0 without parts */
} int4q_blob_info;

/* Writes the exact size of the blob of an n x k matrix. */
INT4Q_API int4q_status int4q_blob_size(const int4q_scheme *scheme, int64_t n, int64_t k, uint64_t *bytes);

/* Packs rows row_begin..row_end-1 of *tensor into the blob, so that a host may spread the rows over its threads.
 * row_begin is a multiple of 16, row_end a multiple of 16 or n. Ranges may be packed in any order and at the same time;
 * the range that starts at row 0 also writes the header. When ranges covering 0..n have been packed the blob is
 * complete. `blob` is aligned to 64 bytes, blob_bytes is at least int4q_blob_size(); bytes beyond that size are left
 * alone. Scales and offsets must be finite, zero points at most 15 (8 bits: 255), TERNARY's codes at most 2. */
INT4Q_API int4q_status int4q_pack_rows(const int4q_tensor *tensor, void *blob, uint64_t blob_bytes, int64_t row_begin,
                                       int64_t row_end);

/* Quantizes rows row_begin..row_end-1 of source[n][k] and packs them, without a tensor between: gives the bytes that
 * int4q_quantize_rows() and then int4q_pack_rows() give, in one pass over the source. Rules for rows and errors as there;
 * after a failure the blob is incomplete. codebook: as int4q_tensor's, 16 values for CODEBOOK or n x 16, else NULL. */
INT4Q_API int4q_status int4q_quantize_pack_rows(const int4q_scheme *scheme, int64_t n, int64_t k, const float *codebook,
                                                const void *source, int4q_type source_type, int64_t source_stride,
                                                void *blob, uint64_t blob_bytes, int64_t row_begin, int64_t row_end);

/* Checks bytes from anywhere, trusted or not. After INT4Q_OK with INT4Q_VALIDATE_FULL the blob can be used without
 * surprise; after INT4Q_VALIDATE_HEADER at least nothing outside its blob_bytes is touched. Every call that takes a blob
 * validates the header by itself. blob_bytes may exceed the blob's own size, as where it lies inside a larger file. */
INT4Q_API int4q_status int4q_blob_validate(const void *blob, uint64_t blob_bytes, int32_t level);

/* Validates the header and writes what it says. */
INT4Q_API int4q_status int4q_blob_get_info(const void *blob, uint64_t blob_bytes, int4q_blob_info *info);

/* The inverse of int4q_pack_rows(): writes rows row_begin..row_end-1 into *tensor, whose scheme (kind, code bits, group size,
 * scale type and codebook scope), n and k must be the blob's. The codebook, if any, is in int4q_blob_info, those of rows are what
 * int4q_blob_codebooks() writes; tensor->codebook is not used. row_begin is a multiple of 16, row_end a multiple of 16 or n.
 * Packing and unpacking give back the same bytes. */
INT4Q_API int4q_status int4q_unpack_rows(const void *blob, uint64_t blob_bytes, const int4q_tensor *tensor,
                                         int64_t row_begin, int64_t row_end);

/* Writes the codebooks of rows row_begin..row_end-1 of a blob to the same rows of codebooks[n][16] (`codebooks` points at row
 * 0): each row's own, or with INT4Q_CODEBOOK_PER_TENSOR the tensor's for each. Other kinds than CODEBOOK are
 * INT4Q_ERROR_MISMATCH. */
INT4Q_API int4q_status int4q_blob_codebooks(const void *blob, uint64_t blob_bytes, float *codebooks, int64_t row_begin,
                                            int64_t row_end);

/* Writes row row_indices[i] of the blob's matrix, dequantized as int4q_dequantize_rows() does, to row i of
 * destination[count][k]: an embedding lookup on packed weights. Indices may repeat; each is in 0..n-1. Blobs with parts are
 * INT4Q_ERROR_UNSUPPORTED: their rows need working memory, and int4q_gather_effective_rows(). */
INT4Q_API int4q_status int4q_gather_rows(const void *blob, uint64_t blob_bytes, const int64_t *row_indices,
                                         int64_t count, void *destination, int4q_type destination_type,
                                         int64_t destination_stride);

/* ---- Parts beside the codes ----
 *
 * A blob can carry what a method keeps beside its 4-bit matrix Wq, behind the last block and in the same bytes, and
 * int4q_matmul() then computes
 *
 *     x' = rotate(permute(x));   y = activation(x' Wq^T + x S^T + (x B^T) A^T + bias) + residual
 *
 *   permutation  column j of Wq belongs to input channel permutation[j]: permute(x)[j] = x[permutation[j]]. GPTQ's act-order
 *                (Frantar et al., "GPTQ", 2023), whose groups are of columns in the order in which they were quantized.
 *   rotation     each run of rotation_order neighbours is multiplied by signs, then by the orthonormal Hadamard matrix of that
 *                order: Wq is a matrix whose rows were rotated in the same way (Ashkboos et al., "QuaRot", 2024). Computed in
 *                binary32 as docs/numerics.md says, before x' is rounded or quantized.
 *   sparse       weights that are too large for 4 bits, or what those lose, in x's own channel order (Kim et al.,
 *                "SqueezeLLM", 2024; Dettmers et al., "SpQR", 2023).
 *   low rank     what 4 bits lose, as A[n][rank] B[rank][k], in x's own channel order (Yao et al., "ZeroQuant-V2", 2023; Li et
 *                al., "SVDQuant", 2024; or an adapter: Hu et al., "LoRA", 2021).
 *
 * The last two are added in binary32 whatever the mode. Parts cost time where there are some, and nothing where there are none. */

/* How int4q_parts.low_rank_a lies in memory. */
enum {
    INT4Q_LOW_RANK_ROWS = 0,  /* [n][rank] */
    INT4Q_LOW_RANK_BLOCKS = 1 /* [ceil(n / 16)][rank][16], as blobs have it: row 16 b + i stands in lane i of block b; lanes from
                               * row n on are zeros in a blob, and not read elsewhere */
};

/* Each part is there or not: permutation != NULL, rotation_order != 0, sparse_row_offsets != NULL, rank != 0. The other
 * fields of one that is not are NULL and 0. */
typedef struct int4q_parts {
    uint32_t struct_size;
    uint32_t reserved;
    const uint32_t *permutation;        /* [k], each of 0..k-1 once */
    int64_t rotation_order;             /* 2^a, 12 * 2^a, 20 * 2^a or 28 * 2^a up to 2^24, a divisor of k */
    uint64_t rotation_seed;             /* of the signs (docs/numerics.md); 0: all are +1 */
    int64_t sparse_count;               /* elements of S, 0 or more */
    const int64_t *sparse_row_offsets;  /* [n + 1], ascending from 0 to sparse_count */
    const int32_t *sparse_columns;      /* [sparse_count], in each row ascending, 0..k-1; NULL if there are none */
    const float *sparse_values;         /* [sparse_count], finite; NULL if there are none */
    int64_t rank;                       /* 1..256 */
    int4q_type low_rank_type;           /* of A and B */
    int32_t low_rank_form;              /* of A: INT4Q_LOW_RANK_* */
    const void *low_rank_a;             /* finite */
    const void *low_rank_b;             /* [rank][k], finite */
} int4q_parts;

/* Writes how many bytes *parts take behind the blob of an n x k matrix: a multiple of 64, or 0. The blob with its parts has
 * int4q_blob_size() + *bytes. Reads no elements: pointers of parts that are there need only be not NULL, and aligned. k is at
 * most 2^31 - 1 if there are parts. */
INT4Q_API int4q_status int4q_blob_parts_size(int64_t n, int64_t k, const int4q_parts *parts, uint64_t *bytes);

/* Copies *parts behind the last block of a blob whose header is there (rows from 0 on were packed; its blocks may still be
 * missing) and says so in the header. blob_bytes is at least int4q_blob_size() + int4q_blob_parts_size(), and at least the
 * blob's total_bytes as it is. Parts that the blob had are replaced; a description without any takes them away, and leaves the blob's first bytes as packing wrote them.
 * Packing row 0 anew takes them away, too. *parts must not point into the blob.
 * All is checked first: an element of the permutation or a column that is wrong is INT4Q_ERROR_INVALID_ARGUMENT, a value that
 * is not finite INT4Q_ERROR_NOT_FINITE; then the blob is as it was. */
INT4Q_API int4q_status int4q_blob_attach(void *blob, uint64_t blob_bytes, const int4q_parts *parts);

/* Fills *parts (struct_size set) with pointers into the blob, to be read only and valid as long as it: low_rank_form is
 * INT4Q_LOW_RANK_BLOCKS. Validates the header alone. Fields of parts that the blob does not carry get NULL and 0. */
INT4Q_API int4q_status int4q_blob_get_parts(const void *blob, uint64_t blob_bytes, int4q_parts *parts);

/* Writes row row_indices[i] of the matrix that the product with the whole blob stands for, in x's channel order, to row i of
 * destination[count][k]: with w = rotate^-1 (row of Wq) in binary32, element permutation[j] is w[j], plus S, plus the row's share
 * of A B (a binary64 sum), each sum rounded to binary32, and the last to destination_type. For blobs without parts it is
 * int4q_gather_rows(). scratch: 8 bytes for each of k rounded up to 16, aligned to INT4Q_ALIGNMENT.
 * (int4q_unpack_rows() gives the codes as they were packed, in the permuted and rotated order.) */
INT4Q_API int4q_status int4q_gather_effective_rows(const void *blob, uint64_t blob_bytes, const int64_t *row_indices,
                                                   int64_t count, void *destination, int4q_type destination_type,
                                                   int64_t destination_stride, void *scratch, uint64_t scratch_bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * 5. Matrix product:  y[m][n] = activation(x[m][k] * W[n][k]^T + bias[n]) + residual[m][n]
 *
 *     describe the product -> plan -> scratch of plan.scratch_bytes -> prepare all of x -> run all tiles
 *
 * A plan is plain data: it may be copied, kept, and used by many threads and many products at once (each with its own
 * scratch). int4q_matmul() does the last two steps; a host with threads of its own calls the two step functions.
 *
 * Modes. The caller names one; results of a mode have the same bits for every thread count, split and batch size, and
 * those of F32, INT8 and BINARY for every instruction set too (but for the payloads of NaNs).
 *   F32   x as given; in each group a chain of binary32 fused multiply-adds over k, then one for the group's scale.
 *   BF16  x rounded to bfloat16 (half to even), a CODEBOOK's values perhaps too, and with INT4Q_ISA_AMX the dequantized
 *         weights of groups of fewer than 128 k and of OFFSET; sums in binary32. Needs INT4Q_ISA_AVX512BF16 to be faster than F32, and where
 *         weights are dequantized more than 4 rows. The mode for many rows.
 *   INT8  each group of a row of x is quantized to -127..127, at run time with its own scale (max|x| / 127, half to even)
 *         or with a scale of the caller; the group's dot product is an exact int32; then binary32 as in F32. A CODEBOOK is
 *         rounded to 255 levels first. The mode for few rows, and with groups of 128 and more for many.
 *   BINARY  each group of a row of x becomes its signs (+ for 0) times mean|x|, a binary32 sum; products of signs are counted
 *         bits (Rastegari et al., "XNOR-Net", 2016); then binary32 as in F32. For weights of BINARY and TERNARY alone.
 * INT4Q_CODEBOOK_PER_ROW has F32 alone. (What makes INT8 and BF16 fast is one table of 16 entries for all columns at once, which
 * fits a register; 16 tables do not.) Codes of 8 bits, BINARY and TERNARY have F32 and INT8, and these two kinds BINARY. Other
 * combinations are INT4Q_ERROR_UNSUPPORTED when the plan is made.
 * The order of every operation: docs/numerics.md.
 *
 * AMX's tiles are configured within a call of int4q_matmul_tiles() (or int4q_matmul()), on the thread that runs it. When it returns,
 * that thread has the configuration that it had before, with tiles of zeros, or none.
 *
 * Blobs with parts (section 4): the plan is made for them (desc.part_flags, desc.part_rank, which int4q_blob_get_info() tells),
 * prepare reads the blobs, too, and x_scales are for x' (its groups are of packed columns). Modes round x' alone. With
 * INT4Q_MATMUL_GATED both blobs carry parts, with the same part_flags, part_rank, permutation, rotation order and seed
 * (INT4Q_ERROR_MISMATCH otherwise): x' is made once. Plans with experts have no parts (INT4Q_ERROR_UNSUPPORTED). Without a full
 * validation a blob's parts may hold anything within their declared sizes: an index that is out of range then counts, as an
 * unsigned number, as the nearest that is not, and a row as having at most k sparse elements: so results may be nonsense, but
 * nothing outside the blob is touched.
 *
 * NaN and infinity in x: every y of that row of x (before the activation) is NaN or infinite in F32 and BF16 mode, NaN in
 * INT8 and BINARY mode; other rows are not affected. Denormals are computed as IEEE 754 says, whatever the host has set: the library
 * sets its own rounding and flushing modes in each call and restores the host's (in BF16 mode the processor's own
 * instructions flush denormals). In INT8 mode with scales found at run time a group of x with max|x| below
 * 2^-100 counts as zeros.
 * ------------------------------------------------------------------------------------------------------------------ */

typedef int32_t int4q_compute_mode;
enum {
    INT4Q_MODE_F32 = 1,
    INT4Q_MODE_INT8 = 2,
    INT4Q_MODE_BF16 = 3,
    INT4Q_MODE_BINARY = 4
};

/* Applied after the bias. GELU_ERF is x * Phi(x) with the normal distribution function Phi; GELU_TANH its approximation
 * x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016); SILU is x / (1 + exp(-x)).
 * Computed in binary32 with an absolute error of at most 4e-7 * max(1, |x|); the same bits on every machine. */
enum {
    INT4Q_ACTIVATION_NONE = 0,
    INT4Q_ACTIVATION_RELU = 1,
    INT4Q_ACTIVATION_GELU_ERF = 2,
    INT4Q_ACTIVATION_GELU_TANH = 3,
    INT4Q_ACTIVATION_SILU = 4
};

/* Values of int4q_matmul_desc.flags. */
enum {
    /* Two matrices of one shape and scheme, y = activation(x Wg^T + bias) * (x Wu^T + up_bias) + residual: the gate is
     * args.blob, the other args.up_blob. */
    INT4Q_MATMUL_GATED = 1,
    /* INT8 mode: activations are quantized with args.x_scales instead of scales found at run time. */
    INT4Q_MATMUL_STATIC_SCALES = 2
};

typedef struct int4q_matmul_desc {
    uint32_t struct_size;
    int4q_compute_mode mode;
    int64_t m;           /* rows of x and y, at least 1 */
    int64_t n;           /* output features */
    int64_t k;           /* input features */
    int4q_scheme scheme; /* the blob's: kind, code_bits, group_size, scale_type and codebook_scope must agree with it */
    int4q_type x_type;
    int4q_type y_type;
    uint32_t worker_count; /* how many threads may run tiles at the same time, 1..1024; each adds some scratch */
    uint32_t flags;        /* INT4Q_MATMUL_*, or 0 */
    int32_t activation;    /* INT4Q_ACTIVATION_* */
    int4q_type bias_type;     /* of args.bias and args.up_bias; 0: there is none */
    int4q_type residual_type; /* of args.residual; 0: there is none */
    uint32_t expert_count; /* 0: one matrix for all rows of x. 1..65536: each row of x has its expert (args.experts) */
    uint32_t part_flags;   /* the blob's parts as int4q_blob_info has them: INT4Q_PART_*, or 0 */
    uint32_t part_rank;    /* with INT4Q_PART_LOW_RANK 1..256, else 0 */
} int4q_matmul_desc;

/* Made by int4q_matmul_plan_init(); to be read only. Position-independent and free of pointers. */
typedef struct int4q_matmul_plan {
    uint32_t struct_size;
    int4q_isa isa;          /* whose kernels will run */
    uint64_t scratch_bytes; /* working memory of one product, aligned to INT4Q_ALIGNMENT */
    int64_t prepare_count;  /* independent prepare tasks: all must end before the first tile starts */
    int64_t tile_count;     /* independent tiles */
    uint32_t worker_count;
    uint32_t reserved;
    int64_t opaque[40];
} int4q_matmul_plan;

/* One expert of a mixture: its matrix, and with INT4Q_MATMUL_GATED its second one (else NULL and 0). */
typedef struct int4q_expert {
    const void *blob;
    uint64_t blob_bytes;
    const void *up_blob;
    uint64_t up_blob_bytes;
} int4q_expert;

/* The memory of one product. x[m][k] has stride ldx, y[m][n] has stride ldy. The scratch's contents on entry do not
 * matter; between prepare and the last tile they must be left alone. Fields that the plan does not call for are NULL and
 * 0.
 *
 * Experts (desc.expert_count > 0): row i of x is multiplied with experts[row_experts[i]], i in any order; a row_experts of
 * -1 leaves row i of y alone. Then blob and up_blob are NULL, and bias and up_bias are [expert_count][n].
 * The residual may be y itself (same pointer, stride and type); otherwise they must not overlap. */
typedef struct int4q_matmul_args {
    uint32_t struct_size;
    uint32_t reserved;
    const void *x;
    int64_t ldx;
    const void *blob;
    uint64_t blob_bytes;
    void *y;
    int64_t ldy;
    void *scratch;
    uint64_t scratch_bytes;
    const void *up_blob;        /* INT4Q_MATMUL_GATED */
    uint64_t up_blob_bytes;
    const void *bias;           /* [n] of desc.bias_type */
    const void *up_bias;        /* [n] of desc.bias_type; INT4Q_MATMUL_GATED, may be NULL for none */
    const void *residual;       /* [m][n] of desc.residual_type, stride ldr */
    int64_t ldr;
    const float *x_scales;      /* INT4Q_MATMUL_STATIC_SCALES: one for each group of k, 2^-100..2^100; code = round(x / scale) */
    const int4q_expert *experts;  /* [desc.expert_count] */
    const int32_t *row_experts;   /* [m], each -1..expert_count-1; read by prepare only */
} int4q_matmul_args;

/* A piece of work: do index `index`. No two calls that run at the same time have the same `worker`. */
typedef void (*int4q_task)(void *context, int64_t index, uint32_t worker);

/* A host's way to run count pieces: call task(context, i, worker) once for each i in 0..count-1, in any order, on any
 * threads, with worker in 0..worker_count-1, and return when all are done. */
typedef void (*int4q_parallel_for)(void *host, int64_t count, uint32_t worker_count, int4q_task task, void *context);

/* Fills *plan for a product as described. */
INT4Q_API int4q_status int4q_matmul_plan_init(const int4q_matmul_desc *desc, int4q_matmul_plan *plan);

/* Prepares tasks begin..end-1 of 0..prepare_count-1: reads x, x_scales and row_experts, and with desc.part_flags blob and up_blob;
 * writes scratch. The other fields of *args are not used and may be NULL. */
INT4Q_API int4q_status int4q_matmul_prepare(const int4q_matmul_plan *plan, const int4q_matmul_args *args,
                                            int64_t begin, int64_t end);

/* Runs tiles begin..end-1 of 0..tile_count-1: reads blobs, bias, residual and scratch, writes y. args->x, x_scales and
 * row_experts are not used and may be NULL. `worker` (0..worker_count-1) names a part of the scratch that no other call may
 * use at the same time. With experts some tiles may have nothing to do. */
INT4Q_API int4q_status int4q_matmul_tiles(const int4q_matmul_plan *plan, const int4q_matmul_args *args,
                                          uint32_t worker, int64_t begin, int64_t end);

/* The whole product: prepare, then tiles, spread by parallel_for(host, ...); on the calling thread alone if
 * parallel_for is NULL. All arguments are checked before parallel_for is called, so its tasks do not fail. */
INT4Q_API int4q_status int4q_matmul(const int4q_matmul_plan *plan, const int4q_matmul_args *args,
                                    int4q_parallel_for parallel_for, void *host);

/* How far results may be from the product of x and the dequantized weights in exact arithmetic. */
enum {
    /* Never exceeded, whatever the values: every rounding goes the worst way. */
    INT4Q_BOUND_WORST_CASE = 0,
    /* Exceeded in fewer than one of 10^12 results if rounding errors are independent with mean zero (Higham and Mary, "A
     * new approach to probabilistic rounding error analysis", 2019; Hoeffding's inequality). Much tighter. */
    INT4Q_BOUND_PROBABLE = 1
};

/* Writes bounds[m][n] (stride ldb): |y[i][j] - sum over l of x[i][l] * w[j][l]| <= bounds[i][j] for the y that the plan's
 * product would give in exact arithmetic's stead, rounding to y's type included; w as int4q_dequantize_rows() has it, but
 * not rounded. Reads args->x, ldx, blob, x_scales; y and scratch may be NULL. Rows of x that are not finite get infinity.
 * A bound is an analysis tool: it takes as long as a slow product. For plans without activation, gate, bias, residual, experts
 * and parts, and not in BINARY mode; others are INT4Q_ERROR_UNSUPPORTED. */
INT4Q_API int4q_status int4q_error_bound(const int4q_matmul_plan *plan, const int4q_matmul_args *args, int32_t bound,
                                         double *bounds, int64_t ldb);

/* Writes a sentence or more, zero-terminated, into text[text_bytes]: which kernel a plan made now for this description
 * would use, how it would be cut, and why not a better one. *needed_bytes (may be NULL) receives the size of the whole
 * text with its zero; if text_bytes is less the text is cut and the status INT4Q_ERROR_BUFFER_TOO_SMALL.
 * text may be NULL if text_bytes is 0. */
INT4Q_API int4q_status int4q_describe_dispatch(const int4q_matmul_desc *desc, char *text, uint64_t text_bytes,
                                               uint64_t *needed_bytes);

/* A pool of threads for hosts that have none. The calling thread works too: a pool of `worker_count` (1..1024) starts
 * worker_count - 1 threads. Threads block all signals and sleep when there is nothing to do. After fork() the child has no
 * such threads; it may use the pool, whose caller then does all the work, and destroy it, unless the pool was in use. */
typedef struct int4q_pool int4q_pool;
INT4Q_API int4q_status int4q_pool_create(uint32_t worker_count, int4q_pool **pool);

/* Ends the pool's threads and frees it. NULL is allowed. No call may use the pool at that time or later. */
INT4Q_API int4q_status int4q_pool_destroy(int4q_pool *pool);

/* Runs task(context, i, worker) for each i in 0..count-1 with at most worker_count workers and returns when all are
 * done. Its type is int4q_parallel_for: pass it with the pool as `host` to int4q_matmul(). Two callers at once take
 * turns; a task must not call back into the same pool. pool == NULL: all on the calling thread. */
INT4Q_API void int4q_pool_parallel_for(void *pool, int64_t count, uint32_t worker_count, int4q_task task,
                                       void *context);

/* ---------------------------------------------------------------------------------------------------------------------
 * 6. Metrics
 * ------------------------------------------------------------------------------------------------------------------ */

/* How far `candidate` is from `reference`; e = candidate - reference, all in binary64. */
typedef struct int4q_metrics {
    uint32_t struct_size;
    uint32_t reserved;
    double mse;               /* mean of e^2 */
    double sqnr_db;           /* 10 log10(sum reference^2 / sum e^2); +inf if e is 0, -inf if only the reference is 0 */
    double cosine;            /* of the two as vectors; 1 if both are 0, 0 if one is */
    double max_abs_error;     /* max |e| */
    int64_t max_error_row;    /* the first place where it stands */
    int64_t max_error_column;
} int4q_metrics;

/* Compares two rows x columns matrices. NaN or infinity in either is INT4Q_ERROR_NOT_FINITE and says where. */
INT4Q_API int4q_status int4q_compare(const void *reference, int4q_type reference_type, int64_t reference_stride,
                                     const void *candidate, int4q_type candidate_type, int64_t candidate_stride,
                                     int64_t rows, int64_t columns, int4q_metrics *metrics);

/* ---------------------------------------------------------------------------------------------------------------------
 * 7. Codebooks, nibbles
 *
 * Sixteen values for schemes of kind CODEBOOK: known ones, bins of a range, and the best ones for given weights. And 4-bit
 * integers outside tensors: packing them two to a byte in other people's orders, and the plain whole-array quantizer of
 * textbooks. Definitions and sources: docs/quantizers.md.
 * ------------------------------------------------------------------------------------------------------------------ */

/* Codebooks by name. The index is the code in the format's own numbering. Where a format has a negative zero (code 8 of the
 * FP4s) it is one here, and never chosen by quantizing: of equal values the lower code is. */
enum {
    INT4Q_CODEBOOK_NF4 = 1,              /* 4-bit NormalFloat, -1..1 (Dettmers et al. 2023, QLoRA; bitsandbytes) */
    INT4Q_CODEBOOK_FP4_E2M1 = 2,         /* 0 .5 1 1.5 2 3 4 6, then the same negative (OCP MX 1.0; MXFP4, NVFP4) */
    INT4Q_CODEBOOK_FP4_BITSANDBYTES = 3, /* bitsandbytes' FP4 in its own code order: E2M1 but for 1/192 in place of 1/12 */
    INT4Q_CODEBOOK_FP4_RADIX4 = 4,       /* 1-3-0: 0, 4^-3..4^3, then the same negative (Sun et al. 2020, Ultra-Low Precision
                                          * 4-bit Training) */
    /* Sign and three bits of exponent below the largest: code e is 2^(e - 7), code 8 + e is -2^(e - 7), but code 0 is zero.
     * For INT4Q_ROUNDING_NEAREST_LOG (Miyashita et al. 2016, logarithmic data representation). */
    INT4Q_CODEBOOK_POWERS_OF_TWO = 5,
    INT4Q_CODEBOOK_IQ4_NL = 6,           /* ggml's IQ4_NL and IQ4_XS: -127 -104 ... 89 113 */
    /* The same without -2^-7, a second zero in its place: 2^-6..1 of both signs. INT8 mode then has every value exactly (as whole
     * multiples of 2^-6), and the portable kernels shift instead of multiplying. */
    INT4Q_CODEBOOK_SEVEN_POWERS_OF_TWO = 7
};

/* Writes a codebook's 16 values. `which` is INT4Q_CODEBOOK_*. */
INT4Q_API int4q_status int4q_codebook_get(int32_t which, float values[16]);

/* Writes the middles of `levels` equal bins of min..max, ascending; for INT4Q_SCALE_ONE. 16: all codes. 15: what published
 * INT4 overviews do that cut a range at 16 edges and so have 15 bins; the 16th value repeats the 15th and is never chosen.
 * (They count a weight on an edge to the upper bin; here a tie gets the lower code.) Computed in binary64. min and max are
 * finite and min is less than max. */
INT4Q_API int4q_status int4q_codebook_linear_bins(float min, float max, int32_t levels, float values[16]);

/* Writes how much scratch int4q_codebook_fit() needs; it does not depend on the matrix (about 6 MB). */
INT4Q_API int4q_status int4q_codebook_fit_scratch(uint64_t *bytes);

/* Finds the 16 values, ascending, that leave rows row_begin..row_end-1 (at least one) of source[n][k] with the least sum of
 * weight * (element - nearest value)^2: one-dimensional k-means; Lloyd (1982) and Max (1960) for a sample. For
 * INT4Q_SCALE_ONE; called for one row after the other, each with its own place in [n][16], for INT4Q_CODEBOOK_PER_ROW.
 * `source` points at row 0.
 *
 * weights: importances [n][k] with weights_stride, `weights` pointing at row 0; with weights_stride 0 [k], the same for every
 * row (an importance matrix of input features); or NULL (weights_stride is then ignored): all 1. Finite, at least 0, not all
 * 0. An element of weight 0 counts for nothing but must be finite.
 *
 * Up to 65536 different elements (always, for the 16-bit types) the result is the optimum, by dynamic programming in binary64,
 * rounded to floats. Beyond that elements are first counted in as many bins, narrower than 2^-11 standard deviations for a
 * Gaussian sample, and the optimum over all borders between bins is found. Fewer than 16 different elements of weight above 0
 * are given exactly, and the largest one repeated (all zeros: 16 zeros, which a tensor does not take). The same bits for the
 * same call on every machine.
 *
 * mean_squared_error: receives the weighted mean of (element - nearest value)^2 for the values as written; may be NULL.
 * scratch: aligned to INT4Q_ALIGNMENT; its contents do not matter. NaN or infinity in those rows, or in their weights, is
 * INT4Q_ERROR_NOT_FINITE with the place, a negative weight or none above 0 INT4Q_ERROR_INVALID_ARGUMENT; nothing is written
 * then. */
INT4Q_API int4q_status int4q_codebook_fit(const void *source, int4q_type source_type, int64_t source_stride, int64_t n,
                                          int64_t k, int64_t row_begin, int64_t row_end, const float *weights,
                                          int64_t weights_stride, void *scratch, uint64_t scratch_bytes, float values[16],
                                          double *mean_squared_error);

/* Where two 4-bit integers stand in a byte. */
enum {
    INT4Q_NIBBLES_LOW_FIRST = 0,  /* element 2j in the low half of byte j, 2j + 1 in the high half (ONNX; this library) */
    INT4Q_NIBBLES_HIGH_FIRST = 1, /* the other way round (bitsandbytes) */
    INT4Q_NIBBLES_SPLIT_HALF = 2  /* in each block of `block` elements, j in the low half of byte j, j + block / 2 in the high
                                   * half (ggml: 32) */
};

/* Values of `flags`. */
enum {
    INT4Q_NIBBLES_SIGNED = 1 /* int8_t -8..7 in two's complement; without it uint8_t 0..15 */
};

/* Packs values[count], one byte each (int8_t or uint8_t as `flags` say), into ceil(count / 2) bytes; with SPLIT_HALF into
 * ceil(count / block) * block / 2. A last place without an element is 0. block: even, 2..65536, for SPLIT_HALF, else 0.
 * bytes_size is at least what is needed, bytes beyond are left alone. A value out of range is INT4Q_ERROR_INVALID_ARGUMENT
 * with its index; nothing is written then. count 0 does nothing, and pointers may be NULL. */
INT4Q_API int4q_status int4q_nibbles_pack(const void *values, int64_t count, int32_t order, int32_t block, uint32_t flags,
                                          void *bytes, uint64_t bytes_size);

/* The inverse: writes values[count]. bytes_size is at least what packing needs. Places without an element are not looked at. */
INT4Q_API int4q_status int4q_nibbles_unpack(const void *bytes, uint64_t bytes_size, int64_t count, int32_t order, int32_t block,
                                            uint32_t flags, void *values);

/* How int4q_quantize_int4_values() finds its one scale and zero point. */
enum {
    INT4Q_INT4_MINMAX = 0, /* s = (max - min) / 15 with 0 included in the range, z = round(-8 - min / s) clipped to -8..7 */
    INT4Q_INT4_ABSMAX = 1  /* s = max|value| / 7, z = 0 */
};

/* Values of `flags`. */
enum {
    /* What the Python package described at quantize.readthedocs.io does, with its defects: MINMAX does not include 0 in the
     * range and has z = 0, so that values far from zero saturate; and codes are cut to eight bits before they are clipped, so
     * that a code of 224 becomes -32 and then -8. For comparison only. */
    INT4Q_INT4_PUBLISHED = 1
};

/* Quantizes values[count], finite, all with one scale: codes[count] = round(value / s) + z, clipped to -8..7, in binary32, half
 * to even. method: INT4Q_INT4_*. A scale of 0 becomes 1. NaN or infinity, or with INT4Q_INT4_PUBLISHED a range that overflows
 * binary32, is INT4Q_ERROR_NOT_FINITE (with the index of the first such value); nothing is written then. int4q_quantize_rows()
 * is the quantizer for weights. count is at least 1. */
INT4Q_API int4q_status int4q_quantize_int4_values(const float *values, int64_t count, int32_t method, uint32_t flags,
                                                  int8_t *codes, float *scale, int32_t *zero_point);

/* The inverse: values[count] = (codes[count] - zero_point) * scale in binary32. Codes and zero_point are in -8..7; a code that
 * is not is INT4Q_ERROR_INVALID_ARGUMENT with its index, nothing is written then. scale is finite. count is at least 1. */
INT4Q_API int4q_status int4q_dequantize_int4_values(const int8_t *codes, int64_t count, float scale, int32_t zero_point,
                                                    float *values);

/* ---------------------------------------------------------------------------------------------------------------------
 * 8. Block formats
 *
 * Matrices in the bytes of ggml's 4-bit types, as GGUF files hold them: a row is cut into blocks of neighbours in k, and a
 * block's codes and scales lie together, so k must be a multiple of the block; [n][k / block] blocks without padding.
 * d, m, dmin are binary16, all numbers little-endian, q a code, V = 0 1 2 3 4 6 8 12 and their negatives (E2M1, doubled),
 * T = -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113:
 *
 *            block  bytes  a block's bytes                            a value
 *   Q4_0       32    18    d, codes[16]                               d * (q - 8)
 *   Q4_1       32    20    d, m, codes[16]                            d * q + m
 *   Q4_K      256   144    d, dmin, 8 x (s, b) in [12], codes[128]    d * s * q - dmin * b    s, b 6 bits, for each 32 values
 *   IQ4_NL     32    18    d, codes[16]                               d * T[q]
 *   MXFP4      32    17    e, codes[16]                               2^(e - 128) * V[q]
 *   NVFP4      64    36    e[4], codes[32]                            global_scale * e / 2 * V[q]  e UE4M3, for each 16 values
 *
 * MXFP4 is E2M1 with an E8M0 scale (OCP Microscaling Formats 1.0), NVFP4 E2M1 with E4M3 scales without their sign. The order
 * of the codes and the search for scales: docs/quantizers.md.
 * ------------------------------------------------------------------------------------------------------------------ */

typedef int32_t int4q_format;
enum {
    INT4Q_FORMAT_Q4_0 = 1,
    INT4Q_FORMAT_Q4_1 = 2,
    INT4Q_FORMAT_Q4_K = 3,
    INT4Q_FORMAT_IQ4_NL = 4,
    INT4Q_FORMAT_MXFP4 = 5,
    INT4Q_FORMAT_NVFP4 = 6
};

enum {
    /* The bytes that ggml's ggml_quantize_chunk() writes, with and without importance (of which MXFP4 and NVFP4 take no
     * notice). Two differences on purpose, for values that no scale holds: docs/quantizers.md. */
    INT4Q_SEARCH_REFERENCE = 0,
    /* A longer search for the smallest sum of importance * error^2, errors as the stored scales leave them. Slower; any
     * decoder of the format reads it. */
    INT4Q_SEARCH_BEST = 1
};

/* NULL in place of a pointer to it: REFERENCE, no importance, no global scale. */
typedef struct int4q_block_options {
    uint32_t struct_size;
    int32_t search;          /* INT4Q_SEARCH_* */
    const float *importance; /* [k], finite, 0 or more: how much an error in a column counts (an imatrix), or NULL for 1 */
    float global_scale;      /* NVFP4: above zero, finite; 0 stands for 1. Other formats: 0 or 1 */
    uint32_t reserved;
} int4q_block_options;

/* Writes the size of an n x k matrix in a format. */
INT4Q_API int4q_status int4q_blocks_size(int4q_format format, int64_t n, int64_t k, uint64_t *bytes);

/* Quantizes rows row_begin..row_end-1 of source[n][k] into the same rows of blocks (no alignment is asked for; blocks_bytes is
 * at least int4q_blocks_size()), so that a host may spread the rows over its threads. `source` and `blocks` point at row 0.
 * The result depends neither on how the rows are split nor on the instruction set.
 * A NaN or infinity in those rows, or a scale or minimum that the format cannot hold, is INT4Q_ERROR_NOT_FINITE; the
 * error's value names row and column. (MXFP4 holds all; NVFP4 clips what its scales cannot reach.) */
INT4Q_API int4q_status int4q_quantize_blocks(int4q_format format, const int4q_block_options *options, int64_t n, int64_t k,
                                             const void *source, int4q_type source_type, int64_t source_stride, void *blocks,
                                             uint64_t blocks_bytes, int64_t row_begin, int64_t row_end);

/* Writes rows row_begin..row_end-1 of the matrix that `blocks` stands for into the same rows of destination[n][k]: in binary32
 * the values that ggml computes (NVFP4: V times the rounded product of scale and global_scale), then rounded to the
 * destination's type. global_scale: as in int4q_block_options. Scales that are NaN or infinite give such values. */
INT4Q_API int4q_status int4q_dequantize_blocks(int4q_format format, float global_scale, int64_t n, int64_t k, const void *blocks,
                                               uint64_t blocks_bytes, void *destination, int4q_type destination_type,
                                               int64_t destination_stride, int64_t row_begin, int64_t row_end);

/* Writes the scheme with which a tensor holds exactly what a format's blocks stand for, and its codebook if it has one (else
 * zeros). `codebook` points to 16 floats, or is NULL.
 *   Q4_0 SYMMETRIC, F16   Q4_1 OFFSET, F16   Q4_K OFFSET, F32   IQ4_NL CODEBOOK, F16   MXFP4 CODEBOOK, BF16; groups of 32
 *   NVFP4 CODEBOOK, F32, groups of 16 */
INT4Q_API int4q_status int4q_format_scheme(int4q_format format, int4q_scheme *scheme, float *codebook);

/* Writes rows row_begin..row_end-1 of `blocks` into the same rows of *tensor, exactly: its scheme has the kind, group size and
 * scale type that int4q_format_scheme() tells (MXFP4: F32 too) and its codebook the same values. n and k are the tensor's.
 * A scale or minimum that is NaN or infinite is INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_blocks_to_tensor(int4q_format format, float global_scale, const void *blocks, uint64_t blocks_bytes,
                                              const int4q_tensor *tensor, int64_t row_begin, int64_t row_end);

/* The inverse, for Q4_0, Q4_1, IQ4_NL and MXFP4 (others are INT4Q_ERROR_UNSUPPORTED). Rules as there. MXFP4: a scale must be
 * a power of two from 2^-128 to 2^127, else INT4Q_ERROR_MISMATCH. */
INT4Q_API int4q_status int4q_tensor_to_blocks(int4q_format format, const int4q_tensor *tensor, void *blocks,
                                              uint64_t blocks_bytes, int64_t row_begin, int64_t row_end);

/* ---------------------------------------------------------------------------------------------------------------------
 * 9. Double quantization, outliers, twin ranges
 *
 * What is said at the top of this file holds here, too; `n` rows of `k` elements, and calls that take a range of rows or
 * blocks may be spread over threads: what they write does not depend on how the range is cut. Sources and formulas:
 * docs/quantizers.md.
 * ------------------------------------------------------------------------------------------------------------------ */

/* ---- Double quantization: scales of scales (Dettmers et al., "QLoRA", 2023) ----
 *
 * A list of scales is shifted by its mean, cut into blocks, and each block stored as a binary32 scale (its largest
 * magnitude) and one byte per element, the index of one of the 256 values of bitsandbytes' dynamic map:
 *
 *     scale = (map[code] * nested_scale) + offset        each operation rounded to binary32
 */

/* How a code is chosen from v = (scale - offset) * (1 / nested_scale), in binary32. */
enum {
    /* The value of the map nearest to v; halfway the lower code. */
    INT4Q_DOUBLE_NEAREST = 0,
    /* What bitsandbytes does on a CPU since 0.50: v is first rounded to one of 65536 steps from -1 to 1. To the byte. */
    INT4Q_DOUBLE_BITSANDBYTES = 1
};

/* Scales that are quantized themselves, in the caller's memory. */
typedef struct int4q_double_scales {
    uint32_t struct_size;
    int32_t rule;           /* INT4Q_DOUBLE_*; quantizing only */
    int64_t count;          /* how many scales, at least 1 */
    int64_t block_size;     /* scales that share a nested scale, at least 1; bitsandbytes has 256. The last block may be shorter */
    uint8_t *codes;         /* [count] */
    uint64_t codes_bytes;
    float *nested_scales;   /* [ceil(count / block_size)] */
    uint64_t nested_scales_bytes;
    float offset;           /* finite; of int4q_double_offset(), or any other */
    uint32_t reserved;
} int4q_double_scales;

/* Writes bitsandbytes' signed dynamic map, 256 values in ascending order from -0.993 to 1, into map[256]: to the bit what
 * create_dynamic_map() gives where PyTorch uses fused multiply-add. */
INT4Q_API int4q_status int4q_dynamic_map(float *map);

/* Writes the sizes of a double quantization's parts. Either pointer may be NULL. */
INT4Q_API int4q_status int4q_double_sizes(int64_t count, int64_t block_size, uint64_t *codes_bytes,
                                          uint64_t *nested_scales_bytes);

/* Writes the mean of scales[count], summed in binary64 in order of index, rounded to binary32. (bitsandbytes' is PyTorch's
 * mean in binary32, whose last bits depend on the machine: pass its own to get its bytes.) NaN or infinity among the scales
 * is INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_double_offset(const void *scales, int4q_type scales_type, int64_t count, float *offset);

/* Quantizes blocks block_begin..block_end-1 of scales[count]. A block of equal scales has nested scale |scale - offset|; if
 * that is 0 its codes are 0. A scale that is NaN or infinite, or whose distance from the offset is, is
 * INT4Q_ERROR_NOT_FINITE; the error's value names it as a column of row 0. */
INT4Q_API int4q_status int4q_double_quantize_scales(const int4q_double_scales *doubled, const void *scales,
                                                    int4q_type scales_type, int64_t block_begin, int64_t block_end);

/* Writes the scales that blocks block_begin..block_end-1 stand for to the same places of scales[count], rounded to their
 * type. Any bytes are valid codes; nested scales are used as they are. */
INT4Q_API int4q_status int4q_double_dequantize_scales(const int4q_double_scales *doubled, void *scales,
                                                      int4q_type scales_type, int64_t block_begin, int64_t block_end);

/* ---- Outliers kept as they are beside 4-bit weights (Zadeh et al., "GOBO", 2020) ----
 *
 *     moments of each row -> fit -> counts -> offsets -> split:  W = dense part + sparse part
 *     quantize the dense part -> int4q_outliers_correct(): sparse value = weight - what the dense part gives there
 *     y = int4q_matmul() of the dense part, then y += x * sparse part^T: int4q_sparse_add()
 */

/* Writes to moments[i][0] and moments[i][1] (binary64) the mean of row i of source[n][k] and the sum of the squares of its
 * elements' distances from it, for rows row_begin..row_end-1. NaN and infinity are INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_outliers_moments(const void *source, int4q_type source_type, int64_t n, int64_t k,
                                              int64_t source_stride, double *moments, int64_t row_begin, int64_t row_end);

/* Which weights are outliers: those below `lowest` or above `highest`. int4q_outliers_fit() fills it in; a host with another
 * rule (so many sigmas, a share of the largest) may set the two bounds itself, lowest <= highest. */
typedef struct int4q_outlier_fit {
    uint32_t struct_size;
    uint32_t reserved;
    double mean;   /* of all weights */
    double sigma;  /* the square root of the mean square distance from it: the normal distribution of largest likelihood */
    double limit;  /* |w - mean| beyond which ln(density of w) < log_density */
    float lowest;  /* the smallest and the largest binary32 value within the limit */
    float highest;
} int4q_outlier_fit;

/* Fits a normal distribution to an n x k matrix of these row moments. GOBO's log_density is -4; any finite number will do.
 * The density has a unit, and so the limit depends on the weights' scale: limit = sigma * sqrt(2 (-log_density -
 * ln(sigma sqrt(2 pi)))), 0 where that root is of a negative number, and infinite (no outliers) where sigma is 0. */
INT4Q_API int4q_status int4q_outliers_fit(const double *moments, int64_t n, int64_t k, double log_density,
                                          int4q_outlier_fit *fit);

/* A sparse n x k matrix in compressed rows: row i has the elements row_offsets[i]..row_offsets[i+1]-1, their columns in
 * ascending order. Wherever one is read, for the rows asked for: offsets must ascend within 0..capacity, and columns ascend
 * within 0..k-1 (INT4Q_ERROR_CORRUPT otherwise). k is at most 2^31 - 1. */
typedef struct int4q_sparse {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t n;
    int64_t k;
    int64_t capacity;      /* elements that columns and values have room for; 0: both may be NULL */
    int64_t *row_offsets;  /* [n + 1] */
    int32_t *columns;      /* [capacity] */
    float *values;         /* [capacity] */
} int4q_sparse;

/* Writes the number of outliers in row i of source[n][k] to row_counts[i], for rows row_begin..row_end-1. */
INT4Q_API int4q_status int4q_outliers_count(const int4q_outlier_fit *fit, const void *source, int4q_type source_type,
                                            int64_t n, int64_t k, int64_t source_stride, int64_t *row_counts,
                                            int64_t row_begin, int64_t row_end);

/* Writes the running sum of row_counts[n] (none negative) to row_offsets[n + 1]; *total is the capacity to make room for.
 * row_offsets may be row_counts in memory that has room for one element more. */
INT4Q_API int4q_status int4q_sparse_offsets(const int64_t *row_counts, int64_t n, int64_t *row_offsets, int64_t *total);

/* Splits rows row_begin..row_end-1: their outliers go to sparse->columns and values, as they are; dense[n][k] gets the other
 * weights, and in the outliers' places the mean (rounded to binary32, and within lowest..highest), all rounded to dense_type.
 * dense may be source (same pointer, type and stride). INT4Q_ERROR_MISMATCH if a row has not as many outliers as
 * sparse->row_offsets says. */
INT4Q_API int4q_status int4q_outliers_split(const int4q_outlier_fit *fit, const void *source, int4q_type source_type,
                                            int64_t source_stride, const int4q_sparse *sparse, void *dense,
                                            int4q_type dense_type, int64_t dense_stride, int64_t row_begin,
                                            int64_t row_end);

/* Sets each sparse value of rows row_begin..row_end-1 to the weight in source[n][k] less what *tensor dequantizes to there,
 * rounded to binary32: so dequantized weight + sparse value is the weight, to within 2^-24 of the sparse value. The tensor is
 * the dense part's, of any scheme. May be called again with another tensor. NaN and infinity in those places of the source are
 * INT4Q_ERROR_NOT_FINITE, as is a difference beyond binary32. */
INT4Q_API int4q_status int4q_outliers_correct(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                              int64_t source_stride, const int4q_sparse *sparse, int64_t row_begin,
                                              int64_t row_end);

/* y[i][j] += sum over l of x[i][l] * S[j][l], for i in 0..m-1 and j in row_begin..row_end-1 (rows of S, columns of y). Products
 * and their sum are binary64, in the order of the columns, then y is added and the whole rounded once to y's type (through
 * binary32 for 16-bit types):
 *
 *     |y' - (y + sum)| <= u |y'| + 2^-52 (1 + elements of row j) (|y| + sum of |x S|)
 *
 * with u = 2^-24 for F32, and for F16 and BF16 2^-11 and 2^-8, each plus 2^-24 (and half of the smallest denormal of either
 * type). Rows without elements leave their y alone. NaN and infinity go where IEEE 754 takes them. Same bits everywhere. */
INT4Q_API int4q_status int4q_sparse_add(const int4q_sparse *sparse, int64_t m, const void *x, int4q_type x_type, int64_t ldx,
                                        void *y, int4q_type y_type, int64_t ldy, int64_t row_begin, int64_t row_end);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_gobo_centroids() needs for an n x k matrix. */
INT4Q_API int4q_status int4q_gobo_scratch_size(int64_t n, int64_t k, uint64_t *scratch_bytes);

/* GOBO's 16 centroids for the weights of source[n][k] that are not outliers of *fit (NULL: for all), ascending, as a codebook
 * for INT4Q_KIND_CODEBOOK with INT4Q_SCALE_ONE. They start as the means of 16 parts of the sorted weights of equal number;
 * then each weight goes to the nearest centroid (halfway to the lower) and each centroid to the mean of its weights (one
 * without weights stays), as long as the sum of all distances falls. The best are rounded to binary32. Sums are differences
 * of the running sum of the sorted weights, in binary64.
 * *iterations (may be NULL) receives how often centroids were moved, *mean_error (may be NULL) the mean distance of the best
 * before they are rounded. No weight that is not an outlier is INT4Q_ERROR_INVALID_ARGUMENT. Weights that are all zero give a
 * codebook of zeros, which no scheme accepts. */
INT4Q_API int4q_status int4q_gobo_centroids(const int4q_outlier_fit *fit, const void *source, int4q_type source_type, int64_t n,
                                            int64_t k, int64_t source_stride, void *scratch, uint64_t scratch_bytes,
                                            float *centroids, int64_t *iterations, double *mean_error);

/* ---- Twin ranges for activations (Yuan et al., "PTQ4ViT", 2022) ----
 *
 * A 4-bit code whose highest bit names one of two ranges, each with its own step:
 *
 *     SOFTMAX   q < 8: first * q           q >= 8: second * (q - 8)     values from 0 to 1
 *     GELU      q < 8: first * (q - 8)     q >= 8: second * (q - 8)     values below and from 0 on
 */
enum {
    INT4Q_TWIN_SOFTMAX = 1,
    INT4Q_TWIN_GELU = 2
};

/* Which range a value of SOFTMAX takes; GELU's is its sign. */
enum {
    INT4Q_TWIN_BY_THRESHOLD = 0, /* the first up to 7 * first, as PTQ4ViT */
    INT4Q_TWIN_BY_ERROR = 1      /* the one that comes nearer; the first where both are as near */
};

/* Which second steps of GELU are tried; SOFTMAX's are always powers of two apart. */
enum {
    INT4Q_TWIN_STEPS_EVEN = 0,   /* the multiples of a hundredth up to 1.2 of max / 7.5 */
    INT4Q_TWIN_STEPS_POWER = 1   /* first * 2^i up to 1.2 of max / 7.5, twenty of them */
};

#define INT4Q_TWIN_MAX_CANDIDATES 100

typedef struct int4q_twin_ranges {
    int32_t kind;   /* INT4Q_TWIN_SOFTMAX or INT4Q_TWIN_GELU */
    int32_t choice; /* INT4Q_TWIN_BY_* */
    float first;    /* steps: finite, at least the smallest normal number of binary32 */
    float second;
} int4q_twin_ranges;

/* Writes the candidates of a search into candidates[INT4Q_TWIN_MAX_CANDIDATES], and how many there are.
 * SOFTMAX: second = 1 / 7, first = second * 2^-i for i in 0..19 (PTQ4ViT's splits 2^-i); largest and steps are not used.
 * GELU: first = 0.16997124 / 8 (the least value of GELU, in eight steps), second as `steps` says; `largest` is the largest
 * activation: finite, and large enough (8e-36) for steps that are allowed. */
INT4Q_API int4q_status int4q_twin_candidates(int32_t kind, int32_t choice, int32_t steps, float largest,
                                             int4q_twin_ranges *candidates, int64_t *count);

/* Writes to errors[c] the sum of the squared errors that candidates[c] makes of rows row_begin..row_end-1 of
 * source[rows][columns]; for c in 0..count-1. To spread a search over threads, add up what ranges of rows give. */
INT4Q_API int4q_status int4q_twin_errors(const int4q_twin_ranges *candidates, int64_t count, const void *source,
                                         int4q_type source_type, int64_t rows, int64_t columns, int64_t source_stride,
                                         double *errors, int64_t row_begin, int64_t row_end);

/* Quantizes rows row_begin..row_end-1 of source[rows][columns] to codes[rows][ceil(columns / 2)], low nibble first, a row of
 * odd length ends in a zero nibble. Nearest, half to even; clipped. NaN and infinity are INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_twin_quantize(const int4q_twin_ranges *ranges, const void *source, int4q_type source_type,
                                           int64_t rows, int64_t columns, int64_t source_stride, uint8_t *codes,
                                           uint64_t codes_bytes, int64_t row_begin, int64_t row_end);

/* The values of codes, computed in binary32 and rounded to the destination's type. */
INT4Q_API int4q_status int4q_twin_dequantize(const int4q_twin_ranges *ranges, const uint8_t *codes, uint64_t codes_bytes,
                                             int64_t rows, int64_t columns, void *destination, int4q_type destination_type,
                                             int64_t destination_stride, int64_t row_begin, int64_t row_end);

/* ---- Twin scales for weights: one scale for the negative values of a group, one for the positive ----
 *
 *     w = scale_negative * (q - 8) for q < 8,   scale_positive * (q - 8) for q >= 8
 */
typedef struct int4q_twin_tensor {
    uint32_t struct_size;
    int32_t group_size;      /* as int4q_scheme's */
    int4q_type scale_type;
    uint32_t reserved;
    int64_t n;
    int64_t k;
    void *codes;             /* as int4q_tensor's; sizes as int4q_tensor_sizes() tells for a SYMMETRIC scheme of this group size */
    uint64_t codes_bytes;
    void *scales_negative;   /* [n][groups_per_row] */
    uint64_t scales_negative_bytes;
    void *scales_positive;   /* [n][groups_per_row] */
    uint64_t scales_positive_bytes;
} int4q_twin_tensor;

/* Quantizes rows row_begin..row_end-1 of source[n][k]: scale_negative = -min / 8 and scale_positive = max / 7, 0 where no value
 * is below or above 0, rounded to their type; then codes, nearest to the stored scales, half to even, clipped. A group of one
 * positive value c has scale_positive c and code 9. Where a scale is 0, its values become 0. Errors as int4q_quantize_rows(). */
INT4Q_API int4q_status int4q_twin_quantize_rows(const int4q_twin_tensor *tensor, const void *source, int4q_type source_type,
                                                int64_t source_stride, int64_t row_begin, int64_t row_end);

/* The inverse, as int4q_dequantize_rows(). */
INT4Q_API int4q_status int4q_twin_dequantize_rows(const int4q_twin_tensor *tensor, void *destination,
                                                  int4q_type destination_type, int64_t destination_stride, int64_t row_begin,
                                                  int64_t row_end);

/* Fills two tensors whose sum is the twin tensor, to be packed into two blobs for a product in two calls, the second with the
 * first's result as its residual: the same codes, once with the codebook min(q - 8, 0) and scales_negative, once with
 * max(q - 8, 0) and scales_positive. Exact, since each weight is zero in one of them. Both refer to the twin tensor's memory
 * and to codebooks of the library; struct_size of both must be set, the rest need not be. */
INT4Q_API int4q_status int4q_twin_to_tensors(const int4q_twin_tensor *tensor, int4q_tensor *negative, int4q_tensor *positive);

/* ---------------------------------------------------------------------------------------------------------------------
 * 10. Calibration: from what a model computes on samples to the ranges of its quantizers. Definitions: docs/calibration.md
 *
 *     observer_init -> push batches of x -> merge the observers of all threads -> statistics, histogram -> range
 *
 * An observer is one flat block of the caller's memory, aligned to 64 bytes, free of pointers: its bytes may be written to a
 * file, sent to another machine and used there. Every call that takes one checks its header; int4q_observer_validate() checks
 * the rest, and is what bytes from elsewhere should pass first. In any case no byte outside the declared ones is touched.
 * Two threads must not push into one observer at a time: give each its own and merge.
 *
 * What is merged equals what one observer of all batches has, in any order and split: counts, extremes and histograms to the
 * bit, sums to the rounding of binary64.
 * ------------------------------------------------------------------------------------------------------------------ */

/* Which elements of x[rows][columns] share statistics: a "slot". */
enum {
    INT4Q_AXIS_TENSOR = 1,  /* all: one slot */
    INT4Q_AXIS_CHANNEL = 2, /* a column: slot j has column j; `extent` columns */
    INT4Q_AXIS_TOKEN = 3,   /* a row: slot i has row i of every batch; `extent` rows (a position, or a row of weights) */
    INT4Q_AXIS_GROUP = 4    /* group_size neighbouring columns, the last group perhaps fewer; `extent` columns */
};

/* What is observed besides the number of elements, the least and the largest: any of these, added up. */
enum {
    INT4Q_OBSERVE_MOMENTS = 1,   /* sums of x, |x| and x^2, in binary64 */
    INT4Q_OBSERVE_HISTOGRAM = 2, /* counts of values, `bins` bins of equal width on either side of zero */
    INT4Q_OBSERVE_AVERAGE = 4    /* moving averages of each batch's least and largest value. They depend on the order of the
                                  * batches, so such observers cannot be merged */
};

typedef struct int4q_observer_desc {
    uint32_t struct_size;
    uint32_t observed;   /* INT4Q_OBSERVE_*, or 0 */
    int32_t axis;        /* INT4Q_AXIS_* */
    int32_t group_size;  /* GROUP: at least 1; else 0 */
    int64_t extent;      /* at least 1; TENSOR: 0 */
    int64_t bins;        /* HISTOGRAM: a power of two, 16..65536; else 0 */
    float momentum;      /* AVERAGE: above 0, at most 1; else 0. average += momentum * (batch's - average) in binary64, and the
                          * first batch's value to begin with (PyTorch's and ONNX Runtime's averaging constant) */
    uint32_t reserved;
} int4q_observer_desc;

/* Writes the size of an observer. */
INT4Q_API int4q_status int4q_observer_size(const int4q_observer_desc *desc, uint64_t *bytes);

/* Makes an observer that has seen nothing in observer[observer_bytes]. Any contents before. */
INT4Q_API int4q_status int4q_observer_init(const int4q_observer_desc *desc, void *observer, uint64_t observer_bytes);

/* Takes a batch x[rows][columns], rows ldx elements apart, both at least 1; `extent` must be the columns (CHANNEL, GROUP) or
 * rows (TOKEN), or INT4Q_ERROR_MISMATCH. NaN and infinity are counted (int4q_observer_info) and otherwise left out. Negative
 * zero counts as zero. */
INT4Q_API int4q_status int4q_observer_push(void *observer, uint64_t observer_bytes, const void *x, int4q_type x_type,
                                           int64_t rows, int64_t columns, int64_t ldx);

/* Adds to *into what *from has seen, which stays as it is. Both must have been made with the same description, or
 * INT4Q_ERROR_MISMATCH; with AVERAGE INT4Q_ERROR_UNSUPPORTED. Both are validated first; nothing is changed on failure. */
INT4Q_API int4q_status int4q_observer_merge(void *into, uint64_t into_bytes, const void *from, uint64_t from_bytes);

/* Checks bytes from anywhere: header, sizes, and that all statistics agree with one another (counts with histograms, extremes
 * with bins, finite sums). INT4Q_ERROR_CORRUPT otherwise; INT4Q_ERROR_BUFFER_TOO_SMALL if the end is missing;
 * INT4Q_ERROR_BLOB_VERSION for another version of the format. A changed sum that is still a possible one cannot be noticed:
 * keep a checksum of your own beside a file. observer_bytes may exceed the observer's own size. */
INT4Q_API int4q_status int4q_observer_validate(const void *observer, uint64_t observer_bytes);

typedef struct int4q_observer_info {
    uint32_t struct_size;
    uint32_t reserved;
    int4q_observer_desc desc;
    uint64_t total_bytes;
    int64_t slots;
    int64_t batches;     /* pushed, in all merged observers */
    int64_t not_finite;  /* elements that were left out, in all slots */
} int4q_observer_info;

INT4Q_API int4q_status int4q_observer_get_info(const void *observer, uint64_t observer_bytes, int4q_observer_info *info);

/* A slot's statistics. Zeros for what is not observed, and for all if count is 0. */
typedef struct int4q_statistics {
    int64_t count;         /* finite elements */
    double sum;
    double sum_magnitudes; /* of |x| */
    double sum_squares;
    double bin_width;      /* a power of two: the least for which `bins` bins reach beyond max |x|, but at least 2^-100 / bins */
    float low;             /* the least value */
    float high;            /* the largest */
    float average_low;
    float average_high;
} int4q_statistics;

/* Writes the statistics of slots slot_begin..slot_end-1 to statistics[0..slot_end-slot_begin-1]. */
INT4Q_API int4q_status int4q_observer_statistics(const void *observer, uint64_t observer_bytes, int64_t slot_begin,
                                                 int64_t slot_end, int4q_statistics *statistics);

/* ---- Histograms and the ranges that they suggest ---- */

/* Counts of values in bins of equal width: counts[i] of lowest + i * width .. lowest + (i + 1) * width. Counts are not negative
 * and not all 0; their sum is below 2^53. */
typedef struct int4q_histogram {
    uint32_t struct_size;
    uint32_t reserved;
    const int64_t *counts;
    int64_t bins;     /* 1..2^20 */
    double lowest;    /* finite */
    double width;     /* finite, above 0 */
    float low;        /* the least and the largest value that was counted: ranges are kept within */
    float high;
} int4q_histogram;

enum {
    INT4Q_HISTOGRAM_SIGNED = 1,    /* 2 * bins bins around zero; a value on an edge belongs to the bin farther from zero */
    INT4Q_HISTOGRAM_MAGNITUDES = 2 /* bins bins of |x| from zero on; low and high are still those of x */
};

/* Writes a slot's histogram to counts[capacity] and describes it in *histogram (struct_size must be set), which then refers to
 * counts. The observer must have been made with HISTOGRAM (INT4Q_ERROR_MISMATCH). A slot that has seen nothing gives zeros. */
INT4Q_API int4q_status int4q_observer_histogram(const void *observer, uint64_t observer_bytes, int64_t slot, int32_t form,
                                                int64_t *counts, int64_t capacity, int4q_histogram *histogram);

/* A range to quantize: what lies beyond is clipped. */
typedef struct int4q_range {
    float low;
    float high;
    int64_t low_edge;  /* the bin edges that were chosen, 0..bins, before low and high were kept within the histogram's */
    int64_t high_edge;
    double score;      /* what was minimised at the choice; PERCENTILE: the share of the counts between the edges */
} int4q_range;

/* ONNX Runtime's percentile thresholds, `percentile` in 0..100. SIGNED: the edges below the first bins where the running share
 * of counts reaches (100 - percentile) / 200 and 1 minus that. MAGNITUDES: -e and e with the edge e below the first bin where it
 * reaches percentile / 100. Shares are added up in binary64 as numpy.cumsum(counts / total) does. */
INT4Q_API int4q_status int4q_range_percentile(const int4q_histogram *histogram, int32_t form, double percentile,
                                              int4q_range *range);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_range_entropy() needs. */
INT4Q_API int4q_status int4q_range_entropy_scratch(int64_t bins, uint64_t *bytes);

/* The range around the middle bin edge for which the clipped histogram and its copy in `quantized_bins` bins (128 for INT8, 15 or
 * 16 for INT4; 2..bins) have the least Kullback-Leibler divergence (Migacz, "8-bit inference with TensorRT", 2017, as ONNX
 * Runtime has it): the histogram is one of signed values around zero. O(bins * quantized_bins). Divergences are computed in
 * binary64; ONNX Runtime's binary32 sums can decide otherwise between two that agree to seven digits. Of equal ones the
 * narrowest range. */
INT4Q_API int4q_status int4q_range_entropy(const int4q_histogram *histogram, int64_t quantized_bins, void *scratch,
                                           uint64_t scratch_bytes, int4q_range *range);

/* A search for the range whose quantizer makes the least error: the sum over bins of count * |v - value of v's code|^norm, v the
 * bin's middle. Tried are (1 - i / steps) times the range of the values, i = 0..tried-1 (GPTQ: 100, 80, norm 2.4; norm 2 is the
 * mean squared error). The score is the sum over the counts' total; the first of equal ones wins. In binary64. */
typedef struct int4q_range_search {
    uint32_t struct_size;
    uint32_t reserved;
    int32_t lowest_code;  /* below highest_code; -8..7, -7..7, 0..15, -128..127; each within -32768..32767 */
    int32_t highest_code;
    double divisor;       /* above 0: symmetric, a = max |v|, range -a..a, step a / divisor, code rne(v / step) clipped;
                           * 0: asymmetric, range min(low, 0)..max(high, 0), step (range) / (highest - lowest), and an integer
                           * zero point, lowest_code - rne(low / step) clipped */
    double norm;          /* above 0, at most 8 */
    int32_t steps;        /* 1..10000 */
    int32_t tried;        /* 1..steps */
} int4q_range_search;

/* low_edge and high_edge are 0 and `bins`. */
INT4Q_API int4q_status int4q_range_of_least_error(const int4q_histogram *histogram, const int4q_range_search *search,
                                                  int4q_range *range);

/* ---- Analytic clipping (Banner et al., "Post training 4-bit quantization of convolutional networks", 2019) ---- */
enum {
    INT4Q_DISTRIBUTION_LAPLACE = 1, /* scale: b = E|x - mean| */
    INT4Q_DISTRIBUTION_GAUSS = 2    /* scale: sigma */
};

/* Writes the distance from the mean at which a quantizer of 2^bits levels (bits 1..16) had best clip, and the mean squared error
 * that it then expects; either may be NULL. With b or sigma 1 and 4 bits 5.0286 (Laplace) and 2.5591 (Gauss). For values after
 * ReLU, range 0..clip, ask for one bit more. scale: at least 0, finite. */
INT4Q_API int4q_status int4q_aciq_clip(int32_t distribution, int32_t bits, double scale, double *clip, double *mse);

/* Shares out bits among channels: channel i gets clip(round(2/3 log2 clips[i] + t), lowest, highest), with the largest t for which
 * the sum is at most `total`; what ties leave over goes to the lower channels. A clip of 0 gets `lowest`. clips: at least 0 and
 * finite; 0 <= lowest <= highest <= 16; count * lowest <= total, or INT4Q_ERROR_INVALID_ARGUMENT. */
INT4Q_API int4q_status int4q_aciq_share_bits(const double *clips, int64_t count, int32_t lowest, int32_t highest, int64_t total,
                                             int32_t *bits);

/* ---- Diagnosis ---- */

/* What int4q_outliers_fit() writes, with the limit z * sigma instead: outliers by z-score. z: at least 0, finite. */
INT4Q_API int4q_status int4q_outliers_fit_z(const double *moments, int64_t n, int64_t k, double z, int4q_outlier_fit *fit);

typedef struct int4q_element {
    int64_t row;
    int64_t column;
    float value;
    uint32_t reserved;
} int4q_element;

/* Writes the elements of source[rows][columns] with the largest magnitudes, in descending order, and how many: `capacity`, or all
 * elements if there are fewer. Of equal magnitudes the first come first. NaN and infinity are
 * INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_find_largest(const void *source, int4q_type source_type, int64_t rows, int64_t columns,
                                          int64_t source_stride, int4q_element *elements, int64_t capacity, int64_t *count);

/* How a tensor's codes are used. Shares are of what was looked at. */
typedef struct int4q_code_report {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t code_counts[16]; /* a histogram of codes */
    int64_t groups;
    int64_t groups_of_one_code;  /* all codes of a group of two or more are equal: it has collapsed */
    int64_t groups_at_floor;     /* |scale| is at most the floor, or not finite */
    int64_t rows_of_one_code;    /* of two or more */
    int64_t most_used_code;      /* the lowest of the most frequent codes */
    double most_used_share;      /* of all codes */
    double end_share;            /* of the lowest and the highest code (0 and 15) together: where values were clipped */
} int4q_code_report;

/* Looks at rows row_begin..row_end-1 (at least one row). scale_floor: at least 0; 1e-5 is a usual one. Codes of 8 bits are
 * INT4Q_ERROR_UNSUPPORTED. */
INT4Q_API int4q_status int4q_diagnose_codes(const int4q_tensor *tensor, float scale_floor, int64_t row_begin, int64_t row_end,
                                            int4q_code_report *report);

/* Writes for rows row_begin..row_end-1 the sums of squared differences between source[n][k] and what the tensor dequantizes to,
 * and of the squares of source: group_errors[n][groups_per_row] and group_squares, row_errors[n] and row_squares. Each may be
 * NULL, not all. In binary64, a group in order of k, a row in order of its groups. NaN and infinity in source are
 * INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_diagnose_errors(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                             int64_t source_stride, double *group_errors, double *group_squares,
                                             double *row_errors, double *row_squares, int64_t row_begin, int64_t row_end);

/* ---- Repair: undoing the bias that rounding and clipping leave ---- */

/* For each row W of source[n][k] and its dequantized row V: ratios[i] = |W - mean W| / |V - mean V| (1 where either is constant) and
 * shifts[i] = mean W / ratio - mean V, so that ratio * (V + shift) has W's mean and spread (Banner et al., 2019). In binary64.
 * Rows row_begin..row_end-1; NaN and infinity in source are INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_bias_measure(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                          int64_t source_stride, double *shifts, double *ratios, int64_t row_begin,
                                          int64_t row_end);

/* Writes the correction into the tensor: each scale of row i becomes scale * ratios[i], each offset (offset + shifts[i]) *
 * ratios[i], rounded to their type; not with INT4Q_SCALE_ONE
 * (INT4Q_ERROR_UNSUPPORTED). shifts is for OFFSET alone, and NULL for other kinds: they have no place for it; add
 * ratio * shift * sum of x to the product instead. Finite, ratios above 0. A scale or offset beyond its type is
 * INT4Q_ERROR_NOT_FINITE and nothing of that row is written. */
INT4Q_API int4q_status int4q_bias_apply(const int4q_tensor *tensor, const double *shifts, const double *ratios,
                                        int64_t row_begin, int64_t row_end);

/* Writes to corrections[i] the sum over k of (W[i][k] - V[i][k]) * x_means[k], in binary64 in order of k: what to add to a layer's
 * bias so that its outputs keep their mean, x_means being E[x] of each input channel (int4q_statistics of CHANNEL). Finite. */
INT4Q_API int4q_status int4q_bias_output(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                         int64_t source_stride, const double *x_means, double *corrections, int64_t row_begin,
                                         int64_t row_end);

/* ---- Selecting samples to calibrate with ---- */

/* Writes n of the numbers 0..count-1, drawn without replacement, in ascending order: every set of n is as likely as every other.
 * 1 <= n <= count. The same for the same seed on every machine: number i is taken if a random integer below count - i is less than
 * how many are still wanted (Knuth, The Art of Computer Programming, 3.4.2, algorithm S); the integers are Lemire's ("Fast random
 * integer generation in an interval", 2019) of SplitMix64 (Steele, Lea, Flood, 2014) with the seed as its state. Takes time in
 * proportion to count. */
INT4Q_API int4q_status int4q_select_random(int64_t count, int64_t n, uint64_t seed, int64_t *indices);

/* How rows are to be clustered. */
typedef struct int4q_clustering {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t clusters;       /* how many representatives are wanted: 1..2^31 - 1 */
    int64_t max_iterations; /* at least 0: how often centroids are moved at most (300 is usual) */
    uint64_t seed;
    const int64_t *initial; /* [clusters] rows that are the first centroids (each in 0..count-1), or NULL: k-means++ draws them */
} int4q_clustering;

typedef struct int4q_representatives {
    uint32_t struct_size;
    int32_t converged;  /* 1: no row would change its cluster; 0: max_iterations was reached first */
    int64_t selected;   /* how many representatives there are */
    int64_t iterations; /* how often centroids were moved */
    double inertia;     /* the sum of squared distances of rows from their centroids */
} int4q_representatives;

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_select_representatives() needs. */
INT4Q_API int4q_status int4q_select_representatives_scratch(int64_t count, int64_t dimensions, int64_t clusters, uint64_t *bytes);

/* Clusters the rows of features[count][dimensions] by k-means and writes the row nearest to each centroid to indices[clusters],
 * ascending, the number of rows in its cluster to sizes[clusters], and to labels[count] the place in `indices` of each row's
 * cluster; sizes and labels may be NULL. result may be NULL, else its struct_size must be set.
 *
 * The first centroids are rows drawn with probabilities in proportion to the squared distance from the nearest one so far
 * (k-means++: Arthur and Vassilvitskii, 2007). Then each row goes to its nearest centroid and each centroid to the mean of its
 * rows, until no row moves (Lloyd, 1982). A cluster that lost all rows gets the row that is farthest from its centroid. All in
 * binary64, distances in eight partial sums; of equal ones the lowest cluster or row. The same bits for the same call on every
 * machine.
 *
 * With fewer different rows than clusters there are only as many representatives; the places after result->selected get -1 and
 * size 0. With clusters >= count all rows are selected, each its own. NaN and infinity are INT4Q_ERROR_NOT_FINITE with the place;
 * nothing but scratch is written then. The call runs on one thread and takes count * dimensions * clusters steps for k-means++ and
 * for each iteration. */
INT4Q_API int4q_status int4q_select_representatives(const int4q_clustering *clustering, const void *features,
                                                    int4q_type features_type, int64_t count, int64_t dimensions,
                                                    int64_t features_stride, void *scratch, uint64_t scratch_bytes,
                                                    int64_t *indices, int64_t *sizes, int32_t *labels,
                                                    int4q_representatives *result);

/* ---------------------------------------------------------------------------------------------------------------------
 * 11. Integer-only inference: from the int32 sums of a product of integer codes to the codes of the next layer, without
 * floating point (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
 * Inference", 2018), to the bit what gemmlowp and TensorFlow Lite's reference kernels compute. docs/requantization.md
 *
 *     y = s_y (q_y - z_y) = sum of s_x (q_x - z_x) s_w (q_w - z_w)     so     q_y = z_y + M * (int32 sum),  M = s_x s_w / s_y
 *
 *     int4q_requantize_multiplier(): M -> multiplier * 2^(shift - 31), once
 *     int4q_requantize_rows():       sums, any int32 product of the host's -> codes
 * ------------------------------------------------------------------------------------------------------------------ */

/* Writes each of values[count] as multipliers[i] * 2^(shifts[i] - 31), rounded to nearest, halves up; multipliers[i] is in
 * 2^30..2^31-1 and shifts[i] in -31..30, or both are 0: for 0, and for what would need a shift below -31. Values are at least 0,
 * and what they round to is below 2^30; others, and NaN, are INT4Q_ERROR_INVALID_ARGUMENT with the index, nothing is written then.
 * count is at least 1. (TensorFlow Lite: QuantizeMultiplier.) */
INT4Q_API int4q_status int4q_requantize_multiplier(const double *values, int64_t count, int32_t *multipliers, int32_t *shifts);

/* What int4q_requantize_rows() writes; `low` and `high` must be within the type's range. */
enum {
    INT4Q_CODES_INT8 = 1,  /* int8_t */
    INT4Q_CODES_UINT8 = 2, /* uint8_t */
    INT4Q_CODES_INT4 = 3,  /* two to a byte, low nibble first, two's complement; a row of odd length ends in a zero nibble */
    INT4Q_CODES_UINT4 = 4, /* the same, 0..15 */
    INT4Q_CODES_INT32 = 5  /* int32_t, aligned: sums at another scale, as for adding a residual */
};

/* How column j of sums[m][n] becomes codes:
 *
 *     v = sum + bias[j]                                       modulo 2^32
 *     v = v * 2^shift, kept within int32                      if shift > 0           gemmlowp: ShiftLeft
 *     v = (v * multiplier + 2^30) / 2^31, rounded down        2^31 becomes 2^31 - 1  SaturatingRoundingDoublingHighMul
 *     v = v / 2^-shift to nearest, halves away from zero      if shift < 0           RoundingDivideByPOT
 *     code = v + zero_point, exactly, then kept within low..high
 */
typedef struct int4q_requantization {
    uint32_t struct_size;
    int32_t codes_type;         /* INT4Q_CODES_* */
    int64_t n;                  /* columns, at least 1 */
    int64_t multiplier_count;   /* 1: the same multiplier and shift for all columns; n: each column's own */
    const int32_t *multipliers; /* [multiplier_count], any int32 */
    const int32_t *shifts;      /* [multiplier_count], -31..30 */
    const int32_t *bias;        /* [n], or NULL for 0; also the place for -z_x * sum of (q_w - z_w), the same in all rows */
    int32_t zero_point;
    int32_t low;
    int32_t high;               /* at least low */
    uint32_t reserved;
} int4q_requantization;

/* Requantizes rows row_begin..row_end-1 of sums[m][n] (rows sums_stride elements apart) to the same rows of codes, which follow one
 * another: n bytes a row, ceil(n / 2) for INT4 and UINT4, 4 n for INT32; codes_bytes is at least m times that. Both point at row
 * 0. With INT32 and sums_stride n codes may be sums. m is at least 1. */
INT4Q_API int4q_status int4q_requantize_rows(const int4q_requantization *requantization, const int32_t *sums, int64_t sums_stride,
                                             int64_t m, void *codes, uint64_t codes_bytes, int64_t row_begin, int64_t row_end);
/* ---------------------------------------------------------------------------------------------------------------------
 * 12. Reconstruction: methods that use activations. Definitions and formulas: docs/reconstruction.md
 *
 *     gram_init -> push batches of x -> merge -> gptq_quantize(W) -> tensor, report
 *
 * A Gram matrix is one flat block of the caller's memory, aligned to 64 bytes, free of pointers, like an observer: it may be
 * written to a file, sent to another machine and used there. It takes 4 k^2 + O(k) bytes: one triangle in binary64.
 *
 * Calls with parallel_for are spread by it (on the calling thread alone if it is NULL), with at most worker_count workers,
 * 1..1024. All their arguments are checked first. Results have the same bits whatever the workers, the host's way to run them, and
 * the instruction set.
 * ------------------------------------------------------------------------------------------------------------------ */

/* ---- Gram matrices: G[i][j] = sum over rows of x[i] * x[j] ---- */

/* Writes the size of the Gram matrix of rows of k elements. */
INT4Q_API int4q_status int4q_gram_size(int64_t k, uint64_t *bytes);

/* Makes one that has seen nothing in gram[gram_bytes]. Any contents before. */
INT4Q_API int4q_status int4q_gram_init(int64_t k, void *gram, uint64_t gram_bytes);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_gram_push() needs: about 2048 k. */
INT4Q_API int4q_status int4q_gram_push_scratch(int64_t k, uint64_t *bytes);

/* Takes a batch x[rows][columns], rows ldx elements apart, at least 1; `columns` must be the matrix's k, or INT4Q_ERROR_MISMATCH.
 * Products are summed in binary32 over 128 rows (a chain of fused multiply-adds), and those sums in binary64: each G[i][j] is
 * off by at most 2^-17 sum |x[i] x[j]|. How rows are cut into batches shows in those last bits only.
 * NaN, infinity and magnitudes above 2^59 (whose squares overflow) are INT4Q_ERROR_NOT_FINITE; nothing is changed then. */
INT4Q_API int4q_status int4q_gram_push(void *gram, uint64_t gram_bytes, const void *x, int4q_type x_type, int64_t rows,
                                       int64_t columns, int64_t ldx, void *scratch, uint64_t scratch_bytes,
                                       uint32_t worker_count, int4q_parallel_for parallel_for, void *host);

/* int4q_gram_push() of rows with weights[rows]: G[i][j] = sum over rows r of weights[r] * x[r][i] * x[r][j]. A row is multiplied by
 * the root of its weight, in binary32, as it is read; channels' sums and maxima are those of such rows, and each counts as one row. For
 * a loss that minds some samples' outputs more than others': weights that are the squares of its gradient with respect to the
 * layer's outputs, averaged over these, make Fisher's information of it (Li et al., "BRECQ", 2021). Weights are finite and not
 * negative, or INT4Q_ERROR_NOT_FINITE; what is asked of x holds before and after scaling. */
INT4Q_API int4q_status int4q_gram_push_weighted(void *gram, uint64_t gram_bytes, const void *x, int4q_type x_type, int64_t rows,
                                                int64_t columns, int64_t ldx, const float *weights, void *scratch,
                                                uint64_t scratch_bytes, uint32_t worker_count, int4q_parallel_for parallel_for,
                                                void *host);

/* Sets what another program has computed: G is matrix[k][k], of which the upper triangle (j >= i) is read, and stands for `rows`
 * rows. Finite, no negative number on the diagonal, rows at least 1. The channels' other sums and maxima become 0. */
INT4Q_API int4q_status int4q_gram_set(void *gram, uint64_t gram_bytes, const double *matrix, int64_t stride, int64_t rows);

/* Adds to *into what *from has seen, which stays as it is. Both must be of one k, or INT4Q_ERROR_MISMATCH; sums that would overflow
 * are INT4Q_ERROR_NOT_FINITE. Both are validated first; nothing is changed on failure. */
INT4Q_API int4q_status int4q_gram_merge(void *into, uint64_t into_bytes, const void *from, uint64_t from_bytes);

/* As if every row had been pushed with `weight` (0..1) more, as int4q_gram_push_weighted() has it; and then products of different
 * channels, G[i][j] with i != j, times 1 - shrinkage (0..1). For matrices that are to count less than those they are merged with:
 * some tokens of a text have inputs a thousand times as large as others. Shrinking does for few samples, or samples of another
 * kind than later inputs, what it does for covariances (Ledoit and Wolf, "A well-conditioned estimator for large-dimensional
 * covariance matrices", 2004): methods rely less on what channels happen to have in common. NaN counts as out of range.
 * `gram` is validated before anything is changed. */
INT4Q_API int4q_status int4q_gram_scale(void *gram, uint64_t gram_bytes, double weight, double shrinkage);

/* Checks bytes from anywhere: header, sizes, and that all sums are finite, squares not negative, padding zero.
 * INT4Q_ERROR_CORRUPT, _BUFFER_TOO_SMALL, _BLOB_VERSION as for observers. gram_bytes may exceed the matrix's own size. */
INT4Q_API int4q_status int4q_gram_validate(const void *gram, uint64_t gram_bytes);

typedef struct int4q_gram_info {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t total_bytes;
    int64_t k;
    int64_t rows;    /* seen, in all merged matrices */
    int64_t batches;
} int4q_gram_info;

INT4Q_API int4q_status int4q_gram_get_info(const void *gram, uint64_t gram_bytes, int4q_gram_info *info);

/* An input channel: a column of x. Sums over all rows; zeros before the first. */
typedef struct int4q_channel {
    double sum;
    double sum_magnitudes; /* of |x| */
    double sum_squares;    /* G[j][j] */
    float max_magnitude;   /* max |x| */
    uint32_t reserved;
} int4q_channel;

/* Writes channels begin..end-1 to channels[0..end-begin-1]. */
INT4Q_API int4q_status int4q_gram_channels(const void *gram, uint64_t gram_bytes, int64_t begin, int64_t end,
                                           int4q_channel *channels);

/* Writes rows begin..end-1 of G, all k columns, to the same rows of matrix[k][k] (`matrix` points at row 0). */
INT4Q_API int4q_status int4q_gram_matrix(const void *gram, uint64_t gram_bytes, double *matrix, int64_t stride, int64_t begin,
                                         int64_t end);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_gram_loss() needs: about 64 k. */
INT4Q_API int4q_status int4q_gram_loss_scratch(int64_t k, uint64_t *bytes);

/* Writes to losses[i], for rows row_begin..row_end-1 of source[n][k] and of the tensor, what quantizing does to the layer's output:
 * (w - v) G (w - v)^T / rows, the mean over all rows x of ((w - v) . x)^2, with w row i of source and v of the dequantized tensor.
 * In binary64. NaN and infinity in source are INT4Q_ERROR_NOT_FINITE. The loss of a Gram matrix that has seen nothing is 0. */
INT4Q_API int4q_status int4q_gram_loss(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                       int64_t source_stride, const void *gram, uint64_t gram_bytes, void *scratch,
                                       uint64_t scratch_bytes, double *losses, int64_t row_begin, int64_t row_end);

/* ---- Cross matrices: what quantizing the layers before has done to a layer's inputs ----
 *
 * x is a row of the layer's inputs in the float model, y the same row in the model whose earlier layers are quantized:
 * D[i][j] = sum over rows of (x[i] - y[i]) * y[j]. Beside it goes the Gram matrix G of the same rows y (int4q_gram_push).
 * The layer's output should stay W x; with V in place of W it is V y. Per row, and over all rows of x and y,
 *
 *     sum (w x - v y)^2 = d G d^T + 2 (w D) d^T + sum (w (x - y))^2,    d = w - v
 *
 * of which the last does not depend on V. GPTAQ (int4q_gptq_options.cross) quantizes with that in view; int4q_cross_shift() finds
 * the weights that any other method then has to be near.
 *
 * Also one flat block of the caller's memory, aligned to 64 bytes: 8 k^2 bytes, a square in binary64. */

/* As the int4q_gram_* functions of these names. Scratch of a push: about 4096 k. */
INT4Q_API int4q_status int4q_cross_size(int64_t k, uint64_t *bytes);
INT4Q_API int4q_status int4q_cross_init(int64_t k, void *cross, uint64_t cross_bytes);
INT4Q_API int4q_status int4q_cross_push_scratch(int64_t k, uint64_t *bytes);

/* Takes two batches of rows that belong together, x[rows][columns] of the float model and y[rows][columns] of the quantized one.
 * x - y is rounded to binary32; then sums, refusals and threads are int4q_gram_push()'s. */
INT4Q_API int4q_status int4q_cross_push(void *cross, uint64_t cross_bytes, const void *x, int4q_type x_type, int64_t ldx,
                                        const void *y, int4q_type y_type, int64_t ldy, int64_t rows, int64_t columns,
                                        void *scratch, uint64_t scratch_bytes, uint32_t worker_count,
                                        int4q_parallel_for parallel_for, void *host);

/* Sets what another program has computed: D is matrix[k][k], finite, for `rows` rows. */
INT4Q_API int4q_status int4q_cross_set(void *cross, uint64_t cross_bytes, const double *matrix, int64_t stride, int64_t rows);
INT4Q_API int4q_status int4q_cross_merge(void *into, uint64_t into_bytes, const void *from, uint64_t from_bytes);
INT4Q_API int4q_status int4q_cross_validate(const void *cross, uint64_t cross_bytes);
INT4Q_API int4q_status int4q_cross_get_info(const void *cross, uint64_t cross_bytes, int4q_gram_info *info);

/* Writes rows begin..end-1 of D to the same rows of matrix[k][k] (`matrix` points at row 0). */
INT4Q_API int4q_status int4q_cross_matrix(const void *cross, uint64_t cross_bytes, double *matrix, int64_t stride, int64_t begin,
                                          int64_t end);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_cross_loss() needs: about 128 k. */
INT4Q_API int4q_status int4q_cross_loss_scratch(int64_t k, uint64_t *bytes);

/* As int4q_gram_loss(): losses[i] = (d G d^T + 2 (w D) d^T) / rows, by how much V leaves the output worse than W
 * itself, which is 0; below 0 where V makes up for what has happened to x. Both matrices are of the tensor's k and of one number of
 * rows, or INT4Q_ERROR_MISMATCH. */
INT4Q_API int4q_status int4q_cross_loss(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                        int64_t source_stride, const void *gram, uint64_t gram_bytes, const void *cross,
                                        uint64_t cross_bytes, void *scratch, uint64_t scratch_bytes, double *losses,
                                        int64_t row_begin, int64_t row_end);

/* ---- GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022) ----
 *
 * Columns of W are rounded one after the other; what rounding did to the layer's output is made up for in the columns that are
 * still to come, as well as the Gram matrix of its inputs says that they can. Each group's scale (and zero point or offset) is that
 * which int4q_quantize_rows() would choose for the group as it is when its first column's turn comes. */

/* The order in which columns are rounded. The tensor's columns stay where they are, whatever the order: none needs an index of
 * groups (g_idx). */
enum {
    INT4Q_GPTQ_ORDER_COLUMNS = 0,  /* as they stand */
    /* Descending diagonal of G ("act-order", "desc_act"). Neighbours in this order belong to different groups, so groups must be
     * static (INT4Q_GPTQ_STATIC_GROUPS) or whole rows; otherwise INT4Q_ERROR_UNSUPPORTED. */
    INT4Q_GPTQ_ORDER_ACTIVATIONS = 1,
    /* Whole groups in descending order of their largest diagonal element, and in each group its columns in descending order of
     * theirs (GPTQModel's "act_group_aware"). A shorter last group stays last. */
    INT4Q_GPTQ_ORDER_WITHIN_GROUPS = 2
};

/* Values of int4q_gptq_options.flags. */
enum {
    /* Scales, zero points and offsets are those of the weights as given: int4q_quantize_rows()'s own. */
    INT4Q_GPTQ_STATIC_GROUPS = 1,
    /* Weights of dead channels (diagonal 0) count as 0, as in the authors' program. Without it they are rounded to nearest: a
     * channel that these samples left alone may be used by others. */
    INT4Q_GPTQ_CLEAR_DEAD_CHANNELS = 2,
    /* The report's nearest_loss is the whole loss of rounding to nearest. Without it that is added up until it is known that GPTQ
     * does better, and no further: a third of the time is saved, as a rule, and the result is the same. */
    INT4Q_GPTQ_MEASURE_NEAREST = 4
};

/* Called on the thread that made the call, with 0 <= done <= total; a result other than 0 ends the call with INT4Q_ERROR_CANCELLED
 * soon. */
typedef int32_t (*int4q_progress)(void *context, int64_t done, int64_t total);

typedef struct int4q_gptq_options {
    uint32_t struct_size;
    uint32_t flags;        /* INT4Q_GPTQ_*, or 0 */
    int32_t order;         /* INT4Q_GPTQ_ORDER_* */
    uint32_t worker_count; /* 1..1024; each adds some scratch */
    double damping;        /* added to G's diagonal, as a share of its mean over live channels: 0.01 as a rule; 0..1e6 */
    double damping_step;   /* added to it while the damped matrix is not positive definite in binary32; above 0, at most 1e6 */
    int64_t attempts;      /* at most this many dampings are tried, 1..1000 */
    int4q_progress progress; /* or NULL */
    void *progress_context;
    const void *cross;     /* NULL, or a cross matrix: GPTAQ; of the Gram matrix's k and rows, or INT4Q_ERROR_MISMATCH */
    uint64_t cross_bytes;  /* 0 without one */
    double alpha;          /* share of the correction, 0..1: 0.25 in the authors' program, 1 in the paper; 0 without `cross` */
} int4q_gptq_options;

typedef struct int4q_gptq_report {
    uint32_t struct_size;
    uint32_t reserved;
    double damping;        /* that was used: options.damping + retries * options.damping_step */
    int64_t retries;
    int64_t rows;          /* samples in the Gram matrix; fewer than k leave it singular but for the damping */
    int64_t dead_channels;
    int64_t nearest_rows;  /* rows that rounding to nearest served no worse (to about 5 digits): these have its codes */
    double loss;           /* the sum of all rows' losses, as int4q_gram_loss() (with a cross matrix: int4q_cross_loss()) has them,
                              to about 5 digits of the damped loss */
    double nearest_loss;   /* the same of rounding to nearest; without INT4Q_GPTQ_MEASURE_NEAREST a part of it that exceeds loss */
} int4q_gptq_report;

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) for quantizing any n x k matrix: about 2 k^2 for a factor of G in
 * binary32, 4 k * max(128, group_size), and 600 k to 800 k for each worker. */
INT4Q_API int4q_status int4q_gptq_scratch(const int4q_scheme *scheme, int64_t k, uint32_t worker_count, uint64_t *bytes);

/* The same with options.cross: 2 k^2 + 4 k * max(128, group_size) more, and 256 k for each worker. */
INT4Q_API int4q_status int4q_gptq_cross_scratch(const int4q_scheme *scheme, int64_t k, uint32_t worker_count, uint64_t *bytes);

/* Quantizes source[n][k] with the Gram matrix of its inputs (of the tensor's k, or INT4Q_ERROR_MISMATCH) into all of *tensor: every
 * kind, rule, rounding, width and group size but BINARY and TERNARY (INT4Q_ERROR_UNSUPPORTED). INT4Q_SCALE_GIVEN's groups are
 * static. No row's loss is worse than int4q_quantize_rows() leaves it: where GPTQ does not improve on
 * that, the row keeps its codes. Each row's result depends on that row and G alone.
 *
 * With options.cross (Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025) the Gram matrix
 * is that of the inputs y in the quantized model, and w x is kept rather than w y: with U the triangular factor of the inverse of
 * G and P = alpha * triu(D U^T, 1) U, each column i also adds w[i] P[i][j] to the columns j after it, w[i] being its weight when
 * its turn comes. No row's loss (int4q_cross_loss) is worse than that of rounding to nearest. A cross matrix with elements that
 * are not finite, or above 2^80 times the mean of G's diagonal, is INT4Q_ERROR_CORRUPT.
 *
 * NaN, infinity, and scales beyond their type: as int4q_quantize_rows(). A Gram matrix that is not finite or has a negative
 * diagonal is INT4Q_ERROR_CORRUPT; one that is not positive definite with the last damping tried INT4Q_ERROR_INVALID_ARGUMENT
 * ("options.damping"). After a failure or cancellation the tensor's contents are unspecified. */
INT4Q_API int4q_status int4q_gptq_quantize(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                           int64_t source_stride, const void *gram, uint64_t gram_bytes,
                                           const int4q_gptq_options *options, void *scratch, uint64_t scratch_bytes,
                                           int4q_parallel_for parallel_for, void *host, int4q_gptq_report *report);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_cross_shift() needs: about 2 k^2, and 512 k for each
 * worker. */
INT4Q_API int4q_status int4q_cross_shift_scratch(int64_t k, uint32_t worker_count, uint64_t *bytes);

/* Writes to destination[n][k] the weights whose outputs for y are nearest to W x, and which are not far from W:
 *
 *     W' = W + alpha * W D H^-1,    H = G + damping * mean of its diagonal * I (dead channels: int4q_gptq_quantize())
 *
 * With alpha 1 that is where sum (W x - W' y)^2 + damping * mean * sum (W - W')^2 is least.
 *
 * Residuals: where the output is added to a stream, as in a transformer's blocks, the sum is what matters. Push rows [x, r] and
 * [y, s] of k + n elements, r[n] being what W x is added to in the float model, s[n] in the quantized one: of a cross matrix of
 * k + n channels the rows after the first k are E[i][j] = sum over rows of (r[i] - s[i]) * y[j], and
 *
 *     W' = W + alpha * (W D + E) H^-1
 *
 * is nearest to W x + r - s: it makes up for what earlier layers have done to the stream, too.
 *
 * To be given to any quantizer in place of W, with the Gram matrix of y: what it minimises then is what is left of the whole. Of
 * the options `flags` and `order` are 0; `cross` is given, of k or k + n channels. In binary32, rounded to the destination's type;
 * beyond its range infinity. destination may be source, with its type and stride. *damping (may be NULL): what was used. Each
 * row's result depends on that row and the matrices alone. NaN and infinity in source are INT4Q_ERROR_NOT_FINITE, other failures as
 * in int4q_gptq_quantize(); the destination's contents are
 * unspecified then. */
INT4Q_API int4q_status int4q_cross_shift(const void *source, int4q_type source_type, int64_t source_stride, const void *gram,
                                         uint64_t gram_bytes, const int4q_gptq_options *options, void *scratch,
                                         uint64_t scratch_bytes, int4q_parallel_for parallel_for, void *host, void *destination,
                                         int4q_type destination_type, int64_t destination_stride, int64_t n, int64_t k,
                                         double *damping);

/* ---- SmoothQuant (Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
 * 2022): x[j] / s[j] and W[i][j] * s[j] make the same outputs, and factors s move what is hard to quantize from one to the
 * other ---- */

/* Raises maxima[j] to the largest |W[i][j]| of source[rows][columns]. To begin with maxima are zeros; further matrices that share
 * the input add theirs by further calls. NaN and infinity are INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_column_maxima(const void *source, int4q_type source_type, int64_t rows, int64_t columns,
                                           int64_t source_stride, float *maxima);

/* factors[j] = max(x_maxima[j]^alpha / weight_maxima[j]^(1 - alpha), 1e-5), computed in binary64; 1 where either maximum is 0 (a
 * dead channel). x_maxima: max_magnitude of int4q_gram_channels(), or an observer's. alpha 0..1, 0.5 as a rule. Maxima are finite
 * and not negative; a factor beyond binary32 is INT4Q_ERROR_NOT_FINITE. factors may be either of the maxima. */
INT4Q_API int4q_status int4q_smooth_factors(const float *x_maxima, const float *weight_maxima, int64_t k, double alpha,
                                            float *factors);

enum {
    INT4Q_COLUMNS_MULTIPLY = 0,
    INT4Q_COLUMNS_DIVIDE = 1
};

/* destination[i][j] = source[i][j] times, or divided by, factors[j], for rows row_begin..row_end-1 of n x k: weights times factors,
 * the norm's weight before them (n 1), or x, divided by them. In binary32, then rounded to the destination's type; beyond its range
 * infinity. NaN and infinity pass. destination may be source, with its type and stride. Factors are finite and above 0. */
INT4Q_API int4q_status int4q_scale_columns(const void *source, int4q_type source_type, int64_t source_stride,
                                           const float *factors, int32_t operation, void *destination,
                                           int4q_type destination_type, int64_t destination_stride, int64_t n, int64_t k,
                                           int64_t row_begin, int64_t row_end);

/* ---- AWQ (Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", 2023): weights of
 * channels with large inputs are scaled up before quantizing, and their inputs down. Losses are those of int4q_gram_loss(), exact
 * for the rows that the Gram matrix has seen, where the authors' program runs the layer on samples. Scheme and codebook: as in
 * int4q_quantize_pack_rows() ---- */

typedef struct int4q_awq_options {
    uint32_t struct_size;
    uint32_t worker_count;   /* 1..1024; each adds some scratch */
    int32_t steps;           /* ratios r = 0, 1 / steps ... (steps - 1) / steps are tried: 20 as a rule, 1..1000 */
    uint32_t reserved;
    int4q_progress progress; /* or NULL */
    void *progress_context;
} int4q_awq_options;

typedef struct int4q_awq_report {
    uint32_t struct_size;
    int32_t step;      /* of the best ratio, step / steps; -1 if none is better than no scales: then all are 1 */
    double loss;       /* of W * scales, quantized, and divided by scales: all rows' losses added up */
    double plain_loss; /* of quantizing W itself */
} int4q_awq_report;

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) for an n x k matrix: about 12 k + n / 2, and 150 k for each worker. */
INT4Q_API int4q_status int4q_awq_scratch(const int4q_scheme *scheme, int64_t n, int64_t k, uint32_t worker_count, uint64_t *bytes);

/* Writes to scales[k] what to multiply W's columns with before quantizing (int4q_scale_columns), and to divide x by. For each
 * ratio r: t[j] = max(a[j]^r / (b[j]^(1 - r) + 1e-4), 1e-4), divided by sqrt(max t * min t); a[j] is the mean |x[j]| (where a
 * matrix of int4q_gram_set() does not know it: the root of the mean square), b[j] the mean over all rows of |W[i][j]| / (the
 * largest magnitude of its group + 1e-6). Written are the t of the least loss. Matrices that share the input are searched as one, their
 * rows below each other. NaN and infinity in source are INT4Q_ERROR_NOT_FINITE, and so are scales of groups that do not fit
 * scheme.scale_type with any t. */
INT4Q_API int4q_status int4q_awq_search(const int4q_scheme *scheme, const float *codebook, int64_t n, int64_t k,
                                        const void *source, int4q_type source_type, int64_t source_stride, const void *gram,
                                        uint64_t gram_bytes, const int4q_awq_options *options, void *scratch,
                                        uint64_t scratch_bytes, int4q_parallel_for parallel_for, void *host, float *scales,
                                        int4q_awq_report *report);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_awq_clip() needs: about 150 times the group size. */
INT4Q_API int4q_status int4q_awq_clip_scratch(const int4q_scheme *scheme, int64_t k, uint64_t *bytes);

/* For each group of rows row_begin..row_end-1 tries to clip its weights w to +-c, c = (1 - i / steps) times its largest magnitude
 * for i = 0 ... tried - 1, and writes to clips[n][groups_per_row] the c with the least (w - v) G (w - v)^T, of the first of them; v
 * are the group's clipped and quantized weights, G the square of the Gram matrix that is the group's own. steps 1..1000 (20
 * as a rule), tried 1..steps (10 as a rule). Writes the clipped weights to destination[n][k], if it is not NULL, for any quantizer;
 * it may be source, with its type and stride. NaN and infinity in source are INT4Q_ERROR_NOT_FINITE. A clip whose scale does not
 * fit scheme.scale_type is not taken; where none fits, nothing is clipped. */
INT4Q_API int4q_status int4q_awq_clip(const int4q_scheme *scheme, const float *codebook, int64_t n, int64_t k, const void *source,
                                      int4q_type source_type, int64_t source_stride, const void *gram, uint64_t gram_bytes,
                                      int32_t steps, int32_t tried, void *scratch, uint64_t scratch_bytes, float *clips,
                                      void *destination, int4q_type destination_type, int64_t destination_stride,
                                      int64_t row_begin, int64_t row_end);

/* ---- Coordinate descent: after any quantizer, one code at a time takes the value that is best given all others ---- */

/* Values of int4q_descent_options.flags. */
enum {
    /* After each sweep each group's scale becomes that which is best for its codes, by least squares, rounded to its type, if that
     * lowers the loss; of INT4Q_SCALE_POWER_OF_TWO, too, whose scales then are powers of two no longer. Not with INT4Q_SCALE_ONE
     * (INT4Q_ERROR_UNSUPPORTED). */
    INT4Q_DESCENT_REFIT_SCALES = 1
};

typedef struct int4q_descent_options {
    uint32_t struct_size;
    uint32_t flags;  /* INT4Q_DESCENT_*, or 0 */
    int64_t sweeps;  /* over all columns, at most; 1..10000. Sixteen rows end when a sweep changes none of them */
} int4q_descent_options;

typedef struct int4q_descent_report {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t sweeps;         /* the most that any row needed, with the last one, which changed nothing */
    int64_t changed_codes;
    int64_t changed_scales;
    double loss;            /* the sum of the rows' losses, as int4q_gram_loss() has them */
    double start_loss;      /* the same, before */
} int4q_descent_report;

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_gram_descend() needs: about 350 k; 8 bits: 15 KB more. */
INT4Q_API int4q_status int4q_gram_descend_scratch(const int4q_scheme *scheme, int64_t k, uint64_t *bytes);

/* Improves rows row_begin..row_end-1 of *tensor, which some quantizer has made from source[n][k], with the Gram matrix of its
 * inputs; BINARY and TERNARY are INT4Q_ERROR_UNSUPPORTED. With r = G (w - v), a code of column j gets, of its group's values, the
 * nearest to v[j] + r[j] / G[j][j]; r follows each change. A row whose loss is not lower in the end keeps what it had. Columns with
 * G[j][j] = 0 are left alone. Each row's result depends on itself and G alone, but for `sweeps` (rows 16 i ... 16 i + 15 after
 * row_begin end together). NaN and infinity in source are INT4Q_ERROR_NOT_FINITE; rows before them are done. */
INT4Q_API int4q_status int4q_gram_descend(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                          int64_t source_stride, const void *gram, uint64_t gram_bytes,
                                          const int4q_descent_options *options, void *scratch, uint64_t scratch_bytes,
                                          int64_t row_begin, int64_t row_end, int4q_descent_report *report);

/* ---- HQQ (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023): needs no activations ---- */

typedef struct int4q_hqq_options {
    uint32_t struct_size;
    int32_t iterations; /* at most; 20 as a rule, 0..1000 */
    double p;           /* of the norm |w - v|^p that is minimised: 0.7 as a rule. Above 0, at most 1 */
    double beta;        /* how closely e (below) follows w - v: 10 as a rule. Above 0, finite */
} int4q_hqq_options;

/* Quantizes rows row_begin..row_end-1 of source[n][k] into *tensor, as int4q_quantize_rows() does, but for the offsets: each
 * group's is improved, with its scale s as it is. In each iteration, with v = s q + o the nearest values and d = w - v:
 * e = sign(d) * max(|d| - |d|^(p - 1) / beta, 0), o = mean(w - e - s q), rounded to its type; ends when a group's mean |d| is no
 * longer falling (the authors' program: the whole tensor's), and keeps the offset of the least. OFFSET with
 * INT4Q_ROUNDING_NEAREST_EVEN alone; others are INT4Q_ERROR_UNSUPPORTED. NaN, infinity: as int4q_quantize_rows(). */
INT4Q_API int4q_status int4q_hqq_quantize(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                          int64_t source_stride, const int4q_hqq_options *options, int64_t row_begin,
                                          int64_t row_end);

/* ---- Learned rounding: after any quantizer, gradient descent decides which weights are rounded up and which down. The gradient of a
 * row's loss with respect to its values v is -2 (w - v) G: no network is run, nothing differentiated ---- */

/* How. p = w / s + z (w / s + 8, (w - o) / s) is a weight in steps of its group, moved by a whole number of them where the tensor
 * has another code than the nearest, so that all begin with the codes of the tensor as it is. */
enum {
    /* AutoRound (Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs", 2023): q =
     * clip(round(p + V)), -1/2 <= V <= 1/2. V and two factors of each group's range, of its upper and its lower end (SYMMETRIC:
     * one, of its scale), go against the sign of their gradient, in which rounding counts as the identity, by steps that fall to 0
     * linearly. The iterate of the least loss is kept, for each row its own. */
    INT4Q_LEARN_AUTOROUND = 0,
    /* AdaRound (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020; BRECQ: Li et al., 2021): q =
     * clip(floor(p) + h), h = clip(1.2 / (1 + exp(-V)) - 0.1, 0, 1), which begins as p - floor(p); Adam on the loss plus
     * regularization * (1 - |2 h - 1|^beta) for each weight, beta falling linearly from first_exponent to last_exponent once
     * warm_up of the iterations have gone by without the latter. In the end h > 1/2 is 1. Scales stay. */
    INT4Q_LEARN_ADAROUND = 1
};

/* What is said of one method counts for nothing with the other, but must be in its range. */
typedef struct int4q_learning_options {
    uint32_t struct_size;
    uint32_t worker_count;    /* 1..1024; each adds some scratch */
    int32_t method;           /* INT4Q_LEARN_* */
    uint32_t reserved;
    int64_t iterations;       /* AUTOROUND 200 as a rule, ADAROUND 1000; 1..1000000 */
    double step;              /* of V: AUTOROUND the first, 1 / iterations as a rule; ADAROUND Adam's, 0.02 as a rule. Above 0..1e6 */
    double range_step;        /* AUTOROUND: of the ranges' factors; 0: ranges stay as they are. 0..1e6 */
    double least_range;       /* AUTOROUND: factors are least_range..most_range: 0.5 and 1 as a rule, and 1 to begin with. Above 0, */
    double most_range;        /* at most 1; 1..2 */
    double regularization;    /* ADAROUND: in units of the row's loss before, divided by k: 30 as a rule. 0..1e6 */
    double warm_up;           /* ADAROUND: 0 as a rule (the authors' program: 0.2); 0..1 */
    double first_exponent;    /* ADAROUND: 20 as a rule; 1..1000 */
    double last_exponent;     /* ADAROUND: 2 as a rule; 1..1000 */
    int4q_progress progress;  /* or NULL; counts iterations of 64 rows */
    void *progress_context;
} int4q_learning_options;

typedef struct int4q_learning_report {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t improved_rows;   /* others have kept what they had */
    int64_t changed_codes;
    int64_t changed_scales;  /* groups whose scale, zero point or offset is another */
    int64_t best_iteration;  /* AUTOROUND: of the iterates that were kept the latest, from 0, the start. ADAROUND: 0 */
    double loss;             /* the sum of all rows' losses, as int4q_gram_loss() has them */
    double start_loss;       /* the same, before */
} int4q_learning_report;

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) for improving any n x k matrix: 4 k^2 for G in binary32, and for each
 * worker 1920 k, 5 KB for each group of a row, and 76 KB. */
INT4Q_API int4q_status int4q_learn_rounding_scratch(const int4q_scheme *scheme, int64_t k, uint32_t worker_count, uint64_t *bytes);

/* Improves *tensor, which some quantizer has made from source[n][k], with the Gram matrix of its inputs (of the tensor's k, or
 * INT4Q_ERROR_MISMATCH). SYMMETRIC, ASYMMETRIC and OFFSET, of any rule, rounding, width and group size; other kinds, whose values
 * are not evenly spaced or too few, are INT4Q_ERROR_UNSUPPORTED. Scales, zero points and offsets are always as stored, rounded to
 * their types; with INT4Q_SCALE_GIVEN and INT4Q_SCALE_POWER_OF_TWO they stay. Gradients are computed in binary32 (sums of 128
 * products, continued in binary64); a row whose loss, as int4q_gram_loss() computes it, is not lower in the end keeps what it had.
 * Each row's result depends on itself and G alone.
 *
 * NaN and infinity in source are INT4Q_ERROR_NOT_FINITE, a Gram matrix that is not finite or has a negative diagonal is
 * INT4Q_ERROR_CORRUPT. After a failure or cancellation some rows are improved, and others as they were. */
INT4Q_API int4q_status int4q_learn_rounding(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                            int64_t source_stride, const void *gram, uint64_t gram_bytes,
                                            const int4q_learning_options *options, void *scratch, uint64_t scratch_bytes,
                                            int4q_parallel_for parallel_for, void *host, int4q_learning_report *report);

/* ---------------------------------------------------------------------------------------------------------------------
 * 13. Transformations: other matrices that make the same outputs, or nearly, and are easier to quantize. Definitions, formulas and
 * figures: docs/transformations.md. parallel_for, workers and their promises: as in section 12.
 * ------------------------------------------------------------------------------------------------------------------ */

/* ---- Rotation by Hadamard matrices (Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", 2024) ----
 *
 * H is an orthogonal matrix of `order` with elements +-1 / sqrt(order): order = 2^a, 12 * 2^a, 20 * 2^a or 28 * 2^a, at most 2^24.
 * s are random signs, one for each of the k elements that are transformed, made from `seed`; with seed 0 all are 1. Then
 *
 *     forward  z = H (s * x)      inverse  x = s * (H^T z)
 *
 * for each block of `order` elements of a row, so k must be a multiple of the order (INT4Q_ERROR_MISMATCH). With x and the rows of
 * W rotated by the same order and seed, x W^T stays what it was, and outliers are spread over their block. H is
 * Walsh-Hadamard's matrix, or its Kronecker product with one of order 12, 20 (Paley's first construction) or 28 (his second). It
 * takes n log n additions in binary32, in one order: the same bits on every machine, for any threads and cuts. */

/* Writes the largest order that divides k: 4096 for 4096, 14336 for 14336 = 28 * 512, 192 for 576, 1 for odd numbers. k at least
 * 1. */
INT4Q_API int4q_status int4q_hadamard_order(int64_t k, int64_t *order);

enum {
    INT4Q_HADAMARD_ROWS = 0,   /* each row of n x k, k elements: x, and W on its input side */
    INT4Q_HADAMARD_COLUMNS = 1 /* each column, n elements: W on its output side, so that the layer's outputs come out rotated */
};
enum {
    INT4Q_HADAMARD_FORWARD = 0,
    INT4Q_HADAMARD_INVERSE = 1
};

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_hadamard_transform() needs: 4 * order for ROWS, but 0
 * (scratch may be NULL then) if the destination is F32; 64 * order for COLUMNS. */
INT4Q_API int4q_status int4q_hadamard_scratch(int64_t order, int32_t side, int4q_type destination_type, uint64_t *bytes);

/* Transforms rows begin..end-1 (COLUMNS: columns begin..end-1) of source[n][k] into the same ones of destination. Both point at
 * row 0; destination may be source, with its type and stride. Computed in binary32, then rounded to the destination's type; beyond
 * its range infinity. NaN and infinity spread over their block of `order` elements; sums of magnitudes near 3.4e38 may overflow.
 * Results do not depend on how the rows or columns are cut. n and k are at least 1. */
INT4Q_API int4q_status int4q_hadamard_transform(int64_t order, uint64_t seed, int32_t side, int32_t direction, const void *source,
                                                int4q_type source_type, int64_t source_stride, void *destination,
                                                int4q_type destination_type, int64_t destination_stride, int64_t n, int64_t k,
                                                void *scratch, uint64_t scratch_bytes, int64_t begin, int64_t end);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_gram_rotate() needs: about 16 * order, but not less than
 * 13 KB, for each worker. */
INT4Q_API int4q_status int4q_gram_rotate_scratch(int64_t order, uint32_t worker_count, uint64_t *bytes);

/* Writes to *rotated the Gram matrix of rotated inputs, H S G S H^T (inverse: S H^T G H S), in binary64: what GPTQ, AWQ and the
 * others ask for where W has been rotated. `rotated` is a block of the size of `gram` that may contain anything, or `gram` itself.
 * Rows, batches and the channels' sums are those of the rotated inputs; sums of magnitudes and maxima cannot be known and become
 * 0, as after int4q_gram_set(). `gram` is validated (int4q_gram_validate) before anything is written. */
INT4Q_API int4q_status int4q_gram_rotate(int64_t order, uint64_t seed, int32_t direction, const void *gram, uint64_t gram_bytes,
                                         void *rotated, uint64_t rotated_bytes, void *scratch, uint64_t scratch_bytes,
                                         uint32_t worker_count, int4q_parallel_for parallel_for, void *host);

/* ---- Low-rank residuals (Zhang et al., "LQER: Low-Rank Quantization Error Reconstruction for LLMs", 2024; Li et al.,
 * "SVDQuant", 2024): W = V + A B with a quantized V, A[n][rank] and B[rank][k], so that y = x V^T + (x B^T) A^T ---- */

/* A and B over the caller's memory, both of one type, aligned to its size. */
typedef struct int4q_lowrank {
    uint32_t struct_size;
    int4q_type type;
    int64_t n;         /* at least 1 */
    int64_t k;         /* at least 1 */
    int64_t rank;      /* 1..256, at most n and k */
    void *a;           /* [n][rank] */
    int64_t a_stride;  /* elements, at least rank */
    void *b;           /* [rank][k] */
    int64_t b_stride;  /* elements, at least k */
} int4q_lowrank;

/* Values of int4q_lowrank_options.flags. */
enum {
    /* The loss before, which takes the most time with a Gram matrix, is not measured: start_loss and loss are 0. */
    INT4Q_LOWRANK_SKIP_LOSS = 1
};

typedef struct int4q_lowrank_options {
    uint32_t struct_size;
    uint32_t flags;        /* INT4Q_LOWRANK_*, or 0 */
    uint32_t worker_count; /* 1..1024; each adds some scratch */
    int32_t iterations;    /* of subspace iteration, 0..1000: 4 as a rule; each applies the residual and its transpose once more */
    uint64_t seed;         /* of the first subspace */
} int4q_lowrank_options;

typedef struct int4q_lowrank_report {
    uint32_t struct_size;
    uint32_t reserved;
    double start_loss; /* without A B: the sum of int4q_gram_loss() over all rows; without a Gram matrix of squared residuals */
    double loss;       /* with A B as they are stored: start_loss - reduction */
    double reduction;  /* to about 5 digits */
} int4q_lowrank_report;

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) for factors of an n x k matrix: about 4 (n + 2 k) (rank + 16), and
 * 64 k + 2200 (rank + 16) + 2^17 for each worker. */
INT4Q_API int4q_status int4q_lowrank_scratch(int64_t n, int64_t k, int64_t rank, uint32_t worker_count, uint64_t *bytes);

/* Writes to factors->a and ->b (values are rounded to their type) the A B that is closest to the residual R = source - what
 * *tensor stands for, or R = source if tensor is NULL: the least tr((R - A B) G (R - A B)^T) over all matrices of that rank, G
 * being the Gram matrix of the inputs, or the least sum of squares of R - A B if gram is NULL (gram_bytes 0). tensor and gram are
 * of the factors' n and k, or INT4Q_ERROR_MISMATCH.
 *
 * The columns of A span the first eigenvectors of R G R^T, found by randomized subspace iteration (Halko, Martinsson and Tropp,
 * "Finding Structure with Randomness", 2011) with at least 8 more dimensions than the rank; B = A^+ R. G may be singular: nothing
 * is inverted. Products with R in binary32 (128 at a time, their sums in binary64), with G in binary64. A's and B's columns and
 * rows are scaled by powers of two so that both have about equal magnitudes. What cannot be explained any more (R of lower rank)
 * gets zeros.
 *
 * NaN and infinity in source are INT4Q_ERROR_NOT_FINITE, and so are factors beyond their type. A Gram matrix that is not finite or
 * has a negative diagonal is INT4Q_ERROR_CORRUPT. After a failure the factors' contents are unspecified. */
INT4Q_API int4q_status int4q_lowrank_fit(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                         int64_t source_stride, const void *gram, uint64_t gram_bytes,
                                         const int4q_lowrank_options *options, const int4q_lowrank *factors, void *scratch,
                                         uint64_t scratch_bytes, int4q_parallel_for parallel_for, void *host,
                                         int4q_lowrank_report *report);

/* y += (x B^T) A^T for rows row_begin..row_end-1 of x[m][k] and y[m][n] (both point at row 0). In binary32: a product is rounded,
 * then added; of each sum element j goes to partial sum j mod 16 in order, and those are folded 8, 4, 2, 1; the sum is added to y,
 * rounded to its type. The same bits on every machine and for any cut. NaN and infinity pass as IEEE 754 says. m is at least 1. */
INT4Q_API int4q_status int4q_lowrank_add(const int4q_lowrank *factors, const void *x, int4q_type x_type, int64_t ldx, void *y,
                                         int4q_type y_type, int64_t ldy, int64_t m, int64_t row_begin, int64_t row_end);

/* destination = source - A B for rows row_begin..row_end-1 of n x k matrices (both point at row 0): what is left to be quantized
 * where A B was fitted to the weights themselves, as SVDQuant does. In binary32, products in ascending order of the rank, then
 * rounded to the destination's type. destination may be source, with its type and stride. NaN and infinity pass. */
INT4Q_API int4q_status int4q_lowrank_subtract(const int4q_lowrank *factors, const void *source, int4q_type source_type,
                                              int64_t source_stride, void *destination, int4q_type destination_type,
                                              int64_t destination_stride, int64_t row_begin, int64_t row_end);

/* ---- Channel reassembly (Liu et al., "QLLM: Accurate and Efficient Low-Bitwidth Quantization for Large Language Models",
 * 2024) ----
 *
 * Channel j of x with a maximum above a threshold is split into T = ceil(max / threshold) channels x[j] / T, each with column j
 * of W: the outputs stay, and what is hardest to quantize in x is smaller. To keep the width, as many pairs of similar channels
 * are merged: their mean in x, the sum of their columns in W. It pays only where activations are quantized. */

/* Part of a new channel: x'[target] += x_factor * x[source], W'[..][target] += W[..][source]. */
typedef struct int4q_channel_part {
    int32_t target;
    int32_t source;
    float x_factor;
    uint32_t reserved;
} int4q_channel_part;

/* A map from k channels to new_k: parts in ascending order of target, each of 0..new_k-1 having at least one; sources 0..k-1.
 * Other maps than int4q_reassembly_plan()'s are allowed: a permutation, say. */
typedef struct int4q_reassembly {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t k;
    int64_t new_k;
    int64_t part_count;
    const int4q_channel_part *parts;
} int4q_reassembly;

/* Values of int4q_reassembly_options.flags. */
enum {
    /* Nothing is merged: new_k is k plus the number of copies, which follow the k channels. */
    INT4Q_REASSEMBLY_WIDEN = 1
};

typedef struct int4q_reassembly_options {
    uint32_t struct_size;
    uint32_t flags;       /* INT4Q_REASSEMBLY_*, or 0 */
    double threshold;     /* above 0; 0: searched, which needs the weights' Gram matrix */
    int64_t most_copies;  /* channels that may be added (and merged away), 0..k/2 */
    int32_t steps;        /* of the search: thresholds max * i / steps, i = 1 ... steps. 1..1000; 20 as a rule */
    int32_t bits;         /* of the search: activations are rounded to so many, 2..16, 8 for INT8 mode ... */
    int64_t group_size;   /* ... in groups of so many neighbours, each by its own largest magnitude; 0: whole rows */
} int4q_reassembly_options;

typedef struct int4q_reassembly_report {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t new_k;
    int64_t part_count;     /* k + copies */
    int64_t split_channels;
    int64_t copies;         /* channels added by splitting, and, unless INT4Q_REASSEMBLY_WIDEN, merged away */
    double threshold;
    double merge_loss;      /* mean over the rows of the squared error of the outputs, each merged pair for itself, added up */
    double rounding_loss;   /* the search's estimate for rounding activations; 0 without the weights' Gram matrix */
} int4q_reassembly_report;

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_reassembly_plan() needs: about 32 k. */
INT4Q_API int4q_status int4q_reassembly_scratch(int64_t k, uint64_t *bytes);

/* Plans a map for inputs whose Gram matrix is `gram` (its channels' maxima must be known: pushed, not set), and writes its parts
 * to parts[capacity]; k + most_copies suffices. `weights` is the Gram matrix of W's rows, of the same k: int4q_gram_push() of all
 * matrices that share the input; it may be NULL (weights_bytes 0).
 *
 * Copies of a channel, the first apart, take the places of channels that are merged away, in ascending order. Which are: of the
 * channels that are not split every second one, in ascending order, looks for the most similar one of the others, and the pairs
 * of the least distance are merged, |x_i - x_j|^2 |W_i - W_j|^2 / 4 (bipartite matching; x_i, W_i are columns; without `weights`
 * the second factor is 1). That is the squared error that merging the two causes, over all rows. Several may merge into one.
 * Ties: the lower channel.
 *
 * The search takes the threshold of least merge_loss + rounding_loss; the latter is the sum over groups of step^2 / 12 times the
 * squares of their columns of W', step^2 = (sum of v^(5/2))^(2/5) / (2^(bits - 1) - 1)^2, v being the group's mean squares: about
 * what a row's largest square is on average. Thresholds that need more than most_copies copies, or more than there are channels
 * to merge, are not tried; a given one is INT4Q_ERROR_INVALID_ARGUMENT. */
INT4Q_API int4q_status int4q_reassembly_plan(const void *gram, uint64_t gram_bytes, const void *weights, uint64_t weights_bytes,
                                             const int4q_reassembly_options *options, int4q_channel_part *parts, int64_t capacity,
                                             void *scratch, uint64_t scratch_bytes, int4q_reassembly_report *report);

enum {
    INT4Q_REASSEMBLY_INPUTS = 0, /* rows of x: sums of x_factor * x[source] */
    INT4Q_REASSEMBLY_WEIGHTS = 1 /* rows of W: sums of W[source] */
};

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_reassemble_rows() needs: 4 (k + new_k), rounded up. */
INT4Q_API int4q_status int4q_reassemble_scratch(int64_t k, int64_t new_k, uint64_t *bytes);

/* Rows row_begin..row_end-1 of source[n][k] to the same rows of destination[n][new_k], another matrix. In binary32, parts in
 * order, a product rounded, then added; then rounded to the destination's type. NaN and infinity pass. n is at least 1. */
INT4Q_API int4q_status int4q_reassemble_rows(const int4q_reassembly *map, int32_t side, const void *source, int4q_type source_type,
                                             int64_t source_stride, void *destination, int4q_type destination_type,
                                             int64_t destination_stride, int64_t n, void *scratch, uint64_t scratch_bytes,
                                             int64_t row_begin, int64_t row_end);

/* Writes the Gram matrix of reassembled inputs to target, another block, of int4q_gram_size(new_k) bytes and any contents, in
 * binary64. Rows, batches and channels' sums are those of the new inputs; sums of magnitudes and maxima are the sums of the
 * parts' own times |x_factor|: exact for channels of one part, else upper bounds. `gram` is of the map's k, or
 * INT4Q_ERROR_MISMATCH. */
INT4Q_API int4q_status int4q_gram_reassemble(const int4q_reassembly *map, const void *gram, uint64_t gram_bytes, void *target,
                                             uint64_t target_bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * 14. Choosing: mixed precision and the best of all methods. Definitions and formulas: docs/mixed-precision.md
 *
 *     for each layer: sensitivity(W, G) -> losses, bytes    allocate(losses, bytes, budget) -> a scheme for each layer
 *     for one layer:  quantize_best(W, G, bits) -> tensor, its scheme, and what was tried
 *
 * Threads, Gram matrices and progress: as in section 12. NaN and infinity in source are INT4Q_ERROR_NOT_FINITE with the place.
 * ------------------------------------------------------------------------------------------------------------------ */

/* A scheme that a layer might get. Fixed size (64 bytes); zero-initialise it. Rules of scheme: any but INT4Q_SCALE_GIVEN. */
typedef struct int4q_candidate {
    int4q_scheme scheme;
    const float *codebook; /* CODEBOOK: 16 floats, or n x 16, as int4q_tensor's; NULL for `named`. Other kinds: NULL */
    int32_t named;         /* CODEBOOK per tensor, without `codebook`: INT4Q_CODEBOOK_*, a codebook by name. Else 0 */
    int32_t reserved;
} int4q_candidate;

typedef struct int4q_search_options {
    uint32_t struct_size;
    uint32_t worker_count;   /* 1..1024; each adds some scratch */
    int4q_progress progress; /* or NULL */
    void *progress_context;
} int4q_search_options;

/* Writes the candidates that int4q_quantize_best() takes if it is given none, capacity at least the *count written (33; written
 * in any case; candidates may be NULL if capacity is 0): SYMMETRIC, ASYMMETRIC, OFFSET and CODEBOOK with NF4 and with IQ4_NL,
 * each in groups of 16, 32, 64, 128, 256 and per row, and SYMMETRIC of 8 bits in groups of 32, 128 and per row. Scales are F16. */
INT4Q_API int4q_status int4q_usual_candidates(int4q_candidate *candidates, int64_t capacity, int64_t *count);

/* ---- Sensitivity: what each scheme does to a layer ---- */

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) for candidates[count], count 1..4096, and an n x k matrix: about n /
 * 2, and 150 k for each worker. */
INT4Q_API int4q_status int4q_sensitivity_scratch(const int4q_candidate *candidates, int64_t count, int64_t n, int64_t k,
                                                 uint32_t worker_count, uint64_t *bytes);

/* Writes to losses[count] what rounding source[n][k] to nearest (int4q_quantize_rows) with each candidate costs: with a Gram
 * matrix of its inputs the sum of all rows' losses as int4q_gram_loss() has them; with gram NULL (gram_bytes 0) the sum of all
 * squared errors of weights. Infinity where a scale or offset does not fit its type. Writes to bytes[count] the size of the
 * packed matrix, int4q_blob_size(). losses or bytes may be NULL. Progress counts candidates. The same bits whatever the workers. */
INT4Q_API int4q_status int4q_sensitivity(const int4q_candidate *candidates, int64_t count, int64_t n, int64_t k,
                                         const void *source, int4q_type source_type, int64_t source_stride, const void *gram,
                                         uint64_t gram_bytes, const int4q_search_options *options, void *scratch,
                                         uint64_t scratch_bytes, int4q_parallel_for parallel_for, void *host, double *losses,
                                         uint64_t *bytes);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_gram_eigenvalues() needs: about 8 k^2. */
INT4Q_API int4q_status int4q_gram_eigenvalues_scratch(int64_t k, uint64_t *bytes);

/* Writes the eigenvalues of a Gram matrix, G as int4q_gram_matrix() has it, ascending: Householder's reduction to a tridiagonal
 * matrix, then QL with implicit shifts (Wilkinson and Reinsch, "Handbook for Automatic Computation", 1971), in binary64. Each is
 * off by a small multiple of 2^-52 times the largest magnitude; so an eigenvalue 0 may come out a little below 0. The time is
 * that of 2 k^3 multiplications. nuclear_norm (may be NULL) receives the sum of the roots of those above k * 2^-52 times the
 * largest: the sum of the singular values of the matrix of all x that were pushed, which weighs a layer in Liu et al.,
 * "Post-Training Quantization for Vision Transformer", 2021. eigenvalues: [k]. A Gram matrix with sums that are not finite is
 * INT4Q_ERROR_CORRUPT. Progress counts columns. The same bits whatever the workers. */
INT4Q_API int4q_status int4q_gram_eigenvalues(const void *gram, uint64_t gram_bytes, const int4q_search_options *options,
                                              void *scratch, uint64_t scratch_bytes, int4q_parallel_for parallel_for, void *host,
                                              double *eigenvalues, double *nuclear_norm);

/* ---- Allocation: one candidate for each layer ---- */

typedef struct int4q_allocation {
    uint32_t struct_size;
    uint32_t reserved;
    double loss;       /* the least sum */
    double bound;      /* no choice within the budget has less: the Lagrangian dual's greatest value */
    uint64_t bytes;    /* that the choice takes */
    int64_t states;    /* how many the search had to keep */
} int4q_allocation;

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) with which int4q_allocate() can keep `states` states, 1..2^31-1: 24
 * for each of them and for each loss. 2^16 are enough for some fifty layers as a rule, 2^20 for some hundreds. */
INT4Q_API int4q_status int4q_allocate_scratch(int64_t layers, int64_t candidates, int64_t states, uint64_t *bytes);

/* Writes to choices[layers] a candidate for each layer, so that the sum over layers l of weights[l] * losses[l][choices[l]] is
 * least among all choices whose bytes[l][choices[l]] add up to `budget` at most: the exact optimum, with products rounded to
 * binary64 and added from the last layer to the first. Of several such choices one with the fewest bytes, and of those the one
 * whose first choice that differs has the lower index (sums that only their rounding makes equal do not count as such for this
 * last point). losses and bytes are [layers][candidates], layers at least 1, candidates
 * 1..4096. A loss is at least 0; infinity: not allowed. weights [layers], finite and at least 0, or NULL: all 1.
 *
 * Method: states of sum of bytes and least loss, layer by layer, of which those stay that no other beats in both (Nemhauser and
 * Ullmann, "Discrete Dynamic Programming and Capital Allocation", 1969) and that can still beat the best choice known, by the
 * bound of the Lagrangian dual. How many stay depends on the numbers; if scratch_bytes has no room for them that is
 * INT4Q_ERROR_BUFFER_TOO_SMALL, and more scratch (four times the states, say) helps. layers * (1 + (the sum of each layer's most
 * bytes less the sum of its fewest) / the greatest common divisor of all differences) always suffice.
 *
 * A layer without an allowed candidate is INT4Q_ERROR_INVALID_ARGUMENT ("losses"), a budget below the least possible sum too
 * ("budget", with that sum); bytes beyond 2^63 in all INT4Q_ERROR_SIZE_OVERFLOW; a NaN or infinity in losses or weights where
 * none is allowed, and weighted losses whose sum overflows, INT4Q_ERROR_NOT_FINITE. */
INT4Q_API int4q_status int4q_allocate(const double *losses, const uint64_t *bytes, const double *weights, int64_t layers,
                                      int64_t candidates, uint64_t budget, void *scratch, uint64_t scratch_bytes,
                                      int32_t *choices, int4q_allocation *allocation);

/* MixQuant's rule (Kloberdanz and Le, "MixQuant: Mixed Precision Quantization with a Bit-width Optimization Search", 2023):
 * writes to choices[l] the candidate of the fewest bytes whose loss is at most (1 + tolerance) * losses[l][reference],
 * `reference` being the candidate of 8 bits, say; of several the least loss, then the lowest index. Where the reference's loss is
 * infinite any finite loss will do. tolerance: at least 0, finite. losses and bytes as in int4q_allocate(). For ACIQ's rule, bits
 * by the cube root of a range's square, see int4q_aciq_share_bits(). */
INT4Q_API int4q_status int4q_allocate_by_tolerance(const double *losses, const uint64_t *bytes, int64_t layers, int64_t candidates,
                                                   int64_t reference, double tolerance, int32_t *choices);

/* ---- The best of all methods, for one layer ---- */

/* What is tried with a scheme. Each row keeps the result of the method that served it best. */
enum {
    INT4Q_METHOD_NEAREST = 0,            /* int4q_quantize_rows() */
    INT4Q_METHOD_GPTQ = 1,               /* int4q_gptq_quantize(), damping 0.01, columns as they stand */
    INT4Q_METHOD_GPTQ_WITHIN_GROUPS = 2, /* INT4Q_GPTQ_ORDER_WITHIN_GROUPS */
    INT4Q_METHOD_GPTQ_ACTIVATIONS = 3,   /* INT4Q_GPTQ_ORDER_ACTIVATIONS, static groups */
    INT4Q_METHOD_CLIP = 4,               /* scales (zero points, offsets) of int4q_awq_clip()'s clips, steps 20, tried 10 */
    INT4Q_METHOD_CLIP_GPTQ = 5,          /* GPTQ with these scales given, in order of activations */
    INT4Q_METHOD_HQQ = 6,                /* int4q_hqq_quantize(), iterations 20, p 0.7, beta 10; OFFSET alone */
    INT4Q_METHOD_SEARCH = 7,             /* CLIP, then int4q_gram_search_scales(), rounds 20, reach 0.1, seed 0, then DESCENT's */
    INT4Q_METHOD_DESCENT = 8,            /* int4q_gram_descend() with INT4Q_DESCENT_REFIT_SCALES, from the rows' best so far */
    INT4Q_METHOD_COUNT = 9
};

typedef struct int4q_best_options {
    uint32_t struct_size;
    uint32_t worker_count;   /* 1..1024; each adds some scratch */
    uint32_t methods;        /* 1 << INT4Q_METHOD_*, added up, of those that may be tried; NEAREST always is. 0: all */
    int32_t finalists;       /* schemes on which all methods are tried; at least 1, 2 as a rule */
    int64_t sweeps;          /* of DESCENT, at most; 1..10000, 10 as a rule */
    double most_bits;        /* bits for each weight, of codes, scales, zero points, offsets and rows' codebooks; 0: any */
    uint64_t most_bytes;     /* of the packed matrix, int4q_blob_size(); 0: any */
    double seconds;          /* no trial is begun later than this after the call, but for the first; 0: no limit */
    int4q_progress progress; /* or NULL; counts trials, of the most that there may be */
    void *progress_context;
} int4q_best_options;

/* A method that was tried. Fixed size (40 bytes). */
typedef struct int4q_trial {
    int32_t candidate;
    int32_t method;     /* INT4Q_METHOD_* */
    int32_t is_scaled;  /* 1: of the matrix times AWQ's scales */
    int32_t reserved;
    double loss;        /* of all rows, by this method alone, but DESCENT's: of the rows' best, improved. Infinity: it failed */
    uint64_t bytes;     /* of the packed matrix */
    double seconds;     /* that it took */
} int4q_trial;

typedef struct int4q_best_report {
    uint32_t struct_size;
    int32_t candidate;     /* the best one */
    int32_t is_scaled;     /* 1: scales are not all 1 */
    int32_t is_cut_short;  /* 1: trials were left out for want of time */
    int64_t trials;        /* how many there were, also where trials[] had no room for them */
    uint64_t bytes;        /* of the packed matrix */
    double loss;           /* all rows' losses, as int4q_gram_loss() has them, added up */
    double nearest_loss;   /* the least that rounding to nearest reached with a candidate */
} int4q_best_report;

/* Writes the size of memory that holds a quantized n x k matrix of any of candidates[count] (NULL, 0: the usual ones) with its
 * codebook. */
INT4Q_API int4q_status int4q_best_memory(const int4q_candidate *candidates, int64_t count, int64_t n, int64_t k, uint64_t *bytes);

/* Writes the bytes of scratch (aligned to INT4Q_ALIGNMENT) that int4q_quantize_best() needs: about 2 tensors,
 * int4q_gptq_scratch(), 16 n, and about 600 k for each worker; and, has_scales being 1 and not 0, 4 n k and a Gram matrix more. */
INT4Q_API int4q_status int4q_best_scratch(const int4q_candidate *candidates, int64_t count, int64_t n, int64_t k,
                                          uint32_t worker_count, int32_t has_scales, uint64_t *bytes);

/* Quantizes source[n][k] with that of candidates[count] (1..4096; NULL, 0: int4q_usual_candidates()) and of methods which leaves
 * the least loss with the Gram matrix of its inputs, among the candidates within most_bits and most_bytes. Rounding to nearest is
 * tried with each candidate; GPTQ with the better quarter, but at least four; all other methods with the best `finalists` of
 * those. So the result is never worse than rounding to nearest with the best candidate (if time did not run out before that was
 * tried). Without a time limit it is the same on every machine; with one it depends on the machine's speed, and only there.
 *
 * Writes *tensor, which points into memory (aligned to INT4Q_ALIGNMENT, int4q_best_memory() bytes): scheme, codes, scales, zero
 * points, offsets, codebook. scales [k], or NULL: then W is quantized as it is. Else AWQ's scales (int4q_awq_search, steps 20,
 * with the candidate that is best so far) are tried, too, on the finalists: if report->is_scaled the tensor stands for W with its
 * columns times scales, and x is to be divided by them; if not they are all 1. trials[trial_capacity] receives the first trials;
 * it may be NULL if trial_capacity is 0. There are at most 2 * count + 16 * finalists.
 *
 * No candidate within the limits is INT4Q_ERROR_INVALID_ARGUMENT ("options.most_bits" or "options.most_bytes"), none that can
 * hold the matrix (scales beyond their type) INT4Q_ERROR_NOT_FINITE, a Gram matrix of another k INT4Q_ERROR_MISMATCH. A method
 * that fails on a candidate only shows in its trial. After a failure or cancellation the memory's contents are unspecified. */
INT4Q_API int4q_status int4q_quantize_best(const int4q_candidate *candidates, int64_t count, int64_t n, int64_t k,
                                           const void *source, int4q_type source_type, int64_t source_stride, const void *gram,
                                           uint64_t gram_bytes, const int4q_best_options *options, float *scales, void *memory,
                                           uint64_t memory_bytes, void *scratch, uint64_t scratch_bytes,
                                           int4q_parallel_for parallel_for, void *host, int4q_tensor *tensor,
                                           int4q_trial *trials, int64_t trial_capacity, int4q_best_report *report);

/* ---- Searches of other papers over the same loss ---- */

/* As int4q_awq_clip(), with the caller's candidates: each group's weights are clipped to shares[i] times its largest magnitude, i
 * = 0 ... count - 1 (1..1000), each above 0 and finite; of equal losses the first. A uniform quantizer's clip chosen from seven
 * candidates is the search of Kim et al., "BASQ: Branch-wise Activation-clipping Search Quantization for Sub-4-bit Neural
 * Networks", 2022, done here for weights, with the loss in place of a network's accuracy. */
INT4Q_API int4q_status int4q_clip_search(const int4q_scheme *scheme, const float *codebook, int64_t n, int64_t k,
                                         const void *source, int4q_type source_type, int64_t source_stride, const void *gram,
                                         uint64_t gram_bytes, const float *shares, int32_t count, void *scratch,
                                         uint64_t scratch_bytes, float *clips, void *destination, int4q_type destination_type,
                                         int64_t destination_stride, int64_t row_begin, int64_t row_end);

typedef struct int4q_scale_search {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t rounds;  /* over all groups; 1..10000, 10 as a rule */
    double reach;    /* a scale is tried times a number in 1 - reach..1 + reach: 0.1 as a rule. Above 0, below 1 */
    uint64_t seed;
} int4q_scale_search;

typedef struct int4q_scale_search_report {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t accepted;    /* scales that lowered the loss */
    double loss;         /* the sum of the rows' losses, as int4q_gram_loss() has them */
    double start_loss;   /* the same, before */
} int4q_scale_search_report;

/* Improves rows row_begin..row_end-1 of *tensor, which some quantizer has made from source[n][k], by evolution of its scales with
 * one parent and one child (Frumkin et al., "CPT-V: A Contrastive Approach to Post-Training Quantization of Vision Transformers",
 * 2022, and "Jumping through Local Minima", 2023; they judge a network's outputs, here it is the layer's): in each round each
 * group of each row tries its scale times a random number, rounded to its type, with codes chosen anew, nearest; it stays if the
 * row's loss falls. Codes of 4 bits, others are INT4Q_ERROR_UNSUPPORTED, and so is INT4Q_SCALE_ONE. Scratch:
 * int4q_gram_descend_scratch(). A row whose loss is not lower in the end keeps what it had. Each row's result depends on itself,
 * its number, G and the options alone. */
INT4Q_API int4q_status int4q_gram_search_scales(const int4q_tensor *tensor, const void *source, int4q_type source_type,
                                                int64_t source_stride, const void *gram, uint64_t gram_bytes,
                                                const int4q_scale_search *search, void *scratch, uint64_t scratch_bytes,
                                                int64_t row_begin, int64_t row_end, int4q_scale_search_report *report);

/* As int4q_codebook_fit(), but the values are `kept` (1..16) of candidates[candidate_count] (kept..4096, ascending, finite): of
 * all candidates one after the other is taken out, always that whose loss raises the error least, until `kept` are left (Ho et
 * al., "Bedot: Bit Efficient Dot Product for Deep Generative Models", 2023, who judge a network's outputs). The largest is
 * repeated up to 16. With candidates that are whole multiples, up to 127, of a power of two INT8 mode has every value exactly.
 * Scratch: int4q_codebook_fit_scratch(). */
INT4Q_API int4q_status int4q_codebook_greedy(const void *source, int4q_type source_type, int64_t source_stride, int64_t n,
                                             int64_t k, int64_t row_begin, int64_t row_end, const float *weights,
                                             int64_t weights_stride, const float *candidates, int64_t candidate_count,
                                             int32_t kept, void *scratch, uint64_t scratch_bytes, float values[16],
                                             double *mean_squared_error);

#ifdef __cplusplus
}
#endif

#endif /* INT4Q_H */
