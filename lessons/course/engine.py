"""The graph of the lessons: a tensor knows what it was made from, and how its gradient goes back there.

It is the class Number of lesson 2 with arrays in the place of numbers; lesson 3 reads it line by line. What computes
here are the functions of `course.mine`: yours where you have solved them. Everything is as small as it can be; the
library's own graph is in `minifcn/autograd/`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course import mine

Gradients = tuple[Any, ...]  # one for each parent


class Tensor:
    """An array in the graph; a single number is an array of shape ().

    parents: the tensors it was made from; none if it is a leaf.
    pass_back: from the gradient of the loss with respect to this tensor to those with respect to its parents.
    grad: the gradient of the loss with respect to this tensor, an array like data; None before the backward pass.
    """

    def __init__(
        self, data: Any, parents: Sequence["Tensor"] = (), pass_back: Callable[[Any], Gradients] | None = None
    ) -> None:
        data = np.asarray(data)
        self.data = data if data.dtype.kind == "f" else data.astype(float)  # only such numbers have a slope
        self.parents = tuple(parents)
        self.pass_back = pass_back
        self.grad: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def __repr__(self) -> str:
        return f"Tensor({self.data})"

    def backward(self) -> None:
        """Give this tensor and everything behind it the gradient; lesson 2."""
        mine.backward_pass(self, np.ones_like(self.data))

    def __add__(self, other: Any) -> "Tensor":
        other = as_tensor(other)
        return Tensor(
            self.data + other.data,
            (self, other),
            lambda grad: (mine.unbroadcast(grad, self.shape), mine.unbroadcast(grad, other.shape)),
        )

    def __mul__(self, other: Any) -> "Tensor":
        other = as_tensor(other)
        return Tensor(
            self.data * other.data,
            (self, other),
            lambda grad: (
                mine.unbroadcast(grad * other.data, self.shape),
                mine.unbroadcast(grad * self.data, other.shape),
            ),
        )

    def __matmul__(self, other: "Tensor") -> "Tensor":
        return Tensor(
            self.data @ other.data, (self, other), lambda grad: mine.matmul_backward(grad, self.data, other.data)
        )

    def sum(self) -> "Tensor":
        return Tensor(self.data.sum(), (self,), lambda grad: (np.broadcast_to(grad, self.shape),))

    __radd__ = __add__  # number + tensor and array + tensor
    __rmul__ = __mul__
    __array_ufunc__ = None  # an array on the left leaves the operation to the tensor


def as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else Tensor(value)


def tanh(x: Tensor) -> Tensor:
    """Lesson 1."""
    y = mine.tanh(x.data)
    return Tensor(y, (x,), lambda grad: (mine.tanh_backward(grad, y),))


def relu(x: Tensor) -> Tensor:
    return Tensor(np.maximum(x.data, 0), (x,), lambda grad: (grad * (x.data > 0),))


def softmax_cross_entropy(logits: Tensor, labels: np.ndarray, ignore_index: int = 255) -> Tensor:
    """Lesson 5."""
    loss, grad_logits = mine.softmax_cross_entropy(logits.data, labels, ignore_index)
    return Tensor(loss, (logits,), lambda grad: (grad * grad_logits,))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Lessons 6 and 7."""
    y = mine.conv2d(x.data, weight.data, bias.data, stride=stride, padding=padding)
    return Tensor(
        y,
        (x, weight, bias),
        lambda grad: mine.conv2d_backward(grad, x.data, weight.data, stride=stride, padding=padding),
    )


def max_pool2d(x: Tensor, kernel_size: tuple[int, int], *, stride: int, ceil_mode: bool = False) -> Tensor:
    """Lesson 8."""
    y = mine.max_pool2d(x.data, kernel_size, stride=stride, ceil_mode=ceil_mode)
    return Tensor(
        y,
        (x,),
        lambda grad: (mine.max_pool2d_backward(grad, x.data, kernel_size, stride=stride, ceil_mode=ceil_mode),),
    )


def conv_transpose2d(y: Tensor, weight: Tensor, *, stride: int, padding: int = 0) -> Tensor:
    """Lesson 9."""
    return Tensor(
        mine.conv_transpose2d(y.data, weight.data, stride=stride, padding=padding),
        (y, weight),
        lambda grad: mine.conv_transpose2d_backward(grad, y.data, weight.data, stride=stride, padding=padding),
    )


def crop(x: Tensor, start: int, size: Sequence[int]) -> Tensor:
    """The part of the maps x (N, C, H, W) that begins at (start, start) and has this size (height, width)."""
    window = (..., slice(start, start + size[0]), slice(start, start + size[1]))

    def pass_back(grad: Any) -> Gradients:
        grad_x = np.zeros_like(x.data)  # pixels that were cut off have no influence on the loss
        grad_x[window] = grad
        return (grad_x,)

    return Tensor(x.data[window], (x,), pass_back)
