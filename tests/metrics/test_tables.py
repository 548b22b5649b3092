"""Tables: aligned, in percent, and never an accuracy without the mean IU and the baseline."""

import math
import re

import numpy as np
import pytest
from pixel_loops import matrix_of

from minifcn.errors import ShapeError
from minifcn.metrics import (
    Evaluation,
    figures_table,
    format_table,
    interval_note,
    per_class_table,
    summary_table,
)

FOUR = ("pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu")


def test_a_table_lines_up_and_shows_what_is_missing():
    """Numbers to the right, text to the left, no trailing blanks; Chinese letters are two columns wide."""
    table = format_table(
        ["name", "n", "share"],
        [["sky", 12345, 0.5], ["道路", 7, math.nan], ["tree", None, np.float32(0.25)]],
        formats=["", ",d", ".2f"],
    )
    assert table.splitlines() == [
        "name       n  share",
        "----  ------  -----",
        "sky   12,345   0.50",
        "道路       7      -",
        "tree       -   0.25",
    ]
    assert format_table(["a", "b"], [], formats=["", ""]).splitlines() == ["a  b", "-  -"]
    with pytest.raises(ShapeError, match="2 cells"):
        format_table(["a", "b"], [["only one"]], formats=["", ""])


def test_the_table_of_stages_is_in_percent_below_the_baseline():
    """A fraction under a header that says %, a metric under another's header, or the baseline forgotten."""
    row = {
        "stage": "32s",
        "pixel_accuracy": 0.9048,
        "mean_accuracy": 0.7648,
        "mean_iu": 0.6363,
        "fw_iu": 0.8346,
        "boundary_iu": 0.4,
        "seconds": 61.24,
    }
    baseline = {**dict.fromkeys(FOUR, 0.5), "pixel_accuracy": 0.75, "mean_iu": 0.0357, "boundary_iu": math.nan}
    lines = summary_table([{"stage": "classifier", "seconds": 9}, row], baseline).splitlines()
    assert lines[0].split("  ")[0] == "stage"
    headers = ["pixel acc. %", "mean acc. %", "mean IU %", "f.w. IU %", "boundary IU %", "seconds"]
    assert [lines[0].index(header) for header in headers] == sorted(lines[0].index(header) for header in headers)
    assert lines[2].split() == ["all", "background", "75.0", "50.0", "3.6", "50.0", "-", "-"]
    assert lines[3].split() == ["classifier", "-", "-", "-", "-", "-", "9.0"]
    assert lines[4].split() == ["32s", "90.5", "76.5", "63.6", "83.5", "40.0", "61.2"]
    assert summary_table([row], baseline, decimals=2).splitlines()[3].split()[1] == "90.48"
    named = [{"stage": "all sky", **baseline}, {"stage": "all road", **baseline}]
    assert [line.split("  ")[0] for line in summary_table([row], named).splitlines()[2:]] == [
        "all sky",
        "all road",
        "32s",
    ]


def test_the_table_of_classes_keeps_their_order():
    """Names beside the wrong figures, or precision in the place of accuracy."""
    confusion = matrix_of([0, 0, 0, 0, 1], [0, 0, 0, 1, 1], 3)
    lines = per_class_table(confusion, ("sky", "building", "pole")).splitlines()
    assert lines[0].split() == ["class", "pixels", "accuracy", "%", "IU", "%"]
    assert [line.split() for line in lines[2:5]] == [
        ["sky", "4", "75.0", "75.0"],
        ["building", "1", "100.0", "50.0"],
        ["pole", "0", "-", "-"],
    ]
    with pytest.raises(ShapeError, match="2 names for the 3 classes"):
        per_class_table(confusion, ("sky", "building"))


def test_the_table_of_classes_ends_with_the_means_and_those_of_the_baselines():
    """Class accuracies alone flatter: all road has one of 100 %."""
    confusion = matrix_of([0, 1, 1, 1], [0, 1, 1, 0], 2)
    lines = per_class_table(confusion, ("sky", "road")).splitlines()
    assert set(lines[4]) == {"-", " "}
    assert [line.split() for line in lines[5:]] == [
        ["mean", "-", "83.3", "58.3"],
        [*["mean", "if", "all", "background", "(sky)"], "-", "50.0", "12.5"],
        [*["mean", "if", "all", "road"], "-", "50.0", "37.5"],
    ]


def test_no_table_can_be_made_without_a_baseline():
    """An optional argument is left out one day."""
    for table in (summary_table, figures_table):
        with pytest.raises(TypeError):
            table({"stage": "8s", "pixel_accuracy": 0.9})


def cells(line: str) -> list[str]:
    """A line of a table; its columns are at least two spaces apart."""
    return re.split(r" {2,}", line.strip())


def evaluation() -> Evaluation:
    """Two images of four pixels: one right, one of road as sky."""
    result = Evaluation(2, boundary_width=1)
    result.update(np.array([[[1, 1, 1, 0]], [[1, 1, 1, 0]]]), np.array([[[1, 1, 1, 0]], [[0, 0, 0, 0]]]))
    return result


def test_the_table_of_figures_has_intervals_and_a_column_a_baseline():
    """One line a metric; figures beside their own intervals."""
    result = evaluation()
    row = {"stage": "fcn8s", **result.summary(), "intervals": result.intervals().figures}
    lines = figures_table(row, result.baselines(("sky", "road"), 0.95)).splitlines()
    assert cells(lines[0]) == ["fcn8s", "all background (sky)", "all road"]
    assert cells(lines[2]) == ["pixel acc. %", "62.5 [25.0, 100.0]", "25.0 [25.0, 25.0]", "75.0 [75.0, 75.0]"]
    assert [cells(line)[0] for line in lines[2:]] == [
        "pixel acc. %",
        "mean acc. %",
        "mean IU %",
        "f.w. IU %",
        "boundary IU %",
    ]
    assert "62.50 [25.00, 100.00]" in figures_table(row, [], decimals=2)
    assert "62.5 [25.0, 100.0]" in summary_table([row], result.baseline())


def test_the_table_of_classes_has_intervals():
    """Those of accuracy beside the accuracy, of the right class."""
    result = evaluation()
    lines = per_class_table(result.confusion, ("sky", "road"), result.intervals()).splitlines()
    assert cells(lines[2]) == ["sky", "2", "100.0 [100.0, 100.0]", "40.0 [25.0, 100.0]"]
    assert cells(lines[3]) == ["road", "6", "50.0 [0.0, 100.0]", "50.0 [0.0, 100.0]"]
    assert cells(lines[5]) == ["mean", "-", "75.0 [50.0, 100.0]", "45.0 [12.5, 100.0]"]


def test_the_note_says_how_far_to_trust_an_interval():
    """One picture has no interval; of few, it is too narrow."""
    assert interval_note(1, 0.95).startswith("No intervals")
    assert "So few make it too narrow" in interval_note(19, 0.95)
    assert "90 % bootstrap interval over the 20 pictures. Frames of one film" in interval_note(20, 0.9)
