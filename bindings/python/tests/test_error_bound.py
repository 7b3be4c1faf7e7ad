"""Error bounds: never exceeded, and no larger than need be."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from accuracy import f32_bound
from conftest import all_schemes, as_float32, available_isas, exact_weights, four_kinds, in_type
from hypothesis import given
from hypothesis import strategies as st

import int4q
from int4q import _native

ISAS = available_isas()
MODES = [int4q.Mode.F32, int4q.Mode.INT8, int4q.Mode.BF16]  # BINARY, and other widths: test_widths.py
TYPES = list(int4q.Type)
BOUNDS = list(int4q.Bound)


def errors_of(tensor: int4q.QuantizedTensor, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|y - exact|, with exact sums to 64 bits, infinity where y is infinite."""
    exact = x.astype(np.longdouble) @ exact_weights(tensor).T.astype(np.longdouble)
    return np.abs(as_float32(y) - exact).astype(np.float64)


def assert_bounded(tensor: int4q.QuantizedTensor, x: np.ndarray, mode: int4q.Mode, y_type: int4q.Type = int4q.Type.F32,
                   x_type: int4q.Type = int4q.Type.F32, x_scales: object = None) -> None:
    blob, source = tensor.pack(), in_type(x, x_type)
    y = blob.matmul(source, mode=mode, dtype=y_type, element_type=x_type, x_scales=x_scales)
    error = errors_of(tensor, as_float32(source), y)
    options = {"mode": mode, "y_type": y_type, "element_type": x_type, "x_scales": x_scales}
    worst = blob.error_bound(source, bound=int4q.Bound.WORST_CASE, **options)
    probable = blob.error_bound(source, **options)
    assert worst.dtype == np.float64 and worst.shape == probable.shape == error.shape
    for name, bound in (("worst case", worst), ("probable", probable)):
        place = np.unravel_index((error - bound).argmax(), error.shape)
        assert (error <= bound).all(), f"{name}, at {place}: error {error[place]:.6e}, bound {bound[place]:.6e}"


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("k", [1, 7, 32, 300])
@pytest.mark.parametrize("name", list(four_kinds()))
def test_probable_is_never_above_the_worst_case(name: str, k: int, mode: int4q.Mode,
                                                generator: np.random.Generator) -> None:
    """Which holds for certain, so that nobody need ask for both."""
    blob = int4q.Blob.quantize(generator.standard_normal((20, k)).astype(np.float32), four_kinds()[name])
    x = generator.standard_normal((3, k)).astype(np.float32)
    worst = blob.error_bound(x, mode=mode, bound=int4q.Bound.WORST_CASE)
    assert (blob.error_bound(x, mode=mode) <= worst * (1 + 1e-12)).all()


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", list(all_schemes()))
def test_not_exceeded(name: str, mode: int4q.Mode, isa: int4q.Isa, generator: np.random.Generator) -> None:
    for group_size in (16, 64, int4q.PER_ROW):
        weights = generator.standard_normal((40, 300)).astype(np.float32)
        tensor = int4q.quantize(weights, all_schemes(group_size)[name])
        x = (generator.standard_normal((6, 300)) * 10.0 ** generator.integers(-6, 6, (6, 1))).astype(np.float32)
        x[5] = np.abs(x[5])
        with int4q.set_isa_limit(isa):
            assert_bounded(tensor, x, mode)


@pytest.mark.parametrize("name", list(four_kinds()))
@given(
    m=st.integers(1, 4),
    n=st.integers(1, 20),
    k=st.integers(1, 200),
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(MODES),
    x_type=st.sampled_from(TYPES),
    y_type=st.sampled_from(TYPES),
    exponent=st.integers(-44, 24),
    spread=st.integers(0, 8),
    isa=st.sampled_from(ISAS),
)
def test_any_product(name: str, m: int, n: int, k: int, seed: int, mode: int4q.Mode, x_type: int4q.Type,
                     y_type: int4q.Type, exponent: int, spread: int, isa: int4q.Isa) -> None:
    """Of any size of numbers: denormals have bounds above zero, results beyond y's type infinite ones."""
    generator = np.random.default_rng(seed)
    tensor = int4q.quantize(generator.standard_normal((n, k)).astype(np.float32), four_kinds()[name])
    x = generator.standard_normal((m, k)) * 10.0 ** (exponent + generator.integers(-spread, spread + 1, (m, k)))
    x = x.astype(np.float32)
    if x_type == int4q.Type.F16:
        x = np.clip(x, -65504, 65504)
    with int4q.set_isa_limit(isa), np.errstate(all="ignore"):
        assert_bounded(tensor, x, mode, y_type, x_type)


@pytest.mark.parametrize("name", list(four_kinds()))
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=80),
    mode=st.sampled_from(MODES),
)
def test_any_row(name: str, values: list[float], mode: int4q.Mode) -> None:
    x = np.asarray([values], np.float32)
    weights = np.random.default_rng(len(values)).standard_normal((5, x.shape[1])).astype(np.float32)
    with np.errstate(all="ignore"):
        assert_bounded(int4q.quantize(weights, four_kinds(16)[name]), x, mode)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", list(four_kinds()))
def test_denormals(name: str, mode: int4q.Mode, isa: int4q.Isa, generator: np.random.Generator) -> None:
    """Where instructions for bfloat16 flush them to zero the bound knows it."""
    for k in (1, 2, 40):
        tensor = int4q.quantize(generator.standard_normal((30, k)).astype(np.float32), four_kinds()[name])
        x = generator.standard_normal((60, k)) * 10.0 ** generator.uniform(-40, -36, (60, 1))
        with int4q.set_isa_limit(isa):
            assert_bounded(tensor, x.astype(np.float32), mode)


@pytest.mark.parametrize("scale", [1e-4, 0.01])
@pytest.mark.parametrize("name", list(four_kinds()))
def test_clipping_has_no_mean_of_zero(name: str, scale: float, generator: np.random.Generator) -> None:
    """What is clipped, all of one sign, is lost for certain: the probable bound may not count on chance there."""
    tensor = int4q.quantize(np.abs(generator.standard_normal((20, 300))).astype(np.float32), four_kinds()[name])
    x = np.abs(generator.standard_normal((4, 300))).astype(np.float32) * 10
    assert_bounded(tensor, x, int4q.Mode.INT8, x_scales=scale)


@pytest.mark.parametrize("mode", [int4q.Mode.INT8, int4q.Mode.BF16], ids=lambda mode: mode.name)
def test_codebooks_rounded_values_have_no_mean_of_zero(mode: int4q.Mode, generator: np.random.Generator) -> None:
    """Sixteen fixed errors: with x of one sign, as after a ReLU, they add up."""
    scheme = four_kinds()["codebook"]
    tensor = int4q.quantize(generator.standard_normal((32, 16384)).astype(np.float32), scheme)
    assert_bounded(tensor, np.ones((1, 16384), np.float32), mode)


@pytest.mark.parametrize("name", list(four_kinds()))
def test_groups_that_count_as_zeros(name: str, generator: np.random.Generator) -> None:
    """INT8 mode drops groups below 2^-100: all of them, for certain."""
    tensor = int4q.quantize(np.abs(generator.standard_normal((20, 300))).astype(np.float32), four_kinds()[name])
    x = np.full((1, 300), 2.0**-101, np.float32)
    assert_bounded(tensor, x, int4q.Mode.INT8)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", list(four_kinds()))
@given(exponent=st.integers(30, 37), k=st.integers(1, 100), seed=st.integers(0, 2**32))
def test_sums_that_overflow(name: str, mode: int4q.Mode, exponent: int, k: int, seed: int) -> None:
    """Also those that do so on the way: a group's dot product is scaled last."""
    generator = np.random.default_rng(seed)
    tensor = int4q.quantize(generator.standard_normal((5, k)).astype(np.float32), four_kinds()[name])
    x = (generator.uniform(-3, 3, (2, k)) * 10.0**exponent).astype(np.float32)
    with np.errstate(all="ignore"):
        y = tensor.pack().matmul(x, mode=mode)
        bound = tensor.pack().error_bound(x, mode=mode, bound=int4q.Bound.WORST_CASE)
    assert np.isposinf(bound[~np.isfinite(y)]).all()


@pytest.mark.parametrize("scale", [1e-4, 0.01, 0.03, 1.0, 100.0])
@pytest.mark.parametrize("name", list(four_kinds()))
def test_static_scales(name: str, scale: float, generator: np.random.Generator) -> None:
    """What is clipped counts as well."""
    tensor = int4q.quantize(generator.standard_normal((20, 100)).astype(np.float32), four_kinds()[name])
    x = generator.standard_normal((4, 100)).astype(np.float32)
    assert_bounded(tensor, x, int4q.Mode.INT8, x_scales=scale)


@pytest.mark.parametrize("name", list(four_kinds()))
def test_f32_worst_case_is_the_documented_one(name: str, generator: np.random.Generator) -> None:
    """docs/numerics.md gives the first-order bound; this one may not be far from it."""
    for group_size in (32, int4q.PER_ROW):
        tensor = int4q.quantize(generator.standard_normal((30, 1024)).astype(np.float32), four_kinds(group_size)[name])
        x = generator.standard_normal((4, 1024)).astype(np.float32)
        bound = tensor.pack().error_bound(x, bound=int4q.Bound.WORST_CASE)
        assert (bound <= 2 * f32_bound(x, tensor)).all()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("group_size", [32, 128, int4q.PER_ROW])
@pytest.mark.parametrize("name", list(four_kinds()))
def test_probable_is_tight(name: str, group_size: int, mode: int4q.Mode, generator: np.random.Generator) -> None:
    """A few times the 7.6 standard deviations that 12 digits' certainty asks for; far below the worst case."""
    tensor = int4q.quantize(generator.standard_normal((64, 4096)).astype(np.float32), four_kinds(group_size)[name])
    x = generator.standard_normal((8, 4096)).astype(np.float32)
    blob = tensor.pack()
    error = errors_of(tensor, x, blob.matmul(x, mode=mode))
    bound = blob.error_bound(x, mode=mode)
    worst = blob.error_bound(x, mode=mode, bound=int4q.Bound.WORST_CASE)
    deviation = np.sqrt(np.mean(error**2))
    assert bound.mean() <= 40 * deviation, f"{bound.mean() / deviation:.1f} standard deviations"
    assert bound.mean() <= 0.5 * worst.mean()


def test_narrow_results_count(generator: np.random.Generator) -> None:
    """The rounding to y's type is within the bound, which grows by it."""
    tensor = int4q.quantize(generator.standard_normal((20, 64)).astype(np.float32))
    x = generator.standard_normal((3, 64)).astype(np.float32)
    blob = tensor.pack()
    exact = np.abs(x.astype(float) @ exact_weights(tensor).T)
    single = blob.error_bound(x)
    for y_type, step in ((int4q.Type.F16, 2.0**-11), (int4q.Type.BF16, 2.0**-8)):
        bound = blob.error_bound(x, y_type=y_type)
        assert (bound >= single + 0.9 * step * exact).all()
        assert (bound <= 2 * single + 1.1 * step * exact + 1e-7).all()
    half = x.astype(np.float16)
    np.testing.assert_array_equal(blob.error_bound(half), blob.error_bound(half, y_type="f16"))


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.name)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_not_finite_rows(mode: int4q.Mode, bound: int4q.Bound, generator: np.random.Generator) -> None:
    blob = int4q.Blob.quantize(generator.standard_normal((10, 64)).astype(np.float32))
    x = generator.standard_normal((4, 64)).astype(np.float32)
    good = blob.error_bound(x, mode=mode, bound=bound)
    x[1, 60], x[2, 0] = np.nan, -np.inf
    bounds = blob.error_bound(x, mode=mode, bound=bound)
    assert np.isposinf(bounds[1:3]).all()
    np.testing.assert_array_equal(bounds[[0, 3]], good[[0, 3]])
    assert np.isfinite(good).all() and (good >= 0).all()


def test_zeros_have_hardly_any(generator: np.random.Generator) -> None:
    blob = int4q.Blob.quantize(generator.standard_normal((10, 64)).astype(np.float32))
    for mode in MODES:
        for bound in BOUNDS:
            bounds = blob.error_bound(np.zeros((2, 64), np.float32), mode=mode, bound=bound)
            assert (bounds >= 0).all() and (bounds < 1e-20).all()


def test_shapes(generator: np.random.Generator) -> None:
    blob = int4q.Blob.quantize(generator.standard_normal((10, 64)).astype(np.float32))
    x = generator.standard_normal((2, 3, 64)).astype(np.float32)
    bounds = blob.error_bound(x)
    assert bounds.shape == (2, 3, 10)
    np.testing.assert_array_equal(blob.error_bound(x[1, 2]), bounds[1, 2])
    np.testing.assert_array_equal(blob.error_bound(x[:, ::2][0]), bounds[0, ::2])
    assert blob.error_bound(x[:0]).shape == (0, 3, 10)


def test_wrong_arguments() -> None:
    blob = int4q.Blob.quantize(np.ones((4, 32), np.float32))
    x = np.ones((2, 32), np.float32)
    with pytest.raises(ValueError, match="x has shape"):
        blob.error_bound(x[:, :31])
    with pytest.raises(ValueError, match="7 is not a valid Bound"):
        blob.error_bound(x, bound=7)
    with pytest.raises(ValueError, match="x_scales is given in mode F32"):
        blob.error_bound(x, x_scales=1.0)
    with pytest.raises(int4q.InvalidArgumentError, match="x_scales"):
        blob.error_bound(x, x_scales=0.0, mode=int4q.Mode.INT8)


def raw_bound(plan: int4q.MatmulPlan, fields: dict[str, object], bound: int = 0, ldb: int = 4) -> np.ndarray:
    """The C function as it is."""
    bounds = np.empty((2, 4))
    arguments = _native.MatmulArgsStruct(**fields)
    pointer = bounds.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
    _native.call("int4q_error_bound", ctypes.byref(plan.struct), ctypes.byref(arguments), bound, pointer, ldb)
    return bounds


def test_the_function_itself() -> None:
    blob = int4q.Blob.quantize(np.ones((4, 32), np.float32))
    x = np.ones((2, 32), np.float32)
    plan = blob.plan(2, "f32", "f32")
    good = {"x": x.ctypes.data, "ldx": 32, "blob": blob.data.ctypes.data, "blob_bytes": blob.nbytes}
    np.testing.assert_array_equal(raw_bound(plan, good, 1), blob.error_bound(x))
    zeros, nobody = np.zeros((2, 4), np.float32), np.full(2, -1, np.int32)
    expert = _native.ExpertStruct(blob.data.ctypes.data, blob.nbytes, None, 0)
    for steps, fields in (
        (int4q.Steps(int4q.Activation.RELU), {}),
        (int4q.Steps(bias_type="f32"), {"bias": zeros.ctypes.data}),
        (int4q.Steps(residual_type="f32"), {"residual": zeros.ctypes.data, "ldr": 4}),
        (int4q.Steps(gated=True), {"up_blob": blob.data.ctypes.data, "up_blob_bytes": blob.nbytes}),
        (int4q.Steps(expert_count=1), {"experts": ctypes.pointer(expert), "row_experts": nobody.ctypes.data,
                                       "blob": None, "blob_bytes": 0}),
    ):
        with pytest.raises(int4q.UnsupportedError):
            raw_bound(blob.plan(2, "f32", "f32", steps=steps), good | fields)
    for bound in (-1, 2):
        with pytest.raises(int4q.InvalidArgumentError, match="bound"):
            raw_bound(plan, good, bound)
    with pytest.raises(int4q.InvalidArgumentError, match="ldb"):
        raw_bound(plan, good, ldb=3)
    for name in ("x", "blob"):
        with pytest.raises(int4q.NullPointerError, match=f"args.{name} "):
            raw_bound(plan, good | {name: None})
    arguments = _native.MatmulArgsStruct(**good)
    with pytest.raises(int4q.NullPointerError, match="bounds"):
        _native.call("int4q_error_bound", ctypes.byref(plan.struct), ctypes.byref(arguments), 0, None, 4)
