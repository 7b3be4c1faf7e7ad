// SPDX-License-Identifier: Apache-2.0
// Packing, unpacking, validation and gathering against docs/blob-format.md.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "support/blob_memory.hpp"
#include "support/isa.hpp"
#include "support/random.hpp"
#include "support/reference_packer.hpp"
#include "support/reference_quantizer.hpp"
#include "support/tensor_memory.hpp"

namespace int4q_test {
namespace {

// Packs, compares with the other packer, validates, reads the header, unpacks.
void CheckRoundTrip(const int4q_scheme &scheme, int64_t n, int64_t k) {
    SCOPED_TRACE(Name(scheme) + ", " + std::to_string(n) + " x " + std::to_string(k));
    const TensorMemory tensor = RandomTensor(scheme, n, k, static_cast<uint64_t>(n + k));
    const std::vector<uint8_t> wanted = PackReference(*tensor.get());
    ASSERT_EQ(SizeOf(tensor), wanted.size());
    GuardedBuffer blob = Pack(tensor);
    for (size_t i = 0; i < wanted.size(); i++) ASSERT_EQ(blob.data()[i], wanted[i]) << "byte " << i;
    blob.ForbidWriting();
    ASSERT_OK(Validate(blob, INT4Q_VALIDATE_HEADER));
    ASSERT_OK(Validate(blob));

    const BlobGeometry at(scheme, n, k);
    int4q_blob_info info = EmptyInfo();
    ASSERT_OK(int4q_blob_get_info(blob.data(), blob.size(), &info));
    EXPECT_EQ(info.struct_size, sizeof info);
    EXPECT_EQ(info.format_version, 1u);
    EXPECT_EQ(std::memcmp(&info.scheme, &scheme, sizeof scheme), 0);
    EXPECT_EQ(info.n, n);
    EXPECT_EQ(info.k, k);
    EXPECT_EQ(info.total_bytes, wanted.size());
    EXPECT_EQ(info.block_count, at.block_count);
    EXPECT_EQ(info.block_bytes, at.block_bytes);
    EXPECT_EQ(info.header_checksum, Xxh64(wanted.data(), 248));
    for (int i = 0; i < 16; i++) EXPECT_EQ(info.codebook[i], tensor->codebook ? kNormalFloat[i] : 0.0f);

    TensorMemory back(scheme, n, k, Placement::kLeft);
    ASSERT_OK(int4q_unpack_rows(blob.data(), blob.size(), back.get(), 0, n));
    EXPECT_TRUE(SameTensor(tensor, back));
    TensorMemory pieces(scheme, n, k);
    for (int64_t row = (n - 1) / 16 * 16; row >= 0; row -= 16) {
        ASSERT_OK(int4q_unpack_rows(blob.data(), blob.size(), pieces.get(), row, std::min(n, row + 16)));
    }
    EXPECT_TRUE(SameTensor(tensor, pieces));
}

TEST(Blob, PackEqualsTheFormatsTextAndUnpackInvertsIt) {
    for (int4q_type scale_type : kTypes) {
        for (int32_t group_size : kAllGroupSizes) {
            for (const int4q_scheme &scheme : AllSchemes(group_size, scale_type)) {
                for (int64_t n : {1, 15, 16, 17, 133}) {
                    for (int64_t k : {1, 16, 31, 48, 129}) CheckRoundTrip(scheme, n, k);
                    if (HasFailure()) return;
                }
            }
        }
    }
}

TEST(Blob, LongRowsRepeatTheirScale) {
    for (const int4q_scheme &scheme : OneSchemeOfEachKind(INT4Q_GROUP_PER_ROW, INT4Q_TYPE_F16)) {
        for (int64_t k : {65535, 65536, 65537, 140001}) CheckRoundTrip(scheme, 2, k);
    }
}

TEST(Blob, RangesInAnyOrderAndFromFourThreadsGiveTheSameBytes) {
    const int64_t n = 203, k = 97;
    Random random(3);
    for (const int4q_scheme &scheme : OneSchemeOfEachKind(32, INT4Q_TYPE_BF16)) {
        const TensorMemory tensor = RandomTensor(scheme, n, k);
        const std::vector<uint8_t> wanted = PackReference(*tensor.get());
        for (int thread_count : {1, 4}) {
            for (int i = 0; i < 8; i++) {
                std::vector<std::pair<int64_t, int64_t>> ranges;
                for (int64_t row = 0; row < n;) {
                    const int64_t end = std::min(n, row + 16 * random.Integer(1, 3));
                    ranges.emplace_back(row, end);
                    row = end;
                }
                random.Shuffle(ranges);
                // More room than needed: the bytes beyond the blob's size are left alone.
                GuardedBuffer blob(wanted.size() + 64, Placement::kRight, INT4Q_ALIGNMENT);
                std::vector<int4q_status> statuses(ranges.size(), -1);
                std::vector<std::thread> threads;
                for (int t = 0; t < thread_count; t++) {
                    threads.emplace_back([&, t] {
                        for (size_t r = 0; r < ranges.size(); r++) {
                            if (static_cast<int>(r) % thread_count != t) continue;
                            const auto [begin, end] = ranges[r];
                            statuses[r] = int4q_pack_rows(tensor.get(), blob.data(), blob.size(), begin, end);
                        }
                    });
                }
                for (std::thread &thread : threads) thread.join();
                for (int4q_status status : statuses) ASSERT_EQ(status, INT4Q_OK);
                ASSERT_EQ(std::memcmp(blob.data(), wanted.data(), wanted.size()), 0);
                for (size_t b = wanted.size(); b < blob.size(); b++) ASSERT_EQ(blob.data()[b], GuardedBuffer::kFill);
                ASSERT_OK(Validate(blob)) << "bytes after the blob are allowed";
            }
        }
    }
}

TEST(Blob, EveryFlippedBitAndEveryTruncationIsFound) {
    for (const int4q_scheme &scheme : OneSchemeOfEachKind(16, INT4Q_TYPE_F16)) {
        const TensorMemory tensor = RandomTensor(scheme, 18, 37);
        GuardedBuffer blob = Pack(tensor);
        ASSERT_OK(Validate(blob));
        for (size_t bit = 0; bit < 8 * blob.size(); bit++) {
            const auto mask = static_cast<uint8_t>(1u << bit % 8);
            blob.data()[bit / 8] ^= mask;
            const int4q_status status = Validate(blob);
            blob.data()[bit / 8] ^= mask;
            const bool version = bit / 8 >= kVersionAt && bit / 8 < kHeaderBytesAt;
            ASSERT_TRUE(status == INT4Q_ERROR_CORRUPT || (version && status == INT4Q_ERROR_BLOB_VERSION))
                << Name(scheme) << ", bit " << bit << ": " << Describe(status);
        }
        ASSERT_OK(Validate(blob));
        for (size_t size = 0; size < blob.size(); size++) {
            GuardedBuffer part(size, Placement::kRight, INT4Q_ALIGNMENT);
            std::memcpy(part.data(), blob.data(), size);
            const int4q_status status = Validate(part);
            ASSERT_TRUE(status == INT4Q_ERROR_CORRUPT || status == INT4Q_ERROR_BUFFER_TOO_SMALL) << Describe(status);
            ASSERT_TRUE(AllRefuse(part, tensor, status)) << size << " of " << blob.size() << " bytes";
        }
        // The same bytes anywhere but at a multiple of 64.
        GuardedBuffer shifted(blob.size() + 64, Placement::kLeft, INT4Q_ALIGNMENT);
        for (size_t by : {1, 4, 16, 32, 63}) {
            std::memcpy(shifted.data() + by, blob.data(), blob.size());
            for (int32_t level : {INT4Q_VALIDATE_HEADER, INT4Q_VALIDATE_FULL}) {
                EXPECT_FAILS(int4q_blob_validate(shifted.data() + by, blob.size(), level), INT4Q_ERROR_MISALIGNED,
                             "int4q_blob_validate", "blob");
            }
        }
    }
}

TEST(Blob, SignedHeadersThatLieAreRefused) {
    for (const int4q_scheme &scheme : OneSchemeOfEachKind(16, INT4Q_TYPE_F16)) {
        const int64_t n = 18, k = 37;
        const TensorMemory tensor = RandomTensor(scheme, n, k);
        for (uint32_t version : {0u, 2u, 0x01000000u, UINT32_MAX}) {
            ExpectHeaderRefused<uint32_t>(tensor, kVersionAt, version, INT4Q_ERROR_BLOB_VERSION);
        }
        for (uint8_t magic : {'i', '\0'}) ExpectHeaderRefused<uint8_t>(tensor, kMagicAt, magic);
        for (uint32_t size : {0u, 255u, 512u, UINT32_MAX}) ExpectHeaderRefused<uint32_t>(tensor, kHeaderBytesAt, size);
        for (int64_t huge : {INT64_MAX, INT64_MAX - 15, INT64_MAX - 31, int64_t{1} << 62, int64_t{1} << 60,
                             int64_t{1} << 32, int64_t{0}, int64_t{-1}, int64_t{-16}, INT64_MIN, INT64_MIN + 1}) {
            ExpectHeaderRefused<int64_t>(tensor, kNAt, huge);
            ExpectHeaderRefused<int64_t>(tensor, kKAt, huge);
        }
        for (int64_t other : {16, 33, 1000}) ExpectHeaderRefused<int64_t>(tensor, kNAt, other);
        for (int64_t other : {32, 65, 1000}) ExpectHeaderRefused<int64_t>(tensor, kKAt, other);
        const std::vector<std::vector<int32_t>> unknown = {{0, 7, -1}, {0, 1, 17, 512, -2, INT32_MIN}, {0, 4, -1},
                                                           {7, -1},    {2, -1},                        {4, -1}};
        for (size_t field = 0; field < unknown.size(); field++) {
            for (int32_t value : unknown[field]) ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 4 * field, value);
        }
        // Known values that do not go together, or with the sizes.
        for (int32_t kind = INT4Q_KIND_SYMMETRIC; kind <= INT4Q_KIND_CODEBOOK; kind++) {
            if (kind != scheme.kind) ExpectHeaderRefused<int32_t>(tensor, kSchemeAt, kind);
        }
        for (int32_t size : {32, 256, INT4Q_GROUP_PER_ROW}) ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 4, size);
        ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 8, INT4Q_TYPE_F32);
        if (scheme.kind == INT4Q_KIND_SYMMETRIC) {
            ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 12, INT4Q_SCALE_SIGNED_MAX_8);
        } else {
            ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 12, INT4Q_SCALE_AMAX_7);
            ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 16, INT4Q_RANGE_RESTRICTED);
        }
        if (scheme.kind != INT4Q_KIND_OFFSET) ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 20, INT4Q_ROUNDING_GGML);
        if (scheme.kind != INT4Q_KIND_OFFSET) ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 20, INT4Q_ROUNDING_MLX);
        if (scheme.kind != INT4Q_KIND_CODEBOOK) {
            ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 12, INT4Q_SCALE_ONE);
            ExpectHeaderRefused<int32_t>(tensor, kSchemeAt + 20, INT4Q_ROUNDING_NEAREST_LOG);
        }
        for (size_t at = kChecksumsOffsetAt; at <= kPaddedKAt; at += 8) {
            const uint64_t old = GetField<uint64_t>(PackReference(*tensor.get()).data(), at);
            for (uint64_t value : {old + 1, old + 64, old - 1, UINT64_MAX - 63, uint64_t{1} << 63}) {
                ExpectHeaderRefused<uint64_t>(tensor, at, value);
            }
        }
        for (uint64_t total : {uint64_t{0}, SizeOf(tensor) - 64, SizeOf(tensor) + 64, UINT64_MAX}) {
            ExpectHeaderRefused<uint64_t>(tensor, kTotalBytesAt, total);
        }
        for (size_t at = kCodebookScopeAt; at < kHeaderChecksumAt; at++) ExpectHeaderRefused<uint8_t>(tensor, at, 1);
        for (size_t at = kCodebookAt; at < kCodebookScopeAt; at += 4) {
            ExpectHeaderRefused<float>(tensor, at, std::numeric_limits<float>::infinity());
            ExpectHeaderRefused<float>(tensor, at, std::numeric_limits<float>::quiet_NaN());
            if (scheme.kind != INT4Q_KIND_CODEBOOK) ExpectHeaderRefused<float>(tensor, at, 1.5f);
        }
        if (scheme.kind == INT4Q_KIND_CODEBOOK) {  // a codebook of zeros
            GuardedBuffer blob = Pack(tensor);
            for (size_t at = kCodebookAt; at < kCodebookScopeAt; at += 4) SetField<float>(blob.data(), at, -0.0f);
            SignHeader(blob.data());
            EXPECT_TRUE(AllRefuse(blob, tensor, INT4Q_ERROR_CORRUPT));
        }
        if (HasFailure()) return;
    }
}

TEST(Blob, SignedBlocksWithForbiddenContentsFailFullValidation) {
    const int64_t n = 18, k = 37;
    const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                         -std::numeric_limits<float>::infinity()};
    for (int4q_type type : kTypes) {
        for (const int4q_scheme &scheme : OneSchemeOfEachKind(16, type)) {
            SCOPED_TRACE(Name(scheme));
            const TensorMemory tensor = RandomTensor(scheme, n, k);
            const BlobGeometry at(scheme, n, k);
            for (size_t block = 0; block < 2; block++) {
                const int64_t lanes = block == 0 ? 16 : n - 16;
                const size_t groups = at.group_count * 16, scale_end = at.scales_offset + groups * at.scale_bytes;
                for (size_t i = 0; i < groups; i++) {
                    const auto index = static_cast<int64_t>(i);
                    for (float value : bad) {
                        ExpectBlockRefused(tensor, block, [&](uint8_t *start) {
                            StoreElement(start + at.scales_offset, type, index, value);
                        });
                        if (scheme.kind != INT4Q_KIND_OFFSET) continue;
                        ExpectBlockRefused(tensor, block, [&](uint8_t *start) {
                            StoreElement(start + at.extra_offset, type, index, value);
                        });
                    }
                    const bool padding = index % 16 >= lanes;
                    for (int zero_point : {1, 15, 16, 255}) {
                        if (scheme.kind != INT4Q_KIND_ASYMMETRIC || (zero_point < 16 && !padding)) continue;
                        const auto value = static_cast<uint8_t>(zero_point);
                        ExpectBlockRefused(tensor, block, [&](uint8_t *start) { start[at.extra_offset + i] = value; });
                    }
                    if (!padding) continue;
                    ExpectBlockRefused(tensor, block, [&](uint8_t *start) {
                        StoreElement(start + at.scales_offset, type, index, 1.0f);
                    });
                    if (scheme.kind != INT4Q_KIND_OFFSET) continue;
                    ExpectBlockRefused(tensor, block, [&](uint8_t *start) {
                        StoreElement(start + at.extra_offset, type, index, 1.0f);
                    });
                }
                // What rounds the sections up to 64 bytes.
                std::vector<size_t> gaps;
                const size_t extra_bytes = scheme.kind == INT4Q_KIND_OFFSET ? at.scale_bytes : 1;
                for (size_t i = scale_end; i < RoundUp(scale_end, 64); i++) gaps.push_back(i);
                for (size_t i = at.extra_offset + groups * extra_bytes; at.extra_offset && i < at.block_bytes; i++) {
                    gaps.push_back(i);
                }
                for (size_t gap : gaps) {
                    ExpectBlockRefused(tensor, block, [&](uint8_t *start) { start[gap] = 1; });
                }
                // Codes of rows from n on and of columns from k on: k + 0, 2, 4, 6, 1, 3, 5, 7 from the low nibble up.
                for (int64_t nibble = 0; nibble < static_cast<int64_t>(at.padded_k) * 16; nibble++) {
                    const int64_t in_lane = nibble % 8, lane = nibble / 8 % 16;
                    const int64_t column = nibble / 128 * 8 + (in_lane < 4 ? 2 * in_lane : 2 * in_lane - 7);
                    if (lane < lanes && column < k) continue;
                    ExpectBlockRefused(tensor, block, [&](uint8_t *start) {
                        start[nibble / 2] |= static_cast<uint8_t>(nibble % 2 ? 0x80 : 0x01);
                    });
                }
            }
            if (HasFailure()) return;
        }
    }
}

TEST(Blob, MappedReadOnlyFromAFileItWorksAsInMemory) {
    const int64_t n = 45, k = 200;
    for (const int4q_scheme &scheme : OneSchemeOfEachKind(64, INT4Q_TYPE_F16)) {
        const GuardedBuffer blob = Pack(RandomTensor(scheme, n, k));
        std::string path = ::testing::TempDir() + "int4q_blob_XXXXXX";
        const int file = mkstemp(&path[0]);
        ASSERT_GE(file, 0) << path;
        EXPECT_EQ(write(file, blob.data(), blob.size()), static_cast<ssize_t>(blob.size()));
        void *mapped = mmap(nullptr, blob.size(), PROT_READ, MAP_PRIVATE, file, 0);
        close(file);
        unlink(path.c_str());
        ASSERT_NE(mapped, MAP_FAILED);
        EXPECT_OK(int4q_blob_validate(mapped, blob.size(), INT4Q_VALIDATE_FULL));
        const std::vector<float> wanted = Multiply(blob.data(), blob.size(), scheme, n, k);
        const std::vector<float> got = Multiply(mapped, blob.size(), scheme, n, k);
        EXPECT_EQ(std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)), 0) << Name(scheme);
        EXPECT_NE(wanted[0], wanted[1]);
        munmap(mapped, blob.size());
    }
}

TEST(Blob, GatherEqualsDequantizedRows) {
    Random random(9);
    for (int4q_type scale_type : kTypes) {
        for (int32_t group_size : kAllGroupSizes) {
            for (const int4q_scheme &scheme : OneSchemeOfEachKind(group_size, scale_type)) {
                const int64_t n = random.Integer(1, 50), k = random.Integer(1, 300), stride = k + random.Integer(0, 3);
                const TensorMemory tensor = RandomTensor(scheme, n, k);
                GuardedBuffer blob = Pack(tensor);
                blob.ForbidWriting();
                std::vector<int64_t> indices{n - 1, 0, n - 1};
                for (int i = 0; i < 6; i++) indices.push_back(random.Integer(0, n - 1));
                const auto count = static_cast<int64_t>(indices.size());
                for (int4q_type type : kTypes) {
                    const auto bytes = static_cast<size_t>(((count - 1) * stride + k) * TypeBytes(type));
                    const auto size = static_cast<size_t>(TypeBytes(type));
                    GuardedBuffer got(bytes, Placement::kRight, size), wanted(bytes, Placement::kLeft, size);
                    const auto gather = [&](const std::vector<int64_t> &rows) {
                        return int4q_gather_rows(blob.data(), blob.size(), rows.data(), count, got.data(), type,
                                                 stride);
                    };
                    for (int64_t i = 0; i < count * k; i++) {
                        StoreElement(wanted.data(), type, i / k * stride + i % k,
                                     DequantizeReference(*tensor.get(), indices[static_cast<size_t>(i / k)], i % k));
                    }
                    for (int4q_isa isa : UsableIsas()) {
                        IsaLimit limit(isa);
                        ASSERT_OK(gather(indices));
                        ASSERT_EQ(std::memcmp(got.data(), wanted.data(), bytes), 0) << Name(scheme) << ", k " << k;
                    }
                    for (int64_t outside : {n, int64_t{-1}, INT64_MAX, INT64_MIN}) {
                        std::vector<int64_t> wrong = indices;
                        wrong[4] = outside;
                        EXPECT_FAILS(gather(wrong), INT4Q_ERROR_INVALID_ARGUMENT, "int4q_gather_rows", "row_indices");
                    }
                }
            }
        }
    }
}

}  // namespace
}  // namespace int4q_test
