"""The quantizers again, written from the header and docs/quantizers.md in plain NumPy. Nothing here calls the library.

Groups are done one after the other, all rows at once. Arithmetic is binary32 where the text says so, which NumPy's
float32 operations are.
"""

from __future__ import annotations

import dataclasses

import numpy as np

F32, F16, BF16 = 1, 2, 3
SYMMETRIC, ASYMMETRIC, OFFSET, CODEBOOK = 1, 2, 3, 4
AMAX_7, AMAX_7_5, SIGNED_MAX_8 = 1, 2, 3


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """uint16: binary32 rounded to its upper half, half to even."""
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    quiet_nan = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(values), quiet_nan, rounded)


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray, scale_type: int) -> np.ndarray:
    """float32 values that the type can hold."""
    values = np.asarray(values, np.float32)
    if scale_type == F16:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    return bfloat16_values(bfloat16_bits(values)) if scale_type == BF16 else values


@dataclasses.dataclass
class Group:
    """One group of every row: codes[n][length], scale[n], zero_point[n], offset[n]."""

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    offset: np.ndarray


def first_of_largest_magnitude(w: np.ndarray) -> np.ndarray:
    return w[np.arange(len(w)), np.abs(w).argmax(axis=1)]


def divided(w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """w / scale per row, 0 where the scale is 0."""
    safe = np.where(scale == 0, np.float32(1), scale)
    return np.where(scale[:, None] == 0, np.float32(0), w / safe[:, None]).astype(np.float32)


def symmetric(w: np.ndarray, scale_type: int, rule: int, restricted: bool) -> Group:
    largest = np.abs(w).max(axis=1)
    exact = {
        AMAX_7: largest / np.float32(7),
        AMAX_7_5: largest / np.float32(7.5),
        SIGNED_MAX_8: first_of_largest_magnitude(w) / np.float32(-8),
    }[rule]
    scale = rounded(exact, scale_type)
    codes = np.clip(np.rint(divided(w, scale)) + 8, 1 if restricted else 0, 15)
    if rule != SIGNED_MAX_8:
        constant = (w == w[:, :1]).all(axis=1) & (w[:, 0] != 0)
        scale = np.where(constant, rounded(np.abs(w[:, 0]), scale_type), scale)
        codes = np.where(constant[:, None], np.where(w > 0, 9, 7), codes)
    codes = np.where(scale[:, None] == 0, 8, codes)
    scale = np.where(scale == 0, np.float32(0), scale)
    nothing = np.zeros(len(w), np.float32)
    return Group(codes, scale, nothing, nothing)


def asymmetric(w: np.ndarray, scale_type: int) -> Group:
    low = np.minimum(w.min(axis=1), np.float32(0))
    high = np.maximum(w.max(axis=1), np.float32(0))
    scale = rounded((high - low) / np.float32(15), scale_type)
    zero = np.clip(np.rint(divided(-low[:, None], scale)[:, 0]), 0, 15)
    codes = np.clip(np.rint(divided(w, scale)) + zero[:, None], 0, 15)
    constant = (w == w[:, :1]).all(axis=1) & (w[:, 0] != 0)
    scale = np.where(constant, rounded(np.abs(w[:, 0]), scale_type), scale)
    zero = np.where(constant, w[:, 0] < 0, zero)
    codes = np.where(constant[:, None], w > 0, codes)
    is_zero = scale == 0
    zero, codes = np.where(is_zero, 0, zero), np.where(is_zero[:, None], 0, codes)
    return Group(codes, scale, zero, np.zeros(len(w), np.float32))


def offset(w: np.ndarray, scale_type: int) -> Group:
    low, high = w.min(axis=1), w.max(axis=1)
    scale = rounded((high - low) / np.float32(15), scale_type)
    start = rounded(low, scale_type) + np.float32(0)
    codes = np.clip(np.rint(divided(w - start[:, None], scale)), 0, 15)
    return Group(codes, scale, np.zeros(len(w)), start)


def codebook(w: np.ndarray, scale_type: int, table: np.ndarray) -> Group:
    scale = rounded(np.abs(w).max(axis=1) / np.abs(table).max(), scale_type)
    distance = np.abs(divided(w, scale)[:, :, None] - table)
    codes = distance.argmin(axis=2)  # the first of equals: the lower code
    codes = np.where(scale[:, None] == 0, 0, codes)
    return Group(codes, scale, np.zeros(len(w)), np.zeros(len(w), np.float32))


def truncated(values: np.ndarray) -> np.ndarray:
    """C's conversion to int8 as x86 does it: what is no number, or too large, becomes 0."""
    good = np.isfinite(values) & (np.abs(values) < 2**31)
    return np.where(good, np.trunc(np.where(good, values, 0)), 0).astype(np.int64).astype(np.int8).astype(np.int64)


def reciprocal(scale: np.ndarray) -> np.ndarray:
    safe = np.where(scale == 0, np.float32(1), scale)
    return np.where(scale == 0, np.float32(0), np.float32(1) / safe).astype(np.float32)


def ggml_q4_0(w: np.ndarray, scale_type: int) -> Group:
    largest = first_of_largest_magnitude(w)
    exact = (np.where(largest == 0, np.float32(0), largest) / np.float32(-8)).astype(np.float32)
    steps = w * reciprocal(exact)[:, None] + np.float32(8.5)
    nothing = np.zeros(len(w), np.float32)
    return Group(np.minimum(truncated(steps), 15), rounded(exact, scale_type), nothing, nothing)


def ggml_q4_1(w: np.ndarray, scale_type: int) -> Group:
    low = w[np.arange(len(w)), w.argmin(axis=1)]  # of two zeros, the first one's sign
    exact = (w.max(axis=1) - low) / np.float32(15)
    steps = (w - low[:, None]) * reciprocal(exact)[:, None] + np.float32(0.5)
    codes = np.minimum(truncated(steps), 15)
    return Group(codes, rounded(exact, scale_type), np.zeros(len(w)), rounded(low, scale_type))


def quantize_group(w: np.ndarray, scheme: object) -> Group:
    """`scheme` has the fields of int4q.Scheme, read as plain numbers."""
    kind, scale_type = int(scheme.kind), int(scheme.scale_type)
    if int(scheme.rounding) == 1:
        return (ggml_q4_0 if kind == SYMMETRIC else ggml_q4_1)(w, scale_type)
    if kind == SYMMETRIC:
        return symmetric(w, scale_type, int(scheme.scale_rule) or SIGNED_MAX_8, int(scheme.code_range) == 1)
    if kind == ASYMMETRIC:
        return asymmetric(w, scale_type)
    if kind == OFFSET:
        return offset(w, scale_type)
    return codebook(w, scale_type, np.asarray(scheme.codebook_values, np.float32))


@dataclasses.dataclass
class Reference:
    """Codes[n][k] as uint8 and float32 scales[n][groups], offsets[n][groups], uint8 zero_points[n][groups]."""

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray
    offsets: np.ndarray


def quantize(weights: np.ndarray, scheme: object) -> Reference:
    weights = np.asarray(weights, np.float32)
    k = weights.shape[1]
    size = k if scheme.group_size == -1 else scheme.group_size
    with np.errstate(all="ignore"):
        groups = [quantize_group(weights[:, begin : begin + size], scheme) for begin in range(0, k, size)]
    return Reference(
        np.concatenate([group.codes for group in groups], axis=1).astype(np.uint8),
        np.stack([group.scale for group in groups], axis=1).astype(np.float32),
        np.stack([group.zero_point for group in groups], axis=1).astype(np.uint8),
        np.stack([group.offset for group in groups], axis=1).astype(np.float32),
    )


def dequantize(codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, offsets: np.ndarray,
               scheme: object) -> np.ndarray:
    """float64[n][k], exact but for codebooks, where the product of two floats is exact as well."""
    k = codes.shape[1]
    size = k if scheme.group_size == -1 else scheme.group_size

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values.astype(np.float64), size, axis=1)[:, :k]

    kind = int(scheme.kind)
    scale = spread(scales)
    if kind == SYMMETRIC:
        return scale * (codes.astype(np.float64) - 8)
    if kind == ASYMMETRIC:
        return scale * (codes.astype(np.float64) - spread(zero_points))
    if kind == OFFSET:
        return scale * codes + spread(offsets)
    return scale * np.asarray(scheme.codebook_values, np.float32).astype(np.float64)[codes]
