"""Convolution as im2col and one matrix product, block by block: the plain route, for every geometry.

    convolve          Y = W · im2col(x)
    input_gradient    dX = col2im(Wᵀ · D)
    weight_gradient   dW = D · im2col(x)ᵀ

with W the weight as a matrix (out, in·kh·kw), Y of shape (out, L), and D = dL/dY. Where the rows of the kernel share
columns (see blocks.py), a product is cut by kernel row: Y = Σ_i W_i · Z_i, and so dW_i = D · Z_iᵀ. Each map runs block
by block (a few output rows, or a few small images, at a time), so the columns in memory are bounded whatever the size
of the layer. A 1×1 kernel needs no columns: the image itself is the matrix. Where the weights are larger than that,
threads share them out, not the blocks (large_weights.py).
"""

from minifcn.backend import Array, Backend
from minifcn.ops import large_weights
from minifcn.ops.blocks import (
    COLUMN_BLOCK_BYTES,
    Block,
    gather_columns,
    has_whole_patches,
    kernel_row,
    positions_last,
    scatter_columns,
    share_out,
    split_into_blocks,
    write_product,
)
from minifcn.ops.geometry import ConvGeometry


def convolve(
    backend: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    geometry: ConvGeometry,
    groups: int,
    relu: bool = False,
) -> Array:
    """y_o = Σ_c w_oc ⋆ x_c + b_o:  x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,) -> y (N, O, Ho, Wo).

    relu: max(y, 0) in its place.
    """
    out_channels = len(weight)
    if large_weights.fit(backend, geometry, len(x), out_channels, weight.nbytes, groups):
        return large_weights.convolve(backend, x, weight, bias, geometry, relu)
    whole = has_whole_patches(backend, geometry, len(x), out_channels)
    y = backend.xp.empty((len(x), out_channels, *geometry.output_size), x.dtype)
    matrices = _kernel_matrices(backend, weight, groups, whole)

    def compute(blocks: list[Block]) -> None:
        for block in blocks:
            columns = gather_columns(backend, x, geometry, block, whole)
            product = _product(backend, "product", matrices[0], kernel_row(columns, geometry, block, 0, groups))
            for i in range(1, len(matrices)):
                product += _product(backend, "term", matrices[i], kernel_row(columns, geometry, block, i, groups))
            write_product(backend, product, bias, y, block, relu)
            del columns, product  # where there is no scratch memory, room for the next

    blocks = split_into_blocks(backend, len(x), x.shape[1], geometry, whole, x.itemsize, weight.nbytes)
    backend.map(compute, share_out(backend, blocks), large=_is_large(weight.nbytes))
    return y


def input_gradient(backend: Backend, grad: Array, weight: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dL/dx from g = dL/dy:  g (N, O, Ho, Wo), weight (O, C/groups, kh, kw) -> (N, C, H, W).

    y_op = Σ_k W_ok c_kp with columns c = im2col(x), so dL/dc = Wᵀ g; each column entry is a copy of a pixel, so
    dL/dx adds those up: col2im.
    """
    if large_weights.fit(backend, geometry, len(grad), len(weight), weight.nbytes, groups):
        return large_weights.input_gradient(backend, grad, weight, geometry)
    channels = weight.shape[1] * groups
    grad_x = backend.xp.zeros((len(grad), channels, *geometry.input_size), grad.dtype)
    (matrix,) = _kernel_matrices(backend, weight, groups, whole=True)
    matrix = matrix.swapaxes(1, 2)  # (groups, C/groups·kh·kw, O/groups)

    def compute(blocks: list[Block]) -> None:
        for block in blocks:
            grad_columns = _product(backend, "product", matrix, positions_last(grad, block, groups))
            scatter_columns(backend, grad_columns, grad_x, geometry, block)
            del grad_columns

    blocks = split_into_blocks(backend, len(grad), channels, geometry, True, grad.itemsize, weight.nbytes)
    backend.map(compute, share_out(backend, blocks, whole_images=True), large=_is_large(weight.nbytes))
    return grad_x


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C/groups, kh, kw).

    y_op = Σ_k W_ok c_kp, so dL/dW_ok = Σ_p g_op c_kp over all images and positions: the product g · columnsᵀ. Each
    worker adds up a sum of its own, which its first block begins: with one block, nothing is added or filled with 0.
    """
    xp, out_channels, in_group = backend.xp, grad.shape[1], x.shape[1] // groups
    weight_bytes = out_channels * in_group * geometry.taps * x.itemsize
    if large_weights.fit(backend, geometry, len(x), out_channels, weight_bytes, groups):
        return large_weights.weight_gradient(backend, x, grad, geometry)
    whole = has_whole_patches(backend, geometry, len(x), out_channels)
    # Of shared columns, the transpose is summed, columns · gᵀ: BLAS is up to twice as fast with the long side first.
    # Of whole patches, g · columnsᵀ is the result as it stands, which for fc6 saves turning round 400 MB.
    kernel_h, kernel_w = (1, geometry.taps) if whole else geometry.kernel_size
    sides = (out_channels // groups, in_group * kernel_w)
    shape = (kernel_h, groups, *(sides if whole else sides[::-1]))
    blocks = split_into_blocks(backend, len(x), x.shape[1], geometry, whole, x.itemsize, weight_bytes)
    shares = share_out(backend, blocks)
    if not shares:
        return xp.zeros((out_channels, in_group, *geometry.kernel_size), x.dtype)
    grad_weight = xp.empty((out_channels, in_group, *geometry.kernel_size), x.dtype)
    first = grad_weight.reshape(shape) if whole else xp.empty(shape, x.dtype)  # whole patches: summed where it stays
    totals = [first, *(xp.empty(shape, x.dtype) for _ in shares[1:])]

    def compute(share_and_total: tuple[list[Block], Array]) -> None:
        share, total = share_and_total
        for block in share:
            columns = gather_columns(backend, x, geometry, block, whole)
            grads = positions_last(grad, block, groups)  # (groups, O/groups, P)
            for i in range(kernel_h):
                row = kernel_row(columns, geometry, block, i, groups)  # (groups, C/groups·kw, P)
                left, right = (grads, row) if whole else (row, grads)
                if block is share[0]:
                    _multiply(backend, left, right.swapaxes(1, 2), total[i])
                else:
                    total[i] += _product(backend, "term", left, right.swapaxes(1, 2))
            del columns, grads, row, left, right

    backend.map(compute, zip(shares, totals, strict=True), large=_is_large(weight_bytes))
    total, *others = totals
    for other in others:
        total += other
    if not whole:
        total = total.reshape(kernel_h, groups, in_group, kernel_w, -1)
        total = total.transpose(1, 4, 2, 0, 3)  # -> (groups, O/groups, C/groups, kh, kw)
        grad_weight.reshape(total.shape)[...] = total
    return grad_weight


def convolve_and_differentiate(
    backend: Backend, x: Array, weight: Array, grad: Array, geometry: ConvGeometry, groups: int
) -> tuple[Array, Array]:
    """convolve(x, weight) and weight_gradient(x, grad) from the same columns, whole patches of x: for a GPU, on which
    copying columns may take as long as a product with them.

    x (N, C, H, W), weight (O, C/groups, kh, kw), grad (N, O, Ho, Wo) -> y, as grad, and dL/dw, as weight. In Conv2d's
    backward pass x is its g, y its dL/dx, and grad its x: the columns are those of g.
    """
    xp, out_channels = backend.xp, len(weight)
    y = xp.empty((len(x), out_channels, *geometry.output_size), x.dtype)
    (matrix,) = _kernel_matrices(backend, weight, groups, whole=True)
    total = xp.zeros(matrix.shape, x.dtype)  # (groups, O/groups, C/groups·kh·kw)
    for block in split_into_blocks(backend, len(x), x.shape[1], geometry, True, x.itemsize, weight.nbytes):
        columns = kernel_row(gather_columns(backend, x, geometry, block, True), geometry, block, 0, groups)
        write_product(backend, _product(backend, "product", matrix, columns), None, y, block, False)
        total += _product(backend, "term", positions_last(grad, block, groups), columns.swapaxes(1, 2))
        del columns
    return y, total.reshape(weight.shape)


def _is_large(weight_bytes: int) -> bool:
    """Whether a product with these weights is worth BLAS's own threads, if it cannot be split into blocks."""
    return weight_bytes > COLUMN_BLOCK_BYTES


def _kernel_matrices(backend: Backend, weight: Array, groups: int, whole: bool) -> list[Array]:
    """The weight as a matrix for each group, (groups, O/groups, C/groups·kh·kw); or as one for each kernel row."""
    out_channels, in_group, kernel_h, kernel_w = weight.shape
    if whole:
        return [weight.reshape(groups, out_channels // groups, -1)]
    rows = backend.xp.ascontiguousarray(weight.transpose(2, 0, 1, 3))  # (kh, O, C/groups, kw)
    return list(rows.reshape(kernel_h, groups, out_channels // groups, in_group * kernel_w))


def _product(backend: Backend, name: str, left: Array, right: Array) -> Array:
    """left @ right for each group, in scratch memory."""
    product = backend.scratch(name, (len(left), left.shape[1], right.shape[2]), left.dtype)
    _multiply(backend, left, right, product)
    return product


def _multiply(backend: Backend, left: Array, right: Array, out: Array) -> None:
    """out = left @ right for each group. One group goes as a plain 2-D product, the fastest there is."""
    if len(left) == 1:
        backend.xp.matmul(left[0], right[0], out=out[0])
    else:
        backend.xp.matmul(left, right, out=out)
