"""Answers to the exercises of lesson 7 as learners might write them."""

import numpy as np

from course.mine import col2im, im2col


def right_counts_as_array():
    along = np.array([1, 2, 2, 1])
    return along[:, None] * along


def right_counts_by_sliding():
    counts = [[0] * 4 for _ in range(4)]
    for top in range(2):
        for left in range(2):
            for row in range(3):
                for column in range(3):
                    counts[top + row][left + column] += 1
    return counts


def counts_all_ones():
    return [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


def counts_all_four():
    return [[4] * 4] * 4


def counts_added():
    return [[2, 3, 3, 2], [3, 4, 4, 3], [3, 4, 4, 3], [2, 3, 3, 2]]


def counts_along_the_rows_only():
    return [[1, 2, 2, 1]] * 4


def counts_with_padding():
    return [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]


def counts_of_the_places():
    return [[9, 9], [9, 9]]


def counts_in_one_list():
    return [1, 2, 2, 1, 2, 4, 4, 2, 2, 4, 4, 2, 1, 2, 2, 1]


def counts_with_a_slip():
    return [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 3, 2], [1, 2, 2, 1]]


def right_place_by_place(columns, input_size, kernel_size, *, stride=1, padding=0):
    n, rows, _ = columns.shape
    (h, w), (kh, kw) = input_size, kernel_size
    x = np.zeros((n, rows // (kh * kw), h + 2 * padding, w + 2 * padding))
    place = 0
    for i in range(0, h + 2 * padding - kh + 1, stride):
        for j in range(0, w + 2 * padding - kw + 1, stride):
            x[:, :, i : i + kh, j : j + kw] += columns[:, :, place].reshape(n, -1, kh, kw)
            place += 1
    return x[:, :, padding : h + padding, padding : w + padding]


def right_with_indices(columns, input_size, kernel_size, *, stride=1, padding=0):
    n = len(columns)
    (h, w), (kh, kw) = input_size, kernel_size
    # where each entry of a column was copied from: im2col of the pixels' numbers, 0 for the padding
    numbers = np.arange(1, h * w + 1).reshape(1, 1, h, w).astype(float)
    source = im2col(numbers, kernel_size, stride=stride, padding=padding)[0].astype(int)
    columns = columns.reshape(n, -1, kh * kw, source.shape[1])
    x = np.zeros((n, columns.shape[1], h * w + 1))
    for i in range(n):
        for c in range(columns.shape[1]):
            np.add.at(x[i, c], source, columns[i, c])
    return x[:, :, 1:].reshape(n, -1, h, w)


def overwrites(columns, input_size, kernel_size, *, stride=1, padding=0):
    (h, w), (kh, kw) = input_size, kernel_size
    ho, wo = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    patches = columns.reshape(len(columns), -1, kh, kw, ho, wo)
    x = np.zeros((len(columns), patches.shape[1], h + 2 * padding, w + 2 * padding))
    for i in range(kh):
        for j in range(kw):
            x[:, :, i : i + stride * ho : stride, j : j + stride * wo : stride] = patches[:, :, i, j]
    return x[:, :, padding : padding + h, padding : padding + w]


def overwrites_place_by_place(columns, input_size, kernel_size, *, stride=1, padding=0):
    n, rows, _ = columns.shape
    (h, w), (kh, kw) = input_size, kernel_size
    x = np.zeros((n, rows // (kh * kw), h + 2 * padding, w + 2 * padding))
    place = 0
    for i in range(0, h + 2 * padding - kh + 1, stride):
        for j in range(0, w + 2 * padding - kw + 1, stride):
            x[:, :, i : i + kh, j : j + kw] = columns[:, :, place].reshape(n, -1, kh, kw)
            place += 1
    return x[:, :, padding : h + padding, padding : w + padding]


def adds_with_an_index_array(columns, input_size, kernel_size, *, stride=1, padding=0):
    n = len(columns)
    (h, w), (kh, kw) = input_size, kernel_size
    ho, wo = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    i = np.arange(kh)[:, None, None, None] + stride * np.arange(ho)[None, None, :, None]
    j = np.arange(kw)[None, :, None, None] + stride * np.arange(wo)[None, None, None, :]
    patches = columns.reshape(n, -1, kh, kw, ho, wo)
    x = np.zeros((n, patches.shape[1], h + 2 * padding, w + 2 * padding))
    x[:, :, i, j] += patches
    return x[:, :, padding : padding + h, padding : padding + w]


def divides_by_the_counts(columns, input_size, kernel_size, *, stride=1, padding=0):
    total = right_place_by_place(columns, input_size, kernel_size, stride=stride, padding=padding)
    counts = right_place_by_place(np.ones_like(columns), input_size, kernel_size, stride=stride, padding=padding)
    return total / np.maximum(counts, 1)


def leaves_the_frame(columns, input_size, kernel_size, *, stride=1, padding=0):
    (h, w) = input_size
    return right_place_by_place(columns, (h + 2 * padding, w + 2 * padding), kernel_size, stride=stride)


def cuts_with_minus_padding(columns, input_size, kernel_size, *, stride=1, padding=0):
    framed = leaves_the_frame(columns, input_size, kernel_size, stride=stride, padding=padding)
    return framed[:, :, padding:-padding, padding:-padding]


def cuts_the_wrong_side(columns, input_size, kernel_size, *, stride=1, padding=0):
    framed = leaves_the_frame(columns, input_size, kernel_size, stride=stride, padding=padding)
    return framed[:, :, : input_size[0], : input_size[1]]


def forgets_the_rest_of_the_picture(columns, input_size, kernel_size, *, stride=1, padding=0):
    (h, w), (kh, kw) = input_size, kernel_size
    ho, wo = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    patches = columns.reshape(len(columns), -1, kh, kw, ho, wo)
    x = np.zeros((len(columns), patches.shape[1], (ho - 1) * stride + kh, (wo - 1) * stride + kw))
    for i in range(kh):
        for j in range(kw):
            x[:, :, i : i + stride * ho : stride, j : j + stride * wo : stride] += patches[:, :, i, j]
    return x[:, :, padding : padding + h, padding : padding + w]


def forgets_the_stride_in_the_slices(columns, input_size, kernel_size, *, stride=1, padding=0):
    (h, w), (kh, kw) = input_size, kernel_size
    ho, wo = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    patches = columns.reshape(len(columns), -1, kh, kw, ho, wo)
    x = np.zeros((len(columns), patches.shape[1], h + 2 * padding, w + 2 * padding))
    for i in range(kh):
        for j in range(kw):
            x[:, :, i : i + ho, j : j + wo] += patches[:, :, i, j]
    return x[:, :, padding : padding + h, padding : padding + w]


def forgets_stride_and_padding_in_the_size(columns, input_size, kernel_size, *, stride=1, padding=0):
    (h, w), (kh, kw) = input_size, kernel_size
    patches = columns.reshape(len(columns), -1, kh, kw, h - kh + 1, w - kw + 1)
    x = np.zeros((len(columns), patches.shape[1], h, w))
    for i in range(h - kh + 1):
        for j in range(w - kw + 1):
            x[:, :, i : i + kh, j : j + kw] += patches[..., i, j]
    return x


def reshapes_with_the_places_first(columns, input_size, kernel_size, *, stride=1, padding=0):
    (h, w), (kh, kw) = input_size, kernel_size
    ho, wo = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    patches = columns.reshape(len(columns), -1, ho, wo, kh, kw)
    x = np.zeros((len(columns), patches.shape[1], h + 2 * padding, w + 2 * padding))
    for i in range(ho):
        for j in range(wo):
            top, left = i * stride, j * stride
            x[:, :, top : top + kh, left : left + kw] += patches[:, :, i, j]
    return x[:, :, padding : padding + h, padding : padding + w]


def writes_into_its_argument(columns, input_size, kernel_size, *, stride=1, padding=0):
    x = right_place_by_place(columns, input_size, kernel_size, stride=stride, padding=padding)
    columns[...] = 0
    return x


def right_gradients_by_einsum(grad, x, weight, *, stride=1, padding=0):
    out, _, kh, kw = weight.shape
    columns = im2col(x, (kh, kw), stride=stride, padding=padding)
    grad = grad.reshape(len(x), out, -1)
    grad_weight = np.einsum("nol,nkl->ok", grad, columns).reshape(weight.shape)
    grad_columns = np.einsum("ok,nol->nkl", weight.reshape(out, -1), grad)
    grad_x = col2im(grad_columns, x.shape[2:], (kh, kw), stride=stride, padding=padding)
    return grad_x, grad_weight, np.einsum("nol->o", grad)


def right_gradients_in_loops(grad, x, weight, *, stride=1, padding=0):
    out, _, kh, kw = weight.shape
    padded = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    grad_padded, grad_weight, grad_bias = np.zeros(padded.shape), np.zeros(weight.shape), np.zeros(out)
    for n, o, i, j in np.ndindex(grad.shape):
        window = (n, slice(None), slice(i * stride, i * stride + kh), slice(j * stride, j * stride + kw))
        grad_padded[window] += grad[n, o, i, j] * weight[o]
        grad_weight[o] += grad[n, o, i, j] * padded[window]
        grad_bias[o] += grad[n, o, i, j]
    height, width = x.shape[2:]
    return [grad_padded[:, :, padding : padding + height, padding : padding + width], grad_weight, grad_bias]


def only_the_first_picture(grad, x, weight, *, stride=1, padding=0):
    grad_x, _, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    columns = im2col(x, weight.shape[2:], stride=stride, padding=padding)[0]
    return grad_x, (grad[0].reshape(len(weight), -1) @ columns.T).reshape(weight.shape), grad_bias


def mean_over_the_batch(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_weight / len(x), grad_bias / len(x)


def one_weight_gradient_a_picture(grad, x, weight, *, stride=1, padding=0):
    grad_x, _, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    columns = im2col(x, weight.shape[2:], stride=stride, padding=padding)
    return grad_x, grad.reshape(len(x), len(weight), -1) @ columns.transpose(0, 2, 1), grad_bias


def weight_gradient_stays_a_matrix(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_weight.reshape(len(weight), -1), grad_bias


def mixes_pictures_and_channels(grad, x, weight, *, stride=1, padding=0):
    grad_x, _, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    columns = im2col(x, weight.shape[2:], stride=stride, padding=padding)
    grad_weight = grad.reshape(len(weight), -1) @ columns.reshape(columns.shape[1], -1).T
    return grad_x, grad_weight.reshape(weight.shape), grad_bias


def forgets_the_sum_over_the_pictures(grad, x, weight, *, stride=1, padding=0):
    grad_x, _, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    columns = im2col(x, weight.shape[2:], stride=stride, padding=padding)
    grad_weight = grad.reshape(len(x), len(weight), -1) @ columns.transpose(0, 2, 1)
    return grad_x, grad_weight.reshape(weight.shape), grad_bias


def forgets_col2im(grad, x, weight, *, stride=1, padding=0):
    _, grad_weight, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    grad_columns = weight.reshape(len(weight), -1).T @ grad.reshape(len(x), len(weight), -1)
    return grad_columns, grad_weight, grad_bias


def reshapes_in_place_of_transposing(grad, x, weight, *, stride=1, padding=0):
    _, grad_weight, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    grad_columns = weight.reshape(-1, len(weight)) @ grad.reshape(len(x), len(weight), -1)
    grad_x = col2im(grad_columns, x.shape[2:], weight.shape[2:], stride=stride, padding=padding)
    return grad_x, grad_weight, grad_bias


def turns_the_kernel(grad, x, weight, *, stride=1, padding=0):
    grad_x, *_ = right_gradients_by_einsum(grad, x, weight[:, :, ::-1, ::-1], stride=stride, padding=padding)
    _, grad_weight, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_weight, grad_bias


def overwrites_in_loops(grad, x, weight, *, stride=1, padding=0):
    _, grad_weight, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    n, c, h, w = x.shape
    kh, kw = weight.shape[2:]
    grad_x = np.zeros((n, c, h + 2 * padding, w + 2 * padding))
    for i in range(grad.shape[2]):
        for j in range(grad.shape[3]):
            share = np.tensordot(grad[:, :, i, j], weight, axes=(1, 0))
            grad_x[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw] = share
    return grad_x[:, :, padding : padding + h, padding : padding + w], grad_weight, grad_bias


def bias_keeps_the_pictures(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, _ = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_weight, grad.sum(axis=(2, 3))


def bias_over_everything(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, _ = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_weight, grad.sum()


def bias_before_weight(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_bias, grad_weight


def weight_before_x(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, grad_bias = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    return grad_weight, grad_x, grad_bias


def without_bias_gradient(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, _ = right_gradients_by_einsum(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_weight


def forgets_stride_and_padding(grad, x, weight, *, stride=1, padding=0):
    return right_gradients_by_einsum(grad, x, weight)


def counts_of_weights():
    return [[1, 3, 5, 3], [5, 12, 16, 9], [11, 24, 28, 15], [7, 15, 17, 9]]


def _laid(columns, input_size, kernel_size, stride, padding, *, places=None, turn=lambda patches: patches, kind=float):
    (h, w), (kh, kw) = input_size, kernel_size
    ho, wo = places or ((h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1)
    patches = turn(columns.reshape(len(columns), -1, kh, kw, ho, wo))
    x = np.zeros((*patches.shape[:2], h + 2 * padding, w + 2 * padding), kind)
    for i in range(kh):
        for j in range(kw):
            x[:, :, i : i + ho * stride : stride, j : j + wo * stride : stride] += patches[:, :, i, j].astype(kind)
    return x[:, :, padding : padding + h, padding : padding + w]


def patches_turned(columns, input_size, kernel_size, *, stride=1, padding=0):
    return _laid(columns, input_size, kernel_size, stride, padding, turn=lambda patches: patches[:, :, ::-1, ::-1])


def cut_to_whole_numbers(columns, input_size, kernel_size, *, stride=1, padding=0):
    return _laid(columns, input_size, kernel_size, stride, padding, kind=int)


def returns_after_a_row(columns, input_size, kernel_size, *, stride=1, padding=0):
    def first_row(patches):
        patches = patches.copy()
        patches[:, :, 1:] = 0
        return patches

    return _laid(columns, input_size, kernel_size, stride, padding, turn=first_row)


def places_without_padding(columns, input_size, kernel_size, *, stride=1, padding=0):
    places = [(n - k) // stride + 1 for n, k in zip(input_size, kernel_size, strict=True)]
    return _laid(columns, input_size, kernel_size, stride, padding, places=places)


def bias_of_the_columns(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, _ = right_gradients_in_loops(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_weight, grad.sum(axis=(0, 1, 2))


def bias_of_the_rows(grad, x, weight, *, stride=1, padding=0):
    grad_x, grad_weight, _ = right_gradients_in_loops(grad, x, weight, stride=stride, padding=padding)
    return grad_x, grad_weight, grad.sum(axis=(0, 1, 3))


CORRECT = {
    "overlap_counts": [right_counts_as_array, right_counts_by_sliding],
    "col2im": [right_place_by_place, right_with_indices],
    "conv2d_backward": [right_gradients_by_einsum, right_gradients_in_loops],
}
WRONG = {
    "overlap_counts": [
        (counts_all_ones, "the patches overlap"),
        (counts_all_four, "in a corner lies in one"),
        (counts_added, "they multiply"),
        (counts_along_the_rows_only, "also moves down"),
        (counts_with_padding, "with padding 1"),
        (counts_of_the_places, "one for each of the 16 pixels"),
        (counts_in_one_list, "four lists of four"),
        (counts_with_a_slip, "1 of 16 numbers differ, the first at [2, 2]"),
        (counts_of_weights, "sums of the kernel's numbers"),
    ],
    "col2im": [
        (overwrites, "+= in place of ="),
        (overwrites_place_by_place, "the last patch overwrites those before it"),
        (adds_with_an_index_array, "np.add.at"),
        (divides_by_the_counts, "you take their mean"),
        (leaves_the_frame, "cut it off in the end"),
        (cuts_with_minus_padding, "−0 is 0"),
        (cuts_the_wrong_side, "the wrong side"),
        (forgets_the_rest_of_the_picture, "only as large as the patches reach"),
        (forgets_the_stride_in_the_slices, "the stride has no effect"),
        (forgets_stride_and_padding_in_the_size, "the numbers of places, Ho and Wo, depend on both"),
        (reshapes_with_the_places_first, "The order in memory is (N, C, kh, kw, Ho, Wo)"),
        (writes_into_its_argument, "has changed its argument number 1"),
        (patches_turned, "turned by 180°"),
        (cut_to_whole_numbers, "cut to whole ones"),
        (returns_after_a_row, "only the first row of the kernel"),
        (places_without_padding, "channels came back"),
    ],
    "conv2d_backward": [
        (only_the_first_picture, "only the first picture counts"),
        (mean_over_the_batch, "the mean over the pictures"),
        (one_weight_gradient_a_picture, "one for each picture"),
        (weight_gradient_stays_a_matrix, "still a matrix (out, C·kh·kw)"),
        (mixes_pictures_and_channels, "mixed pictures and channels"),
        (forgets_the_sum_over_the_pictures, "Do the shares of all pictures add up"),
        (forgets_col2im, "The last step is col2im"),
        (reshapes_in_place_of_transposing, "dL/dc = W.T @ g"),
        (turns_the_kernel, "turned by 180°"),
        (overwrites_in_loops, "the last one overwrites the others"),
        (bias_keeps_the_pictures, "one for each picture. Sum over the batch as well"),
        (bias_over_everything, "summed over everything"),
        (bias_before_weight, "this is dL/dbias. The order"),
        (weight_before_x, "this is dL/dweight. The order"),
        (without_bias_gradient, "3 things are expected"),
        (forgets_stride_and_padding, "Are both passed on"),
        (bias_of_the_columns, "sum over the axes 0, 2 and 3"),
        (bias_of_the_rows, "the rows are left"),
    ],
}
