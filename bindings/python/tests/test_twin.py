"""Twin ranges and twin scales against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from conftest import as_float32, in_type

import int4q
from int4q import TwinChoice, TwinKind, TwinSteps


def softmax_values(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    scores = generator.standard_normal(shape) * 3
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def gelu_values(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    x = generator.standard_normal(shape) * 1.5
    return (x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2).astype(np.float32)


def steps_of(x: np.ndarray, step: float, low: int) -> np.ndarray:
    return np.rint(np.clip(x / np.float32(step), low, 7)).astype(np.float32)


def dequantized(ranges: int4q.TwinRanges, x: np.ndarray) -> np.ndarray:
    """PTQ4ViT's quantizers as the paper writes them."""
    first, second = np.float32(ranges.first), np.float32(ranges.second)
    if ranges.kind == TwinKind.GELU:
        return np.where(x < 0, steps_of(x, first, -8) * first, steps_of(x, second, 0) * second)
    fine, coarse = steps_of(x, first, 0) * first, steps_of(x, second, 0) * second
    if ranges.choice == TwinChoice.ERROR:
        return np.where((x - coarse) ** 2 < (x - fine) ** 2, coarse, fine)
    return np.where(x > np.float32(7) * first, coarse, fine)


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("choice", list(TwinChoice))
@pytest.mark.parametrize("kind", list(TwinKind))
@pytest.mark.parametrize("columns", [1, 17, 256, 393])
def test_quantize(
    columns: int, kind: TwinKind, choice: TwinChoice, element_type: int4q.Type, generator: np.random.Generator
) -> None:
    make = softmax_values if kind == TwinKind.SOFTMAX else gelu_values
    x = in_type(make(generator, (9, columns)), element_type)
    floats = as_float32(x)
    for ranges in int4q.twin_candidates(kind, 3.0, choice=choice)[::7]:
        codes = ranges.quantize(x, element_type=element_type)
        assert codes.shape == (9, (columns + 1) // 2)
        back = ranges.dequantize(codes, columns)
        np.testing.assert_array_equal(back, dequantized(ranges, floats))
        nibbles = np.stack([codes & 15, codes >> 4], axis=2).reshape(9, -1)[:, :columns]
        np.testing.assert_array_equal(ranges.values()[nibbles], back)


@pytest.mark.parametrize("steps", list(TwinSteps))
@pytest.mark.parametrize("kind", list(TwinKind))
def test_search(kind: TwinKind, steps: TwinSteps, generator: np.random.Generator) -> None:
    make = softmax_values if kind == TwinKind.SOFTMAX else gelu_values
    x = make(generator, (64, 197))
    candidates = int4q.twin_candidates(kind, float(x.max()), steps=steps)
    wanted = [((x.astype(np.float64) - dequantized(ranges, x)) ** 2).sum() for ranges in candidates]
    errors = int4q.twin_errors(candidates, x, threads=1)
    np.testing.assert_allclose(errors, wanted, rtol=1e-5)
    np.testing.assert_allclose(int4q.twin_errors(candidates, x, threads=4), errors, rtol=1e-12)
    best, error = int4q.search_twin_ranges(kind, x, steps=steps)
    assert best == candidates[int(np.argmin(wanted))]
    assert error == pytest.approx(min(wanted) / x.size, rel=1e-5)
    # One range of 16 symmetric steps is worse (but steps that are powers of two may miss a good one).
    step = np.abs(x).max() / 7.5
    if steps == TwinSteps.EVEN:
        assert error < ((x - step * np.clip(np.rint(x / step), -8, 7)) ** 2).mean()


def test_the_nearer_range_is_never_worse(generator: np.random.Generator) -> None:
    x = softmax_values(generator, (50, 197))
    _, threshold = int4q.search_twin_ranges(TwinKind.SOFTMAX, x)
    _, nearer = int4q.search_twin_ranges(TwinKind.SOFTMAX, x, choice=TwinChoice.ERROR)
    assert nearer <= threshold


def test_bad_activations() -> None:
    ranges = int4q.TwinRanges(TwinKind.GELU, 0.02, 0.1)
    with pytest.raises(int4q.NotFiniteError, match="row 1, column 0"):
        ranges.quantize(np.array([[0.0], [np.nan]], np.float32))
    with pytest.raises(int4q.InvalidArgumentError, match="second"):
        int4q.TwinRanges(TwinKind.GELU, 0.02, 0.0).quantize(np.zeros((1, 1), np.float32))
    with pytest.raises(ValueError, match="codes"):
        ranges.dequantize(np.zeros((2, 3), np.uint8), 4)
    with pytest.raises(int4q.InvalidArgumentError, match="largest"):
        int4q.search_twin_ranges(TwinKind.GELU, np.zeros((2, 2), np.float32))


# ---- Weights -------------------------------------------------------------------------------------------------------


def reference_twin(weights: np.ndarray, size: int, scale_type: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, negative and positive scales."""
    codes, below, above = [], [], []
    for begin in range(0, weights.shape[1], size):
        group = weights[:, begin : begin + size]
        low, high = group.min(axis=1), group.max(axis=1)
        negative = reference.rounded(np.maximum(-low, 0) / np.float32(8), scale_type)
        constant = low == high
        positive = reference.rounded(np.maximum(high, 0) / np.where(constant, np.float32(1), np.float32(7)), scale_type)
        minus = np.clip(np.rint(reference.divided(group, negative)), -8, 0)
        plus = np.clip(np.rint(reference.divided(group, positive)), 0, 7)
        codes.append(8 + np.where(group < 0, minus, plus))
        below.append(negative)
        above.append(positive)
    return np.concatenate(codes, axis=1).astype(np.uint8), np.stack(below, axis=1), np.stack(above, axis=1)


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("group_size", [16, 32, 64, 128, 256, int4q.PER_ROW])
def test_twin_tensor(group_size: int, scale_type: int4q.Type, generator: np.random.Generator) -> None:
    for k in (1, 31, 96, 257, 600):
        weights = (generator.standard_normal((20, k)) * 2.0 ** generator.uniform(-8, 4, (20, 1))).astype(np.float32)
        weights[0] = 0
        weights[1] = 0.3
        weights[2] = -0.3
        weights[3] = np.abs(weights[3])
        weights[4] = -np.abs(weights[4])
        tensor = int4q.TwinTensor.quantize(weights, group_size, scale_type=scale_type)
        size = k if group_size == int4q.PER_ROW else group_size
        codes, negative, positive = reference_twin(weights, size, scale_type)
        np.testing.assert_array_equal(as_float32(tensor.scales_negative), negative)
        np.testing.assert_array_equal(as_float32(tensor.scales_positive), positive)
        unpacked = np.stack([tensor.codes & 15, tensor.codes >> 4], axis=2).reshape(20, -1)[:, :k]
        np.testing.assert_array_equal(unpacked, codes)
        steps = codes.astype(np.float32) - 8
        scale = np.where(steps < 0, np.repeat(negative, size, axis=1)[:, :k], np.repeat(positive, size, axis=1)[:, :k])
        np.testing.assert_array_equal(tensor.dequantize(), scale * steps)
        first, second = tensor.to_tensors()
        np.testing.assert_array_equal(first.dequantize() + second.dequantize(), scale * steps)


def test_two_products(generator: np.random.Generator) -> None:
    weights = generator.standard_normal((48, 300)).astype(np.float32)
    weights[weights < 0] *= 0.1
    tensor = int4q.TwinTensor.quantize(weights, 32)
    negative, positive = (half.pack() for half in tensor.to_tensors())
    x = generator.standard_normal((6, 300)).astype(np.float32)
    y = positive.matmul(x, residual=negative.matmul(x))
    exact = x.astype(np.float64) @ tensor.dequantize().astype(np.float64).T
    bound = negative.error_bound(x) + positive.error_bound(x) + 2.0**-24 * np.abs(y)
    assert np.all(np.abs(y - exact) <= bound)
    symmetric = int4q.quantize(weights, int4q.Scheme.symmetric(32)).dequantize()
    assert int4q.compare(weights, tensor.dequantize()).mse < 0.8 * int4q.compare(weights, symmetric).mse
