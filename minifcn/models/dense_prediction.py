"""Dense prediction: a score vector for every pixel, from a network that gives one for every 32nd.

What a network says about a pixel is what it says about the window around it, R×R pixels of the image continued by
zeros, where R is its receptive field. That is one function of the window, and there are several ways to compute it:

    framed(network)(image)               for every 32nd pixel, in one pass: the fully convolutional network
    shift_and_stitch(network, image)     for every pixel, in 32² passes over shifted images, whose scores interlace
    atrous(network)(image)               for every pixel, in one pass: no strides, and the kernels that follow dilated

For this the layers must not pad. One that does shows a window how far away the edge of the image is, so that each
pixel near it has a function of its own. So the paddings are taken out, and the image gets a frame of zeros once.

Sources: Giusti et al. 2013 and Sermanet et al. 2014 (shift and stitch); Holschneider et al. 1989 (à trous, "with
holes"); Long et al. 2015, section 3.2, for their being the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from minifcn import nn, ops
from minifcn.autograd.tensor import Tensor, no_grad
from minifcn.errors import UsageError
from minifcn.models.fcn import FCN
from minifcn.models.fcn_basic import LEVELS, FCNBasic
from minifcn.models.surgery import fully_convolutional
from minifcn.models.vgg import VGG
from minifcn.ops.geometry import ConvGeometry, Size, pair
from minifcn.ops.patches import check_images
from minifcn.ops.pool import pooling_geometry

Pair = tuple[int, int]  # (height, width)
NO_FRAME = ((0, 0), (0, 0))
Network: TypeAlias = "VGG | FCN | FCNBasic | Chain"


@dataclass(frozen=True)
class Layer:
    """An operation, and where its windows lie: for a convolution, not always where it was made to lay them.

    operation: an nn.Conv2d, of which only weight, bias and groups count; ops.max_pool2d; or what sees single pixels,
    which is ops.relu and an nn.BatchNorm2d in evaluation mode.
    """

    name: str
    operation: Callable[..., Any]
    kernel_size: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False  # of a pooling: a last window may hang over the edge, which is padding too

    @classmethod
    def of_convolution(cls, name: str, layer: nn.Conv2d) -> Layer:
        """The layer as it is."""
        kernel_size, stride, padding, dilation = (
            pair(name, size, minimum=0)
            for size in (layer.weight.shape[2:], layer.stride, layer.padding, layer.dilation)
        )
        return cls(name, layer, kernel_size, stride, padding, dilation)

    def __call__(self, x: Tensor) -> Tensor:
        geometry: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        if self.operation is ops.max_pool2d:
            return ops.max_pool2d(x, self.kernel_size, ceil_mode=self.ceil_mode, **geometry)
        if isinstance(self.operation, nn.Conv2d):
            conv = self.operation
            return ops.conv2d(x, conv.weight, conv.bias, groups=conv.groups, **geometry)
        return self.operation(x)

    def output_size(self, size: Pair) -> Pair:
        """(height, width) of what it makes of a map of this size; ShapeError if no window fits."""
        kernel_size, stride, padding, dilation = self.kernel_size, self.stride, self.padding, self.dilation
        if self.operation is ops.max_pool2d:
            return pooling_geometry(size, kernel_size, stride, padding, dilation, self.ceil_mode).output_size
        return ConvGeometry.of_convolution(self.name, size, kernel_size, stride, padding, dilation).output_size


class Chain(nn.Module):
    """Layers one after the other, on an image in a frame of zeros: (N, C, H, W) -> (N, K, h, w).

    frame: the rows of zeros ((above, below), (left of it, right of it)).
    The layers' parameters are its own, under the layers' names; they are shared with whatever else uses them.
    """

    def __init__(self, layers: Sequence[Layer], frame: tuple[Pair, Pair] = NO_FRAME) -> None:
        self.layers, self.frame = tuple(layers), frame
        for layer in self.layers:
            if isinstance(layer.operation, nn.Module):
                setattr(self, layer.name, layer.operation)

    @classmethod
    def of(cls, network: Network) -> Chain:
        """A network from the image to its coarsest scores, as it is, paddings included; dropout is left out.

        Of a VGG to fc8, with dense layers as convolutions (`surgery.fully_convolutional`: these are copies). Of an FCN
        to score_fr, of FCN-Basic to score_pool4: no skips and no upsampling.
        """
        if isinstance(network, Chain):
            return network
        if isinstance(network, VGG):
            network = network if network.fully_convolutional else fully_convolutional(network)
            return cls([*_vgg_layers(network), _convolution(network, "fc8")])
        if isinstance(network, FCN):
            return cls([*_vgg_layers(network), _convolution(network, "score_fr")])
        if isinstance(network, FCNBasic):
            return cls([*_basic_layers(network), _convolution(network, f"score_pool{LEVELS[-1]}")])
        raise UsageError(
            f"dense prediction: {type(network).__name__} is neither a VGG nor an FCN; put its layers into a Chain."
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.frame == NO_FRAME else ops.pad(x, self.frame)
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def stride(self) -> Pair:
        """Pixels of the image from one score to the next: how much coarser the scores are."""
        return self._along(0)[0], self._along(1)[0]

    @property
    def receptive_field(self) -> Pair:
        """Rows and columns of the image that one score depends on."""
        return self._along(0)[1], self._along(1)[1]

    def _along(self, axis: int) -> Pair:
        """Stride and receptive field. A step of a layer is as many pixels as the strides before it multiply to."""
        stride = field = 1
        for layer in self.layers:
            field += layer.dilation[axis] * (layer.kernel_size[axis] - 1) * stride
            stride *= layer.stride[axis]
        return stride, field


def _vgg_layers(network: VGG | FCN) -> Iterator[Layer]:
    """conv1_1 to fc7."""
    for layer in network.trunk:
        if layer.pooling:
            yield Layer(layer.name, ops.max_pool2d, (2, 2), (2, 2), ceil_mode=network.ceil_pooling)
        else:
            yield from _activated(network, layer.name)
    yield from _activated(network, "fc6")
    yield from _activated(network, "fc7")


def _basic_layers(network: FCNBasic) -> Iterator[Layer]:
    """conv1 to pool4."""
    for level in LEVELS:
        yield from _activated(network, f"conv{level}")
        yield Layer(f"pool{level}", ops.max_pool2d, (2, 2), (2, 2), ceil_mode=True)


def _convolution(network: nn.Module, name: str) -> Layer:
    return Layer.of_convolution(name, getattr(network, name))


def _activated(network: nn.Module, name: str) -> Iterator[Layer]:
    """A convolution, its batch normalisation if there is one, ReLU."""
    yield _convolution(network, name)
    if hasattr(network, f"{name}_bn"):
        yield Layer(f"{name}_bn", getattr(network, f"{name}_bn"))
    yield Layer(f"{name}_relu", ops.relu)


def unpadded(network: Network) -> Chain:
    """The network without padding, in the layers or around the image: a function of windows.

    (N, C, R, R) -> (N, K, 1, 1) with R the receptive field, and a map of scores for larger images. Weights are shared.
    Raises UsageError for batch normalisation in training mode, where a score depends on all windows of the batch.
    """
    layers = Chain.of(network).layers
    for layer in layers:
        norm = layer.operation
        if isinstance(norm, nn.BatchNorm2d) and norm.training and not norm.frozen:
            raise UsageError(
                f"dense prediction: {layer.name} is in training mode and normalises by the mean of all windows, so "
                "that no window has scores of its own; call .eval() on the network first."
            )
    return Chain([replace(layer, padding=(0, 0), ceil_mode=False) for layer in layers])


def framed(network: Network) -> Chain:
    """The unpadded network on an image in a frame of R − 1 zeros: (N, C, H, W) -> (N, K, ⌈H/s⌉, ⌈W/s⌉) for stride s.

    Score (i, j) belongs to the pixel (s·i, s·j) and is what the window around it gets. Around pixel (y, x) that is the
    rows from y − ⌊(R−1)/2⌋ to y + ⌊R/2⌋, and likewise columns. An odd R has the pixel in its middle; for an even one,
    such as VGG16's 404, the middle lies half a pixel further down and right.
    """
    chain = unpadded(network)
    return Chain(chain.layers, frame_of_windows(chain.receptive_field))


def frame_of_windows(size: Pair) -> tuple[Pair, Pair]:
    """What to add to an image, ((above, below), (left, right)), so that every pixel has a window of this size."""
    height, width = size
    return ((height - 1) // 2, height // 2), ((width - 1) // 2, width // 2)


def shift_and_stitch(network: Network, image: Tensor) -> Tensor:
    """Scores of every pixel from a network of stride s, run on s² shifted images: (N, C, H, W) -> (N, K, H, W).

    Shifted by (i, j), the image gives the scores of the pixels (i, j), (i + s, j), …: each s-th row and column of the
    result, with no gap and no overlap. Which window a pixel has, and what it sees beyond the edge, is said at `framed`.
    For prediction: nothing is recorded. Raises UsageError as `unpadded` does.
    """
    check_images("shift_and_stitch", image)
    network = framed(network)
    windows, (step_h, step_w), (height, width) = Chain(network.layers), network.stride, image.shape[2:]
    stitched: Any = None
    with no_grad():
        padded = ops.pad(image, network.frame)
        for i, j in np.ndindex(min(step_h, height), min(step_w, width)):
            shifted = ops.crop(padded, (i, j), (padded.shape[2] - i, padded.shape[3] - j))
            scores = windows(shifted).data  # (N, K, ⌈(H − i)/s⌉, ⌈(W − j)/s⌉)
            if stitched is None:
                stitched = image.backend.xp.empty((*scores.shape[:2], height, width), scores.dtype)
            stitched[:, :, i::step_h, j::step_w] = scores
    return Tensor(stitched, device=image.device)


def atrous(network: Network) -> Chain:
    """The same network with every stride removed and all later kernels dilated by it: (N, C, H, W) -> (N, K, H, W).

    Without a stride of 2 there are twice as many rows, and those that a later kernel saw side by side lie two apart;
    dilation 2 makes it see them again. So its scores are those of shift-and-stitch, in one pass that computes no
    shallow layer twice. It shares the network's weights, and can be trained.
    """
    layers, spread = [], (1, 1)
    for layer in unpadded(network).layers:
        layers.append(replace(layer, stride=(1, 1), dilation=_times(layer.dilation, spread)))
        spread = _times(spread, layer.stride)
    return framed(Chain(layers))


def _times(one: Pair, other: Pair) -> Pair:
    return one[0] * other[0], one[1] * other[1]


def multiply_adds(network: Network, image_size: Size) -> int:
    """Multiplications (each with its addition) of all convolutions for one image of this size; products with the zeros
    of a padding count, as everywhere in the field. Biases, batch normalisation, ReLU and pooling do not.

    A network is counted as far as `Chain.of` goes, as it is; `framed`, `atrous` or `unpadded` ones likewise.
    Raises ShapeError if the image is smaller than a window.
    """
    chain, count = Chain.of(network), 0
    height, width = pair("multiply_adds: image_size", image_size, minimum=1)
    size = height + sum(chain.frame[0]), width + sum(chain.frame[1])
    for layer in chain.layers:
        size = layer.output_size(size)
        if isinstance(layer.operation, nn.Conv2d):
            count += layer.operation.weight.size * size[0] * size[1]  # (out, in/groups, kh, kw) at every position
    return count
