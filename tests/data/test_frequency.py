"""Class frequencies, and the weights made of them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minifcn.data import VOID, Folder, Sample, Shapes, voc_palette
from minifcn.data.frequency import PixelCounts, class_frequencies, class_weights, count_pixels
from minifcn.errors import DataError, UsageError


class Masks:
    """A data set of the given masks, which remembers what was read."""

    palette, name = voc_palette(), "masks"

    def __init__(self, *masks, num_classes):
        self.masks, self.read = [np.array(mask, np.uint8) for mask in masks], []
        self.classes = tuple("abcdefgh"[:num_classes])

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        self.read.append(index)
        mask = self.masks[index]
        return Sample(np.zeros((*mask.shape, 3), np.uint8), mask, f"mask-{index}")


# Two masks of six pixels. a: 3 of 5 and 3 of 6 labelled ones; b: 2 of 5; c: 3 of 6; d never occurs.
TWO = [[0, 0, 0], [1, 1, VOID]], [[2, 2, 2], [0, 0, 0]]


def test_frequencies_by_hand():
    """Shares of all pixels (b: 2/11), void counted among the labelled ones (b: 2/6), or a mean of ratios."""
    counts = count_pixels(Masks(*TWO, num_classes=4))
    assert counts.pixels.tolist() == [6, 2, 3, 0]
    assert counts.around.tolist() == [11, 5, 6, 0]
    assert counts.absent == [3]
    assert_array_equal(class_frequencies(counts), [6 / 11, 2 / 5, 3 / 6, np.nan])


def test_the_median_class_weighs_one_and_an_absent_one_nothing():
    """The median of 6/11, 2/5 and 1/2 is 1/2; with the absent class as 0 among them it would be lower."""
    weights = class_weights(count_pixels(Masks(*TWO, num_classes=4)), "median-frequency")
    assert weights.dtype == np.float32
    assert_allclose(weights, [11 / 12, 5 / 4, 1, 0], rtol=1e-6)
    assert weights[2] == 1


def test_of_an_even_number_of_classes_the_lower_middle_one_weighs_one():
    """NumPy's median lies between the two, and no class would have weight 1."""
    counts = PixelCounts(np.array([10, 20, 30, 40]), np.array([100] * 4))
    assert_allclose(class_weights(counts, "median-frequency"), [2, 1, 2 / 3, 1 / 2], rtol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_median_class_weighs_exactly_one(seed):
    """0.99999994, from a product with 1/median."""
    pixels = np.random.default_rng(seed).integers(1, 10**6, 11)
    weights = class_weights(PixelCounts(pixels, np.full(11, 10**7)), "median-frequency")
    assert weights[np.argsort(pixels)[5]] == 1
    assert (np.diff(weights[np.argsort(pixels)]) < 0).all()


def test_inverse_frequency_weights_are_the_balanced_ones():
    """n / (C n_c) where every image holds every class, as scikit-learn's "balanced": their mean over pixels is 1."""
    pixels = np.array([700, 200, 100])
    weights = class_weights(PixelCounts(pixels, np.full(3, 1000)), "inverse-frequency")
    assert weights.dtype == np.float32
    assert_allclose(weights, 1000 / (3 * pixels), rtol=1e-6)


@pytest.mark.parametrize("weighting", ["median-frequency", "inverse-frequency"])
def test_weights_are_inversely_proportional_to_frequencies(weighting):
    """A square root, a logarithm, or shares of all pixels."""
    counts = count_pixels(Masks(*TWO, num_classes=4))
    weights = class_weights(counts, weighting)
    products = weights[:3] * class_frequencies(counts)[:3]
    assert_allclose(products, products[0], rtol=1e-6)
    if weighting == "inverse-frequency":
        assert (weights * counts.pixels).sum() / counts.pixels.sum() == pytest.approx(1)


def test_each_sample_is_read_once():
    """Two passes over a data set take twice as long; a progress bar that is not told leaves the user alone."""
    dataset, shown = Masks(*TWO * 3, num_classes=3), []

    def progress(items):
        shown.append(len(items))
        return items

    count_pixels(dataset, progress=progress)
    assert dataset.read == [0, 1, 2, 3, 4, 5]
    assert shown == [6]


def test_a_part_is_spread_over_the_data_set():
    """The first images of a video are all alike; a random part would differ from run to run."""
    dataset = Masks(*[[[0]]] * 10, num_classes=1)
    assert count_pixels(dataset, most=4).pixels.tolist() == [4]
    assert dataset.read == [0, 2, 5, 7]
    dataset.read.clear()
    assert count_pixels(dataset, most=99).pixels.tolist() == [10]
    assert dataset.read == list(range(10))


def test_masks_are_scaled_before_they_are_counted():
    """A thin line that training never sees would be weighed as if it did."""
    line = np.zeros((8, 8), int)
    line[:, 0] = 1
    dataset = Masks(line, num_classes=2)
    assert count_pixels(dataset).pixels.tolist() == [56, 8]
    assert count_pixels(dataset, size=(2, 4)).pixels.tolist() == [8, 0]
    assert count_pixels(dataset, size=16).pixels.tolist() == [224, 32]


def test_what_cannot_be_counted_is_refused_by_name():
    """An IndexError, a division by zero, or a label that is no class passed over in silence."""
    with pytest.raises(DataError, match="mask-1: label 2 in 3 pixels, but the data set has 2 classes"):
        count_pixels(Masks(*TWO, num_classes=2))
    with pytest.raises(UsageError, match="most is 0"):
        count_pixels(Masks(*TWO, num_classes=3), most=0)
    counts = count_pixels(Masks([[VOID]], num_classes=2))
    assert counts.absent == [0, 1]
    with pytest.raises(DataError, match="no pixel has a label"):
        class_weights(counts, "median-frequency")
    with pytest.raises(UsageError, match="'equal': choose one of median-frequency, inverse-frequency"):
        class_weights(PixelCounts(np.ones(2, int), np.ones(2, int)), "equal")


def test_drawn_pictures_are_three_quarters_background():
    """A part of `shapes` is enough: the weights of 60 pictures lie near those of 120 others."""
    first = count_pixels(Shapes(size=48), most=60)
    second = count_pixels(Shapes(size=48, seed=1), most=120)
    assert class_frequencies(first)[0] == pytest.approx(0.75, abs=0.02)  # 60 pictures are a sample: 0.003 off
    weights = [class_weights(counts, "median-frequency") for counts in (first, second)]
    assert (weights[0] == 1).sum() == 1  # of nine classes
    assert_allclose(*weights, rtol=0.3)  # of two samples: the rarest class differs by a fifth
    assert weights[0][0] < 0.2


def test_camvid(shared_data):
    """The published shares of all pixels; the frequencies, over fewer images, can only be higher."""
    counts = count_pixels(Folder(shared_data / "camvid", "train"))
    shares = [0.1754, 0.2421, 0.0102, 0.3296, 0.0467, 0.1012, 0.0122, 0.0117, 0.0611, 0.0067, 0.0030]
    assert_allclose(counts.pixels / counts.pixels.sum(), shares, rtol=0, atol=5e-5)  # given to 4 digits
    assert (class_frequencies(counts) >= counts.pixels / counts.pixels.sum()).all()
    weights = class_weights(counts, "median-frequency")
    assert (weights == 1).sum() == 1
    assert weights.argmin() == 3  # road
    assert weights.argmax() == 10  # bicyclist
