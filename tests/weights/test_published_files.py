"""Published files: the publisher's numbers, bit for bit, in every container and under all names; and his logits."""

import hashlib
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_array_equal, assert_array_max_ulp

from minifcn import Tensor, models, no_grad, ops, weights
from minifcn.errors import WeightsError
from minifcn.nn import bilinear_weight
from minifcn.weights import Preprocessing, catalogue

torch = pytest.importorskip("torch", reason="PyTorch, which writes most of the files, is not installed")
import published as pub  # noqa: E402  (needs torch)
import reference_networks as reference  # noqa: E402

VGGS = tuple(pub.LAYERS)
FCNS = ("fcn32s", "fcn16s", "fcn8s")
SIZES = {"num_classes": pub.CLASSES, "width": pub.WIDTH, "fc_width": pub.FC_WIDTH, "in_channels": 3}


def publish(tmp_path, form, name, tensors):
    pytest.importorskip(form.needs)
    form.write(tmp_path / "published.bin", name, tensors)
    return tmp_path / "published.bin"


def torch_save(tmp_path, tensors, legacy=False):
    pub.torch_file(tmp_path / "saved.pth", tensors, legacy)
    return tmp_path / "saved.pth"


def assert_same_bits(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert (actual[name].shape, actual[name].dtype) == (array.shape, array.dtype), name
        assert actual[name].tobytes() == array.tobytes(), name


def image(*size):
    return np.random.default_rng(size).normal(size=(1, 3, *size)).astype(np.float32)


def logits(model, x):
    """On the exact route: what Winograd's loses in 16 layers has tests of its own, and would hide what is lost here."""
    with no_grad(), ops.conv_route("im2col"):
        return model(Tensor(x)).data


def in_float64(module):
    module = module.double()
    return lambda x: module(torch.from_numpy(x).double()).detach().numpy()


@cache
def torchvision_logits(name, size):
    return in_float64(pub.torch_vgg(name, pub.network(name)))(image(*size))


def assert_equal_logits(actual, expected, relative=1e-5):
    """To a part of the largest one. All logits zero, or all the same, would compare nothing."""
    assert actual.shape == expected.shape
    assert np.ptp(expected) > 0.01
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < relative, f"relative error {error:.1e}"


# The numbers


@pytest.mark.parametrize("name", VGGS)
@pytest.mark.parametrize("form", pub.VGG_FORMS)
def test_every_form_of_a_classifier_gives_its_numbers_and_its_record(tmp_path, form, name):
    """A layer under its neighbour's name, kernels or flattened maps in another order, the wrong mean; a prefix, or the
    optimiser's numbers, in the names."""
    tensors, form = pub.network(name), pub.VGG_FORMS[form]
    path = publish(tmp_path, form, name, tensors)
    file = weights.load(path)
    assert_same_bits(file.tensors, tensors)
    geometry = {"geometry": "torchvision"} if form.names == "torchvision" else {}
    assert file.architecture == {"name": name, **SIZES, **geometry}
    assert file.preprocessing == form.preprocessing
    source = {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "container": form.container}
    assert file.record == {"source": {**source, "names": form.names}}


@pytest.mark.parametrize("name", FCNS)
@pytest.mark.parametrize("form", pub.FCN_FORMS)
def test_every_form_of_an_fcn_gives_its_numbers_and_its_record(tmp_path, form, name):
    """Upsampling weights transposed like those of convolutions; one FCN taken for the other."""
    tensors, form = pub.network(name), pub.FCN_FORMS[form]
    path = publish(tmp_path, form, name, tensors)
    file = weights.load(path)
    assert_same_bits(file.tensors, tensors)
    assert file.architecture == {"name": name, **SIZES, "geometry": "paper", "learned_upsampling": "none"}
    assert file.preprocessing == pub.BERKELEY
    assert (file.record["source"]["container"], file.record["source"]["names"]) == (form.container, "Caffe")


def at_once_file(tmp_path, form, factors, per_channel):
    """FCN-8s at once with scale layers. Caffe's Scale layer has a factor for each channel unless told otherwise; the
    released network does not tell, so its file holds 512 times 0.01 and 256 times 0.0001."""
    tensors = pub.network("fcn8s")
    channels = {"pool4": pub.CHANNELS["4"], "pool3": pub.CHANNELS["3"]}
    scales = {
        f"scale_{pool}.weight": np.full(channels[pool] if per_channel else 1, factor, np.float32)
        for pool, factor in factors.items()
    }
    return tensors, publish(tmp_path, form, "fcn8s-at-once", tensors | scales)


RELEASED_FACTORS = {"pool4": 0.01, "pool3": 0.0001}


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "one"])
@pytest.mark.parametrize("factors", [RELEASED_FACTORS, {"pool4": 0.25, "pool3": 3.0}], ids=str)
@pytest.mark.parametrize("form", ["Caffe", "Chainer", "safetensors"])
def test_fcn8s_at_once_comes_with_its_factors(tmp_path, form, factors, per_channel):
    """Scale layers passed over, and the skips a hundred and ten thousand times too strong; 0.009999999776 for 0.01."""
    tensors, path = at_once_file(tmp_path, pub.FCN_FORMS[form], factors, per_channel)
    file = weights.load(path)
    assert_same_bits(file.tensors, tensors)
    assert (file.architecture["name"], file.architecture.get("skip_scales")) == ("fcn8s-at-once", factors)
    scaled = {f"score_{pool}.weight": tensors[f"score_{pool}.weight"] * np.float64(s) for pool, s in factors.items()}
    parameters = {name: torch.from_numpy(np.float64(array)) for name, array in (tensors | scaled).items()}
    x = image(33, 47)
    expected = reference.fcn_paper("fcn8s", parameters, torch.from_numpy(x).double()).numpy()
    assert_equal_logits(logits(models.from_weights(path), x), expected)


@pytest.mark.parametrize(
    "scales",
    [
        {"scale_pool4": np.full(16, 0.01, np.float32)},
        {"scale_pool4": np.linspace(0, 1, 16, dtype=np.float32), "scale_pool3": np.full(8, 0.01, np.float32)},
    ],
    ids=["one skip only", "different factors"],
)
def test_scale_layers_that_no_network_here_has_are_not_passed_over(tmp_path, scales):
    """A plain FCN-8s made of the rest, whose skips are as strong as they never were."""
    path = tmp_path / "scaled.safetensors"
    extra = {f"{name}.weight": array for name, array in scales.items()}
    pub.safetensors_file(path, pub.network("fcn8s") | extra)
    assert weights.load(path).architecture.get("name") != "fcn8s"


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha1"])
def test_a_file_of_the_catalogue_has_the_preprocessing_of_its_entry(tmp_path, monkeypatch, algorithm):
    """vgg16_from_caffe.pth, which has torchvision's names and needs Caffe's pictures: believed by its names."""
    path = publish(tmp_path, pub.VGG_FORMS["torch zip"], "vgg16", pub.network("vgg16"))
    digest = hashlib.new(algorithm, path.read_bytes()).hexdigest()
    enter(monkeypatch, f"{algorithm}:{digest}", pub.BERKELEY)
    assert weights.load(path).preprocessing == pub.BERKELEY
    assert models.from_weights(path).preprocessing == pub.BERKELEY
    enter(monkeypatch, f"{algorithm}:{digest[::-1]}", pub.BERKELEY)
    assert weights.load(path).preprocessing == pub.TORCHVISION


def enter(monkeypatch, digest, preprocessing):
    """Put an entry into the catalogue."""
    entry = catalogue.Published("small", "small.pth", "a test", (), digest, None, preprocessing, "none")
    monkeypatch.setitem(catalogue.CATALOGUE, entry.name, entry)


def test_the_released_at_once_network_is_known_by_its_hash_where_it_has_no_scale_layers(tmp_path, monkeypatch):
    """pytorch-fcn's fcn8s-atonce_from_caffe.pth: its factors stand in the program that runs it, not in the file."""
    tensors = pub.network("fcn8s")
    path = publish(tmp_path, pub.FCN_FORMS["torch legacy"], "fcn8s", tensors)
    entry = catalogue.CATALOGUE["fcn8s-at-once-from-caffe"]
    digest = f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"
    changed = {key: getattr(entry, key) for key in entry.__dataclass_fields__} | {"hash": digest}
    monkeypatch.setitem(catalogue.CATALOGUE, entry.name, type(entry)(**changed))
    assert weights.load(path).architecture["name"] == "fcn8s-at-once"
    assert models.from_weights(path).skip_scales == RELEASED_FACTORS


# The logits


@pytest.mark.parametrize("form", pub.VGG_FORMS)
def test_every_form_of_a_classifier_gives_the_publishers_logits(tmp_path, form):
    """Numbers that are right, in a network that is not: dropout left on, pooling or flattening of another kind."""
    model = models.from_weights(publish(tmp_path, pub.VGG_FORMS[form], "vgg16", pub.network("vgg16")))
    assert model.preprocessing == pub.VGG_FORMS[form].preprocessing
    size = (224, 224)  # where torchvision's and Caffe's networks agree
    assert_equal_logits(logits(model, image(*size)), torchvision_logits("vgg16", size))


@pytest.mark.parametrize("size", [(224, 224), (225, 193), (40, 100), (333, 257), (32, 32)], ids=str)
@pytest.mark.parametrize("name", VGGS)
def test_torchvisions_classifiers_give_its_logits_at_any_size(tmp_path, name, size):
    """Caffe's pooling, which rounds up; cells put into the middle instead of averaged; height taken for width."""
    model = models.from_weights(publish(tmp_path, pub.VGG_FORMS["torch zip"], name, pub.network(name)))
    assert_equal_logits(logits(model, image(*size)), torchvision_logits(name, size))


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (97, 131)], ids=str)
@pytest.mark.parametrize("name", FCNS)
def test_fcns_give_the_published_networks_scores_at_any_size(tmp_path, name, size):
    """The other geometry; bilinear weights in place of the file's."""
    tensors = pub.network(name)
    model = models.from_weights(publish(tmp_path, pub.FCN_FORMS["torch legacy"], name, tensors))
    parameters = {key: tensor.double() for key, tensor in pub.to_torch(tensors).items()}
    x = image(*size)
    expected = reference.fcn_paper(name, parameters, torch.from_numpy(x).double()).numpy()
    assert_equal_logits(logits(model, x), expected)


# Batch normalisation

NORMALISATIONS = {
    "as published": {},
    "without learned factors": {"affine": False},
    "convolutions without bias": {"conv_bias": False},
    "neither": {"affine": False, "conv_bias": False},
    "variances as small as ε": {"variance": 1e-5},
    "no variance": {"variance": 0.0},
}


@pytest.mark.parametrize("options", NORMALISATIONS)
@pytest.mark.parametrize("name", VGGS)
def test_batch_normalisation_is_folded_exactly(tmp_path, name, options):
    """ε left out, or outside the root; the convolution's bias not scaled; float32 on the way; layers off by one."""
    tensors = pub.network(name)
    module = pub.torch_vgg_bn(name, tensors, **NORMALISATIONS[options])
    path = torch_save(tmp_path, module.state_dict())
    file = weights.load(path)
    assert file.architecture == {"name": name, **SIZES, "geometry": "torchvision"}
    assert file.preprocessing == pub.TORCHVISION
    assert file.record["notes"] == ["batch normalisation folded into the convolutions"]
    assert_same_bits(
        {k: a for k, a in file.tensors.items() if k[:2] == "fc"}, {k: tensors[k] for k in tensors if k[:2] == "fc"}
    )
    x, expected = image(64, 40), in_float64(module)
    for layer, convolution in fused(module, name).items():
        for part, array in convolution.items():
            actual = file.tensors[f"{layer}.{part}"]
            assert actual.dtype == np.float32
            assert_array_max_ulp(actual, array.astype(np.float32), maxulp=1)
    assert_equal_logits(logits(models.from_weights(path), x), expected(x))


def fused(module, name):
    """What PyTorch itself makes of each convolution and its normalisation, in float64."""
    convolutions = [layer for layer in pub.LAYERS[name] if layer != "pool"]
    module = module.double()
    fuse = torch.nn.utils.fusion.fuse_conv_bn_eval
    result = {}
    for layer, number in zip(convolutions, pub.FEATURES_BN[name], strict=True):
        state = fuse(module.features[number], module.features[number + 1]).state_dict()
        result[layer] = {part: tensor.numpy() for part, tensor in state.items()}
    return result


def test_the_files_of_2017_have_no_count_of_batches(tmp_path):
    """num_batches_tracked came later than vgg16_bn-6c64b313.pth; a reader that asks for it."""
    state = pub.torch_vgg_bn("vgg16", pub.network("vgg16")).state_dict()
    new = weights.load(torch_save(tmp_path, state)).tensors
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]
    assert_same_bits(weights.load(torch_save(tmp_path, state, legacy=True)).tensors, new)


def test_normalisation_of_some_convolutions_only_is_no_published_network(tmp_path):
    """The others' ReLUs taken for normalisations, or normalisation left out without a word."""
    state = pub.torch_vgg_bn("vgg16", pub.network("vgg16")).state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("features.15.")}
    file = weights.load(torch_save(tmp_path, kept))
    assert file.architecture == {}
    assert set(file.tensors) == set(kept)


# Preprocessing


def in_caffes_units(tensors):
    """The same network for BGR pictures of 0 … 255 less a mean in these units: (v/255 − m)/s = (v − 255m)/(255s)."""
    std = np.array(pub.TORCHVISION.std)[:, None, None]
    weight = (tensors["conv1_1.weight"] / (255 * std))[:, ::-1]  # RGB -> BGR
    preprocessing = Preprocessing("BGR", 1.0, tuple(255 * m for m in pub.TORCHVISION.mean[::-1]), (1.0, 1.0, 1.0))
    return tensors | {"conv1_1.weight": weight.astype(np.float32)}, preprocessing


def classify(model, picture, preprocessing=None):
    return logits(model, (preprocessing or model.preprocessing).apply(picture)[None])


def test_both_publishers_weights_say_the_same_about_a_picture(tmp_path, monkeypatch):
    """Channels flipped twice or not at all, a mean in the other's units or order, the file's preprocessing not used."""
    pytest.importorskip("google.protobuf")
    tensors = pub.network("vgg16")
    theirs = models.from_weights(publish(tmp_path, pub.VGG_FORMS["torch zip"], "vgg16", tensors))
    converted, preprocessing = in_caffes_units(tensors)
    path = publish(tmp_path, pub.VGG_FORMS["Caffe V1"], "vgg16", converted)
    # The publishers' own means differ by up to 0.5 of 255. Here both mean the same, so this file is in the catalogue.
    enter(monkeypatch, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}", preprocessing)
    caffes = models.from_weights(path)
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    picture[:, :, 0] //= 3  # more blue than red
    expected = classify(theirs, picture)
    assert_equal_logits(classify(caffes, picture), expected)
    # A test of the test: each mistake shows.
    mistakes = {
        "torchvision's for Caffe's weights": (caffes, pub.TORCHVISION),
        "Caffe's for torchvision's weights": (theirs, preprocessing),
        "RGB for BGR": (caffes, Preprocessing("RGB", 1.0, preprocessing.mean[::-1], preprocessing.std)),
        "the mean in the order of RGB": (
            caffes,
            Preprocessing("BGR", 1.0, preprocessing.mean[::-1], preprocessing.std),
        ),
        "no mean": (caffes, Preprocessing("BGR", 1.0, (0.0, 0.0, 0.0), preprocessing.std)),
    }
    scale = np.abs(expected).max()
    for mistake, (model, wrong) in mistakes.items():
        assert np.abs(classify(model, picture, wrong) - expected).max() > 1e-3 * scale, mistake


# State dicts of other networks


def resnet_like(generator):
    return {
        "conv1.weight": generator.normal(size=(8, 3, 7, 7)),
        **{f"bn1.{part}": generator.normal(size=8) for part in ("weight", "bias", "running_mean", "running_var")},
        "bn1.num_batches_tracked": np.array(12, np.int64),
        "layer1.0.conv1.weight": generator.normal(size=(8, 8, 3, 3)).astype(np.float32),
        "fc.weight": generator.normal(size=(4, 8)),
        "fc.bias": np.zeros(4, np.float16),
    }


def alexnet_like(generator):
    convolutions = {0: (4, 3, 11), 3: (8, 4, 5), 6: (12, 8, 3), 8: (8, 12, 3), 10: (8, 8, 3)}
    dense = {1: (16, 288), 4: (16, 16), 6: (4, 16)}
    shapes = {f"features.{n}": (o, i, k, k) for n, (o, i, k) in convolutions.items()}
    shapes |= {f"classifier.{n}": shape for n, shape in dense.items()}
    tensors = {f"{name}.weight": generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return tensors | {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}


def every_dtype(generator):
    dtypes = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    arrays = {f"as.{dtype}": generator.integers(0, 2, (2, 3)).astype(dtype) for dtype in dtypes}
    return arrays | {
        "empty": np.zeros((0, 3), np.float32),
        "0-d": np.array(2.5, np.float32),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }


def torchvision_vgg(change, name="vgg16"):
    """A VGG under torchvision's names that is a little different; change: from its names and arrays to others."""
    return lambda _: change(pub.torchvision_names(name, pub.network(name)))


def paper_vgg(change, name="vgg16"):
    return lambda _: change(pub.network(name))


def without(*layers):
    return lambda tensors: {name: array for name, array in tensors.items() if name.rpartition(".")[0] not in layers}


def with_5x5(name):
    return lambda tensors: tensors | {name: np.pad(tensors[name], [(0, 0), (0, 0), (1, 1), (1, 1)])}


def one_channel_wider(first, second):
    """More channels between two layers than a VGG has there."""

    def change(tensors):
        weight, bias, following = (
            tensors[f"{key}"] for key in (f"{first}.weight", f"{first}.bias", f"{second}.weight")
        )
        wider = {f"{first}.weight": np.concatenate([weight, weight[:1]]), f"{first}.bias": np.append(bias, bias[:1])}
        return tensors | wider | {f"{second}.weight": np.concatenate([following, following[:, :1]], axis=1)}

    return change


def custom_head(tensors):
    trunk = {name: array for name, array in tensors.items() if name.startswith("features")}
    return trunk | {"classifier.weight": np.ones((4, 784), np.float32), "classifier.bias": np.zeros(4, np.float32)}


def custom_head_of_two(tensors):
    """Under fc6's and fc7's names; but the second one gives the scores."""
    tensors = without("classifier.3", "classifier.6")(tensors)
    return tensors | {"classifier.3.weight": np.ones((4, 6), np.float32), "classifier.3.bias": np.zeros(4, np.float32)}


def shallow(_):
    """One convolution a block, as wide as a VGG's: a VGG by its names, but none of the four published."""
    channels = {"conv1_1": (2, 3), "conv2_1": (4, 2), "conv3_1": (8, 4), "conv4_1": (16, 8), "conv5_1": (16, 16)}
    tensors = {f"{name}.weight": np.ones((*sizes, 3, 3), np.float32) for name, sizes in channels.items()}
    return tensors | {f"{name}.bias": np.ones(sizes[0], np.float32) for name, sizes in channels.items()}


def fcn_on_vgg19(_):
    trunk, head = pub.network("vgg19"), pub.network("fcn32s")
    return {n: a for n, a in trunk.items() if n.startswith("conv")} | {
        n: a for n, a in head.items() if not n.startswith("conv")
    }


UNRECOGNISED = {
    "ResNet-like": resnet_like,
    "AlexNet-like": alexnet_like,
    "every dtype": every_dtype,
    "a convolution missing (torchvision)": torchvision_vgg(without("features.12")),
    "the last convolution missing": torchvision_vgg(without("features.28")),
    "a convolution missing (paper)": paper_vgg(without("conv4_2")),
    "a bias missing": paper_vgg(lambda tensors: {k: a for k, a in tensors.items() if k != "conv3_1.bias"}),
    "5×5 kernels (torchvision)": torchvision_vgg(with_5x5("features.7.weight")),
    "5×5 kernels (paper)": paper_vgg(with_5x5("conv2_2.weight")),
    "another width": torchvision_vgg(one_channel_wider("features.10", "features.12")),
    "a head of one layer": torchvision_vgg(custom_head),
    "a head of two layers": torchvision_vgg(custom_head_of_two),
    "another depth": shallow,
    "an FCN on VGG-19": fcn_on_vgg19,
    "an unknown layer besides": paper_vgg(lambda tensors: tensors | {"extra.weight": np.ones(3, np.float32)}),
}  # fmt: skip
WRAPPINGS = {
    "in state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "in model": lambda state: {"model": state, "lr": 0.1},
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "module. in state_dict": lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
}


@pytest.mark.parametrize(
    ("kind", "wrapping"),
    [(kind, "plain") for kind in UNRECOGNISED]
    + [(kind, wrapping) for kind in ("ResNet-like", "every dtype", "a head of one layer") for wrapping in WRAPPINGS],
)
def test_any_other_state_dict_keeps_its_names_and_numbers(tmp_path, kind, wrapping):
    """A reader that serves only the networks it knows, or that takes a network for one that it is not."""
    tensors = UNRECOGNISED[kind](np.random.default_rng(0))
    wrapped = WRAPPINGS.get(wrapping, lambda state: state)(pub.to_torch(tensors))
    for legacy in (False, True):
        file = weights.load(torch_save(tmp_path, wrapped, legacy))
        assert_same_bits(file.tensors, tensors)
        assert file.architecture == {}
        assert "names" not in file.record["source"]


@pytest.mark.parametrize("names", ["minifcn", "caffe-names"])
@pytest.mark.parametrize("source", ["a text", ["a list"], None, 3])
def test_a_source_of_another_kind_in_our_own_record_is_kept_or_refused(tmp_path, source, names):
    """TypeError: 'str' object does not support item assignment."""
    path, tensors = tmp_path / "a.safetensors", pub.network("vgg16")
    about = {"architecture": {"name": "vgg16", **SIZES}, "preprocessing": pub.BERKELEY, "names": names}
    weights.save_weights(path, tensors, record={"source": source, "classes": ["a"]}, **about)
    try:
        file = weights.load(path)
    except WeightsError as error:
        message = str(error)
        assert str(path) in message
    else:
        assert file.record["classes"] == ["a"]
        assert file.preprocessing == pub.BERKELEY
        assert_same_bits(file.tensors, tensors)


# Into a network


TARGETS = {"fcn32s": models.FCN32s, "fcn8s": models.FCN8s}
NEW = {
    "fcn32s": {"score_fr.weight", "score_fr.bias", "upscore.weight"},
    "fcn16s": {f"{n}.{p}" for n in ("score_fr", "score_pool4") for p in ("weight", "bias")}
    | {"upscore2.weight", "upscore16.weight"},
    "fcn8s": {f"{n}.{p}" for n in ("score_fr", "score_pool4", "score_pool3") for p in ("weight", "bias")}
    | {"upscore2.weight", "upscore_pool4.weight", "upscore8.weight"},
}


def target(name, classes=5, **changes):
    arguments = {"width": pub.WIDTH, "fc_width": pub.FC_WIDTH} | changes
    return models.MODELS[name](classes, **arguments)


def assert_starts_anew(name, array):
    if name.startswith("upscore"):
        assert_array_equal(array, bilinear_weight(array.shape[0], array.shape[2]), err_msg=name)
    else:
        assert not array.any(), name


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("form", pub.VGG_FORMS)
def test_a_classifier_of_any_form_goes_into_an_fcn_and_the_report_says_what_became_of_it(tmp_path, form, name):
    """fc6 and fc7 not transplanted, fc8 in place of the scores or gone without a word, the wrong pictures."""
    tensors, form = pub.network("vgg16"), pub.VGG_FORMS[form]
    model = target(name)
    report = models.load_pretrained(model, publish(tmp_path, form, "vgg16", tensors))
    assert set(report.reshaped) == {"fc6.weight", "fc7.weight"}
    assert set(report.dropped) == {"fc8.weight", "fc8.bias"}
    assert set(report.new) == NEW[name]
    assert set(report.copied) == set(tensors) - {"fc6.weight", "fc7.weight", "fc8.weight", "fc8.bias"}
    assert {row.reason for row in report.rows if row.action == "dropped"} == {"scores the classifier's own classes"}
    state = model.state_dict()
    for tensor in (*report.copied, *report.reshaped):
        assert_array_equal(state[tensor].ravel(), tensors[tensor].ravel(), err_msg=tensor)
    for tensor in report.new:
        assert_starts_anew(tensor, state[tensor])
    assert model.preprocessing == form.preprocessing


@pytest.mark.parametrize("name", TARGETS)
def test_a_classifier_without_its_last_layer_goes_into_an_fcn_too(tmp_path, name):
    """torchvision's VGG cut off after fc7, as feature extractors are: refused for a layer that is not needed."""
    tensors = without("fc8")(pub.network("vgg16"))
    path = torch_save(tmp_path, pub.to_torch(pub.torchvision_names("vgg16", tensors)))
    assert_same_bits(weights.load(path).tensors, tensors)
    model = target(name)
    report = models.load_pretrained(model, path)
    assert (set(report.reshaped), report.dropped) == ({"fc6.weight", "fc7.weight"}, ())
    assert set(report.copied) | set(report.reshaped) == set(tensors)


@pytest.mark.parametrize("classes", [pub.CLASSES, 7])
@pytest.mark.parametrize(("coarse", "fine"), [("fcn32s", "fcn16s"), ("fcn16s", "fcn8s")])
@pytest.mark.parametrize("form", ["Caffe", "torch legacy", "Chainer"])
def test_a_released_stage_goes_into_the_next_one(tmp_path, form, coarse, fine, classes):
    """The scores of another number of classes squeezed in; those of the same number started anew."""
    tensors = pub.network(coarse)
    model = target(fine, classes)
    report = models.load_pretrained(model, publish(tmp_path, pub.FCN_FORMS[form], coarse, tensors))
    common = set(tensors) & set(model.state_dict())
    same = common if classes == pub.CLASSES else {n for n in common if not n.startswith(("score", "upscore"))}
    assert (set(report.copied), report.reshaped) == (same, ())
    assert set(report.dropped) == set(tensors) - common
    assert set(report.new) == set(model.state_dict()) - same
    for row in report.rows:
        if row.action == "dropped":
            assert row.reason == f"{fine} has no such layer"
        elif row.name in common - same:
            assert "the file's is for 4 classes" in row.reason
            assert (row.source[0], row.target[0]) == (pub.CLASSES, classes)
    state = model.state_dict()
    for name in same:
        assert_array_equal(state[name], tensors[name], err_msg=name)
    for name in report.new:
        assert_starts_anew(name, state[name])
    assert model.preprocessing == pub.BERKELEY


@pytest.mark.parametrize("name", FCNS)
@pytest.mark.parametrize("form", ["Caffe", "torch legacy", "Chainer"])
def test_a_released_fcn_is_loaded_by_its_class(tmp_path, form, name):
    """Another number of classes without a word; the file's own number refused."""
    tensors = pub.network(name)
    path = publish(tmp_path, pub.FCN_FORMS[form], name, tensors)
    network = models.MODELS[name]
    assert_same_bits(network.from_weights(path, num_classes=pub.CLASSES).state_dict(), tensors)
    with pytest.warns(UserWarning, match="score_fr.weight, score_fr.bias.*; train it before use"):
        model = network.from_weights(path, num_classes=9)
    assert (model.architecture["num_classes"], model.preprocessing) == (9, pub.BERKELEY)
    for tensor, array in model.state_dict().items():
        if tensor.startswith(("score", "upscore")):
            assert_starts_anew(tensor, array)
        else:
            assert_array_equal(array, tensors[tensor], err_msg=tensor)


def own_file(path, name, tensors, **changes):
    """A file of this project."""
    architecture = {"name": name, **SIZES} | changes
    weights.save_weights(path, tensors, architecture=architecture, preprocessing=pub.BERKELEY)


def write_safetensors(tensors):
    return lambda path: pub.safetensors_file(path, tensors)


VGG16, VGG19, AT_ONCE = pub.network("vgg16"), pub.network("vgg19"), pub.network("fcn8s-at-once")
SCALES = {"scale_pool4.weight": np.full(16, 0.01, np.float32), "scale_pool3.weight": np.full(8, 0.0001, np.float32)}
MISFITS = {
    "no dense layers": (
        "fcn32s",
        {},
        write_safetensors(without("fc6", "fc7", "fc8")(VGG16)),
        [
            "4 tensors disagree",
            "fc6.weight: not in the file, (6, 16, 7, 7) in the network",
            "fc6.bias: not in the file, (6,) in the network",
            "fc7.weight: not in the file, (6, 6, 1, 1) in the network",
            "fc7.bias: not in the file, (6,) in the network",
        ],
    ),
    "no fc7": (
        "fcn8s",
        {},
        write_safetensors(without("fc7")(VGG16)),
        ["2 tensors disagree", "fc7.weight: not in the file, (6, 6, 1, 1) in the network", "fc7.bias: not in the file"],
    ),
    "another width": (
        "fcn8s",
        {"width": 3},
        write_safetensors(VGG16),
        [
            *("width=2", "width=3"),
            "conv1_1.weight: (2, 3, 3, 3) in the file, (3, 3, 3, 3) in the network",
            "fc6.weight: (6, 784) in the file, (6, 24, 7, 7) in the network",
        ],
    ),
    "another fc_width": (
        "fcn32s",
        {"fc_width": 7},
        write_safetensors(VGG16),
        ["fc_width=6", "fc_width=7", "fc7.bias: (6,) in the file, (7,) in the network"],
    ),
    "another depth": (
        "fcn32s",
        {},
        lambda path: pub.safetensors_file(path, pub.torchvision_names("vgg19", VGG19)),
        [
            "holds vgg19",
            *(f"conv{block}_4.{part}" for block in (3, 4, 5) for part in ("weight", "bias")),
            "conv5_4.weight: (16, 16, 3, 3) in the file, not in the network",
        ],
    ),
    "an unknown tensor": (
        "fcn8s",
        {},
        lambda path: own_file(path, "vgg16", VGG16 | {"extra.weight": np.ones(3, np.float32)}),
        ["1 tensors disagree", "extra.weight: (3,) in the file, not in the network"],
    ),
    "an unknown network": (
        "fcn8s",
        {},
        lambda path: pub.safetensors_file(path, resnet_like(np.random.default_rng(0))),
        [
            "neither a VGG nor an FCN",
            "layer1.0.conv1.weight: (8, 8, 3, 3) in the file, not in the network",
            "conv1_1.weight: not in the file, (2, 3, 3, 3) in the network",
        ],
    ),
    "trained at once": (
        "fcn8s",
        {},
        write_safetensors(AT_ONCE | SCALES),
        ["{'pool4': 0.01, 'pool3': 0.0001}", "use fcn8s-at-once"],
    ),
    "trained in stages": (
        "fcn8s-at-once",
        {},
        write_safetensors(AT_ONCE),
        ["{'pool4': 0.01, 'pool3': 0.0001}", "use fcn8s "],
    ),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_listed_with_both_shapes_and_nothing_is_changed(tmp_path, misfit):
    """A network half of the file's and half new, or one name of many."""
    name, changes, write, parts = MISFITS[misfit]
    path = tmp_path / "misfit.safetensors"
    write(path)
    model = target(name, pub.CLASSES, **changes)
    before, preprocessing = model.state_dict(), model.preprocessing
    with pytest.raises(WeightsError) as caught:
        models.load_pretrained(model, path)
    for part in (str(path), *parts):
        assert part in str(caught.value)
    assert_same_bits(model.state_dict(), before)
    assert model.preprocessing == preprocessing


def test_the_networks_of_the_tests_are_not_alike():
    """A test of the tests: two layers of equal numbers could be exchanged without being noticed."""
    for tensors in (VGG16, VGG19, AT_ONCE):
        assert len({array.tobytes() for array in tensors.values()}) == len(tensors)
