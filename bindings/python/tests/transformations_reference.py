"""Transformations by their definitions, in float64."""

from __future__ import annotations

import numpy as np


def _paley(prime: int) -> np.ndarray:
    """chi(i - j): Euler's criterion."""
    symbol = np.array([0] + [1 if pow(d, (prime - 1) // 2, prime) == 1 else -1 for d in range(1, prime)])
    index = np.arange(prime)
    return symbol[(index[:, None] - index[None, :]) % prime].astype(np.float64)


def base(order: int) -> np.ndarray:
    """A Hadamard matrix of order 1, 12, 20 or 28, elements +-1."""
    if order == 1:
        return np.ones((1, 1))
    if order == 28:  # Paley's second construction
        conference = np.ones((14, 14))
        conference[0, 0] = 0
        conference[1:, 1:] = _paley(13)
        return np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(14), [[1, -1], [-1, -1]])
    skew = np.ones((order, order))
    skew[0, 0] = 0
    skew[1:, 0] = -1
    skew[1:, 1:] = _paley(order - 1)
    return np.eye(order) + skew


def hadamard(order: int) -> np.ndarray:
    """Orthonormal; the base is the left factor."""
    matrix = base(next(b for b in (28, 20, 12, 1) if order % b == 0 and (order // b) & (order // b - 1) == 0))
    while len(matrix) < order:
        matrix = np.kron(matrix, [[1, 1], [1, -1]])
    return matrix / np.sqrt(order)


def signs(k: int, seed: int) -> np.ndarray:
    """SplitMix64's numbers, 64 columns to each, the highest bit first; a set bit is -1. Seed 0: ones."""
    result = np.ones(k)
    mask = (1 << 64) - 1
    for word in range(-(-k // 64) if seed else 0):
        z = (seed + (word + 1) * 0x9E3779B97F4A7C15) & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        for column in range(64 * word, min(64 * word + 64, k)):
            if z >> (63 - column % 64) & 1:
                result[column] = -1
    return result


def rotation(k: int, order: int, seed: int) -> np.ndarray:
    """What a row of k elements is multiplied by: z = R x."""
    return np.kron(np.eye(k // order), hadamard(order)) * signs(k, seed)


def best_low_rank(residual: np.ndarray, gram: np.ndarray, rank: int) -> float:
    """The least tr((R - A B) G (R - A B)^T), by a singular value decomposition of R G^(1/2)."""
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(values, 0))
    singular = np.linalg.svd(residual @ root, compute_uv=False)
    return float((singular[rank:] ** 2).sum())


def loss(error: np.ndarray, gram: np.ndarray) -> float:
    return float(np.einsum("ij,jk,ik->", error, gram, error))


def reassembly(
    maxima: np.ndarray, gram: np.ndarray, weights: np.ndarray, rows: int, threshold: float, widen: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """(inputs' map [new_k][k], weights' map [new_k][k], merge loss) by QLLM's definition; gram and weights are sums of products."""
    k = len(maxima)
    counts = np.where(maxima > threshold, np.ceil(maxima.astype(np.float64) / threshold), 1).astype(int)
    extra = int((counts - 1).sum())
    copied = [j for j in range(k) for _ in range(counts[j] - 1)]
    merged: dict[int, int] = {}
    lost = 0.0
    if extra and not widen:
        kept = [j for j in range(k) if counts[j] == 1]
        seekers, others = kept[::2], kept[1::2]

        def distance(a: int, b: int) -> float:
            one = gram[a, a] + gram[b, b] - 2 * gram[a, b]
            two = weights[a, a] + weights[b, b] - 2 * weights[a, b]
            return max(one, 0) * max(two, 0) / 4

        pairs = []
        for a in seekers:
            b = min(others, key=lambda other: (distance(a, other), other))
            pairs.append((distance(a, b), a, b))
        for loss_, a, b in sorted(pairs)[:extra]:
            merged[a] = b
            lost += loss_ / rows
    new_k = k + (extra if widen else 0)
    inputs, columns = np.zeros((new_k, k)), np.zeros((new_k, k))
    queue = iter(copied)
    for place in range(new_k):
        if place < k and place not in merged:
            members = [j for j in range(k) if j == place or merged.get(j) == place]
            inputs[place, members] = np.float32(1) / np.float32(len(members) * counts[place])
            columns[place, members] = 1
        else:
            j = next(queue)
            inputs[place, j] = np.float32(1) / np.float32(counts[j])
            columns[place, j] = 1
    return inputs, columns, lost


def rounding_loss(
    gram: np.ndarray, weights: np.ndarray, inputs: np.ndarray, columns: np.ndarray, bits: int, group_size: int
) -> float:
    """gram: means of products."""
    means = np.einsum("tj,jk,tk->t", inputs, gram, inputs)
    squares = np.einsum("tj,jk,tk->t", columns, weights, columns)
    total = 0.0
    for begin in range(0, len(means), group_size):
        group = slice(begin, begin + group_size)
        total += (means[group] ** 2.5).sum() ** 0.4 / (2 ** (bits - 1) - 1) ** 2 / 12 * squares[group].sum()
    return total
