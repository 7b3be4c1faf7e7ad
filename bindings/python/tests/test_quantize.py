"""Every quantizer against its definition: codes, scales and zero points equal exactly."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import CODEBOOK, all_schemes, as_float32, four_kinds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

import int4q

GROUP_SIZES = [16, 32, 64, 128, 256, int4q.PER_ROW]
SCHEME_NAMES = list(all_schemes())


def assert_same(tensor: int4q.QuantizedTensor, weights: np.ndarray) -> None:
    """The tensor is what the definition says, to the bit."""
    expected = reference.quantize(weights, tensor.scheme)
    np.testing.assert_array_equal(as_float32(tensor.scales), expected.scales, "scales")
    if tensor.zero_points is not None:
        np.testing.assert_array_equal(tensor.zero_points, expected.zero_points, "zero points")
    if tensor.offsets is not None:
        np.testing.assert_array_equal(as_float32(tensor.offsets), expected.offsets, "offsets")
    np.testing.assert_array_equal(tensor.code_matrix(), expected.codes, "codes")
    if tensor.k % 2:
        assert not (tensor.codes[:, -1] >> 4).any(), "the last nibble of an odd row is not zero"


def awkward_weights(generator: np.random.Generator, n: int, k: int) -> np.ndarray:
    """Ordinary rows, and rows of the things that have rules of their own."""
    weights = (generator.standard_normal((n, k)) * 2.0 ** generator.uniform(-8, 4, (n, 1))).astype(np.float32)
    weights[0] = 0
    weights[1] = -0.0
    weights[2] = 0.1
    weights[3] = -0.1
    weights[4] = np.where(np.arange(k) % 2, 1, -1)
    weights[5] = np.arange(k) % 16
    weights[6] = -(np.arange(k) % 16)
    weights[7] = (np.arange(k) % 31 - 15) / 2  # ties on the grid
    weights[8] = np.abs(weights[8]) + 1
    weights[9] = -np.abs(weights[9]) - 1
    weights[10] *= np.float32(2.0**-140)  # denormals
    weights[11] = np.float32(2.0**-22) * (np.arange(k) % 5)  # scales around binary16's denormals
    weights[12] = 0
    weights[12, k // 2] = -3
    return weights


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_every_convention(
    name: str, group_size: int, scale_type: int4q.Type, generator: np.random.Generator
) -> None:
    scheme = all_schemes(group_size, scale_type)[name]
    for k in (1, 31, 96, 257, 300):
        weights = awkward_weights(generator, 24, k)
        assert_same(int4q.quantize(weights, scheme), weights)


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_every_small_size(name: str, generator: np.random.Generator) -> None:
    scheme = all_schemes(16)[name]
    for k in range(1, 68):
        weights = generator.standard_normal((3, k)).astype(np.float32)
        assert_same(int4q.quantize(weights, scheme), weights)


ORDINARY = st.floats(-(2.0**15), 2.0**15, width=32)


@pytest.mark.parametrize("name", SCHEME_NAMES)
@given(weights=hypothesis_numpy.arrays(np.float32, (3, 40), elements=ORDINARY))
def test_any_weights(name: str, weights: np.ndarray) -> None:
    assert_same(int4q.quantize(weights, all_schemes(16, int4q.Type.F32)[name]), weights)
    assert_same(int4q.quantize(weights, all_schemes(32, int4q.Type.F16)[name]), weights)


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_sources_of_every_type(name: str, generator: np.random.Generator) -> None:
    """A narrow source is the same as its values in float32."""
    scheme = all_schemes()[name]
    weights = awkward_weights(generator, 20, 77)
    half = weights.astype(np.float16)
    assert_same(int4q.quantize(half, scheme), half.astype(np.float32))
    bits = reference.bfloat16_bits(weights)
    tensor = int4q.quantize(bits, scheme, element_type="bf16")
    assert_same(tensor, reference.bfloat16_values(bits))


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("name", list(four_kinds()))
def test_codes_are_the_nearest(name: str, scale_type: int4q.Type, generator: np.random.Generator) -> None:
    """Without any formula: no other code would come closer, up to one rounding of the quotient."""
    weights = (generator.standard_normal((16, 160)) * 3).astype(np.float32)
    tensor = int4q.quantize(weights, four_kinds(32, scale_type)[name])
    parts = [as_float32(tensor.scales)]
    zeros = tensor.zero_points if tensor.zero_points is not None else np.zeros_like(parts[0])
    offsets = as_float32(tensor.offsets) if tensor.offsets is not None else np.zeros_like(parts[0])

    def error(codes: np.ndarray) -> np.ndarray:
        return np.abs(reference.dequantize(codes, parts[0], zeros, offsets, tensor.scheme) - weights)

    chosen = error(tensor.code_matrix())
    best = np.min([error(np.full(weights.shape, code, np.uint8)) for code in range(16)], axis=0)
    assert (chosen <= best + np.abs(weights) * 2.0**-21).all()


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("name", [name for name in SCHEME_NAMES if not name.startswith("ggml") and "power" not in name])
@given(value=st.floats(-60000, 60000, width=16).filter(lambda v: abs(v) > 2.0**-10))
def test_constant_groups_come_back(name: str, scale_type: int4q.Type, value: float) -> None:
    """A group of equal elements is exact, up to the precision of the scale's type."""
    weights = np.full((2, 48), value, np.float32)
    back = int4q.quantize(weights, all_schemes(32, scale_type)[name]).dequantize()
    np.testing.assert_array_equal(back, reference.rounded(weights, scale_type))


@pytest.mark.parametrize("name", [name for name in SCHEME_NAMES if not name.startswith("ggml")])
def test_zeros_stay_zeros(name: str) -> None:
    weights = np.zeros((3, 50), np.float32)
    weights[1] = -0.0
    assert not int4q.quantize(weights, all_schemes()[name]).dequantize().any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_not_finite_weights_are_named(name: str, bad: float, generator: np.random.Generator) -> None:
    weights = generator.standard_normal((40, 70)).astype(np.float32)
    weights[23, 41] = bad
    with pytest.raises(int4q.NotFiniteError, match="row 23.*column 41") as caught:
        int4q.quantize(weights, all_schemes()[name])
    assert caught.value.function == "int4q_quantize_rows"


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_scale_beyond_its_type(name: str) -> None:
    weights = np.full((2, 32), 3e6, np.float32)
    weights[:, ::2] *= -1
    with pytest.raises(int4q.NotFiniteError, match="scale"):
        int4q.quantize(weights, all_schemes()[name])
    int4q.quantize(weights, all_schemes(32, int4q.Type.F32)[name])


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_threads_do_not_matter(name: str, generator: np.random.Generator) -> None:
    weights = generator.standard_normal((777, 400)).astype(np.float32)
    one = int4q.quantize(weights, all_schemes()[name], threads=1)
    four = int4q.quantize(weights, all_schemes()[name], threads=4)
    assert one.codes.tobytes() == four.codes.tobytes()
    assert one.scales.tobytes() == four.scales.tobytes()
    assert bytes(one.pack(threads=1)) == bytes(four.pack(threads=4))
    np.testing.assert_array_equal(one.dequantize(threads=1), four.dequantize(threads=4))


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("name", list(four_kinds()))
def test_dequantized_values(name: str, scale_type: int4q.Type, generator: np.random.Generator) -> None:
    """float64 values rounded once: to binary32, and from there to the type asked for."""
    tensor = int4q.quantize(generator.standard_normal((9, 75)).astype(np.float32), four_kinds(32, scale_type)[name])
    scales = as_float32(tensor.scales)
    zeros = tensor.zero_points if tensor.zero_points is not None else np.zeros_like(scales)
    offsets = as_float32(tensor.offsets) if tensor.offsets is not None else np.zeros_like(scales)
    exact = reference.dequantize(tensor.code_matrix(), scales, zeros, offsets, tensor.scheme)
    single = exact.astype(np.float32)
    np.testing.assert_array_equal(tensor.dequantize(), single)
    np.testing.assert_array_equal(tensor.dequantize("f16"), single.astype(np.float16))
    np.testing.assert_array_equal(as_float32(tensor.dequantize("bf16")), reference.rounded(single, reference.BF16))


def test_dequantize_into_the_caller_s_array(generator: np.random.Generator) -> None:
    tensor = int4q.quantize(generator.standard_normal((5, 33)).astype(np.float32))
    room = np.full((5, 40), 7, np.float32)
    result = tensor.dequantize(out=room[:, :33])
    assert np.shares_memory(result, room)
    np.testing.assert_array_equal(room[:, :33], tensor.dequantize())
    assert (room[:, 33:] == 7).all()


def test_codebook_needs_values() -> None:
    with pytest.raises(ValueError, match="16"):
        int4q.Scheme.codebook(CODEBOOK[:15])
    with pytest.raises(ValueError, match="Scheme.codebook"):
        int4q.quantize(np.ones((1, 16), np.float32), int4q.Scheme(int4q.Kind.CODEBOOK))
    with pytest.raises(int4q.Int4QError, match="codebook"):
        int4q.quantize(np.ones((1, 16), np.float32), int4q.Scheme.codebook([0.0] * 16))


def test_tensor_refuses_arrays_of_the_wrong_kind() -> None:
    tensor = int4q.quantize(np.ones((4, 32), np.float32))
    with pytest.raises(ValueError, match="codes has shape"):
        int4q.QuantizedTensor(tensor.scheme, 5, 32, tensor.codes, tensor.scales)
    with pytest.raises(TypeError, match="scales has dtype"):
        int4q.QuantizedTensor(tensor.scheme, 4, 32, tensor.codes, tensor.scales.astype(np.float64))
