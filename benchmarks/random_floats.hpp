// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace int4q_bench {

// Even in -1..1, and the same in every run.
std::vector<float> RandomFloats(int64_t count);

}  // namespace int4q_bench
