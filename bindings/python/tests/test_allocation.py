"""Sensitivity, eigenvalues and allocation against brute force, dynamic programming and NumPy."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import pytest
import reconstruction_reference as methods
from conftest import all_schemes, available_isas, in_type
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reconstruction import activations, gram_of, weights_of

import int4q
from int4q import _native

# ---- Allocation ----------------------------------------------------------------------------------------------------


def best_of_all(losses: np.ndarray, sizes: np.ndarray, budget: int, weights: np.ndarray | None = None) -> Any:
    """The least (loss, bytes, choices) of every choice within the budget; losses are added from the last layer on."""
    layers, candidates = losses.shape
    factors = np.ones(layers) if weights is None else weights
    best = None
    for choice in itertools.product(range(candidates), repeat=layers):
        total = sum(int(sizes[layer, index]) for layer, index in enumerate(choice))
        if total > budget or any(np.isinf(losses[layer, index]) for layer, index in enumerate(choice)):
            continue
        loss = 0.0
        for layer in reversed(range(layers)):
            loss += factors[layer] * losses[layer, choice[layer]]
        if best is None or (loss, total, choice) < best:
            best = (loss, total, choice)
    return best


def check(losses: np.ndarray, sizes: np.ndarray, budget: int, weights: np.ndarray | None = None) -> bool:
    expected = best_of_all(losses, sizes, budget, weights)
    if expected is None:
        least = np.where(np.isinf(losses), np.iinfo(np.int64).max, sizes.astype(np.int64)).min(axis=1)
        with pytest.raises(int4q.InvalidArgumentError, match="losses" if np.isinf(losses).all(axis=1).any() else
                           rf"budget is {budget}; expected at least {least.sum()}$"):
            int4q.allocate(losses, sizes, budget, weights)
        return False
    found = int4q.allocate(losses, sizes, budget, weights)
    assert (found.loss, found.bytes, tuple(found.choices)) == expected
    assert found.bound <= found.loss * (1 + 1e-12) and found.states >= 1
    return True


@pytest.mark.parametrize("seed", range(6))
def test_allocation_is_the_best_of_all(seed: int) -> None:
    generator, solved = np.random.default_rng(seed), 0
    for case in range(500):
        layers, candidates = generator.integers(1, 6), generator.integers(1, 5)
        # Few different numbers make ties.
        shape = layers, candidates
        losses = generator.integers(0, 5, shape).astype(float) if case % 3 else generator.random(shape)
        sizes = generator.integers(0, 3 if case % 2 else 1000, (layers, candidates))
        losses[generator.random(losses.shape) < 0.1] = np.inf
        weights = generator.integers(0, 3, layers).astype(float) if case % 5 == 0 else None
        budget = int(generator.integers(0, sizes.max(axis=1).sum() + 2))
        solved += check(losses, sizes, budget, weights)
    assert solved > 200


tables = st.integers(1, 4).flatmap(
    lambda candidates: st.lists(
        st.lists(
            st.tuples(st.sampled_from([0.0, 0.125, 1.0, 2.5, 1e-30, 1e30, np.inf]) | st.floats(0, 1e6), st.integers(0, 1 << 40)),
            min_size=candidates,
            max_size=candidates,
        ),
        min_size=1,
        max_size=5,
    )
)


@settings(max_examples=400)
@given(tables, st.floats(0, 1.2))
def test_allocation_of_anything(table: list[list[tuple[float, int]]], share: float) -> None:
    losses = np.array([[loss for loss, _ in row] for row in table])
    sizes = np.array([[size for _, size in row] for row in table], np.int64)
    budget = int(share * sizes.max(axis=1).sum())
    expected = best_of_all(losses, sizes, budget)
    if expected is None:
        with pytest.raises(int4q.InvalidArgumentError):
            int4q.allocate(losses, sizes, budget)
        return
    found = int4q.allocate(losses, sizes, budget)
    # A tiny loss may vanish beside a large one: then which of the choices that cost as much is not settled.
    assert (found.loss, found.bytes) == expected[:2]
    chosen = np.arange(len(table)), found.choices
    assert sizes[chosen].sum() == found.bytes and np.isfinite(losses[chosen]).all()


def by_dynamic_programming(losses: np.ndarray, sizes: np.ndarray, budget: int) -> float:
    """The least loss for each number of bytes, layer by layer from the last."""
    least = np.zeros(budget + 1)
    for layer in reversed(range(len(losses))):
        grown = np.full(budget + 1, np.inf)
        for loss, size in zip(losses[layer], sizes[layer]):
            if size <= budget:
                grown[size:] = np.minimum(grown[size:], least[: budget + 1 - size] + loss)
        least = grown
    return float(least[budget])


@pytest.mark.parametrize("layers,candidates,width", [(30, 8, 20), (120, 12, 40), (200, 5, 3), (12, 200, 500), (64, 2, 1)])
def test_allocation_of_many_layers(layers: int, candidates: int, width: int, generator: np.random.Generator) -> None:
    for _ in range(5):
        sizes = generator.integers(1, width + 1, (layers, candidates))
        losses = np.exp(2 * generator.standard_normal((layers, 1))) * generator.random((layers, candidates)) / sizes
        least, most = sizes.min(axis=1).sum(), sizes.max(axis=1).sum()
        budget = int(generator.integers(least, most + 1))
        found = int4q.allocate(losses, sizes, budget)
        assert found.loss == by_dynamic_programming(losses, sizes, budget)
        assert found.bound <= found.loss and found.bytes <= budget


def test_allocation_of_a_model(generator: np.random.Generator) -> None:
    """Sizes of blobs, for a model of 32 blocks: far from one choice for all."""
    shapes = [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(14336, 4096)] * 2 + [(4096, 14336)]
    schemes = [int4q.Scheme.binary(128), int4q.Scheme.ternary(128), int4q.Scheme.symmetric(128), int4q.Scheme.symmetric(32),
               int4q.Scheme.symmetric(64, bits=8)]
    sizes, losses = [], []
    for n, k in shapes * 32:
        sizes.append([blob_bytes(scheme, n, k) for scheme in schemes])
        losses.append(np.exp(1.5 * generator.standard_normal()) * np.array([0.4, 0.2, 0.01, 0.006, 4e-5]))
    sizes, losses = np.array(sizes), np.array(losses)
    budget = int(sizes[:, 2].sum())
    found = int4q.allocate(losses, sizes, budget)
    assert found.bytes <= budget and found.loss < losses[:, 2].sum() and found.bound > 0.999 * found.loss
    assert len(set(found.choices)) >= 3
    halved = int4q.allocate(losses, sizes, budget, np.where(np.arange(len(losses)) < 100, 4.0, 1.0))
    chosen = np.arange(len(losses))
    assert losses[chosen[:100], halved.choices[:100]].sum() <= losses[chosen[:100], found.choices[:100]].sum()


def blob_bytes(scheme: int4q.Scheme, n: int, k: int) -> int:
    size = ctypes.c_uint64()
    _native.call("int4q_blob_size", ctypes.byref(scheme.as_struct()), n, k, ctypes.byref(size))
    return size.value


def test_allocation_refuses() -> None:
    losses, sizes = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5, 2], [7, 3]])
    assert list(int4q.allocate(losses, sizes, 12).choices) == [0, 0]
    assert list(int4q.allocate(losses, sizes, 5).choices) == [1, 1]
    with pytest.raises(int4q.InvalidArgumentError, match="budget is 4; expected at least 5"):
        int4q.allocate(losses, sizes, 4)
    invalid = int4q.InvalidArgumentError
    for value, error in ((np.nan, int4q.NotFiniteError), (-1e-300, invalid), (-np.inf, invalid)):
        bad = losses.copy()
        bad[1, 0] = value
        with pytest.raises(error, match="losses is .*row 1, column 0"):
            int4q.allocate(bad, sizes, 12)
    with pytest.raises(int4q.InvalidArgumentError, match="losses is .*expected a candidate with a finite loss for each layer"):
        int4q.allocate(np.full((2, 2), np.inf), sizes, 12)
    for value, error in ((np.nan, int4q.NotFiniteError), (-1.0, int4q.InvalidArgumentError), (np.inf, int4q.NotFiniteError)):
        with pytest.raises(error, match="weights"):
            int4q.allocate(losses, sizes, 12, [1, value])
    with pytest.raises(int4q.NotFiniteError, match="losses"):
        int4q.allocate(np.full((2, 2), 1e308), sizes, 12)
    with pytest.raises(int4q.NotFiniteError, match="losses"):
        int4q.allocate(losses, sizes, 12, [1e308, 1])
    large = int4q.allocate(losses * 1e300, sizes * 10**15, 10**16, [1e5, 1e5])
    assert list(large.choices) == list(int4q.allocate(losses, sizes, 10).choices) == [0, 1]
    assert large.loss == pytest.approx(5e305) and large.bytes == 8 * 10**15
    with pytest.raises(int4q.SizeOverflowError, match="bytes"):
        int4q.allocate(losses, np.full((2, 2), 1 << 62, np.uint64), 1 << 63)
    with pytest.raises(ValueError, match="shape"):
        int4q.allocate(losses, sizes[:1], 12)
    with pytest.raises(ValueError, match="weights"):
        int4q.allocate(losses, sizes, 12, [1])


def test_allocation_with_little_scratch(generator: np.random.Generator) -> None:
    """Too little room is an error that says so; enough room gives the same as plenty."""
    losses, sizes = generator.random((30, 6)), generator.integers(1, 1 << 30, (30, 6))
    budget = int((3 * sizes.min(axis=1) + sizes.mean(axis=1)).sum() / 4)
    plenty = int4q.allocate(losses, sizes.astype(np.uint64), budget)
    sizes = np.ascontiguousarray(sizes, np.uint64)

    def attempt(states: int) -> np.ndarray:
        needed = ctypes.c_uint64()
        _native.call("int4q_allocate_scratch", 30, 6, states, ctypes.byref(needed))
        scratch, choices = int4q._arrays.aligned_bytes(needed.value), np.empty(30, np.int32)
        _native.call("int4q_allocate", losses.ctypes.data, sizes.ctypes.data, None, 30, 6, budget, scratch.ctypes.data,
                     scratch.nbytes, choices.ctypes.data, ctypes.byref(_native.AllocationStruct()))
        return choices

    assert plenty.states > 40
    assert np.array_equal(attempt(plenty.states), plenty.choices)
    for states in (1, plenty.states // 2, plenty.states - 1):
        with pytest.raises(int4q.BufferTooSmallError, match=f"expected room for more states than {states}"):
            attempt(states)
    for states in (0, -1, 1 << 31):
        with pytest.raises(int4q.InvalidArgumentError, match="states"):
            attempt(states)


def test_allocation_by_tolerance(generator: np.random.Generator) -> None:
    for _ in range(300):
        layers, candidates = generator.integers(1, 9), generator.integers(1, 9)
        losses = generator.integers(0, 12, (layers, candidates)) / 4
        losses[generator.random(losses.shape) < 0.1] = np.inf
        losses[:, 0] = np.where(np.isinf(losses).all(axis=1), 1, losses[:, 0])
        sizes = generator.integers(0, 6, (layers, candidates))
        reference, tolerance = int(generator.integers(candidates)), float(generator.choice([0, 0.25, 1.0]))
        expected = []
        for loss, size in zip(losses, sizes):
            allowed = [i for i in range(candidates) if loss[i] <= (1 + tolerance) * loss[reference] and np.isfinite(loss[i])]
            expected.append(min(allowed, key=lambda i: (size[i], loss[i], i)))
        assert list(int4q.allocate_by_tolerance(losses, sizes, reference, tolerance)) == expected
    for reference, tolerance, name in (
        (-1, 0.1, "reference"), (2, 0.1, "reference"), (0, -0.1, "tolerance"), (0, np.nan, "tolerance"),
    ):
        with pytest.raises(int4q.InvalidArgumentError, match=name):
            int4q.allocate_by_tolerance([[1.0, 2.0]], [[1, 2]], reference, tolerance)


# ---- Sensitivity ---------------------------------------------------------------------------------------------------


def rounded(weights: np.ndarray, scheme: int4q.Scheme) -> np.ndarray:
    """float64 values of rounding to nearest, from the header's formulas."""
    if scheme.bits == 4:
        return methods.quantized(weights, scheme)
    n, k = weights.shape
    size, result = methods.group_size(scheme, k), np.empty((n, k))
    for begin in range(0, k, size):
        w = weights[:, begin : begin + size]
        if scheme.bits == 8:
            scale = (np.abs(w).max(axis=1) / np.float32(127)).astype(np.float16).astype(np.float32)[:, None]
            codes = np.clip(np.rint(np.where(scale == 0, 0, w / np.where(scale == 0, 1, scale))), -128, 127)
            constant = (w == w[:, :1]).all(axis=1)[:, None]  # its magnitude is the scale
            scale = np.where(constant, np.abs(w[:, :1]).astype(np.float16).astype(np.float32), scale)
            codes = np.where(constant, np.sign(w), codes)
        else:
            mean = np.abs(w.astype(np.float64)).mean(axis=1).astype(np.float32)
            scale = mean.astype(np.float16).astype(np.float32)[:, None]
            codes = np.where(w >= 0, 1, -1) if scheme.bits == 1 else np.clip(np.rint(w / scale), -1, 1)
        result[:, begin : begin + size] = scale.astype(np.float64) * codes
    return result


def every_scheme(group_size: int) -> list[int4q.Scheme]:
    wide = [int4q.Scheme.symmetric(group_size, bits=8)]
    few = [] if group_size == 16 else [int4q.Scheme.binary(group_size), int4q.Scheme.ternary(group_size)]
    return [*all_schemes(group_size).values(), *wide, *few]


@pytest.mark.parametrize("n,k,group_size", [(1, 1, 32), (5, 40, 16), (37, 100, 32), (16, 300, 128), (50, 96, int4q.PER_ROW)])
def test_sensitivity(n: int, k: int, group_size: int, generator: np.random.Generator) -> None:
    schemes, weights, gram = every_scheme(group_size), weights_of(generator, n, k), gram_of(activations(generator, 200, k))
    matrix = gram.matrix() / gram.rows
    plain, weighted = int4q.sensitivity(weights, schemes), int4q.sensitivity(weights, schemes, gram)
    for index, scheme in enumerate(schemes):
        errors = weights.astype(np.float64) - rounded(weights, scheme)
        # Codes on a tie may go another way in float64.
        assert plain.losses[index] == pytest.approx((errors**2).sum(), rel=1e-5), scheme
        assert weighted.losses[index] == pytest.approx(((errors @ matrix) * errors).sum(), rel=1e-4, abs=1e-30), scheme
        assert plain.bytes[index] == weighted.bytes[index] == blob_bytes(scheme, n, k)
        tensor = int4q.quantize(weights, scheme)
        assert weighted.losses[index] == pytest.approx(gram.loss(tensor, weights).sum(), rel=1e-12)


def test_sensitivity_has_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 133, 120), gram_of(activations(generator, 200, 120))
    schemes = every_scheme(32)
    expected = int4q.sensitivity(weights, schemes, gram).losses
    for workers in (2, 5):
        with int4q.Pool(workers) as pool:
            assert np.array_equal(int4q.sensitivity(weights, schemes, gram, pool=pool).losses, expected)
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert np.array_equal(int4q.sensitivity(weights, schemes, gram).losses, expected)
    narrow = in_type(weights, int4q.Type.BF16)
    assert np.array_equal(
        int4q.sensitivity(narrow, schemes, gram, element_type="bf16").losses,
        int4q.sensitivity((narrow.astype(np.uint32) << 16).view(np.float32), schemes, gram).losses,
    )


def test_sensitivity_of_hard_weights(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 20, 64), gram_of(activations(generator, 100, 64))
    weights[7, 40] = 1e9
    schemes = [int4q.Scheme.symmetric(32), int4q.Scheme.symmetric(32, scale_type=int4q.Type.F32)]
    losses = int4q.sensitivity(weights, schemes, gram).losses
    assert np.isinf(losses[0]) and np.isfinite(losses[1])
    assert np.isinf(int4q.sensitivity(weights, schemes).losses[0])
    weights[7, 40] = np.nan
    with pytest.raises(int4q.NotFiniteError, match="row 7, column 40"):
        int4q.sensitivity(weights, schemes, gram)
    with pytest.raises(int4q.InvalidArgumentError, match="scale_rule"):
        int4q.sensitivity(weights, [schemes[0].given()])
    with pytest.raises(int4q.MismatchError, match="gram"):
        int4q.sensitivity(np.ones((2, 63)), schemes, gram)


def test_sensitivity_can_be_ended(generator: np.random.Generator) -> None:
    seen: list[tuple[int, int]] = []
    schemes = every_scheme(32)
    int4q.sensitivity(np.ones((3, 40)), schemes, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, len(schemes)) for done in range(len(schemes) + 1)]
    with pytest.raises(int4q.CancelledError):
        int4q.sensitivity(np.ones((3, 40)), schemes, progress=lambda done, _: done == 2)


def test_usual_schemes() -> None:
    schemes = int4q.usual_schemes()
    assert len(schemes) == 33 and sum(scheme.bits == 8 for scheme in schemes) == 3
    kinds = {(scheme.kind, scheme.codebook_values, scheme.bits) for scheme in schemes}
    assert len(kinds) == 6
    for kind, values, bits in kinds:
        sizes = [s.group_size for s in schemes if (s.kind, s.codebook_values, s.bits) == (kind, values, bits)]
        assert sizes == ([32, 128, int4q.PER_ROW] if bits == 8 else [16, 32, 64, 128, 256, int4q.PER_ROW])
    assert all(scheme.scale_type == int4q.Type.F16 for scheme in schemes)


# ---- Eigenvalues ---------------------------------------------------------------------------------------------------


def gram_with(matrix: np.ndarray) -> int4q.GramMatrix:
    return int4q.GramMatrix.from_matrix(matrix, 1)


def matrices(k: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    normal = generator.standard_normal((k, k))
    turned, _ = np.linalg.qr(normal)
    definite = normal @ normal.T
    return {
        "definite": definite,
        "of low rank": normal[:, : max(k // 3, 1)] @ normal[:, : max(k // 3, 1)].T,
        "of rank 1": np.outer(normal[0], normal[0]),
        "diagonal": np.diag(np.abs(normal[0])),
        "identity": np.eye(k),
        "zero": np.zeros((k, k)),
        "graded": (turned * 10.0 ** -np.linspace(0, 14, k)) @ turned.T,
        "of few values": (turned * generator.choice([1.0, 2.0], k)) @ turned.T,
        "with dead channels": definite * np.outer(*2 * [np.arange(k) % 5 != 0]),
        "huge": definite * 1e200,
        "tiny": definite * 1e-200,
        "tridiagonal": np.diag(np.full(k, 2.0)) - np.diag(np.ones(k - 1), 1) - np.diag(np.ones(k - 1), -1),
    }


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 17, 64, 129])
def test_eigenvalues(k: int, generator: np.random.Generator) -> None:
    for name, matrix in matrices(k, generator).items():
        matrix = (matrix + matrix.T) / 2
        np.fill_diagonal(matrix, np.maximum(np.diag(matrix), 0))
        expected = np.linalg.eigvalsh(matrix)
        found, norm = int4q.gram_eigenvalues(gram_with(matrix))
        largest = np.abs(expected).max()
        assert (np.diff(found) >= 0).all() and np.abs(found - expected).max() <= 4e-16 * (k + 16) * largest, name
        live = expected[expected > k * 2.0**-52 * largest]
        assert norm == pytest.approx(np.sqrt(live).sum(), rel=1e-6), name


def test_nuclear_norm_is_that_of_the_samples(generator: np.random.Generator) -> None:
    for rows, k in ((500, 60), (60, 60), (20, 200)):
        x = activations(generator, rows, k)
        _, norm = int4q.gram_eigenvalues(gram_of(x))
        assert norm == pytest.approx(np.linalg.svd(x.astype(np.float64), compute_uv=False).sum(), rel=1e-3)


def test_eigenvalues_have_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    gram = gram_of(activations(generator, 300, 210))
    expected, norm = int4q.gram_eigenvalues(gram)
    with int4q.Pool(3) as pool:
        found, again = int4q.gram_eigenvalues(gram, pool=pool)
    assert np.array_equal(found, expected) and norm == again
    seen: list[int] = []
    int4q.gram_eigenvalues(gram, progress=lambda done, total: seen.append(done) or total != 210)
    assert seen == sorted(seen) and seen[-1] == 210
    with pytest.raises(int4q.CancelledError):
        int4q.gram_eigenvalues(gram, progress=lambda done, _: done > 50)
