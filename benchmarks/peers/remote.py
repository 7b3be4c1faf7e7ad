# SPDX-License-Identifier: Apache-2.0
"""A peer in a process of its own: another Python environment, an environment variable read once, or a risk of crashing.

The process is asked in turn like any other contestant, so its times are still interleaved with theirs. See worker.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from .contestant import Contestant, Missing, Peer, Problem, Program

_PACKAGE = __name__.rpartition(".")[0]


class Worker:
    """The process. Answers and questions are lines of JSON."""

    def __init__(self, python: str, peer: str, threads: int) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        folder = str(pathlib.Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [python, "-m", f"{_PACKAGE}.worker", peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer. Raises Missing with what the worker says, or with its last words if it died."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Missing(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise Missing(answer["missing"])
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"its process ended with {status}: {last.strip()}"

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # it ends when there are no more questions
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()


class _RemoteProgram(Program):
    def __init__(self, worker: Worker, contestant: str, problem: Problem) -> None:
        self._worker = worker
        self._folder = tempfile.TemporaryDirectory()
        path = self._path("problem.npz")
        problem.save(path)
        answer = worker.ask(do="prepare", contestant=contestant, path=str(path))
        path.unlink()
        self._number: int = answer["program"]
        self.products = answer["products"]
        self._copies: int = answer["copies"]

    def _path(self, name: str) -> pathlib.Path:
        return pathlib.Path(self._folder.name) / name

    @property
    def copies(self) -> int:
        return self._copies

    def run(self) -> None:
        self.time(1)

    def time(self, runs: int) -> float:
        return float(self._worker.ask(do="time", program=self._number, runs=runs)["seconds"])

    def result(self, copy: int) -> np.ndarray:
        path = self._path("result.npy")
        self._worker.ask(do="result", program=self._number, copy=copy, path=str(path))
        return np.asarray(np.load(path))

    def close(self) -> None:
        if self._worker.alive:
            self._worker.ask(do="close", program=self._number)
        self._folder.cleanup()


class _RemoteContestant(Contestant):
    def __init__(self, peer: Remote, local: Contestant) -> None:
        self._peer = peer
        self.name, self.dense, self.held = local.name, local.dense, local.held

    def prepare(self, problem: Problem) -> Program:
        return _RemoteProgram(self._peer.worker(problem.cell.threads), self.name, problem)


class Remote(Peer):
    """Another peer, but elsewhere."""

    def __init__(self, local: Peer, python_variable: str | None = None) -> None:
        """In the environment of the interpreter that the variable names, or in this one."""
        self.name = local.name
        self._local = local
        self._variable = python_variable
        self._worker: tuple[int, Worker] | None = None

    def _python(self) -> str:
        if self._variable is None:
            return sys.executable
        python = os.environ.get(self._variable)
        if not python:
            raise Missing(f"{self._variable} does not name the Python interpreter of its environment")
        if not pathlib.Path(python).exists():
            raise Missing(f"{python}, which {self._variable} names, does not exist")
        return python

    def worker(self, threads: int) -> Worker:
        """The process with this many threads; another one ends before."""
        if self._worker and self._worker[0] == threads and self._worker[1].alive:
            return self._worker[1]
        self.close()
        self._worker = threads, Worker(self._python(), self.name, threads)
        return self._worker[1]

    def version(self) -> str:
        return str(self.worker(1).ask(do="version")["version"])

    def contestants(self) -> Sequence[Contestant]:
        return [_RemoteContestant(self, contestant) for contestant in self._local.contestants()]

    def limit(self, isa: str) -> dict[str, str]:
        return self._local.limit(isa)

    def close(self) -> None:
        if self._worker:
            self._worker[1].close()
        self._worker = None
