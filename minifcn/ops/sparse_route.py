"""Convolution as multiplication by its explicit sparse matrix: the definition, and the slowest route.

With G, the matrix that copies pixels into patches (geometry.py), C = (W ⊗ I)(I ⊗ G) is the whole convolution, and

    convolve          y = C x = W · G x
    input_gradient    dx = Cᵀ g = Gᵀ · (Wᵀ g)
    weight_gradient   dw = g · (G x)ᵀ

image by image. Forward and for the weights, all columns of an image are in memory at once.
"""

from minifcn.backend import Array, Backend
from minifcn.ops import blocks
from minifcn.ops.geometry import ConvGeometry, gathering_matrix, transposed_patch_matrix


def convolve(
    backend: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    geometry: ConvGeometry,
    groups: int,
    relu: bool = False,
) -> Array:
    """y = W · G x + b:  x (N, C, H, W), weight (O, C/groups, kh, kw) -> (N, O, Ho, Wo); max(y, 0) if relu."""
    matrix = weight.reshape(groups, len(weight) // groups, -1)  # (groups, O/groups, C/groups·kh·kw)
    y = backend.xp.empty((len(x), len(weight), *geometry.output_size), x.dtype)
    for image, target in zip(x, y, strict=True):
        product = matrix @ _columns(backend, image, geometry, groups)  # (groups, O/groups, L)
        target[...] = product.reshape(target.shape)
    y = y if bias is None else y + bias[:, None, None]
    return backend.xp.maximum(y, 0) if relu else y


def input_gradient(backend: Backend, grad: Array, weight: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dx = Gᵀ · (Wᵀ g):  g (N, O, Ho, Wo), weight (O, C/groups, kh, kw) -> (N, C, H, W).

    This is transposed convolution. Channel block by channel block, so that the columns Wᵀ g stay small.
    """
    batch, (out_channels, in_group) = grad.shape[0], weight.shape[:2]
    out_group = out_channels // groups
    scatter = transposed_patch_matrix(geometry, grad.dtype, backend)  # Gᵀ: (H·W, kh·kw·L)
    x = backend.xp.empty((batch, in_group * groups, geometry.input_size[0] * geometry.input_size[1]), grad.dtype)
    size = min(max(blocks.COLUMN_BLOCK_BYTES, backend.array_block_bytes), backend.budget_bytes)
    step = max(1, size // (geometry.taps * geometry.positions * grad.itemsize))

    def compute(block: tuple[int, int, int]) -> None:
        image, group, first = block
        last = min(first + step, in_group)
        outputs = slice(group * out_group, (group + 1) * out_group)
        filters = weight[outputs, first:last].reshape(out_group, -1)  # (O/groups, C·kh·kw)
        columns = filters.T @ grad[image, outputs].reshape(out_group, -1)  # (C·kh·kw, O/groups) @ (O/groups, L)
        columns = columns.reshape(last - first, -1)  # (C·kh·kw, L) -> (C, kh·kw·L)
        x[image, group * in_group + first : group * in_group + last] = backend.sparse_times_rows(scatter, columns)

    backend.map(
        compute,
        [(n, group, first) for n in range(batch) for group in range(groups) for first in range(0, in_group, step)],
    )
    return x.reshape(*x.shape[:2], *geometry.input_size)


def weight_gradient(backend: Backend, x: Array, grad: Array, geometry: ConvGeometry, groups: int) -> Array:
    """dw = Σ_n g · (G x)ᵀ:  x (N, C, H, W), g (N, O, Ho, Wo) -> (O, C/groups, kh, kw)."""
    grads = grad.reshape(len(grad), groups, grad.shape[1] // groups, geometry.positions)  # (N, groups, O/groups, L)
    total = backend.xp.zeros((groups, grads.shape[2], x.shape[1] // groups * geometry.taps), x.dtype)
    for image, g in zip(x, grads, strict=True):
        total += g @ _columns(backend, image, geometry, groups).swapaxes(1, 2)  # (g, O/g, L) @ (g, L, C/g·kh·kw)
    return total.reshape(grad.shape[1], x.shape[1] // groups, *geometry.kernel_size)


def _columns(backend: Backend, image: Array, geometry: ConvGeometry, groups: int) -> Array:
    """G x for each channel: (C, H, W) -> (groups, C/groups·kh·kw, L)."""
    gather = gathering_matrix(geometry, image.dtype, backend)  # G: (kh·kw·L, H·W)
    return backend.sparse_times_rows(gather, image.reshape(len(image), -1)).reshape(groups, -1, geometry.positions)
