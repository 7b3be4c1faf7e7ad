"""Writes the golden vectors of MLX's affine 4-bit `quantize`.

Needs the package mlx (on Linux `mlx[cpu]`). Two files come out:

    mlx_affine.npz                  for pytest (this folder)
    ctests/vectors/mlx_affine.bin   the same matrices for the C++ tests; layout in the README there

Run it again only to change the matrices: the files are committed, and tests read them where the package is missing.
`python make_mlx.py --check` compares the files with what the installed library says.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys

import ml_dtypes
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
NPZ_PATH = HERE / "mlx_affine.npz"
BIN_PATH = HERE.parents[3] / "ctests" / "vectors" / "mlx_affine.bin"

K = 256
GROUP_SIZES = (32, 64, 128)
#: int4q_type and NumPy's type; bfloat16 is kept as its bits.
TYPES = {"f32": (1, np.float32), "f16": (2, np.float16), "bf16": (3, ml_dtypes.bfloat16)}


def has_mlx() -> bool:
    return importlib.util.find_spec("mlx") is not None


def special_rows() -> np.ndarray:
    """One row for each thing that has a rule of its own."""
    ramp = np.arange(K, dtype=np.float32)
    one_hot = np.zeros((3, K), np.float32)
    one_hot[0, 0], one_hot[1, K - 1], one_hot[2, 40] = 1, -1, 3.7
    rows = [
        np.zeros(K),
        -np.zeros(K),
        np.full(K, 0.1),
        np.full(K, -0.1),
        np.full(K, 300.0),
        np.where(ramp % 2 == 0, 1, -1),  # both ends equally far: the maximum is the edge
        ramp % 16,
        -(ramp % 16),
        (ramp % 16) - 8,
        8 - (ramp % 16),
        1 + (ramp % 16) / 64,  # far from zero on one side
        -1 - (ramp % 16) / 64,
        (ramp % 16) * 1e-8,  # narrower than the least step, 1e-7
        (ramp % 16 - 8) * 1e-7,
        (ramp % 16 - 8) * 3e-5,
        (ramp % 32) / 2 - 4,  # ties
    ]
    return np.concatenate([np.asarray(rows, np.float32), one_hot])


def make_source(name: str, count: int = 60) -> np.ndarray:
    generator = np.random.default_rng(20241121)
    special = special_rows()
    rest = count - len(special)
    magnitude = 2.0 ** generator.uniform(-12, 8, (rest, 1))
    shift = np.where(generator.random((rest, 1)) < 0.3, generator.uniform(-4, 4, (rest, 1)), 0)
    noise = (generator.standard_normal((rest, K)) + shift) * magnitude
    return np.concatenate([special, noise]).astype(TYPES[name][1])


def quantize(source: np.ndarray, group_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MLX's codes (two to a byte, low nibble first), scales and biases."""
    import mlx.core as mx

    array = mx.array(source.astype(np.float32))
    if source.dtype != np.float32:
        array = array.astype(mx.float16 if source.dtype == np.float16 else mx.bfloat16)
    words, scales, biases = mx.quantize(array, group_size=group_size, bits=4)
    codes = np.array(words).view(np.uint8).reshape(len(source), -1)
    return codes, *(np.array(part.astype(mx.float32)).astype(source.dtype) for part in (scales, biases))


def make_cases() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in TYPES:
        source = make_source(name)
        arrays[f"{name}_source"] = source
        for group_size in GROUP_SIZES:
            for part, array in zip(("codes", "scales", "biases"), quantize(source, group_size), strict=True):
                arrays[f"{name}_{group_size}_{part}"] = array
    return {key: array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array for key, array in arrays.items()}


def bin_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    rows = len(arrays["f32_source"])
    parts = [np.array([len(TYPES) * len(GROUP_SIZES), rows, K], "<i4").tobytes()]
    for name, (type_code, _) in TYPES.items():
        for group_size in GROUP_SIZES:
            parts.append(np.array([type_code, group_size], "<i4").tobytes())
            keys = (f"{name}_source", *(f"{name}_{group_size}_{part}" for part in ("codes", "scales", "biases")))
            parts += [np.ascontiguousarray(arrays[key]).tobytes() for key in keys]
    return b"".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing")
    check = parser.parse_args().check
    arrays = make_cases()
    if check:
        golden = np.load(NPZ_PATH)
        same = set(golden) == set(arrays) and all(golden[key].tobytes() == arrays[key].tobytes() for key in arrays)
        same = same and BIN_PATH.read_bytes() == bin_bytes(arrays)
        print("the golden files match" if same else "the golden files differ")
        return 0 if same else 1
    np.savez_compressed(NPZ_PATH, **arrays)
    BIN_PATH.write_bytes(bin_bytes(arrays))
    print(f"{len(arrays['f32_source'])} rows: {NPZ_PATH.name} and {BIN_PATH.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
