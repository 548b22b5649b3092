"""An FCN of minifcn in Chainer: the same weights, connected in the same way by Chainer's functions.

Chainer pools with windows that hang over the edge (cover_all) and leaves out labels, as an FCN needs. Dropout is left
out (the cases have none).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minifcn import nn
from minifcn.benchmarking import minifcn_side
from minifcn.benchmarking.cases import TRAINING, WATCHED, Case
from minifcn.benchmarking.side import Workload
from minifcn.data import VOID
from minifcn.ops.geometry import pair


def network_workload(chainer: Any, case: Case, arrays: Mapping[str, np.ndarray]) -> Workload:
    """The pass of a case: the scores, or a training step with the loss and the gradient that is compared."""
    network = ChainerNetwork(chainer, minifcn_side.make_network(case))
    x = arrays["input"]
    if case.pass_ != TRAINING:

        def predict() -> dict[str, Any]:
            with chainer.using_config("train", False), chainer.no_backprop_mode():
                return {"output": network(x).data}

        return predict

    labels, optimizer = arrays["labels"].astype(np.int32), network.make_optimizer(case)
    watched = network.parameters[WATCHED]

    def train() -> dict[str, Any]:
        network.link.cleargrads()
        with chainer.using_config("train", True):
            loss = chainer.functions.softmax_cross_entropy(network(x), labels, ignore_label=VOID)
        loss.backward()
        outputs = {"loss": loss.data, WATCHED: watched.grad.copy()}
        optimizer.update()
        return outputs

    return train


class ChainerNetwork:
    """parameters: by minifcn's names, chainer.Parameter, or plain arrays where they are fixed."""

    def __init__(self, chainer: Any, model: Any) -> None:
        self.chainer, self.functions, self.model = chainer, chainer.functions, model
        self.layers = dict(model.named_modules())
        self.parameters: dict[str, Any] = {}
        self.link = chainer.Link()
        with self.link.init_scope():
            for name, parameter in model.named_parameters():
                value = np.array(parameter.numpy())
                if parameter.requires_grad:
                    value = chainer.Parameter(value)
                    setattr(self.link, name.replace(".", "_"), value)
                self.parameters[name] = value

    def make_optimizer(self, case: Case) -> Any:
        """The same groups as training.paper_groups: biases at twice the rate, without decay.

        Chainer's Adam adds ε before it corrects for the start from zero, so that later steps differ a little; they take
        the same time.
        """
        adam = case.optimizer == "adam"
        rate = "alpha" if adam else "lr"
        lr = minifcn_side.ADAM_LR if adam else minifcn_side.SGD_LR
        optimizers = self.chainer.optimizers
        rule = optimizers.Adam(alpha=lr) if adam else optimizers.MomentumSGD(lr, minifcn_side.SGD_MOMENTUM)
        optimizer = rule.setup(self.link)
        for name, parameter in self.link.namedparams():
            if name.endswith("_bias"):
                setattr(parameter.update_rule.hyperparam, rate, 2 * lr)
            elif not adam:
                parameter.update_rule.add_hook(self.chainer.optimizer_hooks.WeightDecay(minifcn_side.SGD_DECAY))
        return optimizer

    def __call__(self, x: Any) -> Any:
        return minifcn_side.connect(self.model, x, self._pool, self._activate, self._apply)

    def _pool(self, x: Any) -> Any:
        return self.functions.max_pooling_2d(x, 2, cover_all=True)

    def _activate(self, name: str, x: Any) -> Any:
        y = self._apply(name, x)
        return self.functions.relu(self._apply(f"{name}_bn", y) if self.model.batch_norm else y)

    def _apply(self, name: str, x: Any) -> Any:
        layer, weight = self.layers[name], self.parameters[f"{name}.weight"]
        bias = self.parameters.get(f"{name}.bias")
        if isinstance(layer, nn.BatchNorm2d):
            mean, variance = layer.running_mean, layer.running_var
            if not self.chainer.config.train:
                return self.functions.fixed_batch_normalization(x, weight, bias, mean, variance, eps=layer.eps)
            running = {"running_mean": mean, "running_var": variance, "decay": 1 - layer.momentum}
            return self.functions.batch_normalization(x, weight, bias, eps=layer.eps, **running)
        convolve = self.functions.convolution_2d if isinstance(layer, nn.Conv2d) else self.functions.deconvolution_2d
        stride, padding = pair("stride", layer.stride, minimum=1), pair("padding", layer.padding, minimum=0)
        return convolve(x, weight, bias, stride=stride, pad=padding)
