// SPDX-License-Identifier: Apache-2.0
// A random product: scheme, tensor, blob, x and what an epilogue reads, each in memory between guard pages that forbids
// writing once it is filled; and one run of it with its own plan, scratch and y.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "int4q.h"
#include "support/code_width.hpp"
#include "support/floats.hpp"
#include "support/guarded_buffer.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {

constexpr int32_t kKinds[] = {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK};
constexpr int32_t kGroupSizes[] = {16, 32, 64, 128, 256, INT4Q_GROUP_PER_ROW};
constexpr int4q_compute_mode kModes[] = {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16};
constexpr int32_t kActivations[] = {INT4Q_ACTIVATION_NONE, INT4Q_ACTIVATION_RELU, INT4Q_ACTIVATION_GELU_ERF,
                                    INT4Q_ACTIVATION_GELU_TANH, INT4Q_ACTIVATION_SILU};
constexpr int4q_type kNoType = 0;
constexpr int4q_type kTypesOrNone[] = {kNoType, INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16};

// The name of a test's parameter.
inline std::string NameOfMode(int4q_compute_mode mode) {
    return mode == INT4Q_MODE_F32 ? "F32" : mode == INT4Q_MODE_INT8 ? "Int8" : mode == INT4Q_MODE_BF16 ? "Bf16" : "Binary";
}
inline std::string ModeName(const ::testing::TestParamInfo<int4q_compute_mode> &info) { return NameOfMode(info.param); }

inline const char *ActivationName(int32_t activation) {
    const char *names[] = {"none", "relu", "gelu_erf", "gelu_tanh", "silu"};
    return activation >= 0 && activation < 5 ? names[activation] : "?";
}

struct Spec {
    int64_t m = 1;
    int64_t n = 1;
    int64_t k = 1;
    int4q_compute_mode mode = INT4Q_MODE_F32;
    int32_t kind = INT4Q_KIND_SYMMETRIC;
    int32_t code_bits = 0;
    int32_t group_size = 32;
    int4q_type scale_type = INT4Q_TYPE_F16;
    int4q_type x_type = INT4Q_TYPE_F32;
    int4q_type y_type = INT4Q_TYPE_F32;
    bool quantize = true;  // weights through int4q_quantize_rows(); else random codes, scales, zero points, offsets
    Placement placement = Placement::kRight;
    int64_t x_gap = 0;  // elements between two rows
    int64_t y_gap = 0;
    uint64_t seed = 1;
    int32_t activation = INT4Q_ACTIVATION_NONE;
    int4q_type bias_type = kNoType;
    int4q_type residual_type = kNoType;
    int64_t residual_gap = 0;
    bool gated = false;
    bool up_bias = true;  // with a gate and a bias: the other matrix has one too
    bool static_scales = false;
    bool row_codebooks = false;  // CODEBOOK: one for each row of the weights

    uint32_t Flags() const {
        const int flags = (gated ? INT4Q_MATMUL_GATED : 0) | (static_scales ? INT4Q_MATMUL_STATIC_SCALES : 0);
        return static_cast<uint32_t>(flags);
    }

    std::string Text() const {
        std::ostringstream text;
        text << NameOfMode(mode) << " " << m << "x" << n << "x" << k << " kind " << kind << " bits " << code_bits << " group " << group_size
             << " scales " << TypeName(scale_type) << " x " << TypeName(x_type) << " y " << TypeName(y_type)
             << (quantize ? " quantized" : " random codes") << (placement == Placement::kLeft ? " left" : " right")
             << " gaps " << x_gap << " " << y_gap << " seed " << seed;
        if (activation) text << " " << ActivationName(activation);
        if (bias_type) text << " bias " << TypeName(bias_type);
        if (residual_type) text << " residual " << TypeName(residual_type) << " gap " << residual_gap;
        if (gated) text << (up_bias ? " gated" : " gated without up_bias");
        if (static_scales) text << " static scales";
        if (row_codebooks) text << " row codebooks";
        return text.str();
    }
};

// The product that a spec's epilogue is applied to, in binary32.
inline Spec Plain(Spec spec) {
    spec.activation = INT4Q_ACTIVATION_NONE;
    spec.bias_type = spec.residual_type = kNoType;
    spec.gated = false;
    spec.y_type = INT4Q_TYPE_F32;
    spec.y_gap = 0;
    return spec;
}

// Everything but sizes and mode drawn at random; no epilogue.
inline Spec RandomSpec(Random &random, int64_t m, int64_t n, int64_t k, int4q_compute_mode mode) {
    Spec spec;
    spec.m = m;
    spec.n = n;
    spec.k = k;
    spec.mode = mode;
    spec.kind = kKinds[random.Integer(0, 3)];
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
        if (spec.row_codebooks) scheme.codebook_scope = INT4Q_CODEBOOK_PER_ROW;
        scheme.code_bits = spec.code_bits;
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
            const int64_t values = spec.row_codebooks ? 16 * spec.n : 16;
            codebook_ = GuardedBuffer(static_cast<size_t>(values) * sizeof(float), spec.placement);
            for (int64_t i = 0; i < values; i++) codebook_.as<float>()[i] = random_.Normal();
            tensor.codebook = codebook_.as<float>();
            codebook_.ForbidWriting();
        }
        if (spec.quantize) {
            SetWeights([&](int64_t, int64_t) { return 0.05f * random_.Normal() + 0.01f; });
        } else {
            DrawWeights();
        }
        DrawX();
        if (spec.static_scales) DrawXScales();
        if (spec.gated) MakeUp();
        DrawVectors();
    }

    Problem(const Problem &) = delete;
    Problem &operator=(const Problem &) = delete;

    int64_t ldx() const { return spec.k + spec.x_gap; }
    float X(int64_t row, int64_t column) const { return LoadElement(x.data(), spec.x_type, row * ldx() + column); }

    // Replaces x by value(row, column), rounded to x's type.
    void SetX(const std::function<float(int64_t, int64_t)> &value) {
        FillRows(x, spec.x_type, spec.k, ldx(), value);
        CopyXToUp();
    }
    void SetX(int64_t row, int64_t column, float value) {
        x.AllowWriting();
        StoreElement(x.data(), spec.x_type, row * ldx() + column, value);
        x.ForbidWriting();
        CopyXToUp();
    }

    // INT4Q_MATMUL_STATIC_SCALES: the scale of a group of x.
    float XScale(int64_t group) const { return LoadElement(x_scales.data(), INT4Q_TYPE_F32, group); }
    void SetXScales(const std::function<float(int64_t)> &value) {
        x_scales.AllowWriting();
        for (int64_t g = 0; g < layout.groups_per_row; g++) x_scales.as<float>()[g] = value(g);
        x_scales.ForbidWriting();
        if (up) up->SetXScales(value);
    }

    // Elements between the starts of two rows of the residual.
    int64_t ldr() const { return spec.n + spec.residual_gap; }
    float Bias(int64_t column) const { return LoadElement(bias.data(), spec.bias_type, column); }
    float UpBias(int64_t column) const { return LoadElement(up_bias.data(), spec.bias_type, column); }
    float Residual(int64_t row, int64_t column) const {
        return LoadElement(residual.data(), spec.residual_type, row * ldr() + column);
    }
    void SetBias(const std::function<float(int64_t)> &value) { FillBias(bias, value); }
    void SetUpBias(const std::function<float(int64_t)> &value) { FillBias(up_bias, value); }
    void SetResidual(const std::function<float(int64_t, int64_t)> &value) {
        FillRows(residual, spec.residual_type, spec.n, ldr(), value);
    }

    int Code(int64_t row, int64_t column) const {
        return GetCode(codes_.data() + row * static_cast<int64_t>(layout.codes_row_bytes), CodeBits(scheme), column);
    }
    // CODEBOOK: what the codes of a row of the weights stand for.
    const float *Codebook(int64_t row) const { return tensor.codebook + (spec.row_codebooks ? 16 * row : 0); }
    int64_t GroupOf(int64_t column) const { return spec.group_size > 0 ? column / spec.group_size : 0; }
    float Scale(int64_t row, int64_t group) const {
        return LoadElement(scales_.data(), spec.scale_type, row * layout.groups_per_row + group);
    }
    int ZeroPoint(int64_t row, int64_t group) const {
        return zero_points_.size() ? zero_points_.data()[row * layout.groups_per_row + group] : MiddleCode(scheme);
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

    // Replaces a CODEBOOK and packs the same codes again.
    void SetCodebook(const std::function<float(int)> &value) {
        codebook_.AllowWriting();
        for (int i = 0; i < 16; i++) codebook_.as<float>()[i] = value(i);
        codebook_.ForbidWriting();
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
    GuardedBuffer bias, up_bias, residual, x_scales;
    // With a gate, the other matrix: a plain product of its own with the same x, its results in binary32.
    std::unique_ptr<Problem> up;

private:
    void FillRows(GuardedBuffer &matrix, int4q_type type, int64_t columns, int64_t stride,
                  const std::function<float(int64_t, int64_t)> &value) {
        matrix.AllowWriting();
        for (int64_t row = 0; row < spec.m; row++) {
            for (int64_t column = 0; column < columns; column++) {
                StoreElement(matrix.data(), type, row * stride + column, value(row, column));
            }
        }
        matrix.ForbidWriting();
    }

    void FillBias(GuardedBuffer &vector, const std::function<float(int64_t)> &value) {
        vector.AllowWriting();
        for (int64_t i = 0; i < spec.n; i++) StoreElement(vector.data(), spec.bias_type, i, value(i));
        vector.ForbidWriting();
    }

    // m rows with NaN between them.
    GuardedBuffer Rows(int4q_type type, int64_t columns, int64_t stride) const {
        const int64_t elements = (spec.m - 1) * stride + columns;
        GuardedBuffer rows(static_cast<size_t>(elements * TypeBytes(type)), spec.placement);
        std::memset(rows.data(), 0xff, rows.size());
        return rows;
    }

    // About as large as those that would be found at run time, some smaller, so that some codes are clipped.
    void DrawXScales() {
        x_scales = GuardedBuffer(static_cast<size_t>(layout.groups_per_row) * sizeof(float), spec.placement);
        SetXScales([&](int64_t) { return random_.Uniform(0.5f, 4.0f) / 127; });
    }

    void MakeUp() {
        Spec other = Plain(spec);
        other.seed = random_.Bits();
        up = std::make_unique<Problem>(other);
        CopyXToUp();
        if (spec.static_scales) up->SetXScales([&](int64_t g) { return XScale(g); });
    }

    void CopyXToUp() {
        if (up) up->SetX([&](int64_t row, int64_t column) { return X(row, column); });
    }

    void DrawVectors() {
        const auto draw = [&](int64_t) { return 0.5f * random_.Normal(); };
        const size_t bytes = static_cast<size_t>(spec.n * TypeBytes(spec.bias_type));
        if (spec.bias_type) {
            bias = GuardedBuffer(bytes, spec.placement);
            SetBias(draw);
        }
        if (spec.bias_type && spec.gated && spec.up_bias) {
            up_bias = GuardedBuffer(bytes, spec.placement);
            SetUpBias(draw);
        }
        if (spec.residual_type) {
            residual = Rows(spec.residual_type, spec.n, ldr());
            SetResidual([&](int64_t, int64_t) { return random_.Normal(); });
        }
    }

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
                PutCode(bytes, CodeBits(scheme), column, static_cast<int>(random_.Integer(0, LargestCode(scheme))));
            }
        }
        for (int64_t i = 0; i < spec.n * layout.groups_per_row; i++) {
            const float scale = random_.Chance(0.05) ? 0.0f : 0.02f * random_.Normal();
            StoreElement(scales_.data(), spec.scale_type, i, scale);
            if (zero_points_.size()) zero_points_.data()[i] = static_cast<unsigned char>(random_.Integer(0, LargestCode(scheme)));
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
        x = Rows(spec.x_type, spec.k, ldx());
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

    Product(const Problem &problem, uint32_t workers, int64_t first_row, int64_t rows)
        : Product(problem, problem.spec, workers, first_row, rows) {}

    // With a problem's matrices, as another spec describes: another epilogue, another y.
    Product(const Problem &problem, const Spec &spec, uint32_t workers = 1)
        : Product(problem, spec, workers, 0, problem.spec.m) {}

    Product(const Problem &problem, const Spec &spec, uint32_t workers, int64_t first_row, int64_t rows) : spec_(spec) {
        spec_.m = rows;
        const int4q_matmul_desc desc = Describe(problem, spec_, workers);
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
        Spec spec = problem.spec;
        spec.m = rows;
        return Describe(problem, spec, workers);
    }

    static int4q_matmul_desc Describe(const Problem &problem, const Spec &spec, uint32_t workers) {
        int4q_matmul_desc desc;
        std::memset(&desc, 0, sizeof desc);
        desc.struct_size = sizeof desc;
        desc.mode = spec.mode;
        desc.m = spec.m;
        desc.n = spec.n;
        desc.k = spec.k;
        desc.scheme = problem.scheme;
        desc.x_type = spec.x_type;
        desc.y_type = spec.y_type;
        desc.worker_count = workers;
        desc.flags = spec.Flags();
        desc.activation = spec.activation;
        desc.bias_type = spec.bias_type;
        desc.residual_type = spec.residual_type;
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

    // Puts the residual where y will be and lets both be the same memory, until the product has run once.
    void AddToY(const Problem &problem) {
        for (int64_t row = 0; row < spec_.m; row++) {
            for (int64_t column = 0; column < spec_.n; column++) {
                StoreElement(y.data(), spec_.y_type, row * args.ldy + column, problem.Residual(row, column));
            }
        }
        args.residual = y.data();
        args.ldr = args.ldy;
    }

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
        if (spec_.static_scales) args.x_scales = reinterpret_cast<const float *>(problem.x_scales.data());
        ConnectEpilogue(problem, first_row);
    }

    void ConnectEpilogue(const Problem &problem, int64_t first_row) {
        if (spec_.gated) {
            args.up_blob = problem.up->blob.data();
            args.up_blob_bytes = problem.up->blob.size();
        }
        if (spec_.bias_type) args.bias = problem.bias.data();
        if (spec_.bias_type && spec_.gated && spec_.up_bias) args.up_bias = problem.up_bias.data();
        if (spec_.residual_type) {
            args.residual = problem.residual.data() + first_row * problem.ldr() * TypeBytes(spec_.residual_type);
            args.ldr = problem.ldr();
        }
    }

    Spec spec_;
};

// A host's own threads: as many as there are workers, each taking the next index of a shuffled list.
struct OwnThreads {
    uint64_t seed = 1;
    int calls = 0;
    std::atomic<int64_t> done{0};

    static void ParallelFor(void *host, int64_t count, uint32_t worker_count, int4q_task task, void *context) {
        auto &self = *static_cast<OwnThreads *>(host);
        self.calls++;
        std::vector<int64_t> order(static_cast<size_t>(count));
        std::iota(order.begin(), order.end(), int64_t{0});
        Random(self.seed++).Shuffle(order);
        std::atomic<size_t> next{0};
        std::vector<std::thread> threads;
        for (uint32_t worker = 0; worker < worker_count; worker++) {
            threads.emplace_back([&, worker] {
                for (size_t i = next++; i < order.size(); i = next++) {
                    task(context, order[i], worker);
                    self.done++;
                }
            });
        }
        for (std::thread &thread : threads) thread.join();
    }
};

// Every prepare task and then every tile by itself, in random order, each tile with any worker's part of the scratch;
// the two steps get only what the header says that they read.
inline void RunInRandomOrder(const Product &product, Random &random) {
    const auto shuffled = [&](int64_t count) {
        std::vector<int64_t> order(static_cast<size_t>(count));
        std::iota(order.begin(), order.end(), int64_t{0});
        random.Shuffle(order);
        return order;
    };
    int4q_matmul_args prepare;
    std::memset(&prepare, 0, sizeof prepare);
    prepare.struct_size = sizeof prepare;
    prepare.x = product.args.x;
    prepare.ldx = product.args.ldx;
    prepare.x_scales = product.args.x_scales;
    prepare.row_experts = product.args.row_experts;
    prepare.scratch = product.args.scratch;
    prepare.scratch_bytes = product.args.scratch_bytes;
    int4q_matmul_args run = product.args;
    run.x = nullptr;
    run.x_scales = nullptr;
    run.row_experts = nullptr;
    for (int64_t task : shuffled(product.plan.prepare_count)) {
        EXPECT_OK(int4q_matmul_prepare(&product.plan, &prepare, task, task + 1));
    }
    for (int64_t tile : shuffled(product.plan.tile_count)) {
        const auto worker = static_cast<uint32_t>(random.Integer(0, int64_t{product.plan.worker_count} - 1));
        EXPECT_OK(int4q_matmul_tiles(&product.plan, &run, worker, tile, tile + 1));
    }
}

}  // namespace int4q_test
