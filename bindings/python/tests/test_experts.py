"""Mixtures of experts: each row as by its own matrix, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CODEBOOK, as_float32, available_isas, four_kinds, in_type
from hypothesis import given
from hypothesis import strategies as st

import int4q

ISAS = available_isas()
MODES = [int4q.Mode.F32, int4q.Mode.INT8, int4q.Mode.BF16]  # BINARY, and other widths: test_widths.py
SILU = int4q.Activation.SILU


def some_blobs(generator: np.random.Generator, count: int, n: int, k: int,
               scheme: int4q.Scheme | None = None) -> list[int4q.Blob]:
    return [int4q.Blob.quantize(generator.standard_normal((n, k)).astype(np.float32), scheme) for _ in range(count)]


def row_by_row(experts: int4q.Experts, x: np.ndarray, chosen: np.ndarray, **options: object) -> np.ndarray:
    """y[m][n] from products of one row with one matrix each; zeros for rows without an expert."""
    per_expert = {name: options.pop(name) for name in ("bias", "up_bias") if options.get(name) is not None}
    residual = options.pop("residual", None)
    rows = []
    for i, expert in enumerate(chosen):
        steps = {name: value[expert] for name, value in per_expert.items()}
        if residual is not None:
            steps["residual"] = residual[i : i + 1]
        if experts.up_blobs is not None:
            steps["up"] = experts.up_blobs[expert]
        y = experts.blobs[expert].matmul(x[i : i + 1], **steps, **options)
        rows.append(y if expert >= 0 else np.zeros_like(y))
    return np.concatenate(rows)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", list(four_kinds()))
def test_each_row_has_its_expert(
    name: str, mode: int4q.Mode, isa: int4q.Isa, generator: np.random.Generator
) -> None:
    experts = int4q.Experts(some_blobs(generator, 5, 50, 96, four_kinds()[name]))
    assert len(experts) == 5 and (experts.n, experts.k) == (50, 96)
    x = generator.standard_normal((40, 96)).astype(np.float32)
    chosen = generator.integers(0, 5, 40)
    with int4q.set_isa_limit(isa):
        expected = row_by_row(experts, x, chosen, mode=mode)
        assert experts.matmul(x, chosen, mode=mode).tobytes() == expected.tobytes()
        for workers in (1, 2, 3):
            with int4q.Pool(workers) as pool:
                assert experts.matmul(x, chosen, mode=mode, pool=pool).tobytes() == expected.tobytes()


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 9),
    m=st.integers(1, 70),
    n=st.integers(1, 40),
    k=st.integers(1, 100),
    gated=st.booleans(),
    activation=st.sampled_from(list(int4q.Activation)),
    mode=st.sampled_from(MODES),
    types=st.tuples(*[st.sampled_from(list(int4q.Type))] * 3),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    skewed=st.booleans(),
)
def test_any_mixture(seed: int, count: int, m: int, n: int, k: int, gated: bool, activation: int4q.Activation,
                     mode: int4q.Mode, types: tuple[int4q.Type, int4q.Type, int4q.Type], with_bias: bool,
                     with_residual: bool, skewed: bool) -> None:
    """Experts with many rows, one or none, rows without an expert, and every step."""
    generator = np.random.default_rng(seed)
    ups = some_blobs(generator, count, n, k) if gated else None
    experts = int4q.Experts(some_blobs(generator, count, n, k), ups)
    x_type, y_type, residual_type = types
    if int4q.Type.BF16 not in (x_type, y_type):
        residual_type = int4q.Type.F32  # bfloat16 as bits counts beside bfloat16 only
    x = in_type(generator.standard_normal((m, k)).astype(np.float32), x_type)
    chosen = np.zeros(m, np.int64) if skewed else generator.integers(-1, count, m)
    options = {"activation": activation, "mode": mode, "dtype": y_type, "element_type": x_type}
    if with_bias:
        options["bias"] = generator.standard_normal((count, n)).astype(np.float32)
        if gated:
            options["up_bias"] = generator.standard_normal((count, n)).astype(np.float32)
    if with_residual:
        options["residual"] = in_type(generator.standard_normal((m, n)).astype(np.float32), residual_type)
    expected = row_by_row(experts, x, chosen, **options)
    assert experts.matmul(x, chosen, **options).tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_against_float64(mode: int4q.Mode, generator: np.random.Generator) -> None:
    """The formula of a gated mixture, without the library's own products."""
    gates, ups = some_blobs(generator, 4, 64, 96), some_blobs(generator, 4, 64, 96)
    x = generator.standard_normal((30, 96)).astype(np.float32)
    bias = generator.standard_normal((4, 64)).astype(np.float32)
    chosen = generator.integers(0, 4, 30)
    y = int4q.Experts(gates, ups).matmul(x, chosen, activation=SILU, bias=bias, mode=mode)
    exact = np.empty((30, 64))
    for i, expert in enumerate(chosen):
        gate, up = (some[expert].unpack().dequantize().astype(float) @ x[i] for some in (gates, ups))
        gate = gate + bias[expert]
        exact[i] = gate / (1 + np.exp(-gate)) * up
    assert np.linalg.norm(y - exact) < {int4q.Mode.F32: 1e-5, int4q.Mode.INT8: 0.03, int4q.Mode.BF16: 0.01}[
        mode
    ] * np.linalg.norm(exact)


def test_rows_without_an_expert(generator: np.random.Generator) -> None:
    experts = int4q.Experts(some_blobs(generator, 3, 20, 40))
    x = generator.standard_normal((6, 40)).astype(np.float32)
    chosen = np.asarray([-1, 2, -1, 0, 0, -1])
    y = experts.matmul(x, chosen)
    assert not y[chosen < 0].any()
    np.testing.assert_array_equal(y[1], experts.blobs[2].matmul(x[1]))
    out = np.full((6, 20), 7, np.float32)
    assert experts.matmul(x, chosen, out=out) is out
    assert (out[chosen < 0] == 7).all()
    np.testing.assert_array_equal(out[chosen >= 0], y[chosen >= 0])
    nobody = experts.matmul(x, np.full(6, -1), residual=np.ones((6, 20)))
    assert not nobody.any()
    for bad in (np.nan, np.inf):
        x[0] = bad
        np.testing.assert_array_equal(experts.matmul(x, chosen), y)


def test_residual_in_place(generator: np.random.Generator) -> None:
    experts = int4q.Experts(some_blobs(generator, 3, 20, 40))
    x = generator.standard_normal((6, 40)).astype(np.float32)
    chosen = np.asarray([1, -1, 2, 0, 0, 1])
    out = generator.standard_normal((6, 20)).astype(np.float32)
    before = out.copy()
    expected = np.where(chosen[:, None] >= 0, experts.matmul(x, chosen) + before, before)
    experts.matmul(x, chosen, residual=out, out=out)
    np.testing.assert_array_equal(out, expected)


def test_static_scales(generator: np.random.Generator) -> None:
    experts = int4q.Experts(some_blobs(generator, 3, 20, 64))
    x = generator.standard_normal((8, 64)).astype(np.float32)
    chosen = generator.integers(0, 3, 8)
    options = {"x_scales": np.asarray([0.02, 0.03], np.float32), "mode": int4q.Mode.INT8}
    np.testing.assert_array_equal(experts.matmul(x, chosen, **options), row_by_row(experts, x, chosen, **options))


def test_shapes_and_sources(generator: np.random.Generator) -> None:
    """Dimensions before the last, row_experts of any integer type and layout, experts that repeat."""
    experts = int4q.Experts(some_blobs(generator, 4, 20, 40))
    x = generator.standard_normal((2, 3, 40)).astype(np.float32)
    chosen = np.asarray([[0, 1, 2], [3, 3, -1]])
    y = experts.matmul(x, chosen)
    assert y.shape == (2, 3, 20)
    np.testing.assert_array_equal(y.reshape(6, 20), experts.matmul(x.reshape(6, 40), chosen.reshape(6)))
    for same in (chosen.astype(np.int8), chosen.astype(np.int32), np.asfortranarray(chosen), chosen.tolist()):
        assert experts.matmul(x, same).tobytes() == y.tobytes()
    np.testing.assert_array_equal(experts.matmul(x[0, 1], np.int64(1)), y[0, 1])
    assert experts.matmul(x[:0], chosen[:0]).shape == (0, 3, 20)
    half = experts.matmul(x, chosen, dtype=np.float16)
    np.testing.assert_array_equal(half, as_float32(y).astype(np.float16))
    twins = int4q.Experts([experts.blobs[1]] * 3)
    assert len({twins.matmul(x[0], [i] * 3).tobytes() for i in range(3)}) == 1


def test_codebooks_may_differ(generator: np.random.Generator) -> None:
    schemes = [int4q.Scheme.codebook(values) for values in (CODEBOOK, CODEBOOK[::-1], np.linspace(-1, 1, 16))]
    weights = generator.standard_normal((3, 20, 64)).astype(np.float32)
    experts = int4q.Experts([int4q.Blob.quantize(w, scheme) for w, scheme in zip(weights, schemes, strict=True)])
    x = generator.standard_normal((9, 64)).astype(np.float32)
    chosen = np.arange(9) % 3
    for mode in MODES:
        np.testing.assert_array_equal(experts.matmul(x, chosen, mode=mode), row_by_row(experts, x, chosen, mode=mode))


def test_many_experts(generator: np.random.Generator) -> None:
    """More experts than rows, and rows sorted the wrong way round."""
    experts = int4q.Experts(some_blobs(generator, 130, 17, 32))
    x = generator.standard_normal((100, 32)).astype(np.float32)
    chosen = np.arange(129, 29, -1)
    np.testing.assert_array_equal(experts.matmul(x, chosen), row_by_row(experts, x, chosen))


def test_wrong_experts() -> None:
    blob, affine = (int4q.Blob.quantize(np.ones((24, 40)), scheme) for scheme in (None, int4q.Scheme.offset()))
    other = int4q.Blob.quantize(np.ones((24, 48), np.float32))
    for arguments, error, message in (
        (([],), ValueError, "blobs is empty"),
        (([blob, other],), ValueError, r"blobs\[1\] is 24 x 48"),
        (([blob], [other]), ValueError, r"up_blobs\[0\] is 24 x 48"),
        (([blob, blob], [blob]), ValueError, "up_blobs has 1 blobs; expected 2"),
        (([blob, np.ones((24, 40))],), TypeError, r"blobs\[1\] is ndarray; expected a Blob"),
        (([blob, affine],), ValueError, r"blobs\[1\] is .*offset"),
    ):
        with pytest.raises(error, match=message):
            int4q.Experts(*arguments)
    assert "2 of 24 x 40" in repr(int4q.Experts([blob] * 2, [blob] * 2))


def test_wrong_arguments() -> None:
    experts = int4q.Experts([int4q.Blob.quantize(np.ones((24, 40), np.float32))] * 3)
    x = np.ones((2, 40), np.float32)
    for bad in (3, -2, 2**31 - 1):
        with pytest.raises(int4q.InvalidArgumentError, match=f"row_experts.*{bad}"):
            experts.matmul(x, [0, bad])
    for chosen, error, message in (
        ([0, 2**32], ValueError, "row_experts has numbers beyond 32 bits"),
        ([0], ValueError, r"row_experts has shape \(1,\); expected \(2,\)"),
        ([0.0, 1.0], TypeError, "row_experts has dtype float64; expected integers"),
    ):
        with pytest.raises(error, match=message):
            experts.matmul(x, chosen)
    for steps, message in (
        ({"bias": np.ones(24)}, r"bias has shape \(24,\); expected \(3, 24\)"),
        ({"up_bias": np.ones((3, 24))}, "up_bias is given without"),
        ({"residual": np.ones((1, 24))}, "residual has shape"),
        ({"x_scales": 1.0}, "x_scales is given in mode F32"),
        ({"out": np.empty((2, 25), np.float32)}, "out has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            experts.matmul(x, [0, 1], **steps)
