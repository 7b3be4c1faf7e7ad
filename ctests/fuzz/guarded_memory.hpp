// SPDX-License-Identifier: Apache-2.0
// What fuzzers share: memory between inaccessible places, and checks that end the process. Free of GoogleTest.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#endif
#endif
#ifndef ASAN_POISON_MEMORY_REGION
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "int4q.h"

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

namespace int4q_fuzz {

// A refusal is one of `statuses`, and the message names an argument that is, or begins as, one of `arguments`.
inline void RequireRefusal(int4q_status status, std::initializer_list<int4q_status> statuses,
                           std::initializer_list<const char *> arguments) {
    REQUIRE(std::find(statuses.begin(), statuses.end(), status) != statuses.end());
    int4q_error error;
    std::memset(&error, 0, sizeof error);
    error.struct_size = sizeof error;
    REQUIRE(int4q_last_error(&error) == INT4Q_OK && error.status == status);
    REQUIRE(error.argument && error.message && std::strstr(error.message, error.argument));
    REQUIRE(std::any_of(arguments.begin(), arguments.end(), [&](const char *argument) {
        const size_t length = std::strlen(argument);
        return std::strncmp(error.argument, argument, length) == 0 && (argument[length - 1] == '.' || error.argument[length] == 0);
    }));
}

// The last byte, rounded up to 64, precedes an inaccessible page. To the address sanitizer all around these bytes is inaccessible.
// From Freeze() on writing is a crash.
class GuardedMemory {
public:
    explicit GuardedMemory(size_t bytes) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), rounded = (bytes + 63) / 64 * 64;
        inner_ = std::max(page, (rounded + page - 1) / page * page);
        mapping_bytes_ = inner_ + page;
        void *memory = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(memory != MAP_FAILED);
        mapping_ = static_cast<uint8_t *>(memory);
        REQUIRE(mprotect(mapping_ + inner_, page, PROT_NONE) == 0);
        data_ = mapping_ + inner_ - rounded;
        ASAN_POISON_MEMORY_REGION(mapping_, inner_ - rounded);
        ASAN_POISON_MEMORY_REGION(data_ + bytes, rounded - bytes);
    }
    ~GuardedMemory() {
        ASAN_UNPOISON_MEMORY_REGION(mapping_, inner_);
        munmap(mapping_, mapping_bytes_);
    }
    GuardedMemory(const GuardedMemory &) = delete;
    GuardedMemory &operator=(const GuardedMemory &) = delete;
    void Freeze() { REQUIRE(mprotect(mapping_, inner_, PROT_READ) == 0); }
    uint8_t *data() { return data_; }

private:
    uint8_t *mapping_;
    uint8_t *data_;
    size_t inner_, mapping_bytes_;
};

}  // namespace int4q_fuzz
