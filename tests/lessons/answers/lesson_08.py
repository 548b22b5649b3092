"""Answers to the exercises of lesson 8 as learners might write them."""

import math

import numpy as np


def right_window_by_window(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    n, c, h, w = x.shape
    kh, kw = kernel_size
    rounded = math.ceil if ceil_mode else math.floor
    ho = rounded((h + 2 * padding - kh) / stride) + 1
    wo = rounded((w + 2 * padding - kw) / stride) + 1
    if (ho - 1) * stride - padding >= h:
        ho -= 1
    if (wo - 1) * stride - padding >= w:
        wo -= 1
    y = np.zeros((n, c, ho, wo))
    for i in range(ho):
        for j in range(wo):
            top, left = i * stride - padding, j * stride - padding
            window = x[:, :, max(top, 0) : top + kh, max(left, 0) : left + kw]  # a slice may end beyond the picture
            y[:, :, i, j] = window.max(axis=(2, 3))
    return y


def right_place_by_place(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    n, c, h, w = x.shape
    kh, kw = kernel_size
    size = []
    for length, k in ((h, kh), (w, kw)):
        starts = range(-padding, length + padding - k + (stride if ceil_mode else 1), stride)
        size.append(len([start for start in starts if start < length]))
    ho, wo = size
    framed = np.full((n, c, h + 2 * padding + stride + kh, w + 2 * padding + stride + kw), -np.inf)
    framed[:, :, padding : padding + h, padding : padding + w] = x
    y = np.full((n, c, ho, wo), -np.inf)
    for i in range(kh):
        for j in range(kw):
            y = np.maximum(y, framed[:, :, i : i + ho * stride : stride, j : j + wo * stride : stride])
    return y


def framed_by_zeros(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    ho, wo = right_window_by_window(x, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode).shape[2:]
    beyond = kernel_size[0] + kernel_size[1] + stride
    framed = np.pad(x, [(0, 0), (0, 0), (padding, padding + beyond), (padding, padding + beyond)])
    y = np.zeros((*x.shape[:2], ho, wo))
    for i in range(ho):
        for j in range(wo):
            top, left = i * stride, j * stride
            y[:, :, i, j] = framed[:, :, top : top + kernel_size[0], left : left + kernel_size[1]].max(axis=(2, 3))
    return y


def ignores_ceil_mode(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    return right_window_by_window(x, kernel_size, stride=stride, padding=padding)


def always_rounds_up(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    return right_window_by_window(x, kernel_size, stride=stride, padding=padding, ceil_mode=True)


def adds_a_window_in_ceil_mode(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    n, c, h, w = x.shape
    kh, kw = kernel_size
    ho = (h + 2 * padding - kh) // stride + 1 + ceil_mode
    wo = (w + 2 * padding - kw) // stride + 1 + ceil_mode
    framed = np.full((n, c, h + 2 * padding + stride + kh, w + 2 * padding + stride + kw), -np.inf)
    framed[:, :, padding : padding + h, padding : padding + w] = x
    y = np.full((n, c, ho, wo), -np.inf)
    for i in range(kh):
        for j in range(kw):
            y = np.maximum(y, framed[:, :, i : i + ho * stride : stride, j : j + wo * stride : stride])
    return y


def keeps_the_window_that_sees_nothing(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    n, c, h, w = x.shape
    kh, kw = kernel_size
    rounded = math.ceil if ceil_mode else math.floor
    ho = rounded((h + 2 * padding - kh) / stride) + 1
    wo = rounded((w + 2 * padding - kw) / stride) + 1
    framed = np.full((n, c, max(h + 2 * padding, ho * stride + kh), max(w + 2 * padding, wo * stride + kw)), -np.inf)
    framed[:, :, padding : padding + h, padding : padding + w] = x
    y = np.zeros((n, c, ho, wo))
    for i in range(ho):
        for j in range(wo):
            y[:, :, i, j] = framed[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw].max(axis=(2, 3))
    return y


def steps_by_the_kernel_size(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel_size, axis=(2, 3))
    return windows[:, :, ::kh, ::kw].max(axis=(4, 5))


def takes_the_mean(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel_size, axis=(2, 3))
    return windows[:, :, ::stride, ::stride].mean(axis=(4, 5))


def framed_by_a_small_number(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    h, w = x.shape[2:]
    kh, kw = kernel_size
    ho, wo = right_window_by_window(x, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode).shape[2:]
    framed = np.full((*x.shape[:2], h + 2 * padding + stride + kh, w + 2 * padding + stride + kw), -9999.0)
    framed[:, :, padding : padding + h, padding : padding + w] = x
    y = np.full((*x.shape[:2], ho, wo), -9999.0)
    for i in range(kh):
        for j in range(kw):
            y = np.maximum(y, framed[:, :, i : i + ho * stride : stride, j : j + wo * stride : stride])
    return y


def returns_the_places(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel_size, axis=(2, 3))[:, :, ::stride, ::stride]
    return windows.reshape(*windows.shape[:4], -1).argmax(axis=-1)


def pools_the_channels_too(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    y = right_window_by_window(x, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    return y.max(axis=1, keepdims=True)


def frame_too_small(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    n, c = x.shape[:2]
    kh, kw = kernel_size
    ho, wo = right_window_by_window(x, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode).shape[2:]
    framed = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)], constant_values=-np.inf)
    y = np.full((n, c, ho, wo), -np.inf)
    for i in range(kh):
        for j in range(kw):
            y = np.maximum(y, framed[:, :, i : i + ho * stride : stride, j : j + wo * stride : stride])
    return y


def right_routes_in_loops(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    grad_x = np.zeros_like(x)
    for n, c, i, j in np.ndindex(grad.shape):
        top, left = i * stride - padding, j * stride - padding
        best = None
        for row in range(max(top, 0), min(top + kh, x.shape[2])):
            for column in range(max(left, 0), min(left + kw, x.shape[3])):
                if best is None or x[n, c, row, column] > x[n, c, best[0], best[1]]:
                    best = (row, column)
        grad_x[n, c, best[0], best[1]] += grad[n, c, i, j]
    return grad_x


def right_routes_with_add_at(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    n, c, h, w = x.shape
    kh, kw = kernel_size
    ho, wo = grad.shape[2:]
    framed = np.full((n, c, h + 2 * padding + stride + kh, w + 2 * padding + stride + kw), -np.inf)
    framed[:, :, padding : padding + h, padding : padding + w] = x
    windows = np.lib.stride_tricks.sliding_window_view(framed, kernel_size, axis=(2, 3))
    windows = windows[:, :, : ho * stride : stride, : wo * stride : stride].reshape(n, c, ho, wo, kh * kw)
    winners = windows.argmax(axis=-1)
    rows = winners // kw + stride * np.arange(ho)[:, None]
    columns = winners % kw + stride * np.arange(wo)
    grad_framed = np.zeros(framed.shape)
    np.add.at(grad_framed, (np.arange(n)[:, None, None, None], np.arange(c)[:, None, None], rows, columns), grad)
    return grad_framed[:, :, padding : padding + h, padding : padding + w]


def routes_to_all_equal(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    grad_x = np.zeros_like(x)
    for n, c, i, j in np.ndindex(grad.shape):
        top, left = i * stride - padding, j * stride - padding
        window = (n, c, slice(max(top, 0), top + kh), slice(max(left, 0), left + kw))
        grad_x[window] += grad[n, c, i, j] * (x[window] == x[window].max())
    return grad_x


def shares_among_equals(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    grad_x = np.zeros_like(x)
    for n, c, i, j in np.ndindex(grad.shape):
        top, left = i * stride - padding, j * stride - padding
        window = (n, c, slice(max(top, 0), top + kh), slice(max(left, 0), left + kw))
        mask = x[window] == x[window].max()
        grad_x[window] += grad[n, c, i, j] * mask / mask.sum()
    return grad_x


def routes_to_the_last(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    grad_x = np.zeros_like(x)
    for n, c, i, j in np.ndindex(grad.shape):
        top, left = i * stride - padding, j * stride - padding
        best = None
        for row in range(max(top, 0), min(top + kh, x.shape[2])):
            for column in range(max(left, 0), min(left + kw, x.shape[3])):
                if best is None or x[n, c, row, column] >= x[n, c, best[0], best[1]]:
                    best = (row, column)
        grad_x[n, c, best[0], best[1]] += grad[n, c, i, j]
    return grad_x


def overwrites_the_winner(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    grad_x = np.zeros_like(x)
    for n, c, i, j in np.ndindex(grad.shape):
        top, left = max(i * stride - padding, 0), max(j * stride - padding, 0)
        window = x[n, c, top : i * stride - padding + kh, left : j * stride - padding + kw]
        row, column = np.unravel_index(window.argmax(), window.shape)
        grad_x[n, c, top + row, left + column] = grad[n, c, i, j]
    return grad_x


def overwrites_the_window(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    grad_x = np.zeros_like(x)
    for n, c, i, j in np.ndindex(grad.shape):
        top, left = i * stride - padding, j * stride - padding
        window = (n, c, slice(max(top, 0), top + kh), slice(max(left, 0), left + kw))
        grad_x[window] = grad[n, c, i, j] * (x[window] == x[window].max())
    return grad_x


def overwrites_place_by_place(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    n, c, h, w = x.shape
    kh, kw = kernel_size
    ho, wo = grad.shape[2:]
    framed = np.full((n, c, h + 2 * padding + stride + kh, w + 2 * padding + stride + kw), -np.inf)
    framed[:, :, padding : padding + h, padding : padding + w] = x
    windows = np.lib.stride_tricks.sliding_window_view(framed, kernel_size, axis=(2, 3))
    winners = windows[:, :, : ho * stride : stride, : wo * stride : stride].reshape(n, c, ho, wo, -1).argmax(axis=-1)
    grad_framed = np.zeros(framed.shape)
    for i in range(kh):
        for j in range(kw):
            down, across = slice(i, i + ho * stride, stride), slice(j, j + wo * stride, stride)
            grad_framed[:, :, down, across] = grad * (winners == i * kw + j)
    return grad_framed[:, :, padding : padding + h, padding : padding + w]


def marks_the_winners(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    return right_routes_in_loops(np.ones_like(grad), x, kernel_size, stride=stride, padding=padding)


def spreads_evenly(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    grad_x = np.zeros_like(x)
    for n, c, i, j in np.ndindex(grad.shape):
        top, left = i * stride - padding, j * stride - padding
        grad_x[n, c, max(top, 0) : top + kh, max(left, 0) : left + kw] += grad[n, c, i, j] / (kh * kw)
    return grad_x


def winners_of_the_first_channel(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    same = np.repeat(x[:, :1], x.shape[1], axis=1)
    return right_routes_in_loops(grad, same, kernel_size, stride=stride, padding=padding)


def loses_to_a_frame_of_zeros(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    (h, w), (kh, kw) = x.shape[2:], kernel_size
    beyond = kh + kw + stride
    framed = np.pad(x, [(0, 0), (0, 0), (padding, padding + beyond), (padding, padding + beyond)])
    grad_x = right_routes_in_loops(grad, framed, kernel_size, stride=stride)
    return grad_x[:, :, padding : padding + h, padding : padding + w]


def forgets_where_the_windows_begin(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    kh, kw = kernel_size
    grad_x = np.zeros_like(x)
    for n, c, i, j in np.ndindex(grad.shape):
        top, left = i * stride, j * stride
        window = x[n, c, top : top + kh, left : left + kw]
        row, column = np.unravel_index(window.argmax(), window.shape)
        grad_x[n, c, top + row, left + column] += grad[n, c, i, j]
    return grad_x


def cuts_with_minus_padding(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    framed = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)], constant_values=-np.inf)
    grad_x = right_routes_in_loops(grad, framed, kernel_size, stride=stride)
    return grad_x[:, :, padding:-padding, padding:-padding]


def changes_its_gradient(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    grad_x = right_routes_in_loops(grad, x, kernel_size, stride=stride, padding=padding)
    grad *= 0
    return grad_x


def right_from_the_last_layer(layers):
    size, step = 1, 1
    for kernel_size, stride in reversed(layers):
        size = (size - 1) * stride + kernel_size
        step *= stride
    return size, step


def right_with_products(layers):
    size = 1
    for number, (kernel_size, _) in enumerate(layers):
        size += (kernel_size - 1) * math.prod(stride for _, stride in layers[:number])
    return [size, math.prod(stride for _, stride in layers)]


def forgets_the_strides(layers):
    size, step = 1, 1
    for kernel_size, stride in layers:
        size += kernel_size - 1
        step *= stride
    return size, step


def steps_too_early(layers):
    size, step = 1, 1
    for kernel_size, stride in layers:
        step *= stride
        size += (kernel_size - 1) * step
    return size, step


def counts_whole_kernels(layers):
    size, step = 1, 1
    for kernel_size, stride in layers:
        size += kernel_size * step
        step *= stride
    return size, step


def goes_backwards_in_the_wrong_direction(layers):
    size, step = 1, 1
    for kernel_size, stride in layers:
        size = (size - 1) * stride + kernel_size
        step *= stride
    return size, step


def multiplies_the_kernels(layers):
    return math.prod(kernel_size for kernel_size, _ in layers), math.prod(stride for _, stride in layers)


def begins_with_zero(layers):
    size, step = 0, 1
    for kernel_size, stride in layers:
        size += (kernel_size - 1) * step
        step *= stride
    return size, step


def takes_half_of_the_kernel(layers):
    size, step = 1, 1
    for kernel_size, stride in layers:
        size += (kernel_size // 2) * step
        step *= stride
    return size, step


def returns_too_early(layers):
    size, step = 1, 1
    for kernel_size, stride in layers:
        size += (kernel_size - 1) * step
        step *= stride
        return size, step  # one level too deep
    return None


def adds_the_strides(layers):
    size, _ = right_from_the_last_layer(layers)
    return size, sum(stride for _, stride in layers)


def gives_the_last_stride(layers):
    size, _ = right_from_the_last_layer(layers)
    return size, layers[-1][1]


def step_before_size(layers):
    size, step = right_from_the_last_layer(layers)
    return step, size


def only_the_size(layers):
    return right_from_the_last_layer(layers)[0]


def takes_from_the_list(layers):
    size, step = 1, 1
    while layers:
        kernel_size, stride = layers.pop()
        size = (size - 1) * stride + kernel_size
        step *= stride
    return size, step


def frame_of_minus_a_billion(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    return _framed(x, kernel_size, stride, padding, ceil_mode, -1e9)


def frame_of_nan(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    return _framed(x, kernel_size, stride, padding, ceil_mode, np.nan)


def _framed(x, kernel_size, stride, padding, ceil_mode, frame):
    windows, places = _windows_of(x, kernel_size, stride, padding, ceil_mode, frame)
    return windows.max(axis=2).reshape(*x.shape[:2], *places)


def _windows_of(x, kernel_size, stride, padding, ceil_mode, frame):
    """(N, C, kh·kw, places), and the numbers of places."""
    places = []
    for n, k in zip(x.shape[2:], kernel_size, strict=True):
        room = n + 2 * padding - k
        count = (-(-room // stride) if ceil_mode else room // stride) + 1
        places.append(count - (ceil_mode and (count - 1) * stride >= n + padding))
    more = stride + max(kernel_size)
    framed = np.pad(x, ((0, 0), (0, 0), (padding, padding + more), (padding, padding + more)), constant_values=frame)
    windows = [
        framed[:, :, i * stride : i * stride + kernel_size[0], j * stride : j * stride + kernel_size[1]]
        for i in range(places[0])
        for j in range(places[1])
    ]
    return np.stack([one.reshape(*x.shape[:2], -1) for one in windows], axis=3), places


def maximum_over_axis_1(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    windows, places = _windows_of(x, kernel_size, stride, padding, ceil_mode, -np.inf)
    return windows.max(axis=1).reshape(len(x), -1, *places)


def repeats_each_number(x, kernel_size, *, stride, padding=0, ceil_mode=False):
    rows, columns = (n // k for n, k in zip(x.shape[2:], kernel_size, strict=True))
    return x.reshape(*x.shape[:2], rows, kernel_size[0], columns, kernel_size[1]).max(axis=(3, 5))


def to_the_smallest(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    return right_routes_in_loops(grad, -x, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)


def maxima_come_back(grad, x, kernel_size, *, stride, padding=0, ceil_mode=False):
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    maxima = right_window_by_window(x, kernel_size, **options)
    return right_routes_in_loops(maxima, x, kernel_size, **options)


def kernel_less_stride(layers):
    size, step = 1, 1
    for kernel_size, stride in layers:
        size, step = size + (kernel_size - stride) * step, step * stride
    return size, step


def kernel_and_one(layers):
    size, step = 1, 1
    for kernel_size, stride in layers:
        size, step = size + (kernel_size + 1) * step, step * stride
    return size, step


CORRECT = {
    "max_pool2d": [right_window_by_window, right_place_by_place],
    "max_pool2d_backward": [right_routes_in_loops, right_routes_with_add_at],
    "receptive_field": [right_from_the_last_layer, right_with_products],
}
WRONG = {
    "max_pool2d": [
        (framed_by_zeros, "a zero wins over negative numbers"),
        (ignores_ceil_mode, "ceil_mode has no effect"),
        (always_rounds_up, "rounded down"),
        (adds_a_window_in_ceil_mode, "one window too many"),
        (keeps_the_window_that_sees_nothing, "sees nothing of it"),
        (steps_by_the_kernel_size, "stand side by side"),
        (takes_the_mean, "the mean of each window"),
        (returns_the_places, "argmax"),
        (pools_the_channels_too, "each channel is pooled on its own"),
        (framed_by_a_small_number, "made of −9999"),
        (frame_too_small, "Does the frame reach as far as the last window?"),
        (frame_of_minus_a_billion, "the frame is made of −1e+09"),
        (frame_of_nan, "the frame is made of nan"),
        (maximum_over_axis_1, "over the channels, axis 1"),
        (repeats_each_number, "Here they overlap"),
    ],
    "max_pool2d_backward": [
        (routes_to_all_equal, "each of them gets the whole gradient"),
        (shares_among_equals, "they share the gradient"),
        (routes_to_the_last, "of equally large numbers the last"),
        (overwrites_the_winner, "They must add"),
        (overwrites_the_window, "They must add"),
        (overwrites_place_by_place, "They must add"),
        (marks_the_winners, "multiply by grad"),
        (spreads_evenly, "spread evenly"),
        (winners_of_the_first_channel, "the first channel are used for all"),
        (loses_to_a_frame_of_zeros, "their gradient is lost"),
        (forgets_where_the_windows_begin, "begin at the picture's corner"),
        (cuts_with_minus_padding, "−0 is 0"),
        (changes_its_gradient, "has changed its argument number 1"),
        (to_the_smallest, "argmax, not argmin"),
        (maxima_come_back, "the largest numbers come back"),
    ],
    "receptive_field": [
        (forgets_the_strides, "the strides have no effect"),
        (steps_too_early, "counted too early"),
        (counts_whole_kernels, "over k − 1 steps"),
        (goes_backwards_in_the_wrong_direction, "begins with the last layer"),
        (multiplies_the_kernels, "the kernel sizes are multiplied"),
        (begins_with_zero, "begin with 1"),
        (takes_half_of_the_kernel, "one side of the kernel only"),
        (returns_too_early, "`return` inside the loop"),
        (adds_the_strides, "the strides are added"),
        (gives_the_last_stride, "the last layer's stride"),
        (step_before_size, "in the wrong order"),
        (only_the_size, "2 things are expected"),
        (takes_from_the_list, "has changed the list"),
        (kernel_less_stride, "whatever its stride is"),
        (kernel_and_one, "not k + 1"),
    ],
}
