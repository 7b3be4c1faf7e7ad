"""What to do with each layer of a model: how its weights are distributed, what 4-bit schemes make of them, which one suits.

The rules that the advice follows are written down in docs/calibration.md, "Advice".
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from . import _native
from ._arrays import Matrix, input_matrix, to_numpy, widened
from ._calibration import STATISTICS, CodeReport, Observer, diagnose_codes, find_largest, fit_outliers_z
from ._codebooks import codebook_values, fit_row_codebooks
from ._diagnosis_text import layer_row, scheme_row, text_table
from ._enums import PER_ROW, Axis, Codebook, Kind, Observe, ScaleRule, Type
from ._errors import NotFiniteError
from ._files import weight_matrices
from ._outliers import OutlierFit, SparseMatrix
from ._rows import for_rows
from ._scheme import Scheme
from ._tensor import QuantizedTensor, quantize

DECIBELS_PER_BIT = 20 * math.log10(2)
"""What one bit more for every code brings by halving all steps."""

_SIGMAS_PER_MAGNITUDE = math.sqrt(math.pi / 2)
"""Of a normal distribution: sigma / E|w|. The mean magnitude of a row is what outliers move least."""
_OUTLIER_SIGMAS = 6.0
_LARGE_OUTLIER_SIGMAS = 16.0
"""Above what the largest of ten million Laplace-distributed weights reaches (14)."""
_SKEWED_RANGE = 1.5
_SKEWED_MEAN = 0.25
_SKEW_COLUMNS = 32
"""In shorter rows one end of the range is often twice the other by chance."""
_SPARSE_SHARE = 0.3
_SQUEEZED_SHARE = 0.4
_WORST_ROW_SHARE = 0.1
_WORST_ROW_TIMES = 10
_TIE_DECIBELS = 0.1
_SCALE_FLOOR = 1e-5

# E|x| / sqrt(E x^2) (Geary, 1935): 0.866 for a uniform distribution, 0.798 for a normal one, 0.707 for Laplace's, 0.637 for
# Student's t with 3 degrees of freedom. What lies halfway between two of them decides.
_TAILS = ((0.832, "uniform"), (0.7525, "Gauss"), (0.672, "Laplace"), (-math.inf, "heavy"))


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to know about a layer. `kind`: not_finite, outliers, skewed, collapsed, sparse, floor,
    squeezed, concentrated, coarse (docs/calibration.md)."""

    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class SchemeResult:
    """What a scheme makes of a layer.

    sqnr_db      10 log10 of the sum of squares over the sum of squared errors; NaN if the scheme cannot hold the weights
    usual_db     of the median row: its sigma^2 over its mean squared error. Unlike sqnr_db neither outliers nor large rows
                 flatter it
    apart        how many outliers are kept as floats beside the codes
    """

    name: str
    scheme: Scheme
    bits_per_weight: float
    sqnr_db: float
    usual_db: float
    worst_row: int
    worst_row_share: float
    apart: int = 0
    error: str = ""

    @property
    def score(self) -> float:
        """sqnr_db less what its bits would bring anyway."""
        return -math.inf if math.isnan(self.sqnr_db) else self.sqnr_db - DECIBELS_PER_BIT * self.bits_per_weight


@dataclasses.dataclass(frozen=True)
class LayerDiagnosis:
    """One layer.

    sigma            of all weights
    outliers         how many weights are farther than 6 of their row's sigma from its mean. A row's sigma is here that of a
                     normal distribution with the mean magnitude of the row's other elements, zeros left out
    largest          the largest weight in sigmas of its row, which largest_sigmas counts
    skew             the median row's longer end of its range over the shorter one; infinite if most rows have one sign
    shift            the median row's |mean| in sigmas
    tails            "uniform", "Gauss", "Laplace", "heavy", or "" for a skewed layer
    codes            of the symmetric scheme with groups of 32; None if a weight is not finite
    advised          None if a weight is not finite, or 4 bits are not advised
    """

    name: str
    shape: tuple[int, int]
    element_type: Type
    not_finite: int
    mean: float = 0.0
    sigma: float = 0.0
    low: float = 0.0
    high: float = 0.0
    zeros: int = 0
    outliers: int = 0
    largest: float = 0.0
    largest_sigmas: float = 0.0
    largest_row: int = 0
    largest_column: int = 0
    skew: float = 1.0
    shift: float = 0.0
    tails: str = ""
    codes: CodeReport | None = None
    schemes: tuple[SchemeResult, ...] = ()
    advised: SchemeResult | None = None
    advice: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def outlier_share(self) -> float:
        return self.outliers / self.size

    @property
    def is_skewed(self) -> bool:
        return self.shape[1] >= _SKEW_COLUMNS and (self.skew >= _SKEWED_RANGE or self.shift >= _SKEWED_MEAN)

    @property
    def kinds(self) -> set[str]:
        """Of the findings."""
        return {finding.kind for finding in self.findings}


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Layers in their order; `skipped` names what is no matrix of floats. str() is a table."""

    layers: tuple[LayerDiagnosis, ...]
    skipped: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> LayerDiagnosis:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def __len__(self) -> int:
        return len(self.layers)

    def rows(self) -> list[dict[str, Any]]:
        """Plain values, one dictionary for each layer: for JSON or a data frame."""
        return [layer_values(layer) for layer in self.layers]

    def __str__(self) -> str:
        layers = [layer_row(layer) for layer in self.layers]
        schemes = [row for layer in self.layers if (row := scheme_row(layer))]
        parts = [text_table(layers), text_table(schemes)] if schemes else [text_table(layers)]
        parts.append("\n".join(f"{layer.name}: {layer.advice}" for layer in self.layers))
        return "\n\n".join(parts)


def layer_values(layer: LayerDiagnosis) -> dict[str, Any]:
    """What a layer's diagnosis says, in plain values."""
    codes = layer.codes
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "type": layer.element_type.name.lower(),
        "not_finite": layer.not_finite,
        "mean": layer.mean,
        "sigma": layer.sigma,
        "low": layer.low,
        "high": layer.high,
        "zeros": layer.zeros,
        "outliers": layer.outliers,
        "largest": layer.largest,
        "largest_sigmas": layer.largest_sigmas,
        "skew": layer.skew if math.isfinite(layer.skew) else None,
        "shift": layer.shift,
        "tails": layer.tails,
        "collapsed_groups": codes.groups_of_one_code if codes else None,
        "collapsed_rows": codes.rows_of_one_code if codes else None,
        "schemes": [
            {
                "name": result.name,
                "bits_per_weight": result.bits_per_weight,
                "sqnr_db": result.sqnr_db if math.isfinite(result.sqnr_db) else None,
                "worst_row": result.worst_row,
                "worst_row_share": result.worst_row_share,
            }
            for result in layer.schemes
        ],
        "findings": {finding.kind: finding.text for finding in layer.findings},
        "advised": layer.advised.name if layer.advised else None,
        "advice": layer.advice,
    }


def candidate_schemes() -> dict[str, Scheme]:
    """What diagnose() tries, the simplest first: of two that are as good the first is advised."""
    return {
        "symmetric g128": Scheme.symmetric(128),
        "symmetric g64": Scheme.symmetric(64),
        "symmetric g32": Scheme.symmetric(32),
        "symmetric row": Scheme.symmetric(PER_ROW),
        "asymmetric g128": Scheme.asymmetric(128),
        "asymmetric g32": Scheme.asymmetric(32),
        "offset g128": Scheme.offset(128),
        "offset g32": Scheme.offset(32),
        "NF4 g64": Scheme.codebook(codebook_values(Codebook.NF4), 64),
        "IQ4_NL g32": Scheme.codebook(codebook_values(Codebook.IQ4_NL), 32),
        "ggml Q4_0": Scheme.ggml_q4_0(),
    }


def diagnose(
    weights: Any,
    *,
    schemes: Mapping[str, Scheme] | None = None,
    fitted: bool = False,
    most_bits: float = 5.0,
    least_db: float = 12.0,
    element_type: Any = None,
    threads: int | None = None,
    show: bool = True,
    on_layer: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Looks at every layer's weights[n][k], tries 4-bit schemes on all of them and says which one suits, and why.

    weights      a mapping from names to matrices (a state dict: what is no matrix of floats is skipped), one matrix, or the
                 path of a .safetensors, .npz or .onnx file
    schemes      what to try, by name; the first is what the others are compared with. Default: candidate_schemes()
    fitted       try a codebook fitted to each row, too: slow
    most_bits    schemes that need more bits per weight are measured, but not advised
    least_db     below this usual_db 8 bits or floats are advised: at 12 dB a usual weight's error is a quarter of it
    show         print the result
    on_layer     called with a layer's name before it is looked at

    A layer with NaN or infinity is reported as such, nothing is raised.
    """
    examiner = _Examiner(dict(schemes or candidate_schemes()), fitted, most_bits, least_db, threads)
    layers, skipped = [], []
    for name, value, kind in _named(weights, element_type):
        source = _as_layer(value, kind) if isinstance(weights, Mapping) else input_matrix(value, "weights", kind)
        if source is None:
            skipped.append(name)
            continue
        if on_layer is not None:
            on_layer(name)
        layers.append(examiner.examine(name, source))
    if not layers:
        raise ValueError("weights has no matrix of float32, float16 or bfloat16")
    result = Diagnosis(tuple(layers), tuple(skipped))
    if show:
        print(result)
    return result


def _named(weights: Any, element_type: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(weights, (str, os.PathLike)):
        yield from weight_matrices(weights)
    elif isinstance(weights, Mapping):
        for name, value in weights.items():
            yield str(name), value, element_type
    else:
        yield "weights", weights, element_type


def _as_layer(value: Any, element_type: Any) -> Matrix | None:
    """None for what a state dict holds besides matrices: biases, positions, tables of integers."""
    array, _ = to_numpy(value)
    if array.ndim != 2 or array.size == 0:
        return None
    try:
        return input_matrix(value, "weights", element_type)
    except TypeError:
        return None


class _Examiner:
    def __init__(
        self, schemes: dict[str, Scheme], fitted: bool, most_bits: float, least_db: float, threads: int | None
    ) -> None:
        self.schemes = schemes
        self.fitted = fitted
        self.most_bits = most_bits
        self.least_db = least_db
        self.threads = threads

    def examine(self, name: str, source: Matrix) -> LayerDiagnosis:
        rows = _Rows(source, self.threads)
        try:
            normal = fit_outliers_z(source.array, element_type=source.element_type, threads=self.threads)
        except NotFiniteError as error:
            return _not_finite(name, source, rows.not_finite, error.value)
        layer = dataclasses.replace(
            rows.describe(name), mean=normal.mean, sigma=normal.sigma, codes=self.codes(source)
        )
        layer = dataclasses.replace(layer, schemes=self.measure(layer, rows))
        return self.conclude(layer)

    def codes(self, source: Matrix) -> CodeReport | None:
        scheme = Scheme.symmetric(32, scale_type=Type.F32)
        tensor = quantize(source.array, scheme, element_type=source.element_type, threads=self.threads)
        return diagnose_codes(tensor, _SCALE_FLOOR)

    # ---- Measuring -------------------------------------------------------------------------------------------------

    def measure(self, layer: LayerDiagnosis, rows: _Rows) -> tuple[SchemeResult, ...]:
        source = rows.source
        kind = {"element_type": source.element_type, "threads": self.threads}
        results = []
        for name, scheme in self.schemes.items():
            try:
                tensor = quantize(source.array, scheme, **kind)
            except NotFiniteError as error:
                results.append(SchemeResult(name, scheme, math.nan, math.nan, math.nan, 0, 0.0, error=str(error)))
                continue
            results.append(self.result(name, tensor, source, rows, tensor.nbytes))
        if self.fitted:
            values = fit_row_codebooks(source.array, **kind).values
            scheme = Scheme.codebook(values, PER_ROW, scale_type=Type.F32, scale_rule=ScaleRule.ONE)
            tensor = quantize(source.array, scheme, **kind)
            results.append(self.result("fitted row codebooks", tensor, source, rows, tensor.nbytes))
        if layer.outliers and not results[0].error:
            results.append(self.apart(results[0], rows))
        return tuple(results)

    def apart(self, base: SchemeResult, rows: _Rows) -> SchemeResult:
        """The first scheme without the outliers, which stay floats. What it makes of their places is still counted."""
        dense, sparse = rows.split_outliers()
        tensor = quantize(dense, base.scheme, threads=self.threads)
        name = f"{base.name}, outliers apart"
        result = self.result(name, tensor, input_matrix(dense, "dense"), rows, tensor.nbytes + sparse.nbytes)
        return dataclasses.replace(result, apart=sparse.count)

    def result(self, name: str, tensor: QuantizedTensor, source: Matrix, rows: _Rows, size: int) -> SchemeResult:
        errors = _row_errors(tensor, source, self.threads)
        total = float(errors.sum())
        worst = int(errors.argmax())
        return SchemeResult(
            name,
            tensor.scheme,
            8 * size / source.array.size,
            _decibels(rows.squares, total),
            rows.usual_decibels(errors),
            worst,
            float(errors[worst]) / total if total > 0 else 0.0,
        )

    # ---- Advice ----------------------------------------------------------------------------------------------------

    def conclude(self, layer: LayerDiagnosis) -> LayerDiagnosis:
        best = self.best(layer.schemes)
        findings = _findings(layer, best)
        if best is None or best.usual_db < self.least_db:
            tried = self.failure(layer.schemes, best)
            reasons = "; ".join(finding.text for finding in findings)
            advice = f"keep in 8 bits or float16: {reasons + '; ' if reasons else ''}{tried}"
            findings = (*findings, Finding("coarse", tried))
            return dataclasses.replace(layer, findings=findings, advice=advice)
        advice = self.advice(layer, best, findings)
        return dataclasses.replace(layer, findings=findings, advised=best, advice=advice)

    def failure(self, results: tuple[SchemeResult, ...], best: SchemeResult | None) -> str:
        if best is None:
            fits = any(not result.error for result in results)
            return f"none has at most {self.most_bits:g} bits per weight" if fits else "no scheme holds these weights"
        text = f"{best.name} leaves a usual weight only {best.usual_db:.1f} dB"
        enough = [result for result in results if result.usual_db >= self.least_db]
        if enough:
            least = min(enough, key=lambda result: result.bits_per_weight)
            text += f" ({least.name}: {least.usual_db:.1f} dB, {least.bits_per_weight:.2f} bits)"
        return text

    def best(self, results: tuple[SchemeResult, ...]) -> SchemeResult | None:
        """The highest SQNR at equal bits; the first of those within a tenth of a decibel."""
        allowed = [result for result in results if not result.error and result.bits_per_weight <= self.most_bits]
        top = max((result.score for result in allowed), default=0.0)
        return next((result for result in allowed if result.score >= top - _TIE_DECIBELS), None)

    def advice(self, layer: LayerDiagnosis, best: SchemeResult, findings: tuple[Finding, ...]) -> str:
        reasons = [finding.text for finding in findings]
        if best.scheme.kind == Kind.CODEBOOK and layer.tails:
            reasons.insert(0, f"distributed like {layer.tails}" if layer.tails != "heavy" else "heavy tails")
        parts = [best.name]
        if reasons:
            parts.append(": " + "; ".join(reasons))
        if best.sqnr_db == math.inf:
            return "".join([*parts, "; exact"])
        other = self.reference(layer.schemes, best)
        if other is not None and not other.error:
            parts.append(f"; {best.sqnr_db:.1f} dB, {_difference(best, other)} {other.name}")
        return "".join(parts)

    @staticmethod
    def reference(results: tuple[SchemeResult, ...], best: SchemeResult) -> SchemeResult | None:
        """What to compare with: the symmetric scheme with the same groups, else the first; for that one the second best."""
        if best.scheme.kind != Kind.SYMMETRIC:
            for result in results:
                if result.scheme.kind == Kind.SYMMETRIC and result.scheme.group_size == best.scheme.group_size:
                    return result
        if best is not results[0]:
            return results[0]
        others = [result for result in results if result is not best and not result.error]
        return max(others, key=lambda result: result.score, default=None)


def _difference(best: SchemeResult, other: SchemeResult) -> str:
    decibels, bits = best.sqnr_db - other.sqnr_db, best.bits_per_weight - other.bits_per_weight
    if abs(bits) < 0.005:
        return f"{decibels:+.1f} dB at the same bits as"
    return f"{decibels:+.1f} dB for {bits:+.2f} bits per weight over"


def _findings(layer: LayerDiagnosis, best: SchemeResult | None) -> tuple[Finding, ...]:
    found = []
    if layer.outliers and layer.largest_sigmas >= _LARGE_OUTLIER_SIGMAS:
        text = f"{_percent(layer.outlier_share)} outliers of up to {layer.largest_sigmas:.0f} sigma"
        found.append(Finding("outliers", text))
    if layer.is_skewed:
        ends = f"1:{layer.skew:.1f}" if math.isfinite(layer.skew) else "to one side"
        found.append(Finding("skewed", f"ranges skewed {ends}, means {layer.shift:.1f} sigma off zero"))
    codes = layer.codes
    if codes is not None and codes.groups_of_one_code:
        text = f"{_percent(codes.groups_of_one_code / codes.groups)} of the groups of 32 have one code"
        if codes.rows_of_one_code:
            text += f", {codes.rows_of_one_code} whole rows"
        found.append(Finding("collapsed", text))
    zeros = layer.zeros / layer.size
    if zeros >= _SPARSE_SHARE and layer.zeros < layer.size:
        found.append(Finding("sparse", f"{_percent(zeros)} of the weights are zero"))
    if codes is not None and codes.groups_at_floor > codes.groups_of_one_code:
        share = _percent(codes.groups_at_floor / codes.groups)
        found.append(Finding("floor", f"{share} of the groups of 32 have scales of at most {_SCALE_FLOOR:g}, imprecise in float16"))
    explained = max(zeros, codes.groups_of_one_code / codes.groups) if codes is not None else 0.0
    if codes is not None and codes.most_used_share - explained > _SQUEEZED_SHARE:
        found.append(Finding("squeezed", f"groups of 32 give {_percent(codes.most_used_share)} of the weights the same code"))
    threshold = max(_WORST_ROW_SHARE, _WORST_ROW_TIMES / layer.shape[0])
    if best is not None and best.worst_row_share >= threshold:
        text = f"row {best.worst_row} alone makes {_percent(best.worst_row_share)} of the error"
        found.append(Finding("concentrated", text))
    return tuple(found)


def _not_finite(name: str, source: Matrix, count: int, where: str) -> LayerDiagnosis:
    text = f"{count} of {source.rows * source.columns} weights are NaN or infinite, the first is {where}"
    return LayerDiagnosis(
        name,
        (source.rows, source.columns),
        source.element_type,
        count,
        advice=f"repair it first: {text}",
        findings=(Finding("not_finite", text),),
    )


# ---- All rows ------------------------------------------------------------------------------------------------------


class _Rows:
    """Each row's statistics. Rows have scales of their own, so that a row's outliers are those beyond its own sigma."""

    def __init__(self, source: Matrix, threads: int | None) -> None:
        self.source = source
        self.threads = threads
        self.statistics = np.zeros(source.rows, STATISTICS)
        not_finite: list[int] = []

        def work(begin: int, end: int) -> None:
            observer = Observer(Observe.MOMENTS, Axis.TOKEN, end - begin)
            observer.push(source.array[begin:end], element_type=source.element_type)
            self.statistics[begin:end] = observer.statistics()
            not_finite.append(observer.not_finite)

        for_rows(work, source.rows, source.columns, threads)
        self.not_finite = sum(not_finite)
        self.squares = float(self.statistics["sum_squares"].sum())
        self.largest = np.maximum(-self.statistics["low"], self.statistics["high"]).astype(np.float64)

    def describe(self, name: str) -> LayerDiagnosis:
        """All that does not need a scheme."""
        self.used = self._count(OutlierFit(0, 0, 0).as_struct())
        self._set_usual(self.statistics["sum"], self.statistics["sum_magnitudes"], self.used)
        self._find_outliers()
        largest = _quotient(self.largest, self.sigmas)
        row = int(np.argmax(largest))
        element = find_largest(self.source.array[row : row + 1], 1, element_type=self.source.element_type)[0]
        layer = LayerDiagnosis(
            name,
            (self.source.rows, self.source.columns),
            self.source.element_type,
            0,
            low=float(self.statistics["low"].min()),
            high=float(self.statistics["high"].max()),
            zeros=self.source.array.size - int(self.used.sum()),
            outliers=int(self.outliers.sum()),
            largest=float(element["value"]),
            largest_sigmas=float(largest[row]),
            largest_row=row,
            largest_column=int(element["column"]),
            skew=self._skew(),
            shift=float(np.median(_quotient(np.abs(self.means), self.sigmas))),
        )
        return layer if layer.is_skewed else dataclasses.replace(layer, tails=self._tails())

    def _set_usual(self, sums: np.ndarray, magnitudes: np.ndarray, counts: np.ndarray) -> None:
        """What is usual in a row: mean and sigma of the elements that are not zero."""
        self.means = _quotient(sums, counts)
        self.sigmas = _quotient(magnitudes, counts) * _SIGMAS_PER_MAGNITUDE

    def _skew(self) -> float:
        below, above = np.maximum(-self.statistics["low"], 0), np.maximum(self.statistics["high"], 0)
        used = self.largest > 0
        if not used.any():
            return 1.0
        with np.errstate(divide="ignore"):
            return float(np.median(self.largest[used] / np.minimum(below, above)[used]))

    def _tails(self) -> str:
        used = self.statistics["sum_squares"] > 0
        if not used.any():
            return ""
        rows, counts = self.statistics[used], self.used[used]
        ratio = rows["sum_magnitudes"] / counts / np.sqrt(rows["sum_squares"] / counts)
        middle = float(np.median(ratio))
        return next(name for least, name in _TAILS if middle >= least)

    def usual_decibels(self, errors: np.ndarray) -> float:
        used = self.sigmas > 0
        if not used.any():
            return math.inf
        means = errors[used] / self.source.columns
        with np.errstate(divide="ignore"):
            return float(np.median(10 * np.log10(self.sigmas[used] ** 2 / means)))

    # ---- Outliers --------------------------------------------------------------------------------------------------

    def _fit(self, row: int) -> _native.OutlierFitStruct:
        reach = _OUTLIER_SIGMAS * self.sigmas[row]
        mean = self.means[row]
        return OutlierFit(mean, mean - reach, mean + reach).as_struct()

    def _arguments(self) -> tuple[int, int, int, int, int]:
        source = self.source
        return source.pointer, source.element_type, source.rows, source.columns, source.stride

    def _count(self, fit: _native.OutlierFitStruct) -> np.ndarray:
        """int64[n] elements of each row that are beyond one fit for all."""
        counts = np.zeros(self.source.rows, np.int64)

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_outliers_count", ctypes.byref(fit), *self._arguments(), counts.ctypes.data, begin, end
            )

        for_rows(work, self.source.rows, self.source.columns, self.threads)
        return counts

    def _count_outliers(self) -> np.ndarray:
        """int64[n]. Only rows whose extremes say that there are any are looked at."""
        counts = np.zeros(self.source.rows, np.int64)
        reach = _OUTLIER_SIGMAS * self.sigmas
        beyond = (self.statistics["high"] - self.means > reach) | (self.means - self.statistics["low"] > reach)
        rows = np.flatnonzero(beyond)

        def work(begin: int, end: int) -> None:
            for row in rows[begin:end].tolist():
                fit = ctypes.byref(self._fit(row))
                _native.call("int4q_outliers_count", fit, *self._arguments(), counts.ctypes.data, row, row + 1)

        if len(rows):
            for_rows(work, len(rows), self.source.columns, self.threads)
        return counts

    def _find_outliers(self) -> None:
        """Once with the sigma of all, then with that of the others: outliers make it larger, too."""
        self.outliers = self._count_outliers()
        if not self.outliers.any():
            return
        _, sparse = self.split_outliers()
        rows = np.repeat(np.arange(sparse.n), self.outliers)
        values = sparse.values.astype(np.float64)
        sums = self.statistics["sum"] - np.bincount(rows, values, sparse.n)
        magnitudes = self.statistics["sum_magnitudes"] - np.bincount(rows, np.abs(values), sparse.n)
        self._set_usual(sums, magnitudes, self.used - self.outliers)
        self.outliers = self._count_outliers()

    def split_outliers(self) -> tuple[np.ndarray, SparseMatrix]:
        """float32 weights with the row's mean in the outliers' places, and the outliers."""
        source = self.source
        offsets = np.zeros(source.rows + 1, np.int64)
        total = ctypes.c_int64()
        _native.call(
            "int4q_sparse_offsets", self.outliers.ctypes.data, source.rows, offsets.ctypes.data, ctypes.byref(total)
        )
        columns, values = np.empty(total.value, np.int32), np.empty(total.value, np.float32)
        sparse = SparseMatrix(source.rows, source.columns, offsets, columns, values)
        dense = np.array(widened(source).array, order="C")
        struct = sparse.as_struct()
        rows = np.flatnonzero(self.outliers)

        def work(begin: int, end: int) -> None:
            for row in rows[begin:end].tolist():
                _native.call(
                    "int4q_outliers_split",
                    ctypes.byref(self._fit(row)),
                    source.pointer,
                    source.element_type,
                    source.stride,
                    ctypes.byref(struct),
                    dense.ctypes.data,
                    Type.F32,
                    source.columns,
                    row,
                    row + 1,
                )

        if len(rows):
            for_rows(work, len(rows), source.columns, self.threads)
        return dense, sparse


def _row_errors(tensor: QuantizedTensor, source: Matrix, threads: int | None) -> np.ndarray:
    """float64[n] sums of squared errors."""
    errors = np.empty(source.rows)
    struct = tensor.as_struct()

    def work(begin: int, end: int) -> None:
        _native.call(
            "int4q_diagnose_errors",
            ctypes.byref(struct),
            source.pointer,
            source.element_type,
            source.stride,
            None,
            None,
            errors.ctypes.data,
            None,
            begin,
            end,
        )

    for_rows(work, source.rows, source.columns, threads)
    return errors


def _quotient(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """0 where the unit is 0."""
    return np.divide(values, units, out=np.zeros(len(values)), where=units > 0)


def _decibels(squares: float, errors: float) -> float:
    if errors <= 0:
        return math.inf
    return 10 * math.log10(squares / errors) if squares > 0 else -math.inf


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f}%" if percent >= 9.5 else f"{percent:.2g}%"
