"""Answers to the exercises of lesson 6 as learners might write them."""

import numpy as np

from course.mine import im2col


def right_windows(x, kernel_size, *, stride=1, padding=0):
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel_size, axis=(2, 3))[:, :, ::stride, ::stride]
    n, c, rows, columns, kh, kw = windows.shape
    return windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * kh * kw, rows * columns)


def right_patch_by_patch(x, kernel_size, *, stride=1, padding=0):
    kh, kw = kernel_size
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    patches = []
    for i in range(0, x.shape[2] - kh + 1, stride):
        for j in range(0, x.shape[3] - kw + 1, stride):
            patches.append(x[:, :, i : i + kh, j : j + kw].reshape(len(x), -1))
    return np.stack(patches, axis=-1)


def forgets_stride(x, kernel_size, *, stride=1, padding=0):
    return right_windows(x, kernel_size, padding=padding)


def forgets_padding(x, kernel_size, *, stride=1, padding=0):
    return right_windows(x, kernel_size, stride=stride)


def pads_the_end_only(x, kernel_size, *, stride=1, padding=0):
    x = np.pad(x, [(0, 0), (0, 0), (0, 2 * padding), (0, 2 * padding)])
    return right_windows(x, kernel_size, stride=stride)


def takes_width_first(x, kernel_size, *, stride=1, padding=0):
    kw, kh = kernel_size
    return right_windows(x, (kh, kw), stride=stride, padding=padding)


def patches_as_rows(x, kernel_size, *, stride=1, padding=0):
    return right_windows(x, kernel_size, stride=stride, padding=padding).transpose(0, 2, 1)


def channels_last(x, kernel_size, *, stride=1, padding=0):
    kh, kw = kernel_size
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)]).transpose(0, 2, 3, 1)
    patches = []
    for i in range(0, x.shape[1] - kh + 1, stride):
        for j in range(0, x.shape[2] - kw + 1, stride):
            patches.append(x[:, i : i + kh, j : j + kw].reshape(len(x), -1))
    return np.stack(patches, axis=-1)


def reshapes_without_transposing(x, kernel_size, *, stride=1, padding=0):
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel_size, axis=(2, 3))[:, :, ::stride, ::stride]
    n, c, rows, columns, kh, kw = windows.shape
    return windows.reshape(n, c * kh * kw, rows * columns)


def pads_in_place(x, kernel_size, *, stride=1, padding=0):
    columns = right_windows(x, kernel_size, stride=stride, padding=padding)
    x *= 0
    return columns


def returns_nothing(x, kernel_size, *, stride=1, padding=0):
    right_windows(x, kernel_size, stride=stride, padding=padding)


def right_einsum(x, weight, bias, *, stride=1, padding=0):
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("ncijab,ocab->noij", windows, weight) + bias.reshape(1, -1, 1, 1)


def right_picture_by_picture(x, weight, bias, *, stride=1, padding=0):
    out, _, kh, kw = weight.shape
    ho = (x.shape[2] + 2 * padding - kh) // stride + 1
    wo = (x.shape[3] + 2 * padding - kw) // stride + 1
    columns = im2col(x, (kh, kw), stride=stride, padding=padding)
    return np.array([(weight.reshape(out, -1) @ one + bias[:, None]).reshape(out, ho, wo) for one in columns])


def without_bias(x, weight, bias, *, stride=1, padding=0):
    return right_einsum(x, weight, 0 * bias, stride=stride, padding=padding)


def turned_kernel(x, weight, bias, *, stride=1, padding=0):
    return right_einsum(x, np.flip(weight, axis=(2, 3)), bias, stride=stride, padding=padding)


def stride_not_passed_on(x, weight, bias, *, stride=1, padding=0):
    return right_einsum(x, weight, bias, padding=padding)


def padding_not_passed_on(x, weight, bias, *, stride=1, padding=0):
    return right_einsum(x, weight, bias, stride=stride)


def stays_a_matrix(x, weight, bias, *, stride=1, padding=0):
    columns = im2col(x, weight.shape[2:], stride=stride, padding=padding)
    return weight.reshape(len(weight), -1) @ columns + bias[:, None]


def width_before_height(x, weight, bias, *, stride=1, padding=0):
    out, _, kh, kw = weight.shape
    ho = (x.shape[2] + 2 * padding - kh) // stride + 1
    wo = (x.shape[3] + 2 * padding - kw) // stride + 1
    columns = im2col(x, (kh, kw), stride=stride, padding=padding)
    return (weight.reshape(out, -1) @ columns + bias[:, None]).reshape(len(x), out, wo, ho)


def _slice_by_slice(x, kernel_size, sizes, stride, padding):
    """The plan of the exercise, for any Ho and Wo."""
    kh, kw = kernel_size
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    patches = np.zeros((*x.shape[:2], kh, kw, *sizes))
    for i in range(kh):
        for j in range(kw):
            patches[:, :, i, j] = x[:, :, i : i + sizes[0] * stride : stride, j : j + sizes[1] * stride : stride]
    return patches.reshape(len(x), -1, sizes[0] * sizes[1])


def sizes_before_padding(x, kernel_size, *, stride=1, padding=0):
    sizes = [(n - kernel) // stride + 1 for n, kernel in zip(x.shape[2:], kernel_size, strict=True)]
    return _slice_by_slice(x, kernel_size, sizes, stride, padding)


def one_place_too_few(x, kernel_size, *, stride=1, padding=0):
    sizes = [(n + 2 * padding - kernel) // stride for n, kernel in zip(x.shape[2:], kernel_size, strict=True)]
    return _slice_by_slice(x, kernel_size, sizes, stride, padding)


def sizes_as_floats(x, kernel_size, *, stride=1, padding=0):
    sizes = [(n + 2 * padding - kernel) / stride + 1 for n, kernel in zip(x.shape[2:], kernel_size, strict=True)]
    return np.empty((*x.shape[:2], *kernel_size, *sizes))


def height_for_width(x, kernel_size, *, stride=1, padding=0):
    sizes = [(n + 2 * padding - kernel) // stride + 1 for n, kernel in zip(x.shape[2:], kernel_size, strict=True)]
    return _slice_by_slice(x, kernel_size, sizes[::-1], stride, padding)


def height_of_the_kernel_only(x, kernel_size, *, stride=1, padding=0):
    return right_windows(x, (kernel_size[0], kernel_size[0]), stride=stride, padding=padding)


def width_of_the_kernel_only(x, kernel_size, *, stride=1, padding=0):
    return right_windows(x, (kernel_size[1], kernel_size[1]), stride=stride, padding=padding)


def slice_without_end(x, kernel_size, *, stride=1, padding=0):
    kh, kw = kernel_size
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    patches = np.zeros((*x.shape[:2], kh, kw, (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1))
    for i in range(kh):
        for j in range(kw):
            patches[:, :, i, j] = x[:, :, i::stride, j::stride]
    return patches.reshape(len(x), patches[0, :, :, :, 0, 0].size, -1)


def pads_every_axis(x, kernel_size, *, stride=1, padding=0):
    return right_windows(np.pad(x, padding), kernel_size, stride=stride)


def pads_two_axes_by_name(x, kernel_size, *, stride=1, padding=0):
    return right_windows(np.pad(x, [(padding, padding), (padding, padding)]), kernel_size, stride=stride)


def pads_with_the_edge(x, kernel_size, *, stride=1, padding=0):
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)], mode="edge")
    return right_windows(x, kernel_size, stride=stride)


def into_whole_numbers(x, kernel_size, *, stride=1, padding=0):
    return right_windows(x, kernel_size, stride=stride, padding=padding).astype(int)


def without_defaults(x, kernel_size, stride, padding):
    return right_windows(x, kernel_size, stride=stride, padding=padding)


def _finish(y, x, weight, stride, padding):
    ho = (x.shape[2] + 2 * padding - weight.shape[2]) // stride + 1
    return y.reshape(len(x), len(weight), ho, -1)


def columns_first(x, weight, bias, *, stride=1, padding=0):
    return im2col(x, weight.shape[2:], stride=stride, padding=padding) @ weight.reshape(len(weight), -1)


def square_result(x, weight, bias, *, stride=1, padding=0):
    y = weight.reshape(len(weight), -1) @ im2col(x, weight.shape[2:], stride=stride, padding=padding) + bias[:, None]
    side = int(np.sqrt(y.shape[-1]))
    return y.reshape(len(x), len(weight), side, side)


def size_without_padding(x, weight, bias, *, stride=1, padding=0):
    y = weight.reshape(len(weight), -1) @ im2col(x, weight.shape[2:], stride=stride, padding=padding) + bias[:, None]
    sizes = [(n - kernel) // stride + 1 for n, kernel in zip(x.shape[2:], weight.shape[2:], strict=True)]
    return y.reshape(len(x), len(weight), *sizes)


def kernels_mixed_up(x, weight, bias, *, stride=1, padding=0):
    columns = im2col(x, weight.shape[2:], stride=stride, padding=padding)
    return _finish(weight.reshape(-1, len(weight)).T @ columns + bias[:, None], x, weight, stride, padding)


def first_bias_for_all(x, weight, bias, *, stride=1, padding=0):
    return right_einsum(x, weight, np.full_like(bias, bias[0]), stride=stride, padding=padding)


def first_channel_only(x, weight, bias, *, stride=1, padding=0):
    return right_einsum(x[:, :1], weight[:, :1], bias, stride=stride, padding=padding)


def channels_before_pictures(x, weight, bias, *, stride=1, padding=0):
    y = right_einsum(x, weight, bias, stride=stride, padding=padding)
    return y.reshape(y.shape[1], y.shape[0], *y.shape[2:])


def options_by_place(x, weight, bias, *, stride=1, padding=0):
    return im2col(x, weight.shape[2:], stride, padding)


CORRECT = {
    "im2col": [right_windows, right_patch_by_patch],
    "conv2d": [right_einsum, right_picture_by_picture],
}
WRONG = {
    "im2col": [
        (forgets_stride, "the stride has no effect"),
        (forgets_padding, "the padding has no effect"),
        (pads_the_end_only, "one side only"),
        (takes_width_first, "(height, width)"),
        (patches_as_rows, "Swap the last two axes"),
        (channels_last, "the channels come last"),
        (reshapes_without_transposing, "transpose before the reshape"),
        (pads_in_place, "has changed its argument number 1"),
        (returns_nothing, "nothing came back"),
        (sizes_before_padding, "the picture before padding"),
        (one_place_too_few, "the + 1 is missing"),
        (sizes_as_floats, "divide with `//`"),
        (height_for_width, "is a height nowhere taken for a width"),
        (height_of_the_kernel_only, "only kernel_size[0] is used"),
        (width_of_the_kernel_only, "only kernel_size[1] is used"),
        (slice_without_end, "begin and end where it should"),
        (pads_every_axis, "all four axes are padded"),
        (pads_two_axes_by_name, "np.pad wants a pair"),
        (pads_with_the_edge, "it is of zeros"),
        (into_whole_numbers, "the fractions are lost"),
        (without_defaults, "Leave the line `def …`"),
    ],
    "conv2d": [
        (without_bias, "the bias is not added"),
        (turned_kernel, "turned by 180°"),
        (stride_not_passed_on, "the stride has no effect"),
        (padding_not_passed_on, "the padding has no effect"),
        (stays_a_matrix, "the last step is a reshape"),
        (width_before_height, "(…, Ho, Wo)"),
        (columns_first, "Are the factors in the right order"),
        (square_result, "A reshape keeps the number of entries"),
        (size_without_padding, "A reshape keeps the number of entries"),
        (kernels_mixed_up, "reshape(-1, out).T"),
        (first_bias_for_all, "each output channel has its own"),
        (first_channel_only, "only the first channel"),
        (channels_before_pictures, "pictures and output channels are exchanged"),
        (options_by_place, "are given by name"),
    ],
}
