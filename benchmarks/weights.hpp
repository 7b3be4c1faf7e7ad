// SPDX-License-Identifier: Apache-2.0
// Weights in the forms that the benchmarks need.
#pragma once

#include <vector>

#include "buffer.hpp"
#include "int4q.h"

namespace int4q_bench {

struct MatrixShape {
    int64_t n;
    int64_t k;
    int32_t group_size;
};

inline bool operator==(const MatrixShape &a, const MatrixShape &b) {
    return a.n == b.n && a.k == b.k && a.group_size == b.group_size;
}

// Symmetric with binary16 scales.
int4q_scheme SchemeOf(const MatrixShape &shape);

// The bytes of a quantized matrix: codes, then scales.
size_t TensorBytes(const MatrixShape &shape);

// A tensor whose parts lie in TensorBytes() bytes of memory.
int4q_tensor TensorIn(uint8_t *memory, const MatrixShape &shape);

void Quantize(const int4q_tensor &tensor, const std::vector<float> &source);
void Pack(const int4q_tensor &tensor, const Buffer &blob);

// Both in one pass, for some of the rows.
void QuantizePack(const MatrixShape &shape, const std::vector<float> &source, const Buffer &blob, int64_t row_begin,
                  int64_t row_end);

size_t BlobBytes(const MatrixShape &shape);

// Random weights, quantized; and those, packed.
Buffer MakeTensor(const MatrixShape &shape);
Buffer MakeBlob(const MatrixShape &shape);

}  // namespace int4q_bench
