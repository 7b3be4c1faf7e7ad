"""Parts beside a blob's codes: the bytes again from docs/blob-format.md, products and effective weights in float64."""

from __future__ import annotations

import itertools
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest

import int4q

blob_format = pytest.importorskip("blob_format", reason="xxhash is not installed: no independent packer")

N, K, RANK = 37, 96, 5
NAMES = ("permutation", "rotation", "sparse", "low_rank")


def paley(order: int) -> np.ndarray:
    """I + S of order q + 1: ones in S's first row, -1 in its first column, quadratic residues of i - j elsewhere."""
    prime = order - 1
    residues = {x * x % prime for x in range(1, prime)}
    matrix = np.eye(order)
    for i, j in itertools.product(range(order), range(order)):
        if i == 0 and j > 0:
            matrix[i, j] = 1
        elif i > 0 and j == 0:
            matrix[i, j] = -1
        elif i != j:
            matrix[i, j] = 1 if (i - j) % prime in residues else -1
    return matrix


def hadamard(order: int) -> np.ndarray:
    base = next(b for b in (1, 12, 20) if order % b == 0 and (order // b) & (order // b - 1) == 0)
    matrix = np.ones((1, 1)) if base == 1 else paley(base)
    for _ in range((order // base).bit_length() - 1):
        matrix = np.kron(matrix, [[1, 1], [1, -1]])
    return matrix / np.sqrt(order)


def signs(k: int, seed: int) -> np.ndarray:
    """The bits of SplitMix64's numbers, from the highest down, 64 columns for each."""
    result = np.ones(k)
    if seed == 0:
        return result
    mask = (1 << 64) - 1
    for column in range(k):
        z = (seed + (column // 64 + 1) * 0x9E3779B97F4A7C15) & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        result[column] = -1 if z >> (63 - column % 64) & 1 else 1
    return result


def rotation_matrix(k: int, order: int, seed: int) -> np.ndarray:
    """x' = R x."""
    return np.kron(np.eye(k // order), hadamard(order)) * signs(k, seed)


def sparse_of(dense: np.ndarray) -> int4q.SparseMatrix:
    rows, columns = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))]).astype(np.int64)
    return int4q.SparseMatrix(*dense.shape, offsets, columns.astype(np.int32), dense[rows, columns].astype(np.float32))


def random_parts(
    rng: np.random.Generator, names: tuple[str, ...], order: int = 32, dtype: Any = np.float32
) -> dict[str, Any]:
    dense = rng.standard_normal((N, K)) * (rng.random((N, K)) < 0.03)
    parts = {
        "permutation": rng.permutation(K),
        "rotation": (order, int(rng.integers(0, 1 << 63))),
        "sparse": sparse_of(dense),
        "low_rank": (rng.standard_normal((N, RANK)).astype(dtype), rng.standard_normal((RANK, K)).astype(dtype)),
    }
    return {name: parts[name] for name in names}


def effective(tensor: int4q.QuantizedTensor, parts: dict[str, Any]) -> np.ndarray:
    """float64[n][k] in x's channel order."""
    weights = tensor.dequantize().astype(np.float64)
    if "rotation" in parts:
        weights = weights @ rotation_matrix(K, *parts["rotation"])
    if "permutation" in parts:
        placed = np.empty_like(weights)
        placed[:, parts["permutation"]] = weights
        weights = placed
    if "sparse" in parts:
        weights = weights + parts["sparse"].dense().astype(np.float64)
    if "low_rank" in parts:
        a, b = (value.astype(np.float64) for value in parts["low_rank"])
        weights = weights + a @ b
    return weights


def all_sets() -> list[tuple[str, ...]]:
    return [names for count in range(5) for names in itertools.combinations(NAMES, count)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(907)


@pytest.fixture
def tensor(rng: np.random.Generator) -> int4q.QuantizedTensor:
    return int4q.quantize(rng.standard_normal((N, K)).astype(np.float32), int4q.Scheme.asymmetric(32))


@pytest.mark.parametrize("names", all_sets())
def test_bytes_are_as_documented(
    names: tuple[str, ...], rng: np.random.Generator, tensor: int4q.QuantizedTensor
) -> None:
    parts = random_parts(rng, names, dtype=np.float16)
    blob = int4q.Blob.pack(tensor, **parts)
    assert bytes(blob) == blob_format.attach(bytes(tensor.pack()), N, K, int4q.BlobParts(**parts))
    blob.validate()
    assert [flag.name.lower() for flag in int4q.PartFlag if flag in blob.info.part_flags] == list(names)


@pytest.mark.parametrize("names", all_sets())
def test_products_and_rows_are_those_of_the_effective_weights(
    names: tuple[str, ...], rng: np.random.Generator, tensor: int4q.QuantizedTensor
) -> None:
    parts = random_parts(rng, names)
    blob, weights = int4q.Blob.pack(tensor, **parts), effective(tensor, parts)
    magnitudes = np.abs(weights).sum()
    assert np.abs(blob.gather(np.arange(N)) - weights).max() < 1e-6 * max(1, np.abs(weights).max())
    for m in (1, 3, 16, 35):
        x = rng.standard_normal((m, K)).astype(np.float32)
        y = blob.matmul(x, mode=int4q.Mode.F32)
        assert np.abs(y - x.astype(np.float64) @ weights.T).max() < 2e-5 * np.abs(weights).sum(axis=1).max()
        # INT8 mode quantizes x' alone: each element is off by at most half a step of its group.
        turned = x.astype(np.float64)
        if "permutation" in parts:
            turned = turned[:, parts["permutation"]]
        if "rotation" in parts:
            turned = turned @ rotation_matrix(K, *parts["rotation"]).T
        step = np.abs(turned.reshape(m, -1, 32)).max(axis=2).repeat(32, axis=1) / 127
        bound = step / 2 @ np.abs(tensor.dequantize().astype(np.float64)).T + 2e-5 * magnitudes
        off = np.abs(blob.matmul(x, mode=int4q.Mode.INT8) - x.astype(np.float64) @ weights.T)
        assert (off <= bound).all()


@pytest.mark.parametrize("order", [1, 2, 8, 12, 24, 48, 96])
def test_every_order(order: int, rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    parts = random_parts(rng, ("permutation", "rotation"), order)
    blob, weights = tensor.pack(**parts), effective(tensor, parts)
    assert np.abs(blob.gather(np.arange(N)) - weights).max() < 1e-6 * np.abs(weights).max()
    x = rng.standard_normal((4, K)).astype(np.float32)
    assert np.abs(blob.matmul(x) - x.astype(np.float64) @ weights.T).max() < 1e-5 * np.abs(weights).sum(axis=1).max()


def test_a_rotation_of_order_20(rng: np.random.Generator) -> None:
    weights = rng.standard_normal((5, 80)).astype(np.float32)
    rotation = rotation_matrix(80, 40, 77)
    blob = int4q.quantize((weights @ rotation.T).astype(np.float32), int4q.Scheme.asymmetric(16)).pack(
        rotation=(40, 77)
    )
    # Rotated weights times rotated inputs: what is left is what 4 bits lose.
    assert np.abs(blob.gather(np.arange(5)) - weights).max() < 0.5
    plain = int4q.quantize(weights, int4q.Scheme.asymmetric(16)).pack()
    assert np.abs(blob.gather(np.arange(5)) - weights).mean() < 2 * np.abs(plain.gather(np.arange(5)) - weights).mean()


def test_outliers_in_one_channel_are_what_a_permutation_gathers(rng: np.random.Generator) -> None:
    """Columns in order of magnitude: neighbours are alike, groups fit better, and products find their channels."""
    weights = rng.standard_normal((N, K)) * np.exp(rng.standard_normal(K))
    order = np.argsort(-np.abs(weights).max(axis=0))
    scheme = int4q.Scheme.asymmetric(16)
    plain = int4q.quantize(weights, scheme).pack()
    sorted_blob = int4q.quantize(weights[:, order], scheme).pack(permutation=order)
    scale = np.abs(weights).max(axis=0)
    error = [np.square((blob.gather(np.arange(N)) - weights) / scale).mean() for blob in (plain, sorted_blob)]
    assert error[1] < 0.3 * error[0]
    x = rng.standard_normal((9, K)).astype(np.float32)
    assert np.abs(sorted_blob.matmul(x) - x @ sorted_blob.gather(np.arange(N)).T).max() < 1e-3


def test_outliers_kept_apart_and_residuals_of_low_rank(rng: np.random.Generator) -> None:
    weights = rng.standard_normal((N, K)).astype(np.float32)
    weights[rng.random((N, K)) < 0.01] *= 20
    dense, sparse = int4q.split_outliers(weights, int4q.OutlierFit(mean=0.0, lowest=-4.0, highest=4.0))
    tensor = int4q.quantize(dense, int4q.Scheme.asymmetric(32))
    sparse.correct(tensor, weights)
    plain = int4q.quantize(weights, int4q.Scheme.asymmetric(32)).pack()
    with_sparse = tensor.pack(sparse=sparse)
    residual = weights - with_sparse.gather(np.arange(N))
    u, s, v = np.linalg.svd(residual.astype(np.float64), full_matrices=False)
    factors = (u[:, :8] * s[:8]).astype(np.float32), v[:8].astype(np.float32)
    both = with_sparse.with_parts(sparse=sparse, low_rank=factors)
    losses = [np.square(blob.gather(np.arange(N)) - weights).sum() for blob in (plain, with_sparse, both)]
    assert losses[1] < 0.3 * losses[0]
    assert losses[2] == pytest.approx(np.square(s[8:]).sum(), rel=1e-3)
    assert losses[2] < 0.8 * losses[1]


def test_types_of_x_y_and_factors(rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    parts = random_parts(rng, NAMES, dtype=np.float16)
    blob, weights = tensor.pack(**parts), effective(tensor, parts)
    x = rng.standard_normal((5, K)).astype(np.float16)
    y = blob.matmul(x, dtype=np.float32)
    assert np.abs(y - x.astype(np.float64) @ weights.T).max() < 1e-2
    assert np.array_equal(blob.matmul(x), y.astype(np.float16))
    mixed = tensor.pack(low_rank=(parts["low_rank"][0], parts["low_rank"][1].astype(np.float32)))
    assert mixed.parts.low_rank[0].dtype == np.float32


def test_bias_activation_and_residual_come_after(rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    parts = random_parts(rng, NAMES)
    blob = tensor.pack(**parts)
    x, bias = rng.standard_normal((20, K)).astype(np.float32), rng.standard_normal(N).astype(np.float32)
    residual = rng.standard_normal((20, N)).astype(np.float32)
    y = blob.matmul(x, bias=bias, activation=int4q.Activation.RELU, residual=residual)
    assert np.array_equal(y, np.maximum(blob.matmul(x) + bias, 0) + residual)


def test_gated_products(rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    parts = random_parts(rng, NAMES)
    other = int4q.quantize(rng.standard_normal((N, K)).astype(np.float32), tensor.scheme)
    up_parts = random_parts(rng, NAMES) | {name: parts[name] for name in ("permutation", "rotation")}
    gate, up = tensor.pack(**parts), other.pack(**up_parts)
    x = rng.standard_normal((20, K)).astype(np.float32)
    y = gate.matmul(x, up=up, activation=int4q.Activation.RELU)
    assert np.array_equal(y, np.maximum(gate.matmul(x), 0) * up.matmul(x))
    exact = np.maximum(x @ effective(tensor, parts).T, 0) * (x @ effective(other, up_parts).T)
    assert np.abs(y - exact).max() < 1e-3


def test_results_do_not_depend_on_threads_or_batch(rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    blob = tensor.pack(**random_parts(rng, NAMES))
    x = rng.standard_normal((50, K)).astype(np.float32)
    for mode in (int4q.Mode.F32, int4q.Mode.INT8):
        y = blob.matmul(x, mode=mode)
        with int4q.Pool(3) as pool:
            assert np.array_equal(y, blob.matmul(x, mode=mode, pool=pool))
        assert np.array_equal(y, np.stack([blob.matmul(row, mode=mode) for row in x]))


def test_parts_come_back(rng: np.random.Generator, tensor: int4q.QuantizedTensor, tmp_path: pathlib.Path) -> None:
    parts = random_parts(rng, NAMES, dtype=np.float16)
    blob = tensor.pack(**parts)
    blob.save(tmp_path / "blob")
    x = rng.standard_normal((3, K)).astype(np.float32)
    for again in (pickle.loads(pickle.dumps(blob)), int4q.Blob.map(tmp_path / "blob", validate=True)):
        found = again.parts
        assert np.array_equal(found.permutation, parts["permutation"]) and found.rotation == parts["rotation"]
        for name in ("row_offsets", "columns", "values"):
            assert np.array_equal(getattr(found.sparse, name), getattr(parts["sparse"], name))
        assert all(np.array_equal(*pair) for pair in zip(found.low_rank, parts["low_rank"], strict=True))
        assert np.array_equal(again.matmul(x), blob.matmul(x))
    unpacked = blob.unpack()
    assert np.array_equal(unpacked.codes, tensor.codes) and bytes(unpacked.pack()) == bytes(tensor.pack())


def test_parts_are_replaced_and_taken_away(rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    parts = random_parts(rng, NAMES)
    plain = tensor.pack()
    assert plain.parts.is_empty and plain.info.part_flags == int4q.PartFlag(0) and plain.info.parts_bytes == 0
    blob = plain.with_parts(**parts)
    assert bytes(blob) == bytes(tensor.pack(**parts))
    assert blob.nbytes == plain.nbytes + blob.info.parts_bytes and blob.info.part_rank == RANK
    assert bytes(blob.with_parts()) == bytes(plain)
    small = {"permutation": parts["permutation"]}
    assert bytes(blob.with_parts(**small)) == bytes(tensor.pack(**small))


def test_linear_layers_use_parts(rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    blob = tensor.pack(**random_parts(rng, NAMES))
    x = rng.standard_normal((2, 3, K)).astype(np.float32)
    assert np.array_equal(int4q.Linear(blob)(x), blob.matmul(x))
    assert "Kernel" in blob.describe(4)


def test_what_does_not_fit_is_refused_by_name(rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    parts = random_parts(rng, NAMES)
    a, b = parts["low_rank"]
    twice = parts["permutation"].copy()
    twice[3] = twice[4]
    infinite = b.copy()
    infinite[1, 2] = np.inf
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"permutation": parts["permutation"][:-1]}, ValueError, "permutation has shape"),
        ({"permutation": parts["permutation"] + 1}, ValueError, "permutation has elements 1 to 96"),
        ({"permutation": parts["permutation"] - 1}, ValueError, "permutation has elements -1 to 94"),
        ({"permutation": parts["permutation"] * 1.0}, TypeError, "permutation has dtype float64"),
        ({"permutation": twice}, int4q.InvalidArgumentError, "parts.permutation is .* expected each channel once"),
        ({"rotation": 5}, int4q.InvalidArgumentError, "parts.rotation_order"),
        ({"rotation": 64}, int4q.InvalidArgumentError, "parts.rotation_order is 64; expected a divisor of k, 96"),
        ({"rotation": 0}, ValueError, "rotation has order 0"),
        ({"rotation": (32, -1)}, ValueError, "rotation has seed -1"),
        ({"rotation": (32, 1 << 64)}, ValueError, "rotation has seed"),
        ({"rotation": 1.5}, TypeError, "float"),
        ({"sparse": np.zeros((N, K))}, TypeError, "sparse is ndarray"),
        ({"sparse": sparse_of(np.ones((N, K - 1)))}, ValueError, "sparse is 37 x 95; expected 37 x 96"),
        ({"low_rank": (a[1:], b)}, ValueError, "has 36 rows; expected 37"),
        ({"low_rank": (a, b[1:])}, ValueError, "has shape"),
        ({"low_rank": (a, infinite)}, int4q.NotFiniteError, "parts.low_rank_b"),
        (
            {"low_rank": (np.ones((N, 257), np.float32), np.ones((257, K), np.float32))},
            int4q.InvalidArgumentError,
            "parts.rank",
        ),
    ]
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            tensor.pack(**arguments)
        with pytest.raises(error, match=message):
            tensor.pack().with_parts(**arguments)
    blob = tensor.pack(**parts)
    with pytest.raises(int4q.MismatchError, match="part_flags"):
        blob.matmul(np.ones((1, K), np.float32), up=tensor.pack())
    with pytest.raises(int4q.MismatchError, match="permutation"):
        other = parts | {"permutation": parts["permutation"][::-1]}
        blob.matmul(np.ones((1, K), np.float32), up=tensor.pack(**other))
    with pytest.raises(int4q.MismatchError, match="part_flags"):
        tensor.pack().matmul(np.ones((1, K), np.float32), up=blob)
    with pytest.raises(int4q.MismatchError, match="part_flags"):
        int4q.Experts([tensor.pack(), blob]).matmul(np.ones((1, K), np.float32), [1])
    with pytest.raises(int4q.UnsupportedError):
        blob.error_bound(np.ones((1, K), np.float32))


def test_damage_is_found(rng: np.random.Generator, tensor: int4q.QuantizedTensor) -> None:
    good = bytes(tensor.pack(**random_parts(rng, NAMES)))
    plain = len(bytes(tensor.pack()))
    for position in [*range(208, 256), *range(plain, len(good), 7), len(good) - 1]:
        bad = bytearray(good)
        bad[position] ^= 1
        with pytest.raises(int4q.CorruptError):
            int4q.Blob.from_bytes(bad)
    with pytest.raises(int4q.BufferTooSmallError):
        int4q.Blob.from_bytes(good[:-1])


def test_the_command_line_tells_of_parts(
    rng: np.random.Generator, tensor: int4q.QuantizedTensor, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from int4q import cli

    path = tmp_path / "blob"
    for parts, text in ((("permutation", "low_rank"), "permutation, low rank ("), ((), "none")):
        tensor.pack(**random_parts(rng, parts)).save(path)
        result = CliRunner().invoke(cli.app, ["info", str(path)], terminal_width=200)
        assert result.exit_code == 0 and text in result.output
