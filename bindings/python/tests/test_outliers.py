"""Outliers, sparse products and GOBO's centroids against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import as_float32, exact_weights, four_kinds, in_type

import int4q


@pytest.fixture
def weights(generator: np.random.Generator) -> np.ndarray:
    values = generator.standard_normal((70, 300)) * 0.04
    values[generator.random(values.shape) < 0.01] *= 10
    return values.astype(np.float32)


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_fit(weights: np.ndarray, element_type: int4q.Type) -> None:
    typed = in_type(weights, element_type)
    exact = as_float32(typed).astype(np.float64)
    fit = int4q.OutlierFit.of(typed, element_type=element_type)
    assert fit.mean == pytest.approx(exact.mean(), rel=1e-12, abs=1e-15)
    assert fit.sigma == pytest.approx(exact.std(), rel=1e-12)
    log_density = -(((exact - fit.mean) / fit.sigma) ** 2) / 2 - np.log(fit.sigma * np.sqrt(2 * np.pi))
    is_outlier = log_density < -4
    dense, sparse = int4q.split_outliers(typed, element_type=element_type)
    assert 50 < is_outlier.sum() < 1000
    rows, columns = np.nonzero(is_outlier)
    np.testing.assert_array_equal(sparse.columns, columns)
    np.testing.assert_array_equal(np.diff(sparse.row_offsets), np.bincount(rows, minlength=70))
    np.testing.assert_array_equal(sparse.values, exact[is_outlier])
    np.testing.assert_array_equal(dense, np.where(is_outlier, np.float32(fit.mean), exact.astype(np.float32)))


def test_other_thresholds(weights: np.ndarray) -> None:
    wide, narrow = int4q.OutlierFit.of(weights, -8), int4q.OutlierFit.of(weights, -2)
    assert wide.limit > narrow.limit
    six_sigma = int4q.OutlierFit(wide.mean, wide.mean - 6 * wide.sigma, wide.mean + 6 * wide.sigma)
    _, sparse = int4q.split_outliers(weights, six_sigma)
    assert sparse.count == (np.abs(weights - wide.mean) > 6 * wide.sigma).sum()
    with pytest.raises(int4q.InvalidArgumentError, match="lowest"):
        int4q.split_outliers(weights, int4q.OutlierFit(0, 1, -1))
    weights[4, 5] = np.inf
    with pytest.raises(int4q.NotFiniteError, match="row 4, column 5"):
        int4q.OutlierFit.of(weights)


@pytest.mark.parametrize("name", list(four_kinds()))
def test_corrected(weights: np.ndarray, name: str) -> None:
    dense, sparse = int4q.split_outliers(weights)
    tensor = int4q.quantize(dense, four_kinds()[name])
    sparse.correct(tensor, weights)
    restored = tensor.dequantize().astype(np.float64) + sparse.dense()
    at = sparse.dense() != 0
    np.testing.assert_allclose(restored[at], weights[at], rtol=1e-6)
    assert np.abs(restored - weights).max() < np.abs(int4q.quantize(weights, four_kinds()[name]).dequantize() - weights).max()


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_sparse_product(weights: np.ndarray, element_type: int4q.Type, generator: np.random.Generator) -> None:
    _, sparse = int4q.split_outliers(weights)
    for rows in (1, 4, 7):
        x = in_type(generator.standard_normal((rows, 300)).astype(np.float32), element_type)
        y = in_type(generator.standard_normal((rows, 70)).astype(np.float32), element_type)
        before = as_float32(y).astype(np.float64)
        sparse.add_product(x, y, element_type=element_type)
        wanted = before + as_float32(x).astype(np.float64) @ sparse.dense().T.astype(np.float64)
        unit = {int4q.Type.F32: 2.0**-24, int4q.Type.F16: 2.0**-11, int4q.Type.BF16: 2.0**-8}[element_type]
        np.testing.assert_allclose(as_float32(y), wanted, rtol=1.01 * unit + 2.0**-24, atol=1e-7 if unit > 1e-6 else 1e-13)


def test_sparse_arguments(weights: np.ndarray) -> None:
    _, sparse = int4q.split_outliers(weights)
    y = np.zeros((2, 70), np.float32)
    with pytest.raises(ValueError, match="expected"):
        sparse.add_product(np.zeros((3, 300), np.float32), y)
    with pytest.raises(TypeError):
        int4q.SparseMatrix(70, 300, sparse.row_offsets.astype(np.int32), sparse.columns, sparse.values)
    columns = sparse.columns.copy()
    columns[3] = 300
    bad = int4q.SparseMatrix(70, 300, sparse.row_offsets, columns, sparse.values)
    with pytest.raises(int4q.CorruptError, match="columns"):
        bad.add_product(np.zeros((2, 300), np.float32), y)


# ---- GOBO ----------------------------------------------------------------------------------------------------------


def reference_centroids(values: np.ndarray) -> tuple[np.ndarray, int, float]:
    """The header's definition on sorted values; np.cumsum adds in order."""
    ordered = np.sort(values.reshape(-1))
    sums = np.concatenate([[0.0], np.cumsum(ordered.astype(np.float64))])
    count = ordered.size
    begins = np.array([count * i // 16 for i in range(17)])
    centroids = ordered[np.minimum(begins[:16], count - 1)].astype(np.float64)

    def moved() -> np.ndarray:
        sizes = np.diff(begins)
        means = np.diff(sums[begins]) / np.maximum(sizes, 1)
        return np.where(sizes > 0, means, centroids)

    centroids = moved()
    best, best_error, iterations = centroids, np.inf, 0
    while True:
        cuts = (centroids[:-1] + centroids[1:]) / 2
        begins = np.concatenate([[0], np.searchsorted(ordered.astype(np.float64), cuts, side="right"), [count]])
        error = np.abs(ordered - np.repeat(centroids, np.diff(begins))).sum()
        if not error < best_error * (1 - 1e-13):
            return best.astype(np.float32), iterations, best_error / count
        best, best_error = centroids, error
        centroids = moved()
        iterations += 1


def test_centroids(weights: np.ndarray) -> None:
    fit = int4q.OutlierFit.of(weights)
    inliers = weights[(weights >= fit.lowest) & (weights <= fit.highest)]
    centroids, iterations, error = int4q.gobo_centroids(weights, fit)
    wanted, steps, wanted_error = reference_centroids(inliers)
    assert iterations == steps > 3
    np.testing.assert_array_equal(centroids, wanted)
    assert error == pytest.approx(wanted_error, rel=1e-9)
    assert int4q.gobo_centroids(weights)[2] > error  # outliers among the weights cost the others


def test_gobo_beats_a_uniform_grid(weights: np.ndarray, generator: np.random.Generator) -> None:
    tensor, sparse = int4q.gobo_quantize(weights)
    assert np.all(tensor.scales == 1)
    restored = tensor.dequantize() + sparse.dense()
    uniform = int4q.quantize(weights, int4q.Scheme.symmetric(int4q.PER_ROW)).dequantize()
    assert int4q.compare(weights, restored).sqnr_db > int4q.compare(weights, uniform).sqnr_db + 5

    x = generator.standard_normal((5, 300)).astype(np.float32)
    y = sparse.add_product(x, tensor.pack().matmul(x))
    exact = x.astype(np.float64) @ (exact_weights(tensor) + sparse.dense()).T
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)
