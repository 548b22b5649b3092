"""im2col and col2im."""

import numpy as np
import oracles
import pytest
from devices import assert_allclose, assert_array_equal
from hypothesis import given
from strategies import ConvCase, convolutions, random_cases

from minifcn import Tensor, ops
from minifcn.autograd import gradcheck
from minifcn.errors import ShapeError

pytestmark = pytest.mark.usefixtures("device")


def geometry_of(case: ConvCase):
    return {key: case.arguments[key] for key in ("stride", "padding", "dilation")}


def test_columns_are_patches_in_reading_order():
    """Rows ordered (kh, kw) and columns (Ho, Wo), not the other way round."""
    x = Tensor(np.arange(9.0).reshape(1, 1, 3, 3))
    assert_array_equal(ops.im2col(x, 2).data[0], [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]])


def test_col2im_adds_where_patches_overlap():
    """`=` instead of `+=` gives all ones here."""
    counts = ops.col2im(ops.im2col(Tensor(np.ones((1, 1, 3, 3))), 2), 3, 2)
    assert_array_equal(counts.data[0, 0], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])


def test_padding_shows_as_zeros_and_is_dropped_on_the_way_back():
    """Padding that wraps round to the other edge."""
    columns = ops.im2col(Tensor(np.ones((1, 1, 1, 2))), (1, 2), padding=(0, 1))
    assert_array_equal(columns.data[0], [[0, 1, 1], [1, 1, 0]])
    assert_array_equal(ops.col2im(Tensor(np.ones((1, 2, 3))), (1, 2), (1, 2), padding=(0, 1)).data, [[[[2, 2]]]])


@random_cases
@given(convolutions())
def test_im2col_equals_the_loops(case: ConvCase):
    """Any slip in stride, padding or dilation; a copy has no rounding, so the numbers are equal."""
    x, kernel = case.arrays()[0], case.weight_shape[2:]
    expected = oracles.im2col(x, kernel, **geometry_of(case))
    assert_array_equal(ops.im2col(Tensor(x), kernel, **geometry_of(case)).data, expected)


@random_cases
@given(convolutions())
def test_col2im_equals_the_loops_and_is_the_adjoint(case: ConvCase):
    """⟨im2col(x), c⟩ = ⟨x, col2im(c)⟩ fails if a pixel is dropped, or added once too often."""
    x, kernel, size = case.arrays()[0], case.weight_shape[2:], case.x_shape[2:]
    columns = ops.im2col(Tensor(x), kernel, **geometry_of(case)).numpy()
    other = np.random.default_rng(case.seed + 1).standard_normal(columns.shape)
    images = ops.col2im(Tensor(other), size, kernel, **geometry_of(case)).numpy()
    assert_allclose(images, oracles.col2im(other, size, kernel, **geometry_of(case)), rtol=1e-10, atol=1e-10)
    scale = np.abs(columns * other).sum() + 1
    assert abs(np.vdot(columns, other) - np.vdot(x, images)) < 1e-10 * scale


@random_cases
@given(convolutions())
def test_gradients_agree_with_finite_differences(case: ConvCase):
    """A backward with another geometry than its forward."""
    x, kernel, size = case.tensors()[0], case.weight_shape[2:], case.x_shape[2:]
    assert gradcheck(lambda x: ops.im2col(x, kernel, **geometry_of(case)), [x])
    shape = ops.im2col(x, kernel, **geometry_of(case)).shape
    columns = Tensor(np.random.default_rng(case.seed).standard_normal(shape), requires_grad=True)
    assert gradcheck(lambda c: ops.col2im(c, size, kernel, **geometry_of(case)), [columns])


@random_cases
@given(convolutions())
def test_a_matrix_product_with_the_columns_is_the_convolution(case: ConvCase):
    """The lesson's three lines, im2col, matmul and reshape, and conv2d must be the same."""
    case = case.without_bias()
    x, weight, _ = case.tensors()
    groups = case.arguments["groups"]
    y = ops.conv2d(x, weight, **case.arguments)
    columns = ops.im2col(x, weight.shape[2:], **geometry_of(case))
    columns = columns.reshape(x.shape[0], groups, -1, columns.shape[2])
    product = weight.reshape(1, groups, weight.shape[0] // groups, -1) @ columns
    assert_allclose(product.reshape(y.shape).data, y.data, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 4, 3), (1, 3, 4), (4, 4), (1, 1, 4, 4)])
def test_columns_that_do_not_fit_are_refused(shape):
    """A NumPy message about a reshape inside."""
    with pytest.raises(ShapeError, match=r"col2im: the columns have shape .*\(N, a multiple of 4, 4\)"):
        ops.col2im(Tensor(np.ones(shape)), 3, 2)


def test_other_misfits_are_refused():
    """As for the convolutions."""
    with pytest.raises(ShapeError, match=r"im2col: .*\(N, C, H, W\)"):
        ops.im2col(Tensor(np.ones((3, 3))), 2)
    with pytest.raises(ShapeError, match=r"im2col: a kernel of .* is larger than the input"):
        ops.im2col(Tensor(np.ones((1, 1, 3, 3))), 4)
