// SPDX-License-Identifier: Apache-2.0
// A product has one result, to the bit: whatever the instruction set (in BF16 mode, those without instructions for
// bfloat16), the number and kind of threads, the order of the tiles, the batch that a row is in, the strides, the
// scratch's contents, and however often it is repeated.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "support/exact_product.hpp"
#include "support/isa.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

using Bytes = std::vector<unsigned char>;

// ---- Instruction sets: one test for each, so that a report shows which ones this machine could not run. ----

class MatmulIsa : public ::testing::TestWithParam<int4q_isa> {
protected:
    void SetUp() override {
        if (!IsUsable(GetParam())) {
            GTEST_SKIP() << "this machine has no " << int4q_isa_name(GetParam()) << "; its best is "
                         << int4q_isa_name(DetectedIsa()) << ". Nothing was tested.";
        }
    }

    static Bytes MultiplyWith(int4q_isa isa, const Problem &problem) {
        const IsaLimit limit(isa);
        Product product(problem);
        EXPECT_EQ(product.plan.isa, isa);
        return product.Multiply();
    }

    // The definition, and the portable kernels' word for it. Where neither says what the bits are: near binary64, if
    // every value is finite.
    void Check(const Problem &problem, bool finite = true) {
        const Bytes y = MultiplyWith(GetParam(), problem);
        if (!IsDefinedToTheBit(problem.spec.mode, GetParam())) {
            if (finite) {
                EXPECT_TRUE(NearFloat64(problem, y, GetParam()));
            }
            return;
        }
        EXPECT_TRUE(SameY(problem, ExactProduct(problem), y)) << int4q_isa_name(GetParam());
        EXPECT_TRUE(SameY(problem, MultiplyWith(INT4Q_ISA_PORTABLE, problem), y)) << int4q_isa_name(GetParam());
    }

    template <typename Visit>
    static void ForEachModeAndKind(Visit visit) {
        for (int4q_compute_mode mode : kModes) {
            for (int32_t kind : kKinds) visit(mode, kind);
        }
    }

    Random random_{9000u + static_cast<uint64_t>(GetParam())};
};

TEST_P(MatmulIsa, SameBitsForEveryGroupSizeAndType) {
    ForEachModeAndKind([&](int4q_compute_mode mode, int32_t kind) {
        for (int32_t group_size : kGroupSizes) {
            for (int4q_type type : kTypes) {
                for (int i = 0; i < Samples(3); i++) {
                    const int64_t m = random_.Integer(1, 12), n = random_.Integer(1, 70), k = random_.Integer(1, 600);
                    Spec spec = RandomSpec(random_, m, n, k, mode);
                    spec.kind = kind;
                    spec.group_size = group_size;
                    spec.scale_type = type;
                    Check(Problem(spec));
                }
            }
        }
    });
}

TEST_P(MatmulIsa, SameBitsForNanInfinityAndDenormals) {
    ForEachModeAndKind([&](int4q_compute_mode mode, int32_t kind) {
        for (int i = 0; i < Samples(20); i++) {
            const int64_t m = random_.Integer(1, 9), n = random_.Integer(1, 40), k = random_.Integer(1, 200);
            Spec spec = RandomSpec(random_, m, n, k, mode);
            spec.kind = kind;
            Problem problem(spec);
            const int exponent = static_cast<int>(random_.Integer(-149, -90));
            problem.SetX([&](int64_t, int64_t) { return std::ldexp(random_.Normal(), exponent); });
            Check(problem);
            problem.SetX(random_.Integer(0, m - 1), random_.Integer(0, k - 1), std::numeric_limits<float>::infinity());
            problem.SetX(random_.Integer(0, m - 1), random_.Integer(0, k - 1), std::numeric_limits<float>::quiet_NaN());
            Check(problem, false);
        }
    });
}

TEST_P(MatmulIsa, SameBitsForRowsLongerThanOnePackedGroup) {
    ForEachModeAndKind([&](int4q_compute_mode mode, int32_t kind) {
        Spec spec = RandomSpec(random_, 2, 3, 65536 + 40, mode);
        spec.kind = kind;
        spec.group_size = INT4Q_GROUP_PER_ROW;
        Check(Problem(spec));
    });
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, MatmulIsa, ::testing::ValuesIn(kIsas),
                         [](const auto &info) { return std::string(int4q_isa_name(info.param)); });

// ---- Threads, order, batches, strides ----

class MatmulEquality : public ::testing::TestWithParam<int4q_compute_mode> {
protected:
    // Large enough for several tiles however they are cut, odd in every size.
    Spec Large(int32_t kind) {
        Spec spec = RandomSpec(random_, 37, 531, 203, GetParam());
        spec.kind = kind;
        return spec;
    }

    Random random_{500u + static_cast<uint64_t>(GetParam())};
};

TEST_P(MatmulEquality, WorkerCountsWithThePool) {
    for (int32_t kind : kKinds) {
        const Problem problem(Large(kind));
        const Bytes want = WantedProduct(problem);
        for (uint32_t workers = 1; workers <= 5; workers++) {
            for (uint32_t threads : {workers, 1u, 3u, 6u}) {  // pools of the plan's size, smaller and larger
                int4q_pool *pool = nullptr;
                ASSERT_OK(int4q_pool_create(threads, &pool));
                Product product(problem, workers);
                EXPECT_GT(product.plan.tile_count, 1);
                EXPECT_EQ(product.plan.worker_count, workers);
                EXPECT_TRUE(SameY(problem, want, product.Multiply(int4q_pool_parallel_for, pool)))
                    << workers << " workers, a pool of " << threads;
                ASSERT_OK(int4q_pool_destroy(pool));
            }
            Product product(problem, workers);
            EXPECT_TRUE(SameY(problem, want, product.Multiply(int4q_pool_parallel_for, nullptr))) << "no pool";
        }
    }
}

TEST_P(MatmulEquality, OwnThreads) {
    for (int32_t kind : kKinds) {
        const Problem problem(Large(kind));
        const Bytes want = WantedProduct(problem);
        for (uint32_t workers = 1; workers <= 5; workers++) {
            OwnThreads host;
            host.seed = random_.Bits();
            Product product(problem, workers);
            EXPECT_TRUE(SameY(problem, want, product.Multiply(OwnThreads::ParallelFor, &host))) << workers;
            EXPECT_GE(host.calls, 1);
            EXPECT_GT(host.done.load(), 0);
        }
    }
}

// Prepare tasks and tiles one by one, in random order, each tile with any worker's part of the scratch.
TEST_P(MatmulEquality, TilesOneByOneInRandomOrder) {
    for (int32_t kind : kKinds) {
        for (int i = 0; i < Samples(4); i++) {
            const Problem problem(Large(kind));
            Product product(problem, 5);
            ASSERT_GT(product.plan.tile_count, 1);
            RunInRandomOrder(product, random_);
            const Bytes want = WantedProduct(problem);
            EXPECT_TRUE(SameY(problem, want, product.Y()));

            // Once more from the same prepared scratch, in ranges of random length.
            int4q_matmul_args run = product.args;
            run.x = nullptr;
            product.ForgetY();
            for (int64_t begin = 0; begin < product.plan.tile_count;) {
                const int64_t end = random_.Integer(begin, product.plan.tile_count);  // empty ranges too
                ASSERT_OK(int4q_matmul_tiles(&product.plan, &run, 4, begin, end));
                begin = end;
            }
            EXPECT_TRUE(SameY(problem, want, product.Y()));
        }
    }
}

TEST_P(MatmulEquality, EachRowOfABatchAlone) {
    for (int32_t kind : kKinds) {
        for (int i = 0; i < Samples(3); i++) {
            const int64_t m = random_.Integer(9, 40), n = random_.Integer(1, 70), k = random_.Integer(1, 300);
            Spec spec = RandomSpec(random_, m, n, k, GetParam());
            spec.kind = kind;
            const Problem problem(spec);
            const Bytes batch = Product(problem).Multiply();
            EXPECT_TRUE(SameY(problem, WantedProduct(problem), batch));
            const auto part = [&](int64_t first, int64_t rows) {
                const int64_t bytes = spec.n * TypeBytes(spec.y_type);
                return Bytes(batch.begin() + first * bytes, batch.begin() + (first + rows) * bytes);
            };
            for (int64_t row = 0; row < m; row++) {
                EXPECT_TRUE(SameY(problem, part(row, 1), Product(problem, 1, row, 1).Multiply())) << "row " << row;
            }
            for (int64_t rows = 2; rows < m; rows++) {
                const int64_t first = random_.Integer(0, m - rows);
                EXPECT_TRUE(SameY(problem, part(first, rows), Product(problem, 1, first, rows).Multiply()))
                    << rows << " rows from " << first;
            }
        }
    }
}

// Product::Y() checks the bytes between y's rows; between x's rows there are NaNs.
TEST_P(MatmulEquality, LargerLeadingDimensions) {
    for (int32_t kind : kKinds) {
        Spec spec = Large(kind);
        const Bytes dense = Product(Problem(spec)).Multiply();
        for (int64_t x_gap : {0, 1, 7, 64}) {
            for (int64_t y_gap : {0, 1, 15, 33}) {
                spec.x_gap = x_gap;
                spec.y_gap = y_gap;
                for (Placement placement : {Placement::kLeft, Placement::kRight}) {
                    spec.placement = placement;
                    const Problem problem(spec);  // the same numbers: they come from the seed
                    EXPECT_TRUE(SameY(problem, dense, Product(problem, 2).Multiply()));
                }
            }
        }
    }
}

TEST_P(MatmulEquality, RepeatedRunsWhateverTheScratchHeld) {
    for (int32_t kind : kKinds) {
        const Problem problem(Large(kind));
        const Bytes want = WantedProduct(problem);
        Product product(problem, 2);
        for (int fill : {0x00, 0xff, 0x7f, 0x80, -1, -1}) {  // -1: what the run before left
            if (fill >= 0) std::memset(product.scratch.data(), fill, product.scratch.size());
            product.ForgetY();
            EXPECT_TRUE(SameY(problem, want, product.Multiply())) << "scratch " << fill;
        }
        for (size_t i = 0; i < product.scratch.size(); i++) {
            product.scratch.data()[i] = static_cast<unsigned char>(random_.Bits());
        }
        product.ForgetY();
        EXPECT_TRUE(SameY(problem, want, product.Multiply())) << "random scratch";
    }
}

// Two threads, one copy of the plan, one blob; each its own x, scratch and y.
TEST_P(MatmulEquality, OnePlanForTwoThreadsAtOnce) {
    for (int32_t kind : kKinds) {
        const Spec spec = Large(kind);
        Problem first(spec), second(spec);
        second.SetX([&](int64_t, int64_t) { return random_.Normal(); });
        const Bytes want[] = {WantedProduct(first), WantedProduct(second)};
        ASSERT_FALSE(SameY(first, want[0], want[1]));
        const int4q_matmul_plan plan = Product(first, 2).plan;
        std::atomic<int> ready{0};
        std::vector<Bytes> got[2];
        const auto work = [&](const Problem &problem, int which) {
            Product product(problem, plan);
            product.args.blob = first.blob.data();
            ready++;
            while (ready < 2) std::this_thread::yield();
            for (int i = 0; i < 8; i++) {
                product.ForgetY();
                got[which].push_back(product.Multiply());
            }
        };
        std::thread one(work, std::cref(first), 0), two(work, std::cref(second), 1);
        one.join();
        two.join();
        for (int which : {0, 1}) {
            ASSERT_EQ(got[which].size(), 8u);
            for (const Bytes &y : got[which]) EXPECT_TRUE(SameY(first, want[which], y)) << "thread " << which;
        }
    }
}

// As a model is loaded: the blob in a file, mapped for reading only.
TEST_P(MatmulEquality, BlobInAMappedFileForReadingOnly) {
    for (int32_t kind : kKinds) {
        const Problem problem(Large(kind));
        std::FILE *file = std::tmpfile();
        ASSERT_NE(file, nullptr);
        ASSERT_EQ(std::fwrite(problem.blob.data(), 1, problem.blob.size(), file), problem.blob.size());
        ASSERT_EQ(std::fflush(file), 0);
        void *mapped = mmap(nullptr, problem.blob.size(), PROT_READ, MAP_SHARED, fileno(file), 0);
        ASSERT_NE(mapped, MAP_FAILED);
        Product product(problem, 3);
        product.args.blob = mapped;
        EXPECT_TRUE(SameY(problem, WantedProduct(problem), product.Multiply()));
        EXPECT_EQ(std::memcmp(mapped, problem.blob.data(), problem.blob.size()), 0);
        munmap(mapped, problem.blob.size());
        std::fclose(file);
    }
}

INSTANTIATE_TEST_SUITE_P(Modes, MatmulEquality, ::testing::ValuesIn(kModes), ModeName);

}  // namespace
}  // namespace int4q_test
