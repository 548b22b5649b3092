"""FCN-32s, FCN-16s and FCN-8s: VGG16 made fully convolutional, with a decoder that adds finer skips.

The trunk halves the image five times, fc6, fc7 and the score layer give class scores for each 32-pixel cell, and
transposed convolutions enlarge them. Deep scores know what, shallow ones know where: FCN-16s adds scores of pool4
half-way up, FCN-8s those of pool3 too, and FCN-4s and FCN-2s, which are not in the papers, those of pool2 and pool1.
One decoder makes all.

Sources: Long et al. 2015, section 4; Shelhamer et al. 2017.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from minifcn import nn, ops, weights
from minifcn.autograd.tensor import Tensor
from minifcn.errors import UsageError, WeightsError
from minifcn.models.surgery import load_pretrained
from minifcn.models.vgg import DEPTHS, FC_KERNEL, Trunk, check_sizes, trunk_layers
from minifcn.ops import CoordinateMap


@dataclass(frozen=True)
class Upsampling:
    """A transposed convolution of kernel 2·stride, by name, and the skip whose scores are added after it."""

    name: str
    stride: int
    skip: str | None = None  # the pooling it comes from; None for the last one, which gives the image's size


@dataclass(frozen=True)
class Geometry:
    """Paddings. "paper" pads the image by 100 pixels and crops the rest off again, as the released networks do;
    "same" pads each layer so that maps lie on each other, which on small images costs a fraction of that.
    """

    conv1_padding: int
    fc6_padding: int
    centred_upsampling: bool  # transposed convolutions with padding stride/2, which cancels their kernels' overhang

    def upsampling_padding(self, stride: int) -> int:
        return stride // 2 if self.centred_upsampling else 0


GEOMETRIES = {"paper": Geometry(100, 0, False), "same": Geometry(1, FC_KERNEL // 2, True)}
LEARNED_UPSAMPLING = ("intermediate", "none", "all")
SKIPS = ("add", "none")


class FCN(Trunk):
    """The decoder, and the fully convolutional layers below it: (N, in_channels, H, W) -> (N, num_classes, H, W).

    num_classes: background included. width, fc_width: as for VGG. in_channels: of the image.
    geometry: "paper" or "same", see Geometry. Both take every size of image from 1×1 up.
    learned_upsampling: "intermediate" learns all transposed convolutions but the last (the paper's choice), "none"
      keeps all of them bilinear (the released solvers'), "all" learns the last one too.
    skips: "add" adds the scores of shallower layers on the way up, "none" leaves them out, to see what they are worth.
    batch_norm: batch normalisation after every convolution but the score layers.
    dropout: probability after fc6 and fc7. seed: of the initial values and of dropout's generator.

    Score layers start at zero, so the first loss is ln(num_classes); upsampling starts bilinear.
    """

    name: ClassVar[str]
    upsamplings: tuple[Upsampling, ...]
    skip_scales: Mapping[str, float] = {}  # what each skip's features are multiplied by before its score layer

    def __init__(
        self,
        num_classes: int = 21,
        width: int = 64,
        fc_width: int | None = None,
        in_channels: int = 3,
        *,
        geometry: str = "paper",
        skips: str = "add",
        learned_upsampling: str = "intermediate",
        batch_norm: bool = False,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        if geometry not in GEOMETRIES:
            raise UsageError(f"{type(self).__name__}: geometry {geometry!r} is not one of {', '.join(GEOMETRIES)}.")
        if learned_upsampling not in LEARNED_UPSAMPLING:
            known = ", ".join(LEARNED_UPSAMPLING)
            raise UsageError(f"{type(self).__name__}: learned_upsampling {learned_upsampling!r} is not one of {known}.")
        if skips not in SKIPS:
            raise UsageError(f"{type(self).__name__}: skips {skips!r} is not one of {', '.join(SKIPS)}.")
        generator = np.random.default_rng(seed)
        self.geometry = GEOMETRIES[geometry]
        if skips == "none":
            self.upsamplings = tuple(replace(step, skip=None) for step in self.upsamplings)
        super().__init__(DEPTHS["vgg16"], width, in_channels, self.geometry.conv1_padding, batch_norm, generator)
        fc_width = 64 * width if fc_width is None else fc_width
        check_sizes(type(self).__name__, num_classes=num_classes, fc_width=fc_width)
        cells = self.trunk[-1].out_channels
        fc6 = nn.Conv2d(cells, fc_width, FC_KERNEL, padding=self.geometry.fc6_padding, generator=generator)
        self._set_layer("fc6", fc6)
        self._set_layer("fc7", nn.Conv2d(fc_width, fc_width, 1, generator=generator))
        self.dropout = nn.Dropout(dropout, generator=np.random.default_rng([seed, 1]))
        self.score_fr = zero_score(fc_width, num_classes)
        pool_channels = {layer.name: layer.out_channels for layer in self.trunk if layer.pooling}
        for step in self.upsamplings:
            last = step is self.upsamplings[-1]
            learned = learned_upsampling == "all" or (learned_upsampling == "intermediate" and not last)
            setattr(self, step.name, _bilinear(num_classes, step.stride, self.geometry, learned))
            if step.skip:
                setattr(self, f"score_{step.skip}", zero_score(pool_channels[step.skip], num_classes))
        self.crops = self._derive_crops()
        self.architecture = {
            "name": self.name,
            "num_classes": num_classes,
            "width": width,
            "fc_width": fc_width,
            "in_channels": in_channels,
            "geometry": geometry,
            "skips": skips,
            "learned_upsampling": learned_upsampling,
            "batch_norm": batch_norm,
            "dropout": dropout,
        }

    def forward(self, x: Tensor) -> Tensor:
        image_size = x.shape[2:]
        pools = self.features(x)
        h = self.dropout(self._activate("fc6", pools["pool5"]))
        h = self.dropout(self._activate("fc7", h))
        scores = self.score_fr(h)
        for step in self.upsamplings:
            scores = getattr(self, step.name)(scores)
            if step.skip:
                scores = self._add_skip(scores, pools[step.skip], step)
        return ops.crop(scores, self.crops[self.upsamplings[-1].name], image_size)

    def _add_skip(self, scores: Tensor, features: Tensor, step: Upsampling) -> Tensor:
        """scores + score layer of the skip's features, on the part of the image that both maps cover."""
        if step.skip is not None and step.skip in self.skip_scales:
            features = features * self.skip_scales[step.skip]
        skip = getattr(self, f"score_{step.skip}")(features)
        start = self.crops[step.name]
        # "paper": the skip is larger (pad 100) and is cropped; "same": it may be a pixel smaller (ceil pooling).
        shared = [min(s - start, u) for s, u in zip(skip.shape[2:], scores.shape[2:], strict=True)]
        return ops.crop(scores, 0, shared) + ops.crop(skip, start, shared)

    def _derive_crops(self) -> dict[str, int]:
        """Where each upsampled map begins in the map it meets: the skip's, or, for the last, the image's.

        Both are described by where their pixels lie in the image: for each layer of the way, compose its coordinate
        map. In "paper" geometry that gives 5 and 9 for the skips, and 19, 27 and 31 for the ends of 32s, 16s and 8s;
        in "same" geometry always 0. Without skips, maps in between meet nothing, and there is only the end.
        """
        place, pools = CoordinateMap(), {}
        for layer in self.trunk:
            if layer.pooling:
                place = pools[layer.name] = place.then(CoordinateMap.of_window(2, stride=2))
            else:
                place = place.then(CoordinateMap.of_window(3, padding=getattr(self, layer.name).padding))
        place = place.then(CoordinateMap.of_window(FC_KERNEL, padding=self.geometry.fc6_padding))
        crops = {}
        for step in self.upsamplings:
            padding = self.geometry.upsampling_padding(step.stride)
            place = place.then(CoordinateMap.of_transposed(2 * step.stride, step.stride, padding))
            if step.skip:
                crops[step.name] = pools[step.skip].crop_onto(place)  # the skip is cropped onto the scores
        crops[self.upsamplings[-1].name] = place.crop_onto(CoordinateMap())  # the scores are cropped onto the image
        return crops

    @classmethod
    def from_weights(cls, path: str | os.PathLike[str], num_classes: int | None = None) -> Self:
        """The network of a weight file, in evaluation mode: one of this project, or a released one of any container.

        num_classes: if it differs from the file's, everything but the score layers and the upsampling is kept, these
        start anew, and a warning says so. Raises WeightsError if the file holds another network (which, and what to
        use instead) or tensors that do not fit (each listed).
        """
        file = weights.load(path)
        name = file.architecture.get("name")
        kind = next((one for one in (cls, *cls.__subclasses__()) if one.name == name), None)
        if kind is None:
            at_once = " (unless it was trained at once: convert --at-once says so)" if cls is FCN8sAtOnce else ""
            raise WeightsError(
                f"{os.fspath(path)}: holds {name or 'a network that minifcn does not know'}, but {cls.__name__} is "
                f"{cls.name}{at_once}. Load it with models.from_weights; or take over its weights with "
                f"models.load_pretrained({cls.__name__}(…), path)."
            )
        if num_classes in (None, file.architecture.get("num_classes", num_classes)):
            return restore(kind, file, path)
        try:
            check_claim(kind, file)
            model = construct(kind, {**file.architecture, "num_classes": num_classes})
            report = load_pretrained(model, file)
        except WeightsError as error:
            raise WeightsError(f"{os.fspath(path)}: {error}") from None
        warnings.warn(f"{os.fspath(path)}: {report.summary()}; train it before use.", stacklevel=2)
        return model.eval()


def check_claim(network: type[Any], file: weights.WeightFile) -> None:
    """WeightsError if the network of a file has far more parameters than the file has numbers.

    To be asked before it is built: a file of a few bytes could claim a network that no memory holds.
    """
    try:
        count = getattr(network, "count_parameters", functools.partial(count_parameters, network))
        claimed = count(file.architecture)
    except (KeyError, TypeError, ValueError, OverflowError):
        return  # sizes that are no numbers: building it will say so
    held = sum(array.size for array in file.tensors.values())
    if claimed > 2 * held + 2**24:
        raise WeightsError(
            f"its architecture has {claimed:,} parameters ({_sizes_in_words(file.architecture)}), but the file holds "
            f"{held:,} numbers; it is damaged, or not whole. Copy or fetch it again."
        )


def _sizes_in_words(architecture: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {architecture[key]}" for key in ("width", "fc_width", "num_classes") if key in architecture
    )


def count_parameters(network: type[Any], architecture: Mapping[str, Any]) -> int:
    """How many numbers the network of this architecture has, upsampling filters included, without building it."""
    is_fcn = issubclass(network, FCN)
    width, in_channels = int(architecture.get("width", 64)), int(architecture.get("in_channels", 3))
    fc_width = int(architecture.get("fc_width") or 64 * width)
    classes = int(architecture.get("num_classes", 21 if is_fcn else 1000))
    layers = list(trunk_layers(DEPTHS["vgg16" if is_fcn else network.name], width, in_channels))
    pools = {layer.name: layer.out_channels for layer in layers if layer.pooling}
    extra = 4 if architecture.get("batch_norm") else 1  # numbers a channel: scale, shift, mean, variance; or a bias
    count = sum((9 * layer.in_channels + extra) * layer.out_channels for layer in layers if not layer.pooling)
    count += (FC_KERNEL**2 * pools["pool5"] + extra) * fc_width + (fc_width + extra) * fc_width
    count += (fc_width + 1) * classes
    has_skips = architecture.get("skips", "add") == "add"
    for step in network.upsamplings if is_fcn else ():
        count += (2 * step.stride * classes) ** 2
        count += (pools[step.skip] + 1) * classes if step.skip and has_skips else 0
    return count


def construct(network: type[Any], architecture: Mapping[str, Any], *, seed: int = 0) -> Any:
    """An untrained network of this class; WeightsError if the architecture is not one of its own."""
    try:
        return network(**{key: value for key, value in architecture.items() if key != "name"}, seed=seed)
    except (TypeError, ValueError) as error:  # ours are ValueErrors too: sizes below 1
        raise WeightsError(f"its architecture cannot be built. {error}") from None


def restore(network: type[Any], file: weights.WeightFile, path: str | os.PathLike[str]) -> Any:
    """The network of a weight file, in evaluation mode; WeightsError with `path` if the file contradicts itself."""
    try:
        check_claim(network, file)
        model = construct(network, file.architecture)
        model.load_state_dict(file.tensors)
    except WeightsError as error:
        raise WeightsError(f"{os.fspath(path)}: {error}") from None
    model.preprocessing = file.preprocessing
    return model.eval()


def zero_score(in_channels: int, num_classes: int) -> nn.Conv2d:
    """A 1×1 convolution to class scores, all zero: nothing is preferred, and a new skip changes nothing at first."""
    layer = nn.Conv2d(in_channels, num_classes, 1)
    layer.weight.data[...] = 0
    return layer


def _bilinear(num_classes: int, stride: int, geometry: Geometry, learned: bool) -> nn.ConvTranspose2d:
    """A transposed convolution that starts as bilinear interpolation."""
    kernel_size = 2 * stride
    padding = geometry.upsampling_padding(stride)
    layer = nn.ConvTranspose2d(num_classes, num_classes, kernel_size, stride=stride, padding=padding)
    layer.weight = nn.Parameter(nn.bilinear_weight(num_classes, kernel_size), requires_grad=learned)
    return layer


class FCN32s(FCN):
    """One upsampling by 32. 134,346,581 parameters without the upsampling filter, 136,152,917 with it."""

    name = "fcn32s"
    upsamplings = (Upsampling("upscore", 32),)


class FCN16s(FCN):
    """Upsampling by 2, scores of pool4 added, upsampling by 16."""

    name = "fcn16s"
    upsamplings = (Upsampling("upscore2", 2, skip="pool4"), Upsampling("upscore16", 16))


class FCN8s(FCN):
    """Upsampling by 2, scores of pool4, upsampling by 2, scores of pool3, upsampling by 8."""

    name = "fcn8s"
    upsamplings = (
        Upsampling("upscore2", 2, skip="pool4"),
        Upsampling("upscore_pool4", 2, skip="pool3"),
        Upsampling("upscore8", 8),
    )


class FCN4s(FCN):
    """As FCN-8s, with the scores of pool2 too, and upsampling by 4 at the end.

    The paper stops at FCN-8s, whose gain over FCN-16s was already small on PASCAL VOC (Long et al. 2015, section 4.2).
    Small pictures have finer things: on one of 180 rows a cell of 4 pixels is what one of 8 is on 360.
    """

    name = "fcn4s"
    upsamplings = (
        Upsampling("upscore2", 2, skip="pool4"),
        Upsampling("upscore_pool4", 2, skip="pool3"),
        Upsampling("upscore_pool3", 2, skip="pool2"),
        Upsampling("upscore4", 4),
    )


class FCN2s(FCN):
    """As FCN-4s, with the scores of pool1 too: for things that are one or two pixels wide, as poles on small pictures.

    The last layer enlarges by 2, and is worth learning (learned_upsampling="all"): a bilinear one blurs single pixels.
    """

    name = "fcn2s"
    upsamplings = (
        Upsampling("upscore2", 2, skip="pool4"),
        Upsampling("upscore_pool4", 2, skip="pool3"),
        Upsampling("upscore_pool3", 2, skip="pool2"),
        Upsampling("upscore_pool2", 2, skip="pool1"),
        Upsampling("upscore_pool1", 2),
    )


class FCN8sAtOnce(FCN8s):
    """FCN-8s trained in one go, without the stages 32s and 16s: the skips' features are scaled down by fixed factors,
    those of the released solver, so that the three streams of scores start at comparable sizes (Shelhamer et al. 2017).

    skip_scales: other factors, by pooling; a released file brings its own.
    """

    name = "fcn8s-at-once"
    skip_scales = {"pool4": 0.01, "pool3": 0.0001}  # noqa: RUF012 (never changed in place)

    def __init__(self, *sizes: int, skip_scales: Mapping[str, float] | None = None, **options: Any) -> None:
        super().__init__(*sizes, **options)
        if skip_scales is not None:
            self.skip_scales = dict(skip_scales)
        self.architecture["skip_scales"] = dict(self.skip_scales)
