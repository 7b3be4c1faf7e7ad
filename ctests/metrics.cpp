// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

struct Side {
    GuardedBuffer memory;
    int4q_type type;
    int64_t stride;
    float at(int64_t row, int64_t column) const { return LoadElement(memory.data(), type, row * stride + column); }
};

Side MakeSide(const std::vector<float> &values, int64_t rows, int64_t columns, int64_t stride, int4q_type type, Placement placement) {
    const size_t bytes = static_cast<size_t>(((rows - 1) * stride + columns) * TypeBytes(type));
    Side side{GuardedBuffer(bytes, placement, static_cast<size_t>(TypeBytes(type))), type, stride};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            StoreElement(side.memory.data(), type, r * stride + c, values[static_cast<size_t>(r * columns + c)]);
    side.memory.ForbidWriting();
    return side;
}

int4q_status Compare(const Side &a, const Side &b, int64_t rows, int64_t columns, int4q_metrics *metrics) {
    *metrics = int4q_metrics{};
    metrics->struct_size = sizeof *metrics;
    return int4q_compare(a.memory.data(), a.type, a.stride, b.memory.data(), b.type, b.stride, rows, columns, metrics);
}

int4q_metrics CompareFloats(const std::vector<float> &a, const std::vector<float> &b) {
    int4q_metrics metrics{};
    metrics.struct_size = sizeof metrics;
    const auto count = static_cast<int64_t>(a.size());
    EXPECT_OK(int4q_compare(a.data(), INT4Q_TYPE_F32, count, b.data(), INT4Q_TYPE_F32, count, 1, count, &metrics));
    return metrics;
}

TEST(Metrics, EqualPlainSumsInBinary64ForAllTypesAndStrides) {
    Random random(7);
    for (int4q_type type_a : kTypes) {
        for (int4q_type type_b : kTypes) {
            const int64_t rows = random.Integer(1, 9), columns = random.Integer(1, 40);
            std::vector<float> a, b;
            for (int64_t i = 0; i < rows * columns; i++) {
                a.push_back(random.Normal());
                b.push_back(a.back() + 0.1f * random.Normal());
            }
            const Side x = MakeSide(a, rows, columns, columns + random.Integer(0, 3), type_a, Placement::kRight);
            const Side y = MakeSide(b, rows, columns, columns + random.Integer(0, 3), type_b, Placement::kLeft);
            int4q_metrics metrics;
            ASSERT_OK(Compare(x, y, rows, columns, &metrics));

            long double error2 = 0, x2 = 0, y2 = 0, xy = 0;
            double largest = 0;
            int64_t row = 0, column = 0;
            for (int64_t r = 0; r < rows; r++) {
                for (int64_t c = 0; c < columns; c++) {
                    const double u = x.at(r, c), v = y.at(r, c);
                    error2 += (v - u) * (v - u);
                    x2 += u * u;
                    y2 += v * v;
                    xy += u * v;
                    if (std::fabs(v - u) > largest) {
                        largest = std::fabs(v - u);
                        row = r;
                        column = c;
                    }
                }
            }
            EXPECT_NEAR(metrics.mse, static_cast<double>(error2) / static_cast<double>(rows * columns), 1e-12);
            EXPECT_NEAR(metrics.sqnr_db, 10 * std::log10(static_cast<double>(x2 / error2)), 1e-9);
            EXPECT_NEAR(metrics.cosine, static_cast<double>(xy / std::sqrt(x2 * y2)), 1e-12);
            EXPECT_EQ(metrics.max_abs_error, largest);
            EXPECT_EQ(metrics.max_error_row, row);
            EXPECT_EQ(metrics.max_error_column, column);
        }
    }
}

TEST(Metrics, EqualMatricesHaveNoError) {
    const int4q_metrics metrics = CompareFloats({1, -2, 3}, {1, -2, 3});
    EXPECT_EQ(metrics.mse, 0);
    EXPECT_EQ(metrics.sqnr_db, std::numeric_limits<double>::infinity());
    EXPECT_DOUBLE_EQ(metrics.cosine, 1);
    EXPECT_EQ(metrics.max_abs_error, 0);
}

TEST(Metrics, ZerosHaveDefinedResults) {
    const int4q_metrics both = CompareFloats({0, 0}, {0, -0.0f});
    EXPECT_EQ(both.cosine, 1);
    EXPECT_EQ(both.sqnr_db, std::numeric_limits<double>::infinity());
    const int4q_metrics reference = CompareFloats({0, 0}, {3, 4});
    EXPECT_EQ(reference.cosine, 0);
    EXPECT_EQ(reference.sqnr_db, -std::numeric_limits<double>::infinity());
    EXPECT_EQ(reference.mse, 12.5);
    EXPECT_EQ(reference.max_error_column, 1);
    EXPECT_EQ(CompareFloats({3, 4}, {0, 0}).cosine, 0);
    EXPECT_EQ(CompareFloats({3, 4}, {0, 0}).sqnr_db, 0);
}

TEST(Metrics, TheFirstOfEqualErrorsIsNamed) {
    EXPECT_EQ(CompareFloats({0, 0, 0}, {1, -2, 2}).max_error_column, 1);
}

TEST(Metrics, ExtremesDoNotOverflow) {
    const float big = std::numeric_limits<float>::max();
    const int4q_metrics metrics = CompareFloats({big, big}, {-big, big});
    EXPECT_EQ(metrics.max_abs_error, 2.0 * static_cast<double>(big));
    EXPECT_TRUE(std::isfinite(metrics.mse));
    EXPECT_DOUBLE_EQ(metrics.cosine, 0);
}

TEST(Metrics, NotFiniteIsRefusedWithItsPlace) {
    const std::vector<float> bad = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                    -std::numeric_limits<float>::infinity()};
    for (float value : bad) {
        for (int64_t place = 0; place < 12; place++) {
            for (bool in_reference : {true, false}) {
                std::vector<float> good(12, 1.0f), spoiled = good;
                spoiled[static_cast<size_t>(place)] = value;
                const Side a = MakeSide(in_reference ? spoiled : good, 3, 4, 4, INT4Q_TYPE_F32, Placement::kRight);
                const Side b = MakeSide(in_reference ? good : spoiled, 3, 4, 4, INT4Q_TYPE_F32, Placement::kRight);
                int4q_metrics metrics;
                EXPECT_TRUE(FailsLike(Compare(a, b, 3, 4, &metrics), {INT4Q_ERROR_NOT_FINITE}, "int4q_compare",
                                      {in_reference ? "reference" : "candidate"}));
                const std::string where = "row " + std::to_string(place / 4) + ", column " + std::to_string(place % 4);
                EXPECT_NE(std::string(LastError().value).find(where), std::string::npos) << LastError().value;
            }
        }
    }
}

}  // namespace
}  // namespace int4q_test
