"""Transformations: Hadamard rotations, low-rank residuals, channel reassembly."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, aligned_bytes, as_type, input_matrix, is_bfloat16_bits, new_matrix, output_matrix
from ._enums import LowRankFlag, ReassemblyFlag, Type
from ._pool import Pool
from ._reconstruction import GramMatrix, _size, _spread
from ._rows import for_rows
from ._tensor import QuantizedTensor

# ---- Rotation ------------------------------------------------------------------------------------------------------


def hadamard_order(k: int) -> int:
    """The largest order of a Hadamard matrix, 2^a, 12 * 2^a, 20 * 2^a or 28 * 2^a, that divides k.

    >>> hadamard_order(4096), hadamard_order(14336), hadamard_order(576)
    (4096, 14336, 192)
    """
    order = ctypes.c_int64()
    _native.call("int4q_hadamard_order", k, ctypes.byref(order))
    return order.value


def hadamard(
    matrix: Any,
    order: int | None = None,
    *,
    seed: int = 0,
    columns: bool = False,
    inverse: bool = False,
    dtype: Any = None,
    out: np.ndarray | None = None,
    element_type: Any = None,
    threads: int | None = None,
) -> np.ndarray:
    """matrix[n][k] with each row x replaced by H (s * x), block by block of `order` elements; `inverse` undoes it.

    H is orthogonal with elements +-1 / sqrt(order). Rotate x and the rows of W alike, and x W^T stays what it was, while outliers
    are spread over their block.

    order    None: the largest that divides the length of a row
    seed     of the random signs s; 0: none
    columns  each column (n elements) is transformed instead: W on the side of its outputs
    out      where to write, of any of the types, or the matrix itself; else a new array of the matrix's type or `dtype`
    """
    source = input_matrix(matrix, "matrix", element_type)
    chosen = hadamard_order(source.rows if columns else source.columns) if order is None else order
    if out is not None:
        target = output_matrix(out, "out", (source.rows, source.columns), Type.BF16 if is_bfloat16_bits(out) else None)
    else:
        target = new_matrix(source.rows, source.columns, source.element_type if dtype is None else as_type(dtype))
    size = _size("int4q_hadamard_scratch", chosen, int(columns), target.element_type)

    def work(begin: int, end: int) -> None:
        scratch = aligned_bytes(size)
        _native.call(
            "int4q_hadamard_transform",
            chosen,
            seed,
            int(columns),
            int(inverse),
            source.pointer,
            source.element_type,
            source.stride,
            target.pointer,
            target.element_type,
            target.stride,
            source.rows,
            source.columns,
            scratch.ctypes.data,
            size,
            begin,
            end,
        )

    if columns:
        for_rows(work, source.columns, source.rows, threads, 16)
    else:
        for_rows(work, source.rows, source.columns, threads)
    return target.array


def rotate_gram(
    gram: GramMatrix, order: int | None = None, *, seed: int = 0, inverse: bool = False, pool: Pool | None = None
) -> GramMatrix:
    """The Gram matrix of inputs rotated as `hadamard` does, in binary64.

    Sums of magnitudes and maxima of the new channels cannot be known and are 0.
    """
    chosen = hadamard_order(gram.k) if order is None else order
    result = GramMatrix(gram.k)
    with _spread(pool) as (workers, parallel_for, host):
        scratch = aligned_bytes(_size("int4q_gram_rotate_scratch", chosen, workers))
        _native.call(
            "int4q_gram_rotate",
            chosen,
            seed,
            int(inverse),
            *gram._memory,
            *result._memory,
            scratch.ctypes.data,
            scratch.nbytes,
            workers,
            parallel_for,
            host,
        )
    return result


# ---- Low-rank residuals --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LowRankReport:
    """What a low-rank matrix gains: sums over all rows of GramMatrix.loss, or of squares if there was no Gram matrix.

    start_loss  without it; None if it was not measured
    loss        with it, as it is stored
    reduction   their difference
    """

    start_loss: float | None
    loss: float | None
    reduction: float


class LowRank:
    """A matrix A B of low rank beside a quantized one: y = x V^T + (x B^T) A^T.

    a  [n][rank]
    b  [rank][k], of the same type
    """

    def __init__(self, a: Any, b: Any, element_type: Any = None) -> None:
        self._a, self._b = input_matrix(a, "a", element_type), input_matrix(b, "b", element_type)
        if self._a.columns != self._b.rows or self._a.element_type != self._b.element_type:
            raise ValueError(
                f"a has shape {self._a.array.shape} and type {self._a.element_type.name}, b {self._b.array.shape} and"
                f" {self._b.element_type.name}; expected [n][rank] and [rank][k] of one type"
            )

    @property
    def a(self) -> np.ndarray:
        return self._a.array

    @property
    def b(self) -> np.ndarray:
        return self._b.array

    @property
    def element_type(self) -> Type:
        return self._a.element_type

    @property
    def rank(self) -> int:
        return self._a.columns

    @property
    def shape(self) -> tuple[int, int]:
        """Of A B: (n, k)."""
        return self._a.rows, self._b.columns

    def as_struct(self) -> _native.LowRankStruct:
        return _native.LowRankStruct(
            type=int(self.element_type),
            n=self._a.rows,
            k=self._b.columns,
            rank=self.rank,
            a=self._a.pointer,
            a_stride=self._a.stride,
            b=self._b.pointer,
            b_stride=self._b.stride,
        )

    def add(self, x: Any, y: np.ndarray, *, element_type: Any = None, threads: int | None = None) -> np.ndarray:
        """y[m][n] += (x[m][k] B^T) A^T, in place; y."""
        source = input_matrix(x, "x", element_type)
        n, k = self.shape
        if source.columns != k:
            raise ValueError(f"x has {source.columns} columns; expected {k}")
        target = output_matrix(y, "y", (source.rows, n), Type.BF16 if is_bfloat16_bits(y) else None)
        struct = self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_lowrank_add",
                ctypes.byref(struct),
                source.pointer,
                source.element_type,
                source.stride,
                target.pointer,
                target.element_type,
                target.stride,
                source.rows,
                begin,
                end,
            )

        for_rows(work, source.rows, (n + k) * self.rank, threads)
        return y

    def subtract_from(
        self, weights: Any, *, dtype: Any = None, element_type: Any = None, threads: int | None = None
    ) -> np.ndarray:
        """weights[n][k] - A B: what is left to be quantized, in the same type or in `dtype`."""
        source = input_matrix(weights, "weights", element_type)
        if (source.rows, source.columns) != self.shape:
            raise ValueError(f"weights has shape {source.array.shape}; expected {self.shape}")
        target = new_matrix(source.rows, source.columns, source.element_type if dtype is None else as_type(dtype))
        struct = self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_lowrank_subtract",
                ctypes.byref(struct),
                source.pointer,
                source.element_type,
                source.stride,
                target.pointer,
                target.element_type,
                target.stride,
                begin,
                end,
            )

        for_rows(work, source.rows, source.columns * self.rank, threads, 16)
        return target.array


def low_rank(
    weights: Any,
    tensor: QuantizedTensor | None = None,
    gram: GramMatrix | None = None,
    rank: int = 32,
    *,
    dtype: Any = Type.F16,
    iterations: int = 4,
    seed: int = 0,
    measure_loss: bool = True,
    element_type: Any = None,
    pool: Pool | None = None,
) -> tuple[LowRank, LowRankReport]:
    """The A B of a rank that makes up best for what quantizing weights[n][k] to `tensor` has changed.

    tensor        None: A B is fitted to the weights themselves; quantize `subtract_from` then (SVDQuant)
    gram          of the layer's inputs: the layer's outputs count; None: the weights
    dtype         of A and B
    iterations    of subspace iteration
    measure_loss  False: only the reduction is reported, which saves most of the time
    """
    source = input_matrix(weights, "weights", element_type)
    if tensor is not None and (source.rows, source.columns) != tensor.shape:
        raise ValueError(f"weights has shape {source.array.shape}; expected {tensor.shape}")
    stored = as_type(dtype)
    a: Matrix = new_matrix(source.rows, max(rank, 1), stored)
    b: Matrix = new_matrix(max(rank, 1), source.columns, stored)
    factors = LowRank(a.array, b.array, stored)
    struct, report = factors.as_struct(), _native.LowRankReportStruct()
    struct.rank = rank
    with _spread(pool) as (workers, parallel_for, host):
        options = _native.LowRankOptionsStruct(
            flags=0 if measure_loss else int(LowRankFlag.SKIP_LOSS),
            worker_count=workers,
            iterations=iterations,
            seed=seed,
        )
        scratch = aligned_bytes(_size("int4q_lowrank_scratch", source.rows, source.columns, rank, workers))
        _native.call(
            "int4q_lowrank_fit",
            None if tensor is None else ctypes.byref(tensor.as_struct()),
            source.pointer,
            source.element_type,
            source.stride,
            *(gram._memory if gram is not None else (None, 0)),
            ctypes.byref(options),
            ctypes.byref(struct),
            scratch.ctypes.data,
            scratch.nbytes,
            parallel_for,
            host,
            ctypes.byref(report),
        )
    losses = (report.start_loss, report.loss) if measure_loss else (None, None)
    return factors, LowRankReport(*losses, report.reduction)


# ---- Channel reassembly --------------------------------------------------------------------------------------------

CHANNEL_PART = np.dtype(_native.ChannelPartStruct)
"""Part of a new channel: x'[target] += x_factor * x[source]."""


@dataclasses.dataclass(frozen=True)
class ReassemblyReport:
    """What a plan does.

    split_channels  channels above the threshold
    copies          channels that this adds, and that others are merged for
    threshold       of a channel's largest magnitude
    merge_loss      mean over the samples of the outputs' squared error by merging, each pair for itself, added up
    rounding_loss   an estimate for rounding activations; 0 if the weights are not known
    """

    split_channels: int
    copies: int
    threshold: float
    merge_loss: float
    rounding_loss: float


class Reassembly:
    """A map from k channels to new ones, each a sum of old ones times factors (QLLM).

    parts  CHANNEL_PART array in ascending order of `target`
    """

    def __init__(self, parts: Any, k: int, new_k: int) -> None:
        self.parts = np.ascontiguousarray(parts, CHANNEL_PART)
        self.k, self.new_k = k, new_k

    def as_struct(self) -> _native.ReassemblyStruct:
        return _native.ReassemblyStruct(
            k=self.k, new_k=self.new_k, part_count=len(self.parts), parts=self.parts.ctypes.data
        )

    def _apply(self, matrix: Any, side: int, dtype: Any, element_type: Any, threads: int | None) -> np.ndarray:
        source = input_matrix(matrix, "matrix", element_type)
        if source.columns != self.k:
            raise ValueError(f"matrix has {source.columns} columns; expected {self.k}")
        target = new_matrix(source.rows, self.new_k, source.element_type if dtype is None else as_type(dtype))
        struct, size = self.as_struct(), _size("int4q_reassemble_scratch", self.k, self.new_k)

        def work(begin: int, end: int) -> None:
            scratch = aligned_bytes(size)
            _native.call(
                "int4q_reassemble_rows",
                ctypes.byref(struct),
                side,
                source.pointer,
                source.element_type,
                source.stride,
                target.pointer,
                target.element_type,
                target.stride,
                source.rows,
                scratch.ctypes.data,
                size,
                begin,
                end,
            )

        for_rows(work, source.rows, source.columns, threads)
        return target.array

    def inputs(self, x: Any, *, dtype: Any = None, element_type: Any = None, threads: int | None = None) -> np.ndarray:
        """x[m][k] -> [m][new_k]."""
        return self._apply(x, 0, dtype, element_type, threads)

    def weights(
        self, weights: Any, *, dtype: Any = None, element_type: Any = None, threads: int | None = None
    ) -> np.ndarray:
        """weights[n][k] -> [n][new_k]: sums of columns, without factors."""
        return self._apply(weights, 1, dtype, element_type, threads)

    def gram(self, gram: GramMatrix) -> GramMatrix:
        """The Gram matrix of the new inputs. Sums of magnitudes and maxima of merged channels are upper bounds."""
        result = GramMatrix(self.new_k)
        struct = self.as_struct()
        _native.call("int4q_gram_reassemble", ctypes.byref(struct), *gram._memory, *result._memory)
        return result


def plan_reassembly(
    gram: GramMatrix,
    weights_gram: GramMatrix | None = None,
    *,
    threshold: float = 0,
    most_copies: int | None = None,
    widen: bool = False,
    steps: int = 20,
    bits: int = 8,
    group_size: int = 128,
) -> tuple[Reassembly, ReassemblyReport]:
    """Splits channels with outliers, and merges similar ones to keep the width.

    weights_gram  a GramMatrix to which the weights' rows were pushed, of all matrices that share the input
    threshold     of a channel's largest magnitude; 0: searched, for activations of `bits` bits in groups of `group_size`
    most_copies   None: k / 8
    widen         nothing is merged
    """
    k = gram.k
    most = k // 8 if most_copies is None else most_copies
    options = _native.ReassemblyOptionsStruct(
        flags=int(ReassemblyFlag.WIDEN) if widen else 0,
        threshold=threshold,
        most_copies=most,
        steps=steps,
        bits=bits,
        group_size=group_size,
    )
    parts, report = np.zeros(k + max(most, 0), CHANNEL_PART), _native.ReassemblyReportStruct()
    scratch = aligned_bytes(_size("int4q_reassembly_scratch", k))
    _native.call(
        "int4q_reassembly_plan",
        *gram._memory,
        *(weights_gram._memory if weights_gram is not None else (None, 0)),
        ctypes.byref(options),
        parts.ctypes.data,
        len(parts),
        scratch.ctypes.data,
        scratch.nbytes,
        ctypes.byref(report),
    )
    told = ReassemblyReport(
        report.split_channels, report.copies, report.threshold, report.merge_loss, report.rounding_loss
    )
    return Reassembly(parts[: report.part_count].copy(), k, report.new_k), told
