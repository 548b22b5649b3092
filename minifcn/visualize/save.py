"""Pictures as files."""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from minifcn.errors import UsageError
from minifcn.files import atomic_file, write_atomically
from minifcn.visualize.label_maps import legend, overlay
from minifcn.visualize.style import PANEL, checked_palette, checked_picture, label_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAND = 2**20  # pixels that are worked on at a time
_PNG = b"\x89PNG\r\n\x1a\n"
_PALETTE, _RGB = 3, 2  # PNG's colour types
_NO_FILTER, _UP = 0, 2  # what a row of a PNG is written as: its bytes, or their differences from the row above


def save_mask(labels: np.ndarray, palette: np.ndarray, path: str | Path) -> None:
    """Write a label map as a palette PNG, as VOC's masks are: coloured to look at, and np.asarray gives the ids."""
    palette = checked_palette(palette)
    with _png_file(path) as file:
        write_png(file, labels.shape, (label_map(labels[rows]) for rows in bands(labels.shape)), palette)


def save_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture, uint8 (H, W, 3), as PNG."""
    picture = checked_picture(picture)
    with _png_file(path) as file:
        write_png(file, picture.shape[:2], (picture[rows] for rows in bands(picture.shape)))


def save_overlay(
    image: Any,
    labels: np.ndarray,
    palette: np.ndarray,
    classes: Sequence[str],
    path: str | Path,
    *,
    alpha: float = 0.6,
    background: int | None = 0,
) -> None:
    """Write `overlay` of an image and its labels, with the legend of the classes in it beneath, as PNG.

    image: uint8 (H, W, 3), or whatever has its `shape` and gives its parts, such as a data.Picture. Only some rows at
    a time are coloured, so this takes no memory that grows with the picture.
    """
    height, width = labels.shape
    present = np.flatnonzero(pixel_counts(labels)).tolist()
    shown = [label for label in present if label != background]
    strip = legend(classes, palette, shown, width=width, font_size=min(max(14, round(width / 40)), 120))

    def sheet() -> Iterator[np.ndarray]:
        for rows in bands(labels.shape):
            band = np.empty((rows.stop - rows.start, strip.shape[1], 3), np.uint8)
            band[:] = PANEL  # beside a picture that is narrower than the legend's longest name
            band[:, :width] = overlay(image[rows, :], labels[rows], palette, alpha=alpha, background=background)
            yield band
        yield strip

    with _png_file(path) as file:
        write_png(file, (height + strip.shape[0], strip.shape[1]), sheet())


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a matplotlib figure as PNG, without the version and date that would make equal pictures differ."""
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    write_atomically(_png_path(path), content.getvalue())


def pixel_counts(labels: np.ndarray) -> np.ndarray:
    """How many pixels of a uint8 (H, W) map have each label: int64 (256,)."""
    counts = np.zeros(256, np.int64)
    for rows in bands(labels.shape):  # bincount makes 8 bytes of each
        counts += np.bincount(labels[rows].ravel(), minlength=256)
    return counts


def bands(shape: tuple[int, ...], pixels: int = _BAND) -> Iterator[slice]:
    """Rows of an array (H, W, …) in slices of about so many pixels."""
    height, width = shape[:2]
    step = max(1, pixels // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def write_png(
    file: IO[bytes], size: tuple[int, ...], rows: Iterable[np.ndarray], palette: np.ndarray | None = None
) -> None:
    """Write a PNG of (height, width) from consecutive rows: uint8 (h, W, 3), or with a palette, (256, 3), (h, W).

    It needs no memory for the whole picture, as Pillow would. Source: W3C, Portable Network Graphics, third edition.
    """
    height, width = size[:2]
    file.write(_PNG)
    kind = _RGB if palette is None else _PALETTE
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    if palette is not None:
        _write_chunk(file, b"PLTE", palette.tobytes())
    stream = zlib.compressobj()
    above: Any = 0  # before the first row
    for band in rows:
        pixels = band.reshape(len(band), -1)  # (h, W, 3) -> (h, 3·W)
        lines = np.empty((len(band), 1 + pixels.shape[1]), np.uint8)
        lines[:, 0] = _NO_FILTER if palette is not None else _UP
        lines[:, 1:] = pixels
        if palette is None:
            lines[0, 1:] -= above  # modulo 256
            lines[1:, 1:] -= pixels[:-1]
            above = pixels[-1].copy()
        _write_chunk(file, b"IDAT", stream.compress(lines.tobytes()))
    _write_chunk(file, b"IDAT", stream.flush())
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: IO[bytes], kind: bytes, content: bytes) -> None:
    check = zlib.crc32(content, zlib.crc32(kind))
    file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check))


def _png_file(path: str | Path) -> Any:
    """The file for a picture, which is written whole or not at all."""
    return atomic_file(_png_path(path))


def _png_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures and masks are written as PNG, without loss; let the name end in .png.")
    return path
