"""The kernels in NumPy: each writes into the same arguments, in the same order, as the kernel of its name.

They are what the CUDA means, to read and to test with: a kernel is right if it does what its twin does, and a twin is
right if it does what the operation does. Sums run in another order, so that results agree up to rounding.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

Array = np.ndarray


class _Geometry(NamedTuple):
    """The parameters of source.GEOMETRY, in order."""

    channels: int
    batch: int
    height: int
    width: int
    out_height: int
    out_width: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    padding_h: int
    padding_w: int
    dilation_h: int
    dilation_w: int


def _places(geometry: _Geometry, first: int, rows: int) -> Iterator[tuple[int, Array, Array, Array, Array]]:
    """For each place of the window: its number, the positions (rows from `first`, columns) at which it lies inside
    the image, and the pixels that it shows there.
    """
    for place in range(geometry.kernel_h * geometry.kernel_w):
        k, l = divmod(place, geometry.kernel_w)  # noqa: E741, row and column in the window
        a, b = np.arange(rows), np.arange(geometry.out_width)
        row = (a + first) * geometry.stride_h - geometry.padding_h + k * geometry.dilation_h
        column = b * geometry.stride_w - geometry.padding_w + l * geometry.dilation_w
        inside_h, inside_w = (row >= 0) & (row < geometry.height), (column >= 0) & (column < geometry.width)
        yield place, a[inside_h][:, None], b[inside_w], row[inside_h][:, None], column[inside_w]


def im2col(x: Array, columns: Array, *sizes: int) -> None:
    *shape, first, rows, _ = sizes
    columns[...] = 0
    for place, a, b, row, column in _places(_Geometry(*shape), first, rows):
        columns[:, place, a, :, b] = x[:, :, row, column].transpose(2, 3, 1, 0)  # (N, C, a, b) -> (a, b, C, N)


def col2im(columns: Array, x: Array, *sizes: int) -> None:
    *shape, first, rows, _ = sizes
    for place, a, b, row, column in _places(_Geometry(*shape), first, rows):
        x[:, :, row, column] += columns[:, place, a, :, b].transpose(3, 2, 0, 1)  # (a, b, C, N) -> (N, C, a, b)


def max_pool(x: Array, largest: Array, winners: Array, *sizes: int) -> None:
    geometry = _Geometry(*sizes[:-1])
    largest[...] = -np.inf
    untouched = np.ones(largest.shape, bool)  # windows none of whose pixels was seen yet
    for place, a, b, row, column in _places(geometry, 0, geometry.out_height):
        candidate = x[:, :, row, column]
        wins = untouched[:, :, a, b] | (candidate > largest[:, :, a, b]) | (candidate != candidate)
        winners[:, :, a, b] = np.where(wins, place, winners[:, :, a, b])
        largest[:, :, a, b] = np.maximum(largest[:, :, a, b], candidate)  # a NaN stays
        untouched[:, :, a, b] = False


def max_pool_backward(grad: Array, winners: Array, grad_x: Array, *sizes: int) -> None:
    geometry = _Geometry(*sizes[:-1])
    grad_x[...] = 0
    for place, a, b, row, column in _places(geometry, 0, geometry.out_height):
        grad_x[:, :, row, column] += np.where(winners[:, :, a, b] == place, grad[:, :, a, b], 0)


def bias_relu(x: Array, bias: Array, y: Array, channels: int, positions: int, count: int) -> None:
    by_channel = x.reshape(-1, channels, positions) + bias[:, None]
    y.reshape(by_channel.shape)[...] = np.maximum(by_channel, 0)


def relu_backward(grad: Array, y: Array, grad_x: Array, count: int) -> None:
    np.multiply(grad, y > 0, out=grad_x)


def softmax_cross_entropy(
    logits: Array, labels: Array, weight: Array, loss: Array, probabilities: Array, classes: int, positions: int,
    count: int,
) -> None:  # fmt: skip
    z = logits.reshape(-1, classes, positions)
    shifted = z - z.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1)
    of_label = np.take_along_axis(shifted, labels.reshape(-1, 1, positions), axis=1)[:, 0]
    probabilities.reshape(z.shape)[...] = exponentials / sums[:, None]
    loss.reshape(sums.shape)[...] = weight.reshape(sums.shape) * (np.log(sums) - of_label)


def softmax_cross_entropy_backward(
    probabilities: Array, labels: Array, weight: Array, grad: Array, grad_stride: int, grad_logits: Array,
    classes: int, positions: int, count: int,
) -> None:  # fmt: skip
    is_label = labels.reshape(-1, 1, positions) == np.arange(classes)[:, None]
    scale = weight.reshape(-1, positions) * (grad.reshape(-1, positions) if grad_stride else grad.reshape(()))
    grad_logits.reshape(is_label.shape)[...] = (probabilities.reshape(is_label.shape) - is_label) * scale[:, None]


def sgd(parameter: Array, velocity: Array, grad: Array, lr: Any, momentum: Any, decay: Any, count: int) -> None:
    velocity *= momentum
    velocity += grad + decay * parameter
    parameter -= lr * velocity


def adam(
    parameter: Array, mean: Array, square: Array, grad: Array, lr: Any, beta1: Any, beta2: Any, correction: Any,
    eps: Any, decay: Any, count: int,
) -> None:  # fmt: skip
    grad = grad + decay * parameter
    mean *= beta1
    mean += (1 - beta1) * grad
    square *= beta2
    square += (1 - beta2) * (grad * grad)
    parameter -= lr * mean / (np.sqrt(square) / correction + eps)


def csr_times_rows(
    data: Array, indices: Array, pointers: Array, rows: Array, products: Array, height: int, width: int, count: int
) -> None:
    matrix = scipy.sparse.csr_matrix((data, indices, pointers), shape=(height, width))
    products.reshape(-1, height)[...] = (matrix @ rows.reshape(-1, width).T).T
