"""Diagnoses as tables of words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._diagnose import LayerDiagnosis


def layer_row(layer: LayerDiagnosis) -> dict[str, str]:
    """What a layer's weights are like."""
    row = {"layer": layer.name, "shape": " x ".join(map(str, layer.shape))}
    if layer.not_finite:
        return row | {"sigma": "not finite", "advice": "repair"}
    codes, worst = layer.codes, layer.advised
    collapsed = f"{100 * codes.groups_of_one_code / codes.groups:.1f}%" if codes and codes.groups_of_one_code else ""
    return row | {
        "sigma": f"{layer.sigma:.3g}",
        "> 6 sigma": f"{100 * layer.outlier_share:.3f}%" if layer.outliers else "",
        "largest": f"{layer.largest_sigmas:.0f} sigma",
        "skew": f"1:{layer.skew:.1f}" if math.isfinite(layer.skew) else "one sign",
        "tails": layer.tails,
        "collapsed": collapsed,
        "worst row": f"{100 * worst.worst_row_share:.1f}%" if worst else "",
        "advice": layer.advised.name if layer.advised else "8 bits or f16",
    }


def scheme_row(layer: LayerDiagnosis) -> dict[str, str]:
    """SQNR of each scheme in decibels; what is advised has a star. Bits are in the headings: nearly the same for all layers."""
    if not layer.schemes:
        return {}
    row = {"SQNR dB": layer.name}
    for result in layer.schemes:
        star = "*" if result is layer.advised else ""
        heading = result.name if not result.apart else "outliers apart"
        row[heading] = f"{result.sqnr_db:.1f}{star}" if not result.error else "scale"
        if result.apart:
            row[heading] += f" at {result.bits_per_weight:.2f} bits"
    return row


def text_table(rows: list[dict[str, str]]) -> str:
    """Columns in the order in which they come up first."""
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    cells = [headings, *([row.get(heading, "") for heading in headings] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)
