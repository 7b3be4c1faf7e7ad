// SPDX-License-Identifier: Apache-2.0
#include "fuzz/damage_blob.hpp"
#include "fuzz/mutate.hpp"

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    return int4q_fuzz::Mutate(data, size, max_size, seed, 1, [](auto &random, auto &bytes, size_t room) {
        if (random.Chance(0.1)) int4q_fuzz::ReplaceParts(random, bytes, room);
        int4q_fuzz::DamageBlob(random, bytes);
    });
}
