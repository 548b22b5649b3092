"""The pickles inside PyTorch's files, followed without unpickling them.

A pickle is a program for a small stack machine, and `pickle.load` runs it: it can import any module and call any
function with any arguments, so a file from a stranger does whatever its author likes. The machine here knows the same
instructions but owns no functions. A class or function that the pickle names is looked up in the table NAMES, and
refused by its name when it is not there; what is there makes inert records: a Tensor is a few numbers and the key of a
Storage, whose elements stand elsewhere in the file. `pickletools` of the standard library, which decodes the arguments
of the instructions, executes nothing either.

Known are the instructions that dicts of tensors need, in protocols 1 to 5. (Protocol 0 has no way to name a storage.)

Source: the descriptions of the instructions in Lib/pickletools.py of CPython; torch/_utils.py of PyTorch 2.13.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from math import prod
from typing import Any

import numpy as np

from minifcn.errors import WeightsError

# A tensor takes about 30 instructions. Each makes at most one small object, so this bounds memory and time.
MAX_INSTRUCTIONS = 4_000_000
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
_IGNORED = Builder(lambda arguments: None)  # harmless values beside the tensors
NAMES: dict[str, Any] = {
    "collections.OrderedDict": Builder(_ordered_dict),
    "torch._utils._rebuild_tensor": Builder(_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(_tensor),
    "torch._utils._rebuild_tensor_v3": Builder(_tensor_v3),
    "torch._utils._rebuild_parameter": _first(Tensor),
    "torch._utils._rebuild_parameter_with_state": _first(Tensor),
    "torch.Size": _first(tuple),
    "torch.device": _IGNORED,
    "_codecs.encode": _IGNORED,  # how protocol 2 writes bytes
    "collections.Counter": _IGNORED,  # in the state of schedulers
    "argparse.Namespace": _IGNORED,  # the options of a training script
    "numpy.dtype": _IGNORED,
    "numpy.core.multiarray.scalar": _IGNORED,  # the best accuracy so far, say
    "numpy._core.multiarray.scalar": _IGNORED,  # the same since NumPy 2
    "torch.UntypedStorage": _UNTYPED,
    "torch.storage.UntypedStorage": _UNTYPED,
    **{f"torch.{name}Storage": _ELEMENT_TYPES[element] for name, element in _STORAGE_TYPES.items()},
    **{f"torch.{name}": element for name, element in _ELEMENT_TYPES.items()},
}


# The machine.

_VALUES = {  # the instructions that put their argument on the stack
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BINSTRING", "SHORT_BINSTRING"),  # of Python 2: bytes of no encoding; pickletools takes Latin-1
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def follow(stream: BytesIO, storages: Storages) -> Any:
    """The value that the pickle at the stream's position describes; the stream then stands behind the pickle.

    stream: holds all that may be read, so that a string of a claimed 10 TB is cut there and not allocated.
    storages: takes note of the storages.

    The value consists of None, bool, int, float, str, bytes, tuple, list, dict (with keys str and int), Tensor and the
    other records of this module. It may contain itself. Raises Refusal for everything else.
    """
    return _Machine(stream, storages).run()


class _Machine:
    def __init__(self, stream: BytesIO, storages: Storages):
        self.stream, self.storages = stream, storages
        self.stack: list[Any] = []
        self.marks: list[int] = []  # for every open MARK, how high the stack was
        self.memo: dict[int, Any] = {}  # a dict: the indices come from the file, and may be as large as it likes
        self.allowance = MAX_INSTRUCTIONS
        self.position = 0

    def run(self) -> Any:
        while True:
            self.position = self.stream.tell()
            opcode = _OPCODES.get(self.stream.read(1))
            if opcode is None:
                raise self.fault("there is no pickle, or it is cut off")
            self.spend(1)
            if opcode.name == "STOP":
                return self.pop()
            self.step(opcode)

    def step(self, opcode: pickletools.OpcodeInfo) -> None:
        """Carry out one instruction. What is not listed here is refused, its argument not even decoded."""
        stack = self.stack
        match opcode.name:
            case name if name in _VALUES:
                stack.append(self.argument(opcode))
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "BINPUT" | "LONG_BINPUT":
                self.memo[self.argument(opcode)] = self.top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "BINGET" | "LONG_BINGET":
                index = self.argument(opcode)
                if index not in self.memo:
                    raise self.fault("a value is used that was never stored")
                stack.append(self.memo[index])
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self.pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop_many(int(opcode.name[-1]))))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND" | "APPENDS":
                self.extend_list([self.pop()] if opcode.name == "APPEND" else self.pop_to_mark())
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM" | "SETITEMS":
                self.extend_dict(self.pop_many(2) if opcode.name == "SETITEM" else self.pop_to_mark())
            case "GLOBAL":
                # Not by pickletools, which takes backslashes for escapes, and warns of them.
                module, called = (self.stream.readline()[:-1].decode("ascii", "backslashreplace") for _ in range(2))
                stack.append(self.find_name(module, called))
            case "STACK_GLOBAL":
                stack.append(self.find_name(*self.pop_many(2)))
            case "REDUCE":
                self.reduce(*self.pop_many(2))
            case "NEWOBJ":  # an object of a class: only of those that are ignored
                if self.pop_many(2)[0] is not _IGNORED:
                    raise foreign(
                        f"makes an object by NEWOBJ at byte {self.position} of its pickle, which no tensor needs"
                    )
                stack.append(None)
            case "BUILD":  # sets attributes, such as the _metadata of a state dict: none of them is a tensor
                self.pop()
            case "BINPERSID":
                stack.append(self.storages.find(self.pop()))
            case "PROTO" | "FRAME":  # the number of the protocol, and how many bytes to read ahead: not needed
                self.argument(opcode)
            case name:
                raise foreign(f"has an instruction {name} at byte {self.position} of its pickle, which no tensor needs")

    def argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        """What stands behind the instruction in the stream."""
        assert opcode.arg is not None
        try:
            return opcode.arg.reader(self.stream)
        except ValueError:
            raise self.fault(f"the argument of {opcode.name} is cut off or makes no sense") from None

    def find_name(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.fault("a name is not a string")
        if (full := f"{module}.{name}") not in NAMES:
            raise foreign(f"contains {brief(full)}, and only dicts and lists of plain tensors are read")
        return NAMES[full]

    def reduce(self, builder: Any, arguments: Any) -> None:
        if not isinstance(builder, Builder) or not isinstance(arguments, tuple):
            raise self.fault(f"{brief(builder)} is called with {brief(arguments)}")
        # The one instruction whose work is not bounded by what it takes from the stack: a builder may copy a long list
        # that the memo hands to it again and again.
        self.spend(len(arguments))
        self.spend(sum(len(argument) for argument in arguments if isinstance(argument, list | tuple)))
        self.stack.append(builder.build(arguments))

    def extend_list(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise self.fault(f"items are appended to {brief(target)}")
        target.extend(items)

    def extend_dict(self, items: list[Any]) -> None:
        """items: key, value, key, value, …"""
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise self.fault(f"{len(items)} keys and values are put into {brief(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            enter(target, key, value)

    def top(self) -> Any:
        """The topmost value, which stays there."""
        self.stack.append(self.pop())
        return self.stack[-1]

    def pop(self) -> Any:
        return self.pop_many(1)[0]

    def pop_many(self, count: int) -> list[Any]:
        return self.cut(len(self.stack) - count)

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.fault("the beginning of a list, tuple or dict is missing")
        return self.cut(self.marks.pop())

    def cut(self, height: int) -> list[Any]:
        if height < (self.marks[-1] if self.marks else 0):
            raise self.fault("an instruction needs more values than there are")
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def spend(self, instructions: int) -> None:
        self.allowance -= instructions
        if self.allowance < 0:
            raise foreign(f"has more than {MAX_INSTRUCTIONS:,} instructions in its pickle")

    def fault(self, what: str) -> Refusal:
        return damaged(f"{what} (byte {self.position} of its pickle)")
