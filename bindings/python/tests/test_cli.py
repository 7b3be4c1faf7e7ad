"""The command line."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

import int4q

pytest.importorskip("rich", reason="rich is not installed (extra cli)")
testing = pytest.importorskip("typer.testing", reason="typer is not installed (extra cli)")
safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed (extra files)")

from int4q import cli  # noqa: E402  (only where its libraries are)

runner = testing.CliRunner()


@pytest.fixture
def model(tmp_path: pathlib.Path, generator: np.random.Generator) -> pathlib.Path:
    path = tmp_path / "model.safetensors"
    tensors = {
        "layer.weight": generator.standard_normal((48, 64)).astype(np.float32),
        "layer/half": generator.standard_normal((20, 33)).astype(np.float16),
        "layer.bias": np.zeros(48, np.float32),
        "positions": np.zeros((4, 4), np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    safetensors_numpy.save_file(tensors, path)
    return path


@pytest.fixture
def blob_path(tmp_path: pathlib.Path, generator: np.random.Generator) -> pathlib.Path:
    path = tmp_path / "a.int4q"
    int4q.quantize(generator.standard_normal((48, 64)).astype(np.float32), int4q.Scheme.asymmetric()).pack().save(path)
    return path


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return str(result.output)


def test_info(blob_path: pathlib.Path) -> None:
    text = run("info", blob_path)
    blob = int4q.Blob.map(blob_path)
    assert "48 x 64" in text and "asymmetric, group 32" in text
    assert f"{blob.info.header_checksum:016x}" in text


def test_validate(blob_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert f"{blob_path}: good" in run("validate", blob_path)
    data = bytearray(blob_path.read_bytes())
    data[-100] ^= 1
    bad = tmp_path / "bad.int4q"
    bad.write_bytes(data)
    text = run("validate", blob_path, bad, tmp_path / "absent", code=1)
    assert f"{bad}: DAMAGED: int4q_blob_validate" in text
    assert f"{tmp_path / 'absent'}: DAMAGED" in text
    assert f"{blob_path}: good" in text
    run("info", tmp_path / "absent", code=1)


def test_describe() -> None:
    text = run("describe", "--m", 4, "--mode", "int8", "--workers", 2)
    assert int4q.describe_dispatch(int4q.Scheme.symmetric(), 4, 4096, 4096, mode=int4q.Mode.INT8, workers=2) in text
    assert "group_size" in run("describe", "--group-size", 7, code=1)


@pytest.mark.parametrize("scheme", list(cli.SchemeName), ids=lambda name: name.value)
def test_quantize(model: pathlib.Path, tmp_path: pathlib.Path, scheme: cli.SchemeName) -> None:
    outdir = tmp_path / "out"
    text = run("quantize", model, outdir, "--scheme", scheme.value)
    assert "2 tensors" in text
    assert sorted(path.name for path in outdir.iterdir()) == ["layer.weight.int4q", "layer_half.int4q"]
    weights = safetensors_numpy.load_file(model)["layer.weight"]
    blob = int4q.Blob.map(outdir / "layer.weight.int4q", validate=True)
    expected = int4q.quantize(weights, cli.make_scheme(scheme, 32, cli.TypeName.f16))
    assert bytes(blob) == bytes(expected.pack())
    assert f"{int4q.compare(weights, expected.dequantize()).sqnr_db:.2f}" in text
    assert "validate" not in run("validate", *outdir.iterdir())


def test_quantize_options(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    options = ("--scheme", "offset", "--group-size", -1, "--scale-type", "bf16", "--threads", 1)
    run("quantize", model, tmp_path / "out", *options)
    scheme = int4q.Blob.map(tmp_path / "out" / "layer_half.int4q").scheme
    assert scheme == int4q.Scheme.offset(int4q.PER_ROW, scale_type=int4q.Type.BF16)


def test_quantize_bfloat16(tmp_path: pathlib.Path, generator: np.random.Generator) -> None:
    """A file with bfloat16 tensors, written by hand: NumPy cannot."""
    bits = (generator.standard_normal((16, 32)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    header = b'{"w":{"dtype":"BF16","shape":[16,32],"data_offsets":[0,1024]}}'
    path = tmp_path / "bf16.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    run("quantize", path, tmp_path / "out")
    expected = int4q.quantize(bits, int4q.Scheme.asymmetric(), element_type="bf16").pack()
    assert bytes(int4q.Blob.map(tmp_path / "out" / "w.int4q")) == bytes(expected)


def test_quantize_says_what_is_wrong(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert "group_size" in run("quantize", model, tmp_path / "out", "--group-size", 5, code=1)
    assert "absent" in run("quantize", tmp_path / "absent", tmp_path / "out", code=1)
    nothing = tmp_path / "nothing.safetensors"
    safetensors_numpy.save_file({"bias": np.zeros(4, np.float32)}, nothing)
    assert "no 2-D tensor" in run("quantize", nothing, tmp_path / "out", code=1)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff" * 100)
    assert "not a safetensors file" in run("quantize", garbage, tmp_path / "out", code=1)
    bad = tmp_path / "bad.safetensors"
    safetensors_numpy.save_file({"w": np.full((2, 32), np.nan, np.float32)}, bad)
    assert "w: int4q_quantize_rows: source is nan at row 0, column 0" in run("quantize", bad, tmp_path / "out", code=1)


# ---- diagnose ------------------------------------------------------------------------------------------------------


def test_diagnose(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = run("diagnose", model)
    weights = safetensors_numpy.load_file(model)["layer.weight"]
    layer = int4q.diagnose(weights, show=False).layers[0]
    assert layer.advised is not None
    assert f"layer.weight: {layer.advice}" in text and "48 x 64" in text and "layer/half: " in text
    assert "SQNR" not in text and "positions" not in text
    detailed = run("diagnose", model, "--schemes", "--threads", 1)
    assert f"{layer.schemes[0].sqnr_db:.1f}" in detailed and "SQNR dB" in detailed


def test_diagnose_as_json(model: pathlib.Path) -> None:
    rows = json.loads(run("diagnose", model, "--json", "--most-bits", 4.4))
    assert [row["name"] for row in rows] == ["layer.weight", "layer/half"]
    assert rows[0]["shape"] == [48, 64] and rows[1]["type"] == "f16"
    advised = next(result for result in rows[0]["schemes"] if result["name"] == rows[0]["advised"])
    assert advised["bits_per_weight"] <= 4.4
    assert "none has at most 4.4 bits" in rows[1]["advice"]  # an odd row of 33 needs more


def test_diagnose_says_what_is_wrong(tmp_path: pathlib.Path) -> None:
    assert "absent" in run("diagnose", tmp_path / "absent.npz", code=1)
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK\x03\x04")
    assert "not an .npz file" in run("diagnose", bad, code=1)
    nan = tmp_path / "nan.npz"
    np.savez(nan, w=np.full((2, 64), np.nan, np.float32))
    assert "w: repair it first: 128 of 128 weights" in run("diagnose", nan)
