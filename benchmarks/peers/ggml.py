# SPDX-License-Identifier: Apache-2.0
"""ggml's CPU backend: Q4_0 weights, in groups of 32."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .contestant import Contestant, Missing, Peer, Problem, Program
from .ggml_native import TYPE_F32, TYPE_Q4_0, Ggml, InitParameters
from .weights import Weights

_GROUP = 32


@functools.cache
def _library() -> Ggml:
    return Ggml()


def _q4_0(weights: Weights) -> np.ndarray:
    """Blocks of a scale and 16 bytes: element i of the group in the low nibbles, i + 16 in the high ones."""
    codes = weights.codes().reshape(weights.n, weights.groups, _GROUP)
    nibbles = codes[:, :, :16] | (codes[:, :, 16:] << 4)
    scales = weights.scales.view(np.uint8).reshape(weights.n, weights.groups, 2)
    return np.ascontiguousarray(np.concatenate([scales, nibbles], 2))


class _Graph(Program):
    """All copies in one graph: its fixed cost is paid once a pass, as in a model of many layers."""

    def __init__(self, problem: Problem, memory: str) -> None:
        self._ggml = ggml = _library()
        self._buffers: list[int] = []
        self._contexts: list[int] = []
        self._backend = ggml.backend_cpu_init()
        self._shape = problem.cell.m, problem.cell.n
        try:
            self._build(problem, memory)
        except BaseException:
            self.close()
            raise

    def _build(self, problem: Problem, memory: str) -> None:
        ggml, cell = self._ggml, problem.cell
        ggml.backend_cpu_set_n_threads(self._backend, cell.threads)
        kinds = ggml.buffer_types(self._backend)
        if memory not in kinds:
            raise Missing(f"this build on this machine has no {memory}, only {', '.join(kinds)}")
        copies = problem.copies()
        self.products = len(copies)
        matrices, context = self._tensors(TYPE_Q4_0, cell.k, cell.n, self.products)
        self._allocate(ggml.backend_alloc_ctx_tensors_from_buft(context, kinds[memory]))
        self._connect(problem, matrices)
        for matrix, weights in zip(matrices, copies, strict=True):
            self._set(matrix, _q4_0(weights))

    def _context(self, tensors: int, graph: int = 0) -> int:
        ggml = self._ggml
        size = ggml.tensor_overhead() * (tensors + 1)
        if graph:
            size += ggml.graph_overhead_custom(graph, False)
        context: int = ggml.init(InitParameters(size, None, True))
        self._contexts.append(context)
        return context

    def _tensors(self, kind: int, columns: int, rows: int, count: int) -> tuple[list[int], int]:
        context = self._context(count)
        return [self._ggml.new_tensor_2d(context, kind, columns, rows) for _ in range(count)], context

    def _allocate(self, buffer: int | None) -> None:
        if not buffer:
            raise MemoryError("ggml could not allocate its tensors")
        self._buffers.append(buffer)

    def _connect(self, problem: Problem, matrices: list[int]) -> None:
        """The graph: every matrix times the same x."""
        ggml, size = self._ggml, 2 * len(matrices) + 16
        context = self._context(len(matrices) + 1, size)
        x = ggml.new_tensor_2d(context, TYPE_F32, problem.cell.k, problem.cell.m)
        self._outputs = [ggml.mul_mat(context, matrix, x) for matrix in matrices]
        device = ggml.backend_get_device(self._backend)
        # Asked before weights are set: memory of a kind that cannot hold them would crash on that.
        if not ggml.backend_dev_supports_op(device, self._outputs[0]):
            raise Missing("this kind of memory does not take this shape")
        self._graph = ggml.new_graph_custom(context, size, False)
        for output in self._outputs:
            ggml.build_forward_expand(self._graph, output)
        self._allocate(ggml.backend_alloc_ctx_tensors(context, self._backend))
        self._set(x, problem.x)

    def _set(self, tensor: int, array: np.ndarray) -> None:
        self._ggml.backend_tensor_set(tensor, array.ctypes.data, 0, array.nbytes)

    @property
    def copies(self) -> int:
        return self.products

    def run(self) -> None:
        if self._ggml.backend_graph_compute(self._backend, self._graph):
            raise RuntimeError("ggml_backend_graph_compute failed")

    def result(self, copy: int) -> np.ndarray:
        self.run()
        y = np.empty(self._shape, np.float32)
        self._ggml.backend_tensor_get(self._outputs[copy], y.ctypes.data, 0, y.nbytes)
        return y

    def close(self) -> None:
        for buffer in self._buffers:
            self._ggml.backend_buffer_free(buffer)
        for context in self._contexts:
            self._ggml.free(context)
        self._buffers, self._contexts = [], []
        if self._backend:
            self._ggml.backend_free(self._backend)
            self._backend = None


@dataclasses.dataclass
class Memory(Contestant):
    """Weights in one kind of the backend's memory, which decides their layout and the kernels."""

    memory: str
    title: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"ggml Q4_0{self.title}"

    def prepare(self, problem: Problem) -> Program:
        if problem.cell.group != _GROUP:
            raise Missing(f"Q4_0 has groups of {_GROUP}")
        return _Graph(problem, self.memory)


class GgmlCpu(Peer):
    name = "ggml"
    limits: ClassVar[dict[str, dict[str, str]]] = {"avx2": {}}  # by another build, which the environment names

    def version(self) -> str:
        return str(_library().version().decode())

    def contestants(self) -> Sequence[Contestant]:
        return [Memory("CPU", ""), Memory("CPU_REPACK", " repacked"), Memory("AMX", " AMX")]
