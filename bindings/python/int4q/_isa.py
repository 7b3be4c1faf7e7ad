"""Versions and instruction sets."""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType
from typing import Union

from . import _native
from ._enums import Isa

IsaLike = Union[Isa, int, str, None]

_NO_LIMIT = -1
_lock = threading.Lock()
_current_limit = _NO_LIMIT


def library_version() -> tuple[int, int, int]:
    """(major, minor, patch) of the loaded library."""
    number = _native.library.int4q_version()
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def abi_version() -> int:
    """The loaded library's ABI number."""
    return int(_native.library.int4q_abi_version())


def library_path() -> str:
    """The path or name that the library was loaded by."""
    return _native.library_path


def _query(function: str) -> Isa:
    value = ctypes.c_int32()
    _native.call(function, ctypes.byref(value))
    return Isa(value.value)


def isa_detected() -> Isa:
    """The best instruction set that this machine and the library both have."""
    return _query("int4q_isa_detected")


def isa_active() -> Isa:
    """The instruction set that plans made now will use.

    Raises InvalidArgumentError if the environment's INT4Q_ISA is not a name of one.
    """
    return _query("int4q_isa_active")


def isa_name(isa: Isa | int) -> str:
    """The library's name of an instruction set, or "unknown"."""
    return str(_native.library.int4q_isa_name(int(isa)).decode())


def _limit_number(limit: IsaLike) -> int:
    if limit is None:
        return _NO_LIMIT
    if isinstance(limit, str):
        names = {isa_name(isa): isa for isa in Isa}
        if limit not in names:
            raise ValueError(f"limit is {limit!r}; expected one of {', '.join(names)}")
        return int(names[limit])
    return int(limit)


class IsaLimit:
    """A limit that is set; leaving it as a context puts the one before back."""

    def __init__(self, previous: int) -> None:
        self._previous = previous

    def __enter__(self) -> IsaLimit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        set_isa_limit(None if self._previous == _NO_LIMIT else self._previous)


def set_isa_limit(limit: IsaLike) -> IsaLimit:
    """Limits the instruction sets of plans made from now on, in the whole process.

    `limit` is an Isa, its name ("portable", "avx2", "avxvnni", "avx512vnni", "avx512bf16", "amx"), or None for no limit
    by call. The result may be used in a `with` statement, which puts the limit before back at its end.
    """
    global _current_limit
    number = _limit_number(limit)
    with _lock:
        _native.call("int4q_isa_set_limit", number)
        previous, _current_limit = _current_limit, number
    return IsaLimit(previous)
