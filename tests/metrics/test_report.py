"""Figures for other programs: everything is there, under its name, and survives the trip."""

import csv
import io
import json
import math

import numpy as np
import pytest

from minifcn.errors import ShapeError
from minifcn.files import to_json
from minifcn.metrics import Evaluation, confusion_csv, figures_report, images_csv

CLASSES = ("sky", "road, wet", 'a "car"')


@pytest.fixture
def evaluation() -> Evaluation:
    result = Evaluation(3)
    result.update(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]), ["first"])
    result.update(np.array([[1, 1, 1, 255]]), np.array([[1, 1, 1, 0]]), ["a,b"])
    result.update(np.array([[255, 255]]), np.array([[0, 2]]), ["nothing but void"])
    return result


def test_the_confusion_matrix_is_a_table_with_names(evaluation):
    """Transposed, it would still be read; names with commas and quotes must come back."""
    header, *rows = csv.reader(io.StringIO(confusion_csv(evaluation.confusion, CLASSES)))
    assert header == ["truth \\ prediction", *CLASSES]
    assert rows == [["sky", "1", "1", "0"], ["road, wet", "0", "5", "0"], ['a "car"', "0", "0", "0"]]
    with pytest.raises(ShapeError, match="1 names for the 3 classes"):
        confusion_csv(evaluation.confusion, ("sky",))


def test_each_image_is_a_row_with_its_figures(evaluation):
    """Figures of the whole set, or beside another's name; absent classes empty, rather than nan or 0."""
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(images_csv(evaluation, CLASSES)))}
    assert list(rows) == ["first", "a,b", "nothing but void"]
    assert list(rows["first"])[:3] == ["name", "pixel_accuracy", "mean_iu"]
    first = rows["first"]
    assert float(first["pixel_accuracy"]) == 0.75
    assert float(first["iu_sky"]) == 0.5
    assert float(first["iu_road, wet"]) == pytest.approx(2 / 3, abs=1e-6)
    assert first['iu_a "car"'] == ""
    assert float(first["mean_iu"]) == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-6)
    assert float(first["all_background_pixel_accuracy"]) == 0.5
    assert float(first["all_background_mean_iu"]) == 0.25
    assert rows["a,b"]["iu_sky"] == ""
    assert float(rows["a,b"]["mean_iu"]) == 1
    assert float(rows["a,b"]["all_background_mean_iu"]) == 0
    assert set(rows["nothing but void"].values()) == {"nothing but void", ""}


def test_a_class_may_have_the_name_of_a_column():
    """The column "mean_iu" would be there twice."""
    evaluation = Evaluation(2)
    evaluation.update(np.array([[0, 1]]), np.array([[0, 1]]))
    header = next(csv.reader(io.StringIO(images_csv(evaluation, ("name", "mean_iu")))))
    assert len(set(header)) == len(header)


def test_the_report_has_every_figure_and_is_json(evaluation):
    """NaN and NumPy's numbers are not JSON; accuracy stands beside mean IU and the baseline."""
    intervals, baselines = evaluation.intervals(0.9), evaluation.baselines(CLASSES, 0.9)
    report = json.loads(to_json(figures_report(evaluation, CLASSES, intervals, baselines)))
    for name, value in evaluation.summary().items():
        assert report[name] == (None if math.isnan(value) else value)
    assert report["confidence"] == 0.9
    assert report["boundary_width"] == 3
    assert report["intervals"]["pixel_accuracy"] == list(intervals.figures["pixel_accuracy"])
    assert report["all_background"]["pixel_accuracy"] == 2 / 7
    assert report["all_background"]["intervals"]["mean_iu"]
    assert report["most_frequent"]["stage"] == "all road, wet"
    assert list(report["classes"]) == list(CLASSES)
    road = report["classes"]["road, wet"]
    assert (road["pixels"], road["accuracy"], road["iu"]) == (5, 1, 5 / 6)
    assert road["iu_interval"] == list(intervals.class_iu[1])
    assert report["classes"]["sky"]["iu_interval"] is None  # one picture has it
    assert report["classes"]['a "car"'] == {
        "pixels": 0,
        "accuracy": None,
        "accuracy_interval": None,
        "iu": None,
        "iu_interval": None,
    }
    assert report["confusion"] == [[1, 1, 0], [0, 5, 0], [0, 0, 0]]
    background_only = figures_report(evaluation, CLASSES, intervals, baselines[:1])
    assert background_only["most_frequent"] is None
