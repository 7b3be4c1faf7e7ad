// SPDX-License-Identifier: Apache-2.0
// A small valid product, as a call of each of the three functions that work on a plan.
#pragma once

#include <cstring>

#include "support/bad_blobs.hpp"

namespace int4q_test {

constexpr int64_t kM = 3, kN = SmallTensor::kRows, kK = SmallTensor::kColumns;
constexpr uint32_t kWorkers = 2;

inline int4q_matmul_desc SmallDesc(int32_t kind = INT4Q_KIND_SYMMETRIC, int4q_compute_mode mode = INT4Q_MODE_F32) {
    int4q_matmul_desc desc{};
    desc.struct_size = sizeof desc;
    desc.mode = mode;
    desc.m = kM;
    desc.n = kN;
    desc.k = kK;
    desc.scheme = SmallScheme(kind);
    desc.x_type = desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = kWorkers;
    return desc;
}

enum class Step { kPrepare, kTiles, kProduct };

struct ProductCall {
    explicit ProductCall(Step step, int32_t kind = INT4Q_KIND_SYMMETRIC, int4q_compute_mode mode = INT4Q_MODE_F32)
        : step(step), packed(kind) {
        const int4q_matmul_desc desc = SmallDesc(kind, mode);
        EXPECT_OK(int4q_matmul_plan_init(&desc, &plan_memory));
        EXPECT_LE(plan_memory.scratch_bytes, sizeof scratch);
        for (int64_t i = 0; i < kM * kK; i++) x[i] = static_cast<float>(i % 7 - 3);
        std::memset(y, 0x5a, sizeof y);
        std::memset(scratch, 0, sizeof scratch);
        args_memory.struct_size = sizeof args_memory;
        if (step != Step::kTiles) args_memory.x = x;
        if (step != Step::kPrepare) args_memory.y = y;
        args_memory.ldx = kK;
        args_memory.ldy = kN;
        args_memory.scratch = scratch;
        args_memory.scratch_bytes = plan_memory.scratch_bytes;
        end = step == Step::kPrepare ? plan_memory.prepare_count : plan_memory.tile_count;
    }

    int4q_status Run() {
        if (step != Step::kPrepare) args_memory.blob = packed.blob, args_memory.blob_bytes = packed.blob_bytes;
        if (step == Step::kPrepare) return int4q_matmul_prepare(plan, args, begin, end);
        if (step == Step::kTiles) return int4q_matmul_tiles(plan, args, worker, begin, end);
        return int4q_matmul(plan, args, parallel_for, host);
    }
    std::string Outputs() const { return BytesOf(y) + BytesOf(scratch); }

    const Step step;
    SmallBlob packed;
    int4q_matmul_plan plan_memory{};
    int4q_matmul_args args_memory{};
    alignas(64) float x[kM * kK + 1] = {}, y[kM * kN + 1];
    alignas(64) unsigned char scratch[1 << 18];
    const int4q_matmul_plan *plan = &plan_memory;
    const int4q_matmul_args *args = &args_memory;
    uint32_t worker = 0;
    int64_t begin = 0, end = 0;
    int4q_parallel_for parallel_for = nullptr;
    void *host = nullptr;
};

inline const char *FunctionOf(Step step) {
    return step == Step::kPrepare ? "int4q_matmul_prepare" : step == Step::kTiles ? "int4q_matmul_tiles" : "int4q_matmul";
}

}  // namespace int4q_test
