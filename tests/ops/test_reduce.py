"""sum, mean and amax over some or all dimensions."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from strategies import random_cases

from minifcn import Tensor, ops
from minifcn.autograd import gradcheck
from minifcn.errors import ShapeError

pytestmark = pytest.mark.usefixtures("device")

REDUCTIONS = [(ops.sum, np.sum), (ops.mean, np.mean), (ops.amax, np.amax)]


@st.composite
def reductions(draw):
    """Shape, dimensions (counted from either end), keepdim."""
    shape = draw(array_shapes(min_dims=0, max_dims=4, max_side=4))
    axes = st.integers(-len(shape), len(shape) - 1) if shape else st.nothing()
    several = st.lists(axes, unique_by=lambda axis: axis % len(shape)).map(tuple) if shape else st.just(())
    return shape, draw(st.none() | axes | several), draw(st.booleans())


@pytest.mark.parametrize(("operation", "reference"), REDUCTIONS)
@random_cases
@given(case=reductions(), seed=st.integers(0, 1000))
def test_values_and_gradients(operation, reference, case, seed):
    """A sum over the wrong axes, a mean's divisor, or a gradient not spread over what was summed."""
    shape, dim, keepdim = case
    # No ties and no near ties, for amax.
    values = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape) / 4.0
    x = Tensor(values, requires_grad=True)
    y = operation(x, dim, keepdim)
    assert_allclose(y.data, reference(values, axis=dim, keepdims=keepdim), rtol=1e-12)
    assert y.shape == np.sum(values, axis=dim, keepdims=keepdim).shape
    assert gradcheck(lambda x: operation(x, dim, keepdim), [x])


def test_equal_maxima_share_the_gradient():
    """All of it to each doubles the gradient."""
    x = Tensor(np.array([[3.0, 1.0, 3.0], [2.0, 2.0, 2.0]]), requires_grad=True)
    ops.amax(x, 1).backward(np.array([1.0, 6.0]))
    assert_array_equal(x.grad, [[0.5, 0, 0.5], [2, 2, 2]])


def test_methods_of_a_tensor():
    """x.mean() is the sum."""
    x = Tensor(np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert x.sum().item() == 12
    assert x.mean().item() == 3
    assert_array_equal(x.sum(0).data, [4, 8])
    assert_array_equal(x.mean(-1, keepdim=True).data, [[1.5], [4.5]])


@pytest.mark.parametrize("operation", [ops.sum, ops.mean, ops.amax])
@pytest.mark.parametrize("dim", [2, -3, (0, 0), (0, -2), (0, 5)])
def test_dimensions_that_are_not_there_are_refused(operation, dim):
    """A dimension taken twice divides a mean twice."""
    with pytest.raises(ShapeError, match=rf"{operation.__name__}: dim .* distinct dimensions of shape \(2, 3\)"):
        operation(Tensor(np.ones((2, 3))), dim)


def test_numbers_from_numpy_name_a_dimension():
    """np.argmax and friends return np.int64, which is no int."""
    assert_array_equal(ops.sum(Tensor(np.ones((2, 3))), np.int64(1)).data, [3, 3])


@pytest.mark.parametrize("operation", [ops.mean, ops.amax])
def test_the_mean_and_maximum_of_nothing_are_refused(operation):
    """NaN with a warning, or NumPy's zero-size message."""
    with pytest.raises(ShapeError, match=rf"{operation.__name__}: shape \(0, 3\) has no elements"):
        operation(Tensor(np.ones((0, 3))), 0)


def test_the_sum_of_nothing_is_zero():
    """An error where mathematics has an answer."""
    x = Tensor(np.ones((0, 3)), requires_grad=True)
    y = ops.sum(x, 0)
    y.backward(np.ones(3))
    assert_array_equal(y.data, np.zeros(3))
    assert x.grad.shape == (0, 3)
