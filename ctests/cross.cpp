// SPDX-License-Identifier: Apache-2.0
// Cross matrices, GPTAQ and shifted weights: section 12 of the header. Memory, threads and refusals; what is computed is tested
// through the Python binding (bindings/python/tests/test_gptaq.py), against the published algorithm in binary64.
#include <gtest/gtest.h>

#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/bad_arguments.hpp"
#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;

Source Normals(int64_t rows, int64_t k, uint64_t seed, int4q_type type = INT4Q_TYPE_F32) {
    Random random(seed);
    Source x(type, rows, k, k + 3);
    for (int64_t row = 0; row < rows; row++) {
        const float common = random.Normal();
        for (int64_t column = 0; column < k; column++) x.Set(row, column, random.Normal() + common);
    }
    return x;
}

GuardedBuffer Guarded(uint64_t bytes) { return GuardedBuffer(static_cast<size_t>(bytes), Placement::kRight, 64); }

// A Gram matrix of y and a cross matrix of x and y between guard pages, each of exactly the size that was asked for.
struct Pair {
    Pair(const Source &x, const Source &y, uint32_t workers = 1, int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
        const int64_t k = x.k;
        uint64_t bytes = 0;
        EXPECT_OK(int4q_gram_size(k, &bytes));
        gram = Guarded(bytes);
        EXPECT_OK(int4q_gram_init(k, gram.data(), bytes));
        EXPECT_OK(int4q_cross_size(k, &bytes));
        EXPECT_EQ(bytes, 128u + 8u * static_cast<uint64_t>((k + 15) / 16 * 16 * ((k + 15) / 16 * 16)));
        cross = Guarded(bytes);
        EXPECT_OK(int4q_cross_init(k, cross.data(), bytes));
        EXPECT_OK(int4q_gram_push_scratch(k, &bytes));
        GuardedBuffer scratch = Guarded(bytes);
        EXPECT_OK(int4q_gram_push(gram.data(), gram.size(), y.buffer.data(), y.type, y.n, k, y.stride, scratch.data(),
                                  scratch.size(), workers, parallel_for, host));
        EXPECT_OK(int4q_cross_push_scratch(k, &bytes));
        scratch = Guarded(bytes);
        EXPECT_OK(int4q_cross_push(cross.data(), cross.size(), x.buffer.data(), x.type, x.stride, y.buffer.data(), y.type, y.stride,
                                   x.n, k, scratch.data(), scratch.size(), workers, parallel_for, host));
    }
    std::string Bytes() const { return std::string(reinterpret_cast<const char *>(cross.data()), cross.size()); }

    GuardedBuffer gram, cross;
};

int4q_gptq_options Options(const Pair *pair, uint32_t workers = 1) {
    int4q_gptq_options options{};
    options.struct_size = sizeof options;
    options.worker_count = workers;
    options.damping = 0.01;
    options.damping_step = 0.01;
    options.attempts = 3;
    if (pair) options.cross = pair->cross.data(), options.cross_bytes = pair->cross.size(), options.alpha = 0.5;
    return options;
}

int4q_gptq_report Report() {
    int4q_gptq_report report{};
    report.struct_size = sizeof report;
    return report;
}

int4q_status Quantize(const TensorMemory &tensor, const Source &source, const Pair &pair, const int4q_gptq_options &options,
                      int4q_gptq_report *report, int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_gptq_cross_scratch(&tensor->scheme, tensor->k, options.worker_count, &bytes));
    GuardedBuffer scratch = Guarded(bytes);
    return int4q_gptq_quantize(tensor.get(), source.buffer.data(), source.type, source.stride, pair.gram.data(), pair.gram.size(),
                               &options, scratch.data(), scratch.size(), parallel_for, host, report);
}

int4q_status ShiftInto(Source &target, const Source &source, const Pair &pair, const int4q_gptq_options &options,
                       int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_cross_shift_scratch(source.k, options.worker_count, &bytes));
    GuardedBuffer scratch = Guarded(bytes);
    double damping = 0;
    const int4q_status status =
        int4q_cross_shift(source.buffer.data(), source.type, source.stride, pair.gram.data(), pair.gram.size(), &options,
                          scratch.data(), scratch.size(), parallel_for, host, target.buffer.data(), target.type, target.stride,
                          source.n, source.k, &damping);
    if (status == INT4Q_OK) {
        EXPECT_EQ(damping, 0.01);
    }
    return status;
}

std::vector<double> Losses(const TensorMemory &tensor, const Source &source, const Pair &pair) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_cross_loss_scratch(tensor->k, &bytes));
    GuardedBuffer scratch = Guarded(bytes);
    std::vector<double> losses(static_cast<size_t>(tensor->n));
    EXPECT_OK(int4q_cross_loss(tensor.get(), source.buffer.data(), source.type, source.stride, pair.gram.data(), pair.gram.size(),
                               pair.cross.data(), pair.cross.size(), scratch.data(), scratch.size(), losses.data(), 0, tensor->n));
    return losses;
}

TEST(Cross, TouchesOnlyWhatIsDeclared) {
    for (int64_t k : {1, 2, 15, 16, 17, 33, 100, 257, 300}) {
        for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
            for (int64_t rows : {1, 130}) {
                Pair pair(Normals(rows, k, 1, type), Normals(rows, k, 2));
                EXPECT_OK(int4q_cross_validate(pair.cross.data(), pair.cross.size()));
            }
        }
    }
}

TEST(Cross, GptaqAndShiftTouchOnlyWhatIsDeclared) {
    for (int64_t k : {1, 16, 17, 100, 130, 300}) {
        const Source x = Normals(2 * k + 3, k, 3), y = Normals(2 * k + 3, k, 4);
        const Pair pair(x, y);
        const int64_t n = 1 + k % 37;
        const Source source = Normals(n, k, 11);
        for (int32_t group_size : kAllGroupSizes) {
            for (const int4q_scheme &scheme : AllSchemes(group_size, INT4Q_TYPE_F16)) {
                TensorMemory tensor(scheme, n, k), nearest(scheme, n, k);
                int4q_gptq_report report = Report();
                ASSERT_OK(Quantize(tensor, source, pair, Options(&pair), &report)) << Name(scheme);
                ASSERT_OK(source.Quantize(nearest));
                EXPECT_LE(report.loss, report.nearest_loss);
                if (report.nearest_rows == n) {
                    EXPECT_EQ(tensor.Codes(), nearest.Codes());
                }
                const std::vector<double> losses = Losses(tensor, source, pair), before = Losses(nearest, source, pair);
                for (size_t i = 0; i < losses.size(); i++) EXPECT_LE(losses[i], before[i] + 1e-5 * (1 + std::fabs(before[i])));
            }
        }
        for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
            Source target(type, n, k, k + 5);
            ASSERT_OK(ShiftInto(target, source, pair, Options(&pair)));
        }
    }
}

// Tasks in descending order, each on another worker.
void Backwards(void *host, int64_t count, uint32_t workers, int4q_task task, void *context) {
    static_cast<std::vector<int64_t> *>(host)->push_back(count);
    for (int64_t i = count; i-- > 0;) task(context, i, static_cast<uint32_t>(i) % workers);
}

TEST(Cross, AnyOrderAndAnyWorkersGiveTheSameBits) {
    const int64_t n = 200, k = 330;
    const int4q_scheme scheme = MakeScheme(INT4Q_KIND_ASYMMETRIC, 64, INT4Q_TYPE_F16);
    const Source x = Normals(700, k, 1), y = Normals(700, k, 2), source = Normals(n, k, 5);
    std::vector<int64_t> counts;
    const Pair alone(x, y), spread(x, y, 5, Backwards, &counts);
    EXPECT_FALSE(counts.empty());
    EXPECT_EQ(alone.Bytes(), spread.Bytes());
    TensorMemory first(scheme, n, k), second(scheme, n, k);
    int4q_gptq_report report = Report(), other = Report();
    ASSERT_OK(Quantize(first, source, alone, Options(&alone), &report));
    ASSERT_OK(Quantize(second, source, spread, Options(&spread, 5), &other, Backwards, &counts));
    EXPECT_EQ(first.Codes(), second.Codes());
    EXPECT_EQ(first.Scales(), second.Scales());
    EXPECT_EQ(BytesOf(report), BytesOf(other));
    EXPECT_LT(report.loss, report.nearest_loss);
    Source one(INT4Q_TYPE_F32, n, k, k), two(INT4Q_TYPE_F32, n, k, k);
    ASSERT_OK(ShiftInto(one, source, alone, Options(&alone)));
    ASSERT_OK(ShiftInto(two, source, spread, Options(&spread, 5), Backwards, &counts));
    EXPECT_EQ(std::memcmp(one.buffer.data(), two.buffer.data(), one.buffer.size()), 0);
}

TEST(Cross, AShiftMayBeInPlace) {
    const int64_t n = 150, k = 70;
    const Pair pair(Normals(300, k, 1), Normals(300, k, 2));
    Source source = Normals(n, k, 5), target(INT4Q_TYPE_F32, n, k, k);
    ASSERT_OK(ShiftInto(target, source, pair, Options(&pair)));
    bool differs = false;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < k; j++) differs = differs || std::fabs(target(i, j) - source(i, j)) > 0.01f;
    }
    EXPECT_TRUE(differs);
    ASSERT_OK(ShiftInto(source, source, pair, Options(&pair)));
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < k; j++) ASSERT_EQ(target(i, j), source(i, j));
    }
}

TEST(Cross, NoShareOfAShiftLeavesWeightsAsTheyAre) {
    const Pair pair(Normals(300, 70, 1), Normals(300, 70, 2));
    const Source source = Normals(90, 70, 5);
    Source target(INT4Q_TYPE_F32, 90, 70, 70);
    int4q_gptq_options options = Options(&pair);
    options.alpha = 0;
    ASSERT_OK(ShiftInto(target, source, pair, options));
    for (int64_t i = 0; i < 90; i++) {
        for (int64_t j = 0; j < 70; j++) ASSERT_EQ(target(i, j), source(i, j));
    }
}

int32_t Rounding(void *modes, int64_t, int64_t) {
    static_cast<std::vector<int> *>(modes)->push_back(std::fegetround());
    return 0;
}
int32_t Ending(void *, int64_t done, int64_t) { return done > 1; }

TEST(Cross, ProgressIsTheHostsOwn) {
    const int64_t n = 300, k = 150;
    const Pair pair(Normals(300, k, 1), Normals(300, k, 2));
    const Source source = Normals(n, k, 5);
    Source expected(INT4Q_TYPE_F32, n, k, k), target(INT4Q_TYPE_F32, n, k, k);
    ASSERT_OK(ShiftInto(expected, source, pair, Options(&pair)));
    std::vector<int> modes;
    int4q_gptq_options options = Options(&pair);
    options.progress = Rounding, options.progress_context = &modes;
    std::fesetround(FE_UPWARD);
    const int4q_status status = ShiftInto(target, source, pair, options);
    const int mode = std::fegetround();
    std::fesetround(FE_TONEAREST);
    ASSERT_OK(status);
    EXPECT_EQ(mode, FE_UPWARD);
    EXPECT_GT(modes.size(), 3u);
    for (int seen : modes) EXPECT_EQ(seen, FE_UPWARD);
    EXPECT_EQ(std::memcmp(expected.buffer.data(), target.buffer.data(), expected.buffer.size()), 0);
    options.progress = Ending;
    EXPECT_TRUE(FailsLike(ShiftInto(target, source, pair, options), {INT4Q_ERROR_CANCELLED}, "int4q_cross_shift",
                          {"progress"}));
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

struct Call {
    static constexpr int64_t kRows = 33, kColumns = 40;
    alignas(64) float x_memory[kRows * 41 + 1], y_memory[kRows * 41 + 1], target_memory[kRows * 41 + 1];
    alignas(64) unsigned char gram_memory[16384], cross_memory[32768], other_memory[32768];
    std::vector<unsigned char> scratch_memory = std::vector<unsigned char>(1 << 20);
    alignas(64) double square[kColumns * 41];
    int4q_gram_info info_memory{};
    double loss_memory[kRows]{}, damping_memory = 7;
    SmallTensor small{INT4Q_KIND_SYMMETRIC};
    int4q_gptq_options option_memory = Options(nullptr);
    int4q_gptq_report report_memory = Report();
    uint64_t size = 0;

    int64_t k = kColumns, n = kRows, rows = kRows, columns = kColumns;
    int64_t ldx = 41, ldy = 41, ldt = 41, stride = 41, begin = 0, end = kColumns;
    uint32_t workers = 1;
    int4q_type x_type = INT4Q_TYPE_F32, y_type = INT4Q_TYPE_F32, target_type = INT4Q_TYPE_F32;
    void *gram = gram_memory, *cross = cross_memory, *other = other_memory, *scratch = nullptr, *x = x_memory, *y = y_memory,
         *target = target_memory;
    uint64_t gram_bytes = 0, bytes = 0, other_bytes = 0, scratch_bytes = 0, *bytes_out = &size;
    double *matrix = square, *losses = loss_memory, *damping = &damping_memory;
    int4q_gram_info *info = &info_memory;
    int4q_tensor *tensor = &small.tensor;
    int4q_gptq_options *options = &option_memory;
    int4q_gptq_report *report = &report_memory;

    Call() {
        Random random(3);
        for (float &value : x_memory) value = random.Normal();
        for (float &value : y_memory) value = random.Normal();
        std::memset(target_memory, 0x5a, sizeof target_memory);
        for (double &value : square) value = 0.25;
        info_memory.struct_size = sizeof info_memory;
        EXPECT_OK(int4q_cross_size(k, &bytes));
        EXPECT_LE(bytes, sizeof cross_memory);
        EXPECT_OK(int4q_gram_size(k, &gram_bytes));
        other_bytes = bytes;
        std::memset(cross_memory, 0xa5, sizeof cross_memory);
        EXPECT_OK(int4q_gram_init(k, gram_memory, gram_bytes));
        EXPECT_OK(int4q_cross_init(k, cross_memory, bytes));
        EXPECT_OK(int4q_cross_init(k, other_memory, bytes));
        scratch = scratch_memory.data() + (64 - reinterpret_cast<uintptr_t>(scratch_memory.data()) % 64);
        scratch_bytes = scratch_memory.size() - 64;
    }
    Call(const Call &) = delete;
    void UseCross() {
        option_memory = Options(nullptr);
        option_memory.cross = cross, option_memory.cross_bytes = bytes, option_memory.alpha = 1;
    }
    std::string Outputs() const {
        return std::string(reinterpret_cast<const char *>(cross_memory), sizeof cross_memory) + BytesOf(square) +
               BytesOf(info_memory) + BytesOf(loss_memory) + small.Bytes() + BytesOf(report_memory) + BytesOf(size) +
               BytesOf(target_memory) + BytesOf(damping_memory);
    }
};

template <typename C>
void AddCross(BadTable<C> &table, const char *name = "cross", const char *bytes_name = "cross_bytes") {
    AddPointer(table, name, &C::cross, {1, 8, 32});
    AddTooSmall(table, bytes_name, &C::bytes);
    for (size_t byte : {0, 7, 16, 24, 100, 127}) {
        table.push_back({"a damaged header at " + std::to_string(byte), [=](C &c) { c.cross_memory[byte] ^= 0x40; }, kCorrupt,
                         name});
    }
    table.push_back({"another version", [](C &c) { c.cross_memory[8] = 2; }, INT4Q_ERROR_BLOB_VERSION, name});
    table.push_back({"a Gram matrix", [](C &c) { std::memcpy(c.cross_memory, c.gram_memory, 128); }, kCorrupt, name});
}

template <typename C>
void AddScratch(BadTable<C> &table) {
    AddPointer(table, "scratch", &C::scratch, {1, 8, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
}

template <typename C>
void ExpectRefused(const char *function, const BadTable<C> &table) {
    ExpectRefused<C>(function, [] { return std::make_unique<C>(); }, table);
}

struct SizeCall : Call {
    int4q_status Run() { return int4q_cross_size(k, bytes_out); }
};
struct PushScratchCall : Call {
    int4q_status Run() { return int4q_cross_push_scratch(k, bytes_out); }
};
struct LossScratchCall : Call {
    int4q_status Run() { return int4q_cross_loss_scratch(k, bytes_out); }
};
struct ShiftScratchCall : Call {
    int4q_status Run() { return int4q_cross_shift_scratch(k, workers, bytes_out); }
};
struct GptqScratchCall : Call {
    int4q_status Run() { return int4q_gptq_cross_scratch(&small.tensor.scheme, k, workers, bytes_out); }
};

template <typename C>
void ExpectSizesRefused(const char *function) {
    BadTable<C> table;
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {kMax64, int64_t{1} << 62}, kOverflow);
    AddPointer(table, "bytes", &C::bytes_out, {4});
    ExpectRefused(function, table);
}

TEST(BadCrossArguments, Sizes) {
    ExpectSizesRefused<SizeCall>("int4q_cross_size");
    ExpectSizesRefused<PushScratchCall>("int4q_cross_push_scratch");
    ExpectSizesRefused<LossScratchCall>("int4q_cross_loss_scratch");
    ExpectSizesRefused<ShiftScratchCall>("int4q_cross_shift_scratch");
    ExpectSizesRefused<GptqScratchCall>("int4q_gptq_cross_scratch");
    BadTable<ShiftScratchCall> shift;
    AddValues(shift, "worker_count", &ShiftScratchCall::workers, {0, 1025, -1});
    ExpectRefused("int4q_cross_shift_scratch", shift);
    BadTable<GptqScratchCall> table;
    AddValues(table, "worker_count", &GptqScratchCall::workers, {0, 1025, -1});
    AddWithin(table, BadSchemes(), [](GptqScratchCall &c) -> int4q_scheme & { return c.small.tensor.scheme; });
    ExpectRefused("int4q_gptq_cross_scratch", table);
}

struct InitCall : Call {
    int4q_status Run() { return int4q_cross_init(k, cross, bytes); }
};
TEST(BadCrossArguments, Init) {
    BadTable<InitCall> table;
    AddValues(table, "k", &InitCall::k, {0, -1, kMin64});
    AddValues(table, "k", &InitCall::k, {kMax64}, kOverflow);
    AddPointer(table, "cross", &InitCall::cross, {1, 8, 32});
    AddValues(table, "cross_bytes", &InitCall::bytes, {0, 1, 127}, kTooSmall);
    table.push_back({"a byte short", [](InitCall &c) { c.bytes -= 1; }, kTooSmall, "cross_bytes"});
    ExpectRefused("int4q_cross_init", table);
}

struct PushCall : Call {
    PushCall() { EXPECT_OK(int4q_cross_push_scratch(k, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_cross_push(cross, bytes, x, x_type, ldx, y, y_type, ldy, rows, columns, scratch, scratch_bytes, workers,
                                nullptr, nullptr);
    }
};
TEST(BadCrossArguments, Push) {
    using C = PushCall;
    BadTable<C> table;
    AddCross(table);
    AddScratch(table);
    AddMatrix(table, "x", &C::x, &C::x_type, "x_type", &C::ldx, "ldx", Call::kColumns);
    AddMatrix(table, "y", &C::y, &C::y_type, "y_type", &C::ldy, "ldy", Call::kColumns);
    AddValues(table, "rows", &C::rows, {0, -1, kMin64});
    AddValues(table, "columns", &C::columns, {0, -1, kMin64});
    AddValues(table, "columns", &C::columns, {1, 39}, kMismatch);
    AddValues(table, "worker_count", &C::workers, {0, 1025, -1});
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), 0x1p60f}) {
        table.push_back({"x of " + std::to_string(bad), [=](C &c) { c.x_memory[3 * 41 + 39] = bad; }, kNotFinite, "x"});
        table.push_back({"y of " + std::to_string(bad), [=](C &c) { c.y_memory[3 * 41 + 39] = bad; }, kNotFinite, "y"});
    }
    table.push_back({"all rows that there can be", [](C &c) { c.cross_memory[38] = 0x20; }, kOverflow, "rows"});
    table.push_back({"rows below zero", [](C &c) { c.cross_memory[39] = 0x80; }, kOverflow, "rows"});
    ExpectRefused("int4q_cross_push", table);
}

struct SetCall : Call {
    int4q_status Run() { return int4q_cross_set(cross, bytes, matrix, stride, rows); }
};
TEST(BadCrossArguments, Set) {
    using C = SetCall;
    BadTable<C> table;
    AddCross(table);
    AddPointer(table, "matrix", &C::matrix, {4});
    AddValues(table, "stride", &C::stride, {0, 39, -1, kMin64});
    AddValues(table, "stride", &C::stride, {kMax64, int64_t{1} << 60}, kOverflow);
    AddValues(table, "rows", &C::rows, {0, -1, kMin64});
    table.push_back({"an element that is not finite", [](C &c) { c.square[39 * 41 + 1] = std::nan(""); }, kNotFinite, "matrix"});
    ExpectRefused("int4q_cross_set", table);
}

struct MergeCall : Call {
    int4q_status Run() { return int4q_cross_merge(cross, bytes, other, other_bytes); }
};
TEST(BadCrossArguments, Merge) {
    using C = MergeCall;
    BadTable<C> table;
    AddCross(table, "into", "into_bytes");
    AddPointer(table, "from", &C::other, {1, 32});
    AddTooSmall(table, "from_bytes", &C::other_bytes);
    const double nan = std::nan(""), one = 1;
    table.push_back({"a sum that is not finite", [=](C &c) { std::memcpy(c.other_memory + 128 + 16, &nan, 8); }, kCorrupt, "from"});
    table.push_back({"a sum in padding", [=](C &c) { std::memcpy(c.other_memory + c.bytes - 8, &one, 8); }, kCorrupt, "from"});
    table.push_back({"a sum of no rows", [=](C &c) { std::memcpy(c.other_memory + 128, &one, 8); }, kCorrupt, "from"});
    table.push_back({"rows below zero", [](C &c) { c.other_memory[39] = 0x80; }, kCorrupt, "from"});
    table.push_back({"another k", [](C &c) { EXPECT_OK(int4q_cross_init(39, c.other_memory, sizeof c.other_memory)); },
                     kMismatch, "from"});
    table.push_back({"sums that overflow together",
                     [](C &c) {
                         c.square[1] = -1e308;
                         EXPECT_OK(int4q_cross_set(c.cross_memory, c.bytes, c.square, 41, 7));
                         EXPECT_OK(int4q_cross_set(c.other_memory, c.bytes, c.square, 41, 7));
                     },
                     kNotFinite, "from"});
    ExpectRefused("int4q_cross_merge", table);
}

struct ValidateCall : Call {
    int4q_status Run() { return int4q_cross_validate(cross, bytes); }
};
struct InfoCall : Call {
    int4q_status Run() { return int4q_cross_get_info(cross, bytes, info); }
};
struct MatrixCall : Call {
    int4q_status Run() { return int4q_cross_matrix(cross, bytes, matrix, stride, begin, end); }
};
TEST(BadCrossArguments, Reading) {
    BadTable<ValidateCall> validate;
    AddCross(validate);
    ExpectRefused("int4q_cross_validate", validate);

    BadTable<InfoCall> info;
    AddCross(info);
    AddPointer(info, "info", &InfoCall::info, {4});
    AddValues(info, "struct_size", [](InfoCall &c) -> uint32_t & { return c.info_memory.struct_size; }, {0, 39, 48}, kStructSize);
    AddValues(info, "reserved", [](InfoCall &c) -> uint32_t & { return c.info_memory.reserved; }, {1});
    ExpectRefused("int4q_cross_get_info", info);

    BadTable<MatrixCall> matrix;
    AddCross(matrix);
    AddPointer(matrix, "matrix", &MatrixCall::matrix, {4});
    AddValues(matrix, "stride", &MatrixCall::stride, {0, 39, -1, kMin64});
    AddValues(matrix, "stride", &MatrixCall::stride, {kMax64}, kOverflow);
    AddRanges(matrix, Call::kColumns, "begin", "end");
    ExpectRefused("int4q_cross_matrix", matrix);
}

struct LossCall : Call {
    LossCall() {
        end = kRows;
        EXPECT_OK(int4q_cross_loss_scratch(k, &scratch_bytes));
    }
    int4q_status Run() {
        return int4q_cross_loss(tensor, x, x_type, ldx, gram, gram_bytes, cross, bytes, scratch, scratch_bytes, losses, begin, end);
    }
};
TEST(BadCrossArguments, Loss) {
    using C = LossCall;
    BadTable<C> table;
    AddCross(table);
    AddScratch(table);
    AddMatrix(table, "source", &C::x, &C::x_type, "source_type", &C::ldx, "source_stride", Call::kColumns);
    AddPointer(table, "tensor", &C::tensor, {4});
    AddWithin(table, BadTensors(INT4Q_KIND_SYMMETRIC), [](C &c) -> SmallTensor & { return c.small; });
    AddPointer(table, "gram", &C::gram, {1, 32});
    AddTooSmall(table, "gram_bytes", &C::gram_bytes);
    AddPointer(table, "losses", &C::losses, {4});
    AddRanges(table, Call::kRows, "row_begin", "row_end");
    table.push_back({"a cross matrix of another k",
                     [](C &c) {
                         EXPECT_OK(int4q_cross_init(39, c.cross_memory, sizeof c.cross_memory));
                         EXPECT_OK(int4q_cross_size(39, &c.bytes));
                     },
                     kMismatch, "cross"});
    table.push_back({"rows that the Gram matrix has not seen",
                     [](C &c) {
                         const uint64_t rows = 7;
                         std::memcpy(c.cross_memory + 32, &rows, 8);
                     },
                     kMismatch, "cross"});
    ExpectRefused("int4q_cross_loss", table);
}

struct GptqCall : Call {
    GptqCall() {
        UseCross();
        EXPECT_OK(int4q_gptq_cross_scratch(&small.tensor.scheme, k, 1, &needed));
        scratch_bytes = needed;
    }
    int4q_status Run() {
        return int4q_gptq_quantize(tensor, x, x_type, ldx, gram, gram_bytes, options, scratch, scratch_bytes, nullptr, nullptr,
                                   report);
    }
    void SetRows(uint64_t rows) { std::memcpy(cross_memory + 32, &rows, 8); }
    uint64_t needed = 0;
};
template <typename C>
BadTable<int4q_gptq_options> BadCrossOptions() {
    using O = int4q_gptq_options;
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "worker_count", &O::worker_count, {0, 1025, UINT32_MAX});
    AddValues(fields, "attempts", &O::attempts, {0, -1, 1001, kMin64, kMax64});
    for (double bad : {-0.01, 1.01, std::nan(""), std::numeric_limits<double>::infinity()}) {
        fields.push_back({"alpha " + std::to_string(bad), [=](O &o) { o.alpha = bad; }, kInvalid, "alpha"});
    }
    for (double bad : {-0.01, 1e7, std::nan("")}) {
        fields.push_back({"damping " + std::to_string(bad), [=](O &o) { o.damping = bad; }, kInvalid, "damping"});
    }
    for (int shift : {1, 8, 32}) {
        fields.push_back({"cross + " + std::to_string(shift), [=](O &o) { o.cross = Shift(o.cross, shift); }, kMisaligned,
                          "cross"});
    }
    AddTooSmall(fields, "cross_bytes", &O::cross_bytes);
    return fields;
}
TEST(BadCrossArguments, Gptq) {
    using C = GptqCall;
    using O = int4q_gptq_options;
    BadTable<C> table;
    BadTable<O> fields = BadCrossOptions<C>();
    fields.push_back({"a share of no cross matrix", [](O &o) { o.cross = nullptr, o.cross_bytes = 0; }, kInvalid, "alpha"});
    fields.push_back({"bytes of no cross matrix", [](O &o) { o.cross = nullptr, o.alpha = 0; }, kInvalid, "cross_bytes"});
    AddWithin(table, fields, [](C &c) -> O & { return c.option_memory; });
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
    table.push_back({"scratch without a cross matrix",
                     [](C &c) { EXPECT_OK(int4q_gptq_scratch(&c.small.tensor.scheme, c.k, 1, &c.scratch_bytes)); }, kTooSmall,
                     "scratch_bytes"});
    table.push_back({"rows that the Gram matrix has not seen", [](C &c) { c.SetRows(7); }, kMismatch, "cross"});
    table.push_back({"a cross matrix of another k",
                     [](C &c) { EXPECT_OK(int4q_cross_init(39, c.cross_memory, sizeof c.cross_memory)); }, kMismatch, "cross"});
    const double nan = std::nan("");
    table.push_back({"a sum that is not finite", [=](C &c) { std::memcpy(c.cross_memory + 128 + 16, &nan, 8); }, kCorrupt,
                     "cross"});
    table.push_back({"a damaged header", [](C &c) { c.cross_memory[3] ^= 1; }, kCorrupt, "cross"});
    ExpectRefused("int4q_gptq_quantize", table);
}

struct ShiftCall : Call {
    ShiftCall() {
        UseCross();
        EXPECT_OK(int4q_cross_shift_scratch(k, 1, &scratch_bytes));
    }
    int4q_status Run() {
        return int4q_cross_shift(x, x_type, ldx, gram, gram_bytes, options, scratch, scratch_bytes, nullptr, nullptr, target,
                                 target_type, ldt, n, k, damping);
    }
};
TEST(BadCrossArguments, Shift) {
    using C = ShiftCall;
    using O = int4q_gptq_options;
    BadTable<C> table;
    BadTable<O> fields = BadCrossOptions<C>();
    AddValues(fields, "flags", &O::flags, {1, 2, 4, 8});
    AddValues(fields, "order", &O::order, {1, 2, -1});
    fields.push_back({"no cross matrix", [](O &o) { o.cross = nullptr, o.cross_bytes = 0, o.alpha = 0; }, kNull, "cross"});
    AddWithin(table, fields, [](C &c) -> O & { return c.option_memory; });
    AddScratch(table);
    AddMatrix(table, "source", &C::x, &C::x_type, "source_type", &C::ldx, "source_stride", Call::kColumns);
    AddMatrix(table, "destination", &C::target, &C::target_type, "destination_type", &C::ldt, "destination_stride", Call::kColumns);
    AddPointer(table, "gram", &C::gram, {1, 32});
    AddTooSmall(table, "gram_bytes", &C::gram_bytes);
    AddPointer(table, "options", &C::options, {4});
    table.push_back({"damping off by 4", [](C &c) { c.damping = Shift(c.damping, 4); }, kMisaligned, "damping"});
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    table.push_back({"weights of another k",
                     [](C &c) {
                         c.k = 39;
                         EXPECT_OK(int4q_cross_shift_scratch(c.k, 1, &c.scratch_bytes));
                     },
                     kMismatch, "gram"});
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[30 * 41 + 3] = std::nanf(""); }, kNotFinite, "source"});
    ExpectRefused("int4q_cross_shift", table);
}

}  // namespace
}  // namespace int4q_test
