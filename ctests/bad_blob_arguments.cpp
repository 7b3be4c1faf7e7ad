// SPDX-License-Identifier: Apache-2.0
// Wrong arguments to the functions on blobs: section 4 of the header.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <memory>
#include <thread>

#include "int4q.h"
#include "support/bad_arguments.hpp"
#include "support/bad_blobs.hpp"
#include "support/guarded_buffer.hpp"

namespace int4q_test {
namespace {

constexpr int64_t kRows = SmallTensor::kRows, kColumns = SmallTensor::kColumns;

template <typename Call>
auto Maker(int32_t kind = INT4Q_KIND_SYMMETRIC) {
    return [kind] { return std::make_unique<Call>(kind); };
}

// Row ranges of blobs: also ends that are inside a block.
template <typename Call>
void AddBlockRanges(BadTable<Call> &table) {
    AddRanges(table, kRows, "row_begin", "row_end");
    for (int64_t begin : {1, 8, 15, 17, 31}) {
        table.push_back({"row_begin " + std::to_string(begin), [=](Call &c) { c.begin = begin; }, kInvalid, "row_begin"});
    }
    for (int64_t end : {1, 8, 15, 17, 31}) {
        table.push_back({"row_end " + std::to_string(end), [=](Call &c) { c.end = end; }, kInvalid, "row_end"});
    }
}

// ---- int4q_blob_size ------------------------------------------------------------------------------------------------

struct SizeCall {
    explicit SizeCall(int32_t kind) : scheme_memory(SmallScheme(kind)) {}
    int4q_scheme scheme_memory;
    uint64_t sizes[2] = {5, 5};
    const int4q_scheme *scheme = &scheme_memory;
    int64_t n = kRows, k = kColumns;
    uint64_t *bytes = sizes;

    int4q_status Run() { return int4q_blob_size(scheme, n, k, bytes); }
    std::string Outputs() const { return BytesOf(sizes); }
};

TEST(BadBlobArguments, BlobSize) {
    using C = SizeCall;
    BadTable<C> table;
    AddWithin(table, BadSchemes(), [](C &c) -> int4q_scheme & { return c.scheme_memory; });
    AddPointer(table, "scheme", &C::scheme, {1, 2, 3});
    AddPointer(table, "bytes", &C::bytes, {1, 2, 4, 7});
    AddValues(table, "n", &C::n, {0, -1, kMin64});
    AddValues(table, "k", &C::k, {0, -1, kMin64});
    AddValues(table, "n", &C::n, {kMax64, kMax64 - 15, int64_t{1} << 60}, kOverflow);
    AddValues(table, "k", &C::k, {kMax64, kMax64 - 31, int64_t{1} << 60}, kOverflow);
    table.push_back({"n = k = 2^32", [](C &c) { c.n = c.k = int64_t{1} << 32; }, kOverflow, "n", "k"});
    table.push_back({"n = k = INT64_MAX", [](C &c) { c.n = c.k = kMax64; }, kOverflow, "n", "k"});
    ExpectRefused("int4q_blob_size", Maker<C>(), table);
}

// ---- int4q_pack_rows ------------------------------------------------------------------------------------------------

struct PackCall {
    explicit PackCall(int32_t kind) : weights(kind) {
        std::memset(memory, 0x5a, sizeof memory);
        EXPECT_OK(int4q_blob_size(&weights.tensor.scheme, kRows, kColumns, &blob_bytes));
    }
    SmallTensor weights;
    alignas(64) unsigned char memory[SmallBlob::kCapacity];
    const int4q_tensor *tensor = &weights.tensor;
    void *blob = memory;
    uint64_t blob_bytes = 0;
    int64_t begin = 0, end = kRows;

    int4q_status Run() { return int4q_pack_rows(tensor, blob, blob_bytes, begin, end); }
    std::string Outputs() const { return BytesOf(memory); }
};

TEST(BadBlobArguments, PackRows) {
    using C = PackCall;
    for (int32_t kind : kAllKinds) {
        SCOPED_TRACE(kind);
        BadTable<C> table;
        AddWithin(table, BadTensors(kind), [](C &c) -> SmallTensor & { return c.weights; });
        AddPointer(table, "tensor", &C::tensor, {1, 4});
        AddPointer(table, "blob", &C::blob, {1, 2, 4, 8, 16, 32, 63});
        AddTooSmall(table, "blob_bytes", &C::blob_bytes);
        AddValues(table, "blob_bytes", &C::blob_bytes, {255, 256, 320}, kTooSmall);
        AddBlockRanges(table);
        ExpectRefused("int4q_pack_rows", Maker<C>(kind), table);
    }
}

// Contents are read while rows are packed, so the blob may be written in part; only the rows of the range count.
void ExpectContentsRefused(int32_t kind, const std::function<void(SmallTensor &)> &damage, int4q_status status,
                           const char *argument) {
    PackCall call(kind);
    damage(call.weights);
    EXPECT_FAILS(call.Run(), status, "int4q_pack_rows", argument);
    EXPECT_NE(std::string(LastError().value).find("20"), std::string::npos) << "row 20: " << LastError().value;
    EXPECT_TRUE(call.Outputs().substr(call.blob_bytes) == std::string(sizeof call.memory - call.blob_bytes, 0x5a));
    call.end = 16;
    EXPECT_OK(call.Run());
    call.begin = 32, call.end = kRows;
    EXPECT_OK(call.Run());
}

TEST(BadBlobArguments, PackRowsRefusesContents) {
    constexpr int kPlace = 20 * 3 + 1;  // row 20, group 1
    for (int bad : {16, 17, 128, 255}) {
        SCOPED_TRACE(bad);
        ExpectContentsRefused(INT4Q_KIND_ASYMMETRIC,
                              [=](SmallTensor &t) { t.zero_points[kPlace] = static_cast<unsigned char>(bad); }, kInvalid,
                              "zero_points");
    }
    for (int32_t kind : kAllKinds) {
        for (uint16_t bits : {0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xffff}) {
            SCOPED_TRACE(testing::Message() << "kind " << kind << ", binary16 " << bits);
            ExpectContentsRefused(kind, [=](SmallTensor &t) { t.scales[kPlace] = bits; }, kNotFinite, "scales");
            if (kind != INT4Q_KIND_OFFSET) continue;
            ExpectContentsRefused(kind, [=](SmallTensor &t) { t.offsets[kPlace] = bits; }, kNotFinite, "offsets");
        }
        for (uint16_t bits : {0x7f80, 0xff80, 0x7fc0, 0x7f81}) {
            SCOPED_TRACE(testing::Message() << "kind " << kind << ", bfloat16 " << bits);
            const auto damage = [=](SmallTensor &t) { t.tensor.scheme.scale_type = INT4Q_TYPE_BF16, t.scales[kPlace] = bits; };
            ExpectContentsRefused(kind, damage, kNotFinite, "scales");
        }
    }
    for (uint16_t bits : {0x7f80, 0xff80, 0x7fc0}) {  // the upper halves of binary32
        SCOPED_TRACE(testing::Message() << "binary32 " << bits);
        PackCall call(INT4Q_KIND_SYMMETRIC);
        call.weights.tensor.scheme.scale_type = INT4Q_TYPE_F32;
        call.weights.tensor.scales_bytes = kRows * 3 * 4;
        call.blob_bytes = sizeof call.memory;
        ASSERT_OK(call.Run());
        call.weights.scales[2 * kPlace + 1] = bits;
        EXPECT_FAILS(call.Run(), kNotFinite, "int4q_pack_rows", "scales");
    }
}

// ---- int4q_blob_validate and int4q_blob_get_info --------------------------------------------------------------------

struct ValidateCall {
    explicit ValidateCall(int32_t kind) : packed(kind) {}
    SmallBlob packed;
    int32_t level = INT4Q_VALIDATE_FULL;

    int4q_status Run() { return int4q_blob_validate(packed.blob, packed.blob_bytes, level); }
    std::string Outputs() const { return BytesOf(packed.memory); }
};

TEST(BadBlobArguments, BlobValidate) {
    using C = ValidateCall;
    BadTable<C> table;
    AddEnumerators(table, "level", &C::level, {-1, 2, 3});
    for (const Bad<SmallBlob> &bad : BadBlobs()) {
        for (int32_t level : {INT4Q_VALIDATE_HEADER, INT4Q_VALIDATE_FULL}) {
            table.push_back({bad.what, [=](C &c) { bad.damage(c.packed), c.level = level; }, bad.status, bad.argument, bad.other});
        }
    }
    ExpectRefused("int4q_blob_validate", Maker<C>(), table);
}

TEST(BadBlobArguments, BlobValidateSeesEveryByteOfThePayload) {
    for (int32_t kind : kAllKinds) {
        ValidateCall call(kind);
        ASSERT_OK(call.Run());
        for (uint64_t i = SmallBlob::kHeaderBytes; i < call.packed.blob_bytes; i++) {
            call.packed.memory[i] ^= 0x10;
            EXPECT_FAILS(call.Run(), kCorrupt, "int4q_blob_validate", "blob") << "kind " << kind << ", byte " << i;
            call.packed.memory[i] ^= 0x10;
        }
    }
}

TEST(BadBlobArguments, BlobValidateLooksBehindChecksums) {
    const auto expect = [](int32_t kind, uint64_t block, uint64_t section, uint64_t offset, auto value) {
        SCOPED_TRACE(testing::Message() << "kind " << kind << ", block " << block << ", section " << section);
        ValidateCall call(kind);
        SmallBlob &b = call.packed;
        const uint64_t start = section ? b.Get<uint64_t>(section) : 0;
        b.Put(b.Get<uint64_t>(72) + block * b.Get<uint64_t>(80) + start + offset, value);
        b.SignBlock(block);
        EXPECT_FAILS(call.Run(), kCorrupt, "int4q_blob_validate", "blob");
        call.level = INT4Q_VALIDATE_HEADER;
        EXPECT_OK(call.Run());
    };
    for (uint16_t bits : {0x7c00, 0xfc00, 0x7e00}) {
        for (int32_t kind : kAllKinds) expect(kind, 1, 88, 4, bits);
        expect(INT4Q_KIND_OFFSET, 1, 96, 4, bits);
    }
    expect(INT4Q_KIND_ASYMMETRIC, 0, 96, 0, uint8_t{16});
    for (int32_t kind : kAllKinds) {
        expect(kind, 2, 0, 4, uint8_t{1});            // a code of a row beyond the last
        expect(kind, 0, 0, 5 * 64, uint8_t{1});       // a code beyond the last column
        expect(kind, 2, 88, 2, uint16_t{0x3800});     // a scale of a row beyond the last
        expect(kind, 0, 88, 3 * 32, uint8_t{1});      // behind the scales
    }
}

struct InfoCall {
    explicit InfoCall(int32_t kind) : packed(kind) { infos[0].struct_size = sizeof infos[0]; }
    SmallBlob packed;
    int4q_blob_info infos[2] = {};
    int4q_blob_info *info = infos;

    int4q_status Run() { return int4q_blob_get_info(packed.blob, packed.blob_bytes, info); }
    std::string Outputs() const { return BytesOf(infos); }
};

TEST(BadBlobArguments, BlobGetInfo) {
    using C = InfoCall;
    BadTable<C> table;
    AddWithin(table, BadBlobs(), [](C &c) -> SmallBlob & { return c.packed; });
    AddPointer(table, "info", &C::info, {1, 4});
    AddStructSizes(table, [](C &c) -> uint32_t & { return c.infos[0].struct_size; }, sizeof(int4q_blob_info));
    ExpectRefused("int4q_blob_get_info", Maker<C>(), table);
}

TEST(BadBlobArguments, CodebooksInHeaders) {
    const float infinity = std::numeric_limits<float>::infinity();
    for (float value : {std::nanf(""), infinity, -infinity, 0.0f}) {
        InfoCall call(INT4Q_KIND_CODEBOOK);
        ASSERT_OK(call.Run());
        for (uint64_t i = value == 0 ? 0 : 9; i < 16; i++) call.packed.Put(128 + 4 * i, value);
        call.packed.SignHeader();
        EXPECT_FAILS(call.Run(), kCorrupt, "int4q_blob_get_info", "blob") << "codebook with " << value;
    }
}

// ---- int4q_unpack_rows ----------------------------------------------------------------------------------------------

struct UnpackCall {
    explicit UnpackCall(int32_t kind) : packed(kind), weights(kind) { std::memset(weights.codes, 0x5a, sizeof weights.codes); }
    SmallBlob packed;
    SmallTensor weights;
    const int4q_tensor *tensor = &weights.tensor;
    int64_t begin = 0, end = kRows;

    int4q_status Run() { return int4q_unpack_rows(packed.blob, packed.blob_bytes, tensor, begin, end); }
    std::string Outputs() const { return weights.Bytes(); }
};

TEST(BadBlobArguments, UnpackRows) {
    using C = UnpackCall;
    for (int32_t kind : kAllKinds) {
        SCOPED_TRACE(kind);
        BadTable<C> table;
        if (kind == INT4Q_KIND_SYMMETRIC) AddWithin(table, BadBlobs(), [](C &c) -> SmallBlob & { return c.packed; });
        AddWithin(table, BadTensors(kind, false), [](C &c) -> SmallTensor & { return c.weights; });
        AddPointer(table, "tensor", &C::tensor, {1, 4});
        AddBlockRanges(table);
        AddValues(table, "n", [](C &c) -> int64_t & { return c.weights.tensor.n; }, {1, 16, 32}, kMismatch);
        AddValues(table, "k", [](C &c) -> int64_t & { return c.weights.tensor.k; }, {1, 32, 39}, kMismatch);
        const auto scheme = [](C &c) -> int4q_scheme & { return c.weights.tensor.scheme; };
        AddValues(table, "group_size", [=](C &c) -> int32_t & { return scheme(c).group_size; },
                  {32, 64, 128, 256, INT4Q_GROUP_PER_ROW}, kMismatch);
        AddValues(table, "scale_type", [=](C &c) -> int32_t & { return scheme(c).scale_type; }, {INT4Q_TYPE_BF16}, kMismatch);
        for (int32_t other : kAllKinds) {
            if (other == kind) continue;
            table.push_back({"a tensor of kind " + std::to_string(other),
                             [=](C &c) { scheme(c).kind = other, c.weights.Connect(); }, kMismatch, "kind"});
        }
        ExpectRefused("int4q_unpack_rows", Maker<C>(kind), table);
    }
}

// ---- int4q_gather_rows ----------------------------------------------------------------------------------------------

struct GatherCall {
    static constexpr int64_t kCount = 4, kStride = 42;
    explicit GatherCall(int32_t kind) : packed(kind) {}
    SmallBlob packed;
    int64_t indices[kCount + 1] = {32, 0, 7, 7, 0};
    alignas(64) float floats[kCount * kStride + 1] = {};
    const int64_t *row_indices = indices;
    int64_t count = kCount, stride = kStride;
    void *destination = floats;
    int4q_type type = INT4Q_TYPE_F32;

    int4q_status Run() {
        return int4q_gather_rows(packed.blob, packed.blob_bytes, row_indices, count, destination, type, stride);
    }
    std::string Outputs() const { return BytesOf(floats); }
};

TEST(BadBlobArguments, GatherRows) {
    using C = GatherCall;
    BadTable<C> table;
    AddWithin(table, BadBlobs(), [](C &c) -> SmallBlob & { return c.packed; });
    AddPointer(table, "row_indices", &C::row_indices, {1, 2, 4, 7});
    AddValues(table, "count", &C::count, {-1, -4, kMin64});
    for (int64_t i = 0; i < C::kCount; i++) {
        AddValues(table, "row_indices", [i](C &c) -> int64_t & { return c.indices[i]; }, {-1, kRows, kRows + 1, kMin64, kMax64});
    }
    AddMatrix(table, "destination", &C::destination, &C::type, "destination_type", &C::stride, "destination_stride", kColumns);
    ExpectRefused("int4q_gather_rows", Maker<C>(), table);
}

// No memory can hold so many indices, so none of them may be read before the count is refused.
TEST(BadBlobArgumentsDeathTest, GatherRowsWithMoreIndicesThanMemoryHolds) {
    for (int64_t count : {kMax64, kMax64 / 2, int64_t{1} << 60}) {
        GatherCall call(INT4Q_KIND_SYMMETRIC);
        ASSERT_OK(call.Run());
        GuardedBuffer indices(4 * sizeof(int64_t), Placement::kRight, alignof(int64_t));
        std::memset(indices.data(), 0, indices.size());
        call.row_indices = indices.as<int64_t>();
        ASSERT_OK(call.Run());
        call.count = count;
        EXPECT_EXIT(_exit(FailsLike(call.Run(), {kOverflow}, "int4q_gather_rows", {"count", "destination_stride"}) ? 0 : 1),
                    testing::ExitedWithCode(0), "") << "count " << count;
    }
}

TEST(BadBlobArguments, ErrorsBelongToTheThread) {
    GatherCall call(INT4Q_KIND_SYMMETRIC);
    call.indices[2] = -5;
    EXPECT_FAILS(call.Run(), kInvalid, "int4q_gather_rows", "row_indices");
    std::thread([] { EXPECT_FAILS(int4q_blob_validate(nullptr, 0, 0), kNull, "int4q_blob_validate", "blob"); }).join();
    EXPECT_STREQ(LastError().function, "int4q_gather_rows");
    EXPECT_STREQ(LastError().value, "-5");
}

}  // namespace
}  // namespace int4q_test
