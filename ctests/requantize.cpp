// SPDX-License-Identifier: Apache-2.0
// Integer-only inference: section 11 of the header, against gemmlowp's results and a re-derivation in wider integers.
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
#include "int4q.hpp"
#include "support/bad_arguments.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

constexpr int32_t kTypes[] = {INT4Q_CODES_INT8, INT4Q_CODES_UINT8, INT4Q_CODES_INT4, INT4Q_CODES_UINT4, INT4Q_CODES_INT32};

bool IsPacked(int32_t type) { return type == INT4Q_CODES_INT4 || type == INT4Q_CODES_UINT4; }
int64_t RowBytes(int32_t type, int64_t n) { return IsPacked(type) ? (n + 1) / 2 : type == INT4Q_CODES_INT32 ? 4 * n : n; }
int64_t Lowest(int32_t type) {
    return type == INT4Q_CODES_INT8 ? -128 : type == INT4Q_CODES_INT4 ? -8 : type == INT4Q_CODES_INT32 ? kMin32 : 0;
}
int64_t Highest(int32_t type) {
    switch (type) {
        case INT4Q_CODES_INT8: return 127;
        case INT4Q_CODES_UINT8: return 255;
        case INT4Q_CODES_INT4: return 7;
        case INT4Q_CODES_UINT4: return 15;
        default: return kMax32;
    }
}

int64_t CodeAt(const unsigned char *row, int32_t type, int64_t column) {
    if (type == INT4Q_CODES_INT32) {
        int32_t code;
        std::memcpy(&code, row + 4 * column, 4);
        return code;
    }
    if (!IsPacked(type)) return type == INT4Q_CODES_INT8 ? static_cast<int8_t>(row[column]) : row[column];
    const int nibble = row[column / 2] >> (column % 2 * 4) & 15;
    return type == INT4Q_CODES_INT4 && nibble > 7 ? nibble - 16 : nibble;
}

// The header's definition, in 128-bit integers.
int64_t Expected(int64_t sum, int64_t bias, int64_t multiplier, int shift, int64_t zero_point, int64_t low, int64_t high) {
    using Wide = __int128;
    const auto floor_shift = [](Wide v, int by) { return v >= 0 ? v >> by : -((-v + (Wide{1} << by) - 1) >> by); };
    Wide v = static_cast<int32_t>(static_cast<uint32_t>(sum + bias));
    if (shift > 0) v = std::clamp<Wide>(v * (Wide{1} << shift), kMin32, kMax32);
    v = std::min<Wide>(floor_shift(v * multiplier + (1 << 30), 31), kMax32);
    if (shift < 0) {
        const Wide half = Wide{1} << (-shift - 1), magnitude = ((v < 0 ? -v : v) + half) >> -shift;
        v = v < 0 ? -magnitude : magnitude;
    }
    return static_cast<int64_t>(std::clamp<Wide>(v + zero_point, low, high));
}

int4q_requantization Describe(int32_t type, int64_t n, const std::vector<int32_t> &multipliers, const std::vector<int32_t> &shifts,
                              const int32_t *bias = nullptr, int32_t zero_point = 0) {
    int4q_requantization r{};
    r.struct_size = sizeof r;
    r.codes_type = type;
    r.n = n;
    r.multiplier_count = static_cast<int64_t>(multipliers.size());
    r.multipliers = multipliers.data();
    r.shifts = shifts.data();
    r.bias = bias;
    r.zero_point = zero_point;
    r.low = static_cast<int32_t>(Lowest(type));
    r.high = static_cast<int32_t>(Highest(type));
    return r;
}

// ---- gemmlowp's results ----------------------------------------------------------------------------------------------

class Vectors {
public:
    Vectors() : file_(std::string(INT4Q_TEST_VECTORS) + "/requantization.bin", std::ios::binary) {
        EXPECT_TRUE(file_) << "no " << INT4Q_TEST_VECTORS << "/requantization.bin";
    }
    template <typename T = int32_t>
    std::vector<T> Read(int64_t count) {
        std::vector<T> values(static_cast<size_t>(count));
        file_.read(reinterpret_cast<char *>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
        EXPECT_TRUE(file_);
        return values;
    }
    int32_t Number() { return Read(1)[0]; }
    bool AtEnd() { return file_.peek() == std::char_traits<char>::eof(); }

private:
    std::ifstream file_;
};

std::vector<int32_t> Multiply(const std::vector<int32_t> &sums, const std::vector<int32_t> &multipliers,
                              const std::vector<int32_t> &shifts) {
    const auto n = static_cast<int64_t>(sums.size());
    const int4q_requantization r = Describe(INT4Q_CODES_INT32, n, multipliers, shifts);
    std::vector<int32_t> results(sums.size());
    EXPECT_OK(int4q_requantize_rows(&r, sums.data(), n, 1, results.data(), 4 * sums.size(), 0, 1));
    return results;
}

TEST(Requantize, EqualsGemmlowpToTheBit) {
    Vectors vectors;
    const int32_t sum_count = vectors.Number(), multiplier_count = vectors.Number();
    ASSERT_EQ(sum_count, 19);
    ASSERT_EQ(multiplier_count, 11);
    const std::vector<int32_t> sums = vectors.Read(sum_count), multipliers = vectors.Read(multiplier_count);
    ASSERT_EQ(sums[0], kMin32);
    ASSERT_EQ(multipliers[0], kMin32);
    for (int32_t shift = -31; shift <= 30; shift++) {
        for (int32_t multiplier : multipliers) {
            const std::vector<int32_t> wanted = vectors.Read(sum_count);
            ASSERT_EQ(Multiply(sums, {multiplier}, {shift}), wanted) << multiplier << " " << shift;
            if (shift == 0 && multiplier == kMin32) {
                ASSERT_EQ(wanted[0], kMax32);
            }
        }
    }

    const int32_t cases = vectors.Number();
    ASSERT_GT(cases, 5000);
    std::vector<int32_t> columns[4];
    const std::vector<int32_t> all = vectors.Read(4 * int64_t{cases});
    for (size_t i = 0; i < all.size(); i++) columns[i % 4].push_back(all[i]);
    ASSERT_EQ(Multiply(columns[0], columns[1], columns[2]), columns[3]);

    for (int layer = 0; layer < 4; layer++) {
        const std::vector<int32_t> h = vectors.Read(8);
        const int64_t m = h[0], n = h[1], k = h[2];
        const std::vector<uint8_t> weights = vectors.Read<uint8_t>(n * k), x = vectors.Read<uint8_t>(m * k);
        const std::vector<int32_t> bias = vectors.Read(n), by = vectors.Read(n), shifts = vectors.Read(n);
        const std::vector<uint8_t> wanted = vectors.Read<uint8_t>(m * n);
        std::vector<int32_t> sums(static_cast<size_t>(m * n));
        for (int64_t i = 0; i < m * n; i++) {
            for (int64_t l = 0; l < k; l++) {
                const int32_t activation = x[static_cast<size_t>(i / n * k + l)] - h[4];
                sums[static_cast<size_t>(i)] += activation * (weights[static_cast<size_t>(i % n * k + l)] - h[3]);
            }
        }
        const bool is_signed = layer >= 2, per_column = layer % 2 == 1;
        const auto count = static_cast<size_t>(per_column ? n : 1);
        const std::vector<int32_t> some(by.begin(), by.begin() + static_cast<int64_t>(count));
        const std::vector<int32_t> some_shifts(shifts.begin(), shifts.begin() + static_cast<int64_t>(count));
        const int32_t type = is_signed ? INT4Q_CODES_INT8 : INT4Q_CODES_UINT8;
        int4q_requantization r = Describe(type, n, some, some_shifts, bias.data(), h[5]);
        r.low = h[6], r.high = h[7];
        std::vector<uint8_t> codes(wanted.size());
        ASSERT_OK(int4q_requantize_rows(&r, sums.data(), n, m, codes.data(), codes.size(), 0, m));
        ASSERT_EQ(codes, wanted) << "layer " << layer;
        ASSERT_GT(m * n - std::count(wanted.begin(), wanted.end(), wanted[0]), m) << "a dull layer";
    }
    ASSERT_TRUE(vectors.AtEnd());
}

// ---- The definition --------------------------------------------------------------------------------------------------

TEST(Requantize, EqualsTheDefinitionForEveryTypeAndSplit) {
    Random random(11);
    for (int32_t type : kTypes) {
        for (int64_t n : {1, 2, 7, 15, 16, 17, 33, 511, 512, 513, 1041}) {
            for (int form = 0; form < 8; form++) {
                const bool per_column = form & 1, has_bias = form & 2, is_ordinary = form & 4;
                const int64_t m = 5, stride = n + form % 3;
                std::vector<int32_t> multipliers, shifts, bias;
                for (int64_t j = 0; j < (per_column ? n : 1); j++) {
                    multipliers.push_back(static_cast<int32_t>(random.Integer(is_ordinary ? 1 << 30 : kMin32, kMax32)));
                    shifts.push_back(static_cast<int32_t>(is_ordinary ? random.Integer(-24, -8) : random.Integer(-31, 30)));
                }
                for (int64_t j = 0; j < n; j++) {
                    bias.push_back(static_cast<int32_t>(random.Integer(kMin32, kMax32) >> (is_ordinary ? 12 : 0)));
                }
                int4q_requantization r = Describe(type, n, multipliers, shifts, has_bias ? bias.data() : nullptr);
                const auto code = [&] { return static_cast<int32_t>(random.Integer(Lowest(type), Highest(type))); };
                const int32_t ends[2] = {code(), code()};
                r.zero_point = code();
                if (form % 3) r.low = std::min(ends[0], ends[1]), r.high = std::max(ends[0], ends[1]);
                const auto sums_bytes = static_cast<size_t>((m - 1) * stride + n) * 4;
                GuardedBuffer sums(sums_bytes, form % 2 ? Placement::kLeft : Placement::kRight, 4);
                for (int64_t i = 0; i < (m - 1) * stride + n; i++) {
                    sums.as<int32_t>()[i] = static_cast<int32_t>(random.Integer(kMin32, kMax32) >> random.Integer(0, 20));
                }
                sums.ForbidWriting();
                const auto bytes = static_cast<size_t>(m * RowBytes(type, n));
                for (Placement placement : {Placement::kLeft, Placement::kRight}) {
                    GuardedBuffer codes(bytes, placement, type == INT4Q_CODES_INT32 ? 4 : 1);
                    ASSERT_OK(int4q_requantize_rows(&r, sums.as<int32_t>(), stride, m, codes.data(), bytes, 3, 5));
                    for (int64_t i = 0; i < 3 * RowBytes(type, n); i++) ASSERT_EQ(codes.data()[i], GuardedBuffer::kFill);
                    ASSERT_OK(int4q_requantize_rows(&r, sums.as<int32_t>(), stride, m, codes.data(), bytes, 0, 3));
                    ASSERT_OK(int4q_requantize_rows(&r, sums.as<int32_t>(), stride, m, codes.data(), bytes, 2, 2));
                    for (int64_t i = 0; i < m; i++) {
                        const unsigned char *const row = codes.data() + i * RowBytes(type, n);
                        for (int64_t j = 0; j < n; j++) {
                            const auto at = static_cast<size_t>(per_column ? j : 0);
                            const int32_t sum = sums.as<int32_t>()[i * stride + j];
                            const int32_t added = has_bias ? bias[static_cast<size_t>(j)] : 0;
                            ASSERT_EQ(CodeAt(row, type, j),
                                      Expected(sum, added, multipliers[at], shifts[at], r.zero_point, r.low, r.high))
                                << "type " << type << " n " << n << " form " << form << " row " << i << " column " << j;
                        }
                        if (IsPacked(type) && n % 2) {
                            ASSERT_EQ(row[n / 2] >> 4, 0);
                        }
                    }
                }
            }
        }
    }
}

TEST(Requantize, Int32InPlace) {
    Random random(12);
    const int64_t m = 3, n = 531;
    std::vector<int32_t> sums(static_cast<size_t>(m * n)), multipliers, shifts;
    for (int32_t &sum : sums) sum = static_cast<int32_t>(random.Integer(kMin32, kMax32));
    for (int32_t j = 0; j < n; j++) {
        multipliers.push_back(static_cast<int32_t>(random.Integer(kMin32, kMax32)));
        shifts.push_back(j % 40 - 31);
    }
    const int4q_requantization r = Describe(INT4Q_CODES_INT32, n, multipliers, shifts, nullptr, -5);
    std::vector<int32_t> results(sums.size()), again = sums;
    ASSERT_OK(int4q_requantize_rows(&r, sums.data(), n, m, results.data(), 4 * sums.size(), 0, m));
    ASSERT_OK(int4q_requantize_rows(&r, again.data(), n, m, again.data(), 4 * sums.size(), 0, m));
    ASSERT_EQ(results, again);
    ASSERT_NE(results, sums);
}

TEST(Requantize, MultipliersAreTheNearestFixedPointNumbers) {
    Random random(13);
    std::vector<double> values = {0.0, -0.0, 1.0, 0.5, 0.75, 1.5, 0.1, 1.0 / 3, 0x1p-31, 0x1p-32, std::nextafter(0x1p-32, 0),
                                  0x1.fffffffep-33, 0x1.fffffffffp-33, 0x1p-33, 5e-324, 0x1p-1022, 0x1.ffffffp29, 0x1.fffffffcp29,
                                  0x1.fffffffdfffffp29, 1 - 0x1p-31, 1 - 0x1p-32, 1 - 0x1p-33, 0.5 + 0x1p-33, 0.5 + 0x1p-32,
                                  std::nextafter(1.0, 0.0)};
    for (int i = 0; i < Samples(20000); i++) {
        values.push_back(std::ldexp(1 + random.Uniform(), static_cast<int>(random.Integer(-34, 28))));
    }
    const auto count = static_cast<int64_t>(values.size());
    std::vector<int32_t> multipliers(values.size()), shifts(values.size());
    ASSERT_OK(int4q_requantize_multiplier(values.data(), count, multipliers.data(), shifts.data()));
    for (size_t i = 0; i < values.size(); i++) {
        // TensorFlow Lite's QuantizeMultiplier, with the C library's functions.
        int shift = 0;
        const double fraction = std::frexp(values[i], &shift);
        auto wanted = static_cast<int64_t>(std::round(fraction * 0x1p31));
        if (wanted == int64_t{1} << 31) wanted /= 2, shift++;
        if (shift < -31) wanted = 0, shift = 0;
        ASSERT_EQ(multipliers[i], wanted) << values[i];
        ASSERT_EQ(shifts[i], shift) << values[i];
        if (wanted != 0) {
            ASSERT_NEAR(std::ldexp(wanted, shift - 31) / values[i], 1, 0x1p-31);
        }
    }
}

TEST(Requantize, CppWrapper) {
    int4q::Pool pool(2);
    const std::vector<int32_t> sums = {4, -4, 300, 1000, 8, 12}, wanted = {3, -1, 151, 501, 5, 7};
    int4q::Requantizer requantizer(INT4Q_CODES_INT32, 2, {0.5}, {0, 0}, 1);
    std::vector<int32_t> codes(6);
    requantizer.run(sums.data(), 3, codes.data(), 24, &pool);
    EXPECT_EQ(codes, wanted);
    int4q::Requantizer bytes(INT4Q_CODES_INT8, 2, {0.5, 1.0}, {2, 0});
    std::vector<int8_t> small(6);
    bytes.run(sums.data(), 3, small.data(), 6);
    EXPECT_EQ(small, (std::vector<int8_t>{3, -4, 127, 127, 5, 12}));
    bytes.limit(0, 100);
    bytes.run(sums.data(), 3, small.data(), 6);
    EXPECT_EQ(small, (std::vector<int8_t>{3, 0, 100, 100, 5, 12}));
    EXPECT_THROW(bytes.run(sums.data(), 3, small.data(), 5), int4q::Error);
    EXPECT_THROW(int4q::Requantizer(INT4Q_CODES_INT8, 2, {0.5}, {1, 2, 3}), int4q::Error);
    EXPECT_THROW(int4q::Requantizer(9, 2, {0.5}).run(sums.data(), 3, small.data(), 6), int4q::Error);
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

struct MultiplierCall {
    double numbers[4] = {0.25, 0.5, 3, 0.001};
    const double *values = numbers;
    int64_t count = 3;
    int32_t results[2][5] = {};
    int32_t *multipliers = results[0], *shifts = results[1];
    int4q_status Run() { return int4q_requantize_multiplier(values, count, multipliers, shifts); }
    std::string Outputs() const { return BytesOf(results); }
};

TEST(BadRequantizeArguments, Multiplier) {
    using C = MultiplierCall;
    BadTable<C> table;
    AddPointer(table, "values", &C::values, {1, 4});
    AddPointer(table, "multipliers", &C::multipliers, {1, 2});
    AddPointer(table, "shifts", &C::shifts, {1, 2});
    AddValues(table, "count", &C::count, {0, -1, kMin64});
    AddValues(table, "count", &C::count, {kMax64, int64_t{1} << 60}, kOverflow);
    const double infinity = std::numeric_limits<double>::infinity();
    const double below = std::nextafter(0x1p30, 0.0);
    for (double bad : {-1.0, -5e-324, 0x1p30, 0x1.ffffffffp29, below, 1e300, infinity, -infinity, std::nan("")}) {
        for (int place : {0, 2}) {
            table.push_back({"value " + std::to_string(bad), [=](C &c) { c.numbers[place] = bad; }, kInvalid, "values"});
        }
    }
    ExpectRefused<C>("int4q_requantize_multiplier", [] { return std::make_unique<C>(); }, table);
}

struct RowsCall {
    static constexpr int64_t kRows = 3, kColumns = 5;
    explicit RowsCall(int32_t type) {
        how.struct_size = sizeof how;
        how.codes_type = type;
        how.n = kColumns;
        how.multiplier_count = kColumns;
        how.multipliers = multipliers, how.shifts = shifts, how.bias = bias;
        how.low = static_cast<int32_t>(Lowest(type)), how.high = static_cast<int32_t>(Highest(type));
        codes_bytes = static_cast<uint64_t>(kRows * RowBytes(type, kColumns));
    }
    int32_t multipliers[6] = {1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30}, shifts[6] = {-1, -2, 0, 3, -31}, bias[6] = {};
    int32_t numbers[24] = {};
    alignas(8) unsigned char memory[80] = {};
    int4q_requantization how{}, other{};
    const int4q_requantization *requantization = &how;
    const int32_t *sums = numbers;
    int64_t sums_stride = 6, m = kRows, begin = 0, end = kRows;
    void *codes = memory;
    uint64_t codes_bytes;
    int4q_status Run() { return int4q_requantize_rows(requantization, sums, sums_stride, m, codes, codes_bytes, begin, end); }
    std::string Outputs() const { return BytesOf(memory); }
};

TEST(BadRequantizeArguments, Rows) {
    using C = RowsCall;
    using R = int4q_requantization;
    for (int32_t type : kTypes) {
        BadTable<R> fields;
        AddStructSizes(fields, &R::struct_size, sizeof(R));
        AddValues(fields, "reserved", &R::reserved, {1});
        AddEnumerators(fields, "codes_type", &R::codes_type, {0, 6, -1});
        AddValues(fields, "n", &R::n, {0, -1, kMin64});
        AddValues(fields, "n", &R::n, {kMax64}, kOverflow);
        AddValues(fields, "multiplier_count", &R::multiplier_count, {0, -1, 2, 4, 6, kMin64, kMax64});
        AddPointer(fields, "multipliers", &R::multipliers, {1, 2});
        AddPointer(fields, "shifts", &R::shifts, {1, 2});
        fields.push_back({"bias + 2", [](R &r) { r.bias = Shift(r.bias, 2); }, kMisaligned, "bias"});
        if (type != INT4Q_CODES_INT32) {
            for (int64_t beyond : {Lowest(type) - 1, Highest(type) + 1, int64_t{kMin32}, int64_t{kMax32}}) {
                AddValues(fields, "zero_point", &R::zero_point, {beyond});
                AddValues(fields, "low", &R::low, {beyond});
                AddValues(fields, "high", &R::high, {beyond});
            }
        }
        fields.push_back({"high below low", [=](R &r) { r.high = r.low, r.low++; }, kInvalid, "high"});
        BadTable<C> table;
        AddWithin(table, fields, [](C &c) -> R & { return c.how; });
        for (int32_t shift : {-32, 31, kMin32, kMax32}) {
            table.push_back({"shift " + std::to_string(shift), [=](C &c) { c.shifts[4] = shift; }, kInvalid, "shifts"});
        }
        AddPointer(table, "requantization", &C::requantization, {4});
        AddPointer(table, "sums", &C::sums, {1, 2});
        AddPointer(table, "codes", &C::codes, type == INT4Q_CODES_INT32 ? std::vector<int>{1, 2} : std::vector<int>{});
        AddTooSmall(table, "codes_bytes", &C::codes_bytes);
        AddValues(table, "m", &C::m, {0, -1, kMin64});
        AddValues(table, "m", &C::m, {kMax64, int64_t{1} << 62}, kOverflow, "sums_stride");
        AddValues(table, "sums_stride", &C::sums_stride, {0, 4, -6, kMin64});
        AddValues(table, "sums_stride", &C::sums_stride, {kMax64, int64_t{1} << 61}, kOverflow);
        AddRanges(table, C::kRows, "row_begin", "row_end");
        ExpectRefused<C>("int4q_requantize_rows", [=] { return std::make_unique<C>(type); }, table);
    }
}

}  // namespace
}  // namespace int4q_test
