"""What a product reads and writes, checked and in the library's form; which steps it has because of it."""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import numpy as np

from . import _native
from ._arrays import (
    Matrix,
    as_type,
    contiguous,
    input_matrix,
    is_bfloat16_bits,
    new_matrix,
    output_matrix,
    to_numpy,
    widened,
)
from ._enums import Activation, MatmulFlag, Mode, Type
from ._scheme import Scheme


class Steps(NamedTuple):
    """What a product does besides x * W^T, as far as its plan must know.

        y = activation(x * W^T + bias) * (x * Wup^T + up_bias) + residual

    activation     an Activation
    bias_type      the type of the bias and the up bias, None without
    residual_type  the type of the residual, None without
    gated          whether there is a second matrix Wup, whose product is a factor
    static_scales  INT8 mode: x is quantized with scales of the caller
    expert_count   0, or of how many matrices each row of x has one for its own
    """

    activation: Activation = Activation.NONE
    bias_type: Any = None
    residual_type: Any = None
    gated: bool = False
    static_scales: bool = False
    expert_count: int = 0

    @property
    def flags(self) -> MatmulFlag:
        flags = MatmulFlag.GATED if self.gated else MatmulFlag(0)
        return flags | MatmulFlag.STATIC_SCALES if self.static_scales else flags

    def as_fields(self) -> dict[str, int]:
        """The fields of int4q_matmul_desc."""
        return {
            "flags": int(self.flags),
            "activation": int(self.activation),
            "bias_type": 0 if self.bias_type is None else int(as_type(self.bias_type)),
            "residual_type": 0 if self.residual_type is None else int(as_type(self.residual_type)),
            "expert_count": self.expert_count,
        }


NO_STEPS = Steps()


class Operands(NamedTuple):
    """What a product reads besides x. Holds the memory that the library is given pointers to."""

    blob: np.ndarray | None = None
    up_blob: np.ndarray | None = None
    bias: Matrix | None = None
    up_bias: Matrix | None = None
    residual: Matrix | None = None
    x_scales: np.ndarray | None = None
    experts: ctypes.Array[_native.ExpertStruct] | None = None
    row_experts: np.ndarray | None = None
    gated: bool = False

    def steps(self, activation: Activation) -> Steps:
        """The steps that these operands call for."""
        return Steps(
            Activation(activation),
            None if self.bias is None else self.bias.element_type,
            None if self.residual is None else self.residual.element_type,
            self.gated,
            self.x_scales is not None,
            0 if self.experts is None else len(self.experts),
        )

    def as_fields(self) -> dict[str, Any]:
        """The fields of int4q_matmul_args, but for x, y and scratch."""
        fields: dict[str, Any] = {}
        for name, array in (("blob", self.blob), ("up_blob", self.up_blob)):
            if array is not None:
                fields |= {name: array.ctypes.data, f"{name}_bytes": array.nbytes}
        for name, matrix in (("bias", self.bias), ("up_bias", self.up_bias)):
            if matrix is not None:
                fields[name] = matrix.pointer
        if self.residual is not None:
            fields |= {"residual": self.residual.pointer, "ldr": self.residual.stride}
        if self.x_scales is not None:
            fields["x_scales"] = self.x_scales.ctypes.data
        if self.experts is not None and self.row_experts is not None:
            fields |= {"experts": self.experts, "row_experts": self.row_experts.ctypes.data}
        return fields


# ---- x and y -------------------------------------------------------------------------------------------------------


def input_rows(x: Any, k: int, element_type: Any) -> tuple[Matrix, tuple[int, ...]]:
    """x[..., k] as a matrix, and the dimensions before the last."""
    array, hint = to_numpy(x, element_type)
    if array.ndim == 0 or array.shape[-1] != k:
        raise ValueError(f"x has shape {array.shape}; expected (..., {k})")
    rows = input_matrix(array.reshape(-1, k) if array.ndim != 2 else array, "x", hint)
    return rows, array.shape[:-1]


def _output_rows(out: Any, shape: tuple[int, ...], y_type: Type) -> Matrix:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is {type(out).__name__}; expected a NumPy array")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; expected {shape}")
    flat = out
    if out.ndim != 2:
        flat = out.reshape(-1, shape[-1])
        if not np.shares_memory(flat, out) and out.size:
            raise ValueError(f"out has strides {out.strides}; expected ones that allow it to be seen as rows")
    hint = Type.BF16 if out.dtype == np.uint16 and y_type == Type.BF16 else None
    return output_matrix(flat, "out", flat.shape, hint)


def result_rows(out: np.ndarray | None, dtype: Any, shape: tuple[int, ...], x_type: Type) -> Matrix:
    """y[..., n] as a matrix: the caller's `out`, or a new one of `dtype` or else x's type."""
    y_type = x_type if dtype is None else as_type(dtype)
    if out is not None:
        return _output_rows(out, shape, y_type)
    return new_matrix(math.prod(shape[:-1]), shape[-1], y_type)


# ---- The rest ------------------------------------------------------------------------------------------------------


def operand(value: Any, name: str, shape: tuple[int, ...], *neighbours: Type) -> Matrix:
    """An input of a known shape as a matrix of its last dimension's rows.

    NumPy's uint16 counts as the bits of bfloat16 where x or y, the `neighbours`, are bfloat16.
    """
    array, hint = to_numpy(value)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    if hint is None and Type.BF16 in neighbours and is_bfloat16_bits(array):
        hint = Type.BF16
    return input_matrix(array.reshape(-1, shape[-1]), name, hint)


def _no_bias_like(bias: Matrix) -> Matrix:
    # Negative zeros: whatever they are added to stays the same to the bit, zeros of either sign included.
    return Matrix(np.full(bias.array.shape, -0.0, np.float32), Type.F32)


def bias_operands(
    bias: Any, up_bias: Any, shape: tuple[int, ...], gated: bool, *neighbours: Type
) -> tuple[Matrix | None, Matrix | None]:
    """Both biases, contiguous and of one type, as the library wants them."""
    if up_bias is not None and not gated:
        raise ValueError("up_bias is given without a second matrix; expected None")
    first = None if bias is None else contiguous(operand(bias, "bias", shape, *neighbours))
    second = None if up_bias is None else contiguous(operand(up_bias, "up_bias", shape, *neighbours))
    if second is None:
        return first, None
    first = _no_bias_like(second) if first is None else first
    if first.element_type != second.element_type:
        first, second = widened(first), widened(second)
    return first, second


def residual_operand(residual: Any, shape: tuple[int, ...], x_type: Type, y: Matrix) -> Matrix | None:
    """The residual: it may be y itself, in place; where it overlaps y in another way it is copied."""
    if residual is None:
        return None
    rows = operand(residual, "residual", shape, x_type, y.element_type)
    is_y = (rows.pointer, rows.stride, rows.element_type) == (y.pointer, y.stride, y.element_type)
    if is_y or not np.may_share_memory(rows.array, y.array):
        return rows
    return Matrix(rows.array.copy(), rows.element_type)


def static_scales(x_scales: Any, scheme: Scheme, k: int, mode: Mode) -> np.ndarray | None:
    """float32[groups of a row]; a single number counts for every group."""
    if x_scales is None:
        return None
    if mode != Mode.INT8:
        raise ValueError(f"x_scales is given in mode {Mode(mode).name}; expected INT8")
    scales = np.asarray(to_numpy(x_scales)[0], np.float32)
    groups = scheme.groups_per_row(k)
    if scales.shape not in ((), (groups,)):
        raise ValueError(f"x_scales has shape {scales.shape}; expected ({groups},)")
    return np.ascontiguousarray(np.broadcast_to(scales, (groups,)))
