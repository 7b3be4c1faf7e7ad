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
#include "support/isa.hpp"
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
    float sum = 0;            // F32 and BF16: in the documented order
    float step = 0;           // INT8; BINARY: mean |x|
    std::vector<float> x;     // F32, and BF16: rounded
    std::vector<int> codes;   // INT8; BINARY: signs, 0 beyond k
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

inline bool AllFinite(const std::vector<float> &values) {
    for (float value : values) {
        if (!std::isfinite(value)) return false;
    }
    return true;
}

// With the scale that max|x| asks for.
inline void QuantizeGroup(GroupOfX &group) {
    float largest = 0;
    for (float value : group.x) largest = std::max(largest, std::fabs(value));
    if (largest < 0x1p-100f) return;
    group.step = largest / 127.0f;
    const float inverse = 127.0f / largest;
    for (size_t j = 0; j < group.x.size(); j++) group.codes[j] = static_cast<int>(std::nearbyint(group.x[j] * inverse));
}

// With a scale of the caller: what it cannot hold is clipped.
inline void QuantizeGroup(GroupOfX &group, float step) {
    group.step = step;
    const float inverse = 1.0f / step;
    for (size_t j = 0; j < group.x.size(); j++) {
        const float code = std::nearbyint(group.x[j] * inverse);
        group.codes[j] = static_cast<int>(std::min(std::max(code, -127.0f), 127.0f));
    }
}

inline void QuantizeGroup(const Problem &problem, GroupOfX &group) {
    group.codes.assign(group.x.size(), 0);
    if (!AllFinite(group.x)) {
        group.step = std::numeric_limits<float>::quiet_NaN();
    } else if (problem.spec.static_scales) {
        QuantizeGroup(group, problem.XScale(problem.GroupOf(group.begin)));
    } else {
        QuantizeGroup(group);
    }
    for (int code : group.codes) group.code_sum += code;
}

// BINARY mode: + for zeros of both signs; the mean is of the columns that there are.
inline void TakeSigns(GroupOfX &group, int64_t count) {
    std::vector<float> magnitudes;
    for (float value : group.x) magnitudes.push_back(std::fabs(value));
    group.step = AllFinite(group.x) ? DocumentedSum(magnitudes) / static_cast<float>(count) : std::numeric_limits<float>::quiet_NaN();
    group.codes.assign(group.x.size(), 0);
    for (int64_t j = 0; j < count; j++) group.codes[static_cast<size_t>(j)] = group.x[static_cast<size_t>(j)] < 0 ? -1 : 1;
}

inline std::vector<GroupOfX> GroupsOfX(const Problem &problem, int64_t row) {
    const Spec &spec = problem.spec;
    const int64_t size = PackedGroupSize(spec);
    const int64_t padded = (spec.k + kColumnPadding - 1) / kColumnPadding * kColumnPadding;
    const int4q_type read_as = spec.mode == INT4Q_MODE_BF16 ? INT4Q_TYPE_BF16 : INT4Q_TYPE_F32;
    std::vector<GroupOfX> groups;
    for (int64_t begin = 0; begin < spec.k; begin += size) {
        GroupOfX group;
        group.begin = begin;
        group.length = std::min(size, padded - begin);
        for (int64_t j = 0; j < group.length; j++) {
            group.x.push_back(begin + j < spec.k ? RoundTo(read_as, problem.X(row, begin + j)) : 0.0f);
        }
        if (spec.mode == INT4Q_MODE_INT8) {
            QuantizeGroup(problem, group);
        } else if (spec.mode == INT4Q_MODE_BINARY) {
            TakeSigns(group, std::min(size, spec.k - begin));
        } else {
            group.sum = DocumentedSum(group.x);
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

inline float LargestOfCodebook(const Problem &problem) {
    float largest = 0;
    for (int i = 0; i < 16; i++) largest = std::max(largest, std::fabs(problem.tensor.codebook[i]));
    return largest;
}

// What INT8 mode makes of a CODEBOOK: integers, and a factor for the scale.
struct IntegerCodebook {
    explicit IntegerCodebook(const Problem &problem) {
        if (problem.spec.kind != INT4Q_KIND_CODEBOOK) return;
        const float largest = LargestOfCodebook(problem);
        levels = Levels(problem.tensor.codebook, largest);
        for (int i = 0; i < 16; i++) {
            const double value = static_cast<double>(problem.tensor.codebook[i]);
            values[i] = static_cast<int>(std::nearbyint(value * levels / static_cast<double>(largest)));
        }
        factor = largest / static_cast<float>(levels);
    }

    // The fewest, up to 127, with which every value is a whole number of steps; 127 if there are none. The remainder is exact.
    static int Levels(const float *codebook, float largest) {
        for (int levels = 1; levels < 127; levels++) {
            const bool fits = std::all_of(codebook, codebook + 16, [&](float value) {
                return std::fmod(static_cast<double>(value) * levels, static_cast<double>(largest)) == 0;
            });
            if (fits) return levels;
        }
        return 127;
    }

    int values[16] = {};
    int levels = 127;
    float factor = 1;
};

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
            const float centre = static_cast<float>(MiddleCode(problem.scheme) - problem.ZeroPoint(row, g));
            total = std::fma(scale, std::fma(centre, group.sum, dot), total);
        } else if (problem.spec.kind == INT4Q_KIND_OFFSET) {
            const float middle = static_cast<float>(MiddleCode(problem.scheme));
            total = std::fma(std::fma(middle, scale, problem.Offset(row, g)), group.sum, std::fma(scale, dot, total));
        } else {
            total = std::fma(scale, dot, total);
        }
    }
    return total;
}

inline float ExactInt8(const Problem &problem, int64_t row, const std::vector<int> &codes,
                       const IntegerCodebook &codebook, const std::vector<GroupOfX> &groups) {
    const bool looks_up = problem.spec.kind == INT4Q_KIND_CODEBOOK;
    float total = 0;
    for (const GroupOfX &group : groups) {
        const int64_t g = problem.GroupOf(group.begin);
        const float stored = problem.Scale(row, g);
        const float scale = looks_up ? stored * codebook.factor : stored;
        const int zero_point = problem.ZeroPoint(row, g);
        int64_t dot = 0;
        for (int64_t j = 0; j < group.length; j++) {
            const int code = codes[static_cast<size_t>(group.begin + j)];
            const int value = looks_up ? codebook.values[code] : IsFew(problem.scheme) ? CentredCode(problem.scheme, code) : code - zero_point;
            dot += group.codes[static_cast<size_t>(j)] * value;
        }
        total = std::fma(static_cast<float>(dot), scale * group.step, total);
        if (problem.spec.kind == INT4Q_KIND_OFFSET) {
            const float offset = std::fma(static_cast<float>(MiddleCode(problem.scheme)), scale, problem.Offset(row, g));
            total = std::fma(static_cast<float>(group.code_sum), offset * group.step, total);
        }
    }
    return total;
}

// The totals before any epilogue, in the documented order; BF16 mode's are F32 mode's with the rounded x.
inline std::vector<float> ExactTotals(const Problem &problem) {
    const Spec &spec = problem.spec;
    std::vector<std::vector<GroupOfX>> x;
    for (int64_t row = 0; row < spec.m; row++) x.push_back(GroupsOfX(problem, row));
    std::vector<float> totals(static_cast<size_t>(spec.m * spec.n));
    const IntegerCodebook codebook(problem);
    std::vector<float> v;
    for (int64_t column = 0; column < spec.n; column++) {
        const std::vector<int> codes = UnpackRow(problem, column);
        v.clear();
        for (int code : codes) {
            const float centred = static_cast<float>(CentredCode(problem.scheme, code));
            v.push_back(spec.kind == INT4Q_KIND_CODEBOOK ? problem.Codebook(column)[code] : centred);
        }
        for (int64_t row = 0; row < spec.m; row++) {
            const std::vector<GroupOfX> &groups = x[static_cast<size_t>(row)];
            totals[static_cast<size_t>(row * spec.n + column)] =
                spec.mode == INT4Q_MODE_INT8 || spec.mode == INT4Q_MODE_BINARY ? ExactInt8(problem, column, codes, codebook, groups)
                                             : ExactF32(problem, column, v, groups);
        }
    }
    return totals;
}

// m x n numbers in y's type, without gaps.
inline std::vector<unsigned char> InTypeOfY(const Spec &spec, const std::vector<float> &values) {
    std::vector<unsigned char> y(values.size() * static_cast<size_t>(TypeBytes(spec.y_type)));
    for (size_t i = 0; i < values.size(); i++) StoreElement(y.data(), spec.y_type, static_cast<int64_t>(i), values[i]);
    return y;
}

// The y of a product without an epilogue, to the bit.
inline std::vector<unsigned char> ExactProduct(const Problem &problem) {
    return InTypeOfY(problem.spec, ExactTotals(problem));
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

// What is multiplied in place of x (rows of k) or of a column's weights, in exact arithmetic, and how far each may be
// from what the caller gave.
struct Operand {
    std::vector<double> given, moved;
};

// Instructions for bfloat16 take denormals for zeros and flush their results.
inline bool Flushes(int4q_compute_mode mode, int4q_isa isa) { return !IsDefinedToTheBit(mode, isa); }

// How far the number that stands for x[row][column] may be from it; u = 2^-24.
//
// BF16. The distance of the rounded x; x itself if denormals are flushed and it becomes one.
//
// INT8. Let M = max|x| of the group. 127 / M, its product with x and M / 127 have a relative error of u each (with M >=
// 2^-100 only the product can underflow, to far below a code), and rounding to a code adds 1/2: |x - code step| <= M /
// 127 (1/2 + 127 * 3.1 u), or M where M < 2^-100. With a scale of the caller the step is exact and the code clipped:
// step (1/2 + 128 * 2.1 u), or |x| - 127 step where that is more.
inline double ErrorOfX(const Problem &problem, int64_t row, int64_t column, double largest, int4q_isa isa) {
    const Spec &spec = problem.spec;
    const double x = static_cast<double>(problem.X(row, column)), u = 0x1p-24;
    if (spec.mode == INT4Q_MODE_BF16) {
        const double rounded = static_cast<double>(RoundTo(INT4Q_TYPE_BF16, problem.X(row, column)));
        const bool denormal = std::min(std::fabs(x), std::fabs(rounded)) < 0x1p-126;
        return Flushes(spec.mode, isa) && denormal ? std::fabs(x) : std::fabs(x - rounded);
    }
    if (spec.mode == INT4Q_MODE_INT8 && spec.static_scales) {
        const double step = static_cast<double>(problem.XScale(problem.GroupOf(column)));
        return std::max(step * (0.5 + 128 * 2.1 * u), std::fabs(x) - 127 * step);
    }
    if (spec.mode == INT4Q_MODE_INT8) {
        return largest < 0x1p-100 ? largest : largest / 127 * (0.5 + 127 * 3.1 * u);
    }
    return 0;
}

inline Operand OperandX(const Problem &problem, int4q_isa isa) {
    const Spec &spec = problem.spec;
    const int64_t size = PackedGroupSize(spec);
    Operand x;
    for (int64_t row = 0; row < spec.m; row++) {
        for (int64_t begin = 0; begin < spec.k; begin += size) {
            const int64_t end = std::min(begin + size, spec.k);
            double largest = 0;
            for (int64_t c = begin; c < end; c++) {
                x.given.push_back(static_cast<double>(problem.X(row, c)));
                largest = std::max(largest, std::fabs(x.given.back()));
            }
            for (int64_t c = begin; c < end; c++) x.moved.push_back(ErrorOfX(problem, row, c, largest, isa));
        }
    }
    return x;
}

// A column's weights, and what of them goes into the sums that are rounded.
struct OperandW : Operand {
    std::vector<double> share;      // bounds what code and zero point or offset put into the sums
    std::vector<double> underflow;  // for each unit of x
    double added_underflow = 0;     // whatever x is
};

// How far the number that stands for weight w = scale * v (v the code's value) may be from it.
//
// INT8, CODEBOOK: the integers round to 1/2 of c / 127, c = max|codebook|; 127 / c and its product with v have a
// relative error of u each. BF16: with vdpbf16ps a codebook is rounded to bfloat16; with AMX any weight, after one
// rounding to binary32.
inline double ErrorOfW(const Problem &problem, double w, double scale, int code, int4q_isa isa) {
    const Spec &spec = problem.spec;
    const bool codebook = spec.kind == INT4Q_KIND_CODEBOOK;
    if (spec.mode == INT4Q_MODE_INT8 && codebook) {
        const double largest = static_cast<double>(LargestOfCodebook(problem));
        return std::fabs(scale) * largest * (1.0 / 254 + 3.1 * 0x1p-24);
    }
    if (spec.mode == INT4Q_MODE_BF16 && isa == INT4Q_ISA_AMX) {
        return std::fabs(w) * (UnitRoundoff(INT4Q_TYPE_BF16) + 0x1p-22) + 0x1p-126;
    }
    if (spec.mode == INT4Q_MODE_BF16 && codebook && isa == INT4Q_ISA_AVX512BF16) {
        const float v = problem.tensor.codebook[code];  // one for each row is F32 mode's alone
        return std::fabs(scale * static_cast<double>(v - RoundTo(INT4Q_TYPE_BF16, v))) + std::fabs(scale) * 0x1p-126;
    }
    return 0;
}

// INT8: scale * step and, with a codebook, scale * (c / 127) can underflow by 2^-150, times |dot| <= 127 * 127 L. F32:
// a fused multiply-add that underflows adds up to 2^-150: L + 1 times |s| and twice in each group. (8 s + o and sums of
// x are exact where they underflow.) Of 8 bits, 128 and 255 stand for 8 and 127. Flushing adds up to 2^-126 for each product and sum instead.
inline OperandW OperandOfColumn(const Problem &problem, int64_t column, int4q_isa isa) {
    const Spec &spec = problem.spec;
    const bool int8 = spec.mode == INT4Q_MODE_INT8;
    OperandW w;
    for (int64_t c = 0; c < spec.k; c++) {
        const int64_t g = problem.GroupOf(c);
        const int code = problem.Code(column, c);
        const double scale = static_cast<double>(problem.Scale(column, g));
        const double offset = static_cast<double>(problem.Offset(column, g));
        const int zero_point = problem.ZeroPoint(column, g);
        const int middle = MiddleCode(problem.scheme);
        double value = scale * (code - zero_point), share = 0;
        if (spec.kind == INT4Q_KIND_OFFSET) {
            value = scale * code + offset;
            share = std::fabs(scale * (code - middle)) + std::fabs(middle * scale + offset);
        } else if (spec.kind == INT4Q_KIND_CODEBOOK) {
            value = scale * static_cast<double>(problem.Codebook(column)[code]);
            share = std::fabs(value);
        } else if (IsFew(problem.scheme)) {
            value = scale * CentredCode(problem.scheme, code);
            share = std::fabs(value);
        } else {
            share = std::fabs(scale) * (std::abs(code - middle) + std::abs(middle - zero_point));
        }
        w.given.push_back(value);
        w.moved.push_back(ErrorOfW(problem, value, scale, code, isa));
        w.share.push_back(share + w.moved.back());
        w.underflow.push_back(int8 && spec.kind == INT4Q_KIND_CODEBOOK ? 127 * 0x1p-150 : 0);
        const double flushed = 0x1p-126 * (4 * std::fabs(scale) + 4), tiny = 0x1p-150 * (2 * std::fabs(scale) + 2);
        w.added_underflow += int8 ? 0x1p-150 * (2 * 127 * 255 + 2) : Flushes(spec.mode, isa) ? flushed : tiny;
    }
    return w;
}

// Compares y with the product of x and the dequantized weights in binary64. How far it may be, with u = 2^-24:
//
// Let a[k] bound what a column's code and zero point or offset put into the sums that are rounded: |s v| for SYMMETRIC
// and CODEBOOK, |s| (|q - 8| + |8 - z|) for ASYMMETRIC, |s (q - 8)| + |8 s + o| for OFFSET; e[k] how far what is
// multiplied may be from x, f[k] how far from the weight w (ErrorOfX, ErrorOfW). That moves the result by at most
// sum e |w| + (|x| + e) f, and what is added up in rounded arithmetic is at most A = sum (|x| + e) (a + f).
//
// F32 and BF16. A term x[k] v[k] passes at most L roundings in its group of L columns, one when the sum of x joins, and
// at most two for its own and each later one of G groups. A term of the sum of x passes ceil(L / 16) + 4 <= L + 4
// additions and the rounding of 8 s + o. So each term is off by a factor of at most (1 + u)^N, N = L + 2 G + 12, and
// all of them together by gamma A, gamma = N u / (1 - N u). vdpbf16ps rounds at most twice for two columns, hence no
// more; AMX's sums run over all of k, rounded up to its tiles: L = k + 32.
//
// INT8. float(dot), scale * step (or 8 s + o, and it times step; or scale times c / 127, itself rounded) and two fused
// multiply-adds in each group round: N = 2 G + 12.
//
// Rounding to y's type adds its unit roundoff times |y|, or half its smallest subnormal. Binary64's own error is below
// (k + 8) 2^-52 A. The tests' values stay clear of overflow.
inline ::testing::AssertionResult NearFloat64(const Problem &problem, const std::vector<unsigned char> &got,
                                              int4q_isa isa = ActiveIsa()) {
    const Spec &spec = problem.spec;
    const int64_t size = PackedGroupSize(spec);
    const int64_t group_count = (spec.k + size - 1) / size;
    const bool over_all_of_k = spec.mode == INT4Q_MODE_BF16 && isa == INT4Q_ISA_AMX;
    const int64_t length = spec.mode == INT4Q_MODE_INT8 ? 0 : over_all_of_k ? spec.k + 32 : size;
    const double roundings = static_cast<double>(length + 2 * group_count + 12);
    const double gamma = roundings * 0x1p-24 / (1 - roundings * 0x1p-24);
    const size_t k = static_cast<size_t>(spec.k);
    const Operand x = OperandX(problem, isa);
    for (int64_t column = 0; column < spec.n; column++) {
        const OperandW w = OperandOfColumn(problem, column, isa);
        for (int64_t row = 0; row < spec.m; row++) {
            const double *xs = x.given.data() + static_cast<size_t>(row) * k;
            const double *es = x.moved.data() + static_cast<size_t>(row) * k;
            double want = 0, through = 0, moved = 2 * w.added_underflow;
            for (size_t c = 0; c < k; c++) {
                const double reach = std::fabs(xs[c]) + es[c];
                want += xs[c] * w.given[c];
                through += reach * w.share[c];
                moved += es[c] * std::fabs(w.given[c]) + reach * (w.moved[c] + w.underflow[c]);
            }
            const double before = gamma * through + moved + static_cast<double>(spec.k + 8) * 0x1p-52 * through;
            const double bound = before + UnitRoundoff(spec.y_type) * (std::fabs(want) + before) +
                                 HalfSubnormal(spec.y_type);
            const float value = LoadElement(got.data(), spec.y_type, row * spec.n + column);
            if (!(std::fabs(static_cast<double>(value) - want) <= bound)) {
                return ::testing::AssertionFailure() << "row " << row << " column " << column << ": got " << value
                                                     << ", binary64 has " << want << ", may differ by " << bound
                                                     << " with " << int4q_isa_name(isa) << ": " << spec.Text();
            }
        }
    }
    return ::testing::AssertionSuccess();
}

// Holds a y against the definition, to the bit where there is one for the instruction set that made it.
inline ::testing::AssertionResult SameAsDefined(const Problem &problem, const std::vector<unsigned char> &y,
                                                int4q_isa isa = ActiveIsa()) {
    if (!IsDefinedToTheBit(problem.spec.mode, isa)) return ::testing::AssertionSuccess();
    return SameY(problem, ExactProduct(problem), y);
}

// What every run of a product must give to the bit: the definition; where there is none, what one thread makes of it,
// which must be near the product in binary64.
inline std::vector<unsigned char> WantedProduct(const Problem &problem) {
    if (IsDefinedToTheBit(problem.spec.mode, ActiveIsa())) return ExactProduct(problem);
    const std::vector<unsigned char> y = Product(problem).Multiply();
    EXPECT_TRUE(NearFloat64(problem, y));
    return y;
}

// Runs the product once and holds it against both; where its bits are not defined, also once more where they are.
inline void CheckProduct(const Problem &problem) {
    const std::vector<unsigned char> y = Product(problem).Multiply();
    EXPECT_TRUE(SameAsDefined(problem, y));
    EXPECT_TRUE(NearFloat64(problem, y));
    if (IsDefinedToTheBit(problem.spec.mode, ActiveIsa())) return;
    const IsaLimit limit(INT4Q_ISA_AVX512VNNI);
    CheckProduct(problem);
}

}  // namespace int4q_test
