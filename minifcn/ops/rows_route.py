"""Convolution as im2col and one small matrix product for each row of output: the route of narrow layers.

The columns of a block are laid out row by row, Z (input rows, kw·C, Wo), each row with the kw horizontal neighbours of
its pixels. The kh rows that an output row r sees then lie one after the other in memory, and are its whole patches, a
matrix (kh·kw·C, Wo) that nobody has to copy. It overlaps with the next row's, so that all of them are one strided view:

    convolve          Y_r = W · Z_r                       one call of matmul for the block, written to where y lies
    weight_gradient   dW = Σ_r Z_r · D_rᵀ   (transposed)  the same, and a sum over r

Beside im2col_route.py, which sums kh products over long rows, no sum passes through memory; and OpenBLAS computes a
product of less than a million multiplications as it stands, without copying its sides to an order of its own, which
for 16 filters takes as long as the product. For larger products that copy pays, and there this route loses.
"""

import itertools

from minifcn.backend import Array, Backend
from minifcn.ops.blocks import Block, clear_frame, share_out
from minifcn.ops.elementwise import rectify
from minifcn.ops.geometry import ConvGeometry

ROW_BLOCK_BYTES = 2 * 2**20  # of columns in one block


def fits(geometry: ConvGeometry, groups: int) -> bool:
    """Whether a convolution can go this way: stride 1, no dilation, no groups."""
    return geometry.stride == geometry.dilation == (1, 1) and groups == 1


def convolve(
    backend: Backend, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, relu: bool = False
) -> Array:
    """y_o = Σ_c w_oc ⋆ x_c + b_o:  x (N, C, H, W), weight (O, C, kh, kw), bias (O,) -> y (N, O, Ho, Wo).

    relu: max(y, 0) in its place.
    """
    xp = backend.xp
    y = xp.empty((len(x), len(weight), *geometry.output_size), x.dtype)
    matrix = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)  # (O, C, kh, kw) -> (O, kh·kw·C)

    def compute(block: Block) -> None:
        target = y[block.images.start, :, block.rows].swapaxes(0, 1)  # (rows, O, Wo)
        xp.matmul(matrix, _patches(backend, x, geometry, block), out=target)
        if bias is not None:
            target += bias[:, None]
        if relu:
            rectify(backend, target, out=target)

    backend.map(compute, _split(backend, x, geometry))
    return y


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C, kh, kw). Each worker has a sum of its own."""
    xp, channels, out_channels = backend.xp, x.shape[1], grad.shape[1]
    taps = geometry.taps * channels

    def compute(blocks: list[Block]) -> Array:
        total = xp.zeros((taps, out_channels), x.dtype)
        for block in blocks:
            products = backend.scratch("product", (block.row_count, taps, out_channels), x.dtype)
            grads = grad[block.images.start, :, block.rows].transpose(1, 2, 0)  # (rows, Wo, O)
            xp.matmul(_patches(backend, x, geometry, block), grads, out=products)
            total += products.sum(axis=0)
        return total

    blocks = _split(backend, x, geometry, products=taps * out_channels)
    total = sum(backend.map(compute, share_out(backend, blocks)), start=xp.zeros((taps, out_channels), x.dtype))
    total = total.reshape(*geometry.kernel_size, channels, out_channels)
    return xp.ascontiguousarray(total.transpose(3, 2, 0, 1))  # (kh, kw, C, O) -> (O, C, kh, kw)


def _patches(backend: Backend, x: Array, geometry: ConvGeometry, block: Block) -> Array:
    """The patches of each row of a block, a strided view of its columns: (rows, kh·kw·C, Wo)."""
    kernel_h = geometry.kernel_size[0]
    rows = gather_rows(backend, x, geometry, block, block.row_count + kernel_h - 1)
    columns = columns_of(backend, rows, geometry)  # (h, kw, C, Wo)
    shape = (block.row_count, kernel_h * columns[0, :, :, 0].size, columns.shape[3])
    return backend.strided_view(columns, shape, (columns.strides[0], *columns.strides[2:]))


def gather_rows(backend: Backend, x: Array, geometry: ConvGeometry, block: Block, count: int) -> Array:
    """`count` rows of input from the first that a block's windows see, with the padding left and right of them:
    x (N, C, H, W) -> (count, C, Wo + kw − 1). What lies outside the image is zero. In scratch memory.
    """
    (_, channels, height, width), kernel_w = x.shape, geometry.kernel_size[1]
    slab = backend.scratch("slab", (count, channels, geometry.output_size[1] + kernel_w - 1), x.dtype)
    top, left = block.rows.start - geometry.padding[0], -geometry.padding[1]  # the pixel that the slab begins with
    first, last = _inside(height, count, top)
    begin, end = _inside(width, slab.shape[2], left)
    clear_frame(slab.swapaxes(0, 1), slice(first, last), slice(begin, end))
    pixels = x[block.images.start, :, first + top : last + top, begin + left : end + left]
    slab[first:last, :, begin:end] = pixels.swapaxes(0, 1)  # (C, h, W) -> (h, C, W)
    return slab


def columns_of(backend: Backend, rows: Array, geometry: ConvGeometry) -> Array:
    """The kw horizontal neighbours of each pixel: (…, C, Wo + kw − 1) -> (…, kw, C, Wo). In scratch memory."""
    *before, channels, _ = rows.shape
    shape = (*before, geometry.kernel_size[1], channels, geometry.output_size[1])
    columns = backend.scratch("columns", shape, rows.dtype)
    *steps, channel, column = rows.strides
    columns[...] = backend.strided_view(rows, shape, (*steps, column, channel, column))
    return columns


def _inside(size: int, count: int, shift: int) -> tuple[int, int]:
    """Of the places 0 … count − 1, which show pixel `place + shift`, those that lie inside an image of this size."""
    start = min(max(0, -shift), count)
    return start, max(start, min(count, size - shift))


def _split(backend: Backend, x: Array, geometry: ConvGeometry, products: int = 0) -> list[Block]:
    """Each image in blocks of about equally many rows: so many as have ROW_BLOCK_BYTES of columns, and as many
    `products`, numbers for each row, as the budget allows.
    """
    height, width = geometry.output_size
    columns = geometry.kernel_size[1] * x.shape[1] * width * x.itemsize
    rows = backend.budget_bytes // columns - (geometry.kernel_size[0] - 1)  # a block's columns begin and end outside it
    most = min(ROW_BLOCK_BYTES // columns, rows, backend.budget_bytes // max(1, products * x.itemsize))
    count = -(-height // max(1, most))
    bounds = [height * block // count for block in range(count + 1)]
    return [Block(slice(n, n + 1), slice(a, b)) for n in range(len(x)) for a, b in itertools.pairwise(bounds)]
