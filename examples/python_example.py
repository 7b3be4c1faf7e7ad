#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quantizes a random matrix, packs it, writes it to a file, maps the file and multiplies; compares with floats.

Needs the package: pip install ./bindings/python
"""

import pathlib
import tempfile

import numpy as np

import int4q

N, K, M = 512, 1024, 4


def report(name: str, reference: np.ndarray, candidate: np.ndarray) -> float:
    metrics = int4q.compare(reference, candidate)
    worst = metrics.max_abs_error
    print(f"{name:<28} {metrics.sqnr_db:6.2f} dB, cosine {metrics.cosine:.5f}, largest error {worst:.4f}")
    return metrics.sqnr_db


def main() -> None:
    generator = np.random.default_rng(1)
    weights = generator.standard_normal((N, K)).astype(np.float32)
    x = generator.standard_normal((M, K)).astype(np.float32)

    tensor = int4q.quantize(weights, int4q.Scheme.asymmetric(group_size=32))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights.int4q"
        tensor.pack().save(path)
        blob = int4q.Blob.map(path, validate=True)
        print(f"{N} x {K}: {weights.nbytes:,} bytes as float32, {blob.nbytes:,} as a blob")
        print(blob.describe(M, mode=int4q.Mode.INT8))

        with int4q.Pool(2) as pool:
            single = blob.matmul(x, pool=pool)
            eight = blob.matmul(x, mode=int4q.Mode.INT8, pool=pool)
        rows = blob.gather([0, 7])

    # The product's own error is far below that of the 4-bit weights.
    own = report("product, F32 mode", x @ tensor.dequantize().T, single)
    weight_error = report("weights", weights, tensor.dequantize())
    report("product with float weights", x @ weights.T, single)
    report("the same, INT8 mode", x @ weights.T, eight)
    if own < 100 or weight_error < 20 or not np.array_equal(rows, tensor.dequantize()[[0, 7]]):
        raise SystemExit("the results are not what they should be")


if __name__ == "__main__":
    main()
