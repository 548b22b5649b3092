"""Prediction: the class of each pixel of a picture of any size, in memory that does not grow with it.

A picture larger than a tile is computed tile by tile. Two things make that give what the whole picture would:

- Around each tile, so much of the picture is computed too (the *overlap*) that no pixel of the tile can see how far the
  cut went: as far as the network's receptive field reaches, see `reach`. At the picture's own edges nothing is added,
  so what pads it there is the same.
- Five poolings halve the picture, so every 32nd row begins a new cell of the deepest map. What is cut out begins at a
  multiple of 32, and has the cells of the whole picture.

So with the overlap that is taken by default, the scores are those of the whole picture *everywhere*, borders included,
but for the last bits of their sums, which depend on the arrays' sizes. With a smaller overlap that holds only in each
tile's *interior*: the pixels at least `reach(model)` from a cut. Others then see zeros in place of what was cut off;
as a pixel depends little on those far away, that is often good enough, and much faster.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from minifcn import nn, ops
from minifcn.autograd.tensor import Tensor, no_grad
from minifcn.data import VOID
from minifcn.errors import ShapeError, UsageError
from minifcn.models import FCN, FCNBasic
from minifcn.models.dense_prediction import Chain
from minifcn.ops.geometry import pair
from minifcn.visualize import bands
from minifcn.weights import Preprocessing

TILE = 1024  # pixels
GRID = 32  # pixels from cell to cell of the deepest map
_PIXELS = 2**20  # of a picture that are scaled at a time
_SCORES = 2**22  # that are scaled back at a time: 16 MB

Pair = tuple[int, int]  # (height, width)


class Pixels(Protocol):
    """A picture, uint8 (H, W, 3), that gives its parts as arrays: an array itself, or a data.Picture."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, part: tuple[slice, slice], /) -> np.ndarray: ...


def label_pixels(
    model: nn.Module,
    image: Pixels,
    preprocessing: Preprocessing,
    size: Pair | None = None,
    device: str = "cpu",
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tile: int = TILE,
    overlap: int | None = None,
    probabilities: Any = None,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> np.ndarray:
    """The class of each pixel of a uint8 (H, W, 3) picture, as uint8 (H, W). Sets eval mode.

    The weights are read-only meanwhile; see ops.keep_filters, which is useful around calls for several pictures, too.
    size: (height, width) that the picture is scaled to for the network, or None for its own; scores are scaled back
    before the best class is chosen, so that borders are as smooth as the network sees them.
    scales: factors of that size; the picture is looked at in each of them, and the probabilities (softmax of the
    scores) are averaged. flip: at its mirror image too.
    tile: a picture that is larger, as the network sees it, is computed in parts of about tile × tile pixels, and the
    overlap around each. overlap: pixels; None for as many as make the result that of the whole picture, see above.
    probabilities: takes the averaged probabilities: an array (C, H, W), or whatever can be assigned parts of one.
    progress: wraps the list of tiles (tqdm).

    Memory, beyond the image, the labels and `probabilities`: C + a few float32 planes of a tile for each scale and its
    mirror image, and what the network takes for a tile with its overlap.
    Raises UsageError for scales, a tile or an overlap that cannot be; and if a picture needs tiles and nothing says how
    far the layers of the model see.
    """
    check_options(scales, tile, overlap)
    height, width = image.shape[:2]
    views = list(_views(size or (height, width), scales, flip))
    rows = _stretches(height, max(view.size[0] for view in views), tile)
    columns = _stretches(width, max(view.size[1] for view in views), tile)
    tiles = list(itertools.product(rows, columns))
    if overlap is None:
        overlap = reach(model) if len(tiles) > 1 else 0
    model.eval()
    look = _Look(model, image, preprocessing, device, overlap)
    labels = np.empty((height, width), np.uint8)
    with ops.keep_filters(model.parameters()):
        for rows_of_tile, columns_of_tile in progress(tiles):
            scores = [look.scores(view, rows_of_tile, columns_of_tile) for view in views]
            classes = len(scores[0].values)
            if classes > VOID:
                raise ShapeError(
                    f"label_pixels: {classes} classes; labels of 8 bits name at most {VOID}, 0 to {VOID - 1}."
                )
            pixels = _SCORES // classes
            for band in bands(labels[rows_of_tile, columns_of_tile].shape, pixels):
                inside = _from(band, -rows_of_tile.start), columns_of_tile
                if len(scores) == 1 and probabilities is None:
                    best = scores[0].scaled_back(*inside)
                else:
                    best = _mean((_softmax(one.scaled_back(*inside)) for one in scores), len(scores))
                labels[inside] = best.argmax(axis=0)
                if probabilities is not None:
                    probabilities[(slice(None), *inside)] = best
    return labels


def reach(model: nn.Module) -> int:
    """How many rows or columns away a pixel of the image can be and still change the scores of another.

    That is half the receptive field, and the field grows by (kernel size − 1) · scale with each layer of the way, where
    the scale is the pixels of the image from one pixel of its finer map to the next: down to the deepest scores
    (404 pixels for VGG16) and up again through the transposed convolutions. A skip is on this way, and sees less.
    """
    if not isinstance(model, FCN | FCNBasic):
        raise UsageError(
            f"{type(model).__name__}: the picture is larger than a tile, and how far this network's layers see is not "
            "known; say it by overlap=, or allow for larger tiles by tile=."
        )
    down = Chain.of(model)
    field, scale = max(down.receptive_field), down.stride[0]
    for layer in (module for _, module in model.named_modules() if isinstance(module, nn.ConvTranspose2d)):
        scale //= pair("stride", layer.stride, minimum=1)[0]  # they come in the order in which they are applied
        field += (layer.weight.shape[2] - 1) * scale
    return math.ceil((field - 1) / 2)


def check_options(scales: Sequence[float], tile: int, overlap: int | None) -> None:
    """UsageError for scales, a tile or an overlap with which `label_pixels` cannot work."""
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise UsageError(f"--scales {', '.join(map(str, scales))}: numbers above 0 are needed, such as 0.75, 1, 1.25.")
    if tile < GRID:
        raise UsageError(f"--tile {tile}: at least {GRID} pixels are needed, the size of one cell; {TILE} is usual.")
    if overlap is not None and overlap < 0:
        raise UsageError(
            f"--overlap {overlap}: at least 0 pixels are needed; left out, it is what the network can see."
        )


# ---------------------------------------------------------------------------------------------------- where things lie


@dataclass(frozen=True)
class _View:
    """A way to look at a picture. size: (height, width) that it is scaled to."""

    size: Pair
    flipped: bool


def _views(size: Pair, scales: Sequence[float], flip: bool) -> Iterator[_View]:
    for scale in scales:
        scaled = max(1, round(scale * size[0])), max(1, round(scale * size[1]))
        yield _View(scaled, flipped=False)
        if flip:
            yield _View(scaled, flipped=True)


def _stretches(length: int, scaled: int, tile: int) -> list[slice]:
    """The rows (or columns) of a picture in equal parts, multiples of GRID, about a tile each when scaled."""
    count = math.ceil(scaled / tile)
    step = math.ceil(math.ceil(length / count) / GRID) * GRID
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _source(part: slice, length: int, scaled: int) -> tuple[float, float, slice]:
    """Where `part` of an axis of `scaled` pixels comes from, if it was scaled from `length`: from and to where, and the
    whole pixels around that bilinear weights reach (they widen when an axis shrinks, so that no pixel is skipped).
    """
    ratio = length / scaled
    start, stop, margin = part.start * ratio, part.stop * ratio, max(1.0, ratio)
    return start, stop, slice(max(0, math.floor(start - margin)), min(length, math.ceil(stop + margin)))


def _resized(source: np.ndarray, at: Pair, size: Pair, rows: slice, columns: slice, whole: Pair) -> np.ndarray:
    """Rows and columns of a plane or picture that would be `whole` large if it were scaled to that from `size`.

    source: the part of the original, from `at` on, that `_source` says.
    """
    top, bottom, _ = _source(rows, size[0], whole[0])
    left, right, _ = _source(columns, size[1], whole[1])
    box = left - at[1], top - at[0], right - at[1], bottom - at[0]
    shape = columns.stop - columns.start, rows.stop - rows.start
    return np.asarray(Image.fromarray(source).resize(shape, Image.Resampling.BILINEAR, box=box))


# ---------------------------------------------------------------------------------------------------- what is computed


@dataclass(frozen=True)
class _Scores:
    """The scores (C, h, w) that a view has from `at` on, to be scaled back to a picture of `shape`."""

    values: np.ndarray
    at: Pair
    view: _View
    shape: Pair

    def scaled_back(self, rows: slice, columns: slice) -> np.ndarray:
        """The scores (C, h, w) of these rows and columns of the picture."""
        if self.view.flipped:
            columns = _mirrored(columns, self.shape[1])
        if self.shape == self.view.size:
            values = self.values[:, _from(rows, self.at[0]), _from(columns, self.at[1])]
        else:
            values = np.stack(
                [_resized(plane, self.at, self.view.size, rows, columns, self.shape) for plane in self.values]
            )
        return values[:, :, ::-1] if self.view.flipped else values


@dataclass(frozen=True)
class _Look:
    """A model that looks at a picture."""

    model: nn.Module
    image: Pixels
    preprocessing: Preprocessing
    device: str
    overlap: int

    def scores(self, view: _View, rows: slice, columns: slice) -> _Scores:
        """What a view says about these rows and columns of the picture."""
        height, width = self.image.shape[:2]
        if view.flipped:
            columns = _mirrored(columns, width)
        inner_rows, outer_rows = self._needed(rows, height, view.size[0])
        inner_columns, outer_columns = self._needed(columns, width, view.size[1])
        pixels = self._scaled(view, outer_rows, outer_columns)
        with no_grad():
            scores = self.model(Tensor(self.preprocessing.apply(pixels)[None], device=self.device)).numpy()[0]
        inner = scores[:, _from(inner_rows, outer_rows.start), _from(inner_columns, outer_columns.start)]
        return _Scores(np.ascontiguousarray(inner), (inner_rows.start, inner_columns.start), view, (height, width))

    def _needed(self, part: slice, length: int, scaled: int) -> tuple[slice, slice]:
        """Of a view, what part of an axis of the picture is scaled back from; and around that, what to compute."""
        inner = part if length == scaled else _source(part, scaled, length)[2]
        start = max(0, inner.start - self.overlap) // GRID * GRID
        stop = math.ceil((inner.stop + self.overlap) / GRID) * GRID
        return inner, slice(start, min(scaled, stop))

    def _scaled(self, view: _View, rows: slice, columns: slice) -> np.ndarray:
        """Rows and columns of a view: uint8 (h, w, 3)."""
        size: Pair = (self.image.shape[0], self.image.shape[1])
        if size == view.size:
            return self._part(view, rows, columns)
        across = _source(columns, size[1], view.size[1])[2]
        step = max(1, int(_PIXELS / (across.stop - across.start) * view.size[0] / size[0]))
        scaled = []
        for top in range(rows.start, rows.stop, step):
            band = slice(top, min(top + step, rows.stop))
            down = _source(band, size[0], view.size[0])[2]
            pixels = self._part(view, down, across)
            scaled.append(_resized(pixels, (down.start, across.start), size, band, columns, view.size))
        return np.concatenate(scaled)

    def _part(self, view: _View, rows: slice, columns: slice) -> np.ndarray:
        """Rows and columns of the picture, or of its mirror image: uint8 (h, w, 3)."""
        if not view.flipped:
            return self.image[rows, columns]
        return np.ascontiguousarray(self.image[rows, _mirrored(columns, self.image.shape[1])][:, ::-1])


def _mirrored(columns: slice, width: int) -> slice:
    """Where these columns are in the mirror image."""
    return slice(width - columns.stop, width - columns.start)


def _from(part: slice, start: int) -> slice:
    """The same pixels, counted from `start` on."""
    return slice(part.start - start, part.stop - start)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Scores (C, h, w) -> probabilities that sum to 1 over the classes."""
    powers = np.exp(scores - scores.max(axis=0))
    powers /= powers.sum(axis=0)
    return powers


def _mean(arrays: Iterator[np.ndarray], count: int) -> np.ndarray:
    total = next(arrays)
    for array in arrays:
        total += array
    return total / np.float32(count)
