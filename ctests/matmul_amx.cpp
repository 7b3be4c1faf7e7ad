// SPDX-License-Identifier: Apache-2.0
// AMX's kernels: BF16 mode against its definition, computed here one product at a time, and INT8 mode for so many rows and
// such long groups that tiles are used in every way. On a processor without tiles a build with INT4Q_TILES_MODEL runs them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "support/exact_product.hpp"
#include "support/isa.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

class MatmulAmx : public ::testing::Test {
protected:
    void SetUp() override {
        if (!IsUsable(INT4Q_ISA_AMX)) {
            GTEST_SKIP() << "this machine has no amx; its best is " << int4q_isa_name(DetectedIsa()) << ". Nothing was tested.";
        }
    }

    static std::vector<unsigned char> MultiplyWith(int4q_isa isa, const Problem &problem) {
        const IsaLimit limit(isa);
        return Product(problem).Multiply();
    }

    Random random_{77};
};

// What is multiplied before the group's scale: exact in bfloat16, but for a codebook's values.
float UnscaledWeight(const Problem &problem, int64_t row, int64_t k) {
    const int code = problem.Code(row, k);
    return problem.spec.kind == INT4Q_KIND_CODEBOOK ? RoundTo(INT4Q_TYPE_BF16, problem.tensor.codebook[code]) : static_cast<float>(code - 8);
}

// Within 32 k the even and the odd ones are added up by themselves. Nothing here is small enough to be flushed to zero.
float DefinedDot(const Problem &problem, int64_t column, const std::vector<float> &x, int64_t begin, int64_t end) {
    float dot = 0;
    for (int64_t first = begin; first < end; first += 32) {
        float sums[2] = {0, 0};
        for (int64_t k = first; k < std::min(first + 32, end); k++) {
            sums[k % 2] = std::fma(x[static_cast<size_t>(k)], UnscaledWeight(problem, column, k), sums[k % 2]);
        }
        dot += sums[0] + sums[1];
    }
    return dot;
}

// In 16 partial sums, then folded.
float SumOf(const std::vector<float> &x, int64_t begin, int64_t end) {
    float sums[16] = {};
    for (int64_t k = begin; k < end; k++) sums[(k - begin) % 16] += x[static_cast<size_t>(k)];
    for (int width = 8; width > 0; width /= 2) {
        for (int lane = 0; lane < width; lane++) sums[lane] += sums[lane + width];
    }
    return sums[0];
}

float DefinedResult(const Problem &problem, int64_t column, const std::vector<float> &x) {
    const int64_t size = problem.spec.group_size == INT4Q_GROUP_PER_ROW ? 65536 : problem.spec.group_size;
    float total = 0;
    for (int64_t begin = 0; begin < problem.spec.k; begin += size) {
        const int64_t end = std::min(begin + size, problem.spec.k), group = problem.GroupOf(begin);
        const float scale = problem.Scale(column, group), dot = DefinedDot(problem, column, x, begin, end), sum = SumOf(x, begin, end);
        if (problem.spec.kind == INT4Q_KIND_ASYMMETRIC) {
            total = std::fma(scale, std::fma(static_cast<float>(8 - problem.ZeroPoint(column, group)), sum, dot), total);
        } else {
            total = std::fma(scale, dot, total);
        }
        if (problem.spec.kind == INT4Q_KIND_OFFSET) total = std::fma(std::fma(8.0f, scale, problem.Offset(column, group)), sum, total);
    }
    return total;
}

TEST_F(MatmulAmx, Bf16ModeIsAsDefinedToTheBit) {
    for (int64_t k : {1, 31, 33, 640, 641, 1300}) {
        for (int32_t kind : kKinds) {
            Spec spec = RandomSpec(random_, random_.Integer(1, 70), random_.Integer(1, 70), k, INT4Q_MODE_BF16);
            spec.kind = kind;
            spec.y_type = INT4Q_TYPE_F32;
            const Problem problem(spec);
            const auto y = MultiplyWith(INT4Q_ISA_AMX, problem);
            std::vector<std::vector<float>> x(static_cast<size_t>(spec.m));
            for (int64_t row = 0; row < spec.m; row++) {
                for (int64_t c = 0; c < k; c++) x[static_cast<size_t>(row)].push_back(RoundTo(INT4Q_TYPE_BF16, problem.X(row, c)));
            }
            for (int64_t column = 0; column < spec.n; column++) {
                for (int64_t row = 0; row < spec.m; row++) {
                    ASSERT_EQ(LoadElement(y.data(), INT4Q_TYPE_F32, row * spec.n + column),
                              DefinedResult(problem, column, x[static_cast<size_t>(row)]))
                        << "row " << row << " column " << column << ": " << spec.Text();
                }
            }
        }
    }
}

TEST_F(MatmulAmx, Int8ModeHasThePortableBitsForManyRows) {
    for (int64_t m : {15, 16, 17, 32, 33, 47, 48, 49, 129, 161}) {
        for (int32_t group_size : {32, 64, 128, 256}) {
            for (int32_t kind : kKinds) {
                Spec spec = RandomSpec(random_, m, random_.Integer(1, 90), random_.Integer(1, 1500), INT4Q_MODE_INT8);
                spec.kind = kind;
                spec.group_size = group_size;
                const Problem problem(spec);
                ASSERT_TRUE(SameY(problem, MultiplyWith(INT4Q_ISA_PORTABLE, problem), MultiplyWith(INT4Q_ISA_AMX, problem)));
            }
        }
    }
}

// Around the depth of the kernels' panel, and beyond what an int32 surely holds.
TEST_F(MatmulAmx, Int8ModeHasThePortableBitsForLongGroups) {
    for (int64_t k : {33, 64, 65, 96, 1121, 1152, 1153, 1185, 3000, 65536 + 40}) {
        for (int32_t kind : kKinds) {
            Spec spec = RandomSpec(random_, random_.Integer(16, 50), k > 3000 ? 17 : 50, k, INT4Q_MODE_INT8);
            spec.kind = kind;
            spec.group_size = INT4Q_GROUP_PER_ROW;
            const Problem problem(spec);
            ASSERT_TRUE(SameY(problem, MultiplyWith(INT4Q_ISA_PORTABLE, problem), MultiplyWith(INT4Q_ISA_AMX, problem)));
        }
    }
}

}  // namespace
}  // namespace int4q_test
