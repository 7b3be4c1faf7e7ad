// SPDX-License-Identifier: Apache-2.0
// Weights to be quantized, between guard pages.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {

// A source matrix between guard pages: the last row ends at its last element, whatever the stride.
class SourceMatrix {
public:
    SourceMatrix(int4q_type type, int64_t n, int64_t k, int64_t stride, Placement placement = Placement::kRight)
        : type(type), n(n), k(k), stride(stride),
          buffer(static_cast<size_t>(((n - 1) * stride + k) * TypeBytes(type)), placement,
                 static_cast<size_t>(TypeBytes(type))) {}
    float operator()(int64_t row, int64_t column) const {
        return LoadElement(buffer.data(), type, row * stride + column);
    }
    void Set(int64_t row, int64_t column, float value) {
        StoreElement(buffer.data(), type, row * stride + column, value);
    }
    int4q_status Quantize(TensorMemory &tensor) const { return Quantize(tensor, 0, n); }
    int4q_status Quantize(TensorMemory &tensor, int64_t begin, int64_t end) const {
        return int4q_quantize_rows(tensor.get(), buffer.data(), type, stride, begin, end);
    }

    const int4q_type type;
    const int64_t n, k, stride;
    GuardedBuffer buffer;
};

// Runs of 16 elements, each of another sort: among them constants, zeros of both signs, ties, outliers, denormals.
inline void FillMixed(SourceMatrix &source, Random &random) {
    for (int64_t row = 0; row < source.n; row++) {
        for (int64_t from = 0; from < source.k; from += 16) {
            const int64_t sort = random.Integer(0, 9);
            const float scale = std::ldexp(1.0f, static_cast<int>(random.Integer(-8, 8)));
            const float constant = random.Normal() * scale;
            for (int64_t column = from; column < std::min(source.k, from + 16); column++) {
                float value = random.Normal() * scale;
                if (sort == 0) value = random.Chance(0.5) ? 0.0f : -0.0f;
                if (sort == 1) value = constant;
                if (sort == 2) value = static_cast<float>(random.Integer(-16, 14)) * 0.5f * scale;
                if (sort == 3) value = std::fabs(value) + scale;
                if (sort == 4) value = -std::fabs(value) - scale;
                if (sort == 5 && column == from + 3) value *= 50;
                if (sort == 6) value *= 0x1p-20f;
                if (sort == 7) value = static_cast<float>(random.Integer(-3, 3)) * 0x1p-149f;
                source.Set(row, column, value);
            }
        }
    }
}

}  // namespace int4q_test
