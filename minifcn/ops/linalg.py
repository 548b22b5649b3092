"""The matrix product."""

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array
from minifcn.errors import ShapeError
from minifcn.ops.elementwise import check_broadcast
from minifcn.ops.shape import transpose


class MatMul(Function):
    """Matrix product y = x @ w, also of stacks of matrices (leading dimensions are broadcast).

    Shapes: x (…, N, K), w (…, K, M) -> y (…, N, M).
    With g = dL/dy:  dL/dx = g @ wᵀ   and   dL/dw = xᵀ @ g,
    because y_nm = Σ_k x_nk w_km, so x_nk reaches L through every y_n·, and w_km through every y_·m.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, w: Array) -> Array:
        ctx.save(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None]:
        x, w = ctx.saved
        grad_x = grad @ w.swapaxes(-1, -2) if ctx.needs_input_grad[0] else None  # (N, M) @ (M, K) -> (N, K)
        grad_w = x.swapaxes(-1, -2) @ grad if ctx.needs_input_grad[1] else None  # (K, N) @ (N, M) -> (K, M)
        return grad_x, grad_w


def matmul(x: Tensor, w: Tensor) -> Tensor:
    """x @ w: (…, N, K) times (…, K, M) gives (…, N, M). Both need at least two dimensions."""
    x_shape, w_shape = tuple(x.shape), tuple(w.shape)
    if len(x_shape) < 2 or len(w_shape) < 2:
        raise ShapeError(f"matmul: shapes {x_shape} and {w_shape}; both need two dimensions or more (use reshape).")
    if x_shape[-1] != w_shape[-2]:
        raise ShapeError(
            f"matmul: shapes {x_shape} and {w_shape}; the last of the first ({x_shape[-1]}) must equal "
            f"the last but one of the second ({w_shape[-2]})."
        )
    check_broadcast("matmul (leading dimensions)", x_shape[:-2], w_shape[:-2])
    return MatMul.apply(x, w)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A dense layer, x @ weightᵀ + bias: x (N, in), weight (out, in), bias (out,) -> (N, out)."""
    if len(weight.shape) != 2 or tuple(x.shape[-1:]) != tuple(weight.shape[1:]):
        raise ShapeError(
            f"linear: the input has shape {tuple(x.shape)}, but the weight {tuple(weight.shape)} expects rows of "
            f"{weight.shape[-1]} numbers."
        )
    if bias is not None and tuple(bias.shape) != tuple(weight.shape[:1]):
        raise ShapeError(f"linear: the bias has shape {tuple(bias.shape)}; {tuple(weight.shape[:1])} is expected.")
    y = matmul(x, transpose(weight, 0, 1))
    return y if bias is None else y + bias
