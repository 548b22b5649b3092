"""Names: what other programs call the layers of VGG and of the FCNs; and which network a set of tensors is.

Four conventions lead to the paper's names, which are this project's: conv1_1 … conv5_3, fc6, fc7, fc8, score_fr, …

    torchvision, timm   features.0 … features.28, and classifier.0/.3/.6 or pre_logits.fc1/.fc2 and head.fc
    Keras               block1_conv1 … block5_conv3, fc1, fc2, predictions
    Caffe, and PyTorch  conv1_1 … (.weight, .bias)
    Chainer             conv1_1/W, conv1_1/b, …
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minifcn.weights.preprocessing import CAFFE_FCN, CAFFE_VGG, TORCHVISION, Preprocessing

Tensors = dict[str, np.ndarray]

_WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
_BATCH_NORM_EPSILON = 1e-5  # PyTorch's, with which the published networks were trained

# The networks' sizes, as models/vgg.py builds them. (This package imports no model, so that it can be used without.)
_DEPTHS = {(1, 2): "vgg11", (2, 2): "vgg13", (2, 3): "vgg16", (2, 4): "vgg19"}  # convolutions in blocks 1, 2; in 3 to 5
_WIDENING = (1, 2, 4, 8, 8)  # channels of each block, in multiples of the first block's
_FC_KERNEL = 7  # fc6 sees 7×7 cells
_FCN_HEADS = {  # which layers beside score_fr tell the networks apart, the finest first
    "fcn2s": ("score_pool1", "upscore_pool2", "upscore_pool1"),
    "fcn4s": ("score_pool2", "upscore_pool3", "upscore4"),
    "fcn8s": ("score_pool3", "upscore_pool4", "upscore8"),
    "fcn16s": ("score_pool4", "upscore16"),
    "fcn32s": ("upscore",),
}
_UPPER_LAYERS = {
    *("fc6", "fc7", "fc8", "score_fr", "scale_pool4", "scale_pool3"),
    *("score_pool4", "score_pool3", "score_pool2", "score_pool1"),
    *("upscore", "upscore2", "upscore_pool4", "upscore_pool3", "upscore_pool2", "upscore_pool1"),
    *("upscore16", "upscore8", "upscore4"),
}
_CONV = re.compile(r"conv([1-5])_([1-9])")
_FEATURE = re.compile(r"features\.(0|[1-9][0-9]?)")
_CLASSIFIER = re.compile(r"classifier\.[0-9]")


@dataclass(frozen=True)
class Network:
    """A network recognised in tensors: these by the paper's names, and what `models.build` and the pictures need."""

    tensors: Tensors
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    convention: str
    notes: tuple[str, ...] = field(default=())


class _NotKnown(Exception):
    """These tensors are none of the networks."""


def _require(condition: bool) -> None:
    if not condition:
        raise _NotKnown


def without_wrapper(tensors: Tensors) -> Tensors:
    """The same without a prefix, such as `module.`, that stands before every name."""
    while prefix := next((one for one in _WRAPPERS if tensors and all(name.startswith(one) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors


def recognise(tensors: Tensors, container: str = "") -> Network | None:
    """The network that these tensors are, by their names and shapes; None if it is none of VGG's or the FCNs'.

    container: where they come from, since Caffe's and Chainer's files differ in their means. The network's tensors are
    views of these where possible; Keras's fc6 is rearranged where it stands.
    """
    try:
        return _network(tensors, container)
    except _NotKnown:
        return None


def _network(tensors: Tensors, container: str) -> Network:
    _require(
        all(array.size > 0 and array.dtype.kind == "f" for name, array in tensors.items() if not _is_counter(name))
    )
    named, convention, preprocessing = _by_paper_names(tensors, container)
    architecture = _trunk_architecture(named)
    is_fcn = "score_fr.weight" in named
    named = {name: _without_spare_axes(name, array, is_fcn) for name, array in named.items()}
    if convention == "Keras" and "fc6.weight" in named:
        named["fc6.weight"] = _channels_first(named["fc6.weight"])
    if is_fcn:
        _require(architecture["name"] == "vgg16" and named["score_fr.weight"].ndim == 4)
        architecture |= _fcn_head(named)
        named = {name: array for name, array in named.items() if not name.startswith("scale_")}
    else:
        architecture |= _vgg_head(named)
    if convention == "torchvision":
        architecture["geometry"] = "torchvision"
    normalised = any(name.endswith(".running_mean") for name in tensors)
    notes = ("batch normalisation folded into the convolutions",) if normalised else ()
    return Network(named, architecture, preprocessing, convention, notes)


def _by_paper_names(tensors: Tensors, container: str) -> tuple[Tensors, str, Preprocessing]:
    """The tensors by the paper's names, whose convention they had, and how that publisher's pictures became inputs."""
    first = min(tensors, default="")
    if first.startswith(("classifier.", "features.", "head.", "pre_logits.")):
        return _from_torchvision(tensors), "torchvision", TORCHVISION
    if first.startswith("block"):
        return _from_keras(tensors), "Keras", CAFFE_VGG
    named = _from_paper(tensors)
    # In npz files there are pytorch-fcn's classifiers, which go with its FCNs.
    of_vgg_team = "score_fr.weight" not in named and "npz" not in container
    return named, "Caffe", CAFFE_VGG if of_vgg_team else CAFFE_FCN


def _is_counter(name: str) -> bool:
    """How many batches a batch normalisation has seen: an integer, of no use here."""
    return name.endswith(".num_batches_tracked")


# From other names


def _from_torchvision(tensors: Tensors) -> Tensors:
    """features.N are numbered with their ReLUs and poolings: a gap in the numbers tells where a block ends."""
    layers: dict[str, Tensors] = {}
    for name, array in tensors.items():
        layer, _, part = name.rpartition(".")
        if not _is_counter(name):
            layers.setdefault(layer, {})[part] = array
    convolutions = {
        int(layer.removeprefix("features.")): parts
        for layer, parts in layers.items()
        if _FEATURE.fullmatch(layer) and parts.get("weight", np.empty(0)).ndim == 4
    }
    normalised = any("running_mean" in parts for parts in layers.values())
    layer_size = 3 if normalised else 2  # convolution, (batch normalisation,) ReLU
    named: Tensors = {}
    block, position, previous = 1, 0, -layer_size
    for number, parts in sorted(convolutions.items()):
        _require(number - previous in (layer_size, layer_size + 1))
        block, position = (block, position + 1) if number - previous == layer_size else (block + 1, 1)
        previous = number
        del layers[f"features.{number}"]
        if normalised:
            parts = _folded(parts, layers.pop(f"features.{number + 1}", {}))
        named |= {f"conv{block}_{position}.{part}": array for part, array in parts.items()}
    dense = _dense_layers(layers)
    _require(len(dense) == len(layers))
    for name, layer in zip(("fc6", "fc7", "fc8"), dense, strict=False):
        named |= {f"{name}.{part}": array for part, array in layers[layer].items()}
    return named


def _dense_layers(layers: Mapping[str, Tensors]) -> list[str]:
    """torchvision's or timm's names of fc6, fc7 and fc8, in this order; fc8, or all three, may be missing."""
    if any(layer.startswith("pre_logits.") for layer in layers):
        return [layer for layer in ("pre_logits.fc1", "pre_logits.fc2", "head.fc") if layer in layers]
    dense = sorted(layer for layer in layers if _CLASSIFIER.fullmatch(layer))
    if dense == ["classifier.0", "classifier.3"]:
        # Without fc8 this is an FCN's, whose fc7 is square. If it is not, the second layer gives some network's scores.
        shape = layers["classifier.3"].get("weight", np.empty(0)).shape
        return dense if shape[:1] == shape[1:2] else []
    return dense if len(dense) == 3 else []


def _folded(convolution: Tensors, statistics: Tensors) -> Tensors:
    """fold_batch_norm, if these are a convolution and the batch normalisation after it."""
    weight = convolution["weight"]
    _require({"running_mean", "running_var"} <= statistics.keys())
    by_channel = [*statistics.values(), *(array for part, array in convolution.items() if part != "weight")]
    _require(all(array.shape == weight.shape[:1] for array in by_channel))
    _require(bool((statistics["running_var"] >= 0).all()))
    return fold_batch_norm(convolution, statistics)


def fold_batch_norm(layer: Tensors, statistics: Tensors, eps: float = _BATCH_NORM_EPSILON) -> Tensors:
    """A convolution or dense layer and the batch normalisation after it, in evaluation, as one layer.

    γ (Wx + b − μ) / √(σ² + ε) + β is linear in x: with s = γ / √(σ² + ε) it is (sW) x + (s (b − μ) + β). Padding does
    not matter, since it comes before both. Computed in float64, given in the weight's dtype. W (out, …) may lack b.
    """
    weight = layer["weight"]
    mean, variance = (statistics[name].astype(np.float64) for name in ("running_mean", "running_var"))
    scale = statistics.get("weight", np.ones_like(mean)) / np.sqrt(variance + eps)
    bias = scale * (layer.get("bias", np.zeros_like(mean)) - mean) + statistics.get("bias", 0.0)
    folded = np.empty_like(weight)  # given as `out`, so that no second copy is made in float64
    np.multiply(weight, scale.reshape(-1, *(1,) * (weight.ndim - 1)), out=folded)
    return {"weight": folded, "bias": bias.astype(weight.dtype)}


def _from_keras(tensors: Tensors) -> Tensors:
    """Kernels are (height, width, in, out), dense weights (in, out)."""
    dense = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}
    named: Tensors = {}
    for path, array in tensors.items():
        layer = path.split("/")[0]
        found = re.fullmatch(r"block([1-5])_conv([1-9])", layer)
        _require((found is not None or layer in dense) and array.ndim in (1, 2, 4))
        name = f"conv{found[1]}_{found[2]}" if found else dense[layer]
        part = "bias" if array.ndim == 1 else "weight"
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)  # (kh, kw, in, out) -> (out, in, kh, kw)
        named[f"{name}.{part}"] = array.T if array.ndim == 2 else array  # (in, out) -> (out, in)
    _require(len(named) == len(tensors))
    return named


def _channels_first(weight: np.ndarray) -> np.ndarray:
    """Keras's fc6, which sees the cells in the order (row, column, channel), for the order (channel, row, column).

    (out, 7·7·C) -> (out, C·7·7), a few rows at a time and, where the layout allows, in the same memory: fc6 is three
    quarters of VGG16, and a second copy of it would be noticed.
    """
    _require(weight.ndim == 2 and weight.shape[1] % _FC_KERNEL**2 == 0)
    result = weight if weight.flags.c_contiguous and weight.flags.writeable else np.empty_like(weight, order="C")
    for start in range(0, len(weight), 64):
        rows = weight[start : start + 64].reshape(-1, _FC_KERNEL**2, weight.shape[1] // _FC_KERNEL**2)
        result[start : start + 64] = rows.transpose(0, 2, 1).reshape(len(rows), -1)  # (n, 49, C) -> (n, C·49)
    return result


def _from_paper(tensors: Tensors) -> Tensors:
    """Only the endings differ: Chainer's are /W and /b."""
    endings = {"W": "weight", "b": "bias", "weight": "weight", "bias": "bias"}
    named: Tensors = {}
    for name, array in tensors.items():
        layer, _, part = name.replace("/", ".").rpartition(".")
        _require(part in endings and (_CONV.fullmatch(layer) is not None or layer in _UPPER_LAYERS))
        named[f"{layer}.{endings[part]}"] = array
    _require(len(named) == len(tensors))
    return named


def _without_spare_axes(name: str, array: np.ndarray, is_fcn: bool) -> np.ndarray:
    """Shapes as the networks have them: Caffe once gave every blob four axes; fc6 to fc8 are dense or convolutions."""
    layer, _, part = name.partition(".")
    if part == "bias" or layer.startswith("scale_"):
        return array.reshape(-1)
    if layer not in ("fc6", "fc7", "fc8"):
        return array
    if array.ndim == 4 and array.shape[:2] == (1, 1):
        array = array[0, 0]  # (1, 1, out, in) -> (out, in)
    kernel_size = _FC_KERNEL if layer == "fc6" else 1
    if is_fcn and array.ndim == 2 and array.shape[1] % kernel_size**2 == 0:
        return array.reshape(len(array), -1, kernel_size, kernel_size)  # (out, in·kh·kw) -> (out, in, kh, kw)
    if not is_fcn and array.ndim == 4:
        return array.reshape(len(array), -1)  # (out, in, kh, kw) -> (out, in·kh·kw)
    return array


# Which network


def _trunk_architecture(named: Tensors) -> dict[str, Any]:
    """VGG's name, width and in_channels from its convolutions, if all are there, 3×3, and fit."""
    found = [match for name in named if (match := _CONV.fullmatch(name.removesuffix(".weight")))]
    depths = [max((int(match[2]) for match in found if int(match[1]) == block), default=0) for block in range(1, 6)]
    _require(depths[0] == depths[1] and depths[2] == depths[3] == depths[4] and (depths[0], depths[2]) in _DEPTHS)
    first = named.get("conv1_1.weight", np.empty(0))
    _require(first.ndim == 4)
    width, in_channels = first.shape[:2]
    channels = in_channels
    for block, (depth, widening) in enumerate(zip(depths, _WIDENING, strict=True), start=1):
        for position in range(1, depth + 1):
            weight = named.get(f"conv{block}_{position}.weight", np.empty(0))
            bias = named.get(f"conv{block}_{position}.bias", np.empty(0))
            _require(weight.shape == (widening * width, channels, 3, 3) and bias.size == widening * width)
            channels = widening * width
    return {"name": _DEPTHS[depths[0], depths[2]], "width": width, "in_channels": in_channels}


def _vgg_head(named: Tensors) -> dict[str, Any]:
    """Sizes of the dense layers, as far as they are there."""
    sizes = {"fc_width": "fc6.weight", "num_classes": "fc8.weight"}
    return {key: len(named[name]) for key, name in sizes.items() if name in named and named[name].ndim}


def _fcn_head(named: Tensors) -> dict[str, Any]:
    """The FCN, by its finest skip. The released networks pad by 100 and keep every upsampling bilinear.

    FCN-8s at once brings the factors of its skips as layers, with one equal factor for each channel.
    """
    name = next(
        (fcn for fcn, layers in _FCN_HEADS.items() if any(f"{one}.weight" in named for one in layers)), "fcn32s"
    )
    head: dict[str, Any] = {
        "name": name,
        "num_classes": len(named["score_fr.weight"]),
        "fc_width": named["score_fr.weight"].shape[1],
        "geometry": "paper",
        "learned_upsampling": "none",
    }
    layers = {pool: named[f"scale_{pool}.weight"] for pool in ("pool4", "pool3") if f"scale_{pool}.weight" in named}
    if layers:
        _require(name == "fcn8s" and len(layers) == 2 and all(np.ptp(factors) == 0 for factors in layers.values()))
        # By the shortest decimal form: float(float32(0.01)) would be 0.009999999776, with which no network was built.
        scales = {pool: float(str(factors[0])) for pool, factors in layers.items()}
        head |= {"name": "fcn8s-at-once", "skip_scales": scales}
    return head
