# SPDX-License-Identifier: Apache-2.0
"""libint4q itself, through its Python package."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .contestant import Contestant, InTurn, Missing, Peer, Problem, Program
from .weights import Weights


def scheme(group: int) -> Any:
    import int4q

    return int4q.Scheme.symmetric(group, scale_type=int4q.Type.F16)


def quantize(matrix: np.ndarray, group: int) -> Weights:
    """The codes and scales that every contestant is given."""
    import int4q

    tensor = int4q.quantize(matrix, scheme(group))
    return Weights(tensor.codes, np.asarray(tensor.scales), group)


def _pack(weights: Weights) -> Any:
    import int4q

    tensor = int4q.QuantizedTensor(scheme(weights.group), weights.n, weights.k, weights.packed, weights.scales)
    return int4q.Blob.pack(tensor, threads=1)


def _blobs(problem: Problem) -> list[Any]:
    """Every mode reads the same blobs."""
    if "int4q" not in problem.shared:
        problem.shared["int4q"] = [_pack(weights) for weights in problem.copies()]
    blobs: list[Any] = problem.shared["int4q"]
    return blobs


@dataclasses.dataclass
class Mode(Contestant):
    """One compute mode, looked up by name: an older library may lack it."""

    mode: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"int4q {self.mode}"

    def prepare(self, problem: Problem) -> Program:
        import int4q

        mode = getattr(int4q.Mode, self.mode, None)
        if mode is None:
            raise Missing(f"this version of the library has no mode {self.mode}")
        cell = problem.cell
        plan = int4q.MatmulPlan(scheme(cell.group), cell.m, cell.n, cell.k, mode=mode, workers=cell.threads)
        return _Products(plan, _blobs(problem), problem)


class _Products(InTurn):
    """The arguments of every call are made beforehand, so that a call from Python costs little more than one from C."""

    def __init__(self, plan: Any, blobs: list[Any], problem: Problem) -> None:
        from int4q import _arrays, _native

        cell = problem.cell
        self._stack = contextlib.ExitStack()
        parallel_for, handle = self._threads(cell.threads)
        scratch = _arrays.aligned_bytes(plan.scratch_bytes)
        results = [np.empty((cell.m, cell.n), np.float32) for _ in blobs]

        def call(blob: Any, result: np.ndarray) -> Callable[[], Any]:
            arguments = _native.MatmulArgsStruct(
                x=problem.x.ctypes.data,
                ldx=cell.k,
                blob=blob.data.ctypes.data,
                blob_bytes=blob.nbytes,
                y=result.ctypes.data,
                ldy=cell.n,
                scratch=scratch.ctypes.data,
                scratch_bytes=scratch.nbytes,
            )
            function = _native.library.int4q_matmul
            first, second = ctypes.byref(plan.struct), ctypes.byref(arguments)
            return lambda: function(first, second, parallel_for, handle)

        self._keep = (plan, blobs, problem.x, scratch)
        super().__init__(list(map(call, blobs, results)), lambda copy, status: self._checked(results[copy], status))

    def _threads(self, count: int) -> tuple[Any, Any]:
        import int4q
        from int4q import _native

        if count == 1:
            return _native.no_parallel_for, None
        pool = self._stack.enter_context(int4q.Pool(count))
        return _native.pool_parallel_for, self._stack.enter_context(pool.in_use())

    @staticmethod
    def _checked(result: np.ndarray, status: int) -> np.ndarray:
        from int4q import _native

        if status:
            raise _native.last_error(status, "int4q_matmul")
        return result

    def close(self) -> None:
        self._stack.close()


class ThisLibrary(Peer):
    """The library that the others are compared with."""

    name = "int4q"
    is_this_library = True
    limits: ClassVar[dict[str, dict[str, str]]] = {"avx2": {"INT4Q_ISA": "avx2"}}

    def version(self) -> str:
        try:
            import int4q
        except ImportError as error:
            raise Missing(str(error)) from error
        return ".".join(map(str, int4q.library_version()))

    def contestants(self) -> Sequence[Contestant]:
        return [Mode("F32"), Mode("BF16"), Mode("INT8")]

    def describe(self, group: int, m: int, threads: int) -> list[str]:
        """What each mode's dispatch says of a 4096 x 4096 product."""
        import int4q

        modes = [getattr(int4q.Mode, name, None) for name in ("F32", "BF16", "INT8")]
        return [
            int4q.describe_dispatch(scheme(group), m, 4096, 4096, mode=mode, workers=threads)
            for mode in modes
            if mode is not None
        ]
