"""How good is a segmentation? The four metrics of the FCN paper, the same at the borders, and tables of them.

Everything is computed from one confusion matrix over the whole set of images. Averaging the metrics of single batches
gives other numbers: a class that is absent from a batch drops out of that batch's mean, and a small batch would weigh
as much as a large one.

Notation of Long, Shelhamer, Darrell, "Fully convolutional networks for semantic segmentation" (CVPR 2015, section 5,
"Metrics"): n_ij is the number of pixels of class i predicted as class j, t_i = Σ_j n_ij is the number of pixels of
class i.

    pixel accuracy                Σ_i n_ii / Σ_i t_i
    mean accuracy                 mean over i of  n_ii / t_i
    mean IU (mIoU)                mean over i of  n_ii / (t_i + Σ_j n_ji − n_ii)
    frequency-weighted IU         Σ_i (t_i / Σ_k t_k) · n_ii / (t_i + Σ_j n_ji − n_ii)

A class that occurs neither in the truth nor in the predictions has no IU (0/0): it is NaN and drops out of the mean.
Accuracy alone misleads: on pictures that are 75 % background, predicting background everywhere has a pixel accuracy of
.75 and, with 21 classes, a mean IU of .75/21 = .036. Show both, and beside them what that prediction gets.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from minifcn.errors import DataError, DtypeError, ShapeError

# A key of Evaluation.summary(), and the words for it in a table.
METRIC_HEADERS = {
    "pixel_accuracy": "pixel acc. %",
    "mean_accuracy": "mean acc. %",
    "mean_iu": "mean IU %",
    "fw_iu": "f.w. IU %",
    "boundary_iu": "boundary IU %",
}


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
        labels, predictions = _integers("labels", labels), _integers("predictions", predictions)
        if labels.shape != predictions.shape:
            raise ShapeError(
                f"labels have shape {labels.shape} but predictions {predictions.shape}; "
                "score a prediction at the size of its mask."
            )
        if self.ignore_index is not None:
            counted = labels != self.ignore_index
            labels, predictions = labels[counted], predictions[counted]
        self._check_range("label", labels)
        self._check_range("prediction", predictions)
        pairs = self.num_classes * labels.astype(np.int64) + predictions.astype(np.int64)  # one number for each (i, j)
        counts = np.bincount(pairs.ravel(), minlength=self.num_classes**2)
        self.counts += counts.reshape(self.num_classes, self.num_classes)  # (C·C,) -> (C, C)

    def _check_range(self, what: str, classes: np.ndarray) -> None:
        outside = classes[(classes < 0) | (classes >= self.num_classes)]
        if outside.size == 0:
            return
        values, counts = np.unique(outside, return_counts=True)
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

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """The matrix of both sets of images together."""
        if self.num_classes != other.num_classes:
            raise ShapeError(
                f"cannot add confusion matrices of {self.num_classes} and of {other.num_classes} classes; "
                "both must be about the same classes."
            )
        total = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index)
        total.counts = self.counts + other.counts
        return total

    def if_predicted(self, predicted_class: int) -> "ConfusionMatrix":
        """The matrix that predicting one class everywhere would have given on the same pixels."""
        constant = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index)
        constant.counts[:, predicted_class] = self.counts.sum(axis=1)
        return constant

    @property
    def class_accuracy(self) -> np.ndarray:
        """n_ii / t_i, float64 (C,); NaN for a class that is absent from the truth."""
        return _ratio(self.counts.diagonal(), self.counts.sum(axis=1))

    @property
    def class_iu(self) -> np.ndarray:
        """Intersection over union, float64 (C,); NaN for a class absent from the truth and from the predictions."""
        intersection = self.counts.diagonal()
        return _ratio(intersection, self.counts.sum(axis=1) + self.counts.sum(axis=0) - intersection)

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels predicted correctly; NaN if none were counted."""
        return float(_ratio(self.counts.trace(), self.counts.sum()))

    @property
    def mean_accuracy(self) -> float:
        """The mean of class_accuracy over the classes present in the truth."""
        return _mean_of_numbers(self.class_accuracy)

    @property
    def mean_iu(self) -> float:
        """The mean of class_iu over the classes present in the truth or the predictions; others call it mIoU."""
        return _mean_of_numbers(self.class_iu)

    @property
    def fw_iu(self) -> float:
        """class_iu weighted by how frequent each class is in the truth."""
        pixels = self.counts.sum(axis=1)  # t_i
        present = pixels > 0
        return float(_ratio(np.sum(pixels[present] * self.class_iu[present]), pixels.sum()))

    def summary(self) -> dict[str, float]:
        """The paper's four metrics as fractions: pixel_accuracy, mean_accuracy, mean_iu, fw_iu."""
        return {name: getattr(self, name) for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu")}


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
    labels = _integers("labels", labels)
    if labels.ndim < 2 or width < 0:
        raise ShapeError(
            f"boundary_band: labels of shape {labels.shape} and width {width}; "
            "expected labels (H, W) or (N, H, W) and a width of at least 0 pixels."
        )
    window = (1,) * (labels.ndim - 2) + (2 * width + 1,) * 2
    # "nearest" repeats the edge's pixels, which lie in the window anyway: so nothing comes in from outside.
    highest = ndimage.maximum_filter(labels, size=window, mode="nearest")
    lowest = ndimage.minimum_filter(labels, size=window, mode="nearest")
    band: np.ndarray = highest != lowest
    return band if ignore_index is None else band & (labels != ignore_index)


class Evaluation:
    """One confusion matrix for all pixels and one for those near a border, filled image by image.

    Give each image at its own size: the rim of a padded one, void, would count as a border.
    """

    def __init__(self, num_classes: int, boundary_width: int = 3, *, ignore_index: int | None = 255) -> None:
        self.boundary_width = boundary_width
        self.confusion = ConfusionMatrix(num_classes, ignore_index=ignore_index)
        self.boundary = ConfusionMatrix(num_classes, ignore_index=ignore_index)

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Add an image (H, W) or images of one size (N, H, W); errors as ConfusionMatrix.update and boundary_band."""
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        band = boundary_band(labels, self.boundary_width, ignore_index=self.confusion.ignore_index)
        self.confusion.update(labels, predictions)
        self.boundary.update(labels[band], predictions[band])

    def summary(self) -> dict[str, float]:
        """Fractions: pixel_accuracy, mean_accuracy, mean_iu, fw_iu, and boundary_iu, the mean IU over the band."""
        return {**self.confusion.summary(), "boundary_iu": self.boundary.mean_iu}

    def baseline(self, predicted_class: int = 0) -> dict[str, float]:
        """The same figures for predicting one class everywhere, by default class 0, the background."""
        constant = self.confusion.if_predicted(predicted_class)
        return {**constant.summary(), "boundary_iu": self.boundary.if_predicted(predicted_class).mean_iu}


def summary_table(
    rows: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any] | None = None, *, decimals: int = 1
) -> str:
    """One line a stage: name, the metrics in percent, seconds; above them what predicting only background would get.

    A row has the keys "stage", "seconds" and those of Evaluation.summary() (as in report.json); one that is missing
    shows as "-". baseline is Evaluation.baseline(), and may have a "stage" of its own to be named by.
    """
    named_baseline = [] if baseline is None else [{"stage": "all background", **baseline}]
    cells = [
        [row.get("stage"), *(_percent(row.get(key)) for key in METRIC_HEADERS), row.get("seconds")]
        for row in [*named_baseline, *rows]
    ]
    formats = ["", *[f".{decimals}f"] * len(METRIC_HEADERS), ".1f"]
    return format_table(["stage", *METRIC_HEADERS.values(), "seconds"], cells, formats=formats)


def per_class_table(confusion: ConfusionMatrix, classes: Sequence[str], *, decimals: int = 1) -> str:
    """One line a class, in the order of the classes: name, its pixels in the truth, accuracy and IU in percent."""
    if len(classes) != confusion.num_classes:
        raise ShapeError(
            f"per_class_table: {len(classes)} names for the {confusion.num_classes} classes of the confusion matrix; "
            "give one name for each class."
        )
    columns = (confusion.counts.sum(axis=1).tolist(), confusion.class_accuracy, confusion.class_iu)
    cells = [
        [name, n, _percent(accuracy), _percent(iu)] for name, n, accuracy, iu in zip(classes, *columns, strict=True)
    ]
    formats = ["", ",d", f".{decimals}f", f".{decimals}f"]
    return format_table(["class", "pixels", "accuracy %", "IU %"], cells, formats=formats)


def format_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, formats: Sequence[str]) -> str:
    """A table as lines of text, its columns two spaces apart and as wide as their widest cell.

    formats holds one format specification a column (".1f", ",d"; "" for text). Columns with a specification are aligned
    right, the others left. A cell that is None or NaN shows as "-".
    """
    if any(len(row) != len(headers) for row in [formats, *rows]):
        raise ShapeError(f"format_table: every row and formats must have {len(headers)} cells, one for each header.")
    body = [[_cell(value, spec) for value, spec in zip(row, formats, strict=True)] for row in rows]
    widths = [max(map(_display_width, column)) for column in zip(headers, *body, strict=True)]
    lines = [list(headers), ["-" * width for width in widths], *body]
    return "\n".join("  ".join(map(_align, line, widths, formats)).rstrip() for line in lines)


def _cell(value: Any, spec: str) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return "-"
    return format(value, spec)


def _align(text: str, width: int, spec: str) -> str:
    padding = " " * (width - _display_width(text))
    return padding + text if spec else text + padding


def _display_width(text: str) -> int:
    """Columns in a terminal: a Chinese, Japanese or Korean character takes two, so that class names line up."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _percent(fraction: Any) -> float | None:
    return None if fraction is None else 100 * float(fraction)


def _integers(name: str, values: np.ndarray) -> np.ndarray:
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


def _mean_of_numbers(values: np.ndarray) -> float:
    """The mean without the NaNs; NaN (and no warning) if nothing is left."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if numbers.size else math.nan
