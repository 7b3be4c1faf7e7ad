"""Double quantization of scales against its definition in NumPy and against bitsandbytes."""

from __future__ import annotations

import make_double
import numpy as np
import pytest
import reference
from conftest import as_float32, in_type

import int4q

GOLDEN = np.load(make_double.NPZ_PATH)
has_oracle = pytest.mark.skipif(
    not make_double.has_bitsandbytes(), reason="bitsandbytes is not installed; the golden files are still compared"
)


def golden_cases() -> list[dict[str, np.ndarray]]:
    names = ("offset", "scales", "codes", "nested", "values")
    return [{name: GOLDEN[f"{name}_{i}"] for name in names} for i in range(int(GOLDEN["count"]))]


def nearest_codes(scales: np.ndarray, offset: float, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and nested scales, from the header."""
    table = int4q.dynamic_map()
    midpoints = np.float32(0.5) * (table[:-1] + table[1:])
    codes, nested = [], []
    for begin in range(0, scales.size, block_size):
        shifted = scales[begin : begin + block_size] - np.float32(offset)
        largest = np.abs(shifted).max()
        nested.append(largest)
        with np.errstate(divide="ignore", invalid="ignore"):
            v = shifted * (np.float32(1) / largest)
        codes.append(np.searchsorted(midpoints, v, side="left") if largest else np.zeros(shifted.size))
    return np.concatenate(codes).astype(np.uint8), np.array(nested, np.float32)


def test_map() -> None:
    np.testing.assert_array_equal(int4q.dynamic_map(), GOLDEN["map"])


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("block_size", [1, 16, 100, 256, 1000])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 3000])
def test_nearest(count: int, block_size: int, scale_type: int4q.Type, generator: np.random.Generator) -> None:
    scales = in_type((generator.standard_normal(count) * 0.01 + 0.05).astype(np.float32), scale_type)
    doubled = int4q.DoubleScales.quantize(scales, block_size, element_type=scale_type)
    floats = as_float32(scales)
    assert doubled.offset == np.float32(floats.astype(np.float64).sum() / count) or count > 300  # NumPy adds in pairs
    codes, nested = nearest_codes(floats, doubled.offset, block_size)
    np.testing.assert_array_equal(doubled.codes, codes)
    np.testing.assert_array_equal(doubled.nested_scales, nested)
    back = as_float32(doubled.dequantize(scale_type))
    wanted = int4q.dynamic_map()[codes] * np.repeat(nested, block_size)[:count] + np.float32(doubled.offset)
    np.testing.assert_array_equal(back, reference.rounded(wanted, scale_type))


def test_threads_do_not_matter(generator: np.random.Generator) -> None:
    scales = generator.standard_normal((700, 600)).astype(np.float32)
    one = int4q.DoubleScales.quantize(scales, threads=1)
    many = int4q.DoubleScales.quantize(scales, threads=5)
    np.testing.assert_array_equal(one.codes, many.codes)
    np.testing.assert_array_equal(one.dequantize(threads=1), many.dequantize(threads=5))
    assert one.dequantize().shape == (700, 600)
    assert one.nbytes < 0.26 * scales.nbytes


@pytest.mark.parametrize("case", golden_cases())
def test_equals_bitsandbytes(case: dict[str, np.ndarray]) -> None:
    rule = int4q.DoubleRule.BITSANDBYTES
    doubled = int4q.DoubleScales.quantize(case["scales"], rule=rule, offset=float(case["offset"]))
    np.testing.assert_array_equal(doubled.nested_scales, case["nested"])
    np.testing.assert_array_equal(doubled.codes, case["codes"])
    np.testing.assert_array_equal(doubled.dequantize(), case["values"])
    # Its mean is ours but for the last bits.
    magnitude = np.abs(case["scales"]).mean()
    assert abs(int4q.DoubleScales.quantize(case["scales"]).offset - case["offset"]) <= 1e-6 * magnitude


@has_oracle
def test_equals_the_installed_bitsandbytes(generator: np.random.Generator) -> None:
    for _ in range(20):
        scales = (generator.standard_normal(5000) * 10.0 ** generator.uniform(-5, 5)).astype(np.float32)
        case = make_double.double_quantize(scales)
        rule = int4q.DoubleRule.BITSANDBYTES
        doubled = int4q.DoubleScales.quantize(scales, rule=rule, offset=float(case["offset"]))
        np.testing.assert_array_equal(doubled.codes, case["codes"])
        np.testing.assert_array_equal(doubled.dequantize(), case["values"])


def test_scales_of_a_tensor(generator: np.random.Generator) -> None:
    """The use: 4-bit weights whose scales cost a byte instead of four."""
    weights = generator.standard_normal((64, 2048)).astype(np.float32)
    tensor = int4q.quantize(weights, int4q.Scheme.symmetric(64, scale_type=int4q.Type.F32, scale_rule=int4q.ScaleRule.AMAX_7))
    doubled = int4q.DoubleScales.quantize(tensor.scales)
    approximate = int4q.QuantizedTensor(tensor.scheme, tensor.n, tensor.k, tensor.codes, doubled.dequantize())
    assert int4q.compare(tensor.dequantize(), approximate.dequantize()).sqnr_db > 40
    with pytest.raises(int4q.NotFiniteError, match="column 3"):
        int4q.DoubleScales.quantize([0.0, 1.0, 2.0, np.nan])
    with pytest.raises(ValueError):
        int4q.DoubleScales.quantize(np.empty(0, np.float32))
    with pytest.raises(int4q.InvalidArgumentError):
        int4q.DoubleScales.quantize([1.0], block_size=0)
