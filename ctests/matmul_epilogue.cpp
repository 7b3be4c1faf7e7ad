// SPDX-License-Identifier: Apache-2.0
// What follows the sums: bias, activation, the gate's product, residual, y's type. Bit for bit the documented steps on
// top of plain products; activations against binary64 over their whole range.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/epilogue.hpp"
#include "support/isa.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

using Bytes = std::vector<unsigned char>;

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

// ---- The steps ------------------------------------------------------------------------------------------------------

class MatmulEpilogue : public ::testing::TestWithParam<int4q_compute_mode> {
protected:
    Spec Draw(int64_t m, int64_t n, int64_t k) { return RandomEpilogue(random_, m, n, k, GetParam()); }

    Spec Small() { return Draw(random_.Integer(1, 6), random_.Integer(1, 50), random_.Integer(1, 100)); }

    // Everything at once, large enough for several tiles however they are cut, odd in every size.
    Spec Large(int32_t activation, bool gated) {
        Spec spec = Draw(37, 531, 203);
        spec.activation = activation;
        spec.gated = gated;
        spec.bias_type = kTypes[random_.Integer(0, 2)];
        spec.residual_type = kTypes[random_.Integer(0, 2)];
        return spec;
    }

    // Stops the test at the first product that is wrong.
    void Check(const Spec &spec) {
        if (!HasFailure()) CheckEpilogue(Problem(spec));
    }

    Random random_{7000u + static_cast<uint64_t>(GetParam())};
};

TEST_P(MatmulEpilogue, EveryCombinationOfStepsAndTypes) {
    for (int32_t activation : kActivations) {
        for (int4q_type bias_type : kTypesOrNone) {
            for (int4q_type residual_type : kTypesOrNone) {
                for (int4q_type y_type : kTypes) {
                    for (bool gated : {false, true}) {
                        Spec spec = Small();
                        spec.activation = activation;
                        spec.bias_type = bias_type;
                        spec.residual_type = residual_type;
                        spec.y_type = y_type;
                        spec.gated = gated;
                        Check(spec);
                    }
                }
            }
        }
    }
}

TEST_P(MatmulEpilogue, EveryNFrom1To67) {
    for (int64_t n = 1; n <= 67; n++) {
        for (int64_t m : {1, 2, 7, 16}) Check(Draw(m, n, 33));
    }
}

TEST_P(MatmulEpilogue, EveryMFrom1To40) {
    for (int64_t m = 1; m <= 40; m++) {
        for (int64_t n : {5, 16, 49}) Check(Draw(m, n, 70));
    }
}

TEST_P(MatmulEpilogue, GatesOfEveryKindAndGroupSize) {
    for (int32_t kind : kKinds) {
        for (int32_t group_size : kGroupSizes) {
            for (int64_t m : {1, 3, 9}) {
                Spec spec = Draw(m, 41, 290);
                spec.kind = kind;
                spec.group_size = group_size;
                spec.gated = true;
                Check(spec);
            }
        }
    }
}

TEST_P(MatmulEpilogue, TheOtherMatrixNeedsNoBias) {
    for (int32_t activation : kActivations) {
        for (int4q_type bias_type : kTypes) {
            Spec spec = Small();
            spec.gated = true;
            spec.activation = activation;
            spec.bias_type = bias_type;
            spec.up_bias = false;
            Check(spec);
        }
    }
}

// A zero of the gate times a negative number is -0 and stays so: a step that a plan lacks is no addition of zero.
TEST_P(MatmulEpilogue, ZerosKeepTheirSigns) {
    for (int32_t activation : kActivations) {
        for (int4q_type residual_type : kTypesOrNone) {
            for (float zero : {0.0f, -0.0f}) {
                Spec spec = Small();
                spec.gated = spec.up_bias = true;
                spec.activation = activation;
                spec.bias_type = INT4Q_TYPE_F32;
                spec.residual_type = residual_type;
                Problem problem(spec);
                problem.SetX([](int64_t, int64_t) { return 0.0f; });
                problem.SetBias([](int64_t) { return 0.0f; });
                problem.SetUpBias([](int64_t) { return -2.0f; });
                if (residual_type) problem.SetResidual([&](int64_t, int64_t) { return zero; });
                const Bytes y = Product(problem).Multiply();
                EXPECT_TRUE(SameY(problem, WantedEpilogue(problem), y));
                const float first = LoadElement(y.data(), spec.y_type, 0);
                EXPECT_EQ(first, 0.0f);
                EXPECT_EQ(std::signbit(first), residual_type == kNoType || std::signbit(zero)) << spec.Text();
            }
        }
    }
}

// The residual as y's own memory, as a transformer's blocks add to it.
TEST_P(MatmulEpilogue, ResidualInPlace) {
    int4q_pool *pool = nullptr;
    ASSERT_OK(int4q_pool_create(3, &pool));
    for (int32_t activation : kActivations) {
        for (bool gated : {false, true}) {
            for (int4q_type type : kTypes) {
                for (int64_t m : {1, 5, 37}) {
                    Spec spec = Draw(m, random_.Integer(1, 150), random_.Integer(1, 150));
                    spec.activation = activation;
                    spec.gated = gated;
                    spec.residual_type = spec.y_type = type;
                    const Problem problem(spec);
                    const Bytes want = WantedEpilogue(problem);
                    Product alone(problem), spread(problem, 3), shuffled(problem, 3);
                    for (Product *product : {&alone, &spread, &shuffled}) product->AddToY(problem);
                    EXPECT_TRUE(SameY(problem, want, alone.Multiply()));
                    EXPECT_TRUE(SameY(problem, want, spread.Multiply(int4q_pool_parallel_for, pool)));
                    RunInRandomOrder(shuffled, random_);
                    EXPECT_TRUE(SameY(problem, want, shuffled.Y()));
                }
            }
        }
    }
    ASSERT_OK(int4q_pool_destroy(pool));
}

// Product::Y() checks the bytes between y's rows; between those of x and of the residual there are NaNs.
TEST_P(MatmulEpilogue, LargerLeadingDimensions) {
    for (bool gated : {false, true}) {
        Spec spec = Large(INT4Q_ACTIVATION_SILU, gated);
        spec.x_gap = spec.y_gap = spec.residual_gap = 0;
        const Bytes dense = Product(Problem(spec)).Multiply();
        for (int64_t y_gap : {0, 1, 15}) {
            for (int64_t residual_gap : {0, 3, 64}) {
                spec.x_gap = random_.Integer(0, 5);
                spec.y_gap = y_gap;
                spec.residual_gap = residual_gap;
                for (Placement placement : {Placement::kLeft, Placement::kRight}) {
                    spec.placement = placement;
                    const Problem problem(spec);  // the same numbers: they come from the seed
                    EXPECT_TRUE(SameY(problem, dense, Product(problem, 2).Multiply()));
                }
            }
        }
    }
}

TEST_P(MatmulEpilogue, SameBitsForEveryInstructionSet) {
    for (int32_t activation : kActivations) {
        for (bool gated : {false, true}) {
            for (int i = 0; i < Samples(4); i++) {
                Spec spec = Draw(random_.Integer(1, 20), random_.Integer(1, 90), random_.Integer(1, 200));
                spec.activation = activation;
                spec.gated = gated;
                const Problem problem(spec);
                const IsaLimit portable(INT4Q_ISA_PORTABLE);
                const Bytes want = WantedEpilogue(problem);
                for (int4q_isa isa : UsableIsas()) {
                    const IsaLimit limit(isa);
                    const bool exact = IsDefinedToTheBit(GetParam(), isa);
                    const Bytes y = Product(problem).Multiply();
                    EXPECT_TRUE(SameY(problem, exact ? want : WantedEpilogue(problem), y)) << int4q_isa_name(isa);
                }
            }
        }
    }
}

TEST_P(MatmulEpilogue, SameBitsForEveryNumberOfThreadsAndOrder) {
    for (int32_t activation : kActivations) {
        for (bool gated : {false, true}) {
            const Problem problem(Large(activation, gated));
            const Bytes want = WantedEpilogue(problem);
            for (uint32_t workers : {1u, 2u, 5u}) {
                int4q_pool *pool = nullptr;
                ASSERT_OK(int4q_pool_create(workers, &pool));
                Product product(problem, workers);
                EXPECT_GT(product.plan.tile_count, 1);
                EXPECT_TRUE(SameY(problem, want, product.Multiply(int4q_pool_parallel_for, pool))) << workers;
                ASSERT_OK(int4q_pool_destroy(pool));
                OwnThreads host;
                product.ForgetY();
                EXPECT_TRUE(SameY(problem, want, product.Multiply(OwnThreads::ParallelFor, &host))) << workers;
                product.ForgetY();
                RunInRandomOrder(product, random_);
                EXPECT_TRUE(SameY(problem, want, product.Y())) << workers;
            }
        }
    }
}

TEST_P(MatmulEpilogue, EachRowOfABatchAlone) {
    for (int32_t activation : kActivations) {
        for (bool gated : {false, true}) {
            Spec spec = Draw(random_.Integer(9, 40), random_.Integer(1, 70), random_.Integer(1, 300));
            spec.activation = activation;
            spec.gated = gated;
            const Problem problem(spec);
            const Bytes batch = Product(problem).Multiply();
            EXPECT_TRUE(SameY(problem, WantedEpilogue(problem), batch));
            const auto check_part = [&](int64_t first, int64_t rows) {
                const int64_t bytes = spec.n * TypeBytes(spec.y_type);
                const Bytes part(batch.begin() + first * bytes, batch.begin() + (first + rows) * bytes);
                const Bytes alone = Product(problem, 1, first, rows).Multiply();
                EXPECT_TRUE(SameY(problem, part, alone)) << rows << " rows from " << first;
            };
            for (int64_t row = 0; row < spec.m; row++) check_part(row, 1);
            for (int64_t rows = 2; rows < spec.m; rows += 3) check_part(random_.Integer(0, spec.m - rows), rows);
        }
    }
}

// A NaN in a row of x spoils that row of y, one in the bias its column: and no more.
TEST_P(MatmulEpilogue, NanReachesWhatItMustAndNoMore) {
    for (int32_t activation : kActivations) {
        for (bool gated : {false, true}) {
            Spec spec = Draw(6, 37, 80);
            spec.activation = activation;
            spec.gated = gated;
            spec.bias_type = kTypes[random_.Integer(0, 2)];
            spec.residual_type = kTypes[random_.Integer(0, 2)];
            Problem problem(spec);
            const Bytes before = Product(problem).Multiply();
            const int64_t bad_row = random_.Integer(0, 5), bad_column = random_.Integer(0, 36);
            problem.SetX(bad_row, random_.Integer(0, 79), kNan);
            std::vector<float> bias;
            for (int64_t c = 0; c < spec.n; c++) bias.push_back(c == bad_column ? kNan : problem.Bias(c));
            problem.SetBias([&](int64_t c) { return bias[static_cast<size_t>(c)]; });
            const Bytes after = Product(problem).Multiply();
            EXPECT_TRUE(SameY(problem, WantedEpilogue(problem), after));
            for (int64_t i = 0; i < spec.m * spec.n; i++) {
                if (i / spec.n == bad_row || i % spec.n == bad_column) {
                    EXPECT_TRUE(std::isnan(LoadElement(after.data(), spec.y_type, i))) << i << ": " << spec.Text();
                } else {
                    EXPECT_TRUE(SameFloat(spec.y_type, before.data(), after.data(), i)) << i << ": " << spec.Text();
                }
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Modes, MatmulEpilogue, ::testing::ValuesIn(kModes), ModeName);

// ---- The activations ------------------------------------------------------------------------------------------------

// Products of zeros, so that the bias is what the activation sees.
class Activations : public ::testing::TestWithParam<int32_t> {
protected:
    static Spec Curve(int4q_type type, int64_t count) {
        Spec spec;
        spec.n = count;
        spec.k = 1;
        spec.bias_type = type;
        spec.quantize = false;
        return spec;
    }

    // The activation of each value, for a product with `isa`.
    static std::vector<float> Apply(int32_t activation, Problem &problem, int4q_isa isa) {
        const IsaLimit limit(isa);
        Spec spec = problem.spec;
        spec.activation = activation;
        return Floats(Product(problem, spec).Multiply());
    }

    // Against binary64, and the same bits with every instruction set.
    void Check(int4q_type type, const std::vector<float> &values) {
        Problem problem(Curve(type, static_cast<int64_t>(values.size())));
        problem.SetX(0, 0, 0.0f);
        problem.SetBias([&](int64_t i) { return values[static_cast<size_t>(i)]; });
        const std::vector<float> portable = Apply(GetParam(), problem, INT4Q_ISA_PORTABLE);
        int64_t wrong = 0;
        for (size_t i = 0; i < values.size() && wrong < 10; i++) {
            const ::testing::AssertionResult right = IsActivationOf(GetParam(), values[i], portable[i]);
            EXPECT_TRUE(right);
            wrong += !right;
        }
        for (int4q_isa isa : UsableIsas()) {
            const std::vector<float> y = Apply(GetParam(), problem, isa);
            size_t first = values.size();
            for (size_t i = values.size(); i-- > 0;) {
                if (!SameFloat(INT4Q_TYPE_F32, &portable[i], &y[i], 0)) first = i;
            }
            if (first == values.size()) continue;
            ADD_FAILURE() << int4q_isa_name(isa) << " differs at " << std::hexfloat << values[first] << ": portable "
                          << portable[first] << ", here " << y[first];
        }
    }

    std::vector<float> On(const std::vector<float> &values) {
        Problem problem(Curve(INT4Q_TYPE_F32, static_cast<int64_t>(values.size())));
        problem.SetX(0, 0, 0.0f);
        problem.SetBias([&](int64_t i) { return values[static_cast<size_t>(i)]; });
        return Apply(GetParam(), problem, DetectedIsa());
    }
};

// Every bfloat16 and every binary16: denormals, infinities and NaNs among them.
TEST_P(Activations, EveryValueOf16Bits) {
    for (int4q_type type : {INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
        std::vector<float> values;
        for (uint32_t bits = 0; bits < 65536; bits++) {
            const auto half = static_cast<uint16_t>(bits);
            values.push_back(type == INT4Q_TYPE_F16 ? FloatFromHalf(half) : FloatFromBFloat(half));
        }
        Check(type, values);
    }
}

TEST_P(Activations, FromMinusToPlusHundred) {
    Random random(11);
    std::vector<float> values;
    for (int i = 0; i < Samples(60000); i++) {
        values.push_back(random.Uniform(-100, 100));
        values.push_back(random.Uniform(-6, 6));
        values.push_back(random.Normal());
    }
    Check(INT4Q_TYPE_F32, values);
}

TEST_P(Activations, AnyBits) {
    Random random(12);
    std::vector<float> values = {kNan, -kNan};
    for (float value : {0.0f, kInfinity, 0x1p-149f, 0x1p-126f, 1e-10f, 87.0f, 88.0f, 88.8f, 103.9f, 1e10f, 3.4e38f}) {
        values.push_back(value);
        values.push_back(-value);
    }
    for (int i = 0; i < Samples(60000); i++) values.push_back(FloatFromBits(static_cast<uint32_t>(random.Bits())));
    Check(INT4Q_TYPE_F32, values);
}

// From 0 on every one of them rises, but for the last bits; below it they stay between 0 and their least value.
TEST_P(Activations, RiseFromZeroAndStayInTheirRangeBelow) {
    std::vector<float> rising;
    for (int i = 0; i <= 100000; i++) rising.push_back(static_cast<float>(i) * 1e-3f);
    const std::vector<float> y = On(rising);
    EXPECT_EQ(y[0], 0.0f);
    for (size_t i = 1; i < y.size(); i++) {
        ASSERT_GE(y[i], y[i - 1] * (1 - 0x1p-21f)) << rising[i];
        ASSERT_LE(y[i], rising[i] * (1 + 0x1p-21f)) << rising[i];
    }
    std::vector<float> falling;
    for (float value : rising) falling.push_back(-value);
    const double least[] = {-101, 0, -0.17005, -0.17005, -0.27847};
    for (float value : On(falling)) {
        ASSERT_LE(value, 0);
        ASSERT_GE(value, static_cast<float>(least[GetParam()]));
    }
}

// A gate's infinity times the other matrix's zero is a NaN, as IEEE 754 has it; no step looks away.
TEST_P(Activations, InfinityThroughTheSteps) {
    for (float bias : {kInfinity, -kInfinity}) {
        for (float up : {0.0f, 1.0f, -kInfinity}) {
            for (float residual : {0.0f, kInfinity, -kInfinity}) {
                Spec spec = Curve(INT4Q_TYPE_F32, 19);
                spec.gated = true;
                spec.activation = GetParam();
                spec.residual_type = INT4Q_TYPE_F32;
                Problem problem(spec);
                problem.SetX(0, 0, 0.0f);
                problem.SetBias([&](int64_t) { return bias; });
                problem.SetUpBias([&](int64_t) { return up; });
                problem.SetResidual([&](int64_t, int64_t) { return residual; });
                CheckEpilogue(problem);
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Each, Activations, ::testing::ValuesIn(kActivations),
                         [](const auto &info) { return std::string(ActivationName(info.param)); });

}  // namespace
}  // namespace int4q_test
