# SPDX-License-Identifier: Apache-2.0
"""auto-round-lib: the BesTLA kernels of Intel's AutoRound.

Runs in a process of its own: it takes its thread count from the environment once and for all.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .contestant import Contestant, InTurn, Missing, Peer, Problem, Program
from .machine import cpu_vendor
from .weights import Weights

_INTEL = "GenuineIntel"


@dataclasses.dataclass
class Compute(Contestant):
    """A compute type. It decides how weights are packed and, on Intel's processors, which kernels run."""

    compute_type: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"auto-round-lib {self.compute_type}"

    def prepare(self, problem: Problem) -> Program:
        if self.compute_type != "fp32" and cpu_vendor() != _INTEL:
            raise Missing(
                "on processors not by Intel it has AVX2 float kernels alone, whatever compute type is asked for"
            )
        import torch

        x = torch.from_numpy(problem.x)
        copies = problem.copies()
        results = [torch.empty(problem.cell.m, problem.cell.n) for _ in copies]
        calls = [self._call(x, weights, result) for weights, result in zip(copies, results, strict=True)]
        return InTurn(calls, lambda copy, _: np.asarray(results[copy].numpy()))

    def _call(self, x: Any, weights: Weights, result: Any) -> Callable[[], Any]:
        import auto_round_kernel
        import torch

        codes = torch.from_numpy((weights.codes().astype(np.int8) - np.int8(8)).T.copy())
        scales = torch.from_numpy(weights.scales.astype(np.float32).T.copy())
        kind = (weights.group, self.compute_type, "int4", "fp32", False)
        blob = auto_round_kernel.repack_quantized_weight(codes, scales, torch.empty(0, dtype=torch.int8), *kind)
        bias = torch.empty(0)
        return lambda: auto_round_kernel.woqgemm(x, blob, bias, weights.n, weights.k, *kind, out=result)


class AutoRound(Peer):
    name = "auto-round-lib"

    def version(self) -> str:
        try:
            import auto_round_kernel
        except ImportError as error:
            raise Missing(str(error)) from error
        if auto_round_kernel.cpu_lib is None:
            raise Missing("its CPU library could not be loaded")
        return importlib.metadata.version("auto-round-lib")

    def contestants(self) -> Sequence[Contestant]:
        return [Compute("fp32"), Compute("bf16"), Compute("int8")]

    def limit(self, isa: str) -> dict[str, str]:
        if isa == "avx2" and cpu_vendor() != _INTEL:
            return {}  # its only kernels here
        return super().limit(isa)
