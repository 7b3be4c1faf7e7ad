// SPDX-License-Identifier: Apache-2.0
// Packing 4-bit integers two to a byte, and the quantizer of textbooks with the published package's behaviour beside it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "support/bad_arguments.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"

namespace int4q_test {
namespace {

constexpr int32_t kLow = INT4Q_NIBBLES_LOW_FIRST, kHigh = INT4Q_NIBBLES_HIGH_FIRST, kSplit = INT4Q_NIBBLES_SPLIT_HALF;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// ---- Nibbles --------------------------------------------------------------------------------------------------------

// Where element i goes: its byte, and whether in the high half.
std::pair<int64_t, bool> PlaceOf(int64_t i, int32_t order, int64_t block) {
    if (order != kSplit) return {i / 2, (i % 2 == 1) != (order == kHigh)};
    const int64_t within = i % block;
    return {i / block * (block / 2) + within % (block / 2), within >= block / 2};
}

void CheckRoundTrip(int64_t count, int32_t order, int32_t block, bool is_signed, Random &random) {
    const uint32_t flags = is_signed ? INT4Q_NIBBLES_SIGNED : 0;
    const int64_t size = order == kSplit ? (count + block - 1) / block * (block / 2) : (count + 1) / 2;
    const auto placement = random.Chance(0.5) ? Placement::kLeft : Placement::kRight;
    GuardedBuffer values(static_cast<size_t>(count), placement), bytes(static_cast<size_t>(size), placement),
        back(static_cast<size_t>(count), placement);
    std::vector<uint8_t> wanted(static_cast<size_t>(size), 0);
    for (int64_t i = 0; i < count; i++) {
        const auto value = static_cast<int>(is_signed ? random.Integer(-8, 7) : random.Integer(0, 15));
        values.data()[i] = static_cast<uint8_t>(value);
        const auto [byte, high] = PlaceOf(i, order, block);
        wanted[static_cast<size_t>(byte)] |= static_cast<uint8_t>((value & 15) << (high ? 4 : 0));
    }
    values.ForbidWriting();
    ASSERT_OK(int4q_nibbles_pack(values.data(), count, order, block, flags, bytes.data(), static_cast<uint64_t>(size)));
    ASSERT_TRUE(std::equal(wanted.begin(), wanted.end(), bytes.data())) << count << " in order " << order << ", block " << block;
    bytes.ForbidWriting();
    ASSERT_OK(int4q_nibbles_unpack(bytes.data(), static_cast<uint64_t>(size), count, order, block, flags, back.data()));
    ASSERT_TRUE(std::equal(values.data(), values.data() + count, back.data())) << count << " in order " << order;
}

TEST(Nibbles, EveryOrderAndLength) {
    Random random(1);
    for (bool is_signed : {false, true}) {
        for (int64_t count = 1; count < 140; count++) {
            CheckRoundTrip(count, kLow, 0, is_signed, random);
            CheckRoundTrip(count, kHigh, 0, is_signed, random);
            for (int32_t block : {2, 4, 6, 32, 64, 256, 65536}) CheckRoundTrip(count, kSplit, block, is_signed, random);
            ASSERT_FALSE(HasFailure());
        }
        CheckRoundTrip(100003, kLow, 0, is_signed, random);
        CheckRoundTrip(100003, kSplit, 32, is_signed, random);
    }
}

TEST(Nibbles, PublishedExamples) {
    // ONNX: [1, -2, 3] is e1 03.
    const int8_t onnx[] = {1, -2, 3};
    uint8_t bytes[4] = {0xcc, 0xcc, 0xcc, 0xcc};
    ASSERT_OK(int4q_nibbles_pack(onnx, 3, kLow, 0, INT4Q_NIBBLES_SIGNED, bytes, 2));
    EXPECT_EQ(bytes[0], 0xe1);
    EXPECT_EQ(bytes[1], 0x03);
    EXPECT_EQ(bytes[2], 0xcc) << "bytes beyond are left alone";
    const int8_t eight[] = {0, 1, -2, 4, 6, -1, 7, -7};
    ASSERT_OK(int4q_nibbles_pack(eight, 8, kLow, 0, INT4Q_NIBBLES_SIGNED, bytes, 4));
    const int8_t wanted[] = {16, 78, -10, -105};
    EXPECT_EQ(std::memcmp(bytes, wanted, 4), 0);
}

TEST(Nibbles, NothingToDo) {
    EXPECT_OK(int4q_nibbles_pack(nullptr, 0, kLow, 0, 0, nullptr, 0));
    EXPECT_OK(int4q_nibbles_unpack(nullptr, 0, 0, kSplit, 32, 0, nullptr));
}

TEST(Nibbles, EveryValueOutOfRangeIsNamed) {
    for (bool is_signed : {false, true}) {
        for (int value = 0; value < 256; value++) {
            const int meant = is_signed ? static_cast<int8_t>(value) : value;
            const bool fits = is_signed ? meant >= -8 && meant <= 7 : meant <= 15;
            uint8_t values[37] = {}, bytes[19];
            std::memset(bytes, 0xaa, sizeof bytes);
            values[23] = static_cast<uint8_t>(value);
            const uint32_t flags = is_signed ? INT4Q_NIBBLES_SIGNED : 0;
            if (fits) {
                ASSERT_OK(int4q_nibbles_pack(values, 37, kHigh, 0, flags, bytes, 19));
                continue;
            }
            EXPECT_FAILS(int4q_nibbles_pack(values, 37, kHigh, 0, flags, bytes, 19), kInvalid, "int4q_nibbles_pack", "values");
            EXPECT_EQ(LastError().value, std::to_string(meant) + " at index 23");
            for (uint8_t byte : bytes) ASSERT_EQ(byte, 0xaa) << "written in spite of the failure";
        }
    }
}

struct PackCall {
    uint8_t value_memory[64] = {}, byte_memory[65];
    const void *values = value_memory;
    void *bytes = byte_memory;
    int64_t count = 64;
    int32_t order = kSplit, block = 32;
    uint32_t flags = 0;
    uint64_t bytes_size = 32;
    PackCall() { std::memset(byte_memory, 0x33, sizeof byte_memory); }
    int4q_status Run() { return int4q_nibbles_pack(values, count, order, block, flags, bytes, bytes_size); }
    std::string Outputs() const { return BytesOf(byte_memory); }
};

struct UnpackCall : PackCall {
    uint8_t result_memory[65] = {};
    void *result = result_memory;
    int4q_status Run() { return int4q_nibbles_unpack(bytes, bytes_size, count, order, block, flags, result); }
    std::string Outputs() const { return BytesOf(result_memory); }
};

template <typename C>
BadTable<C> BadNibbles() {
    BadTable<C> table;
    AddEnumerators(table, "order", &C::order, {-1, 3});
    AddValues(table, "block", &C::block, {0, 1, -2, 31, 65537, 65538, kMin32, kMax32});
    for (int32_t order : {kLow, kHigh}) {
        table.push_back({"a block without split halves", [=](C &c) { c.order = order; }, kInvalid, "block"});
    }
    AddValues(table, "flags", &C::flags, {2, 3, UINT32_MAX});
    AddValues(table, "count", &C::count, {-1, kMin64});
    AddPointer(table, "bytes", &C::bytes, {});
    AddTooSmall(table, "bytes_size", &C::bytes_size);
    AddValues(table, "bytes_size", &C::count, {65, int64_t{1} << 40}, kTooSmall);
    table.push_back({"count beyond the address space", [](C &c) { c.count = kMax64, c.bytes_size = UINT64_MAX; }, kOverflow,
                     "count"});
    return table;
}

TEST(BadNibbleArguments, PackAndUnpack) {
    auto pack = BadNibbles<PackCall>();
    AddPointer(pack, "values", &PackCall::values, {});
    ExpectRefused<PackCall>("int4q_nibbles_pack", [] { return std::make_unique<PackCall>(); }, pack);
    auto unpack = BadNibbles<UnpackCall>();
    AddPointer(unpack, "values", &UnpackCall::result, {});
    ExpectRefused<UnpackCall>("int4q_nibbles_unpack", [] { return std::make_unique<UnpackCall>(); }, unpack);
}

// ---- Whole arrays ---------------------------------------------------------------------------------------------------

struct Quantized {
    std::vector<int8_t> codes;
    float scale = -1;
    int32_t zero_point = 99;
    std::vector<float> back;
};

Quantized QuantizeValues(const std::vector<float> &values, int32_t method, uint32_t flags = 0) {
    Quantized q;
    const auto count = static_cast<int64_t>(values.size());
    GuardedBuffer source(values.size() * 4, Placement::kRight, 4), codes(values.size(), Placement::kRight);
    std::memcpy(source.data(), values.data(), values.size() * 4);
    source.ForbidWriting();
    EXPECT_OK(int4q_quantize_int4_values(source.as<float>(), count, method, flags, codes.as<int8_t>(), &q.scale, &q.zero_point));
    q.codes.assign(codes.as<int8_t>(), codes.as<int8_t>() + count);
    q.back.resize(values.size());
    EXPECT_OK(int4q_dequantize_int4_values(q.codes.data(), count, q.scale, q.zero_point, q.back.data()));
    return q;
}

double MeanError(const std::vector<float> &values, const Quantized &q) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); i++) sum += std::fabs(static_cast<double>(values[i]) - q.back[i]);
    return sum / static_cast<double>(values.size());
}

const std::vector<float> kPublished = {0.1f, 0.5f, -1.3f, 2.7f, 3.9f, -0.8f, 5.2f, -4.7f};

TEST(Int4Values, PublishedBehaviourIsReproduced) {
    const Quantized minmax = QuantizeValues(kPublished, INT4Q_INT4_MINMAX, INT4Q_INT4_PUBLISHED);
    EXPECT_EQ(minmax.codes, (std::vector<int8_t>{0, 1, -2, 4, 6, -1, 7, -7}));
    EXPECT_FLOAT_EQ(minmax.scale, 0.66f);
    EXPECT_EQ(minmax.zero_point, 0);
    EXPECT_NEAR(MeanError(kPublished, minmax), 0.15, 1e-6);
    const Quantized absmax = QuantizeValues(kPublished, INT4Q_INT4_ABSMAX, INT4Q_INT4_PUBLISHED);
    EXPECT_EQ(absmax.codes, (std::vector<int8_t>{0, 1, -2, 4, 5, -1, 7, -6}));
    EXPECT_FLOAT_EQ(absmax.scale, 0.742857143f);
    EXPECT_NEAR(MeanError(kPublished, absmax), 0.16071, 1e-5);
    // Codes of 1500, 1504 and 1515 are -36, -32 and -21 in eight bits, and clipped to -8.
    const Quantized far = QuantizeValues({100, 100.3f, 101}, INT4Q_INT4_MINMAX, INT4Q_INT4_PUBLISHED);
    EXPECT_EQ(far.codes, (std::vector<int8_t>{-8, -8, -8}));
    EXPECT_NEAR(far.back[0], -0.5333, 1e-4);
    // A constant has a scale of 1; beyond eight bits only the low byte counts.
    EXPECT_EQ(QuantizeValues({5, 5}, INT4Q_INT4_MINMAX, INT4Q_INT4_PUBLISHED).codes, (std::vector<int8_t>{5, 5}));
    EXPECT_EQ(QuantizeValues({259, 259}, INT4Q_INT4_MINMAX, INT4Q_INT4_PUBLISHED).codes, (std::vector<int8_t>{3, 3}));
    EXPECT_EQ(QuantizeValues({3e9f, 3e9f}, INT4Q_INT4_MINMAX, INT4Q_INT4_PUBLISHED).codes, (std::vector<int8_t>{0, 0}));
}

// No value is off by more than half a step (and a hair), whatever the data's offset.
TEST(Int4Values, NothingSaturatesByDefault) {
    Random random(2);
    for (int32_t method : {INT4Q_INT4_MINMAX, INT4Q_INT4_ABSMAX}) {
        for (int i = 0; i < Samples(500); i++) {
            std::vector<float> values(static_cast<size_t>(random.Integer(1, 60)));
            const float offset = random.Normal() * (i % 2 ? 100.0f : 0.0f);
            for (float &v : values) v = std::ldexp(offset + random.Normal(), static_cast<int>(i % 5 - 2) * 20);
            const Quantized q = QuantizeValues(values, method);
            EXPECT_GE(q.scale, 0);
            EXPECT_TRUE(method == INT4Q_INT4_MINMAX || q.zero_point == 0);
            for (size_t j = 0; j < values.size(); j++) {
                ASSERT_LE(std::fabs(q.back[j] - values[j]), 0.501f * q.scale) << values[j] << ", scale " << q.scale;
                ASSERT_TRUE(q.codes[j] >= -8 && q.codes[j] <= 7);
            }
        }
    }
    const Quantized far = QuantizeValues({100, 100.3f, 101}, INT4Q_INT4_MINMAX);
    EXPECT_EQ(far.zero_point, -8);
    EXPECT_EQ(far.codes, (std::vector<int8_t>{7, 7, 7}));
    EXPECT_NEAR(far.back[2], 101, 1e-4);
}

TEST(Int4Values, ExtremesAndZeros) {
    const float most = std::numeric_limits<float>::max();
    for (int32_t method : {INT4Q_INT4_MINMAX, INT4Q_INT4_ABSMAX}) {
        EXPECT_TRUE(std::isfinite(QuantizeValues({most, -most, 0}, method).scale));
        EXPECT_EQ(QuantizeValues({0, -0.0f, 0}, method).back, (std::vector<float>{0, 0, 0}));
        EXPECT_EQ(QuantizeValues({1e-45f}, method).back, (std::vector<float>{0}));
        EXPECT_EQ(QuantizeValues({1e-45f}, method).scale, 1);
    }
    const Quantized wide = QuantizeValues({most, -most, 0}, INT4Q_INT4_MINMAX);
    EXPECT_EQ(wide.codes[0] - wide.codes[1], 15);
}

struct ValuesCall {
    ValuesCall() {
        for (int i = 0; i < 20; i++) floats[i] = static_cast<float>(i);
    }
    alignas(8) float floats[21] = {};
    alignas(8) int8_t code_memory[24] = {};
    alignas(8) float scale_memory[2] = {-1, -1};
    alignas(8) int32_t zero_memory[2] = {99, 99};
    const float *values = floats;
    int8_t *codes = code_memory;
    float *scale = scale_memory;
    int32_t *zero_point = zero_memory;
    int64_t count = 20;
    int32_t method = INT4Q_INT4_MINMAX;
    uint32_t flags = 0;
    int4q_status Run() { return int4q_quantize_int4_values(values, count, method, flags, codes, scale, zero_point); }
    std::string Outputs() const { return BytesOf(code_memory) + BytesOf(scale_memory) + BytesOf(zero_memory); }
};

struct BackCall {
    alignas(8) int8_t code_memory[24] = {};
    alignas(8) float floats[21] = {};
    const int8_t *codes = code_memory;
    float *values = floats;
    int64_t count = 20;
    float scale = 1;
    int32_t zero_point = -8;
    int4q_status Run() { return int4q_dequantize_int4_values(codes, count, scale, zero_point, values); }
    std::string Outputs() const { return BytesOf(floats); }
};

TEST(BadInt4Arguments, QuantizeAndDequantize) {
    using C = ValuesCall;
    BadTable<C> table;
    AddPointer(table, "values", &C::values, {1, 2, 3});
    AddPointer(table, "codes", &C::codes, {});
    AddPointer(table, "scale", &C::scale, {1, 2, 3});
    AddPointer(table, "zero_point", &C::zero_point, {1, 2, 3});
    AddValues(table, "count", &C::count, {0, -1, kMin64});
    AddValues(table, "count", &C::count, {kMax64, int64_t{1} << 62}, kOverflow);
    AddEnumerators(table, "method", &C::method, {-1, 2});
    AddValues(table, "flags", &C::flags, {2, 3, UINT32_MAX});
    for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
        table.push_back({"not finite", [=](C &c) { c.floats[17] = bad; }, kNotFinite, "values"});
    }
    table.push_back({"a published range that overflows",
                     [](C &c) { c.flags = INT4Q_INT4_PUBLISHED, c.floats[1] = 3e38f, c.floats[2] = -3e38f; }, kNotFinite, "values"});
    ExpectRefused<C>("int4q_quantize_int4_values", [] { return std::make_unique<C>(); }, table);
    C call;
    call.floats[17] = kInfinity;
    EXPECT_FAILS(call.Run(), kNotFinite, "int4q_quantize_int4_values", "values");
    EXPECT_STREQ(LastError().value, "inf at index 17");

    using B = BackCall;
    BadTable<B> back;
    AddPointer(back, "codes", &B::codes, {});
    AddPointer(back, "values", &B::values, {1, 2, 3});
    AddValues(back, "count", &B::count, {0, -1, kMin64});
    AddValues(back, "count", &B::count, {kMax64, int64_t{1} << 62}, kOverflow);
    AddValues(back, "zero_point", &B::zero_point, {-9, 8, kMin32, kMax32});
    for (int8_t bad : {-9, 8, -128, 127}) {
        back.push_back({"a code out of range", [=](B &b) { b.code_memory[3] = bad; }, kInvalid, "codes"});
    }
    for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
        back.push_back({"scale", [=](B &b) { b.scale = bad; }, kNotFinite, "scale"});
    }
    ExpectRefused<B>("int4q_dequantize_int4_values", [] { return std::make_unique<B>(); }, back);
}

}  // namespace
}  // namespace int4q_test
