# SPDX-License-Identifier: Apache-2.0
"""Weights of 8, 4, 2 and 1 bits beside one another, and beside the 8-bit products of ONNX Runtime and PyTorch that quantize
activations while they run. Needs this library's Python package; the others are optional.

    scripts/compare_widths [--cells 4096x4096] [--m 1,128] [--threads 1] [--output FOLDER]
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from .cells import ROTATING_BYTES, Cell, cells
from .cli import ROOT, _numbers, _shapes
from .contestant import InTurn, Program, reason
from .timing import Turns, interleave

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@dataclasses.dataclass
class Problem:
    cell: Cell
    matrix: np.ndarray
    x: np.ndarray

    def matrices(self, bytes_each: int) -> list[np.ndarray]:
        """All different, so that no library can notice that it holds the same one twice."""
        count = -(-ROTATING_BYTES // bytes_each) if self.cell.m <= 4 else 1
        return [np.roll(self.matrix, index, 0) for index in range(count)]


def this_library(kind: str, mode: str, group: int) -> Callable[[Problem], Program]:
    def prepare(problem: Problem) -> Program:
        import int4q

        from .this_library import _Products

        common = {"scale_type": int4q.Type.F32 if group < 0 else int4q.Type.F16}
        scheme = {
            "8 bits": lambda: int4q.Scheme.symmetric(group, bits=8, **common),
            "4 bits": lambda: int4q.Scheme.symmetric(group, **common),
            "ternary": lambda: int4q.Scheme.ternary(group, **common),
            "binary": lambda: int4q.Scheme.binary(group, **common),
        }[kind]()
        cell = problem.cell
        first = int4q.Blob.quantize(problem.matrix, scheme)
        blobs = [first] + [int4q.Blob.quantize(matrix, scheme) for matrix in problem.matrices(first.nbytes)[1:]]
        plan = int4q.MatmulPlan(scheme, cell.m, cell.n, cell.k, mode=int4q.Mode[mode], workers=cell.threads)
        return _Products(plan, blobs, problem)  # type: ignore[arg-type]

    return prepare


def onnx_runtime(problem: Problem) -> Program:
    """com.microsoft.DynamicQuantizeMatMul: x to uint8 with one scale, weights int8 with a scale for each output."""
    import onnxruntime
    from onnx import TensorProto, helper

    cell = problem.cell
    nodes, constants = [], []
    matrices = problem.matrices(cell.n * cell.k)
    for index, matrix in enumerate(matrices):
        scales = (np.abs(matrix).max(1) / 127).astype(np.float32)
        codes = np.rint(matrix / scales[:, None]).astype(np.int8).T.copy()
        constants += [
            helper.make_tensor(f"b{index}", TensorProto.INT8, codes.shape, codes.tobytes(), raw=True),
            helper.make_tensor(f"s{index}", TensorProto.FLOAT, scales.shape, scales.tobytes(), raw=True),
        ]
        inputs = ["x", f"b{index}", f"s{index}"]
        nodes.append(helper.make_node("DynamicQuantizeMatMul", inputs, [f"y{index}"], domain="com.microsoft"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [cell.m, cell.k])
    ys = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [cell.m, cell.n]) for i in range(len(matrices))]
    graph = helper.make_graph(nodes, "products", [x], ys, constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cell.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return _OnePass(session, problem, len(matrices))


class _OnePass(Program):
    """All copies in one session: its fixed cost is paid once a pass, as in a model of many layers."""

    def __init__(self, session: Any, problem: Problem, count: int) -> None:
        self._session, self.products, self._keep = session, count, problem.x
        self._binding = session.io_binding()
        self._binding.bind_cpu_input("x", problem.x)
        self._outputs = [np.empty((problem.cell.m, problem.cell.n), np.float32) for _ in range(count)]
        for index, output in enumerate(self._outputs):
            self._binding.bind_output(f"y{index}", "cpu", 0, np.float32, output.shape, output.ctypes.data)

    @property
    def copies(self) -> int:
        return self.products

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def result(self, copy: int) -> np.ndarray:
        self.run()
        return self._outputs[copy]


def pytorch(engine: str) -> Callable[[Problem], Program]:
    """torch.ao.nn.quantized.dynamic.Linear with a scale for each output."""

    def prepare(problem: Problem) -> Program:
        import torch

        torch.backends.quantized.engine = engine
        torch.set_num_threads(problem.cell.threads)
        x = torch.from_numpy(problem.x)

        def call(matrix: np.ndarray) -> Callable[[], Any]:
            linear = torch.nn.Linear(problem.cell.k, problem.cell.n, bias=False)
            linear.weight = torch.nn.Parameter(torch.from_numpy(matrix.copy()), requires_grad=False)
            linear.qconfig = torch.ao.quantization.per_channel_dynamic_qconfig
            quantized = torch.ao.nn.quantized.dynamic.Linear.from_float(linear)
            return lambda: quantized(x)

        return InTurn([call(matrix) for matrix in problem.matrices(problem.cell.n * problem.cell.k)], lambda _, y: y.numpy())

    return prepare


CONTESTANTS: dict[str, Callable[[Problem], Program]] = {
    "int4q 8 bits per row, INT8": this_library("8 bits", "INT8", -1),
    "int4q 8 bits g128, INT8": this_library("8 bits", "INT8", 128),
    "int4q 8 bits g32, INT8": this_library("8 bits", "INT8", 32),
    "int4q 4 bits g128, INT8": this_library("4 bits", "INT8", 128),
    "int4q ternary g128, INT8": this_library("ternary", "INT8", 128),
    "int4q binary g128, INT8": this_library("binary", "INT8", 128),
    "int4q ternary g128, BINARY": this_library("ternary", "BINARY", 128),
    "int4q binary g128, BINARY": this_library("binary", "BINARY", 128),
    "int4q binary per row, BINARY": this_library("binary", "BINARY", -1),
    "ONNX Runtime dynamic int8": onnx_runtime,
    "PyTorch dynamic int8 (x86)": pytorch("x86"),
    "PyTorch dynamic int8 (onednn)": pytorch("onednn"),
}


def _error(program: Program, problem: Problem) -> float:
    true = problem.x.astype(np.float64) @ problem.matrix.T.astype(np.float64)
    found = np.asarray(program.result(0), np.float64)
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def _measure(cell: Cell, repeats: int, seconds: float) -> list[tuple[str, float, float]]:
    """(contestant, GFLOP/s of the median time, error), the missing ones left out with a word."""
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((cell.n, cell.k), np.float32)
    problem = Problem(cell, matrix, rng.standard_normal((cell.m, cell.k), np.float32))
    rows: list[tuple[str, float, float]] = []
    with contextlib.ExitStack() as stack:
        turns: dict[str, Turns] = {}
        for name, prepare in CONTESTANTS.items():
            try:
                program = prepare(problem)
                stack.callback(program.close)
                turns[name] = Turns(program)
            except Exception as error:
                console.print(f"{cell}: {name}: missing: {reason(error)}", markup=False)
        errors = {name: _error(each.program, problem) for name, each in turns.items()}
        for _ in interleave(list(turns.values()), repeats, seconds, 20):
            pass
        for name, each in turns.items():
            if each.failure:
                console.print(f"{cell}: {name}: failed: {each.failure}", markup=False)
            else:
                rows.append((name, cell.operations / each.median / 1e9, errors[name]))
    return rows


@app.command()
def compare(
    shapes: Annotated[str, typer.Option("--cells", help="Shapes NxK.")] = "4096x4096,11008x4096,4096x11008,1536x576",
    batches: Annotated[str, typer.Option("--m", help="Rows of x.")] = "1,4,16,128,512",
    threads: Annotated[str, typer.Option(help="Thread counts.")] = "1,2",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; every contestant has one turn in each.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.001, help="A turn's least time.")] = 0.05,
    output: Annotated[pathlib.Path, typer.Option(help="Folder for widths.md and widths.csv.")] = ROOT / "build/widths",
) -> None:
    """Times y = x W^T for each width and mode, and the others' 8-bit products, in turn."""
    output.mkdir(parents=True, exist_ok=True)
    lines = ["n,k,threads,m,contestant,gflops,error"]
    table = ["| n x k | threads | m | " + " | ".join(CONTESTANTS) + " |", "| --- | ---: | ---: |" + " ---: |" * len(CONTESTANTS)]
    for cell in cells(_shapes(shapes), (32,), _numbers(threads), _numbers(batches)):
        rows = {name: (rate, error) for name, rate, error in _measure(cell, repeats, seconds)}
        lines += [f'{cell.n},{cell.k},{cell.threads},{cell.m},"{name}",{r:.2f},{e:.5f}' for name, (r, e) in rows.items()]
        texts = [f"{rows[name][0]:.1f}" if name in rows else "" for name in CONTESTANTS]
        table.append(f"| {cell.n} x {cell.k} | {cell.threads} | {cell.m} | " + " | ".join(texts) + " |")
        console.print(table[-1], markup=False)
        (output / "widths.csv").write_text("\n".join(lines) + "\n")
        (output / "widths.md").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    app()
