"""`python -m minifcn.convert` as a user calls it: what comes out, for whom it is, and what bad input gets.

Files come from the real libraries, and what is written is given back to them: PyTorch, safetensors, onnxruntime.
"""

import dataclasses
import errno
import functools
import hashlib
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from networks import fill
from numpy.testing import assert_allclose, assert_array_equal
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from minifcn import Tensor, models, no_grad, weights
from minifcn.commands import run_command
from minifcn.convert import main, make_parser
from minifcn.weights import Preprocessing, save_weights
from minifcn.weights.catalogue import CATALOGUE, Published
from minifcn.weights.preprocessing import CAFFE_FCN, CAFFE_VGG, TORCHVISION

torch = pytest.importorskip("torch", reason="the oracle of these tests")
import reference_networks  # noqa: E402 (needs torch)
import safetensors.torch  # noqa: E402 (needs torch)

DEPTHS = {
    "vgg11": reference_networks.VGG11,
    "vgg13": reference_networks.VGG13,
    "vgg16": reference_networks.VGG16,
    "vgg19": reference_networks.VGG19,
}
UPSAMPLINGS = {
    "fcn32s": {"upscore": 32},
    "fcn16s": {"upscore2": 2, "upscore16": 16},
    "fcn8s": {"upscore2": 2, "upscore_pool4": 2, "upscore8": 8},
}
UNLIKE_ANY = Preprocessing("BGR", 0.5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
ODD = (45, 61)  # height and width that no pooling divides


# Networks as PyTorch has them


class TorchvisionVGG(torch.nn.Module):
    """torchvision's VGG, narrow: the same names and the same computation."""

    def __init__(self, depth="vgg16", width=2, fc_width=6, classes=5):
        super().__init__()
        layers, channels = [], 3
        for name in DEPTHS[depth].split():
            if name == "pool":
                layers.append(torch.nn.MaxPool2d(2))
            else:
                before, channels = channels, width * (1, 2, 4, 8, 8)[int(name[4]) - 1]
                layers += [torch.nn.Conv2d(before, channels, 3, padding=1), torch.nn.ReLU()]
        self.features = torch.nn.Sequential(*layers)
        self.avgpool = torch.nn.AdaptiveAvgPool2d(7)
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(49 * channels, fc_width),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(fc_width, fc_width),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(fc_width, classes),
        )

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class CaffeFCN(torch.nn.Module):
    """The released FCNs: layers by Caffe's names, upsampling without bias."""

    def __init__(self, net="fcn8s", width=2, fc_width=4, classes=3):
        super().__init__()
        self.net, channels = net, 3
        for name in reference_networks.VGG16.split():
            if name != "pool":
                before, channels = channels, width * (1, 2, 4, 8, 8)[int(name[4]) - 1]
                setattr(self, name, torch.nn.Conv2d(before, channels, 3, padding=1))
        self.fc6 = torch.nn.Conv2d(channels, fc_width, 7)
        self.fc7 = torch.nn.Conv2d(fc_width, fc_width, 1)
        self.score_fr = torch.nn.Conv2d(fc_width, classes, 1)
        if net != "fcn32s":
            self.score_pool4 = torch.nn.Conv2d(8 * width, classes, 1)
        if net.startswith("fcn8s"):
            self.score_pool3 = torch.nn.Conv2d(4 * width, classes, 1)
        if net == "fcn8s-at-once":
            self.scale_pool4, self.scale_pool3 = Scale(), Scale()
        for name, stride in UPSAMPLINGS[net.removesuffix("-at-once")].items():
            setattr(self, name, torch.nn.ConvTranspose2d(classes, classes, 2 * stride, stride, bias=False))

    def forward(self, x):
        return reference_networks.fcn_paper(self.net, dict(self.named_parameters()), x)


class Scale(torch.nn.Module):
    """Caffe's Scale layer, by which FCN-8s at once multiplies its skips."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(1))


class CaffeVGG(torch.nn.Module):
    """The VGG team's classifier, by Caffe's names."""

    def __init__(self, width=2, fc_width=6, classes=5):
        super().__init__()
        channels = 3
        for name in reference_networks.VGG16.split():
            if name != "pool":
                before, channels = channels, width * (1, 2, 4, 8, 8)[int(name[4]) - 1]
                setattr(self, name, torch.nn.Conv2d(before, channels, 3, padding=1))
        self.fc6 = torch.nn.Linear(49 * channels, fc_width)
        self.fc7 = torch.nn.Linear(fc_width, fc_width)
        self.fc8 = torch.nn.Linear(fc_width, classes)

    def forward(self, x):
        parameters = dict(self.named_parameters())
        return reference_networks.vgg_dense(parameters, reference_networks.pools(parameters, x, 1)[-1])


def trained(model, seed=0):
    """The model with random numbers everywhere, in float32; its logits depend on every layer."""
    return fill(model, seed).astype(np.float32).eval()


def save(path, model, preprocessing=UNLIKE_ANY, **record):
    save_weights(path, model.state_dict(), architecture=model.architecture, preprocessing=preprocessing, record=record)
    return path


def save_torch_vgg(path, depth="vgg16", seed=0, **options):
    torch.manual_seed(seed)
    module = TorchvisionVGG(depth).eval()
    torch.save(module.state_dict(), path, **options)
    return module


def picture(size=ODD, seed=1):
    return np.random.default_rng(seed).normal(size=(1, 3, *size)).astype(np.float32)


def logits(model, x):
    with no_grad():
        return model(Tensor(x)).numpy()


def torch_logits(module, x):
    with torch.no_grad():
        return module.eval()(torch.from_numpy(x)).numpy()


def takes_strictly(module, path):
    """PyTorch's own way to load a file: any missing, spare or misshapen tensor is an error."""
    module.load_state_dict(safetensors.torch.load_file(path), strict=True)
    return module


def source_in(path):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["minifcn"])["record"]["source"]


# The command


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def convert(monkeypatch, capsys):
    """Runs the command to its end as a process would, but in this one, which is faster."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(main, make_parser())
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def converts(convert):
    """The same for what must succeed: its text."""

    def run(*arguments):
        ended = convert(*arguments)
        assert ended.code == 0, ended.err
        return ended.out

    return run


def process(*arguments, **environment):
    """The finished process of `python -m minifcn.convert …`."""
    command = [sys.executable, "-m", "minifcn.convert", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env={**os.environ, **environment}, check=False
    )


def refused(ended, code, *words):
    """Assert the exit code and one line that has the words."""
    assert ended.code == code, ended
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) == 1, ended.err
    for word in words:
        assert str(word) in ended.err, ended.err


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# Weights from elsewhere


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_converted_bit_for_bit_and_described(tmp_path, zipped):
    """Layers mixed up, numbers rounded or copied from nowhere; and a text that leaves out what happened."""
    source, out = tmp_path / "vgg16-narrow.pth", tmp_path / "vgg16.safetensors"
    module = save_torch_vgg(source, _use_new_zipfile_serialization=zipped)
    ended = process(source, "--out", out)
    assert (ended.returncode, ended.stderr) == (0, "")

    convolutions = [name for name in reference_networks.VGG16.split() if name != "pool"]
    ours = [f"{layer}.{part}" for layer in (*convolutions, "fc6", "fc7", "fc8") for part in ("weight", "bias")]
    theirs = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    converted = load_file(out)
    assert set(converted) == set(ours)
    for our_name, (their_name, array) in zip(ours, theirs.items(), strict=True):
        assert converted[our_name].dtype == array.dtype
        assert converted[our_name].shape == array.shape, their_name
        assert converted[our_name].tobytes() == array.tobytes(), their_name

    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert source_in(out).items() >= {"name": source.name, "sha256": digest}.items()
    count = sum(array.size for array in theirs.values())
    container = "PyTorch (zip)" if zipped else "PyTorch (legacy)"
    for told in (container, digest, "vgg16", f"{count:,} parameters", "RGB", "0.485 0.456 0.406", str(out)):
        assert told in ended.stdout, ended.stdout
    assert ended.stdout.splitlines()[-1].startswith(f"next: python -m minifcn.train --weights {out}")


def test_converting_twice_gives_identical_bytes(tmp_path, converts):
    """A time, a path or the order of a set in the file: nobody could compare hashes."""
    source, outs = tmp_path / "vgg.pth", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_torch_vgg(source)
    for out in outs:
        converts(source, "--out", out)
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_an_old_file_is_replaced_and_not_written_over(tmp_path, converts):
    """Written over, it would be half of both while that lasts; whoever has the old one open keeps the old one."""
    source, out = tmp_path / "vgg.pth", tmp_path / "a.safetensors"
    out.write_bytes(b"old")
    save_torch_vgg(source)
    with open(out, "rb") as old:
        converts(source, "--out", out)
        assert old.read() == b"old"
    assert len(load_file(out)) == 32
    assert names_in(tmp_path) == ["a.safetensors", "vgg.pth"]


def test_a_converted_file_keeps_its_source(tmp_path, converts):
    """The name and hash of the copy in place of the published file's; which then cannot be traced any more."""
    source, first, second = (tmp_path / name for name in ("vgg.pth", "first.safetensors", "second.safetensors"))
    save_torch_vgg(source)
    converts(source, "--out", first)
    text = converts(first, "--out", second)
    assert first.read_bytes() == second.read_bytes()
    assert source_in(second)["name"] == "vgg.pth"
    assert "vgg.pth" in text or source_in(second)["sha256"] in text


def test_a_converted_file_is_not_called_what_it_was_made_from(tmp_path, converts):
    """`first.safetensors: PyTorch (zip)`, and a hash that the file does not have."""
    source, first = tmp_path / "vgg.pth", tmp_path / "first.safetensors"
    save_torch_vgg(source)
    converts(source, "--out", first)
    lines = converts(first, "--out", tmp_path / "second.safetensors").splitlines()
    line = next(line for line in lines if line.startswith(str(first)))
    assert "safetensors" in line.removeprefix(str(first))
    assert "PyTorch" not in line


def test_any_state_dict_is_converted_with_its_names_kept(tmp_path, converts):
    """Only networks that are known would go through; or `module.` stay before every name."""
    tensors = {"head.a": np.arange(6, dtype=np.float16).reshape(2, 3), "steps": np.array(7)}
    tensors |= {"empty": np.zeros((0, 3), np.float32), "mask": np.array([True, False])}
    checkpoint = {"state_dict": {f"module.{name}": torch.from_numpy(array) for name, array in tensors.items()}}
    torch.save({"epoch": 3, **checkpoint}, tmp_path / "other.pth")
    text = converts(tmp_path / "other.pth", "--out", tmp_path / "other.safetensors")
    assert "4 tensors keep their names" in text
    for again in (load_file(tmp_path / "other.safetensors"), weights.load(tmp_path / "other.safetensors").tensors):
        assert set(again) == set(tensors)
        for name, array in tensors.items():
            assert (again[name].dtype, again[name].shape) == (array.dtype, array.shape)
            assert_array_equal(again[name], array)


@pytest.mark.parametrize("to", ["torchvision", "caffe-names", "onnx"])
def test_what_is_no_known_network_is_not_exported_under_other_names(tmp_path, convert, to):
    save_file({"linear.weight": np.ones((2, 2), np.float32)}, tmp_path / "other.safetensors")
    out = tmp_path / ("out.onnx" if to == "onnx" else "out.safetensors")
    refused(convert(tmp_path / "other.safetensors", "--to", to, "--out", out), 1, f"--to {to}", "other.safetensors")
    assert not out.exists()


# Weights for elsewhere

# The same sums in another order: logits up to 9 differ by 6e-6.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("depth", list(DEPTHS))
def test_pytorch_takes_a_vgg_by_torchvision_s_names(tmp_path, converts, depth):
    """One layer too few between two blocks shifts all numbers behind it; fc6 flattened in another order."""
    model = trained(models.MODELS[depth](5, 2, 6, geometry="torchvision"))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    text = converts(source, "--to", "torchvision", "--out", out)
    module = takes_strictly(TorchvisionVGG(depth), out)
    assert_allclose(torch_logits(module, picture()), logits(model, picture()), **FLOAT32)
    assert "load_state_dict" in text.splitlines()[-1]


def test_an_fcn_for_torchvision_leaves_out_the_score_layers_and_says_which(tmp_path, converts):
    """torchvision's VGG has nothing to put them in; without a word, they would seem to be there."""
    model = trained(models.FCN8s(3, 2, 6))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    text = converts(source, "--to", "torchvision", "--out", out)
    left_out = [name for name in model.state_dict() if name.startswith(("score", "upscore"))]
    for name in left_out:
        assert name in text
    module = TorchvisionVGG()
    answer = module.load_state_dict(safetensors.torch.load_file(out), strict=False)
    assert answer.missing_keys == ["classifier.6.weight", "classifier.6.bias"]
    assert answer.unexpected_keys == []
    assert_array_equal(module.classifier[0].weight.detach(), model.state_dict()["fc6.weight"].reshape(6, -1))
    assert_array_equal(module.features[28].weight.detach(), model.state_dict()["conv5_3.weight"])


@pytest.mark.parametrize("net", list(UPSAMPLINGS))
def test_pytorch_takes_an_fcn_by_caffe_s_names(tmp_path, converts, net):
    """Upsampling with its two channel axes swapped; a bias that the released networks do not have."""
    model = trained(models.MODELS[net](3, 2, 4))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    converts(source, "--to", "caffe-names", "--out", out)
    module = takes_strictly(CaffeFCN(net), out)
    assert_allclose(torch_logits(module, picture()), logits(model, picture()), **FLOAT32)


def test_pytorch_takes_a_vgg_by_caffe_s_names(tmp_path, converts):
    model = trained(models.VGG16(5, 2, 6))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    converts(source, "--to", "caffe-names", "--out", out)
    module, x = takes_strictly(CaffeVGG(), out), picture((224, 224))
    assert_allclose(torch_logits(module, x), logits(model, x), **FLOAT32)


def test_fcn8s_at_once_gets_its_scale_layers_back(tmp_path, converts):
    """Without them the skips would be a hundred and ten thousand times too large."""
    model = trained(models.FCN8sAtOnce(3, 2, 4))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    converts(source, "--to", "caffe-names", "--out", out)
    module = takes_strictly(CaffeFCN("fcn8s-at-once"), out)
    assert module.scale_pool4.weight.tolist() == pytest.approx([0.01])
    assert module.scale_pool3.weight.tolist() == pytest.approx([0.0001])
    assert_allclose(torch_logits(module, picture()), logits(model, picture()), **FLOAT32)
    again = models.from_weights(out)
    assert type(again) is models.FCN8sAtOnce
    assert again.skip_scales == model.skip_scales
    assert_array_equal(logits(again, picture()), logits(model, picture()))


NETWORKS_AND_EXPORTS = [
    ("vgg16", "torchvision", "torchvision"),
    ("vgg16", "torchvision", "caffe-names"),
    ("vgg16", "paper", "torchvision"),
    ("vgg16", "paper", "caffe-names"),
    ("fcn32s", "paper", "caffe-names"),
    ("fcn8s", "paper", "caffe-names"),
    ("fcn8s", "same", "caffe-names"),
    ("fcn8s-at-once", "same", "caffe-names"),
    ("fcn4s", "same", "caffe-names"),
    ("fcn2s", "same", "caffe-names"),
]


@pytest.mark.parametrize(("name", "geometry", "to"), NETWORKS_AND_EXPORTS)
def test_an_exported_file_comes_back_as_the_same_network(tmp_path, converts, name, geometry, to):
    """Preprocessing guessed from the names; padding of 100 pixels where the network was trained with 1.

    The commonest network trained here has the geometry "same". Its export, evaluated here, must give its figures.
    """
    model = trained(models.MODELS[name](3, 2, 4, geometry=geometry))
    source, out = save(tmp_path / "mine.safetensors", model, classes=["a", "b", "c"]), tmp_path / "theirs.safetensors"
    converts(source, "--to", to, "--out", out)
    file = weights.load(out)
    assert file.preprocessing == UNLIKE_ANY
    assert file.record["classes"] == ["a", "b", "c"]
    assert file.tensors.keys() == model.state_dict().keys()
    for tensor, array in model.state_dict().items():
        assert_array_equal(file.tensors[tensor], array, err_msg=tensor)
    assert_array_equal(logits(models.from_weights(out), picture()), logits(model, picture()))


def test_the_trunk_of_an_fcn_comes_back_from_torchvision_s_names(tmp_path, converts):
    model = trained(models.FCN8s(3, 2, 4))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    converts(source, "--to", "torchvision", "--out", out)
    file = weights.load(out)
    assert file.preprocessing == UNLIKE_ANY
    assert file.architecture.items() >= {"name": "vgg16", "width": 2, "fc_width": 4}.items()
    assert_array_equal(file.tensors["conv5_3.weight"], model.state_dict()["conv5_3.weight"])
    assert_array_equal(file.tensors["fc6.weight"], model.state_dict()["fc6.weight"].reshape(4, -1))


def test_a_fully_convolutional_classifier_is_dense_again_for_torchvision(tmp_path, converts):
    """Weights (6, 16, 7, 7) that no Linear takes."""
    model = trained(models.VGG16(5, 2, 6, fully_convolutional=True))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    converts(source, "--to", "torchvision", "--out", out)
    module, x = takes_strictly(TorchvisionVGG(), out), picture((224, 224))
    assert_allclose(torch_logits(module, x), logits(model, x)[:, :, 0, 0], **FLOAT32)


FOLDED = "batch normalisation is folded"


@pytest.mark.parametrize(
    ("name", "options", "to"),
    [
        ("vgg16", {"geometry": "torchvision"}, "torchvision"),
        ("vgg16", {}, "caffe-names"),
        ("fcn32s", {}, "caffe-names"),
        ("fcn8s", {}, "caffe-names"),
        ("fcn8s-at-once", {}, "caffe-names"),
    ],
)
def test_pytorch_takes_a_network_whose_batch_normalisation_was_folded(tmp_path, converts, name, options, to):
    """Statistics under names that nothing takes, or convolutions without what normalised them; and no word about it."""
    model = trained(models.MODELS[name](3, 2, 4, batch_norm=True, **options))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    before = source.read_bytes()
    text = converts(source, "--to", to, "--out", out)
    assert [FOLDED in line for line in text.splitlines()].count(True) == 1
    sizes = {"width": 2, "fc_width": 4, "classes": 3}
    if name == "vgg16":
        module, x = (TorchvisionVGG if to == "torchvision" else CaffeVGG)(**sizes), picture((224, 224))
    else:
        module, x = CaffeFCN(name), picture()
    expected = logits(model, x)
    tolerance = 4e-5 * np.abs(expected).max()  # float32, and folded weights; 5e-6 was seen
    assert_allclose(torch_logits(takes_strictly(module, out), x), expected, rtol=0, atol=tolerance)
    assert source.read_bytes() == before
    again = models.from_weights(out)  # and here: as what it is now, not as what it was
    assert again.architecture == model.architecture | {"batch_norm": False}
    assert_allclose(logits(again, x), expected, rtol=0, atol=tolerance)


def test_the_trunk_of_a_normalised_fcn_goes_to_torchvision(tmp_path, converts):
    """Normalisations among the layers that torchvision has no place for."""
    model = trained(models.FCN8s(3, 2, 6, batch_norm=True))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    text = converts(source, "--to", "torchvision", "--out", out)
    assert FOLDED in text
    assert "_bn" not in text
    answer = TorchvisionVGG().load_state_dict(safetensors.torch.load_file(out), strict=False)
    assert (answer.missing_keys, answer.unexpected_keys) == (["classifier.6.weight", "classifier.6.bias"], [])


def test_an_fcn_without_skips_goes_out_and_comes_back_without_them(tmp_path, converts):
    """An FCN-8s, by its upsampling, whose score layers are looked for in vain."""
    model = trained(models.FCN8s(3, 2, 4, skips="none", batch_norm=True))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "theirs.safetensors"
    converts(source, "--to", "caffe-names", "--out", out)
    module = CaffeFCN("fcn8s")
    del module.score_pool4, module.score_pool3
    expected = logits(model, picture())
    tolerance = 4e-5 * np.abs(expected).max()  # float32, and folded weights; 5e-6 was seen
    assert_allclose(torch_logits(takes_strictly(module, out), picture()), expected, rtol=0, atol=tolerance)
    assert models.from_weights(out).architecture == model.architecture | {"batch_norm": False}


@pytest.mark.parametrize("batch_norm", [False, True])
def test_what_stays_here_stays_as_it_is(tmp_path, converts, batch_norm):
    """Folded though nobody asked for it, or said to be folded where there was nothing to fold."""
    model = trained(models.FCN8s(3, 2, 4, batch_norm=batch_norm))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "copy.safetensors"
    assert FOLDED not in converts(source, "--out", out)
    assert models.from_weights(out).architecture == model.architecture
    assert_array_equal(logits(models.from_weights(out), picture()), logits(model, picture()))
    if not batch_norm:
        assert FOLDED not in converts(source, "--to", "caffe-names", "--out", tmp_path / "theirs.safetensors")


def test_damaged_statistics_are_refused_by_file(tmp_path, convert):
    """NaN in a file for others, and a warning of the square root."""
    model = trained(models.FCN32s(3, 2, 4, batch_norm=True))
    model.conv4_1_bn.running_var.data[3] = -0.5
    source = save(tmp_path / "mine.safetensors", model)
    refused(convert(source, "--to", "caffe-names", "--out", tmp_path / "x.safetensors"), 1, source, "conv4_1_bn")
    assert names_in(tmp_path) == ["mine.safetensors"]


@pytest.mark.parametrize("to", ["torchvision", "caffe-names"])
def test_fcn_basic_has_no_counterpart_elsewhere_and_is_refused_by_name(tmp_path, convert, to):
    """Its normalisations counted as torchvision's convolutions."""
    source = save(tmp_path / "mine.safetensors", trained(models.FCNBasic(3, 2)))
    refused(convert(source, "--to", to, "--out", tmp_path / "x.safetensors"), 1, source, "fcn-basic", "--to onnx")
    assert names_in(tmp_path) == ["mine.safetensors"]


def test_fcn_basic_is_converted_here_and_gets_other_classes(tmp_path, converts):
    """Told that fc6 and fc7 are missing, or that only an FCN has classes."""
    source, out = save(tmp_path / "mine.safetensors", trained(models.FCNBasic(3, 2))), tmp_path / "out.safetensors"
    assert converts(source, "--out", out).splitlines()[-1].startswith("next: python -m minifcn.evaluate")
    converts(source, "--classes", 5, "--out", out)
    again = models.from_weights(out)
    assert again.architecture == models.FCNBasic(5, 2).architecture
    assert_array_equal(again.conv2.weight.data, models.from_weights(source).conv2.weight.data)


@pytest.mark.parametrize(
    "make",
    [
        models.FCN8s,
        models.FCN32s,
        models.VGG16,
        functools.partial(models.FCN8s, batch_norm=True, skips="none"),
        lambda *_: models.FCNBasic(3, 2),
    ],
)
def test_onnxruntime_gives_the_logits_from_one_file(tmp_path, converts, make):
    """Weights in a second file that gets lost; a size of image written down; preprocessing forgotten."""
    pytest.importorskip("onnx", reason="the extra that writes ONNX")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the oracle of this test")
    model = trained(make(3, 2, 4))
    source, out = save(tmp_path / "mine.safetensors", model), tmp_path / "mine.onnx"
    text = converts(source, "--to", "onnx", "--out", out)
    assert names_in(tmp_path) == ["mine.onnx", "mine.safetensors"]
    assert "onnxruntime" in text.splitlines()[-1]
    assert (FOLDED in text) == model.batch_norm
    source.unlink()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(out.read_bytes(), options, providers=["CPUExecutionProvider"])
    for size in (ODD, (33, 70)):
        (found,) = session.run(None, {session.get_inputs()[0].name: picture(size)})
        expected = logits(model, picture(size))
        assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
    stored = session.get_modelmeta().custom_metadata_map["preprocessing"]
    assert Preprocessing.from_dict(json.loads(stored)) == UNLIKE_ANY


# Another number of classes, and what the user knows better


def test_another_number_of_classes_keeps_all_but_the_score_layers_and_says_so(tmp_path, converts):
    """Scores of 3 classes squeezed into 5; the trunk new as well; class names that no longer fit."""
    model = trained(models.FCN8s(3, 2, 4))
    source = save(tmp_path / "three.safetensors", model, classes=["a", "b", "c"], palette=[[0, 0, 0]] * 3, data="x")
    text = converts(source, "--classes", 5, "--out", tmp_path / "five.safetensors")
    file = weights.load(tmp_path / "five.safetensors")
    assert file.architecture == model.architecture | {"num_classes": 5}
    assert file.preprocessing == UNLIKE_ANY
    assert file.record.keys().isdisjoint({"classes", "palette", "data"})
    table = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    before = model.state_dict()
    assert file.tensors.keys() == before.keys()
    for name, array in file.tensors.items():
        if name.startswith(("score", "upscore")):
            assert array.shape != before[name].shape
            assert "newly initialised" in table[name]
        else:
            assert_array_equal(array, before[name])
            assert "copied" in table[name]
    assert logits(models.from_weights(tmp_path / "five.safetensors"), picture()).shape == (1, 5, *ODD)


def test_the_file_s_own_number_of_classes_loses_nothing(tmp_path, converts):
    """Score layers thrown away for nothing."""
    model = trained(models.FCN8s(3, 2, 4))
    source = save(tmp_path / "three.safetensors", model, classes=["a", "b", "c"])
    text = converts(source, "--classes", 3, "--out", tmp_path / "again.safetensors")
    file = weights.load(tmp_path / "again.safetensors")
    assert file.record["classes"] == ["a", "b", "c"]
    for name, array in model.state_dict().items():
        assert_array_equal(file.tensors[name], array)
    assert "num_classes 3" in text
    assert "newly initialised" not in text


def test_a_classifier_has_no_score_layers_to_begin_anew(tmp_path, convert):
    save_torch_vgg(tmp_path / "vgg.pth")
    out = tmp_path / "x.safetensors"
    refused(convert(tmp_path / "vgg.pth", "--classes", 3, "--out", out), 2, "--classes", "FCN")
    assert not out.exists()


@pytest.mark.parametrize("classes", ["0", "-1", "many"])
def test_an_impossible_number_of_classes_is_wrong_usage(tmp_path, convert, classes):
    save(tmp_path / "fcn.safetensors", models.FCN32s(3, 2, 4))
    ended = convert(tmp_path / "fcn.safetensors", f"--classes={classes}", "--out", tmp_path / "x.safetensors")
    assert ended.code == 2, ended
    assert "--classes" in ended.err
    assert names_in(tmp_path) == ["fcn.safetensors"]


@pytest.mark.parametrize(
    ("given", "meant"), [("torchvision", TORCHVISION), ("caffe", CAFFE_VGG), ("caffe-fcn", CAFFE_FCN)]
)
def test_the_user_may_name_the_preprocessing(tmp_path, converts, given, meant):
    """torchvision's names with Caffe's pictures, as other people's conversions have them."""
    save_torch_vgg(tmp_path / "vgg.pth")
    text = converts(tmp_path / "vgg.pth", "--preprocessing", given, "--out", tmp_path / "x.safetensors")
    assert weights.load(tmp_path / "x.safetensors").preprocessing == meant
    assert f"preprocessing: {meant.channel_order}, " in text


def test_the_user_may_say_that_skips_were_trained_at_once(tmp_path, converts):
    """PyTorch's files of FCN-8s at once lack the scale layers, and look like FCN-8s."""
    model = trained(models.FCN8sAtOnce(3, 2, 4))
    torch.save({name: torch.from_numpy(array) for name, array in model.state_dict().items()}, tmp_path / "fcn.pth")
    out = tmp_path / "x.safetensors"
    text = converts(tmp_path / "fcn.pth", "--at-once", "--out", out)
    assert "fcn8s-at-once" in text
    again = models.from_weights(out)
    assert type(again) is models.FCN8sAtOnce
    assert_array_equal(logits(again, picture()), logits(model, picture()))


def test_skips_trained_at_once_keep_their_factors_on_the_way_out(tmp_path, converts):
    """The network was named by the user, so that no file ever held its factors; exported without, it is FCN-8s."""
    model = trained(models.FCN8sAtOnce(3, 2, 4))
    torch.save({name: torch.from_numpy(array) for name, array in model.state_dict().items()}, tmp_path / "fcn.pth")
    out = tmp_path / "x.safetensors"
    converts(tmp_path / "fcn.pth", "--at-once", "--to", "caffe-names", "--out", out)
    takes_strictly(CaffeFCN("fcn8s-at-once"), out)
    assert type(models.from_weights(out)) is models.FCN8sAtOnce


@pytest.mark.parametrize("network", ["fcn16s", "vgg16", "fcn8s-at-once"])
def test_only_fcn8s_can_be_fcn8s_at_once(tmp_path, convert, network):
    """A file written without a word, which nothing can load afterwards."""
    source, out = save(tmp_path / "mine.safetensors", models.MODELS[network](3, 2, 4)), tmp_path / "x.safetensors"
    ended = convert(source, "--at-once", "--out", out)
    assert ended.code == 2
    assert f"holds {network}; only an FCN-8s can be meant" in ended.err
    assert not out.exists()


# Published weights by name


@pytest.fixture
def server(monkeypatch):
    """A server on loopback: `files` by path; `asked` remembers what was wanted."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            content = server.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked = {}, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def publish(server, monkeypatch, content, like=None, **changes):
    """Put an entry into the catalogue whose file the server has."""
    server.files["/file"] = content
    like = like or Published("test", "published.pth", "a test", (), "", None, CAFFE_FCN, "none")
    entry = dataclasses.replace(
        like,
        urls=(f"{server.address}/file",),
        hash=f"sha256:{hashlib.sha256(content).hexdigest()}",
        size=len(content),
        **changes,
    )
    monkeypatch.setitem(CATALOGUE, entry.name, entry)
    return entry


def test_the_list_shows_every_published_file_and_needs_nothing_else(tmp_path):
    """A list that wants SOURCE or --out first, or touches the network or the cache."""
    ended = process("--list", MINIFCN_CACHE=str(tmp_path / "cache"), https_proxy="http://127.0.0.1:9")
    assert (ended.returncode, ended.stderr) == (0, "")
    first_words = {line.partition(" ")[0] for line in ended.stdout.splitlines()}
    assert set(CATALOGUE) <= first_words
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("by_option", [True, False])
def test_a_published_file_is_fetched_by_name(tmp_path, converts, server, monkeypatch, by_option):
    """Fetched anew each time; or given the preprocessing that its names suggest, which is another one's."""
    save_torch_vgg(tmp_path / "vgg.pth")
    content, out, cache = (tmp_path / "vgg.pth").read_bytes(), tmp_path / "x.safetensors", tmp_path / "cache"
    entry = publish(server, monkeypatch, content)
    options = ["--cache", cache] if by_option else []
    monkeypatch.setenv("MINIFCN_CACHE", str(tmp_path / "unused" if by_option else cache))
    text = converts(entry.name, "--out", out, *options)
    assert (cache / "published.pth").read_bytes() == content
    assert not (tmp_path / "unused").exists()
    file = weights.load(out)
    assert file.preprocessing == CAFFE_FCN
    assert "BGR" in text
    assert file.record["source"]["sha256"] == hashlib.sha256(content).hexdigest()
    converts(entry.name, "--out", tmp_path / "y.safetensors", *options)
    assert (tmp_path / "y.safetensors").read_bytes() == out.read_bytes()
    assert server.asked == ["/file"]


def test_a_published_file_at_hand_gets_the_catalogue_s_preprocessing(tmp_path, converts, server, monkeypatch):
    """Fetched with a browser, under any name: the hash tells."""
    save_torch_vgg(tmp_path / "download (1).pth")
    publish(server, monkeypatch, (tmp_path / "download (1).pth").read_bytes())
    converts(tmp_path / "download (1).pth", "--out", tmp_path / "x.safetensors")
    assert weights.load(tmp_path / "x.safetensors").preprocessing == CAFFE_FCN
    assert server.asked == []


def test_a_published_fcn8s_at_once_is_one(tmp_path, converts, server, monkeypatch):
    """Its file has no scale layers; taken for FCN-8s, its skips are ten thousand times too large, without a word."""
    model = trained(models.FCN8sAtOnce(3, 2, 4))
    torch.save({name: torch.from_numpy(array) for name, array in model.state_dict().items()}, tmp_path / "fcn.pth")
    entry = publish(
        server, monkeypatch, (tmp_path / "fcn.pth").read_bytes(), like=CATALOGUE["fcn8s-at-once-from-caffe"]
    )
    out = tmp_path / "x.safetensors"
    converts(entry.name, "--cache", tmp_path / "cache", "--out", out)
    assert type(models.from_weights(out)) is models.FCN8sAtOnce


def test_a_published_file_that_cannot_be_fetched_is_an_error_with_address_and_hash(
    tmp_path, convert, server, monkeypatch
):
    entry = publish(server, monkeypatch, b"content")
    del server.files["/file"]
    out = tmp_path / "x.safetensors"
    ended = convert(entry.name, "--cache", tmp_path / "cache", "--out", out)
    assert ended.code == 1
    for word in (entry.urls[0], "404", entry.hash):
        assert word in ended.err
    assert "Traceback" not in ended.err
    assert not out.exists()


def test_an_unknown_source_is_told_how_to_see_the_known_ones(tmp_path, convert):
    refused(convert("vgg16-torchvison", "--out", tmp_path / "x.safetensors"), 2, "vgg16-torchvison", "--list")
    refused(convert(tmp_path / "none.pth", "--out", tmp_path / "x.safetensors"), 2, tmp_path / "none.pth", "--list")
    assert names_in(tmp_path) == []


# Wrong usage: exit code 2, one line, nothing written


def test_a_name_for_the_output_is_needed(tmp_path, convert):
    save_torch_vgg(tmp_path / "vgg.pth")
    refused(convert(tmp_path / "vgg.pth"), 2, "--out", "--help")
    refused(convert(), 2, "SOURCE", "--help")
    assert names_in(tmp_path) == ["vgg.pth"]


@pytest.mark.parametrize(
    ("to", "name", "ending"),
    [
        ("minifcn", "out.pth", ".safetensors"),
        ("minifcn", "out", ".safetensors"),
        ("torchvision", "out.pth", ".safetensors"),
        ("caffe-names", "out.caffemodel", ".safetensors"),
        ("onnx", "out.safetensors", ".onnx"),
        ("minifcn", "out.onnx", ".safetensors"),
    ],
)
def test_the_ending_of_the_output_must_be_that_of_its_container(tmp_path, convert, to, name, ending):
    """A safetensors file called .pth misleads everybody after."""
    save_torch_vgg(tmp_path / "vgg.pth")
    refused(convert(tmp_path / "vgg.pth", "--to", to, "--out", tmp_path / name), 2, name, ending)
    assert names_in(tmp_path) == ["vgg.pth"]


def test_the_folder_of_the_output_must_be_there(tmp_path, convert):
    """Known only once a download of 550 MB is over."""
    save_torch_vgg(tmp_path / "vgg.pth")
    out = tmp_path / "missing" / "x.safetensors"
    refused(convert(tmp_path / "vgg.pth", "--out", out), 2, out, "missing")
    (tmp_path / "file").write_text("no folder")
    refused(convert(tmp_path / "vgg.pth", "--out", tmp_path / "file" / "x.safetensors"), 2, "x.safetensors")
    assert names_in(tmp_path) == ["file", "vgg.pth"]


def test_a_folder_in_the_output_s_place_is_wrong_usage(tmp_path, convert):
    """Known only when all is done; and then `Is a directory: '.x.safetensors.123.tmp' -> …`."""
    save_torch_vgg(tmp_path / "vgg.pth")
    (tmp_path / "x.safetensors").mkdir()
    refused(convert(tmp_path / "vgg.pth", "--out", tmp_path / "x.safetensors"), 2, "--out", "folder")
    assert names_in(tmp_path) == ["vgg.pth", "x.safetensors"]


@pytest.mark.parametrize("spelling", ["the same", "another", "a symbolic link", "a hard link"])
def test_the_source_is_never_written_over(tmp_path, convert, spelling):
    """Published weights replaced by their own conversion."""
    source = save(tmp_path / "mine.safetensors", models.VGG16(5, 2, 6))
    before, out = source.read_bytes(), source
    if spelling == "another":
        (tmp_path / "folder").mkdir()
        out = tmp_path / "folder" / ".." / "mine.safetensors"
    elif spelling == "a symbolic link":
        out = tmp_path / "link.safetensors"
        out.symlink_to(source)
    elif spelling == "a hard link":
        out = tmp_path / "link.safetensors"
        out.hardlink_to(source)
    refused(convert(source, "--to", "torchvision", "--out", out), 2, "--out", "source")
    assert source.read_bytes() == before
    assert out.read_bytes() == before


@pytest.mark.parametrize("option", [("--to", "caffe"), ("--preprocessing", "vgg")])
def test_an_impossible_choice_names_the_option_and_the_choices(tmp_path, convert, option):
    save_torch_vgg(tmp_path / "vgg.pth")
    ended = convert(tmp_path / "vgg.pth", *option, "--out", tmp_path / "x.safetensors")
    assert ended.code == 2
    for word in (*option, "choose from", "--help"):
        assert word in ended.err
    assert names_in(tmp_path) == ["vgg.pth"]


# Files that are no weights: exit code 1, one line, nothing written


class Program:
    """What a pickle may hold: here, to make a file; it could as well delete all."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def damaged(kind, folder):
    """A file that is not what it should be."""
    path = folder / f"{kind}.pth"
    if kind == "web page":
        path.write_text("<!DOCTYPE html>\n<html><title>404 Not Found</title></html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(1000))
    elif kind == "cut off":
        save_torch_vgg(path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "cut off, legacy":
        save_torch_vgg(path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "cut off, safetensors":
        save(path, models.VGG16(5, 2, 6))
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "a program":
        torch.save({"weight": torch.ones(2), "run": Program(folder / "ran")}, path)
    elif kind == "a program, legacy":
        content = {"weight": torch.ones(2), "run": Program(folder / "ran")}
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif kind == "a program, plain":
        path.write_bytes(pickle.dumps(Program(folder / "ran")))
    else:
        path.mkdir()
    return path


KINDS = ["web page", "empty", "noise", "cut off", "cut off, legacy", "cut off, safetensors", "a program"]
KINDS += ["a program, legacy", "a program, plain", "a folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_weight_file_is_named_and_nothing_written(tmp_path, convert, kind):
    """A traceback, a program that ran, half an output; or the old output gone."""
    (tmp_path / "out").mkdir()
    out, path = tmp_path / "out" / "x.safetensors", damaged(kind, tmp_path)
    refused(convert(path, "--out", out), 1, path)
    assert names_in(tmp_path) == sorted([path.name, "out"])
    assert names_in(tmp_path / "out") == []
    out.write_bytes(b"old")
    refused(convert(path, "--out", out), 1, path)
    assert (names_in(tmp_path / "out"), out.read_bytes()) == (["x.safetensors"], b"old")


def test_a_program_in_a_pickle_is_refused_by_its_name(tmp_path):
    """In a process of its own, as a user runs it: the name of what it wanted to call, and no traceback."""
    path = damaged("a program", tmp_path)
    ended = process(path, "--out", tmp_path / "x.safetensors")
    refused(Ended(ended.returncode, ended.stdout, ended.stderr), 1, path, "system")
    assert names_in(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "odd",
    [
        {"record": {"source": "text"}},
        {"record": {"source": {"name": "only"}}},
        {"record": {"source": {"sha256": 5}}},
        {"record": {"notes": 5}},
        {"architecture": {"name": "fcn32s"}},
        {"architecture": {"num_classes": 3}},
        {"architecture": {"name": "unet"}},
        {"architecture": {"name": ["fcn32s"]}},
    ],
    ids=str,
)
def test_a_record_that_makes_no_sense_is_an_error_or_does_no_harm(tmp_path, convert, odd):
    """KeyError, AttributeError, TypeError: what stands in the record was taken for granted."""
    path, model = tmp_path / "odd.safetensors", models.FCN32s(3, 1, 2)
    about = {"architecture": model.architecture, "preprocessing": UNLIKE_ANY, "record": {}} | odd
    save_weights(path, model.state_dict(), **about)
    for options in ([], ["--classes", 3], ["--to", "caffe-names"]):
        out = tmp_path / "x.safetensors"
        out.unlink(missing_ok=True)
        ended = convert(path, *options, "--out", out)
        assert out.exists() == (ended.code == 0)
        if ended.code == 0:
            assert weights.load(out).tensors
        else:
            assert ended.code in (1, 2)
            assert str(path) in ended.err


# Interrupted


def start_and_halt_before_the_end(*arguments):
    """A process that converts, and halts for good when all is written but nothing yet has its final name."""
    code = (
        "import os, runpy, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores Ctrl-C
        "def halt(file):\n"
        "    print('halted', flush=True)\n"
        "    time.sleep(10_000)\n"
        "os.fsync = halt\n"
        "runpy.run_module('minifcn.convert', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    for line in running.stdout:
        if line == "halted\n":
            return running
    raise AssertionError(running.communicate()[1])


@pytest.mark.parametrize(
    ("to", "stop", "old"),
    [
        ("minifcn", signal.SIGKILL, None),
        ("minifcn", signal.SIGKILL, b"old"),
        ("minifcn", signal.SIGINT, None),
        ("minifcn", signal.SIGINT, b"old"),
        ("onnx", signal.SIGKILL, b"old"),
    ],
)
def test_an_interrupted_conversion_leaves_no_output_and_the_old_one_whole(tmp_path, to, stop, old):
    """Half a file under the final name, which looks like a whole one; Ctrl-C also leaves no temporary file."""
    if to == "onnx":
        pytest.importorskip("onnx", reason="the extra that writes ONNX")
    (tmp_path / "out").mkdir()
    source, out = tmp_path / "vgg.pth", tmp_path / "out" / ("x.onnx" if to == "onnx" else "x.safetensors")
    save_torch_vgg(source)
    if old is not None:
        out.write_bytes(old)
    running = start_and_halt_before_the_end(source, "--to", to, "--out", out)
    assert [name for name in names_in(out.parent) if name.endswith(".tmp")], "nothing was being written"
    running.send_signal(stop)
    _, errors = running.communicate()
    assert (out.read_bytes() if out.exists() else None) == old
    if stop == signal.SIGINT:
        assert (running.returncode, errors) == (130, "interrupted\n")
        assert names_in(out.parent) == ([] if old is None else [out.name])
    else:
        assert running.returncode == -signal.SIGKILL


def test_after_a_kill_the_conversion_can_be_done_again(tmp_path):
    """What the killed one left behind must not be in the way."""
    source, out = tmp_path / "vgg.pth", tmp_path / "x.safetensors"
    save_torch_vgg(source)
    running = start_and_halt_before_the_end(source, "--out", out)
    running.kill()
    running.communicate()
    assert process(source, "--out", out).returncode == 0
    assert len(load_file(out)) == 32


@pytest.mark.parametrize("to", ["minifcn", "onnx"])
def test_a_full_disk_leaves_nothing_behind_and_the_old_output_whole(tmp_path, convert, monkeypatch, to):
    if to == "onnx":
        pytest.importorskip("onnx", reason="the extra that writes ONNX")
    (tmp_path / "out").mkdir()
    source, out = tmp_path / "vgg.pth", tmp_path / "out" / ("x.onnx" if to == "onnx" else "x.safetensors")
    save_torch_vgg(source)
    out.write_bytes(b"old")

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(convert(source, "--to", to, "--out", out), 1, os.strerror(errno.ENOSPC), out.name)
    assert (names_in(out.parent), out.read_bytes()) == ([out.name], b"old")


def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path):
    """The system itself refuses to let the file grow."""
    pytest.importorskip("resource", reason="limits of a process are a thing of Unix")
    source, out = tmp_path / "vgg.pth", tmp_path / "x.safetensors"
    save_torch_vgg(source)
    code = (
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "runpy.run_module('minifcn.convert', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, str(source), "--out", str(out)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    refused(Ended(ended.returncode, ended.stdout, ended.stderr), 1, os.strerror(errno.EFBIG))
    assert names_in(tmp_path) == ["vgg.pth"]


# Odd places


def test_paths_may_have_blanks_and_letters_of_any_language(tmp_path):
    """The hint to paste next must work there, too."""
    folder = tmp_path / "meine Gewichte — 重み 😀"
    folder.mkdir()
    source, out = folder / "vgg groß.pth", folder / "größer als vorher.safetensors"
    save_torch_vgg(source)
    ended = process(source, "--out", out, PYTHONIOENCODING="utf-8")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert source_in(out)["name"] == source.name
    assert names_in(folder) == sorted([source.name, out.name])
    command = shlex.split(ended.stdout.splitlines()[-1].removeprefix("next: "))
    assert str(out) in command, ended.stdout


def test_a_terminal_that_knows_few_letters_is_no_reason_to_fail(tmp_path):
    """UnicodeEncodeError for a dash, after the file was read and before it is written."""
    save_torch_vgg(tmp_path / "vgg.pth")
    save(tmp_path / "fcn.safetensors", models.FCN8s(3, 2, 4))
    out = tmp_path / "x.safetensors"
    for arguments in ((tmp_path / "vgg.pth",), (tmp_path / "fcn.safetensors", "--classes", 5), ("--list",)):
        ended = process(*arguments, "--out", out, PYTHONIOENCODING="ascii")
        assert ended.returncode == 0, ended.stderr


def test_optional_packages_are_asked_for_only_where_they_are_needed(tmp_path):
    """`import h5py` at the top would shut out all who have a PyTorch file."""
    save_torch_vgg(tmp_path / "vgg.pth")
    code = (
        "import runpy, sys\n"
        "for name in ('h5py', 'google', 'google.protobuf', 'onnx', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "runpy.run_module('minifcn.convert', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "vgg.pth")]
    run = {"capture_output": True, "encoding": "utf-8", "check": False}
    ended = subprocess.run([*command, "--out", str(tmp_path / "x.safetensors")], **run)
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = subprocess.run([*command, "--to", "onnx", "--out", str(tmp_path / "x.onnx")], **run)
    refused(Ended(ended.returncode, ended.stdout, ended.stderr), 2, "onnx", "pip install")
    assert names_in(tmp_path) == ["vgg.pth", "x.safetensors"]


def test_help_explains_itself():
    ended = process("--help")
    assert ended.returncode == 0
    for word in ("python -m minifcn.convert", "SOURCE", "--list", "--to", "caffe-names", "Exit codes"):
        assert word in ended.stdout


def test_the_debug_option_shows_where(tmp_path):
    ended = process(tmp_path / "none.pth", "--out", tmp_path / "x.safetensors", "--debug")
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
    assert Path(ended.stderr.splitlines()[1].split('"')[1]).name.endswith(".py")
