"""FCN-Basic: the small fully convolutional network with which the SegNet paper compares its own.

Four convolutions of 7×7 and 64 channels, each normalised over the batch and pooled, see 106 pixels of the image. On
the way up, transposed convolutions double the class scores four times, and after each but the last the scores of the
encoder's map of that size are added: the FCN's decoder, with skips from every pooling.

Source: Badrinarayanan, Kendall and Cipolla 2017, section 3.1; that the pooled maps are added, as in FCN, says figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from minifcn import nn, ops
from minifcn.autograd.tensor import Tensor
from minifcn.errors import ShapeError, UsageError
from minifcn.models.fcn import SKIPS, zero_score
from minifcn.models.vgg import BaseNetwork, check_sizes

LEVELS = (1, 2, 3, 4)  # encoders, from the image down
KERNEL_SIZE = 7
UPSAMPLING_KERNEL = 8  # with stride 2 and padding 3, exactly twice the size
UPSAMPLING = ("all", "none")


class FCNBasic(BaseNetwork):
    """(N, in_channels, H, W) -> (N, num_classes, H, W), any H and W from 1 up.

    num_classes: background included. width: channels of every convolution (64 as published).
    skips: "add" adds the scores of pool3, pool2 and pool1 on the way up; "none" leaves them out.
    learned_upsampling: "all" learns the transposed convolutions, which start bilinear; "none" keeps them so.
    batch_norm: batch normalisation after every convolution of the encoder, as published, or none.
    seed: of the initial values. Score layers start at zero, so the first loss is ln(num_classes).
    Raises UsageError for another skips or learned_upsampling, ShapeError for sizes below 1.
    """

    name: ClassVar[str] = "fcn-basic"

    def __init__(
        self,
        num_classes: int = 11,
        width: int = 64,
        in_channels: int = 3,
        *,
        skips: str = "add",
        learned_upsampling: str = "all",
        batch_norm: bool = True,
        seed: int = 0,
    ) -> None:
        check_sizes("FCNBasic", num_classes=num_classes, width=width, in_channels=in_channels)
        for name, value, known in (
            ("skips", skips, SKIPS),
            ("learned_upsampling", learned_upsampling, UPSAMPLING),
        ):
            if value not in known:
                raise UsageError(f"FCNBasic: {name} {value!r} is not one of {', '.join(known)}.")
        generator = np.random.default_rng(seed)
        self.in_channels, self.skips, self.batch_norm = in_channels, skips, batch_norm
        for level in LEVELS:
            channels = in_channels if level == 1 else width
            conv = nn.Conv2d(channels, width, KERNEL_SIZE, padding=KERNEL_SIZE // 2, generator=generator)
            self._set_layer(f"conv{level}", conv)
        for level in reversed(LEVELS):
            if level == LEVELS[-1] or skips == "add":
                setattr(self, f"score_pool{level}", zero_score(width, num_classes))
            setattr(self, f"upscore_pool{level}", _twice_as_large(num_classes, learned_upsampling == "all"))
        self.architecture = {
            "name": self.name,
            "num_classes": num_classes,
            "width": width,
            "in_channels": in_channels,
            "skips": skips,
            "learned_upsampling": learned_upsampling,
            "batch_norm": batch_norm,
        }

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ShapeError(
                f"FCNBasic: the input has shape {tuple(x.shape)}; (N, {self.in_channels}, H, W) is expected."
            )
        size, pools = x.shape[2:], {}
        for level in LEVELS:
            x = pools[level] = ops.max_pool2d(self._activate(f"conv{level}", x), 2, ceil_mode=True)
        scores = getattr(self, f"score_pool{LEVELS[-1]}")(x)
        for level in reversed(LEVELS):
            scores = getattr(self, f"upscore_pool{level}")(scores)
            # Pooling rounds up, so what was doubled may be a pixel larger than the map it came from.
            scores = ops.crop(scores, 0, pools[level - 1].shape[2:] if level > 1 else size)
            if level > 1 and self.skips == "add":
                scores = scores + getattr(self, f"score_pool{level - 1}")(pools[level - 1])
        return scores

    @staticmethod
    def count_parameters(architecture: Mapping[str, Any]) -> int:
        """How many numbers the network of this architecture has, without building it."""
        classes, width = int(architecture["num_classes"]), int(architecture.get("width", 64))
        first, others = int(architecture.get("in_channels", 3)), len(LEVELS) - 1
        extra = 4 if architecture.get("batch_norm", True) else 1  # numbers a channel, as for the other networks
        encoder = KERNEL_SIZE**2 * width * (first + others * width) + len(LEVELS) * extra * width
        scores = len(LEVELS) if architecture.get("skips", "add") == "add" else 1
        return encoder + scores * (width + 1) * classes + len(LEVELS) * (UPSAMPLING_KERNEL * classes) ** 2


def _twice_as_large(channels: int, learned: bool) -> nn.ConvTranspose2d:
    """A transposed convolution of kernel 8 that starts as bilinear interpolation, whose kernel of 4 is its middle."""
    layer = nn.ConvTranspose2d(channels, channels, UPSAMPLING_KERNEL, stride=2, padding=UPSAMPLING_KERNEL // 2 - 1)
    weight = np.zeros(layer.weight.shape, np.float32)
    weight[:, :, 2:6, 2:6] = nn.bilinear_weight(channels, 4)
    layer.weight = nn.Parameter(weight, requires_grad=learned)
    return layer
