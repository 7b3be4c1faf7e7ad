// SPDX-License-Identifier: Apache-2.0
// Writes requantization.bin: what gemmlowp computes. Debian's package libgemmlowp-dev 0.0~git20211220.e844ffd-1 has its headers.
//
//     g++ -std=c++17 -O1 -I/usr/include/gemmlowp make_requantization.cpp -o make_requantization -pthread
//     ./make_requantization requantization.bin
#include <cstdint>
#include <cstdio>
#include <limits>
#include <tuple>
#include <vector>

#include "fixedpoint/fixedpoint.h"
#include "public/gemmlowp.h"
#include "public/output_stages.h"

namespace {

constexpr int32_t kLeast = std::numeric_limits<int32_t>::min(), kMost = std::numeric_limits<int32_t>::max();

uint64_t state = 20180915;
uint64_t Bits() {  // SplitMix64
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
int32_t Integer(int32_t low, int32_t high) {
    return static_cast<int32_t>(low + static_cast<int64_t>(Bits() % static_cast<uint64_t>(int64_t{high} - low + 1)));
}

// TensorFlow Lite's MultiplyByQuantizedMultiplier, as gemmlowp's OutputStageScaleInt32ByFixedPointAndExponent has it.
int32_t Multiply(int32_t x, int32_t multiplier, int shift) {
    const int left = shift > 0 ? shift : 0, right = shift > 0 ? 0 : -shift;
    return gemmlowp::RoundingDivideByPOT(
        gemmlowp::SaturatingRoundingDoublingHighMul(gemmlowp::ShiftLeft(x, left), multiplier), right);
}

void Write(std::FILE *file, const std::vector<int32_t> &values) { std::fwrite(values.data(), 4, values.size(), file); }

// Every combination of special sums, multipliers and all shifts.
void WriteGrid(std::FILE *file) {
    const std::vector<int32_t> sums = {kLeast, kLeast + 1, -(1 << 30) - 1, -(1 << 30), -65537, -3, -2, -1, 0, 1, 2, 3, 255,
                                       65535, (1 << 30) - 1, 1 << 30, (1 << 30) + 1, kMost - 1, kMost};
    const std::vector<int32_t> multipliers = {kLeast, kLeast + 1, -(1 << 30), -1, 0, 1, 1 << 30, (1 << 30) + 1, 3 << 29,
                                              kMost - 1, kMost};
    Write(file, {static_cast<int32_t>(sums.size()), static_cast<int32_t>(multipliers.size())});
    Write(file, sums);
    Write(file, multipliers);
    for (int shift = -31; shift <= 30; shift++) {
        for (int32_t multiplier : multipliers) {
            std::vector<int32_t> row;
            for (int32_t sum : sums) row.push_back(Multiply(sum, multiplier, shift));
            Write(file, row);
        }
    }
}

// sum, multiplier, shift, result: at random, and ties of both roundings and signs.
void WriteCases(std::FILE *file) {
    std::vector<std::vector<int32_t>> cases;
    const auto add = [&](int32_t sum, int32_t multiplier, int shift) {
        cases.push_back({sum, multiplier, shift, Multiply(sum, multiplier, shift)});
    };
    for (int shift = -31; shift <= 30; shift++) {
        for (int i = 0; i < 20; i++) {
            const int bits = Integer(0, 30);
            add(Integer(-(1 << bits), 1 << bits), Integer(1 << 30, kMost), shift);
            add(Integer(kLeast, kMost), Integer(kLeast, kMost), shift);
            // Half of an odd number after the first step: (2 j + 1) 2^30 / 2^31.
            add(2 * Integer(-(1 << 20), 1 << 20) + 1, 1 << 30, shift);
            // An odd multiple of half of what the second step divides by.
            const int right = shift < -29 ? 29 : shift < 0 ? -shift : 1;
            const int64_t sum = int64_t{2 * Integer(-8, 7) + 1} << right;
            if (sum >= kLeast && sum <= kMost) add(static_cast<int32_t>(sum), 1 << 30, shift);
            // The largest sums that a left shift keeps, and the next.
            if (shift > 0) add(Integer(0, 1) ? (kMost >> shift) + Integer(0, 1) : (kLeast >> shift) - Integer(0, 1), kMost, shift);
        }
    }
    Write(file, {static_cast<int32_t>(cases.size())});
    for (const auto &one : cases) Write(file, one);
}

// A whole layer: codes of weights [n][k] and activations [m][k], n biases, multipliers and shifts, and the result's codes [m][n].
template <typename Result, typename Cast>
void WriteLayer(std::FILE *file, bool per_channel, int32_t low, int32_t high) {
    const int m = 9, n = 37, k = 50;
    const int32_t weight_zero = Integer(100, 150), x_zero = Integer(0, 255), zero_point = Integer(low, high);
    std::vector<uint8_t> weights(n * k), x(m * k);
    std::vector<int32_t> bias(n), multipliers(n), shifts(n);
    for (uint8_t &code : weights) code = static_cast<uint8_t>(Integer(0, 255));
    for (uint8_t &code : x) code = static_cast<uint8_t>(Integer(0, 255));
    for (int j = 0; j < n; j++) {
        bias[j] = Integer(-30000, 30000);
        multipliers[j] = j && !per_channel ? multipliers[0] : Integer(1 << 30, kMost);
        shifts[j] = j && !per_channel ? shifts[0] : Integer(per_channel ? -12 : -10, per_channel ? 1 : -8);
    }
    using Column = gemmlowp::VectorMap<const int32_t, gemmlowp::VectorShape::Col>;
    gemmlowp::OutputStageBiasAddition<Column> add_bias;
    add_bias.bias_vector = Column(bias.data(), n);
    gemmlowp::OutputStageScaleInt32ByFixedPointAndExponent scale;
    scale.result_fixedpoint_multiplier = multipliers[0];
    scale.result_exponent = shifts[0];
    scale.result_offset_after_shift = zero_point;
    gemmlowp::OutputStageScaleInt32ByFixedPointAndExponentPC<gemmlowp::VectorShape::Col> scales;
    scales.result_fixedpoint_multiplier = Column(multipliers.data(), n);
    scales.result_exponent = Column(shifts.data(), n);
    scales.result_offset_after_shift = zero_point;
    gemmlowp::OutputStageClamp clamp;
    clamp.min = low;
    clamp.max = high;
    const gemmlowp::MatrixMap<const uint8_t, gemmlowp::MapOrder::RowMajor> lhs(weights.data(), n, k);
    const gemmlowp::MatrixMap<const uint8_t, gemmlowp::MapOrder::ColMajor> rhs(x.data(), k, m);
    std::vector<Result> codes(m * n);
    gemmlowp::MatrixMap<Result, gemmlowp::MapOrder::ColMajor> result(codes.data(), n, m);
    gemmlowp::GemmContext context;
    const auto multiply = [&](const auto &pipeline) {
        gemmlowp::GemmWithOutputPipeline<uint8_t, Result, gemmlowp::DefaultL8R8BitDepthParams>(&context, lhs, rhs, &result,
                                                                                             -weight_zero, -x_zero, pipeline);
    };
    if (per_channel) multiply(std::make_tuple(add_bias, scales, clamp, Cast()));
    else multiply(std::make_tuple(add_bias, scale, clamp, Cast()));
    Write(file, {m, n, k, weight_zero, x_zero, zero_point, low, high});
    std::fwrite(weights.data(), 1, weights.size(), file);
    std::fwrite(x.data(), 1, x.size(), file);
    for (const auto *values : {&bias, &multipliers, &shifts}) Write(file, *values);
    std::fwrite(codes.data(), 1, codes.size(), file);
}

}  // namespace

int main(int count, char **arguments) {
    std::FILE *file = count == 2 ? std::fopen(arguments[1], "wb") : nullptr;
    if (!file) return std::fprintf(stderr, "usage: make_requantization FILE\n"), 1;
    WriteGrid(file);
    WriteCases(file);
    using U8 = gemmlowp::OutputStageSaturatingCastToUint8;
    using I8 = gemmlowp::OutputStageSaturatingCastToInt8;
    WriteLayer<uint8_t, U8>(file, false, 0, 255);
    WriteLayer<uint8_t, U8>(file, true, 17, 201);
    WriteLayer<int8_t, I8>(file, false, -128, 127);
    WriteLayer<int8_t, I8>(file, true, -8, 7);
    return std::fclose(file) == 0 ? 0 : 1;
}
