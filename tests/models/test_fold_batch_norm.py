"""Batch normalisation folded into the layers before it: the same scores from a network that has none."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal
from networks import fill

from minifcn import Tensor, models, nn, no_grad
from minifcn.errors import WeightsError
from minifcn.models import surgery
from minifcn.weights import Preprocessing

pytestmark = pytest.mark.usefixtures("device")


def images(*size, channels=3):
    return Tensor(np.random.default_rng(size).normal(size=(1, channels, *size)))


FOLDED = {
    "fcn8s": lambda: models.FCN8s(3, 2, 4, batch_norm=True),
    "fcn8s, same": lambda: models.FCN8s(3, 2, 4, geometry="same", batch_norm=True, learned_upsampling="all"),
    "fcn16s without skips": lambda: models.FCN16s(3, 2, 4, 4, batch_norm=True, skips="none"),
    "fcn8s at once": lambda: models.FCN8sAtOnce(3, 2, 4, batch_norm=True, skip_scales={"pool4": 0.5, "pool3": 2.0}),
    "vgg11": lambda: models.VGG11(5, 2, 6, batch_norm=True, geometry="torchvision"),
    "vgg11, fully convolutional": lambda: surgery.fully_convolutional(fill(models.VGG11(5, 2, 6, batch_norm=True))),
    "fcn-basic": lambda: models.FCNBasic(3, 4, skips="none", learned_upsampling="none"),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", FOLDED)
def test_folding_batch_normalisation_changes_no_score(name, dtype):
    """A layer that is not folded, folded with another one's statistics, or without ε; an option lost on the way."""
    model = fill(FOLDED[name]()).astype(dtype).eval()
    for norm in (module for _, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_var.data *= 1e-4  # ε counts
    folded = surgery.fold_batch_norm(model)
    assert type(folded) is type(model)
    assert folded.architecture == model.architecture | {"batch_norm": False}
    assert not [name for name in folded.state_dict() if "_bn" in name]
    assert {parameter.dtype for parameter in folded.parameters()} == {np.dtype(dtype)}
    fixed = {name for name, parameter in folded.named_parameters() if not parameter.requires_grad}
    assert fixed == {n for n, p in model.named_parameters() if not p.requires_grad and "_bn." not in n}
    size = (224, 230) if name.startswith("vgg") else (37, 50)
    image = Tensor(images(*size, channels=model.architecture["in_channels"]).numpy().astype(dtype))
    with no_grad():
        expected, scores = model(image).numpy(), folded(image).numpy()
    tolerance = (1e-11 if dtype == np.float64 else 2e-5) * np.abs(expected).max()  # 2e-6 was seen in float32
    assert np.ptp(expected) > 0
    assert_allclose(scores, expected, rtol=0, atol=tolerance)


def test_a_folded_network_is_ready_for_use_and_the_other_stays_as_it_was():
    """Dropout on in the network that is exported; the network that goes on being trained changed or in another mode."""
    model = fill(models.FCN8s(3, 1, 2, batch_norm=True))
    model.preprocessing = Preprocessing("BGR", 0.5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    before = model.state_dict()
    folded = surgery.fold_batch_norm(model)
    assert (model.training, folded.training) == (True, False)
    assert folded.preprocessing == model.preprocessing
    folded.fc6.weight.data[...] = 0
    folded.score_fr.weight.data[...] = 0
    for name, array in model.state_dict().items():
        assert_array_equal(array, before[name])


def test_other_epsilons_are_folded_as_they_are():
    """1e-5 typed in where a layer has its own."""
    model = fill(models.FCN32s(2, 1, 2, geometry="same", batch_norm=True)).eval()
    model.conv3_2_bn.eps, model.fc6_bn.eps = 2.0, 0.1
    with no_grad():
        assert_allclose(surgery.fold_batch_norm(model)(images(9, 9)).data, model(images(9, 9)).data, atol=1e-12)


def test_without_batch_normalisation_there_is_nothing_to_fold():
    """A network of 500 MB copied for nothing."""
    model = models.FCN32s(2, 1, 2)
    assert surgery.fold_batch_norm(model) is model


def test_a_negative_variance_is_refused_by_name():
    """A warning of the square root, and NaN in a file for others."""
    model = models.FCN32s(2, 1, 2, batch_norm=True)
    model.conv2_1_bn.running_var.data[0] = -1
    with pytest.raises(WeightsError, match=r"conv2_1_bn\.running_var is negative"):
        surgery.fold_batch_norm(model)
