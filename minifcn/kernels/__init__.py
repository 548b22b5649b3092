"""What CuPy's array language cannot say well, as kernels: in CUDA C (`source.py`), with a twin in NumPy (`twins.py`).

A method of `backend.kernels` does not ask which device it is on: `HostKernels` runs the twins, `DeviceKernels` compiles
the CUDA at its first use and launches it. So far one is in use, `csr_times_rows`, by `Backend.sparse_times_rows` on a
GPU; the others are tested, and wait for operations to call them once they can be timed on a card.
"""

from types import ModuleType
from typing import Any

import numpy as np

from minifcn.kernels import twins
from minifcn.kernels.source import C_TYPES, KERNELS, cuda_source, letters

__all__ = ["KERNELS", "DeviceKernels", "HostKernels", "cuda_source", "letters"]

Array = Any
BLOCK = 256  # threads
LARGEST_GRID = 2**16  # blocks; a kernel's loop takes care of what is beyond


class HostKernels:
    """The methods, and the twins behind them. Arrays are contiguous, float32 or float64."""

    def __init__(self, xp: ModuleType) -> None:
        self.xp = xp

    def _run(self, name: str, types: dict[str, Any], *arguments: Any, count: int) -> None:
        if count:
            getattr(twins, name)(*arguments, count)

    def im2col(self, x: Array, geometry: Any, first_row: int, rows: int, columns: Array | None = None) -> Array:
        """The columns of some output rows: x (N, C, H, W) -> (C, kh·kw, rows, N, Wo), padding as zeros.

        geometry: an ops.ConvGeometry. columns: where to write them, such as scratch memory.
        """
        x = self.xp.ascontiguousarray(x)
        if columns is None:
            shape = (x.shape[1], geometry.taps, rows, x.shape[0], geometry.output_size[1])
            columns = self.xp.empty(shape, x.dtype)
        sizes = *_sizes(x.shape, geometry), first_row, rows
        self._run("im2col", {"REAL": x.dtype}, x, columns, *sizes, count=columns.size)
        return columns

    def col2im(self, columns: Array, x: Array, geometry: Any, first_row: int, rows: int) -> None:
        """The adjoint: *add* columns (C, kh·kw, rows, N, Wo) to the pixels of x (N, C, H, W) they were copied from.

        Each pixel gathers its own, so that there are no atomics, and equal inputs give equal bits.
        """
        columns = self.xp.ascontiguousarray(columns)
        sizes = *_sizes(x.shape, geometry), first_row, rows
        self._run("col2im", {"REAL": x.dtype}, columns, x, *sizes, count=x.size)

    def max_pool(self, x: Array, geometry: Any) -> tuple[Array, Array]:
        """x (N, C, H, W) -> the largest of each window, and its place in the window, both (N, C, Ho, Wo)."""
        x = self.xp.ascontiguousarray(x)
        shape = (*x.shape[:2], *geometry.output_size)
        largest = self.xp.empty(shape, x.dtype)
        winners = self.xp.empty(shape, np.uint8 if geometry.taps <= 256 else np.int64)
        types = {"REAL": x.dtype, "PLACE": winners.dtype}
        self._run("max_pool", types, x, largest, winners, *_sizes(x.shape, geometry), count=largest.size)
        return largest, winners

    def max_pool_backward(self, grad: Array, winners: Array, shape: tuple[int, ...], geometry: Any) -> Array:
        """Each gradient (N, C, Ho, Wo) to the winner of its window: (N, C, H, W), which is `shape`."""
        grad, grad_x = self.xp.ascontiguousarray(grad), self.xp.empty(shape, grad.dtype)
        types = {"REAL": grad.dtype, "PLACE": winners.dtype}
        self._run("max_pool_backward", types, grad, winners, grad_x, *_sizes(shape, geometry), count=grad_x.size)
        return grad_x

    def bias_relu(self, x: Array, bias: Array, out: Array | None = None) -> Array:
        """max(x + bias, 0) for x (N, C, …) and bias (C,), in one pass; out may be x."""
        x = self.xp.ascontiguousarray(x)
        y = self.xp.empty(x.shape, x.dtype) if out is None else out
        positions = x.size // max(1, x.shape[0] * x.shape[1])
        self._run("bias_relu", {"REAL": x.dtype}, x, bias, y, x.shape[1], positions, count=x.size)
        return y

    def relu_backward(self, grad: Array, y: Array) -> Array:
        """The gradient where the output y of ReLU is above 0, else 0, in one pass."""
        grad, grad_x = self.xp.ascontiguousarray(grad), self.xp.empty(grad.shape, grad.dtype)
        self._run("relu_backward", {"REAL": grad.dtype}, grad, y, grad_x, count=grad.size)
        return grad_x

    def softmax_cross_entropy(self, logits: Array, labels: Array, weight: Array) -> tuple[Array, Array]:
        """logits (N, C, …), labels int64 and weight (N, …) -> the weighted loss (N, …), and the probabilities."""
        logits = self.xp.ascontiguousarray(logits)
        loss, probabilities = self.xp.empty(labels.shape, logits.dtype), self.xp.empty(logits.shape, logits.dtype)
        sizes = logits.shape[1], labels.size // max(1, labels.shape[0])
        arrays = logits, self.xp.ascontiguousarray(labels), self.xp.ascontiguousarray(weight), loss, probabilities
        self._run("softmax_cross_entropy", {"REAL": logits.dtype}, *arrays, *sizes, count=labels.size)
        return loss, probabilities

    def softmax_cross_entropy_backward(self, probabilities: Array, labels: Array, weight: Array, grad: Array) -> Array:
        """dL/dlogits (N, C, …) from the gradient of the loss, a number for each pixel or one in all (shape ())."""
        grad_logits, ascontiguous = self.xp.empty(probabilities.shape, probabilities.dtype), self.xp.ascontiguousarray
        arrays = probabilities, ascontiguous(labels), ascontiguous(weight), ascontiguous(grad)
        sizes = probabilities.shape[1], labels.size // max(1, labels.shape[0])
        stride = 1 if grad.size == labels.size and grad.ndim else 0
        types = {"REAL": probabilities.dtype}
        name = "softmax_cross_entropy_backward"
        self._run(name, types, *arrays, stride, grad_logits, *sizes, count=grad_logits.size)
        return grad_logits

    def sgd(self, parameter: Array, velocity: Array, grad: Array, *, lr: float, momentum: float, decay: float) -> None:
        """One step of SGD in place, in one pass over the three arrays; see training.SGD for the formula."""
        real, grad = parameter.dtype.type, self.xp.ascontiguousarray(grad)
        numbers = (real(number) for number in (lr, momentum, decay))
        self._run("sgd", {"REAL": parameter.dtype}, parameter, velocity, grad, *numbers, count=parameter.size)

    def adam(
        self, parameter: Array, mean: Array, square: Array, grad: Array, *, lr: float, betas: tuple[float, float],
        eps: float, decay: float, step: int,
    ) -> None:  # fmt: skip
        """One step of Adam, number `step` from 1, in place, in one pass; see training.Adam for the formula."""
        real, grad = parameter.dtype.type, self.xp.ascontiguousarray(grad)
        correction = (1 - betas[1] ** step) ** 0.5
        numbers = (real(number) for number in (lr / (1 - betas[0] ** step), *betas, correction, eps, decay))
        arrays = parameter, mean, square, grad
        self._run("adam", {"REAL": parameter.dtype}, *arrays, *numbers, count=parameter.size)

    def csr_times_rows(self, matrix: Any, rows: Array) -> Array:
        """matrix · row for each row: a CSR matrix (M, K) and rows (R, K) give (R, M), equal bits for equal inputs."""
        rows = self.xp.ascontiguousarray(rows)
        products = self.xp.empty((rows.shape[0], matrix.shape[0]), rows.dtype)
        types = {"REAL": rows.dtype, "INDEX": matrix.indices.dtype}
        arrays = matrix.data, matrix.indices, matrix.indptr, rows, products
        self._run("csr_times_rows", types, *arrays, *matrix.shape, count=products.size)
        return products


class DeviceKernels(HostKernels):
    """The same methods with the CUDA behind them. `xp` is CuPy; a kernel is compiled once for each set of types."""

    def __init__(self, xp: ModuleType) -> None:
        super().__init__(xp)
        self._compiled: dict[tuple[str, ...], Any] = {}

    def _run(self, name: str, types: dict[str, Any], *arguments: Any, count: int) -> None:
        if count == 0:
            return
        names = {letter: np.dtype(dtype).name for letter, dtype in types.items()}
        key = (name, *names.values())
        if key not in self._compiled:
            self._compiled[key] = self.xp.RawModule(code=cuda_source(name, names)).get_function(name)
        grid = min(LARGEST_GRID, -(-count // BLOCK))
        self._compiled[key]((grid,), (BLOCK,), (*_as_declared(name, names, arguments), np.int64(count)))


def _as_declared(name: str, types: dict[str, str], arguments: tuple[Any, ...]) -> list[Any]:
    """The arguments as the kernel declares them. CUDA takes their bytes as they are, whatever they were meant to be: so
    whole numbers are given their size, and TypeError if anything else is of another type, or an array not contiguous.
    """
    declared = []
    for parameter, value in zip(KERNELS[name].parameters.split(","), arguments, strict=True):
        kind = parameter.strip().removeprefix("const ").rpartition(" ")[0].removesuffix("*")
        dtype = np.dtype(types.get(kind) or _NUMPY_TYPES[kind])
        if isinstance(value, int):
            value = dtype.type(value)
        if value.dtype != dtype or not value.flags.c_contiguous:
            raise TypeError(f"{name}: {parameter.strip()} is a contiguous {dtype}, not {value.dtype} {value.strides}.")
        declared.append(value)
    return declared


_NUMPY_TYPES = {c_type: name for name, c_type in C_TYPES.items()}


def _sizes(shape: tuple[int, ...], geometry: Any) -> tuple[int, ...]:
    """source.GEOMETRY for images of this shape."""
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
