"""The seam between the mathematics and the machine: one object that says where arrays live.

Every operation is written once, against `backend.xp`, which is NumPy on the CPU and CuPy on a GPU. A backend is found
by its device's name, once per operation, in `Function.apply`; no operation asks again which device it runs on.
"""

import ctypes
import functools
import math
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import scipy.sparse

from minifcn import gpu
from minifcn.errors import DeviceError, MinifcnError, OutOfMemoryError, UsageError
from minifcn.kernels import DeviceKernels
from minifcn.threads import get_threads, map_on_threads

Array = Any  # an array of some backend: numpy.ndarray or cupy.ndarray
Item = TypeVar("Item")
Result = TypeVar("Result")
Computation = TypeVar("Computation", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Backend:
    """Where arrays live, and the modules that compute with them.

    `xp` has NumPy's interface, `sparse` that of scipy.sparse. Backends are made by `get_backend`, one for each
    device, so two backends are the same device exactly if they are the same object.
    """

    name: str
    xp: ModuleType
    sparse: ModuleType

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """`array` as an array of this device; copied only if it lives elsewhere or has another dtype."""
        return self.xp.asarray(array, dtype=dtype)

    def to_numpy(self, array: Array) -> np.ndarray:
        """`array` as a NumPy array on the host; on the CPU this is the array itself."""
        return np.asarray(array)

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        """Begin to copy a host array here, in any thread; what is returned gives the copy to whoever computes with it.

        A GPU goes on computing meanwhile. On the CPU it is the array itself.
        """
        return lambda: array

    def synchronize(self) -> None:
        """Wait until everything asked of this device is done (for timing); the CPU is never behind."""

    @functools.cached_property
    def kernels(self) -> DeviceKernels | None:
        """What takes the place of functions marked `@with_kernel`: nothing on the CPU."""
        return None

    def describe(self) -> dict[str, Any]:
        """What a report has to say of the device; see gpu.describe for that of a GPU."""
        return {"device": self.name, "threads": self.workers, "precision": "float32"}

    def limit_memory(self, size: int) -> None:
        """Use at most `size` bytes of a GPU's memory for arrays; UsageError on the CPU, which nothing limits."""
        raise UsageError(
            "--gpu-memory-limit: is for a GPU, but the device is the CPU; add --device gpu, or leave it out."
        )

    def explain(self, error: Exception, what: str, inputs: Sequence[int] = ()) -> None:
        """Raise what an error of this device means, in words that a user can act on; return if it speaks for itself.

        what: the operation that failed, with its shapes. inputs: id() of each tensor that it was given.
        """
        if isinstance(error, MemoryError) and not isinstance(error, MinifcnError):
            raise OutOfMemoryError(what, str(error), inputs) from error

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of any contents, whose memory the next call with this name, in the same thread, gives out again.

        For what lives within one block of an operation and is never returned. Fresh memory of this size comes from the
        operating system page by page, which can take longer than filling it.
        """
        buffers = vars(_scratch).setdefault("buffers", {})
        memory, arrays = buffers.get(name, (None, {}))
        array = arrays.get((shape, dtype))
        if array is None:
            count = math.prod(shape) * np.dtype(dtype).itemsize
            if memory is None or memory.nbytes < count or len(arrays) > 100:
                memory = np.empty(count + 63, np.uint8)  # from a cache line on, and what was given out of it
                buffers[name] = memory, arrays = memory[-memory.ctypes.data % 64 :], {}
            array = arrays[shape, dtype] = memory[:count].view(dtype).reshape(shape)
        return array

    def strided_view(self, array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
        """The numbers of a contiguous array in another shape, some of them several times; strides are in bytes."""
        return np.ndarray(shape, array.dtype, array, 0, strides)  # as_strided does the same, in ten times the time

    def sparse_times_rows(self, matrix: Any, rows: Array) -> Array:
        """matrix · row for each row: a sparse (M, K) and a dense (R, K) give (R, M).

        One row at a time: the row and its result then stay in the cache, which a single product with all rows as
        columns does not manage (each entry of the matrix would touch one number in each of R distant rows).
        """
        return np.stack([matrix @ row for row in rows]) if len(rows) else np.empty((0, matrix.shape[0]), rows.dtype)

    def shared_diagonal(self, weight: Array) -> Array | None:
        """The kernel w of a weight (C, C, kh, kw) that treats each channel by itself, all alike, as bilinear upsampling
        does: w_cd = w if c = d, else 0. None for any other weight.
        """
        if weight.shape[0] != weight.shape[1]:
            return None
        diagonal = weight[np.arange(len(weight)), np.arange(len(weight))]  # (C, kh, kw)
        alike = (diagonal == diagonal[0]).all() and np.count_nonzero(weight) == np.count_nonzero(diagonal)
        return diagonal[0].copy() if alike else None

    def any(self, mask: Array) -> bool:
        """Whether there is work to do where the mask is true. A GPU says yes without looking: that would be to wait."""
        return bool(mask.any())

    def sum_by_label(self, values: Array, labels: Array, count: int) -> Array:
        """The sum of the values that have each label 0 … count − 1: two arrays of one shape give (count,), float64."""
        return np.bincount(labels.ravel(), values.ravel(), count)

    @property
    def workers(self) -> int:
        """How many items `map` works on at a time."""
        return get_threads()

    @property
    def array_block_bytes(self) -> int:
        """How much of an array to work on at a time, where it is read and written several times: what a cache holds.

        Convolutions bound what they make of one: COLUMN_BLOCK_BYTES, ROW_BLOCK_BYTES, TILE_ROW_BYTES, BAND_BYTES.
        """
        return 2**21

    def channel_blocks(self, x: Array) -> list[slice]:
        """The channels of x (N, C, …) in blocks of that size, at least one for each worker: items for `map`."""
        channels = x.shape[1]
        most = max(1, self.array_block_bytes // max(1, x.nbytes // max(1, channels)))
        width = max(1, min(most, -(-channels // self.workers)))
        return [slice(first, min(first + width, channels)) for first in range(0, channels, width)]

    def ranges(self, length: int, itemsize: int) -> list[slice]:
        """range(length) in slices of that size, one for each worker at least, none tiny: items for `map`."""
        step = max(1, min(self.array_block_bytes // itemsize, max(2**14, -(-length // self.workers))))
        return [slice(first, min(first + step, length)) for first in range(0, length, step)]

    @property
    def budget_bytes(self) -> int:
        """The most that one temporary array of an operation may take, for each worker; see `set_budget`."""
        return _budget_bytes or 64 * 2**20

    @property
    def winograd(self) -> bool:
        """Whether convolutions gain from Winograd's fewer multiplications here."""
        return True

    @property
    def large_products(self) -> bool:
        """Whether one large product is always better here than several small ones, even if it needs more copying."""
        return False

    @property
    def phases(self) -> bool:
        """Whether convolutions with a stride gain from being dealt out to phases here."""
        return True

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], *, large: bool = False) -> list[Result]:
        """`[function(item) for item in items]`, spread over the CPU's threads; results in the order of the items.

        NumPy releases the interpreter's lock in copies and products, so blocks of one convolution run side by side.
        Meanwhile BLAS is held to one thread: its own threads would keep spinning for a while after each product, on
        the cores that the workers need. A single item whose products are `large` gets all of BLAS's threads instead.
        Operations are to be called from one Python thread at a time.
        """
        items = list(items)
        if self.workers == 1 or (large and len(items) == 1):
            return [function(item) for item in items]
        return map_on_threads(function, items, self.workers)


class _GpuBackend(Backend):
    """CuPy in NumPy's place."""

    @functools.cached_property
    def kernels(self) -> DeviceKernels | None:
        return DeviceKernels(self.xp)

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        try:
            return super().asarray(array, dtype)
        except Exception as error:
            self.explain(error, f"copying an array of {np.shape(array)} to the device")
            raise

    @functools.cached_property
    def _copying(self) -> Any:
        """The stream of uploads. (A non-blocking one: the default stream waits for no other, nor they for it.)"""
        with self._in_use():
            return self.xp.cuda.Stream(non_blocking=True)

    def _in_use(self) -> Any:
        """This device as the current one, which every thread has to choose for itself."""
        return self.xp.cuda.Device(gpu.number_of(self.name))

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        # asarray copies by way of page-locked ("pinned") memory of CuPy's, from which alone the host need not wait for
        # the copy, and which CuPy keeps until it is done. CuPy's memory belongs to the stream in which it was made, and
        # is given out again in that stream's order, whatever others still do with it. So whoever computes gets a second
        # copy, made in his stream once the first is there, and the stream of uploads goes on only after that.
        copying = self._copying
        with self._in_use(), copying:
            staged = self.asarray(array)
            copied = copying.record()

        def take() -> Array:
            computing = self.xp.cuda.get_current_stream()
            computing.wait_event(copied)
            uploaded = staged.copy()
            copying.wait_event(computing.record())
            return uploaded

        return take

    def to_numpy(self, array: Array) -> np.ndarray:
        try:
            return self.xp.asnumpy(array)
        except Exception as error:  # of this, or of anything asked of the device before: it answers when waited for
            self.explain(error, f"waiting for an array of {array.shape}")
            raise

    def synchronize(self) -> None:
        try:
            self.xp.cuda.get_current_stream().synchronize()
        except Exception as error:
            self.explain(error, "waiting for the device")
            raise

    def describe(self) -> dict[str, Any]:
        return gpu.describe(self.xp, self.name)

    def explain(self, error: Exception, what: str, inputs: Sequence[int] = ()) -> None:
        gpu.explain(self.xp, self.name, error, what, inputs)

    def limit_memory(self, size: int) -> None:
        # For arrays: workspaces of cuBLAS and the kernels themselves come on top.
        self.xp.get_default_memory_pool().set_limit(size=size)

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype)  # CuPy's memory pool gives out the same memory again

    def strided_view(self, array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
        return self.xp.lib.stride_tricks.as_strided(array, shape, strides)

    def any(self, mask: Array) -> bool:
        return True

    def shared_diagonal(self, weight: Array) -> Array | None:
        return None  # finding out would wait for the device

    def sparse_times_rows(self, matrix: Any, rows: Array) -> Array:
        if self.kernels is None:
            return super().sparse_times_rows(matrix, rows)
        return self.kernels.sparse_times_rows(matrix, rows)  # cuSPARSE's own may differ from run to run

    def sum_by_label(self, values: Array, labels: Array, count: int) -> Array:
        # Label by label: bincount adds by atomics, in another order each time.
        sums = [self.xp.where(labels == label, values, 0).sum(dtype=np.float64) for label in range(count)]
        return self.xp.stack(sums)

    @property
    def workers(self) -> int:
        return 1  # the device is parallel within one item

    @property
    def winograd(self) -> bool:
        return gpu.precision() == "float32"  # batched products, as Winograd's, know no TF32, and plain ones do

    @property
    def large_products(self) -> bool:
        return True

    @property
    def phases(self) -> bool:
        return False  # not measured on a GPU; dealing out costs the start of a kernel for each phase

    @property
    def array_block_bytes(self) -> int:
        return 2**62  # everything at once: each block would cost the start of a kernel

    @property
    def budget_bytes(self) -> int:
        # A product of so many bytes of columns keeps a card busy; of a small memory an eighth leaves room for the rest.
        memory = self.xp.get_default_memory_pool().get_limit() or self._total_bytes
        return _budget_bytes or max(2**20, min(2**27, memory // 8))

    @functools.cached_property
    def _total_bytes(self) -> int:
        return self.xp.cuda.runtime.getDeviceProperties(gpu.number_of(self.name))["totalGlobalMem"]

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], *, large: bool = False) -> list[Result]:
        return [function(item) for item in items]


def with_kernel(function: Computation) -> Computation:
    """Marks a function of a backend and arrays that a device may have as a kernel of its own, launched in its place.

    The function says what is computed, in array expressions that run on every device; the kernel is a method of its
    name in `backend.kernels` (kernels/device.py), with the same arguments but the backend.
    """

    @functools.wraps(function)
    def compute(backend: Backend, *arguments: Any, **options: Any) -> Any:
        if backend.kernels is None:
            return function(backend, *arguments, **options)
        return getattr(backend.kernels, function.__name__)(*arguments, **options)

    return compute  # type: ignore[return-value]


def get_backend(device: str = "cpu") -> Backend:
    """The backend of "cpu", "gpu" (the first CUDA device) or "gpu:N".

    Raises DeviceError if the device does not answer, saying what was probed and how to mend it. There is no silent
    fall-back from a GPU to the CPU.
    """
    return _find_backend("gpu" if device == "gpu:0" else device)  # one device, one object


@functools.cache
def _find_backend(device: str) -> Backend:
    if device == "cpu":
        return Backend("cpu", np, scipy.sparse)
    if re.fullmatch(r"gpu(:\d+)?", str(device)):
        return _open_gpu(device)
    raise DeviceError(f'device {device!r} is not known; use "cpu", "gpu" or "gpu:N" (N counts CUDA devices from 0).')


def _open_gpu(device: str) -> Backend:
    cupy, sparse = gpu.open_cupy(device)
    gpu.check_precision(cupy, device)
    return _GpuBackend(device, cupy, sparse)


def choose_device(device: str) -> tuple[str, str]:
    """What "auto" means here, the first GPU or else the CPU, and why; any other name is left as it is.

    It is the one way to say that the CPU will do as well; whoever says "gpu" gets an error where there is none.
    """
    if device != "auto":
        return device, "as asked for"
    try:
        get_backend("gpu")
    except DeviceError as error:
        return "cpu", str(error).removeprefix("--device gpu: ").removesuffix(f", {gpu.ELSE_CPU}.")
    return "gpu", "a CUDA device answers"


_budget_bytes: int | None = None
_scratch = threading.local()


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed arrays for the next ones, where the C library is glibc.

    By default it goes back to the operating system, and each step of training gets it again page by page: about a
    tenth of a step's time for small networks. For commands, to which the whole process belongs.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**25)  # the largest that it takes


def set_budget(bytes_per_worker: int) -> None:
    """The most that one temporary array of an operation may take, for each worker: until this says otherwise, 64 MiB,
    and on a GPU, which has one worker, and whose products are to be large, 128 MiB, or an eighth of the memory that it
    has or that `limit_memory` leaves it, if that is less.

    A convolution is cut into so many blocks that their columns keep to it; but one row of output pixels, or one image
    of a transposed convolution, is the least that a block has. Raises UsageError below 1 MiB.
    """
    global _budget_bytes
    if not isinstance(bytes_per_worker, int) or bytes_per_worker < 2**20:
        raise UsageError(
            f"set_budget: a whole number of bytes is needed, 1 MiB (2**20) at least, not {bytes_per_worker}."
        )
    _budget_bytes = bytes_per_worker
