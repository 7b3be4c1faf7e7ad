// SPDX-License-Identifier: Apache-2.0
// BF16 mode. Without instructions for bfloat16 it is F32 mode with the rounded x, bit for bit; with them it is near
// binary64, and still one result for every number of threads, order and batch. Sizes, types and strides are tested
// together with the other modes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/exact_product.hpp"
#include "support/isa.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

using Bytes = std::vector<unsigned char>;

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();
const float kLargest = std::numeric_limits<float>::max();

// One test for each instruction set, so that a report shows which ones this machine could not run.
class MatmulBf16 : public ::testing::TestWithParam<int4q_isa> {
protected:
    void SetUp() override {
        if (!IsUsable(GetParam())) {
            GTEST_SKIP() << "this machine has no " << int4q_isa_name(GetParam()) << "; its best is "
                         << int4q_isa_name(DetectedIsa()) << ". Nothing was tested.";
        }
    }

    Spec Draw(int64_t m, int64_t n, int64_t k) { return RandomSpec(random_, m, n, k, INT4Q_MODE_BF16); }
    Spec Draw() { return Draw(random_.Integer(1, 20), random_.Integer(1, 70), random_.Integer(1, 400)); }

    static std::vector<float> Rounded(const Problem &problem) {
        std::vector<float> x;
        for (int64_t row = 0; row < problem.spec.m; row++) {
            for (int64_t c = 0; c < problem.spec.k; c++) x.push_back(RoundTo(INT4Q_TYPE_BF16, problem.X(row, c)));
        }
        return x;
    }

    static int64_t CountOfNonzero(const Bytes &y) {
        int64_t count = 0;
        for (unsigned char byte : y) count += byte != 0;
        return count;
    }

    bool IsExact() const { return IsDefinedToTheBit(INT4Q_MODE_BF16, GetParam()); }

    void Check(const Problem &problem) {
        const IsaLimit limit(GetParam());
        const Bytes y = Product(problem).Multiply();
        EXPECT_TRUE(SameAsDefined(problem, y));
        EXPECT_TRUE(NearFloat64(problem, y));
    }

    Random random_{6000u + static_cast<uint64_t>(GetParam())};
};

TEST_P(MatmulBf16, AsDefinedForEveryKindGroupSizeAndType) {
    for (int32_t kind : kKinds) {
        for (int32_t group_size : kGroupSizes) {
            for (int4q_type x_type : kTypes) {
                for (int i = 0; i < Samples(2); i++) {
                    Spec spec = Draw();
                    spec.kind = kind;
                    spec.group_size = group_size;
                    spec.x_type = x_type;
                    if (!HasFailure()) Check(Problem(spec));
                }
            }
        }
    }
}

TEST_P(MatmulBf16, EveryMAndNAndK) {
    for (int64_t i = 1; i <= 67; i++) {
        if (HasFailure()) return;
        Check(Problem(Draw(i, 17, 70)));
        Check(Problem(Draw(3, i, 40)));
        Check(Problem(Draw(2, 19, i)));
        Check(Problem(Draw(33, 34, 2 * i)));
    }
    Check(Problem(Draw(70, 131, 520)));
}

// F32 mode with an x that was rounded beforehand. Instructions for bfloat16 add in an order of their own.
TEST_P(MatmulBf16, IsF32ModeWithTheRoundedX) {
    const IsaLimit limit(GetParam());
    for (int32_t kind : kKinds) {
        for (int i = 0; i < Samples(8); i++) {
            Spec spec = Draw();
            spec.kind = kind;
            spec.y_type = INT4Q_TYPE_F32;
            Problem problem(spec);
            const Bytes from_given = Product(problem).Multiply();
            problem.SetX([&, x = Rounded(problem)](int64_t row, int64_t c) {
                return x[static_cast<size_t>(row * spec.k + c)];
            });
            EXPECT_TRUE(SameY(problem, Product(problem).Multiply(), from_given)) << "rounding twice is rounding once";
            Spec in_f32 = problem.spec;
            in_f32.mode = INT4Q_MODE_F32;
            const Bytes y = Product(problem, in_f32).Multiply();
            EXPECT_TRUE(NearFloat64(problem, y));
            if (IsExact()) {
                EXPECT_TRUE(SameY(problem, y, from_given));
            }
        }
    }
}

// Halfway between two neighbours the even one, and a carry into the exponent.
TEST_P(MatmulBf16, TiesOfXGoToEven) {
    const IsaLimit limit(GetParam());
    Spec spec;
    spec.mode = INT4Q_MODE_BF16;
    spec.m = 64;
    spec.n = 1;
    spec.k = 1;
    spec.scale_type = INT4Q_TYPE_F32;
    spec.quantize = false;
    Problem problem(spec);
    problem.SetScales([] { return 1.0f; });
    const float v = static_cast<float>(problem.Code(0, 0) - 8);
    ASSERT_NE(v, 0.0f);
    const auto tie = [](int64_t row) { return FloatFromBits(0x3f5f8000u + (static_cast<uint32_t>(row) << 16)); };
    for (int nudge : {-1, 0, 1}) {
        const auto value = [&](int64_t row) { return FloatFromBits(BitsOf(tie(row)) + static_cast<uint32_t>(nudge)); };
        problem.SetX([&](int64_t row, int64_t) { return value(row); });
        const Bytes y = Product(problem).Multiply();
        for (int64_t row = 0; row < spec.m; row++) {
            const uint32_t upper = BitsOf(tie(row)) >> 16;
            const bool up = nudge > 0 || (nudge == 0 && upper % 2 == 1);
            const float rounded = FloatFromBits((upper + up) << 16);
            EXPECT_EQ(LoadElement(y.data(), INT4Q_TYPE_F32, row), rounded * v) << std::hexfloat << value(row);
        }
    }
}

// The largest floats round to infinity, which spoils their row and no other; those just below do not.
TEST_P(MatmulBf16, LargeXBecomesInfiniteAndNanStaysInItsRow) {
    const IsaLimit limit(GetParam());
    for (int32_t kind : kKinds) {
        for (float value : {kNan, kInfinity, -kInfinity, kLargest, -kLargest, 0x1.ffp127f}) {
            for (int i = 0; i < Samples(6); i++) {
                Spec spec = Draw(random_.Integer(2, 20), random_.Integer(1, 40), random_.Integer(1, 150));
                spec.kind = kind;
                spec.x_type = INT4Q_TYPE_F32;
                Problem problem(spec);
                const Bytes before = Product(problem).Multiply();
                const int64_t hit = random_.Integer(0, spec.m - 1);
                problem.SetX(hit, random_.Integer(0, spec.k - 1), value);
                const Bytes after = Product(problem).Multiply();
                EXPECT_TRUE(SameAsDefined(problem, after));
                for (int64_t e = 0; e < spec.m * spec.n; e++) {
                    if (e / spec.n != hit) {
                        ASSERT_TRUE(SameFloat(spec.y_type, before.data(), after.data(), e)) << spec.Text();
                    } else {
                        ASSERT_FALSE(std::isfinite(LoadElement(after.data(), spec.y_type, e))) << value << spec.Text();
                    }
                }
            }
        }
    }
}

// The largest bfloat16 itself is finite. (A codebook, so that no sum overflows before its scale.)
TEST_P(MatmulBf16, TheLargestBfloat16IsKept) {
    const IsaLimit limit(GetParam());
    Spec spec;
    spec.mode = INT4Q_MODE_BF16;
    spec.kind = INT4Q_KIND_CODEBOOK;
    spec.n = 40;
    spec.k = 1;
    spec.quantize = false;
    Problem problem(spec);
    problem.SetCodebook([](int i) { return (static_cast<float>(i) - 7.5f) * 0x1p-10f; });
    for (uint32_t bits : {0x7f7f0000u, 0x7f7f7fffu, 0xff7f0000u, 0xff7f7fffu}) {
        problem.SetX(0, 0, FloatFromBits(bits));
        Check(problem);
    }
}

// Where no instruction flushes them denormals count as what they are, rounded to bfloat16's.
TEST_P(MatmulBf16, Denormals) {
    for (int32_t kind : kKinds) {
        for (bool mixed : {false, true}) {
            for (int i = 0; i < Samples(8); i++) {
                Spec spec = Draw(random_.Integer(1, 5), 19, random_.Integer(17, 120));
                spec.kind = kind;
                spec.x_type = random_.Chance(0.5) ? INT4Q_TYPE_F32 : INT4Q_TYPE_BF16;
                spec.y_type = INT4Q_TYPE_F32;
                Problem problem(spec);
                problem.SetScales([&] { return 256 * random_.Normal(); });
                problem.SetX([&](int64_t, int64_t) {
                    if (mixed && random_.Chance(0.1)) return std::ldexp(random_.Normal(), -120);
                    return std::ldexp(random_.Normal(), -130);
                });
                Check(problem);
                const IsaLimit limit(GetParam());
                const Bytes y = Product(problem).Multiply();
                if (IsExact()) {
                    EXPECT_GT(CountOfNonzero(y), 0) << "flushed to zero: " << spec.Text();
                }
            }
        }
    }
}

TEST_P(MatmulBf16, OneResultForEveryNumberOfThreadsAndOrder) {
    const IsaLimit limit(GetParam());
    for (int32_t kind : kKinds) {
        Spec spec = Draw(37, 331, 203);
        spec.kind = kind;
        const Problem problem(spec);
        const Bytes want = WantedProduct(problem);
        for (uint32_t workers = 1; workers <= 5; workers++) {
            OwnThreads host;
            Product product(problem, workers);
            EXPECT_EQ(product.plan.isa, GetParam());
            EXPECT_TRUE(SameY(problem, want, product.Multiply(OwnThreads::ParallelFor, &host))) << workers;
            product.ForgetY();
            RunInRandomOrder(product, random_);
            EXPECT_TRUE(SameY(problem, want, product.Y())) << workers;
        }
    }
}

// Every batch size, those with a kernel of their own among them, and rows at any place in a batch.
TEST_P(MatmulBf16, OneResultForEveryBatch) {
    const IsaLimit limit(GetParam());
    for (int32_t kind : kKinds) {
        Spec spec = Draw(67, random_.Integer(17, 70), random_.Integer(1, 300));
        spec.kind = kind;
        const Problem problem(spec);
        const Bytes batch = WantedProduct(problem);
        const auto check_part = [&](int64_t first, int64_t rows) {
            const int64_t bytes = spec.n * TypeBytes(spec.y_type);
            const Bytes part(batch.begin() + first * bytes, batch.begin() + (first + rows) * bytes);
            EXPECT_TRUE(SameY(problem, part, Product(problem, 2, first, rows).Multiply())) << rows << " from " << first;
        };
        for (int64_t rows = 1; rows <= spec.m; rows++) check_part(random_.Integer(0, spec.m - rows), rows);
        for (int64_t row = 0; row < spec.m; row++) check_part(row, 1);
    }
}

// An x of 16 bits is used as it is, which leaves the roundings of sums alone (and, with AMX, of weights).
TEST_P(MatmulBf16, AnXOfSixteenBitsLosesNothing) {
    for (int32_t kind : kKinds) {
        for (int i = 0; i < Samples(6); i++) {
            Spec spec = Draw();
            spec.kind = kind;
            spec.x_type = INT4Q_TYPE_BF16;
            const Problem problem(spec);
            for (double error : OperandX(problem, GetParam()).moved) ASSERT_EQ(error, 0) << spec.Text();
            Check(problem);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, MatmulBf16, ::testing::ValuesIn(kIsas),
                         [](const auto &info) { return std::string(int4q_isa_name(info.param)); });

}  // namespace
}  // namespace int4q_test
