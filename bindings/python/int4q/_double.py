"""Scales that are quantized themselves, as in QLoRA and bitsandbytes."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _native
from ._arrays import as_type, input_matrix, new_matrix, to_numpy
from ._enums import DoubleRule
from ._rows import for_rows


def dynamic_map() -> np.ndarray:
    """float32[256]: bitsandbytes' signed dynamic map, ascending from -0.993 to 1."""
    values = np.empty(256, np.float32)
    _native.call("int4q_dynamic_map", values.ctypes.data)
    return values


@dataclasses.dataclass(frozen=True)
class DoubleScales:
    """Scales as one byte each: scale = dynamic_map()[code] * nested_scale + offset.

    codes          uint8[count]
    nested_scales  float32[ceil(count / block_size)]
    offset         one float for all
    shape          of the scales
    """

    codes: np.ndarray
    nested_scales: np.ndarray
    offset: float
    block_size: int
    shape: tuple[int, ...]

    @classmethod
    def quantize(
        cls,
        scales: Any,
        block_size: int = 256,
        *,
        rule: DoubleRule = DoubleRule.NEAREST,
        offset: float | None = None,
        element_type: Any = None,
        threads: int | None = None,
    ) -> DoubleScales:
        """Quantizes an array of scales of any shape, flattened (float32, float16, bfloat16).

        Without `offset` it is the scales' mean. With `rule` BITSANDBYTES and the offset that bitsandbytes computed,
        the bytes are those of its `quantize_4bit(compress_statistics=True)` on a CPU.


        Raises NotFiniteError with the place of a scale that is NaN or infinite.
        """
        array, hint = to_numpy(scales, element_type)
        shape = tuple(array.shape)
        if array.size == 0:
            raise ValueError(f"scales has shape {shape}; expected at least 1 element")
        source = input_matrix(array.reshape(1, -1), "scales", hint)
        count = source.columns
        if offset is None:
            mean = ctypes.c_float()
            _native.call("int4q_double_offset", source.pointer, source.element_type, count, ctypes.byref(mean))
            offset = mean.value
        codes_bytes, nested_bytes = ctypes.c_uint64(), ctypes.c_uint64()
        _native.call(
            "int4q_double_sizes", count, block_size, ctypes.byref(codes_bytes), ctypes.byref(nested_bytes)
        )
        result = cls(
            np.empty(codes_bytes.value, np.uint8),
            np.empty(nested_bytes.value // 4, np.float32),
            float(np.float32(offset)),
            block_size,
            shape,
        )
        struct = result.as_struct(rule)

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_double_quantize_scales",
                ctypes.byref(struct),
                source.pointer,
                source.element_type,
                begin,
                end,
            )

        for_rows(work, len(result.nested_scales), block_size, threads)
        return result

    def as_struct(self, rule: DoubleRule = DoubleRule.NEAREST) -> _native.DoubleScalesStruct:
        """The C struct over these arrays, which must outlive it."""
        return _native.DoubleScalesStruct(
            rule=rule,
            count=self.codes.size,
            block_size=self.block_size,
            codes=self.codes.ctypes.data,
            codes_bytes=self.codes.nbytes,
            nested_scales=self.nested_scales.ctypes.data,
            nested_scales_bytes=self.nested_scales.nbytes,
            offset=self.offset,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all parts together."""
        return int(self.codes.nbytes + self.nested_scales.nbytes + 4)

    def dequantize(self, dtype: Any = np.float32, *, threads: int | None = None) -> np.ndarray:
        """The scales that this stands for, in their shape."""
        target = new_matrix(1, self.codes.size, as_type(dtype))
        struct = self.as_struct()

        def work(begin: int, end: int) -> None:
            _native.call(
                "int4q_double_dequantize_scales",
                ctypes.byref(struct),
                target.pointer,
                target.element_type,
                begin,
                end,
            )

        for_rows(work, len(self.nested_scales), self.block_size, threads)
        return target.array.reshape(self.shape)
