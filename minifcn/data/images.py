"""Picture files in, arrays out. Whatever is wrong with a file ends in a DataError that names it.

`read_image` gives what a viewer would show, as 8-bit RGB. `read_mask` gives labels, so it never scales, mixes or
interpolates values. Both turn the picture upright if its EXIF data say that the camera was held on its side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from minifcn.data.archive import File, Packed
from minifcn.errors import DataError

Color = tuple[int, int, int]
Source = str | File

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations in which height and width change places
_UPSIDE_DOWN = (3, 4, 7, 8)  # after that: in which the first row comes last,
_MIRRORED = (2, 3, 6, 7)  # and in which the first column does
_LOSSY_FORMATS = ("JPEG", "MPO")  # MPO: the JPEG of cameras that store several pictures in one file
_PACKED_GREY = {"L;2": 85, "L;4": 17}  # Pillow spreads 2- and 4-bit grey over 0…255: by these factors


def read_image(path: Source) -> np.ndarray:
    """The picture as uint8 (H, W, 3), RGB, upright.

    Any file that Pillow opens: grey, palette, CMYK and 1-bit pictures become RGB; transparent ones are laid on white;
    16-bit grey is scaled to 8 bits (65535 -> 255), not clipped; of several frames the first is taken.

    Raises DataError, with the file's name, if it is missing, not a picture, truncated, or has more pixels than
    PIL.Image.MAX_IMAGE_PIXELS (a small file that would fill the memory, known as a decompression bomb).
    """
    with _opened(path) as image:
        return Picture(path, image)[:, :]


class Picture:
    """A picture of which parts are taken: picture[top:bottom, left:right] is uint8 (h, w, 3) as `read_image` gives it.

    It is decoded once and kept as Pillow has it, in 1 to 4 bytes a pixel: an array of the whole would be a second copy
    of what may fill most of the memory. `Picture.read(path)` opens one. shape: (H, W, 3) of the upright picture.
    """

    def __init__(self, path: Source, image: Image.Image) -> None:
        self._orientation = _orientation(image)
        image.load()
        has_many_bits = image.mode.startswith(("I", "F"))  # one channel of more than 8 bits
        self._image = _in_eight_bits(path, image) if has_many_bits else image
        width, height = image.size
        self.shape = (width, height, 3) if self._orientation in _SIDEWAYS else (height, width, 3)

    @classmethod
    def read(cls, path: Source) -> Picture:
        """The picture in a file. Raises DataError as `read_image` does."""
        with _opened(path) as image:
            picture = cls(path, image)
            picture[:1, :1]  # what cannot be made RGB is found here, where it gets the file's name
            return picture

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        height, width = self.shape[:2]
        (top, bottom, _), (left, right, _) = part[0].indices(height), part[1].indices(width)
        if self._orientation in _UPSIDE_DOWN:
            top, bottom = height - bottom, height - top
        if self._orientation in _MIRRORED:
            left, right = width - right, width - left
        box = (top, left, bottom, right) if self._orientation in _SIDEWAYS else (left, top, right, bottom)
        return _upright(_rgb(self._image.crop(box)), self._orientation)


def image_size(path: Source) -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone. Raises DataError as `read_image` does."""
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


_SAY_COLORS = (
    "this mask is in colour, and nothing says which colour is which class. Put a classes.txt beside the folders of "
    "images and masks with one line a class, `name R G B` (such as `car 64 0 128`), and a line `void R G B` if a "
    "colour means void"
)
NUMBERS_NEEDED = (
    "this mask is in colour, but the masks of this data set hold class numbers. Save it as a palette or grey PNG whose "
    "pixel values are the class numbers"
)


def read_mask(
    path: Source, colors: Mapping[Color, int] | None = None, *, without_colors: str = _SAY_COLORS
) -> np.ndarray:
    """The labels in a mask file as uint8 (H, W), untouched: no scaling, no interpolation.

    - one channel ("index" or grey PNG, 1 to 16 bits) and palette files: the stored numbers are the labels;
    - RGB files: `colors` says which colour is which label. Without `colors`, a file whose pixels all have
      red = green = blue is read as one channel; any other is refused.
    - alpha is accepted if it is opaque everywhere.

    without_colors: what to say of a file in colour if there are no `colors`, and what to do about it.

    Raises DataError, with the file's name, for whatever `read_image` refuses, and for JPEG (it alters the values along
    every edge), a colour that is not in `colors` (listed), transparency, and labels above 255.
    """
    with _opened(path) as image:
        if image.format in _LOSSY_FORMATS:
            raise DataError(
                f"{path}: this mask is a JPEG, which alters the values along every edge, so that the labels in it "
                f"cannot be trusted. Make the mask again from its source and save it as PNG."
            )
        orientation, unpack = _orientation(image), _packing(image)
        values = np.array(image)
        if image.mode in ("LA", "PA", "RGBA"):
            values = _without_alpha(path, values)
        if values.ndim == 2:
            labels = _labels_of_one_channel(path, image.mode, values) // np.uint8(unpack)
        elif image.mode in ("RGB", "RGBA"):
            labels = _labels_of_colors(path, values, colors, without_colors)
        else:
            raise DataError(
                f"{path}: a mask holds one label a pixel, but this file is in Pillow's mode {image.mode}. "
                f"Save it as a grey or palette PNG."
            )
        return _upright(labels, orientation)


def readable_suffixes() -> frozenset[str]:
    """The file name endings of pictures that Pillow can open, in lower case with the dot: .png, .jpg, .tif, …"""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def format_colors(pixels: np.ndarray, limit: int = 10) -> str:
    """The commonest colours of an (N, 3) array for a message: "(128, 0, 0) in 341 pixels, …"."""
    codes, counts = np.unique(_color_codes(pixels), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    commonest = [(int(codes[i]), counts[i]) for i in order[:limit]]
    shown = [f"({code >> 16}, {code >> 8 & 255}, {code & 255}) in {count} pixels" for code, count in commonest]
    rest = [f"and {len(order) - limit} more"] if len(order) > limit else []
    return ", ".join(shown + rest)


@contextmanager
def _opened(path: Source) -> Iterator[Image.Image]:
    """The open file; any failure, here or in the body of the `with`, becomes a DataError with the file's name."""
    try:
        with Image.open(path.open() if isinstance(path, Packed) else path) as image:
            _refuse_bomb(path, image.size)
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file. Check its name and its folder.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_bomb_message(path, str(error))) from error
    except Image.UnidentifiedImageError as error:
        size = path.size if isinstance(path, Packed) else Path(path).stat().st_size
        what = "is not a picture that Pillow can read" if size else "is empty (zero bytes)"
        raise DataError(f"{path}: this file {what}. Replace it or take it out of the data set.") from error
    except MemoryError as error:
        raise DataError(
            f"{path}: there is not enough memory for this picture. Close other programs, or scale the picture down."
        ) from error
    except Exception as error:  # damaged bytes make Pillow's readers raise almost any type
        raise DataError(
            f"{path}: this picture cannot be read; it is probably truncated or damaged "
            f"({type(error).__name__}: {error}). Replace it or take it out of the data set."
        ) from error


def _refuse_bomb(path: Source, size: tuple[int, int]) -> None:
    """Pillow itself only warns between one and two times the limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise DataError(_bomb_message(path, f"{size[1]} × {size[0]} pixels are more than {limit}"))


def _bomb_message(path: Source, reason: str) -> str:
    return (
        f"{path}: too many pixels to be opened safely ({reason}). Scale the picture down, or, if you trust the file, "
        f"raise the limit: --max-pixels of predict, PIL.Image.MAX_IMAGE_PIXELS in Python."
    )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, where 1 is upright.

    In a PNG it may stand behind the pixels, where Pillow finds it only by decoding them; so rare that we do not look.
    Damaged EXIF data are no reason to refuse a picture.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, …) by the EXIF orientation: 2–4 and 7 mirror or rotate by 180°, 6 and 8 rotate by 90°."""
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in _UPSIDE_DOWN:
        pixels = pixels[::-1]
    if orientation in _MIRRORED:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _rgb(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3), transparent pixels laid on white."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _in_eight_bits(path: Source, image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits in 8. Integers span 0…65535; floats span 0…1 or 0…255, whichever fits.

    Some rows at a time, so that a large picture is not copied as a whole.
    """
    width, height = image.size
    rows = max(1, 2**22 // width)
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    lowest, highest = zip(*((v.min(), v.max()) for v in (np.array(image.crop(box)) for box in boxes)), strict=True)
    low, high = np.min(lowest), np.max(highest)  # NaN if there is one
    integers = low.dtype.kind in "iu"
    if not (low >= 0 and high <= (65535 if integers else 255)):
        raise DataError(
            f"{path}: grey values from {low} to {high}; expected 0 to 65535 in a picture of integers, 0 to 1 or 0 to "
            f"255 in one of floats. Convert it to 8 or 16 bits."
        )
    grey = Image.new("L", image.size)
    for box in boxes:
        values = np.array(image.crop(box))
        scaled = values.astype(np.int32) / 257 if integers else values * (255 if high <= 1 else 1)  # 65535 = 257 · 255
        eight_bits = np.rint(scaled)
        grey.paste(Image.fromarray(eight_bits.astype(np.uint8)), box)
    return grey


def _packing(image: Image.Image) -> int:
    """By how much Pillow will multiply the stored grey values: 1 except for grey of 2 and 4 bits."""
    tiles = getattr(image, "tile", None)  # (codec, extent, offset, arguments), gone once the pixels are decoded
    arguments = tiles[0][3] if tiles else None
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return _PACKED_GREY.get(raw_mode, 1) if isinstance(raw_mode, str) else 1


def _without_alpha(path: Source, values: np.ndarray) -> np.ndarray:
    """(H, W, C + 1) -> (H, W, C), or (H, W) if C is 1."""
    transparent = np.count_nonzero(values[..., -1] != 255)
    if transparent:
        raise DataError(
            f"{path}: {transparent} pixels of this mask are transparent, and a transparent pixel has no clear label. "
            f"Save the mask without an alpha channel."
        )
    return values[..., 0] if values.shape[-1] == 2 else values[..., :-1]


def _labels_of_one_channel(path: Source, mode: str, values: np.ndarray) -> np.ndarray:
    if mode == "F":
        raise DataError(f"{path}: this mask holds floating-point numbers. Labels are whole numbers: save an 8-bit PNG.")
    outside = values[(values < 0) | (values > 255)] if values.dtype != bool else values[:0]
    if outside.size:
        raise DataError(
            f"{path}: label {outside[0]} and others outside 0–255 in {outside.size} pixels. "
            f"Labels are class numbers from 0 to 254, and 255 for void: number the classes so."
        )
    return values.astype(np.uint8)


def _labels_of_colors(
    path: Source, values: np.ndarray, colors: Mapping[Color, int] | None, without_colors: str
) -> np.ndarray:
    """uint8 (H, W, 3) -> (H, W): each pixel's colour is looked up among the sorted known ones."""
    if not colors:
        if (values == values[..., :1]).all():
            return values[..., 0]
        raise DataError(f"{path}: {without_colors}. Colours found: {format_colors(values)}.")
    known = sorted(colors)
    codes = _color_codes(np.array(known))  # sorted, as the colours are
    pixels = _color_codes(values)
    nearest = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    unknown = codes[nearest] != pixels
    if unknown.any():
        raise DataError(
            f"{path}: colours that classes.txt does not list: {format_colors(values[unknown])}. Add a line "
            f"`name R G B` for each (`void R G B` for pixels that should not count), or, if there are many along the "
            f"edges, make the mask again without anti-aliasing."
        )
    return np.array([colors[color] for color in known], dtype=np.uint8)[nearest]


def _color_codes(colors: np.ndarray) -> np.ndarray:
    """(…, 3) -> int32 (…): one number for each colour, in the same order."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue
