# SPDX-License-Identifier: Apache-2.0
"""Text that a language model writes itself, to calibrate with: it is as various as what the model was trained on, and needs no
data (as in Williams, Chrysostomou, Aletras: Self-calibration for Language Model Quantization and Pruning, 2024)."""

from __future__ import annotations

import numpy as np
from llama import Array, Llama, rotations


class Writer:
    """Windows in work side by side, and the keys and values of their tokens so far."""

    def __init__(self, model: Llama, windows: int, tokens: int) -> None:
        shape = model.shape
        self._model = model
        self._size = model.weights["blk.0.attn_q"].shape[0] // shape.heads
        self._turns = rotations(tokens, self._size, shape.rope_base)
        past = (shape.blocks, windows, shape.key_heads, tokens, self._size)
        self._keys, self._values = np.zeros(past, np.float32), np.zeros(past, np.float32)

    def logits(self, ids: Array, token: int) -> Array:
        """Of what follows ids [windows], which stand at the place `token`."""
        model = self._model
        x = model.weights["token_embd"][ids]
        for block in range(model.shape.blocks):
            x = self._block(block, x, token)
        return model.norm("output_norm", x) @ model.weights.get("output", model.weights["token_embd"]).T

    def _block(self, block: int, x: Array, token: int) -> Array:
        model, name = self._model, f"blk.{block}"

        def linear(layer: str, x: Array) -> Array:
            return x @ model.weights[f"{name}.{layer}"].T

        normal = model.norm(f"{name}.attn_norm", x)
        context = self._attention(block, token, *(linear(f"attn_{part}", normal) for part in "qkv"))
        x = x + linear("attn_output", context)
        normal = model.norm(f"{name}.ffn_norm", x)
        gate = linear("ffn_gate", normal)
        return x + linear("ffn_down", gate / (1 + np.exp(-gate)) * linear("ffn_up", normal))

    def _attention(self, block: int, token: int, query: Array, key: Array, value: Array) -> Array:
        keys, values = self._keys[block], self._values[block]
        windows, key_heads = keys.shape[:2]
        keys[:, :, token] = self._turned(key.reshape(windows, key_heads, -1), token)
        values[:, :, token] = value.reshape(windows, key_heads, -1)
        queries = self._turned(query.reshape(windows, key_heads, -1, self._size), token)
        scores = queries @ keys[:, :, : token + 1].swapaxes(-1, -2) * np.float32(1 / np.sqrt(self._size))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = scores @ values[:, :, : token + 1] / scores.sum(-1, keepdims=True)
        return context.reshape(windows, -1)

    def _turned(self, x: Array, token: int) -> Array:
        return (np.ascontiguousarray(x).view(np.complex64) * self._turns[token]).view(np.float32)


def write(model: Llama, windows: int, tokens: int, seed: int) -> Array:
    """ids [windows, tokens]: the first of each window any token, the others drawn with the model's probabilities."""
    generator = np.random.default_rng(seed)
    writer = Writer(model, windows, tokens)
    ids = np.empty((windows, tokens), np.int32)
    ids[:, 0] = generator.integers(len(model.weights["token_embd"]), size=windows)
    for token in range(tokens - 1):
        logits = writer.logits(ids[:, token], token)
        ids[:, token + 1] = np.argmax(logits + generator.gumbel(size=logits.shape).astype(np.float32), -1)
    return ids
