"""Diagrams: numbers where they belong, one scale of colour, windows outlined, alternative texts."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from minifcn.errors import ShapeError
from minifcn.visualize import feature_maps, gallery, lines, matrices


def _texts(picture):
    return [text.get_text() for axes in picture.figure.axes for text in axes.texts]


def test_a_small_matrix_shows_its_numbers_row_by_row():
    picture = matrices({"C": [[1, -2], [0.5, np.inf]]}, alt="a matrix")
    assert _texts(picture) == ["1", "−2", "0.5", "inf"]


def test_a_large_matrix_is_a_pattern_without_numbers():
    assert _texts(matrices({"C": np.ones((3, 40))}, alt="a pattern")) == []


def test_zero_is_white_and_signs_have_their_colours():
    """A scale that is not centred on zero, or orange and blue exchanged."""
    picture = matrices({"x": [[-1.0, 0.0, 4.0]]}, alt="three numbers")
    colours = picture.figure.axes[0].images[0]
    negative, zero, positive = colours.cmap(colours.norm([-4.0, 0.0, 4.0]))[:, :3]
    assert zero == pytest.approx(1, abs=1 / 255)  # the map has an even number of colours: none is the middle
    assert negative[0] > negative[2]
    assert positive[2] > positive[0]


def test_what_is_meant_is_outlined():
    picture = matrices({"x": np.eye(3)}, alt="outlined", outline={"x": [(2, 1)]})
    (frame,) = picture.figure.axes[0].patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((0.5, 1.5), 1, 1)


def test_windows_are_top_left_height_width():
    """Width before height, or pixels counted from their middle."""
    picture = gallery({"a": np.zeros((9, 12, 3))}, alt="a window", windows={"a": [(2, 3, 4, 5)]})
    (frame,) = picture.figure.axes[0].patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((2.5, 1.5), 5, 4)


def test_feature_maps_have_a_scale_of_their_own_or_a_common_one():
    maps = {"a": np.array([[0.0, 1.0]]), "b": np.array([[0.0, 10.0]])}
    own = [axes.images[0].get_clim() for axes in feature_maps(maps, alt="own").figure.axes if axes.images]
    common = [
        axes.images[0].get_clim()
        for axes in feature_maps(maps, alt="common", shared_scale=True).figure.axes
        if axes.images
    ]
    assert own == [(0, 1), (0, 10)]
    assert common == [(0, 10), (0, 10)]


def test_an_even_map_can_be_drawn():
    feature_maps({"a": np.ones((2, 2))}, alt="even", shared_scale=True)._repr_html_()


def test_lines_are_named_and_labelled():
    picture = lines({"a": ([0, 1], [2, 3])}, points={"b": ([1], [3])}, alt="a", x_label="step", y_label="loss")
    (axes,) = picture.figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_a_notebook_shows_the_picture_with_its_alternative_text(tmp_path):
    picture = matrices({"x": np.eye(2)}, alt='two ones: "diagonal" & zeros')
    page = picture._repr_html_()
    assert 'alt="two ones: &quot;diagonal&quot; &amp; zeros"' in page
    content = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])
    assert Image.open(io.BytesIO(content)).size[0] > 50
    assert repr(picture) == '[picture: two ones: "diagonal" & zeros]'
    picture.save(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == content


@pytest.mark.parametrize(
    "draw",
    [
        lambda: matrices({"x": np.zeros((2, 2, 2))}, alt=""),
        lambda: matrices({"x": []}, alt=""),
        lambda: gallery({"x": np.zeros((4, 4))}, alt=""),
        lambda: gallery({}, alt=""),
        lambda: feature_maps({}, alt=""),
        lambda: matrices({}, alt=""),
    ],
)
def test_what_cannot_be_drawn_is_an_error_that_says_why(draw):
    with pytest.raises(ShapeError):
        draw()
