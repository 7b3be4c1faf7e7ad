// SPDX-License-Identifier: Apache-2.0
// Codebooks: the known ones, quantizing with them under every rule, and the fitted ones against a table of all partitions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/bad_arguments.hpp"
#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/reference_quantizer.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;
using Values = std::vector<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Values Named(int32_t which) {
    Values values(16, 77.0f);
    EXPECT_OK(int4q_codebook_get(which, values.data()));
    return values;
}

// ---- Known codebooks ------------------------------------------------------------------------------------------------

Values WithNegatives(const Values &eight) {
    Values values = eight;
    for (float v : eight) values.push_back(-v);
    return values;
}

TEST(Codebooks, NamedOnesHaveTheirPublishedValues) {
    EXPECT_EQ(Named(INT4Q_CODEBOOK_FP4_E2M1), WithNegatives({0, 0.5f, 1, 1.5f, 2, 3, 4, 6}));
    EXPECT_EQ(Named(INT4Q_CODEBOOK_FP4_RADIX4), WithNegatives({0, 1 / 64.0f, 1 / 16.0f, 0.25f, 1, 4, 16, 64}));
    EXPECT_EQ(Named(INT4Q_CODEBOOK_IQ4_NL),
              (Values{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}));
    const Values fp4 = WithNegatives({0.0f, 0.005208333f, 0.66666667f, 1.0f, 0.33333333f, 0.5f, 0.16666667f, 0.25f});
    const Values got = Named(INT4Q_CODEBOOK_FP4_BITSANDBYTES);
    for (size_t i = 0; i < 16; i++) EXPECT_FLOAT_EQ(got[i], fp4[i]) << i;
    const Values nf4 = Named(INT4Q_CODEBOOK_NF4);
    for (size_t i = 0; i < 16; i++) EXPECT_NEAR(nf4[i], kNormalFloat[i], 1e-5) << i;
    EXPECT_TRUE(std::signbit(Named(INT4Q_CODEBOOK_FP4_E2M1)[8])) << "code 8 is a negative zero";
}

TEST(Codebooks, PowersOfTwoHaveOneZero) {
    const Values got = Named(INT4Q_CODEBOOK_POWERS_OF_TWO);
    EXPECT_EQ(got[0], 0.0f);
    for (int e = 1; e < 8; e++) EXPECT_EQ(got[static_cast<size_t>(e)], std::ldexp(1.0f, e - 7));
    for (int e = 0; e < 8; e++) EXPECT_EQ(got[static_cast<size_t>(8 + e)], -std::ldexp(1.0f, e - 7));
}

TEST(Codebooks, SevenPowersOfTwoHaveTwoZeros) {
    const Values got = Named(INT4Q_CODEBOOK_SEVEN_POWERS_OF_TWO);
    EXPECT_EQ(got, WithNegatives({0, 1 / 64.0f, 1 / 32.0f, 1 / 16.0f, 0.125f, 0.25f, 0.5f, 1}));
}

TEST(Codebooks, LinearBinsAreMiddles) {
    Values bins(16);
    ASSERT_OK(int4q_codebook_linear_bins(-2, 14, 16, bins.data()));
    for (size_t i = 0; i < 16; i++) EXPECT_EQ(bins[i], static_cast<float>(i) - 1.5f);
    ASSERT_OK(int4q_codebook_linear_bins(-2, 13, 15, bins.data()));
    for (size_t i = 0; i < 16; i++) EXPECT_EQ(bins[i], static_cast<float>(std::min<size_t>(i, 14)) - 1.5f);
    const float most = std::numeric_limits<float>::max();
    ASSERT_OK(int4q_codebook_linear_bins(-most, most, 16, bins.data()));
    for (size_t i = 0; i < 16; i++) EXPECT_TRUE(std::isfinite(bins[i]));
}

// Codes by the published recipe: 16 edges, the number of edges not above x, less one, clipped to 0..14.
TEST(Codebooks, FifteenBinsAreWhatEdgesAndClippingGive) {
    Random random(1);
    Source source(INT4Q_TYPE_F32, 1, 1000, 1000);
    float low = kInfinity, high = -kInfinity;
    for (int64_t i = 0; i < 1000; i++) {
        source.Set(0, i, random.Normal());
        low = std::min(low, source(0, i));
        high = std::max(high, source(0, i));
    }
    Values bins(16);
    ASSERT_OK(int4q_codebook_linear_bins(low, high, 15, bins.data()));
    TensorMemory tensor(MakeScheme(INT4Q_KIND_CODEBOOK, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F16, INT4Q_SCALE_ONE), 1, 1000,
                        Placement::kRight, bins.data());
    ASSERT_OK(source.Quantize(tensor));
    for (int64_t i = 0; i < 1000; i++) {
        int edges = 0;
        for (int e = 0; e < 16; e++) edges += low + (static_cast<double>(high) - low) * e / 15 <= source(0, i);
        ASSERT_EQ(CodeAt(*tensor.get(), 0, i), std::min(std::max(edges - 1, 0), 14)) << source(0, i);
    }
}

// ---- Quantizing -----------------------------------------------------------------------------------------------------

std::vector<Values> ManyCodebooks(Random &random) {
    std::vector<Values> all;
    for (int32_t which = INT4Q_CODEBOOK_NF4; which <= INT4Q_CODEBOOK_SEVEN_POWERS_OF_TWO; which++) all.push_back(Named(which));
    all.push_back({3, -3, 1, 1, -1, 0, 2, -2, 4, 4, -4, 5, 6, -6, 7, -8});           // no order, values twice
    all.push_back({5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5});                 // a single value
    all.push_back({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16});          // one sign, no zero
    all.push_back({-1e-40f, 1e-40f, 3e38f, -3e38f, 0, 1e-45f, 1, 2, 4, 3, 0.5f, -0.0f, -1, -2, -1e30f, 1e30f});
    for (int i = 0; i < 3; i++) {
        Values values(16);
        for (float &v : values) v = random.Normal();
        all.push_back(values);
    }
    return all;
}

// Around every place where a code may change, and far beyond the ends.
void FillNearSwitches(Source &source, const Values &codebook, float scale, Random &random) {
    for (int64_t i = 0; i < source.n * source.k; i++) {
        const float a = random.Pick(codebook), b = random.Pick(codebook);
        float x = (a + b) / 2;
        if (random.Chance(0.3)) x = std::copysign(std::sqrt(std::fabs(a) * std::fabs(b)), a);
        if (random.Chance(0.2)) x = a * 0.70710678f;
        if (random.Chance(0.1)) x = random.Normal() * std::fabs(a);
        if (random.Chance(0.05)) x = random.Normal() * 1e30f;
        if (random.Chance(0.5)) x = std::nextafter(x, random.Chance(0.5) ? kInfinity : -kInfinity);
        x *= scale;
        source.Set(i / source.k, i % source.k, std::fabs(x) < 6e4f || source.type == INT4Q_TYPE_F32 ? x : a);
        if (!std::isfinite(source(i / source.k, i % source.k))) source.Set(i / source.k, i % source.k, 0);
    }
}

void ExpectReference(const int4q_scheme &scheme, const Source &source, const Values &codebook) {
    const ReferenceTensor wanted = QuantizeReference(scheme, source.n, source.k, codebook.data(), source);
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit limit(isa);
        TensorMemory tensor(scheme, source.n, source.k, Placement::kRight, codebook.data());
        const int4q_status status = source.Quantize(tensor);
        uint64_t bytes = 0;
        ASSERT_OK(int4q_blob_size(&scheme, source.n, source.k, &bytes));
        GuardedBuffer packed(bytes, Placement::kRight, INT4Q_ALIGNMENT), fused(bytes, Placement::kRight, INT4Q_ALIGNMENT);
        const int4q_status fused_status = int4q_quantize_pack_rows(
            &scheme, source.n, source.k, codebook.data(), source.buffer.data(), source.type, source.stride, fused.data(), bytes, 0,
            source.n);
        EXPECT_EQ(status, fused_status);
        if (!wanted.finite) {
            EXPECT_EQ(status, INT4Q_ERROR_NOT_FINITE);
            continue;
        }
        ASSERT_OK(status);
        ASSERT_EQ(tensor.Scales(), wanted.scales) << int4q_isa_name(isa);
        const std::vector<uint8_t> codes = tensor.Codes();
        for (int64_t i = 0; i < source.n * source.k; i++) {
            const int64_t row = i / source.k, column = i % source.k, byte = row * ((source.k + 1) / 2) + column / 2;
            const int wanted_code = wanted.codes[static_cast<size_t>(byte)] >> (column % 2 * 4) & 15;
            ASSERT_EQ(CodeAt(*tensor.get(), row, column), wanted_code)
                << source(row, column) << ", scale " << LoadElement(tensor->scales, scheme.scale_type, 0) << ", "
                << int4q_isa_name(isa);
        }
        ASSERT_EQ(codes, wanted.codes);
        ASSERT_OK(int4q_pack_rows(tensor.get(), packed.data(), bytes, 0, source.n));
        ASSERT_EQ(std::memcmp(packed.data(), fused.data(), bytes), 0) << int4q_isa_name(isa);
        ASSERT_OK(int4q_blob_validate(fused.data(), bytes, INT4Q_VALIDATE_FULL));
        int4q_blob_info info{};
        info.struct_size = sizeof info;
        ASSERT_OK(int4q_blob_get_info(fused.data(), bytes, &info));
        EXPECT_EQ(std::memcmp(&info.scheme, &scheme, sizeof scheme), 0);
    }
}

TEST(Codebooks, QuantizingEqualsTheRederivationUnderEveryRule) {
    Random random(2);
    for (const Values &codebook : ManyCodebooks(random)) {
        for (int32_t rule : {INT4Q_SCALE_DEFAULT, INT4Q_SCALE_ONE}) {
            for (int32_t rounding : {INT4Q_ROUNDING_NEAREST_EVEN, INT4Q_ROUNDING_NEAREST_LOG}) {
                for (int32_t group_size : {16, 32, 64, INT4Q_GROUP_PER_ROW}) {
                    for (int i = 0; i < Samples(6); i++) {
                        const int4q_type source_type = i % 3 ? INT4Q_TYPE_F32 : kTypes[random.Integer(0, 2)];
                        const auto scheme = MakeScheme(INT4Q_KIND_CODEBOOK, group_size, kTypes[random.Integer(0, 2)], rule, 0,
                                                       rounding);
                        const int64_t k = random.Integer(1, 130);
                        Source source(source_type, random.Integer(1, 34), k, k + random.Integer(0, 3));
                        const float scale = rule == INT4Q_SCALE_ONE ? 1.0f : std::ldexp(1.0f, static_cast<int>(random.Integer(-9, 9)));
                        FillNearSwitches(source, codebook, scale, random);
                        if (i == 1) for (int64_t c = 0; c < k; c++) source.Set(0, c, 0);
                        SCOPED_TRACE(Name(scheme) + ", codebook of " + std::to_string(codebook[1]) + " ... " +
                                     std::to_string(codebook[15]));
                        ExpectReference(scheme, source, codebook);
                        if (HasFailure()) return;
                    }
                }
            }
        }
    }
}

TEST(Codebooks, LogarithmsSwitchAtRootTwo) {
    const Values codebook = Named(INT4Q_CODEBOOK_POWERS_OF_TWO);
    const auto scheme =
        MakeScheme(INT4Q_KIND_CODEBOOK, 32, INT4Q_TYPE_F32, INT4Q_SCALE_ONE, 0, INT4Q_ROUNDING_NEAREST_LOG);
    Source source(INT4Q_TYPE_F32, 1, 32, 32);
    std::vector<int> wanted;
    const float root = 1.41421354f;  // sqrt(2) rounded down
    for (int e = 1; e < 7; e++) {
        source.Set(0, static_cast<int64_t>(wanted.size()), std::ldexp(root, e - 7));
        wanted.push_back(e);
        source.Set(0, static_cast<int64_t>(wanted.size()), std::ldexp(std::nextafter(root, 2.0f), e - 7));
        wanted.push_back(e + 1);
        source.Set(0, static_cast<int64_t>(wanted.size()), -std::ldexp(root, e - 7));
        wanted.push_back(8 + e);
        source.Set(0, static_cast<int64_t>(wanted.size()), -std::ldexp(std::nextafter(root, 2.0f), e - 7));
        wanted.push_back(8 + e + 1);
    }
    // Zero's neighbours are 2^-6 and -2^-7.
    for (auto [x, code] : std::map<float, int>{{std::ldexp(root, -7), 0}, {std::ldexp(1.4142137f, -7), 1},
                                               {-std::ldexp(root, -8), 0}, {-std::ldexp(1.4142137f, -8), 8},
                                               {1e38f, 7}, {-1e38f, 15}, {1e-45f, 0}, {0.0f, 0}}) {
        source.Set(0, static_cast<int64_t>(wanted.size()), x);
        wanted.push_back(code);
    }
    ASSERT_EQ(wanted.size(), 32u);
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit limit(isa);
        TensorMemory tensor(scheme, 1, 32, Placement::kRight, codebook.data());
        ASSERT_OK(source.Quantize(tensor));
        for (int64_t i = 0; i < 32; i++) {
            EXPECT_EQ(CodeAt(*tensor.get(), 0, i), wanted[static_cast<size_t>(i)]) << source(0, i);
        }
    }
}

TEST(Codebooks, EqualsBitsandbytesCodeForCode) {
    std::ifstream file(std::string(INT4Q_TEST_VECTORS) + "/bitsandbytes_4bit.bin", std::ios::binary);
    ASSERT_TRUE(file) << "no " << INT4Q_TEST_VECTORS << "/bitsandbytes_4bit.bin";
    int32_t count = 0;
    file.read(reinterpret_cast<char *>(&count), sizeof count);
    ASSERT_GT(count, 100);
    for (int32_t block = 0; block < count; block++) {
        Source source(INT4Q_TYPE_F32, 1, 64, 64);
        float absmax = 0;
        uint8_t codes[2][32];
        file.read(reinterpret_cast<char *>(source.buffer.data()), 256);
        file.read(reinterpret_cast<char *>(&absmax), 4);
        file.read(reinterpret_cast<char *>(codes), sizeof codes);
        ASSERT_TRUE(file) << "block " << block;
        for (int format = 0; format < 2; format++) {
            const Values codebook = Named(format == 0 ? INT4Q_CODEBOOK_NF4 : INT4Q_CODEBOOK_FP4_BITSANDBYTES);
            TensorMemory tensor(MakeScheme(INT4Q_KIND_CODEBOOK, 64, INT4Q_TYPE_F32), 1, 64, Placement::kRight, codebook.data());
            ASSERT_OK(source.Quantize(tensor));
            ASSERT_EQ(LoadElement(tensor->scales, INT4Q_TYPE_F32, 0), absmax);
            std::vector<uint8_t> values(64), packed(32);
            ASSERT_OK(int4q_nibbles_unpack(tensor->codes, 32, 64, INT4Q_NIBBLES_LOW_FIRST, 0, 0, values.data()));
            ASSERT_OK(int4q_nibbles_pack(values.data(), 64, INT4Q_NIBBLES_HIGH_FIRST, 0, 0, packed.data(), 32));
            // FP4 has two zeros, of which bitsandbytes uses both; and on ties it takes the smaller value, not the lower code.
            if (absmax == 0) continue;
            for (int64_t j = 0; j < 64; j++) {
                const int code = packed[static_cast<size_t>(j / 2)] >> (j % 2 ? 0 : 4) & 15;
                const int theirs = codes[format][j / 2] >> (j % 2 ? 0 : 4) & 15;
                const float x = source(0, j) / absmax, a = codebook[static_cast<size_t>(code)], b = codebook[static_cast<size_t>(theirs)];
                if (format == 1 && (a == b || (x == (a + b) / 2 && b < a && theirs > code))) continue;
                ASSERT_EQ(code, theirs) << (format ? "FP4" : "NF4") << ", block " << block << ", " << x << ": " << a << " " << b;
            }
        }
    }
    EXPECT_EQ(file.peek(), std::char_traits<char>::eof());
}

// x is the identity: y is the dequantized matrix, so products know the rules' blobs too.
TEST(Codebooks, ProductsUseUnitScales) {
    Random random(3);
    const Values codebook = Named(INT4Q_CODEBOOK_IQ4_NL);
    const auto scheme = MakeScheme(INT4Q_KIND_CODEBOOK, 16, INT4Q_TYPE_F16, INT4Q_SCALE_ONE);
    Source source(INT4Q_TYPE_F32, 20, 40, 40);
    for (int64_t i = 0; i < 800; i++) source.Set(i / 40, i % 40, 60 * random.Normal());
    TensorMemory tensor(scheme, 20, 40, Placement::kRight, codebook.data());
    ASSERT_OK(source.Quantize(tensor));
    uint64_t bytes = 0;
    ASSERT_OK(int4q_blob_size(&scheme, 20, 40, &bytes));
    GuardedBuffer blob(bytes, Placement::kRight, INT4Q_ALIGNMENT);
    ASSERT_OK(int4q_pack_rows(tensor.get(), blob.data(), bytes, 0, 20));
    std::vector<float> x(1600), y(800);
    for (size_t i = 0; i < 40; i++) x[41 * i] = 1;
    int4q_matmul_desc desc{};
    desc.struct_size = sizeof desc;
    desc.mode = INT4Q_MODE_F32;
    desc.m = 40, desc.n = 20, desc.k = 40, desc.scheme = scheme;
    desc.x_type = desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = 1;
    int4q_matmul_plan plan{};
    plan.struct_size = sizeof plan;
    ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
    GuardedBuffer scratch(plan.scratch_bytes, Placement::kRight, INT4Q_ALIGNMENT);
    int4q_matmul_args args{};
    args.struct_size = sizeof args;
    args.x = x.data(), args.ldx = 40, args.blob = blob.data(), args.blob_bytes = bytes;
    args.y = y.data(), args.ldy = 20, args.scratch = scratch.data(), args.scratch_bytes = plan.scratch_bytes;
    ASSERT_OK(int4q_matmul(&plan, &args, nullptr, nullptr));
    for (int64_t i = 0; i < 40; i++) {
        for (int64_t j = 0; j < 20; j++) {
            ASSERT_EQ(y[static_cast<size_t>(i * 20 + j)], codebook[static_cast<size_t>(CodeAt(*tensor.get(), j, i))]);
        }
    }
}

// ---- Fitting --------------------------------------------------------------------------------------------------------

struct Fit {
    int4q_status status;
    Values values = Values(16, 77.0f);
    double error = -1;
};

Fit FitSource(const Source &source, const float *weights = nullptr, int64_t weights_stride = 0, int64_t begin = 0,
              int64_t end = -1) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_codebook_fit_scratch(&bytes));
    EXPECT_LT(bytes, uint64_t{7} << 20);
    GuardedBuffer scratch(bytes, Placement::kRight, INT4Q_ALIGNMENT);
    Fit fit{};
    fit.status = int4q_codebook_fit(source.buffer.data(), source.type, source.stride, source.n, source.k, begin,
                                    end < 0 ? source.n : end, weights, weights_stride, scratch.data(), bytes, fit.values.data(),
                                    &fit.error);
    return fit;
}

double ErrorOf(const Values &values, const std::map<float, double> &points) {
    double sum = 0, total = 0;
    for (auto [x, weight] : points) {
        double least = std::numeric_limits<double>::infinity();
        for (float v : values) least = std::min(least, (static_cast<double>(x) - v) * (static_cast<double>(x) - v));
        sum += weight * least;
        total += weight;
    }
    return sum / total;
}

// The least error of any 16 values: every partition of the sorted points, by a table of n * n * 16 steps.
double LeastError(const std::map<float, double> &points) {
    std::vector<long double> x, w;
    for (auto [value, weight] : points) x.push_back(value), w.push_back(weight);
    const size_t n = x.size();
    std::vector<long double> before(n + 1, std::numeric_limits<long double>::infinity()), now = before;
    before[0] = 0;
    long double best = std::numeric_limits<long double>::infinity(), total = 0;
    for (long double weight : w) total += weight;
    for (int run = 0; run < 16; run++) {
        std::fill(now.begin(), now.end(), std::numeric_limits<long double>::infinity());
        for (size_t end = 1; end <= n; end++) {
            long double mass = 0, mean = 0, spread = 0;  // of points begin..end-1, one more each time (Welford)
            for (size_t begin = end; begin-- > 0;) {
                mass += w[begin];
                const long double delta = x[begin] - mean;
                mean += delta * w[begin] / mass;
                spread += w[begin] * delta * (x[begin] - mean);
                now[end] = std::min(now[end], before[begin] + spread);
            }
        }
        std::swap(before, now);
        best = std::min(best, before[n]);
    }
    return static_cast<double>(best / total);
}

std::map<float, double> PointsOf(const Source &source, const float *weights = nullptr, int64_t weights_stride = 0,
                                 int64_t begin = 0, int64_t end = -1) {
    std::map<float, double> points;
    for (int64_t row = begin; row < (end < 0 ? source.n : end); row++) {
        for (int64_t c = 0; c < source.k; c++) {
            const double weight = weights ? static_cast<double>(weights[row * weights_stride + c]) : 1.0;
            if (weight > 0) points[source(row, c)] += weight;
        }
    }
    return points;
}

void ExpectOptimal(const Fit &fit, const std::map<float, double> &points) {
    ASSERT_OK(fit.status);
    EXPECT_TRUE(std::is_sorted(fit.values.begin(), fit.values.end()));
    const double error = ErrorOf(fit.values, points), least = LeastError(points);
    double largest = 0;
    for (auto [x, weight] : points) largest = std::max(largest, std::fabs(static_cast<double>(x)));
    EXPECT_NEAR(fit.error, error, 1e-9 * error);
    EXPECT_LE(error, least * (1 + 1e-7) + 1e-14 * largest * largest + 1e-90) << "of " << points.size() << " points";
}

float Sample(Random &random, int sort) {
    if (sort == 0) return random.Normal();
    if (sort == 1) return std::exp(3 * random.Normal()) * (random.Chance(0.5) ? 1.0f : -1.0f);  // heavy tails
    if (sort == 2) return static_cast<float>(random.Integer(-30, 30));
    if (sort == 3) return 1000.0f + random.Uniform(0, 1);
    if (sort == 4) return random.Chance(0.01) ? 1e20f : random.Normal();
    return random.Normal() * 1e-41f;  // denormals
}

TEST(CodebookFit, IsTheBestOfAllPartitions) {
    Random random(4);
    for (int sort = 0; sort < 6; sort++) {
        for (int4q_type type : kTypes) {
            for (int i = 0; i < Samples(4); i++) {
                const int64_t k = random.Integer(1, 90), n = random.Integer(1, 5);
                Source source(type, n, k, k + random.Integer(0, 4));
                for (int64_t j = 0; j < n * k; j++) {
                    const float x = Sample(random, sort);
                    source.Set(j / k, j % k, std::isfinite(RoundTo(type, x)) ? x : 1.0f);
                }
                std::vector<float> weights(static_cast<size_t>(n * k));
                for (float &w : weights) w = random.Chance(0.1) ? 0.0f : std::exp(2 * random.Normal());
                weights[0] = 1;
                SCOPED_TRACE("sort " + std::to_string(sort) + ", " + TypeName(type) + " " + std::to_string(n) + " x " +
                             std::to_string(k));
                ExpectOptimal(FitSource(source), PointsOf(source));
                ExpectOptimal(FitSource(source, weights.data(), k), PointsOf(source, weights.data(), k));
                ExpectOptimal(FitSource(source, weights.data(), 0), PointsOf(source, weights.data(), 0));
                const int64_t begin = random.Integer(0, n - 1), end = random.Integer(begin + 1, n);
                ExpectOptimal(FitSource(source, nullptr, 0, begin, end), PointsOf(source, nullptr, 0, begin, end));
                ASSERT_FALSE(HasFailure());
            }
        }
    }
}

TEST(CodebookFit, FewValuesAreExactAndTheLastIsRepeated) {
    Source source(INT4Q_TYPE_F32, 2, 5, 5);
    const float values[] = {3, -0.0f, 1e-45f, -7.25f, 0.0f, 3, 3, -7.25f, 1e38f, 0};
    for (int64_t i = 0; i < 10; i++) source.Set(i / 5, i % 5, values[i]);
    const Fit fit = FitSource(source);
    ASSERT_OK(fit.status);
    Values wanted(16, 1e38f);
    wanted[0] = -7.25f, wanted[1] = 0, wanted[2] = 1e-45f, wanted[3] = 3;
    EXPECT_EQ(fit.values, wanted);
    EXPECT_EQ(fit.error, 0);
    Source zeros(INT4Q_TYPE_F16, 1, 1, 1);
    zeros.Set(0, 0, -0.0f);
    EXPECT_EQ(FitSource(zeros).values, Values(16, 0.0f));
}

// A sample of a Gaussian comes close to the distribution's own optimum, 20.22 dB (Max 1960), from above.
TEST(CodebookFit, GaussianSamplesReachLloydAndMax) {
    Random random(5);
    Source source(INT4Q_TYPE_F32, 500, 1000, 1000);
    double power = 0;
    for (int64_t i = 0; i < 500000; i++) {
        const float x = random.Normal();
        source.Set(i / 1000, i % 1000, x);
        power += static_cast<double>(x) * x;
    }
    const Fit fit = FitSource(source);
    ASSERT_OK(fit.status);
    EXPECT_NEAR(10 * std::log10(power / 500000 / fit.error), 20.22, 0.03);
    for (size_t i = 0; i < 16; i++) EXPECT_NEAR(fit.values[i], -fit.values[15 - i], 0.03) << i;
    EXPECT_NEAR(fit.values[15], 2.733, 0.03);
    // The error told is that of nearest values, and no step of Lloyd's improves it by more than a hair.
    const std::map<float, double> points = PointsOf(source);
    EXPECT_NEAR(fit.error, ErrorOf(fit.values, points), 1e-9 * fit.error);
    Values next = fit.values;
    for (int step = 0; step < 5; step++) {
        std::vector<double> sums(16), masses(16);
        for (auto [x, weight] : points) {
            size_t best = 0;
            for (size_t j = 1; j < 16; j++) if (std::fabs(x - next[j]) < std::fabs(x - next[best])) best = j;
            sums[best] += weight * x, masses[best] += weight;
        }
        for (size_t j = 0; j < 16; j++) next[j] = static_cast<float>(sums[j] / masses[j]);
    }
    EXPECT_LE(fit.error, ErrorOf(next, points) * (1 + 1e-6));
}

// Many values with outliers 30 orders of magnitude out: bins follow the values, not the range.
TEST(CodebookFit, ManyValuesWithOutliers) {
    Random random(6);
    Source source(INT4Q_TYPE_F32, 100, 1000, 1000);
    std::vector<float> weights(100000);
    for (int64_t i = 0; i < 100000; i++) {
        source.Set(i / 1000, i % 1000, i % 10000 == 17 ? 3e30f : i % 10000 == 18 ? -2e20f : 5 + random.Normal());
        weights[static_cast<size_t>(i)] = i % 2 ? 0.0f : 2.0f;
    }
    const Fit fit = FitSource(source);
    ASSERT_OK(fit.status);
    EXPECT_EQ(fit.values[0], -2e20f);
    EXPECT_EQ(fit.values[15], 3e30f);
    EXPECT_LT(fit.values[1], 4) << "fourteen levels for the rest";
    EXPECT_GT(fit.values[14], 6);
    EXPECT_LT(fit.values[14], 10);
    // Only every other element counts; of the outliers the negative one.
    const Fit weighted = FitSource(source, weights.data(), 1000);
    ASSERT_OK(weighted.status);
    EXPECT_EQ(weighted.values[0], -2e20f);
    EXPECT_LT(weighted.values[15], 10);
    EXPECT_NEAR(weighted.error, ErrorOf(weighted.values, PointsOf(source, weights.data(), 1000)), 1e-9 * weighted.error);
}

TEST(CodebookFit, TheSameBitsForEveryInstructionSet) {
    Random random(7);
    Source source(INT4Q_TYPE_F32, 90, 1001, 1003);
    for (int64_t i = 0; i < 90 * 1001; i++) source.Set(i / 1001, i % 1001, random.Normal());
    const Fit first = FitSource(source);
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit limit(isa);
        const Fit fit = FitSource(source);
        EXPECT_EQ(fit.values, first.values);
        EXPECT_EQ(fit.error, first.error);
    }
}

// ---- Wrong arguments ------------------------------------------------------------------------------------------------

struct GetCall {
    alignas(8) float memory[17] = {};
    float *values = memory;
    int32_t which = INT4Q_CODEBOOK_NF4;
    int4q_status Run() { return int4q_codebook_get(which, values); }
    std::string Outputs() const { return BytesOf(memory); }
};

struct BinsCall {
    alignas(8) float memory[17] = {};
    float *values = memory;
    float min = -1, max = 1;
    int32_t levels = 15;
    int4q_status Run() { return int4q_codebook_linear_bins(min, max, levels, values); }
    std::string Outputs() const { return BytesOf(memory); }
};

TEST(BadCodebookArguments, Values) {
    BadTable<GetCall> get;
    AddEnumerators(get, "which", &GetCall::which, {0, 8, -1});
    AddPointer(get, "values", &GetCall::values, {1, 2, 3});
    ExpectRefused<GetCall>("int4q_codebook_get", [] { return std::make_unique<GetCall>(); }, get);

    using C = BinsCall;
    BadTable<C> bins;
    AddEnumerators(bins, "levels", &C::levels, {0, 1, 14, 17, -15});
    AddPointer(bins, "values", &C::values, {1, 2, 3});
    for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
        bins.push_back({"min", [=](C &c) { c.min = bad; }, kNotFinite, "min"});
        bins.push_back({"max", [=](C &c) { c.max = bad; }, kNotFinite, "max"});
    }
    for (float bad : {-1.0f, -2.0f}) bins.push_back({"max not above min", [=](C &c) { c.max = bad; }, kInvalid, "max"});
    ExpectRefused<C>("int4q_codebook_linear_bins", [] { return std::make_unique<C>(); }, bins);
    EXPECT_FAILS(int4q_codebook_fit_scratch(nullptr), kNull, "int4q_codebook_fit_scratch", "bytes");
}

struct FitCall {
    static constexpr int64_t kRows = 7, kColumns = 40, kStride = 42;
    FitCall() {
        for (int64_t i = 0; i < kRows * kStride; i++) {
            floats[i] = static_cast<float>(i % 37), importances[i] = static_cast<float>(i % 3);
        }
        EXPECT_OK(int4q_codebook_fit_scratch(&scratch_bytes));
        scratch = GuardedBuffer(scratch_bytes + 64, Placement::kRight, INT4Q_ALIGNMENT);
        scratch_pointer = scratch.data();
    }
    alignas(64) float floats[kRows * kStride + 1];
    alignas(64) float importances[kRows * kStride + 1];
    alignas(8) float memory[17] = {};
    alignas(8) double errors[2] = {-1, -1};
    GuardedBuffer scratch;
    void *matrix = floats, *scratch_pointer = nullptr;
    const float *weights = importances;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t stride = kStride, weights_stride = kStride, n = kRows, k = kColumns, begin = 0, end = kRows;
    uint64_t scratch_bytes = 0;
    float *values = memory;
    double *error = errors;
    int4q_status Run() {
        return int4q_codebook_fit(matrix, type, stride, n, k, begin, end, weights, weights_stride, scratch_pointer, scratch_bytes,
                                  values, error);
    }
    std::string Outputs() const { return BytesOf(memory) + BytesOf(errors); }
};

TEST(BadCodebookArguments, Fit) {
    using C = FitCall;
    BadTable<C> table;
    AddMatrix(table, "source", &C::matrix, &C::type, "source_type", &C::stride, "source_stride", C::kColumns);
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    AddValues(table, "source_stride", &C::k, {C::kStride + 1, kMax64}, kInvalid);
    AddRanges(table, C::kRows, "row_begin", "row_end");
    table.push_back({"an empty range", [](C &c) { c.begin = c.end = 3; }, kInvalid, "row_end"});
    AddValues(table, "weights_stride", &C::weights_stride, {1, -1, C::kColumns - 1, kMin64});
    AddValues(table, "weights_stride", &C::weights_stride, {kMax64, int64_t{1} << 62}, kOverflow);
    for (int shift : {1, 2, 3}) {
        table.push_back({"weights shifted", [=](C &c) { c.weights = Shift(c.weights, shift); }, kMisaligned, "weights"});
    }
    AddPointer(table, "scratch", &C::scratch_pointer, {1, 4, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
    AddPointer(table, "values", &C::values, {1, 2, 3});
    for (int shift : {1, 4}) {
        table.push_back({"error shifted", [=](C &c) { c.error = Shift(c.error, shift); }, kMisaligned, "mean_squared_error"});
    }
    for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
        table.push_back({"source not finite", [=](C &c) { c.floats[6 * C::kStride + 39] = bad; }, kNotFinite, "source"});
        table.push_back({"weight not finite", [=](C &c) { c.importances[6 * C::kStride + 39] = bad; }, kNotFinite, "weights"});
        table.push_back({"not finite, of weight 0", [=](C &c) { c.floats[0] = bad; }, kNotFinite, "source"});
    }
    table.push_back({"negative weight", [](C &c) { c.importances[2] = -1e-45f; }, kInvalid, "weights"});
    table.push_back({"no weight", [](C &c) { std::fill(c.importances, c.importances + C::kRows * C::kStride, -0.0f); }, kInvalid,
                     "weights"});
    ExpectRefused<C>("int4q_codebook_fit", [] { return std::make_unique<C>(); }, table);

    C call;
    call.error = nullptr;
    EXPECT_OK(call.Run()) << "the error is not asked for";
    call.weights = nullptr, call.weights_stride = -5;
    EXPECT_OK(call.Run()) << "no weights, no stride";
    call.floats[3 * C::kStride + 7] = kInfinity;
    EXPECT_FAILS(call.Run(), kNotFinite, "int4q_codebook_fit", "source");
    EXPECT_NE(std::string(LastError().value).find("row 3, column 7"), std::string::npos) << LastError().value;
    call.begin = 4;
    EXPECT_OK(call.Run()) << "other rows do not matter";
}

}  // namespace
}  // namespace int4q_test
