"""Operations on each element, with NumPy's broadcasting.

Shapes are aligned from the right and axes of length one are repeated. No backward here undoes that: each returns the
gradient in the broadcast shape, and the engine sums it down to the input's.
"""

from typing import Any

import numpy as np

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend, with_kernel
from minifcn.errors import ShapeError


class Add(Function):
    """z = x + y.   dL/dx = g and dL/dy = g, because a change of either changes z by as much."""

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        return x + y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, Array]:
        return grad, grad


class Subtract(Function):
    """z = x − y.   dL/dx = g, dL/dy = −g."""

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        return x - y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, Array | None]:
        return grad, -grad if ctx.needs_input_grad[1] else None


class Multiply(Function):
    """z = x y.   dL/dx = g y, dL/dy = g x."""

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        ctx.save(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None]:
        x, y = ctx.saved
        return grad * y if ctx.needs_input_grad[0] else None, grad * x if ctx.needs_input_grad[1] else None


class Divide(Function):
    """z = x / y.   dL/dx = g / y, dL/dy = −g x / y² = −g z / y."""

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        z = x / y
        ctx.save(y, z)
        return z

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, Array | None]:
        y, z = ctx.saved
        grad_x = grad / y
        return grad_x, -grad_x * z if ctx.needs_input_grad[1] else None


class Negative(Function):
    """y = −x.   dL/dx = −g."""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        return -x

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        return -grad


class Pow(Function):
    """y = xᵃ for a constant number a.   dL/dx = g a xᵃ⁻¹."""

    @staticmethod
    def forward(ctx: Context, x: Array, *, exponent: float) -> Array:
        ctx.save(x)
        ctx.exponent = exponent
        return x**exponent

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (x,) = ctx.saved
        if ctx.exponent == 0:
            return grad * 0  # and not 0 · 0⁻¹
        return grad * ctx.exponent * x ** (ctx.exponent - 1)


class Exp(Function):
    """y = eˣ.   dL/dx = g y."""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = ctx.backend.xp.exp(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (y,) = ctx.saved
        return grad * y


class Log(Function):
    """y = ln x.   dL/dx = g / x."""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        ctx.save(x)
        return ctx.backend.xp.log(x)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (x,) = ctx.saved
        return grad / x


class Tanh(Function):
    """y = tanh x.   dL/dx = g (1 − y²)."""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = ctx.backend.xp.tanh(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (y,) = ctx.saved
        return grad * (1 - y * y)


class Sigmoid(Function):
    """y = 1 / (1 + e⁻ˣ).   dL/dx = g y (1 − y).

    Computed as (1 + tanh(x/2)) / 2, the same function, which cannot overflow.
    """

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = 0.5 * (1 + ctx.backend.xp.tanh(0.5 * x))
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (y,) = ctx.saved
        return grad * y * (1 - y)


class ReLU(Function):
    """y = max(x, 0).   dL/dx = g where x > 0, else 0.

    At the kink x = 0 the slope is taken as 0, as everybody does. y > 0 exactly where x > 0, so the output is saved,
    which the next layer keeps anyway, and the input can be freed.
    """

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = ctx.backend.xp.empty(x.shape, x.dtype)
        flat_x, flat_y = x.reshape(-1), y.reshape(-1)

        def compute(part: slice) -> None:
            rectify(ctx.backend, flat_x[part], out=flat_y[part])

        ctx.backend.map(compute, ctx.backend.ranges(x.size, x.itemsize))
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (y,) = ctx.saved
        return pass_positive(ctx.backend, grad, y)


def rectify(backend: Backend, x: Array, out: Array) -> None:
    """out = max(x, 0). As a clip, since NumPy's maximum of an array and a number takes four times as long."""
    backend.xp.clip(x, 0, np.inf, out=out)


@with_kernel
def pass_positive(backend: Backend, grad: Array, y: Array) -> Array:
    """g where y > 0, else 0: the gradient through a ReLU whose output is y. Block by block, on all threads."""
    result = backend.xp.empty(grad.shape, grad.dtype)
    flat_grad, flat_y, flat_result = grad.reshape(-1), y.reshape(-1), result.reshape(-1)

    def compute(part: slice) -> None:
        backend.xp.multiply(flat_grad[part], flat_y[part] > 0, out=flat_result[part])

    backend.map(compute, backend.ranges(result.size, result.itemsize))
    return result


def check_broadcast(name: str, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    """Raise ShapeError unless the two shapes, aligned from the right, are equal or one where they differ."""
    if any(m != n and 1 not in (m, n) for m, n in zip(x_shape[::-1], y_shape[::-1], strict=False)):
        raise ShapeError(
            f"{name}: shapes {tuple(x_shape)} and {tuple(y_shape)} do not fit; aligned from the right, their lengths "
            "must be equal or one of them 1 (see reshape)."
        )


def add(x: Any, y: Any) -> Tensor:
    """x + y, broadcast; one of the two may be a number or an array."""
    check_broadcast("add", np.shape(x), np.shape(y))
    return Add.apply(x, y)


def subtract(x: Any, y: Any) -> Tensor:
    """x − y, broadcast; one of the two may be a number or an array."""
    check_broadcast("subtract", np.shape(x), np.shape(y))
    return Subtract.apply(x, y)


def multiply(x: Any, y: Any) -> Tensor:
    """x · y element by element, broadcast; one of the two may be a number or an array."""
    check_broadcast("multiply", np.shape(x), np.shape(y))
    return Multiply.apply(x, y)


def divide(x: Any, y: Any) -> Tensor:
    """x / y element by element, broadcast; one of the two may be a number or an array."""
    check_broadcast("divide", np.shape(x), np.shape(y))
    return Divide.apply(x, y)


def negative(x: Tensor) -> Tensor:
    """−x."""
    return Negative.apply(x)


def pow(x: Tensor, exponent: float) -> Tensor:
    """x to a constant power, element by element."""
    return Pow.apply(x, exponent=float(exponent))


def exp(x: Tensor) -> Tensor:
    """e to the power of each element."""
    return Exp.apply(x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm of each element."""
    return Log.apply(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent of each element."""
    return Tanh.apply(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ) for each element, without overflow for any x."""
    return Sigmoid.apply(x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0) for each element: the nonlinearity of VGG (Nair and Hinton 2010)."""
    return ReLU.apply(x)
