# SPDX-License-Identifier: Apache-2.0
"""Waiting until nobody of ours works any more, and seeing who else does."""

from __future__ import annotations

import os
import pathlib
import time

_NAP = 0.004
_IDLE_SHARE = 0.1
_MOST_NAPS = 50
_STATISTICS = pathlib.Path("/proc/stat")
_IDLE_FIELDS = (3, 4)
_COUNTED_FIELDS = 8


def _busy_seconds() -> float:
    """Processor time that the whole machine has used, or that its host took away; 0 where that is not told."""
    if not _STATISTICS.exists():
        return 0.0
    with _STATISTICS.open() as file:
        fields = [int(field) for field in file.readline().split()[1 : 1 + _COUNTED_FIELDS]]
    ticks = sum(count for index, count in enumerate(fields) if index not in _IDLE_FIELDS)
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def settle() -> tuple[float, float]:
    """Sleeps until this process's other threads sleep too.

    Thread pools spin for some milliseconds after their last work, on processors that the next contestant needs.
    Returns how long the last nap was and how much processor time others used in it: whatever disturbs the measurement.
    The machine counts in hundredths of a second, so only sums over many naps mean something.
    """
    for _ in range(_MOST_NAPS):
        wall, own, all_of_it = time.perf_counter(), time.process_time(), _busy_seconds()
        time.sleep(_NAP)
        elapsed, own = time.perf_counter() - wall, time.process_time() - own
        if own < _IDLE_SHARE * elapsed:
            return elapsed, max(0.0, _busy_seconds() - all_of_it - own)
    return 0.0, 0.0
