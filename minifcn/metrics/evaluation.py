"""The metrics of a set of images, as a whole and image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minifcn.errors import ShapeError
from minifcn.metrics.bootstrap import Interval, check_confidence, percentile_interval, resample
from minifcn.metrics.boundary import boundary_band
from minifcn.metrics.confusion import ClassCounts, ConfusionMatrix, check_same_shape


@dataclass(frozen=True)
class Intervals:
    """Of each figure the interval, None where there is none: those of summary() by name, of the classes in a list."""

    confidence: float
    figures: dict[str, Interval | None]
    class_accuracy: list[Interval | None]
    class_iu: list[Interval | None]


class Evaluation:
    """One confusion matrix for all pixels and one for those near a border, filled image by image.

    Give each image at its own size: the rim of a padded one, void, would count as a border. names holds that of each
    image; of each image's own matrices only what the metrics need is kept, 6 numbers a class.
    """

    def __init__(self, num_classes: int, boundary_width: int = 3, *, ignore_index: int | None = 255) -> None:
        self.boundary_width = boundary_width
        self.confusion = ConfusionMatrix(num_classes, ignore_index=ignore_index)
        self.boundary = ConfusionMatrix(num_classes, ignore_index=ignore_index)
        self.names: list[str] = []
        self._images: list[ClassCounts] = []
        self._image_boundaries: list[ClassCounts] = []

    def update(self, labels: np.ndarray, predictions: np.ndarray, names: Sequence[str] | None = None) -> None:
        """Add an image (H, W) or images of one size (N, H, W), by default named "image 1", "image 2", ….

        Raises what ConfusionMatrix.update and boundary_band raise, ShapeError for names that are not as many as images.
        After an error the figures are what they were before.
        """
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        check_same_shape(labels, predictions)
        if labels.ndim == 2:
            labels, predictions = labels[np.newaxis], predictions[np.newaxis]  # (H, W) -> (1, H, W)
        if labels.ndim != 3:
            raise ShapeError(
                f"Evaluation.update: labels of shape {labels.shape}; expected (H, W), or (N, H, W) for N images."
            )
        count = len(labels)
        if names is None:
            names = [f"image {len(self.names) + number}" for number in range(1, count + 1)]
        if len(names) != count:
            raise ShapeError(f"Evaluation.update: {len(names)} names for {count} images; give one for each.")
        added = [self._count(*image) for image in zip(labels, predictions, strict=True)]
        for name, (whole, band) in zip(names, added, strict=True):  # nothing can fail from here on
            self.names.append(name)
            self.confusion.counts += whole.counts
            self.boundary.counts += band.counts
            self._images.append(whole.class_counts)
            self._image_boundaries.append(band.class_counts)

    def _count(self, labels: np.ndarray, predictions: np.ndarray) -> tuple[ConfusionMatrix, ConfusionMatrix]:
        """The matrices of one image (H, W): all pixels, and those near a border."""
        num_classes, ignore_index = self.confusion.num_classes, self.confusion.ignore_index
        whole, band = (ConfusionMatrix(num_classes, ignore_index=ignore_index) for _ in range(2))
        near = boundary_band(labels, self.boundary_width, ignore_index=ignore_index)
        whole.update(labels, predictions)
        band.update(labels[near], predictions[near])
        return whole, band

    def __add__(self, other: Evaluation) -> Evaluation:
        """The evaluation of both sets of images together, such as those of the folds of a cross-validation."""
        if self.boundary_width != other.boundary_width:
            raise ShapeError(
                f"cannot add evaluations with bands of {self.boundary_width} and of {other.boundary_width} pixels; "
                "evaluate both with one boundary_width."
            )
        total = Evaluation(self.confusion.num_classes, self.boundary_width, ignore_index=self.confusion.ignore_index)
        total.confusion, total.boundary = self.confusion + other.confusion, self.boundary + other.boundary
        total.names = self.names + other.names
        total._images = self._images + other._images
        total._image_boundaries = self._image_boundaries + other._image_boundaries
        return total

    @property
    def images(self) -> ClassCounts:
        """The counts of each image, int64 (N, C): its metrics are images.mean_iu, float64 (N,), and so on."""
        return ClassCounts.stack(self._images, self.confusion.num_classes)

    @property
    def image_boundaries(self) -> ClassCounts:
        """The counts of each image's pixels near a border, int64 (N, C)."""
        return ClassCounts.stack(self._image_boundaries, self.confusion.num_classes)

    def worst(self, count: int) -> list[int]:
        """The numbers of the images with the lowest mean IU, the worst first; images of nothing but void are none."""
        mean_iu = self.images.mean_iu
        order = np.argsort(mean_iu, kind="stable")  # NaN comes last
        return [int(index) for index in order[:count] if not np.isnan(mean_iu[index])]

    def summary(self) -> dict[str, float]:
        """Fractions: pixel_accuracy, mean_accuracy, mean_iu, fw_iu, and boundary_iu, the mean IU over the band."""
        return {**self.confusion.summary(), "boundary_iu": self.boundary.mean_iu}

    def baseline(self, predicted_class: int = 0) -> dict[str, float]:
        """The same figures for predicting one class everywhere, by default class 0, the background."""
        constant = self.confusion.if_predicted(predicted_class)
        return {**constant.summary(), "boundary_iu": self.boundary.if_predicted(predicted_class).mean_iu}

    def baselines(self, classes: Sequence[str], confidence: float | None = None) -> list[dict[str, Any]]:
        """What a result has to beat, as rows of a table: "stage", a name, and the figures of summary().

        Those of ConfusionMatrix.baseline_classes: all background, and the most frequent class if that is another. With
        a confidence, "intervals" holds an interval for each figure.
        """
        rows: list[dict[str, Any]] = []
        for name, predicted_class in self.confusion.baseline_classes(classes).items():
            rows.append({"stage": name, **self.baseline(predicted_class)})
            if confidence is not None:
                rows[-1]["intervals"] = self.intervals(confidence, predicted_class=predicted_class).figures
        return rows

    def intervals(
        self,
        confidence: float = 0.95,
        *,
        resamples: int = 1000,
        rng: np.random.Generator | None = None,
        predicted_class: int | None = None,
    ) -> Intervals:
        """Bootstrap intervals over the images, for all figures at once; see minifcn.metrics.bootstrap.

        rng: by default one that gives the same interval each time. predicted_class: of the baseline that predicts it
        everywhere, rather than of the predictions. A figure to which fewer than two images contribute has no interval.
        Raises UsageError for a confidence outside 0..1.
        """
        check_confidence(confidence)
        images, boundaries = self.images, self.image_boundaries
        if predicted_class is not None:
            images, boundaries = images.if_predicted(predicted_class), boundaries.if_predicted(predicted_class)
        drawn, drawn_boundaries = resample(
            images, boundaries, resamples, np.random.default_rng(0) if rng is None else rng
        )

        def interval(values: np.ndarray, contributing: Any) -> Interval | None:
            return percentile_interval(values, int(np.count_nonzero(contributing)), confidence)

        figures = {name: interval(values, images.labelled.any(axis=1)) for name, values in drawn.summary().items()}
        figures["boundary_iu"] = interval(drawn_boundaries.mean_iu, boundaries.labelled.any(axis=1))
        occurs = images.labelled + images.predicted  # (N, C)
        classes = range(self.confusion.num_classes)
        return Intervals(
            confidence,
            figures,
            [interval(drawn.class_accuracy[:, c], images.labelled[:, c]) for c in classes],
            [interval(drawn.class_iu[:, c], occurs[:, c]) for c in classes],
        )
