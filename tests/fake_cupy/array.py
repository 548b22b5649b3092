"""The fake device's array: NumPy underneath, with CuPy's manners.

How cupy.ndarray differs from NumPy's, read in its source (cupy/_core/core.pyx, _kernel.pyx, _routines_indexing.pyx):

- no conversion to a host array but by `get` (`__array__` raises TypeError), and no operation with one;
- reductions and single elements are arrays of dimension 0; `float`, `bool`, `item` wait for the device;
- integer arrays as indices wrap around where they are out of range; which value stays when an assignment names a
  place twice is undefined; `add.at` adds in any order;
- ufuncs know `out`, `dtype` and `casting`, but no `where`; reductions neither `where` nor `initial`; comparisons with
  lists are refused; flags cannot be set.

The fake is stricter than CuPy in one thing: a host array as an index is refused, which CuPy would copy to the device
in silence.
"""

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from fake_cupy.device import card
from fake_cupy.streams import Place

FACTS = json.loads(Path(__file__).with_name("facts.json").read_text(encoding="utf-8"))
NOT_A_HOST_ARRAY = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
_IN_ANY_ORDER = ("add", "subtract", "maximum", "minimum")  # the ufuncs with an `at`, all by atomics
_VIEWS = ("T", "mT", "real", "imag")


class Flags:
    """c_contiguous, f_contiguous and owndata; nothing to set, and no `writeable`."""

    __slots__ = ("_flags",)

    def __init__(self, flags: Any) -> None:
        object.__setattr__(self, "_flags", flags)

    def __getattr__(self, name: str) -> bool:
        if name not in ("c_contiguous", "f_contiguous", "owndata", "forc", "fnc"):
            raise AttributeError(f"'Flags' object has no attribute {name!r}")
        return bool(getattr(self._flags, name))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"'Flags' object attribute {name!r} cannot be set")


def _free(size: int, place: Place) -> None:
    card.free(size)
    place.free()


class ndarray(NDArrayOperatorsMixin):
    __slots__ = ("__weakref__", "_place", "_raw")

    def __init__(self, memory: np.ndarray) -> None:
        """Only the fake itself makes arrays like this; a test or the library uses cupy.array and the like."""
        if memory.dtype.kind not in "biufc" or memory.dtype.itemsize > 16 or memory.dtype.char in "gG":
            raise ValueError(f"Unsupported dtype {memory.dtype}")
        self._raw, self._place = memory, Place()
        if memory.base is None:
            card.allocate(memory.nbytes)
            weakref.finalize(memory, _free, memory.nbytes, self._place).atexit = False

    @property
    def _memory(self) -> np.ndarray:
        """What is computed with, by the current stream."""
        self._place.use()
        return self._raw

    # What is hidden, and what is refused.

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(NOT_A_HOST_ARRAY)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        name = ufunc.__name__
        if name not in FACTS["ufuncs"]:
            return NotImplemented
        if method == "at" and name in _IN_ANY_ORDER:
            return _at(ufunc, *inputs)
        if method != "__call__":
            return NotImplemented
        if wrong := keywords.keys() - {"out", "dtype", "casting"}:
            raise TypeError(f"Wrong arguments {wrong}")
        card.compute()
        if name == "matmul":
            card.products.append(max(array.ndim for array in inputs))
        outs = keywords.pop("out", None)
        if outs is not None:
            keywords["out"] = tuple(None if out is None else _only_device(out) for out in outs)
        result = ufunc(*(operand(value) for value in inputs), **keywords)
        if outs is not None and len(outs) == 1:
            return outs[0]
        return wrap(result)

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        """np.sum(device array) goes to cupy.sum, as in CuPy."""
        from fake_cupy.functions import call

        if function.__module__ != "numpy" or function.__name__ not in FACTS["functions"]:
            return NotImplemented
        return call(function.__name__, arguments, keywords)

    # What makes the host wait.

    def get(self, *arguments: Any, **keywords: Any) -> np.ndarray:
        card.wait()
        return self._memory.copy()

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        """From the host's ordinary memory, whose copies the host waits for; asarray goes by way of pinned memory."""
        card.wait()
        self._memory[...] = array

    def _number(self) -> Any:
        return self.get().item()

    def item(self, *index: int) -> Any:
        return self.get().item(*index)

    def tolist(self) -> Any:
        return self.get().tolist()

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __complex__(self) -> complex:
        return complex(self._number())

    def __index__(self) -> int:
        return self.get().__index__()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __format__(self, form: str) -> str:
        return format(self.get(), form)

    # What it is.

    @property
    def flags(self) -> Flags:
        return Flags(self._raw.flags)

    @property
    def base(self) -> Any:
        return None if self._raw.base is None else wrap(np.asarray(self._raw.base))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._raw.shape

    @property
    def dtype(self) -> np.dtype:
        return self._raw.dtype

    @property
    def ndim(self) -> int:
        return self._raw.ndim

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Any:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[index] for index in range(len(self)))

    def __getattr__(self, name: str) -> Any:
        """The other attributes of cupy.ndarray: numbers about its memory, views, and methods."""
        if name not in FACTS["methods"]:
            raise AttributeError(f"'ndarray' object has no attribute {name!r} (CuPy's has none)")
        if name in ("size", "nbytes", "itemsize", "strides"):
            return getattr(self._raw, name)
        if name in _VIEWS:
            return wrap(getattr(self._memory, name))

        def method(*arguments: Any, **keywords: Any) -> Any:
            from fake_cupy.functions import call_method

            return call_method(self, name, arguments, keywords)

        return method

    # Elements.

    def __getitem__(self, key: Any) -> "ndarray":
        card.compute()
        key, advanced = host_key(key, self.shape)
        if _holds_mask(key):
            card.wait()  # how many there are is the size of the result
        if not advanced:
            return wrap(self._memory[(*key, Ellipsis)] if Ellipsis not in key else self._memory[key])
        return wrap(np.array(self._memory[key]))

    def __setitem__(self, key: Any, value: Any) -> None:
        card.compute()
        key, advanced = host_key(key, self.shape)
        if _holds_mask(key) and isinstance(value, ndarray) and value.ndim:
            card.wait()
        value = operand(value)
        if not advanced:
            self._memory[key] = value
            return
        # Which value stays where a place is named twice is undefined: not the last one, as in NumPy, but the first.
        places = np.arange(self._memory.size).reshape(self.shape)[key]
        values = np.broadcast_to(value, places.shape).ravel()[::-1]
        self._memory[np.unravel_index(places.ravel()[::-1], self.shape)] = values


def _holds_mask(key: tuple[Any, ...]) -> bool:
    return any(isinstance(part, np.ndarray) and part.dtype == bool for part in key)


def wrap(value: Any) -> Any:
    """What NumPy gave, as CuPy would give it: arrays, and numbers as arrays of dimension 0."""
    if isinstance(value, np.ndarray):
        return ndarray(value)
    if isinstance(value, np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(wrap(one) for one in value) if not hasattr(value, "_fields") else tuple(map(wrap, value))
    return value


def operand(value: Any) -> Any:
    """An operand of a computation for NumPy: a device array's memory, or a plain number; TypeError for all else."""
    if isinstance(value, ndarray):
        return value._memory
    if isinstance(value, bool | int | float | complex | np.generic):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _only_device(value: Any) -> np.ndarray:
    if not isinstance(value, ndarray):
        raise TypeError(f"Output arguments type must be ndarray, not {type(value)}")
    return value._memory


def host_key(key: Any, shape: tuple[int, ...]) -> tuple[tuple[Any, ...], bool]:
    """An index for NumPy, integer arrays wrapped around; and whether it holds arrays (then the result is a copy)."""
    parts = list(key) if isinstance(key, tuple) else [key]
    taken = sum(
        0 if part is None or part is Ellipsis else part.ndim if isinstance(part, ndarray) and part.dtype == bool else 1
        for part in parts
    )
    if len([part for part in parts if part is Ellipsis]) == 0:
        parts.append(Ellipsis)
    axis, advanced, result = 0, False, []
    for part in parts:
        if part is None:
            result.append(None)
        elif part is Ellipsis:
            result.append(Ellipsis)
            axis += len(shape) - taken
        elif isinstance(part, ndarray):
            advanced = True
            memory = part._memory
            if memory.dtype.kind in "iu":
                memory, axis = memory % max(1, shape[axis]), axis + 1
            else:
                axis += memory.ndim
            result.append(memory)
        elif isinstance(part, slice | int | np.integer):
            result.append(part)
            axis += 1
        else:
            raise TypeError(f"Unsupported index {type(part)}; the fake takes no host arrays or lists (see array.py)")
    return tuple(result), advanced


def _at(ufunc: Any, array: Any, key: Any, *values: Any) -> None:
    """ufunc.at by atomics: in an order that is another one each time."""
    memory = _only_device(array)
    host, _ = host_key(key, memory.shape)
    places = np.arange(memory.size).reshape(memory.shape)[host]
    order = card.random.permutation(places.size)
    others = [np.broadcast_to(operand(value), places.shape).ravel()[order] for value in values]
    ufunc.at(memory, np.unravel_index(places.ravel()[order], memory.shape), *others)
