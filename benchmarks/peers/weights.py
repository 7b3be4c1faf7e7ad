# SPDX-License-Identifier: Apache-2.0
"""The quantized matrix that every contestant is given. NumPy alone: other environments use it too."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Weights:
    """W[n][k] = scale * (code - 8), symmetric, with binary16 scales.

    packed  uint8[n][k / 2], element k of a row in the low nibble of byte k / 2 if k is even, else in the high one
    scales  float16[n][k / group]
    """

    packed: np.ndarray
    scales: np.ndarray
    group: int

    @property
    def n(self) -> int:
        return int(self.packed.shape[0])

    @property
    def k(self) -> int:
        return int(self.packed.shape[1]) * 2

    @property
    def groups(self) -> int:
        return int(self.scales.shape[1])

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes

    def codes(self) -> np.ndarray:
        """uint8[n][k]: one code, 0..15, per element."""
        codes = np.empty((self.n, self.k), np.uint8)
        codes[:, 0::2] = self.packed & 15
        codes[:, 1::2] = self.packed >> 4
        return codes

    def rolled(self, rows: int) -> Weights:
        """The same matrix with its rows moved down by `rows`: its product is y with the columns moved.

        Copies differ so that no library can notice that it holds the same matrix twice.
        """
        if rows % self.n == 0:
            return self
        return Weights(np.roll(self.packed, rows, 0), np.roll(self.scales, rows, 0), self.group)

    def dequantized(self, scales: np.ndarray | None = None) -> np.ndarray:
        """float64[n][k], exact; with other scales if given."""
        values = self.codes().astype(np.float64).reshape(self.n, self.groups, self.group)
        values -= 8
        values *= (self.scales if scales is None else scales).astype(np.float64)[:, :, None]
        return values.reshape(self.n, self.k)
