"""Writes golden data of other projects' codebooks: bitsandbytes' NF4 and FP4, and kmeans1d's optimal clusters.

    codebooks.npz                             for pytest (this folder)
    ctests/vectors/bitsandbytes_4bit.bin      the same blocks for the C++ tests; layout in the README there

Needs the packages bitsandbytes (with torch) and kmeans1d. Run it again only to change the data: the files are committed,
and tests read them where the packages are missing. `python make_codebooks.py --check` compares the files with what the
installed packages say.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import numpy as np

BLOCK = 64
BLOCKS = 400
HERE = pathlib.Path(__file__).resolve().parent
NPZ_PATH = HERE / "codebooks.npz"
BIN_PATH = HERE.parents[3] / "ctests" / "vectors" / "bitsandbytes_4bit.bin"


def blocks(tables: list[np.ndarray]) -> np.ndarray:
    """float32[BLOCKS][64]: of every magnitude, constants, ties between values of the tables, and their neighbours."""
    generator = np.random.default_rng(64)
    result = generator.standard_normal((BLOCKS, BLOCK)).astype(np.float32)
    result *= np.exp2(generator.integers(-60, 60, (BLOCKS, 1))).astype(np.float32)
    for index in range(120):
        table = np.sort(tables[index % len(tables)])
        ties = ((table[1:].astype(np.float64) + table[:-1]) / 2).astype(np.float32)
        chosen = generator.choice(ties, BLOCK)
        towards = generator.choice(np.float32([-np.inf, np.inf]), BLOCK)
        chosen = np.where(generator.random(BLOCK) < 0.5, chosen, np.nextafter(chosen, towards))
        chosen[5] = 1  # so that absmax is a power of two, and ties stay ties
        result[index] = chosen * np.exp2(np.float32(generator.integers(-10, 10)))
    result[120] = 1.5
    result[121] = -1.5
    result[122, 1:] = 0
    result[123] *= np.float32(1e-30)
    return result


def bitsandbytes_codes(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Packed codes and absmax of each block."""
    import torch
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        torch.from_numpy(values.reshape(1, -1)), blocksize=BLOCK, quant_type=kind, compress_statistics=False
    )
    return packed.numpy().reshape(len(values), BLOCK // 2), state.absmax.numpy().reshape(-1)


def samples() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(16)
    return {
        "normal": generator.standard_normal(3000).astype(np.float32),
        "laplace": generator.laplace(size=2000).astype(np.float32),
        "cauchy": generator.standard_cauchy(1000).astype(np.float32),
        "integers": generator.integers(-40, 40, 500).astype(np.float32),
        "offset": (1e4 + generator.random(1000)).astype(np.float32),
        "seventeen": np.arange(17, dtype=np.float32) ** 2,
    }


def make() -> dict[str, np.ndarray]:
    import kmeans1d
    from bitsandbytes import functional

    data: dict[str, np.ndarray] = {}
    tables = [functional.get_4bit_type(kind, device="cpu").numpy() for kind in ("nf4", "fp4")]
    data["nf4_table"], data["fp4_table"] = tables
    source = blocks(tables)
    nf4, absmax = bitsandbytes_codes(source, "nf4")
    fp4, _ = bitsandbytes_codes(source, "fp4")
    data.update(source=source, absmax=absmax, nf4=nf4, fp4=fp4)
    for name, sample in samples().items():
        clusters = kmeans1d.cluster(sample.astype(np.float64), 16)
        data[f"sample_{name}"] = sample
        data[f"centroids_{name}"] = np.float64(clusters.centroids)
    return data


def packed_blocks(data: dict[str, np.ndarray]) -> bytes:
    parts = [np.int32(len(data["source"])).tobytes()]
    for index in range(len(data["source"])):
        parts += [data[name][index].tobytes() for name in ("source", "absmax", "nf4", "fp4")]
    return b"".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    data = make()
    if not parser.parse_args().check:
        np.savez_compressed(NPZ_PATH, **data)
        BIN_PATH.write_bytes(packed_blocks(data))
        return 0
    with np.load(NPZ_PATH) as stored:
        same = set(stored) == set(data) and all(np.array_equal(stored[name], data[name]) for name in data)
    same = same and BIN_PATH.read_bytes() == packed_blocks(data)
    print("the same" if same else "different")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
