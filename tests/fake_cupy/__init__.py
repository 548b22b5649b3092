"""A fake CuPy on NumPy, for machines without a GPU. Passing on it is not passing on a GPU.

It says no where CuPy says no: to host arrays, to what CuPy lacks, to half-precision sparse matrices; and does what
CuPy does where that differs from NumPy (see array.py, functions.py, sparse.py). It runs the text of the kernels on the
CPU (cuda_on_cpu.py), and knows nothing of speed, of rounding, or of what CUDA makes of that text; of streams, only what
waits for what (streams.py). `modules()` are to be put into `sys.modules`; facts.json says which names there are, and
derive.py makes it anew from an installed CuPy.
"""

import re
import types
from typing import Any

import numpy as np

from fake_cupy import cuda_on_cpu, functions, sparse, streams
from fake_cupy.array import FACTS, ndarray
from fake_cupy.device import (
    CompileException,
    CUBLASError,
    CUDADriverError,
    CUDARuntimeError,
    MemoryHook,
    NVRTCError,
    OutOfMemoryError,
    card,
)
from fake_cupy.streams import StreamError
from minifcn.kernels.kernel import C_TYPES

__all__ = [
    "CUBLASError",
    "CUDADriverError",
    "CUDARuntimeError",
    "CompileException",
    "NVRTCError",
    "OutOfMemoryError",
    "StreamError",
    "card",
    "modules",
    "ndarray",
]


def modules() -> dict[str, types.ModuleType]:
    """The modules of CuPy by name."""
    made = {name: _Module(name) for name in ("cupy", "cupyx", "cupyx.scipy", "cupyx.scipy.sparse")}
    cupy = made["cupy"]
    cupy.__version__ = f"{FACTS['cupy']} (fake)"
    cupy.ndarray = ndarray
    cupy.asnumpy, cupy.get_array_module = functions.asnumpy, functions.get_array_module
    cupy.cuda = _cuda()
    cupy.random = types.SimpleNamespace(default_rng=_Generator, Generator=_Generator)
    cupy.get_default_memory_pool = lambda: _Pool
    cupy.RawModule = _RawModule
    cupy.lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=functions.as_strided))
    cupyx = made["cupyx"]
    cupyx.scipy = made["cupyx.scipy"]
    cupyx.scatter_add = functions.scatter("add")
    made["cupyx.scipy"].sparse = made["cupyx.scipy.sparse"]
    vars(made["cupyx.scipy.sparse"]).update(sparse.NAMES)
    return made


class _Module(types.ModuleType):
    """A module whose names are those of the facts."""

    def __getattr__(self, name: str) -> Any:
        if self.__name__ == "cupy":
            if name in FACTS["shared"]:
                return getattr(np, name)
            if name in FACTS["ufuncs"]:
                return functions.ufunc(name)
            if name in FACTS["functions"] and name not in functions.UNTAUGHT:
                return lambda *arguments, **keywords: functions.call(name, arguments, keywords)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} (CuPy has none, or it is untaught)")


class _Generator:
    """cupy.random.Generator has neither permutation nor choice nor shuffle, and its state cannot be saved."""

    def __init__(self, seed: Any = None) -> None:
        self._host = np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in FACTS["generator"]:
            raise AttributeError(f"'Generator' object has no attribute {name!r}")
        # Another stream of numbers than NumPy's from the same seed.
        return lambda *arguments, **keywords: functions.wrap(1 - getattr(self._host, name)(*arguments, **keywords))

    def __reduce__(self) -> Any:
        raise TypeError("no default __reduce__ due to non-trivial __cinit__")


class _Pool:
    """cupy.get_default_memory_pool()."""

    @staticmethod
    def set_limit(size: int | None = None, fraction: float | None = None) -> None:
        card.limit = int(card.total_bytes * fraction) if size is None and fraction is not None else size or 0

    @staticmethod
    def get_limit() -> int:
        return card.limit

    @staticmethod
    def used_bytes() -> int:
        return card.used_bytes

    @staticmethod
    def total_bytes() -> int:
        return card.used_bytes + card.kept_bytes

    @staticmethod
    def free_all_blocks() -> None:
        card.kept_bytes = 0


class _Device:
    def __init__(self, number: int | None = None) -> None:
        self.id = card.current if number is None else number
        self.compute_capability = card.compute_capability

    def use(self) -> None:
        card.compute()
        card.current = self.id

    def __enter__(self) -> "_Device":
        self._before, card.current = card.current, self.id
        return self

    def __exit__(self, *exception: Any) -> None:
        card.current = self._before


def _count() -> int:
    if isinstance(card.fault, CUDARuntimeError):
        raise card.fault
    return card.count


def _cuda() -> types.SimpleNamespace:
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=_count,
        getDeviceProperties=lambda number: {"name": b"fake device", "totalGlobalMem": card.total_bytes},
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        memGetInfo=lambda: (card.total_bytes - card.used_bytes - card.kept_bytes, card.total_bytes),
    )
    return types.SimpleNamespace(
        runtime=runtime,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        compiler=types.SimpleNamespace(CompileException=CompileException),
        Device=_Device,
        MemoryHook=MemoryHook,
        Stream=streams.Stream,
        Event=streams.Event,
        get_current_stream=streams.current_stream,
        get_elapsed_time=streams.elapsed_milliseconds,
        is_available=lambda: card.count > 0,
    )


class _RawModule:
    """A launch checks what CUDA would take without a word, and runs the kernel's own text on the CPU."""

    def __init__(self, *, code: str, **options: Any) -> None:
        self.code = code

    def get_function(self, name: str) -> Any:
        signature = re.search(rf"void {name}\((.*?)\) {{", self.code)
        if signature is None:
            raise CUDARuntimeError(500, "cudaErrorSymbolNotFound", "named symbol not found")
        parameters = tuple(parameter.strip() for parameter in signature[1].split(","))
        declared = [parameter.removeprefix("const ").replace(" __restrict__", "") for parameter in parameters]

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            card.compute()
            card.launches.append(name)
            if len(arguments) != len(declared):
                raise TypeError(f"{name}: {len(arguments)} arguments for {len(declared)} parameters")
            if not (0 < block[0] <= 1024 and 0 < grid[0] < 2**31):
                raise CUDARuntimeError(9, "cudaErrorInvalidConfiguration", "invalid configuration argument")
            values = [_argument(name, *pair) for pair in zip(declared, arguments, strict=True)]
            compiled = cuda_on_cpu.compiled(self.code, name, parameters, cuda_on_cpu.LIMIT)
            compiled(grid[0], block[0], values)

        return launch


def _argument(name: str, parameter: str, value: Any) -> Any:
    """What a kernel reads: the memory of a contiguous device array of the declared type, or a number of that size."""
    declared = _C_TYPES[parameter.rpartition(" ")[0].removesuffix("*").strip()]
    if "*" in parameter:
        if not isinstance(value, ndarray) or value.dtype != declared or not value.flags.c_contiguous:
            what = f"{value.dtype} of {value.shape}" if isinstance(value, ndarray) else type(value)
            raise TypeError(f"{name}: {parameter} is given {what}, not a contiguous device array of {declared}")
        return value._memory
    if not isinstance(value, np.generic) or value.dtype != declared:
        raise TypeError(
            f"{name}: {parameter} is given {value!r} ({type(value).__name__}), whose bytes mean another number"
        )
    return value


_C_TYPES = {name: np.dtype(dtype) for dtype, name in C_TYPES.items()}
