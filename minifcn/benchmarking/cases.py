"""What is measured: layers of VGG16 and FCN-8s by themselves, whole networks, and the operations they need."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from minifcn import nn
from minifcn.data import VOID
from minifcn.errors import UsageError
from minifcn.models import MODELS
from minifcn.models.fcn import FCN, GEOMETRIES
from minifcn.models.vgg import DEPTHS, FC_KERNEL, trunk_layers

FORWARD, BACKWARD, TRAINING = "forward", "forward+backward", "training-step"
WATCHED = "conv1_1.weight"  # the gradient of a training step that is compared: it has come through the whole network
GROUP_3X3 = "3×3 layers"
LAYER_IMAGE = (384, 512)  # pixels: a multiple of 32, so that each layer's map is whole
CLASSES = 21
FCN8S = {"name": "fcn8s", "num_classes": CLASSES, "width": 64, "geometry": "paper", "dropout": 0.0}


@dataclass(frozen=True)
class Case:
    """One computation that every library is asked for. Everything is float32; sizes are (height, width).

    operation: "conv2d", "conv_transpose2d", "max_pool2d", "relu", "loss", "loader" (reading a batch) or "network".
    pass_: FORWARD, without recording a graph; BACKWARD, forward and the gradients to the input and the weight; or
      TRAINING (networks): forward, loss, backward and a step of the optimiser.
    input_shape: (N, C, H, W). weight_shape: as ops.conv2d or ops.conv_transpose2d takes it; () without a weight.
    input_gradient, weight_gradient: whether BACKWARD asks for it; an image needs none, nor does a fixed filter.
    architecture: of a network, as models.build takes it. optimizer: "sgd" or "adam".
    multiply_adds: of all convolutions in one call, counted as the definition has it, whatever the route; 0 if there are
      none.
    quick: whether it is one of those that --quick measures.
    """

    name: str
    group: str
    operation: str
    pass_: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] = ()
    stride: int = 1
    padding: int = 0
    input_gradient: bool = True
    weight_gradient: bool = True
    architecture: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = ""
    multiply_adds: int = 0
    quick: bool = False

    @property
    def floating_point_operations(self) -> int:
        """Two to a multiply-add. With Winograd's method fewer are done: then this is what they stand for."""
        return 2 * self.multiply_adds


@dataclass(frozen=True)
class Convolution:
    """A convolution inside a network: how many multiply-adds its forward takes, and which gradients are needed."""

    name: str
    multiply_adds: int
    input_gradient: bool = True
    weight_gradient: bool = True

    def count(self, pass_: str) -> int:
        """Each gradient is as many products as forward: every product w·x has a term g·w and a term g·x."""
        if pass_ == FORWARD:
            return self.multiply_adds
        return self.multiply_adds * (1 + self.input_gradient + self.weight_gradient)


def all_cases(device: str = "cpu") -> list[Case]:
    """In the order in which they are measured: small ones first. On a GPU there is one more, and large ones quick."""
    cases = [*_vgg_layers(), *_other_operations(), *_networks()]
    if device == "cpu":
        return cases
    cases.append(network_case("fcn8s-8x320x320", FCN8S, (8, 3, 320, 320), TRAINING, "sgd"))
    large = ("fcn8s-500x500", "fcn8s-8x320x320")
    return [replace(case, quick=True) if case.name.startswith(large) else case for case in cases]


def select(cases: Sequence[Case], patterns: Sequence[str], *, quick: bool = False) -> list[Case]:
    """The cases whose name, or its part before the slash, fits one of the patterns (* stands for anything).

    Without patterns all of them, or those that are `quick`. Raises UsageError for a pattern that fits none.
    """
    if not patterns:
        return [case for case in cases if case.quick or not quick]
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = [c.name for c in cases if any(fnmatch.fnmatchcase(n, pattern) for n in (c.name, _layer_of(c)))]
        if not fitting:
            known = ", ".join(dict.fromkeys(map(_layer_of, cases)))
            raise UsageError(f"--cases {pattern}: no case has this name; --list shows them all: {known}.")
        chosen.update(fitting)
    return [case for case in cases if case.name in chosen]


def _layer_of(case: Case) -> str:
    return case.name.partition("/")[0]


def _vgg_layers() -> Iterator[Case]:
    """Each convolution of VGG16 that differs from those before it, and its dense layers as convolutions."""
    height, width = LAYER_IMAGE
    seen = set()
    for layer in trunk_layers(DEPTHS["vgg16"], 64, 3):
        if layer.pooling:
            height, width = height // 2, width // 2
            continue
        shape = (1, layer.in_channels, height, width)
        if (shape, layer.out_channels) in seen:
            continue
        seen.add((shape, layer.out_channels))
        yield from _convolution(layer.name, GROUP_3X3, shape, layer.out_channels, 3, padding=1)
    yield from _convolution("fc6", "dense layers", (1, 512, height, width), 4096, FC_KERNEL, padding=FC_KERNEL // 2)
    yield from _convolution("fc7", "dense layers", (1, 4096, height, width), 4096, 1)
    yield from _convolution("score_fr", "dense layers", (1, 4096, height, width), CLASSES, 1)


def _convolution(
    name: str, group: str, input_shape: tuple[int, ...], out_channels: int, kernel: int, *, padding: int = 0
) -> Iterator[Case]:
    weight_shape = (out_channels, input_shape[1], kernel, kernel)
    first = input_shape[1] == 3  # its input is the image
    output = [size + 2 * padding - kernel + 1 for size in input_shape[2:]]
    counted = Convolution(name, input_shape[0] * prod(weight_shape) * prod(output), input_gradient=not first)
    for pass_ in (FORWARD, BACKWARD):
        yield Case(
            f"{name}/{pass_}",
            group,
            "conv2d",
            pass_,
            input_shape,
            weight_shape,
            padding=padding,
            input_gradient=not first,
            multiply_adds=counted.count(pass_),
            quick=name in ("conv1_2", "conv3_2", "conv5_1"),
        )


def _other_operations() -> Iterator[Case]:
    """Upsampling, pooling, ReLU and loss, at the sizes that FCN-8s has on an image of 500×500, pad 100."""
    image, map_ = (1, CLASSES, 500, 500), (1, 64, *LAYER_IMAGE)
    for name, stride, size, learned in (("upsample-x2", 2, 34, True), ("upsample-x8", 8, 70, False)):
        weight_shape = (CLASSES, CLASSES, 2 * stride, 2 * stride)
        counted = Convolution(name, prod(weight_shape) * size * size, weight_gradient=learned)
        for pass_ in (FORWARD, BACKWARD):
            yield Case(
                f"{name}/{pass_}",
                "upsampling",
                "conv_transpose2d",
                pass_,
                (1, CLASSES, size, size),
                weight_shape,
                stride=stride,
                weight_gradient=learned,
                multiply_adds=counted.count(pass_),
                quick=stride == 8,
            )
    for operation, shape in (("max_pool2d", map_), ("relu", map_), ("loss", image)):
        for pass_ in (FORWARD, BACKWARD):
            name = f"{operation.replace('_', '-')}/{pass_}"
            yield Case(name, "other", operation, pass_, shape, quick=pass_ == BACKWARD)


def _networks() -> Iterator[Case]:
    # What feeds `narrow`: a batch of the same shape, as one thread reads, scales, cuts and colours it.
    yield Case("loader/forward", "other", "loader", FORWARD, (4, 3, 180, 240), quick=True)
    # Without dropout, whose random choices no two libraries share, outputs and gradients can be compared.
    narrow = {"name": "fcn2s", "num_classes": 11, "width": 16, "fc_width": 256, "geometry": "same", "dropout": 0.0}
    yield network_case("narrow", {**narrow, "batch_norm": True}, (4, 3, 180, 240), TRAINING, "adam", quick=True)
    for size in ((375, 500), (500, 500)):
        for pass_ in (FORWARD, TRAINING):
            yield network_case(f"fcn8s-{size[0]}x{size[1]}", FCN8S, (1, 3, *size), pass_, "sgd")


def network_case(
    name: str,
    architecture: Mapping[str, Any],
    input_shape: tuple[int, ...],
    pass_: str,
    optimizer: str,
    *,
    quick: bool = False,
) -> Case:
    """A case of a whole FCN; its multiply-adds are counted from the architecture, without building it."""
    convolutions = fcn_convolutions(architecture, input_shape)
    return Case(
        f"{name}/{pass_}",
        "networks",
        "network",
        pass_,
        input_shape,
        architecture=dict(architecture),
        optimizer=optimizer,
        multiply_adds=sum(convolution.count(pass_) for convolution in convolutions),
        quick=quick,
    )


def fcn_convolutions(architecture: Mapping[str, Any], input_shape: tuple[int, ...]) -> Iterator[Convolution]:
    """Every convolution of an FCN on input (N, C, H, W), transposed ones included, with its multiply-adds.

    A transposed convolution multiplies each number of its input with every weight of that channel.
    """
    images, in_channels, height, width = input_shape
    network, geometry = MODELS[architecture["name"]], GEOMETRIES[architecture["geometry"]]
    assert issubclass(network, FCN)
    classes, fc_width = architecture["num_classes"], architecture.get("fc_width") or 64 * architecture["width"]
    pools, channels = {}, in_channels
    for layer in trunk_layers(DEPTHS["vgg16"], architecture["width"], in_channels):
        if layer.pooling:
            height, width = -(-height // 2), -(-width // 2)  # rounded up
            pools[layer.name] = (layer.out_channels, height, width)
            continue
        first = layer.name == "conv1_1"
        grow = 2 * (geometry.conv1_padding if first else 1) - 2
        height, width = height + grow, width + grow
        taps = layer.in_channels * 9 * layer.out_channels
        yield Convolution(layer.name, images * taps * height * width, input_gradient=not first)
        channels = layer.out_channels
    grow = 2 * geometry.fc6_padding - FC_KERNEL + 1
    height, width = height + grow, width + grow
    for name, taps in (
        ("fc6", channels * FC_KERNEL**2 * fc_width),
        ("fc7", fc_width * fc_width),
        ("score_fr", fc_width * classes),
    ):
        yield Convolution(name, images * taps * height * width)
    learned_upsampling = architecture.get("learned_upsampling", "intermediate")
    for step in network.upsamplings:
        kernel, padding = 2 * step.stride, geometry.upsampling_padding(step.stride)
        last = step is network.upsamplings[-1]
        learned = learned_upsampling == "all" or (learned_upsampling == "intermediate" and not last)
        taps = classes * classes * kernel**2
        yield Convolution(step.name, images * taps * height * width, weight_gradient=learned)
        height, width = (step.stride * (size - 1) + kernel - 2 * padding for size in (height, width))
        if step.skip:
            skip_channels, skip_height, skip_width = pools[step.skip]
            yield Convolution(f"score_{step.skip}", images * skip_channels * classes * skip_height * skip_width)
            height, width = min(height, skip_height), min(width, skip_width)


def make_arrays(case: Case, seed: int = 0) -> dict[str, np.ndarray]:
    """What goes into a case, the same for every library: "input", and where needed "weight", "bias", "cotangent" (dL/dy
    of the output), "labels".
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {"input": generator.standard_normal(case.input_shape, np.float32)}
    if case.operation == "conv2d":
        arrays["weight"] = nn.he_normal(case.weight_shape, prod(case.weight_shape[1:]), generator)
        arrays["bias"] = generator.standard_normal(case.weight_shape[0], np.float32)
    elif case.operation == "conv_transpose2d":
        arrays["weight"] = nn.bilinear_weight(case.weight_shape[0], case.weight_shape[2])
    if case.pass_ == BACKWARD and case.operation != "loss":
        arrays["cotangent"] = generator.standard_normal(_output_shape(case), np.float32)
    if case.operation == "loss" or case.pass_ == TRAINING:
        classes = case.architecture.get("num_classes", case.input_shape[1])
        labels = generator.integers(0, classes, (case.input_shape[0], *case.input_shape[2:]))
        labels[:, :5] = VOID  # as along the borders of objects in PASCAL VOC
        arrays["labels"] = labels
    return arrays


def _output_shape(case: Case) -> tuple[int, ...]:
    images, channels, *size = case.input_shape
    if case.operation == "relu":
        return case.input_shape
    if case.operation == "max_pool2d":
        return (images, channels, *(n // 2 for n in size))
    kernel = case.weight_shape[2]
    if case.operation == "conv_transpose2d":
        return (images, case.weight_shape[1], *(case.stride * (n - 1) + kernel - 2 * case.padding for n in size))
    return (images, case.weight_shape[0], *((n + 2 * case.padding - kernel) // case.stride + 1 for n in size))
