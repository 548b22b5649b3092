"""How far would a figure move with other images? The percentile bootstrap.

From the N images there are, N are drawn with replacement, their pixels are counted together, and the figure is computed
anew; over a thousand such resamples, the middle 95 % of the values are the interval (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 13). Images are drawn, not pixels: neighbouring pixels are right or wrong
together, so that an interval over pixels would be far too narrow.

A class that is absent from a resample drops out of its means, as it does from those of any set: with classes that only
few images show, the interval of a mean IU reaches far up.

What it does not know: that images resemble one another (the frames of a film), which makes it too narrow, and how
another training run would come out. Of few images, or of a class that few of them show, it is too narrow as well: in
simulations, 95 % intervals held the true figure for about 93 % of the sets of 50 images, 90 % of those of 20, and 80 %
of those of 5.
"""

from __future__ import annotations

import numpy as np

from minifcn.errors import UsageError
from minifcn.metrics.confusion import ClassCounts

FEW_IMAGES = 20  # below, an interval says so
_BLOCK = 100  # resamples drawn at once, so that memory does not grow with their number

Interval = tuple[float, float]
"""(low, high), fractions as the figure itself."""


def resample(
    images: ClassCounts, boundaries: ClassCounts, resamples: int, rng: np.random.Generator
) -> tuple[ClassCounts, ClassCounts]:
    """Two counts of the same N images, (N, C) each -> their sums over resamples of the images, (resamples, C) each."""
    count = len(images.correct)
    parts = [part for one in (images, boundaries) for part in (one.correct, one.labelled, one.predicted)]
    table = np.concatenate(parts, axis=1).astype(np.float64)  # (N, 6·C); float64 for a product that is fast and exact
    sums = []
    for first in range(0, resamples if count else 0, _BLOCK):
        block = min(_BLOCK, resamples - first)
        drawn = rng.integers(count, size=(block, count)) + count * np.arange(block)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=block * count).reshape(block, count)  # that each image was drawn
        sums.append(times.astype(np.float64) @ table)  # (block, N) @ (N, 6·C) -> (block, 6·C)
    columns = np.split(np.concatenate([table[:0], *sums]), 6, axis=1)
    return ClassCounts(*columns[:3]), ClassCounts(*columns[3:])


def percentile_interval(values: np.ndarray, images: int, confidence: float) -> Interval | None:
    """The middle `confidence` of a figure's values over the resamples, (resamples,), of those that are numbers.

    images: to how many images the figure owes its value. With fewer than two there is no interval: None.
    """
    values = values[~np.isnan(values)]  # a class may be absent from a resample
    if images < 2 or values.size == 0:
        return None
    tail = 50 * (1 - confidence)  # per cent
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def check_confidence(confidence: float) -> None:
    """UsageError unless it lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence {confidence}: must lie between 0 and 1, such as 0.95.")
