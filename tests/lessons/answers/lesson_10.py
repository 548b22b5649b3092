"""Right and wrong answers to lesson 10, as learners write them; WRONG comes with words of the hint that it must get."""

import numpy as np


def conv_from_rows(weight, in_channels, kernel_size):
    return np.stack([np.reshape(row, (in_channels, *kernel_size)) for row in weight])


def conv_by_index(weight, in_channels, kernel_size):
    kernel = np.zeros((len(weight), in_channels, *kernel_size))
    for out_channel in range(len(weight)):
        position = 0
        for channel in range(in_channels):
            for row in range(kernel_size[0]):
                for column in range(kernel_size[1]):
                    kernel[out_channel, channel, row, column] = weight[out_channel, position]
                    position += 1
    return kernel


def conv_by_unravelling(weight, in_channels, kernel_size):
    return np.asarray(weight).reshape(-1, in_channels, kernel_size[0], kernel_size[1]).copy()


def conv_with_channels_last(weight, in_channels, kernel_size):
    return weight.reshape(-1, kernel_size[0], kernel_size[1], in_channels).transpose(0, 3, 1, 2)


def conv_with_width_first(weight, in_channels, kernel_size):
    width, height = kernel_size
    return weight.reshape(-1, in_channels, height, width)


def conv_with_the_transpose(weight, in_channels, kernel_size):
    return weight.T.reshape(weight.shape[0], in_channels, *kernel_size)


def conv_with_in_before_out(weight, in_channels, kernel_size):
    return weight.reshape(in_channels, -1, *kernel_size)


def conv_turned(weight, in_channels, kernel_size):
    return weight.reshape(-1, in_channels, *kernel_size)[..., ::-1, ::-1]


def conv_of_a_square(weight, in_channels, kernel_size):
    return weight.reshape(-1, in_channels, kernel_size[0], kernel_size[0])


def conv_with_a_batch(weight, in_channels, kernel_size):
    return weight.reshape(1, -1, in_channels, *kernel_size)


def conv_left_dense(weight, in_channels, kernel_size):
    return weight.reshape(-1, in_channels * kernel_size[0] * kernel_size[1])


def windows_in_nested_lists(image, classify, window, stride):
    rows = []
    for top in range(0, image.shape[1] - window + 1, stride):
        row = []
        for left in range(0, image.shape[2] - window + 1, stride):
            row.append(classify(image[np.newaxis, :, top : top + window, left : left + window]).ravel())
        rows.append(row)
    return np.moveaxis(np.array(rows), -1, 0)


def windows_in_one_batch(image, classify, window, stride):
    tops = range(0, image.shape[1] - window + 1, stride)
    lefts = range(0, image.shape[2] - window + 1, stride)
    patches = [image[:, top : top + window, left : left + window] for top in tops for left in lefts]
    return classify(np.stack(patches)).T.reshape(-1, len(tops), len(lefts))


def windows_filled_in(image, classify, window, stride):
    _, height, width = image.shape
    result = None
    for i, top in enumerate(range(0, height - window + 1, stride)):
        for j, left in enumerate(range(0, width - window + 1, stride)):
            logits = classify(image[None, :, top : top + window, left : left + window])
            if result is None:
                result = np.zeros((logits.shape[1], (height - window) // stride + 1, (width - window) // stride + 1))
            result[:, i, j] = logits[0]
    return result


def windows_without_the_last(image, classify, window, stride):
    tops = range(0, image.shape[1] - window, stride)
    lefts = range(0, image.shape[2] - window, stride)
    grid = [[classify(image[None, :, t : t + window, s : s + window])[0] for s in lefts] for t in tops]
    return np.array(grid).transpose(2, 0, 1)


def windows_with_logits_last(image, classify, window, stride):
    tops = range(0, image.shape[1] - window + 1, stride)
    lefts = range(0, image.shape[2] - window + 1, stride)
    return np.array([[classify(image[None, :, t : t + window, s : s + window])[0] for s in lefts] for t in tops])


def windows_reshaped(image, classify, window, stride):
    grid = windows_with_logits_last(image, classify, window, stride)
    return grid.reshape(grid.shape[2], grid.shape[0], grid.shape[1])


def windows_transposed(image, classify, window, stride):
    return windows_with_logits_last(image, classify, window, stride).T


def windows_without_stride(image, classify, window, stride):
    return windows_filled_in(image, classify, window, 1)


def windows_one_pixel_apart(image, classify, window, stride):
    rows, columns = (image.shape[1] - window) // stride + 1, (image.shape[2] - window) // stride + 1
    grid = [[classify(image[None, :, i : i + window, j : j + window])[0] for j in range(columns)] for i in range(rows)]
    return np.array(grid).transpose(2, 0, 1)


def windows_side_by_side(image, classify, window, stride):
    return windows_filled_in(image, classify, window, window)


def windows_without_a_batch(image, classify, window, stride):
    tops = range(0, image.shape[1] - window + 1, stride)
    lefts = range(0, image.shape[2] - window + 1, stride)
    return np.array([[classify(image[:, t : t + window, s : s + window]) for s in lefts] for t in tops])


def windows_over_the_edge(image, classify, window, stride):
    tops, lefts = range(0, image.shape[1], stride), range(0, image.shape[2], stride)
    grid = [[classify(image[None, :, t : t + window, s : s + window])[0] for s in lefts] for t in tops]
    return np.array(grid).transpose(2, 0, 1)


def windows_as_classes(image, classify, window, stride):
    return windows_filled_in(image, classify, window, stride).argmax(axis=0)


def windows_in_a_row(image, classify, window, stride):
    logits = windows_filled_in(image, classify, window, stride)
    return logits.reshape(len(logits), -1)


def windows_that_change_the_image(image, classify, window, stride):
    image -= image.mean()
    return windows_filled_in(image, classify, window, stride)


def count_with_a_sum(layers, size):
    counts, channels = [0], [3]
    for kind, out_channels, kernel_size, stride in layers:
        size = 1 + (size - kernel_size) // stride
        if kind != "pool":
            counts.append(size * size * kernel_size * kernel_size * channels[-1] * out_channels)
        channels.append(out_channels)
    return sum(counts)


def count_place_by_place(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        places = len(range(0, size - kernel_size + 1, stride))
        if kind == "conv":
            total += out_channels * channels * (kernel_size * places) ** 2
            channels = out_channels
        size = places
    return float(total)


def count_without_channels(layers, size):
    total = 0
    for kind, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1
        if kind == "conv":
            total += size**2 * kernel_size**2 * out_channels
    return total


def count_with_three_channels(layers, size):
    total = 0
    for kind, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1
        if kind == "conv":
            total += size**2 * kernel_size**2 * out_channels * 3
    return total


def count_at_the_input(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        if kind == "conv":
            total += size**2 * kernel_size**2 * channels * out_channels
        size = (size - kernel_size) // stride + 1
        channels = out_channels
    return total


def count_without_squares(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1
        if kind == "conv":
            total += size**2 * kernel_size * channels * out_channels
        channels = out_channels
    return total


def count_along_a_line(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1
        if kind == "conv":
            total += size * kernel_size**2 * channels * out_channels
        channels = out_channels
    return total


def count_with_pooling(layers, size):
    channels, total = 3, 0
    for _, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1
        total += size**2 * kernel_size**2 * channels * out_channels
        channels = out_channels
    return total


def count_past_poolings(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        if kind == "pool":
            continue
        size = (size - kernel_size) // stride + 1
        total += size**2 * kernel_size**2 * channels * out_channels
        channels = out_channels
    return total


def count_without_stride(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, _ in layers:
        size = size - kernel_size + 1
        if kind == "conv":
            total += size**2 * kernel_size**2 * channels * out_channels
        channels = out_channels
    return total


def count_at_the_image_size(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        out_size = (size - kernel_size) // stride + 1
        if kind == "conv":
            total += out_size**2 * kernel_size**2 * channels * out_channels
        channels = out_channels
    return total


def count_of_the_last_layer(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1
        if kind == "conv":
            total = size**2 * kernel_size**2 * channels * out_channels
        channels = out_channels
    return total


def count_with_biases(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1
        if kind == "conv":
            total += size**2 * out_channels * (kernel_size**2 * channels + 1)
        channels = out_channels
    return total


def count_as_if_padded(layers, size):
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        size //= stride
        if kind == "conv":
            total += size**2 * kernel_size**2 * channels * out_channels
        channels = out_channels
    return total


def two_axes_too_many(image, classify, window, stride):
    return classify(image[None, None, :, :window, :window])


def window_one_too_small(image, classify, window, stride):
    return classify(image[None, :, : window - 1, : window - 1])


def largest_logit_only(image, classify, window, stride):
    return windows_in_nested_lists(image, classify, window, stride).max(axis=0)


CORRECT = {
    "dense_to_conv": [conv_from_rows, conv_by_index, conv_by_unravelling],
    "patch_classifier": [windows_in_nested_lists, windows_in_one_batch, windows_filled_in],
    "count_multiplications": [count_with_a_sum, count_place_by_place],
}

WRONG = {
    "dense_to_conv": [
        (conv_with_channels_last, "channels are taken to run fastest"),
        (conv_with_width_first, "columns are taken before its rows"),
        (conv_with_the_transpose, "transposed before it is reshaped"),
        (conv_with_in_before_out, "in and out are swapped in the reshape"),
        (conv_turned, "turned by 180°"),
        (conv_of_a_square, "height is taken for its width"),
        (conv_with_a_batch, "batch axis"),
        (conv_left_dense, "still has two axes"),
    ],
    "patch_classifier": [
        (windows_without_the_last, "range stops before its end"),
        (windows_with_logits_last, "logits come last"),
        (windows_reshaped, "reshape moves no axes"),
        (windows_transposed, "rows and columns are swapped"),
        (windows_without_stride, "stride has no effect"),
        (windows_one_pixel_apart, "they begin at 0, stride"),
        (windows_side_by_side, "a whole window apart"),
        (windows_without_a_batch, "batch axis is missing"),
        (windows_over_the_edge, "hangs over the image's edge"),
        (windows_as_classes, "classes with the largest logits"),
        (windows_in_a_row, "still in one row"),
        (windows_that_change_the_image, "has changed its argument number 1"),
        (two_axes_too_many, "too many axes"),
        (window_one_too_small, "its slice is not top"),
        (largest_logit_only, "its largest logit"),
    ],
    "count_multiplications": [
        (count_without_channels, "input channels are missing"),
        (count_with_three_channels, "3 channels coming in"),
        (count_at_the_input, "every place of a layer's input"),
        (count_without_squares, "kernel_size is not squared"),
        (count_along_a_line, "size is not squared"),
        (count_with_pooling, "They only compare"),
        (count_past_poolings, "poolings are passed over"),
        (count_without_stride, "stride has no effect"),
        (count_at_the_image_size, "every layer is counted at the image's size"),
        (count_of_the_last_layer, "only the last layer"),
        (count_with_biases, "biases are counted"),
        (count_as_if_padded, "only divided by the stride"),
    ],
}
