"""The same numbers as PyTorch: to 1e-10 in float64, to 1e-4 of the largest in float32, forward and backward."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, to_host
from hypothesis import given
from hypothesis import strategies as st
from strategies import ConvCase, PoolCase, convolutions, poolings, random_cases, transposed_convolutions

from minifcn import Tensor, ops

pytestmark = pytest.mark.usefixtures("device")

torch = pytest.importorskip("torch", reason="PyTorch, the other side of the comparison, is not installed")
functional = torch.nn.functional

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def assert_close(ours, theirs, dtype):
    """Relative to the largest number: single sums may cancel to nearly nothing."""
    ours, theirs = to_host(ours), theirs.detach().numpy()
    assert ours.dtype == theirs.dtype == dtype
    scale = np.abs(theirs).max(initial=1)
    tolerance = 1e-10 if dtype == np.float64 else 1e-4
    assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def compare(case: ConvCase, dtype, ours, theirs):
    tensors = case.tensors(dtype)
    others = [None if array is None else torch.tensor(array, requires_grad=True) for array in case.arrays(dtype)]
    with case.machine.running():
        y = ours(*tensors, **case.arguments)
        expected = theirs(*others, **case.arguments)
        assert_close(y.data, expected, dtype)
        cotangent = np.random.default_rng(case.seed + 1).standard_normal(y.shape).astype(dtype)
        y.backward(cotangent)
    expected.backward(torch.tensor(cotangent))
    for tensor, other in zip(tensors, others, strict=True):
        if tensor is not None:
            assert_close(tensor.grad, other.grad, dtype)


@dtypes
@random_cases
@given(case=convolutions())
def test_conv2d(dtype, case):
    """Any argument read differently from PyTorch."""
    compare(case, dtype, ops.conv2d, functional.conv2d)


@dtypes
@random_cases
@given(case=transposed_convolutions())
def test_conv_transpose2d(dtype, case):
    """Any argument read differently from PyTorch, output_padding ≥ stride included."""
    compare(case, dtype, ops.conv_transpose2d, functional.conv_transpose2d)


@dtypes
@random_cases
@given(case=poolings(("distinct", "ties", "minus infinity", "all minus infinity", "nan")))
def test_max_pool2d(dtype, case: PoolCase):
    """Another winner among equals, −inf or NaN; another number of windows in ceil mode."""
    x = Tensor(case.array(dtype), requires_grad=True)
    other = torch.tensor(case.array(dtype), requires_grad=True)
    y, indices = ops.max_pool2d(x, case.kernel_size, **case.arguments, return_indices=True)
    expected, expected_indices = functional.max_pool2d(other, case.kernel_size, **case.arguments, return_indices=True)
    assert_array_equal(y.data, expected.detach().numpy())
    assert_array_equal(indices.data, expected_indices.numpy())
    cotangent = np.random.default_rng(case.seed + 1).standard_normal(y.shape).astype(dtype)
    y.backward(cotangent)
    expected.backward(torch.tensor(cotangent))
    assert_close(x.grad, other.grad, dtype)


@st.composite
def losses(draw):
    """Logits of two to four dimensions, labels some of which are ignored (never all), weights, reduction."""
    num_classes, batch = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    spatial = tuple(draw(st.lists(st.integers(1, 4), max_size=2)))
    ignore_index = draw(st.sampled_from([255, -100, 0]))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    labels = generator.integers(0, num_classes, (batch, *spatial))
    labels[generator.random(labels.shape) < 0.3] = ignore_index
    if num_classes == 1 and ignore_index == 0:
        ignore_index = 255
    if (labels == ignore_index).all():
        labels.flat[0] = num_classes - 1
    logits = draw(st.sampled_from([1.0, 1e4])) * generator.standard_normal((batch, num_classes, *spatial))
    weight = generator.random(num_classes) + 0.1 if draw(st.booleans()) else None
    reduction = draw(st.sampled_from(["mean", "sum", "none"]))
    return logits, labels, weight, {"ignore_index": ignore_index, "reduction": reduction}


@dtypes
@random_cases
@given(case=losses())
def test_softmax_cross_entropy(dtype, case):
    """Weights, void and the three reductions read differently from PyTorch, for 2-D, 3-D and 4-D logits."""
    logits, labels, weight, arguments = case
    x = Tensor(logits.astype(dtype), requires_grad=True)
    other = torch.tensor(x.numpy(), requires_grad=True)
    y = ops.softmax_cross_entropy(x, labels, weight=weight, **arguments)
    other_weight = None if weight is None else torch.tensor(weight.astype(dtype))
    expected = functional.cross_entropy(other, torch.tensor(labels), weight=other_weight, **arguments)
    assert_close(y.data, expected, dtype)
    cotangent = np.random.default_rng(0).standard_normal(y.shape)
    cotangent = np.asarray(cotangent, dtype)
    y.backward(cotangent)
    expected.backward(torch.tensor(cotangent))
    assert_close(x.grad, other.grad, dtype)


@dtypes
def test_a_layer_of_real_size(dtype):
    """Blocks as they are by default: 64 channels at 75×94, batch 2, both threads."""
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(shape).astype(dtype) for shape in [(2, 64, 75, 94), (64, 64, 3, 3), (64,)]]
    ours = [Tensor(array, requires_grad=True) for array in arrays]
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    y, expected = ops.conv2d(*ours, padding=1), functional.conv2d(*theirs, padding=1)
    assert_close(y.data, expected, dtype)
    y.backward(y.data)
    expected.backward(torch.tensor(y.numpy()))
    for tensor, other in zip(ours, theirs, strict=True):
        assert_close(tensor.grad, other.grad, dtype)
