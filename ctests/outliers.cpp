// SPDX-License-Identifier: Apache-2.0
// Outliers beside 4-bit weights: section 9 of the header, against re-derivations in binary64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
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
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

using Source = SourceMatrix;

constexpr double kHalfLogTwoPi = 0.91893853320467274178;

// Normal weights with a few far out.
void FillWithOutliers(Source &source, Random &random, double share = 0.02) {
    for (int64_t row = 0; row < source.n; row++) {
        for (int64_t column = 0; column < source.k; column++) {
            source.Set(row, column, 0.01f + 0.05f * random.Normal() * (random.Chance(share) ? 12 : 1));
        }
    }
}

int4q_outlier_fit Fit(const Source &source, double log_density = -4) {
    std::vector<double> moments(static_cast<size_t>(2 * source.n));
    EXPECT_OK(int4q_outliers_moments(source.buffer.data(), source.type, source.n, source.k, source.stride, moments.data(), 0,
                                     source.n));
    int4q_outlier_fit fit{};
    fit.struct_size = sizeof fit;
    EXPECT_OK(int4q_outliers_fit(moments.data(), source.n, source.k, log_density, &fit));
    return fit;
}

// A sparse matrix between guard pages, sized as the counts say, and a dense one of the source's shape.
struct Split {
    Split(const Source &source, const int4q_outlier_fit &fit, int4q_type dense_type = INT4Q_TYPE_F32)
        : dense(dense_type, source.n, source.k, source.k + 1),
          offsets(static_cast<size_t>(source.n + 1) * 8, Placement::kRight, 8) {
        std::vector<int64_t> counts(static_cast<size_t>(source.n));
        EXPECT_OK(int4q_outliers_count(&fit, source.buffer.data(), source.type, source.n, source.k, source.stride, counts.data(),
                                       0, source.n));
        EXPECT_OK(int4q_sparse_offsets(counts.data(), source.n, offsets.as<int64_t>(), &total));
        columns = GuardedBuffer(static_cast<size_t>(total) * 4, Placement::kRight, 4);
        values = GuardedBuffer(static_cast<size_t>(total) * 4, Placement::kRight, 4);
        raw = int4q_sparse{sizeof raw, 0, source.n, source.k, total, offsets.as<int64_t>(), columns.as<int32_t>(),
                           values.as<float>()};
    }

    int4q_status Run(const Source &source, const int4q_outlier_fit &fit, int64_t begin, int64_t end) {
        return int4q_outliers_split(&fit, source.buffer.data(), source.type, source.stride, &raw, dense.buffer.data(), dense.type,
                                    dense.stride, begin, end);
    }

    Source dense;
    GuardedBuffer offsets, columns, values;
    int64_t total = 0;
    int4q_sparse raw;
};

TEST(Outliers, MomentsAndFitEqualBinary64) {
    Random random(1);
    for (int4q_type type : kTypes) {
        for (int64_t k : {1, 15, 16, 17, 256, 257, 700}) {
            for (int4q_isa isa : UsableIsas()) {
                IsaLimit limit(isa);
                Source source(type, 13, k, k + 3);
                FillWithOutliers(source, random);
                source.buffer.ForbidWriting();
                long double sum = 0, squares = 0;
                for (int64_t i = 0; i < 13 * k; i++) sum += source(i / k, i % k);
                const double mean = static_cast<double>(sum / (13 * k));
                for (int64_t i = 0; i < 13 * k; i++) squares += std::pow(static_cast<long double>(source(i / k, i % k)) - sum / (13 * k), 2);
                const double sigma = std::sqrt(static_cast<double>(squares / (13 * k)));
                const int4q_outlier_fit fit = Fit(source);
                EXPECT_NEAR(fit.mean, mean, 1e-13);
                EXPECT_NEAR(fit.sigma, sigma, 1e-13);
                // At the limit the density's logarithm is the threshold.
                EXPECT_NEAR(-std::pow(fit.limit / fit.sigma, 2) / 2 - std::log(fit.sigma) - kHalfLogTwoPi, -4, 1e-10);
                EXPECT_GE(fit.lowest, fit.mean - fit.limit);
                EXPECT_LT(std::nextafter(fit.lowest, -1e30f), fit.mean - fit.limit);
                EXPECT_LE(fit.highest, fit.mean + fit.limit);
                EXPECT_GT(std::nextafter(fit.highest, 1e30f), fit.mean + fit.limit);
            }
        }
    }
}

TEST(Outliers, MomentsDoNotDependOnRangesOrInstructionSets) {
    Random random(2);
    Source source(INT4Q_TYPE_BF16, 9, 333, 340);
    FillWithOutliers(source, random);
    std::vector<double> whole(18), parts(18, -1.0);
    const auto run = [&](std::vector<double> &moments, int64_t begin, int64_t end) {
        return int4q_outliers_moments(source.buffer.data(), source.type, 9, 333, 340, moments.data(), begin, end);
    };
    ASSERT_OK(run(whole, 0, 9));
    for (int4q_isa isa : UsableIsas()) {
        IsaLimit limit(isa);
        for (int64_t row : {3, 8, 0, 1, 2}) ASSERT_OK(run(parts, row, row + 1));
        ASSERT_OK(run(parts, 4, 8));
        EXPECT_EQ(whole, parts);
    }
}

TEST(Outliers, ConstantsAndWideDistributions) {
    Source constant(INT4Q_TYPE_F32, 3, 40, 40);
    for (int64_t i = 0; i < 120; i++) constant.Set(i / 40, i % 40, 0.1f);
    int4q_outlier_fit fit = Fit(constant);
    EXPECT_EQ(fit.mean, static_cast<double>(0.1f));
    EXPECT_EQ(fit.sigma, 0);
    EXPECT_EQ(fit.limit, std::numeric_limits<double>::infinity());
    EXPECT_EQ(Split(constant, fit).total, 0);
    // A density below e^-4 everywhere: all are outliers.
    Source wide(INT4Q_TYPE_F32, 2, 50, 50);
    Random random(3);
    for (int64_t i = 0; i < 100; i++) wide.Set(i / 50, i % 50, 1000 * random.Normal());
    fit = Fit(wide);
    EXPECT_EQ(fit.limit, 0);
    EXPECT_GE(Split(wide, fit).total, 99);
    Source one(INT4Q_TYPE_F16, 1, 1, 1);
    one.Set(0, 0, -2);
    EXPECT_EQ(Split(one, Fit(one)).total, 0);
}

TEST(Outliers, SplitPartsAddUpToTheWeights) {
    Random random(4);
    for (int4q_type type : kTypes) {
        for (int64_t k : {1, 16, 100, 256, 600}) {
            for (int4q_isa isa : UsableIsas()) {
                IsaLimit limit(isa);
                Source source(type, 17, k, k + 2);
                FillWithOutliers(source, random, 0.1);
                source.buffer.ForbidWriting();
                const int4q_outlier_fit fit = Fit(source);
                Split split(source, fit);
                ASSERT_OK(split.Run(source, fit, 5, 17));
                ASSERT_OK(split.Run(source, fit, 0, 5));
                int64_t next = 0;
                for (int64_t row = 0; row < 17; row++) {
                    ASSERT_EQ(split.raw.row_offsets[row], next);
                    for (int64_t column = 0; column < k; column++) {
                        const float weight = source(row, column);
                        const bool is_outlier = std::fabs(static_cast<double>(weight) - fit.mean) > fit.limit;
                        if (is_outlier) {
                            ASSERT_EQ(split.raw.columns[next], column);
                            ASSERT_EQ(split.raw.values[next], weight);
                            ASSERT_EQ(split.dense(row, column), static_cast<float>(fit.mean));
                            next++;
                        } else {
                            ASSERT_EQ(split.dense(row, column), weight);
                        }
                    }
                }
                ASSERT_EQ(split.total, next);
            }
        }
    }
}

TEST(Outliers, SplitInPlace) {
    Random random(5);
    Source source(INT4Q_TYPE_F16, 6, 300, 300);
    FillWithOutliers(source, random, 0.1);
    const int4q_outlier_fit fit = Fit(source);
    Split split(source, fit, INT4Q_TYPE_F16), same(source, fit);
    ASSERT_OK(split.Run(source, fit, 0, 6));
    ASSERT_OK(int4q_outliers_split(&fit, source.buffer.data(), source.type, source.stride, &same.raw, source.buffer.data(),
                                   source.type, source.stride, 0, 6));
    for (int64_t i = 0; i < 1800; i++) ASSERT_EQ(source(i / 300, i % 300), split.dense(i / 300, i % 300));
    ASSERT_GT(split.total, 0);
    EXPECT_EQ(0, std::memcmp(split.values.data(), same.values.data(), split.values.size()));
}

// Dequantized + sparse value is the weight, for every scheme.
TEST(Outliers, CorrectedValuesRestoreTheWeights) {
    Random random(6);
    Source source(INT4Q_TYPE_F32, 7, 130, 131);
    FillWithOutliers(source, random, 0.1);
    const int4q_outlier_fit fit = Fit(source);
    for (int32_t group_size : kAllGroupSizes) {
        std::vector<int4q_scheme> schemes = AllSchemes(group_size, INT4Q_TYPE_F16);
        for (int32_t kind : {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET}) {
            schemes.push_back(MakeScheme(kind, group_size, INT4Q_TYPE_F16));
            schemes.back().code_bits = 8;
        }
        for (int32_t kind : {INT4Q_KIND_BINARY, INT4Q_KIND_TERNARY}) {
            if (group_size != 16) schemes.push_back(MakeScheme(kind, group_size, INT4Q_TYPE_F16));
        }
        for (const int4q_scheme &scheme : schemes) {
            Split split(source, fit);
            ASSERT_OK(split.Run(source, fit, 0, 7));
            TensorMemory tensor(scheme, 7, 130);
            ASSERT_OK(split.dense.Quantize(tensor));
            for (int repeat = 0; repeat < 2; repeat++) {
                ASSERT_OK(int4q_outliers_correct(tensor.get(), source.buffer.data(), source.type, source.stride, &split.raw, 0, 3));
                ASSERT_OK(int4q_outliers_correct(tensor.get(), source.buffer.data(), source.type, source.stride, &split.raw, 3, 7));
            }
            std::vector<float> back(7 * 130);
            ASSERT_OK(int4q_dequantize_rows(tensor.get(), back.data(), INT4Q_TYPE_F32, 130, 0, 7));
            for (int64_t row = 0; row < 7; row++) {
                for (int64_t i = split.raw.row_offsets[row]; i < split.raw.row_offsets[row + 1]; i++) {
                    const int64_t column = split.raw.columns[i];
                    const double value = split.raw.values[i];
                    const double sum = static_cast<double>(back[static_cast<size_t>(row * 130 + column)]) + value;
                    ASSERT_LE(std::fabs(sum - source(row, column)), 0x1p-24 * std::fabs(value)) << Name(scheme);
                }
            }
        }
    }
}

// ---- The sparse product ----------------------------------------------------------------------------------------------

struct SparseProblem {
    SparseProblem(Random &random, int64_t n, int64_t k, double share) : n(n), k(k), offsets(1, 0) {
        for (int64_t row = 0; row < n; row++) {
            for (int64_t column = 0; column < k; column++) {
                if (!random.Chance(share)) continue;
                columns.push_back(static_cast<int32_t>(column));
                values.push_back(random.Normal());
            }
            offsets.push_back(static_cast<int64_t>(values.size()));
        }
        raw = int4q_sparse{sizeof raw, 0, n, k, static_cast<int64_t>(values.size()), offsets.data(), columns.data(), values.data()};
    }
    SparseProblem(const SparseProblem &) = delete;

    int64_t n, k;
    std::vector<int64_t> offsets;
    std::vector<int32_t> columns;
    std::vector<float> values;
    int4q_sparse raw;
};

TEST(SparseAdd, IsWithinItsBoundOfBinary64) {
    Random random(7);
    for (int4q_type x_type : kTypes) {
        for (int4q_type y_type : kTypes) {
            for (int64_t m : {1, 2, 3, 4, 5, 9}) {
                const SparseProblem problem(random, 37, 81, m == 3 ? 0.9 : 0.05);
                Source x(x_type, m, 81, 84), y(y_type, m, 37, 40);
                for (int64_t i = 0; i < m * 81; i++) x.Set(i / 81, i % 81, random.Normal());
                for (int64_t i = 0; i < m * 37; i++) y.Set(i / 37, i % 37, random.Normal());
                std::vector<float> before;
                for (int64_t i = 0; i < m * 37; i++) before.push_back(y(i / 37, i % 37));
                x.buffer.ForbidWriting();
                ASSERT_OK(int4q_sparse_add(&problem.raw, m, x.buffer.data(), x_type, 84, y.buffer.data(), y_type, 40, 0, 37));
                for (int64_t i = 0; i < m; i++) {
                    for (int64_t j = 0; j < 37; j++) {
                        const double start = before[static_cast<size_t>(i * 37 + j)];
                        long double sum = start;
                        double magnitude = std::fabs(start);
                        const int64_t begin = problem.offsets[static_cast<size_t>(j)], end = problem.offsets[static_cast<size_t>(j + 1)];
                        for (int64_t p = begin; p < end; p++) {
                            const double term = static_cast<double>(x(i, problem.columns[static_cast<size_t>(p)])) *
                                                static_cast<double>(problem.values[static_cast<size_t>(p)]);
                            sum += term;
                            magnitude += std::fabs(term);
                        }
                        const double got = y(i, j);
                        if (begin == end) {
                            ASSERT_EQ(got, start);
                        }
                        const double u = UnitRoundoff(y_type) + (y_type == INT4Q_TYPE_F32 ? 0 : 0x1p-24);
                        const double bound = u * std::fabs(got) + 0x1p-52 * static_cast<double>(1 + end - begin) * magnitude +
                                             HalfSubnormal(y_type) + 0x1p-150;
                        ASSERT_LE(std::fabs(static_cast<double>(got - sum)), bound * (1 + UnitRoundoff(y_type)));
                    }
                }
            }
        }
    }
}

// The same bits whatever the number of rows and the cuts.
TEST(SparseAdd, RangesAndBatchesDoNotMatter) {
    Random random(8);
    const SparseProblem problem(random, 50, 64, 0.2);
    std::vector<float> x(11 * 64), whole(11 * 50, 0.5f), parts = whole, rows = whole;
    for (float &value : x) value = random.Normal();
    const auto add = [&](const float *x_rows, float *y, int64_t m, int64_t begin, int64_t end) {
        ASSERT_OK(int4q_sparse_add(&problem.raw, m, x_rows, INT4Q_TYPE_F32, 64, y, INT4Q_TYPE_F32, 50, begin, end));
    };
    add(x.data(), whole.data(), 11, 0, 50);
    for (int64_t cut : {30, 0, 10, 20, 40}) add(x.data(), parts.data(), 11, cut, cut + 10);
    for (size_t row = 0; row < 11; row++) add(x.data() + row * 64, rows.data() + row * 50, 1, 0, 50);
    EXPECT_EQ(0, std::memcmp(whole.data(), parts.data(), whole.size() * 4));
    EXPECT_EQ(0, std::memcmp(whole.data(), rows.data(), whole.size() * 4));
}

TEST(SparseAdd, NothingInNothingOut) {
    int64_t offsets[4] = {0, 0, 0, 0};
    const int4q_sparse sparse{sizeof sparse, 0, 3, 5, 0, offsets, nullptr, nullptr};
    const float x[5] = {std::numeric_limits<float>::quiet_NaN(), 1, 2, 3, 4};
    float y[3] = {-0.0f, 1, 2};
    ASSERT_OK(int4q_sparse_add(&sparse, 1, x, INT4Q_TYPE_F32, 5, y, INT4Q_TYPE_F32, 3, 0, 3));
    EXPECT_TRUE(std::signbit(y[0]));
    EXPECT_EQ(y[1], 1);
    EXPECT_EQ(y[2], 2);
}

// Outliers and 4-bit weights together: the product of the weights that dequantized + sparse stand for.
TEST(SparseAdd, MatmulAndSparseAddAreTheProduct) {
    Random random(9);
    const int64_t m = 3, n = 40, k = 160;
    Source source(INT4Q_TYPE_F32, n, k, k);
    FillWithOutliers(source, random, 0.03);
    const int4q_outlier_fit fit = Fit(source);
    Split split(source, fit);
    ASSERT_OK(split.Run(source, fit, 0, n));
    std::vector<float> codebook(16);
    uint64_t bytes = 0;
    ASSERT_OK(int4q_gobo_scratch_size(n, k, &bytes));
    GuardedBuffer scratch(static_cast<size_t>(bytes), Placement::kRight, 64);
    ASSERT_OK(int4q_gobo_centroids(&fit, source.buffer.data(), source.type, n, k, k, scratch.data(), bytes, codebook.data(),
                                   nullptr, nullptr));
    int4q_scheme scheme = MakeScheme(INT4Q_KIND_CODEBOOK, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F32, INT4Q_SCALE_ONE);
    TensorMemory tensor(scheme, n, k, Placement::kRight, codebook.data());
    ASSERT_OK(split.dense.Quantize(tensor));
    for (int64_t row = 0; row < n; row++) ASSERT_EQ(LoadElement(tensor->scales, INT4Q_TYPE_F32, row), 1.0f);
    ASSERT_OK(int4q_outliers_correct(tensor.get(), source.buffer.data(), source.type, source.stride, &split.raw, 0, n));

    uint64_t blob_bytes = 0;
    ASSERT_OK(int4q_blob_size(&scheme, n, k, &blob_bytes));
    GuardedBuffer blob(static_cast<size_t>(blob_bytes), Placement::kRight, 64);
    ASSERT_OK(int4q_pack_rows(tensor.get(), blob.data(), blob_bytes, 0, n));
    int4q_matmul_desc desc{};
    desc.struct_size = sizeof desc;
    desc.mode = INT4Q_MODE_F32;
    desc.m = m, desc.n = n, desc.k = k;
    desc.scheme = scheme;
    desc.x_type = desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = 1;
    int4q_matmul_plan plan{};
    plan.struct_size = sizeof plan;
    ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
    GuardedBuffer work(static_cast<size_t>(plan.scratch_bytes), Placement::kRight, 64);
    std::vector<float> x(static_cast<size_t>(m * k)), y(static_cast<size_t>(m * n)), dense(static_cast<size_t>(n * k));
    for (float &value : x) value = random.Normal();
    int4q_matmul_args args{};
    args.struct_size = sizeof args;
    args.x = x.data(), args.ldx = k;
    args.blob = blob.data(), args.blob_bytes = blob_bytes;
    args.y = y.data(), args.ldy = n;
    args.scratch = work.data(), args.scratch_bytes = plan.scratch_bytes;
    ASSERT_OK(int4q_matmul(&plan, &args, nullptr, nullptr));
    ASSERT_OK(int4q_sparse_add(&split.raw, m, x.data(), INT4Q_TYPE_F32, k, y.data(), INT4Q_TYPE_F32, n, 0, n));
    std::vector<double> bounds(static_cast<size_t>(m * n));
    ASSERT_OK(int4q_error_bound(&plan, &args, INT4Q_BOUND_WORST_CASE, bounds.data(), n));

    ASSERT_OK(int4q_dequantize_rows(tensor.get(), dense.data(), INT4Q_TYPE_F32, k, 0, n));
    double largest = 0, largest_weight = 0;
    for (int64_t j = 0; j < n; j++) {
        std::vector<double> weights(dense.begin() + j * k, dense.begin() + (j + 1) * k);
        for (int64_t p = split.raw.row_offsets[j]; p < split.raw.row_offsets[j + 1]; p++) {
            weights[static_cast<size_t>(split.raw.columns[p])] += split.raw.values[p];
        }
        for (int64_t l = 0; l < k; l++) {
            const double error = std::fabs(weights[static_cast<size_t>(l)] - source(j, l));
            const bool is_outlier = source(j, l) < fit.lowest || source(j, l) > fit.highest;
            if (is_outlier) {
                EXPECT_LT(error, 1e-7);
            }
            largest = std::max(largest, error);
            largest_weight = std::max(largest_weight, std::fabs(static_cast<double>(source(j, l))));
        }
        for (int64_t i = 0; i < m; i++) {
            double sum = 0, magnitude = 0;
            for (int64_t l = 0; l < k; l++) {
                sum += x[static_cast<size_t>(i * k + l)] * weights[static_cast<size_t>(l)];
                magnitude += std::fabs(x[static_cast<size_t>(i * k + l)] * weights[static_cast<size_t>(l)]);
            }
            const double got = y[static_cast<size_t>(i * n + j)];
            EXPECT_LE(std::fabs(got - sum), bounds[static_cast<size_t>(i * n + j)] + 0x1p-23 * std::fabs(got) + 1e-13 * magnitude);
        }
    }
    // Without the split, 16 values would have to span all weights.
    EXPECT_LT(largest, 0.2 * largest_weight);
}

// ---- GOBO's centroids ------------------------------------------------------------------------------------------------

struct ReferenceCentroids {
    std::vector<double> best;
    double error = std::numeric_limits<double>::infinity();
    int64_t iterations = 0;
};

// With the running sum of the header, and a plain pass for each step.
ReferenceCentroids Centroids(std::vector<float> weights) {
    std::sort(weights.begin(), weights.end());
    const size_t count = weights.size();
    std::vector<double> sums(count + 1, 0.0);
    for (size_t i = 0; i < count; i++) sums[i + 1] = sums[i] + weights[i];
    std::vector<size_t> begins;
    for (size_t i = 0; i <= 16; i++) begins.push_back(count * i / 16);
    std::vector<double> values;
    for (size_t i = 0; i < 16; i++) values.push_back(weights[std::min(begins[i], count - 1)]);
    const auto move = [&] {
        for (size_t i = 0; i < 16; i++) {
            if (begins[i + 1] == begins[i]) continue;
            values[i] = (sums[begins[i + 1]] - sums[begins[i]]) / static_cast<double>(begins[i + 1] - begins[i]);
        }
    };
    move();
    ReferenceCentroids result;
    for (;; result.iterations++) {
        for (size_t i = 1; i < 16; i++) {
            const double middle = (values[i - 1] + values[i]) / 2;
            begins[i] = static_cast<size_t>(std::upper_bound(weights.begin(), weights.end(), middle) - weights.begin());
        }
        double error = 0;
        for (size_t i = 0; i < 16; i++) {
            for (size_t j = begins[i]; j < begins[i + 1]; j++) error += std::fabs(weights[j] - values[i]);
        }
        if (!(error < result.error * (1 - 1e-13))) return result;
        result.error = error;
        result.best = values;
        move();
    }
}

std::vector<float> Inliers(const Source &source, const int4q_outlier_fit *fit) {
    std::vector<float> weights;
    for (int64_t row = 0; row < source.n; row++) {
        for (int64_t column = 0; column < source.k; column++) {
            const float weight = source(row, column);
            if (!fit || (weight >= fit->lowest && weight <= fit->highest)) weights.push_back(weight);
        }
    }
    return weights;
}

TEST(Gobo, CentroidsEqualTheRederivation) {
    Random random(10);
    for (int4q_type type : kTypes) {
        for (int64_t n : {1, 3, 20}) {
            for (int64_t k : {1, 7, 16, 90, 600}) {
                for (bool with_fit : {false, true}) {
                    Source source(type, n, k, k + 1);
                    FillWithOutliers(source, random);
                    source.buffer.ForbidWriting();
                    const int4q_outlier_fit fit = Fit(source);
                    const ReferenceCentroids wanted = Centroids(Inliers(source, with_fit ? &fit : nullptr));
                    uint64_t bytes = 0;
                    ASSERT_OK(int4q_gobo_scratch_size(n, k, &bytes));
                    GuardedBuffer scratch(static_cast<size_t>(bytes), Placement::kRight, 64);
                    float centroids[16];
                    int64_t iterations = -1;
                    double error = -1;
                    ASSERT_OK(int4q_gobo_centroids(with_fit ? &fit : nullptr, source.buffer.data(), type, n, k, k + 1,
                                                   scratch.data(), bytes, centroids, &iterations, &error));
                    const double count = static_cast<double>(Inliers(source, with_fit ? &fit : nullptr).size());
                    EXPECT_NEAR(error, wanted.error / count, 1e-12 + 1e-9 * error);
                    if (iterations != wanted.iterations) continue;  // a last step of rounding errors
                    for (size_t i = 0; i < 16; i++) EXPECT_EQ(centroids[i], static_cast<float>(wanted.best[i])) << i;
                }
            }
        }
    }
}

TEST(Gobo, SixteenValuesComeBackAndTheErrorFalls) {
    Random random(11);
    Source levels(INT4Q_TYPE_F32, 8, 64, 64);
    for (int64_t i = 0; i < 512; i++) levels.Set(i / 64, i % 64, static_cast<float>(i % 16) - 3);
    uint64_t bytes = 0;
    ASSERT_OK(int4q_gobo_scratch_size(8, 64, &bytes));
    GuardedBuffer scratch(static_cast<size_t>(bytes), Placement::kRight, 64);
    float centroids[16];
    double error = -1;
    ASSERT_OK(int4q_gobo_centroids(nullptr, levels.buffer.data(), INT4Q_TYPE_F32, 8, 64, 64, scratch.data(), bytes, centroids,
                                   nullptr, &error));
    for (int i = 0; i < 16; i++) EXPECT_EQ(centroids[i], static_cast<float>(i - 3));
    EXPECT_EQ(error, 0);
    for (float constant : {0.25f, 0.0f, -7.5f}) {
        for (int64_t i = 0; i < 512; i++) levels.Set(i / 64, i % 64, constant);
        ASSERT_OK(int4q_gobo_centroids(nullptr, levels.buffer.data(), INT4Q_TYPE_F32, 8, 64, 64, scratch.data(), bytes, centroids,
                                       nullptr, &error));
        for (float centroid : centroids) EXPECT_EQ(centroid, constant);
        EXPECT_EQ(error, 0);
    }
}

// ---- Bad arguments ---------------------------------------------------------------------------------------------------

// A valid 4 x 20 problem for every call.
struct OutlierCall {
    alignas(64) float weights[4 * 21 + 1];
    alignas(64) float dense[4 * 21 + 1] = {};
    alignas(64) int64_t offsets[6] = {0, 1, 2, 3, 4, 0};
    alignas(64) int32_t columns[5] = {5, 6, 7, 8, 0};
    alignas(64) float values[5] = {1, 2, 3, 4, 0};
    alignas(64) double moments[9] = {};
    int4q_outlier_fit fits[2] = {};
    int4q_sparse sparses[2] = {};
    const int4q_outlier_fit *fit = fits;
    const int4q_sparse *sparse = sparses;
    void *source = weights, *target = dense;
    int4q_type type = INT4Q_TYPE_F32, target_type = INT4Q_TYPE_F32;
    int64_t n = 4, k = 20, stride = 21, target_stride = 21, begin = 0, end = 4;

    OutlierCall() {
        for (int i = 0; i < 4 * 21 + 1; i++) weights[i] = static_cast<float>(i % 5) - 2;
        for (int i = 0; i < 4; i++) weights[i * 21 + 5 + i] = 100;
        fits[0] = int4q_outlier_fit{sizeof fits[0], 0, 0, 1, 50, -50, 50};
        sparses[0] = int4q_sparse{sizeof sparses[0], 0, 4, 20, 4, offsets, columns, values};
    }
    std::string Outputs() const {
        return BytesOf(dense) + BytesOf(offsets) + BytesOf(columns) + BytesOf(values) + BytesOf(moments);
    }
};

template <typename C>
void AddSource(BadTable<C> &table) {
    AddMatrix(table, "source", &C::source, &C::type, "source_type", &C::stride, "source_stride", 20);
    AddRanges(table, 4, "row_begin", "row_end");
}

template <typename C>
void AddSizes(BadTable<C> &table) {
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    AddValues(table, "source_stride", &C::k, {22, kMax64});
}

template <typename C>
void AddFits(BadTable<C> &table) {
    using F = int4q_outlier_fit;
    BadTable<F> fields;
    AddStructSizes(fields, &F::struct_size, sizeof(F));
    AddValues(fields, "reserved", &F::reserved, {1});
    const float nan = std::numeric_limits<float>::quiet_NaN();
    fields.push_back({"lowest > highest", [](F &f) { f.lowest = 51; }, kInvalid, "lowest"});
    fields.push_back({"lowest NaN", [=](F &f) { f.lowest = nan; }, kInvalid, "lowest"});
    fields.push_back({"highest NaN", [=](F &f) { f.highest = nan; }, kInvalid, "lowest"});
    fields.push_back({"mean NaN", [=](F &f) { f.mean = nan; }, kNotFinite, "mean"});
    AddWithin(table, fields, [](C &c) -> F & { return c.fits[0]; });
    AddPointer(table, "fit", &C::fit, {4});
}

template <typename C>
void AddSparses(BadTable<C> &table, bool reads_columns) {
    using S = int4q_sparse;
    BadTable<S> fields;
    AddStructSizes(fields, &S::struct_size, sizeof(S));
    AddValues(fields, "reserved", &S::reserved, {1});
    AddValues(fields, "n", &S::n, {0, -1, kMin64});
    AddValues(fields, "n", &S::n, {kMax64}, kOverflow);
    AddValues(fields, "k", &S::k, {0, -1, kMin64, int64_t{1} << 31});
    AddValues(fields, "capacity", &S::capacity, {-1, kMin64});
    AddValues(fields, "capacity", &S::capacity, {kMax64}, kOverflow);
    AddValues(fields, "row_offsets", &S::capacity, {3}, kCorrupt);
    AddPointer(fields, "row_offsets", &S::row_offsets, {4});
    AddPointer(fields, "columns", &S::columns, {2});
    AddPointer(fields, "values", &S::values, {2});
    AddWithin(table, fields, [](C &c) -> S & { return c.sparses[0]; });
    AddPointer(table, "sparse", &C::sparse, {4});
    const auto offset = [&](size_t row, int64_t value) {
        table.push_back({"row_offsets[" + std::to_string(row) + "] = " + std::to_string(value),
                         [=](C &c) { c.offsets[row] = value; }, kCorrupt, "row_offsets"});
    };
    for (int64_t bad : {int64_t{-1}, kMin64, int64_t{5}, kMax64}) offset(0, bad), offset(2, bad), offset(4, bad);
    offset(2, 0);
    if (!reads_columns) return;
    for (int32_t bad : {-1, 20, kMax32, kMin32}) {
        table.push_back({"columns[3] = " + std::to_string(bad), [=](C &c) { c.columns[3] = bad; }, kCorrupt, "columns"});
    }
    for (int32_t bad : {5, 4, 0}) {
        table.push_back({"a row whose columns are 5 and " + std::to_string(bad),
                         [=](C &c) { c.offsets[1] = 2, c.columns[1] = bad; }, kCorrupt, "columns"});
    }
}

struct MomentsCall : OutlierCall {
    double *out = moments;
    int4q_status Run() { return int4q_outliers_moments(source, type, n, k, stride, out, begin, end); }
};

TEST(BadOutlierArguments, Moments) {
    BadTable<MomentsCall> table;
    AddSource(table);
    AddSizes(table);
    AddPointer(table, "moments", &MomentsCall::out, {1, 4});
    ExpectRefused<MomentsCall>("int4q_outliers_moments", [] { return std::make_unique<MomentsCall>(); }, table);
}

struct CountCall : OutlierCall {
    int64_t *out = offsets;
    int4q_status Run() { return int4q_outliers_count(fit, source, type, n, k, stride, out, begin, end); }
};

TEST(BadOutlierArguments, Count) {
    BadTable<CountCall> table;
    AddSource(table);
    AddSizes(table);
    AddFits(table);
    AddPointer(table, "row_counts", &CountCall::out, {1, 4});
    ExpectRefused<CountCall>("int4q_outliers_count", [] { return std::make_unique<CountCall>(); }, table);
}

struct SplitCall : OutlierCall {
    int4q_status Run() {
        return int4q_outliers_split(fit, source, type, stride, sparse, target, target_type, target_stride, begin, end);
    }
};

TEST(BadOutlierArguments, Split) {
    BadTable<SplitCall> table;
    AddSource(table);
    AddFits(table);
    AddSparses(table, false);
    AddMatrix(table, "dense", &SplitCall::target, &SplitCall::target_type, "dense_type", &SplitCall::target_stride, "dense_stride", 20);
    ExpectRefused<SplitCall>("int4q_outliers_split", [] { return std::make_unique<SplitCall>(); }, table);
}

TEST(BadOutlierArguments, OffsetsOfAnotherFit) {
    SplitCall call;
    for (int64_t wrong : {0, 2}) {
        call.offsets[1] = wrong;
        EXPECT_FAILS(call.Run(), kMismatch, "int4q_outliers_split", "row_offsets");
    }
    call.offsets[1] = 1;
    EXPECT_OK(call.Run());
}

struct CorrectCall : OutlierCall {
    alignas(64) uint8_t codes[40] = {};
    alignas(64) float scales[4] = {1, 1, 1, 1};
    int4q_tensor tensors[2] = {};
    const int4q_tensor *tensor = tensors;
    CorrectCall() {
        tensors[0].struct_size = sizeof tensors[0];
        tensors[0].scheme = MakeScheme(INT4Q_KIND_SYMMETRIC, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F32);
        tensors[0].n = 4, tensors[0].k = 20;
        tensors[0].codes = codes, tensors[0].codes_bytes = 40;
        tensors[0].scales = scales, tensors[0].scales_bytes = 16;
    }
    int4q_status Run() { return int4q_outliers_correct(tensor, source, type, stride, sparse, begin, end); }
};

TEST(BadOutlierArguments, Correct) {
    BadTable<CorrectCall> table;
    AddSource(table);
    AddSparses(table, true);
    AddPointer(table, "tensor", &CorrectCall::tensor, {4});
    table.push_back({"another n", [](CorrectCall &c) { c.sparses[0].n = 3; }, kMismatch, "n"});
    table.push_back({"another k", [](CorrectCall &c) { c.sparses[0].k = 21; }, kMismatch, "k"});
    table.push_back({"a tensor without codes", [](CorrectCall &c) { c.tensors[0].codes = nullptr; }, kNull, "codes"});
    // A struct's n and k are also wrong because they are not the tensor's.
    ExpectRefused<CorrectCall>("int4q_outliers_correct", [] { return std::make_unique<CorrectCall>(); }, table);
    CorrectCall call;
    call.weights[5] = std::numeric_limits<float>::infinity();
    EXPECT_FAILS(call.Run(), kNotFinite, "int4q_outliers_correct", "source");
}

struct AddCall : OutlierCall {
    int64_t m = 4;
    AddCall() { sparses[0].n = 4; }
    int4q_status Run() {
        return int4q_sparse_add(sparse, m, source, type, stride, target, target_type, target_stride, begin, end);
    }
};

TEST(BadOutlierArguments, SparseAdd) {
    BadTable<AddCall> table;
    AddSparses(table, true);
    AddMatrix(table, "x", &AddCall::source, &AddCall::type, "x_type", &AddCall::stride, "ldx", 20);
    AddMatrix(table, "y", &AddCall::target, &AddCall::target_type, "y_type", &AddCall::target_stride, "ldy", 4);
    AddRanges(table, 4, "row_begin", "row_end");
    AddValues(table, "m", &AddCall::m, {0, -1, kMin64});
    ExpectRefused<AddCall>("int4q_sparse_add", [] { return std::make_unique<AddCall>(); }, table);
}

TEST(BadOutlierArguments, NotFiniteWeights) {
    for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        OutlierCall c;
        c.weights[2 * 21 + 19] = bad;
        alignas(64) char scratch[2000];
        float centroids[16];
        EXPECT_FAILS(int4q_outliers_moments(c.weights, c.type, 4, 20, 21, c.moments, 0, 4), kNotFinite, "int4q_outliers_moments", "source");
        EXPECT_NE(std::string(LastError().value).find("row 2, column 19"), std::string::npos);
        EXPECT_FAILS(int4q_outliers_count(c.fit, c.weights, c.type, 4, 20, 21, c.offsets, 0, 4), kNotFinite, "int4q_outliers_count", "source");
        OutlierCall d;
        d.weights[2 * 21 + 19] = bad;
        EXPECT_FAILS(int4q_outliers_split(d.fit, d.weights, d.type, 21, d.sparse, d.dense, d.type, 21, 0, 4), kNotFinite,
                     "int4q_outliers_split", "source");
        EXPECT_FAILS(int4q_gobo_centroids(nullptr, d.weights, d.type, 4, 20, 21, scratch, sizeof scratch, centroids, nullptr, nullptr),
                     kNotFinite, "int4q_gobo_centroids", "source");
    }
}

TEST(BadOutlierArguments, FitAndOffsets) {
    double moments[4] = {0, 1, 0, 1};
    int4q_outlier_fit fit{};
    fit.struct_size = sizeof fit;
    EXPECT_OK(int4q_outliers_fit(moments, 2, 10, -4, &fit));
    EXPECT_FAILS(int4q_outliers_fit(nullptr, 2, 10, -4, &fit), kNull, "int4q_outliers_fit", "moments");
    EXPECT_FAILS(int4q_outliers_fit(Shift(moments, 4), 1, 10, -4, &fit), kMisaligned, "int4q_outliers_fit", "moments");
    EXPECT_FAILS(int4q_outliers_fit(moments, 0, 10, -4, &fit), kInvalid, "int4q_outliers_fit", "n");
    EXPECT_FAILS(int4q_outliers_fit(moments, kMax64, 10, -4, &fit), kOverflow, "int4q_outliers_fit", "n");
    EXPECT_FAILS(int4q_outliers_fit(moments, 2, 0, -4, &fit), kInvalid, "int4q_outliers_fit", "k");
    EXPECT_FAILS(int4q_outliers_fit(moments, 2, 10, std::nan(""), &fit), kNotFinite, "int4q_outliers_fit", "log_density");
    EXPECT_FAILS(int4q_outliers_fit(moments, 2, 10, -4, nullptr), kNull, "int4q_outliers_fit", "fit");
    for (double bad : {std::nan(""), -1.0, static_cast<double>(INFINITY)}) {
        moments[3] = bad;
        EXPECT_FAILS(int4q_outliers_fit(moments, 2, 10, -4, &fit), kNotFinite, "int4q_outliers_fit", "moments");
    }
    int64_t counts[3] = {1, 2, 3}, total = 0;
    EXPECT_OK(int4q_sparse_offsets(counts, 2, counts, &total));  // in place
    EXPECT_EQ(counts[0], 0);
    EXPECT_EQ(counts[1], 1);
    EXPECT_EQ(counts[2], 3);
    EXPECT_EQ(total, 3);
    counts[0] = 5, counts[1] = -1;
    EXPECT_FAILS(int4q_sparse_offsets(counts, 2, counts, &total), kInvalid, "int4q_sparse_offsets", "row_counts");
    counts[0] = counts[1] = kMax64;
    EXPECT_FAILS(int4q_sparse_offsets(counts, 2, counts, &total), kOverflow, "int4q_sparse_offsets", "row_counts");
    EXPECT_FAILS(int4q_sparse_offsets(nullptr, 2, counts, &total), kNull, "int4q_sparse_offsets", "row_counts");
    EXPECT_FAILS(int4q_sparse_offsets(counts, 0, counts, &total), kInvalid, "int4q_sparse_offsets", "n");
    EXPECT_FAILS(int4q_sparse_offsets(counts, kMax64, counts, &total), kOverflow, "int4q_sparse_offsets", "n");
    EXPECT_FAILS(int4q_sparse_offsets(counts, 2, nullptr, &total), kNull, "int4q_sparse_offsets", "row_offsets");
    EXPECT_FAILS(int4q_sparse_offsets(counts, 2, counts, nullptr), kNull, "int4q_sparse_offsets", "total");
}

TEST(BadOutlierArguments, Gobo) {
    OutlierCall c;
    alignas(64) char scratch[2000];
    alignas(8) float centroids[17];
    uint64_t bytes = 0;
    EXPECT_FAILS(int4q_gobo_scratch_size(0, 20, &bytes), kInvalid, "int4q_gobo_scratch_size", "n");
    EXPECT_FAILS(int4q_gobo_scratch_size(4, 0, &bytes), kInvalid, "int4q_gobo_scratch_size", "k");
    EXPECT_FAILS(int4q_gobo_scratch_size(int64_t{1} << 40, int64_t{1} << 40, &bytes), kOverflow, "int4q_gobo_scratch_size", "n");
    EXPECT_FAILS(int4q_gobo_scratch_size(4, 20, nullptr), kNull, "int4q_gobo_scratch_size", "scratch_bytes");
    ASSERT_OK(int4q_gobo_scratch_size(4, 20, &bytes));
    const auto run = [&](const int4q_outlier_fit *fit, void *memory, uint64_t memory_bytes, float *out) {
        return int4q_gobo_centroids(fit, c.weights, c.type, 4, 20, 21, memory, memory_bytes, out, nullptr, nullptr);
    };
    const char *name = "int4q_gobo_centroids";
    EXPECT_OK(run(c.fit, scratch, bytes, centroids));
    EXPECT_FAILS(run(c.fit, nullptr, bytes, centroids), kNull, name, "scratch");
    EXPECT_FAILS(run(c.fit, scratch + 32, bytes, centroids), kMisaligned, name, "scratch");
    EXPECT_FAILS(run(c.fit, scratch, bytes - 1, centroids), kTooSmall, name, "scratch_bytes");
    EXPECT_FAILS(run(c.fit, scratch, bytes, nullptr), kNull, name, "centroids");
    EXPECT_FAILS(run(c.fit, scratch, bytes, Shift(centroids, 2)), kMisaligned, name, "centroids");
    c.fits[0].lowest = 200, c.fits[0].highest = 300;
    EXPECT_FAILS(run(c.fit, scratch, bytes, centroids), kInvalid, name, "fit");
    c.fits[0].struct_size = 8;
    EXPECT_FAILS(run(c.fit, scratch, bytes, centroids), kStructSize, name, "struct_size");
}

}  // namespace
}  // namespace int4q_test
