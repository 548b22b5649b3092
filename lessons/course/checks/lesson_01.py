"""Lesson 1: tanh, against the standard library's, and its backward, against slopes that are measured."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from course.comparing import Wrong, compare, unchanged

Array = np.ndarray


def check_tanh(tanh: Callable[[Any], Any], generator: np.random.Generator) -> None:
    for x in (0.5, 0.0, -1.0):
        call = f"tanh({x})"
        compare(unchanged(call, tanh, x), math.tanh(x), call, _tanh_mistakes(np.asarray(x)))
    for text, x in (
        ("tanh(numpy.array([-2.0, -0.5, 0.0, 0.5, 2.0]))", np.array([-2.0, -0.5, 0.0, 0.5, 2.0])),
        ("tanh(numpy.array([-1000.0, 20.0, 1000.0]))", np.array([-1000.0, 20.0, 1000.0])),
        ("tanh(x of shape (3, 4))", generator.normal(size=(3, 4))),
        ("tanh(x of shape (2, 1, 5))", 30 * generator.normal(size=(2, 1, 5))),
    ):
        yours = _of_an_array(text, tanh, x)
        compare(yours, np.vectorize(math.tanh)(x), text, _tanh_mistakes(x))


def check_tanh_backward(tanh_backward: Callable[[Any, Any], Any], generator: np.random.Generator) -> None:
    for grad, y in ((2.0, 0.6), (1.0, 0.0), (-3.0, -0.5)):
        mistakes = _backward_mistakes(np.asarray(grad), np.asarray(y))
        call = f"tanh_backward({grad}, {y})"
        compare(unchanged(call, tanh_backward, grad, y), grad * (1 - y * y), call, mistakes)
    for shape in ((6,), (2, 3), (4, 1, 2)):
        x, grad = generator.normal(size=shape), generator.normal(size=shape)
        step = 1e-5
        rise = np.vectorize(math.tanh)(x + step) - np.vectorize(math.tanh)(x - step)
        y = np.vectorize(math.tanh)(x)
        call = f"tanh_backward(grad, tanh(x)) beside grad times the measured slope, at random x of shape {shape}"
        yours = _of_an_array(call, tanh_backward, grad, y)
        compare(yours, grad * rise / (2 * step), call, _backward_mistakes(grad, y), rtol=1e-6)


def _of_an_array(call: str, function: Callable[..., Any], *arrays: Array) -> Any:
    """What the function makes of arrays; and a hint if it can only deal with single numbers."""
    try:
        return unchanged(call, function, *arrays)
    except (TypeError, ValueError) as error:
        raise Wrong(
            call,
            f"it is right for one number, but not for an array of numbers ({error}). Use what works entry by entry, "
            "such as *, np.exp and np.abs, and neither functions of math nor `if`.",
        ) from error


def _tanh_mistakes(x: Array) -> dict[str, Any]:
    size = np.abs(x)
    with np.errstate(all="ignore"):
        return {
            "the exponential is too large for the computer where |x| is large, and ∞/∞ is not a number (nan). Compute "
            "with e^(−2|x|), which is never above 1.": (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)),
            "e^(−2x) is too large for the computer where x is far below 0, and ∞/∞ is not a number (nan). Compute "
            "with e^(−2|x|), which is never above 1, and give the result its sign at the end.": (
                (1 - np.exp(-2 * x)) / (1 + np.exp(-2 * x))
            ),
            "e^(2x) is too large for the computer where x is far above 0, and ∞/∞ is not a number (nan). Compute "
            "with e^(−2|x|), which is never above 1.": (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
            "nan has been replaced by 0, but tanh is 1 or −1 there. Compute with e^(−2|x|), which is never above 1.": (
                np.nan_to_num((np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)))
            ),
            "the sign of x is lost: tanh(−x) is −tanh(x).": np.tanh(size),
            "this is tanh(x/2): the exponent is −2|x|, not −|x|.": np.tanh(x / 2),
            "this is tanh(|x|/2): the exponent is −2|x|, not −|x|; and the sign of x is lost.": np.tanh(size / 2),
            "the exponent has the wrong sign: with e^(+2|x|) the result is turned around, and too large for the "
            "computer where |x| is large.": np.sign(x) * (1 - np.exp(2 * size)) / (1 + np.exp(2 * size)),
            "numerator and denominator are exchanged.": (np.exp(x) + np.exp(-x)) / (np.exp(x) - np.exp(-x)),
            "brackets are missing: 1 − e / 1 + e is not (1 − e) / (1 + e).": np.sign(x),
            "np.exp is missing: this is (1 − z) / (1 + z) with z = −2|x|, where z is to be e^(−2|x|).": (
                np.sign(x) * (1 + 2 * size) / (1 - 2 * size)
            ),
            "this is the slope of tanh, 1 − tanh²; tanh itself is asked for.": 1 - np.tanh(x) ** 2,
            "this is the numerator only: divide by eˣ + e⁻ˣ.": np.exp(x) - np.exp(-x),
            "this is (eˣ − e⁻ˣ)/2; the denominator is eˣ + e⁻ˣ.": np.sinh(x),
            "this is 1/(1 + e⁻ˣ), which goes from 0 to 1; tanh goes from −1 to 1.": 1 / (1 + np.exp(-x)),
            "this is 1/(1 + e^(−2x)), which goes from 0 to 1; tanh goes from −1 to 1.": 1 / (1 + np.exp(-2 * x)),
        }


def _backward_mistakes(grad: Array, y: Array) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        return {
            "grad has no effect: this is the slope of tanh alone. The chain rule multiplies it by grad.": 1 - y * y,
            "y is taken for x. It is tanh(x) already, so do not take tanh of it again.": grad * (1 - np.tanh(y) ** 2),
            "the square is missing: the slope is 1 − y², not 1 − y.": grad * (1 - y),
            "the square is in the wrong place: 1 − y², not (1 − y)².": grad * (1 - y) ** 2,
            "this is a square root: the slope is 1 − y² itself.": grad * np.sqrt(1 - y * y),
            "this is the slope of y − y². The slope of tanh is 1 − y².": grad * (1 - 2 * y),
            "the slope is 1 − y², not 1 + y².": grad * (1 + y * y),
            "the slope is 1 − y², not y² − 1.": grad * (y * y - 1),
            "the 1 is missing: the slope is 1 − y².": -grad * y * y,
            "grad·y² is only a part: the slope is 1 − y².": grad * y * y,
            "y·(1 − y) is the slope of 1/(1 + e⁻ˣ), not of tanh.": grad * y * (1 - y),
            "divided by the slope; the chain rule multiplies by it.": grad / (1 - y * y),
            "grad is added; the chain rule multiplies.": grad + (1 - y * y),
            "1 − grad²: grad and y are exchanged. The order is tanh_backward(grad, y).": y * (1 - grad * grad),
            "the slope is taken at grad; it is 1 − y².": grad * (1 - grad * grad),
            "brackets are missing: grad · 1 − y² is not grad · (1 − y²).": grad - y * y,
            "grad passes unchanged: multiply it by the slope, 1 − y².": grad,
        }
