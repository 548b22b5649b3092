"""The state of the fake device: its memory, what may be made to go wrong with it, and what it was asked to do."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory.OutOfMemoryError, message and all."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime.CUDARuntimeError: "name: text", and the status as a number."""

    def __init__(self, status: int, name: str, text: str) -> None:
        self.status = status
        super().__init__(f"{name}: {text}")


class CUDADriverError(RuntimeError):
    """As cupy.cuda.driver.CUDADriverError, which starting a kernel raises: the same numbers, other names."""

    def __init__(self, status: int, name: str, text: str) -> None:
        self.status = status
        super().__init__(f"{name}: {text}")


class CUBLASError(RuntimeError):
    """As cupy_backends.cuda.libs.cublas.CUBLASError."""


class CompileException(Exception):
    """As cupy.cuda.compiler.CompileException."""


class NVRTCError(RuntimeError):
    """As cupy_backends.cuda.libs.nvrtc.NVRTCError."""


class MemoryHook:
    """As cupy.cuda.MemoryHook: told of allocations while it is entered."""

    def __enter__(self) -> "MemoryHook":
        card.hooks.append(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        card.hooks.remove(self)


@dataclass
class Card:
    """fault: an exception that every computation raises. limit: bytes that a set_limit allows, 0 for all. kept_bytes:
    what CuPy's pool keeps for arrays to come (the fake's arrays get none of it).

    peak_bytes: the most that was in use at once. synchronizations: how often the host waited for a number. products:
    the dimensions of each matrix product's operands. launches: the kernels, by name. random: the order in which atomics
    happen to run.
    """

    count: int = 1
    compute_capability: str = "90"
    total_bytes: int = 8 * 2**30
    used_bytes: int = 0
    kept_bytes: int = 0
    peak_bytes: int = 0
    limit: int = 0
    fault: BaseException | None = None
    synchronizations: int = 0
    products: list[int] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)
    hooks: list[Any] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    lock: Any = field(default_factory=threading.RLock)  # memory is freed at any time, also while some is allocated
    thread: threading.local = field(default_factory=threading.local)

    @property
    def current(self) -> int:
        """The device in use, of each thread its own: 0 until it chooses another."""
        return getattr(self.thread, "device", 0)

    @current.setter
    def current(self, number: int) -> None:
        self.thread.device = number

    def compute(self) -> None:
        """Called before anything runs on the device."""
        if self.fault is not None:
            raise self.fault

    def allocate(self, size: int) -> None:
        """Called for every new array: OutOfMemoryError if it does not fit beside those that live."""
        with self.lock:
            if self.used_bytes + size > (self.limit or self.total_bytes):
                raise OutOfMemoryError(size, self.used_bytes, self.limit)
            self.used_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        for hook in self.hooks:
            hook.malloc_postprocess(size=size)

    def free(self, size: int) -> None:
        with self.lock:
            self.used_bytes -= size

    def wait(self) -> None:
        """The host waits for the device."""
        self.compute()
        self.synchronizations += 1


card = Card()
