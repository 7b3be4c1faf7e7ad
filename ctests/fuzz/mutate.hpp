// SPDX-License-Identifier: Apache-2.0
// A libFuzzer mutator that knows what its bytes mean, half of the time; libFuzzer's own the other half.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "support/random.hpp"

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

namespace int4q_fuzz {

// The first `choices` bytes are an entry's flags; damage() changes the others.
template <typename Damage>
size_t Mutate(uint8_t *data, size_t size, size_t max_size, unsigned int seed, size_t choices, const Damage &damage) {
    int4q_test::Random random(seed);
    if (size <= choices || random.Chance(0.5)) return LLVMFuzzerMutate(data, size, max_size);
    if (random.Chance(0.1)) data[random.Integer(0, static_cast<int64_t>(choices) - 1)] = static_cast<uint8_t>(random.Bits());
    std::vector<uint8_t> bytes(data + choices, data + size);
    for (int64_t damages = random.Integer(1, 3); damages > 0; damages--) damage(random, bytes, max_size - choices);
    const size_t count = std::min(bytes.size(), max_size - choices);
    if (count) std::memcpy(data + choices, bytes.data(), count);
    return choices + count;
}

}  // namespace int4q_fuzz
