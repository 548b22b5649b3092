"""The way out: this project's tensors under the names that other programs load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minifcn.errors import WeightsError

Tensors = dict[str, np.ndarray]

_CLASSIFIER = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}


def to_torchvision(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """What `torchvision.models.vgg16().load_state_dict` takes (and vgg11, 13, 19): features.N, classifier.0/.3/.6.

    features are numbered with the ReLU after each convolution and the pooling after each block. fc6 and fc7 of an FCN
    become dense again. Score and upsampling layers have no place in torchvision's VGG, and are left out: without fc8,
    load_state_dict needs strict=False.
    Raises WeightsError if there is no trunk.
    """
    convolutions = sorted(
        name.removesuffix(".weight") for name in tensors if name.startswith("conv") and name.endswith(".weight")
    )
    if not convolutions:
        raise WeightsError("torchvision's names: the file holds no VGG or FCN (no conv1_1).")
    names, number = {}, 0
    for name, following in zip(convolutions, [*convolutions[1:], "end"], strict=True):
        names[name] = f"features.{number}"
        number += 2 if following.split("_")[0] == name.split("_")[0] else 3
    names |= _CLASSIFIER
    exported = {}
    for name, array in tensors.items():
        layer, _, part = name.partition(".")
        if layer in names:
            dense = layer in _CLASSIFIER and part == "weight"
            exported[f"{names[layer]}.{part}"] = array.reshape(len(array), -1) if dense else array
    return exported


def to_caffe_names(tensors: Mapping[str, np.ndarray], architecture: Mapping[str, Any]) -> Tensors:
    """The released networks' layer names, which are this project's; FCN-8s at once gets its scale layers back.

    PyTorch modules whose layers are called conv1_1, …, score_fr, …, upscore8 take them as they are.
    """
    scales = architecture.get("skip_scales", {})
    return dict(tensors) | {f"scale_{pool}.weight": np.array([factor], np.float32) for pool, factor in scales.items()}
