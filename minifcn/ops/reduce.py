"""Reductions: sum, mean and maximum over some or all dimensions."""

import math
import operator
from collections.abc import Sequence
from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend, with_kernel
from minifcn.errors import ShapeError

Dims = int | Sequence[int] | None


class Sum(Function):
    """y = Σ x over `dims`.   dL/dx = g, repeated along the summed dimensions: each x reaches y with slope 1.

    Shapes: x (…), y the same without `dims`, which come back in g with length 1 and are broadcast.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, dims: tuple[int, ...]) -> Array:
        ctx.shape, ctx.dims = x.shape, dims
        return x.sum(axis=dims)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        return ctx.backend.xp.broadcast_to(_with_ones(grad, ctx.shape, ctx.dims), ctx.shape)


class Max(Function):
    """y = max x over `dims`.   dL/dx = g at the maxima, shared equally among ties, else 0.

    With k equal maxima each gets g/k: the mean of the one-sided choices, and symmetric (PyTorch's amax does the same).
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, dims: tuple[int, ...]) -> Array:
        y = x.max(axis=dims, keepdims=True)
        ctx.save(x == y)
        ctx.dims = dims
        return y.reshape([size for axis, size in enumerate(x.shape) if axis not in dims])

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (winners,) = ctx.saved
        ties = winners.sum(axis=ctx.dims, keepdims=True).astype(grad.dtype)
        return winners * (_with_ones(grad, winners.shape, ctx.dims) / ties)


def sum(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The sum over `dim` (one dimension, several, or all of them); keepdim keeps them with length 1."""
    dims = _normalise_dims("sum", x, dim)
    return _keep(Sum.apply(x, dims=dims), x, dims, keepdim)


def mean(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The mean over `dim` (one dimension, several, or all of them); keepdim keeps them with length 1."""
    dims = _normalise_dims("mean", x, dim)
    return _keep(Sum.apply(x, dims=dims), x, dims, keepdim) / _count("mean", x, dims)


def amax(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The maximum over `dim` (one dimension, several, or all of them); equal maxima share the gradient."""
    dims = _normalise_dims("amax", x, dim)
    _count("amax", x, dims)
    return _keep(Max.apply(x, dims=dims), x, dims, keepdim)


def _normalise_dims(name: str, x: Tensor, dim: Dims) -> tuple[int, ...]:
    """`dim` as distinct axes counted from 0."""
    dims = range(x.ndim) if dim is None else tuple(dim) if isinstance(dim, Sequence) else (operator.index(dim),)
    if any(not -x.ndim <= axis < x.ndim for axis in dims) or len({axis % x.ndim for axis in dims}) < len(dims):
        raise ShapeError(f"{name}: dim {dim} does not name distinct dimensions of shape {x.shape}.")
    return tuple(axis % x.ndim for axis in dims)


def _count(name: str, x: Tensor, dims: tuple[int, ...]) -> int:
    """How many elements are reduced to one; ShapeError if that is none."""
    count = math.prod(x.shape[axis] for axis in dims)
    if count == 0:
        raise ShapeError(f"{name}: shape {x.shape} has no elements along dim {dims}; their {name} is not defined.")
    return count


def _with_ones(array: Array, shape: tuple[int, ...], dims: tuple[int, ...]) -> Array:
    """Put the reduced dimensions back, with length 1."""
    return array.reshape([1 if axis in dims else size for axis, size in enumerate(shape)])


def _keep(y: Tensor, x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Any:
    return y.reshape([1 if axis in dims else size for axis, size in enumerate(x.shape)]) if keepdim else y


@with_kernel
def sum_channels(backend: Backend, x: Array) -> Array:
    """Σ x over all images and positions: an array (N, C, …) gives (C,)."""
    return x.sum(axis=(0, *range(2, x.ndim)))
