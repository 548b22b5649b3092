"""Networks from files: the one that was saved, or a message that says what is wrong."""

import functools

import numpy as np
import pytest
from networks import fill
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from minifcn import Tensor, models, no_grad, weights
from minifcn.errors import WeightsError
from minifcn.models.fcn import count_parameters
from minifcn.weights import Preprocessing


def save(path, model, **changes):
    """A weight file of a network; changes: of its architecture."""
    architecture = model.architecture | changes
    tensors = model.state_dict()
    weights.save_weights(path, tensors, architecture=architecture, preprocessing=Preprocessing())
    return path


SMALL = {"num_classes": 3, "width": 1, "fc_width": 2}
VGG_OPTIONS = {"in_channels": 1, "dropout": 0.1}
FCN_OPTIONS = {"geometry": "same", "learned_upsampling": "none", "in_channels": 4, "dropout": 0.25}
BASIC = {"num_classes": 3, "width": 1, "in_channels": 4, "learned_upsampling": "none"}


def options_of(name):
    if name == "fcn-basic":
        return BASIC
    return SMALL | (VGG_OPTIONS if name.startswith("vgg") else FCN_OPTIONS)


NORMALISED = [(name, {"batch_norm": name != "fcn-basic"}) for name in models.MODELS]  # the other of its two choices
WITHOUT_SKIPS = [(name, {"skips": "none"}) for name in models.MODELS if name.startswith("fcn")]


@pytest.mark.parametrize(
    ("name", "more"), [*((name, {}) for name in models.MODELS), *NORMALISED, *WITHOUT_SKIPS], ids=str
)
def test_every_network_comes_back_from_its_file(tmp_path, name, more):
    """An argument that `architecture` leaves out, so that another network is built; dropout left on; the means and
    variances of batch normalisation as new."""
    options = options_of(name) | more
    model = fill(models.MODELS[name](**options), seed=5).astype(np.float32).eval()
    path = save(tmp_path / "model.safetensors", model)
    again = models.from_weights(path)
    assert type(again) is type(model)
    assert again.architecture == model.architecture
    assert not again.training
    if name != "fcn-basic":
        assert again.dropout.p == options["dropout"]
    image = Tensor(np.random.default_rng(0).normal(size=(1, options["in_channels"], 40, 33)).astype(np.float32))
    with no_grad():
        assert_array_equal(again(image).data, model(image).data)
    fixed = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {n for n, p in again.named_parameters() if not p.requires_grad}


def test_a_fully_convolutional_classifier_comes_back_as_one(tmp_path):
    """A flag that is not part of the architecture: dense layers that the saved convolutions do not fit."""
    model = models.surgery.fully_convolutional(models.VGG11(3, 1, 2))
    again = models.from_weights(save(tmp_path / "a", model))
    assert again.fully_convolutional
    assert_array_equal(again.fc6.weight.data, model.fc6.weight.data)


def test_build_makes_the_same_network_untrained():
    """A seed that is not passed on; an architecture that is emptied by being read."""
    model = models.FCN16s(3, 1, 2, seed=4)
    architecture = dict(model.architecture)
    for name, array in models.build(architecture, seed=4).state_dict().items():
        assert_array_equal(array, model.state_dict()[name])
    assert architecture == model.architecture
    with pytest.raises(WeightsError, match=r"'unet' is not one of vgg11, .*fcn8s"):
        models.build({"name": "unet"})


def test_a_class_takes_its_own_files_only_and_names_the_right_one(tmp_path):
    """fcn16s weights in an FCN8s: the finest skip would silently stay untrained."""
    path = save(tmp_path / "model.safetensors", models.FCN16s(**SMALL))
    assert type(models.FCN16s.from_weights(path, num_classes=3)) is models.FCN16s
    with pytest.raises(WeightsError) as caught:
        models.FCN8s.from_weights(path)
    for part in (str(path), "holds fcn16s", "FCN8s is fcn8s", "models.from_weights", "models.load_pretrained(FCN8s("):
        assert part in str(caught.value)
    with pytest.raises(WeightsError, match="unless it was trained at once: convert --at-once"):
        models.FCN8sAtOnce.from_weights(save(tmp_path / "b", models.FCN8s(**SMALL)))


def test_fcn8s_at_once_is_an_fcn8s(tmp_path):
    """The released file, refused by the class of its network, or loaded without the factors of its skips."""
    path = save(tmp_path / "model.safetensors", models.FCN8sAtOnce(**SMALL))
    model = models.FCN8s.from_weights(path, num_classes=3)
    assert type(model) is models.FCN8sAtOnce
    assert model.skip_scales == {"pool4": 0.01, "pool3": 0.0001}


@pytest.mark.parametrize(("name", "more"), [*((name, {}) for name in models.MODELS), *NORMALISED, *WITHOUT_SKIPS])
def test_parameters_are_counted_without_building(name, more):
    """A layer forgotten in the count, and its share of a hostile file allocated."""
    network = models.MODELS[name]
    for sizes in (options_of(name), {"num_classes": 2, "width": 2, "in_channels": 4}):
        model = network(**sizes | more)
        claimed = getattr(network, "count_parameters", functools.partial(count_parameters, network))
        assert claimed(model.architecture) == sum(p.size for p in model.parameters())


def test_the_published_counts():
    """The facts' numbers, from the sizes alone."""
    assert count_parameters(models.VGG16, {}) == 138_357_544
    counts = [count_parameters(network, {}) for network in (models.FCN32s, models.FCN16s, models.FCN8s)]
    assert counts == [136_152_917, 134_815_994, 134_489_759]


@pytest.mark.parametrize("sizes", [{"width": 10**5}, {"fc_width": 10**6}, {"num_classes": 10**6}])
def test_a_network_far_larger_than_its_file_is_refused_before_it_is_built(tmp_path, sizes):
    """MemoryError, or a machine that swaps, for a file of a few kilobytes."""
    path = save(tmp_path / "model.safetensors", models.FCN8s(**SMALL), **sizes)
    for load in both_loaders(path):
        with pytest.raises(WeightsError, match="but the file holds") as caught:
            load()
        assert str(path) in str(caught.value)


def test_fcn_basic_far_larger_than_its_file_is_refused_before_it_is_built(tmp_path):
    """The same for the network that counts its parameters itself."""
    path = save(tmp_path / "model.safetensors", models.FCNBasic(3, 1), width=10**5)
    with pytest.raises(WeightsError, match="but the file holds") as caught:
        models.from_weights(path)
    assert str(path) in str(caught.value)


def test_batch_normalisation_on_one_side_only_is_refused_by_file(tmp_path):
    """A network without its normalisation, whose scores mean nothing; or with one as new."""
    for batch_norm in (False, True):
        model = models.FCN8s(**SMALL, batch_norm=batch_norm)
        path = save(tmp_path / "model.safetensors", model, batch_norm=not batch_norm)
        with pytest.raises(WeightsError) as caught:
            models.from_weights(path)
        for part in (str(path), "conv1_1.bias", "fc7_bn.running_var"):
            assert part in str(caught.value)


def test_a_normalised_network_takes_its_own_weights_for_other_classes(tmp_path):
    """Statistics that start anew with the scores."""
    trained = fill(models.FCN8s(**SMALL, batch_norm=True)).astype(np.float32)
    path = save(tmp_path / "model.safetensors", trained)
    with pytest.warns(UserWarning, match="train it before use"):
        model = models.FCN8s.from_weights(path, num_classes=5)
    assert model.architecture == trained.architecture | {"num_classes": 5}
    for name, array in model.state_dict().items():
        if "_bn." in name:
            assert_array_equal(array, trained.state_dict()[name])


def test_another_number_of_classes_keeps_all_but_the_scores_and_says_so(tmp_path):
    """Scores of 3 classes squeezed into 21, a network that is new from end to end, or silence about it."""
    trained = fill(models.FCN32s(**SMALL)).astype(np.float32)
    path = save(tmp_path / "model.safetensors", trained)
    with pytest.warns(UserWarning, match=r"score_fr.weight, score_fr.bias, upscore.weight; train it before use"):
        model = models.FCN32s.from_weights(path, num_classes=21)
    assert model.architecture == trained.architecture | {"num_classes": 21}
    assert not model.training
    before = trained.state_dict()
    for name, array in model.state_dict().items():
        if name.startswith("score"):
            assert len(array) == 21
            assert not array.any(), name
        elif not name.startswith("upscore"):
            assert_array_equal(array, before[name], err_msg=name)


def both_loaders(path):
    return (lambda: models.from_weights(path), lambda: models.FCN8s.from_weights(path, num_classes=3))


@pytest.mark.parametrize(
    ("changes", "culprits"),
    [
        ({"width": 2}, ["conv1_1.weight", "conv5_3.bias", "score_pool3.weight"]),
        ({"fc_width": 5}, ["fc6.weight", "fc7.bias", "score_fr.weight"]),
    ],
)
def test_tensors_that_do_not_fit_are_all_listed_with_the_file(tmp_path, changes, culprits):
    """A message without the file, or with the first tensor only."""
    path = save(tmp_path / "model.safetensors", models.FCN8s(**SMALL), **changes)
    for load in both_loaders(path):
        with pytest.raises(WeightsError) as caught:
            load()
        for part in (str(path), *culprits):
            assert part in str(caught.value)


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "unet"},
        {"name": ["fcn8s"]},
        {"name": "fcn8s", "depth": 3, "num_classes": 3},
        {"name": "fcn8s", "width": "wide", "num_classes": 3},
        {"name": "fcn8s", "width": 0, "num_classes": 3},
        {"name": "fcn8s", "geometry": "round", "num_classes": 3},
        {"name": "fcn8s", "width": 1, "fc_width": 2},  # without its number of classes
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused_by_file(tmp_path, architecture):
    """KeyError, or TypeError: __init__() got an unexpected keyword argument."""
    path = tmp_path / "model.safetensors"
    weights.save_weights(
        path, models.FCN8s(**SMALL).state_dict(), architecture=architecture, preprocessing=Preprocessing()
    )
    for load in both_loaders(path):
        with pytest.raises(WeightsError) as caught:
            load()
        assert str(path) in str(caught.value)


def test_a_file_of_another_program_is_refused_by_file(tmp_path):
    """Tensors without a record of the network: nothing says what to build."""
    path = tmp_path / "other.safetensors"
    save_file({"features.0.weight": np.ones(2, np.float32)}, path)
    for load in both_loaders(path):
        with pytest.raises(WeightsError) as caught:
            load()
        assert str(path) in str(caught.value)
