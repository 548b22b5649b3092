"""The figures for other programs: a dictionary for JSON, and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minifcn.metrics.confusion import ConfusionMatrix, check_names
from minifcn.metrics.evaluation import Evaluation, Intervals


def figures_report(
    evaluation: Evaluation, classes: Sequence[str], intervals: Intervals, baselines: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """All figures of an evaluation, ready for files.to_json: fractions, intervals [low, high] or None, pixel counts.

    The figures of summary() stand at the top; "intervals" holds theirs; "all_background" and "most_frequent" (None if
    that is class 0 too) are baselines, rows of Evaluation.baselines; "classes" has an entry a class, by name.
    """
    confusion = evaluation.confusion
    check_names(classes, confusion.num_classes)
    pixels = confusion.counts.sum(axis=1).tolist()
    columns = (pixels, confusion.class_accuracy, intervals.class_accuracy, confusion.class_iu, intervals.class_iu)
    keys = ("pixels", "accuracy", "accuracy_interval", "iu", "iu_interval")
    return {
        **evaluation.summary(),
        "intervals": intervals.figures,
        "confidence": intervals.confidence,
        "boundary_width": evaluation.boundary_width,
        "all_background": dict(baselines[0]),
        "most_frequent": dict(baselines[1]) if len(baselines) > 1 else None,
        "classes": {
            name: dict(zip(keys, values, strict=True)) for name, *values in zip(classes, *columns, strict=True)
        },
        "confusion": confusion.counts.tolist(),
    }


def confusion_csv(confusion: ConfusionMatrix, classes: Sequence[str]) -> str:
    """The counts as CSV: a line a true class, a column a predicted class, with their names."""
    check_names(classes, confusion.num_classes)
    rows = ([name, *counts] for name, counts in zip(classes, confusion.counts.tolist(), strict=True))
    return _csv(["truth \\ prediction", *classes], rows)


def images_csv(evaluation: Evaluation, classes: Sequence[str]) -> str:
    """The figures of each image as CSV, fractions: name, pixel accuracy, mean IU, IU of each class.

    Mean IU is over the classes present in the truth or the prediction of that image; an absent class is empty. Last
    come pixel accuracy and mean IU of predicting class 0 everywhere: on an image that is nearly all background, a high
    accuracy means nothing.
    """
    check_names(classes, evaluation.confusion.num_classes)
    images = evaluation.images
    constant = images.if_predicted(0)
    header = ["name", "pixel_accuracy", "mean_iu", *(f"iu_{name}" for name in classes)]
    columns = (images.pixel_accuracy, images.mean_iu, images.class_iu, constant.pixel_accuracy, constant.mean_iu)
    rows = (
        [name, *map(_number, [accuracy, mean_iu, *class_iu, *all_background])]
        for name, accuracy, mean_iu, class_iu, *all_background in zip(evaluation.names, *columns, strict=True)
    )
    return _csv([*header, "all_background_pixel_accuracy", "all_background_mean_iu"], rows)


def _number(value: float) -> str:
    """Six digits, as in a run's metrics.csv; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.6g}"


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
