"""One network's numbers as publishers write them: every container made by the publisher's own library.

Nothing here is derived from minifcn's rules. The names are typed out from the publishers' files, layer by layer; where
PyTorch numbers or names layers itself, its own modules are built, and take the numbers under the typed names (strictly:
a slip in these tables is an error there).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import reference_networks as reference
import safetensors.torch
import torch
from networks import fill

from minifcn import models
from minifcn.weights import Preprocessing

Tensors = dict[str, np.ndarray]

CLASSES, WIDTH, FC_WIDTH = 4, 2, 6
LAYERS = {name: getattr(reference, name.upper()).split() for name in ("vgg11", "vgg13", "vgg16", "vgg19")}
CHANNELS = {"1": 2, "2": 4, "3": 8, "4": 16, "5": 16}  # of each block, at WIDTH

# The numbers of the convolutions in torchvision's nn.Sequential, where each has a ReLU after it ...
FEATURES = {
    "vgg11": (0, 3, 6, 8, 11, 13, 16, 18),
    "vgg13": (0, 2, 5, 7, 10, 12, 15, 17, 20, 22),
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}
# ... and where each has a batch normalisation and a ReLU.
FEATURES_BN = {
    "vgg11": (0, 4, 8, 11, 15, 18, 22, 25),
    "vgg13": (0, 3, 7, 10, 14, 17, 21, 24, 28, 31),
    "vgg16": (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
    "vgg19": (0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49),
}
TORCHVISION_FC = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
TIMM_FC = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
KERAS = {
    "conv1_1": "block1_conv1", "conv1_2": "block1_conv2",
    "conv2_1": "block2_conv1", "conv2_2": "block2_conv2",
    "conv3_1": "block3_conv1", "conv3_2": "block3_conv2", "conv3_3": "block3_conv3", "conv3_4": "block3_conv4",
    "conv4_1": "block4_conv1", "conv4_2": "block4_conv2", "conv4_3": "block4_conv3", "conv4_4": "block4_conv4",
    "conv5_1": "block5_conv1", "conv5_2": "block5_conv2", "conv5_3": "block5_conv3", "conv5_4": "block5_conv4",
    "fc6": "fc1", "fc7": "fc2", "fc8": "predictions",
}  # fmt: skip

# What the publishers trained on, in their own units.
TORCHVISION = Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VGG_TEAM = Preprocessing("BGR", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
BERKELEY = Preprocessing("BGR", 1.0, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0))


# Networks


def network(name: str) -> Tensors:
    """Random numbers for one of `models.MODELS`, by the paper's names, float32: always the same."""
    return dict(_network(name))


@cache
def _network(name: str) -> Tensors:
    return fill(models.MODELS[name](CLASSES, WIDTH, FC_WIDTH)).astype(np.float32).state_dict()


class TorchVGG(torch.nn.Module):
    """VGG as torchvision builds it, so that PyTorch itself gives the layers their numbers; and what it computes.

    batch_norm: with random statistics. options: of nn.BatchNorm2d. conv_bias: whether the convolutions have one.
    """

    def __init__(self, name: str, batch_norm: bool = False, conv_bias: bool = True, **options: Any) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        channels = 3
        for layer in LAYERS[name]:
            if layer == "pool":
                layers.append(torch.nn.MaxPool2d(2, 2))
                continue
            channels, before = CHANNELS[layer[4]], channels
            layers.append(torch.nn.Conv2d(before, channels, 3, padding=1, bias=conv_bias))
            if batch_norm:
                layers.append(_normalisation(channels, len(layers), **options))
            layers.append(torch.nn.ReLU())
        self.features = torch.nn.Sequential(*layers)
        self.avgpool = torch.nn.AdaptiveAvgPool2d(7)
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(channels * 49, FC_WIDTH), torch.nn.ReLU(), torch.nn.Dropout(),
            torch.nn.Linear(FC_WIDTH, FC_WIDTH), torch.nn.ReLU(), torch.nn.Dropout(),
            torch.nn.Linear(FC_WIDTH, CLASSES),
        )  # fmt: skip
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _normalisation(channels: int, seed: int, variance: float = 1.0, **options: Any) -> torch.nn.BatchNorm2d:
    """A batch normalisation that has seen something of about this variance, and has learned to give about 1."""
    layer: Any = torch.nn.BatchNorm2d(channels, **options)
    generator = torch.Generator().manual_seed(seed)
    layer.running_mean.copy_(variance**0.5 * torch.rand(channels, generator=generator))
    layer.running_var.copy_(variance * (0.5 + torch.rand(channels, generator=generator)))
    layer.num_batches_tracked.fill_(1234)
    if layer.affine:
        layer.weight.data.copy_((variance + layer.eps) ** 0.5 * (0.5 + torch.rand(channels, generator=generator)))
        layer.bias.data.copy_(0.1 + torch.rand(channels, generator=generator))
    return layer


def torch_vgg(name: str, tensors: Tensors) -> TorchVGG:
    """A torchvision-like network with these numbers."""
    module = TorchVGG(name)
    module.load_state_dict(to_torch(torchvision_names(name, tensors)))
    return module


def torch_vgg_bn(name: str, tensors: Tensors, conv_bias: bool = True, **options: Any) -> TorchVGG:
    """One with batch normalisation: convolutions and dense layers from `tensors`, the rest random."""
    module = TorchVGG(name, batch_norm=True, conv_bias=conv_bias, **options)
    named = torchvision_names(name, tensors, FEATURES_BN)
    if not conv_bias:
        named = {key: array for key, array in named.items() if not (key.startswith("features") and "bias" in key)}
    left = module.load_state_dict(to_torch(named), strict=False)
    numbers = {int(key.split(".")[1]) for key in left.missing_keys}
    assert not left.unexpected_keys
    assert numbers == {number + 1 for number in FEATURES_BN[name]}
    return module


def torch_fcn(tensors: Tensors) -> torch.nn.Module:
    """Layers under Caffe's names, as pytorch-fcn has them: for its state dict alone."""
    module = torch.nn.Module()
    for layer in layers(tensors):
        first, second, kernel, _ = tensors[f"{layer}.weight"].shape
        if layer.startswith("upscore"):  # (in, out, kh, kw)
            setattr(module, layer, torch.nn.ConvTranspose2d(first, second, kernel, kernel // 2, bias=False))
        else:  # (out, in, kh, kw)
            setattr(module, layer, torch.nn.Conv2d(second, first, kernel))
    module.load_state_dict(to_torch(tensors))
    return module


# Names and layouts


def layers(tensors: Mapping[str, np.ndarray]) -> Iterator[str]:
    return (name.removesuffix(".weight") for name in tensors if name.endswith(".weight"))


def to_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}


def torchvision_names(name: str, tensors: Tensors, numbers: Mapping[str, tuple[int, ...]] = FEATURES) -> Tensors:
    convolutions = [layer for layer in LAYERS[name] if layer != "pool"]
    table = TORCHVISION_FC | {
        layer: f"features.{number}" for layer, number in zip(convolutions, numbers[name], strict=True)
    }
    return renamed(tensors, table)


def renamed(tensors: Tensors, table: Mapping[str, str]) -> Tensors:
    """Other names for layers; those that the table leaves out keep theirs."""
    parts = ((name.rpartition("."), array) for name, array in tensors.items())
    return {f"{table.get(layer, layer)}.{part}": array for (layer, _, part), array in parts}


def fc_as_convolutions(tensors: Tensors, names: tuple[str, ...]) -> Tensors:
    """Dense weights (out, in) as those of convolutions: 7×7 where in = channels·7·7, else 1×1."""
    dense = {f"{name}.weight" for name in names}
    sizes = {name: 7 if array.shape[-1] == CHANNELS["5"] * 49 else 1 for name, array in tensors.items()}
    return {
        name: array.reshape(len(array), -1, sizes[name], sizes[name]) if name in dense else array
        for name, array in tensors.items()
    }


def chainer_names(tensors: Tensors) -> Tensors:
    """conv1_1/W, conv1_1/b."""
    parts = {"weight": "W", "bias": "b"}
    splits = ((name.rpartition("."), array) for name, array in tensors.items())
    return {f"{layer}/{parts[part]}": array for (layer, _, part), array in splits}


def keras_names(tensors: Tensors, tf_keras: bool = False) -> Tensors:
    """Paths in the file, block1_conv1/block1_conv1_W_1:0, or tf.keras's block1_conv1/block1_conv1/kernel:0."""
    endings = {"weight": "/kernel:0", "bias": "/bias:0"} if tf_keras else {"weight": "_W_1:0", "bias": "_b_1:0"}
    splits = ((name.rpartition("."), array) for name, array in tensors.items())
    return {
        f"{KERAS[layer]}/{KERAS[layer]}{endings[part]}": keras_layout(layer, array)
        for (layer, _, part), array in splits
    }


def keras_layout(layer: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)  # (out, in, kh, kw) -> (kh, kw, in, out)
    if layer == "fc6" and array.ndim == 2:  # maps are flattened with the channels last: (out, c·h·w) -> (h·w·c, out)
        return array.reshape(FC_WIDTH, CHANNELS["5"], 7, 7).transpose(2, 3, 1, 0).reshape(-1, FC_WIDTH)
    return array.T


# Containers


def torch_file(path: Path, content: Any, legacy: bool = False) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def safetensors_file(path: Path, tensors: Tensors) -> None:
    safetensors.torch.save_file(to_torch(tensors), path, metadata={"format": "pt"})


def npz_file(path: Path, tensors: Tensors) -> None:
    """As Chainer's save_npz: compressed."""
    arrays: dict[str, Any] = dict(chainer_names(tensors))
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def caffe_file(path: Path, tensors: Tensors, v1: bool = False) -> None:
    """A .caffemodel. v1: with the layers and four-dimensional blobs of 2014."""
    from caffe_schema import CAFFE, add_blob

    net = CAFFE["NetParameter"](name="VGG_ILSVRC_16_layers", input=["data"])
    for name in layers(tensors):
        layer = net.layers.add(name=name, type=4) if v1 else net.layer.add(name=name, type="Convolution")
        for part in ("weight", "bias"):
            if (array := tensors.get(f"{name}.{part}")) is not None:
                add_blob(layer, array, (1,) * (4 - array.ndim) + array.shape if v1 else None)
        net.layers.add(name=f"{name}_relu", type=18) if v1 else net.layer.add(name=f"{name}_relu", type="ReLU")
    path.write_bytes(net.SerializeToString())


def keras_file(path: Path, tensors: Tensors, tf_keras: bool = False) -> None:
    """As Keras saves weights: a group for each layer, those without weights too, and attributes with all names."""
    import h5py

    arrays = keras_names(tensors, tf_keras)
    with h5py.File(path, "w") as file:
        for layer in ["input_1", *dict.fromkeys(name.split("/")[0] for name in arrays), "flatten"]:
            names = [name for name in arrays if name.split("/")[0] == layer]
            file.create_group(layer).attrs["weight_names"] = [name.partition("/")[2].encode() for name in names]
            for name in names:
                file.create_dataset(name, data=arrays[name])
        file.attrs["layer_names"] = [name.encode() for name in file]
        file.attrs["backend"] = b"tensorflow"


def checkpoint(module: torch.nn.Module, key: str) -> dict[str, Any]:
    """What training scripts save: the state dict under some key, beside an optimiser that has seen gradients."""
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for parameter in module.parameters():
        optimiser.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    content = {"epoch": 7, "arch": "vgg16", key: module.state_dict(), "best_acc1": torch.tensor(71.6)}
    return content | {"optimizer": optimiser.state_dict()}


# The forms


@dataclass(frozen=True)
class Form:
    """write(path, name of the network, tensors by the paper's names) makes the file; the rest is what it should say."""

    write: Callable[[Path, str, Tensors], None]
    container: str
    names: str
    preprocessing: Preprocessing
    needs: str = "torch"


def _torch(content: Callable[[torch.nn.Module], Any] = torch.nn.Module.state_dict, legacy: bool = False) -> Form:
    return Form(
        lambda path, name, tensors: torch_file(path, content(torch_vgg(name, tensors)), legacy),
        "PyTorch (legacy)" if legacy else "PyTorch (zip)",
        "torchvision",
        TORCHVISION,
    )


def _safetensors(convert: Callable[[Tensors], Tensors] = lambda tensors: tensors) -> Form:
    return Form(
        lambda path, name, tensors: safetensors_file(path, convert(torchvision_names(name, tensors))),
        "safetensors",
        "torchvision",
        TORCHVISION,
    )


def _in_parallel(module: torch.nn.Module) -> Any:
    return torch.nn.DataParallel(module).state_dict()


def timm_names(tensors: Tensors) -> Tensors:
    names = {theirs: TIMM_FC[layer] for layer, theirs in TORCHVISION_FC.items()}
    return fc_as_convolutions(renamed(tensors, names), ("pre_logits.fc1", "pre_logits.fc2"))


VGG_FORMS = {
    "torch zip": _torch(),
    "torch legacy": _torch(legacy=True),
    "torch zip, state_dict in a checkpoint": _torch(lambda module: checkpoint(module, "state_dict")),
    "torch legacy, model in a checkpoint": _torch(lambda module: checkpoint(module, "model"), legacy=True),
    "torch zip, DataParallel": _torch(_in_parallel),
    "torch legacy, DataParallel in a checkpoint": _torch(
        lambda module: {"epoch": 7, "state_dict": _in_parallel(module)}, legacy=True
    ),
    "safetensors": _safetensors(),
    "safetensors, fc as convolutions": _safetensors(
        lambda tensors: fc_as_convolutions(tensors, tuple(TORCHVISION_FC.values()))
    ),
    "safetensors, fc6 alone as a convolution": _safetensors(
        lambda tensors: fc_as_convolutions(tensors, ("classifier.0",))
    ),
    "timm": _safetensors(timm_names),
    "safetensors, Caffe names": Form(
        lambda path, _, tensors: safetensors_file(path, tensors), "safetensors", "Caffe", VGG_TEAM
    ),
    "Caffe V1": Form(
        lambda path, _, tensors: caffe_file(path, tensors, v1=True), "Caffe", "Caffe", VGG_TEAM, "google.protobuf"
    ),
    "Caffe V2": Form(lambda path, _, tensors: caffe_file(path, tensors), "Caffe", "Caffe", VGG_TEAM, "google.protobuf"),
    "Keras": Form(lambda path, _, tensors: keras_file(path, tensors), "Keras HDF5", "Keras", VGG_TEAM, "h5py"),
    "tf.keras": Form(
        lambda path, _, tensors: keras_file(path, tensors, tf_keras=True), "Keras HDF5", "Keras", VGG_TEAM, "h5py"
    ),
    "Chainer": Form(lambda path, _, tensors: npz_file(path, tensors), "NumPy npz", "Caffe", BERKELEY),
}

FCN_FORMS = {
    "Caffe": Form(lambda path, _, tensors: caffe_file(path, tensors), "Caffe", "Caffe", BERKELEY, "google.protobuf"),
    "torch zip": Form(
        lambda path, _, tensors: torch_file(path, torch_fcn(tensors).state_dict()), "PyTorch (zip)", "Caffe", BERKELEY
    ),
    "torch legacy": Form(
        lambda path, _, tensors: torch_file(path, torch_fcn(tensors).state_dict(), legacy=True),
        *("PyTorch (legacy)", "Caffe", BERKELEY),
    ),
    "Chainer": Form(lambda path, _, tensors: npz_file(path, tensors), "NumPy npz", "Caffe", BERKELEY),
    "safetensors": Form(lambda path, _, tensors: safetensors_file(path, tensors), "safetensors", "Caffe", BERKELEY),
}
