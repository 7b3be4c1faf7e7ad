// SPDX-License-Identifier: Apache-2.0
// Parts of blobs: random ones, what docs/numerics.md says that products make of them, and the bytes that docs/blob-format.md
// says they have. Compile without contraction.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "int4q.h"
#include "support/floats.hpp"
#include "support/random.hpp"
#include "support/reference_packer.hpp"

namespace int4q_test {

// Offsets of the header's fields.
enum PartField : size_t {
    kPartFlagsAt = 208,
    kPartRankAt = 212,
    kLowRankTypeAt = 214,
    kSparseCountAt = 216,
    kRotationSeedAt = 224,
    kRotationOrderAt = 232,
    kPartsChecksumAt = 240
};

inline std::vector<float> FoldedDots(const std::vector<float> &x, const std::vector<std::vector<float>> &rows) {
    std::vector<float> dots;
    for (const std::vector<float> &row : rows) {
        float partial[16] = {};
        for (size_t j = 0; j < x.size(); j++) partial[j % 16] = std::fma(x[j], row[j], partial[j % 16]);
        for (int width : {8, 4, 2, 1}) {
            for (int i = 0; i < width; i++) partial[i] += partial[i + width];
        }
        dots.push_back(partial[0]);
    }
    return dots;
}

// Parts of the blob of an n x k matrix.
struct Parts {
    int64_t n, k;
    std::vector<uint32_t> permutation;
    int64_t rotation_order = 0;
    uint64_t rotation_seed = 0;
    bool has_sparse = false;
    std::vector<int64_t> row_offsets;
    std::vector<int32_t> columns;
    std::vector<float> values;
    int64_t rank = 0;
    int4q_type type = 0;
    int32_t form = INT4Q_LOW_RANK_ROWS;
    std::vector<uint8_t> a, b;

    Parts(int64_t n_, int64_t k_) : n(n_), k(k_) {}

    // order 0: a random one that divides k, a power of two.
    Parts(Random &random, int64_t n_, int64_t k_, uint32_t flags, int64_t order = 0) : n(n_), k(k_) {
        if (flags & INT4Q_PART_PERMUTATION) {
            permutation.resize(static_cast<size_t>(k));
            std::iota(permutation.begin(), permutation.end(), 0u);
            random.Shuffle(permutation);
        }
        if (flags & INT4Q_PART_ROTATION) {
            int64_t largest = k & -k;
            rotation_order =
                order ? order : int64_t{1} << random.Integer(0, static_cast<int64_t>(std::log2(static_cast<double>(largest))));
            rotation_seed = random.Chance(0.3) ? 0 : random.Bits();
        }
        if (flags & INT4Q_PART_SPARSE) AddSparse(random, random.Chance(0.2) ? 0.5 : 0.05);
        if (flags & INT4Q_PART_LOW_RANK) {
            AddLowRank(random, random.Chance(0.2) ? 16 * random.Integer(1, 2) : random.Integer(1, 40), random.Pick(AllTypes()));
        }
    }

    static std::vector<int4q_type> AllTypes() { return {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16}; }

    void AddSparse(Random &random, double density) {
        has_sparse = true;
        row_offsets.assign(1, 0);
        for (int64_t row = 0; row < n; row++) {
            for (int64_t column = 0; column < k; column++) {
                if (!random.Chance(density)) continue;
                columns.push_back(static_cast<int32_t>(column));
                values.push_back(random.Normal());
            }
            row_offsets.push_back(static_cast<int64_t>(columns.size()));
        }
    }

    void AddLowRank(Random &random, int64_t rank_, int4q_type type_) {
        rank = rank_;
        type = type_;
        a.resize(static_cast<size_t>(n * rank * TypeBytes(type)));
        b.resize(static_cast<size_t>(k * rank * TypeBytes(type)));
        for (int64_t i = 0; i < n * rank; i++) StoreElement(a.data(), type, i, random.Normal());
        for (int64_t i = 0; i < k * rank; i++) StoreElement(b.data(), type, i, 0.1f * random.Normal());
    }

    uint32_t flags() const {
        return (permutation.empty() ? 0u : uint32_t{INT4Q_PART_PERMUTATION}) |
               (rotation_order ? uint32_t{INT4Q_PART_ROTATION} : 0u) | (has_sparse ? uint32_t{INT4Q_PART_SPARSE} : 0u) |
               (rank ? uint32_t{INT4Q_PART_LOW_RANK} : 0u);
    }

    int4q_parts raw() const {
        int4q_parts parts{};
        parts.struct_size = sizeof parts;
        if (!permutation.empty()) parts.permutation = permutation.data();
        parts.rotation_order = rotation_order;
        parts.rotation_seed = rotation_seed;
        if (has_sparse) parts.sparse_row_offsets = row_offsets.data();
        parts.sparse_count = static_cast<int64_t>(columns.size());
        if (!columns.empty()) parts.sparse_columns = columns.data(), parts.sparse_values = values.data();
        parts.rank = rank;
        parts.low_rank_type = type;
        parts.low_rank_form = form;
        if (rank) parts.low_rank_a = a.data(), parts.low_rank_b = b.data();
        return parts;
    }

    float A(int64_t row, int64_t r) const { return LoadElement(a.data(), type, row * rank + r); }
    float B(int64_t r, int64_t column) const { return LoadElement(b.data(), type, r * k + column); }

    // ---- What products make of them ----

    // The sign of a channel of permute(x): bit 63 - j % 64 of SplitMix64's number j / 64.
    float Sign(int64_t column) const {
        if (rotation_seed == 0) return 1;
        Random numbers(rotation_seed + static_cast<uint64_t>(column / 64) * 0x9e3779b97f4a7c15u);
        return numbers.Bits() >> (63 - column % 64) & 1 ? -1.0f : 1.0f;
    }

    std::vector<float> Permuted(const std::vector<float> &x) const {
        if (permutation.empty()) return x;
        std::vector<float> result;
        for (uint32_t from : permutation) result.push_back(x[from]);
        return result;
    }

    // To the bit, for orders that are powers of two: levels of stride 1, 2, 4 ... of each run, after one multiplication.
    std::vector<float> Turned(const std::vector<float> &x) const {
        std::vector<float> v = Permuted(x);
        if (rotation_order == 0) return v;
        const float scale = static_cast<float>(std::sqrt(1.0 / static_cast<double>(rotation_order)));
        const size_t order = static_cast<size_t>(rotation_order);
        if (order > 1 || rotation_seed != 0) {
            for (size_t j = 0; j < v.size(); j++) v[j] *= Sign(static_cast<int64_t>(j)) * scale;
        }
        for (size_t stride = 1; stride < order; stride *= 2) {
            for (size_t j = 0; j < v.size(); j++) {
                if (j / stride % 2) continue;
                const float first = v[j], second = v[j + stride];
                v[j] = first + second;
                v[j + stride] = first - second;
            }
        }
        return v;
    }

    // The share of sparse and low-rank parts, added to the codes' totals of one row of x.
    void AddTo(std::vector<float> &totals, const std::vector<float> &x) const {
        std::vector<std::vector<float>> rows;
        for (int64_t r = 0; r < rank; r++) {
            rows.emplace_back();
            for (int64_t column = 0; column < k; column++) rows.back().push_back(B(r, column));
        }
        const std::vector<float> projected = FoldedDots(x, rows);
        for (int64_t j = 0; j < n; j++) {
            float &total = totals[static_cast<size_t>(j)];
            if (has_sparse) {
                float sum = 0;
                for (int64_t e = row_offsets[static_cast<size_t>(j)]; e < row_offsets[static_cast<size_t>(j) + 1]; e++) {
                    const auto i = static_cast<size_t>(e);
                    sum = std::fma(x[static_cast<size_t>(columns[i])], values[i], sum);
                }
                total += sum;
            }
            if (rank) {
                float sum = 0;
                for (int64_t r = 0; r < rank; r++) sum = std::fma(projected[static_cast<size_t>(r)], A(j, r), sum);
                total += sum;
            }
        }
    }

    // ---- Their bytes ----

    std::vector<uint8_t> Bytes() const {
        std::vector<uint8_t> bytes;
        const auto pad = [&] { bytes.resize(RoundUp(bytes.size(), 64), 0); };
        const auto put = [&](const void *data, size_t count) {
            const auto *first = static_cast<const uint8_t *>(data);
            bytes.insert(bytes.end(), first, first + count);
            pad();
        };
        put(permutation.data(), permutation.size() * 4);
        put(row_offsets.data(), row_offsets.size() * 8);
        put(columns.data(), columns.size() * 4);
        put(values.data(), values.size() * 4);
        if (!rank) return bytes;
        std::vector<uint8_t> blocks(RoundUp(static_cast<uint64_t>(n), 16) * static_cast<uint64_t>(rank * TypeBytes(type)), 0);
        for (int64_t row = 0; row < n; row++) {
            for (int64_t r = 0; r < rank; r++)
                StoreElement(blocks.data(), type, (row / 16 * rank + r) * 16 + row % 16, A(row, r));
        }
        put(blocks.data(), blocks.size());
        put(b.data(), b.size());
        return bytes;
    }

    // A plain blob with these behind it.
    std::vector<uint8_t> Attached(std::vector<uint8_t> blob) const {
        const std::vector<uint8_t> bytes = Bytes();
        SetField<uint32_t>(blob.data(), kPartFlagsAt, flags());
        SetField<uint16_t>(blob.data(), kPartRankAt, static_cast<uint16_t>(rank));
        SetField<uint16_t>(blob.data(), kLowRankTypeAt, static_cast<uint16_t>(type));
        SetField<int64_t>(blob.data(), kSparseCountAt, static_cast<int64_t>(columns.size()));
        SetField<uint64_t>(blob.data(), kRotationSeedAt, rotation_seed);
        SetField<uint32_t>(blob.data(), kRotationOrderAt, static_cast<uint32_t>(rotation_order));
        if (flags()) SetField<uint64_t>(blob.data(), kPartsChecksumAt, Xxh64(bytes.data(), bytes.size()));
        SetField<uint64_t>(blob.data(), kTotalBytesAt, blob.size() + bytes.size());
        SignHeader(blob.data());
        blob.insert(blob.end(), bytes.begin(), bytes.end());
        return blob;
    }
};

// Makes the checksum of a blob's parts right, and with it the header's.
inline void SignParts(void *blob, uint64_t bytes) {
    const uint64_t n = GetField<uint64_t>(blob, kNAt), blocks = GetField<uint64_t>(blob, kBlocksOffsetAt);
    const uint64_t begin = blocks + (n + 15) / 16 * GetField<uint64_t>(blob, kBlockBytesAt);
    const uint64_t end = std::min(bytes, GetField<uint64_t>(blob, kTotalBytesAt));
    if (GetField<uint32_t>(blob, kPartFlagsAt) == 0 || n > bytes || blocks > bytes || begin > end) return;
    SetField<uint64_t>(blob, kPartsChecksumAt, Xxh64(static_cast<const uint8_t *>(blob) + begin, end - begin));
    SignHeader(blob);
}

}  // namespace int4q_test
