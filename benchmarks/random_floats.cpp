// SPDX-License-Identifier: Apache-2.0
#include "random_floats.hpp"

#include <random>

namespace int4q_bench {

std::vector<float> RandomFloats(int64_t count) {
    std::minstd_rand generator(1);
    std::uniform_real_distribution<float> distribution(-1.0F, 1.0F);
    std::vector<float> values(static_cast<size_t>(count));
    for (float &value : values) value = distribution(generator);
    return values;
}

}  // namespace int4q_bench
