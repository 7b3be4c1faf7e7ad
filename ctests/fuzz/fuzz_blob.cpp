// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry: bytes from anywhere as a blob, through every function that reads one. The first byte says which
// checksums are made right first, so that mutations get past them. Free of GoogleTest; what must hold is checked by
// abort().
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "support/reference_packer.hpp"

// How many inputs had a valid header, passed a full validation, were multiplied. Read by replay.cpp.
extern "C" uint64_t fuzz_blob_counts[3];
uint64_t fuzz_blob_counts[3];

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace {

#define REQUIRE(condition)                                                                                \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            int4q_error error;                                                                            \
            std::memset(&error, 0, sizeof error);                                                         \
            error.struct_size = sizeof error;                                                             \
            int4q_last_error(&error);                                                                     \
            std::fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__, #condition, \
                         error.message ? error.message : "?");                                            \
            std::abort();                                                                                 \
        }                                                                                                 \
    } while (false)

// The last byte, rounded up to 64, precedes an inaccessible page. From Freeze() on writing is a crash.
class GuardedBlob {
public:
    explicit GuardedBlob(size_t bytes) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), rounded = (bytes + 63) / 64 * 64;
        inner_ = std::max(page, (rounded + page - 1) / page * page);
        mapping_bytes_ = inner_ + page;
        void *memory = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(memory != MAP_FAILED);
        mapping_ = static_cast<uint8_t *>(memory);
        REQUIRE(mprotect(mapping_ + inner_, page, PROT_NONE) == 0);
        data_ = mapping_ + inner_ - rounded;
    }
    ~GuardedBlob() { munmap(mapping_, mapping_bytes_); }
    GuardedBlob(const GuardedBlob &) = delete;
    GuardedBlob &operator=(const GuardedBlob &) = delete;
    void Freeze() { REQUIRE(mprotect(mapping_, inner_, PROT_READ) == 0); }
    uint8_t *data() { return data_; }

private:
    uint8_t *mapping_;
    uint8_t *data_;
    size_t inner_, mapping_bytes_;
};

struct Tensor {
    std::vector<uint8_t> codes, scales, zero_points, offsets;
    int4q_tensor tensor;

    explicit Tensor(const int4q_blob_info &info) {
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
        if (info.scheme.kind == INT4Q_KIND_CODEBOOK) tensor.codebook = info.codebook;
    }
};

void Multiply(const int4q_blob_info &info, const void *blob, uint64_t bytes, int4q_compute_mode mode) {
    int4q_matmul_desc desc;
    std::memset(&desc, 0, sizeof desc);
    desc.struct_size = sizeof desc;
    desc.mode = mode;
    desc.m = 2;
    desc.n = info.n;
    desc.k = info.k;
    desc.scheme = info.scheme;
    desc.x_type = desc.y_type = INT4Q_TYPE_F32;
    desc.worker_count = 1;
    int4q_matmul_plan plan;
    std::memset(&plan, 0, sizeof plan);
    plan.struct_size = sizeof plan;
    const int4q_status status = int4q_matmul_plan_init(&desc, &plan);
    if (mode == INT4Q_MODE_INT8 && info.scheme.kind == INT4Q_KIND_CODEBOOK) {
        REQUIRE(status == INT4Q_ERROR_UNSUPPORTED);
        return;
    }
    REQUIRE(status == INT4Q_OK);
    GuardedBlob scratch(static_cast<size_t>(plan.scratch_bytes));
    const std::vector<float> x(static_cast<size_t>(2 * info.k), 0.5f);
    std::vector<float> y(static_cast<size_t>(2 * info.n), -1.0f);
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
    REQUIRE(std::memcmp(y.data(), y.data() + info.n, static_cast<size_t>(info.n) * sizeof(float)) == 0 ||
            std::any_of(y.begin(), y.end(), [](float v) { return v != v; }));
    fuzz_blob_counts[2]++;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const uint8_t choice = *data++;
    const uint64_t bytes = --size;
    GuardedBlob blob(size);
    if (size) std::memcpy(blob.data(), data, size);
    if (choice & 1 && size >= int4q_test::kHeaderBytes) int4q_test::SignBlocks(blob.data(), bytes);
    if (choice & 2 && size >= int4q_test::kHeaderBytes) int4q_test::SignHeader(blob.data());
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
    const auto row_bytes = static_cast<size_t>(2 * info.k);
    REQUIRE(info.n > 0 && info.k > 0 && info.total_bytes <= bytes);
    REQUIRE(static_cast<uint64_t>(info.n) <= info.block_count * 16 && static_cast<uint64_t>(info.k) <= bytes);
    std::vector<uint16_t> rows(static_cast<size_t>(4 * info.k));
    for (int4q_type type : {INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
        REQUIRE(int4q_gather_rows(blob.data(), bytes, indices, 4, rows.data(), type, info.k) == INT4Q_OK);
        REQUIRE(std::memcmp(&rows[0], &rows[row_bytes], row_bytes) == 0);  // indices 0 and 2 are equal
    }
    Multiply(info, blob.data(), bytes, INT4Q_MODE_F32);
    Multiply(info, blob.data(), bytes, INT4Q_MODE_INT8);
    Tensor tensor(info);
    const int4q_status unpacked = int4q_unpack_rows(blob.data(), bytes, &tensor.tensor, 0, info.n);
    if (!full) return 0;
    fuzz_blob_counts[1]++;
    REQUIRE(unpacked == INT4Q_OK);
    GuardedBlob again(static_cast<size_t>(info.total_bytes));
    REQUIRE(int4q_pack_rows(&tensor.tensor, again.data(), info.total_bytes, 0, info.n) == INT4Q_OK);
    REQUIRE(int4q_blob_validate(again.data(), info.total_bytes, INT4Q_VALIDATE_FULL) == INT4Q_OK);
    // What a full validation lets pass is what a packer writes. (Of a longer row's repeated scale only one is kept.)
    const auto total = static_cast<size_t>(info.total_bytes);
    if (info.k <= 65536) REQUIRE(std::memcmp(blob.data(), again.data(), total) == 0);
    return 0;
}
