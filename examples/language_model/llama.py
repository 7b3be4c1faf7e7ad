# SPDX-License-Identifier: Apache-2.0
"""A Llama model from a GGUF file, in NumPy: weights as floats, the tokenizer, the forward pass and the loss of each token.
Where linear layers' weights are is not its business: layers come in as one callable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

Array = np.ndarray
Linear = Callable[..., Array]
"""A layer's name and x [tokens, in] -> x W^T [tokens, out]. Layers whose products are added to the stream between blocks get that as
`residual`, for those who want to know."""

LAYERS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""The linear layers of a block, in the order of their use."""


@dataclasses.dataclass(frozen=True)
class Shape:
    blocks: int
    heads: int
    key_heads: int
    epsilon: np.float32
    rope_base: float


@dataclasses.dataclass
class Llama:
    """The weights under the names that the file gives them (a layer's is `blk.0.attn_q`, without `.weight`)."""

    shape: Shape
    weights: dict[str, Array]

    @property
    def layers(self) -> dict[str, Array]:
        """[out, in] of each linear layer."""
        names = [f"blk.{block}.{layer}" for block in range(self.shape.blocks) for layer in LAYERS]
        return {name: self.weights[name] for name in names}

    def hidden(self, linear: Linear, ids: Array) -> Array:
        """ids [windows, tokens] -> what the head gets [windows * tokens, hidden]."""
        x = self.weights["token_embd"][ids.reshape(-1)]
        turns = rotations(ids.shape[1], self.weights["blk.0.attn_q"].shape[0] // self.shape.heads, self.shape.rope_base)
        for block in range(self.shape.blocks):
            x = self.block(f"blk.{block}", linear, x, ids.shape, turns)
        return self.norm("output_norm", x)

    def block(self, name: str, linear: Linear, x: Array, shape: tuple[int, ...], turns: Array) -> Array:
        normal = self.norm(f"{name}.attn_norm", x)
        query, key, value = (linear(f"{name}.attn_{part}", normal) for part in "qkv")
        x = x + linear(f"{name}.attn_output", self.attention(query, key, value, shape, turns), residual=x)
        normal = self.norm(f"{name}.ffn_norm", x)
        gate, up = (linear(f"{name}.ffn_{part}", normal) for part in ("gate", "up"))
        return x + linear(f"{name}.ffn_down", gate / (1 + np.exp(-gate)) * up, residual=x)

    def norm(self, name: str, x: Array) -> Array:
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.shape.epsilon) * self.weights[name]

    def attention(self, query: Array, key: Array, value: Array, shape: tuple[int, ...], turns: Array) -> Array:
        """Causal, a window at a time; several heads of queries share one of keys and values."""
        count, key_heads = self.shape.heads, self.shape.key_heads
        result = np.empty_like(query)
        future = np.triu(np.full((shape[1], shape[1]), -np.inf, np.float32), 1)
        for window in range(shape[0]):
            rows = slice(window * shape[1], (window + 1) * shape[1])
            q = rotate(heads(query[rows], count), turns).reshape(key_heads, -1, *turns.shape[:1], 2 * turns.shape[1])
            k, v = rotate(heads(key[rows], key_heads), turns), heads(value[rows], key_heads)
            scores = q @ k[:, None].swapaxes(-1, -2)
            scores *= np.float32(1 / np.sqrt(q.shape[-1]))
            scores += future
            scores -= scores.max(-1, keepdims=True)
            np.exp(scores, out=scores)
            sums = scores.sum(-1, keepdims=True)
            context = (scores @ v[:, None] / sums).reshape(count, shape[1], -1)
            result[rows] = context.swapaxes(0, 1).reshape(shape[1], -1)
        return result

    def losses(self, linear: Linear, ids: Array) -> Array:
        """-log of the probability of each token but a window's first, [windows, tokens - 1]; windows go one by one."""
        head = self.weights.get("output", self.weights["token_embd"]).T
        result = np.empty((len(ids), ids.shape[1] - 1))
        for window, row in enumerate(ids):
            logits = self.hidden(linear, row[None])[:-1] @ head
            logits -= logits.max(-1, keepdims=True)
            chosen = logits[np.arange(len(logits)), row[1:]]
            result[window] = np.log(np.exp(logits, out=logits).sum(-1, dtype=np.float64)) - chosen
        return result


def heads(x: Array, count: int) -> Array:
    return x.reshape(len(x), count, -1).swapaxes(0, 1)


def rotations(tokens: int, size: int, base: float) -> Array:
    """Unit numbers of the complex plane, [tokens, size / 2]."""
    angles = np.arange(tokens)[:, None] * base ** (-np.arange(0, size, 2) / size)
    return np.exp(1j * angles).astype(np.complex64)


def rotate(x: Array, turns: Array) -> Array:
    """Rotary embedding of [heads, tokens, size], neighbours in pairs: so GGUF files have the rows of queries and keys."""
    return (np.ascontiguousarray(x).view(np.complex64) * turns).view(np.float32)


def read_model(path: Path) -> tuple[Llama, Tokenizer]:
    reader = gguf.GGUFReader(path)

    def field(name: str):
        return reader.fields[name].contents()

    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        weights[tensor.name.removesuffix(".weight")] = values.reshape([int(size) for size in reversed(tensor.shape)])
    shape = Shape(
        field("llama.block_count"),
        field("llama.attention.head_count"),
        field("llama.attention.head_count_kv"),
        np.float32(field("llama.attention.layer_norm_rms_epsilon")),
        field("llama.rope.freq_base"),
    )
    return Llama(shape, weights), make_tokenizer(field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges"))


def make_tokenizer(tokens: list[str], merges: list[str]) -> Tokenizer:
    """Byte-level BPE with the digits apart, as `tokenizer.ggml.pre` smollm means."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
