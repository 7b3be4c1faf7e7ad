"""Work on ranges of rows, spread over Python threads: ctypes lets go of the interpreter lock during a call."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable

# Fewer elements than this per thread cost more to hand out than to do.
_ELEMENTS_PER_THREAD = 1 << 16


def row_ranges(rows: int, parts: int, multiple: int) -> list[tuple[int, int]]:
    """At most `parts` ranges that cover 0..rows, of nearly the same size, cut only at multiples of `multiple`."""
    blocks = -(-rows // multiple)
    parts = max(1, min(parts, blocks))
    cuts = [blocks * part // parts * multiple for part in range(parts + 1)]
    return [(begin, min(end, rows)) for begin, end in zip(cuts, cuts[1:])]


def for_rows(
    work: Callable[[int, int], None], rows: int, columns: int, threads: int | None, multiple: int = 1
) -> None:
    """Calls work(begin, end) for ranges that cover all rows. `threads` None means as many as there are processors.

    The first exception of any range is raised after all have ended.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1")
    useful = max(1, rows * columns // _ELEMENTS_PER_THREAD)
    ranges = row_ranges(rows, min(threads or os.cpu_count() or 1, useful), multiple)
    if len(ranges) == 1:
        work(0, rows)
        return
    with concurrent.futures.ThreadPoolExecutor(len(ranges)) as executor:
        futures = [executor.submit(work, begin, end) for begin, end in ranges]
    for future in futures:
        future.result()
