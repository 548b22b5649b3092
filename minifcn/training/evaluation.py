"""Evaluation: what a trained network makes of pictures, and how good that is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from minifcn import models, weights
from minifcn.autograd.tensor import Tensor, no_grad
from minifcn.data import Dataset, Loader
from minifcn.errors import UsageError
from minifcn.metrics import Evaluation
from minifcn.models import FCN
from minifcn.nn import Module
from minifcn.weights import Preprocessing, WeightFile


def predict_labels(model: Module, images: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The class with the highest score at each pixel: float32 (N, C, H, W) -> uint8 (N, H, W). Sets eval mode."""
    model.eval()
    with no_grad():
        scores = model(Tensor(images, device=device))
    return scores.backend.to_numpy(scores.data.argmax(axis=1)).astype(np.uint8)


def evaluate(
    model: Module,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    progress: Callable[[Any], Any] = iter,
) -> Evaluation:
    """Predict a whole data set and count, in one confusion matrix, what became of each pixel.

    size: scale images and masks to it first. Pictures of one size go through together; those of unequal sizes one by
    one, since a picture padded to its neighbours' size would see the padding. progress: wraps the iterator (tqdm).
    """
    result = Evaluation(len(dataset.classes))
    loader = Loader(dataset, batch_size, normalise=preprocessing.apply, size=size, shuffle=False)
    for batch in progress(loader.epoch(0)):
        if len(set(batch.sizes)) == 1:
            result.update(batch.labels, predict_labels(model, batch.images, device))
            continue
        for image, labels, (height, width) in zip(batch.images, batch.labels, batch.sizes, strict=True):
            prediction = predict_labels(model, image[None, :, :height, :width], device)[0]
            result.update(labels[:height, :width], prediction)
    return result


def label_pixels(
    model: Module,
    image: np.ndarray,
    preprocessing: Preprocessing,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """The class of each pixel of a uint8 (H, W, 3) picture, as uint8 (H, W).

    size: what the picture is scaled to for the network; the scores are scaled back before the best class is chosen, so
    that borders are as smooth as the network sees them.
    """
    height, width = image.shape[:2]
    if size is not None and size != (height, width):
        image = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    model.eval()
    with no_grad():
        scores = model(Tensor(preprocessing.apply(image)[None], device=device)).numpy()[0]  # (C, h, w)
    if scores.shape[1:] == (height, width):
        return scores.argmax(axis=0).astype(np.uint8)
    best, labels = np.full((height, width), -np.inf, np.float32), np.zeros((height, width), np.uint8)
    for number, score in enumerate(scores):  # class by class, so that a large picture needs no C planes of its size
        plane = np.asarray(Image.fromarray(score).resize((width, height), Image.Resampling.BILINEAR))
        labels[plane > best] = number
        np.maximum(best, plane, out=best)
    return labels


def load_segmenter(path: str | os.PathLike[str], device: str = "cpu") -> tuple[FCN, WeightFile]:
    """The network in a weight file, ready to label pixels, and the file's record; UsageError for a classifier."""
    file = weights.load(path)
    model = models.from_weights(path, file)
    if not isinstance(model, FCN):
        raise UsageError(f"{os.fspath(path)}: holds a classifier, which labels pictures, not pixels.")
    return model.to(device), file


def training_size(file: WeightFile) -> tuple[int, int] | None:
    """What pictures were scaled to in training, (height, width), or None if they kept their sizes."""
    match file.record.get("size"):
        case [int(height), int(width)] if height > 0 and width > 0:
            return height, width
    return None
