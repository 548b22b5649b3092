"""VGG and FCN a second time, in plain PyTorch functions: what the parity tests compare with.

Nothing is derived or configured here: every padding, stride and crop is written out as the released networks have it
(Shelhamer et al. 2017 and its prototxt files), so that the two can only agree by both being right.
`p` holds the parameters by name, as torch tensors.
"""

from collections.abc import Mapping

import torch
from torch.nn import functional as F

Parameters = Mapping[str, torch.Tensor]

VGG11 = "conv1_1 pool conv2_1 pool conv3_1 conv3_2 pool conv4_1 conv4_2 pool conv5_1 conv5_2 pool"
VGG13 = """conv1_1 conv1_2 pool conv2_1 conv2_2 pool conv3_1 conv3_2 pool conv4_1 conv4_2 pool
    conv5_1 conv5_2 pool"""
VGG16 = """conv1_1 conv1_2 pool conv2_1 conv2_2 pool conv3_1 conv3_2 conv3_3 pool conv4_1 conv4_2 conv4_3 pool
    conv5_1 conv5_2 conv5_3 pool"""
VGG19 = """conv1_1 conv1_2 pool conv2_1 conv2_2 pool conv3_1 conv3_2 conv3_3 conv3_4 pool
    conv4_1 conv4_2 conv4_3 conv4_4 pool conv5_1 conv5_2 conv5_3 conv5_4 pool"""


def conv(p: Parameters, name: str, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
    return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=padding)


def pools(p: Parameters, x: torch.Tensor, first_padding: int, layers: str = VGG16) -> list[torch.Tensor]:
    """pool1 … pool5."""
    found = []
    for name in layers.split():
        if name == "pool":
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            found.append(x)
        else:
            x = F.relu(conv(p, name, x, first_padding if name == "conv1_1" else 1))
    return found


def vgg_dense(p: Parameters, cells: torch.Tensor) -> torch.Tensor:
    """fc6, fc7, fc8 on (N, C, 7, 7)."""
    h = F.relu(F.linear(cells.flatten(1), p["fc6.weight"], p["fc6.bias"]))
    h = F.relu(F.linear(h, p["fc7.weight"], p["fc7.bias"]))
    return F.linear(h, p["fc8.weight"], p["fc8.bias"])


def coarse_scores(p: Parameters, pool5: torch.Tensor, fc6_padding: int) -> torch.Tensor:
    h = F.relu(conv(p, "fc6", pool5, fc6_padding))
    return conv(p, "score_fr", F.relu(conv(p, "fc7", h)))


def up(p: Parameters, name: str, x: torch.Tensor, stride: int, padding: int = 0) -> torch.Tensor:
    return F.conv_transpose2d(x, p[f"{name}.weight"], stride=stride, padding=padding)


def crop(x: torch.Tensor, start: int, like: torch.Tensor) -> torch.Tensor:
    return x[:, :, start : start + like.shape[2], start : start + like.shape[3]]


def fcn_paper(net: str, p: Parameters, image: torch.Tensor) -> torch.Tensor:
    """Pad 100, no other padding from fc6 on, and the crops 19; 5, 27; 5, 9, 31. The *skip* is cropped to the scores."""
    _, _, pool3, pool4, pool5 = pools(p, image, 100)
    scores = coarse_scores(p, pool5, 0)
    if net == "fcn32s":
        return crop(up(p, "upscore", scores, 32), 19, image)
    scale4, scale3 = (0.01, 0.0001) if net == "fcn8s-at-once" else (1, 1)
    scores = up(p, "upscore2", scores, 2)
    scores = scores + crop(conv(p, "score_pool4", pool4 * scale4), 5, scores)
    if net == "fcn16s":
        return crop(up(p, "upscore16", scores, 16), 27, image)
    scores = up(p, "upscore_pool4", scores, 2)
    scores = scores + crop(conv(p, "score_pool3", pool3 * scale3), 9, scores)
    return crop(up(p, "upscore8", scores, 8), 31, image)


def fcn_same(net: str, p: Parameters, image: torch.Tensor) -> torch.Tensor:
    """Pad 1 and 3; upsampling with padding stride/2. The *scores* are cropped, from 0, to the skip or the image."""
    _, _, pool3, pool4, pool5 = pools(p, image, 1)
    scores = coarse_scores(p, pool5, 3)
    if net == "fcn32s":
        return crop(up(p, "upscore", scores, 32, 16), 0, image)
    scale4, scale3 = (0.01, 0.0001) if net == "fcn8s-at-once" else (1, 1)
    skip = conv(p, "score_pool4", pool4 * scale4)
    scores = crop(up(p, "upscore2", scores, 2, 1), 0, skip) + skip
    if net == "fcn16s":
        return crop(up(p, "upscore16", scores, 16, 8), 0, image)
    skip = conv(p, "score_pool3", pool3 * scale3)
    scores = crop(up(p, "upscore_pool4", scores, 2, 1), 0, skip) + skip
    return crop(up(p, "upscore8", scores, 8, 4), 0, image)
