"""The band near borders, against bands drawn by hand and a search around every pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pixel_loops import band_by_loops
from strategies import random_cases

from minifcn.errors import DtypeError, ShapeError
from minifcn.metrics import boundary_band


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
    with pytest.raises(DtypeError, match="float64"):
        boundary_band(np.zeros((2, 2)), 1)


@random_cases
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([0, 1, 2, 3, 5, 9, 1000]),
    ignore_index=st.sampled_from([None, -1, 255, 0]),
    dtype=st.sampled_from([np.uint8, np.int64]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_the_band_equals_a_search_around_every_pixel(seed, width, ignore_index, dtype, size):
    """Also at the picture's edge, beyond which nothing counts, and with the band wider than the picture."""
    rng = np.random.default_rng(seed)
    values = [0] * 12 + [1, 200] + ([ignore_index] if ignore_index in (0, 255) or dtype == np.int64 else [])
    labels = rng.choice([value for value in values if value is not None], (2, *size)).astype(dtype)
    expected = [band_by_loops(image, width, ignore_index) for image in labels]
    assert_array_equal(boundary_band(labels, width, ignore_index=ignore_index), expected)
    assert_array_equal(boundary_band(labels[1], width, ignore_index=ignore_index), expected[1])


def test_a_band_of_nothing_is_nothing():
    """The extremes of no pixels are an error in NumPy."""
    assert boundary_band(np.zeros((0, 5), int), 3).shape == (0, 5)
    assert boundary_band(np.zeros((0, 4, 5), np.uint8), 3).shape == (0, 4, 5)
