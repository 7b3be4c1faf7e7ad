"""Products against ONNX Runtime's MatMulNBits, from the same codes, scales and zero points."""

from __future__ import annotations

import numpy as np
import pytest

import int4q

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no ONNX Runtime product to compare with")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: nothing to compare with")


def padded_nibbles(codes: np.ndarray, count: int) -> np.ndarray:
    """Codes of each row, two in a byte with the even one low, zeros up to `count` of them."""
    full = np.zeros((codes.shape[0], count + count % 2), np.uint8)
    full[:, : codes.shape[1]] = codes
    return full[:, 0::2] | full[:, 1::2] << 4


def as_matmul_nbits(tensor: int4q.QuantizedTensor) -> dict[str, np.ndarray]:
    """B[n][groups][group / 2], scales[n * groups] and, if any, zero points two to a byte for each row."""
    groups = tensor.scheme.groups_per_row(tensor.k)
    size = tensor.scheme.group_size
    parts = {
        "B": padded_nibbles(tensor.code_matrix(), groups * size).reshape(tensor.n, groups, size // 2),
        "scales": tensor.scales.astype(np.float32).reshape(-1),
    }
    if tensor.zero_points is not None:
        parts["zero_points"] = padded_nibbles(tensor.zero_points, groups).reshape(-1)
    return parts


def onnx_product(tensor: int4q.QuantizedTensor, x: np.ndarray, accuracy_level: int) -> np.ndarray:
    parts = as_matmul_nbits(tensor)
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["A", *parts],
        ["Y"],
        domain="com.microsoft",
        K=tensor.k,
        N=tensor.n,
        bits=4,
        block_size=tensor.scheme.group_size,
        accuracy_level=accuracy_level,
    )
    information = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [information("A", onnx.TensorProto.FLOAT, list(x.shape))],
        [information("Y", onnx.TensorProto.FLOAT, [x.shape[0], tensor.n])],
        [onnx.numpy_helper.from_array(array, name) for name, array in parts.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"A": x})[0]
    return result


@pytest.mark.parametrize("shape", [(1, 32, 64), (4, 48, 256), (3, 40, 100), (2, 33, 288)], ids=str)
@pytest.mark.parametrize("group_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_same_product(kind: str, group_size: int, shape: tuple[int, int, int], generator: np.random.Generator) -> None:
    m, n, k = shape
    weights = generator.standard_normal((n, k)).astype(np.float32)
    scheme = getattr(int4q.Scheme, kind)(group_size, scale_type=int4q.Type.F32)
    tensor = int4q.quantize(weights, scheme)
    blob = tensor.pack()
    x = generator.standard_normal((m, k)).astype(np.float32)
    exact = x.astype(np.float64) @ tensor.dequantize().T.astype(np.float64)
    magnitude = np.abs(x).astype(np.float64) @ np.abs(tensor.dequantize()).T

    single = onnx_product(tensor, x, accuracy_level=1)
    # Both sum in binary32 in an order of their own; neither is the truth, so the distance is bounded by both errors.
    assert (np.abs(blob.matmul(x) - single) <= 4 * (k + 64) * 2.0**-24 * magnitude + 1e-30).all()

    eight = onnx_product(tensor, x, accuracy_level=4)
    ours = blob.matmul(x, mode=int4q.Mode.INT8)
    # Half an int8 step of each group's largest x, on either side.
    step = np.abs(x).max() / 127
    bound = 2 * 0.51 * step * np.abs(tensor.dequantize()).sum(axis=1, dtype=np.float64)
    assert (np.abs(ours - eight) <= bound).all()
    spread = np.sqrt(np.mean(exact**2))
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 0.02 * spread
    # ONNX Runtime's int8 is the same idea: ours must not be clearly worse.
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 1.5 * np.sqrt(np.mean((eight - exact) ** 2)) + 0.002 * spread
