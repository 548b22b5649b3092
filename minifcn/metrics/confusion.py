"""Counts of true and predicted classes, and the metrics that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minifcn.errors import DataError, DtypeError, ShapeError


@dataclass(frozen=True)
class ClassCounts:
    """All that the metrics need of a confusion matrix: three numbers a class; the formulas are those of the package.

    correct (n_ii), labelled (t_i = Σ_j n_ij) and predicted (Σ_j n_ji) are pixels, arrays (..., C) of one shape. The
    axes before the last may count images, or resamples of a set of images: each metric has their shape (...).
    """

    correct: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray

    @property
    def class_accuracy(self) -> np.ndarray:
        """n_ii / t_i, float64 (..., C); NaN for a class that is absent from the truth."""
        return _ratio(self.correct, self.labelled)

    @property
    def class_iu(self) -> np.ndarray:
        """Intersection over union, float64 (..., C); NaN for a class absent from truth and predictions."""
        return _ratio(self.correct, self.labelled + self.predicted - self.correct)

    @property
    def pixel_accuracy(self) -> np.ndarray:
        """The share of pixels predicted correctly, float64 (...); NaN if none were counted."""
        return _ratio(self.correct.sum(axis=-1), self.labelled.sum(axis=-1))

    @property
    def mean_accuracy(self) -> np.ndarray:
        """The mean of class_accuracy over the classes present in the truth, float64 (...)."""
        return _mean_of_numbers(self.class_accuracy)

    @property
    def mean_iu(self) -> np.ndarray:
        """The mean of class_iu over the classes present in the truth or the predictions, float64 (...)."""
        return _mean_of_numbers(self.class_iu)

    @property
    def fw_iu(self) -> np.ndarray:
        """class_iu weighted by how frequent each class is in the truth, float64 (...)."""
        ius = np.where(self.labelled > 0, self.class_iu, 0)  # an absent class has weight 0 but may have no IU
        return _ratio(np.sum(self.labelled * ius, axis=-1), self.labelled.sum(axis=-1))

    def summary(self) -> dict[str, np.ndarray]:
        """The paper's four metrics as fractions: pixel_accuracy, mean_accuracy, mean_iu, fw_iu."""
        return {name: getattr(self, name) for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu")}

    def if_predicted(self, predicted_class: int) -> ClassCounts:
        """The counts that predicting one class everywhere would have given on the same pixels."""
        correct, predicted = np.zeros_like(self.labelled), np.zeros_like(self.labelled)
        correct[..., predicted_class] = self.labelled[..., predicted_class]
        predicted[..., predicted_class] = self.labelled.sum(axis=-1)
        return ClassCounts(correct, self.labelled, predicted)

    @classmethod
    def stack(cls, counts: Sequence[ClassCounts], num_classes: int) -> ClassCounts:
        """The counts of N images, (C,) each, as one of (N, C)."""
        columns = [[getattr(one, name) for one in counts] for name in ("correct", "labelled", "predicted")]
        return cls(*(np.array(column, dtype=np.int64).reshape(-1, num_classes) for column in columns))


class ConfusionMatrix:
    """Counts of (true class, predicted class) over as many images as one likes.

    counts is int64 (C, C): counts[i, j] pixels of class i were predicted as class j, so rows are the truth. Pixels
    whose label is `ignore_index` (255, void; None if every pixel counts) are left out, whatever is predicted there.
    """

    def __init__(self, num_classes: int, *, ignore_index: int | None = 255) -> None:
        if num_classes < 1:
            raise ShapeError(f"ConfusionMatrix: num_classes is {num_classes}, but there must be at least one class.")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Add the pixels of an image or a batch: integer arrays of one shape, (H, W), (N, H, W) or any other.

        Raises ShapeError if the shapes differ, DtypeError if an array is not of integers, DataError if a class lies
        outside 0..C-1. After an error the counts are what they were before.
        """
        labels, predictions = as_integers("labels", labels), as_integers("predictions", predictions)
        check_same_shape(labels, predictions)
        counted = np.ones(labels.shape, dtype=bool) if self.ignore_index is None else labels != self.ignore_index
        self._check_range("label", labels, counted)
        self._check_range("prediction", predictions, counted)
        cells = self.num_classes**2
        pairs = self.num_classes * labels.astype(np.int32) + predictions.astype(np.int32)  # one number for each (i, j)
        # Void pixels go to one more cell, which is dropped: several times quicker than selecting the others.
        pairs = np.where(counted, pairs, np.int32(cells))
        counts = np.bincount(pairs.ravel(), minlength=cells + 1)[:cells]
        self.counts += counts.reshape(self.num_classes, self.num_classes)  # (C·C,) -> (C, C)

    def _check_range(self, what: str, classes: np.ndarray, counted: np.ndarray) -> None:
        wrong = counted & ((classes < 0) | (classes >= self.num_classes))
        if not wrong.any():
            return
        values, counts = np.unique(classes[wrong], return_counts=True)
        others = f" (and {values.size - 1} other such values)" if values.size > 1 else ""
        void = "" if self.ignore_index is None else f" and {self.ignore_index} for void"
        remedy = {
            "label": "Map it to a class or to void, or raise the number of classes.",
            "prediction": "A prediction is the argmax over the class scores; give as many classes as the model has.",
        }[what]
        raise DataError(
            f"{what} {values[0]} in {counts[0]} pixels{others}, but there are {self.num_classes} classes "
            f"(0–{self.num_classes - 1}){void if what == 'label' else ''}. {remedy}"
        )

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The matrix of both sets of images together."""
        if self.num_classes != other.num_classes:
            raise ShapeError(
                f"cannot add confusion matrices of {self.num_classes} and of {other.num_classes} classes; "
                "both must be about the same classes."
            )
        total = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index)
        total.counts = self.counts + other.counts
        return total

    @property
    def class_counts(self) -> ClassCounts:
        """The diagonal, the sums of the rows and those of the columns, int64 (C,) each."""
        return ClassCounts(self.counts.diagonal().copy(), self.counts.sum(axis=1), self.counts.sum(axis=0))

    def if_predicted(self, predicted_class: int) -> ConfusionMatrix:
        """The matrix that predicting one class everywhere would have given on the same pixels."""
        constant = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index)
        constant.counts[:, predicted_class] = self.counts.sum(axis=1)
        return constant

    def baseline_classes(self, classes: Sequence[str]) -> dict[str, int]:
        """The constant predictions that a result has to beat, by name: {"all background": 0, "all road": 3}.

        Class 0 is by convention the background. The most frequent class of the truth, if that is another, is harder to
        beat: many data sets have no background. Where class 0 has a name of its own, that is said as well.
        """
        check_names(classes, self.num_classes)
        unnamed = classes[0].lower() in ("background", "class_0")  # class_0: of masks without a list of classes
        names = {"all background" if unnamed else f"all background ({classes[0]})": 0}
        frequent = int(self.counts.sum(axis=1).argmax())
        return names if frequent == 0 else {**names, f"all {classes[frequent]}": frequent}

    @property
    def class_accuracy(self) -> np.ndarray:
        """See ClassCounts; float64 (C,)."""
        return self.class_counts.class_accuracy

    @property
    def class_iu(self) -> np.ndarray:
        """See ClassCounts; float64 (C,)."""
        return self.class_counts.class_iu

    @property
    def pixel_accuracy(self) -> float:
        """See ClassCounts."""
        return float(self.class_counts.pixel_accuracy)

    @property
    def mean_accuracy(self) -> float:
        """See ClassCounts."""
        return float(self.class_counts.mean_accuracy)

    @property
    def mean_iu(self) -> float:
        """See ClassCounts; others call it mIoU."""
        return float(self.class_counts.mean_iu)

    @property
    def fw_iu(self) -> float:
        """See ClassCounts."""
        return float(self.class_counts.fw_iu)

    def summary(self) -> dict[str, float]:
        """The paper's four metrics as fractions: pixel_accuracy, mean_accuracy, mean_iu, fw_iu."""
        return {name: float(value) for name, value in self.class_counts.summary().items()}


def check_names(classes: Sequence[str], num_classes: int) -> None:
    """ShapeError unless each class has a name."""
    if len(classes) != num_classes:
        raise ShapeError(
            f"{len(classes)} names for the {num_classes} classes of the confusion matrix; give one name for each class."
        )


def check_same_shape(labels: np.ndarray, predictions: np.ndarray) -> None:
    """ShapeError unless each pixel has a label and a prediction."""
    if labels.shape != predictions.shape:
        raise ShapeError(
            f"labels have shape {labels.shape} but predictions {predictions.shape}; "
            "score a prediction at the size of its mask."
        )


def as_integers(name: str, values: np.ndarray) -> np.ndarray:
    """The array, booleans as uint8; DtypeError unless it is of integers."""
    values = np.asarray(values)
    if values.dtype.kind not in "iub":
        raise DtypeError(
            f"{name} are {values.dtype}, but classes are integers; for scores, take argmax over the classes."
        )
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator in float64, NaN (and no warning) where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)


def _mean_of_numbers(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis without the NaNs; NaN (and no warning) if nothing is left."""
    return _ratio(np.nansum(values, axis=-1), np.count_nonzero(~np.isnan(values), axis=-1))
