"""What a code means and how it is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._enums import PER_ROW, CodebookScope, CodeRange, Kind, Rounding, ScaleRule, Type
from ._native import SchemeStruct


CodebookValues = tuple[float, ...] | tuple[tuple[float, ...], ...]


def _nested(array: np.ndarray) -> CodebookValues:
    """float32 values as a tuple, or as a tuple for each row."""
    return tuple(array.tolist()) if array.ndim == 1 else tuple(tuple(row) for row in array.tolist())


def _wide(bits: int) -> int:
    """What scheme.code_bits has for codes of `bits`; others than 4 and 8 are left to the library to refuse."""
    return 0 if bits == 4 else bits


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to turn floats into codes of 4 bits, or of 8, 2 or 1.

    Use one of the constructors: `symmetric`, `asymmetric`, `offset`, `codebook`, `ggml_q4_0`, `ggml_q4_1`, `mlx`,
    `binary`, `ternary`; `given` takes scales of your own. A row of
    weights is cut into groups of `group_size` neighbours (16, 32, 64, 128, 256 or PER_ROW); each group has a scale of
    `scale_type`. Whether the parts fit together is checked by the library when the scheme is used.

    codebook_values   16 numbers, or with codebook_scope ROW 16 for each row; None for other kinds, and where the rows'
                      are left in a blob (`Blob.codebooks`)
    """

    kind: Kind
    group_size: int = 32
    scale_type: Type = Type.F16
    scale_rule: ScaleRule = ScaleRule.DEFAULT
    code_range: CodeRange = CodeRange.FULL
    rounding: Rounding = Rounding.NEAREST_EVEN
    codebook_values: CodebookValues | None = None
    codebook_scope: CodebookScope = CodebookScope.TENSOR
    code_bits: int = 0
    """0 for the kind's own; 8 for SYMMETRIC, ASYMMETRIC and OFFSET with a byte for each code."""

    @classmethod
    def symmetric(
        cls,
        group_size: int = 32,
        *,
        scale_type: Type = Type.F16,
        scale_rule: ScaleRule = ScaleRule.DEFAULT,
        code_range: CodeRange = CodeRange.FULL,
        bits: int = 4,
    ) -> Scheme:
        """w = s * (q - 8), or with bits=8 s * (q - 128)"""
        return cls(Kind.SYMMETRIC, group_size, scale_type, scale_rule, code_range, code_bits=_wide(bits))

    @classmethod
    def asymmetric(cls, group_size: int = 32, *, scale_type: Type = Type.F16, bits: int = 4) -> Scheme:
        """w = s * (q - z), z an integer in 0..15, or with bits=8 in 0..255"""
        return cls(Kind.ASYMMETRIC, group_size, scale_type, code_bits=_wide(bits))

    @classmethod
    def offset(cls, group_size: int = 32, *, scale_type: Type = Type.F16, bits: int = 4) -> Scheme:
        """w = s * q + o, o of the scale's type; codes of 4 or 8 bits"""
        return cls(Kind.OFFSET, group_size, scale_type, code_bits=_wide(bits))

    @classmethod
    def binary(cls, group_size: int = 128, *, scale_type: Type = Type.F16) -> Scheme:
        """w = -s or s, s the mean magnitude of a group of 32 or more: one bit (XNOR-Net)"""
        return cls(Kind.BINARY, group_size, scale_type)

    @classmethod
    def ternary(
        cls, group_size: int = 128, *, scale_type: Type = Type.F16, scale_rule: ScaleRule = ScaleRule.DEFAULT
    ) -> Scheme:
        """w = -s, 0 or s: two bits (BitNet b1.58). s is the mean magnitude; with ScaleRule.AMAX_7 the largest (ggml)"""
        return cls(Kind.TERNARY, group_size, scale_type, scale_rule)

    def given(self) -> Scheme:
        """The same with scales, zero points and offsets that `quantize` is given instead of finding them."""
        return self._with_rule(ScaleRule.GIVEN)

    @property
    def bits(self) -> int:
        """Of a code: 1, 2, 4 or 8."""
        return self.code_bits or {Kind.BINARY: 1, Kind.TERNARY: 2}.get(self.kind, 4)

    def code_row_bytes(self, k: int) -> int:
        """Bytes of a tensor's row of k codes."""
        return -(-k * self.bits // 8)

    @classmethod
    def codebook(
        cls,
        values: Any,
        group_size: int = 32,
        *,
        scale_type: Type = Type.F16,
        scale_rule: ScaleRule = ScaleRule.DEFAULT,
        rounding: Rounding = Rounding.NEAREST_EVEN,
    ) -> Scheme:
        """w = s * values[q], with 16 values shared by the whole tensor, or values[n][16], 16 for each of its n rows

        With ScaleRule.ONE s is 1 for every group and the values are the weights' own; Rounding.NEAREST_LOG switches
        between neighbours at their geometric mean. Products with values for each row are Mode.F32's alone.
        """
        array = np.asarray(values, np.float32)
        if array.ndim == 1 and len(array) != 16:
            raise ValueError(f"values has {len(array)} elements; expected 16")
        if array.ndim != 1 and (array.ndim != 2 or array.shape[1] != 16):
            raise ValueError(f"values has shape {array.shape}; expected (16,) or (n, 16)")
        return cls(
            Kind.CODEBOOK,
            group_size,
            scale_type,
            scale_rule,
            rounding=rounding,
            codebook_values=_nested(array),
            codebook_scope=CodebookScope.TENSOR if array.ndim == 1 else CodebookScope.ROW,
        )

    @classmethod
    def gobo(cls, centroids: Sequence[float]) -> Scheme:
        """w = centroids[q]: 16 values as they are, for the whole tensor (the scales are 1)"""
        return cls.codebook(centroids, PER_ROW, scale_type=Type.F32)._with_rule(ScaleRule.ONE)

    def _with_rule(self, rule: ScaleRule) -> Scheme:
        return dataclasses.replace(self, scale_rule=rule)

    @classmethod
    def ggml_q4_0(cls) -> Scheme:
        """The codes and scales of ggml's Q4_0, to the bit"""
        return cls(Kind.SYMMETRIC, 32, Type.F16, ScaleRule.SIGNED_MAX_8, rounding=Rounding.GGML)

    @classmethod
    def ggml_q4_1(cls) -> Scheme:
        """The codes, scales and minimums of ggml's Q4_1, to the bit"""
        return cls(Kind.OFFSET, 32, Type.F16, rounding=Rounding.GGML)

    @classmethod
    def mlx(cls, group_size: int = 64, *, scale_type: Type = Type.F16) -> Scheme:
        """The codes, scales and biases of MLX's affine `quantize` with 4 bits, to the bit

        MLX takes the type of the weights for scales and biases.
        """
        return cls(Kind.OFFSET, group_size, scale_type, rounding=Rounding.MLX)

    def groups_per_row(self, k: int) -> int:
        """How many groups a row of k elements has."""
        return 1 if self.group_size == PER_ROW else -(-k // self.group_size)

    def as_struct(self) -> SchemeStruct:
        return SchemeStruct(
            self.kind,
            self.group_size,
            self.scale_type,
            self.scale_rule,
            self.code_range,
            self.rounding,
            self.codebook_scope,
            self.code_bits,
        )

    @classmethod
    def from_struct(cls, struct: SchemeStruct, codebook: Sequence[float] | None = None) -> Scheme:
        """`codebook` counts for a scheme with one for the tensor."""
        kind, scope = Kind(struct.kind), CodebookScope(struct.codebook_scope)
        has_values = codebook is not None and kind == Kind.CODEBOOK and scope == CodebookScope.TENSOR
        return cls(
            kind,
            struct.group_size,
            Type(struct.scale_type),
            ScaleRule(struct.scale_rule),
            CodeRange(struct.code_range),
            Rounding(struct.rounding),
            _nested(np.asarray(codebook, np.float32)) if has_values else None,
            scope,
            struct.code_bits,
        )

    def codebook_array(self) -> np.ndarray | None:
        """float32[16] or, for each row, [n][16]; None for a scheme without a codebook."""
        return None if self.codebook_values is None else np.asarray(self.codebook_values, np.float32)

    def __str__(self) -> str:
        group = "row" if self.group_size == PER_ROW else str(self.group_size)
        name = self.kind.name.lower() + (" 8 bits" if self.code_bits == 8 else "")
        parts = [name, f"group {group}", f"{self.scale_type.name.lower()} scales"]
        if self.scale_rule == ScaleRule.ONE:
            parts.append("all 1")
        elif self.scale_rule != ScaleRule.DEFAULT:
            parts.append(self.scale_rule.name.lower())
        if self.codebook_scope == CodebookScope.ROW:
            parts.insert(1, "one for each row")
        if self.code_range != CodeRange.FULL:
            parts.append("codes -127..127" if self.code_bits == 8 else "codes -7..7")
        if self.rounding == Rounding.GGML:
            parts.append("ggml rounding")
        if self.rounding == Rounding.MLX:
            parts.append("MLX rounding")
        if self.rounding == Rounding.NEAREST_LOG:
            parts.append("nearest in logarithm")
        return ", ".join(parts)
