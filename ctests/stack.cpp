// SPDX-License-Identifier: Apache-2.0
// What calls take of the stack: less than the header's 64 KiB. Each runs on a thread whose stack was painted before. (Not under sanitizers, which
// put more there.)
#include <gtest/gtest.h>
#include <pthread.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "support/blob_memory.hpp"
#include "support/guarded_buffer.hpp"
#include "support/isa.hpp"
#include "support/problem.hpp"
#include "support/random.hpp"
#include "support/source_matrix.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

constexpr size_t kStackBytes = size_t{1} << 20, kPromised = 64 * 1024;
constexpr unsigned char kPaint = 0xa5;

void *Run(void *work) {
    (*static_cast<const std::function<void()> *>(work))();
    return nullptr;
}

// Bytes between the deepest one that was written and the stack's begin.
size_t Written(const std::function<void()> &work) {
    GuardedBuffer stack(kStackBytes, Placement::kRight, 4096);
    std::memset(stack.data(), kPaint, stack.size());
    pthread_attr_t attributes;
    pthread_t thread;
    EXPECT_EQ(pthread_attr_init(&attributes), 0);
    EXPECT_EQ(pthread_attr_setstack(&attributes, stack.data(), stack.size()), 0);
    EXPECT_EQ(pthread_create(&thread, &attributes, Run, const_cast<std::function<void()> *>(&work)), 0);
    EXPECT_EQ(pthread_join(thread, nullptr), 0);
    pthread_attr_destroy(&attributes);
    size_t untouched = 0;
    while (untouched < stack.size() && stack.data()[untouched] == kPaint) untouched++;
    return stack.size() - untouched;
}

// Less what a thread takes for itself.
size_t TakenBy(const std::function<void()> &work) { return Written(work) - Written([] {}); }

TEST(Stack, IsMeasured) {
    const size_t taken = TakenBy([] {
        volatile char room[30000];
        for (size_t i = 0; i < sizeof room; i += 64) room[i] = 1;
    });
    EXPECT_GE(taken, 29000u);
    EXPECT_LE(taken, 31000u);
}

class StackOf : public testing::TestWithParam<int4q_isa> {};

TEST_P(StackOf, QuantizingIsAsPromised) {
    const IsaLimit limit(GetParam());
    Random random(7);
    SourceMatrix source(INT4Q_TYPE_F32, 33, 600, 600);
    for (int64_t row = 0; row < source.n; row++) {
        for (int64_t column = 0; column < source.k; column++) source.Set(row, column, random.Normal());
    }
    for (int32_t group_size : {32, 256, INT4Q_GROUP_PER_ROW}) {
        for (const int4q_scheme &scheme : OneSchemeOfEachKind(group_size, INT4Q_TYPE_F16)) {
            TensorMemory tensor(scheme, source.n, source.k);
            GuardedBuffer blob(SizeOf(tensor), Placement::kRight, INT4Q_ALIGNMENT);
            int4q_status status = INT4Q_ERROR_UNSUPPORTED;
            size_t taken = TakenBy([&] {
                status = int4q_quantize_rows(tensor.get(), source.buffer.data(), source.type, source.stride, 0, source.n);
            });
            EXPECT_OK(status);
            EXPECT_LT(taken, kPromised) << "int4q_quantize_rows, kind " << scheme.kind << ", group " << group_size;
            taken = TakenBy([&] {
                status = int4q_quantize_pack_rows(&scheme, source.n, source.k, tensor->codebook, source.buffer.data(), source.type,
                                                  source.stride, blob.data(), blob.size(), 0, source.n);
            });
            EXPECT_OK(status);
            EXPECT_LT(taken, kPromised) << "int4q_quantize_pack_rows, kind " << scheme.kind << ", group " << group_size;
            taken = TakenBy([&] { status = int4q_unpack_rows(blob.data(), blob.size(), tensor.get(), 0, source.n); });
            EXPECT_OK(status);
            EXPECT_LT(taken, kPromised) << "int4q_unpack_rows, kind " << scheme.kind << ", group " << group_size;
        }
    }
}

TEST_P(StackOf, ProductsAreAsPromised) {
    const IsaLimit limit(GetParam());
    for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_BF16, INT4Q_MODE_INT8}) {
        for (int64_t m : {1, 3, 40, 260}) {
            for (int32_t group_size : {32, 128, INT4Q_GROUP_PER_ROW}) {
                Spec spec;
                spec.m = m;
                spec.n = 70;
                spec.k = 600;
                spec.mode = mode;
                spec.group_size = group_size;
                spec.activation = INT4Q_ACTIVATION_GELU_ERF;
                const Problem problem(spec);
                Product product(problem);
                int4q_status status = INT4Q_ERROR_UNSUPPORTED;
                const size_t taken = TakenBy([&] { status = int4q_matmul(&product.plan, &product.args, nullptr, nullptr); });
                EXPECT_OK(status);
                EXPECT_LT(taken, kPromised) << spec.Text();
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(UsableIsas, StackOf, testing::ValuesIn(UsableIsas()),
                         [](const testing::TestParamInfo<int4q_isa> &info) { return std::string(int4q_isa_name(info.param)); });

}  // namespace
}  // namespace int4q_test
