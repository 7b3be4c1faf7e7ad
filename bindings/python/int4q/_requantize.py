"""Integer-only inference: from int32 sums to the codes of the next layer, as gemmlowp and TensorFlow Lite do it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from . import _native
from ._enums import CodesType
from ._rows import for_rows

_DTYPES = {
    CodesType.INT8: np.int8,
    CodesType.UINT8: np.uint8,
    CodesType.INT4: np.uint8,
    CodesType.UINT4: np.uint8,
    CodesType.INT32: np.int32,
}
_RANGES = {
    CodesType.INT8: (-128, 127),
    CodesType.UINT8: (0, 255),
    CodesType.INT4: (-8, 7),
    CodesType.UINT4: (0, 15),
    CodesType.INT32: (-(2**31), 2**31 - 1),
}


def requantize_multiplier(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """int32 multipliers and shifts, of the shape of values: each value is multiplier * 2**(shift - 31).

    Rounded to nearest, halves up. values: float64 of at least 0 and below 2**30, as s_x * s_w / s_y. What is below
    2**-32 becomes 0. Raises InvalidArgumentError for others.

    >>> multiplier, shift = requantize_multiplier(0.75)
    >>> int(multiplier) == 3 << 29, int(shift)
    (True, 0)
    """
    source = np.asarray(values, np.float64)
    source = np.array(source, order="C")
    multipliers, shifts = np.empty(source.shape, np.int32), np.empty(source.shape, np.int32)
    _native.call(
        "int4q_requantize_multiplier", source.ctypes.data, source.size, multipliers.ctypes.data, shifts.ctypes.data
    )
    return multipliers, shifts


def requantize(
    sums: Any,
    multipliers: Any,
    shifts: Any,
    *,
    bias: Any = None,
    zero_point: int = 0,
    codes_type: CodesType = CodesType.INT8,
    low: int | None = None,
    high: int | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Codes of int32 sums[m][n]: sum + bias, times multiplier * 2**(shift - 31), plus zero_point, within low..high.

    sums         any integer product of yours, such as x_codes.astype(np.int32) @ w_codes.astype(np.int32).T
    multipliers  int32, one or n of them, and shifts likewise: what requantize_multiplier() gives, or any others with
                 shifts in -31..30
    bias         int32[n] or None; the place, too, for -z_x times the sums of (q_w - z_w)
    low, high    the type's ends if not given; zero_point as low is ReLU

    Returns int8[m][n] (INT8), uint8[m][n] (UINT8), int32[m][n] (INT32), or uint8[m][ceil(n / 2)] of nibbles, rows of
    which unpack_nibbles() reads. Rounding: include/int4q.h, section 11. The same bits as gemmlowp's reference.
    """
    source = _int32(sums, "sums", 2)
    rows, columns = source.shape
    codes_type = CodesType(codes_type)
    by, shift = _int32(multipliers, "multipliers"), _int32(shifts, "shifts")
    if by.shape != shift.shape or by.size not in (1, columns):
        raise ValueError(f"multipliers has shape {by.shape}, shifts {shift.shape}; expected 1 or {columns} of each")
    added = None if bias is None else _int32(bias, "bias")
    if added is not None and added.shape != (columns,):
        raise ValueError(f"bias has shape {added.shape}; expected ({columns},)")
    is_packed = codes_type in (CodesType.INT4, CodesType.UINT4)
    codes = np.empty((rows, (columns + 1) // 2 if is_packed else columns), _DTYPES[codes_type])
    least, largest = _RANGES[codes_type]
    struct = _native.RequantizationStruct(
        codes_type=int(codes_type),
        n=columns,
        multiplier_count=by.size,
        multipliers=by.ctypes.data,
        shifts=shift.ctypes.data,
        bias=None if added is None else added.ctypes.data,
        zero_point=zero_point,
        low=least if low is None else low,
        high=largest if high is None else high,
    )
    stride = columns if rows <= 1 else source.strides[0] // 4

    def work(begin: int, end: int) -> None:
        _native.call(
            "int4q_requantize_rows",
            ctypes.byref(struct),
            source.ctypes.data,
            stride,
            rows,
            codes.ctypes.data,
            codes.nbytes,
            begin,
            end,
        )

    for_rows(work, rows, columns, threads)
    return codes


def _int32(value: Any, name: str, dimensions: int | None = None) -> np.ndarray:
    """int32, C order; other integers only if all are in its range. A matrix may have room between its rows."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; expected int32")
    if dimensions is not None and array.ndim != dimensions:
        raise ValueError(f"{name} has {array.ndim} dimensions; expected {dimensions}")
    if array.dtype != np.int32:
        if array.size and (array.max() > 2**31 - 1 or array.min() < -(2**31)):
            raise ValueError(f"{name} has values beyond int32")
        array = array.astype(np.int32)
    is_readable = array.ndim == 2 and array.strides[1] == 4 and array.strides[0] >= 4 * array.shape[1]
    if is_readable and array.strides[0] % 4 == 0 and array.flags.aligned:
        return array
    return np.ascontiguousarray(array)
