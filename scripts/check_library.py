#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what the built library is made of: its dependencies, its exports, its size, and that no instruction above the
baseline stands where every processor may run it.

    scripts/check_library.py BUILD_FOLDER
"""
import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALLOWED_LIBRARIES = {"libc.so.6", "libm.so.6"}
SIZE_LIMIT = 1 << 20
KERNEL_MODULES = ("KernelsAVX2", "KernelsAVXVNNI", "KernelsAVX512VNNI", "KernelsAVX512VPOPCNTDQ", "KernelsAVX512BF16", "KernelsAMX")
# AVX and later: VEX and EVEX mnemonics start with v; verr, verw and the VMX ones do not compute. BMI, opmask and tiles beside.
ABOVE_BASELINE = re.compile(r"\t(v(?!err|erw|m[a-z]+\b(?!ov|ul|in|ax))[a-z0-9]+|k(and|or|mov|not|shift|unpck|xor|test|add)[a-z]*|"
                            r"andn|bextr|bls[irm][a-z]*|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|lzcnt|tzcnt|popcnt|"
                            r"tdp[a-z0-9]+|tile[a-z0-9]+|(ld|st)tilecfg)\b|%[tyz]mm")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def fail(message: str) -> None:
    print(f"FAILED: {message}")
    fail.count += 1


fail.count = 0


def check_dynamic_section(library: Path) -> None:
    dynamic = run("readelf", "-d", str(library))
    needed = set(re.findall(r"NEEDED.*\[(.+?)\]", dynamic))
    if not needed <= ALLOWED_LIBRARIES:
        fail(f"the library needs {sorted(needed - ALLOWED_LIBRARIES)} beyond libc and libm")
    soname = re.findall(r"SONAME.*\[(.+?)\]", dynamic)
    if soname != ["libint4q.so.0"]:
        fail(f"soname is {soname}")
    if "TEXTREL" in dynamic:
        fail("the library has text relocations")
    print(f"dependencies: {', '.join(sorted(needed))}; soname {soname[0] if soname else '-'}")


def header_functions() -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "include/int4q.h").read_text(), flags=re.S)
    return set(re.findall(r"INT4Q_API[^;]*?\b(int4q_\w+)\s*\(", text))


def exported_functions(library: Path) -> set[str]:
    names = set()
    for line in run("nm", "-D", "--defined-only", str(library)).splitlines():
        _, kind, name = line.split()
        if kind == "A":
            continue  # the version node itself
        base, _, version = name.partition("@@")
        if version != "INT4Q_1":
            fail(f"{base} is exported with version {version or 'none'}")
        names.add(base)
    return names


def python_functions() -> set[str]:
    """The names in the binding's table, read without importing it."""
    tree = ast.parse((ROOT / "bindings/python/int4q/_native.py").read_text())
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(t, ast.Name) and t.id == "FUNCTIONS" for t in targets):
            return {key.value for key in node.value.keys}
    fail("no FUNCTIONS table in bindings/python/int4q/_native.py")
    return set()


def check_names(library: Path) -> None:
    sets = {"header": header_functions(), "exports": exported_functions(library), "Python binding": python_functions()}
    every = set().union(*sets.values())
    for name, members in sets.items():
        if every - members:
            fail(f"{name} lacks {sorted(every - members)}")
    print("functions: " + ", ".join(f"{len(members)} in {name}" for name, members in sets.items()))


def check_size(library: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder) / "stripped.so"
        run("strip", "-o", str(stripped), str(library))
        size = stripped.stat().st_size
    if size >= SIZE_LIMIT:
        fail(f"the stripped library has {size} bytes")
    print(f"stripped size: {size} bytes (limit {SIZE_LIMIT})")


def functions_above_baseline(file: Path) -> dict[str, str]:
    """Function name -> its first instruction above the baseline."""
    found: dict[str, str] = {}
    current = "?"
    for line in run("objdump", "-d", "--no-show-raw-insn", str(file)).splitlines():
        header = re.match(r"[0-9a-f]+ <(.+)>:$", line)
        if header:
            current = header.group(1)
        elif current not in found and ABOVE_BASELINE.search(line):
            found[current] = line.split("\t", 1)[1]
    return found


def check_instructions(build: Path, library: Path) -> None:
    kernels = {f"{name}.o" for name in KERNEL_MODULES}
    swift = list(build.glob("swift-x86_64-*-gnu/*.o"))
    objects = swift + list(build.glob("CMakeFiles/CInt4QShims.dir/**/*.o"))
    baseline = [o for o in objects if o.name not in kernels]
    if len(swift) != 3 + len(kernels) or len(baseline) < 7:
        fail(f"expected {3 + len(kernels)} Swift objects and 4 of C, found {[o.name for o in objects]}")
    for file in baseline:
        for function, instruction in functions_above_baseline(file).items():
            fail(f"{file.name}: {function} has '{instruction}'")
    for name in kernels:  # the check can find what it looks for
        if not functions_above_baseline(next(o for o in objects if o.name == name)):
            fail(f"found no AVX instruction in {name}: the check does not work")
    own = tuple(f"$e{len(name)}{name}" for name in KERNEL_MODULES) + ("i4q_kernels_avx", "i4q_kernels_amx")
    allowed = symbols_only_in(kernels, objects)
    leaked = {f: i for f, i in functions_above_baseline(library).items() if not f.startswith(own) and f not in allowed}
    for function, instruction in leaked.items():
        fail(f"in the linked library {function} has '{instruction}' and is not a kernel's own")
    print(f"instructions: {len(baseline)} baseline objects clean, and so is the linked library outside its kernels")


def symbols_only_in(names: set[str], objects: list[Path]) -> set[str]:
    """Symbols that no baseline object defines: only kernels can call them."""
    def symbols(file: Path) -> set[str]:
        return {line.split()[-1] for line in run("nm", "--defined-only", str(file)).splitlines() if line}
    inside = set().union(*(symbols(o) for o in objects if o.name in names))
    outside = set().union(*(symbols(o) for o in objects if o.name not in names))
    return inside - outside


def check_allocations(library: Path) -> None:
    """Who takes memory from the heap: the pool's function alone."""
    callers: set[str] = set()
    current = "?"
    for line in run("objdump", "-d", "--no-show-raw-insn", str(library)).splitlines():
        header = re.match(r"[0-9a-f]+ <(.+)>:$", line)
        if header:
            current = header.group(1)
        elif re.search(r"<(malloc|calloc|realloc|aligned_alloc|posix_memalign|mmap)@", line) and "@plt" not in current:
            callers.add(current)
    if callers != {"i4q_allocate"}:
        fail(f"memory is allocated by {sorted(callers)}; expected i4q_allocate alone")
    print("allocations: by i4q_allocate alone")


def main() -> int:
    build = Path(sys.argv[1])
    library = build / "libint4q.so"
    check_dynamic_section(library)
    check_names(library)
    check_size(library)
    check_instructions(build, library)
    check_allocations(library)
    return 1 if fail.count else 0


if __name__ == "__main__":
    sys.exit(main())
