"""Two ranges in 4 bits: for activations after softmax and GELU (PTQ4ViT), and scales by sign for weights."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, as_type, dtype_of, input_matrix, new_matrix
from ._enums import Kind, TwinChoice, TwinKind, TwinSteps, Type
from ._rows import for_rows
from ._scheme import Scheme
from ._tensor import QuantizedTensor

_MAX_CANDIDATES = 100
_TABLES = {False: tuple(float(min(q - 8, 0)) for q in range(16)), True: tuple(float(max(q - 8, 0)) for q in range(16))}

# ---- Ranges for activations ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TwinRanges:
    """A 4-bit quantizer with two steps; the code's highest bit tells which.

    SOFTMAX   first * q for q < 8,        second * (q - 8) for the others: values from 0 to 1
    GELU      first * (q - 8) for q < 8,  second * (q - 8) for the others: values below, and from 0 on
    """

    kind: TwinKind
    first: float
    second: float
    choice: TwinChoice = TwinChoice.THRESHOLD

    def as_struct(self) -> _native.TwinRangesStruct:
        return _native.TwinRangesStruct(self.kind, self.choice, self.first, self.second)

    @classmethod
    def from_struct(cls, struct: _native.TwinRangesStruct) -> TwinRanges:
        return cls(TwinKind(struct.kind), struct.first, struct.second, TwinChoice(struct.choice))

    def values(self) -> np.ndarray:
        """float32[16]: what each code stands for."""
        steps = np.arange(-8, 8) if self.kind == TwinKind.GELU else np.arange(16) % 8
        scale = np.where(np.arange(16) < 8, np.float32(self.first), np.float32(self.second))
        return (scale * steps.astype(np.float32)).astype(np.float32)

    def quantize(self, x: Any, *, element_type: Any = None, threads: int | None = None) -> np.ndarray:
        """uint8[rows][ceil(columns / 2)]: codes of x[rows][columns], low nibble first. NotFiniteError for NaN, infinity."""
        source = input_matrix(x, "x", element_type)
        codes = np.empty((source.rows, (source.columns + 1) // 2), np.uint8)
        struct = self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_twin_quantize",
                ctypes.byref(struct),
                *_matrix(source),
                codes.ctypes.data,
                codes.nbytes,
                begin,
                end,
            )

        for_rows(work, source.rows, source.columns, threads)
        return codes

    def dequantize(
        self, codes: np.ndarray, columns: int, dtype: Any = np.float32, *, threads: int | None = None
    ) -> np.ndarray:
        """[rows][columns] of `dtype`: the values of codes."""
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != (columns + 1) // 2:
            raise ValueError(
                f"codes is {codes.dtype} of shape {codes.shape}; expected uint8 of shape (rows, {(columns + 1) // 2})"
            )
        packed = np.ascontiguousarray(codes)
        target = new_matrix(len(packed), columns, as_type(dtype))
        struct = self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_twin_dequantize",
                ctypes.byref(struct),
                packed.ctypes.data,
                packed.nbytes,
                *_matrix(target, shape_first=True),
                begin,
                end,
            )

        for_rows(work, len(packed), columns, threads)
        return target.array


def _matrix(matrix: Matrix, shape_first: bool = False) -> tuple[int, ...]:
    if shape_first:
        return matrix.rows, matrix.columns, matrix.pointer, matrix.element_type, matrix.stride
    return matrix.pointer, matrix.element_type, matrix.rows, matrix.columns, matrix.stride


def twin_candidates(
    kind: TwinKind,
    largest: float = 1.0,
    *,
    choice: TwinChoice = TwinChoice.THRESHOLD,
    steps: TwinSteps = TwinSteps.EVEN,
) -> list[TwinRanges]:
    """The candidates of PTQ4ViT's search. `largest`, the largest activation, and `steps` matter for GELU only."""
    structs = (_native.TwinRangesStruct * _MAX_CANDIDATES)()
    count = ctypes.c_int64()
    _native.call("int4q_twin_candidates", kind, choice, steps, largest, structs, ctypes.byref(count))
    return [TwinRanges.from_struct(structs[index]) for index in range(count.value)]


def twin_errors(
    candidates: list[TwinRanges], x: Any, *, element_type: Any = None, threads: int | None = None
) -> np.ndarray:
    """float64[len(candidates)]: the sum of squared errors that each one makes of x[rows][columns]."""
    source = input_matrix(x, "x", element_type)
    structs = (_native.TwinRangesStruct * len(candidates))(*(candidate.as_struct() for candidate in candidates))
    parts: list[tuple[int, np.ndarray]] = []

    def work(begin: int, end: int) -> None:
        errors = np.empty(len(candidates), np.float64)
        _native.call(
            "int4q_twin_errors",
            structs,
            len(candidates),
            *_matrix(source),
            errors.ctypes.data,
            begin,
            end,
        )
        parts.append((begin, errors))

    for_rows(work, source.rows, source.columns * len(candidates), threads)
    return np.asarray(np.sum([errors for _, errors in sorted(parts, key=lambda part: part[0])], axis=0))


def search_twin_ranges(
    kind: TwinKind,
    x: Any,
    *,
    choice: TwinChoice = TwinChoice.THRESHOLD,
    steps: TwinSteps = TwinSteps.EVEN,
    element_type: Any = None,
    threads: int | None = None,
) -> tuple[TwinRanges, float]:
    """The candidate with the least mean squared error on x[rows][columns], and that error."""
    source = input_matrix(x, "x", element_type)
    largest = 1.0
    if kind == TwinKind.GELU:
        array = source.array
        if source.element_type == Type.BF16:  # NumPy cannot compare bits
            array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        largest = float(array.max())
    candidates = twin_candidates(kind, largest, choice=choice, steps=steps)
    errors = twin_errors(candidates, source.array, element_type=source.element_type, threads=threads)
    best = int(errors.argmin())
    return candidates[best], float(errors[best]) / (source.rows * source.columns)


# ---- Scales by sign for weights --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TwinTensor:
    """An n x k matrix whose groups have one scale for negative and one for positive values.

    w = scales_negative * (q - 8) for q < 8, else scales_positive * (q - 8)

    codes            uint8[n][ceil(k / 2)], as QuantizedTensor's
    scales_negative  [n][groups_per_row] of the scale type
    scales_positive  the same
    """

    group_size: int
    scale_type: Type
    n: int
    k: int
    codes: np.ndarray
    scales_negative: np.ndarray
    scales_positive: np.ndarray

    @classmethod
    def quantize(
        cls,
        weights: Any,
        group_size: int = 32,
        *,
        scale_type: Type = Type.F16,
        element_type: Any = None,
        threads: int | None = None,
    ) -> TwinTensor:
        """Quantizes weights[n][k]. Errors as those of `quantize`."""
        source = input_matrix(weights, "weights", element_type)
        layout = _native.TensorLayoutStruct()
        scheme = Scheme(Kind.SYMMETRIC, group_size, as_type(scale_type))
        _native.call(
            "int4q_tensor_sizes", ctypes.byref(scheme.as_struct()), source.rows, source.columns, ctypes.byref(layout)
        )
        grouped = (source.rows, int(layout.groups_per_row))
        result = cls(
            group_size,
            scheme.scale_type,
            source.rows,
            source.columns,
            np.empty((source.rows, int(layout.codes_row_bytes)), np.uint8),
            np.empty(grouped, dtype_of(scheme.scale_type)),
            np.empty(grouped, dtype_of(scheme.scale_type)),
        )
        struct = result.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_twin_quantize_rows",
                ctypes.byref(struct),
                source.pointer,
                source.element_type,
                source.stride,
                begin,
                end,
            )

        for_rows(work, source.rows, source.columns, threads)
        return result

    def as_struct(self) -> _native.TwinTensorStruct:
        """The C struct over these arrays, which must outlive it."""
        return _native.TwinTensorStruct(
            group_size=self.group_size,
            scale_type=self.scale_type,
            n=self.n,
            k=self.k,
            codes=self.codes.ctypes.data,
            codes_bytes=self.codes.nbytes,
            scales_negative=self.scales_negative.ctypes.data,
            scales_negative_bytes=self.scales_negative.nbytes,
            scales_positive=self.scales_positive.ctypes.data,
            scales_positive_bytes=self.scales_positive.nbytes,
        )

    def dequantize(self, dtype: Any = np.float32, *, threads: int | None = None) -> np.ndarray:
        """[n][k] of `dtype`: the matrix that this stands for."""
        target = new_matrix(self.n, self.k, as_type(dtype))
        struct = self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_twin_dequantize_rows",
                ctypes.byref(struct),
                target.pointer,
                target.element_type,
                target.stride,
                begin,
                end,
            )

        for_rows(work, self.n, self.k, threads)
        return target.array

    def to_tensors(self) -> tuple[QuantizedTensor, QuantizedTensor]:
        """Two tensors whose sum this is, over the same memory: of the negative and of the positive weights.

        The product is two calls: `y = positive.pack().matmul(x, residual=negative.pack().matmul(x))`.
        """

        def half(positive: bool, scales: np.ndarray) -> QuantizedTensor:
            scheme = Scheme.codebook(_TABLES[positive], self.group_size, scale_type=self.scale_type)
            return QuantizedTensor(
                scheme, self.n, self.k, self.codes, scales, codebook=np.asarray(_TABLES[positive], np.float32)
            )

        return half(False, self.scales_negative), half(True, self.scales_positive)
