// SPDX-License-Identifier: Apache-2.0
// int4q.hpp: ownership, errors as exceptions, and the same results as the C functions that it calls.
#include "int4q.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/floats.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace {

using int4q_test::Random;

static_assert(std::is_nothrow_copy_constructible_v<int4q::Error>);
static_assert(std::is_nothrow_destructible_v<int4q::Pool> && std::is_nothrow_destructible_v<int4q::Blob>);
static_assert(std::is_nothrow_destructible_v<int4q::Scratch> && std::is_nothrow_destructible_v<int4q::Tensor>);
static_assert(!std::is_copy_constructible_v<int4q::Blob> && std::is_nothrow_move_constructible_v<int4q::Blob>);
static_assert(!std::is_copy_constructible_v<int4q::Pool> && std::is_nothrow_move_assignable_v<int4q::Pool>);
static_assert(!std::is_convertible_v<int4q::ConstMatrix, int4q::Matrix>);
static_assert(std::is_convertible_v<int4q::Matrix, int4q::ConstMatrix>);

std::vector<float> RandomFloats(int64_t count, uint64_t seed) {
    Random random(seed);
    std::vector<float> values(static_cast<size_t>(count));
    for (float &value : values) value = random.Normal();
    return values;
}

std::vector<float> Codebook() {
    std::vector<float> values;
    for (int i = 0; i < 16; i++) values.push_back(static_cast<float>(i * i) / 32 - 3);
    return values;
}

bool SameBytes(const int4q::Blob &a, const int4q::Blob &b) {
    return a.bytes() == b.bytes() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

template <typename Call>
int4q::Error Caught(Call call) {
    try {
        call();
    } catch (const int4q::Error &error) {
        return error;
    }
    ADD_FAILURE() << "nothing was thrown";
    return int4q::Error(INT4Q_OK, "", "", "", "");
}

TEST(CppError, CarriesWhatTheLibrarySaid) {
    const int4q::Error error = Caught([] { int4q::Blob(int4q::Scheme::symmetric(), 4, -3); });
    EXPECT_EQ(error.status(), INT4Q_ERROR_INVALID_ARGUMENT);
    EXPECT_EQ(error.function(), "int4q_blob_size");
    EXPECT_EQ(error.argument(), "k");
    EXPECT_EQ(error.value(), "-3");
    EXPECT_EQ(error.expected(), "at least 1");
    EXPECT_STREQ(error.what(), "int4q_blob_size: k is -3; expected at least 1");
    // It keeps its own texts when the thread fails again.
    int4q_test::PoisonLastError();
    EXPECT_EQ(int4q::Error(error).function(), "int4q_blob_size");
}

TEST(CppError, CheckThrowsOnlyForFailures) {
    EXPECT_NO_THROW(int4q::check(INT4Q_OK));
    EXPECT_EQ(Caught([] { int4q::check(int4q_isa_detected(nullptr)); }).argument(), "isa");
    // A status that is not the thread's latest failure does not borrow that failure's texts.
    const int4q::Error other = Caught([] { int4q::check(INT4Q_ERROR_CORRUPT); });
    EXPECT_EQ(other.status(), INT4Q_ERROR_CORRUPT);
    EXPECT_STREQ(other.what(), "INT4Q_ERROR_CORRUPT");
    EXPECT_EQ(other.argument(), "");
}

TEST(CppScheme, EveryBuilderMakesAValidScheme) {
    const std::vector<float> w = RandomFloats(20 * 70, 1);
    for (const int4q_scheme &scheme :
         {int4q::Scheme::symmetric(), int4q::Scheme::asymmetric(), int4q::Scheme::offset(), int4q::Scheme::codebook(),
          int4q::Scheme::symmetric(INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F32, INT4Q_SCALE_AMAX_7, INT4Q_RANGE_RESTRICTED),
          int4q::Scheme::ggml_q4_0(), int4q::Scheme::ggml_q4_1()}) {
        const bool codebook = scheme.kind == INT4Q_KIND_CODEBOOK;
        const int4q::Tensor tensor = int4q::quantize({w, 20, 70}, scheme, codebook ? Codebook() : std::vector<float>());
        EXPECT_EQ(tensor.zero_points.empty(), scheme.kind != INT4Q_KIND_ASYMMETRIC);
        EXPECT_EQ(tensor.offsets.empty(), scheme.kind != INT4Q_KIND_OFFSET);
        const int4q::Blob blob = int4q::pack(tensor);
        EXPECT_NO_THROW(blob.validate());
        EXPECT_EQ(blob.info().scheme.kind, scheme.kind);
        EXPECT_EQ(blob.info().scheme.group_size, scheme.group_size);
        EXPECT_EQ(blob.info().scheme.scale_type, scheme.scale_type);
    }
}

TEST(CppTensor, CopiesAndMovesAreWhole) {
    const std::vector<float> w = RandomFloats(17 * 33, 2);
    int4q::Tensor tensor = int4q::quantize({w, 17, 33}, int4q::Scheme::offset(16));
    const int4q::Blob before = int4q::pack(tensor);
    const int4q::Tensor copy = tensor;
    const int4q::Tensor moved = std::move(tensor);
    EXPECT_TRUE(SameBytes(int4q::pack(copy), before));
    EXPECT_TRUE(SameBytes(int4q::pack(moved), before));
    EXPECT_EQ(copy.view().zero_points, nullptr);
    EXPECT_EQ(copy.view().codebook, nullptr);
}

TEST(CppTensor, TheCodebookGoesWithItsKindAlone) {
    EXPECT_EQ(Caught([] { int4q::Tensor(int4q::Scheme::codebook(), 4, 4); }).argument(), "codebook.size()");
    EXPECT_EQ(Caught([] { int4q::Tensor(int4q::Scheme::offset(), 4, 4, Codebook()); }).status(), INT4Q_ERROR_MISMATCH);
}

TEST(CppMatrix, KnowsAVectorsSizeAndStrides) {
    std::vector<float> values(12);
    EXPECT_EQ(int4q::ConstMatrix(values, 3, 4).stride, 4);
    EXPECT_EQ(int4q::ConstMatrix(values.data(), INT4Q_TYPE_F32, 2, 4, 6).stride, 6);
    for (const std::pair<int64_t, int64_t> &shape : std::vector<std::pair<int64_t, int64_t>>{
             {3, 5}, {0, 12}, {-3, -4}, {INT64_MAX, INT64_MAX}}) {
        EXPECT_EQ(Caught([&] { int4q::Matrix(values, shape.first, shape.second); }).argument(), "floats.size()");
    }
}

TEST(CppBlob, IsAlignedAndMovesWithoutLeavingAPointer) {
    const std::vector<float> w = RandomFloats(16 * 64, 3);
    int4q::Blob blob = int4q::pack(int4q::quantize({w, 16, 64}, int4q::Scheme::symmetric()));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(blob.data()) % INT4Q_ALIGNMENT, 0u);
    const void *data = blob.data();
    int4q::Blob moved = std::move(blob);
    EXPECT_EQ(moved.data(), data);
    EXPECT_EQ(Caught([&] { blob.info(); }).status(), INT4Q_ERROR_NULL_POINTER);
    blob = std::move(moved);
    EXPECT_EQ(blob.data(), data);
    EXPECT_NO_THROW(blob.validate());
}

TEST(CppBlob, ViewsMappedMemoryWithoutOwningIt) {
    const std::vector<float> w = RandomFloats(16 * 64, 4);
    int4q::Blob blob = int4q::pack(int4q::quantize({w, 16, 64}, int4q::Scheme::symmetric()));
    {
        int4q::Blob view = int4q::Blob::map(blob.data(), blob.bytes());
        EXPECT_EQ(view.data(), blob.data());
        EXPECT_EQ(view.writable(), nullptr);
        EXPECT_EQ(view.info().n, 16);
    }
    EXPECT_NO_THROW(blob.validate());
    static_cast<unsigned char *>(blob.writable())[blob.bytes() / 2] ^= 1;
    EXPECT_EQ(Caught([&] { int4q::Blob::map(blob.data(), blob.bytes()); }).status(), INT4Q_ERROR_CORRUPT);
    EXPECT_NO_THROW(int4q::Blob::map(blob.data(), blob.bytes(), INT4Q_VALIDATE_HEADER));
}

TEST(CppScratch, GrowsAndStaysAligned) {
    int4q::Scratch scratch;
    EXPECT_EQ(scratch.data(), nullptr);
    EXPECT_EQ(scratch.bytes(), 0u);
    for (uint64_t bytes : {1u, 100u, 50u, 4096u}) {
        scratch.reserve(bytes);
        EXPECT_GE(scratch.bytes(), bytes);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(scratch.data()) % INT4Q_ALIGNMENT, 0u);
    }
    EXPECT_THROW(scratch.reserve(UINT64_MAX), std::bad_alloc);
    EXPECT_EQ(scratch.bytes(), 4096u);
    const int4q::Scratch moved = std::move(scratch);
    EXPECT_EQ(moved.bytes(), 4096u);
    EXPECT_EQ(scratch.bytes(), 0u);
}

TEST(CppPool, SpreadsWorkAndHandsOutExceptions) {
    int4q::Pool pool(4);
    std::vector<std::atomic<int>> seen(100);
    pool.parallel_for(100, [&](int64_t index, uint32_t worker) {
        EXPECT_LT(worker, 4u);
        seen[static_cast<size_t>(index)]++;
    });
    for (const std::atomic<int> &count : seen) EXPECT_EQ(count, 1);

    std::atomic<int> runs{0};
    try {
        pool.parallel_for(100, [&](int64_t index, uint32_t) {
            runs++;
            if (index % 10 == 7) throw std::runtime_error(std::to_string(index));
        });
        FAIL() << "nothing was thrown";
    } catch (const std::runtime_error &error) {
        EXPECT_STREQ(error.what(), "7");
    }
    EXPECT_EQ(runs, 100);

    int4q::Pool moved = std::move(pool);
    EXPECT_NE(moved.get(), nullptr);
    runs = 0;
    for (int4q::Pool *each : {&moved, &pool}) each->parallel_for(3, [&](int64_t, uint32_t) { runs++; });
    EXPECT_EQ(runs, 6);
    EXPECT_EQ(Caught([] { int4q::Pool(0); }).argument(), "worker_count");
}

TEST(CppSteps, GiveTheSameBytesWithAndWithoutAPool) {
    constexpr int64_t m = 5, n = 83, k = 200;
    const std::vector<float> w = RandomFloats(n * k, 5), x = RandomFloats(m * k, 6);
    int4q::Pool pool(3);
    const int4q_scheme scheme = int4q::Scheme::asymmetric(64);
    const int4q::Blob alone = int4q::pack(int4q::quantize({w, n, k}, scheme));
    const int4q::Blob pooled = int4q::pack(int4q::quantize({w, n, k}, scheme, {}, &pool), &pool);
    ASSERT_TRUE(SameBytes(alone, pooled));
    for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8}) {
        std::vector<float> y(m * n, NAN), z(m * n, NAN);
        int4q::matmul(mode, {x, m, k}, alone, {y, m, n});
        int4q::matmul(mode, {x, m, k}, alone, {z, m, n}, &pool);
        EXPECT_EQ(std::memcmp(y.data(), z.data(), y.size() * sizeof(float)), 0);
        // Against binary64 on the weights that the blob stands for.
        std::vector<float> weights(n * k), reference(m * n);
        const int4q::Tensor tensor = int4q::quantize({w, n, k}, scheme);
        const int4q_tensor view = tensor.view();
        int4q::check(int4q_dequantize_rows(&view, weights.data(), INT4Q_TYPE_F32, k, 0, n));
        for (int64_t i = 0; i < m * n; i++) {
            double sum = 0;
            for (int64_t j = 0; j < k; j++) {
                sum += double{x[static_cast<size_t>(i / n * k + j)]} * weights[static_cast<size_t>(i % n * k + j)];
            }
            reference[static_cast<size_t>(i)] = static_cast<float>(sum);
        }
        EXPECT_GT(int4q::compare({reference, m, n}, {y, m, n}).sqnr_db, mode == INT4Q_MODE_F32 ? 100 : 35);
    }
}

TEST(CppSteps, AnErrorInAPoolsThreadComesOutWithItsPlace) {
    std::vector<float> w = RandomFloats(100 * 32, 7);
    w[77 * 32 + 5] = NAN;
    int4q::Pool pool(4);
    const int4q::Error error = Caught([&] { int4q::quantize({w, 100, 32}, int4q::Scheme::symmetric(), {}, &pool); });
    EXPECT_EQ(error.status(), INT4Q_ERROR_NOT_FINITE);
    EXPECT_EQ(error.function(), "int4q_quantize_rows");
    EXPECT_NE(error.value().find("77"), std::string::npos) << error.what();
}

TEST(CppSteps, PlansRefuseMatricesOfOtherShapesAndTypes) {
    const std::vector<float> w = RandomFloats(32 * 64, 8), x = RandomFloats(2 * 64, 9);
    std::vector<float> y(2 * 32);
    std::vector<uint16_t> half(2 * 64);
    const int4q::Blob blob = int4q::pack(int4q::quantize({w, 32, 64}, int4q::Scheme::symmetric()));
    const int4q::Plan plan(INT4Q_MODE_F32, 2, blob);
    int4q::Scratch scratch;
    EXPECT_EQ(Caught([&] { int4q::matmul(plan, {x, 1, 128}, blob, {y, 2, 32}, scratch); }).argument(), "x.rows");
    EXPECT_EQ(Caught([&] { int4q::matmul(plan, {x, 2, 64}, blob, {y, 1, 64}, scratch); }).argument(), "y.rows");
    const int4q::ConstMatrix halves(half.data(), INT4Q_TYPE_F16, 2, 64);
    EXPECT_EQ(Caught([&] { int4q::matmul(plan, halves, blob, {y, 2, 32}, scratch); }).argument(), "x.type");
    EXPECT_EQ(scratch.bytes(), 0u);
    EXPECT_NO_THROW(int4q::matmul(plan, {x, 2, 64}, blob, {y, 2, 32}, scratch));
    EXPECT_EQ(Caught([&] { int4q::compare({x, 2, 64}, {y, 2, 32}); }).argument(), "candidate.columns");
}

}  // namespace
