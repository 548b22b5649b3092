"""Operations that move elements: values against NumPy, gradients against finite differences."""

import numpy as np
import pytest
from devices import assert_array_equal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from strategies import pairs, random_cases, second_device, seeded

from minifcn import Tensor, ops
from minifcn.autograd import gradcheck
from minifcn.errors import ShapeError

pytestmark = pytest.mark.usefixtures("device")

shapes = array_shapes(min_dims=2, max_dims=4, max_side=4)


def counting(*shape):
    return Tensor(np.arange(np.prod(shape), dtype=float).reshape(shape))


@random_cases
@given(shape=shapes, data=st.data())
def test_permute_and_its_gradient(shape, data):
    """The same order on the way back instead of the inverse one: equal for two dimensions, wrong for three."""
    dims = data.draw(st.permutations(range(len(shape))))
    dims = [dim - data.draw(st.sampled_from([0, len(shape)])) for dim in dims]
    x = seeded(*shape)
    assert_array_equal(ops.permute(x, dims).data, x.data.transpose(dims))
    assert gradcheck(lambda x: ops.permute(x, dims), [x])


@random_cases
@given(shape=shapes, data=st.data())
def test_reshape_and_its_gradient(shape, data):
    """A gradient in column-major order, or in the new shape."""
    target = data.draw(st.sampled_from([-1, (-1,), shape[::-1], (*shape, 1), (1, -1), (-1, shape[-1])]))
    x = seeded(*shape)
    assert_array_equal(ops.reshape(x, target).data, x.data.reshape(target))
    assert gradcheck(lambda x: ops.reshape(x, target), [x])


@random_cases
@given(shape=shapes, offset=pairs(0, 3), data=st.data())
def test_crop_and_its_gradient(shape, offset, data):
    """Offsets swapped, or a gradient laid into the corner instead of at the offset."""
    offset = tuple(min(o, n - 1) for o, n in zip(offset, shape[-2:], strict=True))
    size = tuple(data.draw(st.integers(1, n - o)) for o, n in zip(offset, shape[-2:], strict=True))
    x = seeded(*shape)
    (top, left), (height, width) = offset, size
    assert_array_equal(ops.crop(x, offset, size).data, x.data[..., top : top + height, left : left + width])
    assert gradcheck(lambda x: ops.crop(x, offset, size), [x])


@random_cases
@given(shape=shapes, frame=st.tuples(pairs(0, 2), pairs(0, 2)), value=st.sampled_from([0.0, -7.5]))
def test_pad_and_its_gradient(shape, frame, value):
    """Top and left swapped, or the frame's gradient added to the edge."""
    x = seeded(*shape)
    expected = np.pad(x.data, [(0, 0)] * (len(shape) - 2) + list(frame), constant_values=value)
    assert_array_equal(ops.pad(x, frame, value=value).data, expected)
    assert gradcheck(lambda x: ops.pad(x, frame, value=value), [x])


@random_cases
@given(shape=shapes, data=st.data())
def test_concatenate_and_its_gradient(shape, data):
    """Parts given back to the wrong tensors, or one part to all."""
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    tensors = []
    for seed in range(data.draw(st.integers(1, 3))):
        part = list(shape)
        part[dim] = data.draw(st.integers(1, 3))
        tensors.append(seeded(*part, seed=seed))
    assert_array_equal(ops.concatenate(tensors, dim).data, np.concatenate([t.data for t in tensors], dim))
    assert gradcheck(lambda *tensors: ops.concatenate(tensors, dim), tensors)


def test_short_forms():
    """Padding and sizes given as one number, or a pair for height and width."""
    x = counting(2, 3)
    assert ops.pad(x, 1).shape == (4, 5)
    assert ops.pad(x, (0, 2)).shape == (2, 7)
    assert_array_equal(ops.crop(x, 0, 2).data, [[0, 1], [3, 4]])
    assert_array_equal(ops.crop(x, (0, 1), (1, 2)).data, [[1, 2]])
    assert_array_equal(ops.transpose(x, 0, -1).data, x.data.T)
    assert_array_equal(x.reshape(3, 2).data, [[0, 1], [2, 3], [4, 5]])
    assert_array_equal(x.reshape((3, 2)).data, x.reshape([3, 2]).data)
    assert x.reshape(np.int64(6)).shape == (6,)
    assert Tensor(5.0).reshape().shape == ()


def test_a_tensor_used_twice_in_one_concatenation_receives_both_parts():
    """The second part in place of the first."""
    x = Tensor(np.zeros(2), requires_grad=True)
    ops.concatenate([x, x]).backward(np.array([1.0, 2, 30, 40]))
    assert_array_equal(x.grad, [31, 42])


@pytest.mark.parametrize("target", [5, (4, 2), (-1, 4), (-1, -1), (-2, -3), (0, -1), (-6,)])
def test_shapes_that_do_not_hold_the_elements_are_refused(target):
    """(−2)·(−3) = 6 as well."""
    with pytest.raises(ShapeError, match=r"reshape: 6 elements of shape \(2, 3\) do not fit"):
        ops.reshape(counting(2, 3), target)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: ops.permute(x, (0, 0)), r"permute: \(0, 0\) does not name each dimension"),
        (lambda x: ops.permute(x, (0,)), "permute"),
        (lambda x: ops.permute(x, (0, 2)), "permute"),
        (lambda x: ops.transpose(x, 0, 2), "transpose: dimensions 0 and 2 are not both in shape"),
        (lambda x: ops.crop(x, (1, 1), (1, 3)), r"crop: a window of \(1, 3\) at \(1, 1\) does not fit into \(2, 3\)"),
        (lambda x: ops.crop(x, -1, 1), "crop: offset must be at least 0"),
        (lambda x: ops.crop(x, 0, 0), "crop: size must be at least 1"),
        (lambda x: ops.crop(x.reshape(6), 0, 1), r"crop: the input has shape \(6,\); two dimensions or more"),
        (lambda x: ops.pad(x.reshape(6), 1), r"pad: the input has shape \(6,\); two dimensions or more"),
        (lambda x: ops.pad(x, -1), "pad: padding must be at least 0"),
        (lambda x: ops.pad(x, (1, 2, 3, 4)), "pad: padding .* is neither"),
        (lambda x: ops.concatenate([]), "concatenate"),
        (lambda x: ops.concatenate([x, x], 2), "concatenate: dimension 2"),
        (lambda x: ops.concatenate([x, ops.transpose(x, 0, 1)]), "differ in more than dimension 0"),
        (lambda x: ops.concatenate([x, x.reshape(1, 2, 3)]), "concatenate"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, words):
    """NumPy's message about something inside."""
    with pytest.raises(ShapeError, match=words):
        call(counting(2, 3))


@pytest.mark.cpu_only("a second device made of host arrays")
def test_a_gradient_comes_back_to_the_device_it_left():
    """A copy between devices that is not recorded cuts the graph without a word."""
    x = seeded(2, 3)
    with second_device() as device:
        y = x.to(device)
        assert y.device == device
        assert y.to(device) is y
        z = (y * 3.0).to("cpu") * x
        z.backward(np.ones((2, 3)))
    assert_array_equal(x.grad, 6 * x.data)


@pytest.mark.cpu_only("a second device made of host arrays")
def test_labels_can_be_moved_too():
    """The loss says `move them with .to(device)`, which must then not fail because labels are whole numbers."""
    labels = Tensor(np.array([1, 255], np.uint8))
    with second_device() as device:
        assert labels.to(device).device == device
        assert_array_equal(labels.to(device).numpy(), [1, 255])
        assert labels.to(device).dtype == np.uint8
