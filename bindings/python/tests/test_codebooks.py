"""Codebooks, nibbles and the textbook quantizer against bitsandbytes, kmeans1d (golden files) and NumPy."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import int4q

GOLDEN = np.load(pathlib.Path(__file__).resolve().parent / "golden" / "codebooks.npz")
ONE = int4q.ScaleRule.ONE


def sqnr(values: np.ndarray, back: np.ndarray) -> float:
    return float(10 * np.log10((values.astype(np.float64) ** 2).sum() / ((values.astype(np.float64) - back) ** 2).sum()))


# ---- Known codebooks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "name"), [(int4q.Codebook.NF4, "nf4"), (int4q.Codebook.FP4_BITSANDBYTES, "fp4")]
)
def test_equals_bitsandbytes(which: int4q.Codebook, name: str) -> None:
    values = int4q.codebook_values(which)
    np.testing.assert_array_equal(np.float32(values), GOLDEN[f"{name}_table"])
    scheme = int4q.Scheme.codebook(values, 64, scale_type=int4q.Type.F32)
    tensor = int4q.quantize(GOLDEN["source"], scheme)
    np.testing.assert_array_equal(tensor.scales[:, 0], GOLDEN["absmax"])
    for row, source, absmax, packed in zip(tensor.code_matrix(), GOLDEN["source"], GOLDEN["absmax"], GOLDEN[name]):
        theirs = int4q.unpack_nibbles(packed, order=int4q.NibbleOrder.HIGH_FIRST, signed=False)
        if which == int4q.Codebook.NF4:
            np.testing.assert_array_equal(row, theirs)
            continue
        # FP4 has two zeros, of which bitsandbytes uses both; and on ties it takes the smaller value, not the lower code.
        ours, other = np.float32(values)[row], np.float32(values)[theirs]
        is_tie = (source / absmax == (ours + other) / np.float32(2)) & (other < ours) & (theirs > row)
        assert (is_tie | (ours == other)).all()


def test_powers_of_two_round_in_logarithms(generator: np.random.Generator) -> None:
    values = int4q.codebook_values(int4q.Codebook.POWERS_OF_TWO)
    scheme = int4q.Scheme.codebook(values, int4q.PER_ROW, scale_rule=ONE, rounding=int4q.Rounding.NEAREST_LOG)
    x = generator.standard_normal((4, 1000)).astype(np.float32)
    back = int4q.quantize(x, scheme).dequantize()
    with np.errstate(divide="ignore"):
        exponent = np.minimum(np.rint(np.log2(np.abs(x.astype(np.float64)))), 0)
    lowest = np.where(x > 0, -6, -7)
    wanted = np.where(exponent < lowest, 0, np.sign(x) * np.exp2(exponent))
    np.testing.assert_array_equal(back, wanted)
    assert "all 1" in str(scheme) and "logarithm" in str(scheme)


def test_fifteen_bins_are_the_published_ones(generator: np.random.Generator) -> None:
    x = generator.standard_normal(1000).astype(np.float32)
    edges = np.linspace(np.float64(x.min()), np.float64(x.max()), 16)
    codes = np.clip(np.digitize(x, edges) - 1, 0, 14)
    values = int4q.linear_bins(x.min(), x.max(), 15)
    np.testing.assert_allclose(values[:15], (edges[:-1] + edges[1:]) / 2, rtol=1e-6, atol=1e-6)
    tensor = int4q.quantize(x[None], int4q.Scheme.codebook(values, int4q.PER_ROW, scale_rule=ONE))
    np.testing.assert_array_equal(tensor.code_matrix()[0], codes)


def test_schemes_survive_a_blob(generator: np.random.Generator) -> None:
    values = int4q.fit_codebook(generator.standard_normal((8, 64)).astype(np.float32)).values
    for rounding in (int4q.Rounding.NEAREST_EVEN, int4q.Rounding.NEAREST_LOG):
        scheme = int4q.Scheme.codebook(values, 32, scale_rule=ONE, rounding=rounding)
        weights = generator.standard_normal((20, 70)).astype(np.float32)
        tensor = int4q.quantize(weights, scheme)
        assert (tensor.scales == 1).all()
        blob = int4q.Blob.quantize(weights, scheme)
        assert blob.scheme == scheme and bytes(blob.data) == bytes(tensor.pack().data)


# ---- Fitting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal", "laplace", "cauchy", "integers", "offset", "seventeen"])
def test_equals_kmeans1d(name: str) -> None:
    sample, centroids = GOLDEN[f"sample_{name}"], GOLDEN[f"centroids_{name}"]
    fit = int4q.fit_codebook(sample[None])

    def error(values: np.ndarray) -> float:
        distance = np.abs(sample.astype(np.float64)[:, None] - np.float32(values).astype(np.float64)).min(axis=1)
        return float((distance**2).mean())

    assert fit.mse == pytest.approx(error(np.float32(fit.values)), rel=1e-9)
    assert error(np.float32(fit.values)) <= error(centroids) * (1 + 1e-6)
    if name in ("normal", "laplace"):  # one optimum only
        np.testing.assert_allclose(fit.values, centroids, rtol=2e-6, atol=2e-7)


def test_fit_reaches_the_gaussian_optimum(generator: np.random.Generator) -> None:
    x = generator.standard_normal((1000, 1000)).astype(np.float32)
    fit = int4q.fit_codebook(x)
    assert 10 * np.log10((x.astype(np.float64) ** 2).mean() / fit.mse) == pytest.approx(20.22, abs=0.02)
    scheme = int4q.Scheme.codebook(fit.values, int4q.PER_ROW, scale_rule=ONE, scale_type=int4q.Type.F32)
    back = int4q.quantize(x, scheme).dequantize()
    assert ((x.astype(np.float64) - back) ** 2).mean() == pytest.approx(fit.mse, rel=1e-9)
    half = int4q.fit_codebook(x.astype(np.float16))
    assert half.mse == pytest.approx(fit.mse, rel=2e-4)


def test_fit_with_importances_rows_and_errors(generator: np.random.Generator) -> None:
    x = generator.standard_normal((6, 50)).astype(np.float32)
    column = np.exp(generator.standard_normal(50)).astype(np.float32)
    by_column = int4q.fit_codebook(x, column)
    assert by_column == int4q.fit_codebook(x, np.broadcast_to(column, x.shape))
    assert int4q.fit_codebook(x, rows=(2, 5)) == int4q.fit_codebook(x[2:5])
    assert int4q.fit_codebook(x[::2]) == int4q.fit_codebook(x[::2].copy())
    with pytest.raises(ValueError, match="importance has shape"):
        int4q.fit_codebook(x, np.ones(49, np.float32))
    x[3, 7] = np.nan
    with pytest.raises(int4q.NotFiniteError, match="row 3, column 7"):
        int4q.fit_codebook(x)
    with pytest.raises(int4q.InvalidArgumentError, match="weights of 0 or more"):
        int4q.fit_codebook(x[:2], np.full(50, -1, np.float32))


# ---- Nibbles and whole arrays --------------------------------------------------------------------------------------


@given(st.lists(st.integers(-8, 7), max_size=100), st.sampled_from(list(int4q.NibbleOrder)), st.sampled_from([None, 2, 8]))
def test_nibbles_round_trip(values: list[int], order: int4q.NibbleOrder, block: int | None) -> None:
    if order != int4q.NibbleOrder.SPLIT_HALF:
        block = None
    for dtype, offset in ((np.int8, 0), (np.uint8, 8)):
        array = (np.int64(values) + offset).astype(dtype)
        packed = int4q.pack_nibbles(array, order, block=block)
        back = int4q.unpack_nibbles(packed, len(array), order, block=block, signed=dtype == np.int8)
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, array)


def test_nibbles_in_published_orders() -> None:
    assert int4q.pack_nibbles(np.int8([1, -2, 3])).tolist() == [0xE1, 0x03]
    assert int4q.pack_nibbles(np.uint8([1, 2, 3]), int4q.NibbleOrder.HIGH_FIRST).tolist() == [0x12, 0x30]
    split = int4q.pack_nibbles(np.uint8([i % 16 for i in range(33)]), int4q.NibbleOrder.SPLIT_HALF)
    assert split.tolist() == [i * 17 for i in range(16)] + [0] * 16
    with pytest.raises(int4q.InvalidArgumentError, match="16 at index 2"):
        int4q.pack_nibbles(np.uint8([0, 15, 16]))
    with pytest.raises(TypeError, match="int8 or uint8"):
        int4q.pack_nibbles([1.0])


def published(values: list[float], absmax: bool) -> tuple[np.ndarray, np.float32]:
    """The published recipe, re-derived: float32 throughout, eight bits before clipping."""
    x = np.float32(values)
    scale = np.abs(x).max() / np.float32(7) if absmax else (x.max() - x.min()) / np.float32(15)
    scale = scale if scale != 0 else np.float32(1)
    wide = np.rint(x / scale).astype(np.int64)
    return np.clip(wide.astype(np.int8), -8, 7), scale


def test_published_quantizer_bug_for_bug(generator: np.random.Generator) -> None:
    for index in range(200):
        values = (generator.standard_normal(20) * 10.0 ** generator.integers(-3, 3) + 100 * (index % 3)).tolist()
        for method in int4q.Int4Method:
            got = int4q.quantize_int4(values, method, published=True)
            codes, scale = published(values, method == int4q.Int4Method.ABSMAX)
            np.testing.assert_array_equal(got.codes, codes)
            assert (np.float32(got.scale), got.zero_point) == (scale, 0)
    packed = int4q.pack_nibbles(int4q.quantize_int4([0.1, 0.5, -1.3, 2.7, 3.9, -0.8, 5.2, -4.7], published=True).codes)
    assert packed.view(np.int8).tolist() == [16, 78, -10, -105]


def test_default_quantizer_does_not_saturate(generator: np.random.Generator) -> None:
    values = 100 + generator.standard_normal((3, 50))
    for method in int4q.Int4Method:
        quantized = int4q.quantize_int4(values, method)
        assert quantized.codes.shape == values.shape
        error = np.abs(int4q.dequantize_int4(quantized) - values).max()
        assert error <= 0.501 * quantized.scale
