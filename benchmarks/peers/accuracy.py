# SPDX-License-Identifier: Apache-2.0
"""How far a product is from the true one, and which class of products that makes it."""

from __future__ import annotations

import numpy as np

from .contestant import Held, Problem, Program
from .weights import Weights

CLASSES = ("f32", "bf16", "int8")
DENSE = "dense"
F32_ERROR = 1e-4
BF16_ERROR = 4e-3
WRONG_ERROR = 5e-2
"""Beyond this it is no rounding: the library was driven wrongly, or is broken."""
_ROWS = 16


def classify(error: float, dense: bool) -> str:
    """The error class; "wrong" if the product is none."""
    if not error < WRONG_ERROR:
        return "wrong"
    if dense:
        return DENSE
    if error < F32_ERROR:
        return "f32"
    return "bf16" if error < BF16_ERROR else "int8"


def _held_weights(weights: Weights, held: Held) -> np.ndarray:
    """float64[n][k]: what a library really multiplies by."""
    if held == Held.EXACT:
        return weights.dequantized()
    import ml_dtypes

    if held == Held.BF16_SCALES:
        return weights.dequantized(weights.scales.astype(ml_dtypes.bfloat16))
    return weights.dequantized().astype(ml_dtypes.bfloat16).astype(np.float64)


class Reference:
    """The product in binary64, for at most 16 rows of x spread over all."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._rows = np.unique(np.linspace(0, problem.cell.m - 1, _ROWS).astype(int))
        self._products: dict[Held, np.ndarray] = {}

    def _product(self, held: Held) -> np.ndarray:
        if held not in self._products:
            x = self._problem.x[self._rows].astype(np.float64)
            self._products[held] = x @ _held_weights(self._problem.weights, held).T
        return self._products[held]

    def error(self, program: Program, held: Held) -> float:
        """The larger relative error of the first and the last copy."""
        true = self._product(held)
        errors = []
        for copy in {0, program.copies - 1}:
            found = np.asarray(program.result(copy), np.float64)[self._rows]
            errors.append(np.linalg.norm(found - np.roll(true, copy, 1)) / np.linalg.norm(true))
        return float(np.max(errors))
