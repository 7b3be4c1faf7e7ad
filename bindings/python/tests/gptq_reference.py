"""GPTQ in float64, as its authors published it: with an inverse, column by column. Nothing here calls the library.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022, algorithm 1.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import reference


@dataclasses.dataclass
class Result:
    """codes[n][k], values[n][k], and how far each value was from the middle between two codes, in steps."""

    codes: np.ndarray
    values: np.ndarray
    scales: np.ndarray
    margins: np.ndarray


def damped(gram: np.ndarray, damping: float) -> np.ndarray:
    """The Gram matrix with a share of the mean of its diagonal (of live channels) added; dead channels get that mean."""
    diagonal = np.diag(gram).copy()
    live = diagonal > 0
    mean = diagonal[live].mean() if live.any() else 1.0
    return gram + np.diag(np.where(live, 0.0, mean) + damping * mean)


def order_of(gram: np.ndarray, order: str, size: int) -> np.ndarray:
    diagonal, k = np.diag(gram), len(gram)
    if order == "columns":
        return np.arange(k)
    if order == "activations":
        return np.argsort(-diagonal, kind="stable")
    whole = k // size
    groups = [group * size + np.argsort(-diagonal[group * size : (group + 1) * size], kind="stable") for group in range(whole)]
    groups.sort(key=lambda columns: (-diagonal[columns[0]], columns[0]))
    rest = whole * size + np.argsort(-diagonal[whole * size :], kind="stable")
    return np.concatenate([*groups, rest]).astype(np.int64)


def round_with(w: np.ndarray, group: reference.Group, scheme: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, values and margins of one column, in float64, with a group's parameters as stored."""
    scale, zero, offset = (part.astype(np.float64) for part in (group.scale, group.zero_point, group.offset))
    safe = np.where(scale == 0, 1.0, scale)
    if scheme.kind == reference.CODEBOOK:
        table = np.array(scheme.codebook_array(), np.float64)
        distances = np.abs(w[:, None] / safe[:, None] - table)
        codes = distances.argmin(axis=1)
        codes = np.where(scale == 0, 0, codes)
        two = np.sort(distances, axis=1)[:, :2]
        return codes, scale * table[codes], two[:, 1] - two[:, 0]
    centre = 8.0 if scheme.kind == reference.SYMMETRIC else zero
    low = 1 if scheme.code_range == 1 else 0
    steps = (w - offset) / safe + centre
    if scheme.rounding == 1:  # ggml: half up, the offset's code being 0
        codes = np.floor(steps + 0.5)
    else:
        codes = np.rint(steps)
    codes = np.clip(codes, low, 15)
    codes = np.where(scale == 0, 8 if scheme.kind == reference.SYMMETRIC else 0, codes)
    margins = np.where((steps < low) | (steps > 15), 1.0, np.abs(np.abs(steps - np.rint(steps)) - 0.5))
    return codes, scale * (codes - centre) + offset, margins


def quantize(
    weights: np.ndarray,
    gram: np.ndarray,
    scheme: object,
    *,
    damping: float = 0.01,
    order: str = "columns",
    static_groups: bool = False,
    clear_dead: bool = False,
) -> Result:
    n, k = weights.shape
    size = k if scheme.group_size == -1 else scheme.group_size
    static_groups = static_groups or size >= k
    w = weights.astype(np.float64)
    if clear_dead:
        w[:, np.diag(gram) == 0] = 0
    columns = order_of(gram, order, size)
    h = damped(gram, damping)[np.ix_(columns, columns)]
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    w = w[:, columns]
    given = [reference.quantize_group(weights[:, i : i + size], scheme) for i in range(0, k, size)]
    fitted = list(given)
    result = Result(np.zeros((n, k), np.int64), np.zeros((n, k)), np.zeros((n, len(given))), np.zeros((n, k)))
    seen = set()
    for i in range(k):
        group = columns[i] // size
        if not static_groups and group not in seen:
            seen.add(group)
            members = slice(i, min(i + size, k))
            fitted[group] = reference.quantize_group(w[:, members].astype(np.float32), scheme)
        codes, values, margins = round_with(w[:, i], fitted[group], scheme)
        error = (w[:, i] - values) / u[i, i]
        w[:, i:] -= np.outer(error, u[i, i:])
        column = columns[i]
        result.codes[:, column], result.values[:, column], result.margins[:, column] = codes, values, margins
    result.scales = np.stack([group.scale for group in fitted], axis=1)
    return result


def losses(weights: np.ndarray, values: np.ndarray, gram: np.ndarray, rows: int) -> np.ndarray:
    difference = weights.astype(np.float64) - values
    return np.einsum("ij,jk,ik->i", difference, gram, difference) / rows
