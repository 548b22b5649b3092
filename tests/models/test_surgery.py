"""Surgery: dense layers as convolutions, and weights that go from one network to the next."""

import numpy as np
import pytest
from devices import assert_allclose, assert_array_equal, on_device, to_host
from networks import fill

from minifcn import Tensor, models, no_grad, ops
from minifcn.errors import ShapeError, WeightsError
from minifcn.models import surgery
from minifcn.nn import bilinear_weight
from minifcn.weights import WeightFile

pytestmark = pytest.mark.usefixtures("device")

CONVOLUTIONS = tuple(
    f"conv{block}_{position}.{kind}"
    for block, depth in enumerate((2, 2, 3, 3, 3), start=1)
    for position in range(1, depth + 1)
    for kind in ("weight", "bias")
)
FC = ("fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias")


def images(*size, channels=3):
    return Tensor(np.random.default_rng(list(size)).normal(size=(1, channels, *size)))


def test_fc_to_conv_moves_no_number():
    """Rows for columns, or channels last: the first 4 of these inputs are channel 0, row by row."""
    weight = np.arange(12).reshape(1, 12)
    assert_array_equal(surgery.fc_to_conv(weight, (2, 3)), [[[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]])
    assert surgery.fc_to_conv(np.zeros((4096, 25088), np.float32), (7, 7)).shape == (4096, 512, 7, 7)
    assert surgery.fc_to_conv(np.zeros((10, 6)), (1, 1)).shape == (10, 6, 1, 1)


def test_fc_to_conv_refuses_what_is_not_a_dense_weight_of_that_size():
    """48 inputs are not a number of 7×7 maps; a convolution's weight is one already."""
    with pytest.raises(ShapeError, match=r"48 inputs do not divide into kernels of \(7, 7\)"):
        surgery.fc_to_conv(np.zeros((3, 48)), (7, 7))
    with pytest.raises(ShapeError, match=r"\(3, 1, 7, 7\).*\(out, in\)"):
        surgery.fc_to_conv(np.zeros((3, 1, 7, 7)), (7, 7))


def dense_at_every_window(classifier, pool5):
    """What the dense layers say about each 7×7 window of the map, one window after the other."""
    state, (rows, columns) = classifier.state_dict(), (pool5.shape[2] - 6, pool5.shape[3] - 6)
    scores = np.empty((len(state["fc8.bias"]), rows, columns))
    for row, column in np.ndindex(rows, columns):
        h = pool5[0, :, row : row + 7, column : column + 7].ravel()
        for layer in ("fc6", "fc7"):
            h = np.maximum(state[f"{layer}.weight"] @ h + state[f"{layer}.bias"], 0)
        scores[:, row, column] = state["fc8.weight"] @ h + state["fc8.bias"]
    return scores


def assert_slides_like_the_classifier(classifier):
    with no_grad():
        converted, image = surgery.fully_convolutional(classifier), images(300, 250)
        scores = converted(image).data[0]
        expected = dense_at_every_window(classifier, classifier.features(image)["pool5"].numpy())
    assert scores.shape == (5, 4, 2)
    assert np.ptp(expected, axis=(1, 2)).min() > 0.01  # windows that all look alike would compare nothing
    assert_allclose(scores, expected, rtol=0, atol=1e-10)


@pytest.fixture
def classifier():
    return fill(models.VGG11(5, 2, 6)).eval()


def test_the_converted_classifier_agrees_on_one_window(classifier):
    """A layer that was not copied; the wrong padding in fc6."""
    converted = surgery.fully_convolutional(classifier)
    with no_grad():
        for size in [(224, 224), (193, 222)]:  # ceil pooling: both have 7×7 cells
            scores = converted(images(*size)).data
            assert scores.shape == (1, 5, 1, 1)
            assert_allclose(scores[:, :, 0, 0], classifier(images(*size)).data, rtol=0, atol=1e-10)


def test_the_converted_classifier_agrees_at_every_window(classifier):
    """A kernel that is transposed, flipped or out of order can agree with itself, but not with the slid classifier."""
    assert_slides_like_the_classifier(classifier)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda w, k: w.reshape(w.shape[0], -1, *k).transpose(0, 1, 3, 2),  # rows for columns
        lambda w, k: w.reshape(w.shape[0], *k, -1).transpose(0, 3, 1, 2),  # read as channels last
        lambda w, k: w.reshape(w.shape[0], -1, *k)[:, :, ::-1, ::-1],  # flipped, as in a true convolution
        lambda w, k: w.reshape(w.shape[0], -1, *k, order="F"),
    ],
)
def test_the_windows_find_a_wrong_reshape(classifier, monkeypatch, wrong):
    """A test of the test."""
    monkeypatch.setattr(surgery, "fc_to_conv", wrong)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_slides_like_the_classifier(classifier)


def test_the_converted_classifier_keeps_dtype_mode_and_family(classifier):
    """A float64 classifier that comes back in float32 refuses its own images; dropout that comes back on."""
    converted = surgery.fully_convolutional(classifier)
    assert type(converted) is models.VGG11
    assert {parameter.dtype for parameter in converted.parameters()} == {np.dtype(np.float64)}
    assert not converted.training
    assert surgery.fully_convolutional(models.VGG11(5, 1, 1)).training
    assert_array_equal(converted.state_dict()["fc6.bias"], classifier.state_dict()["fc6.bias"])


def test_converting_twice_changes_nothing(classifier):
    """A second reshape of what is a convolution already."""
    once = surgery.fully_convolutional(classifier)
    for name, array in surgery.fully_convolutional(once).state_dict().items():
        assert_array_equal(array, once.state_dict()[name])


def test_every_tensor_is_accounted_for_from_classifier_to_8s():
    """A stage that drops fc7 (the commonest mistake of the write-ups), starts its scores anew, or hides what it did."""
    classifier = fill(models.VGG16(5, 1, 2))
    stage32, stage16, stage8 = (model(4, 1, 2) for model in (models.FCN32s, models.FCN16s, models.FCN8s))
    report = surgery.transplant(classifier.state_dict(), stage32)
    assert set(report.copied) == {*CONVOLUTIONS, "fc6.bias", "fc7.bias"}
    assert report.reshaped == ("fc6.weight", "fc7.weight")
    assert report.dropped == ("fc8.weight", "fc8.bias")
    assert report.new == ("score_fr.weight", "score_fr.bias", "upscore.weight")
    report = surgery.transplant(fill(stage32).state_dict(), stage16)
    assert set(report.copied) == {*CONVOLUTIONS, *FC, "score_fr.weight", "score_fr.bias"}
    assert (report.reshaped, report.dropped) == ((), ("upscore.weight",))
    assert set(report.new) == {"upscore2.weight", "score_pool4.weight", "score_pool4.bias", "upscore16.weight"}
    report = surgery.transplant(fill(stage16).state_dict(), stage8)
    kept = ("score_fr.weight", "score_fr.bias", "upscore2.weight", "score_pool4.weight", "score_pool4.bias")
    assert set(report.copied) == {*CONVOLUTIONS, *FC, *kept}
    assert (report.reshaped, report.dropped) == ((), ("upscore16.weight",))
    assert set(report.new) == {"upscore_pool4.weight", "score_pool3.weight", "score_pool3.bias", "upscore8.weight"}
    assert report.summary() == (
        "35 tensors copied; 0 reshaped; dropped upscore16.weight; "
        "new upscore_pool4.weight, score_pool3.weight, score_pool3.bias, upscore8.weight"
    )


def test_the_report_is_a_table_of_names_and_shapes():
    """Both shapes of a reshaped tensor; a dash where a tensor is not."""
    report = surgery.transplant(models.VGG16(5, 1, 2).state_dict(), models.FCN32s(4, 1, 2))
    lines = [line.split(maxsplit=3) for line in str(report).splitlines()]
    assert lines[0] == ["tensor", "in", "the", "file  in the network"]
    assert ["conv1_1.weight", "1×3×3×3", "1×3×3×3", "copied"] in lines
    assert ["fc6.weight", "2×392", "2×8×7×7", "reshaped"] in lines
    assert ["fc8.bias", "5", "—", "dropped"] in lines
    assert ["score_fr.weight", "—", "4×2×1×1", "newly initialised: zero"] in lines
    assert ["upscore.weight", "—", "4×4×64×64", "newly initialised: bilinear"] in lines


def test_what_is_reported_is_what_happened():
    """A report that is made up from the names: values, and what was to be kept, are looked at."""
    source, target = fill(models.VGG16(5, 1, 2), seed=1).state_dict(), fill(models.FCN32s(4, 1, 2), seed=2)
    before, report = target.state_dict(), surgery.transplant(source, target)
    after = target.state_dict()
    for name in report.copied:
        assert_array_equal(after[name], source[name])
    for name in report.reshaped:
        assert_array_equal(after[name].ravel(), source[name].ravel())
    for name in report.new:
        assert_array_equal(after[name], before[name])


def test_the_target_keeps_its_dtype_and_shares_no_memory():
    """Training the new stage would change the old one, or a float64 file would turn a network into float64."""
    source, target = fill(models.VGG16(5, 1, 2)).state_dict(), models.FCN32s(4, 1, 2).astype(np.float64)
    surgery.transplant(source, target)
    source["conv1_1.weight"][...] = 7
    source["fc6.weight"][...] = 7
    assert not (target.conv1_1.weight.data == 7).any()
    assert not (target.fc6.weight.data == 7).any()
    narrow = models.FCN32s(4, 1, 2)
    surgery.transplant(source, narrow)
    assert {parameter.dtype for parameter in narrow.parameters()} == {np.dtype(np.float32)}


def test_tensors_that_do_not_fit_are_all_listed_and_nothing_is_changed():
    """Stopping at the first one; a target that is half old, half new."""
    target = models.FCN32s(4, 2, 3)
    before = target.state_dict()
    with pytest.raises(WeightsError) as caught:
        surgery.transplant(models.FCN16s(5, 2, 4).state_dict(), target)
    assert "6 tensors do not fit; are width, fc_width, in_channels and the number of classes equal?" in str(
        caught.value
    )
    for name, shapes in {
        "fc6.weight": "(4, 16, 7, 7), the target (3, 16, 7, 7)",
        "fc6.bias": "(4,), the target (3,)",
        "fc7.weight": "(4, 4, 1, 1), the target (3, 3, 1, 1)",
        "fc7.bias": "(4,), the target (3,)",
        "score_fr.weight": "(5, 4, 1, 1), the target (4, 3, 1, 1)",
        "score_fr.bias": "(5,), the target (4,)",
    }.items():
        assert f"{name}: the source has shape {shapes}" in str(caught.value)
    for name, array in target.state_dict().items():
        assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("source", "culprit"),
    [
        (models.VGG16(5, 2, 2), "fc6.weight: the source has shape (2, 784)"),
        (models.VGG19(5, 1, 3), "fc6.weight: the source has shape (3, 392)"),
        (models.VGG16(5, 1, 2, 1), "conv1_1.weight: the source has shape (1, 1, 3, 3)"),
    ],
)
def test_another_width_or_number_of_channels_is_an_error(source, culprit):
    """A dense weight that divides into kernels by accident, reshaped into a network of another width."""
    with pytest.raises(WeightsError) as caught:
        surgery.transplant(source.state_dict(), models.FCN32s(4, 1, 2))
    assert culprit in str(caught.value)


@pytest.mark.parametrize("source", [{}, {"features.0.weight": np.zeros((64, 3, 3, 3))}])
def test_nothing_in_common_is_an_error(source):
    """Other names (torchvision's, say), nothing copied, and a network that trains from scratch unnoticed."""
    with pytest.raises(WeightsError, match="no tensor name in common"):
        surgery.transplant(source, models.FCN32s(4, 1, 2))


def bilinear_stages(coarse, fine, geometry):
    """A random network, and the next finer one right after the transplant, both with bilinear upsampling in float64."""
    first = fill(coarse(3, 1, 4, geometry=geometry)).eval()
    for step in first.upsamplings:
        layer = getattr(first, step.name)
        layer.weight.data = on_device(bilinear_weight(3, 2 * step.stride).astype(float))
    second = fine(3, 1, 4, geometry=geometry).astype(np.float64).eval()
    surgery.transplant(first.state_dict(), second)
    return first, second


def scores_and_last_cells(network, image):
    """The network's output, and what went into its last upsampling."""
    seen, last = [], getattr(network, network.upsamplings[-1].name)
    genuine = last.forward
    last.forward = lambda x: seen.append(x) or genuine(x)
    with no_grad():
        return network(image).numpy(), seen[0]


STAGES = [(models.FCN32s, models.FCN16s), (models.FCN16s, models.FCN8s)]


@pytest.mark.parametrize("geometry", ["paper", "same"])
@pytest.mark.parametrize(("coarse", "fine"), STAGES)
def test_a_new_skip_changes_nothing_at_first(coarse, fine, geometry):
    """A score layer of the new skip that does not start at zero: the finer network must give exactly the coarser one's
    last scores, enlarged by its own two upsamplings, with no skip between."""
    first, second = bilinear_stages(coarse, fine, geometry)
    image = images(40, 57)
    _, cells = scores_and_last_cells(first, image)
    between, last = (step.name for step in second.upsamplings[-2:])
    with no_grad():
        enlarged = getattr(second, between)(cells)
        if geometry == "same":  # cropped to the size of the skip's map: the image halved, rounded up
            halvings = 4 if fine is models.FCN16s else 3
            enlarged = ops.crop(enlarged, 0, [-(-length // 2**halvings) for length in image.shape[2:]])
        enlarged = getattr(second, last)(enlarged)
        expected = ops.crop(enlarged, second.crops[last], image.shape[2:]).data
        assert_allclose(second(image).data, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("geometry", ["paper", "same"])
@pytest.mark.parametrize(("coarse", "fine"), STAGES)
def test_the_next_stage_starts_where_the_last_one_ended(coarse, fine, geometry):
    """A transplant that leaves out a layer, or a finer stage that is shifted against the coarser one.

    The two are not quite equal. Enlarging by 2 samples the linear interpolation a quarter of a cell to either side of
    each cell's centre, and enlarging the rest interpolates between those samples: equal in the middle half between
    two centres, and at a centre, where the line bends, cut short by at most 1/8 of the bend along each axis."""
    first, second = bilinear_stages(coarse, fine, geometry)
    image = images(150, 130)
    before, cells = scores_and_last_cells(first, image)
    with no_grad():
        difference = np.abs(second(image).numpy() - before)
    bend = sum(np.abs(np.diff(cells.numpy(), 2, axis=axis)).max() for axis in (2, 3))
    last = first.upsamplings[-1]
    inside, equal = [], []  # rows and columns away from the map's edge; of those, the ones half-way between centres
    for length, count in zip(image.shape[2:], cells.shape[2:], strict=True):
        pixel = np.arange(length) + first.crops[last.name] + getattr(first, last.name).padding
        place = (pixel + 0.5) / last.stride - 1  # in cells: the first centre lies a stride from the tent's beginning
        inside.append((place > 0.5) & (place < count - 1.5))
        equal.append(inside[-1] & (np.abs(place % 1 - 0.5) <= 0.25))
    assert difference[:, :, *np.ix_(*equal)].size > 1000
    assert difference[:, :, *np.ix_(*equal)].max() < 1e-12
    assert bend / 1000 < difference[:, :, *np.ix_(*inside)].max() <= bend / 8


def test_a_classifier_with_batch_normalisation_slides_too():
    """Statistics of the dense layers lost when they become convolutions."""
    classifier = fill(models.VGG11(5, 2, 6, batch_norm=True)).eval()
    converted, image = surgery.fully_convolutional(classifier), images(224, 224)
    with no_grad():
        assert_allclose(converted(image).data[:, :, 0, 0], classifier(image).data, rtol=0, atol=1e-10)


def test_every_tensor_of_batch_normalisation_goes_from_stage_to_stage():
    """Statistics that start anew in the next stage, whose weights were trained with the old ones."""
    classifier = fill(models.VGG16(5, 1, 2, batch_norm=True)).astype(np.float32)
    stage32 = models.FCN32s(4, 1, 2, batch_norm=True)
    report = surgery.transplant(classifier.state_dict(), stage32)
    assert report.dropped == ("fc8.weight", "fc8.bias")
    assert report.new == ("score_fr.weight", "score_fr.bias", "upscore.weight")
    normalised = [name for name in stage32.state_dict() if "_bn." in name]
    assert len(normalised) == 4 * 15
    for name in normalised:
        assert_array_equal(stage32.state_dict()[name], classifier.state_dict()[name])


def weight_file(model):
    return WeightFile(model.state_dict(), model.architecture)


# Made before there is any device: of names and shapes, which are the same everywhere.
WITH, WITHOUT = models.FCN8s(3, 1, 2, batch_norm=True), models.FCN8s(3, 1, 2)


@pytest.mark.cpu_only("its networks are made on the CPU")
@pytest.mark.parametrize(
    ("file", "network", "says", "lists"),
    [
        (
            weight_file(WITH),
            WITHOUT,
            "the file has batch_norm=True, the network batch_norm=False",
            [
                "conv1_1.bias: not in the file, (1,) in the network",
                "fc7_bn.running_var: (2,) in the file, not in the n",
            ],
        ),
        (
            weight_file(WITHOUT),
            WITH,
            "the file has batch_norm=False, the network batch_norm=True",
            [
                "conv1_1.bias: (1,) in the file, not in the network",
                "fc7_bn.running_var: not in the file, (2,) in the n",
            ],
        ),
        (  # as a published file is read, whose architecture says nothing about it
            WeightFile(WITHOUT.state_dict(), {"name": "fcn8s", "num_classes": 3, "width": 1, "fc_width": 2}),
            WITH,
            "the file has batch_norm=False, the network batch_norm=True",
            ["conv1_1_bn.weight: not in the file, (1,) in the network"],
        ),
        (
            weight_file(models.FCNBasic(3, 1)),
            WITHOUT,
            "the file holds fcn-basic, the network is fcn8s, with another number of layers",
            ["conv1.weight: (1, 3, 7, 7) in the file, not in the network"],
        ),
        (
            weight_file(WITHOUT),
            models.FCNBasic(3, 1),
            "the file holds fcn8s, the network is fcn-basic, with another number of layers",
            ["conv1_1.weight: (1, 3, 3, 3) in the file, not in the network"],
        ),
        (
            weight_file(models.FCNBasic(3, 1, batch_norm=False)),
            models.FCNBasic(3, 1),
            "the file has batch_norm=False, the network batch_norm=True",
            ["conv1.bias: (1,) in the file, not in the network"],
        ),
    ],
    ids=["with into without", "without into with", "published into with", "basic", "into basic", "basic without"],
)
def test_batch_normalisation_on_one_side_only_is_refused_and_named(file, network, says, lists):
    """Scales and statistics dropped without a word, from weights that are worth nothing without them."""
    before = network.state_dict()
    with pytest.raises(WeightsError) as caught:
        models.load_pretrained(network, file)
    assert says in str(caught.value)
    for line in lists:
        assert line in str(caught.value)
    for name, array in network.state_dict().items():
        assert_array_equal(array, before[name])


def test_fcn_basic_takes_its_own_weights_for_other_classes():
    """Everything new, or a KeyError for a width of dense layers that it does not have."""
    source, target = fill(models.FCNBasic(3, 2)), models.FCNBasic(5, 2)
    report = models.load_pretrained(target, weight_file(source))
    assert {name.partition(".")[0][:4] for name in report.copied} == {"conv"}
    assert {name.partition(".")[0][:-1] for name in report.new} == {"score_pool", "upscore_pool"}
    assert_array_equal(target.conv3_bn.running_mean.data, to_host(source.conv3_bn.running_mean.data).astype(np.float32))
