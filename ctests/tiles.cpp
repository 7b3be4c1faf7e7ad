// SPDX-License-Identifier: Apache-2.0
// Prepare tasks and tiles are independent: each byte of the scratch is written by one task at most, each byte of y by one
// tile, and a tile writes nothing else but its worker's part of the scratch. Found out by running each alone over two
// patterns of which one is the other's complement: what differs from neither was not written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "support/isa.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

using Bytes = std::vector<unsigned char>;

constexpr uint32_t kWorkers = 3;
constexpr int64_t kNobody = -1;

// A product ready to run; `rows_of_y` says which rows it writes.
struct Subject {
    int4q_matmul_plan plan;
    int4q_matmul_args args;
    Spec spec;
    std::vector<bool> rows_of_y;
    std::string text;

    size_t RowBytes() const { return static_cast<size_t>(spec.n * TypeBytes(spec.y_type)); }
    size_t StrideBytes() const { return static_cast<size_t>(args.ldy * TypeBytes(spec.y_type)); }
    size_t YBytes() const { return static_cast<size_t>(spec.m - 1) * StrideBytes() + RowBytes(); }
};

// Memory that is filled with a pattern, or its complement, and asked what was written since.
class Watched {
public:
    Watched(void *memory, size_t bytes, Random &random) : memory_(static_cast<unsigned char *>(memory)) {
        for (Bytes &pattern : patterns_) pattern.resize(bytes);
        for (size_t i = 0; i < bytes; i++) {
            patterns_[0][i] = static_cast<unsigned char>(random.Bits() >> 20);
            patterns_[1][i] = static_cast<unsigned char>(~patterns_[0][i]);
        }
    }

    size_t size() const { return patterns_[0].size(); }
    void Fill(int which) { std::memcpy(memory_, patterns_[which].data(), size()); }
    void Take(int which) { taken_[which].assign(memory_, memory_ + size()); }
    // What is there now becomes the pattern.
    void Keep(int which) { patterns_[which].assign(memory_, memory_ + size()); }

    bool Changed(size_t i) const { return taken_[0][i] != patterns_[0][i] || taken_[1][i] != patterns_[1][i]; }
    // The same was written over both patterns.
    bool SameInBoth(size_t i) const { return taken_[0][i] == taken_[1][i]; }
    unsigned char Taken(size_t i) const { return taken_[0][i]; }

private:
    unsigned char *memory_;
    Bytes patterns_[2], taken_[2];
};

void Check(const Subject &subject, Random &random) {
    SCOPED_TRACE(subject.text);
    const int4q_matmul_plan &plan = subject.plan;
    Watched scratch(subject.args.scratch, subject.args.scratch_bytes, random);

    // Prepare tasks.
    int4q_matmul_args prepare;
    std::memset(&prepare, 0, sizeof prepare);
    prepare.struct_size = sizeof prepare;
    prepare.x = subject.args.x;
    prepare.ldx = subject.args.ldx;
    prepare.x_scales = subject.args.x_scales;
    prepare.row_experts = subject.args.row_experts;
    prepare.scratch = subject.args.scratch;
    prepare.scratch_bytes = subject.args.scratch_bytes;
    std::vector<int64_t> prepared_by(scratch.size(), kNobody);
    for (int64_t task = 0; task < plan.prepare_count; task++) {
        for (int which : {0, 1}) {
            scratch.Fill(which);
            ASSERT_OK(int4q_matmul_prepare(&plan, &prepare, task, task + 1));
            scratch.Take(which);
        }
        for (size_t i = 0; i < scratch.size(); i++) {
            if (!scratch.Changed(i)) continue;
            ASSERT_TRUE(scratch.SameInBoth(i)) << "task " << task << ": byte " << i << " depends on what the scratch held";
            ASSERT_EQ(prepared_by[i], kNobody) << "byte " << i << " of the scratch is also written by task " << task;
            prepared_by[i] = task;
        }
    }
    for (int which : {0, 1}) {
        scratch.Fill(which);
        for (int64_t task = plan.prepare_count - 1; task >= 0; task--) {
            ASSERT_OK(int4q_matmul_prepare(&plan, &prepare, task, task + 1));
        }
        scratch.Keep(which);
    }

    // Tiles, each with every worker's part of the scratch.
    int4q_matmul_args run = subject.args;
    run.x = nullptr;
    run.x_scales = nullptr;
    run.row_experts = nullptr;
    Watched y(run.y, subject.YBytes(), random);
    std::vector<int64_t> tile_of(y.size(), kNobody);
    std::vector<unsigned char> value_of(y.size());
    std::vector<int64_t> part_of(scratch.size(), kNobody);
    for (int64_t tile = 0; tile < plan.tile_count; tile++) {
        for (uint32_t worker = 0; worker < kWorkers; worker++) {
            for (int which : {0, 1}) {
                scratch.Fill(which);
                y.Fill(which);
                ASSERT_OK(int4q_matmul_tiles(&plan, &run, worker, tile, tile + 1));
                scratch.Take(which);
                y.Take(which);
            }
            for (size_t i = 0; i < y.size(); i++) {
                if (!y.Changed(i)) {
                    ASSERT_NE(tile_of[i], tile) << "byte " << i << " of y is written with some workers only";
                    continue;
                }
                ASSERT_TRUE(y.SameInBoth(i)) << "tile " << tile << ": byte " << i << " of y depends on what was there";
                if (worker == 0) {
                    ASSERT_EQ(tile_of[i], kNobody) << "byte " << i << " of y is also written by tile " << tile;
                    tile_of[i] = tile;
                    value_of[i] = y.Taken(i);
                }
                ASSERT_EQ(tile_of[i], tile) << "byte " << i << " of y is also written by this tile, with worker " << worker;
                ASSERT_EQ(value_of[i], y.Taken(i)) << "tile " << tile << ": byte " << i << " of y depends on the worker";
            }
            for (size_t i = 0; i < scratch.size(); i++) {
                if (!scratch.Changed(i)) continue;
                ASSERT_EQ(prepared_by[i], kNobody) << "tile " << tile << " changes byte " << i << ", which is prepared";
                ASSERT_TRUE(part_of[i] == kNobody || part_of[i] == worker)
                    << "byte " << i << " of the scratch is written by workers " << part_of[i] << " and " << worker;
                part_of[i] = worker;
            }
        }
    }
    for (size_t i = 0; i < y.size(); i++) {
        const size_t row = i / subject.StrideBytes(), column = i % subject.StrideBytes();
        const bool wanted = column < subject.RowBytes() && subject.rows_of_y[row];
        ASSERT_EQ(tile_of[i] != kNobody, wanted) << "byte " << column << " of row " << row << " of y, tile " << tile_of[i];
    }
}

class Tiles : public ::testing::TestWithParam<int4q_compute_mode> {
protected:
    Spec AnySpec() {
        static const int64_t sizes[][3] = {{1, 40, 300}, {37, 531, 203}, {70, 97, 300},
                                           {3, 700, 64}, {130, 20, 33},  {16, 64, 1024}};
        const auto &size = sizes[random_.Integer(0, 5)];
        Spec spec = RandomSpec(random_, size[0], size[1], size[2], GetParam());
        spec.y_gap = random_.Integer(0, 2);
        return spec;
    }

    static Subject SubjectOf(const Product &product, const Spec &spec) {
        Subject subject;
        subject.plan = product.plan;
        subject.args = product.args;
        subject.spec = spec;
        subject.rows_of_y.assign(static_cast<size_t>(spec.m), true);
        subject.text = std::string(int4q_isa_name(product.plan.isa)) + ", " + spec.Text() + ", " +
                       std::to_string(product.plan.prepare_count) + " tasks, " + std::to_string(product.plan.tile_count) +
                       " tiles";
        return subject;
    }

    void CheckProductOf(const Spec &spec) {
        const Problem problem(spec);
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
            const Product product(problem, kWorkers);
            tasks_ = std::max(tasks_, product.plan.prepare_count);
            tiles_ = std::max(tiles_, product.plan.tile_count);
            Check(SubjectOf(product, spec), random_);
            if (HasFatalFailure()) return;
        }
    }

    Random random_{400u + static_cast<uint64_t>(GetParam())};
    int64_t tasks_ = 0, tiles_ = 0;
};

TEST_P(Tiles, WriteEachByteOnce) {
    for (int32_t kind : kKinds) {
        for (int i = 0; i < Samples(3); i++) {
            Spec spec = AnySpec();
            spec.kind = kind;
            CheckProductOf(spec);
            ASSERT_FALSE(HasFailure());
        }
    }
    Spec large = RandomSpec(random_, 130, 531, 203, GetParam());
    CheckProductOf(large);
    EXPECT_GT(tasks_, 1);
    EXPECT_GT(tiles_, 1);
}

TEST_P(Tiles, WriteEachByteOnceWithEpilogues) {
    for (int i = 0; i < Samples(6); i++) {
        Spec spec = AnySpec();
        spec.activation = kActivations[random_.Integer(0, 4)];
        spec.bias_type = kTypesOrNone[random_.Integer(0, 3)];
        spec.residual_type = kTypesOrNone[random_.Integer(0, 3)];
        spec.residual_gap = random_.Integer(0, 2);
        spec.gated = i % 2;
        spec.up_bias = random_.Chance(0.5);
        spec.static_scales = GetParam() == INT4Q_MODE_INT8 && random_.Chance(0.5);
        CheckProductOf(spec);
        ASSERT_FALSE(HasFailure());
    }
}

TEST_P(Tiles, WriteEachByteOnceWithExperts) {
    constexpr size_t kExperts = 5;
    for (int i = 0; i < Samples(4); i++) {
        const Spec spec = AnySpec();
        std::vector<std::unique_ptr<Problem>> problems;
        std::vector<int4q_expert> experts(kExperts);
        for (size_t e = 0; e < kExperts; e++) {
            Spec own = spec;
            own.seed = random_.Bits();
            problems.push_back(std::make_unique<Problem>(own));
            std::memset(&experts[e], 0, sizeof experts[e]);
            experts[e].blob = problems[e]->blob.data();
            experts[e].blob_bytes = problems[e]->blob.size();
        }
        std::vector<int32_t> row_experts;
        for (int64_t row = 0; row < spec.m; row++) {
            row_experts.push_back(static_cast<int32_t>(random_.Integer(-1, kExperts - 2)));  // the last has no row
        }
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
            int4q_matmul_desc desc = Product::Describe(*problems[0], spec, kWorkers);
            desc.expert_count = kExperts;
            int4q_matmul_plan plan;
            std::memset(&plan, 0, sizeof plan);
            plan.struct_size = sizeof plan;
            ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
            Product product(*problems[0], plan);
            product.args.blob = nullptr;
            product.args.blob_bytes = 0;
            product.args.experts = experts.data();
            product.args.row_experts = row_experts.data();
            Subject subject = SubjectOf(product, spec);
            for (size_t row = 0; row < row_experts.size(); row++) subject.rows_of_y[row] = row_experts[row] >= 0;
            subject.text += ", experts";
            Check(subject, random_);
            ASSERT_FALSE(HasFailure());
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Modes, Tiles, ::testing::ValuesIn(kModes), ModeName);

}  // namespace
}  // namespace int4q_test
