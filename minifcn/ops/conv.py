"""Convolution, as im2col and one matrix product.

Three linear maps share one geometry, and both conv2d and conv_transpose2d are made of them:

    convolve          x, w -> y     Y = W · im2col(x)          forward
    input_gradient    g, w -> dx    dX = col2im(Wᵀ · G)        its adjoint for fixed w
    weight_gradient   x, g -> dw    dW = G · im2col(x)ᵀ        its adjoint for fixed x

with W the weight as a matrix (out, in·kh·kw), and Y, G of shape (out, L). Each runs block by block (a few output rows,
or a few small images, at a time), so the columns in memory are bounded whatever the size of the layer.
"""

import math
from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend
from minifcn.errors import ShapeError
from minifcn.ops.geometry import ConvGeometry, Size
from minifcn.ops.patches import (
    Block,
    check_images,
    gather_columns,
    scatter_columns,
    share_out,
    split_into_blocks,
)


def convolve(
    backend: Backend, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, groups: int
) -> Array:
    """y_o = Σ_c w_oc ⋆ x_c + b_o:  x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,) -> y (N, O, Ho, Wo)."""
    xp, out_channels = backend.xp, weight.shape[0]
    y = xp.empty((x.shape[0], out_channels, *geometry.output_size), x.dtype)
    matrix = _weight_matrix(weight, groups)

    def compute(blocks: list[Block]) -> None:
        for block in blocks:
            columns = gather_columns(backend, x, geometry, block)  # (C·kh·kw, P), P positions in this block
            product = _grouped(xp, matrix, columns.reshape(groups, -1, columns.shape[1]))  # (groups, O/groups, P)
            target = y[block.images, :, block.rows]  # (n, O, rows, Wo)
            result = product.reshape(out_channels, len(target), *target.shape[2:]).swapaxes(0, 1)  # -> (n, O, rows, Wo)
            if bias is None:
                target[...] = result
            else:
                xp.add(result, bias[:, None, None], out=target)

    blocks = split_into_blocks(backend, x.shape[0], x.shape[1], geometry, x.itemsize, weight.nbytes)
    backend.map(compute, share_out(backend, blocks))
    return y


def input_gradient(backend: Backend, grad: Array, weight: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dL/dx from g = dL/dy:  g (N, O, Ho, Wo), weight (O, C/groups, kh, kw) -> (N, C, H, W).

    y_op = Σ_k W_ok c_kp with columns c = im2col(x), so dL/dc = Wᵀ g; each column entry is a copy of a pixel, so
    dL/dx adds those up: col2im.
    """
    xp, channels = backend.xp, weight.shape[1] * groups
    grad_x = xp.zeros((grad.shape[0], channels, *geometry.input_size), grad.dtype)
    matrix = _weight_matrix(weight, groups).swapaxes(1, 2)  # (groups, C/groups·kh·kw, O/groups)

    def compute(blocks: list[Block]) -> None:
        for block in blocks:
            grad_columns = _grouped(xp, matrix, _join_positions(grad, block, groups))  # (groups, C/groups·kh·kw, P)
            scatter_columns(backend, grad_columns, grad_x, geometry, block)

    blocks = split_into_blocks(backend, grad.shape[0], channels, geometry, grad.itemsize, weight.nbytes)
    backend.map(compute, share_out(backend, blocks, whole_images=True))
    return grad_x


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C/groups, kh, kw).

    y_op = Σ_k W_ok c_kp, so dL/dW_ok = Σ_p g_op c_kp over all images and positions: the product g · columnsᵀ.
    """
    xp, out_channels, in_group = backend.xp, grad.shape[1], x.shape[1] // groups
    shape = (groups, in_group * geometry.taps, out_channels // groups)
    weight_bytes = math.prod(shape) * x.itemsize

    def compute(blocks: list[Block]) -> Array:
        # Summed as (dL/dw)ᵀ = columns · gᵀ: BLAS is up to twice as fast with the long side first.
        total = xp.zeros(shape, x.dtype)
        for block in blocks:
            columns = gather_columns(backend, x, geometry, block)
            columns = columns.reshape(groups, -1, columns.shape[1])  # (groups, C/groups·kh·kw, P)
            total += _grouped(xp, columns, _join_positions(grad, block, groups).swapaxes(1, 2))
        return total

    blocks = split_into_blocks(backend, x.shape[0], x.shape[1], geometry, x.itemsize, weight_bytes)
    total, *others = backend.map(compute, share_out(backend, blocks)) or [xp.zeros(shape, x.dtype)]
    for partial in others:
        total += partial
    grad_w = xp.empty((out_channels, in_group, *geometry.kernel_size), x.dtype)
    _weight_matrix(grad_w, groups)[...] = total.swapaxes(1, 2)
    return grad_w


def _weight_matrix(weight: Array, groups: int) -> Array:
    """(O, C/groups, kh, kw) -> (groups, O/groups, C/groups·kh·kw): each group of outputs sees its own inputs."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _grouped(xp: Any, left: Array, right: Array) -> Array:
    """left @ right for each group. One group goes as a plain 2-D product, which is the fastest there is."""
    return (left[0] @ right[0])[None] if len(left) == 1 else xp.matmul(left, right)


def _join_positions(grad: Array, block: Block, groups: int) -> Array:
    """A block of (N, O, Ho, Wo) as a matrix for each group: (groups, O/groups, P)."""
    part = grad[block.images, :, block.rows].swapaxes(0, 1)  # (O, n, rows, Wo)
    return part.reshape(groups, part.shape[0] // groups, -1)


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
