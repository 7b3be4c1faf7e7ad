"""Writes the golden vectors of bitsandbytes' nested quantization of scales.

Needs the packages bitsandbytes and torch. Two files come out:

    double_quantization.npz                     for pytest (this folder)
    ctests/vectors/double_quantization.bin      the same for the C++ tests; layout in the README there

Scales are the block maxima of `quantize_4bit(compress_statistics=True)` on random weights, and lists of special cases that go
through `quantize_blockwise(scales - mean, blocksize=256)` as that function does it. `python make_double.py --check` compares
the files with what the installed package says.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys

import numpy as np

BLOCK = 256
HERE = pathlib.Path(__file__).resolve().parent
NPZ_PATH = HERE / "double_quantization.npz"
BIN_PATH = HERE.parents[3] / "ctests" / "vectors" / "double_quantization.bin"


def has_bitsandbytes() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "bitsandbytes"))


def double_quantize(scales: np.ndarray) -> dict[str, np.ndarray]:
    """What bitsandbytes makes of a list of scales."""
    import bitsandbytes.functional as functional
    import torch

    values = torch.from_numpy(np.array(scales, np.float32))
    offset = values.mean()
    codes, state = functional.quantize_blockwise(values - offset, blocksize=BLOCK)
    back = functional.dequantize_blockwise(codes, state)
    back += offset
    return {
        "offset": np.float32(offset.item()),
        "scales": np.array(scales, np.float32),
        "codes": codes.numpy().astype(np.uint8).reshape(-1),
        "nested": state.absmax.numpy().astype(np.float32),
        "values": back.numpy().astype(np.float32),
    }


def quantize_weights(weights: np.ndarray) -> dict[str, np.ndarray]:
    """The nested statistics of a matrix: from quantize_4bit itself."""
    import bitsandbytes.functional as functional
    import torch

    blocks = np.abs(weights.reshape(-1, 64)).max(axis=1)
    _, state = functional.quantize_4bit(
        torch.from_numpy(weights), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    back = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return {
        "offset": np.float32(state.offset.item()),
        "scales": blocks,
        "codes": state.absmax.numpy().astype(np.uint8).reshape(-1),
        "nested": state.state2.absmax.numpy().astype(np.float32),
        "values": back.numpy().astype(np.float32),
    }


def make_map() -> np.ndarray:
    import bitsandbytes.functional as functional

    values: np.ndarray = functional.create_dynamic_map().numpy().astype(np.float32)
    return values


def make_cases(seed: int = 20241108) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    cases = [quantize_weights((generator.standard_normal((rows, 256)) * 0.05).astype(np.float32)) for rows in (64, 67, 200)]
    lists = [
        np.array([0.1]),
        np.full(300, 0.25),
        np.zeros(10),
        np.array([-1.0, 1.0, -1.0, 1.0, 0.25]),
        np.linspace(-1, 1, 1001),
        10.0 ** generator.uniform(-7, 0, 1500) * generator.choice([-1, 1], 1500),
        generator.standard_normal(255),
        generator.standard_normal(257) * 1e-3 + 0.05,
        generator.standard_normal(700) * 1e6,
        np.abs(generator.standard_normal(512)) * 2.0**-30,
        generator.standard_t(2, 1000) * 0.01,
    ]
    return cases + [double_quantize(values.astype(np.float32)) for values in lists]


def bin_bytes(values: np.ndarray, cases: list[dict[str, np.ndarray]]) -> bytes:
    parts = [values.astype("<f4").tobytes(), np.int32(len(cases)).astype("<i4").tobytes()]
    for case in cases:
        parts += [np.int32(len(case["scales"])).astype("<i4").tobytes(), case["offset"].astype("<f4").tobytes()]
        parts += [case[name].tobytes() for name in ("scales", "codes", "nested", "values")]
    return b"".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing")
    check = parser.parse_args().check
    values, cases = make_map(), make_cases()
    if check:
        same = BIN_PATH.read_bytes() == bin_bytes(values, cases)
        print("the golden files match" if same else "the golden files differ")
        return 0 if same else 1
    arrays = {f"{name}_{i}": array for i, case in enumerate(cases) for name, array in case.items()}
    np.savez_compressed(NPZ_PATH, map=values, count=len(cases), **arrays)
    BIN_PATH.write_bytes(bin_bytes(values, cases))
    print(f"{len(cases)} lists: {NPZ_PATH.name} and {BIN_PATH.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
