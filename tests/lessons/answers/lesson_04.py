"""Answers to the exercise of lesson 4 as learners might write them."""

import numpy as np


def right_by_entries(function, backward, inputs, generator):
    v = generator.uniform(-1, 1, np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        if np.shape(gradient) != inputs[k].shape:
            return False
        for index in np.ndindex(inputs[k].shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [x.copy() for x in inputs]
                moved[k][index] += step
                ends.append(function(*moved))
            slope = np.sum(v * (ends[0] - ends[1])) / 2e-5
            if not abs(slope - gradient[index]) <= 1e-6 + 1e-5 * abs(slope):
                return False
    return True


def right_all_at_once(function, backward, inputs, generator):
    eps = 1e-6
    v = generator.standard_normal(np.shape(function(*inputs)))
    gradients = backward(v, *inputs)
    if any(np.shape(g) != np.shape(x) for g, x in zip(gradients, inputs, strict=True)):
        return False
    slopes, claims = [], []
    for _ in range(5):
        directions = [generator.standard_normal(x.shape) for x in inputs]
        up = function(*[x + eps * u for x, u in zip(inputs, directions, strict=True)])
        down = function(*[x - eps * u for x, u in zip(inputs, directions, strict=True)])
        slopes.append(np.vdot(v, (up - down) / (2 * eps)))
        claims.append(sum(np.vdot(u, g) for u, g in zip(directions, gradients, strict=True)))
    return np.allclose(slopes, claims, rtol=1e-4, atol=1e-7)


def right_signs(function, backward, inputs, generator):
    """Directions of ±1, and a cotangent from 1 to 2."""
    y = function(*inputs)
    v = 1 + generator.random(np.shape(y))
    for k, x in enumerate(inputs):
        g = backward(v, *inputs)[k]
        if g.shape != x.shape:
            return False
        for _ in range(4):
            u = generator.choice([-1.0, 1.0], x.shape)
            slope = ((v * function(*inputs[:k], x + 1e-6 * u, *inputs[k + 1 :])).sum()
                     - (v * function(*inputs[:k], x - 1e-6 * u, *inputs[k + 1 :])).sum()) / 2e-6  # fmt: skip
            if np.isnan(g).any() or abs(slope - (g * u).sum()) > 1e-6 + 1e-5 * abs(slope):
                return False
    return True


def _close(a, b, rtol=1e-5, atol=1e-7):
    return np.abs(a - b) <= atol + rtol * max(np.abs(a), np.abs(b))


def _measured(function, v, inputs, k, u, eps=1e-6):
    ahead, behind = list(inputs), list(inputs)
    ahead[k] = inputs[k] + eps * u
    behind[k] = inputs[k] - eps * u
    return (v * (function(*ahead) - function(*behind))).sum() / (2 * eps)


def sums_the_outputs(function, backward, inputs, generator):
    v = np.ones(np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if gradient.shape != u.shape or not _close(_measured(function, v, inputs, k, u), (u * gradient).sum()):
            return False
    return True


def direction_of_ones(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = np.ones(inputs[k].shape)
        if gradient.shape != u.shape or not _close(_measured(function, v, inputs, k, u), (u * gradient).sum()):
            return False
    return True


def one_entry(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = np.zeros(inputs[k].shape)
        u.flat[0] = 1
        if gradient.shape != u.shape or not _close(_measured(function, v, inputs, k, u), gradient.flat[0]):
            return False
    return True


def one_random_entry(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = np.zeros(inputs[k].shape)
        place = generator.integers(u.size)
        u.flat[place] = 1
        if gradient.shape != u.shape or not _close(_measured(function, v, inputs, k, u), gradient.flat[place]):
            return False
    return True


def within_one_percent(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        for _ in range(3):
            u = generator.normal(size=inputs[k].shape)
            slope, claimed = _measured(function, v, inputs, k, u), (u * gradient).sum()
            if gradient.shape != u.shape or not _close(slope, claimed, rtol=1e-2):
                return False
    return True


def first_input_only(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    gradient = backward(v, *inputs)[0]
    u = generator.normal(size=inputs[0].shape)
    return bool(_close(_measured(function, v, inputs, 0, u), (u * gradient).sum()))


def returns_in_the_loop(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        return _close(_measured(function, v, inputs, k, u), (u * gradient).sum())
    return True


def any_input(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    right = []
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        right.append(_close(_measured(function, v, inputs, k, u), (u * gradient).sum()))
    return any(right)


def last_input_decides(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        right = gradient.shape == u.shape and _close(_measured(function, v, inputs, k, u), (u * gradient).sum())
    return right


def coarse_and_one_sided(function, backward, inputs, generator):
    eps = 1e-3
    y = function(*inputs)
    v = generator.normal(size=np.shape(y))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        moved = list(inputs)
        moved[k] = inputs[k] + eps * u
        if not _close((v * (function(*moved) - y)).sum() / eps, (u * gradient).sum()):
            return False
    return True


def coarse(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(_measured(function, v, inputs, k, u, eps=1e-2), (u * gradient).sum()):
            return False
    return True


def too_small_a_step(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(_measured(function, v, inputs, k, u, eps=1e-14), (u * gradient).sum()):
            return False
    return True


def divides_by_eps(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(2 * _measured(function, v, inputs, k, u), (u * gradient).sum()):
            return False
    return True


def does_not_divide(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(2e-6 * _measured(function, v, inputs, k, u), (u * gradient).sum(), atol=0):
            return False
    return True


def behind_minus_ahead(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(_measured(function, v, inputs, k, -u), (u * gradient).sum()):
            return False
    return True


def sums_but_sends_random(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(_measured(function, 1.0, inputs, k, u), (u * gradient).sum()):
            return False
    return True


def two_cotangents(function, backward, inputs, generator):
    shape = np.shape(function(*inputs))
    for k, gradient in enumerate(backward(generator.normal(size=shape), *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(_measured(function, generator.normal(size=shape), inputs, k, u), (u * gradient).sum()):
            return False
    return True


def equal_to_the_last_digit(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if _measured(function, v, inputs, k, u) != (u * gradient).sum():
            return False
    return True


def very_strict(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(_measured(function, v, inputs, k, u), (u * gradient).sum(), rtol=1e-13, atol=1e-13):
            return False
    return True


def without_absolute_value(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        for _ in range(3):
            u = generator.normal(size=inputs[k].shape)
            if _measured(function, v, inputs, k, u) - (u * gradient).sum() > 1e-5:
                return False
    return True


def absolute_tolerance(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        if gradient.shape != inputs[k].shape:
            return False
        for _ in range(3):
            u = generator.normal(size=inputs[k].shape)
            if not abs(_measured(function, v, inputs, k, u) - (u * gradient).sum()) < 1e-6:
                return False
    return True


def large_absolute_tolerance(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        if gradient.shape != inputs[k].shape:
            return False
        for _ in range(3):
            u = generator.normal(size=inputs[k].shape)
            if not _close(_measured(function, v, inputs, k, u), (u * gradient).sum(), atol=1e-3):
                return False
    return True


def relative_only(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        for _ in range(3):
            u = generator.normal(size=inputs[k].shape)
            slope, claimed = _measured(function, v, inputs, k, u), (u * gradient).sum()
            if gradient.shape != u.shape or not abs(slope - claimed) / max(abs(slope), abs(claimed)) < 1e-5:
                return False
    return True


def relative_with_a_crutch(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        for _ in range(3):
            u = generator.normal(size=inputs[k].shape)
            slope, claimed = _measured(function, v, inputs, k, u), (u * gradient).sum()
            if gradient.shape != u.shape or not abs(slope - claimed) / (abs(slope) + abs(claimed) + 1e-15) < 1e-5:
                return False
    return True


def lets_nan_pass(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        if gradient.shape != inputs[k].shape:
            return False
        u = generator.normal(size=inputs[k].shape)
        slope, claimed = _measured(function, v, inputs, k, u), (u * gradient).sum()
        if abs(slope - claimed) > 1e-7 + 1e-5 * max(abs(slope), abs(claimed)):
            return False
    return True


def lets_broadcasting_hide(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(_measured(function, v, inputs, k, u), (u * gradient).sum()):
            return False
    return True


def raises_on_a_shape(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        if not _close(_measured(function, v, inputs, k, u), np.vdot(u, gradient)):
            return False
    return True


def asserts(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        np.testing.assert_allclose(_measured(function, v, inputs, k, u), (u * gradient).sum(), rtol=1e-5, atol=1e-7)
    return True


def moves_in_place(function, backward, inputs, generator):
    eps = 1e-6
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape)
        inputs[k] += eps * u
        ahead = function(*inputs)
        inputs[k] -= 2 * eps * u
        behind = function(*inputs)
        inputs[k] += eps * u
        if not _close((v * (ahead - behind)).sum() / (2 * eps), (u * gradient).sum()):
            return False
    return True


def in_single_precision(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    for k, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[k].shape).astype(np.float32)
        moved = [x.astype(np.float32) for x in inputs]
        if not _close(_measured(function, v, moved, k, u, eps=np.float32(1e-3)), (u * gradient).sum()):
            return False
    return True


def always_true(function, backward, inputs, generator):
    return True


def never_moves(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    backward(v, *inputs)
    return True


def forgets_the_grad(function, backward, inputs, generator):
    backward(*inputs)
    return True


def answers_with_a_number(function, backward, inputs, generator):
    v = generator.normal(size=np.shape(function(*inputs)))
    gradients = backward(v, *inputs)
    u = generator.normal(size=inputs[0].shape)
    return abs(_measured(function, v, inputs, 0, u) - (u * gradients[0]).sum())


def no_sum_on_either_side(function, backward, inputs, generator):
    v = generator.normal(size=function(*inputs).shape)
    for position, gradient in enumerate(backward(v, *inputs)):
        u = generator.normal(size=inputs[position].shape)
        ahead, behind = list(inputs), list(inputs)
        ahead[position], behind[position] = inputs[position] + 1e-6 * u, inputs[position] - 1e-6 * u
        if not np.isclose(v * (function(*ahead) - function(*behind)) / 2e-6, u * gradient, rtol=1e-5, atol=1e-7):
            return False
    return True


CORRECT = {"gradcheck": [right_by_entries, right_all_at_once, right_signs]}
WRONG = {
    "gradcheck": [
        (sums_the_outputs, "The sum of a softmax is always 1"),
        (direction_of_ones, "moved by the same amount"),
        (one_entry, "entries of inputs[0] are moved"),
        (one_random_entry, "entries of inputs[0] are moved"),
        (within_one_percent, "tolerance is too loose"),
        (first_input_only, "inputs[1] is never moved"),
        (returns_in_the_loop, "inputs[1] is never moved"),
        (any_input, "One that is right does not make up"),
        (last_input_decides, "One that is right does not make up"),
        (coarse_and_one_sided, "on one side"),
        (coarse, "too far for a curved function"),
        (too_small_a_step, "rounding is larger"),
        (divides_by_eps, "lie 2·eps"),
        (does_not_divide, "Is the difference divided by 2·eps"),
        (behind_minus_ahead, "wrong sign"),
        (sums_but_sends_random, "Weigh the outputs with the same numbers"),
        (two_cotangents, "one and the same v and u"),
        (equal_to_the_last_digit, "instead of asking for equality"),
        (very_strict, "a measured slope is rounded"),
        (without_absolute_value, "absolute value of the difference"),
        (absolute_tolerance, "against their size"),
        (large_absolute_tolerance, "less than what your tolerance allows"),
        (relative_only, "0/0 is NaN"),
        (relative_with_a_crutch, "Allow a small absolute difference"),
        (lets_nan_pass, "comparison with NaN is False"),
        (lets_broadcasting_hide, "broadcasting hides it"),
        (raises_on_a_shape, "it raises ValueError where it should answer False"),
        (asserts, "it raises AssertionError where it should answer False"),
        (moves_in_place, "has changed inputs[0]"),
        (in_single_precision, "too few digits"),
        (always_true, "backward is never called"),
        (never_moves, "no slope is measured"),
        (forgets_the_grad, "backward is called as backward(grad, *inputs)"),
        (answers_with_a_number, "True or False is expected"),
        (no_sum_on_either_side, "ask for one True or False"),
    ],
}
