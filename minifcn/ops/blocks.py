"""The columns of a convolution, made block by block: a few output rows, or a few small images, at a time.

All columns of a layer would take kh·kw times its input's memory (1 GiB for VGG16's conv1_2 on a 500-pixel image), so
they are never made whole, and never kept for backward. Nor is each pixel copied kh·kw times: the columns of a block
hold the kw horizontal neighbours of each position only. The vertical ones are the same columns, `dilation` rows further
down, so a convolution is a sum of kh products, one for each row of the kernel, over shifted views of one array:

    Y = Σ_i W_i · Z_i,   Z_i = Z[:, rows i·dilation …],   Z: (C·kw, input rows of the block, images, Wo)

With the rows outermost and the images next, Z_i is a plain matrix without another copy. Where the weights are larger
than the columns (fc6), cutting W into W_i would cost more than it saves, and the columns hold whole patches (kh·kw). So
they do on a GPU, which wants one product, as large as the budget allows, more than it minds the copying.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minifcn.backend import Array, Backend, with_kernel
from minifcn.ops.elementwise import rectify
from minifcn.ops.geometry import ConvGeometry

# Bytes of columns in one block: few enough to stay in the cache while the products read them; but at least as many as
# the weights have, which each block reads once, and at most the budget.
COLUMN_BLOCK_BYTES = 4 * 2**20
# Below this, one block: handing work to a thread costs more than it saves.
SMALLEST_SPLIT_BYTES = 2**17


@dataclass(frozen=True)
class Block:
    """Some images and some output rows: the part of a convolution that is computed at once."""

    images: slice
    rows: slice

    @property
    def row_count(self) -> int:
        return self.rows.stop - self.rows.start


def has_whole_patches(backend: Backend, geometry: ConvGeometry, batch: int, out_channels: int) -> bool:
    """Whether columns hold whole patches: on a GPU always; else with no rows to share, or fewer positions than filters,
    as in fc6.
    """
    if backend.large_products:
        return True
    return geometry.kernel_size[0] == 1 or geometry.stride[0] != 1 or batch * geometry.positions < out_channels


def split_into_blocks(
    backend: Backend,
    batch: int,
    channels: int,
    geometry: ConvGeometry,
    whole: bool,
    itemsize: int,
    weight_bytes: int,
    *,
    one_for_each_worker: bool = True,
) -> list[Block]:
    """All output positions of a batch in blocks: several whole images where they are small, else bands of rows.

    one_for_each_worker: at least, if there are so many positions. Otherwise as few as the budget allows.
    """
    out_h, out_w = geometry.output_size
    row_bytes = channels * (geometry.taps if whole else geometry.kernel_size[1]) * out_w * itemsize
    total = batch * out_h * row_bytes
    limit = min(max(COLUMN_BLOCK_BYTES, weight_bytes, backend.array_block_bytes), backend.budget_bytes)
    if total > SMALLEST_SPLIT_BYTES and one_for_each_worker:
        limit = min(limit, -(-total // backend.workers))
    # The rows of the image, too, which the gradient to it adds up in: many, where a small kernel has a large stride.
    image_width = (out_w - 1) * geometry.stride[1] + geometry.window_size[1]
    image_row_bytes = channels * geometry.stride[0] * image_width * itemsize
    rows = max(1, min(limit // row_bytes, backend.budget_bytes // image_row_bytes))
    if rows >= out_h:
        images = max(1, rows // out_h)
        return [Block(slice(n, min(n + images, batch)), slice(0, out_h)) for n in range(0, batch, images)]
    return [
        Block(slice(n, n + 1), slice(first, min(first + rows, out_h)))
        for n in range(batch)
        for first in range(0, out_h, rows)
    ]


def share_out(backend: Backend, blocks: Sequence[Block], *, whole_images: bool = False) -> list[list[Block]]:
    """The blocks in one contiguous share for each worker; always the same for the same number of workers.

    whole_images: never cut an image's bands apart (for sums in which they overlap).
    """
    units = [[block] for block in blocks]
    if whole_images:
        units = [list(bands) for _, bands in itertools.groupby(blocks, key=lambda block: block.images.start)]
    count = min(backend.workers, len(units))
    bounds = [len(units) * share // count for share in range(count + 1)] if count else []
    return [list(itertools.chain(*units[start:stop])) for start, stop in itertools.pairwise(bounds)]


def parts(backend: Backend, length: int, size: int) -> list[slice]:
    """range(length) in slices of about equal length: at most `size` each, and as many for one worker as for another."""
    count = -(-length // max(1, size))
    if count > 1:
        count = min(length, -(-count // backend.workers) * backend.workers)
    return [slice(length * part // count, length * (part + 1) // count) for part in range(count)]


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


def clear_frame(pixels: Array, rows: slice, columns: slice) -> None:
    """Zeros in (…, h, w) wherever it is not in these rows and columns, which are about to be written."""
    pixels[..., : rows.start, :] = 0
    pixels[..., rows.stop :, :] = 0
    pixels[..., rows, : columns.start] = 0
    pixels[..., rows, columns.stop :] = 0


@with_kernel
def gather_columns(backend: Backend, x: Array, geometry: ConvGeometry, block: Block, whole: bool) -> Array:
    """The columns of one block: x (N, C, H, W) -> (C, kw, h, n, Wo), h being the input rows that the block sees; or,
    with whole patches, (C, kh·kw, rows, n, Wo).

    The result lies in scratch memory: it is good until the next block.
    """
    slab = _slab(geometry, block.rows.start, block.rows.stop)
    part = x[block.images, :, slab.source[0], slab.source[1]]
    if part.shape[2:] != slab.size:
        padded = backend.scratch("slab", (*part.shape[:2], *slab.size), x.dtype)
        clear_frame(padded, *slab.inside)
        padded[:, :, slab.inside[0], slab.inside[1]] = part
        part = padded
    (kernel_h, kernel_w), width = geometry.kernel_size, geometry.output_size[1]
    if kernel_h == 1:
        part = part[:, :, :: geometry.stride[0]]  # without the rows between those that windows see
    channels, height = part.shape[1:3]
    is_done = not whole or kernel_h == 1  # what rows share is what is asked for
    if kernel_w == 1 and is_done and part.shape[3] == width and len(part) == 1:
        return part.transpose(1, 0, 2, 3)[:, :, :, None]  # a 1×1 kernel on one image: the image itself
    columns = backend.scratch("columns", (channels, kernel_w, height, len(part), width), x.dtype)
    for place, pixels in enumerate(_places(geometry)):
        columns[:, place] = part[..., pixels].transpose(1, 2, 0, 3)  # (n, C, h, Wo) -> (C, h, n, Wo)
    if is_done:
        return columns
    patches = backend.scratch("patches", (channels, kernel_h, kernel_w, block.row_count, *columns.shape[3:]), x.dtype)
    patches[...] = _patches_in(backend, columns, geometry, block)
    return patches.reshape(channels, geometry.taps, block.row_count, len(part), width)


def kernel_row(columns: Array, geometry: ConvGeometry, block: Block, row: int, groups: int) -> Array:
    """Z_i: the columns that row i of the kernel meets, as a matrix for each group, (groups, C/groups·kw, P).

    P counts positions in the order (rows, images, Wo). Without a copy, unless the columns are an image itself.
    """
    start = row * geometry.dilation[0]
    part = columns[:, :, start : start + block.row_count]
    return part.reshape(groups, part.shape[0] // groups * part.shape[1], -1)


@with_kernel
def scatter_columns(backend: Backend, columns: Array, grad_x: Array, geometry: ConvGeometry, block: Block) -> None:
    """The adjoint of gathering whole patches, col2im of one block: *add* each column to the pixels it was copied from.

    columns: (…, P) with (C, kh·kw) leading. Where the padding was, the sum is dropped.
    """
    slab, channels = _slab(geometry, block.rows.start, block.rows.stop), grad_x.shape[1]
    kernel_h, kernel_w = geometry.kernel_size
    patches = columns.reshape(channels, kernel_h, kernel_w, block.row_count, -1, geometry.output_size[1])
    shared = backend.scratch("shared", (channels, kernel_w, slab.size[0], *patches.shape[4:]), columns.dtype)
    shared[...] = 0
    for row in range(kernel_h):
        first = row * geometry.dilation[0]
        rows = slice(first, first + (block.row_count - 1) * geometry.stride[0] + 1, geometry.stride[0])
        shared[:, :, rows] += patches[:, row]
    padded = backend.scratch("slab", (patches.shape[4], channels, *slab.size), columns.dtype)  # (n, C, h, w)
    padded[...] = 0
    for place, pixels in enumerate(_places(geometry)):
        padded[..., pixels] += shared[:, place].transpose(2, 0, 1, 3)  # (C, h, n, Wo) -> (n, C, h, Wo)
    grad_x[block.images, :, slab.source[0], slab.source[1]] += padded[:, :, slab.inside[0], slab.inside[1]]


@with_kernel
def write_product(backend: Backend, product: Array, bias: Array | None, y: Array, block: Block, relu: bool) -> None:
    """A block of the result, (O, P) with P ordered (rows, images, Wo), into y (N, O, Ho, Wo): plus the bias, and
    max(y, 0) if relu, while it is in the cache.
    """
    target = y[block.images, :, block.rows]  # (n, O, rows, Wo)
    result = product.reshape(y.shape[1], block.row_count, len(target), -1).transpose(2, 0, 1, 3)
    if bias is None:
        target[...] = result
    else:
        backend.xp.add(result, bias[:, None, None], out=target)
    if relu:
        rectify(backend, target, out=target)


def positions_last(grad: Array, block: Block, groups: int) -> Array:
    """A block of (N, O, Ho, Wo) as matrices (groups, O/groups, P), with P ordered (rows, images, Wo)."""
    part = grad[block.images, :, block.rows].transpose(1, 2, 0, 3)  # (O, rows, n, Wo)
    return part.reshape(groups, part.shape[0] // groups, -1)


def _places(geometry: ConvGeometry) -> Iterator[slice]:
    """For each place in a row of the kernel, the pixels of a row of the slab that it meets."""
    stride, dilation = geometry.stride[1], geometry.dilation[1]
    last = (geometry.output_size[1] - 1) * stride
    for place in range(geometry.kernel_size[1]):
        yield slice(place * dilation, place * dilation + last + 1, stride)


def _patches_in(backend: Backend, columns: Array, geometry: ConvGeometry, block: Block) -> Array:
    """The whole patches in columns that rows share, a strided view: (C, kw, h, n, Wo) -> (C, kh, kw, rows, n, Wo)."""
    channel, place, row, image, column = columns.strides
    shape = (len(columns), *geometry.kernel_size, block.row_count, *columns.shape[3:])
    strides = (channel, geometry.dilation[0] * row, place, geometry.stride[0] * row, image, column)
    return backend.strided_view(columns, shape, strides)
