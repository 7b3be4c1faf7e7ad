"""Cross matrices: what quantizing the layers before has done to a layer's inputs, and weights that make up for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _native
from ._arrays import aligned_bytes, as_type, input_matrix, new_matrix
from ._pool import Pool
from ._reconstruction import GramMatrix, SquareSums, _Reporter, _size, _spread
from ._tensor import QuantizedTensor


class CrossMatrix(SquareSums):
    """Sums over rows of (x[i] - y[i]) * y[j]: x is a layer's input in the float model, y the same in the quantized one.

    Push batches of both, merge with those of other machines, save and load. Takes 8 k^2 bytes. Goes with the Gram matrix of y.

    >>> cross = CrossMatrix(2)
    >>> cross.push([[1.0, 2.0]], [[0.5, 2.0]])
    >>> cross.matrix().tolist()
    [[0.25, 1.0], [0.0, 0.0]]
    """

    _prefix = "int4q_cross"
    _validate = "int4q_cross_validate"
    _title = "a cross matrix"

    def push(self, x: Any, y: Any, *, element_type: Any = None, pool: Pool | None = None) -> None:
        """Takes a batch x[rows][k] of the float model's inputs and y[rows][k] of the quantized model's.

        NotFiniteError for NaN, infinity and magnitudes above 2^59; nothing is taken then.
        """
        native, other = input_matrix(x, "x", element_type), input_matrix(y, "y", element_type)
        if native.array.shape != other.array.shape:
            raise ValueError(f"y has shape {other.array.shape}; expected {native.array.shape}")
        scratch = aligned_bytes(_size("int4q_cross_push_scratch", self.k))
        with _spread(pool) as (workers, parallel_for, host):
            _native.call(
                "int4q_cross_push",
                *self._memory,
                native.pointer,
                native.element_type,
                native.stride,
                other.pointer,
                other.element_type,
                other.stride,
                native.rows,
                native.columns,
                scratch.ctypes.data,
                scratch.nbytes,
                workers,
                parallel_for,
                host,
            )

    def loss(
        self,
        tensor: QuantizedTensor,
        weights: Any,
        gram: GramMatrix,
        *,
        element_type: Any = None,
        threads: int | None = None,
    ) -> np.ndarray:
        """float64[n]: the mean over the rows of (w x - v y)^2 less that of (w x - w y)^2, w being a row of weights[n][k] and
        v what the tensor has in its place. Below 0 where v makes up for some of what has happened to x.
        """
        return self._losses(tensor, weights, element_type, threads, gram)


def shift_weights(
    weights: Any,
    gram: GramMatrix,
    cross: CrossMatrix,
    *,
    alpha: float = 0.5,
    damping: float = 0.01,
    damping_step: float = 0.0025,
    attempts: int = 20,
    progress: Callable[[int, int], Any] | None = None,
    dtype: Any = None,
    element_type: Any = None,
    pool: Pool | None = None,
) -> np.ndarray:
    """Weights W' whose outputs for the quantized model's inputs are nearer to those of W for the float model's:
    W + alpha W D (G + damping * mean of G's diagonal)^-1. For any quantizer in place of W, with the same Gram matrix.

    gram      of the quantized model's inputs
    cross     of the same rows; or of rows [x, r] and [y, s] of k + n elements, where W x is added to r[n] in the float model and
              to s[n] in the quantized one: outputs then make up for r - s as well
    alpha     share of the shift, 0 to 1: 1 makes the least error on the samples, less carries over to others better
    damping   share of the mean diagonal that is added to the diagonal, raised by damping_step up to attempts - 1 times
              where it is not enough
    progress  called with (done, total); True, or an exception, ends the call (CancelledError, or that exception)

    The result has the weights' type, or `dtype`.
    """
    source = input_matrix(weights, "weights", element_type)
    target = new_matrix(source.rows, source.columns, source.element_type if dtype is None else as_type(dtype))
    with _spread(pool) as (workers, parallel_for, host), _Reporter(progress) as reporter:
        options = _native.GptqOptionsStruct(
            worker_count=workers,
            damping=damping,
            damping_step=damping_step,
            attempts=attempts,
            progress=reporter.callback,
            alpha=alpha,
        )
        options.cross, options.cross_bytes = cross._memory
        scratch = aligned_bytes(_size("int4q_cross_shift_scratch", source.columns, workers))
        _native.call(
            "int4q_cross_shift",
            source.pointer,
            source.element_type,
            source.stride,
            *gram._memory,
            ctypes.byref(options),
            scratch.ctypes.data,
            scratch.nbytes,
            parallel_for,
            host,
            target.pointer,
            target.element_type,
            target.stride,
            source.rows,
            source.columns,
            None,
        )
    return target.array
