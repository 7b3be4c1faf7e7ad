#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What quantizing a chain of layers one after the other leaves of its output, with and without an eye on what has happened to each
layer's inputs: GPTQ, GPTAQ, and GPTQ of shifted weights.

    INT4Q_LIBRARY=build/release/libint4q.so PYTHONPATH=bindings/python python benchmarks/compare_gptaq.py [--blocks 8]

Blocks are h + B gelu(A norm(h)), all weights random; figures are the squared error of the last h over its square, in percent, on
samples that the quantizers have not seen.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

import int4q

def gptq(w: np.ndarray, gram: int4q.GramMatrix, cross: object, scheme: int4q.Scheme, damping: float) -> int4q.QuantizedTensor:
    return int4q.gptq(w, gram, scheme, damping=damping)[0]


def gptaq(alpha: float) -> Callable[..., int4q.QuantizedTensor]:
    return lambda w, gram, cross, scheme, damping: int4q.gptq(w, gram, scheme, cross=cross, alpha=alpha, damping=damping)[0]


def shifted(alpha: float) -> Callable[..., int4q.QuantizedTensor]:
    def run(w, gram, cross, scheme, damping):  # type: ignore[no-untyped-def]
        return gptq(int4q.shift_weights(w, gram, cross, alpha=alpha, damping=damping), gram, cross, scheme, damping)

    return run


METHODS: dict[str, Callable[..., int4q.QuantizedTensor]] = {
    "nearest": lambda w, gram, cross, scheme, damping: int4q.quantize(w, scheme),
    "GPTQ": gptq,
    "GPTAQ 0.25": gptaq(0.25),
    "GPTAQ 1": gptaq(1.0),
    "shift 0.5": shifted(0.5),
    "shift 1": shifted(1.0),
}


def norm(h: np.ndarray) -> np.ndarray:
    return h / np.sqrt((h * h).mean(axis=1, keepdims=True) + 1e-6)


def gelu(h: np.ndarray) -> np.ndarray:
    return h / (1 + np.exp(-1.702 * h))


class Chain:
    """Two models side by side, the second one quantized layer by layer."""

    def __init__(self, samples: dict[str, np.ndarray], method: Callable[..., int4q.QuantizedTensor], damping: float) -> None:
        self.native = {name: h.copy() for name, h in samples.items()}
        self.other = {name: h.copy() for name, h in samples.items()}
        self.method, self.damping = method, damping

    def layer(self, w: np.ndarray, x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> tuple[dict, dict]:
        gram, cross = int4q.GramMatrix(w.shape[1]), int4q.CrossMatrix(w.shape[1])
        gram.push(y["seen"].astype(np.float32))
        cross.push(x["seen"].astype(np.float32), y["seen"].astype(np.float32))
        values = self.method(w, gram, cross, int4q.Scheme.asymmetric(64), self.damping).dequantize().astype(np.float64)
        return {s: x[s] @ w.T.astype(np.float64) for s in x}, {s: y[s] @ values.T for s in y}

    def block(self, a: np.ndarray, b: np.ndarray) -> None:
        x, y = ({name: norm(h) for name, h in side.items()} for side in (self.native, self.other))
        x, y = self.layer(a, x, y)
        x, y = ({name: gelu(h) for name, h in side.items()} for side in (x, y))
        x, y = self.layer(b, x, y)
        for name in x:
            self.native[name] += x[name]
            self.other[name] += y[name]

    def error(self, name: str) -> float:
        difference = self.native[name] - self.other[name]
        return 100 * float((difference**2).sum() / (self.native[name] ** 2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--samples", type=int, nargs="*", default=[400, 2000, 10000])
    parser.add_argument("--damping", type=float, nargs="*", default=[0.01, 0.1])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| samples | inputs | damping | " + " | ".join(METHODS) + " |")
    print("| --- " * (3 + len(METHODS)) + "|")
    k = options.size
    for count in options.samples:
        for inputs in ("independent", "correlated"):
            generator = np.random.default_rng(options.seed)
            mixing = np.eye(k)
            if inputs == "correlated":
                mixing = generator.standard_normal((k, k)) * np.exp(-np.arange(k) / (k / 6))[:, None] + 0.05 * np.eye(k)
            samples = {name: generator.standard_normal((rows, k)) @ mixing for name, rows in (("seen", count), ("new", 4000))}
            size = np.sqrt((samples["seen"] ** 2).mean())
            samples = {name: h / size for name, h in samples.items()}
            weights = [
                ((generator.standard_normal((4 * k, k)) / np.sqrt(k)).astype(np.float32),
                 (generator.standard_normal((k, 4 * k)) / np.sqrt(4 * k)).astype(np.float32))
                for _ in range(options.blocks)
            ]
            for damping in options.damping:
                figures = []
                for method in METHODS.values():
                    chain = Chain(samples, method, damping)
                    for a, b in weights:
                        chain.block(a, b)
                    figures.append(f"{chain.error('new'):.3f}")
                print(f"| {count} | {inputs} | {damping} | " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
