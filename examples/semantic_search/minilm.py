# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2 (a BERT encoder with mean pooling) in NumPy. Where its weights are is not its business: linear layers and
the word embedding come in as callables, so that floats and packed 4-bit blobs run through the same code."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

HEADS = 12
EPSILON = np.float32(1e-12)
Array = np.ndarray


def is_quantizable(name: str, value: Array) -> bool:
    """Linear layers and the word embedding; not the positions, types and pooler, which are small, added once, or unused."""
    return value.ndim == 2 and (name == "embeddings.word_embeddings.weight" or name.startswith("encoder."))


@dataclass
class Encoder:
    lookup: Callable[[Array], Array]
    """Token ids [tokens] -> word embeddings [tokens, hidden]."""
    linear: dict[str, Callable[..., Array]]
    """By layer name: x [tokens, in] -> x W^T + bias [tokens, out]. Layers whose outputs are added to the stream between blocks get
    that as `residual`, for those who want to know."""
    rest: dict[str, Array]
    """Position and type embeddings, layer norms."""

    def __call__(self, ids: Array, mask: Array) -> Array:
        """Embeddings [sentences, hidden] of length 1 for token ids and mask [sentences, tokens]."""
        shape = ids.shape
        x = self.lookup(ids.reshape(-1)).reshape(*shape, -1)
        x = x + self.rest["embeddings.position_embeddings.weight"][: shape[1]]
        x = self.norm("embeddings.LayerNorm", x + self.rest["embeddings.token_type_embeddings.weight"][0])
        hidden = x.reshape(-1, x.shape[-1])
        for index in range(6):
            layer = f"encoder.layer.{index}"
            context = self.attention(f"{layer}.attention.self", hidden, mask)
            output = self.linear[f"{layer}.attention.output.dense"](context, residual=hidden)
            hidden = self.norm(f"{layer}.attention.output.LayerNorm", hidden + output)
            inner = gelu(self.linear[f"{layer}.intermediate.dense"](hidden))
            output = self.linear[f"{layer}.output.dense"](inner, residual=hidden)
            hidden = self.norm(f"{layer}.output.LayerNorm", hidden + output)
        return pool(hidden.reshape(*shape, -1), mask)

    def attention(self, name: str, hidden: Array, mask: Array) -> Array:
        query, key, value = (self.heads(self.linear[f"{name}.{part}"](hidden), mask) for part in ("query", "key", "value"))
        scores = query @ key.swapaxes(-1, -2) / np.float32(np.sqrt(query.shape[-1]))
        scores += np.where(mask, np.float32(0), np.float32(-1e9))[:, None, None, :]
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return np.ascontiguousarray((scores @ value).swapaxes(1, 2)).reshape(hidden.shape)

    @staticmethod
    def heads(x: Array, mask: Array) -> Array:
        return x.reshape(*mask.shape, HEADS, -1).swapaxes(1, 2)

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt(np.mean(centred * centred, -1, keepdims=True) + EPSILON)
        return centred / deviation * self.rest[f"{name}.weight"] + self.rest[f"{name}.bias"]


def gelu(x: Array) -> Array:
    """x times the normal distribution function; erf by Abramowitz and Stegun 7.1.26, whose error (1.5e-7) is binary32's."""
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * np.float32(1.061405429)))))
    tail = np.float32(0.5) * series * np.exp(-z * z)
    return x * np.where(x >= 0, 1 - tail, tail)


def pool(hidden: Array, mask: Array) -> Array:
    """The mean over a sentence's own tokens, scaled to length 1."""
    weights = mask[..., None].astype(np.float32)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def float_encoder(weights: dict[str, Array]) -> Encoder:
    def dense(name: str) -> Callable[..., Array]:
        transposed, bias = weights[f"{name}.weight"].T, weights[f"{name}.bias"]
        return lambda x, residual=None: x @ transposed + bias

    table = weights["embeddings.word_embeddings.weight"]
    names = [n.removesuffix(".weight") for n, w in weights.items() if is_quantizable(n, w) and n.startswith("encoder.")]
    return Encoder(lambda ids: table[ids], {name: dense(name) for name in names}, weights)
