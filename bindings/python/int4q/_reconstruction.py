"""Reconstruction: Gram matrices of activations, and GPTQ."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from . import _native
from ._arrays import aligned_bytes, input_matrix
from ._enums import GptqFlag, GptqOrder
from ._pool import Pool
from ._rows import for_rows
from ._saved import SavedStatistics
from ._scheme import Scheme
from ._tensor import QuantizedTensor, checked_scheme

if TYPE_CHECKING:
    from ._cross import CrossMatrix

CHANNEL = np.dtype(_native.ChannelStruct)
"""An input channel's sums, as GramMatrix.channels() gives them."""


@contextlib.contextmanager
def _spread(pool: Pool | None) -> Iterator[tuple[int, Any, int | None]]:
    """Worker count, parallel_for and host."""
    if pool is None:
        yield 1, _native.no_parallel_for, None
        return
    with pool.in_use() as handle:
        yield pool.workers, _native.pool_parallel_for, handle


def _size(function: str, *arguments: Any) -> int:
    size = ctypes.c_uint64()
    _native.call(function, *arguments, ctypes.byref(size))
    return size.value


class _Reporter:
    """A caller's progress function as the library calls it. In a `with` statement around that call: an exception of the function,
    which cannot pass through the library, comes out of it instead of the library's own.
    """

    def __init__(self, progress: Callable[[int, int], Any] | None) -> None:
        self._progress = progress
        self._raised: BaseException | None = None
        self.callback = _native.Progress(self._report) if progress is not None else _native.Progress()

    def _report(self, _: Any, done: int, total: int) -> int:
        assert self._progress is not None
        try:
            return int(bool(self._progress(done, total)))
        except BaseException as error:
            self._raised = self._raised or error
            return 1

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._raised is not None and isinstance(error, Exception):
            raise self._raised from None


SquareOfSums = TypeVar("SquareOfSums", bound="SquareSums")


class SquareSums(SavedStatistics):
    """What Gram and cross matrices have in common: sums[k][k] over rows. `_prefix` begins the names of a class's functions."""

    _prefix: ClassVar[str]

    def __init__(self, k: int) -> None:
        self._bytes = aligned_bytes(_size(f"{self._prefix}_size", k))
        _native.call(f"{self._prefix}_init", k, *self._memory)

    @classmethod
    def from_matrix(cls: type[SquareOfSums], matrix: Any, rows: int) -> SquareOfSums:
        """From sums[k][k] that stand for `rows` rows and were computed elsewhere; of a Gram matrix the upper triangle is read."""
        values = np.ascontiguousarray(matrix, np.float64)
        if values.ndim != 2 or values.shape[0] != values.shape[1]:
            raise ValueError(f"matrix has shape {values.shape}; expected a square one")
        made = cls(values.shape[0])
        _native.call(f"{cls._prefix}_set", *made._memory, values.ctypes.data, values.shape[0], rows)
        return made

    @property
    def info(self) -> _native.GramInfoStruct:
        info = _native.GramInfoStruct()
        _native.call(f"{self._prefix}_get_info", *self._memory, ctypes.byref(info))
        return info

    @property
    def k(self) -> int:
        return int(self.info.k)

    @property
    def rows(self) -> int:
        """How many rows have been seen."""
        return int(self.info.rows)

    def merge(self: SquareOfSums, other: SquareOfSums) -> None:
        """Adds what another matrix of the same k has seen."""
        _native.call(f"{self._prefix}_merge", *self._memory, *other._memory)

    def matrix(self) -> np.ndarray:
        """float64[k][k]: the sums, all of them."""
        k = self.k
        result = np.empty((k, k))
        _native.call(f"{self._prefix}_matrix", *self._memory, result.ctypes.data, k, 0, k)
        return result

    def _losses(
        self, tensor: QuantizedTensor, weights: Any, element_type: Any, threads: int | None, *before: SquareSums
    ) -> np.ndarray:
        """float64[n]; matrices `before` stand before this one among the function's arguments."""
        source = input_matrix(weights, "weights", element_type)
        if (source.rows, source.columns) != tensor.shape:
            raise ValueError(f"weights has shape {source.array.shape}; expected {tensor.shape}")
        losses = np.empty(source.rows)
        struct = tensor.as_struct()
        size = _size(f"{self._prefix}_loss_scratch", source.columns)

        def work(begin: int, end: int) -> None:
            scratch = aligned_bytes(size)
            _native.call(
                f"{self._prefix}_loss",
                ctypes.byref(struct),
                source.pointer,
                source.element_type,
                source.stride,
                *(value for matrix in (*before, self) for value in matrix._memory),
                scratch.ctypes.data,
                scratch.nbytes,
                losses.ctypes.data,
                begin,
                end,
            )

        for_rows(work, source.rows, source.columns, threads, 16)
        return losses


class GramMatrix(SquareSums):
    """Sums over rows x of x[i] * x[j], and each channel's sum, sum of |x| and max |x|: what a layer's inputs are like.

    Push batches, merge with those of other machines, save and load. Takes 4 k^2 bytes.

    >>> gram = GramMatrix(3)
    >>> gram.push(numpy.ones((2, 3), numpy.float32))
    >>> gram.rows, float(gram.matrix()[0, 2])
    (2, 2.0)
    """

    _prefix = "int4q_gram"
    _validate = "int4q_gram_validate"
    _title = "a Gram matrix"

    def push(self, x: Any, *, weights: Any = None, element_type: Any = None, pool: Pool | None = None) -> None:
        """Takes a batch x[rows][k]. NotFiniteError for NaN, infinity and magnitudes above 2^59; nothing is taken then.

        weights  one for each row, at least 0: the sums are of weight * x[i] * x[j]. Squared gradients of a loss with respect to
                 the layer's outputs, averaged over these, make Fisher's information of the sums. A row counts as one whatever
                 its weight.
        """
        source = input_matrix(x, "x", element_type)
        factors = [] if weights is None else [np.ascontiguousarray(weights, np.float32)]
        if factors and factors[0].shape != (source.rows,):
            raise ValueError(f"weights has shape {factors[0].shape}; expected {(source.rows,)}")
        scratch = aligned_bytes(_size("int4q_gram_push_scratch", self.k))
        with _spread(pool) as (workers, parallel_for, host):
            _native.call(
                "int4q_gram_push_weighted" if factors else "int4q_gram_push",
                *self._memory,
                source.pointer,
                source.element_type,
                source.rows,
                source.columns,
                source.stride,
                *(factor.ctypes.data for factor in factors),
                scratch.ctypes.data,
                scratch.nbytes,
                workers,
                parallel_for,
                host,
            )

    def scale(self, weight: float = 1, *, shrinkage: float = 0) -> None:
        """As if every row had been pushed with `weight` (0 to 1) more; then products of different channels times 1 - shrinkage.

        Shrinkage helps where samples are few, or of another kind than later inputs.
        """
        _native.call("int4q_gram_scale", *self._memory, weight, shrinkage)

    def channels(self) -> np.ndarray:
        """A structured array, CHANNEL, with one element for each column of x."""
        result = np.zeros(self.k, CHANNEL)
        _native.call("int4q_gram_channels", *self._memory, 0, len(result), result.ctypes.data)
        return result

    def loss(
        self, tensor: QuantizedTensor, weights: Any, *, element_type: Any = None, threads: int | None = None
    ) -> np.ndarray:
        """float64[n]: for each row of weights[n][k] the mean square of what quantizing does to the layer's output."""
        return self._losses(tensor, weights, element_type, threads)


@dataclasses.dataclass(frozen=True)
class GptqReport:
    """What GPTQ did. Losses are means over the samples of the squared error of the layer's output, added over its rows.

    damping        the share of the mean diagonal that was added to the diagonal, after `retries` increases
    rows           samples in the Gram matrix
    dead_channels  channels that no sample has used
    nearest_rows   rows of the weights that GPTQ did not improve: they have the codes of rounding to nearest
    loss           of the result
    nearest_loss   of rounding to nearest
    """

    damping: float
    retries: int
    rows: int
    dead_channels: int
    nearest_rows: int
    loss: float
    nearest_loss: float


def gptq(
    weights: Any,
    gram: GramMatrix,
    scheme: Scheme | None = None,
    *,
    order: GptqOrder = GptqOrder.COLUMNS,
    static_groups: bool = False,
    clear_dead_channels: bool = False,
    damping: float = 0.01,
    damping_step: float = 0.0025,
    attempts: int = 20,
    measure_nearest: bool = True,
    cross: CrossMatrix | None = None,
    alpha: float = 0.25,
    progress: Callable[[int, int], Any] | None = None,
    element_type: Any = None,
    pool: Pool | None = None,
) -> tuple[QuantizedTensor, GptqReport]:
    """Quantizes weights[n][k] so that the layer's outputs change little for inputs as the Gram matrix has seen them.

    order                ACTIVATIONS (act-order; needs static_groups or groups of whole rows) and WITHIN_GROUPS round
                         columns of large inputs first; the tensor's columns stay in place
    static_groups        scales are those of the weights as given
    clear_dead_channels  weights of channels that no sample has used count as 0
    damping              share of the mean diagonal that is added to the diagonal, raised by damping_step up to
                         attempts - 1 times where it is not enough
    measure_nearest      False: the report's nearest_loss is a part of it that shows that GPTQ does better; faster
    cross                GPTAQ: what the layers before have done to the inputs, of the same rows as the Gram matrix, which then is
                         that of the quantized model's inputs; losses are `cross.loss`'s
    alpha                with `cross`: the share of its correction
    progress             called with (done, total); True, or an exception, ends the call (CancelledError, or that exception)

    No row is worse than `quantize` leaves it.
    """
    source = input_matrix(weights, "weights", element_type)
    chosen = checked_scheme(scheme, source.rows)
    tensor = QuantizedTensor.empty(chosen, source.rows, source.columns)
    chosen_flags = {
        GptqFlag.STATIC_GROUPS: static_groups,
        GptqFlag.CLEAR_DEAD_CHANNELS: clear_dead_channels,
        GptqFlag.MEASURE_NEAREST: measure_nearest,
    }
    report = _native.GptqReportStruct()
    with _spread(pool) as (workers, parallel_for, host), _Reporter(progress) as reporter:
        options = _native.GptqOptionsStruct(
            flags=sum(int(flag) for flag, is_set in chosen_flags.items() if is_set),
            order=int(order),
            worker_count=workers,
            damping=damping,
            damping_step=damping_step,
            attempts=attempts,
            progress=reporter.callback,
        )
        function = "int4q_gptq_scratch"
        if cross is not None:
            function = "int4q_gptq_cross_scratch"
            options.cross, options.cross_bytes = cross._memory
            options.alpha = alpha
        size = _size(function, ctypes.byref(chosen.as_struct()), source.columns, workers)
        scratch = aligned_bytes(size)
        _native.call(
            "int4q_gptq_quantize",
            ctypes.byref(tensor.as_struct()),
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
    return tensor, GptqReport(
        report.damping,
        report.retries,
        report.rows,
        report.dead_channels,
        report.nearest_rows,
        report.loss,
        report.nearest_loss,
    )
