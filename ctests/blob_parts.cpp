// SPDX-License-Identifier: Apache-2.0
// Parts beside a blob's codes: the bytes of docs/blob-format.md, products to the bit as docs/numerics.md has them and near
// binary64, one result whatever the instruction set, threads, split and batch; and parts that are nonsense.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "int4q.h"
#include "int4q.hpp"
#include "support/bad_arguments.hpp"
#include "support/blob_memory.hpp"
#include "support/blob_parts.hpp"
#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/status.hpp"

namespace int4q_test {
namespace {

constexpr uint32_t kPermutation = INT4Q_PART_PERMUTATION, kRotation = INT4Q_PART_ROTATION, kSparse = INT4Q_PART_SPARSE,
                   kLowRank = INT4Q_PART_LOW_RANK, kAllParts = 15;
constexpr int4q_compute_mode kModes[] = {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16};

using Bytes = std::vector<uint8_t>;

Bytes Copy(const GuardedBuffer &buffer) { return Bytes(buffer.data(), buffer.data() + buffer.size()); }

GuardedBuffer Guarded(const Bytes &bytes) {
    GuardedBuffer buffer(bytes.size(), Placement::kRight, INT4Q_ALIGNMENT);
    std::memcpy(buffer.data(), bytes.data(), bytes.size());
    return buffer;
}

uint64_t PartsSize(const Parts &parts) {
    const int4q_parts raw = parts.raw();
    uint64_t bytes = 1;
    EXPECT_OK(int4q_blob_parts_size(parts.n, parts.k, &raw, &bytes));
    return bytes;
}

// A plain blob with parts attached by the library, in as many bytes as it says.
GuardedBuffer Attach(const Bytes &plain, const Parts &parts) {
    GuardedBuffer blob(plain.size() + PartsSize(parts), Placement::kRight, INT4Q_ALIGNMENT);
    std::memcpy(blob.data(), plain.data(), plain.size());
    const int4q_parts raw = parts.raw();
    EXPECT_OK(int4q_blob_attach(blob.data(), blob.size(), &raw));
    return blob;
}

int4q_blob_info InfoOf(const GuardedBuffer &blob) {
    int4q_blob_info info = EmptyInfo();
    EXPECT_OK(int4q_blob_get_info(blob.data(), blob.size(), &info));
    return info;
}

// A product: how, and of what.
struct Job {
    int4q_compute_mode mode = INT4Q_MODE_F32;
    int4q_type x_type = INT4Q_TYPE_F32, y_type = INT4Q_TYPE_F32;
    uint32_t workers = 1;
    std::vector<float> x;         // [m][k], values of x_type
    std::vector<float> bias;      // [n] or none
    std::vector<float> residual;  // [m][n] or none
    std::vector<float> steps;     // INT8: scales of the caller, or none
    int32_t activation = INT4Q_ACTIVATION_NONE;
    const GuardedBuffer *up = nullptr;  // the second matrix of a gated product

    int4q_matmul_desc Desc(const int4q_blob_info &info) const {
        int4q_matmul_desc desc{};
        desc.struct_size = sizeof desc;
        desc.mode = mode;
        desc.m = static_cast<int64_t>(x.size()) / info.k;
        desc.n = info.n;
        desc.k = info.k;
        desc.scheme = info.scheme;
        desc.x_type = x_type;
        desc.y_type = y_type;
        desc.worker_count = workers;
        desc.activation = activation;
        if (!bias.empty()) desc.bias_type = INT4Q_TYPE_F32;
        if (!residual.empty()) desc.residual_type = INT4Q_TYPE_F32;
        if (!steps.empty()) desc.flags = INT4Q_MATMUL_STATIC_SCALES;
        if (up) desc.flags |= INT4Q_MATMUL_GATED;
        desc.part_flags = info.part_flags;
        desc.part_rank = info.part_rank;
        return desc;
    }
};

enum class How { kAtOnce, kPool, kSteps };

// y as bytes. All memory is between guard pages.
Bytes Multiply(const Job &job, const GuardedBuffer &blob, How how = How::kAtOnce, Random *random = nullptr) {
    const int4q_blob_info info = InfoOf(blob);
    const int4q_matmul_desc desc = job.Desc(info);
    int4q_matmul_plan plan{};
    plan.struct_size = sizeof plan;
    EXPECT_OK(int4q_matmul_plan_init(&desc, &plan));
    GuardedBuffer scratch(plan.scratch_bytes, Placement::kRight, INT4Q_ALIGNMENT);
    GuardedBuffer x(job.x.size() * static_cast<size_t>(TypeBytes(job.x_type)), Placement::kRight, 4);
    for (size_t i = 0; i < job.x.size(); i++) StoreElement(x.data(), job.x_type, static_cast<int64_t>(i), job.x[i]);
    x.ForbidWriting();
    GuardedBuffer y(static_cast<size_t>(desc.m * desc.n * TypeBytes(job.y_type)), Placement::kRight, 4);
    int4q_matmul_args args{};
    args.struct_size = sizeof args;
    args.x = x.data();
    args.ldx = info.k;
    args.blob = blob.data();
    args.blob_bytes = blob.size();
    args.y = y.data();
    args.ldy = info.n;
    args.scratch = scratch.data();
    args.scratch_bytes = scratch.size();
    if (!job.bias.empty()) args.bias = job.bias.data();
    if (!job.residual.empty()) args.residual = job.residual.data(), args.ldr = info.n;
    if (!job.steps.empty()) args.x_scales = job.steps.data();
    if (job.up) args.up_blob = job.up->data(), args.up_blob_bytes = job.up->size();
    if (how == How::kAtOnce) {
        EXPECT_OK(int4q_matmul(&plan, &args, nullptr, nullptr));
    } else if (how == How::kPool) {
        int4q_pool *pool = nullptr;
        EXPECT_OK(int4q_pool_create(job.workers, &pool));
        EXPECT_OK(int4q_matmul(&plan, &args, int4q_pool_parallel_for, pool));
        EXPECT_OK(int4q_pool_destroy(pool));
    } else {
        const auto shuffled = [&](int64_t count) {
            std::vector<int64_t> order(static_cast<size_t>(count));
            for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int64_t>(i);
            random->Shuffle(order);
            return order;
        };
        for (int64_t i : shuffled(plan.prepare_count)) EXPECT_OK(int4q_matmul_prepare(&plan, &args, i, i + 1));
        for (int64_t i : shuffled(plan.tile_count)) {
            EXPECT_OK(int4q_matmul_tiles(&plan, &args, static_cast<uint32_t>(random->Integer(0, job.workers - 1)), i, i + 1));
        }
    }
    return Copy(y);
}

std::vector<float> Floats(const Bytes &bytes) {
    std::vector<float> values(bytes.size() / 4);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

std::vector<float> Row(const std::vector<float> &matrix, int64_t row, int64_t columns) {
    const auto begin = matrix.begin() + row * columns;
    return std::vector<float>(begin, begin + columns);
}

// What the product must be to the bit: the plain blob's totals of x', the parts' share, bias, residual. (Plain products have
// their own tests.) x' has orders that are powers of two.
std::vector<float> Expected(const Job &job, const GuardedBuffer &plain, const Parts &parts) {
    Job turned = job;
    turned.x.clear(), turned.bias.clear(), turned.residual.clear();
    turned.x_type = turned.y_type = INT4Q_TYPE_F32;
    turned.activation = INT4Q_ACTIVATION_NONE;
    const int64_t m = static_cast<int64_t>(job.x.size()) / parts.k;
    for (int64_t row = 0; row < m; row++) {
        const std::vector<float> v = parts.Turned(Row(job.x, row, parts.k));
        turned.x.insert(turned.x.end(), v.begin(), v.end());
    }
    const std::vector<float> totals = Floats(Multiply(turned, plain));
    std::vector<float> y;
    for (int64_t row = 0; row < m; row++) {
        std::vector<float> sums = Row(totals, row, parts.n);
        parts.AddTo(sums, Row(job.x, row, parts.k));
        for (size_t j = 0; j < sums.size(); j++) {
            if (!job.bias.empty()) sums[j] += job.bias[j];
            if (job.activation == INT4Q_ACTIVATION_RELU && !(sums[j] > 0)) sums[j] = 0;
            if (!job.residual.empty()) sums[j] += job.residual[static_cast<size_t>(row * parts.n) + j];
        }
        y.insert(y.end(), sums.begin(), sums.end());
    }
    return y;
}

::testing::AssertionResult Same(const std::vector<float> &wanted, const Bytes &got, int4q_type type, int64_t n) {
    for (size_t i = 0; i < wanted.size(); i++) {
        Bytes one(4);
        StoreElement(one.data(), type, 0, wanted[i]);
        const int64_t at = static_cast<int64_t>(i);
        const float value = LoadElement(got.data(), type, at), rounded = LoadElement(one.data(), type, 0);
        if (BitsOf(value) != BitsOf(rounded) && !(std::isnan(value) && std::isnan(rounded))) {
            return ::testing::AssertionFailure()
                   << "row " << at / n << ", column " << at % n << ": " << value << ", expected " << rounded;
        }
    }
    return ::testing::AssertionSuccess();
}

class BlobParts : public ::testing::Test {
protected:
    int4q_scheme Scheme(int4q_compute_mode mode = INT4Q_MODE_F32) {
        int4q_scheme scheme = MakeScheme(kAllKinds[random_.Integer(0, 3)], kAllGroupSizes[random_.Integer(0, 5)],
                                         static_cast<int4q_type>(random_.Integer(1, 3)));
        if (mode != INT4Q_MODE_BF16 && scheme.kind < INT4Q_KIND_CODEBOOK && random_.Chance(0.2)) scheme.code_bits = 8;
        return scheme;
    }

    TensorMemory Tensor(const int4q_scheme &scheme, int64_t n, int64_t k) { return RandomTensor(scheme, n, k, random_.Bits()); }

    Job RandomJob(int4q_compute_mode mode, int64_t m, int64_t n, int64_t k) {
        Job job;
        job.mode = mode;
        job.x_type = static_cast<int4q_type>(random_.Integer(1, 3));
        job.y_type = static_cast<int4q_type>(random_.Integer(1, 3));
        for (int64_t i = 0; i < m * k; i++) job.x.push_back(RoundTo(job.x_type, random_.Normal()));
        if (random_.Chance(0.3)) {
            for (int64_t i = 0; i < n; i++) job.bias.push_back(random_.Normal());
            job.activation = random_.Chance(0.5) ? INT4Q_ACTIVATION_RELU : INT4Q_ACTIVATION_NONE;
        }
        if (random_.Chance(0.3)) {
            for (int64_t i = 0; i < m * n; i++) job.residual.push_back(random_.Normal());
        }
        return job;
    }

    // The product on every instruction set, by threads and in shuffled steps: one result.
    void Check(const Job &job, const GuardedBuffer &plain, const GuardedBuffer &blob, const Parts &parts) {
        for (int4q_isa isa : UsableIsas()) {
            SCOPED_TRACE("parts " + std::to_string(parts.flags()) + ", mode " + std::to_string(job.mode) + ", " +
                         int4q_isa_name(isa) + ", " + std::to_string(job.x.size() / static_cast<size_t>(parts.k)) + " x " +
                         std::to_string(parts.n) + " x " + std::to_string(parts.k) + ", rank " + std::to_string(parts.rank));
            const IsaLimit limit(isa);
            const std::vector<float> wanted = Expected(job, plain, parts);
            ASSERT_TRUE(Same(wanted, Multiply(job, blob), job.y_type, parts.n));
        }
    }

    Random random_{80211};
};

// ---- Products -------------------------------------------------------------------------------------------------------

TEST_F(BlobParts, EverySetOfPartsInEveryMode) {
    for (int4q_compute_mode mode : kModes) {
        for (uint32_t flags = 0; flags <= kAllParts; flags++) {
            for (int i = 0; i < Samples(3); i++) {
                const int64_t m = random_.Integer(1, 40), n = random_.Integer(1, 70);
                const int64_t k = random_.Chance(0.5) ? random_.Integer(1, 200) : 32 * random_.Integer(1, 6);
                const TensorMemory tensor = Tensor(Scheme(mode), n, k);
                GuardedBuffer plain = Pack(tensor);
                const Parts parts(random_, n, k, flags);
                GuardedBuffer blob = Attach(Copy(plain), parts);
                plain.ForbidWriting(), blob.ForbidWriting();
                Check(RandomJob(mode, m, n, k), plain, blob, parts);
                if (HasFatalFailure()) return;
            }
        }
    }
}

// Groups of 16 rows for the sparse part, tiles of 128, what is left of either.
TEST_F(BlobParts, EveryCountOfRows) {
    const int64_t n = 37, k = 96;
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16), n, k);
    const GuardedBuffer plain = Pack(tensor);
    const Parts parts(random_, n, k, kAllParts);
    const GuardedBuffer blob = Attach(Copy(plain), parts);
    for (int64_t m : {1, 2, 3, 4, 5, 15, 16, 17, 20, 31, 32, 33, 63, 64, 65, 127, 128, 129, 143, 144, 300}) {
        Check(RandomJob(INT4Q_MODE_F32, m, n, k), plain, blob, parts);
        if (HasFatalFailure()) return;
    }
}

TEST_F(BlobParts, EveryRankAndType) {
    const int64_t n = 19, k = 43;
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_ASYMMETRIC, 16, INT4Q_TYPE_F32), n, k);
    const GuardedBuffer plain = Pack(tensor);
    for (int64_t rank : {1, 2, 3, 4, 5, 15, 16, 17, 64, 255, 256}) {
        for (int4q_type type : kTypes) {
            Parts parts(n, k);
            parts.AddLowRank(random_, rank, type);
            Check(RandomJob(INT4Q_MODE_INT8, 5, n, k), plain, Attach(Copy(plain), parts), parts);
            if (HasFatalFailure()) return;
        }
    }
}

TEST_F(BlobParts, SparseWithoutElementsAndWithAll) {
    const int64_t n = 18, k = 40;
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 16, INT4Q_TYPE_F32), n, k);
    const GuardedBuffer plain = Pack(tensor);
    for (double density : {0.0, 1.0}) {
        Parts parts(n, k);
        parts.AddSparse(random_, density);
        Check(RandomJob(INT4Q_MODE_F32, 19, n, k), plain, Attach(Copy(plain), parts), parts);
    }
}

TEST_F(BlobParts, ThreadsStepsAndBatchesChangeNoBit) {
    for (int4q_compute_mode mode : kModes) {
        for (int i = 0; i < Samples(3); i++) {
            const int64_t m = random_.Integer(2, 70), n = random_.Integer(30, 150), k = 32 * random_.Integer(1, 8);
            const TensorMemory tensor = Tensor(Scheme(mode), n, k);
            const Parts parts(random_, n, k, kAllParts);
            const GuardedBuffer blob = Attach(Copy(Pack(tensor)), parts);
            Job job = RandomJob(mode, m, n, k);
            const Bytes wanted = Multiply(job, blob);
            for (uint32_t workers : {1u, 2u, 5u}) {
                job.workers = workers;
                EXPECT_TRUE(wanted == Multiply(job, blob, How::kPool)) << workers << " workers";
                EXPECT_TRUE(wanted == Multiply(job, blob, How::kSteps, &random_)) << workers << " workers";
            }
            const size_t row_bytes = static_cast<size_t>(n * TypeBytes(job.y_type));
            for (int64_t row = 0; row < m; row++) {
                Job one = job;
                one.x = Row(job.x, row, k);
                if (!job.residual.empty()) one.residual = Row(job.residual, row, n);
                const Bytes part(wanted.begin() + row * static_cast<int64_t>(row_bytes),
                                 wanted.begin() + (row + 1) * static_cast<int64_t>(row_bytes));
                ASSERT_TRUE(part == Multiply(one, blob)) << "row " << row << " alone";
            }
        }
    }
}

TEST_F(BlobParts, ResultsDoNotDependOnTheInstructionSet) {
    for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8}) {
        const int64_t m = 50, n = 67, k = 224;
        const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16), n, k);
        Parts parts(random_, n, k, kPermutation | kSparse | kLowRank);
        parts.rotation_order = 28, parts.rotation_seed = 5;
        const GuardedBuffer blob = Attach(Copy(Pack(tensor)), parts);
        const Job job = RandomJob(mode, m, n, k);
        Bytes first;
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
            const Bytes y = Multiply(job, blob);
            if (first.empty()) first = y;
            EXPECT_TRUE(first == y) << int4q_isa_name(isa);
        }
    }
}

// Against the definition in binary64, with Hadamard matrices of every kind of order: H has entries +-1 / sqrt(order), orthogonal
// rows, and what x' of unit vectors says it has.
TEST_F(BlobParts, ProductsAreNearBinary64) {
    for (int64_t order : {1, 2, 8, 64, 12, 24, 20, 40, 28, 56}) {
        const int64_t m = 18, n = 35, k = order * (order < 8 ? 17 : 3);
        // x' itself: the identity as weights, exactly.
        TensorMemory identity(MakeScheme(INT4Q_KIND_SYMMETRIC, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F32), k, k);
        std::vector<float> unit(static_cast<size_t>(k * k), 0.0f);
        for (int64_t i = 0; i < k; i++) unit[static_cast<size_t>(i * k + i)] = -8.0f;
        ASSERT_OK(int4q_quantize_rows(identity.get(), unit.data(), INT4Q_TYPE_F32, k, 0, k));
        Parts turn(k, k);
        turn.rotation_order = order, turn.rotation_seed = 99;
        const GuardedBuffer turner = Attach(Copy(Pack(identity)), turn);
        Job job;
        job.x.assign(unit.begin(), unit.end());
        for (float &value : job.x) value = value != 0 ? 1.0f : 0.0f;
        std::vector<float> rotation = Floats(Multiply(job, turner));  // [j][i] = -8 (times the sign that the scale got) H[i][j]
        const double unit_scale = -8.0;
        const double entry = 1 / std::sqrt(static_cast<double>(order));
        for (int64_t j = 0; j < k; j++) {
            for (int64_t i = 0; i < k; i++) {
                const double value = static_cast<double>(rotation[static_cast<size_t>(j * k + i)]) / unit_scale;
                EXPECT_NEAR(std::fabs(value), i / order == j / order ? entry : 0.0, 1e-6);
                double dot = 0;
                for (int64_t l = 0; l < k; l++) {
                    dot += static_cast<double>(rotation[static_cast<size_t>(j * k + l)]) *
                           static_cast<double>(rotation[static_cast<size_t>(i * k + l)]) / 64;
                }
                ASSERT_NEAR(dot, i == j ? 1.0 : 0.0, 1e-5) << order;
            }
        }
        // The whole product, of weights that the blob's tensor stands for.
        const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_ASYMMETRIC, 16, INT4Q_TYPE_F16), n, k);
        std::vector<float> w(static_cast<size_t>(n * k));
        ASSERT_OK(int4q_dequantize_rows(tensor.get(), w.data(), INT4Q_TYPE_F32, k, 0, n));
        Parts parts(random_, n, k, kPermutation | kSparse | kLowRank);
        parts.rotation_order = order, parts.rotation_seed = 99;
        const GuardedBuffer blob = Attach(Copy(Pack(tensor)), parts);
        Job product;
        for (int64_t i = 0; i < m * k; i++) product.x.push_back(random_.Normal());
        const std::vector<float> y = Floats(Multiply(product, blob));
        for (int64_t row = 0; row < m; row++) {
            const std::vector<float> x = Row(product.x, row, k), permuted = parts.Permuted(x);
            std::vector<double> turned(static_cast<size_t>(k), 0.0), projected(static_cast<size_t>(parts.rank), 0.0);
            for (int64_t i = 0; i < k; i++) {
                for (int64_t j = 0; j < k; j++) {
                    turned[static_cast<size_t>(i)] += static_cast<double>(permuted[static_cast<size_t>(j)]) *
                                                      static_cast<double>(rotation[static_cast<size_t>(j * k + i)]) / unit_scale;
                }
            }
            for (int64_t r = 0; r < parts.rank; r++) {
                for (int64_t j = 0; j < k; j++) {
                    projected[static_cast<size_t>(r)] +=
                        static_cast<double>(x[static_cast<size_t>(j)]) * static_cast<double>(parts.B(r, j));
                }
            }
            for (int64_t column = 0; column < n; column++) {
                double sum = 0;
                for (int64_t j = 0; j < k; j++)
                    sum += turned[static_cast<size_t>(j)] * static_cast<double>(w[static_cast<size_t>(column * k + j)]);
                for (int64_t e = parts.row_offsets[static_cast<size_t>(column)];
                     e < parts.row_offsets[static_cast<size_t>(column) + 1]; e++) {
                    const auto at = static_cast<size_t>(e);
                    sum += static_cast<double>(x[static_cast<size_t>(parts.columns[at])]) * static_cast<double>(parts.values[at]);
                }
                for (int64_t r = 0; r < parts.rank; r++)
                    sum += projected[static_cast<size_t>(r)] * static_cast<double>(parts.A(column, r));
                ASSERT_NEAR(static_cast<double>(y[static_cast<size_t>(row * n + column)]), sum, 2e-4) << "order " << order;
            }
        }
    }
}

TEST_F(BlobParts, ScalesOfTheCallerAreForTheTurnedRows) {
    const int64_t m = 21, n = 33, k = 128;
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16), n, k);
    const GuardedBuffer plain = Pack(tensor);
    const Parts parts(random_, n, k, kAllParts, 32);
    const GuardedBuffer blob = Attach(Copy(plain), parts);
    Job job = RandomJob(INT4Q_MODE_INT8, m, n, k);
    job.steps = {0.01f, 0.02f, 0.03f, 0.015f};
    Check(job, plain, blob, parts);
}

// x' is made once, S and A B are each matrix's own: the product of two products, to the bit.
TEST_F(BlobParts, GatedProductsHavePartsOfBothMatrices) {
    for (int4q_compute_mode mode : kModes) {
        for (uint32_t flags = 1; flags <= kAllParts; flags++) {
            const int64_t m = random_.Integer(1, 40), n = random_.Integer(1, 70), k = 32 * random_.Integer(1, 5);
            const int4q_scheme scheme = Scheme(mode);
            const TensorMemory gate = Tensor(scheme, n, k), up = Tensor(scheme, n, k);
            const Parts parts(random_, n, k, flags);
            Parts others(random_, n, k, flags & ~(kPermutation | kRotation | kLowRank));
            others.permutation = parts.permutation;
            others.rotation_order = parts.rotation_order, others.rotation_seed = parts.rotation_seed;
            if (parts.rank) others.AddLowRank(random_, parts.rank, random_.Pick(Parts::AllTypes()));
            const GuardedBuffer gate_blob = Attach(Copy(Pack(gate)), parts), up_blob = Attach(Copy(Pack(up)), others);
            Job job = RandomJob(mode, m, n, k);
            job.y_type = INT4Q_TYPE_F32;
            job.workers = 2;
            Job plain;
            plain.mode = mode, plain.x_type = job.x_type, plain.x = job.x;
            const std::vector<float> factor = Floats(Multiply(plain, up_blob));
            plain.bias = job.bias, plain.activation = job.activation;
            std::vector<float> wanted = Floats(Multiply(plain, gate_blob));
            for (size_t i = 0; i < wanted.size(); i++) {
                wanted[i] *= factor[i];
                if (!job.residual.empty()) wanted[i] += job.residual[i];
            }
            job.up = &up_blob;
            for (int4q_isa isa : ExactIsas(mode)) {
                const IsaLimit limit(isa);
                ASSERT_TRUE(mode == INT4Q_MODE_BF16 || Same(wanted, Multiply(job, gate_blob, How::kPool), INT4Q_TYPE_F32, n))
                    << flags;
            }
            ASSERT_TRUE(Same(wanted, Multiply(job, gate_blob, How::kSteps, &random_), INT4Q_TYPE_F32, n)) << flags;
        }
    }
}

TEST_F(BlobParts, WhatIsNotFiniteStaysInItsRow) {
    const int64_t n = 20, k = 64;
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16), n, k);
    for (int4q_compute_mode mode : kModes) {
        for (uint32_t flags : {kPermutation, kRotation, kSparse, kLowRank, kAllParts}) {
            const GuardedBuffer blob = Attach(Copy(Pack(tensor)), Parts(random_, n, k, flags, 16));
            Job job;
            job.mode = mode;
            for (int64_t i = 0; i < 19 * k; i++) job.x.push_back(random_.Normal());
            const std::vector<float> before = Floats(Multiply(job, blob));
            job.x[3 * k + 7] = std::numeric_limits<float>::quiet_NaN();
            job.x[17 * k + 9] = std::numeric_limits<float>::infinity();
            const std::vector<float> y = Floats(Multiply(job, blob));
            for (int64_t row = 0; row < 19; row++) {
                for (int64_t column = 0; column < n; column++) {
                    const size_t at = static_cast<size_t>(row * n + column);
                    const bool is_hit = row == 3 || row == 17;
                    EXPECT_EQ(std::isfinite(y[at]), !is_hit);
                    EXPECT_TRUE(!is_hit || mode != INT4Q_MODE_INT8 || std::isnan(y[at]));
                    EXPECT_TRUE(is_hit || BitsOf(y[at]) == BitsOf(before[at]));
                }
            }
        }
    }
}

// ---- Bytes ----------------------------------------------------------------------------------------------------------

TEST_F(BlobParts, BytesAreAsDocumented) {
    for (uint32_t flags = 0; flags <= kAllParts; flags++) {
        for (int i = 0; i < Samples(6); i++) {
            const int64_t n = random_.Integer(1, 50), k = 8 * random_.Integer(1, 12);
            const TensorMemory tensor = Tensor(Scheme(), n, k);
            const Bytes plain = PackReference(*tensor.get());
            const Parts parts(random_, n, k, flags);
            const Bytes wanted = parts.Attached(plain);
            const GuardedBuffer blob = Attach(plain, parts);
            EXPECT_EQ(plain.size() + PartsSize(parts), wanted.size());
            ASSERT_TRUE(wanted == Copy(blob)) << "parts " << flags << ", " << n << " x " << k;
            EXPECT_OK(Validate(blob));
            EXPECT_EQ(plain == wanted, flags == 0);
        }
    }
}

TEST_F(BlobParts, InfoAndPointersTellWhatWasAttached) {
    const int64_t n = 21, k = 48;
    const TensorMemory tensor = Tensor(Scheme(), n, k);
    const Bytes plain = PackReference(*tensor.get());
    for (uint32_t flags = 0; flags <= kAllParts; flags++) {
        const Parts parts(random_, n, k, flags);
        const GuardedBuffer blob = Attach(plain, parts);
        const int4q_blob_info info = InfoOf(blob);
        EXPECT_EQ(info.part_flags, flags);
        EXPECT_EQ(info.part_rank, parts.rank);
        EXPECT_EQ(info.parts_bytes, PartsSize(parts));
        EXPECT_EQ(info.total_bytes, blob.size());
        int4q_parts raw{};
        raw.struct_size = sizeof raw;
        ASSERT_OK(int4q_blob_get_parts(blob.data(), blob.size(), &raw));
        EXPECT_EQ(raw.permutation != nullptr, (flags & kPermutation) != 0);
        EXPECT_EQ(raw.rotation_order, parts.rotation_order);
        EXPECT_EQ(raw.rotation_seed, parts.rotation_seed);
        EXPECT_EQ(raw.sparse_row_offsets != nullptr, (flags & kSparse) != 0);
        EXPECT_EQ(raw.sparse_columns != nullptr, !parts.columns.empty());
        EXPECT_EQ(raw.rank, parts.rank);
        EXPECT_EQ(raw.low_rank_type, parts.type);
        EXPECT_EQ(raw.low_rank_form, parts.rank ? INT4Q_LOW_RANK_BLOCKS : 0);
        EXPECT_EQ(raw.low_rank_a != nullptr, parts.rank > 0);
        // They can be attached to another blob, which then is the same.
        GuardedBuffer again(blob.size(), Placement::kRight, INT4Q_ALIGNMENT);
        std::memcpy(again.data(), plain.data(), plain.size());
        ASSERT_OK(int4q_blob_attach(again.data(), again.size(), &raw));
        EXPECT_TRUE(Copy(again) == Copy(blob));
    }
}

TEST_F(BlobParts, AttachingReplacesAndTakesAway) {
    const int64_t n = 21, k = 48;
    const TensorMemory tensor = Tensor(Scheme(), n, k);
    const Bytes plain = PackReference(*tensor.get());
    const Parts large(random_, n, k, kAllParts), small(random_, n, k, kPermutation), none(n, k);
    GuardedBuffer blob = Attach(plain, large);
    for (const Parts *parts : {&small, &large, &none, &small, &none}) {
        const int4q_parts raw = parts->raw();
        ASSERT_OK(int4q_blob_attach(blob.data(), blob.size(), &raw));
        const Bytes wanted = parts->Attached(plain);
        EXPECT_EQ(std::memcmp(blob.data(), wanted.data(), wanted.size()), 0);
        EXPECT_OK(Validate(blob));
    }
    // Row 0 packed anew: parts are gone.
    const int4q_parts raw = small.raw();
    ASSERT_OK(int4q_blob_attach(blob.data(), blob.size(), &raw));
    ASSERT_OK(int4q_pack_rows(tensor.get(), blob.data(), blob.size(), 0, 16));
    EXPECT_EQ(std::memcmp(blob.data(), plain.data(), plain.size()), 0);
}

TEST_F(BlobParts, UnpackingGivesTheCodesAsTheyWerePacked) {
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_OFFSET, 32, INT4Q_TYPE_F16), 21, 48);
    const GuardedBuffer blob = Attach(Copy(Pack(tensor)), Parts(random_, 21, 48, kAllParts));
    TensorMemory out(tensor->scheme, 21, 48);
    ASSERT_OK(int4q_unpack_rows(blob.data(), blob.size(), out.get(), 0, 21));
    EXPECT_TRUE(SameTensor(tensor, out));
}

// More channels than are looked at in one pass.
TEST_F(BlobParts, PermutationsOfManyChannels) {
    const int64_t n = 1, k = 300001;
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F32), n, k);
    const Bytes plain = PackReference(*tensor.get());
    Parts parts(random_, n, k, kPermutation);
    GuardedBuffer blob = Attach(plain, parts);
    EXPECT_OK(Validate(blob));
    EXPECT_TRUE(Copy(blob) == parts.Attached(plain));
    for (uint32_t channel : {0u, 131071u, 131072u, 262143u, 262144u, 300000u}) {
        Parts twice = parts;
        const auto at = std::find(twice.permutation.begin(), twice.permutation.end(), channel);
        *at = *at == 7 ? 8 : 7;
        const int4q_parts raw = twice.raw();
        EXPECT_FAILS(int4q_blob_attach(blob.data(), blob.size(), &raw), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_blob_attach",
                     "permutation");
        const GuardedBuffer wrong = Guarded(twice.Attached(plain));
        EXPECT_FAILS(Validate(wrong), INT4Q_ERROR_CORRUPT, "int4q_blob_validate", "permutation");
    }
}

// ---- Effective weights ----------------------------------------------------------------------------------------------

// y of the whole blob is x times its effective rows: of unit vectors, they are the columns.
TEST_F(BlobParts, EffectiveRowsAreWhatProductsMultiplyBy) {
    for (uint32_t flags = 0; flags <= kAllParts; flags++) {
        for (int64_t order : {16, 12}) {
            const int64_t n = 20, k = 48;
            const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_ASYMMETRIC, 16, INT4Q_TYPE_F32), n, k);
            const GuardedBuffer blob = Attach(Copy(Pack(tensor)), Parts(random_, n, k, flags, order));
            Job job;
            job.x.assign(static_cast<size_t>(k * k), 0.0f);
            for (int64_t i = 0; i < k; i++) job.x[static_cast<size_t>(i * k + i)] = 1.0f;
            const std::vector<float> y = Floats(Multiply(job, blob));
            GuardedBuffer scratch(8 * 48, Placement::kRight, INT4Q_ALIGNMENT);
            const std::vector<int64_t> indices = {3, 0, 19, 3};
            for (int4q_type type : kTypes) {
                GuardedBuffer rows(static_cast<size_t>(4 * k * TypeBytes(type)), Placement::kRight, 4);
                ASSERT_OK(int4q_gather_effective_rows(blob.data(), blob.size(), indices.data(), 4, rows.data(), type, k,
                                                      scratch.data(), scratch.size()));
                for (int64_t i = 0; i < 4; i++) {
                    for (int64_t j = 0; j < k; j++) {
                        const float wanted = y[static_cast<size_t>(j * n + indices[static_cast<size_t>(i)])];
                        EXPECT_NEAR(LoadElement(rows.data(), type, i * k + j), wanted,
                                    2e-6f + 2 * std::fabs(wanted) * static_cast<float>(UnitRoundoff(type)));
                    }
                }
            }
            float row[48];
            const int4q_status plain = int4q_gather_rows(blob.data(), blob.size(), indices.data(), 1, row, INT4Q_TYPE_F32, k);
            if (flags == 0) {
                EXPECT_OK(plain);
            } else {
                EXPECT_FAILS(int4q_gather_rows(blob.data(), blob.size(), indices.data(), 1, row, INT4Q_TYPE_F32, k),
                             INT4Q_ERROR_UNSUPPORTED, "int4q_gather_rows", "part_flags");
            }
        }
    }
}

// ---- The C++ wrapper ------------------------------------------------------------------------------------------------

TEST_F(BlobParts, CppBlobsCarryThem) {
    const int64_t m = 5, n = 21, k = 48;
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 16, INT4Q_TYPE_F16), n, k);
    const Bytes plain = PackReference(*tensor.get());
    const GuardedBuffer mapped = Guarded(plain);
    const Parts parts(random_, n, k, kAllParts, 16), small(random_, n, k, kSparse), none(n, k);
    const Job job = [&] {
        Job product;
        for (int64_t i = 0; i < m * k; i++) product.x.push_back(random_.Normal());
        return product;
    }();
    int4q::Blob blob = int4q::Blob::map(mapped.data(), mapped.size());
    for (const Parts *which : {&parts, &small, &none, &parts}) {
        blob.attach(which->raw());
        blob.validate();
        const Bytes wanted = which->Attached(plain);
        ASSERT_EQ(blob.bytes(), wanted.size());
        EXPECT_EQ(std::memcmp(blob.data(), wanted.data(), wanted.size()), 0);
        EXPECT_EQ(blob.parts().rank, which->rank);
        std::vector<float> y(static_cast<size_t>(m * n)), rows(static_cast<size_t>(2 * k));
        int4q::matmul(INT4Q_MODE_F32, int4q::ConstMatrix(job.x, m, k), blob, int4q::Matrix(y, m, n));
        EXPECT_TRUE(y == Floats(Multiply(job, Guarded(wanted))));
        blob.gather({20, 0}, int4q::Matrix(rows, 2, k));
        for (int64_t row = 0; row < m; row++) {
            double sum = 0;
            for (int64_t j = 0; j < k; j++)
                sum += static_cast<double>(job.x[static_cast<size_t>(row * k + j)]) *
                       static_cast<double>(rows[static_cast<size_t>(j)]);
            EXPECT_NEAR(sum, static_cast<double>(y[static_cast<size_t>(row * n + 20)]), 1e-4);
        }
    }
    EXPECT_TRUE(Copy(mapped) == plain) << "what was mapped is not written to";
    EXPECT_THROW(int4q::Blob::map(mapped.data(), mapped.size())
                     .gather({21}, int4q::Matrix(std::vector<float>(48).data(), INT4Q_TYPE_F32, 1, k)),
                 int4q::Error);
    int4q_parts wrong = parts.raw();
    wrong.rotation_order = 3;
    EXPECT_THROW(blob.attach(wrong), int4q::Error);
}

// ---- Damage ---------------------------------------------------------------------------------------------------------

struct Damaged {
    const char *what;
    std::function<void(uint8_t *parts, const int4q_parts &)> damage;
};

// Changes an element of an int4q_parts that points into a blob.
template <typename T>
void Put(const T *at, T value) {
    *const_cast<T *>(at) = value;
}

TEST_F(BlobParts, ValidationFindsWhatAttachingRefuses) {
    const int64_t n = 21, k = 43;
    const TensorMemory tensor = Tensor(Scheme(), n, k);
    Parts parts(n, k);
    parts.permutation = Parts(random_, n, k, kPermutation).permutation;
    parts.rotation_order = 1, parts.rotation_seed = 3;
    parts.AddSparse(random_, 0.3);
    parts.AddLowRank(random_, 3, INT4Q_TYPE_F16);
    const Bytes plain = PackReference(*tensor.get());
    const int64_t count = static_cast<int64_t>(parts.columns.size());
    const auto within = [&](int64_t element) {  // an element that is not a row's first
        for (int64_t offset : parts.row_offsets) element += offset == element;
        return element;
    };
    const std::vector<Damaged> all = {
        {"a channel beyond k", [&](uint8_t *, const int4q_parts &p) { Put<uint32_t>(p.permutation + 4, 43); }},
        {"a channel of 2^32 - 1", [&](uint8_t *, const int4q_parts &p) { Put<uint32_t>(p.permutation + 42, UINT32_MAX); }},
        {"a channel twice", [&](uint8_t *, const int4q_parts &p) { Put<uint32_t>(p.permutation, p.permutation[42]); }},
        {"padding behind the permutation", [&](uint8_t *, const int4q_parts &p) { Put<uint32_t>(p.permutation + 43, 1); }},
        {"a first offset that is not 0", [&](uint8_t *, const int4q_parts &p) { Put<int64_t>(p.sparse_row_offsets, 1); }},
        {"a last offset below the count",
         [&](uint8_t *, const int4q_parts &p) { Put<int64_t>(p.sparse_row_offsets + n, count - 1); }},
        {"a descending offset", [&](uint8_t *, const int4q_parts &p) { Put<int64_t>(p.sparse_row_offsets + 5, -1); }},
        {"an offset beyond the count",
         [&](uint8_t *, const int4q_parts &p) { Put<int64_t>(p.sparse_row_offsets + 5, count + 1); }},
        {"padding behind the offsets", [&](uint8_t *, const int4q_parts &p) { Put<int64_t>(p.sparse_row_offsets + n + 1, 1); }},
        {"a negative column", [&](uint8_t *, const int4q_parts &p) { Put<int32_t>(p.sparse_columns, -1); }},
        {"a column of k", [&](uint8_t *, const int4q_parts &p) { Put<int32_t>(p.sparse_columns + count - 1, 43); }},
        {"a column twice",
         [&](uint8_t *, const int4q_parts &p) {
             const int64_t at = within(3);
             Put<int32_t>(p.sparse_columns + at, p.sparse_columns[at - 1]);
         }},
        {"a value of NaN",
         [&](uint8_t *, const int4q_parts &p) { Put<float>(p.sparse_values + 2, std::numeric_limits<float>::quiet_NaN()); }},
        {"an infinite value",
         [&](uint8_t *, const int4q_parts &p) {
             Put<float>(p.sparse_values + count - 1, -std::numeric_limits<float>::infinity());
         }},
        {"NaN in A",
         [&](uint8_t *, const int4q_parts &p) { Put<uint16_t>(static_cast<const uint16_t *>(p.low_rank_a) + 17, 0x7e00); }},
        {"infinity in B",
         [&](uint8_t *, const int4q_parts &p) {
             Put<uint16_t>(static_cast<const uint16_t *>(p.low_rank_b) + 3 * k - 1, 0xfc00);
         }},
        {"a lane of A beyond row n",
         [&](uint8_t *, const int4q_parts &p) {
             Put<uint16_t>(static_cast<const uint16_t *>(p.low_rank_a) + 16 * 3 + 21 - 16, 1);
         }},
        {"padding behind B",
         [&](uint8_t *, const int4q_parts &p) { Put<uint16_t>(static_cast<const uint16_t *>(p.low_rank_b) + 3 * k, 1); }},
    };
    for (const Damaged &damaged : all) {
        SCOPED_TRACE(damaged.what);
        GuardedBuffer blob = Attach(plain, parts);
        int4q_parts raw{};
        raw.struct_size = sizeof raw;
        ASSERT_OK(int4q_blob_get_parts(blob.data(), blob.size(), &raw));
        const Bytes before = Copy(blob);
        damaged.damage(blob.data() + plain.size(), raw);
        ASSERT_FALSE(before == Copy(blob)) << "no change";
        EXPECT_FAILS(Validate(blob), INT4Q_ERROR_CORRUPT, "int4q_blob_validate", "blob");  // the parts' checksum
        SignParts(blob.data(), blob.size());
        EXPECT_OK(Validate(blob, INT4Q_VALIDATE_HEADER));
        EXPECT_EQ(Validate(blob), INT4Q_ERROR_CORRUPT);
        // It can be multiplied by all the same, and looked up in.
        Job job = RandomJob(INT4Q_MODE_F32, 18, n, k);
        blob.ForbidWriting();
        Multiply(job, blob);
        float rows[43];
        GuardedBuffer scratch(8 * 48, Placement::kRight, INT4Q_ALIGNMENT);
        const int64_t row = 20;
        EXPECT_OK(int4q_gather_effective_rows(blob.data(), blob.size(), &row, 1, rows, INT4Q_TYPE_F32, k, scratch.data(),
                                              scratch.size()));
    }
}

// Any bytes behind a header that is right: no product and no lookup may touch what is not the blob's, on any instruction set.
TEST_F(BlobParts, NonsenseIsMultipliedWithoutHarm) {
    for (int i = 0; i < Samples(60); i++) {
        const int64_t n = random_.Integer(1, 40), k = 8 * random_.Integer(1, 12), m = random_.Integer(1, 40);
        const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16), n, k);
        const Parts parts(random_, n, k, kAllParts);
        const Bytes plain = PackReference(*tensor.get());
        GuardedBuffer blob = Attach(plain, parts);
        for (size_t at = plain.size(); at + 4 <= blob.size(); at += 4) {
            if (!random_.Chance(i % 2 ? 1.0 : 0.05)) continue;
            const uint32_t words[] = {
                0, 1, 0x7fffffff, 0x80000000, 0xffffffff, static_cast<uint32_t>(k), static_cast<uint32_t>(random_.Bits())};
            SetField<uint32_t>(blob.data(), at, words[random_.Integer(0, 6)]);
        }
        SignParts(blob.data(), blob.size());
        blob.ForbidWriting();
        ASSERT_OK(Validate(blob, INT4Q_VALIDATE_HEADER));
        for (int4q_isa isa : UsableIsas()) {
            const IsaLimit limit(isa);
            Multiply(RandomJob(kModes[i % 3], m, n, k), blob);
        }
        std::vector<float> rows(static_cast<size_t>(2 * k));
        const int64_t indices[2] = {n - 1, 0};
        GuardedBuffer scratch(static_cast<size_t>(8 * RoundUp(static_cast<uint64_t>(k), 16)), Placement::kRight, INT4Q_ALIGNMENT);
        EXPECT_OK(int4q_gather_effective_rows(blob.data(), blob.size(), indices, 2, rows.data(), INT4Q_TYPE_F32, k,
                                              scratch.data(), scratch.size()));
    }
}

TEST_F(BlobParts, HeadersThatContradictThemselvesAreRefused) {
    const int64_t n = 21, k = 48;
    const TensorMemory tensor = Tensor(MakeScheme(INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16), n, k);
    const Bytes plain = PackReference(*tensor.get());
    struct Change {
        uint32_t flags;
        size_t at;
        int64_t value;
        size_t bytes;
    };
    const std::vector<Change> changes = {{kAllParts, kPartFlagsAt, 0, 4},
                                         {kAllParts, kPartFlagsAt, 16, 4},
                                         {kAllParts, kPartFlagsAt, 14, 4},
                                         {kAllParts, kPartFlagsAt, -1, 4},
                                         {kPermutation, kPartFlagsAt, 2, 4},
                                         {kPermutation, kPartFlagsAt, 8, 4},
                                         {kAllParts, kPartRankAt, 0, 2},
                                         {kAllParts, kPartRankAt, 257, 2},
                                         {kAllParts, kPartRankAt, 65535, 2},
                                         {kPermutation, kPartRankAt, 1, 2},
                                         {kAllParts, kLowRankTypeAt, 0, 2},
                                         {kAllParts, kLowRankTypeAt, 4, 2},
                                         {kSparse, kLowRankTypeAt, 1, 2},
                                         {kAllParts, kSparseCountAt, -1, 8},
                                         {kAllParts, kSparseCountAt, INT64_MAX, 8},
                                         {kAllParts, kSparseCountAt, INT64_MIN, 8},
                                         {kAllParts, kSparseCountAt, int64_t{1} << 61, 8},
                                         {kLowRank, kSparseCountAt, 1, 8},
                                         {kAllParts, kRotationOrderAt, 0, 4},
                                         {kAllParts, kRotationOrderAt, 3, 4},
                                         {kAllParts, kRotationOrderAt, 64, 4},
                                         {kAllParts, kRotationOrderAt, -1, 4},
                                         {kSparse, kRotationOrderAt, 16, 4},
                                         {kSparse, kRotationSeedAt, 1, 8},
                                         {kAllParts, 236, 1, 4},
                                         {kPermutation, 236, -1, 4},
                                         {kAllParts, kNAt, 40, 8},
                                         {kAllParts, kNAt, INT64_MAX, 8},
                                         {kAllParts, kKAt, 49, 8},
                                         {kAllParts, kKAt, INT64_MAX, 8},
                                         {kAllParts, kTotalBytesAt, 0, 8},
                                         {kAllParts, kTotalBytesAt, -1, 8},
                                         {kAllParts, kTotalBytesAt, static_cast<int64_t>(plain.size()), 8}};
    for (const Change &change : changes) {
        SCOPED_TRACE(std::to_string(change.value) + " at " + std::to_string(change.at) + ", parts " +
                     std::to_string(change.flags));
        Parts parts(random_, n, k, change.flags, change.flags & kRotation ? 16 : 0);
        GuardedBuffer blob = Attach(plain, parts);
        std::memcpy(blob.data() + change.at, &change.value, change.bytes);
        SignHeader(blob.data());
        blob.ForbidWriting();
        EXPECT_TRUE(AllRefuse(blob, tensor, INT4Q_ERROR_CORRUPT));
        int4q_parts raw{};
        raw.struct_size = sizeof raw;
        EXPECT_EQ(int4q_blob_get_parts(blob.data(), blob.size(), &raw), INT4Q_ERROR_CORRUPT);
    }
    // A blob that ends too soon.
    const Parts parts(random_, n, k, kAllParts);
    const Bytes whole = parts.Attached(plain);
    for (size_t bytes : {whole.size() - 1, plain.size(), plain.size() + 64}) {
        GuardedBuffer cut = Guarded(Bytes(whole.begin(), whole.begin() + static_cast<int64_t>(bytes)));
        EXPECT_TRUE(AllRefuse(cut, tensor, INT4Q_ERROR_BUFFER_TOO_SMALL));
    }
}

// ---- Arguments ------------------------------------------------------------------------------------------------------

constexpr int64_t kRows = SmallTensor::kRows, kColumns = SmallTensor::kColumns;

// Valid parts of a small tensor.
struct SmallParts {
    SmallParts() : parts(MakeParts()), raw(parts.raw()) {}
    static Parts MakeParts() {
        Random random(3);
        Parts parts(random, kRows, kColumns, kPermutation | kSparse, 8);
        parts.rotation_order = 8, parts.rotation_seed = 1;
        parts.AddLowRank(random, 2, INT4Q_TYPE_F32);
        return parts;
    }
    Parts parts;
    int4q_parts raw;
};

BadTable<int4q_parts> BadParts() {
    using P = int4q_parts;
    BadTable<P> table;
    AddStructSizes(table, &P::struct_size, sizeof(P));
    AddValues(table, "reserved", &P::reserved, {1, -1});
    AddValues(table, "rotation_order", &P::rotation_order, {-1, 3, 5, 16, 24, 36, 64, kMax64, kMin64, int64_t{1} << 25});
    AddValues(table, "sparse_count", &P::sparse_count, {-1, kMin64});
    AddValues(table, "rank", &P::rank, {-1, 257, kMax64, kMin64});
    AddEnumerators(table, "low_rank_type", &P::low_rank_type, {0, 4, -1});
    AddEnumerators(table, "low_rank_form", &P::low_rank_form, {2, -1});
    table.push_back({"permutation + 1 byte", [](P &p) { p.permutation = Shift(p.permutation, 1); }, kMisaligned, "permutation"});
    table.push_back({"row offsets + 4 bytes", [](P &p) { p.sparse_row_offsets = Shift(p.sparse_row_offsets, 4); }, kMisaligned,
                     "sparse_row_offsets"});
    AddPointer(table, "sparse_columns", &P::sparse_columns, {1, 2});
    AddPointer(table, "sparse_values", &P::sparse_values, {1, 2});
    table.push_back({"low_rank_a NULL", [](P &p) { p.low_rank_a = nullptr; }, kNull, "low_rank_a"});
    table.push_back({"low_rank_b NULL", [](P &p) { p.low_rank_b = nullptr; }, kNull, "low_rank_b"});
    table.push_back({"low_rank_a + 2 bytes", [](P &p) { p.low_rank_a = static_cast<const char *>(p.low_rank_a) + 2; },
                     kMisaligned, "low_rank_a"});
    // Something of a part that is not there.
    table.push_back({"no order, but a seed", [](P &p) { p.rotation_order = 0; }, kInvalid, "rotation_seed"});
    table.push_back({"no row offsets, but a count", [](P &p) { p.sparse_row_offsets = nullptr; }, kInvalid, "sparse_count"});
    table.push_back(
        {"columns of no elements", [](P &p) { p.sparse_count = 0, p.sparse_values = nullptr; }, kInvalid, "sparse_columns"});
    table.push_back(
        {"values of no elements", [](P &p) { p.sparse_count = 0, p.sparse_columns = nullptr; }, kInvalid, "sparse_values"});
    table.push_back({"no rank, but a type", [](P &p) { p.rank = 0; }, kInvalid, "low_rank_type"});
    table.push_back({"no rank, but A", [](P &p) { p.rank = 0, p.low_rank_type = 0; }, kInvalid, "low_rank_a"});
    return table;
}

struct SizeCall : SmallParts {
    int64_t n = kRows, k = kColumns;
    uint64_t sizes[2] = {5, 5};
    const int4q_parts *pointer = &raw;
    uint64_t *bytes = sizes;
    int4q_status Run() { return int4q_blob_parts_size(n, k, pointer, bytes); }
    std::string Outputs() const { return BytesOf(sizes); }
};

TEST(BadBlobParts, Size) {
    using C = SizeCall;
    BadTable<C> table;
    AddWithin(table, BadParts(), [](C &c) -> int4q_parts & { return c.raw; });
    AddPointer(table, "parts", &C::pointer, {1, 4});
    AddPointer(table, "bytes", &C::bytes, {1, 4});
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64, int64_t{1} << 31, kMax64});
    AddValues(table, "n", &C::n, {kMax64, int64_t{1} << 60}, kOverflow);
    AddValues(table, "sparse_count", [](C &c) -> int64_t & { return c.raw.sparse_count; }, {kMax64, int64_t{1} << 61}, kOverflow);
    ExpectRefused<C>("int4q_blob_parts_size", [] { return std::make_unique<C>(); }, table);
}

struct AttachCall : SmallParts {
    AttachCall() {
        const SmallTensor source;
        std::memset(memory, 0x5a, sizeof memory);
        EXPECT_OK(int4q_blob_size(&source.tensor.scheme, kRows, kColumns, &plain_bytes));
        EXPECT_OK(int4q_pack_rows(&source.tensor, memory, sizeof memory, 0, kRows));
        EXPECT_OK(int4q_blob_parts_size(kRows, kColumns, &raw, &blob_bytes));
        blob_bytes += plain_bytes;
        EXPECT_LE(blob_bytes, sizeof memory);
    }
    uint64_t plain_bytes = 0, blob_bytes = 0;
    alignas(64) unsigned char memory[8192];
    void *blob = memory;
    const int4q_parts *pointer = &raw;
    int4q_status Run() { return int4q_blob_attach(blob, blob_bytes, pointer); }
    std::string Outputs() const { return std::string(reinterpret_cast<const char *>(memory), sizeof memory); }
};

TEST(BadBlobParts, Attach) {
    using C = AttachCall;
    BadTable<C> table;
    AddWithin(table, BadParts(), [](C &c) -> int4q_parts & { return c.raw; });
    AddPointer(table, "parts", &C::pointer, {1, 4});
    AddPointer(table, "blob", &C::blob, {1, 8, 32});
    AddTooSmall(table, "blob_bytes", &C::blob_bytes);
    const auto element = [&](const char *what, const char *argument, int4q_status status, std::function<void(Parts &)> damage) {
        table.push_back({what, [damage](C &c) { damage(c.parts); }, status, argument});
    };
    element("a channel of k", "permutation", kInvalid, [](Parts &p) { p.permutation[7] = kColumns; });
    element("a channel twice", "permutation", kInvalid, [](Parts &p) { p.permutation[7] = p.permutation[8]; });
    element("a first offset of 1", "sparse_row_offsets", kInvalid, [](Parts &p) { p.row_offsets[0] = 1; });
    element("a descending offset", "sparse_row_offsets", kInvalid, [](Parts &p) { p.row_offsets[2] = kMax64; });
    element("a negative offset", "sparse_row_offsets", kInvalid, [](Parts &p) { p.row_offsets[2] = kMin64; });
    element("a last offset beside the count", "sparse_row_offsets", kInvalid, [](Parts &p) { p.row_offsets.back()--; });
    element("a column of k", "sparse_columns", kInvalid, [](Parts &p) { p.columns.back() = kColumns; });
    element("a negative column", "sparse_columns", kInvalid, [](Parts &p) { p.columns[0] = -1; });
    element("a value of NaN", "sparse_values", kNotFinite,
            [](Parts &p) { p.values[3] = std::numeric_limits<float>::quiet_NaN(); });
    element("infinity in A", "low_rank_a", kNotFinite,
            [](Parts &p) { StoreElement(p.a.data(), p.type, kRows * 2 - 1, std::numeric_limits<float>::infinity()); });
    element("NaN in B", "low_rank_b", kNotFinite,
            [](Parts &p) { StoreElement(p.b.data(), p.type, 0, std::numeric_limits<float>::quiet_NaN()); });
    table.push_back({"a damaged header", [](C &c) { c.memory[24] ^= 1; }, kCorrupt, "blob"});
    ExpectRefused<C>("int4q_blob_attach", [] { return std::make_unique<C>(); }, table);
}

// A call on a small blob with all parts.
struct WithParts : AttachCall {
    WithParts() { EXPECT_OK(AttachCall::Run()); }
};

struct GetPartsCall : WithParts {
    GetPartsCall() { out[0].struct_size = sizeof out[0]; }
    int4q_parts out[2] = {};
    int4q_parts *target = out;
    int4q_status Run() { return int4q_blob_get_parts(blob, blob_bytes, target); }
    std::string Outputs() const { return BytesOf(out); }
};

TEST(BadBlobParts, GetParts) {
    using C = GetPartsCall;
    BadTable<C> table;
    AddPointer(table, "blob", &C::blob, {1, 8, 32});
    AddTooSmall(table, "blob_bytes", &C::blob_bytes);
    AddPointer(table, "parts", &C::target, {1, 4});
    AddStructSizes(table, [](C &c) -> uint32_t & { return c.out[0].struct_size; }, sizeof(int4q_parts));
    // (Their outputs hold the wrong size, which stays.)
    ExpectRefused<C>("int4q_blob_get_parts", [] { return std::make_unique<C>(); }, table);
}

struct GatherCall : WithParts {
    int64_t indices[2] = {0, kRows - 1};
    alignas(64) float scratch_memory[2 * 48 + 16];
    float rows[2 * kColumns + 1];
    const int64_t *row_indices = indices;
    int64_t count = 2, stride = kColumns;
    void *destination = rows, *scratch = scratch_memory;
    int4q_type type = INT4Q_TYPE_F32;
    uint64_t scratch_bytes = 8 * 48;
    GatherCall() { std::memset(rows, 0x5a, sizeof rows); }
    int4q_status Run() {
        return int4q_gather_effective_rows(blob, blob_bytes, row_indices, count, destination, type, stride, scratch,
                                           scratch_bytes);
    }
    std::string Outputs() const { return BytesOf(rows); }
};

TEST(BadBlobParts, GatherEffectiveRows) {
    using C = GatherCall;
    BadTable<C> table;
    AddPointer(table, "blob", &C::blob, {1, 8, 32});
    AddTooSmall(table, "blob_bytes", &C::blob_bytes);
    AddPointer(table, "row_indices", &C::row_indices, {1, 4});
    AddValues(table, "row_indices", [](C &c) -> int64_t & { return c.indices[1]; }, {-1, kRows, kMin64, kMax64});
    AddValues(table, "count", &C::count, {-1, kMin64});
    AddPointer(table, "scratch", &C::scratch, {4, 16, 32});
    AddTooSmall(table, "scratch_bytes", &C::scratch_bytes);
    AddMatrix(table, "destination", &C::destination, &C::type, "destination_type", &C::stride, "destination_stride", kColumns);
    ExpectRefused<C>("int4q_gather_effective_rows", [] { return std::make_unique<C>(); }, table);
}

// ---- Plans ----------------------------------------------------------------------------------------------------------

int4q_matmul_desc DescOf(const int4q_blob_info &info) {
    Job job;
    job.x.resize(static_cast<size_t>(2 * info.k));
    return job.Desc(info);
}

TEST(BadBlobParts, Plans) {
    const WithParts call;
    int4q_blob_info info = EmptyInfo();
    ASSERT_OK(int4q_blob_get_info(call.blob, call.blob_bytes, &info));
    const auto plan_with = [&](const std::function<void(int4q_matmul_desc &)> &change) {
        int4q_matmul_desc desc = DescOf(info);
        change(desc);
        int4q_matmul_plan plan{};
        plan.struct_size = sizeof plan;
        return int4q_matmul_plan_init(&desc, &plan);
    };
    EXPECT_OK(plan_with([](int4q_matmul_desc &) {}));
    const char *const function = "int4q_matmul_plan_init";
    for (uint32_t flags : {16u, 31u, 0x80000000u, UINT32_MAX}) {
        EXPECT_FAILS(plan_with([=](int4q_matmul_desc &d) { d.part_flags = flags; }), kInvalid, function, "part_flags");
    }
    for (uint32_t rank : {0u, 257u, UINT32_MAX}) {
        EXPECT_FAILS(plan_with([=](int4q_matmul_desc &d) { d.part_rank = rank; }), kInvalid, function, "part_rank");
    }
    for (uint32_t flags : {0u, 7u}) {
        EXPECT_FAILS(plan_with([=](int4q_matmul_desc &d) { d.part_flags = flags; }), kInvalid, function, "part_rank");
    }
    EXPECT_OK(plan_with([](int4q_matmul_desc &d) { d.flags = INT4Q_MATMUL_GATED; }));
    EXPECT_FAILS(plan_with([](int4q_matmul_desc &d) { d.expert_count = 2; }), INT4Q_ERROR_UNSUPPORTED, function, "part_flags");
    EXPECT_FAILS(plan_with([](int4q_matmul_desc &d) { d.k = int64_t{1} << 31; }), kInvalid, function, "k");
    EXPECT_FAILS(plan_with([](int4q_matmul_desc &d) { d.m = int64_t{1} << 56; }), kOverflow, function, "m");
}

// A plan for other parts than the blob's, in each call that takes both.
TEST(BadBlobParts, PlanAndBlobMustAgree) {
    const WithParts call;
    int4q_blob_info info = EmptyInfo();
    ASSERT_OK(int4q_blob_get_info(call.blob, call.blob_bytes, &info));
    alignas(64) static unsigned char scratch[1 << 18];
    float x[2 * kColumns] = {}, y[2 * kRows];
    const auto run = [&](uint32_t flags, uint32_t rank, int step, const void *blob, uint64_t bytes) {
        int4q_matmul_desc desc = DescOf(info);
        desc.part_flags = flags;
        desc.part_rank = rank;
        int4q_matmul_plan plan{};
        plan.struct_size = sizeof plan;
        EXPECT_OK(int4q_matmul_plan_init(&desc, &plan));
        EXPECT_LE(plan.scratch_bytes, sizeof scratch);
        int4q_matmul_args args{};
        args.struct_size = sizeof args;
        args.x = x, args.ldx = kColumns, args.y = y, args.ldy = kRows;
        args.blob = blob, args.blob_bytes = bytes;
        args.scratch = scratch, args.scratch_bytes = sizeof scratch;
        if (step == 0) return int4q_matmul_prepare(&plan, &args, 0, 1);
        if (step == 1) return int4q_matmul_tiles(&plan, &args, 0, 0, 1);
        return int4q_matmul(&plan, &args, nullptr, nullptr);
    };
    const char *const functions[] = {"int4q_matmul_prepare", "int4q_matmul_tiles", "int4q_matmul"};
    for (int step = 0; step < 3; step++) {
        EXPECT_OK(run(kAllParts, 2, step, call.blob, call.blob_bytes));
        for (uint32_t flags : {1u, 7u}) {
            EXPECT_FAILS(run(flags, 0, step, call.blob, call.blob_bytes), kMismatch, functions[step], "part_flags");
        }
        EXPECT_FAILS(run(kAllParts, 3, step, call.blob, call.blob_bytes), kMismatch, functions[step], "part_rank");
        EXPECT_FAILS(run(kAllParts, 2, step, nullptr, 0), kNull, functions[step], "blob");
    }
    for (int step = 1; step < 3; step++) {
        EXPECT_FAILS(run(0, 0, step, call.blob, call.blob_bytes), kMismatch, functions[step], "part_flags");
    }
    EXPECT_OK(run(0, 0, 0, nullptr, 0));  // a plain plan's prepare does not look at the blob
}

// The second matrix's x' must be the first one's.
TEST(BadBlobParts, MatricesOfAGatedProductMustAgree) {
    const WithParts first;
    int4q_blob_info info = EmptyInfo();
    ASSERT_OK(int4q_blob_get_info(first.blob, first.blob_bytes, &info));
    int4q_matmul_desc desc = DescOf(info);
    desc.flags = INT4Q_MATMUL_GATED;
    int4q_matmul_plan plan{};
    plan.struct_size = sizeof plan;
    ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
    GuardedBuffer scratch(plan.scratch_bytes, Placement::kRight, INT4Q_ALIGNMENT);
    float x[2 * kColumns] = {}, y[2 * kRows];
    const auto run = [&](const std::function<void(Parts &)> &change, int step) {
        AttachCall second;
        change(second.parts);
        second.raw = second.parts.raw();
        EXPECT_OK(second.Run());
        int4q_matmul_args args{};
        args.struct_size = sizeof args;
        args.x = x, args.ldx = kColumns, args.y = y, args.ldy = kRows;
        args.blob = first.blob, args.blob_bytes = first.blob_bytes;
        args.up_blob = second.blob, args.up_blob_bytes = second.blob_bytes;
        args.scratch = scratch.data(), args.scratch_bytes = scratch.size();
        if (step == 0) return int4q_matmul_prepare(&plan, &args, 0, 1);
        if (step == 1) return int4q_matmul_tiles(&plan, &args, 0, 0, 1);
        return int4q_matmul(&plan, &args, nullptr, nullptr);
    };
    const char *const functions[] = {"int4q_matmul_prepare", "int4q_matmul_tiles", "int4q_matmul"};
    for (int step = 0; step < 3; step++) {
        EXPECT_OK(run([](Parts &) {}, step));
        EXPECT_OK(run([](Parts &p) { p.values[0] = 5; }, step));
        EXPECT_FAILS(run([](Parts &p) { std::swap(p.permutation[0], p.permutation[39]); }, step), kMismatch, functions[step],
                     "permutation");
        EXPECT_FAILS(run([](Parts &p) { p.rotation_order = 4; }, step), kMismatch, functions[step], "rotation_order");
        EXPECT_FAILS(run([](Parts &p) { p.rotation_seed++; }, step), kMismatch, functions[step], "rotation_seed");
        EXPECT_FAILS(run([](Parts &p) { p.permutation.clear(); }, step), kMismatch, functions[step], "part_flags");
        EXPECT_FAILS(run(
                         [](Parts &p) {
                             Random random(1);
                             p.AddLowRank(random, 1, p.type);
                         },
                         step),
                     kMismatch, functions[step], "part_rank");
    }
}

TEST(BadBlobParts, ThereIsNoErrorBound) {
    const WithParts call;
    int4q_blob_info info = EmptyInfo();
    ASSERT_OK(int4q_blob_get_info(call.blob, call.blob_bytes, &info));
    const int4q_matmul_desc desc = DescOf(info);
    int4q_matmul_plan plan{};
    plan.struct_size = sizeof plan;
    ASSERT_OK(int4q_matmul_plan_init(&desc, &plan));
    float x[2 * kColumns] = {};
    double bounds[2 * kRows];
    int4q_matmul_args args{};
    args.struct_size = sizeof args;
    args.x = x, args.ldx = kColumns, args.blob = call.blob, args.blob_bytes = call.blob_bytes;
    EXPECT_FAILS(int4q_error_bound(&plan, &args, INT4Q_BOUND_WORST_CASE, bounds, kRows), INT4Q_ERROR_UNSUPPORTED,
                 "int4q_error_bound", "plan");
}

}  // namespace
}  // namespace int4q_test
