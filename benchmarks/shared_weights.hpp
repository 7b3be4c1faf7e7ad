// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rotation.hpp"
#include "weights.hpp"

namespace int4q_bench {

// A blob of random weights, and copies of it that come from memory.
struct SharedWeights {
    explicit SharedWeights(const MatrixShape &shape) : shape(shape), blob(MakeBlob(shape)), copies(blob) {}

    const MatrixShape shape;
    const Buffer blob;
    Rotation copies;
};

// Kept until another shape is asked for: Google Benchmark calls a benchmark several times, and many share their weights.
SharedWeights &WeightsOf(const MatrixShape &shape);

}  // namespace int4q_bench
