"""Blobs: packed matrices, in memory or mapped from a file."""

from __future__ import annotations

import ctypes
import dataclasses
import os
from typing import Any

import numpy as np

from . import _native
from ._arrays import aligned_bytes, as_type, input_matrix, is_aligned, new_matrix, widened
from ._enums import Activation, Bound, CodebookScope, Mode, PartFlag, Type
from ._matmul import MatmulPlan, PlanCache, describe_dispatch
from ._operands import (
    NO_STEPS,
    Operands,
    Steps,
    bias_operands,
    input_rows,
    operand,
    residual_operand,
    result_rows,
    static_scales,
)
from ._outliers import SparseMatrix
from ._parts import BlobParts, read_parts
from ._pool import Pool
from ._rows import for_rows
from ._scheme import Scheme
from ._tensor import QuantizedTensor, checked_scheme


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
    part_flags: PartFlag = PartFlag(0)
    part_rank: int = 0
    parts_bytes: int = 0

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
        PartFlag(struct.part_flags),
        int(struct.part_rank),
        int(struct.parts_bytes),
    )


def _empty_bytes(scheme: Scheme, n: int, k: int, more: int = 0) -> np.ndarray:
    """Memory for the blob of an n x k matrix, and more bytes for its parts."""
    size = ctypes.c_uint64()
    _native.call("int4q_blob_size", ctypes.byref(scheme.as_struct()), n, k, ctypes.byref(size))
    return aligned_bytes(size.value + more)


def check_alike(blob: Any, name: str, like: Blob) -> None:
    """Raises unless a blob has another one's shape and scheme, as one product's matrices must. Codebooks may differ."""
    if not isinstance(blob, Blob):
        raise TypeError(f"{name} is {type(blob).__name__}; expected a Blob")

    def traits(of: Blob) -> tuple[Any, ...]:
        scheme = of.scheme
        return of.shape, scheme.kind, scheme.group_size, scheme.scale_type, scheme.codebook_scope, scheme.bits

    if traits(blob) != traits(like):
        raise ValueError(f"{name} is {blob.n} x {blob.k}, {blob.scheme}; expected {like.n} x {like.k}, {like.scheme}")


class Blob:
    """A packed matrix W[n][k]: multiply by it, look rows up in it, save it, map it.

    Made by `Blob.quantize(weights)`, `Blob.pack(tensor)`, `Blob.from_bytes(data)` or `Blob.map(path)`. The header has
    been checked when a Blob exists; `validate()` checks the contents too.
    """

    def __init__(self, data: np.ndarray) -> None:
        """`data` is uint8, contiguous, aligned to 64 bytes; it is kept, not copied."""
        self._data = data
        self.info = _read_info(data)
        self._plans = PlanCache(self.info.scheme, self.info.n, self.info.k, self._plan_parts)

    # ---- Making one ----------------------------------------------------------------------------------------------

    @classmethod
    def quantize(
        cls, weights: Any, scheme: Scheme | None = None, *, element_type: Any = None, threads: int | None = None
    ) -> Blob:
        """Quantizes and packs weights[n][k] in one pass: the bytes of `int4q.quantize(...).pack()`, without a tensor.

        Arguments and exceptions are those of `int4q.quantize`, which is for whoever wants to see the codes.
        """
        source = input_matrix(weights, "weights", element_type)
        chosen = checked_scheme(scheme, source.rows)
        data = _empty_bytes(chosen, source.rows, source.columns)
        struct, codebook = chosen.as_struct(), chosen.codebook_array()
        table = None if codebook is None else codebook.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_quantize_pack_rows",
                ctypes.byref(struct),
                source.rows,
                source.columns,
                table,
                source.pointer,
                source.element_type,
                source.stride,
                data.ctypes.data,
                data.nbytes,
                begin,
                end,
            )

        for_rows(work, source.rows, source.columns, threads, multiple=_native.BLOCK_ROWS)
        return cls(data)

    @classmethod
    def pack(
        cls,
        tensor: QuantizedTensor,
        *,
        permutation: Any = None,
        rotation: tuple[int, int] | int | None = None,
        sparse: SparseMatrix | None = None,
        low_rank: tuple[Any, Any] | None = None,
        threads: int | None = None,
    ) -> Blob:
        """Packs a quantized matrix, with parts beside its codes if they are given: see `BlobParts`.

        The tensor's columns are those of the permuted and rotated input: of weights w, quantize
        w[:, permutation] and rotate its rows. Raises ValueError, TypeError or NotFiniteError for parts that do not fit.
        """
        parts = BlobParts(permutation, rotation, sparse, low_rank)
        data = _empty_bytes(tensor.scheme, tensor.n, tensor.k, parts.size(tensor.n, tensor.k))
        struct = tensor.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call("int4q_pack_rows", ctypes.byref(struct), data.ctypes.data, data.nbytes, begin, end)

        for_rows(work, tensor.n, tensor.k, threads, multiple=_native.BLOCK_ROWS)
        if not parts.is_empty:
            parts.attach(data, tensor.n, tensor.k)
        return cls(data)

    def with_parts(
        self,
        *,
        permutation: Any = None,
        rotation: tuple[int, int] | int | None = None,
        sparse: SparseMatrix | None = None,
        low_rank: tuple[Any, Any] | None = None,
    ) -> Blob:
        """A copy with these parts (`BlobParts`) in place of those that the blob has; without any, of the plain blob."""
        parts = BlobParts(permutation, rotation, sparse, low_rank)
        plain = self.nbytes - self.info.parts_bytes
        data = aligned_bytes(max(self.nbytes, plain + parts.size(self.n, self.k)))
        data[: self.nbytes] = self._data[: self.nbytes]
        parts.attach(data, self.n, self.k)
        return Blob(data[: _read_info(data).total_bytes])

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
    def parts(self) -> BlobParts:
        """What the blob carries beside its codes, as read-only views of its bytes (A as a copy)."""
        return read_parts(self._data, self.n, self.k)

    @property
    def _plan_parts(self) -> tuple[int, int]:
        return int(self.info.part_flags), self.info.part_rank

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
        """The quantized matrix that was packed: of a blob with parts its codes alone, in their permuted order."""
        tensor = QuantizedTensor.empty(self.scheme, self.n, self.k)
        if self.scheme.codebook_scope == CodebookScope.ROW:
            tensor = dataclasses.replace(tensor, codebook=self.codebooks())
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

    def codebooks(self) -> np.ndarray:
        """float32[n][16]: each row's codebook; where there is one for the tensor, that one n times.

        Raises MismatchError for other kinds.
        """
        values = np.empty((self.n, 16), np.float32)
        pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        _native.call("int4q_blob_codebooks", self._data.ctypes.data, self._data.nbytes, pointer, 0, self.n)
        return values

    def gather(self, indices: Any, dtype: Any = np.float32) -> np.ndarray:
        """Rows by number: indices of any shape give [..., k] of `dtype`. An embedding lookup.

        Of a blob with parts they are rows of the matrix that its products multiply by, in x's channel order. Raises
        InvalidArgumentError for an index outside 0..n-1; negative ones do not count from the end.
        """
        array = np.asarray(indices)
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"indices has dtype {array.dtype}; expected integers")
        flat = np.ascontiguousarray(array.reshape(-1), np.int64)
        rows = new_matrix(len(flat), self.k, as_type(dtype))
        if len(flat):
            arguments: list[Any] = [
                self._data.ctypes.data,
                self._data.nbytes,
                flat.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)),
                len(flat),
                rows.pointer,
                rows.element_type,
                self.k,
            ]
            if self.info.part_flags:
                scratch = aligned_bytes(8 * (-(-self.k // 16) * 16))
                _native.call("int4q_gather_effective_rows", *arguments, scratch.ctypes.data, scratch.nbytes)
            else:
                _native.call("int4q_gather_rows", *arguments)
        return rows.array.reshape(*array.shape, self.k)

    def plan(
        self,
        m: int,
        x_type: Any,
        y_type: Any,
        mode: Mode = Mode.F32,
        workers: int = 1,
        steps: Steps = NO_STEPS,
    ) -> MatmulPlan:
        """The plan of a product with m rows; kept, so that the next such product need not make it again."""
        return self._plans.get(m, as_type(x_type), as_type(y_type), Mode(mode), workers, steps)

    def matmul(
        self,
        x: Any,
        *,
        activation: Activation = Activation.NONE,
        bias: Any = None,
        residual: Any = None,
        up: Blob | None = None,
        up_bias: Any = None,
        x_scales: Any = None,
        mode: Mode = Mode.F32,
        out: np.ndarray | None = None,
        dtype: Any = None,
        element_type: Any = None,
        pool: Pool | None = None,
    ) -> np.ndarray:
        """y[..., n] = activation(x[..., k] * W^T + bias) * (x * up^T + up_bias) + residual, or the parts of it given.

        x is float32, float16 or bfloat16 (float64 is rounded to float32 first), of one dimension or more; all but the
        last are rows. `element_type` "bf16" makes a uint16 x count as bfloat16. y has `dtype`, by default x's type;
        `out` takes it if given, with its own dtype.

        bias, up_bias   [n], of any of these types (uint16 is bfloat16 where x or y is)
        residual        [..., n], likewise; it may be `out` itself
        up              the second matrix of a gated product: a Blob of this one's shape and scheme
        x_scales        INT8 mode: float32[groups of a row], or one number, 2^-100 to 2^100, to quantize x with:
                        round(x / scale), -127 to 127. Without it each group of each row of x gets a scale of its own.

        The result has the same bits for every pool and batch size. Raises ValueError or TypeError for arrays that do
        not fit, by their names, InvalidArgumentError (a ValueError) for an x_scales out of range.
        """
        rows, leading = input_rows(x, self.k, element_type)
        shape = (*leading, self.n)
        y = result_rows(out, dtype, shape, rows.element_type)
        biases = bias_operands(bias, up_bias, (self.n,), up is not None, rows.element_type, y.element_type)
        operands = Operands(
            self._data,
            None if up is None else self._second(up),
            *biases,
            residual_operand(residual, shape, rows.element_type, y),
            static_scales(x_scales, self.scheme, self.k, mode),
            gated=up is not None,
        )
        self._plans.multiply(rows, y, operands, mode=mode, activation=activation, pool=pool)
        return y.array.reshape(shape) if out is None else out

    def _second(self, up: Blob) -> np.ndarray:
        check_alike(up, "up", self)
        return up._data

    def error_bound(
        self,
        x: Any,
        *,
        mode: Mode = Mode.F32,
        bound: Bound = Bound.PROBABLE,
        y_type: Any = None,
        x_scales: Any = None,
        element_type: Any = None,
    ) -> np.ndarray:
        """float64[..., n]: how far `matmul(x, mode=mode)` may be from x * W^T in exact arithmetic, W dequantized.

        Bound.WORST_CASE is never exceeded; Bound.PROBABLE in fewer than one of 10^12 results if rounding errors are
        independent, and is much tighter. The rounding to `y_type`, by default x's type, is included. Rows of x that are
        not finite get infinity. x, x_scales and `element_type` are as in `matmul`, for the plain product: there is no
        bound for one with activation, bias and so on. As slow as a slow product.
        """
        rows, leading = input_rows(x, self.k, element_type)
        operands = Operands(self._data, x_scales=static_scales(x_scales, self.scheme, self.k, mode))
        if not rows.rows:
            return np.empty((*leading, self.n), np.float64)
        target = rows.element_type if y_type is None else as_type(y_type)
        plan = self.plan(rows.rows, rows.element_type, target, mode, 1, operands.steps(Activation.NONE))
        return plan.error_bound(rows, operands, Bound(bound)).reshape(*leading, self.n)

    def describe(
        self,
        m: int = 1,
        *,
        mode: Mode = Mode.F32,
        x_type: Any = Type.F32,
        y_type: Any = Type.F32,
        workers: int = 1,
        steps: Steps = NO_STEPS,
    ) -> str:
        """Which kernel a product with m rows would use, and why not a better one."""
        kinds = {"mode": mode, "x_type": x_type, "y_type": y_type}
        return describe_dispatch(
            self.scheme, m, self.n, self.k, workers=workers, steps=steps, parts=self._plan_parts, **kinds
        )


class Linear:
    """A linear layer on packed weights: y = activation(x * W^T + bias) + residual.

    `bias`, if any, is [n] of float32, float16, bfloat16 or float64; it is added in float32.
    """

    def __init__(
        self,
        blob: Blob,
        bias: Any = None,
        *,
        activation: Activation = Activation.NONE,
        mode: Mode = Mode.F32,
        pool: Pool | None = None,
    ) -> None:
        self.blob = blob
        self.activation = Activation(activation)
        self.mode = mode
        self.pool = pool
        self.bias = None if bias is None else _bias_values(bias, blob.n)

    @classmethod
    def from_weights(
        cls,
        weights: Any,
        bias: Any = None,
        *,
        scheme: Scheme | None = None,
        activation: Activation = Activation.NONE,
        mode: Mode = Mode.F32,
        pool: Pool | None = None,
    ) -> Linear:
        """Quantizes and packs weights[n][k]."""
        return cls(Blob.quantize(weights, scheme), bias, activation=activation, mode=mode, pool=pool)

    def __call__(self, x: Any, out: np.ndarray | None = None, *, residual: Any = None) -> np.ndarray:
        """x[..., k] to y[..., n]. The residual is [..., n] and may be `out` itself."""
        return self.blob.matmul(
            x,
            activation=self.activation,
            bias=self.bias,
            residual=residual,
            mode=self.mode,
            out=out,
            pool=self.pool,
        )

    def __repr__(self) -> str:
        parts = [repr(self.blob), f"bias={self.bias is not None}", f"mode={self.mode.name}"]
        if self.activation != Activation.NONE:
            parts.append(f"activation={self.activation.name}")
        return f"Linear({', '.join(parts)})"


def _bias_values(bias: Any, n: int) -> np.ndarray:
    """float32[n]: NumPy alone could not keep a bfloat16 tensor's type."""
    values: np.ndarray = widened(operand(bias, "bias", (n,))).array[0]
    return values
