"""Tables of figures, as lines of text. None shows an accuracy without the mean IU and what a constant would get."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minifcn.errors import ShapeError
from minifcn.metrics.bootstrap import FEW_IMAGES, Interval
from minifcn.metrics.confusion import ConfusionMatrix, check_names
from minifcn.metrics.evaluation import Intervals

# A key of Evaluation.summary(), and the words for it in a table.
METRIC_HEADERS = {
    "pixel_accuracy": "pixel acc. %",
    "mean_accuracy": "mean acc. %",
    "mean_iu": "mean IU %",
    "fw_iu": "f.w. IU %",
    "boundary_iu": "boundary IU %",
}
Rows = Sequence[Mapping[str, Any]]


def summary_table(rows: Rows, baselines: Mapping[str, Any] | Rows, *, decimals: int = 1) -> str:
    """One line a stage: name, the metrics in percent, seconds; above them what predicting one class would get.

    A row has the keys "stage", "seconds" and those of Evaluation.summary() (as in report.json); one that is missing
    shows as "-". Under "intervals" it may hold an interval for each figure. baselines is Evaluation.baselines(), or
    Evaluation.baseline(), whose "stage" is "all background" unless it says otherwise.
    """
    cells = [
        [row.get("stage"), *(_figure(row, key, decimals) for key in METRIC_HEADERS), row.get("seconds")]
        for row in [*_named(baselines), *rows]
    ]
    formats = ["", *[">"] * len(METRIC_HEADERS), ".1f"]
    return format_table(["stage", *METRIC_HEADERS.values(), "seconds"], cells, formats=formats)


def figures_table(row: Mapping[str, Any], baselines: Mapping[str, Any] | Rows, *, decimals: int = 1) -> str:
    """One line a metric, with its interval; beside the row's column those of the baselines. Rows as in summary_table.

    For one row with intervals, where the lines of summary_table would be too long for a terminal.
    """
    columns = [row, *_named(baselines)]
    cells = [[words, *(_figure(column, key, decimals) for column in columns)] for key, words in METRIC_HEADERS.items()]
    headers = ["", *(str(column.get("stage")) for column in columns)]
    return format_table(headers, cells, formats=["", *[">"] * len(columns)])


def per_class_table(
    confusion: ConfusionMatrix, classes: Sequence[str], intervals: Intervals | None = None, *, decimals: int = 1
) -> str:
    """One line a class, in the order of the classes: name, its pixels in the truth, accuracy and IU in percent.

    Beneath them the means over the classes, and what these would be if one class were predicted everywhere.
    """
    check_names(classes, confusion.num_classes)
    none = [None] * confusion.num_classes
    shown = (intervals.class_accuracy, intervals.class_iu) if intervals else (none, none)
    columns = (confusion.counts.sum(axis=1).tolist(), confusion.class_accuracy, shown[0], confusion.class_iu, shown[1])
    cells = [
        [name, pixels, with_interval(accuracy, accuracy_interval, decimals), with_interval(iu, iu_interval, decimals)]
        for name, pixels, accuracy, accuracy_interval, iu, iu_interval in zip(classes, *columns, strict=True)
    ]
    means: dict[str, Mapping[str, Any]] = {
        "mean": {**confusion.summary(), "intervals": intervals.figures if intervals else {}}
    }
    for name, predicted_class in confusion.baseline_classes(classes).items():
        means[f"mean if {name}"] = confusion.if_predicted(predicted_class).summary()
    lines = [
        [name, None, *(_figure(row, key, decimals) for key in ("mean_accuracy", "mean_iu"))]
        for name, row in means.items()
    ]
    return format_table(
        ["class", "pixels", "accuracy %", "IU %"], [*cells, *lines], formats=["", ",d", ">", ">"], rule=len(cells)
    )


def with_interval(fraction: Any, interval: Interval | None, decimals: int = 1) -> str | None:
    """A fraction in percent: "48.1 [45.2, 50.9]", or "48.1" without an interval; None for NaN and None."""
    if fraction is None or math.isnan(fraction):
        return None
    value = f"{100 * float(fraction):.{decimals}f}"
    if interval is None:
        return value
    low, high = interval
    return f"{value} [{100 * low:.{decimals}f}, {100 * high:.{decimals}f}]"


def interval_note(images: int, confidence: float) -> str:
    """What the intervals beside the figures are, and how far to trust them: a sentence or two."""
    if images < 2:
        return "No intervals: how far a figure would move with other pictures cannot be told from fewer than two."
    doubt = "So few make" if images < FEW_IMAGES else "Frames of one film would make"
    return f"[low, high]: {100 * confidence:g} % bootstrap interval over the {images} pictures. {doubt} it too narrow."


def format_table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], *, formats: Sequence[str], rule: int | None = None
) -> str:
    """A table as lines of text, its columns two spaces apart and as wide as their widest cell.

    formats holds one format specification a column (".1f", ",d", ">"; "" for text). Columns with a specification are
    aligned right, the others left. A cell that is None or NaN shows as "-". rule: after so many rows comes a line.
    """
    if any(len(row) != len(headers) for row in [formats, *rows]):
        raise ShapeError(f"format_table: every row and formats must have {len(headers)} cells, one for each header.")
    body = [[_cell(value, spec) for value, spec in zip(row, formats, strict=True)] for row in rows]
    widths = [max(map(_display_width, column)) for column in zip(headers, *body, strict=True)]
    dashes = ["-" * width for width in widths]
    if rule is not None:
        body.insert(rule, dashes)
    lines = [list(headers), dashes, *body]
    return "\n".join("  ".join(map(_align, line, widths, formats)).rstrip() for line in lines)


def _named(baselines: Mapping[str, Any] | Rows) -> list[Mapping[str, Any]]:
    """Baselines as rows, each with a name."""
    rows = [baselines] if isinstance(baselines, Mapping) else baselines
    return [{"stage": "all background", **row} for row in rows]


def _figure(row: Mapping[str, Any], key: str, decimals: int) -> str | None:
    """The cell of one metric of a row."""
    return with_interval(row.get(key), (row.get("intervals") or {}).get(key), decimals)


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
