# SPDX-License-Identifier: Apache-2.0
"""Measurements, and the CSV file that keeps them."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import statistics
from collections.abc import Iterable

from .accuracy import DENSE, classify
from .cells import Cell

MISSING = "missing"
"""Instead of an error class."""
EVERYBODY = "everybody"
"""Instead of a contestant, where a cell is measured for none."""


@dataclasses.dataclass
class Measurement:
    """One contestant at one cell; or, with the error class "missing", why there is none."""

    cell: Cell
    peer: str
    contestant: str
    error_class: str
    error: float = float("nan")
    median: float = float("nan")
    least: float = float("nan")
    rounds: int = 0
    runs: int = 0
    copies: int = 0
    disturbance: float = float("nan")
    """How many processors other processes kept busy between the cell's turns."""
    turns: list[float] = dataclasses.field(default_factory=list)
    """A product's time in each round, as far as it took part."""
    reason: str = ""

    @property
    def gflops(self) -> float:
        return self.cell.operations / self.median / 1e9

    @property
    def best_gflops(self) -> float:
        return self.cell.operations / self.least / 1e9

    def faster_than(self, other: Measurement) -> float:
        """How many times as fast: the median of the rounds' ratios, for what disturbs a round disturbs both."""
        if not self.turns or not other.turns:
            return other.median / self.median
        return statistics.median(theirs / ours for ours, theirs in zip(self.turns, other.turns))  # noqa: B905


_CELL_FIELDS = [field.name for field in dataclasses.fields(Cell)]
_OWN_FIELDS = [field.name for field in dataclasses.fields(Measurement) if field.name != "cell"]
_HEADER = [*_CELL_FIELDS, *_OWN_FIELDS, "gflops", "best_gflops"]


def has_other_columns(path: pathlib.Path) -> bool:
    """Whether an older version wrote the file, so that nothing can be added to it."""
    if not path.exists():
        return False
    with path.open(newline="") as file:
        return next(csv.reader(file), []) != _HEADER


def append(path: pathlib.Path, measurements: Iterable[Measurement]) -> None:
    """Adds lines to the file, which begins with a header. Times are in seconds."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_HEADER)
        for one in measurements:
            own = [_text(getattr(one, name)) for name in _OWN_FIELDS]
            writer.writerow([*dataclasses.astuple(one.cell), *own, f"{one.gflops:.4g}", f"{one.best_gflops:.4g}"])


def _text(value: object) -> object:
    return " ".join(f"{turn:.4g}" for turn in value) if isinstance(value, list) else value


def read(path: pathlib.Path) -> list[Measurement]:
    """What append() wrote; nothing if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_measurement(row) for row in csv.DictReader(file)]


def _measurement(row: dict[str, str]) -> Measurement:
    cell = Cell(*(int(row[name]) for name in _CELL_FIELDS))
    texts = {name: row[name] for name in ("peer", "contestant", "error_class", "reason")}
    floats = {name: float(row[name]) for name in ("error", "median", "least", "disturbance")}
    integers = {name: int(row[name]) for name in ("rounds", "runs", "copies")}
    if texts["error_class"] != MISSING:  # older versions had other classes
        texts["error_class"] = classify(floats["error"], texts["error_class"] == DENSE)
    turns = [float(turn) for turn in (row.get("turns") or "").split()]  # older files have none
    return Measurement(cell=cell, **texts, **floats, **integers, turns=turns)  # type: ignore[arg-type]
