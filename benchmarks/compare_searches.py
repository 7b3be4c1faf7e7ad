#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What searches over scales, codebooks and all methods leave of rounding to nearest's loss, for the layer and the samples of
compare_reconstruction.py: two Markdown tables.

    PYTHONPATH=bindings/python benchmarks/compare_searches.py
"""
import numpy as np
from compare_reconstruction import COLUMNS, ROWS, samples

import int4q

# Seven clips, as BASQ tries.
SHARES = [1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58]


def layer(generator: np.random.Generator) -> np.ndarray:
    weights = (generator.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)
    weights[generator.random(weights.shape) < 0.003] *= 4
    return weights


def searched(weights: np.ndarray, gram: int4q.GramMatrix, scheme: int4q.Scheme) -> list[float]:
    def loss(matrix: np.ndarray) -> float:
        return gram.loss(int4q.quantize(matrix, scheme), weights).sum()

    found = [loss(int4q.search_clips(weights, gram, SHARES, scheme)[1]), loss(int4q.awq_clips(weights, gram, scheme)[1])]
    for rounds in (10, 100):
        found.append(int4q.search_scales(int4q.quantize(weights, scheme), weights, gram, rounds=rounds).loss)
    found.append(int4q.gram_descend(int4q.quantize(weights, scheme), weights, gram, refit_scales=True).loss)
    return [value / loss(weights) for value in found]


def codebooks(weights: np.ndarray, gram: int4q.GramMatrix) -> list[float]:
    """Values for a whole matrix whose groups of 128 are divided by their largest magnitude, over what NF4 leaves."""
    groups = weights.reshape(ROWS, -1, 128)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    importance = ((largest**2).astype(np.float64) * gram.channels()["sum_squares"].reshape(1, -1, 128)).reshape(weights.shape)
    scaled = (groups / largest).reshape(weights.shape)
    weigh = (importance / importance.max()).astype(np.float32)
    steps = (np.arange(-127, 128) / 128).astype(np.float32)
    values = [
        int4q.codebook_values(int4q.Codebook.NF4),
        int4q.codebook_values(int4q.Codebook.IQ4_NL),
        int4q.greedy_codebook(scaled, steps, weigh).values,
        int4q.fit_codebook(scaled, weigh).values,
    ]
    losses = []
    for value in values:
        # Both ends, so that scales are what they were taken to be.
        table = np.array(value) / np.abs(value).max()
        losses.append(gram.loss(int4q.quantize(weights, int4q.Scheme.codebook(table, 128)), weights).sum())
    return [value / losses[0] for value in losses[1:]]


def best(weights: np.ndarray, gram: int4q.GramMatrix) -> list[str]:
    plain = int4q.quantize_best(weights, gram, 4.25)
    scaled = int4q.quantize_best(weights, gram, 4.25, with_scales=True)
    fixed = int4q.Scheme.asymmetric(128)
    usual = int4q.gram_descend(tensor := int4q.gptq(weights, gram, fixed)[0], weights, gram, refit_scales=True).loss
    assert tensor.scheme == fixed
    only = int4q.quantize_best(weights, gram, schemes=[fixed])
    nearest = gram.loss(int4q.quantize(weights, fixed), weights).sum()
    kind = plain.tensor.scheme.kind.name.lower()
    name = {int4q.codebook_values(which): which.name for which in int4q.Codebook}.get(plain.tensor.scheme.codebook_values, kind)
    numbers = [usual, only.loss, plain.nearest_loss, plain.loss, scaled.loss]
    return [f"{value / nearest:.3f}" for value in numbers] + [f"{name}, {plain.tensor.scheme.group_size}"]


def main() -> None:
    generator = np.random.default_rng(0)
    weights = layer(generator)
    families = {}
    for name, x in samples(generator).items():
        families[name] = int4q.GramMatrix(COLUMNS)
        families[name].push(x.astype(np.float32))
    print("| samples | seven clips | AWQ's ten | scales, 10 rounds | 100 rounds | descent with scales | IQ4_NL | greedy | fitted |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, gram in families.items():
        numbers = searched(weights, gram, int4q.Scheme.asymmetric(128)) + codebooks(weights, gram)
        print(f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    print("\n| samples | GPTQ, descent | all methods | best nearest, 4.25 bits | best | with AWQ scales | scheme |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, gram in families.items():
        print(f"| {name} | " + " | ".join(best(weights, gram)) + " |")


if __name__ == "__main__":
    main()
