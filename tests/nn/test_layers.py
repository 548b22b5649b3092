"""Layers: each is its operation with parameters of the promised shapes."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minifcn import Tensor, nn, ops
from minifcn.autograd import gradcheck
from minifcn.errors import ShapeError


def generator(seed=0):
    return np.random.default_rng(seed)


def pictures(*shape):
    return Tensor(generator(1).standard_normal(shape).astype(np.float32))


def test_conv2d_passes_on_every_argument():
    """A stride, padding, dilation or groups that is taken and forgotten."""
    layer = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, generator=generator())
    assert (layer.weight.shape, layer.bias.shape) == ((6, 2, 3, 2), (6,))
    layer.bias.data = np.arange(6, dtype=np.float32)
    x = pictures(2, 4, 7, 8)
    arguments = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    assert_array_equal(layer(x).data, ops.conv2d(x, layer.weight, layer.bias, **arguments).data)
    assert nn.Conv2d(4, 6, 3, bias=False).bias is None
    with pytest.raises(ShapeError, match="groups=3 must divide 4 input and 6 output channels"):
        nn.Conv2d(4, 6, 3, groups=3)


def test_conv_transpose2d_passes_on_every_argument():
    """(in, out, kh, kw), no bias unless asked for."""
    layer = nn.ConvTranspose2d(4, 6, (4, 2), stride=(2, 3), padding=(1, 0), bias=True, generator=generator())
    assert (layer.weight.shape, layer.bias.shape) == ((4, 6, 4, 2), (6,))
    layer.bias.data = np.arange(6, dtype=np.float32)
    x = pictures(2, 4, 5, 3)
    expected = ops.conv_transpose2d(x, layer.weight, layer.bias, stride=(2, 3), padding=(1, 0))
    assert_array_equal(layer(x).data, expected.data)
    assert nn.ConvTranspose2d(4, 6, 4).bias is None


def test_linear_is_x_times_the_transposed_weight():
    """(out, in)."""
    layer, x = nn.Linear(5, 3, generator=generator()), pictures(2, 5)
    assert (layer.weight.shape, layer.bias.shape) == ((3, 5), (3,))
    np.testing.assert_allclose(layer(x).data, x.data @ layer.weight.data.T, rtol=1e-5)


def test_dropout_drops_in_training_only():
    """Another rate, or the elements' dropout under the channels' name."""
    x = Tensor(np.ones((8, 9, 4, 4), np.float32))
    for layer, operation in [(nn.Dropout, ops.dropout), (nn.Dropout2d, ops.dropout2d)]:
        module = layer(0.3, generator=generator(5))
        assert_array_equal(module(x).data, operation(x, 0.3, generator=generator(5)).data)
        assert module.eval()(x) is x


def test_initial_values_follow_the_generator():
    """Randomness from elsewhere: a network that cannot be made again."""

    def weights(seed):
        source = generator(seed)
        layers = [nn.Conv2d(3, 4, 3, generator=source), nn.Conv2d(3, 4, 3, generator=source)]
        return [layer.weight.data for layer in layers]

    assert_array_equal(weights(1), weights(1))
    assert (weights(1)[0] != weights(2)[0]).any()
    assert (weights(1)[0] != weights(1)[1]).any()
    assert_array_equal(nn.Conv2d(3, 4, 3).weight.data, nn.Conv2d(3, 4, 3).weight.data)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), (1, 4, 5, 4)),
        (nn.ConvTranspose2d(2, 3, 4, stride=2, bias=True), (1, 2, 3, 3)),
        (nn.Linear(4, 3), (2, 4)),
    ],
)
def test_parameters_learn(layer, shape):
    """A parameter that the layer's forward does not use, or uses through a copy."""
    layer.astype(np.float64)
    x = Tensor(generator().standard_normal(shape), requires_grad=True)
    assert gradcheck(lambda *_: layer(x), [x, *layer.parameters()])
