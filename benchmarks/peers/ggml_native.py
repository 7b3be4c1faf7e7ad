# SPDX-License-Identifier: Apache-2.0
"""The few functions of ggml's C interface that one matrix product needs."""

from __future__ import annotations

import ctypes
import os
import pathlib
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

from .contestant import Missing

FOLDER_VARIABLE = "PEERS_GGML"
"""Where libggml-base.so and libggml-cpu.so are."""
TYPE_F32 = 0
TYPE_Q4_0 = 2


class InitParameters(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


_BASE: dict[str, tuple[Any, list[Any]]] = {
    "ggml_version": (c_char_p, []),
    "ggml_log_set": (None, [c_void_p, c_void_p]),
    "ggml_init": (c_void_p, [InitParameters]),
    "ggml_free": (None, [c_void_p]),
    "ggml_tensor_overhead": (c_size_t, []),
    "ggml_graph_overhead_custom": (c_size_t, [c_size_t, c_bool]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "ggml_backend_free": (None, [c_void_p]),
    "ggml_backend_get_device": (c_void_p, [c_void_p]),
    "ggml_backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
}
_CPU: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_reg": (c_void_p, []),
}
_EXTRA_TYPES = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)
_SAY_NOTHING = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda _level, _text, _data: None)
"""It would report every matrix that it packs."""


class Ggml:
    """ggml's libraries, with every function as an attribute by its name without `ggml_`."""

    def __init__(self, folder: str | None = None) -> None:
        """Raises Missing unless the libraries are in `folder`, or in the one that the environment names."""
        place = folder or os.environ.get(FOLDER_VARIABLE)
        if not place:
            raise Missing(f"{FOLDER_VARIABLE} does not name the folder of its libraries")
        for library, functions in (("libggml-base.so", _BASE), ("libggml-cpu.so", _CPU)):
            self._declare(pathlib.Path(place) / library, functions)
        self.log_set(_SAY_NOTHING, None)

    def _declare(self, path: pathlib.Path, functions: dict[str, tuple[Any, list[Any]]]) -> None:
        try:
            library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            for name, (result, arguments) in functions.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name.removeprefix("ggml_"), function)
        except (OSError, AttributeError) as error:
            raise Missing(str(error)) from error

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"ggml_{name} is not declared")

    def buffer_types(self, backend: int) -> dict[str, int]:
        """The CPU backend's plain kind of memory, and those in which it keeps weights in layouts of its own."""
        found = {"CPU": self.backend_cpu_buffer_type()}
        address = self.backend_reg_get_proc_address(self.backend_cpu_reg(), b"ggml_backend_dev_get_extra_bufts")
        if address:
            extra = _EXTRA_TYPES(address)(self.backend_get_device(backend))
            index = 0
            while extra and extra[index]:
                found[self.backend_buft_name(extra[index]).decode()] = extra[index]
                index += 1
        return found
