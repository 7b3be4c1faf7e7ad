"""Codebooks: sixteen values that codes stand for."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import aligned_bytes, input_matrix
from ._enums import Codebook

_Values = ctypes.c_float * 16


def _tuple(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def codebook_values(which: Codebook) -> tuple[float, ...]:
    """The 16 values of a codebook that has a name, by their codes. For `Scheme.codebook`."""
    values = _Values()
    _native.call("int4q_codebook_get", which, values)
    return _tuple(values)


def linear_bins(minimum: float, maximum: float, levels: int = 16) -> tuple[float, ...]:
    """The middles of 15 or 16 equal bins of a range; of 15, the last one twice.

    For `Scheme.codebook(..., scale_rule=ScaleRule.ONE)`.
    """
    values = _Values()
    _native.call("int4q_codebook_linear_bins", minimum, maximum, levels, values)
    return _tuple(values)


@dataclasses.dataclass(frozen=True)
class FittedCodebook:
    """Sixteen values, ascending, and the (weighted) mean squared error that they leave."""

    values: tuple[float, ...]
    mse: float


def fit_codebook(
    weights: Any,
    importance: Any = None,
    *,
    rows: tuple[int, int] | None = None,
    element_type: Any = None,
) -> FittedCodebook:
    """The 16 values that leave weights[n][k] with the least squared error: optimal one-dimensional k-means.

    `importance`, float32, weighs the squared errors: [n][k], or [k] for all rows. `rows` (begin, end) looks at those
    alone. For `Scheme.codebook(..., scale_rule=ScaleRule.ONE)`. Raises NotFiniteError with row and column.
    """
    source = input_matrix(weights, "weights", element_type)
    begin, end = rows if rows is not None else (0, source.rows)
    scale, scale_stride = None, 0
    if importance is not None:
        array = np.asarray(importance, np.float32)
        if array.shape not in ((source.rows, source.columns), (source.columns,)):
            expected = f"{(source.rows, source.columns)} or {(source.columns,)}"
            raise ValueError(f"importance has shape {array.shape}; expected {expected}")
        scale = np.ascontiguousarray(array)
        scale_stride = source.columns if array.ndim == 2 else 0
    size = ctypes.c_uint64()
    _native.call("int4q_codebook_fit_scratch", ctypes.byref(size))
    scratch = aligned_bytes(size.value)
    values, mse = _Values(), ctypes.c_double()
    _native.call(
        "int4q_codebook_fit",
        source.pointer,
        source.element_type,
        source.stride,
        source.rows,
        source.columns,
        begin,
        end,
        None if scale is None else scale.ctypes.data,
        scale_stride,
        scratch.ctypes.data,
        size,
        values,
        ctypes.byref(mse),
    )
    return FittedCodebook(_tuple(values), mse.value)
