"""Caffe: a binary .caffemodel -> arrays named `LAYER.weight`, `LAYER.bias`, `LAYER.2`, … in the order of its blobs.

The file is one protobuf message. The protobuf library needs twice its size to parse it, and three times with the
arrays; walking its bytes takes its size once (measured on the 553 MB of VGG-16, protobuf 7.36). Four rules suffice:

1. A message is a sequence of fields, each a tag and a content. The tag, field number · 8 + wire type, is a varint.
2. A varint is an integer in base 128, lowest digit first, one digit a byte; the byte's highest bit: another follows.
3. The wire type tells where the content ends. 0: it is a varint; 1: it is 8 bytes; 5: it is 4 bytes; 2: a varint
   before it is its length. (3 and 4 are groups, of which Caffe has none.)
4. A content with a length is a text, a message, or many numbers of one field without tags between them ("packed").
   Fields come in any order and any number of times; those with unknown numbers are passed over.

The field numbers are those of BVLC/caffe's caffe.proto: NetParameter, LayerParameter, V1LayerParameter, BlobProto.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minifcn.errors import WeightsError

_VARINT, _LENGTH = 0, 2  # wire types
_FIXED = {1: 8, 5: 4}  # wire type -> bytes
_LAYERS = {100: (1, 7), 2: (4, 6)}  # a network's `layer`, or `layers` until 2014 -> the numbers of name and blobs
_LEGACY_SHAPE = (1, 2, 3, 4)  # a blob's num, channels, height, width
_SHAPE = 7  # a blob's
_NUMBERS = {(5, 2): "<f4", (5, 5): "<f4", (8, 2): "<f8", (8, 1): "<f8"}  # a blob's data and double_data: packed, or not
_DIM = 1  # a shape's
_LONGEST_NAME = 500  # bytes
_MOST_AXES = 32  # Caffe's own limit; without one, a damaged shape could fill the memory


class _Field(NamedTuple):
    """A field of a message. Its content is the file from byte `start` up to byte `end`."""

    number: int
    wire_type: int
    start: int
    end: int


def read(path: Path) -> dict[str, np.ndarray]:
    """The blobs of all layers: float32, or float64 if the file has doubles, in the very shapes the file gives them.

    Takes no more memory than the file's size: every value is a part of the file, and read once. Raises WeightsError,
    naming the file, if it is missing, damaged or something else.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with open(path, "rb") as file:
            for field in _fields(file, 0, file.seek(0, 2)):
                if field.number in _LAYERS and field.wire_type == _LENGTH:
                    name, blobs = _layer(file, field, *_LAYERS[field.number])
                    if blobs and not name:
                        raise WeightsError("a layer with weights has no name")
                    if f"{name}.weight" in arrays and blobs:
                        raise WeightsError(f"two layers with weights are named {name!r}")
                    for index, blob in enumerate(blobs):
                        arrays[f"{name}.{('weight', 'bias')[index] if index < 2 else index}"] = blob
        if not arrays:
            raise WeightsError("no layer has weights")
    except (OSError, MemoryError, WeightsError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a .caffemodel ({error}). It may be damaged, cut off or something else, such as "
            "a .prototxt or .solverstate; one of 2013 has to go through Caffe's upgrade_net_proto_binary."
        ) from None
    return arrays


def _layer(file: BufferedReader, layer: _Field, name_number: int, blobs_number: int) -> tuple[str, list[np.ndarray]]:
    name, blobs = "", []
    for field in _fields(file, layer.start, layer.end):
        if field.number == name_number and field.wire_type == _LENGTH:
            if field.end - field.start > _LONGEST_NAME:  # every blob of the layer gets a name with it
                raise WeightsError(f"the name at byte {field.start:,} has more than {_LONGEST_NAME} bytes")
            file.seek(field.start)
            try:
                name = file.read(field.end - field.start).decode()
            except UnicodeDecodeError:
                raise WeightsError(f"the name at byte {field.start:,} is not UTF-8") from None
        elif field.number == blobs_number and field.wire_type == _LENGTH:
            blobs.append(_blob(file, field))
    return name, blobs


def _blob(file: BufferedReader, blob: _Field) -> np.ndarray:
    """Its values in its shape. As in Caffe, legacy dimensions go before a shape, and doubles before floats."""
    legacy: dict[int, int] = {}
    shape: list[int] = []
    sizes = {"<f4": 0, "<f8": 0}
    for field in _fields(file, blob.start, blob.end):
        if field.number in _LEGACY_SHAPE and field.wire_type == _VARINT:
            legacy[field.number] = _varint(file, field.start, field.end)[0]
        elif field.number == _SHAPE and field.wire_type == _LENGTH:
            shape += _dimensions(file, field)
        elif dtype := _NUMBERS.get((field.number, field.wire_type)):
            sizes[dtype] += field.end - field.start
    if legacy:
        shape = [legacy.get(number, 0) for number in _LEGACY_SHAPE]
    dtype = "<f8" if sizes["<f8"] else "<f4"
    values = _values(file, blob, dtype, sizes[dtype])
    try:
        return values.reshape(shape)
    except ValueError:
        message = f"the blob at byte {blob.start:,} has {values.size:,} values for the shape {shape}"
        raise WeightsError(message) from None


def _values(file: BufferedReader, blob: _Field, dtype: str, size: int) -> np.ndarray:
    """The contents of the fields with numbers of this dtype, one after another, `size` bytes in all.

    (The blob has been walked before, to know the size: memory is allocated once, and read into once.)
    """
    values = np.empty(size // np.dtype(dtype).itemsize, dtype)
    room = values.view(np.uint8)
    for field in _fields(file, blob.start, blob.end):
        if _NUMBERS.get((field.number, field.wire_type)) == dtype:
            length = field.end - field.start
            if length % values.itemsize:
                raise WeightsError(f"the numbers at byte {field.start:,} end within a number")
            file.seek(field.start)
            if file.readinto(room[:length].data) < length:
                raise WeightsError("it became shorter while it was read")
            room = room[length:]
    return values


def _dimensions(file: BufferedReader, shape: _Field) -> list[int]:
    sizes: list[int] = []
    for field in _fields(file, shape.start, shape.end):
        position = field.start
        while field.number == _DIM and field.wire_type in (_VARINT, _LENGTH) and position < field.end:
            size, position = _varint(file, position, field.end)
            sizes.append(size)
            if len(sizes) > _MOST_AXES:
                raise WeightsError(f"the shape at byte {shape.start:,} has more than {_MOST_AXES} axes")
    return sizes


def _fields(file: BufferedReader, start: int, end: int) -> Iterator[_Field]:
    """The fields of the message from byte `start` up to byte `end`."""
    while start < end:
        tag, content = _varint(file, start, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            stop = _varint(file, content, end)[1]
        elif wire_type == _LENGTH:
            length, content = _varint(file, content, end)
            stop = content + length
        elif wire_type in _FIXED:
            stop = content + _FIXED[wire_type]
        else:
            raise WeightsError(f"the field at byte {start:,} has wire type {wire_type}, which Caffe does not use")
        if not 0 < number < 2**29 or stop > end:
            raise WeightsError(f"the field at byte {start:,} has number {number} and ends at {stop:,} of {end:,}")
        yield _Field(number, wire_type, content, stop)
        start = stop


def _varint(file: BufferedReader, start: int, end: int) -> tuple[int, int]:
    """The varint at byte `start`, and the position behind it. 64 bits need ten digits at most."""
    file.seek(start)
    value = 0
    for place, digit in enumerate(file.read(min(10, end - start))):
        value |= (digit & 0x7F) << 7 * place
        if digit < 0x80:
            return value, start + place + 1
    raise WeightsError(f"the integer at byte {start:,} does not end")
