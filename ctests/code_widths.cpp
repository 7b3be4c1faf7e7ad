// SPDX-License-Identifier: Apache-2.0
// Codes of 8 bits, BINARY, TERNARY, scales that are powers of two or the caller's: quantizing against the definitions'
// re-derivation, blobs against the format's, products to the bit in F32, INT8 and BINARY mode on every instruction set; damage;
// wrong arguments.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "int4q.hpp"
#include "support/bad_arguments.hpp"
#include "support/blob_memory.hpp"
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
constexpr float kLargest = std::numeric_limits<float>::max();

int4q_scheme Wide(int32_t kind, int32_t group_size, int4q_type scale_type, int32_t rule = INT4Q_SCALE_DEFAULT,
                  int32_t range = INT4Q_RANGE_FULL) {
    int4q_scheme scheme = MakeScheme(kind, group_size, scale_type, rule, range);
    scheme.code_bits = 8;
    return scheme;
}

// Every scheme of these widths and rules that finds its scales itself.
std::vector<int4q_scheme> WidthSchemes(int32_t group_size, int4q_type type) {
    std::vector<int4q_scheme> schemes;
    for (int32_t range : {INT4Q_RANGE_FULL, INT4Q_RANGE_RESTRICTED}) {
        for (int32_t rule : {INT4Q_SCALE_DEFAULT, INT4Q_SCALE_AMAX_7, INT4Q_SCALE_AMAX_7_5, INT4Q_SCALE_POWER_OF_TWO}) {
            schemes.push_back(Wide(INT4Q_KIND_SYMMETRIC, group_size, type, rule, range));
        }
        schemes.push_back(MakeScheme(INT4Q_KIND_SYMMETRIC, group_size, type, INT4Q_SCALE_POWER_OF_TWO, range));
    }
    schemes.push_back(Wide(INT4Q_KIND_SYMMETRIC, group_size, type, INT4Q_SCALE_SIGNED_MAX_8));
    schemes.push_back(Wide(INT4Q_KIND_ASYMMETRIC, group_size, type));
    schemes.push_back(Wide(INT4Q_KIND_OFFSET, group_size, type));
    if (group_size == 16) return schemes;
    schemes.push_back(MakeScheme(INT4Q_KIND_BINARY, group_size, type));
    schemes.push_back(MakeScheme(INT4Q_KIND_TERNARY, group_size, type));
    schemes.push_back(MakeScheme(INT4Q_KIND_TERNARY, group_size, type, INT4Q_SCALE_AMAX_7));
    return schemes;
}

// One of each layout.
std::vector<int4q_scheme> WidthLayouts(int32_t group_size, int4q_type type) {
    return {Wide(INT4Q_KIND_SYMMETRIC, group_size, type), Wide(INT4Q_KIND_ASYMMETRIC, group_size, type),
            Wide(INT4Q_KIND_OFFSET, group_size, type), MakeScheme(INT4Q_KIND_BINARY, group_size, type),
            MakeScheme(INT4Q_KIND_TERNARY, group_size, type)};
}

std::string LastMessage() { return LastError().message; }

// ---- Quantizing -----------------------------------------------------------------------------------------------------

// Quantizes on every instruction set, into a tensor and into a blob, and takes the blob apart again.
void CheckQuantizing(const int4q_scheme &scheme, const SourceMatrix &source, Placement placement) {
    const int64_t n = source.n, k = source.k;
    SCOPED_TRACE(Name(scheme) + " of " + TypeName(source.type) + " " + std::to_string(n) + " x " + std::to_string(k));
    const ReferenceTensor wanted = QuantizeReference(scheme, n, k, nullptr, source);
    for (int4q_isa isa : UsableIsas()) {
        const IsaLimit limit(isa);
        SCOPED_TRACE(int4q_isa_name(isa));
        TensorMemory tensor(scheme, n, k, placement);
        ASSERT_EQ(tensor.layout().codes_row_bytes, static_cast<uint64_t>(CodeRowBytes(scheme, k)));
        GuardedBuffer fused(SizeOf(tensor), placement, INT4Q_ALIGNMENT);
        const int4q_status status = source.Quantize(tensor);
        if (!wanted.finite) {
            EXPECT_EQ(status, INT4Q_ERROR_NOT_FINITE);
            const std::string place = "row " + std::to_string(wanted.bad_row) + ", column " + std::to_string(wanted.bad_begin);
            EXPECT_NE(LastMessage().find(place), std::string::npos) << LastMessage() << " lacks " << place;
        }
        EXPECT_EQ(int4q_quantize_pack_rows(&scheme, n, k, nullptr, source.buffer.data(), source.type, source.stride, fused.data(),
                                           fused.size(), 0, n), status);
        if (!wanted.finite) continue;
        ASSERT_OK(status);
        ASSERT_EQ(tensor.Scales(), wanted.scales);
        ASSERT_EQ(tensor.ZeroPoints(), wanted.zero_points);
        ASSERT_EQ(tensor.Offsets(), wanted.offsets);
        ASSERT_EQ(tensor.Codes(), wanted.codes) << "codes, or what follows a row's last one";

        const std::vector<uint8_t> reference = PackReference(*tensor.get());
        const GuardedBuffer blob = Pack(tensor);
        ASSERT_EQ(blob.size(), reference.size());
        ASSERT_EQ(std::memcmp(blob.data(), reference.data(), reference.size()), 0) << "the format";
        ASSERT_EQ(std::memcmp(fused.data(), reference.data(), reference.size()), 0) << "in one pass";
        ASSERT_OK(Validate(blob));
        TensorMemory back(scheme, n, k, placement);
        ASSERT_OK(int4q_unpack_rows(blob.data(), blob.size(), back.get(), 0, n));
        EXPECT_TRUE(SameTensor(tensor, back));
    }
}

TEST(CodeWidths, QuantizingAndPackingEqualTheRederivations) {
    Random random(101);
    for (int32_t group_size : kAllGroupSizes) {
        for (int4q_type type : kTypes) {
            for (const int4q_scheme &scheme : WidthSchemes(group_size, type)) {
                for (int4q_type source_type : kTypes) {
                    const int64_t n = random.Integer(1, 20), k = random.Integer(1, 300);
                    const Placement placement = random.Chance(0.5) ? Placement::kLeft : Placement::kRight;
                    SourceMatrix source(source_type, n, k, k + random.Integer(0, 3), placement);
                    FillMixed(source, random);
                    CheckQuantizing(scheme, source, placement);
                    if (HasFailure()) return;
                }
            }
        }
    }
}

TEST(CodeWidths, EveryTailOfARow) {
    Random random(102);
    for (int64_t k = 1; k <= 70; k++) {
        for (int32_t group_size : {32, INT4Q_GROUP_PER_ROW}) {
            for (const int4q_scheme &scheme : WidthLayouts(group_size, INT4Q_TYPE_F16)) {
                SourceMatrix source(INT4Q_TYPE_F32, 17, k, k);
                FillMixed(source, random);
                CheckQuantizing(scheme, source, Placement::kRight);
                if (HasFailure()) return;
            }
        }
    }
    for (const int4q_scheme &scheme : WidthLayouts(INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F32)) {
        SourceMatrix source(INT4Q_TYPE_F32, 2, 65536 + 77, 65536 + 77);
        FillMixed(source, random);
        CheckQuantizing(scheme, source, Placement::kRight);
    }
}

// Numbers from the ends of binary32: the largest, denormals, zeros of both signs.
TEST(CodeWidths, TheEndsOfBinary32) {
    Random random(103);
    const float tiny = std::numeric_limits<float>::denorm_min();
    const std::vector<std::vector<float>> pools = {
        {kLargest, -kLargest, kLargest / 2, -kLargest / 3, 0, 1e30f}, {kLargest, 0x1p127f, 1, 0, -0.0f},
        {-kLargest, -0x1p127f, -1, 0, -0.0f},                        {tiny, -tiny, 3 * tiny, -200 * tiny, 1000 * tiny, 0, -0.0f},
        {tiny, 2 * tiny, 300 * tiny},                                {-tiny, -0.0f},
        {0x1p-126f, 0x1.8p-127f, -0x1p-120f, 0x1p-125f},             {0x1p-119f, -0x1.fcp-120f, 0x1.fcp-119f},
        {0, -0.0f},                                                  {65504, -65504, 65519.9f, -3e5f, 1e6f},
    };
    for (const std::vector<float> &pool : pools) {
        for (int32_t group_size : {32, INT4Q_GROUP_PER_ROW}) {
            for (int4q_type type : kTypes) {
                for (const int4q_scheme &scheme : WidthSchemes(group_size, type)) {
                    SourceMatrix source(INT4Q_TYPE_F32, 3, 75, 75);
                    for (int64_t i = 0; i < 3 * 75; i++) source.Set(i / 75, i % 75, random.Pick(pool));
                    CheckQuantizing(scheme, source, Placement::kRight);
                    if (HasFailure()) return;
                }
            }
        }
    }
}

TEST(CodeWidths, ConstantGroupsComeBack) {
    for (int4q_type type : kTypes) {
        for (const int4q_scheme &scheme : WidthLayouts(64, type)) {
            for (float value : {1.5f, -1.5f, 0.0f, -0.0f, 0x1p-14f, -48.0f}) {
                TensorMemory tensor(scheme, 2, 100);
                SourceMatrix source(INT4Q_TYPE_F32, 2, 100, 100);
                for (int64_t i = 0; i < 200; i++) source.Set(i / 100, i % 100, value);
                ASSERT_OK(source.Quantize(tensor));
                for (int64_t i = 0; i < 200; i++) ASSERT_EQ(DequantizeReference(*tensor.get(), i / 100, i % 100), value) << Name(scheme);
            }
        }
    }
}

TEST(CodeWidths, PowersOfTwoAreTheLeastThatHold) {
    Random random(104);
    for (int32_t bits : {4, 8}) {
        int4q_scheme scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F32, INT4Q_SCALE_POWER_OF_TWO);
        scheme.code_bits = bits;
        const float half = bits == 4 ? 7.0f : 127.0f;
        for (int i = 0; i < 2000; i++) {
            const float largest = i < 300 ? half * std::ldexp(1.0f, i - 149) : std::ldexp(random.Uniform(1, 2), static_cast<int>(random.Integer(-140, 120)));
            if (!std::isfinite(largest)) continue;
            TensorMemory tensor(scheme, 1, 32);
            SourceMatrix source(INT4Q_TYPE_F32, 1, 32, 32);
            for (int64_t c = 0; c < 32; c++) source.Set(0, c, c == 5 ? -largest : largest * random.Uniform(-1, 1));
            ASSERT_OK(source.Quantize(tensor));
            const float scale = LoadElement(tensor->scales, INT4Q_TYPE_F32, 0);
            int exponent = 0;
            ASSERT_EQ(std::frexp(scale, &exponent), 0.5f) << scale;
            ASSERT_GE(scale, largest / half) << largest;
            ASSERT_TRUE(scale / 2 == 0 || scale / 2 < largest / half) << std::hexfloat << largest << " has scale " << scale;
        }
    }
}

TEST(CodeWidths, SourcesThatAreNotFiniteAreNamed) {
    for (const int4q_scheme &scheme : WidthLayouts(64, INT4Q_TYPE_F32)) {
        for (int32_t rule : {INT4Q_SCALE_DEFAULT, INT4Q_SCALE_GIVEN}) {
            for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
                int4q_scheme other = scheme;
                other.scale_rule = rule;
                TensorMemory tensor(other, 5, 200);
                SourceMatrix source(INT4Q_TYPE_F32, 5, 200, 200);
                for (int64_t i = 0; i < 1000; i++) source.Set(i / 200, i % 200, 1);
                if (rule == INT4Q_SCALE_GIVEN) {
                    for (int64_t i = 0; i < 20; i++) StoreElement(tensor.get()->scales, INT4Q_TYPE_F32, i, 1);
                    if (other.kind == INT4Q_KIND_OFFSET) std::memset(tensor.get()->offsets, 0, 80);
                }
                source.Set(3, 130, bad);
                EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_NOT_FINITE, "int4q_quantize_rows", "source");
                EXPECT_NE(LastMessage().find("row 3, column 130"), std::string::npos) << LastMessage();
                EXPECT_OK(source.Quantize(tensor, 4, 5)) << "another row's";
            }
        }
    }
}

// ---- Scales of the caller -------------------------------------------------------------------------------------------

std::vector<int4q_scheme> GivenSchemes(int32_t group_size, int4q_type type) {
    std::vector<int4q_scheme> schemes;
    for (int32_t kind : {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET}) {
        for (int32_t bits : {0, 8}) {
            schemes.push_back(MakeScheme(kind, group_size, type, INT4Q_SCALE_GIVEN));
            schemes.back().code_bits = bits;
            if (kind != INT4Q_KIND_SYMMETRIC) continue;
            schemes.push_back(schemes.back());
            schemes.back().code_range = INT4Q_RANGE_RESTRICTED;
        }
    }
    for (int32_t scope : {INT4Q_CODEBOOK_PER_TENSOR, INT4Q_CODEBOOK_PER_ROW}) {
        schemes.push_back(MakeScheme(INT4Q_KIND_CODEBOOK, group_size, type, INT4Q_SCALE_GIVEN));
        schemes.back().codebook_scope = scope;
    }
    if (group_size == 16) return schemes;
    for (int32_t kind : {INT4Q_KIND_BINARY, INT4Q_KIND_TERNARY}) schemes.push_back(MakeScheme(kind, group_size, type, INT4Q_SCALE_GIVEN));
    return schemes;
}

void CheckGiven(Random &random, const int4q_scheme &scheme, bool is_huge) {
    const int64_t n = random.Integer(1, 20), k = random.Integer(1, 300);
    SCOPED_TRACE(Name(scheme) + " " + std::to_string(n) + " x " + std::to_string(k) + (is_huge ? " huge" : ""));
    Values codebook(CodebookCount(scheme, n));
    for (float &value : codebook) value = random.Normal();
    TensorMemory tensor(scheme, n, k, random.Chance(0.5) ? Placement::kLeft : Placement::kRight, codebook.data());
    for (int64_t i = 0; i < n * tensor.groups(); i++) {
        float scale = std::ldexp(random.Normal(), static_cast<int>(random.Integer(-6, 4)));
        if (random.Chance(0.1)) scale = random.Chance(0.5) ? 0.0f : -0.0f;
        if (random.Chance(0.05)) scale = 0x1p-24f;
        if (is_huge) scale = RoundTo(scheme.scale_type, scale) * (scheme.scale_type == INT4Q_TYPE_F16 ? 1.0f : 0x1p118f);
        StoreElement(tensor.get()->scales, scheme.scale_type, i, scale);
        if (tensor->zero_points) static_cast<uint8_t *>(tensor.get()->zero_points)[i] = static_cast<uint8_t>(random.Integer(0, LargestCode(scheme)));
        float offset = random.Normal() * 4;
        if (is_huge && scheme.scale_type != INT4Q_TYPE_F16) offset = std::copysign(0x1.8p127f, offset);
        if (tensor->offsets) StoreElement(tensor.get()->offsets, scheme.scale_type, i, offset);
    }
    SourceMatrix source(INT4Q_TYPE_F32, n, k, k);
    FillMixed(source, random);
    if (is_huge) {
        for (int64_t i = 0; i < n * k; i++) source.Set(i / k, i % k, random.Uniform(-1, 1) * kLargest);
    }
    const Bytes scales = tensor.Scales(), zero_points = tensor.ZeroPoints(), offsets = tensor.Offsets();
    const auto given = [&](int64_t row, int64_t group) {
        const int64_t i = row * tensor.groups() + group;
        return GivenGroup{LoadElement(scales.data(), scheme.scale_type, i),
                          offsets.empty() ? 0.0f : LoadElement(offsets.data(), scheme.scale_type, i),
                          zero_points.empty() ? uint8_t{0} : zero_points[static_cast<size_t>(i)]};
    };
    const ReferenceTensor wanted = QuantizeReference(scheme, n, k, codebook.data(), source, given);
    for (int4q_isa isa : UsableIsas()) {
        const IsaLimit limit(isa);
        std::memset(tensor.get()->codes, 0xa5, tensor->codes_bytes);
        ASSERT_OK(source.Quantize(tensor));
        ASSERT_EQ(tensor.Codes(), wanted.codes) << int4q_isa_name(isa);
        EXPECT_EQ(tensor.Scales(), scales) << "the caller's";
        EXPECT_EQ(tensor.ZeroPoints(), zero_points) << "the caller's";
        EXPECT_EQ(tensor.Offsets(), offsets) << "the caller's";
        const GuardedBuffer blob = Pack(tensor);
        const std::vector<uint8_t> reference = PackReference(*tensor.get());
        EXPECT_EQ(std::memcmp(blob.data(), reference.data(), reference.size()), 0);
        EXPECT_OK(Validate(blob));
    }
}

TEST(GivenScales, CodesAreTheNearest) {
    Random random(111);
    for (int32_t group_size : kAllGroupSizes) {
        for (int4q_type type : kTypes) {
            for (const int4q_scheme &scheme : GivenSchemes(group_size, type)) {
                for (int i = 0; i < Samples(2); i++) CheckGiven(random, scheme, false);
                CheckGiven(random, scheme, true);
                if (HasFailure()) return;
            }
        }
    }
}

TEST(GivenScales, WrongOnesAreNamed) {
    for (int4q_scheme scheme : GivenSchemes(64, INT4Q_TYPE_F32)) {
        SCOPED_TRACE(Name(scheme));
        const bool of_rows = scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW;
        Values codebook;
        for (int i = 0; i < (of_rows ? 5 : 1); i++) codebook.insert(codebook.end(), kNormalFloat, kNormalFloat + 16);
        SourceMatrix source(INT4Q_TYPE_F32, 5, 200, 200);
        for (int64_t i = 0; i < 1000; i++) source.Set(i / 200, i % 200, 1);
        const auto fill = [&](TensorMemory &tensor) {
            for (int64_t i = 0; i < 20; i++) StoreElement(tensor.get()->scales, INT4Q_TYPE_F32, i, 1);
            if (tensor->offsets) std::memset(tensor.get()->offsets, 0, tensor->offsets_bytes);
            if (tensor->zero_points) std::memset(tensor.get()->zero_points, 0, tensor->zero_points_bytes);
        };
        TensorMemory tensor(scheme, 5, 200, Placement::kRight, codebook.data());
        for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
            fill(tensor);
            StoreElement(tensor.get()->scales, INT4Q_TYPE_F32, 4 * 3 + 2, bad);
            EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_NOT_FINITE, "int4q_quantize_rows", "scales");
            EXPECT_NE(LastMessage().find("row 3, column 2"), std::string::npos) << LastMessage();
            EXPECT_OK(source.Quantize(tensor, 0, 3));
            if (!tensor->offsets) continue;
            fill(tensor);
            StoreElement(tensor.get()->offsets, INT4Q_TYPE_F32, 4 * 1 + 3, bad);
            EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_NOT_FINITE, "int4q_quantize_rows", "offsets");
            EXPECT_NE(LastMessage().find("row 1, column 3"), std::string::npos) << LastMessage();
        }
        fill(tensor);
        if (tensor->zero_points) {
            static_cast<uint8_t *>(tensor.get()->zero_points)[4 * 4 + 1] = 16;
            if (scheme.code_bits == 8) {
                EXPECT_OK(source.Quantize(tensor)) << "any byte is a code of 8 bits";
            } else {
                EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_quantize_rows", "zero_points");
                EXPECT_NE(LastMessage().find("at most 15"), std::string::npos) << LastMessage();
            }
        }
        GuardedBuffer blob(SizeOf(tensor), Placement::kRight, INT4Q_ALIGNMENT);
        EXPECT_FAILS(int4q_quantize_pack_rows(&scheme, 5, 200, scheme.kind == INT4Q_KIND_CODEBOOK ? codebook.data() : nullptr,
                                              source.buffer.data(), INT4Q_TYPE_F32, 200, blob.data(), blob.size(), 0, 5),
                     INT4Q_ERROR_INVALID_ARGUMENT, "int4q_quantize_pack_rows", "scale_rule");
    }
}

// ---- What reads tensors besides ------------------------------------------------------------------------------------------

TEST(CodeWidths, ErrorsAndBiases) {
    Random random(118);
    for (int32_t group_size : {32, 256, INT4Q_GROUP_PER_ROW}) {
        for (const int4q_scheme &scheme : WidthLayouts(group_size, INT4Q_TYPE_F32)) {
            SCOPED_TRACE(Name(scheme));
            const int64_t n = 5, k = random.Integer(1000, 3000);
            TensorMemory tensor(scheme, n, k);
            SourceMatrix source(INT4Q_TYPE_F32, n, k, k);
            FillMixed(source, random);
            ASSERT_OK(source.Quantize(tensor));
            const size_t groups = static_cast<size_t>(n * tensor.groups());
            std::vector<double> group_errors(groups), row_errors(5), corrections(5), shifts(5), ratios(5), means(static_cast<size_t>(k));
            for (double &mean : means) mean = static_cast<double>(random.Normal());
            ASSERT_OK(int4q_diagnose_errors(tensor.get(), source.buffer.data(), INT4Q_TYPE_F32, k, group_errors.data(), nullptr, row_errors.data(),
                                            nullptr, 0, n));
            ASSERT_OK(int4q_bias_output(tensor.get(), source.buffer.data(), INT4Q_TYPE_F32, k, means.data(), corrections.data(), 0, n));
            ASSERT_OK(int4q_bias_measure(tensor.get(), source.buffer.data(), INT4Q_TYPE_F32, k, shifts.data(), ratios.data(), 0, n));
            std::vector<double> wanted(groups);
            for (int64_t row = 0; row < n; row++) {
                double all = 0, correction = 0, through = 0, w_sum = 0, v_sum = 0, w_squares = 0, v_squares = 0;
                for (int64_t c = 0; c < k; c++) {
                    const double w = static_cast<double>(source(row, c)), v = static_cast<double>(DequantizeReference(*tensor.get(), row, c));
                    const double mean = means[static_cast<size_t>(c)];
                    wanted[static_cast<size_t>(row * tensor.groups() + c / GroupLength(scheme, k))] += (w - v) * (w - v);
                    all += (w - v) * (w - v);
                    correction += (w - v) * mean;
                    through += std::fabs((w - v) * mean);
                    w_sum += w, v_sum += v;
                }
                const double count = static_cast<double>(k), w_mean = w_sum / count, v_mean = v_sum / count;
                for (int64_t c = 0; c < k; c++) {
                    w_squares += std::pow(static_cast<double>(source(row, c)) - w_mean, 2);
                    v_squares += std::pow(static_cast<double>(DequantizeReference(*tensor.get(), row, c)) - v_mean, 2);
                }
                const size_t i = static_cast<size_t>(row);
                const double ratio = std::sqrt(w_squares / v_squares);
                EXPECT_NEAR(row_errors[i], all, 1e-12 * all);
                EXPECT_NEAR(corrections[i], correction, 1e-12 * through);
                EXPECT_NEAR(ratios[i], ratio, 1e-9 * ratio);
                EXPECT_NEAR(shifts[i], w_mean / ratio - v_mean, 1e-9 * std::sqrt(w_squares / count) / ratio);
            }
            for (size_t g = 0; g < groups; g++) EXPECT_NEAR(group_errors[g], wanted[g], 1e-12 * wanted[g]) << g;
        }
    }
}

// ---- Blobs ----------------------------------------------------------------------------------------------------------

TEST(CodeWidths, BlobsGiveBackWhatWasPacked) {
    Random random(121);
    for (int i = 0; i < Samples(15); i++) {
        for (int32_t group_size : {32, 256, INT4Q_GROUP_PER_ROW}) {
            for (const int4q_scheme &scheme : WidthLayouts(group_size, random.Pick(std::vector<int4q_type>(kTypes, kTypes + 3)))) {
                const int64_t n = random.Integer(1, 50), k = random.Integer(1, 300);
                SCOPED_TRACE(Name(scheme) + " " + std::to_string(n) + " x " + std::to_string(k));
                const TensorMemory tensor = RandomTensor(scheme, n, k, random.Bits());
                // In two ranges, the later one first.
                GuardedBuffer blob(SizeOf(tensor), Placement::kRight, INT4Q_ALIGNMENT);
                const int64_t cut = std::min(n, random.Integer(0, n / 16) * 16);
                ASSERT_OK(int4q_pack_rows(tensor.get(), blob.data(), blob.size(), cut, n));
                ASSERT_OK(int4q_pack_rows(tensor.get(), blob.data(), blob.size(), 0, cut));
                ASSERT_OK(Validate(blob));
                int4q_blob_info info = EmptyInfo();
                ASSERT_OK(int4q_blob_get_info(blob.data(), blob.size(), &info));
                EXPECT_EQ(std::memcmp(&info.scheme, &scheme, sizeof scheme), 0);

                // Into rows of another tensor: those that were not asked for stay as they are.
                TensorMemory part(scheme, n, k);
                ASSERT_OK(int4q_unpack_rows(blob.data(), blob.size(), part.get(), cut, n));
                const Bytes all = tensor.Codes(), some = part.Codes();
                const size_t begin = static_cast<size_t>(cut * CodeRowBytes(scheme, k));
                EXPECT_TRUE(std::equal(all.begin() + static_cast<std::ptrdiff_t>(begin), all.end(), some.begin() + static_cast<std::ptrdiff_t>(begin)));
                for (size_t at = 0; at < begin; at++) ASSERT_EQ(some[at], GuardedBuffer::kFill);

                for (int4q_type type : kTypes) {
                    const size_t row_bytes = static_cast<size_t>(k * TypeBytes(type));
                    GuardedBuffer whole(static_cast<size_t>(n) * row_bytes, Placement::kRight), rows(3 * row_bytes, Placement::kRight);
                    ASSERT_OK(int4q_dequantize_rows(tensor.get(), whole.data(), type, k, 0, n));
                    const int64_t indices[3] = {n - 1, random.Integer(0, n - 1), 0};
                    ASSERT_OK(int4q_gather_rows(blob.data(), blob.size(), indices, 3, rows.data(), type, k));
                    for (size_t j = 0; j < 3; j++) {
                        EXPECT_EQ(std::memcmp(rows.data() + j * row_bytes, whole.data() + static_cast<size_t>(indices[j]) * row_bytes, row_bytes), 0);
                        for (int64_t c = 0; c < k; c++) {
                            const float want = RoundTo(type, DequantizeReference(*tensor.get(), indices[j], c));
                            ASSERT_EQ(LoadElement(rows.data() + j * row_bytes, type, c), want) << c;
                        }
                    }
                }
            }
        }
    }
}

// The figures of docs/blob-format.md, written out.
TEST(CodeWidths, PlacesOfCodes) {
    const uint64_t eight[16][2] = {{0, 0}, {0, 2}, {1, 0}, {1, 2}, {0, 1}, {0, 3}, {1, 1}, {1, 3},
                                   {2, 0}, {2, 2}, {3, 0}, {3, 2}, {2, 1}, {2, 3}, {3, 1}, {3, 3}};
    for (uint64_t k = 0; k < 16; k++) {
        EXPECT_EQ(PlaceOfCode(8, k).code_row, eight[k][0]) << k;
        EXPECT_EQ(PlaceOfCode(8, k).byte, eight[k][1]) << k;
    }
    const int nibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    for (uint64_t k = 0; k < 8; k++) {
        const CodePlace at = PlaceOfCode(4, k);
        EXPECT_EQ(static_cast<int>(at.byte) * 8 + at.bit, nibble[k] * 4) << k;
    }
    // Bits 31..0 of a lane of BINARY, codes 15..0 of one of TERNARY.
    const uint64_t bits[32] = {31, 29, 23, 21, 15, 13, 7, 5, 27, 25, 19, 17, 11, 9, 3, 1,
                               30, 28, 22, 20, 14, 12, 6, 4, 26, 24, 18, 16, 10, 8, 2, 0};
    const uint64_t pairs[16] = {15, 13, 7, 5, 11, 9, 3, 1, 14, 12, 6, 4, 10, 8, 2, 0};
    for (uint64_t i = 0; i < 32; i++) {
        const CodePlace at = PlaceOfCode(1, bits[i]);
        EXPECT_EQ(at.byte * 8 + static_cast<uint64_t>(at.bit), 31 - i) << bits[i];
    }
    for (uint64_t i = 0; i < 16; i++) {
        const CodePlace at = PlaceOfCode(2, pairs[i]);
        EXPECT_EQ((at.byte * 8 + static_cast<uint64_t>(at.bit)) / 2, 15 - i) << pairs[i];
    }
}

TEST(CodeWidths, DamageIsRefused) {
    const int64_t n = 18, k = 37;
    for (const int4q_scheme &scheme : WidthLayouts(32, INT4Q_TYPE_F32)) {
        SCOPED_TRACE(Name(scheme));
        const TensorMemory tensor = RandomTensor(scheme, n, k);
        const BlobGeometry at(scheme, n, k);
        const int bits = CodeBits(scheme);
        const auto flip = [&](size_t block, uint64_t lane, uint64_t column, int code) {
            const CodePlace place = PlaceOfCode(bits, column);
            ExpectBlockRefused(tensor, block, [&](uint8_t *start) {
                start[place.code_row * 64 + lane * 4 + place.byte] |= static_cast<uint8_t>(code << place.bit);
            });
        };
        for (int bit = 0; bit < bits; bit++) {
            for (uint64_t column : {uint64_t{37}, uint64_t{45}, uint64_t{63}}) flip(0, 3, column, 1 << bit);  // beyond k
            for (uint64_t column : {uint64_t{0}, uint64_t{36}, uint64_t{50}}) flip(1, 2, column, 1 << bit);   // beyond n
        }
        if (scheme.kind == INT4Q_KIND_TERNARY) {
            for (uint64_t column = 0; column < 37; column++) {
                for (uint64_t lane : {uint64_t{0}, uint64_t{15}}) flip(0, lane, column, 3);
            }
        }
        const auto set = [&](uint64_t offset, auto value) {
            ExpectBlockRefused(tensor, 1, [&](uint8_t *start) { SetField(start, offset, value); });
        };
        for (float bad : {kInfinity, std::nanf("")}) set(at.scales_offset, bad);
        set(at.scales_offset + 2 * 4, 1.0f);  // of a row that there is not
        if (scheme.kind == INT4Q_KIND_ASYMMETRIC) set(at.extra_offset + 2, uint8_t{1});
        if (scheme.kind == INT4Q_KIND_OFFSET) {
            for (float bad : {kInfinity, std::nanf("")}) set(at.extra_offset, bad);
            set(at.extra_offset + 2 * 4, 1.0f);
        }
        for (int32_t field : {0, 1, 2, 4, 5, 8, 16, -1, kMin32, kMax32}) {
            if (field != (bits == 8 ? 8 : 0)) ExpectHeaderRefused(tensor, kCodeBitsAt, field);
        }
        for (int32_t kind : {1, 2, 3, 4, 5, 6, 7}) {
            if (kind != scheme.kind) ExpectHeaderRefused(tensor, kSchemeAt, kind);
        }
        for (uint64_t size : {at.block_bytes * 2, at.block_bytes / 2, at.block_bytes + 64}) ExpectHeaderRefused(tensor, kBlockBytesAt, size);
        if (IsFew(scheme)) ExpectHeaderRefused(tensor, kSchemeAt + 4, int32_t{16});
    }
    // Every zero point of a byte is one of 8 bits.
    const TensorMemory tensor = RandomTensor(Wide(INT4Q_KIND_ASYMMETRIC, 32, INT4Q_TYPE_F32), n, k);
    const BlobGeometry at(tensor->scheme, n, k);
    GuardedBuffer blob = Pack(tensor);
    for (uint64_t lane = 0; lane < 16; lane++) blob.data()[at.blocks_offset + at.extra_offset + lane] = static_cast<uint8_t>(255 - lane);
    SignBlocks(blob.data(), blob.size());
    EXPECT_OK(Validate(blob));
}

TEST(CodeWidths, TernaryCodesOfThreeAreNotPacked) {
    for (int64_t k : {5, 16, 37, 64}) {
        for (int64_t column : {int64_t{0}, k / 2, k - 1}) {
            TensorMemory tensor(MakeScheme(INT4Q_KIND_TERNARY, 32, INT4Q_TYPE_F16), 18, k);
            SourceMatrix source(INT4Q_TYPE_F32, 18, k, k);
            for (int64_t i = 0; i < 18 * k; i++) source.Set(i / k, i % k, 1);
            ASSERT_OK(source.Quantize(tensor));
            PutCode(static_cast<uint8_t *>(tensor.get()->codes) + 16 * CodeRowBytes(tensor->scheme, k), 2, column, 3);
            GuardedBuffer blob(SizeOf(tensor), Placement::kRight, INT4Q_ALIGNMENT);
            EXPECT_FAILS(int4q_pack_rows(tensor.get(), blob.data(), blob.size(), 0, 18), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_pack_rows", "codes");
            EXPECT_NE(LastMessage().find("row 16"), std::string::npos) << LastMessage();
            EXPECT_OK(int4q_pack_rows(tensor.get(), blob.data(), blob.size(), 0, 16)) << "other rows";
        }
    }
}

// ---- Products -------------------------------------------------------------------------------------------------------

struct Width {
    int32_t kind, code_bits;
};
constexpr Width kWidths[] = {{INT4Q_KIND_SYMMETRIC, 8}, {INT4Q_KIND_ASYMMETRIC, 8}, {INT4Q_KIND_OFFSET, 8}, {INT4Q_KIND_BINARY, 0}, {INT4Q_KIND_TERNARY, 0}};

std::vector<int4q_compute_mode> ModesOf(int32_t kind) {
    if (kind == INT4Q_KIND_BINARY || kind == INT4Q_KIND_TERNARY) return {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BINARY};
    return {INT4Q_MODE_F32, INT4Q_MODE_INT8};
}

Spec WidthSpec(Random &random, const Width &width, int4q_compute_mode mode, int64_t m, int64_t n, int64_t k) {
    Spec spec = RandomSpec(random, m, n, k, mode);
    spec.kind = width.kind;
    spec.code_bits = width.code_bits;
    if (spec.group_size == 16 && width.code_bits == 0) spec.group_size = 32;
    return spec;
}

// Each width in each of its modes.
void ForEachProduct(const std::function<void(const Width &, int4q_compute_mode)> &body) {
    for (const Width &width : kWidths) {
        for (int4q_compute_mode mode : ModesOf(width.kind)) {
            body(width, mode);
            if (::testing::Test::HasFailure()) return;
        }
    }
}

// BINARY mode in binary64. A term passes ceil(L / 16) + 4 additions of the mean, its division, the product with the scale, float(dot)
// and at most two roundings for each group; then y's.
::testing::AssertionResult NearBinary(const Problem &problem, const Bytes &y) {
    const Spec &spec = problem.spec;
    const int64_t size = PackedGroupSize(spec), groups = (spec.k + size - 1) / size;
    const double gamma = static_cast<double>(size / 16 + 2 * groups + 12) * 0x1p-24;
    for (int64_t row = 0; row < spec.m; row++) {
        for (int64_t column = 0; column < spec.n; column++) {
            double want = 0, through = 0;
            for (int64_t begin = 0; begin < spec.k; begin += size) {
                const int64_t end = std::min(begin + size, spec.k);
                double sum = 0, dot = 0;
                for (int64_t c = begin; c < end; c++) {
                    const double x = static_cast<double>(problem.X(row, c));
                    sum += std::fabs(x);
                    dot += (x < 0 ? -1 : 1) * CentredCode(problem.scheme, problem.Code(column, c));
                }
                const double term = dot * sum / static_cast<double>(end - begin) * static_cast<double>(problem.Scale(column, problem.GroupOf(begin)));
                want += term;
                through += std::fabs(term);
            }
            const double value = static_cast<double>(LoadElement(y.data(), spec.y_type, row * spec.n + column));
            const double bound = gamma * through + UnitRoundoff(spec.y_type) * (std::fabs(want) + gamma * through) + HalfSubnormal(spec.y_type) + 0x1p-140;
            if (!(std::fabs(value - want) <= bound)) {
                return ::testing::AssertionFailure() << "row " << row << " column " << column << ": " << value << ", not " << want << " within " << bound
                                                     << ": " << spec.Text();
            }
        }
    }
    return ::testing::AssertionSuccess();
}

::testing::AssertionResult NearExact(const Problem &problem, const Bytes &y) {
    return problem.spec.mode == INT4Q_MODE_BINARY ? NearBinary(problem, y) : NearFloat64(problem, y);
}

void ExpectExact(const Problem &problem, bool is_near = true) {
    const Bytes want = ExactProduct(problem);
    for (int4q_isa isa : UsableIsas()) {
        const IsaLimit limit(isa);
        Product product(problem);
        EXPECT_EQ(product.plan.isa, isa);
        EXPECT_TRUE(SameY(problem, want, product.Multiply())) << int4q_isa_name(isa);
    }
    if (!is_near) return;
    EXPECT_TRUE(NearExact(problem, want));
}

TEST(CodeWidthProducts, SameBitsForEveryGroupSizeAndType) {
    Random random(131);
    ForEachProduct([&](const Width &width, int4q_compute_mode mode) {
        for (int32_t group_size : kGroupSizes) {
            if (group_size == 16 && width.code_bits == 0) continue;
            for (int4q_type type : kTypes) {
                for (int i = 0; i < Samples(3); i++) {
                    Spec spec = WidthSpec(random, width, mode, random.Integer(1, 20), random.Integer(1, 90), random.Integer(1, 600));
                    spec.group_size = group_size;
                    spec.scale_type = type;
                    ExpectExact(Problem(spec));
                    if (HasFailure()) return;
                }
            }
        }
    });
}

// Around code rows of each width, groups, rows and blocks that are taken at a time, and the padding.
TEST(CodeWidthProducts, EverySizeNearACut) {
    Random random(132);
    const std::vector<int64_t> ms = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17};
    ForEachProduct([&](const Width &width, int4q_compute_mode mode) {
        for (int64_t k : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 385}) {
            for (int64_t n : {1, 15, 16, 17, 33, 49, 65, 81}) {
                ExpectExact(Problem(WidthSpec(random, width, mode, random.Pick(ms), n, k)));
                if (HasFailure()) return;
            }
        }
        for (int64_t m : {127, 128, 129, 140}) ExpectExact(Problem(WidthSpec(random, width, mode, m, 70, 300)));
        Spec longer = WidthSpec(random, width, mode, 3, 18, 65536 + 40);
        longer.group_size = INT4Q_GROUP_PER_ROW;
        ExpectExact(Problem(longer));
    });
}

// Codes and activations at their ends, with one group of 65536: what int32 sums, and narrower ones inside of them, must hold.
TEST(CodeWidthProducts, TheLargestSums) {
    const int64_t k = 65536 + 64;
    for (const Width &width : kWidths) {
        for (int4q_compute_mode mode : ModesOf(width.kind)) {
            for (int64_t m : {1, 5}) {
                for (int sign : {1, -1}) {
                    Spec spec;
                    spec.m = m, spec.n = 17, spec.k = k;
                    spec.mode = mode, spec.kind = width.kind, spec.code_bits = width.code_bits;
                    spec.group_size = INT4Q_GROUP_PER_ROW;
                    spec.scale_type = INT4Q_TYPE_F32;
                    Problem problem(spec);
                    // Row 0 of W all at the upper end, 1 at the lower; rows of x all of one sign, or of the weights'.
                    problem.SetWeights([&](int64_t row, int64_t c) {
                        if (c == k - 1) return 0.0f;  // no constant group
                        return row % 3 == 0 ? 1.0f : row % 3 == 1 ? -1.0f : c % 2 ? -1.0f : 1.0f;
                    });
                    problem.SetX([&](int64_t row, int64_t c) { return static_cast<float>(sign) * (row % 2 && c % 2 ? -1.0f : 1.0f); });
                    ExpectExact(problem);
                    if (HasFailure()) return;
                }
            }
        }
    }
}

TEST(CodeWidthProducts, NanInfinityAndDenormals) {
    Random random(133);
    ForEachProduct([&](const Width &width, int4q_compute_mode mode) {
        for (int i = 0; i < Samples(12); i++) {
            const int64_t m = random.Integer(3, 10), n = random.Integer(1, 40), k = random.Integer(1, 200);
            Spec spec = WidthSpec(random, width, mode, m, n, k);
            spec.quantize = true;
            spec.y_type = spec.x_type = INT4Q_TYPE_F32;
            Problem problem(spec);
            const int exponent = static_cast<int>(random.Integer(-149, -90));
            problem.SetX([&](int64_t, int64_t) { return std::ldexp(random.Normal(), exponent); });
            problem.SetX(1, random.Integer(0, k - 1), random.Chance(0.5) ? kInfinity : -kInfinity);
            problem.SetX(2, random.Integer(0, k - 1), std::nanf(""));
            ExpectExact(problem, false);
            const Bytes y = Product(problem).Multiply();
            for (int64_t j = 0; j < m * n; j++) {
                const float value = LoadElement(y.data(), INT4Q_TYPE_F32, j);
                const bool is_bad = j / n == 1 || j / n == 2;
                ASSERT_EQ(std::isfinite(value), !is_bad) << spec.Text();
                ASSERT_TRUE(!is_bad || mode == INT4Q_MODE_F32 || std::isnan(value)) << spec.Text();
            }
        }
    });
}

// In BINARY mode zeros of both signs and numbers down to the last denormal have a sign; sums may overflow.
TEST(CodeWidthProducts, SignsOfZerosAndDenormals) {
    Random random(134);
    const std::vector<float> values = {0.0f, -0.0f, 0x1p-149f, -0x1p-149f, 0x1p-126f, -0x1p-127f, 1, -1};
    for (const Width &width : {kWidths[3], kWidths[4]}) {
        for (int i = 0; i < Samples(30); i++) {
            Spec spec = WidthSpec(random, width, INT4Q_MODE_BINARY, random.Integer(1, 6), random.Integer(1, 40), random.Integer(1, 200));
            spec.x_type = INT4Q_TYPE_F32;
            Problem problem(spec);
            problem.SetX([&](int64_t, int64_t) { return random.Pick(values); });
            ExpectExact(problem);
            problem.SetX([&](int64_t, int64_t) { return random.Chance(0.5) ? kLargest : -kLargest; });
            ExpectExact(problem, false);
            if (HasFailure()) return;
        }
    }
}

TEST(CodeWidthProducts, WorkersBatchesAndScratch) {
    Random random(135);
    ForEachProduct([&](const Width &width, int4q_compute_mode mode) {
        const Spec spec = WidthSpec(random, width, mode, 37, 531, 203);
        const Problem problem(spec);
        const Bytes want = ExactProduct(problem);
        for (uint32_t workers : {1u, 2u, 5u}) {
            OwnThreads host;
            Product product(problem, workers);
            std::memset(product.scratch.data(), 0xff, product.scratch.size());
            EXPECT_TRUE(SameY(problem, want, product.Multiply(OwnThreads::ParallelFor, &host))) << workers;
            product.ForgetY();
            RunInRandomOrder(product, random);
            EXPECT_TRUE(SameY(problem, want, product.Y())) << workers;
        }
        const int64_t bytes = spec.n * TypeBytes(spec.y_type);
        for (int64_t rows : {1, 2, 7, 11}) {
            const int64_t first = random.Integer(0, spec.m - rows);
            EXPECT_TRUE(SameY(problem, Bytes(want.begin() + first * bytes, want.begin() + (first + rows) * bytes),
                              Product(problem, 1, first, rows).Multiply()));
        }
    });
}

TEST(CodeWidthProducts, EpiloguesAndGates) {
    Random random(136);
    ForEachProduct([&](const Width &width, int4q_compute_mode mode) {
        for (int i = 0; i < Samples(12); i++) {
            Spec spec = WidthSpec(random, width, mode, random.Integer(1, 12), random.Integer(1, 70), random.Integer(1, 200));
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
    });
}

TEST(CodeWidthProducts, Experts) {
    Random random(137);
    ForEachProduct([&](const Width &width, int4q_compute_mode mode) {
        Spec spec = WidthSpec(random, width, mode, 13, 40, 100);
        spec.x_type = spec.y_type = INT4Q_TYPE_F32;
        const Problem first(spec);
        spec.seed++;
        Problem second(spec);
        second.SetX([&](int64_t row, int64_t column) { return first.X(row, column); });
        const Values a = ExactTotals(first), b = ExactTotals(second);
        const int4q_expert experts[2] = {{first.blob.data(), first.blob.size(), nullptr, 0}, {second.blob.data(), second.blob.size(), nullptr, 0}};
        std::vector<int32_t> rows;
        for (int row = 0; row < 13; row++) rows.push_back(static_cast<int32_t>(random.Integer(0, 1)));
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
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
            for (size_t j = 0; j < y.size(); j++) ASSERT_EQ(y[j], rows[j / 40] ? b[j] : a[j]) << j << " " << spec.Text();
        }
    });
}

TEST(CodeWidthProducts, StaticScales) {
    Random random(138);
    for (const Width &width : kWidths) {
        for (int i = 0; i < Samples(15); i++) {
            Spec spec = WidthSpec(random, width, INT4Q_MODE_INT8, random.Integer(1, 12), random.Integer(1, 70), random.Integer(1, 400));
            spec.static_scales = true;
            ExpectExact(Problem(spec));
            if (HasFailure()) return;
        }
    }
}

TEST(CodeWidthProducts, StayWithinTheErrorBound) {
    Random random(139);
    for (const Width &width : kWidths) {
        for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8}) {
            for (int i = 0; i < Samples(8); i++) {
                Spec spec = WidthSpec(random, width, mode, 4, 20, random.Integer(1, 300));
                spec.static_scales = mode == INT4Q_MODE_INT8 && random.Chance(0.3);
                const Problem problem(spec);
                Product product(problem);
                const Bytes y = product.Multiply();
                std::vector<double> worst(80), probable(80);
                ASSERT_OK(int4q_error_bound(&product.plan, &product.args, INT4Q_BOUND_WORST_CASE, worst.data(), 20));
                ASSERT_OK(int4q_error_bound(&product.plan, &product.args, INT4Q_BOUND_PROBABLE, probable.data(), 20));
                for (int64_t row = 0; row < 4; row++) {
                    for (int64_t column = 0; column < 20; column++) {
                        double exact = 0, magnitude = 0;
                        for (int64_t c = 0; c < spec.k; c++) {
                            const int64_t g = problem.GroupOf(c);
                            const int code = problem.Code(column, c);
                            const double scale = static_cast<double>(problem.Scale(column, g));
                            const double weight = IsFew(problem.scheme)                ? scale * CentredCode(problem.scheme, code)
                                                  : width.kind == INT4Q_KIND_OFFSET ? scale * code + static_cast<double>(problem.Offset(column, g))
                                                                                    : scale * (code - problem.ZeroPoint(column, g));
                            exact += static_cast<double>(problem.X(row, c)) * weight;
                            magnitude += std::fabs(static_cast<double>(problem.X(row, c)) * weight);
                        }
                        const double off = std::fabs(static_cast<double>(LoadElement(y.data(), spec.y_type, row * 20 + column)) - exact);
                        const size_t j = static_cast<size_t>(row * 20 + column);
                        EXPECT_LE(probable[j], worst[j]);
                        EXPECT_LE(off, worst[j] + 1e-13 * magnitude) << spec.Text();
                        EXPECT_LE(off, probable[j] + 1e-13 * magnitude) << spec.Text();
                        EXPECT_TRUE(spec.static_scales || worst[j] <= 2 * magnitude + 2) << "of some use: " << worst[j];
                    }
                }
            }
        }
    }
}

// ---- Wrong arguments --------------------------------------------------------------------------------------------------

TEST(BadCodeWidths, Schemes) {
    struct BadScheme {
        int32_t kind, bits, rule, range, rounding, group_size;
        const char *argument;
    };
    const int32_t nearest = INT4Q_ROUNDING_NEAREST_EVEN, full = INT4Q_RANGE_FULL, restricted = INT4Q_RANGE_RESTRICTED;
    const std::vector<BadScheme> table = {
        {INT4Q_KIND_BINARY, 8, 0, full, nearest, 32, "code_bits"},
        {INT4Q_KIND_BINARY, 2, 0, full, nearest, 32, "code_bits"},
        {INT4Q_KIND_BINARY, 4, 0, full, nearest, 32, "code_bits"},
        {INT4Q_KIND_TERNARY, 8, 0, full, nearest, 32, "code_bits"},
        {INT4Q_KIND_TERNARY, 1, 0, full, nearest, 32, "code_bits"},
        {INT4Q_KIND_CODEBOOK, 8, 0, full, nearest, 32, "code_bits"},
        {INT4Q_KIND_ASYMMETRIC, 5, 0, full, nearest, 32, "code_bits"},
        {INT4Q_KIND_OFFSET, -8, 0, full, nearest, 32, "code_bits"},
        {INT4Q_KIND_BINARY, 0, 0, full, nearest, 16, "group_size"},
        {INT4Q_KIND_TERNARY, 0, 0, full, nearest, 16, "group_size"},
        {INT4Q_KIND_TERNARY, 0, INT4Q_SCALE_GIVEN, full, nearest, 16, "group_size"},
        {INT4Q_KIND_BINARY, 0, INT4Q_SCALE_AMAX_7, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_BINARY, 0, INT4Q_SCALE_POWER_OF_TWO, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_TERNARY, 0, INT4Q_SCALE_AMAX_7_5, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_TERNARY, 0, INT4Q_SCALE_POWER_OF_TWO, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_TERNARY, 0, INT4Q_SCALE_ONE, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_ASYMMETRIC, 8, INT4Q_SCALE_POWER_OF_TWO, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_ASYMMETRIC, 0, INT4Q_SCALE_POWER_OF_TWO, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_OFFSET, 8, INT4Q_SCALE_AMAX_7, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_CODEBOOK, 0, INT4Q_SCALE_POWER_OF_TWO, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_SYMMETRIC, 8, INT4Q_SCALE_ONE, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_SYMMETRIC, 8, 7, full, nearest, 32, "scale_rule"},
        {INT4Q_KIND_SYMMETRIC, 8, INT4Q_SCALE_SIGNED_MAX_8, restricted, nearest, 32, "code_range"},
        {INT4Q_KIND_BINARY, 0, 0, restricted, nearest, 32, "code_range"},
        {INT4Q_KIND_TERNARY, 0, 0, restricted, nearest, 32, "code_range"},
        {INT4Q_KIND_ASYMMETRIC, 8, INT4Q_SCALE_GIVEN, restricted, nearest, 32, "code_range"},
        {INT4Q_KIND_SYMMETRIC, 8, INT4Q_SCALE_SIGNED_MAX_8, full, INT4Q_ROUNDING_GGML, 32, "rounding"},
        {INT4Q_KIND_SYMMETRIC, 8, 0, full, INT4Q_ROUNDING_GGML, 32, "rounding"},
        {INT4Q_KIND_OFFSET, 8, 0, full, INT4Q_ROUNDING_GGML, 32, "rounding"},
        {INT4Q_KIND_OFFSET, 8, 0, full, INT4Q_ROUNDING_MLX, 32, "rounding"},
        {INT4Q_KIND_OFFSET, 0, INT4Q_SCALE_GIVEN, full, INT4Q_ROUNDING_MLX, 32, "rounding"},
        {INT4Q_KIND_OFFSET, 0, INT4Q_SCALE_GIVEN, full, INT4Q_ROUNDING_GGML, 32, "rounding"},
        {INT4Q_KIND_SYMMETRIC, 0, INT4Q_SCALE_GIVEN, full, INT4Q_ROUNDING_GGML, 32, "rounding"},
        {INT4Q_KIND_BINARY, 0, 0, full, INT4Q_ROUNDING_GGML, 32, "rounding"},
        {INT4Q_KIND_TERNARY, 0, 0, full, INT4Q_ROUNDING_NEAREST_LOG, 32, "rounding"},
    };
    for (const BadScheme &bad : table) {
        int4q_scheme scheme = MakeScheme(bad.kind, bad.group_size, INT4Q_TYPE_F16, bad.rule, bad.range, bad.rounding);
        scheme.code_bits = bad.bits;
        SCOPED_TRACE(Name(scheme) + " bits " + std::to_string(bad.bits));
        int4q_tensor_layout layout{};
        layout.struct_size = sizeof layout;
        EXPECT_FAILS(int4q_tensor_sizes(&scheme, 4, 64, &layout), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_tensor_sizes", bad.argument);
        uint64_t bytes = 7;
        EXPECT_FAILS(int4q_blob_size(&scheme, 4, 64, &bytes), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_blob_size", bad.argument);
        EXPECT_EQ(bytes, 7u);
    }
    for (int32_t scope : {int32_t{INT4Q_CODEBOOK_PER_ROW}, int32_t{2}}) {
        for (int4q_scheme scheme : WidthLayouts(32, INT4Q_TYPE_F16)) {
            scheme.codebook_scope = scope;
            uint64_t bytes = 0;
            EXPECT_FAILS(int4q_blob_size(&scheme, 4, 64, &bytes), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_blob_size", "codebook_scope");
        }
    }
    // The kind's own width may be said.
    for (const auto &[kind, bits] : std::vector<std::pair<int32_t, int32_t>>{{INT4Q_KIND_SYMMETRIC, 4}, {INT4Q_KIND_CODEBOOK, 4},
                                                                             {INT4Q_KIND_BINARY, 1}, {INT4Q_KIND_TERNARY, 2}}) {
        int4q_scheme scheme = MakeScheme(kind, 32, INT4Q_TYPE_F16), said = scheme;
        said.code_bits = bits;
        uint64_t bytes = 0, same = 0;
        EXPECT_OK(int4q_blob_size(&scheme, 40, 64, &bytes));
        EXPECT_OK(int4q_blob_size(&said, 40, 64, &same));
        EXPECT_EQ(bytes, same);
    }
}

// A width that is said and one that is meant are the same scheme: blobs have the same bytes and plans take both.
TEST(CodeWidths, OwnWidthsMayBeSaid) {
    for (const auto &[kind, bits] : std::vector<std::pair<int32_t, int32_t>>{{INT4Q_KIND_SYMMETRIC, 4}, {INT4Q_KIND_BINARY, 1}, {INT4Q_KIND_TERNARY, 2}}) {
        int4q_scheme scheme = MakeScheme(kind, 32, INT4Q_TYPE_F16), said = scheme;
        said.code_bits = bits;
        const TensorMemory tensor = RandomTensor(said, 20, 70);
        const GuardedBuffer blob = Pack(tensor);
        const std::vector<uint8_t> reference = PackReference(*tensor.get());
        EXPECT_EQ(std::memcmp(blob.data(), reference.data(), reference.size()), 0);
        EXPECT_EQ(Multiply(blob.data(), blob.size(), scheme, 20, 70), Multiply(blob.data(), blob.size(), said, 20, 70));
        TensorMemory back(scheme, 20, 70);
        EXPECT_OK(int4q_unpack_rows(blob.data(), blob.size(), back.get(), 0, 20));
        EXPECT_TRUE(SameTensor(tensor, back));
    }
}

TEST(BadCodeWidths, OtherModesAreUnsupported) {
    Random random(141);
    const auto expect = [&](const Width &width, int4q_compute_mode mode) {
        Spec spec = WidthSpec(random, width, INT4Q_MODE_F32, 2, 18, 40);
        const Problem problem(spec);
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
            int4q_matmul_desc desc = Product::Describe(problem, 2, 1);
            desc.mode = mode;
            int4q_matmul_plan plan{};
            plan.struct_size = sizeof plan;
            EXPECT_FAILS(int4q_matmul_plan_init(&desc, &plan), INT4Q_ERROR_UNSUPPORTED, "int4q_matmul_plan_init", "mode");
            char text[4096];
            EXPECT_FAILS(int4q_describe_dispatch(&desc, text, sizeof text, nullptr), INT4Q_ERROR_UNSUPPORTED, "int4q_describe_dispatch", "mode");
        }
    };
    for (const Width &width : kWidths) {
        expect(width, INT4Q_MODE_BF16);
        if (width.code_bits == 8) expect(width, INT4Q_MODE_BINARY);
    }
    for (int32_t kind : kKinds) expect({kind, 0}, INT4Q_MODE_BINARY);
}

TEST(BadCodeWidths, ModesThatAreNone) {
    Random random(142);
    const Problem problem(WidthSpec(random, kWidths[3], INT4Q_MODE_BINARY, 2, 18, 40));
    for (int4q_compute_mode mode : {0, 5, -1}) {
        int4q_matmul_desc desc = Product::Describe(problem, 2, 1);
        desc.mode = mode;
        int4q_matmul_plan plan{};
        plan.struct_size = sizeof plan;
        EXPECT_FAILS(int4q_matmul_plan_init(&desc, &plan), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_matmul_plan_init", "mode");
    }
    int4q_matmul_desc desc = Product::Describe(problem, 2, 1);
    desc.flags = INT4Q_MATMUL_STATIC_SCALES;
    int4q_matmul_plan plan{};
    plan.struct_size = sizeof plan;
    EXPECT_FAILS(int4q_matmul_plan_init(&desc, &plan), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_matmul_plan_init", "flags");
}

TEST(BadCodeWidths, BinaryModeHasNoErrorBound) {
    Random random(143);
    for (const Width &width : {kWidths[3], kWidths[4]}) {
        const Problem problem(WidthSpec(random, width, INT4Q_MODE_BINARY, 2, 18, 40));
        Product product(problem);
        std::vector<double> bounds(36, 3.0);
        for (int32_t bound : {INT4Q_BOUND_WORST_CASE, INT4Q_BOUND_PROBABLE}) {
            EXPECT_FAILS(int4q_error_bound(&product.plan, &product.args, bound, bounds.data(), 18), INT4Q_ERROR_UNSUPPORTED, "int4q_error_bound", "plan");
        }
        EXPECT_EQ(bounds, std::vector<double>(36, 3.0));
    }
}

TEST(BadCodeWidths, WidthsMustAgree) {
    Random random(144);
    for (int32_t kind : {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET}) {
        Spec spec = WidthSpec(random, {kind, 8}, INT4Q_MODE_F32, 2, 18, 40);
        spec.gated = true;
        const Problem wide(spec);
        spec.code_bits = 0;
        const Problem narrow(spec);
        for (const Problem *problem : {&wide, &narrow}) {
            const Problem &other = problem == &wide ? narrow : wide;
            Product product(*problem);
            const int4q_matmul_args right = product.args;
            product.args.blob = other.blob.data(), product.args.blob_bytes = other.blob.size();
            EXPECT_FAILS(int4q_matmul(&product.plan, &product.args, nullptr, nullptr), INT4Q_ERROR_MISMATCH, "int4q_matmul", "code_bits");
            EXPECT_NE(LastMessage().find("args.blob (scheme.code_bits)"), std::string::npos) << LastMessage();
            product.args = right;
            product.args.up_blob = other.blob.data(), product.args.up_blob_bytes = other.blob.size();
            EXPECT_FAILS(int4q_matmul(&product.plan, &product.args, nullptr, nullptr), INT4Q_ERROR_MISMATCH, "int4q_matmul", "code_bits");
            EXPECT_NE(LastMessage().find("args.up_blob (scheme.code_bits)"), std::string::npos) << LastMessage();
            EXPECT_FAILS(int4q_unpack_rows(other.blob.data(), other.blob.size(), &problem->tensor, 0, 18), INT4Q_ERROR_MISMATCH,
                         "int4q_unpack_rows", "code_bits");
        }
    }
}

TEST(BadCodeWidths, BlockFormatsHaveFourBits) {
    for (int32_t kind : {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_OFFSET}) {
        TensorMemory tensor(Wide(kind, 32, INT4Q_TYPE_F16), 2, 64);
        SourceMatrix source(INT4Q_TYPE_F32, 2, 64, 64);
        for (int64_t i = 0; i < 128; i++) source.Set(i / 64, i % 64, static_cast<float>(i % 7) - 3);
        ASSERT_OK(source.Quantize(tensor));
        std::vector<uint8_t> blocks(200, 1);
        const int32_t format = kind == INT4Q_KIND_SYMMETRIC ? INT4Q_FORMAT_Q4_0 : INT4Q_FORMAT_Q4_1;
        const Bytes before = tensor.Codes();
        EXPECT_FAILS(int4q_blocks_to_tensor(format, 0, blocks.data(), 200, tensor.get(), 0, 2), INT4Q_ERROR_MISMATCH, "int4q_blocks_to_tensor", "code_bits");
        EXPECT_EQ(tensor.Codes(), before);
    }
}

TEST(BadCodeWidths, CodeReportsAreOfFourBitsAndFewer) {
    for (const int4q_scheme &scheme : WidthLayouts(32, INT4Q_TYPE_F32)) {
        const TensorMemory tensor = RandomTensor(scheme, 20, 70);
        int4q_code_report report{};
        report.struct_size = sizeof report;
        if (CodeBits(scheme) == 8) {
            EXPECT_FAILS(int4q_diagnose_codes(tensor.get(), 1e-5f, 0, 20, &report), INT4Q_ERROR_UNSUPPORTED, "int4q_diagnose_codes", "code_bits");
            continue;
        }
        ASSERT_OK(int4q_diagnose_codes(tensor.get(), 1e-5f, 0, 20, &report));
        int64_t counts[16] = {};
        for (int64_t i = 0; i < 20 * 70; i++) counts[CodeAt(*tensor.get(), i / 70, i % 70)]++;
        const int64_t most = std::max_element(counts, counts + 16) - counts;
        EXPECT_EQ(report.most_used_code, most);
        EXPECT_DOUBLE_EQ(report.most_used_share, static_cast<double>(counts[most]) / 1400);
        EXPECT_DOUBLE_EQ(report.end_share, static_cast<double>(counts[0] + counts[LargestCode(scheme)]) / 1400);
    }
}

// Everything else that a tensor of these widths can have too short.
TEST(BadCodeWidths, PartsOfTensors) {
    for (const int4q_scheme &scheme : WidthLayouts(32, INT4Q_TYPE_F16)) {
        SourceMatrix source(INT4Q_TYPE_F32, 3, 67, 67);
        for (int64_t i = 0; i < 3 * 67; i++) source.Set(i / 67, i % 67, static_cast<float>(i));
        TensorMemory tensor(scheme, 3, 67);
        const int4q_tensor right = *tensor.get();
        EXPECT_EQ(right.codes_bytes, static_cast<uint64_t>(3 * ((67 * CodeBits(scheme) + 7) / 8)));
        tensor.get()->codes_bytes--;
        EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_BUFFER_TOO_SMALL, "int4q_quantize_rows", "codes_bytes");
        *tensor.get() = right;
        tensor.get()->codes = nullptr;
        EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_NULL_POINTER, "int4q_quantize_rows", "codes");
        *tensor.get() = right;
        tensor.get()->scales_bytes--;
        EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_BUFFER_TOO_SMALL, "int4q_quantize_rows", "scales_bytes");
        *tensor.get() = right;
        EXPECT_OK(source.Quantize(tensor));
        int4q_tensor_layout layout{};
        layout.struct_size = sizeof layout;
        EXPECT_FAILS(int4q_tensor_sizes(&scheme, int64_t{1} << 40, int64_t{1} << 40, &layout), INT4Q_ERROR_SIZE_OVERFLOW, "int4q_tensor_sizes", "n", "k");
    }
}

// ---- The C++ wrapper --------------------------------------------------------------------------------------------------

TEST(CodeWidths, CppWrapperTakesAndGivesThem) {
    Random random(151);
    std::vector<float> weights(20 * 75);
    for (float &w : weights) w = random.Normal();
    const int4q::ConstMatrix matrix(weights, 20, 75);
    const auto at = [&](int64_t row, int64_t column) { return weights[static_cast<size_t>(row * 75 + column)]; };
    for (const int4q_scheme &scheme :
         {int4q::Scheme::eight_bits(int4q::Scheme::symmetric(32)), int4q::Scheme::eight_bits(int4q::Scheme::asymmetric(64)),
          int4q::Scheme::eight_bits(int4q::Scheme::offset(INT4Q_GROUP_PER_ROW)), int4q::Scheme::binary(32), int4q::Scheme::ternary(64),
          int4q::Scheme::ternary(256, INT4Q_TYPE_F32, INT4Q_SCALE_AMAX_7)}) {
        const int4q::Tensor tensor = int4q::quantize(matrix, scheme);
        EXPECT_EQ(Bytes(tensor.codes.begin(), tensor.codes.end()), QuantizeReference(scheme, 20, 75, nullptr, at).codes) << Name(scheme);
        const int4q::Blob packed = int4q::pack(tensor), fused = int4q::quantize_pack(matrix, scheme);
        ASSERT_EQ(packed.bytes(), fused.bytes());
        EXPECT_EQ(std::memcmp(packed.data(), fused.data(), packed.bytes()), 0);
        EXPECT_EQ(packed.unpack().codes, tensor.codes);
    }
    EXPECT_THROW(int4q::quantize(matrix, int4q::Scheme::eight_bits(int4q::Scheme::ggml_q4_0())), int4q::Error);
    int4q_scheme given = int4q::Scheme::symmetric(32, INT4Q_TYPE_F32);
    given.scale_rule = INT4Q_SCALE_GIVEN;
    EXPECT_THROW(int4q::quantize(matrix, given), int4q::Error);
    const int4q::Tensor found = int4q::quantize(matrix, int4q::Scheme::symmetric(32, INT4Q_TYPE_F32));
    int4q::Tensor target(given, found.n, found.k);
    target.scales = found.scales;
    int4q::quantize(matrix, target);
    EXPECT_EQ(target.codes, found.codes);
    EXPECT_EQ(target.scales, found.scales);
}

}  // namespace
}  // namespace int4q_test
