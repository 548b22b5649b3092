"""What all pictures have in common: colours and letters, and the checks of what is to be drawn."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minifcn.errors import DataError, DtypeError, ShapeError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

PANEL = (246, 246, 244)  # behind text and between pictures
TEXT = (34, 34, 34)
SWATCH_OUTLINE = (120, 120, 120)  # so that black and near-white swatches show
# Blue, vermilion, green, orange, purple, sky blue, black; their yellow is too faint on a light panel.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")


@lru_cache(maxsize=16)
def load_font(size: int) -> "FreeTypeFont":
    """DejaVu Sans, which comes with matplotlib: the same letters on every machine and in every picture."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def shorten(text: str, font: "FreeTypeFont", width: int) -> str:
    """The text on one line of at most `width` pixels, with "…" in the place of its middle if it is too long."""
    text = " ".join(text.split())
    kept, shown = len(text), text
    while kept > 0 and font.getlength(shown) > width:
        kept -= 1
        shown = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
    return shown


def wrap(text: str, font: "FreeTypeFont", width: int) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words; a word that is longer stands alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def matplotlib_color(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def label_map(labels: np.ndarray) -> np.ndarray:
    """Labels as uint8 (H, W), or an error that says what is wrong with them."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iub":
        raise DtypeError(
            f"labels are {labels.dtype}, but classes are integers; of scores, take the argmax over classes."
        )
    if labels.ndim != 2 or labels.size == 0:
        raise ShapeError(f"labels have shape {labels.shape}, but a label map is (H, W); take one image of a batch.")
    if labels.min() < 0 or labels.max() > 255:
        raise DataError(
            f"labels reach from {labels.min()} to {labels.max()}, but a palette has colours for 0–255 only."
        )
    return labels.astype(np.uint8)


def checked_picture(picture: np.ndarray) -> np.ndarray:
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ShapeError(
            f"a picture is uint8 (H, W, 3), but this is {picture.dtype} {picture.shape}; "
            "give the image as it was read, before normalisation."
        )
    return picture


def checked_palette(palette: np.ndarray) -> np.ndarray:
    palette = np.asarray(palette)
    if palette.dtype != np.uint8 or palette.shape != (256, 3):
        raise ShapeError(
            f"a palette is uint8 (256, 3), one RGB colour for each label and void, "
            f"but this is {palette.dtype} {palette.shape}."
        )
    return palette
