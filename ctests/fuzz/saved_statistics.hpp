// SPDX-License-Identifier: Apache-2.0
// Where the header of a Gram or a cross matrix says what. Free of GoogleTest.
#pragma once

#include <cstddef>
#include <cstdint>

#include "int4q.h"

namespace int4q_fuzz {

enum StatisticsField : size_t {
    kStatisticsMagicAt = 0,
    kStatisticsVersionAt = 8,
    kStatisticsKAt = 16,
    kStatisticsTotalBytesAt = 24,
    kStatisticsRowsAt = 32,
    kStatisticsBatchesAt = 40,
    kStatisticsHeaderBytes = 128
};

// Gram and cross matrices have functions of the same form.
struct Statistics {
    const char *name, *bytes_name;
    bool is_gram;
    decltype(&int4q_gram_size) size;
    decltype(&int4q_gram_init) init;
    decltype(&int4q_gram_set) set;
    decltype(&int4q_gram_merge) merge;
    decltype(&int4q_gram_validate) validate;
    decltype(&int4q_gram_get_info) get_info;
    decltype(&int4q_gram_matrix) matrix;

    // Of k that fits into memory.
    uint64_t Bytes(int64_t k) const {
        uint64_t bytes = 0;
        size(k, &bytes);
        return bytes;
    }
};

inline const Statistics kGram{"gram",          "gram_bytes",      true,                int4q_gram_size,     int4q_gram_init,
                              int4q_gram_set,  int4q_gram_merge,  int4q_gram_validate, int4q_gram_get_info, int4q_gram_matrix};
inline const Statistics kCross{"cross",         "cross_bytes",      false,                int4q_cross_size,     int4q_cross_init,
                               int4q_cross_set, int4q_cross_merge,  int4q_cross_validate, int4q_cross_get_info, int4q_cross_matrix};

// The least k whose matrices the fuzzer does not compute with.
constexpr int64_t kTooManyChannels = 49;

}  // namespace int4q_fuzz
