"""Layers: operations together with the parameters they use."""

import numpy as np

from minifcn import ops
from minifcn.autograd.tensor import Tensor
from minifcn.errors import ShapeError, UsageError
from minifcn.nn.init import he_normal
from minifcn.nn.module import Module, Parameter
from minifcn.ops.geometry import Size, pair


def _generator(generator: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng(0) if generator is None else generator


class Conv2d(Module):
    """ops.conv2d with its weight (out, in/groups, kh, kw), He-normal, and bias (out,), zero.

    generator: where the initial values come from; the same fixed ones without it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        generator: np.random.Generator | None = None,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"Conv2d: groups={groups} must divide {in_channels} input and {out_channels} output channels."
            )
        kernel = pair("Conv2d: kernel_size", kernel_size, minimum=1)
        shape = (out_channels, in_channels // groups, *kernel)
        self.weight = Parameter(he_normal(shape, shape[1] * kernel[0] * kernel[1], _generator(generator)))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        return ops.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            relu=relu,
        )


class ConvTranspose2d(Module):
    """ops.conv_transpose2d with its weight (in, out, kh, kw), He-normal, and, if asked for, a bias (out,), zero.

    FCN sets the weight to `bilinear_weight` and uses no bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *,
        stride: Size = 1,
        padding: Size = 0,
        bias: bool = False,
        generator: np.random.Generator | None = None,
    ) -> None:
        kernel = pair("ConvTranspose2d: kernel_size", kernel_size, minimum=1)
        shape = (in_channels, out_channels, *kernel)
        self.weight = Parameter(he_normal(shape, in_channels * kernel[0] * kernel[1], _generator(generator)))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv_transpose2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


class BatchNorm2d(Module):
    """ops.batch_norm with its weight (C,), one, and bias (C,), zero, and the running mean, zero, and variance, one.

    In training mode the batch's own mean and variance are used, in evaluation mode the running ones. `frozen` uses
    those in training as well: for a pretrained network and batches too small to tell a variance.
    The running ones are fixed parameters, so that they are saved, loaded and moved with all others.
    """

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.running_mean = Parameter(np.zeros(channels, np.float32), requires_grad=False)
        self.running_var = Parameter(np.ones(channels, np.float32), requires_grad=False)
        self.momentum, self.eps, self.frozen = momentum, eps, False

    def freeze(self) -> None:
        """From now on normalise by the running mean and variance, and learn nothing."""
        self.frozen = True
        self.weight.requires_grad = self.bias.requires_grad = False

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        return ops.batch_norm(
            x,
            self.weight,
            self.bias,
            running_mean=self.running_mean.data,
            running_var=self.running_var.data,
            training=self.training and not self.frozen,
            momentum=self.momentum,
            eps=self.eps,
            relu=relu,
        )


class Linear(Module):
    """A dense layer, ops.linear, with its weight (out, in), He-normal, and bias (out,), zero."""

    def __init__(self, in_features: int, out_features: int, *, generator: np.random.Generator | None = None) -> None:
        self.weight = Parameter(he_normal((out_features, in_features), in_features, _generator(generator)))
        self.bias = Parameter(np.zeros(out_features, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class Dropout(Module):
    """ops.dropout in training mode, nothing in evaluation mode.

    generator: shared by the dropout layers of a network; its state belongs into a checkpoint.
    """

    def __init__(self, p: float = 0.5, *, generator: np.random.Generator | None = None) -> None:
        if not isinstance(p, int | float) or not 0 <= p <= 1:
            raise UsageError(f"Dropout: p is a probability from 0 to 1, not {p!r}.")
        self.p, self.generator = p, _generator(generator)

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.p, generator=self.generator, training=self.training)


class Dropout2d(Dropout):
    """ops.dropout2d (whole channels) in training mode, nothing in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout2d(x, self.p, generator=self.generator, training=self.training)
