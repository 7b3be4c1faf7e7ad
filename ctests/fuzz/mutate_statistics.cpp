// SPDX-License-Identifier: Apache-2.0
#include "fuzz/damage_statistics.hpp"
#include "fuzz/mutate.hpp"

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    return int4q_fuzz::Mutate(data, size, max_size, seed, 2,
                              [](auto &random, auto &bytes, size_t) { int4q_fuzz::DamageStatistics(random, bytes); });
}
