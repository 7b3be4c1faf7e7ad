// SPDX-License-Identifier: Apache-2.0
// Wrong arguments to versions, instruction sets, tensors and metrics: sections 1, 2, 3 and 6 of the header.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <thread>

#include "int4q.h"
#include "support/bad_arguments.hpp"
#include "support/isa.hpp"

namespace int4q_test {
namespace {

constexpr int64_t kRows = SmallTensor::kRows, kColumns = SmallTensor::kColumns, kStride = 42;

// ---- 1. Errors ------------------------------------------------------------------------------------------------------

TEST(BadErrorArguments, LastErrorRefusesNullAndSizesAndChangesNothing) {
    EXPECT_FAILS(int4q_isa_set_limit(77), kInvalid, "int4q_isa_set_limit", "limit");
    EXPECT_EQ(int4q_last_error(nullptr), kNull);
    for (int64_t size : {int64_t{0}, int64_t{8}, int64_t{sizeof(int4q_error)} - 1, int64_t{sizeof(int4q_error)} + 1,
                         int64_t{sizeof(int4q_error)} + 8, int64_t{UINT32_MAX}}) {
        int4q_error error{};
        error.struct_size = static_cast<uint32_t>(size);
        const std::string before = BytesOf(error);
        EXPECT_EQ(int4q_last_error(&error), kStructSize) << size;
        EXPECT_TRUE(before == BytesOf(error)) << size;
    }
    EXPECT_STREQ(LastError().function, "int4q_isa_set_limit");
    EXPECT_STREQ(LastError().value, "77");
}

TEST(BadErrorArguments, ErrorsBelongToTheThread) {
    EXPECT_FAILS(int4q_isa_set_limit(77), kInvalid, "int4q_isa_set_limit", "limit");
    std::thread([] {
        EXPECT_EQ(LastError().status, INT4Q_OK);
        EXPECT_STREQ(LastError().message, "");
        EXPECT_FAILS(int4q_isa_active(nullptr), kNull, "int4q_isa_active", "isa");
    }).join();
    EXPECT_STREQ(LastError().function, "int4q_isa_set_limit");
    int4q_isa isa;
    ASSERT_OK(int4q_isa_detected(&isa));
    EXPECT_STREQ(LastError().function, "int4q_isa_set_limit") << "success must leave the last error";
}

TEST(BadErrorArguments, NamesOfUnknownNumbers) {
    for (int32_t number : {-1, int32_t{INT4Q_ERROR_CANCELLED} + 1, 1000, kMin32, kMax32}) {
        EXPECT_STREQ(int4q_status_string(number), "unknown int4q status") << number;
        EXPECT_STREQ(int4q_isa_name(number), "unknown") << number;
    }
}

// ---- 2. Instruction sets --------------------------------------------------------------------------------------------

TEST(BadIsaArguments, Pointers) {
    alignas(8) int4q_isa isas[3] = {-5, -5, -5};
    EXPECT_FAILS(int4q_isa_active(nullptr), kNull, "int4q_isa_active", "isa");
    int4q_isa_set_limit(77);  // what EXPECT_FAILS leaves behind is this very error
    EXPECT_TRUE(FailsLike(int4q_isa_detected(nullptr), {kNull}, "int4q_isa_detected", {"isa"}));
    for (int shift : {1, 2, 3}) {
        EXPECT_FAILS(int4q_isa_active(Shift(&isas[0], shift)), kMisaligned, "int4q_isa_active", "isa");
        EXPECT_FAILS(int4q_isa_detected(Shift(&isas[0], shift)), kMisaligned, "int4q_isa_detected", "isa");
    }
    for (int4q_isa isa : isas) EXPECT_EQ(isa, -5);
}

TEST(BadIsaArguments, UnknownLimitsChangeNothing) {
    const IsaLimit limit(INT4Q_ISA_PORTABLE);
    for (int32_t bad : {1, 99, 101, 199, 201, 301, -2, -100, kMin32, kMax32}) {
        EXPECT_FAILS(int4q_isa_set_limit(bad), kInvalid, "int4q_isa_set_limit", "limit");
        int4q_isa isa = -5;
        ASSERT_OK(int4q_isa_active(&isa));
        EXPECT_EQ(isa, INT4Q_ISA_PORTABLE) << bad;
    }
}

// ---- 3. Tensors -----------------------------------------------------------------------------------------------------

struct SizesCall {
    int4q_scheme schemes[2] = {SmallScheme(INT4Q_KIND_SYMMETRIC), {}};
    int4q_tensor_layout layouts[2] = {};
    const int4q_scheme *scheme = schemes;
    int64_t n = kRows, k = kColumns;
    int4q_tensor_layout *layout = layouts;

    SizesCall() { layouts[0].struct_size = sizeof layouts[0]; }
    int4q_status Run() { return int4q_tensor_sizes(scheme, n, k, layout); }
    std::string Outputs() const { return BytesOf(layouts); }
};

TEST(BadTensorArguments, TensorSizes) {
    using C = SizesCall;
    BadTable<C> table;
    AddWithin(table, BadSchemes(), [](C &c) -> int4q_scheme & { return c.schemes[0]; });
    AddPointer(table, "scheme", &C::scheme, {1, 2, 3});
    AddPointer(table, "layout", &C::layout, {1, 2, 4, 7});
    AddStructSizes(table, [](C &c) -> uint32_t & { return c.layouts[0].struct_size; }, sizeof(int4q_tensor_layout));
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    AddValues(table, "n", &C::n, {kMax64, int64_t{1} << 60}, kOverflow, "k");
    AddValues(table, "k", &C::k, {kMax64, int64_t{1} << 60}, kOverflow, "n");
    table.push_back({"n = k = 2^32", [](C &c) { c.n = c.k = int64_t{1} << 32; }, kOverflow, "n", "k"});
    table.push_back({"n = k = INT64_MAX", [](C &c) { c.n = c.k = kMax64; }, kOverflow, "n", "k"});
    table.push_back({"scales alone too large", [](C &c) {
                         c.schemes[0].group_size = INT4Q_GROUP_PER_ROW, c.schemes[0].scale_type = INT4Q_TYPE_F32;
                         c.n = int64_t{1} << 61, c.k = 1;
                     }, kOverflow, "n", "k"});
    ExpectRefused<C>("int4q_tensor_sizes", [] { return std::make_unique<C>(); }, table);
}

TEST(BadTensorArguments, ReservedFieldOfTheLayout) {
    SizesCall call;
    ASSERT_OK(call.Run());
    call.layouts[0].reserved = 1;
    EXPECT_FAILS(call.Run(), kInvalid, "int4q_tensor_sizes", "reserved");
}

// Rows of floats on one side, a tensor on the other.
struct RowsCall {
    explicit RowsCall(int32_t kind) : weights(kind) {
        for (int64_t i = 0; i < kRows * kStride; i++) floats[i] = static_cast<float>(i % 17 - 8);
    }

    SmallTensor weights;
    const int4q_tensor *tensor = &weights.tensor;
    alignas(64) float floats[kRows * kStride + 1];
    void *matrix = floats;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t stride = kStride, begin = 0, end = kRows;
};

struct QuantizeCall : RowsCall {
    using RowsCall::RowsCall;
    int4q_status Run() { return int4q_quantize_rows(tensor, matrix, type, stride, begin, end); }
    std::string Outputs() const { return weights.Bytes(); }
};

struct DequantizeCall : RowsCall {
    using RowsCall::RowsCall;
    int4q_status Run() { return int4q_dequantize_rows(tensor, matrix, type, stride, begin, end); }
    std::string Outputs() const { return BytesOf(floats); }
};

template <typename C>
void ExpectRowsRefused(const char *function, const char *name, const char *type_name, const char *stride_name) {
    for (int32_t kind : kAllKinds) {
        SCOPED_TRACE(kind);
        BadTable<C> table;
        AddWithin(table, BadTensors(kind), [](C &c) -> SmallTensor & { return c.weights; });
        AddPointer(table, "tensor", &C::tensor, {1, 4});
        AddMatrix(table, name, &C::matrix, &C::type, type_name, &C::stride, stride_name, kColumns);
        AddRanges(table, kRows, "row_begin", "row_end");
        ExpectRefused<C>(function, [=] { return std::make_unique<C>(kind); }, table);
    }
}

TEST(BadTensorArguments, QuantizeRows) {
    ExpectRowsRefused<QuantizeCall>("int4q_quantize_rows", "source", "source_type", "source_stride");
}

TEST(BadTensorArguments, DequantizeRows) {
    ExpectRowsRefused<DequantizeCall>("int4q_dequantize_rows", "destination", "destination_type", "destination_stride");
}

TEST(BadTensorArguments, WeightsThatCannotBeQuantized) {
    const float infinity = std::numeric_limits<float>::infinity();
    for (int32_t kind : kAllKinds) {
        for (float value : {std::nanf(""), infinity, -infinity, 3e38f, -3e38f}) {
            SCOPED_TRACE("kind " + std::to_string(kind) + ", value " + std::to_string(value));
            QuantizeCall call(kind);
            call.floats[5 * kStride + 37] = value;
            EXPECT_FAILS(call.Run(), kNotFinite, "int4q_quantize_rows", "source");
            EXPECT_NE(std::string(LastError().value).find("5"), std::string::npos) << LastError().value;
            if (!(std::fabs(value) < infinity)) {
                EXPECT_NE(std::string(LastError().value).find("37"), std::string::npos) << LastError().value;
            }
            call.begin = 6;
            EXPECT_OK(call.Run()) << "other rows do not matter";
        }
    }
}

// ---- 6. Metrics -----------------------------------------------------------------------------------------------------

struct CompareCall {
    CompareCall() {
        for (int i = 0; i < 3 * kStride; i++) a[i] = static_cast<float>(i), b[i] = static_cast<float>(i + i % 2);
        metrics_memory[0].struct_size = sizeof(int4q_metrics);
    }

    alignas(64) float a[3 * kStride + 1]{}, b[3 * kStride + 1]{};
    int4q_metrics metrics_memory[2] = {};
    const void *reference = a, *candidate = b;
    int4q_type reference_type = INT4Q_TYPE_F32, candidate_type = INT4Q_TYPE_F32;
    int64_t reference_stride = kStride, candidate_stride = kStride, rows = 3, columns = kColumns;
    int4q_metrics *metrics = metrics_memory;

    int4q_status Run() {
        return int4q_compare(reference, reference_type, reference_stride, candidate, candidate_type, candidate_stride, rows,
                             columns, metrics);
    }
    std::string Outputs() const { return BytesOf(metrics_memory); }
};

TEST(BadMetricsArguments, Compare) {
    using C = CompareCall;
    BadTable<C> table;
    AddMatrix(table, "reference", &C::reference, &C::reference_type, "reference_type", &C::reference_stride,
              "reference_stride", kColumns);
    AddMatrix(table, "candidate", &C::candidate, &C::candidate_type, "candidate_type", &C::candidate_stride,
              "candidate_stride", kColumns);
    AddValues(table, "rows", &C::rows, {0, -1, -3, kMin64});
    AddValues(table, "columns", &C::columns, {0, -1, -40, kMin64});
    AddValues(table, "rows", &C::rows, {kMax64, int64_t{1} << 60}, kOverflow, "reference_stride");
    AddValues(table, "reference_stride", &C::columns, {kMax64, kStride + 1}, kInvalid, "columns");
    table.push_back({"columns = strides = INT64_MAX, one row", [](C &c) {
                         c.columns = c.reference_stride = c.candidate_stride = kMax64, c.rows = 1;
                     }, kOverflow, "columns", "reference_stride"});
    AddPointer(table, "metrics", &C::metrics, {1, 4});
    AddStructSizes(table, [](C &c) -> uint32_t & { return c.metrics_memory[0].struct_size; }, sizeof(int4q_metrics));
    const float infinity = std::numeric_limits<float>::infinity();
    for (float value : {std::nanf(""), infinity, -infinity}) {
        table.push_back({"not finite", [=](C &c) { c.a[2 * kStride + 39] = value; }, kNotFinite, "reference"});
        table.push_back({"not finite", [=](C &c) { c.b[2 * kStride + 39] = value; }, kNotFinite, "candidate"});
    }
    ExpectRefused<C>("int4q_compare", [] { return std::make_unique<C>(); }, table);
}

TEST(BadMetricsArguments, ReservedField) {
    CompareCall call;
    ASSERT_OK(call.Run());
    call.metrics_memory[0].reserved = 1;
    EXPECT_FAILS(call.Run(), kInvalid, "int4q_compare", "reserved");
}

TEST(BadMetricsArguments, NotFiniteSaysWhere) {
    CompareCall call;
    call.b[kStride + 23] = std::nanf("");
    EXPECT_FAILS(call.Run(), kNotFinite, "int4q_compare", "candidate");
    const std::string value = LastError().value;
    EXPECT_NE(value.find("1"), std::string::npos) << value;
    EXPECT_NE(value.find("23"), std::string::npos) << value;
}

}  // namespace
}  // namespace int4q_test
