"""SmoothQuant, AWQ, coordinate descent and HQQ against float64 re-derivations of their definitions."""

from __future__ import annotations

import gptq_reference
import numpy as np
import pytest
import reconstruction_reference as methods
import reference
from conftest import all_schemes, as_float32, available_isas, exact_weights, in_type
from test_reconstruction import activations, gram_of, weights_of

import int4q
from int4q import GramMatrix

# ---- SmoothQuant ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_column_maxima(element_type: int4q.Type, generator: np.random.Generator) -> None:
    first, second = (in_type(weights_of(generator, n, 533), element_type) for n in (70, 3))
    found = int4q.column_maxima(first, second, element_type=element_type)
    assert np.array_equal(found, np.abs(np.concatenate([as_float32(first), as_float32(second)])).max(axis=0))
    assert np.array_equal(
        int4q.column_maxima(first[::3, :100], element_type=element_type), np.abs(as_float32(first)[::3, :100]).max(axis=0)
    )
    bad = weights_of(generator, 4, 533)
    bad[2, 300] = np.nan
    with pytest.raises(int4q.NotFiniteError, match="row 2, column 300"):
        int4q.column_maxima(bad)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.85, 1.0])
def test_smooth_factors(alpha: float, generator: np.random.Generator) -> None:
    x, w = np.exp(4 * generator.standard_normal((2, 200))).astype(np.float32)
    x[[3, 9]] = 0
    w[[9, 77]] = 0
    x[20], w[20] = 1e-30, 1e30
    factors = int4q.smooth_factors(x, w, alpha)
    np.testing.assert_allclose(factors, methods.smooth_factors(x, w, alpha), rtol=1e-6)
    assert (factors[[3, 9, 77]] == 1).all() and factors[20] == np.float32(1e-5)


def test_smooth_factors_refuse() -> None:
    one = np.ones(3, np.float32)
    for alpha in (-0.1, 1.1, np.nan):
        with pytest.raises(int4q.InvalidArgumentError, match="alpha"):
            int4q.smooth_factors(one, one, alpha)
    for value in (-1, np.nan, np.inf):
        with pytest.raises(int4q.InvalidArgumentError, match="weight_maxima"):
            int4q.smooth_factors(one, [1, value, 1])
    with pytest.raises(int4q.NotFiniteError, match="x_maxima"):
        int4q.smooth_factors([1, 1e38, 1], [1, 1e-42, 1], 0.5)


def test_smoothing_keeps_the_layer_s_outputs(generator: np.random.Generator) -> None:
    """And evens out what is hard to quantize: with alpha 0.5 both maxima become their geometric mean."""
    x, weights = activations(generator, 60, 90), weights_of(generator, 40, 90)
    gram = gram_of(x)
    factors = int4q.smooth_factors(gram.channels()["max_magnitude"], int4q.column_maxima(weights))
    smoothed, scaled = int4q.scale_columns(x, factors, divide=True), int4q.scale_columns(weights, factors)
    np.testing.assert_array_equal(scaled, weights * factors)
    np.testing.assert_array_equal(smoothed, x / factors)
    np.testing.assert_allclose(np.abs(smoothed).max(axis=0), np.abs(scaled).max(axis=0), rtol=1e-5)
    exact = x.astype(np.float64) @ weights.T
    np.testing.assert_allclose(smoothed.astype(np.float64) @ scaled.T, exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("divide", [False, True])
def test_scale_columns(element_type: int4q.Type, divide: bool, generator: np.random.Generator) -> None:
    matrix = weights_of(generator, 9, 700)
    matrix[2, 5], matrix[3, 600] = np.inf, np.nan
    factors = np.exp(generator.standard_normal(700)).astype(np.float32)
    source = in_type(matrix, element_type)
    values = as_float32(source)
    expected = values / factors if divide else values * factors
    for target in int4q.Type:
        found = int4q.scale_columns(source, factors, divide=divide, dtype=target, element_type=element_type)
        np.testing.assert_array_equal(as_float32(found), as_float32(in_type(expected, target)))
    for value in (0, -1, np.nan, np.inf):
        factors[77] = value
        with pytest.raises(int4q.InvalidArgumentError, match="factors"):
            int4q.scale_columns(matrix, factors)


# ---- AWQ -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [16, 64, int4q.PER_ROW])
@pytest.mark.parametrize("k", [40, 130, 300])
def test_awq_scales(k: int, group_size: int, generator: np.random.Generator) -> None:
    x = activations(generator, 300, k) * np.exp(generator.standard_normal(k)).astype(np.float32)
    gram, weights = gram_of(x), weights_of(generator, 21, k)
    magnitudes = np.abs(x.astype(np.float64)).mean(axis=0)
    for name, scheme in all_schemes(group_size).items():
        if k == 300 and name not in ("symmetric-default-full", "asymmetric"):
            continue
        found = int4q.awq_scales(weights, gram, scheme, steps=6)
        candidates = [np.ones(k, np.float32), *methods.awq_candidates(weights, magnitudes, scheme, 6)]
        expected = [methods.awq_loss(weights, scales, gram.matrix(), 300, scheme) for scales in candidates]
        step = -1 if found.ratio is None else round(found.ratio * 6)
        np.testing.assert_allclose(found.scales, candidates[step + 1], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(found.plain_loss, expected[0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(found.loss, expected[step + 1], rtol=2e-3, err_msg=name)
        assert found.loss <= min(expected) * (1 + 2e-3), name
        assert found.loss <= found.plain_loss
        # What it tells is what its scales do.
        scaled = int4q.scale_columns(weights, found.scales)
        tensor = int4q.quantize(scaled, scheme)
        told = methods.losses((scaled - exact_weights(tensor)) / found.scales, gram.matrix()).sum() / 300
        np.testing.assert_allclose(found.loss, told, rtol=1e-5, err_msg=name)


def test_awq_scales_help_where_channels_are_unequal(generator: np.random.Generator) -> None:
    x = activations(generator, 400, 128)
    x[:, [5, 50, 111]] *= 30
    found = int4q.awq_scales(weights_of(generator, 48, 128), gram_of(x), int4q.Scheme.symmetric(64))
    assert found.ratio is not None and found.loss < 0.7 * found.plain_loss


def test_awq_scales_of_a_foreign_matrix(generator: np.random.Generator) -> None:
    """Where the means of |x| are not known the root mean squares stand for them."""
    x = activations(generator, 300, 70) * np.exp(generator.standard_normal(70)).astype(np.float32)
    weights, scheme = weights_of(generator, 20, 70), int4q.Scheme.symmetric(32)
    matrix = x.astype(np.float64).T @ x
    found = int4q.awq_scales(weights, GramMatrix.from_matrix(matrix, 300), scheme, steps=5)
    candidates = methods.awq_candidates(weights, np.sqrt(np.diag(matrix) / 300), scheme, 5)
    assert found.ratio is not None
    np.testing.assert_allclose(found.scales, candidates[round(found.ratio * 5)], rtol=1e-6)


def test_awq_scales_where_nothing_is_known(generator: np.random.Generator) -> None:
    found = int4q.awq_scales(weights_of(generator, 20, 70), GramMatrix(70))
    assert found.ratio is None and (found.scales == 1).all() and (found.loss, found.plain_loss) == (0, 0)


def test_awq_scales_have_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 200, 100)), weights_of(generator, 150, 100)
    expected = int4q.awq_scales(weights, gram, steps=4)
    for workers in (2, 3):
        with int4q.Pool(workers) as pool:
            found = int4q.awq_scales(weights, gram, steps=4, pool=pool)
        assert np.array_equal(found.scales, expected.scales) and (found.loss, found.ratio) == (expected.loss, expected.ratio)
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            found = int4q.awq_scales(weights, gram, steps=4)
        assert np.array_equal(found.scales, expected.scales) and found.loss == expected.loss


def test_awq_scales_refuse(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 100, 40)), weights_of(generator, 90, 40)
    with pytest.raises(int4q.MismatchError, match="gram is 41"):
        int4q.awq_scales(weights, GramMatrix(41))
    bad = weights.copy()
    bad[50, 7] = np.nan
    with pytest.raises(int4q.NotFiniteError, match="row 50, column 7"):
        int4q.awq_scales(bad, gram)
    with pytest.raises(int4q.NotFiniteError, match=r"scheme\.scale_type"):
        int4q.awq_scales(weights * 1e30, gram, int4q.Scheme.symmetric(32), steps=2)
    with pytest.raises(int4q.CancelledError, match="options.progress"):
        int4q.awq_scales(weights, gram, progress=lambda done, total: done == 2)
    calls: list[tuple[int, int]] = []
    int4q.awq_scales(weights, gram, steps=5, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(7)]

    def fail(done: int, total: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        int4q.awq_scales(weights, gram, progress=fail)


@pytest.mark.parametrize("group_size", [16, 64, 256, int4q.PER_ROW])
@pytest.mark.parametrize("k", [17, 77, 300])
def test_awq_clips(k: int, group_size: int, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 2 * k + 10, k)), weights_of(generator, 21, k)
    weights[3] = 0
    weights[:, 4] *= 6
    for name, scheme in all_schemes(group_size).items():
        clips, clipped = int4q.awq_clips(weights, gram, scheme)
        expected = methods.awq_clip_losses(weights, gram.matrix(), scheme, 20, 10)
        size = methods.group_size(scheme, k)
        largest = np.stack([np.abs(weights[:, i : i + size]).max(axis=1) for i in range(0, k, size)], axis=1)
        shares = np.array([np.float32(1 - i / 20) for i in range(10)])
        tried = largest * shares[:, None, None]
        chosen = np.abs(tried - clips).argmin(axis=0)
        assert np.array_equal(np.take_along_axis(tried, chosen[None], 0)[0], clips), name
        found = np.take_along_axis(expected, chosen[None], 0)[0]
        least = expected.min(axis=0)
        # Ties of rounding can go another way in float64: seldom, and not by much.
        assert (found <= least * 1.2 + 1e-30).all(), name
        assert (found <= least * (1 + 1e-5) + 1e-30).mean() > 0.97, name
        limits = np.repeat(clips, size, axis=1)[:, :k]
        assert np.array_equal(clipped, np.clip(weights, -limits, limits)), name
    bits = clipped.tobytes()
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert int4q.awq_clips(weights, gram, scheme)[1].tobytes() == bits


def test_awq_clips_of_codebooks_of_rows(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 200, 100)), weights_of(generator, 20, 100)
    scheme = int4q.Scheme.codebook(int4q.fit_row_codebooks(weights).values, 32)
    clips, clipped = int4q.awq_clips(weights, gram, scheme)
    expected = methods.awq_clip_losses(weights, gram.matrix(), scheme, 20, 10)
    matrix = gram.matrix()
    for group in range(4):
        columns = slice(32 * group, min(32 * group + 32, 100))
        values = methods.quantized(clipped[:, columns], scheme)
        found = methods.losses(weights[:, columns] - values, matrix[columns, columns])
        assert (found <= expected[:, :, group].min(axis=0) * 1.2).all()
        assert (found <= expected[:, :, group].min(axis=0) * (1 + 1e-5)).mean() > 0.9


def test_awq_clips_of_narrow_weights_and_hard_ones(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 100, 70)), in_type(weights_of(generator, 20, 70), int4q.Type.F16)
    clips, clipped = int4q.awq_clips(weights, gram)
    again, wide = int4q.awq_clips(as_float32(weights), gram)
    assert np.array_equal(clips, again) and np.array_equal(clipped, wide.astype(np.float16)) and clipped.dtype == np.float16
    huge = as_float32(weights)
    huge[5, 7] = 1e30  # no scale in binary16 with any clip
    clips, clipped = int4q.awq_clips(huge, gram)
    assert clips[5, 0] == np.float32(1e30) and np.array_equal(clipped[5, :32], huge[5, :32])
    assert np.array_equal(np.delete(clips, 5, axis=0), np.delete(again, 5, axis=0))
    huge[11, 69] = np.inf
    with pytest.raises(int4q.NotFiniteError, match="row 11, column 69"):
        int4q.awq_clips(huge, gram)
    with pytest.raises(int4q.InvalidArgumentError, match="tried is 21; expected 1 to steps, 20"):
        int4q.awq_clips(weights, gram, tried=21)


# ---- Coordinate descent --------------------------------------------------------------------------------------------


def stored(tensor: int4q.QuantizedTensor) -> tuple[np.ndarray, ...]:
    scales = as_float32(tensor.scales)
    zeros = tensor.zero_points if tensor.zero_points is not None else np.zeros(scales.shape, np.uint8)
    offsets = as_float32(tensor.offsets) if tensor.offsets is not None else np.zeros_like(scales)
    return tensor.code_matrix(), scales, zeros, offsets


def exact_losses(tensor: int4q.QuantizedTensor, weights: np.ndarray, gram: GramMatrix) -> np.ndarray:
    return gptq_reference.losses(weights, tensor.dequantize(), gram.matrix(), max(gram.rows, 1))


@pytest.mark.parametrize("k", [1, 40, 100])
@pytest.mark.parametrize("group_size", [16, 64, int4q.PER_ROW])
def test_descent(k: int, group_size: int, generator: np.random.Generator) -> None:
    x = activations(generator, 2 * k + 9, k)
    x[:, k // 2 + 1 : k // 2 + 2] = 0  # a dead channel
    gram, weights = gram_of(x), weights_of(generator, 17, k)
    for name, scheme in all_schemes(group_size).items():
        if k == 100 and name.endswith(("amax_7-full", "amax_7_5-full", "amax_7_5-restricted", "signed_max_8-full")):
            continue
        tensor = int4q.quantize(weights, scheme)
        before, start = exact_losses(tensor, weights, gram), stored(tensor)
        report = int4q.gram_descend(tensor, weights, gram, sweeps=30)
        after = exact_losses(tensor, weights, gram)
        assert (after <= before * (1 + 1e-6) + 1e-30).all(), name
        np.testing.assert_allclose([report.loss, report.start_loss], [after.sum(), before.sum()], rtol=1e-5, err_msg=name)
        codes, *others = stored(tensor)
        assert all(np.array_equal(a, b) for a, b in zip(others, start[1:])), name
        assert report.changed_codes == (codes != start[0]).sum() and report.changed_scales == 0
        expected = methods.descend(weights, *start, gram.matrix(), scheme, 30)
        # Rows that meet a tie may end elsewhere, no worse on the whole.
        assert (codes == expected).all(axis=1).mean() > 0.7, name
        assert int(codes.max()) <= 15 and (int(scheme.code_range) == 0 or codes.min() >= min(1, start[0].min()))
        # Nothing is left to be improved.
        again = methods.descend(weights, codes, *others, gram.matrix(), scheme, 1)
        assert (codes == again).mean() > 0.999, name


@pytest.mark.parametrize("group_size", [16, 64, int4q.PER_ROW])
def test_descent_with_scales(group_size: int, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 300, 130)), weights_of(generator, 35, 130)
    weights[4, :64] = 0
    for name, scheme in all_schemes(group_size).items():
        codes_alone, both = int4q.quantize(weights, scheme), int4q.quantize(weights, scheme)
        before, scales = exact_losses(both, weights, gram), as_float32(both.scales).copy()
        only = int4q.gram_descend(codes_alone, weights, gram, sweeps=20)
        report = int4q.gram_descend(both, weights, gram, sweeps=20, refit_scales=True)
        after = exact_losses(both, weights, gram)
        assert (after <= before * (1 + 1e-6) + 1e-30).all(), name
        np.testing.assert_allclose(report.loss, after.sum(), rtol=1e-5, err_msg=name)
        changed = as_float32(both.scales) != scales
        assert report.changed_scales == changed.sum() > 0, name
        assert (np.sign(as_float32(both.scales)) == np.sign(scales)).all()
        if group_size != 16:
            assert report.loss < 1.02 * only.loss, name
        # A scale's neighbours in its type are no better than it, where a sweep has ended without a change.
        if report.sweeps < 20 and scheme.scale_type == int4q.Type.F16:
            for row, group in np.argwhere(changed)[:20]:
                kept = both.scales[row, group]
                for neighbour in (np.nextafter(kept, np.float16(np.inf)), np.nextafter(kept, np.float16(-np.inf))):
                    both.scales[row, group] = neighbour
                    assert exact_losses(both, weights, gram)[row] >= after[row] * (1 - 1e-5), name
                both.scales[row, group] = kept


def test_descent_after_gptq(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 500, 200)), weights_of(generator, 50, 200)
    for name, scheme in all_schemes(32).items():
        tensor, report = int4q.gptq(weights, gram, scheme)
        found = int4q.gram_descend(tensor, weights, gram)
        np.testing.assert_allclose(found.start_loss, report.loss, rtol=1e-3, err_msg=name)
        assert found.loss < 0.99 * found.start_loss, name


def test_descent_of_row_codebooks_and_unit_scales(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 300, 90)), weights_of(generator, 33, 90)
    books = int4q.fit_row_codebooks(weights).values
    for scheme in (
        int4q.Scheme.codebook(books, int4q.PER_ROW, scale_rule=int4q.ScaleRule.ONE),
        int4q.Scheme.codebook(books, 32, scale_type=int4q.Type.BF16),
    ):
        tensor = int4q.quantize(weights, scheme)
        start = stored(tensor)
        report = int4q.gram_descend(tensor, weights, gram, sweeps=30)
        assert report.loss < 0.8 * report.start_loss
        expected = methods.descend(weights, *start, gram.matrix(), scheme, 30)
        assert (tensor.code_matrix() == expected).all(axis=1).mean() > 0.7
    tensor = int4q.quantize(weights, int4q.Scheme.codebook(books, int4q.PER_ROW, scale_rule=int4q.ScaleRule.ONE))
    with pytest.raises(int4q.UnsupportedError, match=r"options\.flags"):
        int4q.gram_descend(tensor, weights, gram, refit_scales=True)


def test_descent_has_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 400, 330)), weights_of(generator, 300, 330)

    def run(scheme: int4q.Scheme, threads: int) -> tuple[bytes, bytes]:
        tensor = int4q.quantize(weights, scheme)
        int4q.gram_descend(tensor, weights, gram, sweeps=3, refit_scales=True, threads=threads)
        return tensor.codes.tobytes(), tensor.scales.tobytes()

    for name, scheme in {"s": int4q.Scheme.symmetric(64), "o": int4q.Scheme.offset(128)}.items():
        expected = run(scheme, 1)
        assert run(scheme, 2) == expected, name
        for isa in available_isas():
            with int4q.set_isa_limit(isa):
                assert run(scheme, 1) == expected, (name, isa)


def test_descent_leaves_alone_what_it_cannot_improve(generator: np.random.Generator) -> None:
    weights = weights_of(generator, 20, 60)
    tensor = int4q.quantize(weights, int4q.Scheme.asymmetric(32))
    before = tensor.codes.tobytes()
    diagonal = GramMatrix.from_matrix(np.diag(generator.random(60) + 0.5), 10)
    for gram in (GramMatrix(60), diagonal):
        report = int4q.gram_descend(tensor, weights, gram)
        assert tensor.codes.tobytes() == before and report.changed_codes == 0 and report.sweeps == 1
    weights[17, 33] = np.nan
    with pytest.raises(int4q.NotFiniteError, match="row 17, column 33"):
        int4q.gram_descend(tensor, weights, diagonal)
    with pytest.raises(int4q.MismatchError, match="gram is 61"):
        int4q.gram_descend(tensor, weights, GramMatrix(61))


# ---- HQQ -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [16, 64, 256, int4q.PER_ROW])
@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("size", [0.02, 3.0])
def test_hqq(size: float, scale_type: int4q.Type, group_size: int, generator: np.random.Generator) -> None:
    weights = (generator.standard_normal((21, 300)) * size).astype(np.float32)
    weights[generator.random(weights.shape) < 0.01] *= 5
    weights[2, :64] = 0.25
    weights[3] = 0
    scheme = int4q.Scheme.offset(group_size, scale_type=scale_type)
    length = methods.group_size(scheme, 300)
    tensor, plain = int4q.hqq(weights, scheme), int4q.quantize(weights, scheme)
    values = exact_weights(tensor)
    assert np.array_equal(as_float32(tensor.scales), as_float32(plain.scales))
    same = 0
    for row in range(21):
        for group, begin in enumerate(range(0, 300, length)):
            columns = slice(begin, min(begin + length, 300))
            expected, _, offset = methods.hqq_group(weights[row, columns], scheme, 0.7, 10.0, 20)
            same += as_float32(tensor.offsets)[row, group] == np.float32(offset)
            if as_float32(tensor.offsets)[row, group] == np.float32(offset):
                differs = np.abs(values[row, columns] - expected) > 1e-6 * size
                assert differs.mean() < 0.02  # ties
    assert same >= 0.95 * tensor.offsets.size
    mean = np.abs(values - weights).reshape(21, -1).mean(axis=1)
    before = np.abs(exact_weights(plain) - weights).mean(axis=1)
    assert (mean <= before * (1 + 1e-6) + 1e-12).all()
    assert mean.sum() < 0.9999 * before.sum()


def test_hqq_options(generator: np.random.Generator) -> None:
    weights = (3 * generator.standard_normal((20, 130))).astype(np.float32)
    scheme = int4q.Scheme.offset(64, scale_type=int4q.Type.F32)
    plain = int4q.quantize(weights, scheme)
    none = int4q.hqq(weights, scheme, iterations=0)
    assert np.array_equal(none.codes, plain.codes) and np.array_equal(none.offsets, plain.offsets)
    for p, beta, iterations in ((0.5, 3.0, 7), (1.0, 20.0, 3)):
        tensor = int4q.hqq(weights, scheme, p=p, beta=beta, iterations=iterations)
        expected = [
            [methods.hqq_group(weights[row, begin : begin + 64], scheme, p, beta, iterations)[2] for begin in (0, 64, 128)]
            for row in range(20)
        ]
        assert (tensor.offsets == np.array(expected, np.float32)).mean() > 0.95
    for options, name in (({"p": 0}, "p"), ({"p": 1.1}, "p"), ({"beta": 0}, "beta"), ({"iterations": -1}, "iterations")):
        with pytest.raises(int4q.InvalidArgumentError, match=rf"options\.{name}"):
            int4q.hqq(weights, scheme, **options)
    for other in (int4q.Scheme.asymmetric(64), int4q.Scheme.mlx(64)):
        with pytest.raises(int4q.UnsupportedError, match=r"tensor\.scheme"):
            int4q.hqq(weights, other)
    weights[13, 129] = np.inf
    with pytest.raises(int4q.NotFiniteError, match="row 13, column 129"):
        int4q.hqq(weights, scheme)


def test_hqq_has_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    weights = (3 * generator.standard_normal((40, 130))).astype(np.float32)
    expected = int4q.hqq(weights)
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            found = int4q.hqq(weights, threads=2)
        assert np.array_equal(found.codes, expected.codes) and found.offsets.tobytes() == expected.offsets.tobytes()
    narrow = in_type(weights, int4q.Type.BF16)
    found = int4q.hqq(narrow, element_type=int4q.Type.BF16)
    assert np.array_equal(found.codes, int4q.hqq(as_float32(narrow)).codes)
