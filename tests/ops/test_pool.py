"""max_pool2d: values, winners, padding of −inf, dilation, ceil mode."""

import numpy as np
import oracles
import pytest
from devices import assert_allclose, assert_array_equal
from hypothesis import given, reject
from strategies import PoolCase, pairs, poolings, random_cases

from minifcn import Tensor, no_grad, ops
from minifcn.autograd import gradcheck
from minifcn.errors import DtypeError, ShapeError

pytestmark = pytest.mark.usefixtures("device")

EVERY_KIND = ("distinct", "ties", "minus infinity", "all minus infinity", "nan")


def pool(rows, *arguments, **keywords):
    """max_pool2d of one small image, its leading dimensions left out again."""
    result = ops.max_pool2d(Tensor(np.array([[rows]], float)), *arguments, **keywords)
    return [part.data[0, 0] for part in result] if isinstance(result, tuple) else result.data[0, 0]


def test_padding_never_wins():
    """Padding with zeros instead of −inf gives zeros here."""
    assert_array_equal(pool([[-1, -2], [-3, -4]], 2, padding=1), [[-1, -2], [-3, -4]])


def test_kernels_and_strides_that_are_not_square():
    """`KW, KH = pair(k)`."""
    rows = [[1, 2, 3], [4, 5, 6]]
    assert_array_equal(pool(rows, (1, 3)), [[3], [6]])
    assert_array_equal(pool(rows, (2, 1)), [[4, 5, 6]])
    assert_array_equal(pool(rows, 1, stride=(1, 2)), [[1, 3], [4, 6]])
    assert_array_equal(pool(rows, (2, 3), padding=(1, 0)), [[3], [6]])


def test_the_stride_is_the_kernel_size_unless_given():
    """A default stride of 1."""
    assert_array_equal(pool([[1, 2, 3, 4]], (1, 2)), [[2, 4]])
    assert_array_equal(pool([[1, 2, 3, 4]], (1, 2), stride=1), [[2, 3, 4]])


def test_dilation_spreads_the_places_of_a_window():
    """Neighbours compared all the same; a window counted as wide as its kernel, which then reads beyond the image."""
    assert_array_equal(pool([[5, 9, 1, 2, 3]], (1, 2), stride=1, dilation=2), [[5, 9, 3]])
    assert_array_equal(pool([[5, 9, 1, 2, 3]], (1, 3), dilation=(7, 2)), [[5]])
    assert_array_equal(pool([[5], [9], [1], [2]], (2, 1), stride=1, dilation=(3, 1)), [[5]])
    assert_array_equal(pool([[1, 2, 3, 4]], (1, 2), dilation=2, ceil_mode=True), [[3, 3]])
    assert_array_equal(pool([[-1, -2, -3]], (1, 2), stride=1, dilation=2, padding=(0, 1)), [[-2, -1, -2]])


def test_winners_of_dilated_windows_are_places_in_the_image():
    """Indices, or gradients, of a window without gaps."""
    x = Tensor(np.array([[[[5.0, 9, 1, 2, 7], [0, 0, 8, 0, 0]]]]), requires_grad=True)
    y, indices = ops.max_pool2d(x, (1, 3), dilation=2, return_indices=True)
    assert_array_equal(indices.data[0, 0], [[4], [7]])
    y.backward(np.array([[[[1.0], [10]]]]))
    assert_array_equal(x.grad[0, 0], [[0, 0, 0, 0, 1], [0, 0, 10, 0, 0]])


def test_ceil_mode_keeps_the_last_odd_pixel():
    """Floor pooling drops the 3; FCN works at every size only because it stays."""
    assert_array_equal(pool([[1, 2, 3]], (1, 2)), [[2]])
    assert_array_equal(pool([[1, 2, 3]], (1, 2), ceil_mode=True), [[2, 3]])
    assert_array_equal(pool([[7]], 2, ceil_mode=True), [[7]])


def test_a_window_that_starts_in_the_right_padding_is_dropped():
    """Size 3, kernel 2, stride 2, padding 1: windows start at −1, 1 and 3, and the third sees no pixel."""
    assert_array_equal(pool([[1, 2, 3]], (1, 2), padding=(0, 1), ceil_mode=True), [[1, 3]])
    assert_array_equal(pool([[1], [2], [3]], (2, 1), padding=(1, 0), ceil_mode=True), [[1], [3]])


def test_the_first_of_equals_wins():
    """The last, or all of them: the gradient of four equal pixels goes to one."""
    x = Tensor(np.zeros((1, 1, 2, 2)), requires_grad=True)
    y, indices = ops.max_pool2d(x, 2, return_indices=True)
    assert indices.item() == 0
    y.backward(np.ones(y.shape))
    assert_array_equal(x.grad[0, 0], [[1, 0], [0, 0]])


def test_a_pixel_that_wins_several_windows_receives_their_sum():
    """`=` instead of `+=` in backward gives 1 here."""
    x = Tensor(np.array([[[[0.0, 9, 0]]]]), requires_grad=True)
    y = ops.max_pool2d(x, (1, 2), stride=1)
    y.backward(np.array([[[[10.0, 1]]]]))
    assert_array_equal(x.grad[0, 0], [[0, 11, 0]])


def test_indices_are_places_in_the_unpadded_image():
    """Places in the window, or in the padded image."""
    _, indices = pool([[5, 1, 2], [0, 3, 4]], 2, stride=1, padding=1, return_indices=True)
    assert_array_equal(indices, [[0, 0, 2, 2], [0, 0, 5, 5], [3, 4, 5, 5]])


def test_windows_of_nothing_but_minus_infinity():
    """A winner in the padding (index −1) sends the gradient out of the image."""
    values, indices = pool(np.full((2, 2), -np.inf), 2, stride=1, padding=1, return_indices=True)
    assert_array_equal(values, np.full((3, 3), -np.inf))
    assert_array_equal(indices, [[0, 0, 1], [0, 0, 1], [2, 2, 3]])
    _, indices = pool(np.full((1, 3), -np.inf), (1, 4), padding=(0, 2), dilation=2, return_indices=True)
    assert_array_equal(indices, [[0]])  # the window's places are −2, 0, 2 and 4


def test_a_nan_is_passed_on_with_its_index():
    """A NaN that loses against every number hides what went wrong before; its gradient goes to a NaN as well."""
    values, indices = pool([[1, np.nan, 3, 0]], (1, 2), return_indices=True)
    assert_array_equal(values, [[np.nan, 3]])
    assert_array_equal(indices, [[1, 2]])


def test_kernels_of_more_than_256_places():
    """Winners kept in eight bits."""
    x = np.zeros((1, 1, 20, 20))
    x[0, 0, 19, 18] = 1
    _, indices = ops.max_pool2d(Tensor(x), 20, return_indices=True)
    assert indices.item() == 19 * 20 + 18


@random_cases
@given(poolings(EVERY_KIND))
def test_values_and_winners_equal_the_loops(case: PoolCase):
    """Any slip, with ties, −inf and NaN, in ceil mode and not; with and without winners."""
    x, (stride, padding, ceil_mode) = case.array(), case.arguments.values()
    values, indices = oracles.max_pool2d(
        x, case.kernel_size, stride=stride or case.kernel_size, padding=padding, ceil_mode=ceil_mode
    )
    y, winners = ops.max_pool2d(Tensor(x), case.kernel_size, **case.arguments, return_indices=True)
    assert_array_equal(y.data, values)
    assert_array_equal(winners.data, indices)
    with no_grad():
        assert_array_equal(ops.max_pool2d(Tensor(x), case.kernel_size, **case.arguments).data, values)


@random_cases
@given(poolings(EVERY_KIND), pairs(1, 4))
def test_dilated_windows_equal_those_of_pytorch(case: PoolCase, dilation):
    """A span, a first place inside the image or a winner that forgets the dilation; in ceil mode and not."""
    torch = pytest.importorskip("torch", reason="PyTorch, the other side of the comparison, is not installed")
    x, other = Tensor(case.array(), requires_grad=True), torch.tensor(case.array(), requires_grad=True)
    arguments = {**case.arguments, "dilation": dilation, "return_indices": True}
    try:
        y, indices = ops.max_pool2d(x, case.kernel_size, **arguments)
    except ShapeError:
        reject()  # some dilated windows do not fit
    expected, expected_indices = torch.nn.functional.max_pool2d(other, case.kernel_size, **arguments)
    assert_array_equal(y.data, expected.detach().numpy())
    assert_array_equal(indices.data, expected_indices.numpy())
    cotangent = np.random.default_rng(case.seed + 1).standard_normal(y.shape)
    y.backward(cotangent)
    expected.backward(torch.tensor(cotangent))
    assert_allclose(x.grad, other.grad.numpy(), rtol=1e-12, atol=1e-12)


@random_cases
@given(poolings(("distinct",)))
def test_gradients_agree_with_finite_differences(case: PoolCase):
    """A gradient that goes to another pixel of the window. The numbers are far apart, so that no step makes a tie."""
    x = Tensor(case.array(), requires_grad=True)
    assert gradcheck(lambda x: ops.max_pool2d(x, case.kernel_size, **case.arguments), [x])
    assert gradcheck(lambda x: ops.max_pool2d(x, case.kernel_size, **case.arguments, return_indices=True)[0], [x])


@pytest.mark.parametrize(
    ("shape", "kernel", "arguments", "words"),
    [
        ((1, 1, 4, 4), 2, {"padding": 2}, r"padding \(2, 2\) is more than half of the kernel \(2, 2\)"),
        ((1, 1, 4, 1), 2, {}, "ceil_mode=True or a larger input"),
        ((1, 1, 1, 4), 3, {"stride": 1, "ceil_mode": True}, "larger than the input"),
        ((1, 1, 4, 4), 2, {"dilation": 4}, r"kernel \(2, 2\) with dilation \(4, 4\) is larger than the input"),
        ((1, 1, 4, 1), 2, {"dilation": 2, "padding": 1}, r"steps over the whole input \(4, 1\)"),
        ((1, 1, 1, 4), 3, {"dilation": 2, "padding": 1, "ceil_mode": True}, "steps over the whole input"),
        ((1, 1, 4, 4), 2, {"dilation": 0}, "dilation must be at least 1"),
        ((4, 4), 2, {}, r"\(N, C, H, W\) is expected"),
        ((1, 1, 4, 4), 0, {}, "kernel_size must be at least 1"),
        ((1, 1, 4, 4), (2, 2, 2), {}, "a whole number or a pair"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(shape, kernel, arguments, words):
    """A NumPy message, or windows full of −inf."""
    with pytest.raises(ShapeError, match=words) as caught:
        ops.max_pool2d(Tensor(np.ones(shape)), kernel, **arguments)
    assert str(caught.value).startswith("max_pool2d: ")


def test_whole_numbers_are_refused():
    """−inf does not exist among them."""
    with pytest.raises(DtypeError, match="needs float32 or float64, not int64"):
        ops.max_pool2d(Tensor(np.ones((1, 1, 4, 4), np.int64)), 2)


@pytest.mark.cpu_only("NumPy's memory is filled")
@pytest.mark.parametrize(
    ("size", "options"),
    [
        (7, {"stride": 2}),
        (6, {"stride": 3}),
        (6, {"stride": 2, "dilation": 2, "ceil_mode": True}),
        (6, {"stride": 2, "padding": 1}),
        (6, {"stride": (2, 3)}),
    ],
    ids=str,
)
def test_a_pixel_in_no_window_has_no_gradient(size, options, monkeypatch):
    """Where windows leave pixels out, between them or at the edge, nobody writes there: it must be 0, not what was
    in memory.
    """
    x = Tensor(np.arange(float(size * size)).reshape(1, 1, size, size), requires_grad=True)
    y = ops.max_pool2d(x, 2, **options)
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, np.nan, dtype))
    y.backward(np.ones(y.shape))
    assert x.grad.sum() == y.data.size
