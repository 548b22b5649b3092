"""The pixels near a border, where networks differ most."""

from __future__ import annotations

import numpy as np

from minifcn.errors import ShapeError
from minifcn.metrics.confusion import as_integers


def boundary_band(labels: np.ndarray, width: int, *, ignore_index: int | None = 255) -> np.ndarray:
    """Which pixels lie near a border between two labels?

    labels is an integer array (H, W) or (N, H, W); the result is bool of that shape: True where a pixel with another
    label is at most `width` pixels away, in rows and in columns (Chebyshev distance). Void counts as another label, but
    is not part of the band itself. Nothing beyond the picture's edge counts. Width 0 gives an empty band.

    A metric over such a band (a "trimap") shows what the mean IU of a whole picture hides: how well a network draws
    outlines. The idea is that of Krähenbühl and Koltun (NIPS 2011) and of Csurka et al. (BMVC 2013).

    Raises ShapeError for a negative width or an array without height and width, DtypeError for labels that are not
    integers.
    """
    labels = as_integers("labels", labels)
    if labels.ndim < 2 or width < 0:
        raise ShapeError(
            f"boundary_band: labels of shape {labels.shape} and width {width}; "
            "expected labels (H, W) or (N, H, W) and a width of at least 0 pixels."
        )
    if labels.size == 0:
        return np.zeros(labels.shape, dtype=bool)
    width = min(width, max(labels.shape[-2:]))
    # "edge" repeats the edge's pixels, which lie in the window anyway: so nothing comes in from outside.
    padded = np.pad(labels, [(0, 0)] * (labels.ndim - 2) + [(width, width)] * 2, mode="edge")
    highest = lowest = padded
    for axis in (-2, -1):
        highest = _running(np.maximum, highest, 2 * width + 1, axis)
        lowest = _running(np.minimum, lowest, 2 * width + 1, axis)
    band: np.ndarray = highest != lowest
    return band if ignore_index is None else band & (labels != ignore_index)


def _running(extreme: np.ufunc, values: np.ndarray, window: int, axis: int) -> np.ndarray:
    """The extreme (np.maximum or np.minimum) of each `window` successive values along an axis, which loses window − 1.

    Two windows of n that begin s ≤ n apart together cover one of n + s, so doubling takes log2(window) passes, each at
    the speed of memory: ten times quicker than scipy.ndimage's filters on uint8.
    """
    values = np.moveaxis(values, axis, 0)
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        values = extreme(values[:-step], values[step:])
        covered += step
    return np.moveaxis(values, 0, axis)
