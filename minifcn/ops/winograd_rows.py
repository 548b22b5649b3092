"""Convolution with 3×3 kernels in four ninths of the multiplications: Winograd's minimal filtering along one axis only.

In two dimensions (winograd.py) the multiplications shrink fivefold, but tiles have to be copied out of the image, 1.8
numbers for each pixel, and narrow layers spend most of their time on that. Taken down the rows only, the m + 2 rows of
input that m rows of output see need no copy: laid out row by row they follow one another, and the tiles of a block are
one strided view, in which neighbours overlap by two rows. With the matrices of winograd.py, d a tile of m + 2 rows, of
C·(Wo + kw − 1) numbers each, and w the three rows of the kernel:

    V = Bᵀ d  (p, C, Wo + kw − 1), then the kw horizontal neighbours of each place, as in rows_route.py: (p, kw·C, Wo)
    U = G w  (p, O, kw·C)     M_p = U_p V_p  (p, O, Wo)     y = Aᵀ M  (m, O, Wo)

(m + 2) · 3 multiplications in place of m · 9, 24 in place of 54 for m = 6; what is added up comes from three rows only,
so it rounds to about 5e-6, less than 2-D tiles of that size. The gradient to the weights is the adjoint, as there, with
g = dL/dy:

    dM = A g  (p, O, Wo)      dU_p = Σ dM_p V_pᵀ  over tiles      dL/dw = Gᵀ dU

All of it is a few calls of matmul for a block, each with long rows or many small products: what NumPy does best, and
what lets two threads run without waiting for the interpreter between many short calls.
"""

import itertools
from typing import Any

import numpy as np

from minifcn.backend import Array, Backend
from minifcn.ops.blocks import Block, share_out
from minifcn.ops.elementwise import rectify
from minifcn.ops.geometry import ConvGeometry
from minifcn.ops.kept_filters import kept
from minifcn.ops.rows_route import columns_of, gather_rows
from minifcn.ops.winograd import FILTER_BYTES, SMALL_PRODUCT, Tile, bound_of_rounding, count_cuts, parts

TILE_ROW_BYTES = 2 * 2**20  # of V in one block


def smallest_bytes(geometry: ConvGeometry, batch: int, channels: int, out_channels: int, dtype: Any, tile: Tile) -> int:
    """The memory that this way takes at least: U, or V or M of one row of tiles, whichever is larger."""
    numbers = max(3 * channels * out_channels, max(3 * channels, out_channels) * geometry.output_size[1])
    return tile.inputs * numbers * np.dtype(dtype).itemsize


def is_fast(geometry: ConvGeometry, batch: int, channels: int, out_channels: int, to_weights: bool, tile: Tile) -> bool:
    """Whether a row of output is so short that its products are small ones (or twice or so as large), and, for the
    gradient to the weights, so long that adding up a dU for each row of tiles costs little beside computing it.
    """
    width = geometry.output_size[1]
    return 3 * channels * out_channels * width <= 1.5 * SMALL_PRODUCT and (width >= 45 or not to_weights)


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
    xp, (out_channels, channels), width = backend.xp, weight.shape[:2], geometry.output_size[1]
    y = xp.empty((len(x), out_channels, *geometry.output_size), x.dtype)
    evaluate, interpolate = (xp.asarray(m, x.dtype) for m in (tile.evaluate_input, tile.interpolate))  # Bᵀ, Aᵀ
    cuts = count_cuts(out_channels, 3 * channels * width)  # of O, so that each product is a small one
    filters = transform_filters(backend, weight, tile)
    filters = filters.reshape(tile.inputs, cuts, out_channels // cuts, 3 * channels)

    def compute(block: Block) -> None:
        values = _evaluate(backend, evaluate, x, geometry, block, tile)  # V: (tiles, p, kw·C, Wo)
        products = backend.scratch("products", (len(values), *filters.shape[:3], width), x.dtype)  # M
        xp.matmul(filters, values[:, :, None], out=products)
        outputs = _transform(backend, interpolate, products, "outputs")  # Aᵀ M: (tiles, m, O·Wo)
        outputs = outputs.reshape(-1, out_channels, width)[: block.row_count]
        if bias is not None:
            outputs += bias[:, None]
        if relu:
            rectify(backend, outputs, out=outputs)
        y[block.images.start, :, block.rows] = outputs.swapaxes(0, 1)

    backend.map(compute, _split(backend, x, geometry, out_channels, tile))
    return y


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, tile: Tile) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C, 3, 3). Each worker adds up a dU of its own."""
    xp, channels, (out_channels, _, width) = backend.xp, x.shape[1], grad.shape[1:]
    matrices = (tile.evaluate_input, tile.interpolate.T.copy(), tile.evaluate_filter.T.copy())
    evaluate, spread, adjoint = (xp.asarray(m, x.dtype) for m in matrices)  # Bᵀ, A, Gᵀ
    shape = (tile.inputs, 3 * channels, out_channels)  # dU, with its sides exchanged: BLAS is faster so

    def compute(blocks: list[Block]) -> Array:
        total = xp.zeros(shape, x.dtype)
        for block in blocks:
            values = _evaluate(backend, evaluate, x, geometry, block, tile)  # V: (tiles, p, kw·C, Wo)
            grads = backend.scratch("grads", (len(values) * tile.outputs, width, out_channels), x.dtype)
            grads[: block.row_count] = grad[block.images.start, :, block.rows].transpose(1, 2, 0)  # (rows, Wo, O)
            grads[block.row_count :] = 0
            spreads = _transform(backend, spread, grads.reshape(len(values), tile.outputs, -1), "spreads")  # dM
            products = backend.scratch("products", (len(values), *shape), x.dtype)
            xp.matmul(values, spreads.reshape(*values.shape[:2], width, out_channels), out=products)
            total += products.sum(axis=0)
        return total

    blocks = _split(backend, x, geometry, out_channels, tile)
    total = sum(backend.map(compute, share_out(backend, blocks)), start=xp.zeros(shape, x.dtype))
    # In a map, though of one item: a large product outside of it would wake BLAS's threads, which then spin for 0.1 s.
    (taps,) = backend.map(lambda dU: adjoint @ dU.reshape(tile.inputs, -1), [total])
    taps = taps.reshape(3, 3, channels, out_channels)
    return xp.ascontiguousarray(taps.transpose(3, 2, 0, 1))  # (kh, kw, C, O) -> (O, C, kh, kw)


@kept
def transform_filters(backend: Backend, weight: Array, tile: Tile) -> Array:
    """U = G w for each column of the kernel: (O, C, 3, 3) -> (p, O, kw·C)."""
    out_channels, channels = weight.shape[:2]
    evaluate = backend.xp.asarray(tile.evaluate_filter, weight.dtype)  # G
    filters = backend.xp.empty((tile.inputs, out_channels, 3 * channels), weight.dtype)

    def compute(part: slice) -> None:
        taps = weight[part].transpose(2, 0, 3, 1).reshape(3, -1)  # (kh, o·kw·C)
        backend.xp.matmul(evaluate, taps, out=filters[:, part].reshape(tile.inputs, -1))

    backend.map(compute, parts(backend, out_channels, FILTER_BYTES // (filters[:, 0].size * weight.itemsize)))
    return filters


def _evaluate(backend: Backend, matrix: Array, x: Array, geometry: ConvGeometry, block: Block, tile: Tile) -> Array:
    """V = Bᵀ d for all tiles of a block, the last of which may reach beyond it: (tiles, p, kw·C, Wo). matrix: Bᵀ.

    The rows are transformed before their neighbours are copied, which would be transformed kw times else.
    """
    count = -(-block.row_count // tile.outputs)
    rows = gather_rows(backend, x, geometry, block, tile.outputs * count + 2)  # (h, C, Wo + kw − 1)
    _, channels, width = rows.shape
    row = rows.strides[0]
    shape = (count, tile.inputs, channels * width)
    tiles = backend.strided_view(rows, shape, (tile.outputs * row, row, rows.itemsize))
    values = _transform(backend, matrix, tiles, "values").reshape(count, tile.inputs, channels, width)
    return columns_of(backend, values, geometry).reshape(count, tile.inputs, -1, geometry.output_size[1])


def _transform(backend: Backend, matrix: Array, tiles: Array, out: str) -> Array:
    """matrix · tile for each tile: (tiles, a, …) -> (tiles, b, everything else), in scratch memory named `out`."""
    tiles = tiles.reshape(len(tiles), matrix.shape[1], -1)
    result = backend.scratch(out, (len(tiles), len(matrix), tiles.shape[2]), tiles.dtype)
    return backend.xp.matmul(matrix, tiles, out=result)


def _split(backend: Backend, x: Array, geometry: ConvGeometry, out_channels: int, tile: Tile) -> list[Block]:
    """Each image in blocks of about equally many rows of tiles: so many as have TILE_ROW_BYTES of V, but never so many
    that V, M or the products of dU are over the budget, unless a single row of tiles is.
    """
    height, width = geometry.output_size
    channels = x.shape[1]
    values = tile.inputs * 3 * channels * width
    largest = tile.inputs * max(3 * channels * width, out_channels * width, 3 * channels * out_channels)
    most = max(1, min(TILE_ROW_BYTES // values, backend.budget_bytes // largest) // x.itemsize)
    tiles = -(-height // tile.outputs)
    count = -(-tiles // most)
    bounds = [min(height, tile.outputs * (tiles * block // count)) for block in range(count + 1)]
    return [Block(slice(n, n + 1), slice(a, b)) for n in range(len(x)) for a, b in itertools.pairwise(bounds)]


def error_bound(x: Array, weight: Array, geometry: ConvGeometry, tile: Tile) -> Array:
    """As winograd.error_bound: with half the transforms, and sums of three times as many terms."""
    roundings = tile.inputs + (3 + 1) + (3 * x.shape[1] + 1) + tile.inputs  # of V, U (with G's own), M and y
    return bound_of_rounding(convolve, roundings, x, weight, geometry, tile)
