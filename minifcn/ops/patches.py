"""im2col and col2im: patches into columns and back, whole (for learning) or in blocks (for the convolutions).

A column holds the kernel-sized patch at one output position, so a convolution becomes one matrix product (Chellapilla
et al. 2006). All columns of a layer would take kh·kw times its input's memory (1 GiB for VGG16's conv1_2 on a
500-pixel image), so the convolutions make them for a few output rows at a time, and never keep them for backward.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend
from minifcn.errors import ShapeError
from minifcn.ops.geometry import ConvGeometry, Size

# Bytes of columns in one block. Small enough to stay in a core's cache while the product reads them; but at least as
# many as the weights have, which each block reads once, and at most the budget.
CACHE_BLOCK_BYTES = 2 * 2**20
BUDGET_BYTES = 64 * 2**20
# Below this, one block: handing work to a thread costs more than it saves.
SMALLEST_SPLIT_BYTES = 2**18


@dataclass(frozen=True)
class Block:
    """Some images and some output rows: the part of a convolution that is computed at once."""

    images: slice
    rows: slice


def split_into_blocks(
    backend: Backend, batch: int, channels: int, geometry: ConvGeometry, itemsize: int, weight_bytes: int = 0
) -> list[Block]:
    """All output positions of a batch in blocks: several whole images where they are small, else bands of rows."""
    out_h, out_w = geometry.output_size
    row_bytes = channels * geometry.taps * out_w * itemsize
    total = batch * out_h * row_bytes
    limit = min(max(CACHE_BLOCK_BYTES, weight_bytes), BUDGET_BYTES)
    if total > SMALLEST_SPLIT_BYTES:
        limit = min(limit, -(-total // backend.workers))  # a block for each worker at least
    rows = max(1, limit // row_bytes)
    if rows >= out_h:
        images = max(1, rows // out_h)
        return [Block(slice(n, min(n + images, batch)), slice(0, out_h)) for n in range(0, batch, images)]
    return [
        Block(slice(n, n + 1), slice(first, min(first + rows, out_h)))
        for n in range(batch)
        for first in range(0, out_h, rows)
    ]


def share_out(backend: Backend, blocks: Sequence[Block], *, whole_images: bool = False) -> list[list[Block]]:
    """The blocks in one contiguous share for each worker, for sums that a worker keeps to itself.

    whole_images: never cut an image's bands apart (they overlap in the rows that they add to).
    """
    units = [[block] for block in blocks]
    if whole_images:
        units = [list(bands) for _, bands in itertools.groupby(blocks, key=lambda block: block.images.start)]
    count = min(backend.workers, len(units))
    bounds = [len(units) * share // count for share in range(count + 1)] if count else []
    return [list(itertools.chain(*units[start:stop])) for start, stop in itertools.pairwise(bounds)]


@dataclass(frozen=True)
class _Slab:
    """The input rows that a block's windows see, counted in the padded image, and the part of them that is image."""

    size: tuple[int, int]  # height and width, padding included
    inside: tuple[slice, slice]  # where in the slab the image's pixels lie
    source: tuple[slice, slice]  # which pixels of the image these are


@functools.lru_cache(maxsize=4096)
def _slab(geometry: ConvGeometry, first: int, last: int) -> _Slab:
    size, inside, source = [], [], []
    for axis, (start, stop) in enumerate([(first, last), (0, geometry.output_size[1])]):
        top = start * geometry.stride[axis] - geometry.padding[axis]
        length = (stop - start - 1) * geometry.stride[axis] + geometry.window_size[axis]
        begin, end = max(top, 0), min(top + length, geometry.input_size[axis])
        end = max(end, begin)  # a band that sees only padding
        size.append(length)
        inside.append(slice(begin - top, end - top))
        source.append(slice(begin, end))
    return _Slab((size[0], size[1]), (inside[0], inside[1]), (source[0], source[1]))


def gather_columns(backend: Backend, x: Array, geometry: ConvGeometry, block: Block) -> Array:
    """im2col of one block: x (N, C, H, W) -> (C·kh·kw, positions), the positions being (images, rows, Wo)."""
    slab = _slab(geometry, block.rows.start, block.rows.stop)
    part = x[block.images, :, slab.source[0], slab.source[1]]
    if part.shape[2:] != slab.size:
        padded = backend.xp.zeros((*part.shape[:2], *slab.size), x.dtype)
        padded[:, :, slab.inside[0], slab.inside[1]] = part
        part = padded
    if geometry.taps == 1 and geometry.stride == (1, 1):
        return part.swapaxes(0, 1).reshape(x.shape[1], -1)  # (C, n, rows, Wo): a view, if it is one image
    rows, out_w = block.rows.stop - block.rows.start, geometry.output_size[1]
    columns = backend.xp.empty((x.shape[1], *geometry.kernel_size, len(part), rows, out_w), x.dtype)
    for i, j, window in _taps(geometry, rows):
        columns[:, i, j] = part[window].swapaxes(0, 1)  # (n, C, rows, Wo) -> (C, n, rows, Wo)
    return columns.reshape(x.shape[1] * geometry.taps, -1)


def _taps(geometry: ConvGeometry, rows: int) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Each place (i, j) of the kernel, and the pixels of a slab that it meets at the positions of the block."""
    (kernel_h, kernel_w), (stride_h, stride_w) = geometry.kernel_size, geometry.stride
    last_h, last_w = (rows - 1) * stride_h, (geometry.output_size[1] - 1) * stride_w
    for i in range(kernel_h):
        for j in range(kernel_w):
            top, left = i * geometry.dilation[0], j * geometry.dilation[1]
            yield i, j, (..., slice(top, top + last_h + 1, stride_h), slice(left, left + last_w + 1, stride_w))


def scatter_columns(backend: Backend, columns: Array, grad_x: Array, geometry: ConvGeometry, block: Block) -> None:
    """col2im of one block, the adjoint of gather_columns: *add* the columns to the pixels they were copied from.

    Patches overlap, so a pixel receives a sum; where the padding was, it is dropped.
    """
    slab = _slab(geometry, block.rows.start, block.rows.stop)
    rows, channels = block.rows.stop - block.rows.start, grad_x.shape[1]
    columns = columns.reshape(channels, *geometry.kernel_size, -1, rows, geometry.output_size[1])
    padded = backend.xp.zeros((channels, columns.shape[3], *slab.size), columns.dtype)  # (C, n, h, w)
    for i, j, window in _taps(geometry, rows):
        padded[window] += columns[:, i, j]
    inside = padded[:, :, slab.inside[0], slab.inside[1]].swapaxes(0, 1)  # (C, n, h, w) -> (n, C, h, w)
    grad_x[block.images, :, slab.source[0], slab.source[1]] += inside


class Im2Col(Function):
    """Patches as columns, c = G x for each channel.   dL/dx = Gᵀ g: col2im.

    Shapes: x (N, C, H, W) -> c (N, C·kh·kw, L). A pixel is copied once for each patch that shows it, so its gradient
    is the sum over those.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, geometry: ConvGeometry) -> Array:
        ctx.geometry, ctx.shape = geometry, x.shape
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
    everything = Block(slice(0, x.shape[0]), slice(0, geometry.output_size[0]))
    columns = gather_columns(backend, x, geometry, everything)
    columns = columns.reshape(-1, x.shape[0], geometry.positions)  # (C·kh·kw, N·L) -> (C·kh·kw, N, L)
    return backend.xp.ascontiguousarray(columns.swapaxes(0, 1))  # -> (N, C·kh·kw, L)


def _col2im(backend: Backend, columns: Array, geometry: ConvGeometry) -> Array:
    batch, channels = columns.shape[0], columns.shape[1] // geometry.taps
    x = backend.xp.zeros((batch, channels, *geometry.input_size), columns.dtype)
    everything = Block(slice(0, batch), slice(0, geometry.output_size[0]))
    # (N, C·kh·kw, L) -> (C·kh·kw, N, L), the order in which blocks are laid out
    scatter_columns(backend, columns.swapaxes(0, 1), x, geometry, everything)
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
