// SPDX-License-Identifier: Apache-2.0
// Experts: row i of y is, to the bit, what the product of row i alone with its expert's matrix gives, wherever the
// other rows go and however the work is spread.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
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

// A mixture: its matrices are those of problems of their own; x, y's shape, the residual and the scales those of one
// more.
class Mixture {
public:
    Mixture(const Spec &wanted, uint32_t expert_count) : common(wanted), random_(wanted.seed ^ 0x5eed) {
        Spec spec = wanted;
        spec.m = 1;
        for (uint32_t e = 0; e < expert_count; e++) {
            spec.seed = random_.Bits();
            experts.push_back(std::make_unique<Problem>(spec));
        }
        const size_t row = static_cast<size_t>(spec.n * TypeBytes(spec.bias_type));
        if (spec.bias_type) bias = Gather(row, [](const Problem &p) -> const GuardedBuffer & { return p.bias; });
        if (spec.bias_type && spec.gated && spec.up_bias) {
            up_bias = Gather(row, [](const Problem &p) -> const GuardedBuffer & { return p.up_bias; });
        }
        table = GuardedBuffer(expert_count * sizeof(int4q_expert), spec.placement);
        row_experts = GuardedBuffer(static_cast<size_t>(wanted.m) * sizeof(int32_t), spec.placement);
        for (uint32_t e = 0; e < expert_count; e++) table.as<int4q_expert>()[e] = Entry(e);
        table.ForbidWriting();
        Assign([&](int64_t) { return static_cast<int32_t>(random_.Integer(-1, int64_t{expert_count} - 1)); });
    }

    uint32_t count() const { return static_cast<uint32_t>(experts.size()); }
    int32_t ExpertOf(int64_t row) const {
        int32_t expert;
        std::memcpy(&expert, row_experts.data() + row * 4, 4);
        return expert;
    }

    void Assign(const std::function<int32_t(int64_t)> &expert) {
        row_experts.AllowWriting();
        for (int64_t row = 0; row < common.spec.m; row++) row_experts.as<int32_t>()[row] = expert(row);
        row_experts.ForbidWriting();
    }

    int4q_matmul_desc Describe(uint32_t workers) const {
        int4q_matmul_desc desc = Product::Describe(common, common.spec, workers);
        desc.expert_count = count();
        return desc;
    }

    // A product whose plan and arguments are the mixture's.
    std::unique_ptr<Product> Plan(uint32_t workers = 1) const {
        const int4q_matmul_desc desc = Describe(workers);
        int4q_matmul_plan plan;
        std::memset(&plan, 0, sizeof plan);
        plan.struct_size = sizeof plan;
        EXPECT_OK(int4q_matmul_plan_init(&desc, &plan)) << Text();
        auto product = std::make_unique<Product>(common, plan);
        Connect(product->args);
        return product;
    }

    void Connect(int4q_matmul_args &args) const {
        args.blob = args.up_blob = nullptr;
        args.blob_bytes = args.up_blob_bytes = 0;
        args.experts = reinterpret_cast<const int4q_expert *>(table.data());
        args.row_experts = reinterpret_cast<const int32_t *>(row_experts.data());
        args.bias = bias.data();
        args.up_bias = up_bias.data();
    }

    // Row by row, each a plain product with its expert's matrix; rows without one as Product leaves memory.
    Bytes Wanted() const {
        const Spec &spec = common.spec;
        const size_t row_bytes = static_cast<size_t>(spec.n * TypeBytes(spec.y_type));
        Bytes want;
        for (int64_t row = 0; row < spec.m; row++) {
            const Bytes y = ExpertOf(row) < 0 ? Bytes(row_bytes, GuardedBuffer::kFill) : WantedRow(row);
            want.insert(want.end(), y.begin(), y.end());
        }
        return want;
    }

    std::string Text() const { return common.spec.Text() + ", " + std::to_string(count()) + " experts"; }

    Problem common;
    std::vector<std::unique_ptr<Problem>> experts;
    GuardedBuffer bias, up_bias, table, row_experts;

private:
    Bytes WantedRow(int64_t row) const {
        const Problem &expert = *experts[static_cast<size_t>(ExpertOf(row))];
        Product product(expert);
        product.args.x = common.x.data() + row * common.ldx() * TypeBytes(common.spec.x_type);
        if (common.spec.static_scales) product.args.x_scales = reinterpret_cast<const float *>(common.x_scales.data());
        if (common.spec.residual_type) {
            product.args.residual =
                common.residual.data() + row * common.ldr() * TypeBytes(common.spec.residual_type);
        }
        return product.Multiply();
    }

    int4q_expert Entry(uint32_t e) const {
        const Problem &problem = *experts[e];
        int4q_expert entry;
        std::memset(&entry, 0, sizeof entry);
        entry.blob = problem.blob.data();
        entry.blob_bytes = problem.blob.size();
        if (problem.spec.gated) {
            entry.up_blob = problem.up->blob.data();
            entry.up_blob_bytes = problem.up->blob.size();
        }
        return entry;
    }

    // The experts' biases as [expert_count][n].
    template <typename Part>
    GuardedBuffer Gather(size_t row_bytes, Part part) const {
        GuardedBuffer all(experts.size() * row_bytes, common.spec.placement);
        for (size_t e = 0; e < experts.size(); e++) {
            std::memcpy(all.data() + e * row_bytes, part(*experts[e]).data(), row_bytes);
        }
        all.ForbidWriting();
        return all;
    }

    Random random_;
};

class MatmulExperts : public ::testing::TestWithParam<int4q_compute_mode> {
protected:
    // How SYMMETRIC scales were found differs from expert to expert: a plan asks for kind, group size and scale type.
    Spec Draw(int64_t m, int64_t n, int64_t k) { return RandomEpilogue(random_, m, n, k, GetParam()); }

    static void Check(const Mixture &mixture) {
        const auto product = mixture.Plan();
        EXPECT_TRUE(SameY(mixture.common, mixture.Wanted(), product->Multiply())) << mixture.Text();
    }

    Random random_{8000u + static_cast<uint64_t>(GetParam())};
};

TEST_P(MatmulExperts, RandomAssignments) {
    for (uint32_t count : {1u, 2u, 3u, 8u, 64u}) {
        for (int i = 0; i < Samples(8); i++) {
            const int64_t m = random_.Integer(1, 70), n = random_.Integer(1, 70), k = random_.Integer(1, 150);
            Check(Mixture(Draw(m, n, k), count));
        }
    }
}

TEST_P(MatmulExperts, EveryKindGatedOrNot) {
    for (int32_t kind : kKinds) {
        for (int32_t group_size : kGroupSizes) {
            for (bool gated : {false, true}) {
                Spec spec = Draw(random_.Integer(1, 30), 37, random_.Integer(1, 300));
                spec.kind = kind;
                spec.group_size = group_size;
                spec.gated = gated;
                Check(Mixture(spec, 4));
            }
        }
    }
}

TEST_P(MatmulExperts, EveryBiasActivationAndResidual) {
    for (int32_t activation : kActivations) {
        for (int4q_type bias_type : kTypesOrNone) {
            for (int4q_type residual_type : kTypesOrNone) {
                for (bool gated : {false, true}) {
                    Spec spec = Draw(9, 21, 40);
                    spec.activation = activation;
                    spec.bias_type = bias_type;
                    spec.residual_type = residual_type;
                    spec.gated = gated;
                    Check(Mixture(spec, 3));
                }
            }
        }
    }
}

// More rows for one expert than a tile has, and fewer; none at all for others.
TEST_P(MatmulExperts, AllRowsToOneExpert) {
    for (int64_t m : {1, 16, 65, 300}) {
        for (uint32_t count : {1u, 5u, 64u}) {
            Mixture mixture(Draw(m, 35, 70), count);
            const auto all = static_cast<int32_t>(random_.Integer(0, int64_t{count} - 1));
            mixture.Assign([&](int64_t) { return all; });
            Check(mixture);
        }
    }
}

TEST_P(MatmulExperts, ThreeHundredRows) {
    for (uint32_t count : {2u, 7u, 64u}) {
        Mixture mixture(Draw(300, 50, 90), count);
        Check(mixture);
        // One expert has most of the rows; neighbouring rows go elsewhere each time.
        mixture.Assign([&](int64_t row) { return row % 4 ? 1 : static_cast<int32_t>(row / 4 % count); });
        Check(mixture);
        // In order, as a host that sorts has them; and the other way round.
        mixture.Assign([&](int64_t row) { return static_cast<int32_t>(row * count / 300); });
        Check(mixture);
        mixture.Assign([&](int64_t row) { return static_cast<int32_t>((299 - row) * count / 300); });
        Check(mixture);
    }
}

TEST_P(MatmulExperts, RowsWithoutAnExpertAreLeftAlone) {
    for (int64_t m : {1, 7, 40, 130}) {
        Mixture mixture(Draw(m, 33, 50), 3);
        mixture.Assign([](int64_t) { return -1; });
        Check(mixture);
        mixture.Assign([&](int64_t row) { return row == m - 1 ? 2 : -1; });
        Check(mixture);
        mixture.Assign([](int64_t row) { return row ? -1 : 0; });
        Check(mixture);
    }
}

TEST_P(MatmulExperts, ManyExpertsForFewRows) {
    Mixture mixture(Draw(5, 18, 20), 300);
    Check(mixture);
    mixture.Assign([](int64_t row) { return static_cast<int32_t>(299 - row); });
    Check(mixture);
}

TEST_P(MatmulExperts, NEveryResidueOf16) {
    for (int64_t n = 1; n <= 34; n++) Check(Mixture(Draw(random_.Integer(1, 20), n, 33), 3));
}

TEST_P(MatmulExperts, SameBitsForEveryNumberOfThreadsAndOrder) {
    for (bool gated : {false, true}) {
        for (uint32_t count : {3u, 20u}) {
            Spec spec = Draw(100, 131, 90);
            spec.gated = gated;
            const Mixture mixture(spec, count);
            const Bytes want = mixture.Wanted();
            for (uint32_t workers : {1u, 2u, 5u}) {
                const auto product = mixture.Plan(workers);
                int4q_pool *pool = nullptr;
                ASSERT_OK(int4q_pool_create(workers, &pool));
                EXPECT_TRUE(SameY(mixture.common, want, product->Multiply(int4q_pool_parallel_for, pool))) << workers;
                ASSERT_OK(int4q_pool_destroy(pool));
                OwnThreads host;
                product->ForgetY();
                EXPECT_TRUE(SameY(mixture.common, want, product->Multiply(OwnThreads::ParallelFor, &host))) << workers;
                product->ForgetY();
                RunInRandomOrder(*product, random_);
                EXPECT_TRUE(SameY(mixture.common, want, product->Y())) << workers;
            }
        }
    }
}

TEST_P(MatmulExperts, SameBitsForEveryInstructionSet) {
    for (int i = 0; i < Samples(6); i++) {
        const Mixture mixture(Draw(40, 45, 130), 5);
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
            Check(mixture);
        }
    }
}

// The same scratch for another assignment: nothing of the one before may be left.
TEST_P(MatmulExperts, OnePlanForOneAssignmentAfterAnother) {
    Mixture mixture(Draw(90, 40, 60), 6);
    const auto product = mixture.Plan(2);
    for (int i = 0; i < Samples(6); i++) {
        mixture.Assign([&](int64_t) { return static_cast<int32_t>(random_.Integer(i % 2 ? -1 : 0, i)); });
        product->ForgetY();
        EXPECT_TRUE(SameY(mixture.common, mixture.Wanted(), product->Multiply())) << i;
    }
    std::memset(product->scratch.data(), 0xff, product->scratch.size());
    product->ForgetY();
    EXPECT_TRUE(SameY(mixture.common, mixture.Wanted(), product->Multiply()));
}

// Rows without an expert keep what the residual put there.
TEST_P(MatmulExperts, ResidualInPlace) {
    for (int4q_type type : kTypes) {
        Spec spec = Draw(50, 37, 80);
        spec.residual_type = spec.y_type = type;
        const Mixture mixture(spec, 4);
        Bytes want = mixture.Wanted();
        for (int64_t row = 0; row < spec.m; row++) {
            for (int64_t column = 0; column < spec.n && mixture.ExpertOf(row) < 0; column++) {
                StoreElement(want.data(), type, row * spec.n + column, mixture.common.Residual(row, column));
            }
        }
        const auto product = mixture.Plan(3);
        product->AddToY(mixture.common);
        RunInRandomOrder(*product, random_);
        EXPECT_TRUE(SameY(mixture.common, want, product->Y())) << mixture.Text();
    }
}

// ---- Refusals -------------------------------------------------------------------------------------------------------

// Rows that name no expert, wherever they are; int4q_matmul_prepare() and int4q_matmul() look, tiles do not.
TEST_P(MatmulExperts, RowExpertsOutOfRange) {
    for (int64_t m : {1, 40}) {
        for (int32_t expert : {3, -2, 4, 1 << 20, INT32_MAX, INT32_MIN}) {
            for (int64_t bad : {int64_t{0}, m / 2, m - 1}) {
                Mixture mixture(Draw(m, 20, 30), 3);
                mixture.Assign([&](int64_t row) { return row == bad ? expert : 1; });
                const auto product = mixture.Plan();
                EXPECT_FAILS(int4q_matmul(&product->plan, &product->args, nullptr, nullptr),
                             INT4Q_ERROR_INVALID_ARGUMENT, "int4q_matmul", "row_experts");
                EXPECT_STREQ(LastError().argument, "args.row_experts");
                EXPECT_FAILS(int4q_matmul_prepare(&product->plan, &product->args, 0, product->plan.prepare_count),
                             INT4Q_ERROR_INVALID_ARGUMENT, "int4q_matmul_prepare", "row_experts");
                const Bytes untouched(product->y.size(), GuardedBuffer::kFill);
                EXPECT_EQ(std::memcmp(untouched.data(), product->y.data(), untouched.size()), 0);
            }
        }
    }
}

TEST_P(MatmulExperts, MissingTables) {
    const Mixture mixture(Draw(4, 20, 30), 3);
    const auto product = mixture.Plan();
    int4q_matmul_args args = product->args;
    args.row_experts = nullptr;
    EXPECT_FAILS(int4q_matmul(&product->plan, &args, nullptr, nullptr), INT4Q_ERROR_NULL_POINTER, "int4q_matmul",
                 "row_experts");
    EXPECT_FAILS(int4q_matmul_prepare(&product->plan, &args, 0, 1), INT4Q_ERROR_NULL_POINTER, "int4q_matmul_prepare",
                 "row_experts");
    args = product->args;
    args.experts = nullptr;
    EXPECT_FAILS(int4q_matmul(&product->plan, &args, nullptr, nullptr), INT4Q_ERROR_NULL_POINTER, "int4q_matmul",
                 "experts");
    EXPECT_OK(int4q_matmul_prepare(&product->plan, &args, 0, product->plan.prepare_count));
    EXPECT_FAILS(int4q_matmul_tiles(&product->plan, &args, 0, 0, product->plan.tile_count), INT4Q_ERROR_NULL_POINTER,
                 "int4q_matmul_tiles", "experts");
}

// One expert of three is not what the plan describes. It has rows: those without any need not be looked at.
TEST_P(MatmulExperts, ExpertsThatDoNotFit) {
    Spec spec = Draw(6, 20, 40);
    spec.gated = true;
    Mixture mixture(spec, 3);
    mixture.Assign([](int64_t row) { return static_cast<int32_t>(row % 3); });
    const auto product = mixture.Plan();
    const auto expect = [&](const std::function<void(int4q_expert &)> &damage, int4q_status status) {
        for (int bad : {0, 2}) {
            std::vector<int4q_expert> experts(product->args.experts, product->args.experts + 3);
            damage(experts[static_cast<size_t>(bad)]);
            int4q_matmul_args args = product->args;
            args.experts = experts.data();
            const auto names = {"experts", "blob", "up_blob", "blob_bytes", "up_blob_bytes", "n", "k", "kind",
                                "group_size", "scale_type"};
            PoisonLastError();
            const int4q_status whole = int4q_matmul(&product->plan, &args, nullptr, nullptr);
            EXPECT_TRUE(FailsLike(whole, {status}, "int4q_matmul", names));
            ASSERT_OK(int4q_matmul_prepare(&product->plan, &product->args, 0, product->plan.prepare_count));
            PoisonLastError();
            EXPECT_TRUE(FailsLike(int4q_matmul_tiles(&product->plan, &args, 0, 0, product->plan.tile_count), {status},
                                  "int4q_matmul_tiles", names));
        }
    };
    Spec other = spec;
    other.m = 1;
    const auto expect_mismatch = [&](const std::function<void(Spec &)> &change) {
        Spec changed = other;
        change(changed);
        const Problem problem(changed);
        expect([&](int4q_expert &e) { e.blob = problem.blob.data(), e.blob_bytes = problem.blob.size(); },
               INT4Q_ERROR_MISMATCH);
        expect([&](int4q_expert &e) { e.up_blob = problem.blob.data(), e.up_blob_bytes = problem.blob.size(); },
               INT4Q_ERROR_MISMATCH);
    };
    expect([](int4q_expert &e) { e.blob = nullptr; }, INT4Q_ERROR_NULL_POINTER);
    expect([](int4q_expert &e) { e.up_blob = nullptr; }, INT4Q_ERROR_NULL_POINTER);
    expect([](int4q_expert &e) { e.blob_bytes--; }, INT4Q_ERROR_BUFFER_TOO_SMALL);
    expect([](int4q_expert &e) { e.up_blob_bytes = 0; }, INT4Q_ERROR_BUFFER_TOO_SMALL);
    const auto shift = [](const void *blob) { return static_cast<const unsigned char *>(blob) + 8; };
    expect([&](int4q_expert &e) { e.blob = shift(e.blob); }, INT4Q_ERROR_MISALIGNED);
    expect([&](int4q_expert &e) { e.up_blob = shift(e.up_blob); }, INT4Q_ERROR_MISALIGNED);
    expect_mismatch([](Spec &s) { s.n++; });
    expect_mismatch([](Spec &s) { s.k--; });
    expect_mismatch([](Spec &s) { s.kind = s.kind % 4 + 1; });
    expect_mismatch([](Spec &s) { s.group_size = s.group_size == 16 ? 32 : 16; });
    expect_mismatch([](Spec &s) { s.scale_type = s.scale_type % 3 + 1; });
}

INSTANTIATE_TEST_SUITE_P(Modes, MatmulExperts, ::testing::ValuesIn(kModes), ModeName);

}  // namespace
}  // namespace int4q_test
