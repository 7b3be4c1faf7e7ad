// SPDX-License-Identifier: Apache-2.0
// Double quantization of scales: section 9 of the header, against its definition and against bitsandbytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
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

namespace int4q_test {
namespace {

std::vector<float> Map() {
    std::vector<float> map(256);
    EXPECT_OK(int4q_dynamic_map(map.data()));
    return map;
}

// Scales, and what they are quantized to, between guard pages.
struct Doubled {
    Doubled(const std::vector<float> &values, int64_t block_size, int32_t rule, int4q_type type = INT4Q_TYPE_F32,
            Placement placement = Placement::kRight)
        : count(static_cast<int64_t>(values.size())), block_size(block_size), type(type),
          blocks((count + block_size - 1) / block_size),
          source(values.size() * static_cast<size_t>(TypeBytes(type)), placement, static_cast<size_t>(TypeBytes(type))),
          codes(values.size(), placement), nested(static_cast<size_t>(blocks) * 4, placement, 4) {
        for (int64_t i = 0; i < count; i++) StoreElement(source.data(), type, i, values[static_cast<size_t>(i)]);
        source.ForbidWriting();
        std::memset(&raw, 0, sizeof raw);
        raw.struct_size = sizeof raw;
        raw.rule = rule;
        raw.count = count;
        raw.block_size = block_size;
        raw.codes = codes.data();
        raw.codes_bytes = codes.size();
        raw.nested_scales = nested.as<float>();
        raw.nested_scales_bytes = nested.size();
        EXPECT_OK(int4q_double_offset(source.data(), type, count, &raw.offset));
    }

    float value(int64_t i) const { return LoadElement(source.data(), type, i); }
    int4q_status Quantize() { return Quantize(0, blocks); }
    int4q_status Quantize(int64_t begin, int64_t end) {
        return int4q_double_quantize_scales(&raw, source.data(), type, begin, end);
    }
    std::string Bytes() const {
        return std::string(reinterpret_cast<const char *>(codes.data()), codes.size()) +
               std::string(reinterpret_cast<const char *>(nested.data()), nested.size());
    }

    const int64_t count, block_size;
    const int4q_type type;
    const int64_t blocks;
    GuardedBuffer source, codes, nested;
    int4q_double_scales raw;
};

std::vector<float> RandomScales(Random &random, int64_t count, float spread = 0.01f) {
    std::vector<float> scales(static_cast<size_t>(count));
    for (float &scale : scales) scale = 0.05f + spread * random.Normal();
    return scales;
}

TEST(DoubleQuantization, MapIsAscendingAndSymmetricButForItsEnds) {
    const std::vector<float> map = Map();
    for (size_t i = 1; i < 256; i++) EXPECT_LT(map[i - 1], map[i]) << i;
    EXPECT_EQ(map[127], 0.0f);
    EXPECT_EQ(map[255], 1.0f);
    for (size_t i = 1; i <= 127; i++) EXPECT_EQ(map[127 + i], -map[127 - i]) << i;
    // Each decade's values: the middles of 2^d equal parts of 0.1 ... 1.
    for (int decade = 0; decade < 7; decade++) {
        const int values = 1 << decade;
        for (int i = 0; i < values; i++) {
            const double wanted = std::pow(10.0, decade - 6) * (0.1 + 0.9 * (i + 0.5) / values);
            EXPECT_NEAR(map[static_cast<size_t>(127 + values + i)], wanted, 3e-7 * wanted);
        }
    }
}

TEST(DoubleQuantization, NearestEqualsItsDefinition) {
    const std::vector<float> map = Map();
    Random random(1);
    for (int4q_type type : kTypes) {
        for (int64_t block_size : {1, 7, 16, 255, 256, 257, 600}) {
            for (int64_t count : {1, 2, 255, 256, 257, 1000}) {
                for (int4q_isa isa : UsableIsas()) {
                    IsaLimit limit(isa);
                    Doubled doubled(RandomScales(random, count), block_size, INT4Q_DOUBLE_NEAREST, type,
                                    count % 2 ? Placement::kLeft : Placement::kRight);
                    double sum = 0;
                    for (int64_t i = 0; i < count; i++) sum += doubled.value(i);
                    ASSERT_EQ(doubled.raw.offset, static_cast<float>(sum / static_cast<double>(count)));
                    ASSERT_OK(doubled.Quantize());
                    for (int64_t block = 0; block < doubled.blocks; block++) {
                        const int64_t begin = block * block_size, end = std::min(begin + block_size, count);
                        float largest = 0;
                        for (int64_t i = begin; i < end; i++) {
                            largest = std::max(largest, std::fabs(doubled.value(i) - doubled.raw.offset));
                        }
                        ASSERT_EQ(doubled.raw.nested_scales[block], largest);
                        for (int64_t i = begin; i < end; i++) {
                            int code = 0;
                            const float v = (doubled.value(i) - doubled.raw.offset) * (1 / largest);
                            for (size_t c = 0; c < 255; c++) code += 0.5f * (map[c] + map[c + 1]) < v;
                            ASSERT_EQ(doubled.raw.codes[i], largest == 0 ? 0 : code) << i;
                        }
                    }
                }
            }
        }
    }
}

TEST(DoubleQuantization, DequantizedIsMapTimesNestedPlusOffset) {
    const std::vector<float> map = Map();
    Random random(2);
    for (int4q_type type : kTypes) {
        for (int64_t count : {1, 256, 300, 1500}) {
            Doubled doubled(RandomScales(random, count), 256, INT4Q_DOUBLE_NEAREST, type);
            ASSERT_OK(doubled.Quantize());
            doubled.codes.ForbidWriting();
            doubled.nested.ForbidWriting();
            GuardedBuffer back(doubled.source.size(), Placement::kRight, static_cast<size_t>(TypeBytes(type)));
            ASSERT_OK(int4q_double_dequantize_scales(&doubled.raw, back.data(), type, 0, doubled.blocks));
            for (int64_t i = 0; i < count; i++) {
                const float nested = doubled.raw.nested_scales[i / 256];
                const float product = map[doubled.raw.codes[i]] * nested;
                ASSERT_EQ(LoadElement(back.data(), type, i), RoundTo(type, product + doubled.raw.offset)) << i;
                // The map's widest step is 0.0141 wide.
                EXPECT_NEAR(product + doubled.raw.offset, doubled.value(i), 0.0071 * nested + 1e-6 * std::fabs(doubled.raw.offset));
            }
        }
    }
}

TEST(DoubleQuantization, BlockRangesDoNotMatter) {
    Random random(3);
    for (int32_t rule : {INT4Q_DOUBLE_NEAREST, INT4Q_DOUBLE_BITSANDBYTES}) {
        const std::vector<float> scales = RandomScales(random, 1000);
        Doubled whole(scales, 64, rule), parts(scales, 64, rule);
        ASSERT_OK(whole.Quantize());
        for (int64_t block : {15, 3, 0}) ASSERT_OK(parts.Quantize(block, block + 1));
        ASSERT_OK(parts.Quantize(4, 15));
        ASSERT_OK(parts.Quantize(1, 3));
        ASSERT_OK(parts.Quantize(5, 5));
        EXPECT_TRUE(whole.Bytes() == parts.Bytes());
    }
}

TEST(DoubleQuantization, EqualScalesZerosAndExtremes) {
    const float least = 0x1p-149f, most = std::numeric_limits<float>::max();
    for (int32_t rule : {INT4Q_DOUBLE_NEAREST, INT4Q_DOUBLE_BITSANDBYTES}) {
        for (const std::vector<float> &scales :
             {std::vector<float>{0.1f}, std::vector<float>(300, 0.0f), std::vector<float>(300, -0.0f), std::vector<float>(300, 0.7f),
              std::vector<float>{-1, 1, -1, 1}, std::vector<float>{0, least, 0, least, 5 * least},
              std::vector<float>{most / 4, -most / 4}, std::vector<float>{0x1p-127f, -0x1p-128f}}) {
            Doubled doubled(scales, 256, rule);
            ASSERT_OK(doubled.Quantize());
            std::vector<float> back(scales.size());
            ASSERT_OK(int4q_double_dequantize_scales(&doubled.raw, back.data(), INT4Q_TYPE_F32, 0, doubled.blocks));
            for (size_t i = 0; i < scales.size(); i++) {
                const double nested = doubled.raw.nested_scales[i / 256];
                EXPECT_NEAR(back[i], scales[i], 0.0072 * nested + 2 * least) << scales[i] << " of " << scales.size();
            }
        }
    }
}

TEST(DoubleQuantization, NotFiniteScalesAreReportedWithTheirPlace) {
    const float infinity = std::numeric_limits<float>::infinity();
    for (float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
        for (size_t place : {0, 5, 299, 511}) {
            std::vector<float> scales(512, 0.5f);
            Doubled doubled(scales, 300, INT4Q_DOUBLE_NEAREST);
            scales[place] = bad;
            EXPECT_FAILS(int4q_double_quantize_scales(&doubled.raw, scales.data(), INT4Q_TYPE_F32, 0, 2), kNotFinite,
                         "int4q_double_quantize_scales", "scales");
            EXPECT_NE(std::string(LastError().value).find("column " + std::to_string(place)), std::string::npos)
                << LastError().message;
            float offset = 3;
            EXPECT_FAILS(int4q_double_offset(scales.data(), INT4Q_TYPE_F32, 512, &offset), kNotFinite, "int4q_double_offset",
                         "scales");
            EXPECT_EQ(offset, 3);
        }
    }
    // Finite, but their distance from the offset is not.
    const float most = std::numeric_limits<float>::max();
    Doubled doubled({1, 2}, 2, INT4Q_DOUBLE_NEAREST);
    doubled.raw.offset = -most;
    const float scales[2] = {1, most};
    EXPECT_FAILS(int4q_double_quantize_scales(&doubled.raw, scales, INT4Q_TYPE_F32, 0, 1), kNotFinite,
                 "int4q_double_quantize_scales", "scales");
}

// ---- bitsandbytes' bytes: see vectors/README.md --------------------------------------------------------------------

template <typename T>
std::vector<T> Read(std::ifstream &file, size_t count) {
    std::vector<T> values(count);
    file.read(reinterpret_cast<char *>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
    EXPECT_TRUE(file);
    return values;
}

TEST(DoubleQuantization, EqualsBitsandbytes) {
    std::ifstream file(std::string(INT4Q_TEST_VECTORS) + "/double_quantization.bin", std::ios::binary);
    ASSERT_TRUE(file);
    EXPECT_EQ(Read<float>(file, 256), Map());
    const int32_t cases = Read<int32_t>(file, 1)[0];
    ASSERT_GT(cases, 10);
    for (int32_t i = 0; i < cases; i++) {
        const size_t count = static_cast<size_t>(Read<int32_t>(file, 1)[0]), blocks = (count + 255) / 256;
        const float offset = Read<float>(file, 1)[0];
        const std::vector<float> scales = Read<float>(file, count);
        const std::vector<uint8_t> codes = Read<uint8_t>(file, count);
        const std::vector<float> nested = Read<float>(file, blocks), values = Read<float>(file, count);
        Doubled doubled(scales, 256, INT4Q_DOUBLE_BITSANDBYTES);
        double magnitude = 0;
        for (float scale : scales) magnitude += std::fabs(scale) / static_cast<double>(count);
        EXPECT_NEAR(doubled.raw.offset, offset, 1e-6 * magnitude);  // PyTorch's mean is a sum in binary32
        doubled.raw.offset = offset;
        ASSERT_OK(doubled.Quantize());
        EXPECT_EQ(std::vector<float>(doubled.raw.nested_scales, doubled.raw.nested_scales + blocks), nested);
        EXPECT_EQ(std::vector<uint8_t>(doubled.raw.codes, doubled.raw.codes + count), codes) << "case " << i;
        std::vector<float> back(count);
        ASSERT_OK(int4q_double_dequantize_scales(&doubled.raw, back.data(), INT4Q_TYPE_F32, 0, doubled.blocks));
        EXPECT_EQ(back, values);
    }
}

// ---- Bad arguments --------------------------------------------------------------------------------------------------

struct DoubledCall {
    alignas(64) float scales[65];
    alignas(64) uint8_t codes[64];
    alignas(64) float nested[5] = {1, 1, 1, 1, 1};
    int4q_double_scales raws[2] = {};
    const int4q_double_scales *raw = raws;
    void *list = scales;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t begin = 0, end = 4;

    DoubledCall() {
        for (int i = 0; i < 65; i++) scales[i] = static_cast<float>(i);
        std::memset(codes, 3, sizeof codes);
        raws[0].struct_size = sizeof raws[0];
        raws[0].count = 64;
        raws[0].block_size = 16;
        raws[0].codes = codes;
        raws[0].codes_bytes = 64;
        raws[0].nested_scales = nested;
        raws[0].nested_scales_bytes = 16;
    }
};

struct QuantizeCall : DoubledCall {
    int4q_status Run() { return int4q_double_quantize_scales(raw, list, type, begin, end); }
    std::string Outputs() const { return BytesOf(codes) + BytesOf(nested); }
};

struct DequantizeCall : DoubledCall {
    int4q_status Run() { return int4q_double_dequantize_scales(raw, list, type, begin, end); }
    std::string Outputs() const { return BytesOf(scales); }
};

template <typename C>
void ExpectDoubledRefused(const char *function) {
    using D = int4q_double_scales;
    BadTable<D> fields;
    AddStructSizes(fields, &D::struct_size, sizeof(D));
    AddEnumerators(fields, "rule", &D::rule, {-1, 2});
    AddValues(fields, "reserved", &D::reserved, {1, UINT32_MAX});
    AddValues(fields, "count", &D::count, {0, -1, kMin64});
    AddValues(fields, "codes_bytes", &D::count, {65, int64_t{1} << 60}, kTooSmall);
    AddValues(fields, "codes_bytes", &D::count, {kMax64}, kTooSmall, "count");
    AddValues(fields, "block_size", &D::block_size, {0, -1, kMin64});
    AddValues(fields, "nested_scales_bytes", &D::block_size, {1, 15}, kTooSmall);
    AddPointer(fields, "codes", &D::codes, {});
    AddTooSmall(fields, "codes_bytes", &D::codes_bytes);
    AddPointer(fields, "nested_scales", &D::nested_scales, {1, 2});
    AddTooSmall(fields, "nested_scales_bytes", &D::nested_scales_bytes);
    for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        fields.push_back({"offset", [=](D &d) { d.offset = bad; }, kNotFinite, "offset"});
    }
    BadTable<C> table;
    AddWithin(table, fields, [](C &c) -> D & { return c.raws[0]; });
    AddPointer(table, "doubled", &C::raw, {1, 4});
    AddPointer(table, "scales", &C::list, {1, 2});
    AddEnumerators(table, "scales_type", &C::type, {0, 4});
    AddRanges(table, 4, "block_begin", "block_end");
    ExpectRefused<C>(function, [] { return std::make_unique<C>(); }, table);
}

TEST(BadDoubleArguments, Quantize) { ExpectDoubledRefused<QuantizeCall>("int4q_double_quantize_scales"); }
TEST(BadDoubleArguments, Dequantize) { ExpectDoubledRefused<DequantizeCall>("int4q_double_dequantize_scales"); }

TEST(BadDoubleArguments, MapSizesAndOffset) {
    alignas(8) float floats[257] = {};
    EXPECT_FAILS(int4q_dynamic_map(nullptr), kNull, "int4q_dynamic_map", "map");
    EXPECT_FAILS(int4q_dynamic_map(Shift(floats, 1)), kMisaligned, "int4q_dynamic_map", "map");
    uint64_t codes = 7, nested = 7;
    for (int64_t bad : {int64_t{0}, int64_t{-1}, kMin64}) {
        EXPECT_FAILS(int4q_double_sizes(bad, 256, &codes, &nested), kInvalid, "int4q_double_sizes", "count");
        EXPECT_FAILS(int4q_double_sizes(256, bad, &codes, &nested), kInvalid, "int4q_double_sizes", "block_size");
        EXPECT_FAILS(int4q_double_offset(floats, INT4Q_TYPE_F32, bad, floats + 100), kInvalid, "int4q_double_offset", "count");
    }
    EXPECT_FAILS(int4q_double_sizes(kMax64, 1, &codes, &nested), kOverflow, "int4q_double_sizes", "count");
    EXPECT_FAILS(int4q_double_sizes(1, 1, Shift(&codes, 1), &nested), kMisaligned, "int4q_double_sizes", "codes_bytes");
    EXPECT_EQ(codes, 7u);
    EXPECT_EQ(nested, 7u);
    EXPECT_OK(int4q_double_sizes(257, 256, &codes, nullptr));
    EXPECT_EQ(codes, 257u);
    EXPECT_OK(int4q_double_sizes(257, 256, nullptr, &nested));
    EXPECT_EQ(nested, 8u);
    EXPECT_OK(int4q_double_sizes(kMax64, kMax64, &codes, &nested));
    EXPECT_FAILS(int4q_double_offset(nullptr, INT4Q_TYPE_F32, 4, floats), kNull, "int4q_double_offset", "scales");
    EXPECT_FAILS(int4q_double_offset(floats, 9, 4, floats), kInvalid, "int4q_double_offset", "scales_type");
    EXPECT_FAILS(int4q_double_offset(floats, INT4Q_TYPE_F32, 4, nullptr), kNull, "int4q_double_offset", "offset");
    EXPECT_FAILS(int4q_double_offset(floats, INT4Q_TYPE_F32, kMax64, floats), kOverflow, "int4q_double_offset", "count");
}

}  // namespace
}  // namespace int4q_test
