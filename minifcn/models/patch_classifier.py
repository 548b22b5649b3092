"""The patch classifier: what segmentation was before fully convolutional networks.

A classifier looks at a patch and says what its centre pixel is; for a whole picture it is asked again for each pixel,
or for each few. Neighbouring patches are nearly the same picture, so nearly all of the work is done again and again;
a fully convolutional network does it once. `dense_prediction.multiply_adds` counts how much that saves.

Sources: Ciresan et al. 2012; Farabet et al. 2013; Long et al. 2015, section 3.1, for the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minifcn import ops
from minifcn.autograd.tensor import Tensor, no_grad
from minifcn.errors import ShapeError, UsageError
from minifcn.models.dense_prediction import Pair, frame_of_windows
from minifcn.ops.geometry import Size, pair
from minifcn.ops.patches import check_images


class PatchClassifier:
    """A classifier applied to the patch around every stride-th pixel: (N, C, H, W) -> (N, K, ⌈H/stride⌉, ⌈W/stride⌉).

    classifier: patches (n, C, height, width) -> logits (n, K) or (n, K, 1, 1). patch_size: of the patches, for which
    `patches_around` says where they lie. batch_size: how many go through the classifier at once.
    Score (i, j) belongs to the pixel (stride·i, stride·j).

    With `dense_prediction.unpadded(network)` and its receptive field, and the network's stride, these are the logits of
    the fully convolutional network, `framed(network)`. With a classifier that pads, such as a VGG on patches of 224,
    they are not: it sees zeros around every patch, where the large network sees the pixels that are there.
    For prediction: nothing is recorded.
    """

    def __init__(
        self, classifier: Callable[[Tensor], Tensor], patch_size: Size, *, stride: Size = 1, batch_size: int = 16
    ) -> None:
        self.classifier = classifier
        self.patch_size = pair("PatchClassifier: patch_size", patch_size, minimum=1)
        self.stride = pair("PatchClassifier: stride", stride, minimum=1)
        if batch_size < 1:
            raise UsageError(f"PatchClassifier: batch_size={batch_size} must be at least 1.")
        self.batch_size = batch_size

    def __call__(self, images: Tensor) -> Tensor:
        check_images("PatchClassifier", images)
        xp, (step_h, step_w) = images.backend.xp, self.stride
        grid = len(images.data), -(-images.shape[2] // step_h), -(-images.shape[3] // step_w)
        centres = np.argwhere(np.ones(grid, bool)) * (1, step_h, step_w)  # (N·rows·columns, 3), in reading order
        logits = []
        with no_grad():
            padded = ops.pad(images, frame_of_windows(self.patch_size))
            for first in range(0, len(centres), self.batch_size):
                batch = centres[first : first + self.batch_size]
                logits.append(self.classifier(_cut(padded, batch, self.patch_size)).data.reshape(len(batch), -1))
        maps = xp.concatenate(logits).reshape(*grid, -1).transpose(0, 3, 1, 2)  # (N, rows, columns, K) -> (N, K, …)
        return Tensor(xp.ascontiguousarray(maps), device=images.device)


def patches_around(images: Tensor, labels: Any, centres: np.ndarray, size: Size) -> tuple[Tensor, np.ndarray]:
    """Patches of a batch with the labels of their centre pixels, to train a patch classifier on.

    images: (N, C, H, W). labels: (N, H, W), an integer array or Tensor. centres: (n, 3) integers, each the number of an
    image, a row and a column; `np.argwhere(labels != 255)` lists all that are not void, to draw from.
    size: of the patches. Around pixel (y, x), one of R rows has those from y − ⌊(R−1)/2⌋ to y + ⌊R/2⌋, zeros beyond
    the image, and likewise columns: an odd R has the pixel in its middle.
    Returns the patches (n, C, height, width) and their labels (n,), a host array. Raises ShapeError for labels of
    another size or centres outside the images.
    """
    check_images("patches_around", images)
    size = pair("patches_around: size", size, minimum=1)
    labels, centres = labels.numpy() if isinstance(labels, Tensor) else np.asarray(labels), np.asarray(centres)
    whole = (images.shape[0], *images.shape[2:])
    if labels.shape != whole:
        raise ShapeError(f"patches_around: images of {tuple(images.shape)} need labels of {whole}, not {labels.shape}.")
    if centres.ndim != 2 or centres.shape[1] != 3 or len(centres) < 1 or centres.dtype.kind not in "iu":
        raise ShapeError(
            f"patches_around: centres are {centres.dtype} of shape {centres.shape}; integers of shape (n, 3) are "
            "expected, one or more rows of image, row, column."
        )
    outside = ((centres < 0) | (centres >= whole)).any(axis=1)
    if outside.any():
        raise ShapeError(
            f"patches_around: the centre {tuple(map(int, centres[outside][0]))} lies outside {whole}, the number of "
            "images, rows and columns."
        )
    return _cut(ops.pad(images, frame_of_windows(size)), centres, size), labels[tuple(centres.T)]


def _cut(padded: Tensor, centres: np.ndarray, size: Pair) -> Tensor:
    """Patches (n, C, height, width). The frame has moved every pixel to the first row and column of its own patch."""
    patches = [padded.data[n, :, row : row + size[0], column : column + size[1]] for n, row, column in centres.tolist()]
    return Tensor(padded.backend.xp.stack(patches), device=padded.device)
