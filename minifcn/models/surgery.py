"""Surgery: weights of one network put into another — classifier to fully convolutional, stage to stage.

A dense layer on a 7×7 map is a convolution whose kernel covers the map: both give Σ_{c,i,j} w[o, c, i, j] x[c, i, j].
Its weight only has to be seen as (out, C, 7, 7) instead of (out, C·7·7); then it can slide (Long et al. 2015, 3.1).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from minifcn import nn, weights
from minifcn.errors import ShapeError, WeightsError
from minifcn.models.vgg import VGG, BaseNetwork
from minifcn.weights import WeightFile, naming

Shape = tuple[int, ...]
Model = TypeVar("Model", bound=BaseNetwork)

# Layers that depend on the classes or on the way up; all others must be in the file, and fit.
SCORE_LAYERS = ("fc8", "score_", "upscore")
_SIZES = ("width", "fc_width", "in_channels", "batch_norm")


def fc_to_conv(weight: np.ndarray, kernel_size: tuple[int, int]) -> np.ndarray:
    """The weight (out, in·kh·kw) of a dense layer as that of a convolution, (out, in, kh, kw).

    The dense layer saw its map flattened in the order (channel, row, column), so this is a plain reshape: no number
    moves. Raises ShapeError if the weight is not a dense one, or does not divide into kernels of this size.
    """
    if weight.ndim != 2:
        raise ShapeError(f"fc_to_conv: the weight has shape {weight.shape}; that of a dense layer is (out, in).")
    out_features, in_features = weight.shape
    taps = kernel_size[0] * kernel_size[1]
    if in_features % taps:
        raise ShapeError(f"fc_to_conv: {in_features} inputs do not divide into kernels of {kernel_size}.")
    return weight.reshape(out_features, in_features // taps, *kernel_size)


@dataclass(frozen=True)
class Row:
    """What became of one tensor. Shapes are None where it is not there."""

    name: str
    action: str
    source: Shape | None
    target: Shape | None
    reason: str = ""


@dataclass(frozen=True)
class Transplant:
    """What happened to each tensor; as text, a table of names and shapes."""

    rows: tuple[Row, ...]

    def _names(self, action: str) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if row.action == action)

    @property
    def copied(self) -> tuple[str, ...]:
        return self._names("copied")

    @property
    def reshaped(self) -> tuple[str, ...]:
        """Dense weights that became convolutions, or the other way round."""
        return self._names("reshaped")

    @property
    def dropped(self) -> tuple[str, ...]:
        """In the source, and not taken over."""
        return self._names("dropped")

    @property
    def new(self) -> tuple[str, ...]:
        """In the target, left as they were initialised."""
        return self._names("newly initialised")

    def __str__(self) -> str:
        cells = [("tensor", "in the file", "in the network", "")]
        for row in self.rows:
            outcome = f"{row.action}: {row.reason}" if row.reason else row.action
            cells.append((row.name, _as_text(row.source), _as_text(row.target), outcome))
        widths = [max(len(line[column]) for line in cells) for column in range(3)]
        return "\n".join(
            "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[3]]).rstrip()
            for line in cells
        )

    def summary(self) -> str:
        """One line: how many, and the names of those that were dropped or are new."""
        parts = [f"{len(self.copied)} tensors copied", f"{len(self.reshaped)} reshaped"]
        for what, names in (("dropped", self.dropped), ("new", self.new)):
            parts += [f"{what} {', '.join(names)}"] if names else []
        return "; ".join(parts)


def _as_text(shape: Shape | None) -> str:
    return "—" if shape is None else "×".join(map(str, shape)) or "1"


def transplant(
    source: Mapping[str, np.ndarray], target: nn.Module, reasons: Mapping[str, str] | None = None
) -> Transplant:
    """Copy every tensor of `source` that `target` has by the same name, dense weights reshaped to convolutions.

    Used for both steps of the paper: classifier -> FCN-32s (trunk, fc6 and fc7 go over, fc8 is dropped, the score layer
    stays new), and FCN-32s -> 16s -> 8s (all goes over but the last upsampling; the new skip stays zero).
    reasons: tensors to leave out, and why; or why one is new.
    Raises WeightsError if a name is common but the shapes do not fit (each listed, nothing changed), or if nothing is
    common at all, which would be a network trained from scratch by mistake.
    """
    reasons = reasons or {}
    own = {name: tuple(parameter.shape) for name, parameter in target.named_parameters()}
    state, rows, problems = {}, [], []
    for name, shape in own.items():
        if name not in source or name in reasons:
            continue
        value = np.asarray(source[name])
        fitting = _reshaped(value, shape)
        if fitting is None:
            problems.append(f"{name}: the source has shape {value.shape}, the target {shape}")
            continue
        state[name] = fitting
        rows.append(Row(name, "copied" if value.shape == shape else "reshaped", value.shape, shape))
    if problems:
        raise WeightsError(
            f"transplant: {len(problems)} tensors do not fit; are width, fc_width, in_channels and the number of "
            "classes equal?\n  " + "\n  ".join(problems)
        )
    if not state:
        raise WeightsError("transplant: the two networks have no tensor name in common; nothing could be copied.")
    target.load_state_dict(state, strict=False)
    for name in source:
        if name not in own:
            rows.append(Row(name, "dropped", tuple(np.shape(source[name])), None, reasons.get(name, "")))
    for name, shape in own.items():
        if name not in state:
            theirs = tuple(np.shape(source[name])) if name in source else None
            why = "; ".join(filter(None, [_how_it_starts(name), reasons.get(name, "")]))
            rows.append(Row(name, "newly initialised", theirs, shape, why))
    return Transplant(tuple(rows))


def _reshaped(value: np.ndarray, shape: Shape) -> np.ndarray | None:
    """The value in the target's shape, if it is that of the same layer, dense or convolution; else None."""
    if value.shape == shape:
        return value
    if (value.ndim, len(shape)) == (2, 4) and value.shape == (shape[0], int(np.prod(shape[1:]))):
        return fc_to_conv(value, (shape[2], shape[3]))
    if (value.ndim, len(shape)) == (4, 2) and shape == (value.shape[0], int(np.prod(value.shape[1:]))):
        return value.reshape(shape)
    return None


def _how_it_starts(name: str) -> str:
    if name.startswith("upscore"):
        return "bilinear"
    return "zero" if name.startswith("score_") else "random"


def load_pretrained(model: BaseNetwork, file: WeightFile | str | os.PathLike[str]) -> Transplant:
    """Put the weights of a file into a network: VGG's into an FCN, one FCN's into another, or a network's own.

    Everything below the score layers must be in the file and fit, and the file may hold nothing unknown. Dropped are a
    classifier's fc8, score layers for another number of classes, and upsampling that the network does not have; what
    has no counterpart in the file starts anew, score layers at zero and upsampling bilinear. The report says which.
    The network also takes over the file's preprocessing. Returns the report; print it for a table.

    Raises WeightsError that lists every tensor that disagrees, with both shapes, and then changes nothing.
    """
    name = "load_pretrained"
    if not isinstance(file, WeightFile):
        name, file = os.fspath(file), weights.load(file)
    own = {tensor: tuple(parameter.shape) for tensor, parameter in model.named_parameters()}
    found = {tensor: tuple(array.shape) for tensor, array in file.tensors.items()}
    reasons = _reasons(file.architecture, model.architecture, file.tensors, own)
    problems = [
        f"{tensor}: {_in('the file', found.get(tensor))}, {_in('the network', own.get(tensor))}"
        for tensor in {**own, **found}
        if tensor not in reasons and not _expected(tensor, file.tensors.get(tensor), own.get(tensor))
    ]
    hints = _hints(file, model, found.keys() & own.keys())
    if problems or hints:
        message = "; ".join([f"{name}: does not fit {type(model).__name__}", *hints]) + "."
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise WeightsError(message + (f" {len(problems)} tensors disagree:{listed}" if problems else ""))
    report = transplant(file.tensors, model, reasons)
    model.preprocessing = file.preprocessing
    return report


def _reasons(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], source: Iterable[str], own: Mapping[str, Shape]
) -> dict[str, str]:
    """Which score layers of the file are left out, and why. theirs, ours: the architectures; source, own: tensors."""
    reasons = {}
    other_classes = theirs.get("num_classes") != ours["num_classes"]
    for name in source:
        if not name.startswith(SCORE_LAYERS):
            continue
        if name not in own and name.startswith("fc8"):
            reasons[name] = "scores the classifier's own classes"
        elif name not in own:
            reasons[name] = f"{ours['name']} has no such layer"
        elif other_classes:
            reasons[name] = f"the file's is for {theirs.get('num_classes')} classes"
    return reasons


def _expected(name: str, value: np.ndarray | None, shape: Shape | None) -> bool:
    if value is None or shape is None:
        return value is None and name.startswith(SCORE_LAYERS)
    return _reshaped(value, shape) is not None


def _in(where: str, shape: Shape | None) -> str:
    return f"not in {where}" if shape is None else f"{shape} in {where}"


def _hints(file: WeightFile, model: BaseNetwork, common: Set[str]) -> list[str]:
    """What stands behind the disagreement, as far as the two architectures tell."""
    theirs, ours = file.architecture, model.architecture
    if not theirs:
        names = ", ".join(list(file.tensors)[:3])
        return [f"the file holds neither a VGG nor an FCN that minifcn knows; its tensors are {names}, …"]
    hints = []
    other_layers = {"vgg11", "vgg13", "vgg19", "fcn-basic"} & {theirs["name"], ours["name"]}
    if other_layers and theirs["name"] != ours["name"]:
        hints.append(f"the file holds {theirs['name']}, the network is {ours['name']}, with another number of layers")
    sizes = {"batch_norm": False} | theirs  # of files from elsewhere, it was folded when they were read
    differing = [key for key in _SIZES if key in sizes.keys() & ours.keys() and sizes[key] != ours[key]]
    if differing:
        had = ", ".join(f"{key}={sizes[key]}" for key in differing)
        has = ", ".join(f"{key}={ours[key]}" for key in differing)
        hints.append(f"the file has {had}, the network {has}; build that with the file's")
    scales, own_scales = theirs.get("skip_scales", {}), ours.get("skip_scales", {})
    if scales != own_scales and any(name.startswith("score_pool") for name in common):
        hints.append(
            f"the file's skips were trained with the factors {scales or 1}, the network's have {own_scales or 1}; "
            f"use {theirs['name']} with the file's skip_scales"
        )
    return hints


def fold_batch_norm(model: Model) -> Model:
    """The same network without batch normalisation: each is folded into the convolution or dense layer before it.

    In evaluation mode, which it is returned in, it computes the same scores up to rounding, with a layer less for each
    convolution; so programs that know the layers of the published networks only can run it. A network without batch
    normalisation is returned as it is. Raises WeightsError if a running variance is negative.
    """
    if not model.batch_norm:
        return model
    state = model.state_dict()
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            layer = name.removesuffix("_bn")
            statistics = {part: state.pop(f"{name}.{part}") for part, _ in norm.named_parameters()}
            if (statistics["running_var"] < 0).any():
                raise WeightsError(f"fold_batch_norm: {name}.running_var is negative; the weights are damaged.")
            folded = naming.fold_batch_norm({"weight": state[f"{layer}.weight"]}, statistics, norm.eps)
            state |= {f"{layer}.{part}": array for part, array in folded.items()}
    target = _like(model, batch_norm=False)
    target.load_state_dict(state)
    return target.eval()


def fully_convolutional(classifier: VGG) -> VGG:
    """The same classifier with its dense layers as convolutions: a map of class scores, one for each 7×7 cells.

    On a 224-pixel image it gives the classifier's scores at one position; on a larger one, what the classifier's dense
    layers would say at every window of the pool5 map, whose pixels are computed once: 500 pixels have 100 windows, for
    the work of six images of 224 (docs/dense-prediction.md).
    """
    target = _like(classifier, fully_convolutional=True)
    transplant(classifier.state_dict(), target)
    return target.train(classifier.training)


def _like(model: Model, **changes: Any) -> Model:
    """A new network of the same class, dtype, device and preprocessing; changes: of its architecture."""
    architecture = {key: value for key, value in model.architecture.items() if key != "name"}
    like = next(model.parameters())
    target = type(model)(**architecture | changes).astype(like.dtype).to(like.device)
    target.preprocessing = model.preprocessing
    return target
