"""Calibration: observers of activations, ranges from their histograms, diagnosis and repair of quantized weights."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, aligned_bytes, input_matrix
from ._enums import Axis, Distribution, HistogramForm, Kind, Observe
from ._outliers import OutlierFit, row_moments
from ._rows import for_rows
from ._saved import SavedStatistics
from ._tensor import QuantizedTensor

STATISTICS = np.dtype(_native.StatisticsStruct)
"""A slot's statistics, as Observer.statistics() gives them."""

_ELEMENT = np.dtype(_native.ElementStruct)

# ---- Observers -----------------------------------------------------------------------------------------------------


class Observer(SavedStatistics):
    """Statistics of batches x[rows][columns]: push batches, merge with the observers of other threads or machines.

    observed   which statistics besides counts and extremes: Observe.MOMENTS, HISTOGRAM, AVERAGE, or several of them
    axis       Axis.TENSOR: one slot; CHANNEL: one for each column; TOKEN: for each row; GROUP: for each group of columns
    extent     the number of columns (CHANNEL, GROUP) or rows (TOKEN) of every batch
    group_size GROUP alone
    bins       of HISTOGRAM, for each sign: a power of two, 16 to 65536
    momentum   of AVERAGE: average += momentum * (batch's value - average)

    >>> observer = Observer(Observe.MOMENTS)
    >>> observer.push(numpy.ones((2, 3), numpy.float32))
    >>> float(observer.statistics()["sum"][0])
    6.0
    """

    _validate = "int4q_observer_validate"
    _title = "an observer"

    def __init__(
        self,
        observed: Observe = Observe.MOMENTS | Observe.HISTOGRAM,
        axis: Axis = Axis.TENSOR,
        extent: int = 0,
        *,
        group_size: int = 0,
        bins: int = 2048,
        momentum: float = 0.01,
    ) -> None:
        desc = _native.ObserverDescStruct(
            observed=int(observed),
            axis=int(axis),
            group_size=group_size,
            extent=extent,
            bins=bins if observed & Observe.HISTOGRAM else 0,
            momentum=momentum if observed & Observe.AVERAGE else 0,
        )
        size = ctypes.c_uint64()
        _native.call("int4q_observer_size", ctypes.byref(desc), ctypes.byref(size))
        self._bytes = aligned_bytes(size.value)
        _native.call("int4q_observer_init", ctypes.byref(desc), *self._memory)

    @property
    def info(self) -> _native.ObserverInfoStruct:
        info = _native.ObserverInfoStruct()
        _native.call("int4q_observer_get_info", *self._memory, ctypes.byref(info))
        return info

    @property
    def slots(self) -> int:
        return int(self.info.slots)

    @property
    def batches(self) -> int:
        return int(self.info.batches)

    @property
    def not_finite(self) -> int:
        """How many NaN and infinite elements were left out."""
        return int(self.info.not_finite)

    def push(self, x: Any, *, element_type: Any = None) -> None:
        """Takes a batch x[rows][columns]."""
        source = input_matrix(x, "x", element_type)
        _native.call(
            "int4q_observer_push",
            *self._memory,
            source.pointer,
            source.element_type,
            source.rows,
            source.columns,
            source.stride,
        )

    def merge(self, other: Observer) -> None:
        """Adds what another observer of the same description has seen."""
        _native.call("int4q_observer_merge", *self._memory, *other._memory)

    def statistics(self) -> np.ndarray:
        """A structured array, STATISTICS, with one element for each slot."""
        result = np.zeros(self.slots, STATISTICS)
        _native.call("int4q_observer_statistics", *self._memory, 0, len(result), result.ctypes.data)
        return result

    def histogram(self, slot: int = 0, form: HistogramForm = HistogramForm.SIGNED) -> Histogram:
        bins = int(self.info.desc.bins) * (2 if form == HistogramForm.SIGNED else 1)
        counts = np.zeros(max(bins, 1), np.int64)
        struct = _native.HistogramStruct()
        _native.call(
            "int4q_observer_histogram",
            *self._memory,
            slot,
            int(form),
            counts.ctypes.data,
            len(counts),
            ctypes.byref(struct),
        )
        return Histogram(counts, struct.lowest, struct.width, struct.low, struct.high)


# ---- Histograms and ranges -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Range:
    """What to clip to. `score` is what was minimised, for percentiles the share of values between the edges."""

    low: float
    high: float
    low_edge: int
    high_edge: int
    score: float

    @classmethod
    def _of(cls, struct: _native.RangeStruct) -> Range:
        return cls(struct.low, struct.high, struct.low_edge, struct.high_edge, struct.score)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """counts[i] values in lowest + i * width .. lowest + (i + 1) * width; low and high are the least and the largest."""

    counts: np.ndarray
    lowest: float
    width: float
    low: float
    high: float

    @property
    def edges(self) -> np.ndarray:
        """float64[bins + 1]"""
        return self.lowest + self.width * np.arange(len(self.counts) + 1)

    def as_struct(self) -> _native.HistogramStruct:
        """The C struct over the counts, which must outlive it."""
        if self.counts.dtype != np.int64 or self.counts.ndim != 1 or not self.counts.flags.c_contiguous:
            raise TypeError(f"counts is {self.counts.dtype}{list(self.counts.shape)}; expected contiguous int64")
        return _native.HistogramStruct(
            counts=self.counts.ctypes.data,
            bins=len(self.counts),
            lowest=self.lowest,
            width=self.width,
            low=self.low,
            high=self.high,
        )

    def percentile(self, percentile: float, form: HistogramForm = HistogramForm.SIGNED) -> Range:
        """ONNX Runtime's percentile range. MAGNITUDES for a histogram of magnitudes: -e..e."""
        result = _native.RangeStruct()
        _native.call(
            "int4q_range_percentile", ctypes.byref(self.as_struct()), int(form), percentile, ctypes.byref(result)
        )
        return Range._of(result)

    def entropy(self, quantized_bins: int = 128) -> Range:
        """The range of least Kullback-Leibler divergence: 128 quantized bins for INT8, 15 or 16 for INT4."""
        size = ctypes.c_uint64()
        _native.call("int4q_range_entropy_scratch", len(self.counts), ctypes.byref(size))
        scratch = aligned_bytes(size.value)
        result = _native.RangeStruct()
        _native.call(
            "int4q_range_entropy",
            ctypes.byref(self.as_struct()),
            quantized_bins,
            scratch.ctypes.data,
            scratch.nbytes,
            ctypes.byref(result),
        )
        return Range._of(result)

    def least_error(
        self,
        norm: float = 2.0,
        codes: tuple[int, int] = (-8, 7),
        divisor: float = 8.0,
        *,
        steps: int = 100,
        tried: int = 80,
    ) -> Range:
        """The range whose quantizer makes the least error |e|^norm: symmetric with step = a / divisor, or asymmetric
        with divisor 0."""
        search = _native.RangeSearchStruct(
            lowest_code=codes[0], highest_code=codes[1], divisor=divisor, norm=norm, steps=steps, tried=tried
        )
        result = _native.RangeStruct()
        _native.call(
            "int4q_range_of_least_error", ctypes.byref(self.as_struct()), ctypes.byref(search), ctypes.byref(result)
        )
        return Range._of(result)


# ---- Analytic clipping ---------------------------------------------------------------------------------------------


def aciq_clip(distribution: Distribution, bits: int = 4, scale: float = 1.0) -> tuple[float, float]:
    """Where ACIQ clips values of this distribution, counted from their mean, and the mean squared error it expects.

    scale: b = E|x - mean| of Distribution.LAPLACE, sigma of GAUSS.
    """
    clip, mse = ctypes.c_double(), ctypes.c_double()
    _native.call("int4q_aciq_clip", int(distribution), bits, scale, ctypes.byref(clip), ctypes.byref(mse))
    return clip.value, mse.value


def aciq_share_bits(clips: Any, mean_bits: float = 4.0, *, lowest: int = 0, highest: int = 8) -> np.ndarray:
    """int32 bits for each channel, in all at most mean_bits for each: ACIQ's 2^bits in proportion to clip^(2/3)."""
    values = np.ascontiguousarray(clips, np.float64)
    if values.ndim != 1:
        raise ValueError(f"clips has {values.ndim} dimensions; expected 1")
    bits = np.empty(len(values), np.int32)
    total = int(np.floor(mean_bits * len(values) + 1e-9))
    _native.call(
        "int4q_aciq_share_bits", values.ctypes.data, len(values), lowest, highest, total, bits.ctypes.data
    )
    return bits


# ---- Diagnosis -----------------------------------------------------------------------------------------------------


def fit_outliers_z(
    weights: Any, z: float = 6.0, *, element_type: Any = None, threads: int | None = None
) -> OutlierFit:
    """The normal distribution of weights[n][k] with outliers beyond z sigma of the mean."""
    source = input_matrix(weights, "weights", element_type)
    moments = row_moments(source, threads)
    fit = _native.OutlierFitStruct()
    _native.call(
        "int4q_outliers_fit_z", moments.ctypes.data, source.rows, source.columns, z, ctypes.byref(fit)
    )
    return OutlierFit(fit.mean, fit.lowest, fit.highest, fit.sigma, fit.limit)


def find_largest(values: Any, count: int, *, element_type: Any = None) -> np.ndarray:
    """The `count` elements of largest magnitude in values[rows][columns], largest first: fields row, column, value."""
    source = input_matrix(values, "values", element_type)
    elements = np.zeros(max(count, 0), _ELEMENT)
    found = ctypes.c_int64()
    _native.call(
        "int4q_find_largest",
        source.pointer,
        source.element_type,
        source.rows,
        source.columns,
        source.stride,
        elements.ctypes.data,
        count,
        ctypes.byref(found),
    )
    return elements[: found.value][["row", "column", "value"]]


@dataclasses.dataclass(frozen=True)
class CodeReport:
    """How a tensor's codes are used; groups and rows whose codes are all equal have collapsed."""

    code_counts: np.ndarray
    groups: int
    groups_of_one_code: int
    groups_at_floor: int
    rows_of_one_code: int
    most_used_code: int
    most_used_share: float
    end_share: float


def diagnose_codes(tensor: QuantizedTensor, scale_floor: float = 1e-5) -> CodeReport:
    """A histogram of codes, collapsed groups and rows, and groups whose |scale| is at most `scale_floor`."""
    report = _native.CodeReportStruct()
    _native.call(
        "int4q_diagnose_codes",
        ctypes.byref(tensor.as_struct()),
        scale_floor,
        0,
        tensor.shape[0],
        ctypes.byref(report),
    )
    return CodeReport(
        np.array(report.code_counts, np.int64),
        report.groups,
        report.groups_of_one_code,
        report.groups_at_floor,
        report.rows_of_one_code,
        report.most_used_code,
        report.most_used_share,
        report.end_share,
    )


@dataclasses.dataclass(frozen=True)
class ErrorReport:
    """Sums of squared errors and of squared weights, float64: for each group [n][groups_per_row] and each row [n]."""

    group_errors: np.ndarray
    group_squares: np.ndarray
    row_errors: np.ndarray
    row_squares: np.ndarray


def diagnose_errors(
    tensor: QuantizedTensor, weights: Any, *, element_type: Any = None, threads: int | None = None
) -> ErrorReport:
    """Where a quantized tensor differs from its weights[n][k]."""
    source = _weights_of(tensor, weights, element_type)
    shape = tensor.scales.shape
    report = ErrorReport(np.empty(shape), np.empty(shape), np.empty(source.rows), np.empty(source.rows))
    struct = tensor.as_struct()
    targets = [getattr(report, field.name).ctypes.data for field in dataclasses.fields(report)]

    def work(begin: int, end: int) -> None:
        _native.call("int4q_diagnose_errors", ctypes.byref(struct), *_place(source), *targets, begin, end)

    for_rows(work, source.rows, source.columns, threads)
    return report


# ---- Repair --------------------------------------------------------------------------------------------------------


def measure_bias(
    tensor: QuantizedTensor, weights: Any, *, element_type: Any = None, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """float64[n] shifts and ratios: ratio * (row + shift) has the mean and the spread of its row of weights[n][k]."""
    source = _weights_of(tensor, weights, element_type)
    shifts, ratios = np.empty(source.rows), np.empty(source.rows)
    struct = tensor.as_struct()

    def work(begin: int, end: int) -> None:
        _native.call(
            "int4q_bias_measure",
            ctypes.byref(struct),
            *_place(source),
            shifts.ctypes.data,
            ratios.ctypes.data,
            begin,
            end,
        )

    for_rows(work, source.rows, source.columns, threads)
    return shifts, ratios


def correct_bias(
    tensor: QuantizedTensor, weights: Any, *, element_type: Any = None, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Measures the bias of each row and writes the correction into the tensor's scales, and offsets if it has them.

    Without offsets the mean stays as it is: add x.sum(-1) * ratio * shift to a product to correct it there. Returns shifts
    and ratios.
    """
    shifts, ratios = measure_bias(tensor, weights, element_type=element_type, threads=threads)
    has_offsets = tensor.scheme.kind == Kind.OFFSET
    _native.call(
        "int4q_bias_apply",
        ctypes.byref(tensor.as_struct()),
        shifts.ctypes.data if has_offsets else None,
        ratios.ctypes.data,
        0,
        tensor.shape[0],
    )
    return shifts, ratios


def output_bias(
    tensor: QuantizedTensor,
    weights: Any,
    x_means: Any,
    *,
    element_type: Any = None,
    threads: int | None = None,
) -> np.ndarray:
    """float64[n] to add to a layer's bias: (W - W quantized) E[x], with x_means[k] = E[x] from an observer of channels."""
    source = _weights_of(tensor, weights, element_type)
    means = np.ascontiguousarray(x_means, np.float64)
    if means.shape != (source.columns,):
        raise ValueError(f"x_means has shape {means.shape}; expected ({source.columns},)")
    corrections = np.empty(source.rows)
    struct = tensor.as_struct()

    def work(begin: int, end: int) -> None:
        _native.call(
            "int4q_bias_output",
            ctypes.byref(struct),
            *_place(source),
            means.ctypes.data,
            corrections.ctypes.data,
            begin,
            end,
        )

    for_rows(work, source.rows, source.columns, threads)
    return corrections


def _place(source: Matrix) -> tuple[int, int, int]:
    """pointer, type, stride"""
    return source.pointer, source.element_type, source.stride


def _weights_of(tensor: QuantizedTensor, weights: Any, element_type: Any) -> Matrix:
    source = input_matrix(weights, "weights", element_type)
    if (source.rows, source.columns) != tensor.shape:
        raise ValueError(f"weights has shape {(source.rows, source.columns)}; expected {tensor.shape}")
    return source
