"""Selecting samples: random ones against a re-derivation, representatives against scikit-learn's KMeans."""

from __future__ import annotations

import collections
from typing import Any

import make_kmeans
import numpy as np
import pytest
from conftest import as_float32, in_type
from hypothesis import given
from hypothesis import strategies as st

import int4q

MASK = 2**64 - 1


class SplitMix64:
    """The documented generator, in Python's integers."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        while True:
            product = self.next() * bound
            if (product & MASK) >= (2**64 - bound) % bound:
                return product >> 64

    def fraction(self) -> float:
        return (self.next() >> 11) * 2.0**-53


# ---- At random -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.data(), st.integers(0, MASK))
def test_select_random(count: int, data: Any, seed: int) -> None:
    n = data.draw(st.integers(1, count))
    generator, expected = SplitMix64(seed), []
    for index in range(count):
        if len(expected) < n and generator.below(count - index) < n - len(expected):
            expected.append(index)
    found = int4q.select_random(count, n, seed)
    assert found.dtype == np.int64 and found.tolist() == expected


def test_select_random_refuses() -> None:
    with pytest.raises(int4q.InvalidArgumentError, match="n is 11; expected at most 10"):
        int4q.select_random(10, 11)
    with pytest.raises(int4q.InvalidArgumentError, match="n is 0"):
        int4q.select_random(10, 0)


# ---- Representatives -----------------------------------------------------------------------------------------------


def check(found: int4q.Representatives, features: np.ndarray) -> None:
    """What must hold of any clustering that has converged, in float64."""
    rows = as_float32(features).astype(np.float64)
    assert found.converged
    assert np.all(np.diff(found.indices) > 0)
    assert np.array_equal(found.sizes, np.bincount(found.labels, minlength=len(found.indices)))
    centers = np.stack([rows[found.labels == c].mean(0) for c in range(len(found.indices))])
    distances = ((rows[:, None] - centers) ** 2).sum(-1)
    own = distances[np.arange(len(rows)), found.labels]
    assert np.all(own <= distances.min(1) * (1 + 1e-12) + 1e-12 * distances.max())
    assert found.inertia == pytest.approx(own.sum(), rel=1e-12)
    for cluster, index in enumerate(found.indices):
        assert found.labels[index] == cluster
        assert own[index] <= own[found.labels == cluster].min() * (1 + 1e-12)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(make_kmeans.NPZ_PATH))


@pytest.mark.parametrize("name", list(make_kmeans.cases()))
def test_equals_scikit_learn(golden: dict[str, np.ndarray], name: str) -> None:
    features, initial = golden[f"{name}_features"], golden[f"{name}_initial"]
    found = int4q.select_representatives(features, len(initial), initial=initial)
    check(found, features)
    labels = golden[f"{name}_labels"]
    pairs = set(zip(labels.tolist(), found.labels.tolist()))
    assert len(pairs) == len(found.indices) == len(initial), "another partition"
    assert found.inertia == pytest.approx(golden[f"{name}_inertia"], rel=1e-9)
    nearest = ((features[:, None].astype(np.float64) - golden[f"{name}_centers"]) ** 2).sum(-1).argmin(0)
    assert sorted(nearest) == found.indices.tolist()


@pytest.mark.skipif(not make_kmeans.has_sklearn(), reason="scikit-learn is missing; the golden file is still compared")
def test_scikit_learn_as_installed(generator: np.random.Generator) -> None:
    for _ in range(5):
        features = generator.standard_normal((500, 30)).astype(np.float32)
        initial = generator.choice(500, 8, replace=False)
        found = int4q.select_representatives(features, 8, initial=initial)
        assert found.inertia <= make_kmeans.results(features, initial)["inertia"] * (1 + 1e-6)


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_seeds_are_drawn_as_documented(element_type: int4q.Type, generator: np.random.Generator) -> None:
    features = in_type(generator.standard_normal((200, 10)).astype(np.float32), element_type)
    rows = as_float32(features).astype(np.float64)
    for seed in range(10):
        random = SplitMix64(seed)
        initial = [random.below(200)]
        while len(initial) < 7:
            distances = ((rows[:, None] - rows[initial]) ** 2).sum(-1).min(1)
            drawn = random.fraction() * distances.sum()
            initial.append(int(np.searchsorted(np.cumsum(distances), drawn, side="right")))
        found = int4q.select_representatives(features, 7, seed, element_type=element_type)
        given_initial = int4q.select_representatives(features, 7, initial=initial, element_type=element_type)
        assert np.array_equal(found.indices, given_initial.indices)
        assert np.array_equal(found.labels, given_initial.labels)
        check(found, features)


def test_representatives_cover_what_random_samples_miss(generator: np.random.Generator) -> None:
    """Nine in ten rows are of one sort; each of the nine rare sorts still gets its representative."""
    sorts = np.where(generator.random(2000) < 0.9, 0, generator.integers(1, 10, 2000))
    features = (20 * np.eye(10)[sorts] + 0.1 * generator.standard_normal((2000, 10))).astype(np.float32)
    found = int4q.select_representatives(features, 10, 3)
    assert sorted(sorts[found.indices]) == list(range(10))
    assert collections.Counter(sorts.tolist()) == {int(sorts[i]): int(s) for i, s in zip(found.indices, found.sizes)}


def test_fewer_different_rows_and_more_clusters_than_rows() -> None:
    features = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    found = int4q.select_representatives(features, 5)
    assert found.indices.tolist() == [0, 4, 8] and found.sizes.tolist() == [4, 4, 4]
    every = int4q.select_representatives(features, 20)
    assert every.indices.tolist() == list(range(12)) and every.inertia == 0
    with pytest.raises(int4q.NotFiniteError, match="row 1, column 2"):
        int4q.select_representatives(np.array([[0, 0, 0], [1, 1, np.nan]], np.float32), 1)
    with pytest.raises(ValueError, match="initial"):
        int4q.select_representatives(features, 2, initial=[1])
