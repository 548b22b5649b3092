"""The functions of the fake `cupy` module: those that CuPy has, with the parameters that CuPy has."""

from typing import Any

import numpy as np

from fake_cupy.array import FACTS, card, host_key, ndarray, operand, wrap

_TO_DEVICE = ("array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray")
# The first argument of these is a shape, or several arrays; of all others, an array that must be the device's.
_SEQUENCE_FIRST = ("zeros", "ones", "empty", "full", "indices", "broadcast_shapes", "tri", "eye", "fromiter")
_ARRAYS_FIRST = ("concatenate", "concat", "stack", "hstack", "vstack", "dstack", "column_stack", "lexsort")
_NO_REDUCTION = ("where", "initial")
# CuPy's functions take any keyword in Python, and refuse these inside.
_KEYWORDS = {"einsum": ("dtype", "optimize")}
_BY_ATOMICS = ("bincount", "histogram", "histogram2d", "histogramdd")
# The size of what these give depends on the numbers, which the host waits for (bincount looks for the largest).
_SIZED_BY_NUMBERS = ("nonzero", "flatnonzero", "argwhere", "compress", "extract", "unique", "bincount")
# What CuPy has, but the fake has not been taught; nothing in the library may use it until it has been.
UNTAUGHT = ("put", "place", "putmask", "choose", "apply_along_axis", "piecewise", "vectorize", "r_", "c_")


def call(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """cupy.name(*arguments, **keywords)."""
    known = FACTS["functions"][name]
    known = _KEYWORDS.get(name, known)
    if known is not None and (wrong := keywords.keys() - set(known)):
        raise TypeError(f"{name}() got an unexpected keyword argument {', '.join(sorted(wrong))} (CuPy's has none)")
    card.compute()
    sized_by_array = name in _SEQUENCE_FIRST and arguments and isinstance(arguments[0], ndarray)
    if name in _SIZED_BY_NUMBERS or sized_by_array:
        card.wait()
    if name in _TO_DEVICE:
        return _to_device(name, *arguments, **keywords)
    _check_first(name, arguments)
    if name == "take":
        return _take(*arguments, **keywords)
    if name == "take_along_axis":
        return _take_along_axis(*arguments, **keywords)
    if name == "bincount":
        return _bincount(*arguments, **keywords)
    if name == "einsum" and len(arguments) > 2:
        card.products.append(3)  # whatever it sums over, CuPy makes it a batch of matrix products
    values, named = _unwrapped(arguments), {key: _unwrapped(value) for key, value in keywords.items()}
    result = getattr(np, name)(*values, **named)
    out = keywords.get("out")
    if out is not None:
        return out
    return wrap(np.bool_(result) if isinstance(result, bool) else result)


def call_method(array: ndarray, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """array.name(*arguments, **keywords)."""
    if name in UNTAUGHT:
        raise NotImplementedError(f"the fake has not been taught ndarray.{name}")
    if wrong := keywords.keys() & set(_NO_REDUCTION):
        raise TypeError(f"{name}() got an unexpected keyword argument {', '.join(sorted(wrong))}")
    card.compute()
    if name in _SIZED_BY_NUMBERS:
        card.wait()
    if name == "take":
        return _take(array, *arguments, **keywords)
    values, named = _unwrapped(arguments), {key: _unwrapped(value) for key, value in keywords.items()}
    result = getattr(array._memory, name)(*values, **named)
    return keywords["out"] if keywords.get("out") is not None else wrap(result)


def ufunc(name: str) -> Any:
    """cupy.name as a ufunc: without NumPy's `where`."""
    numpy_ufunc = getattr(np, name)

    class Ufunc:
        __name__ = name

        def __call__(self, *arguments: Any, out: Any = None, **keywords: Any) -> Any:
            for value in arguments:
                if not isinstance(value, ndarray):
                    operand(value)  # numbers only, and no host arrays or lists
            outs = arguments[numpy_ufunc.nin :]
            if out is not None or outs:
                keywords["out"] = tuple(outs) if outs else out if isinstance(out, tuple) else (out,)
            inputs = list(arguments[: numpy_ufunc.nin])
            if not any(isinstance(value, ndarray) for value in inputs):
                inputs[0] = wrap(np.asarray(inputs[0]))  # cupy.sqrt(2) computes on the device
            return inputs_device(inputs).__array_ufunc__(numpy_ufunc, "__call__", *inputs, **keywords)

        def at(self, array: ndarray, key: Any, *values: Any) -> None:
            array.__array_ufunc__(numpy_ufunc, "at", array, key, *values)

    return Ufunc()


def inputs_device(inputs: list[Any]) -> ndarray:
    return next(value for value in inputs if isinstance(value, ndarray))


def _unwrapped(value: Any) -> Any:
    """Device arrays' memory within arguments; TypeError for any host array."""
    if isinstance(value, ndarray):
        return value._memory
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, tuple | list):
        return type(value)(_unwrapped(one) for one in value)
    return value


def _check_first(name: str, arguments: tuple[Any, ...]) -> None:
    """CuPy computes with lists of device arrays where NumPy takes several arrays, and never with lists of numbers."""
    if not arguments or name in _SEQUENCE_FIRST or not isinstance(arguments[0], list | tuple):
        return
    if name not in _ARRAYS_FIRST or not all(isinstance(one, ndarray) for one in arguments[0]):
        raise TypeError(f"{name}(): only cupy arrays are computed with, not {type(arguments[0])}")


def _to_device(name: str, value: Any, *arguments: Any, **keywords: Any) -> ndarray:
    """Explicit transfers. A device array stays itself if nothing about it changes."""
    if isinstance(value, list | tuple):
        parts = [one._memory if isinstance(one, ndarray) else one for one in value]
        if len({isinstance(one, ndarray) for one in value} | {isinstance(one, np.ndarray) for one in value}) > 1 and (
            any(isinstance(one, ndarray) for one in value) and any(isinstance(one, np.ndarray) for one in value)
        ):
            raise TypeError("a mix of host and device arrays")
        return ndarray(np.array(parts, *arguments, **keywords))
    if isinstance(value, ndarray):
        result = getattr(np, name)(value._memory, *arguments, **keywords)
        return value if result is value._memory else ndarray(result)
    dtype = keywords.get("dtype", arguments[0] if arguments else None)
    return ndarray(np.array(value, dtype=dtype))  # a copy, always: it is another memory


def _take(a: ndarray, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    indices = operand(indices) if not isinstance(indices, list | tuple) else np.asarray(indices)
    return wrap(np.take(a._memory, indices, axis=axis, mode="wrap"))


def _take_along_axis(a: ndarray, indices: ndarray, axis: Any) -> ndarray:
    memory = a._memory
    length = memory.size if axis is None else memory.shape[axis]
    return wrap(np.take_along_axis(memory, operand(indices) % max(1, length), axis))


def _bincount(x: ndarray, weights: Any = None, minlength: Any = None) -> ndarray:
    """With weights by atomics, so that the sums come out in any order."""
    counted = operand(x)
    if weights is None:
        return wrap(np.bincount(counted, minlength=minlength or 0))
    order = card.random.permutation(counted.size)
    return wrap(np.bincount(counted[order], operand(weights)[order], minlength or 0))


def get_array_module(*arguments: Any) -> Any:
    raise NotImplementedError("ops know their backend; nothing in this project asks for the array module")


def asnumpy(value: Any, *arguments: Any, **keywords: Any) -> np.ndarray:
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


def scatter(name: str) -> Any:
    """cupyx.scatter_add and the like."""

    def function(array: ndarray, key: Any, value: Any) -> None:
        array.__array_ufunc__(getattr(np, name), "at", array, key, value)

    return function


def as_strided(x: Any, shape: Any = None, strides: Any = None) -> Any:
    """cupy.lib.stride_tricks.as_strided: a view of the same memory, unchecked, as CuPy's is."""
    return wrap(np.lib.stride_tricks.as_strided(operand(x), shape, strides))


__all__ = [
    "UNTAUGHT",
    "as_strided",
    "asnumpy",
    "call",
    "call_method",
    "get_array_module",
    "host_key",
    "scatter",
    "ufunc",
]
