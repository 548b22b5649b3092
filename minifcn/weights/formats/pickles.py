"""The pickles inside PyTorch's files, followed without unpickling them.

A pickle is a program for a small stack machine, and `pickle.load` runs it: it can import any module and call any
function with any arguments, so a file from a stranger does whatever its author likes. The machine here knows the same
instructions but owns no functions. A class or function that the pickle names is looked up in the table NAMES of
`torch_records`, and refused by its name when it is not there; what is there makes inert records. `pickletools` of the
standard library, which decodes the arguments of the instructions, executes nothing either.

Known are the instructions that dicts of tensors need, in protocols 1 to 5. (Protocol 0 has no way to name a storage.)

Source: the descriptions of the instructions in Lib/pickletools.py of CPython; torch/_utils.py of PyTorch 2.13.
"""

from __future__ import annotations

import pickletools
from io import BytesIO
from typing import Any

from minifcn.weights.formats.torch_records import (
    IGNORED,
    NAMES,
    Builder,
    Refusal,
    Storages,
    brief,
    damaged,
    enter,
    foreign,
)

# A tensor takes about 30 instructions. Each makes at most one small object, so this bounds memory and time.
MAX_INSTRUCTIONS = 4_000_000

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
                if self.pop_many(2)[0] is not IGNORED:
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
