"""Convolution as im2col where the weights are larger than the columns, as in fc6: workers share out the weights.

In im2col_route.py each worker has positions of its own and reads all weights, which suits a layer of few weights and
many pixels. fc6 is the other way round: 411 MB of weights and 12×16 positions. With positions of its own, each worker
would read 411 MB, and for dL/dw hold a sum of 411 MB, to be added up in the end. So here each has filters of its own
(for dL/dx: input channels), all workers read the same columns, and nothing is added up:

    Y_o = W_o · Z          dZ_c = W_cᵀ · D          dW_o = D_o · Zᵀ          with o, or c, of one worker

BLAS's own threads would do the same; but after a product they spin for 0.1 s, and take a core from the next operation.
"""

from minifcn.backend import Array, Backend
from minifcn.ops.blocks import (
    COLUMN_BLOCK_BYTES,
    Block,
    gather_columns,
    has_whole_patches,
    kernel_row,
    parts,
    positions_last,
    scatter_columns,
    split_into_blocks,
    write_product,
)
from minifcn.ops.geometry import ConvGeometry


def fit(
    backend: Backend, geometry: ConvGeometry, batch: int, out_channels: int, weight_bytes: int, groups: int
) -> bool:
    """Whether a convolution goes this way."""
    is_large = groups == 1 and weight_bytes > COLUMN_BLOCK_BYTES and backend.workers > 1
    return is_large and has_whole_patches(backend, geometry, batch, out_channels)


def convolve(
    backend: Backend, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, relu: bool = False
) -> Array:
    """y_o = Σ_c w_oc ⋆ x_c + b_o:  x (N, C, H, W), weight (O, C, kh, kw), bias (O,) -> y (N, O, Ho, Wo).

    relu: max(y, 0) in its place.
    """
    y = backend.xp.empty((len(x), len(weight), *geometry.output_size), x.dtype)
    matrix = weight.reshape(len(weight), -1)
    for block in _blocks(backend, x, geometry, weight.nbytes):
        columns = _columns(backend, x, geometry, block)  # (C·kh·kw, P)
        product = backend.scratch("product", (len(weight), columns.shape[1]), x.dtype)
        _multiply(backend, matrix, columns, product)
        write_product(backend, product, bias, y, block, relu)
    return y


def input_gradient(backend: Backend, grad: Array, weight: Array, geometry: ConvGeometry) -> Array:
    """dL/dx from g = dL/dy:  g (N, O, Ho, Wo), weight (O, C, kh, kw) -> (N, C, H, W)."""
    out_channels, channels = weight.shape[:2]
    grad_x = backend.xp.zeros((len(grad), channels, *geometry.input_size), grad.dtype)

    def compute(block_and_part: tuple[Block, slice]) -> None:
        block, part = block_and_part
        grads = positions_last(grad, block, 1)[0]  # (O, P)
        matrix = weight[:, part].reshape(out_channels, -1).T  # (c·kh·kw, O)
        columns = backend.scratch("product", (len(matrix), grads.shape[1]), grad.dtype)
        backend.xp.matmul(matrix, grads, out=columns)
        scatter_columns(backend, columns, grad_x[:, part], geometry, block)

    blocks = _blocks(backend, grad_x, geometry, weight.nbytes)
    for block in blocks:
        backend.map(compute, [(block, part) for part in _shares(backend, channels)])
    return grad_x


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C, kh, kw)."""
    xp, out_channels, channels = backend.xp, grad.shape[1], x.shape[1]
    grad_weight = xp.empty((out_channels, channels, *geometry.kernel_size), x.dtype)
    matrix = grad_weight.reshape(out_channels, -1)
    blocks = _blocks(backend, x, geometry, grad_weight.nbytes)
    if not blocks:
        matrix[...] = 0
    for number, block in enumerate(blocks):
        columns = _columns(backend, x, geometry, block)
        _multiply(backend, positions_last(grad, block, 1)[0], columns.T, matrix, add=number > 0)
    return grad_weight


def _blocks(backend: Backend, x: Array, geometry: ConvGeometry, weight_bytes: int) -> list[Block]:
    """As few blocks as the budget allows: each reads all weights."""
    return split_into_blocks(
        backend, len(x), x.shape[1], geometry, True, x.itemsize, weight_bytes, one_for_each_worker=False
    )


def _columns(backend: Backend, x: Array, geometry: ConvGeometry, block: Block) -> Array:
    """The whole patches of a block, as a matrix (C·kh·kw, P)."""
    return kernel_row(gather_columns(backend, x, geometry, block, True), geometry, block, 0, 1)[0]


def _multiply(backend: Backend, left: Array, right: Array, out: Array, add: bool = False) -> None:
    """out = left · right, or out += left · right, some rows of `left` for each worker."""

    def compute(part: slice) -> None:
        target = backend.scratch("term", (part.stop - part.start, right.shape[1]), left.dtype) if add else out[part]
        backend.xp.matmul(left[part], right, out=target)
        if add:
            out[part] += target

    rows = backend.budget_bytes // (right.shape[1] * left.itemsize)
    backend.map(compute, _shares(backend, len(left), rows))


def _shares(backend: Backend, length: int, most: int | None = None) -> list[slice]:
    """range(length) in a slice for each worker, or more, if `most` is the largest."""
    share = -(-length // backend.workers)
    return parts(backend, length, share if most is None else min(share, most))
