"""Outliers kept in full precision beside 4-bit weights, and GOBO's centroids for the rest."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, aligned_bytes, as_type, input_matrix, new_matrix, output_matrix
from ._enums import Type
from ._operands import input_rows
from ._rows import for_rows
from ._scheme import Scheme
from ._tensor import QuantizedTensor, quantize


@dataclasses.dataclass(frozen=True)
class OutlierFit:
    """Which weights are outliers: those below `lowest` or above `highest`.

    `of` fits a normal distribution, as GOBO does; with another rule in mind give the two bounds yourself:
    OutlierFit(mean=0.0, lowest=-0.3, highest=0.3).
    """

    mean: float
    lowest: float
    highest: float
    sigma: float = 0.0
    limit: float = 0.0

    @classmethod
    def of(
        cls, weights: Any, log_density: float = -4.0, *, element_type: Any = None, threads: int | None = None
    ) -> OutlierFit:
        """The normal distribution of weights[n][k]; outliers are where its log-density is below `log_density`."""
        source = input_matrix(weights, "weights", element_type)
        moments = row_moments(source, threads)
        fit = _native.OutlierFitStruct()
        _native.call(
            "int4q_outliers_fit", moments.ctypes.data, source.rows, source.columns, log_density, ctypes.byref(fit)
        )
        return cls(fit.mean, fit.lowest, fit.highest, fit.sigma, fit.limit)

    def as_struct(self) -> _native.OutlierFitStruct:
        return _native.OutlierFitStruct(
            mean=self.mean, sigma=self.sigma, limit=self.limit, lowest=self.lowest, highest=self.highest
        )


def row_moments(source: Matrix, threads: int | None) -> np.ndarray:
    """float64[n][2]: each row's mean and the sum of squared distances from it."""
    moments = np.empty((source.rows, 2), np.float64)

    def work(begin: int, end: int) -> None:
        _native.call("int4q_outliers_moments", *_matrix(source), moments.ctypes.data, begin, end)

    for_rows(work, source.rows, source.columns, threads)
    return moments


def _matrix(source: Matrix) -> tuple[int, int, int, int, int]:
    """pointer, type, n, k, stride"""
    return source.pointer, source.element_type, source.rows, source.columns, source.stride


@dataclasses.dataclass(frozen=True)
class SparseMatrix:
    """An n x k matrix in compressed rows: elements row_offsets[i]..row_offsets[i + 1] - 1 are row i's.

    row_offsets  int64[n + 1]
    columns      int32, ascending in each row
    values       float32
    """

    n: int
    k: int
    row_offsets: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        for name, array, dtype, size in (
            ("row_offsets", self.row_offsets, np.int64, self.n + 1),
            ("columns", self.columns, np.int32, len(self.values)),
            ("values", self.values, np.float32, len(self.columns)),
        ):
            if array.dtype != dtype:
                raise TypeError(f"{name} has dtype {array.dtype}; expected {np.dtype(dtype)}")
            if array.shape != (size,) or not array.flags.c_contiguous:
                raise ValueError(f"{name} has shape {array.shape}; expected ({size},), contiguous")

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        return int(self.row_offsets.nbytes + self.columns.nbytes + self.values.nbytes)

    def as_struct(self) -> _native.SparseStruct:
        """The C struct over these arrays, which must outlive it."""
        return _native.SparseStruct(
            n=self.n,
            k=self.k,
            capacity=self.count,
            row_offsets=self.row_offsets.ctypes.data,
            columns=self.columns.ctypes.data,
            values=self.values.ctypes.data,
        )

    def dense(self) -> np.ndarray:
        """float32[n][k] with zeros where there is no element."""
        result = np.zeros((self.n, self.k), np.float32)
        rows = np.repeat(np.arange(self.n), np.diff(self.row_offsets))
        result[rows, self.columns] = self.values
        return result

    def add_product(self, x: Any, y: np.ndarray, *, element_type: Any = None, threads: int | None = None) -> np.ndarray:
        """y[..., n] += x[..., k] * S^T in place, each sum in float64; returns y."""
        rows, leading = input_rows(x, self.k, element_type)
        if y.shape != (*leading, self.n):
            raise ValueError(f"y has shape {y.shape}; expected {(*leading, self.n)}")
        flat = y if y.ndim == 2 else y.reshape(-1, self.n)
        if not np.shares_memory(flat, y) and y.size:
            raise ValueError(f"y has strides {y.strides}; expected ones that allow it to be seen as rows")
        hint = Type.BF16 if y.dtype == np.uint16 else None
        target = output_matrix(flat, "y", flat.shape, hint)
        struct = self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_sparse_add",
                ctypes.byref(struct),
                rows.rows,
                rows.pointer,
                rows.element_type,
                rows.stride,
                target.pointer,
                target.element_type,
                target.stride,
                begin,
                end,
            )

        if rows.rows:
            for_rows(work, self.n, max(1, self.count * rows.rows // self.n), threads)
        return y

    def correct(
        self, tensor: QuantizedTensor, weights: Any, *, element_type: Any = None, threads: int | None = None
    ) -> None:
        """Sets each value to its weight less what `tensor`, the dense part quantized, gives in its place."""
        source = input_matrix(weights, "weights", element_type)
        if (source.rows, source.columns) != tensor.shape:
            raise ValueError(f"weights has shape {(source.rows, source.columns)}; expected {tensor.shape}")
        struct, sparse = tensor.as_struct(), self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_outliers_correct",
                ctypes.byref(struct),
                source.pointer,
                source.element_type,
                source.stride,
                ctypes.byref(sparse),
                begin,
                end,
            )

        for_rows(work, self.n, max(1, self.count // self.n), threads)


def split_outliers(
    weights: Any,
    fit: OutlierFit | None = None,
    *,
    dense_type: Any = np.float32,
    element_type: Any = None,
    threads: int | None = None,
) -> tuple[np.ndarray, SparseMatrix]:
    """Splits weights[n][k] into a dense part without outliers (the mean in their places) and the outliers.

    Without `fit` it is OutlierFit.of(weights). Quantize the dense part, then call SparseMatrix.correct with it: from then on
    the dequantized dense part and the sparse one add up to the weight wherever there is an outlier.
    """
    source = input_matrix(weights, "weights", element_type)
    if fit is None:
        fit = OutlierFit.of(source.array, element_type=source.element_type, threads=threads)
    fit_struct = fit.as_struct()
    offsets = np.empty(source.rows + 1, np.int64)

    def count(begin: int, end: int) -> None:
        _native.call(
            "int4q_outliers_count",
            ctypes.byref(fit_struct),
            *_matrix(source),
            offsets.ctypes.data,
            begin,
            end,
        )

    for_rows(count, source.rows, source.columns, threads)
    total = ctypes.c_int64()
    _native.call(
        "int4q_sparse_offsets", offsets.ctypes.data, source.rows, offsets.ctypes.data, ctypes.byref(total)
    )
    sparse = SparseMatrix(
        source.rows, source.columns, offsets, np.empty(total.value, np.int32), np.empty(total.value, np.float32)
    )
    dense = new_matrix(source.rows, source.columns, as_type(dense_type))
    struct = sparse.as_struct()

    def split(begin: int, end: int) -> None:
        _native.call(
            "int4q_outliers_split",
            ctypes.byref(fit_struct),
            source.pointer,
            source.element_type,
            source.stride,
            ctypes.byref(struct),
            dense.pointer,
            dense.element_type,
            dense.stride,
            begin,
            end,
        )

    for_rows(split, source.rows, source.columns, threads)
    return dense.array, sparse


def gobo_centroids(
    weights: Any, fit: OutlierFit | None = None, *, element_type: Any = None
) -> tuple[np.ndarray, int, float]:
    """GOBO's 16 centroids (float32, ascending) for the weights that are not outliers of `fit` (None: for all), how often they
    were moved, and the mean distance of a weight from its centroid."""
    source = input_matrix(weights, "weights", element_type)
    size = ctypes.c_uint64()
    _native.call("int4q_gobo_scratch_size", source.rows, source.columns, ctypes.byref(size))
    scratch = aligned_bytes(size.value)
    centroids = np.empty(16, np.float32)
    iterations, error = ctypes.c_int64(), ctypes.c_double()
    _native.call(
        "int4q_gobo_centroids",
        None if fit is None else ctypes.byref(fit.as_struct()),
        *_matrix(source),
        scratch.ctypes.data,
        scratch.nbytes,
        centroids.ctypes.data,
        ctypes.byref(iterations),
        ctypes.byref(error),
    )
    return centroids, iterations.value, error.value


def gobo_quantize(
    weights: Any, log_density: float = -4.0, *, element_type: Any = None, threads: int | None = None
) -> tuple[QuantizedTensor, SparseMatrix]:
    """All of GOBO: a codebook tensor with 16 centroids and scale 1, and the outliers that make up for the rest.

    The product is `y = tensor.pack().matmul(x)` and then `sparse.add_product(x, y)`.
    """
    source = input_matrix(weights, "weights", element_type)
    kind = {"element_type": source.element_type}
    fit = OutlierFit.of(source.array, log_density, threads=threads, **kind)
    dense, sparse = split_outliers(source.array, fit, threads=threads, **kind)
    centroids, _, _ = gobo_centroids(source.array, fit, **kind)
    tensor = quantize(dense, Scheme.gobo(centroids.tolist()), threads=threads)
    sparse.correct(tensor, source.array, threads=threads, **kind)
    return tensor, sparse
