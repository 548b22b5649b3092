"""Patches with one class: what a classifier learns from, cut out of pictures whose every pixel has a label."""

import numpy as np

from minifcn.data.sample import VOID, Sample, as_size
from minifcn.data.transforms import IMAGENET_MEAN
from minifcn.errors import UsageError


class CentrePatch:
    """CentrePatch(size)(sample, rng) -> the patch around a random pixel, labelled with that pixel's class throughout.

    This is how networks were trained for segmentation before FCN (Ciresan et al. 2012; Farabet et al. 2013): one patch
    and one label at a time. The class is drawn first, each that the picture holds as likely as the others, then one of
    its pixels. Outside the picture there is `fill`. A picture that is void throughout gives a patch that is void.
    Use it as a Loader's `augment`. Raises UsageError for a size that is not positive.
    """

    def __init__(self, size: int | tuple[int, int], fill: tuple[int, int, int] = IMAGENET_MEAN) -> None:
        self.size, self.fill = as_size(size), fill
        if min(self.size) < 1:
            raise UsageError(f"CentrePatch: the size {self.size} is not a positive (height, width).")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        present = np.unique(sample.labels)
        present = present[present != VOID]
        kind = rng.choice(present) if present.size else VOID
        pixels = np.flatnonzero(sample.labels == kind)
        row, column = np.unravel_index(rng.choice(pixels), sample.labels.shape)
        image = patch_around(sample.image, int(row), int(column), self.size, self.fill)
        return Sample(image, np.full(self.size, kind, np.uint8), sample.name)


def patch_around(
    image: np.ndarray, row: int, column: int, size: tuple[int, int], fill: tuple[int, int, int] = IMAGENET_MEAN
) -> np.ndarray:
    """The part (height, width) of an image (H, W, 3) around a pixel: rows row − ⌊(height−1)/2⌋ to row + ⌊height/2⌋,
    and likewise columns, so that an odd size has the pixel in its middle. Outside the image there is `fill`.
    """
    patch = np.empty((*size, 3), np.uint8)
    patch[:] = fill
    top, left = row - (size[0] - 1) // 2, column - (size[1] - 1) // 2
    inside = image[max(top, 0) : top + size[0], max(left, 0) : left + size[1]]
    down, right = max(-top, 0), max(-left, 0)
    patch[down : down + inside.shape[0], right : right + inside.shape[1]] = inside
    return patch
