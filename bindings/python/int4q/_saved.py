"""What observers and Gram matrices have in common: statistics in one flat block of bytes that can be saved and loaded."""

from __future__ import annotations

import os
from typing import Any, ClassVar, TypeVar

import numpy as np

from . import _native
from ._arrays import aligned_bytes, is_aligned

Saved = TypeVar("Saved", bound="SavedStatistics")


class SavedStatistics:
    """A block of bytes that the library fills, aligned as it wants them."""

    _validate: ClassVar[str]
    """The library's function that checks bytes from anywhere."""
    _title: ClassVar[str]
    _bytes: np.ndarray

    @classmethod
    def from_bytes(cls: type[Saved], data: Any) -> Saved:
        """From saved bytes, which are validated: CorruptError, BufferTooSmallError, BlobVersionError."""
        source = np.frombuffer(data, np.uint8)
        loaded = cls.__new__(cls)
        loaded._bytes = aligned_bytes(source.size)
        loaded._bytes[:] = source
        _native.call(cls._validate, *loaded._memory)
        return loaded

    @classmethod
    def load(cls: type[Saved], path: str | os.PathLike[str]) -> Saved:
        """From a file that save() has written."""
        with open(path, "rb") as file:
            return cls.from_bytes(file.read())

    def save(self, path: str | os.PathLike[str]) -> None:
        with open(path, "wb") as file:
            file.write(self.to_bytes())

    def to_bytes(self) -> bytes:
        return self._bytes.tobytes()

    @property
    def _memory(self) -> tuple[int, int]:
        if not is_aligned(self._bytes):
            raise ValueError(f"{self._title}'s bytes are not aligned")
        return int(self._bytes.ctypes.data), self._bytes.nbytes
