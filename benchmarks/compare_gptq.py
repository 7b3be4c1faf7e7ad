#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GPTQ of one layer by this library and by a plain program for PyTorch on the CPU: seconds, and what is left of the loss.

    OMP_NUM_THREADS=2 INT4Q_LIBRARY=build/release/libint4q.so PYTHONPATH=bindings/python \\
        python benchmarks/compare_gptq.py [--n 4096] [--k 4096] [--group-size 128] [--threads 2]

The program for PyTorch follows the published algorithm (Frantar et al., 2022, algorithm 1): factor of the inverse by
torch.linalg, blocks of 128 columns, columns of a block one by one, float32. Both are given the same Gram matrix and quantize
asymmetrically; the library's time includes rounding to nearest and as much of its loss as shows that GPTQ does better.
"""
from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import int4q


def parameters(group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
    scale = (high - low) / 15
    return scale, torch.round(-low / scale).clamp(0, 15)


@torch.no_grad()
def gptq_with_torch(weights: torch.Tensor, gram: torch.Tensor, group_size: int, damping: float = 0.01) -> torch.Tensor:
    n, k = weights.shape
    w, h = weights.clone(), gram.clone()
    h.diagonal().add_(damping * h.diagonal().mean())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    result = torch.zeros_like(w)
    for begin in range(0, k, 128):
        end = min(begin + 128, k)
        block, errors, factor = w[:, begin:end].clone(), torch.zeros(n, end - begin), upper[begin:end, begin:end]
        for i in range(end - begin):
            if (begin + i) % group_size == 0:
                members = block[:, i : i + group_size] if group_size <= 128 else w[:, begin + i : begin + i + group_size]
                scale, zero = parameters(members)
            column = block[:, i]
            value = scale * (torch.clamp(torch.round(column / scale) + zero, 0, 15) - zero)
            error = (column - value) / factor[i, i]
            block[:, i:] -= error.unsqueeze(1) * factor[i, i:].unsqueeze(0)
            errors[:, i] = error
            result[:, begin + i] = value
        w[:, end:] -= errors @ upper[begin:end, end:]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("n", 4096), ("k", 4096), ("group-size", 128), ("threads", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cpu", action="store_true", help="count processor time of one thread: for a machine that is not idle")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    options.threads = 1 if options.cpu else options.threads
    torch.set_num_threads(options.threads)
    generator = np.random.default_rng(1)
    n, k = options.n, options.k
    common = generator.standard_normal((2 * k, 8), np.float32) @ generator.standard_normal((8, k), np.float32)
    x = generator.standard_normal((2 * k, k), np.float32) + common
    weights = generator.standard_normal((n, k), np.float32)
    scheme = int4q.Scheme.asymmetric(options.group_size, scale_type=int4q.Type.F32)
    with int4q.Pool(options.threads) as pool:
        gram = int4q.GramMatrix(k)
        gram.push(x, pool=pool)
        matrix = torch.from_numpy(gram.matrix().astype(np.float32))
        ours, theirs = [], []
        for _ in range(options.repeats):
            start = clock()
            tensor, report = int4q.gptq(weights, gram, scheme, measure_nearest=False, pool=pool)
            ours.append(clock() - start)
            start = clock()
            values = gptq_with_torch(torch.from_numpy(weights), matrix, options.group_size)
            theirs.append(clock() - start)
    exact = gram.matrix()

    def loss(candidate: np.ndarray) -> float:
        difference = weights.astype(np.float64) - candidate
        return float(np.einsum("ij,ij->", difference @ exact, difference)) / gram.rows

    print(f"{n} x {k}, groups of {options.group_size}, {options.threads} threads, best of {options.repeats}")
    print(f"int4q    {min(ours):8.3f} s   loss {loss(tensor.dequantize()):.6g}   (rounding to nearest {gram.loss(int4q.quantize(weights, scheme), weights).sum():.6g})")
    print(f"PyTorch  {min(theirs):8.3f} s   loss {loss(values.numpy()):.6g}")
    print(f"ratio    {min(theirs) / min(ours):8.1f}")


if __name__ == "__main__":
    main()
