"""im2col and col2im: all patches of an image as columns, and columns added back into an image.

A column holds the kernel-sized patch at one output position, so a convolution becomes one matrix product (Chellapilla
et al. 2006). Here they are whole, to learn from and to test with; the convolutions make them in blocks (`blocks.py`).
"""

from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend
from minifcn.errors import ShapeError
from minifcn.ops.blocks import Block, gather_columns, scatter_columns
from minifcn.ops.geometry import ConvGeometry, Size


class Im2Col(Function):
    """Patches as columns, c = G x for each channel.   dL/dx = Gᵀ g: col2im.

    Shapes: x (N, C, H, W) -> c (N, C·kh·kw, L). A pixel is copied once for each patch that shows it, so its gradient
    is the sum over those.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, geometry: ConvGeometry) -> Array:
        ctx.geometry = geometry
        return _im2col(ctx.backend, x, geometry)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        return _col2im(ctx.backend, grad, ctx.geometry)


class Col2Im(Function):
    """Columns added back into images, x = Gᵀ c for each channel.   dL/dc = G g: im2col.

    Shapes: c (N, C·kh·kw, L) -> x (N, C, H, W). Not the inverse of im2col: overlapping patches add up.
    """

    @staticmethod
    def forward(ctx: Context, columns: Array, *, geometry: ConvGeometry) -> Array:
        ctx.geometry = geometry
        return _col2im(ctx.backend, columns, geometry)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        return _im2col(ctx.backend, grad, ctx.geometry)


def _im2col(backend: Backend, x: Array, geometry: ConvGeometry) -> Array:
    """Image by image, so that only the result is large."""
    columns = backend.xp.empty((len(x), x.shape[1] * geometry.taps, geometry.positions), x.dtype)
    for n in range(len(x)):
        block = Block(slice(n, n + 1), slice(0, geometry.output_size[0]))
        image = gather_columns(backend, x, geometry, block, whole=True)  # (C, kh·kw, Ho, 1, Wo)
        columns[n] = image.reshape(columns.shape[1:])  # -> (C·kh·kw, L)
    return columns


def _col2im(backend: Backend, columns: Array, geometry: ConvGeometry) -> Array:
    x = backend.xp.zeros((len(columns), columns.shape[1] // geometry.taps, *geometry.input_size), columns.dtype)
    for n in range(len(columns)):
        scatter_columns(backend, columns[n], x, geometry, Block(slice(n, n + 1), slice(0, geometry.output_size[0])))
    return x


def im2col(x: Tensor, kernel_size: Size, *, stride: Size = 1, padding: Size = 0, dilation: Size = 1) -> Tensor:
    """All patches of x as columns: (N, C, H, W) -> (N, C·kh·kw, L), L = Ho·Wo output positions.

    Rows are ordered (C, kh, kw), columns (Ho, Wo); padding shows as zeros. PyTorch calls this unfold.
    """
    check_images("im2col", x)
    geometry = ConvGeometry.of_convolution("im2col", x.shape[2:], kernel_size, stride, padding, dilation)
    return Im2Col.apply(x, geometry=geometry)


def col2im(
    cols: Tensor, input_size: Size, kernel_size: Size, *, stride: Size = 1, padding: Size = 0, dilation: Size = 1
) -> Tensor:
    """Columns added back into images of input_size: (N, C·kh·kw, L) -> (N, C, H, W). PyTorch calls this fold.

    The adjoint of im2col, not its inverse: `col2im(im2col(x))` multiplies each pixel by the number of patches that
    show it.
    """
    geometry = ConvGeometry.of_convolution("col2im", input_size, kernel_size, stride, padding, dilation)
    if len(cols.shape) != 3 or cols.shape[1] % geometry.taps or cols.shape[2] != geometry.positions:
        raise ShapeError(
            f"col2im: the columns have shape {tuple(cols.shape)}; (N, a multiple of {geometry.taps}, "
            f"{geometry.positions}) is expected for images of {geometry.input_size} and a kernel of "
            f"{geometry.kernel_size}."
        )
    return Col2Im.apply(cols, geometry=geometry)


def check_images(name: str, x: Any) -> None:
    """Raise ShapeError unless x is a batch of images, (N, C, H, W)."""
    if len(x.shape) != 4:
        raise ShapeError(f"{name}: the input has shape {tuple(x.shape)}; (N, C, H, W) is expected (see reshape).")
