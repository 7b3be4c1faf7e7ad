"""How far binary32's sums may be from the exact ones, and INT8 mode's exact ones."""

from __future__ import annotations

import numpy as np
import reference
from conftest import as_float32

import int4q

EPSILON = 2.0**-24  # half a unit in the last place of binary32


def group_length(scheme: int4q.Scheme, k: int) -> int:
    return k if scheme.group_size == int4q.PER_ROW else min(scheme.group_size, k)


def terms(tensor: int4q.QuantizedTensor) -> np.ndarray:
    """float64[n][k]: scale |code - 8| + the zero point's or offset's share, which the sums are made of."""
    codes = tensor.code_matrix().astype(np.float64)
    size = group_length(tensor.scheme, tensor.k)

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(as_float32(values).astype(np.float64), size, axis=1)[:, : tensor.k]

    scale = np.abs(spread(tensor.scales))
    if tensor.codebook is not None:
        return scale * np.abs(tensor.codebook[tensor.code_matrix()])
    size_of_terms = scale * np.abs(codes - 8)
    if tensor.zero_points is not None:
        size_of_terms += scale * np.abs(8 - np.repeat(tensor.zero_points, size, axis=1)[:, : tensor.k].astype(float))
    if tensor.offsets is not None:
        size_of_terms += scale * 8 + np.abs(spread(tensor.offsets))
    return size_of_terms


def f32_bound(x: np.ndarray, tensor: int4q.QuantizedTensor, scale_of_terms: float = 1.0) -> np.ndarray:
    """docs/numerics.md: chained summation within a group, then three operations a group, first order plus a tenth."""
    size = group_length(tensor.scheme, tensor.k)
    operations = size + 3 * tensor.scheme.groups_per_row(tensor.k) + 2
    return 1.1 * operations * EPSILON * scale_of_terms * (np.abs(x).astype(np.float64) @ terms(tensor).T)


def int8_reference(
    x: np.ndarray, tensor: int4q.QuantizedTensor, x_scales: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The exact result of INT8 mode's integers, and how far binary32's sums may be from it."""
    codes, steps = reference.int8_activations(x, group_length(tensor.scheme, tensor.k), x_scales)
    scales = as_float32(tensor.scales)
    zeros = tensor.zero_points if tensor.zero_points is not None else np.zeros_like(scales)
    offsets = as_float32(tensor.offsets) if tensor.offsets is not None else np.zeros_like(scales)
    product = reference.int8_product(codes, steps, tensor.code_matrix(), scales, zeros, offsets, tensor.scheme)
    operations = 2 * codes.shape[1] + 6
    return product.y, 1.1 * operations * EPSILON * product.magnitude + 1e-44
