"""Enlarging with one kernel for all channels that is a column times a row, as bilinear interpolation's is.

Gᵀ (w ⊗ I) enlarges a channel, X of H×W numbers, to a map of Ho×Wo. If w_ij = v_i h_j, it is first one matrix along the
columns of X, then another along its rows:

    vec(A_v X A_hᵀ) = (A_v ⊗ A_h) vec X        A_v (Ho, H) made of v,  A_h (Wo, W) made of h

Both are sparse, with k/s entries a row. For bilinear upsampling these are two; a row of the whole matrix has four, and
it would be applied to all H·W numbers for each of the channels, with an index for each entry.
"""

from collections.abc import Sequence
from typing import Any

from minifcn.backend import Array, Backend
from minifcn.ops.geometry import ConvGeometry, axis_matrix


def axis_matrices(backend: Backend, weight: Array, geometry: ConvGeometry) -> tuple[Any, Any] | None:
    """A_v and A_h of a weight (C, C, kh, kw), in CSR form; None unless it is one kernel v hᵀ for each channel alone.

    geometry: that of the convolution which the enlarging transposes.
    """
    kernel = backend.shared_diagonal(weight)
    factors = None if kernel is None else _factors(backend, kernel)
    if factors is None:
        return None
    vertical, horizontal = factors
    return axis_matrix(geometry, 0, vertical, backend), axis_matrix(geometry, 1, horizontal, backend)


def _factors(backend: Backend, kernel: Array) -> tuple[Array, Array] | None:
    """v and h with v hᵀ = w to the last bit; None where none are found, and for w = 0.

    If w is a product, its columns are multiples of v and its rows of h. Those of its smallest number are taken, since
    the other bilinear weights are whole multiples of it, so that a division by it does not round.
    """
    row, column = divmod(int(backend.xp.where(kernel == 0, backend.xp.inf, abs(kernel)).argmin()), kernel.shape[1])
    smallest = kernel[row, column]
    if smallest == 0:
        return None
    vertical, horizontal = kernel[:, column], kernel[row] / smallest
    return (vertical, horizontal) if (vertical[:, None] * horizontal == kernel).all() else None


def multiply_axes(backend: Backend, matrices: Sequence[tuple[Any, int]], maps: Array) -> Array:
    """Each map of (N, C, H, W) multiplied by the first matrix along its axis (0: by A_v, 1: by A_h), then by the next.

    Some maps at a time, so that they stay in the cache.
    """
    batch, channels, *size = maps.shape
    rows = maps.reshape(batch * channels, *size)
    for matrix, axis in matrices:
        size[axis] = matrix.shape[0]
    result = backend.xp.empty((len(rows), *size), maps.dtype)

    def compute(block: slice) -> None:
        part = rows[block]
        for matrix, axis in matrices:
            lines = backend.xp.moveaxis(part, 1 + axis, 0)  # (B, H, W) -> (H, B, W) or (W, B, H)
            product = matrix @ lines.reshape(len(lines), -1)
            part = backend.xp.moveaxis(product.reshape(-1, *lines.shape[1:]), 0, 1 + axis)
        result[block] = part

    itemsize = max(1, maps.itemsize * max(result[:1].size, rows[:1].size))
    backend.map(compute, backend.ranges(len(rows), itemsize))
    return result.reshape(batch, channels, *size)
