// SPDX-License-Identifier: Apache-2.0
// Twin ranges and twin scales: section 9 of the header, against re-derivations.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/bad_arguments.hpp"
#include "support/blob_memory.hpp"
#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;

// ---- Twin ranges for activations --------------------------------------------------------------------------------------

float Value(const int4q_twin_ranges &ranges, int code) {
    const int step = ranges.kind == INT4Q_TWIN_GELU ? code - 8 : code & 7;
    return (code < 8 ? ranges.first : ranges.second) * static_cast<float>(step);
}

int Code(const int4q_twin_ranges &ranges, float value) {
    const auto steps = [&](float step, float low) { return std::nearbyint(std::min(std::max(value / step, low), 7.0f)); };
    if (ranges.kind == INT4Q_TWIN_GELU) return 8 + static_cast<int>(value < 0 ? steps(ranges.first, -8) : steps(ranges.second, -8));
    const float fine = steps(ranges.first, 0), coarse = steps(ranges.second, 0);
    bool second = value > 7 * ranges.first;
    if (ranges.choice == INT4Q_TWIN_BY_ERROR) {
        const float fine_error = value - fine * ranges.first, coarse_error = value - coarse * ranges.second;
        second = coarse_error * coarse_error < fine_error * fine_error;
    }
    return static_cast<int>(second ? 8 + coarse : fine);
}

void FillActivations(Source &source, Random &random, bool gelu) {
    for (int64_t i = 0; i < source.n * source.k; i++) {
        const double v = random.Normal();
        float value = gelu ? static_cast<float>(v / 2 * std::erfc(-v / std::sqrt(2.0))) : static_cast<float>(std::exp(-6 * std::fabs(v)));
        if (random.Chance(0.05)) value = static_cast<float>(random.Integer(gelu ? -20 : -3, 20)) / 14.0f;  // ties, and beyond
        source.Set(i / source.k, i % source.k, value);
    }
}

std::vector<int4q_twin_ranges> SomeRanges() {
    std::vector<int4q_twin_ranges> all;
    for (int32_t choice : {INT4Q_TWIN_BY_THRESHOLD, INT4Q_TWIN_BY_ERROR}) {
        for (float split : {1.0f, 0.25f, 0.015625f, 0x1p-19f}) all.push_back({INT4Q_TWIN_SOFTMAX, choice, split / 7, 1.0f / 7});
        for (float second : {0.01f, 0.25f, 0.5f}) all.push_back({INT4Q_TWIN_GELU, choice, 0.16997124f / 8, second});
    }
    return all;
}

TEST(TwinRanges, CodesAndValuesEqualTheDefinition) {
    Random random(1);
    for (const int4q_twin_ranges &ranges : SomeRanges()) {
        for (int4q_type type : kTypes) {
            for (int64_t columns : {1, 2, 15, 16, 33, 255, 256, 301}) {
                for (int4q_isa isa : {UsableIsas().front(), UsableIsas().back()}) {
                    IsaLimit limit(isa);
                    Source source(type, 5, columns, columns + 1, columns % 2 ? Placement::kLeft : Placement::kRight);
                    FillActivations(source, random, ranges.kind == INT4Q_TWIN_GELU);
                    source.buffer.ForbidWriting();
                    const int64_t row_bytes = (columns + 1) / 2;
                    GuardedBuffer codes(static_cast<size_t>(5 * row_bytes), Placement::kRight);
                    const auto quantize = [&](int64_t begin, int64_t end) {
                        return int4q_twin_quantize(&ranges, source.buffer.data(), type, 5, columns, columns + 1, codes.data(),
                                                   codes.size(), begin, end);
                    };
                    ASSERT_OK(quantize(3, 5));
                    ASSERT_OK(quantize(0, 3));
                    codes.ForbidWriting();
                    Source back(type, 5, columns, columns + 2);
                    ASSERT_OK(int4q_twin_dequantize(&ranges, codes.data(), codes.size(), 5, columns, back.buffer.data(), type,
                                                    columns + 2, 0, 5));
                    for (int64_t row = 0; row < 5; row++) {
                        for (int64_t column = 0; column < columns; column++) {
                            const int byte = codes.data()[row * row_bytes + column / 2];
                            const int code = column % 2 ? byte >> 4 : byte & 15;
                            ASSERT_EQ(code, Code(ranges, source(row, column))) << source(row, column);
                            ASSERT_EQ(back(row, column), RoundTo(type, Value(ranges, code)));
                        }
                        if (columns % 2) {
                            ASSERT_EQ(codes.data()[row * row_bytes + row_bytes - 1] >> 4, 0);
                        }
                    }
                }
            }
        }
    }
}

TEST(TwinRanges, CandidatesAreThoseOfPtq4vit) {
    int4q_twin_ranges candidates[INT4Q_TWIN_MAX_CANDIDATES];
    int64_t count = 0;
    ASSERT_OK(int4q_twin_candidates(INT4Q_TWIN_SOFTMAX, INT4Q_TWIN_BY_THRESHOLD, INT4Q_TWIN_STEPS_EVEN, 0, candidates, &count));
    ASSERT_EQ(count, 20);
    for (int i = 0; i < 20; i++) {
        EXPECT_EQ(candidates[i].second, 1.0f / 7);
        EXPECT_EQ(candidates[i].first, std::ldexp(1.0f / 7, -i));
        EXPECT_EQ(candidates[i].kind, INT4Q_TWIN_SOFTMAX);
    }
    ASSERT_OK(int4q_twin_candidates(INT4Q_TWIN_GELU, INT4Q_TWIN_BY_ERROR, INT4Q_TWIN_STEPS_EVEN, 3, candidates, &count));
    ASSERT_EQ(count, 100);
    for (int i = 0; i < 100; i++) {
        EXPECT_EQ(candidates[i].first, static_cast<float>(0.16997124254703522 / 8));
        EXPECT_NEAR(candidates[i].second, 1.2 * (i + 1) / 100 * 3 / 7.5, 1e-7);
        EXPECT_EQ(candidates[i].choice, INT4Q_TWIN_BY_ERROR);
    }
    for (float largest : {1e-35f, 0.01f, 3.0f, 1e30f}) {
        ASSERT_OK(int4q_twin_candidates(INT4Q_TWIN_GELU, 0, INT4Q_TWIN_STEPS_POWER, largest, candidates, &count));
        EXPECT_GE(count, 1);
        EXPECT_LE(candidates[0].second, 1.2 * largest / 7.5);
        EXPECT_GT(candidates[0].second * 2.0, 1.2 * largest / 7.5);
        for (int64_t i = 0; i < count; i++) {
            int exponent = 0;
            EXPECT_EQ(std::frexp(candidates[i].second / candidates[i].first, &exponent), 0.5f);
        }
    }
}

TEST(TwinRanges, ErrorsAreSumsOfSquares) {
    Random random(2);
    for (bool gelu : {false, true}) {
        int4q_twin_ranges candidates[INT4Q_TWIN_MAX_CANDIDATES];
        int64_t count = 0;
        ASSERT_OK(int4q_twin_candidates(gelu ? INT4Q_TWIN_GELU : INT4Q_TWIN_SOFTMAX, gelu, 0, 2.5f, candidates, &count));
        Source source(INT4Q_TYPE_F32, 7, 300, 300);
        FillActivations(source, random, gelu);
        source.buffer.ForbidWriting();
        const auto run = [&](std::vector<double> &errors, int64_t begin, int64_t end) {
            return int4q_twin_errors(candidates, count, source.buffer.data(), INT4Q_TYPE_F32, 7, 300, 300, errors.data(), begin, end);
        };
        std::vector<double> errors(static_cast<size_t>(count), -1.0), first = errors, second = errors;
        ASSERT_OK(run(errors, 0, 7));
        ASSERT_OK(run(first, 0, 2));
        ASSERT_OK(run(second, 2, 7));
        for (size_t c = 0; c < errors.size(); c++) {
            double wanted = 0;
            for (int64_t i = 0; i < 2100; i++) {
                const float value = source(i / 300, i % 300);
                wanted += std::pow(static_cast<double>(value) - Value(candidates[c], Code(candidates[c], value)), 2);
            }
            EXPECT_NEAR(errors[c], wanted, 1e-5 * wanted + 1e-12);
            EXPECT_NEAR(first[c] + second[c], errors[c], 1e-12 * wanted);
        }
        ASSERT_OK(run(errors, 3, 3));
        for (double error : errors) EXPECT_EQ(error, 0);
    }
}

// ---- Twin scales for weights ------------------------------------------------------------------------------------------

struct TwinMemory {
    TwinMemory(int32_t group_size, int4q_type scale_type, int64_t n, int64_t k, Placement placement = Placement::kRight)
        : n(n), k(k), size(group_size > 0 ? group_size : k), groups((k + size - 1) / size),
          codes(static_cast<size_t>(n * ((k + 1) / 2)), placement),
          negative(static_cast<size_t>(n * groups * TypeBytes(scale_type)), placement, static_cast<size_t>(TypeBytes(scale_type))),
          positive(static_cast<size_t>(n * groups * TypeBytes(scale_type)), placement, static_cast<size_t>(TypeBytes(scale_type))) {
        raw = int4q_twin_tensor{sizeof raw,    group_size,      scale_type,      0,
                                n,             k,               codes.data(),    codes.size(),
                                negative.data(), negative.size(), positive.data(), positive.size()};
    }
    int Code(int64_t row, int64_t column) const {
        const int byte = codes.data()[row * ((k + 1) / 2) + column / 2];
        return column % 2 ? byte >> 4 : byte & 15;
    }
    float Scale(bool is_positive, int64_t row, int64_t column) const {
        return LoadElement((is_positive ? positive : negative).data(), raw.scale_type, row * groups + column / size);
    }
    double Weight(int64_t row, int64_t column) const {
        const int step = Code(row, column) - 8;
        return static_cast<double>(Scale(step >= 0, row, column)) * step;
    }
    std::string Bytes() const {
        std::string bytes;
        for (const GuardedBuffer *part : {&codes, &negative, &positive}) {
            bytes.append(reinterpret_cast<const char *>(part->data()), part->size());
        }
        return bytes;
    }

    int64_t n, k, size, groups;
    GuardedBuffer codes, negative, positive;
    int4q_twin_tensor raw;
};

void ExpectTwin(const TwinMemory &tensor, const Source &source) {
    for (int64_t row = 0; row < tensor.n; row++) {
        for (int64_t begin = 0; begin < tensor.k; begin += tensor.size) {
            const int64_t end = std::min(begin + tensor.size, tensor.k);
            float low = source(row, begin), high = low;
            for (int64_t i = begin; i < end; i++) low = std::min(low, source(row, i)), high = std::max(high, source(row, i));
            const float below = low < 0 ? -low / 8 : 0, above = high <= 0 ? 0 : low == high ? high : high / 7;
            const float negative = RoundTo(tensor.raw.scale_type, below), positive = RoundTo(tensor.raw.scale_type, above);
            ASSERT_EQ(tensor.Scale(false, row, begin), negative);
            ASSERT_EQ(tensor.Scale(true, row, begin), positive);
            for (int64_t i = begin; i < end; i++) {
                const float value = source(row, i), scale = value < 0 ? negative : positive;
                float step = scale == 0 || value == 0 ? 0 : std::nearbyint(std::min(std::max(value / scale, -1000.0f), 1000.0f));
                step = std::min(std::max(step, value < 0 ? -8.0f : 0.0f), value < 0 ? 0.0f : 7.0f);
                ASSERT_EQ(tensor.Code(row, i), 8 + static_cast<int>(step)) << value << " with " << scale;
            }
        }
        if (tensor.k % 2) {
            ASSERT_EQ(tensor.codes.data()[(row + 1) * ((tensor.k + 1) / 2) - 1] >> 4, 0);
        }
    }
}

TEST(TwinTensor, EqualsTheRederivation) {
    Random random(3);
    for (int4q_type type : kTypes) {
        for (int4q_type scale_type : kTypes) {
            for (int32_t group_size : kAllGroupSizes) {
                for (int64_t k : {1, 15, 16, 33, 130, 257, 600}) {
                    Source source(type, 4, k, k + 1);
                    FillMixed(source, random);
                    source.buffer.ForbidWriting();
                    for (int4q_isa isa : UsableIsas()) {
                        IsaLimit limit(isa);
                        TwinMemory tensor(group_size, scale_type, 4, k, k % 2 ? Placement::kLeft : Placement::kRight);
                        ASSERT_OK(int4q_twin_quantize_rows(&tensor.raw, source.buffer.data(), type, k + 1, 2, 4));
                        ASSERT_OK(int4q_twin_quantize_rows(&tensor.raw, source.buffer.data(), type, k + 1, 0, 2));
                        ExpectTwin(tensor, source);
                        ASSERT_FALSE(HasFatalFailure());
                        Source back(type, 4, k, k + 3);
                        ASSERT_OK(int4q_twin_dequantize_rows(&tensor.raw, back.buffer.data(), type, k + 3, 0, 4));
                        for (int64_t i = 0; i < 4 * k; i++) {
                            const float wanted = static_cast<float>(tensor.Weight(i / k, i % k));
                            ASSERT_EQ(back(i / k, i % k), RoundTo(type, wanted));
                        }
                    }
                }
            }
        }
    }
}

TEST(TwinTensor, ConstantsComeBackAndSkewedGroupsFitBetter) {
    for (float constant : {0.0f, -0.0f, 1.7f, -1.7f, 0x1p-10f}) {
        Source source(INT4Q_TYPE_F32, 1, 20, 20);
        for (int64_t i = 0; i < 20; i++) source.Set(0, i, constant);
        TwinMemory tensor(16, INT4Q_TYPE_F32, 1, 20);
        ASSERT_OK(int4q_twin_quantize_rows(&tensor.raw, source.buffer.data(), INT4Q_TYPE_F32, 20, 0, 1));
        for (int64_t i = 0; i < 20; i++) EXPECT_EQ(tensor.Weight(0, i), constant);
    }
    Random random(4);
    Source source(INT4Q_TYPE_F32, 8, 256, 256);
    for (int64_t i = 0; i < 2048; i++) {
        const float value = random.Normal();
        source.Set(i / 256, i % 256, value < 0 ? value * 0.2f : value);
    }
    TwinMemory twin(32, INT4Q_TYPE_F16, 8, 256);
    TensorMemory symmetric(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16), 8, 256);
    ASSERT_OK(int4q_twin_quantize_rows(&twin.raw, source.buffer.data(), INT4Q_TYPE_F32, 256, 0, 8));
    ASSERT_OK(source.Quantize(symmetric));
    std::vector<float> a(2048), b(2048);
    ASSERT_OK(int4q_twin_dequantize_rows(&twin.raw, a.data(), INT4Q_TYPE_F32, 256, 0, 8));
    ASSERT_OK(int4q_dequantize_rows(symmetric.get(), b.data(), INT4Q_TYPE_F32, 256, 0, 8));
    double twin_error = 0, symmetric_error = 0;
    for (int64_t i = 0; i < 2048; i++) {
        twin_error += std::pow(a[static_cast<size_t>(i)] - source(i / 256, i % 256), 2);
        symmetric_error += std::pow(b[static_cast<size_t>(i)] - source(i / 256, i % 256), 2);
    }
    EXPECT_LT(twin_error, 0.8 * symmetric_error);
}

TEST(TwinTensor, NotFiniteAndTooLarge) {
    Source source(INT4Q_TYPE_F32, 2, 40, 40);
    for (int64_t i = 0; i < 80; i++) source.Set(i / 40, i % 40, 1);
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e9f, -1e9f}) {
        source.Set(1, 37, bad);
        TwinMemory tensor(16, INT4Q_TYPE_F16, 2, 40);
        EXPECT_FAILS(int4q_twin_quantize_rows(&tensor.raw, source.buffer.data(), INT4Q_TYPE_F32, 40, 0, 2), kNotFinite,
                     "int4q_twin_quantize_rows", "source");
        EXPECT_NE(std::string(LastError().value).find("row 1, column 3"), std::string::npos) << LastError().message;
    }
}

// Two products, the second with the first as its residual, are the product of the twin tensor.
TEST(TwinTensor, TwoProductsAreTheProduct) {
    Random random(5);
    for (int32_t group_size : {16, 128, INT4Q_GROUP_PER_ROW}) {
        for (int4q_type scale_type : kTypes) {
            const int64_t m = 3, n = 35, k = 150;
            Source source(INT4Q_TYPE_F32, n, k, k);
            FillMixed(source, random);
            for (int64_t i = 0; i < n * k; i++) {
                if (std::fabs(source(i / k, i % k)) > 30000) source.Set(i / k, i % k, 1);
            }
            TwinMemory twin(group_size, scale_type, n, k);
            ASSERT_OK(int4q_twin_quantize_rows(&twin.raw, source.buffer.data(), INT4Q_TYPE_F32, k, 0, n));
            int4q_tensor tensors[2];
            std::memset(tensors, 0xff, sizeof tensors);
            tensors[0].struct_size = tensors[1].struct_size = sizeof tensors[0];
            ASSERT_OK(int4q_twin_to_tensors(&twin.raw, &tensors[0], &tensors[1]));
            std::vector<float> x(static_cast<size_t>(m * k)), y(static_cast<size_t>(m * n));
            for (float &value : x) value = random.Normal();
            std::vector<double> bound(static_cast<size_t>(m * n), 0.0);
            for (int pass = 0; pass < 2; pass++) {
                const int4q_scheme &scheme = tensors[pass].scheme;
                uint64_t bytes = 0;
                ASSERT_OK(int4q_blob_size(&scheme, n, k, &bytes));
                GuardedBuffer blob(static_cast<size_t>(bytes), Placement::kRight, 64);
                ASSERT_OK(int4q_pack_rows(&tensors[pass], blob.data(), bytes, 0, n));
                ASSERT_OK(Validate(blob));
                int4q_matmul_desc desc{};
                desc.struct_size = sizeof desc;
                desc.mode = INT4Q_MODE_F32;
                desc.m = m, desc.n = n, desc.k = k;
                desc.scheme = scheme;
                desc.x_type = desc.y_type = INT4Q_TYPE_F32;
                desc.worker_count = 1;
                int4q_matmul_plan plan{};
                plan.struct_size = sizeof plan;
                ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
                int4q_matmul_args args{};
                args.struct_size = sizeof args;
                args.x = x.data(), args.ldx = k;
                args.blob = blob.data(), args.blob_bytes = bytes;
                std::vector<double> bounds(static_cast<size_t>(m * n));
                ASSERT_OK(int4q_error_bound(&plan, &args, INT4Q_BOUND_WORST_CASE, bounds.data(), n));
                for (size_t i = 0; i < bounds.size(); i++) bound[i] += bounds[i];
                if (pass) desc.residual_type = INT4Q_TYPE_F32;
                ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
                GuardedBuffer scratch(static_cast<size_t>(plan.scratch_bytes), Placement::kRight, 64);
                args.y = y.data(), args.ldy = n;
                args.scratch = scratch.data(), args.scratch_bytes = plan.scratch_bytes;
                if (pass) args.residual = y.data(), args.ldr = n;
                ASSERT_OK(int4q_matmul(&plan, &args, nullptr, nullptr));
            }
            for (int64_t i = 0; i < m; i++) {
                for (int64_t j = 0; j < n; j++) {
                    double sum = 0, magnitude = 0;
                    for (int64_t l = 0; l < k; l++) {
                        const double term = x[static_cast<size_t>(i * k + l)] * twin.Weight(j, l);
                        sum += term;
                        magnitude += std::fabs(term);
                    }
                    const size_t place = static_cast<size_t>(i * n + j);
                    EXPECT_LE(std::fabs(y[place] - sum), bound[place] + 0x1p-24 * std::fabs(y[place]) + 1e-13 * magnitude);
                }
            }
        }
    }
}

// ---- Bad arguments ----------------------------------------------------------------------------------------------------

struct RangesCall {
    alignas(64) float floats[5 * 21 + 1] = {};
    alignas(64) uint8_t codes[64] = {};
    alignas(64) double errors[3] = {5, 6, 7};
    int4q_twin_ranges raws[2] = {{INT4Q_TWIN_SOFTMAX, 0, 0.01f, 0.1f}, {INT4Q_TWIN_GELU, 1, 0.01f, 0.1f}};
    const int4q_twin_ranges *ranges = raws;
    void *matrix = floats;
    uint8_t *code_pointer = codes;
    uint64_t codes_bytes = 40;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t rows = 4, columns = 20, stride = 21, begin = 0, end = 4, count = 2;
    double *out = errors;
    std::string Outputs() const { return BytesOf(floats) + BytesOf(codes) + BytesOf(errors); }
};

template <typename C>
void AddRangesOf(BadTable<C> &table, const char *name) {
    using R = int4q_twin_ranges;
    BadTable<R> fields;
    AddEnumerators(fields, "kind", &R::kind, {0, 3, -1});
    AddEnumerators(fields, "choice", &R::choice, {2, -1});
    const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
    for (float bad : {nan, infinity}) {
        fields.push_back({"first", [=](R &r) { r.first = bad; }, kNotFinite, "first"});
        fields.push_back({"second", [=](R &r) { r.second = bad; }, kNotFinite, "second"});
    }
    for (float bad : {0.0f, -1.0f, 1e-39f}) {
        fields.push_back({"first", [=](R &r) { r.first = bad; }, kInvalid, "first"});
        fields.push_back({"second", [=](R &r) { r.second = bad; }, kInvalid, "second"});
    }
    AddWithin(table, fields, [](C &c) -> R & { return c.raws[0]; });
    AddPointer(table, name, &C::ranges, {1, 2});
    AddValues(table, "rows", &C::rows, {0, -1, kMin64});
    AddValues(table, "columns", &C::columns, {0, -1, kMin64});
    AddRanges(table, 4, "row_begin", "row_end");
}

struct TwinQuantizeCall : RangesCall {
    int4q_status Run() {
        return int4q_twin_quantize(ranges, matrix, type, rows, columns, stride, code_pointer, codes_bytes, begin, end);
    }
};

struct TwinDequantizeCall : RangesCall {
    int4q_status Run() {
        return int4q_twin_dequantize(ranges, code_pointer, codes_bytes, rows, columns, matrix, type, stride, begin, end);
    }
};

template <typename C>
void AddCodes(BadTable<C> &table) {
    AddPointer(table, "codes", &C::code_pointer, {});
    AddTooSmall(table, "codes_bytes", &C::codes_bytes);
}

TEST(BadTwinArguments, Quantize) {
    BadTable<TwinQuantizeCall> table;
    AddRangesOf(table, "ranges");
    AddCodes(table);
    AddMatrix(table, "source", &TwinQuantizeCall::matrix, &TwinQuantizeCall::type, "source_type", &TwinQuantizeCall::stride,
              "source_stride", 20);
    ExpectRefused<TwinQuantizeCall>("int4q_twin_quantize", [] { return std::make_unique<TwinQuantizeCall>(); }, table);
    TwinQuantizeCall call;
    call.floats[21 + 4] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_FAILS(call.Run(), kNotFinite, "int4q_twin_quantize", "source");
}

TEST(BadTwinArguments, Dequantize) {
    BadTable<TwinDequantizeCall> table;
    AddRangesOf(table, "ranges");
    AddCodes(table);
    AddMatrix(table, "destination", &TwinDequantizeCall::matrix, &TwinDequantizeCall::type, "destination_type",
              &TwinDequantizeCall::stride, "destination_stride", 20);
    ExpectRefused<TwinDequantizeCall>("int4q_twin_dequantize", [] { return std::make_unique<TwinDequantizeCall>(); }, table);
}

struct ErrorsCall : RangesCall {
    int4q_status Run() {
        return int4q_twin_errors(ranges, count, matrix, type, rows, columns, stride, out, begin, end);
    }
};

TEST(BadTwinArguments, Errors) {
    BadTable<ErrorsCall> table;
    AddRangesOf(table, "candidates");
    AddMatrix(table, "source", &ErrorsCall::matrix, &ErrorsCall::type, "source_type", &ErrorsCall::stride, "source_stride", 20);
    AddValues(table, "count", &ErrorsCall::count, {0, -1, kMin64});
    AddValues(table, "count", &ErrorsCall::count, {kMax64}, kOverflow);
    AddPointer(table, "errors", &ErrorsCall::out, {1, 4});
    ExpectRefused<ErrorsCall>("int4q_twin_errors", [] { return std::make_unique<ErrorsCall>(); }, table);
}

TEST(BadTwinArguments, Candidates) {
    int4q_twin_ranges candidates[INT4Q_TWIN_MAX_CANDIDATES + 1];
    int64_t count = 77;
    const char *name = "int4q_twin_candidates";
    const auto run = [&](int32_t kind, int32_t choice, int32_t steps, float largest) {
        return int4q_twin_candidates(kind, choice, steps, largest, candidates, &count);
    };
    EXPECT_FAILS(run(0, 0, 0, 1), kInvalid, name, "kind");
    EXPECT_FAILS(run(INT4Q_TWIN_GELU, 2, 0, 1), kInvalid, name, "choice");
    EXPECT_FAILS(run(INT4Q_TWIN_GELU, 0, 2, 1), kInvalid, name, "steps");
    for (float bad : {0.0f, -1.0f, 1e-37f}) EXPECT_FAILS(run(INT4Q_TWIN_GELU, 0, 0, bad), kInvalid, name, "largest");
    EXPECT_FAILS(run(INT4Q_TWIN_GELU, 0, 0, std::numeric_limits<float>::quiet_NaN()), kNotFinite, name, "largest");
    EXPECT_FAILS(int4q_twin_candidates(1, 0, 0, 1, nullptr, &count), kNull, name, "candidates");
    EXPECT_FAILS(int4q_twin_candidates(1, 0, 0, 1, Shift(candidates, 2), &count), kMisaligned, name, "candidates");
    EXPECT_FAILS(int4q_twin_candidates(1, 0, 0, 1, candidates, nullptr), kNull, name, "count");
    EXPECT_EQ(count, 77);
}

struct TwinCall {
    alignas(64) float floats[4 * 41 + 1] = {};
    alignas(64) uint8_t codes[81] = {};
    alignas(64) float negative[13] = {}, positive[13] = {};
    int4q_twin_tensor raws[2] = {};
    const int4q_twin_tensor *tensor = raws;
    void *matrix = floats;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t stride = 41, begin = 0, end = 4;
    int4q_tensor tensors[3] = {};
    int4q_tensor *first = tensors, *second = tensors + 1;

    TwinCall() {
        raws[0] = int4q_twin_tensor{sizeof raws[0], 16, INT4Q_TYPE_F32, 0, 4, 40, codes, 80, negative, 48, positive, 48};
        tensors[0].struct_size = tensors[1].struct_size = sizeof tensors[0];
    }
    std::string Outputs() const {
        return BytesOf(floats) + BytesOf(codes) + BytesOf(negative) + BytesOf(positive) + BytesOf(tensors);
    }
};

struct TwinRowsCall : TwinCall {
    int4q_status Run() { return int4q_twin_quantize_rows(tensor, matrix, type, stride, begin, end); }
};

struct TwinBackCall : TwinCall {
    int4q_status Run() { return int4q_twin_dequantize_rows(tensor, matrix, type, stride, begin, end); }
};

struct TwinTensorsCall : TwinCall {
    int4q_status Run() { return int4q_twin_to_tensors(tensor, first, second); }
};

template <typename C>
BadTable<C> BadTwins() {
    using T = int4q_twin_tensor;
    BadTable<T> fields;
    AddStructSizes(fields, &T::struct_size, sizeof(T));
    AddValues(fields, "reserved", &T::reserved, {1});
    AddEnumerators(fields, "group_size", &T::group_size, {0, 8, 17, -2});
    AddEnumerators(fields, "scale_type", &T::scale_type, {0, 4});
    AddValues(fields, "n", &T::n, {0, -1, kMin64});
    AddValues(fields, "k", &T::k, {0, -1, kMin64});
    AddValues(fields, "n", &T::n, {kMax64}, kOverflow);
    AddValues(fields, "codes_bytes", &T::n, {5}, kTooSmall);
    AddPointer(fields, "codes", &T::codes, {});
    AddTooSmall(fields, "codes_bytes", &T::codes_bytes);
    AddPointer(fields, "scales_negative", &T::scales_negative, {1, 2});
    AddTooSmall(fields, "scales_negative_bytes", &T::scales_negative_bytes);
    AddPointer(fields, "scales_positive", &T::scales_positive, {1, 2});
    AddTooSmall(fields, "scales_positive_bytes", &T::scales_positive_bytes);
    BadTable<C> table;
    AddWithin(table, fields, [](C &c) -> T & { return c.raws[0]; });
    AddPointer(table, "tensor", &C::tensor, {4});
    return table;
}

TEST(BadTwinArguments, QuantizeRows) {
    auto table = BadTwins<TwinRowsCall>();
    AddMatrix(table, "source", &TwinRowsCall::matrix, &TwinRowsCall::type, "source_type", &TwinRowsCall::stride, "source_stride", 40);
    AddRanges(table, 4, "row_begin", "row_end");
    ExpectRefused<TwinRowsCall>("int4q_twin_quantize_rows", [] { return std::make_unique<TwinRowsCall>(); }, table);
}

TEST(BadTwinArguments, DequantizeRows) {
    auto table = BadTwins<TwinBackCall>();
    AddMatrix(table, "destination", &TwinBackCall::matrix, &TwinBackCall::type, "destination_type", &TwinBackCall::stride,
              "destination_stride", 40);
    AddRanges(table, 4, "row_begin", "row_end");
    ExpectRefused<TwinBackCall>("int4q_twin_dequantize_rows", [] { return std::make_unique<TwinBackCall>(); }, table);
}

TEST(BadTwinArguments, ToTensors) {
    auto table = BadTwins<TwinTensorsCall>();
    AddPointer(table, "negative", &TwinTensorsCall::first, {4});
    AddPointer(table, "positive", &TwinTensorsCall::second, {4});
    AddStructSizes(table, [](TwinTensorsCall &c) -> uint32_t & { return c.tensors[0].struct_size; }, sizeof(int4q_tensor));
    AddStructSizes(table, [](TwinTensorsCall &c) -> uint32_t & { return c.tensors[1].struct_size; }, sizeof(int4q_tensor));
    ExpectRefused<TwinTensorsCall>("int4q_twin_to_tensors", [] { return std::make_unique<TwinTensorsCall>(); }, table);
}

}  // namespace
}  // namespace int4q_test
