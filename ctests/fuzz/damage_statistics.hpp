// SPDX-License-Identifier: Apache-2.0
// Ways to damage saved statistics: what the replay does to valid ones, and the fuzzer's own mutations.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fuzz/saved_statistics.hpp"
#include "support/random.hpp"

namespace int4q_fuzz {

using int4q_test::Random;

template <typename T>
T Load(const std::vector<uint8_t> &bytes, size_t at) {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

template <typename T>
void Store(std::vector<uint8_t> &bytes, size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

// A field of a header.
inline void DamageCounts(Random &random, std::vector<uint8_t> &bytes, size_t header) {
    const size_t at = header + 8 * static_cast<size_t>(random.Chance(0.9) ? random.Integer(0, 5) : random.Integer(6, 15));
    if (at + 8 > bytes.size()) return;
    const auto old = Load<uint64_t>(bytes, at);
    const uint64_t one = 1, values[] = {0, 1, 2, 16, 17, 33, one << 31, one << 32, one << 53, (one << 53) + 1, one << 62, one << 63,
                                        ~uint64_t{0}, old + 1, old - 1, old + 64, old * 2, random.Bits()};
    Store(bytes, at, values[random.Integer(0, 17)]);
}

// A sum: not finite, negative, of any magnitude, in the wrong place.
inline void DamageSums(Random &random, std::vector<uint8_t> &bytes, size_t header) {
    const size_t begin = header + kStatisticsHeaderBytes;
    if (bytes.size() < begin + 16) return;
    const size_t at = begin + 8 * static_cast<size_t>(random.Integer(0, static_cast<int64_t>((bytes.size() - begin) / 8) - 2));
    const double old = Load<double>(bytes, at);
    const uint64_t bits[] = {0, 0x8000000000000000, 0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0x7fefffffffffffff,
                             0xffefffffffffffff, 1, 0x0010000000000000, 0x3ff0000000000000, 0x7f8000007f800000, 0x7fc0000000000000,
                             0x7f7fffff7f7fffff, 0x47f0000000000000, 0x5ff0000000000000, random.Bits()};
    switch (random.Integer(0, 5)) {
        case 0: return Store(bytes, at, bits[random.Integer(0, 15)]);
        case 1: return Store(bytes, at, -old);
        case 2: return Store(bytes, at, std::ldexp(old, static_cast<int>(random.Integer(-1100, 1100))));
        case 3: return Store(bytes, at, Load<double>(bytes, at + 8));
        case 4: {  // many of them: a whole panel's row, a matrix that is all alike
            const auto value = random.Chance(0.5) ? bits[random.Integer(0, 15)] : Load<uint64_t>(bytes, at);
            const int64_t count = random.Chance(0.2) ? INT64_MAX : random.Integer(2, 32);
            for (int64_t i = 0; i < count && at + 8 * static_cast<size_t>(i) + 8 <= bytes.size(); i++) {
                Store(bytes, at + 8 * static_cast<size_t>(i), value);
            }
            return;
        }
        default: std::swap_ranges(bytes.data() + at, bytes.data() + at + 8, bytes.data() + at + 8);
    }
}

// A Gram matrix, and what stands behind it.
inline void DamageStatistics(Random &random, std::vector<uint8_t> &bytes) {
    if (bytes.size() < kStatisticsHeaderBytes) return;
    size_t header = 0;
    const auto first = Load<uint64_t>(bytes, kStatisticsTotalBytesAt);
    if (first < bytes.size() && random.Chance(0.4)) header = static_cast<size_t>(first);
    if (random.Chance(0.05)) return bytes.resize(static_cast<size_t>(random.Integer(0, static_cast<int64_t>(bytes.size()))));
    random.Chance(0.3) ? DamageCounts(random, bytes, header) : DamageSums(random, bytes, header);
}

}  // namespace int4q_fuzz
