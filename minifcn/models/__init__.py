"""Networks: VGG classifiers, FCN-32s/16s/8s, and the surgery that leads from one to the next."""

import os
from collections.abc import Mapping
from typing import Any

from minifcn import weights
from minifcn.errors import WeightsError
from minifcn.models import surgery
from minifcn.models.dense_prediction import atrous, framed, multiply_adds, shift_and_stitch, unpadded
from minifcn.models.fcn import FCN, FCN2s, FCN4s, FCN8s, FCN8sAtOnce, FCN16s, FCN32s, check_claim, construct, restore
from minifcn.models.fcn_basic import FCNBasic
from minifcn.models.onnx import to_onnx
from minifcn.models.patch_classifier import PatchClassifier, patches_around
from minifcn.models.surgery import Transplant, load_pretrained
from minifcn.models.vgg import VGG, VGG11, VGG13, VGG16, VGG19

MODELS: dict[str, type[FCN] | type[FCNBasic] | type[VGG]] = {
    model.name: model
    for model in (VGG11, VGG13, VGG16, VGG19, FCN32s, FCN16s, FCN8s, FCN4s, FCN2s, FCN8sAtOnce, FCNBasic)
}


def build(architecture: Mapping[str, Any], *, seed: int = 0) -> Any:
    """The network that an `architecture` (model.architecture, stored in every weight file) describes, untrained."""
    name = architecture.get("name")
    if name not in MODELS:
        raise WeightsError(f"the architecture {name!r} is not one of {', '.join(MODELS)}.")
    return construct(MODELS[name], architecture, seed=seed)


def from_weights(path: str | os.PathLike[str], file: weights.WeightFile | None = None) -> Any:
    """Whatever network a weight file holds, in evaluation mode, with the preprocessing that belongs to it.

    file: what `weights.load(path)` gave, if that was called already, so that a large file is not read twice.
    """
    file = weights.load(path) if file is None else file
    check_known(path, file)
    return restore(MODELS[file.architecture["name"]], file, path)


def check_known(path: str | os.PathLike[str], file: weights.WeightFile) -> None:
    """WeightsError, naming the file, unless it holds one of MODELS, and about as many numbers as that has."""
    if file.architecture.get("name") not in MODELS:
        raise WeightsError(
            f"{os.fspath(path)}: holds no network that minifcn knows (its own, a VGG, or a released FCN); "
            f"its tensors are {', '.join(list(file.tensors)[:3]) or 'none'}, …. "
            "Give a file of one of these; what is in this one, minifcn.weights.load reads in Python."
        )
    try:
        check_claim(MODELS[file.architecture["name"]], file)
    except WeightsError as error:
        raise WeightsError(f"{os.fspath(path)}: {error}") from None


__all__ = [
    "FCN",
    "MODELS",
    "VGG",
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "FCN2s",
    "FCN4s",
    "FCN8s",
    "FCN8sAtOnce",
    "FCN16s",
    "FCN32s",
    "FCNBasic",
    "PatchClassifier",
    "Transplant",
    "atrous",
    "build",
    "check_known",
    "framed",
    "from_weights",
    "load_pretrained",
    "multiply_adds",
    "patches_around",
    "shift_and_stitch",
    "surgery",
    "to_onnx",
    "unpadded",
]
