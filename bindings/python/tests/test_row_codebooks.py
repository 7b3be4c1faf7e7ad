"""Codebooks of rows: quantizing, blobs and products against NumPy; fitted ones."""

from __future__ import annotations

import blob_format
import numpy as np
import pytest
import reference
from conftest import as_float32, exact_weights

import int4q

ONE = int4q.ScaleRule.ONE


def codebooks(generator: np.random.Generator, n: int) -> np.ndarray:
    return generator.standard_normal((n, 16)).astype(np.float32) * np.exp2(generator.integers(-6, 6, (n, 1))).astype(np.float32)


def fused_product(x: np.ndarray, tensor: int4q.QuantizedTensor) -> np.ndarray:
    """F32 mode as docs/numerics.md has it: a chain of fused multiply-adds in each group, and one for its scale.

    Binary64 holds a product of two floats; adding a float to it and rounding to binary32 is one rounding too many only
    where the sum is halfway between two floats but for bits that binary64 has no room for, which is made up for.
    """

    def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
        total = product + addend
        back = total - product
        lost = (product - (total - back)) + (addend - back)
        # Rounded to odd: where something was lost the last bit is set, towards the side of what was lost.
        bits = np.ascontiguousarray(total).view(np.int64)
        towards = np.where((lost > 0) == (total > 0), 0, -1)
        odd = np.where((lost != 0) & (bits & 1 == 0), (bits + towards) | 1, bits)
        return odd.view(np.float64).astype(np.float32)

    size = tensor.k if tensor.scheme.group_size == int4q.PER_ROW else tensor.scheme.group_size
    scales, codes = as_float32(tensor.scales), tensor.code_matrix().astype(np.int64)
    values = np.take_along_axis(tensor.codebook, codes, axis=1)
    y = np.zeros((len(x), tensor.n), np.float32)
    for group, begin in enumerate(range(0, tensor.k, size)):
        dot = np.zeros_like(y)
        for column in range(begin, min(begin + size, tensor.k)):
            dot = fma(x[:, column, None], values[None, :, column], dot)
        y = fma(scales[None, :, group], dot, y)
    return y


@pytest.mark.parametrize("group_size", [16, 32, 64, 128, 256, int4q.PER_ROW])
@pytest.mark.parametrize("scale_type", list(int4q.Type))
def test_all_of_it_against_numpy(generator: np.random.Generator, group_size: int, scale_type: int4q.Type) -> None:
    for n, k in ((1, 1), (5, 40), (33, 300), (16, 129)):
        weights = generator.standard_normal((n, k)).astype(np.float32)
        tables = codebooks(generator, n)
        scheme = int4q.Scheme.codebook(tables, group_size, scale_type=scale_type)
        tensor = int4q.quantize(weights, scheme)
        expected = reference.quantize(weights, scheme)
        np.testing.assert_array_equal(tensor.code_matrix(), expected.codes)
        np.testing.assert_array_equal(as_float32(tensor.scales), expected.scales)
        np.testing.assert_array_equal(tensor.dequantize(), exact_weights(tensor).astype(np.float32))

        blob = tensor.pack()
        assert bytes(blob) == blob_format.pack(tensor) == bytes(int4q.Blob.quantize(weights, scheme))
        blob.validate()
        np.testing.assert_array_equal(blob.codebooks(), tables)
        back = blob.unpack()
        np.testing.assert_array_equal(back.codebook, tables)
        np.testing.assert_array_equal(back.codes, tensor.codes)
        np.testing.assert_array_equal(blob.gather([n - 1, 0]), tensor.dequantize()[[n - 1, 0]])

        x = generator.standard_normal((int(generator.integers(1, 20)), k)).astype(np.float32)
        wanted = fused_product(x, tensor)
        for isa in int4q.Isa:
            with int4q.set_isa_limit(isa):
                np.testing.assert_array_equal(blob.matmul(x), wanted)
        assert (np.abs(wanted - x.astype(np.float64) @ exact_weights(tensor).T) <= blob.error_bound(x)).all()


def test_fitted_for_each_row_they_are_better(generator: np.random.Generator) -> None:
    weights = (generator.standard_normal((48, 1024)) * np.exp2(generator.integers(-3, 3, (48, 1)))).astype(np.float32)
    weights[7] = 0
    shared, own = int4q.fit_codebook(weights), int4q.fit_row_codebooks(weights)
    assert own.values.shape == (48, 16) and own.mse.shape == (48,)
    for row in (0, 20, 47):
        alone = int4q.fit_codebook(weights, rows=(row, row + 1))
        assert alone.values == tuple(own.values[row].tolist()) and alone.mse == own.mse[row]

    def error(values: object) -> np.ndarray:
        tensor = int4q.quantize(weights, int4q.Scheme.codebook(values, int4q.PER_ROW, scale_rule=ONE))
        return ((tensor.pack().unpack().dequantize() - weights.astype(np.float64)) ** 2).mean(axis=1)

    np.testing.assert_allclose(error(own.values), own.mse, rtol=1e-6)
    assert own.mse.mean() < 0.5 * shared.mse
    assert (error(own.values) <= error(shared.values) * (1 + 1e-6)).all()
    assert own.mse[7] == 0
    np.testing.assert_array_equal(own.values[7], [0] * 15 + [1])

    column = np.exp(generator.standard_normal(1024)).astype(np.float32)
    weighted = int4q.fit_row_codebooks(weights, column, threads=1)
    assert weighted.mse[3] == int4q.fit_codebook(weights[3:4], column).mse
    np.testing.assert_array_equal(weighted.values, int4q.fit_row_codebooks(weights, column, threads=3).values)


def test_layers_gates_and_experts(generator: np.random.Generator) -> None:
    weights = generator.standard_normal((4, 40, 96)).astype(np.float32)
    blobs = [
        int4q.Blob.quantize(w, int4q.Scheme.codebook(int4q.fit_row_codebooks(w).values, 32, scale_rule=ONE)) for w in weights
    ]
    tensors = [blob.unpack() for blob in blobs]
    x = generator.standard_normal((9, 96)).astype(np.float32)
    gate, up = fused_product(x, tensors[0]), fused_product(x, tensors[1])
    bias = generator.standard_normal(40).astype(np.float32)
    np.testing.assert_array_equal(blobs[0].matmul(x, bias=bias), gate + bias)
    np.testing.assert_array_equal(blobs[0].matmul(x, up=blobs[1]), gate * up)
    experts = int4q.Experts(blobs)
    choice = generator.integers(0, 4, 9).astype(np.int32)
    every = np.stack([fused_product(x, tensor) for tensor in tensors])
    np.testing.assert_array_equal(experts.matmul(x, choice), every[choice, np.arange(9)])
    other = int4q.Blob.quantize(weights[0], int4q.Scheme.codebook(int4q.codebook_values(int4q.Codebook.NF4), 32))
    with pytest.raises(ValueError, match="one for each row"):
        blobs[0].matmul(x, up=other)


def test_what_does_not_fit(generator: np.random.Generator) -> None:
    weights = generator.standard_normal((8, 32)).astype(np.float32)
    tables = codebooks(generator, 8)
    with pytest.raises(ValueError, match="values has shape"):
        int4q.Scheme.codebook(tables[:, :15])
    with pytest.raises(ValueError, match="codebooks for 7 rows; weights has 8"):
        int4q.quantize(weights, int4q.Scheme.codebook(tables[:7]))
    with pytest.raises(ValueError, match="codebooks for 7 rows; weights has 8"):
        int4q.Blob.quantize(weights, int4q.Scheme.codebook(tables[:7]))
    scheme = int4q.Scheme.codebook(tables)
    assert scheme.codebook_scope == int4q.CodebookScope.ROW and "one for each row" in str(scheme)
    blob = int4q.Blob.quantize(weights, scheme)
    assert blob.scheme.codebook_scope == int4q.CodebookScope.ROW and blob.scheme.codebook_values is None
    with pytest.raises(ValueError, match="Scheme.codebook"):
        int4q.quantize(weights, blob.scheme)
    for mode in (int4q.Mode.INT8, int4q.Mode.BF16):
        with pytest.raises(int4q.UnsupportedError, match="INT4Q_MODE_F32"):
            blob.matmul(weights, mode=mode)
    with pytest.raises(int4q.MismatchError, match="kind"):
        int4q.Blob.quantize(weights).codebooks()
    tables[3] = 0
    with pytest.raises(int4q.InvalidArgumentError, match="all zero"):
        int4q.quantize(weights, int4q.Scheme.codebook(tables))
    tables[3, 9] = np.nan
    with pytest.raises(int4q.NotFiniteError, match="row 3, column 9"):
        int4q.Blob.quantize(weights, int4q.Scheme.codebook(tables))
