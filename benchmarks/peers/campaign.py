# SPDX-License-Identifier: Apache-2.0
"""Measures cell after cell."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .accuracy import WRONG_ERROR, Reference, classify
from .cells import Cell, why_not
from .contestant import Contestant, Missing, Peer, Problem, Program, reason
from .results import EVERYBODY, MISSING, Measurement
from .this_library import quantize
from .timing import Turns, interleave

Notify = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int = 5
    seconds: float = 0.03
    """A turn's least time."""
    most_seconds: float = 6.0
    """A contestant's most time in one cell, but for its first turn."""
    longest_run: float = 2.0
    """Who is expected to take longer for one product is left out: a plain loop, kept for completeness."""


class Forecast:
    """What a product will take at a larger m, from those measured."""

    _SLOPE_OF_ONE = 1 / 8
    """With one time known, how much of it is taken to grow with m: little, so that nobody is left out by mistake."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def add(self, m: int, seconds: float) -> None:
        self._seconds[m] = seconds

    def seconds(self, m: int) -> float:
        """0 if nothing is known."""
        if not self._seconds:
            return 0.0
        *smaller, last = sorted(self._seconds)
        slope = self._seconds[last] / last * self._SLOPE_OF_ONE
        if smaller:
            rise = self._seconds[last] - self._seconds[smaller[-1]]
            slope = max(0.0, rise / (last - smaller[-1]))
        return self._seconds[last] + slope * (m - last)


def _give_back_memory() -> None:
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _quietly(close: Callable[[], None]) -> None:
    with contextlib.suppress(Missing):  # its process may have died
        close()


class Campaign:
    """The peers that take part, and what is known of them so far."""

    def __init__(self, peers: Sequence[Peer], effort: Effort, notify: Notify, seed: int = 0) -> None:
        self._entries = [(peer, contestant) for peer in peers for contestant in peer.contestants()]
        self._effort = effort
        self._notify = notify
        self._random = np.random.default_rng(seed)
        self._forecasts: dict[tuple[object, ...], Forecast] = defaultdict(Forecast)

    def measure(self, cells: Sequence[Cell]) -> Iterator[list[Measurement]]:
        """Each cell's measurements. Cells of the same matrix should be neighbours: it is quantized once."""
        matrix: tuple[object, ...] = ()
        for cell in cells:
            refused = why_not(cell)
            if refused:
                yield [Measurement(cell, "", EVERYBODY, MISSING, reason=refused)]
                continue
            if matrix != (cell.n, cell.k, cell.group):
                matrix = (cell.n, cell.k, cell.group)
                self._notify(f"{cell}: quantizing")
                numbers = self._random.standard_normal((cell.n, cell.k), np.float32)
                weights = quantize(numbers, cell.group)
                del numbers
            x = self._random.standard_normal((cell.m, cell.k), np.float32)
            yield self._measure(Problem(cell, weights, x))
            _give_back_memory()

    def _measure(self, problem: Problem) -> list[Measurement]:
        reference = Reference(problem)
        found: list[Measurement] = []
        with contextlib.ExitStack() as stack:
            ready: list[tuple[Measurement, Turns]] = []
            for peer, contestant in self._entries:
                self._notify(f"{problem.cell}: preparing {contestant.name}")
                try:
                    measurement, program = self._prepare(peer, contestant, problem, reference, stack)
                except Exception as error:  # whatever a library raises, the others go on
                    found.append(self._missing(problem.cell, peer, contestant, reason(error)))
                    continue
                found.append(measurement)
                ready.append((measurement, Turns(program)))
            self._time(problem.cell, ready)
        return found

    def _prepare(
        self,
        peer: Peer,
        contestant: Contestant,
        problem: Problem,
        reference: Reference,
        stack: contextlib.ExitStack,
    ) -> tuple[Measurement, Program]:
        self._refuse_endless(contestant, problem.cell)
        program = contestant.prepare(problem)
        stack.callback(_quietly, program.close)
        error = reference.error(program, contestant.held)
        error_class = classify(error, contestant.dense)
        if error_class == "wrong":
            raise Missing(f"its product is wrong: relative error {error:.2g}, more than {WRONG_ERROR}")
        name = contestant.name
        return Measurement(problem.cell, peer.name, name, error_class, error, copies=program.copies), program

    def _time(self, cell: Cell, ready: Sequence[tuple[Measurement, Turns]]) -> None:
        effort = self._effort
        turns = [each for _, each in ready]
        for number in interleave(turns, effort.rounds, effort.seconds, effort.most_seconds):
            self._notify(f"{cell}: round {number + 1} of {effort.rounds}")
        idle = sum(each.idle for each in turns)
        disturbance = sum(each.disturbed for each in turns) / idle if idle else float("nan")
        for measurement, each in ready:
            measurement.disturbance = disturbance
            if each.failure or not each.seconds:
                measurement.error_class, measurement.reason = MISSING, each.failure
                continue
            measurement.median, measurement.least = each.median, each.least
            measurement.rounds, measurement.runs, measurement.turns = len(each.seconds), each.runs, each.seconds
            self._forecast(measurement.contestant, cell).add(cell.m, each.least)

    def _forecast(self, contestant: str, cell: Cell) -> Forecast:
        return self._forecasts[contestant, cell.n, cell.k, cell.group, cell.threads]

    def _refuse_endless(self, contestant: Contestant, cell: Cell) -> None:
        expected = self._forecast(contestant.name, cell).seconds(cell.m)
        if expected > self._effort.longest_run:
            raise Missing(f"one product would take about {expected:.0f} s")

    @staticmethod
    def _missing(cell: Cell, peer: Peer, contestant: Contestant, why: str) -> Measurement:
        return Measurement(cell, peer.name, contestant.name, MISSING, reason=why)
