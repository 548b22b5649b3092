"""How a picture becomes numbers. It belongs to the weights: other numbers, other network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np

from minifcn.errors import WeightsError


@dataclass(frozen=True)
class Preprocessing:
    """(value · scale − mean) / std for each channel, in the given channel order.

    scale is 1/255 or 1; mean and std are in the units after scaling, in `channel_order`. The defaults are torchvision's
    (ImageNet's mean and standard deviation), which suit any photographs.
    """

    channel_order: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.channel_order not in ("RGB", "BGR"):
            raise WeightsError(f"preprocessing: channel_order is RGB or BGR, not {self.channel_order!r}.")
        if not all(isinstance(numbers, tuple) and len(numbers) == 3 for numbers in (self.mean, self.std)):
            raise WeightsError("preprocessing: mean and std have three numbers each, one for each channel.")
        numbers = (self.scale, *self.mean, *self.std)
        if not all(isinstance(number, Real) and abs(number) < 1e30 for number in numbers):
            raise WeightsError(f"preprocessing: scale, mean and std are finite numbers, not {numbers}.")
        if self.scale <= 0 or min(self.std) <= 0:
            raise WeightsError("preprocessing: scale and the numbers of std are above 0.")

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> float32 (3, H, W), ready for the network."""
        channels = image if self.channel_order == "RGB" else image[:, :, ::-1]
        factor = np.float32(self.scale) / np.asarray(self.std, np.float32)
        shift = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(channels.transpose(2, 0, 1)) * factor[:, None, None] - shift[:, None, None]

    def __str__(self) -> str:
        mean, std = (" ".join(f"{number:g}" for number in numbers) for numbers in (self.mean, self.std))
        scale = "0–255" if self.scale == 1 else f"scaled by {self.scale:.4g}"
        return f"{self.channel_order}, {scale}, mean {mean}, std {std}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of to_dict; what is missing takes the default. WeightsError if it makes no sense."""
        if not isinstance(values, Mapping):
            raise WeightsError(f"preprocessing: names and values are expected, not {values!r}.")
        try:
            arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**arguments)
        except TypeError as error:
            raise WeightsError(f"preprocessing: {error}.") from None


# What the published weights were trained on. It travels with the file; nobody types it.
TORCHVISION = Preprocessing()
CAFFE_VGG = Preprocessing("BGR", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))  # the VGG team's, and Keras's
CAFFE_FCN = Preprocessing("BGR", 1.0, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0))
PRESETS = {"torchvision": TORCHVISION, "caffe": CAFFE_VGG, "caffe-fcn": CAFFE_FCN}
