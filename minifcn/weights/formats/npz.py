"""NumPy and Chainer: an .npz, a zip archive of .npy files -> arrays by the names of its entries without `.npy`.

np.load would take whatever memory the file claims to need. Here each size is checked against the archive first, and an
array is unpacked piece by piece into the memory it keeps.
"""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from minifcn.errors import WeightsError
from minifcn.weights.limits import check_claim

_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_NUMBERS = "biufc"  # kinds of dtypes
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # NumPy writes no others
_ENCRYPTED = 1  # a flag of an entry
_PIECE = 2**20  # bytes
# What zipfile raises for damaged archives, and NumPy for impossible shapes.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError)
# What NumPy lets through, besides its own ValueErrors, when a header is no Python or the dtype in it makes no sense.
_HEADER_ERRORS = (ValueError, TypeError, LookupError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError)


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of numbers, in native byte order. Texts, such as the log in a Chainer snapshot, are left out.

    Raises WeightsError, naming the file, if it is missing, damaged or something else, claims more than it holds, or has
    Python objects in it: they would have to be unpickled, which can run any program.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            check_claim(path, sum(entry.file_size for entry in entries))
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name == entry.filename:
                    raise WeightsError(f"{path}: its entry {name!r} is no .npy, so it is no .npz of weights.")
                if name in arrays:
                    raise WeightsError(f"{path}: {name!r} stands in it twice; write it again.")
                if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _COMPRESSIONS:
                    raise WeightsError(
                        f"{path}: {name!r} is encrypted, or packed otherwise than NumPy does; pack it anew."
                    )
                with archive.open(entry) as file:
                    array = _read_array(f"{path}: {name!r}", file, entry.file_size)
                if array is not None:
                    arrays[name] = array
    except WeightsError:
        raise
    except _ZIP_ERRORS as error:
        raise WeightsError(
            f"{path}: cannot be read as an .npz file ({error}). It may be damaged or cut off; fetch it again."
        ) from None
    return arrays


def _read_array(label: str, file: IO[bytes], size: int) -> np.ndarray | None:
    """The array of one .npy of `size` bytes, or None if it holds no numbers. `label` begins an error's message."""
    shape, fortran_order, dtype = _read_header(label, file)
    if dtype.hasobject:
        raise WeightsError(f"{label} holds Python objects, and reading these can run any program; save it without.")
    if dtype.kind == "V":
        raise WeightsError(f"{label} has the dtype {dtype}, which is not one of single numbers; save it as float32.")
    if dtype.kind not in _NUMBERS:
        while file.read(_PIECE):  # to its end, where zipfile compares the checksum
            pass
        return None
    if min(shape, default=0) < 0 or file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise WeightsError(f"{label} has the shape {shape} of {dtype}, but not as many bytes; it is damaged.")
    array = np.empty(shape, dtype, order="F" if fortran_order else "C")
    room = (array.T if fortran_order else array).reshape(-1).view(np.uint8)  # its bytes in the order of the file
    while piece := file.read(_PIECE):  # to the end, too
        room[: len(piece)] = np.frombuffer(piece, np.uint8)
        room = room[len(piece) :]
    if room.size:
        raise WeightsError(f"{label} ends too early; it is damaged or cut off.")
    return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _read_header(label: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READ_HEADER:
            raise WeightsError(f"version {version} is for arrays with named parts")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy remarks on files of Python 2
            return _READ_HEADER[version](file)
    except _HEADER_ERRORS as error:
        reason = " ".join(str(error).split())  # NumPy's has several lines
        raise WeightsError(f"{label} is no array that NumPy wrote ({reason}); it is damaged.") from None
