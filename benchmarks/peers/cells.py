# SPDX-License-Identifier: Apache-2.0
"""What is measured: shapes, group sizes, batch sizes, thread counts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008), (1536, 576), (50257, 768))
GROUPS = (32, 128)
BATCHES = (1, 4, 16, 128, 512)
THREADS = (1, 2)

ROTATING_BATCH = 4
"""Up to this m weights come from memory, as in a model larger than the cache; above it they may stay in the cache."""
ROTATING_BYTES = 320_000_000
SHORT_PRODUCT = 2e8
"""Operations below which a product is so short that several share one call of a library with costly calls."""
MOST_SHORT_PRODUCTS = 8


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One product, and the threads that do it."""

    n: int
    k: int
    group: int
    threads: int
    m: int

    @property
    def operations(self) -> int:
        return 2 * self.m * self.n * self.k

    @property
    def shape(self) -> str:
        return f"{self.n}x{self.k}"

    def __str__(self) -> str:
        return f"{self.shape} g{self.group} t{self.threads} m{self.m}"

    def copies(self, bytes_each: int) -> int:
        """How many differing copies of a packed matrix of so many bytes are used in turn."""
        if self.m <= ROTATING_BATCH:
            return -(-ROTATING_BYTES // bytes_each)
        return min(MOST_SHORT_PRODUCTS, max(1, round(SHORT_PRODUCT / self.operations)))


def parse_shape(text: str) -> tuple[int, int]:
    """ "4096x768" to (4096, 768). ValueError for anything else."""
    n, separator, k = text.partition("x")
    if not separator or not n.isdigit() or not k.isdigit():
        raise ValueError(f"{text!r} is no shape; expected NxK, such as 4096x768")
    return int(n), int(k)


def cells(
    shapes: Sequence[tuple[int, int]], groups: Sequence[int], threads: Sequence[int], batches: Sequence[int]
) -> Iterator[Cell]:
    """Every combination; what weights the cells share changes slowest, m grows fastest."""
    for (n, k), group, count, m in itertools.product(shapes, groups, threads, sorted(batches)):
        yield Cell(n, k, group, count, m)


def why_not(cell: Cell) -> str | None:
    """Why a cell is measured for nobody, or None."""
    if cell.k % cell.group:
        return f"k = {cell.k} is no multiple of {cell.group}, which the peers need"
    return None
