"""`shapes`, the embedded data set: textured objects on textured backgrounds, drawn on the fly.

Each picture is a function of (seed, split, index, size) and of nothing else, so there is nothing to download or store.
A class is told by its outline. Teeth, points, arms and holes are a few pixels wide at 96 × 96, which is what coarse
predictions lose and skip connections bring back. The hue helps a little: it scatters widely around one that belongs to
the class.

Outlines are signed distances d in pixels, negative inside, that change by at most one from a pixel to the next.
Hence the coverage of a pixel by the object is clip(1/2 − d, 0, 1), and the pixels with |d| ≤ 1/2, whose colour is a
mixture, form a closed border one pixel wide: they are void, as in PASCAL VOC, and no two labels ever touch.
"""

import colorsys
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from minifcn.data.palette import voc_palette
from minifcn.data.sample import VOID, Sample, as_size
from minifcn.errors import UsageError

OBJECTS = ("disc", "triangle", "ring", "cross", "star", "crescent", "gear", "comb")
SMALLEST = 16  # pixels, height and width
_HALF_BORDER = 0.51  # pixels: half of one, and a hair more against rounding, which could open the border
_EXTENT = 1.07  # every outline lies within this many radii, apart from the border of sharp points, within 2 px more
_SPLITS = {"train": 0, "val": 1}
_LENGTHS = {"train": 4000, "val": 100}


class Shapes:
    """Pictures of overlapping objects with a label for each pixel: background (0) and the eight OBJECTS (1 to 8).

    Shapes("train" | "val", size=96, length=None, seed=0)[i] -> Sample(image uint8 (H, W, 3), labels uint8 (H, W), name)

    size: one number or (height, width), from 16 up; objects scale with the shorter side and their number with the area.
    length: 4000 pictures in train and 100 in val unless given; sample i does not depend on it.
    About three quarters of the labelled pixels are background; object boundaries are void (255), one pixel wide.
    """

    classes = ("background", *OBJECTS)
    name = "shapes"

    def __init__(
        self, split: str = "train", *, size: int | tuple[int, int] = 96, length: int | None = None, seed: int = 0
    ) -> None:
        self.split, self.size, self.length, self.seed = _checked(split, size, length, seed)
        self.palette = voc_palette()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        index = range(self.length)[index]  # negative ones count from the end, as in a list
        height, width = self.size
        rng = np.random.default_rng([self.seed, _SPLITS[self.split], index, height, width])
        canvas = Canvas(height, width, rng)
        for placed in _scatter(height, width, rng):
            canvas.draw(placed)
        return Sample(canvas.finish(), canvas.labels, f"shapes-{self.split}-{index:06d}")


class ClassifiedShapes:
    """The same objects for a classifier: one in the middle, parts of others at the rim.

    ClassifiedShapes("train", size=64)[i] -> Sample(image uint8 (H, W, 3), labels uint8 (H, W), name), where every pixel
    carries the class of the picture, 0 to 7, the index into OBJECTS: so it goes through the same loader.
    """

    classes = OBJECTS
    name = "shapes"

    def __init__(
        self, split: str = "train", *, size: int | tuple[int, int] = 64, length: int | None = None, seed: int = 0
    ) -> None:
        self.split, self.size, self.length, self.seed = _checked(split, size, length, seed)
        self.palette = voc_palette()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        index = range(self.length)[index]
        height, width = self.size
        # 2 and 3 in place of the split's 0 and 1: another stream of numbers than Shapes has
        rng = np.random.default_rng([self.seed, 2 + _SPLITS[self.split], index, height, width])
        canvas = Canvas(height, width, rng)
        kind = int(rng.integers(len(OBJECTS)))
        radius = min(height, width) * rng.uniform(0.18, 0.34)
        jitter = 0.06 * min(height, width)
        row, column = (side / 2 + rng.uniform(-jitter, jitter) for side in (height, width))
        for _ in range(rng.integers(0, 4)):  # neighbours, on an ellipse through the picture's corners
            angle, other_radius = rng.uniform(0, 2 * np.pi), min(height, width) * rng.uniform(0.15, 0.3)
            other_row = height / 2 + 0.71 * height * math.sin(angle)
            other_column = width / 2 + 0.71 * width * math.cos(angle)
            canvas.draw(_random_object(other_row, other_column, other_radius, rng))
        canvas.draw(_random_object(row, column, radius, rng)._replace(kind=kind))
        labels = np.full((height, width), kind, np.uint8)
        return Sample(canvas.finish(), labels, f"classified-shapes-{self.split}-{index:06d}")


def _checked(
    split: str, size: int | tuple[int, int], length: int | None, seed: int
) -> tuple[str, tuple[int, int], int, int]:
    if split not in _SPLITS:
        raise UsageError(f"shapes: there is no split {split!r}. It has train and val.")
    height, width = as_size(size)
    if min(height, width) < SMALLEST:
        raise UsageError(
            f"shapes: pictures of {height} × {width} are too small to draw on. Ask for {SMALLEST} or more."
        )
    length = _LENGTHS[split] if length is None else length
    if length < 1 or seed < 0:
        raise UsageError(f"shapes: length is {length} and seed {seed}; length must be at least 1 and seed at least 0.")
    return split, (height, width), length, seed


# ---------------------------------------------------------------------------------------------------- arrangement


class Object(NamedTuple):
    """One object to be drawn. row, column: its centre; radius: about half its extent (see _EXTENT), all in pixels."""

    kind: int  # index into OBJECTS
    row: float
    column: float
    radius: float
    angle: float  # of rotation, in radians


def _random_object(row: float, column: float, radius: float, rng: np.random.Generator) -> Object:
    return Object(int(rng.integers(len(OBJECTS))), row, column, radius, rng.uniform(0, 2 * np.pi))


def _scatter(height: int, width: int, rng: np.random.Generator) -> list[Object]:
    """Random objects which may overlap, but do not sit right on top of one another."""
    side = min(height, width)
    count = max(2, round(rng.uniform(2.5, 5.4) * height * width / side**2))
    radii = (side * rng.uniform(0.18, 0.31, count)).tolist()
    places = (rng.uniform(0.04, 0.96, (count, 8, 2)) * (height, width)).tolist()
    placed: list[Object] = []
    for radius, eight_places in zip(radii, places, strict=True):
        for row, column in eight_places:  # the first with room for it, if there is one
            if all(math.dist((row, column), (o.row, o.column)) > 0.7 * (radius + o.radius) for o in placed):
                placed.append(_random_object(row, column, radius, rng))
                break
    return placed


# ---------------------------------------------------------------------------------------------------- outlines
#
# Each takes coordinates (u, v) around the object's centre, turned with it, and its radius r, all in pixels, and gives
# the signed distance to the outline, or less than it. A union is the minimum of distances, an intersection the maximum.

Plane = np.ndarray


def _length(u: Plane, v: Plane) -> Plane:
    return np.sqrt(u * u + v * v)  # several times as fast as np.hypot, whose care for overflow is not needed


def _disc(u: Plane, v: Plane, r: float) -> Plane:
    return _length(u, v) - 0.85 * r


def _triangle(u: Plane, v: Plane, r: float) -> Plane:
    """Isosceles and slender: the half-planes below two flanks of 65° and above a base."""
    flank = np.abs(u) * 0.906 + v * 0.423 - 0.40 * r
    return np.maximum(flank, -v - 0.72 * r)


def _ring(u: Plane, v: Plane, r: float) -> Plane:
    return np.abs(_length(u, v) - 0.78 * r) - 0.14 * r


def _box(u: Plane, v: Plane, half_u: float, half_v: float) -> Plane:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _cross(u: Plane, v: Plane, r: float) -> Plane:
    return np.minimum(_box(u, v, 0.95 * r, 0.16 * r), _box(u, v, 0.16 * r, 0.95 * r))


def _fold(u: Plane, v: Plane, sectors: int) -> tuple[Plane, Plane]:
    """Turn every point into the sector around the u axis: one tooth or point drawn there appears `sectors` times."""
    sector = 2 * np.pi / sectors
    angle = np.arctan2(v, u)
    angle -= sector * np.rint(angle / sector)
    distance = _length(u, v)
    return distance * np.cos(angle), distance * np.sin(angle)


def _star(u: Plane, v: Plane, r: float) -> Plane:
    """Five points: the distance to the line from a tip, at r, to an inner corner, at 0.40 r and an angle of 36°."""
    u, v = _fold(u, v, 5)
    corner_u, corner_v = 0.40 * r * math.cos(math.pi / 5), 0.40 * r * math.sin(math.pi / 5)
    length = math.hypot(r - corner_u, corner_v)
    return ((u - r) * corner_v + np.abs(v) * (r - corner_u)) / length


def _crescent(u: Plane, v: Plane, r: float) -> Plane:
    return np.maximum(_length(u, v) - 0.95 * r, 0.78 * r - _length(u - 0.45 * r, v))


def _gear(u: Plane, v: Plane, r: float) -> Plane:
    distance = _length(u, v)
    u, v = _fold(u, v, 8)
    teeth = np.maximum(np.abs(v) - 0.13 * r, u - r)
    return np.maximum(np.minimum(distance - 0.70 * r, teeth), 0.30 * r - distance)


def _comb(u: Plane, v: Plane, r: float) -> Plane:
    """A back with five teeth."""
    spacing = 0.40 * r
    from_tooth = u - spacing * np.rint(_clip(u / spacing, -2, 2))
    teeth = _box(from_tooth, v, 0.10 * r, 0.56 * r)
    return np.minimum(teeth, _box(u, v + 0.43 * r, 0.90 * r, 0.13 * r))


_OUTLINES: tuple[Callable[[Plane, Plane, float], Plane], ...] = (
    _disc,
    _triangle,
    _ring,
    _cross,
    _star,
    _crescent,
    _gear,
    _comb,
)

# ---------------------------------------------------------------------------------------------------- drawing


class Canvas:
    """A picture in the making: `image` float32 (3, H, W) from 0 to 255, `labels` uint8 (H, W)."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = _background(height, width, rng)
        self.labels = np.zeros((height, width), dtype=np.uint8)

    def draw(self, thing: Object) -> None:
        """Lay an object, with its shadow, over what is there; label its inside and make its border void."""
        height, width = self.labels.shape
        shadow = max(1, round(0.12 * thing.radius))  # how far to the right and down it falls, and its blur, in pixels
        near, far = _EXTENT * thing.radius + 2, _EXTENT * thing.radius + 2 * shadow
        top, bottom = max(0, math.floor(thing.row - near)), min(height, math.ceil(thing.row + far) + 1)
        left, right = max(0, math.floor(thing.column - near)), min(width, math.ceil(thing.column + far) + 1)
        if top >= bottom or left >= right:
            return
        # a margin above and to the left, so that the shadow's distances are the object's, shifted
        y = np.arange(top - shadow, bottom, dtype=np.float32)[:, None] - np.float32(thing.row)
        x = np.arange(left - shadow, right, dtype=np.float32) - np.float32(thing.column)
        u, v = _turned(x, y, thing.angle)
        with_margin = _OUTLINES[thing.kind](u, v, thing.radius)
        distance, shadow_distance = with_margin[shadow:, shadow:], with_margin[:-shadow, :-shadow]

        patch = self.image[:, top:bottom, left:right]
        patch *= _clip(0.775 + shadow_distance * (0.225 / shadow), 0.55, 1)
        coverage = _clip(0.5 - distance, 0, 1)
        inside = (slice(shadow, None), slice(shadow, None))
        patch += coverage * (self._surface(thing, u[inside], v[inside], (x + y)[inside], distance) - patch)

        labels = self.labels[top:bottom, left:right]
        labels[distance < 0] = thing.kind + 1
        labels[np.abs(distance) < _HALF_BORDER] = VOID

    def finish(self) -> np.ndarray:
        """uint8 (H, W, 3), with the grain of a camera."""
        noise = np.frombuffer(self.rng.bytes(2 * self.labels.size), dtype=np.uint8).reshape(2, *self.labels.shape)
        grain = (noise[0] + noise[1].astype(np.float32) - 255) * np.float32(0.04)  # triangular, about ±4
        planes = _clip(self.image + grain, 0, 255).astype(np.uint8)
        return np.stack(list(planes), axis=-1)  # (3, H, W) -> (H, W, 3)

    def _surface(self, thing: Object, u: Plane, v: Plane, slope: Plane, distance: Plane) -> np.ndarray:
        """The object's colours (3, h, w): two of one hue, mixed by a pattern, lit from above left (slope is x + y)."""
        shift, difference = self.rng.standard_normal(2).tolist()
        hue = thing.kind / len(OBJECTS) + 0.09 * shift
        a, b, c, d, *pattern = self.rng.random(7).tolist()
        saturation, value = 0.5 + 0.45 * a, 0.65 + 0.35 * b
        one = _rgb(hue, saturation, value)
        other = _rgb(hue + 0.03 * difference, saturation * (0.45 + 0.45 * c), value * (0.6 + 0.4 * d))
        edge = _clip(0.78 - 0.09 * distance, 0.78, 1)  # a little darker along the outline, as if rounded off
        light = _clip((1 - (0.2 / thing.radius) * slope) * edge, 0.5, 1.25)
        return light * (one + self._pattern(u, v, thing.radius, *pattern) * (other - one))

    def _pattern(self, u: Plane, v: Plane, radius: float, choice: float, stretch: float, shift: float) -> Plane:
        """Stripes, checks, dots, rings or cloud, from 0 to 1. The last three arguments are random, from 0 to 1."""
        frequency, phase = (0.7 + 0.6 * stretch) * 7 / radius, 2 * math.pi * shift
        match int(5 * choice):
            case 0:
                wave = np.sin(frequency * u + phase)
            case 1:
                wave = np.sin(frequency * u + phase) * np.sin(1.5 * frequency * v)
            case 2:
                wave = 3 * np.cos(frequency * u) * np.cos(frequency * v) - 1.5
            case 3:
                wave = np.sin(frequency * _length(u, v) + phase)
            case _:
                wave = _cloud(u.shape[0], u.shape[1], 5, self.rng)
        return _clip(0.5 + 0.7 * wave, 0, 1)


def _clip(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.minimum(np.maximum(values, low), high)  # half the time of np.clip on arrays as small as these


def _turned(x: Plane, y: Plane, angle: float) -> tuple[Plane, Plane]:
    """(u, v), the coordinates in a frame turned by `angle`."""
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """float32 (3, H, W), 0 to 255: two muted colours that drift into each other, cloud in two sizes, waves in half."""
    hue, value = rng.uniform(), rng.uniform(0.35, 0.8)
    one = _rgb(hue, rng.uniform(0.05, 0.5), value)
    other = _rgb(hue + rng.normal(0, 0.15), rng.uniform(0.05, 0.5), value * rng.uniform(0.55, 1.3))
    mixture = _clip(0.5 + 0.6 * _cloud(height, width, 3, rng), 0, 1)
    texture = 7 * _cloud(height, width, 9, rng) + 6 * _cloud(height, width, 30, rng)
    if rng.uniform() < 0.5:
        side = min(height, width)
        x, y = np.arange(width, dtype=np.float32) / side, np.arange(height, dtype=np.float32)[:, None] / side
        u, _ = _turned(x, y, rng.uniform(0, np.pi))
        texture += rng.uniform(6, 16) * np.sin(rng.uniform(20, 60) * u + 3 * mixture)
    return one + mixture * (other - one) + texture


def _cloud(height: int, width: int, cells: int, rng: np.random.Generator) -> Plane:
    """Smooth noise (H, W) of unit variance: random numbers on a coarse grid, blended by two small matrix products.

    cells: how many along the shorter side.
    """
    side = min(height, width)
    grid_height, grid_width = (max(2, round(cells * length / side) + 1) for length in (height, width))
    grid = rng.standard_normal((grid_height, grid_width), dtype=np.float32)
    return _blend_matrix(height, grid_height) @ grid @ _blend_matrix(width, grid_width).T


@lru_cache(maxsize=256)
def _blend_matrix(length: int, nodes: int) -> np.ndarray:
    """(length, nodes): row i holds the weights, of unit length, by which position i blends its two nearest nodes."""
    position = np.linspace(0, nodes - 1, length)
    start = np.minimum(position.astype(int), nodes - 2)
    fraction = position - start
    fraction = fraction * fraction * (3 - 2 * fraction)  # smoothstep: no visible creases at the nodes
    matrix = np.zeros((length, nodes), dtype=np.float32)
    matrix[np.arange(length), start] = 1 - fraction
    matrix[np.arange(length), start + 1] += fraction
    return matrix / np.sqrt((matrix**2).sum(axis=1, keepdims=True))


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """float32 (3, 1, 1), 0 to 255."""
    rgb = colorsys.hsv_to_rgb(hue % 1, saturation, min(value, 1))
    return 255 * np.array(rgb, dtype=np.float32).reshape(3, 1, 1)
