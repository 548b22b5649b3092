"""Module: names, state, moving and converting in place."""

import numpy as np
import pytest
from devices import assert_array_equal, shares_memory
from strategies import second_device

from minifcn import Tensor, nn
from minifcn.errors import DeviceError, DtypeError, WeightsError
from minifcn.nn import Module, Parameter

pytestmark = pytest.mark.usefixtures("device")


class Block(Module):
    def __init__(self):
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.scale = Parameter(np.full(1, 2.0, np.float32))

    def forward(self, x):
        return self.conv(x) * self.scale


class Net(Module):
    def __init__(self):
        self.first = Block()
        self.drop = nn.Dropout(0.5)
        self.up = nn.ConvTranspose2d(3, 3, 4, stride=2)
        self.fixed = Parameter(np.ones(2, np.float32), requires_grad=False)
        self.note = "not a parameter"

    def forward(self, x):
        return self.up(self.drop(self.first(x)))


NAMES = ["fixed", "first.scale", "first.conv.weight", "first.conv.bias", "up.weight"]


def pictures(dtype=np.float32):
    return Tensor(np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(dtype))


def test_parameters_are_named_by_the_path_to_them():
    """A prefix, a missing level, an absent bias listed, or fixed ones left out."""
    net = Net()
    named = dict(net.named_parameters())
    assert sorted(named) == sorted(NAMES)
    assert named["first.conv.weight"] is net.first.conv.weight
    assert not named["fixed"].requires_grad
    assert [id(p) for p in net.parameters()] == [id(p) for p in named.values()]
    assert [name for name, _ in net.named_modules()] == ["", "first", "first.conv", "drop", "up"]
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in net.named_parameters()]


def test_a_plain_tensor_is_not_a_parameter():
    """Buffers and inputs kept as attributes would be trained."""

    class Holder(Module):
        def __init__(self):
            self.constant = Tensor(np.ones(3), requires_grad=True)

    assert list(Holder().parameters()) == []


def test_a_module_without_forward_says_so():
    """'NoneType' is not callable."""
    with pytest.raises(NotImplementedError, match="Holder does not define forward"):
        type("Holder", (Module,), {})()(1)


def test_the_state_goes_round():
    """A layer forgotten, a copy that is none, float64 in place of float32."""
    net, other = Net(), Net()
    for parameter in net.parameters():
        parameter.data = parameter.data + 1
    state = net.state_dict()
    assert sorted(state) == sorted(NAMES)
    assert all(type(array) is np.ndarray and array.dtype == np.float32 for array in state.values())
    other.load_state_dict(state)
    for name, parameter in other.named_parameters():
        assert_array_equal(parameter.data, state[name])
        assert parameter.dtype == np.float32
        assert not shares_memory(parameter.data, state[name])
    state["fixed"][:] = 77
    assert net.fixed.data[0] == other.fixed.data[0] == 2


def test_loading_keeps_the_modules_own_dtype_and_gradients_flow():
    """A float64 file turns a float32 network into a float64 one; a new Parameter object loses the optimiser's."""
    net = Net()
    before = net.first.conv.weight
    state = {name: array.astype(np.float64) + 1 for name, array in net.state_dict().items()}
    state["up.weight"] = Tensor(state["up.weight"])  # arrays or Tensors
    net.load_state_dict(state)
    assert net.first.conv.weight is before
    assert before.dtype == np.float32
    assert before.requires_grad
    assert not net.fixed.requires_grad
    net(pictures()).sum().backward()
    assert before.grad.dtype == np.float32


def test_a_state_that_does_not_fit_lists_everything_and_changes_nothing():
    """The first mismatch only, one after another; or half of the weights loaded when it stops."""
    net = Net()
    before = net.state_dict()
    state = {name: array + 5 for name, array in before.items()}
    state["first.conv.weight"] = np.zeros((3, 4, 3, 3), np.float32)
    state["first.conv.bias"] = np.zeros(4, np.float32)
    del state["up.weight"]
    state["fc6.weight"] = np.zeros(1)
    with pytest.raises(WeightsError) as caught:
        net.load_state_dict(state)
    message = str(caught.value)
    assert "first.conv.weight: the state has shape (3, 4, 3, 3), the module (3, 2, 3, 3)" in message
    assert "first.conv.bias: the state has shape (4,), the module (3,)" in message
    assert "up.weight: missing from the state" in message
    assert "fc6.weight: not in the module" in message
    assert "4 tensors" in message
    for name, array in net.state_dict().items():
        assert_array_equal(array, before[name])


def test_not_strict_loads_what_is_there_but_no_other_shape():
    """strict=False that also swallows a wrong shape."""
    net = Net()
    net.load_state_dict({"first.scale": np.array([9.0]), "unknown": np.zeros(1)}, strict=False)
    assert net.first.scale.data[0] == 9
    with pytest.raises(WeightsError, match=r"first.scale: the state has shape \(2,\), the module \(1,\)"):
        net.load_state_dict({"first.scale": np.zeros(2), "fixed": np.full(2, 8.0)}, strict=False)
    assert net.fixed.data[0] == 1


def test_training_mode_reaches_every_module():
    """Dropout deep inside that stays on when predicting."""
    net = Net()
    assert net.drop.training
    assert net.eval() is net
    assert not any(module.training for _, module in net.named_modules())
    assert_array_equal(net(pictures()).data, net(pictures()).data)
    assert net.train() is net
    assert all(module.training for _, module in net.named_modules())
    assert (net(pictures()).data != net(pictures()).data).any()


def test_astype_changes_the_module_in_place_and_returns_it():
    """A copy, so that the optimiser trains another network."""
    net = Net()
    weight = net.first.conv.weight
    net(pictures()).sum().backward()
    assert net.astype(np.float64) is net
    assert net.first.conv.weight is weight
    assert weight.grad is None  # a float32 gradient would not fit any more
    assert {parameter.dtype for parameter in net.parameters()} == {np.dtype(np.float64)}
    y = net(pictures(np.float64))
    assert y.dtype == np.float64
    y.sum().backward()
    assert weight.grad.dtype == np.float64
    kept = weight.grad
    assert net.astype("float64").first.conv.weight.grad is kept  # nothing to convert, nothing to drop
    assert net.astype(np.float32)(pictures()).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.int64, "complex64"])
def test_astype_knows_float32_and_float64(dtype):
    """Half of the parameters converted before an operation refuses them."""
    net = Net()
    with pytest.raises(DtypeError, match=f"float32 or float64, not {np.dtype(dtype)}"):
        net.astype(dtype)
    assert {parameter.dtype for parameter in net.parameters()} == {np.dtype(np.float32)}


@pytest.mark.cpu_only("a second device made of host arrays")
def test_to_moves_the_module_in_place_and_returns_it():
    """Parameters left behind, fixed ones included; a state_dict that is not on the host."""
    net = Net()
    weight = net.first.conv.weight
    with second_device() as device:
        assert net.to(device) is net
        assert net.first.conv.weight is weight
        assert {parameter.device for parameter in net.parameters()} == {device}
        assert all(type(array) is np.ndarray for array in net.state_dict().values())
        with pytest.raises(DeviceError, match="different devices"):
            net(pictures())
        y = net(Tensor(pictures(), device=device))
        y.sum().backward()
        assert weight.grad is not None
        net.load_state_dict({name: array + 1 for name, array in net.state_dict().items()})
        assert weight.device == device
        assert net.to("cpu").first.conv.weight.grad is None
    assert net(pictures()).device == "cpu"


@pytest.mark.cpu_only("a second device made of host arrays")
def test_a_device_that_is_not_there_leaves_the_module_where_it_is():
    """Half of the parameters moved."""
    net = Net()
    with pytest.raises(DeviceError):
        net.to("cuda")
    assert net(pictures()).device == "cpu"
