"""Label maps in colour, over their images, and with a legend."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from minifcn.errors import DataError, ShapeError, UsageError
from minifcn.visualize.style import PANEL, SWATCH_OUTLINE, TEXT, checked_palette, checked_picture, label_map, load_font


def colorize(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The label map (H, W) in the colours of the palette (256, 3): uint8 (H, W, 3)."""
    return checked_palette(palette)[label_map(labels)]  # (256, 3) at (H, W) -> (H, W, 3)


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray, *, alpha: float = 0.6, background: int | None = 0
) -> np.ndarray:
    """The image with the classes' colours blended over it, `alpha` of colour and 1 − alpha of image.

    image is uint8 (H, W, 3), labels (H, W); the result is a new uint8 (H, W, 3). Pixels of the class `background` stay
    as they are in the image, so leave it out of the legend too; give None where class 0 is a class like any other
    (CamVid's is sky). Void is blended in its own colour. Raises ShapeError if the sizes differ, UsageError if alpha is
    not in 0..1.
    """
    image, labels, palette = checked_picture(image), label_map(labels), checked_palette(palette)
    if image.shape[:2] != labels.shape:
        raise ShapeError(
            f"overlay: the image is {image.shape[:2]} but the labels are {labels.shape}; sizes must agree."
        )
    if not 0 <= alpha <= 1:
        raise UsageError(f"overlay: alpha is {alpha}, but it must lie between 0 (only image) and 1 (only colour).")
    blended = image.copy()
    coloured = np.ones(labels.shape, dtype=bool) if background is None else labels != background
    colour, picture = palette[labels[coloured]].astype(np.float32), image[coloured].astype(np.float32)  # (pixels, 3)
    blended[coloured] = np.rint(alpha * colour + (1 - alpha) * picture).astype(np.uint8)
    return blended


def legend(
    classes: Sequence[str],
    palette: np.ndarray,
    present: Iterable[int] | None = None,
    *,
    width: int = 640,
    font_size: int = 16,
    ignore_index: int = 255,
) -> np.ndarray:
    """A strip of colour swatches with the names of the classes, wrapped into as many lines as the width asks for.

    present holds the class ids to show, in any order (for example np.unique(labels)); by default all classes. The id
    `ignore_index` shows last, as "void". The strip is uint8 (h, w, 3) with w = width, or more if one name needs it.
    Raises DataError for an id without a name.
    """
    from PIL import Image, ImageDraw

    palette, font = checked_palette(palette), load_font(font_size)
    names = dict(enumerate(classes)) | {ignore_index: "void"}
    ids = (
        range(len(classes))
        if present is None
        else sorted({int(i) for i in present}, key=lambda i: (i == ignore_index, i))
    )
    for i in ids:
        if i not in names:
            raise DataError(f"legend: class {i} has no name; there are {len(classes)} classes (0–{len(classes) - 1}).")

    margin, swatch, line = font_size, round(1.5 * font_size), round(1.8 * font_size)  # all in pixels
    text_at = swatch + font_size // 2  # from the left end of an entry
    entries, x, y = [], margin, margin // 2
    for i in ids:
        entry_width = text_at + math.ceil(font.getlength(names[i]))
        if x > margin and x + entry_width > width - margin:  # does not fit beside the others
            x, y = margin, y + line
        entries.append((i, x, y))
        width = max(width, x + entry_width + margin)
        x += entry_width + round(1.5 * font_size)

    strip = Image.new("RGB", (width, y + line + margin // 2), PANEL)
    draw = ImageDraw.Draw(strip)
    for i, x, y in entries:
        middle, colour = y + line // 2, tuple(palette[i].tolist())
        draw.rectangle(
            (x, middle - font_size // 2, x + swatch, middle + font_size // 2), fill=colour, outline=SWATCH_OUTLINE
        )
        draw.text((x + text_at, middle), names[i], fill=TEXT, font=font, anchor="lm")
    return np.asarray(strip)


def add_legend(
    picture: np.ndarray,
    classes: Sequence[str],
    palette: np.ndarray,
    present: Iterable[int] | None = None,
    *,
    font_size: int | None = None,
    ignore_index: int = 255,
) -> np.ndarray:
    """The picture, unchanged, with the legend beneath it: uint8 (H + h, w, 3), see `legend`.

    The letters grow with the picture unless font_size is given. A picture narrower than the legend's longest name gets
    a panel to its right.
    """
    picture = checked_picture(picture)
    font_size = max(14, round(picture.shape[1] / 40)) if font_size is None else font_size
    strip = legend(classes, palette, present, width=picture.shape[1], font_size=font_size, ignore_index=ignore_index)
    height, width = picture.shape[:2]
    sheet = np.empty((height + strip.shape[0], strip.shape[1], 3), dtype=np.uint8)
    sheet[:] = PANEL
    sheet[:height, :width] = picture
    sheet[height:] = strip
    return sheet
