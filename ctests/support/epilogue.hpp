// SPDX-License-Identifier: Apache-2.0
// What a product with an epilogue must be: the steps of docs/numerics.md one by one on top of the totals of plain
// products. Activations without a transcendental function are derived here; the others are taken from a product that
// ends with them, whose values are held against binary64.
//
// Compile without contraction (-ffp-contract=off) and without -ffast-math.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "int4q.h"
#include "support/exact_product.hpp"
#include "support/floats.hpp"
#include "support/isa.hpp"
#include "support/problem.hpp"

namespace int4q_test {

inline bool IsTranscendental(int32_t activation) { return activation > INT4Q_ACTIVATION_RELU; }

inline double Activation64(int32_t activation, double x) {
    switch (activation) {
        case INT4Q_ACTIVATION_RELU: return x < 0 ? 0 : x;
        case INT4Q_ACTIVATION_GELU_ERF: return x * (0.5 * std::erfc(-x / std::sqrt(2.0)));
        case INT4Q_ACTIVATION_GELU_TANH: {
            const double two_over_pi = 0.63661977236758134308;
            return x / (1 + std::exp(-2 * std::sqrt(two_over_pi) * (x + 0.044715 * x * x * x)));
        }
        case INT4Q_ACTIVATION_SILU: return x / (1 + std::exp(-x));
        default: return x;
    }
}

// Within the header's bound of binary64; NaN and infinity as the limits are, but that minus infinity may give anything
// that is not plus infinity.
inline ::testing::AssertionResult IsActivationOf(int32_t activation, float x, float y) {
    const float infinity = std::numeric_limits<float>::infinity();
    const double want = Activation64(activation, static_cast<double>(x));
    const double magnitude = std::fabs(static_cast<double>(x));
    bool right = false;
    if (std::isnan(x)) {
        right = std::isnan(y);
    } else if (std::isinf(x)) {
        right = x > 0 ? y == infinity : y != infinity;
    } else {
        right = std::fabs(static_cast<double>(y) - want) <= 4e-7 * std::max(1.0, magnitude);
    }
    if (right) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << ActivationName(activation) << "(" << std::hexfloat << x << std::defaultfloat
                                         << " = " << x << ") is " << y << ", binary64 has " << want;
}

inline std::vector<float> Floats(const std::vector<unsigned char> &y) {
    std::vector<float> values;
    for (size_t i = 0; i < y.size() / sizeof(float); i++) {
        values.push_back(LoadElement(y.data(), INT4Q_TYPE_F32, static_cast<int64_t>(i)));
    }
    return values;
}

// The totals of a problem's first matrix, by definition, or where that does not say all by a product without epilogue.
inline std::vector<float> Totals(const Problem &problem) {
    if (IsDefinedToTheBit(problem.spec.mode, ActiveIsa())) return ExactTotals(problem);
    return Floats(Product(problem, Plain(problem.spec)).Multiply());
}

// activation(total + bias)
inline std::vector<float> Activated(const Problem &problem) {
    const Spec &spec = problem.spec;
    std::vector<float> values = Totals(problem);
    for (size_t i = 0; spec.bias_type && i < values.size(); i++) {
        values[i] = values[i] + problem.Bias(static_cast<int64_t>(i) % spec.n);
    }
    if (spec.activation == INT4Q_ACTIVATION_RELU) {
        for (float &value : values) value = value < 0 ? 0 : value;
    }
    if (!IsTranscendental(spec.activation)) return values;
    Spec up_to_here = Plain(spec);
    up_to_here.activation = spec.activation;
    up_to_here.bias_type = spec.bias_type;
    const std::vector<float> activated = Floats(Product(problem, up_to_here).Multiply());
    for (size_t i = 0; i < values.size(); i++) {
        const ::testing::AssertionResult agrees = IsActivationOf(spec.activation, values[i], activated[i]);
        EXPECT_TRUE(agrees) << spec.Text();
        if (!agrees) break;
    }
    return activated;
}

// y to the bit.
inline std::vector<unsigned char> WantedEpilogue(const Problem &problem) {
    const Spec &spec = problem.spec;
    std::vector<float> values = Activated(problem);
    const std::vector<float> up = spec.gated ? Totals(*problem.up) : std::vector<float>();
    for (size_t i = 0; i < values.size(); i++) {
        const int64_t row = static_cast<int64_t>(i) / spec.n, column = static_cast<int64_t>(i) % spec.n;
        if (spec.gated) {
            const bool has_bias = spec.bias_type && spec.up_bias;
            values[i] = values[i] * (has_bias ? up[i] + problem.UpBias(column) : up[i]);
        }
        if (spec.residual_type) values[i] = values[i] + problem.Residual(row, column);
    }
    return InTypeOfY(spec, values);
}

// Runs the product once and holds it against that.
inline void CheckEpilogue(const Problem &problem) {
    EXPECT_TRUE(SameY(problem, WantedEpilogue(problem), Product(problem).Multiply()));
}

// A random product with everything that an epilogue can have, drawn at random too, and gaps between all rows.
inline Spec RandomEpilogue(Random &random, int64_t m, int64_t n, int64_t k, int4q_compute_mode mode) {
    Spec spec = RandomSpec(random, m, n, k, mode);
    spec.activation = kActivations[random.Integer(0, 4)];
    spec.bias_type = kTypesOrNone[random.Integer(0, 3)];
    spec.residual_type = kTypesOrNone[random.Integer(0, 3)];
    spec.gated = random.Chance(0.5);
    spec.up_bias = random.Chance(0.75);
    spec.static_scales = mode == INT4Q_MODE_INT8 && random.Chance(0.25);
    spec.x_gap = random.Integer(0, 9);
    spec.y_gap = random.Integer(0, 9);
    spec.residual_gap = random.Integer(0, 9);
    return spec;
}

}  // namespace int4q_test
