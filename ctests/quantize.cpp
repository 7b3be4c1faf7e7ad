// SPDX-License-Identifier: Apache-2.0
// int4q_quantize_rows() and int4q_dequantize_rows() against docs/quantizers.md and against ggml.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/reference_quantizer.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;

::testing::AssertionResult Equals(const TensorMemory &tensor, const ReferenceTensor &wanted) {
    const auto compare = [](const char *what, const std::vector<uint8_t> &got, const std::vector<uint8_t> &want) {
        for (size_t i = 0; i < std::max(got.size(), want.size()); i++) {
            if (i < got.size() && i < want.size() && got[i] == want[i]) continue;
            return ::testing::AssertionFailure()
                   << what << " (" << got.size() << " bytes, wanted " << want.size() << ") differ from byte " << i
                   << ": got " << (i < got.size() ? got[i] : -1) << ", wanted " << (i < want.size() ? want[i] : -1);
        }
        return ::testing::AssertionSuccess();
    };
    auto result = compare("codes", tensor.Codes(), wanted.codes);
    if (result) result = compare("scales", tensor.Scales(), wanted.scales);
    if (result) result = compare("zero points", tensor.ZeroPoints(), wanted.zero_points);
    if (result) result = compare("offsets", tensor.Offsets(), wanted.offsets);
    return result;
}

// Quantizes with every instruction set; all must agree with the re-derivation, in bytes or in where the failure is.
// Says whether the matrix could be quantized.
bool CheckAgainstReference(const int4q_scheme &scheme, const Source &source, Placement placement,
                           const float *codebook = kNormalFloat) {
    const ReferenceTensor wanted = QuantizeReference(scheme, source.n, source.k, codebook, source);
    for (int4q_isa isa : UsableIsas()) {
        SCOPED_TRACE(Name(scheme) + ", source " + TypeName(source.type) + " " + std::to_string(source.n) + " x " +
                     std::to_string(source.k) + ", " + int4q_isa_name(isa));
        IsaLimit limit(isa);
        TensorMemory tensor(scheme, source.n, source.k, placement, codebook);
        const int4q_status status = source.Quantize(tensor);
        if (wanted.finite) {
            EXPECT_OK(status);
            EXPECT_TRUE(Equals(tensor, wanted));
        } else {
            EXPECT_EQ(status, INT4Q_ERROR_NOT_FINITE);
            long long row = -1, column = -1;
            const std::string value = LastError().value, message = LastError().message;
            const size_t at = value.find("row ");
            EXPECT_NE(at, std::string::npos) << message;
            if (at != std::string::npos) std::sscanf(value.c_str() + at, "row %lld, column %lld", &row, &column);
            EXPECT_EQ(row, wanted.bad_row) << message;
            EXPECT_TRUE(column >= wanted.bad_begin && column < wanted.bad_end) << message;
        }
    }
    return wanted.finite;
}

TEST(Quantize, EverySchemeEqualsTheRederivation) {
    Random random(1);
    int64_t number = 0;
    for (int4q_type source_type : kTypes) {
        for (int4q_type scale_type : kTypes) {
            for (int32_t group_size : kAllGroupSizes) {
                for (const int4q_scheme &scheme : AllSchemes(group_size, scale_type)) {
                    for (int64_t k : {1, 15, 16, 33, 95, 130, 321}) {
                        const Placement placement = number++ % 2 ? Placement::kLeft : Placement::kRight;
                        Source source(source_type, random.Integer(1, 4), k, k + random.Integer(0, 3), placement);
                        FillMixed(source, random);
                        source.buffer.ForbidWriting();
                        EXPECT_TRUE(CheckAgainstReference(scheme, source, placement));
                        ASSERT_FALSE(HasFailure());
                    }
                }
            }
        }
    }
}

TEST(Quantize, CodebookTiesGoToTheLowerCode) {
    const float codebook[16] = {3, -3, 1, 1, -1, 0, 2, -2, 4, 4, -4, 5, 6, -6, 7, -8};  // no order, values twice
    Source source(INT4Q_TYPE_F32, 1, 33, 33);
    for (int64_t i = 0; i < 33; i++) source.Set(0, i, static_cast<float>(i - 16) * 0.5f);  // the scale is 1
    const auto scheme = MakeScheme(INT4Q_KIND_CODEBOOK, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F16);
    EXPECT_TRUE(CheckAgainstReference(scheme, source, Placement::kRight, codebook));
}

TEST(Quantize, LongRowsEqualTheRederivation) {
    Random random(2);
    for (const int4q_scheme &scheme : AllSchemes(INT4Q_GROUP_PER_ROW, INT4Q_TYPE_BF16)) {
        Source source(INT4Q_TYPE_F32, 1, 70001, 70001);
        FillMixed(source, random);
        EXPECT_TRUE(CheckAgainstReference(scheme, source, Placement::kRight));
    }
}

TEST(Quantize, GroupsOfAnyMagnitudeEqualTheRederivation) {
    Random random(3);
    int finite = 0, overflowing = 0;
    for (int i = 0; i < Samples(3000); i++) {
        int4q_scheme scheme = random.Pick(AllSchemes(16, kTypes[random.Integer(0, 2)]));
        scheme.group_size = kAllGroupSizes[random.Integer(0, 5)];
        // ggml's arithmetic overflows in float-to-int conversions outside binary16; the test with its blocks covers it.
        if (scheme.rounding == INT4Q_ROUNDING_GGML) scheme.scale_type = INT4Q_TYPE_F16;
        const bool ggml = scheme.rounding == INT4Q_ROUNDING_GGML;
        Source source(kTypes[random.Integer(0, 2)], 2, random.Integer(1, 70), 70);
        const int exponent = static_cast<int>(ggml ? random.Integer(-30, 25) : random.Integer(-152, 127));
        // Where max - min overflows binary32 the re-derivation has no say: RangesBeyondBinary32 does.
        const bool spans = scheme.kind == INT4Q_KIND_ASYMMETRIC || scheme.kind == INT4Q_KIND_OFFSET;
        const float limit = source.type == INT4Q_TYPE_F16 ? 65504.0f : spans ? 0x1p126f : 0x1.fep127f;
        for (int64_t row = 0; row < source.n; row++) {
            for (int64_t column = 0; column < source.k; column++) {
                const float value = std::ldexp(random.Uniform(-2, 2), exponent);
                source.Set(row, column, std::fabs(value) < limit ? value : std::copysign(limit, value));
            }
        }
        (CheckAgainstReference(scheme, source, Placement::kRight) ? finite : overflowing)++;
        ASSERT_FALSE(HasFailure());
    }
    if (TestScale() >= 1) {
        EXPECT_GT(finite, 500);
        EXPECT_GT(overflowing, 200);
    }
}

// max - min overflows but a fifteenth of it does not. The header calls only a scale that its type cannot hold an error,
// so these groups are quantized, and as everywhere else no value is off by more than half a step (here: 0.51).
TEST(Quantize, RangesBeyondBinary32) {
    for (int32_t kind : {INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET}) {
        for (int4q_isa isa : UsableIsas()) {
            SCOPED_TRACE(std::string(kind == INT4Q_KIND_OFFSET ? "offset, " : "asymmetric, ") + int4q_isa_name(isa));
            IsaLimit limit(isa);
            Source source(INT4Q_TYPE_F32, 1, 16, 16);
            for (int64_t i = 0; i < 16; i++) source.Set(0, i, (static_cast<float>(i) - 7.0f) * 4e37f);
            TensorMemory tensor(MakeScheme(kind, 16, INT4Q_TYPE_F32), 1, 16);
            ASSERT_OK(source.Quantize(tensor));
            const double step = LoadElement(tensor->scales, INT4Q_TYPE_F32, 0);
            EXPECT_NEAR(step, 4e37, 1e32);
            for (int64_t i = 0; i < 16; i++) {
                const double back = DequantizeReference(*tensor.get(), 0, i);
                EXPECT_LE(std::fabs(back - source(0, i)), 0.51 * step) << source(0, i) << " came back as " << back;
            }
        }
    }
}

TEST(Quantize, RowSplitsAndStridesDoNotMatter) {
    Random random(4);
    const int64_t n = 37, k = 75;
    for (const int4q_scheme &scheme : AllSchemes(32, INT4Q_TYPE_F16)) {
        Source source(INT4Q_TYPE_F32, n, k, k), wide(INT4Q_TYPE_F32, n, k, k + 29);
        FillMixed(source, random);
        for (int64_t row = 0; row < n; row++) {
            for (int64_t column = 0; column < k; column++) wide.Set(row, column, source(row, column));
        }
        TensorMemory whole(scheme, n, k);
        ASSERT_OK(source.Quantize(whole));
        for (int i = 0; i < 4; i++) {
            std::vector<int64_t> cuts{0, n};
            for (int j = 0; j < 6; j++) cuts.push_back(random.Integer(0, n));
            std::sort(cuts.begin(), cuts.end());
            std::vector<size_t> order(cuts.size() - 1);
            std::iota(order.begin(), order.end(), size_t{0});
            random.Shuffle(order);
            TensorMemory parts(scheme, n, k);
            for (size_t p : order) ASSERT_OK((i % 2 ? wide : source).Quantize(parts, cuts[p], cuts[p + 1]));
            EXPECT_TRUE(SameTensor(whole, parts)) << Name(scheme);
        }
        // Only the rows asked for are written.
        TensorMemory some(scheme, n, k);
        const std::vector<uint8_t> before = some.Codes();
        ASSERT_OK(source.Quantize(some, 10, 12));
        const size_t row_bytes = static_cast<size_t>(some.layout().codes_row_bytes);
        for (size_t i = 0; i < before.size(); i++) {
            const bool inside = i / row_bytes >= 10 && i / row_bytes < 12;
            ASSERT_EQ(some.Codes()[i], inside ? whole.Codes()[i] : before[i]) << i;
        }
    }
}

TEST(Quantize, ZeroGroupsAndConstantGroupsComeBack) {
    const float constants[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.1f, -0.1f, 300.7f, -17.3f, 0x1p-9f, -1.2345e-2f};
    for (int4q_type scale_type : kTypes) {
        for (int32_t group_size : kAllGroupSizes) {
            for (const int4q_scheme &scheme : AllSchemes(group_size, scale_type)) {
                for (int64_t k : {1, 16, 51}) {
                    for (float constant : constants) {
                        if (scheme.rounding == INT4Q_ROUNDING_GGML && constant != 0) continue;
                        Source source(INT4Q_TYPE_F32, 1, k, k);
                        for (int64_t column = 0; column < k; column++) source.Set(0, column, constant);
                        TensorMemory tensor(scheme, 1, k);
                        ASSERT_OK(source.Quantize(tensor));
                        std::vector<float> back(static_cast<size_t>(k), 99.0f);
                        ASSERT_OK(int4q_dequantize_rows(tensor.get(), back.data(), INT4Q_TYPE_F32, k, 0, 1));
                        for (float v : back) ASSERT_EQ(v, RoundTo(scale_type, constant)) << Name(scheme);
                    }
                }
            }
        }
    }
}

TEST(Quantize, NotFiniteElementsAreReportedWithTheirPlace) {
    const int64_t n = 3, k = 37;
    const float bad_values[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity()};
    Random random(5);
    for (const int4q_scheme &scheme : AllSchemes(16, INT4Q_TYPE_F32)) {
        for (int4q_type source_type : kTypes) {
            for (int64_t row = 0; row < n; row++) {
                for (int64_t column = 0; column < k; column++) {
                    IsaLimit limit(UsableIsas()[static_cast<size_t>((row + column) % UsableIsas().size())]);
                    Source source(source_type, n, k, k + 1);
                    for (int64_t i = 0; i < n * k; i++) source.Set(i / k, i % k, random.Normal());
                    source.Set(row, column, bad_values[random.Integer(0, 2)]);
                    TensorMemory tensor(scheme, n, k);
                    EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_NOT_FINITE, "int4q_quantize_rows", "source");
                    const std::string value = LastError().value;
                    const std::string place = "row " + std::to_string(row) + ", column " + std::to_string(column);
                    ASSERT_TRUE(value.size() >= place.size() &&
                                value.compare(value.size() - place.size(), place.size(), place) == 0)
                        << value << " does not end in " << place;
                    // Rows outside the range are not looked at.
                    ASSERT_OK(source.Quantize(tensor, 0, row));
                    ASSERT_OK(source.Quantize(tensor, row + 1, n));
                }
            }
        }
    }
}

TEST(Quantize, HalfScaleOverflowIsNotFinite) {
    for (const int4q_scheme &scheme : AllSchemes(32, INT4Q_TYPE_F16)) {
        Source source(INT4Q_TYPE_F32, 4, 70, 70);
        for (int64_t i = 0; i < 4 * 70; i++) source.Set(i / 70, i % 70, i % 2 ? 0.5f : -0.25f);
        TensorMemory tensor(scheme, 4, 70);
        ASSERT_OK(source.Quantize(tensor));
        source.Set(2, 40, 2e6f);
        EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_NOT_FINITE, "int4q_quantize_rows", "source");
        EXPECT_FALSE(CheckAgainstReference(scheme, source, Placement::kRight));
        ASSERT_OK(source.Quantize(tensor, 0, 2));
        ASSERT_OK(source.Quantize(tensor, 3, 4));
    }
    // The offset alone may be too large: 70000 + 0..15 has a scale of 1.
    Source source(INT4Q_TYPE_F32, 1, 16, 16);
    for (int64_t i = 0; i < 16; i++) source.Set(0, i, 70000.0f + static_cast<float>(i));
    TensorMemory tensor(MakeScheme(INT4Q_KIND_OFFSET, 16, INT4Q_TYPE_F16), 1, 16);
    EXPECT_FAILS(source.Quantize(tensor), INT4Q_ERROR_NOT_FINITE, "int4q_quantize_rows", "source");
}

// Given the scale (zero point, offset) that was stored, no allowed code is nearer than the one chosen, but for what
// rounding w / s to binary32 can hide: about 2^-20 of w and of the largest value that a code stands for.
void ExpectNearestCodes(const Source &source, const TensorMemory &tensor, const float *codebook) {
    const int4q_scheme &scheme = tensor->scheme;
    const int64_t length = GroupLength(scheme, source.k);
    const int first = scheme.code_range == INT4Q_RANGE_RESTRICTED ? 1 : 0;
    for (int64_t row = 0; row < source.n; row++) {
        for (int64_t column = 0; column < source.k; column++) {
            const int64_t index = row * tensor.groups() + column / length;
            const double scale = LoadElement(tensor->scales, scheme.scale_type, index);
            const double w = source(row, column);
            double values[16], largest = std::fabs(w);
            for (int code = first; code < 16; code++) {
                double value = scale * (code - 8);
                if (scheme.kind == INT4Q_KIND_ASYMMETRIC) {
                    value = scale * (code - static_cast<const uint8_t *>(tensor->zero_points)[index]);
                } else if (scheme.kind == INT4Q_KIND_OFFSET) {
                    value = scale * code + static_cast<double>(LoadElement(tensor->offsets, scheme.scale_type, index));
                } else if (scheme.kind == INT4Q_KIND_CODEBOOK) {
                    value = scale * static_cast<double>(codebook[code]);
                }
                values[code] = value;
                largest = std::max(largest, std::fabs(value));
            }
            const int chosen = CodeAt(*tensor.get(), row, column);
            ASSERT_GE(chosen, first) << Name(scheme);
            for (int code = first; code < 16; code++) {
                ASSERT_LE(std::fabs(w - values[chosen]), std::fabs(w - values[code]) + 0x1p-20 * largest)
                    << Name(scheme) << ", row " << row << ", column " << column << ": " << w << " has code " << chosen
                    << " (" << values[chosen] << ") though code " << code << " is " << values[code];
            }
        }
    }
}

TEST(Quantize, EachCodeIsANearestOne) {
    Random random(7);
    const float jumbled[16] = {3, -3, 1, 1, -1, 0, 2, -2, 4, 4, -4, 5, 6, -6, 7, -8};
    for (int4q_isa isa : UsableIsas()) {
        const IsaLimit limit(isa);
        for (int4q_type scale_type : kTypes) {
            for (int32_t group_size : kAllGroupSizes) {
                for (const int4q_scheme &scheme : AllSchemes(group_size, scale_type)) {
                    if (scheme.rounding == INT4Q_ROUNDING_GGML || scheme.rounding == INT4Q_ROUNDING_MLX) continue;
                    for (int i = 0; i < Samples(3); i++) {
                        const int64_t k = random.Integer(1, 300);
                        Source source(kTypes[random.Integer(0, 2)], 3, k, k);
                        FillMixed(source, random);
                        // Rows of one sign far from zero, and close to ties of a power of two.
                        for (int64_t c = 0; c < k; c++) source.Set(1, c, 20.0f + random.Normal());
                        for (int64_t c = 0; c < k; c++) {
                            const float tie = static_cast<float>(random.Integer(-8, 7)) + 0.5f;
                            source.Set(2, c, c % 16 ? std::nextafter(tie, random.Normal()) : -8.0f);
                        }
                        const float *codebook = i % 2 ? jumbled : kNormalFloat;
                        TensorMemory tensor(scheme, 3, k, Placement::kRight, codebook);
                        ASSERT_OK(source.Quantize(tensor));
                        ExpectNearestCodes(source, tensor, codebook);
                        ASSERT_FALSE(HasFailure());
                    }
                }
            }
        }
    }
}

TEST(Quantize, EqualsGgmlByteForByte) {
    std::ifstream file(std::string(INT4Q_TEST_VECTORS) + "/ggml_q4.bin", std::ios::binary);
    ASSERT_TRUE(file) << "no " << INT4Q_TEST_VECTORS << "/ggml_q4.bin";
    int32_t count = 0;
    file.read(reinterpret_cast<char *>(&count), sizeof count);
    ASSERT_EQ(count, 2000);
    const auto code_of = [](const uint8_t *codes, int j) { return codes[j % 16] >> (j / 16 * 4) & 15; };
    for (int32_t block = 0; block < count; block++) {
        Source source(INT4Q_TYPE_F32, 1, 32, 32);
        uint8_t q4_0[18], q4_1[20];
        file.read(reinterpret_cast<char *>(source.buffer.data()), 128);
        file.read(reinterpret_cast<char *>(q4_0), sizeof q4_0);
        file.read(reinterpret_cast<char *>(q4_1), sizeof q4_1);
        ASSERT_TRUE(file) << "block " << block;
        for (int4q_isa isa : UsableIsas()) {
            IsaLimit limit(isa);
            const auto ggml = INT4Q_ROUNDING_GGML;
            const int32_t rule = INT4Q_SCALE_SIGNED_MAX_8;
            TensorMemory symmetric(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16, rule, 0, ggml), 1, 32);
            TensorMemory offset(MakeScheme(INT4Q_KIND_OFFSET, 32, INT4Q_TYPE_F16, 0, 0, ggml), 1, 32);
            ASSERT_OK(source.Quantize(symmetric));
            ASSERT_OK(source.Quantize(offset));
            ASSERT_EQ(std::memcmp(symmetric->scales, q4_0, 2), 0) << "block " << block;
            ASSERT_EQ(std::memcmp(offset->scales, q4_1, 2), 0) << "block " << block;
            ASSERT_EQ(std::memcmp(offset->offsets, q4_1 + 2, 2), 0) << "block " << block;
            for (int j = 0; j < 32; j++) {
                ASSERT_EQ(CodeAt(*symmetric.get(), 0, j), code_of(q4_0 + 2, j)) << "block " << block << ", " << j;
                ASSERT_EQ(CodeAt(*offset.get(), 0, j), code_of(q4_1 + 4, j)) << "block " << block << ", " << j;
            }
        }
    }
    EXPECT_EQ(file.peek(), std::char_traits<char>::eof());
}

TEST(Quantize, EqualsMlxByteForByte) {
    std::ifstream file(std::string(INT4Q_TEST_VECTORS) + "/mlx_affine.bin", std::ios::binary);
    ASSERT_TRUE(file) << "no " << INT4Q_TEST_VECTORS << "/mlx_affine.bin";
    int32_t head[3];  // cases, n, k
    file.read(reinterpret_cast<char *>(head), sizeof head);
    ASSERT_TRUE(file);
    ASSERT_EQ(head[0], 9);
    const int64_t n = head[1], k = head[2];
    for (int32_t index = 0; index < head[0]; index++) {
        int32_t type_and_size[2];
        file.read(reinterpret_cast<char *>(type_and_size), sizeof type_and_size);
        const int4q_type type = type_and_size[0];
        Source source(type, n, k, k);
        TensorMemory tensor(MakeScheme(INT4Q_KIND_OFFSET, type_and_size[1], type, 0, 0, INT4Q_ROUNDING_MLX), n, k);
        std::vector<char> codes(tensor->codes_bytes), scales(tensor->scales_bytes), offsets(tensor->offsets_bytes);
        file.read(reinterpret_cast<char *>(source.buffer.data()), source.buffer.size());
        for (auto *part : {&codes, &scales, &offsets}) file.read(part->data(), part->size());
        ASSERT_TRUE(file) << "case " << index;
        for (int4q_isa isa : UsableIsas()) {
            IsaLimit limit(isa);
            ASSERT_OK(source.Quantize(tensor));
            ASSERT_EQ(std::memcmp(tensor->scales, scales.data(), scales.size()), 0) << "case " << index;
            ASSERT_EQ(std::memcmp(tensor->offsets, offsets.data(), offsets.size()), 0) << "case " << index;
            ASSERT_EQ(std::memcmp(tensor->codes, codes.data(), codes.size()), 0) << "case " << index;
        }
    }
    EXPECT_EQ(file.peek(), std::char_traits<char>::eof());
}

TEST(Dequantize, EqualsTheFormulaInAllTypesAndRowRanges) {
    Random random(6);
    for (int4q_type scale_type : kTypes) {
        for (int32_t group_size : {16, 128, INT4Q_GROUP_PER_ROW}) {
            for (const int4q_scheme &scheme : AllSchemes(group_size, scale_type)) {
                const int64_t n = 5, k = random.Integer(1, 150), stride = k + random.Integer(0, 5);
                Source source(INT4Q_TYPE_F32, n, k, k);
                // Up to 2^17, so that binary16 overflows now and then; some scales and offsets are subnormal.
                FillMixed(source, random);
                for (int64_t i = 0; scale_type != INT4Q_TYPE_F16 && i < k; i++) source.Set(1, i, source(1, i) * 256);
                TensorMemory tensor(scheme, n, k);
                ASSERT_OK(source.Quantize(tensor));
                tensor.ForbidWriting();
                for (int4q_type type : kTypes) {
                    for (int4q_isa isa : UsableIsas()) {
                        IsaLimit limit(isa);
                        const int64_t begin = random.Integer(0, n), end = random.Integer(begin, n);
                        Source got(type, n, k, stride);
                        ASSERT_OK(int4q_dequantize_rows(tensor.get(), got.buffer.data(), type, stride, begin, end));
                        Source wanted(type, n, k, stride);
                        for (int64_t row = begin; row < end; row++) {
                            for (int64_t i = 0; i < k; i++) {
                                wanted.Set(row, i, DequantizeReference(*tensor.get(), row, i));
                            }
                        }
                        // Rows outside the range and the gaps between rows still have the guard's fill in both.
                        ASSERT_EQ(std::memcmp(got.buffer.data(), wanted.buffer.data(), got.buffer.size()), 0)
                            << Name(scheme) << " to " << TypeName(type) << ", k " << k << ", " << int4q_isa_name(isa);
                    }
                }
            }
        }
    }
}

}  // namespace
}  // namespace int4q_test
