"""Block formats: ggml's bytes, byte for byte, and what blocks stand for."""

from __future__ import annotations

import make_ggml
import make_ggml_blocks as golden
import numpy as np
import pytest

import int4q

has_oracle = pytest.mark.skipif(
    make_ggml.find_ggml() is None, reason="libggml-python is not installed; the golden files are still compared"
)
FORMATS = list(int4q.Format)
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float64)
IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)


def halves(data: np.ndarray, at: int) -> np.ndarray:
    return np.ascontiguousarray(data[:, at : at + 2]).view("<f2").astype(np.float64)


def split(codes: np.ndarray) -> np.ndarray:
    """Bytes whose low nibbles are the first half."""
    return np.concatenate([codes & 15, codes >> 4], axis=1)


def decode(blocks: int4q.Blocks) -> np.ndarray:
    """float64[n][k] from the layouts' definitions; every format's values are exact but for one rounding."""
    kind = golden.TYPES[blocks.format - 1]
    data = blocks.data.reshape(-1, kind.block_bytes)
    if blocks.format == int4q.Format.Q4_0:
        values = halves(data, 0) * (split(data[:, 2:]).astype(np.float64) - 8)
    elif blocks.format == int4q.Format.Q4_1:
        values = halves(data, 0) * split(data[:, 4:]) + halves(data, 2)
    elif blocks.format == int4q.Format.IQ4_NL:
        values = halves(data, 0) * IQ4_NL[split(data[:, 2:])]
    elif blocks.format == int4q.Format.MXFP4:
        values = 2.0 ** (data[:, :1].astype(np.float64) - 128) * E2M1[split(data[:, 1:])]
    elif blocks.format == int4q.Format.NVFP4:
        code = data[:, :4].astype(np.int64)
        scale = np.where(code < 8, code * 2.0**-9, (1 + (code % 8) / 8) * 2.0 ** (code // 8 - 7))
        pieces = [scale[:, [t]] / 2 * E2M1[split(data[:, 4 + 8 * t : 12 + 8 * t])] for t in range(4)]
        values = np.concatenate(pieces, axis=1)
    else:
        packed = data[:, 4:16].astype(np.int64)
        pieces = []
        for j in range(8):
            if j < 4:
                scale, low = packed[:, j] & 63, packed[:, j + 4] & 63
            else:
                scale = (packed[:, j + 4] & 15) | (packed[:, j - 4] >> 6) << 4
                low = (packed[:, j + 4] >> 4) | (packed[:, j] >> 6) << 4
            codes = data[:, 16 + j // 2 * 32 : 48 + j // 2 * 32] >> (4 * (j % 2)) & 15
            pieces.append(halves(data, 0) * scale[:, None] * codes - halves(data, 2) * low[:, None])
        values = np.concatenate(pieces, axis=1)
    return values.reshape(blocks.shape)


def sqnr(source: np.ndarray, decoded: np.ndarray, weights: float | np.ndarray = 1.0) -> float:
    error = decoded.astype(np.float64) - source
    return float(10 * np.log10((weights * source.astype(np.float64) ** 2).sum() / (weights * error**2).sum()))


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    return golden.read()


@pytest.fixture(params=["portable", None], ids=["portable", "best-isa"])
def isa(request: pytest.FixtureRequest):
    int4q.set_isa_limit(request.param)
    yield
    int4q.set_isa_limit(None)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("isa")
def test_golden(vectors: dict[str, np.ndarray], format: int4q.Format) -> None:
    blocks = int4q.quantize_blocks(vectors["source"], format)
    np.testing.assert_array_equal(blocks.data, vectors[format.name])
    weighted = int4q.quantize_blocks(vectors["source"], format, importance=vectors["importance"])
    np.testing.assert_array_equal(weighted.data, vectors.get(f"{format.name} importance", blocks.data))


@has_oracle
@pytest.mark.parametrize("kind", golden.TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", range(2))
def test_live(kind: golden.GgmlType, seed: int) -> None:
    library = make_ggml.load_ggml()
    generator = np.random.default_rng(seed)
    source = generator.standard_normal((100, 768)) if seed == 0 else generator.laplace(size=(100, 768))
    source = (source * 2.0 ** generator.uniform(-9, 3, (100, 1))).astype(np.float32)
    importance = generator.lognormal(0, 1, 768).astype(np.float32) if kind.takes_importance else None
    for weights in (None, importance):
        expected = golden.quantize(library, kind, source, weights)
        np.testing.assert_array_equal(int4q.quantize_blocks(source, kind.name, importance=weights).data, expected)


@has_oracle
def test_golden_file_is_what_ggml_says() -> None:
    assert golden.PATH.read_bytes() == golden.file_bytes(make_ggml.load_ggml())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("isa")
def test_dequantizes_and_converts_exactly(vectors: dict[str, np.ndarray], format: int4q.Format) -> None:
    blocks = int4q.Blocks(format, *vectors["source"].shape, vectors[format.name].copy())
    expected = decode(blocks).astype(np.float32)
    np.testing.assert_array_equal(blocks.dequantize(), expected)
    np.testing.assert_array_equal(blocks.dequantize(np.float16), expected.astype(np.float16))
    tensor = blocks.to_tensor()
    np.testing.assert_array_equal(tensor.dequantize(), expected)
    if format in (int4q.Format.Q4_K, int4q.Format.NVFP4):
        with pytest.raises(int4q.UnsupportedError):
            int4q.Blocks.from_tensor(tensor, format)
    else:
        np.testing.assert_array_equal(int4q.Blocks.from_tensor(tensor, format).data, blocks.data)
    x = np.random.default_rng(1).standard_normal((3, blocks.k)).astype(np.float32)
    usable = np.abs(expected).max(axis=1) < 1e6
    product = blocks.pack().matmul(x, mode=int4q.Mode.F32)[:, usable]
    exact = x.astype(np.float64) @ expected[usable].astype(np.float64).T
    scale = np.abs(x).astype(np.float64) @ np.abs(expected[usable]).astype(np.float64).T
    assert (np.abs(product - exact) <= 1e-5 * scale + 1e-30).all()


def test_mxfp4_of_f32_scales(vectors: dict[str, np.ndarray]) -> None:
    blocks = int4q.quantize_blocks(vectors["source"], "mxfp4")
    tensor = blocks.to_tensor(scale_type=int4q.Type.F32)
    np.testing.assert_array_equal(tensor.dequantize(), blocks.dequantize())
    np.testing.assert_array_equal(int4q.Blocks.from_tensor(tensor, "mxfp4").data, blocks.data)
    tensor.scales[3, 2] = 0.75
    with pytest.raises(int4q.MismatchError, match="row 3, column 2"):
        int4q.Blocks.from_tensor(tensor, "mxfp4")


# dB on Gaussian and Laplacian values: REFERENCE's, and what BEST gains at least.
QUALITY = {
    int4q.Format.Q4_0: (21.31, 19.43, 0.3),
    int4q.Format.Q4_1: (22.14, 20.75, 0.3),
    int4q.Format.Q4_K: (22.94, 21.45, 0.05),
    int4q.Format.IQ4_NL: (22.37, 21.13, 0.1),
    int4q.Format.MXFP4: (18.8, 17.95, 0.1),
    int4q.Format.NVFP4: (20.44, None, 0.3),
}


@pytest.mark.parametrize("format", FORMATS)
def test_quality(format: int4q.Format) -> None:
    generator = np.random.default_rng(11)
    sets = [generator.standard_normal((256, 1024)), generator.laplace(size=(256, 1024))]
    gauss, laplace, gain = QUALITY[format]
    for source, expected in zip(sets, (gauss, laplace)):
        source = source.astype(np.float32)
        plain = sqnr(source, decode(int4q.quantize_blocks(source, format)))
        best = int4q.quantize_blocks(source, format, search="best")
        assert expected is None or plain == pytest.approx(expected, abs=0.1)
        assert sqnr(source, decode(best)) > plain + gain
        np.testing.assert_array_equal(best.dequantize(), decode(best).astype(np.float32))


@pytest.mark.parametrize("format", FORMATS)
def test_best_heeds_importance(format: int4q.Format) -> None:
    generator = np.random.default_rng(12)
    source = generator.standard_normal((128, 512)).astype(np.float32)
    importance = generator.lognormal(0, 1.5, 512).astype(np.float32)
    plain = int4q.quantize_blocks(source, format, search="best")
    weighted = int4q.quantize_blocks(source, format, search="best", importance=importance)
    reference = int4q.quantize_blocks(source, format, importance=importance)
    gained = sqnr(source, decode(weighted), importance)
    assert gained > sqnr(source, decode(plain), importance)
    assert gained > sqnr(source, decode(reference), importance)


def test_best_of_special_rows(vectors: dict[str, np.ndarray]) -> None:
    """Never much worse than ggml's, whatever the values."""
    source = vectors["source"].astype(np.float64)
    for format in FORMATS:
        best = decode(int4q.quantize_blocks(vectors["source"], format, search="best"))
        plain = decode(int4q.quantize_blocks(vectors["source"], format))
        errors = ((best - source) ** 2).sum(axis=1), ((plain - source) ** 2).sum(axis=1)
        # Q4_K's search starts from lines of its own.
        limit = 1.1 if format == int4q.Format.Q4_K else 1.0001
        assert (errors[0] <= errors[1] * limit + 1e-60).all(), format


@pytest.mark.parametrize("format", FORMATS)
def test_same_bytes_whatever_the_split_and_instruction_set(format: int4q.Format) -> None:
    generator = np.random.default_rng(13)
    k = 256 if format == int4q.Format.Q4_K else 64
    source = generator.standard_normal((37, k)).astype(np.float32)
    importance = generator.lognormal(0, 1, k).astype(np.float32)
    for search in ("reference", "best"):
        for weights in (None, importance):
            whole = int4q.quantize_blocks(source, format, search=search, importance=weights, threads=1)
            for begin in range(0, 37, 5):
                part = int4q.quantize_blocks(source[begin : begin + 5], format, search=search, importance=weights)
                np.testing.assert_array_equal(part.data, whole.data[begin : begin + 5])
            for isa in ("portable", "avx2", "avx512vnni"):
                with int4q.set_isa_limit(isa):
                    again = int4q.quantize_blocks(source, format, search=search, importance=weights)
                np.testing.assert_array_equal(again.data, whole.data)


@pytest.mark.parametrize("format", FORMATS)
def test_other_source_types(format: int4q.Format) -> None:
    source = np.random.default_rng(14).standard_normal((5, 512)).astype(np.float16)
    expected = int4q.quantize_blocks(source.astype(np.float32), format)
    np.testing.assert_array_equal(int4q.quantize_blocks(source, format).data, expected.data)
    bits = (source.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    widened = (bits.astype(np.uint32) << 16).view(np.float32)
    expected = int4q.quantize_blocks(widened, format)
    np.testing.assert_array_equal(int4q.quantize_blocks(bits, format, element_type="bf16").data, expected.data)


def test_global_scale() -> None:
    source = (np.random.default_rng(15).standard_normal((64, 512)) * 0.02).astype(np.float32)
    scale = np.float32(np.abs(source).max() / (240 * 6))  # what ggml makes of scales beyond 248 is 448
    plain = int4q.quantize_blocks(source, "nvfp4")
    scaled = int4q.quantize_blocks(source, "nvfp4", global_scale=scale)
    assert sqnr(source, scaled.dequantize()) > sqnr(source, plain.dequantize()) + 0.5
    np.testing.assert_array_equal(scaled.to_tensor().dequantize(), scaled.dequantize())
    np.testing.assert_allclose(scaled.dequantize(), decode(scaled) * float(scale), rtol=2e-7)
    same = int4q.quantize_blocks((source / scale).astype(np.float32), "nvfp4")
    np.testing.assert_array_equal(same.data, scaled.data)


def test_denormal_blocks_of_mxfp4() -> None:
    """Where ggml's exponent would leave its byte ours is the smallest."""
    source = (np.arange(32, dtype=np.float32) - 16).reshape(1, 32) * np.float32(2.0**-130)
    blocks = int4q.quantize_blocks(source, "mxfp4")
    assert blocks.data[0, 0] == 0
    assert sqnr(source, decode(blocks)) > 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(format=7), ValueError, "7"),
        (dict(format="q5_0"), ValueError, "Q4_K"),
        (dict(weights=np.ones((2, 48))), int4q.InvalidArgumentError, "k is 48; expected a multiple of the format's block, 32"),
        (dict(weights=np.ones((2, 128)), format="q4_k"), int4q.InvalidArgumentError, "256"),
        (dict(weights=np.full((2, 64), np.nan)), int4q.NotFiniteError, "nan at row 0, column 0"),
        (dict(weights=np.full((2, 64), 1e30)), int4q.NotFiniteError, "scale fits"),
        (dict(importance=np.ones(63)), ValueError, "shape"),
        (dict(importance=-np.ones(64)), int4q.InvalidArgumentError, "importance is -1"),
        (dict(importance=np.full(64, np.inf)), int4q.NotFiniteError, "importance is inf"),
        (dict(global_scale=2.0), int4q.InvalidArgumentError, "global_scale is 2"),
        (dict(global_scale=-1.0, format="nvfp4"), int4q.InvalidArgumentError, "global_scale is -1"),
        (dict(global_scale=np.inf, format="nvfp4"), int4q.NotFiniteError, "global_scale is inf"),
        (dict(search="worst"), ValueError, "REFERENCE"),
    ],
)
def test_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    call = {"weights": np.ones((2, 64), np.float32), "format": "q4_0", **arguments}
    with pytest.raises(error, match=message):
        int4q.quantize_blocks(**call)


def test_blocks_refuse_wrong_arrays() -> None:
    with pytest.raises(ValueError, match="shape"):
        int4q.Blocks(int4q.Format.Q4_0, 2, 64, np.zeros((2, 35), np.uint8))
    with pytest.raises(TypeError, match="dtype"):
        int4q.Blocks(int4q.Format.Q4_0, 2, 64, np.zeros((2, 36), np.int8))
    with pytest.raises(ValueError, match="bytes"):
        int4q.Blocks.from_bytes(bytes(71), "q4_0", 2, 64)
    blocks = int4q.Blocks.from_bytes(bytes(72), "q4_0", 2, 64)
    assert not blocks.dequantize().any() and blocks.nbytes == 72 and blocks.shape == (2, 64)
    broken = bytearray(72)
    broken[18:20] = b"\x00\x7c"  # an infinite scale, of the second block
    with pytest.raises(int4q.NotFiniteError, match="row 0, column 32"):
        int4q.Blocks.from_bytes(bytes(broken), "q4_0", 2, 64).to_tensor()
