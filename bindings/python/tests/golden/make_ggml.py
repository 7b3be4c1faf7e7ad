"""Writes the golden vectors of ggml's Q4_0 and Q4_1 reference quantizers.

Needs the package libggml-python, whose library is called here directly. Two files come out:

    ggml_q4.npz                     for pytest (this folder)
    ctests/vectors/ggml_q4.bin      the same blocks for the C++ tests; layout in the README there

Run it again only to change the set of blocks: the files are committed, and tests read them where the package is
missing. `python make_ggml.py --check` compares the files with what the installed library says.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import pathlib
import sys

import numpy as np

BLOCK = 32
Q4_0_BYTES = 18
Q4_1_BYTES = 20
GGML_TYPE_Q4_0 = 2
GGML_TYPE_Q4_1 = 3

HERE = pathlib.Path(__file__).resolve().parent
NPZ_PATH = HERE / "ggml_q4.npz"
BIN_PATH = HERE.parents[3] / "ctests" / "vectors" / "ggml_q4.bin"


def find_ggml() -> pathlib.Path | None:
    """The library inside the installed package libggml-python, or None."""
    spec = importlib.util.find_spec("libggml")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = pathlib.Path(next(iter(spec.submodule_search_locations)))
    return next(iter(sorted(package.glob("lib*/libggml-base.so"))), None)


def load_ggml() -> ctypes.CDLL:
    path = find_ggml()
    if path is None:
        raise ImportError("libggml-python is not installed")
    library = ctypes.CDLL(str(path))
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # float source
        ctypes.c_void_p,  # destination
        ctypes.c_int64,  # first element
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # elements per row
        ctypes.c_void_p,  # importance matrix
    ]
    return library


def quantize_blocks(library: ctypes.CDLL, ggml_type: int, block_bytes: int, blocks: np.ndarray) -> np.ndarray:
    """What ggml makes of blocks[count][32]: bytes[count][block_bytes]."""
    source = np.ascontiguousarray(blocks, np.float32)
    result = np.zeros((len(source), block_bytes), np.uint8)
    written = library.ggml_quantize_chunk(
        ggml_type, source.ctypes.data, result.ctypes.data, 0, len(source), BLOCK, None
    )
    if written != result.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes; expected {result.nbytes}")
    return result


def quantize_q4_0(library: ctypes.CDLL, blocks: np.ndarray) -> np.ndarray:
    return quantize_blocks(library, GGML_TYPE_Q4_0, Q4_0_BYTES, blocks)


def quantize_q4_1(library: ctypes.CDLL, blocks: np.ndarray) -> np.ndarray:
    return quantize_blocks(library, GGML_TYPE_Q4_1, Q4_1_BYTES, blocks)


def tie_blocks(generator: np.random.Generator, count: int) -> np.ndarray:
    """Values at, just below and just above the half-way points of the grid that their block spans."""
    steps = generator.integers(-16, 16, (count, BLOCK)).astype(np.float32) / np.float32(2)
    scale = (generator.uniform(0.5, 2, (count, 1)) * 2.0 ** generator.integers(-12, 6, (count, 1))).astype(np.float32)
    blocks = steps * scale
    blocks[:, 0] = -8 * scale[:, 0]
    nudged = np.nextafter(blocks, np.where(generator.random(blocks.shape) < 0.5, np.inf, -np.inf).astype(np.float32))
    return np.where(generator.random(blocks.shape) < 0.6, nudged, blocks).astype(np.float32)


def special_blocks() -> np.ndarray:
    """One block for each thing that has a rule of its own."""
    ramp = np.arange(BLOCK, dtype=np.float32)
    one_hot = np.zeros((4, BLOCK), np.float32)
    one_hot[0, 0], one_hot[1, 31], one_hot[2, 15], one_hot[3, 16] = 1, -1, 3.7, -3.7
    rows = [
        np.zeros(BLOCK),
        -np.zeros(BLOCK),
        np.full(BLOCK, 0.1),
        np.full(BLOCK, -0.1),
        np.full(BLOCK, 60000.0),
        np.where(ramp % 2 == 0, 1, -1),  # the first of two equal magnitudes decides the sign
        np.where(ramp % 2 == 0, -1, 1),
        ramp,
        -ramp,
        ramp - 16,
        16 - ramp,
        ramp * 1e-40,  # denormal source
        (ramp - 16) * 1e-42,
        np.full(BLOCK, 1e-45),  # the smallest denormal
        (ramp - 16) * 2.0**-126,
        (ramp - 16) * 2.0**-122,
        (ramp - 16) * 2.0**-24,  # scale around binary16's smallest denormal
        (ramp - 16) * 2.0**-26,
        (ramp - 16) * 2.0**-28,
        (ramp - 16) * 2.0**-14,  # scale around binary16's smallest normal
        (ramp - 16) * 4090.0,  # the largest that Q4_1's minimum can hold
        ramp * 2100.0,
    ]
    return np.concatenate([np.asarray(rows, np.float32), one_hot])


def make_blocks(seed: int = 20240911, count: int = 2000) -> np.ndarray:
    """The golden set: finite blocks whose scale fits binary16, in every order of magnitude."""
    generator = np.random.default_rng(seed)
    special = special_blocks()
    ties = tie_blocks(generator, 400)
    rest = count - len(special) - len(ties)
    magnitude = 2.0 ** generator.uniform(-30, 16, (rest, 1))
    noise = generator.standard_normal((rest, BLOCK))
    shift = np.where(generator.random((rest, 1)) < 0.3, generator.uniform(-4, 4, (rest, 1)), 0)
    sparse = generator.random((rest, BLOCK)) < np.where(generator.random((rest, 1)) < 0.1, 0.8, 0.0)
    spread = np.where(sparse, 0, (noise + shift) * magnitude)
    denormal = generator.random((rest, 1)) < 0.05
    spread = np.where(denormal, noise * 2.0 ** generator.uniform(-149, -126, (rest, 1)), spread)
    # Q4_1 stores the minimum in binary16, so nothing may lie beyond its range.
    return np.concatenate([special, ties, np.clip(spread, -65000, 65000)]).astype(np.float32)


def bin_bytes(source: np.ndarray, q4_0: np.ndarray, q4_1: np.ndarray) -> bytes:
    raw = np.concatenate([source.view(np.uint8).reshape(len(source), -1), q4_0, q4_1], axis=1)
    return np.int32(len(source)).astype("<i4").tobytes() + raw.tobytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing")
    check = parser.parse_args().check
    library = load_ggml()
    source = make_blocks()
    q4_0, q4_1 = quantize_q4_0(library, source), quantize_q4_1(library, source)
    if check:
        golden = np.load(NPZ_PATH)
        pairs = {"source": source, "q4_0": q4_0, "q4_1": q4_1}
        same = all(golden[name].tobytes() == array.tobytes() for name, array in pairs.items())
        same = same and BIN_PATH.read_bytes() == bin_bytes(source, q4_0, q4_1)
        print("the golden files match" if same else "the golden files differ")
        return 0 if same else 1
    np.savez_compressed(NPZ_PATH, source=source, q4_0=q4_0, q4_1=q4_1)
    BIN_PATH.write_bytes(bin_bytes(source, q4_0, q4_1))
    print(f"{len(source)} blocks: {NPZ_PATH.name} and {BIN_PATH.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
