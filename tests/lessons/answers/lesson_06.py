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
    ],
    "conv2d": [
        (without_bias, "the bias is not added"),
        (turned_kernel, "turned by 180°"),
        (stride_not_passed_on, "the stride has no effect"),
        (padding_not_passed_on, "the padding has no effect"),
        (stays_a_matrix, "the last step is a reshape"),
        (width_before_height, "(…, Ho, Wo)"),
    ],
}
