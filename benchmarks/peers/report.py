# SPDX-License-Identifier: Apache-2.0
"""The report in Markdown."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from .accuracy import CLASSES, DENSE
from .cells import Cell
from .results import EVERYBODY, MISSING, Measurement

GOALS = (1.0, 1.2)
THIS = "int4q"


@dataclasses.dataclass(frozen=True)
class Duel:
    """This library against the peers of one error class at one cell. Either may be missing."""

    cell: Cell
    error_class: str
    peers: Sequence[Measurement]
    own: Measurement | None
    exact: Measurement | None
    """This library without rounding: whoever may round may use it, too."""

    @property
    def peer(self) -> Measurement | None:
        """The best peer, beside this library."""
        return min(self.peers, key=self.own.faster_than, default=None) if self.own else _fastest(self.peers)

    @property
    def ratio(self) -> float | None:
        return self._least_of(self.own, Measurement.faster_than)

    @property
    def least_ratio(self) -> float | None:
        """Of the least times, beside the peer whose time is least."""
        return self._least_of(self.own, lambda own, peer: peer.least / own.least)

    @property
    def exact_ratio(self) -> float | None:
        """The more exact mode's ratio, where that mode is the faster one."""
        ratio = self._least_of(self.exact, Measurement.faster_than)
        return ratio if ratio and self.ratio and ratio > self.ratio else None

    def _least_of(self, own: Measurement | None, ratio: Callable[[Measurement, Measurement], float]) -> float | None:
        return min((ratio(own, peer) for peer in self.peers), default=None) if own else None


def _fastest(measurements: Sequence[Measurement]) -> Measurement | None:
    return max(measurements, key=lambda one: one.gflops, default=None)


def duels(measurements: Sequence[Measurement]) -> list[Duel]:
    """For every cell that was measured one duel in each class."""
    by_cell: dict[Cell, list[Measurement]] = defaultdict(list)
    for one in measurements:
        if one.error_class != MISSING:
            by_cell[one.cell].append(one)
    return [_duel(cell, name, found) for cell, found in sorted(by_cell.items()) for name in CLASSES]


def _duel(cell: Cell, error_class: str, found: Sequence[Measurement]) -> Duel:
    in_class = [one for one in found if one.error_class == error_class]
    own = _fastest([one for one in in_class if one.peer == THIS])
    exact = _fastest([one for one in found if one.peer == THIS and one.error_class == CLASSES[0]])
    return Duel(cell, error_class, [one for one in in_class if one.peer != THIS], own, exact)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> Iterator[str]:
    """A Markdown table; columns numbered in `left` are aligned to the left."""
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" if index in left else "---:" for index in range(len(heads))) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _cell_columns(cell: Cell) -> list[str]:
    return [f"{cell.n} x {cell.k}", str(cell.group), str(cell.threads), str(cell.m)]


def _speed(one: Measurement | None) -> str:
    return f"{one.gflops:.1f}" if one else ""


def _ratio(ratio: float | None) -> str:
    return f"{ratio:.2f}" if ratio else ""


def _duel_columns(duel: Duel) -> list[str]:
    peer = f"{duel.peer.contestant} {_speed(duel.peer)}" if duel.peer else ""
    exact = f" (f32 {duel.exact_ratio:.2f})" if duel.exact_ratio else ""
    return [peer, _speed(duel.own), _ratio(duel.ratio) + exact, _ratio(duel.least_ratio)]


def _duel_table(all_duels: Sequence[Duel]) -> Iterator[str]:
    heads = ["n x k", "group", "threads", "m"]
    for name in CLASSES:
        heads += [f"{name}: best peer", "int4q", "ratio", "least"]
    by_cell: dict[Cell, list[str]] = {}
    for duel in all_duels:
        by_cell.setdefault(duel.cell, _cell_columns(duel.cell)).extend(_duel_columns(duel))
    yield from _table(heads, list(by_cell.values()), (0, 4, 8, 12))


def _dense_table(measurements: Sequence[Measurement]) -> Iterator[str]:
    """BF16 mode beside dense bfloat16 products, whose weights are not in 4 bits."""
    own = {one.cell: one for one in measurements if one.contestant == f"{THIS} BF16"}
    dense = [one for one in measurements if one.error_class == DENSE and "bfloat16" in one.contestant and one.cell in own]
    rows = [
        [*_cell_columns(one.cell), f"{one.contestant} {_speed(one)}", _speed(own[one.cell]), _ratio(own[one.cell].faster_than(one))]
        for one in sorted(dense, key=lambda one: one.cell)
    ]
    yield from _table(["n x k", "group", "threads", "m", "dense", "int4q BF16", "ratio"], rows, (0, 4))


def _full_table(measurements: Sequence[Measurement]) -> Iterator[str]:
    heads = ["n x k", "group", "threads", "m", "class", "contestant", "GFLOP/s", "best", "error", "µs"]
    rows = [
        [
            *_cell_columns(one.cell),
            one.error_class,
            one.contestant,
            f"{one.gflops:.1f}",
            f"{one.best_gflops:.1f}",
            f"{one.error:.1e}",
            f"{one.median * 1e6:.0f}",
        ]
        for one in sorted(measurements, key=lambda one: (one.cell, one.error_class, -one.gflops))
        if one.error_class != MISSING
    ]
    yield from _table(heads, rows, (0, 4, 5))


def _summary(all_duels: Sequence[Duel]) -> Iterator[str]:
    for name in CLASSES:
        ratios = [duel.ratio for duel in all_duels if duel.error_class == name and duel.ratio]
        if ratios:
            reached = [sum(ratio >= goal for ratio in ratios) for goal in GOALS]
            goals = ", ".join(f"{count} of them at {goal} or more" for goal, count in zip(GOALS, reached, strict=True))
            yield f"- {name}: {len(ratios)} cells with a peer; {goals}; ratios {min(ratios):.2f} to {max(ratios):.2f}"
    yield ""


def _missed(all_duels: Sequence[Duel]) -> Iterator[str]:
    low, high = GOALS
    compared = [(duel.ratio, duel) for duel in all_duels if duel.ratio is not None]
    below = [pair for pair in compared if pair[0] < low]
    between = [pair for pair in compared if low <= pair[0] < high]
    for title, pairs in ((f"Ratio below {low}", below), (f"Ratio from {low} to below {high}", between)):
        yield f"### {title}: {len(pairs)}"
        yield ""
        for ratio, duel in sorted(pairs, key=lambda pair: pair[0]):
            assert duel.peer and duel.own
            yield f"- {duel.cell} {duel.error_class}: {ratio:.2f} ({duel.own.contestant} {_speed(duel.own)}, " + (
                f"{duel.peer.contestant} {_speed(duel.peer)})"
            )
        yield ""


def _missing(measurements: Sequence[Measurement], absent: dict[str, str]) -> Iterator[str]:
    """One line for each reason; with the cells if they are few."""
    for name, why in absent.items():
        yield f"- missing: {name} ({why})"
    everywhere = len({one.cell for one in measurements if one.contestant != EVERYBODY})
    reasons = Counter((one.contestant, one.reason) for one in measurements if one.error_class == MISSING)
    for (contestant, why), count in reasons.items():
        cells = [str(one.cell) for one in measurements if (one.contestant, one.reason) == (contestant, why)]
        few = ", ".join(cells) if count <= 4 else f"{count} cells"
        where = "everywhere" if count == everywhere and contestant != EVERYBODY else few
        yield f"- missing: {contestant} ({why}): {where}"
    yield ""


def _quiet(measurements: Sequence[Measurement]) -> str:
    """How far the machine was left alone."""
    shares = {one.cell: one.disturbance for one in measurements if one.disturbance == one.disturbance}
    if not shares:
        return "- Other processes: unknown"
    worst = max(shares, key=lambda cell: shares[cell])
    mean = sum(shares.values()) / len(shares)
    return f"- Other processes kept {mean:.2f} processors busy; at worst {shares[worst]:.2f}, at {worst}"


def markdown(header: Sequence[str], measurements: Sequence[Measurement], absent: dict[str, str]) -> str:
    """The whole report. `absent` are the peers that took no part, with the reasons."""
    all_duels = duels(measurements)
    lines = [
        "# int4q beside its peers",
        "",
        *header,
        _quiet(measurements),
        "",
        "## This library against the best peer of each class",
        "",
    ]
    lines += ["GFLOP/s of median times, counting 2 m n k. `ratio`: the median of the rounds' ratios, beside the peer for which it"]
    lines += ["is least; `(f32 x)`: that of F32 mode, where that is faster. `least`: of the least times, to the least of them. Blank: nothing of that class.", ""]
    lines += [*_summary(all_duels), *_duel_table(all_duels)]
    lines += ["![ratios](peers.png)", "", "## Goals missed", "", *_missed(all_duels)]
    lines += ["## Beside dense products", "", *_dense_table(measurements)]
    lines += ["## Everything measured", "", "`best` is of the least time. `error` is relative, to binary64.", ""]
    lines += [*_full_table(measurements), "## Not measured", "", *_missing(measurements, absent)]
    return "\n".join(lines)
