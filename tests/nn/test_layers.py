"""Layers: each is its operation with parameters of the promised shapes."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, on_device, to_host
from strategies import second_device

from minifcn import Tensor, nn, ops
from minifcn.autograd import gradcheck
from minifcn.errors import ShapeError
from minifcn.training import SGD

pytestmark = pytest.mark.usefixtures("device")


def generator(seed=0):
    return np.random.default_rng(seed)


def pictures(*shape):
    return Tensor(generator(1).standard_normal(shape).astype(np.float32))


def test_conv2d_passes_on_every_argument():
    """A stride, padding, dilation or groups that is taken and forgotten."""
    layer = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, generator=generator())
    assert (layer.weight.shape, layer.bias.shape) == ((6, 2, 3, 2), (6,))
    layer.bias.data = on_device(np.arange(6, dtype=np.float32))
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
    layer.bias.data = on_device(np.arange(6, dtype=np.float32))
    x = pictures(2, 4, 5, 3)
    expected = ops.conv_transpose2d(x, layer.weight, layer.bias, stride=(2, 3), padding=(1, 0))
    assert_array_equal(layer(x).data, expected.data)
    assert nn.ConvTranspose2d(4, 6, 4).bias is None


def test_linear_is_x_times_the_transposed_weight():
    """(out, in)."""
    layer, x = nn.Linear(5, 3, generator=generator()), pictures(2, 5)
    assert (layer.weight.shape, layer.bias.shape) == ((3, 5), (3,))
    assert_allclose(layer(x).data, x.data @ layer.weight.data.T, rtol=1e-5)


def test_dropout_drops_in_training_only():
    """Another rate, or the elements' dropout under the channels' name."""
    x = Tensor(np.ones((8, 9, 4, 4), np.float32))
    for layer, operation in [(nn.Dropout, ops.dropout), (nn.Dropout2d, ops.dropout2d)]:
        module = layer(0.3, generator=generator(5))
        assert_array_equal(module(x).data, operation(x, 0.3, generator=generator(5)).data)
        assert module.eval()(x) is x


def normalisation(dtype=np.float32):
    """Batch normalisation of three channels with a scale, shift and statistics of its own."""
    layer = nn.BatchNorm2d(3, momentum=0.3, eps=0.01).astype(dtype)
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = on_device(generator(number).uniform(0.5, 2, 3).astype(dtype))
    return layer


def applied(layer, x, *, training):
    """The operation with the layer's numbers, which stay as they are; its output and the statistics after it."""
    running = {"running_mean": layer.running_mean.data.copy(), "running_var": layer.running_var.data.copy()}
    y = ops.batch_norm(x, layer.weight, layer.bias, **running, training=training, momentum=0.3, eps=0.01)
    return y.data, to_host(running)


def test_batch_norm_starts_as_the_mere_normalisation():
    """Random scales; a running variance of 0, which would blow up an untrained network in evaluation."""
    layer, x = nn.BatchNorm2d(3), pictures(4, 3, 5, 5)
    assert {name: set(array) for name, array in layer.state_dict().items()} == {
        "weight": {1}, "bias": {0}, "running_mean": {0}, "running_var": {1},
    }  # fmt: skip
    y = layer(x).data
    assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    assert_allclose(y.var(axis=(0, 2, 3)), 1, atol=1e-4)
    layer = nn.BatchNorm2d(3).eval()
    assert_allclose(layer(x).data, x.data, rtol=1e-5)


def test_batch_norm_learns_its_statistics_in_training_and_uses_them_in_evaluation():
    """Statistics of the batch in evaluation, or moved there; momentum or ε taken and forgotten."""
    layer, x = normalisation(), pictures(4, 3, 5, 5)
    expected, running = applied(layer, x, training=True)
    assert_array_equal(layer(x).data, expected)
    for name, array in running.items():
        assert_array_equal(layer.state_dict()[name], array)
        assert (array != normalisation().state_dict()[name]).all()
    expected, _ = applied(layer, x, training=False)
    before = layer.state_dict()
    assert_array_equal(layer.eval()(x).data, expected)
    for name, array in layer.state_dict().items():
        assert_array_equal(array, before[name])


def test_frozen_batch_norm_moves_nothing_and_learns_nothing():
    """A pretrained network's statistics worn away by batches of one picture, or its scales by weight decay."""
    layer, below = normalisation(), nn.Conv2d(2, 3, 1)
    layer.freeze()
    before, x = layer.state_dict(), pictures(1, 2, 1, 1)
    optimizer = SGD([*below.parameters(), *layer.parameters()], lr=1, weight_decay=0.5)
    for _ in range(2):
        maps = below(x)
        y = layer.train()(maps)
        assert_array_equal(y.data, applied(layer, maps, training=False)[0])
        y.backward(np.ones(y.shape, np.float32))
        optimizer.step()
    for name, array in layer.state_dict().items():
        assert_array_equal(array, before[name])
    assert [parameter.grad for parameter in layer.parameters()] == [None] * 4
    assert below.weight.grad is not None  # what lies below goes on learning


@pytest.mark.cpu_only("a second device made of host arrays")
def test_running_statistics_are_saved_loaded_moved_and_converted():
    """Statistics kept beside the parameters: a network that is another after its file, or on another device."""
    layer, other = normalisation(), nn.BatchNorm2d(3)
    layer(pictures(4, 3, 5, 5))
    state = layer.state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var"]
    other.load_state_dict(state)
    layer(pictures(4, 3, 5, 5) * 2)  # moves its own, not what was saved
    assert (layer.running_mean.data != state["running_mean"]).all()
    assert_array_equal(other.running_mean.data, state["running_mean"])
    assert [name for name, parameter in other.named_parameters() if not parameter.requires_grad] == [
        "running_mean",
        "running_var",
    ]
    with second_device() as device:
        other.to(device)
        assert other.running_var.device == device
        assert other(pictures(4, 3, 5, 5).to(device)).device == device
        assert (other.running_var.numpy() != state["running_var"]).all()
    double = normalisation(np.float64)
    double(Tensor(generator().standard_normal((2, 3, 4, 4))))
    assert {array.dtype for array in double.state_dict().values()} == {np.dtype(np.float64)}


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
        (nn.BatchNorm2d(2), (2, 2, 3, 3)),
        (nn.BatchNorm2d(2).eval(), (2, 2, 3, 3)),
    ],
)
def test_parameters_learn(layer, shape):
    """A parameter that the layer's forward does not use, or uses through a copy."""
    x = Tensor(generator().standard_normal(shape), requires_grad=True)
    layer.astype(np.float64).to(x.device)  # it was made when the tests were collected, on the CPU
    assert gradcheck(lambda *_: layer(x), [x, *layer.parameters()])
