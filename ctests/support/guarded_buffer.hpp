// Memory with an inaccessible page at both ends, so that one byte read or written outside is a crash.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace int4q_test {

enum class Placement {
    kLeft,  // the first byte follows the lower guard page
    kRight  // the last byte (rounded up to the alignment) precedes the upper guard page
};

class GuardedBuffer {
public:
    static constexpr unsigned char kFill = 0xa5;

    GuardedBuffer() = default;

    // Filled with 0xa5. What rounding leaves between the bytes and the guard page is checked when the buffer goes.
    GuardedBuffer(size_t bytes, Placement placement, size_t alignment = 1) : bytes_(bytes) {
        page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        inner_bytes_ = (bytes + page_ - 1) / page_ * page_;
        if (inner_bytes_ == 0) inner_bytes_ = page_;
        void *memory = mmap(nullptr, inner_bytes_ + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            std::perror("mmap");
            std::abort();
        }
        mapping_ = static_cast<unsigned char *>(memory);
        inner_ = mapping_ + page_;
        Protect(PROT_READ | PROT_WRITE);
        std::memset(inner_, kFill, inner_bytes_);
        const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
        data_ = placement == Placement::kLeft ? inner_ : inner_ + (inner_bytes_ - rounded);
    }

    GuardedBuffer(GuardedBuffer &&other) noexcept { Swap(other); }
    GuardedBuffer &operator=(GuardedBuffer &&other) noexcept {
        Swap(other);
        return *this;
    }

    ~GuardedBuffer() {
        if (!mapping_) return;
        Protect(PROT_READ);
        size_t damaged = 0;
        for (const unsigned char *p = inner_; p < data_; p++) damaged += *p != kFill;
        for (const unsigned char *p = data_ + bytes_; p < inner_ + inner_bytes_; p++) damaged += *p != kFill;
        if (damaged) ADD_FAILURE() << damaged << " bytes beside a buffer of " << bytes_ << " were overwritten";
        munmap(mapping_, inner_bytes_ + 2 * page_);
    }

    // From now on a write is a crash.
    void ForbidWriting() { Protect(PROT_READ); }
    void AllowWriting() { Protect(PROT_READ | PROT_WRITE); }

    unsigned char *data() { return bytes_ || mapping_ ? data_ : nullptr; }
    const unsigned char *data() const { return data_; }
    size_t size() const { return bytes_; }

    template <typename T>
    T *as() {
        return reinterpret_cast<T *>(data_);
    }

private:
    void Protect(int protection) {
        if (mprotect(inner_, inner_bytes_, protection) != 0) {
            std::perror("mprotect");
            std::abort();
        }
    }

    void Swap(GuardedBuffer &other) {
        std::swap(mapping_, other.mapping_);
        std::swap(inner_, other.inner_);
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        std::swap(inner_bytes_, other.inner_bytes_);
        std::swap(page_, other.page_);
    }

    unsigned char *mapping_ = nullptr;
    unsigned char *inner_ = nullptr;
    unsigned char *data_ = nullptr;
    size_t bytes_ = 0;
    size_t inner_bytes_ = 0;
    size_t page_ = 0;
};

}  // namespace int4q_test
