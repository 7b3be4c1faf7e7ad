"""Coordinate descent with codes of 8 bits, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import as_float32, available_isas
from test_reconstruction import activations, gram_of, weights_of

import int4q

SCHEMES = {
    "symmetric": int4q.Scheme.symmetric(32, bits=8),
    "restricted": int4q.Scheme.symmetric(32, bits=8, code_range=int4q.CodeRange.RESTRICTED),
    "asymmetric": int4q.Scheme.asymmetric(64, bits=8),
    "offset": int4q.Scheme.offset(128, bits=8, scale_type=int4q.Type.F32),
    "rows": int4q.Scheme.symmetric(int4q.PER_ROW, bits=8, scale_type=int4q.Type.F32),
}


def parts(tensor: int4q.QuantizedTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float64[n][k]: each weight's scale, zero point and offset."""
    n, k = tensor.shape
    size = k if tensor.scheme.group_size == int4q.PER_ROW else tensor.scheme.group_size

    def spread(array: np.ndarray | None, other: float) -> np.ndarray:
        if array is None:
            return np.full((n, k), other)
        return np.repeat(as_float32(array).astype(np.float64).reshape(n, -1), size, axis=1)[:, :k]

    zero = 128.0 if tensor.scheme.kind == int4q.Kind.SYMMETRIC else 0.0
    return spread(tensor.scales, 1.0), spread(tensor.zero_points, zero), spread(tensor.offsets, 0.0)


def values_of(tensor: int4q.QuantizedTensor) -> np.ndarray:
    scale, zero, offset = parts(tensor)
    return scale * (tensor.code_matrix() - zero) + offset


def losses(tensor: int4q.QuantizedTensor, weights: np.ndarray, gram: int4q.GramMatrix) -> np.ndarray:
    d = weights - values_of(tensor)
    return np.einsum("ij,jk,ik->i", d, gram.matrix(), d) / gram.rows


def descend(tensor: int4q.QuantizedTensor, weights: np.ndarray, gram: np.ndarray, sweeps: int) -> np.ndarray:
    """Codes after sweeps in which each goes to the value nearest to the best one, residuals computed anew each time."""
    scale, zero, offset = parts(tensor)
    low = 1 if tensor.scheme.code_range == int4q.CodeRange.RESTRICTED else 0
    codes, values = tensor.code_matrix().astype(np.float64), values_of(tensor)
    for _ in range(sweeps):
        before = codes.copy()
        for j in np.flatnonzero(np.diag(gram) > 0):
            best = values[:, j] + (weights - values) @ gram[j] / gram[j, j]
            safe = np.where(scale[:, j] == 0, 1, scale[:, j])
            code = np.clip(np.rint((best - offset[:, j]) / safe + zero[:, j]), low, 255)
            value = scale[:, j] * (code - zero[:, j]) + offset[:, j]
            better = np.abs(value - best) < np.abs(values[:, j] - best) * (1 - 1e-9)
            codes[better, j], values[better, j] = code[better], value[better]
        if np.array_equal(codes, before):
            break
    return codes


@pytest.mark.parametrize("name", list(SCHEMES))
def test_descent_with_codes_of_8_bits(name: str, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 300, 130)), weights_of(generator, 35, 130)
    weights[4, :64] = 0
    tensor, start = int4q.quantize(weights, SCHEMES[name]), int4q.quantize(weights, SCHEMES[name])
    before = losses(tensor, weights, gram)
    report = int4q.gram_descend(tensor, weights, gram, sweeps=40)
    after = losses(tensor, weights, gram)
    assert (after <= before * (1 + 1e-6) + 1e-30).all()
    assert after.sum() < 0.8 * before.sum()
    np.testing.assert_allclose([report.loss, report.start_loss], [after.sum(), before.sum()], rtol=1e-3)
    codes = tensor.code_matrix()
    assert report.changed_codes == (codes != start.code_matrix()).sum() and report.changed_scales == 0
    assert tensor.scales.tobytes() == start.scales.tobytes()
    expected = descend(start, weights, gram.matrix(), 40)
    # A row that meets a tie may end elsewhere, no worse on the whole; and nothing is left to be improved.
    assert (codes == expected).all(axis=1).mean() > 0.6
    assert (codes == descend(tensor, weights, gram.matrix(), 1)).mean() > 0.995


@pytest.mark.parametrize("name", list(SCHEMES))
def test_descent_with_scales_and_codes_of_8_bits(name: str, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 300, 130)), weights_of(generator, 35, 130)
    tensor, start = int4q.quantize(weights, SCHEMES[name]), int4q.quantize(weights, SCHEMES[name])
    before = losses(tensor, weights, gram)
    report = int4q.gram_descend(tensor, weights, gram, sweeps=20, refit_scales=True)
    after = losses(tensor, weights, gram)
    assert (after <= before * (1 + 1e-6)).all() and after.sum() < 0.8 * before.sum()
    np.testing.assert_allclose(report.loss, after.sum(), rtol=1e-3)
    changed = as_float32(tensor.scales) != as_float32(start.scales)
    assert report.changed_scales == changed.sum()
    if tensor.scheme.scale_type == int4q.Type.F32:
        assert changed.any()


def test_descent_with_codes_of_8_bits_after_gptq(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 500, 200)), weights_of(generator, 50, 200)
    tensor, report = int4q.gptq(weights, gram, int4q.Scheme.asymmetric(64, bits=8))
    found = int4q.gram_descend(tensor, weights, gram)
    np.testing.assert_allclose(found.start_loss, report.loss, rtol=1e-2)
    assert found.loss < found.start_loss


def test_descent_with_codes_of_8_bits_has_the_same_bits_everywhere(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 400, 170)), weights_of(generator, 100, 170)

    def run(threads: int) -> bytes:
        tensor = int4q.quantize(weights, SCHEMES["offset"])
        int4q.gram_descend(tensor, weights, gram, sweeps=3, refit_scales=True, threads=threads)
        return tensor.codes.tobytes() + tensor.scales.tobytes()

    expected = run(1)
    assert run(2) == expected
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert run(1) == expected, isa


def test_descent_refuses_fewer_bits(generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 100, 64)), weights_of(generator, 5, 64)
    for scheme in (int4q.Scheme.binary(32), int4q.Scheme.ternary(32)):
        tensor = int4q.quantize(weights, scheme)
        with pytest.raises(int4q.UnsupportedError, match=r"scheme\.kind"):
            int4q.gram_descend(tensor, weights, gram)
