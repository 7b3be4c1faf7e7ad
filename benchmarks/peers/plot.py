# SPDX-License-Identifier: Apache-2.0
"""The picture: how this library compares with the best peer of each class, cell by cell."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from .accuracy import CLASSES
from .report import GOALS, Duel

_COLOURS = {"f32": "#0072b2", "bf16": "#e69f00", "int8": "#009e73"}
_MARKERS = {"f32": "o", "bf16": "s", "int8": "^"}
_TICKS = (0.25, 0.5, 0.75, 1, 1.2, 1.5, 2, 3, 5, 10, 20, 50)


def _draw_row(axes: Any, row: Sequence[Duel], title: str) -> None:
    cells = sorted({duel.cell for duel in row})
    place = {cell: index for index, cell in enumerate(cells)}
    for name in CLASSES:
        points = [(place[duel.cell], duel.ratio) for duel in row if duel.error_class == name and duel.ratio]
        if points:
            axes.plot(*zip(*points, strict=True), _MARKERS[name], color=_COLOURS[name], markersize=5, label=name)
    axes.axhline(GOALS[0], color="black", linewidth=1)
    axes.axhline(GOALS[1], color="grey", linewidth=1, linestyle="--")
    axes.set_yscale("log")
    axes.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    ratios = [duel.ratio for duel in row if duel.ratio]
    axes.set_ylim(min([0.8, *ratios]) / 1.1, max([1.5, *ratios]) * 1.1)
    names = [f"{cell.shape} m{cell.m}" for cell in cells]
    axes.set_xticks(range(len(cells)), names, rotation=60, ha="right", fontsize=7)
    axes.set_xlim(-0.6, len(cells) - 0.4)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(title, fontsize=9)
    axes.set_ylabel("int4q / best peer")


def draw(duels: Sequence[Duel], path: pathlib.Path) -> None:
    """One row of points for each group size and thread count."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = sorted({(duel.cell.group, duel.cell.threads) for duel in duels if duel.ratio})
    if not kinds:
        return
    figure, rows = pyplot.subplots(len(kinds), 1, figsize=(11, 3.4 * len(kinds)), squeeze=False, layout="constrained")
    for axes, (group, threads) in zip(rows[:, 0], kinds, strict=True):
        row = [duel for duel in duels if (duel.cell.group, duel.cell.threads) == (group, threads)]
        _draw_row(axes, row, f"groups of {group}, threads: {threads}")
    handles = {name: line for axes in rows[:, 0] for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), title="error class", loc="outside upper right", ncols=len(handles))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
