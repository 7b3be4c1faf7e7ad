"""Mixed precision: what each scheme does to a layer, and one scheme for each layer within a budget of bytes."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _native
from ._arrays import aligned_bytes, input_matrix
from ._codebooks import codebook_values
from ._enums import Codebook, Kind
from ._errors import BufferTooSmallError
from ._pool import Pool
from ._reconstruction import GramMatrix, _Reporter, _size, _spread
from ._scheme import Scheme
from ._tensor import checked_scheme


class CandidateList:
    """Schemes as the library takes them; keeps their codebooks alive."""

    def __init__(self, schemes: Sequence[Scheme], rows: int) -> None:
        self.schemes = [checked_scheme(scheme, rows) for scheme in schemes]
        self._codebooks = [scheme.codebook_array() for scheme in self.schemes]
        self.structs = (_native.CandidateStruct * len(self.schemes))(
            *(
                _native.CandidateStruct(scheme.as_struct(), None if codebook is None else codebook.ctypes.data)
                for scheme, codebook in zip(self.schemes, self._codebooks)
            )
        )

    def __len__(self) -> int:
        return len(self.schemes)


def usual_schemes() -> list[Scheme]:
    """The schemes that `quantize_best` takes if it is given none: 4 bits of four kinds in groups of 16 and more, and 8 bits."""
    count = ctypes.c_int64()
    _native.call("int4q_usual_candidates", None, 0, ctypes.byref(count))
    structs = (_native.CandidateStruct * count.value)()
    _native.call("int4q_usual_candidates", structs, count.value, ctypes.byref(count))
    return [
        Scheme.from_struct(struct.scheme, codebook_values(Codebook(struct.named)) if struct.scheme.kind == Kind.CODEBOOK else None)
        for struct in structs
    ]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What each of some schemes does to a layer.

    losses  float64[count]: with a Gram matrix the mean squared output error, added over rows; without the sum of squared errors of
            weights. Infinity where a scale is beyond its type
    bytes   uint64[count]: of the packed matrix
    """

    losses: np.ndarray
    bytes: np.ndarray


def sensitivity(
    weights: Any,
    schemes: Sequence[Scheme],
    gram: GramMatrix | None = None,
    *,
    progress: Callable[[int, int], Any] | None = None,
    element_type: Any = None,
    pool: Pool | None = None,
) -> Sensitivity:
    """The loss and the bytes of weights[n][k] rounded to nearest with each scheme.

    progress is called with (done, total) schemes, and True ends it.
    """
    source = input_matrix(weights, "weights", element_type)
    candidates = CandidateList(schemes, source.rows)
    count, shape = len(candidates), (source.rows, source.columns)
    losses, sizes = np.empty(count, np.float64), np.empty(count, np.uint64)
    with _spread(pool) as (workers, parallel_for, host), _Reporter(progress) as reporter:
        scratch = aligned_bytes(_size("int4q_sensitivity_scratch", candidates.structs, count, *shape, workers))
        options = _native.SearchOptionsStruct(worker_count=workers, progress=reporter.callback)
        _native.call(
            "int4q_sensitivity",
            candidates.structs,
            count,
            *shape,
            source.pointer,
            source.element_type,
            source.stride,
            *(gram._memory if gram is not None else (None, 0)),
            ctypes.byref(options),
            scratch.ctypes.data,
            scratch.nbytes,
            parallel_for,
            host,
            losses.ctypes.data,
            sizes.ctypes.data,
        )
    return Sensitivity(losses, sizes)


def gram_eigenvalues(
    gram: GramMatrix, *, progress: Callable[[int, int], Any] | None = None, pool: Pool | None = None
) -> tuple[np.ndarray, float]:
    """The eigenvalues of a Gram matrix, float64[k] ascending, and the sum of their roots: the nuclear norm of the matrix of all x.

    The norm is a weight for `allocate` (Liu et al., 2021). Takes time in proportion to k^3.
    """
    values, norm = np.empty(gram.k, np.float64), ctypes.c_double()
    with _spread(pool) as (workers, parallel_for, host), _Reporter(progress) as reporter:
        scratch = aligned_bytes(_size("int4q_gram_eigenvalues_scratch", gram.k))
        options = _native.SearchOptionsStruct(worker_count=workers, progress=reporter.callback)
        _native.call(
            "int4q_gram_eigenvalues",
            *gram._memory,
            ctypes.byref(options),
            scratch.ctypes.data,
            scratch.nbytes,
            parallel_for,
            host,
            values.ctypes.data,
            ctypes.byref(norm),
        )
    return values, norm.value


def _table(values: Any, name: str, dtype: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 2:
        raise ValueError(f"{name} has {array.ndim} dimensions; expected 2: layers and candidates")
    if dtype == np.uint64 and np.any(array < 0):
        raise ValueError(f"{name} has negative numbers")
    return np.ascontiguousarray(array, dtype)


def _tables(losses: Any, sizes: Any) -> tuple[np.ndarray, np.ndarray]:
    losses, sizes = _table(losses, "losses", np.float64), _table(sizes, "bytes", np.uint64)
    if losses.shape != sizes.shape:
        raise ValueError(f"bytes has shape {sizes.shape}; losses has {losses.shape}")
    return losses, sizes


@dataclasses.dataclass(frozen=True)
class Allocation:
    """A candidate for each layer.

    choices  int32[layers]
    loss     the (weighted) sum of losses: the least that there is
    bound    what the Lagrangian dual says is the least that there could be
    bytes    the sum of bytes
    states   how many the search had to keep
    """

    choices: np.ndarray
    loss: float
    bound: float
    bytes: int
    states: int


def allocate(losses: Any, sizes: Any, budget: int, weights: Any = None) -> Allocation:
    """The choice of a candidate for each layer with the least sum of losses within a budget: the exact optimum.

    losses[layers][candidates] (infinity: not allowed) and sizes[layers][candidates] in bytes are `sensitivity`'s, say;
    weights[layers] multiply losses. Raises InvalidArgumentError with the least possible sum if the budget is below it.
    """
    losses, sizes = _tables(losses, sizes)
    layers, candidates = losses.shape
    factors = None
    if weights is not None:
        factors = np.ascontiguousarray(weights, np.float64)
        if factors.shape != (layers,):
            raise ValueError(f"weights has shape {factors.shape}; expected {(layers,)}")
    choices, report = np.empty(layers, np.int32), _native.AllocationStruct()
    states = 1 << 16
    while True:
        scratch = aligned_bytes(_size("int4q_allocate_scratch", layers, candidates, states))
        try:
            _native.call(
                "int4q_allocate",
                losses.ctypes.data,
                sizes.ctypes.data,
                None if factors is None else factors.ctypes.data,
                layers,
                candidates,
                budget,
                scratch.ctypes.data,
                scratch.nbytes,
                choices.ctypes.data,
                ctypes.byref(report),
            )
        except BufferTooSmallError:
            if states >= 1 << 28:
                raise
            states *= 8
            continue
        return Allocation(choices, report.loss, report.bound, report.bytes, report.states)


def allocate_by_tolerance(losses: Any, sizes: Any, reference: int, tolerance: float) -> np.ndarray:
    """int32[layers]: each layer's smallest candidate whose loss is at most (1 + tolerance) times the reference candidate's.

    MixQuant's rule. No budget.
    """
    losses, sizes = _tables(losses, sizes)
    choices = np.empty(losses.shape[0], np.int32)
    _native.call(
        "int4q_allocate_by_tolerance",
        losses.ctypes.data,
        sizes.ctypes.data,
        *losses.shape,
        reference,
        tolerance,
        choices.ctypes.data,
    )
    return choices
