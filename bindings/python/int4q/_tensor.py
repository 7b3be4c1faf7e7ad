"""Quantized matrices as NumPy arrays."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _native
from ._arrays import as_type, dtype_of, input_matrix, new_matrix, output_matrix
from ._enums import CodebookScope, Kind, ScaleRule, Type
from ._rows import for_rows
from ._scheme import Scheme

if TYPE_CHECKING:
    from ._blob import Blob


def _pointer(array: np.ndarray | None) -> int | None:
    return None if array is None else int(array.ctypes.data)


def _bytes(array: np.ndarray | None) -> int:
    return 0 if array is None else int(array.nbytes)


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """A quantized n x k matrix.

    codes        uint8[n][ceil(k * bits / 8)]: codes of `scheme.bits` one after the other, the first in the lowest bits of
                 a byte; so of 4 bits element k is in the low nibble of byte k / 2 if k is even, else in the high one
    scales       [n][groups_per_row], of the scheme's scale type (bfloat16 as uint16 bits without ml_dtypes)
    zero_points  uint8[n][groups_per_row], 0..15 or, with 8 bits, 0..255, for ASYMMETRIC, else None
    offsets      as scales, for OFFSET, else None
    codebook     float32[16] for CODEBOOK, with values for each row float32[n][16], else None
    """

    scheme: Scheme
    n: int
    k: int
    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None = None
    offsets: np.ndarray | None = None
    codebook: np.ndarray | None = None

    def __post_init__(self) -> None:
        # The library trusts sizes in bytes; an array that is strided or of another dtype would be read as nonsense.
        groups = self.scheme.groups_per_row(self.k)
        scale_dtypes = {dtype_of(self.scheme.scale_type)}
        if self.scheme.scale_type == Type.BF16:
            scale_dtypes.add(np.dtype(np.uint16))
        self._check("codes", self.codes, (self.n, self.scheme.code_row_bytes(self.k)), {np.dtype(np.uint8)})
        self._check("scales", self.scales, (self.n, groups), scale_dtypes)
        self._check("zero_points", self.zero_points, (self.n, groups), {np.dtype(np.uint8)})
        self._check("offsets", self.offsets, (self.n, groups), scale_dtypes)
        is_per_row = self.scheme.codebook_scope == CodebookScope.ROW
        self._check("codebook", self.codebook, (self.n, 16) if is_per_row else (16,), {np.dtype(np.float32)})

    @staticmethod
    def _check(name: str, array: np.ndarray | None, shape: tuple[int, ...], dtypes: set[np.dtype]) -> None:
        if array is None:
            return
        if array.dtype not in dtypes:
            raise TypeError(f"{name} has dtype {array.dtype}; expected {' or '.join(map(str, dtypes))}")
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
        if not array.flags.c_contiguous or not array.flags.aligned:
            raise ValueError(f"{name} is not contiguous")

    @classmethod
    def empty(cls, scheme: Scheme, n: int, k: int) -> QuantizedTensor:
        """Arrays of the right sizes, contents undefined. Raises Int4QError for an impossible scheme or size."""
        layout = _native.TensorLayoutStruct()
        _native.call("int4q_tensor_sizes", ctypes.byref(scheme.as_struct()), n, k, ctypes.byref(layout))
        grouped = (n, int(layout.groups_per_row))
        scale_dtype = dtype_of(scheme.scale_type)
        return cls(
            scheme,
            n,
            k,
            np.empty((n, int(layout.codes_row_bytes)), np.uint8),
            np.empty(grouped, scale_dtype),
            np.empty(grouped, np.uint8) if layout.zero_points_bytes else None,
            np.empty(grouped, scale_dtype) if layout.offsets_bytes else None,
            scheme.codebook_array(),
        )

    def as_struct(self) -> _native.TensorStruct:
        """The C struct over these arrays, which must outlive it."""
        return _native.TensorStruct(
            scheme=self.scheme.as_struct(),
            n=self.n,
            k=self.k,
            codes=_pointer(self.codes),
            codes_bytes=_bytes(self.codes),
            scales=_pointer(self.scales),
            scales_bytes=_bytes(self.scales),
            zero_points=_pointer(self.zero_points),
            zero_points_bytes=_bytes(self.zero_points),
            offsets=_pointer(self.offsets),
            offsets_bytes=_bytes(self.offsets),
            codebook=_pointer(self.codebook),
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.k

    @property
    def nbytes(self) -> int:
        """Bytes of all the arrays together."""
        parts = (self.codes, self.scales, self.zero_points, self.offsets, self.codebook)
        return sum(_bytes(part) for part in parts)

    def code_matrix(self) -> np.ndarray:
        """uint8[n][k]: one code per element, 0..15, with 8 bits 0..255, for TERNARY 0..2, for BINARY 0 and 1."""
        bits = self.scheme.bits
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (self.codes[:, :, None] >> shifts) & np.uint8(2**bits - 1)
        return codes.reshape(self.n, -1)[:, : self.k]

    def dequantize(
        self, dtype: Any = np.float32, *, out: np.ndarray | None = None, threads: int | None = None
    ) -> np.ndarray:
        """The matrix that this stands for: [n][k] of `dtype` (a Type, its name, or float32, float16, bfloat16).

        `out`, if given, is written and returned; `dtype` BF16 lets it be uint16. Values beyond the type's range become
        infinity.
        """
        element_type = as_type(dtype)
        if out is None:
            target = new_matrix(self.n, self.k, element_type)
        else:
            hint = Type.BF16 if out.dtype == np.uint16 and element_type == Type.BF16 else None
            target = output_matrix(out, "out", self.shape, hint)
        struct = self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_dequantize_rows",
                ctypes.byref(struct),
                target.pointer,
                target.element_type,
                target.stride,
                begin,
                end,
            )

        for_rows(work, self.n, self.k, threads)
        return target.array

    def pack(self, *, threads: int | None = None, **parts: Any) -> Blob:
        """The blob of this matrix, with the parts that `Blob.pack` takes."""
        from ._blob import Blob

        return Blob.pack(self, threads=threads, **parts)


def _fill_given(tensor: QuantizedTensor, **given: Any) -> None:
    """Parts that are the caller's, for a scheme that wants them."""
    is_given = tensor.scheme.scale_rule == ScaleRule.GIVEN
    for name, values in given.items():
        part = getattr(tensor, name)
        if (values is not None) != (is_given and part is not None):
            expected = "values" if is_given and part is not None else "None with this scheme"
            raise ValueError(f"{name} is {'given' if values is not None else 'None'}; expected {expected}")
        if values is None:
            continue
        array = np.asarray(values)
        if name == "zero_points" and np.any(array != array.astype(np.uint8)):
            raise ValueError("zero_points has values that are no integers from 0 to 255")
        if name != "zero_points" and part.dtype == np.uint16 and array.dtype != np.uint16:
            raise TypeError(f"{name} has dtype {array.dtype}; expected uint16, the bits of bfloat16 (or install ml_dtypes)")
        part[...] = array


def checked_scheme(scheme: Scheme | None, rows: int) -> Scheme:
    """The scheme, by default the symmetric one. ValueError for a codebook scheme without its values, or for other rows."""
    scheme = scheme or Scheme.symmetric()
    if scheme.kind == Kind.CODEBOOK and scheme.codebook_values is None:
        raise ValueError("scheme has kind CODEBOOK and no values; use Scheme.codebook(values)")
    values = scheme.codebook_values
    if scheme.codebook_scope == CodebookScope.ROW and values is not None and len(values) != rows:
        raise ValueError(f"scheme has codebooks for {len(values)} rows; weights has {rows}")
    return scheme


def quantize(
    weights: Any,
    scheme: Scheme | None = None,
    *,
    element_type: Any = None,
    threads: int | None = None,
    scales: Any = None,
    zero_points: Any = None,
    offsets: Any = None,
) -> QuantizedTensor:
    """Quantizes weights[n][k] (float32, float16, bfloat16; float64 is rounded to float32 first).

    Anything with `__array__` or `__dlpack__` will do, PyTorch tensors on the CPU too. `element_type` "bf16" makes a
    uint16 array count as the bits of bfloat16. The default scheme is symmetric with groups of 32.

    For a scheme with ScaleRule.GIVEN (`Scheme.given`) pass `scales`, and for ASYMMETRIC `zero_points`, for OFFSET `offsets`:
    numbers or arrays that broadcast to (n, groups_per_row), such as one for the whole matrix or one for each row.

    Raises NotFiniteError with row and column if a weight is NaN or infinite, or a scale is beyond its type. Where only
    the blob is wanted, `Blob.quantize` makes it in one pass.
    """
    source = input_matrix(weights, "weights", element_type)
    chosen = checked_scheme(scheme, source.rows)
    tensor = QuantizedTensor.empty(chosen, source.rows, source.columns)
    _fill_given(tensor, scales=scales, zero_points=zero_points, offsets=offsets)
    struct = tensor.as_struct()

    def work(begin: int, end: int) -> None:
        _native.call(
            "int4q_quantize_rows",
            ctypes.byref(struct),
            source.pointer,
            source.element_type,
            source.stride,
            begin,
            end,
        )

    for_rows(work, source.rows, source.columns, threads)
    return tensor
