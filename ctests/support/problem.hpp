// SPDX-License-Identifier: Apache-2.0
// A random product: scheme, tensor, blob and x, each in memory between guard pages that forbids writing once it is
// filled; and one run of it with its own plan, scratch and y.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {

constexpr int32_t kKinds[] = {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK};
constexpr int32_t kGroupSizes[] = {16, 32, 64, 128, 256, INT4Q_GROUP_PER_ROW};
constexpr int4q_compute_mode kModes[] = {INT4Q_MODE_F32, INT4Q_MODE_INT8};

// The name of a test's parameter.
inline std::string ModeName(const ::testing::TestParamInfo<int4q_compute_mode> &info) {
    return info.param == INT4Q_MODE_F32 ? "F32" : "Int8";
}

struct Spec {
    int64_t m = 1;
    int64_t n = 1;
    int64_t k = 1;
    int4q_compute_mode mode = INT4Q_MODE_F32;
    int32_t kind = INT4Q_KIND_SYMMETRIC;
    int32_t group_size = 32;
    int4q_type scale_type = INT4Q_TYPE_F16;
    int4q_type x_type = INT4Q_TYPE_F32;
    int4q_type y_type = INT4Q_TYPE_F32;
    bool quantize = true;  // weights through int4q_quantize_rows(); else random codes, scales, zero points, offsets
    Placement placement = Placement::kRight;
    int64_t x_gap = 0;  // elements between two rows
    int64_t y_gap = 0;
    uint64_t seed = 1;

    std::string Text() const {
        std::ostringstream text;
        text << (mode == INT4Q_MODE_F32 ? "F32 " : "INT8 ") << m << "x" << n << "x" << k << " kind " << kind
             << " group " << group_size << " scales " << TypeName(scale_type) << " x " << TypeName(x_type) << " y "
             << TypeName(y_type) << (quantize ? " quantized" : " random codes")
             << (placement == Placement::kLeft ? " left" : " right") << " gaps " << x_gap << " " << y_gap << " seed "
             << seed;
        return text.str();
    }
};

// Everything but sizes and mode drawn at random. CODEBOOK is left out in INT8 mode, which has none.
inline Spec RandomSpec(Random &random, int64_t m, int64_t n, int64_t k, int4q_compute_mode mode) {
    Spec spec;
    spec.m = m;
    spec.n = n;
    spec.k = k;
    spec.mode = mode;
    spec.kind = kKinds[random.Integer(0, mode == INT4Q_MODE_INT8 ? 2 : 3)];
    spec.group_size = kGroupSizes[random.Integer(0, 5)];
    spec.scale_type = kTypes[random.Integer(0, 2)];
    spec.x_type = kTypes[random.Integer(0, 2)];
    spec.y_type = kTypes[random.Integer(0, 2)];
    spec.quantize = random.Chance(0.5);
    spec.placement = random.Chance(0.5) ? Placement::kLeft : Placement::kRight;
    spec.seed = random.Bits();
    return spec;
}

class Problem {
public:
    explicit Problem(const Spec &wanted) : spec(wanted), random_(wanted.seed) {
        std::memset(&scheme, 0, sizeof scheme);
        scheme.kind = spec.kind;
        scheme.group_size = spec.group_size;
        scheme.scale_type = spec.scale_type;
        if (spec.kind == INT4Q_KIND_SYMMETRIC) scheme.scale_rule = static_cast<int32_t>(random_.Integer(0, 3));
        std::memset(&layout, 0, sizeof layout);
        layout.struct_size = sizeof layout;
        EXPECT_OK(int4q_tensor_sizes(&scheme, spec.n, spec.k, &layout)) << spec.Text();

        std::memset(&tensor, 0, sizeof tensor);
        tensor.struct_size = sizeof tensor;
        tensor.scheme = scheme;
        tensor.n = spec.n;
        tensor.k = spec.k;
        tensor.codes = Part(codes_, layout.codes_bytes, &tensor.codes_bytes);
        tensor.scales = Part(scales_, layout.scales_bytes, &tensor.scales_bytes);
        tensor.zero_points = Part(zero_points_, layout.zero_points_bytes, &tensor.zero_points_bytes);
        tensor.offsets = Part(offsets_, layout.offsets_bytes, &tensor.offsets_bytes);
        if (spec.kind == INT4Q_KIND_CODEBOOK) {
            codebook_ = GuardedBuffer(16 * sizeof(float), spec.placement);
            for (int i = 0; i < 16; i++) codebook_.as<float>()[i] = random_.Normal();
            tensor.codebook = codebook_.as<float>();
            codebook_.ForbidWriting();
        }
        if (spec.quantize) {
            SetWeights([&](int64_t, int64_t) { return 0.05f * random_.Normal() + 0.01f; });
        } else {
            DrawWeights();
        }
        DrawX();
    }

    Problem(const Problem &) = delete;
    Problem &operator=(const Problem &) = delete;

    int64_t ldx() const { return spec.k + spec.x_gap; }
    float X(int64_t row, int64_t column) const { return LoadElement(x.data(), spec.x_type, row * ldx() + column); }

    // Replaces x by value(row, column), rounded to x's type.
    void SetX(const std::function<float(int64_t, int64_t)> &value) {
        x.AllowWriting();
        for (int64_t row = 0; row < spec.m; row++) {
            for (int64_t column = 0; column < spec.k; column++) {
                StoreElement(x.data(), spec.x_type, row * ldx() + column, value(row, column));
            }
        }
        x.ForbidWriting();
    }
    void SetX(int64_t row, int64_t column, float value) {
        x.AllowWriting();
        StoreElement(x.data(), spec.x_type, row * ldx() + column, value);
        x.ForbidWriting();
    }

    int Code(int64_t row, int64_t column) const {
        const int byte = codes_.data()[row * static_cast<int64_t>(layout.codes_row_bytes) + column / 2];
        return column % 2 ? byte >> 4 : byte & 15;
    }
    int64_t GroupOf(int64_t column) const { return spec.group_size > 0 ? column / spec.group_size : 0; }
    float Scale(int64_t row, int64_t group) const {
        return LoadElement(scales_.data(), spec.scale_type, row * layout.groups_per_row + group);
    }
    int ZeroPoint(int64_t row, int64_t group) const {
        return zero_points_.size() ? zero_points_.data()[row * layout.groups_per_row + group] : 8;
    }
    float Offset(int64_t row, int64_t group) const {
        return offsets_.size() ? LoadElement(offsets_.data(), spec.scale_type, row * layout.groups_per_row + group) : 0;
    }

    // Replaces the weights by value(row, column), quantized, and packs them.
    void SetWeights(const std::function<float(int64_t, int64_t)> &value) {
        GuardedBuffer source(static_cast<size_t>(spec.n * spec.k) * sizeof(float), spec.placement);
        for (int64_t row = 0; row < spec.n; row++) {
            for (int64_t column = 0; column < spec.k; column++) {
                source.as<float>()[row * spec.k + column] = value(row, column);
            }
        }
        source.ForbidWriting();
        ForEachPart([](GuardedBuffer &part) { part.AllowWriting(); });
        EXPECT_OK(int4q_quantize_rows(&tensor, source.data(), INT4Q_TYPE_F32, spec.k, 0, spec.n)) << spec.Text();
        Pack();
    }

    // Replaces the scales (and OFFSET's offsets) by value(), rounded to their type, and packs again.
    void SetScales(const std::function<float()> &value) {
        for (GuardedBuffer *part : {&scales_, &offsets_}) {
            if (!part->size()) continue;
            part->AllowWriting();
            for (int64_t i = 0; i < spec.n * layout.groups_per_row; i++) {
                StoreElement(part->data(), spec.scale_type, i, value());
            }
        }
        Pack();
    }

    Spec spec;
    int4q_scheme scheme;
    int4q_tensor_layout layout;
    int4q_tensor tensor;
    GuardedBuffer blob;
    GuardedBuffer x;

private:
    void *Part(GuardedBuffer &part, uint64_t bytes, uint64_t *declared) {
        *declared = bytes;
        if (bytes == 0) return nullptr;
        part = GuardedBuffer(bytes, spec.placement);
        return part.data();
    }

    void DrawWeights() {
        std::memset(codes_.data(), 0, codes_.size());
        for (int64_t row = 0; row < spec.n; row++) {
            unsigned char *bytes = codes_.data() + row * static_cast<int64_t>(layout.codes_row_bytes);
            for (int64_t column = 0; column < spec.k; column++) {
                bytes[column / 2] |= static_cast<unsigned char>(random_.Integer(0, 15) << (column % 2 ? 4 : 0));
            }
        }
        for (int64_t i = 0; i < spec.n * layout.groups_per_row; i++) {
            const float scale = random_.Chance(0.05) ? 0.0f : 0.02f * random_.Normal();
            StoreElement(scales_.data(), spec.scale_type, i, scale);
            if (zero_points_.size()) zero_points_.data()[i] = static_cast<unsigned char>(random_.Integer(0, 15));
            if (offsets_.size()) StoreElement(offsets_.data(), spec.scale_type, i, 0.1f * random_.Normal());
        }
        Pack();
    }

    template <typename Visit>
    void ForEachPart(Visit visit) {
        for (GuardedBuffer *part : {&codes_, &scales_, &zero_points_, &offsets_}) {
            if (part->size()) visit(*part);
        }
    }

    void Pack() {
        ForEachPart([](GuardedBuffer &part) { part.ForbidWriting(); });
        uint64_t bytes = 0;
        EXPECT_OK(int4q_blob_size(&scheme, spec.n, spec.k, &bytes)) << spec.Text();
        blob = GuardedBuffer(bytes, spec.placement, INT4Q_ALIGNMENT);
        EXPECT_OK(int4q_pack_rows(&tensor, blob.data(), bytes, 0, spec.n)) << spec.Text();
        blob.ForbidWriting();
    }

    void DrawX() {
        const int64_t elements = (spec.m - 1) * ldx() + spec.k;
        x = GuardedBuffer(static_cast<size_t>(elements * TypeBytes(spec.x_type)), spec.placement);
        std::memset(x.data(), 0xff, x.size());  // NaN between the rows
        const bool spread = random_.Chance(0.25);
        SetX([&](int64_t, int64_t) {
            if (random_.Chance(0.02)) return random_.Chance(0.5) ? 0.0f : -0.0f;
            const float value = random_.Normal();
            return spread ? std::ldexp(value, static_cast<int>(random_.Integer(-12, 3))) : value;
        });
    }

    Random random_;
    GuardedBuffer codes_, scales_, zero_points_, offsets_, codebook_;
};

// A product of `rows` rows of a problem's x, from `first_row` on.
class Product {
public:
    explicit Product(const Problem &problem, uint32_t workers = 1) : Product(problem, workers, 0, problem.spec.m) {}

    Product(const Problem &problem, uint32_t workers, int64_t first_row, int64_t rows) : spec_(problem.spec) {
        spec_.m = rows;
        const int4q_matmul_desc desc = Describe(problem, rows, workers);
        std::memset(&plan, 0, sizeof plan);
        plan.struct_size = sizeof plan;
        EXPECT_OK(int4q_matmul_plan_init(&desc, &plan)) << spec_.Text();
        EXPECT_GE(plan.prepare_count, 1);
        EXPECT_GE(plan.tile_count, 1);
        Allocate(problem, first_row);
    }

    // With a plan made before, for as many rows as the problem has.
    Product(const Problem &problem, const int4q_matmul_plan &made) : plan(made), spec_(problem.spec) {
        Allocate(problem, 0);
    }

    static int4q_matmul_desc Describe(const Problem &problem, int64_t rows, uint32_t workers) {
        int4q_matmul_desc desc;
        std::memset(&desc, 0, sizeof desc);
        desc.struct_size = sizeof desc;
        desc.mode = problem.spec.mode;
        desc.m = rows;
        desc.n = problem.spec.n;
        desc.k = problem.spec.k;
        desc.scheme = problem.scheme;
        desc.x_type = problem.spec.x_type;
        desc.y_type = problem.spec.y_type;
        desc.worker_count = workers;
        return desc;
    }

    // Run() and give y.
    std::vector<unsigned char> Multiply(int4q_parallel_for parallel_for = nullptr, void *host = nullptr) {
        EXPECT_OK(int4q_matmul(&plan, &args, parallel_for, host)) << spec_.Text();
        return Y();
    }

    // y's m x n elements without what lies between the rows, which must still be as it was.
    std::vector<unsigned char> Y() const {
        const size_t row_bytes = static_cast<size_t>(spec_.n * TypeBytes(spec_.y_type));
        const size_t stride_bytes = static_cast<size_t>(args.ldy * TypeBytes(spec_.y_type));
        std::vector<unsigned char> result;
        size_t damaged = 0;
        for (int64_t row = 0; row < spec_.m; row++) {
            const unsigned char *begin = y.data() + static_cast<size_t>(row) * stride_bytes;
            result.insert(result.end(), begin, begin + row_bytes);
            if (row + 1 == spec_.m) break;
            for (size_t i = row_bytes; i < stride_bytes; i++) damaged += begin[i] != GuardedBuffer::kFill;
        }
        EXPECT_EQ(damaged, 0u) << "bytes between rows of y were written: " << spec_.Text();
        return result;
    }

    void ForgetY() { std::memset(y.data(), GuardedBuffer::kFill, y.size()); }

    int4q_matmul_plan plan;
    int4q_matmul_args args;
    GuardedBuffer y, scratch;

private:
    void Allocate(const Problem &problem, int64_t first_row) {
        std::memset(&args, 0, sizeof args);
        args.struct_size = sizeof args;
        args.x = problem.x.data() + first_row * problem.ldx() * TypeBytes(spec_.x_type);
        args.ldx = problem.ldx();
        args.blob = problem.blob.data();
        args.blob_bytes = problem.blob.size();
        args.ldy = spec_.n + spec_.y_gap;
        const int64_t elements = (spec_.m - 1) * args.ldy + spec_.n;
        y = GuardedBuffer(static_cast<size_t>(elements * TypeBytes(spec_.y_type)), spec_.placement);
        args.y = y.data();
        scratch = GuardedBuffer(plan.scratch_bytes, spec_.placement, INT4Q_ALIGNMENT);
        args.scratch = scratch.data();
        args.scratch_bytes = plan.scratch_bytes;
    }

    Spec spec_;
};

}  // namespace int4q_test
