"""read_image and image_size: every kind of file, and every way in which a file can be broken."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from minifcn.data import Picture, image_size, read_image
from minifcn.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
WIDE = np.array([[0, 257, 128 * 257], [65535, 1000, 32768]], dtype=np.uint16)


def save(path, array, mode=None, **options):
    Image.fromarray(array).convert(mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


def assert_plain(image, shape):
    assert image.shape == shape
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


def test_rgb_png_comes_back_as_it_is(tmp_path):
    """Channels in the order BGR, or height and width exchanged."""
    path = save(tmp_path / "a.png", RGB)
    assert_array_equal(read_image(path), RGB)
    assert_plain(read_image(str(path)), (5, 7, 3))
    assert image_size(path) == (5, 7)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_one_channel_becomes_three(tmp_path, mode):
    """A palette picture read as its indices, or grey without channels."""
    path = save(tmp_path / "a.png", RGB, mode)
    assert_plain(read_image(path), (5, 7, 3))
    assert_array_equal(read_image(path), np.array(Image.open(path).convert("RGB")))


def test_transparent_pixels_lie_on_white(tmp_path):
    """Dropping alpha shows whatever colour is hidden behind it, often black."""
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    assert read_image(save(tmp_path / "a.png", rgba))[0].tolist() == [[10, 20, 30], [255, 255, 255], [204, 204, 204]]
    grey = save(tmp_path / "la.png", rgba, "LA")
    assert read_image(grey)[0, 1].tolist() == [255, 255, 255]


def test_transparent_palette_entry_lies_on_white(tmp_path):
    """Palette pictures keep transparency beside the pixels, where a check for alpha channels misses it."""
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode=None)
    image = image.convert("P")
    image.putpalette([0, 0, 0, 50, 60, 70])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png")[0].tolist() == [[255, 255, 255], [50, 60, 70]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    """Pillow's convert("RGB") clips: everything above 255 turns white."""
    path = save(tmp_path / f"a{suffix}", WIDE)
    assert_plain(read_image(path), (2, 3, 3))
    assert read_image(path)[..., 0].tolist() == [[0, 1, 128], [255, 4, 128]]


def test_thirty_two_bit_integers_are_read_as_sixteen_bits(tmp_path):
    """Older Pillow and PGM files deliver 16-bit grey in 32-bit integers."""
    path = save(tmp_path / "a.tif", WIDE.astype(np.int32))
    assert read_image(path)[..., 1].tolist() == [[0, 1, 128], [255, 4, 128]]


@pytest.mark.parametrize(("scale", "name"), [(1.0, "unit"), (255.0, "byte")])
def test_floats_span_one_or_255(tmp_path, scale, name):
    """Floats between 0 and 1 that are cast to integers are a black picture."""
    path = save(tmp_path / f"{name}.tif", np.array([[0, 0.2, 1]], dtype=np.float32) * np.float32(scale))
    assert read_image(path)[0, :, 2].tolist() == [0, 51, 255]


def test_values_of_unknown_range_are_refused(tmp_path):
    """Any scaling would be a guess, and clipping a loss."""
    for name, array in {"f": np.array([[-1.0, 9000]], np.float32), "i": np.array([[0, 70000]], np.int32)}.items():
        with pytest.raises(DataError, match=rf"{name}\.tif.*8 or 16 bits"):
            read_image(save(tmp_path / f"{name}.tif", array))


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    """Four channels, or inverted colours."""
    red = np.zeros((16, 16, 3), dtype=np.uint8)
    red[..., 0] = 255
    path = save(tmp_path / "a.jpg", red, "CMYK")
    image = read_image(path)
    assert_plain(image, (16, 16, 3))
    assert np.abs(image.astype(int) - red).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """A camera held on its side: pictures lie down, and masks drawn on the upright picture do not fit."""
    corner = np.zeros((16, 32, 3), dtype=np.uint8)  # the stored picture: bright where the row is 0 and the column is 0
    corner[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", corner, exif=exif)
    # EXIF 2.3, table "Orientation": where the stored row 0 and column 0 are in the scene
    row0, column0 = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    image = read_image(path)
    assert_plain(image, (16, 32, 3) if orientation < 5 else (32, 16, 3))
    assert image_size(path) == image.shape[:2]
    rows = slice(0, 8) if "top" in (row0, column0) else slice(-8, None)
    columns = slice(0, 8) if "left" in (row0, column0) else slice(-8, None)
    assert image[rows, columns].min() > 200
    assert image.mean() < 70


def test_exif_orientation_is_that_of_pillow(tmp_path):
    """An asymmetric picture tells a transposition from a rotation, which a bright corner does not."""
    from PIL import ImageOps

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / f"{orientation}.png", RGB, exif=exif)
        assert_array_equal(read_image(path), np.array(ImageOps.exif_transpose(Image.open(path))))


def test_damaged_exif_is_no_reason_to_refuse(tmp_path):
    """The picture itself is whole."""
    path = save(tmp_path / "a.png", RGB, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f" + b"\xff" * 20)
    assert_array_equal(read_image(path), RGB)


def test_first_frame_of_several_is_taken(tmp_path):
    """Moving pictures and multi-page files: the last frame, or an array of four dimensions."""
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


# ---------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_named(tmp_path, suffix, share):
    """A grey lower half, a traceback from deep inside Pillow, or a message that does not say which file."""
    big = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"broken{suffix}", big)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"broken\.\w+: .*(truncated|empty|not a picture)"):
        read_image(path)


def test_empty_file_is_called_empty(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"a\.jpg.*zero bytes"):
        image_size(tmp_path / "a.jpg")


def test_text_with_a_picture_s_name_is_refused(tmp_path):
    """A download that failed leaves an HTML page."""
    (tmp_path / "a.png").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"a\.png.*not a picture"):
        read_image(tmp_path / "a.png")


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: there is no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match=tmp_path.name):
        read_image(tmp_path)


@pytest.mark.parametrize("limit", [34, 20, 10])
def test_bombs_are_refused_by_size_alone(tmp_path, monkeypatch, limit):
    """35 pixels: up to twice the limit Pillow only warns, beyond it raises an error of its own."""
    path = save(tmp_path / "bomb.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"bomb\.png.*MAX_IMAGE_PIXELS"):
            read(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_where_warnings_are_ignored(tmp_path, monkeypatch):
    """Outside the tests a warning is only a line on the terminal."""
    path = save(tmp_path / "bomb.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    with pytest.raises(DataError, match=r"bomb\.png.*MAX_IMAGE_PIXELS"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 35)
    assert_array_equal(read_image(path), RGB)


def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path):
    """A PNG of a hundred bytes that declares 60,000 × 60,000 pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DataError, match=r"a\.png: too many pixels"):
        read_image(tmp_path / "a.png")


def test_random_damage_only_ever_raises_data_errors(tmp_path):
    """Pillow raises SyntaxError, struct.error, KeyError and more for damaged files; none of them may pass."""
    rng = np.random.default_rng(2)
    originals = [save(tmp_path / f"o{s}", RGB).read_bytes() for s in (".png", ".jpg", ".tif", ".gif", ".bmp", ".webp")]
    path = tmp_path / "damaged"
    for _ in range(300):
        content = bytearray(originals[rng.integers(len(originals))])
        for _ in range(rng.integers(1, 6)):
            content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            assert read_image(path).ndim == 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_parts_of_a_picture_are_those_of_the_whole(tmp_path, orientation):
    """A part taken where the stored picture has it, before it is turned; rows for columns; a range scaled by itself."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    palette = Image.fromarray(RGB).convert("P")
    paths = [
        save(tmp_path / "rgb.png", RGB, exif=exif),
        save(tmp_path / "deep.tif", WIDE, exif=exif),
        save(tmp_path / "floats.tif", np.array([[0, 0.2], [1, 0.5], [0.1, 0.3]], np.float32), exif=exif),
    ]
    palette.save(tmp_path / "palette.png", transparency=0, exif=exif)
    for path in (*paths, tmp_path / "palette.png"):
        whole, picture = read_image(path), Picture.read(path)
        assert picture.shape == whole.shape
        for part in (np.s_[:, :], np.s_[1:2, :], np.s_[:, 0:1], np.s_[0:2, 1:2], np.s_[1:, -1:]):
            assert_array_equal(picture[part], whole[part])
            assert picture[part].flags.c_contiguous


def test_a_picture_that_fits_in_no_memory_says_so(tmp_path, monkeypatch):
    """Called truncated: a sound picture would be thrown away."""

    def load(image):
        raise MemoryError

    path = save(tmp_path / "large.png", RGB)
    monkeypatch.setattr(Image.Image, "load", load)
    for read in (read_image, Picture.read):
        with pytest.raises(DataError, match=r"large\.png: there is not enough memory"):
            read(path)
