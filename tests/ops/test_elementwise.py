"""Elementwise operations: gradients under broadcasting, and what float32 and mixed inputs become."""

import math

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes
from strategies import random_cases

from minifcn import Tensor, ops
from minifcn.autograd import gradcheck
from minifcn.errors import DtypeError, ShapeError

pytestmark = pytest.mark.usefixtures("device")

BINARY = [ops.add, ops.subtract, ops.multiply, ops.divide]
UNARY = [
    (ops.negative, lambda v: -v),
    (ops.exp, math.exp),
    (ops.log, math.log),
    (ops.tanh, math.tanh),
    (ops.sigmoid, lambda v: 1 / (1 + math.exp(-v))),
    (ops.relu, lambda v: max(v, 0.0)),
    (lambda x: ops.pow(x, 3), lambda v: v**3),
    (lambda x: ops.pow(x, -0.5), lambda v: v**-0.5),
    (lambda x: ops.pow(x, 0), lambda v: 1.0),
]


def positive(shape, seed):
    """Numbers between 1/2 and 2: no kink, no pole."""
    return Tensor(0.5 + 1.5 * np.random.default_rng(seed).random(shape), requires_grad=True)


@pytest.mark.parametrize("operation", BINARY)
@random_cases
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3), seed=st.integers(0, 1000))
def test_binary_gradients_under_broadcasting(operation, shapes, seed):
    """A gradient left in the broadcast shape, or summed over the wrong axes."""
    x, y = (positive(shape, seed + i) for i, shape in enumerate(shapes.input_shapes))
    assert operation(x, y).shape == shapes.result_shape
    assert gradcheck(operation, [x, y])


@pytest.mark.parametrize(("operation", "scalar"), UNARY)
@random_cases
@given(shape=array_shapes(min_dims=0, max_dims=4, max_side=3), seed=st.integers(0, 1000))
def test_unary_values_and_gradients(operation, scalar, shape, seed):
    """Another function's value, or another function's derivative."""
    x = positive(shape, seed)
    assert_allclose(operation(x).data, np.vectorize(scalar)(x.numpy()), rtol=1e-12)
    assert gradcheck(operation, [x])


def test_gradients_on_the_negative_side():
    """relu that passes everything, and powers of negative numbers, both fine on the positive side."""
    x = Tensor(np.array([-2.0, -1.0, -0.5]), requires_grad=True)
    for operation in (ops.relu, ops.tanh, ops.sigmoid, ops.exp, lambda x: ops.pow(x, 2), lambda x: ops.pow(x, 3)):
        assert gradcheck(operation, [x], mode="elementwise")


def test_relu_at_zero_has_slope_zero():
    """`x >= 0` in backward lets the gradient of every dead unit through."""
    x = Tensor(np.array([-1.0, 0.0, 2.0]), requires_grad=True)
    ops.relu(x).backward(np.ones(3))
    assert_array_equal(x.grad, [0, 0, 1])


def test_a_power_of_zero_has_a_gradient():
    """0 · 0⁻¹ = NaN for exponent 0; x¹ at 0 has slope 1, x² slope 0."""
    for exponent, slope in [(0, 0), (1, 1), (2, 0)]:
        x = Tensor(np.zeros(2), requires_grad=True)
        ops.pow(x, exponent).backward(np.ones(2))
        assert_array_equal(x.grad, [slope, slope])


def test_sigmoid_and_tanh_do_not_overflow():
    """exp(1000) is infinite, with a warning that is an error here."""
    x = Tensor(np.array([-1000.0, 0, 1000]), requires_grad=True)
    assert_array_equal(ops.sigmoid(x).data, [0, 0.5, 1])
    ops.sigmoid(x).backward(np.ones(3))
    assert_array_equal(x.grad, [0, 0.25, 0])


def test_operators_and_their_mirror_images():
    """`1 - x` computed as `x - 1`, or `1 / x` as `x / 1`."""
    x = Tensor(np.array([2.0, 4.0]))
    assert_array_equal((x + 1).data, [3, 5])
    assert_array_equal((1 + x).data, [3, 5])
    assert_array_equal((x - 1).data, [1, 3])
    assert_array_equal((1 - x).data, [-1, -3])
    assert_array_equal((x * 3).data, [6, 12])
    assert_array_equal((3 * x).data, [6, 12])
    assert_array_equal((x / 2).data, [1, 2])
    assert_array_equal((8 / x).data, [4, 2])
    assert_array_equal((x**2).data, [4, 16])
    assert_array_equal((-x).data, [-2, -4])


@pytest.mark.cpu_only("host arrays do not meet tensors of other devices")
@pytest.mark.parametrize("operator", ["__add__", "__sub__", "__mul__", "__truediv__", "__matmul__"])
def test_an_array_on_the_left_makes_a_tensor(operator):
    """NumPy would take the Tensor for a number and make an array of Tensors, which no gradient passes."""
    array, tensor = np.array([[2.0, 3.0], [4.0, 5.0]]), Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
    operation = {
        "__add__": lambda a, b: a + b,
        "__sub__": lambda a, b: a - b,
        "__mul__": lambda a, b: a * b,
        "__truediv__": lambda a, b: a / b,
        "__matmul__": lambda a, b: a @ b,
    }[operator]
    result = operation(array, tensor)
    assert isinstance(result, Tensor)
    assert result.requires_grad
    assert_array_equal(result.data, operation(array, tensor.data))


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2), True])
def test_numbers_take_the_dtype_of_the_tensor(number):
    """np.float64(2) is what most NumPy functions return; it must not make float64 of a float32 network."""
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    for result in (x + number, number + x, x - number, number - x, x * number, number * x, x / number, number / x):
        assert result.dtype == np.float32
    (x * number).backward(np.ones(3, np.float32))
    assert x.grad.dtype == np.float32
    assert ops.pow(x, number).dtype == np.float32


@pytest.mark.parametrize("operation", BINARY)
def test_shapes_that_do_not_fit_are_named(operation):
    """NumPy's message does not name the operation."""
    name = operation.__name__
    with pytest.raises(ShapeError, match=rf"{name}: shapes \(2, 3\) and \(4,\) do not fit"):
        operation(Tensor(np.ones((2, 3))), Tensor(np.ones(4)))


def test_dtypes_are_not_mixed():
    """float32 + float64, or + an integer array, is promoted by NumPy without a word."""
    x = Tensor(np.ones(3, np.float32))
    with pytest.raises(DtypeError, match=r"Add: the inputs have different dtypes \(float32, float64\).*astype"):
        x + Tensor(np.ones(3))
    with pytest.raises(DtypeError, match="Multiply: needs float32 or float64, not int64"):
        x * Tensor(np.array([1, 2, 3]))
    with pytest.raises(DtypeError, match="not float16"):
        x + Tensor(np.ones(3, np.float16))
    with pytest.raises(DtypeError, match="not int64"):
        ops.add(1, 2)


def test_nothing_at_all_is_refused():
    """A forward that forgot its return: StopIteration, three calls deep, says nothing."""
    with pytest.raises(DtypeError, match="ReLU: needs a Tensor, not None"):
        ops.relu(None)
