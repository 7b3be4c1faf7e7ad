// SPDX-License-Identifier: Apache-2.0
// Block formats: ggml's bytes, what they stand for, products on them, and wrong arguments. Section 8 of the header.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
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
#include "support/status.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

struct Format {
    int4q_format format;
    const char *name;
    int64_t depth, bytes;
    bool takes_importance;
};

constexpr Format kFormats[] = {
    {INT4Q_FORMAT_Q4_0, "Q4_0", 32, 18, true},      {INT4Q_FORMAT_Q4_1, "Q4_1", 32, 20, true},
    {INT4Q_FORMAT_Q4_K, "Q4_K", 256, 144, true},    {INT4Q_FORMAT_IQ4_NL, "IQ4_NL", 32, 18, true},
    {INT4Q_FORMAT_MXFP4, "MXFP4", 32, 17, false},   {INT4Q_FORMAT_NVFP4, "NVFP4", 64, 36, false},
};

int4q_block_options Options(int32_t search = INT4Q_SEARCH_REFERENCE, const float *importance = nullptr, float global_scale = 0) {
    int4q_block_options options{};
    options.struct_size = sizeof options;
    options.search = search;
    options.importance = importance;
    options.global_scale = global_scale;
    return options;
}

uint64_t SizeOf(const Format &format, int64_t n, int64_t k) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_blocks_size(format.format, n, k, &bytes));
    return bytes;
}

// A matrix and its blocks, each between guard pages.
struct Matrix {
    Matrix(const Format &format, int64_t n, int64_t k, Placement placement = Placement::kRight)
        : format(format), n(n), k(k), source(static_cast<size_t>(n * k) * 4, placement, 4),
          blocks(SizeOf(format, n, k), placement) {}

    float *floats() { return reinterpret_cast<float *>(source.data()); }
    int4q_status Quantize(const int4q_block_options *options) { return Quantize(options, 0, n); }
    int4q_status Quantize(const int4q_block_options *options, int64_t begin, int64_t end) {
        return int4q_quantize_blocks(format.format, options, n, k, source.data(), INT4Q_TYPE_F32, k, blocks.data(),
                                     blocks.size(), begin, end);
    }
    std::vector<uint8_t> Bytes() const { return {blocks.data(), blocks.data() + blocks.size()}; }
    std::vector<float> Dequantize(float global_scale = 1) const {
        std::vector<float> values(static_cast<size_t>(n * k));
        EXPECT_OK(int4q_dequantize_blocks(format.format, global_scale, n, k, blocks.data(), blocks.size(), values.data(),
                                          INT4Q_TYPE_F32, k, 0, n));
        return values;
    }

    const Format format;
    const int64_t n, k;
    GuardedBuffer source, blocks;
};

void FillNormal(Matrix &matrix, uint64_t seed) {
    Random random(seed);
    for (int64_t i = 0; i < matrix.n * matrix.k; i++) matrix.floats()[i] = random.Normal();
}

// A tensor with the format's scheme and codebook.
TensorMemory TensorFor(const Format &format, int64_t n, int64_t k) {
    int4q_scheme scheme{};
    float codebook[16];
    EXPECT_OK(int4q_format_scheme(format.format, &scheme, codebook));
    return TensorMemory(scheme, n, k, Placement::kRight, codebook);
}

// ---- ggml's bytes ---------------------------------------------------------------------------------------------------

struct Golden {
    int32_t n = 0, k = 0;
    std::vector<float> source, importance;
    std::vector<std::vector<uint8_t>> plain, weighted;
};

Golden ReadGolden() {
    Golden golden;
    std::ifstream file(std::string(INT4Q_TEST_VECTORS) + "/ggml_blocks.bin", std::ios::binary);
    EXPECT_TRUE(file) << "no " << INT4Q_TEST_VECTORS << "/ggml_blocks.bin";
    const auto read = [&](void *to, size_t bytes) { file.read(static_cast<char *>(to), static_cast<std::streamsize>(bytes)); };
    read(&golden.n, 4);
    read(&golden.k, 4);
    golden.source.resize(static_cast<size_t>(golden.n) * static_cast<size_t>(golden.k));
    golden.importance.resize(static_cast<size_t>(golden.k));
    read(golden.source.data(), golden.source.size() * 4);
    read(golden.importance.data(), golden.importance.size() * 4);
    for (bool is_weighted : {false, true}) {
        for (const Format &format : kFormats) {
            if (is_weighted && !format.takes_importance) continue;
            auto &sets = is_weighted ? golden.weighted : golden.plain;
            sets.emplace_back(SizeOf(format, golden.n, golden.k));
            read(sets.back().data(), sets.back().size());
        }
    }
    EXPECT_TRUE(file);
    EXPECT_EQ(file.peek(), std::char_traits<char>::eof());
    return golden;
}

TEST(BlockFormats, EqualGgmlByteForByte) {
    const Golden golden = ReadGolden();
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit limit(isa);
        for (size_t f = 0; f < std::size(kFormats); f++) {
            const Format &format = kFormats[f];
            SCOPED_TRACE(std::string(format.name) + ", isa " + std::to_string(isa));
            Matrix matrix(format, golden.n, golden.k);
            std::memcpy(matrix.floats(), golden.source.data(), golden.source.size() * 4);
            ASSERT_OK(matrix.Quantize(nullptr));
            EXPECT_TRUE(matrix.Bytes() == golden.plain[f]);
            const int4q_block_options options = Options(INT4Q_SEARCH_REFERENCE, golden.importance.data());
            ASSERT_OK(matrix.Quantize(&options));
            EXPECT_TRUE(matrix.Bytes() == (format.takes_importance ? golden.weighted[f] : golden.plain[f]));
        }
    }
}

TEST(BlockFormats, SizesAreThoseOfTheTable) {
    for (const Format &format : kFormats) {
        EXPECT_EQ(SizeOf(format, 3, format.depth * 5), static_cast<uint64_t>(15 * format.bytes)) << format.name;
    }
}

// Neither the split into rows, nor the instruction set, nor what lies around the memory matters.
TEST(BlockFormats, SplitsAndInstructionSetsGiveTheSameBytes) {
    for (const Format &format : kFormats) {
        const int64_t n = 7, k = format.depth * 3;
        Random random(5);
        std::vector<float> importance(static_cast<size_t>(k));
        for (float &value : importance) value = std::exp(random.Normal());
        for (int32_t search : {INT4Q_SEARCH_REFERENCE, INT4Q_SEARCH_BEST}) {
            for (const float *weights : {static_cast<const float *>(nullptr), static_cast<const float *>(importance.data())}) {
                const int4q_block_options options = Options(search, weights);
                std::vector<uint8_t> first;
                for (int4q_isa isa : UsableIsas()) {
                    IsaLimit limit(isa);
                    Matrix matrix(format, n, k, isa % 200 ? Placement::kLeft : Placement::kRight);
                    FillNormal(matrix, 9);
                    ASSERT_OK(matrix.Quantize(&options));
                    if (first.empty()) first = matrix.Bytes();
                    EXPECT_TRUE(matrix.Bytes() == first) << format.name << ", isa " << isa;
                    Matrix parts(format, n, k);
                    FillNormal(parts, 9);
                    for (int64_t row : {4, 0, 6, 2, 5, 1, 3}) ASSERT_OK(parts.Quantize(&options, row, row + 1));
                    EXPECT_TRUE(parts.Bytes() == first) << format.name << " in parts, isa " << isa;
                }
            }
        }
    }
}

TEST(BlockFormats, RowsOutsideTheRangeAreLeftAlone) {
    for (const Format &format : kFormats) {
        Matrix matrix(format, 3, format.depth);
        FillNormal(matrix, 2);
        ASSERT_OK(matrix.Quantize(nullptr, 1, 2));
        const auto bytes = matrix.Bytes();
        for (int64_t i = 0; i < format.bytes; i++) {
            ASSERT_EQ(bytes[static_cast<size_t>(i)], GuardedBuffer::kFill) << format.name;
            ASSERT_EQ(bytes[static_cast<size_t>(2 * format.bytes + i)], GuardedBuffer::kFill) << format.name;
        }
        ASSERT_OK(matrix.Quantize(nullptr, 3, 3));
    }
}

// ---- A better search ------------------------------------------------------------------------------------------------

double Sqnr(const float *source, const std::vector<float> &values) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < values.size(); i++) {
        signal += double{source[i]} * source[i];
        noise += (double{values[i]} - source[i]) * (double{values[i]} - source[i]);
    }
    return 10 * std::log10(signal / noise);
}

TEST(BlockFormats, TheBestSearchIsBetter) {
    for (const Format &format : kFormats) {
        Matrix matrix(format, 64, 512);
        FillNormal(matrix, 21);
        ASSERT_OK(matrix.Quantize(nullptr));
        const double reference = Sqnr(matrix.floats(), matrix.Dequantize());
        const int4q_block_options best = Options(INT4Q_SEARCH_BEST);
        ASSERT_OK(matrix.Quantize(&best));
        EXPECT_GT(Sqnr(matrix.floats(), matrix.Dequantize()), reference + 0.04) << format.name;
    }
}

TEST(BlockFormats, ConstantsAndZerosAtTheirBest) {
    for (const Format &format : kFormats) {
        for (float value : {0.0f, -0.0f, 1.0f, -1.0f, 3e-5f, -1000.0f}) {
            Matrix matrix(format, 2, format.depth);
            for (int64_t i = 0; i < 2 * format.depth; i++) matrix.floats()[i] = value;
            const int4q_block_options best = Options(INT4Q_SEARCH_BEST);
            ASSERT_OK(matrix.Quantize(&best));
            // NVFP4's scales reach neither far up nor down.
            if (format.format == INT4Q_FORMAT_NVFP4 && std::fabs(value) != 1 && value != 0) continue;
            for (float back : matrix.Dequantize()) {
                EXPECT_NEAR(back, value, 0.04 * std::fabs(value)) << format.name << " of " << value;
            }
        }
    }
}

TEST(BlockFormats, HugeValuesAtTheirBest) {
    for (const Format &format : {kFormats[4], kFormats[5]}) {
        for (float value : {1e20f, -3e38f}) {
            Matrix matrix(format, 1, format.depth);
            for (int64_t i = 0; i < format.depth; i++) matrix.floats()[i] = i % 3 ? value : -value;
            const int4q_block_options best = Options(INT4Q_SEARCH_BEST, nullptr);
            ASSERT_OK(matrix.Quantize(&best));
            for (float back : matrix.Dequantize()) EXPECT_TRUE(std::isfinite(back)) << format.name;
        }
    }
}

// ---- What blocks stand for ------------------------------------------------------------------------------------------

TEST(BlockFormats, TensorsHoldTheSameValuesAndGoBack) {
    for (const Format &format : kFormats) {
        for (uint64_t seed = 0; seed < 3; seed++) {
            Matrix matrix(format, 5, format.depth * 2);
            // Any bytes are a matrix, as long as scales are finite.
            Random random(seed);
            for (size_t i = 0; i < matrix.blocks.size(); i++) matrix.blocks.data()[i] = static_cast<uint8_t>(random.Bits());
            if (format.format <= INT4Q_FORMAT_IQ4_NL) {
                for (size_t at = 0; at < matrix.blocks.size(); at += static_cast<size_t>(format.bytes)) {
                    matrix.blocks.data()[at + 1] &= 0xbf, matrix.blocks.data()[at + 3] &= 0xbf;
                }
            }
            matrix.blocks.ForbidWriting();
            const float global_scale = format.format == INT4Q_FORMAT_NVFP4 && seed ? 0.3f : 1;
            TensorMemory tensor = TensorFor(format, 5, format.depth * 2);
            ASSERT_OK(int4q_blocks_to_tensor(format.format, global_scale, matrix.blocks.data(), matrix.blocks.size(),
                                             tensor.get(), 0, 5));
            std::vector<float> values(static_cast<size_t>(5 * matrix.k));
            ASSERT_OK(int4q_dequantize_rows(tensor.get(), values.data(), INT4Q_TYPE_F32, matrix.k, 0, 5));
            const std::vector<float> direct = matrix.Dequantize(global_scale);
            EXPECT_EQ(std::memcmp(values.data(), direct.data(), values.size() * 4), 0) << format.name;
            GuardedBuffer back(matrix.blocks.size(), Placement::kRight);
            const int4q_status status = int4q_tensor_to_blocks(format.format, tensor.get(), back.data(), back.size(), 0, 5);
            if (format.format == INT4Q_FORMAT_Q4_K || format.format == INT4Q_FORMAT_NVFP4) {
                EXPECT_EQ(status, INT4Q_ERROR_UNSUPPORTED);
            } else {
                ASSERT_OK(status);
                EXPECT_EQ(std::memcmp(back.data(), matrix.blocks.data(), back.size()), 0) << format.name;
            }
        }
    }
}

// Values of single codes, by hand.
TEST(BlockFormats, ValuesOfKnownBytes) {
    const auto values = [](const Format &format, const std::vector<uint8_t> &bytes, float global_scale = 0) {
        std::vector<float> result(static_cast<size_t>(format.depth));
        EXPECT_OK(int4q_dequantize_blocks(format.format, global_scale, 1, format.depth, bytes.data(), bytes.size(),
                                          result.data(), INT4Q_TYPE_F32, format.depth, 0, 1));
        return result;
    };
    std::vector<uint8_t> q4_0(18, 0x88);
    q4_0[0] = 0x00, q4_0[1] = 0x3c, q4_0[2] = 0xf0;  // d = 1
    std::vector<float> result = values(kFormats[0], q4_0);
    EXPECT_EQ(result[0], -8);
    EXPECT_EQ(result[16], 7);
    EXPECT_EQ(result[1], 0);
    std::vector<uint8_t> q4_1(20, 0x21);
    q4_1[0] = 0x00, q4_1[1] = 0x3c, q4_1[2] = 0x00, q4_1[3] = 0xc0;  // d = 1, m = -2
    result = values(kFormats[1], q4_1);
    EXPECT_EQ(result[0], -1);
    EXPECT_EQ(result[31], 0);
    std::vector<uint8_t> q4_k(144, 0x53);
    q4_k[0] = 0x00, q4_k[1] = 0x3c, q4_k[2] = 0x00, q4_k[3] = 0x40;  // d = 1, dmin = 2
    for (int j = 0; j < 4; j++) {
        q4_k[static_cast<size_t>(4 + j)] = static_cast<uint8_t>(10 + j + 0x40);   // scales 10..13; high bits 1
        q4_k[static_cast<size_t>(8 + j)] = static_cast<uint8_t>(20 + j + 0x80);   // minimums 20..23; high bits 2
        q4_k[static_cast<size_t>(12 + j)] = static_cast<uint8_t>(j | (j + 4) << 4);  // scales 16.., minimums 36..
    }
    result = values(kFormats[2], q4_k);
    for (int j = 0; j < 8; j++) {
        const int scale = j < 4 ? 10 + j : 16 + j - 4, low = j < 4 ? 20 + j : 32 + j;
        EXPECT_EQ(result[static_cast<size_t>(32 * j)], scale * (j % 2 ? 5 : 3) - 2 * low) << j;
    }
    std::vector<uint8_t> iq4_nl(18, 0xf0);
    iq4_nl[0] = 0x00, iq4_nl[1] = 0x38;  // d = 0.5
    result = values(kFormats[3], iq4_nl);
    EXPECT_EQ(result[0], -63.5f);
    EXPECT_EQ(result[16], 56.5f);
    std::vector<uint8_t> mxfp4(17, 0x7f);
    for (const auto &[code, expected] : {std::pair<uint8_t, float>{128, 12}, {0, 12 * 0x1p-128f}, {1, 12 * 0x1p-127f}, {2, 12 * 0x1p-126f}}) {
        mxfp4[0] = code;
        result = values(kFormats[4], mxfp4);
        EXPECT_EQ(result[0], -expected);
        EXPECT_EQ(result[16], expected);
    }
    std::vector<uint8_t> nvfp4(36, 0x91);
    nvfp4[0] = 0x38, nvfp4[1] = 0x7e, nvfp4[2] = 0x01, nvfp4[3] = 0x7f;  // 1, 448, 2^-9, not a number: 0 as in ggml
    result = values(kFormats[5], nvfp4, 2);
    EXPECT_EQ(result[0], 1);
    EXPECT_EQ(result[8], -1);
    EXPECT_EQ(result[16], 448);
    EXPECT_EQ(result[32], 0x1p-9f);
    EXPECT_EQ(result[48], 0);
}

TEST(BlockFormats, ProductsAreThoseOfTheirValues) {
    const int64_t n = 33;
    for (const Format &format : kFormats) {
        const int64_t k = format.depth * 3;
        Matrix matrix(format, n, k);
        FillNormal(matrix, 17);
        ASSERT_OK(matrix.Quantize(nullptr));
        TensorMemory tensor = TensorFor(format, n, k);
        ASSERT_OK(int4q_blocks_to_tensor(format.format, 1, matrix.blocks.data(), matrix.blocks.size(), tensor.get(), 0, n));
        const std::vector<float> w = matrix.Dequantize();
        for (int4q_isa isa : UsableIsas()) {
            IsaLimit limit(isa);
            const GuardedBuffer blob = Pack(tensor);
            const std::vector<float> y = Multiply(blob.data(), blob.size(), tensor->scheme, n, k);
            for (int64_t i = 0; i < 3; i++) {
                for (int64_t j = 0; j < n; j++) {
                    double exact = 0, size = 0;
                    for (int64_t l = 0; l < k; l++) {
                        const double x = static_cast<double>((i * k + l) * 7 % 13) - 6;
                        exact += x * double{w[static_cast<size_t>(j * k + l)]};
                        size += std::fabs(x * double{w[static_cast<size_t>(j * k + l)]});
                    }
                    ASSERT_NEAR(y[static_cast<size_t>(i * n + j)], exact, 4e-6 * size) << format.name << ", isa " << isa;
                }
            }
        }
    }
}

// ---- Wrong arguments ------------------------------------------------------------------------------------------------

constexpr int64_t kRows = 3, kColumns = 256, kStride = 260;

struct BlocksCall {
    explicit BlocksCall(size_t which) : format(kFormats[which].format) {
        blocks_bytes = SizeOf(kFormats[which], kRows, kColumns);
        for (int64_t i = 0; i < kRows * kStride; i++) floats[i] = static_cast<float>(i % 17 - 8);
        for (float &value : importance) value = 1;
        std::memset(memory, 0x11, sizeof memory);
        options_memory = Options(INT4Q_SEARCH_REFERENCE, importance);
    }

    int4q_format format;
    int4q_block_options options_memory;
    const int4q_block_options *options = &options_memory;
    alignas(64) float floats[kRows * kStride + 1];
    float importance[kColumns];
    alignas(64) unsigned char memory[1024];
    int64_t n = kRows, k = kColumns;
    void *matrix = floats;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t stride = kStride, begin = 0, end = kRows;
    void *blocks = memory;
    uint64_t blocks_bytes;
    float global_scale = 0;
};

struct QuantizeBlocksCall : BlocksCall {
    using BlocksCall::BlocksCall;
    int4q_status Run() {
        return int4q_quantize_blocks(format, options, n, k, matrix, type, stride, blocks, blocks_bytes, begin, end);
    }
    std::string Outputs() const { return BytesOf(memory); }
};

struct DequantizeBlocksCall : BlocksCall {
    using BlocksCall::BlocksCall;
    int4q_status Run() {
        return int4q_dequantize_blocks(format, global_scale, n, k, blocks, blocks_bytes, matrix, type, stride, begin, end);
    }
    std::string Outputs() const { return BytesOf(floats); }
};

template <typename C>
BadTable<C> CommonTable(const char *matrix, const char *type, const char *stride) {
    BadTable<C> table;
    AddEnumerators(table, "format", &C::format, {0, 7, -1});
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64, 1, 16, 31, 33, 255, 257});
    AddValues(table, "n", &C::n, {kMax64, int64_t{1} << 60}, kOverflow);
    AddValues(table, "n", &C::k, {kMax64 - 255}, kOverflow);
    AddMatrix(table, matrix, &C::matrix, &C::type, type, &C::stride, stride, kColumns);
    table.push_back({"blocks = NULL", [](C &c) { c.blocks = nullptr; }, kNull, "blocks"});
    AddTooSmall(table, "blocks_bytes", &C::blocks_bytes);
    AddRanges(table, kRows, "row_begin", "row_end");
    return table;
}

TEST(BadBlockArguments, Quantize) {
    using C = QuantizeBlocksCall;
    for (size_t which = 0; which < std::size(kFormats); which++) {
        BadTable<C> table = CommonTable<C>("source", "source_type", "source_stride");
        AddStructSizes(table, [](C &c) -> uint32_t & { return c.options_memory.struct_size; }, sizeof(int4q_block_options));
        AddEnumerators(table, "search", [](C &c) -> int32_t & { return c.options_memory.search; }, {2, -1});
        AddValues(table, "reserved", [](C &c) -> uint32_t & { return c.options_memory.reserved; }, {1, kMax32});
        for (int shift : {1, 2, 4}) {
            table.push_back({"options off", [shift](C &c) { c.options = Shift(c.options, shift); }, kMisaligned, "options"});
        }
        table.push_back({"importance off", [](C &c) { c.options_memory.importance = Shift(c.importance, 2); }, kMisaligned,
                         "importance"});
        table.push_back({"importance -1", [](C &c) { c.importance[kColumns - 1] = -1; }, kInvalid, "importance"});
        table.push_back({"importance NaN", [](C &c) { c.importance[3] = NAN; }, kNotFinite, "importance"});
        table.push_back({"importance inf", [](C &c) { c.importance[0] = INFINITY; }, kNotFinite, "importance"});
        const bool has_scale = kFormats[which].format == INT4Q_FORMAT_NVFP4;
        const auto scale = [&](float value, int4q_status status) {
            table.push_back({"global_scale", [value](C &c) { c.options_memory.global_scale = value; }, status, "global_scale"});
        };
        scale(-1, kInvalid);
        scale(NAN, has_scale ? kNotFinite : kInvalid);
        scale(INFINITY, has_scale ? kNotFinite : kInvalid);
        if (!has_scale) scale(2, kInvalid);
        for (float value : {NAN, INFINITY, -INFINITY}) {
            for (int64_t column : {int64_t{0}, kColumns - 1}) {
                table.push_back({"source not finite", [=](C &c) { c.floats[column] = value; }, kNotFinite, "source"});
            }
        }
        if (kFormats[which].format <= INT4Q_FORMAT_IQ4_NL) {
            for (float value : {1e9f, 1e30f, -3e38f}) {
                table.push_back({"source too large", [=](C &c) { c.floats[100] = value; }, kNotFinite, "source"});
                table.push_back({"source too large for the best", [=](C &c) {
                                     c.floats[100] = value;
                                     c.options_memory.search = INT4Q_SEARCH_BEST;
                                 }, kNotFinite, "source"});
            }
        }
        ExpectRefused<C>("int4q_quantize_blocks", [&] { return std::make_unique<C>(which); }, table);
    }
}

TEST(BadBlockArguments, Dequantize) {
    using C = DequantizeBlocksCall;
    for (size_t which = 0; which < std::size(kFormats); which++) {
        BadTable<C> table = CommonTable<C>("destination", "destination_type", "destination_stride");
        table.push_back({"global_scale -1", [](C &c) { c.global_scale = -1; }, kInvalid, "global_scale"});
        ExpectRefused<C>("int4q_dequantize_blocks", [&] { return std::make_unique<C>(which); }, table);
    }
}

TEST(BadBlockArguments, SizesAndSchemes) {
    alignas(8) uint64_t bytes[2] = {7, 7};
    const char *size = "int4q_blocks_size";
    EXPECT_FAILS(int4q_blocks_size(0, 1, 256, bytes), kInvalid, size, "format");
    EXPECT_FAILS(int4q_blocks_size(INT4Q_FORMAT_Q4_K, 1, 128, bytes), kInvalid, size, "k");
    EXPECT_FAILS(int4q_blocks_size(INT4Q_FORMAT_Q4_0, 0, 128, bytes), kInvalid, size, "n");
    EXPECT_FAILS(int4q_blocks_size(INT4Q_FORMAT_Q4_0, 1, 128, nullptr), kNull, size, "bytes");
    EXPECT_FAILS(int4q_blocks_size(INT4Q_FORMAT_Q4_0, 1, 128, Shift(bytes, 4)), kMisaligned, size, "bytes");
    EXPECT_FAILS(int4q_blocks_size(INT4Q_FORMAT_Q4_0, kMax64, int64_t{1} << 40, bytes), kOverflow, size, "n");
    EXPECT_EQ(bytes[0], 7u);
    int4q_scheme scheme{};
    float codebook[17] = {};
    const char *name = "int4q_format_scheme";
    EXPECT_FAILS(int4q_format_scheme(99, &scheme, codebook), kInvalid, name, "format");
    EXPECT_FAILS(int4q_format_scheme(INT4Q_FORMAT_MXFP4, nullptr, codebook), kNull, name, "scheme");
    EXPECT_FAILS(int4q_format_scheme(INT4Q_FORMAT_MXFP4, Shift(&scheme, 2), codebook), kMisaligned, name, "scheme");
    EXPECT_FAILS(int4q_format_scheme(INT4Q_FORMAT_MXFP4, &scheme, Shift(codebook, 1)), kMisaligned, name, "codebook");
    EXPECT_EQ(scheme.kind, 0);
    ASSERT_OK(int4q_format_scheme(INT4Q_FORMAT_MXFP4, &scheme, nullptr));
    EXPECT_EQ(scheme.kind, INT4Q_KIND_CODEBOOK);
}

TEST(BadBlockArguments, TensorsMustAgree) {
    const char *to = "int4q_blocks_to_tensor", *from = "int4q_tensor_to_blocks";
    for (const Format &format : kFormats) {
        Matrix matrix(format, 2, format.depth);
        FillNormal(matrix, 4);
        ASSERT_OK(matrix.Quantize(nullptr));
        uint8_t *blocks = matrix.blocks.data();
        const uint64_t bytes = matrix.blocks.size();
        TensorMemory memory = TensorFor(format, 2, format.depth);
        const auto convert = [&](const int4q_tensor &tensor) { return int4q_blocks_to_tensor(format.format, 0, blocks, bytes, &tensor, 0, 2); };
        ASSERT_OK(convert(*memory.get()));
        int4q_tensor tensor = *memory.get();
        tensor.scheme.group_size = INT4Q_GROUP_PER_ROW;
        EXPECT_FAILS(convert(tensor), kMismatch, to, "group_size");
        tensor = *memory.get();
        tensor.scheme.kind = INT4Q_KIND_ASYMMETRIC;
        tensor.zero_points = tensor.codes, tensor.zero_points_bytes = tensor.codes_bytes;
        EXPECT_FAILS(convert(tensor), kMismatch, to, "kind");
        tensor = *memory.get();
        tensor.scheme.scale_type = tensor.scheme.scale_type == INT4Q_TYPE_BF16 ? INT4Q_TYPE_F16 : INT4Q_TYPE_BF16;
        EXPECT_FAILS(convert(tensor), kMismatch, to, "scale_type");
        EXPECT_FAILS(int4q_blocks_to_tensor(format.format, 0, blocks, bytes - 1, memory.get(), 0, 2), kTooSmall, to, "blocks_bytes");
        EXPECT_FAILS(int4q_blocks_to_tensor(format.format, 0, nullptr, bytes, memory.get(), 0, 2), kNull, to, "blocks");
        EXPECT_FAILS(int4q_blocks_to_tensor(format.format, 0, blocks, bytes, nullptr, 0, 2), kNull, to, "tensor");
        EXPECT_FAILS(int4q_blocks_to_tensor(format.format, 0, blocks, bytes, memory.get(), 0, 3), kInvalid, to, "row_end");
        EXPECT_FAILS(int4q_blocks_to_tensor(format.format, -1, blocks, bytes, memory.get(), 0, 2), kInvalid, to, "global_scale");
        EXPECT_FAILS(int4q_blocks_to_tensor(0, 0, blocks, bytes, memory.get(), 0, 2), kInvalid, to, "format");
        if (format.format == INT4Q_FORMAT_Q4_K || format.format == INT4Q_FORMAT_NVFP4) {
            EXPECT_FAILS(int4q_tensor_to_blocks(format.format, memory.get(), blocks, bytes, 0, 2), INT4Q_ERROR_UNSUPPORTED, from, "format");
            continue;
        }
        EXPECT_FAILS(int4q_tensor_to_blocks(format.format, memory.get(), blocks, bytes - 1, 0, 2), kTooSmall, from, "blocks_bytes");
        EXPECT_FAILS(int4q_tensor_to_blocks(format.format, memory.get(), nullptr, bytes, 0, 2), kNull, from, "blocks");
        EXPECT_FAILS(int4q_tensor_to_blocks(format.format, nullptr, blocks, bytes, 0, 2), kNull, from, "tensor");
        EXPECT_FAILS(int4q_tensor_to_blocks(format.format, memory.get(), blocks, bytes, 2, 1), kInvalid, from, "row_end", "row_begin");
        if (memory->codebook) {
            float other[16];
            std::memcpy(other, memory->codebook, sizeof other);
            other[15] += 1;
            tensor = *memory.get();
            tensor.codebook = other;
            EXPECT_FAILS(convert(tensor), kMismatch, to, "codebook");
        }
    }
    // Scales that are not finite, and scales that MXFP4 has not.
    const Format &q4_1 = kFormats[1], &mxfp4 = kFormats[4];
    for (int at : {1, 3}) {
        Matrix matrix(q4_1, 1, 64);
        FillNormal(matrix, 6);
        ASSERT_OK(matrix.Quantize(nullptr));
        matrix.blocks.data()[20 + at] = 0x7c;
        TensorMemory memory = TensorFor(q4_1, 1, 64);
        EXPECT_FAILS(int4q_blocks_to_tensor(q4_1.format, 0, matrix.blocks.data(), matrix.blocks.size(), memory.get(), 0, 1), kNotFinite, to, "blocks");
    }
    for (uint16_t bits : {uint16_t{0x3f81}, uint16_t{0}, uint16_t{0xbf80}, uint16_t{0x7f80}, uint16_t{0x0010}}) {
        TensorMemory memory = TensorFor(mxfp4, 1, 32);
        std::memset(memory->codes, 0, memory->codes_bytes);
        std::memcpy(memory->scales, &bits, 2);
        uint8_t blocks[17];
        EXPECT_FAILS(int4q_tensor_to_blocks(mxfp4.format, memory.get(), blocks, sizeof blocks, 0, 1), kMismatch, from, "scales");
    }
}

}  // namespace
}  // namespace int4q_test
