"""FCN-8s on the engine of the lessons, and so on the operations of `course.mine`: yours where you have solved them.

Its parameters have the paper's names, so it takes over the weights of the library's FCN8s. It has no dropout and no
batch normalisation, and is meant to be narrow: a few channels where VGG16 has 64.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from course import mine
from course.engine import Tensor, conv2d, max_pool2d, relu

BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # VGG16: channels in multiples of the width, number of convolutions
UPSAMPLINGS = {"upscore2": 2, "upscore_pool4": 2, "upscore8": 8}  # by name: the stride; the kernel is twice as large
GEOMETRIES = {  # padding of conv1_1, of fc6, and whether upsampling has padding stride/2
    "paper": (100, 0, False),
    "same": (1, 3, True),
}


class FCN8s:
    """network(x) with x (N, in_channels, H, W) gives logits (N, num_classes, H, W), for any H and W.

    parameters: its weights and biases, by the paper's names. The score layers start at zero and upsampling
    starts bilinear; all other weights are random.
    """

    def __init__(
        self,
        num_classes: int,
        width: int,
        fc_width: int,
        in_channels: int = 3,
        *,
        geometry: str = "same",
        dtype: Any = np.float32,
        seed: int = 0,
    ) -> None:
        generator = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.parameters: dict[str, Tensor] = {}
        self.conv1_padding, self.fc6_padding, centred = GEOMETRIES[geometry]
        self.paddings = tuple(stride // 2 if centred else 0 for stride in UPSAMPLINGS.values())
        self.crops = self._derive_crops()

        channels = {0: in_channels}  # after each block
        for block, (widening, depth) in enumerate(BLOCKS, start=1):
            channels[block] = widening * width
            for number in range(1, depth + 1):
                seen = channels[block - 1] if number == 1 else channels[block]
                self._add_convolution(f"conv{block}_{number}", (channels[block], seen, 3, 3), generator)
        self._add_convolution("fc6", (fc_width, channels[5], 7, 7), generator)
        self._add_convolution("fc7", (fc_width, fc_width, 1, 1), generator)
        for name, seen in (("score_fr", fc_width), ("score_pool4", channels[4]), ("score_pool3", channels[3])):
            self._add_convolution(name, (num_classes, seen, 1, 1), None)
        for name, stride in UPSAMPLINGS.items():
            weight = np.zeros((num_classes, num_classes, 2 * stride, 2 * stride))
            weight[np.arange(num_classes), np.arange(num_classes)] = mine.bilinear_kernel(2 * stride)
            self.parameters[f"{name}.weight"] = Tensor(weight.astype(self.dtype))

    def __call__(self, x: Tensor) -> Tensor:
        filters = [self.parameters[f"{name}.weight"] for name in UPSAMPLINGS]
        return mine.decoder(*self.scores(x), filters, x.shape[2:], crops=self.crops, paddings=self.paddings)

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the three score layers say, score_fr, score_pool4 and score_pool3: what the decoder takes."""
        pools = {}
        for block, (_, depth) in enumerate(BLOCKS, start=1):
            for number in range(1, depth + 1):
                padding = self.conv1_padding if (block, number) == (1, 1) else 1
                x = relu(self._convolve(f"conv{block}_{number}", x, padding))
            x = pools[block] = max_pool2d(x, (2, 2), stride=2, ceil_mode=True)
        x = relu(self._convolve("fc6", x, self.fc6_padding))
        x = relu(self._convolve("fc7", x))
        score_fr = self._convolve("score_fr", x)
        return score_fr, self._convolve("score_pool4", pools[4]), self._convolve("score_pool3", pools[3])

    def take_over(self, state: Mapping[str, np.ndarray]) -> list[str]:
        """Copy arrays into the parameters of the same names; returns the names of those that stay as they were.

        An array that fits no parameter is an error: what is not copied must not go unnoticed.
        """
        for name, array in state.items():
            own = self.parameters.get(name)
            if own is None or own.shape != array.shape:
                has = "no such parameter" if own is None else f"the shape {own.shape}"
                raise ValueError(f"take_over: {name} has the shape {array.shape}, but the network has {has}.")
        for name, array in state.items():
            self.parameters[name].data = np.array(array, dtype=self.dtype)
        return [name for name in self.parameters if name not in state]

    def learned(self) -> list[Tensor]:
        """The parameters that training changes: all but the last upsampling, which stays bilinear, as in the paper."""
        return [parameter for name, parameter in self.parameters.items() if name != "upscore8.weight"]

    def _add_convolution(self, name: str, shape: tuple[int, ...], generator: np.random.Generator | None) -> None:
        """A weight of this shape and a bias: random of variance 2 / (inputs of a sum), or zero without a generator."""
        weight = (
            np.zeros(shape) if generator is None else generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        )
        self.parameters[f"{name}.weight"] = Tensor(weight.astype(self.dtype))
        self.parameters[f"{name}.bias"] = Tensor(np.zeros(shape[0], self.dtype))

    def _convolve(self, name: str, x: Tensor, padding: int = 0) -> Tensor:
        return conv2d(x, self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"], padding=padding)

    def _derive_crops(self) -> tuple[int, ...]:
        """Where the upsampled scores begin in score_pool4, in score_pool3, and the image in the last map; lesson 11."""
        path, skips = [], {}
        for block, (_, depth) in enumerate(BLOCKS, start=1):
            first = self.conv1_padding if block == 1 else 1
            path += [_window(3, 1, first), *[_window(3, 1, 1)] * (depth - 1), _window(2, 2, 0)]
            skips[block] = mine.compose(path)
        path.append(_window(7, 1, self.fc6_padding))
        starts = []
        for block, stride, padding in zip((4, 3, None), UPSAMPLINGS.values(), self.paddings, strict=True):
            path.append(_transposed(2 * stride, stride, padding))
            scale, offset = mine.compose(path)
            # a skip is cropped to where the scores begin, the last map to where the image begins, at 0
            starts.append((offset - skips[block][1]) / scale if block else -offset / scale)
        return tuple(round(start) for start in starts)


def _window(kernel_size: int, stride: int, padding: int) -> tuple[Fraction, Fraction]:
    """The coordinate map (scale, offset) of a convolution or a pooling along one axis."""
    return Fraction(stride), Fraction(kernel_size - 1, 2) - padding


def _transposed(kernel_size: int, stride: int, padding: int) -> tuple[Fraction, Fraction]:
    """That of a transposed convolution: the inverse."""
    scale, offset = _window(kernel_size, stride, padding)
    return 1 / scale, -offset / scale
