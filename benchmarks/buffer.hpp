// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace int4q_bench {

constexpr size_t kPageBytes = 4096;

// Memory that starts at a page. Limits and benchmarks both take theirs here, so both get the same kind of pages.
class Buffer {
public:
    explicit Buffer(size_t bytes) : bytes_(bytes) {
        // At least one page: a product may need no scratch.
        const size_t whole_pages = (bytes / kPageBytes + 1) * kPageBytes;
        memory_.reset(static_cast<uint8_t *>(std::aligned_alloc(kPageBytes, whole_pages)));
        if (!memory_) throw std::bad_alloc();
        // Pages never written to are all one page of zeros, which stays in the cache. Writing also takes page faults
        // out of what is measured.
        std::memset(memory_.get(), 1, bytes);
    }

    uint8_t *data() const { return memory_.get(); }
    size_t size() const { return bytes_; }

private:
    struct Free {
        void operator()(uint8_t *memory) const { std::free(memory); }
    };
    std::unique_ptr<uint8_t, Free> memory_;
    size_t bytes_;
};

}  // namespace int4q_bench
