"""Batch normalisation: each channel brought to mean 0 and variance 1 over the batch, then scaled and shifted."""

import math
from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend, with_kernel
from minifcn.errors import DtypeError, ShapeError, UsageError
from minifcn.ops.elementwise import pass_positive, rectify
from minifcn.ops.reduce import sum_channels


class BatchNorm(Function):
    """y = γ x̂ + β  with  x̂ = (x − μ) / √(σ² + ε),  μ and σ² of each channel over all images and positions.

    Shapes: x (N, C, …) -> y the same; γ, β (C,). M = N · positions numbers share a channel's μ = Σ x / M and
    σ² = Σ (x − μ)² / M. Let g = dL/dy and r = 1/√(σ² + ε).

        dL/dβ = Σ g        dL/dγ = Σ g x̂
        dL/dx = γ r (g − Σ g / M − x̂ Σ g x̂ / M)

    since x reaches L in three ways: directly, by γ r g; through μ, with dμ/dx = 1/M, by −γ r Σ g / M; and through σ²,
    with dσ²/dx = 2 (x − μ)/M and dx̂/dσ² = −x̂ r²/2, by −γ r x̂ Σ g x̂ / M.
    The last two take out of g what would only shift or scale a channel, which the normalisation undoes anyway.
    With relu, y is max(γ x̂ + β, 0), and g counts where y > 0 only.
    Source: Ioffe and Szegedy 2015, section 3.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array, *, eps: float, relu: bool) -> Any:
        backend, xp = ctx.backend, ctx.backend.xp
        y = xp.empty(x.shape, x.dtype)
        mean, variance = (xp.empty(x.shape[1], x.dtype) for _ in range(2))

        def compute(channels: slice) -> None:
            part, out = _as_rows(x, channels), _as_rows(y, channels)
            found = normalise(backend, part, weight[channels], bias[channels], out, eps, relu)
            mean[channels], variance[channels] = found

        backend.map(compute, backend.channel_blocks(x))
        ctx.save(x, weight, mean, 1 / xp.sqrt(variance + eps), y if relu else None)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, Array, Array]:
        (x, weight, mean, rate, rectified), backend = ctx.saved, ctx.backend
        grad_x = backend.xp.empty(x.shape, x.dtype)
        grad_weight, grad_bias = (backend.xp.empty(x.shape[1], x.dtype) for _ in range(2))

        def compute(channels: slice) -> None:
            y = None if rectified is None else _as_rows(rectified, channels)
            arrays = _as_rows(x, channels), weight[channels], mean[channels], rate[channels], y
            found = differentiate(backend, _as_rows(grad, channels), *arrays, _as_rows(grad_x, channels))
            grad_weight[channels], grad_bias[channels] = found

        backend.map(compute, backend.channel_blocks(x))
        return grad_x, grad_weight, grad_bias


@with_kernel
def normalise(
    backend: Backend, x: Array, weight: Array, bias: Array, y: Array, eps: float, relu: bool
) -> tuple[Array, Array]:
    """BatchNorm's forward of some channels: from x into y, both (N, c, positions). Returns μ and σ², (c,)."""
    xp, count = backend.xp, x.size // x.shape[1]
    mean = x.sum(axis=(0, 2)) / count
    xp.subtract(x, mean[:, None], out=y)  # first this, then squares: no cancellation
    variance = _sum_of_products(xp, y, y) / count
    y *= (weight / xp.sqrt(variance + eps))[:, None]
    y += bias[:, None]
    if relu:
        rectify(backend, y, out=y)
    return mean, variance


@with_kernel
def differentiate(
    backend: Backend,
    grad: Array,
    x: Array,
    weight: Array,
    mean: Array,
    rate: Array,
    y: Array | None,
    grad_x: Array,
) -> tuple[Array, Array]:
    """BatchNorm's backward of some channels: dL/dx into grad_x. Returns dL/dγ and dL/dβ, (c,).

    grad, x, y, grad_x: (N, c, positions), y the result if ReLU cut it off, else None; weight, mean and rate r: (c,).
    """
    xp, count = backend.xp, x.size // x.shape[1]
    if y is not None:
        grad = grad * (y > 0)
    xp.subtract(x, mean[:, None], out=grad_x)  # x̂ / r; the r comes with the sums
    grad_bias = grad.sum(axis=(0, 2))
    grad_weight = _sum_of_products(xp, grad, grad_x) * rate
    grad_x *= (grad_weight * rate / -count)[:, None]
    grad_x += grad
    grad_x -= (grad_bias / count)[:, None]
    grad_x *= (weight * rate)[:, None]
    return grad_weight, grad_bias


class ScaleShift(Function):
    """y = a x + b for each channel, with a = γ r and b = β − γ r μ, where μ and r = 1/√(σ² + ε) are constants.

    Shapes: x (N, C, …), γ and β (C,) -> y as x.   dL/dx = γ r g,  dL/dγ = Σ g (x − μ) r,  dL/dβ = Σ g.
    What batch normalisation becomes once its mean and variance are fixed. With relu, as BatchNorm.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array, *, mean: Array, rate: Array, relu: bool) -> Array:
        xp, scale = ctx.backend.xp, weight * rate
        shift = bias - scale * mean
        y = xp.empty(x.shape, x.dtype)

        def apply(channels: slice) -> None:
            out = _as_rows(y, channels)
            xp.multiply(_as_rows(x, channels), scale[channels, None], out=out)
            out += shift[channels, None]
            if relu:
                rectify(ctx.backend, out, out=out)

        ctx.backend.map(apply, ctx.backend.channel_blocks(x))
        learns = any(ctx.needs_input_grad[1:])  # frozen normalisation needs no x, whose memory is then free again
        ctx.save(x if learns else None, weight, mean, rate, y if relu else None)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        (x, weight, mean, rate, rectified), xp = ctx.saved, ctx.backend.xp
        if rectified is not None:
            grad = pass_positive(ctx.backend, grad, rectified)
        axes = (0, *range(2, grad.ndim))
        per_channel = (-1, *(1,) * (grad.ndim - 2))  # (C,) -> (C, 1, …)
        grad_x = grad * (weight * rate).reshape(per_channel) if ctx.needs_input_grad[0] else None
        if x is None:
            return grad_x, None, None
        normalised = (x - mean.reshape(per_channel)) * rate.reshape(per_channel)
        return grad_x, xp.sum(grad * normalised, axis=axes), sum_channels(ctx.backend, grad)


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    running_mean: Array,
    running_var: Array,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
) -> Tensor:
    """Batch normalisation of x (N, C, …), as torch.nn.functional.batch_norm.

    weight, bias: γ and β, (C,). running_mean, running_var: raw arrays (C,) on x's device, in x's dtype.
    training: normalise by the batch's own mean and variance, and move the running ones towards them in place, by
      the share `momentum` (the variance by its unbiased estimate, M/(M − 1) times as large). Otherwise normalise by the
      running ones, which then are constants.
    eps: added to the variance, against division by zero.
    relu: followed by ReLU, as ops.relu(batch_norm(…)) is, but in one pass over memory.

    Raises ShapeError for arguments that are not (C,), and in training for channels of a single number, which have no
    variance: a map of 1×1 in a batch of one. DtypeError for arguments of another dtype than x. UsageError for a
    momentum outside 0 to 1, or an eps that is not above 0.
    Source: Ioffe and Szegedy 2015, algorithms 1 and 2.
    """
    if x.ndim < 2 or x.size == 0:
        raise ShapeError(
            f"batch_norm: the input has shape {tuple(x.shape)}; (N, C, …) is expected, and no length of 0."
        )
    for name, value in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if tuple(value.shape) != (x.shape[1],):
            raise ShapeError(
                f"batch_norm: {name} has shape {tuple(value.shape)}, but the input {tuple(x.shape)} has {x.shape[1]} "
                f"channels; ({x.shape[1]},) is expected."
            )
    if not running_mean.dtype == running_var.dtype == x.dtype:
        raise DtypeError(
            f"batch_norm: running_mean is {running_mean.dtype}, running_var {running_var.dtype}, the input {x.dtype}, "
            "and nothing is promoted silently; convert a whole module with module.astype(dtype)."
        )
    if not 0 <= momentum <= 1 or not eps > 0:
        raise UsageError(f"batch_norm: momentum {momentum} and eps {eps}; 0 to 1, and above 0, are expected.")
    if not training:
        rate = 1 / x.backend.xp.sqrt(running_var + eps)
        # The mean is copied, since training moves it in place.
        return ScaleShift.apply(x, weight, bias, mean=running_mean.copy(), rate=rate, relu=relu)
    count = x.shape[0] * math.prod(x.shape[2:])
    if count < 2:
        raise ShapeError(
            f"batch_norm: an input of shape {tuple(x.shape)} gives each channel {count} number(s), which has no "
            "variance. Train with a larger batch or larger pictures, or freeze batch normalisation (evaluation mode)."
        )
    y, mean, variance = BatchNorm.apply(x, weight, bias, eps=eps, relu=relu)
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (variance * (count / (count - 1)) - running_var)
    return y


def _sum_of_products(xp: Any, x: Array, y: Array) -> Array:
    """Σ x y of each channel, for two arrays (N, c, positions). As dot products: half of einsum's time."""
    return xp.matmul(x[:, :, None], y[..., None])[..., 0, 0].sum(axis=0)


def _as_rows(array: Array, channels: slice) -> Array:
    """Some channels of (N, C, …) as (N, c, positions), without a copy if the array is contiguous."""
    part = array[:, channels]
    return part.reshape(*part.shape[:2], -1)
