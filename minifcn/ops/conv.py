"""Convolution.

Three linear maps share one geometry; conv2d is made of them, and conv_transpose2d takes its gradients from the first
and the last:

    convolve          x, w -> y     y = w ⋆ x                  forward
    input_gradient    g, w -> dx    its adjoint for fixed w
    weight_gradient   x, g -> dw    its adjoint for fixed x

Each can be computed in several ways that give the same numbers up to rounding: by im2col and a matrix product
(im2col_route.py, the one to read first; rows_route.py), with Winograd's fewer multiplications (winograd.py,
winograd_rows.py, winograd_filters.py), or as multiplication by an explicit sparse matrix (sparse_route.py). routes.py
says which way is taken when. A stride that divides the kernel is turned into channels first (phases.py).
"""

from collections.abc import Callable
from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend
from minifcn.errors import ShapeError
from minifcn.ops import im2col_route, phases, rows_route, sparse_route
from minifcn.ops.elementwise import pass_positive
from minifcn.ops.geometry import ConvGeometry, Size
from minifcn.ops.patches import check_images
from minifcn.ops.reduce import sum_channels
from minifcn.ops.routes import WINOGRAD, choose, is_forced

# Of weights, for both gradients at once. Of more, either gradient keeps all threads busy by itself (large_weights.py).
AT_ONCE_BYTES = 16 * 2**20
MOST_TURNED_TAPS = 9  # of kernels with which dL/dx is computed like a convolution; by larger ones col2im is faster


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

    relu: max(y, 0) in its place, made while the numbers are in the cache.
    """
    if phases.fit(backend, geometry, len(x), x.shape[1], x.itemsize):
        parts, taps = phases.split_images(backend, x, geometry), phases.split_weight(weight, geometry)
        return convolve(backend, parts, taps, bias, phases.phase_geometry(geometry), groups, relu)
    route = choose(backend, geometry, len(x), x.shape[1], len(weight), groups, x.dtype)
    if route in WINOGRAD:
        way, tile = WINOGRAD[route]
        return way.convolve(backend, x, weight, bias, geometry, tile, relu)
    if route == "im2col-rows":
        return rows_route.convolve(backend, x, weight, bias, geometry, relu)
    by = sparse_route if route == "sparse" else im2col_route
    return by.convolve(backend, x, weight, bias, geometry, groups, relu)


def input_gradient(backend: Backend, grad: Array, weight: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dL/dx from g = dL/dy:  g (N, O, Ho, Wo), weight (O, C/groups, kh, kw) -> (N, C, H, W).

    Pixel q has weight w_k at the position q + padding − k·dilation, so with stride 1 dL/dx is the convolution of g with
    the kernel turned by 180°, and is computed like one; else, or where a large kernel makes that slower, as Cᵀ g.
    """
    if is_forced("sparse"):
        return sparse_route.input_gradient(backend, grad, weight, geometry, groups)
    if phases.fit(backend, geometry, len(grad), weight.shape[1] * groups, grad.itemsize):
        taps = phases.split_weight(weight, geometry)
        parts = input_gradient(backend, grad, taps, phases.phase_geometry(geometry), groups)
        return phases.merge_images(backend, parts, geometry)
    turned = _turned_geometry(geometry)
    if turned is not None and geometry.taps <= MOST_TURNED_TAPS:
        return convolve(backend, grad, _turned_weight(weight, groups), None, turned, groups)
    return im2col_route.input_gradient(backend, grad, weight, geometry, groups)


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dL/dw from g = dL/dy:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C/groups, kh, kw)."""
    if phases.fit(backend, geometry, len(x), x.shape[1], x.itemsize):
        parts = phases.split_images(backend, x, geometry)
        taps = weight_gradient(backend, parts, grad, phases.phase_geometry(geometry), groups)
        return phases.merge_weight(taps, geometry)
    route = choose(backend, geometry, len(x), x.shape[1], grad.shape[1], groups, x.dtype, to_weights=True)
    if route in WINOGRAD:
        way, tile = WINOGRAD[route]
        return way.weight_gradient(backend, x, grad, geometry, tile)
    if route == "im2col-rows":
        return rows_route.weight_gradient(backend, x, grad, geometry)
    by = sparse_route if route == "sparse" else im2col_route
    return by.weight_gradient(backend, x, grad, geometry, groups)


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


def _shared_geometry(
    backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, groups: int
) -> ConvGeometry | None:
    """The geometry from g's size to x's, if both gradients are to be made from the columns of g; else None.

    Counted are columns that pass through memory. Shared, those of g are written once and read twice. Otherwise each
    gradient writes and reads its own: dL/dw those of x, dL/dx those of g, or by col2im as many as x has.
    """
    turned = _turned_geometry(geometry)
    if turned is None:
        return None
    of_grad, of_x = grad.shape[1] * turned.positions, x.shape[1] * geometry.positions
    if 3 * of_grad > 2 * of_x + 2 * (of_grad if geometry.taps <= MOST_TURNED_TAPS else of_x):
        return None
    return turned if share_columns(backend, grad, x.shape[1], turned, groups) else None


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
    With relu, y is max(w ⋆ x + b, 0), and g counts where y > 0 only.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, *, geometry: Any, groups: int, relu: bool = False
    ) -> Array:
        ctx.geometry, ctx.groups = geometry, groups
        y = convolve(ctx.backend, x, weight, bias, geometry, groups, relu)
        ctx.save(x if ctx.needs_input_grad[1] else None, weight, y if relu else None)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        (x, weight, rectified), needs, options = ctx.saved, ctx.needs_input_grad, (ctx.geometry, ctx.groups)
        if rectified is not None:
            grad = pass_positive(ctx.backend, grad, rectified)
            del rectified
            ctx.save(x, weight, None)  # y is as large as what comes now, and nobody needs it any more
        if needs[0] and needs[1] and (turned := _shared_geometry(ctx.backend, x, grad, *options)):
            # dL/dx_q = Σ_k w_k g_{q + padding − k·dilation} and dL/dw_k = Σ_q x_q g_{q + padding − k·dilation}
            arguments = grad, _turned_weight(weight, ctx.groups), x, turned, ctx.groups
            grad_x, grad_w = im2col_route.convolve_and_differentiate(ctx.backend, *arguments)
            grad_w = _turned_weight(grad_w, ctx.groups)
        else:
            grad_x, grad_w = both_gradients(
                ctx,
                weight,
                lambda: input_gradient(ctx.backend, grad, weight, *options),
                lambda: weight_gradient(ctx.backend, x, grad, *options),
            )
        grad_b = bias_gradient(ctx.backend, grad) if needs[2] else None
        return grad_x, grad_w, grad_b


def share_columns(backend: Backend, x: Array, out_channels: int, geometry: ConvGeometry, groups: int) -> bool:
    """Whether to make `convolve(x, …)` and `weight_gradient(x, …)` from one set of columns: where copying columns costs
    as much as the products, on a GPU, and no other route is faster.
    """
    if not backend.large_products:
        return False
    return choose(backend, geometry, len(x), x.shape[1], out_channels, groups, x.dtype) == "im2col"


def bias_gradient(backend: Backend, grad: Array) -> Array:
    """dL/db from g = dL/dy, the sum over all images and positions: (N, O, Ho, Wo) -> (O,)."""
    grad_bias = backend.xp.empty(grad.shape[1], grad.dtype)

    def add_up(channels: slice) -> None:
        grad_bias[channels] = sum_channels(backend, grad[:, channels])

    backend.map(add_up, backend.channel_blocks(grad))
    return grad_bias


def both_gradients(
    ctx: Context, weight: Array, to_input: Callable[[], Array], to_weight: Callable[[], Array]
) -> tuple[Array | None, Array | None]:
    """What to_input() and to_weight() give, as far as the first two inputs' gradients are needed. Of a small layer both
    at once, a thread for each, so that what cannot be shared out, such as turning the weights, keeps no other waiting.
    """
    needs = ctx.needs_input_grad
    if not (needs[0] and needs[1]) or weight.nbytes > AT_ONCE_BYTES:
        return to_input() if needs[0] else None, to_weight() if needs[1] else None
    grad_weight, grad_input = ctx.backend.map(lambda gradient: gradient(), [to_weight, to_input])  # the longer first
    return grad_input, grad_weight


def conv2d(
    x: Tensor,
    weight: Any,
    bias: Any = None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    relu: bool = False,
) -> Tensor:
    """Convolution of images with a bank of filters.

    x: (N, C, H, W), float32 or float64; weight: (O, C/groups, kh, kw); bias: (O,) or None; all of one dtype.
    stride, padding (zeros on each side), dilation: a whole number or a pair (height, width).
    groups: input and output channels are split into that many sets, each output seeing only its own set.
    relu: followed by ReLU, as ops.relu(conv2d(…)) is, but in one pass over memory and with one array less.
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
    return Conv2d.apply(x, weight, bias, geometry=geometry, groups=groups, relu=relu)


def check_weight(name: str, weight: Any, expected: str) -> None:
    """Raise ShapeError unless the weight has four dimensions, none of them empty."""
    if len(weight.shape) != 4 or min(weight.shape) < 1:
        raise ShapeError(f"{name}: the weight has shape {tuple(weight.shape)}; {expected} is expected.")


def check_bias(name: str, bias: Any, out_channels: int) -> None:
    """Raise ShapeError unless the bias is absent or has one number for each output channel."""
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ShapeError(f"{name}: the bias has shape {tuple(bias.shape)}; ({out_channels},) is expected.")
