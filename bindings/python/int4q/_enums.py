"""The library's enumerators, by the names of its header without their prefixes."""

from __future__ import annotations

import enum

PER_ROW = -1
"""As a group size: one group for the whole row."""


class Isa(enum.IntEnum):
    """Instruction sets."""

    PORTABLE = 0
    AVX2 = 100
    AVX512VNNI = 200


class Type(enum.IntEnum):
    """Element types."""

    F32 = 1
    F16 = 2
    BF16 = 3


class Kind(enum.IntEnum):
    """What a code means."""

    SYMMETRIC = 1
    ASYMMETRIC = 2
    OFFSET = 3
    CODEBOOK = 4


class ScaleRule(enum.IntEnum):
    """How a symmetric scale comes from its group."""

    DEFAULT = 0
    AMAX_7 = 1
    AMAX_7_5 = 2
    SIGNED_MAX_8 = 3


class CodeRange(enum.IntEnum):
    """Which codes a symmetric scheme uses: -8..7 or -7..7."""

    FULL = 0
    RESTRICTED = 1


class Rounding(enum.IntEnum):
    """How codes are rounded."""

    NEAREST_EVEN = 0
    GGML = 1


class Mode(enum.IntEnum):
    """How a product is computed."""

    F32 = 1
    INT8 = 2
