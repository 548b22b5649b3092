"""Transposed convolution (people also say deconvolution), as multiplication by an explicit sparse matrix.

A convolution is y = C x with C = (W ⊗ I)(I ⊗ G); the transposed convolution is x = Cᵀ y = (I ⊗ Gᵀ)((Wᵀ ⊗ I) y):
first each position's channels are spread over a patch (a matrix product with Wᵀ), then Gᵀ adds the patches up where
they overlap. It is not the inverse of a convolution; it is its adjoint, and it enlarges: stride s takes size n to
(n − 1)·s + k − 2·padding.
"""

from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend
from minifcn.errors import ShapeError
from minifcn.ops import blocks
from minifcn.ops.conv import check_bias, check_weight, convolve, weight_gradient
from minifcn.ops.geometry import ConvGeometry, Size, enlarging_matrices, transposed_patch_matrix
from minifcn.ops.patches import check_images


def transposed_convolve(
    backend: Backend, y: Array, weight: Array, geometry: ConvGeometry, groups: int, fixed: bool = False
) -> Array:
    """x = Gᵀ (Wᵀ y):  y (N, I, Hi, Wi), weight (I, O/groups, kh, kw) -> x (N, O, Ho, Wo).

    Channel block by channel block, so that the columns Wᵀ y stay small. `geometry` is that of the convolution which
    this transposes: its output_size is y's size. Where the weight treats each channel by itself and all alike, as
    bilinear upsampling does, Gᵀ (w ⊗ I) is one sparse matrix for all of them: 21 times fewer products for 21 classes.
    That matrix is worth making only for a weight that is fixed; one that learns is another one at each step.
    """
    kernel = backend.shared_diagonal(weight) if fixed and groups == 1 else None
    if kernel is not None:
        return _for_each_channel(backend, enlarging_matrices(geometry, kernel, backend)[0], y, geometry.input_size)
    batch, (in_channels, out_group) = y.shape[0], weight.shape[:2]
    in_group = in_channels // groups
    scatter = transposed_patch_matrix(geometry, y.dtype, backend)  # Gᵀ: (Ho·Wo, kh·kw·L)
    x = backend.xp.empty((batch, out_group * groups, geometry.input_size[0] * geometry.input_size[1]), y.dtype)
    step = max(1, blocks.CACHE_BLOCK_BYTES // (geometry.taps * geometry.positions * y.itemsize))

    def compute(block: tuple[int, int, int]) -> None:
        image, group, first = block
        last = min(first + step, out_group)
        inputs = slice(group * in_group, (group + 1) * in_group)
        filters = weight[inputs, first:last].reshape(in_group, -1)  # (I, O·kh·kw)
        columns = filters.T @ y[image, inputs].reshape(in_group, -1)  # (O·kh·kw, I) @ (I, L)
        columns = columns.reshape(last - first, -1)  # (O·kh·kw, L) -> (O, kh·kw·L)
        x[image, group * out_group + first : group * out_group + last] = backend.sparse_times_rows(scatter, columns)

    backend.map(
        compute,
        [(n, group, first) for n in range(batch) for group in range(groups) for first in range(0, out_group, step)],
    )
    return x.reshape(*x.shape[:2], *geometry.input_size)


def _for_each_channel(backend: Backend, matrix: Any, maps: Array, size: tuple[int, int]) -> Array:
    """matrix · map for each channel of (N, C, H, W); the result has this size."""
    rows = maps.reshape(maps.shape[0] * maps.shape[1], maps.shape[2] * maps.shape[3])  # -> (N·C, H·W)
    result = backend.xp.empty((len(rows), matrix.shape[0]), maps.dtype)

    def compute(row: int) -> None:
        result[row : row + 1] = backend.sparse_times_rows(matrix, rows[row : row + 1])

    backend.map(compute, range(len(rows)))
    return result.reshape(*maps.shape[:2], *size)


class ConvTranspose2d(Function):
    """x = Cᵀ y + b, with C the sparse matrix of the convolution that has this weight and geometry.

    Shapes: y (N, I, Hi, Wi), w (I, O/groups, kh, kw), b (O,) -> x (N, O, Ho, Wo), Ho = (Hi − 1)·stride − 2·padding
    + dilation·(kh − 1) + output_padding + 1. With g = dL/dx:
        dL/dy = C g                     the convolution of g with the same weight
        dL/dw = Σ_n y im2col(g)ᵀ        a convolution's weight gradient, with input g and output gradient y:
                                        <g, Cᵀ y> = <C g, y> is linear in w, and symmetric in who is called what
        dL/db = Σ_{n, a, e} g
    """

    @staticmethod
    def forward(ctx: Context, y: Array, weight: Array, bias: Array | None, *, geometry: Any, groups: int) -> Array:
        ctx.geometry, ctx.groups = geometry, groups
        ctx.save(y if ctx.needs_input_grad[1] else None, weight)
        x = transposed_convolve(ctx.backend, y, weight, geometry, groups, fixed=not ctx.needs_input_grad[1])
        return x if bias is None else x + bias[:, None, None]

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        (y, weight), needs = ctx.saved, ctx.needs_input_grad
        fixed = needs[0] and not needs[1] and ctx.groups == 1
        kernel = ctx.backend.shared_diagonal(weight) if fixed else None
        if kernel is not None:
            matrix = enlarging_matrices(ctx.geometry, kernel, ctx.backend)[1]  # its transpose: C
            grad_y = _for_each_channel(ctx.backend, matrix, grad, ctx.geometry.output_size)
        else:
            grad_y = convolve(ctx.backend, grad, weight, None, ctx.geometry, ctx.groups) if needs[0] else None
        grad_w = weight_gradient(ctx.backend, grad, y, ctx.geometry, ctx.groups) if needs[1] else None
        grad_b = grad.sum(axis=(0, 2, 3)) if needs[2] else None  # (N, O, Ho, Wo) -> (O,)
        return grad_y, grad_w, grad_b


def conv_transpose2d(
    x: Tensor,
    weight: Any,
    bias: Any = None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution: the learned (or bilinear) enlarging of FCN.

    x: (N, C, H, W), float32 or float64; weight: (C, O/groups, kh, kw), note the order; bias: (O,) or None.
    stride: how many times it enlarges; padding: how much of the frame of the full result is cut off each side;
    output_padding: rows and columns added at the bottom and right, smaller than the stride or the dilation: several
    sizes of image shrink to the same size, and this says which one to go back to. Whole numbers or (height, width).
    Returns (N, O, Ho, Wo) with Ho = (H − 1)·stride − 2·padding + dilation·(kh − 1) + output_padding + 1.

    Raises ShapeError where shapes do not fit, DtypeError for other or mixed dtypes, DeviceError for mixed devices.
    Source: Zeiler et al. 2010; Long et al. 2015, section 3.3; Dumoulin and Visin 2016, chapter 4.
    """
    check_images("conv_transpose2d", x)
    check_weight("conv_transpose2d", weight, "(in, out/groups, kh, kw)")
    channels, (in_channels, out_group) = x.shape[1], weight.shape[:2]
    if groups < 1 or channels % groups or channels != in_channels:
        raise ShapeError(
            f"conv_transpose2d: the input has {channels} channels but the weight {tuple(weight.shape)} expects "
            f"{in_channels}" + (f", and groups={groups} must divide them." if groups != 1 else ".")
        )
    check_bias("conv_transpose2d", bias, out_group * groups)
    geometry = ConvGeometry.of_transposed(
        "conv_transpose2d", x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation
    )
    return ConvTranspose2d.apply(x, weight, bias, geometry=geometry, groups=groups)
