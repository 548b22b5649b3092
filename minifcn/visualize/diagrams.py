"""Diagrams that explain: matrices with their numbers, feature maps, windows on a picture, lines, pictures side by side.

Each function returns a Picture, which a notebook shows with its alternative text. One language for all: blue is
positive and orange negative, zero is the panel's white; feature maps go from black to white; what is meant is outlined
in vermilion. These colours stay apart for colour-blind readers.
"""

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minifcn.errors import ShapeError
from minifcn.visualize.save import save_figure
from minifcn.visualize.style import LINE_COLORS, PANEL, TEXT, checked_picture, matplotlib_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, ORANGE = LINE_COLORS[0], LINE_COLORS[1], LINE_COLORS[3]
MOST_NUMBERS = 18  # rows or columns of a matrix whose numbers are still written into its cells

Window = tuple[float, float, float, float]  # top, left, height, width, in pixels


class Picture:
    """A matplotlib figure with an alternative text, which says in words what the picture shows."""

    def __init__(self, figure: "Figure", alt: str) -> None:
        self.figure = figure
        self.alt = alt

    def save(self, path: str | Path) -> None:
        """Write it as PNG."""
        save_figure(self.figure, path)

    def __repr__(self) -> str:
        return f"[picture: {self.alt}]"

    def _repr_html_(self) -> str:
        content = io.BytesIO()
        self.figure.savefig(content, format="png", facecolor=self.figure.get_facecolor(), metadata={"Software": None})
        source = base64.b64encode(content.getvalue()).decode("ascii")
        width = round(self.figure.get_figwidth() * 72)
        return (
            f'<img alt="{html.escape(self.alt, quote=True)}" width="{width}" style="max-width:100%" '
            f'src="data:image/png;base64,{source}">'
        )


def matrices(
    named: Mapping[str, Any],
    *,
    alt: str,
    outline: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    shared_scale: bool = True,
) -> Picture:
    """One or more matrices side by side, by their titles; small ones with their numbers, large ones as a pattern.

    named: 2-D arrays (a vector is shown as one row). outline: by title, the entries (row, column) to point out.
    shared_scale: one scale of colour for all; without it, each has its own.
    """
    arrays = {title: np.atleast_2d(np.asarray(array)) for title, array in named.items()}
    for title, array in arrays.items():
        if array.ndim != 2 or array.size == 0:
            raise ShapeError(f"matrices: {title!r} has shape {array.shape}, but a matrix has rows and columns.")
    _check_any(arrays)
    own = {title: float(np.abs(array[np.isfinite(array)]).max(initial=0)) for title, array in arrays.items()}
    largest = dict.fromkeys(own, max(own.values())) if shared_scale else own
    letters: dict[tuple[int, ...], int] = {}  # matrices of one shape get cells of one size
    for array in arrays.values():
        letters[array.shape] = max(letters.get(array.shape, 0), _most_letters(array))
    sizes = [_matrix_inches(array, letters[array.shape]) for array in arrays.values()]
    widths = [max(width, _title_inches(title)) for title, (width, _) in zip(arrays, sizes, strict=True)]
    height = max(height for _, height in sizes) + 0.5 + 0.2 * max(1 + title.count("\n") for title in arrays)
    figure, axes = _figure((sum(widths) + 0.4 * len(widths), height), columns=len(arrays), width_ratios=widths)
    figure.set_layout_engine("constrained", h_pad=0.1)  # the layout knows only nearly where titles end
    for (title, array), one, width, (own_width, _) in zip(arrays.items(), axes, widths, sizes, strict=True):
        _draw_matrix(one, array, largest[title] or 1.0)
        spare = (width / own_width - 1) * array.shape[1] / 2  # where its title is wider, the matrix keeps its size
        one.set_xlim(-0.5 - spare, array.shape[1] - 0.5 + spare)
        _title(one, title)
        for row, column in (outline or {}).get(title, ()):
            _outline(one, (row - 0.5, column - 0.5, 1, 1))
    return Picture(figure, alt)


def feature_maps(named: Mapping[str, Any], *, alt: str, columns: int = 6, shared_scale: bool = False) -> Picture:
    """Maps (H, W) in grey, by their titles: black is each map's smallest value, white its largest.

    shared_scale: the smallest and largest of all maps instead, so that they can be compared.
    """
    maps = {title: np.asarray(one, dtype=float) for title, one in named.items()}
    _check_any(maps)
    low, high = min(one.min() for one in maps.values()), max(one.max() for one in maps.values())
    limits = {"vmin": low, "vmax": high if high > low else low + 1} if shared_scale else {}
    figure, axes = _grid(len(maps), columns, _aspect(maps.values()))
    for (title, one), place in zip(maps.items(), axes, strict=True):
        place.imshow(one, cmap="gray", interpolation="nearest", **limits)
        _title(place, title)
    return Picture(figure, alt)


def gallery(
    named: Mapping[str, Any], *, alt: str, columns: int = 4, windows: Mapping[str, Sequence[Window]] | None = None
) -> Picture:
    """Pictures (H, W, 3), uint8 or from 0 to 1, by their captions, with windows (top, left, height, width) outlined.

    For patches, receptive fields, and predictions in colour; small pictures are enlarged without smoothing.
    """
    pictures = {title: np.asarray(picture) for title, picture in named.items()}
    _check_any(pictures)
    figure, axes = _grid(len(pictures), columns, _aspect(pictures.values()))
    for (title, picture), place in zip(pictures.items(), axes, strict=True):
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ShapeError(f"gallery: {title!r} has shape {picture.shape}; a picture is (H, W, 3).")
        place.imshow(picture, interpolation="nearest")
        _title(place, title)
        for top, left, height, width in (windows or {}).get(title, ()):
            _outline(place, (top - 0.5, left - 0.5, height, width))
    return Picture(figure, alt)


def lines(
    named: Mapping[str, tuple[Any, Any]],
    *,
    alt: str,
    x_label: str,
    y_label: str,
    points: Mapping[str, tuple[Any, Any]] | None = None,
    log_scale: bool = False,
) -> Picture:
    """Lines (x, y) by their names, and single points by theirs, in one diagram with a legend.

    log_scale: both axes logarithmic, so that powers of x are straight lines.
    """
    figure, (axes,) = _figure((6.4, 3.6), columns=1)
    axes.axis("on")
    for number, (name, (x, y)) in enumerate(named.items()):
        color = LINE_COLORS[number % len(LINE_COLORS)]
        axes.plot(x, y, label=name, color=color, linewidth=2, linestyle=("-", "--", ":", "-.")[number % 4])
    for number, (name, (x, y)) in enumerate((points or {}).items(), start=len(named)):
        axes.plot(x, y, "o^sD"[number % 4], label=name, color=LINE_COLORS[number % len(LINE_COLORS)], markersize=8)
    if log_scale:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_facecolor("white")
    axes.grid(color="#dddddd")
    axes.tick_params(colors=matplotlib_color(TEXT), labelsize=10)
    axes.set_xlabel(x_label, color=matplotlib_color(TEXT), fontsize=11)
    axes.set_ylabel(y_label, color=matplotlib_color(TEXT), fontsize=11)
    entries = len(named) + len(points or {})
    legend_style: dict[str, Any] = {
        "fontsize": 10,
        "facecolor": matplotlib_color(PANEL),
        "labelcolor": matplotlib_color(TEXT),
    }
    if entries > 4:  # beside the axes, since hardly any place is free in them
        figure.legend(loc="outside right center", **legend_style)
    elif entries > 1:
        axes.legend(**legend_style)
    return Picture(figure, alt)


def picture(pixels: Any, *, alt: str) -> Picture:
    """A picture as it is, uint8 (H, W, 3), such as a sheet of predictions, with an alternative text."""
    pixels = checked_picture(pixels)
    height, width = pixels.shape[:2]
    figure, (axes,) = _figure((width / 110, height / 110), columns=1)
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    return Picture(figure, alt)


def plane(
    points: Any,
    labels: Any,
    *,
    alt: str,
    extent: float,
    regions: Mapping[str, Any] | None = None,
    columns: int = 3,
) -> Picture:
    """Points (N, 2) of two classes in the square from −extent to extent: 0 a blue disc, 1 an orange triangle, 255
    (void) a black cross.

    regions: by title, the probability of class 1 over the square (H, W), its top row first; one panel for each, blue
    where it is 0, orange where it is 1, white where it is 1/2. Without regions there is one panel with the points.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    if points.shape != (len(labels), 2):
        raise ShapeError(f"plane: points have shape {points.shape}, but {len(labels)} labels need ({len(labels)}, 2).")
    panels: Mapping[str, Any] = {"": None} if regions is None else regions
    figure, axes = _grid(len(panels), columns)
    if regions is None:
        figure.set_size_inches(3.6, 3.6)
    for (title, probability), place in zip(panels.items(), axes, strict=True):
        if probability is not None:
            place.imshow(
                probability, cmap=_colours(BLUE, ORANGE), vmin=0, vmax=1, extent=(-extent, extent, -extent, extent),
                alpha=0.5, interpolation="bilinear",
            )  # fmt: skip
        for label, marker, color, size in ((0, "o", BLUE, 16), (1, "^", ORANGE, 26), (255, "x", "#000000", 16)):
            x, y = points[labels == label].T
            edge: dict[str, Any] = {} if marker == "x" else {"edgecolors": "white"}
            place.scatter(x, y, s=size, marker=marker, color=color, linewidths=0.8 if edge else 1.2, **edge)
        place.set_xlim(-extent, extent)
        place.set_ylim(-extent, extent)
        place.set_aspect("equal")
        _title(place, title)
    return Picture(figure, alt)


def _figure(
    size: tuple[float, float], *, columns: int, rows: int = 1, width_ratios: Sequence[float] | None = None
) -> tuple["Figure", list["Axes"]]:
    """A figure of this size (width, height in inches) with axes that draw nothing but what is put into them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor=matplotlib_color(PANEL))
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, width_ratios=width_ratios).ravel())
    for one in axes:
        one.axis("off")
    return figure, axes


def _check_any(named: Mapping[str, Any]) -> None:
    if not named:
        raise ShapeError("there is nothing to draw; give at least one picture.")


def _grid(count: int, columns: int, aspect: float = 1.0) -> tuple["Figure", list["Axes"]]:
    """Axes for so many pictures; aspect: width over height of the widest."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width = min(2.6 * aspect, 11 / columns)
    figure, axes = _figure((width * columns, (width / aspect + 0.3) * rows), columns=columns, rows=rows)
    return figure, axes[:count]


def _aspect(pictures: Iterable[np.ndarray]) -> float:
    """Width over height of the widest picture; 1 if all are higher than wide."""
    return max([1.0, *(one.shape[1] / one.shape[0] for one in pictures if one.ndim > 1 and one.shape[0])])


def _title(axes: "Axes", title: str) -> None:
    axes.set_title(title, fontsize=11, color=matplotlib_color(TEXT))


def _outline(axes: "Axes", window: Window) -> None:
    from matplotlib.patches import Rectangle

    top, left, height, width = window
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=VERMILION, linewidth=2.5))


def _colours(low: str, high: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(f"{low}-white-{high}", [low, "#ffffff", high])


def _most_letters(array: np.ndarray) -> int:
    """Of the numbers that are written into its cells; 0 if it is drawn as a pattern."""
    return 0 if max(array.shape) > MOST_NUMBERS else max(len(_number(value)) for value in array.ravel())


def _matrix_inches(array: np.ndarray, letters: int) -> tuple[float, float]:
    """(width, height) of a matrix: room for numbers of so many letters, or a fixed size for a pattern."""
    rows, columns = array.shape
    if max(rows, columns) > MOST_NUMBERS:
        scale = 4.5 / max(rows, columns)
        return max(1.0, columns * scale), max(1.0, rows * scale)
    cell = max(0.36, 0.12 + 0.095 * letters)
    return max(1.2, columns * cell), max(0.36, rows * cell)


def _title_inches(title: str) -> float:
    """About as wide as the longest line of a title is when it is written."""
    return 0.085 * max(len(line) for line in title.split("\n"))


def _draw_matrix(axes: "Axes", array: np.ndarray, largest: float) -> None:
    axes.imshow(array.astype(float), cmap=_colours(ORANGE, BLUE), vmin=-largest, vmax=largest, interpolation="nearest")
    rows, columns = array.shape
    if max(rows, columns) > MOST_NUMBERS:
        return
    for edge in range(rows + 1):
        axes.plot([-0.5, columns - 0.5], [edge - 0.5] * 2, color="#999999", linewidth=0.7)
    for edge in range(columns + 1):
        axes.plot([edge - 0.5] * 2, [-0.5, rows - 0.5], color="#999999", linewidth=0.7)
    for (row, column), value in np.ndenumerate(array):
        color = "#ffffff" if value > 0.6 * largest else matplotlib_color(TEXT)  # the darker half of blue
        axes.text(column, row, _number(value), ha="center", va="center", fontsize=10, color=color)


def _number(value: Any) -> str:
    if isinstance(value, np.integer | np.bool_ | int) or float(value).is_integer():
        return str(int(value)).replace("-", "−")
    return f"{float(value):.2g}".replace("-", "−") if np.isfinite(value) else str(value).replace("-inf", "−∞")
