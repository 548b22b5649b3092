"""How often each class occurs, and the weights for the loss that follow from it.

Where three quarters of the pixels are background, so are most terms of the loss. A weight for each class makes up for
that: rare classes are found more often (class accuracy rises), and common ones pay for it (pixel accuracy falls). On
PASCAL VOC, Long et al. 2015 (section 4.3) found it unnecessary; on CamVid it is common practice.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minifcn.data.masks import check_labels
from minifcn.data.sample import VOID, Dataset
from minifcn.data.transforms import resize
from minifcn.errors import DataError, UsageError

WEIGHTINGS = ("median-frequency", "inverse-frequency")


class PixelCounts(NamedTuple):
    """Pixels of a data set, class by class, void left out.

    pixels: int64 (C,), labelled with each class.
    around: int64 (C,), labelled with any class in the images that contain this one.
    """

    pixels: np.ndarray
    around: np.ndarray

    @property
    def absent(self) -> list[int]:
        """The numbers of the classes that never occur."""
        return np.flatnonzero(self.pixels == 0).tolist()


def count_pixels(
    dataset: Dataset,
    *,
    size: int | tuple[int, int] | None = None,
    most: int | None = None,
    progress: Callable[[Any], Any] = iter,
    skip: Callable[[str], None] | None = None,
) -> PixelCounts:
    """Count the labels of a data set, reading each sample once.

    size: (height, width) to scale samples to first, as in training, where thin things lose pixels.
    most: read no more samples than this, spread evenly over the data set, and always the same ones; by default all.
    progress: wraps the iterator (tqdm). skip: told of samples that cannot be read, which are left out; by default the
    first one's error is raised. Raises DataError, naming the sample, for a label that is no class.
    """
    if most is not None and most < 1:
        raise UsageError(f"count_pixels: most is {most}; at least 1 sample is needed.")
    read = len(dataset) if most is None else min(most, len(dataset))
    pixels = np.zeros(len(dataset.classes), np.int64)
    around = np.zeros_like(pixels)
    for number in progress(range(read)):
        try:
            sample = dataset[number * len(dataset) // read]
        except DataError as error:
            if skip is None:
                raise
            skip(str(error))
            continue
        labels = (sample if size is None else resize(sample, size)).labels
        check_labels(Path(sample.name), labels, len(pixels))
        here = np.bincount(labels[labels != VOID], minlength=len(pixels))
        pixels += here
        around[here > 0] += here.sum()
    return PixelCounts(pixels, around)


def class_frequencies(counts: PixelCounts) -> np.ndarray:
    """float64 (C,): a class's pixels over the labelled pixels of the images that contain it; NaN if there are none.

    So a class that fills a tenth of every third image has frequency 0.1, not 0.03: rare is what is small where it is.
    Source: Eigen and Fergus 2015; SegNet (Badrinarayanan et al. 2017) uses the same.
    """
    present = counts.pixels > 0
    return np.divide(counts.pixels, counts.around, out=np.full(present.shape, np.nan), where=present)


def class_weights(counts: PixelCounts, weighting: str) -> np.ndarray:
    """float32 (C,): a weight for each class, inversely proportional to its frequency.

    weighting: "median-frequency" divides the median of the frequencies by each, so that the median class has weight 1
      exactly; of an even number of classes the lower one of the two in the middle is the median.
      "inverse-frequency" scales the same proportions so that the mean weight of a labelled pixel is 1, as the
      "balanced" weights of scikit-learn: a summed loss stays as large as it was, and its learning rate fits.
      With the mean reduction, which divides by the sum of the weights, the two are the same loss.

    A class that never occurs (`counts.absent`) has weight 0 and does not take part in the median; if `most` left it
    out, it would never be learnt: read more.
    Raises UsageError for another weighting, DataError if no pixel is labelled at all.
    """
    if weighting not in WEIGHTINGS:
        raise UsageError(f"class weights {weighting!r}: choose one of {', '.join(WEIGHTINGS)}.")
    present = counts.pixels > 0
    if not present.any():
        raise DataError("class weights: no pixel has a label, so there is nothing to weigh. Are these the right masks?")
    frequencies = class_frequencies(counts)[present]
    weights = np.zeros(len(present), np.float32)
    if weighting == "median-frequency":
        weights[present] = np.sort(frequencies)[(len(frequencies) - 1) // 2] / frequencies
    else:
        weights[present] = counts.pixels.sum() / (counts.pixels[present] / frequencies).sum() / frequencies
    return weights
