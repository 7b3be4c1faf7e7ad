"""Cross matrices, GPTAQ and shifted weights against float64 re-derivations of their definitions."""

from __future__ import annotations

import pathlib
from typing import Any

import gptaq_reference
import gptq_reference
import numpy as np
import pytest
from conftest import all_schemes, as_float32, available_isas, exact_weights, in_type
from test_reconstruction import CHAIN, ORDERS, activations, gram_of, weights_of

import int4q
from int4q import CrossMatrix, GramMatrix


def disturbed(generator: np.random.Generator, x: np.ndarray, size: float = 0.2) -> np.ndarray:
    """What x might have become in a quantized model: a little less of it, mixed, and noise."""
    k = x.shape[1]
    mixing = np.eye(k) * (1 - size / 3) + size * generator.standard_normal((k, k)) / np.sqrt(k)
    noise = generator.standard_normal(x.shape) * x.std(axis=0)
    return (x @ mixing + 0.5 * size * noise).astype(np.float32)


def cross_of(x: np.ndarray, y: np.ndarray, **options: Any) -> CrossMatrix:
    cross = CrossMatrix(x.shape[1])
    cross.push(x, y, **options)
    return cross


def families(generator: np.random.Generator, rows: int, k: int) -> dict[str, np.ndarray]:
    """Inputs of layers, from well to badly conditioned."""
    normal = generator.standard_normal((rows, k))
    places = np.arange(k)
    near = np.linalg.cholesky(np.exp(-np.abs(places[:, None] - places) / 50) + 1e-9 * np.eye(k))
    large = np.where(np.isin(places, [3, 17, 40, 41]), 100.0, 1.0)
    return {
        "independent": normal.astype(np.float32),
        "common": (normal + 5 * generator.standard_normal((rows, 1))).astype(np.float32),
        "large channels": (normal * large).astype(np.float32),
        "neighbours": (normal @ near.T).astype(np.float32),
    }


# ---- Cross matrices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 15, 16, 17, 77, 272, 300])
@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_cross_matrix(k: int, element_type: int4q.Type, generator: np.random.Generator) -> None:
    cross = CrossMatrix(k)
    xs, ys = [], []
    for rows in (1, 130, 700, 16):
        x = activations(generator, rows, k)
        y = in_type(disturbed(generator, x), element_type)
        x = in_type(x, element_type)
        cross.push(x, y, element_type=element_type)
        xs.append(as_float32(x))
        ys.append(as_float32(y))
    x, y = np.concatenate(xs).astype(np.float64), np.concatenate(ys).astype(np.float64)
    sizes = np.abs(x - y).T @ np.abs(y)
    assert (np.abs(cross.matrix() - (x - y).T @ y) <= (CHAIN + 2) * 2.0**-24 * sizes).all()
    assert (cross.k, cross.rows, cross.info.batches) == (k, len(x), 4)


def test_cross_of_whole_numbers_is_exact(generator: np.random.Generator) -> None:
    x = generator.integers(-99, 99, (1000, 90)).astype(np.float32)
    y = generator.integers(-99, 99, (1000, 90)).astype(np.float32)
    assert np.array_equal(cross_of(x, y).matrix(), (x - y).astype(np.float64).T @ y.astype(np.float64))
    assert cross_of(x[::2, :33], y[::2, :33]).to_bytes() == cross_of(x[::2, :33].copy(), y[::2, :33].copy()).to_bytes()


def test_cross_has_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    x = activations(generator, 650, 530)
    y = disturbed(generator, x)
    expected = cross_of(x, y).to_bytes()
    for workers in (2, 3):
        with int4q.Pool(workers) as pool:
            assert cross_of(x, y, pool=pool).to_bytes() == expected
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert cross_of(x, y).to_bytes() == expected, isa


def test_cross_merges(generator: np.random.Generator) -> None:
    x, y = (generator.integers(-9, 9, (300, 40)).astype(np.float32) for _ in range(2))
    first, second = cross_of(x[:111], y[:111]), cross_of(x[111:], y[111:])
    first.merge(second)
    assert np.array_equal(first.matrix(), cross_of(x, y).matrix()) and first.rows == 300
    with pytest.raises(int4q.MismatchError, match="from is 41"):
        first.merge(CrossMatrix(41))


def test_cross_from_matrix(generator: np.random.Generator) -> None:
    matrix = generator.standard_normal((37, 37))
    cross = CrossMatrix.from_matrix(matrix, 100)
    assert np.array_equal(cross.matrix(), matrix) and cross.rows == 100
    for value in (np.nan, np.inf):
        broken = matrix.copy()
        broken[36, 2] = value
        with pytest.raises(int4q.NotFiniteError, match="row 36, column 2"):
            CrossMatrix.from_matrix(broken, 100)


def test_cross_files(tmp_path: pathlib.Path, generator: np.random.Generator) -> None:
    x = activations(generator, 20, 30)
    cross = cross_of(x, disturbed(generator, x))
    cross.save(tmp_path / "cross")
    data = cross.to_bytes()
    assert CrossMatrix.load(tmp_path / "cross").to_bytes() == data
    assert len(data) == 128 + 8 * 32 * 32
    for cut in (1, 60, 127, 500, len(data) - 1):
        with pytest.raises(int4q.BufferTooSmallError):
            CrossMatrix.from_bytes(data[:cut])
    # Header; rows below zero; padding that is not zero; NaN.
    damages = [(0, b"\1"), (16, b"\7"), (24, b"\1"), (60, b"\1"), (39, b"\x80"), (len(data) - 1, b"\x3f"), (134, b"\xf8\x7f")]
    for place, value in damages:
        broken = bytearray(data)
        broken[place : place + len(value)] = value
        with pytest.raises(int4q.CorruptError):
            CrossMatrix.from_bytes(bytes(broken))
    with pytest.raises(int4q.CorruptError):
        CrossMatrix.from_bytes(gram_of(x).to_bytes())


@pytest.mark.parametrize("value", [np.nan, -np.inf, 2.0**60])
@pytest.mark.parametrize("name", ["x", "y"])
def test_cross_refuses_what_it_cannot_sum(name: str, value: float, generator: np.random.Generator) -> None:
    cross = cross_of(activations(generator, 10, 40), activations(generator, 10, 40))
    before = cross.to_bytes()
    batches = {"x": activations(generator, 700, 40), "y": activations(generator, 700, 40)}
    batches[name][600, 7] = value
    with int4q.Pool(2) as pool:
        for using in (None, pool):
            with pytest.raises(int4q.NotFiniteError, match=f"{name} is .*row 600"):
                cross.push(**batches, pool=using)
    assert cross.to_bytes() == before
    with pytest.raises(ValueError, match="y has shape"):
        cross.push(batches["x"], batches["y"][1:])


# ---- Losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 16, 77, 200])
def test_cross_loss_is_that_of_the_rows(k: int, generator: np.random.Generator) -> None:
    x = activations(generator, 3 * k + 20, k)
    y = disturbed(generator, x)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 37, k)
    for name, scheme in all_schemes(16).items():
        tensor = int4q.quantize(weights, scheme)
        expected = gptaq_reference.losses(weights, tensor.dequantize(), x.astype(np.float64), y.astype(np.float64))
        scale = np.abs(expected) + gram.loss(tensor, weights)
        assert (np.abs(cross.loss(tensor, weights, gram) - expected) <= 2e-5 * scale).all(), name
    bits = cross.loss(tensor, weights, gram).tobytes()
    assert cross.loss(tensor, weights, gram, threads=2).tobytes() == bits
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert cross.loss(tensor, weights, gram).tobytes() == bits, isa
    with pytest.raises(int4q.MismatchError, match="cross is"):
        CrossMatrix(k).loss(tensor, weights, gram)


# ---- GPTAQ ---------------------------------------------------------------------------------------------------------


def compare(
    weights: np.ndarray,
    gram: GramMatrix,
    cross: CrossMatrix,
    scheme: int4q.Scheme,
    label: str,
    *,
    alpha: float = 1.0,
    **options: Any,
) -> None:
    """Codes are the reference's, row by row, up to the first value that lies within 2e-3 steps of a tie; no row is worse than
    rounding to nearest, and the report's losses are those of all rows."""
    order = options.pop("order", "columns")
    expected = gptaq_reference.quantize(weights, gram.matrix(), cross.matrix(), scheme, alpha=alpha, order=order, **options)
    options["clear_dead_channels"] = options.pop("clear_dead", False)
    tensor, report = int4q.gptq(weights, gram, scheme, cross=cross, alpha=alpha, order=ORDERS[order], **options)
    codes, nearest = tensor.code_matrix(), int4q.quantize(weights, scheme)
    kept = (codes == nearest.code_matrix()).all(axis=1)
    size = scheme.group_size if scheme.group_size > 0 else weights.shape[1]
    columns = gptq_reference.order_of(gram.matrix(), order, size)
    differs, unsure = (codes != expected.codes)[:, columns], (expected.margins < 2e-3)[:, columns]
    equal = 0
    for row in range(len(weights)):
        if not differs[row].any():
            equal += 1
        elif not kept[row]:
            first = differs[row].argmax()
            same_scale = as_float32(tensor.scales)[row, columns[first] // size] == expected.scales[row, columns[first] // size]
            assert unsure[row, : first + 1].any() or not same_scale, f"{label}: row {row} differs at {columns[first]} without a tie"
    assert equal + report.nearest_rows >= 0.8 * len(weights), f"{label}: {equal} rows of {len(weights)}"
    losses, baseline = cross.loss(tensor, weights, gram), cross.loss(nearest, weights, gram)
    scale = gram.loss(tensor, weights) + gram.loss(nearest, weights) + np.abs(losses) + np.abs(baseline)
    assert (losses <= baseline + 1e-6 * scale).all(), label
    assert abs(report.loss - losses.sum()) <= 1e-3 * scale.sum() / 10, label
    assert abs(report.nearest_loss - baseline.sum()) <= 1e-3 * scale.sum() / 10, label


@pytest.mark.parametrize("k", [16, 77, 300])
@pytest.mark.parametrize("group_size", [16, 128, 256, int4q.PER_ROW])
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_gptaq_equals_the_published_algorithm(k: int, group_size: int, alpha: float, generator: np.random.Generator) -> None:
    x = activations(generator, 2 * k + 10, k)
    y = disturbed(generator, x)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 37, k)
    for name, scheme in all_schemes(group_size, int4q.Type.F32).items():
        if name in ("symmetric-default-full", "asymmetric", "offset", "codebook"):
            compare(weights, gram, cross, scheme, f"{name}, k {k}, group {group_size}", alpha=alpha)


@pytest.mark.parametrize("family", ["independent", "common", "large channels", "neighbours"])
def test_gptaq_with_badly_conditioned_inputs(family: str, generator: np.random.Generator) -> None:
    x = families(generator, 1000, 270)[family]
    y = disturbed(generator, x, 0.05)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 37, 270)
    for damping in (0.01, 1e-3):
        compare(weights, gram, cross, int4q.Scheme.asymmetric(128, scale_type=int4q.Type.F32), family, damping=damping)


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("static_groups", [False, True])
def test_gptaq_orders(order: str, static_groups: bool, generator: np.random.Generator) -> None:
    x = activations(generator, 500, 215)
    y = disturbed(generator, x)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 33, 215)
    if order == "activations" and not static_groups:
        pytest.skip("refused: test_reconstruction.py")
    scheme = int4q.Scheme.symmetric(64, scale_type=int4q.Type.F32)
    compare(weights, gram, cross, scheme, order, order=order, static_groups=static_groups)


@pytest.mark.parametrize("clear", [False, True])
def test_channels_that_died_in_the_quantized_model(clear: bool, generator: np.random.Generator) -> None:
    x = activations(generator, 300, 100)
    y = disturbed(generator, x)
    y[:, [0, 17, 18, 63, 99]] = 0
    x[:, 63] = 0
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 40, 100)
    for order in ORDERS:
        compare(weights, gram, cross, int4q.Scheme.symmetric(16, scale_type=int4q.Type.F32), order, order=order, clear_dead=clear,
                static_groups=order == "activations")


@pytest.mark.parametrize("samples", [1, 60])
def test_gptaq_with_fewer_samples_than_channels(samples: int, generator: np.random.Generator) -> None:
    x = activations(generator, samples, 130)
    y = disturbed(generator, x)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 20, 130)
    tensor, report = int4q.gptq(weights, gram, int4q.Scheme.asymmetric(32), cross=cross, alpha=1.0)
    assert report.rows == samples and report.loss < report.nearest_loss
    exact = gptaq_reference.losses(weights, exact_weights(tensor), x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(report.loss, exact.sum(), rtol=1e-3, atol=1e-4 * report.nearest_loss)


def test_nothing_to_correct_is_gptq(generator: np.random.Generator) -> None:
    x = activations(generator, 500, 300)
    gram, weights = gram_of(x), weights_of(generator, 90, 300)
    for scheme in (int4q.Scheme.asymmetric(32), int4q.Scheme.symmetric(256)):
        tensor, report = int4q.gptq(weights, gram, scheme)
        other, found = int4q.gptq(weights, gram, scheme, cross=cross_of(x, x), alpha=1.0)
        np.testing.assert_allclose(found.loss, report.loss, rtol=1e-4)
        # Which of two rows that are as good is kept may differ.
        assert (other.codes == tensor.codes).all(axis=1).mean() > 0.97
        # Without a share of the correction rows are GPTQ's, but where rounding to nearest leaves less of the whole loss.
        other, _ = int4q.gptq(weights, gram, scheme, cross=cross_of(disturbed(generator, x), x), alpha=0.0)
        nearest = int4q.quantize(weights, scheme)
        same = (other.codes == tensor.codes).all(axis=1)
        assert same.mean() > 0.5 and (same | (other.codes == nearest.codes).all(axis=1)).all()


def test_gptaq_has_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    x = activations(generator, 700, 330)
    y = disturbed(generator, x)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 200, 330)

    def run(pool: int4q.Pool | None = None) -> tuple[bytes, bytes, int4q.GptqReport, bytes]:
        tensor, report = int4q.gptq(weights, gram, int4q.Scheme.asymmetric(64), cross=cross, pool=pool)
        shifted = int4q.shift_weights(weights, gram, cross, pool=pool)
        return tensor.codes.tobytes(), tensor.scales.tobytes(), report, shifted.tobytes()

    expected = run()
    for workers in (2, 3):
        with int4q.Pool(workers) as pool:
            assert run(pool) == expected
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert run() == expected, isa


def test_gptaq_with_part_of_the_nearest_loss(generator: np.random.Generator) -> None:
    x = activations(generator, 700, 330)
    y = disturbed(generator, x)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 200, 330)
    tensor, report = int4q.gptq(weights, gram, cross=cross)
    other, part = int4q.gptq(weights, gram, cross=cross, measure_nearest=False)
    assert tensor.codes.tobytes() == other.codes.tobytes() and report.loss == part.loss < part.nearest_loss <= report.nearest_loss


def test_huge_and_tiny_numbers(generator: np.random.Generator) -> None:
    for size in (2.0**50, 2.0**-50):
        x = activations(generator, 300, 64)
        y = disturbed(generator, x)
        weights = weights_of(generator, 20, 64)
        x, y, weights = (x * np.float32(size), y * np.float32(size), weights * np.float32(1 / size))
        compare(weights, gram_of(y), cross_of(x, y), int4q.Scheme.symmetric(32, scale_type=int4q.Type.F32), f"size {size}")


def test_what_gptaq_refuses(generator: np.random.Generator) -> None:
    x = activations(generator, 100, 40)
    gram, cross, weights = gram_of(x), cross_of(x, x), weights_of(generator, 30, 40)
    for alpha in (-0.1, 1.1, np.nan):
        with pytest.raises(int4q.InvalidArgumentError, match=r"options\.alpha"):
            int4q.gptq(weights, gram, cross=cross, alpha=alpha)
        with pytest.raises(int4q.InvalidArgumentError, match=r"options\.alpha"):
            int4q.shift_weights(weights, gram, cross, alpha=alpha)
    for other in (cross_of(x[:99], x[:99]), CrossMatrix(40), cross_of(x[:, :39], x[:, :39])):
        with pytest.raises(int4q.MismatchError, match=r"options\.cross"):
            int4q.gptq(weights, gram, cross=other)
        with pytest.raises(int4q.MismatchError, match=r"options\.cross"):
            int4q.shift_weights(weights, gram, other)
    for value in (2.0**200, -(2.0**200)):
        matrix = np.zeros((40, 40))
        matrix[3, 5] = value
        with pytest.raises(int4q.CorruptError, match=r"options\.cross is .*row 3, column 5"):
            int4q.gptq(weights, gram, cross=CrossMatrix.from_matrix(matrix, 100))
    weights[17, 3] = np.inf
    with pytest.raises(int4q.NotFiniteError, match="row 17, column 3"):
        int4q.gptq(weights, gram, cross=cross)
    with int4q.Pool(2) as pool:
        for using in (None, pool):
            with pytest.raises(int4q.NotFiniteError, match="source is .*row 17, column 3"):
                int4q.shift_weights(weights, gram, cross, pool=using)


# ---- Shifted weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 16, 77, 300])
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_shifted_weights(k: int, alpha: float, generator: np.random.Generator) -> None:
    x = activations(generator, 3 * k + 10, k)
    y = disturbed(generator, x)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 85, k)
    expected = gptaq_reference.shifted(weights, gram.matrix(), cross.matrix(), alpha=alpha)
    found = int4q.shift_weights(weights, gram, cross, alpha=alpha)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
    for element_type in int4q.Type:
        source = in_type(weights, element_type)
        other = int4q.shift_weights(source, gram, cross, alpha=alpha, element_type=element_type, dtype=np.float32)
        again = gptaq_reference.shifted(as_float32(source), gram.matrix(), cross.matrix(), alpha=alpha)
        np.testing.assert_allclose(other, again, rtol=0, atol=3e-5 * np.abs(again).max())
    assert int4q.shift_weights(weights, gram, cross, dtype=np.float16).dtype == np.float16


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 16), (85, 77), (20, 300)])
def test_shifted_weights_make_up_for_residuals(n: int, k: int, generator: np.random.Generator) -> None:
    """Two layers' worth of it: W x + r is the float model's, V y + s the quantized one's."""
    rows = 3 * (n + k) + 10
    x, r = activations(generator, rows, k), generator.standard_normal((rows, n)).astype(np.float32)
    y = disturbed(generator, x)
    s = (r + 0.1 * y[:, :1] + 0.01 * generator.standard_normal((rows, n))).astype(np.float32)
    gram, weights = gram_of(y), weights_of(generator, n, k)
    cross = cross_of(np.hstack([x, r]), np.hstack([y, s]))
    expected = gptaq_reference.shifted(weights, gram.matrix(), cross.matrix())
    found = int4q.shift_weights(weights, gram, cross, alpha=1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())
    with int4q.Pool(3) as pool:
        assert np.array_equal(int4q.shift_weights(weights, gram, cross, alpha=1.0, pool=pool), found)

    def error(candidate: np.ndarray) -> float:
        return float(np.square(x @ weights.T + r - y @ candidate.T - s, dtype=np.float64).sum())

    assert error(found) < min(error(weights), error(int4q.shift_weights(weights, gram, cross_of(x, y), alpha=1.0)))
    for other in (k - 1, k + n - 1, k + n + 1):
        if 0 < other != k:
            with pytest.raises(int4q.MismatchError):
                int4q.shift_weights(weights, gram, CrossMatrix.from_matrix(np.zeros((other, other)), rows))
    if n > 1:
        with pytest.raises(int4q.MismatchError):
            int4q.gptq(weights, gram, cross=cross)


@pytest.mark.parametrize("family", ["independent", "common", "large channels", "neighbours"])
def test_shifted_weights_are_where_the_damped_loss_is_least(family: str, generator: np.random.Generator) -> None:
    """Where little decides, weights may differ; what they leave does not."""
    x = families(generator, 1000, 200)[family]
    y = disturbed(generator, x, 0.05)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 40, 200)
    for damping in (0.01, 1e-4):
        h = gptq_reference.damped(gram.matrix(), damping)

        def damped_loss(candidate: np.ndarray, h: np.ndarray = h) -> float:
            d = weights.astype(np.float64) - candidate
            return float(np.einsum("ij,jk,ik->", d, h, d) + 2 * ((weights.astype(np.float64) @ cross.matrix()) * d).sum())

        least = damped_loss(gptaq_reference.shifted(weights, gram.matrix(), cross.matrix(), damping=damping))
        found = damped_loss(int4q.shift_weights(weights, gram, cross, alpha=1.0, damping=damping))
        assert least < 0 and found <= least * (1 - 1e-4), (family, damping, least, found)


def test_every_method_can_use_shifted_weights(generator: np.random.Generator) -> None:
    x = activations(generator, 900, 200)
    y = disturbed(generator, x)
    gram, cross, weights = gram_of(y), cross_of(x, y), weights_of(generator, 50, 200)
    shifted, scheme = int4q.shift_weights(weights, gram, cross, alpha=1.0), int4q.Scheme.asymmetric(32)

    def loss(tensor: int4q.QuantizedTensor) -> float:
        return float(cross.loss(tensor, weights, gram).sum())

    plain = loss(int4q.gptq(weights, gram, scheme)[0])
    gptaq = loss(int4q.gptq(weights, gram, scheme, cross=cross, alpha=1.0)[0])
    exact, _ = int4q.gptq(shifted, gram, scheme)
    assert loss(exact) < gptaq < plain
    before = loss(exact)
    int4q.gram_descend(exact, shifted, gram)
    assert loss(exact) < before
    assert loss(int4q.quantize(shifted, scheme)) < loss(int4q.quantize(weights, scheme))


def test_a_shift_reports_and_ends(generator: np.random.Generator) -> None:
    x = activations(generator, 300, 200)
    gram, cross, weights = gram_of(x), cross_of(x, disturbed(generator, x)), weights_of(generator, 300, 200)
    gram = gram_of(x)
    seen: list[tuple[int, int]] = []
    int4q.shift_weights(weights, gram, cross, progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] and all(a[0] < b[0] for a, b in zip(seen, seen[1:]))
    with pytest.raises(int4q.CancelledError):
        int4q.shift_weights(weights, gram, cross, progress=lambda done, total: done > 2)
    with pytest.raises(int4q.InvalidArgumentError, match=r"options\.damping"):
        int4q.shift_weights(weights, gram_of(np.repeat(x[:, :100], 2, axis=1)), cross, damping=0.0, attempts=1)
