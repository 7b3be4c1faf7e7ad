# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: nodes of com.microsoft.MatMulNBits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from .contestant import Contestant, Missing, Peer, Problem, Program
from .weights import Weights


def _node(index: int, weights: Weights, accuracy: int) -> tuple[Any, list[Any]]:
    """y<index> = x W^T, and its constants. Zero points are 8 where none are given."""
    from onnx import TensorProto, helper

    packed = weights.packed.reshape(weights.n, weights.groups, weights.group // 2)
    constants = [
        helper.make_tensor(f"b{index}", TensorProto.UINT8, packed.shape, packed.tobytes(), raw=True),
        helper.make_tensor(
            f"s{index}",
            TensorProto.FLOAT,
            [weights.scales.size],
            weights.scales.astype(np.float32).tobytes(),
            raw=True,
        ),
    ]
    node = helper.make_node(
        "MatMulNBits",
        ["x", f"b{index}", f"s{index}"],
        [f"y{index}"],
        domain="com.microsoft",
        K=weights.k,
        N=weights.n,
        bits=4,
        block_size=weights.group,
        accuracy_level=accuracy,
    )
    return node, constants


def _model(problem: Problem, accuracy: int) -> tuple[bytes, int]:
    """A model with one node for each copy, all of the same x; and how many those are."""
    from onnx import TensorProto, helper

    cell = problem.cell
    copies = problem.copies()
    nodes, constants = [], []
    for index, weights in enumerate(copies):
        node, tensors = _node(index, weights, accuracy)
        nodes.append(node)
        constants.extend(tensors)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [cell.m, cell.k])
    ys = [
        helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, [cell.m, cell.n]) for index in range(len(copies))
    ]
    graph = helper.make_graph(nodes, "products", [x], ys, constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString(), len(copies)


class _Session(Program):
    """All copies in one session: its fixed cost is paid once a pass, as in a model of many layers."""

    def __init__(self, problem: Problem, accuracy: int) -> None:
        import onnxruntime

        model, self.products = _model(problem, accuracy)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = problem.cell.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input("x", problem.x)
        self._outputs = [np.empty((problem.cell.m, problem.cell.n), np.float32) for _ in range(self.products)]
        for index, output in enumerate(self._outputs):
            self._binding.bind_output(f"y{index}", "cpu", 0, np.float32, output.shape, output.ctypes.data)
        self._keep = problem.x

    @property
    def copies(self) -> int:
        return self.products

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def result(self, copy: int) -> np.ndarray:
        self.run()
        return self._outputs[copy]


@dataclasses.dataclass
class AccuracyLevel(Contestant):
    """1: float products. 4: activations quantized to int8."""

    level: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"ONNX Runtime level {self.level}"

    def prepare(self, problem: Problem) -> Program:
        return _Session(problem, self.level)


class OnnxRuntime(Peer):
    name = "onnxruntime"

    def version(self) -> str:
        try:
            import onnx  # noqa: F401
            import onnxruntime
        except ImportError as error:
            raise Missing(str(error)) from error
        return str(onnxruntime.__version__)

    def contestants(self) -> Sequence[Contestant]:
        return [AccuracyLevel(1), AccuracyLevel(4)]
