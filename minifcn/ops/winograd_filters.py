"""Winograd's minimal filtering, filter block by filter block: for layers of many channels and few pixels.

winograd.py holds the transformed filters U = G w Gᵀ of the whole layer, seven times as many numbers as w has, and goes
through the image band by band. In the last layers of a VGG that is the wrong way round: 512·512 filters make 67 MB of
U, which are written to memory and read again, for an image of which all tiles V = Bᵀ d B take 3 MB. So here V is made
once, for all tiles t, and the loop goes over blocks of filters o, of which U, M and all that follows stay in the cache:

    V = Bᵀ d B  (p, C, t)      for each block:  U = G w_o Gᵀ  (p, o, C)    M_p = U_p V_p  (p, o, t)    y_o = Aᵀ M A

The gradient to the weights gains more: a block's dU is complete at once, over all tiles, and becomes dL/dw on the spot.
No worker holds a sum of its own, and none are added up. With g = dL/dy, its channels last, so that neither side of the
product is transposed:

    dM = A g_o Aᵀ  (p, t, o)      dU_p = V_p dM_p  (p, C, o)      dL/dw_o = Gᵀ dU G

The formulas, the matrices and the rounding are those of winograd.py; only the order of the loops is another. It loses
where V is much larger than the cache: then it is better to be done with a few tiles at a time.
"""

from typing import Any

import numpy as np

from minifcn.backend import Array, Backend
from minifcn.ops import winograd
from minifcn.ops.elementwise import rectify
from minifcn.ops.geometry import ConvGeometry
from minifcn.ops.winograd import (
    TILE_4,
    TILE_6,
    Band,
    Tile,
    gather,
    gather_taps,
    multiply,
    parts,
    scatter,
    transform,
)

VALUE_BYTES = 2 * 2**20  # of V in one part of the channels that are transformed together
SMALLEST_BLOCK = 16  # filters
SLAB_NUMBERS = 2**16  # of dL/dy that are brought into another order at a time, in a core's own cache
LARGE_FILTERS = 2**20  # numbers of U
FEW_TILES = 32  # of 6×6 outputs


def smallest_bytes(geometry: ConvGeometry, batch: int, channels: int, out_channels: int, dtype: Any, tile: Tile) -> int:
    """The memory that this way takes at least: V of all tiles."""
    return tile.places * channels * count_tiles(geometry, batch, tile) * np.dtype(dtype).itemsize


def count_tiles(geometry: ConvGeometry, batch: int, tile: Tile) -> int:
    """How many tiles there are in all images."""
    rows, columns = (-(-size // tile.outputs) for size in geometry.output_size)
    return batch * rows * columns


def is_fast(geometry: ConvGeometry, batch: int, channels: int, out_channels: int, to_weights: bool, tile: Tile) -> bool:
    """Whether U, or dU, is large beside the cache, V and M are not far larger, and this tile is the better one: of few
    pixels, transforming filters is much of the work, and those of 4×4 tiles have fewer numbers.
    """
    tiles, filters = count_tiles(geometry, batch, TILE_6), channels * out_channels
    if tile is not (TILE_4 if tiles <= FEW_TILES else TILE_6):
        return False
    least, most = (LARGE_FILTERS, 25) if to_weights else (2 * LARGE_FILTERS, 5)
    return TILE_6.places * filters >= least and tiles * (channels + out_channels) <= most * filters


def convolve(
    backend: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    geometry: ConvGeometry,
    tile: Tile,
    relu: bool = False,
) -> Array:
    """y_o = Σ_c w_oc ⋆ x_c + b_o:  x (N, C, H, W), weight (O, C, 3, 3), bias (O,) -> y (N, O, Ho, Wo).

    relu: max(y, 0) in its place.
    """
    xp, (out_channels, channels) = backend.xp, weight.shape[:2]
    y = xp.empty((len(x), out_channels, *geometry.output_size), x.dtype)
    band, values = _evaluate(backend, x, geometry, tile)
    evaluate, interpolate = (xp.asarray(m, x.dtype) for m in (tile.evaluate_filter, tile.interpolate))  # G, Aᵀ

    def compute(part: slice) -> None:
        count = part.stop - part.start
        filters = backend.scratch("filters", (tile.places, count, channels), x.dtype)  # U
        transform(backend, evaluate, gather_taps(backend, weight[part]), filters)
        products = backend.scratch("products", (tile.places, count, values.shape[2]), x.dtype)  # M
        multiply(backend, filters, values, products)
        outputs = backend.scratch("outputs", (tile.outputs, tile.outputs, count, band.rows, band.columns), x.dtype)
        transform(backend, interpolate, products.reshape(tile.inputs, tile.inputs, -1), outputs)
        if bias is not None:
            outputs += bias[part, None, None]
        if relu:
            rectify(backend, outputs, out=outputs)
        scatter(outputs, y[:, part], band)

    backend.map(compute, parts(backend, out_channels, _block_size(backend, values)))
    return y


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, tile: Tile) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C, 3, 3)."""
    xp, channels, out_channels = backend.xp, x.shape[1], grad.shape[1]
    grad_weight = xp.empty((out_channels, channels, 3, 3), x.dtype)
    band, values = _evaluate(backend, x, geometry, tile)
    matrices = (tile.interpolate.T.copy(), tile.evaluate_filter.T.copy())
    spread, adjoint = (xp.asarray(m, x.dtype) for m in matrices)  # A, Gᵀ

    def compute(part: slice) -> None:
        count = part.stop - part.start
        tiles = _gather_last(backend, grad[:, part], band, tile)
        grads = backend.scratch("products", (tile.places, values.shape[2], count), x.dtype)  # dM
        transform(backend, spread, tiles, grads)
        filters = backend.scratch("filters", (tile.places, channels, count), x.dtype)  # dU
        multiply(backend, values, grads, filters)  # (p, C, t) @ (p, t, o) -> (p, C, o)
        taps = backend.scratch("taps", (3, 3, channels, count), x.dtype)
        transform(backend, adjoint, filters.reshape(tile.inputs, tile.inputs, -1), taps)
        grad_weight[part] = taps.transpose(3, 2, 0, 1)

    backend.map(compute, parts(backend, out_channels, _block_size(backend, values)))
    return grad_weight


def _evaluate(backend: Backend, x: Array, geometry: ConvGeometry, tile: Tile) -> tuple[Band, Array]:
    """All tiles as one band, and V of them: x (N, C, H, W) -> (p, C, t). Channels are shared out over the threads."""
    rows, columns = (-(-size // tile.outputs) for size in geometry.output_size)
    band = Band(0, len(x) * rows, rows, columns)
    channels, tiles = x.shape[1], band.rows * columns
    evaluate = backend.xp.asarray(tile.evaluate_input, x.dtype)  # Bᵀ
    values = backend.scratch("values", (tile.inputs, tile.inputs, channels * tiles), x.dtype)

    def compute(part: slice) -> None:
        pixels = gather(
            backend, "tiles", x[:, part], band, size=tile.inputs, step=tile.outputs, padding=geometry.padding
        )
        transform(backend, evaluate, pixels, values[:, :, part.start * tiles : part.stop * tiles])

    backend.map(compute, parts(backend, channels, VALUE_BYTES // max(1, tile.places * tiles * x.itemsize)))
    return band, values.reshape(tile.places, channels, tiles)


def _gather_last(backend: Backend, grad: Array, band: Band, tile: Tile) -> Array:
    """The tiles of dL/dy with their channels last: (N, o, Ho, Wo) -> (m, m, rows, columns, o). Beyond the edge: 0.

    By way of some rows at a time, one pixel wider than the tiles. Where the image's size is a multiple of a power of
    two, a pixel's channels, which are read one after the other, would have to share a few places of the cache.
    """
    m, (_, channels, _, width) = tile.outputs, grad.shape
    tiles = backend.scratch("tiles", (m, m, band.rows, band.columns, channels), grad.dtype)
    columns = band.columns * m + 1
    count = max(1, min(band.rows_per_image, SLAB_NUMBERS // (channels * m * columns)))  # rows of tiles
    slab = backend.scratch("slab", (channels, count * m, columns), grad.dtype)
    slab[..., width:] = 0
    channel, row, column = slab.strides
    shape, strides = (m, m, count, band.columns, channels), (row, column, m * row, m * column, channel)
    for image, _, place in band.parts():
        pixels = backend.strided_view(slab, shape, strides)
        for first in range(0, band.rows_per_image, count):
            last = min(first + count, band.rows_per_image)
            inside = grad[image, :, first * m : last * m]
            slab[:, : inside.shape[1], :width] = inside
            slab[:, inside.shape[1] :] = 0
            tiles[:, :, place.start + first : place.start + last] = pixels[:, :, : last - first]
    return tiles


def _block_size(backend: Backend, values: Array) -> int:
    """How many filters to a block: few, to stay in the cache; more where V, read once for each block, is large; and
    never so many that U or M of a block is over the budget.
    """
    places, channels, tiles = values.shape
    size = SMALLEST_BLOCK
    while size * (channels + tiles) < channels * tiles // 4:  # until U and M have a quarter of V's numbers
        size *= 2
    return max(1, min(size, backend.budget_bytes // (places * max(channels, tiles) * values.itemsize)))


def error_bound(x: Array, weight: Array, geometry: ConvGeometry, tile: Tile) -> Array:
    """As winograd.error_bound: each term passes through the same roundings."""
    return winograd.error_bound(x, weight, geometry, tile)
