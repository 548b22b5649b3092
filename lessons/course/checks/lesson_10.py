"""Lesson 10: a dense layer as a convolution, number by number; the patch classifier; multiplications."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from course.comparing import Wrong, compare, unchanged

Array = np.ndarray


def check_dense_to_conv(dense_to_conv: Callable[..., Array], generator: np.random.Generator) -> None:
    small = np.arange(36.0).reshape(2, 18)
    _check_reshape(dense_to_conv, small, 3, (2, 3), "dense_to_conv([[0, 1, …, 17], [18, 19, …, 35]], 3, (2, 3))")
    for out_channels, in_channels, kernel_size in (
        (3, 3, (2, 2)),
        (4, 2, (3, 3)),
        (2, 5, (3, 1)),
        (5, 3, (2, 4)),
        (3, 4, (1, 1)),
        (6, 2, (7, 7)),
    ):
        inputs = in_channels * kernel_size[0] * kernel_size[1]
        weight = generator.normal(size=(out_channels, inputs))
        call = f"dense_to_conv(weight of shape ({out_channels}, {inputs}), {in_channels}, {kernel_size})"
        _check_reshape(dense_to_conv, weight, in_channels, kernel_size, call)


def _check_reshape(
    dense_to_conv: Callable[..., Array], weight: Array, in_channels: int, kernel_size: tuple[int, int], call: str
) -> None:
    yours = unchanged(call, dense_to_conv, weight, in_channels, kernel_size)
    out_channels, (height, width) = len(weight), kernel_size
    right = np.empty((out_channels, in_channels, height, width))
    for index in np.ndindex(right.shape):
        out_channel, channel, row, column = index
        right[index] = weight[out_channel, (channel * height + row) * width + column]
    mistakes = {
        "the weight still has two axes; (out, in_channels, kh, kw) is expected.": weight,
        "the channels are taken to run fastest. The maps were flattened in the order (channel, row, column), so the "
        "channels come first in the reshape.": weight.reshape(out_channels, height, width, in_channels).transpose(
            0, 3, 1, 2
        ),
        "the channels come last; a convolution's weight is (out, in_channels, kh, kw).": weight.reshape(
            out_channels, height, width, in_channels
        ),
        "the kernel's rows and columns are still one axis; (out, in_channels, kh, kw) is expected.": weight.reshape(
            out_channels, in_channels, -1
        ),
        "the kernel's columns are taken before its rows. kernel_size is (height, width).": weight.reshape(
            out_channels, in_channels, width, height
        ),
        "the kernel's rows and columns are swapped.": right.swapaxes(2, 3),
        "the kernel is turned by 180°. conv2d lays it as it is.": right[:, :, ::-1, ::-1],
        "the weight is transposed before it is reshaped. Its rows already belong to the outputs.": weight.T.reshape(
            right.shape
        ),
        "in and out are swapped; a convolution's weight is (out, in, kh, kw).": right.swapaxes(0, 1),
        "in and out are swapped in the reshape; a convolution's weight is (out, in, kh, kw).": weight.reshape(
            in_channels, out_channels, height, width
        ),
        "the kernel's height is taken for its width, too. kernel_size is (height, width).": _square(
            weight, in_channels, height
        ),
        "the kernel's width is taken for its height, too. kernel_size is (height, width).": _square(
            weight, in_channels, width
        ),
        "a batch axis has come in; (out, in_channels, kh, kw) is expected.": right[None],
    }
    compare(yours, right, call, mistakes)


def _square(weight: Array, in_channels: int, side: int) -> Array:
    """The weight's numbers as square kernels, if that can be done."""
    if weight.size % (in_channels * side**2):
        return weight[:0]
    return weight.reshape(-1, in_channels, side, side)


def check_patch_classifier(patch_classifier: Callable[..., Array], generator: np.random.Generator) -> None:
    """The classifiers here are linear, with weights of their own for each pixel: no two windows are alike to them."""
    small = np.arange(20.0).reshape(1, 4, 5)
    first_and_sum = np.array([[[[1.0, 0.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])  # (K, C, window, window)
    for stride in (1, 2):
        call = (
            f"patch_classifier(the numbers 0 to 19 as a picture (1, 4, 5), classify, 2, {stride}), where classify "
            "gives the window's first number and its sum"
        )
        _check_windows(patch_classifier, small, first_and_sum, stride, call)
    for shape, window, stride in (
        ((3, 7, 6), 3, 2),
        ((2, 8, 11), 4, 3),
        ((2, 6, 6), 3, 3),
        ((1, 5, 5), 5, 1),
        ((2, 9, 6), 2, 4),
    ):
        image, weight = generator.normal(size=shape), generator.normal(size=(4, shape[0], window, window))
        call = f"patch_classifier(image of shape {shape}, classify, {window}, {stride})"
        _check_windows(patch_classifier, image, weight, stride, call)


def _check_windows(patch_classifier: Callable[..., Array], image: Array, weight: Array, stride: int, call: str) -> None:
    channels, height, width = image.shape
    window = weight.shape[-1]

    def logits(patches: Array) -> Array:
        return np.einsum("kchw,nchw->nk", weight, patches)

    def classify(patches: Any) -> Array:
        patches = np.asarray(patches)
        if patches.ndim == 4 and len(patches) and patches.shape[1:] == (channels, window, window):
            return logits(patches)
        hint = f"classify takes patches (n, {channels}, {window}, {window}), but it was given {patches.shape}. "
        if patches.shape == (channels, window, window):
            hint += "The batch axis is missing: give it patch[None]."
        elif patches.ndim > 4:
            hint += "There are too many axes."
        elif patches.shape[-3:-2] == (channels,) and 0 in patches.shape:
            hint += "A window is empty: does its slice end after it begins?"
        elif patches.shape[-3:-2] == (channels,) and max(patches.shape[-2:]) <= window:
            hint += (
                "The window is too small. Either it hangs over the image's edge, where the last one begins at most at "
                "height − window, or its slice is not top : top + window."
            )
        else:
            hint += "A window is image[:, top : top + window, left : left + window]."
        raise Wrong(call, hint)

    def at(tops: Iterable[int], lefts: Iterable[int]) -> Array:
        """(rows, columns, K): the logits of the windows that begin at these rows and columns."""
        lefts = list(lefts)
        grid = [[logits(image[None, :, t : t + window, s : s + window])[0] for s in lefts] for t in tops]
        return np.array(grid).reshape(len(grid), len(lefts), len(weight))

    tops, lefts = range(0, height - window + 1, stride), range(0, width - window + 1, stride)
    by_place = at(tops, lefts)
    right = np.ascontiguousarray(by_place.transpose(2, 0, 1))
    short = range(0, height - window, stride), range(0, width - window, stride)
    mistakes: dict[str, Any] = {}
    if width > height:
        mistakes["the picture's height is taken for its width, too."] = at(tops, tops).transpose(2, 0, 1)
    mistakes |= {
        "the windows at the bottom and at the right are missing: the last one begins at height − window, and range "
        "stops before its end. Write + 1.": at(*short).transpose(2, 0, 1),
        "the windows at the bottom are missing: the last one begins at height − window, and range stops before its "
        "end. Write + 1.": at(short[0], lefts).transpose(2, 0, 1),
        "the windows at the right are missing: the last one begins at width − window, and range stops before its "
        "end. Write + 1.": at(tops, short[1]).transpose(2, 0, 1),
        "the stride has no effect.": at(range(height - window + 1), range(width - window + 1)).transpose(2, 0, 1),
        "there are as many windows as there should be, but they begin at 0, 1, 2, …; they begin at 0, stride, "
        "2·stride, …": at(range(len(tops)), range(len(lefts))).transpose(2, 0, 1),
        "the windows are laid side by side, a whole window apart; they are stride apart.": at(
            range(0, height - window + 1, window), range(0, width - window + 1, window)
        ).transpose(2, 0, 1),
        "the logits come last, (rows, columns, K); (K, rows, columns) is expected. Move the axis with "
        "transpose(2, 0, 1).": by_place,
        "rows and columns are swapped.": right.swapaxes(1, 2),
        "the shape is right, but the numbers are mixed up: reshape moves no axes. Transpose first.": by_place.reshape(
            right.shape
        ),
        "the windows were asked down the columns first; the rows of the result are the picture's rows.": (
            by_place.transpose(1, 0, 2).reshape(-1, len(right)).T.reshape(right.shape)
        ),
        "the windows are still in one row; reshape to (K, rows, columns).": right.reshape(len(right), -1),
        "the windows are still in one row, and the logits come last.": by_place.reshape(-1, len(right)),
        "there is a batch axis of length 1 left; (K, rows, columns) is expected.": right[None],
        "classify gives (1, K) for one window; this axis of length 1 is still there. Take [0].": by_place[:, :, None],
        "these are the classes with the largest logits. The logits themselves are asked for.": right.argmax(axis=0),
        "there is one number for each window, its largest logit; the logits of all classes are asked for.": right.max(
            axis=0
        ),
    }
    compare(unchanged(call, patch_classifier, image, classify, window, stride), right, call, mistakes)


_Layers = Sequence[tuple[str, int, int, int]]


def check_count_multiplications(
    count_multiplications: Callable[[_Layers, int], int], generator: np.random.Generator
) -> None:
    two = [("conv", 2, 2, 1), ("conv", 5, 3, 1)]  # 5²·2·3·2² + 3²·5·2·3² = 600 + 810
    pooled = [("conv", 4, 3, 1), ("pool", 4, 2, 2), ("conv", 6, 3, 1), ("pool", 6, 3, 2), ("conv", 3, 2, 2)]
    cases: list[tuple[Any, int]] = [(two, 6), (pooled, 31), (pooled, 42), ([], 7)]
    kinds = ("conv", "conv", "pool", "conv", "pool", "conv")
    for size in (197, 256, 401):
        layers, channels = [], 3
        for kind in kinds:
            channels = int(generator.integers(2, 9)) if kind == "conv" else channels
            layers.append((kind, channels, int(generator.integers(1, 5)), int(generator.integers(1, 3))))
        cases.append((layers, size))
    for layers, size in cases:
        _check_count(count_multiplications, layers, size)


def _check_count(count_multiplications: Callable[[_Layers, int], int], layers: _Layers, size: int) -> None:
    def count(**changes: Any) -> float:
        return _count(layers, size, **changes)

    right = count()
    mistakes = {
        "the input channels are missing: a kernel has kernel_size² numbers for each channel that comes in.": count(
            channels_in=False
        ),
        "the output channels are missing: a layer has a kernel of its own for each of them.": count(channels_out=False),
        "every layer is taken to have 3 channels coming in; only the first has. The next one has what this one puts "
        "out.": count(follow_channels=False),
        "the products are counted at every place of a layer's input; a convolution makes them at every place of its "
        "output.": count(at_output=False),
        "kernel_size is not squared: the kernel has kernel_size² pixels.": count(kernel_power=1),
        "the size is not squared: there are size² places.": count(size_power=1),
        "poolings are counted like convolutions. They only compare numbers.": count(pool_multiplies=True),
        "poolings are passed over, but they make the map smaller.": count(pool_shrinks=False),
        "the stride has no effect on the size.": count(output_size=lambda n, k, s: n - k + 1),
        "every layer is counted at the image's size; after each layer the map is smaller.": count(follow_size=False),
        "the output size is one too small in each layer: (size − kernel_size) // stride + 1.": count(
            output_size=lambda n, k, s: (n - k) // s
        ),
        "a last step that does not fit is no place; round down: (size − kernel_size) // stride + 1.": count(
            output_size=lambda n, k, s: -((k - n) // s) + 1
        ),
        "1 is added before the division; it belongs after it: (size − kernel_size) // stride + 1.": count(
            output_size=lambda n, k, s: (n - k + 1) // s
        ),
        "sizes are whole numbers; divide with //.": count(output_size=lambda n, k, s: (n - k) / s + 1),
        "the image has 3 channels; one is counted.": count(first_channels=1),
        "the size is only divided by the stride. Without padding, a kernel also takes kernel_size − 1 away.": count(
            output_size=lambda n, k, s: n // s
        ),
        "the biases are counted, but they are added, not multiplied.": count(biases=True),
        "additions are counted as well; only the multiplications are asked for.": 2 * right,
        "only the last layer is counted. Add the layers up with +=.": count(last_only=True),
    }
    call = f"count_multiplications({list(layers)}, {size})"
    compare(count_multiplications(list(layers), size), right, call, {k: v for k, v in mistakes.items() if v != right})


def _count(
    layers: _Layers,
    size: int,
    *,
    output_size: Callable[[int, int, int], float] = lambda n, k, s: (n - k) // s + 1,
    first_channels: int = 3,
    channels_in: bool = True,
    channels_out: bool = True,
    follow_channels: bool = True,
    follow_size: bool = True,
    at_output: bool = True,
    kernel_power: int = 2,
    size_power: int = 2,
    pool_multiplies: bool = False,
    pool_shrinks: bool = True,
    biases: bool = False,
    last_only: bool = False,
) -> float:
    """Multiplications of the layers, right without options; each option is a mistake."""
    channels, total, first_size = first_channels, 0.0, size
    for kind, out_channels, kernel_size, stride in layers:
        before = size if follow_size else first_size
        after = output_size(before, kernel_size, stride)
        size = after if kind == "conv" or pool_shrinks else size
        if kind == "conv" or pool_multiplies:
            places = (after if at_output else before) ** size_power
            products = (
                (out_channels if channels_out else 1) * (channels if channels_in else 1) * kernel_size**kernel_power
            )
            total = places * (products + (out_channels if biases else 0)) + (0 if last_only else total)
        channels = out_channels if follow_channels else channels
    return total
