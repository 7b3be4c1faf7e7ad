"""diagnose() on layers that were made to have one fault each."""

from __future__ import annotations

import json
import math
import pathlib
import zipfile

import numpy as np
import pytest
from conftest import in_type

import int4q
from int4q import _diagnose

N, K = 64, 512


def gauss(generator: np.random.Generator) -> np.ndarray:
    return (generator.standard_normal((N, K)) * 0.02).astype(np.float32)


def with_outliers(weights: np.ndarray, generator: np.random.Generator, share: float, size: float) -> np.ndarray:
    chosen = generator.random(weights.shape) < share
    weights[chosen] = np.where(weights[chosen] < 0, -size, size)
    return weights


@pytest.fixture
def layers(generator: np.random.Generator) -> dict[str, np.ndarray]:
    made = {"gauss": gauss(generator)}
    made["laplace"] = generator.laplace(size=(N, K)).astype(np.float32)
    made["uniform"] = generator.uniform(-1, 1, (N, K)).astype(np.float32)
    made["few outliers"] = with_outliers(gauss(generator), generator, 0.0005, 0.8)
    made["many outliers"] = with_outliers(gauss(generator), generator, 0.02, 0.8)
    made["skewed"] = (generator.gamma(2.0, size=(N, K)) - 0.5).astype(np.float32)
    made["shifted"] = (generator.standard_normal((N, K)) + 4).astype(np.float32)
    made["collapsed"] = gauss(generator)
    made["collapsed"][[3, 9]] = 0
    made["collapsed"][11] = 0.25
    made["one row"] = gauss(generator)
    made["one row"][17] *= 1000
    made["pruned"] = gauss(generator)
    made["pruned"][generator.random((N, K)) < 0.8] = 0
    made["tiny"] = gauss(generator) * np.float32(1e-3)
    made["zeros"] = np.zeros((N, K), np.float32)
    made["nan"] = gauss(generator)
    made["nan"][1, 2] = np.nan
    made["nan"][5, 7] = -np.inf
    made["huge"] = gauss(generator) * np.float32(1e9)
    return made


KINDS = {
    "gauss": set(),
    "laplace": set(),
    "uniform": set(),
    "few outliers": {"outliers"},
    "many outliers": {"outliers", "squeezed", "coarse"},
    "skewed": {"skewed"},
    "shifted": {"skewed"},
    "collapsed": {"collapsed"},
    "one row": {"concentrated"},
    "pruned": {"sparse"},
    "tiny": {"floor"},
    "zeros": {"collapsed"},
    "nan": {"not_finite"},
    "huge": {"coarse"},
}


def test_each_fault_is_found(layers: dict[str, np.ndarray]) -> None:
    result = int4q.diagnose(layers, show=False)
    assert [layer.name for layer in result.layers] == list(layers)
    found = {layer.name: layer.kinds for layer in result.layers}
    # Groups of zeros alone happen in a pruned layer.
    found["pruned"] -= {"collapsed"}
    assert found == KINDS


def test_what_is_said_of_the_faults(layers: dict[str, np.ndarray]) -> None:
    result = int4q.diagnose(layers, show=False)
    assert result["gauss"].tails == result["few outliers"].tails == result["pruned"].tails == "Gauss"
    assert result["laplace"].tails == "Laplace"
    assert result["uniform"].tails == "uniform"
    assert result["many outliers"].tails == "heavy"
    assert result["skewed"].tails == result["shifted"].tails == ""

    few, many = result["few outliers"], result["many outliers"]
    exact = layers["many outliers"].astype(np.float64)
    assert many.outliers == (np.abs(exact) > 0.5).sum()
    assert few.outliers == (np.abs(layers["few outliers"]) > 0.5).sum() > 0
    assert many.largest_sigmas == pytest.approx(40, rel=0.15)
    assert abs(many.largest) == np.float32(0.8)
    assert exact[many.largest_row, many.largest_column] == many.largest
    assert many.sigma == pytest.approx(exact.std()) and many.mean == pytest.approx(exact.mean())
    assert few.advised is not None and few.advised.apart == few.outliers and few.advised.name.endswith("outliers apart")
    assert many.advised is None and "8 bits" in many.advice and "1.9% outliers of up to 43 sigma" in many.advice

    skewed, shifted = result["skewed"], result["shifted"]
    assert skewed.advised is not None and skewed.advised.scheme.kind in (int4q.Kind.ASYMMETRIC, int4q.Kind.OFFSET)
    assert shifted.advised is not None and shifted.advised.scheme.kind == int4q.Kind.OFFSET
    rows = layers["skewed"]
    assert skewed.skew == pytest.approx(np.median(rows.max(axis=1) / -rows.min(axis=1)))
    assert math.isinf(shifted.skew) and "to one side" in shifted.advice
    assert shifted.shift == pytest.approx(np.median(rows_mean_in_sigmas(layers["shifted"])), rel=1e-6)

    collapsed = result["collapsed"].codes
    assert collapsed is not None and collapsed.rows_of_one_code == 3 and collapsed.groups_of_one_code == 3 * K // 32
    assert "4.7% of the groups of 32 have one code, 3 whole rows" in result["collapsed"].advice
    assert "row 17 alone makes" in result["one row"].advice
    assert result["one row"].outliers == 0
    assert "80% of the weights are zero" in result["pruned"].advice
    assert result["pruned"].zeros == (layers["pruned"] == 0).sum()
    assert "100% of the groups of 32 have scales of at most 1e-05" in result["tiny"].advice
    assert result["zeros"].advised is not None and "exact" in result["zeros"].advice
    assert result["nan"].not_finite == 2
    assert "2 of 32768 weights are NaN or infinite, the first is nan at row 1, column 2" in result["nan"].advice
    assert "no scheme holds these weights" in result["huge"].advice
    assert result["huge"].schemes and all(scheme.error for scheme in result["huge"].schemes)


def rows_mean_in_sigmas(weights: np.ndarray) -> np.ndarray:
    exact = weights.astype(np.float64)
    return np.abs(exact.mean(axis=1)) / (np.abs(exact).mean(axis=1) * math.sqrt(math.pi / 2))


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_figures_are_those_of_the_dequantized_weights(element_type: int4q.Type, generator: np.random.Generator) -> None:
    weights = in_type(with_outliers(gauss(generator), generator, 0.001, 0.5), element_type)
    layer = int4q.diagnose(weights, element_type=element_type, show=False).layers[0]
    exact = weights.astype(np.float64) if weights.dtype != np.uint16 else bfloat16_values(weights)
    assert layer.name == "weights" and layer.element_type == element_type
    for result in layer.schemes:
        if result.apart:
            continue
        tensor = int4q.quantize(weights, result.scheme, element_type=element_type)
        errors = ((exact - tensor.dequantize().astype(np.float64)) ** 2).sum(axis=1)
        assert result.sqnr_db == pytest.approx(10 * math.log10((exact**2).sum() / errors.sum()), abs=1e-9)
        assert result.bits_per_weight == tensor.nbytes * 8 / exact.size
        assert result.worst_row == errors.argmax()
        assert result.worst_row_share == pytest.approx(errors.max() / errors.sum())
    apart = layer.schemes[-1]
    assert apart.apart == layer.outliers == (np.abs(exact) > 0.3).sum()
    dense = np.where(np.abs(exact) > 0.3, 0, exact)
    tensor = int4q.quantize(dense, apart.scheme)
    error = ((dense - tensor.dequantize().astype(np.float64)) ** 2).sum()
    assert apart.sqnr_db == pytest.approx(10 * math.log10((exact**2).sum() / error), abs=0.02)
    assert apart.bits_per_weight == (tensor.nbytes + 8 * apart.apart + 8 * (N + 1)) * 8 / exact.size


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def test_the_rule(layers: dict[str, np.ndarray]) -> None:
    """The highest SQNR after 6.02 dB for each bit, the first of those within a tenth of a decibel, below `most_bits`."""
    for most_bits in (4.2, 5.0, 8.0):
        for layer in int4q.diagnose(layers, most_bits=most_bits, least_db=-100, show=False).layers:
            if layer.advised is None:
                assert layer.name in ("nan", "huge")
                continue
            score = {r.name: r.sqnr_db - 20 * math.log10(2) * r.bits_per_weight for r in layer.schemes}
            allowed = [r.name for r in layer.schemes if r.bits_per_weight <= most_bits]
            best = max(score[name] for name in allowed)
            assert layer.advised.name == next(name for name in allowed if score[name] >= best - 0.1)


def test_least_db_decides_about_8_bits(layers: dict[str, np.ndarray]) -> None:
    weights = {"gauss": layers["gauss"]}
    usual = next(r for r in int4q.diagnose(weights, show=False).layers[0].schemes if r.name == "symmetric g128").usual_db
    only = {"symmetric g128": int4q.Scheme.symmetric(128)}
    assert int4q.diagnose(weights, schemes=only, least_db=usual - 0.01, show=False)["gauss"].advised is not None
    layer = int4q.diagnose(weights, schemes=only, least_db=usual + 0.01, show=False)["gauss"]
    assert layer.advised is None and layer.kinds == {"coarse"}
    # Large rows do not hide what the others lose.
    exact = layers["gauss"].astype(np.float64)
    errors = (exact - int4q.quantize(layers["gauss"], only["symmetric g128"]).dequantize().astype(np.float64)) ** 2
    sigma = np.abs(exact).mean(axis=1) * math.sqrt(math.pi / 2)
    assert usual == pytest.approx(np.median(10 * np.log10(sigma**2 / errors.mean(axis=1))))


def test_threads_and_layout_do_not_matter(generator: np.random.Generator) -> None:
    room = with_outliers(generator.standard_normal((300, 700)).astype(np.float32), generator, 0.001, 50)
    weights = room[:, 3:650]
    one = int4q.diagnose(weights, threads=1, show=False)
    many = int4q.diagnose(np.asfortranarray(weights), threads=5, show=False)
    assert one.rows() == many.rows()
    assert one.layers[0].outliers > 0


def test_a_state_dict_with_other_things(generator: np.random.Generator) -> None:
    weights = {
        "layer.weight": gauss(generator),
        "layer.bias": np.zeros(4, np.float32),
        "positions": np.zeros((4, 4), np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "double": gauss(generator).astype(np.float64),
    }
    result = int4q.diagnose(weights, show=False)
    assert [layer.name for layer in result.layers] == ["layer.weight", "double"]
    assert result.skipped == ("layer.bias", "positions", "empty")
    with pytest.raises(KeyError, match="positions"):
        result["positions"]
    with pytest.raises(ValueError, match="no matrix"):
        int4q.diagnose({"layer.bias": weights["layer.bias"]})
    with pytest.raises(ValueError, match="1 dimensions"):
        int4q.diagnose(weights["layer.bias"])


def test_fitted_codebooks(generator: np.random.Generator) -> None:
    weights = np.exp(generator.standard_normal((6, 512))).astype(np.float32)
    layer = int4q.diagnose(weights, fitted=True, show=False).layers[0]
    fitted = next(result for result in layer.schemes if result.name == "fitted row codebooks")
    error = int4q.fit_row_codebooks(weights).mse.sum() * 512
    assert fitted.sqnr_db == pytest.approx(10 * math.log10((weights.astype(np.float64) ** 2).sum() / error), abs=1e-6)


def test_what_is_printed(layers: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    result = int4q.diagnose({name: layers[name] for name in ("gauss", "many outliers", "nan")})
    text = capsys.readouterr().out
    assert text == f"{result}\n"
    first, second, advice = text.strip().split("\n\n")
    assert " ".join(first.splitlines()[0].split()) == "layer shape sigma > 6 sigma largest skew tails collapsed worst row advice"
    assert "8 bits or f16" in first and "64 x 512" in first and "not finite" in first
    assert len(second.splitlines()) == 3 and "*" in second.splitlines()[1]  # nothing was measured of the one with NaN
    assert [line.split(":")[0] for line in advice.splitlines()] == ["gauss", "many outliers", "nan"]
    assert json.loads(json.dumps(result.rows()))[1]["advised"] is None


# ---- Files ---------------------------------------------------------------------------------------------------------


def test_npz(tmp_path: pathlib.Path, generator: np.random.Generator) -> None:
    weights = gauss(generator)
    np.savez(tmp_path / "model.npz", b=weights, a=weights.astype(np.float16), bias=np.zeros(3, np.float32))
    result = int4q.diagnose(tmp_path / "model.npz", show=False)
    assert [(layer.name, layer.element_type) for layer in result.layers] == [("a", int4q.Type.F16), ("b", int4q.Type.F32)]
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(ValueError, match="not an .npz"):
        int4q.diagnose(tmp_path / "bad.npz")
    np.save(tmp_path / "one.npy", weights)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="one array"):
        int4q.diagnose(tmp_path / "one.npz")
    assert zipfile.is_zipfile(tmp_path / "model.npz")


def test_onnx(tmp_path: pathlib.Path, generator: np.random.Generator) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper = onnx.helper
    columns = generator.standard_normal((32, 8)).astype(np.float32)  # [k][n]
    rows = generator.standard_normal((5, 8)).astype(np.float32)  # [n][k]
    nodes = [
        helper.make_node("MatMul", ["x", "columns"], ["h"]),
        helper.make_node("Gemm", ["h", "rows", "bias"], ["y"], transB=1),
    ]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in
               {"columns": columns, "rows": rows, "bias": np.zeros(5, np.float32)}.items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 32])],
        [value("y", onnx.TensorProto.FLOAT, [1, 5])],
        tensors,
    )
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    result = int4q.diagnose(tmp_path / "model.onnx", show=False)
    assert [(layer.name, layer.shape) for layer in result.layers] == [("columns", (8, 32)), ("rows", (5, 8))]
    expected = int4q.diagnose(columns.T, show=False).layers[0]
    assert result["columns"].schemes == expected.schemes
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match="not an ONNX file"):
        int4q.diagnose(tmp_path / "bad.onnx")


def test_thresholds_are_those_of_the_documentation() -> None:
    text = (pathlib.Path(__file__).resolve().parents[3] / "docs" / "calibration.md").read_text()
    for figure in (_diagnose._OUTLIER_SIGMAS, _diagnose._LARGE_OUTLIER_SIGMAS):
        assert f"{figure:.0f} sigma" in text
    assert f"{_diagnose.DECIBELS_PER_BIT:.2f} dB" in text
