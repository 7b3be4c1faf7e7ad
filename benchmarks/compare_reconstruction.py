#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What each method leaves of rounding to nearest's loss, for a 128 x 768 layer, a few of whose weights are large: Markdown tables.

    PYTHONPATH=bindings/python benchmarks/compare_reconstruction.py
"""
import copy

import numpy as np

import int4q

ROWS, COLUMNS, SAMPLES = 128, 768, 2000


def samples(generator: np.random.Generator) -> dict[str, np.ndarray]:
    normal = generator.standard_normal((SAMPLES, COLUMNS))
    neighbours, share = normal.copy(), np.exp(-1 / 50)
    for column in range(1, COLUMNS):
        neighbours[:, column] = share * neighbours[:, column - 1] + np.sqrt(1 - share**2) * normal[:, column]
    return {
        "independent normal numbers": normal,
        "plus 5 times a common normal number": normal + 5 * generator.standard_normal((SAMPLES, 1)),
        "four channels 100 times as large": normal * np.where(np.arange(COLUMNS) % 192 == 7, 100, 1),
        "channels of lognormal size": normal * np.exp(generator.standard_normal(COLUMNS)),
        "neighbours correlated, exp(-distance / 50)": neighbours,
    }


def learn(weights: np.ndarray, scheme: int4q.Scheme, families: dict[str, np.ndarray]) -> None:
    """AutoRound and AdaRound: the table of what they leave, and where they begin."""
    print("| samples | AutoRound | AdaRound | AutoRound, AdaRound | AutoRound, descent | GPTQ | GPTQ, AutoRound | GPTQ, AdaRound |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, x in families.items():
        gram = int4q.GramMatrix(COLUMNS)
        gram.push(x.astype(np.float32))
        losses = []
        for after_gptq in (False, True):
            start = int4q.gptq(weights, gram, scheme)[0] if after_gptq else int4q.quantize(weights, scheme)
            both, rounded = copy.deepcopy(start), copy.deepcopy(start)
            if after_gptq:
                losses.append(gram.loss(start, weights).sum())
            losses += [int4q.autoround(rounded, weights, gram).loss, int4q.adaround(both, weights, gram).loss]
            if not after_gptq:
                both = copy.deepcopy(rounded)
                losses.append(int4q.adaround(both, weights, gram).loss)
                losses.append(int4q.gram_descend(rounded, weights, gram, refit_scales=True).loss)
        nearest = gram.loss(int4q.quantize(weights, scheme), weights).sum()
        print(f"| {name} | " + " | ".join(f"{loss / nearest:.3f}" for loss in losses) + " |")


def main() -> None:
    generator = np.random.default_rng(0)
    weights = (generator.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)
    weights[generator.random(weights.shape) < 0.003] *= 4
    scheme = int4q.Scheme.asymmetric(128)
    families = samples(generator)
    print("| samples | AWQ scales | AWQ clips | descent | with scales | GPTQ | GPTQ, descent | with scales |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, x in families.items():
        gram = int4q.GramMatrix(COLUMNS)
        gram.push(x.astype(np.float32))
        _, clipped = int4q.awq_clips(weights, gram, scheme)
        losses = [int4q.awq_scales(weights, gram, scheme).loss, gram.loss(int4q.quantize(clipped, scheme), weights).sum()]
        for start in (lambda: int4q.quantize(weights, scheme), lambda: int4q.gptq(weights, gram, scheme)[0]):
            if len(losses) > 2:
                losses.append(gram.loss(start(), weights).sum())
            losses += [int4q.gram_descend(start(), weights, gram, refit_scales=refit).loss for refit in (False, True)]
        nearest = gram.loss(int4q.quantize(weights, scheme), weights).sum()
        print(f"| {name} | " + " | ".join(f"{loss / nearest:.3f}" for loss in losses) + " |")
    print()
    learn(weights, scheme, families)


if __name__ == "__main__":
    main()