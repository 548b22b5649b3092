"""Preprocessing: from the bytes of a picture to the numbers that a network was trained on."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minifcn.errors import WeightsError
from minifcn.weights import Preprocessing

CAFFE = Preprocessing("BGR", scale=1, mean=(104.00698793, 116.66876762, 122.67891434), std=(1, 1, 1))


def test_one_pixel_by_hand():
    """RGB given as BGR, a mean in the wrong units, a std that is forgotten or multiplied."""
    image = np.array([[[255, 0, 51]]], np.uint8)
    simple = Preprocessing("RGB", scale=1 / 255, mean=(0.5, 0.25, 0), std=(0.5, 0.25, 0.1))
    assert_allclose(simple.apply(image)[:, 0, 0], [1, -1, 2], rtol=1e-6)
    # In BGR order the mean's first number is blue's.
    assert_allclose(CAFFE.apply(image)[:, 0, 0], [51 - 104.00698793, 0 - 116.66876762, 255 - 122.67891434], rtol=1e-6)


def test_the_default_is_torchvisions():
    """Any of the six numbers mistyped: black and white, as torchvision gives them."""
    black, white = Preprocessing().apply(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))[:, 0].T
    assert_allclose(black, [-2.117904, -2.035714, -1.804444], atol=1e-6)
    assert_allclose(white, [2.248908, 2.428571, 2.64], atol=1e-6)


@pytest.mark.parametrize("preprocessing", [Preprocessing(), CAFFE], ids=["RGB", "BGR"])
def test_the_result_is_float32_contiguous_and_channels_first(preprocessing):
    """float64 images (twice the memory); a strided view, which is slow to convolve; height and width exchanged."""
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    before = image.copy()
    for view in (image, image[::-1], image[:, ::-1]):  # flipped pictures are views with negative steps
        result = preprocessing.apply(view)
        assert (result.dtype, result.shape) == (np.float32, (3, 4, 5))
        assert result.flags.c_contiguous
        order = [0, 1, 2] if preprocessing.channel_order == "RGB" else [2, 1, 0]
        for number, channel in enumerate(order):
            expected = (view[:, :, channel] * preprocessing.scale - preprocessing.mean[number]) / preprocessing.std[
                number
            ]
            assert_allclose(result[number], expected, rtol=1e-5, atol=1e-5)
    assert_array_equal(image, before)


@pytest.mark.parametrize("preprocessing", [Preprocessing(), CAFFE], ids=["RGB", "BGR"])
def test_its_record_gives_it_back(preprocessing):
    """A field that is not saved; tuples that come back from JSON as lists, so that equal ones compare as unequal."""
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_a_record_with_missing_fields_takes_the_defaults():
    """KeyError from files of other programs, which have no record."""
    assert Preprocessing.from_dict({}) == Preprocessing()


@pytest.mark.parametrize(
    "values",
    [
        {"channel_order": "GBR"},
        {"channel_order": 3},
        {"mean": [0.5, 0.5]},
        {"mean": 0.5},
        {"mean": ["a", "b", "c"]},
        {"mean": [float("nan"), 0, 0]},
        {"std": [1, 1, 0]},
        {"std": [1, 1, -1]},
        {"std": [1, float("nan"), 1]},
        {"std": ["a", "b", "c"]},
        {"std": None},
        {"scale": "x"},
        {"scale": 0},
        {"scale": None},
        {"scale": float("inf")},
        {"gamma": 2.2},
        {"mean": {"R": 1}},
    ],
)
def test_numbers_that_cannot_be_are_refused(values):
    """A division by zero, or a TypeError from the middle of training, instead of the name of what is wrong."""
    with pytest.raises(WeightsError, match="preprocessing: "):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize("values", [[], None, 3, "RGB"])
def test_a_record_that_is_no_record_is_refused(values):
    """AttributeError: 'list' object has no attribute 'items'."""
    with pytest.raises(WeightsError, match="preprocessing: "):
        Preprocessing.from_dict(values)
