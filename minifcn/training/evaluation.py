"""Evaluation: what a trained network makes of pictures, and how good that is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minifcn import models, ops, visualize, weights
from minifcn.autograd.tensor import Tensor, no_grad
from minifcn.backend import Array, get_backend
from minifcn.data import VOID, Dataset, Loader, resize
from minifcn.errors import UsageError
from minifcn.files import to_json, write_atomically
from minifcn.metrics import Evaluation, confusion_csv, images_csv
from minifcn.models import FCN, FCNBasic
from minifcn.nn import Module
from minifcn.weights import Preprocessing, WeightFile


def predict_labels(model: Module, images: Array, device: str = "cpu") -> np.ndarray:
    """The class with the highest score at each pixel: float32 (N, C, H, W) -> uint8 (N, H, W). Sets eval mode.

    images: on the host, or on the device already.
    """
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
    boundary_width: int = 3,
    ignore_label: int | None = None,
    progress: Callable[[Any], Any] = iter,
    skip: Callable[[str], None] | None = None,
) -> Evaluation:
    """Predict a whole data set and count what became of each pixel, in all and image by image.

    The weights are read-only meanwhile, see ops.keep_filters.
    size: scale images and masks to it first. Pictures of one size go through together; those of unequal sizes one by
    one, since a picture padded to its neighbours' size would see the padding. boundary_width: of the band for the
    boundary IU, in pixels. ignore_label: pixels of this label do not count either; void never does. progress: wraps the
    iterator (tqdm). skip: told of pictures that cannot be read, which are left out; see Loader.
    """
    result = Evaluation(len(dataset.classes), boundary_width, ignore_index=VOID)
    loader = Loader(dataset, batch_size, normalise=preprocessing.apply, size=size, shuffle=False, skip=skip)
    with ops.keep_filters(model.parameters()):
        for batch in progress(loader.epoch(0, upload=get_backend(device).upload)):
            images, truths = batch.uploaded(), _with_void(batch.labels, ignore_label)
            if len(set(batch.sizes)) == 1:
                result.update(truths, predict_labels(model, images, device), batch.names)
                continue
            for image, truth, name, (height, width) in zip(images, truths, batch.names, batch.sizes, strict=True):
                prediction = predict_labels(model, image[None, :, :height, :width], device)[0]
                result.update(truth[:height, :width], prediction, [name])
    return result


def worst_sheet(
    model: Module,
    dataset: Dataset,
    preprocessing: Preprocessing,
    result: Evaluation,
    *,
    count: int = 20,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    ignore_label: int | None = None,
) -> np.ndarray | None:
    """The images with the lowest mean IU, the worst first: image, truth and prediction with the name: uint8 (h, w, 3).

    result: what `evaluate` gave for the same model, data and options. They are predicted once more, since to keep all
    predictions would take the memory of the data set. None if there is no image of which a pixel counts.
    """
    images, truths, predictions, captions = [], [], [], []
    mean_ius = result.images.mean_iu
    for index in result.worst(count):
        sample = dataset[index] if size is None else resize(dataset[index], size)
        images.append(sample.image)
        truths.append(_with_void(sample.labels, ignore_label))
        predictions.append(predict_labels(model, preprocessing.apply(sample.image)[None], device)[0])
        captions.append(f"{sample.name}: mean IU {_percent(mean_ius[index])}")
    if not images:
        return None
    title = f"The worst {len(images)} of {len(result.names)} pictures: image, truth, prediction"
    return visualize.comparison_sheet(
        images, truths, predictions, captions, dataset.classes, dataset.palette, title=title
    )


def write_evaluation(
    out: Path, report: Mapping[str, Any], result: Evaluation, dataset: Dataset, worst: np.ndarray | None
) -> dict[str, str]:
    """Write all there is to know of an evaluation into a folder. Returns the files' names, with what each is.

    report: what report.json is to hold, with the keys of metrics.figures_report. worst: the picture of worst_sheet.
    """
    classes = dataset.classes
    rows = {"": report, f"{report['all_background']['stage']}: ": report["all_background"]}
    caption = "; ".join(
        f"{name}pixel accuracy {_percent(row['pixel_accuracy'])}, mean IU {_percent(row['mean_iu'])}"
        for name, row in rows.items()
    )
    write_atomically(out / "report.json", to_json(report).encode())
    write_atomically(out / "confusion.csv", confusion_csv(result.confusion, classes).encode())
    visualize.save_picture(
        visualize.confusion_picture(result.confusion.counts, classes, caption=caption), out / "confusion.png"
    )
    named = images_csv(result, classes).encode(errors="backslashreplace")  # file names of another encoding
    write_atomically(out / "images.csv", named)
    written = {
        "report.json": "all figures, with their intervals",
        "confusion.csv": "pixels of each true class, by the class predicted",
        "confusion.png": "the same as a picture, each row in per cent",
        "images.csv": "each picture's accuracy, mean IU, and IU of each class",
    }
    if worst is not None:
        visualize.save_picture(worst, out / "worst.png")
        written["worst.png"] = "the pictures with the lowest mean IU: image, truth, prediction"
    return written


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f} %"


def _with_void(labels: np.ndarray, ignore_label: int | None) -> np.ndarray:
    """The labels with void in the place of one of them."""
    return labels if ignore_label is None else np.where(labels == ignore_label, np.uint8(VOID), labels)


def load_segmenter(path: str | os.PathLike[str], device: str = "cpu") -> tuple[FCN | FCNBasic, WeightFile]:
    """The network in a weight file, ready to label pixels, and the file's record; UsageError for a classifier."""
    file = weights.load(path)
    model = models.from_weights(path, file)
    if not isinstance(model, FCN | FCNBasic):
        raise UsageError(
            f"{os.fspath(path)}: holds a classifier, which labels pictures, not pixels. "
            "Train a segmenter from it with python -m minifcn.train --weights."
        )
    return model.to(device), file


def training_size(file: WeightFile) -> tuple[int, int] | None:
    """What pictures were scaled to in training, (height, width), or None if they kept their sizes."""
    match file.record.get("size"):
        case [int(height), int(width)] if height > 0 and width > 0:
            return height, width
    return None
