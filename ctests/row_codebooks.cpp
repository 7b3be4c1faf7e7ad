// SPDX-License-Identifier: Apache-2.0
// Codebooks of rows: quantizing against the definitions' re-derivation, blobs against the format's, products in F32 mode to
// the bit on every instruction set and through every epilogue; what they have no code for; wrong arguments.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "int4q.hpp"
#include "support/bad_arguments.hpp"
#include "support/epilogue.hpp"
#include "support/exact_product.hpp"
#include "support/isa.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/reference_packer.hpp"
#include "support/reference_quantizer.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Values = std::vector<float>;
using Bytes = std::vector<unsigned char>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

int4q_scheme RowScheme(int32_t group_size, int4q_type scale_type, int32_t rule = INT4Q_SCALE_DEFAULT,
                       int32_t rounding = INT4Q_ROUNDING_NEAREST_EVEN) {
    int4q_scheme scheme = MakeScheme(INT4Q_KIND_CODEBOOK, group_size, scale_type, rule, INT4Q_RANGE_FULL, rounding);
    scheme.codebook_scope = INT4Q_CODEBOOK_PER_ROW;
    return scheme;
}

// Of every magnitude, some with values twice, zeros of both signs, one sign only.
Values RandomCodebooks(Random &random, int64_t n) {
    Values values(16 * static_cast<size_t>(n));
    for (size_t row = 0; row < static_cast<size_t>(n); row++) {
        float *const table = values.data() + 16 * row;
        const int64_t sort = random.Integer(0, 4);
        const float unit = std::ldexp(1.0f, static_cast<int>(random.Integer(-10, 10)));
        for (int q = 0; q < 16; q++) {
            table[q] = random.Normal() * unit;
            if (sort == 1) table[q] = static_cast<float>(random.Integer(-4, 4)) * unit;
            if (sort == 2) table[q] = std::fabs(table[q]);
            if (sort == 3 && random.Chance(0.3)) table[q] = random.Chance(0.5) ? 0.0f : -0.0f;
        }
        table[random.Integer(0, 15)] = unit;
    }
    return values;
}

struct Weights {
    Weights(Random &random, const int4q_scheme &scheme, int64_t n, int64_t k)
        : codebooks(RandomCodebooks(random, n)), source(INT4Q_TYPE_F32, n, k, k + random.Integer(0, 3)),
          tensor(scheme, n, k, random.Chance(0.5) ? Placement::kLeft : Placement::kRight, codebooks.data()) {
        for (int64_t row = 0; row < n; row++) {
            for (int64_t c = 0; c < k; c++) {
                const float value = random.Pick(codebooks), next = random.Pick(codebooks);
                source.Set(row, c, random.Chance(0.5) ? value : (value + next) / 2 + 0.01f * random.Normal());
            }
        }
    }
    const Values codebooks;
    SourceMatrix source;
    TensorMemory tensor;
};

GuardedBuffer Packed(const int4q_tensor &tensor) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_blob_size(&tensor.scheme, tensor.n, tensor.k, &bytes));
    GuardedBuffer blob(bytes, Placement::kRight, INT4Q_ALIGNMENT);
    EXPECT_OK(int4q_pack_rows(&tensor, blob.data(), bytes, 0, tensor.n));
    return blob;
}

// ---- Quantizing, blobs ----------------------------------------------------------------------------------------------

void CheckQuantizing(Random &random, const int4q_scheme &scheme, int64_t n, int64_t k) {
    Weights w(random, scheme, n, k);
    SCOPED_TRACE(Name(scheme) + " " + std::to_string(n) + " x " + std::to_string(k));
    const ReferenceTensor wanted = QuantizeReference(scheme, n, k, w.codebooks.data(), w.source);
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit limit(isa);
        uint64_t bytes = 0;
        ASSERT_OK(int4q_blob_size(&scheme, n, k, &bytes));
        GuardedBuffer fused(bytes, Placement::kRight, INT4Q_ALIGNMENT);
        const int4q_status status = w.source.Quantize(w.tensor);
        EXPECT_EQ(int4q_quantize_pack_rows(&scheme, n, k, w.codebooks.data(), w.source.buffer.data(), INT4Q_TYPE_F32, w.source.stride,
                                           fused.data(), bytes, 0, n), status);
        if (!wanted.finite) {
            EXPECT_EQ(status, INT4Q_ERROR_NOT_FINITE);
            continue;
        }
        ASSERT_OK(status);
        EXPECT_EQ(w.tensor.Scales(), wanted.scales);
        EXPECT_EQ(w.tensor.Codes(), wanted.codes);
        const std::vector<uint8_t> reference = PackReference(*w.tensor.get());
        const GuardedBuffer blob = Packed(*w.tensor.get());
        ASSERT_EQ(blob.size(), reference.size());
        EXPECT_EQ(std::memcmp(blob.data(), reference.data(), bytes), 0) << "the format";
        EXPECT_EQ(std::memcmp(fused.data(), reference.data(), bytes), 0) << "in one pass";
        EXPECT_OK(int4q_blob_validate(blob.data(), bytes, INT4Q_VALIDATE_FULL));
    }
}

TEST(RowCodebooks, QuantizingAndPackingEqualTheRederivations) {
    Random random(11);
    for (int32_t group_size : kAllGroupSizes) {
        for (int4q_type type : kTypes) {
            for (int32_t rule : {INT4Q_SCALE_DEFAULT, INT4Q_SCALE_ONE}) {
                for (int32_t rounding : {INT4Q_ROUNDING_NEAREST_EVEN, INT4Q_ROUNDING_NEAREST_LOG}) {
                    for (int i = 0; i < Samples(2); i++) {
                        CheckQuantizing(random, RowScheme(group_size, type, rule, rounding), random.Integer(1, 40), random.Integer(1, 300));
                        if (HasFailure()) return;
                    }
                }
            }
        }
    }
    CheckQuantizing(random, RowScheme(INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F16), 3, 65536 + 77);
}

TEST(RowCodebooks, BlobsGiveBackWhatWasPacked) {
    Random random(12);
    for (int i = 0; i < Samples(30); i++) {
        const int64_t n = random.Integer(1, 50), k = random.Integer(1, 200);
        const auto scheme = RowScheme(random.Pick(std::vector<int32_t>{16, 32, 64, 128, 256, INT4Q_GROUP_PER_ROW}),
                                      kTypes[random.Integer(0, 2)], random.Chance(0.5) ? INT4Q_SCALE_DEFAULT : INT4Q_SCALE_ONE);
        Weights w(random, scheme, n, k);
        if (w.source.Quantize(w.tensor) != INT4Q_OK) continue;  // a scale beyond F16
        const GuardedBuffer blob = Packed(*w.tensor.get());

        int4q_blob_info info{};
        info.struct_size = sizeof info;
        ASSERT_OK(int4q_blob_get_info(blob.data(), blob.size(), &info));
        EXPECT_EQ(std::memcmp(&info.scheme, &scheme, sizeof scheme), 0);
        for (float value : info.codebook) EXPECT_EQ(value, 0.0f);

        TensorMemory back(scheme, n, k, Placement::kRight, w.codebooks.data());
        back.get()->codebook = nullptr;  // not used
        ASSERT_OK(int4q_unpack_rows(blob.data(), blob.size(), back.get(), 0, n));
        EXPECT_EQ(back.Codes(), w.tensor.Codes());
        EXPECT_EQ(back.Scales(), w.tensor.Scales());
        const int64_t begin = random.Integer(0, n), end = random.Integer(begin, n);
        GuardedBuffer codebooks(static_cast<size_t>(16 * n) * sizeof(float), Placement::kRight, sizeof(float));
        ASSERT_OK(int4q_blob_codebooks(blob.data(), blob.size(), codebooks.as<float>(), begin, end));
        EXPECT_EQ(std::memcmp(codebooks.as<float>() + 16 * begin, w.codebooks.data() + 16 * begin, static_cast<size_t>(64 * (end - begin))), 0);
        for (size_t at = 0; at < codebooks.size(); at++) {
            const bool is_asked = at >= static_cast<size_t>(64 * begin) && at < static_cast<size_t>(64 * end);
            if (is_asked) continue;
            ASSERT_EQ(codebooks.data()[at], GuardedBuffer::kFill) << "rows that were not asked for";
        }

        std::vector<int64_t> rows;
        for (int j = 0; j < 7; j++) rows.push_back(random.Integer(0, n - 1));
        std::vector<float> gathered(static_cast<size_t>(7 * k)), whole(static_cast<size_t>(n * k));
        ASSERT_OK(int4q_dequantize_rows(w.tensor.get(), whole.data(), INT4Q_TYPE_F32, k, 0, n));
        ASSERT_OK(int4q_gather_rows(blob.data(), blob.size(), rows.data(), 7, gathered.data(), INT4Q_TYPE_F32, k));
        for (int64_t row = 0; row < n; row++) {
            for (int64_t c = 0; c < k; c++) {
                const float want = DequantizeReference(*w.tensor.get(), row, c);
                ASSERT_EQ(std::memcmp(&whole[static_cast<size_t>(row * k + c)], &want, 4), 0) << row << " " << c;
            }
        }
        for (size_t j = 0; j < 7; j++) {
            EXPECT_EQ(std::memcmp(&gathered[j * static_cast<size_t>(k)], &whole[static_cast<size_t>(rows[j] * k)], static_cast<size_t>(4 * k)), 0);
        }
    }
}

TEST(RowCodebooks, OneForTheTensorIsGivenForEachRow) {
    const auto scheme = MakeScheme(INT4Q_KIND_CODEBOOK, 32, INT4Q_TYPE_F16);
    TensorMemory tensor(scheme, 18, 40);
    SourceMatrix source(INT4Q_TYPE_F32, 18, 40, 40);
    Random random(13);
    FillMixed(source, random);
    ASSERT_OK(source.Quantize(tensor));
    const GuardedBuffer blob = Packed(*tensor.get());
    Values codebooks(16 * 18);
    ASSERT_OK(int4q_blob_codebooks(blob.data(), blob.size(), codebooks.data(), 0, 18));
    for (size_t i = 0; i < codebooks.size(); i++) EXPECT_EQ(codebooks[i], kNormalFloat[i % 16]);
}

// A matrix whose rows have the same codebook is the matrix with that codebook.
TEST(RowCodebooks, EqualOnesAreOneForTheTensor) {
    Random random(14);
    for (int32_t group_size : {32, INT4Q_GROUP_PER_ROW}) {
        const auto of_rows = RowScheme(group_size, INT4Q_TYPE_F16), of_tensor = MakeScheme(INT4Q_KIND_CODEBOOK, group_size, INT4Q_TYPE_F16);
        SourceMatrix source(INT4Q_TYPE_F32, 33, 100, 100);
        FillMixed(source, random);
        Values codebooks;
        for (int row = 0; row < 33; row++) codebooks.insert(codebooks.end(), kNormalFloat, kNormalFloat + 16);
        TensorMemory a(of_tensor, 33, 100), b(of_rows, 33, 100, Placement::kRight, codebooks.data());
        ASSERT_OK(source.Quantize(a));
        ASSERT_OK(source.Quantize(b));
        EXPECT_EQ(a.Codes(), b.Codes());
        EXPECT_EQ(a.Scales(), b.Scales());
    }
}

// Fitted for each row there is never more error than fitted for all, and far less where rows differ in scale.
TEST(RowCodebooks, FittedForEachRowTheyAreBetter) {
    Random random(15);
    const int64_t n = 24, k = 512;
    SourceMatrix source(INT4Q_TYPE_F32, n, k, k);
    for (int64_t row = 0; row < n; row++) {
        const float unit = std::ldexp(1.0f, static_cast<int>(row % 5));
        for (int64_t c = 0; c < k; c++) source.Set(row, c, unit * random.Normal());
    }
    uint64_t bytes = 0;
    ASSERT_OK(int4q_codebook_fit_scratch(&bytes));
    GuardedBuffer scratch(bytes, Placement::kRight, INT4Q_ALIGNMENT);
    Values one(16), each(static_cast<size_t>(16 * n));
    const auto fit = [&](int64_t begin, int64_t end, float *values) {
        ASSERT_OK(int4q_codebook_fit(source.buffer.data(), INT4Q_TYPE_F32, k, n, k, begin, end, nullptr, 0, scratch.data(), bytes, values,
                                     nullptr));
    };
    fit(0, n, one.data());
    for (int64_t row = 0; row < n; row++) fit(row, row + 1, each.data() + 16 * row);
    const auto error = [&](TensorMemory &tensor) {
        EXPECT_OK(source.Quantize(tensor));
        double sum = 0;
        for (int64_t i = 0; i < n * k; i++) {
            const double off = static_cast<double>(DequantizeReference(*tensor.get(), i / k, i % k)) - static_cast<double>(source(i / k, i % k));
            sum += off * off;
        }
        return sum;
    };
    TensorMemory shared(MakeScheme(INT4Q_KIND_CODEBOOK, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F16, INT4Q_SCALE_ONE), n, k, Placement::kRight,
                        one.data());
    TensorMemory own(RowScheme(INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F16, INT4Q_SCALE_ONE), n, k, Placement::kRight, each.data());
    EXPECT_LT(error(own), 0.5 * error(shared));
}

// ---- Damaged blobs --------------------------------------------------------------------------------------------------

TEST(RowCodebooks, DamageIsRefused) {
    Random random(16);
    const auto scheme = RowScheme(16, INT4Q_TYPE_F32);
    const int64_t n = 18, k = 37;
    Weights w(random, scheme, n, k);
    ASSERT_OK(w.source.Quantize(w.tensor));
    const BlobGeometry at(scheme, n, k);
    const auto status_of = [&](size_t offset, float value, bool sign) {
        GuardedBuffer blob = Packed(*w.tensor.get());
        SetField<float>(blob.data(), offset, value);
        if (sign) SignBlocks(blob.data(), blob.size());
        return int4q_blob_validate(blob.data(), blob.size(), INT4Q_VALIDATE_FULL);
    };
    for (size_t block = 0; block < 2; block++) {
        const size_t tables = at.blocks_offset + block * at.block_bytes + at.codebooks_offset;
        ASSERT_EQ(at.codebooks_offset + 1024, at.block_bytes);
        for (size_t code : {0, 7, 15}) {
            for (size_t lane = 0; lane < 16; lane++) {
                const size_t offset = tables + code * 64 + lane * 4;
                const bool is_row = block * 16 + lane < static_cast<size_t>(n);
                for (float bad : {kInfinity, -kInfinity, std::nanf("")}) EXPECT_EQ(status_of(offset, bad, true), INT4Q_ERROR_CORRUPT);
                EXPECT_EQ(status_of(offset, 2.5f, false), INT4Q_ERROR_CORRUPT) << "the checksum";
                EXPECT_EQ(status_of(offset, 2.5f, true), is_row ? INT4Q_OK : INT4Q_ERROR_CORRUPT) << "padding, block " << block << " lane " << lane;
            }
        }
    }
    GuardedBuffer zeros = Packed(*w.tensor.get());
    for (size_t code = 0; code < 16; code++) SetField<float>(zeros.data(), at.blocks_offset + at.codebooks_offset + code * 64 + 12, -0.0f);
    SignBlocks(zeros.data(), zeros.size());
    EXPECT_EQ(int4q_blob_validate(zeros.data(), zeros.size(), INT4Q_VALIDATE_FULL), INT4Q_ERROR_CORRUPT) << "a row's zeros";
    EXPECT_OK(int4q_blob_validate(zeros.data(), zeros.size(), INT4Q_VALIDATE_HEADER));

    const auto header = [&](size_t offset, auto value) {
        GuardedBuffer blob = Packed(*w.tensor.get());
        SetField(blob.data(), offset, value);
        SignHeader(blob.data());
        return int4q_blob_validate(blob.data(), blob.size(), INT4Q_VALIDATE_HEADER);
    };
    for (int32_t scope : {0, 2, -1}) EXPECT_EQ(header(kCodebookScopeAt, scope), INT4Q_ERROR_CORRUPT) << scope;
    EXPECT_EQ(header(kCodebookScopeAt + 4, 1), INT4Q_ERROR_CORRUPT);
    for (uint64_t offset : {uint64_t{0}, at.codebooks_offset - 64, at.codebooks_offset + 64}) {
        EXPECT_EQ(header(kCodebooksOffsetAt, offset), INT4Q_ERROR_CORRUPT) << offset;
    }
    EXPECT_EQ(header(kCodebookAt + 20, 1.0f), INT4Q_ERROR_CORRUPT) << "the tensor's";
    for (int32_t kind : {1, 2, 3}) EXPECT_EQ(header(kSchemeAt, kind), INT4Q_ERROR_CORRUPT) << kind;
}

// ---- Products -------------------------------------------------------------------------------------------------------

Spec RowSpec(Random &random, int64_t m, int64_t n, int64_t k) {
    Spec spec = RandomSpec(random, m, n, k, INT4Q_MODE_F32);
    spec.kind = INT4Q_KIND_CODEBOOK;
    spec.row_codebooks = true;
    return spec;
}

void ExpectExact(const Problem &problem) {
    const Bytes want = ExactProduct(problem);
    for (int4q_isa isa : UsableIsas()) {
        const IsaLimit limit(isa);
        Product product(problem);
        EXPECT_EQ(product.plan.isa, isa);
        const Bytes y = product.Multiply();
        EXPECT_TRUE(SameY(problem, want, y)) << int4q_isa_name(isa);
    }
    EXPECT_TRUE(NearFloat64(problem, want));
}

TEST(RowCodebookProducts, SameBitsForEveryGroupSizeAndType) {
    Random random(21);
    for (int32_t group_size : kGroupSizes) {
        for (int4q_type type : kTypes) {
            for (int i = 0; i < Samples(6); i++) {
                Spec spec = RowSpec(random, random.Integer(1, 20), random.Integer(1, 90), random.Integer(1, 600));
                spec.group_size = group_size;
                spec.scale_type = type;
                ExpectExact(Problem(spec));
                if (::testing::Test::HasFailure()) return;
            }
        }
    }
}

// Around what is decoded at a time, rows and blocks that are taken at a time, and the padding.
TEST(RowCodebookProducts, EverySizeNearACut) {
    Random random(22);
    for (int64_t k : {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 127, 128, 129, 255, 256, 257, 385}) {
        for (int32_t group_size : {16, 64, 256, INT4Q_GROUP_PER_ROW}) {
            for (int64_t n : {1, 15, 16, 17, 33, 49}) {
                Spec spec = RowSpec(random, random.Pick(std::vector<int64_t>{1, 2, 5, 6, 7, 8, 9, 16, 17}), n, k);
                spec.group_size = group_size;
                ExpectExact(Problem(spec));
                if (::testing::Test::HasFailure()) return;
            }
        }
    }
    for (int64_t m : {127, 128, 129, 140}) ExpectExact(Problem(RowSpec(random, m, 70, 300)));
    Spec longer = RowSpec(random, 3, 18, 65536 + 40);
    longer.group_size = INT4Q_GROUP_PER_ROW;
    ExpectExact(Problem(longer));
}

TEST(RowCodebookProducts, NanInfinityAndDenormals) {
    Random random(23);
    for (int i = 0; i < Samples(30); i++) {
        const int64_t m = random.Integer(1, 10), k = random.Integer(1, 200);
        Problem problem(RowSpec(random, m, random.Integer(1, 40), k));
        const int exponent = static_cast<int>(random.Integer(-149, -90));
        problem.SetX([&](int64_t, int64_t) { return std::ldexp(random.Normal(), exponent); });
        problem.SetX(random.Integer(0, m - 1), random.Integer(0, k - 1), kInfinity);
        problem.SetX(random.Integer(0, m - 1), random.Integer(0, k - 1), std::nanf(""));
        const Bytes want = ExactProduct(problem);
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
            EXPECT_TRUE(SameY(problem, want, Product(problem).Multiply())) << int4q_isa_name(isa);
        }
    }
}

TEST(RowCodebookProducts, WorkersBatchesAndScratch) {
    Random random(24);
    for (int i = 0; i < Samples(3); i++) {
        const Spec spec = RowSpec(random, 37, 531, 203);
        const Problem problem(spec);
        const Bytes want = ExactProduct(problem);
        for (uint32_t workers : {1u, 2u, 5u}) {
            OwnThreads host;
            Product product(problem, workers);
            std::memset(product.scratch.data(), 0xff, product.scratch.size());
            EXPECT_TRUE(SameY(problem, want, product.Multiply(OwnThreads::ParallelFor, &host))) << workers;
        }
        const int64_t bytes = spec.n * TypeBytes(spec.y_type);
        for (int64_t rows : {1, 2, 7, 11}) {
            const int64_t first = random.Integer(0, spec.m - rows);
            EXPECT_TRUE(SameY(problem, Bytes(want.begin() + first * bytes, want.begin() + (first + rows) * bytes),
                              Product(problem, 1, first, rows).Multiply()));
        }
    }
}

TEST(RowCodebookProducts, EpiloguesAndGates) {
    Random random(25);
    for (int i = 0; i < Samples(40); i++) {
        Spec spec = RowSpec(random, random.Integer(1, 12), random.Integer(1, 70), random.Integer(1, 200));
        spec.activation = kActivations[random.Integer(0, 4)];
        spec.bias_type = kTypesOrNone[random.Integer(0, 3)];
        spec.residual_type = kTypesOrNone[random.Integer(0, 3)];
        spec.gated = random.Chance(0.5);
        const Problem problem(spec);
        Bytes first;
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
            const Bytes y = Product(problem).Multiply();
            if (first.empty()) first = y;
            EXPECT_TRUE(SameY(problem, first, y)) << int4q_isa_name(isa);
        }
        // The gate's and the other matrix's totals are exact products, so without an activation's own error all is.
        if (spec.activation > INT4Q_ACTIVATION_RELU) continue;
        const Values gate = ExactTotals(problem);
        const Values up = spec.gated ? ExactTotals(*problem.up) : Values();
        Values want(gate.size());
        for (size_t j = 0; j < want.size(); j++) {
            const int64_t row = static_cast<int64_t>(j) / spec.n, column = static_cast<int64_t>(j) % spec.n;
            float value = gate[j];
            if (spec.bias_type) value += problem.Bias(column);
            if (spec.activation == INT4Q_ACTIVATION_RELU && value <= 0) value = 0;
            if (spec.gated) value *= spec.bias_type && spec.up_bias ? up[j] + problem.UpBias(column) : up[j];
            if (spec.residual_type) value += problem.Residual(row, column);
            want[j] = value;
        }
        EXPECT_TRUE(SameY(problem, InTypeOfY(spec, want), first));
    }
}

TEST(RowCodebookProducts, Experts) {
    Random random(26);
    for (int i = 0; i < Samples(5); i++) {
        Spec spec = RowSpec(random, 13, 40, 100);
        spec.x_type = spec.y_type = INT4Q_TYPE_F32;
        const Problem first(spec);
        spec.seed++;
        Problem second(spec);
        // Of one scheme and shape, other weights and codebooks; the same x.
        second.SetX([&](int64_t row, int64_t column) { return first.X(row, column); });
        const Values a = ExactTotals(first), b = ExactTotals(second);
        const int4q_expert experts[2] = {{first.blob.data(), first.blob.size(), nullptr, 0},
                                         {second.blob.data(), second.blob.size(), nullptr, 0}};
        std::vector<int32_t> rows;
        for (int row = 0; row < 13; row++) rows.push_back(static_cast<int32_t>(random.Integer(0, 1)));
        int4q_matmul_desc desc = Product::Describe(first, spec.m, 1);
        desc.expert_count = 2;
        int4q_matmul_plan plan{};
        plan.struct_size = sizeof plan;
        ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
        GuardedBuffer scratch(plan.scratch_bytes, Placement::kRight, INT4Q_ALIGNMENT);
        Values y(13 * 40);
        int4q_matmul_args args{};
        args.struct_size = sizeof args;
        args.x = first.x.data(), args.ldx = first.ldx();
        args.y = y.data(), args.ldy = 40;
        args.scratch = scratch.data(), args.scratch_bytes = plan.scratch_bytes;
        args.experts = experts, args.row_experts = rows.data();
        ASSERT_OK(int4q_matmul(&plan, &args, nullptr, nullptr));
        for (size_t j = 0; j < y.size(); j++) ASSERT_EQ(y[j], rows[j / 40] ? b[j] : a[j]) << j;
    }
}

TEST(RowCodebookProducts, StayWithinTheErrorBound) {
    Random random(27);
    for (int i = 0; i < Samples(10); i++) {
        Spec spec = RowSpec(random, 4, 20, random.Integer(1, 300));
        const Problem problem(spec);
        Product product(problem);
        const Bytes y = product.Multiply();
        std::vector<double> worst(80), probable(80);
        ASSERT_OK(int4q_error_bound(&product.plan, &product.args, INT4Q_BOUND_WORST_CASE, worst.data(), 20));
        ASSERT_OK(int4q_error_bound(&product.plan, &product.args, INT4Q_BOUND_PROBABLE, probable.data(), 20));
        for (int64_t row = 0; row < 4; row++) {
            for (int64_t column = 0; column < 20; column++) {
                double exact = 0;
                for (int64_t c = 0; c < spec.k; c++) {
                    exact += static_cast<double>(problem.X(row, c)) * static_cast<double>(problem.Scale(column, problem.GroupOf(c))) *
                             static_cast<double>(problem.Codebook(column)[problem.Code(column, c)]);
                }
                const double off = std::fabs(static_cast<double>(LoadElement(y.data(), spec.y_type, row * 20 + column)) - exact);
                const size_t j = static_cast<size_t>(row * 20 + column);
                EXPECT_LE(probable[j], worst[j]);
                EXPECT_LE(off, probable[j] + 1e-13 * std::fabs(exact));
                EXPECT_LE(worst[j], 0.01 * std::fabs(exact) + 1) << "of some use";
            }
        }
    }
}

// ---- What there is no code for, wrong arguments -----------------------------------------------------------------------

TEST(BadRowCodebooks, OtherModesAreUnsupported) {
    Random random(31);
    const Problem problem(RowSpec(random, 2, 18, 40));
    for (int4q_isa isa : UsableIsas()) {
        const IsaLimit limit(isa);
        for (int4q_compute_mode mode : {INT4Q_MODE_INT8, INT4Q_MODE_BF16}) {
            int4q_matmul_desc desc = Product::Describe(problem, 2, 1);
            desc.mode = mode;
            int4q_matmul_plan plan{};
            plan.struct_size = sizeof plan;
            EXPECT_FAILS(int4q_matmul_plan_init(&desc, &plan), INT4Q_ERROR_UNSUPPORTED, "int4q_matmul_plan_init", "mode");
            char text[4096];
            EXPECT_FAILS(int4q_describe_dispatch(&desc, text, sizeof text, nullptr), INT4Q_ERROR_UNSUPPORTED, "int4q_describe_dispatch", "mode");
        }
    }
}

TEST(BadRowCodebooks, ScopesMustAgree) {
    Random random(32);
    Spec spec = RowSpec(random, 2, 18, 40);
    const Problem of_rows(spec);
    spec.row_codebooks = false;
    const Problem of_tensor(spec);
    for (const Problem *problem : {&of_rows, &of_tensor}) {
        const Problem &other = problem == &of_rows ? of_tensor : of_rows;
        Product product(*problem);
        product.args.blob = other.blob.data(), product.args.blob_bytes = other.blob.size();
        EXPECT_FAILS(int4q_matmul(&product.plan, &product.args, nullptr, nullptr), INT4Q_ERROR_MISMATCH, "int4q_matmul", "codebook_scope");
        EXPECT_FAILS(int4q_unpack_rows(other.blob.data(), other.blob.size(), &problem->tensor, 0, 18), INT4Q_ERROR_MISMATCH,
                     "int4q_unpack_rows", "codebook_scope");
    }
}

// The codebooks of rows that are asked for, and only those.
TEST(BadRowCodebooks, EachRowsValues) {
    Random random(33);
    const auto scheme = RowScheme(16, INT4Q_TYPE_F32);
    Weights w(random, scheme, 33, 40);
    ASSERT_OK(w.source.Quantize(w.tensor));
    Values codebooks = w.codebooks, out(33 * 40);
    int4q_tensor tensor = *w.tensor.get();
    tensor.codebook = codebooks.data();
    uint64_t bytes = 0;
    ASSERT_OK(int4q_blob_size(&scheme, 33, 40, &bytes));
    GuardedBuffer blob(bytes, Placement::kRight, INT4Q_ALIGNMENT);
    const auto statuses = [&](int64_t begin, int64_t end) {
        return std::vector<int4q_status>{
            int4q_quantize_rows(&tensor, w.source.buffer.data(), INT4Q_TYPE_F32, w.source.stride, begin, end),
            int4q_dequantize_rows(&tensor, out.data(), INT4Q_TYPE_F32, 40, begin, end),
            int4q_pack_rows(&tensor, blob.data(), bytes, begin, end),
            int4q_quantize_pack_rows(&scheme, 33, 40, codebooks.data(), w.source.buffer.data(), INT4Q_TYPE_F32, w.source.stride, blob.data(),
                                     bytes, begin, end)};
    };
    const auto all = [](int4q_status status) { return std::vector<int4q_status>(4, status); };
    EXPECT_EQ(statuses(0, 33), all(INT4Q_OK));
    codebooks[16 * 20 + 5] = std::nanf("");
    EXPECT_EQ(statuses(16, 32), all(kNotFinite));
    EXPECT_NE(std::string(LastError().value).find("row 20, column 5"), std::string::npos) << LastError().value;
    EXPECT_STREQ(LastError().argument, "codebook");
    EXPECT_EQ(statuses(0, 16), all(INT4Q_OK)) << "another row's";
    EXPECT_EQ(statuses(32, 33), all(INT4Q_OK));
    codebooks[16 * 20 + 5] = kInfinity;
    EXPECT_EQ(statuses(0, 33), all(kNotFinite));
    for (size_t code = 0; code < 16; code++) codebooks[16 * 20 + code] = -0.0f;
    EXPECT_EQ(statuses(0, 33), all(kInvalid)) << "zeros";
    EXPECT_EQ(statuses(0, 16), all(INT4Q_OK));
    tensor.codebook = nullptr;
    EXPECT_FAILS(int4q_dequantize_rows(&tensor, out.data(), INT4Q_TYPE_F32, 40, 0, 0), kNull, "int4q_dequantize_rows", "codebook");
    tensor.codebook = reinterpret_cast<const float *>(reinterpret_cast<const char *>(codebooks.data()) + 2);
    EXPECT_FAILS(int4q_dequantize_rows(&tensor, out.data(), INT4Q_TYPE_F32, 40, 0, 0), kMisaligned, "int4q_dequantize_rows", "codebook");
    tensor.codebook = reinterpret_cast<const float *>(~uintptr_t{63});
    EXPECT_FAILS(int4q_dequantize_rows(&tensor, out.data(), INT4Q_TYPE_F32, 40, 0, 0), kOverflow, "int4q_dequantize_rows", "n");
}

TEST(BadRowCodebooks, BlobCodebooks) {
    Random random(34);
    const auto scheme = RowScheme(16, INT4Q_TYPE_F32);
    Weights w(random, scheme, 33, 40);
    ASSERT_OK(w.source.Quantize(w.tensor));
    const GuardedBuffer blob = Packed(*w.tensor.get());
    Values codebooks(16 * 33, 5.0f);
    const Values before = codebooks;
    const char *const name = "int4q_blob_codebooks";
    EXPECT_FAILS(int4q_blob_codebooks(nullptr, blob.size(), codebooks.data(), 0, 33), kNull, name, "blob");
    EXPECT_FAILS(int4q_blob_codebooks(blob.data(), blob.size() - 1, codebooks.data(), 0, 33), kTooSmall, name, "blob_bytes");
    EXPECT_FAILS(int4q_blob_codebooks(blob.data(), blob.size(), nullptr, 0, 33), kNull, name, "codebooks");
    EXPECT_FAILS(int4q_blob_codebooks(blob.data(), blob.size(), Shift(codebooks.data(), 2), 0, 33), kMisaligned, name, "codebooks");
    EXPECT_FAILS(int4q_blob_codebooks(blob.data(), blob.size(), codebooks.data(), -1, 33), kInvalid, name, "row_begin");
    EXPECT_FAILS(int4q_blob_codebooks(blob.data(), blob.size(), codebooks.data(), 0, 34), kInvalid, name, "row_end");
    EXPECT_FAILS(int4q_blob_codebooks(blob.data(), blob.size(), codebooks.data(), 5, 4), kInvalid, name, "row_end");
    EXPECT_EQ(codebooks, before);
    EXPECT_OK(int4q_blob_codebooks(blob.data(), blob.size(), codebooks.data(), 5, 5)) << "no rows";
    EXPECT_EQ(codebooks, before);
    TensorMemory other(MakeScheme(INT4Q_KIND_SYMMETRIC, 16, INT4Q_TYPE_F32), 33, 40);
    ASSERT_OK(w.source.Quantize(other));
    const GuardedBuffer symmetric = Packed(*other.get());
    EXPECT_FAILS(int4q_blob_codebooks(symmetric.data(), symmetric.size(), codebooks.data(), 0, 33), INT4Q_ERROR_MISMATCH, name, "kind");
}

TEST(BadRowCodebooks, BlockFormatsHaveOneForTheTensor) {
    Random random(35);
    Weights w(random, RowScheme(32, INT4Q_TYPE_F16), 2, 32);
    std::vector<uint8_t> blocks(36);
    EXPECT_FAILS(int4q_blocks_to_tensor(INT4Q_FORMAT_IQ4_NL, 0, blocks.data(), 36, w.tensor.get(), 0, 2), INT4Q_ERROR_MISMATCH,
                 "int4q_blocks_to_tensor", "codebook_scope");
}

// ---- The C++ wrapper --------------------------------------------------------------------------------------------------

TEST(RowCodebooks, CppWrapperTakesAndGivesThem) {
    Random random(36);
    std::vector<float> weights(20 * 48);
    for (float &w : weights) w = random.Normal();
    const Values codebooks = RandomCodebooks(random, 20);
    const auto scheme = int4q::Scheme::codebook(16, INT4Q_TYPE_F32, INT4Q_SCALE_ONE, INT4Q_ROUNDING_NEAREST_EVEN, INT4Q_CODEBOOK_PER_ROW);
    const int4q::ConstMatrix matrix(weights, 20, 48);
    const int4q::Tensor tensor = int4q::quantize(matrix, scheme, codebooks);
    const int4q::Blob packed = int4q::pack(tensor), fused = int4q::quantize_pack(matrix, scheme, codebooks);
    ASSERT_EQ(packed.bytes(), fused.bytes());
    EXPECT_EQ(std::memcmp(packed.data(), fused.data(), packed.bytes()), 0);
    const int4q::Tensor back = packed.unpack();
    EXPECT_EQ(back.codebook, codebooks);
    EXPECT_EQ(back.codes, tensor.codes);
    EXPECT_THROW(int4q::quantize(matrix, scheme, Values(16, 1.0f)), int4q::Error);
    EXPECT_THROW(int4q::quantize_pack(matrix, scheme, Values(16, 1.0f)), int4q::Error);
}

}  // namespace
}  // namespace int4q_test
