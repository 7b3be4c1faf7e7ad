"""The command line: `int4q info | validate | describe | quantize | diagnose`. Needs the extra `int4q[cli]`."""

from __future__ import annotations

import enum
import json
import pathlib
import re
from typing import Any

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise SystemExit(f"the command line needs typer and rich ({error}): pip install 'int4q[cli]'") from error

import numpy as np

import int4q
from int4q._diagnosis_text import layer_row, scheme_row
from int4q._files import weight_matrices

app = typer.Typer(no_args_is_help=True, add_completion=False, help="4-bit weights: quantize, look at, check.")


class SchemeName(str, enum.Enum):
    """The schemes that need no further data."""

    symmetric = "symmetric"
    asymmetric = "asymmetric"
    offset = "offset"
    ggml_q4_0 = "ggml-q4_0"
    ggml_q4_1 = "ggml-q4_1"
    symmetric_8 = "symmetric-8"
    asymmetric_8 = "asymmetric-8"
    offset_8 = "offset-8"
    binary = "binary"
    ternary = "ternary"


class TypeName(str, enum.Enum):
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"


class ModeName(str, enum.Enum):
    f32 = "f32"
    int8 = "int8"
    bf16 = "bf16"
    binary = "binary"


def console() -> Console:
    # Made for each command: rich looks at sys.stdout when it is made, and tests change that.
    return Console()


def fail(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(1)


def make_scheme(name: SchemeName, group_size: int, scale_type: TypeName) -> int4q.Scheme:
    if name == SchemeName.ggml_q4_0:
        return int4q.Scheme.ggml_q4_0()
    if name == SchemeName.ggml_q4_1:
        return int4q.Scheme.ggml_q4_1()
    kind, _, bits = name.value.partition("-")
    options: dict[str, Any] = {"bits": int(bits)} if bits else {}
    constructor = getattr(int4q.Scheme, kind)
    scheme: int4q.Scheme = constructor(group_size, scale_type=int4q.Type[scale_type.value.upper()], **options)
    return scheme


def open_blob(path: pathlib.Path, validate: bool) -> int4q.Blob:
    try:
        return int4q.Blob.map(path, validate=validate)
    except (int4q.Int4QError, OSError, ValueError) as error:
        raise fail(f"{path}: {error}") from error


def _parts_text(details: int4q.BlobInfo) -> str:
    names = [str(flag.name).lower().replace("_", " ") for flag in int4q.PartFlag if flag in details.part_flags]
    return f"{', '.join(names)} ({details.parts_bytes:,} bytes)" if names else "none"


@app.command()
def info(blob: pathlib.Path) -> None:
    """Shows what a blob's header says."""
    details = open_blob(blob, validate=False).info
    table = Table(title=str(blob), show_header=False)
    rows = {
        "shape": f"{details.n} x {details.k}",
        "scheme": str(details.scheme),
        "bytes": f"{details.total_bytes:,}",
        "bits per weight": f"{details.bits_per_weight:.3f}",
        "blocks": f"{details.block_count} of {details.block_bytes:,} bytes",
        "parts": _parts_text(details),
        "format version": str(details.format_version),
        "header checksum": f"{details.header_checksum:016x}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)


@app.command()
def validate(blobs: list[pathlib.Path]) -> None:
    """Checks every byte of blobs. Exit status 1 if any is damaged."""
    damaged = 0
    for path in blobs:
        try:
            int4q.Blob.map(path, validate=True)
        except (int4q.Int4QError, OSError, ValueError) as error:
            damaged += 1
            typer.echo(f"{path}: DAMAGED: {error}")
        else:
            typer.echo(f"{path}: good")
    if damaged:
        raise typer.Exit(1)


@app.command()
def describe(
    n: int = typer.Option(4096, help="output features"),
    k: int = typer.Option(4096, help="input features"),
    m: int = typer.Option(1, help="rows of activations"),
    scheme: SchemeName = typer.Option(SchemeName.symmetric),
    group_size: int = typer.Option(32, help="16, 32, 64, 128, 256, or -1 for one group per row"),
    scale_type: TypeName = typer.Option(TypeName.f16),
    mode: ModeName = typer.Option(ModeName.f32),
    workers: int = typer.Option(1),
) -> None:
    """Tells which kernel a product would use here, and why not a better one."""
    typer.echo(f"library {'.'.join(map(str, int4q.library_version()))} at {int4q.library_path()}")
    typer.echo(f"instruction set {int4q.isa_name(int4q.isa_detected())} detected")
    try:
        chosen = make_scheme(scheme, group_size, scale_type)
        chosen_mode = int4q.Mode[mode.name.upper()]
        typer.echo(int4q.describe_dispatch(chosen, m, n, k, mode=chosen_mode, workers=workers))
    except int4q.Int4QError as error:
        raise fail(str(error)) from error


# ---- quantize ------------------------------------------------------------------------------------------------------

def blob_name(tensor_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", tensor_name) + ".int4q"


def quantize_one(
    weights: np.ndarray, element_type: str, scheme: int4q.Scheme, path: pathlib.Path, threads: int | None
) -> tuple[int4q.Metrics, int]:
    tensor = int4q.quantize(weights, scheme, element_type=element_type, threads=threads)
    blob = tensor.pack(threads=threads)
    blob.save(path)
    return int4q.compare(weights, tensor.dequantize(threads=threads), reference_type=element_type), blob.nbytes


def result_table(results: list[tuple[str, np.ndarray, int4q.Metrics, int]]) -> Table:
    table = Table(title="Quantized")
    for heading in ("tensor", "shape", "SQNR dB", "bits per weight", "bytes"):
        table.add_column(heading, justify="left" if heading == "tensor" else "right")
    for name, weights, metrics, size in results:
        shape = " x ".join(map(str, weights.shape))
        table.add_row(name, shape, f"{metrics.sqnr_db:.2f}", f"{size * 8 / weights.size:.3f}", f"{size:,}")
    total = sum(size for *_, size in results)
    weights_count = sum(weights.size for _, weights, *_ in results)
    table.add_section()
    table.add_row(f"{len(results)} tensors", f"{weights_count:,}", "", f"{total * 8 / weights_count:.3f}", f"{total:,}")
    return table


@app.command()
def quantize(
    model: pathlib.Path,
    outdir: pathlib.Path,
    scheme: SchemeName = typer.Option(SchemeName.asymmetric),
    group_size: int = typer.Option(32, help="16, 32, 64, 128, 256, or -1 for one group per row"),
    scale_type: TypeName = typer.Option(TypeName.f16),
    threads: int | None = typer.Option(None, help="default: one per processor"),
) -> None:
    """Quantizes every 2-D float tensor of a safetensors file into a blob of its own."""
    try:
        matrices = list(weight_matrices(model))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise fail(f"{model}: {error}") from error
    if not matrices:
        raise fail(f"{model}: it holds no 2-D tensor of F32, F16 or BF16")
    names = [blob_name(name) for name, *_ in matrices]
    if len(set(names)) != len(names):
        raise fail(f"{model}: two tensors' names give the same file name")
    chosen = make_scheme(scheme, group_size, scale_type)
    outdir.mkdir(parents=True, exist_ok=True)
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("quantizing", total=len(matrices))
        for (name, weights, element_type), file_name in zip(matrices, names, strict=True):
            progress.update(task, description=name)
            try:
                metrics, size = quantize_one(weights, element_type, chosen, outdir / file_name, threads)
            except int4q.Int4QError as error:
                raise fail(f"{name}: {error}") from error
            results.append((name, weights, metrics, size))
            progress.advance(task)
    console().print(result_table(results))


# ---- diagnose ------------------------------------------------------------------------------------------------------


def dictionary_table(rows: list[dict[str, str]], title: str) -> Table:
    table = Table(title=title)
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row.get(heading, "") for heading in headings))
    return table


@app.command()
def diagnose(
    model: pathlib.Path = typer.Argument(help="a .safetensors, .npz or .onnx file"),
    schemes: bool = typer.Option(False, "--schemes", help="also show what each scheme makes of each layer"),
    fitted: bool = typer.Option(False, "--fitted", help="try a codebook fitted to each row, too: slow"),
    most_bits: float = typer.Option(5.0, help="advise nothing that needs more bits per weight"),
    least_db: float = typer.Option(12.0, help="advise 8 bits where a usual weight's error is above this"),
    as_json: bool = typer.Option(False, "--json", help="print all of it as JSON"),
    threads: int | None = typer.Option(None, help="default: one per processor"),
) -> None:
    """Looks at the weights of each layer and says which 4-bit scheme suits it, and why."""
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=as_json) as progress:
        task = progress.add_task("reading", total=None)
        try:
            result = int4q.diagnose(
                model,
                fitted=fitted,
                most_bits=most_bits,
                least_db=least_db,
                threads=threads,
                show=False,
                on_layer=lambda name: progress.update(task, description=name),
            )
        except (int4q.Int4QError, OSError, ValueError, KeyError, TypeError) as error:
            raise fail(f"{model}: {error}") from error
    if as_json:
        typer.echo(json.dumps(result.rows(), indent=1))
        return
    console().print(dictionary_table([layer_row(layer) for layer in result.layers], "Layers"))
    if schemes:
        console().print(dictionary_table([row for layer in result.layers if (row := scheme_row(layer))], "Schemes"))
    for layer in result.layers:
        typer.echo(f"{layer.name}: {layer.advice}")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
