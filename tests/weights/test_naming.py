"""Names and shapes: which network a set of tensors is, told without any file, and never by an exception."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from minifcn import models
from minifcn.errors import WeightsError
from minifcn.models.fcn import restore
from minifcn.weights import Preprocessing, WeightFile, load, save_weights
from minifcn.weights.naming import Network, fold_batch_norm, recognise, without_wrapper

pytest.importorskip("torch", reason="PyTorch, with which the tables of names are checked, is not installed")
import published as pub

VGG16, FCN8S = pub.network("vgg16"), pub.network("fcn8s")
SCALES = {f"scale_{pool}.weight": np.array([0.5], np.float32) for pool in ("pool4", "pool3")}


def with_batch_norm():
    state = pub.torch_vgg_bn("vgg16", VGG16).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


KNOWN = {
    "torchvision": pub.torchvision_names("vgg16", VGG16),
    "torchvision with batch normalisation": with_batch_norm(),
    "timm": pub.timm_names(pub.torchvision_names("vgg16", VGG16)),
    "Keras": pub.keras_names(VGG16),
    "tf.keras": pub.keras_names(VGG16, tf_keras=True),
    "paper": VGG16,
    "Chainer": pub.chainer_names(VGG16),
    "FCN-8s": FCN8S,
    "FCN-8s at once": FCN8S | SCALES,
    "FCN-32s, Chainer": pub.chainer_names(pub.network("fcn32s")),
}
CHANNELS = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}


def as_published(shapes):
    """Arrays of full size that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def trunk_shapes(layers):
    shapes, channels = {}, 3
    for layer in layers:
        if layer != "pool":
            shapes[f"{layer}.weight"] = (CHANNELS[layer[4]], channels, 3, 3)
            shapes[f"{layer}.bias"] = (channels := CHANNELS[layer[4]],)
    return shapes


PARAMETERS = {"vgg11": 132_863_336, "vgg13": 133_047_848, "vgg16": 138_357_544, "vgg19": 143_667_240}
DENSE = {
    "fc6.weight": (4096, 25088), "fc6.bias": (4096,), "fc7.weight": (4096, 4096), "fc7.bias": (4096,),
    "fc8.weight": (1000, 4096), "fc8.bias": (1000,),
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("names", ["paper", "torchvision", "Chainer"])
def test_classifiers_as_large_as_published_are_recognised(name, names):
    """A table that fits the narrow networks of the tests only; a copy of every number."""
    shapes = trunk_shapes(pub.LAYERS[name]) | DENSE
    tensors = as_published(shapes)
    if names == "torchvision":
        tensors = pub.torchvision_names(name, tensors)
    elif names == "Chainer":
        tensors = pub.chainer_names(tensors)
    network = recognise(tensors)
    assert {key: array.shape for key, array in network.tensors.items()} == shapes
    sizes = {"name": name, "num_classes": 1000, "width": 64, "fc_width": 4096, "in_channels": 3}
    assert network.architecture.items() >= sizes.items()
    assert sum(array.size for array in network.tensors.values()) == PARAMETERS[name]
    assert not any(array.flags.owndata for array in network.tensors.values())


UPSAMPLING = {
    "fcn32s": ({"upscore": 64}, {}, 136_152_917),
    "fcn16s": ({"upscore2": 4, "upscore16": 32}, {"score_pool4": 512}, 134_815_994),
    "fcn8s": (
        {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}, {"score_pool4": 512, "score_pool3": 256}, 134_489_759,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UPSAMPLING)
def test_fcns_as_large_as_published_are_recognised(name):
    """One FCN taken for another, which shares most of its layers."""
    kernels, skips, parameters = UPSAMPLING[name]
    shapes = trunk_shapes(pub.LAYERS["vgg16"])
    for layer, channels, size in [("fc6", 512, 7), ("fc7", 4096, 1)]:
        shapes |= {f"{layer}.weight": (4096, channels, size, size), f"{layer}.bias": (4096,)}
    for layer, channels in ({"score_fr": 4096} | skips).items():
        shapes |= {f"{layer}.weight": (21, channels, 1, 1), f"{layer}.bias": (21,)}
    shapes |= {f"{layer}.weight": (21, 21, size, size) for layer, size in kernels.items()}
    network = recognise(as_published(shapes))
    assert {key: array.shape for key, array in network.tensors.items()} == shapes
    sizes = {"name": name, "num_classes": 21, "width": 64, "fc_width": 4096, "in_channels": 3, "geometry": "paper"}
    assert network.architecture.items() >= sizes.items()
    assert sum(array.size for array in network.tensors.values()) == parameters


@pytest.mark.parametrize(
    ("names", "unwrapped"),
    [
        (["module.a", "module.b.c"], ["a", "b.c"]),
        (["module.module.a", "module.module.b"], ["a", "b"]),
        (["_orig_mod.module.a"], ["a"]),
        (["module._orig_mod.a"], ["a"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["module.a", "module.module.a"], ["a", "module.a"]),
        (["modules.a"], ["modules.a"]),
        ([], []),
    ],
)
def test_a_prefix_before_every_name_is_taken_off(names, unwrapped):
    """One prefix of two left; a prefix of some names only taken off, and two tensors under one name."""
    tensors = {name: np.array(index) for index, name in enumerate(names)}
    assert {name: int(array) for name, array in without_wrapper(tensors).items()} == {
        name: index for index, name in enumerate(unwrapped)
    }


def test_folding_by_hand():
    """ε outside the root, the convolution's bias not scaled, β scaled. With σ² = 4 − ε: s = γ / 2."""
    convolution = {"weight": np.ones((2, 1, 1, 1), np.float32), "bias": np.array([1, 3], np.float32)}
    statistics = {
        "running_mean": np.array([0.5, 1]), "running_var": np.array([4, 4]) - 1e-5,
        "weight": np.array([2, 6]), "bias": np.array([10, 20]),
    }  # fmt: skip
    folded = fold_batch_norm(convolution, statistics)
    assert_array_equal(folded["weight"].ravel(), np.array([1, 3], np.float32))
    assert_array_equal(folded["bias"], np.array([10.5, 26], np.float32))
    assert {array.dtype for array in folded.values()} == {np.dtype(np.float32)}


def test_folding_a_dense_layer_by_hand():
    """Columns scaled in place of rows; a layer without a bias; another ε. With σ² + ε = 4: s = γ / 2."""
    statistics = {"running_mean": np.array([0.5, 1]), "running_var": np.array([3.0, 3.0]), "weight": np.array([2.0, 6])}
    folded = fold_batch_norm({"weight": np.array([[1.0, 2, 3], [4, 5, 6]])}, statistics, eps=1.0)
    assert_array_equal(folded["weight"], [[1, 2, 3], [12, 15, 18]])
    assert_array_equal(folded["bias"], [-0.5, -3])


OWN = {
    "vgg16": lambda: models.VGG16(4, 2, 6, batch_norm=True),
    "fcn8s": lambda: models.FCN8s(4, 2, 6, batch_norm=True),
    "fcn-basic": lambda: models.FCNBasic(4, 2),
    "fcn-basic without batch normalisation": lambda: models.FCNBasic(4, 2, batch_norm=False),
}


@pytest.mark.parametrize("name", OWN)
def test_own_networks_are_never_taken_for_published_ones(tmp_path, name):
    """A file that lost its record, and normalised networks read as plain ones, whose statistics are left out. With its
    record it is what that says."""
    model = OWN[name]()
    tensors = model.state_dict()
    assert recognise(tensors) is None
    path = tmp_path / "own.safetensors"
    save_weights(path, tensors, architecture=model.architecture, preprocessing=Preprocessing())
    file = load(path)
    assert file.architecture == model.architecture
    assert file.tensors.keys() == tensors.keys()
    save_file(tensors, path)  # without the record
    file = load(path)
    assert file.architecture == {}
    assert file.tensors.keys() == tensors.keys()


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_, np.complex64])
@pytest.mark.parametrize("kind", KNOWN)
def test_numbers_of_another_kind_are_no_network(kind, dtype):
    """Quantised weights taken for the numbers that they stand for: logits a hundred times too large."""
    tensors = {name: array.astype(dtype) for name, array in KNOWN[kind].items()}
    assert recognise(tensors) is None


def none_or_a_network(tensors):
    """What `recognise` says; a network it names can be built, or refused by the library's own error."""
    before = dict(tensors)
    network = recognise(tensors)
    assert list(tensors) == list(before)
    assert all(tensors[name] is array for name, array in before.items())
    if network is None:
        return None
    assert isinstance(network, Network)
    assert network.architecture["name"] in models.MODELS
    file = WeightFile(network.tensors, network.architecture, network.preprocessing)
    with suppress(WeightsError):
        return restore(models.MODELS[network.architecture["name"]], file, "file")
    return "refused"


@pytest.mark.parametrize("kind", KNOWN)
def test_the_known_networks_can_be_built(kind):
    """A test of the test: none of the cases below starts from a dict that is refused anyway."""
    assert isinstance(none_or_a_network(KNOWN[kind]), models.FCN | models.VGG)


def ones(*shape):
    return np.ones(shape, np.float32)


MALFORMED = [
    ("torchvision", {"features.0.weight": ones()}),
    ("torchvision", {"features.0.weight": ones(2, 3, 3, 3, 1)}),
    ("torchvision", {"features.2.weight": ones(0, 2, 3, 3), "features.2.bias": ones(0)}),
    ("torchvision", {"features.0.bias": ones()}),
    ("torchvision", {"classifier.0.weight": ones()}),
    ("torchvision", {"classifier.0.weight": ones(6, 785)}),
    ("torchvision", {"classifier.0.weight": ones(0, 784)}),
    ("torchvision", {"classifier.0.weight": ones(0, 16, 7, 7)}),
    ("torchvision", {"classifier.0.weight": ones(0, 0, 7, 7)}),
    ("torchvision", {"classifier.0.weight": ones(784)}),
    ("torchvision", {"classifier.6.weight": ones()}),
    ("torchvision", {"classifier.6.weight": ones(0, 6)}),
    ("torchvision", {"classifier.6.weight": ones(1, 1, 4, 6)}),
    ("torchvision", {"features.1.weight": ones(2)}),
    ("torchvision", {"features.0.running_mean": ones(2)}),
    ("torchvision", {"features.99999999999999999999.weight": ones(2, 2, 3, 3)}),
    ("torchvision", {f"features.{'1' * 5000}.weight": ones(2, 2, 3, 3)}),  # more digits than int() takes
    ("torchvision", {"features.00.weight": ones(2, 3, 3, 3)}),
    ("torchvision", {"features.030.weight": ones(16, 16, 3, 3)}),
    ("torchvision", {"features.٣٠.weight": ones(16, 16, 3, 3)}),  # digits, too: 30
    ("torchvision", {"features.-1.weight": ones(2, 2, 3, 3)}),
    ("torchvision", {"": ones(2)}),
    ("torchvision", {".": ones(2), "..weight": ones(2, 2, 3, 3)}),
    ("torchvision with batch normalisation", {"features.1.running_mean": ones()}),
    ("torchvision with batch normalisation", {"features.1.running_var": ones(3)}),
    ("torchvision with batch normalisation", {"features.1.weight": ones(2, 1)}),
    ("torchvision with batch normalisation", {"features.1.bias": ones(0)}),
    ("torchvision with batch normalisation", {"features.1.num_batches_tracked": ones(3)}),
    ("torchvision with batch normalisation", {"features.0.bias": ones(5)}),
    ("torchvision with batch normalisation", {"features.0.bias": ones(2, 1)}),
    ("torchvision with batch normalisation", {"features.0.bias": ones(0)}),
    ("torchvision with batch normalisation", {"features.0.weight": ones(2, 0, 3, 3)}),
    ("torchvision with batch normalisation", {"features.1.running_mean": ones(2, 3, 3, 3)}),
    ("torchvision with batch normalisation", {"features.1.weight": ones(2, 2, 3, 3)}),
    ("timm", {"pre_logits.fc1.weight": ones(1, 1, 7, 7)}),
    ("timm", {"pre_logits.fc1.weight": ones(6, 16, 7, 7, 1)}),
    ("timm", {"pre_logits.fc2.weight": ones(1, 1, 0, 6)}),
    ("timm", {"head.fc.weight": ones(4, 0)}),
    ("timm", {"pre_logits.fc3.weight": ones(4, 4)}),
    ("Keras", {"fc1/fc1_W_1:0": ones(0, 6)}),
    ("Keras", {"fc1/fc1_W_1:0": ones(784, 0)}),
    ("Keras", {"fc1/fc1_W_1:0": ones(0, 0)}),
    ("Keras", {"fc1/fc1_W_1:0": ones(783, 6)}),
    ("Keras", {"fc1/fc1_W_1:0": ones(7, 7, 16, 6)}),
    ("Keras", {"fc1/fc1_W_1:0": ones()}),
    ("Keras", {"fc1": ones(784, 6)}),
    ("Keras", {"predictions/predictions_W_1:0": ones(6)}),
    ("Keras", {"block1_conv1/block1_conv1_W_1:0": ones(3, 3, 3)}),
    ("Keras", {"block1_conv1/other:0": ones(2)}),
    ("Keras", {"block9_conv9/block9_conv9_W_1:0": ones(3, 3, 2, 2)}),
    ("paper", {"conv1_1.weight": ones()}),
    ("paper", {"conv1_1.weight": ones(0, 3, 3, 3)}),
    ("paper", {"conv0_0.weight": ones(2, 3, 3, 3)}),
    ("paper", {"conv9_9.weight": ones(2, 3, 3, 3)}),
    ("paper", {"fc6.weight": ones(1, 1, 0, 784)}),
    ("paper", {"fc6.weight": ones(1, 1, 6, 0)}),
    ("paper", {"fc7.weight": ones(0)}),
    ("paper", {"fc8.bias": ones()}),
    ("paper", {"upscore.weight": ones(3)}),
    ("paper", {"scale_pool4.weight": ones(0)}),
    ("Chainer", {"conv1_1.weight": ones(2, 3, 3, 3)}),  # a second name for conv1_1/W
    ("Chainer", {"conv1_1/W/b": ones(2)}),
    ("Chainer", {"fc6/W": ones(6, 7, 7, 16)}),
    ("FCN-8s", {"score_fr.weight": ones()}),
    ("FCN-8s", {"score_fr.weight": ones(4, 6)}),
    ("FCN-8s", {"score_fr.weight": ones(0, 6, 1, 1)}),
    ("FCN-8s", {"score_fr.weight": ones(0, 0, 0, 0)}),
    ("FCN-8s", {"fc6.weight": ones(0, 784)}),
    ("FCN-8s", {"fc6.weight": ones(6, 0)}),
    ("FCN-8s", {"fc6.weight": ones(6, 783)}),
    ("FCN-8s", {"fc7.weight": ones(0, 0)}),
    ("FCN-8s", {"fc7.weight": ones()}),
    ("FCN-8s", {"upscore8.weight": ones()}),
    ("FCN-8s", {"scale_pool4.weight": ones(1)}),
    ("FCN-8s at once", {"scale_pool4.weight": ones()}),
    ("FCN-8s at once", {"scale_pool4.weight": ones(0)}),
    ("FCN-8s at once", {"scale_pool4.weight": ones(1, 1, 1, 1)}),
    ("FCN-8s at once", {"scale_pool4.weight": ones(7)}),
    ("FCN-8s at once", {"scale_pool4.weight": np.array([np.nan], np.float32)}),
    ("FCN-8s at once", {"scale_pool4.weight": np.array([True])}),
    ("FCN-8s at once", {"scale_pool4.weight": np.array([1j])}),
    ("FCN-8s at once", {"scale_pool4.bias": ones(1)}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), MALFORMED, ids=lambda v: v if isinstance(v, str) else _brief(v))
def test_malformed_tensors_under_known_names_are_never_an_exception(kind, changes):
    """IndexError, KeyError, ValueError of a reshape … from a file that only has the names of a network."""
    none_or_a_network(KNOWN[kind] | changes)


def _brief(changes):
    return ", ".join(f"{name[:30]} {array.dtype}{array.shape}" for name, array in changes.items())


def other_shapes(shape):
    """Each axis of another length, or gone; more axes, in another order, in one."""
    lengths = [(*shape[:axis], size, *shape[axis + 1 :]) for axis in range(len(shape)) for size in (0, 1, 5)]
    fewer = [(*shape[:axis], *shape[axis + 1 :]) for axis in range(len(shape))]
    return {*lengths, *fewer, (1, 1, *shape), (*shape, 1), shape[::-1], (0,) * len(shape), (int(np.prod(shape)),), ()}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_tensor_that_is_missing_or_has_another_shape_is_never_an_exception(kind):
    """The cases that nobody thought of: each tensor in turn, in every other shape."""
    outcomes = set()
    for name, array in KNOWN[kind].items():
        recognise({other: array for other, array in KNOWN[kind].items() if other != name})
        for shape in other_shapes(array.shape):
            try:
                outcomes.add(recognise(KNOWN[kind] | {name: np.ones(shape, array.dtype)}) is None)
            except Exception as error:
                raise AssertionError(f"{name} of shape {shape} instead of {array.shape}") from error
    assert outcomes == {True, False}


ANY_SHAPE = st.lists(st.integers(0, 3), max_size=5)
ANY_DTYPE = st.sampled_from(["float32", "float64", "float16", "int64", "bool", "complex64"])
ANY_NAME = st.text(max_size=8) | st.sampled_from(sorted({name for tensors in KNOWN.values() for name in tensors}))


@st.composite
def damages(draw):
    """A known network, and what becomes of some of its tensors: a shape and a type, or None for a missing one."""
    kind = draw(st.sampled_from(sorted(KNOWN)))
    changes = {name: (draw(ANY_SHAPE), draw(ANY_DTYPE)) for name in draw(st.lists(ANY_NAME, max_size=1))}
    for name in draw(st.lists(st.sampled_from(sorted(KNOWN[kind])), min_size=1, max_size=3)):
        shapes = st.sampled_from(sorted(other_shapes(KNOWN[kind][name].shape)))
        changes[name] = draw(st.none() | st.tuples(shapes | ANY_SHAPE, ANY_DTYPE))
    return kind, changes


@given(damages())
@settings(deadline=None)
def test_a_damaged_network_is_never_an_exception(damage):
    """Two faults at once, each of which hides that the other is not looked at."""
    kind, changes = damage
    tensors = {name: array for name, array in KNOWN[kind].items() if name not in changes}
    tensors |= {name: np.ones(*change) for name, change in changes.items() if change is not None}
    none_or_a_network(tensors)


@given(st.dictionaries(ANY_NAME, st.builds(np.ones, ANY_SHAPE, ANY_DTYPE), max_size=6))
@settings(deadline=None)
def test_any_tensors_are_never_an_exception(tensors):
    """A rule that takes the presence of one name for that of another."""
    assert none_or_a_network(tensors) is None
