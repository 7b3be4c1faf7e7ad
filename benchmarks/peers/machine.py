# SPDX-License-Identifier: Apache-2.0
"""What the report says of the machine."""

from __future__ import annotations

import functools
import os
import pathlib
import platform

_TOLD_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx")


@functools.cache
def _cpu_fields() -> dict[str, str]:
    """The first processor's entry, on Linux."""
    path = pathlib.Path("/proc/cpuinfo")
    entry = path.read_text().split("\n\n", 1)[0] if path.exists() else ""
    pairs = (line.partition(":") for line in entry.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_vendor() -> str:
    return _cpu_fields().get("vendor_id", "")


def describe() -> str:
    """Processor, its vector extensions, how many of it, operating system."""
    fields = _cpu_fields()
    flags = [flag for flag in fields.get("flags", "").split() if flag.startswith(_TOLD_FLAGS)]
    model = fields.get("model name", platform.processor())
    numbers = f"family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"
    system = f"{platform.system()} {platform.release()}"
    return f"{model} ({numbers}; {' '.join(flags)}), {os.cpu_count()} processors, {system}"
