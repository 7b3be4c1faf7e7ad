# SPDX-License-Identifier: Apache-2.0
"""The command line."""

from __future__ import annotations

import datetime
import os
import pathlib
import shlex
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import machine, results
from .campaign import Campaign, Effort
from .cells import BATCHES, GROUPS, SHAPES, THREADS, Cell, cells, parse_shape
from .contestant import Missing, Peer
from .plot import draw
from .registry import LOCAL_PEERS, all_peers
from .report import duels, markdown
from .this_library import ThisLibrary

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
console = Console(stderr=True)

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of numbers") from error


def _shapes(text: str) -> list[tuple[int, int]]:
    try:
        return [parse_shape(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _names(text: str | None) -> list[str]:
    names = text.split(",") if text else list(LOCAL_PEERS)
    for name in names:
        if name not in LOCAL_PEERS:
            raise typer.BadParameter(f"{name!r} is no peer; expected some of {', '.join(LOCAL_PEERS)}")
    return names


class Field:
    """The peers that take part, the versions of those, and why the others do not."""

    def __init__(self, names: list[str], isa: str | None) -> None:
        self.isa = isa
        self.peers: list[Peer] = []
        self.versions: dict[str, str] = {}
        self.absent: dict[str, str] = {name: "not asked for" for name in LOCAL_PEERS if name not in names}
        # All limits are set before the first library is loaded: some share what reads them.
        for peer in [peer for peer in all_peers() if peer.name in names]:
            try:
                os.environ.update(peer.limit(isa) if isa else {})
                self.peers.append(peer)
            except Missing as error:
                self.absent[peer.name] = str(error)
        self.peers = [peer for peer in self.peers if self._is_here(peer)]

    def _is_here(self, peer: Peer) -> bool:
        try:
            self.versions[peer.name] = peer.version()
        except Missing as error:
            self.absent[peer.name] = str(error)
            return False
        finally:
            peer.close()
        return True

    def show(self) -> None:
        table = Table("peer", "version", "contestants")
        for peer in self.peers:
            names = ", ".join(contestant.name for contestant in peer.contestants())
            table.add_row(peer.name, self.versions[peer.name], names)
        for name, why in self.absent.items():
            table.add_row(name, f"missing: {why}", "")
        Console().print(table)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


def _header(field: Field, chosen: list[Cell]) -> list[str]:
    lines = [f"- Machine: {machine.describe()}"]
    for peer in field.peers:
        if isinstance(peer, ThisLibrary) and chosen:
            descriptions = peer.describe(chosen[0].group, max(cell.m for cell in chosen), chosen[-1].threads)
            lines += [f"- Kernels, at 4096 x 4096: {text}" for text in descriptions]
    if field.isa:
        lines += [f"- Everybody limited to {field.isa}"]
    lines += [f"- {name}: {version}" for name, version in field.versions.items()]
    lines += [f"- Command: `compare_peers {shlex.join(sys.argv[1:])}`"]
    lines += [f"- Finished: {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"]
    return lines


def _write(folder: pathlib.Path, field: Field, chosen: list[Cell]) -> None:
    """Report and picture of everything in the folder's CSV file."""
    measurements = results.read(folder / "peers.csv")
    (folder / "peers.md").write_text(markdown(_header(field, chosen), measurements, field.absent))
    draw(duels(measurements), folder / "peers.png")


def _measure(field: Field, chosen: list[Cell], effort: Effort, file: pathlib.Path) -> None:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(chosen))
        campaign = Campaign(field.peers, effort, lambda text: progress.update(task, description=text))
        for measured in campaign.measure(chosen):
            results.append(file, measured)
            progress.advance(task)


@app.command()
def compare(
    shapes: Annotated[str, typer.Option("--cells", help="Shapes NxK.")] = ",".join(f"{n}x{k}" for n, k in SHAPES),
    groups: Annotated[str, typer.Option(help="Group sizes.")] = ",".join(map(str, GROUPS)),
    batches: Annotated[str, typer.Option("--m", help="Rows of x.")] = ",".join(map(str, BATCHES)),
    threads: Annotated[str, typer.Option(help="Thread counts.")] = ",".join(map(str, THREADS)),
    peers: Annotated[str | None, typer.Option(help="Peers by name (see --list); all if not given.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; every contestant has one turn in each.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.001, help="A turn's least time.")] = 0.03,
    isa: Annotated[str | None, typer.Option(help="Limit everybody to this instruction set: avx2.")] = None,
    output: Annotated[pathlib.Path, typer.Option(help="Folder for peers.md, peers.csv, peers.png.")] = ROOT
    / "build/peers",
    resume: Annotated[bool, typer.Option("--resume", help="Keep what peers.csv has; measure other cells.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Only say which peers there are.")] = False,
) -> None:
    """Times y = x W^T with 4-bit weights: this library and every other that is installed, in turn."""
    if isa not in (None, "avx2"):
        raise typer.BadParameter(f"--isa is {isa!r}; expected avx2")
    chosen = list(cells(_shapes(shapes), _numbers(groups), _numbers(threads), _numbers(batches)))
    field = Field(_names(peers), isa)
    try:
        if show:
            field.show()
            return
        if ThisLibrary.name in field.absent and ThisLibrary.name in _names(peers):
            console.print(f"{ThisLibrary.name}: {field.absent[ThisLibrary.name]}", markup=False)
            raise typer.Exit(1)
        output.mkdir(parents=True, exist_ok=True)
        file = output / "peers.csv"
        if not resume:
            file.unlink(missing_ok=True)
        if results.has_other_columns(file):
            raise typer.BadParameter(f"{file} was written by an older version; give another --output")
        done = {one.cell for one in results.read(file)}
        _measure(field, [cell for cell in chosen if cell not in done], Effort(repeats, seconds), file)
        _write(output, field, chosen)
        console.print(f"Written: {output / 'peers.md'}, peers.csv, peers.png")
    finally:
        field.close()
