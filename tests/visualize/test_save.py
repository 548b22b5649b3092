"""Pictures as files: whole, without loss, the same bytes again."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pictures import grey
from PIL import Image

from minifcn.errors import UsageError
from minifcn.visualize import (
    add_legend,
    bands,
    colorize,
    curves,
    overlay,
    pixel_counts,
    save,
    save_figure,
    save_mask,
    save_overlay,
    save_picture,
)

CLASSES = ("background", "disc", "ring", "bar")


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


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (50, 3), (37, 53)])
def test_pictures_written_some_rows_at_a_time_are_whole(tmp_path, monkeypatch, palette, shape):
    """The first row of a band taken for the difference from nothing; a last band of fewer rows left out."""
    monkeypatch.setattr(save, "bands", lambda shape: bands(shape, 100))
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, 4, shape, np.uint8)
    save_picture(pixels, tmp_path / "picture.png")
    save_mask(labels, palette, tmp_path / "mask.png")
    save_overlay(pixels, labels, palette, CLASSES, tmp_path / "overlay.png", alpha=0.3)
    for name, expected in {"picture": pixels, "mask": labels}.items():
        with Image.open(tmp_path / f"{name}.png") as image:
            assert_array_equal(np.asarray(image), expected)
    with Image.open(tmp_path / "overlay.png") as image:
        present = set(np.unique(labels)) - {0}
        expected = add_legend(overlay(pixels, labels, palette, alpha=0.3), CLASSES, palette, present)
        assert_array_equal(np.asarray(image), expected)
    assert pixel_counts(labels)[:4].tolist() == np.bincount(labels.ravel(), minlength=4).tolist()


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
