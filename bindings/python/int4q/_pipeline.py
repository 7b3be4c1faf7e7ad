"""Quantizing a model layer by layer, with inputs that come through the quantized layers before: NumPy and PyTorch models."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ._blocks import quantize_blocks
from ._calibration import output_bias
from ._cross import CrossMatrix, shift_weights
from ._enums import PER_ROW, GptqOrder, ScaleRule
from ._pool import Pool
from ._reconstruction import GramMatrix, gptq
from ._reconstruction_methods import awq_clips, awq_scales, gram_descend, hqq, scale_columns
from ._rounding import adaround, autoround
from ._scheme import Scheme
from ._tensor import QuantizedTensor, quantize

# ---- What a method gets, and what it leaves ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayerInputs:
    """What layers get that share their input: a matrix [rows][k] for each batch; `exact`: what the float model would give them;
    `weights`: for each batch those of its rows, or None; `residuals`, `exact_residuals`: what the layer's outputs are added to."""

    batches: tuple[np.ndarray, ...]
    exact: tuple[np.ndarray, ...] | None
    pool: Pool | None = None
    weights: tuple[np.ndarray | None, ...] = ()
    residuals: tuple[np.ndarray, ...] | None = None
    exact_residuals: tuple[np.ndarray, ...] | None = None

    def _weighted(self) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        for index, x in enumerate(self.batches):
            yield index, x, self.weights[index] if self.weights else None

    @functools.cached_property
    def gram(self) -> GramMatrix:
        gram = GramMatrix(self.batches[0].shape[-1])
        for _, x, weights in self._weighted():
            gram.push(x, weights=weights, pool=self.pool)
        return gram

    @functools.cached_property
    def means(self) -> np.ndarray:
        """float64[k]: of the rows, by their weights."""
        sums, total = np.zeros(self.batches[0].shape[-1]), 0.0
        for _, x, weights in self._weighted():
            each = np.ones(len(x)) if weights is None else weights
            sums, total = sums + each @ x, total + float(each.sum())
        return sums / total

    @functools.cached_property
    def cross(self) -> CrossMatrix:
        return self._cross(self.exact, self.batches)

    @functools.cached_property
    def cross_with_residuals(self) -> CrossMatrix:
        """`cross` where there are no residuals."""
        if self.exact is None or self.residuals is None or self.exact_residuals is None:
            return self.cross
        exact, own = zip(self.exact, self.exact_residuals), zip(self.batches, self.residuals)
        return self._cross([np.hstack(pair) for pair in exact], [np.hstack(pair) for pair in own])

    def _cross(self, exact: Sequence[np.ndarray] | None, own: Sequence[np.ndarray]) -> CrossMatrix:
        if exact is None:
            raise ValueError("exact_inputs is False; expected True for methods that look at the float model's inputs")
        cross = CrossMatrix(own[0].shape[-1])
        for index, _, weights in self._weighted():
            roots = np.float32(1) if weights is None else np.sqrt(weights)[:, None]
            cross.push(exact[index] * roots, own[index] * roots, pool=self.pool)
        return cross


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer that is to be quantized.

    weights       float32[n][k]
    gram          of its inputs (made when first asked for)
    inputs        the inputs themselves, where there are any
    input_scales  float32[k] that inputs are divided by and that `weights` already hold, or None
    """

    name: str
    weights: np.ndarray
    scheme: Scheme
    gram_of: Callable[[], GramMatrix]
    inputs: LayerInputs | None = None
    input_scales: np.ndarray | None = None
    pool: Pool | None = None

    @property
    def gram(self) -> GramMatrix:
        return self.gram_of()

    @property
    def cross(self) -> CrossMatrix:
        """Of what the float model would give the layer and what it gets."""
        return self._compared.cross

    @property
    def cross_with_residuals(self) -> CrossMatrix:
        """The same, and of what the layer's outputs are added to, if the model has told that (see `shift_weights`)."""
        return self._compared.cross_with_residuals

    @property
    def _compared(self) -> LayerInputs:
        if self.inputs is None:
            raise ValueError(f"layer {self.name!r} has no inputs of the float model to compare its own with")
        return self.inputs

    @property
    def means(self) -> np.ndarray:
        """float64[k]: of the inputs."""
        return self.gram.channels()["sum"] / self.gram.rows if self.inputs is None else self.inputs.means

    def scaled(self, scales: np.ndarray) -> Layer:
        """The same layer with weights times, and inputs divided by scales[k]."""
        gram = self.gram
        scaled = GramMatrix.from_matrix(gram.matrix() / np.outer(scales, scales), gram.rows)
        before = 1 if self.input_scales is None else self.input_scales
        weights = scale_columns(self.weights, scales)
        return dataclasses.replace(self, weights=weights, gram_of=lambda: scaled, inputs=None, input_scales=before * scales)


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """A layer that has been quantized.

    input_scales  float32[k] that x is to be divided by before the product with `tensor`, or None
    bias          float32[n] to add to the layer's own, so that outputs keep their mean; None if that was not asked for
    rows          of inputs that it was calibrated with
    loss          the mean over them of the squared output error, added over the layer's rows; NaN if not measured
    nearest_loss  the same for rounding to nearest
    seconds       that quantizing took
    """

    name: str
    tensor: QuantizedTensor
    input_scales: np.ndarray | None
    bias: np.ndarray | None
    rows: int
    loss: float
    nearest_loss: float
    seconds: float

    def dequantize(self) -> np.ndarray:
        """float32[n][k] to multiply x with."""
        values = self.tensor.dequantize()
        return values if self.input_scales is None else scale_columns(values, self.input_scales, divide=True)


LayerMethod = Callable[[Layer], "QuantizedTensor | tuple[QuantizedTensor, np.ndarray | None]"]
"""Quantizes a layer; with the scales, if any, that its inputs are to be divided by."""


@dataclasses.dataclass
class _Work:
    """A layer between the steps of a method. `clipped`: its weights, clipped, where a step has done that; `keeps_scales`: the
    tensor's come from a format that has no others."""

    layer: Layer
    tensor: QuantizedTensor | None = None
    clipped: np.ndarray | None = None
    keeps_scales: bool = False

    @property
    def weights(self) -> np.ndarray:
        return self.layer.weights if self.clipped is None else self.clipped

    def started(self) -> QuantizedTensor:
        if self.tensor is None:
            self.tensor = quantize(self.weights, self.layer.scheme)
        return self.tensor


def _gptq_step(work: _Work) -> None:
    """Clips are kept by groups that are static."""
    _run_gptq(work)


def _gptaq_step(work: _Work, alpha: float = 0.25) -> None:
    _run_gptq(work, cross=work.layer.cross, alpha=alpha)


def _shrink_step(work: _Work, share: float = 0.3) -> None:
    gram = GramMatrix.from_bytes(work.layer.gram.to_bytes())
    gram.scale(shrinkage=share)
    work.layer = dataclasses.replace(work.layer, gram_of=lambda: gram)


def _run_gptq(work: _Work, **options: Any) -> None:
    layer, is_static = work.layer, work.clipped is not None
    order = GptqOrder.ACTIVATIONS if is_static or layer.scheme.group_size == PER_ROW else GptqOrder.WITHIN_GROUPS
    options |= {"order": order, "static_groups": is_static, "measure_nearest": False, "pool": layer.pool}
    work.tensor = gptq(work.weights, layer.gram, layer.scheme, **options)[0]


def _shift_step(work: _Work, alpha: float = 0.5) -> None:
    _shift(work, work.layer.cross, alpha)


def _residual_shift_step(work: _Work, alpha: float = 0.5) -> None:
    _shift(work, work.layer.cross_with_residuals, alpha)


def _shift(work: _Work, cross: CrossMatrix, alpha: float) -> None:
    layer = work.layer
    shifted = shift_weights(layer.weights, layer.gram, cross, alpha=alpha, pool=layer.pool)
    work.layer = dataclasses.replace(layer, weights=shifted)
    work.tensor = work.clipped = None


def _clip_step(work: _Work) -> None:
    work.clipped = awq_clips(work.layer.weights, work.layer.gram, work.layer.scheme)[1]
    work.tensor = None


def _awq_step(work: _Work) -> None:
    layer = work.layer
    work.layer = layer.scaled(awq_scales(layer.weights, layer.gram, layer.scheme, pool=layer.pool).scales)
    work.tensor = work.clipped = None


def _descent_step(work: _Work, sweeps: float = 20) -> None:
    refits = not work.keeps_scales and work.layer.scheme.scale_rule not in (ScaleRule.ONE, ScaleRule.POWER_OF_TWO)
    gram_descend(work.started(), work.layer.weights, work.layer.gram, sweeps=int(sweeps), refit_scales=refits)


def _autoround_step(work: _Work) -> None:
    autoround(work.started(), work.layer.weights, work.layer.gram, pool=work.layer.pool)


def _adaround_step(work: _Work) -> None:
    adaround(work.started(), work.layer.weights, work.layer.gram, pool=work.layer.pool)


def _hqq_step(work: _Work) -> None:
    work.tensor = hqq(work.weights, work.layer.scheme)


def _q4_k_step(work: _Work) -> None:
    gram = work.layer.gram
    blocks = quantize_blocks(work.weights, "q4_k", importance=np.diagonal(gram.matrix()) / gram.rows)
    work.tensor, work.keeps_scales = blocks.to_tensor(), True


_STEPS: dict[str, Callable[..., Any]] = {
    "nearest": _Work.started,
    "clip": _clip_step,
    "hqq": _hqq_step,
    "q4_k": _q4_k_step,
    "awq": _awq_step,
    "shrink": _shrink_step,
    "shift": _shift_step,
    "residual_shift": _residual_shift_step,
    "gptq": _gptq_step,
    "gptaq": _gptaq_step,
    "autoround": _autoround_step,
    "adaround": _adaround_step,
    "descent": _descent_step,
}


def layer_method(method: str | LayerMethod) -> LayerMethod:
    """A method from its name: steps joined by "+", as "nearest", "gptq", "gptq+descent", "awq+gptq", "shrink+clip+gptq+descent:5".

    nearest   rounding to nearest
    clip      AWQ's clips: the steps after it start from clipped weights; alone: rounding to nearest
    hqq       half-quadratic quantization (OFFSET schemes)
    q4_k      ggml's Q4_K, whatever the scheme; importance of a column: the mean square of its inputs. A Q4_K file can hold what
              descent makes of it: it keeps the scales
    awq       AWQ's scales: the steps after it work on the scaled layer; alone: rounding to nearest
    gptq      GPTQ, columns of large inputs first (groups stay together)
    gptaq     the same with GPTAQ's correction (alpha 0.25); needs exact_inputs
    shift     the steps after it work on weights that make up half of what quantizing the layers before has changed
              (`shift_weights`); needs exact_inputs
    residual_shift  the same, and half of what has changed in what the layer's outputs are added to, if the model tells that
    shrink    the steps after it rely less on what channels have in common: their products in the Gram matrix count 0.7 of what
              they are (`GramMatrix.scale`); for few samples, or samples of another kind than later inputs
    autoround, adaround  learned rounding, from the codes that the steps before have left
    descent   coordinate descent on the codes that the steps before have left, scales refitted between sweeps

    A number may follow after ":" - shrink:0.3 (the share taken off), shift:0.5 and gptaq:0.25 (alpha), descent:20 (most sweeps).
    A callable is returned as it is.
    """
    if callable(method):
        return method
    steps = [_step(method, name) for name in method.split("+")]

    def run(layer: Layer) -> tuple[QuantizedTensor, np.ndarray | None]:
        work = _Work(layer)
        for step in steps:
            step(work)
        return work.started(), work.layer.input_scales

    return run


def _step(method: str, text: str) -> Callable[[_Work], Any]:
    """"descent:5" and the like."""
    name, colon, number = text.partition(":")
    if name not in _STEPS:
        raise ValueError(f"method is {method!r}: {name!r} is none of {', '.join(_STEPS)}")
    if not colon:
        return _STEPS[name]
    if len(inspect.signature(_STEPS[name]).parameters) == 1:
        raise ValueError(f"method is {method!r}: {name!r} takes no number")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"method is {method!r}: expected a number after {name!r}") from None
    return lambda work: _STEPS[name](work, value)


def quantize_layer(
    layer: Layer, method: str | LayerMethod = "gptq", *, correct_bias: bool = False, measure: bool = True
) -> QuantizedLayer:
    """Quantizes one layer: `quantize_model` calls this for each."""
    begin = time.perf_counter()
    outcome = layer_method(method)(layer)
    tensor, scales = outcome if isinstance(outcome, tuple) else (outcome, None)
    seconds = time.perf_counter() - begin
    space = layer if scales is None else layer.scaled(scales)
    bias = None
    if correct_bias:
        means = layer.means
        bias = output_bias(tensor, space.weights, means if scales is None else means / scales).astype(np.float32)
    loss = nearest_loss = np.nan
    if measure:
        loss = float(space.gram.loss(tensor, space.weights).sum())
        nearest_loss = float(layer.gram.loss(quantize(layer.weights, layer.scheme), layer.weights).sum())
    rows = layer.gram.rows if measure or correct_bias else sum(len(x) for x in layer.inputs.batches) if layer.inputs else 0
    return QuantizedLayer(layer.name, tensor, scales, bias, rows, loss, nearest_loss, seconds)


# ---- Forward passes in step ----------------------------------------------------------------------------------------


class _Stopped(BaseException):
    """Ends a forward pass that is no longer wanted. No Exception, so that models' own handlers let it through."""


class _Pass:
    """A batch's forward pass, in a thread of its own that stands still at each layer until it is told to go on."""

    _of_thread = threading.local()

    def __init__(self, forward: Callable[[], Any]) -> None:
        self.name: str | None = None
        """The layer that the pass stands at; None when it has ended."""
        self.x: Any = None
        self.rows: Any = None
        self.residual: Any = None
        self._forward = forward
        self._error: BaseException | None = None
        self._unwanted = False
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @classmethod
    def current(cls) -> _Pass | None:
        return getattr(cls._of_thread, "value", None)

    def _run(self) -> None:
        _Pass._of_thread.value = self
        self._go.acquire()
        try:
            if not self._unwanted:
                self._forward()
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        self.name = self.x = self.rows = self.residual = None
        self._stands.release()

    def stop_at(self, name: str, x: Any, rows: Any = None, residual: Any = None) -> None:
        """Called by the pass."""
        self.name, self.x, self.rows, self.residual = name, x, rows, residual
        self._stands.release()
        self._go.acquire()
        if self._unwanted:
            raise _Stopped

    def go_on(self) -> None:
        self._go.release()

    def wait(self) -> None:
        self._stands.acquire()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        self._unwanted = True
        self._go.release()
        self._thread.join()


def _advance(passes: Sequence[_Pass], at_once: int) -> str | None:
    """Lets all passes go on to the next layer, which has to be the same; None at the end."""
    for begin in range(0, len(passes), at_once):
        chosen = passes[begin : begin + at_once]
        for forward_pass in chosen:
            forward_pass.go_on()
        for forward_pass in chosen:
            forward_pass.wait()
    names = {forward_pass.name for forward_pass in passes}
    if len(names) > 1:
        raise ValueError(f"batches go through layers in different orders: {sorted(map(str, names))} are asked for at once")
    return names.pop()


def _in_step(forwards: Sequence[Callable[[], Any]], at_once: int, work: Callable[[str, list[_Pass]], None]) -> None:
    """Runs forward passes; work(name, passes) whenever all have reached a layer."""
    passes = [_Pass(forward) for forward in forwards]
    try:
        while (name := _advance(passes, at_once)) is not None:
            work(name, passes)
    finally:
        for forward_pass in passes:
            forward_pass.end()


# ---- Layers on their way -------------------------------------------------------------------------------------------


class _Arrays(Protocol):
    """What differs between NumPy and PyTorch."""

    def matrix(self, x: Any, rows: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """[rows][k] of a layer's input, and weights of those rows, if any."""

    def state(self, x: Any) -> Any:
        """Something that changes when x is written to."""


class _NumpyArrays:
    def matrix(self, x: Any, rows: Any) -> tuple[np.ndarray, np.ndarray | None]:
        flat = np.asarray(x).reshape(-1, np.shape(x)[-1])
        if rows is None:
            return flat, None
        chosen = np.asarray(rows).reshape(-1)
        if chosen.dtype == bool:
            return flat[chosen], None
        return flat[chosen != 0], chosen[chosen != 0].astype(np.float32)

    def state(self, x: Any) -> Any:
        return zlib.crc32(np.ascontiguousarray(x))


class _TorchArrays:
    def matrix(self, x: Any, rows: Any) -> tuple[np.ndarray, np.ndarray | None]:
        return x.detach().reshape(-1, x.shape[-1]).float().cpu().numpy(), None

    def state(self, x: Any) -> Any:
        return x._version


@dataclasses.dataclass
class _Progressing:
    """The layers of a model while passes go through it."""

    arrays: _Arrays
    scheme_of: Callable[[str], Scheme]
    method: LayerMethod
    options: dict[str, Any]
    pool: Pool | None
    doubled: bool
    """The second half of the passes are the float model's."""
    progress: Callable[[QuantizedLayer], Any] | None
    done: dict[str, QuantizedLayer] = dataclasses.field(default_factory=dict)
    _seen: list[tuple[tuple[Any, ...], Any]] = dataclasses.field(default_factory=list)
    _inputs: LayerInputs | None = None

    def inputs(self, passes: Sequence[_Pass]) -> LayerInputs:
        """The last layer's, if this one gets the very same arrays."""
        seen = [((p.x, p.rows, p.residual), self.arrays.state(p.x)) for p in passes]
        same = len(seen) == len(self._seen) and all(
            state == before and all(a is b for a, b in zip(arrays, others))
            for (arrays, state), (others, before) in zip(seen, self._seen)
        )
        if not same or self._inputs is None:
            half = len(passes) // 2 if self.doubled else len(passes)
            every = [self.arrays.matrix(p.x, passes[index % half].rows) for index, p in enumerate(passes)]
            batches, weights = zip(*every[:half])
            exact = tuple(x for x, _ in every[half:]) if self.doubled else None
            is_weighted = any(each is not None for each in weights)
            residuals = None
            if all(p.residual is not None for p in passes):
                residuals = tuple(self.arrays.matrix(p.residual, passes[index % half].rows)[0] for index, p in enumerate(passes))
            self._inputs = LayerInputs(
                batches, exact, self.pool, weights if is_weighted else (),
                residuals[:half] if residuals else None, residuals[half:] if residuals and self.doubled else None,
            )  # fmt: skip
            self._seen = seen
        return self._inputs

    def quantize(self, name: str, weights: np.ndarray, passes: Sequence[_Pass]) -> QuantizedLayer:
        inputs = self.inputs(passes)
        columns = inputs.batches[0].shape[-1]
        if weights.ndim != 2 or weights.shape[1] != columns:
            raise ValueError(f"layer {name!r} has weights of shape {weights.shape} and inputs of {columns} columns")
        layer = Layer(name, weights, self.scheme_of(name), lambda: inputs.gram, inputs, None, self.pool)
        self.done[name] = quantize_layer(layer, self.method, **self.options)
        if self.progress is not None:
            self.progress(self.done[name])
        return self.done[name]


SchemeChoice = Scheme | Callable[[str], "Scheme | None"] | None


def _scheme_chooser(scheme: SchemeChoice) -> Callable[[str], Scheme | None]:
    if callable(scheme):
        return scheme
    chosen = scheme or Scheme.asymmetric(128)
    return lambda name: chosen


class NumpyLinear(Protocol):
    def __call__(self, name: str, x: np.ndarray, rows: Any = None, residual: np.ndarray | None = None) -> np.ndarray:
        """x[..., k] times the layer's transposed weights. `rows`: a mask of the rows that count in calibration, or how much each
        counts (floats, at least 0). `residual`: [..., n] that the caller adds the result to, for "residual_shift"."""


def quantize_model(
    forward: Callable[[NumpyLinear, Any], Any],
    batches: Iterable[Any],
    weights: Mapping[str, np.ndarray],
    scheme: SchemeChoice = None,
    method: str | LayerMethod = "gptq",
    *,
    correct_bias: bool = False,
    exact_inputs: bool = False,
    measure: bool = True,
    at_once: int = 1,
    progress: Callable[[QuantizedLayer], Any] | None = None,
    pool: Pool | None = None,
) -> dict[str, QuantizedLayer]:
    """Quantizes the linear layers of a NumPy model, each with inputs that come through the quantized layers before it.

    forward   forward(linear, batch) is the model's forward pass; it gets the products of layers from linear(name, x), and adds
              biases itself. Nothing else is asked of the model: it is run once, and every layer is quantized the first time that
              all batches have reached it.
    weights   float32[n][k] of each layer
    scheme    for all layers (default: asymmetric, groups of 128), or a function of the name: None leaves a layer as it is
    method    a name (see `layer_method`) or a function of a Layer
    correct_bias  products get W x's mean error over the batches added (QuantizedLayer.bias)
    exact_inputs  the float model runs beside; methods find its inputs in layer.inputs.exact
    measure   False leaves losses away
    at_once   how many batches are worked on at the same time, by Python threads
    progress  called with each layer when it is done

    Layers with the same array as input share one Gram matrix. All batches' values at one layer are held in memory, as one batch
    of all would hold them. Layers that the model does not use are missing in the result.
    """
    scheme_of = _scheme_chooser(scheme)
    chosen = {name: found for name in weights if (found := scheme_of(name)) is not None}
    held: dict[str, np.ndarray] = {}
    work = _Progressing(
        _NumpyArrays(), chosen.__getitem__, layer_method(method), {"correct_bias": correct_bias, "measure": measure}, pool,
        exact_inputs, progress,
    )  # fmt: skip

    def product(name: str, x: np.ndarray, rows: Any = None, residual: np.ndarray | None = None) -> np.ndarray:
        forward_pass = _Pass.current()
        if name in chosen and name not in held and forward_pass is not None:
            forward_pass.stop_at(name, x, rows, residual)
        y = x @ held.get(name, weights[name]).T
        return y if name not in work.done or work.done[name].bias is None else y + work.done[name].bias

    def exact_product(name: str, x: np.ndarray, rows: Any = None, residual: np.ndarray | None = None) -> np.ndarray:
        forward_pass = _Pass.current()
        if name in chosen and forward_pass is not None and name not in exact_seen.setdefault(forward_pass, set()):
            exact_seen[forward_pass].add(name)
            forward_pass.stop_at(name, x, rows, residual)
        return x @ weights[name].T

    def arrived(name: str, passes: list[_Pass]) -> None:
        held[name] = work.quantize(name, np.asarray(weights[name]), passes).dequantize()

    exact_seen: dict[_Pass, set[str]] = {}
    every = _all_batches(batches)
    forwards = [functools.partial(forward, product, batch) for batch in every]
    if exact_inputs:
        forwards += [functools.partial(forward, exact_product, batch) for batch in every]
    _in_step(forwards, at_once, arrived)
    return work.done


def _all_batches(batches: Iterable[Any]) -> list[Any]:
    every = list(batches)
    if not every:
        raise ValueError("batches is empty; expected at least one")
    return every


# ---- Grams alone ---------------------------------------------------------------------------------------------------


class Recorder:
    """Gram matrices of layers' inputs, batch by batch, for models that are not changed meanwhile.

    Call it where the model reaches a layer: recorder("up", x), or recorder(("gate", "up"), x) for layers that share x and so one
    Gram matrix. `attached` does that for PyTorch modules.

    >>> recorder = Recorder()
    >>> x = recorder("up", numpy.ones((2, 3), numpy.float32))
    >>> recorder.grams["up"].rows
    2
    """

    def __init__(self, *, pool: Pool | None = None) -> None:
        self.grams: dict[str, GramMatrix] = {}
        self._pool = pool

    def __call__(self, names: str | Sequence[str], x: np.ndarray, rows: Any = None) -> np.ndarray:
        """Takes x[..., k], or those of its rows that the mask `rows` has, or each as often as `rows` says; returns x."""
        every = (names,) if isinstance(names, str) else tuple(names)
        matrix, weights = _NumpyArrays().matrix(x, rows)
        gram = self.grams.get(every[0])
        if gram is None:
            gram = GramMatrix(matrix.shape[1])
        if any(self.grams.setdefault(name, gram) is not gram for name in every):
            raise ValueError(f"{every} do not share one Gram matrix: they have been recorded apart before")
        gram.push(matrix, weights=weights, pool=self._pool)
        return x

    @contextlib.contextmanager
    def attached(self, model: Any, layers: Callable[[str], bool] | None = None) -> Iterator[Recorder]:
        """While the context lasts, records the inputs of a PyTorch model's nn.Linear modules (of those with layers(name)).

        Modules that get the same tensor one after the other, as queries, keys and values do, share one Gram matrix.
        """
        last: dict[str, Any] = {"tensor": None, "version": 0, "gram": None}

        def record(name: str, x: Any) -> None:
            if last["tensor"] is x and last["version"] == x._version:
                if self.grams.setdefault(name, last["gram"]) is not last["gram"]:
                    raise ValueError(f"{name!r} shares its input with another layer, which it did not before")
                return
            first = next((other for other, gram in self.grams.items() if gram is self.grams.get(name)), name)
            if first != name:
                raise ValueError(f"{name!r} no longer shares its input with {first!r}")
            self(name, _TorchArrays().matrix(x, None)[0])
            last.update(tensor=x, version=x._version, gram=self.grams[name])

        with _hooked(_linear_modules(model, layers), record):
            yield self


# ---- PyTorch -------------------------------------------------------------------------------------------------------


def _linear_modules(model: Any, layers: Callable[[str], bool] | None) -> dict[str, Any]:
    import torch

    found = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {name: module for name, module in found.items() if layers is None or layers(name)}


@contextlib.contextmanager
def _hooked(modules: Mapping[str, Any], arrived: Callable[[str, Any], None]) -> Iterator[None]:
    """arrived(name, x) before each module's product."""

    def hook(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        return lambda module, arguments: arrived(name, arguments[0])

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def quantize_torch(
    model: Any,
    batches: Iterable[Any],
    scheme: SchemeChoice = None,
    method: str | LayerMethod = "gptq",
    *,
    layers: Callable[[str], bool] | None = None,
    call: Callable[[Any, Any], Any] | None = None,
    correct_bias: bool = False,
    exact_inputs: bool = False,
    measure: bool = True,
    progress: Callable[[QuantizedLayer], Any] | None = None,
    pool: Pool | None = None,
) -> dict[str, QuantizedLayer]:
    """Quantizes a PyTorch model's nn.Linear modules, each with inputs that come through the quantized modules before it.

    layers    layers(name) tells which modules; all if None. `scheme` may say None for some as well.
    call      call(model, batch) runs it; model(batch) if None

    The rest as for `quantize_model`. Modules' weights (and biases, where correct_bias is set and they have some) are replaced by
    the values that their codes stand for, so that the model computes what a packed one would; after an exception they are what
    they were. Inputs of a module that is used several times are those of its first use.
    """
    import torch

    scheme_of = _scheme_chooser(scheme)
    modules = {name: module for name, module in _linear_modules(model, layers).items() if scheme_of(name) is not None}
    kept = {name: (module.weight.detach().clone(), None if module.bias is None else module.bias.detach().clone())
            for name, module in modules.items()}  # fmt: skip
    run = call or (lambda chosen, batch: chosen(batch))
    exact = copy.deepcopy(model) if exact_inputs else None
    work = _Progressing(
        _TorchArrays(), lambda name: scheme_of(name) or Scheme.asymmetric(128), layer_method(method),
        {"correct_bias": correct_bias, "measure": measure}, pool, exact_inputs, progress,
    )  # fmt: skip
    seen: set[tuple[int, str]] = set()

    def reached(name: str, x: Any) -> None:
        forward_pass = _Pass.current()
        if forward_pass is not None and (id(forward_pass), name) not in seen:
            seen.add((id(forward_pass), name))
            forward_pass.stop_at(name, x)

    def arrived(name: str, passes: list[_Pass]) -> None:
        module = modules[name]
        found = work.quantize(name, module.weight.detach().float().cpu().numpy(), passes)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(found.dequantize()))
            if found.bias is not None and module.bias is not None:
                module.bias.add_(torch.from_numpy(found.bias))

    def forward(chosen: Any, batch: Any) -> None:
        with torch.no_grad():
            run(chosen, batch)

    every = _all_batches(batches)
    forwards = [functools.partial(forward, model, batch) for batch in every]
    with contextlib.ExitStack() as hooks:
        hooks.enter_context(_hooked(modules, reached))
        if exact is not None:
            own = dict(exact.named_modules())
            hooks.enter_context(_hooked({name: own[name] for name in modules}, reached))
            forwards += [functools.partial(forward, exact, batch) for batch in every]
        try:
            _in_step(forwards, 1, arrived)
        except BaseException:
            with torch.no_grad():
                for name, (weight, bias) in kept.items():
                    modules[name].weight.copy_(weight)
                    if bias is not None:
                        modules[name].bias.copy_(bias)
            raise
    return work.done
