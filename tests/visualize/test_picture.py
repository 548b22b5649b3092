"""Pictures as they are."""

import numpy as np
import pytest

from minifcn.errors import ShapeError
from minifcn.visualize import picture


def test_a_picture_is_shown_pixel_by_pixel(tmp_path):
    """A frame around it, other sizes, colours that are smoothed."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    shown = picture(pixels, alt="Noise.")
    assert shown.alt == "Noise."
    shown.save(tmp_path / "noise.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "noise.png").convert("RGB")), pixels)


def test_only_pictures_are_shown():
    with pytest.raises(ShapeError, match=r"a picture is uint8 \(H, W, 3\)"):
        picture(np.zeros((4, 4)), alt="Nothing.")
