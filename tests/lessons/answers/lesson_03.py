"""Answers to the exercises of lesson 3 as learners might write them."""

import numpy as np


def right_one_axis_at_a_time(grad, shape):
    while grad.ndim > len(shape):
        grad = grad.sum(axis=0)
    for axis, length in enumerate(shape):
        if length == 1:
            grad = grad.sum(axis=axis, keepdims=True)
    return grad


def right_all_at_once(grad, shape):
    aligned = (1,) * (grad.ndim - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, length in enumerate(aligned) if length == 1)
    return np.sum(grad, axis=axes).reshape(shape)


def right_by_loops(grad, shape):
    result = np.zeros(shape)
    for index in np.ndindex(grad.shape):
        last = index[grad.ndim - len(shape) :]
        result[tuple(i if n > 1 else 0 for i, n in zip(last, shape, strict=True))] += grad[index]
    return result


def sums_nothing(grad, shape):
    return grad


def means(grad, shape):
    grad = grad.mean(axis=tuple(range(grad.ndim - len(shape))))
    return grad.mean(axis=tuple(axis for axis, length in enumerate(shape) if length == 1), keepdims=True)


def only_in_front(grad, shape):
    return grad.sum(axis=tuple(range(grad.ndim - len(shape))))


def only_long_axes(grad, shape):
    extra = grad.ndim - len(shape)
    return grad.sum(axis=tuple(extra + axis for axis, length in enumerate(shape) if length == 1), keepdims=True)


def loses_axes(grad, shape):
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    return grad.sum(axis=tuple(axis for axis, length in enumerate(shape) if length == 1))


def keeps_the_front(grad, shape):
    extra = grad.ndim - len(shape)
    grad = grad.sum(axis=tuple(range(extra)), keepdims=True)
    return grad.sum(axis=tuple(extra + axis for axis, length in enumerate(shape) if length == 1), keepdims=True)


def first_copy(grad, shape):
    for _ in range(grad.ndim - len(shape)):
        grad = grad[0]
    for axis, length in enumerate(shape):
        if length == 1:
            grad = grad.take([0], axis=axis)
    return grad


def sums_everything(grad, shape):
    return grad.sum()


def fills_with_the_sum(grad, shape):
    return grad if grad.shape == shape else np.full(shape, grad.sum())


def aligned_from_the_left(grad, shape):
    grad = grad.sum(axis=tuple(range(len(shape), grad.ndim)))
    return grad.sum(axis=tuple(axis for axis, length in enumerate(shape) if length == 1), keepdims=True)


def long_axes_first(grad, shape):
    """The axes of length 1 are counted in grad while its leading axes are still there."""
    extra = grad.ndim - len(shape)
    grad = grad.sum(axis=tuple(axis for axis, length in enumerate(shape) if length == 1), keepdims=True)
    return grad.sum(axis=tuple(range(extra)))


def only_axis_zero(grad, shape):
    return grad if grad.shape == shape else grad.sum(axis=0)


def changes_grad(grad, shape):
    grad += 0.5
    return right_all_at_once(grad - 0.5, shape)


def right_einsum(grad, x, w):
    return np.einsum("nm,km->nk", grad, w), np.einsum("nk,nm->km", x, grad)


def right_transposed(grad, x, w):
    return [np.dot(w, grad.T).T, (grad.T @ x).T]


def exchanges(grad, x, w):
    return x.T @ grad, grad @ w.T


def no_transpose_of_w(grad, x, w):
    return grad @ w, x.T @ grad


def no_transpose_of_x(grad, x, w):
    return grad @ w.T, x @ grad


def other_order_for_x(grad, x, w):
    return w.T @ grad, x.T @ grad


def other_order_for_w(grad, x, w):
    return grad @ w.T, grad @ x.T


def forgets_grad(grad, x, w):
    return w.T, x.T


def ones_for_grad(grad, x, w):
    return np.ones_like(grad) @ w.T, x.T @ np.ones_like(grad)


def transposed_results(grad, x, w):
    return w @ grad.T, grad.T @ x


def entry_by_entry(grad, x, w):
    return grad * w, grad * x


def inverses(grad, x, w):
    return grad @ np.linalg.pinv(w), np.linalg.pinv(x) @ grad


def mean_over_rows(grad, x, w):
    return grad @ w.T, x.T @ grad / len(x)


def only_for_w(grad, x, w):
    return x.T @ grad


def changes_x(grad, x, w):
    grad_w = x.T @ grad
    x[:] = grad @ w.T
    return x, grad_w


def axes_in_a_list(grad, shape):
    return grad.sum(axis=list(range(grad.ndim - len(shape))))


def axis_by_axis_from_the_front(grad, shape):
    for axis in range(grad.ndim):
        if grad.shape[axis] != shape[axis]:
            grad = grad.sum(axis=axis, keepdims=True)
    return grad


def into_a_smaller_array(grad, shape):
    result = np.zeros(shape)
    result += grad
    return result


def w_before_grad(grad, x, w):
    return w @ grad, x.T @ grad


def other_arguments(x, w, grad):
    return grad @ w.T, x.T @ grad


CORRECT = {
    "unbroadcast": [right_one_axis_at_a_time, right_all_at_once, right_by_loops],
    "matmul_backward": [right_einsum, right_transposed],
}
WRONG = {
    "unbroadcast": [
        (sums_nothing, "nothing has been summed"),
        (means, "this is the mean"),
        (only_in_front, "along an axis of length 1 the array was repeated as well"),
        (only_long_axes, "nothing has been summed"),
        (loses_axes, "the axes of length 1 are lost"),
        (keeps_the_front, "no keepdims"),
        (first_copy, "only the first of the copies"),
        (sums_everything, "everything is summed"),
        (fills_with_the_sum, "everything is summed"),
        (aligned_from_the_left, "aligned from the right"),
        (long_axes_first, "before the leading axes are gone"),
        (only_axis_zero, "(2, 1) is expected"),
        (changes_grad, "has changed its argument number 1"),
        (axes_in_a_list, "given as a tuple"),
        (axis_by_axis_from_the_front, "Which axes are to be summed over"),
        (into_a_smaller_array, "Which axes are to be summed over"),
    ],
    "matmul_backward": [
        (exchanges, "the two gradients are exchanged"),
        (no_transpose_of_w, "w must be transposed"),
        (no_transpose_of_x, "x must be transposed"),
        (other_order_for_x, "the factors are in the wrong order: grad comes first"),
        (other_order_for_w, "the factors are in the wrong order: xᵀ comes first"),
        (forgets_grad, "this is only wᵀ"),
        (ones_for_grad, "grad has no effect"),
        (transposed_results, "the result is transposed"),
        (entry_by_entry, "a matrix product (@) is meant"),
        (inverses, "that is not the inverse"),
        (mean_over_rows, "this is the mean over the rows"),
        (only_for_w, "2 things are expected"),
        (changes_x, "has changed its argument number 2"),
        (w_before_grad, "w is not transposed, and the factors are in the wrong order"),
        (other_arguments, "another order than (grad, x, w)"),
    ],
}
