// SPDX-License-Identifier: Apache-2.0
// Wrong arguments to plans, products and pools: section 5 of the header.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <tuple>

#include "int4q.h"
#include "support/bad_arguments.hpp"
#include "support/bad_blobs.hpp"
#include "support/guarded_buffer.hpp"
#include "support/small_product.hpp"

namespace int4q_test {
namespace {

// ---- Descriptions ---------------------------------------------------------------------------------------------------

BadTable<int4q_matmul_desc> BadDescs() {
    using D = int4q_matmul_desc;
    BadTable<D> table;
    AddWithin(table, BadSchemes(), [](D &d) -> int4q_scheme & { return d.scheme; });
    AddStructSizes(table, &D::struct_size, sizeof(D));
    AddEnumerators(table, "mode", &D::mode, {0, 5, -1});
    AddValues(table, "mode", &D::mode, {INT4Q_MODE_BINARY}, INT4Q_ERROR_UNSUPPORTED);
    AddEnumerators(table, "x_type", &D::x_type, {0, 4, -1});
    AddEnumerators(table, "y_type", &D::y_type, {0, 4, -1});
    AddValues(table, "worker_count", &D::worker_count, {0, 1025, kMax32, UINT32_MAX});
    AddValues(table, "flags", &D::flags, {4, 5, 8, 1 << 16, kMin32, UINT32_MAX});
    AddEnumerators(table, "activation", &D::activation, {5, -1, 100});
    AddEnumerators(table, "bias_type", &D::bias_type, {4, -1});
    AddEnumerators(table, "residual_type", &D::residual_type, {4, -1});
    AddValues(table, "expert_count", &D::expert_count, {65537, kMax32, kMin32, UINT32_MAX});
    for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_BF16}) {
        for (uint32_t others : {0u, uint32_t{INT4Q_MATMUL_GATED}}) {
            const auto damage = [=](D &d) { d.mode = mode, d.flags = others | INT4Q_MATMUL_STATIC_SCALES; };
            table.push_back({"scales of the caller in mode " + std::to_string(mode), damage, kInvalid, "flags"});
        }
    }
    AddValues(table, "m", &D::m, {0, -1, kMin64});
    AddValues(table, "n", &D::n, {0, -1, kMin64});
    AddValues(table, "k", &D::k, {0, -1, kMin64});
    AddValues(table, "m", &D::m, {kMax64, kMax64 / 64, int64_t{1} << 60}, kOverflow);
    AddValues(table, "n", &D::n, {kMax64, kMax64 - 15, int64_t{1} << 60}, kOverflow);
    AddValues(table, "k", &D::k, {kMax64, kMax64 - 31, int64_t{1} << 60}, kOverflow);
    table.push_back({"m = k = 2^32", [](D &d) { d.m = d.k = int64_t{1} << 32; }, kOverflow, "m", "k"});
    table.push_back({"n = k = 2^32", [](D &d) { d.n = d.k = int64_t{1} << 32; }, kOverflow, "n", "k"});
    table.push_back({"m = n = k = INT64_MAX", [](D &d) { d.m = d.n = d.k = kMax64; }, kOverflow, "n", "k"});
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

// Everything that the header allows, each with each mode and kind: nothing valid is without code.
TEST(BadMatmulArguments, NothingValidIsRefused) {
    for (int32_t mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16}) {
        for (int32_t kind : kAllKinds) {
            for (uint32_t flags = 0; flags < 4; flags++) {
                for (int32_t activation = 0; activation < 5; activation++) {
                    for (uint32_t expert_count : {0u, 1u, 65536u}) {
                        PlanCall call;
                        call.description = SmallDesc(kind, mode);
                        call.description.flags = flags;
                        call.description.activation = activation;
                        call.description.bias_type = activation % 4;
                        call.description.residual_type = (activation + 2) % 4;
                        call.description.expert_count = expert_count;
                        if (flags & INT4Q_MATMUL_STATIC_SCALES && mode != INT4Q_MODE_INT8) {
                            EXPECT_FAILS(call.Run(), kInvalid, "int4q_matmul_plan_init", "flags");
                            EXPECT_STREQ(LastError().argument, "desc.flags");
                        } else {
                            EXPECT_OK(call.Run());
                        }
                    }
                }
            }
        }
    }
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

// What a plan has no use for is more likely a mistake than meant; each step looks at what it would read.
TEST_P(BadProductArguments, FieldsThatThePlanDoesNotCallFor) {
    static const int4q_expert experts[1] = {};
    static const int32_t row_experts[kM] = {};
    BadTable<C> table;
    const auto add = [&](const char *name, const auto &give) {
        table.push_back({std::string(name) + " given", [give](C &c) { give(c.args_memory); }, kMismatch, name});
    };
    using A = int4q_matmul_args;
    if (TakesX()) {
        add("x_scales", [](A &a) { a.x_scales = static_cast<const float *>(a.x); });
        add("row_experts", [](A &a) { a.row_experts = row_experts; });
    }
    if (TakesBlobAndY()) {
        add("up_blob", [](A &a) { a.up_blob = a.scratch, a.up_blob_bytes = a.scratch_bytes; });
        add("bias", [](A &a) { a.bias = a.scratch; });
        add("up_bias", [](A &a) { a.up_bias = a.scratch; });
        add("residual", [](A &a) { a.residual = a.scratch, a.ldr = kN; });
        add("experts", [](A &a) { a.experts = experts; });
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

// ---- What an epilogue, scales of the caller and experts add ---------------------------------------------------------

// A valid call with all of it: gated, INT8 with scales of the caller, biases, residual; with experts or without.
struct FullCall {
    static constexpr int64_t kGroups = 3;
    static constexpr uint32_t kExperts = 3;

    FullCall(Step step, bool with_experts) : step(step), with_experts(with_experts) {
        int4q_matmul_desc desc = SmallDesc(INT4Q_KIND_SYMMETRIC, INT4Q_MODE_INT8);
        desc.flags = INT4Q_MATMUL_GATED | INT4Q_MATMUL_STATIC_SCALES;
        desc.activation = INT4Q_ACTIVATION_SILU;
        desc.bias_type = desc.residual_type = INT4Q_TYPE_F32;
        desc.expert_count = with_experts ? kExperts : 0;
        Plan(desc);
        std::memset(y, 0x5a, sizeof y);
        args.struct_size = sizeof args;
        if (step != Step::kTiles) GiveWhatPrepareReads();
        if (step != Step::kPrepare) GiveWhatTilesRead();
    }

    void Plan(const int4q_matmul_desc &desc) {
        EXPECT_OK(int4q_matmul_plan_init(&desc, &plan));
        scratch = GuardedBuffer(plan.scratch_bytes, Placement::kRight, INT4Q_ALIGNMENT);
        std::memset(scratch.data(), 0, scratch.size());
        args.scratch = scratch.data();
        args.scratch_bytes = scratch.size();
    }

    void GiveWhatPrepareReads() {
        args.x = x;
        args.ldx = kK;
        for (float &scale : x_scales) scale = 0.5f;
        args.x_scales = x_scales;
        if (with_experts) args.row_experts = row_experts;
    }

    void GiveWhatTilesRead() {
        args.y = y;
        args.ldy = kN;
        args.bias = bias;
        args.up_bias = up_bias;
        args.residual = residual;
        args.ldr = kN;
        if (with_experts) args.experts = experts;
    }

    int4q_status Run() {
        if (step != Step::kPrepare && !with_experts) {
            args.blob = gate.blob, args.blob_bytes = gate.blob_bytes;
            args.up_blob = up.blob, args.up_blob_bytes = up.blob_bytes;
        }
        if (step == Step::kPrepare) return int4q_matmul_prepare(&plan, &args, 0, plan.prepare_count);
        if (step == Step::kTiles) return int4q_matmul_tiles(&plan, &args, 0, 0, plan.tile_count);
        return int4q_matmul(&plan, &args, nullptr, nullptr);
    }
    std::string Outputs() const {
        return BytesOf(y) + std::string(reinterpret_cast<const char *>(scratch.data()), scratch.size());
    }

    const Step step;
    const bool with_experts;
    SmallBlob gate, up;
    int4q_matmul_plan plan{};
    int4q_matmul_args args{};
    alignas(64) float x[kM * kK] = {}, x_scales[kGroups + 1] = {}, y[kM * kN], residual[kM * kN + 1] = {};
    alignas(64) float bias[kExperts * kN + 1] = {}, up_bias[kExperts * kN + 1] = {};
    alignas(64) int4q_expert experts[kExperts + 1] = {{gate.blob, gate.blob_bytes, up.blob, up.blob_bytes},
                                                      {up.blob, up.blob_bytes, gate.blob, gate.blob_bytes},
                                                      {gate.blob, gate.blob_bytes, gate.blob, gate.blob_bytes}};
    alignas(64) int32_t row_experts[kM + 1] = {2, 0, 1};
    GuardedBuffer scratch;
};

class BadFullArguments : public testing::TestWithParam<std::tuple<Step, bool>> {
protected:
    using F = FullCall;

    Step step() const { return std::get<0>(GetParam()); }
    bool HasExperts() const { return std::get<1>(GetParam()); }
    bool Prepares() const { return step() != Step::kTiles; }
    bool RunsTiles() const { return step() != Step::kPrepare; }

    void ExpectAllRefused(const BadTable<F> &table) {
        ExpectRefused(FunctionOf(step()), [this] { return std::make_unique<F>(step(), HasExperts()); }, table);
    }
};

INSTANTIATE_TEST_SUITE_P(Steps, BadFullArguments,
                         testing::Combine(testing::Values(Step::kPrepare, Step::kTiles, Step::kProduct),
                                          testing::Bool()),
                         [](const auto &info) {
                             return std::string(FunctionOf(std::get<0>(info.param))) +
                                    (std::get<1>(info.param) ? "_experts" : "");
                         });

TEST_P(BadFullArguments, Pointers) {
    BadTable<F> table;
    if (Prepares()) AddPointer(table, "x_scales", [](F &f) -> const float *& { return f.args.x_scales; }, {1, 2, 3});
    if (Prepares() && HasExperts()) {
        AddPointer(table, "row_experts", [](F &f) -> const int32_t *& { return f.args.row_experts; }, {1, 2, 3});
    }
    if (RunsTiles()) {
        AddPointer(table, "bias", [](F &f) -> const void *& { return f.args.bias; }, {1, 2, 3});
        AddPointer(table, "residual", [](F &f) -> const void *& { return f.args.residual; }, {1, 2, 3});
        for (int shift : {1, 2, 3}) {
            table.push_back({"up_bias + " + std::to_string(shift),
                             [=](F &f) { f.args.up_bias = Shift(f.args.up_bias, shift); }, kMisaligned, "up_bias"});
        }
    }
    if (RunsTiles() && HasExperts()) {
        AddPointer(table, "experts", [](F &f) -> const int4q_expert *& { return f.args.experts; }, {1, 2, 4});
    }
    ExpectAllRefused(table);
}

TEST_P(BadFullArguments, StrideOfTheResidual) {
    if (!RunsTiles()) return;
    const auto ldr = [](F &f) -> int64_t & { return f.args.ldr; };
    BadTable<F> table;
    AddValues(table, "ldr", ldr, {0, 1, -1, kN - 1, -kN, kMin64});
    AddValues(table, "ldr", ldr, {kMax64, int64_t{1} << 62, int64_t{1} << 61}, kOverflow);
    ExpectAllRefused(table);
}

TEST_P(BadFullArguments, ScalesOfX) {
    if (!Prepares()) return;
    const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
    const float below = std::nextafter(0x1p-100f, 0.0f), above = std::nextafter(0x1p100f, infinity);
    BadTable<F> table;
    for (float scale : {0.0f, -0.0f, -1.0f, -0x1p-100f, nan, infinity, -infinity, below, 0x1p-149f, above, 0x1p127f}) {
        for (int64_t group = 0; group < F::kGroups; group++) {
            table.push_back({"x_scales[" + std::to_string(group) + "] = " + std::to_string(scale),
                             [=](F &f) { f.x_scales[group] = scale; }, kInvalid, "x_scales"});
        }
    }
    ExpectAllRefused(table);
    for (float scale : {0x1p-100f, 0x1p100f}) {
        F call(step(), HasExperts());
        for (int64_t group = 0; group < F::kGroups; group++) call.x_scales[group] = scale;
        call.x_scales[F::kGroups] = nan;  // is not one of them
        EXPECT_OK(call.Run());
    }
}

TEST_P(BadFullArguments, RowsOfExperts) {
    if (!Prepares() || !HasExperts()) return;
    BadTable<F> table;
    for (int64_t row = 0; row < kM; row++) {
        const auto expert = [=](F &f) -> int32_t & { return f.row_experts[row]; };
        AddValues(table, "row_experts", expert, {F::kExperts, F::kExperts + 1, -2, kMin32, kMax32});
    }
    ExpectAllRefused(table);
    F call(step(), HasExperts());
    call.row_experts[1] = -1;
    call.row_experts[kM] = 77;  // is not one of them
    EXPECT_OK(call.Run());
}

TEST_P(BadFullArguments, TheOtherMatrix) {
    if (!RunsTiles() || HasExperts()) return;
    BadTable<SmallBlob> blobs = BadBlobs();
    for (Bad<SmallBlob> &bad : blobs) {
        if (std::string(bad.argument) == "blob") bad.argument = "up_blob";
        if (std::string(bad.argument) == "blob_bytes") bad.argument = "up_blob_bytes";
    }
    BadTable<F> table;
    AddWithin(table, blobs, [](F &f) -> SmallBlob & { return f.up; });
    ExpectAllRefused(table);
    for (int32_t kind : {INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK}) {
        const SmallBlob other(kind);
        F call(step(), HasExperts());
        call.up.blob = other.blob, call.up.blob_bytes = other.blob_bytes;
        EXPECT_FAILS(call.Run(), kMismatch, FunctionOf(step()), "kind", "up_blob");
    }
}

// With experts their table names the matrices, and it alone.
TEST_P(BadFullArguments, MatricesBesideExperts) {
    if (!RunsTiles() || !HasExperts()) return;
    BadTable<F> table;
    table.push_back({"blob", [](F &f) { f.args.blob = f.gate.blob, f.args.blob_bytes = f.gate.blob_bytes; }, kMismatch,
                     "blob"});
    table.push_back({"up_blob", [](F &f) { f.args.up_blob = f.up.blob, f.args.up_blob_bytes = f.up.blob_bytes; },
                     kMismatch, "up_blob"});
    ExpectAllRefused(table);
}

TEST_P(BadFullArguments, TheOtherMatrixNeedsNoBias) {
    F call(step(), HasExperts());
    call.args.up_bias = nullptr;
    EXPECT_OK(call.Run());
}

// A bias of 16 bits wants no more than an even address, and a residual likewise.
TEST_P(BadFullArguments, HalvesMustBeAlignedToTwo) {
    if (!RunsTiles()) return;
    F call(step(), HasExperts());
    int4q_matmul_desc desc = SmallDesc(INT4Q_KIND_SYMMETRIC, INT4Q_MODE_INT8);
    desc.flags = INT4Q_MATMUL_GATED | INT4Q_MATMUL_STATIC_SCALES;
    desc.bias_type = INT4Q_TYPE_BF16, desc.residual_type = INT4Q_TYPE_F16;
    desc.expert_count = HasExperts() ? F::kExperts : 0;
    call.Plan(desc);
    const auto move = [&](int bytes) {
        call.args.bias = Shift(call.bias, bytes);
        call.args.up_bias = Shift(call.up_bias, bytes);
        call.args.residual = Shift(call.residual, bytes);
    };
    move(2);
    EXPECT_OK(call.Run());
    for (const char *name : {"bias", "up_bias", "residual"}) {
        move(2);
        if (std::string(name) == "bias") call.args.bias = Shift(call.bias, 1);
        if (std::string(name) == "up_bias") call.args.up_bias = Shift(call.up_bias, 1);
        if (std::string(name) == "residual") call.args.residual = Shift(call.residual, 1);
        EXPECT_FAILS(call.Run(), kMisaligned, FunctionOf(step()), name);
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
    for (int32_t mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16}) {
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
