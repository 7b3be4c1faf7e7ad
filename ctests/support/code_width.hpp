// SPDX-License-Identifier: Apache-2.0
// Codes of 1, 2, 4 and 8 bits in the bytes of a tensor. Free of GoogleTest: the fuzzer includes it.
#pragma once

#include <cstdint>

#include "int4q.h"

namespace int4q_test {

inline int CodeBits(const int4q_scheme &scheme) {
    if (scheme.kind == INT4Q_KIND_BINARY) return 1;
    if (scheme.kind == INT4Q_KIND_TERNARY) return 2;
    return scheme.code_bits == 8 ? 8 : 4;
}

inline bool IsFew(const int4q_scheme &scheme) { return CodeBits(scheme) < 4; }

inline int LargestCode(const int4q_scheme &scheme) {
    return scheme.kind == INT4Q_KIND_TERNARY ? 2 : (1 << CodeBits(scheme)) - 1;
}

// What SYMMETRIC's codes are counted from, and all linear ones in products.
inline int MiddleCode(const int4q_scheme &scheme) { return CodeBits(scheme) == 8 ? 128 : 8; }

inline int64_t CodeRowBytes(const int4q_scheme &scheme, int64_t k) { return (k * CodeBits(scheme) + 7) / 8; }

// Element `column` of a row: codes follow one another, the first in the lowest bits.
inline int GetCode(const uint8_t *row, int bits, int64_t column) {
    const int64_t at = column * bits;
    return row[at / 8] >> (at % 8) & ((1 << bits) - 1);
}

// Where there are zeros.
inline void PutCode(uint8_t *row, int bits, int64_t column, int code) {
    const int64_t at = column * bits;
    row[at / 8] = static_cast<uint8_t>(row[at / 8] | code << (at % 8));
}

// What a code of SYMMETRIC, BINARY or TERNARY is worth in units of the scale.
inline int CentredCode(const int4q_scheme &scheme, int code) {
    if (scheme.kind == INT4Q_KIND_BINARY) return 2 * code - 1;
    return scheme.kind == INT4Q_KIND_TERNARY ? code - 1 : code - MiddleCode(scheme);
}

}  // namespace int4q_test
