"""VGG: the classifier that an FCN is made from (Simonyan and Zisserman 2015, table 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minifcn import nn, ops
from minifcn.autograd.tensor import Tensor
from minifcn.errors import ShapeError, UsageError
from minifcn.weights import Preprocessing

# How many 3×3 convolutions stand before each of the five poolings. (weights/naming.py knows them too: a leaf.)
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
WIDENING = (1, 2, 4, 8, 8)  # channels of each block, in multiples of `width` (64 in the published networks)
FC_KERNEL = 7  # fc6 sees 7×7 cells: 224 pixels halved five times
VGG_GEOMETRIES = ("paper", "torchvision")


@dataclass(frozen=True)
class TrunkLayer:
    """One layer of the trunk: a convolution by name, or a pooling."""

    name: str
    in_channels: int
    out_channels: int
    pooling: bool = False


def trunk_layers(depths: Sequence[int], width: int, in_channels: int) -> Iterator[TrunkLayer]:
    """conv1_1, …, pool1, …, pool5, with their channels."""
    channels = in_channels
    for block, (depth, widening) in enumerate(zip(depths, WIDENING, strict=True), start=1):
        for position in range(1, depth + 1):
            yield TrunkLayer(f"conv{block}_{position}", channels, widening * width)
            channels = widening * width
        yield TrunkLayer(f"pool{block}", channels, channels, pooling=True)


def check_sizes(network: str, **sizes: int) -> None:
    """ShapeError that names every number of channels or classes below 1."""
    wrong = [f"{name}={size}" for name, size in sizes.items() if size < 1]
    if wrong:
        raise ShapeError(f"{network}: {', '.join(wrong)} must be at least 1.")


class BaseNetwork(nn.Module):
    """What every network here has: layers by name, if asked for with batch normalisation after them, and a record.

    preprocessing: how pictures become inputs; that of the weights, once some are loaded (`surgery.load_pretrained`).
    architecture: what `models.build` takes to make the same network; stored in every weight file.
    observe: if set, told of each activation by its layer's name, as it is computed.
    """

    observe: Callable[[str, Tensor], None] | None = None
    preprocessing: Preprocessing = Preprocessing()
    architecture: dict[str, Any]
    batch_norm: bool

    def _set_layer(self, name: str, layer: nn.Conv2d | nn.Linear) -> None:
        """A layer by its name; with batch normalisation after it, as NAME_bn, which makes its bias superfluous."""
        setattr(self, name, layer)
        if self.batch_norm:
            layer.bias = None
            setattr(self, f"{name}_bn", nn.BatchNorm2d(layer.weight.shape[0]))

    def _activate(self, name: str, x: Tensor) -> Tensor:
        """ReLU of the layer's output, normalised before if the network has batch normalisation."""
        layer = getattr(self, name)
        if self.batch_norm:
            x = getattr(self, f"{name}_bn")(layer(x), relu=True)
        else:
            x = layer(x, relu=True) if isinstance(layer, nn.Conv2d) else ops.relu(layer(x))
        if self.observe is not None:
            self.observe(name, x)
        return x

    def freeze_batch_norm(self) -> None:
        """Keep the running means and variances, scales and shifts as they are, whatever is trained."""
        for _, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.freeze()


class Trunk(BaseNetwork):
    """The convolutions and poolings of VGG, and nothing above them: a base of VGG and FCN, which share its names.

    Ceil pooling, as in Caffe, where the networks come from: no size of image is ever too small.
    """

    ceil_pooling: bool = True

    def __init__(
        self,
        depths: Sequence[int],
        width: int,
        in_channels: int,
        first_padding: int,
        batch_norm: bool,
        generator: np.random.Generator,
    ) -> None:
        check_sizes(type(self).__name__, width=width, in_channels=in_channels)
        self.batch_norm = batch_norm
        self.trunk = tuple(trunk_layers(depths, width, in_channels))
        for layer in self.trunk:
            if not layer.pooling:
                padding = first_padding if layer.name == "conv1_1" else 1
                conv = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=padding, generator=generator)
                self._set_layer(layer.name, conv)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The output of each pooling by name, pool1 … pool5; x (N, C, H, W), any H and W from 1 up."""
        if x.ndim != 4 or x.shape[1] != self.trunk[0].in_channels:
            raise ShapeError(
                f"{type(self).__name__}: the input has shape {tuple(x.shape)}; (N, {self.trunk[0].in_channels}, H, W) "
                "is expected (in_channels sets the second)."
            )
        pooled = {}
        for layer in self.trunk:
            if layer.pooling:
                x = pooled[layer.name] = ops.max_pool2d(x, 2, ceil_mode=self.ceil_pooling)
            else:
                x = self._activate(layer.name, x)
        return pooled


class VGG(Trunk):
    """A VGG classifier: (N, in_channels, H, W) -> (N, num_classes).

    The dense layers take the 7×7 cells of a 224-pixel image. What becomes of other sizes is the geometry:
    "paper": pooling rounds up, as in Caffe. A smaller image gives fewer cells; they are put in the middle of zeros,
      exactly what a convolution of kernel 7 and padding 3 sees at the centre. A larger image has several windows:
      make the network fully convolutional (`surgery.fully_convolutional`), and it classifies each.
    "torchvision": pooling rounds down, and the map is averaged to 7×7 cells, as torchvision does; from 32 pixels up.
    On 224 pixels both are the same.

    width: channels of the first block (64 as published); fc_width: of fc6 and fc7 (64·width, that is 4096, if None).
    batch_norm: batch normalisation after every convolution and dense layer but fc8.
    fully_convolutional: fc6, fc7 and fc8 as convolutions over the cells: (N, num_classes, h, w) for larger images.
    """

    name: ClassVar[str]

    def __init__(
        self,
        num_classes: int = 1000,
        width: int = 64,
        fc_width: int | None = None,
        in_channels: int = 3,
        *,
        geometry: str = "paper",
        dropout: float = 0.5,
        fully_convolutional: bool = False,
        batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        if geometry not in VGG_GEOMETRIES:
            known = ", ".join(VGG_GEOMETRIES)
            raise UsageError(f"{type(self).__name__}: geometry {geometry!r} is not one of {known}.")
        generator = np.random.default_rng(seed)
        self.geometry, self.ceil_pooling = geometry, geometry == "paper"
        super().__init__(DEPTHS[self.name], width, in_channels, 1, batch_norm, generator)
        fc_width = 64 * width if fc_width is None else fc_width
        check_sizes(type(self).__name__, num_classes=num_classes, fc_width=fc_width)
        cells = self.trunk[-1].out_channels
        self.fully_convolutional = fully_convolutional
        self.fc8: nn.Conv2d | nn.Linear
        if fully_convolutional:
            self._set_layer("fc6", nn.Conv2d(cells, fc_width, FC_KERNEL, generator=generator))
            self._set_layer("fc7", nn.Conv2d(fc_width, fc_width, 1, generator=generator))
            self.fc8 = nn.Conv2d(fc_width, num_classes, 1, generator=generator)
        else:
            self._set_layer("fc6", nn.Linear(cells * FC_KERNEL**2, fc_width, generator=generator))
            self._set_layer("fc7", nn.Linear(fc_width, fc_width, generator=generator))
            self.fc8 = nn.Linear(fc_width, num_classes, generator=generator)
        self.dropout = nn.Dropout(dropout, generator=np.random.default_rng([seed, 1]))
        self.architecture = {
            "name": self.name,
            "num_classes": num_classes,
            "width": width,
            "fc_width": fc_width,
            "in_channels": in_channels,
            "geometry": geometry,
            "dropout": dropout,
            "fully_convolutional": fully_convolutional,
            "batch_norm": batch_norm,
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)["pool5"]
        if not self.fully_convolutional:
            x = self._in_the_middle(x) if self.geometry == "paper" else average_cells(x, FC_KERNEL)
            x = ops.reshape(x, (x.shape[0], -1))  # (N, C, 7, 7) -> (N, C·7·7)
        x = self.dropout(self._activate("fc6", x))
        x = self.dropout(self._activate("fc7", x))
        return self.fc8(x)

    def _in_the_middle(self, x: Tensor) -> Tensor:
        """(N, C, h, w) with h, w ≤ 7 -> (N, C, 7, 7), the cells in the middle of zeros."""
        spare = [FC_KERNEL - size for size in x.shape[2:]]
        if min(spare) < 0:
            raise ShapeError(
                f"{type(self).__name__}: the image gives {tuple(x.shape[2:])} cells, but the dense layers take "
                f"{FC_KERNEL}×{FC_KERNEL} (224 pixels). Crop it, or use surgery.fully_convolutional."
            )
        if max(spare) > 0:
            x = ops.pad(x, [(room // 2, room - room // 2) for room in spare])
        return x


def average_cells(x: Tensor, cells: int) -> Tensor:
    """Adaptive average pooling, (N, C, h, w) -> (N, C, cells, cells): cell i is the mean of rows ⌊i·h/cells⌋ up to, but
    not including, ⌈(i+1)·h/cells⌉, and so for columns. A linear map of each axis: y = A_h x A_wᵀ.
    """
    rows, columns = (Tensor(_averaging(size, cells).astype(x.dtype), device=x.device) for size in x.shape[2:])
    return ops.matmul(ops.matmul(rows, x), ops.transpose(columns, 0, 1))


def _averaging(size: int, cells: int) -> np.ndarray:
    """The matrix (cells, size) whose row i averages the i-th of `cells` overlapping stretches."""
    matrix = np.zeros((cells, size))
    for cell in range(cells):
        start, end = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, start:end] = 1 / (end - start)
    return matrix


class VGG11(VGG):
    """VGG with 8 convolutions and 3 dense layers (configuration A)."""

    name = "vgg11"


class VGG13(VGG):
    """VGG with 10 convolutions and 3 dense layers (configuration B)."""

    name = "vgg13"


class VGG16(VGG):
    """VGG with 13 convolutions and 3 dense layers (configuration D); 138,357,544 parameters as published."""

    name = "vgg16"


class VGG19(VGG):
    """VGG with 16 convolutions and 3 dense layers (configuration E)."""

    name = "vgg19"
