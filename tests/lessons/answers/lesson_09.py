"""Right and wrong answers to lesson 9, as learners write them; WRONG comes with words of the hint that it must get."""

import numpy as np

from course.mine import col2im, conv2d, im2col


def sizes_by_hand():
    return (6, 8, 16, 12, 13, 80)


def sizes_by_stamps():
    sizes = []
    for n, kernel_size, stride, padding in (
        (4, 3, 1, 0),
        (4, 4, 2, 1),
        (1, 16, 8, 0),
        (5, 4, 2, 0),
        (7, 3, 2, 1),
        (10, 16, 8, 4),
    ):
        pixels = set()
        for stamp in range(n):
            pixels.update(range(stamp * stride, stamp * stride + kernel_size))
        sizes.append(max(pixels) + 1 - 2 * padding)
    return np.array(sizes)


def sizes_enlarged_by_the_stride():
    return [4, 8, 8, 10, 14, 80]


def sizes_with_padding_kept():
    return [6, 10, 16, 12, 15, 88]


def sizes_with_padding_cut_once():
    return [6, 9, 16, 12, 14, 84]


def sizes_with_n_steps():
    return [7, 10, 24, 14, 15, 88]


def sizes_of_the_convolution():
    return [2, 2, -1, 1, 4, 1]


def sizes_with_padding_added():
    return [6, 12, 16, 12, 17, 96]


def sizes_without_the_kernel():
    return [3, 4, 0, 8, 10, 64]


def sizes_with_one_slip():
    return [6, 8, 16, 12, 14, 80]


def sizes_with_text():
    return "6 8 16 12 13 80"


def transposed_by_stamps(y, weight, *, stride=1, padding=0):
    batch, in_channels, height, width = y.shape
    _, out_channels, kernel_height, kernel_width = weight.shape
    x = np.zeros((batch, out_channels, (height - 1) * stride + kernel_height, (width - 1) * stride + kernel_width))
    for n in range(batch):
        for channel in range(in_channels):
            for row in range(height):
                for column in range(width):
                    top, left = row * stride, column * stride
                    x[n, :, top : top + kernel_height, left : left + kernel_width] += (
                        y[n, channel, row, column] * weight[channel]
                    )
    return x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding]


def transposed_with_zeros_between(y, weight, *, stride=1, padding=0):
    batch, in_channels, height, width = y.shape
    _, out_channels, kernel_height, kernel_width = weight.shape
    spread = np.zeros((batch, in_channels, (height - 1) * stride + 1, (width - 1) * stride + 1))
    spread[:, :, ::stride, ::stride] = y
    spread = np.pad(spread, ((0, 0), (0, 0), (kernel_height - 1,) * 2, (kernel_width - 1,) * 2))
    x = conv2d(spread, weight[:, :, ::-1, ::-1].swapaxes(0, 1).copy(), np.zeros(out_channels))
    return x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding]


def transposed_by_einsum(y, weight, *, stride=1, padding=0):
    stamps = np.einsum("ioab,nihw->noabhw", weight, y)
    n, o, a, b, h, w = stamps.shape
    size = ((h - 1) * stride + a - 2 * padding, (w - 1) * stride + b - 2 * padding)
    return col2im(stamps.reshape(n, o * a * b, h * w), size, (a, b), stride=stride, padding=padding)


def transposed_without_adding(y, weight, *, stride=1, padding=0):
    batch, _, height, width = y.shape
    _, out_channels, kernel_height, kernel_width = weight.shape
    x = np.zeros((batch, out_channels, (height - 1) * stride + kernel_height, (width - 1) * stride + kernel_width))
    for row in range(height):
        for column in range(width):
            stamp = np.einsum("ni,ioab->noab", y[:, :, row, column], weight)
            top, left = row * stride, column * stride
            x[:, :, top : top + kernel_height, left : left + kernel_width] = stamp
    return x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding]


def transposed_without_cutting(y, weight, *, stride=1, padding=0):
    return transposed_by_stamps(y, weight, stride=stride)


def transposed_without_stride(y, weight, *, stride=1, padding=0):
    return transposed_by_stamps(y, weight, padding=padding)


def transposed_cut_at_the_end(y, weight, *, stride=1, padding=0):
    x = transposed_by_stamps(y, weight, stride=stride)
    return x[:, :, : x.shape[2] - 2 * padding, : x.shape[3] - 2 * padding]


def transposed_with_the_kernel_turned(y, weight, *, stride=1, padding=0):
    return transposed_by_stamps(y, np.flip(weight, axis=(2, 3)), stride=stride, padding=padding)


def transposed_with_the_weight_of_conv2d(y, weight, *, stride=1, padding=0):
    return transposed_by_einsum(y, weight.transpose(1, 0, 2, 3), stride=stride, padding=padding)


def transposed_with_a_reshape_for_the_transpose(y, weight, *, stride=1, padding=0):
    batch, in_channels, height, width = y.shape
    kernel_height, kernel_width = weight.shape[2:]
    stamps = weight.reshape(-1, in_channels) @ y.reshape(batch, in_channels, -1)
    size = (
        (height - 1) * stride + kernel_height - 2 * padding,
        (width - 1) * stride + kernel_width - 2 * padding,
    )
    return col2im(stamps, size, (kernel_height, kernel_width), stride=stride, padding=padding)


def transposed_by_im2col(y, weight, *, stride=1, padding=0):
    batch, in_channels, height, width = y.shape
    stamps = weight.reshape(in_channels, -1).T @ y.reshape(batch, in_channels, -1)
    return im2col(stamps.reshape(batch, -1, height, width), weight.shape[2:], stride=stride, padding=padding)


def transposed_by_a_convolution(y, weight, *, stride=1, padding=0):
    return conv2d(y, weight.swapaxes(0, 1), np.zeros(weight.shape[1]), stride=stride, padding=padding)


def transposed_with_a_square_kernel(y, weight, *, stride=1, padding=0):
    batch, in_channels, height, width = y.shape
    kernel_size = weight.shape[2]
    size = ((height - 1) * stride + kernel_size - 2 * padding, (width - 1) * stride + kernel_size - 2 * padding)
    stamps = weight.reshape(in_channels, -1).T @ y.reshape(batch, in_channels, -1)
    return col2im(stamps, size, (kernel_size, kernel_size), stride=stride, padding=padding)


def transposed_for_each_channel_by_itself(y, weight, *, stride=1, padding=0):
    channels = [
        transposed_by_stamps(y[:, c : c + 1], weight[c : c + 1, c : c + 1], stride=stride, padding=padding)
        for c in range(y.shape[1])
    ]
    return np.concatenate(channels, axis=1)


def backward_by_loops(grad, y, weight, *, stride=1, padding=0):
    grad = np.pad(grad, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    grad_y, grad_weight = np.zeros_like(y), np.zeros_like(weight)
    kernel_height, kernel_width = weight.shape[2:]
    for n, channel, row, column in np.ndindex(y.shape):
        top, left = row * stride, column * stride
        patch = grad[n, :, top : top + kernel_height, left : left + kernel_width]
        grad_y[n, channel, row, column] = (patch * weight[channel]).sum()
        grad_weight[channel] += y[n, channel, row, column] * patch
    return [grad_y, grad_weight]


def backward_by_products(grad, y, weight, *, stride=1, padding=0):
    patches = im2col(grad, weight.shape[2:], stride=stride, padding=padding)
    grad_y = (weight.reshape(len(weight), -1) @ patches).reshape(y.shape)
    grad_weight = np.zeros((weight.shape[0], weight[0].size))
    for one, columns in zip(y, patches, strict=True):
        grad_weight += one.reshape(len(weight), -1) @ columns.T
    return grad_y, grad_weight.reshape(weight.shape)


def _gradients(grad, y, weight, stride, padding):
    return backward_by_products(grad, y, weight, stride=stride, padding=padding)


def backward_in_the_wrong_order(grad, y, weight, *, stride=1, padding=0):
    return _gradients(grad, y, weight, stride, padding)[::-1]


def backward_with_the_kernel_turned(grad, y, weight, *, stride=1, padding=0):
    turned = weight[:, :, ::-1, ::-1].copy()
    bias = np.zeros(weight.shape[0])
    grad_y = conv2d(grad, turned, bias, stride=stride, padding=padding)
    return grad_y, _gradients(grad, y, weight, stride, padding)[1]


def backward_with_a_transposed_convolution(grad, y, weight, *, stride=1, padding=0):
    if weight.shape[0] == weight.shape[1]:
        grad_y = transposed_by_stamps(grad, weight, stride=stride, padding=padding)
    else:
        grad_y = np.zeros_like(y)
    return grad_y, _gradients(grad, y, weight, stride, padding)[1]


def backward_with_axes_swapped(grad, y, weight, *, stride=1, padding=0):
    grad_y = conv2d(grad, weight.swapaxes(0, 1), np.zeros(weight.shape[1]), stride=stride, padding=padding)
    return grad_y, _gradients(grad, y, weight, stride, padding)[1]


def backward_of_the_first_picture(grad, y, weight, *, stride=1, padding=0):
    grad_y, _ = _gradients(grad, y, weight, stride, padding)
    patches = im2col(grad, weight.shape[2:], stride=stride, padding=padding)
    return grad_y, (y[0].reshape(len(weight), -1) @ patches[0].T).reshape(weight.shape)


def backward_with_the_mean_over_the_batch(grad, y, weight, *, stride=1, padding=0):
    grad_y, _ = _gradients(grad, y, weight, stride, padding)
    patches = im2col(grad, weight.shape[2:], stride=stride, padding=padding)
    products = y.reshape(len(y), len(weight), -1) @ patches.swapaxes(1, 2)
    return grad_y, products.mean(axis=0).reshape(weight.shape)


def backward_with_a_batch_of_weights(grad, y, weight, *, stride=1, padding=0):
    grad_y, _ = _gradients(grad, y, weight, stride, padding)
    patches = im2col(grad, weight.shape[2:], stride=stride, padding=padding)
    products = y.reshape(len(y), len(weight), -1) @ patches.swapaxes(1, 2)
    return grad_y, products.reshape(len(y), *weight.shape)


def backward_left_as_a_matrix(grad, y, weight, *, stride=1, padding=0):
    grad_y, grad_weight = _gradients(grad, y, weight, stride, padding)
    return grad_y, grad_weight.reshape(len(weight), -1)


def backward_with_patches_first(grad, y, weight, *, stride=1, padding=0):
    """The product the other way round, and a reshape where a transpose belongs."""
    grad_y, _ = _gradients(grad, y, weight, stride, padding)
    patches = im2col(grad, weight.shape[2:], stride=stride, padding=padding)
    out, kh, kw = weight.shape[1:]
    product = (patches @ y.reshape(len(y), len(weight), -1).swapaxes(1, 2)).sum(axis=0)  # (out·kh·kw, in)
    return grad_y, product.reshape(out, kh, kw, -1).transpose(0, 3, 1, 2)


def backward_of_y_only(grad, y, weight, *, stride=1, padding=0):
    return conv2d(grad, weight, np.zeros(len(weight)), stride=stride, padding=padding)


def backward_without_padding(grad, y, weight, *, stride=1, padding=0):
    return _gradients(grad, y, weight, stride, 0)


def bilinear_by_loops(kernel_size):
    stride = -(-kernel_size // 2)
    kernel = [[0.0] * kernel_size for _ in range(kernel_size)]
    for row in range(kernel_size):
        for column in range(kernel_size):
            down = 1 - abs(row - (kernel_size - 1) / 2) / stride
            across = 1 - abs(column - (kernel_size - 1) / 2) / stride
            kernel[row][column] = down * across
    return kernel


def bilinear_as_in_caffe(kernel_size):
    factor = (kernel_size + 1) // 2
    centre = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    rows, columns = np.ogrid[:kernel_size, :kernel_size]
    return (1 - abs(rows - centre) / factor) * (1 - abs(columns - centre) / factor)


def bilinear_by_convolving_boxes(kernel_size):
    """A tent is a box convolved with a box."""
    stride = (kernel_size + 1) // 2
    boxes = [stride, stride] if kernel_size % 2 else [2 * stride, 2 * stride]
    tent = np.convolve(np.ones(boxes[0]), np.ones(boxes[1]))
    if kernel_size % 2 == 0:
        tent = tent[::2]  # twice as fine, of which every second is the middle of a pixel
    tent = tent / (stride if kernel_size % 2 else 2 * stride)
    return tent[:, None] * tent


def bilinear_along_one_axis(kernel_size):
    stride = (kernel_size + 1) // 2
    return 1 - np.abs(np.arange(kernel_size) - (kernel_size - 1) / 2) / stride


def bilinear_that_sums_to_one(kernel_size):
    kernel = np.array(bilinear_by_loops(kernel_size))
    return kernel / kernel.sum()


def bilinear_with_the_top_on_a_pixel(kernel_size):
    stride = (kernel_size + 1) // 2
    tent = 1 - np.abs(np.arange(kernel_size) - kernel_size // 2) / stride
    return np.outer(tent, tent)


def bilinear_with_the_top_on_the_pixel_before(kernel_size):
    stride = (kernel_size + 1) // 2
    tent = 1 - np.abs(np.arange(kernel_size) - (stride - 1)) / stride
    return np.outer(tent, tent)


def bilinear_with_the_stride_rounded_down(kernel_size):
    stride = kernel_size // 2 or 1
    tent = 1 - np.abs(np.arange(kernel_size) - (kernel_size - 1) / 2) / stride
    return np.outer(tent, tent)


def bilinear_with_half_a_stride(kernel_size):
    tent = 1 - np.abs(np.arange(kernel_size) - (kernel_size - 1) / 2) / (kernel_size / 2)
    return np.outer(tent, tent)


def bilinear_as_a_pyramid(kernel_size):
    tent = bilinear_along_one_axis(kernel_size)
    return np.minimum(tent[:, None], tent)


def bilinear_as_a_sum(kernel_size):
    tent = bilinear_along_one_axis(kernel_size)
    return tent[:, None] + tent


def bilinear_as_a_cone(kernel_size):
    stride = (kernel_size + 1) // 2
    place = np.arange(kernel_size) - (kernel_size - 1) / 2
    return np.maximum(0, 1 - np.sqrt(place[:, None] ** 2 + place**2) / stride)


def bilinear_that_falls_to_zero_outside(kernel_size):
    tent = np.minimum(np.arange(1, kernel_size + 1), np.arange(kernel_size, 0, -1)) / ((kernel_size + 1) / 2)
    return np.outer(tent, tent)


def bilinear_of_four(kernel_size):
    return np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16


def _stamped(y, weight, stride, padding, *, values=lambda y: y.reshape(*y.shape[:2], -1), size=None):
    stamps = weight.reshape(len(weight), -1).T @ values(y)
    size = size or [(n - 1) * stride + k - 2 * padding for n, k in zip(y.shape[2:], weight.shape[2:], strict=True)]
    return col2im(stamps, size, weight.shape[2:], stride=stride, padding=padding)


def mixes_y_up(y, weight, *, stride=1, padding=0):
    return _stamped(y, weight, stride, padding, values=lambda y: y.reshape(len(y), -1, y.shape[1]).swapaxes(1, 2))


def n_times_stride(y, weight, *, stride=1, padding=0):
    return _stamped(y, weight, stride, padding, size=[n * stride for n in y.shape[2:]])


def repeats_the_numbers(y, weight, *, stride=1, padding=0):
    return np.kron(y, np.ones((stride, stride)))


def _columns(grad, weight, stride, padding):
    return im2col(grad, weight.shape[2:], stride=stride, padding=padding)


def without_stride_in_conv2d(grad, y, weight, *, stride=1, padding=0):
    _, grad_weight = backward_by_loops(grad, y, weight, stride=stride, padding=padding)
    return conv2d(grad, weight, np.zeros(len(weight))), grad_weight


def without_stride_in_im2col(grad, y, weight, *, stride=1, padding=0):
    grad_y, _ = backward_by_loops(grad, y, weight, stride=stride, padding=padding)
    columns = im2col(grad, weight.shape[2:])
    return grad_y, (y.reshape(*y.shape[:2], -1) @ columns.swapaxes(1, 2)).sum(axis=0).reshape(weight.shape)


def columns_not_transposed(grad, y, weight, *, stride=1, padding=0):
    grad_y, _ = backward_by_loops(grad, y, weight, stride=stride, padding=padding)
    columns = _columns(grad, weight, stride, padding)
    return grad_y, (y.reshape(*y.shape[:2], -1) @ columns).sum(axis=0).reshape(weight.shape)


def reshapes_the_transposed(grad, y, weight, *, stride=1, padding=0):
    grad_y, _ = backward_by_loops(grad, y, weight, stride=stride, padding=padding)
    columns = _columns(grad, weight, stride, padding)
    return grad_y, (columns @ y.reshape(*y.shape[:2], -1).swapaxes(1, 2)).sum(axis=0).reshape(weight.shape)


def _tent(kernel_size, height, first=0):
    middle = (kernel_size - 1) / 2
    tent = height(np.arange(first, first + kernel_size) - middle)
    return np.outer(tent, tent)


def by_the_kernel_size(kernel_size):
    return _tent(kernel_size, lambda d: 1 - np.abs(d) / kernel_size)


def by_nothing(kernel_size):
    return _tent(kernel_size, lambda d: 1 - np.abs(d))


def counts_from_one(kernel_size):
    return _tent(kernel_size, lambda d: 1 - np.abs(d) / ((kernel_size + 1) // 2), first=1)


def without_abs(kernel_size):
    return _tent(kernel_size, lambda d: 1 - d / ((kernel_size + 1) // 2))


def rounds_half_to_even(kernel_size):
    return _tent(kernel_size, lambda d: 1 - np.abs(d) / np.float64(round(kernel_size / 2)))


def same_weight_everywhere(kernel_size):
    return np.ones((kernel_size, kernel_size)) / kernel_size**2


CORRECT = {
    "transposed_sizes": [sizes_by_hand, sizes_by_stamps],
    "conv_transpose2d": [transposed_by_stamps, transposed_with_zeros_between, transposed_by_einsum],
    "conv_transpose2d_backward": [backward_by_loops, backward_by_products],
    "bilinear_kernel": [bilinear_by_loops, bilinear_as_in_caffe, bilinear_by_convolving_boxes],
}

WRONG = {
    "transposed_sizes": [
        (sizes_enlarged_by_the_stride, "n·stride, which is the size only where"),
        (sizes_with_padding_kept, "the padding is missing"),
        (sizes_with_padding_cut_once, "at one end only"),
        (sizes_with_n_steps, "one step too many"),
        (sizes_of_the_convolution, "output size of a convolution"),
        (sizes_with_padding_added, "the padding is added"),
        (sizes_without_the_kernel, "the kernel is missing"),
        (sizes_with_one_slip, "look at layer 5"),
        (sizes_with_text, "numbers are expected"),
    ],
    "conv_transpose2d": [
        (transposed_without_adding, "they must be added"),
        (transposed_without_cutting, "not cut off"),
        (transposed_without_stride, "stride has no effect"),
        (transposed_cut_at_the_end, "at the end only"),
        (transposed_with_the_kernel_turned, "turned by 180°"),
        (transposed_with_the_weight_of_conv2d, "read as (out, in, kh, kw)"),
        (transposed_with_a_reshape_for_the_transpose, "mixes its numbers up"),
        (transposed_by_im2col, "the shape is"),
        (transposed_by_a_convolution, "this is the convolution"),
        (transposed_with_a_square_kernel, "the columns have shape"),
        (transposed_for_each_channel_by_itself, "enlarged by itself"),
        (mixes_y_up, "mixes its numbers up. Reshape to (N, in"),
        (n_times_stride, "(H − 1)·stride"),
        (repeats_the_numbers, "the result is 2 × 2 pixels large"),
    ],
    "conv_transpose2d_backward": [
        (backward_in_the_wrong_order, "wrong order"),
        (backward_with_the_kernel_turned, "turned by 180°"),
        (backward_with_a_transposed_convolution, "transposed convolution of grad"),
        (backward_with_axes_swapped, "axes are swapped"),
        (backward_of_the_first_picture, "first picture of the batch"),
        (backward_with_the_mean_over_the_batch, "mean over the batch"),
        (backward_with_a_batch_of_weights, "for each picture of the batch"),
        (backward_left_as_a_matrix, "reshape to the shape of the weight"),
        (backward_with_patches_first, "first two axes are swapped"),
        (backward_of_y_only, "2 things are expected"),
        (backward_without_padding, "cannot reshape"),
        (without_stride_in_conv2d, "not passed on to conv2d"),
        (without_stride_in_im2col, "and so does im2col"),
        (columns_not_transposed, "are not transposed"),
        (reshapes_the_transposed, "a reshape does not transpose"),
    ],
    "bilinear_kernel": [
        (bilinear_along_one_axis, "along one axis"),
        (bilinear_that_sums_to_one, "divided by its sum"),
        (bilinear_with_the_top_on_a_pixel, "is at pixel k//2"),
        (bilinear_with_the_top_on_the_pixel_before, "is at pixel (k − 1)//2"),
        (bilinear_with_the_stride_rounded_down, "rounded up"),
        (bilinear_with_half_a_stride, "rounded up"),
        (bilinear_as_a_pyramid, "smaller of the two"),
        (bilinear_as_a_sum, "are added"),
        (bilinear_as_a_cone, "cone"),
        (bilinear_that_falls_to_zero_outside, "just outside the kernel"),
        (bilinear_of_four, "the shape is"),
        (by_the_kernel_size, "divided by the kernel's size"),
        (by_nothing, "not divided by the stride"),
        (counts_from_one, "counted from 1"),
        (without_abs, "never negative"),
        (rounds_half_to_even, "rounds halves"),
        (same_weight_everywhere, "the same weight"),
    ],
}
