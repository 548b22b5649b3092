"""The geometry of convolutions: sizes, the sparse matrix G that copies pixels into patches, and coordinate maps.

Convolution factors into a geometry and weights. With L output positions, G has a row for each place in each patch,
(kh·kw·L) of them, and a column for each of the H·W pixels; it holds no weights and serves all channels and images:

    im2col            x -> G x                col2im             c -> Gᵀ c
    conv2d            x -> W · G x            conv_transpose2d   y -> Gᵀ · (Wᵀ y)

so a transposed convolution really is multiplication by the transpose of a convolution's sparse matrix, and each is the
other's gradient with respect to its input (Dumoulin and Visin 2016, chapter 4, draw these matrices).
"""

from __future__ import annotations

import operator
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend, get_backend
from minifcn.errors import ShapeError

Size = int | Sequence[int]
CACHE_BYTES = 256 * 2**20  # for all matrices together; Gᵀ of 8× upsampling to 568 pixels takes 11 MB


def pair(name: str, value: Size, *, minimum: int) -> tuple[int, int]:
    """A size or step as (height, width): one whole number stands for both. Done once, at the door of each operation."""
    try:
        both = (value, value) if not isinstance(value, Sequence) else tuple(value)
        height, width = (operator.index(number) for number in both)
    except (TypeError, ValueError):
        raise ShapeError(f"{name} must be a whole number or a pair (height, width), not {value!r}.") from None
    if min(height, width) < minimum:
        raise ShapeError(f"{name} must be at least {minimum}, not {value!r}.")
    return height, width


@dataclass(frozen=True)
class ConvGeometry:
    """Where the windows of a convolution lie; all sizes are (height, width). Frozen: it is the key of G's cache.

    output_size is the number of window positions. For a transposed convolution this geometry is that of the
    convolution it transposes: input_size is then the (large) size that comes out, output_size the size that goes in.
    That must be stored, since several sizes of image have the same number of positions (hence output_padding).
    """

    input_size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    output_size: tuple[int, int]

    @classmethod
    def of_convolution(
        cls, name: str, input_size: Size, kernel_size: Size, stride: Size, padding: Size, dilation: Size
    ) -> ConvGeometry:
        """output = ⌊(input + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1 (Dumoulin and Visin 2016, 5.1)."""
        inputs, kernel, step, frame, spread = _pairs(name, input_size, kernel_size, stride, padding, dilation)
        output = tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(inputs, kernel, step, frame, spread, strict=True)
        )
        if min(output) < 1:
            raise ShapeError(
                f"{name}: a kernel of {kernel} with dilation {dilation} is larger than the input of {inputs} with "
                f"padding {padding}; use a larger input or more padding."
            )
        return cls(inputs, kernel, step, frame, spread, (output[0], output[1]))

    @classmethod
    def of_transposed(
        cls,
        name: str,
        input_size: Size,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        output_padding: Size,
        dilation: Size,
    ) -> ConvGeometry:
        """The convolution whose transpose enlarges `input_size` to
        (input − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1.

        output_padding must be smaller than the stride or the dilation, as in PyTorch.
        """
        inputs, kernel, step, frame, spread = _pairs(name, input_size, kernel_size, stride, padding, dilation)
        extra = pair(f"{name}: output_padding", output_padding, minimum=0)
        if any(e >= max(s, d) for e, s, d in zip(extra, step, spread, strict=True)):
            raise ShapeError(
                f"{name}: output_padding {extra} must be smaller than the stride {stride} or the dilation {dilation}."
            )
        output = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + e + 1
            for n, k, s, p, d, e in zip(inputs, kernel, step, frame, spread, extra, strict=True)
        )
        if min(output) < 1:
            raise ShapeError(
                f"{name}: an input of {inputs} with kernel {kernel}, stride {stride} and padding {padding} would give "
                f"an output of {output}; use less padding."
            )
        return cls((output[0], output[1]), kernel, step, frame, spread, inputs)

    @property
    def window_size(self) -> tuple[int, int]:
        """The pixels that a dilated kernel spans."""
        height, width = (d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))
        return height, width

    @property
    def positions(self) -> int:
        """L, the number of window positions."""
        return self.output_size[0] * self.output_size[1]

    @property
    def taps(self) -> int:
        """kh·kw, the number of places in a window."""
        return self.kernel_size[0] * self.kernel_size[1]


def _pairs(name: str, input_size: Size, kernel_size: Size, stride: Size, padding: Size, dilation: Size) -> Any:
    return (
        pair(f"{name}: the input's size", input_size, minimum=1),
        pair(f"{name}: kernel_size", kernel_size, minimum=1),
        pair(f"{name}: stride", stride, minimum=1),
        pair(f"{name}: padding", padding, minimum=0),
        pair(f"{name}: dilation", dilation, minimum=1),
    )


class _ByteBoundedCache:
    """The most recently used matrices, up to a number of bytes. One thread at a time: both gradients of a layer ask."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.entries: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self.lock = threading.RLock()

    def get(self, key: Any, make: Any) -> Any:
        with self.lock:
            if key not in self.entries:
                matrix = make()
                self.entries[key] = (matrix, matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)
            self.entries.move_to_end(key)
            while sum(size for _, size in self.entries.values()) > self.limit and len(self.entries) > 1:
                self.entries.popitem(last=False)
            return self.entries[key][0]


_cache = _ByteBoundedCache(CACHE_BYTES)


def transposed_patch_matrix(geometry: ConvGeometry, dtype: Any, backend: Backend) -> Any:
    """Gᵀ, of shape (H·W, kh·kw·L), as a sparse matrix in CSR form, cached for each geometry, dtype and device.

    `patch_matrix` shows the same numbers the other way round, and `gathering_matrix` is made from them. They have the
    dtype of the images, since a float64 G would turn float32 images into float64 ones.
    """
    key = (geometry, np.dtype(dtype).str, backend.name)
    return _cache.get(key, lambda: _build_transposed(geometry, dtype, backend))


def gathering_matrix(geometry: ConvGeometry, dtype: Any, backend: Backend) -> Any:
    """G itself, (kh·kw·L, H·W), in CSR form: a transposed view of Gᵀ would be one of columns, which GPUs multiply by in
    an order that changes from run to run. Cached, by Gᵀ's entries too: if somebody changes one, to see what it does, it
    does so here as well.
    """
    scatter = transposed_patch_matrix(geometry, dtype, backend)
    key = (geometry, np.dtype(dtype).str, backend.name, _digest(scatter, backend), "gathering")
    return _cache.get(key, lambda: scatter.T.tocsr())


def is_intact(geometry: ConvGeometry, dtype: Any, backend: Backend) -> bool:
    """Whether Gᵀ is still all ones, in the cache or because nobody has asked for it yet.

    Whoever has changed an entry, to see what it does, is to see it in conv_transpose2d, too, which then must not go
    any other way than by this matrix.
    """
    entry = _cache.entries.get((geometry, np.dtype(dtype).str, backend.name))
    return entry is None or not backend.any(entry[0].data != 1)  # a GPU takes the matrix in any case


def axis_matrix(geometry: ConvGeometry, axis: int, kernel: Array, backend: Backend) -> Any:
    """Gᵀ (w ⊗ I) along one axis (0: rows, 1: columns) for a kernel of numbers w_i, as a CSR matrix (n, L), cached.

    n is the input's size there, L the number of windows: w_i stands at the pixel that place i of each window shows.
    """

    def build() -> Any:
        pixels = _pixels(axis, geometry)  # (k, L)
        taps, positions = np.nonzero((pixels >= 0) & (pixels < geometry.input_size[axis]))
        entries = (kernel[taps], (pixels[taps, positions], positions))
        return backend.sparse.csr_matrix(entries, (geometry.input_size[axis], geometry.output_size[axis]))

    key = (geometry, axis, kernel.dtype.str, backend.name, backend.to_numpy(kernel).tobytes())
    return _cache.get(key, build)


def _digest(matrix: Any, backend: Backend) -> int:
    """A number that changes with the entries of a sparse matrix."""
    return zlib.crc32(np.ascontiguousarray(backend.to_numpy(matrix.data)).data)


def _build_transposed(geometry: ConvGeometry, dtype: Any, backend: Backend) -> Any:
    """Gᵀ from the geometry: for each pixel, the places of patches that it is copied to.

    Place (i, j) of the patch at position (a, b) shows the pixel at row a·stride − padding + i·dilation, and likewise
    for columns; places outside the image show the zero padding and get no entry.
    """
    (height, width), (out_h, out_w) = geometry.input_size, geometry.output_size
    row_of = _pixels(0, geometry)[:, None, :, None]  # (kh, 1, Ho, 1)
    column_of = _pixels(1, geometry)[None, :, None, :]  # (1, kw, 1, Wo)
    inside = (row_of >= 0) & (row_of < height) & (column_of >= 0) & (column_of < width)  # (kh, kw, Ho, Wo)
    places = np.flatnonzero(inside)  # the rows of G that have an entry, in the order (kh, kw, Ho, Wo)
    pixels = (row_of * width + column_of)[inside]  # and the column in which each has it
    # To list them by pixel: sort (stably, so that places stay in order), and count how many each pixel has.
    order = np.argsort(pixels, kind="stable")
    pointers = np.zeros(height * width + 1, dtype=np.int64)
    np.cumsum(np.bincount(pixels, minlength=height * width), out=pointers[1:])
    shape = (height * width, geometry.taps * out_h * out_w)
    index_type = np.int32 if max(shape) < 2**31 and pixels.size < 2**31 else np.int64
    return backend.sparse.csr_matrix(
        (
            backend.asarray(np.ones(pixels.size, dtype)),
            backend.asarray(places[order].astype(index_type)),
            backend.asarray(pointers.astype(index_type)),
        ),
        shape=shape,
    )


def _pixels(axis: int, geometry: ConvGeometry) -> np.ndarray:
    """The pixel row (axis 0) or column (axis 1) that each place of each window shows: (kernel, positions)."""
    places = np.arange(geometry.kernel_size[axis]) * geometry.dilation[axis] - geometry.padding[axis]
    return places[:, None] + np.arange(geometry.output_size[axis]) * geometry.stride[axis]


def patch_matrix(
    input_size: Size,
    kernel_size: Size,
    *,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    dtype: Any = np.float32,
    device: str = "cpu",
) -> Any:
    """G, the sparse 0/1 matrix that copies pixels into patches, of shape (kh·kw·L, H·W).

    `(G @ image.ravel()).reshape(kh*kw, L)` are the columns of im2col for one channel, and `G.T @ columns.ravel()` adds
    them back (col2im). A row is one place of one patch, in the order (kh, kw, Ho, Wo), and has a single 1, or nothing
    if the place lies in the padding. The result shares its memory with the cache that conv_transpose2d uses.
    """
    geometry = ConvGeometry.of_convolution("patch_matrix", input_size, kernel_size, stride, padding, dilation)
    return transposed_patch_matrix(geometry, dtype, get_backend(device)).T


def conv_matrix(
    weight: Any,
    input_size: Size,
    *,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Any:
    """C, the whole convolution as one sparse matrix: conv2d(x) is C @ x.ravel(), its transpose C.T @ y.ravel().

    weight: (out, in/groups, kh, kw), an array or a Tensor; the result has its dtype and shape (out·L, in·H·W). For a
    4×4 input and a 3×3 kernel it is the 4×16 matrix with 36 entries that the textbooks draw. For teaching and tests:
    with real sizes it has as many entries as the convolution has multiplications.

    C = (W ⊗ I_L) (I_in ⊗ G): copy the pixels of each channel into patches, then weigh and add, at each position.
    """
    tensor = weight if isinstance(weight, Tensor) else Tensor(weight)
    backend, values = tensor.backend, tensor.data
    if values.ndim != 4 or groups < 1 or values.shape[0] % groups:
        raise ShapeError(
            f"conv_matrix: the weight has shape {values.shape}; (out, in/groups, kh, kw) with out divisible by "
            f"groups={groups} is expected."
        )
    out_channels, in_group, *kernel = values.shape
    geometry = ConvGeometry.of_convolution("conv_matrix", input_size, kernel, stride, padding, dilation)
    sparse = backend.sparse
    patches = transposed_patch_matrix(geometry, values.dtype, backend).T
    rows = values.reshape(groups, out_channels // groups, in_group * geometry.taps)
    mixing = sparse.block_diag([sparse.csr_matrix(group) for group in rows])  # W: (out, in·kh·kw), blocks by group
    position = sparse.identity(geometry.positions, dtype=values.dtype)
    channel = sparse.identity(in_group * groups, dtype=values.dtype)
    return (sparse.kron(mixing, position, format="csr") @ sparse.kron(channel, patches, format="csr")).tocsr()


@dataclass(frozen=True)
class CoordinateMap:
    """Where in the input the centre of output pixel i lies: at scale·i + offset, in input pixels, along one axis.

    Maps compose along a path of layers: map_of_first.then(map_of_second). Numbers are exact fractions. This is how
    Caffe's crops are found (`coord_map` in the released code; Shelhamer et al. 2017 describe the alignment).
    """

    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)

    @classmethod
    def of_window(cls, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> CoordinateMap:
        """A convolution or pooling: window i is centred on i·stride − padding + dilation·(kernel_size − 1)/2."""
        return cls(Fraction(stride), Fraction(dilation * (kernel_size - 1), 2) - padding)

    @classmethod
    def of_transposed(cls, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> CoordinateMap:
        """A transposed convolution: the inverse of the convolution's map."""
        window = cls.of_window(kernel_size, stride, padding, dilation)
        return cls(1 / window.scale, -window.offset / window.scale)

    def then(self, following: CoordinateMap) -> CoordinateMap:
        """The map of two layers in a row: `following`'s output pixel -> its input, our output -> our input."""
        return CoordinateMap(self.scale * following.scale, self.scale * following.offset + self.offset)

    def crop_onto(self, reference: CoordinateMap) -> int:
        """The first pixel to keep of a map with these coordinates so that it lies on a map with the reference's.

        Raises ShapeError if the two differ in scale, or if the offset is not a whole number of pixels.
        """
        if self.scale != reference.scale:
            raise ShapeError(
                f"crop: one map has {float(self.scale)} input pixels to a pixel, the other {float(reference.scale)}; "
                "only maps of equal scale can be laid on each other."
            )
        start = (reference.offset - self.offset) / self.scale
        if start.denominator != 1:
            raise ShapeError(
                f"crop: the maps are {float(start)} pixels apart, which no crop can mend; change a kernel or padding."
            )
        return int(start)
