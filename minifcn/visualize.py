"""Pictures for people: label maps in colour, overlays, legends, sheets of predictions, training curves.

One visual language: every picture brings its own light panel with dark text, so that it is legible on light and dark
pages; lines have the colours of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers can tell
apart; classes have the colours of the data set's palette, and void (255) has its own, named "void".

Pictures are uint8 (H, W, 3) RGB, label maps integers (H, W) from 0 to 255, palettes uint8 (256, 3), sizes in pixels.
Nothing here needs a display: matplotlib is used through Figure, without pyplot and its global state. Files appear whole
or not at all, and the same content gives the same bytes.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minifcn.errors import DataError, DtypeError, ShapeError, UsageError
from minifcn.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.ImageFont import FreeTypeFont

PANEL = (246, 246, 244)  # behind text and between pictures
TEXT = (34, 34, 34)
SWATCH_OUTLINE = (120, 120, 120)  # so that black and near-white swatches show
# Blue, vermilion, green, orange, purple, sky blue, black; their yellow is too faint on a light panel.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")


def colorize(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The label map (H, W) in the colours of the palette (256, 3): uint8 (H, W, 3)."""
    return _checked_palette(palette)[_label_map(labels)]  # (256, 3) at (H, W) -> (H, W, 3)


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray, *, alpha: float = 0.6, background: int | None = 0
) -> np.ndarray:
    """The image with the classes' colours blended over it, `alpha` of colour and 1 − alpha of image.

    image is uint8 (H, W, 3), labels (H, W); the result is a new uint8 (H, W, 3). Pixels of the class `background` stay
    as they are in the image, so leave it out of the legend too; give None where class 0 is a class like any other
    (CamVid's is sky). Void is blended in its own colour. Raises ShapeError if the sizes differ, UsageError if alpha is
    not in 0..1.
    """
    image, labels, palette = _checked_picture(image), _label_map(labels), _checked_palette(palette)
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

    palette, font = _checked_palette(palette), _font(font_size)
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
    picture = _checked_picture(picture)
    font_size = max(14, round(picture.shape[1] / 40)) if font_size is None else font_size
    strip = legend(classes, palette, present, width=picture.shape[1], font_size=font_size, ignore_index=ignore_index)
    height, width = picture.shape[:2]
    sheet = np.empty((height + strip.shape[0], strip.shape[1], 3), dtype=np.uint8)
    sheet[:] = PANEL
    sheet[:height, :width] = picture
    sheet[height:] = strip
    return sheet


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
    columns = [[_fit(_checked_picture(image), cell_size, smooth=True) for image in images]]
    columns += [[_fit(colorize(one, palette), cell_size, smooth=False) for one in column] for column in labels.values()]

    gap, title_size = max(4, cell_size // 32), max(14, cell_size // 12)
    font, title_height = _font(title_size), 2 * gap + title_size
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


def curves(rows: Iterable[Mapping[str, Any]], path: str | Path | None = None) -> "Figure":
    """Loss and mean IU against the step, one colour for each stage; written to `path` as PNG if one is given.

    rows are those of metrics.csv, numbers or their text, with the keys "stage", "step", "loss" and "mean_iu" (a
    fraction). A value that is missing, empty, NaN or infinite is left out, so a row may hold only one of the two.
    Stages that count their steps from the start are drawn one after the other, in the order of the rows. A long curve
    of losses is drawn twice: faint as it is, and in full as a running mean.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(rows)
    stages = list(dict.fromkeys(str(row["stage"]) for row in rows))
    figure = Figure(figsize=(9, 7), dpi=100, layout="constrained", facecolor=_matplotlib(PANEL))
    FigureCanvasAgg(figure)
    loss_axes, iu_axes = figure.subplots(2, 1, sharex=True)
    end = 0.0  # where the stage before ended
    for number, stage in enumerate(stages):
        # When the colours are used up, the next round is dashed.
        style: dict[str, Any] = {
            "color": LINE_COLORS[number % len(LINE_COLORS)],
            "linestyle": ("-", "--", ":")[number // len(LINE_COLORS) % 3],
        }
        own = [row for row in rows if str(row["stage"]) == stage]
        begin = end if float(own[0]["step"]) <= end else 0.0
        end = begin + float(own[-1]["step"])
        steps, losses = _points(own, "loss")
        smooth = _running_mean(losses)
        if smooth is not losses:
            loss_axes.plot(begin + steps, losses, linewidth=1, alpha=0.3, **style)
        loss_axes.plot(begin + steps, smooth, linewidth=2.5, label=stage, **style)
        steps, mean_ius = _points(own, "mean_iu")
        iu_axes.plot(begin + steps, 100 * mean_ius, linewidth=2.5, marker="o", markersize=6, **style)
    _label_axes(loss_axes, "loss")
    _label_axes(iu_axes, "mean IU %")
    iu_axes.set_xlabel("step", fontsize=15, color=_matplotlib(TEXT))
    for axes in (loss_axes, iu_axes):
        axes.set_ylim(bottom=0)
    if stages:
        loss_axes.legend(fontsize=14, framealpha=0.9, facecolor=_matplotlib(PANEL), labelcolor=_matplotlib(TEXT))
    if path is not None:
        save_figure(figure, path)
    return figure


def save_mask(labels: np.ndarray, palette: np.ndarray, path: str | Path) -> None:
    """Write a label map as a palette PNG, as VOC's masks are: coloured to look at, and np.asarray gives the ids."""
    from PIL import Image

    mask = Image.fromarray(_label_map(labels))
    mask.putpalette(_checked_palette(palette).tobytes())
    content = io.BytesIO()
    mask.save(content, format="PNG")
    _write_png(path, content.getvalue())


def save_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture, uint8 (H, W, 3), as PNG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(_checked_picture(picture)).save(content, format="PNG")
    _write_png(path, content.getvalue())


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a matplotlib figure as PNG, without the version and date that would make equal pictures differ."""
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    _write_png(path, content.getvalue())


def _write_png(path: str | Path, content: bytes) -> None:
    """Write a picture, whole or not at all."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures and masks are written as PNG, without loss; let the name end in .png.")
    write_atomically(path, content)


def _label_map(labels: np.ndarray) -> np.ndarray:
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


def _checked_picture(picture: np.ndarray) -> np.ndarray:
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ShapeError(
            f"a picture is uint8 (H, W, 3), but this is {picture.dtype} {picture.shape}; "
            "give the image as it was read, before normalisation."
        )
    return picture


def _checked_palette(palette: np.ndarray) -> np.ndarray:
    palette = np.asarray(palette)
    if palette.dtype != np.uint8 or palette.shape != (256, 3):
        raise ShapeError(
            f"a palette is uint8 (256, 3), one RGB colour for each label and void, "
            f"but this is {palette.dtype} {palette.shape}."
        )
    return palette


def _fit(picture: np.ndarray, cell_size: int, *, smooth: bool) -> np.ndarray:
    """The picture with its longer side near cell_size: enlarged by a whole factor, or shrunk to fit."""
    from PIL import Image

    height, width = picture.shape[:2]
    scale = cell_size / max(height, width)
    if scale >= 1:
        return picture.repeat(round(scale), axis=0).repeat(round(scale), axis=1)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))  # Pillow's order
    method = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, method))


@lru_cache(maxsize=16)
def _font(size: int) -> "FreeTypeFont":
    """DejaVu Sans, which comes with matplotlib: the same letters on every machine and in every picture."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the rows that have a finite number under the key."""
    filled = [row for row in rows if row.get(key) not in (None, "")]
    points = np.array([(float(row["step"]), float(row[key])) for row in filled]).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a window of about a twentieth of the values, narrower at the ends; short curves as they are."""
    reach = len(values) // 40
    if reach == 0:
        return values
    window = np.ones(2 * reach + 1)
    return np.convolve(values, window, mode="same") / np.convolve(np.ones_like(values), window, mode="same")


def _label_axes(axes: "Axes", name: str) -> None:
    axes.set_ylabel(name, fontsize=15, color=_matplotlib(TEXT))
    axes.tick_params(labelsize=13, colors=_matplotlib(TEXT))
    axes.set_facecolor("white")
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _matplotlib(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
