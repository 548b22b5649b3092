"""The metrics by loops over pixels, as slow and as plain as their definitions."""

import math

import numpy as np

from minifcn.metrics import ConfusionMatrix


def matrix_of(labels, predictions, num_classes, **options) -> ConfusionMatrix:
    confusion = ConfusionMatrix(num_classes, **options)
    confusion.update(np.asarray(labels), np.asarray(predictions))
    return confusion


def metrics_by_loops(labels, predictions, num_classes, ignore_index) -> dict:
    """The paper's formulas, pixel by pixel and class by class; NaN for what is undefined."""
    pairs = [(t, p) for t, p in zip(labels.ravel().tolist(), predictions.ravel().tolist(), strict=True)]
    pairs = [pair for pair in pairs if pair[0] != ignore_index]
    accuracies, ius, weighted = [], [], 0.0
    for c in range(num_classes):
        true = [pair for pair in pairs if pair[0] == c]
        hits = [pair for pair in true if pair[1] == c]
        union = [pair for pair in pairs if c in pair]
        accuracies.append(len(hits) / len(true) if true else math.nan)
        ius.append(len(hits) / len(union) if union else math.nan)
        if true:
            weighted += len(true) / len(pairs) * ius[-1]
    return {
        "class_accuracy": accuracies,
        "class_iu": ius,
        "pixel_accuracy": sum(t == p for t, p in pairs) / len(pairs) if pairs else math.nan,
        "mean_accuracy": mean_of_numbers(accuracies),
        "mean_iu": mean_of_numbers(ius),
        "fw_iu": weighted if pairs else math.nan,
    }


def mean_of_numbers(values) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def band_by_loops(labels, width, ignore_index) -> np.ndarray:
    """A search around every pixel of an image (H, W) for another label."""
    band = np.zeros(labels.shape, dtype=bool)
    for y, x in np.ndindex(labels.shape):
        window = labels[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        band[y, x] = labels[y, x] != ignore_index and (window != labels[y, x]).any()
    return band
