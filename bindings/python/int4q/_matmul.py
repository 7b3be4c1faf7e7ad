"""Plans of products, and the memory that they work in."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, aligned_bytes, as_type
from ._enums import Activation, Bound, Isa, Mode, Type
from ._isa import isa_active
from ._operands import NO_STEPS, Operands, Steps
from ._pool import Pool
from ._scheme import Scheme

_thread = threading.local()

_PLANS_KEPT = 64

Parts = tuple[int, int]
"""part_flags and part_rank of a blob: what a plan must know of its parts."""
NO_PARTS: Parts = (0, 0)


def _scratch(count: int) -> np.ndarray:
    """At least `count` bytes that belong to this thread; they are used again by its next product."""
    buffer = getattr(_thread, "scratch", None)
    if buffer is None or len(buffer) < count:
        buffer = _thread.scratch = aligned_bytes(count)
    return buffer


def describe(
    scheme: Scheme,
    m: int,
    n: int,
    k: int,
    x_type: Type,
    y_type: Type,
    mode: Mode,
    workers: int,
    steps: Steps,
    parts: Parts,
) -> _native.MatmulDescStruct:
    return _native.MatmulDescStruct(
        mode=mode,
        m=m,
        n=n,
        k=k,
        scheme=scheme.as_struct(),
        x_type=x_type,
        y_type=y_type,
        worker_count=workers,
        part_flags=parts[0],
        part_rank=parts[1],
        **steps.as_fields(),
    )


class MatmulPlan:
    """How one product y[m][n] = x[m][k] * W[n][k]^T, with other `steps`, will be done. Many threads may use it at once.

    `isa`, `scratch_bytes`, `prepare_count`, `tile_count` and `workers` are what the library decided.
    """

    def __init__(
        self,
        scheme: Scheme,
        m: int,
        n: int,
        k: int,
        *,
        mode: Mode = Mode.F32,
        x_type: Any = Type.F32,
        y_type: Any = Type.F32,
        workers: int = 1,
        steps: Steps = NO_STEPS,
        parts: Parts = NO_PARTS,
    ) -> None:
        description = describe(scheme, m, n, k, as_type(x_type), as_type(y_type), mode, workers, steps, parts)
        self.n = n
        self.struct = _native.MatmulPlanStruct()
        _native.call("int4q_matmul_plan_init", ctypes.byref(description), ctypes.byref(self.struct))
        self.isa = Isa(self.struct.isa)
        self.scratch_bytes = int(self.struct.scratch_bytes)
        self.prepare_count = int(self.struct.prepare_count)
        self.tile_count = int(self.struct.tile_count)
        self.workers = int(self.struct.worker_count)

    def run(self, x: Matrix, y: Matrix, operands: Operands, pool: Pool | None = None) -> None:
        """The whole product, on the pool's threads or on the calling one."""
        scratch = _scratch(self.scratch_bytes)
        arguments = _native.MatmulArgsStruct(
            x=x.pointer,
            ldx=x.stride,
            y=y.pointer,
            ldy=y.stride,
            scratch=scratch.ctypes.data,
            scratch_bytes=scratch.nbytes,
            **operands.as_fields(),
        )
        using = contextlib.nullcontext() if pool is None else pool.in_use()
        with using as handle:
            _native.call(
                "int4q_matmul",
                ctypes.byref(self.struct),
                ctypes.byref(arguments),
                _native.no_parallel_for if pool is None else _native.pool_parallel_for,
                handle,
            )

    def error_bound(self, x: Matrix, operands: Operands, bound: Bound) -> np.ndarray:
        """float64[m][n]: how far this product's results may be from exact arithmetic's."""
        bounds = np.empty((x.rows, self.n), np.float64)
        arguments = _native.MatmulArgsStruct(x=x.pointer, ldx=x.stride, **operands.as_fields())
        _native.call(
            "int4q_error_bound",
            ctypes.byref(self.struct),
            ctypes.byref(arguments),
            bound,
            bounds.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
            bounds.shape[1],
        )
        return bounds


class PlanCache:
    """The latest plans of one matrix, or of several alike. A plan costs little, but more than a small product."""

    def __init__(self, scheme: Scheme, n: int, k: int, parts: Parts = NO_PARTS) -> None:
        self._scheme, self._n, self._k, self._parts = scheme, n, k, parts
        self._plans: dict[tuple[Any, ...], MatmulPlan] = {}
        self._lock = threading.Lock()

    def get(
        self, m: int, x_type: Type, y_type: Type, mode: Mode, workers: int, steps: Steps = NO_STEPS
    ) -> MatmulPlan:
        # A plan keeps its instruction set; a limit set since must not be passed by.
        key = (m, x_type, y_type, mode, workers, steps, isa_active())
        plan = self._plans.get(key)
        return plan if plan is not None else self._make(key)

    def _make(self, key: tuple[Any, ...]) -> MatmulPlan:
        m, x_type, y_type, mode, workers, steps, _ = key
        kinds = {"mode": mode, "x_type": x_type, "y_type": y_type}
        plan = MatmulPlan(self._scheme, m, self._n, self._k, workers=workers, steps=steps, parts=self._parts, **kinds)
        with self._lock:
            while len(self._plans) >= _PLANS_KEPT:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = plan
        return plan

    def multiply(
        self, x: Matrix, y: Matrix, operands: Operands, *, mode: Mode, activation: Activation, pool: Pool | None
    ) -> None:
        """The product, with the plan that fits."""
        steps = operands.steps(activation)
        if x.rows:
            workers = 1 if pool is None else pool.workers
            plan = self.get(x.rows, x.element_type, y.element_type, Mode(mode), workers, steps)
            plan.run(x, y, operands, pool)

    def __len__(self) -> int:
        return len(self._plans)


def describe_dispatch(
    scheme: Scheme,
    m: int,
    n: int,
    k: int,
    *,
    mode: Mode = Mode.F32,
    x_type: Any = Type.F32,
    y_type: Any = Type.F32,
    workers: int = 1,
    steps: Steps = NO_STEPS,
    parts: Parts = NO_PARTS,
) -> str:
    """Which kernel a product of this shape would use now, how it would be cut, and why not a better one.

    `steps` tells what it does besides x * W^T: Steps(activation=Activation.SILU, gated=True), for instance, `parts`
    a blob's part_flags and part_rank. Raises InvalidArgumentError for a product that there cannot be.
    """
    description = describe(scheme, m, n, k, as_type(x_type), as_type(y_type), mode, workers, steps, parts)
    size = ctypes.c_uint64(1024)
    for _ in range(2):  # the second time with the size that the first one told
        text = ctypes.create_string_buffer(size.value)
        arguments = (ctypes.byref(description), text, size.value, ctypes.byref(size))
        status = _native.library.int4q_describe_dispatch(*arguments)
        if status == 0:
            return text.value.decode("utf-8", "replace")
    raise _native.last_error(status, "int4q_describe_dispatch")
