"""The networks against independently written ones in PyTorch: values and gradients, both geometries, odd sizes."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, on_device
from networks import fill

from minifcn import Tensor, models
from minifcn.errors import ShapeError

torch = pytest.importorskip("torch", reason="PyTorch, the other side of the comparison, is not installed")
import reference_networks as reference  # noqa: E402  (needs torch)

pytestmark = pytest.mark.usefixtures("device")
long = pytest.mark.cpu_only("long: other cases of the same test are run on every device")

FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s", "fcn8s-at-once")
VGGS = ("vgg11", "vgg13", "vgg16", "vgg19")
FORWARDS = {"paper": reference.fcn_paper, "same": reference.fcn_same}


RUNNING = ("running_mean", "running_var")


def torch_parameters(model):
    """All of them; in training without the running statistics, so that the reference takes the batch's own."""
    return {
        name: torch.tensor(array, requires_grad=name.partition(".")[2] not in RUNNING)
        for name, array in model.state_dict().items()
        if not (model.training and name.partition(".")[2] in RUNNING)
    }


def assert_equal_to_rounding(ours, theirs, what):
    """To 1e-9 of the largest value; zero everywhere would compare nothing, so it is refused."""
    scale = np.abs(theirs).max()
    assert scale > 0, f"{what}: the reference is zero everywhere, so this compares nothing"
    assert_allclose(ours, theirs, rtol=0, atol=1e-9 * scale, err_msg=what)


def assert_parity(model, forward, image):
    """Output, and the gradients of a random weighting of it with respect to the image and every parameter."""
    parameters, x = torch_parameters(model), Tensor(image, requires_grad=True)
    theirs_x = torch.tensor(image, requires_grad=True)
    ours, theirs = model(x), forward(parameters, theirs_x)
    assert ours.shape == tuple(theirs.shape)
    assert_equal_to_rounding(ours.data, theirs.detach().numpy(), "output")
    cotangent = np.random.default_rng(1).normal(size=ours.shape)
    ours.backward(on_device(cotangent))
    theirs.backward(torch.tensor(cotangent))
    assert_equal_to_rounding(x.grad, theirs_x.grad.numpy(), "gradient of the image")
    for name, parameter in model.named_parameters():
        if name.partition(".")[2] in RUNNING:
            assert parameter.grad is None
        else:
            assert_equal_to_rounding(parameter.grad, parameters[name].grad.numpy(), f"gradient of {name}")


def fcn(name, geometry, **arguments):
    architecture = {"num_classes": 3, "width": 2, "fc_width": 4, "geometry": geometry, "learned_upsampling": "all"}
    return fill(models.MODELS[name](**architecture | arguments)).eval()


def images(height, width, batch=1, channels=3):
    return np.random.default_rng([height, width]).normal(size=(batch, channels, height, width))


@pytest.mark.parametrize(
    "size", [*(pytest.param(s, marks=long) for s in [(1, 1), (1, 17), (50, 65)]), (33, 47)], ids=str
)
@pytest.mark.parametrize("geometry", FORWARDS)
@pytest.mark.parametrize("name", [n if n == "fcn8s" else pytest.param(n, marks=long) for n in FCNS])
def test_fcn_equals_the_reference(name, geometry, size):
    """Any crop, padding, order of layers, missing ReLU, swapped height and width, skip scaled after its score layer,
    upsampling weight read as (out, in), or gradient that does not reach a layer."""
    assert_parity(fcn(name, geometry), lambda p, x: FORWARDS[geometry](name, p, x), images(*size))


@long
@pytest.mark.parametrize("geometry", FORWARDS)
@pytest.mark.parametrize(("batch", "channels"), [(2, 1), (3, 4)])
def test_batches_and_other_channels_equal_the_reference(geometry, batch, channels):
    """Images of a batch that mix; a 3 that was typed in for the image's channels."""
    model = fcn("fcn8s", geometry, in_channels=channels)
    image = images(20, 37, batch, channels)
    assert_parity(model, lambda p, x: FORWARDS[geometry]("fcn8s", p, x), image)


@long
@pytest.mark.parametrize("size", [(1, 1), (50, 65)], ids=str)
@pytest.mark.parametrize("geometry", FORWARDS)
@pytest.mark.parametrize("name", ["fcn16s", "fcn8s", "fcn4s", "fcn2s", "fcn8s-at-once"])
def test_fcn_without_skips_equals_the_reference(name, geometry, size):
    """Scores cropped in between to maps that are not added; score layers of skips that are there all the same."""
    model = fcn(name, geometry, skips="none")
    assert not [parameter for parameter in model.state_dict() if parameter.startswith("score_pool")]
    assert_parity(model, lambda p, x: FORWARDS[geometry](name, p, x), images(*size))


def normalised(name, geometry, training=False, **arguments):
    """A network with batch normalisation; without dropout, so that it can be compared in training."""
    model = fcn(name, geometry, batch_norm=True, dropout=0.0, **arguments).train(training)
    assert not any(f"{layer}.bias" in model.state_dict() for layer in ("conv1_1", "conv5_3", "fc6", "fc7"))
    return model


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("geometry", [pytest.param("paper", marks=long), "same"])
@pytest.mark.parametrize("name", [pytest.param("fcn32s", marks=long), "fcn8s"])
def test_fcn_with_batch_normalisation_equals_the_reference(name, geometry, training):
    """Normalised after the ReLU, or not at all after some layer; a score layer normalised; a bias that was kept; the
    mode not passed on to some layer."""
    model = normalised(name, geometry, training)
    assert_parity(model, lambda p, x: FORWARDS[geometry](name, p, x), images(50, 65, batch=2))


@pytest.mark.parametrize(("size", "training"), [((1, 1), False), ((33, 47), False), ((50, 65), True)], ids=str)
@pytest.mark.parametrize("options", [{}, {"skips": "none"}, {"batch_norm": False}], ids=str)
def test_fcn_basic_equals_the_reference(options, size, training):
    """Any padding or stride; a ReLU or pooling in another place; a skip added to the wrong map, or before the crop."""
    model = fill(models.FCNBasic(3, 4, 2, **options)).train(training)
    assert_parity(model, reference.fcn_basic, images(*size, batch=2, channels=2))


def test_the_running_statistics_of_a_network_equal_the_reference():
    """Moved twice in a step, or in one layer only: three steps, layer by layer."""
    model = normalised("fcn8s", "same", training=True)
    state = {name: torch.tensor(array) for name, array in model.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in state.items() if name.endswith(RUNNING)}

    def moving(x, mean, variance, weight, bias, training):
        return genuine(x, mean, variance, weight, bias, training=True)

    genuine = torch.nn.functional.batch_norm
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(reference.F, "batch_norm", moving)
        for step in range(3):
            image = images(40, 65, batch=2) * (1 + step)
            model(Tensor(image))
            reference.fcn_same("fcn8s", state, torch.tensor(image))
    assert len(before) == 30
    for name, tensor in before.items():
        assert (state[name] != tensor).any()
        assert_equal_to_rounding(model.state_dict()[name], state[name].numpy(), name)


def test_frozen_batch_normalisation_trains_as_in_evaluation():
    """`frozen` taken for the scales alone: the batch's own mean in training."""
    model = normalised("fcn16s", "same")
    model.freeze_batch_norm()
    image, before = Tensor(images(20, 37)), model.state_dict()
    expected = model(image).data
    assert_array_equal(model.train()(image).data, expected)
    for name, array in model.state_dict().items():
        assert_array_equal(array, before[name], err_msg=name)


CROPS = [(name, step.name) for name in FCNS for step in models.MODELS[name].upsamplings]


@pytest.mark.cpu_only("a test of the test, and long")
@pytest.mark.parametrize("error", [1, -1])
@pytest.mark.parametrize(("name", "crop"), CROPS)
def test_the_comparison_finds_a_wrong_crop(name, crop, error):
    """A test of the test: each crop of each network, one pixel off in either direction, must fail it."""
    model = fcn(name, "paper")
    model.crops[crop] += error
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_parity(model, lambda p, x: reference.fcn_paper(name, p, x), images(17, 9))


@pytest.mark.cpu_only("a test of the test, and long")
@pytest.mark.parametrize(("name", "crop"), CROPS)
def test_the_comparison_finds_a_wrong_crop_in_same_geometry(name, crop):
    """A test of the test. Here a crop of 1 can also leave too few pixels for the image, which is loud enough."""
    model = fcn(name, "same")
    model.crops[crop] += 1
    with pytest.raises((AssertionError, ShapeError), match=r"Mismatched elements|crop: "):
        assert_parity(model, lambda p, x: reference.fcn_same(name, p, x), images(17, 9))


@pytest.mark.parametrize("name", [n if n == "vgg11" else pytest.param(n, marks=long) for n in VGGS])
def test_vgg_equals_the_reference(name):
    """A wrong number of convolutions in a block, a missing ReLU, cells flattened in another order."""
    model = fill(models.MODELS[name](5, 2, 6)).eval()
    assert_parity(
        model,
        lambda p, x: reference.vgg_dense(p, reference.pools(p, x, 1, getattr(reference, name.upper()))[-1]),
        images(224, 224),
    )


@long
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("fully_convolutional", [False, True])
def test_vgg_with_batch_normalisation_equals_the_reference(fully_convolutional, training):
    """Dense layers without it, or normalised over their features instead of over the batch."""
    model = models.VGG11(5, 2, 6, batch_norm=True, dropout=0.0, fully_convolutional=fully_convolutional)

    def forward(p, x):
        dense = {name: array.flatten(1) if name in DENSE else array for name, array in p.items()}
        scores = reference.vgg_dense(dense, reference.pools(p, x, 1, reference.VGG11)[-1])
        return scores[:, :, None, None] if fully_convolutional else scores

    assert_parity(fill(model).train(training), forward, images(224, 224, batch=5))


DENSE = ("fc6.weight", "fc7.weight", "fc8.weight")


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
