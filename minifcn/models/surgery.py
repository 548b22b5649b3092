"""Surgery: weights of one network put into another — classifier to fully convolutional, stage to stage.

A dense layer on a 7×7 map is a convolution whose kernel covers the map: both give Σ_{c,i,j} w[o, c, i, j] x[c, i, j].
Its weight only has to be seen as (out, C, 7, 7) instead of (out, C·7·7); then it can slide (Long et al. 2015, 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minifcn import nn
from minifcn.errors import ShapeError, WeightsError
from minifcn.models.vgg import VGG


def fc_to_conv(weight: np.ndarray, kernel_size: tuple[int, int]) -> np.ndarray:
    """The weight (out, in·kh·kw) of a dense layer as that of a convolution, (out, in, kh, kw).

    The dense layer saw its map flattened in the order (channel, row, column), so this is a plain reshape: no number
    moves. Raises ShapeError if the weight is not a dense one, or does not divide into kernels of this size.
    """
    if weight.ndim != 2:
        raise ShapeError(f"fc_to_conv: the weight has shape {weight.shape}; that of a dense layer is (out, in).")
    out_features, in_features = weight.shape
    taps = kernel_size[0] * kernel_size[1]
    if in_features % taps:
        raise ShapeError(f"fc_to_conv: {in_features} inputs do not divide into kernels of {kernel_size}.")
    return weight.reshape(out_features, in_features // taps, *kernel_size)


@dataclass(frozen=True)
class Transplant:
    """What happened to each tensor, by name."""

    copied: tuple[str, ...]
    reshaped: tuple[str, ...]  # dense weights that became convolutions
    dropped: tuple[str, ...]  # in the source only
    kept: tuple[str, ...]  # in the target only, left as they were initialised

    def __str__(self) -> str:
        rows = [
            ("copied", self.copied),
            ("reshaped to convolutions", self.reshaped),
            ("dropped", self.dropped),
            ("newly initialised", self.kept),
        ]
        return "\n".join(f"{title}: {', '.join(names) or 'none'}" for title, names in rows)


def transplant(source: Mapping[str, np.ndarray], target: nn.Module) -> Transplant:
    """Copy every tensor of `source` that `target` has by the same name, dense weights reshaped to convolutions.

    Used for both steps of the paper: classifier -> FCN-32s (trunk, fc6 and fc7 go over, fc8 is dropped, the score layer
    stays new), and FCN-32s -> 16s -> 8s (all goes over but the last upsampling; the new skip stays zero).
    Raises WeightsError if a name is common but the shapes do not fit (each listed, nothing changed), or if nothing is
    common at all, which would be a network trained from scratch by mistake.
    """
    own = dict(target.named_parameters())
    state, reshaped, problems = {}, [], []
    for name in [name for name in own if name in source]:
        value, shape = np.asarray(source[name]), tuple(own[name].shape)
        if value.ndim == 2 and len(shape) == 4 and value.shape == (shape[0], int(np.prod(shape[1:]))):
            value = fc_to_conv(value, (shape[2], shape[3]))
            reshaped.append(name)
        if value.shape != shape:
            problems.append(f"{name}: the source has shape {value.shape}, the target {shape}")
        state[name] = value
    if problems:
        raise WeightsError(
            f"transplant: {len(problems)} tensors do not fit; are width, fc_width, in_channels and the number of "
            "classes equal?\n  " + "\n  ".join(problems)
        )
    if not state:
        raise WeightsError("transplant: the two networks have no tensor name in common; nothing could be copied.")
    target.load_state_dict(state, strict=False)
    return Transplant(
        copied=tuple(name for name in state if name not in reshaped),
        reshaped=tuple(reshaped),
        dropped=tuple(name for name in source if name not in own),
        kept=tuple(name for name in own if name not in source),
    )


def fully_convolutional(classifier: VGG) -> VGG:
    """The same classifier with its dense layers as convolutions: a map of class scores, one for each 7×7 cells.

    On a 224-pixel image it gives the classifier's scores at one position; on a larger one, what the classifier's dense
    layers would say at every window of the pool5 map, for little more work than one of them.
    """
    architecture = {**classifier.architecture, "fully_convolutional": True}
    del architecture["name"]
    like = classifier.fc8.weight
    target = type(classifier)(**architecture).astype(like.dtype).to(like.device)
    transplant(classifier.state_dict(), target)
    return target.train(classifier.training)
