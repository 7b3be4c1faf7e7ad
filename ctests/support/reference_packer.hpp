// SPDX-License-Identifier: Apache-2.0
// The packer of docs/blob-format.md, written from its text, and what tests need to take blobs apart and sign them anew.
// Free of GoogleTest: the fuzzer includes it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "int4q.h"
#include "support/code_width.hpp"
#include "support/xxh64.hpp"

namespace int4q_test {

// Offsets of the header's fields.
enum BlobField : size_t {
    kMagicAt = 0,
    kVersionAt = 8,
    kHeaderBytesAt = 12,
    kTotalBytesAt = 16,
    kNAt = 24,
    kKAt = 32,
    kSchemeAt = 40,
    kChecksumsOffsetAt = 64,
    kBlocksOffsetAt = 72,
    kBlockBytesAt = 80,
    kScalesOffsetAt = 88,
    kZeroPointsOffsetAt = 96,
    kGroupCountAt = 104,
    kGroupSizeAt = 112,
    kPaddedKAt = 120,
    kCodebookAt = 128,
    kCodebookScopeAt = 192,
    kCodeBitsAt = 196,
    kCodebooksOffsetAt = 200,
    kReservedAt = 208,
    kHeaderChecksumAt = 248,
    kHeaderBytes = 256
};

template <typename T>
T GetField(const void *blob, size_t at) {
    T value;
    std::memcpy(&value, static_cast<const char *>(blob) + at, sizeof value);
    return value;
}

template <typename T>
void SetField(void *blob, size_t at, T value) {
    std::memcpy(static_cast<char *>(blob) + at, &value, sizeof value);
}

inline void SignHeader(void *blob) { SetField<uint64_t>(blob, kHeaderChecksumAt, Xxh64(blob, kHeaderChecksumAt)); }

// Signs every block that the header places inside the bytes. Headers may be nonsense.
inline void SignBlocks(void *blob, uint64_t bytes) {
    const uint64_t blocks_offset = GetField<uint64_t>(blob, kBlocksOffsetAt);
    const uint64_t block_bytes = GetField<uint64_t>(blob, kBlockBytesAt);
    if (block_bytes == 0 || blocks_offset > bytes || blocks_offset < kHeaderBytes) return;
    auto *base = static_cast<uint8_t *>(blob);
    for (uint64_t b = 0; b < (bytes - blocks_offset) / block_bytes; b++) {
        if (kHeaderBytes + 8 * (b + 1) > blocks_offset) return;
        if (b * 16 >= GetField<uint64_t>(blob, kNAt)) return;
        SetField<uint64_t>(blob, kHeaderBytes + 8 * b, Xxh64(base + blocks_offset + b * block_bytes, block_bytes));
    }
}

inline uint64_t RoundUp(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Where things are in the blob of an n x k matrix.
struct BlobGeometry {
    uint64_t block_count, blocks_offset, block_bytes, scales_offset, extra_offset, group_count, group_size, padded_k;
    uint64_t codebooks_offset = 0;  // of the rows' own
    uint64_t scale_bytes, total_bytes;

    BlobGeometry(const int4q_scheme &scheme, int64_t n, int64_t k) {
        const uint64_t columns = static_cast<uint64_t>(k);
        scale_bytes = scheme.scale_type == INT4Q_TYPE_F32 ? 4 : 2;
        padded_k = RoundUp(columns, 32);
        group_size = scheme.group_size == INT4Q_GROUP_PER_ROW ? std::min<uint64_t>(padded_k, 65536)
                                                              : static_cast<uint64_t>(scheme.group_size);
        group_count = (columns + group_size - 1) / group_size;
        scales_offset = padded_k * 16 * static_cast<uint64_t>(CodeBits(scheme)) / 8;
        uint64_t end = scales_offset + RoundUp(group_count * 16 * scale_bytes, 64);
        extra_offset = 0;
        if (scheme.kind == INT4Q_KIND_ASYMMETRIC) {
            extra_offset = end;
            end += RoundUp(group_count * 16, 64);
        } else if (scheme.kind == INT4Q_KIND_OFFSET) {
            extra_offset = end;
            end += RoundUp(group_count * 16 * scale_bytes, 64);
        }
        if (scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW) {
            codebooks_offset = end;
            end += 16 * 16 * sizeof(float);
        }
        block_bytes = end;
        block_count = (static_cast<uint64_t>(n) + 15) / 16;
        blocks_offset = RoundUp(kHeaderBytes + 8 * block_count, 64);
        total_bytes = blocks_offset + block_count * block_bytes;
    }
};

// Where a block has a column's code: which code row, which byte of a lane, from which of its bits on.
struct CodePlace {
    uint64_t code_row, byte;
    int bit;
};

// Eight neighbours are two parts of four bytes each, k 0 4 1 5 and k 2 6 3 7, and a lane has as many parts as fit, one beside the other.
inline CodePlace PlaceOfCode(int bits, uint64_t k) {
    static const uint64_t byte_of[8] = {0, 2, 0, 2, 1, 3, 1, 3};
    static const uint64_t part_of[8] = {0, 0, 1, 1, 0, 0, 1, 1};
    const uint64_t part = k / 8 * 2 + part_of[k % 8], parts_of_lane = static_cast<uint64_t>(8 / bits);
    return {part / parts_of_lane, byte_of[k % 8], static_cast<int>(part % parts_of_lane) * bits};
}

inline std::vector<uint8_t> PackReference(const int4q_tensor &tensor) {
    const int4q_scheme &scheme = tensor.scheme;
    const BlobGeometry at(scheme, tensor.n, tensor.k);
    std::vector<uint8_t> bytes(at.total_bytes, 0);
    uint8_t *blob = bytes.data();
    std::memcpy(blob, "INT4QBLB", 8);
    SetField<uint32_t>(blob, kVersionAt, 1);
    SetField<uint32_t>(blob, kHeaderBytesAt, 256);
    SetField<uint64_t>(blob, kTotalBytesAt, at.total_bytes);
    SetField<int64_t>(blob, kNAt, tensor.n);
    SetField<int64_t>(blob, kKAt, tensor.k);
    const int32_t fields[6] = {scheme.kind,       scheme.group_size, scheme.scale_type,
                               scheme.scale_rule, scheme.code_range, scheme.rounding};
    std::memcpy(blob + kSchemeAt, fields, sizeof fields);
    SetField<uint64_t>(blob, kChecksumsOffsetAt, 256);
    SetField<uint64_t>(blob, kBlocksOffsetAt, at.blocks_offset);
    SetField<uint64_t>(blob, kBlockBytesAt, at.block_bytes);
    SetField<uint64_t>(blob, kScalesOffsetAt, at.scales_offset);
    SetField<uint64_t>(blob, kZeroPointsOffsetAt, at.extra_offset);
    SetField<uint64_t>(blob, kGroupCountAt, at.group_count);
    SetField<uint64_t>(blob, kGroupSizeAt, at.group_size);
    SetField<uint64_t>(blob, kPaddedKAt, at.padded_k);
    const bool has_row_codebooks = scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW;
    SetField<int32_t>(blob, kCodebookScopeAt, scheme.codebook_scope);
    SetField<int32_t>(blob, kCodeBitsAt, CodeBits(scheme) == 8 ? 8 : 0);
    SetField<uint64_t>(blob, kCodebooksOffsetAt, at.codebooks_offset);
    if (scheme.kind == INT4Q_KIND_CODEBOOK && !has_row_codebooks) std::memcpy(blob + kCodebookAt, tensor.codebook, 64);

    const int code_bits = CodeBits(scheme);
    const int64_t row_bytes = CodeRowBytes(scheme, tensor.k);
    const bool per_row = scheme.group_size == INT4Q_GROUP_PER_ROW;
    const uint64_t tensor_groups = per_row ? 1 : at.group_count;
    const auto *codes = static_cast<const uint8_t *>(tensor.codes);
    const auto *scales = static_cast<const uint8_t *>(tensor.scales);
    const auto *zero_points = static_cast<const uint8_t *>(tensor.zero_points);
    const auto *offsets = static_cast<const uint8_t *>(tensor.offsets);
    for (uint64_t row = 0; row < static_cast<uint64_t>(tensor.n); row++) {
        uint8_t *block = blob + at.blocks_offset + row / 16 * at.block_bytes;
        const uint64_t lane = row % 16;
        for (uint64_t k = 0; k < static_cast<uint64_t>(tensor.k); k++) {
            const int code = GetCode(codes + static_cast<int64_t>(row) * row_bytes, code_bits, static_cast<int64_t>(k));
            const CodePlace place = PlaceOfCode(code_bits, k);
            block[place.code_row * 64 + lane * 4 + place.byte] |= static_cast<uint8_t>(code << place.bit);
        }
        for (uint64_t code = 0; has_row_codebooks && code < 16; code++) {
            std::memcpy(block + at.codebooks_offset + code * 64 + lane * 4, tensor.codebook + row * 16 + code, 4);
        }
        for (uint64_t group = 0; group < at.group_count; group++) {
            const uint64_t from = row * tensor_groups + (per_row ? 0 : group), to = group * 16 + lane;
            std::memcpy(block + at.scales_offset + to * at.scale_bytes, scales + from * at.scale_bytes, at.scale_bytes);
            if (scheme.kind == INT4Q_KIND_ASYMMETRIC) block[at.extra_offset + to] = zero_points[from];
            if (scheme.kind == INT4Q_KIND_OFFSET) {
                std::memcpy(block + at.extra_offset + to * at.scale_bytes, offsets + from * at.scale_bytes,
                            at.scale_bytes);
            }
        }
    }
    SignBlocks(blob, at.total_bytes);
    SignHeader(blob);
    return bytes;
}

}  // namespace int4q_test
