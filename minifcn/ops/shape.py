"""Operations that move elements without changing them: reshape, transpose, crop, pad, concatenate, change of device."""

import math
import operator
from collections.abc import Sequence
from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import FLOAT_DTYPES, Tensor
from minifcn.backend import Array, get_backend
from minifcn.errors import ShapeError
from minifcn.ops.geometry import Size, pair


class Reshape(Function):
    """The same elements in the same order under another shape.   dL/dx = g, in the old shape."""

    @staticmethod
    def forward(ctx: Context, x: Array, *, shape: tuple[int, ...]) -> Array:
        ctx.shape = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        return grad.reshape(ctx.shape)


class Permute(Function):
    """Dimensions in another order: y's dimension i is x's dimension dims[i].   dL/dx = g, in the inverse order."""

    @staticmethod
    def forward(ctx: Context, x: Array, *, dims: tuple[int, ...]) -> Array:
        ctx.inverse = sorted(range(len(dims)), key=dims.__getitem__)
        return x.transpose(dims)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        return grad.transpose(ctx.inverse)


class Crop(Function):
    """A window of the last two dimensions.   dL/dx = g inside the window, 0 outside: what was cut reaches nothing.

    Shapes: x (…, H, W) -> y (…, h, w) = x[…, top : top + h, left : left + w]. The adjoint of Pad.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, offset: tuple[int, int], size: tuple[int, int]) -> Array:
        ctx.shape, ctx.window = x.shape, _window(offset, size)
        return x[ctx.window]

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        grad_x = ctx.backend.xp.zeros(ctx.shape, grad.dtype)
        grad_x[ctx.window] = grad
        return grad_x


class Pad(Function):
    """A constant frame around the last two dimensions.   dL/dx = g without the frame. The adjoint of Crop.

    Shapes: x (…, H, W) -> y (…, top + H + bottom, left + W + right).
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, frame: tuple[tuple[int, int], tuple[int, int]], value: float) -> Array:
        (top, bottom), (left, right) = frame
        height, width = x.shape[-2:]
        ctx.window = _window((top, left), (height, width))
        shape = (*x.shape[:-2], top + height + bottom, left + width + right)
        y = ctx.backend.xp.full(shape, value, x.dtype)
        y[ctx.window] = x
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        return grad[ctx.window]


class Concatenate(Function):
    """Tensors side by side along one dimension.   dL/dx_i is the part of g where x_i was put."""

    @staticmethod
    def forward(ctx: Context, *inputs: Array, dim: int) -> Array:
        ctx.dim = dim
        ctx.lengths = [x.shape[dim] for x in inputs]
        return ctx.backend.xp.concatenate(inputs, axis=dim)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, ...]:
        parts, start = [], 0
        for length in ctx.lengths:
            window = [slice(None)] * grad.ndim
            window[ctx.dim] = slice(start, start + length)
            parts.append(grad[tuple(window)])
            start += length
        return tuple(parts)


class ToDevice(Function):
    """A copy on another device.   dL/dx = g, copied the way back."""

    @staticmethod
    def forward(ctx: Context, x: Array, *, device: str) -> Array:
        ctx.output_backend = get_backend(device)
        return ctx.output_backend.asarray(ctx.backend.to_numpy(x))

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        return ctx.backend.asarray(ctx.output_backend.to_numpy(grad))


def reshape(x: Tensor, shape: int | Sequence[int]) -> Tensor:
    """The same elements in the same (row-major) order under another shape; one length may be −1, to be worked out."""
    shape = tuple(shape) if isinstance(shape, Sequence) else (operator.index(shape),)
    known = math.prod(length for length in shape if length != -1)
    fits = known == x.size if -1 not in shape else shape.count(-1) == 1 and known > 0 and x.size % known == 0
    if not fits or min(shape, default=0) < -1:
        raise ShapeError(f"reshape: {x.size} elements of shape {tuple(x.shape)} do not fit shape {shape}.")
    return Reshape.apply(x, shape=shape)


def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The dimensions in the order `dims`: permute(x, (0, 2, 3, 1)) turns (N, C, H, W) into (N, H, W, C)."""
    order = tuple(dim % x.ndim if -x.ndim <= dim < x.ndim else dim for dim in dims)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"permute: {tuple(dims)} does not name each dimension of shape {tuple(x.shape)} once.")
    return Permute.apply(x, dims=order)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    if not (-x.ndim <= dim0 < x.ndim and -x.ndim <= dim1 < x.ndim):
        raise ShapeError(f"transpose: dimensions {dim0} and {dim1} are not both in shape {tuple(x.shape)}.")
    order = list(range(x.ndim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return permute(x, order)


def crop(x: Tensor, offset: Size, size: Size) -> Tensor:
    """The window x[…, top : top + height, left : left + width] of the last two dimensions.

    offset: (top, left); size: (height, width); one number means both. Raises ShapeError if the window leaves x.
    """
    _check_two_dimensions("crop", x)
    offset, size = pair("crop: offset", offset, minimum=0), pair("crop: size", size, minimum=1)
    if any(start + length > whole for start, length, whole in zip(offset, size, x.shape[-2:], strict=True)):
        raise ShapeError(f"crop: a window of {size} at {offset} does not fit into {tuple(x.shape[-2:])}.")
    if size == tuple(x.shape[-2:]):
        return x
    return Crop.apply(x, offset=offset, size=size)


def pad(x: Tensor, padding: Any, *, value: float = 0.0) -> Tensor:
    """A frame of `value` around the last two dimensions.

    padding: one number for all sides, a pair (height, width), or a pair of pairs ((top, bottom), (left, right)).
    """
    _check_two_dimensions("pad", x)
    sides = (padding, padding) if isinstance(padding, int) else tuple(padding)
    if len(sides) != 2:
        raise ShapeError(f"pad: padding {padding!r} is neither a number, a pair, nor a pair of pairs.")
    vertical, horizontal = (pair("pad: padding", side, minimum=0) for side in sides)
    return Pad.apply(x, frame=(vertical, horizontal), value=value)


def _check_two_dimensions(name: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{name}: the input has shape {tuple(x.shape)}; two dimensions or more are expected.")


def concatenate(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors side by side along `dim`; all their other dimensions must be equal."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if not shapes or not -len(shapes[0]) <= dim < len(shapes[0]):
        raise ShapeError(f"concatenate: dimension {dim} of shapes {shapes} does not exist.")
    dim %= len(shapes[0])
    if len({(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}) > 1 or len({len(shape) for shape in shapes}) > 1:
        raise ShapeError(f"concatenate: shapes {shapes} differ in more than dimension {dim}.")
    return Concatenate.apply(*tensors, dim=operator.index(dim))


def to_device(x: Tensor, device: str) -> Tensor:
    """A copy of x on another device ("cpu", "gpu", "gpu:N"). Labels and other whole numbers have no gradient."""
    if x.dtype not in FLOAT_DTYPES:
        return Tensor(x, device=device)
    return ToDevice.apply(x, device=device)


def _window(offset: tuple[int, int], size: tuple[int, int]) -> tuple[Any, ...]:
    return (..., slice(offset[0], offset[0] + size[0]), slice(offset[1], offset[1] + size[1]))
