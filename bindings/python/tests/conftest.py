"""What several test files share."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import pytest
from hypothesis import settings

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE / "golden"))

import int4q  # noqa: E402
import reference  # noqa: E402  (found in this folder)

settings.register_profile("int4q", deadline=None, max_examples=60)
settings.load_profile("int4q")

# Values like those of NF4 (QLoRA): no order is asked of a codebook, so two of them are swapped.
CODEBOOK = [-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0.0, 0.16, 0.08, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0]


def all_schemes(group_size: int = 32, scale_type: int4q.Type = int4q.Type.F16) -> dict[str, int4q.Scheme]:
    """Every convention, by a short name."""
    schemes = {}
    for rule in int4q.ScaleRule:
        if rule in (int4q.ScaleRule.ONE, int4q.ScaleRule.GIVEN):
            continue  # codebooks alone: test_codebooks.py; the caller's: test_widths.py
        for code_range in int4q.CodeRange:
            is_amax = rule in (int4q.ScaleRule.AMAX_7, int4q.ScaleRule.AMAX_7_5, int4q.ScaleRule.POWER_OF_TWO)
            if code_range == int4q.CodeRange.RESTRICTED and not is_amax:
                continue
            schemes[f"symmetric-{rule.name}-{code_range.name}".lower()] = int4q.Scheme.symmetric(
                group_size, scale_type=scale_type, scale_rule=rule, code_range=code_range
            )
    schemes["asymmetric"] = int4q.Scheme.asymmetric(group_size, scale_type=scale_type)
    schemes["offset"] = int4q.Scheme.offset(group_size, scale_type=scale_type)
    schemes["codebook"] = int4q.Scheme.codebook(CODEBOOK, group_size, scale_type=scale_type)
    for name, kind, rule in (
        ("ggml-symmetric", int4q.Kind.SYMMETRIC, int4q.ScaleRule.SIGNED_MAX_8),
        ("ggml-offset", int4q.Kind.OFFSET, int4q.ScaleRule.DEFAULT),
    ):
        schemes[name] = int4q.Scheme(kind, group_size, scale_type, rule, rounding=int4q.Rounding.GGML)
    schemes["mlx"] = int4q.Scheme.mlx(group_size, scale_type=scale_type)
    return schemes


def four_kinds(group_size: int = 32, scale_type: int4q.Type = int4q.Type.F16) -> dict[str, int4q.Scheme]:
    every = all_schemes(group_size, scale_type)
    return {name: every[name] for name in ("symmetric-default-full", "asymmetric", "offset", "codebook")}


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(20240917)


def as_float32(array: np.ndarray) -> np.ndarray:
    """Float values of an array that may hold bfloat16, under its own dtype or as bits."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def exact_weights(tensor: int4q.QuantizedTensor) -> np.ndarray:
    """float64[n][k] that the tensor stands for, without the rounding of dequantize()."""
    scales = as_float32(tensor.scales)
    zeros = tensor.zero_points if tensor.zero_points is not None else np.zeros_like(scales)
    offsets = as_float32(tensor.offsets) if tensor.offsets is not None else np.zeros_like(scales)
    return reference.dequantize(tensor.code_matrix(), scales, zeros, offsets, tensor.scheme)


def in_type(values: np.ndarray, element_type: int4q.Type) -> np.ndarray:
    """float32 values in another type; bfloat16 as uint16 bits."""
    if element_type == int4q.Type.F32:
        return values
    return values.astype(np.float16) if element_type == int4q.Type.F16 else reference.bfloat16_bits(values)


def available_isas() -> list[int4q.Isa]:
    """The instruction sets that plans can have here, from the least: a processor may lack one below its best."""
    found = set()
    for isa in int4q.Isa:
        with int4q.set_isa_limit(isa):
            found.add(int4q.isa_active())
    return sorted(found)
