"""Tests of the tests: gradcheck must reject wrong gradients of every kind, in both modes, and show both numbers."""

import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from strategies import seeded

from minifcn import Tensor, ops
from minifcn.autograd import Function, gradcheck
from minifcn.errors import DtypeError, GradientError, UsageError
from minifcn.ops import conv as conv_module
from minifcn.ops import conv_transpose as conv_transpose_module
from minifcn.ops import im2col_route, patches
from minifcn.ops.conv import Conv2d
from minifcn.ops.linalg import MatMul
from minifcn.ops.loss import SoftmaxCrossEntropy
from minifcn.ops.pool import MaxPool2d

LABELS = np.array([[[0, 2], [1, 255]]])

both_modes = pytest.mark.parametrize("mode", ["directional", "elementwise"])


def plant(monkeypatch, function, spoil):
    """Replace a Function's backward by one whose result has been spoilt."""
    honest = function.backward
    monkeypatch.setattr(function, "backward", staticmethod(lambda ctx, grad: spoil(honest(ctx, grad))))


def conv():
    """A convolution whose windows overlap, with its inputs."""
    inputs = [seeded(2, 2, 5, 4, seed=1), seeded(3, 2, 3, 2, seed=2), seeded(3, seed=3)]
    return lambda *inputs: ops.conv2d(*inputs, padding=1), inputs


def drop_a_tap(grads):
    grad_x, grad_w, grad_b = grads
    grad_w = grad_w.copy()
    grad_w[:, :, 0, 0] = 0
    return grad_x, grad_w, grad_b


@both_modes
def test_a_factor_of_two(mode, monkeypatch):
    """The commonest of mistakes, as in d(x²)/dx = x."""
    function, inputs = conv()
    assert gradcheck(function, inputs, mode=mode)
    plant(monkeypatch, Conv2d, lambda grads: (grads[0], grads[1], 2 * grads[2]))
    with pytest.raises(GradientError, match=r"input 2 of shape \(3,\)"):
        gradcheck(function, inputs, mode=mode)


@both_modes
def test_a_softmax_gradient_of_zero(mode, monkeypatch):
    """A loss that never learns."""
    logits = seeded(1, 3, 2, 2)

    def loss(logits):
        return ops.softmax_cross_entropy(logits, LABELS, reduction="none")

    assert gradcheck(loss, [logits], mode=mode)
    plant(monkeypatch, SoftmaxCrossEntropy, np.zeros_like)
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(loss, [logits], mode=mode)


@both_modes
def test_a_dropped_tap(mode, monkeypatch):
    """One place of the kernel never learns: one weight in six."""
    function, inputs = conv()
    plant(monkeypatch, Conv2d, drop_a_tap)
    with pytest.raises(GradientError, match="input 1"):
        gradcheck(function, inputs, mode=mode)


@both_modes
def test_a_transposed_weight(mode, monkeypatch):
    """Right in shape where the weight is square."""
    x, w = seeded(3, 4, seed=1), seeded(4, 4, seed=2)
    plant(monkeypatch, MatMul, lambda grads: (grads[0], grads[1].T))
    with pytest.raises(GradientError, match="input 1"):
        gradcheck(ops.matmul, [x, w], mode=mode)


@both_modes
def test_a_flipped_kernel_in_the_input_gradient(mode, monkeypatch):
    """`convolve` where `transposed convolve` belongs: right for symmetric kernels only."""
    honest = conv_module.input_gradient
    monkeypatch.setattr(
        conv_module,
        "input_gradient",
        lambda backend, grad, weight, *rest: honest(backend, grad, weight[:, :, ::-1, ::-1], *rest),
    )
    function, inputs = conv()
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(function, inputs, mode=mode)


def scatter_without_adding(backend, columns, grad_x, geometry, block):
    """col2im with `=` in place of `+=`."""
    (height, width), (kernel_h, kernel_w) = geometry.input_size, geometry.kernel_size
    rows = range(block.rows.start, block.rows.stop)
    images = grad_x[block.images]
    columns = columns.reshape(grad_x.shape[1], kernel_h, kernel_w, len(rows), len(images), -1)
    for i in range(kernel_h):
        for j in range(kernel_w):
            for a, row in enumerate(rows):
                for b in range(columns.shape[5]):
                    y = row * geometry.stride[0] - geometry.padding[0] + i * geometry.dilation[0]
                    x = b * geometry.stride[1] - geometry.padding[1] + j * geometry.dilation[1]
                    if 0 <= y < height and 0 <= x < width:
                        images[:, :, y, x] = columns[:, i, j, a, :, b].T


@both_modes
def test_overlapping_patches_that_do_not_add_up(mode, monkeypatch):
    """`=` for `+=` in col2im, in the convolution's gradient and in col2im's own forward."""
    monkeypatch.setattr(patches, "scatter_columns", scatter_without_adding)
    monkeypatch.setattr(im2col_route, "scatter_columns", scatter_without_adding)
    _, inputs = conv()
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(lambda *inputs: ops.conv2d(*inputs, padding=1, stride=2), inputs, mode=mode)
    with pytest.raises(GradientError):
        gradcheck(lambda x: ops.im2col(x, 2), [inputs[0]], mode=mode)
    apart = [seeded(1, 1, 4, 4), seeded(1, 1, 2, 2)]
    assert gradcheck(lambda x, w: ops.conv2d(x, w, stride=2), apart, mode=mode)  # nothing overlaps: nothing is wrong


@both_modes
def test_a_kernel_that_is_not_turned_round(mode, monkeypatch):
    """With stride 1 the gradient to the input is a convolution with the kernel turned by 180°, not as it stands."""
    turned = conv_module._turned_weight
    monkeypatch.setattr(conv_module, "_turned_weight", lambda weight, groups: turned(weight[..., ::-1, ::-1], groups))
    function, inputs = conv()
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(function, inputs, mode=mode)


@both_modes
def test_a_pooling_gradient_sent_to_everybody(mode, monkeypatch):
    """The mean's gradient in place of the maximum's."""
    plant(monkeypatch, MaxPool2d, lambda grad: np.full_like(grad, grad.mean()))
    x = Tensor(np.random.default_rng(0).permutation(np.arange(32.0)).reshape(1, 2, 4, 4), requires_grad=True)
    with pytest.raises(GradientError):
        gradcheck(lambda x: ops.max_pool2d(x, 2), [x], mode=mode)


@both_modes
def test_a_transposed_convolution_of_another_geometry(mode, monkeypatch):
    """Gradient to the input without the stride's phase: the kernel one pixel off."""
    honest = conv_transpose_module.convolve
    monkeypatch.setattr(
        conv_transpose_module, "convolve", lambda backend, grad, *rest: honest(backend, np.roll(grad, 1, 3), *rest)
    )
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(
            lambda x, w: ops.conv_transpose2d(x, w, stride=2), [seeded(1, 2, 3, 3), seeded(2, 2, 4, 4)], mode=mode
        )


@both_modes
def test_a_gradient_that_is_not_a_number(mode, monkeypatch):
    """`abs(nan − 1) > tolerance` is false: a comparison the wrong way round lets NaN pass."""
    plant(monkeypatch, MatMul, lambda grads: (grads[0] * np.nan, grads[1]))
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(ops.matmul, [seeded(2, 2), seeded(2, 2)], mode=mode)


@both_modes
def test_one_wrong_element_among_many(mode, monkeypatch):
    """A mistake at one border, in one of 1,000 numbers."""

    def spoil(grads):
        grads[0][9, 99] *= 1.01
        return grads

    plant(monkeypatch, MatMul, spoil)
    with pytest.raises(GradientError):
        gradcheck(ops.matmul, [seeded(10, 100, seed=1), seeded(100, 3, seed=2)], mode=mode)


class Softmax(Function):
    """y = softmax(x) over the last dimension, with a backward of zero."""

    @staticmethod
    def forward(ctx, x):
        exponentials = np.exp(x)
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    @staticmethod
    def backward(ctx, grad):
        return np.zeros_like(grad)


@both_modes
def test_outputs_whose_sum_is_constant(mode):
    """Probabilities sum to one: a check of the sum of the outputs agrees with a gradient of zero."""
    with pytest.raises(GradientError):
        gradcheck(Softmax.apply, [seeded(2, 3)], mode=mode)


class Square(Function):
    """y = x², with a backward that forgets the 2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved[0]


def test_the_directional_message_shows_both_numbers():
    """`gradients disagree` helps nobody: here backward is half of the numerical slope, and both stand there."""
    with pytest.raises(GradientError) as caught:
        gradcheck(Square.apply, [Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)], seed=5)
    message = str(caught.value)
    assert "seed 5" in message
    numerical, backward = map(float, re.search(r"slope is (\S+), but .* backward gives (\S+)\.", message).groups())
    assert numerical == pytest.approx(2 * backward)
    rows = re.findall(r"\[(\d), (\d)\]  numerical (\S+)   backward (\S+)", message)
    assert len(rows) == 4
    assert all(float(n) == pytest.approx(2 * float(b)) for *_, n, b in rows)


def test_the_elementwise_message_shows_both_gradients():
    """Both arrays, so that the pattern (a border, a channel) can be seen."""
    with pytest.raises(GradientError) as caught:
        gradcheck(Square.apply, [Tensor([1.0, -3.0], requires_grad=True)], mode="elementwise")
    message = str(caught.value)
    assert "2 of 2 elements disagree" in message
    numerical, backward = message.split("numerical gradient:")[1].split("gradient from backward:")
    numerical, backward = (np.array(rows.strip(" \n[]").split(), float) for rows in (numerical, backward))
    np.testing.assert_allclose(numerical, 2 * backward, rtol=1e-7)  # both are printed to eight decimals
    assert len(backward) == 2


def test_one_wrong_element_is_counted():
    """`all elements disagree`, when it is one."""

    class Almost(Square):
        @staticmethod
        def backward(ctx, grad):
            grad_x = 2 * grad * ctx.saved[0]
            grad_x[0] += 1
            return grad_x

    with pytest.raises(GradientError, match="1 of 3 elements disagree"):
        gradcheck(Almost.apply, [Tensor([1.0, 2.0, 3.0], requires_grad=True)], mode="elementwise")


def test_every_input_is_checked():
    """Only the first."""

    class Product(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            _, y = ctx.saved
            return grad * y, grad * y

    with pytest.raises(GradientError, match="input 1"):
        gradcheck(Product.apply, [seeded(3, seed=1), seeded(3, seed=2)])
    constant = Tensor(seeded(3, seed=2).data)
    assert gradcheck(Product.apply, [seeded(3, seed=1), constant])


def test_a_gradient_that_never_arrives():
    """An op that cuts the graph: no gradient is not a gradient of zero."""
    with pytest.raises(GradientError, match="left no gradient for input 1"):
        gradcheck(lambda x, y: x * y.detach(), [seeded(3, seed=1), seeded(3, seed=2)])


def test_the_inputs_are_left_as_they_were():
    """A step of the difference left in the weights, or a training step's gradients overwritten; also on failure."""
    x = Tensor([1.0, 2.0], requires_grad=True)
    grad = x.grad = np.array([5.0, 5.0])
    data = x.data
    assert gradcheck(lambda x: x * x, [x])

    def broken(x):
        raise KeyError("in the function")

    calls = []

    def broken_later(x):
        calls.append(x)
        return x * x if len(calls) == 1 else broken(x)

    for function, error in [(Square.apply, GradientError), (broken, KeyError), (broken_later, KeyError)]:
        with pytest.raises(error):
            gradcheck(function, [x])
    assert x.data is data
    assert x.grad is grad
    assert_array_equal(data, [1, 2])
    assert_array_equal(grad, [5, 5])


def test_one_tensor_in_two_places():
    """Changing one of the two only."""
    x = seeded(3)
    assert gradcheck(lambda a, b: a * b, [x, x])
    assert gradcheck(lambda x: x * x + x, [x])


def test_numbers_without_dimensions():
    """Directions drawn as Python numbers."""
    x = Tensor(np.array(2.0), requires_grad=True)
    for mode in ("directional", "elementwise"):
        assert gradcheck(lambda x: x * x, [x], mode=mode)


def test_what_cannot_be_checked_is_refused():
    """float32 has too few digits; a check of nothing passes always."""
    with pytest.raises(DtypeError, match="input 0 is float32; finite differences need float64"):
        gradcheck(lambda x: x * x, [seeded(3, dtype=np.float32)])
    with pytest.raises(UsageError, match="none of the inputs has requires_grad=True"):
        gradcheck(lambda x: x * x, [Tensor([1.0])])
    with pytest.raises(UsageError, match="mode 'fast' is not known"):
        gradcheck(lambda x: x * x, [seeded(3)], mode="fast")
