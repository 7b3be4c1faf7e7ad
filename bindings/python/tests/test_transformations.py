"""Rotations and low-rank residuals against float64 re-derivations of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import transformations_reference as reference
from conftest import as_float32, available_isas, exact_weights, in_type
from test_reconstruction import activations, gram_of, weights_of

import int4q
from int4q import GramMatrix

ORDERS = [1, 2, 4, 8, 16, 32, 64, 128, 512, 12, 24, 48, 96, 192, 384, 20, 40, 80, 160, 640, 28, 56, 112, 224, 448, 896]

# ---- Rotation ------------------------------------------------------------------------------------------------------


def test_the_reference_is_orthogonal_and_sylvester_s() -> None:
    for order in ORDERS:
        matrix = reference.hadamard(order)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(order), atol=1e-12)
    scipy = pytest.importorskip("scipy.linalg")
    np.testing.assert_allclose(reference.hadamard(64) * 8, scipy.hadamard(64))


def test_hadamard_order() -> None:
    def is_order(n: int) -> bool:
        return any(n % b == 0 and (n // b) & (n // b - 1) == 0 for b in (1, 12, 20, 28))

    for k in [*range(1, 700), 1536, 2560, 4096, 5120, 8960, 11008, 13824, 14336, 18944, 28672]:
        assert int4q.hadamard_order(k) == max(n for n in range(1, k + 1) if k % n == 0 and is_order(n)), k
    assert int4q.hadamard_order(7 * 2**19) == 28 * 2**17
    assert int4q.hadamard_order(2**40) == 2**24
    for bad in (0, -4):
        with pytest.raises(int4q.InvalidArgumentError, match="k is"):
            int4q.hadamard_order(bad)


@pytest.mark.parametrize("order", ORDERS)
def test_unit_vectors_give_the_matrix(order: int) -> None:
    """Elements are one value of either sign, and rows orthogonal: exactly, since no addition rounds."""
    matrix = int4q.hadamard(np.eye(order, dtype=np.float32), order).T
    scale = np.float32(np.sqrt(1 / order))
    assert (np.abs(matrix) == scale).all()
    pattern = np.sign(matrix).astype(np.int64)
    assert np.array_equal(pattern @ pattern.T, order * np.eye(order, dtype=np.int64))
    np.testing.assert_array_equal(pattern, np.sign(reference.hadamard(order)))


@pytest.mark.parametrize("order", [*ORDERS, 4096, 3584])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_rows(order: int, seed: int, generator: np.random.Generator) -> None:
    blocks = 3 if order <= 896 else 1
    x = generator.standard_normal((4, blocks * order)).astype(np.float32)
    expected = x @ reference.rotation(x.shape[1], order, seed).T
    found = int4q.hadamard(x, order, seed=seed)
    np.testing.assert_allclose(found, expected, atol=3e-6)
    np.testing.assert_allclose(int4q.hadamard(found, order, seed=seed, inverse=True), x, atol=3e-6)
    # Whatever the cut of rows, and in place.
    assert np.array_equal(int4q.hadamard(x[2:3], order, seed=seed), found[2:3])
    same = x.copy()
    assert int4q.hadamard(same, order, seed=seed, out=same) is same and np.array_equal(same, found)


@pytest.mark.parametrize("order", [1, 4, 16, 256, 12, 48, 20, 28, 112])
@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_types_and_sides(order: int, element_type: int4q.Type, generator: np.random.Generator) -> None:
    n, k = 2 * order, 37
    values = in_type(generator.standard_normal((n, k)).astype(np.float32), element_type)
    exact = reference.rotation(n, order, 7) @ as_float32(values)
    columns = int4q.hadamard(values, order, seed=7, columns=True, dtype=np.float32, element_type=element_type)
    np.testing.assert_allclose(columns, exact, atol=3e-6)
    # A column is treated as a row: the same bits, then one rounding to the type.
    rows = int4q.hadamard(values.T, order, seed=7, dtype=np.float32, element_type=element_type)
    assert np.array_equal(columns, rows.T)
    rounded = int4q.hadamard(values, order, seed=7, columns=True, element_type=element_type)
    assert np.array_equal(as_float32(rounded), as_float32(in_type(columns, element_type)))
    in_rows = int4q.hadamard(values.T, order, seed=7, element_type=element_type)
    assert np.array_equal(as_float32(in_rows), as_float32(in_type(rows, element_type)))
    back = int4q.hadamard(columns, order, seed=7, columns=True, inverse=True)
    np.testing.assert_allclose(back, as_float32(values), atol=3e-6)


def test_a_layer_s_outputs_stay(generator: np.random.Generator) -> None:
    x, weights = activations(generator, 30, 384), weights_of(generator, 28, 384)
    x[:, 5] *= 100
    rotated, columns = int4q.hadamard(x, seed=3), int4q.hadamard(weights, seed=3)
    np.testing.assert_allclose(rotated @ columns.T, x @ weights.T, atol=1e-3 * np.abs(x).max())
    assert np.abs(rotated).max() < np.abs(x).max() / 4
    outputs = int4q.hadamard(int4q.hadamard(weights, columns=True), order=28, inverse=True, columns=True)
    np.testing.assert_allclose(outputs, weights, atol=1e-5)


def test_instruction_sets_give_the_same_bits(generator: np.random.Generator) -> None:
    x = generator.standard_normal((3, 2688)).astype(np.float16)
    results = []
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            results.append(int4q.hadamard(x, 896, seed=5, dtype=np.float32))
    assert all(np.array_equal(result, results[0]) for result in results)


def test_nan_stays_in_its_block() -> None:
    x = np.ones((2, 96), np.float32)
    x[1, 50] = np.nan
    found = int4q.hadamard(x, 48)
    assert np.isnan(found[1, 48:]).all() and np.isfinite(found[0]).all() and np.isfinite(found[1, :48]).all()


def test_rotation_refuses() -> None:
    x = np.ones((4, 36), np.float32)
    for order in (0, -1, 3, 6, 18, 36, 44, 2**25):
        with pytest.raises(int4q.InvalidArgumentError, match="order"):
            int4q.hadamard(x, order)
    with pytest.raises(int4q.MismatchError, match="k is 36"):
        int4q.hadamard(x, 24)
    with pytest.raises(int4q.MismatchError, match="n is 4"):
        int4q.hadamard(x, 8, columns=True)


@pytest.mark.parametrize(
    ("k", "order"), [(1, 1), (6, 2), (96, 16), (96, 48), (100, 20), (336, 112), (512, 512), (640, 128)]
)
@pytest.mark.parametrize("seed", [0, 9])
def test_rotated_gram_matrices(k: int, order: int, seed: int, generator: np.random.Generator) -> None:
    x = activations(generator, 50, k)
    gram = gram_of(x)
    rotation = reference.rotation(k, order, seed)
    rotated = int4q.rotate_gram(gram, order, seed=seed)
    scale = np.trace(gram.matrix())
    expected = rotation @ gram.matrix() @ rotation.T
    np.testing.assert_allclose(rotated.matrix(), expected, atol=1e-13 * scale)
    channels = rotated.channels()
    np.testing.assert_allclose(channels["sum"], rotation @ gram.channels()["sum"], atol=1e-10 * np.sqrt(scale))
    assert not channels["sum_magnitudes"].any() and not channels["max_magnitude"].any()
    assert rotated.rows == gram.rows
    back = int4q.rotate_gram(rotated, order, seed=seed, inverse=True)
    np.testing.assert_allclose(back.matrix(), gram.matrix(), atol=1e-13 * scale)
    np.testing.assert_allclose(back.channels()["sum"], gram.channels()["sum"], atol=1e-10 * np.sqrt(scale))
    with int4q.Pool(3) as pool:
        assert int4q.rotate_gram(gram, order, seed=seed, pool=pool).to_bytes() == rotated.to_bytes()
    # It is a Gram matrix like others.
    GramMatrix.from_bytes(rotated.to_bytes())
    rotated.merge(int4q.rotate_gram(gram, order, seed=seed))


def test_rotated_gram_matrix_for_gptq(generator: np.random.Generator) -> None:
    """GPTQ with the rotated matrix finds what it finds with one of rotated inputs."""
    x, weights = activations(generator, 400, 128), weights_of(generator, 32, 128)
    x[:, 7] *= 50
    turned = int4q.rotate_gram(gram_of(x), seed=11)
    rotated_x, rotated_weights = int4q.hadamard(x, seed=11), int4q.hadamard(weights, seed=11)
    scheme = int4q.Scheme.asymmetric(64)
    tensor, report = int4q.gptq(rotated_weights, turned, scheme)
    outputs = (rotated_weights.astype(np.float64) - exact_weights(tensor)) @ rotated_x.astype(np.float64).T
    assert np.isclose((outputs**2).sum() / len(x), report.loss, rtol=1e-4)
    plain, plain_report = int4q.gptq(weights, gram_of(x), scheme)
    assert report.loss < plain_report.loss and plain.shape == tensor.shape


# ---- Low-rank residuals --------------------------------------------------------------------------------------------


def spectrum(generator: np.random.Generator, n: int, k: int, decay: float) -> np.ndarray:
    """A matrix whose singular values fall as j^-decay."""
    left, _ = np.linalg.qr(generator.standard_normal((n, min(n, k))))
    right, _ = np.linalg.qr(generator.standard_normal((k, min(n, k))))
    return ((left * np.arange(1, min(n, k) + 1.0) ** -decay) @ right.T).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "k", "rank"), [(1, 1, 1), (17, 40, 5), (100, 300, 16), (300, 100, 32), (257, 530, 70), (40, 40, 40)]
)
@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_best_low_rank_matrix(
    n: int, k: int, rank: int, decay: float, weighted: bool, generator: np.random.Generator
) -> None:
    weights = spectrum(generator, n, k, decay)
    gram = gram_of(activations(generator, 2 * k + 5, k)) if weighted else None
    matrix = gram.matrix() / gram.rows if gram is not None else np.eye(k)
    factors, report = int4q.low_rank(weights, None, gram, rank, dtype=np.float32)
    assert factors.a.shape == (n, rank) and factors.b.shape == (rank, k)
    error = weights.astype(np.float64) - factors.a.astype(np.float64) @ factors.b.astype(np.float64)
    start, found, best = (
        reference.loss(weights.astype(np.float64), matrix),
        reference.loss(error, matrix),
        reference.best_low_rank(weights.astype(np.float64), matrix, rank),
    )
    assert found <= 1.01 * best + 1e-9 * start
    assert report.start_loss is not None and np.isclose(report.start_loss, start, rtol=1e-5)
    assert np.isclose(report.reduction, start - found, rtol=1e-5)
    assert report.loss is not None and np.isclose(report.loss, found, rtol=1e-3, atol=2e-5 * start)


@pytest.mark.parametrize("dtype", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("kind", ["asymmetric", "symmetric", "offset"])
def test_what_quantizing_has_changed(dtype: int4q.Type, kind: str, generator: np.random.Generator) -> None:
    weights, x = weights_of(generator, 120, 257), activations(generator, 600, 257)
    gram = gram_of(x)
    tensor = int4q.quantize(weights, getattr(int4q.Scheme, kind)(64))
    residual = weights.astype(np.float64) - exact_weights(tensor)
    matrix = gram.matrix() / gram.rows
    factors, report = int4q.low_rank(weights, tensor, gram, 24, dtype=dtype, iterations=8)
    product = as_float32(factors.a).astype(np.float64) @ as_float32(factors.b)
    found = reference.loss(residual - product, matrix)
    assert np.isclose(report.start_loss, gram.loss(tensor, weights).sum(), rtol=1e-6)
    assert np.isclose(report.loss, found, rtol=1e-4)
    rounding = {int4q.Type.F32: 1.01, int4q.Type.F16: 1.01, int4q.Type.BF16: 1.02}[dtype]
    assert found <= rounding * reference.best_low_rank(residual, matrix, 24)
    # The weighted fit is the better one for these inputs, the other one for the weights.
    plain, _ = int4q.low_rank(weights, tensor, None, 24, dtype=dtype, iterations=8)
    other = residual - as_float32(plain.a).astype(np.float64) @ as_float32(plain.b)
    assert reference.loss(other, matrix) > found and (other**2).sum() < ((residual - product) ** 2).sum()
    assert np.isclose(np.abs(as_float32(factors.a)).max(), np.abs(as_float32(factors.b)).max(), rtol=3)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e30])
def test_sizes_do_not_matter(size: float, generator: np.random.Generator) -> None:
    """Of weights or inputs: powers of two change no bit but those of exponents."""
    weights, x = weights_of(generator, 48, 80), activations(generator, 200, 80)
    factor = np.float32(2.0 ** np.round(np.log2(size)))
    first, report = int4q.low_rank(weights, None, gram_of(x), 8, dtype=np.float32)
    second, large = int4q.low_rank(weights * factor, None, gram_of(x), 8, dtype=np.float32)
    assert np.array_equal(
        (first.a.astype(np.float64) @ first.b) * float(factor),
        second.a.astype(np.float64) @ second.b.astype(np.float64),
    )
    assert np.isclose(large.reduction / float(factor) ** 2, report.reduction)
    small = np.float32(2.0 ** (np.sign(np.log10(size)) * 20))
    third, _ = int4q.low_rank(weights, None, gram_of(x * small), 8, dtype=np.float32)
    assert np.array_equal(first.a, third.a) and np.array_equal(first.b, third.b)


def test_workers_instruction_sets_and_types_of_weights(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 70, 300).astype(np.float16), gram_of(activations(generator, 500, 300))
    tensor = int4q.quantize(weights, int4q.Scheme.asymmetric(32))
    expected, report = int4q.low_rank(weights, tensor, gram, 20)
    results = [int4q.low_rank(weights.astype(np.float32), tensor, gram, 20)]
    with int4q.Pool(3) as pool:
        results.append(int4q.low_rank(weights, tensor, gram, 20, pool=pool))
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            results.append(int4q.low_rank(weights, tensor, gram, 20))
    for factors, other in results:
        assert np.array_equal(factors.a, expected.a) and np.array_equal(factors.b, expected.b) and other == report
    _, unmeasured = int4q.low_rank(weights, tensor, gram, 20, measure_loss=False)
    assert unmeasured.loss is None and unmeasured.reduction == report.reduction


def test_residuals_of_lower_rank(generator: np.random.Generator) -> None:
    """What is left is zero, and no noise."""
    weights = np.outer(generator.standard_normal(60), generator.standard_normal(90)).astype(np.float32)
    factors, report = int4q.low_rank(weights, None, None, 12, dtype=np.float32)
    np.testing.assert_allclose(factors.a @ factors.b, weights, atol=1e-5)
    assert not factors.a[:, 4:].any() and not factors.b[4:].any()
    factors, report = int4q.low_rank(np.zeros((20, 33), np.float32), None, None, 3)
    assert not factors.a.any() and not factors.b.any() and report.start_loss == report.reduction == 0


def test_rows_of_x(generator: np.random.Generator) -> None:
    for rank, m, k, n in [(1, 1, 1, 1), (8, 3, 300, 40), (16, 2, 256, 700), (33, 5, 530, 257), (256, 2, 300, 260)]:
        a, b = (generator.standard_normal(shape).astype(np.float16) for shape in ((n, rank), (rank, k)))
        x, y = (generator.standard_normal(shape).astype(np.float32) for shape in ((m, k), (m, n)))
        factors = int4q.LowRank(a, b)
        expected = y + (x.astype(np.float64) @ b.T.astype(np.float64)) @ a.T.astype(np.float64)
        sizes = (np.abs(x) @ np.abs(b.T.astype(np.float64))) @ np.abs(a.T.astype(np.float64))
        found = y.copy()
        assert factors.add(x, found) is found
        assert (np.abs(found - expected) <= 3e-6 * sizes + 1e-6).all()
        one = y[-1:].copy()
        factors.add(x[-1:], one)
        assert np.array_equal(one, found[-1:])
        # A with gaps between its rows: the same sums.
        wide = np.zeros((n, rank + 3), np.float16)
        wide[:, :rank] = a
        again = y.copy()
        int4q.LowRank(wide[:, :rank], b).add(x, again)
        assert np.array_equal(again, found)
        rest = factors.subtract_from(expected_weights := generator.standard_normal((n, k)).astype(np.float32))
        np.testing.assert_allclose(rest, expected_weights - a.astype(np.float64) @ b, atol=1e-5 * rank)


def test_rows_of_all_types(generator: np.random.Generator) -> None:
    for x_type in int4q.Type:
        for y_type in int4q.Type:
            x = in_type(generator.standard_normal((4, 96)).astype(np.float32), x_type)
            y = in_type(generator.standard_normal((4, 50)).astype(np.float32), y_type)
            a, b = (
                generator.standard_normal((50, 10)).astype(np.float32),
                generator.standard_normal((10, 96)).astype(np.float32),
            )
            factors, wide = int4q.LowRank(a, b), as_float32(y)
            factors.add(as_float32(x), wide)
            factors.add(x, y, element_type=x_type)
            assert np.array_equal(as_float32(y), as_float32(in_type(wide, y_type)))


def test_svdquant(generator: np.random.Generator) -> None:
    """A B of the weights themselves takes up their large directions, and the rest is easier to quantize."""
    weights = weights_of(generator, 64, 128) + 20 * spectrum(generator, 64, 128, 2.0)
    scheme = int4q.Scheme.symmetric(64)
    factors, _ = int4q.low_rank(weights, None, None, 8)
    rest = factors.subtract_from(weights)
    tensor = int4q.quantize(rest, scheme)
    product = factors.a.astype(np.float64) @ factors.b.astype(np.float64)
    with_branch = ((exact_weights(tensor) + product - weights) ** 2).sum()
    assert with_branch < ((exact_weights(int4q.quantize(weights, scheme)) - weights) ** 2).sum()


def test_low_rank_refuses(generator: np.random.Generator) -> None:
    weights = weights_of(generator, 20, 30)
    for rank in (0, -1, 21, 2**40):
        with pytest.raises(
            (int4q.InvalidArgumentError, ValueError, MemoryError), match="rank|allocate|dimensions|array"
        ):
            int4q.low_rank(weights, rank=rank)
    with pytest.raises(int4q.InvalidArgumentError, match="iterations"):
        int4q.low_rank(weights, rank=3, iterations=-1)
    with pytest.raises(int4q.MismatchError, match="gram"):
        int4q.low_rank(weights, None, GramMatrix(31), 3)
    for bad in (np.nan, np.inf):
        broken = weights.copy()
        broken[17, 3] = bad
        broken[18, 0] = bad
        with pytest.raises(int4q.NotFiniteError, match="row 17, column 3"):
            int4q.low_rank(broken, rank=3)
    with pytest.raises(int4q.NotFiniteError, match="factors"):
        int4q.low_rank(weights * np.float32(1e20), rank=3)
    with pytest.raises(ValueError, match="rank"):
        int4q.LowRank(np.ones((4, 2), np.float32), np.ones((3, 5), np.float32))


# ---- Channel reassembly --------------------------------------------------------------------------------------------


def outlier_layer(generator: np.random.Generator, k: int = 96, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    x, weights = activations(generator, 300, k), weights_of(generator, n, k)
    x[:, [5, k - 7]] *= np.float32(30)
    x[:, k // 2] *= np.float32(9)
    return x, weights


def dense(map_: int4q.Reassembly) -> tuple[np.ndarray, np.ndarray]:
    inputs, columns = np.zeros((map_.new_k, map_.k)), np.zeros((map_.new_k, map_.k))
    for part in map_.parts:
        inputs[part["target"], part["source"]] = part["x_factor"]
        columns[part["target"], part["source"]] = 1
    return inputs, columns


@pytest.mark.parametrize("widen", [False, True])
@pytest.mark.parametrize("divisor", [1.0, 2.5, 4.0, 7.0])
@pytest.mark.parametrize("k", [96, 101])
def test_reassembly(widen: bool, divisor: float, k: int, generator: np.random.Generator) -> None:
    x, weights = outlier_layer(generator, k)
    gram, columns_gram = gram_of(x), gram_of(weights)
    maxima = np.abs(x).max(axis=0)
    threshold = float(maxima.max()) / divisor
    found, report = int4q.plan_reassembly(
        gram, columns_gram, threshold=threshold, most_copies=k // 2, widen=widen, group_size=32
    )
    inputs, columns, lost = reference.reassembly(
        maxima, gram.matrix(), columns_gram.matrix(), gram.rows, threshold, widen
    )
    for mine, theirs in zip(dense(found), (inputs, columns)):
        np.testing.assert_array_equal(mine, theirs)
    assert np.isclose(report.merge_loss, lost) and report.threshold == threshold
    assert report.copies == len(found.parts) - k and report.split_channels == (maxima > threshold).sum()
    assert np.isclose(
        report.rounding_loss,
        reference.rounding_loss(gram.matrix() / gram.rows, columns_gram.matrix(), inputs, columns, 8, 32),
        rtol=1e-5,
    )
    new_x, new_weights = found.inputs(x), found.weights(weights)
    np.testing.assert_allclose(new_x, x @ inputs.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new_weights, weights @ columns.T, atol=1e-5)
    assert np.abs(new_x).max() <= threshold * (1 + 1e-6)
    error = new_x.astype(np.float64) @ new_weights.T.astype(np.float64) - x.astype(np.float64) @ weights.T
    if widen or report.copies == 0:
        assert np.abs(error).max() < 1e-3
    else:  # pairs are merged independently of one another, but their errors may be correlated
        assert 0 < (error**2).sum() / len(x) < 10 * report.merge_loss
    merged = found.gram(gram)
    exact = inputs @ gram.matrix() @ inputs.T
    np.testing.assert_allclose(merged.matrix(), exact, atol=1e-6 * np.trace(exact))
    channels = merged.channels()
    np.testing.assert_allclose(channels["sum"], inputs @ gram.channels()["sum"], rtol=1e-6, atol=1e-6 * np.abs(x).sum())
    assert (channels["max_magnitude"] >= np.abs(new_x).max(axis=0) * (1 - 1e-6)).all()
    assert merged.rows == gram.rows and GramMatrix.from_bytes(merged.to_bytes()).k == found.new_k


def test_one_merged_pair_s_loss_is_exact(generator: np.random.Generator) -> None:
    x, weights = outlier_layer(generator)
    maxima = np.sort(np.abs(x).max(axis=0))
    found, report = int4q.plan_reassembly(gram_of(x), gram_of(weights), threshold=float(maxima[-2:].mean()))
    assert report.copies == 1
    error = found.inputs(x).astype(np.float64) @ found.weights(weights).T - x.astype(np.float64) @ weights.T
    assert np.isclose((error**2).sum() / len(x), report.merge_loss, rtol=1e-3)


def rounded(x: np.ndarray, bits: int, group_size: int) -> np.ndarray:
    groups = x.reshape(len(x), -1, group_size)
    step = np.abs(groups).max(axis=2, keepdims=True) / (2 ** (bits - 1) - 1)
    return (np.rint(groups / step) * step).reshape(x.shape)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_search_finds_the_least_estimate_and_outputs_gain(bits: int, generator: np.random.Generator) -> None:
    x, weights = outlier_layer(generator)
    gram, columns_gram = gram_of(x), gram_of(weights)
    options = {"most_copies": 24, "bits": bits, "group_size": 32}
    found, report = int4q.plan_reassembly(gram, columns_gram, steps=30, **options)
    largest = float(np.abs(x).max())
    losses = {}
    for step in range(1, 31):
        try:
            _, other = int4q.plan_reassembly(gram, columns_gram, threshold=largest * step / 30, **options)
        except int4q.InvalidArgumentError:
            continue
        losses[largest * step / 30] = other.merge_loss + other.rounding_loss
    assert len(losses) > 3 and report.merge_loss + report.rounding_loss == min(losses.values())
    assert report.threshold == max(t for t, loss in losses.items() if loss == min(losses.values()))
    exact = x.astype(np.float64) @ weights.T
    before = ((rounded(x, bits, 32) @ weights.T - exact) ** 2).sum()
    after = ((rounded(found.inputs(x), bits, 32) @ found.weights(weights).T - exact) ** 2).sum()
    assert after < 0.7 * before


def test_reassembly_of_all_types_and_other_maps(generator: np.random.Generator) -> None:
    permutation = generator.permutation(50)
    parts = np.zeros(50, [("target", "i4"), ("source", "i4"), ("x_factor", "f4"), ("reserved", "u4")])
    parts["target"], parts["source"], parts["x_factor"] = np.arange(50), permutation, -2
    map_ = int4q.Reassembly(parts, 50, 50)
    for element_type in int4q.Type:
        x = in_type(generator.standard_normal((7, 50)).astype(np.float32), element_type)
        assert np.array_equal(as_float32(map_.inputs(x, element_type=element_type)), -2 * as_float32(x)[:, permutation])
        assert np.array_equal(as_float32(map_.weights(x, element_type=element_type)), as_float32(x)[:, permutation])


def test_reassembly_refuses(generator: np.random.Generator) -> None:
    x, weights = outlier_layer(generator)
    gram = gram_of(x)
    with pytest.raises(int4q.NullPointerError, match="weights"):
        int4q.plan_reassembly(gram)
    with pytest.raises(int4q.InvalidArgumentError, match="threshold"):
        int4q.plan_reassembly(gram, threshold=1e-3)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(int4q.InvalidArgumentError, match="threshold"):
            int4q.plan_reassembly(gram, threshold=bad)
    with pytest.raises(int4q.MismatchError, match="weights"):
        int4q.plan_reassembly(gram, GramMatrix(5))
    with pytest.raises(int4q.InvalidArgumentError, match="maxima"):
        int4q.plan_reassembly(int4q.rotate_gram(gram), gram_of(weights))
    parts = int4q.plan_reassembly(gram, threshold=1e9)[0].parts
    for field, index, value in (
        ("target", 5, 4),
        ("target", 5, 7),
        ("source", 3, -1),
        ("source", 3, 96),
        ("x_factor", 9, np.nan),
    ):
        broken = parts.copy()
        broken[field][index] = value
        if field == "target" and value == 4:
            broken["target"][6] = 7
        with pytest.raises(int4q.InvalidArgumentError, match="parts"):
            int4q.Reassembly(broken, 96, 96).inputs(x)
    with pytest.raises(int4q.MismatchError, match="gram"):
        int4q.Reassembly(parts, 96, 96).gram(GramMatrix(95))
