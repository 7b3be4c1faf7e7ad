"""The blob format again, from docs/blob-format.md, in plain NumPy. Nothing here calls the library but for types."""

from __future__ import annotations

import struct

import numpy as np
import xxhash

import int4q

MAGIC = b"INT4QBLB"
HEADER_BYTES = 256
BLOCK_ROWS = 16
LARGEST_GROUP = 65536


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def packed_group(scheme: int4q.Scheme, k: int) -> tuple[int, int, int]:
    """k_padded, elements in a packed group, and how many packed groups there are."""
    k_padded = -(-k // 32) * 32
    size = min(k_padded, LARGEST_GROUP) if scheme.group_size == int4q.PER_ROW else scheme.group_size
    return k_padded, size, -(-k // size)


def packed_codes(codes: np.ndarray, k_padded: int) -> bytes:
    """Of one block: for 8 neighbours in k one row of 16 lanes; even offsets in the low half of a lane."""
    full = np.zeros((BLOCK_ROWS, k_padded), np.uint32)
    full[: codes.shape[0], : codes.shape[1]] = codes
    eights = full.reshape(BLOCK_ROWS, -1, 8)
    lanes = np.zeros(eights.shape[:2], np.uint32)
    for j, k_offset in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        lanes |= eights[:, :, k_offset] << (4 * j)
    return lanes.T.astype("<u4").tobytes()


def packed_groups(values: np.ndarray, groups: int) -> bytes:
    """Of one block: [group][16 lanes], zeros for rows that are not there, per-row values repeated."""
    if values.shape[1] == 1:
        values = np.repeat(values, groups, axis=1)
    full = np.zeros((groups, BLOCK_ROWS), values.dtype)
    full[:, : values.shape[0]] = values.T
    return padded(full.tobytes())


def has_row_codebooks(tensor: int4q.QuantizedTensor) -> bool:
    return int(tensor.scheme.codebook_scope) == 1


def packed_codebooks(codebooks: np.ndarray) -> bytes:
    """Of one block: [code][16 lanes], zeros for rows that are not there."""
    full = np.zeros((BLOCK_ROWS, 16), "<f4")
    full[: len(codebooks)] = codebooks
    return full.T.tobytes()


def pack_block(tensor: int4q.QuantizedTensor, block: int) -> bytes:
    rows = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
    k_padded, _, groups = packed_group(tensor.scheme, tensor.k)
    result = packed_codes(tensor.code_matrix()[rows], k_padded)
    result += packed_groups(tensor.scales[rows], groups)
    for values in (tensor.zero_points, tensor.offsets):
        if values is not None:
            result += packed_groups(values[rows], groups)
    if has_row_codebooks(tensor):
        result += packed_codebooks(tensor.codebook[rows])
    return result


def pack_header(tensor: int4q.QuantizedTensor, total: int, blocks_offset: int, block_bytes: int) -> bytes:
    scheme = tensor.scheme
    k_padded, size, groups = packed_group(scheme, tensor.k)
    scales_offset = k_padded // 8 * 64
    scale_bytes = len(padded(bytes(groups * BLOCK_ROWS * tensor.scales.itemsize)))
    has_zero = tensor.zero_points is not None or tensor.offsets is not None
    kinds = (scheme.kind, scheme.group_size, scheme.scale_type, scheme.scale_rule, scheme.code_range, scheme.rounding)
    header = MAGIC + struct.pack("<IIQqq6i", 1, HEADER_BYTES, total, tensor.n, tensor.k, *kinds)
    header += struct.pack("<5Q", HEADER_BYTES, blocks_offset, block_bytes, scales_offset,
                          scales_offset + scale_bytes if has_zero else 0)
    header += struct.pack("<3q", groups, size, k_padded)
    of_rows = has_row_codebooks(tensor)
    table = tensor.codebook if tensor.codebook is not None and not of_rows else np.zeros(16, np.float32)
    header += table.astype("<f4").tobytes()
    header += struct.pack("<iiQ", of_rows, 0, scales_offset + scale_bytes if of_rows else 0) + bytes(40)
    return header + struct.pack("<Q", xxhash.xxh64_intdigest(header, 0))


def pack(tensor: int4q.QuantizedTensor) -> bytes:
    """The whole blob."""
    blocks = [pack_block(tensor, block) for block in range(-(-tensor.n // BLOCK_ROWS))]
    checksums = padded(b"".join(struct.pack("<Q", xxhash.xxh64_intdigest(block, 0)) for block in blocks))
    blocks_offset = HEADER_BYTES + len(checksums)
    total = blocks_offset + sum(map(len, blocks))
    return pack_header(tensor, total, blocks_offset, len(blocks[0])) + checksums + b"".join(blocks)


def parts_bytes(n: int, k: int, parts: int4q.BlobParts) -> bytes:
    """Sections in their order, each padded; 16 rows of A stand side by side."""
    result = b"" if parts.permutation is None else padded(np.asarray(parts.permutation).astype("<u4").tobytes())
    if parts.sparse is not None:
        result += padded(parts.sparse.row_offsets.astype("<i8").tobytes())
        result += padded(parts.sparse.columns.astype("<i4").tobytes())
        result += padded(parts.sparse.values.astype("<f4").tobytes())
    if parts.low_rank is not None:
        a, b = parts.low_rank
        full = np.zeros((-(-n // BLOCK_ROWS) * BLOCK_ROWS, a.shape[1]), a.dtype)
        full[:n] = a
        for block in range(0, len(full), BLOCK_ROWS):
            result += full[block : block + BLOCK_ROWS].T.tobytes()
        result = padded(result) + padded(b.tobytes())
    return result


TYPE_NUMBERS = {"float32": 1, "float16": 2, "bfloat16": 3, "uint16": 3}


def attach(blob: bytes, n: int, k: int, parts: int4q.BlobParts) -> bytes:
    """A plain blob with parts behind it; parts.rotation is (order, seed) or None."""
    behind = parts_bytes(n, k, parts)
    present = (parts.permutation, parts.rotation, parts.sparse, parts.low_rank)
    flags = sum(1 << bit for bit, part in enumerate(present) if part is not None)
    rank = 0 if parts.low_rank is None else parts.low_rank[0].shape[1]
    kind = 0 if parts.low_rank is None else TYPE_NUMBERS[parts.low_rank[0].dtype.name]
    count = 0 if parts.sparse is None else len(parts.sparse.values)
    order, seed = parts.rotation or (0, 0)
    fields = struct.pack("<IHHqQII", flags, rank, kind, count, seed, order, 0)
    fields += struct.pack("<Q", xxhash.xxh64_intdigest(behind, 0) if flags else 0)
    header = blob[:16] + struct.pack("<Q", len(blob) + len(behind)) + blob[24:208] + fields
    return header + struct.pack("<Q", xxhash.xxh64_intdigest(header, 0)) + blob[256:] + behind


def with_good_checksums(blob: bytes, block_bytes: int, blocks_offset: int) -> bytes:
    """The blob with every checksum computed anew, so that only its contents can be at fault."""
    header = blob[:248] + struct.pack("<Q", xxhash.xxh64_intdigest(blob[:248], 0))
    blocks = [blob[i : i + block_bytes] for i in range(blocks_offset, len(blob), block_bytes)]
    checksums = padded(b"".join(struct.pack("<Q", xxhash.xxh64_intdigest(block, 0)) for block in blocks))
    return header + checksums + b"".join(blocks)
