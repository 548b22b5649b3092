"""Lesson 6: im2col and conv2d, against loops over every number."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from course.comparing import compare, unchanged

Array = np.ndarray


def check_im2col(im2col: Callable[..., Array], generator: np.random.Generator) -> None:
    small = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    _check_columns(im2col, small, (2, 2), None, None, "im2col(the picture of 3×3 pixels, (2, 2))")
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
    cases = (
        ((1, 1, 3, 3), (1, 1, 2, 2), 1, 0),
        ((1, 2, 5, 5), (3, 2, 3, 3), 1, 0),
        ((2, 3, 5, 6), (4, 3, 2, 3), 1, 0),
        ((2, 2, 6, 5), (3, 2, 3, 2), 2, 1),
        ((3, 1, 7, 9), (2, 1, 3, 1), 3, 2),
    )
    for number, (shape, weight_shape, stride, padding) in enumerate(cases):
        x, weight = generator.normal(size=shape), generator.normal(size=weight_shape)
        bias = generator.normal(size=weight_shape[0])
        call = f"conv2d(x of shape {shape}, weight of shape {weight_shape}, bias, stride={stride}, padding={padding})"
        options = {"stride": stride, "padding": padding}
        if number == 0:  # also called without them: lessons to come do
            call, options = call.replace(", stride=1, padding=0", ""), {}
        yours = unchanged(call, conv2d, x, weight, bias, **options)
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
            "the weight as a matrix has the wrong numbers in its rows: reshape it to (out, C·kh·kw), so that each row "
            "is a kernel; reshape(-1, out).T is something else.": _conv2d(
                x, weight.reshape(-1, len(weight)).T.reshape(weight.shape), bias, stride, padding
            ),
            "only the first channel of x is used; the sum goes over all of them.": _conv2d(
                x[:, :1], weight[:, :1], bias, stride, padding
            ),
            "the same bias is added everywhere; each output channel has its own.": (
                right - bias[:, None, None] + bias[0]
            ),
            "pictures and output channels are exchanged: the result is (N, out, Ho, Wo).": right.reshape(
                right.shape[1], right.shape[0], *right.shape[2:]
            ),
            "all pictures of the batch are the first one.": np.repeat(right[:1], len(right), axis=0),
        }
        compare(yours, right, call, mistakes)


def _check_columns(
    im2col: Callable[..., Array],
    x: Array,
    kernel_size: tuple[int, int],
    stride: int | None,
    padding: int | None,
    call: str,
) -> None:
    """stride, padding: None leaves them out of the call."""
    given = {"stride": stride, "padding": padding}
    options = {name: value for name, value in given.items() if value is not None}
    yours = unchanged(call, im2col, x, kernel_size, **options)
    stride, padding = stride or 1, padding or 0
    patches = _patches(x, kernel_size, stride, padding)
    batch, channels, kernel_height, kernel_width, rows, columns = patches.shape
    right = patches.reshape(batch, channels * kernel_height * kernel_width, rows * columns)

    def laid_out(*axes: int) -> Array:
        """The patches with their axes (N, C, kh, kw, Ho, Wo) in another order, as a matrix for each picture."""
        return patches.transpose(axes).reshape(right.shape)

    unpadded_rows, unpadded_columns = (
        (n - side) // stride + 1 for n, side in zip(x.shape[2:], kernel_size, strict=True)
    )
    mistakes = {
        "the + 1 is missing in Ho and Wo.": _as_columns(patches[..., :-1, :-1]),
        "Ho and Wo are those of the picture before padding; the padded one has more places.": _as_columns(
            patches[..., :unpadded_rows, :unpadded_columns]
        ),
        "only kernel_size[0] is used, for the height and for the width.": _as_columns(
            _patches(x, (kernel_height, kernel_height), stride, padding)
        ),
        "only kernel_size[1] is used, for the height and for the width.": _as_columns(
            _patches(x, (kernel_width, kernel_width), stride, padding)
        ),
        "all four axes are padded: `padding` belongs to the last two, and (0, 0) to those before.": _as_columns(
            _patches(np.pad(x, padding), kernel_size, stride, 0)
        ),
        "the padding repeats the pixels of the edge; it is of zeros.": _as_columns(
            _patches(_framed(x, padding, mode="edge"), kernel_size, stride, 0)
        ),
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


def _framed(x: Array, padding: int, mode: Literal["constant", "edge"] = "constant") -> Array:
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode=mode)


def _patches(x: Array, kernel_size: tuple[int, int], stride: int, padding: int) -> Array:
    """Patches (N, C, kh, kw, Ho, Wo), one after the other."""
    x = _framed(x, padding)
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
