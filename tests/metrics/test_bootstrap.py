"""Bootstrap intervals: of images, not of pixels; right as often as they say; none where there can be none."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minifcn.errors import UsageError
from minifcn.metrics import ClassCounts, Evaluation
from minifcn.metrics.bootstrap import resample


def evaluation_of(*predictions, labels=(1, 1, 1, 1), num_classes=2) -> Evaluation:
    """Images of one row, all with the same truth."""
    evaluation = Evaluation(num_classes, boundary_width=1)
    for one in predictions:
        evaluation.update(np.array([labels]), np.array([one]))
    return evaluation


RIGHT, WRONG = (1, 1, 1, 1), (0, 0, 0, 0)


@pytest.mark.parametrize(("confidence", "expected"), [(0.95, (0, 1)), (0.4, (0.5, 0.5)), (0.6, (0, 1))])
def test_of_one_right_and_one_wrong_image_a_quarter_of_the_resamples_are_all_wrong(confidence, expected):
    """Draws of 2 of 2: both wrong 1/4, one of each 1/2, both right 1/4. The middle 40 % are all one of each, the middle
    60 % not; an interval over pixels, or one that leaves out `confidence` instead of keeping it, gives others."""
    assert evaluation_of(RIGHT, WRONG).intervals(confidence).figures["pixel_accuracy"] == expected


def test_images_that_are_alike_leave_no_doubt():
    """An interval of pixels would be [.2, .8] or so."""
    intervals = evaluation_of(*[(1, 1, 0, 0)] * 9).intervals()
    assert intervals.figures["pixel_accuracy"] == (0.5, 0.5)
    assert intervals.figures["mean_iu"] == (0.25, 0.25)
    assert intervals.class_iu == [(0, 0), (0.5, 0.5)]


def test_each_figure_has_its_own_interval():
    """Accuracy's interval beside the mean IU, or one class's beside another."""
    rng = np.random.default_rng(4)
    evaluation = Evaluation(3, boundary_width=1)
    labels = rng.integers(0, 3, (12, 3, 3)).repeat(4, axis=1).repeat(4, axis=2)
    evaluation.update(labels, np.where(rng.random(labels.shape) < rng.random((12, 1, 1)), labels, (labels + 1) % 3))
    intervals = evaluation.intervals()
    assert list(intervals.figures) == list(evaluation.summary())
    found = [*intervals.figures.values(), *intervals.class_accuracy, *intervals.class_iu]
    confusion = evaluation.confusion
    figures = [*evaluation.summary().values(), *confusion.class_accuracy, *confusion.class_iu]
    for interval, figure in zip(found, figures, strict=True):
        assert interval[0] <= figure <= interval[1]
    assert len(set(found)) == len(found)


def test_a_resample_is_as_large_as_the_set_and_drawn_with_replacement():
    """Sums of too few images, of each image once, or of one image in accuracy and of another in the band."""
    pixels = 10 ** np.arange(5)[:, np.newaxis]  # the digits of a sum tell how often each image was drawn
    counts = ClassCounts(pixels, pixels, pixels)
    whole, band = resample(counts, counts, 250, np.random.default_rng(0))
    assert whole.correct.shape == (250, 1)
    times = np.array([[int(digit) for digit in f"{int(total):05d}"] for total in whole.correct[:, 0]])
    assert (times.sum(axis=1) == 5).all()
    assert times.max() > 1
    assert times.min() == 0
    assert len(np.unique(times, axis=0)) > 60  # of 126 possible ones; a block must not repeat the block before
    assert abs(times.mean(axis=0) - 1).max() < 0.2  # each image as often as any other
    for one in (whole.labelled, whole.predicted, band.correct, band.labelled, band.predicted):
        assert_array_equal(one, whole.correct)


def test_one_image_has_no_interval():
    """Every resample of one image is that image: [x, x] would claim to be certain."""
    intervals = evaluation_of((1, 0, 1, 1)).intervals()
    assert set(intervals.figures.values()) == {None}
    assert intervals.class_iu == intervals.class_accuracy == [None, None]
    empty = Evaluation(2).intervals()
    assert set(empty.figures.values()) == {None}
    assert empty.class_iu == [None, None]


def test_a_class_in_one_image_has_no_interval_though_the_others_have():
    """The same, for the figures to which only one image contributes; void alone contributes to none."""
    evaluation = evaluation_of(RIGHT, (1, 1, 1, 0), num_classes=4)
    evaluation.update(np.array([[2, 2, 255, 255]]), np.array([[2, 1, 0, 0]]))
    evaluation.update(np.array([[255, 255]]), np.array([[3, 3]]))
    intervals = evaluation.intervals()
    assert [interval is None for interval in intervals.class_accuracy] == [True, False, True, True]
    assert [interval is None for interval in intervals.class_iu] == [True, False, True, True]
    assert intervals.figures["mean_iu"] is not None
    assert intervals.figures["boundary_iu"] is None  # only the third has a border
    alone = evaluation_of(RIGHT)
    alone.update(np.array([[255, 255]]), np.array([[0, 0]]))
    assert alone.intervals().figures["pixel_accuracy"] is None


def test_intervals_repeat_unless_another_generator_is_given():
    """A report that changes from one call to the next; or a generator that is not used."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (8, 5, 5))
    evaluation = Evaluation(3)
    evaluation.update(labels, np.where(rng.random(labels.shape) < rng.random((8, 1, 1)), labels, 0))
    assert evaluation.intervals() == evaluation.intervals()
    assert evaluation.intervals(rng=np.random.default_rng(1)) != evaluation.intervals()


def test_a_baseline_has_intervals_too():
    """Those of the network beside the baseline's figures."""
    evaluation = evaluation_of(RIGHT, RIGHT)
    evaluation.update(np.array([[0, 0, 0, 0]]), np.array([[1, 1, 0, 0]]))
    (row, other) = evaluation.baselines(("sky", "road"), 0.95)
    assert row["pixel_accuracy"] == pytest.approx(1 / 3)
    assert row["intervals"]["pixel_accuracy"] == (0, 1)
    assert row["intervals"] == evaluation.intervals(predicted_class=0).figures
    assert other["intervals"] == evaluation.intervals(predicted_class=1).figures
    assert "intervals" not in evaluation.baselines(("sky", "road"))[0]


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, float("nan")])
def test_a_confidence_is_a_share(confidence):
    """95 instead of 0.95 would be a percentile of −4650."""
    with pytest.raises(UsageError, match=r"confidence .* between 0 and 1"):
        evaluation_of(RIGHT, WRONG).intervals(confidence)


def test_an_interval_holds_the_true_figure_as_often_as_it_says():
    """Over 300 sets of 40 images from one population, of whose pixels those of an image are right or wrong together.

    Too narrow an interval (of pixels, or of another share of the resamples) fails the lower bound, one that is too wide
    (of resamples with fewer images) the upper. Three standard errors of 300 sets are .05.
    """
    rng, sets, images, pixels = np.random.default_rng(9), 300, 40, 400
    held = dict.fromkeys(["pixel_accuracy", "mean_iu"], 0)
    skills = rng.beta(4, 2, size=(sets, images))  # the share of an image's pixels that is right: 2/3 on average
    truth = {"pixel_accuracy": 2 / 3, "mean_iu": 1 / 2}  # with two classes of equal size: (2/3) / (1 + 1/3)
    for skill in skills:
        right = rng.binomial(pixels, skill[:, np.newaxis], size=(images, 2))
        labelled = np.full((images, 2), pixels)
        counts = ClassCounts(right, labelled, right + (pixels - right)[:, ::-1])
        evaluation = Evaluation(2)
        evaluation.names = [""] * images
        evaluation._images = [ClassCounts(*(part[i] for part in vars(counts).values())) for i in range(images)]
        evaluation._image_boundaries = evaluation._images
        figures = evaluation.intervals(0.9, resamples=300, rng=rng).figures
        for name, true in truth.items():
            low, high = figures[name]
            held[name] += low <= true <= high
    for name, count in held.items():
        assert 0.9 - 0.06 < count / sets < 0.9 + 0.05, f"{name}, seed 9"


def test_a_resample_without_the_class_says_nothing_about_it():
    """A class in 2 of 12 images is absent from one resample in ten; as an IU of 0 it would pull the interval down."""
    evaluation = evaluation_of(*[RIGHT] * 10, num_classes=3)
    for _ in range(2):
        evaluation.update(np.array([[2, 2]]), np.array([[2, 2]]))
    intervals = evaluation.intervals()
    assert intervals.class_iu == [None, (1, 1), (1, 1)]
    assert intervals.class_accuracy == [None, (1, 1), (1, 1)]
