"""Requantization against gemmlowp's results and against fractions in Python's integers."""

from __future__ import annotations

import fractions
import math
import pathlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import int4q
from int4q import CodesType

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "ctests" / "vectors" / "requantization.bin"
HALF = fractions.Fraction(1, 2)
INT32 = st.integers(-(2**31), 2**31 - 1)
ENDS = st.one_of(st.integers(-(2**31), -(2**31) + 2), st.integers(2**31 - 3, 2**31 - 1))
LIMITS = {
    CodesType.INT8: (-128, 127),
    CodesType.UINT8: (0, 255),
    CodesType.INT4: (-8, 7),
    CodesType.UINT4: (0, 15),
    CodesType.INT32: (-(2**31), 2**31 - 1),
}


def clip(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def rescaled(sum_: int, multiplier: int, shift: int) -> int:
    """Both roundings, in exact fractions."""
    if shift > 0:
        sum_ = clip(sum_ << shift, -(2**31), 2**31 - 1)
    high = clip(math.floor(fractions.Fraction(sum_ * multiplier, 2**31) + HALF), -(2**31), 2**31 - 1)
    if shift >= 0:
        return high
    magnitude = math.floor(fractions.Fraction(abs(high), 2**-shift) + HALF)
    return magnitude if high >= 0 else -magnitude


def codes_of(array: np.ndarray, codes_type: CodesType, columns: int) -> np.ndarray:
    if codes_type not in (CodesType.INT4, CodesType.UINT4):
        return array
    signed = codes_type == CodesType.INT4
    return np.stack([int4q.unpack_nibbles(row, columns, signed=signed) for row in array])


@given(st.sampled_from(list(CodesType)), st.integers(1, 40), st.booleans(), st.data())
def test_requantize(codes_type: CodesType, n: int, per_column: bool, data: Any) -> None:
    m = 2
    draw = lambda strategy, count: data.draw(st.lists(strategy, min_size=count, max_size=count))  # noqa: E731
    near_ends = st.one_of(INT32, st.integers(-300, 300), ENDS)
    sums = np.array(draw(near_ends, m * n), np.int64).reshape(m, n)
    count = n if per_column else 1
    multipliers, shifts = draw(near_ends, count), draw(st.integers(-31, 30), count)
    bias = data.draw(st.none() | st.lists(INT32, min_size=n, max_size=n))
    limits = LIMITS[codes_type]
    low, high = sorted(draw(st.integers(*limits), 2))
    zero_point = data.draw(st.integers(*limits))
    found = int4q.requantize(
        sums, multipliers, shifts, bias=bias, zero_point=zero_point, codes_type=codes_type, low=low, high=high
    )
    found = codes_of(found, codes_type, n)
    for (i, j), code in np.ndenumerate(found):
        added = int(np.int64(sums[i, j] + (bias[j] if bias else 0)).astype(np.int32))
        value = rescaled(added, multipliers[j % count], shifts[j % count])
        assert code == clip(value + zero_point, low, high), (i, j)


def test_gemmlowp() -> None:
    numbers = np.fromfile(VECTORS, np.int32, 1 << 15)
    s, t = numbers[:2]
    sums, multipliers = numbers[2 : 2 + s], numbers[2 + s : 2 + s + t]
    start = 2 + s + t
    grid = numbers[start : start + 62 * s * t].reshape(62, t, s)
    for place, shift in enumerate(range(-31, 31)):
        # Transposed: a column for each multiplier.
        wide = np.repeat(sums[:, None], t, 1)
        found = int4q.requantize(wide, multipliers, np.full(t, shift), codes_type=CodesType.INT32)
        assert np.array_equal(found.T, grid[place])
        assert [[rescaled(int(a), int(b), shift) for a in sums] for b in multipliers] == grid[place].tolist()


@given(st.floats(0, 2.0**29, allow_nan=False))
def test_multiplier(value: float) -> None:
    multiplier, shift = (int(part) for part in int4q.requantize_multiplier(value))
    if multiplier == 0:
        assert shift == 0 and value < 2.0**-32
        return
    assert 2**30 <= multiplier < 2**31 and -31 <= shift <= 30
    exact = fractions.Fraction(value) / fractions.Fraction(2) ** (shift - 31)
    # Nearest, halves up; where rounding gave one bit more it was halved.
    assert multiplier == math.floor(exact + HALF) or (multiplier == 2**30 and exact >= 2**30 - HALF / 2)


def test_multipliers_keep_their_shape() -> None:
    multipliers, shifts = int4q.requantize_multiplier([[0.75, 2.0], [0.0, 2.0**-31]])
    assert multipliers.tolist() == [[3 << 29, 1 << 30], [0, 1 << 30]] and shifts.tolist() == [[0, 2], [0, -30]]
    for bad in (-1.0, 2.0**30, float("nan"), float("inf")):
        with pytest.raises(int4q.InvalidArgumentError, match=r"values"):
            int4q.requantize_multiplier([1.0, bad])


def test_an_integer_layer_is_near_the_float_one(generator: np.random.Generator) -> None:
    """End to end: int8 activations with a zero point, 4-bit weights, int8 results, against the layer in float64."""
    x, w = generator.standard_normal((16, 96)), generator.standard_normal((40, 96))
    bias = generator.standard_normal(40)
    x_scale, x_zero = (x.max() - x.min()) / 255, int(round(-128 - x.min() / ((x.max() - x.min()) / 255)))
    x_codes = np.clip(np.round(x / x_scale) + x_zero, -128, 127).astype(np.int32)
    w_scales = np.abs(w).max(1) / 7
    w_codes = np.clip(np.round(w / w_scales[:, None]), -8, 7).astype(np.int32)
    real = (x_scale * (x_codes - x_zero)) @ (w_scales[:, None] * w_codes).T + bias
    y_scale = (real.max() - real.min()) / 255
    y_zero = int(round(-128 - real.min() / y_scale))
    folded = np.round(bias / (x_scale * w_scales)).astype(np.int64) - x_zero * w_codes.sum(1)
    multipliers, shifts = int4q.requantize_multiplier(x_scale * w_scales / y_scale)
    codes = int4q.requantize(x_codes @ w_codes.T, multipliers, shifts, bias=folded, zero_point=y_zero)
    assert codes.dtype == np.int8
    assert np.abs(y_scale * (codes.astype(np.int32) - y_zero) - real).max() < 0.6 * y_scale
    rectified = int4q.requantize(x_codes @ w_codes.T, multipliers, shifts, bias=folded, zero_point=y_zero, low=y_zero)
    assert np.array_equal(rectified, np.maximum(codes, y_zero))


def test_threads_and_views(generator: np.random.Generator) -> None:
    sums = generator.integers(-(2**31), 2**31, (300, 700)).astype(np.int32)
    multipliers, shifts = int4q.requantize_multiplier(generator.uniform(1e-9, 1e-7, 640))
    for codes_type in CodesType:
        whole = int4q.requantize(sums[:, :640].copy(), multipliers, shifts, codes_type=codes_type, threads=1)
        view = int4q.requantize(sums[:, :640], multipliers, shifts, codes_type=codes_type, threads=3)
        assert np.array_equal(view, whole)
        fortran = np.asfortranarray(sums[:, :640])
        assert np.array_equal(int4q.requantize(fortran, multipliers, shifts, codes_type=codes_type), whole)


def test_wrong_arrays() -> None:
    sums = np.zeros((2, 3), np.int32)
    with pytest.raises(TypeError, match="sums has dtype float64"):
        int4q.requantize(np.zeros((2, 3)), [1 << 30], [0])
    with pytest.raises(ValueError, match="beyond int32"):
        int4q.requantize(np.full((2, 3), 2**31), [1 << 30], [0])
    with pytest.raises(ValueError, match="multipliers has shape"):
        int4q.requantize(sums, [1, 2], [0, 0])
    with pytest.raises(ValueError, match="bias has shape"):
        int4q.requantize(sums, [1 << 30], [0], bias=[1, 2])
    with pytest.raises(int4q.InvalidArgumentError, match="zero_point is 128"):
        int4q.requantize(sums, [1 << 30], [0], zero_point=128)
    with pytest.raises(int4q.InvalidArgumentError, match="shifts"):
        int4q.requantize(sums, [1 << 30], [31])
