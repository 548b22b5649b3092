"""A convolution that moves by s pixels, as one that moves by one: deal its pixels out to s images, the phases.

Where the kernel is a whole number of strides long, k = m·s, every window covers m whole cells of s pixels, and moves on
by a cell. Let phase r be the image of the r-th pixels of all cells, and tap i = s·j + r one of its own m taps. Along
one axis, with the padding p = s·P + e that may begin within a cell:

    y_a = Σ_i w_i x_{s·a − p + i} = Σ_r Σ_j w^r_j x^r_{a − P + j}      x^r_b = x_{s·b + r − e},  w^r_j = w_{s·j + r}

In two dimensions, s·s phases are channels of a plain convolution with an m×m kernel: the same multiplications, but its
columns are shared between rows (blocks.py), and half to a quarter as many. All three maps of a convolution carry over,
and so does the transposed one, whose result is s·s images, laid into each other (Shi et al. 2016 call this sub-pixel
convolution). Here are the ways to and from phases; conv.py takes them.
"""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

from minifcn.backend import Array, Backend
from minifcn.ops.geometry import ConvGeometry
from minifcn.ops.routes import ROUTES, is_forced


def fit(backend: Backend, geometry: ConvGeometry, images: int, channels: int, itemsize: int) -> bool:
    """Whether to go by phases: the stride divides the kernel, no other route is forced, and the budget has room."""
    steps = zip(geometry.kernel_size, geometry.stride, strict=True)
    if geometry.stride == (1, 1) or geometry.dilation != (1, 1) or any(k % s for k, s in steps):
        return False
    if not backend.phases or any(map(is_forced, ROUTES)):
        return False
    cells = prod(phase_geometry(geometry).input_size)
    return images * channels * prod(geometry.stride) * cells * itemsize <= backend.budget_bytes


def phase_geometry(geometry: ConvGeometry) -> ConvGeometry:
    """The convolution of the phases: cells in place of pixels, and stride 1. The number of windows is the same."""
    axes = zip(geometry.input_size, geometry.kernel_size, geometry.stride, geometry.padding, strict=True)
    rows, columns = (((n + p % s + s - 1) // s, k // s, p // s) for n, k, s, p in axes)
    size, kernel, padding = zip(rows, columns, strict=True)
    return ConvGeometry(size, kernel, (1, 1), padding, (1, 1), geometry.output_size)


def split_images(backend: Backend, x: Array, geometry: ConvGeometry) -> Array:
    """x (N, C, H, W) -> its phases (N, C·sh·sw, cells), zeros where a cell reaches beyond the image."""
    cells = phase_geometry(geometry).input_size
    parts = backend.xp.zeros((*x.shape[:2], *geometry.stride, *cells), x.dtype)

    def deal(channels: slice) -> None:
        for phase, pixels, inside in _phases(geometry):
            parts[:, channels][phase][inside] = x[:, channels][pixels]

    backend.map(deal, backend.channel_blocks(x))
    return parts.reshape(len(x), x.shape[1] * prod(geometry.stride), *cells)


def merge_images(backend: Backend, parts: Array, geometry: ConvGeometry) -> Array:
    """The adjoint, and the inverse: phases (N, C·sh·sw, cells) -> (N, C, H, W)."""
    channels, cells = parts.shape[1] // prod(geometry.stride), parts.shape[2:]
    parts = parts.reshape(len(parts), channels, *geometry.stride, *cells)
    x = backend.xp.empty((*parts.shape[:2], *geometry.input_size), parts.dtype)

    def collect(channels: slice) -> None:
        for phase, pixels, inside in _phases(geometry):
            x[:, channels][pixels] = parts[:, channels][phase][inside]

    backend.map(collect, backend.channel_blocks(x))
    return x


def _phases(geometry: ConvGeometry) -> Iterator[tuple[Any, Any, Any]]:
    """For each phase: its part of (N, C, sh, sw, cells), which pixels it has, and in which of its cells they lie."""
    axes = zip(geometry.input_size, geometry.stride, geometry.padding, strict=True)
    rows, columns = ([(r, *_pixels_of(r, n, s, p % s)) for r in range(s)] for n, s, p in axes)
    for (r, top, row_cells), (c, left, column_cells) in product(rows, columns):
        yield (..., r, c, slice(None), slice(None)), (..., top, left), (..., row_cells, column_cells)


def _pixels_of(phase: int, size: int, stride: int, offset: int) -> tuple[slice, slice]:
    """Along one axis, the pixels s·b + phase − offset that there are, and the cells b that they lie in."""
    first = (phase - offset) % stride
    cell = (first + offset) // stride
    return slice(first, None, stride), slice(cell, cell + len(range(first, size, stride)))


def split_weight(weight: Array, geometry: ConvGeometry) -> Array:
    """(O, C, kh, kw) -> (O, C·sh·sw, mh, mw): tap s·j + r is tap j of phase r."""
    (rows, columns), (sh, sw) = phase_geometry(geometry).kernel_size, geometry.stride
    taps = weight.reshape(*weight.shape[:2], rows, sh, columns, sw).transpose(0, 1, 3, 5, 2, 4)
    return taps.reshape(len(weight), -1, rows, columns)


def merge_weight(weight: Array, geometry: ConvGeometry) -> Array:
    """The inverse: (O, C·sh·sw, mh, mw) -> (O, C, kh, kw)."""
    taps = weight.reshape(len(weight), -1, *geometry.stride, *weight.shape[2:]).transpose(0, 1, 4, 2, 5, 3)
    return taps.reshape(*taps.shape[:2], *geometry.kernel_size)
