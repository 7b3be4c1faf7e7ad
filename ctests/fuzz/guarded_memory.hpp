// SPDX-License-Identifier: Apache-2.0
// What fuzzers share: memory before an inaccessible page, and checks that end the process. Free of GoogleTest.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

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

// The last byte, rounded up to 64, precedes an inaccessible page. From Freeze() on writing is a crash.
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
    }
    ~GuardedMemory() { munmap(mapping_, mapping_bytes_); }
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
