"""SmoothQuant, AWQ, coordinate descent and HQQ in float64, from docs/reconstruction.md. Nothing here calls the library."""

from __future__ import annotations

import numpy as np
import reference


def group_size(scheme: object, k: int) -> int:
    return k if scheme.group_size == -1 else scheme.group_size


def quantized(weights: np.ndarray, scheme: object) -> np.ndarray:
    """float64 values that the scheme's quantizer leaves of float32 weights."""
    found = reference.quantize(weights, scheme)
    values = reference.dequantize(found.codes, found.scales, found.zero_points, found.offsets, scheme)
    return values.astype(np.float32).astype(np.float64)


def losses(difference: np.ndarray, gram: np.ndarray) -> np.ndarray:
    return ((difference @ gram) * difference).sum(axis=1)


# ---- SmoothQuant ---------------------------------------------------------------------------------------------------


def smooth_factors(x: np.ndarray, w: np.ndarray, alpha: float) -> np.ndarray:
    x, w = x.astype(np.float64), w.astype(np.float64)
    live = (x > 0) & (w > 0)
    safe_x, safe_w = np.where(live, x, 1.0), np.where(live, w, 1.0)
    return np.where(live, np.maximum(safe_x**alpha / safe_w ** (1 - alpha), 1e-5), 1.0)


# ---- AWQ -----------------------------------------------------------------------------------------------------------


def awq_candidates(weights: np.ndarray, magnitudes: np.ndarray, scheme: object, steps: int) -> list[np.ndarray]:
    """float32 scales of each ratio; `magnitudes` are the means of |x|."""
    n, k = weights.shape
    size, w = group_size(scheme, k), np.abs(weights.astype(np.float64))
    largest = np.concatenate(
        [np.repeat(w[:, i : i + size].max(axis=1)[:, None], min(size, k - i), axis=1) for i in range(0, k, size)], axis=1
    )
    shares = (w / (largest + 1e-6)).mean(axis=0)
    found = []
    for step in range(steps):
        ratio = step / steps
        t = np.maximum(magnitudes**ratio / (shares ** (1 - ratio) + 1e-4), 1e-4)
        found.append((t / np.sqrt(t.max() * t.min())).astype(np.float32))
    return found


def awq_loss(weights: np.ndarray, scales: np.ndarray, gram: np.ndarray, rows: int, scheme: object) -> float:
    scaled = weights * scales
    return losses((scaled - quantized(scaled, scheme)) / scales, gram).sum() / rows


def awq_clip_losses(weights: np.ndarray, gram: np.ndarray, scheme: object, steps: int, tried: int) -> np.ndarray:
    """float64[tried][n][groups]"""
    n, k = weights.shape
    size = group_size(scheme, k)
    found = np.zeros((tried, n, -(-k // size)))
    for i in range(tried):
        share = np.float32(1 - i / steps)
        for group, begin in enumerate(range(0, k, size)):
            columns = slice(begin, min(begin + size, k))
            w = weights[:, columns]
            limit = np.abs(w).max(axis=1, keepdims=True) * share
            values = quantized(np.clip(w, -limit, limit), scheme)
            found[i, :, group] = losses(w - values, gram[columns, columns])
    return found


# ---- Coordinate descent --------------------------------------------------------------------------------------------


def levels(scheme: object, scales: np.ndarray, zero_points: np.ndarray, offsets: np.ndarray, row: int, group: int) -> np.ndarray:
    """float64[16]: what each code of a group stands for, as float32 has it."""
    codes = np.arange(16)
    kind = int(scheme.kind)
    scale = np.float64(scales[row, group])
    if kind == reference.CODEBOOK:
        tables = np.asarray(scheme.codebook_values, np.float32)
        return (np.float32(scale) * (tables if tables.ndim == 1 else tables[row])).astype(np.float64)
    centre = 8 if kind == reference.SYMMETRIC else int(zero_points[row, group]) if kind == reference.ASYMMETRIC else 0
    offset = np.float64(offsets[row, group]) if kind == reference.OFFSET else 0.0
    return (scale * (codes - centre) + offset).astype(np.float32).astype(np.float64)


def descend(
    weights: np.ndarray, codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, offsets: np.ndarray,
    gram: np.ndarray, scheme: object, sweeps: int,
) -> np.ndarray:
    """Codes after sweeps in which each goes to the value nearest to the best one, with residuals computed anew each time."""
    n, k = weights.shape
    size = group_size(scheme, k)
    low = 1 if int(scheme.code_range) == 1 else 0
    result = codes.astype(np.int64).copy()
    for row in range(n):
        tables = [levels(scheme, scales, zero_points, offsets, row, group) for group in range(-(-k // size))]
        w = weights[row].astype(np.float64)
        values = np.array([tables[j // size][result[row, j]] for j in range(k)])
        for _ in range(sweeps):
            changed = False
            for j in range(k):
                if gram[j, j] == 0:
                    continue
                best = values[j] + gram[j] @ (w - values) / gram[j, j]
                distances = np.abs(tables[j // size][low:] - best)
                if distances.min() < abs(values[j] - best) * (1 - 1e-12):
                    result[row, j] = low + distances.argmin()
                    values[j] = tables[j // size][result[row, j]]
                    changed = True
            if not changed:
                break
    return result


# ---- HQQ -----------------------------------------------------------------------------------------------------------


def hqq_group(w: np.ndarray, scheme: object, p: float, beta: float, iterations: int) -> tuple[np.ndarray, float, float]:
    """Values, scale and offset of one group of one row, and its mean |w - v|."""
    start = reference.offset(w[None].astype(np.float32), int(scheme.scale_type))
    scale, offset = float(start.scale[0]), float(start.offset[0])
    w = w.astype(np.float64)
    if scale == 0:
        return np.full(len(w), offset), scale, offset
    best, least = offset, np.inf
    for _ in range(iterations + 1):
        steps = np.clip(np.rint(np.clip((w - offset) / scale, 0, 15)), 0, 15)
        d = w - (scale * steps + offset)
        if not np.abs(d).sum() < least:
            break
        least, best = np.abs(d).sum(), offset
        with np.errstate(divide="ignore"):
            e = np.sign(d) * np.maximum(np.abs(d) - np.abs(d) ** (p - 1) / beta, 0)
        offset = float(reference.rounded(np.float32((w - e - scale * steps).mean()), int(scheme.scale_type)))
    steps = np.clip(np.rint((w - best) / scale), 0, 15)
    return scale * steps + best, scale, best
