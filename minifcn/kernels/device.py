"""The launches of the kernels: arrays and sizes in, in the order in which the CUDA declares them.

Each method has the name, the arguments and the result of the function that it stands in for, which is marked
`@with_kernel` and says what is computed (`grep -rn "def gather_columns" minifcn` finds both). Results are equal up to
rounding, since sums may run in another order; from run to run they are equal bit for bit.
"""

from types import ModuleType
from typing import Any

import numpy as np

from minifcn.kernels.kernel import C_TYPES
from minifcn.kernels.source import KERNELS

Array = Any
BLOCK = 256  # threads
LARGEST_GRID = 2**16  # blocks; a kernel's loop takes care of what is beyond
PARTS = 2**18  # that the sums of all channels are cut into, at most: as many threads as keep a large GPU busy
LARGEST_INT = 2**31 - LARGEST_GRID * BLOCK  # below it, the number of the loop's next element is an int as well


class DeviceKernels:
    """`xp` is CuPy. A kernel is compiled at its first use, once for each set of types."""

    def __init__(self, xp: ModuleType) -> None:
        self.xp = xp
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def gather_columns(self, x: Array, geometry: Any, block: Any, whole: bool) -> Array:
        """(C, kh·kw, rows, n, Wo); a device always takes whole patches (see Backend.large_products)."""
        x, rows = x[block.images], block.row_count
        columns = self.xp.empty((x.shape[1], geometry.taps, rows, len(x), geometry.output_size[1]), x.dtype)
        sizes = *_sizes(x.shape, geometry), block.rows.start, rows
        count = columns.size // geometry.taps  # each element is a position, whose whole patch is copied
        self._launch("gather_columns", {"REAL": x.dtype}, x, columns, *sizes, count=count)
        return columns

    def scatter_columns(self, columns: Array, grad_x: Array, geometry: Any, block: Any) -> None:
        """Each pixel gathers what is its own, so that there are no atomics."""
        x = grad_x[block.images]
        sizes = *_sizes(x.shape, geometry), block.rows.start, block.row_count
        self._launch("scatter_columns", {"REAL": x.dtype}, columns, x, *sizes, count=x.size)

    def write_product(self, product: Array, bias: Array | None, y: Array, block: Any, relu: bool) -> None:
        y = y[block.images]
        sizes = y.shape[1], y.shape[0], *y.shape[2:], block.rows.start, block.row_count
        switches = int(bias is not None), int(relu)
        some = product if bias is None else bias  # a pointer that nobody follows
        self._launch("write_product", {"REAL": y.dtype}, product, some, y, *switches, *sizes, count=product.size)

    def max_pool(self, x: Array, geometry: Any) -> tuple[Array, Array]:
        """The largest of each window, and its place in the window: both (N, C, Ho, Wo)."""
        shape = (*x.shape[:2], *geometry.output_size)
        largest = self.xp.empty(shape, x.dtype)
        winners = self.xp.empty(shape, np.uint8 if geometry.taps <= 256 else np.int64)
        types = {"REAL": x.dtype, "PLACE": winners.dtype}
        self._launch("max_pool", types, x, largest, winners, *_sizes(x.shape, geometry), count=largest.size)
        return largest, winners

    def max_pool_gradient(self, grad: Array, x: Array, largest: Array, winners: Array, geometry: Any) -> Array:
        """The winners are max_pool's; x and the largest are not read."""
        grad_x = self.xp.empty(x.shape, grad.dtype)
        types = {"REAL": grad.dtype, "PLACE": winners.dtype}
        self._launch("max_pool_gradient", types, grad, winners, grad_x, *_sizes(x.shape, geometry), count=grad_x.size)
        return grad_x

    def pass_positive(self, grad: Array, y: Array) -> Array:
        grad_x = self.xp.empty(grad.shape, grad.dtype)
        self._launch("pass_positive", {"REAL": grad.dtype}, grad, y, grad_x, count=grad.size)
        return grad_x

    def sum_channels(self, x: Array) -> Array:
        (sums,) = self._sum_parts("sum_channels", x, (x,))
        return sums

    def normalise(self, x: Array, weight: Array, bias: Array, y: Array, eps: float, relu: bool) -> tuple[Array, Array]:
        count, types = x.size // x.shape[1], {"REAL": x.dtype}
        mean = self.sum_channels(x) / count
        variance = self._sum_parts("sum_squares", x, (x, mean))[0] / count
        arrays = x, mean, weight / self.xp.sqrt(variance + eps), bias, y
        self._launch("normalise", types, *arrays, int(relu), *x.shape[1:], count=x.size)
        return mean, variance

    def differentiate(
        self, grad: Array, x: Array, weight: Array, mean: Array, rate: Array, y: Array | None, grad_x: Array
    ) -> tuple[Array, Array]:
        count, types, relu = x.size // x.shape[1], {"REAL": x.dtype}, int(y is not None)
        read = grad, grad if y is None else y, x, mean  # without y, a pointer that nobody follows
        grad_bias, products = self._sum_parts("sum_gradients", x, read, relu, sums=2)
        grad_weight = products * rate
        arrays = *read, grad_bias / count, grad_weight * rate / count, weight * rate, grad_x
        self._launch("batch_norm_gradient", types, *arrays, relu, *x.shape[1:], count=x.size)
        return grad_weight, grad_bias

    def _sum_parts(self, name: str, x: Array, read: tuple[Array, ...], *switches: int, sums: int = 1) -> list[Array]:
        """The sums (C,) that a kernel of channels.py makes parts of; x (N, C, …) is one of the arrays that it reads."""
        batch, channels = x.shape[:2]
        positions = x.size // max(1, batch * channels)
        parts = max(1, min(positions, PARTS // max(1, channels)))
        found = [self.xp.empty((channels, parts), x.dtype) for _ in range(sums)]
        sizes = channels, batch, positions, parts  # channels.SIZES
        self._launch(name, {"REAL": x.dtype}, *read, *found, *switches, *sizes, count=channels * parts)
        return [part.sum(axis=1) for part in found]

    def cross_entropy(self, logits: Array, labels: Array, pixel_weight: Array) -> tuple[Array, Array, Array]:
        loss, largest, sums = (self.xp.empty(labels.shape, logits.dtype) for _ in range(3))
        arrays = logits, labels, pixel_weight, loss, largest, sums
        self._launch("cross_entropy", {"REAL": logits.dtype}, *arrays, *_pixels(logits), count=labels.size)
        return loss, largest, sums

    def cross_entropy_gradient(
        self, logits: Array, largest: Array, sums: Array, labels: Array, pixel_weight: Array, grad: Array
    ) -> Array:
        grad_logits = self.xp.empty(logits.shape, logits.dtype)
        arrays = logits, largest, sums, labels, pixel_weight, grad, int(grad.ndim > 0), grad_logits
        types = {"REAL": logits.dtype}
        self._launch("cross_entropy_gradient", types, *arrays, *_pixels(logits), count=logits.size)
        return grad_logits

    def sgd_step(
        self, parameter: Array, velocity: Array, grad: Array, *, lr: float, momentum: float, decay: float
    ) -> None:
        real = parameter.dtype.type
        numbers = (real(number) for number in (lr, momentum, decay))
        self._launch("sgd_step", {"REAL": real}, parameter, velocity, grad, *numbers, count=parameter.size)

    def adam_step(
        self, parameter: Array, mean: Array, square: Array, grad: Array, *, lr: float, betas: tuple[float, float],
        eps: float, decay: float, step: int,
    ) -> None:  # fmt: skip
        real = parameter.dtype.type
        rate, correction = lr / (1 - betas[0] ** step), (1 - betas[1] ** step) ** 0.5
        numbers = (real(number) for number in (rate, *betas, correction, eps, decay))
        arrays = parameter, mean, square, grad
        self._launch("adam_step", {"REAL": real}, *arrays, *numbers, count=parameter.size)

    def evaluate_tiles(self, x: Array, band: Any, tile: Any, padding: tuple[int, int], channels_last: bool) -> Array:
        """(p, C, t); in memory (p, t, C) if channels_last."""
        return self._transform_tiles("evaluate_tiles", x, band, tile.evaluate_input, tile, padding, channels_last)

    def spread_tiles(self, grad: Array, band: Any, tile: Any) -> Array:
        return self._transform_tiles("spread_tiles", grad, band, tile.interpolate.T, tile, (0, 0), False)

    def _transform_tiles(
        self,
        name: str,
        x: Array,
        band: Any,
        matrix: np.ndarray,
        tile: Any,
        padding: tuple[int, int],
        channels_last: bool,
    ) -> Array:
        x, channels, tiles = x[band.images], x.shape[1], band.rows * band.columns
        values = self.xp.empty((tile.places, *((tiles, channels) if channels_last else (channels, tiles))), x.dtype)
        numbers = *x.shape[1:], tile.outputs, *padding, int(channels_last), *_tiles(band)
        self._launch(name, {"REAL": x.dtype}, x, values, *numbers, count=channels * tiles, matrix=matrix)
        return values.swapaxes(1, 2) if channels_last else values

    def write_tiles(self, products: Array, bias: Array | None, y: Array, band: Any, tile: Any, relu: bool) -> None:
        y = y[band.images]
        some = products if bias is None else bias  # a pointer that nobody follows
        numbers = int(bias is not None), int(relu), *y.shape[1:], *_tiles(band)
        count, types = y.shape[1] * band.rows * band.columns, {"REAL": y.dtype}
        self._launch("write_tiles", types, products, some, y, *numbers, count=count, matrix=tile.interpolate)

    def transform_filters(self, weight: Array, tile: Any) -> Array:
        matrix, types = tile.evaluate_filter, {"REAL": weight.dtype}
        filters = self.xp.empty((tile.places, *weight.shape[:2]), weight.dtype)
        self._launch("transform_filters", types, weight, filters, count=filters[0].size, matrix=matrix)
        return filters

    def filter_gradient(self, totals: Array, tile: Any) -> Array:
        matrix, types = tile.evaluate_filter.T, {"REAL": totals.dtype}
        grad = self.xp.empty((*totals.shape[2:], 3, 3), totals.dtype)
        self._launch("filter_gradient", types, totals, grad, len(totals), count=grad.size // 9, matrix=matrix)
        return grad

    def sparse_times_rows(self, matrix: Any, rows: Array) -> Array:
        """matrix · row for each row: a CSR matrix (M, K) and rows (R, K) give (R, M)."""
        products = self.xp.empty((rows.shape[0], matrix.shape[0]), rows.dtype)
        types = {"REAL": rows.dtype, "INDEX": matrix.indices.dtype}
        arrays = matrix.data, matrix.indices, matrix.indptr, rows, products
        self._launch("sparse_times_rows", types, *arrays, *matrix.shape, count=products.size)
        return products

    def _launch(
        self, name: str, types: dict[str, Any], *arguments: Any, count: int, matrix: np.ndarray | None = None
    ) -> None:
        """Run a kernel over `count` elements. types: what its open types stand for; matrix: see Kernel.source.

        CUDA takes the bytes of the arguments as they are, whatever they were meant to be: so whole numbers are given
        the size that is declared, arrays that are not contiguous are copied (and back, if the kernel writes to them),
        and anything else of another type is a TypeError.
        """
        if count == 0:
            return
        largest = max([count, *(argument.size for argument in arguments if not isinstance(argument, int))])
        count_type = np.int32 if largest < LARGEST_INT else np.int64
        key = (name, count_type, *types.values(), None if matrix is None else matrix.tobytes())
        if key not in self._compiled:
            self._compiled[key] = self._compile(name, {**types, "COUNT": count_type}, matrix)
        kernel, declared = self._compiled[key]
        passed, copied = [], []
        for (parameter, dtype, is_constant), value in zip(declared, (*arguments, count), strict=True):
            if isinstance(value, int):
                passed.append(dtype.type(value))
                continue
            if value.dtype != dtype:
                raise TypeError(f"{name}: {parameter} is of {dtype}, not {value.dtype}.")
            if not value.flags.c_contiguous:
                value, given = self.xp.ascontiguousarray(value), value
                if not is_constant:
                    copied.append((given, value))
            passed.append(value)
        kernel((min(LARGEST_GRID, -(-count // BLOCK)),), (BLOCK,), tuple(passed))
        for given, value in copied:
            given[...] = value

    def _compile(
        self, name: str, types: dict[str, Any], matrix: np.ndarray | None
    ) -> tuple[Any, list[tuple[str, np.dtype[Any], bool]]]:
        """A kernel, and of each parameter its declaration, its type, and whether it is an array that is only read."""
        names = {letter: np.dtype(dtype).name for letter, dtype in types.items()}
        declared = []
        for parameter in (*KERNELS[name].parameters.split(", "), "COUNT count"):
            kind = parameter.removeprefix("const ").rpartition(" ")[0].removesuffix("*")
            dtype = np.dtype(names.get(kind) or _NUMPY_TYPES[kind])
            declared.append((parameter, dtype, parameter.startswith("const ")))
        return self.xp.RawModule(code=KERNELS[name].source(name, names, matrix)).get_function(name), declared


_NUMPY_TYPES = {c_type: name for name, c_type in C_TYPES.items()}


def _sizes(shape: tuple[int, ...], geometry: Any) -> tuple[int, ...]:
    """windows.GEOMETRY for images of this shape."""
    return (
        shape[1],
        shape[0],
        *geometry.input_size,
        *geometry.output_size,
        *geometry.kernel_size,
        *geometry.stride,
        *geometry.padding,
        *geometry.dilation,
    )


def _pixels(logits: Array) -> tuple[int, int]:
    """Classes, and positions of an image, for (N, C, …) logits."""
    return logits.shape[1], logits.size // max(1, logits.shape[0] * logits.shape[1])


def _tiles(band: Any) -> tuple[int, ...]:
    """tiles.ROWS_OF_TILES for a band of Winograd's tiles, counted from the first of its images on."""
    return band.rows_per_image, band.columns, band.start % band.rows_per_image, band.rows
