// SPDX-License-Identifier: Apache-2.0
// Ways to damage a blob: what the replay does to valid ones, and the fuzzer's own mutations.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "support/blob_parts.hpp"
#include "support/random.hpp"
#include "support/reference_packer.hpp"

namespace int4q_fuzz {

using int4q_test::Random;

// The places where nonsense hurts most: numbers of the header.
inline void DamageHeader(Random &random, std::vector<uint8_t> &bytes) {
    if (bytes.size() < int4q_test::kHeaderBytes) return;
    if (random.Chance(0.3)) {
        const int32_t values[] = {-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 32, 64, 256, 512, INT32_MAX, INT32_MIN};
        const int64_t field = random.Integer(0, 7);
        size_t at = int4q_test::kSchemeAt + 4 * static_cast<size_t>(field);
        if (field >= 6) at = field == 6 ? int4q_test::kCodebookScopeAt : int4q_test::kCodeBitsAt;
        if (random.Chance(0.3)) at = int4q_test::kPartFlagsAt + 2 * static_cast<size_t>(random.Integer(0, 14));
        int4q_test::SetField<int32_t>(bytes.data(), at, values[random.Integer(0, 17)]);
        return;
    }
    size_t at = int4q_test::kTotalBytesAt + 8 * static_cast<size_t>(random.Integer(0, 13));
    if (random.Chance(0.2)) at = int4q_test::kPartFlagsAt + 8 * static_cast<size_t>(random.Integer(0, 3));
    const uint64_t old = int4q_test::GetField<uint64_t>(bytes.data(), at);
    const uint64_t one = 1;
    const uint64_t values[] = {0,         1,         one << 31, one << 32, one << 60, one << 62,
                               one << 63, ~0ull,     ~63ull,    old + 1,   old - 1,   old + 16,
                               old - 16,  old + 64,  old - 64,  old * 2,   old / 2,   random.Bits()};
    int4q_test::SetField<uint64_t>(bytes.data(), at, values[random.Integer(0, 17)]);
}

inline void DamageBytes(Random &random, std::vector<uint8_t> &bytes) {
    if (bytes.empty()) return;
    const int64_t last = static_cast<int64_t>(bytes.size()) - 1;
    const size_t at = static_cast<size_t>(random.Integer(0, last));
    switch (random.Integer(0, 4)) {
        case 0:
            bytes[at] ^= static_cast<uint8_t>(1u << random.Integer(0, 7));
            break;
        case 1:
            bytes[at] = static_cast<uint8_t>(random.Bits());
            break;
        case 2:  // runs of ones: NaN in every type, zero points of 255
            for (size_t i = at; i < std::min(bytes.size(), at + 8); i++) bytes[i] = 0xff;
            break;
        case 3:
            bytes.resize(at);
            break;
        default:
            bytes.insert(bytes.end(), static_cast<size_t>(random.Integer(1, 200)), static_cast<uint8_t>(random.Bits()));
    }
}

// Where a blob's parts begin, or 0: it has none, or its header is nonsense.
inline size_t PartsAt(const std::vector<uint8_t> &bytes) {
    if (bytes.size() < int4q_test::kHeaderBytes) return 0;
    const auto n = int4q_test::GetField<uint64_t>(bytes.data(), int4q_test::kNAt);
    const auto k = int4q_test::GetField<uint64_t>(bytes.data(), int4q_test::kKAt);
    const auto blocks = int4q_test::GetField<uint64_t>(bytes.data(), int4q_test::kBlocksOffsetAt);
    const auto block_bytes = int4q_test::GetField<uint64_t>(bytes.data(), int4q_test::kBlockBytesAt);
    const uint64_t most = bytes.size();
    if (n == 0 || k == 0 || n > most || k > most || blocks > most || block_bytes > most) return 0;
    const uint64_t begin = blocks + (n + 15) / 16 * block_bytes;
    return begin >= int4q_test::kHeaderBytes && begin <= most ? static_cast<size_t>(begin) : 0;
}

// One element of one part: an index that is too large or there twice, offsets that do not ascend, a value that is not finite.
inline void DamageParts(Random &random, std::vector<uint8_t> &bytes) {
    const size_t begin = PartsAt(bytes);
    if (begin == 0) return;
    const auto flags = int4q_test::GetField<uint32_t>(bytes.data(), int4q_test::kPartFlagsAt);
    const auto n = int4q_test::GetField<uint64_t>(bytes.data(), int4q_test::kNAt);
    const auto k = int4q_test::GetField<uint64_t>(bytes.data(), int4q_test::kKAt);
    const auto said = int4q_test::GetField<uint64_t>(bytes.data(), int4q_test::kSparseCountAt);
    const uint64_t count = std::min<uint64_t>(said, bytes.size());
    const size_t sections[] = {flags & INT4Q_PART_PERMUTATION ? 4 * k : 0, flags & INT4Q_PART_SPARSE ? 8 * (n + 1) : 0, 4 * count,
                               4 * count, 0};
    // The last one, of a low-rank part's numbers, goes on to the end.
    const int64_t wanted = random.Integer(0, 4);
    size_t at = begin;
    for (int64_t section = 0; section < wanted; section++) at += int4q_test::RoundUp(sections[section], 64);
    const size_t width = wanted == 1 ? 8 : wanted == 4 && random.Chance(0.5) ? 2 : 4;
    const size_t end = wanted == 4 ? bytes.size() : at + sections[wanted];
    if (end > bytes.size() || end < at + 2 * width) return;
    at += width * static_cast<size_t>(random.Integer(0, static_cast<int64_t>((end - at) / width) - 2));
    const uint64_t values[] = {0, 1, k - 1, k, count, count + 1, 0x7fffffff, 0x80000000, 0xffffffff, 0x7f800000, 0x7fc00000, 0x7c00,
                               0x7f80, uint64_t{1} << 32, uint64_t{1} << 62, uint64_t{1} << 63, ~uint64_t{0}, random.Bits()};
    uint64_t value = values[random.Integer(0, 17)];
    switch (random.Integer(0, 3)) {
        case 0: break;
        case 1:  // the next one's
            std::memcpy(&value, bytes.data() + at + width, width);
            break;
        case 2:
            std::swap_ranges(bytes.data() + at, bytes.data() + at + width, bytes.data() + at + width);
            return;
        default:
            std::memcpy(&value, bytes.data() + at, width);
            value += random.Chance(0.5) ? 1 : ~uint64_t{0};
    }
    std::memcpy(bytes.data() + at, &value, width);
}

// Puts random parts behind a blob's blocks, in place of those that are there, if `room` bytes hold them.
inline void ReplaceParts(Random &random, std::vector<uint8_t> &bytes, size_t room) {
    const size_t begin = PartsAt(bytes);
    if (begin == 0) return;
    const auto n = int4q_test::GetField<int64_t>(bytes.data(), int4q_test::kNAt);
    const auto k = int4q_test::GetField<int64_t>(bytes.data(), int4q_test::kKAt);
    if (n > 200 || k > 400) return;
    std::vector<uint8_t> blob(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(begin));
    const int4q_test::Parts parts(random, n, k, static_cast<uint32_t>(random.Integer(1, 15)));
    std::fill(blob.data() + int4q_test::kPartFlagsAt, blob.data() + int4q_test::kHeaderChecksumAt, uint8_t{0});
    blob = parts.Attached(std::move(blob));
    if (blob.size() <= room) bytes = std::move(blob);
}

inline void DamageBlob(Random &random, std::vector<uint8_t> &bytes) {
    if (random.Chance(0.3)) return DamageParts(random, bytes);
    random.Chance(0.5) ? DamageHeader(random, bytes) : DamageBytes(random, bytes);
}

}  // namespace int4q_fuzz
