"""What Python or NumPy says when a learner's code stops, and which mistake is likely behind it."""

import linecache
import re
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

# by a pattern of what NumPy or Python says, the likely cause; the more particular come first
_CAUSES = (
    (
        "remapped shapes",
        "np.pad wants a pair (before, after) for each axis, also for those that get no padding.",
    ),
    (
        "could not be broadcast together|shape mismatch",
        "Two arrays meet entry by entry, and their shapes do not fit: aligned from the right, two lengths must be "
        "equal, or one of them 1. Is an axis of length 1 missing (`[:, None]`, keepdims=True), or is one of the arrays "
        "longer than it should be?",
    ),
    (
        "could not broadcast input array",
        "What stands to the right of `=` has the first of these shapes, the place to its left the second. Does each "
        "slice begin and end where it should, and is a height nowhere taken for a width?",
    ),
    (
        "matmul.*enough dimensions|unsupported operand.* for @",
        "@ is the product of matrices; numbers, and arrays entry by entry, are multiplied with *.",
    ),
    (
        "mismatch in its core dimension|not aligned",
        "In a @ b the last axis of a is summed over with the last but one of b, so both have the same length. Are the "
        "factors in the right order? Must one of them be transposed or reshaped before?",
    ),
    (
        "cannot reshape array",
        "A reshape keeps the number of entries, and here the lengths do not multiply to it. Is each computed from what "
        "it should be: after padding, with its own kernel side, with the right axis?",
    ),
    (
        "too many indices|axis .* out of bounds",
        "Axes are counted from 0. A sum or a maximum without keepdims=True takes its axis away, and those behind it "
        "move forward.",
    ),
    (
        "out of bounds|index out of range",
        "The last index is the length − 1. Does a loop or a slice go one too far?",
    ),
    (
        "boolean index did not match",
        "A mask picks from the first axes, and must be as long as they are. In logits (N, C, H, W) the classes stand "
        "between the axes of labels (N, H, W). Rather keep all positions, and multiply by 0 where they do not count.",
    ),
    (
        "'float' object cannot be interpreted|sequence of integers|indices must be integers|only integers, slices|"
        "must be of integer",
        "Sizes and indices are whole numbers, and `/` makes a float even of 6 / 2: divide with `//`.",
    ),
    ("'list' object cannot be interpreted", "Several axes or lengths are given as a tuple, (0, 1), not as a list."),
    (
        "truth value of an array",
        "`if`, `and`, `or` and `not` ask for one True or False, and this is an array of them. Entry by entry there are "
        "np.where, & and |.",
    ),
    (r" \^", "A power is written with `**` in Python."),
    ("NoneType", "Something is None here: it has not been computed yet, or a function ends without `return`."),
    (
        "multiply sequence|unsupported operand.*'(list|tuple)'|'(list|tuple)' object has no attribute",
        "A list or a tuple is no array, and one cannot compute with it as a whole. Take its entries one by one.",
    ),
    (
        "object is not (iterable|subscriptable)|does not support item assignment|'(float|int)' object has no attribute",
        "A single number came in here, and it has no entries. What works entry by entry, such as *, np.exp and "
        "np.where, is right for numbers and for arrays.",
    ),
    (
        "converted to Python scalars|size 1 to a Python scalar",
        "float(), int() and the functions of math take a single number; those of NumPy take arrays as well.",
    ),
    (
        "name .* is not defined",
        "Is it spelled as where it was defined, and has that cell been run? NumPy's functions begin with `np.`, after "
        "`import numpy as np`.",
    ),
    (
        "cannot access local variable|referenced before assignment",
        "It gets its value in this function, but not before this line, or not in every case.",
    ),
    (
        "Cannot cast ufunc",
        "With `+=` and the like an array keeps its kind of number, and an array of whole numbers takes no fractions. "
        "Make an array of floats, or a new one: x = x + ….",
    ),
    ("read-only", "This array only looks at another one's numbers. Work on a copy of it."),
    ("same number of dimensions", "Both need the same number of axes: give the indices one of length 1."),
    ("to unpack", "As many names stand to the left of `=` as things come from its right. How many axes are there?"),
    ("zero-size array", "An array is empty here: a length came out as 0, or a slice ends before it begins."),
    (
        "positional argument|unexpected keyword|required keyword|multiple values for argument",
        "A function is called with arguments that it does not take. Leave the line `def …` as the exercise has it; "
        "arguments behind its * are given by name, as in stride=stride.",
    ),
)


def explain(error: Exception) -> str:
    """What went wrong, in Python's or NumPy's words, and the likely cause in ours, where one is known."""
    said = str(error).strip().rstrip(".")
    if isinstance(error, KeyError):
        cause = "The dictionary has no such key yet. `counts.get(key, 0)` gives 0 then."
    elif isinstance(error, ZeroDivisionError):
        cause = "For these arguments the divisor is 0. What is to come out then?"
    else:
        cause = next((cause for pattern, cause in _CAUSES if re.search(pattern, said, re.DOTALL)), "")
    return f"{type(error).__name__}: {said}." + (f" {cause}" if cause else "")


def place(error: BaseException, function: Callable[..., Any]) -> str:
    """The line of the learner's own code at which it stopped, and the shapes of the arrays that stand in it."""
    code = getattr(function, "__code__", None)
    steps = [
        (frame, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if code and frame.f_code.co_filename == code.co_filename
    ]
    if code is None or not steps:
        return ""
    frame, number = steps[-1]
    line = linecache.getline(code.co_filename, number).strip()
    shapes = _shapes(frame, line)
    return f"line {number - code.co_firstlineno + 1}: {line}" + (f" (there {', '.join(shapes)})" if shapes else "")


def _shapes(frame: FrameType, line: str) -> list[str]:
    named = ((name, frame.f_locals.get(name)) for name in dict.fromkeys(re.findall(r"[^\W\d]\w*", line)))
    return [f"{name} is {value.shape}" for name, value in named if isinstance(value, np.ndarray)]
