"""safetensors: eight bytes of length, a JSON header of that length, and the tensors' bytes one after the other.

The library checks the file. The bytes are then read here, straight into each array, and written from each array: the
library's own functions hold everything twice, and know no bfloat16 without another package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from minifcn.errors import WeightsError
from minifcn.files import atomic_file
from minifcn.weights.formats import bfloat16_to_float32

_BFLOAT16 = "BF16"
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    "C64": np.dtype("<c8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PIECE = 2**24  # bytes copied at a time, of an array that is not contiguous


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors and the metadata. bfloat16 becomes float32, which is exact.

    Raises WeightsError, naming the file, if the library finds it damaged, a name stands in it twice, or an element type
    is one that NumPy does not know.
    """
    metadata = read_metadata(path)
    with _naming(path), open(path, "rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size), object_pairs_hook=_without_repetition)
        header.pop("__metadata__", None)
        return {name: _read_tensor(file, 8 + header_size, name, about) for name, about in header.items()}, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone: of a checkpoint, kilobytes of gigabytes. Raises WeightsError, naming a damaged file."""
    with _naming(path), safe_open(path, framework="numpy") as checked:
        return checked.metadata() or {}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors within become a WeightsError that names the file."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, RecursionError) as error:  # WeightsErrors of below are ValueErrors
        raise WeightsError(
            f"{path}: cannot be read as a safetensors file ({error}). It may be damaged or cut off; fetch or write it "
            "again."
        ) from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise WeightsError("a name stands in it twice")
    return names


def _read_tensor(file: BufferedReader, start: int, name: str, about: Mapping[str, Any]) -> np.ndarray:
    dtype = np.dtype("<u2") if about["dtype"] == _BFLOAT16 else _DTYPES.get(about["dtype"])
    if dtype is None:
        raise WeightsError(f"{name} has the element type {about['dtype']}, which NumPy does not know; save it as F32")
    array = np.empty(about["shape"], dtype)
    file.seek(start + about["data_offsets"][0])
    if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise WeightsError(f"{name} ends too early")
    return bfloat16_to_float32(array) if about["dtype"] == _BFLOAT16 else array


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write tensors and metadata: the file is whole, or not there at all. No second copy of a tensor is made.

    Raises WeightsError for an element type that the format lacks.
    """
    for name, array in tensors.items():
        if array.dtype.newbyteorder("<") not in _NAMES:
            raise WeightsError(f"{path}: {name} has the dtype {array.dtype}, which safetensors files cannot hold.")
    # Widest elements first: then each array begins at a multiple of its element size, as readers may demand.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        dtype = _NAMES[tensors[name].dtype.newbyteorder("<")]
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for piece in _pieces(tensors[name]):
                file.write(piece.reshape(-1).view(np.uint8).data)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array in C order and little-endian; one that is not so already comes in small copies."""
    little = array.dtype.newbyteorder("<")
    if array.dtype == little and array.flags.c_contiguous:
        yield array
    elif array.nbytes <= _PIECE or array.ndim == 0:
        yield np.ascontiguousarray(array, little)
    else:
        rows = max(1, _PIECE * len(array) // array.nbytes)
        for start in range(0, len(array), rows):
            yield from _pieces(array[start : start + rows] if rows > 1 else array[start])
