"""FCN-32s, 16s, 8s: names, numbers of parameters, sizes, initial values, alignment, gradients."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal
from networks import fill, pass_through

from minifcn import Tensor, models, no_grad, ops
from minifcn.autograd import gradcheck
from minifcn.errors import ShapeError, UsageError
from minifcn.training import SGD, Adam

pytestmark = pytest.mark.usefixtures("device")

FCNS = (models.FCN32s, models.FCN16s, models.FCN8s, models.FCN4s, models.FCN2s, models.FCN8sAtOnce)
GEOMETRIES = ("paper", "same")
TRUNK = [
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"),
]
HEADS = {  # with biases, and without
    models.FCN32s: (["score_fr"], ["upscore"]),
    models.FCN16s: (["score_fr", "score_pool4"], ["upscore2", "upscore16"]),
    models.FCN8s: (["score_fr", "score_pool4", "score_pool3"], ["upscore2", "upscore_pool4", "upscore8"]),
}
HEADS[models.FCN8sAtOnce] = HEADS[models.FCN8s]
HEADS[models.FCN4s] = (
    ["score_fr", "score_pool4", "score_pool3", "score_pool2"],
    ["upscore2", "upscore_pool4", "upscore_pool3", "upscore4"],
)
HEADS[models.FCN2s] = (
    ["score_fr", "score_pool4", "score_pool3", "score_pool2", "score_pool1"],
    ["upscore2", "upscore_pool4", "upscore_pool3", "upscore_pool2", "upscore_pool1"],
)
NORMALISED = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.parametrize("model", FCNS)
def test_parameters_have_the_papers_names(model):
    """Prefixes, other names, a bias on an upsampling, a filter that is missing from the state: published weights and
    other people's checks find tensors by these names."""
    scores, upsamplings = HEADS[model]
    expected = {f"{name}.{kind}" for name in [*TRUNK, "fc6", "fc7", *scores] for kind in ("weight", "bias")}
    expected |= {f"{name}.weight" for name in upsamplings}
    network = model(2, 1, 1)
    assert set(network.state_dict()) == expected
    assert [name for name, _ in network.named_parameters()] == list(network.state_dict())


@pytest.mark.parametrize("model", FCNS)
def test_batch_normalisation_replaces_the_biases_of_all_but_the_score_layers(model):
    """A bias that the normalisation takes out again; a score layer that is normalised, whose scores cannot grow."""
    scores, upsamplings = HEADS[model]
    layers = [*TRUNK, "fc6", "fc7"]
    expected = {f"{name}.weight" for name in [*layers, *upsamplings]}
    expected |= {f"{name}_bn.{kind}" for name in layers for kind in NORMALISED}
    expected |= {f"{name}.{kind}" for name in scores for kind in ("weight", "bias")}
    network = model(2, 1, 1, batch_norm=True)
    assert set(network.state_dict()) == expected
    fixed = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    running = {f"{name}_bn.{kind}" for name in layers for kind in ("running_mean", "running_var")}
    assert fixed == {*running, f"{upsamplings[-1]}.weight"}


@pytest.mark.parametrize("model", FCNS)
def test_without_skips_there_are_no_score_layers_of_skips(model):
    """Layers that are saved and decayed, but never used."""
    _, upsamplings = HEADS[model]
    network = model(2, 1, 1, skips="none")
    heads = {name.partition(".")[0] for name in network.state_dict()} - {*TRUNK, "fc6", "fc7"}
    assert heads == {"score_fr", *upsamplings}


@pytest.mark.cpu_only("about numbers of parameters, and long")
@pytest.mark.parametrize(
    ("model", "without", "total"),
    [
        (models.FCN32s, 134_346_581, 136_152_917),
        (models.FCN16s, 134_357_354, 134_815_994),
        (models.FCN8s, 134_362_751, 134_489_759),
        (models.FCN8sAtOnce, 134_362_751, 134_489_759),
    ],
)
def test_the_parameters_of_the_published_networks(monkeypatch, model, without, total):
    """The facts' table, at full width: the real constructor, with zeros in place of 134 million random numbers."""
    monkeypatch.setattr("minifcn.nn.layers.he_normal", lambda shape, *_: np.zeros(shape, np.float32))
    sizes = {name: parameter.size for name, parameter in model().named_parameters()}
    assert sum(sizes.values()) == total
    assert sum(size for name, size in sizes.items() if not name.startswith("upscore")) == without


@pytest.mark.parametrize(
    ("model", "crops"),
    [
        (models.FCN32s, {"upscore": 19}),
        (models.FCN16s, {"upscore2": 5, "upscore16": 27}),
        (models.FCN8s, {"upscore2": 5, "upscore_pool4": 9, "upscore8": 31}),
        (models.FCN4s, {"upscore2": 5, "upscore_pool4": 9, "upscore_pool3": 17, "upscore4": 33}),
        (
            models.FCN2s,
            {"upscore2": 5, "upscore_pool4": 9, "upscore_pool3": 17, "upscore_pool2": 33, "upscore_pool1": 34},
        ),
    ],
)
def test_the_crops_are_derived_for_both_geometries(model, crops):
    """A layer left out of the composed path, or a path continued from the skip instead of from the scores; without
    skips, a crop that is derived for a map that is not there."""
    last = list(crops)[-1]
    for geometry, factor in (("paper", 1), ("same", 0)):
        expected = {name: factor * crop for name, crop in crops.items()}
        assert model(2, 1, 1, geometry=geometry).crops == expected
        assert model(2, 1, 1, geometry=geometry, skips="none").crops == {last: expected[last]}


@pytest.mark.parametrize(
    ("model", "skips"), [*((model, "add") for model in FCNS), (models.FCN16s, "none"), (models.FCN8s, "none")]
)
@pytest.mark.parametrize(("geometry", "largest", "step"), [("paper", 40, 3), ("same", 70, 1)])
def test_every_size_of_image_comes_out_again(model, skips, geometry, largest, step):
    """Floor pooling, skips smaller than the scores, height and width exchanged; every remainder modulo 32."""
    network = model(2, 1, 1, geometry=geometry, skips=skips)
    with no_grad():
        for height in range(1, largest + 1, step):
            width = largest + 1 - height
            assert network(Tensor(np.zeros((1, 3, height, width), np.float32))).shape == (1, 2, height, width)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("channels", "batch_norm"), [(1, False), (4, False), (3, True)])
def test_an_image_in_a_batch_gets_the_scores_that_it_gets_alone(geometry, channels, batch_norm):
    """Images that leak into each other, or normalise each other in evaluation; in_channels ignored."""
    network = fill(models.FCN8s(3, 1, 2, channels, geometry=geometry, batch_norm=batch_norm)).eval()
    images = np.random.default_rng(0).normal(size=(3, channels, 9, 14))
    with no_grad():
        together = network(Tensor(images)).data
        for number in range(3):
            assert_allclose(network(Tensor(images[number : number + 1])).data[0], together[number], atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"batch_norm": True}, {"skips": "none"}], ids=str)
@pytest.mark.parametrize("model", FCNS)
@pytest.mark.parametrize("classes", [2, 21])
def test_the_first_loss_is_the_logarithm_of_the_number_of_classes(model, classes, options):
    """A score layer that starts random: some class is preferred before anything was learned. ln 21 = 3.0445."""
    generator = np.random.default_rng(0)
    images = Tensor(generator.normal(size=(2, 3, 24, 31)).astype(np.float32))
    labels = generator.integers(0, classes, (2, 24, 31))
    with no_grad():
        scores = model(classes, 2, 4, geometry="same", **options)(images)
    assert_array_equal(scores.data, 0)
    assert ops.softmax_cross_entropy(scores, labels).item() == pytest.approx(np.log(classes), rel=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("model", FCNS)
def test_upsampling_starts_bilinear(model, geometry):
    """A filter for another kernel size; channels mixed; a sum other than stride², which would rescale the scores."""
    network = model(3, 1, 1, geometry=geometry)
    for step in network.upsamplings:
        weight = getattr(network, step.name).weight.data
        assert weight.shape == (3, 3, 2 * step.stride, 2 * step.stride)
        for target, source in np.ndindex(3, 3):
            assert weight[target, source].sum() == (step.stride**2 if target == source else 0)
        if step.stride == 2:
            assert_array_equal(weight[1, 1] * 16, np.outer([1, 3, 3, 1], [1, 3, 3, 1]))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_plane_of_scores_stays_a_plane(geometry):
    """Upsampling that is off by a fraction of a pixel: linear interpolation of a ramp is the ramp, at the right place.

    Cell i of `same` geometry is centred on pixel 32 i + 15.5. In `paper` geometry 32 i − 37.5 + 50 = 32 i + 12.5."""
    network = models.FCN32s(1, 1, 1, geometry=geometry)
    ramp = np.arange(5.0, dtype=np.float32)[:, None] * np.ones(5, np.float32)
    with no_grad():
        up = network.upscore(Tensor(ramp[None, None])).numpy()[0, 0, network.crops["upscore"] :, 64]
    first = 15.5 if geometry == "same" else 12.5
    pixels = np.arange(40, 100)
    assert_allclose(up[pixels], (pixels - first) / 32, atol=1e-5)


@pytest.mark.parametrize(
    ("learned", "expected"),
    [("intermediate", [True, True, False]), ("none", [False, False, False]), ("all", [True, True, True])],
)
def test_which_upsamplings_are_learned(learned, expected):
    """The paper's default learns all but the last one. FCN-32s has only a last one, so there it stays fixed."""
    network = models.FCN8s(2, 1, 1, learned_upsampling=learned)
    filters = [network.upscore2, network.upscore_pool4, network.upscore8]
    assert [layer.weight.requires_grad for layer in filters] == expected
    assert models.FCN32s(2, 1, 1, learned_upsampling=learned).upscore.weight.requires_grad == (learned == "all")
    others = [p for name, p in network.named_parameters() if not name.startswith("upscore")]
    assert all(parameter.requires_grad for parameter in others)


def test_the_default_is_the_papers_choice():
    """A default that fixes or learns everything."""
    network = models.FCN8s(2, 1, 1)
    fixed = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert fixed == ["upscore8.weight"]
    assert network.architecture["geometry"] == "paper"


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_step_moves_everything_but_the_fixed_filters(optimizer):
    """Weight decay or momentum that wears a fixed filter away; a learned layer that the optimiser never sees."""
    network = fill(models.FCN8s(3, 2, 4, geometry="same")).eval()
    before = network.state_dict()
    rate = optimizer(network.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(2):
        rate.zero_grad()
        image = np.random.default_rng(0).normal(size=(1, 3, 33, 20))
        ops.softmax_cross_entropy(network(Tensor(image)), np.ones((1, 33, 20), int)).backward()
        rate.step()
    after = network.state_dict()
    assert [name for name in before if np.array_equal(before[name], after[name])] == ["upscore8.weight"]
    assert network.upscore8.weight.grad is None


def test_a_step_leaves_frozen_batch_normalisation_as_it_is():
    """Statistics moved by training, or scales and shifts by weight decay, in any layer."""
    network = fill(models.FCN8s(3, 2, 4, geometry="same", batch_norm=True)).train()
    network.freeze_batch_norm()
    before, optimizer = network.state_dict(), SGD(network.parameters(), lr=0.01, weight_decay=0.1)
    image = np.random.default_rng(0).normal(size=(1, 3, 33, 20))
    ops.softmax_cross_entropy(network(Tensor(image)), np.ones((1, 33, 20), int)).backward()
    optimizer.step()
    after = network.state_dict()
    kept = {name for name in before if np.array_equal(before[name], after[name])}
    assert kept == {"upscore8.weight", *(name for name in before if "_bn." in name)}


def test_batch_normalisation_of_a_single_cell_is_refused_with_the_remedies():
    """fc6 sees one cell of a small picture: without a word, everything above it would be trained on zeros."""
    network = models.FCN8s(2, 1, 2, geometry="same", batch_norm=True)
    for size in [(1, 1), (32, 32)]:
        with pytest.raises(ShapeError, match=r"batch_norm: .*larger batch or larger pictures, or freeze"):
            network(Tensor(np.ones((1, 3, *size), np.float32)))
        assert network(Tensor(np.ones((2, 3, *size), np.float32))).shape == (2, 2, *size)
        assert network.eval()(Tensor(np.ones((1, 3, *size), np.float32))).shape == (1, 2, *size)
        network.train()
    network.freeze_batch_norm()
    assert network(Tensor(np.ones((1, 3, 1, 1), np.float32))).shape == (1, 2, 1, 1)


@pytest.mark.cpu_only("about crops, and long")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("model", "path", "skips"),
    [
        (models.FCN32s, "score_fr", "add"),
        (models.FCN16s, "score_fr", "add"),
        (models.FCN16s, "score_pool4", "add"),
        (models.FCN8s, "score_fr", "add"),
        (models.FCN8s, "score_pool4", "add"),
        (models.FCN8s, "score_pool3", "add"),
        (models.FCN4s, "score_pool2", "add"),
        (models.FCN2s, "score_pool1", "add"),
        (models.FCN2s, "score_fr", "add"),
        (models.FCN16s, "score_fr", "none"),
        (models.FCN8s, "score_fr", "none"),
        (models.FCN4s, "score_fr", "none"),
    ],
)
def test_scores_lie_where_their_pixels_are(model, path, skips, geometry):
    """Each way through the network by itself: a shift of one pixel in a crop or a padding.

    One white pixel lights up its cell, and the cell a tent around its centre. A single answer is off by up to half
    a cell, but over 32 neighbouring positions (whole cells of every way) that averages out exactly."""
    network = model(1, 1, 1, 1, geometry=geometry, skips=skips)
    assert np.abs(mean_offset(pass_through(network, path))).max() < 1e-3


@pytest.mark.cpu_only("about crops, and long")
@pytest.mark.parametrize("error", [1, -1])
@pytest.mark.parametrize("crop", ["upscore2", "upscore_pool4", "upscore8"])
def test_the_alignment_finds_a_wrong_crop(crop, error):
    """A test of the test: each crop of FCN-8s one pixel off, seen on a way that it moves."""
    path = {"upscore2": "score_pool4", "upscore_pool4": "score_pool3", "upscore8": "score_fr"}[crop]
    network = pass_through(models.FCN8s(1, 1, 1, 1), path)
    network.crops[crop] += error
    assert np.abs(mean_offset(network)).min() > 0.9


@pytest.mark.cpu_only("about crops, and long")
@pytest.mark.parametrize("error", [1, -1])
def test_the_alignment_finds_a_wrong_crop_without_skips(error):
    """A test of the test: the one crop there is."""
    network = pass_through(models.FCN8s(1, 1, 1, 1, skips="none"), "score_fr")
    network.crops["upscore8"] += error
    assert np.abs(mean_offset(network)).min() > 0.9


def mean_offset(network):
    """(row, column) offset of the centroid of the answer from a white pixel, averaged over 32 of its positions."""
    offsets = []
    places = np.arange(176)
    with no_grad():
        for position in range(72, 104):
            image = np.zeros((1, 1, 176, 176), np.float32)
            image[0, 0, position, position] = 1  # both axes at once
            answer = network(Tensor(image)).data[0, 0].astype(float)
            assert answer.sum() > 0
            weights = answer / answer.sum()
            offsets.append([weights.sum(1) @ places - position, weights.sum(0) @ places - position])
    return np.mean(offsets, axis=0)


@pytest.mark.parametrize(("geometry", "size"), [("paper", (1, 3)), ("same", (13, 22))])
def test_gradients_of_a_whole_network(geometry, size):
    """Parameters whose gradient is scaled, lost or mixed up somewhere between the loss and conv1_1."""
    network = fill(models.FCN8s(2, 1, 2, geometry=geometry, learned_upsampling="all"), seed=3).eval()
    image = Tensor(np.random.default_rng(0).normal(size=(1, 3, *size)), requires_grad=True)
    inputs = [image, *network.parameters()]
    assert len(inputs) == 40
    assert gradcheck(lambda image, *_: network(image), inputs, directions=1)


def test_gradients_of_a_whole_network_that_normalises_over_the_batch():
    """A mean or variance of some layer taken for a constant; fixed statistics given a gradient."""
    network = models.FCN8s(2, 1, 2, geometry="same", batch_norm=True, dropout=0.0, learned_upsampling="all")
    fill(network, seed=3)
    image = Tensor(np.random.default_rng(0).normal(size=(2, 3, 33, 34)), requires_grad=True)
    inputs = [image, *(parameter for parameter in network.parameters() if parameter.requires_grad)]
    assert len(inputs) == 1 + 15 * 3 + 3 * 2 + 3
    assert gradcheck(lambda image, *_: network(image), inputs, directions=1)


def test_the_gradient_check_finds_a_wrong_network():
    """A test of the test: a skip whose gradient is lost half-way."""
    network = fill(models.FCN8s(2, 1, 2, geometry="same"), seed=3).eval()
    genuine = network._add_skip

    def detached(scores, features, step):
        return genuine(scores, features.detach() if step.skip == "pool3" else features, step)

    network._add_skip = detached
    image = Tensor(np.random.default_rng(0).normal(size=(1, 3, 13, 22)))
    with pytest.raises(AssertionError):
        gradcheck(lambda *_: network(image), [network.conv1_1.weight], directions=1)


def test_settings_that_do_not_exist_are_refused_with_those_that_do():
    """A typing mistake that silently takes the default."""
    with pytest.raises(UsageError, match=r"FCN8s: geometry 'Same' is not one of paper, same"):
        models.FCN8s(2, 1, 1, geometry="Same")
    with pytest.raises(UsageError, match="FCN16s: learned_upsampling 'last' is not one of intermediate, none, all"):
        models.FCN16s(2, 1, 1, learned_upsampling="last")
    with pytest.raises(UsageError, match="FCN8s: skips 'concat' is not one of add, none"):
        models.FCN8s(2, 1, 1, skips="concat")
