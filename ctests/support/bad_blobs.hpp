// SPDX-License-Identifier: Apache-2.0
// Blobs that every function that takes one must refuse.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "support/bad_arguments.hpp"
#include "support/xxh64.hpp"

namespace int4q_test {

// A valid blob of a SmallTensor, its size declared to the byte.
struct SmallBlob {
    static constexpr uint64_t kCapacity = 4096, kHeaderBytes = 256, kSignedBytes = 248;

    explicit SmallBlob(int32_t kind = INT4Q_KIND_SYMMETRIC) {
        const SmallTensor source(kind);
        std::memset(memory, 0x5a, sizeof memory);
        EXPECT_OK(int4q_blob_size(&source.tensor.scheme, source.tensor.n, source.tensor.k, &blob_bytes));
        EXPECT_OK(int4q_pack_rows(&source.tensor, memory, kCapacity, 0, source.tensor.n));
    }
    SmallBlob(const SmallBlob &) = delete;
    SmallBlob &operator=(const SmallBlob &) = delete;

    template <typename T>
    T Get(uint64_t offset) const {
        T value;
        std::memcpy(&value, memory + offset, sizeof value);
        return value;
    }
    template <typename T>
    void Put(uint64_t offset, T value) {
        std::memcpy(memory + offset, &value, sizeof value);
    }
    // Makes the header's checksum right again, so that what it says is looked at.
    void SignHeader() { Put<uint64_t>(kSignedBytes, Xxh64(memory, kSignedBytes)); }
    void SignBlock(uint64_t block) {
        const uint64_t bytes = Get<uint64_t>(80);
        Put<uint64_t>(kHeaderBytes + 8 * block, Xxh64(memory + Get<uint64_t>(72) + block * bytes, bytes));
    }

    alignas(64) unsigned char memory[kCapacity];
    const void *blob = memory;
    uint64_t blob_bytes = 0;
};

// Wrong pointers, sizes and headers.
inline BadTable<SmallBlob> BadBlobs() {
    using B = SmallBlob;
    BadTable<B> table;
    AddPointer(table, "blob", &B::blob, {1, 2, 4, 8, 16, 32, 63});
    AddTooSmall(table, "blob_bytes", &B::blob_bytes);
    AddValues(table, "blob_bytes", &B::blob_bytes, {B::kHeaderBytes - 1, B::kHeaderBytes, B::kHeaderBytes + 1}, kTooSmall);
    for (uint64_t offset = 0; offset < B::kHeaderBytes; offset++) {
        const bool is_version = offset >= 8 && offset < 12;
        for (int bit : {0, 7}) {
            table.push_back({"bit " + std::to_string(bit) + " of header byte " + std::to_string(offset),
                             [=](B &b) { b.memory[offset] = static_cast<unsigned char>(b.memory[offset] ^ (1 << bit)); },
                             is_version ? INT4Q_ERROR_BLOB_VERSION : kCorrupt, "blob"});
        }
    }
    const auto sign = [&](uint64_t offset, int64_t value, int bytes, const char *other) {
        table.push_back({"signed header with " + std::to_string(value) + " at " + std::to_string(offset),
                         [=](B &b) { std::memcpy(b.memory + offset, &value, static_cast<size_t>(bytes)), b.SignHeader(); },
                         kCorrupt, "blob", other});
    };
    sign(12, 0, 4, nullptr);
    sign(12, 320, 4, nullptr);
    for (uint64_t offset : {16, 64, 72, 80, 88, 96, 104, 112, 120, 128, 200, 208, 240}) {
        for (int64_t value : {int64_t{1}, int64_t{7 * 64}, kMax64, kMin64, int64_t{-1}}) sign(offset, value, 8, nullptr);
    }
    for (int64_t value : {int64_t{0}, int64_t{-1}, int64_t{1}, int64_t{49}, int64_t{1} << 60, kMax64, kMin64}) {
        sign(24, value, 8, "n");
    }
    for (int64_t value : {int64_t{0}, int64_t{-1}, int64_t{1}, int64_t{65}, int64_t{1} << 60, kMax64, kMin64}) {
        sign(32, value, 8, "k");
    }
    for (int64_t value : {int64_t{1}, int64_t{4}, int64_t{5}, int64_t{8}, int64_t{kMin32}}) sign(196, value, 4, "code_bits");
    const char *const fields[] = {"kind", "group_size", "scale_type", "scale_rule", "code_range", "rounding"};
    for (uint64_t i = 0; i < 6; i++) {
        for (int64_t value : {int64_t{-2}, int64_t{100}, int64_t{kMin32}, int64_t{kMax32}}) sign(40 + 4 * i, value, 4, fields[i]);
    }
    for (int64_t value : {int64_t{-1}, int64_t{1}, int64_t{2}, int64_t{kMin32}, int64_t{kMax32}}) sign(192, value, 4, "codebook_scope");
    return table;
}

}  // namespace int4q_test
