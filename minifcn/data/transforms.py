"""From samples to the arrays that a network takes: scaling, augmentation, batches. Nothing here changes its input."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from minifcn.data.sample import VOID, Sample, as_size
from minifcn.errors import UsageError

Normalise = Callable[[np.ndarray], np.ndarray]
"""uint8 (H, W, 3) RGB -> float32 (C, H, W), with the mean subtracted: what weights.Preprocessing.apply does."""

IMAGENET_MEAN = (124, 116, 104)  # the mean colour of photographs in RGB, rounded: about 0 after normalisation
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # how bright red, green and blue look (ITU-R BT.601)


def resize(sample: Sample, size: int | tuple[int, int]) -> Sample:
    """Scale to (height, width): the image with bilinear weights, the labels by nearest neighbour, so none is mixed.

    When an image shrinks, the bilinear weights widen accordingly, so that no pixel is skipped.
    """
    height, width = as_size(size)
    if min(height, width) < 1:
        raise UsageError(f"resize: the size {height} × {width} is not positive.")
    if sample.labels.shape == (height, width):
        return sample
    image = Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR)
    labels = Image.fromarray(sample.labels).resize((width, height), Image.Resampling.NEAREST)
    return Sample(np.array(image), np.array(labels), sample.name)


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    image, labels = sample.image[:, ::-1], sample.labels[:, ::-1]
    return Sample(np.ascontiguousarray(image), np.ascontiguousarray(labels), sample.name)


def crop(sample: Sample, top: int, left: int, size: tuple[int, int]) -> Sample:
    """The part of (height, width) whose upper left corner is (top, left), which must lie within the sample."""
    height, width = size
    part = np.s_[top : top + height, left : left + width]
    return Sample(np.ascontiguousarray(sample.image[part]), np.ascontiguousarray(sample.labels[part]), sample.name)


def pad(sample: Sample, size: tuple[int, int], fill: tuple[int, int, int] = IMAGENET_MEAN) -> Sample:
    """Extend at the bottom and the right to at least (height, width): the image with `fill`, the labels with void."""
    height, width = sample.labels.shape
    new_shape = max(height, size[0]), max(width, size[1])
    if new_shape == (height, width):
        return sample
    image = np.empty((*new_shape, 3), dtype=np.uint8)
    image[:] = fill
    image[:height, :width] = sample.image
    labels = np.full(new_shape, VOID, dtype=np.uint8)
    labels[:height, :width] = sample.labels
    return Sample(image, labels, sample.name)


def adjust_color(sample: Sample, brightness: float, contrast: float, saturation: float) -> Sample:
    """Colours multiplied, spread around the picture's mean grey, and spread around each pixel's own grey.

    With b, c, s for the three factors, x a pixel's colour and m the mean grey of the picture:

        x ← b x,   x ← c x + (1 − c) b m,   x ← s x + (1 − s) grey(x)

    which is one affine map, c b (s x + (1 − s) grey(x)) + (1 − c) b m, as a grey stays as it is in the last step. So
    it is rounded and clipped to 0…255 once, at the end. Factors of 1 change nothing.
    """
    mean_grey = (sample.image @ _GREY).mean()
    mix = contrast * brightness * (saturation * np.eye(3) + (1 - saturation) * _GREY[:, None])  # (3, 3), for x @ mix
    image = sample.image.astype(np.float32) @ mix.astype(np.float32)
    image += np.float32((1 - contrast) * brightness * mean_grey)
    return Sample(np.rint(image).clip(0, 255).astype(np.uint8), sample.labels, sample.name)


class Augment:
    """Random changes under which the labels stay true: Augment(…)(sample, rng) -> Sample.

    jitter: brightness, contrast and saturation are multiplied by factors from 1 − jitter to 1 + jitter; the hue stays.
    scale: (smallest, largest) factor; halving is as likely as doubling.  crop: (height, width) of a random part, for
    which too small a sample is first padded with `fill` and void.  flip: mirror left and right every second time.
    All chance comes from `rng`, so that the caller decides what repeats.

    Every place of the crop is as likely as any other, so row y of H lies in a crop of h rows with probability
    (min(y, H − h) − max(0, y − h + 1) + 1) / (H − h + 1), and columns likewise: up to h times as often in the middle as
    at the edge. That is the other way to train on patches; a random mask over the loss (training.segmentation_loss,
    keep_pixels) visits all pixels alike, but has the network compute all of them.
    """

    def __init__(
        self,
        flip: bool = True,
        crop: int | tuple[int, int] | None = None,
        scale: tuple[float, float] | None = None,
        fill: tuple[int, int, int] = IMAGENET_MEAN,
        jitter: float = 0.0,
    ) -> None:
        self.flip, self.scale, self.fill, self.jitter = flip, scale, fill, jitter
        self.crop = None if crop is None else as_size(crop)
        if scale is not None and not 0 < scale[0] <= scale[1]:
            raise UsageError(f"Augment: scale {scale} should be (smallest, largest) factor, both above 0.")
        if self.crop is not None and min(self.crop) < 1:
            raise UsageError(f"Augment: crop {self.crop} is not a positive (height, width).")
        if not 0 <= jitter < 1:
            raise UsageError(f"Augment: jitter {jitter} should be at least 0 and below 1: factors are 1 ± jitter.")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if self.jitter:  # first, so that `fill` stays the mean colour
            brightness, contrast, saturation = rng.uniform(1 - self.jitter, 1 + self.jitter, 3).tolist()
            sample = adjust_color(sample, brightness, contrast, saturation)
        if self.scale is not None:
            factor = math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
            height, width = (max(1, round(factor * side)) for side in sample.labels.shape)
            sample = resize(sample, (height, width))
        if self.crop is not None:
            sample = pad(sample, self.crop, self.fill)
            height, width = sample.labels.shape
            top, left = rng.integers(height - self.crop[0] + 1), rng.integers(width - self.crop[1] + 1)
            sample = crop(sample, int(top), int(left), self.crop)
        if self.flip and rng.integers(2):
            sample = flip(sample)
        return sample


def collate(samples: Sequence[Sample], normalise: Normalise) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Samples of any sizes -> images float32 (N, C, H, W), labels uint8 (N, H, W), and each one's own (height, width).

    H and W are the largest. Smaller samples are padded at the bottom and the right: the image with 0, which is the
    mean once normalised, the labels with void, so that the padding counts neither in the loss nor in the metrics.
    """
    if not samples:
        raise UsageError("collate: there is no sample to make a batch of.")
    images = [normalise(sample.image) for sample in samples]
    sizes = [(sample.labels.shape[0], sample.labels.shape[1]) for sample in samples]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    batch = np.zeros((len(samples), images[0].shape[0], height, width), dtype=np.float32)
    labels = np.full((len(samples), height, width), VOID, dtype=np.uint8)
    for i, (h, w) in enumerate(sizes):
        batch[i, :, :h, :w] = images[i]
        labels[i, :h, :w] = samples[i].labels
    return batch, labels, sizes
