"""The masks of the Semantic Boundaries Dataset, which are files of MATLAB (version 5, not the HDF5 of version 7.3).

Such a file is a header of 128 bytes and then elements: a tag of type and size, the content, zeros up to a multiple of 8
bytes. A matrix is an element whose content is elements again: flags, dimensions, name, then its values; a structure has
its fields' names there, and then a matrix for each. So one field can be found by passing over the others. SciPy reads
such files as well, but a damaged size in one can make it fill the memory and run for minutes.
Source: "MAT-File Format", The MathWorks.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minifcn.data.archive import File
from minifcn.errors import DataError

_HEADER = 128  # bytes, of which the last four are the version and the order of the bytes
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_INTEGERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}  # types of elements
_STRUCTURE = 2  # the class of a matrix
_LARGEST = 2**25  # bytes; the largest of these masks, and the boundaries beside it, have a hundredth of that


def read_matlab_mask(file: File) -> np.ndarray:
    """The labels in a file of SBD's folder cls, `GTcls.Segmentation`: uint8 (H, W), 0 is background, nothing is void.

    Raises DataError, with the file's name, for a file that is missing, damaged, or holds something else.
    """
    try:
        with file.open("rb") if isinstance(file, Path) else file.open() as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}). Unpack the data set again.") from error
    try:
        return _segmentation(content)
    except (ValueError, LookupError, struct.error, zlib.error) as error:
        raise DataError(
            f"{file}: GTcls.Segmentation cannot be read from this file of MATLAB, which is damaged or another one than "
            f"expected ({error}). Unpack the data set again."
        ) from error


def _segmentation(content: bytes) -> np.ndarray:
    order = _ORDERS.get(content[_HEADER - 4 : _HEADER])
    if order is None or len(content) > _LARGEST:
        raise ValueError("not version 5, or too large")
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            ((kind, data),) = _elements(_decompressed(data), order)
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} where a variable should be")
        flags, _, (_, name), *fields = _elements(data, order)
        if bytes(name) == b"GTcls":
            if flags[1][0 if order == "<" else 3] != _STRUCTURE:
                raise ValueError("GTcls is no structure")
            return _labels(_field(fields, b"Segmentation", order), order)
    raise ValueError("there is no variable GTcls")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each element."""
    position = 0
    while position < len(data):
        kind, size = struct.unpack_from(order + "II", data, position)
        start = position + 8
        if kind >> 16:  # up to four bytes stand in the tag itself, in place of their size
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        if start + size > len(data) or (start < position + 8 and size > 4):
            raise ValueError("it ends too early")
        yield kind, data[start : start + size]
        position = max(position + 8, start + size)
        position += -position % 8 if kind != _COMPRESSED else 0


def _decompressed(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(data, _LARGEST)
    if not stream.eof:
        raise ValueError("its compressed part is cut off, or too large")
    return content


def _field(parts: list[tuple[int, bytes]], name: bytes, order: str) -> bytes:
    """The matrix of a field of a structure of one element. parts: the length of a name, the names, the matrices."""
    (_, length_data), (_, names), *matrices = parts
    (length,) = struct.unpack(order + "i", length_data)
    fields = [names[start : start + length].rstrip(b"\0") for start in range(0, len(names), max(1, length))]
    kind, matrix = matrices[fields.index(name)]
    if kind != _MATRIX:
        raise ValueError(f"{name.decode()} is no matrix")
    return matrix


def _labels(matrix: bytes, order: str) -> np.ndarray:
    """A matrix of whole numbers as uint8 (H, W)."""
    _, (_, dimensions), _, (kind, values), *_ = _elements(matrix, order)
    shape = np.frombuffer(dimensions, order + "i4").tolist()
    if kind not in _INTEGERS or len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"a matrix of {' × '.join(map(str, shape))} values of type {kind}")
    labels = np.frombuffer(values, order + _INTEGERS[kind]).reshape(shape, order="F")  # column after column
    if labels.min() < 0 or labels.max() > 255:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    return np.array(labels, dtype=np.uint8, order="C")
