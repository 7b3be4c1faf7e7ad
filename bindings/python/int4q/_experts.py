"""Mixtures of experts: each row of x has a matrix of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _native
from ._arrays import to_numpy
from ._blob import Blob, check_alike
from ._enums import Activation, Mode
from ._matmul import PlanCache
from ._operands import Operands, bias_operands, input_rows, residual_operand, result_rows, static_scales
from ._pool import Pool


def _expert(blob: Blob, up: Blob | None) -> _native.ExpertStruct:
    first = (blob._data.ctypes.data, blob._data.nbytes)
    return _native.ExpertStruct(*first, *((None, 0) if up is None else (up._data.ctypes.data, up._data.nbytes)))


def _row_experts(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """int32[rows]. Whether there are such experts is checked by the library."""
    array = to_numpy(values)[0]
    if array.shape != shape:
        raise ValueError(f"row_experts has shape {array.shape}; expected {shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"row_experts has dtype {array.dtype}; expected integers")
    narrow = np.ascontiguousarray(array.reshape(-1), np.int32)
    if (narrow != array.reshape(-1)).any():
        raise ValueError("row_experts has numbers beyond 32 bits; expected numbers of experts, or -1")
    return narrow


class Experts:
    """The matrices W[expert][n][k] of a mixture of experts, which one call multiplies rows of x with.

    A row that several experts share comes several times, once for each.
    """

    def __init__(self, blobs: Sequence[Blob], up_blobs: Sequence[Blob] | None = None) -> None:
        """1 to 65536 blobs of one shape and scheme; `up_blobs`, if any, are as many: the second ones of gated products.

        Raises ValueError or TypeError that names the blob that does not fit.
        """
        self.blobs = tuple(blobs)
        self.up_blobs = None if up_blobs is None else tuple(up_blobs)
        if not self.blobs:
            raise ValueError("blobs is empty; expected 1 to 65536 of them")
        if self.up_blobs is not None and len(self.up_blobs) != len(self.blobs):
            raise ValueError(f"up_blobs has {len(self.up_blobs)} blobs; expected {len(self.blobs)}")
        for name, some in (("blobs", self.blobs), ("up_blobs", self.up_blobs or ())):
            for index, blob in enumerate(some):
                check_alike(blob, f"{name}[{index}]", self.blobs[0])
        self.n, self.k = self.blobs[0].shape
        self.scheme = self.blobs[0].scheme
        seconds = self.up_blobs or (None,) * len(self.blobs)
        structs = [_expert(blob, up) for blob, up in zip(self.blobs, seconds, strict=True)]
        self._table = (_native.ExpertStruct * len(structs))(*structs)
        self._plans = PlanCache(self.scheme, self.n, self.k)

    def __len__(self) -> int:
        return len(self.blobs)

    def matmul(
        self,
        x: Any,
        row_experts: Any,
        *,
        activation: Activation = Activation.NONE,
        bias: Any = None,
        residual: Any = None,
        up_bias: Any = None,
        x_scales: Any = None,
        mode: Mode = Mode.F32,
        out: np.ndarray | None = None,
        dtype: Any = None,
        element_type: Any = None,
        pool: Pool | None = None,
    ) -> np.ndarray:
        """y[..., n]: row i of x[..., k] multiplied as by blobs[row_experts[i]].matmul(), to the same bits.

        row_experts    integers [...], one for each row of x, in any order: 0 to len(self) - 1, or -1 for none. A row
                       without an expert is left alone in `out`, and zero where there is no `out`.
        bias, up_bias  [experts][n]

        Everything else is as in `Blob.matmul`. Raises InvalidArgumentError (a ValueError) for a number that is no
        expert's.
        """
        rows, leading = input_rows(x, self.k, element_type)
        chosen = _row_experts(row_experts, leading)
        shape = (*leading, self.n)
        y = result_rows(out, dtype, shape, rows.element_type)
        if out is None and (chosen < 0).any():
            y.array.fill(0)
        gated = self.up_blobs is not None
        types = (rows.element_type, y.element_type)
        bias_matrix, up_bias_matrix = bias_operands(bias, up_bias, (len(self), self.n), gated, *types)
        operands = Operands(
            bias=bias_matrix,
            up_bias=up_bias_matrix,
            residual=residual_operand(residual, shape, rows.element_type, y),
            x_scales=static_scales(x_scales, self.scheme, self.k, mode),
            experts=self._table,
            row_experts=chosen,
            gated=gated,
        )
        self._plans.multiply(rows, y, operands, mode=mode, activation=activation, pool=pool)
        return y.array.reshape(shape) if out is None else out

    def __repr__(self) -> str:
        gated = ", gated" if self.up_blobs is not None else ""
        return f"Experts({len(self)} of {self.n} x {self.k}, {self.scheme}{gated})"
