"""What counts as a matrix, and what is copied."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import as_float32

import int4q
from int4q import _arrays

BASE = np.arange(200, dtype=np.float32).reshape(10, 20)

IN_PLACE = {
    "whole": BASE,
    "columns": BASE[:, 3:17],
    "every second row": BASE[::2],
    "one row": BASE[4:5],
    "one column": BASE[:, 4:5],
    "half": BASE.astype(np.float16)[1::3, :7],
    "read-only": np.frombuffer(BASE.tobytes(), np.float32).reshape(10, 20),
}
COPIED = {
    "transposed": BASE.T,
    "every second column": BASE[:, ::2],
    "rows upside down": BASE[::-1],
    "columns reversed": BASE[:, ::-1],
    "one row repeated": np.broadcast_to(BASE[0], (5, 20)),
    "big-endian": BASE.astype(">f4"),
    "float64": BASE.astype(np.float64),
    "misaligned": np.frombuffer(b"\0" + BASE.tobytes(), np.uint8)[1:].view(np.float32).reshape(10, 20),
    "list": BASE.tolist(),
}


@pytest.mark.parametrize("name", list(IN_PLACE))
def test_used_in_place(name: str) -> None:
    matrix = _arrays.input_matrix(IN_PLACE[name], "x")
    assert matrix.pointer == IN_PLACE[name].ctypes.data
    assert matrix.stride >= matrix.columns


@pytest.mark.parametrize("name", list(COPIED))
def test_copied_once(name: str) -> None:
    matrix = _arrays.input_matrix(COPIED[name], "x")
    assert _arrays.has_readable_layout(matrix.array)
    np.testing.assert_array_equal(matrix.array, np.asarray(COPIED[name], np.float32))


@pytest.mark.parametrize("name", [*IN_PLACE, *COPIED])
def test_the_layout_does_not_change_the_result(name: str) -> None:
    array = {**IN_PLACE, **COPIED}[name]
    plain = np.ascontiguousarray(np.asarray(array, np.float32))
    assert int4q.quantize(array).codes.tobytes() == int4q.quantize(plain).codes.tobytes()
    blob = int4q.quantize(np.ones((16, plain.shape[1]), np.float32)).pack()
    np.testing.assert_array_equal(as_float32(blob.matmul(array, dtype="f32")), blob.matmul(plain))


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.complex64, bool, object, "U3"])
def test_other_dtypes_are_refused(dtype: object) -> None:
    with pytest.raises(TypeError, match="weights has dtype.*expected float32, float16, bfloat16 or float64"):
        int4q.quantize(np.zeros((2, 32), dtype))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_weights_have_two_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"weights has {len(shape)} dimensions"):
        int4q.quantize(np.ones(shape, np.float32))


def test_named_type_must_fit() -> None:
    with pytest.raises(TypeError, match="expected BF16"):
        int4q.quantize(BASE, element_type="bf16")
    with pytest.raises(TypeError, match="element type"):
        int4q.quantize(BASE).dequantize(np.int8)


def test_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: bfloat16 arrays are uint16 then")
    array = np.linspace(-3, 3, 200, dtype=np.float32).reshape(10, 20).astype(ml_dtypes.bfloat16)
    tensor = int4q.quantize(array)
    bits = int4q.quantize(array.view(np.uint16), element_type="bf16")
    assert tensor.codes.tobytes() == bits.codes.tobytes()
    assert tensor.dequantize("bf16").dtype == ml_dtypes.bfloat16
    y = tensor.pack().matmul(array)
    assert y.dtype == ml_dtypes.bfloat16
    assert _arrays.input_matrix(array, "x").pointer == array.ctypes.data


def test_bfloat16_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arrays, "BFLOAT16", None)
    bits = reference.bfloat16_bits(BASE)
    tensor = int4q.quantize(bits, int4q.Scheme.offset(scale_type=int4q.Type.BF16), element_type="bf16")
    assert tensor.scales.dtype == tensor.offsets.dtype == np.uint16
    assert tensor.dequantize("bf16").dtype == np.uint16
    blob = tensor.pack()
    y = blob.matmul(bits, element_type="bf16")
    assert y.dtype == np.uint16
    exact = reference.bfloat16_values(bits).astype(float) @ tensor.dequantize().T.astype(float)
    np.testing.assert_allclose(reference.bfloat16_values(y), exact, rtol=0.01)
    out = np.empty((10, 10), np.uint16)
    blob.matmul(bits, element_type="bf16", out=out)
    np.testing.assert_array_equal(out, y)


class WithArray:
    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return BASE


class WithDlpack:
    def __dlpack__(self, **options: object) -> object:
        return BASE.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return BASE.__dlpack_device__()


@pytest.mark.parametrize("value", [WithArray(), WithDlpack()], ids=["__array__", "__dlpack__"])
def test_other_kinds_of_array(value: object) -> None:
    assert _arrays.input_matrix(value, "x").pointer == BASE.ctypes.data
    assert int4q.quantize(value).codes.tobytes() == int4q.quantize(BASE).codes.tobytes()


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = torch.from_numpy(BASE.copy()).requires_grad_()
    assert _arrays.input_matrix(tensor, "x").pointer == tensor.data_ptr()
    assert int4q.quantize(tensor).codes.tobytes() == int4q.quantize(BASE).codes.tobytes()
    brain = tensor.to(torch.bfloat16)
    matrix = _arrays.input_matrix(brain, "x")
    assert (matrix.pointer, matrix.element_type) == (brain.data_ptr(), int4q.Type.BF16)
    y = int4q.quantize(BASE).pack().matmul(brain)
    assert _arrays.type_of_dtype(y.dtype) in (int4q.Type.BF16, None)
    assert int4q.compare(tensor, BASE).mse == 0


def test_memory_is_aligned() -> None:
    for count in (1, 63, 64, 1000):
        room = _arrays.aligned_bytes(count)
        assert len(room) == count and room.ctypes.data % 64 == 0
