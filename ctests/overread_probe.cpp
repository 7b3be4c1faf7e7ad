// SPDX-License-Identifier: Apache-2.0
// Has the library read past the end of an array from the heap: the address sanitizer must say so, or it is not there.
#include <cstdint>
#include <vector>

#include "int4q.h"

int main() {
    const std::vector<uint8_t> bytes(10);
    std::vector<uint8_t> values(64);
    return int4q_nibbles_unpack(bytes.data(), 32, 64, INT4Q_NIBBLES_LOW_FIRST, 0, 0, values.data());
}
