// SPDX-License-Identifier: Apache-2.0
// AMX's kernels: BF16 mode against its definition, computed here one product at a time, and INT8 mode for so many rows and
// such long groups that tiles are used in every way. On a processor without tiles a build with INT4Q_TILES_MODEL runs them.
#include <gtest/gtest.h>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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

int64_t GroupLength(const Spec &spec) { return spec.group_size == INT4Q_GROUP_PER_ROW ? (spec.k + 31) / 32 * 32 : spec.group_size; }

// Short groups' weights are dequantized and rounded.
bool RoundsWeights(const Spec &spec) { return GroupLength(spec) < 128 || spec.kind == INT4Q_KIND_OFFSET; }

float RoundedWeight(const Problem &problem, int64_t row, int64_t k) {
    const int64_t group = problem.GroupOf(k);
    const int code = problem.Code(row, k);
    const float scale = problem.Scale(row, group);
    float weight = scale * static_cast<float>(code - problem.ZeroPoint(row, group));
    if (problem.spec.kind == INT4Q_KIND_OFFSET) weight = std::fma(scale, static_cast<float>(code), problem.Offset(row, group));
    if (problem.spec.kind == INT4Q_KIND_CODEBOOK) weight = scale * problem.tensor.codebook[code];
    return RoundTo(INT4Q_TYPE_BF16, weight);
}

float ExactCode(const Problem &problem, int64_t row, int64_t k) {
    const int code = problem.Code(row, k);
    if (problem.spec.kind == INT4Q_KIND_CODEBOOK) return RoundTo(INT4Q_TYPE_BF16, problem.tensor.codebook[code]);
    return static_cast<float>(code - problem.ZeroPoint(row, problem.GroupOf(k)));
}

// Within 32 k the even and the odd ones are added up by themselves. Nothing here is small enough to be flushed to zero.
float TileSum(const std::vector<float> &x, const std::vector<float> &w, int64_t begin, int64_t end) {
    float total = 0;
    for (int64_t step = begin; step < end; step += 32) {
        float sums[2] = {0, 0};
        for (int64_t k = step; k < std::min(step + 32, end); k++) {
            sums[k % 2] = std::fma(x[static_cast<size_t>(k)], w[static_cast<size_t>(k)], sums[k % 2]);
        }
        total += sums[0] + sums[1];
    }
    return total;
}

float DefinedResult(const Problem &problem, int64_t column, const std::vector<float> &x, const std::vector<float> &w) {
    const Spec &spec = problem.spec;
    if (RoundsWeights(spec)) return TileSum(x, w, 0, spec.k);
    float total = 0;
    for (int64_t begin = 0; begin < spec.k; begin += GroupLength(spec)) {
        const float dot = TileSum(x, w, begin, std::min(begin + GroupLength(spec), spec.k));
        total = std::fma(problem.Scale(column, problem.GroupOf(begin)), dot, total);
    }
    return total;
}

class MatmulAmxBf16 : public MatmulAmx {
protected:
    static void ExpectAsDefined(const Problem &problem) {
        const Spec &spec = problem.spec;
        const auto y = MultiplyWith(INT4Q_ISA_AMX, problem);
        std::vector<std::vector<float>> x(static_cast<size_t>(spec.m));
        for (int64_t row = 0; row < spec.m; row++) {
            for (int64_t c = 0; c < spec.k; c++) x[static_cast<size_t>(row)].push_back(RoundTo(INT4Q_TYPE_BF16, problem.X(row, c)));
        }
        for (int64_t column = 0; column < spec.n; column++) {
            std::vector<float> w;
            for (int64_t c = 0; c < spec.k; c++) w.push_back(RoundsWeights(spec) ? RoundedWeight(problem, column, c) : ExactCode(problem, column, c));
            for (int64_t row = 0; row < spec.m; row++) {
                ASSERT_EQ(LoadElement(y.data(), INT4Q_TYPE_F32, row * spec.n + column), DefinedResult(problem, column, x[static_cast<size_t>(row)], w))
                    << "row " << row << " column " << column << ": " << spec.Text();
            }
        }
    }

    Spec Bf16Spec(int64_t k, int32_t kind) {
        Spec spec = RandomSpec(random_, random_.Integer(1, 70), random_.Integer(1, 70), k, INT4Q_MODE_BF16);
        spec.kind = kind;
        spec.y_type = INT4Q_TYPE_F32;
        return spec;
    }
};

TEST_F(MatmulAmxBf16, IsAsDefinedToTheBit) {
    for (int64_t k : {1, 31, 33, 640, 641, 1300}) {
        for (int32_t kind : kKinds) ExpectAsDefined(Problem(Bf16Spec(k, kind)));
    }
}

// The padding behind the last group is part of a step.
TEST_F(MatmulAmxBf16, IsAsDefinedToTheBitInAnOddNumberOfGroupsOf16) {
    for (int64_t m : {1, 17, 32, 33}) {
        for (int64_t k : {1, 33, 65, 641}) {
            for (int32_t kind : kKinds) {
                Spec spec = Bf16Spec(k, kind);
                spec.m = m;
                spec.group_size = 16;
                ExpectAsDefined(Problem(spec));
            }
        }
    }
}

// Groups that fill a panel twice, once, or not, and rows that are one group longer than it.
TEST_F(MatmulAmxBf16, IsAsDefinedToTheBitInLongGroups) {
    for (int32_t group_size : {128, 256, static_cast<int32_t>(INT4Q_GROUP_PER_ROW)}) {
        for (int64_t k : {97, 128, 200, 257, 1300}) {
            for (int32_t kind : kKinds) {
                Spec spec = Bf16Spec(k, kind);
                spec.group_size = group_size;
                ExpectAsDefined(Problem(spec));
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

#if defined(__x86_64__) && defined(__linux__)

struct alignas(64) TileState {
    uint8_t bytes[64];
};

TileState StoredTileState() {
    TileState state;
    __asm__ volatile("sttilecfg %0" : "=m"(state));
    return state;
}

// Whether this thread may configure tiles of the processor; a model of tiles does not count.
bool MayConfigureTiles() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1U << 24)) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// A host that multiplies with tiles itself may configure them once for each thread.
TEST_F(MatmulAmx, TheHostsTileConfigurationIsGivenBack) {
    if (!MayConfigureTiles()) GTEST_SKIP() << "the processor has no tiles. Nothing was tested.";
    TileState none = {}, own = {};
    own.bytes[0] = 1;                                // palette
    own.bytes[16] = 64, own.bytes[16 + 2 * 3] = 32;  // bytes of a row: tiles 0 and 3
    own.bytes[48] = 16, own.bytes[48 + 3] = 5;       // rows
    for (const TileState &held : {none, own}) {
        for (int32_t mode : {INT4Q_MODE_INT8, INT4Q_MODE_BF16}) {
            for (int64_t m : {1, 16, 40}) {
                Spec spec = RandomSpec(random_, m, 50, 300, mode);
                const Problem problem(spec);
                if (held.bytes[0]) {
                    __asm__ volatile("ldtilecfg %0" : : "m"(held));
                } else {
                    __asm__ volatile("tilerelease");
                }
                MultiplyWith(INT4Q_ISA_AMX, problem);
                const TileState after = StoredTileState();
                __asm__ volatile("tilerelease");
                ASSERT_EQ(std::memcmp(&after, &held, sizeof held), 0) << "mode " << mode << ", m " << m;
            }
        }
    }
}

#endif

}  // namespace
}  // namespace int4q_test
