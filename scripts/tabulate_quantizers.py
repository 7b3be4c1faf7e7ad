#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures every scheme on a million normal and a million Laplace values, and writes the table in
docs/quantizers.md (between its two marks) and the plot docs/quantizers.png.

    INT4Q_LIBRARY=build/release/libint4q.so PYTHONPATH=bindings/python python3 scripts/tabulate_quantizers.py [--check]

With --check nothing is written; the exit status is 1 if a signal-to-noise ratio in the page is off by more than 0.05 dB.
Needs NumPy and, but for --check, matplotlib. The reference implementations that speed is compared with are those of the tests
(scripts/quantizer_references.py); of other packages, those that are installed: libggml-python, bitsandbytes with torch, kmeans1d.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import re
import sys
import time
from collections.abc import Callable

import numpy as np

import int4q
import quantizer_references as references
from int4q import Codebook, Format, Rounding, ScaleRule, Scheme, Search, Type

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/quantizers.md"
PLOT = ROOT / "docs/quantizers.png"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
SHAPE = (1024, 1024)
TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Result:
    """What a method made of a matrix."""

    values: np.ndarray
    bits: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Method:
    """One line of the table."""

    name: str
    definition: str
    source: str
    oracle: str
    run: Callable[[np.ndarray], Result]
    reference: references.Reference | None = None


def _timed(work: Callable[[], object], repeats: int = 3) -> tuple[object, float]:
    """The result, and the least processor time of a few runs."""
    best, result = math.inf, None
    for _ in range(repeats):
        begin = time.thread_time()
        result = work()
        best = min(best, time.thread_time() - begin)
        if best > 1:
            break
    return result, best


def _scheme(make: Callable[[np.ndarray], Scheme]) -> Callable[[np.ndarray], Result]:
    def run(weights: np.ndarray) -> Result:
        def work() -> int4q.QuantizedTensor:
            return int4q.quantize(weights, make(weights), threads=1)

        tensor, seconds = _timed(work)
        return Result(tensor.dequantize(), 8 * tensor.nbytes / weights.size, seconds)

    return run


def _fixed(scheme: Scheme) -> Callable[[np.ndarray], Result]:
    return _scheme(lambda _: scheme)


def _blocks(format: Format, search: Search = Search.REFERENCE, scaled: bool = False) -> Callable[[np.ndarray], Result]:
    def run(weights: np.ndarray) -> Result:
        scale = float(np.abs(weights).max() / (448 * 6)) if scaled else 1.0

        def work() -> int4q.Blocks:
            return int4q.quantize_blocks(weights, format, search=search, global_scale=scale, threads=1)

        blocks, seconds = _timed(work)
        return Result(blocks.dequantize(), 8 * blocks.nbytes / weights.size, seconds)

    return run


def _twin(group: int) -> Callable[[np.ndarray], Result]:
    def run(weights: np.ndarray) -> Result:
        tensor, seconds = _timed(lambda: int4q.TwinTensor.quantize(weights, group, threads=1))
        return Result(tensor.dequantize(), 4 + 32 / group, seconds)

    return run


def _double(weights: np.ndarray) -> Result:
    """NF4 with scales of scales: 8 bits for each 64 weights, 32 for each 256 scales."""
    scheme = Scheme.codebook(int4q.codebook_values(Codebook.NF4), 64, scale_type=Type.F32)

    def work() -> tuple[int4q.QuantizedTensor, int4q.DoubleScales]:
        tensor = int4q.quantize(weights, scheme, threads=1)
        return tensor, int4q.DoubleScales.quantize(tensor.scales, threads=1)

    (tensor, doubled), seconds = _timed(work)
    again = dataclasses.replace(tensor, scales=doubled.dequantize().reshape(tensor.scales.shape))
    return Result(again.dequantize(), 4 + 8 * doubled.nbytes / weights.size, seconds)


def _gobo(weights: np.ndarray) -> Result:
    """GOBO's threshold has a unit; it is meant for weights of this size."""
    scale = np.float32(0.04) / weights.std()
    small = weights * scale
    (tensor, sparse), seconds = _timed(lambda: int4q.gobo_quantize(small, threads=1)[:2])
    values = (tensor.dequantize() + sparse.dense()) / scale
    return Result(values, 8 * (tensor.nbytes + sparse.nbytes) / weights.size, seconds)


def _linear(levels: int) -> Callable[[np.ndarray], Result]:
    return _scheme(
        lambda weights: Scheme.codebook(
            int4q.linear_bins(float(weights.min()), float(weights.max()), levels),
            int4q.PER_ROW,
            scale_rule=ScaleRule.ONE,
        )
    )


def _fitted(weights: np.ndarray) -> Scheme:
    return Scheme.codebook(int4q.fit_codebook(weights).values, int4q.PER_ROW, scale_rule=ScaleRule.ONE)


def _named(which: Codebook, group: int, **options: object) -> Callable[[np.ndarray], Result]:
    return _fixed(Scheme.codebook(int4q.codebook_values(which), group, **options))


def methods() -> list[Method]:
    amax7, amax75 = ScaleRule.AMAX_7, ScaleRule.AMAX_7_5
    log = {"rounding": Rounding.NEAREST_LOG}
    found = [
        Method("symmetric max/7, g128", "s (q - 8), s = max/7", "AWQ", "NumPy", _fixed(Scheme.symmetric(128, scale_rule=amax7))),
        Method("symmetric max/7, g32", "same", "AWQ", "NumPy", _fixed(Scheme.symmetric(32, scale_rule=amax7))),
        Method("symmetric max/7.5, g32", "s = max/7.5", "compressed-tensors", "NumPy", _fixed(Scheme.symmetric(32, scale_rule=amax75))),
        Method("symmetric max/-8, g128", "s = signed max/-8", "ggml, ORT", "ONNX Runtime", _fixed(Scheme.symmetric(128))),
        Method("symmetric max/-8, g32", "same", "ggml, ORT", "ONNX Runtime", _fixed(Scheme.symmetric(32))),
        Method("asymmetric, g64", "s (q - z)", "ONNX, GPTQ", "ONNX Runtime", _fixed(Scheme.asymmetric(64))),
        Method("asymmetric, g32", "same", "ONNX, GPTQ", "ONNX Runtime", _fixed(Scheme.asymmetric(32))),
        Method("offset, g32", "s q + o", "Q4_1", "NumPy", _fixed(Scheme.offset(32))),
        Method("MLX affine, g64", "s q + o, o the farther end", "MLX", "mlx, bytes", _fixed(Scheme.mlx(64))),
        Method("twin scales, g32", "s- below zero, s+ above", "INT4 overview; PTQ4ViT", "NumPy", _twin(32)),
        Method("linear bins, 15 levels", "middles of 15 bins of the range", "INT4 overview, as published", "NumPy", _linear(15)),
        Method("linear bins, 16 levels", "middles of 16 bins", "the same, mended", "NumPy", _linear(16)),
        Method("powers of two, g32", "sign, 2^e; switches at sqrt 2", "Miyashita et al. 2016", "NumPy", _named(Codebook.POWERS_OF_TWO, 32, **log)),
        Method("seven powers of two, g32", "same without -2^-7: exact in INT8 mode", "the same", "NumPy", _named(Codebook.SEVEN_POWERS_OF_TWO, 32, **log)),
        Method("radix-4 FP4, g32", "sign, 4^e", "Sun et al. 2020", "NumPy", _named(Codebook.FP4_RADIX4, 32)),
        Method("NF4, g64", "quantiles of a normal distribution", "QLoRA", "bitsandbytes", _named(Codebook.NF4, 64)),
        Method("NF4, g64, double", "scales in 8 bits", "QLoRA", "bitsandbytes", _double),
        Method("FP4 (bitsandbytes), g64", "E2M1 with 1/192", "bitsandbytes", "bitsandbytes", _named(Codebook.FP4_BITSANDBYTES, 64)),
        Method("FP4 E2M1, g32", "0 .5 1 1.5 2 3 4 6", "OCP MX", "ml_dtypes", _named(Codebook.FP4_E2M1, 32)),
        Method("k-means, whole matrix", "16 best values", "Lloyd 1982, Max 1960", "kmeans1d", _scheme(_fitted)),
        Method("GOBO", "16 centroids, outliers apart (sigma 0.04)", "Zadeh et al. 2020", "NumPy", _gobo),
        Method("Q4_0", "blocks of 32", "ggml", "ggml, bytes", _blocks(Format.Q4_0)),
        Method("Q4_0, best search", "same, longer search", "this library", "decoded by ggml", _blocks(Format.Q4_0, Search.BEST)),
        Method("Q4_1", "blocks of 32", "ggml", "ggml, bytes", _blocks(Format.Q4_1)),
        Method("Q4_1, best search", "same, longer search", "this library", "decoded by ggml", _blocks(Format.Q4_1, Search.BEST)),
        Method("Q4_K", "256 weights, 8 six-bit scales", "ggml", "ggml, bytes", _blocks(Format.Q4_K)),
        Method("Q4_K, best search", "same, longer search", "this library", "decoded by ggml", _blocks(Format.Q4_K, Search.BEST)),
        Method("IQ4_NL", "blocks of 32, fixed table", "ggml", "ggml, bytes", _blocks(Format.IQ4_NL)),
        Method("IQ4_NL, best search", "same, longer search", "this library", "decoded by ggml", _blocks(Format.IQ4_NL, Search.BEST)),
        Method("MXFP4", "E2M1, scale 2^e, 32", "OCP MX", "ggml, bytes", _blocks(Format.MXFP4)),
        Method("MXFP4, best search", "same, three exponents", "this library", "decoded by ggml", _blocks(Format.MXFP4, Search.BEST)),
        Method("NVFP4", "E2M1, scale E4M3, 16", "NVIDIA", "ggml, bytes", _blocks(Format.NVFP4)),
        Method("NVFP4, global scale", "same, and a float for all", "NVIDIA", "NumPy", _blocks(Format.NVFP4, scaled=True)),
        Method("8 bits symmetric, row", "s (q - 128), s = max/127", "ONNX Runtime, PyTorch", "ONNX Runtime", _fixed(Scheme.symmetric(int4q.PER_ROW, bits=8))),
        Method("8 bits symmetric, g32", "same", "Q8_0", "gguf-py", _fixed(Scheme.symmetric(32, bits=8))),
        Method("8 bits, power of two, row", "s = 2^e", "integer-only inference", "NumPy",
               _fixed(Scheme.symmetric(int4q.PER_ROW, scale_rule=ScaleRule.POWER_OF_TWO, bits=8))),
        Method("8 bits asymmetric, row", "s (q - z)", "ONNX Runtime, PyTorch", "ONNX Runtime", _fixed(Scheme.asymmetric(int4q.PER_ROW, bits=8))),
        Method("ternary, g128", "s (q - 1), s = mean", "BitNet b1.58", "NumPy", _fixed(Scheme.ternary(128))),
        Method("ternary max, g256", "s (q - 1), s = max", "TQ2_0", "gguf-py", _fixed(Scheme.ternary(256, scale_rule=ScaleRule.AMAX_7))),
        Method("binary, g128", "s (2 q - 1), s = mean", "XNOR-Net", "NumPy", _fixed(Scheme.binary(128))),
    ]
    return [dataclasses.replace(method, reference=references.of(method.name)) for method in found]


def sqnr(reference: np.ndarray, values: np.ndarray) -> float:
    signal = np.square(reference, dtype=np.float64).sum()
    return float(10 * np.log10(signal / np.square(reference - values.astype(np.float64)).sum()))


@dataclasses.dataclass(frozen=True)
class Line:
    method: Method
    bits: float
    gauss: float
    laplace: float
    rate: float
    ratio: float | None
    """The reference's time over this library's, one thread each, in turns."""


def measure(compares: bool) -> list[Line]:
    generator = np.random.default_rng(2026)
    gauss = generator.standard_normal(SHAPE).astype(np.float32)
    laplace = generator.laplace(size=SHAPE).astype(np.float32)
    lines = []
    for method in methods():
        one, other = method.run(gauss), method.run(laplace)
        seconds, ratio = one.seconds, None
        if compares and method.reference is not None:
            seconds, ratio = _compare(method, gauss, seconds)
        line = Line(method, one.bits, sqnr(gauss, one.values), sqnr(laplace, other.values), gauss.size / seconds / 1e6, ratio)
        lines.append(line)
        shown = "" if ratio is None else f"  {ratio:6.1f} x {method.reference.name}"
        print(f"{method.name:28} {one.bits:5.2f} bits  {line.gauss:6.2f} / {line.laplace:6.2f} dB{shown}", file=sys.stderr)
    return lines


def _compare(method: Method, weights: np.ndarray, seconds: float) -> tuple[float, float]:
    """This library's least time and the ratio of the reference's to it, from runs in turns."""
    assert method.reference is not None
    slowest = math.inf
    for _ in range(3):
        slowest = min(slowest, _timed(lambda: method.reference.run(weights), 1)[1])
        seconds = min(seconds, method.run(weights).seconds)
    return seconds, slowest / seconds


def table(lines: list[Line]) -> str:
    rows = ["| scheme | definition | bits per weight | SQNR normal / Laplace, dB | million weights/s | times the reference's | source | oracle |"]
    rows.append("| --- | --- | ---: | ---: | ---: | ---: | --- | --- |")
    for line in lines:
        m = line.method
        ratio = "" if line.ratio is None else f"{line.ratio:.{1 if line.ratio < 10 else 0}f} {m.reference.name}"
        rows.append(
            f"| {m.name} | {m.definition} | {line.bits:.2f} | {line.gauss:.2f} / {line.laplace:.2f} | {line.rate:.0f} | {ratio} "
            f"| {m.source} | {m.oracle} |"
        )
    return "\n".join(rows)


def _label_heights(lines: list[Line], spacing: float = 0.24) -> list[tuple[Line, float]]:
    """Where labels stand: at their points, but moved up where those beside them would be written over."""
    placed: list[tuple[Line, float]] = []
    for line in sorted(lines, key=lambda line: line.gauss):
        beside = [height for other, height in placed if abs(other.bits - line.bits) < 0.1]
        height = line.gauss
        while any(abs(height - taken) < spacing for taken in beside):
            height += spacing / 4
        placed.append((line, height))
    return placed


def draw(lines: list[Line]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [line for line in lines if 3.9 < line.bits < 5.2]
    figure, axes = pyplot.subplots(figsize=(11, 10), layout="constrained")
    for attribute, marker, label in (("gauss", "o", "normal"), ("laplace", "^", "Laplace")):
        axes.scatter([line.bits for line in lines], [getattr(line, attribute) for line in lines], marker=marker, label=label)
    for line, height in _label_heights(lines):
        axes.annotate(line.method.name, (line.bits, line.gauss), (line.bits + 0.012, height), fontsize=6.5, va="center",
                      arrowprops={"arrowstyle": "-", "linewidth": 0.3, "alpha": 0.5})
    axes.set(xlabel="bits per weight", ylabel="signal to quantization noise, dB", title="4-bit schemes, a million values", xlim=(3.98, 5.14))
    axes.set_ylim(top=max(line.gauss for line in lines) + 1.5)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PLOT, dpi=110)


def check(lines: list[Line], page: str) -> int:
    """0 if the page's ratios are those measured."""
    failures = 0
    for line in lines:
        found = re.search(rf"^\| {re.escape(line.method.name)} \|.*?\| (-?[\d.]+) / (-?[\d.]+) \|", page, re.M)
        if not found:
            print(f"{line.method.name}: not in {PAGE.name}")
            failures += 1
        elif any(abs(float(a) - b) > TOLERANCE for a, b in zip(found.groups(), (line.gauss, line.laplace), strict=True)):
            print(f"{line.method.name}: the page says {found.group(1)} / {found.group(2)} dB, measured {line.gauss:.2f} / {line.laplace:.2f}")
            failures += 1
    print(f"{len(lines)} schemes measured, {failures} differ from {PAGE.name}")
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the page instead of writing it")
    arguments = parser.parse_args()
    lines, page = measure(compares=not arguments.check), PAGE.read_text()
    if arguments.check:
        return check(lines, page)
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table(lines)}\n{END}{tail}")
    draw(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
