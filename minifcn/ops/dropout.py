"""Dropout of elements and of whole channels."""

import numpy as np

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array
from minifcn.errors import ShapeError, UsageError


class Dropout(Function):
    """y = x m / (1 − p), with m random: 0 with probability p, else 1.   dL/dx = g m / (1 − p).

    The division keeps the expected value, E[y] = x, so nothing has to be rescaled when predicting. m may have
    dimensions of length one, along which it is shared.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, kept: Array, scale: float) -> Array:
        ctx.save(kept)
        ctx.scale = scale
        return x * kept * scale

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (kept,) = ctx.saved
        return grad * kept * ctx.scale


def dropout(x: Tensor, p: float = 0.5, *, generator: np.random.Generator, training: bool = True) -> Tensor:
    """Each element set to zero with probability p, the others divided by 1 − p; x itself if not training.

    generator: NumPy's, on the host whatever the device, so that a run can be repeated and resumed exactly.
    Source: Srivastava et al. 2014.
    """
    return _drop("dropout", x, p, x.shape, generator, training)


def dropout2d(x: Tensor, p: float = 0.5, *, generator: np.random.Generator, training: bool = True) -> Tensor:
    """Each channel (N, C, …) of each image set to zero as a whole with probability p; else as `dropout`.

    Neighbouring pixels of a feature map are alike, so dropping single ones hides little. Source: Tompson et al. 2015.
    """
    if x.ndim < 2:
        raise ShapeError(f"dropout2d: the input has shape {tuple(x.shape)}; (N, C, …) is expected.")
    return _drop("dropout2d", x, p, (*x.shape[:2], *(1,) * (x.ndim - 2)), generator, training)


def _drop(
    name: str, x: Tensor, p: float, mask_shape: tuple[int, ...], generator: np.random.Generator, training: bool
) -> Tensor:
    p = float(p)  # a NumPy number here would promote float32
    if not 0 <= p <= 1:
        raise UsageError(f"{name}: p is a probability between 0 and 1, not {p}.")
    if not training or p == 0:
        return x
    kept = x.backend.asarray(generator.random(mask_shape, dtype=np.float32) >= p)
    return Dropout.apply(x, kept=kept, scale=1 / (1 - p) if p < 1 else 0.0)
