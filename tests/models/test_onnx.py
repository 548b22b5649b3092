"""ONNX export: onnxruntime computes the module's scores from the file, for every network, geometry and size."""

import functools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import fill
from numpy.testing import assert_array_equal
from strategies import random_cases

from minifcn import Tensor, models, nn, no_grad
from minifcn.errors import ShapeError, UsageError
from minifcn.models.onnx import to_onnx

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime, the other side of the comparison, is missing")

FCNS = (models.FCN32s, models.FCN16s, models.FCN8s, models.FCN4s, models.FCN2s, models.FCN8sAtOnce)
GEOMETRIES = ("paper", "same")
# One cell and less, thin, every map odd somewhere on the way, a whole number of cells, one pixel more, the usual.
SIZES = [(1, 1), (1, 7), (33, 47), (64, 64), (65, 97), (224, 224), (2, 300)]
TOLERANCE = 1e-4  # of the largest score


def network(model, *sizes, dtype=np.float32, **options):
    """Narrow, and everything random: zero score layers would make every file right.

    Scales of skips are undone in their score layers, so that each skip counts as much as the others."""
    sizes = sizes or ((3, 2) if model is models.FCNBasic else (3, 2, 5))
    filled = fill(model(*sizes, **options)).astype(dtype).eval()
    for pool, scale in getattr(filled, "skip_scales", {}).items():
        if hasattr(filled, f"score_{pool}"):
            getattr(filled, f"score_{pool}").weight.data /= scale
    return filled


def session(content):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # tests run beside each other
    options.log_severity_level = 4  # what it refuses, it also prints
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def difference(running, model, x):
    """The largest difference between onnxruntime's scores and the module's, in units of the largest score."""
    with no_grad():
        expected = model(Tensor(x.astype(next(model.parameters()).dtype))).data
    (scores,) = running.run(None, {"image": x})
    assert (scores.shape, scores.dtype) == (expected.shape, np.float32)
    return np.abs(scores - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("model", FCNS)
def test_onnxruntime_computes_the_scores_of_an_fcn(model, geometry):
    """A padding, stride, crop or scale that is wrong, a size that was written down, pooling that rounds down."""
    fcn = network(model, geometry=geometry)
    running = session(to_onnx(fcn))
    for number, size in enumerate(SIZES):
        assert difference(running, fcn, images(2, 3, *size, seed=number)) < TOLERANCE, size


@pytest.mark.parametrize("error", [1, -1])
@pytest.mark.parametrize("crop", ["upscore2", "upscore_pool4", "upscore8"])
def test_the_comparison_finds_a_wrong_crop(crop, error):
    """A test of the test: the module's crops one pixel off those in the file."""
    fcn = network(models.FCN8s)
    running = session(to_onnx(fcn))
    fcn.crops[crop] += error
    assert difference(running, fcn, images(2, 3, 33, 47)) > 100 * TOLERANCE


@pytest.mark.parametrize("pool", ["pool3", "pool4"])
def test_the_comparison_finds_a_wrong_scale(pool):
    """A test of the test: scales of 0.01 and 0.0001, left out or exchanged, must not vanish below the tolerance."""
    fcn = network(models.FCN8sAtOnce)
    running = session(to_onnx(fcn))
    fcn.skip_scales = fcn.skip_scales | {pool: 1.1 * fcn.skip_scales[pool]}
    assert difference(running, fcn, images(2, 3, 33, 47)) > 10 * TOLERANCE


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("model", FCNS)
def test_onnxruntime_computes_the_scores_of_an_fcn_without_skips(model, geometry):
    """Scores cropped in between to maps that they do not meet; score layers asked for that are not there."""
    fcn = network(model, geometry=geometry, skips="none")
    running = session(to_onnx(fcn))
    for number, size in enumerate(SIZES):
        assert difference(running, fcn, images(2, 3, *size, seed=number)) < TOLERANCE, size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (models.FCN8s, {}),
        (models.FCN8s, {"geometry": "same", "skips": "none"}),
        (models.FCN8sAtOnce, {"geometry": "same"}),
        (models.VGG11, {}),
        (models.VGG11, {"geometry": "torchvision", "fully_convolutional": True}),
    ],
    ids=str,
)
def test_batch_normalisation_is_folded_into_the_file(model, options, dtype):
    """A layer that is left out or not scaled; statistics of the batch; the model itself changed, or put into evaluation
    mode."""
    normalised = network(model, batch_norm=True, dtype=dtype, **options).train()
    before, content = normalised.state_dict(), to_onnx(normalised)
    assert normalised.training
    for name, array in normalised.state_dict().items():
        assert_array_equal(array, before[name])
    names = {tensor.name for tensor in onnx.load_from_string(content).graph.initializer}
    assert not [name for name in names if "_bn" in name]
    assert names >= {"conv1_1.weight", "conv1_1.bias", "fc7.bias"}
    size = (224, 224) if model is models.VGG11 else (65, 97)
    assert difference(session(content), normalised.eval(), images(2, 3, *size)) < TOLERANCE


@pytest.mark.parametrize("options", [{}, {"skips": "none"}, {"batch_norm": False}], ids=str)
def test_onnxruntime_computes_the_scores_of_fcn_basic(options):
    """A map cropped to another level's; a skip of another level; pooling that rounds down."""
    basic = network(models.FCNBasic, 3, 4, 2, **options)
    content = to_onnx(basic)
    onnx.checker.check_model(content, full_check=True)
    file = onnx.load_from_string(content)
    (image,), (output,) = file.graph.input, file.graph.output
    assert (image.name, dimensions(image)) == ("image", ["N", 2, "H", "W"])
    assert (output.name, dimensions(output)) == ("scores", ["N", 3, "H", "W"])
    running = session(content)
    for number, size in enumerate(SIZES):
        assert difference(running, basic, images(2, 2, *size, seed=number)) < TOLERANCE, size


@functools.cache
def exported(model, options):
    fcn = network(model, **dict(options))
    return fcn, session(to_onnx(fcn))


@settings(random_cases, max_examples=80)
@given(
    model=st.sampled_from([(models.FCNBasic, ()), *((fcn, (("geometry", g),)) for fcn in FCNS for g in GEOMETRIES)]),
    shape=st.tuples(st.integers(1, 2), st.just(3), st.integers(1, 130), st.integers(1, 130)),
    seed=st.integers(0, 2**16),
)
def test_onnxruntime_computes_the_scores_at_any_size(model, shape, seed):
    """A remainder modulo 32 at which the file and the module round differently."""
    fcn, running = exported(*model)
    assert difference(running, fcn, images(*shape, seed=seed)) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"geometry": "paper"}, [(1, 1), (32, 32), (96, 96), (33, 224), (161, 70), (224, 224)]),
        ({"geometry": "torchvision"}, [(32, 32), (63, 96), (224, 224), (255, 300), (500, 33)]),
        ({"geometry": "paper", "fully_convolutional": True}, [(224, 224), (193, 300)]),
        ({"geometry": "torchvision", "fully_convolutional": True}, [(224, 224), (255, 300)]),
    ],
    ids=["paper", "torchvision", "paper, fully convolutional", "torchvision, fully convolutional"],
)
@pytest.mark.parametrize("model", [models.VGG11, models.VGG16])
def test_onnxruntime_computes_the_scores_of_a_classifier(model, options, sizes):
    """Cells that are not in the middle, or averaged over the wrong pixels; a dense weight the wrong way round."""
    vgg = network(model, **options)
    running = session(to_onnx(vgg))
    for number, size in enumerate(sizes):
        assert difference(running, vgg, images(2, 3, *size, seed=number)) < TOLERANCE, size


@pytest.mark.parametrize(
    ("geometry", "size", "why"),
    [
        ("paper", (225, 40), "fc6"),
        ("paper", (224, 257), "fc6"),
        ("torchvision", (31, 40), "image_of_at_least_32_pixels"),
        ("torchvision", (40, 1), "image_of_at_least_32_pixels"),
    ],
)
def test_what_the_classifier_refuses_the_file_refuses(geometry, size, why):
    """Scores of a part of the image, or of no cells at all: ONNX crops and multiplies what is empty without a word."""
    vgg = network(models.VGG11, geometry=geometry)
    with pytest.raises(ShapeError):
        vgg(Tensor(images(1, 3, *size)))
    with pytest.raises(Exception, match=why):  # onnxruntime's exceptions have no common public base
        session(to_onnx(vgg)).run(None, {"image": images(1, 3, *size)})


@pytest.mark.parametrize(("classes", "channels"), [(1, 1), (4, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_numbers_of_classes_and_channels_and_other_dtypes(classes, channels, dtype):
    """3 channels or float32 weights taken for granted: a float64 network gives a float32 file."""
    fcn = network(models.FCN8s, classes, 2, 5, channels, dtype=dtype, geometry="same")
    assert difference(session(to_onnx(fcn)), fcn, images(1, channels, 40, 29)) < TOLERANCE


def test_layers_are_exported_as_they_are():
    """Settings of the published layers typed in again: here dilation, groups, a stride by axis and no bias."""
    fcn = network(models.FCN32s)
    weight, bias = fcn.conv3_1.weight.data, fcn.conv3_1.bias
    fcn.conv3_1 = nn.Conv2d(4, 8, 3, padding=(2, 1), dilation=(2, 1), groups=2)
    fcn.conv3_1.weight.data, fcn.conv3_1.bias = weight[:, :2], bias
    fcn.fc7 = nn.Conv2d(5, 5, 1, stride=(1, 2), bias=False)
    fcn.upscore.stride, fcn.upscore.padding = (32, 64), (1, 0)
    fcn.crops["upscore"] = 18
    assert difference(session(to_onnx(fcn)), fcn, images(1, 3, 90, 150)) < TOLERANCE


def test_dropout_is_left_out_whatever_the_mode():
    """Scores that are random, or scaled; a model that export leaves in another mode."""
    fcn = network(models.FCN8s, geometry="same", dropout=0.9).train()
    content = to_onnx(fcn)
    assert fcn.training
    assert content == to_onnx(fcn.eval())
    assert difference(session(content), fcn, images(1, 3, 40, 29)) < TOLERANCE


def test_the_file_holds_every_parameter_under_its_name():
    """Weights transposed, renamed, left out or put in twice; layers that cannot be found by the paper's names."""
    fcn = network(models.FCN8s)
    graph = onnx.load_from_string(to_onnx(fcn)).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert len(arrays) == len(graph.initializer)
    for name, value in fcn.state_dict().items():
        assert_array_equal(arrays[name], value, err_msg=name)
    others = [array for name, array in arrays.items() if name not in fcn.state_dict()]
    assert all(array.dtype == np.int64 and array.size <= 2 for array in others)
    layers = {name.partition(".")[0] for name in fcn.state_dict()} | {f"pool{block}" for block in range(1, 6)}
    assert layers <= {node.name for node in graph.node}


@pytest.mark.parametrize(
    ("model", "options", "scores"),
    [
        *((model, {"geometry": geometry}, ["N", 3, "H", "W"]) for model in FCNS for geometry in GEOMETRIES),
        (models.VGG11, {}, ["N", 3]),
        (models.VGG11, {"geometry": "torchvision"}, ["N", 3]),
        (models.VGG11, {"fully_convolutional": True}, ["N", 3, "rows", "columns"]),
    ],
    ids=str,
)
def test_the_file_is_valid_and_says_what_goes_in_and_out(model, options, scores):
    """Files that only onnxruntime forgives; sizes fixed in the declaration; an operator set newer than declared."""
    content = to_onnx(network(model, **options))
    onnx.checker.check_model(content, full_check=True)
    file = onnx.load_from_string(content)
    assert (file.opset_import[0].version, file.ir_version) == (17, 8)
    (image,), (output,) = file.graph.input, file.graph.output
    assert (image.name, dimensions(image)) == ("image", ["N", 3, "H", "W"])
    assert (output.name, dimensions(output)) == ("scores", scores)


def dimensions(value):
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_it_is_one_file_with_its_metadata(tmp_path):
    """Weights that are left beside the file; class names in another encoding."""
    metadata = {"classes": "Straße\n木", "preprocessing": '{"channel_order": "BGR"}'}
    content = to_onnx(network(models.FCN32s), metadata=metadata)
    assert all(tensor.data_location == 0 for tensor in onnx.load_from_string(content).graph.initializer)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    running = session(str(path))
    assert running.get_modelmeta().custom_metadata_map == metadata
    assert running.run(None, {"image": images(1, 3, 5, 6)})[0].shape == (1, 3, 5, 6)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    """A bare ImportError."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r'pip install "minifcn\[onnx\]"'):
        to_onnx(models.FCN32s(2, 1, 1))


def test_a_network_too_large_for_one_file_is_refused(monkeypatch):
    """An error of protobuf, after memory for 2 GB was taken."""
    fcn = models.FCN32s(2, 1, 1)
    size = 4 * sum(parameter.size for parameter in fcn.parameters())
    monkeypatch.setattr("minifcn.models.onnx.LARGEST", size)
    to_onnx(fcn)
    monkeypatch.setattr("minifcn.models.onnx.LARGEST", size - 1)
    with pytest.raises(UsageError, match=f"fcn32s has {size:,} bytes of weights"):
        to_onnx(fcn)
