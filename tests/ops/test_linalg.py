"""matmul and linear."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from strategies import random_cases, seeded

from minifcn import Tensor, ops
from minifcn.autograd import gradcheck
from minifcn.errors import ShapeError

pytestmark = pytest.mark.usefixtures("device")

sizes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


@random_cases
@given(mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3), sizes)
def test_products_of_stacks_of_matrices(stacks, sizes):
    """A transpose forgotten, or a stack's gradient not summed over the images that shared the matrix."""
    n, k, m = sizes
    x, w = seeded(*stacks.input_shapes[0], n, k, seed=1), seeded(*stacks.input_shapes[1], k, m, seed=2)
    assert_allclose((x @ w).data, np.einsum("...nk,...km->...nm", x.data, w.data), rtol=1e-10, atol=1e-12)
    assert gradcheck(ops.matmul, [x, w])


@random_cases
@given(sizes, st.booleans())
def test_a_dense_layer(sizes, with_bias):
    """The weight is (out, in), as everybody stores it."""
    n, k, m = sizes
    inputs = [seeded(n, k, seed=1), seeded(m, k, seed=2)] + ([seeded(m, seed=3)] if with_bias else [])
    x, weight, *bias = (tensor.data for tensor in inputs)
    expected = np.einsum("nk,mk->nm", x, weight) + (bias[0] if bias else 0)
    assert_allclose(ops.linear(*inputs).data, expected, rtol=1e-10, atol=1e-12)
    assert gradcheck(ops.linear, inputs)


def test_two_by_two_by_hand():
    """Rows and columns exchanged."""
    y = Tensor([[1.0, 2.0], [3.0, 4.0]]) @ Tensor([[0.0, 1.0], [10.0, 0.0]])
    assert_array_equal(y.data, [[20, 1], [40, 3]])


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "words"),
    [
        ((2, 3), (4, 5), r"the last of the first \(3\) must equal the last but one of the second \(4\)"),
        ((3,), (3, 5), "both need two dimensions or more"),
        ((2, 3), (3,), "both need two dimensions or more"),
        ((2, 4, 3), (5, 3, 4), r"matmul .*shapes \(2,\) and \(5,\) do not fit"),
    ],
)
def test_products_that_do_not_exist_are_refused(x_shape, w_shape, words):
    """NumPy's message about a core dimension."""
    with pytest.raises(ShapeError, match=words):
        ops.matmul(Tensor(np.ones(x_shape)), Tensor(np.ones(w_shape)))


@pytest.mark.parametrize("bias_shape", [(5,), (2, 1), (1,), ()])
def test_a_bias_that_is_none_is_refused(bias_shape):
    """(2, 1) would be broadcast over the outputs, in silence."""
    with pytest.raises(ShapeError, match="linear: the bias has shape"):
        ops.linear(Tensor(np.ones((2, 3))), Tensor(np.ones((4, 3))), Tensor(np.ones(bias_shape)))


def test_a_weight_that_is_none_is_refused():
    """(in, out) in place of (out, in)."""
    with pytest.raises(ShapeError, match=r"linear: the input has shape \(2, 3\), but the weight \(3, 4\)"):
        ops.linear(Tensor(np.ones((2, 3))), Tensor(np.ones((3, 4))))
