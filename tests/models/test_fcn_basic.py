"""FCN-Basic: names, numbers, sizes, alignment, what is fixed and what is learnt. PyTorch's is in test_parity.py."""

from pathlib import Path

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal
from networks import fill

from minifcn import Tensor, models, no_grad, ops
from minifcn.errors import ShapeError, UsageError
from minifcn.models import FCNBasic
from minifcn.training import SGD

pytestmark = pytest.mark.usefixtures("device")

OPTIONS = ({}, {"skips": "none"}, {"batch_norm": False}, {"learned_upsampling": "none"})
with_options = pytest.mark.parametrize("options", OPTIONS, ids=str)


def test_layers_and_shapes():
    """A bias before a normalisation; fewer channels on the way up; score layers of another width."""
    expected = {}
    for level in (1, 2, 3, 4):
        expected[f"conv{level}.weight"] = (5, 4 if level == 1 else 5, 7, 7)
        expected |= {f"conv{level}_bn.{part}": (5,) for part in ("weight", "bias", "running_mean", "running_var")}
        expected |= {f"score_pool{level}.weight": (3, 5, 1, 1), f"score_pool{level}.bias": (3,)}
        expected[f"upscore_pool{level}.weight"] = (3, 3, 8, 8)
    assert {name: array.shape for name, array in FCNBasic(3, 5, 4).state_dict().items()} == expected
    without = {name for name in expected if name[:11] not in ("score_pool1", "score_pool2", "score_pool3")}
    assert set(FCNBasic(3, 5, 4, skips="none").state_dict()) == without
    plain = {name for name in expected if "_bn." not in name} | {f"conv{level}.bias" for level in (1, 2, 3, 4)}
    assert set(FCNBasic(3, 5, 4, batch_norm=False).state_dict()) == plain


def test_the_parameters_of_the_published_network():
    """By hand, for 11 classes: the encoder learns 49·64·(3 + 3·64) + 4·2·64 numbers, a score layer 65·11."""
    network = FCNBasic()
    encoder = {name: parameter.size for name, parameter in network.named_parameters() if name.startswith("conv")}
    running = sum(size for name, size in encoder.items() if "running" in name)
    assert (sum(encoder.values()) - running, running) == (49 * 64 * 195 + 512, 512)
    everything = sum(parameter.size for parameter in network.parameters())
    assert everything == 49 * 64 * 195 + 1024 + 4 * 65 * 11 + 4 * (8 * 11) ** 2
    assert network.architecture["num_classes"] == 11


@with_options
@pytest.mark.parametrize("sizes", [(2, 1, 1), (5, 3, 4), (11, 64, 3)])
def test_parameters_are_counted_without_building(sizes, options):
    """A layer forgotten in the count, which tells a hostile file from a whole one."""
    network = FCNBasic(*sizes, **options)
    assert FCNBasic.count_parameters(network.architecture) == sum(parameter.size for parameter in network.parameters())


@with_options
def test_every_size_of_image_comes_out_again(options):
    """Floor pooling, a map that is a pixel smaller than the one it is added to, height and width exchanged."""
    network = FCNBasic(2, 1, **options).eval()
    with no_grad():
        for height in range(1, 51):
            width = 51 - height
            assert network(Tensor(np.zeros((1, 3, height, width), np.float32))).shape == (1, 2, height, width)


def test_a_single_cell_cannot_be_normalised_in_training():
    """conv4 gives one cell for pictures of up to 8 pixels, and four from 9 on."""
    network = FCNBasic(2, 1)
    with pytest.raises(ShapeError, match=r"batch_norm: .*freeze batch normalisation"):
        network(Tensor(np.ones((1, 3, 8, 8), np.float32)))
    assert network(Tensor(np.ones((1, 3, 9, 9), np.float32))).shape == (1, 2, 9, 9)
    network.freeze_batch_norm()
    assert network(Tensor(np.ones((1, 3, 1, 1), np.float32))).shape == (1, 2, 1, 1)


@with_options
@pytest.mark.parametrize("classes", [2, 11])
def test_the_first_loss_is_the_logarithm_of_the_number_of_classes(classes, options):
    """A score layer that starts random."""
    generator = np.random.default_rng(0)
    scores = FCNBasic(classes, 2, **options)(Tensor(generator.normal(size=(2, 3, 24, 31)).astype(np.float32)))
    assert_array_equal(scores.data, 0)
    loss = ops.softmax_cross_entropy(scores, generator.integers(0, classes, (2, 24, 31)))
    assert loss.item() == pytest.approx(np.log(classes), rel=1e-6)


def test_upsampling_starts_bilinear():
    """A kernel of 8 that is bilinear for a stride of 4, or off the middle, or mixes classes: a ramp must stay one."""
    network = FCNBasic(2, 1)
    ramp = np.arange(6, dtype=np.float32)
    maps = np.stack([np.tile(ramp[:, None], 6), np.tile(10 * ramp, (6, 1))])[None]
    with no_grad():
        up = network.upscore_pool3(Tensor(maps)).data[0]
    places = (np.arange(12) - 0.5) / 2  # of the fine pixels, in coarse ones
    assert up.shape == (2, 12, 12)
    assert_allclose(up[0, 2:-2, 5], places[2:-2], atol=1e-5)
    assert_allclose(up[1, 5, 2:-2], 10 * places[2:-2], atol=1e-5)


def alone(path, **options):
    """One channel, the image handed on to one score layer: only pooling and upsampling act."""
    network = FCNBasic(1, 1, 1, batch_norm=False, **options).eval()
    for name, parameter in network.named_parameters():
        layer, _, kind = name.partition(".")
        if not layer.startswith("upscore"):
            parameter.data[...] = 0
            if kind == "weight" and (layer.startswith("conv") or layer == path):
                middle = parameter.shape[2] // 2
                parameter.data[0, 0, middle, middle] = 1
    return network


def mean_offset(network):
    """(row, column) offset of the centroid of the answer from a white pixel, averaged over 16 of its positions."""
    offsets, rows, columns = [], np.arange(128), np.arange(112)
    with no_grad():
        for position in range(48, 64):
            image = np.zeros((1, 1, 128, 112), np.float32)
            image[0, 0, position, position] = 1
            answer = network(Tensor(image)).data[0, 0].astype(float)
            weights = answer / answer.sum()
            offsets.append([weights.sum(1) @ rows - position, weights.sum(0) @ columns - position])
    return np.mean(offsets, axis=0)


@pytest.mark.cpu_only("about crops, and long")
@pytest.mark.parametrize(
    ("path", "skips"), [*((f"score_pool{level}", "add") for level in (1, 2, 3, 4)), ("score_pool4", "none")]
)
def test_scores_lie_where_their_pixels_are(path, skips):
    """A padding or crop off by a pixel, on each way through the network by itself. A pixel lights up its cell; over
    all its places in a cell the errors average out."""
    assert np.abs(mean_offset(alone(path, skips=skips))).max() < 1e-3


@pytest.mark.cpu_only("about crops, and long")
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_the_alignment_finds_a_wrong_padding(level):
    """A test of the test: one transposed convolution laid a pixel of its own further down and right."""
    network = alone("score_pool4")
    layer = getattr(network, f"upscore_pool{level}")
    layer.weight.data = np.roll(layer.weight.numpy(), 1, axis=(2, 3))
    assert np.abs(mean_offset(network)).min() > 0.9


@pytest.mark.parametrize(("learned", "expected"), [("all", True), ("none", False)])
def test_a_step_moves_everything_that_is_not_fixed(learned, expected):
    """Fixed filters worn away by weight decay; running statistics that an optimiser moves."""
    network = fill(FCNBasic(3, 2, learned_upsampling=learned)).eval()
    before, optimizer = network.state_dict(), SGD(network.parameters(), lr=0.01, weight_decay=0.1)
    image = np.random.default_rng(0).normal(size=(1, 3, 33, 20))
    ops.softmax_cross_entropy(network(Tensor(image)), np.ones((1, 33, 20), int)).backward()
    optimizer.step()
    after = network.state_dict()
    kept = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name for name in kept if name.startswith("conv")} == {name for name in before if "running" in name}
    assert {name.startswith("upscore") for name in before.keys() - kept} == {expected, False}


def test_it_learns_where_a_blob_is_though_it_is_shifted():
    """Any slip that the parts above do not show: from random values to a bright square, at places never seen before."""
    generator = np.random.default_rng(0)

    def pictures(count):
        images, labels = 0.3 * generator.normal(size=(count, 1, 32, 40)), np.zeros((count, 32, 40), int)
        for image, label in zip(images, labels, strict=True):
            top, left = generator.integers(0, 24), generator.integers(0, 32)
            image[0, top : top + 8, left : left + 8] += 3
            label[top : top + 8, left : left + 8] = 1
        return Tensor(images.astype(np.float32)), labels

    network = FCNBasic(2, 4, 1)
    optimizer = SGD(network.parameters(), lr=0.3, momentum=0.9)
    for _ in range(40):
        images, labels = pictures(4)
        optimizer.zero_grad()
        ops.softmax_cross_entropy(network(images), labels).backward()
        optimizer.step()
    images, labels = pictures(8)
    with no_grad():
        found = network.eval()(images).numpy().argmax(axis=1)
    union = ((found == 1) | (labels == 1)).sum()
    assert ((found == 1) & (labels == 1)).sum() / union > 0.8


def test_a_file_of_it_is_the_same_network(tmp_path: Path):
    """An option that the architecture leaves out, so that another network is built."""
    from minifcn import weights

    for number, options in enumerate(OPTIONS):
        network = fill(FCNBasic(3, 2, 4, **options)).astype(np.float32).eval()
        network.preprocessing = weights.Preprocessing("BGR", 0.5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
        path = tmp_path / f"{number}.safetensors"
        weights.save_weights(
            path, network.state_dict(), architecture=network.architecture, preprocessing=network.preprocessing
        )
        again = models.from_weights(path)
        assert type(again) is FCNBasic
        assert (again.architecture, again.preprocessing) == (network.architecture, network.preprocessing)
        assert not again.training
        image = Tensor(np.random.default_rng(0).normal(size=(1, 4, 30, 21)).astype(np.float32))
        with no_grad():
            assert_array_equal(again(image).data, network(image).data)


def test_what_does_not_exist_is_refused_by_name():
    """A typing mistake that silently takes the default; a number of channels that nothing can be made of."""
    with pytest.raises(UsageError, match="FCNBasic: skips 'concat' is not one of add, none"):
        FCNBasic(skips="concat")
    with pytest.raises(UsageError, match="FCNBasic: learned_upsampling 'intermediate' is not one of all, none"):
        FCNBasic(learned_upsampling="intermediate")
    with pytest.raises(ShapeError, match="FCNBasic: num_classes=0, in_channels=-1 must be at least 1"):
        FCNBasic(0, 1, -1)
    for shape in [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)]:
        with pytest.raises(ShapeError, match=r"FCNBasic: .*\(N, 3, H, W\) is expected"):
            FCNBasic(2, 1)(Tensor(np.zeros(shape, np.float32)))
