// SPDX-License-Identifier: Apache-2.0
// Wrong arguments to plans, products and pools: section 5 of the header.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "int4q.h"
#include "support/bad_arguments.hpp"
#include "support/bad_blobs.hpp"
#include "support/small_product.hpp"

namespace int4q_test {
namespace {

// ---- Descriptions ---------------------------------------------------------------------------------------------------

BadTable<int4q_matmul_desc> BadDescs() {
    using D = int4q_matmul_desc;
    BadTable<D> table;
    AddWithin(table, BadSchemes(), [](D &d) -> int4q_scheme & { return d.scheme; });
    AddStructSizes(table, &D::struct_size, sizeof(D));
    AddEnumerators(table, "mode", &D::mode, {0, 3, -1});
    AddEnumerators(table, "x_type", &D::x_type, {0, 4, -1});
    AddEnumerators(table, "y_type", &D::y_type, {0, 4, -1});
    AddValues(table, "worker_count", &D::worker_count, {0, 1025, kMax32, UINT32_MAX});
    AddValues(table, "reserved", &D::reserved, {1, kMin32, UINT32_MAX});
    AddValues(table, "m", &D::m, {0, -1, kMin64});
    AddValues(table, "n", &D::n, {0, -1, kMin64});
    AddValues(table, "k", &D::k, {0, -1, kMin64});
    AddValues(table, "m", &D::m, {kMax64, kMax64 / 64, int64_t{1} << 60}, kOverflow);
    AddValues(table, "n", &D::n, {kMax64, kMax64 - 15, int64_t{1} << 60}, kOverflow);
    AddValues(table, "k", &D::k, {kMax64, kMax64 - 31, int64_t{1} << 60}, kOverflow);
    table.push_back({"m = k = 2^32", [](D &d) { d.m = d.k = int64_t{1} << 32; }, kOverflow, "m", "k"});
    table.push_back({"n = k = 2^32", [](D &d) { d.n = d.k = int64_t{1} << 32; }, kOverflow, "n", "k"});
    table.push_back({"m = n = k = INT64_MAX", [](D &d) { d.m = d.n = d.k = kMax64; }, kOverflow, "n", "k"});
    table.push_back({"INT8 with CODEBOOK", [](D &d) { d.mode = INT4Q_MODE_INT8, d.scheme.kind = INT4Q_KIND_CODEBOOK; },
                     INT4Q_ERROR_UNSUPPORTED, "mode", "kind"});
    return table;
}

struct PlanCall {
    int4q_matmul_desc description = SmallDesc();
    int4q_matmul_plan plans[2] = {};
    const int4q_matmul_desc *desc = &description;
    int4q_matmul_plan *plan = plans;

    int4q_status Run() { return int4q_matmul_plan_init(desc, plan); }
    std::string Outputs() const { return BytesOf(plans); }
};

TEST(BadMatmulArguments, PlanInit) {
    using C = PlanCall;
    BadTable<C> table;
    AddWithin(table, BadDescs(), [](C &c) -> int4q_matmul_desc & { return c.description; });
    AddPointer(table, "desc", &C::desc, {1, 4});
    AddPointer(table, "plan", &C::plan, {1, 4});
    ExpectRefused<C>("int4q_matmul_plan_init", [] { return std::make_unique<C>(); }, table);
}

struct DescribeCall {
    int4q_matmul_desc description = SmallDesc();
    char buffer[4096] = {};
    uint64_t sizes[2] = {5, 5};
    const int4q_matmul_desc *desc = &description;
    char *text = buffer;
    uint64_t text_bytes = sizeof buffer;
    uint64_t *needed_bytes = sizes;

    int4q_status Run() { return int4q_describe_dispatch(desc, text, text_bytes, needed_bytes); }
    std::string Outputs() const { return std::string(buffer, sizeof buffer) + BytesOf(sizes); }
};

TEST(BadMatmulArguments, DescribeDispatch) {
    using C = DescribeCall;
    BadTable<C> table;
    AddWithin(table, BadDescs(), [](C &c) -> int4q_matmul_desc & { return c.description; });
    AddPointer(table, "desc", &C::desc, {1, 4});
    AddPointer(table, "text", &C::text, {});
    ExpectRefused<C>("int4q_describe_dispatch", [] { return std::make_unique<C>(); }, table);
}

TEST(BadMatmulArguments, DescribeDispatchWithMisalignedSize) {
    BadTable<DescribeCall> table;
    for (int shift : {1, 2, 4, 7}) {
        table.push_back({"needed_bytes + " + std::to_string(shift),
                         [=](DescribeCall &c) { c.needed_bytes = Shift(c.sizes, shift); }, kMisaligned, "needed_bytes"});
    }
    ExpectRefused<DescribeCall>("int4q_describe_dispatch", [] { return std::make_unique<DescribeCall>(); }, table);
}

TEST(BadMatmulArguments, DescribeDispatchCutsTheText) {
    DescribeCall whole;
    ASSERT_OK(whole.Run());
    const uint64_t needed = whole.sizes[0];
    ASSERT_EQ(needed, std::strlen(whole.buffer) + 1);
    for (uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{2}, needed / 2, needed - 1}) {
        for (bool wants_size : {true, false}) {
            SCOPED_TRACE(bytes);
            DescribeCall call;
            std::memset(call.buffer, 0x5a, sizeof call.buffer);
            call.text_bytes = bytes;
            if (bytes == 0) call.text = nullptr;
            if (!wants_size) call.needed_bytes = nullptr;
            EXPECT_FAILS(call.Run(), kTooSmall, "int4q_describe_dispatch", "text_bytes");
            EXPECT_EQ(call.sizes[0], wants_size ? needed : 5);
            if (bytes) {
                EXPECT_EQ(std::string(call.buffer), std::string(whole.buffer, bytes - 1));
            }
            EXPECT_TRUE(std::string(call.buffer + bytes, 64) == std::string(64, 0x5a));
        }
    }
    whole.text_bytes = needed;
    EXPECT_OK(whole.Run());
}

// ---- The three calls on a plan --------------------------------------------------------------------------------------

using C = ProductCall;

class BadProductArguments : public testing::TestWithParam<Step> {
protected:
    void ExpectAllRefused(const BadTable<C> &table) {
        const Step step = GetParam();
        ExpectRefused(FunctionOf(step), [=] { return std::make_unique<C>(step); }, table);
    }
    bool TakesX() const { return GetParam() != Step::kTiles; }
    bool TakesBlobAndY() const { return GetParam() != Step::kPrepare; }
};

INSTANTIATE_TEST_SUITE_P(Steps, BadProductArguments, testing::Values(Step::kPrepare, Step::kTiles, Step::kProduct),
                         [](const auto &info) { return std::string(FunctionOf(info.param)); });

template <typename Pointer, typename Stride>
void AddOperand(BadTable<C> &table, const char *name, Pointer pointer, const char *stride_name, Stride stride,
                int64_t columns) {
    AddPointer(table, name, pointer, {1, 2, 3});
    AddValues(table, stride_name, stride, {0, 1, -1, columns - 1, -columns, kMin64});
    AddValues(table, stride_name, stride, {kMax64, int64_t{1} << 62, int64_t{1} << 61}, kOverflow);
}

TEST_P(BadProductArguments, Arguments) {
    using A = int4q_matmul_args;
    const auto args = [](C &c) -> A & { return c.args_memory; };
    BadTable<C> table;
    AddPointer(table, "plan", &C::plan, {1, 4});
    AddPointer(table, "args", &C::args, {1, 4});
    AddStructSizes(table, [=](C &c) -> uint32_t & { return args(c).struct_size; }, sizeof(A));
    AddStructSizes(table, [](C &c) -> uint32_t & { return c.plan_memory.struct_size; }, sizeof(int4q_matmul_plan));
    AddValues(table, "reserved", [=](C &c) -> uint32_t & { return args(c).reserved; }, {1, kMin32, UINT32_MAX});
    AddPointer(table, "scratch", [=](C &c) -> void *& { return args(c).scratch; }, {1, 2, 4, 8, 16, 32, 63});
    AddTooSmall(table, "scratch_bytes", [=](C &c) -> uint64_t & { return args(c).scratch_bytes; });
    if (TakesX()) {
        AddOperand(table, "x", [=](C &c) -> const void *& { return args(c).x; }, "ldx",
                   [=](C &c) -> int64_t & { return args(c).ldx; }, kK);
    }
    if (TakesBlobAndY()) {
        AddOperand(table, "y", [=](C &c) -> void *& { return args(c).y; }, "ldy",
                   [=](C &c) -> int64_t & { return args(c).ldy; }, kN);
        AddWithin(table, BadBlobs(), [](C &c) -> SmallBlob & { return c.packed; });
    }
    if (GetParam() != Step::kProduct) AddRanges(table, C(GetParam()).end, "begin", "end");
    if (GetParam() == Step::kTiles) AddValues(table, "worker", &C::worker, {kWorkers, kWorkers + 1, kMax32, UINT32_MAX});
    ExpectAllRefused(table);
}

// A plan is 8-byte words; whichever is altered, nothing runs.
TEST_P(BadProductArguments, AlteredPlans) {
    constexpr size_t kWords = sizeof(int4q_matmul_plan) / 8;
    const auto alter = [](C &c, size_t word, uint64_t mask, bool replace) {
        uint64_t value;
        std::memcpy(&value, reinterpret_cast<char *>(&c.plan_memory) + 8 * word, 8);
        const uint64_t altered = replace ? mask : value ^ mask;
        std::memcpy(reinterpret_cast<char *>(&c.plan_memory) + 8 * word, &altered, 8);
        return altered != value;
    };
    for (size_t word = 0; word < kWords; word++) {
        for (uint64_t mask : {uint64_t{0}, uint64_t{1}, uint64_t{64}, uint64_t{1} << 32, uint64_t{1} << 40, uint64_t{1} << 63,
                              uint64_t{kMax64}, UINT64_MAX}) {
            for (bool replace : {false, true}) {
                C call(GetParam());
                if (!alter(call, word, mask, replace)) continue;
                SCOPED_TRACE(testing::Message() << "word " << word << (replace ? " = " : " ^= ") << mask);
                const std::string before = call.Outputs();
                EXPECT_FAILS_ANY(call.Run(), (kCorrupt, kStructSize, kInvalid, kMismatch, kTooSmall), FunctionOf(GetParam()),
                                 "plan", "struct_size");
                EXPECT_TRUE(before == call.Outputs()) << "an output was written";
            }
        }
    }
    C zeros(GetParam());
    zeros.plan_memory = {};
    EXPECT_FAILS(zeros.Run(), kStructSize, FunctionOf(GetParam()), "struct_size");
    zeros.plan_memory.struct_size = sizeof(int4q_matmul_plan);
    EXPECT_FAILS(zeros.Run(), kCorrupt, FunctionOf(GetParam()), "plan");
}

TEST_P(BadProductArguments, BlobsOfOtherMatrices) {
    if (!TakesBlobAndY()) return;
    const auto replan = [](auto &&change) {
        return [change](C &c) {
            int4q_matmul_desc desc = SmallDesc();
            change(desc);
            ASSERT_OK(int4q_matmul_plan_init(&desc, &c.plan_memory));
            ASSERT_LE(c.plan_memory.scratch_bytes, sizeof c.scratch);
            c.args_memory.scratch_bytes = sizeof c.scratch;
        };
    };
    using D = int4q_matmul_desc;
    BadTable<C> table;
    for (int64_t n : {1, 32, 17}) table.push_back({"n", replan([n](D &d) { d.n = n; }), kMismatch, "n"});
    for (int64_t k : {1, 39, 32}) table.push_back({"k", replan([k](D &d) { d.k = k; }), kMismatch, "k"});
    for (int32_t kind : {INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK}) {
        table.push_back({"kind", replan([kind](D &d) { d.scheme.kind = kind; }), kMismatch, "kind"});
    }
    for (int32_t size : {32, 64, 128, 256, INT4Q_GROUP_PER_ROW}) {
        table.push_back({"group", replan([size](D &d) { d.scheme.group_size = size; }), kMismatch, "group_size"});
    }
    for (int32_t type : {INT4Q_TYPE_F32, INT4Q_TYPE_BF16}) {
        table.push_back({"type", replan([type](D &d) { d.scheme.scale_type = type; }), kMismatch, "scale_type"});
    }
    ExpectAllRefused(table);
}

TEST_P(BadProductArguments, HalvesMustBeAlignedToTwo) {
    C call(GetParam());
    int4q_matmul_desc desc = SmallDesc();
    desc.x_type = INT4Q_TYPE_F16, desc.y_type = INT4Q_TYPE_BF16;
    ASSERT_OK(int4q_matmul_plan_init(&desc, &call.plan_memory));
    call.args_memory.scratch_bytes = sizeof call.scratch;
    if (TakesX()) call.args_memory.x = Shift(call.x, 2);
    if (TakesBlobAndY()) call.args_memory.y = Shift(call.y, 2);
    EXPECT_OK(call.Run());
    if (TakesX()) {
        call.args_memory.x = Shift(call.x, 1);
        EXPECT_FAILS(call.Run(), kMisaligned, FunctionOf(GetParam()), "x");
        call.args_memory.x = call.x;
    }
    if (TakesBlobAndY()) {
        call.args_memory.y = Shift(call.y, 1);
        EXPECT_FAILS(call.Run(), kMisaligned, FunctionOf(GetParam()), "y");
    }
}

// ---- Hosts that break the rules of int4q_parallel_for ---------------------------------------------------------------

// Runs every index as it should, and one call more, or in place of, as told.
struct BadHost {
    int64_t index;
    uint32_t worker;
    int step;          // in which call of parallel_for: 0 prepare, 1 tiles
    bool instead;      // the proper calls are not made
    int steps_seen = 0;

    static void ParallelFor(void *self, int64_t count, uint32_t worker_count, int4q_task task, void *context) {
        BadHost &host = *static_cast<BadHost *>(self);
        EXPECT_EQ(worker_count, kWorkers);
        const bool is_bad = host.steps_seen++ == host.step;
        if (is_bad) task(context, host.index, host.worker);
        if (is_bad && host.instead) return;
        for (int64_t i = 0; i < count; i++) task(context, i, static_cast<uint32_t>(i) % worker_count);
    }
};

TEST(BadHostArguments, WorkersAndIndicesOutOfRange) {
    const C plain(Step::kProduct);
    const int64_t counts[] = {plain.plan_memory.prepare_count, plain.plan_memory.tile_count};
    for (int32_t mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8}) {
        for (int step : {0, 1}) {
            std::vector<BadHost> hosts;
            for (bool instead : {false, true}) {
                for (uint32_t worker : {kWorkers, kWorkers + 1, uint32_t{1024}, uint32_t{INT32_MAX}, UINT32_MAX}) {
                    hosts.push_back({0, worker, step, instead});
                }
                for (int64_t index : {int64_t{-1}, counts[step], counts[step] + 1, int64_t{1} << 32, kMin64, kMax64}) {
                    hosts.push_back({index, 0, step, instead});
                }
            }
            for (BadHost &host : hosts) {
                SCOPED_TRACE(testing::Message() << "mode " << mode << ", step " << step << ", index " << host.index
                                                << ", worker " << host.worker);
                C call(Step::kProduct, INT4Q_KIND_SYMMETRIC, mode);
                call.parallel_for = BadHost::ParallelFor;
                BadHost good{0, 0, -1, false};
                call.host = &good;
                ASSERT_OK(call.Run());
                call.host = &host;
                EXPECT_FAILS(call.Run(), kInvalid, "int4q_matmul", "parallel_for");
                call.host = &good;
                EXPECT_OK(call.Run()) << "a failure must not outlive its call";
            }
        }
    }
}

TEST(BadHostArguments, ArgumentsAreCheckedBeforeTheHostIsCalled) {
    C call(Step::kProduct);
    int calls = 0;
    call.host = &calls;
    call.parallel_for = [](void *host, int64_t, uint32_t, int4q_task, void *) { ++*static_cast<int *>(host); };
    call.args_memory.ldy = kN - 1;
    EXPECT_FAILS(call.Run(), kInvalid, "int4q_matmul", "ldy");
    EXPECT_EQ(calls, 0);
}

// ---- Pools ----------------------------------------------------------------------------------------------------------

struct PoolCall {
    int4q_pool *pools[2] = {};
    int4q_pool **pool = pools;
    uint32_t worker_count = 2;

    ~PoolCall() { int4q_pool_destroy(pools[0]); }
    int4q_status Run() { return int4q_pool_create(worker_count, pool); }
    std::string Outputs() const { return BytesOf(pools); }
};

TEST(BadPoolArguments, PoolCreate) {
    BadTable<PoolCall> table;
    AddPointer(table, "pool", &PoolCall::pool, {1, 2, 4, 7});
    AddValues(table, "worker_count", &PoolCall::worker_count, {0, 1025, kMax32, UINT32_MAX});
    ExpectRefused<PoolCall>("int4q_pool_create", [] { return std::make_unique<PoolCall>(); }, table);
    EXPECT_OK(int4q_pool_destroy(nullptr));
}

TEST(BadPoolArguments, NothingToDo) {
    PoolCall call;
    ASSERT_OK(call.Run());
    std::atomic<int> runs{0};
    const int4q_task count_one = [](void *context, int64_t, uint32_t) { ++*static_cast<std::atomic<int> *>(context); };
    for (void *pool : {static_cast<void *>(nullptr), static_cast<void *>(call.pools[0])}) {
        for (int64_t count : {int64_t{0}, int64_t{-1}, kMin64}) int4q_pool_parallel_for(pool, count, 2, count_one, &runs);
        int4q_pool_parallel_for(pool, 5, 2, nullptr, nullptr);
    }
    EXPECT_EQ(runs, 0);
    for (uint32_t workers : {2u, 3u, 1024u, UINT32_MAX}) int4q_pool_parallel_for(call.pools[0], 5, workers, count_one, &runs);
    EXPECT_EQ(runs, 20);
}

TEST(BadMatmulArguments, ErrorsBelongToTheThread) {
    C call(Step::kTiles);
    call.worker = kWorkers;
    EXPECT_FAILS(call.Run(), kInvalid, "int4q_matmul_tiles", "worker");
    std::thread([] { EXPECT_FAILS(int4q_pool_create(2, nullptr), kNull, "int4q_pool_create", "pool"); }).join();
    EXPECT_STREQ(LastError().function, "int4q_matmul_tiles");
}

}  // namespace
}  // namespace int4q_test
