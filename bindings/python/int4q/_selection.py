"""Which samples to calibrate with."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import aligned_bytes, input_matrix


def select_random(count: int, n: int, seed: int = 0) -> np.ndarray:
    """int64[n] of 0..count-1, without replacement, ascending; the same for the same seed on every machine."""
    indices = np.empty(max(n, 0), np.int64)
    _native.call("int4q_select_random", count, n, seed, indices.ctypes.data)
    return indices


@dataclasses.dataclass(frozen=True)
class Representatives:
    """Rows that stand for clusters of rows."""

    indices: np.ndarray
    """int64: the row nearest to each cluster's centroid, ascending."""
    sizes: np.ndarray
    """int64: how many rows each cluster has; as weights of the representatives."""
    labels: np.ndarray
    """int32[count]: the place in `indices` of each row's cluster."""
    inertia: float
    """The sum of squared distances of rows from their centroids."""
    iterations: int
    converged: bool


def select_representatives(
    features: Any,
    n: int,
    seed: int = 0,
    *,
    max_iterations: int = 300,
    initial: Any = None,
    element_type: Any = None,
) -> Representatives:
    """Clusters features[count][dimensions] by k-means and takes the row nearest to each of the n centroids.

    initial: n rows that are the first centroids; drawn with the seed by k-means++ if not given. Fewer than n
    representatives are returned if there are fewer different rows; all rows, each its own, if n is at least their number.
    """
    source = input_matrix(features, "features", element_type)
    size = ctypes.c_uint64()
    _native.call("int4q_select_representatives_scratch", source.rows, source.columns, n, ctypes.byref(size))
    first = None if initial is None else np.ascontiguousarray(initial, np.int64)
    if first is not None and first.shape != (n,):
        raise ValueError(f"initial has shape {first.shape}; expected ({n},)")
    struct = _native.ClusteringStruct(
        clusters=n, max_iterations=max_iterations, seed=seed, initial=None if first is None else first.ctypes.data
    )
    scratch = aligned_bytes(size.value)
    indices, sizes, labels = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(source.rows, np.int32)
    result = _native.RepresentativesStruct()
    _native.call(
        "int4q_select_representatives",
        ctypes.byref(struct),
        source.pointer,
        source.element_type,
        source.rows,
        source.columns,
        source.stride,
        scratch.ctypes.data,
        scratch.nbytes,
        indices.ctypes.data,
        sizes.ctypes.data,
        labels.ctypes.data,
        ctypes.byref(result),
    )
    selected = result.selected
    return Representatives(
        indices[:selected], sizes[:selected], labels, result.inertia, result.iterations, bool(result.converged)
    )
