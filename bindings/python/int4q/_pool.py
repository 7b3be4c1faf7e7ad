"""Threads of the library's own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from types import TracebackType

from . import _native


class Pool:
    """Threads that products are spread over. The calling thread works too.

    Use it as a context, or call `close()`. Two Python threads may share one: they take turns.
    """

    def __init__(self, workers: int | None = None) -> None:
        """Starts workers - 1 threads; as many workers as there are processors if None. At most 1024."""
        self.workers = workers if workers is not None else os.cpu_count() or 1
        self._lock = threading.Lock()
        self._handle: int | None = None
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; expected 1 to 1024")
        handle = ctypes.c_void_p()
        _native.call("int4q_pool_create", self.workers, ctypes.byref(handle))
        self._handle = handle.value

    @property
    def closed(self) -> bool:
        return self._handle is None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[int]:
        """The handle, kept alive and for this thread alone while the context lasts."""
        with self._lock:
            if self._handle is None:
                raise ValueError("the pool is closed")
            yield self._handle

    def close(self) -> None:
        """Ends the threads. Waits for a product that runs on them; may be called twice."""
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                _native.call("int4q_pool_destroy", handle)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"Pool(workers={self.workers}{', closed' if self.closed else ''})"
