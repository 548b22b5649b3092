"""What the random tests draw: geometries, and the settings of the machine under which each is computed.

`numpy.random` gives the numbers (from a seed that hypothesis draws and prints); hypothesis gives everything whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import minifcn.autograd.tensor
import minifcn.nn.module
import minifcn.ops.geometry
import minifcn.ops.shape
from minifcn import Tensor, backend, ops, threads
from minifcn.backend import Backend, get_backend
from minifcn.ops import blocks, large_weights, rows_route, winograd, winograd_filters, winograd_rows

# The same examples each time: a random test must not fail one day in a hundred in somebody else's pull request.
random_cases = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

Pair = tuple[int, int]


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@dataclass(frozen=True)
class Machine:
    """Block size and threads: they may change no result by more than rounding, so every random test draws them."""

    block_bytes: int = 2**20
    threads: int = 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Small blocks, so that a small test goes through the bands that a large image goes through."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "COLUMN_BLOCK_BYTES", self.block_bytes)
            patch.setattr(large_weights, "COLUMN_BLOCK_BYTES", self.block_bytes)
            patch.setattr(blocks, "SMALLEST_SPLIT_BYTES", 0)
            patch.setattr(rows_route, "ROW_BLOCK_BYTES", self.block_bytes)
            patch.setattr(winograd, "BAND_BYTES", self.block_bytes)
            patch.setattr(winograd_rows, "TILE_ROW_BYTES", self.block_bytes)
            patch.setattr(winograd, "FILTER_BYTES", self.block_bytes)
            patch.setattr(winograd, "SMALL_PRODUCT", self.block_bytes)
            patch.setattr(winograd_filters, "VALUE_BYTES", self.block_bytes)
            patch.setattr(winograd_filters, "SLAB_NUMBERS", self.block_bytes)
            patch.setattr(winograd_filters, "SMALLEST_BLOCK", min(16, 1 + self.block_bytes // 1500))
            patch.setattr(Backend, "array_block_bytes", self.block_bytes)
            patch.setattr(backend._GpuBackend, "array_block_bytes", self.block_bytes)
            patch.setattr(threads, "_thread_count", self.threads)
            yield


machines = st.builds(Machine, st.sampled_from([1, 1500, 2**20]), st.sampled_from([1, 2]))


@dataclass(frozen=True)
class ConvCase:
    """One call of conv2d or conv_transpose2d: shapes, geometry, machine, and the seed of the numbers."""

    x_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    bias_shape: tuple[int, ...] | None
    arguments: dict[str, Any]
    machine: Machine
    seed: int

    def arrays(self, dtype: Any = np.float64) -> list[np.ndarray | None]:
        """x, weight and bias (or None)."""
        generator = np.random.default_rng(self.seed)
        shapes = (self.x_shape, self.weight_shape, self.bias_shape)
        return [None if shape is None else generator.standard_normal(shape).astype(dtype) for shape in shapes]

    def tensors(self, dtype: Any = np.float64) -> list[Tensor | None]:
        return [None if array is None else Tensor(array, requires_grad=True) for array in self.arrays(dtype)]

    def backpropagated(self, dtype: Any = np.float64, **options: Any) -> list[np.ndarray]:
        """conv2d's output, and its gradients to x, weight and bias, for some gradient that is no constant."""
        tensors = self.tensors(dtype)
        y = ops.conv2d(*tensors, **self.arguments, **options)
        y.backward(np.cos(np.arange(y.size)).reshape(y.shape).astype(dtype))
        return [y.data, *(tensor.grad for tensor in tensors if tensor is not None)]

    def without_bias(self) -> "ConvCase":
        return replace(self, bias_shape=None)


@st.composite
def convolutions(draw: Any) -> ConvCase:
    """conv2d: stride, padding, dilation, groups, non-square, odd sizes, batch 1."""
    kernel, stride, dilation = draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(1, 3))
    padding, room = draw(pairs(0, 3)), draw(pairs(0, 5))
    # The smallest image in which the dilated kernel fits, and up to five pixels more.
    size = [max(1, d * (k - 1) + 1 - 2 * p) + r for k, d, p, r in zip(kernel, dilation, padding, room, strict=True)]
    groups, in_group, out_group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    return ConvCase(
        x_shape=(draw(st.integers(1, 3)), groups * in_group, *size),
        weight_shape=(groups * out_group, in_group, *kernel),
        bias_shape=(groups * out_group,) if draw(st.booleans()) else None,
        arguments={"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
        machine=draw(machines),
        seed=draw(st.integers(0, 2**16)),
    )


@st.composite
def small_convolutions(draw: Any) -> ConvCase:
    """conv2d with kernels of 3×3 and stride 1, which Winograd's way is for: any size, padding, number of channels."""
    padding = draw(pairs(0, 3))
    size = [max(1, 3 - 2 * p) + draw(st.integers(0, 11)) for p in padding]
    channels, out_channels = draw(pairs(1, 4))
    return ConvCase(
        x_shape=(draw(st.integers(1, 3)), channels, *size),
        weight_shape=(out_channels, channels, 3, 3),
        bias_shape=(out_channels,) if draw(st.booleans()) else None,
        arguments={"padding": padding},
        machine=draw(machines),
        seed=draw(st.integers(0, 2**16)),
    )


@st.composite
def transposed_convolutions(draw: Any) -> ConvCase:
    """conv_transpose2d: as conv2d, and output_padding up to max(stride, dilation) − 1."""
    kernel, stride, dilation, size = draw(pairs(1, 4)), draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(1, 5))
    extra, padding = [], []
    for k, s, d, n in zip(kernel, stride, dilation, size, strict=True):
        extra.append(draw(st.integers(0, max(s, d) - 1)))
        whole = (n - 1) * s + d * (k - 1) + 1 + extra[-1]
        padding.append(draw(st.integers(0, min(3, (whole - 1) // 2))))
    groups, in_group, out_group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    return ConvCase(
        x_shape=(draw(st.integers(1, 3)), groups * in_group, *size),
        weight_shape=(groups * in_group, out_group, *kernel),
        bias_shape=(groups * out_group,) if draw(st.booleans()) else None,
        arguments={
            "stride": stride,
            "padding": tuple(padding),
            "output_padding": tuple(extra),
            "dilation": dilation,
            "groups": groups,
        },
        machine=draw(machines),
        seed=draw(st.integers(0, 2**16)),
    )


@dataclass(frozen=True)
class PoolCase:
    """One call of max_pool2d. `kind` says what the numbers are like."""

    shape: tuple[int, ...]
    kernel_size: Pair
    arguments: dict[str, Any]
    kind: str
    seed: int

    def array(self, dtype: Any = np.float64) -> np.ndarray:
        """distinct: no ties, neighbours far apart; ties: few values; minus infinity: a quarter, or all; nan: some."""
        generator = np.random.default_rng(self.seed)
        if self.kind == "distinct":
            return generator.permutation(np.prod(self.shape)).reshape(self.shape).astype(dtype) / 8
        x = generator.integers(-2, 2, self.shape).astype(dtype)
        if self.kind == "ties":
            return x
        if self.kind == "all minus infinity":
            return np.full_like(x, -np.inf)
        x[generator.random(self.shape) < 0.25] = np.nan if self.kind == "nan" else -np.inf
        return x


@st.composite
def poolings(draw: Any, kinds: tuple[str, ...]) -> PoolCase:
    """max_pool2d: kernel, stride, padding up to half the kernel, ceil mode; every size in which a window fits."""
    kernel, ceil_mode = draw(pairs(1, 4)), draw(st.booleans())
    stride = draw(st.none() | pairs(1, 4))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = []
    for k, s, p in zip(kernel, stride or kernel, padding, strict=True):
        # With ceil mode the one window may hang over by up to stride − 1 pixels.
        smallest = max(1, k - 2 * p - (s - 1 if ceil_mode else 0))
        size.append(smallest + draw(st.integers(0, 6)))
    return PoolCase(
        shape=(draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size),
        kernel_size=kernel,
        arguments={"stride": stride, "padding": padding, "ceil_mode": ceil_mode},
        kind=draw(st.sampled_from(kinds)),
        seed=draw(st.integers(0, 2**16)),
    )


@contextmanager
def second_device() -> Iterator[str]:
    """A second device, "other", whose arrays are NumPy's too: enough to see who mixes devices, without a GPU."""
    other = Backend("other", np, scipy.sparse)

    def find(device: str = "cpu") -> Backend:
        return other if device == "other" else get_backend(device)

    with pytest.MonkeyPatch.context() as patch:
        for module in (minifcn.autograd.tensor, minifcn.ops.geometry, minifcn.ops.shape, minifcn.nn.module):
            patch.setattr(module, "get_backend", find)
        yield "other"


def seeded(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Tensor:
    """Normal random numbers that require a gradient."""
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)
