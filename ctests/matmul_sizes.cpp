// SPDX-License-Identifier: Apache-2.0
// The product at every small size and at large ones that nothing divides, for every kind and group size, in every mode:
// bit for bit what docs/numerics.md defines, and within a proven bound of binary64.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "support/exact_product.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"

namespace int4q_test {
namespace {

// All that a product may be made of.
template <typename Visit>
void ForEachKindAndGroup(Visit visit) {
    for (int32_t kind : kKinds) {
        for (int32_t group_size : kGroupSizes) visit(kind, group_size);
    }
}

class MatmulSizes : public ::testing::TestWithParam<int4q_compute_mode> {
protected:
    // A product of these sizes with everything else drawn at random. Stops the test at the first one that is wrong.
    void Check(int64_t m, int64_t n, int64_t k) {
        if (HasFailure()) return;
        CheckProduct(Problem(RandomSpec(random_, m, n, k, GetParam())));
    }

    void Check(int64_t m, int64_t n, int64_t k, int32_t kind, int32_t group_size) {
        if (HasFailure()) return;
        Spec spec = RandomSpec(random_, m, n, k, GetParam());
        spec.kind = kind;
        spec.group_size = group_size;
        CheckProduct(Problem(spec));
    }

    Random random_{20240607u + static_cast<uint64_t>(GetParam())};
};

TEST_P(MatmulSizes, EveryMFrom1To67) {
    for (int64_t m = 1; m <= 67; m++) {
        Check(m, 1, 1);
        Check(m, 5, 33);
        Check(m, 16, 64);
        Check(m, 17, 127);
        Check(m, 33, 96);
    }
}

TEST_P(MatmulSizes, EveryNFrom1To67) {
    for (int64_t n = 1; n <= 67; n++) {
        Check(1, n, 31);
        Check(2, n, 130);
        Check(3, n, 64);
        Check(7, n, 101);
        Check(16, n, 48);
    }
}

TEST_P(MatmulSizes, EveryKFrom1To67ForEveryKindAndGroupSize) {
    for (int64_t k = 1; k <= 67; k++) {
        ForEachKindAndGroup([&](int32_t kind, int32_t group_size) {
            Check(1, 17, k, kind, group_size);
            Check(5, 9, k, kind, group_size);
        });
        Check(3, 64, k);
        Check(8, 33, k);
        Check(1, 1, k);
    }
}

// Just below, at and just above the ends of the longer groups.
TEST_P(MatmulSizes, KAroundTheEndsOfGroups) {
    for (int64_t end : {96, 128, 160, 256, 384, 512}) {
        for (int64_t k = end - 1; k <= end + 1; k++) {
            ForEachKindAndGroup([&](int32_t kind, int32_t group_size) {
                Check(1, 5, k, kind, group_size);
                Check(4, 18, k, kind, group_size);
            });
        }
    }
}

TEST_P(MatmulSizes, RandomTriples) {
    for (int i = 0; i < Samples(250); i++) {
        const int64_t m = random_.Integer(1, 67), n = random_.Integer(1, 67), k = random_.Integer(1, 67);
        Check(m, n, k);
    }
    for (int i = 0; i < Samples(60); i++) {
        const int64_t m = random_.Integer(1, 24), n = random_.Integer(1, 130), k = random_.Integer(68, 700);
        Check(m, n, k);
    }
}

TEST_P(MatmulSizes, FortyThreeBy500By401) {
    ForEachKindAndGroup([&](int32_t kind, int32_t group_size) { Check(43, 500, 401, kind, group_size); });
}

TEST_P(MatmulSizes, ThreeBy257By1100) {
    ForEachKindAndGroup([&](int32_t kind, int32_t group_size) { Check(3, 257, 1100, kind, group_size); });
}

INSTANTIATE_TEST_SUITE_P(Modes, MatmulSizes, ::testing::ValuesIn(kModes), ModeName);

// The comparisons above are worth something only if they see a wrong result.
TEST(MatmulSizesComparison, SeesASingleWrongElement) {
    for (int4q_compute_mode mode : kModes) {
        Spec spec;
        spec.m = 3;
        spec.n = 18;
        spec.k = 67;
        spec.mode = mode;
        const Problem problem(spec);
        const std::vector<unsigned char> right = Product(problem).Multiply();
        ASSERT_TRUE(SameAsDefined(problem, right));
        ASSERT_TRUE(NearFloat64(problem, right));
        for (int64_t i = 0; i < spec.m * spec.n; i++) {
            std::vector<unsigned char> wrong = right;
            const float value = LoadElement(right.data(), spec.y_type, i);
            StoreElement(wrong.data(), spec.y_type, i, FloatFromBits(BitsOf(value) ^ 1));
            EXPECT_FALSE(SameY(problem, right, wrong));
            StoreElement(wrong.data(), spec.y_type, i, value + (value < 0 ? -1.0f : 1.0f));
            EXPECT_FALSE(NearFloat64(problem, wrong));
            StoreElement(wrong.data(), spec.y_type, i, std::numeric_limits<float>::quiet_NaN());
            EXPECT_FALSE(SameY(problem, right, wrong));
            EXPECT_FALSE(NearFloat64(problem, wrong));
        }
    }
}

}  // namespace
}  // namespace int4q_test
