"""INT4Q_ROUNDING_GGML against ggml itself, byte for byte."""

from __future__ import annotations

import make_ggml
import numpy as np
import pytest

import int4q

has_oracle = pytest.mark.skipif(
    make_ggml.find_ggml() is None, reason="libggml-python is not installed; the golden files are still compared"
)


def blocks_of(tensor: int4q.QuantizedTensor) -> np.ndarray:
    """The tensor in ggml's layout: scale, minimum if any, codes with element j beside j + 16."""
    codes = tensor.code_matrix().reshape(-1, make_ggml.BLOCK)
    packed = codes[:, :16] | codes[:, 16:] << 4
    floats = [tensor.scales] if tensor.offsets is None else [tensor.scales, tensor.offsets]
    heads = [part.reshape(-1, 1).view(np.uint8) for part in floats]
    return np.concatenate([*heads, packed], axis=1)


def assert_same_blocks(source: np.ndarray, q4_0: np.ndarray, q4_1: np.ndarray) -> None:
    np.testing.assert_array_equal(blocks_of(int4q.quantize(source, int4q.Scheme.ggml_q4_0())), q4_0)
    np.testing.assert_array_equal(blocks_of(int4q.quantize(source, int4q.Scheme.ggml_q4_1())), q4_1)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(make_ggml.NPZ_PATH) as file:
        return {name: file[name] for name in ("source", "q4_0", "q4_1")}


def test_golden_blocks(golden: dict[str, np.ndarray]) -> None:
    assert len(golden["source"]) == 2000
    assert_same_blocks(golden["source"], golden["q4_0"], golden["q4_1"])


def test_golden_blocks_as_rows(golden: dict[str, np.ndarray]) -> None:
    """A row of many groups gives the same blocks in the same order."""
    rows = golden["source"].reshape(50, -1)
    assert_same_blocks(rows, golden["q4_0"], golden["q4_1"])


def test_golden_file_of_the_cpp_tests(golden: dict[str, np.ndarray]) -> None:
    assert make_ggml.BIN_PATH.read_bytes() == make_ggml.bin_bytes(**golden)


@has_oracle
def test_golden_files_are_what_ggml_says(golden: dict[str, np.ndarray]) -> None:
    library = make_ggml.load_ggml()
    source = make_ggml.make_blocks()
    assert source.tobytes() == golden["source"].tobytes()
    np.testing.assert_array_equal(make_ggml.quantize_q4_0(library, source), golden["q4_0"])
    np.testing.assert_array_equal(make_ggml.quantize_q4_1(library, source), golden["q4_1"])


@has_oracle
@pytest.mark.parametrize("seed", range(3))
def test_live(seed: int) -> None:
    library = make_ggml.load_ggml()
    generator = np.random.default_rng(seed)
    sets = [
        make_ggml.make_blocks(seed, 5000),
        make_ggml.tie_blocks(generator, 20000),
        (generator.integers(-64, 64, (20000, 32)) / 7).astype(np.float32),
    ]
    source = np.concatenate(sets)
    expected = make_ggml.quantize_q4_0(library, source), make_ggml.quantize_q4_1(library, source)
    assert_same_blocks(source, *expected)
