"""Yours beside the expected: how a check says what is wrong."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


class Wrong(Exception):
    """What you wrote does not do what is expected.

    call: what was called, as one would type it. yours, expected: what came out, and what should have.
    hint: the likely cause.
    """

    def __init__(self, call: str, hint: str, *, yours: Any = None, expected: Any = None) -> None:
        super().__init__(f"{call}: {hint}")
        self.call, self.hint, self.yours, self.expected = call, hint, yours, expected


Mistakes = Mapping[str, Any]  # by hint: what comes out if this mistake is made, or a function that computes it


def compare(yours: Any, expected: Any, call: str, mistakes: Mistakes | None = None, *, rtol: float = 1e-9) -> None:
    """Nothing if `yours` equals `expected` up to rounding; else Wrong, with the hint that fits.

    mistakes: what plausible mistakes would give; if `yours` is one of these, its hint is the one shown. They are
    compared in their order, so the more particular come first.
    """
    expected = np.asarray(expected)
    if yours is None:
        raise Wrong(call, "nothing came back. Does your function end with `return`?", expected=expected)
    if isinstance(yours, tuple) and len(yours) == 1 and np.shape(yours[0]) == expected.shape:
        raise Wrong(call, "a tuple came back, with one thing in it. Does the line end with a comma?", yours=yours)
    try:
        array = np.asarray(yours)
    except ValueError:
        raise Wrong(call, "what came back is no array: its rows differ in length.", yours=yours) from None
    if array.dtype.kind not in "biuf":
        raise Wrong(call, f"numbers are expected, but {type(yours).__name__} came back.", yours=yours) from None
    if _equal(array, expected, rtol):
        return
    for hint, wrong in (mistakes or {}).items():
        if _equal(array, np.asarray(wrong() if callable(wrong) else wrong), rtol):
            raise Wrong(call, hint, yours=array, expected=expected)
    raise Wrong(call, _general_hint(array, expected, rtol), yours=array, expected=expected)


def compare_all(yours: Any, expected: Mapping[str, Any], call: str, mistakes: Mapping[str, Mistakes]) -> None:
    """As compare, for a function that returns several things: `expected` and `mistakes` by their names, in order."""
    names = ", ".join(expected)
    if not isinstance(yours, tuple | list) or len(yours) != len(expected):
        what = f"{len(yours)} things" if isinstance(yours, tuple | list) else f"one {type(yours).__name__}"
        raise Wrong(call, f"{len(expected)} things are expected, ({names}), but {what} came back.", yours=yours)
    for array, (name, wanted) in zip(yours, expected.items(), strict=True):
        compare(array, wanted, f"{name} of {call}", mistakes.get(name))


def unchanged(call: str, function: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """What the function returns, or Wrong if it has changed one of the arrays that it was given."""
    copies = [np.array(array, copy=True) for array in arrays]
    with noted(call):
        result = function(*arrays, **options)
    for position, (array, copy) in enumerate(zip(arrays, copies, strict=True), 1):
        if isinstance(array, np.ndarray) and not np.array_equal(array, copy, equal_nan=True):
            raise Wrong(
                call,
                f"your function has changed its argument number {position}, which belongs to its caller. Work on a "
                "copy, and beware of `x += …`, which changes x itself; `x = x + …` makes a new array.",
                yours=array,
                expected=copy,
            )
    return result


@contextmanager
def noted(call: str) -> Iterator[None]:
    """Whatever the learner's function raises gets a note of what was called, which the verdict shows."""
    try:
        yield
    except BaseException as error:
        error.add_note(call)
        raise


@contextmanager
def new_here(call: str, is_new: bool, hint: str) -> Iterator[None]:
    """Where arrays do not fit together in a case with something new over the cases before it, the hint says what."""
    try:
        yield
    except ValueError as error:
        if not is_new:
            raise
        message = str(error).strip().rstrip(".")
        raise Wrong(call, f"{type(error).__name__}: {message}. {hint}") from error


def _equal(yours: np.ndarray, expected: np.ndarray, rtol: float) -> bool:
    if yours.shape != expected.shape:
        return False
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0)) if expected.dtype.kind == "f" else 0.0
    return bool(np.allclose(yours, expected, rtol=rtol, atol=rtol * scale, equal_nan=True))


def _general_hint(yours: np.ndarray, expected: np.ndarray, rtol: float) -> str:
    """What can be said without knowing the exercise."""
    if yours.shape != expected.shape:
        if yours.ndim >= 2 and yours.shape == expected.shape[::-1]:
            return f"the shape is {yours.shape}, the transpose of the expected {expected.shape}."
        if yours.size == expected.size:
            return f"the shape is {yours.shape}, but {expected.shape} is expected; the number of entries is right."
        return f"the shape is {yours.shape}, but {expected.shape} is expected."
    if np.isnan(yours).any() and not np.isnan(expected).any():
        return "there are NaNs (not a number): something like 0/0, ∞ − ∞ or the logarithm of a negative number."
    if yours.dtype.kind in "iu" and expected.dtype.kind == "f" and np.array_equal(yours, np.trunc(expected)):
        return "the fractions are lost. Is the result put into an array of whole numbers? Make it one of floats."
    if not yours.any():
        return "everything is zero. Is the result written into the array that you return?"
    if _equal(-yours, expected, rtol):
        return "the sign is turned around everywhere."
    if yours.dtype.kind == expected.dtype.kind == "f" and _equal(yours, expected, 1e-5):
        return "almost right, but not to the last digits. Is something rounded, or computed in float32?"
    with np.errstate(all="ignore"):
        ratio = (yours / expected)[np.isfinite(expected) & (expected != 0)]
    if ratio.size > 1 and np.isfinite(ratio[0]) and _equal(yours, expected * ratio[0], 1e-6):
        return f"everything is {ratio[0]:.6g} times the expected."
    if yours.ndim >= 2 and yours.shape[-1] == yours.shape[-2] and _equal(np.swapaxes(yours, -1, -2), expected, rtol):
        return "rows and columns are swapped."
    if yours.ndim >= 1 and _equal(np.sort(yours, axis=None), np.sort(expected, axis=None), rtol):
        return "the numbers are right, but some stand in the wrong places."
    if yours.ndim == 0:
        return f"{yours:.10g} came back instead of {expected:.10g}."
    wrong = ~np.isclose(yours, expected, rtol=rtol, equal_nan=True)
    first = tuple(int(index) for index in np.argwhere(wrong)[0])
    place = f"the first at {list(first)}: {yours[first]:.6g} instead of {expected[first]:.6g}"
    return f"{int(wrong.sum())} of {wrong.size} numbers differ, {place}."
