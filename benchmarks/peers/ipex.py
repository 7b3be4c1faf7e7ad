# SPDX-License-Identifier: Apache-2.0
"""Intel Extension for PyTorch: the operator under its WeightOnlyQuantizedLinear.

Runs in a process of its own, with the PyTorch that it needs. Its 4-bit kernels need AVX512-FP16; on other processors it
dequantizes the whole matrix in every call and multiplies in floats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .contestant import Contestant, InTurn, Missing, Peer, Problem, Program
from .weights import Weights

_PER_BLOCK_OF_K = 1
_PLAIN_FORMAT = 0


@dataclasses.dataclass
class LowPrecision(Contestant):
    """One lowp_mode: 0 as the activations are, 2 bfloat16, 3 int8."""

    title: str
    lowp_mode: int
    dtype: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"IPEX {self.title}"

    def prepare(self, problem: Problem) -> Program:
        import intel_extension_for_pytorch  # noqa: F401
        import torch

        torch.set_num_threads(problem.cell.threads)
        x = torch.from_numpy(problem.x).to(getattr(torch, self.dtype))
        copies = problem.copies()
        return InTurn([self._call(x, weights) for weights in copies], lambda _, y: np.asarray(y.float().numpy()))

    def _call(self, x: Any, weights: Weights) -> Callable[[], Any]:
        import torch

        scales = torch.from_numpy(weights.scales.astype(np.float32))
        context = torch.ops.ipex_prepack.weight_only_qlinear_prepack_int4(
            torch.from_numpy(weights.packed),
            scales,
            torch.full_like(scales, 8),
            None,  # bias
            None,  # order of groups
            None,  # batch size
            weights.group,
            self.lowp_mode,
            _PER_BLOCK_OF_K,
            False,  # no dense copy of the weights
            _PLAIN_FORMAT,
        )
        handle = context.get_data_handle()
        function = torch.ops.torch_ipex.ipex_woq_linear.default

        def call(kept: Any = context) -> Any:
            return function(x, handle)

        return call


class Ipex(Peer):
    name = "ipex"
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
            import intel_extension_for_pytorch as ipex
            import torch
        except ImportError as error:
            raise Missing(str(error)) from error
        return f"{ipex.__version__} with PyTorch {torch.__version__}"

    def contestants(self) -> Sequence[Contestant]:
        return [
            LowPrecision("f32", 0, "float32"),
            LowPrecision("bf16", 2, "bfloat16"),
            LowPrecision("int8", 3, "bfloat16"),
        ]
