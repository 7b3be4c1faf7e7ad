// SPDX-License-Identifier: Apache-2.0
#include "shared_weights.hpp"

namespace int4q_bench {

SharedWeights &WeightsOf(const MatrixShape &shape) {
    static std::unique_ptr<SharedWeights> weights;
    if (!weights || !(weights->shape == shape)) {
        weights.reset();  // first, so that there are never two
        weights = std::make_unique<SharedWeights>(shape);
    }
    return *weights;
}

}  // namespace int4q_bench
