"""Weight matrices in other people's files: safetensors, NumPy's .npz, ONNX."""

from __future__ import annotations

import json
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._arrays import type_of_dtype

NamedMatrix = tuple[str, np.ndarray, str]
"""A name, an array of two dimensions, and its type: "f32", "f16" or "bf16" (perhaps as uint16)."""

_SAFETENSORS_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
}


def weight_matrices(path: str | os.PathLike[str]) -> Iterator[NamedMatrix]:
    """Each float matrix of a file that has elements, by name. The suffix tells the format; safetensors if it is unknown.

    ValueError if the file is not what its suffix says, OSError if it cannot be read. ONNX needs the package onnx.
    """
    place = pathlib.Path(path)
    readers = {".npz": _numpy_matrices, ".onnx": _onnx_matrices}
    return readers.get(place.suffix.lower(), _safetensors_matrices)(place)


def _header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's table of contents, and where its data starts."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("not a safetensors file")
        return json.loads(file.read(size)), 8 + size


def _safetensors_matrices(path: pathlib.Path) -> Iterator[NamedMatrix]:
    # Read here and not through the package: NumPy has no bfloat16, for which the package would want PyTorch.
    header, start = _header(path)
    for name, entry in sorted(header.items()):
        if name == "__metadata__" or entry["dtype"] not in _SAFETENSORS_DTYPES or len(entry["shape"]) != 2:
            continue
        if 0 in entry["shape"]:
            continue
        dtype = _SAFETENSORS_DTYPES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        raw = np.memmap(path, np.uint8, "r", start + begin, end - begin)
        # Offsets in the file need not be multiples of the element's size.
        array = raw if raw.ctypes.data % dtype.itemsize == 0 else np.array(raw)
        yield name, array.view(dtype).reshape(entry["shape"]), entry["dtype"].lower()


def _checked(name: str, array: np.ndarray) -> Iterator[NamedMatrix]:
    """The array if it is a matrix of floats with elements."""
    if array.ndim != 2 or array.size == 0:
        return
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    element_type = type_of_dtype(array.dtype)
    if element_type is not None:
        yield name, array, element_type.name.lower()


def _numpy_matrices(path: pathlib.Path) -> Iterator[NamedMatrix]:
    try:
        archive = np.load(path, allow_pickle=False)
    except zipfile.BadZipFile as error:
        raise ValueError(f"not an .npz file ({error})") from error
    if isinstance(archive, np.ndarray):
        raise ValueError("one array (.npy) and not an .npz file")
    with archive:
        for name in sorted(archive.files):
            yield from _checked(name, archive[name])


def _onnx_matrices(path: pathlib.Path) -> Iterator[NamedMatrix]:
    """Initializers; those that products take as [k][n] are turned into this library's [n][k]."""
    try:
        import onnx
    except ImportError as error:
        raise ValueError(f"reading ONNX needs the package onnx ({error}): pip install onnx") from error
    try:
        graph = onnx.load(os.fspath(path)).graph
    except OSError:
        raise
    except Exception as error:  # protobuf has exceptions of its own, which are no documented part of onnx
        raise ValueError(f"not an ONNX file ({error})") from error
    turned = {name for node in graph.node for name in _inputs_by_column(node)}
    for initializer in sorted(graph.initializer, key=lambda tensor: tensor.name):
        array = onnx.numpy_helper.to_array(initializer)
        yield from _checked(initializer.name, array.T if initializer.name in turned and array.ndim == 2 else array)


def _inputs_by_column(node: Any) -> list[str]:
    """Names of the inputs that a node multiplies as [k][n]."""
    is_turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 and not is_turned:
        return [node.input[1]]
    return []
