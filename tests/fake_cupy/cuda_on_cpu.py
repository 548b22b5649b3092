"""The CUDA of a kernel, run on the CPU: the same text, compiled as C++, one thread of the grid after the other.

The kernels of this project use no shared memory, no barriers and no atomics, so that a loop over the grid runs them as
they are. What it shows: that the arithmetic and the indices are right, and that nothing is written outside the arrays.
What it cannot show: that they run on a GPU. `compiler()` is None where there is no C++ compiler.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# What CUDA has and C++ lacks. math.h, in C++, brings exp(float) as CUDA has it.
_HEADER = """
#include <math.h>
#include <algorithm>
#define __global__
using std::min;
struct Three { unsigned x, y, z; };
static thread_local Three gridDim, blockDim, blockIdx, threadIdx;
"""
# An int that tells when it grows beyond LIMIT: with one of 100, an array of 1,000 numbers is what one of 10¹⁰ is to a
# real int, and whatever counts the numbers in it has to be a long long.
_SMALL_INT = """
static bool too_large = false;
struct Small {
    signed number;
    Small() = default;
    Small(long long value) : number((signed)value) { too_large |= value > LIMIT || value < -LIMIT; }
    operator long long() const { return number; }
    Small& operator++() { return *this = Small((long long)number + 1); }
    Small& operator--() { return *this = Small((long long)number - 1); }
};
#define OPERATOR(op, Result, LargeResult) \\
    inline Result operator op(Small a, Small b) { return Result((long long)a op (long long)b); } \\
    inline Result operator op(Small a, signed b) { return Result((long long)a op b); } \\
    inline Result operator op(signed a, Small b) { return Result(a op (long long)b); } \\
    inline LargeResult operator op(Small a, long long b) { return (long long)a op b; } \\
    inline LargeResult operator op(long long a, Small b) { return a op (long long)b; }
#define ARITHMETIC(op) OPERATOR(op, Small, long long)
#define COMPARISON(op) OPERATOR(op, bool, bool)
ARITHMETIC(+) ARITHMETIC(-) ARITHMETIC(*) ARITHMETIC(/) ARITHMETIC(%)
COMPARISON(<) COMPARISON(>) COMPARISON(<=) COMPARISON(>=) COMPARISON(==) COMPARISON(!=)
extern "C" bool overflows() { return too_large; }
#define int Small
"""
_LAUNCH = """
extern "C" void launch(unsigned grid, unsigned block, {declarations}) {{
    gridDim = {{grid, 1, 1}};
    blockDim = {{block, 1, 1}};
    for (unsigned b = 0; b < grid; ++b) {{
        for (unsigned t = 0; t < block; ++t) {{
            blockIdx = {{b, 0, 0}};
            threadIdx = {{t, 0, 0}};
            {name}({names});
        }}
    }}
}}
"""
LIMIT: int | None = None  # that an int in a kernel may not exceed, for a test; None for that of an int
GUARD = 64  # elements before and after each array, which no kernel may change, or let count in a result


@functools.cache
def compiler() -> str | None:
    return next((found for name in ("g++", "clang++", "c++") if (found := shutil.which(name))), None)


@functools.cache
def compiled(code: str, name: str, parameters: tuple[str, ...], limit: int | None = None) -> Callable[..., None]:
    """A function (grid, block, arguments) that runs the kernel of this name; parameters: their declarations.

    limit: see LIMIT.
    """
    names = [parameter.rpartition(" ")[2] for parameter in parameters]
    header = _HEADER if limit is None else _HEADER + _SMALL_INT.replace("LIMIT", str(limit))
    text = header + code + _LAUNCH.format(declarations=", ".join(parameters), name=name, names=", ".join(names))
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        source.write_text(text, encoding="utf-8")
        options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
        options += ["-Wno-unknown-pragmas"]  # CUDA's, to unroll loops
        done = subprocess.run([str(compiler()), *options, "-o", library, source], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        loaded = ctypes.CDLL(str(library))
    launch = loaded.launch
    launch.restype = None

    def run(grid: int, block: int, arguments: list[Any]) -> None:
        guarded, passed = {}, []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                key = argument.ctypes.data, argument.nbytes  # one array passed twice is one memory
                guarded.setdefault(key, (argument, _guarded(argument)))
                passed.append(ctypes.c_void_p(guarded[key][1].ctypes.data + GUARD * argument.itemsize))
            else:
                passed.append(np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item()))
        launch(ctypes.c_uint(grid), ctypes.c_uint(block), *passed)
        if limit is not None and loaded.overflows():
            raise AssertionError(f"{name} has an int beyond {limit}")
        for argument, memory in guarded.values():
            fences = _guarded(argument)
            for fence in (slice(None, GUARD), slice(-GUARD, None)):
                if memory[fence].tobytes() != fences[fence].tobytes():
                    raise AssertionError(f"{name} writes outside an array of {argument.shape} {argument.dtype}")
            if argument.flags.writeable:
                argument.reshape(-1)[...] = memory[GUARD:-GUARD]
            elif argument.tobytes() != memory[GUARD:-GUARD].tobytes():
                raise ValueError(f"{name} writes into a read-only array")

    return run


def _guarded(array: np.ndarray) -> np.ndarray:
    """A copy with fences: NaN, or for whole numbers one that leads far outside of every array."""
    memory = np.full(array.size + 2 * GUARD, np.nan if array.dtype.kind == "f" else 113, array.dtype)
    memory[GUARD:-GUARD] = array.ravel()
    return memory
