"""What a blob carries beside its codes: a permutation, a rotation, a sparse and a low-rank part."""

from __future__ import annotations

import ctypes
import dataclasses
import operator
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, contiguous, dtype_of, input_matrix, widened
from ._enums import LowRankForm, Type
from ._outliers import SparseMatrix


@dataclasses.dataclass(frozen=True, eq=False)
class BlobParts:
    """Parts of a blob whose product is

        x' = rotate(x[..., permutation]);   y = x' Wq^T + x S^T + (x B^T) A^T

    permutation  uint32[k]: column j of Wq belongs to input channel permutation[j]
    rotation     (order, seed): runs of `order` columns are multiplied by random signs (none with seed 0) and by the
                 orthonormal Hadamard matrix of that order: 2^a, 12 * 2^a, 20 * 2^a or 28 * 2^a
    sparse       SparseMatrix S, n x k, in x's own channel order
    low_rank     (A, B): A[n][rank] and B[rank][k] of float32, float16 or bfloat16, rank 1 to 256, in x's channel order

    Any of them may be None. `Blob.parts` tells a blob's; `Blob.pack` and `Blob.with_parts` take them as arguments.
    """

    permutation: Any = None
    rotation: tuple[int, int] | int | None = None
    sparse: SparseMatrix | None = None
    low_rank: tuple[Any, Any] | None = None

    @property
    def is_empty(self) -> bool:
        return self.permutation is None and self.rotation is None and self.sparse is None and self.low_rank is None

    def as_struct(self, n: int, k: int) -> tuple[_native.PartsStruct, list[Any]]:
        """The C struct for an n x k matrix, and the arrays that must outlive it. ValueError or TypeError by name."""
        fields: dict[str, Any] = {}
        kept: list[Any] = []
        if self.permutation is not None:
            channels = _channels(self.permutation, k)
            kept.append(channels)
            fields["permutation"] = channels.ctypes.data
        if self.rotation is not None:
            fields |= _rotation_fields(self.rotation)
        if self.sparse is not None:
            kept.append(self.sparse)
            fields |= _sparse_fields(self.sparse, n, k)
        if self.low_rank is not None:
            a, b = _factors(self.low_rank, n, k)
            kept += [a, b]
            fields |= {"rank": a.columns, "low_rank_type": a.element_type}
            fields |= {"low_rank_a": a.pointer, "low_rank_b": b.pointer}
        return _native.PartsStruct(**fields), kept

    def size(self, n: int, k: int) -> int:
        """Bytes that they take behind the blob of an n x k matrix."""
        struct, _kept = self.as_struct(n, k)
        size = ctypes.c_uint64()
        _native.call("int4q_blob_parts_size", n, k, ctypes.byref(struct), ctypes.byref(size))
        return size.value

    def attach(self, data: np.ndarray, n: int, k: int) -> None:
        """Behind a packed blob of an n x k matrix, in memory that is large enough."""
        struct, _kept = self.as_struct(n, k)
        _native.call("int4q_blob_attach", data.ctypes.data, data.nbytes, ctypes.byref(struct))


def _channels(permutation: Any, k: int) -> np.ndarray:
    channels = np.asarray(permutation)
    if channels.shape != (k,):
        raise ValueError(f"permutation has shape {channels.shape}; expected ({k},)")
    if not np.issubdtype(channels.dtype, np.integer):
        raise TypeError(f"permutation has dtype {channels.dtype}; expected integers")
    if channels.min() < 0 or channels.max() >= k:
        raise ValueError(f"permutation has elements {channels.min()} to {channels.max()}; expected 0 to {k - 1}")
    return np.ascontiguousarray(channels, np.uint32)


def _rotation_fields(rotation: tuple[int, int] | int) -> dict[str, Any]:
    order, seed = rotation if isinstance(rotation, tuple) else (rotation, 0)
    order, seed = operator.index(order), operator.index(seed)
    if not 0 < order < 1 << 63:
        raise ValueError(f"rotation has order {order}; expected 2^a, 12 * 2^a, 20 * 2^a or 28 * 2^a")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"rotation has seed {seed}; expected 0 to 2^64 - 1")
    return {"rotation_order": order, "rotation_seed": seed}


def _sparse_fields(sparse: SparseMatrix, n: int, k: int) -> dict[str, Any]:
    if not isinstance(sparse, SparseMatrix):
        raise TypeError(f"sparse is {type(sparse).__name__}; expected a SparseMatrix")
    if (sparse.n, sparse.k) != (n, k):
        raise ValueError(f"sparse is {sparse.n} x {sparse.k}; expected {n} x {k}")
    fields = {"sparse_count": sparse.count, "sparse_row_offsets": sparse.row_offsets.ctypes.data}
    if sparse.count:
        fields |= {"sparse_columns": sparse.columns.ctypes.data, "sparse_values": sparse.values.ctypes.data}
    return fields


def _factors(low_rank: tuple[Any, Any], n: int, k: int) -> tuple[Matrix, Matrix]:
    """A and B of one type, without room between rows."""
    a, b = (contiguous(input_matrix(value, f"low_rank[{i}]")) for i, value in enumerate(low_rank))
    if a.rows != n:
        raise ValueError(f"low_rank[0] has {a.rows} rows; expected {n}")
    if (b.rows, b.columns) != (a.columns, k):
        raise ValueError(f"low_rank[1] has shape {(b.rows, b.columns)}; expected {(a.columns, k)}")
    return (a, b) if a.element_type == b.element_type else (widened(a), widened(b))


def read_parts(data: np.ndarray, n: int, k: int) -> BlobParts:
    """The parts of a blob, as views of its bytes where the layout allows it."""
    struct = _native.PartsStruct()
    _native.call("int4q_blob_get_parts", data.ctypes.data, data.nbytes, ctypes.byref(struct))

    def view(pointer: int | None, dtype: Any, *shape: int) -> np.ndarray:
        """Of the blob's bytes, which it keeps alive."""
        if pointer is None:
            return np.empty(shape, dtype)
        begin = pointer - data.ctypes.data
        count = np.dtype(dtype).itemsize * int(np.prod(shape))
        array: np.ndarray = data[begin : begin + count].view(dtype).reshape(shape)
        array.flags.writeable = False
        return array

    permutation = None if struct.permutation is None else view(struct.permutation, np.uint32, k)
    rotation = (int(struct.rotation_order), int(struct.rotation_seed)) if struct.rotation_order else None
    sparse = low_rank = None
    if struct.sparse_row_offsets is not None:
        sparse = SparseMatrix(
            n,
            k,
            view(struct.sparse_row_offsets, np.int64, n + 1),
            view(struct.sparse_columns, np.int32, struct.sparse_count),
            view(struct.sparse_values, np.float32, struct.sparse_count),
        )
    if struct.rank:
        rank, dtype = int(struct.rank), dtype_of(Type(struct.low_rank_type))
        if struct.low_rank_form != LowRankForm.BLOCKS:
            raise AssertionError(struct.low_rank_form)
        blocks = view(struct.low_rank_a, dtype, -(-n // 16), rank, 16)
        a = np.ascontiguousarray(blocks.transpose(0, 2, 1).reshape(-1, rank)[:n])
        low_rank = a, view(struct.low_rank_b, dtype, rank, k)
    return BlobParts(permutation, rotation, sparse, low_rank)
