# SPDX-License-Identifier: Apache-2.0
"""PyTorch: its own 4-bit products, and dense ones for reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .contestant import Contestant, Held, InTurn, Missing, Peer, Problem, Program
from .weights import Weights


def _read(_: int, y: Any) -> np.ndarray:
    return np.asarray(y.float().numpy())


def _x(problem: Problem, dtype: str) -> Any:
    """x in the type that the product wants, so that converting it costs nothing."""
    import torch

    torch.set_num_threads(problem.cell.threads)
    return torch.from_numpy(problem.x).to(getattr(torch, dtype))


@dataclasses.dataclass
class Int4Pack(Contestant):
    """aten::_weight_int4pack_mm_for_cpu"""

    dtype: str
    held: Held

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"PyTorch int4pack {self.dtype}"

    def prepare(self, problem: Problem) -> Program:
        x = _x(problem, self.dtype)
        copies = problem.copies()
        return InTurn([self._call(x, weights) for weights in copies], _read)

    def _call(self, x: Any, weights: Weights) -> Callable[[], Any]:
        import torch

        codes = torch.from_numpy(weights.codes().astype(np.int32))
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scales = torch.from_numpy(weights.scales.T.copy()).to(x.dtype)
        scales_and_zeros = torch.stack([scales, torch.zeros_like(scales)], 2).contiguous()
        function = torch.ops.aten._weight_int4pack_mm_for_cpu.default
        return lambda: function(x, packed, weights.group, scales_and_zeros)


class DynQuant(Contestant):
    """aten::_dyn_quant_matmul_4bit. Made for Arm's KleidiAI; elsewhere a plain loop."""

    name = "PyTorch dyn_quant_4bit"

    def prepare(self, problem: Problem) -> Program:
        x = _x(problem, "float32")
        copies = problem.copies()
        return InTurn([self._call(x, weights) for weights in copies], _read)

    def _call(self, x: Any, weights: Weights) -> Callable[[], Any]:
        import torch

        n, k, group = weights.n, weights.k, weights.group
        codes = torch.from_numpy(weights.packed)
        scales = torch.from_numpy(weights.scales.astype(np.float32))
        packed = torch.ops.aten._dyn_quant_pack_4bit_weight(codes, scales, None, group, k, n)
        function = torch.ops.aten._dyn_quant_matmul_4bit.default
        return lambda: function(x, packed, group, k, n)


@dataclasses.dataclass
class Dense(Contestant):
    """torch.nn.functional.linear on the dequantized weights"""

    dtype: str
    held: Held
    dense: bool = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"PyTorch dense {self.dtype}"

    def prepare(self, problem: Problem) -> Program:
        import torch

        x = _x(problem, self.dtype)
        size = torch.finfo(x.dtype).bits // 8
        copies = problem.copies(problem.cell.n * problem.cell.k * size)
        return InTurn([self._call(x, weights) for weights in copies], _read)

    def _call(self, x: Any, weights: Weights) -> Callable[[], Any]:
        import torch

        matrix = torch.from_numpy(weights.dequantized().astype(np.float32)).to(x.dtype)
        return lambda: torch.nn.functional.linear(x, matrix)


class PyTorch(Peer):
    name = "pytorch"
    limits: ClassVar[dict[str, dict[str, str]]] = {
        "avx2": {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "DNNL_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        }
    }

    def version(self) -> str:
        try:
            import torch
        except ImportError as error:
            raise Missing(str(error)) from error
        return f"{torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"

    def contestants(self) -> Sequence[Contestant]:
        return [
            Int4Pack("float32", Held.EXACT),
            Int4Pack("bfloat16", Held.BF16_SCALES),
            DynQuant(),
            Dense("float32", Held.EXACT),
            Dense("bfloat16", Held.BF16_WEIGHTS),
        ]
