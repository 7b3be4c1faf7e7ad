"""Learned rounding in float64, from docs/reconstruction.md. Nothing here calls the library."""

from __future__ import annotations

import dataclasses

import numpy as np
import reference
from reconstruction_reference import group_size


@dataclasses.dataclass
class Start:
    """A tensor of a linear kind: v = scale * (code - zero) + offset; parameters are [n][groups]."""

    scheme: object
    weights: np.ndarray
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, scheme: object, weights: np.ndarray, codes: np.ndarray, scales: np.ndarray, zero_points: object,
           offsets: object) -> Start:
        scales = np.asarray(scales, np.float64)
        kind, middle = int(scheme.kind), 128 if bits(scheme) == 8 else 8
        zeros = np.asarray(zero_points, np.float64) if kind == reference.ASYMMETRIC else np.full_like(
            scales, middle if kind == reference.SYMMETRIC else 0
        )
        offsets = np.asarray(offsets, np.float64) if kind == reference.OFFSET else np.zeros_like(scales)
        return cls(scheme, weights.astype(np.float64), codes.astype(np.float64), scales, zeros, offsets)

    @property
    def columns(self) -> np.ndarray:
        """Each column's group."""
        k = self.weights.shape[1]
        return np.arange(k) // group_size(self.scheme, k)

    @property
    def low(self) -> int:
        return 1 if int(self.scheme.code_range) == 1 else 0

    @property
    def high(self) -> int:
        return 255 if bits(self.scheme) == 8 else 15


def bits(scheme: object) -> int:
    return 8 if int(scheme.code_bits) == 8 else 4


def positions(start: Start, scales: np.ndarray, zeros: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    g = start.columns
    safe = np.where(scales == 0, np.inf, scales)
    return (start.weights - offsets[:, g]) / safe[:, g] + zeros[:, g]


def shifts(start: Start) -> np.ndarray:
    """Whole steps from the nearest code to the tensor's, if that is another."""
    nearest = np.rint(positions(start, start.scales, start.zeros, start.offsets))
    return np.where(np.clip(nearest, start.low, start.high) == start.codes, 0, start.codes - nearest)


def losses(errors: np.ndarray, gram: np.ndarray) -> np.ndarray:
    return ((errors @ gram) * errors).sum(axis=1)


# ---- AutoRound -----------------------------------------------------------------------------------------------------


def ranges(start: Start, upper: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scales, zeros, offsets for factors of the ranges' ends, and where zero lies in steps."""
    kind, s, high = int(start.scheme.kind), start.scales, start.high
    scale_type = int(start.scheme.scale_type)

    def stored(values: np.ndarray) -> np.ndarray:
        return np.asarray(reference.rounded(values.astype(np.float32), scale_type), np.float64)

    if kind == reference.SYMMETRIC:
        return stored(upper * s), start.zeros, start.offsets, np.zeros_like(s)
    place = start.zeros if kind == reference.ASYMMETRIC else np.clip(-start.offsets / np.where(s == 0, np.inf, s), 0, high)
    scales = stored(s * (upper * (high - place) + lower * place) / high)
    safe = np.where(scales == 0, np.inf, scales)
    if kind == reference.ASYMMETRIC:
        return scales, np.where(scales == 0, start.zeros, np.clip(np.rint(lower * place * s / safe), 0, high)), start.offsets, place
    return scales, start.zeros, stored(start.offsets + (1 - lower) * place * s), place


@dataclasses.dataclass
class Slopes:
    """What one iterate is, and the loss's gradient there, rounding counting as the identity."""

    values: np.ndarray
    losses: np.ndarray
    v: np.ndarray
    upper: np.ndarray
    lower: np.ndarray


def autoround_slopes(start: Start, gram: np.ndarray, v: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> Slopes:
    g, high, kind = start.columns, start.high, int(start.scheme.kind)
    scales, zeros, offsets, place = ranges(start, upper, lower)
    p = positions(start, scales, zeros, offsets)
    unclipped = np.rint(p + v) + shifts(start)
    q = np.clip(unclipped, start.low, high)
    inside = unclipped == q
    values = scales[:, g] * (q - zeros[:, g]) + offsets[:, g]
    errors = start.weights - values
    r = errors @ gram
    # dv/ds; at the ends of the range, where codes are clipped, zero's place moves as well.
    safe = np.where(scales == 0, np.inf, scales)
    end = zeros - lower * place * start.scales / safe if kind == reference.ASYMMETRIC else (
        np.zeros_like(scales) if kind == reference.OFFSET else zeros)
    along = np.where(inside, q - p, q - end[:, g])
    a, b = np.zeros_like(scales), np.zeros_like(scales)
    for group in range(scales.shape[1]):
        here = g == group
        a[:, group] = (r * along)[:, here].sum(axis=1)
        b[:, group] = (r * ~inside)[:, here].sum(axis=1)
    s = start.scales
    if kind == reference.SYMMETRIC:
        up, down = a * s, np.zeros_like(a)
    else:
        up, down = a * s * (high - place) / high, s * place * (a / high - b)
    return Slopes(values, (r * errors).sum(axis=1), -2 * r * scales[:, g] * inside, -2 * up, -2 * down)


def autoround(start: Start, gram: np.ndarray, *, iterations: int, step: float, range_step: float, least: float = 0.5,
              most: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float64 values, least losses and their iterations of each row."""
    n, groups = start.scales.shape
    v, upper, lower = np.zeros_like(start.weights), np.ones((n, groups)), np.ones((n, groups))
    best, best_at, best_values = np.full(n, np.inf), np.zeros(n, int), np.zeros_like(start.weights)
    for t in range(iterations):
        here = autoround_slopes(start, gram, v, upper, lower)
        better = here.losses < best
        best[better], best_at[better], best_values[better] = here.losses[better], t, here.values[better]
        share = 1 - t / iterations
        v = np.clip(v - step * share * np.sign(here.v), -0.5, 0.5)
        upper = np.clip(upper - range_step * share * np.sign(here.upper), least, most)
        lower = np.clip(lower - range_step * share * np.sign(here.lower), least, most)
    return best_values, best, best_at


# ---- AdaRound ------------------------------------------------------------------------------------------------------


def soft_share(v: np.ndarray) -> np.ndarray:
    """h"""
    return np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1)


def adaround_start(start: Start) -> tuple[np.ndarray, np.ndarray]:
    """The lower codes, and V with which values are the weights."""
    p = positions(start, start.scales, start.zeros, start.offsets) + shifts(start)
    p = np.clip(p, start.low - 1, start.high + 1)
    return np.floor(p), -np.log(1.2 / (p - np.floor(p) + 0.1) - 1)


def adaround_values(start: Start, codes: np.ndarray) -> np.ndarray:
    scale, zero, offset = (x[:, start.columns] for x in (start.scales, start.zeros, start.offsets))
    return scale * (np.clip(codes, start.low, start.high) - zero) + offset


def adaround_gradient(start: Start, gram: np.ndarray, floor: np.ndarray, v: np.ndarray, regularization: float,
                      exponent: float) -> np.ndarray:
    """Of k * loss / start's loss + regularization * sum (1 - |2 h - 1|^exponent)."""
    h, sigmoid = soft_share(v), 1 / (1 + np.exp(-v))
    before = losses(start.weights - adaround_values(start, start.codes), gram)
    unit = start.weights.shape[1] / np.where(before == 0, np.inf, before)[:, None]
    inside = np.clip(floor + h, start.low, start.high) == floor + h
    r = (start.weights - adaround_values(start, floor + h)) @ gram
    distance = 2 * h - 1
    pull = 2 * exponent * np.abs(distance) ** (exponent - 1) * np.sign(distance)
    gradient = -2 * unit * r * start.scales[:, start.columns] * inside - regularization * pull
    return gradient * np.where((h > 0) & (h < 1), 1.2 * sigmoid * (1 - sigmoid), 0)


def adaround(start: Start, gram: np.ndarray, *, iterations: int, step: float, regularization: float, warm_up: float = 0.0,
             first_exponent: float = 20, last_exponent: float = 2) -> tuple[np.ndarray, np.ndarray]:
    """float64 values with all rounded up or down, and the last h."""
    floor, v = adaround_start(start)
    first, second = np.zeros_like(v), np.zeros_like(v)
    for t in range(iterations):
        is_warm = t >= warm_up * iterations
        share = (t - warm_up * iterations) / (iterations - warm_up * iterations) if is_warm else 0
        exponent = first_exponent + (last_exponent - first_exponent) * share
        gradient = adaround_gradient(start, gram, floor, v, regularization if is_warm else 0, exponent)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        v = v - step * (first / (1 - 0.9 ** (t + 1))) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 0.01)
    h = soft_share(v)
    return adaround_values(start, floor + (h > 0.5)), h
