"""Loading, the table of functions, errors, versions, instruction sets."""

from __future__ import annotations

import ctypes
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import int4q
from int4q import _enums, _errors, _native

PACKAGE = pathlib.Path(int4q.__file__).resolve().parent
REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
HEADER = (REPOSITORY / "include" / "int4q.h").read_text()
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build a false library with")


def loaded_path() -> str:
    """The loaded library's file, also where the system's loader found it by name."""
    maps = pathlib.Path("/proc/self/maps").read_text()
    return next(line.split()[-1] for line in maps.splitlines() if "libint4q.so" in line)


def header_functions() -> set[str]:
    without_comments = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
    return set(re.findall(r"INT4Q_API[^;(]*?\b(int4q_\w+)\s*\(", without_comments))


def header_enumerators(prefix: str) -> dict[str, int]:
    found = re.findall(rf"^\s*INT4Q_{prefix}_(\w+) = (\d+)", HEADER, flags=re.M)
    # INT4Q_CODEBOOK_PER_... are another enumeration's than INT4Q_CODEBOOK_...
    return {name: int(value) for name, value in found if prefix != "CODEBOOK" or not name.startswith("PER_")}


def test_table_equals_the_header() -> None:
    assert len(header_functions()) == 164
    assert set(_native.FUNCTIONS) == header_functions()


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")
def test_table_equals_the_exports() -> None:
    listing = subprocess.run(["nm", "-D", "--defined-only", loaded_path()], capture_output=True, text=True, check=True)
    symbols = {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines() if " A " not in line}
    assert symbols == set(_native.FUNCTIONS)


@pytest.mark.parametrize(
    ("prefix", "enumeration"),
    [
        ("ISA", int4q.Isa),
        ("TYPE", int4q.Type),
        ("KIND", int4q.Kind),
        ("SCALE", int4q.ScaleRule),
        ("RANGE", int4q.CodeRange),
        ("ROUNDING", int4q.Rounding),
        ("MODE", int4q.Mode),
        ("ACTIVATION", int4q.Activation),
        ("MATMUL", _enums.MatmulFlag),
        ("PART", int4q.PartFlag),
        ("LOW_RANK", _enums.LowRankForm),
        ("BOUND", int4q.Bound),
        ("FORMAT", int4q.Format),
        ("SEARCH", int4q.Search),
        ("DOUBLE", int4q.DoubleRule),
        ("TWIN_BY", int4q.TwinChoice),
        ("TWIN_STEPS", int4q.TwinSteps),
        ("CODEBOOK", int4q.Codebook),
        ("CODEBOOK_PER", int4q.CodebookScope),
        ("AXIS", int4q.Axis),
        ("OBSERVE", int4q.Observe),
        ("HISTOGRAM", int4q.HistogramForm),
        ("DISTRIBUTION", int4q.Distribution),
        ("CODES", int4q.CodesType),
        ("GPTQ_ORDER", int4q.GptqOrder),
        ("DESCENT", _enums.DescentFlag),
        ("LOWRANK", _enums.LowRankFlag),
    ],
)
def test_enumerators_equal_the_header(prefix: str, enumeration: type) -> None:
    found = header_enumerators(prefix)
    assert found and found == {member.name: member.value for member in enumeration}


def test_every_status_has_a_class() -> None:
    codes = header_enumerators("ERROR")
    assert codes and set(codes.values()) == set(_errors.ERROR_CLASSES)
    for name, value in codes.items():
        assert _native.library.int4q_status_string(value).decode() == f"INT4Q_ERROR_{name}"
        expected = "".join(part.capitalize() for part in name.split("_")) + "Error"
        assert _errors.ERROR_CLASSES[value].__name__ == expected


STRUCTS = {
    "int4q_error": _native.ErrorStruct,
    "int4q_candidate": _native.CandidateStruct,
    "int4q_search_options": _native.SearchOptionsStruct,
    "int4q_allocation": _native.AllocationStruct,
    "int4q_best_options": _native.BestOptionsStruct,
    "int4q_trial": _native.TrialStruct,
    "int4q_best_report": _native.BestReportStruct,
    "int4q_scale_search": _native.ScaleSearchStruct,
    "int4q_scale_search_report": _native.ScaleSearchReportStruct,
    "int4q_scheme": _native.SchemeStruct,
    "int4q_tensor_layout": _native.TensorLayoutStruct,
    "int4q_tensor": _native.TensorStruct,
    "int4q_blob_info": _native.BlobInfoStruct,
    "int4q_matmul_desc": _native.MatmulDescStruct,
    "int4q_matmul_plan": _native.MatmulPlanStruct,
    "int4q_expert": _native.ExpertStruct,
    "int4q_matmul_args": _native.MatmulArgsStruct,
    "int4q_metrics": _native.MetricsStruct,
    "int4q_block_options": _native.BlockOptionsStruct,
    "int4q_double_scales": _native.DoubleScalesStruct,
    "int4q_outlier_fit": _native.OutlierFitStruct,
    "int4q_sparse": _native.SparseStruct,
    "int4q_twin_ranges": _native.TwinRangesStruct,
    "int4q_twin_tensor": _native.TwinTensorStruct,
    "int4q_observer_desc": _native.ObserverDescStruct,
    "int4q_observer_info": _native.ObserverInfoStruct,
    "int4q_statistics": _native.StatisticsStruct,
    "int4q_histogram": _native.HistogramStruct,
    "int4q_range": _native.RangeStruct,
    "int4q_range_search": _native.RangeSearchStruct,
    "int4q_element": _native.ElementStruct,
    "int4q_code_report": _native.CodeReportStruct,
    "int4q_clustering": _native.ClusteringStruct,
    "int4q_representatives": _native.RepresentativesStruct,
    "int4q_requantization": _native.RequantizationStruct,
    "int4q_gram_info": _native.GramInfoStruct,
    "int4q_channel": _native.ChannelStruct,
    "int4q_gptq_options": _native.GptqOptionsStruct,
    "int4q_gptq_report": _native.GptqReportStruct,
    "int4q_awq_options": _native.AwqOptionsStruct,
    "int4q_awq_report": _native.AwqReportStruct,
    "int4q_descent_options": _native.DescentOptionsStruct,
    "int4q_descent_report": _native.DescentReportStruct,
    "int4q_parts": _native.PartsStruct,
    "int4q_learning_options": _native.LearningOptionsStruct,
    "int4q_learning_report": _native.LearningReportStruct,
    "int4q_hqq_options": _native.HqqOptionsStruct,
    "int4q_lowrank": _native.LowRankStruct,
    "int4q_channel_part": _native.ChannelPartStruct,
    "int4q_reassembly": _native.ReassemblyStruct,
    "int4q_reassembly_options": _native.ReassemblyOptionsStruct,
    "int4q_reassembly_report": _native.ReassemblyReportStruct,
    "int4q_lowrank_options": _native.LowRankOptionsStruct,
    "int4q_lowrank_report": _native.LowRankReportStruct,
}


@needs_compiler
def test_structs_equal_the_compiler_s(tmp_path: pathlib.Path) -> None:
    """Size, and offset and size of every field, from a C program that includes the header."""
    lines, expected = [], []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        expected.append(f"{name} {ctypes.sizeof(struct)}")
        for field, *_ in struct._fields_:
            lines.append(
                f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));'
            )
            descriptor = getattr(struct, field)
            expected.append(f"{name}.{field} {descriptor.offset} {descriptor.size}")
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <int4q.h>\nint main(void) {\n" + "\n".join(lines) + "}\n"
    )
    program = tmp_path / "layout"
    subprocess.run(["cc", f"-I{REPOSITORY / 'include'}", str(source), "-o", str(program)], check=True)
    told = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == expected
    typedefs = set(re.findall(r"typedef struct (int4q_\w+) \{", HEADER))
    assert typedefs == set(STRUCTS)


def test_versions() -> None:
    numbers = [re.search(rf"INT4Q_VERSION_{part} (\d+)", HEADER) for part in ("MAJOR", "MINOR", "PATCH")]
    expected = tuple(int(number.group(1)) for number in numbers if number)
    assert int4q.library_version() == expected
    assert ".".join(map(str, expected)) == int4q.__version__
    assert int4q.abi_version() == _native.ABI_VERSION == 0
    assert int4q.library_path()


# ---- Loading -------------------------------------------------------------------------------------------------------


def import_with(library: str | None, package: pathlib.Path = PACKAGE) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "INT4Q_LIBRARY"}
    environment["PYTHONPATH"] = os.pathsep.join([str(package.parent), str(pathlib.Path(np.__file__).parents[1])])
    if library is not None:
        environment["INT4Q_LIBRARY"] = library
    program = "import int4q; print('library:', int4q.library_path())"
    # Python looks in the current folder first, which may hold the package too.
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=package.parent)


def false_library(folder: pathlib.Path, source: str) -> str:
    path = folder / "libfalse.so"
    (folder / "false.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", str(folder / "false.c"), "-o", str(path)], check=True)
    return str(path)


def test_explicit_path_is_the_only_one(tmp_path: pathlib.Path) -> None:
    result = import_with(loaded_path())
    assert result.stdout.strip() == f"library: {loaded_path()}", result.stderr
    missing = str(tmp_path / "absent.so")
    result = import_with(missing)
    assert result.returncode != 0
    assert f"{missing}: no such file" in result.stderr
    assert "LibraryNotFoundError" in result.stderr
    assert "libint4q.so.0" not in result.stderr


def test_all_places_are_listed(tmp_path: pathlib.Path) -> None:
    """A copy of the package without its library, on a system without one."""
    copy = tmp_path / "int4q"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    result = import_with(None, copy)
    if result.returncode == 0:
        pytest.skip("libint4q.so.0 is installed for the whole system, so no failure can be shown")
    assert f"{copy / 'libint4q.so'}: no such file" in result.stderr
    assert re.search(r"libint4q\.so\.0: .*cannot open shared object", result.stderr)
    assert "INT4Q_LIBRARY" in result.stderr
    shutil.copy(loaded_path(), copy / "libint4q.so")
    assert import_with(None, copy).stdout.strip() == f"library: {copy / 'libint4q.so'}"


def test_a_file_that_is_no_library(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "libint4q.so"
    path.write_text("no ELF")
    result = import_with(str(path))
    assert result.returncode != 0
    assert re.search(re.escape(str(path)) + r": .*(ELF|too short)", result.stderr)


@needs_compiler
def test_another_abi(tmp_path: pathlib.Path) -> None:
    path = false_library(tmp_path, "int int4q_abi_version(void) { return 7; }")
    with pytest.raises(int4q.LibraryNotFoundError, match="ABI version is 7; this package needs 0"):
        _native.load_library([path])


@needs_compiler
def test_missing_functions(tmp_path: pathlib.Path) -> None:
    count = len(_native.FUNCTIONS)
    path = false_library(tmp_path, "int int4q_abi_version(void) { return 0; }")
    with pytest.raises(int4q.LibraryNotFoundError, match=f"lacks {count - 1} of {count} functions: .*int4q_matmul"):
        _native.load_library([path])


def test_library_not_found_is_an_import_error() -> None:
    assert issubclass(int4q.LibraryNotFoundError, ImportError)
    library, path = _native.load_library(["/absent/one.so", loaded_path()])
    assert path == loaded_path() and library.int4q_abi_version() == 0


# ---- Errors --------------------------------------------------------------------------------------------------------


def test_exceptions_carry_the_library_s_words() -> None:
    with pytest.raises(int4q.InvalidArgumentError) as caught:
        int4q.quantize(np.ones((2, 64), np.float32), int4q.Scheme.symmetric(33))
    error = caught.value
    assert error.status == 3
    assert error.function == "int4q_tensor_sizes"
    assert "group_size" in error.argument
    assert error.value == "33"
    assert error.expected
    assert str(error) == error.message
    assert all(part in error.message for part in (error.function, error.argument, error.value, error.expected))
    assert isinstance(error, ValueError)


def test_exceptions_can_be_pickled() -> None:
    error = int4q.CorruptError(9, "f", "a", "v", "e", "whole")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is int4q.CorruptError
    assert vars(copy) == vars(error) and str(copy) == "whole"


@pytest.mark.parametrize(
    ("fails", "error_class"),
    [
        (lambda: _native.call("int4q_isa_detected", None), int4q.NullPointerError),
        (lambda: _native.call("int4q_tensor_sizes", int4q.Scheme.symmetric().as_struct(), 1, 1,
                              ctypes.byref(_small_layout())), int4q.StructSizeError),
        (lambda: int4q.QuantizedTensor.empty(int4q.Scheme.symmetric(), 2**62, 2**62), int4q.SizeOverflowError),
        (lambda: int4q.QuantizedTensor.empty(int4q.Scheme.symmetric(), 0, 5), int4q.InvalidArgumentError),
        (lambda: int4q.QuantizedTensor.empty(int4q.Scheme.symmetric(), 5, -3), int4q.InvalidArgumentError),
        (lambda: int4q.quantize([[1.0, float("nan")]]), int4q.NotFiniteError),
        (lambda: int4q.Blob.quantize([[1.0, float("nan")]]), int4q.NotFiniteError),
        (lambda: int4q.compare([[1.0]], [[float("inf")]]), int4q.NotFiniteError),
        (lambda: int4q.Blob.from_bytes(bytes(256)), int4q.CorruptError),
        (lambda: int4q.Blob.from_bytes(bytes(10)), int4q.BufferTooSmallError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_failure_has_its_class(fails: object, error_class: type) -> None:
    with pytest.raises(error_class) as caught:
        fails()
    assert caught.value.message and caught.value.function.startswith("int4q_")
    assert caught.value.expected in caught.value.message


def _small_layout() -> _native.TensorLayoutStruct:
    layout = _native.TensorLayoutStruct()
    layout.struct_size = 8
    return layout


def test_errors_belong_to_their_thread() -> None:
    """A failure in one thread does not put words into another's mouth."""
    messages: list[str] = []
    barrier = threading.Barrier(4)

    def fail(size: int) -> None:
        for _ in range(200):
            barrier.wait()
            try:
                int4q.Scheme.symmetric(size)
                int4q.QuantizedTensor.empty(int4q.Scheme.symmetric(size), 4, 64)
            except int4q.Int4QError as error:
                messages.append("" if error.value == str(size) else f"{size}: {error}")

    threads = [threading.Thread(target=fail, args=(size,)) for size in (3, 5, 7, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(messages) == 800 and not any(messages)


# ---- Instruction sets ----------------------------------------------------------------------------------------------


def test_limits() -> None:
    detected = int4q.isa_detected()
    with int4q.set_isa_limit(int4q.Isa.PORTABLE):
        assert int4q.isa_active() == int4q.Isa.PORTABLE
        assert int4q.isa_detected() == detected
        with int4q.set_isa_limit("amx"):
            assert int4q.isa_active() == detected
        assert int4q.isa_active() == int4q.Isa.PORTABLE
    int4q.set_isa_limit("portable")
    assert int4q.isa_active() == int4q.Isa.PORTABLE
    int4q.set_isa_limit(None)
    with pytest.raises(ValueError, match="avx2"):
        int4q.set_isa_limit("sse9")
    with pytest.raises(int4q.InvalidArgumentError):
        int4q.set_isa_limit(7)
    names = ["portable", "avx2", "avxvnni", "avx512vnni", "avx512bf16", "amx"]
    assert [int4q.isa_name(isa) for isa in int4q.Isa] == names
    assert int4q.isa_name(7) == "unknown"


def run_with_isa(value: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, INT4Q_ISA=value, INT4Q_LIBRARY=loaded_path(), PYTHONPATH=str(PACKAGE.parent))
    program = "import int4q; print(int4q.isa_active().name)"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)


def test_environment_limit() -> None:
    assert run_with_isa("portable").stdout.strip() == "PORTABLE"
    assert run_with_isa("").stdout.strip() == int4q.isa_detected().name
    wrong = run_with_isa("fastest")
    assert wrong.returncode != 0
    assert "InvalidArgumentError" in wrong.stderr and "fastest" in wrong.stderr


# ---- Metrics -------------------------------------------------------------------------------------------------------


def test_metrics(generator: np.random.Generator) -> None:
    reference = generator.standard_normal((30, 40)).astype(np.float32)
    candidate = (reference + generator.standard_normal((30, 40)) * 0.01).astype(np.float32)
    error = candidate.astype(np.float64) - reference.astype(np.float64)
    metrics = int4q.compare(reference, candidate)
    assert metrics.mse == pytest.approx((error**2).mean(), rel=1e-12)
    sqnr = 10 * np.log10((reference.astype(np.float64) ** 2).sum() / (error**2).sum())
    assert metrics.sqnr_db == pytest.approx(sqnr, rel=1e-12)
    a, b = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    assert metrics.cosine == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), rel=1e-12)
    assert metrics.max_abs_error == np.abs(error).max()
    place = np.unravel_index(np.abs(error).argmax(), error.shape)
    assert (metrics.max_error_row, metrics.max_error_column) == place


def test_metrics_at_the_edges() -> None:
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert int4q.compare(ones, ones).sqnr_db == np.inf
    assert int4q.compare(zeros, ones).sqnr_db == -np.inf
    assert int4q.compare(zeros, zeros).cosine == 1
    assert int4q.compare(zeros, ones).cosine == 0
    assert int4q.compare(ones[0], ones[0]).mse == 0
    with pytest.raises(ValueError, match="shape"):
        int4q.compare(ones, ones[:, :2])
