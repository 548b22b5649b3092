"""read_mask: labels come back exactly, or not at all."""

import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from minifcn.data import read_mask, voc_palette
from minifcn.errors import DataError

LABELS = np.array([[0, 1, 2], [20, 254, 255]], dtype=np.uint8)
COLORS = {(0, 0, 0): 0, (128, 64, 0): 1, (0, 64, 128): 2, (255, 255, 255): 255}


def save(path, image, **options):
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def assert_labels(path, expected, colors=None):
    labels = read_mask(path, colors)
    assert labels.dtype == np.uint8
    assert labels.flags.c_contiguous
    assert labels.flags.writeable
    assert_array_equal(labels, expected)


def test_grey_and_palette_masks_give_their_numbers(tmp_path):
    """A palette mask converted to RGB or to grey gives colours or brightness, not labels."""
    assert_labels(save(tmp_path / "l.png", LABELS), LABELS)
    palette = Image.fromarray(LABELS).convert("L")
    palette = Image.frombytes("P", palette.size, palette.tobytes())
    palette.putpalette(voc_palette().tobytes())
    assert_labels(save(tmp_path / "p.png", palette), LABELS)
    assert_labels(save(tmp_path / "t.png", palette, transparency=0), LABELS)


def test_one_bit_masks_are_0_and_1(tmp_path):
    """Pillow shows 1-bit pixels as 0 and 255 when asked for grey."""
    assert_labels(save(tmp_path / "a.png", Image.fromarray(LABELS > 1)), [[0, 0, 1], [1, 1, 1]])


@pytest.mark.parametrize(("bits", "row", "expected"), [(2, 0b00_01_10_11, [0, 1, 2, 3]), (4, 0x0F, [0, 15])])
def test_grey_of_two_and_four_bits_is_not_spread(tmp_path, bits, row, expected):
    """Pillow multiplies such values by 85 or 17 so that they fill 0…255."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", len(expected), 1, bits, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, row])))
    (tmp_path / "a.png").write_bytes(png + chunk(b"IEND", b""))
    assert_labels(tmp_path / "a.png", [expected])


def test_sixteen_bit_masks_are_accepted_up_to_255(tmp_path):
    """Scaled as images are, every label would become 0."""
    assert_labels(save(tmp_path / "a.png", LABELS.astype(np.uint16)), LABELS)
    with pytest.raises(DataError, match=r"b\.png: label 300 .*1 pixels"):
        read_mask(save(tmp_path / "b.png", np.array([[0, 300]], dtype=np.uint16)))


def test_colour_masks_are_looked_up(tmp_path):
    """Red and blue exchanged, or a neighbouring colour taken for a known one."""
    expected = np.array([[0, 1, 2], [255, 2, 1]])
    lookup = {label: color for color, label in COLORS.items()}
    rgb = np.array([[lookup[label] for label in row] for row in expected.tolist()], dtype=np.uint8)
    assert_labels(save(tmp_path / "a.png", rgb), expected, COLORS)


def test_random_colour_masks_agree_with_a_loop(tmp_path):
    rng = np.random.default_rng(3)
    palette = rng.permutation(voc_palette())
    colors = {tuple(color): label for label, color in enumerate(palette[:50].tolist())}
    expected = rng.integers(0, 50, (40, 30))
    rgb = np.array([[palette[label] for label in row] for row in expected], dtype=np.uint8)
    assert_labels(save(tmp_path / "a.png", rgb), expected, colors)


@pytest.mark.parametrize("stranger", [(0, 0, 1), (127, 64, 0), (255, 255, 254), (64, 0, 128)])
def test_unknown_colours_are_listed_with_counts(tmp_path, stranger):
    """A search among sorted colours that does not compare at the end labels strangers as their neighbours."""
    rgb = np.zeros((4, 4, 3), dtype=np.uint8)
    rgb[1:3, 1:3] = stranger
    with pytest.raises(DataError) as caught:
        read_mask(save(tmp_path / "a.png", rgb), COLORS)
    assert f"{stranger} in 4 pixels" in str(caught.value)
    assert "a.png" in str(caught.value)
    assert "(0, 0, 0)" not in str(caught.value)


def test_colour_masks_without_a_list_say_how_to_write_one(tmp_path):
    rgb = np.zeros((4, 4, 3), dtype=np.uint8)
    rgb[0] = 128, 64, 0
    with pytest.raises(DataError, match=r"a\.png.*name R G B.*\(0, 0, 0\) in 12 pixels, \(128, 64, 0\) in 4 pixels"):
        read_mask(save(tmp_path / "a.png", rgb))


def test_only_ten_colours_are_listed(tmp_path):
    """A photograph given as a mask has thousands."""
    rgb = np.random.default_rng(4).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    with pytest.raises(DataError) as caught:
        read_mask(save(tmp_path / "a.png", rgb))
    assert str(caught.value).count(" pixels") == 10
    assert "and 390 more" in str(caught.value)


def test_grey_saved_as_rgb_is_read_as_numbers(tmp_path):
    """Many programs write three equal channels; there is no other way to read them."""
    assert_labels(save(tmp_path / "a.png", np.stack([LABELS] * 3, axis=-1)), LABELS)


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    """Transparent black is not background: nobody said what it is."""
    alpha = np.full((2, 3), 255, dtype=np.uint8)
    assert_labels(save(tmp_path / "a.png", np.dstack([LABELS, LABELS, LABELS, alpha])), LABELS)
    assert_labels(save(tmp_path / "b.png", Image.merge("LA", [Image.fromarray(x) for x in (LABELS, alpha)])), LABELS)
    alpha[0, 0] = 254
    with pytest.raises(DataError, match=r"c\.png: 1 pixels .*transparent"):
        read_mask(save(tmp_path / "c.png", np.dstack([LABELS, LABELS, LABELS, alpha])))


def test_jpeg_is_refused_whatever_its_name(tmp_path):
    """JPEG invents values along edges; renamed to .png it still does."""
    Image.fromarray(LABELS).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(DataError, match=r"a\.png: this mask is a JPEG.*PNG"):
        read_mask(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["F", "CMYK"])
def test_modes_that_hold_no_labels_are_refused(tmp_path, mode):
    with pytest.raises(DataError, match=r"a\.tif"):
        read_mask(save(tmp_path / "a.tif", Image.new(mode, (3, 2))))


def test_masks_are_turned_as_images_are(tmp_path):
    """An editor that copies EXIF data into the mask's file: picture upright, mask lying down."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert_labels(save(tmp_path / "a.png", LABELS, exif=exif), np.rot90(LABELS, -1))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_masks_are_named(tmp_path, share):
    path = save(tmp_path / "a.png", np.random.default_rng(5).integers(0, 9, (64, 64), dtype=np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"a\.png"):
        read_mask(path)
