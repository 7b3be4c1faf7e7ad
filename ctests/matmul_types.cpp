// SPDX-License-Identifier: Apache-2.0
// The product in every mode and every type of x, y and scale, for every kind of code; NaN, infinity, denormals and
// zeros in x; rows longer than an int32 sum can hold.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "support/exact_product.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

// Every mode with every kind.
std::vector<Spec> ModesAndKinds() {
    std::vector<Spec> specs;
    for (int4q_compute_mode mode : kModes) {
        for (int32_t kind : kKinds) {
            Spec spec;
            spec.mode = mode;
            spec.kind = kind;
            specs.push_back(spec);
        }
    }
    return specs;
}

std::vector<unsigned char> RowOf(const std::vector<unsigned char> &y, const Spec &spec, int64_t row) {
    const int64_t bytes = spec.n * TypeBytes(spec.y_type);
    return std::vector<unsigned char>(y.begin() + row * bytes, y.begin() + (row + 1) * bytes);
}

float SmallestDenormal(int4q_type type) {
    return type == INT4Q_TYPE_F16 ? 0x1p-24f : type == INT4Q_TYPE_BF16 ? 0x1p-133f : 0x1p-149f;
}

// Sign and magnitude of zero: exactly +0.
int64_t CountOfNonzeroBytes(const std::vector<unsigned char> &y) {
    int64_t count = 0;
    for (unsigned char byte : y) count += byte != 0;
    return count;
}

// x, y and scales in every type, for every kind, quantized and drawn, with buffers at both guard pages.
TEST(MatmulTypes, EveryTypeOfXAndYAndScaleForEveryKind) {
    uint64_t seed = 1000;
    int64_t checked = 0;
    for (Spec spec : ModesAndKinds()) {
        for (int4q_type x_type : kTypes) {
            for (int4q_type y_type : kTypes) {
                for (int4q_type scale_type : kTypes) {
                    for (bool quantize : {false, true}) {
                        for (Placement placement : {Placement::kLeft, Placement::kRight}) {
                            spec.x_type = x_type;
                            spec.y_type = y_type;
                            spec.scale_type = scale_type;
                            spec.quantize = quantize;
                            spec.placement = placement;
                            spec.m = 1 + static_cast<int64_t>(seed % 7);
                            spec.n = 35;
                            spec.k = 109;
                            spec.group_size = kGroupSizes[seed % 6];
                            spec.seed = seed++;
                            CheckProduct(Problem(spec));
                            checked++;
                        }
                    }
                }
            }
        }
    }
    EXPECT_EQ(checked, 3 * 4 * 9 * 3 * 2 * 2);
}

// INT8 mode's integers for a codebook: exact where 127 steps or fewer make them so, whatever the step.
TEST(MatmulTypes, Int8ModeKeepsCodebooksOfWholeSteps) {
    const struct {
        const char *name;
        int levels;
        std::vector<float> values;
    } codebooks[] = {
        {"FP4", 12, {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6}},
        {"powers of two", 64, {0, 1, 2, 4, 8, 16, 32, 64, -64, -32, -16, -8, -4, -2, -1, 0}},
        {"powers of two, smallest and largest", 64, {64, -64, 1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
        {"evenly spaced", 15, {-7.5f, -6.5f, -5.5f, -4.5f, -3.5f, -2.5f, -1.5f, -0.5f, 0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f}},
        {"IQ4_NL", 127, {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}},
        {"one value", 1, {5, 5, 5, 5, 5, 5, 5, 5, -5, -5, -5, -5, 0, 0, 0, 5}},
        {"128 steps are too many", 127, {1, -1, 1.0f / 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
    };
    for (const auto &codebook : codebooks) {
        for (float step : {1.0f, 0x1p-90f, 1.0f / 3}) {
            Spec spec;
            spec.m = 3;
            spec.n = 20;
            spec.k = step == 1.0f ? 1100 : 70;
            spec.group_size = step == 1.0f ? INT4Q_GROUP_PER_ROW : 32;
            spec.mode = INT4Q_MODE_INT8;
            spec.kind = INT4Q_KIND_CODEBOOK;
            spec.scale_type = INT4Q_TYPE_F32;
            spec.quantize = false;
            Problem problem(spec);
            problem.SetCodebook([&](int i) { return codebook.values[static_cast<size_t>(i)] * step; });
            if (step != 1.0f / 3) {
                EXPECT_EQ(IntegerCodebook(problem).levels, codebook.levels) << codebook.name;
            }
            CheckProduct(problem);
        }
    }
}

// Others: the largest magnitude becomes 127 whatever its sign and size, ties go to even.
TEST(MatmulTypes, CodebooksInInt8Mode) {
    for (float largest : {127.0f, -127.0f, 0x1p-60f, -0x1p60f, 3.7e-5f, 1.0f / 3}) {
        const auto value = [&](int i) {
            if (i == 5) return largest;
            // Exact ties if 127 is the largest.
            return std::fabs(largest) / 127 * (static_cast<float>(i) * 15 - 112.5f);
        };
        for (int32_t group_size : kGroupSizes) {
            Spec spec;
            spec.m = 4;
            spec.n = 33;
            spec.k = 97;
            spec.mode = INT4Q_MODE_INT8;
            spec.kind = INT4Q_KIND_CODEBOOK;
            spec.group_size = group_size;
            spec.scale_type = INT4Q_TYPE_F32;
            spec.quantize = false;
            Problem problem(spec);
            problem.SetCodebook(value);
            CheckProduct(problem);
        }
    }
}

// One value that is not finite, anywhere in a row of x, spoils that row of y and no bit of another.
TEST(MatmulTypes, NanAndInfinityStayInTheirRow) {
    Random random(77);
    for (const Spec &base : ModesAndKinds()) {
        for (int4q_type x_type : kTypes) {
            for (float value : {kNan, kInfinity, -kInfinity}) {
                for (int i = 0; i < Samples(6); i++) {
                    const int64_t m = random.Integer(2, 9), n = random.Integer(1, 40), k = random.Integer(1, 150);
                    Spec spec = RandomSpec(random, m, n, k, base.mode);
                    spec.kind = base.kind;
                    spec.x_type = x_type;
                    Problem problem(spec);
                    const std::vector<unsigned char> before = Product(problem).Multiply();
                    const int64_t hit = random.Integer(0, spec.m - 1);
                    // The first and the last column as often as the rest.
                    const int64_t columns[] = {0, spec.k - 1, random.Integer(0, spec.k - 1)};
                    problem.SetX(hit, columns[i % 3], value);
                    const std::vector<unsigned char> after = Product(problem).Multiply();
                    EXPECT_TRUE(SameAsDefined(problem, after)) << value << " at row " << hit;
                    for (int64_t row = 0; row < spec.m; row++) {
                        if (row != hit) {
                            ASSERT_EQ(RowOf(before, spec, row), RowOf(after, spec, row)) << spec.Text();
                            continue;
                        }
                        for (int64_t column = 0; column < spec.n; column++) {
                            const float was = LoadElement(before.data(), spec.y_type, row * spec.n + column);
                            const float is = LoadElement(after.data(), spec.y_type, row * spec.n + column);
                            ASSERT_TRUE(std::isfinite(was)) << spec.Text();
                            ASSERT_FALSE(std::isfinite(is)) << spec.Text();
                            if (spec.mode == INT4Q_MODE_INT8) {
                                ASSERT_TRUE(std::isnan(is)) << spec.Text();
                            }
                        }
                    }
                }
            }
        }
    }
}

// A NaN between the rows of x, where a stride leaves room, is not x.
TEST(MatmulTypes, NanBetweenTheRowsOfXIsNotRead) {
    Random random(78);
    for (const Spec &base : ModesAndKinds()) {
        for (int i = 0; i < Samples(12); i++) {
            const int64_t m = random.Integer(2, 9), n = random.Integer(1, 40), k = random.Integer(1, 150);
            Spec spec = RandomSpec(random, m, n, k, base.mode);
            spec.kind = base.kind;
            spec.x_gap = random.Integer(1, 70);
            const Problem problem(spec);
            ASSERT_TRUE(std::isnan(LoadElement(problem.x.data(), spec.x_type, spec.k)));
            CheckProduct(problem);
        }
    }
}

// In F32 mode denormals count as what they are: alone, and beside ordinary values.
TEST(MatmulTypes, DenormalsInXInF32Mode) {
    Random random(79);
    for (const Spec &base : ModesAndKinds()) {
        if (base.mode != INT4Q_MODE_F32) continue;
        for (int4q_type x_type : kTypes) {
            const float smallest = SmallestDenormal(x_type);
            for (bool mixed : {false, true}) {
                for (int i = 0; i < Samples(8); i++) {
                    const int64_t m = random.Integer(1, 5), k = random.Integer(1, 120);
                    Spec spec = RandomSpec(random, m, 19, k, base.mode);
                    spec.kind = base.kind;
                    spec.x_type = x_type;
                    spec.y_type = INT4Q_TYPE_F32;
                    Problem problem(spec);
                    // Large enough that the results are not all lost in rounding.
                    problem.SetScales([&] { return 256 * random.Normal(); });
                    problem.SetX([&](int64_t, int64_t) {
                        if (mixed && random.Chance(0.1)) return std::ldexp(random.Normal(), -120);
                        return smallest * static_cast<float>(random.Integer(-100, 100));
                    });
                    problem.SetX(0, 0, smallest * 99);
                    const std::vector<unsigned char> y = Product(problem).Multiply();
                    EXPECT_TRUE(SameY(problem, ExactProduct(problem), y));
                    EXPECT_TRUE(NearFloat64(problem, y));
                    if (spec.k > 16) {
                        EXPECT_GT(CountOfNonzeroBytes(y), 0) << "flushed to zero: " << spec.Text();
                    }
                }
            }
        }
    }
}

// In INT8 mode a group of x below 2^-100 counts as zeros; one at 2^-100 does not.
TEST(MatmulTypes, TinyGroupsOfXInInt8Mode) {
    Random random(80);
    const float limit = 0x1p-100f;
    for (const Spec &base : ModesAndKinds()) {
        if (base.mode != INT4Q_MODE_INT8) continue;
        for (int4q_type x_type : {INT4Q_TYPE_F32, INT4Q_TYPE_BF16}) {
            const float below = limit * (1 - (x_type == INT4Q_TYPE_F32 ? 0x1p-24f : 0x1p-8f));
            for (float largest : {SmallestDenormal(x_type), 0x1p-127f, 0x1p-126f, below, limit}) {
                Spec spec = RandomSpec(random, 3, 35, 100, base.mode);
                spec.kind = base.kind;
                spec.x_type = x_type;
                spec.y_type = INT4Q_TYPE_F32;
                spec.group_size = 32;
                spec.quantize = false;
                Problem problem(spec);
                problem.SetX([&](int64_t, int64_t) { return random.Chance(0.5) ? largest : -largest; });
                ASSERT_EQ(std::fabs(problem.X(0, 0)), largest);
                const std::vector<unsigned char> y = Product(problem).Multiply();
                EXPECT_TRUE(SameY(problem, ExactProduct(problem), y));
                EXPECT_TRUE(NearFloat64(problem, y));
                EXPECT_EQ(CountOfNonzeroBytes(y) == 0, largest < limit) << largest << ": " << spec.Text();

                // Beside a group of ordinary size they add nothing, so zeros in their place give the same bits.
                problem.SetX([&](int64_t, int64_t column) { return column < 32 ? random.Normal() : below; });
                const std::vector<unsigned char> beside = Product(problem).Multiply();
                EXPECT_TRUE(SameY(problem, ExactProduct(problem), beside));
                for (int64_t row = 0; row < spec.m; row++) {
                    for (int64_t column = 32; column < spec.k; column++) problem.SetX(row, column, 0.0f);
                }
                EXPECT_TRUE(SameY(problem, Product(problem).Multiply(), beside));
                EXPECT_GT(CountOfNonzeroBytes(beside), 0);
            }
        }
    }
}

// Scales and offsets that are denormal in their type.
TEST(MatmulTypes, DenormalScales) {
    Random random(81);
    for (const Spec &base : ModesAndKinds()) {
        for (int4q_type scale_type : kTypes) {
            const float smallest = SmallestDenormal(scale_type);
            for (int i = 0; i < Samples(8); i++) {
                const int64_t m = random.Integer(1, 5), k = random.Integer(17, 120);
                Spec spec = RandomSpec(random, m, 19, k, base.mode);
                spec.kind = base.kind;
                spec.scale_type = scale_type;
                spec.y_type = INT4Q_TYPE_F32;
                Problem problem(spec);
                problem.SetScales([&] { return smallest * static_cast<float>(random.Integer(1, 100)); });
                // Steps of about 1 in INT8 mode, where a codebook makes scales smaller yet.
                problem.SetX([&](int64_t, int64_t) { return 256 * random.Normal(); });
                CheckProduct(problem);
                if (!IsDefinedToTheBit(spec.mode, ActiveIsa())) continue;  // some instructions flush
                const std::vector<unsigned char> y = Product(problem).Multiply();
                EXPECT_GT(CountOfNonzeroBytes(y), 0) << "flushed to zero: " << spec.Text();
            }
        }
    }
}

TEST(MatmulTypes, ZerosOfEitherSignInXGivePositiveZeros) {
    Random random(82);
    for (const Spec &base : ModesAndKinds()) {
        for (int4q_type x_type : kTypes) {
            for (int4q_type y_type : kTypes) {
                for (float zero : {0.0f, -0.0f}) {
                    const int64_t m = random.Integer(1, 7), k = random.Integer(1, 150);
                    Spec spec = RandomSpec(random, m, 37, k, base.mode);
                    spec.kind = base.kind;
                    spec.x_type = x_type;
                    spec.y_type = y_type;
                    Problem problem(spec);
                    problem.SetX([&](int64_t, int64_t) { return zero; });
                    ASSERT_EQ(std::signbit(problem.X(spec.m - 1, spec.k - 1)), std::signbit(zero));
                    const std::vector<unsigned char> y = Product(problem).Multiply();
                    EXPECT_TRUE(SameAsDefined(problem, y));
                    EXPECT_EQ(CountOfNonzeroBytes(y), 0) << spec.Text();
                }
            }
        }
    }
}

// Beyond the range of y's type the result is infinite, as IEEE 754 rounds.
TEST(MatmulTypes, ResultsBeyondTheRangeOfYBecomeInfinite) {
    for (Spec spec : ModesAndKinds()) {
        spec.m = 2;
        spec.n = 33;
        spec.k = 64;
        spec.y_type = INT4Q_TYPE_F16;
        spec.quantize = false;
        Problem problem(spec);
        problem.SetX([](int64_t, int64_t column) { return column % 2 ? 1e6f : 3e7f; });
        const std::vector<unsigned char> y = Product(problem).Multiply();
        EXPECT_TRUE(SameAsDefined(problem, y));
        int infinite = 0;
        for (int64_t i = 0; i < spec.m * spec.n; i++) infinite += std::isinf(LoadElement(y.data(), spec.y_type, i));
        EXPECT_GT(infinite, 0) << spec.Text();
    }
}

// One group per row beyond the 65536 columns whose int8 products an int32 surely holds, and at that very end.
TEST(MatmulTypes, RowsLongerThanOnePackedGroup) {
    uint64_t seed = 4000;
    for (Spec spec : ModesAndKinds()) {
        for (int64_t k : {65535, 65536, 65537, 65536 + 40, 2 * 65536 + 33}) {
            spec.m = 2;
            spec.n = 3;
            spec.k = k;
            spec.group_size = INT4Q_GROUP_PER_ROW;
            spec.quantize = seed % 2 == 0;
            spec.seed = seed++;
            CheckProduct(Problem(spec));
        }
    }
}

// The largest sums that a packed group can reach, far beyond 2^24: 65536 * 127 * 127 for CODEBOOK, 65536 * 127 * 15 for
// ASYMMETRIC.
TEST(MatmulTypes, LargestInt8Sums) {
    for (float sign : {1.0f, -1.0f}) {
        for (const Spec &base : ModesAndKinds()) {
            if (base.mode != INT4Q_MODE_INT8) continue;
            Spec spec = base;
            spec.m = 2;
            spec.n = 2;
            spec.k = 65536 + 40;
            spec.group_size = INT4Q_GROUP_PER_ROW;
            Problem problem(spec);
            // Weights that are all as large as the row's largest but one, which is 0, have the code farthest from the
            // zero point; one step less in one x makes the sum odd, so that its conversion to binary32 rounds.
            problem.SetWeights([&](int64_t row, int64_t column) {
                return column == spec.k - 1 ? 0.0f : row ? -1.0f : 1.0f;
            });
            problem.SetX([&](int64_t, int64_t column) { return column == 7 ? sign * 126 : sign * 127; });
            if (spec.kind == INT4Q_KIND_ASYMMETRIC) {
                ASSERT_EQ(problem.Code(0, 0) - problem.ZeroPoint(0, 0), 15);
                ASSERT_EQ(problem.Code(1, 0) - problem.ZeroPoint(1, 0), -15);
            }
            if (spec.kind == INT4Q_KIND_CODEBOOK) {
                // The smaller two make sure that it takes 127 levels.
                const float ends[] = {-127.0f, 127.0f, -126.0f, 126.0f};
                problem.SetCodebook([&](int i) { return ends[i % 4]; });
                problem.SetWeights([&](int64_t row, int64_t) { return row ? -1.0f : 1.0f; });
                ASSERT_EQ(IntegerCodebook(problem).values[problem.Code(0, 0)], 127);
            }
            CheckProduct(problem);
        }
    }
}

}  // namespace
}  // namespace int4q_test
