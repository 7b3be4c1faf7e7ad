// SPDX-License-Identifier: Apache-2.0
// The quantizers of docs/quantizers.md, written from its text: one group at a time, plain binary32, no shortcuts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "int4q.h"
#include "support/code_width.hpp"
#include "support/floats.hpp"

namespace int4q_test {

struct QuantizedGroup {
    bool finite = true;  // false: the scale or the offset is beyond its type
    float scale = 0;
    float offset = 0;
    uint8_t zero_point = 0;
    std::vector<uint8_t> codes;
};

inline float Clip(float value, float low, float high) { return std::min(std::max(value, low), high); }

// (int8_t)v as the x86-64 instruction does it that ggml is compiled to, then the upper bound that ggml applies.
inline uint8_t TruncatedCode(float v) {
    if (!(v > -2147483648.0f && v < 2147483648.0f)) return 0;
    const int whole = static_cast<int>(v);
    return static_cast<uint8_t>(std::min(15, static_cast<int>(static_cast<int8_t>(whole))) & 15);
}

// The first value of largest magnitude.
inline float SignedMax(const std::vector<float> &w) {
    float largest = w[0];
    for (float v : w) {
        if (std::fabs(v) > std::fabs(largest)) largest = v;
    }
    return largest;
}

inline QuantizedGroup QuantizeGroupLikeGgml(const int4q_scheme &scheme, const std::vector<float> &w) {
    QuantizedGroup group;
    float scale, low = 0;
    if (scheme.kind == INT4Q_KIND_SYMMETRIC) {
        float largest = 0, magnitude = 0;
        for (float v : w) {
            if (magnitude < std::fabs(v)) {
                magnitude = std::fabs(v);
                largest = v;
            }
        }
        scale = largest / -8;
    } else {
        low = std::numeric_limits<float>::max();
        float high = -std::numeric_limits<float>::max();
        for (float v : w) {
            if (v < low) low = v;
            if (v > high) high = v;
        }
        scale = (high - low) / 15;
    }
    const float reciprocal = scale != 0 ? 1.0f / scale : 0.0f;
    for (float v : w) {
        if (scheme.kind == INT4Q_KIND_SYMMETRIC) {
            const float product = v * reciprocal;
            group.codes.push_back(TruncatedCode(product + 8.5f));
        } else {
            const float above = v - low;
            const float product = above * reciprocal;
            group.codes.push_back(TruncatedCode(product + 0.5f));
        }
    }
    group.scale = RoundTo(scheme.scale_type, scale);
    if (scheme.kind == INT4Q_KIND_OFFSET) group.offset = RoundTo(scheme.scale_type, low);
    group.finite = std::isfinite(group.scale) && std::isfinite(group.offset);
    return group;
}

// MLX's affine quantize: the end of larger magnitude is the offset, and a whole number of steps away from zero.
inline QuantizedGroup QuantizeGroupLikeMlx(const int4q_scheme &scheme, const std::vector<float> &w) {
    QuantizedGroup group;
    const float low = *std::min_element(w.begin(), w.end()), high = *std::max_element(w.begin(), w.end());
    const float range = high - low;
    float scale = std::max(range / 15.0f, 1e-7f), edge = low, offset = 0;
    if (std::fabs(low) <= std::fabs(high)) {
        scale = -scale;
        edge = high;
    }
    const float steps = std::nearbyint(edge / scale);
    if (steps != 0) {
        scale = edge / steps;
        offset = edge;
    }
    for (float v : w) {
        const float above = v - offset;
        group.codes.push_back(static_cast<uint8_t>(std::clamp(std::nearbyint(above / scale), 0.0f, 15.0f)));
    }
    group.scale = RoundTo(scheme.scale_type, scale);
    group.offset = RoundTo(scheme.scale_type, offset);
    group.finite = std::isfinite(group.scale) && std::isfinite(group.offset);
    return group;
}

// Where x lies from the place where two neighbours a < b meet: below it -1, at it 0, above it 1. That is their middle, rounded
// to binary32, or in logarithms their geometric mean; next to zero the value divided by sqrt(2), between signs zero.
inline int SideOf(const int4q_scheme &scheme, float x, float a, float b) {
    double place = static_cast<float>((static_cast<double>(a) + static_cast<double>(b)) / 2), at = x;
    if (scheme.rounding == INT4Q_ROUNDING_NEAREST_LOG) {  // squares, with signs
        const double small = std::min(std::fabs(a), std::fabs(b)), large = std::max(std::fabs(a), std::fabs(b));
        place = a < 0 && b > 0 ? 0 : small == 0 ? large * large / 2 : small * large;
        if (a < 0) place = -place;
        at = static_cast<double>(x) * std::fabs(static_cast<double>(x));
    }
    return at < place ? -1 : at > place ? 1 : 0;
}

// The nearest of 16 values; at a meeting place, and of equal values, the lower code.
inline int NearestCode(const int4q_scheme &scheme, float x, const float *codebook) {
    std::vector<int> order;
    for (int q = 0; q < 16; q++) order.push_back(q);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return codebook[a] != codebook[b] ? codebook[a] < codebook[b] : a < b; });
    order.erase(std::unique(order.begin(), order.end(), [&](int a, int b) { return codebook[a] == codebook[b]; }), order.end());
    size_t at = 0;
    for (; at + 1 < order.size(); at++) {
        const int side = SideOf(scheme, x, codebook[order[at]], codebook[order[at + 1]]);
        if (side < 0 || (side == 0 && order[at] < order[at + 1])) break;
    }
    return order[at];
}

// Sums are binary64: element i goes to sum i mod 4, then pairs.
inline float MeanMagnitude(const std::vector<float> &w) {
    double sums[4] = {};
    for (size_t i = 0; i < w.size(); i++) sums[i % 4] += std::fabs(static_cast<double>(w[i]));
    return static_cast<float>((sums[0] + sums[1] + (sums[2] + sums[3])) / static_cast<double>(w.size()));
}

// BINARY and TERNARY codes for a stored scale.
inline std::vector<uint8_t> FewCodes(const int4q_scheme &scheme, const std::vector<float> &w, float scale) {
    std::vector<uint8_t> codes;
    for (float v : w) {
        const float third = scale == 0 ? 1.0f : Clip(std::nearbyint(v / scale), -1, 1) + 1.0f;
        codes.push_back(static_cast<uint8_t>(scheme.kind == INT4Q_KIND_BINARY ? v >= 0 : third));
    }
    return codes;
}

// a - b over c as if binary32 had no largest number: an overflowing difference is halved and doubled again.
inline float Quotient(float a, float b, float c) {
    const float difference = a - b;
    if (std::isfinite(difference)) return difference / c;
    const double half = static_cast<double>(static_cast<float>(static_cast<double>(a) / 2 - static_cast<double>(b) / 2));
    return static_cast<float>(2 * half / static_cast<double>(c));
}

// (high - low) / last, with a wider difference where binary32's overflows.
inline float Step(float high, float low, float last) {
    const float difference = high - low;
    if (std::isfinite(difference)) return difference / last;
    return static_cast<float>((static_cast<double>(high) - static_cast<double>(low)) / static_cast<double>(last));
}

// The least power of two that is not below a positive value, found from below.
inline float PowerOfTwoNotBelow(float value) {
    if (value == 0) return 0;
    int exponent = -149;
    while (std::ldexp(1.0f, exponent) < value) exponent++;
    return std::ldexp(1.0f, exponent);
}

// What a group stores beside its codes.
struct GivenGroup {
    float scale = 0, offset = 0;
    uint8_t zero_point = 0;
};

// INT4Q_SCALE_GIVEN.
inline std::vector<uint8_t> GivenCodes(const int4q_scheme &scheme, const std::vector<float> &w, const GivenGroup &given,
                                       const float *codebook) {
    if (IsFew(scheme)) return FewCodes(scheme, w, given.scale);
    const bool counts = scheme.kind == INT4Q_KIND_SYMMETRIC || scheme.kind == INT4Q_KIND_ASYMMETRIC;
    const int zero = scheme.kind == INT4Q_KIND_SYMMETRIC ? MiddleCode(scheme) : counts ? given.zero_point : 0;
    const float low = scheme.code_range == INT4Q_RANGE_RESTRICTED ? 1.0f : 0.0f;
    std::vector<uint8_t> codes;
    for (float v : w) {
        float code = static_cast<float>(zero);
        if (given.scale != 0 && scheme.kind == INT4Q_KIND_CODEBOOK) {
            code = static_cast<float>(NearestCode(scheme, v / given.scale, codebook));
        } else if (given.scale != 0) {
            const float steps = counts ? v / given.scale : Quotient(v, given.offset, given.scale);
            code = Clip(std::nearbyint(steps) + static_cast<float>(zero), low, static_cast<float>(LargestCode(scheme)));
        }
        codes.push_back(static_cast<uint8_t>(code));
    }
    return codes;
}

inline QuantizedGroup QuantizeFew(const int4q_scheme &scheme, const std::vector<float> &w) {
    QuantizedGroup group;
    float largest = 0;
    for (float v : w) largest = std::max(largest, std::fabs(v));
    group.scale = RoundTo(scheme.scale_type, scheme.scale_rule == INT4Q_SCALE_AMAX_7 ? largest : MeanMagnitude(w));
    group.finite = std::isfinite(group.scale);
    if (group.finite) group.codes = FewCodes(scheme, w, group.scale);
    return group;
}

inline QuantizedGroup QuantizeGroup(const int4q_scheme &scheme, const std::vector<float> &w, const float *codebook) {
    if (IsFew(scheme)) return QuantizeFew(scheme, w);
    if (scheme.rounding == INT4Q_ROUNDING_GGML) return QuantizeGroupLikeGgml(scheme, w);
    if (scheme.rounding == INT4Q_ROUNDING_MLX) return QuantizeGroupLikeMlx(scheme, w);
    QuantizedGroup group;
    const auto R = [&](float v) { return RoundTo(scheme.scale_type, v); };
    const float low = *std::min_element(w.begin(), w.end());
    const float high = *std::max_element(w.begin(), w.end());
    const float magnitude = std::max(std::fabs(low), std::fabs(high));
    const bool constant = low == high;
    const bool symmetric = scheme.kind == INT4Q_KIND_SYMMETRIC;
    const float lowest_code = scheme.code_range == INT4Q_RANGE_RESTRICTED ? 1.0f : 0.0f;
    const float middle = static_cast<float>(MiddleCode(scheme)), last = static_cast<float>(LargestCode(scheme));
    const uint8_t zero_code = static_cast<uint8_t>(symmetric ? MiddleCode(scheme) : 0);
    const int32_t own_default = CodeBits(scheme) == 8 ? INT4Q_SCALE_AMAX_7 : INT4Q_SCALE_SIGNED_MAX_8;
    const int32_t rule = scheme.scale_rule == INT4Q_SCALE_DEFAULT ? own_default : scheme.scale_rule;

    float scale = 0;
    if (symmetric) {
        if (rule == INT4Q_SCALE_AMAX_7) {
            scale = R(constant ? magnitude : magnitude / (middle - 1.0f));
        } else if (rule == INT4Q_SCALE_AMAX_7_5) {
            scale = R(constant ? magnitude : magnitude / (middle - 0.5f));
        } else if (rule == INT4Q_SCALE_POWER_OF_TWO) {
            scale = R(PowerOfTwoNotBelow(magnitude / (middle - 1.0f)));
        } else {
            scale = R(SignedMax(w) / -middle);
        }
    } else if (scheme.kind == INT4Q_KIND_ASYMMETRIC) {
        scale = R(constant ? magnitude : Step(std::max(high, 0.0f), std::min(low, 0.0f), last));
    } else if (scheme.kind == INT4Q_KIND_OFFSET) {
        scale = R(Step(high, low, last));
        group.offset = R(low) == 0 ? 0.0f : R(low);  // a zero of either sign is stored without one
    } else {
        float largest = 0;
        for (int i = 0; i < 16; i++) largest = std::max(largest, std::fabs(codebook[i]));
        scale = scheme.scale_rule == INT4Q_SCALE_ONE ? 1.0f : R(magnitude / largest);
    }
    group.finite = std::isfinite(scale) && std::isfinite(group.offset);
    if (!group.finite) return group;
    if (scale == 0) {  // the group is zero (OFFSET: the offset)
        group.codes.assign(w.size(), zero_code);
        return group;
    }
    group.scale = scale;
    if (scheme.kind == INT4Q_KIND_ASYMMETRIC) {
        group.zero_point = static_cast<uint8_t>(Clip(std::nearbyint(-std::min(low, 0.0f) / scale), 0, last));
    }
    for (float v : w) {
        float code;
        if (symmetric) {
            code = Clip(std::nearbyint(v / scale) + middle, lowest_code, last);
        } else if (scheme.kind == INT4Q_KIND_ASYMMETRIC) {
            code = Clip(std::nearbyint(v / scale) + static_cast<float>(group.zero_point), 0, last);
        } else if (scheme.kind == INT4Q_KIND_OFFSET) {
            code = Clip(std::nearbyint(Quotient(v, group.offset, scale)), 0, last);
        } else {
            code = static_cast<float>(NearestCode(scheme, v / scale, codebook));
        }
        group.codes.push_back(static_cast<uint8_t>(code));
    }
    return group;
}

// A whole matrix in the bytes of int4q_tensor.
struct ReferenceTensor {
    bool finite = true;
    int64_t bad_row = -1;           // of the first group whose scale or offset does not fit, if not finite
    int64_t bad_begin = 0, bad_end = 0;  // its columns
    std::vector<uint8_t> codes, scales, zero_points, offsets;
};

inline int64_t GroupLength(const int4q_scheme &scheme, int64_t k) {
    return scheme.group_size == INT4Q_GROUP_PER_ROW ? k : scheme.group_size;
}

// weight(row, column) is the finite source element as binary32. SCALE_GIVEN: given(row, group) is what the tensor holds.
template <typename Weight>
ReferenceTensor QuantizeReference(const int4q_scheme &scheme, int64_t n, int64_t k, const float *codebook, const Weight &weight,
                                  const std::function<GivenGroup(int64_t, int64_t)> &given = nullptr) {
    const int64_t length = GroupLength(scheme, k), groups = (k + length - 1) / length, row_bytes = CodeRowBytes(scheme, k);
    ReferenceTensor out;
    out.codes.assign(static_cast<size_t>(n * row_bytes), 0);
    out.scales.assign(static_cast<size_t>(n * groups * TypeBytes(scheme.scale_type)), 0);
    if (scheme.kind == INT4Q_KIND_ASYMMETRIC) out.zero_points.assign(static_cast<size_t>(n * groups), 0);
    if (scheme.kind == INT4Q_KIND_OFFSET) out.offsets = out.scales;
    for (int64_t row = 0; row < n; row++) {
        for (int64_t g = 0; g < groups; g++) {
            std::vector<float> w;
            for (int64_t column = g * length; column < std::min(k, (g + 1) * length); column++) {
                w.push_back(weight(row, column));
            }
            const bool of_rows = scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW;
            const float *const values = of_rows ? codebook + 16 * row : codebook;
            QuantizedGroup group;
            if (given) {
                const GivenGroup stored = given(row, g);
                group.scale = stored.scale, group.offset = stored.offset, group.zero_point = stored.zero_point;
                group.codes = GivenCodes(scheme, w, stored, values);
            } else {
                group = QuantizeGroup(scheme, w, values);
            }
            if (!group.finite) {
                out.finite = false;
                out.bad_row = row;
                out.bad_begin = g * length;
                out.bad_end = std::min(k, (g + 1) * length);
                return out;
            }
            StoreElement(out.scales.data(), scheme.scale_type, row * groups + g, group.scale);
            if (!out.zero_points.empty()) out.zero_points[static_cast<size_t>(row * groups + g)] = group.zero_point;
            if (!out.offsets.empty()) {
                StoreElement(out.offsets.data(), scheme.scale_type, row * groups + g, group.offset);
            }
            for (size_t i = 0; i < w.size(); i++) {
                const int64_t column = g * length + static_cast<int64_t>(i);
                PutCode(out.codes.data() + row * row_bytes, CodeBits(scheme), column, group.codes[i]);
            }
        }
    }
    return out;
}

inline int CodeAt(const int4q_tensor &tensor, int64_t row, int64_t column) {
    const auto *codes = static_cast<const uint8_t *>(tensor.codes);
    return GetCode(codes + row * CodeRowBytes(tensor.scheme, tensor.k), CodeBits(tensor.scheme), column);
}

// What element (row, column) stands for, in binary32.
inline float DequantizeReference(const int4q_tensor &tensor, int64_t row, int64_t column) {
    const int64_t length = GroupLength(tensor.scheme, tensor.k), groups = (tensor.k + length - 1) / length;
    const int64_t index = row * groups + column / length;
    const float scale = LoadElement(tensor.scales, tensor.scheme.scale_type, index);
    const int code = CodeAt(tensor, row, column);
    switch (tensor.scheme.kind) {
        case INT4Q_KIND_SYMMETRIC:
        case INT4Q_KIND_BINARY:
        case INT4Q_KIND_TERNARY:
            return scale * static_cast<float>(CentredCode(tensor.scheme, code));
        case INT4Q_KIND_ASYMMETRIC:
            return scale * static_cast<float>(code - static_cast<const uint8_t *>(tensor.zero_points)[index]);
        case INT4Q_KIND_OFFSET:
            return std::fma(scale, static_cast<float>(code),
                            LoadElement(tensor.offsets, tensor.scheme.scale_type, index));
        default:
            return scale * tensor.codebook[(tensor.scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW ? 16 * row : 0) + code];
    }
}

}  // namespace int4q_test
