"""Learned rounding on Gram matrices: AutoRound and AdaRound."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from typing import Any

from . import _native
from ._arrays import aligned_bytes
from ._enums import LearningMethod
from ._pool import Pool
from ._reconstruction import GramMatrix, _Reporter, _size, _spread
from ._reconstruction_methods import _matched
from ._tensor import QuantizedTensor


@dataclasses.dataclass(frozen=True)
class LearningReport:
    """What learning did. Losses are means over the samples of the squared output error, added over rows.

    improved_rows   others have kept what they had
    changed_codes   that differ from those before
    changed_scales  groups whose scale, zero point or offset differs
    best_iteration  AutoRound: the latest of the iterates that were kept (0: the start); AdaRound: 0
    loss            of the result
    start_loss      of the tensor as it was
    """

    improved_rows: int
    changed_codes: int
    changed_scales: int
    best_iteration: int
    loss: float
    start_loss: float


def autoround(
    tensor: QuantizedTensor,
    weights: Any,
    gram: GramMatrix,
    *,
    iterations: int = 200,
    step: float | None = None,
    range_step: float | None = None,
    least_range: float = 0.5,
    most_range: float = 1.0,
    progress: Callable[[int, int], Any] | None = None,
    element_type: Any = None,
    pool: Pool | None = None,
) -> LearningReport:
    """Improves a tensor in place by AutoRound: signed gradient descent on what is added to weights before they are rounded, and on
    the ends of groups' ranges.

    tensor       of any quantizer (`quantize`, `gptq`), made from weights[n][k]; symmetric, asymmetric or offset
    gram         of the layer's inputs
    step         the first one, in steps of the codes; the last one is 0. None: 1 / iterations
    range_step   the same of the factors of ranges' ends, which stay in least_range..most_range. None: as step; 0: ranges stay
    progress     called with (done, total); True, or an exception, ends the call (CancelledError, or that exception)

    No row is worse than before.
    """
    first = 1 / iterations if step is None else step
    return _learn(
        tensor,
        weights,
        gram,
        progress,
        element_type,
        pool,
        method=LearningMethod.AUTOROUND,
        iterations=iterations,
        step=first,
        range_step=first if range_step is None else range_step,
        least_range=least_range,
        most_range=most_range,
    )


def adaround(
    tensor: QuantizedTensor,
    weights: Any,
    gram: GramMatrix,
    *,
    iterations: int = 1000,
    step: float = 0.02,
    regularization: float = 30.0,
    warm_up: float = 0.0,
    first_exponent: float = 20.0,
    last_exponent: float = 2.0,
    progress: Callable[[int, int], Any] | None = None,
    element_type: Any = None,
    pool: Pool | None = None,
) -> LearningReport:
    """Improves a tensor in place by AdaRound (BRECQ's rounding): which weights go up and which down, by Adam on a soft rounding
    that a regularization makes hard.

    tensor          of any quantizer (`quantize`, `gptq`), made from weights[n][k]; symmetric, asymmetric or offset; scales stay
    gram            of the layer's inputs
    step            Adam's
    regularization  in units of the row's loss before, divided by k; sets in after `warm_up` of the iterations, with an exponent
                    that falls from first_exponent to last_exponent
    progress        as for `autoround`

    No row is worse than before.
    """
    return _learn(
        tensor,
        weights,
        gram,
        progress,
        element_type,
        pool,
        method=LearningMethod.ADAROUND,
        iterations=iterations,
        step=step,
        regularization=regularization,
        warm_up=warm_up,
        first_exponent=first_exponent,
        last_exponent=last_exponent,
    )


def _learn(
    tensor: QuantizedTensor,
    weights: Any,
    gram: GramMatrix,
    progress: Callable[[int, int], Any] | None,
    element_type: Any,
    pool: Pool | None,
    **fields: Any,
) -> LearningReport:
    source = _matched(tensor, weights, element_type)
    struct, report = tensor.as_struct(), _native.LearningReportStruct()
    usual = {"least_range": 1.0, "most_range": 1.0, "first_exponent": 1.0, "last_exponent": 1.0}
    with _spread(pool) as (workers, parallel_for, host), _Reporter(progress) as reporter:
        size = _size("int4q_learn_rounding_scratch", ctypes.byref(struct.scheme), source.columns, workers)
        scratch = aligned_bytes(size)
        options = _native.LearningOptionsStruct(worker_count=workers, progress=reporter.callback, **{**usual, **fields})
        _native.call(
            "int4q_learn_rounding",
            ctypes.byref(struct),
            source.pointer,
            source.element_type,
            source.stride,
            *gram._memory,
            ctypes.byref(options),
            scratch.ctypes.data,
            scratch.nbytes,
            parallel_for,
            host,
            ctypes.byref(report),
        )
    return LearningReport(
        report.improved_rows,
        report.changed_codes,
        report.changed_scales,
        report.best_iteration,
        report.loss,
        report.start_loss,
    )
