"""Gram matrices and GPTQ against float64 re-derivations of their definitions."""

from __future__ import annotations

import pathlib
from typing import Any

import gptq_reference
import numpy as np
import pytest
from conftest import all_schemes, as_float32, available_isas, exact_weights, in_type

import int4q
from int4q import GptqOrder, GramMatrix

CHAIN = 128  # products that are summed in binary32


def activations(generator: np.random.Generator, rows: int, k: int) -> np.ndarray:
    """Correlated channels of unequal size."""
    mixing = generator.standard_normal((k, k)) / np.sqrt(k) + 0.4 * np.eye(k)
    return (generator.standard_normal((rows, k)) @ mixing * np.exp(0.6 * generator.standard_normal(k))).astype(np.float32)


def weights_of(generator: np.random.Generator, n: int, k: int) -> np.ndarray:
    return (generator.standard_normal((n, k)) * np.exp(generator.standard_normal((n, 1)))).astype(np.float32)


def gram_of(x: np.ndarray, **options: Any) -> GramMatrix:
    gram = GramMatrix(x.shape[1])
    gram.push(x, **options)
    return gram


# ---- Gram matrices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 15, 16, 17, 48, 77, 272, 300])
@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_gram_matrix(k: int, element_type: int4q.Type, generator: np.random.Generator) -> None:
    batches = [in_type(activations(generator, rows, k), element_type) for rows in (1, 130, 700, 16)]
    gram = GramMatrix(k)
    for batch in batches:
        gram.push(batch, element_type=element_type)
    x = np.concatenate([as_float32(batch) for batch in batches]).astype(np.float64)
    sizes = np.abs(x).T @ np.abs(x)
    assert (np.abs(gram.matrix() - x.T @ x) <= CHAIN * 2.0**-24 * sizes).all()
    assert np.array_equal(gram.matrix(), gram.matrix().T)
    channels = gram.channels()
    np.testing.assert_allclose(channels["sum"], x.sum(axis=0), rtol=1e-12, atol=1e-12 * np.abs(x).sum())
    np.testing.assert_allclose(channels["sum_magnitudes"], np.abs(x).sum(axis=0), rtol=1e-12)
    assert np.array_equal(channels["sum_squares"], np.diag(gram.matrix()))
    assert np.array_equal(channels["max_magnitude"], np.abs(x).max(axis=0).astype(np.float32))
    assert (gram.k, gram.rows, gram.info.batches) == (k, len(x), 4)


def test_gram_of_whole_numbers_is_exact(generator: np.random.Generator) -> None:
    x = generator.integers(-200, 200, (1000, 90)).astype(np.float32)
    assert np.array_equal(gram_of(x).matrix(), x.astype(np.float64).T @ x.astype(np.float64))


def test_gram_of_strided_rows(generator: np.random.Generator) -> None:
    x = activations(generator, 40, 50)
    assert gram_of(x[::2, :33]).to_bytes() == gram_of(np.ascontiguousarray(x[::2, :33])).to_bytes()


def test_gram_has_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    x = activations(generator, 650, 530)
    expected = gram_of(x).to_bytes()
    for workers in (2, 3):
        with int4q.Pool(workers) as pool:
            assert gram_of(x, pool=pool).to_bytes() == expected
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert gram_of(x).to_bytes() == expected, isa


def test_gram_merge(generator: np.random.Generator) -> None:
    x = generator.integers(-9, 9, (300, 40)).astype(np.float32)
    first, second = gram_of(x[:111]), gram_of(x[111:])
    first.merge(second)
    whole = gram_of(x)
    assert np.array_equal(first.matrix(), whole.matrix())
    assert np.array_equal(first.channels(), whole.channels())
    assert first.rows == 300
    with pytest.raises(int4q.MismatchError, match="from is 41"):
        first.merge(GramMatrix(41))


def test_gram_scale(generator: np.random.Generator) -> None:
    x = activations(generator, 300, 40)
    gram = gram_of(x)
    gram.scale(0.25, shrinkage=0.5)
    expected = 0.25 * gram_of(x).matrix()
    assert np.allclose(gram.matrix(), (expected + np.diag(np.diagonal(expected))) / 2, rtol=1e-15, atol=0)
    weighted = GramMatrix(40)
    weighted.push(x, weights=np.full(300, 0.25, np.float32))
    for field in ("sum", "sum_magnitudes", "sum_squares", "max_magnitude"):
        assert np.allclose(gram.channels()[field], weighted.channels()[field], rtol=1e-6), field
    assert gram.rows == 300
    gram.scale(shrinkage=1)
    assert np.array_equal(gram.matrix(), np.diag(np.diagonal(expected)))
    gram.scale(0)
    assert not gram.matrix().any() and not gram.channels()["max_magnitude"].any()
    with pytest.raises(int4q.InvalidArgumentError, match="shrinkage is 1.5"):
        gram.scale(shrinkage=1.5)


def test_gram_from_matrix(generator: np.random.Generator) -> None:
    x = activations(generator, 100, 37).astype(np.float64)
    gram = GramMatrix.from_matrix(np.triu(x.T @ x), 100)
    assert np.array_equal(np.triu(gram.matrix()), np.triu(x.T @ x)) and np.array_equal(gram.matrix(), gram.matrix().T)
    assert gram.rows == 100 and (gram.channels()["max_magnitude"] == 0).all()
    gram.merge(GramMatrix.from_bytes(gram.to_bytes()))
    assert np.array_equal(np.triu(gram.matrix()), 2 * np.triu(x.T @ x))
    bad = x.T @ x
    for value, place in ((np.nan, (3, 9)), (np.inf, (0, 36)), (-1.0, (5, 5))):
        broken = bad.copy()
        broken[place] = value
        with pytest.raises(int4q.NotFiniteError, match=f"row {place[0]}, column {place[1]}"):
            GramMatrix.from_matrix(broken, 100)


def test_gram_files(tmp_path: pathlib.Path, generator: np.random.Generator) -> None:
    gram = gram_of(activations(generator, 20, 30))
    gram.save(tmp_path / "gram")
    data = gram.to_bytes()
    assert GramMatrix.load(tmp_path / "gram").to_bytes() == data
    for cut in (1, 60, 127, 500, len(data) - 1):
        with pytest.raises(int4q.BufferTooSmallError):
            GramMatrix.from_bytes(data[:cut])
    for place, value in ((0, 1), (16, 200), (24, 1), (60, 1), (len(data) - 1, 0x7F)):
        broken = bytearray(data)
        broken[place : place + 1] = bytes([value])
        if place == len(data) - 1:
            broken[-8:] = np.float64(np.nan).tobytes()
        with pytest.raises(int4q.CorruptError):
            GramMatrix.from_bytes(bytes(broken))
    broken = bytearray(data)
    broken[8] = 9
    with pytest.raises(int4q.BlobVersionError):
        GramMatrix.from_bytes(bytes(broken))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**60, -(2.0**60)])
def test_gram_refuses_what_it_cannot_sum(value: float, generator: np.random.Generator) -> None:
    gram = gram_of(activations(generator, 10, 40))
    before = gram.to_bytes()
    x = activations(generator, 700, 40)
    x[600, 7] = value
    with int4q.Pool(2) as pool:
        for using in (None, pool):
            with pytest.raises(int4q.NotFiniteError, match="row 600"):
                gram.push(x, pool=using)
    assert gram.to_bytes() == before


# ---- Losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 31, 200])
def test_gram_loss(k: int, generator: np.random.Generator) -> None:
    gram = gram_of(activations(generator, 90, k))
    weights = weights_of(generator, 37, k)
    for name, scheme in all_schemes().items():
        tensor = int4q.quantize(weights, scheme)
        values = tensor.dequantize().astype(np.float64)
        expected = gptq_reference.losses(weights, values, gram.matrix(), 90)
        np.testing.assert_allclose(gram.loss(tensor, weights), expected, rtol=1e-5, err_msg=name)
    bits = gram.loss(tensor, weights).tobytes()
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert gram.loss(tensor, weights).tobytes() == bits
    assert (GramMatrix(k).loss(tensor, weights) == 0).all()


# ---- GPTQ ----------------------------------------------------------------------------------------------------------

ORDERS = {"columns": GptqOrder.COLUMNS, "activations": GptqOrder.ACTIVATIONS, "within": GptqOrder.WITHIN_GROUPS}


def compare(weights: np.ndarray, gram: GramMatrix, scheme: int4q.Scheme, label: str, **options: Any) -> None:
    """Codes are the reference's, row by row, up to the first value that lies within 1e-3 steps of a tie."""
    order = options.pop("order", "columns")
    expected = gptq_reference.quantize(weights, gram.matrix(), scheme, order=order, **options)
    options["clear_dead_channels"] = options.pop("clear_dead", False)
    tensor, report = int4q.gptq(weights, gram, scheme, order=ORDERS[order], **options)
    codes = tensor.code_matrix()
    nearest = int4q.quantize(weights, scheme)
    kept = (codes == nearest.code_matrix()).all(axis=1)
    columns = gptq_reference.order_of(gram.matrix(), order, scheme.group_size if scheme.group_size > 0 else weights.shape[1])
    differs = (codes != expected.codes)[:, columns]
    unsure = (expected.margins < 1e-3)[:, columns]
    equal_rows = 0
    for row in range(len(weights)):
        if not differs[row].any():
            equal_rows += 1
        elif not kept[row]:
            first = differs[row].argmax()
            # A scale's rounding to its type can turn over, too; then a group differs as a whole.
            group = columns[first] // (scheme.group_size if scheme.group_size > 0 else weights.shape[1])
            same_scale = as_float32(tensor.scales)[row, group] == expected.scales[row, group]
            assert unsure[row, : first + 1].any() or not same_scale, f"{label}: row {row} differs at {columns[first]} without a tie"
    assert equal_rows + report.nearest_rows >= 0.8 * len(weights), f"{label}: {equal_rows} rows of {len(weights)}"
    rows = max(gram.rows, 1)
    exact = gptq_reference.losses(weights, tensor.dequantize(), gram.matrix(), rows)
    baseline = gptq_reference.losses(weights, nearest.dequantize(), gram.matrix(), rows)
    assert (exact <= baseline * (1 + 1e-9) + 1e-30).all(), label
    np.testing.assert_allclose(report.loss, exact.sum(), rtol=1e-3, err_msg=label)
    np.testing.assert_allclose(report.nearest_loss, baseline.sum(), rtol=1e-3, err_msg=label)
    assert report.retries == 0 and report.damping == options.get("damping", 0.01)


@pytest.mark.parametrize("k", [16, 77, 300])
@pytest.mark.parametrize("group_size", [16, 32, 128, 256, int4q.PER_ROW])
def test_gptq_equals_the_published_algorithm(k: int, group_size: int, generator: np.random.Generator) -> None:
    gram = gram_of(activations(generator, 2 * k + 10, k))
    weights = weights_of(generator, 37, k)
    for name, scheme in all_schemes(group_size, int4q.Type.F32).items():
        if "ggml" in name or name == "mlx":
            continue  # codes from scales before they are rounded; below
        compare(weights, gram, scheme, f"{name}, k {k}, group {group_size}")


@pytest.mark.parametrize("scale_type", [int4q.Type.F16, int4q.Type.BF16], ids=lambda t: t.name)
def test_gptq_with_narrow_scales(scale_type: int4q.Type, generator: np.random.Generator) -> None:
    gram = gram_of(activations(generator, 300, 200))
    weights = weights_of(generator, 40, 200)
    for name, scheme in all_schemes(64, scale_type).items():
        if "ggml" in name or name == "mlx":
            continue
        compare(weights, gram, scheme, name)


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("static_groups", [False, True])
@pytest.mark.parametrize("group_size", [16, 64, int4q.PER_ROW])
def test_gptq_orders(order: str, static_groups: bool, group_size: int, generator: np.random.Generator) -> None:
    gram = gram_of(activations(generator, 500, 215))
    weights = weights_of(generator, 33, 215)
    for name, scheme in {"s": int4q.Scheme.symmetric, "a": int4q.Scheme.asymmetric}.items():
        chosen = scheme(group_size, scale_type=int4q.Type.F32)
        if order == "activations" and not static_groups and group_size != int4q.PER_ROW:
            with pytest.raises(int4q.UnsupportedError, match="STATIC_GROUPS"):
                int4q.gptq(weights, gram, chosen, order=GptqOrder.ACTIVATIONS)
            continue
        compare(weights, gram, chosen, f"{name} {order}", order=order, static_groups=static_groups)


@pytest.mark.parametrize("group_size", [16, 32, 128, 256, int4q.PER_ROW])
def test_uncorrelated_channels_are_rounded_to_nearest(group_size: int, generator: np.random.Generator) -> None:
    """With a diagonal Gram matrix there is nothing to make up for: codes are the quantizers' own, in every scheme."""
    k = 300
    gram = GramMatrix.from_matrix(np.diag(generator.random(k) + 0.5), 10)
    weights = weights_of(generator, 35, k)
    weights[3] = 0
    weights[4, :64] = 0.25
    for scale_type in int4q.Type:
        for name, scheme in all_schemes(group_size, scale_type).items():
            nearest = int4q.quantize(weights, scheme)
            for options in ({}, {"static_groups": True, "order": GptqOrder.ACTIVATIONS}, {"order": GptqOrder.WITHIN_GROUPS}):
                tensor, report = int4q.gptq(weights, gram, scheme, **options)
                assert np.array_equal(tensor.codes, nearest.codes), name
                assert tensor.scales.tobytes() == nearest.scales.tobytes()
                assert report.loss == report.nearest_loss and report.nearest_rows == 35


def test_codes_are_the_nearest_of_their_own_groups(generator: np.random.Generator) -> None:
    """ggml's and MLX's rounding, and codebooks of rows: the last column of a row has nothing after it, so that its error is
    that of rounding; and what GPTQ leaves is far better than rounding to nearest."""
    k = 256
    gram = gram_of(activations(generator, 600, k))
    weights = weights_of(generator, 40, k)
    schemes = {name: scheme for name, scheme in all_schemes(32).items() if "ggml" in name or name == "mlx"}
    books = int4q.fit_row_codebooks(weights).values
    schemes["codebooks of rows"] = int4q.Scheme.codebook(books, int4q.PER_ROW, scale_rule=int4q.ScaleRule.ONE)
    for name, scheme in schemes.items():
        tensor, report = int4q.gptq(weights, gram, scheme)
        exact = gptq_reference.losses(weights, exact_weights(tensor), gram.matrix(), 600)
        baseline = gptq_reference.losses(weights, exact_weights(int4q.quantize(weights, scheme)), gram.matrix(), 600)
        assert (exact <= baseline * (1 + 1e-9)).all()
        assert exact.sum() < 0.75 * baseline.sum(), name
        np.testing.assert_allclose(report.loss, exact.sum(), rtol=1e-3)


@pytest.mark.parametrize("clear", [False, True])
def test_dead_channels(clear: bool, generator: np.random.Generator) -> None:
    x = activations(generator, 300, 100)
    dead = [0, 17, 18, 63, 99]
    x[:, dead] = 0
    gram, weights = gram_of(x), weights_of(generator, 40, 100)
    for order in ORDERS:
        compare(weights, gram, int4q.Scheme.symmetric(16, scale_type=int4q.Type.F32), order, order=order, clear_dead=clear,
                static_groups=order == "activations")
    tensor, report = int4q.gptq(weights, gram, int4q.Scheme.symmetric(16), clear_dead_channels=clear)
    assert report.dead_channels == 5
    assert ((tensor.code_matrix()[:, dead] == 8).all()) == clear


@pytest.mark.parametrize("samples", [1, 3, 60])
def test_fewer_samples_than_channels(samples: int, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, samples, 130)), weights_of(generator, 20, 130)
    tensor, report = int4q.gptq(weights, gram, int4q.Scheme.asymmetric(32))
    assert report.rows == samples and report.retries == 0
    assert report.loss < 0.2 * report.nearest_loss
    exact = gptq_reference.losses(weights, tensor.dequantize(), gram.matrix(), samples)
    assert exact.sum() < 0.2 * report.nearest_loss


def test_a_gram_matrix_that_has_seen_nothing(generator: np.random.Generator) -> None:
    weights = weights_of(generator, 20, 50)
    tensor, report = int4q.gptq(weights, GramMatrix(50), int4q.Scheme.symmetric(32))
    assert np.array_equal(tensor.codes, int4q.quantize(weights, int4q.Scheme.symmetric(32)).codes)
    assert (report.rows, report.dead_channels, report.loss, report.nearest_rows) == (0, 50, 0.0, 20)


def test_damping_is_raised_where_it_must_be(generator: np.random.Generator) -> None:
    x = activations(generator, 500, 60)
    x[:, 30] = x[:, 29] * 2  # singular
    gram, weights = gram_of(x), weights_of(generator, 20, 60)
    _, report = int4q.gptq(weights, gram, damping=0.0, damping_step=0.005)
    assert report.retries == 1 and report.damping == 0.005
    with pytest.raises(int4q.InvalidArgumentError, match=r"options\.damping is 0; expected a damping with which"):
        int4q.gptq(weights, gram, damping=0.0, attempts=1)
    _, report = int4q.gptq(weights, gram, damping=0.02)
    assert report.retries == 0 and report.damping == 0.02


def test_gptq_refuses_what_is_not_finite(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 100, 40)), weights_of(generator, 300, 40)
    weights[123, 7] = np.nan
    with int4q.Pool(2) as pool, pytest.raises(int4q.NotFiniteError, match="row 123, column 7"):
        int4q.gptq(weights, gram, pool=pool)
    weights[123, 7] = 1e30
    with pytest.raises(int4q.NotFiniteError, match="row 123"):
        int4q.gptq(weights, gram, int4q.Scheme.symmetric(32, scale_type=int4q.Type.F16))
    assert int4q.gptq(weights, gram, int4q.Scheme.symmetric(32, scale_type=int4q.Type.F32))[1].loss > 0
    with pytest.raises(int4q.MismatchError, match="gram is 41"):
        int4q.gptq(weights, GramMatrix(41))


def test_huge_and_tiny_numbers(generator: np.random.Generator) -> None:
    for size in (2.0**50, 2.0**-50):
        x = activations(generator, 300, 64) * np.float32(size)
        weights = weights_of(generator, 20, 64) * np.float32(1 / size)
        gram = gram_of(x)
        scheme = int4q.Scheme.symmetric(32, scale_type=int4q.Type.F32)
        tensor, report = int4q.gptq(weights, gram, scheme)
        compare(weights, gram, scheme, f"size {size}")
        assert report.loss < 0.9 * report.nearest_loss


def test_gptq_has_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 400, 330)), weights_of(generator, 150, 330)
    for name, scheme in all_schemes(32).items():
        expected, report = int4q.gptq(weights, gram, scheme)
        for workers in (2, 3):
            with int4q.Pool(workers) as pool:
                tensor, other = int4q.gptq(weights, gram, scheme, pool=pool)
            assert np.array_equal(tensor.codes, expected.codes) and tensor.scales.tobytes() == expected.scales.tobytes()
            assert other == report
        for isa in available_isas():
            with int4q.set_isa_limit(isa):
                tensor, other = int4q.gptq(weights, gram, scheme)
            assert np.array_equal(tensor.codes, expected.codes), (name, isa)
            assert tensor.scales.tobytes() == expected.scales.tobytes() and other == report
    alone, _ = int4q.gptq(weights[77:78], gram, scheme)
    assert np.array_equal(alone.codes, expected.codes[77:78])


@pytest.mark.parametrize("common", [0.0, 0.3, 5.0])
def test_the_loss_of_rounding_to_nearest_need_not_be_whole(common: float, generator: np.random.Generator) -> None:
    x = generator.standard_normal((700, 520)) + common * generator.standard_normal((700, 1))
    gram, weights = gram_of(x.astype(np.float32)), weights_of(generator, 150, 520)
    tensor, report = int4q.gptq(weights, gram)
    same, other = int4q.gptq(weights, gram, measure_nearest=False)
    assert np.array_equal(tensor.codes, same.codes) and tensor.scales.tobytes() == same.scales.tobytes()
    assert other.loss == report.loss and other.nearest_rows == report.nearest_rows
    assert report.loss < other.nearest_loss <= report.nearest_loss
    assert common == 0 or other.nearest_loss < report.nearest_loss


@pytest.mark.parametrize("element_type", [int4q.Type.F16, int4q.Type.BF16], ids=lambda t: t.name)
def test_gptq_of_narrow_weights(element_type: int4q.Type, generator: np.random.Generator) -> None:
    gram = gram_of(activations(generator, 200, 70))
    weights = in_type(weights_of(generator, 20, 70), element_type)
    tensor, report = int4q.gptq(weights, gram, element_type=element_type)
    same, again = int4q.gptq(as_float32(weights), gram)
    assert np.array_equal(tensor.codes, same.codes) and report == again


def test_progress(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 200, 150)), weights_of(generator, 700, 150)
    calls: list[tuple[int, int]] = []
    int4q.gptq(weights, gram, progress=lambda done, total: calls.append((done, total)))
    totals = {total for _, total in calls}
    assert len(totals) == 1 and calls[-1][0] == calls[-1][1] and len(calls) > 4
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    for stop in (0, 2, len(calls) - 1):
        count = iter(range(1000))
        with pytest.raises(int4q.CancelledError, match="options.progress"):
            int4q.gptq(weights, gram, progress=lambda done, total, count=count, stop=stop: next(count) == stop)

    def fail(done: int, total: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        int4q.gptq(weights, gram, progress=fail)
