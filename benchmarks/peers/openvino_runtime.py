# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: matrix products with weights that its CPU plugin keeps compressed in 4 bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .contestant import Contestant, Missing, Peer, Problem, Program
from .weights import Weights


class _ModelBuilder:
    """Constants share the memory of NumPy arrays, which this keeps until the model is compiled."""

    def __init__(self) -> None:
        self._keep: list[np.ndarray] = []

    def _constant(self, array: np.ndarray, shape: list[int], element_type: Any) -> Any:
        import openvino
        from openvino import opset13

        self._keep.append(array)
        return opset13.constant(openvino.Tensor(array, openvino.Shape(shape), element_type))

    def weights(self, weights: Weights) -> Any:
        """f32[n][k] from 4-bit constants, in the pattern that the plugin takes for compressed weights."""
        import openvino
        from openvino import opset13 as op

        n, groups, group = weights.n, weights.groups, weights.group
        codes = self._constant(weights.packed, [n, groups, group], openvino.Type.u4)
        zero_point = self._constant(np.array([8], np.uint8), [1, 1, 1], openvino.Type.u4)
        scales = self._constant(weights.scales, [n, groups, 1], openvino.Type.f16)
        centered = op.subtract(op.convert(codes, np.float16), op.convert(zero_point, np.float16))
        matrix = op.reshape(op.multiply(centered, scales), op.constant(np.array([n, weights.k])), False)
        return op.convert(matrix, np.float32)

    def model(self, copies: list[Weights], m: int) -> Any:
        import openvino
        from openvino import opset13 as op

        x = op.parameter([m, copies[0].k], np.float32)
        products = [op.matmul(x, self.weights(weights), False, True) for weights in copies]
        return openvino.Model([op.result(product) for product in products], [x])


class _Request(Program):
    """All copies in one model: a request's fixed cost is paid once a pass, as in a model of many layers."""

    def __init__(self, problem: Problem, properties: dict[str, Any]) -> None:
        import openvino

        cell = problem.cell
        builder = _ModelBuilder()
        copies = problem.copies()
        self.products = len(copies)
        compiled = openvino.Core().compile_model(builder.model(copies, cell.m), "CPU", properties)
        self._request = compiled.create_infer_request()
        self._x = openvino.Tensor(problem.x)
        self._request.set_input_tensor(self._x)

    @property
    def copies(self) -> int:
        return self.products

    def run(self) -> None:
        # infer() would wrap every output in an object of Python.
        self._request.start_async()
        self._request.wait()

    def result(self, copy: int) -> np.ndarray:
        self.run()
        return np.array(self._request.get_output_tensor(copy % self.products).data)


@dataclasses.dataclass
class Precision(Contestant):
    """A precision hint, with activations quantized by group or not."""

    hint: str
    quantizes: bool

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"OpenVINO {self.hint}{' dynamic' if self.quantizes else ''}"

    def prepare(self, problem: Problem) -> Program:
        properties = {
            "INFERENCE_PRECISION_HINT": self.hint,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": problem.cell.group if self.quantizes else 0,
            "INFERENCE_NUM_THREADS": problem.cell.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        return _Request(problem, properties)


class OpenVino(Peer):
    name = "openvino"
    limits: ClassVar[dict[str, dict[str, str]]] = {"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}}

    def version(self) -> str:
        try:
            import openvino
        except ImportError as error:
            raise Missing(str(error)) from error
        return str(openvino.__version__)

    def contestants(self) -> Sequence[Contestant]:
        return [Precision(hint, quantizes) for quantizes in (False, True) for hint in ("f32", "bf16")]
