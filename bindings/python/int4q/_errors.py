"""Exceptions: one class per status code of the library."""

from __future__ import annotations


class LibraryNotFoundError(ImportError):
    """The native library could not be loaded; the message lists every path tried and why it failed."""


class Int4QError(Exception):
    """A call into the library failed.

    Attributes: `status` (the code), `function`, `argument`, `value` and `expected` as the library tells them, and
    `message`, which is the whole sentence.
    """

    def __init__(
        self,
        status: int,
        function: str = "",
        argument: str = "",
        value: str = "",
        expected: str = "",
        message: str = "",
    ) -> None:
        super().__init__(message or f"{function} failed with status {status}")
        self.status = status
        self.function = function
        self.argument = argument
        self.value = value
        self.expected = expected
        self.message = message

    def __reduce__(self) -> tuple[type[Int4QError], tuple[int, str, str, str, str, str]]:
        # Exceptions are pickled by their args, which here are not the constructor's.
        fields = (self.status, self.function, self.argument, self.value, self.expected, self.message)
        return type(self), fields


class NullPointerError(Int4QError, ValueError):
    """A required pointer is missing."""


class StructSizeError(Int4QError):
    """This package and the loaded library disagree about a struct."""


class InvalidArgumentError(Int4QError, ValueError):
    """An unknown enumerator, or a number outside its range."""


class SizeOverflowError(Int4QError, OverflowError):
    """The sizes asked for do not fit in 63 bits."""


class MisalignedError(Int4QError, ValueError):
    """Memory is not aligned as required."""


class BufferTooSmallError(Int4QError, ValueError):
    """A buffer is smaller than what is needed (a truncated blob, for instance)."""


class NotFiniteError(Int4QError, ValueError):
    """NaN or infinity where it is not allowed, or a scale beyond its type."""


class UnsupportedError(Int4QError, NotImplementedError):
    """Valid, but this library has no code for it."""


class CorruptError(Int4QError, ValueError):
    """A blob whose contents contradict themselves or their checksum."""


class BlobVersionError(Int4QError, ValueError):
    """A blob of a format version that this library does not know."""


class MismatchError(Int4QError, ValueError):
    """Two arguments that must agree do not."""


class OutOfMemoryError(Int4QError, MemoryError):
    """Memory for a pool could not be had."""


class ThreadError(Int4QError, RuntimeError):
    """The system refused to start a thread."""


class CancelledError(Int4QError):
    """A progress callback asked for an end."""


ERROR_CLASSES: dict[int, type[Int4QError]] = {
    1: NullPointerError,
    2: StructSizeError,
    3: InvalidArgumentError,
    4: SizeOverflowError,
    5: MisalignedError,
    6: BufferTooSmallError,
    7: NotFiniteError,
    8: UnsupportedError,
    9: CorruptError,
    10: BlobVersionError,
    11: MismatchError,
    12: OutOfMemoryError,
    13: ThreadError,
    14: CancelledError,
}
