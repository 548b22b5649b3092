"""Max pooling."""

from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend
from minifcn.errors import ShapeError
from minifcn.ops.geometry import ConvGeometry, Size, pair
from minifcn.ops.patches import check_images


class MaxPool2d(Function):
    """y = the largest element of each window.   dL/dx routes each g to the element that won its window.

    Shapes: x (N, C, H, W) -> y (N, C, Ho, Wo) and the winners (N, C, Ho, Wo), their places in the window.
    For a small change of x, y changes by the change of the winner and by nothing else, so the slope is 1 there and 0
    elsewhere; an element that wins several overlapping windows receives the sum. Among ties the first in reading
    order wins, as in Caffe and PyTorch.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, geometry: ConvGeometry, want_winners: bool) -> Any:
        ctx.geometry, ctx.shape = geometry, x.shape
        largest = ctx.backend.xp.empty((*x.shape[:2], *geometry.output_size), x.dtype)
        keep = want_winners or ctx.needs_input_grad[0]
        winners = _first_inside(ctx.backend, geometry, x.shape[:2]) if keep else None

        def pool(channels: slice) -> None:
            own_winners = None if winners is None else winners[:, channels]
            _pool(ctx.backend, x[:, channels], geometry, largest[:, channels], own_winners)

        ctx.backend.map(pool, ctx.backend.channel_blocks(x))
        if winners is not None:
            ctx.save(winners)
        return (largest, winners) if want_winners else largest

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (winners,), geometry, xp = ctx.saved, ctx.geometry, ctx.backend.xp
        padded = xp.zeros((*ctx.shape[:2], *_padded_size(geometry)), grad.dtype)

        def route(channels: slice) -> None:
            for place, window in enumerate(_windows(geometry)):
                padded[:, channels][window] += grad[:, channels] * (winners[:, channels] == place)

        ctx.backend.map(route, ctx.backend.channel_blocks(padded))
        (top, left), (height, width) = geometry.padding, geometry.input_size
        return padded[:, :, top : top + height, left : left + width]


def _pool(backend: Backend, x: Array, geometry: ConvGeometry, largest: Array, winners: Array | None) -> None:
    """Set `largest` to the maximum over each window, place by place; and `winners`, if given, to where it was found."""
    xp, (height, width) = backend.xp, geometry.input_size
    padded, size = x, _padded_size(geometry)
    if size != (height, width):  # −inf, and not 0, so that padding never wins over a negative number
        top, left = geometry.padding
        padded = xp.full((*x.shape[:2], *size), -xp.inf, x.dtype)
        padded[:, :, top : top + height, left : left + width] = x
    largest[...] = -xp.inf
    for place, window in enumerate(_windows(geometry)):
        candidate = padded[window]
        if winners is not None:
            # The second condition is true for NaN only: it wins, as the maximum below says too.
            xp.copyto(winners, place, where=(candidate > largest) | (candidate != candidate))
        xp.maximum(largest, candidate, out=largest)  # a NaN stays


def _padded_size(geometry: ConvGeometry) -> tuple[int, int]:
    """The image with its padding, and on the right and below whatever ceil mode's last windows reach beyond it."""
    height, width = (
        max(n + 2 * p, (out - 1) * s + window)
        for n, p, out, s, window in zip(
            geometry.input_size,
            geometry.padding,
            geometry.output_size,
            geometry.stride,
            geometry.window_size,
            strict=True,
        )
    )
    return height, width


def _windows(geometry: ConvGeometry) -> list[tuple[Any, ...]]:
    """For each place (i, j) of the window, in reading order, the slice of the padded image that it runs over."""
    (kernel_h, kernel_w), (stride_h, stride_w) = geometry.kernel_size, geometry.stride
    dilation_h, dilation_w = geometry.dilation
    last_h, last_w = (geometry.output_size[0] - 1) * stride_h, (geometry.output_size[1] - 1) * stride_w
    return [
        (..., slice(i, i + last_h + 1, stride_h), slice(j, j + last_w + 1, stride_w))
        for i in range(0, kernel_h * dilation_h, dilation_h)
        for j in range(0, kernel_w * dilation_w, dilation_w)
    ]


def _first_inside(backend: Backend, geometry: ConvGeometry, leading: tuple[int, int]) -> Array:
    """The first place of each window that lies inside the image: the winner if nothing exceeds −inf."""
    xp = backend.xp
    outside = [  # how many rows or columns each window begins before the image
        xp.maximum(geometry.padding[axis] - xp.arange(geometry.output_size[axis]) * geometry.stride[axis], 0)
        for axis in (0, 1)
    ]
    first = [-(-pixels // step) for pixels, step in zip(outside, geometry.dilation, strict=True)]  # rounded up
    places = first[0][:, None] * geometry.kernel_size[1] + first[1]  # (Ho, Wo)
    dtype = xp.uint8 if geometry.taps <= 256 else xp.int64
    return xp.broadcast_to(places.astype(dtype), (*leading, *geometry.output_size)).copy()


def pooling_geometry(
    size: Size, kernel_size: Size, stride: Size, padding: Size, dilation: Size, ceil_mode: bool
) -> ConvGeometry:
    """Windows as PyTorch lays them: in ceil mode a last window may hang over the right or lower edge, but one that
    would start in the padding there is dropped, since it sees nothing of the image.
    """
    kernel, padding = (
        pair("max_pool2d: kernel_size", kernel_size, minimum=1),
        pair("max_pool2d: padding", padding, minimum=0),
    )
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ShapeError(
            f"max_pool2d: padding {padding} is more than half of the kernel {kernel}; windows would see only padding."
        )
    inputs, stride, dilation = (
        pair("max_pool2d: the input's size", size, minimum=1),
        pair("max_pool2d: stride", stride, minimum=1),
        pair("max_pool2d: dilation", dilation, minimum=1),
    )
    output = []
    for n, k, s, p, d in zip(inputs, kernel, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        count = -(-room // s) + 1 if ceil_mode else room // s + 1
        if ceil_mode and (count - 1) * s >= n + p:
            count -= 1
        if count < 1:
            raise ShapeError(
                f"max_pool2d: the kernel {kernel} with dilation {dilation} is larger than the input {inputs} with "
                f"padding {padding}; use ceil_mode=True or a larger input."
            )
        # A window may step over a small input: its first place that is not before the image is start modulo dilation.
        if any(start % d >= n for start in range(-p, 0, s)):
            raise ShapeError(
                f"max_pool2d: with padding {padding} and dilation {dilation}, a window of the kernel {kernel} steps "
                f"over the whole input {inputs}; use a larger input, or less of either."
            )
        output.append(count)
    return ConvGeometry(inputs, kernel, stride, padding, dilation, (output[0], output[1]))


def max_pool2d(
    x: Tensor,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum over windows: (N, C, H, W) -> (N, C, Ho, Wo).

    stride: kernel_size if not given; padding: −inf on each side, at most half the kernel.
    dilation: pixels from one place of a window to the next; the window spans dilation·(kernel − 1) + 1 of them.
    ceil_mode: Ho = ⌈(H + 2·padding − span) / stride⌉ + 1 instead of ⌊…⌋ + 1, without windows that start in the
    padding at the bottom or right. FCN needs it: with it every size of image works.
    return_indices: return (y, indices), an integer Tensor (N, C, Ho, Wo) with each winner's place in its H·W image.
    """
    check_images("max_pool2d", x)
    stride = kernel_size if stride is None else stride
    geometry = pooling_geometry(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return MaxPool2d.apply(x, geometry=geometry, want_winners=False)
    y, winners = MaxPool2d.apply(x, geometry=geometry, want_winners=True)
    xp, (out_h, out_w) = y.backend.xp, geometry.output_size
    rows, columns = xp.divmod(winners.astype(xp.int64), geometry.kernel_size[1])  # places in the window
    rows = rows * geometry.dilation[0] + xp.arange(out_h)[:, None] * geometry.stride[0] - geometry.padding[0]
    columns = columns * geometry.dilation[1] + xp.arange(out_w) * geometry.stride[1] - geometry.padding[1]
    return y, Tensor(rows * geometry.input_size[1] + columns, device=y.device)
