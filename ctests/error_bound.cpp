// SPDX-License-Identifier: Apache-2.0
// int4q_error_bound() against what products are off by: measured against sums in long double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iomanip>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "support/bad_arguments.hpp"
#include "support/bad_blobs.hpp"
#include "support/isa.hpp"
#include "support/problem.hpp"
#include "support/small_product.hpp"

namespace int4q_test {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

// x times the dequantized, unrounded weights. Each product is off by at most 2^-64 of itself, the sum by k of that.
struct Exact {
    std::vector<long double> y, slack;  // [m][n]

    explicit Exact(const Problem &problem) {
        const Spec &spec = problem.spec;
        const auto k = static_cast<size_t>(spec.k);
        std::vector<long double> x(static_cast<size_t>(spec.m) * k), w(k);
        for (size_t i = 0; i < x.size(); i++) {
            x[i] = problem.X(static_cast<int64_t>(i / k), static_cast<int64_t>(i % k));
        }
        y.resize(static_cast<size_t>(spec.m * spec.n));
        slack.resize(y.size());
        for (int64_t column = 0; column < spec.n; column++) {
            for (int64_t c = 0; c < spec.k; c++) w[static_cast<size_t>(c)] = Weight(problem, column, c);
            for (int64_t row = 0; row < spec.m; row++) {
                long double sum = 0, magnitude = 0;
                for (size_t c = 0; c < k; c++) {
                    const long double term = x[static_cast<size_t>(row) * k + c] * w[c];
                    sum += term;
                    magnitude += std::fabs(term);
                }
                y[static_cast<size_t>(row * spec.n + column)] = sum;
                slack[static_cast<size_t>(row * spec.n + column)] = magnitude * static_cast<long double>(k) * 0x1p-62L;
            }
        }
    }

    static long double Weight(const Problem &problem, int64_t row, int64_t column) {
        const int64_t group = problem.GroupOf(column);
        const long double scale = problem.Scale(row, group);
        const int code = problem.Code(row, column);
        const long double offset = problem.Offset(row, group);
        if (problem.spec.kind == INT4Q_KIND_OFFSET) return scale * code + offset;
        if (problem.spec.kind == INT4Q_KIND_CODEBOOK) {
            return scale * static_cast<long double>(problem.tensor.codebook[code]);
        }
        return scale * (code - problem.ZeroPoint(row, group));
    }
};

// A product, its two bounds, and how far it is off.
struct Measurement {
    std::vector<double> off, worst, probable;  // [m][n]
    std::vector<float> y;

    Measurement(const Problem &problem, const std::string &data) : spec_(problem.spec), data_(data) {
        Product product(problem);
        isa_ = product.plan.isa;
        const std::vector<unsigned char> bytes = product.Multiply();
        for (int64_t i = 0; i < spec_.m * spec_.n; i++) y.push_back(LoadElement(bytes.data(), spec_.y_type, i));
        int4q_matmul_args args = product.args;
        args.y = args.scratch = nullptr;
        args.scratch_bytes = 0;
        worst = Bounds(product.plan, args, INT4Q_BOUND_WORST_CASE);
        probable = Bounds(product.plan, args, INT4Q_BOUND_PROBABLE);
        const Exact exact(problem);
        for (size_t i = 0; i < y.size(); i++) {
            const long double difference = std::fabs(static_cast<long double>(y[i]) - exact.y[i]) - exact.slack[i];
            // An infinite or NaN y where the sum is finite is off by as much as can be.
            off.push_back(std::isfinite(y[i]) ? std::max(0.0, static_cast<double>(difference)) : kInfinite);
        }
    }

    // Every output's error is within `bounds`.
    ::testing::AssertionResult Within(const std::vector<double> &bounds) const {
        for (size_t i = 0; i < y.size(); i++) {
            if (off[i] <= bounds[i]) continue;
            return ::testing::AssertionFailure() << At(i) << ": y is " << y[i] << ", off by " << off[i] << ", the bound is "
                                                 << bounds[i];
        }
        return ::testing::AssertionSuccess();
    }

    // What holds whatever the data.
    ::testing::AssertionResult Holds() const {
        for (size_t i = 0; i < y.size(); i++) {
            if (worst[i] >= 0 && probable[i] >= 0) continue;
            return ::testing::AssertionFailure() << At(i) << ": bounds of " << worst[i] << " and " << probable[i];
        }
        return Within(worst);
    }

    // So does this.
    ::testing::AssertionResult Ordered() const {
        for (size_t i = 0; i < y.size(); i++) {
            if (probable[i] <= worst[i]) continue;
            return ::testing::AssertionFailure() << At(i) << ": the worst case is " << worst[i] << ", the probable bound "
                                                 << probable[i];
        }
        return ::testing::AssertionSuccess();
    }

    std::string Text() const {
        return std::string(int4q_isa_name(isa_)) + ", " + data_ + ": " + spec_.Text();
    }

private:
    std::string At(size_t i) const {
        const auto n = static_cast<size_t>(spec_.n);
        return Text() + ", row " + std::to_string(i / n) + " column " + std::to_string(i % n);
    }

    std::vector<double> Bounds(const int4q_matmul_plan &plan, const int4q_matmul_args &args, int32_t kind) const {
        const int64_t ldb = spec_.n + spec_.y_gap;
        const auto elements = static_cast<size_t>((spec_.m - 1) * ldb + spec_.n);
        GuardedBuffer buffer(elements * sizeof(double), spec_.placement, sizeof(double));
        EXPECT_OK(int4q_error_bound(&plan, &args, kind, buffer.as<double>(), ldb)) << Text();
        std::vector<double> bounds;
        size_t damaged = 0;
        for (int64_t row = 0; row < spec_.m; row++) {
            const double *begin = buffer.as<double>() + row * ldb;
            bounds.insert(bounds.end(), begin, begin + spec_.n);
            if (row + 1 == spec_.m) break;
            const auto *gap = reinterpret_cast<const unsigned char *>(begin + spec_.n);
            for (int64_t i = 0; i < spec_.y_gap * 8; i++) damaged += gap[i] != GuardedBuffer::kFill;
        }
        EXPECT_EQ(damaged, 0u) << "bytes between rows of bounds were written: " << Text();
        return bounds;
    }

    Spec spec_;
    std::string data_;
    int4q_isa isa_ = -1;
};

// ---- Data -----------------------------------------------------------------------------------------------------------

enum Data {
    kGaussian,
    kHeavyTails,
    kOneSign,
    kAlternating,
    kConstant,
    kSpread,
    kZeros,
    kHalfSteps,
    kHalfStepsDown,
    kDataCount
};
const char *const kDataNames[] = {"Gaussian", "heavy tails", "one sign",   "alternating",               "constant",
                                  "spread",   "zeros",       "half steps", "half steps that round down"};

// Element `column` of a row whose groups are `group` long.
float Draw(Random &random, Data data, int64_t column, int64_t group) {
    switch (data) {
        case kGaussian: return random.Normal();
        case kHeavyTails: return random.Normal() / std::max(1e-3f, std::fabs(random.Normal()));
        case kOneSign: return 0.5f + std::fabs(random.Normal());
        case kAlternating: return (column % 2 ? -1.0f : 1.0f) * random.Uniform(1, 2);
        case kConstant: return 0.7731f;
        case kSpread: return std::ldexp(random.Normal(), static_cast<int>(random.Integer(-60, 0)));
        case kZeros: return 0;
        case kHalfSteps:  // codes of INT8 mode are x itself, half way between two
            return column % group == 0 ? 127.0f : static_cast<float>(random.Integer(-127, 126)) + 0.5f;
        default: return column % group == 0 ? 127.0f : static_cast<float>(2 * random.Integer(0, 62)) + 0.5f;
    }
}

int64_t GroupOfSpec(const Spec &spec) { return spec.group_size > 0 ? spec.group_size : spec.k; }

// A problem with x and weights of two sorts, both scaled by powers of two.
std::unique_ptr<Problem> MakeProblem(Spec spec, Random &random, Data of_x, Data of_w, int x_exponent, int w_exponent) {
    spec.quantize = true;
    auto problem = std::make_unique<Problem>(spec);
    const int64_t group = GroupOfSpec(spec);
    problem->SetX([&](int64_t, int64_t c) { return std::ldexp(Draw(random, of_x, c, group), x_exponent); });
    problem->SetWeights([&](int64_t, int64_t c) { return std::ldexp(Draw(random, of_w, c, group), w_exponent); });
    return problem;
}

class ErrorBound : public ::testing::TestWithParam<int4q_compute_mode> {
protected:
    int4q_isa AnyIsa() { return random_.Pick(UsableIsas()); }

    Spec AnySpec(int64_t m, int64_t n, int64_t k) {
        Spec spec = RandomSpec(random_, m, n, k, GetParam());
        spec.y_gap = random_.Integer(0, 3);
        return spec;
    }

    // Once per test says that a probable bound was above the worst case.
    void ExpectOrdered(const Measurement &measured) {
        if (disorder_seen_) return;
        const ::testing::AssertionResult ordered = measured.Ordered();
        disorder_seen_ = !ordered;
        EXPECT_TRUE(ordered);
    }

    bool disorder_seen_ = false;
    Random random_{7000u + static_cast<uint64_t>(GetParam())};
};

TEST_P(ErrorBound, WorstCaseIsNeverExceeded) {
    for (int32_t kind : kKinds) {
        for (int32_t group_size : {32, 128, INT4Q_GROUP_PER_ROW}) {
            for (int4q_type y_type : kTypes) {
                for (int i = 0; i < Samples(16); i++) {
                    Spec spec = AnySpec(random_.Integer(1, 4), random_.Integer(1, 40), random_.Integer(1, 600));
                    spec.kind = kind;
                    spec.group_size = group_size;
                    spec.y_type = y_type;
                    const auto of_x = static_cast<Data>(random_.Integer(0, kDataCount - 1));
                    const auto of_w = static_cast<Data>(random_.Integer(0, kDataCount - 1));
                    int x_exponent = 0, w_exponent = -4;
                    if (i % 3 == 0) {
                        if (spec.x_type == INT4Q_TYPE_F16) spec.x_type = INT4Q_TYPE_BF16;
                        if (spec.scale_type == INT4Q_TYPE_F16) spec.scale_type = INT4Q_TYPE_F32;
                        x_exponent = static_cast<int>(random_.Integer(-60, 50));
                        w_exponent = static_cast<int>(random_.Integer(-60, 50));
                    }
                    const IsaLimit limit(AnyIsa());
                    const auto problem = MakeProblem(spec, random_, of_x, of_w, x_exponent, w_exponent);
                    const Measurement measured(*problem, std::string("x ") + kDataNames[of_x] + " * 2^" +
                                                             std::to_string(x_exponent) + ", weights " + kDataNames[of_w] +
                                                             " * 2^" + std::to_string(w_exponent));
                    ASSERT_TRUE(measured.Holds());
                    ExpectOrdered(measured);
                    if (of_x == kGaussian && of_w == kGaussian) {
                        EXPECT_TRUE(measured.Within(measured.probable));
                    }
                    // Bounds of infinity would hold as well.
                    for (size_t o = 0; o < measured.y.size() && y_type != INT4Q_TYPE_F16; o++) {
                        ASSERT_LT(measured.worst[o], kInfinite) << measured.Text();
                    }
                }
            }
        }
    }
}

// Random codes with scales (and offsets) of any size and sign, which no quantizer would give.
TEST_P(ErrorBound, WorstCaseIsNeverExceededWithRandomCodes) {
    for (int i = 0; i < Samples(250); i++) {
        Spec spec = AnySpec(random_.Integer(1, 4), random_.Integer(1, 40), random_.Integer(1, 300));
        spec.quantize = false;
        Problem problem(spec);
        const bool half = spec.scale_type == INT4Q_TYPE_F16;
        problem.SetScales([&] {
            const int64_t exponent = half ? random_.Integer(-26, 10) : random_.Integer(-60, 40);
            return std::ldexp(random_.Normal(), static_cast<int>(exponent));
        });
        const IsaLimit limit(AnyIsa());
        const Measurement measured(problem, "random codes");
        ASSERT_TRUE(measured.Holds());
        ExpectOrdered(measured);
    }
}

// Subnormal numbers anywhere on the way, flushed or not, and x below INT8 mode's 2^-100.
TEST_P(ErrorBound, WorstCaseHoldsWhereNumbersUnderflow) {
    for (int i = 0; i < Samples(250); i++) {
        Spec spec = AnySpec(random_.Integer(1, 3), random_.Integer(1, 20), random_.Integer(1, 200));
        if (spec.x_type == INT4Q_TYPE_F16) spec.x_type = INT4Q_TYPE_F32;
        if (spec.scale_type == INT4Q_TYPE_F16) spec.scale_type = INT4Q_TYPE_F32;
        const auto x_exponent = static_cast<int>(random_.Integer(-149, -20));
        const auto w_exponent = static_cast<int>(random_.Integer(-140, random_.Chance(0.5) ? 60 : -20));
        const auto of_x = static_cast<Data>(random_.Integer(0, kDataCount - 1));
        const auto of_w = static_cast<Data>(random_.Integer(0, kDataCount - 1));
        const IsaLimit limit(AnyIsa());
        const auto problem = MakeProblem(spec, random_, of_x, of_w, x_exponent, w_exponent);
        const Measurement measured(*problem, std::string("x ") + kDataNames[of_x] + " * 2^" + std::to_string(x_exponent) +
                                                 ", weights " + kDataNames[of_w] + " * 2^" + std::to_string(w_exponent));
        ASSERT_TRUE(measured.Holds());
        ExpectOrdered(measured);
    }
}

// Codebooks with values, or all of them, that are subnormal in binary32 or bfloat16.
TEST_P(ErrorBound, WorstCaseHoldsForCodebooksOfAnyMagnitude) {
    for (int i = 0; i < Samples(200); i++) {
        Spec spec = AnySpec(random_.Integer(1, 3), random_.Integer(1, 20), random_.Integer(1, 100));
        spec.kind = INT4Q_KIND_CODEBOOK;
        if (spec.scale_type == INT4Q_TYPE_F16) spec.scale_type = INT4Q_TYPE_F32;
        Problem problem(spec);
        float codebook[16];
        const bool mixed = random_.Chance(0.5);
        const auto exponent = static_cast<int>(random_.Integer(-149, mixed ? 20 : -100));
        for (float &value : codebook) {
            value = std::ldexp(random_.Normal(), mixed ? static_cast<int>(random_.Integer(-152, exponent)) : exponent);
        }
        codebook[random_.Integer(0, 15)] = std::ldexp(1.0f, exponent);
        problem.tensor.codebook = codebook;
        const int weight_exponent = exponent + static_cast<int>(random_.Integer(-10, 60));
        problem.SetWeights([&](int64_t, int64_t) { return std::ldexp(random_.Normal(), weight_exponent); });
        const IsaLimit limit(AnyIsa());
        const Measurement measured(problem, "weights and codebook of 2^" + std::to_string(weight_exponent) + " and 2^" +
                                                std::to_string(exponent) + (mixed ? ", mixed" : ""));
        ASSERT_TRUE(measured.Holds());
        ExpectOrdered(measured);
    }
}

// Where y, or something on the way to it, is infinite, so is the bound.
TEST_P(ErrorBound, WorstCaseHoldsWhereNumbersOverflow) {
    int overflowed = 0;
    for (int i = 0; i < Samples(120); i++) {
        Spec spec = AnySpec(random_.Integer(1, 3), random_.Integer(1, 20), random_.Integer(1, 100));
        const bool in_y_alone = i % 2;
        if (in_y_alone) spec.y_type = INT4Q_TYPE_F16;
        if (spec.x_type == INT4Q_TYPE_F16) spec.x_type = INT4Q_TYPE_BF16;
        if (spec.scale_type == INT4Q_TYPE_F16) spec.scale_type = INT4Q_TYPE_F32;
        const int sum = static_cast<int>(in_y_alone ? random_.Integer(8, 18) : random_.Integer(118, 132));
        const auto x_exponent = static_cast<int>(random_.Integer(sum / 3, std::min(sum, 120)));
        const auto of_x = static_cast<Data>(random_.Integer(0, kConstant));
        const IsaLimit limit(AnyIsa());
        const auto problem = MakeProblem(spec, random_, of_x, kGaussian, x_exponent, sum - x_exponent);
        const Measurement measured(*problem, std::string("x ") + kDataNames[of_x] + " * 2^" + std::to_string(x_exponent) +
                                                 ", weights Gaussian * 2^" + std::to_string(sum - x_exponent));
        ASSERT_TRUE(measured.Holds());
        ExpectOrdered(measured);
        for (float y : measured.y) overflowed += !std::isfinite(y);
    }
    EXPECT_GT(overflowed, 0);
}

// Rows that are not finite get infinity; the others what they get without them.
TEST_P(ErrorBound, RowsThatAreNotFinite) {
    const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                         -std::numeric_limits<float>::infinity()};
    for (int32_t kind : kKinds) {
        for (int i = 0; i < Samples(6); i++) {
            Spec spec = AnySpec(5, random_.Integer(1, 40), random_.Integer(1, 200));
            spec.kind = kind;
            Problem problem(spec);
            const IsaLimit limit(AnyIsa());
            const Measurement finite(problem, "finite");
            problem.SetX(1, random_.Integer(0, spec.k - 1), bad[i % 3]);
            problem.SetX(4, random_.Integer(0, spec.k - 1), bad[random_.Integer(0, 2)]);
            const Measurement measured(problem, "rows 1 and 4 not finite");
            for (size_t o = 0; o < measured.y.size(); o++) {
                const size_t row = o / static_cast<size_t>(spec.n);
                const bool infinite = row == 1 || row == 4;
                ASSERT_EQ(measured.worst[o], infinite ? kInfinite : finite.worst[o]) << measured.Text();
                ASSERT_EQ(measured.probable[o], infinite ? kInfinite : finite.probable[o]) << measured.Text();
            }
        }
    }
}

TEST_P(ErrorBound, ZerosAreOffByNextToNothing) {
    for (int32_t kind : kKinds) {
        Spec spec = AnySpec(2, 33, 300);
        spec.kind = kind;
        const auto problem = MakeProblem(spec, random_, kZeros, kGaussian, 0, -4);
        const Measurement measured(*problem, "x zero");
        ASSERT_TRUE(measured.Holds());
        const double tiny = spec.y_type == INT4Q_TYPE_F16 ? 0x1p-24 : 1e-25;
        for (double bound : measured.worst) ASSERT_LE(bound, tiny) << measured.Text();
    }
}

// ---- How tight ------------------------------------------------------------------------------------------------------

// The largest bound over the largest error of 4 x 256 outputs, for Gaussian x and weights.
TEST_P(ErrorBound, BoundsAreNotFarFromTheLargestErrorOfGaussianData) {
    const int4q_compute_mode mode = GetParam();
    std::map<std::string, double> largest;  // factors, by what they are of
    std::ostringstream table;
    table << std::fixed << std::setprecision(1);
    const auto measure = [&](int4q_isa isa, int64_t k, int32_t kind, int32_t group_size) {
        const IsaLimit limit(isa);
        Spec spec;
        spec.m = 4;
        spec.n = 256;
        spec.k = k;
        spec.mode = mode;
        spec.kind = kind;
        spec.group_size = group_size;
        spec.seed = random_.Bits();
        Problem problem(spec);  // its weights are Gaussian
        problem.SetX([&](int64_t, int64_t) { return random_.Normal(); });
        const Measurement measured(problem, "Gaussian");
        EXPECT_TRUE(measured.Holds());
        EXPECT_TRUE(measured.Within(measured.probable));
        ExpectOrdered(measured);
        const auto maximum = [](const std::vector<double> &v) { return *std::max_element(v.begin(), v.end()); };
        const double error = maximum(measured.off);
        EXPECT_GT(error, 0) << measured.Text();
        const double worst = maximum(measured.worst) / error, probable = maximum(measured.probable) / error;
        table << "k " << k << " kind " << kind << " group " << group_size << " " << int4q_isa_name(isa) << ": worst case "
              << worst << ", probable " << probable << "\n";
        EXPECT_LE(probable, 20) << measured.Text() << "; the worst case's factor is " << worst;
        // k half steps in a row against the square root of k of them: 0.4 sqrt(k) for INT8. (A codebook's levels are as
        // coarse as x's and move a column's results all the same way.)
        if (mode == INT4Q_MODE_INT8 && k <= 1024 && (kind != INT4Q_KIND_CODEBOOK || k <= 256)) {
            EXPECT_LT(worst, 20) << measured.Text();
        }
        double &worst_of_k = largest["worst_k" + std::to_string(k)];
        double &probable_of_k = largest["probable_k" + std::to_string(k)];
        worst_of_k = std::max(worst_of_k, worst);
        probable_of_k = std::max(probable_of_k, probable);
    };
    for (int32_t kind : kKinds) {
        for (int32_t group_size : {32, 128, INT4Q_GROUP_PER_ROW}) {
            for (int64_t k : {256, 1024}) measure(DetectedIsa(), k, kind, group_size);
        }
        // BF16 mode's rounding depends on the instruction set.
        for (int4q_isa isa : UsableIsas()) {
            if (mode == INT4Q_MODE_BF16 && isa != DetectedIsa()) measure(isa, 1024, kind, 128);
        }
        measure(DetectedIsa(), 4096, kind, INT4Q_GROUP_PER_ROW);
    }
    measure(DetectedIsa(), 4096, INT4Q_KIND_SYMMETRIC, 32);
    measure(DetectedIsa(), 4096, INT4Q_KIND_OFFSET, 128);
    for (const auto &[what, factor] : largest) RecordProperty(what, std::to_string(factor));
    if (HasFailure()) ADD_FAILURE() << NameOfMode(mode) << "\n" << table.str();
}

// INT8 mode's integers for a codebook may be far from its values, and it is those that activations' roundings are multiplied by.
TEST(ErrorBoundCodebooks, ActivationsAreRoundedTimesWhatIsMultiplied) {
    Spec spec;
    spec.k = 1024;
    spec.mode = INT4Q_MODE_INT8;
    spec.kind = INT4Q_KIND_CODEBOOK;
    spec.group_size = INT4Q_GROUP_PER_ROW;
    spec.scale_type = INT4Q_TYPE_F32;
    Problem problem(spec);
    const float small = 0.6f / 127;  // becomes 1 / 127
    float codebook[16] = {0, small, 1};
    problem.tensor.codebook = codebook;
    problem.SetWeights([&](int64_t, int64_t column) { return column == 0 ? 1 : column == 1 ? 0 : small; });
    // A step of 1: 75.5 becomes 76.
    problem.SetX([](int64_t, int64_t column) { return column == 0 ? 0.0f : column == 1 ? 127.0f : 75.5f; });
    for (int4q_isa isa : UsableIsas()) {
        const IsaLimit limit(isa);
        const Measurement measured(problem, "values of less than a step");
        EXPECT_FLOAT_EQ(measured.y[0], 1022 * 76.0f / 127);
        EXPECT_TRUE(measured.Holds());
        EXPECT_TRUE(measured.Ordered());
        EXPECT_LT(measured.worst[0], 1.1 * measured.off[0]);
    }
}

// ---- Scales of the caller -------------------------------------------------------------------------------------------

TEST(ErrorBoundStaticScales, WorstCaseIsNeverExceeded) {
    Random random(31);
    for (int i = 0; i < Samples(200); i++) {
        Spec spec = RandomSpec(random, random.Integer(1, 4), random.Integer(1, 40), random.Integer(1, 500), INT4Q_MODE_INT8);
        spec.static_scales = true;
        const auto of_x = static_cast<Data>(random.Integer(0, kDataCount - 1));
        const auto of_w = static_cast<Data>(random.Integer(0, kDataCount - 1));
        const IsaLimit limit(random.Pick(UsableIsas()));
        const auto problem = MakeProblem(spec, random, of_x, of_w, 0, -4);
        // Steps of the right size, some so small that x is clipped and some so large that little is left of it.
        problem->SetXScales([&](int64_t) {
            return std::ldexp(random.Uniform(1, 2), static_cast<int>(random.Integer(-9, i % 3 ? -5 : 2)));
        });
        const Measurement measured(*problem, std::string("x ") + kDataNames[of_x] + ", weights " + kDataNames[of_w]);
        ASSERT_TRUE(measured.Holds());
        ASSERT_TRUE(measured.Ordered());
    }
}

INSTANTIATE_TEST_SUITE_P(Modes, ErrorBound, ::testing::ValuesIn(kModes), ModeName);

// ---- Errors ---------------------------------------------------------------------------------------------------------

struct BoundCall {
    explicit BoundCall(const int4q_matmul_desc &desc = SmallDesc()) : packed(desc.scheme.kind) {
        Plan(desc);
        for (int64_t i = 0; i < kM * kK; i++) x[i] = static_cast<float>(i % 7 - 3);
        std::memset(doubles, 0x5a, sizeof doubles);
        args_memory.struct_size = sizeof args_memory;
        args_memory.x = x;
        args_memory.ldx = kK;
    }
    BoundCall(const BoundCall &) = delete;
    BoundCall &operator=(const BoundCall &) = delete;

    void Plan(const int4q_matmul_desc &desc) {
        plan_memory = {};
        plan_memory.struct_size = sizeof plan_memory;
        EXPECT_OK(int4q_matmul_plan_init(&desc, &plan_memory));
    }
    int4q_status Run() {
        if (takes_blob) args_memory.blob = packed.blob, args_memory.blob_bytes = packed.blob_bytes;
        return int4q_error_bound(plan, args, bound, bounds, ldb);
    }
    std::string Outputs() const { return BytesOf(doubles); }

    SmallBlob packed;
    int4q_matmul_plan plan_memory{};
    int4q_matmul_args args_memory{};
    alignas(64) float x[kM * kK + 1] = {};
    alignas(64) double doubles[kM * kN + 1];
    const int4q_matmul_plan *plan = &plan_memory;
    const int4q_matmul_args *args = &args_memory;
    bool takes_blob = true;
    int32_t bound = INT4Q_BOUND_WORST_CASE;
    double *bounds = doubles;
    int64_t ldb = kN;
};

TEST(ErrorBoundErrors, Arguments) {
    using C = BoundCall;
    using A = int4q_matmul_args;
    const auto args = [](C &c) -> A & { return c.args_memory; };
    BadTable<C> table;
    AddPointer(table, "plan", &C::plan, {1, 4});
    AddPointer(table, "args", &C::args, {1, 4});
    AddStructSizes(table, [=](C &c) -> uint32_t & { return args(c).struct_size; }, sizeof(A));
    AddStructSizes(table, [](C &c) -> uint32_t & { return c.plan_memory.struct_size; }, sizeof(int4q_matmul_plan));
    AddValues(table, "reserved", [=](C &c) -> uint32_t & { return args(c).reserved; }, {1, kMin32, UINT32_MAX});
    AddEnumerators(table, "bound", &C::bound, {-1, 2, 3, 100});
    AddPointer(table, "bounds", &C::bounds, {1, 2, 4, 7});
    AddValues(table, "ldb", &C::ldb, {0, 1, -1, kN - 1, -kN, kMin64});
    AddValues(table, "ldb", &C::ldb, {kMax64, int64_t{1} << 62, int64_t{1} << 60}, kOverflow);
    AddPointer(table, "x", [=](C &c) -> const void *& { return args(c).x; }, {1, 2, 3});
    AddValues(table, "ldx", [=](C &c) -> int64_t & { return args(c).ldx; }, {0, 1, -1, kK - 1, -kK, kMin64});
    AddValues(table, "ldx", [=](C &c) -> int64_t & { return args(c).ldx; }, {kMax64, int64_t{1} << 62, int64_t{1} << 61},
              kOverflow);
    AddWithin(table, BadBlobs(), [](C &c) -> SmallBlob & { return c.packed; });
    for (int word : {0, 1, 7, 39}) {
        table.push_back({"altered plan word " + std::to_string(word), [=](C &c) { c.plan_memory.opaque[word] ^= 64; },
                         kCorrupt, "plan"});
    }
    ExpectRefused<C>("int4q_error_bound", [] { return std::make_unique<C>(); }, table);
    for (int32_t bound : {INT4Q_BOUND_WORST_CASE, INT4Q_BOUND_PROBABLE}) {
        C call;
        call.bound = bound;
        EXPECT_OK(call.Run());
    }
}

TEST(ErrorBoundErrors, BlobsOfOtherMatrices) {
    using C = BoundCall;
    using D = int4q_matmul_desc;
    const auto replan = [](auto &&change) {
        return [change](C &c) {
            D desc = SmallDesc();
            change(desc);
            c.Plan(desc);
            c.args_memory.ldx = desc.k;
            c.ldb = desc.n;
        };
    };
    BadTable<C> table;
    for (int64_t n : {1, 32, 17}) table.push_back({"n", replan([n](D &d) { d.n = n; }), kMismatch, "n"});
    for (int64_t k : {1, 39, 32}) table.push_back({"k", replan([k](D &d) { d.k = k; }), kMismatch, "k"});
    for (int32_t kind : {INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK}) {
        table.push_back({"kind", replan([kind](D &d) { d.scheme.kind = kind; }), kMismatch, "kind"});
    }
    table.push_back({"group", replan([](D &d) { d.scheme.group_size = 32; }), kMismatch, "group_size"});
    table.push_back({"type", replan([](D &d) { d.scheme.scale_type = INT4Q_TYPE_BF16; }), kMismatch, "scale_type"});
    ExpectRefused<C>("int4q_error_bound", [] { return std::make_unique<C>(); }, table);
}

// Even if all that the plan calls for is there.
TEST(ErrorBoundErrors, PlansWithMoreThanAProductAreUnsupported) {
    using D = int4q_matmul_desc;
    const std::vector<std::pair<const char *, std::function<void(D &)>>> changes = {
        {"activation", [](D &d) { d.activation = INT4Q_ACTIVATION_RELU; }},
        {"gate", [](D &d) { d.flags = INT4Q_MATMUL_GATED; }},
        {"bias", [](D &d) { d.bias_type = INT4Q_TYPE_F32; }},
        {"residual", [](D &d) { d.residual_type = INT4Q_TYPE_F16; }},
        {"experts", [](D &d) { d.expert_count = 1; }},
    };
    const std::vector<float> zeros(static_cast<size_t>(kM * kN));
    const std::vector<int32_t> row_experts(static_cast<size_t>(kM));
    const SmallBlob other;
    int4q_expert expert{};
    expert.blob = other.blob;
    expert.blob_bytes = other.blob_bytes;
    for (const auto &[what, change] : changes) {
        for (int4q_compute_mode mode : kModes) {
            SCOPED_TRACE(std::string(what) + ", " + NameOfMode(mode));
            D desc = SmallDesc(INT4Q_KIND_SYMMETRIC, mode);
            change(desc);
            BoundCall call(desc);
            int4q_matmul_args &args = call.args_memory;
            if (desc.bias_type) args.bias = zeros.data();
            if (desc.residual_type) args.residual = zeros.data(), args.ldr = kN;
            if (desc.flags) args.up_blob = other.blob, args.up_blob_bytes = other.blob_bytes;
            if (desc.expert_count) {
                args.experts = &expert;
                args.row_experts = row_experts.data();
                call.takes_blob = false;
            }
            const std::string before = call.Outputs();
            EXPECT_FAILS(call.Run(), INT4Q_ERROR_UNSUPPORTED, "int4q_error_bound", "plan", "activation", "flags",
                         "bias_type", "residual_type", "expert_count");
            EXPECT_TRUE(before == call.Outputs());
        }
    }
}

TEST(ErrorBoundErrors, StaticScalesMustBeThere) {
    int4q_matmul_desc desc = SmallDesc(INT4Q_KIND_SYMMETRIC, INT4Q_MODE_INT8);
    desc.flags = INT4Q_MATMUL_STATIC_SCALES;
    BoundCall call(desc);
    EXPECT_FAILS(call.Run(), kNull, "int4q_error_bound", "x_scales");
    alignas(4) float scales[4] = {1, 0.5f, 2};
    call.args_memory.x_scales = scales;
    EXPECT_OK(call.Run());
    call.args_memory.x_scales = Shift(scales, 2);
    EXPECT_FAILS(call.Run(), kMisaligned, "int4q_error_bound", "x_scales");
}

}  // namespace
}  // namespace int4q_test
