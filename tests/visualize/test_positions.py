"""Pixels of feature maps over the places where they lie in the image."""

import pytest

from minifcn.errors import ShapeError
from minifcn.visualize import positions


def test_a_pixel_is_centred_where_its_map_says():
    picture = positions({"image": (4, 1, 0), "pool": (2, 2, 0.5)}, alt="An image and its pooling.")
    boxes = [(box.get_x(), box.get_width()) for box in picture.figure.axes[0].patches]
    assert boxes == [(-0.5, 1), (0.5, 1), (1.5, 1), (2.5, 1), (-0.5, 2), (1.5, 2)]
    assert [text.get_text() for text in picture.figure.axes[0].texts] == ["0", "1", "2", "3", "0", "1"]
    assert repr(picture) == "[picture: An image and its pooling.]"


def test_outlined_pixels_stand_out():
    picture = positions({"image": (3, 1, 0)}, alt="Three pixels.", outline={"image": [1]})
    widths = {box.get_x(): box.get_linewidth() for box in picture.figure.axes[0].patches}
    assert widths[0.5] > widths[-0.5] == widths[1.5]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ShapeError, match="at least one"):
        positions({}, alt="Nothing.")
