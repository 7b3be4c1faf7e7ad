// SPDX-License-Identifier: Apache-2.0
// Learned rounding, and Gram matrices of weighted rows: section 12 of the header. Memory, workers, cancelling and refusals; what is
// computed is tested through the Python binding (bindings/python/tests/test_rounding.py), against definitions in binary64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "int4q.h"
#include "int4q.hpp"
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
        for (int64_t column = 0; column < k; column++) {
            x.Set(row, column, random.Normal() + common * static_cast<float>(column % 5) / 4);
        }
    }
    return x;
}

GuardedBuffer Guarded(uint64_t bytes) { return GuardedBuffer(static_cast<size_t>(bytes), Placement::kRight, 64); }

// Of rows with weights, or of plain ones.
GuardedBuffer GramOf(const Source &x, const float *weights = nullptr, uint32_t workers = 1, int4q_parallel_for parallel_for = nullptr,
                     void *host = nullptr) {
    uint64_t bytes = 0, scratch_bytes = 0;
    EXPECT_OK(int4q_gram_size(x.k, &bytes));
    EXPECT_OK(int4q_gram_push_scratch(x.k, &scratch_bytes));
    GuardedBuffer gram = Guarded(bytes), scratch = Guarded(scratch_bytes);
    EXPECT_OK(int4q_gram_init(x.k, gram.data(), bytes));
    if (weights) {
        EXPECT_OK(int4q_gram_push_weighted(gram.data(), bytes, x.buffer.data(), x.type, x.n, x.k, x.stride, weights, scratch.data(),
                                           scratch_bytes, workers, parallel_for, host));
    } else {
        EXPECT_OK(int4q_gram_push(gram.data(), bytes, x.buffer.data(), x.type, x.n, x.k, x.stride, scratch.data(), scratch_bytes,
                                  workers, parallel_for, host));
    }
    return gram;
}

std::string Text(const GuardedBuffer &buffer) { return std::string(reinterpret_cast<const char *>(buffer.data()), buffer.size()); }

int4q_learning_options Options(int32_t method = INT4Q_LEARN_AUTOROUND, uint32_t workers = 1) {
    int4q_learning_options options{};
    options.struct_size = sizeof options;
    options.worker_count = workers;
    options.method = method;
    options.iterations = 6;
    options.step = method == INT4Q_LEARN_AUTOROUND ? 0.2 : 0.3;
    options.range_step = 0.1;
    options.least_range = 0.5;
    options.most_range = 1;
    options.regularization = 10;
    options.first_exponent = 20;
    options.last_exponent = 2;
    return options;
}

int4q_learning_report Report() {
    int4q_learning_report report{};
    report.struct_size = sizeof report;
    return report;
}

int4q_status Learn(const TensorMemory &tensor, const Source &source, const GuardedBuffer &gram, const int4q_learning_options &options,
                   int4q_learning_report *report, int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_learn_rounding_scratch(&tensor->scheme, source.k, options.worker_count, &bytes));
    GuardedBuffer scratch = Guarded(bytes);
    return int4q_learn_rounding(tensor.get(), source.buffer.data(), source.type, source.stride, gram.data(), gram.size(), &options,
                                scratch.data(), bytes, parallel_for, host, report);
}

std::string Parts(const TensorMemory &tensor) {
    std::string all;
    for (const std::vector<uint8_t> &part : {tensor.Codes(), tensor.Scales(), tensor.ZeroPoints(), tensor.Offsets()}) {
        all.append(part.begin(), part.end());
    }
    return all;
}

constexpr int32_t kMethods[] = {INT4Q_LEARN_AUTOROUND, INT4Q_LEARN_ADAROUND};

double LossOf(const TensorMemory &tensor, const Source &source, const GuardedBuffer &gram) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_gram_loss_scratch(source.k, &bytes));
    GuardedBuffer scratch = Guarded(bytes);
    std::vector<double> losses(source.n);
    EXPECT_OK(int4q_gram_loss(tensor.get(), source.buffer.data(), source.type, source.stride, gram.data(), gram.size(), scratch.data(),
                              bytes, losses.data(), 0, source.n));
    double sum = 0;
    for (double loss : losses) sum += loss;
    return sum;
}

TEST(LearnedRounding, TouchesOnlyWhatIsDeclared) {
    for (int64_t k : {1, 2, 17, 100, 130, 300}) {
        const GuardedBuffer gram = GramOf(Values(k + 5, k, 7));
        for (int32_t group_size : kAllGroupSizes) {
            for (int4q_scheme scheme : AllSchemes(group_size, INT4Q_TYPE_F16)) {
                for (int32_t bits : {0, 8}) {
                    const bool has_own_rounding = scheme.rounding != INT4Q_ROUNDING_NEAREST_EVEN;
                    if (scheme.kind == INT4Q_KIND_CODEBOOK || (bits == 8 && has_own_rounding)) continue;
                    scheme.code_bits = bits;
                    const int64_t n = 1 + k % 37;
                    const Source source = Values(n, k, 11);
                    TensorMemory tensor(scheme, n, k);
                    for (int32_t method : kMethods) {
                        ASSERT_OK(source.Quantize(tensor));
                        const double before = LossOf(tensor, source, gram);
                        int4q_learning_report report = Report();
                        ASSERT_OK(Learn(tensor, source, gram, Options(method), &report)) << Name(scheme);
                        EXPECT_LE(report.loss, report.start_loss) << Name(scheme);
                        EXPECT_NEAR(report.start_loss, before, 1e-12 * before) << Name(scheme);
                        EXPECT_NEAR(report.loss, LossOf(tensor, source, gram), 1e-12 * before) << Name(scheme);
                        EXPECT_EQ(report.improved_rows > 0, report.changed_codes + report.changed_scales > 0) << Name(scheme);
                    }
                }
            }
        }
    }
}

// Tasks in descending order, each on another worker.
void Backwards(void *host, int64_t count, uint32_t workers, int4q_task task, void *context) {
    static_cast<std::vector<int64_t> *>(host)->push_back(count);
    for (int64_t i = count; i-- > 0;) task(context, i, static_cast<uint32_t>(i + 1) % workers);
}

TEST(LearnedRounding, AnyOrderAndAnyWorkersGiveTheSameBits) {
    const int64_t n = 330, k = 70;
    const Source source = Values(n, k, 5), x = Values(200, k, 9);
    const GuardedBuffer gram = GramOf(x);
    for (int32_t method : kMethods) {
        std::vector<std::string> results;
        for (uint32_t workers : {1u, 3u, 4u, 64u}) {
            TensorMemory tensor(MakeScheme(INT4Q_KIND_OFFSET, 32, INT4Q_TYPE_F16), n, k);
            ASSERT_OK(source.Quantize(tensor));
            int4q_learning_report report = Report();
            std::vector<int64_t> counts;
            ASSERT_OK(Learn(tensor, source, gram, Options(method, workers), &report, workers == 1 ? nullptr : Backwards, &counts));
            results.push_back(Parts(tensor) + BytesOf(report));
            EXPECT_TRUE(results.front() == results.back()) << workers;
            // G's panels; then six tasks, in waves of as many as there are workers: begin, one run of iterations, finish.
            if (workers == 4) {
                EXPECT_EQ(counts, (std::vector<int64_t>{5, 4, 4, 4, 2, 2, 2}));
            }
        }
    }
}

// As GPTQ's hosts: a task that is not there, or a worker.
void Wrongly(void *host, int64_t count, uint32_t workers, int4q_task task, void *context) {
    const bool by_worker = *static_cast<bool *>(host);
    task(context, by_worker ? 0 : count, by_worker ? workers : 0);
}

TEST(LearnedRounding, AHostThatMiscountsIsRefused) {
    const Source source = Values(70, 40, 5);
    const GuardedBuffer gram = GramOf(source);
    for (bool by_worker : {false, true}) {
        TensorMemory tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16), 70, 40);
        ASSERT_OK(source.Quantize(tensor));
        const std::string before = Parts(tensor);
        int4q_learning_report report = Report();
        const int4q_status status = Learn(tensor, source, gram, Options(0, 2), &report, Wrongly, &by_worker);
        EXPECT_TRUE(FailsLike(status, {kInvalid}, "int4q_learn_rounding", {"parallel_for"}));
        EXPECT_TRUE(before == Parts(tensor));
    }
}

struct Progress {
    int64_t calls = 0, stop = -1, last = -1, total = 0;
    static int32_t Count(void *context, int64_t done, int64_t total) {
        auto &self = *static_cast<Progress *>(context);
        EXPECT_GT(done, self.last);
        self.last = done;
        self.total = total;
        return self.calls++ == self.stop;
    }
};

TEST(LearnedRounding, MayBeCancelledAtEachCall) {
    const int64_t n = 200, k = 40;
    const Source source = Values(n, k, 5);
    const GuardedBuffer gram = GramOf(source);
    for (int64_t stop = -1; stop < 5; stop++) {
        TensorMemory tensor(MakeScheme(INT4Q_KIND_ASYMMETRIC, 16, INT4Q_TYPE_BF16), n, k);
        ASSERT_OK(source.Quantize(tensor));
        const std::vector<uint8_t> before = tensor.Codes();
        Progress progress;
        progress.stop = stop;
        int4q_learning_options options = Options();
        options.progress = Progress::Count;
        options.progress_context = &progress;
        int4q_learning_report report = Report();
        const int4q_status status = Learn(tensor, source, gram, options, &report);
        EXPECT_EQ(progress.total, 4 * options.iterations);
        if (stop < 0) {
            ASSERT_OK(status);
            EXPECT_EQ(progress.calls, 5);
            EXPECT_EQ(progress.last, progress.total);
            EXPECT_GT(report.improved_rows, 20);
        } else {
            EXPECT_TRUE(FailsLike(status, {INT4Q_ERROR_CANCELLED}, "int4q_learn_rounding", {"progress"}));
            EXPECT_EQ(progress.calls, stop + 1);
            // Tasks that are done have been written, others not.
            const std::vector<uint8_t> after = tensor.Codes();
            const size_t written = std::min<size_t>(after.size(), static_cast<size_t>(stop) * 64 * k / 2);
            EXPECT_TRUE(std::equal(after.begin() + static_cast<int64_t>(written), after.end(),
                                   before.begin() + static_cast<int64_t>(written)));
            EXPECT_EQ(stop == 0, std::equal(after.begin(), after.begin() + 64 * k / 2, before.begin()));
        }
    }
}

TEST(LearnedRounding, TensorsOfAnyBytesAreNoDanger) {
    const int64_t n = 20, k = 70;
    const Source source = Values(n, k, 5);
    const GuardedBuffer gram = GramOf(Values(200, k, 9));
    Random random(1);
    for (int round = 0; round < 40; round++) {
        for (int32_t kind : {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET}) {
            for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
                int4q_scheme scheme = MakeScheme(kind, 16, type);
                scheme.code_bits = round % 2 ? 8 : 0;
                TensorMemory tensor(scheme, n, k);
                for (auto [part, bytes] : {std::pair(tensor->codes, tensor->codes_bytes),
                                           std::pair(tensor->scales, tensor->scales_bytes),
                                           std::pair(tensor->zero_points, tensor->zero_points_bytes),
                                           std::pair(tensor->offsets, tensor->offsets_bytes)}) {
                    for (uint64_t i = 0; i < bytes; i++) static_cast<uint8_t *>(part)[i] = static_cast<uint8_t>(random.Integer(0, 255));
                }
                for (int32_t method : kMethods) {
                    int4q_learning_options options = Options(method);
                    options.most_range = 2;
                    options.range_step = 0.9;
                    int4q_learning_report report = Report();
                    ASSERT_OK(Learn(tensor, source, gram, options, &report));
                    EXPECT_FALSE(report.loss > report.start_loss);
                }
            }
        }
    }
}

TEST(WeightedGram, IsThatOfScaledRows) {
    for (int64_t k : {1, 16, 77}) {
        for (int64_t rows : {1, 130, 700}) {
            const Source x = Values(rows, k, 3);
            Source scaled = Values(rows, k, 3);
            GuardedBuffer weights(static_cast<size_t>(rows) * 4, Placement::kRight, 4);
            float *weight = reinterpret_cast<float *>(weights.data());
            for (int64_t row = 0; row < rows; row++) {
                weight[row] = static_cast<float>(row % 7) / 3;
                for (int64_t column = 0; column < k; column++) scaled.Set(row, column, x(row, column) * std::sqrt(weight[row]));
            }
            weights.ForbidWriting();
            std::vector<int64_t> counts;
            const std::string expected = Text(GramOf(scaled));
            EXPECT_TRUE(expected == Text(GramOf(x, weight)));
            EXPECT_TRUE(expected == Text(GramOf(x, weight, 3, Backwards, &counts)));
        }
    }
}

TEST(CppLearnedRounding, ImprovesATensor) {
    constexpr int64_t n = 70, k = 48, rows = 90;
    Random random(9);
    std::vector<float> x(rows * k), w(n * k), weights(rows);
    for (float &value : w) value = random.Normal();
    for (float &value : x) value = random.Normal();
    for (float &value : weights) value = random.Uniform(0, 2);
    int4q::Pool pool(2);
    int4q::Gram gram(k), plain(k);
    gram.push({x.data(), INT4Q_TYPE_F32, rows, k}, weights, &pool);
    plain.push({x.data(), INT4Q_TYPE_F32, rows, k});
    EXPECT_NE(std::memcmp(gram.data(), plain.data(), gram.bytes()), 0);
    EXPECT_THROW(gram.push({x.data(), INT4Q_TYPE_F32, rows - 1, k}, weights), int4q::Error);
    int4q::Tensor tensor = int4q::quantize({w.data(), INT4Q_TYPE_F32, n, k}, int4q::Scheme::asymmetric(16)), same = tensor;
    const int4q_learning_report report = int4q::learn_rounding(tensor, {w.data(), INT4Q_TYPE_F32, n, k}, gram);
    EXPECT_LT(report.loss, 0.95 * report.start_loss);
    int4q::learn_rounding(same, {w.data(), INT4Q_TYPE_F32, n, k}, gram, int4q::learning_options(), &pool);
    EXPECT_EQ(tensor.codes, same.codes);
    const auto adaptive = int4q::learning_options(INT4Q_LEARN_ADAROUND, 300);
    EXPECT_LT(int4q::learn_rounding(tensor, {w.data(), INT4Q_TYPE_F32, n, k}, gram, adaptive).loss, report.loss);
    EXPECT_THROW(int4q::learn_rounding(tensor, {w.data(), INT4Q_TYPE_F32, n - 1, k}, gram), int4q::Error);
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

struct Call {
    static constexpr int64_t kRows = 33, kColumns = 40;
    alignas(64) float x_memory[kRows * 41 + 1];
    alignas(64) unsigned char gram_memory[16384];
    std::vector<unsigned char> scratch_memory = std::vector<unsigned char>(1 << 19);
    float weight_memory[kRows];
    SmallTensor small{INT4Q_KIND_SYMMETRIC};
    int4q_learning_options options_memory = Options();
    int4q_learning_report report_memory = Report();
    uint64_t size = 0;

    int64_t rows = kRows, k = kColumns, ldx = 41;
    uint32_t workers = 1;
    int4q_type type = INT4Q_TYPE_F32;
    void *gram = gram_memory, *scratch = nullptr, *x = x_memory;
    uint64_t bytes = 0, scratch_bytes = 0, *bytes_out = &size;
    float *weights = weight_memory;
    int4q_tensor *tensor = &small.tensor;
    int4q_scheme *scheme = &small.tensor.scheme;
    int4q_learning_options *options = &options_memory;
    int4q_learning_report *report = &report_memory;

    Call() {
        Random random(3);
        for (float &value : x_memory) value = random.Normal();
        for (float &value : weight_memory) value = 1;
        EXPECT_OK(int4q_gram_size(k, &bytes));
        EXPECT_LE(bytes, sizeof gram_memory);
        std::memset(gram_memory, 0xa5, sizeof gram_memory);
        EXPECT_OK(int4q_gram_init(k, gram_memory, bytes));
        scratch = scratch_memory.data() + (64 - reinterpret_cast<uintptr_t>(scratch_memory.data()) % 64);
    }
    Call(const Call &) = delete;
    std::string Outputs() const {
        return BytesOf(x_memory) + small.Bytes() + BytesOf(report_memory) + BytesOf(size);
    }
};

template <typename C>
void Refuse(const char *function, const BadTable<C> &table) {
    ExpectRefused<C>(function, [] { return std::make_unique<C>(); }, table);
}

template <typename C>
void AddCommon(BadTable<C> &table) {
    AddPointer(table, "gram", &C::gram, {1, 8, 32});
    AddTooSmall(table, "gram_bytes", &C::bytes);
    AddPointer(table, "scratch", &C::scratch, {1, 8, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
    for (size_t byte : {0, 7, 16, 24, 100, 127}) {
        table.push_back({"a damaged header at " + std::to_string(byte), [=](C &c) { c.gram_memory[byte] ^= 0x40; }, kCorrupt, "gram"});
    }
}

struct ScratchCall : Call {
    int4q_status Run() { return int4q_learn_rounding_scratch(scheme, k, workers, bytes_out); }
};
TEST(BadLearnedRounding, Scratch) {
    using C = ScratchCall;
    BadTable<C> table;
    AddPointer(table, "scheme", &C::scheme, {2});
    AddWithin(table, BadSchemes(), [](C &c) -> int4q_scheme & { return c.small.tensor.scheme; });
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {kMax64, int64_t{1} << 62, int64_t{1} << 31, (int64_t{1} << 31) - 1}, kOverflow);
    AddValues(table, "worker_count", &C::workers, {0, 1025, -1});
    AddPointer(table, "bytes", &C::bytes_out, {4});
    Refuse("int4q_learn_rounding_scratch", table);
}

struct LearnCall : Call {
    LearnCall() { EXPECT_OK(int4q_learn_rounding_scratch(scheme, k, 1, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_learn_rounding(tensor, x, type, ldx, gram, bytes, options, scratch, scratch_bytes, nullptr, nullptr, report);
    }
};
TEST(BadLearnedRounding, Learn) {
    using C = LearnCall;
    using O = int4q_learning_options;
    BadTable<C> table;
    AddCommon(table);
    table.push_back({"a Gram matrix of another k",
                     [](C &c) {
                         EXPECT_OK(int4q_gram_size(39, &c.bytes));
                         EXPECT_OK(int4q_gram_init(39, c.gram_memory, c.bytes));
                     },
                     kMismatch, "gram"});
    table.push_back({"a sum of NaN", [](C &c) { std::memset(c.gram_memory + c.bytes - 8, 0xff, 8); }, kCorrupt, "gram"});
    AddMatrix(table, "source", &C::x, &C::type, "source_type", &C::ldx, "source_stride", Call::kColumns);
    AddPointer(table, "tensor", &C::tensor, {4});
    AddWithin(table, BadTensors(INT4Q_KIND_SYMMETRIC), [](C &c) -> SmallTensor & { return c.small; });
    AddPointer(table, "options", &C::options, {4});
    AddPointer(table, "report", &C::report, {4});
    BadTable<O> fields;
    AddStructSizes(fields, &O::struct_size, sizeof(O));
    AddValues(fields, "worker_count", &O::worker_count, {0, 1025, UINT32_MAX});
    AddEnumerators(fields, "method", &O::method, {-1, 2});
    AddValues(fields, "reserved", &O::reserved, {1});
    AddValues(fields, "iterations", &O::iterations, {0, -1, 1000001, kMin64, kMax64});
    const double infinity = std::numeric_limits<double>::infinity();
    const auto add = [&](const char *name, double O::*field, std::vector<double> values) {
        values.insert(values.end(), {-1.0, std::nan(""), infinity, -infinity});
        for (double bad : values) {
            fields.push_back({std::string(name) + " " + std::to_string(bad), [=](O &o) { o.*field = bad; }, kInvalid, name});
        }
    };
    add("step", &O::step, {0, 1000001});
    add("range_step", &O::range_step, {1000001});
    add("least_range", &O::least_range, {0, 1.01});
    add("most_range", &O::most_range, {0.99, 2.01});
    add("regularization", &O::regularization, {1000001});
    add("warm_up", &O::warm_up, {1.01});
    add("first_exponent", &O::first_exponent, {0.99, 1001});
    add("last_exponent", &O::last_exponent, {0.99, 1001});
    AddWithin(table, fields, [](C &c) -> O & { return c.options_memory; });
    AddValues(table, "struct_size", [](C &c) -> uint32_t & { return c.report_memory.struct_size; }, {0, 55, 64}, kStructSize);
    AddValues(table, "reserved", [](C &c) -> uint32_t & { return c.report_memory.reserved; }, {1});
    table.push_back({"a source of NaN", [](C &c) { c.x_memory[30 * 41 + 3] = std::nanf(""); }, kNotFinite, "source"});
    for (int32_t kind : {INT4Q_KIND_BINARY, INT4Q_KIND_TERNARY, INT4Q_KIND_CODEBOOK}) {
        const auto damage = [=](C &c) {
            c.scheme->kind = kind;
            c.scheme->group_size = 32;
            c.tensor->codebook = c.x_memory;
        };
        table.push_back({"kind " + std::to_string(kind), damage, INT4Q_ERROR_UNSUPPORTED, "kind"});
    }
    Refuse("int4q_learn_rounding", table);
}

struct PushCall : Call {
    PushCall() { EXPECT_OK(int4q_gram_push_scratch(k, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_gram_push_weighted(gram, bytes, x, type, rows, k, ldx, weights, scratch, scratch_bytes, workers, nullptr, nullptr);
    }
    std::string Outputs() const { return std::string(reinterpret_cast<const char *>(gram_memory), sizeof gram_memory); }
};
TEST(BadLearnedRounding, WeightedPush) {
    using C = PushCall;
    BadTable<C> table;
    AddCommon(table);
    AddMatrix(table, "x", &C::x, &C::type, "x_type", &C::ldx, "ldx", Call::kColumns);
    AddPointer(table, "weights", &C::weights, {1, 2});
    AddValues(table, "rows", &C::rows, {0, -1, kMin64});
    AddValues(table, "columns", &C::k, {0, -1, kMin64});
    AddValues(table, "columns", &C::k, {1, 39}, kMismatch);
    AddValues(table, "worker_count", &C::workers, {0, 1025, -1});
    const float infinity = std::numeric_limits<float>::infinity();
    for (float bad : {std::nanf(""), infinity, 0x1p60f}) {
        table.push_back({"x of " + std::to_string(bad), [=](C &c) { c.x_memory[3 * 41 + 39] = bad; }, kNotFinite, "x"});
    }
    for (float bad : {std::nanf(""), infinity, -infinity, -1.0f, -1e-45f}) {
        table.push_back({"a weight of " + std::to_string(bad), [=](C &c) { c.weight_memory[32] = bad; }, kNotFinite, "weights"});
    }
    table.push_back({"a row that is too large with its weight",
                     [](C &c) { c.x_memory[32 * 41 + 39] = 0x1p30f, c.weight_memory[32] = 0x1p60f; }, kNotFinite, "x"});
    Refuse("int4q_gram_push_weighted", table);
}

}  // namespace
}  // namespace int4q_test
