"""Prediction by tiles, at several scales and mirrored: what the whole picture gives, in memory that does not grow."""

import tracemalloc

import numpy as np
import pytest
from devices import on_device
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from minifcn import Tensor, models, nn, no_grad, prediction
from minifcn.errors import ShapeError, UsageError
from minifcn.prediction import label_pixels, reach
from minifcn.weights import Preprocessing

on_every_device = pytest.mark.usefixtures("device")  # of the others, the longest, nothing depends on the device
PLAIN = Preprocessing("RGB", 1 / 255, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
NETWORKS = {
    "fcn32s": models.FCN32s,
    "fcn16s": models.FCN16s,
    "fcn8s": models.FCN8s,
    "fcn4s": models.FCN4s,
    "fcn-basic": models.FCNBasic,
}
REACH = {"fcn32s": 233, "fcn16s": 241, "fcn8s": 245, "fcn4s": 247, "fcn-basic": 105}


def network(name, seed=0, **options):
    """A network of three classes two channels wide, all of whose layers let something through: its convolutions take
    weighted means, its batch normalisation has statistics of its own.
    """
    rng = np.random.default_rng(seed)
    sizes = {"width": 2} if name == "fcn-basic" else {"width": 2, "fc_width": 4}
    model = NETWORKS[name](3, **sizes, **options)
    for key, parameter in model.named_parameters():
        shape = parameter.shape
        if key.startswith("score"):
            values = 3 * rng.standard_normal(shape)
        elif key.endswith("running_var"):
            values = rng.uniform(0.5, 2, shape)
        elif parameter.data.ndim == 1:
            values = 0.1 * rng.standard_normal(shape) + key.endswith("_bn.weight")
        elif key.startswith("upscore"):
            continue
        else:
            values = rng.random(shape) ** 2
            values /= values.sum(axis=(1, 2, 3), keepdims=True)
        parameter.data = on_device(values.astype(np.float32))
    return model


def cells(height, width, seed=0, size=16):
    """A picture of coloured squares, in which something is to be seen from far away."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (height // size + 1, width // size + 1, 3), np.uint8)
    return colors.repeat(size, axis=0).repeat(size, axis=1)[:height, :width]


def probabilities_of(model, image, **options):
    probabilities = np.empty((3, *image.shape[:2]), np.float32)
    labels = label_pixels(model, image, PLAIN, probabilities=probabilities, **options)
    assert_array_equal(labels, probabilities.argmax(axis=0))
    assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    return probabilities


CASES = [
    ("fcn32s", {"geometry": "paper"}),
    ("fcn16s", {"geometry": "same"}),
    ("fcn8s", {"geometry": "paper"}),
    ("fcn4s", {"geometry": "same"}),
    ("fcn8s", {"geometry": "same", "batch_norm": True}),
    ("fcn8s", {"geometry": "same", "skips": "none"}),
    ("fcn-basic", {}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_tiles_give_the_scores_of_the_whole_picture(name, options):
    """A tile that begins between two cells, too little around it, or a wrong place in the picture.

    The picture's height is no multiple of 32. With the overlap cut down it differs, so that it can fail.
    """
    model, image = network(name, **options), cells(2 * REACH[name] + 163, 45)
    whole = probabilities_of(model, image, tile=2000)
    assert whole.std() > 1e-3
    tiled = probabilities_of(model, image, tile=32)
    assert_allclose(tiled, whole, atol=2e-6)
    assert not np.allclose(probabilities_of(model, image, tile=32, overlap=32), whole, atol=2e-6)


def test_tiles_lie_beside_each_other_too():
    """Rows and columns exchanged: a tall picture of one column of tiles does not tell."""
    model, image = network("fcn-basic"), cells(300, 410)
    whole = probabilities_of(model, image, tile=2000)
    assert_allclose(probabilities_of(model, image, tile=64), whole, atol=2e-6)
    assert_allclose(
        probabilities_of(model, image[::-1].transpose(1, 0, 2), tile=(100)),
        probabilities_of(model, image[::-1].transpose(1, 0, 2), tile=2000),
        atol=2e-6,
    )


@on_every_device
def test_inside_a_tile_a_small_overlap_does_no_harm():
    """What the docstring calls the interior: at least `reach` from where the picture was cut."""
    model, image = network("fcn-basic"), cells(640, 32)
    whole = probabilities_of(model, image, tile=2000)
    tiled = probabilities_of(model, image, tile=320, overlap=0)  # cut in the middle, at row 320
    far = REACH["fcn-basic"]
    for part in (np.s_[:, : 320 - far], np.s_[:, 320 + far :]):
        assert_allclose(tiled[part], whole[part], atol=2e-6)
    assert np.abs(tiled - whole)[:, 310:330].max() > 1e-3


@pytest.mark.parametrize("name", REACH)
def test_reach_is_as_far_as_a_network_sees(name):
    """An overlap too small, or one larger than needed, which costs its square in time."""
    model = network(name, **({} if name == "fcn-basic" else {"geometry": "same"})).astype(np.float64).eval()
    for key, parameter in model.named_parameters():
        positive = np.abs(parameter.data) + 0.01 * key.startswith("upscore")  # FCN-Basic's begin with zeros around them
        parameter.data = positive if key.endswith("weight") else 0 * positive
    assert reach(model) == REACH[name]
    height, farthest = 640, 0
    for row in range(288, 320):
        image = np.zeros((1, 3, height, 8))
        image[:, :, row] = 1
        with no_grad():
            scores = model(Tensor(image)).data[0].sum(axis=(0, 2))
        rows = np.flatnonzero(scores > 1e-13 * scores.max())
        farthest = max(farthest, row - rows[0], rows[-1] - row)
    assert reach(model) - 16 < farthest <= reach(model)


@on_every_device
def test_several_scales_and_the_mirror_image_are_averaged():
    """Scores averaged in place of probabilities, a mirror image that is not turned back, or a scale forgotten."""
    model, image = network("fcn8s", geometry="same").eval(), cells(70, 50)

    def softmax(picture):
        with no_grad():
            scores = model(Tensor(PLAIN.apply(picture)[None])).numpy()[0]
        powers = np.exp(scores - scores.max(axis=0))
        return powers / powers.sum(axis=0)

    mirrored = softmax(np.ascontiguousarray(image[:, ::-1]))[:, :, ::-1]
    assert_allclose(probabilities_of(model, image, flip=True), (softmax(image) + mirrored) / 2, atol=1e-6)

    half = np.asarray(Image.fromarray(image).resize((25, 35), Image.Resampling.BILINEAR))
    with no_grad():
        scores = model(Tensor(PLAIN.apply(half)[None])).numpy()[0]
    enlarged = np.stack([np.asarray(Image.fromarray(s).resize((50, 70), Image.Resampling.BILINEAR)) for s in scores])
    powers = np.exp(enlarged)
    expected = (softmax(image) + powers / powers.sum(axis=0)) / 2
    assert_allclose(probabilities_of(model, image, scales=(1, 0.5)), expected, atol=1e-5)
    assert_allclose(probabilities_of(model, image, scales=(0.5,)), powers / powers.sum(axis=0), atol=1e-5)
    assert_allclose(probabilities_of(model, image, size=(35, 25)), powers / powers.sum(axis=0), atol=1e-5)


def test_what_is_symmetric_stays_so_when_flipped_by_tiles():
    """The cells of the mirror image begin at its own left edge; columns of the picture are no cells of it."""
    model, image = network("fcn-basic"), cells(40, 389)
    whole = probabilities_of(model, image, flip=True, tile=2000)
    assert_allclose(probabilities_of(model, image, flip=True, tile=64), whole, atol=2e-6)
    mirrored = probabilities_of(model, np.ascontiguousarray(image[:, ::-1]), flip=True, tile=64)
    assert_allclose(mirrored[:, :, ::-1], whole, atol=2e-6)


@pytest.mark.parametrize("options", [{"scales": (0.6, 1, 1.7)}, {"size": (90, 700)}, {"size": (500, 30), "flip": True}])
def test_scaled_pictures_are_tiled_alike(options):
    """Parts that are scaled by themselves, and so shifted by a fraction of a pixel, or without what lies around them.

    A colour may be rounded the other way, by 1 in 255, where the place of a part is no binary fraction.
    """
    model, image = network("fcn-basic"), cells(260, 330)
    whole = probabilities_of(model, image, tile=2000, **options)
    assert_allclose(probabilities_of(model, image, tile=96, **options), whole, atol=5e-6)


class Endless:
    """A picture that is made where it is looked at, and so takes no memory."""

    def __init__(self, height, width):
        self.shape = (height, width, 3)

    def __getitem__(self, part):
        rows, columns = (np.arange(length)[one] for one, length in zip(part, self.shape, strict=False))
        pixels = np.empty((len(rows), len(columns), 3), np.uint8)  # no wider numbers, which would take more than it
        pixels[:] = (rows // 7).astype(np.uint8)[:, None, None] + (columns // 5).astype(np.uint8)[:, None]
        return pixels


@pytest.mark.parametrize("options", [{"flip": True}, {"size": (64, 64)}, {"scales": (0.5,)}])
def test_memory_does_not_grow_with_the_picture(monkeypatch, options):
    """A plane of the picture's size for every class, a scaled copy, or a list of what is still to come."""
    monkeypatch.setattr(prediction, "_PIXELS", 2**12)  # less than in either picture, as they are in a large one
    monkeypatch.setattr(prediction, "_SCORES", 2**12)
    model, peaks = network("fcn-basic"), []
    for height, width in ((384, 384), (384, 384), (768, 1024)):  # the first time, operations get their scratch memory
        height, width = (round(side / min(options.get("scales", [1]))) for side in (height, width))
        tracemalloc.start()
        labels = label_pixels(model, Endless(height, width), PLAIN, tile=128, overlap=32, **options)
        peaks.append(tracemalloc.get_traced_memory()[1] - labels.nbytes)
        tracemalloc.stop()
    more_pixels = 768 * 1024 - 384 * 384
    assert peaks[2] - peaks[1] < 0.5 * more_pixels  # bytes; one plane of uint8 would be 1.0


@on_every_device
def test_probabilities_may_be_stored_elsewhere():
    """Parts that overlap, or that are stored twice."""
    model, image, stored = network("fcn-basic"), cells(70, 90), np.zeros((3, 70, 90), np.int64)

    class Counting:
        def __setitem__(self, part, values):
            assert values.dtype == np.float32
            stored[part] += 1

    label_pixels(model, image, PLAIN, tile=32, overlap=0, probabilities=Counting())
    assert (stored == 1).all()


@on_every_device
def test_what_cannot_be_computed_is_refused():
    """Each by itself, with what is needed instead."""
    model, image = network("fcn-basic"), cells(70, 70)
    for options, words in (
        ({"scales": ()}, "--scales"),
        ({"scales": (1, -1)}, "above 0"),
        ({"scales": (float("nan"),)}, "above 0"),
        ({"tile": 31}, "--tile 31.*32"),
        ({"overlap": -1}, "--overlap -1"),
    ):
        with pytest.raises(UsageError, match=words):
            label_pixels(model, image, PLAIN, **options)

    class Other(nn.Module):
        def forward(self, x):
            return x

    assert label_pixels(Other(), image, PLAIN).shape == (70, 70)
    assert label_pixels(Other(), image, PLAIN, tile=32, overlap=0).shape == (70, 70)
    with pytest.raises(UsageError, match=r"Other.*overlap="):
        label_pixels(Other(), image, PLAIN, tile=32)
    with pytest.raises(ShapeError, match="256 classes"):
        label_pixels(models.FCNBasic(256, width=1), image, PLAIN)
