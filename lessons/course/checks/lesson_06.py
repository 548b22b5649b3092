"""Lesson 6: im2col and conv2d, against loops over every number."""

from collections.abc import Callable

import numpy as np

from course.comparing import compare, unchanged

Array = np.ndarray


def check_im2col(im2col: Callable[..., Array], generator: np.random.Generator) -> None:
    small = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    _check_columns(im2col, small, (2, 2), 1, 0, "im2col(the picture of 3×3 pixels, (2, 2))")
    for shape, kernel_size, stride, padding in (
        ((1, 2, 4, 5), (2, 3), 1, 0),
        ((1, 1, 3, 4), (3, 3), 1, 1),
        ((1, 1, 6, 7), (2, 2), 2, 0),
        ((2, 3, 7, 6), (3, 2), 2, 1),
        ((2, 2, 8, 9), (1, 4), 3, 2),
    ):
        call = f"im2col(x of shape {shape}, {kernel_size}, stride={stride}, padding={padding})"
        _check_columns(im2col, generator.normal(size=shape), kernel_size, stride, padding, call)


def check_conv2d(conv2d: Callable[..., Array], generator: np.random.Generator) -> None:
    for shape, weight_shape, stride, padding in (
        ((1, 1, 3, 3), (1, 1, 2, 2), 1, 0),
        ((1, 2, 5, 5), (3, 2, 3, 3), 1, 0),
        ((2, 3, 5, 6), (4, 3, 2, 3), 1, 0),
        ((2, 2, 6, 5), (3, 2, 3, 2), 2, 1),
        ((3, 1, 7, 9), (2, 1, 3, 1), 3, 2),
    ):
        x, weight = generator.normal(size=shape), generator.normal(size=weight_shape)
        bias = generator.normal(size=weight_shape[0])
        call = f"conv2d(x of shape {shape}, weight of shape {weight_shape}, bias, stride={stride}, padding={padding})"
        yours = unchanged(call, conv2d, x, weight, bias, stride=stride, padding=padding)
        right = _conv2d(x, weight, bias, stride, padding)
        mistakes = {
            "the bias is not added.": right - bias[:, None, None],
            "the bias is added along the wrong axis. It belongs to the output channels, axis 1: bias[:, None, None].": (
                right - bias[:, None, None] + bias if right.shape[-1] == len(bias) else right[:0]
            ),
            "the kernel is turned by 180°. In networks it is laid on the picture as it is.": _conv2d(
                x, weight[:, :, ::-1, ::-1], bias, stride, padding
            ),
            "the kernel's rows and columns are swapped.": _conv2d(x, weight.swapaxes(2, 3), bias, stride, padding),
            "the stride has no effect. Is it passed on to im2col?": _conv2d(x, weight, bias, 1, padding),
            "the padding has no effect. Is it passed on to im2col?": _conv2d(x, weight, bias, stride, 0),
            "the places are laid out with the width before the height: reshape to (…, Ho, Wo).": right.reshape(
                *right.shape[:2], right.shape[3], right.shape[2]
            ),
            "the result is still (N, out, places); the last step is a reshape to (N, out, Ho, Wo).": right.reshape(
                *right.shape[:2], -1
            ),
            "all pictures of the batch are the first one.": np.repeat(right[:1], len(right), axis=0),
        }
        compare(yours, right, call, mistakes)


def _check_columns(
    im2col: Callable[..., Array],
    x: Array,
    kernel_size: tuple[int, int],
    stride: int,
    padding: int,
    call: str,
) -> None:
    yours = unchanged(call, im2col, x, kernel_size, stride=stride, padding=padding)
    patches = _patches(x, kernel_size, stride, padding)
    batch, channels, kernel_height, kernel_width, rows, columns = patches.shape
    right = patches.reshape(batch, channels * kernel_height * kernel_width, rows * columns)

    def laid_out(*axes: int) -> Array:
        """The patches with their axes (N, C, kh, kw, Ho, Wo) in another order, as a matrix for each picture."""
        return patches.transpose(axes).reshape(right.shape)

    mistakes = {
        "the stride has no effect.": _as_columns(_patches(x, kernel_size, 1, padding)),
        "the padding has no effect.": _as_columns(_patches(x, kernel_size, stride, 0)),
        "the padding is put on one side only, after the picture; it belongs on both.": _as_columns(
            _patches(np.pad(x, ((0, 0), (0, 0), (0, 2 * padding), (0, 2 * padding))), kernel_size, stride, 0)
        ),
        "kernel_size is read as (width, height); it is (height, width).": _as_columns(
            _patches(x, kernel_size[::-1], stride, padding)
        ),
        "patches are rows here; each is to be a column. Swap the last two axes.": right.swapaxes(1, 2),
        "down a column, the channels come last; the order is channel, kernel row, kernel column.": laid_out(
            0, 2, 3, 1, 4, 5
        ),
        "down a column, the kernel's columns come before its rows.": laid_out(0, 1, 3, 2, 4, 5),
        "the columns go down the picture first; they go along its rows, as one reads.": laid_out(0, 1, 2, 3, 5, 4),
        "the array is right but for its last step, the reshape to (N, C·kh·kw, Ho·Wo).": patches,
        "the places come before the kernel's pixels when it is reshaped. Fill an array (N, C, kh, kw, Ho, Wo), or "
        "transpose before the reshape.": laid_out(0, 1, 4, 5, 2, 3),
    }
    compare(yours, right, call, mistakes)


def _patches(x: Array, kernel_size: tuple[int, int], stride: int, padding: int) -> Array:
    """Patches (N, C, kh, kw, Ho, Wo), one after the other."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    kernel_height, kernel_width = kernel_size
    rows, columns = ((x.shape[2] - kernel_height) // stride + 1, (x.shape[3] - kernel_width) // stride + 1)
    patches = np.zeros((*x.shape[:2], *kernel_size, max(rows, 0), max(columns, 0)))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            patches[..., row, column] = x[:, :, top : top + kernel_height, left : left + kernel_width]
    return patches


def _as_columns(patches: Array) -> Array:
    return patches.reshape(len(patches), int(np.prod(patches.shape[1:4])), -1)


def _conv2d(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    patches = _patches(x, weight.shape[2:], stride, padding)
    return np.einsum("ocab,ncabij->noij", weight, patches) + bias[:, None, None]
