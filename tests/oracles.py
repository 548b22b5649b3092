"""Slow, obvious definitions of the operations, written as the sums in the textbooks: one loop for each letter.

Nothing here is shared with the library: no matrix product, no sliding windows, no sparse matrix, so that the two can
only agree by both being right. Every size is (height, width) and every argument is a pair.
"""

import itertools
import math
from typing import Any

import numpy as np

Pair = tuple[int, int]


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """How many windows fit, counted by moving one along instead of by the formula."""
    counts = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        starts = [start for start in range(-p, n + p, s) if start + d * (k - 1) <= n + p - 1]
        counts.append(len(starts))
    return counts[0], counts[1]


def _pixel(position: Pair, tap: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    row, column = (a * s - p + i * d for a, i, s, p, d in zip(position, tap, stride, padding, dilation, strict=True))
    return row, column


def _inside(pixel: Pair, size: Pair) -> bool:
    return 0 <= pixel[0] < size[0] and 0 <= pixel[1] < size[1]


def conv2d(
    x: np.ndarray, weight: np.ndarray, bias: Any, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> np.ndarray:
    (batch, _, *size), (out_channels, in_group, *kernel) = x.shape, weight.shape
    out_group = out_channels // groups
    counts = output_size(tuple(size), tuple(kernel), stride, padding, dilation)
    y = np.zeros((batch, out_channels, *counts))
    for n, o, c in itertools.product(range(batch), range(out_channels), range(in_group)):
        source = o // out_group * in_group + c
        for position in itertools.product(*map(range, counts)):
            for tap in itertools.product(*map(range, kernel)):
                pixel = _pixel(position, tap, stride, padding, dilation)
                if _inside(pixel, tuple(size)):
                    y[(n, o, *position)] += weight[(o, c, *tap)] * x[(n, source, *pixel)]
    return y if bias is None else y + bias[:, None, None]


def conv_transpose2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: Any,
    *,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """Each input number stamps the kernel, times itself, onto the output."""
    (batch, channels, *size), (_, out_group, *kernel) = x.shape, weight.shape
    in_group = channels // groups
    height, width = (
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, k, s, p, d, extra in zip(size, kernel, stride, padding, dilation, output_padding, strict=True)
    )
    y = np.zeros((batch, out_group * groups, height, width))
    for n, c, o in itertools.product(range(batch), range(channels), range(out_group)):
        target = c // in_group * out_group + o
        for position in itertools.product(*map(range, size)):
            for tap in itertools.product(*map(range, kernel)):
                pixel = _pixel(position, tap, stride, padding, dilation)
                if _inside(pixel, (height, width)):
                    y[(n, target, *pixel)] += weight[(c, o, *tap)] * x[(n, c, *position)]
    return y if bias is None else y + bias[:, None, None]


def im2col(x: np.ndarray, kernel: Pair, *, stride: Pair, padding: Pair, dilation: Pair) -> np.ndarray:
    batch, channels, *size = x.shape
    counts = output_size(tuple(size), kernel, stride, padding, dilation)
    columns = np.zeros((batch, channels, *kernel, *counts), x.dtype)
    for position in itertools.product(*map(range, counts)):
        for tap in itertools.product(*map(range, kernel)):
            pixel = _pixel(position, tap, stride, padding, dilation)
            if _inside(pixel, tuple(size)):
                columns[(slice(None), slice(None), *tap, *position)] = x[(slice(None), slice(None), *pixel)]
    return columns.reshape(batch, channels * math.prod(kernel), math.prod(counts))


def col2im(columns: np.ndarray, size: Pair, kernel: Pair, *, stride: Pair, padding: Pair, dilation: Pair) -> np.ndarray:
    batch, channels = columns.shape[0], columns.shape[1] // math.prod(kernel)
    counts = output_size(size, kernel, stride, padding, dilation)
    columns = columns.reshape(batch, channels, *kernel, *counts)
    x = np.zeros((batch, channels, *size), columns.dtype)
    for position in itertools.product(*map(range, counts)):
        for tap in itertools.product(*map(range, kernel)):
            pixel = _pixel(position, tap, stride, padding, dilation)
            if _inside(pixel, size):
                x[(slice(None), slice(None), *pixel)] += columns[(slice(None), slice(None), *tap, *position)]
    return x


def pooled_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool) -> Pair:
    """Windows counted one by one. In ceil mode one may hang over the far edge, unless it starts in the padding."""
    counts = []
    for n, k, s, p in zip(size, kernel, stride, padding, strict=True):
        start, count = -p, 0
        while start + k <= n + p:
            count, start = count + 1, start + s
        covered = start - s + k if count else -p
        if ceil_mode and covered < n + p and start < n:
            count += 1
        counts.append(count)
    return counts[0], counts[1]


def max_pool2d(
    x: np.ndarray, kernel: Pair, *, stride: Pair, padding: Pair, ceil_mode: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values, and for each the place of the winner in its image: the first of equals; a NaN wins over everything."""
    batch, channels, *size = x.shape
    counts = pooled_size(tuple(size), kernel, stride, padding, ceil_mode)
    values = np.zeros((batch, channels, *counts), x.dtype)
    indices = np.zeros((batch, channels, *counts), np.int64)
    for n, c in itertools.product(range(batch), range(channels)):
        for position in itertools.product(*map(range, counts)):
            best, winner = -math.inf, -1
            for tap in itertools.product(*map(range, kernel)):
                row, column = _pixel(position, tap, stride, padding, (1, 1))
                if not _inside((row, column), tuple(size)):
                    continue
                number = float(x[n, c, row, column])
                if winner < 0 or number > best or math.isnan(number):
                    best, winner = number, row * size[1] + column
            values[(n, c, *position)], indices[(n, c, *position)] = best, winner
    return values, indices


def softmax_cross_entropy(
    logits: np.ndarray, labels: np.ndarray, *, weight: Any, ignore_index: int | None, reduction: str, mask: Any
) -> np.ndarray:
    losses, weights = np.zeros(labels.shape), np.zeros(labels.shape)
    for place in np.ndindex(labels.shape):
        label = int(labels[place])
        if label == ignore_index:
            continue
        scores = [float(logits[(place[0], c, *place[1:])]) for c in range(logits.shape[1])]
        largest = max(scores)
        log_sum = largest + math.log(sum(math.exp(score - largest) for score in scores))
        weights[place] = (1.0 if weight is None else weight[label]) * (1.0 if mask is None else mask[place])
        losses[place] = weights[place] * (log_sum - scores[label])
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    return total / weights.sum() if weights.sum() > 0 else np.zeros(())
