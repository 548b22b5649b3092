"""Matrices side by side: one scale of colour for all, or one for each."""

import numpy as np

from minifcn import visualize


def largest_colour(picture, title):
    """The value that has the darkest colour in the matrix of this title."""
    return next(axes.images[0].get_clim()[1] for axes in picture.figure.axes if axes.get_title() == title)


def test_all_matrices_share_a_scale_unless_each_has_its_own():
    named = {"small": [[0, 2]], "large": [[0, 50]]}
    together = visualize.matrices(named, alt="two rows")
    apart = visualize.matrices(named, alt="two rows", shared_scale=False)
    assert [largest_colour(together, title) for title in named] == [50, 50]
    assert [largest_colour(apart, title) for title in named] == [2, 50]


def test_a_matrix_of_zeros_and_infinities_has_a_scale():
    picture = visualize.matrices({"zeros": np.zeros((2, 2)), "frame": [[-np.inf, -3.0]]}, alt="x", shared_scale=False)
    assert largest_colour(picture, "zeros") == 1
    assert largest_colour(picture, "frame") == 3
    assert "−∞" in [text.get_text() for axes in picture.figure.axes for text in axes.texts]
    picture._repr_html_()
