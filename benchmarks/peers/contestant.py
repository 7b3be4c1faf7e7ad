# SPDX-License-Identifier: Apache-2.0
"""What every library is wrapped as: a peer has contestants, a contestant makes a program for a problem.

No library is imported before it is used: one that is not installed must cost nothing but its own rows.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .cells import Cell
from .weights import Weights


class Missing(Exception):
    """A peer is not here, or a contestant cannot do a cell. The message says why."""


def reason(error: Exception) -> str:
    """Why something failed, in one line."""
    if isinstance(error, Missing):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines()]
    # OpenVINO begins with the places in its source that the exception came through.
    text = next((line for line in lines if line and not line.startswith("Exception from")), "")
    return f"{type(error).__name__}: {text}"[:200]


class Held(enum.Enum):
    """Which weights a format holds of those it was given. Errors count from them."""

    EXACT = "exact"
    BF16_SCALES = "scales rounded to bf16"
    BF16_WEIGHTS = "weights rounded to bf16"


@dataclasses.dataclass
class Problem:
    """A cell with its numbers."""

    cell: Cell
    weights: Weights
    x: np.ndarray
    """float32[m][k]"""
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What contestants of one peer hold in common; lives as long as the problem."""

    def copies(self, bytes_each: int | None = None) -> list[Weights]:
        """The matrices to use in turn, all different; by default as many as 4-bit weights need."""
        return [self.weights.rolled(index) for index in range(self.cell.copies(bytes_each or self.weights.nbytes))]

    def save(self, path: pathlib.Path) -> None:
        cell = np.array(dataclasses.astuple(self.cell))
        np.savez(path, cell=cell, packed=self.weights.packed, scales=self.weights.scales, x=self.x)

    @classmethod
    def load(cls, path: pathlib.Path) -> Problem:
        with np.load(path) as arrays:
            cell = Cell(*(int(value) for value in arrays["cell"]))
            return cls(cell, Weights(arrays["packed"], arrays["scales"], cell.group), arrays["x"])


class Program(abc.ABC):
    """A contestant ready to multiply: its weights are packed, its outputs allocated."""

    products = 1
    """How many products one run does."""

    @abc.abstractmethod
    def run(self) -> None:
        """Multiplies x by the next matrices in turn."""

    @abc.abstractmethod
    def result(self, copy: int) -> np.ndarray:
        """Multiplies by one of the copies (-1 is the last) and returns y[m][n]."""

    @property
    @abc.abstractmethod
    def copies(self) -> int:
        """How many matrices it holds."""

    def time(self, runs: int) -> float:
        """Seconds that `runs` runs took."""
        run = self.run
        begin = time.perf_counter()
        for _ in range(runs):
            run()
        return time.perf_counter() - begin

    def close(self) -> None:  # noqa: B027
        """Gives back what garbage collection would not."""


class InTurn(Program):
    """A program of one call for each copy, where a call costs so little that each may be a run."""

    def __init__(self, calls: Sequence[Callable[[], Any]], read: Callable[[int, Any], np.ndarray]) -> None:
        """`read(copy, returned)` gives y of the call that returned `returned`."""
        self._calls = list(calls)
        self._read = read
        self._next = itertools.cycle(self._calls).__next__

    def run(self) -> None:
        self._next()()

    def result(self, copy: int) -> np.ndarray:
        index = copy % len(self._calls)
        return self._read(index, self._calls[index]())

    @property
    def copies(self) -> int:
        return len(self._calls)


class Contestant(abc.ABC):
    """One way of one library to multiply."""

    name: str
    dense: bool = False
    """Whether its weights are not in 4 bits: a reference, not a competitor."""
    held: Held = Held.EXACT

    @abc.abstractmethod
    def prepare(self, problem: Problem) -> Program:
        """Packs the weights. Raises Missing, or what the library raises, if it cannot."""


class Peer(abc.ABC):
    """A library."""

    name: str
    is_this_library: ClassVar[bool] = False
    limits: ClassVar[dict[str, dict[str, str]]] = {}
    """For each instruction set that it can be limited to, the environment that does so."""

    @abc.abstractmethod
    def version(self) -> str:
        """Raises Missing if the library is not here."""

    @abc.abstractmethod
    def contestants(self) -> Sequence[Contestant]:
        """Its ways to multiply."""

    def limit(self, isa: str) -> dict[str, str]:
        """The environment that limits it, to be set before it is loaded. Raises Missing if there is none."""
        if isa not in self.limits:
            raise Missing(f"has no switch that limits it to {isa}")
        return self.limits[isa]

    def close(self) -> None:  # noqa: B027
        """Ends what it started."""
