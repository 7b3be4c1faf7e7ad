"""Finds and loads the native library, and declares its structs and functions."""

from __future__ import annotations

import ctypes
import os
import pathlib
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

from ._errors import ERROR_CLASSES, Int4QError, LibraryNotFoundError

ABI_VERSION = 0
ALIGNMENT = 64
BLOCK_ROWS = 16
LIBRARY_VARIABLE = "INT4Q_LIBRARY"
BUNDLED_NAME = "libint4q.so"
SYSTEM_NAME = f"libint4q.so.{ABI_VERSION}"

# ---- Structs, in the header's order --------------------------------------------------------------------------------


class _SizedStructure(Structure):
    """A struct that starts with its own size, which is filled in here."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


class ErrorStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("status", c_int32),
        ("function", c_char_p),
        ("argument", c_char_p),
        ("value", c_char_p),
        ("expected", c_char_p),
        ("message", c_char_p),
    ]


class SchemeStruct(Structure):
    _fields_ = [
        ("kind", c_int32),
        ("group_size", c_int32),
        ("scale_type", c_int32),
        ("scale_rule", c_int32),
        ("code_range", c_int32),
        ("rounding", c_int32),
        ("codebook_scope", c_int32),
        ("code_bits", c_int32),
        ("reserved", c_int32 * 4),
    ]


class TensorLayoutStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("groups_per_row", c_int64),
        ("codes_row_bytes", c_uint64),
        ("codes_bytes", c_uint64),
        ("scales_bytes", c_uint64),
        ("zero_points_bytes", c_uint64),
        ("offsets_bytes", c_uint64),
    ]


class TensorStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("scheme", SchemeStruct),
        ("n", c_int64),
        ("k", c_int64),
        ("codes", c_void_p),
        ("codes_bytes", c_uint64),
        ("scales", c_void_p),
        ("scales_bytes", c_uint64),
        ("zero_points", c_void_p),
        ("zero_points_bytes", c_uint64),
        ("offsets", c_void_p),
        ("offsets_bytes", c_uint64),
        ("codebook", c_void_p),
    ]


class BlobInfoStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("format_version", c_uint32),
        ("scheme", SchemeStruct),
        ("n", c_int64),
        ("k", c_int64),
        ("total_bytes", c_uint64),
        ("block_count", c_uint64),
        ("block_bytes", c_uint64),
        ("header_checksum", c_uint64),
        ("codebook", c_float * 16),
        ("part_flags", c_uint32),
        ("part_rank", c_uint32),
        ("parts_bytes", c_uint64),
    ]


class PartsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("permutation", c_void_p),
        ("rotation_order", c_int64),
        ("rotation_seed", c_uint64),
        ("sparse_count", c_int64),
        ("sparse_row_offsets", c_void_p),
        ("sparse_columns", c_void_p),
        ("sparse_values", c_void_p),
        ("rank", c_int64),
        ("low_rank_type", c_int32),
        ("low_rank_form", c_int32),
        ("low_rank_a", c_void_p),
        ("low_rank_b", c_void_p),
    ]


class MatmulDescStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("mode", c_int32),
        ("m", c_int64),
        ("n", c_int64),
        ("k", c_int64),
        ("scheme", SchemeStruct),
        ("x_type", c_int32),
        ("y_type", c_int32),
        ("worker_count", c_uint32),
        ("flags", c_uint32),
        ("activation", c_int32),
        ("bias_type", c_int32),
        ("residual_type", c_int32),
        ("expert_count", c_uint32),
        ("part_flags", c_uint32),
        ("part_rank", c_uint32),
    ]


class MatmulPlanStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("isa", c_int32),
        ("scratch_bytes", c_uint64),
        ("prepare_count", c_int64),
        ("tile_count", c_int64),
        ("worker_count", c_uint32),
        ("reserved", c_uint32),
        ("opaque", c_int64 * 40),
    ]


class ExpertStruct(Structure):
    _fields_ = [
        ("blob", c_void_p),
        ("blob_bytes", c_uint64),
        ("up_blob", c_void_p),
        ("up_blob_bytes", c_uint64),
    ]


class MatmulArgsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("x", c_void_p),
        ("ldx", c_int64),
        ("blob", c_void_p),
        ("blob_bytes", c_uint64),
        ("y", c_void_p),
        ("ldy", c_int64),
        ("scratch", c_void_p),
        ("scratch_bytes", c_uint64),
        ("up_blob", c_void_p),
        ("up_blob_bytes", c_uint64),
        ("bias", c_void_p),
        ("up_bias", c_void_p),
        ("residual", c_void_p),
        ("ldr", c_int64),
        ("x_scales", c_void_p),
        ("experts", POINTER(ExpertStruct)),
        ("row_experts", c_void_p),
    ]


class MetricsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("mse", c_double),
        ("sqnr_db", c_double),
        ("cosine", c_double),
        ("max_abs_error", c_double),
        ("max_error_row", c_int64),
        ("max_error_column", c_int64),
    ]


class BlockOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("search", c_int32),
        ("importance", c_void_p),
        ("global_scale", c_float),
        ("reserved", c_uint32),
    ]


class DoubleScalesStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("rule", c_int32),
        ("count", c_int64),
        ("block_size", c_int64),
        ("codes", c_void_p),
        ("codes_bytes", c_uint64),
        ("nested_scales", c_void_p),
        ("nested_scales_bytes", c_uint64),
        ("offset", c_float),
        ("reserved", c_uint32),
    ]


class OutlierFitStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("mean", c_double),
        ("sigma", c_double),
        ("limit", c_double),
        ("lowest", c_float),
        ("highest", c_float),
    ]


class SparseStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("n", c_int64),
        ("k", c_int64),
        ("capacity", c_int64),
        ("row_offsets", c_void_p),
        ("columns", c_void_p),
        ("values", c_void_p),
    ]


class TwinRangesStruct(Structure):
    _fields_ = [
        ("kind", c_int32),
        ("choice", c_int32),
        ("first", c_float),
        ("second", c_float),
    ]


class TwinTensorStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("group_size", c_int32),
        ("scale_type", c_int32),
        ("reserved", c_uint32),
        ("n", c_int64),
        ("k", c_int64),
        ("codes", c_void_p),
        ("codes_bytes", c_uint64),
        ("scales_negative", c_void_p),
        ("scales_negative_bytes", c_uint64),
        ("scales_positive", c_void_p),
        ("scales_positive_bytes", c_uint64),
    ]


class ObserverDescStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("observed", c_uint32),
        ("axis", c_int32),
        ("group_size", c_int32),
        ("extent", c_int64),
        ("bins", c_int64),
        ("momentum", c_float),
        ("reserved", c_uint32),
    ]


class ObserverInfoStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("desc", ObserverDescStruct),
        ("total_bytes", c_uint64),
        ("slots", c_int64),
        ("batches", c_int64),
        ("not_finite", c_int64),
    ]


class StatisticsStruct(Structure):
    _fields_ = [
        ("count", c_int64),
        ("sum", c_double),
        ("sum_magnitudes", c_double),
        ("sum_squares", c_double),
        ("bin_width", c_double),
        ("low", c_float),
        ("high", c_float),
        ("average_low", c_float),
        ("average_high", c_float),
    ]


class HistogramStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("counts", c_void_p),
        ("bins", c_int64),
        ("lowest", c_double),
        ("width", c_double),
        ("low", c_float),
        ("high", c_float),
    ]


class RangeStruct(Structure):
    _fields_ = [
        ("low", c_float),
        ("high", c_float),
        ("low_edge", c_int64),
        ("high_edge", c_int64),
        ("score", c_double),
    ]


class RangeSearchStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("lowest_code", c_int32),
        ("highest_code", c_int32),
        ("divisor", c_double),
        ("norm", c_double),
        ("steps", c_int32),
        ("tried", c_int32),
    ]


class ElementStruct(Structure):
    _fields_ = [
        ("row", c_int64),
        ("column", c_int64),
        ("value", c_float),
        ("reserved", c_uint32),
    ]


class CodeReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("code_counts", c_int64 * 16),
        ("groups", c_int64),
        ("groups_of_one_code", c_int64),
        ("groups_at_floor", c_int64),
        ("rows_of_one_code", c_int64),
        ("most_used_code", c_int64),
        ("most_used_share", c_double),
        ("end_share", c_double),
    ]


class ClusteringStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("clusters", c_int64),
        ("max_iterations", c_int64),
        ("seed", c_uint64),
        ("initial", c_void_p),
    ]


class RepresentativesStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("converged", c_int32),
        ("selected", c_int64),
        ("iterations", c_int64),
        ("inertia", c_double),
    ]


class RequantizationStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("codes_type", c_int32),
        ("n", c_int64),
        ("multiplier_count", c_int64),
        ("multipliers", c_void_p),
        ("shifts", c_void_p),
        ("bias", c_void_p),
        ("zero_point", c_int32),
        ("low", c_int32),
        ("high", c_int32),
        ("reserved", c_uint32),
    ]


class GramInfoStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("total_bytes", c_uint64),
        ("k", c_int64),
        ("rows", c_int64),
        ("batches", c_int64),
    ]


class ChannelStruct(Structure):
    _fields_ = [
        ("sum", c_double),
        ("sum_magnitudes", c_double),
        ("sum_squares", c_double),
        ("max_magnitude", c_float),
        ("reserved", c_uint32),
    ]


Progress = CFUNCTYPE(c_int32, c_void_p, c_int64, c_int64)


class GptqOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("order", c_int32),
        ("worker_count", c_uint32),
        ("damping", c_double),
        ("damping_step", c_double),
        ("attempts", c_int64),
        ("progress", Progress),
        ("progress_context", c_void_p),
        ("cross", c_void_p),
        ("cross_bytes", c_uint64),
        ("alpha", c_double),
    ]


class GptqReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("damping", c_double),
        ("retries", c_int64),
        ("rows", c_int64),
        ("dead_channels", c_int64),
        ("nearest_rows", c_int64),
        ("loss", c_double),
        ("nearest_loss", c_double),
    ]


class AwqOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("worker_count", c_uint32),
        ("steps", c_int32),
        ("reserved", c_uint32),
        ("progress", Progress),
        ("progress_context", c_void_p),
    ]


class AwqReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("step", c_int32),
        ("loss", c_double),
        ("plain_loss", c_double),
    ]


class DescentOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("sweeps", c_int64),
    ]


class DescentReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("sweeps", c_int64),
        ("changed_codes", c_int64),
        ("changed_scales", c_int64),
        ("loss", c_double),
        ("start_loss", c_double),
    ]


class LearningOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("worker_count", c_uint32),
        ("method", c_int32),
        ("reserved", c_uint32),
        ("iterations", c_int64),
        ("step", c_double),
        ("range_step", c_double),
        ("least_range", c_double),
        ("most_range", c_double),
        ("regularization", c_double),
        ("warm_up", c_double),
        ("first_exponent", c_double),
        ("last_exponent", c_double),
        ("progress", Progress),
        ("progress_context", c_void_p),
    ]


class LearningReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("improved_rows", c_int64),
        ("changed_codes", c_int64),
        ("changed_scales", c_int64),
        ("best_iteration", c_int64),
        ("loss", c_double),
        ("start_loss", c_double),
    ]


class HqqOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("iterations", c_int32),
        ("p", c_double),
        ("beta", c_double),
    ]


class LowRankStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("type", c_int32),
        ("n", c_int64),
        ("k", c_int64),
        ("rank", c_int64),
        ("a", c_void_p),
        ("a_stride", c_int64),
        ("b", c_void_p),
        ("b_stride", c_int64),
    ]


class LowRankOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("worker_count", c_uint32),
        ("iterations", c_int32),
        ("seed", c_uint64),
    ]


class LowRankReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("start_loss", c_double),
        ("loss", c_double),
        ("reduction", c_double),
    ]


class CandidateStruct(Structure):
    _fields_ = [
        ("scheme", SchemeStruct),
        ("codebook", c_void_p),
        ("named", c_int32),
        ("reserved", c_int32),
    ]


class SearchOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("worker_count", c_uint32),
        ("progress", Progress),
        ("progress_context", c_void_p),
    ]


class AllocationStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("loss", c_double),
        ("bound", c_double),
        ("bytes", c_uint64),
        ("states", c_int64),
    ]


class BestOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("worker_count", c_uint32),
        ("methods", c_uint32),
        ("finalists", c_int32),
        ("sweeps", c_int64),
        ("most_bits", c_double),
        ("most_bytes", c_uint64),
        ("seconds", c_double),
        ("progress", Progress),
        ("progress_context", c_void_p),
    ]


class TrialStruct(Structure):
    _fields_ = [
        ("candidate", c_int32),
        ("method", c_int32),
        ("is_scaled", c_int32),
        ("reserved", c_int32),
        ("loss", c_double),
        ("bytes", c_uint64),
        ("seconds", c_double),
    ]


class BestReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("candidate", c_int32),
        ("is_scaled", c_int32),
        ("is_cut_short", c_int32),
        ("trials", c_int64),
        ("bytes", c_uint64),
        ("loss", c_double),
        ("nearest_loss", c_double),
    ]


class ScaleSearchStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("rounds", c_int64),
        ("reach", c_double),
        ("seed", c_uint64),
    ]


class ScaleSearchReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("accepted", c_int64),
        ("loss", c_double),
        ("start_loss", c_double),
    ]


class ChannelPartStruct(Structure):
    _fields_ = [
        ("target", c_int32),
        ("source", c_int32),
        ("x_factor", c_float),
        ("reserved", c_uint32),
    ]


class ReassemblyStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("k", c_int64),
        ("new_k", c_int64),
        ("part_count", c_int64),
        ("parts", c_void_p),
    ]


class ReassemblyOptionsStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("threshold", c_double),
        ("most_copies", c_int64),
        ("steps", c_int32),
        ("bits", c_int32),
        ("group_size", c_int64),
    ]


class ReassemblyReportStruct(_SizedStructure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("new_k", c_int64),
        ("part_count", c_int64),
        ("split_channels", c_int64),
        ("copies", c_int64),
        ("threshold", c_double),
        ("merge_loss", c_double),
        ("rounding_loss", c_double),
    ]


Task = CFUNCTYPE(None, c_void_p, c_int64, c_uint32)
ParallelFor = CFUNCTYPE(None, c_void_p, c_int64, c_uint32, Task, c_void_p)

# ---- Functions -----------------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "int4q_version": (c_int32, []),
    "int4q_abi_version": (c_int32, []),
    "int4q_status_string": (c_char_p, [c_int32]),
    "int4q_last_error": (c_int32, [POINTER(ErrorStruct)]),
    "int4q_isa_detected": (c_int32, [POINTER(c_int32)]),
    "int4q_isa_active": (c_int32, [POINTER(c_int32)]),
    "int4q_isa_set_limit": (c_int32, [c_int32]),
    "int4q_isa_name": (c_char_p, [c_int32]),
    "int4q_tensor_sizes": (c_int32, [POINTER(SchemeStruct), c_int64, c_int64, POINTER(TensorLayoutStruct)]),
    "int4q_quantize_rows": (c_int32, [POINTER(TensorStruct), c_void_p, c_int32, c_int64, c_int64, c_int64]),
    "int4q_dequantize_rows": (c_int32, [POINTER(TensorStruct), c_void_p, c_int32, c_int64, c_int64, c_int64]),
    "int4q_blob_size": (c_int32, [POINTER(SchemeStruct), c_int64, c_int64, POINTER(c_uint64)]),
    "int4q_pack_rows": (c_int32, [POINTER(TensorStruct), c_void_p, c_uint64, c_int64, c_int64]),
    "int4q_quantize_pack_rows": (
        c_int32,
        [
            POINTER(SchemeStruct),
            c_int64,
            c_int64,
            POINTER(c_float),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_blob_validate": (c_int32, [c_void_p, c_uint64, c_int32]),
    "int4q_blob_get_info": (c_int32, [c_void_p, c_uint64, POINTER(BlobInfoStruct)]),
    "int4q_unpack_rows": (c_int32, [c_void_p, c_uint64, POINTER(TensorStruct), c_int64, c_int64]),
    "int4q_blob_codebooks": (c_int32, [c_void_p, c_uint64, POINTER(c_float), c_int64, c_int64]),
    "int4q_gather_rows": (
        c_int32,
        [c_void_p, c_uint64, POINTER(c_int64), c_int64, c_void_p, c_int32, c_int64],
    ),
    "int4q_blob_parts_size": (c_int32, [c_int64, c_int64, POINTER(PartsStruct), POINTER(c_uint64)]),
    "int4q_blob_attach": (c_int32, [c_void_p, c_uint64, POINTER(PartsStruct)]),
    "int4q_blob_get_parts": (c_int32, [c_void_p, c_uint64, POINTER(PartsStruct)]),
    "int4q_gather_effective_rows": (
        c_int32,
        [c_void_p, c_uint64, POINTER(c_int64), c_int64, c_void_p, c_int32, c_int64, c_void_p, c_uint64],
    ),
    "int4q_matmul_plan_init": (c_int32, [POINTER(MatmulDescStruct), POINTER(MatmulPlanStruct)]),
    "int4q_matmul_prepare": (
        c_int32,
        [POINTER(MatmulPlanStruct), POINTER(MatmulArgsStruct), c_int64, c_int64],
    ),
    "int4q_matmul_tiles": (
        c_int32,
        [POINTER(MatmulPlanStruct), POINTER(MatmulArgsStruct), c_uint32, c_int64, c_int64],
    ),
    "int4q_matmul": (c_int32, [POINTER(MatmulPlanStruct), POINTER(MatmulArgsStruct), ParallelFor, c_void_p]),
    "int4q_error_bound": (
        c_int32,
        [POINTER(MatmulPlanStruct), POINTER(MatmulArgsStruct), c_int32, POINTER(c_double), c_int64],
    ),
    "int4q_describe_dispatch": (
        c_int32,
        [POINTER(MatmulDescStruct), c_void_p, c_uint64, POINTER(c_uint64)],
    ),
    "int4q_pool_create": (c_int32, [c_uint32, POINTER(c_void_p)]),
    "int4q_pool_destroy": (c_int32, [c_void_p]),
    "int4q_pool_parallel_for": (None, [c_void_p, c_int64, c_uint32, Task, c_void_p]),
    "int4q_compare": (
        c_int32,
        [
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            POINTER(MetricsStruct),
        ],
    ),
    "int4q_blocks_size": (c_int32, [c_int32, c_int64, c_int64, POINTER(c_uint64)]),
    "int4q_quantize_blocks": (
        c_int32,
        [
            c_int32,
            POINTER(BlockOptionsStruct),
            c_int64,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_dequantize_blocks": (
        c_int32,
        [c_int32, c_float, c_int64, c_int64, c_void_p, c_uint64, c_void_p, c_int32, c_int64, c_int64, c_int64],
    ),
    "int4q_format_scheme": (c_int32, [c_int32, POINTER(SchemeStruct), c_void_p]),
    "int4q_blocks_to_tensor": (
        c_int32,
        [c_int32, c_float, c_void_p, c_uint64, POINTER(TensorStruct), c_int64, c_int64],
    ),
    "int4q_tensor_to_blocks": (
        c_int32,
        [c_int32, POINTER(TensorStruct), c_void_p, c_uint64, c_int64, c_int64],
    ),
    "int4q_dynamic_map": (c_int32, [c_void_p]),
    "int4q_double_sizes": (c_int32, [c_int64, c_int64, POINTER(c_uint64), POINTER(c_uint64)]),
    "int4q_double_offset": (c_int32, [c_void_p, c_int32, c_int64, POINTER(c_float)]),
    "int4q_double_quantize_scales": (c_int32, [POINTER(DoubleScalesStruct), c_void_p, c_int32, c_int64, c_int64]),
    "int4q_double_dequantize_scales": (c_int32, [POINTER(DoubleScalesStruct), c_void_p, c_int32, c_int64, c_int64]),
    "int4q_outliers_moments": (
        c_int32,
        [c_void_p, c_int32, c_int64, c_int64, c_int64, c_void_p, c_int64, c_int64],
    ),
    "int4q_outliers_fit": (c_int32, [c_void_p, c_int64, c_int64, c_double, POINTER(OutlierFitStruct)]),
    "int4q_outliers_count": (
        c_int32,
        [
            POINTER(OutlierFitStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_sparse_offsets": (c_int32, [c_void_p, c_int64, c_void_p, POINTER(c_int64)]),
    "int4q_outliers_split": (
        c_int32,
        [
            POINTER(OutlierFitStruct),
            c_void_p,
            c_int32,
            c_int64,
            POINTER(SparseStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_outliers_correct": (
        c_int32,
        [POINTER(TensorStruct), c_void_p, c_int32, c_int64, POINTER(SparseStruct), c_int64, c_int64],
    ),
    "int4q_sparse_add": (
        c_int32,
        [
            POINTER(SparseStruct),
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_gobo_scratch_size": (c_int32, [c_int64, c_int64, POINTER(c_uint64)]),
    "int4q_gobo_centroids": (
        c_int32,
        [
            POINTER(OutlierFitStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_uint64,
            c_void_p,
            POINTER(c_int64),
            POINTER(c_double),
        ],
    ),
    "int4q_twin_candidates": (
        c_int32,
        [c_int32, c_int32, c_int32, c_float, POINTER(TwinRangesStruct), POINTER(c_int64)],
    ),
    "int4q_twin_errors": (
        c_int32,
        [
            POINTER(TwinRangesStruct),
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_twin_quantize": (
        c_int32,
        [
            POINTER(TwinRangesStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_uint64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_twin_dequantize": (
        c_int32,
        [
            POINTER(TwinRangesStruct),
            c_void_p,
            c_uint64,
            c_int64,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_twin_quantize_rows": (c_int32, [POINTER(TwinTensorStruct), c_void_p, c_int32, c_int64, c_int64, c_int64]),
    "int4q_twin_dequantize_rows": (
        c_int32,
        [POINTER(TwinTensorStruct), c_void_p, c_int32, c_int64, c_int64, c_int64],
    ),
    "int4q_twin_to_tensors": (c_int32, [POINTER(TwinTensorStruct), POINTER(TensorStruct), POINTER(TensorStruct)]),
    "int4q_observer_size": (c_int32, [POINTER(ObserverDescStruct), POINTER(c_uint64)]),
    "int4q_observer_init": (c_int32, [POINTER(ObserverDescStruct), c_void_p, c_uint64]),
    "int4q_observer_push": (c_int32, [c_void_p, c_uint64, c_void_p, c_int32, c_int64, c_int64, c_int64]),
    "int4q_observer_merge": (c_int32, [c_void_p, c_uint64, c_void_p, c_uint64]),
    "int4q_observer_validate": (c_int32, [c_void_p, c_uint64]),
    "int4q_observer_get_info": (c_int32, [c_void_p, c_uint64, POINTER(ObserverInfoStruct)]),
    "int4q_observer_statistics": (c_int32, [c_void_p, c_uint64, c_int64, c_int64, c_void_p]),
    "int4q_observer_histogram": (
        c_int32,
        [c_void_p, c_uint64, c_int64, c_int32, c_void_p, c_int64, POINTER(HistogramStruct)],
    ),
    "int4q_range_percentile": (c_int32, [POINTER(HistogramStruct), c_int32, c_double, POINTER(RangeStruct)]),
    "int4q_range_entropy_scratch": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_range_entropy": (c_int32, [POINTER(HistogramStruct), c_int64, c_void_p, c_uint64, POINTER(RangeStruct)]),
    "int4q_range_of_least_error": (
        c_int32,
        [POINTER(HistogramStruct), POINTER(RangeSearchStruct), POINTER(RangeStruct)],
    ),
    "int4q_aciq_clip": (c_int32, [c_int32, c_int32, c_double, POINTER(c_double), POINTER(c_double)]),
    "int4q_aciq_share_bits": (c_int32, [c_void_p, c_int64, c_int32, c_int32, c_int64, c_void_p]),
    "int4q_outliers_fit_z": (c_int32, [c_void_p, c_int64, c_int64, c_double, POINTER(OutlierFitStruct)]),
    "int4q_find_largest": (
        c_int32,
        [c_void_p, c_int32, c_int64, c_int64, c_int64, c_void_p, c_int64, POINTER(c_int64)],
    ),
    "int4q_diagnose_codes": (c_int32, [POINTER(TensorStruct), c_float, c_int64, c_int64, POINTER(CodeReportStruct)]),
    "int4q_diagnose_errors": (
        c_int32,
        [POINTER(TensorStruct), c_void_p, c_int32, c_int64, c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64],
    ),
    "int4q_bias_measure": (
        c_int32,
        [POINTER(TensorStruct), c_void_p, c_int32, c_int64, c_void_p, c_void_p, c_int64, c_int64],
    ),
    "int4q_bias_apply": (c_int32, [POINTER(TensorStruct), c_void_p, c_void_p, c_int64, c_int64]),
    "int4q_bias_output": (
        c_int32,
        [POINTER(TensorStruct), c_void_p, c_int32, c_int64, c_void_p, c_void_p, c_int64, c_int64],
    ),
    "int4q_select_random": (c_int32, [c_int64, c_int64, c_uint64, c_void_p]),
    "int4q_select_representatives_scratch": (c_int32, [c_int64, c_int64, c_int64, POINTER(c_uint64)]),
    "int4q_select_representatives": (
        c_int32,
        [
            POINTER(ClusteringStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_uint64,
            c_void_p,
            c_void_p,
            c_void_p,
            POINTER(RepresentativesStruct),
        ],
    ),
    "int4q_requantize_multiplier": (c_int32, [c_void_p, c_int64, c_void_p, c_void_p]),
    "int4q_requantize_rows": (
        c_int32,
        [POINTER(RequantizationStruct), c_void_p, c_int64, c_int64, c_void_p, c_uint64, c_int64, c_int64],
    ),
    "int4q_codebook_get": (c_int32, [c_int32, POINTER(c_float)]),
    "int4q_codebook_linear_bins": (c_int32, [c_float, c_float, c_int32, POINTER(c_float)]),
    "int4q_codebook_fit_scratch": (c_int32, [POINTER(c_uint64)]),
    "int4q_codebook_fit": (
        c_int32,
        [
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(c_float),
            POINTER(c_double),
        ],
    ),
    "int4q_nibbles_pack": (
        c_int32,
        [c_void_p, c_int64, c_int32, c_int32, c_uint32, c_void_p, c_uint64],
    ),
    "int4q_nibbles_unpack": (
        c_int32,
        [c_void_p, c_uint64, c_int64, c_int32, c_int32, c_uint32, c_void_p],
    ),
    "int4q_quantize_int4_values": (
        c_int32,
        [c_void_p, c_int64, c_int32, c_uint32, c_void_p, POINTER(c_float), POINTER(c_int32)],
    ),
    "int4q_dequantize_int4_values": (c_int32, [c_void_p, c_int64, c_float, c_int32, c_void_p]),
    "int4q_gram_size": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_gram_init": (c_int32, [c_int64, c_void_p, c_uint64]),
    "int4q_gram_push_scratch": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_gram_push": (
        c_int32,
        [
            c_void_p,
            c_uint64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_uint64,
            c_uint32,
            ParallelFor,
            c_void_p,
        ],
    ),
    "int4q_gram_push_weighted": (
        c_int32,
        [
            c_void_p,
            c_uint64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_void_p,
            c_uint64,
            c_uint32,
            ParallelFor,
            c_void_p,
        ],
    ),
    "int4q_gram_set": (c_int32, [c_void_p, c_uint64, c_void_p, c_int64, c_int64]),
    "int4q_gram_scale": (c_int32, [c_void_p, c_uint64, c_double, c_double]),
    "int4q_gram_merge": (c_int32, [c_void_p, c_uint64, c_void_p, c_uint64]),
    "int4q_gram_validate": (c_int32, [c_void_p, c_uint64]),
    "int4q_gram_get_info": (c_int32, [c_void_p, c_uint64, POINTER(GramInfoStruct)]),
    "int4q_gram_channels": (c_int32, [c_void_p, c_uint64, c_int64, c_int64, c_void_p]),
    "int4q_gram_matrix": (c_int32, [c_void_p, c_uint64, c_void_p, c_int64, c_int64, c_int64]),
    "int4q_gram_loss_scratch": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_gram_loss": (
        c_int32,
        [
            POINTER(TensorStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            c_void_p,
            c_uint64,
            c_void_p,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_cross_size": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_cross_init": (c_int32, [c_int64, c_void_p, c_uint64]),
    "int4q_cross_push_scratch": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_cross_push": (
        c_int32,
        [
            c_void_p,
            c_uint64,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_uint64,
            c_uint32,
            ParallelFor,
            c_void_p,
        ],
    ),
    "int4q_cross_set": (c_int32, [c_void_p, c_uint64, c_void_p, c_int64, c_int64]),
    "int4q_cross_merge": (c_int32, [c_void_p, c_uint64, c_void_p, c_uint64]),
    "int4q_cross_validate": (c_int32, [c_void_p, c_uint64]),
    "int4q_cross_get_info": (c_int32, [c_void_p, c_uint64, POINTER(GramInfoStruct)]),
    "int4q_cross_matrix": (c_int32, [c_void_p, c_uint64, c_void_p, c_int64, c_int64, c_int64]),
    "int4q_cross_loss_scratch": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_cross_loss": (
        c_int32,
        [
            POINTER(TensorStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            c_void_p,
            c_uint64,
            c_void_p,
            c_uint64,
            c_void_p,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_cross_shift_scratch": (c_int32, [c_int64, c_uint32, POINTER(c_uint64)]),
    "int4q_cross_shift": (
        c_int32,
        [
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(GptqOptionsStruct),
            c_void_p,
            c_uint64,
            ParallelFor,
            c_void_p,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            POINTER(c_double),
        ],
    ),
    "int4q_gptq_scratch": (c_int32, [POINTER(SchemeStruct), c_int64, c_uint32, POINTER(c_uint64)]),
    "int4q_gptq_cross_scratch": (c_int32, [POINTER(SchemeStruct), c_int64, c_uint32, POINTER(c_uint64)]),
    "int4q_gptq_quantize": (
        c_int32,
        [
            POINTER(TensorStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(GptqOptionsStruct),
            c_void_p,
            c_uint64,
            ParallelFor,
            c_void_p,
            POINTER(GptqReportStruct),
        ],
    ),
    "int4q_column_maxima": (c_int32, [c_void_p, c_int32, c_int64, c_int64, c_int64, c_void_p]),
    "int4q_smooth_factors": (c_int32, [c_void_p, c_void_p, c_int64, c_double, c_void_p]),
    "int4q_scale_columns": (
        c_int32,
        [
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_int32,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_awq_scratch": (c_int32, [POINTER(SchemeStruct), c_int64, c_int64, c_uint32, POINTER(c_uint64)]),
    "int4q_awq_search": (
        c_int32,
        [
            POINTER(SchemeStruct),
            c_void_p,
            c_int64,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(AwqOptionsStruct),
            c_void_p,
            c_uint64,
            ParallelFor,
            c_void_p,
            c_void_p,
            POINTER(AwqReportStruct),
        ],
    ),
    "int4q_awq_clip_scratch": (c_int32, [POINTER(SchemeStruct), c_int64, POINTER(c_uint64)]),
    "int4q_awq_clip": (
        c_int32,
        [
            POINTER(SchemeStruct),
            c_void_p,
            c_int64,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            c_int32,
            c_int32,
            c_void_p,
            c_uint64,
            c_void_p,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_gram_descend_scratch": (c_int32, [POINTER(SchemeStruct), c_int64, POINTER(c_uint64)]),
    "int4q_gram_descend": (
        c_int32,
        [
            POINTER(TensorStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(DescentOptionsStruct),
            c_void_p,
            c_uint64,
            c_int64,
            c_int64,
            POINTER(DescentReportStruct),
        ],
    ),
    "int4q_hqq_quantize": (
        c_int32,
        [
            POINTER(TensorStruct),
            c_void_p,
            c_int32,
            c_int64,
            POINTER(HqqOptionsStruct),
            c_int64,
            c_int64,
        ],
    ),
    "int4q_hadamard_order": (c_int32, [c_int64, POINTER(c_int64)]),
    "int4q_hadamard_scratch": (c_int32, [c_int64, c_int32, c_int32, POINTER(c_uint64)]),
    "int4q_hadamard_transform": (
        c_int32,
        [
            c_int64,
            c_uint64,
            c_int32,
            c_int32,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_uint64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_gram_rotate_scratch": (c_int32, [c_int64, c_uint32, POINTER(c_uint64)]),
    "int4q_gram_rotate": (
        c_int32,
        [
            c_int64,
            c_uint64,
            c_int32,
            c_void_p,
            c_uint64,
            c_void_p,
            c_uint64,
            c_void_p,
            c_uint64,
            c_uint32,
            ParallelFor,
            c_void_p,
        ],
    ),
    "int4q_lowrank_scratch": (c_int32, [c_int64, c_int64, c_int64, c_uint32, POINTER(c_uint64)]),
    "int4q_lowrank_fit": (
        c_int32,
        [
            POINTER(TensorStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(LowRankOptionsStruct),
            POINTER(LowRankStruct),
            c_void_p,
            c_uint64,
            ParallelFor,
            c_void_p,
            POINTER(LowRankReportStruct),
        ],
    ),
    "int4q_lowrank_add": (
        c_int32,
        [
            POINTER(LowRankStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_lowrank_subtract": (
        c_int32,
        [
            POINTER(LowRankStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_learn_rounding_scratch": (c_int32, [POINTER(SchemeStruct), c_int64, c_uint32, POINTER(c_uint64)]),
    "int4q_learn_rounding": (
        c_int32,
        [
            POINTER(TensorStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(LearningOptionsStruct),
            c_void_p,
            c_uint64,
            ParallelFor,
            c_void_p,
            POINTER(LearningReportStruct),
        ],
    ),
    "int4q_usual_candidates": (c_int32, [POINTER(CandidateStruct), c_int64, POINTER(c_int64)]),
    "int4q_sensitivity_scratch": (
        c_int32,
        [
            POINTER(CandidateStruct),
            c_int64,
            c_int64,
            c_int64,
            c_uint32,
            POINTER(c_uint64),
        ],
    ),
    "int4q_sensitivity": (
        c_int32,
        [
            POINTER(CandidateStruct),
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(SearchOptionsStruct),
            c_void_p,
            c_uint64,
            ParallelFor,
            c_void_p,
            c_void_p,
            c_void_p,
        ],
    ),
    "int4q_gram_eigenvalues_scratch": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_gram_eigenvalues": (
        c_int32,
        [
            c_void_p,
            c_uint64,
            POINTER(SearchOptionsStruct),
            c_void_p,
            c_uint64,
            ParallelFor,
            c_void_p,
            c_void_p,
            c_void_p,
        ],
    ),
    "int4q_allocate_scratch": (c_int32, [c_int64, c_int64, c_int64, POINTER(c_uint64)]),
    "int4q_allocate": (
        c_int32,
        [
            c_void_p,
            c_void_p,
            c_void_p,
            c_int64,
            c_int64,
            c_uint64,
            c_void_p,
            c_uint64,
            c_void_p,
            POINTER(AllocationStruct),
        ],
    ),
    "int4q_allocate_by_tolerance": (c_int32, [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_double, c_void_p]),
    "int4q_best_memory": (c_int32, [POINTER(CandidateStruct), c_int64, c_int64, c_int64, POINTER(c_uint64)]),
    "int4q_best_scratch": (
        c_int32,
        [
            POINTER(CandidateStruct),
            c_int64,
            c_int64,
            c_int64,
            c_uint32,
            c_int32,
            POINTER(c_uint64),
        ],
    ),
    "int4q_quantize_best": (
        c_int32,
        [
            POINTER(CandidateStruct),
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(BestOptionsStruct),
            c_void_p,
            c_void_p,
            c_uint64,
            c_void_p,
            c_uint64,
            ParallelFor,
            c_void_p,
            POINTER(TensorStruct),
            POINTER(TrialStruct),
            c_int64,
            POINTER(BestReportStruct),
        ],
    ),
    "int4q_clip_search": (
        c_int32,
        [
            POINTER(SchemeStruct),
            c_void_p,
            c_int64,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            c_void_p,
            c_int32,
            c_void_p,
            c_uint64,
            c_void_p,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_gram_search_scales": (
        c_int32,
        [
            POINTER(TensorStruct),
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(ScaleSearchStruct),
            c_void_p,
            c_uint64,
            c_int64,
            c_int64,
            POINTER(ScaleSearchReportStruct),
        ],
    ),
    "int4q_codebook_greedy": (
        c_int32,
        [
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_int64,
            c_void_p,
            c_int64,
            c_int32,
            c_void_p,
            c_uint64,
            POINTER(c_float),
            c_void_p,
        ],
    ),
    "int4q_reassembly_scratch": (c_int32, [c_int64, POINTER(c_uint64)]),
    "int4q_reassembly_plan": (
        c_int32,
        [
            c_void_p,
            c_uint64,
            c_void_p,
            c_uint64,
            POINTER(ReassemblyOptionsStruct),
            c_void_p,
            c_int64,
            c_void_p,
            c_uint64,
            POINTER(ReassemblyReportStruct),
        ],
    ),
    "int4q_reassemble_scratch": (c_int32, [c_int64, c_int64, POINTER(c_uint64)]),
    "int4q_reassemble_rows": (
        c_int32,
        [
            POINTER(ReassemblyStruct),
            c_int32,
            c_void_p,
            c_int32,
            c_int64,
            c_void_p,
            c_int32,
            c_int64,
            c_int64,
            c_void_p,
            c_uint64,
            c_int64,
            c_int64,
        ],
    ),
    "int4q_gram_reassemble": (
        c_int32,
        [POINTER(ReassemblyStruct), c_void_p, c_uint64, c_void_p, c_uint64],
    ),
}
"""Every function of the header: its result and its arguments."""

# ---- Loading -------------------------------------------------------------------------------------------------------


def candidate_paths() -> list[str]:
    """Where the library is looked for, in order. INT4Q_LIBRARY, if set, is the only place."""
    explicit = os.environ.get(LIBRARY_VARIABLE)
    if explicit:
        return [explicit]
    return [str(pathlib.Path(__file__).resolve().parent / BUNDLED_NAME), SYSTEM_NAME]


def _declare(library: ctypes.CDLL) -> None:
    missing = [name for name in FUNCTIONS if not hasattr(library, name)]
    if missing:
        raise OSError(f"it lacks {len(missing)} of {len(FUNCTIONS)} functions: {', '.join(missing)}")
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


def _open(path: str) -> ctypes.CDLL:
    """Loads one library, or raises OSError with the reason."""
    if os.sep in path and not os.path.exists(path):
        raise OSError("no such file")
    library = ctypes.CDLL(path)
    # The number is asked for first: another ABI explains missing functions, not the other way round.
    if hasattr(library, "int4q_abi_version"):
        library.int4q_abi_version.restype = c_int32
        found = library.int4q_abi_version()
        if found != ABI_VERSION:
            raise OSError(f"its ABI version is {found}; this package needs {ABI_VERSION}")
    _declare(library)
    return library


def load_library(paths: list[str] | None = None) -> tuple[ctypes.CDLL, str]:
    """The first of `paths` that loads, and its name. Raises LibraryNotFoundError that names all of them."""
    failures = []
    for path in candidate_paths() if paths is None else paths:
        try:
            return _open(path), path
        except OSError as error:
            failures.append(f"  {path}: {error}")
    raise LibraryNotFoundError(
        "the native library of int4q could not be loaded. Tried:\n"
        + "\n".join(failures)
        + f"\nSet {LIBRARY_VARIABLE} to the path of libint4q.so, or reinstall the package."
    )


library, library_path = load_library()

pool_parallel_for = ParallelFor(("int4q_pool_parallel_for", library))
"""The pool's function as a value that `int4q_matmul` takes."""
no_parallel_for = ParallelFor()
"""A null function pointer: everything on the calling thread."""


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def last_error(status: int, function: str) -> Int4QError:
    """The exception for a call that just returned `status` on this thread."""
    details = ErrorStruct()
    library.int4q_last_error(ctypes.byref(details))
    error_class = ERROR_CLASSES.get(status, Int4QError)
    if details.status != status:
        # It failed without leaving a word: better a bare status than another call's message.
        name = _text(library.int4q_status_string(status))
        return error_class(status, function=function, message=f"{function}: {name}")
    return error_class(
        status,
        function=_text(details.function),
        argument=_text(details.argument),
        value=_text(details.value),
        expected=_text(details.expected),
        message=_text(details.message),
    )


def call(function: str, *arguments: Any) -> None:
    """Calls a function that returns a status, and raises the exception for any but success."""
    status = getattr(library, function)(*arguments)
    if status:
        raise last_error(status, function)
