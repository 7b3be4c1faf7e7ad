"""Methods around quantizers that use what a layer's inputs are like: SmoothQuant, AWQ, coordinate descent; and HQQ."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, aligned_bytes, as_type, input_matrix, new_matrix
from ._enums import DescentFlag
from ._pool import Pool
from ._reconstruction import GramMatrix, _Reporter, _size, _spread
from ._rows import for_rows
from ._scheme import Scheme
from ._tensor import QuantizedTensor, checked_scheme


def _floats(values: Any, name: str, count: int | None = None) -> np.ndarray:
    array = np.ascontiguousarray(values, np.float32)
    if array.ndim != 1 or (count is not None and len(array) != count):
        raise ValueError(f"{name} has shape {array.shape}; expected {(count,) if count is not None else 'one dimension'}")
    return array


def _matched(tensor: QuantizedTensor, weights: Any, element_type: Any) -> Matrix:
    source = input_matrix(weights, "weights", element_type)
    if (source.rows, source.columns) != tensor.shape:
        raise ValueError(f"weights has shape {source.array.shape}; expected {tensor.shape}")
    return source


# ---- SmoothQuant ---------------------------------------------------------------------------------------------------


def column_maxima(*matrices: Any, element_type: Any = None) -> np.ndarray:
    """float32[k]: the largest magnitude in each column of matrices [n][k] that share their input."""
    maxima = None
    for matrix in matrices:
        source = input_matrix(matrix, "matrix", element_type)
        if maxima is None:
            maxima = np.zeros(source.columns, np.float32)
        if len(maxima) != source.columns:
            raise ValueError(f"matrix has {source.columns} columns; the one before has {len(maxima)}")
        _native.call(
            "int4q_column_maxima",
            source.pointer,
            source.element_type,
            source.rows,
            source.columns,
            source.stride,
            maxima.ctypes.data,
        )
    if maxima is None:
        raise ValueError("no matrices were given")
    return maxima


def smooth_factors(x_maxima: Any, weight_maxima: Any, alpha: float = 0.5) -> np.ndarray:
    """float32[k]: SmoothQuant's max(x^alpha / w^(1 - alpha), 1e-5) of each channel's maxima; 1 for dead channels.

    x_maxima is `gram.channels()["max_magnitude"]` or an observer's, weight_maxima what `column_maxima` gives. Weights are
    multiplied by the factors, the inputs (or the norm's weight before them) divided: `scale_columns`.
    """
    x = _floats(x_maxima, "x_maxima")
    weights = _floats(weight_maxima, "weight_maxima", len(x))
    factors = np.empty(len(x), np.float32)
    _native.call("int4q_smooth_factors", x.ctypes.data, weights.ctypes.data, len(x), alpha, factors.ctypes.data)
    return factors


def scale_columns(
    matrix: Any,
    factors: Any,
    *,
    divide: bool = False,
    dtype: Any = None,
    element_type: Any = None,
    threads: int | None = None,
) -> np.ndarray:
    """matrix[n][k] with each column times (or divided by) its factor, in the same type or in `dtype`."""
    source = input_matrix(matrix, "matrix", element_type)
    values = _floats(factors, "factors", source.columns)
    target = new_matrix(source.rows, source.columns, source.element_type if dtype is None else as_type(dtype))

    def work(begin: int, end: int) -> None:
        _native.call(
            "int4q_scale_columns",
            source.pointer,
            source.element_type,
            source.stride,
            values.ctypes.data,
            int(divide),
            target.pointer,
            target.element_type,
            target.stride,
            source.rows,
            source.columns,
            begin,
            end,
        )

    for_rows(work, source.rows, source.columns, threads)
    return target.array


# ---- AWQ -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AwqScales:
    """What AWQ's search has found.

    scales      float32[k]: multiply the weights' columns with them before quantizing, and divide x by them
    ratio       the best exponent, or None if none was better than no scales: then all are 1
    loss        the layer's mean squared output error with these scales, added over its rows
    plain_loss  without any
    """

    scales: np.ndarray
    ratio: float | None
    loss: float
    plain_loss: float


def awq_scales(
    weights: Any,
    gram: GramMatrix,
    scheme: Scheme | None = None,
    *,
    steps: int = 20,
    progress: Callable[[int, int], Any] | None = None,
    element_type: Any = None,
    pool: Pool | None = None,
) -> AwqScales:
    """Searches the scales of input channels with which quantizing weights[n][k] changes the layer's outputs least.

    `steps` ratios are tried, 0, 1 / steps ...; progress is called with (done, total), and True ends the search.
    """
    source = input_matrix(weights, "weights", element_type)
    chosen = checked_scheme(scheme, source.rows)
    struct, codebook = chosen.as_struct(), chosen.codebook_array()
    scales, report = np.empty(source.columns, np.float32), _native.AwqReportStruct()

    with _spread(pool) as (workers, parallel_for, host), _Reporter(progress) as reporter:
        scratch = aligned_bytes(_size("int4q_awq_scratch", ctypes.byref(struct), source.rows, source.columns, workers))
        options = _native.AwqOptionsStruct(
            worker_count=workers,
            steps=steps,
            progress=reporter.callback,
        )
        _native.call(
            "int4q_awq_search",
            ctypes.byref(struct),
            None if codebook is None else codebook.ctypes.data,
            source.rows,
            source.columns,
            source.pointer,
            source.element_type,
            source.stride,
            *gram._memory,
            ctypes.byref(options),
            scratch.ctypes.data,
            scratch.nbytes,
            parallel_for,
            host,
            scales.ctypes.data,
            ctypes.byref(report),
        )
    ratio = report.step / steps if report.step >= 0 else None
    return AwqScales(scales, ratio, report.loss, report.plain_loss)


def awq_clips(
    weights: Any,
    gram: GramMatrix,
    scheme: Scheme | None = None,
    *,
    steps: int = 20,
    tried: int = 10,
    element_type: Any = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The magnitudes to which each group of weights[n][k] is best clipped, float32[n][groups], and the clipped weights.

    Tried are (1 - i / steps) times the group's largest magnitude, i = 0 ... tried - 1. The weights have the type of
    `weights` and may go to any quantizer of the same scheme.
    """
    source = input_matrix(weights, "weights", element_type)
    chosen = checked_scheme(scheme, source.rows)
    struct, codebook = chosen.as_struct(), chosen.codebook_array()
    size = _size("int4q_awq_clip_scratch", ctypes.byref(struct), source.columns)
    clips = np.empty((source.rows, chosen.groups_per_row(source.columns)), np.float32)
    target = new_matrix(source.rows, source.columns, source.element_type)

    def work(begin: int, end: int) -> None:
        scratch = aligned_bytes(size)
        _native.call(
            "int4q_awq_clip",
            ctypes.byref(struct),
            None if codebook is None else codebook.ctypes.data,
            source.rows,
            source.columns,
            source.pointer,
            source.element_type,
            source.stride,
            *gram._memory,
            steps,
            tried,
            scratch.ctypes.data,
            scratch.nbytes,
            clips.ctypes.data,
            target.pointer,
            target.element_type,
            target.stride,
            begin,
            end,
        )

    for_rows(work, source.rows, source.columns, threads, 16)
    return clips, target.array


# ---- Coordinate descent --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DescentReport:
    """What coordinate descent did. Losses are means over the samples of the squared output error, added over rows.

    sweeps          the most that any row needed, with the last one, which changed nothing
    changed_codes   that differ from those before
    changed_scales  likewise
    loss            of the result
    start_loss      of the tensor as it was
    """

    sweeps: int
    changed_codes: int
    changed_scales: int
    loss: float
    start_loss: float


def gram_descend(
    tensor: QuantizedTensor,
    weights: Any,
    gram: GramMatrix,
    *,
    sweeps: int = 10,
    refit_scales: bool = False,
    element_type: Any = None,
    threads: int | None = None,
) -> DescentReport:
    """Improves a tensor in place: each code in turn takes the value that is best given all others, sweep after sweep.

    tensor   of any quantizer (`quantize`, `gptq`, `hqq`), made from weights[n][k]
    gram     of the layer's inputs
    sweeps   at most; a sweep that changes nothing ends it
    refit_scales  after each sweep groups' scales become the best for their codes, too

    No row is worse than before.
    """
    source = _matched(tensor, weights, element_type)
    struct = tensor.as_struct()
    size = _size("int4q_gram_descend_scratch", ctypes.byref(struct.scheme), source.columns)
    options = _native.DescentOptionsStruct(
        flags=int(DescentFlag.REFIT_SCALES) if refit_scales else 0, sweeps=sweeps
    )
    reports: dict[int, _native.DescentReportStruct] = {}

    def work(begin: int, end: int) -> None:
        scratch = aligned_bytes(size)
        report = _native.DescentReportStruct()
        _native.call(
            "int4q_gram_descend",
            ctypes.byref(struct),
            source.pointer,
            source.element_type,
            source.stride,
            *gram._memory,
            ctypes.byref(options),
            scratch.ctypes.data,
            scratch.nbytes,
            begin,
            end,
            ctypes.byref(report),
        )
        reports[begin] = report

    for_rows(work, source.rows, source.columns, threads, 16)
    every = [reports[begin] for begin in sorted(reports)]
    return DescentReport(
        max(report.sweeps for report in every),
        sum(report.changed_codes for report in every),
        sum(report.changed_scales for report in every),
        sum(report.loss for report in every),
        sum(report.start_loss for report in every),
    )


# ---- HQQ -----------------------------------------------------------------------------------------------------------


def hqq(
    weights: Any,
    scheme: Scheme | None = None,
    *,
    p: float = 0.7,
    beta: float = 10.0,
    iterations: int = 20,
    element_type: Any = None,
    threads: int | None = None,
) -> QuantizedTensor:
    """Quantizes weights[n][k] with half-quadratic quantization: the scheme's scales, and offsets that leave few weights far
    from their values. Needs no activations; the scheme's kind must be OFFSET (default: groups of 64).
    """
    source = input_matrix(weights, "weights", element_type)
    tensor = QuantizedTensor.empty(scheme or Scheme.offset(64), source.rows, source.columns)
    struct = tensor.as_struct()
    options = _native.HqqOptionsStruct(iterations=iterations, p=p, beta=beta)

    def work(begin: int, end: int) -> None:
        _native.call(
            "int4q_hqq_quantize",
            ctypes.byref(struct),
            source.pointer,
            source.element_type,
            source.stride,
            ctypes.byref(options),
            begin,
            end,
        )

    for_rows(work, source.rows, source.columns, threads)
    return tensor
