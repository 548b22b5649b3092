"""Transposed convolution (people also say deconvolution): multiplication by the transpose of a convolution's matrix.

A convolution is y = C x with C = (W ⊗ I)(I ⊗ G); the transposed convolution is x = Cᵀ y = (I ⊗ Gᵀ)((Wᵀ ⊗ I) y):
first each position's channels are spread over a patch (a matrix product with Wᵀ), then Gᵀ adds the patches up where
they overlap. It is not the inverse of a convolution; it is its adjoint, and it enlarges: stride s takes size n to
(n − 1)·s + k − 2·padding.

So it is computed by that sparse matrix (sparse_route.py), which is the definition; or, on the CPU, in one of two ways
that give the same numbers faster: as a plain convolution whose outputs are laid into each other, where the stride
divides the kernel (phases.py), and along rows and columns by themselves, where a fixed weight is bilinear interpolation
(separable.py). `conv_route("sparse")` asks for the definition, and a patch matrix that somebody has changed is obeyed.
"""

from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array
from minifcn.errors import ShapeError
from minifcn.ops import im2col_route, phases, sparse_route
from minifcn.ops.conv import (
    bias_gradient,
    both_gradients,
    check_bias,
    check_weight,
    convolve,
    input_gradient,
    share_columns,
    weight_gradient,
)
from minifcn.ops.geometry import ConvGeometry, Size, is_intact
from minifcn.ops.patches import check_images
from minifcn.ops.routes import is_forced
from minifcn.ops.separable import axis_matrices, multiply_axes


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
        backend, learns, channels = ctx.backend, ctx.needs_input_grad[1], weight.shape[1] * groups
        by_definition = is_forced("sparse") or not is_intact(geometry, y.dtype, backend)
        ctx.geometry, ctx.groups, ctx.axes = geometry, groups, None
        ctx.save(y if learns else None, weight)
        if not by_definition and not learns and groups == 1:
            ctx.axes = axis_matrices(backend, weight, geometry)
        if ctx.axes is not None:
            vertical, horizontal = ctx.axes
            x = multiply_axes(backend, [(horizontal, 1), (vertical, 0)], y)  # A_v (X A_hᵀ): small to large
        elif not by_definition and phases.fit(backend, geometry, len(y), channels, y.itemsize):
            x = input_gradient(backend, y, weight, geometry, groups)
        else:
            x = sparse_route.input_gradient(backend, y, weight, geometry, groups)
        return x if bias is None else x + bias[:, None, None]

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        (y, weight), needs, (geometry, groups) = ctx.saved, ctx.needs_input_grad, (ctx.geometry, ctx.groups)

        def to_input() -> Array:
            if ctx.axes is None:
                return convolve(ctx.backend, grad, weight, None, geometry, groups)
            vertical, horizontal = ctx.axes
            return multiply_axes(ctx.backend, [(vertical.T, 0), (horizontal.T, 1)], grad)  # (A_vᵀ G) A_h

        if needs[0] and needs[1] and share_columns(ctx.backend, grad, y.shape[1], geometry, groups):
            arguments = grad, weight, y, geometry, groups
            grad_y, grad_w = im2col_route.convolve_and_differentiate(ctx.backend, *arguments)
        else:
            grad_y, grad_w = both_gradients(
                ctx, weight, to_input, lambda: weight_gradient(ctx.backend, grad, y, geometry, groups)
            )
        grad_b = bias_gradient(ctx.backend, grad) if needs[2] else None
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
