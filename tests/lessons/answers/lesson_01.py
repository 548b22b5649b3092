"""Answers to the exercises of lesson 1 as learners might write them."""

import math

import numpy as np


def right_numpy(x):
    return np.tanh(x)


def right_where(x):
    x = np.asarray(x, dtype=float)
    e = np.exp(-2 * np.abs(x))
    size = (1 - e) / (1 + e)
    return np.where(x < 0, -size, size)


def right_expm1(x):
    e = np.expm1(-2 * abs(x))
    return -np.sign(x) * e / (2 + e)


def as_written(x):
    return (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))


def one_sided(x):
    e = np.exp(-2 * x)
    return (1 - e) / (1 + e)


def other_sided(x):
    return (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1)


def loses_the_sign(x):
    e = np.exp(-2 * np.abs(x))
    return (1 - e) / (1 + e)


def forgets_the_two(x):
    e = np.exp(-np.abs(x))
    return np.sign(x) * (1 - e) / (1 + e)


def exponent_up(x):
    e = np.exp(2 * np.abs(x))
    return np.sign(x) * (1 - e) / (1 + e)


def upside_down(x):
    e = np.exp(-2 * np.abs(x))
    return np.sign(x) * (1 + e) / (1 - e)


def half_of_it(x):
    return (np.exp(x) - np.exp(-x)) / 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def with_math(x):
    e = math.exp(-2 * abs(x))
    return math.copysign((1 - e) / (1 + e), x)


def with_if(x):
    e = np.exp(-2 * np.abs(x))
    if x < 0:
        return -(1 - e) / (1 + e)
    return (1 - e) / (1 + e)


def clips_too_early(x):
    x = np.clip(x, -3, 3)
    return (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))


def hides_nan(x):
    return np.nan_to_num((np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)))


def in_float32(x):
    return np.tanh(np.asarray(x, np.float32))


def in_place(x):
    x *= 2
    return np.tanh(x / 2)


def prints_it(x):
    np.tanh(x)


def right_product(grad, y):
    return grad * (1 - y) * (1 + y)


def right_numpy_backward(grad, y):
    return np.multiply(grad, 1 - np.square(y))


def forgets_grad(grad, y):
    return 1 - y**2


def tanh_again(grad, y):
    return grad * (1 - np.tanh(y) ** 2)


def no_square(grad, y):
    return grad * (1 - y)


def square_outside(grad, y):
    return grad * (1 - y) ** 2


def plus(grad, y):
    return grad * (1 + y**2)


def turned_around(grad, y):
    return grad * (y**2 - 1)


def of_the_sigmoid(grad, y):
    return grad * y * (1 - y)


def divides(grad, y):
    return grad / (1 - y**2)


def adds(grad, y):
    return grad + 1 - y**2


def exchanged(grad, y):
    return y * (1 - grad**2)


def slope_at_grad(grad, y):
    return grad * (1 - grad**2)


def no_brackets(grad, y):
    return grad * 1 - y**2


def only_passes(grad, y):
    return grad


def only_the_square(grad, y):
    return grad * y**2


def changes_grad(grad, y):
    grad *= 1 - y**2
    return grad


def sums_up(grad, y):
    return np.sum(grad * (1 - y**2))


def of_whole_numbers(x):
    result = np.zeros_like(x, dtype=int)
    result[...] = np.tanh(x)
    return result


def in_a_tuple(x):
    return (np.tanh(x),)


def without_brackets(x):
    e = np.exp(-2 * np.abs(x))
    return np.sign(x) * 1 - e / 1 + e


def without_exp(x):
    z = -2 * np.abs(x)
    return np.sign(x) * (1 - z) / (1 + z)


def its_slope(x):
    return 1 - np.tanh(x) ** 2


def number_by_number(x):
    return [math.tanh(value) for value in x]


def by_a_mask(x):
    e = np.exp(-2 * np.abs(x))
    y = (1 - e) / (1 + e)
    y[x < 0] *= -1
    return y


def caret(grad, y):
    return grad * (1 - y ^ 2)


def square_root(grad, y):
    return grad * np.sqrt(1 - y**2)


def without_grad(y):
    return 1 - y**2


CORRECT = {
    "tanh": [right_numpy, right_where, right_expm1],
    "tanh_backward": [right_product, right_numpy_backward],
}
WRONG = {
    "tanh": [
        (as_written, "Compute with e^(−2|x|)"),
        (one_sided, "where x is far below 0"),
        (other_sided, "where x is far above 0"),
        (loses_the_sign, "the sign of x is lost"),
        (forgets_the_two, "the exponent is −2|x|, not −|x|"),
        (exponent_up, "the exponent has the wrong sign"),
        (upside_down, "numerator and denominator are exchanged"),
        (half_of_it, "the denominator is eˣ + e⁻ˣ"),
        (sigmoid, "goes from 0 to 1"),
        (with_math, "neither functions of math nor `if`"),
        (with_if, "neither functions of math nor `if`"),
        (clips_too_early, "times the expected"),
        (hides_nan, "nan has been replaced by 0"),
        (in_float32, "not to the last digits"),
        (in_place, "has changed its argument number 1"),
        (prints_it, "nothing came back"),
        (of_whole_numbers, "the fractions are lost"),
        (in_a_tuple, "Does the line end with a comma"),
        (without_brackets, "brackets are missing"),
        (without_exp, "np.exp is missing"),
        (its_slope, "this is the slope of tanh"),
        (number_by_number, "A single number came in here"),
        (by_a_mask, "A single number came in here"),
    ],
    "tanh_backward": [
        (forgets_grad, "grad has no effect"),
        (tanh_again, "y is taken for x"),
        (no_square, "the square is missing"),
        (square_outside, "the square is in the wrong place"),
        (plus, "not 1 + y²"),
        (turned_around, "not y² − 1"),
        (of_the_sigmoid, "not of tanh"),
        (divides, "divided by the slope"),
        (adds, "grad is added"),
        (exchanged, "grad and y are exchanged"),
        (slope_at_grad, "the slope is taken at grad"),
        (no_brackets, "brackets are missing"),
        (only_passes, "grad passes unchanged"),
        (only_the_square, "only a part"),
        (changes_grad, "has changed its argument number 1"),
        (sums_up, "the shape is ()"),
        (caret, "`**`"),
        (square_root, "square root"),
        (without_grad, "Leave the line `def …`"),
    ],
}
