"""Small networks for tests: filled with random numbers, or with weights whose effect is known."""

from typing import Any

import numpy as np
from devices import on_device

from minifcn.nn import Module, bilinear_weight


def fill(model: Any, seed: int = 0) -> Any:
    """Every parameter random, biases and score layers and off-diagonal upsampling weights too; float64.

    Biases are positive, so that the ReLUs of a network two channels wide do not all die; batch normalisation has seen
    variances, and has learnt scales, from 0.5 to 2.
    """
    generator = np.random.default_rng(seed)
    model.astype(np.float64)
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        if name.startswith("upscore"):
            noise = generator.normal(size=shape)
            parameter.data = on_device(bilinear_weight(shape[0], shape[2]).astype(float) + 0.1 * noise)
        elif name.endswith(("_bn.weight", ".running_var")):
            parameter.data = on_device(generator.uniform(0.5, 2, shape))
        elif name.endswith(".bias"):
            parameter.data = on_device(generator.uniform(0.1, 0.5, shape))
        else:
            parameter.data = on_device(generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:])))
    return model


def pass_through(model: Module, path: str) -> Any:
    """One channel, every convolution handing its input on, so that only pooling and upsampling act.

    path: the one score layer that lets anything through.
    """
    for name, parameter in model.named_parameters():
        layer, _, kind = name.partition(".")
        if layer.startswith("upscore"):
            continue
        parameter.data[...] = 0
        if kind == "weight" and (not layer.startswith("score") or layer == path):
            middle = parameter.shape[2] // 2
            parameter.data[0, 0, middle, middle] = 1
    return model.eval()
