// SPDX-License-Identifier: Apache-2.0
// Tables of calls that are valid but for one argument, and the checks that each is refused without side effects.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "int4q.h"
#include "support/status.hpp"

namespace int4q_test {

constexpr int4q_status kNull = INT4Q_ERROR_NULL_POINTER, kStructSize = INT4Q_ERROR_STRUCT_SIZE,
                       kInvalid = INT4Q_ERROR_INVALID_ARGUMENT, kOverflow = INT4Q_ERROR_SIZE_OVERFLOW,
                       kMisaligned = INT4Q_ERROR_MISALIGNED, kTooSmall = INT4Q_ERROR_BUFFER_TOO_SMALL,
                       kNotFinite = INT4Q_ERROR_NOT_FINITE, kCorrupt = INT4Q_ERROR_CORRUPT,
                       kMismatch = INT4Q_ERROR_MISMATCH;
constexpr int32_t kMin32 = INT32_MIN, kMax32 = INT32_MAX;
constexpr int64_t kMin64 = INT64_MIN, kMax64 = INT64_MAX;

template <typename T>
inline std::string BytesOf(const T &object) {
    return std::string(reinterpret_cast<const char *>(&object), sizeof object);
}

// One way to break a call. `other` is a second argument that the error may name as well.
template <typename Call>
struct Bad {
    std::string what;
    std::function<void(Call &)> damage;
    int4q_status status;
    const char *argument;
    const char *other = nullptr;
};

template <typename Call>
using BadTable = std::vector<Bad<Call>>;

// A call has Run(), which makes it, and Outputs(), the bytes that it may write. make() returns a unique_ptr to a valid one.
template <typename Call, typename Make>
void ExpectRefused(const char *function, const Make &make, const BadTable<Call> &table) {
    ASSERT_OK(make()->Run());
    for (const Bad<Call> &bad : table) {
        SCOPED_TRACE(std::string(function) + " with " + bad.what);
        auto call = make();
        bad.damage(*call);
        const std::string before = call->Outputs();
        PoisonLastError();
        const int4q_status status = call->Run();
        EXPECT_TRUE(FailsLike(status, {bad.status}, function, {bad.argument, bad.other ? bad.other : bad.argument}));
        EXPECT_TRUE(before == call->Outputs()) << "an output was written";
    }
}

// The same damage to a part of a call: part(call) is a reference to it.
template <typename Call, typename Part, typename Access>
void AddWithin(BadTable<Call> &table, const BadTable<Part> &parts, Access part) {
    for (const Bad<Part> &bad : parts) {
        table.push_back({bad.what, [damage = bad.damage, part](Call &c) { damage(part(c)); }, bad.status, bad.argument,
                         bad.other});
    }
}

// One row for each value of a field, which is a pointer to member or a function that returns a reference.
template <typename Call, typename Field>
void AddValues(BadTable<Call> &table, const char *argument, Field field, const std::vector<int64_t> &values,
               int4q_status status = kInvalid, const char *other = nullptr) {
    for (int64_t value : values) {
        const auto damage = [field, value](Call &c) {
            auto &target = std::invoke(field, c);
            target = static_cast<std::decay_t<decltype(target)>>(value);
        };
        table.push_back({std::string(argument) + " = " + std::to_string(value), damage, status, argument, other});
    }
}

template <typename Call, typename Field>
void AddEnumerators(BadTable<Call> &table, const char *argument, Field field, const std::vector<int64_t> &values) {
    AddValues(table, argument, field, values);
    AddValues(table, argument, field, {kMin32, kMax32});
}

template <typename Call, typename Field>
void AddStructSizes(BadTable<Call> &table, Field field, int64_t size) {
    AddValues(table, "struct_size", field, {0, 1, 4, size - 8, size - 1, size + 1, size + 8, kMax32, UINT32_MAX}, kStructSize);
}

template <typename T>
T *Shift(T *pointer, int bytes) {
    return reinterpret_cast<T *>(reinterpret_cast<uintptr_t>(pointer) + static_cast<uintptr_t>(bytes));
}

// NULL, and off by each of `shifts` bytes.
template <typename Call, typename Field>
void AddPointer(BadTable<Call> &table, const char *argument, Field field, const std::vector<int> &shifts) {
    const std::string name = argument;
    table.push_back({name + " = NULL", [field](Call &c) { std::invoke(field, c) = nullptr; }, kNull, argument});
    for (int shift : shifts) {
        table.push_back({name + " + " + std::to_string(shift) + " bytes",
                         [field, shift](Call &c) { auto &p = std::invoke(field, c); p = Shift(p, shift); }, kMisaligned,
                         argument});
    }
}

// A declared size of 0 and one byte less than needed; the valid call declares what is needed.
template <typename Call, typename Field>
void AddTooSmall(BadTable<Call> &table, const char *argument, Field field) {
    AddValues(table, argument, field, {0, 1}, kTooSmall);
    table.push_back({std::string(argument) + " a byte short", [field](Call &c) { std::invoke(field, c) -= 1; }, kTooSmall,
                     argument});
}

// A matrix of at least two rows of `columns` floats.
template <typename Call, typename Pointer, typename Type, typename Stride>
void AddMatrix(BadTable<Call> &table, const char *name, Pointer pointer, Type type, const char *type_name, Stride stride,
               const char *stride_name, int64_t columns) {
    AddPointer(table, name, pointer, {1, 2, 3});
    AddEnumerators(table, type_name, type, {0, 4, -1});
    AddValues(table, stride_name, stride, {0, 1, -1, columns - 1, -columns, kMin64});
    AddValues(table, stride_name, stride, {kMax64, int64_t{1} << 62, int64_t{1} << 61}, kOverflow);
    for (int4q_type half : {INT4Q_TYPE_F16, INT4Q_TYPE_BF16}) {
        table.push_back({std::string(name) + " of 16-bit type off by 1", [=](Call &c) {
                             std::invoke(type, c) = half;
                             auto &p = std::invoke(pointer, c);
                             p = Shift(p, 1);
                         }, kMisaligned, name});
    }
    table.push_back({std::string(name) + " beyond the address space", [=](Call &c) {
                         auto &p = std::invoke(pointer, c);
                         p = reinterpret_cast<std::decay_t<decltype(p)>>(~uintptr_t{63});
                     }, kOverflow, name, stride_name});
}

// A range of 0..total-1 whose ends are the call's members begin and end, initially 0 and total.
template <typename Call>
void AddRanges(BadTable<Call> &table, int64_t total, const char *begin_name, const char *end_name) {
    const auto add = [&](int64_t begin, int64_t end, const char *argument, const char *other) {
        table.push_back({"range " + std::to_string(begin) + ".." + std::to_string(end),
                         [=](Call &c) { c.begin = begin, c.end = end; }, kInvalid, argument, other});
    };
    for (int64_t begin : {int64_t{-1}, int64_t{-16}, kMin64}) add(begin, total, begin_name, nullptr);
    for (int64_t end : {total + 1, total + 16, kMax64}) add(0, end, end_name, nullptr);
    for (int64_t end : {int64_t{-1}, int64_t{-16}, kMin64}) add(0, end, end_name, begin_name);
    for (int64_t begin : {total + 1, total + 16, kMax64}) add(begin, total, begin_name, end_name);
    add(total, 0, begin_name, end_name);
    add(kMax64, kMin64, begin_name, end_name);
    add(kMin64, kMax64, begin_name, end_name);
    add(total + 1, total + 1, begin_name, end_name);
}

// Every scheme that the header forbids, each made from a valid SYMMETRIC one.
inline BadTable<int4q_scheme> BadSchemes() {
    using S = int4q_scheme;
    BadTable<S> table;
    AddEnumerators(table, "kind", &S::kind, {0, 7, -1, 100});
    AddEnumerators(table, "group_size", &S::group_size, {0, 1, 2, 8, 15, 17, 24, 48, 512, -2, -16});
    AddEnumerators(table, "scale_type", &S::scale_type, {0, 4, -1});
    AddEnumerators(table, "scale_rule", &S::scale_rule, {-1, 4, 7});
    AddEnumerators(table, "code_range", &S::code_range, {-1, 2});
    AddEnumerators(table, "rounding", &S::rounding, {-1, 2});
    AddEnumerators(table, "codebook_scope", &S::codebook_scope, {-1, 1, 2});
    AddEnumerators(table, "code_bits", &S::code_bits, {-1, 1, 2, 3, 5, 7, 9, 16});
    for (int i = 0; i < 4; i++) {
        AddValues(table, "reserved", [i](S &s) -> int32_t & { return s.reserved[i]; }, {1, -1, kMin32, kMax32});
    }
    const auto forbid = [&](int32_t kind, int32_t rule, int32_t range, int32_t rounding, const char *argument,
                            const char *other) {
        table.push_back({"kind " + std::to_string(kind) + ", rule " + std::to_string(rule) + ", range " +
                             std::to_string(range) + ", rounding " + std::to_string(rounding),
                         [=](S &s) { s.kind = kind, s.scale_rule = rule, s.code_range = range, s.rounding = rounding; },
                         kInvalid, argument, other});
    };
    const int32_t full = INT4Q_RANGE_FULL, restricted = INT4Q_RANGE_RESTRICTED;
    const int32_t nearest = INT4Q_ROUNDING_NEAREST_EVEN, ggml = INT4Q_ROUNDING_GGML;
    for (int32_t kind : {INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK}) {
        for (int32_t rule : {INT4Q_SCALE_AMAX_7, INT4Q_SCALE_AMAX_7_5, INT4Q_SCALE_SIGNED_MAX_8}) {
            forbid(kind, rule, full, nearest, "scale_rule", "kind");
        }
        forbid(kind, INT4Q_SCALE_DEFAULT, restricted, nearest, "code_range", "kind");
        if (kind != INT4Q_KIND_OFFSET) forbid(kind, INT4Q_SCALE_DEFAULT, full, ggml, "rounding", "kind");
        if (kind != INT4Q_KIND_OFFSET) forbid(kind, INT4Q_SCALE_DEFAULT, full, INT4Q_ROUNDING_MLX, "rounding", "kind");
        if (kind == INT4Q_KIND_CODEBOOK) continue;
        forbid(kind, INT4Q_SCALE_ONE, full, nearest, "scale_rule", "kind");
        forbid(kind, INT4Q_SCALE_DEFAULT, full, INT4Q_ROUNDING_NEAREST_LOG, "rounding", "kind");
    }
    for (int32_t rule : {5, 7, -1}) forbid(INT4Q_KIND_CODEBOOK, rule, full, nearest, "scale_rule", "kind");
    for (int32_t rounding : {4, -1}) forbid(INT4Q_KIND_CODEBOOK, INT4Q_SCALE_ONE, full, rounding, "rounding", "kind");
    forbid(INT4Q_KIND_CODEBOOK, INT4Q_SCALE_ONE, restricted, INT4Q_ROUNDING_NEAREST_LOG, "code_range", "kind");
    forbid(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_DEFAULT, full, INT4Q_ROUNDING_MLX, "rounding", "kind");
    forbid(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_DEFAULT, restricted, nearest, "code_range", "scale_rule");
    forbid(INT4Q_KIND_SYMMETRIC, INT4Q_SCALE_SIGNED_MAX_8, restricted, nearest, "code_range", "scale_rule");
    for (int32_t rule : {INT4Q_SCALE_AMAX_7, INT4Q_SCALE_AMAX_7_5}) {
        forbid(INT4Q_KIND_SYMMETRIC, rule, full, ggml, "rounding", "scale_rule");
        forbid(INT4Q_KIND_SYMMETRIC, rule, restricted, ggml, "rounding", "scale_rule");
    }
    return table;
}

constexpr int32_t kAllKinds[] = {INT4Q_KIND_SYMMETRIC, INT4Q_KIND_ASYMMETRIC, INT4Q_KIND_OFFSET, INT4Q_KIND_CODEBOOK};

inline int4q_scheme SmallScheme(int32_t kind) {
    int4q_scheme scheme{};
    scheme.kind = kind;
    scheme.group_size = 16;
    scheme.scale_type = INT4Q_TYPE_F16;
    return scheme;
}

// A valid 33 x 40 tensor whose parts' sizes are declared to the byte.
struct SmallTensor {
    static constexpr int64_t kRows = 33, kColumns = 40;

    explicit SmallTensor(int32_t kind = INT4Q_KIND_SYMMETRIC) {
        tensor.struct_size = sizeof tensor;
        tensor.scheme = SmallScheme(kind);
        tensor.n = kRows;
        tensor.k = kColumns;
        std::memset(codes, 0x9c, sizeof codes);
        std::memset(zero_points, 7, sizeof zero_points);
        for (int i = 0; i < 256; i++) scales[i] = offsets[i] = 0x3800;  // 0.5
        for (int i = 0; i < 16; i++) codebook[i] = static_cast<float>(i) - 7.5f;
        Connect();
    }
    SmallTensor(const SmallTensor &) = delete;
    SmallTensor &operator=(const SmallTensor &) = delete;

    // Parts as the scheme's kind wants them.
    void Connect() {
        const int32_t kind = tensor.scheme.kind;
        const uint64_t groups = kRows * 3;
        tensor.codes = codes;
        tensor.codes_bytes = kRows * kColumns / 2;
        tensor.scales = scales;
        tensor.scales_bytes = groups * 2;
        tensor.zero_points = kind == INT4Q_KIND_ASYMMETRIC ? zero_points : nullptr;
        tensor.zero_points_bytes = kind == INT4Q_KIND_ASYMMETRIC ? groups : 0;
        tensor.offsets = kind == INT4Q_KIND_OFFSET ? offsets : nullptr;
        tensor.offsets_bytes = kind == INT4Q_KIND_OFFSET ? groups * 2 : 0;
        tensor.codebook = kind == INT4Q_KIND_CODEBOOK ? codebook : nullptr;
    }

    std::string Bytes() const {
        std::string bytes(reinterpret_cast<const char *>(codes), sizeof codes);
        bytes.append(reinterpret_cast<const char *>(scales), sizeof scales);
        bytes.append(reinterpret_cast<const char *>(zero_points), sizeof zero_points);
        return bytes.append(reinterpret_cast<const char *>(offsets), sizeof offsets);
    }

    int4q_tensor tensor{};
    alignas(64) unsigned char codes[704];
    alignas(64) uint16_t scales[256];
    alignas(64) unsigned char zero_points[128];
    alignas(64) uint16_t offsets[256];
    alignas(64) float codebook[17]{};
};

// Everything that can be wrong with a tensor of this kind.
inline BadTable<SmallTensor> BadTensors(int32_t kind, bool reads_codebook = true) {
    using S = SmallTensor;
    using T = int4q_tensor;
    BadTable<T> fields;
    AddStructSizes(fields, &T::struct_size, sizeof(T));
    AddValues(fields, "reserved", &T::reserved, {1, UINT32_MAX, kMin32});
    AddValues(fields, "n", &T::n, {0, -1, -33, kMin64});
    AddValues(fields, "k", &T::k, {0, -1, -40, kMin64});
    AddValues(fields, "n", &T::n, {kMax64, int64_t{1} << 60}, kOverflow, "k");
    AddValues(fields, "k", &T::k, {kMax64, int64_t{1} << 60}, kOverflow, "n");
    AddValues(fields, "codes_bytes", &T::n, {SmallTensor::kRows + 1, int64_t{1} << 40}, kTooSmall);
    AddValues(fields, "codes_bytes", &T::k, {SmallTensor::kColumns + 1, int64_t{1} << 40}, kTooSmall);
    AddPointer(fields, "codes", &T::codes, {});
    AddTooSmall(fields, "codes_bytes", &T::codes_bytes);
    AddPointer(fields, "scales", &T::scales, {1});
    AddTooSmall(fields, "scales_bytes", &T::scales_bytes);
    if (kind == INT4Q_KIND_ASYMMETRIC) {
        AddPointer(fields, "zero_points", &T::zero_points, {});
        AddTooSmall(fields, "zero_points_bytes", &T::zero_points_bytes);
    }
    if (kind == INT4Q_KIND_OFFSET) {
        AddPointer(fields, "offsets", &T::offsets, {1});
        AddTooSmall(fields, "offsets_bytes", &T::offsets_bytes);
    }
    if (kind == INT4Q_KIND_CODEBOOK && reads_codebook) AddPointer(fields, "codebook", &T::codebook, {1, 2, 3});

    BadTable<S> table;
    AddWithin(table, fields, [](S &s) -> T & { return s.tensor; });
    if (kind == INT4Q_KIND_SYMMETRIC) {
        for (const Bad<int4q_scheme> &bad : BadSchemes()) {
            const auto damage = [damage = bad.damage](S &s) { damage(s.tensor.scheme), s.Connect(); };
            table.push_back({bad.what, damage, bad.status, bad.argument, bad.other});
        }
    }
    if (kind == INT4Q_KIND_CODEBOOK && reads_codebook) {
        const float infinity = std::numeric_limits<float>::infinity();
        for (float value : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity}) {
            for (int i : {0, 7, 15}) {
                table.push_back({"codebook[" + std::to_string(i) + "] = " + std::to_string(value),
                                 [=](S &s) { s.codebook[i] = value; }, kNotFinite, "codebook"});
            }
        }
        for (float zero : {0.0f, -0.0f}) {
            table.push_back({"codebook of " + std::to_string(zero),
                             [=](S &s) { for (int i = 0; i < 16; i++) s.codebook[i] = zero; }, kInvalid, "codebook"});
        }
    }
    return table;
}

}  // namespace int4q_test
