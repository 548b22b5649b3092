"""Weight files: named arrays and a record of what they are. Any known container is read; safetensors is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minifcn.errors import WeightsError
from minifcn.threads import can_start_threads
from minifcn.weights.catalogue import published_as
from minifcn.weights.container import Container, read_container
from minifcn.weights.formats import safetensors
from minifcn.weights.naming import recognise, without_wrapper
from minifcn.weights.preprocessing import Preprocessing

_RECORD = "minifcn"  # the metadata key under which the record stands, as JSON
CHECKPOINT = "minifcn-checkpoint"  # the key of a run's checkpoints instead, which training reads
FORMAT = 1
OWN_NAMES = "minifcn"
SIZES = {"name", "width", "fc_width", "in_channels", "num_classes"}  # what tensors tell of an architecture


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    tensors: arrays by parameter name; this project's names if the network is known, else the file's own.
    architecture: what `models.build` takes; empty if the network is not known. preprocessing: how pictures become
    inputs. record: everything else that belongs to them (class names, palette, training size, the source, …).
    """

    tensors: dict[str, np.ndarray]
    architecture: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    record: dict[str, Any] = field(default_factory=dict)


def load(path: str | os.PathLike[str]) -> WeightFile:
    """Read a weight file: safetensors, PyTorch (zip or legacy), Caffe, Keras HDF5 or NumPy npz, told by its content.

    A file of this project comes with its record. In others VGG-11/13/16/19 and the released FCNs are recognised by
    their tensors' names and shapes: these get this project's names, an architecture and the preprocessing that the
    network was trained with; the source's name and SHA-256 go into the record. Tensors of any other network keep their
    names. Nothing in a file is ever executed. Its tensors take the memory that its size allows (`limits`), and reading
    takes no second copy of them.

    Raises WeightsError, naming the file, if it is missing, of no known container, damaged, or of a newer format.
    """
    path = Path(path)
    container = read_container(path)
    if CHECKPOINT in container.metadata:
        raise WeightsError(
            f"{path}: is the checkpoint of a run, for train --resume; its network is in model.safetensors beside it, "
            "or before the run's end in the file of the last stage that was finished."
        )
    own = _own_record(path, container.metadata)
    if own is not None and own.names == OWN_NAMES:
        return WeightFile(container.tensors, own.architecture, own.preprocessing, own.record)
    return _foreign(path, container, own)


def _foreign(path: Path, container: Container, own: _Record | None) -> WeightFile:
    """A file from elsewhere, or one of ours under other names.

    Its architecture and preprocessing are those of our own record, if it has one; else of the catalogue, if it is a
    published file by its hash; else what the tensors' names tell.
    """
    tensors = without_wrapper(container.tensors)
    network = recognise(tensors, container.kind)
    hashes = _hashes(path)
    record: dict[str, Any] = {
        "source": {"name": path.name, "sha256": hashes["sha256"], "container": container.kind},
        **(own.record if own else {}),
    }
    if network is None:
        return WeightFile(tensors, {}, own.preprocessing if own else Preprocessing(), record)
    architecture, preprocessing = network.architecture, network.preprocessing
    if own is not None:
        same = all(own.architecture.get(key) == architecture[key] for key in architecture.keys() & SIZES)
        architecture, preprocessing = own.architecture if same else architecture, own.preprocessing
    else:
        record["source"]["names"] = network.convention
        if published := published_as(hashes):  # what the names in the file cannot tell
            architecture |= {"name": published.architecture} if published.architecture else {}
            preprocessing = published.preprocessing
    if network.notes:
        record["notes"] = list(network.notes)
    return WeightFile(network.tensors, architecture, preprocessing, record)


def _hashes(path: Path) -> dict[str, str]:
    """The hashes of a file in hexadecimal, by algorithm: publishers give one or another. Computed side by side."""

    def digest(algorithm: str) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()

    algorithms = ("sha256", "sha1", "md5")
    if not can_start_threads():
        return {algorithm: digest(algorithm) for algorithm in algorithms}
    with ThreadPoolExecutor() as pool:
        return dict(zip(algorithms, pool.map(digest, algorithms), strict=True))


@dataclass(frozen=True)
class _Record:
    """What this project wrote beside the tensors. names: whose names these have."""

    architecture: dict[str, Any]
    preprocessing: Preprocessing
    record: dict[str, Any]
    names: str


def _own_record(path: Path, metadata: Mapping[str, str]) -> _Record | None:
    """The record that this project wrote into a safetensors file; None if there is none."""
    if _RECORD not in metadata:
        return None
    try:
        about = json.loads(metadata[_RECORD])
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: its record is damaged; it is not JSON. Copy or convert the file again.") from None
    if not isinstance(about, dict):
        raise WeightsError(f"{path}: its record is damaged; it is not a JSON object. Copy or convert the file again.")
    if about.get("format", FORMAT) != FORMAT:
        raise WeightsError(
            f"{path}: has format {about.get('format')}, this version reads format {FORMAT}; update minifcn."
        )
    parts = [about.get(name, {}) for name in ("architecture", "preprocessing", "record")]
    objects = [*parts, parts[2].get("source", {})] if isinstance(parts[2], dict) else parts
    if not all(isinstance(part, dict) for part in objects):
        raise WeightsError(
            f"{path}: its record is damaged; architecture, preprocessing, record and the source in it are JSON objects."
            " Copy or convert the file again."
        )
    architecture, preprocessing, record = parts
    if architecture and not isinstance(architecture.get("name"), str):
        raise WeightsError(
            f"{path}: its record is damaged; the architecture has no name. Copy or convert the file again."
        )
    try:
        return _Record(architecture, Preprocessing.from_dict(preprocessing), record, about.get("names", OWN_NAMES))
    except WeightsError as error:
        raise WeightsError(f"{path}: its record is damaged; {error} Copy or convert the file again.") from None


def save_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    *,
    architecture: Mapping[str, Any],
    preprocessing: Preprocessing,
    record: Mapping[str, Any] | None = None,
    names: str = OWN_NAMES,
) -> None:
    """Write a safetensors file with its record: whole, or not at all. Tensors of any strides are written as they read.

    names: whose names the tensors have; under other names than this project's, `load` recognises them again.
    """
    about = {
        "format": FORMAT,
        "names": names,
        "architecture": dict(architecture),
        "preprocessing": preprocessing.to_dict(),
        "record": dict(record or {}),
    }
    safetensors.write(path, tensors, {_RECORD: json.dumps(about)})
