"""VGG, FCN and FCN-Basic a second time, in plain PyTorch functions: what the parity tests compare with.

Nothing is derived or configured here: every padding, stride and crop is written out as the released networks have it
(Shelhamer et al. 2017 and its prototxt files), so that the two can only agree by both being right.
`p` holds the parameters by name, as torch tensors; what is not in it, a network does not have: biases, batch
normalisation, score layers of skips. Without its running statistics, batch normalisation takes the batch's own.
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
    return F.conv2d(x, p[f"{name}.weight"], p.get(f"{name}.bias"), padding=padding)


def relu(p: Parameters, name: str, x: torch.Tensor) -> torch.Tensor:
    """After the batch normalisation of this layer, if it has one."""
    if f"{name}_bn.weight" in p:
        mean, variance = p.get(f"{name}_bn.running_mean"), p.get(f"{name}_bn.running_var")
        x = F.batch_norm(x, mean, variance, p[f"{name}_bn.weight"], p[f"{name}_bn.bias"], training=mean is None)
    return F.relu(x)


def pools(p: Parameters, x: torch.Tensor, first_padding: int, layers: str = VGG16) -> list[torch.Tensor]:
    """pool1 … pool5."""
    found = []
    for name in layers.split():
        if name == "pool":
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            found.append(x)
        else:
            x = relu(p, name, conv(p, name, x, first_padding if name == "conv1_1" else 1))
    return found


def vgg_dense(p: Parameters, cells: torch.Tensor) -> torch.Tensor:
    """fc6, fc7, fc8 on (N, C, 7, 7)."""
    h = relu(p, "fc6", F.linear(cells.flatten(1), p["fc6.weight"], p.get("fc6.bias")))
    h = relu(p, "fc7", F.linear(h, p["fc7.weight"], p.get("fc7.bias")))
    return F.linear(h, p["fc8.weight"], p["fc8.bias"])


def coarse_scores(p: Parameters, pool5: torch.Tensor, fc6_padding: int) -> torch.Tensor:
    h = relu(p, "fc6", conv(p, "fc6", pool5, fc6_padding))
    return conv(p, "score_fr", relu(p, "fc7", conv(p, "fc7", h)))


def up(p: Parameters, name: str, x: torch.Tensor, stride: int, padding: int = 0) -> torch.Tensor:
    return F.conv_transpose2d(x, p[f"{name}.weight"], stride=stride, padding=padding)


def crop(x: torch.Tensor, start: int, like: torch.Tensor) -> torch.Tensor:
    return x[:, :, start : start + like.shape[2], start : start + like.shape[3]]


def fcn_paper(net: str, p: Parameters, image: torch.Tensor) -> torch.Tensor:
    """Pad 100, no other padding from fc6 on; the crops 19; 5, 27; 5, 9, 31; 5, 9, 17, 33; 5, 9, 17, 33, 34. The *skip*
    is cropped to the scores."""

    def fused(scores: torch.Tensor, skip: str, features: torch.Tensor, start: int) -> torch.Tensor:
        return scores + crop(conv(p, skip, features), start, scores) if f"{skip}.weight" in p else scores

    pool1, pool2, pool3, pool4, pool5 = pools(p, image, 100)
    scores = coarse_scores(p, pool5, 0)
    if net == "fcn32s":
        return crop(up(p, "upscore", scores, 32), 19, image)
    scale4, scale3 = (0.01, 0.0001) if net == "fcn8s-at-once" else (1, 1)
    scores = fused(up(p, "upscore2", scores, 2), "score_pool4", pool4 * scale4, 5)
    if net == "fcn16s":
        return crop(up(p, "upscore16", scores, 16), 27, image)
    scores = fused(up(p, "upscore_pool4", scores, 2), "score_pool3", pool3 * scale3, 9)
    if net in ("fcn4s", "fcn2s"):
        scores = fused(up(p, "upscore_pool3", scores, 2), "score_pool2", pool2, 17)
    if net == "fcn4s":
        return crop(up(p, "upscore4", scores, 4), 33, image)
    if net == "fcn2s":
        scores = fused(up(p, "upscore_pool2", scores, 2), "score_pool1", pool1, 33)
        return crop(up(p, "upscore_pool1", scores, 2), 34, image)
    return crop(up(p, "upscore8", scores, 8), 31, image)


def fcn_same(net: str, p: Parameters, image: torch.Tensor) -> torch.Tensor:
    """Pad 1 and 3; upsampling with padding stride/2. The *scores* are cropped, from 0, to the skip or the image."""

    def fused(scores: torch.Tensor, skip: str, features: torch.Tensor) -> torch.Tensor:
        return crop(scores, 0, features) + conv(p, skip, features) if f"{skip}.weight" in p else scores

    pool1, pool2, pool3, pool4, pool5 = pools(p, image, 1)
    scores = coarse_scores(p, pool5, 3)
    if net == "fcn32s":
        return crop(up(p, "upscore", scores, 32, 16), 0, image)
    scale4, scale3 = (0.01, 0.0001) if net == "fcn8s-at-once" else (1, 1)
    scores = fused(up(p, "upscore2", scores, 2, 1), "score_pool4", pool4 * scale4)
    if net == "fcn16s":
        return crop(up(p, "upscore16", scores, 16, 8), 0, image)
    scores = fused(up(p, "upscore_pool4", scores, 2, 1), "score_pool3", pool3 * scale3)
    if net in ("fcn4s", "fcn2s"):
        scores = fused(up(p, "upscore_pool3", scores, 2, 1), "score_pool2", pool2)
    if net == "fcn4s":
        return crop(up(p, "upscore4", scores, 4, 2), 0, image)
    if net == "fcn2s":
        scores = fused(up(p, "upscore_pool2", scores, 2, 1), "score_pool1", pool1)
        return crop(up(p, "upscore_pool1", scores, 2, 1), 0, image)
    return crop(up(p, "upscore8", scores, 8, 4), 0, image)


def fcn_basic(p: Parameters, image: torch.Tensor) -> torch.Tensor:
    """Four times 7×7 convolution with padding 3, ReLU and pooling; and up again, doubled and cropped to each map."""
    pool1 = F.max_pool2d(relu(p, "conv1", conv(p, "conv1", image, 3)), 2, 2, ceil_mode=True)
    pool2 = F.max_pool2d(relu(p, "conv2", conv(p, "conv2", pool1, 3)), 2, 2, ceil_mode=True)
    pool3 = F.max_pool2d(relu(p, "conv3", conv(p, "conv3", pool2, 3)), 2, 2, ceil_mode=True)
    pool4 = F.max_pool2d(relu(p, "conv4", conv(p, "conv4", pool3, 3)), 2, 2, ceil_mode=True)
    scores = conv(p, "score_pool4", pool4)
    for name, skip, features in (
        ("upscore_pool4", "score_pool3", pool3),
        ("upscore_pool3", "score_pool2", pool2),
        ("upscore_pool2", "score_pool1", pool1),
    ):
        scores = crop(up(p, name, scores, 2, 3), 0, features)
        if f"{skip}.weight" in p:
            scores = scores + conv(p, skip, features)
    return crop(up(p, "upscore_pool1", scores, 2, 3), 0, image)
