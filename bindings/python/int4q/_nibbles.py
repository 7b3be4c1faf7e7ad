"""4-bit integers outside tensors: packed two to a byte, and the quantizer of textbooks."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._enums import Int4Method, NibbleOrder

_SIGNED = 1
_PUBLISHED = 1


def _block(order: NibbleOrder, block: int | None) -> int:
    if block is None:
        return 32 if order == NibbleOrder.SPLIT_HALF else 0
    return block


def _packed_bytes(count: int, order: NibbleOrder, block: int) -> int:
    if order == NibbleOrder.SPLIT_HALF and block >= 2:
        return -(-count // block) * (block // 2)
    return (count + 1) // 2


def pack_nibbles(
    values: Any, order: NibbleOrder = NibbleOrder.LOW_FIRST, *, block: int | None = None
) -> np.ndarray:
    """uint8 of two values each. int8 values are -8..7, uint8 ones 0..15; other dtypes are refused.

    `block` is SPLIT_HALF's, 32 if not given. Places without a value are 0. Raises InvalidArgumentError with the index
    of a value out of range.
    """
    array = np.asarray(values)
    if array.dtype not in (np.int8, np.uint8) or array.ndim != 1:
        raise TypeError(f"values has dtype {array.dtype} and {array.ndim} dimensions; expected int8 or uint8 and 1")
    array = np.ascontiguousarray(array)
    chosen = _block(order, block)
    packed = np.empty(_packed_bytes(len(array), order, chosen), np.uint8)
    flags = _SIGNED if array.dtype == np.int8 else 0
    _native.call(
        "int4q_nibbles_pack", array.ctypes.data, len(array), order, chosen, flags, packed.ctypes.data, packed.nbytes
    )
    return packed


def unpack_nibbles(
    packed: Any,
    count: int | None = None,
    order: NibbleOrder = NibbleOrder.LOW_FIRST,
    *,
    block: int | None = None,
    signed: bool = True,
) -> np.ndarray:
    """The inverse of `pack_nibbles`: int8, or with signed=False uint8. `count` is two for each byte if not given."""
    array = np.ascontiguousarray(packed)
    if array.dtype not in (np.int8, np.uint8) or array.ndim != 1:
        raise TypeError(f"packed has dtype {array.dtype} and {array.ndim} dimensions; expected uint8 or int8 and 1")
    wanted = 2 * len(array) if count is None else count
    values = np.empty(max(wanted, 0), np.int8 if signed else np.uint8)
    flags = _SIGNED if signed else 0
    _native.call(
        "int4q_nibbles_unpack",
        array.ctypes.data,
        array.nbytes,
        wanted,
        order,
        _block(order, block),
        flags,
        values.ctypes.data,
    )
    return values


@dataclasses.dataclass(frozen=True)
class Int4Array:
    """int8 codes in -8..7 with one scale: value = (code - zero_point) * scale."""

    codes: np.ndarray
    scale: float
    zero_point: int


def quantize_int4(values: Any, method: Int4Method = Int4Method.MINMAX, *, published: bool = False) -> Int4Array:
    """Quantizes an array of any shape with one scale for all of it (rounded to float32 first).

    MINMAX uses the range with 0 included and a zero point, ABSMAX the largest magnitude. `published` does what the
    package at quantize.readthedocs.io does, defects included. For weights use `quantize`.
    """
    array = np.ascontiguousarray(np.asarray(values, np.float32))
    codes = np.empty(array.shape, np.int8)
    scale, zero_point = ctypes.c_float(), ctypes.c_int32()
    _native.call(
        "int4q_quantize_int4_values",
        array.ctypes.data,
        array.size,
        method,
        _PUBLISHED if published else 0,
        codes.ctypes.data,
        ctypes.byref(scale),
        ctypes.byref(zero_point),
    )
    return Int4Array(codes, scale.value, zero_point.value)


def dequantize_int4(array: Int4Array) -> np.ndarray:
    """The float32 values that codes stand for."""
    codes = np.ascontiguousarray(np.asarray(array.codes, np.int8))
    values = np.empty(codes.shape, np.float32)
    _native.call(
        "int4q_dequantize_int4_values",
        codes.ctypes.data,
        codes.size,
        array.scale,
        array.zero_point,
        values.ctypes.data,
    )
    return values
