"""The best of all schemes and methods for one layer, and searches of other papers over the same loss."""

from __future__ import annotations

import ctypes
import dataclasses
import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from . import _native
from ._allocation import CandidateList, usual_schemes
from ._arrays import aligned_bytes, input_matrix, new_matrix
from ._codebooks import FittedCodebook, _Fitter, _scratch, _tuple, _Values
from ._pool import Pool
from ._reconstruction import GramMatrix, _Reporter, _size, _spread
from ._reconstruction_methods import _floats, _matched
from ._rows import for_rows
from ._scheme import Scheme
from ._tensor import QuantizedTensor, checked_scheme


class Method(enum.IntEnum):
    """What `quantize_best` tries with a scheme."""

    NEAREST = 0
    GPTQ = 1
    GPTQ_WITHIN_GROUPS = 2
    GPTQ_ACTIVATIONS = 3
    CLIP = 4
    CLIP_GPTQ = 5
    HQQ = 6
    SEARCH = 7
    DESCENT = 8


@dataclasses.dataclass(frozen=True)
class Trial:
    """A method that was tried.

    loss     of all rows by this method alone, but DESCENT's: of the rows' best, improved. Infinity where it failed
    bytes    of the packed matrix
    scaled   whether the matrix had been multiplied by AWQ's scales
    """

    scheme: Scheme
    method: Method
    loss: float
    bytes: int
    seconds: float
    scaled: bool


@dataclasses.dataclass(frozen=True)
class BestQuantization:
    """The best that was found.

    tensor        of its own scheme
    loss          the layer's mean squared output error, added over rows
    nearest_loss  the least that rounding to nearest reached with a scheme
    bytes         of the packed matrix
    scales        float32[k], to divide x by, if AWQ's scales were wanted and are better; the tensor stands for weights * scales
    trials        all that was tried, in order
    cut_short     whether trials were left out for want of time
    """

    tensor: QuantizedTensor
    loss: float
    nearest_loss: float
    bytes: int
    scales: np.ndarray | None
    trials: list[Trial]
    cut_short: bool


def quantize_best(
    weights: Any,
    gram: GramMatrix,
    bits: float = 0,
    *,
    schemes: Sequence[Scheme] | None = None,
    methods: Iterable[Method] | None = None,
    max_bytes: int = 0,
    finalists: int = 2,
    sweeps: int = 10,
    seconds: float = 0,
    with_scales: bool = False,
    progress: Callable[[int, int], Any] | None = None,
    element_type: Any = None,
    pool: Pool | None = None,
) -> BestQuantization:
    """Quantizes weights[n][k] with the scheme and the method that change the layer's outputs least.

    bits         that a weight may take, with its share of scales, zero points and offsets; 0: any number
    schemes      to choose from (default: `usual_schemes`)
    methods      that may be tried (default: all); NEAREST always is
    max_bytes    of the packed matrix; 0: any number
    finalists    schemes on which all methods are tried
    seconds      after which no further trial is begun; 0: no limit, and the same result on every machine
    with_scales  whether AWQ's scales of input channels may be used
    """
    source = input_matrix(weights, "weights", element_type)
    candidates = CandidateList(usual_schemes() if schemes is None else schemes, source.rows)
    count, shape = len(candidates), (source.rows, source.columns)
    struct, report = _native.TensorStruct(), _native.BestReportStruct()
    memory = aligned_bytes(_size("int4q_best_memory", candidates.structs, count, *shape))
    scales = np.empty(source.columns, np.float32) if with_scales else None
    trials = (_native.TrialStruct * (2 * count + 16 * min(finalists, count) + 1))()
    with _spread(pool) as (workers, parallel_for, host), _Reporter(progress) as reporter:
        size = _size("int4q_best_scratch", candidates.structs, count, *shape, workers, int(with_scales))
        scratch = aligned_bytes(size)
        options = _native.BestOptionsStruct(
            worker_count=workers,
            methods=0 if methods is None else sum(1 << Method(method) for method in {Method.NEAREST, *methods}),
            finalists=finalists,
            sweeps=sweeps,
            most_bits=bits,
            most_bytes=max_bytes,
            seconds=seconds,
            progress=reporter.callback,
        )
        _native.call(
            "int4q_quantize_best",
            candidates.structs,
            count,
            *shape,
            source.pointer,
            source.element_type,
            source.stride,
            *gram._memory,
            ctypes.byref(options),
            None if scales is None else scales.ctypes.data,
            memory.ctypes.data,
            memory.nbytes,
            scratch.ctypes.data,
            scratch.nbytes,
            parallel_for,
            host,
            ctypes.byref(struct),
            trials,
            len(trials),
            ctypes.byref(report),
        )
    return BestQuantization(
        _taken(struct, candidates.schemes[report.candidate]),
        report.loss,
        report.nearest_loss,
        report.bytes,
        scales if report.is_scaled else None,
        [
            Trial(candidates.schemes[t.candidate], Method(t.method), t.loss, t.bytes, t.seconds, bool(t.is_scaled))
            for t in trials[: report.trials]
        ],
        bool(report.is_cut_short),
    )


def _taken(struct: Any, scheme: Scheme) -> QuantizedTensor:
    """A tensor with memory of its own."""
    tensor = QuantizedTensor.empty(scheme, struct.n, struct.k)
    for name in ("codes", "scales", "zero_points", "offsets"):
        target = getattr(tensor, name)
        if target is not None:
            ctypes.memmove(target.ctypes.data, getattr(struct, name), target.nbytes)
    return tensor


# ---- Searches of other papers --------------------------------------------------------------------------------------


def search_clips(
    weights: Any,
    gram: GramMatrix,
    shares: Any,
    scheme: Scheme | None = None,
    *,
    element_type: Any = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `awq_clips`, with the shares of each group's largest magnitude that are to be tried (BASQ has seven)."""
    source = input_matrix(weights, "weights", element_type)
    tried = _floats(shares, "shares")
    chosen = checked_scheme(scheme, source.rows)
    struct, codebook = chosen.as_struct(), chosen.codebook_array()
    size = _size("int4q_awq_clip_scratch", ctypes.byref(struct), source.columns)
    clips = np.empty((source.rows, chosen.groups_per_row(source.columns)), np.float32)
    target = new_matrix(source.rows, source.columns, source.element_type)

    def work(begin: int, end: int) -> None:
        scratch = aligned_bytes(size)
        _native.call(
            "int4q_clip_search",
            ctypes.byref(struct),
            None if codebook is None else codebook.ctypes.data,
            source.rows,
            source.columns,
            source.pointer,
            source.element_type,
            source.stride,
            *gram._memory,
            tried.ctypes.data,
            len(tried),
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


@dataclasses.dataclass(frozen=True)
class ScaleSearch:
    """What a search for scales did: how many new ones it took, and the loss after and before."""

    accepted: int
    loss: float
    start_loss: float


def search_scales(
    tensor: QuantizedTensor,
    weights: Any,
    gram: GramMatrix,
    *,
    rounds: int = 10,
    reach: float = 0.1,
    seed: int = 0,
    element_type: Any = None,
    threads: int | None = None,
) -> ScaleSearch:
    """Improves a tensor of 4-bit codes in place: each group tries its scale times random numbers in 1 - reach .. 1 + reach,
    with the nearest codes, and keeps what lowers its row's loss (CPT-V's evolution). The same result for the same seed.
    """
    source = _matched(tensor, weights, element_type)
    struct = tensor.as_struct()
    size = _size("int4q_gram_descend_scratch", ctypes.byref(struct.scheme), source.columns)
    search = _native.ScaleSearchStruct(rounds=rounds, reach=reach, seed=seed)
    reports: list[tuple[int, Any]] = []

    def work(begin: int, end: int) -> None:
        scratch = aligned_bytes(size)
        report = _native.ScaleSearchReportStruct()
        _native.call(
            "int4q_gram_search_scales",
            ctypes.byref(struct),
            source.pointer,
            source.element_type,
            source.stride,
            *gram._memory,
            ctypes.byref(search),
            scratch.ctypes.data,
            scratch.nbytes,
            begin,
            end,
            ctypes.byref(report),
        )
        reports.append((begin, report))

    for_rows(work, source.rows, source.columns, threads, 16)
    every = [report for _, report in sorted(reports, key=lambda pair: pair[0])]
    return ScaleSearch(
        sum(report.accepted for report in every),
        sum(report.loss for report in every),
        sum(report.start_loss for report in every),
    )


def greedy_codebook(
    weights: Any,
    candidates: Any,
    importance: Any = None,
    *,
    kept: int = 16,
    rows: tuple[int, int] | None = None,
    element_type: Any = None,
) -> FittedCodebook:
    """Up to 16 of some values, ascending, that leave weights[n][k] with little (weighted) squared error: of all candidates that
    one is taken out whose loss costs least, until `kept` are left (Bedot). `importance` and `rows` as in `fit_codebook`.
    """
    source = input_matrix(weights, "weights", element_type)
    begin, end = rows if rows is not None else (0, source.rows)
    importances = _Fitter(source, importance).importance
    given = _floats(candidates, "candidates")
    scratch, values, mse = _scratch(), _Values(), ctypes.c_double()
    _native.call(
        "int4q_codebook_greedy",
        source.pointer,
        source.element_type,
        source.stride,
        source.rows,
        source.columns,
        begin,
        end,
        None if importances is None else importances.ctypes.data,
        source.columns if importances is not None and importances.ndim == 2 else 0,
        given.ctypes.data,
        len(given),
        kept,
        scratch.ctypes.data,
        scratch.nbytes,
        values,
        ctypes.byref(mse),
    )
    return FittedCodebook(_tuple(values), mse.value)
