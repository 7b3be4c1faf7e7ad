// SPDX-License-Identifier: Apache-2.0
// int4q.hpp: Gram and cross matrices, and the methods that use them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "int4q.hpp"
#include "support/random.hpp"

namespace int4q_test {
namespace {

static_assert(!std::is_copy_constructible_v<int4q::Gram> && std::is_nothrow_move_constructible_v<int4q::Gram>);
static_assert(!std::is_copy_constructible_v<int4q::Cross> && std::is_nothrow_move_assignable_v<int4q::Cross>);

constexpr int64_t kN = 37, kK = 48, kRows = 300;

// Columns of one row have something in common.
std::vector<float> Correlated(int64_t rows, uint64_t seed) {
    Random random(seed);
    std::vector<float> values(static_cast<size_t>(rows * kK));
    for (int64_t row = 0; row < rows; row++) {
        const float common = random.Normal();
        for (int64_t column = 0; column < kK; column++) {
            values[static_cast<size_t>(row * kK + column)] = (random.Normal() + common) * (1 + static_cast<float>(column % 7));
        }
    }
    return values;
}

std::vector<float> Disturbed(std::vector<float> x) {
    Random random(77);
    for (float &value : x) value = 0.9f * value + 0.3f * random.Normal();
    return x;
}

std::vector<float> Values(const int4q::Tensor &tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.n * tensor.k));
    tensor.dequantize({values, tensor.n, tensor.k});
    return values;
}

// The mean over rows of (w x - v y)^2 less that of (w x - w y)^2; with x = y that of (w x - v x)^2.
double Loss(const std::vector<float> &w, const std::vector<float> &v, int64_t row, const std::vector<float> &x,
            const std::vector<float> &y) {
    double sum = 0;
    for (int64_t sample = 0; sample < kRows; sample++) {
        double wanted = 0, got = 0, without = 0;
        for (int64_t column = 0; column < kK; column++) {
            const size_t place = static_cast<size_t>(row * kK + column), at = static_cast<size_t>(sample * kK + column);
            wanted += static_cast<double>(w[place]) * static_cast<double>(x[at]);
            got += static_cast<double>(v[place]) * static_cast<double>(y[at]);
            without += static_cast<double>(w[place]) * static_cast<double>(y[at]);
        }
        sum += (wanted - got) * (wanted - got) - (wanted - without) * (wanted - without);
    }
    return sum / static_cast<double>(kRows);
}

double Sum(const std::vector<double> &values) {
    double sum = 0;
    for (double value : values) sum += value;
    return sum;
}

struct CppReconstruction : testing::Test {
    const std::vector<float> w = Correlated(kN, 1), x = Correlated(kRows, 2), y = Disturbed(x);
    int4q::Pool pool{3};
    int4q::Gram gram{kK};
    int4q::Cross cross{kK};
    CppReconstruction() {
        gram.push({y, kRows, kK});
        cross.push({x, kRows, kK}, {y, kRows, kK});
    }
    int4q::ConstMatrix W() const { return {w, kN, kK}; }
};

TEST_F(CppReconstruction, GramMatricesMergeAndAreSaved) {
    int4q::Gram first(kK), second(kK);
    first.push({y.data(), INT4Q_TYPE_F32, 128, kK}, &pool);
    second.push({y.data() + 128 * kK, INT4Q_TYPE_F32, kRows - 128, kK});
    int4q::Gram loaded = int4q::Gram::load(first.data(), first.bytes());
    loaded.merge(second);
    EXPECT_EQ(loaded.k, kK);
    EXPECT_EQ(loaded.info().rows, kRows);
    EXPECT_EQ(loaded.info().batches, 2);
    EXPECT_EQ(loaded.matrix(), gram.matrix());
    const std::vector<double> matrix = gram.matrix();
    const std::vector<int4q_channel> channels = gram.channels();
    ASSERT_EQ(channels.size(), static_cast<size_t>(kK));
    for (size_t column = 0; column < channels.size(); column++) {
        double squares = 0;
        float largest = 0;
        for (size_t row = 0; row < kRows; row++) {
            const float value = y[row * kK + column];
            squares += static_cast<double>(value) * static_cast<double>(value);
            largest = std::max(largest, std::fabs(value));
        }
        EXPECT_NEAR(matrix[column * kK + column], squares, 1e-5 * squares);
        EXPECT_EQ(channels[column].sum_squares, matrix[column * kK + column]);
        EXPECT_EQ(channels[column].max_magnitude, largest);
    }
    EXPECT_EQ(int4q::Gram::of(matrix, kK, kRows).matrix(), matrix);
    EXPECT_THROW(int4q::Gram::of(matrix, kK + 1, kRows), int4q::Error);
    EXPECT_THROW(int4q::Gram::load(first.data(), first.bytes() - 1), int4q::Error);
    EXPECT_THROW(int4q::Gram::load(cross.data(), cross.bytes()), int4q::Error);
    EXPECT_THROW(int4q::Gram(0), int4q::Error);
    EXPECT_THROW(loaded.merge(int4q::Gram(kK + 1)), int4q::Error);
}

TEST_F(CppReconstruction, CrossMatricesMergeAndAreSaved) {
    int4q::Cross first(kK), second(kK);
    first.push({x.data(), INT4Q_TYPE_F32, 128, kK}, {y.data(), INT4Q_TYPE_F32, 128, kK}, &pool);
    second.push({x.data() + 128 * kK, INT4Q_TYPE_F32, kRows - 128, kK}, {y.data() + 128 * kK, INT4Q_TYPE_F32, kRows - 128, kK});
    int4q::Cross loaded = int4q::Cross::load(first.data(), first.bytes());
    loaded.merge(second);
    EXPECT_EQ(loaded.info().rows, kRows);
    EXPECT_EQ(loaded.matrix(), cross.matrix());
    const std::vector<double> matrix = cross.matrix();
    for (size_t i = 0; i < kK; i += 5) {
        for (size_t j = 0; j < kK; j += 7) {
            double sum = 0, size = 0;
            for (size_t row = 0; row < kRows; row++) {
                const double product = (static_cast<double>(x[row * kK + i]) - static_cast<double>(y[row * kK + i])) *
                                       static_cast<double>(y[row * kK + j]);
                sum += product, size += std::fabs(product);
            }
            EXPECT_NEAR(matrix[i * kK + j], sum, 1e-5 * size);
        }
    }
    EXPECT_EQ(int4q::Cross::of(matrix, kK, kRows).matrix(), matrix);
    EXPECT_THROW(int4q::Cross::load(gram.data(), gram.bytes()), int4q::Error);
    EXPECT_THROW(first.push({x, kRows, kK}, {y.data(), INT4Q_TYPE_F32, kRows - 1, kK}), int4q::Error);
}

TEST_F(CppReconstruction, LossesAreThoseOfTheRows) {
    const int4q::Tensor tensor = int4q::quantize(W(), int4q::Scheme::asymmetric(16, INT4Q_TYPE_F32));
    const std::vector<float> v = Values(tensor);
    const std::vector<double> losses = gram.loss(tensor, W()), crossed = cross.loss(tensor, W(), gram);
    EXPECT_EQ(losses, gram.loss(tensor, W(), &pool));
    EXPECT_EQ(crossed, cross.loss(tensor, W(), gram, &pool));
    for (int64_t row = 0; row < kN; row++) {
        const double expected = Loss(w, v, row, y, y), loss = losses[static_cast<size_t>(row)];
        EXPECT_NEAR(loss, expected, 1e-4 * expected);
        const double other = Loss(w, v, row, x, y);
        EXPECT_NEAR(crossed[static_cast<size_t>(row)], other, 1e-4 * (std::fabs(other) + expected));
    }
    const int4q::Tensor small(int4q::Scheme::symmetric(), kN - 1, kK);
    EXPECT_THROW(gram.loss(small, W()), int4q::Error);
}

TEST_F(CppReconstruction, GptaqAndShiftedWeights) {
    const int4q_scheme scheme = int4q::Scheme::asymmetric(16);
    const int4q::Tensor plain = int4q::gptq(W(), gram, scheme);
    int4q_gptq_report report{};
    report.struct_size = sizeof report;
    const int4q::Tensor tensor = int4q::gptq(W(), gram, scheme, {}, &pool, int4q::gptq_options(cross, 1), &report);
    EXPECT_EQ(tensor.codes, int4q::gptq(W(), gram, scheme, {}, nullptr, int4q::gptq_options(cross, 1)).codes);
    const double loss = Sum(cross.loss(tensor, W(), gram));
    EXPECT_NEAR(report.loss, loss, 1e-3 * std::fabs(loss));
    EXPECT_LT(loss, Sum(cross.loss(plain, W(), gram)));

    std::vector<float> shifted(w.size()), pooled(w.size());
    EXPECT_EQ(int4q::shift(W(), {shifted, kN, kK}, gram, int4q::gptq_options(cross, 1)), 0.01);
    int4q::shift(W(), {pooled, kN, kK}, gram, int4q::gptq_options(cross, 1), &pool);
    EXPECT_EQ(shifted, pooled);
    const int4q::Tensor exact = int4q::gptq({shifted, kN, kK}, gram, scheme);
    EXPECT_LT(Sum(cross.loss(exact, W(), gram)), loss);
    EXPECT_THROW(int4q::shift(W(), {pooled, kN, kK}, gram, int4q::gptq_options()), int4q::Error);
    EXPECT_THROW(int4q::shift(W(), {pooled, kK, kN}, gram, int4q::gptq_options(cross, 1)), int4q::Error);
}

TEST_F(CppReconstruction, DescentWithAndWithoutAPool) {
    for (const int4q_scheme &scheme : {int4q::Scheme::asymmetric(16), int4q::Scheme::eight_bits(int4q::Scheme::symmetric(32))}) {
        int4q::Tensor alone = int4q::quantize(W(), scheme), pooled = int4q::quantize(W(), scheme);
        const double before = Sum(gram.loss(alone, W()));
        const int4q_descent_report one = int4q::gram_descend(alone, W(), gram, 20, INT4Q_DESCENT_REFIT_SCALES);
        const int4q_descent_report two = int4q::gram_descend(pooled, W(), gram, 20, INT4Q_DESCENT_REFIT_SCALES, &pool);
        EXPECT_EQ(alone.codes, pooled.codes);
        EXPECT_EQ(alone.scales, pooled.scales);
        EXPECT_EQ(one.changed_codes, two.changed_codes);
        EXPECT_GT(one.changed_codes, 0);
        EXPECT_NEAR(one.start_loss, before, 1e-6 * before);
        EXPECT_NEAR(two.loss, one.loss, 1e-9 * one.loss);
        EXPECT_NEAR(Sum(gram.loss(alone, W())), one.loss, 1e-6 * one.loss);
        EXPECT_LT(one.loss, before);
    }
    int4q::Tensor binary = int4q::quantize(W(), int4q::Scheme::binary());
    EXPECT_THROW(int4q::gram_descend(binary, W(), gram), int4q::Error);
}

TEST_F(CppReconstruction, SmoothQuant) {
    std::vector<float> maxima, x_maxima;
    int4q::column_maxima(W(), maxima);
    for (const int4q_channel &channel : gram.channels()) x_maxima.push_back(channel.max_magnitude);
    const std::vector<float> factors = int4q::smooth_factors(x_maxima, maxima);
    std::vector<float> scaled(w.size()), back(w.size());
    int4q::scale_columns(W(), factors, {scaled, kN, kK}, INT4Q_COLUMNS_MULTIPLY, &pool);
    int4q::scale_columns({scaled, kN, kK}, factors, {back, kN, kK}, INT4Q_COLUMNS_DIVIDE);
    for (size_t column = 0; column < kK; column++) {
        float largest = 0;
        for (size_t row = 0; row < kN; row++) largest = std::max(largest, std::fabs(w[row * kK + column]));
        EXPECT_EQ(maxima[column], largest);
        EXPECT_NEAR(factors[column], std::sqrt(x_maxima[column] / largest), 1e-4f * factors[column]);
        for (size_t row = 0; row < kN; row++) {
            EXPECT_EQ(scaled[row * kK + column], w[row * kK + column] * factors[column]);
            EXPECT_NEAR(back[row * kK + column], w[row * kK + column], 1e-6f * largest);
        }
    }
    std::vector<float> few(kK - 1);
    EXPECT_THROW(int4q::column_maxima(W(), few), int4q::Error);
    EXPECT_THROW(int4q::smooth_factors(few, maxima), int4q::Error);
}

TEST_F(CppReconstruction, AwqAndHqq) {
    const int4q_scheme scheme = int4q::Scheme::asymmetric(16);
    const double nearest = Sum(gram.loss(int4q::quantize(W(), scheme), W()));
    const int4q::AwqScales found = int4q::awq_search(W(), gram, scheme), pooled = int4q::awq_search(W(), gram, scheme, {}, &pool);
    EXPECT_EQ(found.scales, pooled.scales);
    EXPECT_NEAR(found.report.plain_loss, nearest, 1e-6 * nearest);
    EXPECT_LE(found.report.loss, found.report.plain_loss);

    std::vector<float> clipped(w.size()), other(w.size());
    const std::vector<float> clips = int4q::awq_clip(W(), gram, scheme, {clipped, kN, kK});
    EXPECT_EQ(clips, int4q::awq_clip(W(), gram, scheme, {other, kN, kK}, {}, &pool));
    EXPECT_EQ(clipped, other);
    ASSERT_EQ(clips.size(), static_cast<size_t>(kN * 3));
    for (size_t i = 0; i < w.size(); i++) {
        const float limit = clips[i / kK * 3 + i % kK / 16];
        EXPECT_EQ(clipped[i], std::max(std::min(w[i], limit), -limit));
    }

    const int4q_scheme offset = int4q::Scheme::offset(16);
    const int4q::Tensor half = int4q::hqq(W(), offset), both = int4q::hqq(W(), offset, &pool);
    EXPECT_EQ(half.codes, both.codes);
    EXPECT_EQ(half.offsets, both.offsets);
    EXPECT_EQ(half.scales, int4q::quantize(W(), offset).scales);
    EXPECT_NE(half.offsets, int4q::quantize(W(), offset).offsets);
    EXPECT_THROW(int4q::hqq(W(), scheme), int4q::Error);
}

}  // namespace
}  // namespace int4q_test
