// SPDX-License-Identifier: Apache-2.0
// Blobs between guard pages, and what the tests of blobs do with them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/reference_packer.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {

inline std::vector<int4q_scheme> OneSchemeOfEachKind(int32_t group_size, int4q_type scale_type) {
    return {MakeScheme(INT4Q_KIND_SYMMETRIC, group_size, scale_type, INT4Q_SCALE_AMAX_7, INT4Q_RANGE_RESTRICTED),
            MakeScheme(INT4Q_KIND_ASYMMETRIC, group_size, scale_type),
            MakeScheme(INT4Q_KIND_OFFSET, group_size, scale_type, 0, 0, INT4Q_ROUNDING_GGML),
            MakeScheme(INT4Q_KIND_CODEBOOK, group_size, scale_type)};
}

inline TensorMemory RandomTensor(const int4q_scheme &scheme, int64_t n, int64_t k, uint64_t seed = 1) {
    Random random(seed);
    TensorMemory tensor(scheme, n, k, seed % 2 ? Placement::kRight : Placement::kLeft);
    std::vector<float> source(static_cast<size_t>(n * k));
    for (float &value : source) value = random.Normal();
    EXPECT_OK(int4q_quantize_rows(tensor.get(), source.data(), INT4Q_TYPE_F32, k, 0, n));
    tensor.ForbidWriting();
    return tensor;
}

inline uint64_t SizeOf(const TensorMemory &tensor) {
    uint64_t bytes = 0;
    EXPECT_OK(int4q_blob_size(&tensor->scheme, tensor->n, tensor->k, &bytes));
    return bytes;
}

inline GuardedBuffer Pack(const TensorMemory &tensor) {
    GuardedBuffer blob(SizeOf(tensor), Placement::kRight, INT4Q_ALIGNMENT);
    EXPECT_OK(int4q_pack_rows(tensor.get(), blob.data(), blob.size(), 0, tensor->n));
    return blob;
}

inline int4q_status Validate(const GuardedBuffer &blob, int32_t level = INT4Q_VALIDATE_FULL) {
    return int4q_blob_validate(blob.data(), blob.size(), level);
}

inline int4q_blob_info EmptyInfo() {
    int4q_blob_info info;
    std::memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    return info;
}

// Every function that reads a blob must refuse this one with the same status.
inline ::testing::AssertionResult AllRefuse(const GuardedBuffer &blob, const TensorMemory &like, int4q_status wanted) {
    const auto check = [&](const char *what, int4q_status status) {
        if (status == wanted) return ::testing::AssertionSuccess();
        return ::testing::AssertionFailure() << what << " returned " << Describe(status);
    };
    int4q_blob_info info = EmptyInfo();
    TensorMemory out(like->scheme, like->n, like->k);
    std::vector<float> row(static_cast<size_t>(like->k));
    const int64_t index = 0;
    auto result = check("validate HEADER", Validate(blob, INT4Q_VALIDATE_HEADER));
    if (result) result = check("validate FULL", Validate(blob));
    if (result) result = check("get_info", int4q_blob_get_info(blob.data(), blob.size(), &info));
    if (result) result = check("unpack", int4q_unpack_rows(blob.data(), blob.size(), out.get(), 0, like->n));
    if (result) {
        result = check("gather", int4q_gather_rows(blob.data(), blob.size(), &index, 1, row.data(), INT4Q_TYPE_F32,
                                                   like->k));
    }
    return result;
}

// y of a product with an x of small integers.
inline std::vector<float> Multiply(const void *blob, uint64_t bytes, const int4q_scheme &scheme, int64_t n,
                                   int64_t k) {
    int4q_matmul_desc desc;
    std::memset(&desc, 0, sizeof desc);
    desc.struct_size = sizeof desc;
    desc.mode = INT4Q_MODE_F32;
    desc.m = 3;
    desc.n = n;
    desc.k = k;
    desc.scheme = scheme;
    desc.x_type = desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = 1;
    int4q_matmul_plan plan;
    std::memset(&plan, 0, sizeof plan);
    plan.struct_size = sizeof plan;
    EXPECT_OK(int4q_matmul_plan_init(&desc, &plan));
    GuardedBuffer scratch(plan.scratch_bytes, Placement::kRight, INT4Q_ALIGNMENT);
    std::vector<float> x(static_cast<size_t>(3 * k)), y(static_cast<size_t>(3 * n), -1e30f);
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i * 7 % 13) - 6.0f;
    int4q_matmul_args args;
    std::memset(&args, 0, sizeof args);
    args.struct_size = sizeof args;
    args.x = x.data();
    args.ldx = k;
    args.blob = blob;
    args.blob_bytes = bytes;
    args.y = y.data();
    args.ldy = n;
    args.scratch = scratch.data();
    args.scratch_bytes = scratch.size();
    EXPECT_OK(int4q_matmul(&plan, &args, nullptr, nullptr));
    return y;
}

// Packs, changes a field of the header, signs it anew.
template <typename T>
void ExpectHeaderRefused(const TensorMemory &tensor, size_t at, T value, int4q_status wanted = INT4Q_ERROR_CORRUPT) {
    GuardedBuffer blob = Pack(tensor);
    SCOPED_TRACE(Name(tensor->scheme) + ", " + std::to_string(value) + " at " + std::to_string(at));
    ASSERT_FALSE(GetField<T>(blob.data(), at) == value) << "no change";
    SetField<T>(blob.data(), at, value);
    SignHeader(blob.data());
    EXPECT_TRUE(AllRefuse(blob, tensor, wanted));
}

// Packs, changes a block, signs it anew: only a full validation reads it, and must refuse it.
template <typename Change>
void ExpectBlockRefused(const TensorMemory &tensor, size_t block, const Change &change) {
    GuardedBuffer blob = Pack(tensor);
    const BlobGeometry at(tensor->scheme, tensor->n, tensor->k);
    uint8_t *start = blob.data() + at.blocks_offset + block * at.block_bytes;
    SignBlocks(blob.data(), blob.size());
    ASSERT_OK(Validate(blob)) << "signing alone must not matter";
    const std::vector<uint8_t> before(start, start + at.block_bytes);
    change(start);
    ASSERT_NE(std::memcmp(before.data(), start, before.size()), 0) << "no change";
    SignBlocks(blob.data(), blob.size());
    EXPECT_OK(Validate(blob, INT4Q_VALIDATE_HEADER));
    EXPECT_EQ(Validate(blob), INT4Q_ERROR_CORRUPT);
}

}  // namespace int4q_test
