"""The confusion matrix and its metrics against counts made by hand and by loops over pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pixel_loops import matrix_of, metrics_by_loops
from strategies import random_cases

from minifcn.errors import DataError, DtypeError, ShapeError
from minifcn.metrics import ClassCounts, ConfusionMatrix

FOUR = ("pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu")


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


def test_masks_of_true_and_false_are_two_classes():
    """NumPy cannot multiply or subtract bools."""
    assert_array_equal(matrix_of([True, False], [True, True], 2).counts, [[0, 1], [0, 1]])


@random_cases
@given(
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(1, 6),
    ignore_index=st.sampled_from([None, -1, 255, 0, 3]),
    dtype=st.sampled_from([np.uint8, np.int8, np.int64, np.uint64]),
    shape=st.sampled_from([(1, 1), (5, 7), (2, 3, 4), (0, 4), (40,)]),
)
def test_random_labels_equal_loops_over_pixels(seed, num_classes, ignore_index, dtype, shape):
    """Any number of classes, ignore label, dtype and shape, with classes absent; also nothing at all."""
    rng = np.random.default_rng(seed)
    present = rng.permutation(num_classes)[: rng.integers(1, num_classes + 1)]
    labels, predictions = rng.choice(present, shape), rng.integers(0, num_classes, shape)
    predictions = np.where(rng.random(shape) < 0.6, labels, predictions)
    if ignore_index is not None and np.iinfo(dtype).min <= ignore_index <= np.iinfo(dtype).max:
        labels = np.where(rng.random(shape) < 0.2, ignore_index, labels)
    confusion = matrix_of(labels.astype(dtype), predictions.astype(dtype), num_classes, ignore_index=ignore_index)
    for name, value in metrics_by_loops(labels, predictions, num_classes, ignore_index).items():
        assert_allclose(getattr(confusion, name), value, rtol=1e-12, err_msg=name)


def test_three_numbers_a_class_give_each_image_s_metrics():
    """Formulas that sum over the images' axis instead of the classes'."""
    rng = np.random.default_rng(8)
    labels, predictions = rng.integers(0, 4, (2, 5, 6, 6))  # two arrays of five images
    predictions[labels == 1] = 1
    labels[2] = 3  # classes absent from one image, and void alone in another
    labels[4] = 255
    matrices = [matrix_of(one, other, 4) for one, other in zip(labels, predictions, strict=True)]
    images = ClassCounts.stack([matrix.class_counts for matrix in matrices], 4)
    assert images.class_iu.shape == (5, 4)
    for name in (*FOUR, "class_iu", "class_accuracy"):
        assert_array_equal(getattr(images, name), [getattr(matrix, name) for matrix in matrices], err_msg=name)
    for predicted in range(4):
        constants = images.if_predicted(predicted)
        for name in FOUR:
            expected = [getattr(matrix.if_predicted(predicted), name) for matrix in matrices]
            assert_array_equal(getattr(constants, name), expected, err_msg=name)
    assert ClassCounts.stack([], 4).mean_iu.shape == (0,)


@pytest.mark.parametrize(
    ("classes", "truth", "expected"),
    [
        (("background", "disc"), [0, 0, 1], {"all background": 0}),
        (("background", "disc"), [0, 1, 1], {"all background": 0, "all disc": 1}),
        (("class_0", "class_1"), [0, 0, 1], {"all background": 0}),
        (("sky", "road"), [0, 1, 1], {"all background (sky)": 0, "all road": 1}),
        (("sky", "road"), [0, 0, 1], {"all background (sky)": 0}),
        (("sky", "road"), [255], {"all background (sky)": 0}),
    ],
)
def test_a_result_has_to_beat_the_background_and_the_most_frequent_class(classes, truth, expected):
    """Data sets of roads have no background; there the first class is too easy to beat."""
    assert matrix_of(truth, [1] * len(truth), 2).baseline_classes(classes) == expected


def test_many_classes_do_not_overflow_the_dtype_of_the_labels():
    """200 · 199 does not fit in the uint8 of labels and predictions."""
    labels = np.arange(200, dtype=np.uint8)
    assert_array_equal(matrix_of(labels, labels[::-1], 200).counts, np.eye(200)[::-1])
