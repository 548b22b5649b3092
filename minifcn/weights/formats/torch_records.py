"""What PyTorch's pickles are about: element types, storages, tensors, and the names that stand for them.

All of it is inert: a Tensor is a few numbers and the key of a Storage, whose elements stand elsewhere in the file.
NAMES is the whole list of what a pickle may name; `pickles` refuses everything else.

Source: torch/_utils.py and torch/serialization.py of PyTorch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from minifcn.errors import WeightsError

MAX_DIMENSIONS = 64  # NumPy's


class Refusal(WeightsError):
    """Why a file is refused, and the remedy. Whoever opened the file puts its name before it."""


def damaged(fault: str) -> Refusal:
    """The refusal of a file that is not as it was written."""
    return Refusal(f"is damaged, or not what torch.save writes: {fault}. Copy or download it again.")


def foreign(content: str) -> Refusal:
    """The refusal of a file that holds something else than named arrays."""
    return Refusal(
        f"{content}. Open it with PyTorch where you trust the file, and save only the state dict: "
        'torch.save(model.state_dict(), "weights.pth").'
    )


def brief(value: Any) -> str:
    """A value of the file for an error message: on one line, and short, however long or deep it is."""
    return repr(value[:60]) if isinstance(value, str) else f"a value of type {type(value).__name__}"


# Elements, storages and tensors.


@dataclass(frozen=True)
class ElementType:
    """PyTorch's name of an element type, and the NumPy type that has its bits."""

    name: str
    stored: np.dtype

    @property
    def loaded(self) -> np.dtype:
        """NumPy has no bfloat16. It is the upper half of a float32, which therefore holds every such number."""
        return np.dtype(np.float32) if self.name == "bfloat16" else self.stored


@dataclass(frozen=True)
class Storage:
    """`count` elements of the storage `key`, from element `start` on."""

    key: str
    element: ElementType
    start: int
    count: int


class Storages:
    """The storages that a pickle names. The same one may be named many times, but always in the same way."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[ElementType, int]] = {}  # by key: type and number of its elements

    def bytes_of(self, key: str) -> int:
        element, count = self.known[key]
        return count * element.stored.itemsize

    def find(self, identity: Any) -> Storage:
        """What stands for a persistent id: ("storage", type, key, device, count[, None or view]).

        Old files have views of storages, too: (a key of its own, first element, number of elements).
        """
        match identity:
            case ("storage", ElementType() as element, str(key), _, int(count)):
                start, length = 0, count
            case ("storage", ElementType() as element, str(key), _, int(count), None):
                start, length = 0, count
            case ("storage", ElementType() as element, str(key), _, int(count), (_, int(start), int(length))):
                pass
            case _:
                raise damaged("the description of a storage makes no sense")
        if not 0 <= start <= start + length <= count < 2**60:
            raise damaged(f"storage {brief(key)} cannot have that size")
        if self.known.setdefault(key, (element, count)) != (element, count):
            raise damaged(f"storage {brief(key)} is described in two ways")
        return Storage(key, element, start, length)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage: element i, j, … is offset + i·stride[0] + j·stride[1] + …, all counted in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.size, *self.stride)
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise damaged("the offset, size or stride of a tensor is not a number, or below 0")
        if len(self.size) != len(self.stride) or len(self.size) > MAX_DIMENSIONS or self.claim >= 2**63:
            raise damaged(f"a tensor cannot have the size {self.size!s:.60}")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        if 0 not in self.size and last >= self.storage.count:
            where = f"storage {brief(self.storage.key)} of {self.storage.count:,} elements"
            raise damaged(f"a tensor of size {self.size!s:.60} does not fit into {where}")

    @property
    def claim(self) -> int:
        """Bytes of a copy. (A size of 0 counts as 1: NumPy wants the other sizes to fit, too.)"""
        return self.storage.element.loaded.itemsize * prod(max(size, 1) for size in self.size)

    def of(self, elements: np.ndarray) -> np.ndarray:
        """This view of the whole storage's elements. (NumPy, too, refuses one that would leave it.)"""
        if 0 in self.size:  # and offset and strides may be anything
            return np.empty(self.size, elements.dtype)
        width = elements.itemsize
        strides = tuple(width * stride if size > 1 else 0 for size, stride in zip(self.size, self.stride, strict=True))
        return np.ndarray(self.size, elements.dtype, elements, width * (self.storage.start + self.offset), strides)


# What the names in a pickle stand for.


@dataclass(frozen=True)
class Builder:
    """What an instruction REDUCE may call: a function of ours that makes an inert value of the tuple of arguments."""

    build: Callable[[tuple], Any]


def _tensor(arguments: tuple) -> Tensor:
    """_rebuild_tensor(storage, offset, size, stride); version 2 goes on with requires_grad, hooks[, metadata]."""
    match arguments:
        case (Storage() as storage, offset, tuple() as size, tuple() as stride, *rest):
            if any(rest[2:]):
                raise foreign("has a tensor with metadata, such as one that is to be negated or conjugated before use")
            return Tensor(storage, offset, size, stride)
    raise damaged("the description of a tensor makes no sense")


def _tensor_v3(arguments: tuple) -> Tensor:
    """_rebuild_tensor_v3(…, requires_grad, hooks, dtype[, metadata]), for types younger than typed storages."""
    match arguments:
        case (Storage(start=0) as storage, _, _, _, _, _, ElementType() as element, *_) if storage.element == _UNTYPED:
            storage = replace(storage, element=element, count=storage.count // element.stored.itemsize)
            return _tensor((storage, *arguments[1:6], *arguments[7:]))
    raise damaged("the description of a tensor makes no sense")


def _ordered_dict(arguments: tuple) -> dict[Any, Any]:
    """OrderedDict(), filled by later instructions, or OrderedDict([[key, value], …]), as Python 2 writes it."""
    match arguments:
        case ():
            return {}
        case (list() as pairs,) if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            entries: dict[Any, Any] = {}
            for key, value in pairs:
                enter(entries, key, value)
            return entries
    raise damaged("an OrderedDict is not made of pairs")


def _first(kind: type) -> Builder:
    """A function that, as far as it matters here, hands on its first argument."""

    def first(arguments: tuple) -> Any:
        if not arguments or not isinstance(arguments[0], kind):
            raise damaged(f"a {kind.__name__} is missing")
        return arguments[0]

    return Builder(first)


def checked_key(key: Any) -> Any:
    """The key of a dict if it is a str or an int of 64 bits; Refusal for others.

    Python computes the hash of a tuple recursively, so one that is nested deep enough crashes it; and it has as many
    ints of one hash as one likes, so that a dict of these takes for ever.
    """
    if isinstance(key, str) or (isinstance(key, int) and -(2**63) <= key < 2**63):
        return key
    raise foreign(f"has a dict with {brief(key)} as a key, and only strings and whole numbers of 64 bits are read")


def enter(entries: dict[Any, Any], key: Any, value: Any) -> None:
    """Put a value into a dict that has none of this key: the last of two would win in silence."""
    if checked_key(key) in entries:
        raise damaged(f"a dict has the key {key!r:.60} twice")
    entries[key] = value


_PLAIN = (
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_ELEMENT_TYPES = {name: ElementType(name, np.dtype(name)) for name in _PLAIN}
_ELEMENT_TYPES["bfloat16"] = ElementType("bfloat16", np.dtype(np.uint16))
_UNTYPED = ElementType("untyped", np.dtype(np.uint8))
_STORAGE_TYPES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Byte": "uint8", "Char": "int8",
    "Short": "int16", "Int": "int32", "Long": "int64", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}  # fmt: skip
IGNORED = Builder(lambda arguments: None)  # harmless values beside the tensors
NAMES: dict[str, Any] = {
    "collections.OrderedDict": Builder(_ordered_dict),
    "torch._utils._rebuild_tensor": Builder(_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(_tensor),
    "torch._utils._rebuild_tensor_v3": Builder(_tensor_v3),
    "torch._utils._rebuild_parameter": _first(Tensor),
    "torch._utils._rebuild_parameter_with_state": _first(Tensor),
    "torch.Size": _first(tuple),
    "torch.device": IGNORED,
    "_codecs.encode": IGNORED,  # how protocol 2 writes bytes
    "collections.Counter": IGNORED,  # in the state of schedulers
    "argparse.Namespace": IGNORED,  # the options of a training script
    "numpy.dtype": IGNORED,
    "numpy.core.multiarray.scalar": IGNORED,  # the best accuracy so far, say
    "numpy._core.multiarray.scalar": IGNORED,  # the same since NumPy 2
    "torch.UntypedStorage": _UNTYPED,
    "torch.storage.UntypedStorage": _UNTYPED,
    **{f"torch.{name}Storage": _ELEMENT_TYPES[element] for name, element in _STORAGE_TYPES.items()},
    **{f"torch.{name}": element for name, element in _ELEMENT_TYPES.items()},
}
