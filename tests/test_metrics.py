"""The metrics against counts made by hand and by loops over pixels, and the tables."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from minifcn.errors import DataError, DtypeError, ShapeError
from minifcn.metrics import (
    ConfusionMatrix,
    Evaluation,
    boundary_band,
    format_table,
    per_class_table,
    summary_table,
)

FOUR = ("pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu")


def matrix_of(labels, predictions, num_classes, **options) -> ConfusionMatrix:
    confusion = ConfusionMatrix(num_classes, **options)
    confusion.update(np.asarray(labels), np.asarray(predictions))
    return confusion


def metrics_by_loops(labels, predictions, num_classes, ignore_index) -> dict:
    """The paper's formulas, pixel by pixel and class by class."""
    pairs = [(t, p) for t, p in zip(labels.ravel(), predictions.ravel(), strict=True) if t != ignore_index]
    accuracies, ius, weighted = [], [], 0.0
    for c in range(num_classes):
        true = [pair for pair in pairs if pair[0] == c]
        hits = [pair for pair in true if pair[1] == c]
        union = [pair for pair in pairs if c in pair]
        accuracies.append(len(hits) / len(true) if true else math.nan)
        ius.append(len(hits) / len(union) if union else math.nan)
        if true:
            weighted += len(true) / len(pairs) * ius[-1]
    known_accuracies, known_ius = ([v for v in values if not math.isnan(v)] for values in (accuracies, ius))
    return {
        "class_accuracy": accuracies,
        "class_iu": ius,
        "pixel_accuracy": sum(t == p for t, p in pairs) / len(pairs),
        "mean_accuracy": sum(known_accuracies) / len(known_accuracies),
        "mean_iu": sum(known_ius) / len(known_ius),
        "fw_iu": weighted,
    }


def test_counts_have_the_truth_in_rows():
    """A transposed matrix swaps accuracy with precision; IU would not notice."""
    confusion = matrix_of([[0, 0, 0, 1]], [[0, 1, 1, 1]], 2)
    assert_array_equal(confusion.counts, [[1, 2], [0, 1]])
    assert confusion.counts.dtype == np.int64
    assert_allclose(confusion.class_accuracy, [1 / 3, 1])
    assert_allclose(confusion.class_iu, [1 / 3, 1 / 3])
    assert confusion.pixel_accuracy == 2 / 4
    assert math.isclose(confusion.mean_accuracy, 2 / 3)
    assert math.isclose(confusion.mean_iu, 1 / 3)
    assert math.isclose(confusion.fw_iu, 1 / 3)


@pytest.mark.parametrize("ignore_index", [255, -1, 3, 0])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_metrics_equal_loops_over_pixels(ignore_index, dtype):
    """Any slip in a formula; and any ignore label works, even one of the classes or one the dtype cannot hold."""
    rng = np.random.default_rng(7)
    labels, predictions = rng.integers(0, 5, (2, 3, 6, 7))  # two arrays of three images
    labels[predictions == 4] = 0  # so that predictions are not independent of the truth, and class 4 is rarer
    if ignore_index not in range(5) and not (ignore_index < 0 and dtype == np.uint8):
        labels[rng.random(labels.shape) < 0.2] = ignore_index
    confusion = matrix_of(labels.astype(dtype), predictions.astype(dtype), 6, ignore_index=ignore_index)
    expected = metrics_by_loops(labels, predictions, 6, ignore_index)
    for name, value in expected.items():
        assert_allclose(getattr(confusion, name), value, rtol=1e-12, err_msg=f"{name}, seed 7")
    assert confusion.summary() == {name: getattr(confusion, name) for name in FOUR}


def test_predicting_only_background_looks_good_in_accuracy_and_bad_in_mean_iu():
    """75 % background and 21 classes: .75 against .75/21; this is why both are shown."""
    labels = np.zeros((20, 20, 4), dtype=np.uint8)
    labels[:, :, 0] = np.arange(1, 21)[:, np.newaxis]  # a quarter of the pixels, 20 of each of the 20 classes
    confusion = matrix_of(labels, np.zeros_like(labels), 21)
    assert confusion.pixel_accuracy == 0.75
    assert math.isclose(confusion.mean_accuracy, 1 / 21)
    assert math.isclose(confusion.mean_iu, 0.75 / 21)
    assert math.isclose(confusion.fw_iu, 0.75 * 0.75)


def test_a_class_in_neither_truth_nor_prediction_drops_out():
    """Counting it as 0 halves the mean; counting it as 1 flatters."""
    confusion = matrix_of([0, 1], [0, 1], 4)
    assert_array_equal(confusion.class_iu, [1, 1, math.nan, math.nan])
    assert_array_equal(confusion.class_accuracy, [1, 1, math.nan, math.nan])
    assert confusion.mean_iu == confusion.mean_accuracy == confusion.fw_iu == 1


def test_a_class_that_is_only_predicted_has_iu_zero_but_no_accuracy():
    """Dropping it would hide the false alarms from the mean IU."""
    confusion = matrix_of([0, 0], [0, 1], 2)
    assert_array_equal(confusion.class_iu, [0.5, 0])
    assert_array_equal(confusion.class_accuracy, [0.5, math.nan])
    assert (confusion.mean_iu, confusion.mean_accuracy, confusion.fw_iu) == (0.25, 0.5, 0.5)


def test_void_is_left_out_whatever_is_predicted_there():
    """Void as background would count the second pixel; and a prediction copied from the mask, 255, is no error."""
    assert_array_equal(matrix_of([0, 255, 255, 1], [0, 1, 255, 1], 2).counts, [[1, 0], [0, 1]])


@pytest.mark.parametrize("labels", [[255, 255], []])
def test_nothing_counted_is_nan_without_a_warning(labels):
    """0/0 must neither warn nor come out as a figure."""
    labels = np.array(labels, dtype=np.uint8)
    confusion = matrix_of(labels, np.zeros_like(labels), 3)
    assert all(math.isnan(value) for value in confusion.summary().values())
    assert np.isnan(confusion.class_iu).all()


def test_the_matrices_of_two_parts_add_up_to_that_of_the_whole():
    """For workers or batches that count on their own."""
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 4, (2, 10, 8))
    whole = matrix_of(labels, predictions, 4)
    first, second = matrix_of(labels[:3], predictions[:3], 4), matrix_of(labels[3:], predictions[3:], 4)
    before = first.counts.copy()
    assert_array_equal((first + second).counts, whole.counts)
    assert_array_equal(first.counts, before)  # the sum is a new matrix
    first.update(labels[3:], predictions[3:])
    assert_array_equal(first.counts, whole.counts)
    with pytest.raises(ShapeError, match="of 4 and of 5 classes"):
        first + ConfusionMatrix(5)


def test_the_mean_over_batches_is_another_figure():
    """Averaging per-batch mean IUs gives .75 here; over the whole set, class 1 is found in 1 pixel of 5."""
    batches = [([0, 0, 0, 1], [0, 0, 0, 1]), ([1, 1, 1, 1, 0], [0, 0, 0, 0, 0])]
    of_batches = [matrix_of(labels, predictions, 2).mean_iu for labels, predictions in batches]
    assert_allclose(of_batches, [1, (1 / 5 + 0) / 2])
    total = matrix_of(*batches[0], 2) + matrix_of(*batches[1], 2)
    assert math.isclose(total.mean_iu, (4 / 8 + 1 / 5) / 2)
    assert not math.isclose(total.mean_iu, np.mean(of_batches))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_a_label_that_is_no_class_is_an_error_with_its_count(dtype):
    """In the flat index of (i, j) it would land in another cell, or lengthen the counts."""
    labels = np.array([[0, 11], [11, 255]], dtype=dtype)
    with pytest.raises(DataError, match=r"label 11 in 2 pixels, but there are 11 classes \(0–10\) and 255 for void"):
        matrix_of(labels, np.zeros((2, 2), dtype=dtype), 11)
    with pytest.raises(DataError, match=r"label 11 in 2 pixels \(and 1 other such values\)"):
        matrix_of(labels, np.zeros((2, 2), dtype=dtype), 11, ignore_index=None)


def test_a_negative_label_and_a_prediction_outside_are_errors():
    """Both would fall into the cell of another pair without a sound."""
    with pytest.raises(DataError, match="label -1 in 1 pixels"):
        matrix_of([0, -1], [0, 0], 2)
    with pytest.raises(DataError, match=r"prediction 2 in 1 pixels, but there are 2 classes \(0–1\)\."):
        matrix_of([0, 0], [0, 2], 2)
    with pytest.raises(DataError, match="prediction -1 in 1 pixels"):
        matrix_of([1, 0], [-1, 0], 2)


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    """(2, 3) against (3, 2) has as many pixels, so that flattening would pair them wrongly."""
    with pytest.raises(ShapeError, match=r"\(2, 3\) but predictions \(3, 2\)"):
        matrix_of(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
    with pytest.raises(DtypeError, match="predictions are float64"):
        matrix_of([0, 1], [0.2, 0.8], 2)
    with pytest.raises(ShapeError, match="num_classes is 0"):
        ConfusionMatrix(0)


def test_after_an_error_the_counts_are_as_before():
    """A bad image that is skipped must not leave half of itself in the figures."""
    evaluation = Evaluation(2, boundary_width=1)
    for labels, predictions in ([0, 1, 1, 1, 1, 7], [0, 1, 1, 1, 1, 1]), ([0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 7]):
        with pytest.raises(DataError):
            evaluation.update(np.array([labels]), np.array([predictions]))
        assert evaluation.confusion.counts.sum() == evaluation.boundary.counts.sum() == 0


def test_masks_of_true_and_false_are_two_classes():
    """NumPy cannot multiply or subtract bools."""
    assert_array_equal(matrix_of([True, False], [True, True], 2).counts, [[0, 1], [0, 1]])


def test_the_band_reaches_width_pixels_to_both_sides_of_a_border():
    """One too few or too many, or the distance along diagonals counted as two."""
    row = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    assert_array_equal(boundary_band(row, 1), [[0, 0, 0, 1, 1, 0, 0, 0]])
    assert_array_equal(boundary_band(row, 3), [[0, 1, 1, 1, 1, 1, 1, 0]])
    assert not boundary_band(row, 0).any()
    corner = np.zeros((4, 4), dtype=np.uint8)
    corner[0, 0] = 5
    assert_array_equal(boundary_band(corner, 2), [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]])


def test_void_makes_a_border_but_is_not_in_the_band():
    """VOC's outlines are void: without them as a label, there would be no border at all."""
    row = np.array([[0, 0, 0, 255, 1, 1, 1]], dtype=np.uint8)
    assert_array_equal(boundary_band(row, 1), [[0, 0, 1, 0, 1, 0, 0]])
    assert_array_equal(boundary_band(row, 1, ignore_index=None), [[0, 0, 1, 1, 1, 0, 0]])


@pytest.mark.parametrize("width", [1, 2, 3, 9])
def test_the_band_equals_a_search_around_every_pixel(width):
    """Also at the picture's edge, beyond which nothing counts, and with the band wider than the picture."""
    labels = np.random.default_rng(3).choice([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 200, 255], (2, 7, 8)).astype(np.uint8)
    labels[:, :, :4] = 0
    expected = np.zeros(labels.shape, dtype=bool)
    for n, y, x in np.ndindex(labels.shape):
        window = labels[n, max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        expected[n, y, x] = labels[n, y, x] != 255 and (window != labels[n, y, x]).any()
    assert_array_equal(boundary_band(labels, width), expected, err_msg="seed 3")


def test_a_band_does_not_reach_from_one_image_of_a_batch_into_the_next():
    """A window over all axes would."""
    batch = np.stack([np.zeros((3, 3), dtype=np.uint8), np.ones((3, 3), dtype=np.uint8)])
    assert not boundary_band(batch, 2).any()


def test_a_band_needs_label_maps_and_a_width():
    """Errors, rather than an empty band."""
    with pytest.raises(ShapeError, match="width -1"):
        boundary_band(np.zeros((2, 2), int), -1)
    with pytest.raises(ShapeError, match=r"shape \(4,\)"):
        boundary_band(np.zeros(4, int), 1)


def test_an_evaluation_scores_the_band_apart():
    """One wrong pixel at the border is 1 of 8 in all, but 1 of 2 in the band."""
    labels = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    evaluation = Evaluation(2, boundary_width=1)
    evaluation.update(labels, np.array([[0, 0, 0, 0, 0, 1, 1, 1]]))
    summary = evaluation.summary()
    assert list(summary) == [*FOUR, "boundary_iu"]
    assert summary["pixel_accuracy"] == 7 / 8
    assert math.isclose(summary["mean_iu"], (4 / 5 + 3 / 4) / 2)
    assert math.isclose(summary["boundary_iu"], (1 / 2 + 0) / 2)


def test_the_baseline_is_what_predicting_one_class_would_get():
    """From the counts alone, for everything and for the band."""
    rng = np.random.default_rng(5)
    labels, predictions = rng.integers(0, 3, (2, 4, 6, 6))
    labels[:, :, 4:] = 2
    labels[0, 0] = 255
    evaluation, constant = Evaluation(3, boundary_width=1), {c: Evaluation(3, boundary_width=1) for c in range(3)}
    evaluation.update(labels, predictions)
    for predicted_class, expected in constant.items():
        expected.update(labels, np.full_like(labels, predicted_class))
        assert evaluation.baseline(predicted_class) == expected.summary(), "seed 5"
    assert evaluation.baseline() == evaluation.baseline(0) != evaluation.baseline(2)


def test_real_masks_give_the_baseline_their_background_share(shared_data: Path):
    """VOC's palette masks with void outlines: void read as background, or counted, changes the share."""
    evaluation, background, counted, present = Evaluation(21), 0, 0, set()
    paths = sorted((shared_data / "voc/VOCdevkit/VOC2012/SegmentationClass").glob("*.png"))
    for path in paths:
        labels = np.asarray(Image.open(path))
        evaluation.update(labels, np.zeros_like(labels))
        background += np.count_nonzero(labels == 0)
        counted += np.count_nonzero(labels != 255)
        present |= set(np.unique(labels).tolist()) - {255}
    assert len(paths) > 0
    summary = evaluation.summary()
    assert summary["pixel_accuracy"] == background / counted
    assert math.isclose(summary["mean_iu"], background / counted / len(present))
    assert evaluation.baseline() == summary


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
    assert summary_table([row], decimals=2).splitlines()[2].split()[1] == "90.48"


def test_the_table_of_classes_keeps_their_order():
    """Names beside the wrong figures, or precision in the place of accuracy."""
    confusion = matrix_of([0, 0, 0, 0, 1], [0, 0, 0, 1, 1], 3)
    lines = per_class_table(confusion, ("sky", "building", "pole")).splitlines()
    assert lines[0].split() == ["class", "pixels", "accuracy", "%", "IU", "%"]
    assert [line.split() for line in lines[2:]] == [
        ["sky", "4", "75.0", "75.0"],
        ["building", "1", "100.0", "50.0"],
        ["pole", "0", "-", "-"],
    ]
    with pytest.raises(ShapeError, match="2 names for the 3 classes"):
        per_class_table(confusion, ("sky", "building"))
