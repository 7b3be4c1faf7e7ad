"""Codebooks: sixteen values that codes stand for."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, aligned_bytes, input_matrix
from ._enums import Codebook
from ._rows import for_rows

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
    return _Fitter(source, importance).fit(begin, end, _scratch())


@dataclasses.dataclass(frozen=True)
class FittedRowCodebooks:
    """Sixteen values for each row, float32[n][16], ascending, and the (weighted) mean squared errors, float64[n]."""

    values: np.ndarray
    mse: np.ndarray


def fit_row_codebooks(
    weights: Any, importance: Any = None, *, element_type: Any = None, threads: int | None = None
) -> FittedRowCodebooks:
    """`fit_codebook` for each row of weights[n][k] by itself; `importance` is as there, above 0 somewhere in each row.

    For `Scheme.codebook(fit.values, PER_ROW, scale_rule=ScaleRule.ONE)`. A row of zeros gets fifteen of them and a 1,
    since a codebook of zeros is none.
    """
    source = input_matrix(weights, "weights", element_type)
    fitter = _Fitter(source, importance)
    values, mse = np.zeros((source.rows, 16), np.float32), np.zeros(source.rows, np.float64)

    def work(begin: int, end: int) -> None:
        scratch = _scratch()
        for row in range(begin, end):
            fitted = fitter.fit(row, row + 1, scratch)
            values[row], mse[row] = fitted.values, fitted.mse

    for_rows(work, source.rows, source.columns, threads)
    values[~values.any(axis=1), 15] = 1
    return FittedRowCodebooks(values, mse)


def _scratch() -> np.ndarray:
    size = ctypes.c_uint64()
    _native.call("int4q_codebook_fit_scratch", ctypes.byref(size))
    return aligned_bytes(size.value)


class _Fitter:
    """Weights and their importance, for any number of calls."""

    def __init__(self, source: Matrix, importance: Any) -> None:
        self.source = source
        self.importance: np.ndarray | None = None
        if importance is not None:
            array = np.asarray(importance, np.float32)
            if array.shape not in ((source.rows, source.columns), (source.columns,)):
                expected = f"{(source.rows, source.columns)} or {(source.columns,)}"
                raise ValueError(f"importance has shape {array.shape}; expected {expected}")
            self.importance = np.ascontiguousarray(array)

    def fit(self, begin: int, end: int, scratch: np.ndarray) -> FittedCodebook:
        values, mse = _Values(), ctypes.c_double()
        importance = self.importance
        _native.call(
            "int4q_codebook_fit",
            self.source.pointer,
            self.source.element_type,
            self.source.stride,
            self.source.rows,
            self.source.columns,
            begin,
            end,
            None if importance is None else importance.ctypes.data,
            self.source.columns if importance is not None and importance.ndim == 2 else 0,
            scratch.ctypes.data,
            scratch.nbytes,
            values,
            ctypes.byref(mse),
        )
        return FittedCodebook(_tuple(values), mse.value)
