// SPDX-License-Identifier: Apache-2.0
// Rotations, low-rank residuals, channel reassembly: section 13 of the header. Memory, ranges, workers and refusals; what is computed
// is tested through the Python binding (bindings/python/tests/test_transformations.py), against definitions in binary64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
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

Source Values(int64_t rows, int64_t k, uint64_t seed, int4q_type type = INT4Q_TYPE_F32, int64_t gap = 3) {
    Random random(seed);
    Source x(type, rows, k, k + gap);
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t column = 0; column < k; column++) x.Set(row, column, random.Normal());
    }
    return x;
}

GuardedBuffer Guarded(uint64_t bytes) { return GuardedBuffer(static_cast<size_t>(bytes), Placement::kRight, 64); }

std::string TextOf(const GuardedBuffer &buffer) {
    return std::string(reinterpret_cast<const char *>(buffer.data()), buffer.size());
}

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

// Tasks in descending order, each on another worker.
void Backwards(void *, int64_t count, uint32_t workers, int4q_task task, void *context) {
    for (int64_t i = count; i-- > 0;) task(context, i, static_cast<uint32_t>(i) % workers);
}

int4q_status Transform(int64_t order, int32_t side, int32_t direction, const Source &source, Source &target, int64_t begin,
                       int64_t end) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_hadamard_scratch(order, side, target.type, &bytes));
    GuardedBuffer scratch = Guarded(bytes);
    return int4q_hadamard_transform(order, 5, side, direction, source.buffer.data(), source.type, source.stride,
                                    target.buffer.data(), target.type, target.stride, source.n, source.k,
                                    bytes == 0 ? nullptr : scratch.data(), bytes, begin, end);
}

TEST(Hadamard, TouchesOnlyWhatIsDeclared) {
    for (int64_t order : {1, 2, 4, 8, 12, 16, 20, 24, 28, 40, 64, 96, 112, 256, 640}) {
        for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
            const Source source = Values(3, 2 * order, 7, type);
            Source target(type, 3, 2 * order, 2 * order + 1), back(INT4Q_TYPE_F32, 3, 2 * order, 2 * order);
            ASSERT_OK(Transform(order, INT4Q_HADAMARD_ROWS, INT4Q_HADAMARD_FORWARD, source, target, 0, 3));
            ASSERT_OK(Transform(order, INT4Q_HADAMARD_ROWS, INT4Q_HADAMARD_INVERSE, target, back, 0, 3));
            const float error = type == INT4Q_TYPE_F32 ? 1e-5f : type == INT4Q_TYPE_F16 ? 1e-2f : 1e-1f;
            for (int64_t i = 0; i < 3; i++) {
                for (int64_t j = 0; j < 2 * order; j++) ASSERT_NEAR(back(i, j), source(i, j), error) << order << " " << type;
            }
            const Source high = Values(2 * order, 19, 8, type);
            Source turned(type, 2 * order, 19, 20), again(INT4Q_TYPE_F32, 2 * order, 19, 19);
            ASSERT_OK(Transform(order, INT4Q_HADAMARD_COLUMNS, INT4Q_HADAMARD_FORWARD, high, turned, 0, 19));
            ASSERT_OK(Transform(order, INT4Q_HADAMARD_COLUMNS, INT4Q_HADAMARD_INVERSE, turned, again, 0, 19));
            for (int64_t i = 0; i < 2 * order; i++) {
                for (int64_t j = 0; j < 19; j++) ASSERT_NEAR(again(i, j), high(i, j), error) << order << " " << type;
            }
        }
    }
}

TEST(Hadamard, AnyCutsAndInPlace) {
    for (int32_t side : {INT4Q_HADAMARD_ROWS, INT4Q_HADAMARD_COLUMNS}) {
        for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_BF16}) {
            const Source source = Values(48, 48, 3, type);
            Source whole(type, 48, 48, 51), parts(type, 48, 48, 51), same = Values(48, 48, 3, type);
            ASSERT_OK(Transform(24, side, INT4Q_HADAMARD_FORWARD, source, whole, 0, 48));
            for (int64_t begin : {30, 7, 0, 29}) {
                const int64_t end = begin == 30 ? 48 : begin == 7 ? 29 : begin == 0 ? 7 : 30;
                ASSERT_OK(Transform(24, side, INT4Q_HADAMARD_FORWARD, source, parts, begin, end));
            }
            ASSERT_OK(Transform(24, side, INT4Q_HADAMARD_FORWARD, same, same, 0, 48));
            for (int64_t i = 0; i < 48; i++) {
                for (int64_t j = 0; j < 48; j++) {
                    ASSERT_EQ(whole(i, j), parts(i, j));
                    ASSERT_EQ(whole(i, j), same(i, j));
                }
            }
        }
    }
}

TEST(RotatedGram, MemoryWorkersAndInPlace) {
    for (int64_t order : {1, 2, 12, 16, 20, 56, 128}) {
        const int64_t k = order == 1 ? 5 : 2 * order;
        const GuardedBuffer gram = GramOf(Values(70, k, 9));
        std::string first;
        for (uint32_t workers : {1u, 3u}) {
            uint64_t bytes = 0;
            ASSERT_OK(int4q_gram_rotate_scratch(order, workers, &bytes));
            GuardedBuffer scratch = Guarded(bytes), rotated = Guarded(gram.size()), same = Guarded(gram.size());
            std::memcpy(same.data(), gram.data(), gram.size());
            ASSERT_OK(int4q_gram_rotate(order, 3, INT4Q_HADAMARD_FORWARD, gram.data(), gram.size(), rotated.data(), rotated.size(),
                                        scratch.data(), bytes, workers, workers == 1 ? nullptr : Backwards, nullptr));
            ASSERT_OK(int4q_gram_rotate(order, 3, INT4Q_HADAMARD_FORWARD, same.data(), same.size(), same.data(), same.size(),
                                        scratch.data(), bytes, workers, workers == 1 ? nullptr : Backwards, nullptr));
            ASSERT_OK(int4q_gram_validate(rotated.data(), rotated.size()));
            EXPECT_TRUE(TextOf(rotated) == TextOf(same));
            if (first.empty()) first = TextOf(rotated);
            EXPECT_TRUE(TextOf(rotated) == first) << order;
        }
        EXPECT_TRUE(order == 1 || first != TextOf(gram));
    }
}

// ---- Low-rank residuals ----------------------------------------------------------------------------------------------

int4q_lowrank_options FitOptions(uint32_t workers = 1) {
    int4q_lowrank_options options{};
    options.struct_size = sizeof options;
    options.worker_count = workers;
    options.iterations = 2;
    options.seed = 1;
    return options;
}

int4q_lowrank_report FitReport() {
    int4q_lowrank_report report{};
    report.struct_size = sizeof report;
    return report;
}

struct Factors {
    Factors(int64_t n, int64_t k, int64_t rank, int4q_type type) : a(type, n, rank, rank + 1), b(type, rank, k, k + 2) {
        factors.struct_size = sizeof factors;
        factors.type = type;
        factors.n = n, factors.k = k, factors.rank = rank;
        factors.a = a.buffer.data(), factors.a_stride = a.stride;
        factors.b = b.buffer.data(), factors.b_stride = b.stride;
    }
    Source a, b;
    int4q_lowrank factors{};
};

int4q_lowrank_report Fit(const int4q_tensor *tensor, const Source &source, const GuardedBuffer *gram, Factors &out,
                         uint32_t workers) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_lowrank_scratch(source.n, source.k, out.factors.rank, workers, &bytes));
    GuardedBuffer scratch = Guarded(bytes);
    const int4q_lowrank_options options = FitOptions(workers);
    int4q_lowrank_report report = FitReport();
    EXPECT_OK(int4q_lowrank_fit(tensor, source.buffer.data(), source.type, source.stride, gram ? gram->data() : nullptr,
                                gram ? gram->size() : 0, &options, &out.factors, scratch.data(), bytes,
                                workers == 1 ? nullptr : Backwards, nullptr, &report));
    return report;
}

TEST(LowRank, TouchesOnlyWhatIsDeclaredWhateverTheWorkers) {
    struct Shape { int64_t n, k, rank; };
    for (const Shape &shape : {Shape{1, 1, 1}, {1, 40, 1}, {17, 16, 3}, {33, 257, 20}, {130, 300, 33}, {300, 64, 64}}) {
        const GuardedBuffer gram = GramOf(Values(shape.k + 9, shape.k, 5));
        for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
            const Source source = Values(shape.n, shape.k, 11, type);
            TensorMemory tensor(MakeScheme(INT4Q_KIND_ASYMMETRIC, 32, INT4Q_TYPE_F16), shape.n, shape.k);
            ASSERT_OK(source.Quantize(tensor));
            for (const GuardedBuffer *inputs : {static_cast<const GuardedBuffer *>(nullptr), &gram}) {
                for (bool subtracts : {false, true}) {
                    const int4q_tensor *quantized = subtracts ? tensor.get() : nullptr;
                    Factors one(shape.n, shape.k, shape.rank, type), three(shape.n, shape.k, shape.rank, type);
                    const int4q_lowrank_report report = Fit(quantized, source, inputs, one, 1);
                    const int4q_lowrank_report other = Fit(quantized, source, inputs, three, 3);
                    EXPECT_GE(report.reduction, shape.k > 1 ? 1e-12 : 0);
                    EXPECT_LE(report.loss, report.start_loss);
                    EXPECT_EQ(BytesOf(report), BytesOf(other));
                    EXPECT_TRUE(TextOf(one.a.buffer) == TextOf(three.a.buffer));
                    EXPECT_TRUE(TextOf(one.b.buffer) == TextOf(three.b.buffer));
                }
            }
        }
    }
}

TEST(LowRank, ProductsOfAnyCutsAndInPlace) {
    struct Shape { int64_t n, k, rank; };
    for (const Shape &shape : {Shape{1, 1, 1}, {40, 300, 7}, {300, 33, 16}, {260, 530, 256}}) {
        Factors factors(shape.n, shape.k, shape.rank, INT4Q_TYPE_F16);
        Random random(3);
        for (int64_t i = 0; i < shape.n; i++) for (int64_t j = 0; j < shape.rank; j++) factors.a.Set(i, j, random.Normal());
        for (int64_t i = 0; i < shape.rank; i++) for (int64_t j = 0; j < shape.k; j++) factors.b.Set(i, j, random.Normal());
        const Source x = Values(5, shape.k, 4);
        Source y = Values(5, shape.n, 6), parts = Values(5, shape.n, 6);
        const auto add = [&](Source &target, int64_t begin, int64_t end) {
            return int4q_lowrank_add(&factors.factors, x.buffer.data(), x.type, x.stride, target.buffer.data(), target.type,
                                     target.stride, 5, begin, end);
        };
        ASSERT_OK(add(y, 0, 5));
        for (int64_t begin : {3, 0, 2}) ASSERT_OK(add(parts, begin, begin == 3 ? 5 : begin == 0 ? 2 : 3));
        for (int64_t i = 0; i < 5; i++) for (int64_t j = 0; j < shape.n; j++) ASSERT_EQ(y(i, j), parts(i, j));

        const Source w = Values(shape.n, shape.k, 8);
        Source rest(INT4Q_TYPE_F32, shape.n, shape.k, shape.k), same = Values(shape.n, shape.k, 8);
        const auto subtract = [&](const Source &source, Source &target, int64_t begin, int64_t end) {
            return int4q_lowrank_subtract(&factors.factors, source.buffer.data(), source.type, source.stride, target.buffer.data(),
                                          target.type, target.stride, begin, end);
        };
        ASSERT_OK(subtract(w, rest, 0, shape.n));
        for (int64_t end = shape.n; end > 0; end -= 1 + shape.n / 2) {
            ASSERT_OK(subtract(same, same, std::max<int64_t>(0, end - 1 - shape.n / 2), end));
        }
        for (int64_t i = 0; i < shape.n; i++) for (int64_t j = 0; j < shape.k; j++) ASSERT_EQ(rest(i, j), same(i, j));
    }
}

// ---- Channel reassembly ----------------------------------------------------------------------------------------------

int4q_reassembly_options PlanOptions(int64_t most_copies) {
    int4q_reassembly_options options{};
    options.struct_size = sizeof options;
    options.most_copies = most_copies;
    options.steps = 10;
    options.bits = 8;
    options.group_size = 32;
    return options;
}

int4q_reassembly_report PlanReport() {
    int4q_reassembly_report report{};
    report.struct_size = sizeof report;
    return report;
}

TEST(Reassembly, TouchesOnlyWhatIsDeclared) {
    for (int64_t k : {1, 2, 3, 17, 64, 100}) {
        Source x = Values(50, k, 3);
        for (int64_t row = 0; row < x.n; row++) x.Set(row, k / 2, 8 * x(row, k / 2));
        const Source w = Values(9, k, 4);
        const GuardedBuffer gram = GramOf(x), columns = GramOf(w);
        for (uint32_t flags : {0u, static_cast<uint32_t>(INT4Q_REASSEMBLY_WIDEN)}) {
            int4q_reassembly_options options = PlanOptions(k / 2);
            options.flags = flags;
            if (k >= 64) options.threshold = 7;
            uint64_t bytes = 0;
            ASSERT_OK(int4q_reassembly_scratch(k, &bytes));
            GuardedBuffer scratch = Guarded(bytes);
            GuardedBuffer parts(static_cast<size_t>(k + k / 2) * sizeof(int4q_channel_part), Placement::kRight, 4);
            int4q_channel_part *first = reinterpret_cast<int4q_channel_part *>(parts.data());
            int4q_reassembly_report report = PlanReport();
            ASSERT_OK(int4q_reassembly_plan(gram.data(), gram.size(), columns.data(), columns.size(), &options, first, k + k / 2,
                                            scratch.data(), bytes, &report));
            EXPECT_EQ(report.part_count, k + report.copies);
            EXPECT_EQ(report.new_k, flags ? report.part_count : k);
            if (k >= 64) {
                EXPECT_GT(report.copies, 0);
            }
            const int4q_reassembly map{sizeof map, 0, k, report.new_k, report.part_count, first};
            for (int4q_type type : {INT4Q_TYPE_F32, INT4Q_TYPE_F16}) {
                Source new_x(type, x.n, report.new_k, report.new_k + 1), parts_x(type, x.n, report.new_k, report.new_k);
                Source new_w(type, w.n, report.new_k, report.new_k);
                ASSERT_OK(int4q_reassemble_scratch(k, report.new_k, &bytes));
                GuardedBuffer row = Guarded(bytes);
                const auto apply = [&](const Source &source, Source &target, int32_t side, int64_t begin, int64_t end) {
                    return int4q_reassemble_rows(&map, side, source.buffer.data(), source.type, source.stride, target.buffer.data(),
                                                 target.type, target.stride, source.n, row.data(), bytes, begin, end);
                };
                ASSERT_OK(apply(x, new_x, INT4Q_REASSEMBLY_INPUTS, 0, x.n));
                ASSERT_OK(apply(x, parts_x, INT4Q_REASSEMBLY_INPUTS, 20, x.n));
                ASSERT_OK(apply(x, parts_x, INT4Q_REASSEMBLY_INPUTS, 0, 20));
                ASSERT_OK(apply(w, new_w, INT4Q_REASSEMBLY_WEIGHTS, 0, w.n));
                for (int64_t i = 0; i < x.n; i++) {
                    for (int64_t j = 0; j < report.new_k; j++) ASSERT_EQ(new_x(i, j), parts_x(i, j));
                }
                // Without merging the outputs stay.
                for (int64_t i = 0; i < x.n && flags; i++) {
                    double before = 0, after = 0;
                    for (int64_t j = 0; j < k; j++) before += static_cast<double>(x(i, j)) * w(0, j);
                    for (int64_t j = 0; j < report.new_k; j++) after += static_cast<double>(new_x(i, j)) * new_w(0, j);
                    ASSERT_NEAR(after, before, (type == INT4Q_TYPE_F32 ? 1e-5 : 5e-2) * static_cast<double>(k));
                }
            }
            uint64_t new_bytes = 0;
            ASSERT_OK(int4q_gram_size(report.new_k, &new_bytes));
            GuardedBuffer target = Guarded(new_bytes);
            ASSERT_OK(int4q_gram_reassemble(&map, gram.data(), gram.size(), target.data(), new_bytes));
            ASSERT_OK(int4q_gram_validate(target.data(), new_bytes));
        }
    }
}

TEST(CppWrapper, RotationsAndLowRankResiduals) {
    const int64_t n = 24, k = 48, rows = 100;
    Random random(4);
    std::vector<float> w(n * k), x(rows * k), rotated_w(n * k), rotated_x(rows * k);
    for (float &value : w) value = random.Normal();
    for (int64_t i = 0; i < rows * k; i++) x[static_cast<size_t>(i)] = random.Normal() * (i % k == 5 ? 30.0f : 1.0f);
    int4q::Pool pool(2);
    const int64_t order = int4q::hadamard_order(k);
    ASSERT_EQ(order, 48);
    int4q::hadamard({w, n, k}, {rotated_w, n, k}, order, 9);
    int4q::hadamard({x, rows, k}, {rotated_x, rows, k}, order, 9);
    int4q::Gram gram(k), expected(k);
    gram.push({x, rows, k});
    expected.push({rotated_x, rows, k});
    const int4q::Gram rotated = int4q::rotate(gram, order, 9, INT4Q_HADAMARD_FORWARD, &pool);
    std::vector<double> found(k * k), pushed(k * k);
    ASSERT_OK(int4q_gram_matrix(rotated.data(), rotated.bytes(), found.data(), k, 0, k));
    ASSERT_OK(int4q_gram_matrix(expected.data(), expected.bytes(), pushed.data(), k, 0, k));
    for (size_t i = 0; i < found.size(); i++) ASSERT_NEAR(found[i], pushed[i], 0.1);

    int4q_scheme scheme{};
    scheme.kind = INT4Q_KIND_ASYMMETRIC, scheme.group_size = 16, scheme.scale_type = INT4Q_TYPE_F16;
    const int4q::Tensor tensor = int4q::quantize({rotated_w, n, k}, scheme);
    int4q::LowRank residual(n, k, 6);
    const int4q_lowrank_report report = residual.fit({rotated_w, n, k}, &tensor, &rotated, &pool);
    EXPECT_LT(report.loss, 0.9 * report.start_loss);
    // y of the tensor and the residual is nearer to x W^T than without: the loss is the mean of the rows' squared errors.
    std::vector<float> values(n * k), zeros(rows * n), product(n * k);
    tensor.dequantize({values, n, k});
    int4q::LowRank whole(n, k, n);
    (void)whole.fit({rotated_w, n, k});
    whole.subtract({rotated_w, n, k}, {product, n, k});
    for (float value : product) ASSERT_NEAR(value, 0, 1e-4f);
    residual.add({rotated_x, rows, k}, {zeros, rows, n});
    double with = 0, without = 0;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = 0; i < n; i++) {
            double error = 0;
            for (int64_t j = 0; j < k; j++) {
                error += static_cast<double>(rotated_x[static_cast<size_t>(row * k + j)]) *
                         (rotated_w[static_cast<size_t>(i * k + j)] - values[static_cast<size_t>(i * k + j)]);
            }
            without += error * error;
            error -= zeros[static_cast<size_t>(row * n + i)];
            with += error * error;
        }
    }
    EXPECT_NEAR(without / rows, report.start_loss, 1e-3 * report.start_loss);
    EXPECT_NEAR(with / rows, report.loss, 1e-3 * report.start_loss);
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

struct Call {
    static constexpr int64_t kRows = 33, kColumns = 40;
    alignas(64) float x_memory[kRows * 41 + 1], target_memory[kRows * 41 + 1]{};
    alignas(64) unsigned char gram_memory[16384], rotated_memory[16384];
    alignas(64) float a_memory[kRows * 9 + 1]{}, b_memory[9 * 41 + 1]{};
    std::vector<unsigned char> scratch_memory = std::vector<unsigned char>(1 << 20);
    SmallTensor small{INT4Q_KIND_ASYMMETRIC};
    int4q_lowrank_options options_memory = FitOptions();
    int4q_lowrank_report report_memory = FitReport();
    int4q_lowrank factors_memory{};
    uint64_t size = 0;
    int64_t order_memory = 0;

    int64_t n = kRows, k = kColumns, ldx = 41, ldy = 41, begin = 0, end = kRows, order = 20, rank = 8, m = kRows;
    uint32_t workers = 1;
    int32_t side = INT4Q_HADAMARD_ROWS, direction = INT4Q_HADAMARD_FORWARD;
    int4q_type type = INT4Q_TYPE_F32, target_type = INT4Q_TYPE_F32;
    void *gram = gram_memory, *rotated = rotated_memory, *scratch = nullptr, *x = x_memory, *target = target_memory;
    uint64_t bytes = 0, rotated_bytes = 0, scratch_bytes = 0, *bytes_out = &size;
    int64_t *order_out = &order_memory;
    int4q_tensor *tensor = &small.tensor;
    int4q_lowrank_options *options = &options_memory;
    int4q_lowrank_report *report = &report_memory;
    int4q_lowrank *factors = &factors_memory;

    Call() {
        Random random(3);
        for (float &value : x_memory) value = random.Normal();
        for (float &value : a_memory) value = random.Normal();
        for (float &value : b_memory) value = random.Normal();
        EXPECT_OK(int4q_gram_size(k, &bytes));
        EXPECT_LE(bytes, sizeof gram_memory);
        rotated_bytes = bytes;
        std::memset(gram_memory, 0xa5, sizeof gram_memory);
        std::memset(rotated_memory, 0xa5, sizeof rotated_memory);
        EXPECT_OK(int4q_gram_init(k, gram_memory, bytes));
        scratch = scratch_memory.data() + (64 - reinterpret_cast<uintptr_t>(scratch_memory.data()) % 64);
        factors_memory.struct_size = sizeof factors_memory;
        factors_memory.type = INT4Q_TYPE_F32;
        factors_memory.n = n, factors_memory.k = k, factors_memory.rank = rank;
        factors_memory.a = a_memory, factors_memory.a_stride = 9;
        factors_memory.b = b_memory, factors_memory.b_stride = 41;
        EXPECT_OK(int4q_quantize_rows(tensor, x, type, ldx, 0, n));
    }
    Call(const Call &) = delete;
    std::string Outputs() const {
        return BytesOf(x_memory) + BytesOf(target_memory) + BytesOf(rotated_memory) + BytesOf(a_memory) + BytesOf(b_memory) +
               small.Bytes() + BytesOf(report_memory) + BytesOf(size) + BytesOf(order_memory);
    }
};

template <typename C>
void Refuse(const char *function, const BadTable<C> &table) {
    ExpectRefused<C>(function, [] { return std::make_unique<C>(); }, table);
}

template <typename C>
void AddScratch(BadTable<C> &table) {
    AddPointer(table, "scratch", &C::scratch, {1, 8, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
}

template <typename C>
void AddOrders(BadTable<C> &table) {
    AddValues(table, "order", &C::order, {0, -1, -20, 3, 5, 36, 44, 60, 140, kMax64, kMin64});
    AddValues(table, "order", &C::order, {(int64_t{1} << 24) + 1, int64_t{1} << 25});
}

template <typename C>
void AddGram(BadTable<C> &table, int4q_status mismatch = kMismatch) {
    AddPointer(table, "gram", &C::gram, {1, 8, 32});
    AddTooSmall(table, "gram_bytes", &C::bytes);
    for (size_t byte : {0, 7, 16, 24, 100, 127}) {
        table.push_back({"a damaged header at " + std::to_string(byte), [=](C &c) { c.gram_memory[byte] ^= 0x40; }, kCorrupt, "gram"});
    }
    table.push_back({"a negative diagonal",
                     [](C &c) {
                         const double value = -1;
                         std::memcpy(c.gram_memory + c.bytes - 8, &value, 8);
                     },
                     kCorrupt, "gram"});
    table.push_back({"a Gram matrix of another k",
                     [](C &c) {
                         EXPECT_OK(int4q_gram_size(39, &c.bytes));
                         EXPECT_OK(int4q_gram_init(39, c.gram_memory, c.bytes));
                     },
                     mismatch, "gram"});
}

struct OrderCall : Call {
    int4q_status Run() { return int4q_hadamard_order(k, order_out); }
};
struct HadamardScratchCall : Call {
    int4q_status Run() { return int4q_hadamard_scratch(order, side, target_type, bytes_out); }
};
struct RotateScratchCall : Call {
    int4q_status Run() { return int4q_gram_rotate_scratch(order, workers, bytes_out); }
};
struct FitScratchCall : Call {
    int4q_status Run() { return int4q_lowrank_scratch(n, k, rank, workers, bytes_out); }
};

TEST(BadTransformations, Sizes) {
    BadTable<OrderCall> order;
    AddValues(order, "k", &OrderCall::k, {0, -1, kMin64});
    AddPointer(order, "order", &OrderCall::order_out, {4});
    Refuse("int4q_hadamard_order", order);
    BadTable<HadamardScratchCall> scratch;
    AddOrders(scratch);
    AddEnumerators(scratch, "side", &HadamardScratchCall::side, {-1, 2});
    AddEnumerators(scratch, "destination_type", &HadamardScratchCall::target_type, {0, 4, -1});
    AddPointer(scratch, "bytes", &HadamardScratchCall::bytes_out, {4});
    Refuse("int4q_hadamard_scratch", scratch);
    BadTable<RotateScratchCall> rotate;
    AddOrders(rotate);
    AddValues(rotate, "worker_count", &RotateScratchCall::workers, {0, 1025, -1});
    AddPointer(rotate, "bytes", &RotateScratchCall::bytes_out, {4});
    Refuse("int4q_gram_rotate_scratch", rotate);
    BadTable<FitScratchCall> fit;
    AddValues(fit, "n", &FitScratchCall::n, {0, -1, kMin64});
    AddValues(fit, "k", &FitScratchCall::k, {0, -1, kMin64});
    AddValues(fit, "n", &FitScratchCall::n, {kMax64, int64_t{1} << 31}, kOverflow);
    AddValues(fit, "k", &FitScratchCall::k, {kMax64, int64_t{1} << 31}, kOverflow);
    AddValues(fit, "rank", &FitScratchCall::rank, {0, -1, 34, 257, kMax64, kMin64});
    AddValues(fit, "worker_count", &FitScratchCall::workers, {0, 1025, -1});
    AddPointer(fit, "bytes", &FitScratchCall::bytes_out, {4});
    Refuse("int4q_lowrank_scratch", fit);
}

// Rows of halves, which take scratch.
struct HadamardCall : Call {
    HadamardCall() {
        target_type = INT4Q_TYPE_F16;
        EXPECT_OK(int4q_hadamard_scratch(order, side, target_type, &scratch_bytes));
    }
    int4q_status Run() {
        return int4q_hadamard_transform(order, 1, side, direction, x, type, ldx, target, target_type, ldy, n, k, scratch, scratch_bytes,
                                        begin, end);
    }
};
struct ColumnsCall : Call {
    ColumnsCall() {
        side = INT4Q_HADAMARD_COLUMNS;
        n = 32, order = 16, end = kColumns;
        EXPECT_OK(int4q_hadamard_scratch(order, side, target_type, &scratch_bytes));
    }
    int4q_status Run() {
        return int4q_hadamard_transform(order, 1, side, direction, x, type, ldx, target, target_type, ldy, n, k, scratch, scratch_bytes,
                                        begin, end);
    }
};
struct PlainCall : Call {
    int4q_status Run() {
        return int4q_hadamard_transform(order, 1, side, direction, x, type, ldx, target, target_type, ldy, n, k, nullptr, 0, begin, end);
    }
};

TEST(BadTransformations, Hadamard) {
    BadTable<HadamardCall> rows;
    AddOrders(rows);
    AddScratch(rows);
    AddValues(rows, "k", &HadamardCall::order, {16, 12, 28, 80}, kMismatch);
    AddEnumerators(rows, "side", &HadamardCall::side, {-1, 2});
    AddEnumerators(rows, "direction", &HadamardCall::direction, {-1, 2});
    AddMatrix(rows, "source", &HadamardCall::x, &HadamardCall::type, "source_type", &HadamardCall::ldx, "source_stride", Call::kColumns);
    AddValues(rows, "n", &HadamardCall::n, {0, -1, kMin64});
    AddValues(rows, "k", &HadamardCall::k, {0, -1, kMin64});
    AddRanges(rows, Call::kRows, "begin", "end");
    Refuse("int4q_hadamard_transform", rows);
    BadTable<ColumnsCall> columns;
    AddScratch(columns);
    AddValues(columns, "n", &ColumnsCall::order, {64, 20}, kMismatch);
    AddRanges(columns, Call::kColumns, "begin", "end");
    Refuse("int4q_hadamard_transform", columns);
    BadTable<PlainCall> plain;
    AddMatrix(plain, "destination", &PlainCall::target, &PlainCall::target_type, "destination_type", &PlainCall::ldy, "destination_stride",
              Call::kColumns);
    plain.push_back({"halves without scratch", [](Call &c) { c.target_type = INT4Q_TYPE_BF16; }, kNull, "scratch"});
    Refuse("int4q_hadamard_transform", plain);
}

struct RotateCall : Call {
    RotateCall() { EXPECT_OK(int4q_gram_rotate_scratch(order, 1, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_gram_rotate(order, 1, direction, gram, bytes, rotated, rotated_bytes, scratch, scratch_bytes, workers, nullptr, nullptr);
    }
};

TEST(BadTransformations, GramMatrices) {
    BadTable<RotateCall> table;
    AddOrders(table);
    AddGram(table);
    AddScratch(table);
    AddValues(table, "gram", &RotateCall::order, {16, 12, 28, 80}, kMismatch);
    AddEnumerators(table, "direction", &RotateCall::direction, {-1, 2});
    AddPointer(table, "rotated", &RotateCall::rotated, {1, 8, 32});
    AddTooSmall(table, "rotated_bytes", &RotateCall::rotated_bytes);
    AddValues(table, "worker_count", &RotateCall::workers, {0, 1025, -1});
    Refuse("int4q_gram_rotate", table);
}

struct FitCall : Call {
    FitCall() { EXPECT_OK(int4q_lowrank_scratch(n, k, rank, 1, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_lowrank_fit(tensor, x, type, ldx, gram, bytes, options, factors, scratch, scratch_bytes, nullptr, nullptr, report);
    }
};
struct AddCall : Call {
    int4q_status Run() { return int4q_lowrank_add(factors, x, type, ldx, target, target_type, ldy, m, begin, end); }
};
struct SubtractCall : Call {
    int4q_status Run() { return int4q_lowrank_subtract(factors, x, type, ldx, target, target_type, ldy, begin, end); }
};

template <typename C>
void AddFactors(BadTable<C> &table) {
    using F = int4q_lowrank;
    AddPointer(table, "factors", &C::factors, {4});
    BadTable<F> fields;
    AddStructSizes(fields, &F::struct_size, sizeof(F));
    AddEnumerators(fields, "type", &F::type, {0, 4, -1});
    AddValues(fields, "n", &F::n, {0, -1, kMin64});
    AddValues(fields, "k", &F::k, {0, -1, kMin64});
    AddValues(fields, "rank", &F::rank, {0, -1, 34, 257, kMax64, kMin64});
    AddPointer(fields, "a", &F::a, {1, 2});
    AddPointer(fields, "b", &F::b, {1, 2});
    AddValues(fields, "a_stride", &F::a_stride, {0, 7, -9, kMin64});
    AddValues(fields, "b_stride", &F::b_stride, {0, 39, -41, kMin64});
    AddValues(fields, "a_stride", &F::a_stride, {kMax64, int64_t{1} << 62}, kOverflow);
    AddValues(fields, "b_stride", &F::b_stride, {kMax64, int64_t{1} << 62}, kOverflow);
    AddWithin(table, fields, [](C &c) -> F & { return c.factors_memory; });
}

TEST(BadTransformations, LowRankFit) {
    BadTable<FitCall> table;
    AddFactors(table);
    AddScratch(table);
    AddMatrix(table, "source", &FitCall::x, &FitCall::type, "source_type", &FitCall::ldx, "source_stride", Call::kColumns);
    AddPointer(table, "options", &FitCall::options, {4});
    AddPointer(table, "report", &FitCall::report, {4});
    AddGram(table);
    // Without a pointer there is no Gram matrix, which is allowed.
    for (size_t i = 0; i < table.size(); i++) {
        if (table[i].what == "gram = NULL") table.erase(table.begin() + static_cast<std::ptrdiff_t>(i--));
    }
    using O = int4q_lowrank_options;
    BadTable<O> options;
    AddStructSizes(options, &O::struct_size, sizeof(O));
    AddValues(options, "flags", &O::flags, {2, 3, kMin32});
    AddValues(options, "worker_count", &O::worker_count, {0, 1025, -1});
    AddValues(options, "iterations", &O::iterations, {-1, 1001, kMin32, kMax32});
    AddWithin(table, options, [](FitCall &c) -> O & { return c.options_memory; });
    using R = int4q_lowrank_report;
    BadTable<R> reports;
    AddStructSizes(reports, &R::struct_size, sizeof(R));
    AddValues(reports, "reserved", &R::reserved, {1, -1});
    AddWithin(table, reports, [](FitCall &c) -> R & { return c.report_memory; });
    AddWithin(table, BadTensors(INT4Q_KIND_ASYMMETRIC), [](FitCall &c) -> SmallTensor & { return c.small; });
    table.push_back({"a tensor of another n", [](FitCall &c) { c.small.tensor.n = 32; }, kMismatch, "n"});
    table.push_back({"a tensor of another k", [](FitCall &c) { c.small.tensor.k = 39; }, kMismatch, "k"});
    const float infinity = std::numeric_limits<float>::infinity();
    for (float bad : {std::nanf(""), infinity, -infinity}) {
        table.push_back({"a source of " + std::to_string(bad), [=](FitCall &c) { c.x_memory[7 * 41 + 33] = bad; }, kNotFinite, "source"});
    }
    Refuse("int4q_lowrank_fit", table);
}

TEST(BadTransformations, LowRankProducts) {
    BadTable<AddCall> add;
    AddFactors(add);
    AddMatrix(add, "x", &AddCall::x, &AddCall::type, "x_type", &AddCall::ldx, "ldx", Call::kColumns);
    AddMatrix(add, "y", &AddCall::target, &AddCall::target_type, "y_type", &AddCall::ldy, "ldy", Call::kRows);
    AddValues(add, "m", &AddCall::m, {0, -1, kMin64});
    AddRanges(add, Call::kRows, "row_begin", "row_end");
    Refuse("int4q_lowrank_add", add);
    BadTable<SubtractCall> subtract;
    AddFactors(subtract);
    AddMatrix(subtract, "source", &SubtractCall::x, &SubtractCall::type, "source_type", &SubtractCall::ldx, "source_stride", Call::kColumns);
    AddMatrix(subtract, "destination", &SubtractCall::target, &SubtractCall::target_type, "destination_type", &SubtractCall::ldy,
              "destination_stride", Call::kColumns);
    AddRanges(subtract, Call::kRows, "row_begin", "row_end");
    Refuse("int4q_lowrank_subtract", subtract);
}

struct PlanScratchCall : Call {
    int4q_status Run() { return int4q_reassembly_scratch(k, bytes_out); }
};
struct RowScratchCall : Call {
    int4q_status Run() { return int4q_reassemble_scratch(k, n, bytes_out); }
};

// With a Gram matrix that has seen rows, and that of the weights.
struct PlanCall : Call {
    alignas(64) unsigned char weights_memory[16384];
    int4q_channel_part part_memory[60]{};
    int4q_reassembly_options plan_memory = PlanOptions(20);
    int4q_reassembly_report plan_report_memory = PlanReport();
    void *weights = weights_memory;
    uint64_t weights_bytes = 0;
    int4q_channel_part *parts = part_memory;
    int64_t capacity = 60;
    int4q_reassembly_options *plan = &plan_memory;
    int4q_reassembly_report *plan_report = &plan_report_memory;

    PlanCall() {
        uint64_t needed = 0;
        EXPECT_OK(int4q_gram_push_scratch(k, &needed));
        EXPECT_LE(needed + 64, scratch_memory.size());
        EXPECT_OK(int4q_gram_push(gram, bytes, x, type, n, k, ldx, scratch, needed, 1, nullptr, nullptr));
        std::memcpy(weights_memory, gram_memory, sizeof weights_memory);
        weights_bytes = bytes;
        EXPECT_OK(int4q_reassembly_scratch(k, &scratch_bytes));
    }
    int4q_status Run() {
        return int4q_reassembly_plan(gram, bytes, weights, weights_bytes, plan, parts, capacity, scratch, scratch_bytes, plan_report);
    }
    std::string Outputs() const { return Call::Outputs() + BytesOf(part_memory) + BytesOf(plan_report_memory); }
};

TEST(BadTransformations, ReassemblyPlans) {
    BadTable<PlanScratchCall> size;
    AddValues(size, "k", &PlanScratchCall::k, {0, -1, kMin64});
    AddValues(size, "k", &PlanScratchCall::k, {kMax64, int64_t{1} << 31}, kOverflow);
    AddPointer(size, "bytes", &PlanScratchCall::bytes_out, {4});
    Refuse("int4q_reassembly_scratch", size);
    BadTable<RowScratchCall> row;
    AddValues(row, "k", &RowScratchCall::k, {0, -1, kMin64});
    AddValues(row, "new_k", &RowScratchCall::n, {0, -1, kMin64});
    AddValues(row, "k", &RowScratchCall::k, {kMax64, int64_t{1} << 31}, kOverflow);
    AddValues(row, "new_k", &RowScratchCall::n, {kMax64, int64_t{1} << 31}, kOverflow);
    AddPointer(row, "bytes", &RowScratchCall::bytes_out, {4});
    Refuse("int4q_reassemble_scratch", row);

    BadTable<PlanCall> table;
    AddGram(table);
    // What does not fit then is the number of copies.
    table.back().status = kInvalid, table.back().argument = "most_copies";
    table.push_back({"weights of another k",
                     [](PlanCall &c) {
                         EXPECT_OK(int4q_gram_size(39, &c.weights_bytes));
                         EXPECT_OK(int4q_gram_init(39, c.weights_memory, c.weights_bytes));
                     },
                     kMismatch, "weights"});
    AddPointer(table, "weights", &PlanCall::weights, {1, 8, 32});
    AddTooSmall(table, "weights_bytes", &PlanCall::weights_bytes);
    AddScratch(table);
    AddPointer(table, "options", &PlanCall::plan, {4});
    AddPointer(table, "report", &PlanCall::plan_report, {4});
    AddPointer(table, "parts", &PlanCall::parts, {1, 2});
    AddValues(table, "capacity", &PlanCall::capacity, {0, -1, 39, kMin64}, kTooSmall);
    using O = int4q_reassembly_options;
    BadTable<O> options;
    AddStructSizes(options, &O::struct_size, sizeof(O));
    AddValues(options, "flags", &O::flags, {2, 3, kMin32});
    AddValues(options, "most_copies", &O::most_copies, {-1, 21, kMax64, kMin64});
    AddValues(options, "steps", &O::steps, {0, -1, 1001, kMax32});
    AddValues(options, "bits", &O::bits, {0, 1, 17, -1});
    AddValues(options, "group_size", &O::group_size, {-1, kMin64});
    for (double bad : {-1.0, std::nan(""), static_cast<double>(std::numeric_limits<float>::infinity()), 1e-3, 1e-300}) {
        options.push_back({"a threshold of " + std::to_string(bad), [=](O &o) { o.threshold = bad; }, kInvalid, "threshold"});
    }
    AddWithin(table, options, [](PlanCall &c) -> O & { return c.plan_memory; });
    using R = int4q_reassembly_report;
    BadTable<R> reports;
    AddStructSizes(reports, &R::struct_size, sizeof(R));
    AddValues(reports, "reserved", &R::reserved, {1, -1});
    AddWithin(table, reports, [](PlanCall &c) -> R & { return c.plan_report_memory; });
    Refuse("int4q_reassembly_plan", table);
}

// A map of each channel to itself.
struct MapCall : Call {
    int4q_channel_part part_memory[kColumns]{};
    int4q_reassembly map_memory{sizeof map_memory, 0, kColumns, kColumns, kColumns, part_memory};
    int4q_reassembly *map = &map_memory;
    int32_t map_side = INT4Q_REASSEMBLY_INPUTS;

    MapCall() {
        for (int32_t i = 0; i < kColumns; i++) part_memory[i] = {i, i, 1.0f, 0};
    }
};
struct ReassembleCall : MapCall {
    ReassembleCall() { EXPECT_OK(int4q_reassemble_scratch(kColumns, kColumns, &scratch_bytes)); }
    int4q_status Run() {
        return int4q_reassemble_rows(map, map_side, x, type, ldx, target, target_type, ldy, n, scratch, scratch_bytes, begin, end);
    }
};
struct GramReassembleCall : MapCall {
    int4q_status Run() { return int4q_gram_reassemble(map, gram, bytes, rotated, rotated_bytes); }
};

template <typename C>
void AddMap(BadTable<C> &table) {
    using M = int4q_reassembly;
    AddPointer(table, "map", &C::map, {4});
    BadTable<M> fields;
    AddStructSizes(fields, &M::struct_size, sizeof(M));
    AddValues(fields, "reserved", &M::reserved, {1, -1});
    AddValues(fields, "k", &M::k, {0, -1, kMin64});
    AddValues(fields, "new_k", &M::new_k, {0, -1, kMin64});
    AddValues(fields, "k", &M::k, {kMax64, int64_t{1} << 31}, kOverflow);
    AddValues(fields, "new_k", &M::new_k, {kMax64, int64_t{1} << 31}, kOverflow);
    AddValues(fields, "part_count", &M::part_count, {0, -1, 39, kMin64});
    AddValues(fields, "parts", &M::k, {39, 1});
    AddValues(fields, "parts", &M::new_k, {39, 1});
    AddPointer(fields, "parts", &M::parts, {1, 2});
    AddWithin(table, fields, [](C &c) -> M & { return c.map_memory; });
    const auto damage = [&](const char *what, std::function<void(int4q_channel_part *)> change) {
        table.push_back({what, [=](C &c) { change(c.part_memory); }, kInvalid, "parts"});
    };
    damage("a target that is left out", [](int4q_channel_part *p) { p[0].target = 1; });
    damage("targets in another order", [](int4q_channel_part *p) { p[9].target = 7; });
    damage("a target too large", [](int4q_channel_part *p) { p[39].target = 40; });
    damage("no last target", [](int4q_channel_part *p) { p[39].target = 38; });
    damage("a negative target", [](int4q_channel_part *p) { p[0].target = -1; });
    damage("a source too large", [](int4q_channel_part *p) { p[3].source = 40; });
    damage("a negative source", [](int4q_channel_part *p) { p[3].source = -1; });
    damage("a factor of NaN", [](int4q_channel_part *p) { p[3].x_factor = std::nanf(""); });
    damage("a factor of infinity", [](int4q_channel_part *p) { p[3].x_factor = std::numeric_limits<float>::infinity(); });
    damage("a number in `reserved`", [](int4q_channel_part *p) { p[3].reserved = 1; });
}

TEST(BadTransformations, ReassemblyMaps) {
    BadTable<ReassembleCall> rows;
    AddMap(rows);
    AddScratch(rows);
    AddEnumerators(rows, "side", &ReassembleCall::map_side, {-1, 2});
    AddMatrix(rows, "source", &ReassembleCall::x, &ReassembleCall::type, "source_type", &ReassembleCall::ldx, "source_stride",
              Call::kColumns);
    AddMatrix(rows, "destination", &ReassembleCall::target, &ReassembleCall::target_type, "destination_type", &ReassembleCall::ldy,
              "destination_stride", Call::kColumns);
    AddValues(rows, "n", &ReassembleCall::n, {0, -1, kMin64});
    AddRanges(rows, Call::kRows, "row_begin", "row_end");
    Refuse("int4q_reassemble_rows", rows);
    BadTable<GramReassembleCall> gram;
    AddMap(gram);
    AddGram(gram);
    AddPointer(gram, "target", &GramReassembleCall::rotated, {1, 8, 32});
    AddTooSmall(gram, "target_bytes", &GramReassembleCall::rotated_bytes);
    Refuse("int4q_gram_reassemble", gram);
}


// Targets in order, but from -1: the first channel is not before the others.
TEST(BadTransformations, ReassemblyMapsBeginWithTargetZero) {
    const int4q_channel_part parts[3] = {{-1, 0, 1, 0}, {0, 0, 1, 0}, {1, 1, 1, 0}};
    const int4q_reassembly map{sizeof map, 0, 2, 2, 3, parts};
    const float x[2] = {1, 2};
    float y[2] = {7, 7};
    alignas(64) unsigned char scratch[64];
    EXPECT_EQ(int4q_reassemble_rows(&map, INT4Q_REASSEMBLY_INPUTS, x, INT4Q_TYPE_F32, 2, y, INT4Q_TYPE_F32, 2, 1, scratch,
                                    sizeof scratch, 0, 1),
              INT4Q_ERROR_INVALID_ARGUMENT);
    EXPECT_EQ(y[0], 7);
}

// The wrappers compare shapes, which the C functions cannot.
TEST(CppTransformations, ShapesAreCompared) {
    std::vector<float> few(32), many(64);
    const int4q::ConstMatrix large(many.data(), INT4Q_TYPE_F32, 4, 16, 16);
    const int4q::Matrix small(few.data(), INT4Q_TYPE_F32, 2, 16, 16);
    EXPECT_THROW(int4q::hadamard(large, small, 16), int4q::Error);
    int4q::LowRank factors(8, 16, 2);
    EXPECT_THROW(factors.fit(large), int4q::Error);
    EXPECT_THROW(factors.add(large, small), int4q::Error);
    EXPECT_THROW(factors.subtract(large, small), int4q::Error);
}

}  // namespace
}  // namespace int4q_test
