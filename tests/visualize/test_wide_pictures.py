"""Panels take the form of what they show."""

import numpy as np

from minifcn.visualize import feature_maps, gallery


def test_a_wide_picture_gets_a_wide_panel():
    """In a square panel, a strip of 64 × 160 pixels is a third as large as it could be, between two empty bands."""
    square = gallery({"square": np.zeros((64, 64, 3))}, alt="").figure.get_size_inches()
    wide = gallery({"wide": np.zeros((64, 160, 3))}, alt="").figure.get_size_inches()
    assert wide[1] == square[1]
    assert wide[0] == 2.5 * square[0]


def test_many_wide_maps_still_fit_on_a_page():
    figure = feature_maps({str(number): np.zeros((10, 100)) for number in range(5)}, columns=3, alt="").figure
    width, height = figure.get_size_inches()
    assert width <= 11.001
    assert height < 4
