"""The seam between mathematics and machine: devices, and what is said when one is not there."""

import sys
import threading
import types

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose

from minifcn import Tensor, backend
from minifcn.backend import get_backend
from minifcn.errors import DeviceError


def test_the_cpu_is_numpy_and_scipy():
    """Two backends of one device would be taken for two devices."""
    cpu = get_backend("cpu")
    assert (cpu.name, cpu.xp, cpu.sparse) == ("cpu", np, scipy.sparse)
    assert get_backend("cpu") is cpu
    assert get_backend() is cpu
    assert get_backend(device="cpu") is cpu
    array = np.ones(3)
    assert cpu.asarray(array) is array
    assert cpu.to_numpy(array) is array
    assert cpu.asarray(array, np.float32).dtype == np.float32
    assert cpu.synchronize() is None


def test_scratch_memory_is_given_out_again_from_a_cache_lines_beginning(monkeypatch):
    """Too few bytes once its beginning is cut off, or an array of the memory that a larger one has replaced."""
    monkeypatch.setattr(backend, "_scratch", threading.local())
    cpu, begins = get_backend("cpu"), []
    for count in (1, 1001, 40_000, 3, 1001):
        array = cpu.scratch("test", (count, 3), np.float32)
        assert (array.shape, array.dtype) == ((count, 3), np.float32)
        assert array.ctypes.data % 64 == 0
        array[...] = count
        begins.append(array.ctypes.data)
        assert cpu.scratch("test", (count, 3), np.float32) is array
    assert begins[2] == begins[3] == begins[4] != begins[1]  # the memory has grown, for the second 1001, too
    assert cpu.scratch("another", (1,), np.float64).ctypes.data not in begins


@pytest.mark.parametrize("rows", [1, 5])
def test_a_sparse_matrix_times_each_row(rows):
    """The transpose of the right answer has the right shape when everything is square."""
    generator = np.random.default_rng(0)
    matrix, dense = generator.standard_normal((4, 3)), generator.standard_normal((rows, 3))
    product = get_backend("cpu").sparse_times_rows(scipy.sparse.csr_matrix(matrix), dense)
    assert_allclose(product, dense @ matrix.T)


def fake_cupy(*, devices=1, broken=None):
    """What get_backend asks of CuPy before it trusts a device."""
    cupy = types.ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.used = []

    def count():
        if broken:
            raise RuntimeError(broken)
        return devices

    cupy.arange = np.arange
    cupy.ndarray = np.ndarray
    cupy.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=count),
        Device=lambda number: types.SimpleNamespace(use=lambda: cupy.used.append(number)),
    )
    modules = {"cupy": cupy}
    for name in ("cupyx", "cupyx.scipy", "cupyx.scipy.sparse"):
        modules[name] = types.ModuleType(name)
    modules["cupyx"].scipy = modules["cupyx.scipy"]
    modules["cupyx.scipy"].sparse = modules["cupyx.scipy.sparse"]
    return modules


@pytest.fixture
def plug(monkeypatch):
    """Put modules in CuPy's place, and forget the backends found with them."""

    def put(modules):
        backend._find_backend.cache_clear()
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    # The CPU's backend must stay the same object, or tensors from before would be on another device.
    cpu = get_backend("cpu")
    honest = backend.Backend
    monkeypatch.setattr(backend, "Backend", lambda *arguments: cpu if arguments[0] == "cpu" else honest(*arguments))
    yield put
    backend._find_backend.cache_clear()
    get_backend("cpu")


@pytest.mark.parametrize("device", ["gpu", "gpu:1"])
def test_without_cupy_the_error_says_how_to_install_it(plug, device):
    """A silent fall-back to the CPU: hours later somebody wonders."""
    plug({"cupy": None})
    with pytest.raises(
        DeviceError, match=rf"--device {device}: CuPy cannot be imported .*pip install .*gpu-cuda1[23]"
    ) as caught:
        get_backend(device)
    assert caught.value.exit_code == 2
    with pytest.raises(DeviceError):  # and again: a failure is not remembered as a success
        Tensor([1.0], device=device)


def test_cupy_without_a_driver(plug):
    """CuPy imports without any GPU, so that importing it proves nothing."""
    plug(fake_cupy(broken="cudaErrorInsufficientDriver"))
    with pytest.raises(DeviceError, match=r"CuPy 14.2.0 is installed, but no CUDA device answers \(cudaErrorInsuff"):
        get_backend("gpu")


def test_a_device_number_that_is_not_there(plug):
    """An error deep inside the first kernel."""
    plug(fake_cupy(devices=2))
    with pytest.raises(DeviceError, match=r"--device gpu:2: CuPy sees 2 CUDA device\(s\), numbered from 0"):
        get_backend("gpu:2")


def test_no_device_at_all(plug):
    """A count of zero is an answer too."""
    plug(fake_cupy(devices=0))
    with pytest.raises(DeviceError, match=r"sees 0 CUDA device\(s\)"):
        get_backend("gpu")


def test_one_device_under_two_names_is_one_device(plug):
    """A model on "gpu" and pictures on "gpu:0" would be refused as a mix of devices."""
    modules = fake_cupy(devices=2)
    plug(modules)
    assert get_backend("gpu") is get_backend("gpu:0")
    assert get_backend("gpu:1") is not get_backend("gpu")
    assert get_backend("gpu:1").name == "gpu:1"
    assert get_backend("gpu").workers == 1
    assert get_backend("gpu").map(str, [1, 2]) == ["1", "2"]
    assert modules["cupy"].used == [0, 1]
