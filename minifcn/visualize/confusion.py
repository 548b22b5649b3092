"""A confusion matrix as a picture."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minifcn.errors import ShapeError
from minifcn.visualize.style import PANEL, TEXT, load_font, shorten, wrap

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from PIL.ImageFont import FreeTypeFont

FULL = (0, 114, 178)  # the blue of LINE_COLORS, for 100 %; 0 % is white
LONGEST_NAME = 200  # pixels; longer ones lose their middle

_NOTE = "Each row is a true class: of its pixels, how many per cent were predicted as what. Empty: none."
_ABSENT = " A grey row: the class does not occur in the truth."


def confusion_picture(counts: np.ndarray, classes: Sequence[str], *, caption: str = "") -> np.ndarray:
    """A confusion matrix with names and numbers: uint8 (h, w, 3).

    counts is (C, C), rows the truth, as ConfusionMatrix.counts; each row is shown in per cent of its sum, so that rare
    classes are seen as well as frequent ones. The diagonal, outlined, is what was predicted correctly. The picture
    grows with the number of classes, so that the numbers stay legible. caption: a line for beneath.

    Raises ShapeError if counts is not square or the names are not as many as its rows.
    """
    from PIL import Image, ImageDraw

    counts = np.asarray(counts)
    number = len(classes)
    if counts.shape != (number, number) or number == 0:
        raise ShapeError(
            f"confusion_picture: counts of shape {counts.shape} and {number} class names; "
            "expected (C, C) and a name for each of the C classes."
        )
    cell = max(36, min(90, 900 // number))
    decimals, number_size, font_size = (1, cell // 4, 16) if number <= 12 else (0, 2 * cell // 5, 15)
    font, margin = load_font(font_size), font_size
    names = [shorten(name, font, LONGEST_NAME) for name in classes]
    label = math.ceil(max(font.getlength(name) for name in names)) + margin // 2  # room for the names
    left = top = 4 * margin + label  # of the matrix: the axis' title and the names stand before
    size = number * cell
    width = max(left + size + margin, 560)
    notes = wrap(_NOTE + (_ABSENT if (counts.sum(axis=1) == 0).any() else ""), font, width - 2 * margin)
    notes += wrap(caption, font, width - 2 * margin)
    line = round(1.5 * font_size)

    sheet = Image.new("RGB", (width, top + size + margin + line * len(notes) + margin // 2), PANEL)
    draw = ImageDraw.Draw(sheet)
    draw.text((left + size // 2, 2 * margin), "prediction", fill=TEXT, font=load_font(font_size + 4), anchor="mm")
    _upright(sheet, "truth", (2 * margin, top + size // 2), load_font(font_size + 4), middle=True)
    for index, name in enumerate(names):
        middle = top + index * cell + cell // 2  # the same from the left, since left = top
        draw.text((left - margin // 2, middle), name, fill=TEXT, font=font, anchor="rm")
        _upright(sheet, name, (middle, top - margin // 2), font, middle=False)
    sheet.paste(_matrix(counts, cell, decimals, load_font(number_size)), (left, top))
    for index, text in enumerate(notes):
        draw.text((margin, top + size + margin + index * line + line // 2), text, fill=TEXT, font=font, anchor="lm")
    return np.asarray(sheet)


def _matrix(counts: np.ndarray, cell: int, decimals: int, font: "FreeTypeFont") -> "PillowImage":
    """The cells: a Pillow image of C · cell pixels each way."""
    from PIL import Image, ImageDraw

    number, sums = len(counts), counts.sum(axis=1)
    image = Image.new("RGB", (number * cell, number * cell), PANEL)
    draw = ImageDraw.Draw(image)
    for row, column in np.ndindex(counts.shape):
        box = (column * cell, row * cell, (column + 1) * cell - 2, (row + 1) * cell - 2)  # 1 pixel stays between cells
        if sums[row] == 0:
            draw.rectangle(box, fill=(225, 225, 222))
            continue
        share = counts[row, column] / sums[row]
        fill = tuple(round(255 + share * (full - 255)) for full in FULL)
        draw.rectangle(box, fill=fill, outline=TEXT if row == column else None)
        if counts[row, column] > 0:
            middle = (box[0] + cell // 2, box[1] + cell // 2)
            text, color = f"{100 * share:.{decimals}f}", TEXT if share < 0.8 else (255, 255, 255)
            draw.text(middle, text, fill=color, font=font, anchor="mm")
    return image


def _upright(sheet: "PillowImage", text: str, at: tuple[int, int], font: "FreeTypeFont", *, middle: bool) -> None:
    """Draw text that is read from below, centred upon a point (x, y) or, by default, beginning there."""
    from PIL import Image, ImageDraw

    length, line = math.ceil(font.getlength(text)) + 2, 2 * round(font.size)
    strip = Image.new("RGB", (length, line), PANEL)
    ImageDraw.Draw(strip).text((1, line // 2), text, fill=TEXT, font=font, anchor="lm")
    x, y = at
    sheet.paste(strip.rotate(90, expand=True), (x - line // 2, y - length // 2 if middle else y - length))
