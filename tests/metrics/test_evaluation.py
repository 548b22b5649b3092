"""Evaluations: the band, each image's own figures, the baselines."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from pixel_loops import band_by_loops, matrix_of, mean_of_numbers, metrics_by_loops

from minifcn.errors import DataError, ShapeError
from minifcn.metrics import Evaluation

FOUR = ("pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu")


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


def test_after_an_error_the_counts_are_as_before():
    """A bad image that is skipped must not leave half of itself in the figures."""
    evaluation = Evaluation(2, boundary_width=1)
    for labels, predictions in ([0, 1, 1, 1, 1, 7], [0, 1, 1, 1, 1, 1]), ([0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 7]):
        with pytest.raises(DataError):
            evaluation.update(np.array([labels]), np.array([predictions]))
        assert evaluation.confusion.counts.sum() == evaluation.boundary.counts.sum() == 0


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


@pytest.mark.parametrize("ignore_index", [None, -1, 255, 2])
def test_any_label_can_be_the_one_that_does_not_count(ignore_index):
    """int64 labels with −1 for void are as common as uint8 with 255; the band and each image must follow."""
    rng = np.random.default_rng(11)
    labels = np.repeat(rng.integers(0, 4, (3, 6, 4)), 2, axis=2)
    predictions = np.where(rng.random(labels.shape) < 0.7, labels, rng.integers(0, 4, labels.shape))
    if ignore_index is not None:
        labels[:, :2, 3:6] = ignore_index
    evaluation = Evaluation(4, boundary_width=1, ignore_index=ignore_index)
    evaluation.update(labels, predictions)
    expected = metrics_by_loops(labels, predictions, 4, ignore_index)
    bands = np.stack([band_by_loops(image, 1, ignore_index) for image in labels])
    expected["boundary_iu"] = metrics_by_loops(labels[bands], predictions[bands], 4, ignore_index)["mean_iu"]
    for name, value in evaluation.summary().items():
        assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)
    for image in range(3):
        own = metrics_by_loops(labels[image], predictions[image], 4, ignore_index)
        assert_allclose(evaluation.images.class_iu[image], own["class_iu"], rtol=1e-12)
        assert_allclose(evaluation.images.mean_iu[image], mean_of_numbers(own["class_iu"]), rtol=1e-12)
        near = bands[image]
        own = metrics_by_loops(labels[image][near], predictions[image][near], 4, ignore_index)
        assert_allclose(evaluation.image_boundaries.mean_iu[image], own["mean_iu"], rtol=1e-12)


def worst_first() -> Evaluation:
    """Four images: half right, nothing but void, all right, all wrong."""
    evaluation = Evaluation(2)
    labels = np.array([[[0, 0, 1, 1]], [[255] * 4], [[0, 1, 1, 1]], [[0, 0, 1, 1]]])
    predictions = np.array([[[0, 1, 0, 1]], [[0] * 4], [[0, 1, 1, 1]], [[1, 1, 0, 0]]])
    evaluation.update(labels[:1], predictions[:1], ["half"])
    evaluation.update(labels[1:], predictions[1:], ["void", "right", "wrong"])
    return evaluation


def test_each_image_keeps_its_name_and_figures():
    """Names shifted against the figures, or only the last of a batch kept."""
    evaluation = worst_first()
    assert evaluation.names == ["half", "void", "right", "wrong"]
    assert_array_equal(evaluation.images.pixel_accuracy, [0.5, math.nan, 1, 0])
    assert_allclose(evaluation.images.mean_iu, [1 / 3, math.nan, 1, 0])
    assert evaluation.images.labelled.dtype == np.int64


def test_the_worst_images_come_worst_first_and_void_ones_never():
    """NaN sorts last, but would fill the list of a small set."""
    assert worst_first().worst(2) == [3, 0]
    assert worst_first().worst(20) == [3, 0, 2]
    assert Evaluation(2).worst(20) == []


def test_images_without_names_are_numbered():
    """From 1, through all updates."""
    evaluation = Evaluation(2)
    evaluation.update(np.zeros((2, 3), int), np.zeros((2, 3), int))
    evaluation.update(np.zeros((2, 2, 3), int), np.zeros((2, 2, 3), int))
    assert evaluation.names == ["image 1", "image 2", "image 3"]


def test_what_is_not_images_with_their_names_is_refused():
    """A batch of other sizes than its predictions, flat pixels, too few names: none may be counted in part."""
    evaluation, batch = Evaluation(2), np.zeros((3, 4, 4), int)
    with pytest.raises(ShapeError, match=r"\(3, 4, 4\) but predictions \(2, 4, 4\)"):
        evaluation.update(batch, batch[:2])
    with pytest.raises(ShapeError, match="2 names for 3 images"):
        evaluation.update(batch, batch, ["a", "b"])
    with pytest.raises(ShapeError, match=r"labels of shape \(64,\)"):
        evaluation.update(np.zeros(64, int), np.zeros(64, int))
    assert evaluation.names == []
    assert evaluation.confusion.counts.sum() == 0


def test_one_bad_image_of_a_batch_leaves_out_the_whole_batch():
    """Otherwise the figures would hold the images before it, and a second try would count them twice."""
    evaluation = Evaluation(2)
    labels = np.zeros((3, 4, 4), int)
    labels[2, 0, 0] = 9
    with pytest.raises(DataError, match="label 9"):
        evaluation.update(labels, np.zeros((3, 4, 4), int))
    assert evaluation.names == []
    assert evaluation.confusion.counts.sum() == evaluation.images.labelled.sum() == 0


def test_evaluations_of_two_parts_add_up_to_that_of_the_whole():
    """The folds of a cross-validation: each picture predicted once, and one figure of all."""
    rng = np.random.default_rng(2)
    labels, predictions = rng.integers(0, 3, (2, 6, 8, 8))
    whole, first, second = Evaluation(3), Evaluation(3), Evaluation(3)
    names = [f"picture {n}" for n in range(6)]
    whole.update(labels, predictions, names)
    first.update(labels[:4], predictions[:4], names[:4])
    second.update(labels[4:], predictions[4:], names[4:])
    total = first + second
    assert total.summary() == whole.summary()
    assert total.names == names
    assert total.intervals() == whole.intervals()
    assert len(first.names) == 4  # the sum is a new one
    with pytest.raises(ShapeError, match="bands of 3 and of 5 pixels"):
        first + Evaluation(3, 5)


def test_the_baselines_are_named_rows():
    """The name of one class with the figures of another."""
    evaluation = Evaluation(3)
    evaluation.update(np.array([[0, 1, 1, 2]]), np.array([[0, 1, 1, 2]]))
    background, road = evaluation.baselines(("sky", "road", "car"))
    assert background == {"stage": "all background (sky)", **evaluation.baseline(0)}
    assert road == {"stage": "all road", **evaluation.baseline(1)}
    assert (background["pixel_accuracy"], road["pixel_accuracy"]) == (0.25, 0.5)
    with pytest.raises(ShapeError, match="2 names for the 3 classes"):
        evaluation.baselines(("sky", "road"))


def test_all_background_on_the_masks_of_voc_at_scale():
    """75 % background, 20 other classes of equal shares, in images of one class each: .75 and .75/21."""
    evaluation = Evaluation(21)
    for label in range(1, 21):
        labels = np.zeros((40, 60), dtype=np.uint8)
        labels[:20, :30] = label
        evaluation.update(labels, np.zeros_like(labels))
    assert evaluation.summary()["pixel_accuracy"] == 0.75
    assert math.isclose(evaluation.summary()["mean_iu"], 0.75 / 21)
    assert_allclose(evaluation.images.mean_iu, 0.75 / 2)  # in each image there are two classes
    assert evaluation.confusion.counts.sum() == matrix_of([0], [0], 21).counts.sum() * 20 * 40 * 60
