"""Pictures: the right colour at the right pixel, sizes, files that are whole, the same bytes again."""

import csv
import io
import math
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from minifcn import visualize
from minifcn.errors import DataError, DtypeError, ShapeError, UsageError
from minifcn.visualize import (
    PANEL,
    add_legend,
    colorize,
    curves,
    legend,
    overlay,
    prediction_sheet,
    save_figure,
    save_mask,
    save_picture,
)

CLASSES = ("background", "disc", "ring", "bar")
BLACK, RED, GREEN, BLUE, VOID = (0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200), (224, 224, 192)


@pytest.fixture
def palette() -> np.ndarray:
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[[0, 1, 2, 3, 255]] = [BLACK, RED, GREEN, BLUE, VOID]
    return colours


def occurs(colour: tuple[int, int, int], picture: np.ndarray) -> bool:
    return bool((picture == colour).all(axis=2).any())


def grey(height: int, width: int, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


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


def test_a_saved_mask_gives_its_ids_back(palette, tmp_path):
    """An RGB or grey file would open in a viewer too, but np.asarray would not give the ids and the colours."""
    labels = np.arange(256).reshape(16, 16)
    save_mask(labels, palette, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "P"
        assert_array_equal(np.asarray(mask), labels)
        assert_array_equal(np.asarray(mask.convert("RGB")), colorize(labels, palette))
    save_mask(np.zeros((2, 3), dtype=np.int64), palette, tmp_path / "empty.png")  # one label only
    with Image.open(tmp_path / "empty.png") as mask:
        assert_array_equal(np.asarray(mask), np.zeros((2, 3)))


def test_masks_are_png_and_nothing_else(palette, tmp_path):
    """JPEG changes labels; a PNG under the name of a JPEG misleads."""
    with pytest.raises(UsageError, match=r"mask\.jpg: .* PNG"):
        save_mask(np.zeros((2, 2), int), palette, tmp_path / "mask.jpg")
    with pytest.raises(UsageError, match="PNG"):
        save_picture(grey(2, 2), tmp_path / "picture")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    """A full disk in mid-picture: half a file under the final name, or a stray temporary one."""
    resource = pytest.importorskip("resource", reason="limits on the size of files are set the POSIX way")
    path = tmp_path / "picture.png"
    save_picture(grey(4, 4), path)
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # 12 kB however well compressed
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_picture(noise, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_and_figures_repeat_byte_for_byte(tmp_path):
    """A date or a version in the file makes every run's pictures differ."""
    rows = [{"stage": "8s", "step": step, "loss": 1 / (step + 1), "mean_iu": ""} for step in range(5)]
    for name in ("first.png", "second.png"):
        curves(rows, tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    with Image.open(tmp_path / "first.png") as picture:
        assert "Software" not in picture.info
    save_picture(grey(3, 5, 7), tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as picture:
        assert_array_equal(np.asarray(picture), grey(3, 5, 7))


def test_curves_read_the_rows_of_a_csv_file():
    """Text instead of numbers, empty cells, and rows with only one of the two values."""
    text = "stage,step,loss,mean_iu\n32s,1,2.5,\n32s,2,1.5,0.25\n8s,3,,0.5\n8s,4,nan,\n8s,5,0.5,\n"
    figure = curves(csv.DictReader(io.StringIO(text)))
    losses, ius = ([line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes)
    assert losses == [[[1, 2.5], [2, 1.5]], [[5, 0.5]]]
    assert ius == [[[2, 25]], [[3, 50]]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["32s", "8s"]
    assert figure.axes[0].lines[0].get_color() == figure.axes[1].lines[0].get_color()
    assert figure.axes[0].lines[0].get_color() != figure.axes[0].lines[1].get_color()


def test_stages_that_each_count_from_the_start_follow_one_another():
    """Drawn over one another, the stages cannot be told to build on each other."""
    rows = [{"stage": stage, "step": step, "loss": 1.0} for stage in ("32s", "16s", "8s") for step in (0, 5, 10)]
    lines = curves(rows).axes[0].lines
    assert [line.get_xdata().tolist() for line in lines] == [[0, 5, 10], [10, 15, 20], [20, 25, 30]]


def test_long_curves_are_drawn_raw_and_smoothed():
    """The running mean must not bend down at the ends, as one that pads with zeros does, nor shift the curve."""
    rows = [{"stage": "32s", "step": i, "loss": 3 + (-1) ** i, "mean_iu": None} for i in range(400)]
    raw, smooth = (line.get_ydata() for line in curves(rows).axes[0].lines)
    assert set(raw) == {2, 4}
    assert np.abs(smooth - 3).max() <= 1 / 11  # a window of at least 11 values of an alternating ±1
    steps, values = np.arange(400.0), np.arange(400.0)
    ramp = visualize._running_mean(values)
    assert_array_equal(ramp[10:-10], steps[10:-10])


def test_curves_of_a_run_that_has_just_begun_are_empty_axes(tmp_path):
    """matplotlib warns of a legend without entries."""
    curves([], tmp_path / "curves.png")
    curves([{"stage": "32s", "step": 0, "loss": math.inf}], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert np.asarray(picture)[0, 0, :3].tolist() == list(PANEL)  # its own light panel, not see-through


def test_more_stages_than_colours_differ_in_their_dashes():
    """The eighth stage would look like the first."""
    figure = curves([{"stage": str(n), "step": 0, "loss": n} for n in range(9)])
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == 9


def test_a_figure_is_saved_with_its_panel(tmp_path):
    """A user's matplotlib settings may ask for transparent files, which no dark page shows well."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"savefig.facecolor": "none"}):
        save_figure(Figure(figsize=(1, 1), facecolor="#102030"), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert np.asarray(picture)[0, 0, :3].tolist() == [0x10, 0x20, 0x30]


def test_importing_visualize_is_light_and_drawing_leaves_pyplot_alone():
    """pyplot picks a display and keeps every figure alive; importing it takes half a second."""
    program = (
        "import sys; from minifcn import visualize\n"
        "assert 'matplotlib' not in sys.modules\n"
        "visualize.curves([{'stage': '8s', 'step': 0, 'loss': 1}])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
