"""FCN and VGG against independently written networks in PyTorch: values and gradients, both geometries, odd sizes."""

import numpy as np
import pytest
from networks import fill

from minifcn import Tensor, models
from minifcn.errors import ShapeError

torch = pytest.importorskip("torch", reason="PyTorch, the other side of the comparison, is not installed")
import reference_networks as reference  # noqa: E402  (needs torch)

FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn8s-at-once")
VGGS = ("vgg11", "vgg13", "vgg16", "vgg19")
FORWARDS = {"paper": reference.fcn_paper, "same": reference.fcn_same}


def torch_parameters(model):
    return {name: torch.tensor(array, requires_grad=True) for name, array in model.state_dict().items()}


def assert_equal_to_rounding(ours, theirs, what):
    """To 1e-9 of the largest value; zero everywhere would compare nothing, so it is refused."""
    scale = np.abs(theirs).max()
    assert scale > 0, f"{what}: the reference is zero everywhere, so this compares nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * scale, err_msg=what)


def assert_parity(model, forward, image):
    """Output, and the gradients of a random weighting of it with respect to the image and every parameter."""
    parameters, x = torch_parameters(model), Tensor(image, requires_grad=True)
    theirs_x = torch.tensor(image, requires_grad=True)
    ours, theirs = model(x), forward(parameters, theirs_x)
    assert ours.shape == tuple(theirs.shape)
    assert_equal_to_rounding(ours.data, theirs.detach().numpy(), "output")
    cotangent = np.random.default_rng(1).normal(size=ours.shape)
    ours.backward(cotangent)
    theirs.backward(torch.tensor(cotangent))
    assert_equal_to_rounding(x.grad, theirs_x.grad.numpy(), "gradient of the image")
    for name, parameter in model.named_parameters():
        assert_equal_to_rounding(parameter.grad, parameters[name].grad.numpy(), f"gradient of {name}")


def fcn(name, geometry, **arguments):
    architecture = {"num_classes": 3, "width": 2, "fc_width": 4, "geometry": geometry, "learned_upsampling": "all"}
    return fill(models.MODELS[name](**architecture | arguments)).eval()


def images(height, width, batch=1, channels=3):
    return np.random.default_rng([height, width]).normal(size=(batch, channels, height, width))


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (33, 47), (50, 65)], ids=str)
@pytest.mark.parametrize("geometry", FORWARDS)
@pytest.mark.parametrize("name", FCNS)
def test_fcn_equals_the_reference(name, geometry, size):
    """Any crop, padding, order of layers, missing ReLU, swapped height and width, skip scaled after its score layer,
    upsampling weight read as (out, in), or gradient that does not reach a layer."""
    assert_parity(fcn(name, geometry), lambda p, x: FORWARDS[geometry](name, p, x), images(*size))


@pytest.mark.parametrize("geometry", FORWARDS)
@pytest.mark.parametrize(("batch", "channels"), [(2, 1), (3, 4)])
def test_batches_and_other_channels_equal_the_reference(geometry, batch, channels):
    """Images of a batch that mix; a 3 that was typed in for the image's channels."""
    model = fcn("fcn8s", geometry, in_channels=channels)
    image = images(20, 37, batch, channels)
    assert_parity(model, lambda p, x: FORWARDS[geometry]("fcn8s", p, x), image)


CROPS = [(name, step.name) for name in FCNS for step in models.MODELS[name].upsamplings]


@pytest.mark.parametrize("error", [1, -1])
@pytest.mark.parametrize(("name", "crop"), CROPS)
def test_the_comparison_finds_a_wrong_crop(name, crop, error):
    """A test of the test: each crop of each network, one pixel off in either direction, must fail it."""
    model = fcn(name, "paper")
    model.crops[crop] += error
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_parity(model, lambda p, x: reference.fcn_paper(name, p, x), images(17, 9))


@pytest.mark.parametrize(("name", "crop"), CROPS)
def test_the_comparison_finds_a_wrong_crop_in_same_geometry(name, crop):
    """A test of the test. Here a crop of 1 can also leave too few pixels for the image, which is loud enough."""
    model = fcn(name, "same")
    model.crops[crop] += 1
    with pytest.raises((AssertionError, ShapeError), match=r"Mismatched elements|crop: "):
        assert_parity(model, lambda p, x: reference.fcn_same(name, p, x), images(17, 9))


@pytest.mark.parametrize("name", VGGS)
def test_vgg_equals_the_reference(name):
    """A wrong number of convolutions in a block, a missing ReLU, cells flattened in another order."""
    model = fill(models.MODELS[name](5, 2, 6)).eval()
    assert_parity(
        model,
        lambda p, x: reference.vgg_dense(p, reference.pools(p, x, 1, getattr(reference, name.upper()))[-1]),
        images(224, 224),
    )


@pytest.mark.parametrize("size", [(1, 1), (32, 224), (40, 65), (97, 129), (161, 200)], ids=str)
def test_vgg_on_smaller_images_equals_a_padded_convolution(size):
    """Cells put into a corner of the 7×7 instead of the middle; an even number of them off by one; rows taken for
    columns. The other side is fc6 as a convolution with padding 3, read at the middle."""
    model = fill(models.VGG11(5, 2, 6)).eval()

    def forward(p, x):
        pool5 = reference.pools(p, x, 1, reference.VGG11)[-1]
        weight = p["fc6.weight"].reshape(6, 16, 7, 7)
        h = torch.nn.functional.conv2d(pool5, weight, p["fc6.bias"], padding=3)
        h = torch.relu(h[:, :, pool5.shape[2] // 2, pool5.shape[3] // 2])
        h = torch.relu(h @ p["fc7.weight"].T + p["fc7.bias"])
        return h @ p["fc8.weight"].T + p["fc8.bias"]

    assert_parity(model, forward, images(*size))
