"""Sheets: each picture in its place, with its name, unchanged."""

import numpy as np
import pytest
from pictures import BLUE, GREEN, RED, VOID, grey

from minifcn.errors import ShapeError, UsageError
from minifcn.visualize import (
    colorize,
    comparison_sheet,
    contact_sheet,
    prediction_sheet,
)
from minifcn.visualize.style import load_font, shorten

CLASSES = ("background", "disc", "ring", "bar")


def test_a_sheet_has_a_row_an_image_and_a_column_a_stage(palette):
    """Columns in the wrong order, or the truth of one image beside another."""
    images = [grey(8, 8, 60), grey(8, 8, 160)]
    truths = [np.full((8, 8), 1), np.full((8, 8), 255)]
    predictions = {"32s": [np.full((8, 8), 2), np.full((8, 8), 3)], "8s": [np.full((8, 8), 3), np.full((8, 8), 1)]}
    sheet = prediction_sheet(images, truths, predictions, CLASSES, palette, cell_size=64)

    def centre(colour: tuple[int, int, int], among: np.ndarray) -> np.ndarray:
        """(row, column) of the middle of a 64 px cell of this colour; swatches and letters are smaller."""
        solid = (among == colour).all(axis=2)
        windows = np.lib.stride_tricks.sliding_window_view(solid, (64, 64)).all(axis=(2, 3))
        return np.argwhere(windows).mean(axis=0) + 32

    middle = (centre((60,) * 3, sheet)[0] + centre((160,) * 3, sheet)[0]) / 2
    first, second = sheet[: int(middle)], sheet[int(middle) :]
    in_first = [centre(colour, first)[1] for colour in ((60,) * 3, RED, GREEN, BLUE)]
    in_second = [centre(colour, second)[1] for colour in ((160,) * 3, VOID, BLUE, RED)]
    assert in_first == in_second == sorted(in_first)
    assert len(set(in_first)) == 4


def test_a_sheet_repeats_pixels_and_invents_no_colours(palette):
    """Smoothing a label map makes colours of classes that are not there."""
    labels = np.random.default_rng(2).choice([1, 2, 3, 255], (16, 12))
    sheet = prediction_sheet([grey(16, 12)], [labels], {"8s": [labels]}, CLASSES, palette, cell_size=48)
    enlarged = colorize(labels, palette).repeat(3, axis=0).repeat(3, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, enlarged.shape)[:, :, 0]
    assert np.count_nonzero((windows == enlarged).all(axis=(2, 3, 4))) == 2  # the truth and one prediction


def test_a_sheet_takes_images_of_different_sizes_and_shrinks_large_ones(palette):
    """VOC's images: each at its own aspect, label maps by nearest neighbour."""
    shapes = [(300, 500), (500, 200), (3, 900)]
    labels = [np.random.default_rng(4).choice([1, 3], shape) for shape in shapes]
    sheet = prediction_sheet([grey(*shape) for shape in shapes], labels, {}, CLASSES, palette, cell_size=100)
    titles = sheet.shape[0] - 60 - 100 - 1  # what is left for the title, gaps and legend
    assert 0 < titles < 120
    coloured = sheet[(sheet[:, :, 0] > 150) & (sheet[:, :, 1] < 60)]  # red, and what mixing it would give
    assert set(map(tuple, coloured.tolist())) == {RED}


def test_a_sheet_needs_one_map_for_each_image(palette):
    """zip would drop the rest without a word."""
    labels = np.zeros((4, 4), int)
    with pytest.raises(ShapeError, match="2 images but 1 label maps for '16s'"):
        prediction_sheet([grey(4, 4)] * 2, [labels] * 2, {"16s": [labels]}, CLASSES, palette)
    with pytest.raises(ShapeError, match="no images"):
        prediction_sheet([], [], {}, CLASSES, palette)


def corners(picture: np.ndarray, sheet: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of each place where the picture stands in the sheet, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, picture.shape)[:, :, 0]
    return [(int(row), int(column)) for row, column in np.argwhere((windows == picture).all(axis=(2, 3, 4)))]


def test_a_contact_sheet_is_filled_row_by_row(palette):
    """Column by column, or a picture over another; heights differ, and captions stand on one line."""
    sizes = [(8, 16), (16, 8), (4, 16), (16, 16), (16, 4)]
    pictures = [grey(*size, 70 + 40 * number) for number, size in enumerate(sizes)]
    sheet = contact_sheet(pictures, ["a", "b", "c", "d", "e"], columns=3, cell_size=16)
    assert sheet.dtype == np.uint8
    places = [corners(picture, sheet) for picture in pictures]
    assert [len(place) for place in places] == [1] * 5
    (a, b, c, d, e) = (place[0] for place in places)
    assert a[1] < b[1] < c[1]
    assert a[0] + 8 == b[0] + 16 == c[0] + 4  # the captions' line begins below all three
    assert d[1] == a[1]
    assert d[0] == e[0] > a[0] + 8 + 14
    marked = contact_sheet(pictures, ["", "", "", "", "MMM"], columns=3, cell_size=16)
    under_e = np.argwhere(marked[:, b[1] - 6 : b[1] + 14].max(axis=2) < 60)[:, 0]  # letters
    assert under_e.min() >= e[0] + 16
    assert len(contact_sheet(pictures, ["a"] * 5, columns=9, cell_size=16)[0]) < 2 * len(sheet[0])  # no empty columns


def test_a_contact_sheet_scales_to_its_cells_or_not_at_all():
    """Whole factors, so that single pixels stay visible; large pictures shrink; None leaves them as they are."""
    picture = np.random.default_rng(1).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    assert corners(picture.repeat(3, axis=0).repeat(3, axis=1), contact_sheet([picture], ["x"], cell_size=60))
    assert corners(picture, contact_sheet([picture], ["x"], cell_size=None))
    assert contact_sheet([grey(500, 1000)], ["x"], cell_size=64).shape[1] < 100


def caption_of(sheet: np.ndarray, rows: int) -> np.ndarray:
    """Which pixels of the last rows are darker than the panel: letters."""
    return sheet[-rows:].max(axis=2) < 150


def test_captions_keep_within_their_cells():
    """A long name runs into the next one's, or off the sheet; the ends of names are what tells them apart."""
    names = ["picture_of_the_long_series_0001.png", "picture_of_the_long_series_0002.png"]
    first, second = (contact_sheet([grey(8, 128)] * 2, [name, ""], columns=2, cell_size=128) for name in names)
    assert not caption_of(first, 20)[:, 4 + 128 :].any()
    assert caption_of(first, 20)[:, 100 : 4 + 128].any()
    assert not np.array_equal(first, second)
    font = load_font(14)
    assert shorten("short", font, 100) == "short"
    assert shorten("a b\nc", font, 100) == "a b c"
    middle = shorten(names[0], font, 100)
    assert middle.startswith("pict")
    assert middle.endswith(".png")
    assert "…" in middle
    assert font.getlength(middle) <= 100 < font.getlength(middle + "mm")
    assert shorten("wide", font, 1) == "…"  # something must stand there


def test_a_caption_may_be_any_file_name():
    """Line breaks and bytes of another encoding are errors in Pillow."""
    contact_sheet([grey(8, 8)] * 3, ["two\nlines", "\udcff.png", ""], cell_size=32)


def test_a_title_stands_above_all_pictures():
    """Over the first row, or pushing it out of the sheet."""
    plain, titled = (contact_sheet([grey(40, 40)], ["x"], cell_size=40, title=title) for title in ("", "worst"))
    (above,), (below,) = corners(grey(40, 40), plain), corners(grey(40, 40), titled)
    assert below[1] == above[1]
    assert below[0] - above[0] == len(titled) - len(plain) > 14
    assert caption_of(titled[: below[0]], below[0]).any()


def test_a_contact_sheet_needs_pictures_with_captions():
    """zip would drop the rest without a word."""
    with pytest.raises(ShapeError, match="2 pictures and 1 captions"):
        contact_sheet([grey(4, 4)] * 2, ["a"])
    with pytest.raises(ShapeError, match="0 pictures"):
        contact_sheet([], [])
    with pytest.raises(UsageError, match="0 columns"):
        contact_sheet([grey(4, 4)], ["a"], columns=0)
    with pytest.raises(UsageError, match="of 0 pixels"):
        contact_sheet([grey(4, 4)], ["a"], cell_size=0)
    with pytest.raises(ShapeError, match=r"uint8 \(0, 4, 3\)"):
        contact_sheet([grey(0, 4)], ["a"])


def test_a_comparison_has_image_truth_and_prediction_side_by_side(palette):
    """The truth in the place of the prediction, or of another image; and no colours that are in no palette."""
    images = [grey(16, 16, 60), grey(16, 16, 160)]
    truths, predictions = [np.full((16, 16), 1), np.full((16, 16), 2)], [np.full((16, 16), 3), np.full((16, 16), 255)]
    sheet = comparison_sheet(images, truths, predictions, ["a", "b"], CLASSES, palette, columns=1, cell_size=48)
    rows = []
    for colours in (((60,) * 3, RED, BLUE), ((160,) * 3, GREEN, VOID)):
        blocks = [np.full((48, 48, 3), colour, dtype=np.uint8) for colour in colours]
        places = [corners(block, sheet)[0] for block in blocks]
        assert len({place[0] for place in places}) == 1
        assert [place[1] for place in places] == sorted(place[1] for place in places)
        rows.append(places[0][0])
    assert rows[0] < rows[1]
    with pytest.raises(ShapeError, match="2 images, 1 truths, 2 predictions, 2 captions"):
        comparison_sheet(images, truths[:1], predictions, ["a", "b"], CLASSES, palette)


def test_a_comparison_takes_images_of_different_sizes_and_mixes_no_labels(palette):
    """VOC's images; shrunk with smoothing, label maps get colours of classes that are not there."""
    shapes = [(300, 500), (500, 200), (3, 900)]
    labels = [np.random.default_rng(4).choice([1, 3], shape) for shape in shapes]
    images = [grey(*shape) for shape in shapes]
    sheet = comparison_sheet(images, labels, labels, ["x"] * 3, CLASSES, palette, cell_size=100)
    coloured = sheet[(sheet[:, :, 0] > 150) & (sheet[:, :, 1] < 60)]
    assert set(map(tuple, coloured.tolist())) == {RED}
