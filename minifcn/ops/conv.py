"""Convolution, as im2col and one matrix product.

Three linear maps share one geometry, and both conv2d and conv_transpose2d are made of them:

    convolve          x, w -> y     Y = W · im2col(x)          forward
    input_gradient    g, w -> dx    dX = col2im(Wᵀ · D)        its adjoint for fixed w
    weight_gradient   x, g -> dw    dW = D · im2col(x)ᵀ        its adjoint for fixed x

with W the weight as a matrix (out, in·kh·kw), Y of shape (out, L), and D = dL/dY. Where the rows of the kernel share
columns (see blocks.py), a product is cut by kernel row: Y = Σ_i W_i · Z_i, and so dW_i = D · Z_iᵀ. Each map runs block
by block (a few output rows, or a few small images, at a time), so the columns in memory are bounded whatever the size
of the layer.
"""

import math
from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend
from minifcn.errors import ShapeError
from minifcn.ops.blocks import (
    CACHE_BLOCK_BYTES,
    Block,
    gather_columns,
    has_whole_patches,
    kernel_row,
    scatter_columns,
    share_out,
    split_into_blocks,
)
from minifcn.ops.geometry import ConvGeometry, Size
from minifcn.ops.patches import check_images


def convolve(
    backend: Backend, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, groups: int
) -> Array:
    """y_o = Σ_c w_oc ⋆ x_c + b_o:  x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,) -> y (N, O, Ho, Wo)."""
    out_channels, whole = len(weight), has_whole_patches(geometry, len(x), len(weight))
    y = backend.xp.empty((len(x), out_channels, *geometry.output_size), x.dtype)
    matrices = _kernel_matrices(backend, weight, groups, whole)

    def compute(blocks: list[Block]) -> None:
        for block in blocks:
            columns = gather_columns(backend, x, geometry, block, whole)
            product = _product(backend, "product", matrices[0], kernel_row(columns, geometry, block, 0, groups))
            for i in range(1, len(matrices)):
                product += _product(backend, "term", matrices[i], kernel_row(columns, geometry, block, i, groups))
            target = y[block.images, :, block.rows]  # (n, O, rows, Wo)
            result = product.reshape(out_channels, block.row_count, len(target), -1).transpose(2, 0, 1, 3)
            if bias is None:
                target[...] = result
            else:
                backend.xp.add(result, bias[:, None, None], out=target)

    blocks = split_into_blocks(backend, len(x), x.shape[1], geometry, whole, x.itemsize, weight.nbytes)
    backend.map(compute, share_out(backend, blocks), large=_is_large(weight.nbytes))
    return y


def input_gradient(backend: Backend, grad: Array, weight: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dL/dx from g = dL/dy:  g (N, O, Ho, Wo), weight (O, C/groups, kh, kw) -> (N, C, H, W).

    y_op = Σ_k W_ok c_kp with columns c = im2col(x), so dL/dc = Wᵀ g; each column entry is a copy of a pixel, so
    dL/dx adds those up: col2im. With stride 1 and small kernels the sum is gathered instead: pixel q has weight w_k at
    the position q + padding − k·dilation, so dL/dx is the convolution of g with the kernel turned by 180°.
    """
    turned = _turned_geometry(geometry)
    if turned is not None and geometry.taps <= 9:
        return convolve(backend, grad, _turned_weight(weight, groups), None, turned, groups)
    channels = weight.shape[1] * groups
    grad_x = backend.xp.zeros((len(grad), channels, *geometry.input_size), grad.dtype)
    matrix = _kernel_matrices(backend, weight, groups, whole=True)[0].swapaxes(
        1, 2
    )  # (groups, C/groups·kh·kw, O/groups)

    def compute(blocks: list[Block]) -> None:
        for block in blocks:
            grad_columns = _product(backend, "product", matrix, _positions_last(grad, block, groups))
            scatter_columns(backend, grad_columns, grad_x, geometry, block)

    blocks = split_into_blocks(backend, len(grad), channels, geometry, True, grad.itemsize, weight.nbytes)
    backend.map(compute, share_out(backend, blocks, whole_images=True), large=_is_large(weight.nbytes))
    return grad_x


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C/groups, kh, kw).

    y_op = Σ_k W_ok c_kp, so dL/dW_ok = Σ_p g_op c_kp over all images and positions: the product g · columnsᵀ.
    """
    xp, out_channels, in_group = backend.xp, grad.shape[1], x.shape[1] // groups
    whole = has_whole_patches(geometry, len(x), out_channels)
    kernel_h, kernel_w = (1, geometry.taps) if whole else geometry.kernel_size
    shape = (kernel_h, groups, in_group * kernel_w, out_channels // groups)

    def compute(blocks: list[Block]) -> Array:
        # Summed as (dL/dw)ᵀ = columns · gᵀ: BLAS is up to twice as fast with the long side first.
        total = xp.zeros(shape, x.dtype)
        for block in blocks:
            columns = gather_columns(backend, x, geometry, block, whole)
            positions_first = _positions_last(grad, block, groups).swapaxes(1, 2)  # (groups, P, O/groups)
            for i in range(kernel_h):
                total[i] += _product(backend, "term", kernel_row(columns, geometry, block, i, groups), positions_first)
        return total

    weight_bytes = math.prod(shape) * x.itemsize
    blocks = split_into_blocks(backend, len(x), x.shape[1], geometry, whole, x.itemsize, weight_bytes)
    totals = backend.map(compute, share_out(backend, blocks), large=_is_large(weight_bytes))
    total, *others = totals or [xp.zeros(shape, x.dtype)]
    for partial in others:
        total += partial
    total = total.reshape(kernel_h, groups, in_group, kernel_w, -1).transpose(
        1, 4, 2, 0, 3
    )  # (groups, O/groups, C, i, j)
    return xp.ascontiguousarray(total).reshape(out_channels, in_group, *geometry.kernel_size)


def _is_large(weight_bytes: int) -> bool:
    """Whether a product with these weights is worth BLAS's own threads, if it cannot be split into blocks."""
    return weight_bytes > CACHE_BLOCK_BYTES


def _kernel_matrices(backend: Backend, weight: Array, groups: int, whole: bool) -> list[Array]:
    """The weight as a matrix for each group, (groups, O/groups, C/groups·kh·kw); or as one for each kernel row."""
    out_channels, in_group, kernel_h, kernel_w = weight.shape
    if whole:
        return [weight.reshape(groups, out_channels // groups, -1)]
    rows = backend.xp.ascontiguousarray(weight.transpose(2, 0, 1, 3))  # (kh, O, C/groups, kw)
    return list(rows.reshape(kernel_h, groups, out_channels // groups, in_group * kernel_w))


def _product(backend: Backend, name: str, left: Array, right: Array) -> Array:
    """left @ right for each group, in scratch memory. One group goes as a plain 2-D product, the fastest there is."""
    product = backend.scratch(name, (len(left), left.shape[1], right.shape[2]), left.dtype)
    if len(left) == 1:
        backend.xp.matmul(left[0], right[0], out=product[0])
    else:
        backend.xp.matmul(left, right, out=product)
    return product


def _positions_last(grad: Array, block: Block, groups: int) -> Array:
    """A block of (N, O, Ho, Wo) as matrices (groups, O/groups, P), with P ordered (rows, images, Wo)."""
    part = grad[block.images, :, block.rows].transpose(1, 2, 0, 3)  # (O, rows, n, Wo)
    return part.reshape(groups, part.shape[0] // groups, -1)


def _turned_geometry(geometry: ConvGeometry) -> ConvGeometry | None:
    """The convolution that leads back from y's size to x's, where the stride is 1 and the padding not too large."""
    padding = [window - 1 - p for window, p in zip(geometry.window_size, geometry.padding, strict=True)]
    if geometry.stride != (1, 1) or min(padding) < 0:
        return None
    return ConvGeometry(
        input_size=geometry.output_size,
        kernel_size=geometry.kernel_size,
        stride=(1, 1),
        padding=(padding[0], padding[1]),
        dilation=geometry.dilation,
        output_size=geometry.input_size,
    )


def _turned_weight(weight: Array, groups: int) -> Array:
    """(O, C/groups, kh, kw) -> (C, O/groups, kh, kw): inputs and outputs exchanged, the kernel turned by 180°."""
    out_channels, in_group, kernel_h, kernel_w = weight.shape
    grouped = weight.reshape(groups, out_channels // groups, in_group, kernel_h, kernel_w)
    turned = grouped.swapaxes(1, 2)[..., ::-1, ::-1]  # (groups, C/groups, O/groups, kh, kw)
    return turned.reshape(in_group * groups, out_channels // groups, kernel_h, kernel_w)


class Conv2d(Function):
    """y = w ⋆ x + b, the sliding dot product of w with each patch of x (strictly: cross-correlation).

    Shapes: x (N, C, H, W), w (O, C/groups, kh, kw), b (O,) -> y (N, O, Ho, Wo);

        y[n, o, a, e] = b[o] + Σ_{c, i, j} w[o, c, i, j] · x[n, c, a·stride − padding + i·dilation, e·… + j·…]

    As a matrix y = C x, where C = (W ⊗ I)(I ⊗ G) holds the weights. With g = dL/dy:
        dL/dx = Cᵀ g = Gᵀ (Wᵀ g)       a transposed convolution
        dL/dw = Σ_n g im2col(x)ᵀ       every position adds its patch, weighted by its g
        dL/db = Σ_{n, a, e} g          the bias reaches every position
    The input is saved, its columns are not: they are made again, block by block.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array | None, *, geometry: Any, groups: int) -> Array:
        ctx.geometry, ctx.groups = geometry, groups
        ctx.save(x if ctx.needs_input_grad[1] else None, weight)
        return convolve(ctx.backend, x, weight, bias, geometry, groups)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        (x, weight), needs = ctx.saved, ctx.needs_input_grad
        grad_x = input_gradient(ctx.backend, grad, weight, ctx.geometry, ctx.groups) if needs[0] else None
        grad_w = weight_gradient(ctx.backend, x, grad, ctx.geometry, ctx.groups) if needs[1] else None
        grad_b = grad.sum(axis=(0, 2, 3)) if needs[2] else None  # (N, O, Ho, Wo) -> (O,)
        return grad_x, grad_w, grad_b


def conv2d(
    x: Tensor,
    weight: Any,
    bias: Any = None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of images with a bank of filters.

    x: (N, C, H, W), float32 or float64; weight: (O, C/groups, kh, kw); bias: (O,) or None; all of one dtype.
    stride, padding (zeros on each side), dilation: a whole number or a pair (height, width).
    groups: input and output channels are split into that many sets, each output seeing only its own set.
    Returns (N, O, Ho, Wo) with Ho = ⌊(H + 2·padding − dilation·(kh − 1) − 1) / stride⌋ + 1, likewise Wo.

    Raises ShapeError where shapes do not fit, DtypeError for other or mixed dtypes, DeviceError for mixed devices.
    Source: Chellapilla, Puri and Simard 2006 (as a matrix product); Dumoulin and Visin 2016 (the arithmetic).
    """
    check_images("conv2d", x)
    check_weight("conv2d", weight, "(out, in/groups, kh, kw)")
    channels, (out_channels, in_group) = x.shape[1], weight.shape[:2]
    if groups < 1 or out_channels % groups or channels != in_group * groups:
        raise ShapeError(
            f"conv2d: the input has {channels} channels but the weight {tuple(weight.shape)} expects "
            f"{in_group * groups}" + (f" in groups={groups}, which must divide {out_channels}." if groups != 1 else ".")
        )
    check_bias("conv2d", bias, out_channels)
    geometry = ConvGeometry.of_convolution("conv2d", x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return Conv2d.apply(x, weight, bias, geometry=geometry, groups=groups)


def check_weight(name: str, weight: Any, expected: str) -> None:
    """Raise ShapeError unless the weight has four dimensions, none of them empty."""
    if len(weight.shape) != 4 or min(weight.shape) < 1:
        raise ShapeError(f"{name}: the weight has shape {tuple(weight.shape)}; {expected} is expected.")


def check_bias(name: str, bias: Any, out_channels: int) -> None:
    """Raise ShapeError unless the bias is absent or has one number for each output channel."""
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ShapeError(f"{name}: the bias has shape {tuple(bias.shape)}; ({out_channels},) is expected.")
