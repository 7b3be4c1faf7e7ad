// SPDX-License-Identifier: Apache-2.0
//
// C++17 over int4q.h: owners for memory and threads, and exceptions instead of status codes. Header only; what the
// functions do is written in int4q.h. Nothing here allocates inside a product except a Scratch that has to grow.
//
//     auto blob = int4q::pack(int4q::quantize(w, int4q::Scheme::asymmetric(32)));
//     int4q::matmul(INT4Q_MODE_INT8, x, blob, y);
#ifndef INT4Q_HPP
#define INT4Q_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "int4q.h"

namespace int4q {

// A failed call: what int4q_last_error() said. Copying it does not throw.
class Error : public std::runtime_error {
public:
    Error(int4q_status status, const std::string &function, const std::string &argument, const std::string &value,
          const std::string &expected)
        : Error(status, {function, argument, value, expected},
                function + ": " + argument + " is " + value + "; expected " + expected) {}

    // The calling thread's latest failure; `status` is what the call returned.
    static Error last(int4q_status status) {
        int4q_error error{};
        error.struct_size = sizeof error;
        if (int4q_last_error(&error) != INT4Q_OK || error.status != status) {
            return Error(status, {}, int4q_status_string(status));
        }
        return Error(status, {error.function, error.argument, error.value, error.expected}, error.message);
    }

    int4q_status status() const noexcept { return status_; }
    const std::string &function() const noexcept { return (*texts_)[0]; }
    const std::string &argument() const noexcept { return (*texts_)[1]; }
    const std::string &value() const noexcept { return (*texts_)[2]; }
    const std::string &expected() const noexcept { return (*texts_)[3]; }

private:
    using Texts = std::array<std::string, 4>;
    Error(int4q_status status, Texts texts, const std::string &message)
        : std::runtime_error(message), status_(status), texts_(std::make_shared<const Texts>(std::move(texts))) {}

    int4q_status status_;
    std::shared_ptr<const Texts> texts_;
};

inline void check(int4q_status status) {
    if (status != INT4Q_OK) throw Error::last(status);
}

namespace detail {

inline void agree(int64_t value, int64_t expected, const char *function, const char *argument) {
    if (value == expected) return;
    throw Error(INT4Q_ERROR_MISMATCH, function, argument, std::to_string(value), std::to_string(expected));
}

// Zeroed bytes that start at a multiple of INT4Q_ALIGNMENT.
class AlignedBytes {
public:
    AlignedBytes() noexcept = default;
    explicit AlignedBytes(uint64_t bytes) : bytes_(bytes) {
        if (bytes > static_cast<uint64_t>(PTRDIFF_MAX)) throw std::bad_alloc();
        memory_.reset(::operator new(static_cast<size_t>(bytes), std::align_val_t(INT4Q_ALIGNMENT)));
        std::memset(memory_.get(), 0, static_cast<size_t>(bytes));
    }
    AlignedBytes(AlignedBytes &&other) noexcept
        : memory_(std::move(other.memory_)), bytes_(std::exchange(other.bytes_, uint64_t{0})) {}
    AlignedBytes &operator=(AlignedBytes &&other) noexcept {
        memory_ = std::move(other.memory_);
        bytes_ = memory_ ? std::exchange(other.bytes_, bytes_) : 0;
        if (this != &other) other.bytes_ = 0;
        return *this;
    }
    void *data() const noexcept { return memory_.get(); }
    uint64_t bytes() const noexcept { return bytes_; }

private:
    struct Free {
        void operator()(void *p) const noexcept { ::operator delete(p, std::align_val_t(INT4Q_ALIGNMENT)); }
    };
    std::unique_ptr<void, Free> memory_;
    uint64_t bytes_ = 0;
};

}  // namespace detail

// ---- Versions and instruction sets ----------------------------------------------------------------------------------

// Throws unless the loaded library is one that this program was compiled for.
inline void check_abi() { detail::agree(int4q_abi_version(), INT4Q_ABI_VERSION, "check_abi", "int4q_abi_version()"); }

inline int4q_isa detected_isa() {
    int4q_isa isa = INT4Q_ISA_PORTABLE;
    check(int4q_isa_detected(&isa));
    return isa;
}
inline int4q_isa active_isa() {
    int4q_isa isa = INT4Q_ISA_PORTABLE;
    check(int4q_isa_active(&isa));
    return isa;
}
inline void set_isa_limit(int4q_isa limit) { check(int4q_isa_set_limit(limit)); }

// ---- Schemes and matrices -------------------------------------------------------------------------------------------

struct Scheme {
    static constexpr int4q_scheme symmetric(int32_t group_size = 32, int4q_type scale_type = INT4Q_TYPE_F16,
                                            int32_t scale_rule = INT4Q_SCALE_DEFAULT,
                                            int32_t code_range = INT4Q_RANGE_FULL) {
        return {INT4Q_KIND_SYMMETRIC, group_size, scale_type, scale_rule, code_range, INT4Q_ROUNDING_NEAREST_EVEN, {}};
    }
    static constexpr int4q_scheme asymmetric(int32_t group_size = 32, int4q_type scale_type = INT4Q_TYPE_F16) {
        return plain(INT4Q_KIND_ASYMMETRIC, group_size, scale_type);
    }
    static constexpr int4q_scheme offset(int32_t group_size = 32, int4q_type scale_type = INT4Q_TYPE_F16) {
        return plain(INT4Q_KIND_OFFSET, group_size, scale_type);
    }
    static constexpr int4q_scheme codebook(int32_t group_size = 32, int4q_type scale_type = INT4Q_TYPE_F16) {
        return plain(INT4Q_KIND_CODEBOOK, group_size, scale_type);
    }
    static constexpr int4q_scheme ggml_q4_0() { return ggml(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_SIGNED_MAX_8); }
    static constexpr int4q_scheme ggml_q4_1() { return ggml(INT4Q_KIND_OFFSET, INT4Q_SCALE_DEFAULT); }

private:
    static constexpr int4q_scheme plain(int32_t kind, int32_t group_size, int4q_type scale_type) {
        return {kind, group_size, scale_type, INT4Q_SCALE_DEFAULT, INT4Q_RANGE_FULL, INT4Q_ROUNDING_NEAREST_EVEN, {}};
    }
    static constexpr int4q_scheme ggml(int32_t kind, int32_t rule) {
        return {kind, 32, INT4Q_TYPE_F16, rule, INT4Q_RANGE_FULL, INT4Q_ROUNDING_GGML, {}};
    }
};

// Somebody else's row-major matrix; Pointer is const void * (to read) or void * (to write).
template <typename Pointer>
struct BasicMatrix {
    Pointer data = nullptr;
    int4q_type type = INT4Q_TYPE_F32;
    int64_t rows = 0;
    int64_t columns = 0;
    int64_t stride = 0;

    BasicMatrix(Pointer data_, int4q_type type_, int64_t rows_, int64_t columns_)
        : BasicMatrix(data_, type_, rows_, columns_, columns_) {}
    BasicMatrix(Pointer data_, int4q_type type_, int64_t rows_, int64_t columns_, int64_t stride_)
        : data(data_), type(type_), rows(rows_), columns(columns_), stride(stride_) {}

    // All of a vector of floats.
    template <typename Vector, typename = std::enable_if_t<std::is_same_v<std::remove_const_t<Vector>, std::vector<float>>>>
    BasicMatrix(Vector &floats, int64_t rows_, int64_t columns_)
        : BasicMatrix(floats.data(), INT4Q_TYPE_F32, rows_, columns_) {
        const bool fits = rows > 0 && columns > 0 && columns <= INT64_MAX / rows;
        detail::agree(static_cast<int64_t>(floats.size()), fits ? rows * columns : -1, "Matrix", "floats.size()");
    }

    // A matrix to write can be read.
    template <typename Other, typename = std::enable_if_t<std::is_convertible_v<Other, Pointer>>>
    BasicMatrix(const BasicMatrix<Other> &other)
        : BasicMatrix(other.data, other.type, other.rows, other.columns, other.stride) {}
};
using Matrix = BasicMatrix<void *>;
using ConstMatrix = BasicMatrix<const void *>;

}  // namespace int4q

#include "int4q_owners.hpp"

#endif  // INT4Q_HPP
