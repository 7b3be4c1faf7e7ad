// Conversions between binary32, binary16 and bfloat16, written for clarity and independent of the library's.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "int4q.h"

namespace int4q_test {

inline uint32_t BitsOf(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float FloatFromBits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Half to even, through exact binary64 arithmetic.
inline uint16_t HalfFromFloat(float value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00);
    const double magnitude = std::fabs(static_cast<double>(value));
    if (magnitude >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00);
    if (magnitude < 0x1p-14) return static_cast<uint16_t>(sign | static_cast<int>(std::nearbyint(magnitude * 0x1p24)));
    const int exponent = std::ilogb(magnitude);
    const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    return static_cast<uint16_t>(sign | (((exponent + 15) << 10) + (mantissa - 1024)));
}

inline float FloatFromHalf(uint16_t bits) {
    const int exponent = (bits >> 10) & 31;
    const int mantissa = bits & 1023;
    float magnitude;
    if (exponent == 31) {
        magnitude = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    } else if (exponent == 0) {
        magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    } else {
        magnitude = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
    }
    return (bits & 0x8000) ? -magnitude : magnitude;
}

inline uint16_t BFloatFromFloat(float value) {
    const uint32_t bits = BitsOf(value);
    if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float FloatFromBFloat(uint16_t bits) { return FloatFromBits(static_cast<uint32_t>(bits) << 16); }

inline int64_t TypeBytes(int4q_type type) { return type == INT4Q_TYPE_F32 ? 4 : 2; }

// Element `index` of an array of `type`.
inline float LoadElement(const void *base, int4q_type type, int64_t index) {
    const char *address = static_cast<const char *>(base) + index * TypeBytes(type);
    if (type == INT4Q_TYPE_F32) {
        float value;
        std::memcpy(&value, address, sizeof value);
        return value;
    }
    uint16_t bits;
    std::memcpy(&bits, address, sizeof bits);
    return type == INT4Q_TYPE_F16 ? FloatFromHalf(bits) : FloatFromBFloat(bits);
}

inline void StoreElement(void *base, int4q_type type, int64_t index, float value) {
    char *address = static_cast<char *>(base) + index * TypeBytes(type);
    if (type == INT4Q_TYPE_F32) {
        std::memcpy(address, &value, sizeof value);
        return;
    }
    const uint16_t bits = type == INT4Q_TYPE_F16 ? HalfFromFloat(value) : BFloatFromFloat(value);
    std::memcpy(address, &bits, sizeof bits);
}

inline float RoundTo(int4q_type type, float value) {
    if (type == INT4Q_TYPE_F16) return FloatFromHalf(HalfFromFloat(value));
    if (type == INT4Q_TYPE_BF16) return FloatFromBFloat(BFloatFromFloat(value));
    return value;
}

// Half an ulp relative to the value: the unit roundoff of a type.
inline double UnitRoundoff(int4q_type type) {
    return type == INT4Q_TYPE_F32 ? 0x1p-24 : type == INT4Q_TYPE_F16 ? 0x1p-11 : 0x1p-8;
}

// Half of the smallest subnormal: the absolute part of one rounding.
inline double HalfSubnormal(int4q_type type) {
    return type == INT4Q_TYPE_F32 ? 0x1p-150 : type == INT4Q_TYPE_F16 ? 0x1p-25 : 0x1p-134;
}

inline const char *TypeName(int4q_type type) {
    return type == INT4Q_TYPE_F32 ? "f32" : type == INT4Q_TYPE_F16 ? "f16" : type == INT4Q_TYPE_BF16 ? "bf16" : "?";
}

constexpr int4q_type kTypes[] = {INT4Q_TYPE_F32, INT4Q_TYPE_F16, INT4Q_TYPE_BF16};

// Same bits, or both NaN whatever the payload. A negative zero is not a positive one.
inline bool SameFloat(int4q_type type, const void *a, const void *b, int64_t index) {
    const int64_t size = TypeBytes(type);
    if (std::memcmp(static_cast<const char *>(a) + index * size, static_cast<const char *>(b) + index * size,
                    static_cast<size_t>(size)) == 0) {
        return true;
    }
    return std::isnan(LoadElement(a, type, index)) && std::isnan(LoadElement(b, type, index));
}

}  // namespace int4q_test
