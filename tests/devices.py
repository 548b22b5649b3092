"""The devices that the tests run on: the CPU, the fake GPU of `fake_cupy`, and, under `-m gpu`, a real one.

Most tests say nothing of devices: they make tensors, networks and runs where these are made if nobody says otherwise.
`by_default` makes that another device. The library itself always says where (tests/test_gpu.py reads its source for
that), so it does not notice. Results come to the host explicitly, in the assertions of this module, which are to be
imported in place of numpy.testing's.
"""

import functools
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fake_cupy
import numpy as np
import numpy.testing
import pytest
from fake_cupy import cuda_on_cpu
from hypothesis import settings

import minifcn.autograd.tensor
import minifcn.nn.module
import minifcn.ops.geometry
import minifcn.prediction
import minifcn.training
import minifcn.training.cross_validation
import minifcn.training.evaluation
import minifcn.training.run
from minifcn import backend
from minifcn.backend import Backend, get_backend
from minifcn.errors import DeviceError

CPU, FAKE, GPU = "cpu", "fake-gpu", "gpu"
everywhere = [CPU, FAKE, pytest.param(GPU, marks=pytest.mark.gpu)]

# Whatever has a parameter `device` with a default.
_CHOOSING = [
    minifcn.autograd.tensor.Tensor.__init__,
    minifcn.nn.module.Parameter.__init__,
    minifcn.ops.geometry.patch_matrix,
    minifcn.training.cross_validation.cross_validate,
    minifcn.training.evaluation.evaluate,
    minifcn.prediction.label_pixels,
    minifcn.training.evaluation.load_segmenter,
    minifcn.training.evaluation.predict_labels,
    minifcn.training.evaluation.worst_sheet,
    minifcn.training.loop.train,
    minifcn.training.run.Run.__init__,
]


@functools.cache
def why_no_gpu() -> str:
    """Why nothing can be run on a real GPU here; empty if one answers."""
    try:
        return "the fake device stands in its place" if _is_fake(get_backend("gpu")) else ""
    except DeviceError as error:
        return str(error)


def _is_fake(one: Backend) -> bool:
    return "fake" in one.xp.__version__


@contextmanager
def fake_gpu() -> Iterator[Backend]:
    """Within, "gpu" is the fake device, opened by the library's own code; and is forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in fake_cupy.modules().items():
            patch.setitem(sys.modules, name, module)
        find, opened = backend._find_backend, {}

        def find_gpu(device: str) -> Backend:
            if not str(device).startswith("gpu"):
                return find(device)
            if device not in opened:
                opened[device] = backend._open_gpu(device)
            return opened[device]

        patch.setattr(backend, "_find_backend", find_gpu)
        if cuda_on_cpu.compiler() is None:  # then the functions that the kernels stand in for (see test_kernels.py)
            patch.setattr(backend._GpuBackend, "kernels", None)
        patch.setattr(fake_cupy.card, "fault", None)
        patch.setattr(fake_cupy.card, "limit", 0)
        yield get_backend("gpu")


@contextmanager
def by_default(device: str) -> Iterator[str]:
    """Within, everything is made on `device` where nobody says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        for function in _CHOOSING:
            if function.__kwdefaults__ and "device" in function.__kwdefaults__:
                patch.setitem(function.__kwdefaults__, "device", device)
            else:
                names = [p.name for p in inspect.signature(function).parameters.values() if p.default is not p.empty]
                values = list(function.__defaults__)
                values[names.index("device")] = device
                patch.setattr(function, "__defaults__", tuple(values))
        yield device


@contextmanager
def fewer_examples(test: Any, count: int = 5) -> Iterator[None]:
    """Random cases are for the CPU: the fake is slower, and asks other questions, which a few examples answer."""
    before = getattr(test, "_hypothesis_internal_use_settings", None)
    if before is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test, "_hypothesis_internal_use_settings", settings(before, max_examples=count))
        yield


def to_host(value: Any) -> Any:
    """A NumPy array of a device array or a Tensor, explicitly; anything else as it is."""
    if isinstance(value, minifcn.autograd.tensor.Tensor):
        return value.numpy()
    if isinstance(value, list | tuple):
        return [to_host(one) for one in value]
    if isinstance(value, dict):
        return {key: to_host(one) for key, one in value.items()}
    return value.get() if hasattr(value, "get") and hasattr(value, "dtype") else value


def assert_array_equal(actual: Any, desired: Any, *arguments: Any, **options: Any) -> None:
    """numpy.testing's, of arrays of any device."""
    numpy.testing.assert_array_equal(to_host(actual), to_host(desired), *arguments, **options)


def assert_allclose(actual: Any, desired: Any, *arguments: Any, **options: Any) -> None:
    """numpy.testing's, of arrays of any device."""
    numpy.testing.assert_allclose(to_host(actual), to_host(desired), *arguments, **options)


def default_backend() -> Backend:
    """The backend of what is made where nobody says otherwise."""
    return get_backend(minifcn.autograd.tensor.Tensor.__init__.__kwdefaults__["device"])


def device_in_use() -> str:
    """The name among those above of where things are made where nobody says otherwise."""
    return FAKE if _is_fake(default_backend()) else default_backend().name


def on_device(array: Any) -> Any:
    """A raw array (or a list of numbers) on the default device; None stays None."""
    return None if array is None else default_backend().asarray(array)


def freeze(array: Any) -> None:
    """Whoever writes into `array` from now on is found out: on the CPU only, GPUs know no read-only arrays.

    The fake does, which CuPy does not, to the same end.
    """
    memory = getattr(array, "_memory", array)
    if isinstance(memory, np.ndarray):
        memory.flags.writeable = False


def shares_memory(one: Any, other: Any) -> bool:
    """np.shares_memory; on a real GPU, which cannot tell, False."""
    first, second = (getattr(array, "_memory", array) for array in (one, other))
    return isinstance(first, np.ndarray) and np.shares_memory(first, second)
