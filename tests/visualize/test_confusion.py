"""The picture of a confusion matrix: the right share in the right cell, and all of it legible."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pictures import occurs

from minifcn.errors import ShapeError
from minifcn.visualize import PANEL, TEXT, confusion_picture
from minifcn.visualize.confusion import FULL

ABSENT = (225, 225, 222)


def colour(share: float) -> tuple[int, ...]:
    """White for nothing, the full colour for everything."""
    return tuple(round(255 + share * (full - 255)) for full in FULL)


def places(wanted: tuple[int, ...], picture: np.ndarray) -> np.ndarray:
    """(rows, columns) of the pixels of this colour."""
    return np.argwhere((picture == wanted).all(axis=2))


def test_each_row_is_in_shares_of_its_class():
    """Shares of the columns or of all pixels, or a transposed matrix, have other colours in other places."""
    picture = confusion_picture(np.array([[30, 10], [0, 8]]), ("sky", "road"))
    assert picture.dtype == np.uint8
    three_quarters, quarter, everything = (places(colour(share), picture) for share in (0.75, 0.25, 1))
    assert min(len(three_quarters), len(quarter), len(everything)) > 2000
    right_of = quarter.min(axis=0) - three_quarters.min(axis=0)
    assert abs(right_of[0]) <= 1
    assert right_of[1] > 50
    below = everything.min(axis=0) - quarter.min(axis=0)
    assert below[0] > 50
    assert abs(below[1]) <= 1
    assert not occurs(ABSENT, picture)


def test_a_class_that_does_not_occur_is_grey_rather_than_empty():
    """0/0 is neither nothing nor a warning; a white row would say that nothing was predicted there."""
    picture = confusion_picture(np.array([[3, 0], [0, 0]]), ("sky", "road"))
    assert occurs(ABSENT, picture)
    assert places(ABSENT, picture)[:, 0].min() > places(colour(1), picture)[:, 0].max()
    assert len(picture) >= len(confusion_picture(np.eye(2, dtype=int), ("sky", "road")))  # the note says so


@pytest.mark.parametrize("number", [1, 2, 11, 21, 60])
def test_numbers_stay_within_their_cells_and_large_enough(number):
    """Of 60 classes in the room of two, nothing can be read."""
    counts = np.eye(number, dtype=int) * 7
    picture = confusion_picture(counts, [f"class {i}" for i in range(number)])
    full = places(colour(1), picture)
    first, last = full.min(axis=0) - 1, full.max(axis=0) + 1  # with the outline of the diagonal
    cell = int(last[0] - first[0] + 2) // number  # a pixel stays free between cells
    assert cell >= 36
    for row in range(number):
        top, left = first + row * cell
        inside = picture[top + 1 : top + cell - 2, left + 1 : left + cell - 2]
        letters = np.argwhere(inside.min(axis=2) > 200)  # white on the full colour
        assert letters[:, 0].max() - letters[:, 0].min() >= 9, "smaller digits cannot be read"
        assert letters.min() >= 2
        assert letters.max() < cell - 5
        assert (picture[top + cell - 1, left : left + cell] == PANEL).all()


def test_long_names_are_shortened_and_short_ones_are_not_widened():
    """One long name would leave no room for the matrix; names are in rows and columns alike."""
    counts = np.eye(3, dtype=int)
    short, long, longer = (
        confusion_picture(counts, ("sky", name, "road")) for name in ("car", "a" * 60, "a" * 30 + "b" * 400)
    )
    assert short.shape[0] < long.shape[0]
    assert abs(long.shape[0] - longer.shape[0]) < 15  # the width of a letter or so
    assert long.shape[0] - short.shape[0] < 200


def test_the_caption_is_wrapped_beneath():
    """Cut off at the right, the baseline would be missing."""
    counts = np.eye(2, dtype=int)
    plain, captioned = (confusion_picture(counts, ("a", "b"), caption=text) for text in ("", "word " * 60))
    height, width = plain.shape[:2]
    assert captioned.shape[1] == width
    assert captioned.shape[0] > height + 3 * 15
    assert_array_equal(captioned[: height - 10], plain[: height - 10])
    assert occurs(TEXT, captioned[height:])
    assert not (captioned[height:, -8:] != PANEL).any()


def test_a_matrix_and_its_names_must_fit():
    """Names beside the wrong rows."""
    with pytest.raises(ShapeError, match=r"\(2, 2\) and 3 class names"):
        confusion_picture(np.eye(2), ("a", "b", "c"))
    with pytest.raises(ShapeError, match=r"\(2, 3\) and 2 class names"):
        confusion_picture(np.ones((2, 3)), ("a", "b"))
    with pytest.raises(ShapeError, match="0 class names"):
        confusion_picture(np.ones((0, 0)), ())
