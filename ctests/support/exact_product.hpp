// SPDX-License-Identifier: Apache-2.0
// What a product must be, twice: to the bit, in the order of operations that docs/numerics.md lays down; and in
// binary64 with a bound of how far the library's result may be from it. Both read the tensor, not the blob.
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
#include "support/floats.hpp"
#include "support/problem.hpp"

namespace int4q_test {

constexpr int64_t kColumnPadding = 32;         // columns are padded to a multiple of this
constexpr int64_t kLongestPackedGroup = 65536;  // one group per row is cut into pieces of this many columns

// Length of the packed groups: the scheme's, or pieces of a row.
inline int64_t PackedGroupSize(const Spec &spec) {
    if (spec.group_size > 0) return spec.group_size;
    return std::min((spec.k + kColumnPadding - 1) / kColumnPadding * kColumnPadding, kLongestPackedGroup);
}

// One packed group of one row of x: `length` columns from `begin` on, which includes padding zeros.
struct GroupOfX {
    int64_t begin = 0;
    int64_t length = 0;
    float sum = 0;            // F32: in the documented order
    float step = 0;           // INT8
    std::vector<float> x;     // F32
    std::vector<int> codes;   // INT8
    int64_t code_sum = 0;     // INT8
};

inline float DocumentedSum(const std::vector<float> &x) {
    float partial[16] = {};
    for (size_t j = 0; j < x.size(); j++) partial[j % 16] += x[j];
    for (int width : {8, 4, 2, 1}) {
        for (int i = 0; i < width; i++) partial[i] += partial[i + width];
    }
    return partial[0];
}

inline void QuantizeGroup(GroupOfX &group) {
    float largest = 0;
    bool finite = true;
    for (float value : group.x) {
        finite = finite && std::isfinite(value);
        largest = std::max(largest, std::fabs(value));
    }
    group.codes.assign(group.x.size(), 0);
    if (!finite) {
        group.step = std::numeric_limits<float>::quiet_NaN();
        return;
    }
    if (largest < 0x1p-100f) return;
    group.step = largest / 127.0f;
    const float inverse = 127.0f / largest;
    for (size_t j = 0; j < group.x.size(); j++) {
        group.codes[j] = static_cast<int>(std::nearbyint(group.x[j] * inverse));
        group.code_sum += group.codes[j];
    }
}

inline std::vector<GroupOfX> GroupsOfX(const Problem &problem, int64_t row) {
    const Spec &spec = problem.spec;
    const int64_t size = PackedGroupSize(spec);
    const int64_t padded = (spec.k + kColumnPadding - 1) / kColumnPadding * kColumnPadding;
    std::vector<GroupOfX> groups;
    for (int64_t begin = 0; begin < spec.k; begin += size) {
        GroupOfX group;
        group.begin = begin;
        group.length = std::min(size, padded - begin);
        for (int64_t j = 0; j < group.length; j++) {
            group.x.push_back(begin + j < spec.k ? problem.X(row, begin + j) : 0.0f);
        }
        if (spec.mode == INT4Q_MODE_F32) {
            group.sum = DocumentedSum(group.x);
        } else {
            QuantizeGroup(group);
        }
        groups.push_back(std::move(group));
    }
    return groups;
}

// The weights' codes as integers, padding included (zero codes), so that they are unpacked once.
inline std::vector<int> UnpackRow(const Problem &problem, int64_t row) {
    const int64_t padded = (problem.spec.k + kColumnPadding - 1) / kColumnPadding * kColumnPadding;
    std::vector<int> codes(static_cast<size_t>(padded), 0);
    for (int64_t column = 0; column < problem.spec.k; column++) {
        codes[static_cast<size_t>(column)] = problem.Code(row, column);
    }
    return codes;
}

inline float ExactF32(const Problem &problem, int64_t row, const std::vector<float> &v,
                      const std::vector<GroupOfX> &groups) {
    float total = 0;
    for (const GroupOfX &group : groups) {
        const int64_t g = problem.GroupOf(group.begin);
        const float scale = problem.Scale(row, g);
        float dot = 0;
        for (int64_t j = 0; j < group.length; j++) {
            dot = std::fma(group.x[static_cast<size_t>(j)], v[static_cast<size_t>(group.begin + j)], dot);
        }
        if (problem.spec.kind == INT4Q_KIND_ASYMMETRIC) {
            const float centre = static_cast<float>(8 - problem.ZeroPoint(row, g));
            total = std::fma(scale, std::fma(centre, group.sum, dot), total);
        } else if (problem.spec.kind == INT4Q_KIND_OFFSET) {
            total = std::fma(std::fma(8.0f, scale, problem.Offset(row, g)), group.sum, std::fma(scale, dot, total));
        } else {
            total = std::fma(scale, dot, total);
        }
    }
    return total;
}

inline float ExactInt8(const Problem &problem, int64_t row, const std::vector<int> &codes,
                       const std::vector<GroupOfX> &groups) {
    float total = 0;
    for (const GroupOfX &group : groups) {
        const int64_t g = problem.GroupOf(group.begin);
        const float scale = problem.Scale(row, g);
        const int zero_point = problem.ZeroPoint(row, g);
        int64_t dot = 0;
        for (int64_t j = 0; j < group.length; j++) {
            dot += group.codes[static_cast<size_t>(j)] * (codes[static_cast<size_t>(group.begin + j)] - zero_point);
        }
        total = std::fma(static_cast<float>(dot), scale * group.step, total);
        if (problem.spec.kind == INT4Q_KIND_OFFSET) {
            const float offset = std::fma(8.0f, scale, problem.Offset(row, g));
            total = std::fma(static_cast<float>(group.code_sum), offset * group.step, total);
        }
    }
    return total;
}

// y[m][n] in its type, without gaps.
inline std::vector<unsigned char> ExactProduct(const Problem &problem) {
    const Spec &spec = problem.spec;
    std::vector<std::vector<GroupOfX>> x;
    for (int64_t row = 0; row < spec.m; row++) x.push_back(GroupsOfX(problem, row));
    std::vector<unsigned char> y(static_cast<size_t>(spec.m * spec.n * TypeBytes(spec.y_type)));
    std::vector<float> v;
    for (int64_t column = 0; column < spec.n; column++) {
        const std::vector<int> codes = UnpackRow(problem, column);
        v.clear();
        for (int code : codes) {
            const float centred = static_cast<float>(code - 8);
            v.push_back(spec.kind == INT4Q_KIND_CODEBOOK ? problem.tensor.codebook[code] : centred);
        }
        for (int64_t row = 0; row < spec.m; row++) {
            const std::vector<GroupOfX> &groups = x[static_cast<size_t>(row)];
            const float total = spec.mode == INT4Q_MODE_F32 ? ExactF32(problem, column, v, groups)
                                                            : ExactInt8(problem, column, codes, groups);
            StoreElement(y.data(), spec.y_type, row * spec.n + column, total);
        }
    }
    return y;
}

// Compares two results of a problem (or of `rows` rows of it) bit by bit; NaNs are equal whatever their payload.
inline ::testing::AssertionResult SameY(const Problem &problem, const std::vector<unsigned char> &want,
                                        const std::vector<unsigned char> &got) {
    const Spec &spec = problem.spec;
    if (want.empty() || want.size() != got.size()) {
        return ::testing::AssertionFailure() << want.size() << " and " << got.size() << " bytes: " << spec.Text();
    }
    const int64_t count = static_cast<int64_t>(want.size()) / TypeBytes(spec.y_type);
    int64_t different = 0, first = 0;
    for (int64_t i = count - 1; i >= 0; i--) {
        if (SameFloat(spec.y_type, want.data(), got.data(), i)) continue;
        different++;
        first = i;
    }
    if (different == 0) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << different << " of " << count << " differ, first row " << first / spec.n
                                         << " column " << first % spec.n << ": want " << std::hexfloat
                                         << LoadElement(want.data(), spec.y_type, first) << ", got "
                                         << LoadElement(got.data(), spec.y_type, first) << ": " << spec.Text();
}

// Compares y with the product of x and the dequantized weights in binary64. How far it may be, with u = 2^-24:
//
// Let a[k] bound what a column's code and zero point or offset put into the sums that are rounded: |s v| for SYMMETRIC
// and CODEBOOK, |s| (|q - 8| + |8 - z|) for ASYMMETRIC, |s (q - 8)| + |8 s + o| for OFFSET.
//
// F32. A term x[k] v[k] passes at most L roundings in its group of L columns, one when the sum of x joins, and at most
// two for its own and each later one of G groups. A term of the sum of x passes ceil(L / 16) + 4 <= L + 4 additions and
// the rounding of 8 s + o. So each term is off by a factor of at most (1 + u)^N, N = L + 2 G + 8, and all of them
// together by gamma A, A = sum |x[k]| a[k], gamma = N u / (1 - N u). A fused multiply-add that underflows adds up to
// 2^-150: L + 1 times |s| and twice in each group. (8 s + o and sums of x are exact where they underflow.)
//
// INT8. Let M = max|x| of a group. 127 / M, its product with x and M / 127 have a relative error of u each (with M >=
// 2^-100 only the product can underflow, to far below a code), and rounding to a code adds 1/2: |x - code step| <= e =
// M / 127 (1/2 + 127 * 3.1 u), or e = M where M < 2^-100. That moves the result by at most Q = sum e |w|. Then
// float(dot), scale * step (or 8 s + o, and it times step) and two fused multiply-adds in each group round: N = 2 G +
// 8, A = sum (|x| + e) a as |code step| <= |x| + e. scale * step can underflow by 2^-150, times |dot| <= 127 * 15 L.
//
// Rounding to y's type adds its unit roundoff times |y|, or half its smallest subnormal. Binary64's own error is below
// (k + 8) 2^-52 A. The tests' values stay clear of overflow.
inline ::testing::AssertionResult NearFloat64(const Problem &problem, const std::vector<unsigned char> &got) {
    const Spec &spec = problem.spec;
    const bool int8 = spec.mode == INT4Q_MODE_INT8;
    const double u = 0x1p-24;
    const int64_t size = PackedGroupSize(spec);
    const int64_t group_count = (spec.k + size - 1) / size;
    const double roundings = static_cast<double>((int8 ? 0 : size) + 2 * group_count + 8);
    const double gamma = roundings * u / (1 - roundings * u);
    const size_t k = static_cast<size_t>(spec.k);

    std::vector<double> x(k * static_cast<size_t>(spec.m)), e(x.size());
    for (int64_t row = 0; row < spec.m; row++) {
        for (int64_t begin = 0; begin < spec.k; begin += size) {
            double largest = 0;
            const int64_t end = std::min(begin + size, spec.k);
            for (int64_t c = begin; c < end; c++) {
                x[static_cast<size_t>(row * spec.k + c)] = static_cast<double>(problem.X(row, c));
                largest = std::max(largest, std::fabs(static_cast<double>(problem.X(row, c))));
            }
            const double error = largest < 0x1p-100 ? largest : largest / 127 * (0.5 + 127 * 3.1 * u);
            for (int64_t c = begin; int8 && c < end; c++) e[static_cast<size_t>(row * spec.k + c)] = error;
        }
    }
    std::vector<double> w(k), a(k);
    for (int64_t column = 0; column < spec.n; column++) {
        double underflow = 0;
        for (int64_t c = 0; c < spec.k; c++) {
            const int64_t g = problem.GroupOf(c);
            const int code = problem.Code(column, c);
            const double scale = static_cast<double>(problem.Scale(column, g));
            const double offset = static_cast<double>(problem.Offset(column, g));
            const int zero_point = problem.ZeroPoint(column, g);
            double value = scale * (code - zero_point), share = 0;
            if (spec.kind == INT4Q_KIND_OFFSET) {
                value = scale * code + offset;
                share = std::fabs(scale * (code - 8)) + std::fabs(8 * scale + offset);
            } else if (spec.kind == INT4Q_KIND_CODEBOOK) {
                value = scale * static_cast<double>(problem.tensor.codebook[code]);
                share = std::fabs(value);
            } else {
                share = std::fabs(scale) * (std::abs(code - 8) + std::abs(8 - zero_point));
            }
            w[static_cast<size_t>(c)] = value;
            a[static_cast<size_t>(c)] = share;
            underflow += 0x1p-150 * (int8 ? 2 * 127 * 15 + 2 : 2 * std::fabs(scale) + 2);
        }
        for (int64_t row = 0; row < spec.m; row++) {
            const double *xs = x.data() + static_cast<size_t>(row) * k;
            const double *es = e.data() + static_cast<size_t>(row) * k;
            double want = 0, through = 0, moved = 0;
            for (size_t c = 0; c < k; c++) {
                want += xs[c] * w[c];
                through += (std::fabs(xs[c]) + es[c]) * a[c];
                moved += es[c] * std::fabs(w[c]);
            }
            const double before = gamma * through + moved + 2 * underflow +
                                  static_cast<double>(spec.k + 8) * 0x1p-52 * through;
            const double bound = before + UnitRoundoff(spec.y_type) * (std::fabs(want) + before) +
                                 HalfSubnormal(spec.y_type);
            const float value = LoadElement(got.data(), spec.y_type, row * spec.n + column);
            if (!(std::fabs(static_cast<double>(value) - want) <= bound)) {
                return ::testing::AssertionFailure() << "row " << row << " column " << column << ": got " << value
                                                     << ", binary64 has " << want << ", may differ by " << bound
                                                     << ": " << spec.Text();
            }
        }
    }
    return ::testing::AssertionSuccess();
}

// Runs the product once and holds it against both.
inline void CheckProduct(const Problem &problem) {
    const std::vector<unsigned char> y = Product(problem).Multiply();
    EXPECT_TRUE(SameY(problem, ExactProduct(problem), y));
    EXPECT_TRUE(NearFloat64(problem, y));
}

}  // namespace int4q_test
