# SPDX-License-Identifier: Apache-2.0
"""The other end of remote.py: `python -m peers.worker PEER` answers questions on standard input until it ends."""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any, TextIO

import numpy as np

from .contestant import Peer, Problem, Program, reason
from .registry import LOCAL_PEERS
from .settling import settle


def _private_output() -> TextIO:
    """Standard output for answers alone: what libraries print goes where errors go."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


class _Server:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._programs: dict[int, Program] = {}
        self._made = 0

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        return getattr(self, "_" + question.pop("do"))(**question)  # type: ignore[no-any-return]

    def _version(self) -> dict[str, Any]:
        return {"version": self._peer.version()}

    def _prepare(self, contestant: str, path: str) -> dict[str, Any]:
        chosen = next(one for one in self._peer.contestants() if one.name == contestant)
        program = chosen.prepare(Problem.load(pathlib.Path(path)))
        self._made += 1
        self._programs[self._made] = program
        return {"program": self._made, "products": program.products, "copies": program.copies}

    def _time(self, program: int, runs: int) -> dict[str, Any]:
        seconds = self._programs[program].time(runs)
        settle()  # this process's threads must not spin into the next one's turn
        return {"seconds": seconds}

    def _result(self, program: int, copy: int, path: str) -> dict[str, Any]:
        np.save(path, self._programs[program].result(copy))
        return {}

    def _close(self, program: int) -> dict[str, Any]:
        self._programs.pop(program).close()
        return {}


def main() -> None:
    answers = _private_output()
    server = _Server(LOCAL_PEERS[sys.argv[1]]())
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:  # whatever a library raises is an answer too
            answer = {"missing": reason(error)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
