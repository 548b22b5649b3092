"""Writing files so that what stands under a name is always whole."""

import json
import math
import os
import re
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole, or not at all; see atomic_file."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write into, under a temporary name beside `path`; at the end, once the disk has it, it is renamed.

    Whatever happens on the way, what stands at `path` is the old file or the new one, whole. Killed in between, the
    process leaves the temporary file; see remove_leftovers.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is None or error.filename == str(temporary):  # say what was to be written
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the disk take note of the new name, too; else a power cut may bring the old file back."""
    if os.name != "posix":  # other systems open no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_LEFTOVER = re.compile(r"\..+\.\d+-\d+\.tmp")


def is_leftover(path: Path) -> bool:
    """Whether this is a temporary file of atomic_file's."""
    return _LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed. Only where no other process is writing."""
    for path in folder.iterdir():
        if is_leftover(path):
            path.unlink(missing_ok=True)


class StoredArray:
    """A float32 array (C, H, W) in a file: stored[:, rows, columns] = values writes these values there.

    np.memmap would do it too, but the pages that it has touched count as memory of the process.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int, int]) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self.file, self.shape, self._start = file, shape, file.tell()
        file.truncate(self._start + 4 * math.prod(shape))

    def __setitem__(self, part: tuple[slice, slice, slice], values: np.ndarray) -> None:
        _, height, width = self.shape
        channels, rows, columns = (range(length)[one] for one, length in zip(part, self.shape, strict=True))
        values = np.asarray(values, "<f4")
        for channel, plane in zip(channels, values, strict=True):
            for row, line in zip(rows, plane, strict=True):
                self.file.seek(self._start + 4 * ((channel * height + row) * width + columns.start))
                self.file.write(line.tobytes())


@contextmanager
def npz_file(path: Path, name: str, shape: tuple[int, int, int], **others: np.ndarray) -> Iterator[StoredArray]:
    """An .npz file, written whole or not at all, whose array `name` is stored part by part; `others` are small ones."""
    with atomic_file(path) as file, tempfile.TemporaryFile(dir=path.parent) as parts:
        yield StoredArray(parts, shape)
        parts.seek(0)
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                shutil.copyfileobj(parts, entry, 2**20)
            for other, array in others.items():
                with archive.open(f"{other}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)


def to_json(value: Any) -> str:
    """Indented JSON. NaN (a class that does not occur) becomes null, since JSON has no word for it."""
    return json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
