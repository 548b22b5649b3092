"""Lesson 3: unbroadcast and the backward of a matrix product, against loops over every number."""

from collections.abc import Callable
from typing import Any

import numpy as np

from course.comparing import Wrong, compare, compare_all, unchanged

Array = np.ndarray
Shape = tuple[int, ...]


def check_unbroadcast(unbroadcast: Callable[[Array, Shape], Array], generator: np.random.Generator) -> None:
    small = np.arange(1.0, 7.0).reshape(2, 3)
    for shape in ((3,), (2, 1), (), (1, 3), (1, 1), (2, 3)):
        _check_sum(unbroadcast, small, shape, f"unbroadcast([[1, 2, 3], [4, 5, 6]], {shape})")
    for grad_shape, shape in (
        ((3, 3), (3,)),
        ((3, 3), (3, 1)),
        ((5, 4, 3), (4, 1)),
        ((2, 3, 4), (1, 3, 1)),
        ((2, 5, 3, 4), (5, 1, 4)),
        ((4, 4, 4), (4,)),
        ((2, 3, 4, 5), (1, 1, 5)),
        ((1, 3), (3,)),
        ((2, 1, 3), (1, 1)),
        ((6,), ()),
        ((), ()),
    ):
        grad = generator.normal(size=grad_shape)
        _check_sum(unbroadcast, np.asarray(grad), shape, f"unbroadcast(grad of shape {grad_shape}, {shape})")


def check_matmul_backward(
    matmul_backward: Callable[[Array, Array, Array], tuple[Array, Array]], generator: np.random.Generator
) -> None:
    grad, x, w = np.array([[0.0, 1], [0, 0]]), np.array([[1.0, 2], [3, 4]]), np.array([[5.0, 6], [7, 8]])
    call = "matmul_backward([[0, 1], [0, 0]], [[1, 2], [3, 4]], [[5, 6], [7, 8]])"
    _check_product(matmul_backward, grad, x, w, call)
    for n, k, m in ((3, 3, 3), (4, 5, 3), (1, 6, 2), (7, 1, 4), (5, 2, 1)):
        grad, x, w = (generator.normal(size=shape) for shape in ((n, m), (n, k), (k, m)))
        _check_product(
            matmul_backward, grad, x, w, f"matmul_backward(grad {grad.shape}, x {x.shape}, w {w.shape}), random numbers"
        )


def _check_sum(unbroadcast: Callable[[Array, Shape], Array], grad: Array, shape: Shape, call: str) -> None:
    try:
        yours = unchanged(call, unbroadcast, grad, shape)
    except (ValueError, IndexError) as error:  # of NumPy, about axes
        hint = f"{error}. grad has {grad.ndim} axes here, shape has {len(shape)}. Which axes are to be summed over?"
        raise Wrong(call, hint) from error
    right = np.zeros(shape)
    counts = np.zeros(shape, int)
    extra = grad.ndim - len(shape)
    for index in np.ndindex(grad.shape):
        target = tuple(0 if length == 1 else i for i, length in zip(index[extra:], shape, strict=True))
        right[target] += grad[index]
        counts[target] += 1
    in_front = tuple(range(extra))
    long_axes = tuple(axis + extra for axis, length in enumerate(shape) if length == 1)
    summed_in_front, summed_long = grad.sum(axis=in_front), grad.sum(axis=long_axes, keepdims=True)
    mistakes: dict[str, Any] = {
        "this is the mean. Each copy has its own way to the loss, so the gradients add: sum.": right / counts,
        "only the first of the copies is taken. The gradients of all copies add.": grad[
            tuple(0 if axis < extra or axis in long_axes else slice(None) for axis in range(grad.ndim))
        ].reshape(shape),
        "the leading axes are summed, but along an axis of length 1 the array was repeated as well: sum over it too, "
        "with keepdims=True.": summed_in_front if long_axes else None,
        "nothing has been summed. Axes that `shape` does not have were put in front: sum over them.": (
            grad if extra else None
        ),
        "axes of length 1 are summed, but not those that broadcasting has put in front.": summed_long,
        "the axis is counted before the leading axes are gone: axis 0 of `shape` is another axis of grad.": (
            _miscounted(grad, shape)
        ),
        "the sum is right, but the axes of length 1 are lost: sum over them with keepdims=True.": (
            right.squeeze() if 1 in shape else None
        ),
        "the sum is right, but the axes that broadcasting has put in front are still there, with length 1: no "
        "keepdims for these.": right.reshape((1,) * extra + shape) if extra else None,
        "the numbers are right, but the shape is not `shape`.": right.ravel() if len(shape) > 1 else None,
        "everything is summed; only the axes are to be summed along which the array was repeated.": grad.sum(),
        "everything is summed, and the sum repeated; only the axes are to be summed along which the array was "
        "repeated.": np.full(shape, grad.sum()),
        "the wrong axes are summed: shapes are aligned from the right, so what `shape` lacks is in front.": (
            grad.sum(axis=tuple(range(len(shape), grad.ndim))) if extra else None
        ),
        "the shape is right, but the numbers are reshaped, not summed.": np.resize(grad, shape),
    }
    compare(yours, right, call, {hint: wrong for hint, wrong in mistakes.items() if wrong is not None})


def _miscounted(grad: Array, shape: Shape) -> Array | None:
    """Sums over the axes of length 1 counted from the left of grad, then over those in front."""
    axes = tuple(axis for axis, length in enumerate(shape) if length == 1)
    extra = grad.ndim - len(shape)
    return grad.sum(axis=axes, keepdims=True).sum(axis=tuple(range(extra))) if axes and extra else None


def _check_product(
    matmul_backward: Callable[[Array, Array, Array], tuple[Array, Array]], grad: Array, x: Array, w: Array, call: str
) -> None:
    try:
        yours = unchanged(call, matmul_backward, grad, x, w)
    except ValueError as error:
        if "matmul" not in str(error) and "shapes" not in str(error):
            raise
        hint = f"two shapes do not fit: grad is {grad.shape}, x is {x.shape}, w is {w.shape}. {error}"
        raise Wrong(call, hint) from error
    grad_x, grad_w = np.zeros(x.shape), np.zeros(w.shape)
    for n, m in np.ndindex(grad.shape):
        for k in range(x.shape[1]):
            grad_x[n, k] += grad[n, m] * w[k, m]
            grad_w[k, m] += grad[n, m] * x[n, k]
    ones = np.ones(grad.shape)
    mistakes = {
        "dL/dx": {
            "the two gradients are exchanged: dL/dx comes first.": grad_w,
            "w must be transposed: x_nk meets w_km, so grad_nm comes back along row k of w.": _product(grad, w),
            "the factors are in the wrong order: grad comes first.": _product(w.T, grad),
            "the result is transposed. dL/dx has the shape of x.": grad_x.T,
            "grad has no effect.": ones @ w.T,
            "this is only wᵀ: multiply grad with it.": w.T,
            "entry by entry: a matrix product (@) is meant, not `*`.": _each(grad, w),
            "this is grad times the inverse of w. Backward needs the transpose; that is not the inverse.": (
                grad @ np.linalg.inv(w) if w.shape[0] == w.shape[1] else None
            ),
            "w is not transposed, and the factors are in the wrong order: grad comes first.": _product(w, grad),
            "the arguments are taken in another order than (grad, x, w).": _product(w, x.T),
            "grad is multiplied by x here; x_nk reaches the loss by way of w.": _product(grad, x.T),
        },
        "dL/dw": {
            "x must be transposed: its rows are the examples, over which the sum goes.": _product(x, grad),
            "the factors are in the wrong order: xᵀ comes first.": _product(grad, x.T),
            "the result is transposed. dL/dw has the shape of w.": grad_w.T,
            "grad has no effect.": x.T @ ones,
            "this is only xᵀ: multiply it with grad.": x.T,
            "this is the mean over the rows of x. All of them add; dividing is the business of the loss.": (
                grad_w / len(x)
            ),
            "entry by entry: a matrix product (@) is meant, not `*`.": _each(grad, x),
        },
    }
    compare_all(
        yours,
        {"dL/dx": grad_x, "dL/dw": grad_w},
        call,
        {name: {hint: wrong for hint, wrong in hints.items() if wrong is not None} for name, hints in mistakes.items()},
    )


def _product(a: Array, b: Array) -> Array | None:
    return a @ b if a.shape[1] == b.shape[0] else None


def _each(a: Array, b: Array) -> Array | None:
    return a * b if a.shape == b.shape else None
