"""INT4Q_ROUNDING_MLX against MLX itself, byte for byte."""

from __future__ import annotations

import make_mlx
import ml_dtypes
import numpy as np
import pytest

import int4q

has_oracle = pytest.mark.skipif(not make_mlx.has_mlx(), reason="mlx is not installed; the golden files are still compared")
TYPES = {"f32": int4q.Type.F32, "f16": int4q.Type.F16, "bf16": int4q.Type.BF16}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(make_mlx.NPZ_PATH) as file:
        return dict(file)


def assert_same(source: np.ndarray, name: str, group_size: int, parts: list[np.ndarray]) -> None:
    tensor = int4q.quantize(source, int4q.Scheme.mlx(group_size, scale_type=TYPES[name]))
    ours = [tensor.codes, tensor.scales, tensor.offsets]
    for mine, theirs in zip(ours, parts, strict=True):
        assert mine is not None
        np.testing.assert_array_equal(mine.view(np.uint8).reshape(-1), theirs.view(np.uint8).reshape(-1))


@pytest.mark.parametrize("name", list(TYPES))
@pytest.mark.parametrize("group_size", make_mlx.GROUP_SIZES)
def test_golden(golden: dict[str, np.ndarray], name: str, group_size: int) -> None:
    source = golden[f"{name}_source"]
    if name == "bf16":
        source = source.view(ml_dtypes.bfloat16)
    assert len(source) == 60
    assert_same(source, name, group_size, [golden[f"{name}_{group_size}_{part}"] for part in ("codes", "scales", "biases")])


def test_golden_file_of_the_cpp_tests(golden: dict[str, np.ndarray]) -> None:
    assert make_mlx.BIN_PATH.read_bytes() == make_mlx.bin_bytes(golden)


def test_zero_is_a_value() -> None:
    """What the offset at the far end is for: a zero stays a zero, as near as the stored numbers allow."""
    weights = np.random.default_rng(3).standard_normal((40, 64)).astype(np.float32) + np.float32(0.3)
    weights[:, 5] = 0
    back = int4q.quantize(weights, int4q.Scheme.mlx(64, scale_type=int4q.Type.F32)).dequantize()
    assert np.abs(back[:, 5]).max() < 1e-6
    plain = int4q.quantize(weights, int4q.Scheme.offset(64, scale_type=int4q.Type.F32)).dequantize()
    assert np.abs(plain[:, 5]).max() > 1e-2


def test_blob_and_product() -> None:
    """Negative scales pass through packing and all products."""
    generator = np.random.default_rng(4)
    weights, x = generator.standard_normal((50, 200)).astype(np.float32), generator.standard_normal((3, 200)).astype(np.float32)
    tensor = int4q.quantize(weights, int4q.Scheme.mlx(64))
    assert (tensor.scales < 0).any() and (tensor.scales > 0).any()
    expected = x.astype(np.float64) @ tensor.dequantize().astype(np.float64).T
    for mode, tolerance in ((int4q.Mode.F32, 1e-4), (int4q.Mode.INT8, 0.3), (int4q.Mode.BF16, 0.3)):
        np.testing.assert_allclose(tensor.pack().matmul(x, mode=mode), expected, atol=tolerance)


@has_oracle
@pytest.mark.parametrize("seed", range(3))
def test_live(seed: int) -> None:
    generator = np.random.default_rng(seed)
    source = (generator.standard_normal((2000, 256)) * 10.0 ** generator.integers(-6, 6, (2000, 1))).astype(np.float32)
    source[:300] = generator.integers(-8, 8, (300, 256)) * np.float32(0.25)
    for group_size in make_mlx.GROUP_SIZES:
        assert_same(source, "f32", group_size, list(make_mlx.quantize(source, group_size)))
