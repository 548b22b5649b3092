"""Convolution with 3×3 kernels in a fifth of the multiplications: Winograd's minimal filtering.

A tile of m×m outputs depends on (m + 2)×(m + 2) inputs d. Computed one by one the outputs take 9·m² multiplications;
but they are sums of products of polynomials' coefficients, and such a sum can be had by evaluating the polynomials at
m + 2 points, multiplying there, and interpolating. In two dimensions (Lavin and Gray 2016, equation 8):

    y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A       Bᵀ evaluates d, G the kernel w, Aᵀ interpolates; ⊙ is element by element

which takes (m + 2)² multiplications: 64 in place of 324 for m = 6, 36 in place of 144 for m = 4. Summed over channels,
⊙ becomes (m + 2)² matrix products, one for each place p in the transformed tile, over all tiles t at once:

    U = G w Gᵀ  (p, O, C)       V = Bᵀ d B  (p, C, t)       M_p = U_p V_p  (p, O, t)       y = Aᵀ M A

Everything is linear in w, so the gradient to the weights is the adjoint of this map: with g = dL/dy,

    dM = A g Aᵀ  (p, O, t)      dU_p = dM_p V_pᵀ            dL/dw = Gᵀ dU G

The gradient to the input is a convolution itself, with the kernel turned by 180° (conv.py).

The price is rounding: Bᵀ and Aᵀ have entries up to 5 and 32, so that larger numbers are added up and cancel.
`error_bound` says by how much at worst; in practice float32 loses about 1e-5 of the largest output for m = 6 (2e-5 with
512 channels), 2e-6 for m = 4 and 3e-7 for m = 2, as the plain product does. Computations in float64 take the exact
route. A number that is not finite, or far larger than its neighbours, spoils all outputs of the tiles that see it, not
only its own patches.

Tiles are worked on in bands that fit the cache: copied there once, transformed, multiplied, transformed back, and the
bias added and negative numbers cut off before the band leaves it. Bands are shared out over the CPU's threads. On a GPU
each step is one kernel (kernels/tiles.py) or one batched product, and a band is as large as the budget allows.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minifcn.backend import Array, Backend, get_backend, with_kernel
from minifcn.ops.blocks import clear_frame, parts
from minifcn.ops.elementwise import rectify
from minifcn.ops.geometry import ConvGeometry
from minifcn.ops.kept_filters import kept

# Of V and M together in one band. Smaller ones would fit a core's own cache; but between two calls of NumPy a thread
# needs the interpreter's lock, and with calls of few microseconds the threads do little but wait for each other.
BAND_BYTES = 3 * 2**20
FILTER_BYTES = 2**20  # of U in one part of the filters that are transformed together
# OpenBLAS computes a product of less than a million multiplications as it stands, without copying its sides first.
SMALL_PRODUCT = 10**6


@dataclass(frozen=True, eq=False)
class Tile:
    """F(m×m, 3×3): the matrices that belong to m outputs in each direction. float64; cast to the data's dtype."""

    outputs: int  # m
    evaluate_input: np.ndarray  # Bᵀ: (m + 2, m + 2)
    evaluate_filter: np.ndarray  # G: (m + 2, 3)
    interpolate: np.ndarray  # Aᵀ: (m, m + 2)

    @property
    def inputs(self) -> int:
        return self.outputs + 2

    @property
    def places(self) -> int:
        """(m + 2)², the number of matrix products."""
        return self.inputs**2


def tile_of(outputs: int, points: Sequence[float]) -> Tile:
    """F(m×m, 3×3) by evaluation at m + 1 points and at ∞.

    A polynomial of degree m + 1, the product of one with 3 coefficients and one with m, is known from its values at so
    many points p, where values multiply, and its leading coefficient, "its value at ∞". Evaluating is multiplication
    by rows [1, p, p², …]; the coefficients come back by Lagrange's polynomials Π_{q≠p} (x − q) / Π_{q≠p} (p − q).
    Filtering is the adjoint of such a product for fixed w: the matrix that evaluated the other factor, transposed, is
    now the last step, Aᵀ; and the one that interpolated is the first, Bᵀ, whose rows are Lagrange's polynomials. Their
    denominators go into G, which is applied to the few weights only.
    Source: Winograd 1980; Lavin and Gray 2016.
    """
    inputs = outputs + 2
    evaluate_input, evaluate_filter = np.zeros((inputs, inputs)), np.zeros((inputs, 3))
    interpolate = np.zeros((outputs, inputs))
    for i, point in enumerate(points):
        others = np.delete(np.array(points, float), i)
        evaluate_input[i, :-1] = np.poly(others)[::-1]  # Π (x − q), from the constant term on
        evaluate_filter[i] = point ** np.arange(3) / np.prod(point - others)
        interpolate[:, i] = point ** np.arange(outputs)
    evaluate_input[-1] = np.poly(points)[::-1]
    evaluate_filter[-1, -1] = interpolate[-1, -1] = 1
    return Tile(outputs, evaluate_input, evaluate_filter, interpolate)


# Points near 1 in size, whose powers stay small, and their reciprocals lose the fewest digits (Barabasz, Anderson,
# Soodhalter and Gregg 2020).
TILE_2 = tile_of(2, (0, 1, -1))
TILE_4 = tile_of(4, (0, 1, -1, 0.5, -2))
TILE_6 = tile_of(6, (0, 1, -1, 2, -2, 0.5, -0.5))


def fits(geometry: ConvGeometry, groups: int) -> bool:
    """Whether a convolution can go this way: 3×3, stride 1, no dilation, no groups."""
    return geometry.kernel_size == (3, 3) and geometry.stride == geometry.dilation == (1, 1) and groups == 1


def smallest_bytes(geometry: ConvGeometry, batch: int, channels: int, out_channels: int, dtype: Any, tile: Tile) -> int:
    """The memory that this way takes at least: U, or V or M of one row of tiles, whichever is larger."""
    columns = -(-geometry.output_size[1] // tile.outputs)
    numbers = max(channels * out_channels, max(channels, out_channels) * columns)
    return tile.places * numbers * np.dtype(dtype).itemsize


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
    out_channels = len(weight)
    y = backend.xp.empty((len(x), out_channels, *geometry.output_size), x.dtype)
    filters = transform_filters(backend, weight, tile)  # U: (p, O, C)

    def compute(band: Band) -> None:
        values = evaluate_tiles(backend, x, band, tile, geometry.padding, False)  # V
        products = backend.scratch("products", (tile.places, out_channels, values.shape[2]), x.dtype)
        multiply(backend, filters, values, products)  # M: (p, O, C) @ (p, C, t) -> (p, O, t)
        write_tiles(backend, products, bias, y, band, tile, relu)

    shares = split(backend, len(x), geometry, tile, x.shape[1], out_channels, x.itemsize)
    backend.map(compute, list(itertools.chain(*shares)))
    return y


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, tile: Tile) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C, 3, 3). Each worker adds up a dU of its own."""
    channels, out_channels = x.shape[1], grad.shape[1]
    shares = split(backend, len(x), geometry, tile, channels, out_channels, x.itemsize)
    totals = backend.scratch("totals", (len(shares), tile.places, out_channels, channels), x.dtype)  # a dU for each

    def compute(share_and_total: tuple[list[Band], Array]) -> None:
        share, total = share_and_total
        if not share:  # an empty batch
            total[...] = 0
        for number, band in enumerate(share):
            values = evaluate_tiles(backend, x, band, tile, geometry.padding, True)  # V
            grads = spread_tiles(backend, grad, band, tile)  # dM
            target = total if number == 0 else backend.scratch("term", total.shape, x.dtype)
            backend.xp.matmul(grads, values.swapaxes(1, 2), out=target)  # (p, O, t) @ (p, t, C) -> (p, O, C)
            if number > 0:
                total += target
            del values, grads, target  # where there is no scratch memory, room for the next

    backend.map(compute, zip(shares, totals, strict=True))
    return filter_gradient(backend, totals, tile)


@kept
@with_kernel
def transform_filters(backend: Backend, weight: Array, tile: Tile) -> Array:
    """U = G w Gᵀ for each pair of channels: (O, C, 3, 3) -> ((m + 2)², O, C). In scratch memory, if it is not kept."""
    out_channels, channels = weight.shape[:2]
    evaluate = backend.xp.asarray(tile.evaluate_filter, weight.dtype)
    filters = backend.scratch("filters", (tile.inputs, tile.inputs, out_channels * channels), weight.dtype)

    def evaluate_part(part: slice) -> None:
        taps = gather_taps(backend, weight[part])
        transform(backend, evaluate, taps, filters[:, :, part.start * channels : part.stop * channels])

    backend.map(evaluate_part, parts(backend, out_channels, FILTER_BYTES // (tile.places * channels * weight.itemsize)))
    return filters.reshape(tile.places, out_channels, channels)


def gather_taps(backend: Backend, weight: Array) -> Array:
    """A kernel's rows and columns first: (o, C, 3, 3) -> (3, 3, o, C), in scratch memory."""
    taps = backend.scratch("taps", (3, 3, *weight.shape[:2]), weight.dtype)
    taps[...] = weight.transpose(2, 3, 0, 1)
    return taps


@with_kernel
def filter_gradient(backend: Backend, totals: Array, tile: Tile) -> Array:
    """dL/dw = Gᵀ dU G, with dU the sum of what each worker has found: ((m + 2)², O, C) -> (O, C, 3, 3)."""
    xp, (_, _, out_channels, channels) = backend.xp, totals.shape
    adjoint = xp.asarray(tile.evaluate_filter.T.copy(), totals.dtype)  # Gᵀ: (3, m + 2)
    grad = xp.empty((out_channels, channels, 3, 3), totals.dtype)

    def interpolate_part(part: slice) -> None:
        shape = (tile.inputs, tile.inputs, part.stop - part.start, channels)
        whole = backend.scratch("whole", (tile.places, *shape[2:]), totals.dtype)
        xp.sum(totals[:, :, part], axis=0, out=whole)
        taps = backend.scratch("taps", (3, 3, *shape[2:]), totals.dtype)
        grad[part] = transform(backend, adjoint, whole.reshape(shape), taps).transpose(2, 3, 0, 1)

    size = FILTER_BYTES // (tile.places * channels * totals.itemsize)
    backend.map(interpolate_part, parts(backend, out_channels, size))
    return grad


def transform(backend: Backend, matrix: Array, tiles: Array, out: Array) -> Array:
    """out = matrix · tile · matrixᵀ for every tile: (a, a, …) -> (b, b, …). Returns `out`.

    The tile's rows and columns lead, so that each side is one product of the small matrix with long rows.
    """
    b, a = matrix.shape
    rows = backend.scratch("rows", (b, tiles.size // a), tiles.dtype)
    backend.xp.matmul(matrix, tiles.reshape(a, -1), out=rows)  # over the first axis: (b, a) @ (a, a·…) -> (b, a·…)
    # Over the second axis: (b, a) @ (b, a, …) -> (b, b, …)
    backend.xp.matmul(matrix, rows.reshape(b, a, -1), out=out.reshape(b, b, -1))
    return out


def multiply(backend: Backend, left: Array, right: Array, out: Array) -> None:
    """out_p = left_p · right_p for each place p: (p, a, k) @ (p, k, b) -> (p, a, b); on the CPU in small products."""
    places, rows, _ = left.shape
    cuts = 1 if backend.large_products else count_cuts(rows, right[0].size)
    if cuts == 1:
        backend.xp.matmul(left, right, out=out)
        return
    left, out = (array.reshape(places, cuts, rows // cuts, -1) for array in (left, out))
    backend.xp.matmul(left, right[:, None], out=out)


def count_cuts(rows: int, multiplications: int) -> int:
    """In how many equal parts to cut a matrix of so many rows, with so many multiplications for each, to have small
    products; at least eight rows each, or it is left whole.
    """
    cuts = 1
    while rows % (2 * cuts) == 0 and rows // cuts * multiplications > SMALL_PRODUCT:
        cuts *= 2
    return cuts if rows // cuts >= 8 and rows // cuts * multiplications <= SMALL_PRODUCT else 1


# ------------------------------------------------------------------------------------- tiles, from images and back


@dataclass(frozen=True)
class Band:
    """Some rows of tiles, counted through all images of the batch; each has `columns` tiles."""

    start: int
    stop: int
    rows_per_image: int
    columns: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def images(self) -> slice:
        """The images whose rows these are."""
        return slice(self.start // self.rows_per_image, -(-self.stop // self.rows_per_image))

    def parts(self) -> Iterator[tuple[int, slice, slice]]:
        """For each image in it: its number, which of its rows of tiles these are, and which of the band's."""
        start = self.start
        while start < self.stop:
            image, row = divmod(start, self.rows_per_image)
            count = min(self.stop - start, self.rows_per_image - row)
            yield image, slice(row, row + count), slice(start - self.start, start - self.start + count)
            start += count


def split(
    backend: Backend,
    batch: int,
    geometry: ConvGeometry,
    tile: Tile,
    channels: int,
    out_channels: int,
    itemsize: int,
) -> list[list[Band]]:
    """All rows of tiles, in one contiguous share for each worker, each cut into bands of about equal size.

    A band has so many tiles that V and M fit the cache (no bound on a GPU), but at least so many that they are twice as
    large as U, which is read for each band; and never so many rows that one of them is over the budget, unless a single
    row is.
    """
    rows_per_image, columns = (-(-size // tile.outputs) for size in geometry.output_size)
    both = channels + out_channels
    size = max(BAND_BYTES, backend.array_block_bytes)
    tiles = max(1, size // (tile.places * both * itemsize), 2 * channels * out_channels // both)
    rows = max(1, backend.budget_bytes // (tile.places * max(channels, out_channels) * columns * itemsize))
    total = batch * rows_per_image
    workers = max(1, min(backend.workers, total))
    shares = []
    for first, last in itertools.pairwise(total * share // workers for share in range(workers + 1)):
        count = max(1, -(-(last - first) * columns // tiles), -(-(last - first) // rows))  # bands in this share
        bounds = [first + (last - first) * band // count for band in range(count + 1)]
        shares.append([Band(a, b, rows_per_image, columns) for a, b in itertools.pairwise(bounds) if a < b])
    return shares


@with_kernel
def evaluate_tiles(
    backend: Backend, x: Array, band: Band, tile: Tile, padding: tuple[int, int], channels_last: bool
) -> Array:
    """V = Bᵀ d B for the tiles d of a band, the images padded with zeros: x (N, C, H, W) -> (p, C, t).

    channels_last: whether a device lays V in memory as (p, t, C), for a product that reads it transposed. The result is
    the same, and NumPy's way does not look at it.
    """
    tiles = gather(backend, "tiles", x, band, size=tile.inputs, step=tile.outputs, padding=padding)
    evaluate = backend.xp.asarray(tile.evaluate_input, x.dtype)
    return transform(backend, evaluate, tiles, tiles).reshape(tile.places, x.shape[1], -1)


@with_kernel
def spread_tiles(backend: Backend, grad: Array, band: Band, tile: Tile) -> Array:
    """dM = A g Aᵀ for the tiles g of a band of dL/dy: (N, O, Ho, Wo) -> (p, O, t)."""
    tiles = gather(backend, "outputs", grad, band, size=tile.outputs, step=tile.outputs, padding=(0, 0))
    spread = backend.xp.asarray(tile.interpolate.T.copy(), grad.dtype)
    products = backend.scratch("products", (tile.inputs, tile.inputs, *tiles.shape[2:]), grad.dtype)
    return transform(backend, spread, tiles, products).reshape(tile.places, grad.shape[1], -1)


@with_kernel
def write_tiles(
    backend: Backend, products: Array, bias: Array | None, y: Array, band: Band, tile: Tile, relu: bool
) -> None:
    """y = Aᵀ M A + b for the tiles of a band, or max(y, 0) of it: M (p, O, t), b (O,) or None, y (N, O, Ho, Wo)."""
    outputs = backend.scratch("outputs", (tile.outputs, tile.outputs, y.shape[1], band.rows, band.columns), y.dtype)
    interpolate = backend.xp.asarray(tile.interpolate, y.dtype)
    transform(backend, interpolate, products.reshape(tile.inputs, tile.inputs, -1), outputs)
    if bias is not None:
        outputs += bias[:, None, None]
    if relu:
        rectify(backend, outputs, out=outputs)
    scatter(outputs, y, band)


def gather(
    backend: Backend, name: str, x: Array, band: Band, *, size: int, step: int, padding: tuple[int, int]
) -> Array:
    """The tiles of a band, size × size pixels each, `step` apart, with their rows and columns leading:
    x (N, C, H, W) -> (size, size, C, rows, columns). What lies outside the image is zero.
    """
    channels, height, width = x.shape[1:]
    tiles = backend.scratch(name, (size, size, channels, band.rows, band.columns), x.dtype)
    for image, rows, place in band.parts():
        top, bottom = rows.start * step - padding[0], (rows.stop - 1) * step - padding[0] + size
        slab = backend.scratch("slab", (channels, bottom - top, (band.columns - 1) * step + size), x.dtype)
        inside = slice(max(top, 0), max(min(bottom, height), max(top, 0)))
        right = max(0, min(width, slab.shape[2] - padding[1]))
        target = slice(inside.start - top, inside.stop - top), slice(padding[1], padding[1] + right)
        clear_frame(slab, *target)
        slab[:, *target] = x[image, :, inside, :right]
        per_channel, per_row, per_column = slab.strides
        strides = (per_row, per_column, per_channel, step * per_row, step * per_column)
        shape = (size, size, channels, rows.stop - rows.start, band.columns)
        tiles[:, :, :, place] = backend.strided_view(slab, shape, strides)
    return tiles


def scatter(outputs: Array, y: Array, band: Band) -> None:
    """Write (m, m, O, rows, columns) to where the tiles lie in y; what hangs over its edge is dropped."""
    m = len(outputs)
    for image, rows, place in band.parts():
        target = y[image, :, rows.start * m : rows.stop * m]  # (O, up to rows·m, Wo)
        whole = target.shape[1] // m  # rows of tiles that lie in the image with all their m rows of pixels
        pixels = target[:, : whole * m].reshape(len(target), whole, m, target.shape[2])  # -> (O, rows, m, Wo)
        for j in range(m):
            tiles = outputs[:, j, :, place, : -(-(target.shape[2] - j) // m)]  # (m, O, rows, columns)
            pixels[..., j::m] = tiles[:, :, :whole].transpose(1, 2, 0, 3)
            for i in range(target.shape[1] - whole * m):  # the last row of tiles, if it is cut off
                target[:, whole * m + i, j::m] = tiles[i, :, whole]


# ------------------------------------------------------------------------------------------------------- rounding


def error_bound(x: Array, weight: Array, geometry: ConvGeometry, tile: Tile) -> Array:
    """How far each output can be from the exact one, in float32: x (N, C, H, W), weight (O, C, 3, 3), both on the CPU.

    A sum of products, each term of which passes through n roundings, is off by at most γ = n·u / (1 − n·u) times the
    sum of the absolute values of its terms, u = 2⁻²⁴ (Higham 2002, section 3.1). That sum is what this computation
    gives if all numbers in it, the matrices' too, are replaced by their absolute values. float64, (N, O, Ho, Wo).
    """
    roundings = 2 * tile.inputs + 2 * (3 + 1) + (x.shape[1] + 1) + 2 * tile.inputs  # of V, U (with G's own), M and y
    return bound_of_rounding(convolve, roundings, x, weight, geometry, tile)


def bound_of_rounding(
    convolve: Callable[..., Array], roundings: int, x: Array, weight: Array, geometry: ConvGeometry, tile: Tile
) -> Array:
    """The bound of `error_bound`, for a way to convolve in which each term passes through so many roundings."""
    absolute = Tile(tile.outputs, *map(np.abs, (tile.evaluate_input, tile.evaluate_filter, tile.interpolate)))
    gamma = roundings * 2.0**-24 / (1 - roundings * 2.0**-24)
    x, weight = (np.abs(array).astype(np.float64) for array in (x, weight))
    return gamma * convolve(get_backend("cpu"), x, weight, None, geometry, absolute)
