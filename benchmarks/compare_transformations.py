#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What rotations and low-rank residuals leave of the outputs' error: the tables of docs/transformations.md.

PYTHONPATH=bindings/python benchmarks/compare_transformations.py
"""

from __future__ import annotations

import numpy as np

import int4q

N, K, SAMPLES = 256, 1024, 2000


def inputs(generator: np.random.Generator) -> dict[str, np.ndarray]:
    normal = generator.standard_normal((SAMPLES, K))
    distance = np.abs(np.subtract.outer(np.arange(K), np.arange(K)))
    outliers = normal.copy()
    outliers[:, [3, 200, 777, 900]] *= 100
    return {
        "independent normal numbers": normal,
        "plus 5 times a common normal number": normal + 5 * generator.standard_normal((SAMPLES, 1)),
        "four channels 100 times as large": outliers,
        "channels of lognormal size": normal * np.exp(generator.standard_normal(K)),
        "neighbours correlated, exp(-distance / 50)": normal @ np.linalg.cholesky(np.exp(-distance / 50)).T,
    }


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """As INT8 mode does: groups of 128, each by its own largest magnitude."""
    groups = x.reshape(len(x), -1, 128)
    step = np.abs(groups).max(axis=2, keepdims=True) / (2 ** (bits - 1) - 1)
    return (np.rint(groups / step) * step).reshape(x.shape)


def main() -> None:
    generator = np.random.default_rng(1)
    weights = generator.standard_normal((N, K)).astype(np.float32)
    scheme = int4q.Scheme.asymmetric(128)
    print(
        "Rotation: mean squared error of outputs over their mean square; INT8: activations rounded to 8 bits in groups of 128"
    )
    print("| samples | 4-bit weights | rotated | with GPTQ | rotated, GPTQ | INT8 activations | rotated |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    residuals = []
    batches = {name: values.astype(np.float32) for name, values in inputs(generator).items()}
    for name, x in batches.items():
        gram = int4q.GramMatrix(K)
        gram.push(x)
        turned_gram, turned_x, turned = (
            int4q.rotate_gram(gram, seed=1),
            int4q.hadamard(x, seed=1),
            int4q.hadamard(weights, seed=1),
        )
        exact = x.astype(np.float64) @ weights.T
        size = (exact**2).sum() / SAMPLES
        cells = []
        for matrix, statistics in ((weights, gram), (turned, turned_gram)):
            nearest = int4q.quantize(matrix, scheme)
            _, report = int4q.gptq(matrix, statistics, scheme)
            cells.append((statistics.loss(nearest, matrix).sum() / size, report.loss / size))
            if statistics is gram:
                residuals.append((name, nearest, gram))
        (a, b), (c, d) = cells
        e, f = (
            (((rounded(values_x, 8) - values_x).astype(np.float64) @ matrix.T) ** 2).sum() / SAMPLES / size
            for matrix, values_x in ((weights, x), (turned, turned_x))
        )
        print(f"| {name} | {a:.2e} | {c:.2e} | {b:.2e} | {d:.2e} | {e:.2e} | {f:.2e} |")
    print()
    print(
        "Channel reassembly: the same error of rounding activations in groups of 128, and the copies that the search makes"
    )
    print("| samples | 8 bits | reassembled | rotated | 4 bits | reassembled | rotated |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    columns = int4q.GramMatrix(K)
    columns.push(weights)
    for name, x in batches.items():
        gram = int4q.GramMatrix(K)
        gram.push(x)
        size = ((x.astype(np.float64) @ weights.T) ** 2).sum()
        cells = []
        for bits in (8, 4):
            plan, report = int4q.plan_reassembly(gram, columns, bits=bits, steps=100, most_copies=K // 4)
            exact = x.astype(np.float64) @ weights.T
            for matrix, values_x, mark in (
                (weights, x, ""),
                (plan.weights(weights), plan.inputs(x), f" ({report.copies})"),
                (int4q.hadamard(weights, seed=1), int4q.hadamard(x, seed=1), ""),
            ):
                error = ((rounded(values_x, bits).astype(np.float64) @ matrix.T - exact) ** 2).sum() / size
                cells.append(f"{error:.2e}{mark}")
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    print(
        "Low-rank residuals of rounding to nearest, binary16: loss over the loss without; in brackets fitted to the weights alone"
    )
    print("| samples | rank 8 | 32 | 128 |")
    print("| --- | --- | --- | --- |")
    for name, tensor, gram in residuals:
        cells = []
        for rank in (8, 32, 128):
            factors, report = int4q.low_rank(weights, tensor, gram, rank)
            plain, _ = int4q.low_rank(weights, tensor, None, rank)
            error = weights - tensor.dequantize() - plain.a.astype(np.float32) @ plain.b.astype(np.float32)
            other = np.einsum("ij,jk,ik->", error, gram.matrix() / gram.rows, error, optimize=True)
            cells.append(f"{report.loss / report.start_loss:.3f} ({other / report.start_loss:.3f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
