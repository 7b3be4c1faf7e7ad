"""The quantizers again, written from the header and docs/quantizers.md in plain NumPy; also activations, and what INT8
mode makes of numbers, from docs/numerics.md. Nothing here calls the library.

Groups are done one after the other, all rows at once. Arithmetic is binary32 where the text says so, which NumPy's
float32 operations are.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

F32, F16, BF16 = 1, 2, 3
SYMMETRIC, ASYMMETRIC, OFFSET, CODEBOOK = 1, 2, 3, 4
AMAX_7, AMAX_7_5, SIGNED_MAX_8, POWER_OF_TWO = 1, 2, 3, 5


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
    seventh = largest / np.float32(7)
    mantissas, exponents = np.frexp(seventh.astype(np.float64))  # seventh = mantissa * 2^exponent, 0.5 <= mantissa < 1
    exact = {
        AMAX_7: seventh,
        POWER_OF_TWO: np.where(seventh == 0, 0, np.ldexp(1.0, exponents - (mantissas == 0.5))).astype(np.float32),
        AMAX_7_5: largest / np.float32(7.5),
        SIGNED_MAX_8: first_of_largest_magnitude(w) / np.float32(-8),
    }[rule]
    scale = rounded(exact, scale_type)
    codes = np.clip(np.rint(divided(w, scale)) + 8, 1 if restricted else 0, 15)
    if rule in (AMAX_7, AMAX_7_5):
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
    steps = divided(w, scale)
    order = sorted(range(16), key=lambda code: (table[code], code))
    codes = np.full(w.shape, order[0])
    lower = order[0]
    for upper in order[1:]:
        if table[upper] == table[lower]:
            continue  # of equal values the lower code
        middle = np.float32((np.float64(table[lower]) + np.float64(table[upper])) / 2)
        codes = np.where((steps > middle) | ((steps == middle) & (upper < lower)), upper, codes)
        lower = upper
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


def mlx_affine(w: np.ndarray, scale_type: int) -> Group:
    low, high = w.min(axis=1), w.max(axis=1)
    with np.errstate(over="ignore"):
        width = np.maximum((high - low) / np.float32(15), np.float32(1e-7))
    starts_low = np.abs(low) > np.abs(high)
    edge, step = np.where(starts_low, low, high), np.where(starts_low, width, -width)
    count = np.rint(edge / step)
    exact = np.where(count != 0, edge / np.where(count != 0, count, np.float32(1)), step).astype(np.float32)
    start = np.where(count != 0, edge, np.float32(0))
    codes = np.clip(np.rint((w - start[:, None]) / exact[:, None]), 0, 15)
    return Group(codes, rounded(exact, scale_type), np.zeros(len(w)), rounded(start, scale_type))


def quantize_group(w: np.ndarray, scheme: object) -> Group:
    """`scheme` has the fields of int4q.Scheme, read as plain numbers."""
    kind, scale_type = int(scheme.kind), int(scheme.scale_type)
    if int(scheme.rounding) == 1:
        return (ggml_q4_0 if kind == SYMMETRIC else ggml_q4_1)(w, scale_type)
    if int(scheme.rounding) == 3:
        return mlx_affine(w, scale_type)
    if kind == SYMMETRIC:
        return symmetric(w, scale_type, int(scheme.scale_rule) or SIGNED_MAX_8, int(scheme.code_range) == 1)
    if kind == ASYMMETRIC:
        return asymmetric(w, scale_type)
    if kind == OFFSET:
        return offset(w, scale_type)
    tables = np.asarray(scheme.codebook_values, np.float32)
    if tables.ndim == 1:
        return codebook(w, scale_type, tables)
    rows = [codebook(w[row : row + 1], scale_type, tables[row]) for row in range(len(w))]
    return Group(*(np.concatenate(parts) for parts in zip(*(dataclasses.astuple(row) for row in rows))))


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
    tables = np.asarray(scheme.codebook_values, np.float32).astype(np.float64)
    return scale * (tables[codes] if tables.ndim == 1 else np.take_along_axis(tables, codes.astype(np.int64), axis=1))


# ---- Products ------------------------------------------------------------------------------------------------------

RELU, GELU_ERF, GELU_TANH, SILU = 1, 2, 3, 4


def activation(number: int, values: np.ndarray) -> np.ndarray:
    """float64, from the definitions."""
    values = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        if number == RELU:
            return np.maximum(values, 0)
        if number == GELU_ERF:
            return values * np.vectorize(math.erfc, otypes=[float])(-values / math.sqrt(2)) / 2
        if number == GELU_TANH:
            return values / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))
        return values / (1 + np.exp(-values)) if number == SILU else values


def grouped(values: np.ndarray, size: int) -> np.ndarray:
    """[rows][groups][size], zeros at the end of a ragged last group."""
    rows, k = values.shape
    groups = -(-k // size)
    full = np.zeros((rows, groups * size), values.dtype)
    full[:, :k] = values
    return full.reshape(rows, groups, size)


def int8_activations(x: np.ndarray, size: int, scales: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Codes [m][groups][size] and float32 steps [m][groups] of finite x; `scales` are those of the caller."""
    groups = grouped(np.asarray(x, np.float32), size)
    if scales is not None:
        steps = np.broadcast_to(np.asarray(scales, np.float32), groups.shape[:2])
        codes = np.rint(groups * (np.float32(1) / steps)[:, :, None])
        return np.clip(codes, -127, 127).astype(np.int64), steps
    largest = np.abs(groups).max(axis=2)
    safe = np.where(largest < 2.0**-100, np.float32(1), largest)
    steps = np.where(largest < 2.0**-100, np.float32(0), largest / np.float32(127))
    codes = np.rint(groups * (np.float32(127) / safe)[:, :, None])
    return np.where(steps[:, :, None] == 0, 0, codes).astype(np.int64), steps


def codebook_levels(values: object) -> tuple[np.ndarray, np.float32]:
    """What INT8 mode makes of a codebook: 16 integers, and what to multiply scales with."""
    table = np.asarray(values, np.float32)
    largest = np.abs(table).max()
    levels = np.rint(table.astype(np.float64) * 127 / float(largest)).astype(np.int64)
    return levels, largest / np.float32(127)


@dataclasses.dataclass
class Int8Product:
    """y[m][n] in float64, and the sum of the magnitudes of the terms that binary32 adds up."""

    y: np.ndarray
    magnitude: np.ndarray


def int8_product(codes_x: np.ndarray, steps: np.ndarray, codes: np.ndarray, scales: np.ndarray,
                 zero_points: np.ndarray, offsets: np.ndarray, scheme: object) -> Int8Product:
    """INT8 mode on integers, with nothing rounded but what it stores: steps, scales and offsets are float32 values."""
    kind, size = int(scheme.kind), codes_x.shape[2]
    k = codes.shape[1]
    if kind == CODEBOOK:
        levels, factor = codebook_levels(scheme.codebook_values)
        scales = scales * factor
        centred = levels[codes]
    else:
        zero = np.repeat(zero_points, size, axis=1)[:, :k] if kind == ASYMMETRIC else 8
        centred = codes.astype(np.int64) - zero
    dots = np.einsum("mgs,ngs->mng", codes_x, grouped(centred, size))
    weighted = dots * scales.astype(np.float64)[None] * steps.astype(np.float64)[:, None]
    terms = np.abs(weighted)
    if kind == OFFSET:
        sums = codes_x.sum(axis=2)
        centre = 8 * scales.astype(np.float64) + offsets
        shares = (sums * steps.astype(np.float64))[:, None] * centre[None]
        weighted, terms = weighted + shares, terms + np.abs(shares)
    return Int8Product(weighted.sum(axis=2), terms.sum(axis=2))
