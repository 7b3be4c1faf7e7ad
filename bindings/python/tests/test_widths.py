"""Codes of 8 bits, BINARY, TERNARY, scales that are powers of two or the caller's: quantizing, blobs and products, against NumPy,
other projects' quantizers and other instruction sets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import as_float32, available_isas, in_type
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bfloat16_bits, int8_activations, rounded

import int4q
from int4q import Kind, Mode, Scheme, ScaleRule, Type

ISAS = available_isas()
POOL = int4q.Pool(2)
GROUPS = [16, 32, 64, 128, 256, int4q.PER_ROW]
KINDS = ["symmetric", "asymmetric", "offset", "binary", "ternary"]


def make(kind: str, group_size: int, scale_type: Type = Type.F16, rule: ScaleRule = ScaleRule.DEFAULT) -> Scheme:
    bits = {} if kind in ("binary", "ternary") else {"bits": 8}
    return dataclasses.replace(getattr(Scheme, kind)(group_size, scale_type=scale_type, **bits), scale_rule=rule)


def schemes(groups: list[int] = GROUPS, types: tuple[Type, ...] = tuple(Type)) -> list[Scheme]:
    return [make(kind, group, t) for kind in KINDS for group in groups for t in types
            if group != 16 or kind not in ("binary", "ternary")]


# ---- Definitions ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Group:
    scale: np.float32
    codes: np.ndarray
    zero: int = 0
    offset: np.float32 = np.float32(0)


def quantize_group(w: np.ndarray, scheme: Scheme) -> Group:
    """One group of one row, from the header's words."""
    f32 = np.float32
    low, high, largest = w.min(), w.max(), np.abs(w).max()
    constant = low == high and low != 0
    to_type = lambda value: rounded(np.array([value], f32), scheme.scale_type)[0]
    if scheme.kind == Kind.BINARY:
        return Group(to_type(f32(np.abs(w).astype(np.float64).mean())), (w >= 0).astype(np.uint8))
    if scheme.kind == Kind.TERNARY:
        mean = f32(np.abs(w).astype(np.float64).mean())
        scale = to_type(largest if scheme.scale_rule == ScaleRule.AMAX_7 else mean)
        if scale == 0:
            return Group(scale, np.ones(len(w), np.uint8))
        return Group(scale, (np.clip(np.rint(w / scale), -1, 1) + 1).astype(np.uint8))
    if scheme.kind == Kind.SYMMETRIC:
        signed = w[np.abs(w).argmax()]
        if scheme.scale_rule == ScaleRule.POWER_OF_TWO:
            exact = largest / f32(127 if scheme.bits == 8 else 7)
            scale = to_type(f32(2.0 ** np.ceil(np.log2(np.float64(exact))))) if exact else f32(0)
        elif scheme.scale_rule == ScaleRule.SIGNED_MAX_8:
            scale = to_type(signed / f32(-128))
        else:
            scale = to_type(largest if constant else largest / f32(127.5 if scheme.scale_rule == ScaleRule.AMAX_7_5 else 127))
        middle = 128 if scheme.bits == 8 else 8
        if scale == 0:
            return Group(scale, np.full(len(w), middle, np.uint8))
        lowest = 1 if scheme.code_range == int4q.CodeRange.RESTRICTED else 0
        return Group(scale, np.clip(np.rint(w / scale) + middle, lowest, 2 * middle - 1).astype(np.uint8))
    if scheme.kind == Kind.ASYMMETRIC:
        scale = to_type(abs(low) if constant else (max(high, f32(0)) - min(low, f32(0))) / f32(255))
        if scale == 0:
            return Group(scale, np.zeros(len(w), np.uint8))
        zero = int(np.clip(np.rint(-min(low, f32(0)) / scale), 0, 255))
        return Group(scale, np.clip(np.rint(w / scale) + zero, 0, 255).astype(np.uint8), zero)
    offset, scale = to_type(low) + f32(0), to_type((high - low) / f32(255))
    codes = np.zeros(len(w)) if scale == 0 else np.clip(np.rint((w - offset) / scale), 0, 255)
    return Group(scale, codes.astype(np.uint8), 0, offset)


def exact_weights(tensor: int4q.QuantizedTensor) -> np.ndarray:
    """float64[n][k]."""
    codes = tensor.code_matrix().astype(np.float64)
    size = tensor.k if tensor.scheme.group_size == int4q.PER_ROW else tensor.scheme.group_size
    spread = lambda a: np.repeat(as_float32(a).astype(np.float64), size, axis=1)[:, : tensor.k]
    scale = spread(tensor.scales)
    match tensor.scheme.kind:
        case Kind.BINARY:
            return scale * (2 * codes - 1)
        case Kind.TERNARY:
            return scale * (codes - 1)
        case Kind.SYMMETRIC:
            return scale * (codes - 2 ** (tensor.scheme.bits - 1))
        case Kind.ASYMMETRIC:
            return scale * (codes - spread(tensor.zero_points.astype(np.float32)))
    return scale * codes + spread(tensor.offsets)


def weights(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """Gaussian rows of many sizes, some with constant and zero stretches and both zeros."""
    w = (rng.standard_normal((n, k)) * np.exp2(rng.integers(-12, 12, (n, 1)))).astype(np.float32)
    w[rng.random((n, k)) < 0.02] = -0.0
    w[0, : min(k, 70)] = 0
    w[-1, : min(k, 100)] = -3.25
    w[n // 2] += 4 * np.abs(w[n // 2]).max()
    return w


@pytest.mark.parametrize("scheme", schemes(), ids=str)
def test_codes_and_scales_are_those_of_the_definition(scheme: Scheme) -> None:
    rng = np.random.default_rng(scheme.group_size + 2)
    for k in (1, 31, 64, 333):
        w = weights(rng, 7, k)
        tensor = int4q.quantize(w, scheme)
        size = k if scheme.group_size == int4q.PER_ROW else scheme.group_size
        for row in range(7):
            for group in range(tensor.scales.shape[1]):
                part = slice(group * size, min((group + 1) * size, k))
                wanted = quantize_group(w[row, part], scheme)
                assert as_float32(tensor.scales)[row, group] == wanted.scale
                np.testing.assert_array_equal(tensor.code_matrix()[row, part], wanted.codes)
                if scheme.kind == Kind.ASYMMETRIC:
                    assert tensor.zero_points[row, group] == wanted.zero
                if scheme.kind == Kind.OFFSET:
                    assert as_float32(tensor.offsets)[row, group] == wanted.offset
        exact = exact_weights(tensor)
        np.testing.assert_allclose(tensor.dequantize(), exact, rtol=2**-23, atol=1e-40)


@pytest.mark.parametrize(("rule", "bits"), [(ScaleRule.AMAX_7_5, 8), (ScaleRule.SIGNED_MAX_8, 8), (ScaleRule.POWER_OF_TWO, 8),
                                            (ScaleRule.POWER_OF_TWO, 4)])
def test_rules_of_symmetric_scales(rule: ScaleRule, bits: int) -> None:
    w = weights(np.random.default_rng(bits), 9, 200)
    scheme = Scheme.symmetric(64, scale_type=Type.F32, scale_rule=rule, bits=bits)
    tensor = int4q.quantize(w, scheme)
    for row in range(9):
        for group in range(4):
            wanted = quantize_group(w[row, group * 64 : group * 64 + 64], scheme)
            assert tensor.scales[row, group] == wanted.scale
            np.testing.assert_array_equal(tensor.code_matrix()[row, group * 64 : group * 64 + 64], wanted.codes)
            if rule == ScaleRule.POWER_OF_TWO and wanted.scale:
                assert np.frexp(wanted.scale)[0] == 0.5
                assert wanted.scale * (2 ** (bits - 1) - 1) >= np.abs(w[row, group * 64 : group * 64 + 64]).max() > 0


def test_ternary_of_the_largest_magnitude() -> None:
    w = weights(np.random.default_rng(5), 6, 256)
    scheme = Scheme.ternary(256, scale_rule=ScaleRule.AMAX_7)
    tensor = int4q.quantize(w, scheme)
    for row in range(6):
        wanted = quantize_group(w[row], scheme)
        assert as_float32(tensor.scales)[row, 0] == wanted.scale
        np.testing.assert_array_equal(tensor.code_matrix()[row], wanted.codes)


@pytest.mark.parametrize("source_type", list(Type))
def test_sources_of_each_type(source_type: Type) -> None:
    w = in_type(weights(np.random.default_rng(8), 5, 96).clip(-60000, 60000), source_type)
    for scheme in schemes([32], (Type.F32,)):
        tensor = int4q.quantize(w, scheme, element_type=source_type)
        again = int4q.quantize(as_float32(w), scheme)
        np.testing.assert_array_equal(tensor.codes, again.codes)
        np.testing.assert_array_equal(tensor.scales, again.scales)


# ---- Scales of the caller ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_given_scales_for_the_whole_matrix(kind: str) -> None:
    w = weights(np.random.default_rng(3), 6, 150)
    scheme = make(kind, int4q.PER_ROW, Type.F32).given()
    parts = {"zero_points": 100} if kind == "asymmetric" else {"offsets": -1.5} if kind == "offset" else {}
    tensor = int4q.quantize(w, scheme, scales=0.25, **parts)
    assert (tensor.scales == 0.25).all()
    steps = np.clip(np.rint(np.clip((w - parts.get("offsets", np.float32(0))) / np.float32(0.25), -1e6, 1e6)), -1e6, 1e6)
    wanted = {
        "symmetric": np.clip(steps + 128, 0, 255),
        "asymmetric": np.clip(steps + 100, 0, 255),
        "offset": np.clip(steps, 0, 255),
        "binary": w >= 0,
        "ternary": np.clip(steps, -1, 1) + 1,
    }[kind]
    np.testing.assert_array_equal(tensor.code_matrix(), wanted)


def test_given_scales_of_four_bits_and_of_codebooks() -> None:
    w = weights(np.random.default_rng(4), 6, 150)
    found = int4q.quantize(w, Scheme.symmetric(32, scale_rule=ScaleRule.AMAX_7))
    again = int4q.quantize(w, Scheme.symmetric(32).given(), scales=found.scales)
    constant = (w.reshape(6, -1)[:, :1] == w).all()
    assert not constant
    np.testing.assert_array_equal(again.scales, found.scales)
    np.testing.assert_allclose(again.dequantize(), found.dequantize())
    nf4 = Scheme.codebook(int4q.codebook_values(int4q.Codebook.NF4), 64)
    found = int4q.quantize(w, nf4)
    np.testing.assert_array_equal(int4q.quantize(w, nf4.given(), scales=found.scales).codes, found.codes)


def test_given_scales_that_are_wrong() -> None:
    w = np.ones((4, 64), np.float32)
    scheme = Scheme.asymmetric(32, scale_type=Type.F32).given()
    with pytest.raises(int4q.NotFiniteError, match="tensor.scales"):
        int4q.quantize(w, scheme, scales=np.inf, zero_points=3)
    with pytest.raises(int4q.Int4QError, match="tensor.zero_points"):
        int4q.quantize(w, scheme, scales=1, zero_points=16)
    with pytest.raises(ValueError, match="zero_points is None"):
        int4q.quantize(w, scheme, scales=1)
    with pytest.raises(ValueError, match="scales is given"):
        int4q.quantize(w, Scheme.asymmetric(32), scales=1)
    with pytest.raises(int4q.Int4QError, match="none are given"):
        int4q.Blob.quantize(w, scheme)
    zero = int4q.quantize(w, scheme, scales=0, zero_points=7)
    assert (zero.code_matrix() == 7).all()


# ---- Blobs ---------------------------------------------------------------------------------------------------------

BYTE_OF = {0: 0, 4: 1, 1: 2, 5: 3, 2: 0, 6: 1, 3: 2, 7: 3}


def packed(codes: np.ndarray, bits: int, k_padded: int) -> np.ndarray:
    """The code rows of 16 rows of W from docs/blob-format.md: uint8[code rows][16 lanes][4]."""
    rows = np.zeros((k_padded * bits // 32, 16, 4), np.uint8)
    for k in range(codes.shape[1]):
        part = k // 8 * 2 + (k % 8 in (2, 6, 3, 7))
        row, place = part * bits // 8, part * bits % 8
        rows[row, : len(codes), BYTE_OF[k % 8]] |= codes[:, k] << place
    return rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 40, 333])
def test_blobs_have_the_documented_order_and_come_apart_again(kind: str, k: int) -> None:
    w = weights(np.random.default_rng(k), 21, k)
    for group in (32, int4q.PER_ROW):
        scheme = make(kind, group, Type.F32)
        tensor = int4q.quantize(w, scheme)
        blob = tensor.pack()
        blob.validate()
        assert bytes(blob) == bytes(int4q.Blob.quantize(w, scheme))
        info = blob.info
        assert info.scheme.bits == scheme.bits and info.scheme.kind == scheme.kind
        k_padded = -(-k // 32) * 32
        block = np.frombuffer(bytes(blob), np.uint8)[-2 * info.block_bytes :]
        for index in range(2):
            codes = packed(tensor.code_matrix()[16 * index : 16 * index + 16], scheme.bits, k_padded)
            begin = index * info.block_bytes
            np.testing.assert_array_equal(block[begin : begin + codes.size], codes.reshape(-1))
        again = blob.unpack()
        for part in ("codes", "scales", "zero_points", "offsets"):
            np.testing.assert_array_equal(getattr(again, part), getattr(tensor, part))
        rows = [20, 0, 7, 7]
        np.testing.assert_array_equal(blob.gather(rows), tensor.dequantize()[rows])


# ---- Products ------------------------------------------------------------------------------------------------------


def activations(rng: np.random.Generator, m: int, k: int) -> np.ndarray:
    x = rng.standard_normal((m, k)).astype(np.float32)
    x[rng.random((m, k)) < 0.05] = 0
    return x


def size_of(scheme: Scheme, k: int) -> int:
    return min(k, 65536) if scheme.group_size == int4q.PER_ROW else scheme.group_size


def int8_product(x: np.ndarray, tensor: int4q.QuantizedTensor, scales: np.ndarray | None = None) -> np.ndarray:
    """float64: quantized activations by exact weights."""
    codes, steps = int8_activations(x, size_of(tensor.scheme, tensor.k), scales)
    values = codes * steps.astype(np.float64)[:, :, None]
    return values.reshape(len(x), -1)[:, : tensor.k] @ exact_weights(tensor).T


def binary_product(x: np.ndarray, tensor: int4q.QuantizedTensor) -> np.ndarray:
    size = size_of(tensor.scheme, tensor.k)
    values = np.zeros(x.shape)
    for begin in range(0, tensor.k, size):
        part = x[:, begin : begin + size].astype(np.float64)
        values[:, begin : begin + size] = np.where(part >= 0, 1, -1) * np.abs(part).mean(axis=1, keepdims=True)
    return values @ exact_weights(tensor).T


def modes(scheme: Scheme) -> list[Mode]:
    few = scheme.kind in (Kind.BINARY, Kind.TERNARY)
    return [Mode.F32, Mode.INT8] + ([Mode.BINARY] if few else [])


def wanted(x: np.ndarray, tensor: int4q.QuantizedTensor, mode: Mode) -> np.ndarray:
    if mode == Mode.F32:
        return x.astype(np.float64) @ exact_weights(tensor).T
    return int8_product(x, tensor) if mode == Mode.INT8 else binary_product(x, tensor)


def tolerance(x: np.ndarray, tensor: int4q.QuantizedTensor, mode: Mode) -> np.ndarray:
    """Rounding of binary32 alone: every term at its largest, once for each operation on it."""
    scales = np.repeat(np.abs(as_float32(tensor.scales)), size_of(tensor.scheme, tensor.k), axis=1)[:, : tensor.k]
    magnitudes = np.abs(exact_weights(tensor)) + (scales * 300 if tensor.scheme.bits == 8 else 0)
    if tensor.offsets is not None:
        magnitudes = magnitudes + np.abs(as_float32(tensor.offsets)).max()
    x = np.abs(x).astype(np.float64)
    if mode == Mode.BINARY:
        x = np.full_like(x, x.max())
    return (tensor.k + 8 if mode == Mode.F32 else 64) * 2.0**-24 * (x @ magnitudes.T) + 1e-30


@pytest.mark.parametrize("scheme", schemes([16, 32, 128, int4q.PER_ROW], (Type.F16, Type.F32)), ids=str)
def test_products_equal_float64_and_one_another_on_every_instruction_set(scheme: Scheme) -> None:
    rng = np.random.default_rng(17)
    for n, k, ms in ((37, 333, (1, 2, 3, 5, 17)), (64, 512, (1, 4, 33)), (5, 20, (1, 7))):
        w = rng.standard_normal((n, k)).astype(np.float32) + np.float32(0.3)
        tensor = int4q.quantize(w, scheme)
        blob = tensor.pack()
        x = activations(rng, max(ms), k)
        for mode in modes(scheme):
            first = None
            for isa in ISAS:
                with int4q.set_isa_limit(isa):
                    whole = blob.matmul(x, mode=mode, pool=POOL)
                    for m in ms:
                        np.testing.assert_array_equal(blob.matmul(x[:m], mode=mode), whole[:m], f"{isa} {m}")
                first = whole if first is None else first
                np.testing.assert_array_equal(whole, first, f"{isa.name} {mode.name}")
            error = np.abs(first - wanted(x, tensor, mode))
            assert (error <= tolerance(x, tensor, mode)).all(), f"{mode.name} {(error / tolerance(x, tensor, mode)).max()}"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 700), st.integers(1, 20), st.sampled_from(schemes([32, 64, 256, int4q.PER_ROW], (Type.BF16,))),
       st.integers(0, 2**32 - 1))
def test_products_of_any_size(n: int, k: int, m: int, scheme: Scheme, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensor = int4q.quantize(rng.standard_normal((n, k)).astype(np.float32), scheme)
    blob = tensor.pack()
    x = activations(rng, m, k)
    for mode in modes(scheme):
        y = blob.matmul(x, mode=mode)
        assert (np.abs(y - wanted(x, tensor, mode)) <= tolerance(x, tensor, mode)).all()
        with int4q.set_isa_limit(int4q.Isa.PORTABLE):
            np.testing.assert_array_equal(blob.matmul(x, mode=mode), y)


def test_the_largest_sums() -> None:
    k = 65536 + 64
    w = np.full((16, k), 1.0, np.float32)
    w[:, ::2] = -1
    x = np.where(np.arange(k) % 2, 1.0, -1.0).astype(np.float32)[None]
    for scheme in (make("symmetric", int4q.PER_ROW, Type.F32), make("asymmetric", int4q.PER_ROW, Type.F32),
                   make("binary", int4q.PER_ROW, Type.F32), make("ternary", int4q.PER_ROW, Type.F32)):
        blob = int4q.Blob.quantize(w, scheme)
        values = blob.gather([0]).astype(np.float64)
        for mode in modes(scheme):
            for isa in ISAS:
                with int4q.set_isa_limit(isa):
                    np.testing.assert_allclose(blob.matmul(x, mode=mode), np.broadcast_to(x @ values.T, (1, 16)), rtol=1e-5)


def test_static_scales_of_activations() -> None:
    rng = np.random.default_rng(2)
    x = activations(rng, 9, 256)
    for scheme in schemes([64, int4q.PER_ROW], (Type.F32,)):
        tensor = int4q.quantize(rng.standard_normal((40, 256)).astype(np.float32), scheme)
        groups = 1 if scheme.group_size == int4q.PER_ROW else 4
        scales = np.full(groups, np.abs(x).max() / 127, np.float32)
        y = tensor.pack().matmul(x, mode=Mode.INT8, x_scales=scales)
        error = np.abs(y - int8_product(x, tensor, scales))
        assert (error <= 2 * tolerance(x, tensor, Mode.INT8)).all()


def test_rows_that_are_not_finite() -> None:
    x = activations(np.random.default_rng(6), 4, 128)
    x[1, 100], x[2, 3] = np.nan, -np.inf
    for scheme in schemes([64], (Type.F16,)):
        blob = int4q.Blob.quantize(np.ones((20, 128), np.float32), scheme)
        for mode in modes(scheme):
            for isa in ISAS:
                with int4q.set_isa_limit(isa):
                    y = blob.matmul(x, mode=mode)
                assert np.isfinite(y[[0, 3]]).all() and not np.isfinite(y[[1, 2]]).any()
                assert mode == Mode.F32 or np.isnan(y[[1, 2]]).all()


def test_error_bounds_hold() -> None:
    rng = np.random.default_rng(9)
    x = activations(rng, 6, 300)
    for scheme in schemes([32, 128, int4q.PER_ROW], (Type.F16,)):
        tensor = int4q.quantize(rng.standard_normal((24, 300)).astype(np.float32), scheme)
        blob = tensor.pack()
        exact = x.astype(np.float64) @ exact_weights(tensor).T
        for mode in (Mode.F32, Mode.INT8):
            for bound in int4q.Bound:
                limits = blob.error_bound(x, mode=mode, bound=bound)
                error = np.abs(blob.matmul(x, mode=mode) - exact)
                assert (error <= limits).all()
                assert limits.max() < 60 * max(error.max(), 1e-9) or bound == int4q.Bound.WORST_CASE


def test_modes_that_a_width_has_not() -> None:
    x = np.ones((1, 64), np.float32)
    for scheme, mode in ((make("symmetric", 32), Mode.BF16), (make("symmetric", 32), Mode.BINARY), (make("binary", 32), Mode.BF16),
                         (Scheme.symmetric(32), Mode.BINARY)):
        blob = int4q.Blob.quantize(np.ones((16, 64), np.float32), scheme)
        with pytest.raises(int4q.UnsupportedError, match="desc.mode"):
            blob.matmul(x, mode=mode)


# ---- Wrong schemes -------------------------------------------------------------------------------------------------


def test_schemes_that_are_none() -> None:
    w = np.ones((1, 64), np.float32)
    for scheme in (
        dataclasses.replace(Scheme.symmetric(32), code_bits=5),
        dataclasses.replace(Scheme.symmetric(32), code_bits=1),
        dataclasses.replace(Scheme.binary(32), code_bits=8),
        dataclasses.replace(Scheme.codebook(np.arange(16.0), 32), code_bits=8),
        dataclasses.replace(Scheme.ggml_q4_0(), code_bits=8),
        dataclasses.replace(Scheme.mlx(32), code_bits=8),
        dataclasses.replace(Scheme.ggml_q4_0(), scale_rule=ScaleRule.GIVEN),
        dataclasses.replace(Scheme.binary(32), scale_rule=ScaleRule.AMAX_7),
        dataclasses.replace(Scheme.ternary(32), scale_rule=ScaleRule.POWER_OF_TWO),
        Scheme.binary(16),
        Scheme.ternary(16),
    ):
        with pytest.raises(int4q.Int4QError, match="scheme"):
            int4q.quantize(w, scheme)


def test_ternary_codes_of_three_are_refused() -> None:
    tensor = int4q.quantize(np.ones((16, 64), np.float32), Scheme.ternary(32))
    tensor.codes[3, 7] |= 0b1100
    with pytest.raises(int4q.Int4QError, match="0 to 2"):
        tensor.pack()


# ---- Other projects ------------------------------------------------------------------------------------------------


def test_eight_bits_are_onnxruntimes() -> None:
    """ONNX Runtime's QDQ quantizers for a whole tensor: int8 symmetric and uint8 asymmetric."""
    calibrate = pytest.importorskip("onnxruntime.quantization.quant_utils")
    w = np.random.default_rng(1).standard_normal((12, 100)).astype(np.float32) + np.float32(0.2)
    low, high = np.array(min(w.min(), 0), np.float32), np.array(max(w.max(), 0), np.float32)
    zero, scale = calibrate.compute_scale_zp(low, high, np.array(0, np.uint8), np.array(255, np.uint8))
    theirs = calibrate.quantize_nparray(2, w, scale, zero)  # TensorProto.UINT8
    ours = int4q.quantize(w, make("asymmetric", int4q.PER_ROW, Type.F32).given(), scales=scale, zero_points=zero)
    np.testing.assert_array_equal(ours.code_matrix(), theirs)
    zero, scale = calibrate.compute_scale_zp(low, high, np.array(-127, np.int8), np.array(127, np.int8), symmetric=True)
    theirs = calibrate.quantize_nparray(3, w, scale, zero, -127, 127)
    ours = int4q.quantize(w, make("symmetric", int4q.PER_ROW, Type.F32).given(), scales=scale)
    np.testing.assert_array_equal(ours.code_matrix().astype(int) - 128, theirs)


def test_ternary_and_eight_bits_are_gguf_pys() -> None:
    """TQ2_0 (blocks of 256, largest magnitude) and Q8_0 (blocks of 32): what their decoders give."""
    gguf = pytest.importorskip("gguf")
    w = np.random.default_rng(7).standard_normal((8, 512)).astype(np.float32)
    blocks = gguf.quants.quantize(w, gguf.GGMLQuantizationType.TQ2_0)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.TQ2_0)
    ours = int4q.quantize(w, Scheme.ternary(256, scale_rule=ScaleRule.AMAX_7)).dequantize()
    # They choose codes with the scale before it is rounded: only a weight at the very border differs.
    assert (ours != theirs).mean() < 1e-3
    blocks = gguf.quants.quantize(w, gguf.GGMLQuantizationType.Q8_0)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    ours = int4q.quantize(w, make("symmetric", 32)).dequantize()
    assert (ours != theirs).mean() < 0.02
    assert np.square(ours - w).mean() <= np.square(theirs - w).mean() * (1 + 1e-9)


# ---- Methods that use activations ----------------------------------------------------------------------------------


def correlated(rng: np.random.Generator, rows: int, k: int) -> np.ndarray:
    return (rng.standard_normal((rows, k)) @ (rng.standard_normal((k, k)) / np.sqrt(k) + 0.4 * np.eye(k))).astype(np.float32)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "offset"])
def test_gptq_of_eight_bits(kind: str) -> None:
    rng = np.random.default_rng(21)
    x, w = correlated(rng, 500, 100), rng.standard_normal((20, 100)).astype(np.float32)
    gram = int4q.GramMatrix(100)
    gram.push(x)
    scheme = make(kind, 32, Type.F32)
    tensor, report = int4q.gptq(w, gram, scheme)
    nearest = int4q.quantize(w, scheme)
    loss = lambda t: float(np.square(x.astype(np.float64) @ (exact_weights(t) - w).T).sum() / len(x))
    assert loss(tensor) < 0.9 * loss(nearest)
    assert abs(loss(tensor) - report.loss) <= 1e-3 * report.loss
    assert (tensor.code_matrix() > 15).any()


def test_what_has_no_code_for_a_width() -> None:
    rng = np.random.default_rng(22)
    w = rng.standard_normal((16, 64)).astype(np.float32)
    gram = int4q.GramMatrix(64)
    gram.push(correlated(rng, 200, 64))
    for scheme in (make("binary", 32), make("ternary", 32)):
        with pytest.raises(int4q.UnsupportedError, match="scheme.kind"):
            int4q.gptq(w, gram, scheme)
        with pytest.raises(int4q.UnsupportedError, match="kind"):
            int4q.gram_descend(int4q.quantize(w, scheme), w, gram)
    with pytest.raises(int4q.UnsupportedError, match="code_bits"):
        int4q.diagnose_codes(int4q.quantize(w, make("symmetric", 32)))
