// SPDX-License-Identifier: Apache-2.0
//
// C++17 over int4q.h: owners for memory and threads, and exceptions instead of status codes. Header only; what the
// functions do is written in int4q.h. Nothing here allocates inside a product except a Scratch that has to grow.
//
//     auto blob = int4q::pack(int4q::quantize(w, int4q::Scheme::asymmetric(32)));
//     int4q::matmul(INT4Q_MODE_INT8, x, blob, y);
#ifndef INT4Q_HPP
#define INT4Q_HPP

#include <algorithm>
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

}  // namespace detail

// Zeroed memory that starts at a multiple of INT4Q_ALIGNMENT. A product's scratch; matmul() lets it grow.
class Scratch {
public:
    explicit Scratch(uint64_t bytes = 0) { reserve(bytes); }
    void reserve(uint64_t bytes) {  // what was in it is lost if it grows
        if (bytes <= this->bytes()) return;
        if (bytes > static_cast<uint64_t>(PTRDIFF_MAX)) throw std::bad_alloc();
        void *memory = ::operator new(static_cast<size_t>(bytes), std::align_val_t(INT4Q_ALIGNMENT));
        memory_ = Owner(std::memset(memory, 0, static_cast<size_t>(bytes)), Free{bytes});
    }
    void *data() const noexcept { return memory_.get(); }
    uint64_t bytes() const noexcept { return memory_ ? memory_.get_deleter().bytes : 0; }

private:
    struct Free {
        uint64_t bytes;
        void operator()(void *p) const noexcept { ::operator delete(p, std::align_val_t(INT4Q_ALIGNMENT)); }
    };
    using Owner = std::unique_ptr<void, Free>;
    Owner memory_{nullptr, Free{0}};
};

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

struct Scheme {
    static constexpr int4q_scheme symmetric(int32_t group_size = 32, int4q_type scale_type = INT4Q_TYPE_F16,
                                            int32_t rule = INT4Q_SCALE_DEFAULT, int32_t range = INT4Q_RANGE_FULL) {
        return {INT4Q_KIND_SYMMETRIC, group_size, scale_type, rule, range, INT4Q_ROUNDING_NEAREST_EVEN, 0, 0, {}};
    }
    static constexpr int4q_scheme asymmetric(int32_t group_size = 32, int4q_type scale_type = INT4Q_TYPE_F16) {
        return {INT4Q_KIND_ASYMMETRIC, group_size, scale_type, 0, 0, 0, 0, 0, {}};
    }
    static constexpr int4q_scheme offset(int32_t group_size = 32, int4q_type scale_type = INT4Q_TYPE_F16) {
        return {INT4Q_KIND_OFFSET, group_size, scale_type, 0, 0, 0, 0, 0, {}};
    }
    static constexpr int4q_scheme codebook(int32_t group_size = 32, int4q_type scale_type = INT4Q_TYPE_F16,
                                           int32_t rule = INT4Q_SCALE_DEFAULT, int32_t rounding = INT4Q_ROUNDING_NEAREST_EVEN,
                                           int32_t scope = INT4Q_CODEBOOK_PER_TENSOR) {
        return {INT4Q_KIND_CODEBOOK, group_size, scale_type, rule, 0, rounding, scope, 0, {}};
    }
    static constexpr int4q_scheme ggml_q4_0() {
        return {INT4Q_KIND_SYMMETRIC, 32, INT4Q_TYPE_F16, INT4Q_SCALE_SIGNED_MAX_8, 0, INT4Q_ROUNDING_GGML, 0, 0, {}};
    }
    static constexpr int4q_scheme ggml_q4_1() {
        return {INT4Q_KIND_OFFSET, 32, INT4Q_TYPE_F16, 0, 0, INT4Q_ROUNDING_GGML, 0, 0, {}};
    }
    static constexpr int4q_scheme mlx(int32_t group_size = 64, int4q_type scale_type = INT4Q_TYPE_F16) {
        return {INT4Q_KIND_OFFSET, group_size, scale_type, 0, 0, INT4Q_ROUNDING_MLX, 0, 0, {}};
    }
    // With codes of a byte: symmetric, asymmetric or offset.
    static constexpr int4q_scheme eight_bits(int4q_scheme scheme) {
        scheme.code_bits = 8;
        return scheme;
    }
    static constexpr int4q_scheme binary(int32_t group_size = 128, int4q_type scale_type = INT4Q_TYPE_F16) {
        return {INT4Q_KIND_BINARY, group_size, scale_type, 0, 0, 0, 0, 0, {}};
    }
    static constexpr int4q_scheme ternary(int32_t group_size = 128, int4q_type scale_type = INT4Q_TYPE_F16,
                                          int32_t rule = INT4Q_SCALE_DEFAULT) {
        return {INT4Q_KIND_TERNARY, group_size, scale_type, rule, 0, 0, 0, 0, {}};
    }
};

// How many values the codebook of an n-row matrix has: 16, 16 for each row, or none.
constexpr int64_t codebook_entries(const int4q_scheme &scheme, int64_t n) {
    if (scheme.kind != INT4Q_KIND_CODEBOOK) return 0;
    return scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW ? 16 * n : 16;
}

// Somebody else's row-major matrix; Pointer is const void * (to read) or void * (to write).
template <typename Pointer>
struct BasicMatrix {
    Pointer data;
    int4q_type type;
    int64_t rows, columns, stride;

    // stride_ 0: rows follow one another without gaps.
    BasicMatrix(Pointer data_, int4q_type type_, int64_t rows_, int64_t columns_, int64_t stride_ = 0)
        : data(data_), type(type_), rows(rows_), columns(columns_), stride(stride_ ? stride_ : columns_) {}
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

// A pool of threads; the calling thread works too.
class Pool {
public:
    explicit Pool(uint32_t workers) : workers_(workers) {
        int4q_pool *pool = nullptr;
        check(int4q_pool_create(workers, &pool));
        pool_.reset(pool);
    }
    int4q_pool *get() const noexcept { return pool_.get(); }
    uint32_t worker_count() const noexcept { return workers_; }

    // body(index, worker) for each index. If bodies throw, all still run and the lowest index's exception comes out.
    template <typename Body>
    void parallel_for(int64_t count, Body &&body) {
        struct Job {
            std::remove_reference_t<Body> &body;
            std::mutex mutex{};
            std::exception_ptr error{};
            int64_t index = 0;
        } job{body};
        const auto task = [](void *context, int64_t index, uint32_t worker) {
            Job &mine = *static_cast<Job *>(context);
            try {
                mine.body(index, worker);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(mine.mutex);
                if (!mine.error || index < mine.index) mine.error = std::current_exception(), mine.index = index;
            }
        };
        int4q_pool_parallel_for(get(), count, worker_count(), task, &job);
        if (job.error) std::rethrow_exception(job.error);
    }

private:
    struct Destroy {
        void operator()(int4q_pool *pool) const noexcept { int4q_pool_destroy(pool); }
    };
    std::unique_ptr<int4q_pool, Destroy> pool_;
    uint32_t workers_;
};

class Tensor {
public:
    // Zeroed. `codebook_` has 16 values for INT4Q_KIND_CODEBOOK (n times 16 with INT4Q_CODEBOOK_PER_ROW), none for others.
    Tensor(const int4q_scheme &scheme_, int64_t n_, int64_t k_, std::vector<float> codebook_ = {})
        : scheme(scheme_), n(n_), k(k_), codebook(std::move(codebook_)) {
        int4q_tensor_layout sizes{};
        sizes.struct_size = sizeof sizes;
        check(int4q_tensor_sizes(&scheme, n, k, &sizes));
        detail::agree(static_cast<int64_t>(codebook.size()), codebook_entries(scheme, n), "Tensor", "codebook.size()");
        codes.resize(sizes.codes_bytes), scales.resize(sizes.scales_bytes);
        zero_points.resize(sizes.zero_points_bytes), offsets.resize(sizes.offsets_bytes);
    }
    // Valid until the vectors change or go.
    int4q_tensor view() {
        return {sizeof(int4q_tensor), 0, scheme, n, k, at(codes), codes.size(), at(scales), scales.size(),
                at(zero_points), zero_points.size(), at(offsets), offsets.size(), at(codebook)};
    }
    // To be read only.
    int4q_tensor view() const { return const_cast<Tensor *>(this)->view(); }

    void dequantize(Matrix out) const {
        detail::agree(out.rows, n, "Tensor::dequantize", "out.rows");
        detail::agree(out.columns, k, "Tensor::dequantize", "out.columns");
        const int4q_tensor tensor = view();
        check(int4q_dequantize_rows(&tensor, out.data, out.type, out.stride, 0, n));
    }

    int4q_scheme scheme;
    int64_t n, k;
    std::vector<unsigned char> codes, scales, zero_points, offsets;
    std::vector<float> codebook;

private:
    template <typename T>
    static T *at(std::vector<T> &values) { return values.empty() ? nullptr : values.data(); }
};

// A packed matrix: its own bytes, or (map) somebody else's, such as a mapped file's, which must outlive it.
class Blob {
public:
    Blob(const int4q_scheme &scheme, int64_t n, int64_t k) {
        check(int4q_blob_size(&scheme, n, k, &bytes_));
        own_.reserve(bytes_);
    }
    static Blob map(const void *data, uint64_t bytes, int32_t validate_level = INT4Q_VALIDATE_FULL) {
        check(int4q_blob_validate(data, bytes, validate_level));
        return Blob(data, bytes);
    }
    Blob(Blob &&) noexcept = default;
    Blob &operator=(Blob &&) noexcept = default;

    const void *data() const noexcept { return own_.data() ? own_.data() : mapped_; }  // null once moved from
    uint64_t bytes() const noexcept { return bytes_; }
    void *writable() noexcept { return own_.data(); }  // null for mapped memory
    void validate(int32_t level = INT4Q_VALIDATE_FULL) const { check(int4q_blob_validate(data(), bytes_, level)); }

    int4q_blob_info info() const {
        int4q_blob_info info{};
        info.struct_size = sizeof info;
        check(int4q_blob_get_info(data(), bytes_, &info));
        return info;
    }
    // Puts parts behind the blocks, in place of those that are there; none takes those away. The bytes may get a new address, and
    // mapped ones become this blob's own. `parts` must not point into this blob.
    void attach(const int4q_parts &parts) {
        const int4q_blob_info about = info();
        uint64_t more = 0;
        check(int4q_blob_parts_size(about.n, about.k, &parts, &more));
        const uint64_t needed = std::max(about.total_bytes, about.total_bytes - about.parts_bytes + more);
        if (own_.bytes() < needed) {
            Scratch larger(needed);
            std::memcpy(larger.data(), data(), static_cast<size_t>(about.total_bytes));
            own_ = std::move(larger), mapped_ = nullptr;
        }
        check(int4q_blob_attach(own_.data(), own_.bytes(), &parts));
        bytes_ = own_.bytes();
        bytes_ = info().total_bytes;
    }
    // Pointers into the blob.
    int4q_parts parts() const {
        int4q_parts parts{};
        parts.struct_size = sizeof parts;
        check(int4q_blob_get_parts(data(), bytes_, &parts));
        return parts;
    }
    // Rows of the matrix that products multiply by, in x's channel order, whether there are parts or not.
    void gather(const std::vector<int64_t> &rows, Matrix out) const {
        const int4q_blob_info about = info();
        detail::agree(out.rows, static_cast<int64_t>(rows.size()), "Blob::gather", "out.rows");
        detail::agree(out.columns, about.k, "Blob::gather", "out.columns");
        Scratch room(8 * ((static_cast<uint64_t>(about.k) + 15) / 16 * 16));
        check(int4q_gather_effective_rows(data(), bytes_, rows.data(), out.rows, out.data, out.type, out.stride, room.data(),
                                          room.bytes()));
    }
    Tensor unpack() const {
        const int4q_blob_info about = info();
        std::vector<float> codebook(static_cast<size_t>(codebook_entries(about.scheme, about.n)));
        if (about.scheme.codebook_scope == INT4Q_CODEBOOK_PER_ROW) {
            check(int4q_blob_codebooks(data(), bytes_, codebook.data(), 0, about.n));
        } else {
            std::copy_n(about.codebook, codebook.size(), codebook.begin());
        }
        Tensor result(about.scheme, about.n, about.k, std::move(codebook));
        const int4q_tensor tensor = result.view();
        check(int4q_unpack_rows(data(), bytes_, &tensor, 0, about.n));
        return result;
    }

private:
    Blob(const void *data, uint64_t bytes) noexcept : mapped_(data), bytes_(bytes) {}
    Scratch own_;
    const void *mapped_ = nullptr;
    uint64_t bytes_ = 0;
};

class Plan {
public:
    explicit Plan(const int4q_matmul_desc &description) : desc(description) { check(int4q_matmul_plan_init(&desc, &plan)); }
    Plan(int4q_compute_mode mode, int64_t m, const Blob &blob, uint32_t workers = 1, int4q_type x_type = INT4Q_TYPE_F32,
         int4q_type y_type = INT4Q_TYPE_F32)
        : Plan(describe(mode, m, blob.info(), workers, x_type, y_type)) {}

    static int4q_matmul_desc describe(int4q_compute_mode mode, int64_t m, const int4q_blob_info &w, uint32_t workers,
                                      int4q_type x_type, int4q_type y_type) {
        int4q_matmul_desc desc{};
        desc.struct_size = sizeof desc;
        desc.mode = mode;
        desc.m = m, desc.n = w.n, desc.k = w.k;
        desc.scheme = w.scheme;
        desc.x_type = x_type, desc.y_type = y_type;
        desc.worker_count = workers;
        desc.part_flags = w.part_flags, desc.part_rank = w.part_rank;
        return desc;
    }
    int4q_matmul_desc desc;
    int4q_matmul_plan plan{};
};

namespace detail {
// The rows 0..n-1 in blocks of INT4Q_BLOB_BLOCK_ROWS over the pool's threads, or at once on this one.
template <typename Rows>
void split_rows(int64_t n, Pool *pool, Rows rows) {
    if (!pool) return rows(int64_t{0}, n);
    const int64_t block = INT4Q_BLOB_BLOCK_ROWS;
    pool->parallel_for((n - 1) / block + 1, [&](int64_t i, uint32_t) { rows(i * block, std::min(n, (i + 1) * block)); });
}
}  // namespace detail

// Into a tensor that is there; with INT4Q_SCALE_GIVEN its scales (zero points, offsets) must be filled in.
inline void quantize(ConstMatrix w, Tensor &target, Pool *pool = nullptr) {
    detail::agree(w.rows, target.n, "quantize", "w.rows");
    detail::agree(w.columns, target.k, "quantize", "w.columns");
    const int4q_tensor tensor = target.view();
    detail::split_rows(w.rows, pool, [&](int64_t begin, int64_t end) {
        check(int4q_quantize_rows(&tensor, w.data, w.type, w.stride, begin, end));
    });
}

// With scales of its own: not for INT4Q_SCALE_GIVEN.
inline Tensor quantize(ConstMatrix w, const int4q_scheme &scheme, std::vector<float> codebook = {}, Pool *pool = nullptr) {
    if (scheme.scale_rule == INT4Q_SCALE_GIVEN) {
        throw Error(INT4Q_ERROR_INVALID_ARGUMENT, "quantize", "scheme.scale_rule", "INT4Q_SCALE_GIVEN", "a tensor with scales to quantize into");
    }
    Tensor result(scheme, w.rows, w.columns, std::move(codebook));
    quantize(w, result, pool);
    return result;
}

inline Blob pack(const Tensor &source, Pool *pool = nullptr) {
    Blob blob(source.scheme, source.n, source.k);
    const int4q_tensor tensor = source.view();
    detail::split_rows(source.n, pool, [&](int64_t begin, int64_t end) {
        check(int4q_pack_rows(&tensor, blob.writable(), blob.bytes(), begin, end));
    });
    return blob;
}

// Straight from floats to a blob, without a tensor between.
inline Blob quantize_pack(ConstMatrix w, const int4q_scheme &scheme, const std::vector<float> &codebook = {}, Pool *pool = nullptr) {
    Blob blob(scheme, w.rows, w.columns);
    detail::agree(static_cast<int64_t>(codebook.size()), codebook_entries(scheme, w.rows), "quantize_pack", "codebook.size()");
    const float *values = codebook.empty() ? nullptr : codebook.data();
    detail::split_rows(w.rows, pool, [&](int64_t begin, int64_t end) {
        check(int4q_quantize_pack_rows(&scheme, w.rows, w.columns, values, w.data, w.type, w.stride, blob.writable(),
                                       blob.bytes(), begin, end));
    });
    return blob;
}

// The memory of a product, for plans with fields that matmul() has no parameter for (bias, residual, up_blob, ...).
inline int4q_matmul_args arguments(const Plan &plan, ConstMatrix x, const Blob &blob, Matrix y, Scratch &scratch) {
    const int4q_matmul_desc &d = plan.desc;
    detail::agree(x.rows, d.m, "matmul", "x.rows"), detail::agree(x.columns, d.k, "matmul", "x.columns");
    detail::agree(y.rows, d.m, "matmul", "y.rows"), detail::agree(y.columns, d.n, "matmul", "y.columns");
    detail::agree(x.type, d.x_type, "matmul", "x.type"), detail::agree(y.type, d.y_type, "matmul", "y.type");
    scratch.reserve(plan.plan.scratch_bytes);
    int4q_matmul_args args{};
    args.struct_size = sizeof args;
    args.x = x.data, args.ldx = x.stride;
    args.blob = blob.data(), args.blob_bytes = blob.bytes();
    args.y = y.data, args.ldy = y.stride;
    args.scratch = scratch.data(), args.scratch_bytes = scratch.bytes();
    return args;
}

inline void matmul(const Plan &plan, const int4q_matmul_args &args, Pool *pool = nullptr) {
    check(int4q_matmul(&plan.plan, &args, pool ? int4q_pool_parallel_for : nullptr, pool ? pool->get() : nullptr));
}

inline void matmul(const Plan &plan, ConstMatrix x, const Blob &blob, Matrix y, Scratch &scratch, Pool *pool = nullptr) {
    matmul(plan, arguments(plan, x, blob, y, scratch), pool);
}

// With a plan and scratch memory for this one product.
inline void matmul(int4q_compute_mode mode, ConstMatrix x, const Blob &blob, Matrix y, Pool *pool = nullptr) {
    Scratch scratch;
    matmul(Plan(mode, x.rows, blob, pool ? pool->worker_count() : 1, x.type, y.type), x, blob, y, scratch, pool);
}

inline int4q_metrics compare(ConstMatrix reference, ConstMatrix candidate) {
    detail::agree(candidate.rows, reference.rows, "compare", "candidate.rows");
    detail::agree(candidate.columns, reference.columns, "compare", "candidate.columns");
    int4q_metrics metrics{};
    metrics.struct_size = sizeof metrics;
    check(int4q_compare(reference.data, reference.type, reference.stride, candidate.data, candidate.type,
                        candidate.stride, reference.rows, reference.columns, &metrics));
    return metrics;
}

// ---- Integer-only inference ----

// From int32 sums of n columns to codes: M = s_x s_w / s_y, one or n of them, a bias, and the limits of the codes' type.
class Requantizer {
public:
    Requantizer(int32_t codes_type, int64_t n, const std::vector<double> &values, std::vector<int32_t> bias = {},
                int32_t zero_point = 0)
        : multipliers_(values.size()), shifts_(values.size()), bias_(std::move(bias)) {
        check(int4q_requantize_multiplier(values.data(), static_cast<int64_t>(values.size()), multipliers_.data(), shifts_.data()));
        if (!bias_.empty()) detail::agree(static_cast<int64_t>(bias_.size()), n, "Requantizer", "bias.size()");
        raw_.struct_size = sizeof raw_;
        raw_.codes_type = codes_type;
        raw_.n = n;
        raw_.multiplier_count = static_cast<int64_t>(values.size());
        raw_.zero_point = zero_point;
        const int32_t lows[] = {-128, 0, -8, 0, INT32_MIN}, highs[] = {127, 255, 7, 15, INT32_MAX};
        if (codes_type < INT4Q_CODES_INT8 || codes_type > INT4Q_CODES_INT32) return;  // the first call will say so
        raw_.low = lows[codes_type - 1], raw_.high = highs[codes_type - 1];
    }
    void limit(int32_t low, int32_t high) noexcept { raw_.low = low, raw_.high = high; }  // low = zero_point: ReLU
    // Valid as long as this object is neither changed nor gone.
    int4q_requantization view() const noexcept {
        int4q_requantization result = raw_;
        result.multipliers = multipliers_.data(), result.shifts = shifts_.data();
        result.bias = bias_.empty() ? nullptr : bias_.data();
        return result;
    }
    // sums[m][n] without gaps to codes; code_bytes as int4q_requantize_rows() says.
    void run(const int32_t *sums, int64_t m, void *codes, uint64_t codes_bytes, Pool *pool = nullptr) const {
        const int4q_requantization how = view();
        detail::split_rows(m, pool, [&](int64_t begin, int64_t end) {
            check(int4q_requantize_rows(&how, sums, how.n, m, codes, codes_bytes, begin, end));
        });
    }

private:
    std::vector<int32_t> multipliers_, shifts_, bias_;
    int4q_requantization raw_{};
};

// ---- Samples to calibrate with ----

// n of 0..count-1, ascending.
inline std::vector<int64_t> select_random(int64_t count, int64_t n, uint64_t seed = 0) {
    std::vector<int64_t> indices(static_cast<size_t>(std::max<int64_t>(n, 0)));
    check(int4q_select_random(count, n, seed, indices.data()));
    return indices;
}

struct Representatives {
    std::vector<int64_t> indices, sizes;  // rows, ascending, and how many rows each stands for
    std::vector<int32_t> labels;          // the place in `indices` of each row's cluster
    int4q_representatives summary{};
};

// k-means; the row nearest to each of n centroids.
inline Representatives select_representatives(ConstMatrix features, int64_t n, uint64_t seed = 0, int64_t max_iterations = 300) {
    uint64_t bytes = 0;
    check(int4q_select_representatives_scratch(features.rows, features.columns, n, &bytes));
    const Scratch scratch(bytes);
    int4q_clustering clustering{};
    clustering.struct_size = sizeof clustering;
    clustering.clusters = n, clustering.max_iterations = max_iterations, clustering.seed = seed;
    Representatives result;
    result.indices.resize(static_cast<size_t>(n)), result.sizes.resize(static_cast<size_t>(n));
    result.labels.resize(static_cast<size_t>(features.rows));
    result.summary.struct_size = sizeof result.summary;
    check(int4q_select_representatives(&clustering, features.data, features.type, features.rows, features.columns, features.stride,
                                       scratch.data(), scratch.bytes(), result.indices.data(), result.sizes.data(),
                                       result.labels.data(), &result.summary));
    result.indices.resize(static_cast<size_t>(result.summary.selected));
    result.sizes.resize(static_cast<size_t>(result.summary.selected));
    return result;
}

// Counts of values in bins of equal width, and the ranges that they suggest.
struct Histogram {
    std::vector<int64_t> counts;
    double lowest = 0, width = 1;
    float low = 0, high = 0;

    int4q_histogram view() const {  // valid until counts change or go
        return {sizeof(int4q_histogram), 0, counts.data(), static_cast<int64_t>(counts.size()), lowest, width, low, high};
    }
    int4q_range percentile(double percent, int32_t form = INT4Q_HISTOGRAM_SIGNED) const {
        return range([&](const int4q_histogram *h, int4q_range *r) { return int4q_range_percentile(h, form, percent, r); });
    }
    int4q_range entropy(int64_t quantized_bins) const {
        uint64_t bytes = 0;
        check(int4q_range_entropy_scratch(static_cast<int64_t>(counts.size()), &bytes));
        const Scratch scratch(bytes);
        return range([&](const int4q_histogram *h, int4q_range *r) {
            return int4q_range_entropy(h, quantized_bins, scratch.data(), scratch.bytes(), r);
        });
    }
    int4q_range least_error(int4q_range_search search) const {  // struct_size need not be set
        search.struct_size = sizeof search;
        return range([&](const int4q_histogram *h, int4q_range *r) { return int4q_range_of_least_error(h, &search, r); });
    }

private:
    template <typename Find>
    int4q_range range(Find find) const {
        const int4q_histogram histogram = view();
        int4q_range result{};
        check(find(&histogram, &result));
        return result;
    }
};

// Statistics of batches: push, merge with those of other threads and machines, save data()[bytes()] and load it again.
class Observer {
public:
    static int4q_observer_desc describe(uint32_t observed, int32_t axis = INT4Q_AXIS_TENSOR, int64_t extent = 0, int64_t bins = 2048,
                                        int32_t group_size = 0, float momentum = 0.01f) {
        int4q_observer_desc desc{};
        desc.struct_size = sizeof desc;
        desc.observed = observed;
        desc.axis = axis, desc.extent = extent, desc.group_size = group_size;
        desc.bins = observed & INT4Q_OBSERVE_HISTOGRAM ? bins : 0;
        desc.momentum = observed & INT4Q_OBSERVE_AVERAGE ? momentum : 0;
        return desc;
    }
    explicit Observer(const int4q_observer_desc &desc) {
        uint64_t bytes = 0;
        check(int4q_observer_size(&desc, &bytes));
        memory_.reserve(bytes);
        check(int4q_observer_init(&desc, memory_.data(), memory_.bytes()));
    }
    static Observer load(const void *data, uint64_t bytes) {  // a copy, validated
        Scratch memory(bytes);
        if (bytes) std::memcpy(memory.data(), data, static_cast<size_t>(bytes));
        check(int4q_observer_validate(memory.data(), bytes));
        return Observer(std::move(memory));
    }
    const void *data() const noexcept { return memory_.data(); }  // null once moved from
    uint64_t bytes() const noexcept { return memory_.bytes(); }

    void push(ConstMatrix x) {
        check(int4q_observer_push(memory_.data(), memory_.bytes(), x.data, x.type, x.rows, x.columns, x.stride));
    }
    void merge(const Observer &other) {
        check(int4q_observer_merge(memory_.data(), memory_.bytes(), other.data(), other.bytes()));
    }
    int4q_observer_info info() const {
        int4q_observer_info info{};
        info.struct_size = sizeof info;
        check(int4q_observer_get_info(data(), bytes(), &info));
        return info;
    }
    std::vector<int4q_statistics> statistics() const {
        std::vector<int4q_statistics> all(static_cast<size_t>(info().slots));
        check(int4q_observer_statistics(data(), bytes(), 0, static_cast<int64_t>(all.size()), all.data()));
        return all;
    }
    Histogram histogram(int64_t slot = 0, int32_t form = INT4Q_HISTOGRAM_SIGNED) const {
        Histogram result;
        result.counts.resize(static_cast<size_t>(info().desc.bins * (form == INT4Q_HISTOGRAM_SIGNED ? 2 : 1)));
        int4q_histogram about{};
        about.struct_size = sizeof about;
        check(int4q_observer_histogram(data(), bytes(), slot, form, result.counts.data(), static_cast<int64_t>(result.counts.size()),
                                       &about));
        result.lowest = about.lowest, result.width = about.width, result.low = about.low, result.high = about.high;
        return result;
    }

private:
    explicit Observer(Scratch memory) noexcept : memory_(std::move(memory)) {}
    Scratch memory_;
};

namespace detail {

// The last arguments of calls that spread their work themselves.
struct Workers {
    explicit Workers(Pool *pool)
        : count(pool ? pool->worker_count() : 1), parallel_for(pool ? int4q_pool_parallel_for : nullptr),
          host(pool ? pool->get() : nullptr) {}
    uint32_t count;
    int4q_parallel_for parallel_for;
    void *host;
};

// rows(begin, end, block, scratch) for blocks of rows, each worker with scratch of its own.
template <typename Rows>
void split_rows_with_scratch(int64_t n, Pool *pool, uint64_t bytes, Rows rows) {
    const int64_t block = pool ? INT4Q_BLOB_BLOCK_ROWS : n;
    std::vector<Scratch> scratch(pool ? pool->worker_count() : 1);
    const auto run = [&](int64_t i, uint32_t worker) {
        Scratch &own = scratch[worker];
        own.reserve(bytes);
        rows(i * block, std::min(n, (i + 1) * block), i, own);
    };
    if (!pool) return run(0, 0);
    pool->parallel_for((n - 1) / block + 1, run);
}

// What Gram and cross matrices have in common. Save data()[bytes()], and load it again.
class RowSums {
public:
    void *data() const noexcept { return memory_.data(); }  // null once moved from
    uint64_t bytes() const noexcept { return memory_.bytes(); }

    int64_t k = 0;

protected:
    using Size = int4q_status (*)(int64_t, uint64_t *);
    using Init = int4q_status (*)(int64_t, void *, uint64_t);
    using Validate = int4q_status (*)(const void *, uint64_t);
    using Info = int4q_status (*)(const void *, uint64_t, int4q_gram_info *);
    using Read = int4q_status (*)(const void *, uint64_t, double *, int64_t, int64_t, int64_t);

    RowSums(int64_t k_, Size size, Init init) : k(k_) {
        uint64_t bytes = 0;
        check(size(k, &bytes));
        memory_.reserve(bytes);
        check(init(k, data(), bytes));
    }
    RowSums(const void *saved, uint64_t bytes, Validate validate, Info info) : memory_(bytes) {  // a copy, validated
        if (bytes) std::memcpy(memory_.data(), saved, static_cast<size_t>(bytes));
        check(validate(data(), bytes));
        k = about(info).k;
    }
    int4q_gram_info about(Info get) const {
        int4q_gram_info info{};
        info.struct_size = sizeof info;
        check(get(data(), bytes(), &info));
        return info;
    }
    std::vector<double> square(Read read) const {
        std::vector<double> all(static_cast<size_t>(k) * static_cast<size_t>(k));
        check(read(data(), bytes(), all.data(), k, 0, k));
        return all;
    }
    Scratch &scratch(Size size) {
        uint64_t bytes = 0;
        check(size(k, &bytes));
        scratch_.reserve(bytes);
        return scratch_;
    }

private:
    Scratch memory_, scratch_;
};

}  // namespace detail

// What a layer's inputs are like: sums of products of their channels.
class Gram : public detail::RowSums {
public:
    explicit Gram(int64_t k_) : RowSums(k_, int4q_gram_size, int4q_gram_init) {}
    static Gram load(const void *data, uint64_t bytes) { return Gram(data, bytes); }
    // What another program has computed: matrix[k][k] without gaps, of which the upper triangle is read.
    static Gram of(const std::vector<double> &matrix, int64_t k_, int64_t rows) {
        Gram gram(k_);
        detail::agree(static_cast<int64_t>(matrix.size()), k_ * k_, "Gram::of", "matrix.size()");
        check(int4q_gram_set(gram.data(), gram.bytes(), matrix.data(), k_, rows));
        return gram;
    }
    void push(ConstMatrix x, Pool *pool = nullptr) {
        const Scratch &room = scratch(int4q_gram_push_scratch);
        const detail::Workers workers(pool);
        check(int4q_gram_push(data(), bytes(), x.data, x.type, x.rows, x.columns, x.stride, room.data(), room.bytes(),
                              workers.count, workers.parallel_for, workers.host));
    }
    // With a weight for each row.
    void push(ConstMatrix x, const std::vector<float> &weights, Pool *pool = nullptr) {
        detail::agree(static_cast<int64_t>(weights.size()), x.rows, "Gram::push", "weights");
        const Scratch &room = scratch(int4q_gram_push_scratch);
        const detail::Workers workers(pool);
        check(int4q_gram_push_weighted(data(), bytes(), x.data, x.type, x.rows, x.columns, x.stride, weights.data(), room.data(),
                                       room.bytes(), workers.count, workers.parallel_for, workers.host));
    }
    void merge(const Gram &other) { check(int4q_gram_merge(data(), bytes(), other.data(), other.bytes())); }
    // As if rows had this weight more; products of different channels then times 1 - shrinkage.
    void scale(double weight, double shrinkage = 0) { check(int4q_gram_scale(data(), bytes(), weight, shrinkage)); }
    int4q_gram_info info() const { return about(int4q_gram_get_info); }
    std::vector<double> matrix() const { return square(int4q_gram_matrix); }  // [k][k]
    std::vector<int4q_channel> channels() const {
        std::vector<int4q_channel> all(static_cast<size_t>(k));
        check(int4q_gram_channels(data(), bytes(), 0, k, all.data()));
        return all;
    }
    // For each row of w what quantizing it does to the layer's output.
    std::vector<double> loss(const Tensor &tensor, ConstMatrix w, Pool *pool = nullptr) const {
        detail::agree(w.rows, tensor.n, "Gram::loss", "w.rows"), detail::agree(w.columns, tensor.k, "Gram::loss", "w.columns");
        uint64_t needed = 0;
        check(int4q_gram_loss_scratch(w.columns, &needed));
        std::vector<double> losses(static_cast<size_t>(w.rows));
        const int4q_tensor raw = tensor.view();
        detail::split_rows_with_scratch(w.rows, pool, needed, [&](int64_t begin, int64_t end, int64_t, const Scratch &room) {
            check(int4q_gram_loss(&raw, w.data, w.type, w.stride, data(), bytes(), room.data(), room.bytes(), losses.data(), begin,
                                  end));
        });
        return losses;
    }

private:
    Gram(const void *data, uint64_t bytes) : RowSums(data, bytes, int4q_gram_validate, int4q_gram_get_info) {}
};

// What quantizing the layers before has done to a layer's inputs. Goes with the Gram matrix of the inputs in the quantized model.
class Cross : public detail::RowSums {
public:
    explicit Cross(int64_t k_) : RowSums(k_, int4q_cross_size, int4q_cross_init) {}
    static Cross load(const void *data, uint64_t bytes) { return Cross(data, bytes); }
    static Cross of(const std::vector<double> &matrix, int64_t k_, int64_t rows) {
        Cross cross(k_);
        detail::agree(static_cast<int64_t>(matrix.size()), k_ * k_, "Cross::of", "matrix.size()");
        check(int4q_cross_set(cross.data(), cross.bytes(), matrix.data(), k_, rows));
        return cross;
    }
    // x: of the float model; y: the same rows of the quantized one.
    void push(ConstMatrix x, ConstMatrix y, Pool *pool = nullptr) {
        detail::agree(y.rows, x.rows, "Cross::push", "y.rows"), detail::agree(y.columns, x.columns, "Cross::push", "y.columns");
        const Scratch &room = scratch(int4q_cross_push_scratch);
        const detail::Workers workers(pool);
        check(int4q_cross_push(data(), bytes(), x.data, x.type, x.stride, y.data, y.type, y.stride, x.rows, x.columns, room.data(),
                               room.bytes(), workers.count, workers.parallel_for, workers.host));
    }
    void merge(const Cross &other) { check(int4q_cross_merge(data(), bytes(), other.data(), other.bytes())); }
    int4q_gram_info info() const { return about(int4q_cross_get_info); }
    std::vector<double> matrix() const { return square(int4q_cross_matrix); }  // [k][k]
    std::vector<double> loss(const Tensor &tensor, ConstMatrix w, const Gram &gram, Pool *pool = nullptr) const {
        detail::agree(w.rows, tensor.n, "Cross::loss", "w.rows"), detail::agree(w.columns, tensor.k, "Cross::loss", "w.columns");
        uint64_t needed = 0;
        check(int4q_cross_loss_scratch(w.columns, &needed));
        std::vector<double> losses(static_cast<size_t>(w.rows));
        const int4q_tensor raw = tensor.view();
        detail::split_rows_with_scratch(w.rows, pool, needed, [&](int64_t begin, int64_t end, int64_t, const Scratch &room) {
            check(int4q_cross_loss(&raw, w.data, w.type, w.stride, gram.data(), gram.bytes(), data(), bytes(), room.data(),
                                   room.bytes(), losses.data(), begin, end));
        });
        return losses;
    }

private:
    Cross(const void *data, uint64_t bytes) : RowSums(data, bytes, int4q_cross_validate, int4q_cross_get_info) {}
};

// Usual damping; the worker count is set by the functions that take them.
inline int4q_gptq_options gptq_options() {
    int4q_gptq_options options{};
    options.struct_size = sizeof options;
    options.damping = 0.01, options.damping_step = 0.0025, options.attempts = 20;
    return options;
}

// For GPTAQ (alpha 0.25 in the authors' program) or shift(); valid as long as the cross matrix is.
inline int4q_gptq_options gptq_options(const Cross &cross, double alpha) {
    int4q_gptq_options options = gptq_options();
    options.cross = cross.data(), options.cross_bytes = cross.bytes(), options.alpha = alpha;
    return options;
}

inline Tensor gptq(ConstMatrix w, const Gram &gram, const int4q_scheme &scheme, std::vector<float> codebook = {},
                   Pool *pool = nullptr, int4q_gptq_options options = gptq_options(), int4q_gptq_report *report = nullptr) {
    Tensor result(scheme, w.rows, w.columns, std::move(codebook));
    const detail::Workers workers(pool);
    options.worker_count = workers.count;
    uint64_t bytes = 0;
    check((options.cross ? int4q_gptq_cross_scratch : int4q_gptq_scratch)(&scheme, w.columns, workers.count, &bytes));
    const Scratch scratch(bytes);
    int4q_gptq_report own{};
    own.struct_size = sizeof own;
    const int4q_tensor tensor = result.view();
    check(int4q_gptq_quantize(&tensor, w.data, w.type, w.stride, gram.data(), gram.bytes(), &options, scratch.data(),
                              scratch.bytes(), workers.parallel_for, workers.host, report ? report : &own));
    return result;
}

// Weights whose outputs for the quantized model's inputs are nearest to those that w had. Returns the damping that was used.
inline double shift(ConstMatrix w, Matrix shifted, const Gram &gram, int4q_gptq_options options, Pool *pool = nullptr) {
    detail::agree(shifted.rows, w.rows, "shift", "shifted.rows");
    detail::agree(shifted.columns, w.columns, "shift", "shifted.columns");
    const detail::Workers workers(pool);
    options.worker_count = workers.count;
    uint64_t bytes = 0;
    check(int4q_cross_shift_scratch(w.columns, workers.count, &bytes));
    const Scratch scratch(bytes);
    double damping = 0;
    check(int4q_cross_shift(w.data, w.type, w.stride, gram.data(), gram.bytes(), &options, scratch.data(), scratch.bytes(),
                            workers.parallel_for, workers.host, shifted.data, shifted.type, shifted.stride, w.rows, w.columns,
                            &damping));
    return damping;
}

// ---- Methods around quantizers ----

// Raises maxima, one for each column, to the largest |w|; for matrices that share their input by further calls.
inline void column_maxima(ConstMatrix w, std::vector<float> &maxima) {
    if (maxima.empty()) maxima.resize(static_cast<size_t>(std::max<int64_t>(w.columns, 0)));
    detail::agree(static_cast<int64_t>(maxima.size()), w.columns, "column_maxima", "maxima.size()");
    check(int4q_column_maxima(w.data, w.type, w.rows, w.columns, w.stride, maxima.data()));
}

// SmoothQuant's: weights are multiplied by them, inputs divided.
inline std::vector<float> smooth_factors(const std::vector<float> &x_maxima, const std::vector<float> &weight_maxima,
                                         double alpha = 0.5) {
    detail::agree(static_cast<int64_t>(weight_maxima.size()), static_cast<int64_t>(x_maxima.size()), "smooth_factors",
                  "weight_maxima.size()");
    std::vector<float> factors(x_maxima.size());
    check(int4q_smooth_factors(x_maxima.data(), weight_maxima.data(), static_cast<int64_t>(factors.size()), alpha, factors.data()));
    return factors;
}

// `scaled` may be the same memory as w.
inline void scale_columns(ConstMatrix w, const std::vector<float> &factors, Matrix scaled,
                          int32_t operation = INT4Q_COLUMNS_MULTIPLY, Pool *pool = nullptr) {
    detail::agree(static_cast<int64_t>(factors.size()), w.columns, "scale_columns", "factors.size()");
    detail::agree(scaled.rows, w.rows, "scale_columns", "scaled.rows");
    detail::agree(scaled.columns, w.columns, "scale_columns", "scaled.columns");
    detail::split_rows(w.rows, pool, [&](int64_t begin, int64_t end) {
        check(int4q_scale_columns(w.data, w.type, w.stride, factors.data(), operation, scaled.data, scaled.type, scaled.stride,
                                  w.rows, w.columns, begin, end));
    });
}

struct AwqScales {
    std::vector<float> scales;  // multiply the columns of w by them, divide x
    int4q_awq_report report{};
};

inline AwqScales awq_search(ConstMatrix w, const Gram &gram, const int4q_scheme &scheme, const std::vector<float> &codebook = {},
                            Pool *pool = nullptr, int32_t steps = 20) {
    detail::agree(static_cast<int64_t>(codebook.size()), codebook_entries(scheme, w.rows), "awq_search", "codebook.size()");
    const detail::Workers workers(pool);
    int4q_awq_options options{};
    options.struct_size = sizeof options;
    options.worker_count = workers.count, options.steps = steps;
    uint64_t bytes = 0;
    check(int4q_awq_scratch(&scheme, w.rows, w.columns, workers.count, &bytes));
    const Scratch scratch(bytes);
    AwqScales result;
    result.scales.resize(static_cast<size_t>(w.columns));
    result.report.struct_size = sizeof result.report;
    check(int4q_awq_search(&scheme, codebook.empty() ? nullptr : codebook.data(), w.rows, w.columns, w.data, w.type, w.stride,
                           gram.data(), gram.bytes(), &options, scratch.data(), scratch.bytes(), workers.parallel_for, workers.host,
                           result.scales.data(), &result.report));
    return result;
}

// The magnitudes that groups of w are clipped to, [n][groups]; clipped weights go to `clipped`, which may be w's memory.
inline std::vector<float> awq_clip(ConstMatrix w, const Gram &gram, const int4q_scheme &scheme, Matrix clipped,
                                   const std::vector<float> &codebook = {}, Pool *pool = nullptr, int32_t steps = 20,
                                   int32_t tried = 10) {
    detail::agree(static_cast<int64_t>(codebook.size()), codebook_entries(scheme, w.rows), "awq_clip", "codebook.size()");
    detail::agree(clipped.rows, w.rows, "awq_clip", "clipped.rows");
    detail::agree(clipped.columns, w.columns, "awq_clip", "clipped.columns");
    int4q_tensor_layout sizes{};
    sizes.struct_size = sizeof sizes;
    check(int4q_tensor_sizes(&scheme, w.rows, w.columns, &sizes));
    uint64_t bytes = 0;
    check(int4q_awq_clip_scratch(&scheme, w.columns, &bytes));
    std::vector<float> clips(static_cast<size_t>(w.rows * sizes.groups_per_row));
    detail::split_rows_with_scratch(w.rows, pool, bytes, [&](int64_t begin, int64_t end, int64_t, const Scratch &room) {
        check(int4q_awq_clip(&scheme, codebook.empty() ? nullptr : codebook.data(), w.rows, w.columns, w.data, w.type, w.stride,
                             gram.data(), gram.bytes(), steps, tried, room.data(), room.bytes(), clips.data(), clipped.data,
                             clipped.type, clipped.stride, begin, end));
    });
    return clips;
}

// Improves a tensor that some quantizer has made of w. flags: INT4Q_DESCENT_*, or 0.
inline int4q_descent_report gram_descend(Tensor &tensor, ConstMatrix w, const Gram &gram, int64_t sweeps = 10, uint32_t flags = 0,
                                         Pool *pool = nullptr) {
    detail::agree(w.rows, tensor.n, "gram_descend", "w.rows"), detail::agree(w.columns, tensor.k, "gram_descend", "w.columns");
    int4q_descent_options options{};
    options.struct_size = sizeof options;
    options.sweeps = sweeps, options.flags = flags;
    uint64_t bytes = 0;
    check(int4q_gram_descend_scratch(&tensor.scheme, w.columns, &bytes));
    const int4q_tensor raw = tensor.view();
    int4q_descent_report total{};
    total.struct_size = sizeof total;
    std::vector<int4q_descent_report> reports(static_cast<size_t>(pool ? (w.rows - 1) / INT4Q_BLOB_BLOCK_ROWS + 1 : 1), total);
    detail::split_rows_with_scratch(w.rows, pool, bytes, [&](int64_t begin, int64_t end, int64_t block, const Scratch &room) {
        check(int4q_gram_descend(&raw, w.data, w.type, w.stride, gram.data(), gram.bytes(), &options, room.data(), room.bytes(),
                                 begin, end, &reports[static_cast<size_t>(block)]));
    });
    for (const int4q_descent_report &one : reports) {
        total.sweeps = std::max(total.sweeps, one.sweeps);
        total.changed_codes += one.changed_codes, total.changed_scales += one.changed_scales;
        total.loss += one.loss, total.start_loss += one.start_loss;
    }
    return total;
}

inline Tensor hqq(ConstMatrix w, const int4q_scheme &scheme, Pool *pool = nullptr, double p = 0.7, double beta = 10,
                  int32_t iterations = 20) {
    Tensor result(scheme, w.rows, w.columns);
    int4q_hqq_options options{};
    options.struct_size = sizeof options;
    options.iterations = iterations, options.p = p, options.beta = beta;
    const int4q_tensor tensor = result.view();
    detail::split_rows(w.rows, pool, [&](int64_t begin, int64_t end) {
        check(int4q_hqq_quantize(&tensor, w.data, w.type, w.stride, &options, begin, end));
    });
    return result;
}

// The largest order of a Hadamard matrix that divides k.
inline int64_t hadamard_order(int64_t k) {
    int64_t order = 0;
    check(int4q_hadamard_order(k, &order));
    return order;
}

// Rotates rows (or columns) of source into target, which may be the same matrix.
inline void hadamard(ConstMatrix source, Matrix target, int64_t order, uint64_t seed = 0, int32_t side = INT4Q_HADAMARD_ROWS,
                     int32_t direction = INT4Q_HADAMARD_FORWARD) {
    detail::agree(target.rows, source.rows, "hadamard", "target.rows");
    detail::agree(target.columns, source.columns, "hadamard", "target.columns");
    uint64_t bytes = 0;
    check(int4q_hadamard_scratch(order, side, target.type, &bytes));
    Scratch scratch(bytes);
    check(int4q_hadamard_transform(order, seed, side, direction, source.data, source.type, source.stride, target.data, target.type,
                                   target.stride, source.rows, source.columns, scratch.data(), scratch.bytes(), 0,
                                   side == INT4Q_HADAMARD_COLUMNS ? source.columns : source.rows));
}

// The Gram matrix of rotated inputs.
inline Gram rotate(const Gram &gram, int64_t order, uint64_t seed = 0, int32_t direction = INT4Q_HADAMARD_FORWARD,
                   Pool *pool = nullptr) {
    Gram result(gram.k);
    const uint32_t workers = pool ? pool->worker_count() : 1;
    uint64_t bytes = 0;
    check(int4q_gram_rotate_scratch(order, workers, &bytes));
    Scratch scratch(bytes);
    check(int4q_gram_rotate(order, seed, direction, gram.data(), gram.bytes(), result.data(), result.bytes(), scratch.data(),
                            scratch.bytes(), workers, pool ? int4q_pool_parallel_for : nullptr, pool ? pool->get() : nullptr));
    return result;
}

// W = V + A B: what a quantized V leaves of W, by a matrix of low rank.
class LowRank {
public:
    LowRank(int64_t n, int64_t k, int64_t rank, int4q_type type_ = INT4Q_TYPE_F32)
        : a_(static_cast<uint64_t>(n * rank) * (type_ == INT4Q_TYPE_F32 ? 4 : 2)),
          b_(static_cast<uint64_t>(rank * k) * (type_ == INT4Q_TYPE_F32 ? 4 : 2)), type(type_), n(n), k(k), rank(rank) {}
    int4q_lowrank view() const { return {sizeof(int4q_lowrank), type, n, k, rank, a_.data(), rank, b_.data(), k}; }

    // Without a tensor A B is fitted to w itself, without a Gram matrix to the weights rather than to the outputs.
    int4q_lowrank_report fit(ConstMatrix w, const Tensor *tensor = nullptr, const Gram *gram = nullptr, Pool *pool = nullptr,
                             int32_t iterations = 4, uint64_t seed = 0) {
        agree(w.rows, w.columns, "LowRank::fit");
        if (tensor) agree(tensor->n, tensor->k, "LowRank::fit");
        int4q_lowrank_options options{};
        options.struct_size = sizeof options;
        options.worker_count = pool ? pool->worker_count() : 1;
        options.iterations = iterations;
        options.seed = seed;
        uint64_t bytes = 0;
        check(int4q_lowrank_scratch(n, k, rank, options.worker_count, &bytes));
        Scratch scratch(bytes);
        int4q_lowrank_report report{};
        report.struct_size = sizeof report;
        const int4q_lowrank factors = view();
        int4q_tensor quantized{};
        if (tensor) quantized = tensor->view();
        check(int4q_lowrank_fit(tensor ? &quantized : nullptr, w.data, w.type, w.stride, gram ? gram->data() : nullptr,
                                gram ? gram->bytes() : 0, &options, &factors, scratch.data(), scratch.bytes(),
                                pool ? int4q_pool_parallel_for : nullptr, pool ? pool->get() : nullptr, &report));
        return report;
    }
    // y += (x B^T) A^T
    void add(ConstMatrix x, Matrix y) const {
        detail::agree(x.columns, k, "LowRank::add", "x.columns"), detail::agree(y.columns, n, "LowRank::add", "y.columns");
        detail::agree(y.rows, x.rows, "LowRank::add", "y.rows");
        const int4q_lowrank factors = view();
        check(int4q_lowrank_add(&factors, x.data, x.type, x.stride, y.data, y.type, y.stride, x.rows, 0, x.rows));
    }
    // target = source - A B
    void subtract(ConstMatrix source, Matrix target) const {
        agree(source.rows, source.columns, "LowRank::subtract");
        agree(target.rows, target.columns, "LowRank::subtract");
        const int4q_lowrank factors = view();
        check(int4q_lowrank_subtract(&factors, source.data, source.type, source.stride, target.data, target.type, target.stride, 0,
                                     n));
    }

private:
    void agree(int64_t rows, int64_t columns, const char *function) const {
        detail::agree(rows, n, function, "rows"), detail::agree(columns, k, function, "columns");
    }
    Scratch a_, b_;

public:
    int4q_type type;
    int64_t n, k, rank;
};

// One candidate for each layer: the least sum of losses within a budget of bytes.
struct Allocation {
    std::vector<int32_t> choices;
    int4q_allocation about{};
};

// losses and bytes are [layers][candidates], weights [layers] or empty: all 1.
inline Allocation allocate(const std::vector<double> &losses, const std::vector<uint64_t> &bytes, int64_t layers, uint64_t budget,
                           const std::vector<double> &weights = {}) {
    detail::agree(static_cast<int64_t>(bytes.size()), static_cast<int64_t>(losses.size()), "allocate", "bytes.size()");
    if (!weights.empty()) detail::agree(static_cast<int64_t>(weights.size()), layers, "allocate", "weights.size()");
    const int64_t candidates = layers > 0 ? static_cast<int64_t>(losses.size()) / layers : 0;
    detail::agree(layers * candidates, static_cast<int64_t>(losses.size()), "allocate", "losses.size()");
    Allocation result;
    result.choices.resize(static_cast<size_t>(layers > 0 ? layers : 0));
    result.about.struct_size = sizeof result.about;
    for (int64_t states = int64_t{1} << 16;; states *= 8) {
        uint64_t size = 0;
        check(int4q_allocate_scratch(layers, candidates, states, &size));
        Scratch scratch(size);
        const int4q_status status =
            int4q_allocate(losses.data(), bytes.data(), weights.empty() ? nullptr : weights.data(), layers, candidates, budget,
                           scratch.data(), scratch.bytes(), result.choices.data(), &result.about);
        if (status == INT4Q_ERROR_BUFFER_TOO_SMALL && states < int64_t{1} << 28) continue;
        check(status);
        return result;
    }
}

// The scheme and the method that change a layer's outputs least. scales: to divide x by, where report.is_scaled.
struct Best {
    Tensor tensor;
    int4q_best_report report;
    std::vector<int4q_trial> trials;
    std::vector<float> scales;
};

inline int4q_best_options best_options() {
    int4q_best_options options{};
    options.struct_size = sizeof options;
    options.finalists = 2, options.sweeps = 10;
    return options;
}

// No candidates: the usual ones. The worker count is the pool's.
inline Best quantize_best(ConstMatrix w, const Gram &gram, double most_bits, const std::vector<int4q_candidate> &candidates = {},
                          bool with_scales = false, Pool *pool = nullptr, int4q_best_options options = best_options()) {
    const int4q_candidate *list = candidates.empty() ? nullptr : candidates.data();
    const int64_t count = static_cast<int64_t>(candidates.size());
    options.worker_count = pool ? pool->worker_count() : 1;
    options.most_bits = most_bits;
    uint64_t bytes = 0;
    check(int4q_best_memory(list, count, w.rows, w.columns, &bytes));
    Scratch memory(bytes);
    check(int4q_best_scratch(list, count, w.rows, w.columns, options.worker_count, with_scales, &bytes));
    Scratch scratch(bytes);
    std::vector<float> scales(with_scales ? static_cast<size_t>(w.columns) : 0);
    const int64_t all = count ? count : 64, finalists = options.finalists < 0 ? 0 : options.finalists;
    std::vector<int4q_trial> trials(static_cast<size_t>(2 * all + 16 * (finalists < all ? finalists : all)));
    int4q_best_report report{};
    report.struct_size = sizeof report;
    int4q_tensor found{};
    found.struct_size = sizeof found;
    check(int4q_quantize_best(list, count, w.rows, w.columns, w.data, w.type, w.stride, gram.data(), gram.bytes(), &options,
                              with_scales ? scales.data() : nullptr, memory.data(), memory.bytes(), scratch.data(), scratch.bytes(),
                              pool ? int4q_pool_parallel_for : nullptr, pool ? pool->get() : nullptr, &found, trials.data(),
                              static_cast<int64_t>(trials.size()), &report));
    trials.resize(static_cast<size_t>(report.trials));
    std::vector<float> codebook(static_cast<size_t>(codebook_entries(found.scheme, found.n)));
    if (!codebook.empty()) std::copy_n(found.codebook, codebook.size(), codebook.begin());
    Tensor tensor(found.scheme, found.n, found.k, std::move(codebook));
    const auto take = [](std::vector<unsigned char> &target, const void *from) {
        if (!target.empty()) std::memcpy(target.data(), from, target.size());
    };
    take(tensor.codes, found.codes), take(tensor.scales, found.scales);
    take(tensor.zero_points, found.zero_points), take(tensor.offsets, found.offsets);
    return {std::move(tensor), report, std::move(trials), std::move(scales)};
}

// The usual ones of a method, INT4Q_LEARN_*; the worker count is set by learn_rounding().
inline int4q_learning_options learning_options(int32_t method = INT4Q_LEARN_AUTOROUND, int64_t iterations = 0) {
    const bool is_signed = method == INT4Q_LEARN_AUTOROUND;
    int4q_learning_options options{};
    options.struct_size = sizeof options;
    options.method = method;
    options.iterations = iterations ? iterations : is_signed ? 200 : 1000;
    options.step = is_signed ? 1.0 / static_cast<double>(options.iterations) : 0.02;
    options.range_step = is_signed ? options.step : 0;
    options.least_range = 0.5, options.most_range = 1;
    options.regularization = 30, options.first_exponent = 20, options.last_exponent = 2;
    return options;
}

// Improves a tensor that was quantized from w.
inline int4q_learning_report learn_rounding(Tensor &tensor, ConstMatrix w, const Gram &gram,
                                            int4q_learning_options options = learning_options(), Pool *pool = nullptr) {
    detail::agree(w.rows, tensor.n, "learn_rounding", "w.rows");
    detail::agree(w.columns, tensor.k, "learn_rounding", "w.columns");
    options.worker_count = pool ? pool->worker_count() : 1;
    uint64_t bytes = 0;
    check(int4q_learn_rounding_scratch(&tensor.scheme, tensor.k, options.worker_count, &bytes));
    Scratch scratch(bytes);
    int4q_learning_report report{};
    report.struct_size = sizeof report;
    const int4q_tensor view = tensor.view();
    check(int4q_learn_rounding(&view, w.data, w.type, w.stride, gram.data(), gram.bytes(), &options, scratch.data(),
                               scratch.bytes(), pool ? int4q_pool_parallel_for : nullptr, pool ? pool->get() : nullptr, &report));
    return report;
}

}  // namespace int4q

#endif  // INT4Q_HPP
