// SPDX-License-Identifier: Apache-2.0
// Reconstruction: section 12 of the header. Memory, threads and refusals; what is computed is tested through the Python binding
// (bindings/python/tests/test_reconstruction.py), against the published algorithm in binary64.
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
#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;

Source Activations(int64_t rows, int64_t k, int4q_type type = INT4Q_TYPE_F32, uint64_t seed = 7) {
    Random random(seed);
    Source x(type, rows, k, k + 3);
    for (int64_t row = 0; row < rows; row++) {
        const float common = random.Normal();
        for (int64_t column = 0; column < k; column++) {
            x.Set(row, column, random.Normal() + common * static_cast<float>(column % 5) / 4);
        }
    }
    return x;
}

// A Gram matrix and its scratch between guard pages, each of exactly the size that was asked for.
struct TestGram {
    explicit TestGram(int64_t k) : k(k) {
        uint64_t bytes = 0, scratch_bytes = 0;
        EXPECT_OK(int4q_gram_size(k, &bytes));
        EXPECT_OK(int4q_gram_push_scratch(k, &scratch_bytes));
        memory = GuardedBuffer(static_cast<size_t>(bytes), Placement::kRight, 64);
        scratch = GuardedBuffer(static_cast<size_t>(scratch_bytes), Placement::kRight, 64);
        EXPECT_OK(int4q_gram_init(k, memory.data(), bytes));
    }
    int4q_status Push(const Source &x, uint32_t workers = 1, int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
        return int4q_gram_push(memory.data(), memory.size(), x.buffer.data(), x.type, x.n, x.k, x.stride, scratch.data(),
                               scratch.size(), workers, parallel_for, host);
    }
    std::string Bytes() const { return std::string(reinterpret_cast<const char *>(memory.data()), memory.size()); }

    int64_t k;
    GuardedBuffer memory, scratch;
};

int4q_gptq_options Options(uint32_t workers = 1) {
    int4q_gptq_options options{};
    options.struct_size = sizeof options;
    options.worker_count = workers;
    options.damping = 0.01;
    options.damping_step = 0.01;
    options.attempts = 3;
    return options;
}

int4q_gptq_report Report() {
    int4q_gptq_report report{};
    report.struct_size = sizeof report;
    return report;
}

int4q_status Quantize(const TensorMemory &tensor, const Source &source, const TestGram &gram, const int4q_gptq_options &options,
                      int4q_gptq_report *report, int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_gptq_scratch(&tensor->scheme, tensor->k, options.worker_count, &bytes));
    GuardedBuffer scratch(static_cast<size_t>(bytes), Placement::kRight, 64);
    return int4q_gptq_quantize(tensor.get(), source.buffer.data(), source.type, source.stride, gram.memory.data(),
                               gram.memory.size(), &options, scratch.data(), scratch.size(), parallel_for, host, report);
}

TEST(Gram, TouchesOnlyWhatIsDeclared) {
    for (int64_t k : {1, 2, 15, 16, 17, 33, 64, 100, 257, 300}) {
        for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
            for (int64_t rows : {1, 3, 130}) {
                TestGram gram(k);
                ASSERT_OK(gram.Push(Activations(rows, k, type)));
                EXPECT_OK(int4q_gram_validate(gram.memory.data(), gram.memory.size()));
            }
        }
    }
}

TEST(Gptq, TouchesOnlyWhatIsDeclared) {
    for (int64_t k : {1, 2, 16, 17, 100, 130, 300}) {
        TestGram gram(k);
        ASSERT_OK(gram.Push(Activations(2 * k + 3, k)));
        for (int32_t group_size : kAllGroupSizes) {
            for (const int4q_scheme &scheme : AllSchemes(group_size, INT4Q_TYPE_F16)) {
                const int64_t n = 1 + k % 37;
                const Source source = Activations(n, k, INT4Q_TYPE_F32, 11);
                TensorMemory tensor(scheme, n, k), nearest(scheme, n, k);
                int4q_gptq_report report = Report();
                ASSERT_OK(Quantize(tensor, source, gram, Options(), &report)) << Name(scheme);
                ASSERT_OK(source.Quantize(nearest));
                EXPECT_LE(report.loss, report.nearest_loss);
                if (report.nearest_rows == n) {
                    EXPECT_EQ(tensor.Codes(), nearest.Codes());
                }
            }
        }
    }
}

// Tasks in descending order, each on another worker.
void Backwards(void *host, int64_t count, uint32_t workers, int4q_task task, void *context) {
    static_cast<std::vector<int64_t> *>(host)->push_back(count);
    for (int64_t i = count; i-- > 0;) task(context, i, static_cast<uint32_t>(i) % workers);
}

TEST(Gptq, AnyOrderAndAnyWorkersGiveTheSameBits) {
    const int64_t n = 200, k = 330;
    const int4q_scheme scheme = MakeScheme(INT4Q_KIND_ASYMMETRIC, 64, INT4Q_TYPE_F16);
    const Source x = Activations(700, k), source = Activations(n, k, INT4Q_TYPE_F32, 5);
    TestGram alone(k), spread(k);
    std::vector<int64_t> counts;
    ASSERT_OK(alone.Push(x));
    ASSERT_OK(spread.Push(x, 5, Backwards, &counts));
    EXPECT_FALSE(counts.empty());
    EXPECT_EQ(alone.Bytes(), spread.Bytes());
    TensorMemory first(scheme, n, k), second(scheme, n, k);
    int4q_gptq_report report = Report(), other = Report();
    ASSERT_OK(Quantize(first, source, alone, Options(), &report));
    ASSERT_OK(Quantize(second, source, spread, Options(5), &other, Backwards, &counts));
    EXPECT_EQ(first.Codes(), second.Codes());
    EXPECT_EQ(first.Scales(), second.Scales());
    EXPECT_EQ(first.ZeroPoints(), second.ZeroPoints());
    EXPECT_EQ(BytesOf(report), BytesOf(other));
    EXPECT_GT(report.loss, 0);
    EXPECT_LT(report.loss, report.nearest_loss);
}

int32_t Rounding(void *modes, int64_t, int64_t) {
    static_cast<std::vector<int> *>(modes)->push_back(std::fegetround());
    return 0;
}

// Runs tasks as they come, and remembers the rounding mode that it is called in.
void Listening(void *modes, int64_t count, uint32_t, int4q_task task, void *context) {
    Rounding(modes, 0, 0);
    for (int64_t i = 0; i < count; i++) task(context, i, 0);
}

TEST(Gptq, TheHostsRoundingIsTheHostsOwn) {
    const int64_t n = 70, k = 150;
    const int4q_scheme scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16);
    const Source x = Activations(300, k), source = Activations(n, k, INT4Q_TYPE_F32, 5);
    TestGram expected_gram(k), gram(k);
    TensorMemory expected(scheme, n, k), tensor(scheme, n, k);
    int4q_gptq_report expected_report = Report(), report = Report();
    ASSERT_OK(expected_gram.Push(x));
    ASSERT_OK(Quantize(expected, source, expected_gram, Options(), &expected_report));
    std::vector<int> modes;
    int4q_gptq_options options = Options();
    options.progress = Rounding, options.progress_context = &modes;
    std::fesetround(FE_UPWARD);
    const int4q_status pushed = gram.Push(x, 1, Listening, &modes);
    const int4q_status quantized = Quantize(tensor, source, gram, options, &report, Listening, &modes);
    const int mode = std::fegetround();
    std::fesetround(FE_TONEAREST);
    ASSERT_OK(pushed);
    ASSERT_OK(quantized);
    EXPECT_EQ(mode, FE_UPWARD);
    EXPECT_GT(modes.size(), 10u);
    for (int seen : modes) EXPECT_EQ(seen, FE_UPWARD);
    EXPECT_EQ(gram.Bytes(), expected_gram.Bytes());
    EXPECT_EQ(tensor.Codes(), expected.Codes());
    EXPECT_EQ(BytesOf(report), BytesOf(expected_report));
}

// A host that names workers and indices that there are not.
void Wrongly(void *host, int64_t count, uint32_t workers, int4q_task task, void *context) {
    if (static_cast<bool *>(host)[0]) {
        task(context, 0, workers);
    } else {
        task(context, count, 0);
        task(context, -1, 0);
    }
}

TEST(Gptq, AHostThatMisusesTasksIsTold) {
    const int64_t k = 40;
    const Source x = Activations(60, k);
    for (bool by_worker : {false, true}) {
        TestGram gram(k);
        EXPECT_TRUE(FailsLike(gram.Push(x, 2, Wrongly, &by_worker), {kInvalid}, "int4q_gram_push", {"parallel_for"}));
        ASSERT_OK(gram.Push(x));
        const int4q_scheme scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16);
        TensorMemory tensor(scheme, 60, k);
        int4q_gptq_report report = Report();
        const int4q_status status = Quantize(tensor, x, gram, Options(2), &report, Wrongly, &by_worker);
        EXPECT_TRUE(FailsLike(status, {kInvalid}, "int4q_gptq_quantize", {"parallel_for"}));
    }
}

TEST(Gptq, AGramMatrixThatIsNotOneIsRefused) {
    const int64_t k = 40;
    const Source x = Activations(60, k);
    const int4q_scheme scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16);
    TensorMemory tensor(scheme, 60, k);
    int4q_gptq_report report = Report();
    TestGram gram(k);
    ASSERT_OK(gram.Push(x));
    const std::string good = gram.Bytes();
    // The last sum of all stands off the diagonal in padding's square; the one before the last column's is a diagonal element.
    for (double bad : {std::nan(""), -1.0, std::numeric_limits<double>::infinity()}) {
        std::memcpy(gram.memory.data(), good.data(), good.size());
        const size_t square = good.size() - 16 * 48 * 8 + (39 * 16 + 7) * 8;
        std::memcpy(gram.memory.data() + square, &bad, 8);
        EXPECT_TRUE(FailsLike(Quantize(tensor, x, gram, Options(), &report), {kCorrupt}, "int4q_gptq_quantize", {"gram"})) << bad;
    }
    // Off the diagonal: no damping helps.
    const double nan = std::nan("");
    std::memcpy(gram.memory.data(), good.data(), good.size());
    std::memcpy(gram.memory.data() + good.size() - 16 * 48 * 8 + 3 * 8, &nan, 8);
    EXPECT_TRUE(FailsLike(Quantize(tensor, x, gram, Options(), &report), {kCorrupt}, "int4q_gptq_quantize", {"gram"}));
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

struct Call {
    static constexpr int64_t kRows = 33, kColumns = 40;
    alignas(64) float x_memory[kRows * 41 + 1];
    alignas(64) unsigned char gram_memory[16384], other_memory[16384];
    std::vector<unsigned char> scratch_memory = std::vector<unsigned char>(1 << 20);
    alignas(64) double square[kColumns * 41];
    int4q_gram_info info_memory{};
    int4q_channel channel_memory[kColumns]{};
    double loss_memory[kRows]{};
    SmallTensor small{INT4Q_KIND_SYMMETRIC};
    int4q_gptq_options option_memory = Options();
    int4q_gptq_report report_memory = Report();
    uint64_t size = 0;

    int64_t k = kColumns, rows = kRows, columns = kColumns, ldx = 41, stride = 41, begin = 0, end = kColumns;
    uint32_t workers = 1;
    int4q_type type = INT4Q_TYPE_F32;
    void *gram = gram_memory, *other = other_memory, *scratch = nullptr, *x = x_memory;
    uint64_t bytes = 0, other_bytes = 0, scratch_bytes = 0, *bytes_out = &size;
    double *matrix = square, *losses = loss_memory;
    int4q_gram_info *info = &info_memory;
    int4q_channel *channels = channel_memory;
    int4q_tensor *tensor = &small.tensor;
    int4q_gptq_options *options = &option_memory;
    int4q_gptq_report *report = &report_memory;

    Call() {
        Random random(3);
        for (float &value : x_memory) value = random.Normal();
        for (double &value : square) value = 0;
        for (int64_t i = 0; i < kColumns; i++) square[i * 41 + i] = 1;
        info_memory.struct_size = sizeof info_memory;
        EXPECT_OK(int4q_gram_size(k, &bytes));
        EXPECT_LE(bytes, sizeof gram_memory);
        other_bytes = bytes;
        std::memset(gram_memory, 0xa5, sizeof gram_memory);
        EXPECT_OK(int4q_gram_init(k, gram_memory, bytes));
        EXPECT_OK(int4q_gram_init(k, other_memory, bytes));
        scratch = scratch_memory.data() + (64 - reinterpret_cast<uintptr_t>(scratch_memory.data()) % 64);
        scratch_bytes = scratch_memory.size() - 64;
    }
    Call(const Call &) = delete;
    std::string Outputs() const {
        return std::string(reinterpret_cast<const char *>(gram_memory), sizeof gram_memory) + BytesOf(square) +
               BytesOf(info_memory) + BytesOf(channel_memory) + BytesOf(loss_memory) + small.Bytes() +
               BytesOf(report_memory) + BytesOf(size);
    }
};

template <typename C>
void AddGram(BadTable<C> &table, const char *name = "gram", const char *bytes_name = "gram_bytes") {
    AddPointer(table, name, &C::gram, {1, 8, 32});
    AddTooSmall(table, bytes_name, &C::bytes);
    for (size_t byte : {0, 7, 16, 24, 100, 127}) {
        table.push_back({"a damaged header at " + std::to_string(byte), [=](C &c) { c.gram_memory[byte] ^= 0x40; }, kCorrupt,
                         name});
    }
    table.push_back({"another version", [](C &c) { c.gram_memory[8] = 2; }, INT4Q_ERROR_BLOB_VERSION, name});
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
    int4q_status Run() { return int4q_gram_size(k, bytes_out); }
};
struct PushScratchCall : Call {
    int4q_status Run() { return int4q_gram_push_scratch(k, bytes_out); }
};
struct LossScratchCall : Call {
    int4q_status Run() { return int4q_gram_loss_scratch(k, bytes_out); }
};
struct GptqScratchCall : Call {
    int4q_status Run() { return int4q_gptq_scratch(&small.tensor.scheme, k, workers, bytes_out); }
};

template <typename C>
void ExpectSizesRefused(const char *function) {
    BadTable<C> table;
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {kMax64, int64_t{1} << 62}, kOverflow);
    AddPointer(table, "bytes", &C::bytes_out, {4});
    ExpectRefused(function, table);
}

TEST(BadReconstructionArguments, Sizes) {
    ExpectSizesRefused<SizeCall>("int4q_gram_size");
    ExpectSizesRefused<PushScratchCall>("int4q_gram_push_scratch");
    ExpectSizesRefused<LossScratchCall>("int4q_gram_loss_scratch");
    ExpectSizesRefused<GptqScratchCall>("int4q_gptq_scratch");
    BadTable<GptqScratchCall> table;
    AddValues(table, "worker_count", &GptqScratchCall::workers, {0, 1025, -1});
    AddWithin(table, BadSchemes(), [](GptqScratchCall &c) -> int4q_scheme & { return c.small.tensor.scheme; });
    ExpectRefused("int4q_gptq_scratch", table);
}

struct InitCall : Call {
    int4q_status Run() { return int4q_gram_init(k, gram, bytes); }
};
TEST(BadReconstructionArguments, Init) {
    BadTable<InitCall> table;
    AddValues(table, "k", &InitCall::k, {0, -1, kMin64});
    AddValues(table, "k", &InitCall::k, {kMax64}, kOverflow);
    AddPointer(table, "gram", &InitCall::gram, {1, 8, 32});
    AddValues(table, "gram_bytes", &InitCall::bytes, {0, 1, 127}, kTooSmall);
    table.push_back({"a byte short", [](InitCall &c) { c.bytes -= 1; }, kTooSmall, "gram_bytes"});
    ExpectRefused("int4q_gram_init", table);
}

struct PushCall : Call {
    PushCall() { EXPECT_OK(int4q_gram_push_scratch(k, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_gram_push(gram, bytes, x, type, rows, columns, ldx, scratch, scratch_bytes, workers, nullptr, nullptr);
    }
};
TEST(BadReconstructionArguments, Push) {
    using C = PushCall;
    BadTable<C> table;
    AddGram(table);
    AddScratch(table);
    AddMatrix(table, "x", &C::x, &C::type, "x_type", &C::ldx, "ldx", Call::kColumns);
    AddValues(table, "rows", &C::rows, {0, -1, kMin64});
    AddValues(table, "columns", &C::columns, {0, -1, kMin64});
    AddValues(table, "columns", &C::columns, {1, 39}, kMismatch);
    AddValues(table, "worker_count", &C::workers, {0, 1025, -1});
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), 0x1p60f}) {
        table.push_back({"x of " + std::to_string(bad), [=](C &c) { c.x_memory[3 * 41 + 39] = bad; }, kNotFinite, "x"});
    }
    ExpectRefused("int4q_gram_push", table);
}

struct SetCall : Call {
    int4q_status Run() { return int4q_gram_set(gram, bytes, matrix, stride, rows); }
};
TEST(BadReconstructionArguments, Set) {
    using C = SetCall;
    BadTable<C> table;
    AddGram(table);
    AddPointer(table, "matrix", &C::matrix, {4});
    AddValues(table, "stride", &C::stride, {0, 39, -1, kMin64});
    AddValues(table, "stride", &C::stride, {kMax64, int64_t{1} << 60}, kOverflow);
    AddValues(table, "rows", &C::rows, {0, -1, kMin64});
    for (double bad : {std::nan(""), -1.0}) {
        table.push_back({"a diagonal of " + std::to_string(bad), [=](C &c) { c.square[5 * 42] = bad; }, kNotFinite, "matrix"});
    }
    ExpectRefused("int4q_gram_set", table);
}

struct MergeCall : Call {
    int4q_status Run() { return int4q_gram_merge(gram, bytes, other, other_bytes); }
};
TEST(BadReconstructionArguments, Merge) {
    using C = MergeCall;
    BadTable<C> table;
    AddGram(table, "into", "into_bytes");
    AddPointer(table, "from", &C::other, {1, 32});
    AddTooSmall(table, "from_bytes", &C::other_bytes);
    const double nan = std::nan("");
    table.push_back({"a sum that is not finite", [=](C &c) { std::memcpy(c.other_memory + c.bytes - 8, &nan, 8); }, kCorrupt,
                     "from"});
    table.push_back({"rows below zero", [](C &c) { c.other_memory[39] = 0x80; }, kCorrupt, "from"});
    table.push_back({"another k", [](C &c) { EXPECT_OK(int4q_gram_init(39, c.other_memory, sizeof c.other_memory)); },
                     kMismatch, "from"});
    // The last panel has 48 rows of 16 columns; 8 of either are padding.
    const auto set = [](C &c, size_t from_end, double value) {
        EXPECT_OK(int4q_gram_set(c.other_memory, c.bytes, c.square, 41, 7));
        std::memcpy(c.other_memory + c.bytes - from_end, &value, 8);
    };
    table.push_back({"a sum in padding's columns", [=](C &c) { set(c, 48 * 16 * 8 - 15 * 8, 1); }, kCorrupt, "from"});
    table.push_back({"a sum in padding's rows", [=](C &c) { set(c, 8 * 16 * 8, 1); }, kCorrupt, "from"});
    table.push_back({"a sum of no rows",
                     [](C &c) {
                         const double one = 1;
                         std::memcpy(c.other_memory + c.bytes - 48 * 16 * 8, &one, 8);
                     },
                     kCorrupt, "from"});
    table.push_back({"sums that overflow together",
                     [](C &c) {
                         c.square[1] = -1e308;
                         EXPECT_OK(int4q_gram_set(c.gram_memory, c.bytes, c.square, 41, 7));
                         EXPECT_OK(int4q_gram_set(c.other_memory, c.bytes, c.square, 41, 7));
                     },
                     kNotFinite, "from"});
    ExpectRefused("int4q_gram_merge", table);
}

struct ScaleCall : Call {
    double weight = 0.5, shrinkage = 0.25;
    int4q_status Run() { return int4q_gram_scale(gram, bytes, weight, shrinkage); }
};
TEST(BadReconstructionArguments, Scale) {
    using C = ScaleCall;
    BadTable<C> table;
    AddGram(table);
    for (double bad : {-0x1p-40, 1 + 0x1p-40, std::nan(""), std::numeric_limits<double>::infinity()}) {
        table.push_back({"a weight of " + std::to_string(bad), [=](C &c) { c.weight = bad; }, kInvalid, "weight"});
        table.push_back({"a shrinkage of " + std::to_string(bad), [=](C &c) { c.shrinkage = bad; }, kInvalid, "shrinkage"});
    }
    const double nan = std::nan("");
    table.push_back({"a sum that is not finite", [=](C &c) { std::memcpy(static_cast<uint8_t *>(c.gram) + c.bytes - 8, &nan, 8); },
                     kCorrupt, "gram"});
    ExpectRefused("int4q_gram_scale", table);
}

struct ValidateCall : Call {
    int4q_status Run() { return int4q_gram_validate(gram, bytes); }
};
struct InfoCall : Call {
    int4q_status Run() { return int4q_gram_get_info(gram, bytes, info); }
};
struct ChannelsCall : Call {
    int4q_status Run() { return int4q_gram_channels(gram, bytes, begin, end, channels); }
};
struct MatrixCall : Call {
    int4q_status Run() { return int4q_gram_matrix(gram, bytes, matrix, stride, begin, end); }
};
TEST(BadReconstructionArguments, Reading) {
    BadTable<ValidateCall> validate;
    AddGram(validate);
    ExpectRefused("int4q_gram_validate", validate);

    BadTable<InfoCall> info;
    AddGram(info);
    AddPointer(info, "info", &InfoCall::info, {4});
    AddValues(info, "struct_size", [](InfoCall &c) -> uint32_t & { return c.info_memory.struct_size; }, {0, 39, 48}, kStructSize);
    AddValues(info, "reserved", [](InfoCall &c) -> uint32_t & { return c.info_memory.reserved; }, {1});
    ExpectRefused("int4q_gram_get_info", info);

    BadTable<ChannelsCall> channels;
    AddGram(channels);
    AddPointer(channels, "channels", &ChannelsCall::channels, {4});
    AddRanges(channels, Call::kColumns, "begin", "end");
    ExpectRefused("int4q_gram_channels", channels);

    BadTable<MatrixCall> matrix;
    AddGram(matrix);
    AddPointer(matrix, "matrix", &MatrixCall::matrix, {4});
    AddValues(matrix, "stride", &MatrixCall::stride, {0, 39, -1, kMin64});
    AddValues(matrix, "stride", &MatrixCall::stride, {kMax64}, kOverflow);
    AddRanges(matrix, Call::kColumns, "begin", "end");
    ExpectRefused("int4q_gram_matrix", matrix);
}

struct LossCall : Call {
    LossCall() {
        end = kRows;
        EXPECT_OK(int4q_gram_loss_scratch(k, &scratch_bytes));
    }
    int4q_status Run() {
        return int4q_gram_loss(tensor, x, type, ldx, gram, bytes, scratch, scratch_bytes, losses, begin, end);
    }
};
template <typename C>
void AddLayer(BadTable<C> &table) {
    AddGram(table);
    AddScratch(table);
    AddMatrix(table, "source", &C::x, &C::type, "source_type", &C::ldx, "source_stride", Call::kColumns);
    AddPointer(table, "tensor", &C::tensor, {4});
    AddWithin(table, BadTensors(INT4Q_KIND_SYMMETRIC), [](C &c) -> SmallTensor & { return c.small; });
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[30 * 41 + 3] = std::nanf(""); }, kNotFinite, "source"});
    table.push_back({"a Gram matrix of another k",
                     [](C &c) {
                         EXPECT_OK(int4q_gram_size(39, &c.bytes));
                         EXPECT_OK(int4q_gram_init(39, c.gram_memory, c.bytes));
                     },
                     kMismatch, "gram"});
}
TEST(BadReconstructionArguments, Loss) {
    using C = LossCall;
    BadTable<C> table;
    AddLayer(table);
    AddPointer(table, "losses", &C::losses, {4});
    AddRanges(table, Call::kRows, "row_begin", "row_end");
    for (auto bad = table.begin(); bad != table.end();) {
        // Rows before the one that is not finite have been written by then.
        bad = bad->what == "a source of NaN" ? table.erase(bad) : bad + 1;
    }
    ExpectRefused("int4q_gram_loss", table);
}

struct GptqCall : Call {
    GptqCall() { EXPECT_OK(int4q_gptq_scratch(&small.tensor.scheme, k, 1, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_gptq_quantize(tensor, x, type, ldx, gram, bytes, options, scratch, scratch_bytes, nullptr, nullptr, report);
    }
};
TEST(BadReconstructionArguments, Gptq) {
    using C = GptqCall;
    using O = int4q_gptq_options;
    BadTable<C> table;
    AddLayer(table);
    for (auto bad = table.begin(); bad != table.end();) {
        // Rows before the one that is not finite have been written by then.
        bad = bad->what == "a source of NaN" ? table.erase(bad) : bad + 1;
    }
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "flags", &O::flags, {8, 15, UINT32_MAX});
    AddEnumerators(fields, "order", &O::order, {-1, 3});
    AddValues(fields, "worker_count", &O::worker_count, {0, 1025, UINT32_MAX});
    AddValues(fields, "attempts", &O::attempts, {0, -1, 1001, kMin64, kMax64});
    for (double bad : {-0.01, 1e7, std::nan(""), std::numeric_limits<double>::infinity()}) {
        fields.push_back({"damping " + std::to_string(bad), [=](O &o) { o.damping = bad; }, kInvalid, "damping"});
        fields.push_back({"damping_step " + std::to_string(bad), [=](O &o) { o.damping_step = bad; }, kInvalid, "damping_step"});
    }
    fields.push_back({"damping_step 0", [](O &o) { o.damping_step = 0; }, kInvalid, "damping_step"});
    fields.push_back({"act-order without static groups", [](O &o) { o.order = INT4Q_GPTQ_ORDER_ACTIVATIONS; },
                      INT4Q_ERROR_UNSUPPORTED, "order"});
    AddWithin(table, fields, [](C &c) -> O & { return c.option_memory; });
    AddPointer(table, "options", &C::options, {4});
    AddPointer(table, "report", &C::report, {4});
    AddValues(table, "struct_size", [](C &c) -> uint32_t & { return c.report_memory.struct_size; }, {0, 63, 72}, kStructSize);
    AddValues(table, "reserved", [](C &c) -> uint32_t & { return c.report_memory.reserved; }, {1});
    ExpectRefused("int4q_gptq_quantize", table);
}


// Sizes near the end of 63 bits are sizes or refused, not traps.
TEST(Gptq, ScratchOfHugeMatrices) {
    const int4q_scheme scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16);
    for (const int64_t k : {int64_t{1518500144}, int64_t{1518500160}, int64_t{2147483600}, int64_t{2147483647}, int64_t{1} << 40}) {
        uint64_t bytes = 0;
        const int4q_status plain = int4q_gptq_scratch(&scheme, k, 1, &bytes);
        EXPECT_TRUE(plain == INT4Q_ERROR_SIZE_OVERFLOW || (plain == INT4Q_OK && bytes > 2 * static_cast<uint64_t>(k) * k)) << k;
        const int4q_status cross = int4q_gptq_cross_scratch(&scheme, k, 1024, &bytes);
        EXPECT_TRUE(cross == INT4Q_ERROR_SIZE_OVERFLOW || (cross == INT4Q_OK && bytes > 2 * static_cast<uint64_t>(k) * k)) << k;
    }
}

}  // namespace
}  // namespace int4q_test
