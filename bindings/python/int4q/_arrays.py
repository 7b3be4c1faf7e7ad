"""Between NumPy arrays and (pointer, element type, row stride), without copies where the layout allows it."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import Any

import numpy as np

from ._enums import Type
from ._native import ALIGNMENT


def _bfloat16_dtype() -> np.dtype | None:
    try:
        dtype: np.dtype = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        return None
    return dtype


BFLOAT16 = _bfloat16_dtype()
"""The dtype of bfloat16 arrays if ml_dtypes is installed, else None: then they are uint16 arrays of the bits."""


def dtype_of(element_type: Type) -> np.dtype:
    """The dtype in which this package makes arrays of a type."""
    if element_type == Type.BF16:
        return BFLOAT16 if BFLOAT16 is not None else np.dtype(np.uint16)
    return np.dtype({Type.F32: np.float32, Type.F16: np.float16}[Type(element_type)])


def type_of_dtype(dtype: np.dtype) -> Type | None:
    """The library's type for a dtype, or None. float64 has none."""
    if dtype.name == "bfloat16":
        return Type.BF16
    native = dtype.newbyteorder("=")
    return {np.dtype(np.float32): Type.F32, np.dtype(np.float16): Type.F16}.get(native)


def as_type(value: Any) -> Type:
    """A Type from a Type, its number, its name ("f16") or a dtype (np.float16)."""
    if isinstance(value, Type):
        return value
    if isinstance(value, int):
        return Type(value)
    if isinstance(value, str) and value.upper() in Type.__members__:
        return Type[value.upper()]
    if isinstance(value, str) and value == "bfloat16":
        return Type.BF16
    found = type_of_dtype(np.dtype(value))
    if found is None:
        raise TypeError(f"{value!r} is no element type; expected float32, float16 or bfloat16")
    return found


def _from_torch(value: Any, torch: Any) -> tuple[np.ndarray, Type | None]:
    if value.device.type != "cpu":
        raise TypeError(f"the tensor is on {value.device}; expected one on the CPU")
    value = value.detach()
    if value.dtype == torch.bfloat16:
        # NumPy has no bfloat16 of its own: the bits travel as 16-bit integers.
        return value.view(torch.int16).numpy().view(np.uint16), Type.BF16
    return value.numpy(), None


def to_numpy(value: Any, element_type: Any = None) -> tuple[np.ndarray, Type | None]:
    """A NumPy array over the same memory where possible, and its type if the dtype does not tell it."""
    wanted = None if element_type is None else as_type(element_type)
    # Whoever holds a tensor has imported torch already, so it need not be imported here.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        array, found = _from_torch(value, torch)
        return array, found or wanted
    if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
        return np.from_dlpack(value), wanted
    return np.asarray(value), wanted


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A row-major matrix that the library can read or write. `array` keeps the memory alive."""

    array: np.ndarray
    element_type: Type

    @property
    def pointer(self) -> int:
        return int(self.array.ctypes.data)

    @property
    def rows(self) -> int:
        return int(self.array.shape[0])

    @property
    def columns(self) -> int:
        return int(self.array.shape[1])

    @property
    def stride(self) -> int:
        """Elements between the starts of two rows."""
        # A single row has no next one, and NumPy may say anything about it.
        return self.columns if self.rows <= 1 else int(self.array.strides[0]) // self.array.itemsize


def _resolve(array: np.ndarray, wanted: Type | None, name: str) -> tuple[np.ndarray, Type]:
    """The array in a dtype that the library reads, and its type. float64 is rounded to float32 in a copy."""
    if wanted == Type.BF16 and array.dtype == np.uint16:
        return array, Type.BF16
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):  # what becomes infinite is refused by the library, which can say where
            return array.astype(np.float32), Type.F32
    found = type_of_dtype(array.dtype)
    if found is None:
        raise TypeError(f"{name} has dtype {array.dtype}; expected float32, float16, bfloat16 or float64")
    if wanted is not None and wanted != found:
        raise TypeError(f"{name} has dtype {array.dtype}; expected {wanted.name}")
    return array, found


def has_readable_layout(array: np.ndarray) -> bool:
    """Whether the library can use a 2-D array in place: neighbours in a row adjacent, rows in ascending order."""
    if not array.dtype.isnative or not array.flags.aligned:
        return False
    rows, columns = array.shape
    if columns > 1 and array.strides[1] != array.itemsize:
        return False
    row_stride = array.strides[0]
    return rows <= 1 or (row_stride % array.itemsize == 0 and row_stride >= columns * array.itemsize)


def input_matrix(value: Any, name: str, element_type: Any = None) -> Matrix:
    """A 2-D input: in place if its layout allows it, else one contiguous copy.

    `element_type` BF16 lets a uint16 array count as the bits of bfloat16. TypeError for other dtypes, ValueError
    unless 2-D.
    """
    array, wanted = to_numpy(value, element_type)
    if array.ndim != 2:
        raise ValueError(f"{name} has {array.ndim} dimensions; expected 2")
    array, found = _resolve(array, wanted, name)
    if not has_readable_layout(array):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    return Matrix(array, found)


def is_bfloat16_bits(array: np.ndarray) -> bool:
    """Whether an array may hold bfloat16 without saying so: what NumPy has for it without ml_dtypes."""
    return array.dtype == np.uint16


def contiguous(matrix: Matrix) -> Matrix:
    """The matrix, copied if there is room between its rows."""
    if matrix.stride == matrix.columns:
        return matrix
    return Matrix(np.ascontiguousarray(matrix.array), matrix.element_type)


def widened(matrix: Matrix) -> Matrix:
    """The same values, exactly, as float32."""
    if matrix.element_type == Type.F32:
        return matrix
    if matrix.element_type == Type.BF16:  # the upper half of a float32
        values = (matrix.array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = matrix.array.astype(np.float32)
    return Matrix(values, Type.F32)


def output_matrix(array: Any, name: str, shape: tuple[int, int], element_type: Any = None) -> Matrix:
    """A 2-D array of the caller to write into, never copied: ValueError or TypeError if that cannot be done."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is {type(array).__name__}; expected a NumPy array")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    wanted = None if element_type is None else as_type(element_type)
    if array.dtype == np.float64:
        raise TypeError(f"{name} has dtype float64; expected float32, float16 or bfloat16")
    array, found = _resolve(array, wanted, name)
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only")
    if not has_readable_layout(array):
        raise ValueError(f"{name} has strides {array.strides}; expected adjacent elements and ascending rows")
    return Matrix(array, found)


def new_matrix(rows: int, columns: int, element_type: Type) -> Matrix:
    return Matrix(np.empty((rows, columns), dtype_of(element_type)), element_type)


def aligned_bytes(count: int) -> np.ndarray:
    """uint8[count] that starts at a multiple of 64 bytes. The contents are undefined."""
    room = np.empty(count + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + count]


def is_aligned(array: np.ndarray) -> bool:
    return array.ctypes.data % ALIGNMENT == 0
