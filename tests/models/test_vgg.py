"""VGG: layers and shapes from the one table, sizes, errors. Values are compared with PyTorch in test_parity.py."""

import numpy as np
import pytest
from devices import assert_array_equal

from minifcn import Tensor, models, no_grad
from minifcn.errors import ShapeError

pytestmark = pytest.mark.usefixtures("device")

# Convolutions in each block, as in table 1 of Simonyan and Zisserman 2015 (configurations A, B, D, E).
CONVOLUTIONS = {
    models.VGG11: [1, 1, 2, 2, 2],
    models.VGG13: [2, 2, 2, 2, 2],
    models.VGG16: [2, 2, 3, 3, 3],
    models.VGG19: [2, 2, 4, 4, 4],
}


@pytest.mark.parametrize(("model", "blocks", "name"), [(*item, item[0].name) for item in CONVOLUTIONS.items()])
def test_layers_and_shapes(model, blocks, name):
    """A wrong depth in the table; channels that widen at the wrong place; names other than the paper's."""
    expected, channels = {}, 3
    for block, (count, out) in enumerate(zip(blocks, [2, 4, 8, 16, 16], strict=True), start=1):
        for position in range(1, count + 1):
            expected[f"conv{block}_{position}.weight"] = (out, channels, 3, 3)
            expected[f"conv{block}_{position}.bias"] = (out,)
            channels = out
    dense = {"fc6": (10, 16 * 7 * 7), "fc7": (10, 10), "fc8": (5, 10)}
    for layer, shape in dense.items():
        expected |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    assert {key: value.shape for key, value in model(5, 2, 10).state_dict().items()} == expected
    assert sum(blocks) + 3 == int(name.removeprefix("vgg"))  # the family's names count the layers with weights


PARTS = ("weight", "bias", "running_mean", "running_var")


def test_batch_normalisation_takes_the_place_of_the_biases():
    """A layer that is left out, or fc8 normalised, whose scores could not grow any more."""
    plain, normalised = (models.VGG11(5, 2, 10, batch_norm=flag).state_dict() for flag in (False, True))
    expected = {}
    for name, array in plain.items():
        layer, _, kind = name.partition(".")
        if kind == "weight" or layer == "fc8":
            expected[name] = array.shape
        else:
            expected |= {
                f"{layer}_bn.{part}": array.shape for part in ("weight", "bias", "running_mean", "running_var")
            }
    assert {name: array.shape for name, array in normalised.items()} == expected
    for name in plain.keys() & normalised.keys():
        assert_array_equal(plain[name], normalised[name])  # the same initial values, with it and without


def test_the_width_of_the_dense_layers_follows_the_trunk():
    """fc_width stuck at 4096, which would drown a narrow trunk; 64·width gives 4096 at the published width."""
    assert models.VGG11(5, 1).fc6.weight.shape == (64, 8 * 49)
    assert models.VGG11(5, 1, 3).fc6.weight.shape == (3, 8 * 49)


@pytest.mark.cpu_only("about numbers of parameters, and long")
def test_the_parameters_of_the_published_network(monkeypatch):
    """The facts' numbers, at full width: the real constructor, with zeros in place of 138 million random numbers."""
    monkeypatch.setattr("minifcn.nn.layers.he_normal", lambda shape, *_: np.zeros(shape, np.float32))
    sizes = {name: parameter.size for name, parameter in models.VGG16().named_parameters()}
    assert sum(sizes.values()) == 138_357_544
    assert sum(size for name, size in sizes.items() if name.startswith("conv")) == 14_714_688
    assert sum(size for name, size in sizes.items() if name.startswith(("fc6", "fc7"))) == 119_545_856


def test_the_pools_of_a_500_pixel_image_in_paper_geometry():
    """Floor pooling (349 would give 174), or a padding other than 100 at conv1_1 only."""
    with no_grad():
        pooled = models.FCN8s(2, 1, 1).features(Tensor(np.zeros((1, 3, 500, 1), np.float32)))
    assert [pooled[f"pool{number}"].shape[2] for number in range(1, 6)] == [349, 175, 88, 44, 22]
    assert [pooled[f"pool{number}"].shape[1] for number in range(1, 6)] == [1, 2, 4, 8, 8]


@pytest.mark.parametrize("size", [(1, 1), (1, 224), (31, 33), (224, 224)])
def test_any_image_up_to_224_gives_one_row_of_scores(size):
    """Small images that fail in pooling, or cells that do not fill the dense layer."""
    with no_grad():
        assert models.VGG11(5, 1, 2)(Tensor(np.ones((2, 3, *size), np.float32))).shape == (2, 5)


@pytest.mark.parametrize("size", [(225, 10), (10, 300)])
def test_a_larger_image_is_refused_with_the_way_out(size):
    """An image that is silently cropped, or a matrix product that complains about numbers nobody knows."""
    with pytest.raises(ShapeError, match=r"VGG11: the image gives .* cells.*224 pixels.*surgery\.fully_convolutional"):
        models.VGG11(5, 1, 2)(Tensor(np.zeros((1, 3, *size), np.float32)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
@pytest.mark.parametrize("model", [models.VGG11, models.FCN8s])
def test_an_input_of_another_shape_is_refused_by_the_networks_name(model, shape):
    """A forgotten batch dimension or channels last, reported by some inner layer."""
    with pytest.raises(ShapeError, match=rf"{model.__name__}: .*\(N, 3, H, W\) is expected"):
        model(5, 1, 2)(Tensor(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("model", [models.VGG16, models.FCN8s])
@pytest.mark.parametrize("argument", ["num_classes", "width", "fc_width", "in_channels"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_below_one_are_refused_by_name(model, argument, value):
    """ZeroDivisionError, "negative dimensions", or an empty network that trains on nothing."""
    arguments = {"num_classes": 2, "width": 1, "fc_width": 1, "in_channels": 3, argument: value}
    with pytest.raises(ShapeError, match=rf"{model.__name__}: .*{argument}={value}"):
        model(**arguments)


def test_the_seed_decides_the_initial_values():
    """Global random state; a seed that is ignored."""
    first, again, other = (models.VGG11(5, 1, 2, seed=seed).state_dict() for seed in (0, 0, 1))
    for name, array in first.items():
        assert_array_equal(array, again[name])
        assert np.array_equal(array, other[name]) == name.endswith(".bias")  # biases start at zero


@pytest.mark.parametrize("model", [models.VGG11, models.FCN32s])
def test_dropout_acts_in_training_only_and_repeats_with_the_seed(model):
    """Dropout left on in evaluation; dropout from a global generator; both layers fed the same mask for ever."""

    def scores(network):
        for layer in (network.fc8 if model is models.VGG11 else network.score_fr,):
            layer.weight.data[...] = 1  # FCN's starts at zero, which would hide everything
        return network(Tensor(np.ones((1, 3, 40, 40), np.float32))).data

    network, again = model(2, 2, 16), model(2, 2, 16)
    first = scores(network)
    assert_array_equal(first, scores(again))
    assert not np.array_equal(first, scores(network))
    assert_array_equal(scores(network.eval()), scores(again.eval()))
    assert_array_equal(scores(network), scores(network))


def test_float32_stays_float32_through_the_whole_network():
    """A float64 constant somewhere, which would double memory and time in silence."""
    generator = np.random.default_rng(0)
    for model in (
        models.VGG11(2, 1, 2),
        models.FCN8sAtOnce(2, 1, 2),
        models.VGG11(2, 1, 2, batch_norm=True),
        models.FCN8s(2, 1, 2, batch_norm=True),
        models.FCNBasic(2, 1),
    ):
        x = Tensor(generator.random((2, 3, 20, 20), np.float32), requires_grad=True)
        y = model(x)
        y.backward(np.ones(y.shape, np.float32))
        assert y.dtype == np.float32
        assert {parameter.grad.dtype for parameter in model.parameters() if parameter.requires_grad} == {
            np.dtype(np.float32)
        }
        assert {array.dtype for array in model.state_dict().values()} == {np.dtype(np.float32)}
