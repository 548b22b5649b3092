"""Weight files: named arrays and a record of what they are, in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minifcn.errors import WeightsError
from minifcn.weights.preprocessing import Preprocessing

_RECORD = "minifcn"  # the metadata key under which the record stands, as JSON
FORMAT = 1


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    tensors: arrays by parameter name. architecture: what `models.build` takes. preprocessing: how pictures become
    inputs. record: everything else that belongs to them (class names, palette, training size, …).
    """

    tensors: dict[str, np.ndarray]
    architecture: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    record: dict[str, Any] = field(default_factory=dict)


def save_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    *,
    architecture: Mapping[str, Any],
    preprocessing: Preprocessing,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write a weight file: whole, or not at all."""
    about = {
        "format": FORMAT,
        "architecture": dict(architecture),
        "preprocessing": preprocessing.to_dict(),
        "record": dict(record or {}),
    }
    # ascontiguousarray: some versions of safetensors write other arrays wrongly. (It makes 0-d arrays 1-d: reshape.)
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    write_atomically(path, save(contiguous, {_RECORD: json.dumps(about)}))


def load(path: str | os.PathLike[str]) -> WeightFile:
    """Read a safetensors file. One that this project wrote comes with its record; of others only tensors are known.

    Raises WeightsError, naming the file, if it is missing, not a safetensors file, damaged, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weight file.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dictionary)
        about = json.loads(metadata.get(_RECORD, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a safetensors file ({error}). It may be damaged or cut off; "
            "model.safetensors of a run folder is expected."
        ) from None
    if about.get("format", FORMAT) != FORMAT:
        raise WeightsError(f"{path}: has format {about['format']}, this version reads format {FORMAT}; update minifcn.")
    return WeightFile(
        tensors,
        about.get("architecture", {}),
        Preprocessing.from_dict(about.get("preprocessing", {})),
        about.get("record", {}),
    )


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write to a temporary name beside it, wait until the disk has it, then rename: the old file, or the new one."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
