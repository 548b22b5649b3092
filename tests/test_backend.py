"""The seam between mathematics and machine: devices, threads, and what is said when a device is not there."""

import os
import sys
import threading
import time
import types

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from strategies import seeded
from threadpoolctl import threadpool_info

from minifcn import Tensor, backend, ops
from minifcn.backend import get_backend, get_threads, set_threads
from minifcn.errors import DeviceError, UsageError


@pytest.fixture
def threads():
    """Whatever a test sets, the tests after it have the number from before."""
    before = get_threads()
    yield
    set_threads(before)


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


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


@pytest.mark.parametrize("rows", [1, 5])
def test_a_sparse_matrix_times_each_row(rows):
    """The transpose of the right answer has the right shape when everything is square."""
    generator = np.random.default_rng(0)
    matrix, dense = generator.standard_normal((4, 3)), generator.standard_normal((rows, 3))
    product = get_backend("cpu").sparse_times_rows(scipy.sparse.csr_matrix(matrix), dense)
    assert_allclose(product, dense @ matrix.T)


def test_map_keeps_the_order_of_the_items(threads):
    """Results in the order in which threads finish."""
    started = threading.Barrier(2, timeout=10)

    def work(item):
        if item < 2:
            started.wait()  # both at once, or never: the items really run side by side
        return item * item

    set_threads(2)
    assert get_backend("cpu").map(work, range(20)) == [item * item for item in range(20)]


@pytest.mark.parametrize("count", [1, 2])
def test_an_exception_in_a_thread_reaches_the_caller(threads, count):
    """Swallowed by the pool, and a part of the output never written; BLAS left at one thread."""
    set_threads(count)
    before = blas_threads()

    def work(item):
        raise KeyError(item)

    with pytest.raises(KeyError):
        get_backend("cpu").map(work, range(4))
    assert blas_threads() == before
    assert get_backend("cpu").map(str, range(3)) == ["0", "1", "2"]


def test_nothing_to_do_is_done_at_once(threads):
    """An empty batch, for which the caller waits forever: nobody finishes its last item."""
    set_threads(2)
    assert get_backend("cpu").map(str, []) == []


def test_another_number_of_threads_ends_the_helpers_of_the_old_one(threads):
    """A notebook that compares numbers of threads collects them all."""
    for count in (3, 4, 2):
        set_threads(count)
        get_backend("cpu").map(str, range(8))
    for _ in range(1000):  # each ends when it wakes up
        helpers = [thread for thread in threading.enumerate() if thread.name.startswith("minifcn-")]
        if len(helpers) == 1:
            break
        time.sleep(0.01)
    assert len(helpers) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_process_makes_threads_of_its_own(threads):
    """It has no thread but the one that forked, and would wait forever for the helpers of its parent."""
    set_threads(2)
    get_backend("cpu").map(str, range(2))
    child = os.fork()
    if child == 0:
        started = threading.Barrier(2, timeout=10)
        code = 1
        try:
            get_backend("cpu").map(lambda _: started.wait(), range(2))
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_blas_is_held_to_one_thread_for_each_worker_while_they_work(threads):
    """Two workers with two BLAS threads each on two cores: twice as slow."""
    set_threads(2)
    inside = get_backend("cpu").map(lambda _: blas_threads(), range(4))
    assert inside == [{1}] * 4
    assert blas_threads() == {2}


def test_threads_can_be_set(threads):
    """--threads that changes one pool and not the other."""
    for count in (1, 2):
        set_threads(count)
        assert get_threads() == count
        assert get_backend("cpu").workers == count
        assert blas_threads() == {count}


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_thread_is_refused(threads, count):
    """A pool without workers waits for ever."""
    with pytest.raises(UsageError, match=f"--threads {count}: at least 1 is needed"):
        set_threads(count)


def test_the_number_of_threads_follows_the_environment(monkeypatch):
    """OMP_NUM_THREADS=1 in a container of one core, and a pool of 64 threads."""
    monkeypatch.setattr(backend, "_thread_count", None)
    assert get_threads() <= max(blas_threads())
    assert get_threads() >= 1


def test_results_hardly_depend_on_the_number_of_threads(threads):
    """Blocks that overlap or leave a gap when there are two workers; sums may differ by rounding."""
    results = []
    for count in (1, 2, 2):
        set_threads(count)
        x, weight = seeded(2, 16, 40, 40, dtype=np.float32), seeded(16, 16, 3, 3, dtype=np.float32)
        y = ops.conv_transpose2d(ops.conv2d(x, weight, padding=1), weight, stride=2)
        y.backward(np.sin(y.data))
        results.append([y.data, x.grad, weight.grad])
    for one, two, again in zip(*results, strict=True):
        assert_array_equal(two, again)
        assert_allclose(one, two, rtol=1e-3, atol=1e-5 * np.abs(one).max())


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
