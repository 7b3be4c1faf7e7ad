"""Matrices in the bytes of ggml's 4-bit block formats."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _native
from ._arrays import as_type, input_matrix, new_matrix
from ._enums import Format, Search, Type
from ._rows import for_rows
from ._scheme import Scheme
from ._tensor import QuantizedTensor

if TYPE_CHECKING:
    from ._blob import Blob


def as_format(value: Format | str | int) -> Format:
    """A Format from itself, its number or its name in either case ("q4_k")."""
    if isinstance(value, str):
        if value.upper() not in Format.__members__:
            raise ValueError(f"format is {value!r}; expected one of {', '.join(Format.__members__)}")
        return Format[value.upper()]
    return Format(value)


def as_search(value: Search | str | int) -> Search:
    """A Search from itself, its number or its name in either case ("best")."""
    if isinstance(value, str):
        if value.upper() not in Search.__members__:
            raise ValueError(f"search is {value!r}; expected one of {', '.join(Search.__members__)}")
        return Search[value.upper()]
    return Search(value)


def format_scheme(format: Format | str | int) -> Scheme:
    """The scheme, with its codebook if it has one, of a tensor that holds exactly what a format's blocks stand for."""
    struct = _native.SchemeStruct()
    codebook = np.zeros(16, np.float32)
    _native.call("int4q_format_scheme", as_format(format), ctypes.byref(struct), codebook.ctypes.data)
    return Scheme.from_struct(struct, codebook.tolist())


def _row_bytes(format: Format, n: int, k: int) -> int:
    size = ctypes.c_uint64()
    _native.call("int4q_blocks_size", format, n, k, ctypes.byref(size))
    return int(size.value) // n


@dataclasses.dataclass(frozen=True)
class Blocks:
    """An n x k matrix in a block format.

    data          uint8[n][bytes of a row], as a GGUF file has them
    global_scale  NVFP4: what every value is multiplied by; else 1
    """

    format: Format
    n: int
    k: int
    data: np.ndarray
    global_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", as_format(self.format))
        expected = (self.n, _row_bytes(self.format, self.n, self.k))
        if self.data.dtype != np.uint8:
            raise TypeError(f"data has dtype {self.data.dtype}; expected uint8")
        if self.data.shape != expected:
            raise ValueError(f"data has shape {self.data.shape}; expected {expected}")
        if not self.data.flags.c_contiguous:
            raise ValueError("data is not contiguous")

    @classmethod
    def from_bytes(cls, data: Any, format: Format | str | int, n: int, k: int, *, global_scale: float = 1.0) -> Blocks:
        """A view of bytes from anywhere: a buffer, a memory map, an array of uint8."""
        array = np.frombuffer(data, np.uint8)
        chosen = as_format(format)
        expected = n * _row_bytes(chosen, n, k)
        if array.size != expected:
            raise ValueError(f"data has {array.size} bytes; expected {expected}")
        return cls(chosen, n, k, array.reshape(n, -1), global_scale)

    @classmethod
    def from_tensor(
        cls, tensor: QuantizedTensor, format: Format | str | int, *, threads: int | None = None
    ) -> Blocks:
        """The blocks of a tensor whose scheme is the format's: Q4_0, Q4_1, IQ4_NL or MXFP4."""
        chosen = as_format(format)
        data = np.empty((tensor.n, _row_bytes(chosen, tensor.n, tensor.k)), np.uint8)
        struct = tensor.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_tensor_to_blocks", chosen, ctypes.byref(struct), data.ctypes.data, data.nbytes, begin, end
            )

        for_rows(work, tensor.n, tensor.k, threads)
        return cls(chosen, tensor.n, tensor.k, data)

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.k

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)

    def dequantize(self, dtype: Any = np.float32, *, threads: int | None = None) -> np.ndarray:
        """The matrix that this stands for: [n][k] of `dtype` (a Type, its name, or float32, float16, bfloat16)."""
        target = new_matrix(self.n, self.k, as_type(dtype))

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_dequantize_blocks",
                self.format,
                self.global_scale,
                self.n,
                self.k,
                self.data.ctypes.data,
                self.data.nbytes,
                target.pointer,
                target.element_type,
                target.stride,
                begin,
                end,
            )

        for_rows(work, self.n, self.k, threads)
        return target.array

    def to_tensor(self, *, scale_type: Type | None = None, threads: int | None = None) -> QuantizedTensor:
        """The same matrix, exactly, as codes and scales. `scale_type` F32 is allowed for MXFP4, whose own is BF16."""
        scheme = format_scheme(self.format)
        if scale_type is not None:
            scheme = dataclasses.replace(scheme, scale_type=Type(scale_type))
        tensor = QuantizedTensor.empty(scheme, self.n, self.k)
        struct = tensor.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_blocks_to_tensor",
                self.format,
                self.global_scale,
                self.data.ctypes.data,
                self.data.nbytes,
                ctypes.byref(struct),
                begin,
                end,
            )

        for_rows(work, self.n, self.k, threads)
        return tensor

    def pack(self, *, threads: int | None = None) -> Blob:
        """The blob of this matrix, which multiplies."""
        return self.to_tensor(threads=threads).pack(threads=threads)


def quantize_blocks(
    weights: Any,
    format: Format | str | int,
    *,
    search: Search | str | int = Search.REFERENCE,
    importance: Any = None,
    global_scale: float | None = None,
    element_type: Any = None,
    threads: int | None = None,
) -> Blocks:
    """Quantizes weights[n][k] into a block format of ggml's; k is a multiple of the format's block.

    `search` REFERENCE gives ggml's own bytes, BEST a smaller error. `importance` (k numbers of 0 or more) tells how much
    an error in each column counts. `global_scale` is NVFP4's: values are this times what the blocks say.
    Raises NotFiniteError with row and column if a weight is NaN or infinite, or too large for the format's scales.
    """
    chosen = as_format(format)
    source = input_matrix(weights, "weights", element_type)
    data = np.empty((source.rows, _row_bytes(chosen, source.rows, source.columns)), np.uint8)
    column_weights = None
    if importance is not None:
        column_weights = np.ascontiguousarray(importance, np.float32)
        if column_weights.shape != (source.columns,):
            raise ValueError(f"importance has shape {column_weights.shape}; expected {(source.columns,)}")
    scale = 1.0 if global_scale is None else float(global_scale)
    options = _native.BlockOptionsStruct(
        search=as_search(search),
        importance=None if column_weights is None else column_weights.ctypes.data,
        global_scale=scale,
    )

    def work(begin: int, end: int) -> None:
        _native.call(
            "int4q_quantize_blocks",
            chosen,
            ctypes.byref(options),
            source.rows,
            source.columns,
            source.pointer,
            source.element_type,
            source.stride,
            data.ctypes.data,
            data.nbytes,
            begin,
            end,
        )

    for_rows(work, source.rows, source.columns, threads)
    return Blocks(chosen, source.rows, source.columns, data, scale)
