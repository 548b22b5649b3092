"""What every library offers to the benchmark: one side of the comparison."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from minifcn.benchmarking.cases import Case

Workload = Callable[[], dict[str, Any]]
"""One call of a case: its outputs and gradients by name, as raw arrays of the library."""

# The library's import name, and the module and class of its side; minifcn, which is always there, is the first side.
_OTHERS = {
    "torch": ("pytorch_side", "PyTorchSide"),
    "dezero": ("chainer_side", "DeZeroSide"),
    "chainer": ("chainer_side", "ChainerSide"),
}


@dataclass(frozen=True)
class PeakMemory:
    """Bytes in memory: `ready` before the first call, `peak` at most until the last one ended."""

    ready: int
    peak: int


class Card(Protocol):
    """A GPU as one library sees it. tf32: whether it may compute with 10 bits there, so that results agree roughly."""

    tf32: bool

    def record(self) -> Any:
        """A CUDA event, in the stream in which the library computes."""
        ...

    def seconds(self, first: Any, last: Any) -> float:
        """Between two events; waits for the second."""
        ...

    def peak(self, work: Callable[[], Any]) -> PeakMemory:
        """Bytes of the library's arrays on the card: before, and at most, while it works."""
        ...

    def copy(self, size: int) -> Callable[[], Any]:
        """So many bytes copied from one place on the card to another."""
        ...


class Side(Protocol):
    """A library that computes cases. Making one imports the library, by its name `library`; `name` is for readers."""

    name: str
    library: str

    @property
    def version(self) -> str: ...

    def set_threads(self, threads: int) -> None: ...

    def get_threads(self) -> int:
        """How many threads the library says that it uses."""
        ...

    def workload(self, case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
        """Everything made ready for calls of a case; BenchmarkError if the library has no such computation."""
        ...

    def matrix_product(self, size: int, device: str) -> Workload:
        """The product of two float32 matrices (size, size), by the library's own means."""
        ...

    def synchronize(self, device: str) -> None:
        """Wait until the device has done everything that was asked of it."""
        ...

    def card(self, device: str) -> Card:
        """A GPU as this library sees it."""
        ...

    def to_numpy(self, array: Any) -> np.ndarray: ...


def find_sides(without: Sequence[str] = (), device: str = "cpu") -> tuple[list[Side], dict[str, str]]:
    """minifcn's side and those of the libraries that can be imported; and why each of the others is not there.

    without: import names of libraries that are not wanted. On a GPU PyTorch stands there twice: with minifcn's
    precision, and with the flags that it has by itself.
    """
    sides, absent = [open_side("minifcn")], {}
    for library in _OTHERS:
        if library in without:
            absent[library] = "not asked for"
        elif importlib.util.find_spec(library) is None:
            absent[library] = "not installed"
        else:
            try:
                sides.append(open_side(library))
            except Exception as error:  # whatever an old library meets on a new Python or NumPy
                reason = (str(error).splitlines() or [""])[0]
                absent[library] = f"installed, but cannot be imported: {type(error).__name__}: {reason}"
    if device != "cpu":
        sides += [open_side("torch as it comes") for side in sides if side.library == "torch"]
    return sides, absent


def open_side(library: str) -> Side:
    """The side of a library, by its import name."""
    others = {**_OTHERS, "torch as it comes": ("pytorch_side", "PyTorchAsItComes")}
    module, kind = others.get(library, ("minifcn_side", "MinifcnSide"))
    side: Side = getattr(importlib.import_module(f"minifcn.benchmarking.{module}"), kind)()
    return side
