"""Sheets of many pictures: predictions side by side, and pictures with their names."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from minifcn.errors import ShapeError, UsageError
from minifcn.visualize.label_maps import add_legend, colorize
from minifcn.visualize.style import PANEL, TEXT, checked_picture, load_font, shorten


def prediction_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
    classes: Sequence[str],
    palette: np.ndarray,
    *,
    cell_size: int = 256,
    ignore_index: int = 255,
) -> np.ndarray:
    """Images, truths and the predictions of one or more stages side by side, with a legend: uint8 (h, w, 3).

    One row an image; the columns are "image", "truth" and the keys of `predictions` in their order, each with one label
    map an image. The images may have different sizes. Each is brought to about `cell_size` pixels on its longer side:
    small ones by repeating pixels, so that single pixels stay visible; of large ones, label maps by nearest neighbour.
    The legend names the classes that occur, and void. Raises ShapeError if a column has not one map for each image.
    """
    from PIL import Image, ImageDraw

    labels = {"truth": truths, **predictions}
    for title, column in labels.items():
        if len(column) != len(images):
            raise ShapeError(f"prediction_sheet: {len(images)} images but {len(column)} label maps for {title!r}.")
    if len(images) == 0:
        raise ShapeError("prediction_sheet: there are no images to show; give at least one.")
    columns = [[fit(checked_picture(image), cell_size, smooth=True) for image in images]]
    columns += [[fit(colorize(one, palette), cell_size, smooth=False) for one in column] for column in labels.values()]

    gap, title_size = max(4, cell_size // 32), max(14, cell_size // 12)
    font, title_height = load_font(title_size), 2 * gap + title_size
    widths = [
        max(math.ceil(font.getlength(title)), *(cell.shape[1] for cell in column))
        for title, column in zip(["image", *labels], columns, strict=True)
    ]
    heights = [max(cell.shape[0] for cell in row) for row in zip(*columns, strict=True)]
    sheet = Image.new("RGB", (gap + sum(w + gap for w in widths), title_height + sum(h + gap for h in heights)), PANEL)
    draw = ImageDraw.Draw(sheet)
    x = gap
    for title, column, width in zip(["image", *labels], columns, widths, strict=True):
        draw.text((x + width // 2, title_height // 2), title, fill=TEXT, font=font, anchor="mm")
        y = title_height
        for cell, height in zip(column, heights, strict=True):
            sheet.paste(Image.fromarray(cell), (x + (width - cell.shape[1]) // 2, y))
            y += height + gap
        x += width + gap
    present = {int(i) for column in labels.values() for one in column for i in np.unique(one)}
    return add_legend(
        np.asarray(sheet), classes, palette, present, font_size=max(14, cell_size // 15), ignore_index=ignore_index
    )


def contact_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    columns: int = 4,
    cell_size: int | None = 256,
    title: str = "",
) -> np.ndarray:
    """Pictures of any sizes in a grid, row by row, each with its caption beneath: uint8 (h, w, 3).

    Each picture is brought to about `cell_size` pixels on its longer side, as in prediction_sheet; None leaves them as
    they are. A caption is one line; one that is wider than a cell loses its middle, since names differ most often at
    their ends. title: a line for the top.

    Raises ShapeError if there are no pictures or not as many captions, UsageError if columns or cell_size are not
    positive.
    """
    from PIL import Image, ImageDraw

    if len(pictures) != len(captions) or len(pictures) == 0:
        raise ShapeError(
            f"contact_sheet: {len(pictures)} pictures and {len(captions)} captions; give at least one, each with its "
            "caption."
        )
    if columns < 1 or (cell_size is not None and cell_size < 1):
        raise UsageError(f"contact_sheet: {columns} columns of {cell_size} pixels; both must be at least 1.")
    cells = [checked_picture(picture) for picture in pictures]
    if cell_size is not None:
        cells = [fit(cell, cell_size, smooth=True) for cell in cells]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    width = max(cell_size or 0, *(cell.shape[1] for cell in cells))

    gap, font_size = max(4, width // 32), max(14, min(24, width // 16))
    font, line = load_font(font_size), round(1.8 * font_size)
    sheet_width = gap + len(rows[0]) * (width + gap)
    y = line + gap if title else 0  # where the row begins
    sheet = Image.new("RGB", (sheet_width, y + gap + sum(height + line + gap for height in heights)), PANEL)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, gap + line // 2), shorten(title, font, sheet_width - 2 * gap), TEXT, font, anchor="lm")
    for first, row, height in zip(range(0, len(cells), columns), rows, heights, strict=True):
        y += gap
        for column, cell in enumerate(row):
            x = gap + column * (width + gap)
            sheet.paste(Image.fromarray(cell), (x + (width - cell.shape[1]) // 2, y + height - cell.shape[0]))
            caption = shorten(captions[first + column], font, width)
            draw.text((x + width // 2, y + height + line // 2), caption, TEXT, font, anchor="mm")
        y += height + line
    return np.asarray(sheet)


def comparison_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    captions: Sequence[str],
    classes: Sequence[str],
    palette: np.ndarray,
    *,
    title: str = "",
    columns: int = 2,
    cell_size: int = 256,
) -> np.ndarray:
    """Image, truth and prediction side by side in each cell of a contact sheet, with a legend: uint8 (h, w, 3).

    For many images with a caption each, where prediction_sheet would be too long. `cell_size` is about the longer side
    of each of the three, in pixels. Raises ShapeError unless there are as many of each, and at least one.
    """
    if not len(images) == len(truths) == len(predictions) == len(captions):
        counts = f"{len(images)} images, {len(truths)} truths, {len(predictions)} predictions, {len(captions)} captions"
        raise ShapeError(f"comparison_sheet: {counts}; there must be one of each.")
    cells = []
    for image, truth, prediction in zip(images, truths, predictions, strict=True):
        three = [fit(checked_picture(image), cell_size, smooth=True)]
        three += [fit(colorize(labels, palette), cell_size, smooth=False) for labels in (truth, prediction)]
        between = np.full((three[0].shape[0], max(2, cell_size // 64), 3), PANEL, dtype=np.uint8)
        cells.append(np.concatenate([three[0], between, three[1], between, three[2]], axis=1))
    sheet = contact_sheet(cells, captions, columns=columns, cell_size=None, title=title)
    present = {int(i) for labels in [*truths, *predictions] for i in np.unique(labels)}
    return add_legend(sheet, classes, palette, present, font_size=max(14, cell_size // 13))


def fit(picture: np.ndarray, cell_size: int, *, smooth: bool) -> np.ndarray:
    """The picture with its longer side near cell_size: enlarged by a whole factor, or shrunk to fit."""
    from PIL import Image

    height, width = picture.shape[:2]
    scale = cell_size / max(height, width)
    if scale >= 1:
        return picture.repeat(round(scale), axis=0).repeat(round(scale), axis=1)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))  # Pillow's order
    method = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, method))
