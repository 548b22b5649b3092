"""Curves: every point where it belongs."""

import csv
import io
import math

import numpy as np
from numpy.testing import assert_array_equal
from PIL import Image

from minifcn.visualize import (
    PANEL,
    curves,
    plots,
)

CLASSES = ("background", "disc", "ring", "bar")


def test_curves_read_the_rows_of_a_csv_file():
    """Text instead of numbers, empty cells, and rows with only one of the two values."""
    text = "stage,step,loss,mean_iu\n32s,1,2.5,\n32s,2,1.5,0.25\n8s,3,,0.5\n8s,4,nan,\n8s,5,0.5,\n"
    figure = curves(csv.DictReader(io.StringIO(text)))
    losses, ius = ([line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes)
    assert losses == [[[1, 2.5], [2, 1.5]], [[5, 0.5]]]
    assert ius == [[[2, 25]], [[3, 50]]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["32s", "8s"]
    assert figure.axes[0].lines[0].get_color() == figure.axes[1].lines[0].get_color()
    assert figure.axes[0].lines[0].get_color() != figure.axes[0].lines[1].get_color()


def test_stages_that_each_count_from_the_start_follow_one_another():
    """Drawn over one another, the stages cannot be told to build on each other."""
    rows = [{"stage": stage, "step": step, "loss": 1.0} for stage in ("32s", "16s", "8s") for step in (0, 5, 10)]
    lines = curves(rows).axes[0].lines
    assert [line.get_xdata().tolist() for line in lines] == [[0, 5, 10], [10, 15, 20], [20, 25, 30]]


def test_long_curves_are_drawn_raw_and_smoothed():
    """The running mean must not bend down at the ends, as one that pads with zeros does, nor shift the curve."""
    rows = [{"stage": "32s", "step": i, "loss": 3 + (-1) ** i, "mean_iu": None} for i in range(400)]
    raw, smooth = (line.get_ydata() for line in curves(rows).axes[0].lines)
    assert set(raw) == {2, 4}
    assert np.abs(smooth - 3).max() <= 1 / 11  # a window of at least 11 values of an alternating ±1
    steps, values = np.arange(400.0), np.arange(400.0)
    ramp = plots._running_mean(values)
    assert_array_equal(ramp[10:-10], steps[10:-10])


def test_curves_of_a_run_that_has_just_begun_are_empty_axes(tmp_path):
    """matplotlib warns of a legend without entries."""
    curves([], tmp_path / "curves.png")
    curves([{"stage": "32s", "step": 0, "loss": math.inf}], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert np.asarray(picture)[0, 0, :3].tolist() == list(PANEL)  # its own light panel, not see-through


def test_before_the_first_validation_the_lower_panel_says_so():
    """An empty panel looks like a network that has learnt nothing, for the first hours of a run."""
    rows = [{"stage": "32s", "step": step, "loss": 1.0} for step in range(3)]
    lower = curves(rows).axes[1]
    assert [text.get_text() for text in lower.texts] == ["comes with the first validation"]
    assert not curves([*rows, {"stage": "32s", "step": 3, "mean_iu": 0.0}]).axes[1].texts


def test_more_stages_than_colours_differ_in_their_dashes():
    """The eighth stage would look like the first."""
    figure = curves([{"stage": str(n), "step": 0, "loss": n} for n in range(9)])
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == 9
