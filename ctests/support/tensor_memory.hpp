// SPDX-License-Identifier: Apache-2.0
// A quantized tensor whose parts lie between guard pages and are sized exactly as int4q_tensor_sizes() says.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/status.hpp"

namespace int4q_test {

// The codebook of 4-bit NormalFloat, rounded to five digits: 16 values of which the largest are -1 and 1.
constexpr float kNormalFloat[16] = {-1.0f,    -0.69619f, -0.52507f, -0.39491f, -0.28444f, -0.18477f, -0.09105f, 0.0f,
                                    0.07958f, 0.16093f,  0.24611f,  0.33791f,  0.44070f,  0.56261f,  0.72295f,  1.0f};

inline int4q_scheme MakeScheme(int32_t kind, int32_t group_size, int4q_type scale_type,
                               int32_t rule = INT4Q_SCALE_DEFAULT, int32_t range = INT4Q_RANGE_FULL,
                               int32_t rounding = INT4Q_ROUNDING_NEAREST_EVEN) {
    int4q_scheme scheme;
    std::memset(&scheme, 0, sizeof scheme);
    scheme.kind = kind;
    scheme.group_size = group_size;
    scheme.scale_type = scale_type;
    scheme.scale_rule = rule;
    scheme.code_range = range;
    scheme.rounding = rounding;
    return scheme;
}

constexpr int32_t kAllGroupSizes[] = {16, 32, 64, 128, 256, INT4Q_GROUP_PER_ROW};

// Every combination of kind, rule, range and rounding that the header allows.
inline std::vector<int4q_scheme> AllSchemes(int32_t group_size, int4q_type scale_type) {
    const auto make = [&](int32_t kind, int32_t rule, int32_t range, int32_t rounding) {
        return MakeScheme(kind, group_size, scale_type, rule, range, rounding);
    };
    return {
        make(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_DEFAULT, INT4Q_RANGE_FULL, INT4Q_ROUNDING_NEAREST_EVEN),
        make(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_AMAX_7, INT4Q_RANGE_FULL, INT4Q_ROUNDING_NEAREST_EVEN),
        make(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_AMAX_7, INT4Q_RANGE_RESTRICTED, INT4Q_ROUNDING_NEAREST_EVEN),
        make(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_AMAX_7_5, INT4Q_RANGE_FULL, INT4Q_ROUNDING_NEAREST_EVEN),
        make(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_AMAX_7_5, INT4Q_RANGE_RESTRICTED, INT4Q_ROUNDING_NEAREST_EVEN),
        make(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_SIGNED_MAX_8, INT4Q_RANGE_FULL, INT4Q_ROUNDING_NEAREST_EVEN),
        make(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_SIGNED_MAX_8, INT4Q_RANGE_FULL, INT4Q_ROUNDING_GGML),
        make(INT4Q_KIND_ASYMMETRIC, INT4Q_SCALE_DEFAULT, INT4Q_RANGE_FULL, INT4Q_ROUNDING_NEAREST_EVEN),
        make(INT4Q_KIND_OFFSET, INT4Q_SCALE_DEFAULT, INT4Q_RANGE_FULL, INT4Q_ROUNDING_NEAREST_EVEN),
        make(INT4Q_KIND_OFFSET, INT4Q_SCALE_DEFAULT, INT4Q_RANGE_FULL, INT4Q_ROUNDING_GGML),
        make(INT4Q_KIND_OFFSET, INT4Q_SCALE_DEFAULT, INT4Q_RANGE_FULL, INT4Q_ROUNDING_MLX),
        make(INT4Q_KIND_CODEBOOK, INT4Q_SCALE_DEFAULT, INT4Q_RANGE_FULL, INT4Q_ROUNDING_NEAREST_EVEN),
    };
}

inline std::string Name(const int4q_scheme &scheme) {
    const char *kinds[] = {"?", "symmetric", "asymmetric", "offset", "codebook", "binary", "ternary"};
    return std::string(kinds[scheme.kind]) + " group " + std::to_string(scheme.group_size) + " scale " +
           TypeName(scheme.scale_type) + " rule " + std::to_string(scheme.scale_rule) + " range " +
           std::to_string(scheme.code_range) + " rounding " + std::to_string(scheme.rounding) +
           (scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW ? " of rows" : "") + (scheme.code_bits == 8 ? " of 8 bits" : "");
}

// How many values a codebook of an n-row matrix has.
inline size_t CodebookCount(const int4q_scheme &scheme, int64_t n) {
    return scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW ? 16 * static_cast<size_t>(n) : 16;
}

class TensorMemory {
public:
    TensorMemory(const int4q_scheme &scheme, int64_t n, int64_t k, Placement placement = Placement::kRight,
                 const float *codebook = kNormalFloat) {
        std::memset(&layout_, 0, sizeof layout_);
        layout_.struct_size = sizeof layout_;
        EXPECT_OK(int4q_tensor_sizes(&scheme, n, k, &layout_));
        const size_t scale_alignment = static_cast<size_t>(TypeBytes(scheme.scale_type));
        std::memset(&tensor_, 0, sizeof tensor_);
        tensor_.struct_size = sizeof tensor_;
        tensor_.scheme = scheme;
        tensor_.n = n;
        tensor_.k = k;
        tensor_.codes = Take(codes_, layout_.codes_bytes, placement, 1);
        tensor_.codes_bytes = layout_.codes_bytes;
        tensor_.scales = Take(scales_, layout_.scales_bytes, placement, scale_alignment);
        tensor_.scales_bytes = layout_.scales_bytes;
        tensor_.zero_points = Take(zero_points_, layout_.zero_points_bytes, placement, 1);
        tensor_.zero_points_bytes = layout_.zero_points_bytes;
        tensor_.offsets = Take(offsets_, layout_.offsets_bytes, placement, scale_alignment);
        tensor_.offsets_bytes = layout_.offsets_bytes;
        if (scheme.kind == INT4Q_KIND_CODEBOOK) {
            const size_t bytes = CodebookCount(scheme, n) * sizeof(float);
            void *values = Take(codebook_, bytes, placement, sizeof(float));
            std::memcpy(values, codebook, bytes);
            codebook_.ForbidWriting();
            tensor_.codebook = static_cast<const float *>(values);
        }
    }

    // The tensor refers to the buffers' memory, which does not move with the object.
    TensorMemory(TensorMemory &&) = default;

    const int4q_tensor *get() const { return &tensor_; }
    int4q_tensor *get() { return &tensor_; }
    const int4q_tensor *operator->() const { return &tensor_; }
    const int4q_tensor_layout &layout() const { return layout_; }
    int64_t groups() const { return layout_.groups_per_row; }

    std::vector<uint8_t> Codes() const { return Bytes(codes_); }
    std::vector<uint8_t> Scales() const { return Bytes(scales_); }
    std::vector<uint8_t> ZeroPoints() const { return Bytes(zero_points_); }
    std::vector<uint8_t> Offsets() const { return Bytes(offsets_); }

    void ForbidWriting() {
        codes_.ForbidWriting();
        scales_.ForbidWriting();
        if (zero_points_.size()) zero_points_.ForbidWriting();
        if (offsets_.size()) offsets_.ForbidWriting();
    }

private:
    static void *Take(GuardedBuffer &buffer, uint64_t bytes, Placement placement, size_t alignment) {
        if (bytes == 0) return nullptr;
        buffer = GuardedBuffer(static_cast<size_t>(bytes), placement, alignment);
        return buffer.data();
    }

    static std::vector<uint8_t> Bytes(const GuardedBuffer &buffer) {
        if (buffer.size() == 0) return {};
        return std::vector<uint8_t>(buffer.data(), buffer.data() + buffer.size());
    }

    GuardedBuffer codes_, scales_, zero_points_, offsets_, codebook_;
    int4q_tensor tensor_;
    int4q_tensor_layout layout_;
};

inline ::testing::AssertionResult SameTensor(const TensorMemory &a, const TensorMemory &b) {
    if (a.Codes() != b.Codes()) return ::testing::AssertionFailure() << "codes differ";
    if (a.Scales() != b.Scales()) return ::testing::AssertionFailure() << "scales differ";
    if (a.ZeroPoints() != b.ZeroPoints()) return ::testing::AssertionFailure() << "zero points differ";
    if (a.Offsets() != b.Offsets()) return ::testing::AssertionFailure() << "offsets differ";
    return ::testing::AssertionSuccess();
}

}  // namespace int4q_test
