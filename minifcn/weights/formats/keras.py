"""Keras: an HDF5 weight file -> arrays named by their paths in it, such as `block1_conv1/block1_conv1_W_1:0`.

The file of a whole model has its weights in a group `model_weights`, which is left out of the names here.

Read by h5py, but only what Keras writes: arrays in one piece, in the file itself. HDF5 has more, and a damaged or
dishonest file of that kind opens other files, or makes HDF5 end the program: its decompression crashed in our trials.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minifcn.errors import WeightsError
from minifcn.weights.limits import check_claim

_WHOLE_MODEL = "model_weights/"
_OPTIMIZER = ("optimizer_weights", "optimizer")  # groups beside the weights; the second since Keras 3
_NUMBERS = "biufc"  # kinds of NumPy dtypes
_MAX_DEPTH = 16  # groups in groups; Keras has a handful
_ROWS = 256  # of a matrix, read at a time


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of numbers as they are stored, bfloat16 as float32. Texts, and what an optimizer keeps, are left out.

    Raises WeightsError, naming the file, if it is missing, damaged or something else, claims more than it holds, or has
    parts stored otherwise than Keras does, in other files for example; and if h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise WeightsError(f'{path}: HDF5 files are read by h5py; pip install "minifcn[weights]".') from None
    try:
        with h5py.File(path, "r") as file:
            datasets = _datasets(path, file)
            return {name: _array(path, name, dataset) for name, dataset in datasets.items()}
    except WeightsError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:  # whatever HDF5 finds, h5py says by these
        reason = " ".join(str(error).split())  # a damaged name may have line breaks
        raise WeightsError(
            f"{path}: cannot be read as an HDF5 file ({reason}). It may be damaged or cut off; fetch it again."
        ) from None


def _datasets(path: Path, file: Any) -> dict[str, Any]:
    """The datasets of numbers, their sizes checked. None is read yet, and no link to another place followed."""
    import h5py

    found = list(_entries(path, file))
    prefix = _WHOLE_MODEL if any(name.startswith(_WHOLE_MODEL) for name, _ in found) else ""
    datasets = {}
    for name, entry in ((name.removeprefix(prefix), entry) for name, entry in found if name.startswith(prefix)):
        if name.split("/")[0] in _OPTIMIZER:
            continue
        if entry is None:
            raise WeightsError(f"{path}: {name!r} is a link to another place; save the file with its weights in it.")
        if not isinstance(entry, h5py.h5d.DatasetID):
            continue  # a group
        dataset = h5py.Dataset(entry)
        if dataset.dtype.kind not in _NUMBERS:
            continue  # a text
        storage = dataset.id.get_create_plist()
        if storage.get_layout() != h5py.h5d.CONTIGUOUS or storage.get_external_count():
            raise WeightsError(
                f"{path}: {name!r} is compressed, in chunks or in another file, as Keras never stores weights; "
                "h5repack -f NONE -l CONTI OLD.h5 NEW.h5 makes a file that can be read."
            )
        if dataset.shape is not None:
            datasets[name] = dataset
    check_claim(path, sum(dataset.nbytes for dataset in datasets.values()))
    return datasets


def _entries(path: Path, file: Any) -> Iterator[tuple[str, Any]]:
    """Everything in the file by its path: HDF5's handle of it, or None for a link that leads elsewhere.

    Group by group, not by HDF5's own walk, which calls itself for every level, and dies of files made of levels.
    """
    import h5py

    groups: list[tuple[str, Any]] = [("", file.id)]
    entered = {h5py.h5o.get_info(file.id).addr}  # a group may be a member of itself
    for place, group in groups:  # which grows meanwhile
        if place.count("/") > _MAX_DEPTH:
            raise WeightsError(f"{path}: has groups more than {_MAX_DEPTH} deep; it is no file of Keras.")
        for raw in group:
            try:
                name = place + raw.decode()
            except UnicodeDecodeError:
                raise WeightsError(
                    f"{path}: has names that are not UTF-8; it is damaged, or no file of Keras."
                ) from None
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                yield name, None
                continue
            entry = h5py.h5o.open(group, raw)
            yield name, entry
            if isinstance(entry, h5py.h5g.GroupID) and (address := h5py.h5o.get_info(entry).addr) not in entered:
                entered.add(address)
                groups.append((f"{name}/", entry))


def _array(path: Path, name: str, dataset: Any) -> np.ndarray:
    """Its numbers, in native byte order. If they are not in the file, HDF5 would make up zeros.

    A dense weight is (in, out) here, and (out, in) everywhere else. So a matrix is laid out in memory column by column:
    its transpose is then contiguous, and three quarters of VGG-16 need not be copied again.
    """
    if dataset.id.get_storage_size() < dataset.size * dataset.id.get_type().get_size():
        raise WeightsError(f"{path}: the numbers of {name!r} are missing; it is damaged, or was never finished.")
    stored = dataset.astype(dataset.dtype.newbyteorder("="))
    if dataset.ndim != 2:
        return np.asarray(stored[()])
    matrix = np.empty(dataset.shape, stored[:0].dtype, order="F")
    for start in range(0, len(matrix), _ROWS):
        matrix[start : start + _ROWS] = stored[start : start + _ROWS]
    return matrix
