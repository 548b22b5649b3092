"""Tensor: what it holds, how it prints, and what it refuses."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from strategies import second_device

from minifcn import Tensor, no_grad
from minifcn.errors import DeviceError, DtypeError, ShapeError


def test_what_a_tensor_shows():
    """Properties that go to the wrong attribute of the array."""
    x = Tensor(np.zeros((2, 3), np.float32))
    assert (x.shape, x.dtype, x.ndim, x.size, len(x), x.device) == ((2, 3), np.float32, 2, 6, 2, "cpu")
    assert x.grad is None
    assert not x.requires_grad


def test_data_are_not_copied_without_need():
    """A copy of each batch and each weight."""
    array = np.ones(3)
    assert Tensor(array).data is array
    assert Tensor(array).numpy() is array
    assert Tensor(Tensor(array)).data is array
    assert Tensor(array).detach().data is array


def test_detached_data_have_no_history():
    """A target computed from the network that then trains through itself."""
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * 2.0).detach()
    assert not y.requires_grad
    z = (x * y).sum()
    z.backward()
    assert_array_equal(x.grad, [2, 4])


def test_item_is_a_python_number():
    """A NumPy scalar, or the first of many elements."""
    assert type(Tensor([[2.5]]).item()) is float
    with pytest.raises(ShapeError, match=r"item: the tensor has shape \(2,\)"):
        Tensor([1.0, 2.0]).item()


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, bool])
def test_only_floats_can_require_a_gradient(dtype):
    """A weight of whole numbers that never learns."""
    with pytest.raises(DtypeError, match=f"only float32 and float64 can have a gradient, not {np.dtype(dtype)}"):
        Tensor(np.ones(3, dtype), requires_grad=True)
    assert Tensor(np.ones(3, dtype)).dtype == dtype  # without a gradient, any


def test_the_representation_says_where_it_comes_from():
    """A page of numbers without the one thing that is asked for when debugging."""
    x = Tensor([1.0], requires_grad=True)
    assert repr(Tensor([1.0])) == "Tensor(array([1.]))"
    assert repr(x) == "Tensor(array([1.]), requires_grad=True)"
    assert repr(x + x) == "Tensor(array([2.]), made by Add)"
    with second_device() as device:
        assert repr(Tensor([1.0], device=device)) == "Tensor(array([1.]), device='other')"


@pytest.mark.parametrize("device", ["cuda", "GPU", "gpu:", "gpu:x", "gpu:-1", "", 0, None])
def test_an_unknown_device_is_refused(device):
    """PyTorch's name for it, a typing mistake, a number: never a silent fall-back to the CPU."""
    with pytest.raises(DeviceError, match='is not known; use "cpu", "gpu" or "gpu:N"'):
        Tensor([1.0], device=device)


def test_data_of_another_device_are_brought_here():
    """A Tensor made of a Tensor takes its device's array as it is."""
    with second_device() as device:
        there = Tensor([1.0], device=device)
        assert Tensor(there).device == "cpu"
        assert Tensor(there, device=device).data is there.data


def test_nothing_is_recorded_in_no_grad():
    """Prediction that keeps every activation of the network."""
    x = Tensor([1.0], requires_grad=True)
    with no_grad():
        y = x * 2.0
    assert y.node is None
    assert not y.requires_grad
    assert (x * 2.0).requires_grad


def test_no_grad_ends_where_it_began():
    """An inner no_grad, or an exception, that switches recording on or leaves it off."""
    x = Tensor([1.0], requires_grad=True)

    def fail():
        with no_grad():
            raise KeyError

    with no_grad():
        with no_grad():
            pass
        assert not (x * 2.0).requires_grad
        with pytest.raises(KeyError):
            fail()
        assert not (x * 2.0).requires_grad
    with pytest.raises(KeyError):
        fail()
    assert (x * 2.0).requires_grad


def test_no_grad_is_each_threads_own():
    """A prediction in one thread stops the training in another."""
    x, recorded = Tensor([1.0], requires_grad=True), []
    with no_grad():
        thread = threading.Thread(target=lambda: recorded.append((x * 2.0).requires_grad))
        thread.start()
        thread.join()
    assert recorded == [True]


def test_no_grad_decorates_a_function():
    """An evaluation function that works once and then records."""

    @no_grad()
    def double(x):
        return x * 2.0

    x = Tensor([1.0], requires_grad=True)
    assert [double(x).requires_grad for _ in range(3)] == [False] * 3
