// SPDX-License-Identifier: Apache-2.0
// INT8 mode with scales of the caller (INT4Q_MATMUL_STATIC_SCALES): bit for bit what docs/numerics.md defines, near
// binary64, one result whatever the instruction set, threads and batch.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
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

class MatmulStaticScales : public ::testing::Test {
protected:
    Spec Draw(int64_t m, int64_t n, int64_t k) {
        Spec spec = RandomSpec(random_, m, n, k, INT4Q_MODE_INT8);
        spec.static_scales = true;
        return spec;
    }
    Spec Draw() { return Draw(random_.Integer(1, 20), random_.Integer(1, 70), random_.Integer(1, 400)); }

    // Stops the test at the first product that is wrong.
    void Check(const Problem &problem) {
        if (!HasFailure()) CheckProduct(problem);
    }

    // A product of one weight, 1, and each of these values of x: its codes times the step.
    std::vector<float> CodesOf(const std::vector<float> &values, float step) {
        Spec spec;
        spec.mode = INT4Q_MODE_INT8;
        spec.kind = INT4Q_KIND_CODEBOOK;
        spec.m = static_cast<int64_t>(values.size());
        spec.scale_type = INT4Q_TYPE_F32;
        spec.static_scales = true;
        Problem problem(spec);
        problem.SetCodebook([](int) { return 127.0f; });
        problem.SetScales([] { return 0x1p-7f; });
        problem.SetXScales([&](int64_t) { return step; });
        problem.SetX([&](int64_t row, int64_t) { return values[static_cast<size_t>(row)]; });
        EXPECT_TRUE(SameY(problem, ExactProduct(problem), Product(problem).Multiply()));
        std::vector<float> codes;
        const Bytes y = Product(problem).Multiply();
        for (int64_t row = 0; row < spec.m; row++) {
            codes.push_back(LoadElement(y.data(), INT4Q_TYPE_F32, row) / step / 127 * 0x1p7f);
        }
        return codes;
    }

    Random random_{5150};
};

TEST_F(MatmulStaticScales, EveryKindGroupSizeAndType) {
    for (int32_t kind : kKinds) {
        for (int32_t group_size : kGroupSizes) {
            for (int4q_type x_type : kTypes) {
                for (int i = 0; i < Samples(4); i++) {
                    Spec spec = Draw();
                    spec.kind = kind;
                    spec.group_size = group_size;
                    spec.x_type = x_type;
                    Check(Problem(spec));
                }
            }
        }
    }
}

TEST_F(MatmulStaticScales, EveryMAndNAndK) {
    for (int64_t i = 1; i <= 67; i++) {
        Check(Problem(Draw(i, 17, 70)));
        Check(Problem(Draw(3, i, 40)));
        Check(Problem(Draw(2, 19, i)));
    }
    Check(Problem(Draw(43, 300, 401)));
}

// One scale of a row's one group counts for all pieces that the packed row is cut into.
TEST_F(MatmulStaticScales, RowsLongerThanOnePackedGroup) {
    for (int32_t kind : kKinds) {
        Spec spec = Draw(2, 3, 2 * 65536 + 33);
        spec.kind = kind;
        spec.group_size = INT4Q_GROUP_PER_ROW;
        const Problem problem(spec);
        EXPECT_EQ(problem.layout.groups_per_row, 1);
        Check(problem);
    }
}

TEST_F(MatmulStaticScales, HalfGoesToEvenAndBeyond127IsClipped) {
    const std::vector<std::pair<float, float>> steps_and_codes = {
        {0.0f, 0},      {0.5f, 0},       {1.5f, 2},       {2.5f, 2},       {-0.5f, 0},    {-1.5f, -2},   {-2.5f, -2},
        {63.49f, 63},   {-63.51f, -64},  {126.5f, 126},   {126.75f, 127},  {127.0f, 127}, {127.4f, 127}, {127.5f, 127},
        {128.5f, 127},  {1000.0f, 127},  {1e30f, 127},    {-126.5f, -126}, {-127.0f, -127}, {-127.5f, -127},
        {-129.0f, -127}, {-3e32f, -127}};
    for (float step : {1.0f, 0x1p-3f, 0x1p-100f, 0x1p20f}) {
        std::vector<float> x;
        for (const auto &[steps, code] : steps_and_codes) x.push_back(steps * step);
        const std::vector<float> got = CodesOf(x, step);
        for (size_t i = 0; i < x.size(); i++) {
            EXPECT_EQ(got[i], steps_and_codes[i].second) << steps_and_codes[i].first << " steps of " << step;
        }
    }
}

// The ends of what the header allows. x * (1 / step) may overflow there, and is clipped.
TEST_F(MatmulStaticScales, SmallestAndLargestScales) {
    for (int32_t kind : kKinds) {
        for (float step : {0x1p-100f, 0x1p100f}) {
            for (int exponent : {-149, -126, -101, -94, 0, 94, 100, 106, 126}) {
                Spec spec = Draw(3, 20, 50);
                spec.kind = kind;
                spec.x_type = INT4Q_TYPE_F32;
                spec.y_type = INT4Q_TYPE_F32;
                Problem problem(spec);
                problem.SetXScales([&](int64_t) { return step; });
                problem.SetX([&](int64_t, int64_t) { return std::ldexp(random_.Uniform(-1.9f, 1.9f), exponent); });
                Check(problem);
            }
        }
    }
}

// Each group counts with its own: scales that differ by powers of two from one to the next.
TEST_F(MatmulStaticScales, EachGroupHasItsOwn) {
    for (int32_t kind : kKinds) {
        for (int32_t group_size : {16, 32, 64, 128, 256}) {
            Spec spec = Draw(5, 33, 700);
            spec.kind = kind;
            spec.group_size = group_size;
            Problem problem(spec);
            const auto step = [](int64_t g) { return std::ldexp(1.0f / 60, static_cast<int>(g * 5 % 11) - 5); };
            problem.SetXScales(step);
            problem.SetX([&](int64_t, int64_t c) { return 50 * step(c / group_size) * random_.Normal(); });
            Check(problem);
        }
    }
}

// Not finite is not clipped: the row is NaN, and no other is touched.
TEST_F(MatmulStaticScales, NanAndInfinityStayInTheirRow) {
    for (int32_t kind : kKinds) {
        for (float value : {kNan, kInfinity, -kInfinity}) {
            for (int i = 0; i < Samples(8); i++) {
                Spec spec = Draw(random_.Integer(2, 9), random_.Integer(1, 40), random_.Integer(1, 150));
                spec.kind = kind;
                Problem problem(spec);
                const Bytes before = Product(problem).Multiply();
                const int64_t hit = random_.Integer(0, spec.m - 1);
                problem.SetX(hit, random_.Integer(0, spec.k - 1), value);
                const Bytes after = Product(problem).Multiply();
                EXPECT_TRUE(SameY(problem, ExactProduct(problem), after));
                for (int64_t e = 0; e < spec.m * spec.n; e++) {
                    if (e / spec.n == hit) {
                        ASSERT_TRUE(std::isnan(LoadElement(after.data(), spec.y_type, e))) << spec.Text();
                    } else {
                        ASSERT_TRUE(SameFloat(spec.y_type, before.data(), after.data(), e)) << spec.Text();
                    }
                }
            }
        }
    }
}

TEST_F(MatmulStaticScales, OneResultForEveryInstructionSet) {
    for (int32_t kind : kKinds) {
        for (int i = 0; i < Samples(10); i++) {
            Spec spec = Draw();
            spec.kind = kind;
            const Problem problem(spec);
            const Bytes want = ExactProduct(problem);
            for (int4q_isa isa : UsableIsas()) {
                const IsaLimit limit(isa);
                EXPECT_TRUE(SameY(problem, want, Product(problem).Multiply())) << int4q_isa_name(isa);
            }
        }
    }
}

// RunInRandomOrder() also holds the scales back from the tiles.
TEST_F(MatmulStaticScales, OneResultForEveryNumberOfThreadsOrderAndBatch) {
    for (int32_t kind : kKinds) {
        Spec spec = Draw(37, 331, 203);
        spec.kind = kind;
        const Problem problem(spec);
        const Bytes want = ExactProduct(problem);
        for (uint32_t workers = 1; workers <= 4; workers++) {
            OwnThreads host;
            Product product(problem, workers);
            EXPECT_TRUE(SameY(problem, want, product.Multiply(OwnThreads::ParallelFor, &host))) << workers;
            product.ForgetY();
            RunInRandomOrder(product, random_);
            EXPECT_TRUE(SameY(problem, want, product.Y())) << workers;
        }
        for (int64_t rows = 1; rows < spec.m; rows++) {
            const int64_t first = random_.Integer(0, spec.m - rows), bytes = spec.n * TypeBytes(spec.y_type);
            const Bytes part(want.begin() + first * bytes, want.begin() + (first + rows) * bytes);
            EXPECT_TRUE(SameY(problem, part, Product(problem, 1, first, rows).Multiply())) << rows << " from " << first;
        }
    }
}

}  // namespace
}  // namespace int4q_test
