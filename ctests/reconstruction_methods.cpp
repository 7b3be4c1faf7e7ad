// SPDX-License-Identifier: Apache-2.0
// SmoothQuant, AWQ, coordinate descent, HQQ: section 12 of the header. Memory, row ranges, workers and refusals; what is computed is
// tested through the Python binding (bindings/python/tests/test_reconstruction_methods.py), against definitions in binary64.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/bad_arguments.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;

Source Values(int64_t rows, int64_t k, uint64_t seed, int4q_type type = INT4Q_TYPE_F32) {
    Random random(seed);
    Source x(type, rows, k, k + 3);
    for (int64_t row = 0; row < rows; row++) {
        const float common = random.Normal();
        for (int64_t column = 0; column < k; column++) x.Set(row, column, random.Normal() + common * static_cast<float>(column % 5) / 4);
    }
    return x;
}

GuardedBuffer Guarded(uint64_t bytes) { return GuardedBuffer(static_cast<size_t>(bytes), Placement::kRight, 64); }

GuardedBuffer GramOf(const Source &x) {
    uint64_t bytes = 0, scratch_bytes = 0;
    EXPECT_OK(int4q_gram_size(x.k, &bytes));
    EXPECT_OK(int4q_gram_push_scratch(x.k, &scratch_bytes));
    GuardedBuffer gram = Guarded(bytes), scratch = Guarded(scratch_bytes);
    EXPECT_OK(int4q_gram_init(x.k, gram.data(), bytes));
    EXPECT_OK(int4q_gram_push(gram.data(), bytes, x.buffer.data(), x.type, x.n, x.k, x.stride, scratch.data(), scratch_bytes, 1,
                              nullptr, nullptr));
    return gram;
}

int4q_awq_options AwqOptions(uint32_t workers = 1) {
    int4q_awq_options options{};
    options.struct_size = sizeof options;
    options.worker_count = workers;
    options.steps = 3;
    return options;
}

int4q_awq_report AwqReport() {
    int4q_awq_report report{};
    report.struct_size = sizeof report;
    return report;
}

int4q_descent_options DescentOptions() {
    int4q_descent_options options{};
    options.struct_size = sizeof options;
    options.sweeps = 3;
    return options;
}

int4q_descent_report DescentReport() {
    int4q_descent_report report{};
    report.struct_size = sizeof report;
    return report;
}

int4q_hqq_options HqqOptions() {
    int4q_hqq_options options{};
    options.struct_size = sizeof options;
    options.iterations = 20;
    options.p = 0.7;
    options.beta = 10;
    return options;
}

struct Awq {
    std::vector<float> scales;
    int4q_awq_report report = AwqReport();
};

Awq SearchScales(const TensorMemory &tensor, const Source &source, const GuardedBuffer &gram, uint32_t workers = 1,
                 int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
    const int4q_scheme &scheme = tensor->scheme;
    uint64_t bytes = 0;
    EXPECT_OK(int4q_awq_scratch(&scheme, source.n, source.k, workers, &bytes));
    GuardedBuffer scratch = Guarded(bytes), scales = GuardedBuffer(static_cast<size_t>(source.k) * 4, Placement::kRight, 4);
    Awq awq;
    const int4q_awq_options options = AwqOptions(workers);
    EXPECT_OK(int4q_awq_search(&scheme, tensor->codebook, source.n, source.k, source.buffer.data(), source.type, source.stride,
                               gram.data(), gram.size(), &options, scratch.data(), bytes, parallel_for, host,
                               reinterpret_cast<float *>(scales.data()), &awq.report));
    const float *first = reinterpret_cast<const float *>(scales.data());
    awq.scales.assign(first, first + source.k);
    return awq;
}

TEST(ReconstructionMethods, TouchOnlyWhatIsDeclared) {
    for (int64_t k : {1, 2, 17, 100, 130, 300}) {
        const GuardedBuffer gram = GramOf(Values(k + 5, k, 7));
        for (int32_t group_size : kAllGroupSizes) {
            for (const int4q_scheme &scheme : AllSchemes(group_size, INT4Q_TYPE_F16)) {
                const int64_t n = 1 + k % 37;
                const Source source = Values(n, k, 11);
                TensorMemory tensor(scheme, n, k);
                const Awq awq = SearchScales(tensor, source, gram);
                EXPECT_LE(awq.report.loss, awq.report.plain_loss);

                int4q_tensor_layout layout{};
                layout.struct_size = sizeof layout;
                ASSERT_OK(int4q_tensor_sizes(&scheme, n, k, &layout));
                uint64_t bytes = 0;
                ASSERT_OK(int4q_awq_clip_scratch(&scheme, k, &bytes));
                GuardedBuffer scratch = Guarded(bytes);
                GuardedBuffer clips(static_cast<size_t>(n * layout.groups_per_row) * 4, Placement::kRight, 4);
                Source clipped(INT4Q_TYPE_BF16, n, k, k + 1);
                ASSERT_OK(int4q_awq_clip(&scheme, tensor->codebook, n, k, source.buffer.data(), source.type, source.stride, gram.data(),
                                         gram.size(), 20, 3, scratch.data(), bytes, reinterpret_cast<float *>(clips.data()),
                                         clipped.buffer.data(), clipped.type, clipped.stride, 0, n));

                ASSERT_OK(source.Quantize(tensor));
                ASSERT_OK(int4q_gram_descend_scratch(&scheme, k, &bytes));
                GuardedBuffer descent = Guarded(bytes);
                int4q_descent_options options = DescentOptions();
                options.flags = INT4Q_DESCENT_REFIT_SCALES;
                int4q_descent_report report = DescentReport();
                ASSERT_OK(int4q_gram_descend(tensor.get(), source.buffer.data(), source.type, source.stride, gram.data(), gram.size(),
                                             &options, descent.data(), bytes, 0, n, &report));
                EXPECT_LE(report.loss, report.start_loss);

                const int4q_hqq_options hqq = HqqOptions();
                const bool fits = scheme.kind == INT4Q_KIND_OFFSET && scheme.rounding == INT4Q_ROUNDING_NEAREST_EVEN;
                EXPECT_EQ(int4q_hqq_quantize(tensor.get(), source.buffer.data(), source.type, source.stride, &hqq, 0, n),
                          fits ? INT4Q_OK : INT4Q_ERROR_UNSUPPORTED);
            }
        }
    }
}

TEST(ReconstructionMethods, RowsMayBeSpreadInAnyWay) {
    const int64_t n = 50, k = 90;
    const Source source = Values(n, k, 5);
    const GuardedBuffer gram = GramOf(Values(200, k, 9));
    const int4q_scheme scheme = MakeScheme(INT4Q_KIND_OFFSET, 32, INT4Q_TYPE_F16);
    uint64_t clip_bytes = 0, descent_bytes = 0;
    ASSERT_OK(int4q_awq_clip_scratch(&scheme, k, &clip_bytes));
    ASSERT_OK(int4q_gram_descend_scratch(&scheme, k, &descent_bytes));
    GuardedBuffer clip_scratch = Guarded(clip_bytes), descent_scratch = Guarded(descent_bytes);
    const int4q_hqq_options hqq = HqqOptions();
    const int4q_descent_options options = DescentOptions();
    std::vector<std::string> results;
    for (int64_t step : {n, int64_t{1}, int64_t{7}}) {
        TensorMemory tensor(scheme, n, k), descended(scheme, n, k);
        std::vector<float> clips(n * 3);
        Source clipped(INT4Q_TYPE_F32, n, k, k), scaled(INT4Q_TYPE_F32, n, k, k);
        std::vector<float> factors(k, 1.5f);
        ASSERT_OK(source.Quantize(descended));
        for (int64_t begin = 0; begin < n; begin += step) {
            const int64_t end = std::min(begin + step, n);
            ASSERT_OK(int4q_hqq_quantize(tensor.get(), source.buffer.data(), source.type, source.stride, &hqq, begin, end));
            ASSERT_OK(int4q_awq_clip(&scheme, nullptr, n, k, source.buffer.data(), source.type, source.stride, gram.data(), gram.size(),
                                     20, 10, clip_scratch.data(), clip_bytes, clips.data(), clipped.buffer.data(), clipped.type,
                                     clipped.stride, begin, end));
            int4q_descent_report report = DescentReport();
            ASSERT_OK(int4q_gram_descend(descended.get(), source.buffer.data(), source.type, source.stride, gram.data(), gram.size(),
                                         &options, descent_scratch.data(), descent_bytes, begin, end, &report));
            ASSERT_OK(int4q_scale_columns(source.buffer.data(), source.type, source.stride, factors.data(), INT4Q_COLUMNS_MULTIPLY,
                                          scaled.buffer.data(), scaled.type, scaled.stride, n, k, begin, end));
        }
        const auto text = [](const std::vector<uint8_t> &bytes) { return std::string(bytes.begin(), bytes.end()); };
        results.push_back(text(tensor.Codes()) + text(tensor.Offsets()) + text(descended.Codes()) +
                          std::string(reinterpret_cast<const char *>(clips.data()), clips.size() * 4) +
                          std::string(reinterpret_cast<const char *>(clipped.buffer.data()), clipped.buffer.size()) +
                          std::string(reinterpret_cast<const char *>(scaled.buffer.data()), scaled.buffer.size()));
        EXPECT_TRUE(results.front() == results.back()) << step;
        EXPECT_EQ(scaled(n - 1, k - 1), source(n - 1, k - 1) * 1.5f);
    }
}

TEST(ReconstructionMethods, InPlace) {
    const int64_t n = 20, k = 300;
    for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
        const Source source = Values(n, k, 3, type);
        Source same = Values(n, k, 3, type), other(type, n, k, k);
        std::vector<float> factors(k);
        for (int64_t i = 0; i < k; i++) factors[i] = 0.5f + static_cast<float>(i) / 100;
        const auto scale = [&](Source &target) {
            return int4q_scale_columns(&target == &same ? same.buffer.data() : source.buffer.data(), type, source.stride, factors.data(),
                                       INT4Q_COLUMNS_DIVIDE, target.buffer.data(), type, target.stride, n, k, 0, n);
        };
        ASSERT_OK(scale(same));
        ASSERT_OK(scale(other));
        for (int64_t row = 0; row < n; row++) {
            for (int64_t column = 0; column < k; column++) ASSERT_EQ(same(row, column), other(row, column));
        }
        const GuardedBuffer gram = GramOf(Values(400, k, 9));
        const int4q_scheme scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F32);
        uint64_t bytes = 0;
        ASSERT_OK(int4q_awq_clip_scratch(&scheme, k, &bytes));
        GuardedBuffer scratch = Guarded(bytes);
        std::vector<float> clips(n), again(n);
        const auto clip = [&](Source &target, std::vector<float> &limits) {
            const void *from = &target == &same ? same.buffer.data() : other.buffer.data();
            const int64_t stride = &target == &same ? same.stride : other.stride;
            return int4q_awq_clip(&scheme, nullptr, n, k, from, type, stride, gram.data(), gram.size(), 20, 10, scratch.data(), bytes,
                                  limits.data(), target.buffer.data(), type, target.stride, 0, n);
        };
        Source clipped(type, n, k, k);
        ASSERT_OK(clip(clipped, clips));
        ASSERT_OK(clip(same, again));
        EXPECT_EQ(clips, again);
        for (int64_t row = 0; row < n; row++) {
            for (int64_t column = 0; column < k; column++) ASSERT_EQ(same(row, column), clipped(row, column));
        }
    }
}

// Tasks in descending order, each on another worker.
void Backwards(void *host, int64_t count, uint32_t workers, int4q_task task, void *context) {
    static_cast<std::vector<int64_t> *>(host)->push_back(count);
    for (int64_t i = count; i-- > 0;) task(context, i, static_cast<uint32_t>(i) % workers);
}

TEST(AwqSearch, AnyOrderAndAnyWorkersGiveTheSameBits) {
    const int64_t n = 100, k = 70;
    const Source source = Values(n, k, 5);
    const GuardedBuffer gram = GramOf(Values(200, k, 9));
    TensorMemory tensor(MakeScheme(INT4Q_KIND_ASYMMETRIC, 32, INT4Q_TYPE_F16), n, k);
    std::vector<int64_t> counts;
    const Awq alone = SearchScales(tensor, source, gram), spread = SearchScales(tensor, source, gram, 3, Backwards, &counts);
    EXPECT_EQ(counts, std::vector<int64_t>(4, 7));
    EXPECT_EQ(alone.scales, spread.scales);
    EXPECT_EQ(BytesOf(alone.report), BytesOf(spread.report));
    EXPECT_GT(alone.report.loss, 0);
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

struct Call {
    static constexpr int64_t kRows = 33, kColumns = 40;
    alignas(64) float x_memory[kRows * 41 + 1], target_memory[kRows * 41 + 1]{};
    alignas(64) unsigned char gram_memory[16384];
    std::vector<unsigned char> scratch_memory = std::vector<unsigned char>(1 << 18);
    float factor_memory[kColumns], other_memory[kColumns], output_memory[kColumns]{}, clip_memory[kRows * 3]{};
    SmallTensor small;
    int4q_awq_options awq_memory = AwqOptions();
    int4q_awq_report awq_report_memory = AwqReport();
    int4q_descent_options descent_memory = DescentOptions();
    int4q_descent_report descent_report_memory = DescentReport();
    int4q_hqq_options hqq_memory = HqqOptions();
    uint64_t size = 0;

    int64_t n = kRows, k = kColumns, ldx = 41, ldy = 41, begin = 0, end = kRows;
    uint32_t workers = 1;
    int32_t operation = 0, steps = 20, tried = 10;
    double alpha = 0.5;
    int4q_type type = INT4Q_TYPE_F32, target_type = INT4Q_TYPE_F32;
    void *gram = gram_memory, *scratch = nullptr, *x = x_memory, *target = target_memory;
    uint64_t bytes = 0, scratch_bytes = 0, *bytes_out = &size;
    float *factors = factor_memory, *others = other_memory, *outputs = output_memory, *clips = clip_memory;
    int4q_tensor *tensor = &small.tensor;
    int4q_scheme *scheme = &small.tensor.scheme;
    int4q_awq_options *awq = &awq_memory;
    int4q_awq_report *awq_report = &awq_report_memory;
    int4q_descent_options *descent = &descent_memory;
    int4q_descent_report *descent_report = &descent_report_memory;
    int4q_hqq_options *hqq = &hqq_memory;

    explicit Call(int32_t kind = INT4Q_KIND_SYMMETRIC) : small(kind) {
        Random random(3);
        for (float &value : x_memory) value = random.Normal();
        for (int64_t i = 0; i < kColumns; i++) factor_memory[i] = other_memory[i] = 1.0f + static_cast<float>(i);
        EXPECT_OK(int4q_gram_size(k, &bytes));
        EXPECT_LE(bytes, sizeof gram_memory);
        std::memset(gram_memory, 0xa5, sizeof gram_memory);
        EXPECT_OK(int4q_gram_init(k, gram_memory, bytes));
        scratch = scratch_memory.data() + (64 - reinterpret_cast<uintptr_t>(scratch_memory.data()) % 64);
    }
    Call(const Call &) = delete;
    std::string Outputs() const {
        return BytesOf(x_memory) + BytesOf(target_memory) + BytesOf(output_memory) + BytesOf(clip_memory) + small.Bytes() +
               BytesOf(awq_report_memory) + BytesOf(descent_report_memory) + BytesOf(size);
    }
};

template <typename C>
void Refuse(const char *function, const BadTable<C> &table) {
    ExpectRefused<C>(function, [] { return std::make_unique<C>(); }, table);
}

template <typename C>
void AddGram(BadTable<C> &table) {
    AddPointer(table, "gram", &C::gram, {1, 8, 32});
    AddTooSmall(table, "gram_bytes", &C::bytes);
    for (size_t byte : {0, 7, 16, 24, 100, 127}) {
        table.push_back({"a damaged header at " + std::to_string(byte), [=](C &c) { c.gram_memory[byte] ^= 0x40; }, kCorrupt, "gram"});
    }
    table.push_back({"a Gram matrix of another k",
                     [](C &c) {
                         EXPECT_OK(int4q_gram_size(39, &c.bytes));
                         EXPECT_OK(int4q_gram_init(39, c.gram_memory, c.bytes));
                     },
                     kMismatch, "gram"});
}

template <typename C>
void AddScratch(BadTable<C> &table) {
    AddPointer(table, "scratch", &C::scratch, {1, 8, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
}

template <typename C>
void AddSource(BadTable<C> &table, const char *rows = "n", const char *columns = "k") {
    AddMatrix(table, "source", &C::x, &C::type, "source_type", &C::ldx, "source_stride", Call::kColumns);
    AddValues(table, rows, &C::n, {0, -1, kMin64});
    AddValues(table, columns, &C::k, {0, -1, kMin64});
}

template <typename C>
void AddScheme(BadTable<C> &table) {
    AddPointer(table, "scheme", &C::scheme, {2});
    AddWithin(table, BadSchemes(), [](C &c) -> int4q_scheme & { return c.small.tensor.scheme; });
}

struct MaximaCall : Call {
    int4q_status Run() { return int4q_column_maxima(x, type, n, k, ldx, outputs); }
};
struct FactorsCall : Call {
    int4q_status Run() { return int4q_smooth_factors(factors, others, k, alpha, outputs); }
};
struct ScaleCall : Call {
    int4q_status Run() {
        return int4q_scale_columns(x, type, ldx, factors, operation, target, target_type, ldy, n, k, begin, end);
    }
};

TEST(BadReconstructionMethods, Smoothing) {
    BadTable<MaximaCall> maxima;
    AddSource(maxima, "rows", "columns");
    AddPointer(maxima, "maxima", &MaximaCall::outputs, {1, 2});
    maxima.push_back({"a source of NaN", [](Call &c) { c.x_memory[3] = std::nanf(""); }, kNotFinite, "source"});
    Refuse("int4q_column_maxima", maxima);

    BadTable<FactorsCall> factors;
    AddPointer(factors, "x_maxima", &FactorsCall::factors, {1, 2});
    AddPointer(factors, "weight_maxima", &FactorsCall::others, {1, 2});
    AddPointer(factors, "factors", &FactorsCall::outputs, {1, 2});
    AddValues(factors, "k", &FactorsCall::k, {0, -1, kMin64});
    for (double bad : {-0.01, 1.01, std::nan("")}) {
        factors.push_back({"alpha " + std::to_string(bad), [=](Call &c) { c.alpha = bad; }, kInvalid, "alpha"});
    }
    const float infinity = std::numeric_limits<float>::infinity();
    for (float bad : {-1.0f, std::nanf(""), infinity}) {
        factors.push_back({"a maximum of " + std::to_string(bad), [=](Call &c) { c.factor_memory[39] = bad; }, kInvalid, "x_maxima"});
        factors.push_back({"a maximum of " + std::to_string(bad), [=](Call &c) { c.other_memory[0] = bad; }, kInvalid, "weight_maxima"});
    }
    factors.push_back({"a factor too large", [](Call &c) { c.factor_memory[39] = 1e38f, c.other_memory[39] = 1e-42f; }, kNotFinite,
                       "x_maxima"});
    Refuse("int4q_smooth_factors", factors);

    BadTable<ScaleCall> scale;
    AddSource(scale);
    AddMatrix(scale, "destination", &ScaleCall::target, &ScaleCall::target_type, "destination_type", &ScaleCall::ldy,
              "destination_stride", Call::kColumns);
    AddPointer(scale, "factors", &ScaleCall::factors, {1, 2});
    AddEnumerators(scale, "operation", &ScaleCall::operation, {-1, 2});
    AddRanges(scale, Call::kRows, "row_begin", "row_end");
    for (float bad : {0.0f, -1.0f, std::nanf(""), infinity}) {
        scale.push_back({"a factor of " + std::to_string(bad), [=](Call &c) { c.factor_memory[39] = bad; }, kInvalid, "factors"});
    }
    Refuse("int4q_scale_columns", scale);
}

struct AwqScratchCall : Call {
    int4q_status Run() { return int4q_awq_scratch(scheme, n, k, workers, bytes_out); }
};
struct ClipScratchCall : Call {
    int4q_status Run() { return int4q_awq_clip_scratch(scheme, k, bytes_out); }
};
struct DescentScratchCall : Call {
    int4q_status Run() { return int4q_gram_descend_scratch(scheme, k, bytes_out); }
};
template <typename C>
BadTable<C> Sizes() {
    BadTable<C> table;
    AddScheme(table);
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    AddPointer(table, "bytes", &C::bytes_out, {4});
    return table;
}

TEST(BadReconstructionMethods, Sizes) {
    auto awq = Sizes<AwqScratchCall>();
    AddValues(awq, "k", &AwqScratchCall::k, {kMax64, int64_t{1} << 62, int64_t{1} << 31}, kOverflow, "n");
    AddValues(awq, "n", &AwqScratchCall::n, {kMax64, int64_t{1} << 62}, kOverflow, "k");
    AddValues(awq, "n", &AwqScratchCall::n, {0, -1, kMin64});
    AddValues(awq, "worker_count", &AwqScratchCall::workers, {0, 1025, -1});
    Refuse("int4q_awq_scratch", awq);
    auto clip = Sizes<ClipScratchCall>();
    clip.push_back({"rows of 2^31", [](Call &c) { c.scheme->group_size = -1, c.k = int64_t{1} << 31; }, kOverflow, "k"});
    Refuse("int4q_awq_clip_scratch", clip);
    auto descent = Sizes<DescentScratchCall>();
    AddValues(descent, "k", &DescentScratchCall::k, {kMax64, int64_t{1} << 60}, kOverflow);
    Refuse("int4q_gram_descend_scratch", descent);
}

struct AwqCall : Call {
    AwqCall() { EXPECT_OK(int4q_awq_scratch(scheme, n, k, 1, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_awq_search(scheme, nullptr, n, k, x, type, ldx, gram, bytes, awq, scratch, scratch_bytes, nullptr, nullptr, outputs,
                                awq_report);
    }
};
TEST(BadReconstructionMethods, AwqSearch) {
    using C = AwqCall;
    using O = int4q_awq_options;
    BadTable<C> table;
    AddGram(table);
    AddScratch(table);
    AddSource(table);
    AddScheme(table);
    AddPointer(table, "scales", &C::outputs, {1, 2});
    AddPointer(table, "options", &C::awq, {4});
    AddPointer(table, "report", &C::awq_report, {4});
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "worker_count", &O::worker_count, {0, 1025, UINT32_MAX});
    AddValues(fields, "steps", &O::steps, {0, -1, 1001, kMin32, kMax32});
    AddValues(fields, "reserved", &O::reserved, {1});
    AddWithin(table, fields, [](C &c) -> O & { return c.awq_memory; });
    AddValues(table, "struct_size", [](C &c) -> uint32_t & { return c.awq_report_memory.struct_size; }, {0, 23, 32}, kStructSize);
    table.push_back({"no codebook", [](C &c) { c.scheme->kind = INT4Q_KIND_CODEBOOK; }, kNull, "codebook"});
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[30 * 41 + 3] = std::nanf(""); }, kNotFinite, "source"});
    Refuse("int4q_awq_search", table);
}

struct ClipCall : Call {
    ClipCall() { EXPECT_OK(int4q_awq_clip_scratch(scheme, k, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_awq_clip(scheme, nullptr, n, k, x, type, ldx, gram, bytes, steps, tried, scratch, scratch_bytes, clips, target,
                              target_type, ldy, begin, end);
    }
};
TEST(BadReconstructionMethods, AwqClip) {
    using C = ClipCall;
    BadTable<C> table;
    AddGram(table);
    AddScratch(table);
    AddSource(table);
    AddScheme(table);
    AddMatrix(table, "destination", &C::target, &C::target_type, "destination_type", &C::ldy, "destination_stride", Call::kColumns);
    for (auto bad = table.begin(); bad != table.end();) bad = bad->what == "destination = NULL" ? table.erase(bad) : bad + 1;
    AddPointer(table, "clips", &C::clips, {1, 2});
    AddValues(table, "steps", &C::steps, {0, -1, 1001, kMin32, kMax32});
    AddValues(table, "tried", &C::tried, {0, -1, 21, kMin32, kMax32});
    AddRanges(table, Call::kRows, "row_begin", "row_end");
    table.push_back({"no codebook", [](C &c) { c.scheme->kind = INT4Q_KIND_CODEBOOK; }, kNull, "codebook"});
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[3] = std::nanf(""); }, kNotFinite, "source"});
    Refuse("int4q_awq_clip", table);

    ClipCall alone;
    alone.target = nullptr;
    alone.target_type = 0;
    EXPECT_OK(alone.Run());
    EXPECT_GT(alone.clip_memory[98], 0);
}

struct DescentCall : Call {
    DescentCall() { EXPECT_OK(int4q_gram_descend_scratch(scheme, k, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_gram_descend(tensor, x, type, ldx, gram, bytes, descent, scratch, scratch_bytes, begin, end, descent_report);
    }
};
TEST(BadReconstructionMethods, Descent) {
    using C = DescentCall;
    using O = int4q_descent_options;
    BadTable<C> table;
    AddGram(table);
    AddScratch(table);
    AddMatrix(table, "source", &C::x, &C::type, "source_type", &C::ldx, "source_stride", Call::kColumns);
    AddPointer(table, "tensor", &C::tensor, {4});
    AddWithin(table, BadTensors(INT4Q_KIND_SYMMETRIC), [](C &c) -> SmallTensor & { return c.small; });
    AddPointer(table, "options", &C::descent, {4});
    AddPointer(table, "report", &C::descent_report, {4});
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "flags", &O::flags, {2, 3, UINT32_MAX});
    AddValues(fields, "sweeps", &O::sweeps, {0, -1, 10001, kMin64, kMax64});
    AddWithin(table, fields, [](C &c) -> O & { return c.descent_memory; });
    AddValues(table, "struct_size", [](C &c) -> uint32_t & { return c.descent_report_memory.struct_size; }, {0, 47, 56}, kStructSize);
    AddValues(table, "reserved", [](C &c) -> uint32_t & { return c.descent_report_memory.reserved; }, {1});
    AddRanges(table, Call::kRows, "row_begin", "row_end");
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[3] = std::nanf(""); }, kNotFinite, "source"});
    Refuse("int4q_gram_descend", table);
}

struct HqqCall : Call {
    HqqCall() : Call(INT4Q_KIND_OFFSET) {}
    int4q_status Run() { return int4q_hqq_quantize(tensor, x, type, ldx, hqq, begin, end); }
};
TEST(BadReconstructionMethods, Hqq) {
    using C = HqqCall;
    using O = int4q_hqq_options;
    BadTable<C> table;
    AddMatrix(table, "source", &C::x, &C::type, "source_type", &C::ldx, "source_stride", Call::kColumns);
    AddPointer(table, "tensor", &C::tensor, {4});
    AddWithin(table, BadTensors(INT4Q_KIND_OFFSET), [](C &c) -> SmallTensor & { return c.small; });
    AddPointer(table, "options", &C::hqq, {4});
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "iterations", &O::iterations, {-1, 1001, kMin32, kMax32});
    for (double bad : {0.0, -0.1, std::nan(""), std::numeric_limits<double>::infinity()}) {
        fields.push_back({"p " + std::to_string(bad), [=](O &o) { o.p = bad; }, kInvalid, "p"});
        fields.push_back({"beta " + std::to_string(bad), [=](O &o) { o.beta = bad; }, kInvalid, "beta"});
    }
    fields.push_back({"p 1.1", [](O &o) { o.p = 1.1; }, kInvalid, "p"});
    AddWithin(table, fields, [](C &c) -> O & { return c.hqq_memory; });
    AddRanges(table, Call::kRows, "row_begin", "row_end");
    for (int32_t rounding : {INT4Q_ROUNDING_GGML, INT4Q_ROUNDING_MLX}) {
        table.push_back({"rounding " + std::to_string(rounding), [=](C &c) { c.small.tensor.scheme.rounding = rounding; },
                         INT4Q_ERROR_UNSUPPORTED, "tensor.scheme", "scheme"});
    }
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[3] = std::nanf(""); }, kNotFinite, "source"});
    Refuse("int4q_hqq_quantize", table);
}

}  // namespace
}  // namespace int4q_test
