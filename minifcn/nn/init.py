"""Initial values."""

import math
from collections.abc import Sequence

import numpy as np


def he_normal(shape: Sequence[int], fan_in: int, generator: np.random.Generator) -> np.ndarray:
    """Normal numbers of variance 2 / fan_in, float32.

    Each output adds fan_in products; ReLU lets through half of the variance, hence the 2: signals neither fade nor
    grow from layer to layer. Source: He et al. 2015, section 2.2.
    """
    values = generator.standard_normal(tuple(shape), dtype=np.float32)
    values *= np.float32(math.sqrt(2 / fan_in))
    return values


def bilinear_filter(kernel_size: int) -> np.ndarray:
    """The (k, k) float64 kernel with which a transposed convolution of stride ⌈k/2⌉ interpolates linearly.

    A tent: 1 at the centre, falling linearly to 0 one stride away, in both directions. With k = 2·stride each output
    pixel is a weighted mean of its nearest inputs, and the filter's sum is stride².
    Source: Long et al. 2015, where upsampling starts as bilinear interpolation.
    """
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    tent = 1 - np.abs(np.arange(kernel_size) - center) / factor
    return np.outer(tent, tent)


def bilinear_weight(channels: int, kernel_size: int) -> np.ndarray:
    """A float32 (channels, channels, k, k) weight that enlarges each channel by itself: bilinear on the diagonal."""
    weight = np.zeros((channels, channels, kernel_size, kernel_size), np.float32)
    weight[np.arange(channels), np.arange(channels)] = bilinear_filter(kernel_size)
    return weight
