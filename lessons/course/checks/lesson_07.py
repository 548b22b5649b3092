"""Lesson 7: the overlap counts, col2im and conv2d's gradients, against loops over every place."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from course import mine
from course.comparing import Wrong, compare, compare_all, new_here, unchanged

Array = np.ndarray
Pair = tuple[int, int]


def check_overlap_counts(overlap_counts: Callable[[], Any], generator: np.random.Generator) -> None:
    call = "overlap_counts()"
    along = np.array([1, 2, 2, 1])
    mistakes = {
        "each pixel is counted once, but the patches overlap: the pixel in row 1, column 1 lies in all four.": np.ones(
            (4, 4)
        ),
        "not every pixel lies in all four patches. The pixel in a corner lies in one.": np.full((4, 4), 4),
        "a patch has nine pixels, but there are only four patches; no pixel can lie in more than four.": np.full(
            (4, 4), 9
        ),
        "the counts along a row are right, and so are those along a column. Over both they multiply, 2 · 2 = 4; they "
        "do not add.": along[:, None] + along,
        "this is right along the rows, but the kernel also moves down: look at a column of the picture.": np.tile(
            along, (4, 1)
        ),
        "this is right along the columns, but the kernel also moves to the right: look at a row of the "
        "picture.": np.tile(along[:, None], (1, 4)),
        "these are the counts with padding 1, where the kernel has 16 places. Without padding it has four.": np.outer(
            [2, 3, 3, 2], [2, 3, 3, 2]
        ),
        "these are sums of the kernel's numbers. Asked for is in how many patches each pixel lies.": np.array(
            [[1, 3, 5, 3], [5, 12, 16, 9], [11, 24, 28, 15], [7, 15, 17, 9]]
        ),
        "these numbers are one too small: count the pixel's first patch as well.": np.outer(along, along) - 1,
        "one number for each place of the kernel came back; one for each of the 16 pixels is asked for.": np.full(
            (2, 2), 9
        ),
        "the numbers are right; write them as four lists of four, one for each row.": np.outer(along, along).ravel(),
    }
    compare(overlap_counts(), np.outer(along, along), call, mistakes)


def check_col2im(col2im: Callable[..., Array], generator: np.random.Generator) -> None:
    small = np.arange(1.0, 17.0).reshape(1, 4, 4)
    call = "col2im(the numbers 1 to 16 of shape (1, 4, 4), (3, 3), (2, 2))"
    _check_images(col2im, small, (3, 3), (2, 2), 1, 0, call)
    for batch, channels, input_size, kernel_size, stride, padding in (
        (1, 1, (4, 4), (3, 3), 1, 0),
        (1, 1, (3, 5), (2, 3), 1, 0),
        (2, 3, (3, 4), (2, 2), 1, 0),
        (1, 2, (4, 5), (2, 2), 2, 0),
        (1, 1, (3, 4), (3, 3), 1, 1),
        (2, 3, (7, 6), (3, 2), 2, 1),
        (2, 2, (8, 9), (1, 4), 3, 2),
        (3, 1, (5, 4), (2, 3), 3, 0),
    ):
        rows, places = _output_size(input_size, kernel_size, stride, padding)
        shape = (batch, channels * kernel_size[0] * kernel_size[1], rows * places)
        columns = generator.normal(size=shape)
        call = (
            f"col2im(columns of shape {shape}, {input_size}, {kernel_size}, stride={stride}, padding={padding})"
            if stride > 1 or padding
            else f"col2im(columns of shape {shape}, {input_size}, {kernel_size})"
        )
        _check_images(col2im, columns, input_size, kernel_size, stride, padding, call)
        _check_pair(col2im, columns, input_size, kernel_size, stride, padding, channels, generator)


def check_conv2d_backward(conv2d_backward: Callable[..., Any], generator: np.random.Generator) -> None:
    one_place = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    _check_gradients(conv2d_backward, np.full((1, 1, 1, 1), 10.0), one_place, one_place + 4, 1, 0)
    for shape, weight_shape, stride, padding in (
        ((1, 1, 4, 4), (1, 1, 3, 3), 1, 0),
        ((1, 2, 4, 5), (3, 2, 2, 3), 1, 0),
        ((1, 2, 5, 5), (3, 2, 3, 3), 1, 1),
        ((3, 2, 5, 4), (4, 2, 2, 3), 1, 0),
        ((2, 3, 6, 7), (4, 3, 3, 2), 2, 1),
        ((2, 1, 8, 9), (2, 1, 1, 4), 3, 2),
    ):
        x, weight = generator.normal(size=shape), generator.normal(size=weight_shape)
        rows, places = _output_size(shape[2:], weight_shape[2:], stride, padding)
        grad = generator.normal(size=(shape[0], weight_shape[0], rows, places))
        _check_gradients(conv2d_backward, grad, x, weight, stride, padding)


def _check_images(
    col2im: Callable[..., Array],
    columns: Array,
    input_size: Pair,
    kernel_size: Pair,
    stride: int,
    padding: int,
    call: str,
) -> None:
    hint = (
        "With stride 1 and no padding your function is right. Do the numbers of places, Ho and Wo, depend on both, and "
        "has the picture of zeros a frame of padding on each side?"
    )
    with new_here(call, stride > 1 or padding > 0, hint):
        yours = unchanged(call, col2im, columns, input_size, kernel_size, stride=stride, padding=padding)
    (height, width), (kernel_height, kernel_width) = input_size, kernel_size
    rows, places = _output_size(input_size, kernel_size, stride, padding)
    patches = columns.reshape(len(columns), -1, kernel_height, kernel_width, rows, places)
    batch, channels = patches.shape[:2]
    framed = _laid_back(patches, input_size, stride, padding)
    reach = ((rows - 1) * stride + kernel_height, (places - 1) * stride + kernel_width)

    def laid_out(shape: tuple[int, ...], axes: tuple[int, ...]) -> Callable[[], Array]:
        """As if the columns had been reshaped to `shape`, and its axes then brought to (N, C, kh, kw, Ho, Wo)."""
        return lambda: _cut(
            _laid_back(columns.reshape(batch, *shape).transpose(0, *axes), input_size, stride, padding),
            input_size,
            padding,
        )

    right = _cut(framed, input_size, padding)
    with np.errstate(all="ignore"):
        average = right / _cut(_laid_back(np.ones_like(patches), input_size, stride, padding), input_size, padding)
    mistakes: dict[str, Any] = {
        "where patches overlap, the last one overwrites the others. They must add: += in place of =, and with arrays "
        "of indices np.add.at, since there += counts equal indices only once.": lambda: _cut(
            _overwritten(patches, input_size, stride, padding, kernel_first=True), input_size, padding
        ),
        "where patches overlap, the last patch overwrites those before it. They must add: += in place of =.": lambda: (
            _cut(_overwritten(patches, input_size, stride, padding, kernel_first=False), input_size, padding)
        ),
        "where patches overlap, you take their mean. That undoes im2col, but the adjoint adds: no division.": average,
        "where patches overlap, you take their mean. The adjoint adds: no division.": np.nan_to_num(average, nan=0.0),
        "the stride has no effect: patches are laid one pixel apart.": lambda: _cut(
            _laid_back(patches, input_size, 1, padding), input_size, padding
        ),
        "the frame of padding is still there; cut it off in the end.": framed,
        "the frame is cut off at the wrong side: the picture begins at (padding, padding), not at (0, 0).": framed[
            ..., :height, :width
        ],
        "with padding 0, the slice [padding:-padding] is empty, because −0 is 0. Use padding : padding + "
        "height.": right[..., :0, :0],
        "the frame is cut off at the top and left only.": framed[..., padding:, padding:],
        "the picture is only as large as the patches reach. Pixels that no patch shows belong to it as well: begin "
        "with zeros of input_size and its padding.": right[..., : reach[0] - padding, : reach[1] - padding],
        "the picture is only as large as the patches reach, less the frame. Begin with zeros of input_size and its "
        "padding: pixels that no patch shows belong to it as well.": right[
            ..., : reach[0] - 2 * padding, : reach[1] - 2 * padding
        ],
        "down a column, the kernel's rows and columns are swapped; the order is channel, kernel row, kernel column.": (
            laid_out((channels, kernel_width, kernel_height, rows, places), (1, 3, 2, 4, 5))
        ),
        "down a column, you take the channels as the last; the order is channel, kernel row, kernel column.": laid_out(
            (kernel_height, kernel_width, channels, rows, places), (3, 1, 2, 4, 5)
        ),
        "the places are taken down the picture first; they go along its rows, as one reads.": laid_out(
            (channels, kernel_height, kernel_width, places, rows), (1, 2, 3, 5, 4)
        ),
        "the columns are reshaped with the places before the kernel's pixels. The order in memory is (N, C, kh, kw, "
        "Ho, Wo): reshape to that, and transpose afterwards if you like.": laid_out(
            (channels, rows, places, kernel_height, kernel_width), (1, 4, 5, 2, 3)
        ),
        "input_size and kernel_size are read as (width, height); both are (height, width).": lambda: _cut(
            _laid_back(
                columns.reshape(batch, channels, kernel_width, kernel_height, places, rows),
                input_size[::-1],
                stride,
                padding,
            ),
            input_size[::-1],
            padding,
        ),
        "all pictures of the batch are the first one.": np.repeat(right[:1], batch, axis=0),
        "the patches are laid down turned by 180°: the kernel's rows and columns run backwards.": lambda: _cut(
            _laid_back(patches[:, :, ::-1, ::-1], input_size, stride, padding), input_size, padding
        ),
        "the numbers are cut to whole ones. Is the picture of zeros made of integers?": lambda: _cut(
            _laid_back(np.trunc(patches), input_size, stride, padding), input_size, padding
        ),
        "only the first row of the kernel has been laid down. Does `return` stand within the loop?": lambda: _cut(
            _laid_back(patches * (np.arange(kernel_height) == 0)[:, None, None, None], input_size, stride, padding),
            input_size,
            padding,
        ),
    }
    if isinstance(yours, np.ndarray) and yours.ndim == 4 and yours.shape[1] != channels:
        hint = (
            f"{yours.shape[1]} channels came back, but there are {channels}. A −1 in a reshape takes what is left "
            f"over: are Ho and Wo right, with stride and padding? Here they are {rows} and {places}."
        )
        mistakes[hint] = yours
    compare(yours, right, call, mistakes)


def _check_pair(
    col2im: Callable[..., Array],
    columns: Array,
    input_size: Pair,
    kernel_size: Pair,
    stride: int,
    padding: int,
    channels: int,
    generator: np.random.Generator,
) -> None:
    """⟨im2col(x), c⟩ = ⟨x, col2im(c)⟩ with the learner's pair. col2im is right by now; im2col may be another's."""
    x = generator.normal(size=(len(columns), channels, *input_size))
    copied = mine.im2col(x, kernel_size, stride=stride, padding=padding)
    laid_back = col2im(columns, input_size, kernel_size, stride=stride, padding=padding)
    left, right = float((copied * columns).sum()), float((x * laid_back).sum())
    if abs(left - right) > 1e-9 * (1 + float(np.abs(copied * columns).sum())):
        raise Wrong(
            f"⟨im2col(x), c⟩ = ⟨x, col2im(c)⟩ for {input_size}, {kernel_size}, stride={stride}, padding={padding}",
            "your col2im is right, but the im2col in mine/ does not belong to it. Has its file been changed? Run the "
            "check of lesson 6 again.",
            yours=left,
            expected=right,
        )


def _check_gradients(
    conv2d_backward: Callable[..., Any], grad: Array, x: Array, weight: Array, stride: int, padding: int
) -> None:
    options = f", stride={stride}, padding={padding}" if stride > 1 or padding else ""
    call = f"conv2d_backward(grad of shape {grad.shape}, x of shape {x.shape}, weight of shape {weight.shape}{options})"
    if options:
        hint = "With stride 1 and no padding your function is right. Are both passed on, to im2col and to col2im?"
    else:
        hint = "For a single picture your function is right. Do the shares of all pictures add up before the reshape?"
    with new_here(call, bool(options) or len(x) > 1, hint):
        yours = unchanged(call, conv2d_backward, grad, x, weight, stride=stride, padding=padding)
    grad_x, grad_weight, grad_bias = _gradients(grad, x, weight, stride, padding)
    first = _gradients(grad[:1], x[:1], weight, stride, padding)
    flat = grad.reshape(grad.shape[0], grad.shape[1], -1)
    columns = _columns(x, weight.shape[2:], stride, padding)
    by_picture = np.stack(
        [
            _gradients(one[None], image[None], weight, stride, padding)[1].reshape(len(weight), -1)
            for one, image in zip(grad, x, strict=True)
        ]
    )
    in_wrong_order = {
        "dL/dx": {
            "this is dL/dweight. The order of the three is dL/dx, dL/dweight, dL/dbias.": grad_weight,
            "this is dL/dbias. The order of the three is dL/dx, dL/dweight, dL/dbias.": grad_bias,
        },
        "dL/dweight": {
            "this is dL/dbias. The order of the three is dL/dx, dL/dweight, dL/dbias.": grad_bias,
            "this is dL/dx. The order of the three is dL/dx, dL/dweight, dL/dbias.": grad_x,
        },
        "dL/dbias": {"this is dL/dweight. The order of the three is dL/dx, dL/dweight, dL/dbias.": grad_weight},
    }
    swapped = weight.reshape(len(weight), -1).reshape(-1, len(weight))  # a reshape in the place of the transpose
    mistakes: Mapping[str, dict[str, Any]] = {
        "dL/dx": {
            "the kernel is turned by 180°. In Cᵀ g, each g lays the kernel down as it is.": lambda: _gradients(
                grad, x, weight[:, :, ::-1, ::-1], stride, padding
            )[0],
            "W is reshaped where it must be transposed: dL/dc = W.T @ g.": lambda: _gradients(
                grad, x, swapped.T.reshape(weight.shape), stride, padding
            )[0],
            "where patches overlap, the last one overwrites the others; they must add. Is this your col2im?": lambda: (
                _gradients(grad, x, weight, stride, padding, adding=False)[0]
            ),
            "these are the gradients of the columns, Wᵀ g. The last step is col2im.": weight.reshape(len(weight), -1).T
            @ flat,
            "it is divided by the number of pictures. The loss is what it is: its gradient for each picture stays "
            "whole.": grad_x / len(x),
            **in_wrong_order["dL/dx"],
        },
        "dL/dweight": {
            "it is the mean over the pictures. All of them used the same weights, so their shares add.": grad_weight
            / len(x),
            "only the first picture counts. All of them used the same weights: sum over the batch.": first[1],
            "only the last picture counts. All of them used the same weights: sum over the batch.": by_picture[
                -1
            ].reshape(weight.shape),
            "there is one for each picture. All of them used the same weights: sum over the batch.": by_picture,
            "there is one for each picture; sum over axis 0.": by_picture.reshape(len(x), *weight.shape),
            "it is still a matrix (out, C·kh·kw); the last step is a reshape to the weight's "
            "shape.": grad_weight.reshape(len(weight), -1),
            "the matrix is transposed, (C·kh·kw, out). It is g @ columnsᵀ, not columns @ gᵀ.": grad_weight.reshape(
                len(weight), -1
            ).T,
            "the numbers stand in the wrong order: a reshape does not transpose. (C·kh·kw, out) must become (out, "
            "C·kh·kw) before it is reshaped to the weight's shape.": grad_weight.reshape(len(weight), -1).T.reshape(
                weight.shape
            ),
            "a reshape has mixed pictures and channels: (N, out, Ho·Wo) becomes (out, N·Ho·Wo) only by a transpose.": (
                grad.reshape(len(weight), -1) @ columns.reshape(columns.shape[1], -1).T
            ).reshape(weight.shape),
            "the kernel's rows and columns are swapped.": grad_weight.swapaxes(2, 3),
            "it is turned by 180°.": grad_weight[:, :, ::-1, ::-1],
            **in_wrong_order["dL/dweight"],
        },
        "dL/dbias": {
            "it is the mean over pictures and places. The bias was used at each of them, so their shares "
            "add.": grad.mean(axis=(0, 2, 3)),
            "it is the mean over the pictures; their shares add.": grad_bias / len(x),
            "there is one for each picture. Sum over the batch as well, axis 0.": flat.sum(axis=2),
            "only the first picture counts; sum over the batch as well, axis 0.": first[2],
            "it is summed over the channels, with one number left for each picture. It is the channels, axis 1, that "
            "stay.": (flat.sum(axis=(1, 2))),
            "the channels are summed over, and an axis of the places is left. It is the channels, axis 1, that stay: "
            "sum over the axes 0, 2 and 3.": grad.sum(axis=(0, 1, 2)),
            "the channels are summed over, and the rows are left. It is the channels, axis 1, that stay: sum over the "
            "axes 0, 2 and 3.": grad.sum(axis=(0, 1, 3)),
            "there is one for each place. The bias of a channel was used at every place: sum over the last two axes as "
            "well.": grad.sum(axis=0),
            "it is summed over everything. Each output channel has a bias of its own: leave out axis 1.": grad.sum(),
            "the axis of the channels is kept, and others with length 1; the bias has the shape (out,).": grad.sum(
                axis=(0, 2, 3), keepdims=True
            ),
            **in_wrong_order["dL/dbias"],
        },
    }
    compare_all(yours, {"dL/dx": grad_x, "dL/dweight": grad_weight, "dL/dbias": grad_bias}, call, mistakes)


def _output_size(input_size: Pair, kernel_size: Pair, stride: int, padding: int) -> Pair:
    rows, places = ((n + 2 * padding - k) // stride + 1 for n, k in zip(input_size, kernel_size, strict=True))
    return rows, places


def _columns(x: Array, kernel_size: Pair, stride: int, padding: int) -> Array:
    """im2col, patch by patch."""
    framed = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows, places = _output_size(x.shape[2:], kernel_size, stride, padding)
    patches = [
        framed[:, :, top : top + kernel_size[0], left : left + kernel_size[1]].reshape(len(x), -1)
        for top in range(0, rows * stride, stride)
        for left in range(0, places * stride, stride)
    ]
    return np.stack(patches, axis=2)


def _laid_back(patches: Array, input_size: Pair, stride: int, padding: int) -> Array:
    """Patches (N, C, kh, kw, Ho, Wo), one after the other, added onto zeros with a frame.

    The picture is larger where they reach beyond it, as they do for some mistakes.
    """
    batch, channels, kernel_height, kernel_width, rows, places = patches.shape
    height = max(input_size[0] + 2 * padding, (rows - 1) * stride + kernel_height)
    width = max(input_size[1] + 2 * padding, (places - 1) * stride + kernel_width)
    framed = np.zeros((batch, channels, height, width))
    for row in range(rows):
        for place in range(places):
            top, left = row * stride, place * stride
            framed[:, :, top : top + kernel_height, left : left + kernel_width] += patches[..., row, place]
    return framed


def _overwritten(patches: Array, input_size: Pair, stride: int, padding: int, kernel_first: bool) -> Array:
    """The famous mistake: = in place of +=, in a loop over the kernel's pixels or over the places."""
    batch, channels, kernel_height, kernel_width, rows, places = patches.shape
    framed = np.zeros((batch, channels, *(n + 2 * padding for n in input_size)))
    if kernel_first:
        for i in range(kernel_height):
            for j in range(kernel_width):
                framed[:, :, i : i + rows * stride : stride, j : j + places * stride : stride] = patches[:, :, i, j]
    else:
        for row in range(rows):
            for place in range(places):
                top, left = row * stride, place * stride
                framed[:, :, top : top + kernel_height, left : left + kernel_width] = patches[..., row, place]
    return framed


def _cut(framed: Array, input_size: Pair, padding: int) -> Array:
    return framed[..., padding : padding + input_size[0], padding : padding + input_size[1]]


def _gradients(
    grad: Array, x: Array, weight: Array, stride: int, padding: int, adding: bool = True
) -> tuple[Array, Array, Array]:
    """Place by place: each g goes to its patch and to the kernel."""
    framed = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    grad_framed, grad_weight = np.zeros_like(framed), np.zeros_like(weight)
    for row in range(grad.shape[2]):
        for place in range(grad.shape[3]):
            top, left = row * stride, place * stride
            window = (..., slice(top, top + weight.shape[2]), slice(left, left + weight.shape[3]))
            g = grad[:, :, row, place]  # (N, out)
            grad_weight += np.einsum("no,ncij->ocij", g, framed[window])
            share = np.einsum("no,ocij->ncij", g, weight)
            grad_framed[window] = share + (grad_framed[window] if adding else 0)
    return _cut(grad_framed, x.shape[2:], padding), grad_weight, grad.sum(axis=(0, 2, 3))
