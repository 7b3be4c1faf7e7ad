"""How far two matrices are apart."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, input_matrix, to_numpy


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Errors of a candidate against a reference, computed in float64."""

    mse: float
    sqnr_db: float
    cosine: float
    max_abs_error: float
    max_error_row: int
    max_error_column: int


def _matrix(value: Any, name: str, element_type: Any) -> Matrix:
    array, hint = to_numpy(value, element_type)
    if array.ndim == 0:
        raise ValueError(f"{name} has no dimensions; expected at least 1")
    return input_matrix(array if array.ndim == 2 else array.reshape(-1, array.shape[-1]), name, hint)


def compare(
    reference: Any, candidate: Any, *, reference_type: Any = None, candidate_type: Any = None
) -> Metrics:
    """Compares two arrays of the same shape. All dimensions but the last count as rows.

    Raises NotFiniteError with row and column for NaN or infinity in either.
    """
    if np.shape(reference) != np.shape(candidate):
        raise ValueError(f"candidate has shape {np.shape(candidate)}; expected {np.shape(reference)}")
    left = _matrix(reference, "reference", reference_type)
    right = _matrix(candidate, "candidate", candidate_type)
    struct = _native.MetricsStruct()
    _native.call(
        "int4q_compare",
        left.pointer,
        left.element_type,
        left.stride,
        right.pointer,
        right.element_type,
        right.stride,
        left.rows,
        left.columns,
        ctypes.byref(struct),
    )
    return Metrics(
        struct.mse,
        struct.sqnr_db,
        struct.cosine,
        struct.max_abs_error,
        int(struct.max_error_row),
        int(struct.max_error_column),
    )
