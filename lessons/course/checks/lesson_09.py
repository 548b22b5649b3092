"""Lesson 9: transposed convolution and its gradients, against stamps laid down one by one; the bilinear kernel."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from course.comparing import compare, compare_all, new_here, unchanged

Array = np.ndarray

SIX_LAYERS = ((4, 3, 1, 0), (4, 4, 2, 1), (1, 16, 8, 0), (5, 4, 2, 0), (7, 3, 2, 1), (10, 16, 8, 4))


def check_transposed_sizes(transposed_sizes: Callable[[], Any], generator: np.random.Generator) -> None:
    call = "transposed_sizes()"

    def sizes(formula: Callable[[int, int, int, int], int]) -> list[int]:
        return [formula(*layer) for layer in SIX_LAYERS]

    yours = transposed_sizes()
    right = sizes(lambda n, k, s, p: (n - 1) * s + k - 2 * p)
    mistakes = {
        "the padding is missing. It is cut off at both ends: − 2·padding.": sizes(lambda n, k, s, p: (n - 1) * s + k),
        "the padding is cut off at one end only; it is cut off at both: − 2·padding.": sizes(
            lambda n, k, s, p: (n - 1) * s + k - p
        ),
        "the padding is added. A convolution adds a frame before it begins; its transpose cuts one off in the end.": (
            sizes(lambda n, k, s, p: (n - 1) * s + k + 2 * p)
        ),
        "one step too many: between n stamps there are n − 1 steps of stride.": sizes(
            lambda n, k, s, p: n * s + k - 2 * p
        ),
        "this is n·stride, which is the size only where kernel_size − 2·padding = stride. Where does the last stamp "
        "begin, and where does it end?": sizes(lambda n, k, s, p: n * s),
        "the kernel is missing: the last stamp begins at (n − 1)·stride, and is kernel_size pixels wide.": sizes(
            lambda n, k, s, p: (n - 1) * s - 2 * p
        ),
        "one pixel is missing everywhere: a stamp that begins at pixel b ends at pixel b + kernel_size − 1, and pixels "
        "are counted from 0.": sizes(lambda n, k, s, p: (n - 1) * s + k - 2 * p - 1),
        "one pixel too many everywhere: the last stamp begins at (n − 1)·stride, and has kernel_size pixels.": sizes(
            lambda n, k, s, p: (n - 1) * s + k - 2 * p + 1
        ),
        "this is the output size of a convolution, ⌊(n + 2·padding − kernel_size)/stride⌋ + 1. Transposed, it is the "
        "other way round: n is how many stamps there are.": sizes(lambda n, k, s, p: (n + 2 * p - k) // s + 1),
    }
    compare(yours, right, call, mistakes | _first_wrong_layer(yours, right))


def _first_wrong_layer(yours: Any, right: list[int]) -> dict[str, Any]:
    """A hint for six numbers that follow from no formula: the first layer that is wrong, stamp by stamp."""
    try:
        array = np.asarray(yours)
    except ValueError:
        return {}
    if array.shape != (len(right),) or array.dtype.kind not in "biuf":
        return {}
    wrong = [number for number, size in enumerate(right) if array[number] != size]
    if not wrong:
        return {}
    n, kernel_size, stride, padding = SIX_LAYERS[wrong[0]]
    start = (n - 1) * stride
    hint = (
        f"look at layer {wrong[0] + 1}, with n = {n}, kernel_size {kernel_size}, stride {stride}, padding {padding}: "
        f"the last stamp begins at {n - 1}·{stride} = {start} and has {kernel_size} pixels, so that they are "
        f"{start + kernel_size} in all; of these {padding} at each end are cut off."
    )
    return {hint: array}


# shapes of y (N, in, H, W) and of the weight (in, out, kh, kw), stride, padding
_CASES = (
    ((1, 2, 3, 4), (2, 2, 3, 3), 2, 1),  # as many channels out as in: nothing stops a wrong order of the axes
    ((2, 3, 3, 4), (3, 2, 2, 3), 1, 0),
    ((1, 2, 4, 3), (2, 4, 4, 4), 2, 1),
    ((3, 1, 2, 4), (1, 2, 5, 4), 2, 2),  # three stamps and more lie on one another
    ((2, 2, 3, 5), (2, 3, 3, 2), 3, 1),
    ((1, 1, 4, 3), (1, 2, 1, 2), 3, 0),  # gaps between the stamps
)


def check_conv_transpose2d(conv_transpose2d: Callable[..., Array], generator: np.random.Generator) -> None:
    y = np.array([[1.0, 2.0], [3.0, 4.0]])[None, None]
    _check_forward(conv_transpose2d, y, np.ones((1, 1, 2, 2)), 1, 0, "conv_transpose2d([[1, 2], [3, 4]], 2×2 ones)")
    weight = np.ones((1, 1, 3, 3))
    _check_forward(conv_transpose2d, y, weight, 2, 0, "conv_transpose2d([[1, 2], [3, 4]], 3×3 ones, stride=2)")
    y, weight = np.array([[1.0, 0.0], [0.0, 0.0]])[None, None], np.arange(1.0, 7.0).reshape(1, 1, 2, 3)
    call = "conv_transpose2d([[1, 0], [0, 0]], [[1, 2, 3], [4, 5, 6]])"
    _check_forward(conv_transpose2d, y, weight, 1, 0, call)
    for shape, weight_shape, stride, padding in _CASES:
        y, weight = generator.normal(size=shape), generator.normal(size=weight_shape)
        call = (
            f"conv_transpose2d(y of shape {shape}, weight of shape {weight_shape}, stride={stride}, padding={padding})"
        )
        _check_forward(conv_transpose2d, y, weight, stride, padding, call)


def _check_forward(
    conv_transpose2d: Callable[..., Array], y: Array, weight: Array, stride: int, padding: int, call: str
) -> None:
    rows, columns = ((n - 1) * stride + k - 2 * padding for n, k in zip(y.shape[2:], weight.shape[2:], strict=True))
    sizes = (
        f"Ho = (H − 1)·stride + kh − 2·padding is {rows} here, Wo {columns}. Wᵀ is {(weight[0].size, len(weight))}, "
        f"y as a matrix for each picture {(len(y), len(weight), y[0, 0].size)}, and col2im takes stride and padding as "
        "they are given."
    )
    with new_here(call, True, sizes):
        yours = unchanged(call, conv_transpose2d, y, weight, stride=stride, padding=padding)
    stamps = _stamps(y, weight)
    full = _added_up(stamps, stride)  # nothing cut off yet
    height, width = full.shape[2] - 2 * padding, full.shape[3] - 2 * padding
    right = full[:, :, padding : padding + height, padding : padding + width]

    def added_up(stamps: Array) -> Array:
        whole = _added_up(stamps, stride)
        return whole[:, :, padding : whole.shape[2] - padding, padding : whole.shape[3] - padding]

    in_channels, out_channels = weight.shape[:2]
    scrambled = np.einsum("mi,nihw->nmhw", weight.reshape(-1, in_channels), y)
    batch, _, *places = y.shape
    step_1 = _added_up(stamps, 1)
    mistakes: dict[str, Any] = {
        "where stamps overlap, the last one is kept; they must be added (`+=`, or your col2im).": _overwritten(
            stamps, stride
        )[:, :, padding : padding + height, padding : padding + width],
        "the kernel is turned by 180°. The stamp is the kernel as it is.": added_up(
            _stamps(y, weight[:, :, ::-1, ::-1])
        ),
        "the stamp's rows and columns are swapped.": added_up(_stamps(y, weight.swapaxes(2, 3))),
        "the weight is reshaped to (out·kh·kw, in), which mixes its numbers up. Reshape to (in, out·kh·kw), then "
        "transpose with .T.": added_up(scrambled.reshape(batch, *weight.shape[1:], *places)),
        "the stride has no effect: the stamps are one pixel apart.": step_1[
            :, :, padding : step_1.shape[2] - padding, padding : step_1.shape[3] - padding
        ],
        "the padding is not cut off; 2·padding rows and columns must go.": full,
        "the padding is cut off at the end only; it is cut off at both ends.": full[:, :, :height, :width],
        "the padding is cut off at the beginning only; it is cut off at both ends.": full[:, :, -height:, -width:],
        "the padding is put around the result, as zeros. A convolution adds a frame; its transpose cuts one.": np.pad(
            full, ((0, 0), (0, 0), (padding, padding), (padding, padding))
        ),
        "the padding is put around the input. It is cut off from the output.": _added_up(
            _stamps(np.pad(y, ((0, 0), (0, 0), (padding, padding), (padding, padding))), weight), stride
        ),
        "nothing is left: x[padding:-padding] is empty where padding is 0. Write padding : size − padding.": right[
            :, :, :0, :0
        ],
        "all pictures of the batch are the first one.": np.repeat(right[:1], batch, axis=0),
        "the pictures of the batch are added up.": right.sum(axis=0, keepdims=True),
        "y is reshaped to (N, H·W, in), which mixes its numbers up. Reshape to (N, in, H·W).": lambda: added_up(
            _stamps(y.reshape(batch, -1, in_channels).swapaxes(1, 2).reshape(y.shape), weight)
        ),
    }
    if in_channels == out_channels:
        if min(y.shape[2] - weight.shape[2], y.shape[3] - weight.shape[3]) + 2 * padding >= 0:
            mistakes["this is the convolution, which reads a patch for each number. Its transpose writes one."] = (
                np.einsum("oiab,nihwab->nohw", weight, _windows(y, weight.shape[2:], stride, padding))
            )
        mistakes["the weight is read as (out, in, kh, kw). In a transposed convolution it is (in, out, kh, kw)."] = (
            added_up(_stamps(y, weight.swapaxes(0, 1)))
        )
        each = np.zeros_like(weight)
        each[np.arange(in_channels), np.arange(in_channels)] = weight[np.arange(in_channels), np.arange(in_channels)]
        mistakes["each channel is enlarged by itself. Every output channel is a sum over all input channels."] = (
            added_up(_stamps(y, each))
        )
    if isinstance(yours, np.ndarray) and yours.ndim == 4 and yours.shape != right.shape:
        mistakes[f"the result is {yours.shape[2]} × {yours.shape[3]} pixels large. {sizes}"] = yours
    compare(yours, right, call, mistakes)


def check_conv_transpose2d_backward(
    conv_transpose2d_backward: Callable[..., Any], generator: np.random.Generator
) -> None:
    y, weight = np.array([[1.0, 2.0], [3.0, 4.0]])[None, None], np.ones((1, 1, 2, 2))
    grad = np.arange(16.0).reshape(1, 1, 4, 4)
    call = "conv_transpose2d_backward([[0, 1, 2, 3], …, [12, 13, 14, 15]], [[1, 2], [3, 4]], 2×2 ones, stride=2)"
    _check_backward(conv_transpose2d_backward, grad, y, weight, 2, 0, call)
    for shape, weight_shape, stride, padding in _CASES:
        y, weight = generator.normal(size=shape), generator.normal(size=weight_shape)
        rows, columns = ((n - 1) * stride + k - 2 * padding for n, k in zip(shape[2:], weight_shape[2:], strict=True))
        grad = generator.normal(size=(shape[0], weight_shape[1], rows, columns))
        call = (
            f"conv_transpose2d_backward(grad of shape {grad.shape}, y of shape {shape}, weight of shape "
            f"{weight_shape}, stride={stride}, padding={padding})"
        )
        _check_backward(conv_transpose2d_backward, grad, y, weight, stride, padding, call)


def _check_backward(
    backward: Callable[..., Any], grad: Array, y: Array, weight: Array, stride: int, padding: int, call: str
) -> None:
    hint = (
        f"dL/dy has the shape of y, {y.shape}: conv2d takes stride and padding as they are given, and so does im2col. "
        f"Then y is {(len(y), len(weight), y[0, 0].size)} as a matrix for each picture, and the columns of grad are "
        f"{(len(y), weight[0].size, y[0, 0].size)}, to be transposed in the product and added over the pictures."
    )
    with new_here(call, True, hint):
        yours = unchanged(call, backward, grad, y, weight, stride=stride, padding=padding)
    patches = _read(grad, y.shape[2:], weight.shape[2:], stride, padding)  # (N, out, kh, kw, H, W)
    grad_y = np.einsum("ioab,noabhw->nihw", weight, patches)
    each = np.einsum("nihw,noabhw->nioab", y, patches)  # of each picture of the batch
    grad_weight = each.sum(axis=0)
    for_y: dict[str, Any] = {
        "the two gradients come in the wrong order; (dL/dy, dL/dweight) is expected.": grad_weight,
        "the kernel is turned by 180°. The gradient is conv2d of grad, with the kernel as it is.": np.einsum(
            "ioab,noabhw->nihw", weight[:, :, ::-1, ::-1], patches
        ),
        "1 is added everywhere. Is the bias that you give to conv2d zero?": grad_y + 1,
        "stride and padding are not passed on to conv2d.": lambda: np.einsum(
            "ioab,nohwab->nihw", weight, _windows(grad, weight.shape[2:], 1, 0)
        ),
        "the kernel's rows and columns are swapped.": np.einsum("ioab,noabhw->nihw", weight, patches.swapaxes(2, 3))
        if weight.shape[2] == weight.shape[3]
        else grad_y[:0],
    }
    if weight.shape[0] == weight.shape[1]:
        for_y |= {
            "this is a transposed convolution of grad. Going back means transposing once more, and that is the "
            "convolution: conv2d.": _added_up(_stamps(grad, weight), stride)[
                :, :, padding : padding + stride * (grad.shape[2] - 1) + weight.shape[2] - 2 * padding
            ][:, :, :, padding : padding + stride * (grad.shape[3] - 1) + weight.shape[3] - 2 * padding],
            "the weight's first two axes are swapped on the way. conv2d reads a weight as (its out, its in, kh, kw), "
            "and its out is your in: the array fits as it is.": np.einsum("oiab,noabhw->nihw", weight, patches),
        }
    places = y.shape[2] * y.shape[3]
    for_weight: dict[str, Any] = {
        "this is the mean over the batch; the gradient is the sum.": grad_weight / len(y),
        "the pictures of the batch are added up before the product, so that each meets the others' patches. Multiply "
        "picture by picture, then add.": np.einsum("ihw,oabhw->ioab", y.sum(axis=0), patches.sum(axis=0)),
        "only the first picture of the batch counts; the gradient is the sum over all.": each[0],
        "there is still one gradient for each picture of the batch; add them up.": each,
        "this is the mean over the places; the gradient is the sum.": grad_weight / places,
        "its first two axes are swapped: dL/dweight has the weight's shape (in, out, kh, kw).": grad_weight.swapaxes(
            0, 1
        ),
        "the numbers are those of (out, in, kh, kw), reshaped to (in, out, kh, kw). The product y @ patchesᵀ has `in` "
        "first.": grad_weight.swapaxes(0, 1).reshape(weight.shape),
        "a reshape does not transpose: columns @ yᵀ is (out·kh·kw, in). Take y @ columnsᵀ.": grad_weight.reshape(
            len(weight), -1
        ).T.reshape(weight.shape),
        "the columns of grad are not transposed: y @ columnsᵀ.": lambda: _without_transpose(y, patches, weight),
        "the kernel is turned by 180°.": grad_weight[:, :, ::-1, ::-1],
        "the last step is missing, the reshape to the shape of the weight.": grad_weight.reshape(len(weight), -1),
    }
    expected = {"dL/dy": grad_y, "dL/dweight": grad_weight}
    compare_all(yours, expected, call, {"dL/dy": for_y, "dL/dweight": for_weight})


def _without_transpose(y: Array, patches: Array, weight: Array) -> Array:
    """y @ columns, where the shapes allow it."""
    columns = patches.reshape(len(y), weight[0].size, -1)
    if columns.shape[1] != columns.shape[2]:
        return weight[:0]
    return (y.reshape(*y.shape[:2], -1) @ columns).sum(axis=0).reshape(weight.shape)


def check_bilinear_kernel(bilinear_kernel: Callable[[int], Array], generator: np.random.Generator) -> None:
    for kernel_size in (4, 3, 2, 1, 16, 7, 64):
        _check_bilinear(bilinear_kernel, kernel_size)


def _check_bilinear(bilinear_kernel: Callable[[int], Array], kernel_size: int) -> None:
    stride, middle, places = (kernel_size + 1) // 2, (kernel_size - 1) / 2, range(kernel_size)

    def outer(height: Callable[[float], float], top: float = middle) -> Array:
        """The kernel whose entry is the product of two heights, each a function of the distance from the top."""
        return np.array([[height(abs(row - top)) * height(abs(column - top)) for column in places] for row in places])

    def each(value: Callable[[float, float], float]) -> Array:
        """The kernel whose entry is a function of the two distances from the middle."""
        return np.array([[value(abs(row - middle), abs(column - middle)) for column in places] for row in places])

    right = outer(lambda distance: 1 - distance / stride)
    tent = [1 - abs(place - middle) / stride for place in places]
    mistakes = {
        "this is the tent along one axis. The kernel has two: np.outer(tent, tent).": tent,
        "the kernel is divided by its sum. Its sum must be stride², for stride² pixels share what one stamp gives to "
        "them: do not divide.": right / right.sum(),
        "the top of the tent is at pixel k//2. In an even kernel it lies between two pixels, at (k − 1)/2.": outer(
            lambda distance: 1 - distance / stride, kernel_size // 2
        ),
        "the top of the tent is at pixel (k − 1)//2. In an even kernel it lies between two, at (k − 1)/2.": outer(
            lambda distance: 1 - distance / stride, (kernel_size - 1) // 2
        ),
        "for an odd kernel, the stride must be rounded up: (k + 1)//2.": outer(
            lambda distance: 1 - distance / max(kernel_size // 2, 0.5)
        ),
        "for an odd kernel, the stride is k/2 rounded up to a whole number: (k + 1)//2.": outer(
            lambda distance: 1 - distance / (kernel_size / 2)
        ),
        "the tent falls to 0 just outside the kernel. It must fall to 0 one stride away from the middle, so that the "
        "tents of two neighbours add up to 1 between them.": outer(
            lambda distance: 1 - distance / ((kernel_size + 1) / 2)
        ),
        "the tent falls to 0 on the kernel's own border. It must fall to 0 one stride away from the middle.": outer(
            lambda distance: 1 - distance / max(middle, 0.5)
        ),
        "the two tents are not multiplied: this is the smaller of the two.": each(
            lambda down, across: 1 - max(down, across) / stride
        ),
        "the two tents are not multiplied: this is their mean.": each(
            lambda down, across: 1 - (down + across) / 2 / stride
        ),
        "the two tents are added. Multiply them: np.outer(tent, tent).": each(
            lambda down, across: 2 - (down + across) / stride
        ),
        "this is a cone: the distance is measured straight to the middle. Bilinear means one tent along the rows, "
        "times one along the columns.": each(lambda down, across: max(0.0, 1 - np.hypot(down, across) / stride)),
        "the distance is taken for the height. The height is 1 − distance/stride.": outer(
            lambda distance: distance / stride
        ),
        "the distance is divided by the kernel's size; the height is 1 − distance/stride.": outer(
            lambda distance: 1 - distance / kernel_size
        ),
        "the distance is not divided by the stride; the height is 1 − distance/stride.": outer(
            lambda distance: 1 - distance
        ),
        "the places are counted from 1; count from 0, as the middle (k − 1)/2 does.": outer(
            lambda distance: 1 - distance / stride, middle - 1
        ),
        "a distance is never negative: np.abs(place − middle).": np.outer(
            *[[1 - (p - middle) / stride for p in places]] * 2
        ),
        "this is the mean of the places beneath the kernel, each with the same weight; a tent is asked for.": np.full(
            (kernel_size, kernel_size), 1 / kernel_size**2
        ),
    }
    if kernel_size == 1:
        hint = "round(k/2) is 0 for k = 1, since Python rounds halves to the even number. Take (k + 1) // 2."
        mistakes[hint] = np.full((1, 1), np.nan)
    compare(bilinear_kernel(kernel_size), right, f"bilinear_kernel({kernel_size})", mistakes)


def _stamps(y: Array, weight: Array) -> Array:
    """What each place of y puts down: (N, out, kh, kw, H, W)."""
    return np.einsum("ioab,nihw->noabhw", weight, y)


def _places(stamps: Array, stride: int) -> Iterator[tuple[Any, Array]]:
    """The part of the output that each stamp covers, and the stamp."""
    kernel_height, kernel_width, height, width = stamps.shape[2:]
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            yield (..., slice(top, top + kernel_height), slice(left, left + kernel_width)), stamps[..., row, column]


def _blank(stamps: Array, stride: int) -> Array:
    kernel_height, kernel_width, height, width = stamps.shape[2:]
    return np.zeros((*stamps.shape[:2], (height - 1) * stride + kernel_height, (width - 1) * stride + kernel_width))


def _added_up(stamps: Array, stride: int) -> Array:
    """The whole output, before anything is cut off."""
    whole = _blank(stamps, stride)
    for part, stamp in _places(stamps, stride):
        whole[part] += stamp
    return whole


def _overwritten(stamps: Array, stride: int) -> Array:
    whole = _blank(stamps, stride)
    for part, stamp in _places(stamps, stride):
        whole[part] = stamp
    return whole


def _windows(x: Array, kernel_size: tuple[int, ...], stride: int, padding: int) -> Array:
    """The patches that a convolution reads, (N, C, Ho, Wo, kh, kw)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return np.lib.stride_tricks.sliding_window_view(x, kernel_size, axis=(2, 3))[:, :, ::stride, ::stride]


def _read(grad: Array, size: tuple[int, ...], kernel_size: tuple[int, ...], stride: int, padding: int) -> Array:
    """What each stamp's pixels have as gradient, (N, out, kh, kw, H, W); of pixels that were cut off, 0."""
    whole = np.pad(grad, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    patches = np.zeros((*grad.shape[:2], *kernel_size, *size))
    for part, patch in _places(patches, stride):
        patch[...] = whole[part]
    return patches
