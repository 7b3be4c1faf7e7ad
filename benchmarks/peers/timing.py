# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing: every round gives every contestant one turn."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import statistics
from collections.abc import Callable, Iterator, Sequence

from .contestant import Program, reason
from .settling import settle

WARM_UP_BELOW = 0.2
"""A run that takes longer warms itself up."""


@dataclasses.dataclass
class Turns:
    """One contestant's times, in seconds for one product."""

    program: Program
    runs: int = 1
    seconds: list[float] = dataclasses.field(default_factory=list)
    spent: float = 0.0
    idle: float = 0.0
    """Seconds in which nobody of ours worked,"""
    disturbed: float = 0.0
    """and processor seconds that others used in those."""
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    def calibrate(self, seconds: float) -> None:
        """Finds how many runs take that long."""
        once = self.program.time(1)
        if once < WARM_UP_BELOW:
            once = max(self.program.time(1), 1e-7)
        if once < seconds / 10:
            few = max(1, int(seconds / 10 / once))
            once = self.program.time(few) / few
        self.runs = max(1, math.ceil(seconds / once))
        settle()

    def take(self) -> None:
        """One turn."""
        expected = self.seconds[-1] * self.program.products if self.seconds else 0.0
        if expected < WARM_UP_BELOW:
            self.program.time(1)
        elapsed = self.program.time(self.runs)
        self.spent += elapsed
        self.seconds.append(elapsed / (self.runs * self.program.products))
        idle, disturbed = settle()
        self.idle += idle
        self.disturbed += disturbed


def _attempt(each: Turns, action: Callable[[], None]) -> None:
    """A contestant that fails is out; the others go on."""
    try:
        action()
    except Exception as error:
        each.failure = reason(error)


def interleave(turns: Sequence[Turns], rounds: int, seconds: float, most_seconds: float) -> Iterator[int]:
    """Fills `turns`; yields after every round.

    A turn lasts `seconds` or one run. Who has used up `most_seconds` sits out the rest, but everybody has one turn.
    Every other round goes backwards, so that nobody always follows the same one.
    """
    for each in turns:
        _attempt(each, functools.partial(each.calibrate, seconds))
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for each in turns if number % 2 == 0 else reversed(turns):
                if not each.failure and (not each.seconds or each.spent < most_seconds):
                    _attempt(each, each.take)
            yield number
    finally:
        gc.enable()
