"""Writes the golden vectors of ggml's 4-bit block quantizers, with and without importance.

Needs the package libggml-python, whose ggml_quantize_chunk is called here directly. One file comes out, for pytest and the
C++ tests: ctests/vectors/ggml_blocks.bin; layout in the README there.

Run it again only to change the set of blocks. `python make_ggml_blocks.py --check` compares the file with what the
installed library says.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import pathlib
import sys

import numpy as np
from make_ggml import load_ggml, tie_blocks

PATH = pathlib.Path(__file__).resolve().parents[4] / "ctests" / "vectors" / "ggml_blocks.bin"
ROWS, COLUMNS = 40, 512


@dataclasses.dataclass(frozen=True)
class GgmlType:
    name: str
    number: int
    depth: int
    block_bytes: int
    takes_importance: bool

    def row_bytes(self, k: int) -> int:
        return k // self.depth * self.block_bytes


# In the order of INT4Q_FORMAT_*.
TYPES = [
    GgmlType("Q4_0", 2, 32, 18, True),
    GgmlType("Q4_1", 3, 32, 20, True),
    GgmlType("Q4_K", 12, 256, 144, True),
    GgmlType("IQ4_NL", 20, 32, 18, True),
    GgmlType("MXFP4", 39, 32, 17, False),
    GgmlType("NVFP4", 40, 64, 36, False),
]


def quantize(library: ctypes.CDLL, kind: GgmlType, source: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    """What ggml makes of source[n][k]: bytes[n][row]."""
    source = np.ascontiguousarray(source, np.float32)
    n, k = source.shape
    result = np.zeros((n, kind.row_bytes(k)), np.uint8)
    pointer = None if importance is None else np.ascontiguousarray(importance, np.float32).ctypes.data
    written = library.ggml_quantize_chunk(kind.number, source.ctypes.data, result.ctypes.data, 0, n, k, pointer)
    if written != result.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes; expected {result.nbytes}")
    return result


def special_rows(k: int) -> np.ndarray:
    """Blocks that have rules of their own, a kind per row. All within binary16, none of denormals alone (see the docs)."""
    ramp = np.arange(k, dtype=np.float32) % 32
    generator = np.random.default_rng(7)
    noise = generator.standard_normal(k).astype(np.float32)
    one_hot = np.where(ramp == 5, 37.5, 0)
    below_two = np.nextafter(np.float32(2), np.float32(0), dtype=np.float32)
    power = np.float32(2) ** (np.arange(k) // 32 % 24 - 12).astype(np.float32)
    rows = [
        np.zeros(k),
        -np.zeros(k),
        np.where(generator.random(k) < 0.5, 0.0, -0.0),
        np.full(k, 0.1),
        np.full(k, -0.1),
        np.full(k, 60000.0),
        np.where(ramp % 2 == 0, 1, -1),
        ramp - 16,
        16 - ramp,
        one_hot,
        -one_hot,
        noise + 100 * one_hot,
        noise * np.float32(2.0**-110),
        noise * np.float32(2.0**-60),
        noise * np.float32(2.0**-24),
        noise * np.float32(2.0**-14),
        noise * 10000,
        np.abs(noise) + 3,
        -np.abs(noise) - 3,
        below_two * power * np.where(ramp == 3, 1, 0.3 * np.clip(noise, -2, 2)),  # the logarithm rounds up to an integer
        np.where(np.arange(k) // 32 % 2 == 0, 0, noise),  # whole blocks of zeros among others
        np.where(ramp < 16, noise * 1e-6, noise),
    ]
    return np.asarray(rows, np.float32)


def make_source(seed: int = 20241117, n: int = ROWS, k: int = COLUMNS) -> np.ndarray:
    generator = np.random.default_rng(seed)
    special = special_rows(k)
    ties = tie_blocks(generator, 2 * k // 32).reshape(-1, k)
    rest = n - len(special) - len(ties)
    noise = generator.standard_normal((rest, k))
    noise[1::3] = generator.laplace(size=noise[1::3].shape)
    noise *= 2.0 ** generator.uniform(-12, 4, (rest, 1))
    return np.concatenate([special, ties, noise]).astype(np.float32)


def make_importance(seed: int = 3, k: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 1.5, k).astype(np.float32)


def file_bytes(library: ctypes.CDLL) -> bytes:
    source, importance = make_source(), make_importance()
    parts = [np.asarray(source.shape, "<i4"), source, importance]
    parts += [quantize(library, kind, source, None) for kind in TYPES]
    parts += [quantize(library, kind, source, importance) for kind in TYPES if kind.takes_importance]
    return b"".join(part.tobytes() for part in parts)


def read() -> dict[str, np.ndarray]:
    """"source", "importance", and "Q4_0" ..., "Q4_0 importance" ..."""
    data = PATH.read_bytes()
    n, k = np.frombuffer(data, "<i4", 2)
    offset = 8
    found = {}

    def take(name: str, dtype: str, shape: tuple[int, ...]) -> None:
        nonlocal offset
        count = int(np.prod(shape))
        found[name] = np.frombuffer(data, dtype, count, offset).reshape(shape)
        offset += found[name].nbytes

    take("source", "<f4", (n, k))
    take("importance", "<f4", (k,))
    for kind in TYPES:
        take(kind.name, "u1", (n, kind.row_bytes(k)))
    for kind in TYPES:
        if kind.takes_importance:
            take(f"{kind.name} importance", "u1", (n, kind.row_bytes(k)))
    assert offset == len(data)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing")
    check = parser.parse_args().check
    content = file_bytes(load_ggml())
    if check:
        same = PATH.read_bytes() == content
        print("the golden file matches" if same else "the golden file differs")
        return 0 if same else 1
    PATH.write_bytes(content)
    print(f"{PATH.name}: {len(content)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
