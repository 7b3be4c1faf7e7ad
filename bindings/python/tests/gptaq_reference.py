"""GPTAQ in float64, as its authors published it: an inverse, P, column by column. Nothing here calls the library.

Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML 2025. With D the sum of (x - y) y^T,
H = U^-1 U^-T the damped sum of y y^T and P = alpha * triu(D U^T, 1) U, column i takes e U[i] from the columns after it, and adds w P[i],
w being its weight as it is when its turn comes.
"""

from __future__ import annotations

import gptq_reference
import numpy as np
import reference


def quantize(
    weights: np.ndarray,
    gram: np.ndarray,
    cross: np.ndarray,
    scheme: object,
    *,
    alpha: float,
    damping: float = 0.01,
    order: str = "columns",
    static_groups: bool = False,
    clear_dead: bool = False,
) -> gptq_reference.Result:
    n, k = weights.shape
    size = k if scheme.group_size == -1 else scheme.group_size
    static_groups = static_groups or size >= k
    w = weights.astype(np.float64)
    if clear_dead:
        w[:, np.diag(gram) == 0] = 0
    columns = gptq_reference.order_of(gram, order, size)
    h = gptq_reference.damped(gram, damping)[np.ix_(columns, columns)]
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    p = alpha * np.triu(cross[np.ix_(columns, columns)] @ u.T, 1) @ u
    w = w[:, columns]
    given = [reference.quantize_group(weights[:, i : i + size], scheme) for i in range(0, k, size)]
    fitted = list(given)
    result = gptq_reference.Result(
        np.zeros((n, k), np.int64), np.zeros((n, k)), np.zeros((n, len(given))), np.zeros((n, k))
    )
    seen = set()
    for i in range(k):
        group = columns[i] // size
        if not static_groups and group not in seen:
            seen.add(group)
            fitted[group] = reference.quantize_group(w[:, i : min(i + size, k)].astype(np.float32), scheme)
        codes, values, margins = gptq_reference.round_with(w[:, i], fitted[group], scheme)
        current = w[:, i].copy()
        w[:, i:] += np.outer(current, p[i, i:]) - np.outer((current - values) / u[i, i], u[i, i:])
        column = columns[i]
        result.codes[:, column], result.values[:, column], result.margins[:, column] = codes, values, margins
    result.scales = np.stack([group.scale for group in fitted], axis=1)
    return result


def shifted(weights: np.ndarray, gram: np.ndarray, cross: np.ndarray, *, alpha: float = 1.0, damping: float = 0.01) -> np.ndarray:
    """Rows of `cross` after the channels' are of what outputs are added to."""
    w, k = weights.astype(np.float64), weights.shape[1]
    wanted = w @ cross[:k, :k] + (cross[k:, :k] if len(cross) > k else 0)
    return w + alpha * np.linalg.solve(gptq_reference.damped(gram, damping), wanted.T).T


def losses(weights: np.ndarray, values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of the rows themselves: the mean of (w x - v y)^2 less that of (w x - w y)^2."""
    w = weights.astype(np.float64)
    wanted = x @ w.T
    return ((wanted - y @ values.T.astype(np.float64)) ** 2 - (wanted - y @ w.T) ** 2).mean(axis=0)
