"""Products on packed weights: against float64, and against themselves to the bit."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest
import reference
from accuracy import EPSILON, f32_bound, group_length, int8_reference
from conftest import all_schemes, as_float32, available_isas, exact_weights, four_kinds, in_type
from hypothesis import given
from hypothesis import strategies as st

import int4q

TYPE_STEP = {int4q.Type.F32: 0.0, int4q.Type.F16: 2.0**-11, int4q.Type.BF16: 2.0**-8}
TYPE_SMALLEST = {int4q.Type.F32: 0.0, int4q.Type.F16: 2.0**-25, int4q.Type.BF16: 0.0}
ISA_LIMITS = available_isas()
MODES = [int4q.Mode.F32, int4q.Mode.INT8, int4q.Mode.BF16]  # BINARY, and other widths: test_widths.py


def int8_bound(x: np.ndarray, tensor: int4q.QuantizedTensor, weights: np.ndarray) -> np.ndarray:
    """Each x is off by half a step of its group, which is max|x| / 127; then the float operations of the groups.

    A codebook's values are off by half a level of their own.
    """
    size = group_length(tensor.scheme, tensor.k)
    starts = range(0, tensor.k, size)
    steps = np.stack([np.abs(x[:, begin : begin + size]).max(axis=1) / 127 for begin in starts], axis=1)
    half_steps = np.repeat(steps.astype(np.float64), size, axis=1)[:, : tensor.k] * 0.5001
    bound = half_steps @ np.abs(weights).T + f32_bound(np.abs(x) + half_steps, tensor, 1.5)
    if tensor.codebook is None:
        return bound
    scales = np.repeat(as_float32(tensor.scales), size, axis=1)[:, : tensor.k]
    half_levels = np.abs(scales) * np.abs(tensor.codebook).max() / 253.9
    return bound + (np.abs(x) + half_steps) @ half_levels.T


def bf16_bound(x: np.ndarray, tensor: int4q.QuantizedTensor, weights: np.ndarray) -> np.ndarray:
    """x, and perhaps the weights, rounded to 8 bits; sums in binary32, by group or over all of k, in another order."""
    rounding = 2 * 2.0**-8 + 2.0**-16 + 1.1 * tensor.k * EPSILON
    return rounding * (np.abs(x).astype(np.float64) @ np.abs(weights).T) + 2 * f32_bound(x, tensor)


def assert_close(y: np.ndarray, x: np.ndarray, tensor: int4q.QuantizedTensor, mode: int4q.Mode,
                 y_type: int4q.Type = int4q.Type.F32) -> None:
    x = as_float32(x)
    weights = exact_weights(tensor)
    exact = x.astype(np.float64) @ weights.T
    bound = {
        int4q.Mode.F32: lambda: f32_bound(x, tensor),
        int4q.Mode.INT8: lambda: int8_bound(x, tensor, weights),
        int4q.Mode.BF16: lambda: bf16_bound(x, tensor, weights),
    }[mode]()
    bound = bound + TYPE_STEP[y_type] * (np.abs(exact) + bound) + TYPE_SMALLEST[y_type] + 1e-300
    error = np.abs(as_float32(y) - exact)
    worst = np.unravel_index((error / bound).argmax(), error.shape)
    assert (error <= bound).all(), f"at {worst}: error {error[worst]:.3e}, bound {bound[worst]:.3e}"


CASES = [(name, mode) for name in four_kinds() for mode in MODES]
case = pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{name}-{mode.name}" for name, mode in CASES])
SHAPES = [(1, 1, 1), (1, 17, 33), (3, 16, 32), (5, 67, 64), (2, 100, 300), (17, 33, 256), (64, 48, 515), (1, 256, 1024)]


@case
@pytest.mark.parametrize("group_size", [16, 32, 64, 128, 256, int4q.PER_ROW])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(
    name: str, mode: int4q.Mode, group_size: int, shape: tuple[int, int, int], generator: np.random.Generator
) -> None:
    m, n, k = shape
    tensor = int4q.quantize(generator.standard_normal((n, k)).astype(np.float32), four_kinds(group_size)[name])
    x = generator.standard_normal((m, k)).astype(np.float32)
    assert_close(tensor.pack().matmul(x, mode=mode), x, tensor, mode)


@case
@given(
    m=st.integers(1, 20),
    n=st.integers(1, 70),
    k=st.integers(1, 200),
    seed=st.integers(0, 2**32),
    limit=st.sampled_from(ISA_LIMITS),
)
def test_any_shape(name: str, mode: int4q.Mode, m: int, n: int, k: int, seed: int, limit: int4q.Isa) -> None:
    generator = np.random.default_rng(seed)
    tensor = int4q.quantize(generator.standard_normal((n, k)).astype(np.float32), four_kinds()[name])
    x = generator.standard_normal((m, k)).astype(np.float32)
    with int4q.set_isa_limit(limit):
        assert_close(tensor.pack().matmul(x, mode=mode), x, tensor, mode)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("y_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("x_type", list(int4q.Type), ids=lambda t: t.name)
def test_every_type(
    x_type: int4q.Type, y_type: int4q.Type, scale_type: int4q.Type, mode: int4q.Mode, generator: np.random.Generator
) -> None:
    scheme = int4q.Scheme.asymmetric(32, scale_type=scale_type)
    tensor = int4q.quantize(generator.standard_normal((35, 130)).astype(np.float32), scheme)
    values = generator.standard_normal((4, 130)).astype(np.float32)
    x = in_type(values, x_type)
    y = tensor.pack().matmul(x, mode=mode, dtype=y_type, element_type=x_type)
    assert_close(y, x, tensor, mode, y_type)


@pytest.mark.parametrize("name", list(all_schemes()))
def test_all_conventions_multiply(name: str, generator: np.random.Generator) -> None:
    tensor = int4q.quantize(generator.standard_normal((40, 96)).astype(np.float32), all_schemes()[name])
    x = generator.standard_normal((3, 96)).astype(np.float32)
    for mode in MODES:
        assert_close(tensor.pack().matmul(x, mode=mode), x, tensor, mode)


@case
@pytest.mark.parametrize("group_size", [16, 32, 128, int4q.PER_ROW])
def test_same_bits_always(name: str, mode: int4q.Mode, group_size: int, generator: np.random.Generator) -> None:
    """Whatever the number of workers and the batch; in F32 and INT8 mode whatever the instruction set, too."""
    blob = int4q.quantize(generator.standard_normal((150, 333)).astype(np.float32), four_kinds(group_size)[name]).pack()
    x = (generator.standard_normal((9, 333)) * 10.0 ** generator.integers(-6, 6, (9, 1))).astype(np.float32)
    with int4q.set_isa_limit("portable"):
        portable = blob.matmul(x, mode=mode).tobytes()
    for limit in ISA_LIMITS:
        with int4q.set_isa_limit(limit):
            assert blob.plan(9, "f32", "f32", mode).isa == limit
            expected = blob.matmul(x, mode=mode).tobytes()
            assert expected == portable or (mode == int4q.Mode.BF16 and limit >= int4q.Isa.AVX512BF16)
            rows = [blob.matmul(x[i : i + 1], mode=mode).tobytes() for i in range(9)]
            assert b"".join(rows) == expected
            for workers in (1, 2, 3, 4):
                with int4q.Pool(workers) as pool:
                    assert blob.matmul(x, mode=mode, pool=pool).tobytes() == expected


@pytest.mark.parametrize("name", list(four_kinds()))
def test_bf16_is_f32_of_rounded_x(name: str, generator: np.random.Generator) -> None:
    """To the bit, on every instruction set without bfloat16 of its own."""
    blob = int4q.Blob.quantize(generator.standard_normal((40, 130)).astype(np.float32), four_kinds()[name])
    x = generator.standard_normal((5, 130)).astype(np.float32)
    rounded = reference.rounded(x, reference.BF16)
    for limit in [isa for isa in ISA_LIMITS if isa < int4q.Isa.AVX512BF16]:
        with int4q.set_isa_limit(limit):
            assert blob.matmul(x, mode=int4q.Mode.BF16).tobytes() == blob.matmul(rounded).tobytes()


@pytest.mark.parametrize("limit", ISA_LIMITS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("group_size", [32, 128, int4q.PER_ROW])
@pytest.mark.parametrize("name", list(four_kinds()))
def test_bf16_accuracy(name: str, group_size: int, limit: int4q.Isa, generator: np.random.Generator) -> None:
    """The error of the whole matrix, in the Frobenius norm, is what two roundings to 8 bits may cost."""
    tensor = int4q.quantize(generator.standard_normal((96, 515)).astype(np.float32), four_kinds(group_size)[name])
    x = generator.standard_normal((33, 515)).astype(np.float32)
    exact = x.astype(np.float64) @ exact_weights(tensor).T
    with int4q.set_isa_limit(limit):
        y = tensor.pack().matmul(x, mode=int4q.Mode.BF16)
    assert np.linalg.norm(y - exact) < 4e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize("group_size", [16, 32, 128, 256, int4q.PER_ROW])
@pytest.mark.parametrize("name", list(four_kinds()))
def test_int8_is_what_is_written(name: str, group_size: int, generator: np.random.Generator) -> None:
    """Codes of x, integer dots and a codebook's levels are docs/numerics.md's: only binary32's sums may differ."""
    tensor = int4q.quantize(generator.standard_normal((33, 515)).astype(np.float32), four_kinds(group_size)[name])
    x = (generator.standard_normal((7, 515)) * 10.0 ** generator.integers(-6, 6, (7, 1))).astype(np.float32)
    x[3] = 0
    x[4] *= np.float32(2.0**-90)
    expected, tolerance = int8_reference(x, tensor)
    y = tensor.pack().matmul(x, mode=int4q.Mode.INT8)
    assert (np.abs(y - expected) <= tolerance).all()


def test_threads_share_a_blob_and_a_pool(generator: np.random.Generator) -> None:
    blob = int4q.quantize(generator.standard_normal((200, 256)).astype(np.float32)).pack()
    inputs = [generator.standard_normal((m, 256)).astype(np.float32) for m in (1, 2, 3, 4, 5, 6, 7, 8)] * 8
    expected = [blob.matmul(x).tobytes() for x in inputs]
    with int4q.Pool(2) as pool, concurrent.futures.ThreadPoolExecutor(4) as executor:
        alone = list(executor.map(lambda x: blob.matmul(x).tobytes(), inputs))
        pooled = list(executor.map(lambda x: blob.matmul(x, pool=pool).tobytes(), inputs))
    assert alone == expected
    assert pooled == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_not_finite_x_spoils_its_row_only(mode: int4q.Mode, bad: float, generator: np.random.Generator) -> None:
    tensor = int4q.quantize(generator.standard_normal((30, 70)).astype(np.float32), int4q.Scheme.asymmetric())
    blob = tensor.pack()
    x = generator.standard_normal((4, 70)).astype(np.float32)
    good = blob.matmul(x, mode=mode)
    x[2, 50] = bad
    y = blob.matmul(x, mode=mode)
    assert (np.isnan(y[2]).all() if mode == int4q.Mode.INT8 else not np.isfinite(y[2]).any())
    kept = [0, 1, 3]
    np.testing.assert_array_equal(y[kept], good[kept])


def test_shapes_of_x_and_out(generator: np.random.Generator) -> None:
    blob = int4q.quantize(generator.standard_normal((24, 40)).astype(np.float32)).pack()
    x = generator.standard_normal((2, 3, 40)).astype(np.float32)
    y = blob.matmul(x)
    assert y.shape == (2, 3, 24)
    np.testing.assert_array_equal(blob.matmul(x[1, 2]), y[1, 2])
    np.testing.assert_array_equal(blob.matmul(x[1]), y[1])
    out = np.empty((2, 3, 24), np.float32)
    assert blob.matmul(x, out=out) is out
    np.testing.assert_array_equal(out, y)
    room = np.full((6, 30), 5, np.float32)
    blob.matmul(x.reshape(6, 40), out=room[:, :24])
    np.testing.assert_array_equal(room[:, :24], y.reshape(6, 24))
    assert (room[:, 24:] == 5).all()
    assert blob.matmul(np.empty((0, 40), np.float32)).shape == (0, 24)
    assert blob.matmul(np.empty((2, 0, 40), np.float32)).shape == (2, 0, 24)


def test_wrong_x_and_out() -> None:
    blob = int4q.quantize(np.ones((24, 40), np.float32)).pack()
    x = np.ones((2, 40), np.float32)
    for wrong in (np.ones((2, 39), np.float32), np.float32(1)):
        with pytest.raises(ValueError, match="x has shape"):
            blob.matmul(wrong)
    with pytest.raises(TypeError, match="dtype int64"):
        blob.matmul(np.ones((2, 40), np.int64))
    with pytest.raises(ValueError, match="out has shape"):
        blob.matmul(x, out=np.empty((2, 23), np.float32))
    with pytest.raises(TypeError, match="float64"):
        blob.matmul(x, out=np.empty((2, 24)))
    with pytest.raises(ValueError, match="strides"):
        blob.matmul(x, out=np.empty((24, 2), np.float32).T)
    with pytest.raises(ValueError, match="read-only"):
        read_only = np.empty((2, 24), np.float32)
        read_only.flags.writeable = False
        blob.matmul(x, out=read_only)
    with pytest.raises(TypeError, match="NumPy array"):
        blob.matmul(x, out=[0.0])  # type: ignore[arg-type]


def test_codebook_in_int8_mode(generator: np.random.Generator) -> None:
    """Close to F32 mode: 255 levels are many for 16 values. Whole values that are their own levels come out exactly."""
    weights = generator.standard_normal((48, 512)).astype(np.float32)
    x = generator.standard_normal((6, 512)).astype(np.float32)
    blob = int4q.Blob.quantize(weights, four_kinds()["codebook"])
    single, eight = blob.matmul(x), blob.matmul(x, mode=int4q.Mode.INT8)
    assert np.linalg.norm(eight - single) < 0.02 * np.linalg.norm(single)
    whole = int4q.Scheme.codebook([-127, -90, -64, -33, -21, -13, -5, 0, 1, 7, 20, 30, 50, 77, 101, 127], 32)
    levels = np.asarray(whole.codebook_values, np.float32)[generator.integers(0, 16, (48, 64))]
    levels[:, ::32] = 127
    ones = generator.choice([-1.0, 1.0], (3, 64)).astype(np.float32) * 127
    exact = int4q.Blob.quantize(levels, whole)
    np.testing.assert_array_equal(exact.matmul(ones, mode=int4q.Mode.INT8), ones @ levels.T)


def test_plans_are_kept_and_few() -> None:
    blob = int4q.quantize(np.ones((16, 32), np.float32)).pack()
    assert blob.plan(3, "f32", "f32") is blob.plan(3, "f32", "f32")
    assert blob.plan(3, "f32", "f32") is not blob.plan(4, "f32", "f32")
    for m in range(1, 200):
        blob.matmul(np.ones((m, 32), np.float32))
    assert 1 <= len(blob._plans) <= 64


def test_plan_follows_the_limit() -> None:
    blob = int4q.quantize(np.ones((16, 32), np.float32)).pack()
    before = blob.plan(2, "f32", "f32").isa
    assert before == int4q.isa_active()
    with int4q.set_isa_limit(int4q.Isa.PORTABLE):
        assert blob.plan(2, "f32", "f32").isa == int4q.Isa.PORTABLE
    assert blob.plan(2, "f32", "f32").isa == before


def test_linear(generator: np.random.Generator) -> None:
    weights = generator.standard_normal((20, 64)).astype(np.float32)
    bias = generator.standard_normal(20).astype(np.float32)
    x = generator.standard_normal((2, 5, 64)).astype(np.float32)
    with int4q.Pool(2) as pool:
        layer = int4q.Linear.from_weights(weights, bias, scheme=int4q.Scheme.asymmetric(), pool=pool)
        np.testing.assert_array_equal(layer(x), layer.blob.matmul(x) + bias)
    plain = int4q.Linear(layer.blob, mode=int4q.Mode.INT8)
    np.testing.assert_array_equal(plain(x), layer.blob.matmul(x, mode=int4q.Mode.INT8))
    active = int4q.Linear(layer.blob, bias.astype(np.float64), activation=int4q.Activation.SILU)
    out = generator.standard_normal((2, 5, 20)).astype(np.float32)
    expected = layer.blob.matmul(x, bias=bias, activation=int4q.Activation.SILU) + out
    assert active(x, out, residual=out) is out
    np.testing.assert_array_equal(out, expected)
    assert "SILU" in repr(active) and "SILU" not in repr(plain)
    with pytest.raises(ValueError, match="bias has shape"):
        int4q.Linear(layer.blob, bias[:-1])


def test_pool_ends() -> None:
    blob = int4q.quantize(np.ones((16, 32), np.float32)).pack()
    pool = int4q.Pool(3)
    assert pool.workers == 3
    pool.close()
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        blob.matmul(np.ones((1, 32), np.float32), pool=pool)
    for workers in (0, 1025, -1):
        with pytest.raises(ValueError, match="1.*1024"):
            int4q.Pool(workers)


def test_describe() -> None:
    text = int4q.describe_dispatch(int4q.Scheme.symmetric(), 1, 4096, 4096, mode=int4q.Mode.INT8, workers=2)
    assert int4q.isa_name(int4q.isa_active()) in text
    blob = int4q.quantize(np.ones((16, 32), np.float32)).pack()
    with int4q.set_isa_limit("portable"):
        assert "portable" in blob.describe()
        assert "portable" in blob.describe(mode=int4q.Mode.BF16)
    with pytest.raises(int4q.InvalidArgumentError):
        int4q.describe_dispatch(int4q.Scheme.symmetric(33), 1, 16, 32)
