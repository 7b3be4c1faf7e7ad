// SPDX-License-Identifier: Apache-2.0
// Calibration: section 10 of the header, against re-derivations in binary64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/bad_arguments.hpp"
#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;
constexpr uint32_t kMoments = INT4Q_OBSERVE_MOMENTS, kHistogram = INT4Q_OBSERVE_HISTOGRAM, kAverage = INT4Q_OBSERVE_AVERAGE;
constexpr int32_t kAxes[] = {INT4Q_AXIS_TENSOR, INT4Q_AXIS_CHANNEL, INT4Q_AXIS_TOKEN, INT4Q_AXIS_GROUP};
const float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

// ---- Observers -------------------------------------------------------------------------------------------------------

int4q_observer_desc Describe(int32_t axis, int64_t rows, int64_t columns, uint32_t observed, int64_t bins = 64,
                             int32_t group_size = 16) {
    int4q_observer_desc desc{};
    desc.struct_size = sizeof desc;
    desc.observed = observed;
    desc.axis = axis;
    desc.group_size = axis == INT4Q_AXIS_GROUP ? group_size : 0;
    desc.extent = axis == INT4Q_AXIS_TENSOR ? 0 : axis == INT4Q_AXIS_TOKEN ? rows : columns;
    desc.bins = observed & kHistogram ? bins : 0;
    desc.momentum = observed & kAverage ? 0.25f : 0;
    return desc;
}

// An observer between guard pages.
struct TestObserver {
    explicit TestObserver(const int4q_observer_desc &desc) : desc(desc) {
        uint64_t bytes = 0;
        EXPECT_OK(int4q_observer_size(&desc, &bytes));
        memory = GuardedBuffer(static_cast<size_t>(bytes), Placement::kRight, 64);
        EXPECT_OK(int4q_observer_init(&desc, memory.data(), bytes));
    }

    int4q_status Push(const Source &x) {
        return int4q_observer_push(memory.data(), memory.size(), x.buffer.data(), x.type, x.n, x.k, x.stride);
    }
    int4q_status Merge(const TestObserver &other) {
        return int4q_observer_merge(memory.data(), memory.size(), other.memory.data(), other.memory.size());
    }
    int4q_status Validate() const { return int4q_observer_validate(memory.data(), memory.size()); }
    int4q_observer_info Info() const {
        int4q_observer_info info{};
        info.struct_size = sizeof info;
        EXPECT_OK(int4q_observer_get_info(memory.data(), memory.size(), &info));
        return info;
    }
    std::vector<int4q_statistics> Statistics() const {
        std::vector<int4q_statistics> all(static_cast<size_t>(Info().slots));
        EXPECT_OK(int4q_observer_statistics(memory.data(), memory.size(), 0, Info().slots, all.data()));
        return all;
    }
    std::vector<int64_t> Counts(int64_t slot, int32_t form = INT4Q_HISTOGRAM_SIGNED) const {
        std::vector<int64_t> counts(static_cast<size_t>(desc.bins * (form == INT4Q_HISTOGRAM_SIGNED ? 2 : 1)));
        int4q_histogram histogram{};
        histogram.struct_size = sizeof histogram;
        EXPECT_OK(int4q_observer_histogram(memory.data(), memory.size(), slot, form, counts.data(),
                                           static_cast<int64_t>(counts.size()), &histogram));
        EXPECT_EQ(histogram.counts, counts.data());
        EXPECT_EQ(histogram.bins, static_cast<int64_t>(counts.size()));
        return counts;
    }
    std::string Bytes() const { return std::string(reinterpret_cast<const char *>(memory.data()), memory.size()); }

    int4q_observer_desc desc;
    GuardedBuffer memory;
};

size_t SlotOf(const int4q_observer_desc &desc, int64_t row, int64_t column) {
    switch (desc.axis) {
        case INT4Q_AXIS_CHANNEL: return static_cast<size_t>(column);
        case INT4Q_AXIS_TOKEN: return static_cast<size_t>(row);
        case INT4Q_AXIS_GROUP: return static_cast<size_t>(column / desc.group_size);
        default: return 0;
    }
}

// What an observer should say, from all values at once.
struct Expected {
    std::vector<double> values;

    int Exponent() const {
        double largest = 0;
        for (double v : values) largest = std::max(largest, std::fabs(v));
        return largest == 0 ? -100 : std::max(-100, std::ilogb(largest) + 1);
    }
    std::vector<int64_t> Counts(int64_t bins) const {
        std::vector<int64_t> counts(static_cast<size_t>(2 * bins));
        const double width = std::ldexp(1.0, Exponent()) / static_cast<double>(bins);
        for (double v : values) {
            const auto bin = static_cast<int64_t>(std::floor(std::fabs(v) / width));
            counts[static_cast<size_t>(v < 0 ? bins - 1 - bin : bins + bin)]++;
        }
        return counts;
    }
    double Sum(const std::function<double(double)> &term) const {
        long double sum = 0;
        for (double v : values) sum += term(v);
        return static_cast<double>(sum);
    }
};

void Fill(Source &source, Random &random, float scale, double bad = 0) {
    for (int64_t row = 0; row < source.n; row++) {
        for (int64_t column = 0; column < source.k; column++) {
            float value = random.Normal() * scale;
            if (random.Chance(0.1)) value = random.Chance(0.5) ? 0.0f : -0.0f;
            if (random.Chance(0.05)) value = scale * static_cast<float>(random.Integer(-4, 4)) * 0.25f;  // on edges
            if (random.Chance(bad)) value = random.Chance(0.5) ? kNaN : random.Chance(0.5) ? kInfinity : -kInfinity;
            source.Set(row, column, value);
        }
    }
}

TEST(Observer, StatisticsEqualTheRederivation) {
    Random random(1);
    for (int4q_type type : kTypes) {
        for (int32_t axis : kAxes) {
            for (int64_t columns : {1, 5, 16, 63, 257, 2100}) {
                for (double bad : {0.0, 0.02}) {
                    for (int4q_isa isa : UsableIsas()) {
                        IsaLimit limit(isa);
                        const int64_t rows = 3;
                        TestObserver observer(Describe(axis, rows, columns, kMoments | kHistogram));
                        std::vector<Expected> expected(static_cast<size_t>(observer.Info().slots));
                        int64_t not_finite = 0;
                        for (float scale : {1.0f, 0.01f, 1000.0f}) {
                            Source x(type, rows, columns, columns + (scale == 1.0f ? 0 : 3));
                            Fill(x, random, scale, bad);
                            x.buffer.ForbidWriting();
                            ASSERT_OK(observer.Push(x));
                            for (int64_t i = 0; i < rows * columns; i++) {
                                const float value = x(i / columns, i % columns);
                                not_finite += !std::isfinite(value);
                                if (std::isfinite(value)) expected[SlotOf(observer.desc, i / columns, i % columns)].values.push_back(value);
                            }
                        }
                        ASSERT_OK(observer.Validate());
                        ASSERT_EQ(observer.Info().not_finite, not_finite);
                        ASSERT_EQ(observer.Info().batches, 3);
                        const std::vector<int4q_statistics> all = observer.Statistics();
                        for (size_t slot = 0; slot < all.size(); slot++) {
                            const Expected &wanted = expected[slot];
                            ASSERT_EQ(all[slot].count, static_cast<int64_t>(wanted.values.size()));
                            if (wanted.values.empty()) continue;
                            ASSERT_EQ(all[slot].low, *std::min_element(wanted.values.begin(), wanted.values.end()));
                            ASSERT_EQ(all[slot].high, *std::max_element(wanted.values.begin(), wanted.values.end()));
                            ASSERT_FALSE(all[slot].low == 0 && std::signbit(all[slot].low));
                            const double magnitudes = wanted.Sum([](double v) { return std::fabs(v); });
                            const double squares = wanted.Sum([](double v) { return v * v; });
                            ASSERT_NEAR(all[slot].sum, wanted.Sum([](double v) { return v; }), 1e-13 * magnitudes);
                            ASSERT_NEAR(all[slot].sum_magnitudes, magnitudes, 1e-13 * magnitudes);
                            ASSERT_NEAR(all[slot].sum_squares, squares, 1e-13 * squares);
                            ASSERT_EQ(all[slot].bin_width, std::ldexp(1.0, wanted.Exponent()) / 64);
                            ASSERT_EQ(observer.Counts(static_cast<int64_t>(slot)), wanted.Counts(64));
                        }
                    }
                }
            }
        }
    }
}

// Counts and extremes to the bit, whatever the order, the split and the instruction set.
TEST(Observer, MergedEqualsWhole) {
    Random random(2);
    for (int32_t axis : kAxes) {
        for (int repeat = 0; repeat < Samples(8); repeat++) {
            const int4q_observer_desc desc = Describe(axis, 4, 50, kMoments | kHistogram, int64_t{16} << random.Integer(0, 8));
            TestObserver whole(desc), merged(desc);
            std::vector<std::unique_ptr<Source>> batches;
            for (int i = 0; i < 9; i++) {
                batches.push_back(std::make_unique<Source>(kTypes[random.Integer(0, 2)], 4, 50, 50));
                Fill(*batches.back(), random, std::ldexp(1.0f, static_cast<int>(random.Integer(-12, 12))), i % 3 ? 0 : 0.05);
            }
            for (const auto &batch : batches) ASSERT_OK(whole.Push(*batch));
            random.Shuffle(batches);
            for (size_t part = 0; part < 3; part++) {
                IsaLimit limit(random.Pick(UsableIsas()));
                TestObserver observer(desc);
                for (size_t i = part; i < batches.size(); i += 3) ASSERT_OK(observer.Push(*batches[i]));
                observer.memory.ForbidWriting();
                ASSERT_OK(merged.Merge(observer));
            }
            ASSERT_OK(merged.Validate());
            ASSERT_EQ(whole.Info().not_finite, merged.Info().not_finite);
            ASSERT_EQ(whole.Info().batches, merged.Info().batches);
            const auto a = whole.Statistics(), b = merged.Statistics();
            for (size_t slot = 0; slot < a.size(); slot++) {
                ASSERT_EQ(a[slot].count, b[slot].count);
                ASSERT_EQ(BitsOf(a[slot].low), BitsOf(b[slot].low));
                ASSERT_EQ(BitsOf(a[slot].high), BitsOf(b[slot].high));
                ASSERT_EQ(a[slot].bin_width, b[slot].bin_width);
                ASSERT_NEAR(a[slot].sum, b[slot].sum, 1e-14 * a[slot].sum_magnitudes);
                ASSERT_NEAR(a[slot].sum_squares, b[slot].sum_squares, 1e-14 * a[slot].sum_squares);
                ASSERT_EQ(whole.Counts(static_cast<int64_t>(slot)), merged.Counts(static_cast<int64_t>(slot)));
            }
        }
    }
}

TEST(Observer, EveryMagnitude) {
    TestObserver observer(Describe(INT4Q_AXIS_TENSOR, 0, 0, kHistogram, 65536));
    Expected expected;
    for (int exponent = -149; exponent <= 127; exponent++) {
        Source x(INT4Q_TYPE_F32, 1, 2, 2);
        x.Set(0, 0, std::ldexp(1.0f, exponent));
        x.Set(0, 1, -std::ldexp(1.9f, exponent));
        ASSERT_OK(observer.Push(x));
        for (int64_t i = 0; i < 2; i++) expected.values.push_back(x(0, i));
        if (exponent % 25 == 0) {
            ASSERT_EQ(observer.Counts(0), expected.Counts(65536));
            ASSERT_OK(observer.Validate());
        }
    }
    Source last(INT4Q_TYPE_F32, 1, 1, 1);
    last.Set(0, 0, -std::numeric_limits<float>::max());
    ASSERT_OK(observer.Push(last));
    expected.values.push_back(last(0, 0));
    EXPECT_EQ(observer.Counts(0), expected.Counts(65536));
    EXPECT_EQ(observer.Counts(0).front(), 1);
    const auto magnitudes = observer.Counts(0, INT4Q_HISTOGRAM_MAGNITUDES);
    EXPECT_EQ(std::accumulate(magnitudes.begin(), magnitudes.end(), int64_t{0}), 2 * 277 + 1);
}

// Batches large enough for the ways that only those take: several tables for a histogram, several rows at a time.
TEST(Observer, LargeBatchesEqualTheirRows) {
    Random random(8);
    for (int4q_type type : kTypes) {
        for (int32_t axis : {INT4Q_AXIS_TENSOR, INT4Q_AXIS_CHANNEL, INT4Q_AXIS_GROUP}) {
            for (uint32_t observed : {0u, kMoments, kHistogram, kMoments | kHistogram}) {
                for (int64_t gap : {0, 5}) {
                    for (double bad : {0.0, 1e-4}) {
                        const int64_t rows = 85, columns = gap ? 1003 : 1600;
                        Source x(type, rows, columns, columns + gap);
                        Fill(x, random, 1, bad);
                        for (int64_t column = 0; column < 700; column++) x.Set(40, column, x(40, column) * 64);  // wider bins halfway
                        for (int64_t row = 10; row < 20; row++) {
                            for (int64_t column = 0; column < columns; column++) x.Set(row, column, row % 2 ? 0.0f : -0.0f);
                        }
                        x.buffer.ForbidWriting();
                        int4q_observer_desc desc = Describe(axis, rows, columns, observed, 2048, 300);
                        if (axis == INT4Q_AXIS_CHANNEL && observed & kHistogram) desc.bins = 16;
                        TestObserver whole(desc), parts(desc);
                        ASSERT_OK(whole.Push(x));
                        for (int64_t row = 0; row < rows; row++) {
                            const void *place = x.buffer.data() + row * x.stride * TypeBytes(type);
                            ASSERT_OK(int4q_observer_push(parts.memory.data(), parts.memory.size(), place, type, 1, columns, columns));
                        }
                        ASSERT_OK(whole.Validate());
                        ASSERT_EQ(whole.Info().not_finite, parts.Info().not_finite);
                        const auto a = whole.Statistics(), b = parts.Statistics();
                        for (size_t slot = 0; slot < a.size(); slot++) {
                            ASSERT_EQ(a[slot].count, b[slot].count);
                            ASSERT_EQ(BitsOf(a[slot].low), BitsOf(b[slot].low));
                            ASSERT_EQ(BitsOf(a[slot].high), BitsOf(b[slot].high));
                            ASSERT_NEAR(a[slot].sum, b[slot].sum, 1e-13 * a[slot].sum_magnitudes);
                            ASSERT_NEAR(a[slot].sum_squares, b[slot].sum_squares, 1e-13 * a[slot].sum_squares);
                            if (observed & kHistogram && (slot < 3 || slot == 699)) {
                                ASSERT_EQ(whole.Counts(static_cast<int64_t>(slot)), parts.Counts(static_cast<int64_t>(slot)));
                            }
                        }
                    }
                }
            }
        }
    }
}

// Channels take blocks of rows and columns at a time, where histograms are kept. Every byte but the number of batches is what rows
// one by one give, sums too: a channel's elements are added in their order.
TEST(Observer, ChannelsInBlocksEqualTheirRows) {
    Random random(21);
    for (int trial = 0; trial < Samples(120); trial++) {
        const int64_t rows = random.Integer(1, 150), columns = random.Integer(1, 70), gap = random.Integer(0, 3);
        const auto type = static_cast<int4q_type>(random.Integer(INT4Q_TYPE_F32, INT4Q_TYPE_BF16));
        Source x(type, rows, columns, columns + gap);
        Fill(x, random, 1, random.Chance(0.5) ? 0.001 : 0.0);
        for (int64_t row = 0; row < rows; row++) {
            if (random.Chance(0.1)) x.Set(row, random.Integer(0, columns - 1), std::ldexp(1.0f, static_cast<int>(random.Integer(-10, 10))));
        }
        x.buffer.ForbidWriting();
        const uint32_t observed = kHistogram | (random.Chance(0.5) ? kMoments : 0u);
        TestObserver whole(Describe(INT4Q_AXIS_CHANNEL, rows, columns, observed, int64_t{16} << random.Integer(0, 8))), parts(whole.desc);
        ASSERT_OK(whole.Push(x));
        for (int64_t row = 0; row < rows; row++) {
            const void *place = x.buffer.data() + row * x.stride * TypeBytes(type);
            ASSERT_OK(int4q_observer_push(parts.memory.data(), parts.memory.size(), place, type, 1, columns, columns));
        }
        ASSERT_OK(whole.Validate());
        const std::string a = whole.Bytes(), b = parts.Bytes();
        ASSERT_EQ(a.substr(0, 64), b.substr(0, 64));
        ASSERT_TRUE(a.substr(72) == b.substr(72)) << rows << " x " << columns << " trial " << trial;
    }
}

// No count of sixteen bits overflows where nearly all values share a bin.
TEST(Observer, ManyEqualValues) {
    const int64_t count = int64_t{1} << 20;
    std::vector<float> x(static_cast<size_t>(count), 0.25f);
    for (size_t i = 0; i < x.size(); i += 1000) x[i] = -0.75f;
    TestObserver observer(Describe(INT4Q_AXIS_TENSOR, 0, 0, kHistogram, 2048));
    ASSERT_OK(int4q_observer_push(observer.memory.data(), observer.memory.size(), x.data(), INT4Q_TYPE_F32, 1, count, count));
    ASSERT_OK(int4q_observer_push(observer.memory.data(), observer.memory.size(), x.data() + 1, INT4Q_TYPE_F32, 1, count - 1, count));
    const auto counts = observer.Counts(0);
    EXPECT_EQ(counts[2048 + 512], 2 * (count - 1049) + 0);
    EXPECT_EQ(counts[2047 - 1536], 1049 + 1048);
    ASSERT_OK(observer.Validate());
}

TEST(Observer, MovingAverages) {
    for (int32_t axis : kAxes) {
        TestObserver observer(Describe(axis, 1, 1, kAverage));
        double low = 0;
        int pushed = 0;
        for (float value : {-3.0f, 8.0f, kNaN, 0.5f}) {
            Source x(INT4Q_TYPE_F32, 1, 1, 1);
            x.Set(0, 0, value);
            ASSERT_OK(observer.Push(x));
            ASSERT_OK(observer.Validate());
            if (std::isfinite(value)) low = pushed++ == 0 ? value : low + 0.25 * (value - low);
            ASSERT_EQ(observer.Statistics()[0].average_low, static_cast<float>(low));
            ASSERT_EQ(observer.Statistics()[0].average_high, static_cast<float>(low));
        }
        TestObserver other(observer.desc);
        EXPECT_FAILS(observer.Merge(other), INT4Q_ERROR_UNSUPPORTED, "int4q_observer_merge", "into");
    }
}

TEST(Observer, SavedBytesAreUsedAnywhere) {
    Random random(3);
    Source x(INT4Q_TYPE_BF16, 4, 70, 70);
    Fill(x, random, 3);
    TestObserver first(Describe(INT4Q_AXIS_GROUP, 4, 70, kMoments | kHistogram)), second(first.desc);
    ASSERT_OK(first.Push(x));
    std::memcpy(second.memory.data(), first.memory.data(), first.memory.size());
    ASSERT_OK(second.Validate());
    ASSERT_OK(first.Push(x));
    ASSERT_OK(second.Push(x));
    EXPECT_EQ(first.Bytes(), second.Bytes());
    EXPECT_EQ(first.Info().total_bytes, first.memory.size());
}

// Bytes from elsewhere: nothing outside them is touched, whatever they say.
TEST(Observer, CutBytesAreRefused) {
    TestObserver observer(Describe(INT4Q_AXIS_CHANNEL, 1, 3, kMoments | kHistogram, 16));
    const std::string bytes = observer.Bytes();
    for (size_t size = 0; size < bytes.size(); size += size < 200 ? 1 : 64) {
        GuardedBuffer cut(size / 64 * 64 + 64, Placement::kRight, 64);
        std::memcpy(cut.data(), bytes.data(), std::min(cut.size(), bytes.size()));
        EXPECT_FAILS(int4q_observer_validate(cut.data(), size), kTooSmall, "int4q_observer_validate", "observer_bytes");
    }
}

TEST(Observer, DamagedBytesAreRefusedOrHarmless) {
    Random random(4);
    for (int32_t axis : kAxes) {
        for (uint32_t observed : {kMoments | kHistogram, kAverage | kHistogram}) {
            Source x(INT4Q_TYPE_F32, 2, 40, 40);
            Fill(x, random, 2, 0.02);
            TestObserver sound(Describe(axis, 2, 40, observed, 16));
            ASSERT_OK(sound.Push(x));
            const std::string bytes = sound.Bytes();
            for (int i = 0; i < Samples(3000); i++) {
                TestObserver damaged(sound.desc), target(sound.desc);
                const bool in_header = random.Chance(0.5);
                const auto place = static_cast<size_t>(random.Integer(0, in_header ? 127 : static_cast<int64_t>(bytes.size()) - 1));
                std::memcpy(damaged.memory.data(), bytes.data(), bytes.size());
                damaged.memory.data()[place] ^= static_cast<unsigned char>(1u << random.Integer(0, 7));
                if (random.Chance(0.3)) {
                    const size_t from = random.Chance(0.5) ? 128 : 192;
                    for (size_t j = from; j < bytes.size(); j++) damaged.memory.data()[j] = static_cast<unsigned char>(random.Bits());
                }
                const int4q_status status = damaged.Validate();
                // No call reads or writes outside, even without validating.
                const int4q_status pushed = damaged.Push(x);
                EXPECT_TRUE(pushed == INT4Q_OK || pushed == kCorrupt || pushed == INT4Q_ERROR_BLOB_VERSION || pushed == kTooSmall ||
                            pushed == kMismatch);
                const int4q_status merged = target.Merge(damaged);
                if (status == INT4Q_OK && pushed == INT4Q_OK && !(observed & kAverage)) {
                    EXPECT_TRUE(merged == INT4Q_OK || merged == kCorrupt || merged == kMismatch || merged == kOverflow);
                }
            }
        }
    }
}

TEST(Observer, DamagedHeadersAreRefused) {
    TestObserver observer(Describe(INT4Q_AXIS_GROUP, 1, 40, kMoments | kHistogram, 16));
    const std::string bytes = observer.Bytes();
    const auto expect = [&](size_t place, int value, int4q_status wanted) {
        std::memcpy(observer.memory.data(), bytes.data(), bytes.size());
        observer.memory.data()[place] = static_cast<unsigned char>(value);
        const char *argument = wanted == kTooSmall ? "observer_bytes" : "observer";
        EXPECT_FAILS(observer.Validate(), wanted, "int4q_observer_validate", argument);
    };
    for (size_t place = 0; place < 8; place++) expect(place, 0x7f, kCorrupt);
    expect(8, 2, INT4Q_ERROR_BLOB_VERSION);
    for (size_t place : {12, 15}) expect(place, 1, kCorrupt);   // reserved
    expect(16, 41, kCorrupt);                                   // struct_size
    expect(20, 0x10, kCorrupt);                                 // observed
    for (int axis : {0, 1, 2, 5}) expect(24, axis, kCorrupt);   // axis
    for (int size : {0, 8}) expect(28, size, kCorrupt);         // group_size, by the total
    for (size_t place : {32, 39}) expect(place, 0xff, kCorrupt);  // extent
    for (size_t place : {40, 47}) expect(place, 0x80, kCorrupt);  // bins
    expect(51, 0x3f, kCorrupt);                                 // momentum
    expect(56, 0x3f, kCorrupt);                                   // total
    expect(71, 0x80, kCorrupt);                                 // batches
    expect(79, 0x80, kCorrupt);                                 // not finite
    for (size_t place = 80; place < 128; place++) expect(place, 1, kCorrupt);
}

TEST(Observer, HugeDescriptionsAreRefused) {
    uint64_t bytes = 0;
    int4q_observer_desc desc = Describe(INT4Q_AXIS_CHANNEL, 0, kMax64, 0);
    EXPECT_FAILS(int4q_observer_size(&desc, &bytes), kOverflow, "int4q_observer_size", "extent");
    desc = Describe(INT4Q_AXIS_TOKEN, int64_t{1} << 45, 0, kHistogram, 65536);
    EXPECT_FAILS(int4q_observer_size(&desc, &bytes), kOverflow, "int4q_observer_size", "extent");
    desc = Describe(INT4Q_AXIS_GROUP, 0, kMax64, kMoments, 0, kMax32);
    EXPECT_OK(int4q_observer_size(&desc, &bytes));
    desc.group_size = 1;
    EXPECT_FAILS(int4q_observer_size(&desc, &bytes), kOverflow, "int4q_observer_size", "extent");
}

// ---- Ranges ----------------------------------------------------------------------------------------------------------

int4q_histogram MakeHistogram(const std::vector<int64_t> &counts, double lowest, double width) {
    return int4q_histogram{sizeof(int4q_histogram), 0, counts.data(), static_cast<int64_t>(counts.size()), lowest, width,
                           static_cast<float>(lowest), static_cast<float>(lowest + width * static_cast<double>(counts.size()))};
}

TEST(Range, Percentiles) {
    const std::vector<int64_t> counts = {10, 0, 30, 50, 9, 1};
    int4q_histogram histogram = MakeHistogram(counts, -3, 1);
    int4q_range range;
    const auto expect = [&](int32_t form, double percentile, float low, float high, double score) {
        ASSERT_OK(int4q_range_percentile(&histogram, form, percentile, &range));
        EXPECT_EQ(range.low, low) << percentile;
        EXPECT_EQ(range.high, high) << percentile;
        EXPECT_EQ(range.score, score) << percentile;
    };
    expect(INT4Q_HISTOGRAM_SIGNED, 100, -3, 2, 0.99);
    expect(INT4Q_HISTOGRAM_SIGNED, 98, -3, 1, 0.90);
    expect(INT4Q_HISTOGRAM_SIGNED, 50, -1, 0, 0.30);
    expect(INT4Q_HISTOGRAM_SIGNED, 0, 0, 0, 0);
    histogram.lowest = 0, histogram.low = -4, histogram.high = 4.5f;
    expect(INT4Q_HISTOGRAM_MAGNITUDES, 90, -3, 3, 0.40);
    expect(INT4Q_HISTOGRAM_MAGNITUDES, 100, -4, 4.5f, 0.99);
}

TEST(Range, EntropyOfOneBinAndOfFew) {
    for (const std::vector<int64_t> &counts : {std::vector<int64_t>{0, 7}, {1, 1}, {0, 0, 5, 0}, {3, 0, 0, 0}, {1, 2, 3}}) {
        const int4q_histogram histogram = MakeHistogram(counts, -1, 0.5);
        uint64_t bytes = 0;
        ASSERT_OK(int4q_range_entropy_scratch(histogram.bins, &bytes));
        GuardedBuffer scratch(static_cast<size_t>(bytes), Placement::kRight, 64);
        int4q_range range;
        ASSERT_OK(int4q_range_entropy(&histogram, 2, scratch.data(), bytes, &range));
        EXPECT_GE(range.low_edge, 0);
        EXPECT_LE(range.high_edge, histogram.bins);
        EXPECT_LT(range.low, range.high);
    }
}

// A uniform distribution has no tails to clip: its whole range loses nothing.
TEST(Range, EntropyKeepsAUniformDistribution) {
    const std::vector<int64_t> counts(512, 40);
    const int4q_histogram histogram = MakeHistogram(counts, -256, 1);
    GuardedBuffer scratch(513 * 16, Placement::kRight, 64);
    int4q_range range;
    ASSERT_OK(int4q_range_entropy(&histogram, 16, scratch.data(), scratch.size(), &range));
    EXPECT_EQ(range.low, -256);
    EXPECT_EQ(range.high, 256);
    EXPECT_NEAR(range.score, 0, 1e-12);
}

int4q_range_search MakeSearch(int32_t lowest, int32_t highest, double divisor, double norm) {
    return int4q_range_search{sizeof(int4q_range_search), 0, lowest, highest, divisor, norm, 100, 80};
}

TEST(Range, LeastErrorClipsWhatIsRare) {
    std::vector<int64_t> counts(64, 1000);
    for (size_t i = 0; i < 16; i++) counts[i] = counts[63 - i] = 0;
    counts[0] = counts[63] = 1;
    const int4q_histogram histogram = MakeHistogram(counts, -2, 1.0 / 16);
    int4q_range range;
    for (double norm : {1.0, 2.0, 2.4}) {
        const int4q_range_search search = MakeSearch(-8, 7, 7.5, norm);
        ASSERT_OK(int4q_range_of_least_error(&histogram, &search, &range));
        EXPECT_LT(range.high, 1.3f);
        EXPECT_EQ(range.low, -range.high);
    }
    // Values on the grid: nothing to gain.
    std::vector<int64_t> grid = {0, 5, 5, 5};
    int4q_histogram exact{sizeof exact, 0, grid.data(), 4, -0.5, 1, 0, 3};
    const int4q_range_search search = MakeSearch(0, 3, 0, 2);
    ASSERT_OK(int4q_range_of_least_error(&exact, &search, &range));
    EXPECT_EQ(range.low, 0);
    EXPECT_EQ(range.high, 3);
    EXPECT_EQ(range.score, 0);
    exact.low = exact.high = 0;  // no range at all
    ASSERT_OK(int4q_range_of_least_error(&exact, &search, &range));
    EXPECT_EQ(range.high, 0);
}

// ---- Analytic clipping -----------------------------------------------------------------------------------------------

TEST(Aciq, Constants) {
    double clip = 0, mse = 0;
    ASSERT_OK(int4q_aciq_clip(INT4Q_DISTRIBUTION_LAPLACE, 4, 1, &clip, &mse));
    EXPECT_NEAR(clip, 5.03, 0.005);
    EXPECT_NEAR(clip, 3 * 256 * std::exp(-clip), 1e-12);  // where the derivative is zero
    EXPECT_NEAR(mse, 0.04602, 5e-6);
    ASSERT_OK(int4q_aciq_clip(INT4Q_DISTRIBUTION_GAUSS, 4, 1, &clip, &mse));
    EXPECT_NEAR(clip, 2.56, 0.005);
    EXPECT_NEAR(mse, 0.01049, 5e-6);
    ASSERT_OK(int4q_aciq_clip(INT4Q_DISTRIBUTION_GAUSS, 4, 3, nullptr, &mse));
    EXPECT_NEAR(mse, 9 * 0.01049, 5e-5);
    ASSERT_OK(int4q_aciq_clip(INT4Q_DISTRIBUTION_GAUSS, 4, 3, &clip, nullptr));
}

TEST(Aciq, BitsAddUp) {
    Random random(5);
    for (int i = 0; i < Samples(300); i++) {
        std::vector<double> clips(static_cast<size_t>(random.Integer(1, 40)));
        for (double &clip : clips) clip = random.Chance(0.2) ? 1.0 : std::exp2(static_cast<double>(random.Normal()) * 3);
        const auto count = static_cast<int64_t>(clips.size());
        const int64_t total = random.Integer(2 * count, 8 * count);
        std::vector<int32_t> bits(clips.size());
        ASSERT_OK(int4q_aciq_share_bits(clips.data(), count, 2, 8, total, bits.data()));
        ASSERT_EQ(std::accumulate(bits.begin(), bits.end(), int64_t{0}), total);
        for (size_t a = 0; a < bits.size(); a++) {
            ASSERT_GE(bits[a], 2);
            ASSERT_LE(bits[a], 8);
            for (size_t b = 0; b < bits.size(); b++) {
                if (clips[a] > clips[b]) {
                    ASSERT_GE(bits[a], bits[b]);
                }
                if (clips[a] == clips[b] && a < b) {
                    ASSERT_GE(bits[a], bits[b]);
                }
            }
        }
    }
    const double extremes[] = {5e-324, 1.7e308, 0};
    int32_t bits[3];
    ASSERT_OK(int4q_aciq_share_bits(extremes, 3, 0, 16, 1000, bits));
    EXPECT_EQ(bits[0], 16);
    EXPECT_EQ(bits[1], 16);
    EXPECT_EQ(bits[2], 0);
}

// ---- Diagnosis and repair --------------------------------------------------------------------------------------------

TEST(Diagnosis, CodesErrorsAndBiasOfEveryScheme) {
    Random random(6);
    for (int4q_type type : kTypes) {
        for (int32_t group_size : kAllGroupSizes) {
            for (int64_t k : {1, 17, 130, 301}) {
                for (const int4q_scheme &scheme : AllSchemes(group_size, INT4Q_TYPE_F32)) {
                    const int64_t n = 5;
                    Source source(type, n, k, k + 2);
                    for (int64_t i = 0; i < n * k; i++) source.Set(i / k, i % k, i / k == 2 ? 0.25f : 0.02f + 0.1f * random.Normal());
                    source.buffer.ForbidWriting();
                    TensorMemory tensor(scheme, n, k);
                    ASSERT_OK(source.Quantize(tensor));
                    std::vector<float> back(static_cast<size_t>(n * k));
                    ASSERT_OK(int4q_dequantize_rows(tensor.get(), back.data(), INT4Q_TYPE_F32, k, 0, n));
                    const auto groups = static_cast<size_t>(n * tensor.groups());
                    std::vector<double> group_errors(groups), group_squares(groups), row_errors(n), row_squares(n), means(k), wanted(n),
                        corrections(n), shifts(n), ratios(n);
                    for (double &mean : means) mean = static_cast<double>(random.Normal());
                    for (int64_t cut : {0, 2}) {
                        const int64_t begin = cut, end = cut == 0 ? 2 : n;
                        ASSERT_OK(int4q_diagnose_errors(tensor.get(), source.buffer.data(), type, k + 2, group_errors.data(),
                                                        group_squares.data(), row_errors.data(), row_squares.data(), begin, end));
                        ASSERT_OK(int4q_bias_output(tensor.get(), source.buffer.data(), type, k + 2, means.data(), corrections.data(),
                                                    begin, end));
                        ASSERT_OK(int4q_bias_measure(tensor.get(), source.buffer.data(), type, k + 2, shifts.data(), ratios.data(),
                                                     begin, end));
                    }
                    const int64_t length = group_size == INT4Q_GROUP_PER_ROW ? k : group_size;
                    std::vector<double> errors(groups);
                    for (int64_t row = 0; row < n; row++) {
                        double error = 0, square = 0, output = 0, magnitude = 0;
                        for (int64_t column = 0; column < k; column++) {
                            const double weight = source(row, column);
                            const double distance = weight - back[static_cast<size_t>(row * k + column)];
                            errors[static_cast<size_t>(row * tensor.groups() + column / length)] += distance * distance;
                            error += distance * distance;
                            square += weight * weight;
                            output += distance * means[static_cast<size_t>(column)];
                            magnitude += std::fabs(distance * means[static_cast<size_t>(column)]);
                        }
                        const auto at = static_cast<size_t>(row);
                        ASSERT_NEAR(row_errors[at], error, 1e-12 * error + 1e-300) << Name(scheme);
                        ASSERT_NEAR(row_squares[at], square, 1e-12 * square);
                        ASSERT_NEAR(corrections[at], output, 1e-12 * magnitude + 1e-300);
                        ASSERT_GT(ratios[at], 0);
                    }
                    for (size_t i = 0; i < groups; i++) ASSERT_NEAR(group_errors[i], errors[i], 1e-12 * errors[i] + 1e-300);

                    int4q_code_report report{};
                    report.struct_size = sizeof report;
                    ASSERT_OK(int4q_diagnose_codes(tensor.get(), 1e-5f, 0, n, &report));
                    ASSERT_EQ(std::accumulate(report.code_counts, report.code_counts + 16, int64_t{0}), n * k);
                    ASSERT_EQ(report.groups, static_cast<int64_t>(groups));
                    if (k > 1) {
                        ASSERT_GE(report.rows_of_one_code, 1) << Name(scheme);
                    }

                    const bool has_offsets = scheme.kind == INT4Q_KIND_OFFSET;
                    ASSERT_OK(int4q_bias_apply(tensor.get(), has_offsets ? shifts.data() : nullptr, ratios.data(), 0, n));
                    ASSERT_OK(int4q_dequantize_rows(tensor.get(), back.data(), INT4Q_TYPE_F32, k, 0, n));
                    std::vector<double> more_shifts(n), more_ratios(n);
                    ASSERT_OK(int4q_bias_measure(tensor.get(), source.buffer.data(), type, k + 2, more_shifts.data(), more_ratios.data(),
                                                 0, n));
                    for (size_t row = 0; row < static_cast<size_t>(n); row++) {
                        if (row_errors[row] > 1e-10) {
                            ASSERT_NEAR(more_ratios[row], 1, 1e-4) << Name(scheme);
                        }
                        if (has_offsets) {
                            ASSERT_NEAR(more_shifts[row], 0, 1e-6);
                        }
                    }
                }
            }
        }
    }
}

TEST(Diagnosis, LargestElements) {
    Random random(7);
    for (int4q_type type : kTypes) {
        for (int64_t columns : {1, 3, 256, 700}) {
            Source source(type, 9, columns, columns + 1);
            std::vector<std::pair<float, int64_t>> order;
            for (int64_t i = 0; i < 9 * columns; i++) {
                source.Set(i / columns, i % columns, 0.5f * static_cast<float>(random.Integer(-20, 20)));
                order.emplace_back(-std::fabs(source(i / columns, i % columns)), i);
            }
            source.buffer.ForbidWriting();
            std::sort(order.begin(), order.end());
            for (int64_t capacity : {int64_t{1}, int64_t{2}, int64_t{50}, 9 * columns, 9 * columns + 5}) {
                GuardedBuffer memory(static_cast<size_t>(capacity) * sizeof(int4q_element), Placement::kRight, 8);
                int64_t count = 0;
                ASSERT_OK(int4q_find_largest(source.buffer.data(), type, 9, columns, columns + 1, memory.as<int4q_element>(), capacity,
                                             &count));
                ASSERT_EQ(count, std::min(capacity, 9 * columns));
                for (int64_t i = 0; i < count; i++) {
                    const int4q_element &element = memory.as<int4q_element>()[i];
                    ASSERT_EQ(element.row * columns + element.column, order[static_cast<size_t>(i)].second);
                    ASSERT_EQ(element.value, source(element.row, element.column));
                    ASSERT_EQ(element.reserved, 0u);
                }
            }
        }
    }
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

struct DescCall {
    int4q_observer_desc descs[2] = {Describe(INT4Q_AXIS_GROUP, 0, 40, kMoments | kHistogram | kAverage, 16), {}};
    const int4q_observer_desc *desc = descs;
    uint64_t sizes[2] = {};
    alignas(64) unsigned char memory[8192] = {};
    void *observer = memory;
    uint64_t *bytes = sizes, capacity = 0;
    DescCall() {
        EXPECT_OK(int4q_observer_size(desc, &capacity));
        EXPECT_LE(capacity, sizeof memory - 64);
    }
    std::string Outputs() const { return BytesOf(sizes) + BytesOf(memory); }
};

template <typename C>
void AddDescs(BadTable<C> &table) {
    using D = int4q_observer_desc;
    BadTable<D> fields;
    AddStructSizes(fields, &D::struct_size, sizeof(D));
    AddValues(fields, "reserved", &D::reserved, {1});
    AddValues(fields, "observed", &D::observed, {8, 15, UINT32_MAX});
    AddEnumerators(fields, "axis", &D::axis, {0, 5, -1});
    AddValues(fields, "group_size", &D::group_size, {0, -1, kMin32});
    AddValues(fields, "extent", &D::extent, {0, -1, kMin64});
    AddValues(fields, "extent", &D::extent, {kMax64}, kOverflow);
    AddValues(fields, "bins", &D::bins, {0, 1, 8, 15, 17, 48, 131072, -16, kMin64, kMax64});
    for (float bad : {0.0f, -0.5f, 1.5f, kNaN, kInfinity}) {
        fields.push_back({"momentum " + std::to_string(bad), [=](D &d) { d.momentum = bad; }, kInvalid, "momentum"});
    }
    fields.push_back({"group_size with CHANNEL", [](D &d) { d.axis = INT4Q_AXIS_CHANNEL; }, kInvalid, "group_size"});
    fields.push_back({"extent with TENSOR", [](D &d) { d.axis = INT4Q_AXIS_TENSOR, d.group_size = 0; }, kInvalid, "extent"});
    fields.push_back({"bins without HISTOGRAM", [](D &d) { d.observed = kAverage; }, kInvalid, "bins"});
    fields.push_back({"momentum without AVERAGE", [](D &d) { d.observed = kHistogram; }, kInvalid, "momentum"});
    AddWithin(table, fields, [](C &c) -> D & { return c.descs[0]; });
    AddPointer(table, "desc", &C::desc, {4});
}

struct SizeCall : DescCall {
    int4q_status Run() { return int4q_observer_size(desc, bytes); }
};

TEST(BadCalibrationArguments, ObserverSize) {
    BadTable<SizeCall> table;
    AddDescs(table);
    AddPointer(table, "bytes", &SizeCall::bytes, {4});
    ExpectRefused<SizeCall>("int4q_observer_size", [] { return std::make_unique<SizeCall>(); }, table);
}

struct InitCall : DescCall {
    int4q_status Run() { return int4q_observer_init(desc, observer, capacity); }
};

TEST(BadCalibrationArguments, ObserverInit) {
    BadTable<InitCall> table;
    AddDescs(table);
    AddPointer(table, "observer", &InitCall::observer, {1, 8, 32});
    AddTooSmall(table, "observer_bytes", &InitCall::capacity);
    ExpectRefused<InitCall>("int4q_observer_init", [] { return std::make_unique<InitCall>(); }, table);
}

// Two observers of 4 x 20 batches in groups, which have seen one.
struct ObserverCall {
    alignas(64) float batch[4 * 21 + 1];
    alignas(64) unsigned char first[4096] = {}, second[4096] = {};
    void *observer = first, *other = second;
    uint64_t bytes = 0, other_bytes = 0;
    void *x = batch;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t rows = 4, columns = 20, ldx = 21, begin = 0, end = 2, slot = 1;
    int4q_statistics statistics[3] = {};
    int4q_statistics *result = statistics;
    int4q_observer_info infos[2] = {};
    int4q_observer_info *info = infos;
    int64_t counts[33] = {};
    int64_t *count_target = counts, capacity = 32;
    int4q_histogram histograms[2] = {};
    int4q_histogram *histogram = histograms;
    int32_t form = INT4Q_HISTOGRAM_SIGNED;

    ObserverCall() {
        for (int i = 0; i < 4 * 21 + 1; i++) batch[i] = static_cast<float>(i % 7) - 3;
        const int4q_observer_desc desc = Describe(INT4Q_AXIS_GROUP, 4, 20, kMoments | kHistogram, 16);
        EXPECT_OK(int4q_observer_size(&desc, &bytes));
        EXPECT_LE(bytes, sizeof first);
        other_bytes = bytes;
        for (void *memory : {observer, other}) {
            EXPECT_OK(int4q_observer_init(&desc, memory, bytes));
            EXPECT_OK(int4q_observer_push(memory, bytes, x, type, rows, columns, ldx));
        }
        infos[0].struct_size = sizeof infos[0];
        histograms[0].struct_size = sizeof histograms[0];
    }
    // Damage to the observers is wanted, writing into them is not: only what Run() may write is compared.
    std::string Outputs() const {
        return std::string(reinterpret_cast<const char *>(first) + 128, sizeof first - 128) + BytesOf(second) + BytesOf(statistics) +
               BytesOf(counts);
    }
};

template <typename C>
void AddObserver(BadTable<C> &table, const char *name = "observer", const char *bytes_name = "observer_bytes") {
    AddPointer(table, name, &C::observer, {1, 4, 32});
    AddTooSmall(table, bytes_name, &C::bytes);
    const auto damage = [&](size_t place, unsigned char value, int4q_status status) {
        table.push_back({"header byte " + std::to_string(place), [=](C &c) { c.first[place] = value; }, status, name});
    };
    damage(0, 0, kCorrupt);
    damage(8, 9, INT4Q_ERROR_BLOB_VERSION);
    for (size_t place : {12, 16, 20, 24, 28, 32, 40, 48, 52, 56, 100}) damage(place, 0x77, kCorrupt);
}

struct PushCall : ObserverCall {
    int4q_status Run() { return int4q_observer_push(observer, bytes, x, type, rows, columns, ldx); }
};

TEST(BadCalibrationArguments, ObserverPush) {
    BadTable<PushCall> table;
    AddObserver(table);
    AddMatrix(table, "x", &PushCall::x, &PushCall::type, "x_type", &PushCall::ldx, "ldx", 20);
    AddValues(table, "rows", &PushCall::rows, {0, -1, kMin64});
    AddValues(table, "columns", &PushCall::columns, {0, -1, kMin64});
    AddValues(table, "columns", &PushCall::columns, {1, 19, 21}, kMismatch);
    AddValues(table, "ldx", &PushCall::columns, {22, kMax64});
    AddValues(table, "ldx", &PushCall::rows, {kMax64}, kOverflow);
    ExpectRefused<PushCall>("int4q_observer_push", [] { return std::make_unique<PushCall>(); }, table);
}

struct MergeCall : ObserverCall {
    int4q_status Run() { return int4q_observer_merge(observer, bytes, other, other_bytes); }
};

TEST(BadCalibrationArguments, ObserverMerge) {
    BadTable<MergeCall> table;
    AddObserver(table, "into", "into_bytes");
    AddPointer(table, "from", &MergeCall::other, {1, 4, 32});
    AddTooSmall(table, "from_bytes", &MergeCall::other_bytes);
    table.push_back({"a negative count", [](MergeCall &c) { c.second[135] = 0x80; }, kCorrupt, "from"});
    table.push_back({"another count", [](MergeCall &c) { c.second[128]++; }, kCorrupt, "from"});
    table.push_back({"a low of NaN", [](MergeCall &c) { c.second[194] = 0xff, c.second[195] = 0x7f; }, kCorrupt, "from"});
    table.push_back({"other bins", [](MergeCall &c) {
                         const int4q_observer_desc desc = Describe(INT4Q_AXIS_GROUP, 4, 20, kMoments | kHistogram, 32);
                         c.other_bytes = sizeof c.second;
                         EXPECT_OK(int4q_observer_init(&desc, c.second, sizeof c.second));
                     }, kMismatch, "from"});
    ExpectRefused<MergeCall>("int4q_observer_merge", [] { return std::make_unique<MergeCall>(); }, table);
}

struct ValidateCall : ObserverCall {
    int4q_status Run() { return int4q_observer_validate(observer, bytes); }
};

TEST(BadCalibrationArguments, ObserverValidate) {
    BadTable<ValidateCall> table;
    AddObserver(table);
    ExpectRefused<ValidateCall>("int4q_observer_validate", [] { return std::make_unique<ValidateCall>(); }, table);
}

struct InfoCall : ObserverCall {
    int4q_status Run() { return int4q_observer_get_info(observer, bytes, info); }
};

TEST(BadCalibrationArguments, ObserverInfo) {
    BadTable<InfoCall> table;
    AddObserver(table);
    AddPointer(table, "info", &InfoCall::info, {4});
    AddStructSizes(table, [](InfoCall &c) -> uint32_t & { return c.infos[0].struct_size; }, sizeof(int4q_observer_info));
    AddValues(table, "reserved", [](InfoCall &c) -> uint32_t & { return c.infos[0].reserved; }, {1});
    ExpectRefused<InfoCall>("int4q_observer_get_info", [] { return std::make_unique<InfoCall>(); }, table);
}

struct StatisticsCall : ObserverCall {
    int4q_status Run() { return int4q_observer_statistics(observer, bytes, begin, end, result); }
};

TEST(BadCalibrationArguments, ObserverStatistics) {
    BadTable<StatisticsCall> table;
    AddObserver(table);
    AddRanges(table, 2, "slot_begin", "slot_end");
    AddPointer(table, "statistics", &StatisticsCall::result, {4});
    ExpectRefused<StatisticsCall>("int4q_observer_statistics", [] { return std::make_unique<StatisticsCall>(); }, table);
}

struct HistogramCall : ObserverCall {
    int4q_status Run() { return int4q_observer_histogram(observer, bytes, slot, form, count_target, capacity, histogram); }
};

TEST(BadCalibrationArguments, ObserverHistogram) {
    BadTable<HistogramCall> table;
    AddObserver(table);
    AddValues(table, "slot", &HistogramCall::slot, {-1, 2, kMin64, kMax64});
    AddEnumerators(table, "form", &HistogramCall::form, {0, 3, -1});
    AddPointer(table, "counts", &HistogramCall::count_target, {4});
    AddTooSmall(table, "capacity", &HistogramCall::capacity);
    AddValues(table, "capacity", &HistogramCall::capacity, {-1, kMin64});
    AddPointer(table, "histogram", &HistogramCall::histogram, {4});
    AddStructSizes(table, [](HistogramCall &c) -> uint32_t & { return c.histograms[0].struct_size; }, sizeof(int4q_histogram));
    AddValues(table, "reserved", [](HistogramCall &c) -> uint32_t & { return c.histograms[0].reserved; }, {1});
    ExpectRefused<HistogramCall>("int4q_observer_histogram", [] { return std::make_unique<HistogramCall>(); }, table);
}

struct RangeCall {
    int64_t counts[9] = {1, 2, 3, 4, 5, 6, 7, 8, 0};
    int4q_histogram histograms[2] = {{sizeof(int4q_histogram), 0, counts, 8, -4, 1, -4, 4}, {}};
    const int4q_histogram *histogram = histograms;
    int4q_range_search searches[2] = {MakeSearch(-8, 7, 8, 2), {}};
    const int4q_range_search *search = searches;
    int32_t form = INT4Q_HISTOGRAM_SIGNED;
    double percentile = 99;
    int64_t quantized = 4;
    alignas(64) unsigned char memory[512] = {};
    void *scratch = memory;
    uint64_t scratch_bytes = 9 * 16;
    int4q_range ranges[2] = {};
    int4q_range *range = ranges;
    std::string Outputs() const { return BytesOf(ranges) + BytesOf(memory); }
};

template <typename C>
void AddHistograms(BadTable<C> &table) {
    using H = int4q_histogram;
    BadTable<H> fields;
    AddStructSizes(fields, &H::struct_size, sizeof(H));
    AddValues(fields, "reserved", &H::reserved, {1});
    AddPointer(fields, "counts", &H::counts, {4});
    AddValues(fields, "bins", &H::bins, {0, -1, kMin64, (int64_t{1} << 20) + 1, kMax64});
    const double nan = kNaN, infinity = kInfinity;
    for (double bad : {nan, infinity, -infinity}) fields.push_back({"lowest", [=](H &h) { h.lowest = bad; }, kInvalid, "lowest"});
    for (double bad : {nan, infinity, 0.0, -1.0}) fields.push_back({"width", [=](H &h) { h.width = bad; }, kInvalid, "width"});
    for (float bad : {kNaN, kInfinity, -kInfinity, 5.0f}) fields.push_back({"low", [=](H &h) { h.low = bad; }, kInvalid, "low"});
    fields.push_back({"high", [](H &h) { h.high = kInfinity; }, kInvalid, "high"});
    fields.push_back({"high NaN", [](H &h) { h.high = kNaN; }, kInvalid, "low"});
    AddWithin(table, fields, [](C &c) -> H & { return c.histograms[0]; });
    AddPointer(table, "histogram", &C::histogram, {4});
    for (int64_t bad : {int64_t{-1}, kMin64, kMax64, int64_t{1} << 53}) {
        table.push_back({"counts[3] = " + std::to_string(bad), [=](C &c) { c.counts[3] = bad; }, kInvalid, "counts"});
    }
    table.push_back({"counts of zero", [](C &c) { std::fill(c.counts, c.counts + 8, 0); }, kInvalid, "counts"});
    AddPointer(table, "range", &C::range, {4});
}

struct PercentileCall : RangeCall {
    int4q_status Run() { return int4q_range_percentile(histogram, form, percentile, range); }
};

TEST(BadCalibrationArguments, Percentile) {
    BadTable<PercentileCall> table;
    AddHistograms(table);
    AddEnumerators(table, "form", &PercentileCall::form, {0, 3});
    for (double bad : {-1.0, 100.5, static_cast<double>(kNaN), static_cast<double>(kInfinity)}) {
        table.push_back({"percentile", [=](PercentileCall &c) { c.percentile = bad; }, kInvalid, "percentile"});
    }
    ExpectRefused<PercentileCall>("int4q_range_percentile", [] { return std::make_unique<PercentileCall>(); }, table);
}

struct EntropyCall : RangeCall {
    int4q_status Run() { return int4q_range_entropy(histogram, quantized, scratch, scratch_bytes, range); }
};

TEST(BadCalibrationArguments, Entropy) {
    BadTable<EntropyCall> table;
    AddHistograms(table);
    AddValues(table, "quantized_bins", &EntropyCall::quantized, {1, 0, -1, 9, kMin64, kMax64});
    AddPointer(table, "scratch", &EntropyCall::scratch, {1, 8, 32});
    AddTooSmall(table, "scratch_bytes", &EntropyCall::scratch_bytes);
    ExpectRefused<EntropyCall>("int4q_range_entropy", [] { return std::make_unique<EntropyCall>(); }, table);
    uint64_t bytes = 0;
    for (int64_t bins : {int64_t{0}, int64_t{-1}, kMin64, kMax64}) {
        EXPECT_FAILS(int4q_range_entropy_scratch(bins, &bytes), kInvalid, "int4q_range_entropy_scratch", "bins");
    }
    EXPECT_FAILS(int4q_range_entropy_scratch(8, nullptr), kNull, "int4q_range_entropy_scratch", "bytes");
}

struct LeastErrorCall : RangeCall {
    int4q_status Run() { return int4q_range_of_least_error(histogram, search, range); }
};

TEST(BadCalibrationArguments, LeastError) {
    using S = int4q_range_search;
    BadTable<LeastErrorCall> table;
    AddHistograms(table);
    BadTable<S> fields;
    AddStructSizes(fields, &S::struct_size, sizeof(S));
    AddValues(fields, "reserved", &S::reserved, {1});
    AddValues(fields, "lowest_code", &S::lowest_code, {-32769, 32767, kMin32, kMax32});
    AddValues(fields, "highest_code", &S::highest_code, {-8, -9, 32768, kMin32, kMax32});
    AddValues(fields, "steps", &S::steps, {0, -1, 10001, kMin32, kMax32});
    AddValues(fields, "tried", &S::tried, {0, -1, 101, kMin32, kMax32});
    for (double bad : {-1.0, static_cast<double>(kNaN), static_cast<double>(kInfinity)}) {
        fields.push_back({"divisor", [=](S &s) { s.divisor = bad; }, kInvalid, "divisor"});
        fields.push_back({"norm", [=](S &s) { s.norm = bad; }, kInvalid, "norm"});
    }
    fields.push_back({"norm 0", [](S &s) { s.norm = 0; }, kInvalid, "norm"});
    AddWithin(table, fields, [](LeastErrorCall &c) -> S & { return c.searches[0]; });
    AddPointer(table, "search", &LeastErrorCall::search, {4});
    ExpectRefused<LeastErrorCall>("int4q_range_of_least_error", [] { return std::make_unique<LeastErrorCall>(); }, table);
}

TEST(BadCalibrationArguments, Aciq) {
    double out[2] = {};
    for (int32_t bad : {0, 3, -1, kMin32}) {
        EXPECT_FAILS(int4q_aciq_clip(bad, 4, 1, out, out), kInvalid, "int4q_aciq_clip", "distribution");
    }
    for (int32_t bad : {0, 17, -1, kMax32}) {
        EXPECT_FAILS(int4q_aciq_clip(INT4Q_DISTRIBUTION_GAUSS, bad, 1, out, out), kInvalid, "int4q_aciq_clip", "bits");
    }
    for (double bad : {-1.0, static_cast<double>(kNaN), static_cast<double>(kInfinity)}) {
        EXPECT_FAILS(int4q_aciq_clip(INT4Q_DISTRIBUTION_GAUSS, 4, bad, out, out), kInvalid, "int4q_aciq_clip", "scale");
    }
    EXPECT_FAILS(int4q_aciq_clip(INT4Q_DISTRIBUTION_GAUSS, 4, 1, Shift(out, 4), out), kMisaligned, "int4q_aciq_clip", "clip");
    const double clips[3] = {1, 2, 3};
    int32_t bits[3] = {};
    const char *name = "int4q_aciq_share_bits";
    EXPECT_FAILS(int4q_aciq_share_bits(nullptr, 3, 0, 8, 12, bits), kNull, name, "clips");
    EXPECT_FAILS(int4q_aciq_share_bits(clips, 3, 0, 8, 12, nullptr), kNull, name, "bits");
    EXPECT_FAILS(int4q_aciq_share_bits(clips, 3, 0, 8, 12, Shift(bits, 2)), kMisaligned, name, "bits");
    for (int64_t bad : {int64_t{0}, int64_t{-1}, kMin64}) EXPECT_FAILS(int4q_aciq_share_bits(clips, bad, 0, 8, 12, bits), kInvalid, name, "count");
    EXPECT_FAILS(int4q_aciq_share_bits(clips, kMax64, 0, 8, 12, bits), kOverflow, name, "count");
    for (int32_t bad : {-1, 17, kMin32}) EXPECT_FAILS(int4q_aciq_share_bits(clips, 3, bad, 8, 12, bits), kInvalid, name, "lowest");
    for (int32_t bad : {3, 17, kMin32}) EXPECT_FAILS(int4q_aciq_share_bits(clips, 3, 4, bad, 12, bits), kInvalid, name, "highest");
    for (int64_t bad : {int64_t{11}, int64_t{-1}, kMin64}) EXPECT_FAILS(int4q_aciq_share_bits(clips, 3, 4, 8, bad, bits), kInvalid, name, "total");
}

// A 4 x 20 matrix, quantized.
struct TensorCall {
    alignas(64) float weights[4 * 21 + 1];
    alignas(64) uint8_t codes[48] = {};
    alignas(64) float scales[8] = {1, 1, 1, 1, 1, 1, 1, 1}, offsets[8] = {};
    int4q_tensor tensors[2] = {};
    const int4q_tensor *tensor = tensors;
    void *source = weights;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t stride = 21, begin = 0, end = 4;
    double a[5] = {}, b[5] = {}, c[9] = {}, d[9] = {}, means[21] = {};
    double *first = a, *second = b, *third = c, *fourth = d, *x_means = means;
    int4q_code_report reports[2] = {};
    int4q_code_report *report = reports;
    float floor = 0;
    double fit_moments[9] = {0, 1, 0, 1, 0, 1, 0, 1, 0}, z = 6;
    const double *moments = fit_moments;
    int64_t n = 4, k = 20, capacity = 3, counted[2] = {};
    int64_t *count = counted;
    int4q_outlier_fit fits[2] = {};
    int4q_outlier_fit *fit = fits;
    int4q_element found[4] = {};
    int4q_element *elements = found;

    TensorCall() {
        for (int i = 0; i < 4 * 21 + 1; i++) weights[i] = static_cast<float>(i % 5) - 2;
        int4q_tensor &t = tensors[0];
        t.struct_size = sizeof t;
        t.scheme = MakeScheme(INT4Q_KIND_OFFSET, 16, INT4Q_TYPE_F32);
        t.n = 4, t.k = 20;
        t.codes = codes, t.codes_bytes = 40;
        t.scales = scales, t.scales_bytes = 32;
        t.offsets = offsets, t.offsets_bytes = 32;
        reports[0].struct_size = sizeof reports[0];
        fits[0].struct_size = sizeof fits[0];
        for (double &ratio : b) ratio = 1;
    }
    std::string Outputs() const {
        return BytesOf(scales) + BytesOf(offsets) + BytesOf(a) + BytesOf(c) + BytesOf(d) + BytesOf(counted) + BytesOf(found);
    }
};

template <typename C>
void AddTensors(BadTable<C> &table, bool has_source = true) {
    using T = int4q_tensor;
    BadTable<T> fields;
    AddStructSizes(fields, &T::struct_size, sizeof(T));
    AddWithin(fields, BadSchemes(), [](T &t) -> int4q_scheme & { return t.scheme; });
    fields.erase(std::remove_if(fields.begin(), fields.end(), [](const Bad<T> &bad) { return bad.what.rfind("kind ", 0) == 0; }), fields.end());
    AddValues(fields, "n", &T::n, {0, -1, kMin64});
    AddValues(fields, "k", &T::k, {0, -1, kMin64});
    AddPointer(fields, "codes", &T::codes, {});
    AddPointer(fields, "scales", &T::scales, {1, 2});
    AddPointer(fields, "offsets", &T::offsets, {1, 2});
    AddTooSmall(fields, "codes_bytes", &T::codes_bytes);
    AddTooSmall(fields, "scales_bytes", &T::scales_bytes);
    AddTooSmall(fields, "offsets_bytes", &T::offsets_bytes);
    AddWithin(table, fields, [](C &call) -> T & { return call.tensors[0]; });
    AddPointer(table, "tensor", &C::tensor, {4});
    AddRanges(table, 4, "row_begin", "row_end");
    if (has_source) AddMatrix(table, "source", &C::source, &C::type, "source_type", &C::stride, "source_stride", 20);
}

struct CodesCall : TensorCall {
    int4q_status Run() { return int4q_diagnose_codes(tensor, floor, begin, end, report); }
};

TEST(BadCalibrationArguments, Codes) {
    BadTable<CodesCall> table;
    AddTensors(table, false);
    table.push_back({"no rows", [](CodesCall &c) { c.begin = c.end = 2; }, kInvalid, "row_end"});
    for (float bad : {-1.0f, kNaN}) table.push_back({"scale_floor", [=](CodesCall &c) { c.floor = bad; }, kInvalid, "scale_floor"});
    AddPointer(table, "report", &CodesCall::report, {4});
    AddStructSizes(table, [](CodesCall &c) -> uint32_t & { return c.reports[0].struct_size; }, sizeof(int4q_code_report));
    AddValues(table, "reserved", [](CodesCall &c) -> uint32_t & { return c.reports[0].reserved; }, {1});
    ExpectRefused<CodesCall>("int4q_diagnose_codes", [] { return std::make_unique<CodesCall>(); }, table);
}

struct ErrorsCall : TensorCall {
    int4q_status Run() { return int4q_diagnose_errors(tensor, source, type, stride, third, fourth, first, second, begin, end); }
};

TEST(BadCalibrationArguments, Errors) {
    BadTable<ErrorsCall> table;
    AddTensors(table);
    const auto shift = [&](const char *name, double *ErrorsCall::*field) {
        table.push_back({std::string(name) + " off by 4", [=](ErrorsCall &c) { c.*field = Shift(c.*field, 4); }, kMisaligned, name});
    };
    shift("group_errors", &ErrorsCall::third);
    shift("group_squares", &ErrorsCall::fourth);
    shift("row_errors", &ErrorsCall::first);
    shift("row_squares", &ErrorsCall::second);
    table.push_back({"nothing wanted", [](ErrorsCall &c) { c.first = c.second = c.third = c.fourth = nullptr; }, kNull, "row_squares"});
    ExpectRefused<ErrorsCall>("int4q_diagnose_errors", [] { return std::make_unique<ErrorsCall>(); }, table);
    for (float bad : {kNaN, kInfinity}) {
        ErrorsCall call;
        call.weights[21 + 4] = bad;
        EXPECT_FAILS(call.Run(), kNotFinite, "int4q_diagnose_errors", "source");
    }
}

struct MeasureCall : TensorCall {
    int4q_status Run() { return int4q_bias_measure(tensor, source, type, stride, first, second, begin, end); }
};

TEST(BadCalibrationArguments, Measure) {
    BadTable<MeasureCall> table;
    AddTensors(table);
    AddPointer(table, "shifts", &MeasureCall::first, {4});
    AddPointer(table, "ratios", &MeasureCall::second, {4});
    ExpectRefused<MeasureCall>("int4q_bias_measure", [] { return std::make_unique<MeasureCall>(); }, table);
}

struct ApplyCall : TensorCall {
    int4q_status Run() { return int4q_bias_apply(tensor, first, second, begin, end); }
};

TEST(BadCalibrationArguments, Apply) {
    BadTable<ApplyCall> table;
    AddTensors(table, false);
    AddPointer(table, "shifts", &ApplyCall::first, {4});
    AddPointer(table, "ratios", &ApplyCall::second, {4});
    for (double bad : {0.0, -1.0, static_cast<double>(kNaN), static_cast<double>(kInfinity)}) {
        table.push_back({"a ratio", [=](ApplyCall &c) { c.b[0] = bad; }, kInvalid, "ratios"});
    }
    table.push_back({"a shift", [](ApplyCall &c) { c.a[0] = kNaN; }, kInvalid, "shifts"});
    table.push_back({"scales that grow too large", [](ApplyCall &c) { c.b[0] = 1e39; }, kNotFinite, "scales"});
    table.push_back({"offsets that grow too large", [](ApplyCall &c) { c.a[0] = 1e39; }, kNotFinite, "offsets"});
    table.push_back({"shifts without offsets", [](ApplyCall &c) { c.tensors[0].scheme.kind = INT4Q_KIND_SYMMETRIC; }, kInvalid, "shifts"});
    ExpectRefused<ApplyCall>("int4q_bias_apply", [] { return std::make_unique<ApplyCall>(); }, table);
    ApplyCall call;
    call.tensors[0].scheme = MakeScheme(INT4Q_KIND_CODEBOOK, 16, INT4Q_TYPE_F32, INT4Q_SCALE_ONE);
    call.tensors[0].codebook = kNormalFloat;
    EXPECT_FAILS(call.Run(), INT4Q_ERROR_UNSUPPORTED, "int4q_bias_apply", "scale_rule");
}

struct OutputCall : TensorCall {
    int4q_status Run() { return int4q_bias_output(tensor, source, type, stride, x_means, first, begin, end); }
};

TEST(BadCalibrationArguments, OutputBias) {
    BadTable<OutputCall> table;
    AddTensors(table);
    AddPointer(table, "x_means", &OutputCall::x_means, {4});
    AddPointer(table, "corrections", &OutputCall::first, {4});
    table.push_back({"a mean of NaN", [](OutputCall &c) { c.means[19] = kNaN; }, kNotFinite, "x_means"});
    ExpectRefused<OutputCall>("int4q_bias_output", [] { return std::make_unique<OutputCall>(); }, table);
}

struct LargestCall : TensorCall {
    int4q_status Run() { return int4q_find_largest(source, type, n, k, stride, elements, capacity, count); }
};

TEST(BadCalibrationArguments, Largest) {
    BadTable<LargestCall> table;
    AddMatrix(table, "source", &LargestCall::source, &LargestCall::type, "source_type", &LargestCall::stride, "source_stride", 20);
    AddValues(table, "rows", &LargestCall::n, {0, -1, kMin64});
    AddValues(table, "columns", &LargestCall::k, {0, -1, kMin64});
    AddPointer(table, "elements", &LargestCall::elements, {4});
    AddValues(table, "capacity", &LargestCall::capacity, {0, -1, kMin64});
    AddValues(table, "capacity", &LargestCall::capacity, {kMax64}, kOverflow);
    AddPointer(table, "count", &LargestCall::count, {4});
    ExpectRefused<LargestCall>("int4q_find_largest", [] { return std::make_unique<LargestCall>(); }, table);
}

struct FitCall : TensorCall {
    int4q_status Run() { return int4q_outliers_fit_z(moments, n, k, z, fit); }
};

TEST(BadCalibrationArguments, FitZ) {
    BadTable<FitCall> table;
    AddPointer(table, "moments", &FitCall::moments, {4});
    AddValues(table, "n", &FitCall::n, {0, -1, kMin64});
    AddValues(table, "n", &FitCall::n, {kMax64}, kOverflow);
    AddValues(table, "k", &FitCall::k, {0, -1, kMin64});
    for (double bad : {-1.0, static_cast<double>(kNaN), static_cast<double>(kInfinity)}) {
        table.push_back({"z", [=](FitCall &c) { c.z = bad; }, kInvalid, "z"});
    }
    AddPointer(table, "fit", &FitCall::fit, {4});
    AddStructSizes(table, [](FitCall &c) -> uint32_t & { return c.fits[0].struct_size; }, sizeof(int4q_outlier_fit));
    AddValues(table, "reserved", [](FitCall &c) -> uint32_t & { return c.fits[0].reserved; }, {1});
    ExpectRefused<FitCall>("int4q_outliers_fit_z", [] { return std::make_unique<FitCall>(); }, table);
    FitCall call;
    call.n = 1, call.k = 4;
    call.fit_moments[0] = 2, call.fit_moments[1] = 36;
    ASSERT_OK(call.Run());
    EXPECT_EQ(call.fits[0].sigma, 3);
    EXPECT_EQ(call.fits[0].limit, 18);
    EXPECT_EQ(call.fits[0].highest, 20);
}

}  // namespace
}  // namespace int4q_test
