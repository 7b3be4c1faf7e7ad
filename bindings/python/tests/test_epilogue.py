"""What a product does after its sums: bias, activation, gate, residual; and x quantized with scales of the caller."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from accuracy import int8_reference
from conftest import as_float32, available_isas, four_kinds, in_type
from hypothesis import given
from hypothesis import strategies as st

import int4q
from int4q import _arrays

ISAS = available_isas()
ACTIVATIONS = list(int4q.Activation)
CURVES = ACTIVATIONS[1:]
TYPES = list(int4q.Type)
MODES = [int4q.Mode.F32, int4q.Mode.INT8, int4q.Mode.BF16]  # BINARY, and other widths: test_widths.py
ONE = int4q.Blob.quantize(np.ones((1, 1), np.float32))
"""The matrix that leaves float32 as it is (but for the sign of zero): what is left are the steps."""


def rounded(values: np.ndarray, element_type: int4q.Type) -> np.ndarray:
    """float32 values after a trip through a type."""
    return reference.rounded(values, int(element_type))


def activated(values: np.ndarray, activation: int4q.Activation) -> np.ndarray:
    return ONE.matmul(values.reshape(-1, 1), activation=activation).reshape(values.shape)


# ---- Activations ---------------------------------------------------------------------------------------------------


def curve_points() -> np.ndarray:
    """Where activations bend, where they are flat, and far out."""
    powers = np.float32(2.0) ** np.arange(-120, 100, dtype=np.float32)
    near = np.linspace(-20, 20, 40001, dtype=np.float32)
    far = np.linspace(-200, 200, 4001, dtype=np.float32)
    return np.concatenate([near, far, powers, -powers, np.zeros(1, np.float32)])


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("activation", CURVES, ids=lambda a: a.name)
def test_activation_is_close_to_its_definition(activation: int4q.Activation, isa: int4q.Isa) -> None:
    points = curve_points()
    with int4q.set_isa_limit(isa):
        error = np.abs(activated(points, activation) - reference.activation(activation, points))
    worst = error.argmax()
    assert (error <= 4e-7 * np.maximum(1, np.abs(points))).all(), f"error {error[worst]:.3e} at {points[worst]}"


@pytest.mark.parametrize("activation", CURVES, ids=lambda a: a.name)
@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40))
def test_activation_of_anything(activation: int4q.Activation, values: list[float]) -> None:
    points = np.asarray(values, np.float32)
    results = [activated(points, activation)]
    error = np.abs(results[0] - reference.activation(activation, points))
    assert (error <= 4e-7 * np.maximum(1, np.abs(points))).all()
    for isa in ISAS:
        with int4q.set_isa_limit(isa):
            assert activated(points, activation).tobytes() == results[0].tobytes()


@pytest.mark.parametrize("activation", CURVES, ids=lambda a: a.name)
def test_activation_has_the_same_bits_everywhere(activation: int4q.Activation) -> None:
    """On every instruction set, and wherever in a row and a batch a value stands."""
    points = curve_points()
    with int4q.set_isa_limit("portable"):
        expected = activated(points, activation)
    wide = int4q.Blob.quantize(np.ones((37, 1), np.float32))
    for isa in ISAS:
        with int4q.set_isa_limit(isa):
            assert activated(points, activation).tobytes() == expected.tobytes()
            spread = wide.matmul(points[:1000, None], activation=activation)
            assert spread.tobytes() == np.repeat(expected[:1000, None], 37, axis=1).tobytes()


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("activation", CURVES, ids=lambda a: a.name)
def test_activation_keeps_nan(activation: int4q.Activation, isa: int4q.Isa) -> None:
    with int4q.set_isa_limit(isa):
        y = activated(np.asarray([np.nan, 1, -1], np.float32), activation)
    assert np.isnan(y[0]) and np.isfinite(y[1:]).all()


def test_relu_is_exact() -> None:
    y = activated(np.asarray([-1.0, -1e-30, 0, 1e-30, 3.25], np.float32), int4q.Activation.RELU)
    np.testing.assert_array_equal(y, np.asarray([0, 0, 0, 1e-30, 3.25], np.float32))
    assert not np.signbit(y).any()


# ---- All steps together --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Case:
    """One product with some of the steps, and its arrays."""

    blob: int4q.Blob
    up: int4q.Blob | None
    x: np.ndarray
    bias: np.ndarray | None
    up_bias: np.ndarray | None
    residual: np.ndarray | None
    mode: int4q.Mode
    activation: int4q.Activation
    x_type: int4q.Type
    y_type: int4q.Type

    def operands(self) -> dict[str, object]:
        names = ("up", "bias", "up_bias", "residual", "mode", "activation")
        return {name: getattr(self, name) for name in names}

    def fused(self, **options: object) -> np.ndarray:
        options = {"dtype": self.y_type, **options}
        return self.blob.matmul(self.x, element_type=self.x_type, **self.operands(), **options)

    def step_by_step(self) -> np.ndarray:
        """float32: each step of docs/numerics.md by itself, rounded to binary32; then the values of y's type."""
        with np.errstate(over="ignore", invalid="ignore"):
            value = self._total(self.blob)
            value = value if self.bias is None else value + as_float32(self.bias)
            if self.activation != int4q.Activation.NONE:
                value = activated(value, self.activation)
            if self.up is not None:
                factor = self._total(self.up)
                value = value * (factor if self.up_bias is None else factor + as_float32(self.up_bias))
            value = value if self.residual is None else value + as_float32(self.residual)
            return rounded(value, self.y_type)

    def _total(self, blob: int4q.Blob) -> np.ndarray:
        return blob.matmul(self.x, element_type=self.x_type, mode=self.mode, dtype="f32")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    m, n, k = draw(st.integers(1, 20)), draw(st.integers(1, 70)), draw(st.integers(1, 150))
    x_type, y_type = draw(st.sampled_from(TYPES)), draw(st.sampled_from(TYPES))
    scheme = draw(st.sampled_from(list(four_kinds(32).values()) + list(four_kinds(int4q.PER_ROW).values())))

    def matrix(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    def optional(*shape: int) -> np.ndarray | None:
        # NumPy's own bfloat16 is uint16, which counts as such only beside x or y of that type.
        kinds = [t for t in TYPES if t != int4q.Type.BF16 or int4q.Type.BF16 in (x_type, y_type)]
        kind = draw(st.sampled_from([None, *kinds]))
        return None if kind is None else in_type(matrix(*shape), kind)

    gated = draw(st.booleans())
    return Case(
        int4q.Blob.quantize(matrix(n, k), scheme),
        int4q.Blob.quantize(matrix(n, k), scheme) if gated else None,
        in_type(matrix(m, k), x_type),
        optional(n),
        optional(n) if gated else None,
        optional(m, n),
        draw(st.sampled_from(MODES)),
        draw(st.sampled_from(ACTIVATIONS)),
        x_type,
        y_type,
    )


@given(case=cases(), isa=st.sampled_from(ISAS), workers=st.integers(1, 3))
def test_steps_are_what_is_written(case: Case, isa: int4q.Isa, workers: int) -> None:
    """Fused or one after the other: the same bits, but for the sign of a zero."""
    with int4q.set_isa_limit(isa):
        expected = case.step_by_step()
        np.testing.assert_array_equal(as_float32(case.fused()), expected)
        with int4q.Pool(workers) as pool:
            np.testing.assert_array_equal(as_float32(case.fused(pool=pool)), expected)


@given(case=cases())
def test_same_bits_for_every_batch(case: Case) -> None:
    whole = case.fused()
    for row in range(len(case.x)):
        one = dataclasses.replace(
            case,
            x=case.x[row : row + 1],
            residual=None if case.residual is None else case.residual[row : row + 1],
        )
        assert one.fused().tobytes() == whole[row : row + 1].tobytes()


@given(case=cases().filter(lambda case: case.mode != int4q.Mode.BF16))
def test_same_bits_on_every_instruction_set(case: Case) -> None:
    results = set()
    for isa in ISAS:
        with int4q.set_isa_limit(isa):
            results.add(case.fused().tobytes())
    assert len(results) == 1


def gated_case(generator: np.random.Generator, m: int = 6, n: int = 40, k: int = 64) -> Case:
    def matrix(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    single = int4q.Type.F32
    blobs = [int4q.Blob.quantize(matrix(n, k)) for _ in range(2)]
    arrays = (matrix(m, k), matrix(n), matrix(n), matrix(m, n))
    return Case(*blobs, *arrays, int4q.Mode.F32, int4q.Activation.SILU, single, single)


def test_close_to_float64(generator: np.random.Generator) -> None:
    """The formula itself, from dequantized weights."""
    case = gated_case(generator)
    for activation in ACTIVATIONS:
        case.activation = activation
        gate, up = (case.x.astype(float) @ blob.unpack().dequantize().astype(float).T for blob in (case.blob, case.up))
        exact = reference.activation(activation, gate + case.bias) * (up + case.up_bias) + case.residual
        np.testing.assert_allclose(case.fused(), exact, rtol=1e-4, atol=1e-3)
        case.mode = int4q.Mode.INT8
        assert np.linalg.norm(case.fused() - exact) < 0.03 * np.linalg.norm(exact)
        case.mode = int4q.Mode.F32


def test_shapes_strides_and_dimensions(generator: np.random.Generator) -> None:
    case = gated_case(generator)
    expected = case.fused()
    steps = case.operands()
    cube = case.blob.matmul(case.x.reshape(2, 3, 64), **steps | {"residual": case.residual.reshape(2, 3, 40)})
    np.testing.assert_array_equal(cube, expected.reshape(2, 3, 40))
    vector = case.blob.matmul(case.x[1], **steps | {"residual": case.residual[1]})
    np.testing.assert_array_equal(vector, expected[1])
    # A residual among other columns, one in Fortran's order, biases with gaps, and lists.
    room = np.zeros((6, 50), np.float32)
    room[:, 5:45] = case.residual
    gaps = {name: np.repeat(getattr(case, name), 2)[::2] for name in ("bias", "up_bias")}
    for residual in (room[:, 5:45], np.asfortranarray(case.residual), case.residual.tolist()):
        np.testing.assert_array_equal(case.blob.matmul(case.x, **steps | gaps | {"residual": residual}), expected)
    out = np.full((6, 44), 7, np.float32)
    case.fused(out=out[:, :40])
    np.testing.assert_array_equal(out[:, :40], expected)
    assert (out[:, 40:] == 7).all()
    empty = case.blob.matmul(case.x[:0], **steps | {"residual": case.residual[:0]})
    assert empty.shape == (0, 40)


def test_float64_operands_are_rounded(generator: np.random.Generator) -> None:
    case = gated_case(generator)
    expected = case.fused()
    for name in ("bias", "up_bias", "residual"):
        setattr(case, name, getattr(case, name).astype(np.float64))
    np.testing.assert_array_equal(case.fused(), expected)


def test_residual_in_place(generator: np.random.Generator) -> None:
    """y += x W^T, and residuals that overlap y in other ways."""
    case = gated_case(generator)
    expected = case.fused()
    for element_type in (np.float32, np.float16):
        out = case.residual.astype(element_type)
        wanted = case.blob.matmul(case.x, **case.operands() | {"residual": out.copy()}, dtype=element_type)
        assert case.blob.matmul(case.x, **case.operands() | {"residual": out}, out=out) is out
        np.testing.assert_array_equal(out, wanted)
    room = np.zeros((7, 40), np.float32)
    room[:6] = case.residual
    np.testing.assert_array_equal(
        case.blob.matmul(case.x, **case.operands() | {"residual": room[:6]}, out=room[1:]), expected
    )
    repeated = np.broadcast_to(case.residual[0], (6, 40))
    np.testing.assert_array_equal(
        case.blob.matmul(case.x, **case.operands() | {"residual": repeated}),
        case.blob.matmul(case.x, **case.operands() | {"residual": repeated.copy()}),
    )


def test_up_bias_alone(generator: np.random.Generator) -> None:
    """The gate's bias is then nothing at all, not even a zero that turns -0 into 0."""
    case = gated_case(generator)
    case.bias = case.residual = None
    np.testing.assert_array_equal(case.fused(), case.step_by_step())
    case.up_bias = case.up_bias.astype(np.float16)
    np.testing.assert_array_equal(case.fused(), case.step_by_step())


def test_what_is_not_given_is_left_out(generator: np.random.Generator) -> None:
    """A step that is not there is no addition of zero, and a zero bias is no step that hurts."""
    case = gated_case(generator)
    plain = case.blob.matmul(case.x)
    zeros = np.zeros(40, np.float32)
    for steps in ({}, {"bias": zeros}, {"residual": np.zeros((6, 40), np.float32)}):
        np.testing.assert_array_equal(case.blob.matmul(case.x, **steps), plain)


def test_not_finite_rows_stay_alone(generator: np.random.Generator) -> None:
    case = gated_case(generator)
    for mode in MODES:
        case.mode = mode
        case.x[2, 3] = 0
        good = case.fused()
        case.x[2, 3] = np.nan
        y = case.fused()
        assert np.isnan(y[2]).all()
        np.testing.assert_array_equal(np.delete(y, 2, axis=0), np.delete(good, 2, axis=0))


def test_bfloat16_operands_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch, generator: np.random.Generator) -> None:
    monkeypatch.setattr(_arrays, "BFLOAT16", None)
    case = gated_case(generator)
    for name in ("x", "bias", "up_bias", "residual"):
        setattr(case, name, reference.bfloat16_bits(getattr(case, name)))
    case.x_type = case.y_type = int4q.Type.BF16
    np.testing.assert_array_equal(as_float32(case.fused()), case.step_by_step())
    out = case.residual.copy()
    case.blob.matmul(case.x, element_type="bf16", **case.operands() | {"residual": out}, out=out)
    np.testing.assert_array_equal(as_float32(out), case.step_by_step())
    with pytest.raises(TypeError, match="bias has dtype uint16"):
        case.blob.matmul(np.ones((1, 64), np.float32), bias=case.bias)


# ---- Scales of the caller ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [16, 32, 128, int4q.PER_ROW])
@pytest.mark.parametrize("name", list(four_kinds()))
def test_static_scales(name: str, group_size: int, generator: np.random.Generator) -> None:
    tensor = int4q.quantize(generator.standard_normal((33, 300)).astype(np.float32), four_kinds(group_size)[name])
    blob = tensor.pack()
    x = generator.standard_normal((5, 300)).astype(np.float32)
    groups = tensor.scheme.groups_per_row(300)
    x_scales = (generator.uniform(0.005, 0.04, groups)).astype(np.float32)  # some clip, some do not
    expected, tolerance = int8_reference(x, tensor, x_scales)
    results = set()
    for isa in ISAS:
        with int4q.set_isa_limit(isa):
            y = blob.matmul(x, x_scales=x_scales, mode=int4q.Mode.INT8)
            results.add(y.tobytes())
            results |= {b"".join(blob.matmul(row, x_scales=x_scales, mode=int4q.Mode.INT8).tobytes() for row in x)}
    assert len(results) == 1
    assert (np.abs(y - expected) <= tolerance).all()


@pytest.mark.parametrize("group_size", [32, int4q.PER_ROW])
def test_one_static_scale_for_all(group_size: int, generator: np.random.Generator) -> None:
    blob = int4q.Blob.quantize(generator.standard_normal((20, 100)).astype(np.float32), int4q.Scheme.offset(group_size))
    x = generator.standard_normal((3, 100)).astype(np.float32)
    groups = blob.scheme.groups_per_row(100)
    expected = blob.matmul(x, x_scales=np.full(groups, 0.03), mode=int4q.Mode.INT8)
    for one in (0.03, np.float32(0.03), [0.03] * groups):
        assert blob.matmul(x, x_scales=one, mode=int4q.Mode.INT8).tobytes() == expected.tobytes()


def test_static_scales_with_steps(generator: np.random.Generator) -> None:
    case = gated_case(generator)
    case.mode = int4q.Mode.INT8
    x_scales = np.full(2, 0.02, np.float32)
    gate, up = (
        blob.matmul(case.x, x_scales=x_scales, mode=int4q.Mode.INT8) for blob in (case.blob, case.up)
    )
    expected = activated(gate + case.bias, case.activation) * (up + case.up_bias) + case.residual
    np.testing.assert_array_equal(case.fused(x_scales=x_scales), expected)


def test_static_scales_at_the_edges() -> None:
    blob = int4q.Blob.quantize(np.ones((4, 32), np.float32), int4q.Scheme.symmetric(32, scale_type=int4q.Type.F32))
    x = np.zeros((3, 32), np.float32)
    x[0, 5], x[1, 6], x[2, 7] = np.nan, 1e30, -1e30
    y = blob.matmul(x, x_scales=0.5, mode=int4q.Mode.INT8)
    assert np.isnan(y[0]).all()
    np.testing.assert_array_equal(y[1:], [[63.5] * 4, [-63.5] * 4])
    x[0, 5] = np.inf
    assert np.isnan(blob.matmul(x, x_scales=0.5, mode=int4q.Mode.INT8)[0]).all()
    for scale in (2.0**-100, 2.0**100):
        y = blob.matmul(np.full((1, 32), scale, np.float32), x_scales=scale, mode=int4q.Mode.INT8)
        np.testing.assert_allclose(y, 32 * scale)
    for scale in (0, -1, 2.0**-101, 2.0**101, np.nan, np.inf):
        with pytest.raises(int4q.InvalidArgumentError, match="x_scales"):
            blob.matmul(x, x_scales=scale, mode=int4q.Mode.INT8)


# ---- Plans and mistakes --------------------------------------------------------------------------------------------


def test_plans_differ_by_their_steps(generator: np.random.Generator) -> None:
    blob = int4q.Blob.quantize(np.ones((16, 32), np.float32))
    every = [int4q.Steps(), int4q.Steps(bias_type="f16"), int4q.Steps(gated=True), int4q.Steps(expert_count=3)]
    every += [int4q.Steps(activation) for activation in CURVES]
    plans = [blob.plan(2, "f32", "f32", steps=steps) for steps in every]
    assert len(set(map(id, plans))) == len(every)
    assert plans[0] is blob.plan(2, "f32", "f32")
    x = generator.standard_normal((2, 32)).astype(np.float32)
    before = blob.matmul(x)
    blob.matmul(x, activation=int4q.Activation.RELU, bias=np.ones(16))
    np.testing.assert_array_equal(blob.matmul(x), before)


def test_describe_takes_steps() -> None:
    scheme = int4q.Scheme.symmetric()
    steps = int4q.Steps(int4q.Activation.SILU, bias_type="f32", residual_type=int4q.Type.F16, gated=True)
    blob = int4q.Blob.quantize(np.ones((64, 64), np.float32))
    assert int4q.describe_dispatch(scheme, 4, 64, 64, steps=steps) == blob.describe(4, steps=steps)
    eight = int4q.Steps(static_scales=True, expert_count=8)
    assert int4q.describe_dispatch(scheme, 4, 64, 64, mode=int4q.Mode.INT8, steps=eight)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        (int4q.Steps(activation=9), "activation"),
        (int4q.Steps(activation=-1), "activation"),
        (int4q.Steps(static_scales=True), "flags"),
        (int4q.Steps(expert_count=65537), "expert_count"),
    ],
)
def test_impossible_steps(steps: int4q.Steps, name: str) -> None:
    scheme = int4q.Scheme.symmetric()
    with pytest.raises(int4q.InvalidArgumentError, match=f"desc.{name}"):
        int4q.MatmulPlan(scheme, 1, 16, 32, steps=steps)
    with pytest.raises(int4q.InvalidArgumentError, match=f"desc.{name}"):
        int4q.describe_dispatch(scheme, 1, 16, 32, steps=steps)


def test_wrong_operands() -> None:
    blob = int4q.Blob.quantize(np.ones((24, 40), np.float32))
    x = np.ones((2, 40), np.float32)
    for steps, message in (
        ({"bias": np.ones(23)}, r"bias has shape \(23,\); expected \(24,\)"),
        ({"bias": np.ones((1, 24))}, "bias has shape"),
        ({"residual": np.ones((3, 24))}, r"residual has shape \(3, 24\); expected \(2, 24\)"),
        ({"residual": np.ones(24)}, "residual has shape"),
        ({"up_bias": np.ones(24)}, "up_bias is given without"),
        ({"up": blob, "up_bias": np.ones(25)}, "up_bias has shape"),
        ({"up": int4q.Blob.quantize(np.ones((24, 41), np.float32))}, "up is 24 x 41"),
        ({"up": int4q.Blob.quantize(np.ones((24, 40)), int4q.Scheme.offset())}, "up is .*offset"),
        ({"up": int4q.Blob.quantize(np.ones((24, 40)), int4q.Scheme.symmetric(64))}, "up is .*group 64"),
        ({"activation": 9}, "9 is not a valid Activation"),
        ({"x_scales": 1.0}, "x_scales is given in mode F32; expected INT8"),
        ({"x_scales": np.ones(3), "mode": int4q.Mode.INT8}, r"x_scales has shape \(3,\); expected \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            blob.matmul(x, **steps)
    for steps, message in (
        ({"bias": np.ones(24, np.int32)}, "bias has dtype int32"),
        ({"residual": np.ones((2, 24), np.uint16)}, "residual has dtype uint16"),
        ({"up": np.ones((24, 40))}, "up is ndarray; expected a Blob"),
    ):
        with pytest.raises(TypeError, match=message):
            blob.matmul(x, **steps)


def test_linear_keeps_a_bfloat16_bias() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: no bfloat16 that NumPy lacks")
    bias = torch.tensor([0.5, -3.0], dtype=torch.bfloat16)
    layer = int4q.Linear.from_weights(np.ones((2, 8), np.float32), bias)
    np.testing.assert_array_equal(layer(np.zeros(8, np.float32)), [0.5, -3.0])
