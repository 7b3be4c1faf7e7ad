"""Blobs: packed matrices, in memory or mapped from a file."""

from __future__ import annotations

import ctypes
import dataclasses
import os
from typing import Any

import numpy as np

from . import _native
from ._arrays import (
    Matrix,
    aligned_bytes,
    as_type,
    input_matrix,
    is_aligned,
    new_matrix,
    output_matrix,
    to_numpy,
)
from ._enums import Mode, Type
from ._matmul import MatmulPlan, PlanCache, describe_dispatch
from ._pool import Pool
from ._rows import for_rows
from ._scheme import Scheme
from ._tensor import QuantizedTensor


@dataclasses.dataclass(frozen=True)
class BlobInfo:
    """What a blob's header says."""

    format_version: int
    scheme: Scheme
    n: int
    k: int
    total_bytes: int
    block_count: int
    block_bytes: int
    header_checksum: int

    @property
    def bits_per_weight(self) -> float:
        return self.total_bytes * 8 / (self.n * self.k)


def _read_info(data: np.ndarray) -> BlobInfo:
    struct = _native.BlobInfoStruct()
    _native.call("int4q_blob_get_info", data.ctypes.data, data.nbytes, ctypes.byref(struct))
    return BlobInfo(
        int(struct.format_version),
        Scheme.from_struct(struct.scheme, struct.codebook),
        int(struct.n),
        int(struct.k),
        int(struct.total_bytes),
        int(struct.block_count),
        int(struct.block_bytes),
        int(struct.header_checksum),
    )


class Blob:
    """A packed matrix W[n][k]: multiply by it, look rows up in it, save it, map it.

    Made by `Blob.pack(tensor)`, `Blob.from_bytes(data)` or `Blob.map(path)`. The header has been checked when a Blob
    exists; `validate()` checks the contents too.
    """

    def __init__(self, data: np.ndarray) -> None:
        """`data` is uint8, contiguous, aligned to 64 bytes; it is kept, not copied."""
        self._data = data
        self.info = _read_info(data)
        self._plans = PlanCache(self.info.scheme, self.info.n, self.info.k)

    # ---- Making one ----------------------------------------------------------------------------------------------

    @classmethod
    def pack(cls, tensor: QuantizedTensor, *, threads: int | None = None) -> Blob:
        """Packs a quantized matrix."""
        size = ctypes.c_uint64()
        scheme = tensor.scheme.as_struct()
        _native.call("int4q_blob_size", ctypes.byref(scheme), tensor.n, tensor.k, ctypes.byref(size))
        data = aligned_bytes(size.value)
        struct = tensor.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call("int4q_pack_rows", ctypes.byref(struct), data.ctypes.data, data.nbytes, begin, end)

        for_rows(work, tensor.n, tensor.k, threads, multiple=_native.BLOCK_ROWS)
        return cls(data)

    @classmethod
    def from_bytes(cls, data: Any, *, validate: bool = True) -> Blob:
        """A blob over bytes, bytearray, memoryview or an array; copied only if it is not aligned to 64 bytes.

        Raises CorruptError, BlobVersionError or BufferTooSmallError for what is no whole blob. `validate` False
        checks the header alone.
        """
        if not memoryview(data).nbytes:
            raise ValueError("data is empty")
        array = np.frombuffer(data, np.uint8)
        if not is_aligned(array):
            copy = aligned_bytes(array.nbytes)
            copy[:] = array
            array = copy
        return cls._checked(array, validate)

    @classmethod
    def map(cls, path: str | os.PathLike[str], *, offset: int = 0, validate: bool = False) -> Blob:
        """A blob in a file, mapped read-only and used in place. It starts at `offset`, a multiple of 64.

        Only the header is read now; `validate` True reads and checks everything. ValueError for an empty file.
        """
        return cls._checked(np.memmap(path, np.uint8, "r", offset), validate)

    @classmethod
    def _checked(cls, data: np.ndarray, validate: bool) -> Blob:
        blob = cls(np.asarray(data))
        if validate:
            blob.validate()
        return blob

    # ---- What it is ----------------------------------------------------------------------------------------------

    @property
    def scheme(self) -> Scheme:
        return self.info.scheme

    @property
    def n(self) -> int:
        return self.info.n

    @property
    def k(self) -> int:
        return self.info.k

    @property
    def shape(self) -> tuple[int, int]:
        return self.info.n, self.info.k

    @property
    def nbytes(self) -> int:
        return self.info.total_bytes

    @property
    def data(self) -> np.ndarray:
        """uint8[nbytes], read-only: the blob's bytes, not a copy."""
        view = self._data[: self.nbytes].view()
        view.flags.writeable = False
        return view

    def __bytes__(self) -> bytes:
        return self.data.tobytes()

    def __repr__(self) -> str:
        return f"Blob({self.n} x {self.k}, {self.scheme}, {self.nbytes} bytes)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Blob.from_bytes, (bytes(self),)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the blob to a file, which `Blob.map` can use as it is."""
        self.data.tofile(path)

    def validate(self, full: bool = True) -> None:
        """Raises CorruptError (or a relative) if the blob is damaged. `full` False checks the header alone."""
        _native.call("int4q_blob_validate", self._data.ctypes.data, self._data.nbytes, int(full))

    # ---- Using it ------------------------------------------------------------------------------------------------

    def unpack(self, *, threads: int | None = None) -> QuantizedTensor:
        """The quantized matrix that was packed."""
        tensor = QuantizedTensor.empty(self.scheme, self.n, self.k)
        struct = tensor.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_unpack_rows",
                self._data.ctypes.data,
                self._data.nbytes,
                ctypes.byref(struct),
                begin,
                end,
            )

        for_rows(work, self.n, self.k, threads, multiple=_native.BLOCK_ROWS)
        return tensor

    def gather(self, indices: Any, dtype: Any = np.float32) -> np.ndarray:
        """Rows by number: indices of any shape give [..., k] of `dtype`. An embedding lookup.

        Raises InvalidArgumentError for an index outside 0..n-1; negative ones do not count from the end.
        """
        array = np.asarray(indices)
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"indices has dtype {array.dtype}; expected integers")
        flat = np.ascontiguousarray(array.reshape(-1), np.int64)
        rows = new_matrix(len(flat), self.k, as_type(dtype))
        if len(flat):
            _native.call(
                "int4q_gather_rows",
                self._data.ctypes.data,
                self._data.nbytes,
                flat.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)),
                len(flat),
                rows.pointer,
                rows.element_type,
                self.k,
            )
        return rows.array.reshape(*array.shape, self.k)

    def plan(self, m: int, x_type: Any, y_type: Any, mode: Mode = Mode.F32, workers: int = 1) -> MatmulPlan:
        """The plan of a product with m rows; kept, so that the next such product need not make it again."""
        return self._plans.get(m, as_type(x_type), as_type(y_type), Mode(mode), workers)

    def matmul(
        self,
        x: Any,
        *,
        mode: Mode = Mode.F32,
        out: np.ndarray | None = None,
        dtype: Any = None,
        element_type: Any = None,
        pool: Pool | None = None,
    ) -> np.ndarray:
        """y[..., n] = x[..., k] * W^T.

        x is float32, float16 or bfloat16 (float64 is rounded to float32 first), of one dimension or more; all but the
        last are rows. `element_type` "bf16" makes a uint16 x count as bfloat16. y has `dtype`, by default x's type;
        `out` takes it if given, with its own dtype. The result has the same bits for every pool and batch size.
        """
        array, hint = to_numpy(x, element_type)
        if array.ndim == 0 or array.shape[-1] != self.k:
            raise ValueError(f"x has shape {array.shape}; expected (..., {self.k})")
        rows = input_matrix(array.reshape(-1, self.k) if array.ndim != 2 else array, "x", hint)
        shape = (*array.shape[:-1], self.n)
        y_type = rows.element_type if dtype is None else as_type(dtype)
        result = new_matrix(rows.rows, self.n, y_type) if out is None else self._output(out, shape, y_type)
        if rows.rows:
            workers = 1 if pool is None else pool.workers
            plan = self.plan(rows.rows, rows.element_type, result.element_type, mode, workers)
            plan.run(rows, self._data, result, pool)
        return result.array.reshape(shape) if out is None else out

    def _output(self, out: np.ndarray, shape: tuple[int, ...], y_type: Type) -> Matrix:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out is {type(out).__name__}; expected a NumPy array")
        if out.shape != shape:
            raise ValueError(f"out has shape {out.shape}; expected {shape}")
        flat = out
        if out.ndim != 2:
            flat = out.reshape(-1, self.n)
            if not np.shares_memory(flat, out) and out.size:
                raise ValueError(f"out has strides {out.strides}; expected ones that allow it to be seen as rows")
        hint = Type.BF16 if out.dtype == np.uint16 and y_type == Type.BF16 else None
        return output_matrix(flat, "out", flat.shape, hint)

    def describe(
        self, m: int = 1, *, mode: Mode = Mode.F32, x_type: Any = Type.F32, y_type: Any = Type.F32, workers: int = 1
    ) -> str:
        """Which kernel a product with m rows would use, and why not a better one."""
        return describe_dispatch(
            self.scheme, m, self.n, self.k, mode=mode, x_type=x_type, y_type=y_type, workers=workers
        )


class Linear:
    """A linear layer on packed weights: y = x * W^T + bias.

    `bias`, if any, is [n] and added in float32 or, if y is narrower, after y was rounded to its type.
    """

    def __init__(
        self, blob: Blob, bias: Any = None, *, mode: Mode = Mode.F32, pool: Pool | None = None
    ) -> None:
        self.blob = blob
        self.mode = mode
        self.pool = pool
        self.bias = None if bias is None else to_numpy(bias)[0]
        if self.bias is not None and self.bias.shape != (blob.n,):
            raise ValueError(f"bias has shape {self.bias.shape}; expected ({blob.n},)")

    @classmethod
    def from_weights(
        cls,
        weights: Any,
        bias: Any = None,
        *,
        scheme: Scheme | None = None,
        mode: Mode = Mode.F32,
        pool: Pool | None = None,
    ) -> Linear:
        """Quantizes and packs weights[n][k]."""
        from ._tensor import quantize

        return cls(quantize(weights, scheme).pack(), bias, mode=mode, pool=pool)

    def __call__(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """x[..., k] to y[..., n]."""
        y = self.blob.matmul(x, mode=self.mode, out=out, pool=self.pool)
        if self.bias is not None:
            y += self.bias.astype(y.dtype, copy=False)
        return y

    def __repr__(self) -> str:
        return f"Linear({self.blob!r}, bias={self.bias is not None}, mode={self.mode.name})"


