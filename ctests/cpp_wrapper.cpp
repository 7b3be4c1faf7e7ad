// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <utility>
#include <vector>

#include "int4q.hpp"
#include "support/floats.hpp"
#include "support/random.hpp"

namespace int4q_test {
namespace {

std::vector<float> Normals(int64_t count, uint64_t seed) {
    Random random(seed);
    std::vector<float> values;
    for (int64_t i = 0; i < count; i++) values.push_back(random.Normal());
    return values;
}

TEST(CppWrapper, EverySchemePacksUnpacksAndMultipliesWithAndWithoutAPool) {
    constexpr int64_t m = 3, n = 50, k = 70;
    const std::vector<float> w = Normals(n * k, 1), x = Normals(m * k, 2);
    std::vector<float> codebook;
    for (int i = 0; i < 16; i++) codebook.push_back(static_cast<float>(i) / 7.5f - 1);
    int4q::Pool pool(3);
    for (const int4q_scheme &scheme : {int4q::Scheme::symmetric(), int4q::Scheme::asymmetric(16), int4q::Scheme::offset(64),
                                       int4q::Scheme::codebook(INT4Q_GROUP_PER_ROW), int4q::Scheme::ggml_q4_0(),
                                       int4q::Scheme::ggml_q4_1()}) {
        const std::vector<float> table = scheme.kind == INT4Q_KIND_CODEBOOK ? codebook : std::vector<float>{};
        const int4q::Tensor tensor = int4q::quantize({w, n, k}, scheme, table);
        const int4q::Tensor pooled = int4q::quantize({w, n, k}, scheme, table, &pool);
        EXPECT_EQ(tensor.codes, pooled.codes);
        EXPECT_EQ(tensor.scales, pooled.scales);

        const int4q::Blob blob = int4q::pack(tensor), again = int4q::pack(pooled, &pool);
        ASSERT_EQ(blob.bytes(), again.bytes());
        EXPECT_EQ(std::memcmp(blob.data(), again.data(), blob.bytes()), 0);
        blob.validate();
        const int4q::Tensor unpacked = blob.unpack();
        EXPECT_EQ(unpacked.codes, tensor.codes);
        EXPECT_EQ(unpacked.scales, tensor.scales);
        EXPECT_EQ(unpacked.zero_points, tensor.zero_points);
        EXPECT_EQ(unpacked.offsets, tensor.offsets);
        EXPECT_EQ(unpacked.codebook, tensor.codebook);

        std::vector<float> values(n * k), alone(m * n), shared(m * n), exact(m * n);
        tensor.dequantize({values, n, k});
        int4q::matmul(INT4Q_MODE_F32, {x, m, k}, blob, {alone, m, n});
        int4q::matmul(INT4Q_MODE_F32, {x, m, k}, blob, {shared, m, n}, &pool);
        EXPECT_EQ(alone, shared);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t c = 0; c < k; c++)
                    sum += static_cast<double>(x[static_cast<size_t>(i * k + c)]) * values[static_cast<size_t>(j * k + c)];
                exact[static_cast<size_t>(i * n + j)] = static_cast<float>(sum);
            }
        EXPECT_GT(int4q::compare({exact, m, n}, {alone, m, n}).sqnr_db, 110);
    }
}

TEST(CppWrapper, AnErrorCarriesWhatTheLibrarySaid) {
    try {
        int4q::Tensor(int4q::Scheme::symmetric(33), 4, 4);
        FAIL() << "group size 33 was accepted";
    } catch (const int4q::Error &error) {
        EXPECT_EQ(error.status(), INT4Q_ERROR_INVALID_ARGUMENT);
        EXPECT_EQ(error.function(), "int4q_tensor_sizes");
        EXPECT_EQ(error.argument(), "scheme.group_size");
        EXPECT_EQ(error.value(), "33");
        EXPECT_FALSE(error.expected().empty());
        EXPECT_NE(std::string(error.what()).find("scheme.group_size is 33"), std::string::npos);
        const int4q::Error copy = error;
        EXPECT_EQ(copy.value(), error.value());
    }
}

TEST(CppWrapper, ShapesThatDoNotAgreeAreErrors) {
    std::vector<float> w(20 * 32, 1.0f), x(32), y(20);
    const int4q::Blob blob = int4q::pack(int4q::quantize({w, 20, 32}, int4q::Scheme::symmetric()));
    EXPECT_THROW((int4q::ConstMatrix{w, 20, 31}), int4q::Error);
    EXPECT_THROW(int4q::matmul(INT4Q_MODE_F32, {x, 2, 16}, blob, {y, 1, 20}), int4q::Error);
    EXPECT_THROW(int4q::matmul(INT4Q_MODE_F32, {x, 1, 32}, blob, {y, 2, 10}), int4q::Error);
    EXPECT_THROW(int4q::compare({w, 20, 32}, {w, 32, 20}), int4q::Error);
}

TEST(CppWrapper, AMappedBlobIsUsedWhereItIs) {
    std::vector<float> w = Normals(33 * 40, 5), x = Normals(40, 6), one(33), two(33);
    int4q::Blob blob = int4q::pack(int4q::quantize({w, 33, 40}, int4q::Scheme::asymmetric()));
    const int4q::Blob view = int4q::Blob::map(blob.data(), blob.bytes());
    EXPECT_EQ(view.data(), blob.data());
    EXPECT_EQ(view.info().n, 33);
    int4q::matmul(INT4Q_MODE_INT8, {x, 1, 40}, blob, {one, 1, 33});
    int4q::matmul(INT4Q_MODE_INT8, {x, 1, 40}, view, {two, 1, 33});
    EXPECT_EQ(one, two);

    int4q::Blob moved = std::move(blob);
    int4q::matmul(INT4Q_MODE_INT8, {x, 1, 40}, moved, {two, 1, 33});
    EXPECT_EQ(one, two);
    static_cast<unsigned char *>(moved.writable())[100] ^= 1;
    EXPECT_THROW(int4q::Blob::map(moved.data(), moved.bytes()), int4q::Error);
}

TEST(CppWrapper, APlanAndItsScratchServeManyProducts) {
    std::vector<float> w = Normals(64 * 64, 7), x = Normals(5 * 64, 8), first(5 * 64), second(5 * 64);
    const int4q::Blob blob = int4q::pack(int4q::quantize({w, 64, 64}, int4q::Scheme::symmetric()));
    const int4q::Plan plan(INT4Q_MODE_F32, 5, blob);
    int4q::Scratch scratch;
    int4q::matmul(plan, {x, 5, 64}, blob, {first, 5, 64}, scratch);
    int4q::matmul(plan, {x, 5, 64}, blob, {second, 5, 64}, scratch);
    EXPECT_EQ(first, second);
}

TEST(CppWrapper, GptqFromBatchesOfActivations) {
    constexpr int64_t n = 20, k = 48, rows = 90;
    Random random(9);
    std::vector<float> x(rows * k), w(n * k);
    for (float &value : w) value = random.Normal();
    for (int64_t i = 0; i < rows * k; i++) x[static_cast<size_t>(i)] = random.Normal() + (i % k ? x[static_cast<size_t>(i - 1)] : 0);
    int4q::Pool pool(2);
    int4q::Gram gram(k), other(k);
    gram.push({x.data(), INT4Q_TYPE_F32, 40, k}, &pool);
    other.push({x.data() + 40 * k, INT4Q_TYPE_F32, rows - 40, k});
    gram.merge(other);
    int4q_scheme scheme{};
    scheme.kind = INT4Q_KIND_ASYMMETRIC, scheme.group_size = 16, scheme.scale_type = INT4Q_TYPE_F16;
    int4q_gptq_report report{};
    report.struct_size = sizeof report;
    const int4q::Tensor tensor = int4q::gptq({w, n, k}, gram, scheme, {}, &pool, int4q::gptq_options(), &report);
    EXPECT_EQ(report.rows, rows);
    EXPECT_LT(report.loss, report.nearest_loss);
    EXPECT_EQ(tensor.codes, int4q::gptq({w, n, k}, gram, scheme).codes);
}

TEST(CppWrapper, AnExceptionInATaskReachesTheCaller) {
    int4q::Pool pool(3);
    std::atomic<int> ran{0};
    const auto body = [&](int64_t index, uint32_t) {
        ran++;
        if (index >= 5) throw std::runtime_error("index " + std::to_string(index));
    };
    try {
        pool.parallel_for(20, body);
        FAIL() << "no exception";
    } catch (const std::runtime_error &error) {
        EXPECT_STREQ(error.what(), "index 5");
    }
    EXPECT_EQ(ran, 20);
}

TEST(CppWrapper, VersionsAndLimits) {
    int4q::check_abi();
    int4q::set_isa_limit(INT4Q_ISA_PORTABLE);
    EXPECT_EQ(int4q::active_isa(), INT4Q_ISA_PORTABLE);
    int4q::set_isa_limit(INT4Q_ISA_NO_LIMIT);
    EXPECT_EQ(int4q::active_isa(), int4q::detected_isa());
}

}  // namespace
}  // namespace int4q_test
