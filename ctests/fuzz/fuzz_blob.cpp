// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry: bytes from anywhere as a blob, through every function that reads one. Free of GoogleTest; what must
// hold is checked by abort().
//
// An input's first byte is flags: 1 signs the blocks anew, 2 the header, 4 the parts and the header, so that mutations get past
// the checksums; 8 and 16 choose how many rows are multiplied. The rest is the blob. No fuzzer finds a valid header by itself, so
// it wants seeds. With clang:
//
//     undefined='-fsanitize=undefined -fno-sanitize-recover=all'    # of C and C++: Swift traps by itself
//     CC=clang CXX=clang++ cmake -S . -B build/fuzz -G Ninja -DINT4Q_BUILD_FUZZERS=ON -DINT4Q_SANITIZE=address
//         -DCMAKE_C_FLAGS="$undefined" -DCMAKE_CXX_FLAGS="$undefined"
//     ninja -C build/fuzz fuzz_blob fuzz_blob_replay
//     build/fuzz/ctests/fuzz_blob_replay --write-seeds build/fuzz/blob-seeds
//     build/fuzz/ctests/fuzz_blob -max_len=8192 -max_total_time=600 build/fuzz/blob-corpus build/fuzz/blob-seeds
//
// (The corpus' folder must exist.) An input that aborts is left as crash-...: give it to fuzz_blob as its only argument. When what
// it found is mended it goes to regressions/blob-..., which the replay runs, too.
// replay_blob.cpp runs this entry without a fuzzer, with every test run; mutate_blob.cpp adds mutations that know a blob's fields
// and parts. Of saved statistics there are fuzz_observer.cpp and fuzz_statistics.cpp, built alike.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fuzz/guarded_memory.hpp"
#include "support/code_width.hpp"
#include "support/blob_parts.hpp"
#include "support/floats.hpp"
#include "support/reference_packer.hpp"

// How many inputs had a valid header, passed a full validation, were multiplied. Read by replay_blob.cpp.
extern "C" uint64_t fuzz_blob_counts[3];
uint64_t fuzz_blob_counts[3];

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace {

using GuardedBlob = int4q_fuzz::GuardedMemory;

struct Tensor {
    std::vector<uint8_t> codes, scales, zero_points, offsets;
    std::vector<float> codebooks;
    int4q_tensor tensor;

    Tensor(const int4q_blob_info &info, const void *blob, uint64_t bytes) {
        int4q_tensor_layout layout;
        std::memset(&layout, 0, sizeof layout);
        layout.struct_size = sizeof layout;
        REQUIRE(int4q_tensor_sizes(&info.scheme, info.n, info.k, &layout) == INT4Q_OK);
        std::memset(&tensor, 0, sizeof tensor);
        tensor.struct_size = sizeof tensor;
        tensor.scheme = info.scheme;
        tensor.n = info.n;
        tensor.k = info.k;
        const auto take = [](std::vector<uint8_t> &bytes, uint64_t size) -> void * {
            bytes.assign(static_cast<size_t>(size), 0xa5);
            return size ? bytes.data() : nullptr;
        };
        tensor.codes = take(codes, tensor.codes_bytes = layout.codes_bytes);
        tensor.scales = take(scales, tensor.scales_bytes = layout.scales_bytes);
        tensor.zero_points = take(zero_points, tensor.zero_points_bytes = layout.zero_points_bytes);
        tensor.offsets = take(offsets, tensor.offsets_bytes = layout.offsets_bytes);
        if (info.scheme.kind != INT4Q_KIND_CODEBOOK) return;
        codebooks.resize(16 * static_cast<size_t>(info.n));
        REQUIRE(int4q_blob_codebooks(blob, bytes, codebooks.data(), 0, info.n) == INT4Q_OK);
        tensor.codebook = codebooks.data();  // one for the tensor is the first of n alike
    }
};

// What element (row, column) stands for, not rounded.
long double ValueOf(const int4q_tensor &tensor, int64_t row, int64_t column) {
    const int4q_scheme &scheme = tensor.scheme;
    const int64_t size = scheme.group_size == INT4Q_GROUP_PER_ROW ? tensor.k : scheme.group_size;
    const int64_t index = row * ((tensor.k + size - 1) / size) + column / size;
    const long double scale = int4q_test::LoadElement(tensor.scales, scheme.scale_type, index);
    const uint8_t *const codes = static_cast<const uint8_t *>(tensor.codes) + row * int4q_test::CodeRowBytes(scheme, tensor.k);
    const int code = int4q_test::GetCode(codes, int4q_test::CodeBits(scheme), column);
    if (int4q_test::IsFew(scheme)) return scale * int4q_test::CentredCode(scheme, code);
    const int zero_point =
        tensor.zero_points ? static_cast<const uint8_t *>(tensor.zero_points)[index] : int4q_test::MiddleCode(scheme);
    const int64_t table = scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW ? 16 * row : 0;
    if (scheme.kind == INT4Q_KIND_CODEBOOK) return scale * static_cast<long double>(tensor.codebook[table + code]);
    if (scheme.kind != INT4Q_KIND_OFFSET) return scale * (code - zero_point);
    return scale * code + static_cast<long double>(int4q_test::LoadElement(tensor.offsets, scheme.scale_type, index));
}

// y[m][n] must be within the bound that the library has for it. Scales may be anything: y that overflowed needs a bound
// of infinity.
void CheckBound(const int4q_matmul_plan &plan, const int4q_matmul_args &args, const int4q_tensor &tensor,
                const std::vector<float> &x, const std::vector<float> &y) {
    std::vector<double> worst(y.size(), -1.0), probable(y.size(), -1.0);
    REQUIRE(int4q_error_bound(&plan, &args, INT4Q_BOUND_WORST_CASE, worst.data(), tensor.n) == INT4Q_OK);
    REQUIRE(int4q_error_bound(&plan, &args, INT4Q_BOUND_PROBABLE, probable.data(), tensor.n) == INT4Q_OK);
    for (int64_t column = 0; column < tensor.n; column++) {
        long double exact = 0, magnitude = 0;
        for (int64_t c = 0; c < tensor.k; c++) {
            const long double term = static_cast<long double>(x[static_cast<size_t>(c)]) * ValueOf(tensor, column, c);
            exact += term;
            magnitude += std::fabs(term);
        }
        const long double slack = magnitude * static_cast<long double>(tensor.k) * 0x1p-62L;
        for (size_t i = static_cast<size_t>(column); i < y.size(); i += static_cast<size_t>(tensor.n)) {
            REQUIRE(probable[i] >= 0 && probable[i] <= worst[i]);
            const long double off = std::fabs(static_cast<long double>(y[i]) - exact);
            REQUIRE(off <= static_cast<long double>(worst[i]) + slack || std::isinf(worst[i]));
        }
    }
}

// With the tensor that was packed, if it is known to be valid, also holds y against its bound.
void Multiply(const int4q_blob_info &info, const void *blob, uint64_t bytes, int64_t m, int4q_compute_mode mode,
              const int4q_tensor *tensor) {
    int4q_matmul_desc desc;
    std::memset(&desc, 0, sizeof desc);
    desc.struct_size = sizeof desc;
    desc.mode = mode;
    desc.m = m;
    desc.n = info.n;
    desc.k = info.k;
    desc.scheme = info.scheme;
    desc.x_type = desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = 1;
    desc.part_flags = info.part_flags;
    desc.part_rank = info.part_rank;
    int4q_matmul_plan plan;
    std::memset(&plan, 0, sizeof plan);
    plan.struct_size = sizeof plan;
    const bool unsupported = (info.scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW && mode != INT4Q_MODE_F32) ||
                             (int4q_test::CodeBits(info.scheme) != 4 && mode == INT4Q_MODE_BF16) ||
                             (!int4q_test::IsFew(info.scheme) && mode == INT4Q_MODE_BINARY);
    REQUIRE(int4q_matmul_plan_init(&desc, &plan) == (unsupported ? INT4Q_ERROR_UNSUPPORTED : INT4Q_OK));
    if (unsupported) return;
    GuardedBlob scratch(static_cast<size_t>(plan.scratch_bytes));
    std::vector<float> x(static_cast<size_t>(m * info.k));
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % static_cast<size_t>(info.k) * 7 % 13) * 0.3f - 1.7f;
    std::vector<float> y(static_cast<size_t>(m * info.n), -1.0f);
    int4q_matmul_args args;
    std::memset(&args, 0, sizeof args);
    args.struct_size = sizeof args;
    args.x = x.data();
    args.ldx = info.k;
    args.blob = blob;
    args.blob_bytes = bytes;
    args.y = y.data();
    args.ldy = info.n;
    args.scratch = scratch.data();
    args.scratch_bytes = plan.scratch_bytes;
    REQUIRE(int4q_matmul(&plan, &args, nullptr, nullptr) == INT4Q_OK);
    // Rows of x are alike.
    const auto others = static_cast<size_t>((m - 1) * info.n);
    REQUIRE(std::memcmp(y.data(), y.data() + info.n, others * sizeof(float)) == 0 ||
            std::any_of(y.begin(), y.end(), [](float v) { return v != v; }));
    if (tensor && mode != INT4Q_MODE_BINARY && !info.part_flags) CheckBound(plan, args, *tensor, x, y);
    fuzz_blob_counts[2]++;
}

// Parts of a valid header point into the blob; whatever they say, attaching them to a copy either makes what was there, or refuses
// and leaves the copy as it is.
int4q_parts PartsOf(const int4q_blob_info &info, const uint8_t *blob, uint64_t bytes) {
    int4q_parts parts;
    std::memset(&parts, 0, sizeof parts);
    parts.struct_size = sizeof parts;
    REQUIRE(int4q_blob_get_parts(blob, bytes, &parts) == INT4Q_OK);
    REQUIRE((parts.permutation != nullptr) == ((info.part_flags & INT4Q_PART_PERMUTATION) != 0));
    REQUIRE((parts.rotation_order != 0) == ((info.part_flags & INT4Q_PART_ROTATION) != 0));
    REQUIRE((parts.sparse_row_offsets != nullptr) == ((info.part_flags & INT4Q_PART_SPARSE) != 0));
    REQUIRE((parts.low_rank_a != nullptr) == ((info.part_flags & INT4Q_PART_LOW_RANK) != 0));
    const auto within = [&](const void *begin, int64_t count, int64_t size) {
        const auto *at = static_cast<const uint8_t *>(begin);
        REQUIRE(!begin || (count >= 0 && at >= blob + int4q_test::kHeaderBytes && at + count * size <= blob + info.total_bytes));
    };
    const int64_t element = parts.rank ? int4q_test::TypeBytes(parts.low_rank_type) : 0;
    within(parts.permutation, info.k, 4);
    within(parts.sparse_row_offsets, info.n + 1, 8);
    within(parts.sparse_columns, parts.sparse_count, 4);
    within(parts.sparse_values, parts.sparse_count, 4);
    within(parts.low_rank_a, (info.n + 15) / 16 * 16 * parts.rank, element);
    within(parts.low_rank_b, info.k * parts.rank, element);
    GuardedBlob copy(static_cast<size_t>(info.total_bytes));
    std::memcpy(copy.data(), blob, static_cast<size_t>(info.total_bytes));
    const int4q_status attached = int4q_blob_attach(copy.data(), info.total_bytes, &parts);
    if (attached == INT4Q_OK) {
        REQUIRE(int4q_blob_validate(copy.data(), info.total_bytes, INT4Q_VALIDATE_HEADER) == INT4Q_OK);
    } else {
        int4q_fuzz::RequireRefusal(attached, {INT4Q_ERROR_INVALID_ARGUMENT, INT4Q_ERROR_NOT_FINITE}, {"parts."});
        REQUIRE(std::memcmp(copy.data(), blob, static_cast<size_t>(info.total_bytes)) == 0);
    }
    return parts;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const uint8_t choice = *data++;
    const int64_t rows_of_x = std::array<int64_t, 4>{2, 5, 17, 33}[choice >> 3 & 3];
    const uint64_t bytes = --size;
    GuardedBlob blob(size);
    if (size) std::memcpy(blob.data(), data, size);
    if (choice & 1 && size >= int4q_test::kHeaderBytes) int4q_test::SignBlocks(blob.data(), bytes);
    if (choice & 2 && size >= int4q_test::kHeaderBytes) int4q_test::SignHeader(blob.data());
    if (choice & 4 && size >= int4q_test::kHeaderBytes) int4q_test::SignParts(blob.data(), bytes);
    blob.Freeze();

    const bool header = int4q_blob_validate(blob.data(), bytes, INT4Q_VALIDATE_HEADER) == INT4Q_OK;
    const bool full = int4q_blob_validate(blob.data(), bytes, INT4Q_VALIDATE_FULL) == INT4Q_OK;
    REQUIRE(header || !full);
    int4q_blob_info info;
    std::memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    REQUIRE((int4q_blob_get_info(blob.data(), bytes, &info) == INT4Q_OK) == header);

    const int64_t indices[4] = {0, header ? info.n - 1 : 1, 0, header ? info.n / 2 : INT64_MAX};
    if (!header) {
        float row[64];
        REQUIRE(int4q_gather_rows(blob.data(), bytes, indices, 4, row, INT4Q_TYPE_F32, 16) != INT4Q_OK);
        return 0;
    }
    fuzz_blob_counts[0]++;
    // A valid header cannot promise more than what is there, so these sizes are bounded by the input's.
    REQUIRE(info.n > 0 && info.k > 0 && info.total_bytes <= bytes);
    REQUIRE(static_cast<uint64_t>(info.n) <= info.block_count * 16 && static_cast<uint64_t>(info.k) <= bytes);
    std::vector<float> rows(static_cast<size_t>(4 * info.k));
    for (int4q_type type : int4q_test::kTypes) {
        const auto row_bytes = static_cast<size_t>(info.k * int4q_test::TypeBytes(type));
        const int4q_status gathered_rows = int4q_gather_rows(blob.data(), bytes, indices, 4, rows.data(), type, info.k);
        REQUIRE(gathered_rows == (info.part_flags ? INT4Q_ERROR_UNSUPPORTED : INT4Q_OK));
        GuardedBlob room(static_cast<size_t>(8 * int4q_test::RoundUp(static_cast<uint64_t>(info.k), 16)));
        REQUIRE(int4q_gather_effective_rows(blob.data(), bytes, indices, 4, rows.data(), type, info.k, room.data(),
                                            8 * int4q_test::RoundUp(static_cast<uint64_t>(info.k), 16)) == INT4Q_OK);
        const auto *gathered = reinterpret_cast<const uint8_t *>(rows.data());
        REQUIRE(std::memcmp(gathered, gathered + 2 * row_bytes, row_bytes) == 0);  // indices 0 and 2 are equal
    }
    const int4q_parts parts = PartsOf(info, blob.data(), bytes);
    Tensor tensor(info, blob.data(), bytes);
    const int4q_status unpacked = int4q_unpack_rows(blob.data(), bytes, &tensor.tensor, 0, info.n);
    REQUIRE(!full || unpacked == INT4Q_OK);
    for (int4q_compute_mode mode : {INT4Q_MODE_F32, INT4Q_MODE_INT8, INT4Q_MODE_BF16, INT4Q_MODE_BINARY}) {
        Multiply(info, blob.data(), bytes, rows_of_x, mode, full ? &tensor.tensor : nullptr);
    }
    if (!full) return 0;
    fuzz_blob_counts[1]++;
    GuardedBlob again(static_cast<size_t>(info.total_bytes));
    REQUIRE(int4q_pack_rows(&tensor.tensor, again.data(), info.total_bytes, 0, info.n) == INT4Q_OK);
    REQUIRE(int4q_blob_attach(again.data(), info.total_bytes, &parts) == INT4Q_OK);
    REQUIRE(int4q_blob_validate(again.data(), info.total_bytes, INT4Q_VALIDATE_FULL) == INT4Q_OK);
    // What a full validation lets pass is what a packer writes. (Of a longer row's repeated scale only one is kept.)
    const auto total = static_cast<size_t>(info.total_bytes);
    if (info.k <= 65536) REQUIRE(std::memcmp(blob.data(), again.data(), total) == 0);
    return 0;
}
