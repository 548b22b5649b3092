"""PyTorch's weight files (.pth, .pt), read without PyTorch and without running anything that stands in them.

torch.save has written two containers, and files of both are in use:

- legacy, until PyTorch 1.5: pickles one after another (a magic number, the protocol's version, facts about the machine,
  the object itself, the keys of the storages), then for every storage, in the order of the keys, the number of its
  elements as a little-endian int64, and the elements. These are little-endian too, whatever the machine: what the third
  pickle says of it is not needed.
- zip: `<root>/data.pkl` is the object, `<root>/data/<key>` holds the bytes of a storage, uncompressed, and
  `<root>/byteorder` says "little" or "big" (without it: little).

`pickles` follows the pickles. All libraries for these files but a small one need PyTorch, and that one reads the zip
container only; so this was written.

Source: torch/serialization.py and torch/csrc/StorageMethods.cpp of PyTorch 2.13, and what it writes.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import SEEK_END, BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from minifcn.errors import WeightsError
from minifcn.weights.formats import bfloat16_to_float32
from minifcn.weights.formats.pickles import follow
from minifcn.weights.formats.torch_records import ElementType, Refusal, Storages, Tensor, brief, damaged, foreign
from minifcn.weights.limits import check_claim

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
MAX_PICKLE_BYTES = 64 * 2**20  # a state dict has about a hundred bytes for every tensor
CHUNK = 2**20  # bytes read from a zip at once: zipfile makes a copy of that size
MAX_DEPTH = 16  # dicts around a tensor; in checkpoints with the state of an optimiser there are five
MAX_NAME = 500  # letters

Found = list[tuple[tuple[str, ...], Tensor]]  # tensors, with the keys that lead to them

# Under which of these names training scripts put the state dict, beside optimiser, epoch and so on.
STATE_DICT_NAMES = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "module")


def is_legacy(head: bytes) -> bool:
    """Whether a file begins with the pickle of torch.save's magic number, of any binary protocol."""
    number = MAGIC_NUMBER.to_bytes(10, "little")
    return number in head[:32] or str(MAGIC_NUMBER).encode() in head[:32]  # protocol 1 writes it in decimals


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file in the zip container, by name; see read_legacy."""
    with _naming(path), open(path, "rb") as file, _open_archive(file) as archive:
        root = _root_of(archive)
        storages = Storages()
        tensors = _state_dict(follow(BytesIO(_small_entry(archive, f"{root}data.pkl")), storages))
        has_order = f"{root}byteorder" in archive.namelist()
        byte_order = _small_entry(archive, f"{root}byteorder") if has_order else b"little"
        if byte_order not in (b"little", b"big"):
            raise damaged("its byteorder is neither little nor big")

        def read(key: str, memory: memoryview) -> None:
            _read_entry(archive, f"{root}data/{key}", memory)

        return _arrays(path, tensors, storages, read, byte_order.decode())


def read_legacy(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file in the legacy container, by name.

    Returns arrays of the tensors' shapes, values and types, in native byte order; bfloat16 becomes float32, which holds
    every such number. Tensors that share memory in PyTorch share it here, and are views as they are there.
    The names are those of the state dict, also where it is one entry of a checkpoint; see _state_dict.

    Raises WeightsError, naming the file and the reason, if it is damaged or holds anything but plain tensors.
    """
    with _naming(path), open(path, "rb") as file:
        storages = Storages()
        tensors, positions = _legacy_contents(file, storages)

        def read(key: str, memory: memoryview) -> None:
            if key not in positions:
                raise damaged(f"storage {brief(key)} is missing")
            file.seek(positions[key])
            if file.readinto(memory) != len(memory):
                raise damaged(f"storage {brief(key)} is cut off")

        return _arrays(path, tensors, storages, read, "little")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Refusals become errors that name the file."""
    try:
        yield
    except Refusal as refusal:
        raise WeightsError(f"{path}: {refusal}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); a weight file is expected.") from None


# The zip container.


@contextmanager
def _zip_faults(what: str) -> Iterator[None]:
    """What zipfile raises for damaged files becomes a Refusal. (OSError, ValueError: positions below 0, odd names.)

    Nothing else may happen inside: a Refusal is a ValueError itself.
    """
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, OverflowError) as error:
        raise damaged(f"{what} cannot be read ({error!s:.100})") from None


def _open_archive(file: BufferedReader) -> zipfile.ZipFile:
    with _zip_faults("the zip archive"):
        return zipfile.ZipFile(file)


def _root_of(archive: zipfile.ZipFile) -> str:
    """The folder in the archive, with its slash. (Nothing is unpacked to disk; odd names are refused all the same.)"""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise damaged("two entries of the zip archive have one name")
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise damaged(f"the zip archive has an entry {brief(name)}")
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise foreign(f"is a zip archive with {len(roots)} entries data.pkl, and torch.save writes one")
    if f"{roots[0]}constants.pkl" in names or any(name.startswith(f"{roots[0]}code/") for name in names):
        raise foreign("is a TorchScript program: code, with weights in it")
    return roots[0]


def _small_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > MAX_PICKLE_BYTES:
        raise damaged(f"its entry {brief(name)} claims to have {size:,} bytes")
    content = bytearray(size)
    _read_entry(archive, name, memoryview(content))
    return bytes(content)


def _read_entry(archive: zipfile.ZipFile, name: str, memory: memoryview) -> None:
    """Fill the memory with an entry, which must have its size. At the end zipfile compares the checksum."""
    if name not in archive.NameToInfo or archive.getinfo(name).file_size != len(memory):
        raise damaged(f"its entry {brief(name)} is missing, or has not the {len(memory):,} bytes that it should have")
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise foreign(f"is a zip archive with a compressed or encrypted entry {brief(name)}")
    with _zip_faults(f"its entry {brief(name)}"), archive.open(info) as entry:
        for start in range(0, len(memory), CHUNK):
            part = memory[start : start + CHUNK]
            content = entry.read(len(part))
            if len(content) != len(part):
                raise EOFError("cut off")
            part[:] = content


# The legacy container.


def _legacy_contents(file: BufferedReader, storages: Storages) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The tensors, and where in the file the elements of each storage begin."""
    size = file.seek(0, SEEK_END)
    file.seek(0)
    stream = BytesIO(file.read(min(size, MAX_PICKLE_BYTES)))
    if follow(stream, storages) != MAGIC_NUMBER:
        raise foreign("is a pickle, but not one of torch.save")
    if follow(stream, storages) != PROTOCOL_VERSION:
        raise damaged(f"its protocol is not {PROTOCOL_VERSION}")
    follow(stream, storages)  # facts about the machine
    tensors = _state_dict(follow(stream, storages))
    keys = follow(stream, storages)
    if not isinstance(keys, list):
        raise damaged("it has no list of its storages")
    return tensors, _positions(file, stream.tell(), keys, storages)


def _positions(file: BufferedReader, position: int, keys: list[Any], storages: Storages) -> dict[str, int]:
    positions: dict[str, int] = {}
    for key in keys:
        if not isinstance(key, str) or key not in storages.known:
            raise damaged(f"it lists {brief(key)} as a storage, which no tensor has")
        file.seek(position)
        count, expected = int.from_bytes(file.read(8), "little", signed=True), storages.known[key][1]
        if count != expected:
            raise damaged(f"storage {brief(key)} should have {expected:,} elements, but has {count:,}")
        positions[key] = position + 8
        position += 8 + storages.bytes_of(key)
        if position > file.seek(0, SEEK_END):
            raise damaged("it is cut off")
    return positions


# From the object in the file to named tensors, and from these to arrays.


def _state_dict(value: Any) -> dict[str, Tensor]:
    """The tensors of the state dict, wherever it stands in the object.

    That is what one of STATE_DICT_NAMES leads to, as often as there is one; otherwise the dict that has tensors itself;
    otherwise the only entry with tensors in it. If there are several, all are returned, with names joined by dots.
    """
    found = _all_tensors(value)
    if not found:
        raise foreign("holds no tensors")
    if not found[0][0]:  # no keys lead to it: the file is one tensor
        return {"tensor": found[0][1]}
    while True:
        nested = {keys[0] for keys, _ in found if len(keys) > 1}
        direct: Found = [(keys, tensor) for keys, tensor in found if len(keys) == 1]
        usual = [name for name in STATE_DICT_NAMES if name in nested]
        if not usual and (direct or len(nested) > 1):
            return _named(direct or found)
        entry = usual[0] if usual else nested.pop()
        found = [(keys[1:], tensor) for keys, tensor in found if keys[0] == entry]


def _all_tensors(value: Any) -> Found:
    """Every tensor in dicts and lists, with the keys that lead to it; those with few keys first.

    A dict or list that occurs again is not entered again: it may contain itself.
    """
    found: Found = []
    places: list[tuple[tuple[str, ...], Any]] = [((), value)]
    entered: set[int] = set()
    for keys, place in places:  # which grows meanwhile
        if isinstance(place, Tensor):
            found.append((keys, place))
        elif isinstance(place, dict | list | tuple) and id(place) not in entered:
            if len(keys) >= MAX_DEPTH:
                raise foreign(f"has dicts and lists more than {MAX_DEPTH} deep")
            entered.add(id(place))
            inner = place.items() if isinstance(place, dict) else enumerate(place)
            places += [((*keys, str(key)), one) for key, one in inner if isinstance(one, Tensor | dict | list | tuple)]
    return found


def _named(found: Found) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for keys, tensor in found:
        if sum(len(key) + 1 for key in keys) > MAX_NAME:
            raise foreign(f"has a tensor with a name of more than {MAX_NAME} letters")
        name = ".".join(keys)
        if name in tensors or not name.isprintable():
            raise foreign(f"has two tensors with the name {brief(name)}, or it is no text")
        tensors[name] = tensor
    return tensors


def _arrays(
    path: Path,
    tensors: dict[str, Tensor],
    storages: Storages,
    read: Callable[[str, memoryview], None],
    byte_order: str,
) -> dict[str, np.ndarray]:
    """The tensors as views of their storages, each of which is read once, into its own memory.

    read(key, memory) fills the memory with the storage of that key.
    """
    expanded = [tensor.claim for tensor in tensors.values() if tensor.claim > storages.bytes_of(tensor.storage.key)]
    check_claim(path, sum(expanded))  # others are views of their storages: a tensor may have many names
    types: dict[str, ElementType] = {}
    for name, tensor in tensors.items():
        key, element = tensor.storage.key, tensor.storage.element
        if types.setdefault(key, element) != element:
            raise foreign(f"has a tensor {brief(name)} that shares its memory with tensors of another element type")
    check_claim(path, sum(storages.bytes_of(key) for key in types))

    def elements(key: str, element: ElementType) -> np.ndarray:
        memory = np.empty(storages.bytes_of(key), np.uint8)
        read(key, memory.data)
        width = element.stored.itemsize
        values = memory[: len(memory) // width * width].view(element.stored)
        if byte_order != sys.byteorder:
            values.byteswap(inplace=True)
        return values if element.loaded == element.stored else bfloat16_to_float32(values)

    loaded = {key: elements(key, element) for key, element in types.items()}
    return {name: tensor.of(loaded[tensor.storage.key]) for name, tensor in tensors.items()}
