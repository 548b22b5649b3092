"""Which container a file is, told by its first bytes and never by its name; and its tensors."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minifcn.errors import WeightsError
from minifcn.weights.catalogue import CATALOGUE
from minifcn.weights.formats import caffe, keras, npz, pytorch, safetensors

_HEAD = 512  # bytes that are looked at
# A network's name, layers (V1), input, input_dim, force_backward, state, debug_info, input_shape, layer.
_CAFFE_FIRST_FIELDS = (b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x38", b"\x42", b"\xa2\x06")
_KNOWN = "safetensors, PyTorch (.pth), Caffe (.caffemodel), Keras HDF5 (.h5) and NumPy (.npz) files are read"
_NOT_WEIGHTS = {
    b"<": "is a web page or XML, probably the error page of a download",
    b"version https://git-lfs": "is a Git LFS pointer, which stands for the file; fetch it with git lfs pull",
    b"\xef\xbb\xbf<": "is a web page or XML, probably the error page of a download",
    b"BZh": "is compressed with bzip2; unpack it first",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"layer": "is a text that describes a network (prototxt); the weights are in the .caffemodel",
    b"name:": "is a text that describes a network (prototxt); the weights are in the .caffemodel",
    b"\x80": "is a Python pickle that torch.save did not write; it is not opened, since a pickle can run any program",
}


@dataclass(frozen=True)
class Container:
    """What a file holds: its kind, tensors by the names in the file, and the metadata of safetensors files."""

    kind: str
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str] = field(default_factory=dict)


def read_container(path: Path) -> Container:
    """Read a weight file of any known container.

    Raises WeightsError, naming the file, if it is missing, of no known container (what it is instead, if that can be
    told), damaged, or claims more than it holds. No code in it is ever executed.
    """
    try:
        if path.is_dir():
            raise WeightsError(f"{path}: is a folder; name the weight file in it.")
        if path.exists() and not path.is_file():
            raise WeightsError(f"{path}: is no regular file, which can be read from any place; copy it into one.")
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        fetch = (
            f" To fetch it: python -m minifcn.convert {path} --out {path}.safetensors" if str(path) in CATALOGUE else ""
        )
        raise WeightsError(f"{path}: there is no such weight file.{fetch}") from None
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}). Give the path of a file that you may read."
        ) from None
    except WeightsError:
        raise
    except ValueError as error:  # a zero byte in the path
        raise WeightsError(f"{path!s:.200}: is no path ({error}). Give that of a weight file.") from None
    if head[8:9] == b"{":
        tensors, metadata = safetensors.read(path)
        return Container("safetensors", tensors, metadata)
    kind, read = _reader(path, head)
    return Container(kind, read(path))


def _reader(path: Path, head: bytes) -> tuple[str, Callable[[Path], dict[str, np.ndarray]]]:
    if head.startswith(b"PK"):
        return _zip_reader(path)
    if pytorch.is_legacy(head):
        return "PyTorch (legacy)", pytorch.read_legacy
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "Keras HDF5", keras.read
    for beginning, what in _NOT_WEIGHTS.items():
        if head.lstrip().startswith(beginning):
            raise WeightsError(f"{path}: {what}. {_KNOWN}.")
    if head.startswith(_CAFFE_FIRST_FIELDS):  # protobuf has no magic number, so it comes last
        return "Caffe", caffe.read
    what = f"begins with {head[:8]!r}" if head else "is empty"
    raise WeightsError(f"{path}: is no weight file that minifcn knows; it {what}. {_KNOWN}.")


def _zip_reader(path: Path) -> tuple[str, Callable[[Path], dict[str, np.ndarray]]]:
    """Both PyTorch and NumPy write zip archives; the names in them differ."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{path}: is a damaged or cut off zip archive ({error}); fetch it again.") from None
    for name in names:
        if re.match(r"/|[A-Za-z]:", name) or "\\" in name or ".." in name.split("/"):
            raise WeightsError(
                f"{path}: its entry {name[:60]!r} points out of the archive, as no program writes it. Fetch it anew."
            )
    if any(name.endswith("data.pkl") for name in names):
        return "PyTorch (zip)", pytorch.read_zip
    if any(name.endswith(".npy") for name in names):
        return "NumPy npz", npz.read
    raise WeightsError(
        f"{path}: is a zip archive, but neither of PyTorch (data.pkl) nor of NumPy (.npy); if it is a "
        f"packed weight file, unpack it first. {_KNOWN}."
    )
