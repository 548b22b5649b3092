"""Max pooling."""

from collections.abc import Iterator
from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend, with_kernel
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
        ctx.geometry = geometry
        largest, winners = max_pool(ctx.backend, x, geometry)
        # Both are kept by the layers before and after anyway, so that saving them takes no memory, as winners would.
        ctx.save(x, largest, winners)
        if not want_winners:
            return largest
        found = _winners(ctx.backend, x, largest, geometry) if winners is None else winners.astype("int64")
        return largest, found

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        x, largest, winners = ctx.saved
        return max_pool_gradient(ctx.backend, grad, x, largest, winners, ctx.geometry)


@with_kernel
def max_pool(backend: Backend, x: Array, geometry: ConvGeometry) -> tuple[Array, Array | None]:
    """The largest of each window, (N, C, Ho, Wo), and None: who won is looked up when it is asked for. A kernel, which
    sees it anyway, gives the places in the window in a byte each.
    """
    largest = backend.xp.empty((*x.shape[:2], *geometry.output_size), x.dtype)
    planes, outputs = _planes(x), _planes(largest)

    def pool(part: slice) -> None:
        rows = _largest(backend, planes[:, part], geometry, axis=2)  # (1, n, Ho, W)
        _largest(backend, rows, geometry, axis=3, out=outputs[:, part])

    backend.map(pool, backend.channel_blocks(planes))
    return largest, None


@with_kernel
def max_pool_gradient(
    backend: Backend, grad: Array, x: Array, largest: Array, winners: Array | None, geometry: ConvGeometry
) -> Array:
    """Each g (N, C, Ho, Wo) to the winner of its window: (N, C, H, W)."""
    grad_x = backend.xp.empty(x.shape, grad.dtype)
    all_planes = [_planes(array) for array in (x, grad_x, largest, grad)]
    overlap = any(step < window for step, window in zip(geometry.stride, geometry.window_size, strict=True))
    sees_all = _sees_all(geometry)

    def route(part: slice) -> None:
        own, target, y, g = (planes[:, part] for planes in all_planes)
        if not sees_all:
            target[...] = 0
        written = set()  # places of the window; without overlap, each pixel has one
        for place, outputs, inputs, wins in _wins(backend, own, y, geometry):
            if overlap or place in written:
                target[inputs] += g[outputs] * wins
            else:
                backend.xp.multiply(g[outputs], wins, out=target[inputs])
            written.add(place)

    backend.map(route, backend.channel_blocks(all_planes[0]))
    return grad_x


def _sees_all(geometry: ConvGeometry) -> bool:
    """Whether windows lie side by side, and every pixel in one of them."""
    sizes = zip(geometry.input_size, geometry.output_size, geometry.stride, strict=True)
    side_by_side = geometry.stride == geometry.kernel_size and geometry.dilation == (1, 1)
    return side_by_side and geometry.padding == (0, 0) and all(size <= count * step for size, count, step in sizes)


def _planes(images: Array) -> Array:
    """(N, C, H, W) -> (1, N·C, H, W): pooling knows no images, and blocks of single planes fit the cache."""
    return images.reshape(1, images.shape[0] * images.shape[1], *images.shape[2:])


def _largest(backend: Backend, x: Array, geometry: ConvGeometry, *, axis: int, out: Array | None = None) -> Array:
    """The maximum over windows along one axis of (N, C, H, W), 2 or 3; a maximum over both is one after the other.

    Places in the padding are left out, which is what padding with −inf means. A NaN stays.
    """
    xp = backend.xp
    shape = (*x.shape[:axis], geometry.output_size[axis - 2], *x.shape[axis + 1 :])
    result = xp.empty(shape, x.dtype) if out is None else out
    before = (slice(None),) * axis
    (outputs, inputs), *others = _places(geometry, axis - 2)
    if outputs != slice(0, shape[axis]):
        result[...] = -xp.inf
    result[(*before, outputs)] = x[(*before, inputs)]
    for outputs, inputs in others:
        xp.maximum(result[(*before, outputs)], x[(*before, inputs)], out=result[(*before, outputs)])
    return result


def _wins(backend: Backend, x: Array, largest: Array, geometry: ConvGeometry) -> Iterator[tuple[int, Any, Any, Array]]:
    """For each place of the window: its number; the outputs whose window has a pixel there; these pixels; and which of
    them are the first in their window to equal the maximum. Where that is NaN, the last NaN is the winner.
    """
    columns = geometry.kernel_size[1]
    places = [
        (i * columns + j, (..., out_rows, out_columns), (..., in_rows, in_columns))
        for i, (out_rows, in_rows) in enumerate(_places(geometry, 0))
        for j, (out_columns, in_columns) in enumerate(_places(geometry, 1))
    ]
    free = backend.xp.ones(largest.shape, bool)  # windows whose winner has not come yet
    for place, outputs, inputs in places:
        wins = x[inputs] == largest[outputs]
        wins &= free[outputs]
        free[outputs] ^= wins
        yield place, outputs, inputs, wins
    if backend.any(free):  # a NaN does not equal itself
        for place, outputs, inputs in reversed(places):
            wins = (x[inputs] != x[inputs]) & free[outputs]
            free[outputs] ^= wins
            yield place, outputs, inputs, wins


def _winners(backend: Backend, x: Array, largest: Array, geometry: ConvGeometry) -> Array:
    """The place in its window of each maximum, (N, C, Ho, Wo), int64."""
    winners = backend.xp.zeros(largest.shape, "int64")
    for place, outputs, _, wins in _wins(backend, x, largest, geometry):
        winners[outputs] += place * wins
    return winners


def _places(geometry: ConvGeometry, axis: int) -> Iterator[tuple[slice, slice]]:
    """For each place of the window along one axis: the outputs at which it lies inside the image, and its pixels."""
    size, count = geometry.input_size[axis], geometry.output_size[axis]
    stride, padding, dilation = geometry.stride[axis], geometry.padding[axis], geometry.dilation[axis]
    for offset in range(-padding, geometry.kernel_size[axis] * dilation - padding, dilation):
        first = max(0, -(offset // stride))  # the first output whose pixel, output·stride + offset, is not before 0
        last = max(first, min(count, (size - 1 - offset) // stride + 1))
        start = first * stride + offset
        yield (
            slice(first, last),
            slice(start, start + (last - first - 1) * stride + 1 if last > first else start, stride),
        )


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
    rows, columns = xp.divmod(winners, geometry.kernel_size[1])  # places in the window
    rows = rows * geometry.dilation[0] + xp.arange(out_h)[:, None] * geometry.stride[0] - geometry.padding[0]
    columns = columns * geometry.dilation[1] + xp.arange(out_w) * geometry.stride[1] - geometry.padding[1]
    return y, Tensor(rows * geometry.input_size[1] + columns, device=y.device)
