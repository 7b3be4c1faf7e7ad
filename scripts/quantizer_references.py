# SPDX-License-Identifier: Apache-2.0
"""What the speed of quantizing is compared with: other people's code where it is installed, else plain NumPy as the tests have it."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable

import numpy as np

import int4q
from int4q import Codebook, ScaleRule, Scheme

TESTS = pathlib.Path(__file__).resolve().parent.parent / "bindings/python/tests"
sys.path[:0] = [str(TESTS), str(TESTS / "golden")]

import make_ggml_blocks  # noqa: E402  (in the folder just named)
import reference  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Reference:
    name: str
    run: Callable[[np.ndarray], object]


def _numpy(scheme: Scheme) -> Reference:
    return Reference("NumPy", lambda weights: reference.quantize(weights, scheme))


def _codebook(which: Codebook, group: int) -> Reference:
    """The nearest of sorted values, by bisection."""
    values = np.asarray(int4q.codebook_values(which), np.float32)
    order = np.argsort(values, kind="stable")
    middles = (values[order][1:] + values[order][:-1]) / 2

    def run(weights: np.ndarray) -> object:
        groups = weights.reshape(-1, group)
        scales = np.float16(np.abs(groups).max(axis=1) / np.abs(values).max())
        return order[np.searchsorted(middles, groups / np.float32(scales)[:, None])].astype(np.uint8), scales

    return Reference("NumPy", run)


def _powers_of_two(least: int) -> Reference:
    def run(weights: np.ndarray) -> object:
        groups = weights.reshape(-1, 32)
        scales = np.float16(np.abs(groups).max(axis=1))
        with np.errstate(divide="ignore"):
            exponents = np.rint(np.log2(np.abs(groups) / np.float32(scales)[:, None]))
        return np.where(exponents < least, 0, np.minimum(exponents, 0) + 7 + 8 * (groups < 0)).astype(np.uint8), scales

    return Reference("NumPy", run)


def _twin(weights: np.ndarray) -> object:
    """Two scales a group, all groups at once."""
    groups = weights.reshape(-1, 32)
    negative = np.float32(np.float16(np.maximum(-groups.min(axis=1), 0) / np.float32(8)))
    positive = np.float32(np.float16(np.maximum(groups.max(axis=1), 0) / np.float32(7)))
    scale = np.where(groups < 0, negative[:, None], positive[:, None])
    return np.clip(np.rint(groups / scale), -8, 7).astype(np.int8)


def _bins(levels: int) -> Reference:
    def run(weights: np.ndarray) -> object:
        edges = np.linspace(weights.min(), weights.max(), levels + 1)
        return np.clip(np.digitize(weights.reshape(-1), edges) - 1, 0, levels - 1).astype(np.uint8)

    return Reference("NumPy", run)


def _lloyd(weights: np.ndarray, start: np.ndarray | None = None, rounds: int = 20) -> np.ndarray:
    """Lloyd's algorithm, plainly: nearest centroid by bisection, then means."""
    values = weights.reshape(-1)
    centroids = np.sort(np.quantile(values, (np.arange(16) + 0.5) / 16) if start is None else start)
    for _ in range(rounds):
        codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
        centroids = np.bincount(codes, values, 16) / np.maximum(np.bincount(codes, minlength=16), 1)
    return centroids


def _gobo(weights: np.ndarray) -> object:
    small = weights * (np.float32(0.04) / weights.std())
    mean, sigma = small.mean(dtype=np.float64), small.std(dtype=np.float64)
    density = -((small - mean) ** 2) / (2 * sigma**2) - np.log(sigma * np.sqrt(2 * np.pi))
    inliers = small[density >= -4]
    ordered = np.sort(inliers)
    start = np.array([part.mean() for part in np.array_split(ordered, 16)])
    centroids = _lloyd(inliers, start, 8)
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, small.reshape(-1)).astype(np.uint8)


def _ggml(name: str) -> Reference | None:
    try:
        library = make_ggml_blocks.load_ggml()
    except ImportError:
        return None
    kind = next(each for each in make_ggml_blocks.TYPES if each.name == name)
    return Reference("ggml", lambda weights: make_ggml_blocks.quantize(library, kind, weights, None))


def _bitsandbytes(kind: str, nested: bool) -> Reference | None:
    if importlib.util.find_spec("bitsandbytes") is None:
        return None
    import torch
    from bitsandbytes import functional

    torch.set_num_threads(1)

    def run(weights: np.ndarray) -> object:
        return functional.quantize_4bit(torch.from_numpy(weights), blocksize=64, quant_type=kind, compress_statistics=nested)

    return Reference("bitsandbytes", run)


def _kmeans1d() -> Reference:
    if importlib.util.find_spec("kmeans1d") is None or os.environ.get("NO_KMEANS1D"):
        return Reference("NumPy", _lloyd)
    import kmeans1d

    return Reference("kmeans1d", lambda weights: kmeans1d.cluster(weights.reshape(-1), 16))


def _bytes(zero: bool, power: bool, group: int | None) -> Reference:
    """Codes of 8 bits in plain NumPy."""

    def run(weights: np.ndarray) -> object:
        groups = weights if group is None else weights.reshape(-1, group)
        if zero:
            low, high = np.minimum(groups.min(1, keepdims=True), 0), np.maximum(groups.max(1, keepdims=True), 0)
            scale = np.float32(np.float16((high - low) / np.float32(255)))
            zeros = np.clip(np.rint(-low / scale), 0, 255)
            return np.clip(np.rint(groups / scale) + zeros, 0, 255).astype(np.uint8), scale, zeros
        scale = np.abs(groups).max(1, keepdims=True) / np.float32(127)
        scale = np.exp2(np.ceil(np.log2(scale))) if power else np.float32(np.float16(scale))
        return (np.clip(np.rint(groups / scale), -128, 127) + 128).astype(np.uint8), scale

    return Reference("NumPy", run)


def _ternary(largest: bool, group: int) -> Reference:
    def run(weights: np.ndarray) -> object:
        groups = weights.reshape(-1, group)
        magnitudes = np.abs(groups)
        scale = np.float32(np.float16(magnitudes.max(1) if largest else magnitudes.mean(1, dtype=np.float64)))
        codes = (np.clip(np.rint(groups / scale[:, None]), -1, 1) + 1).astype(np.uint8).reshape(-1, 4)
        return codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6, scale

    return Reference("NumPy", run)


def _binary(weights: np.ndarray) -> object:
    groups = weights.reshape(-1, 128)
    return np.packbits(groups >= 0, axis=1, bitorder="little"), np.float16(np.abs(groups).mean(1, dtype=np.float64))


def of(name: str) -> Reference | None:
    """The reference for a line of the table, by its name."""
    numpy = {
        "symmetric max/7, g128": Scheme.symmetric(128, scale_rule=ScaleRule.AMAX_7),
        "symmetric max/7, g32": Scheme.symmetric(32, scale_rule=ScaleRule.AMAX_7),
        "symmetric max/7.5, g32": Scheme.symmetric(32, scale_rule=ScaleRule.AMAX_7_5),
        "symmetric max/-8, g128": Scheme.symmetric(128),
        "symmetric max/-8, g32": Scheme.symmetric(32),
        "asymmetric, g64": Scheme.asymmetric(64),
        "asymmetric, g32": Scheme.asymmetric(32),
        "offset, g32": Scheme.offset(32),
        "MLX affine, g64": Scheme.mlx(64),
    }
    if name in numpy:
        return _numpy(numpy[name])
    others: dict[str, Callable[[], Reference | None]] = {
        "twin scales, g32": lambda: Reference("NumPy", _twin),
        "linear bins, 15 levels": lambda: _bins(15),
        "linear bins, 16 levels": lambda: _bins(16),
        "powers of two, g32": lambda: _powers_of_two(-7),
        "seven powers of two, g32": lambda: _powers_of_two(-6),
        "radix-4 FP4, g32": lambda: _codebook(Codebook.FP4_RADIX4, 32),
        "FP4 E2M1, g32": lambda: _codebook(Codebook.FP4_E2M1, 32),
        "NF4, g64": lambda: _bitsandbytes("nf4", False) or _codebook(Codebook.NF4, 64),
        "NF4, g64, double": lambda: _bitsandbytes("nf4", True),
        "FP4 (bitsandbytes), g64": lambda: _bitsandbytes("fp4", False) or _codebook(Codebook.FP4_BITSANDBYTES, 64),
        "k-means, whole matrix": _kmeans1d,
        "GOBO": lambda: Reference("NumPy", _gobo),
        "8 bits symmetric, row": lambda: _bytes(False, False, None),
        "8 bits symmetric, g32": lambda: _bytes(False, False, 32),
        "8 bits, power of two, row": lambda: _bytes(False, True, None),
        "8 bits asymmetric, row": lambda: _bytes(True, False, None),
        "ternary, g128": lambda: _ternary(False, 128),
        "ternary max, g256": lambda: _ternary(True, 256),
        "binary, g128": lambda: Reference("NumPy", _binary),
    }
    if name in others:
        return others[name]()
    return _ggml(name) if name in ("Q4_0", "Q4_1", "Q4_K", "IQ4_NL", "MXFP4", "NVFP4") else None
