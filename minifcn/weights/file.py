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
from minifcn.files import write_atomically
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
    write_safetensors(path, tensors, {_RECORD: json.dumps(about)})


def load(path: str | os.PathLike[str]) -> WeightFile:
    """Read a safetensors file. One that this project wrote comes with its record; of others only tensors are known.

    Raises WeightsError, naming the file, if it is missing, not a safetensors file, damaged, or of a newer format.
    """
    tensors, metadata = read_safetensors(path)
    try:
        about = json.loads(metadata.get(_RECORD, "{}"))
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: its record is damaged; it is not JSON.") from None
    if not isinstance(about, dict):
        raise WeightsError(f"{path}: its record is damaged; it is not a JSON object.")
    if about.get("format", FORMAT) != FORMAT:
        raise WeightsError(
            f"{path}: has format {about.get('format')}, this version reads format {FORMAT}; update minifcn."
        )
    parts = [about.get(name, {}) for name in ("architecture", "preprocessing", "record")]
    if not all(isinstance(part, dict) for part in parts):
        raise WeightsError(f"{path}: its record is damaged; architecture, preprocessing and record are JSON objects.")
    architecture, preprocessing, record = parts
    try:
        return WeightFile(tensors, architecture, Preprocessing.from_dict(preprocessing), record)
    except WeightsError as error:
        raise WeightsError(f"{path}: its record is damaged; {error}") from None


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Write tensors and metadata as a safetensors file: whole, or not at all."""
    # ascontiguousarray: some versions of safetensors write other arrays wrongly. (It makes 0-d arrays 1-d: reshape.)
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    write_atomically(path, save(contiguous, metadata))


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors and the metadata of a safetensors file; WeightsError, naming it, if that cannot be."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weight file.")
    tensors, name = {}, ""
    try:
        with safe_open(path, framework="numpy") as file:
            for name in list(file.keys()):
                tensors[name] = file.get_tensor(name)
            return tensors, file.metadata() or {}
    except (TypeError, AttributeError):  # what comes of asking NumPy for a bfloat16 or float8 array
        raise WeightsError(
            f"{path}: {name} has an element type that NumPy does not know, such as bfloat16; save it as float32."
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a safetensors file ({error}). It may be damaged or cut off; "
            "model.safetensors of a run folder is expected."
        ) from None
