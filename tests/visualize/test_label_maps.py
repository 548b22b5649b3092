"""Label maps: the right colour at the right pixel, and legends that name what is there."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pictures import BLACK, BLUE, GREEN, RED, VOID, grey, occurs

from minifcn.errors import DataError, DtypeError, ShapeError, UsageError
from minifcn.visualize import (
    PANEL,
    add_legend,
    colorize,
    legend,
    overlay,
)

CLASSES = ("background", "disc", "ring", "bar")


def test_colorize_looks_every_label_up(palette):
    """Void's colour is one of the palette, not the background's."""
    coloured = colorize(np.array([[0, 1], [255, 3]]), palette)
    assert coloured.dtype == np.uint8
    assert_array_equal(coloured, [[BLACK, RED], [VOID, BLUE]])


def test_labels_that_are_no_label_map_are_refused(palette):
    """Indexing a palette with −1 gives void's colour, with a batch or with scores something else entirely."""
    with pytest.raises(DataError, match="from -1 to 3"):
        colorize(np.array([[-1, 3]]), palette)
    with pytest.raises(DataError, match="from 0 to 256"):
        colorize(np.array([[0, 256]]), palette)
    with pytest.raises(ShapeError, match=r"shape \(1, 2, 2\)"):
        colorize(np.zeros((1, 2, 2), int), palette)
    with pytest.raises(DtypeError, match="float64"):
        colorize(np.zeros((2, 2)), palette)
    with pytest.raises(ShapeError, match=r"uint8 \(21, 3\)"):
        colorize(np.zeros((2, 2), int), palette[:21])


def test_overlay_blends_all_but_the_background(palette):
    """.6 of the colour and .4 of the image; background as in the image; void in its own colour."""
    image = grey(1, 3, 102)
    blended = overlay(image, np.array([[0, 1, 255]]), palette)
    assert blended.dtype == np.uint8
    assert_array_equal(blended, [[(102, 102, 102), (161, 41, 41), (175, 175, 156)]])  # 160.8, 40.8 and 175.2 rounded
    assert_array_equal(image, grey(1, 3, 102))  # the caller's image is not drawn upon


def test_overlay_without_a_background_blends_class_0_too(palette):
    """CamVid's class 0 is sky."""
    assert_array_equal(overlay(grey(1, 1), np.array([[0]]), palette, background=None), [[(40, 40, 40)]])
    assert_array_equal(overlay(grey(1, 1), np.array([[3]]), palette, background=3), grey(1, 1))


def test_overlay_goes_from_the_image_to_the_colours(palette):
    """alpha is the share of the colour, not of the image; nothing wraps around at 255."""
    image, labels = grey(2, 2, 255), np.array([[1, 2], [3, 255]])
    assert_array_equal(overlay(image, labels, palette, alpha=0), image)
    assert_array_equal(overlay(image, labels, palette, alpha=1), colorize(labels, palette))


def test_overlay_refuses_what_does_not_fit(palette):
    """An image of another size would be indexed out of place or not at all."""
    with pytest.raises(ShapeError, match=r"image is \(2, 3\) but the labels are \(3, 2\)"):
        overlay(grey(2, 3), np.zeros((3, 2), int), palette)
    with pytest.raises(UsageError, match="alpha is 60"):
        overlay(grey(2, 3), np.zeros((2, 3), int), palette, alpha=60)
    with pytest.raises(ShapeError, match=r"float64 \(2, 3, 3\)"):
        overlay(np.zeros((2, 3, 3)), np.zeros((2, 3), int), palette)


def test_the_legend_shows_the_classes_present_and_no_others(palette):
    """A legend of all 21 classes for a picture of two is not read."""
    strip = legend(CLASSES, palette, [255, 2, 2], width=300)
    assert strip.dtype == np.uint8
    assert strip.shape[1] == 300
    assert [occurs(colour, strip) for colour in (RED, GREEN, BLUE, VOID)] == [False, True, False, True]
    green, void = (np.argwhere((strip == colour).all(axis=2))[0, 1] for colour in (GREEN, VOID))
    assert green < void  # void comes last
    everything = legend(CLASSES, palette, width=300)
    assert [occurs(colour, everything) for colour in (RED, GREEN, BLUE, VOID)] == [True, True, True, False]


def test_the_legend_wraps_and_never_cuts_a_name(palette):
    """Narrow pictures: one class a line, and wider than asked for if a name needs it."""
    wide, narrow = legend(CLASSES, palette, width=900), legend(CLASSES, palette, width=10)
    assert narrow.shape[0] > 3 * wide.shape[0] // 2
    assert 10 < narrow.shape[1] < wide.shape[1]
    assert (narrow[:, -8:] == PANEL).all()
    left_ends = {np.argwhere((narrow == colour).all(axis=2))[:, 1].min() for colour in (RED, GREEN, BLUE)}
    assert len(left_ends) == 1  # one below the other


def test_a_class_without_a_name_is_an_error(palette):
    """Rather than a legend that leaves it out."""
    with pytest.raises(DataError, match=r"class 4 has no name; there are 4 classes \(0–3\)"):
        legend(CLASSES, palette, [0, 4])


@pytest.mark.parametrize("width", [30, 700])
def test_a_legend_goes_beneath_an_unchanged_picture(palette, width):
    """The picture keeps its pixels and its place, however narrow it is."""
    picture = np.random.default_rng(0).integers(0, 256, (40, width, 3), dtype=np.uint8)
    sheet = add_legend(picture, CLASSES, palette, np.array([[0, 1], [1, 255]]).ravel())
    assert_array_equal(sheet[:40, :width], picture)
    assert sheet.shape[1] >= width
    assert occurs(RED, sheet[40:])
    assert occurs(VOID, sheet[40:])
    assert not occurs(GREEN, sheet[40:])
