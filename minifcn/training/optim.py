"""Optimisers: stochastic gradient descent with momentum, and Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend, with_kernel
from minifcn.errors import ShapeError, UsageError, WeightsError
from minifcn.nn import Module

Groups = Iterable[Tensor] | Sequence[Mapping[str, Any]]
_GROUP_KEYS = ("params", "lr", "weight_decay")


class Optimizer:
    """What optimisers share: groups of parameters with their own learning rate and decay, and buffers for each.

    parameters: Tensors, or groups {"params": [...], "lr": ..., "weight_decay": ...} (missing keys take the defaults).
    Parameters with requires_grad=False, or without a gradient yet, are skipped. `lr_factor` multiplies every group's
    learning rate; schedules set it.
    """

    buffers: tuple[str, ...] = ()  # arrays kept for each parameter, by name

    def __init__(self, parameters: Groups, *, lr: float, weight_decay: float) -> None:
        members: list[Any] = list(parameters)
        groups: list[Any] = members if members and isinstance(members[0], Mapping) else [{"params": members}]
        kind = type(self).__name__
        for group in groups:
            if "params" not in group or not set(group) <= set(_GROUP_KEYS):
                raise UsageError(f"{kind}: a group has the keys {', '.join(_GROUP_KEYS)}, not {', '.join(group)}.")
        self.groups: list[dict[str, Any]] = [
            {
                "params": [parameter for parameter in group["params"] if parameter.requires_grad],
                "lr": float(group.get("lr", lr)),
                "weight_decay": float(group.get("weight_decay", weight_decay)),
            }
            for group in groups
        ]
        if not all(group["lr"] >= 0 and group["weight_decay"] >= 0 for group in self.groups):  # NaN is not
            raise UsageError(f"{kind}: lr and weight_decay are at least 0.")
        learned = [id(parameter) for parameter in self.parameters()]
        if not learned:
            raise UsageError(f"{kind}: there is no parameter with requires_grad=True to learn.")
        if len(set(learned)) < len(learned):
            raise UsageError(f"{kind}: a parameter is listed twice, and would be moved twice at each step.")
        self.lr_factor = 1.0
        self.steps = 0
        self.state: dict[int, dict[str, Array]] = {}  # by the parameter's position, counted through all groups

    def parameters(self) -> list[Tensor]:
        return [parameter for group in self.groups for parameter in group["params"]]

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward starts from nothing."""
        for parameter in self.parameters():
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter by its gradient, in place."""
        self.steps += 1
        position = 0
        for group in self.groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, position, group["lr"] * self.lr_factor, group["weight_decay"])
                position += 1

    def _step(self, parameter: Tensor, position: int, lr: float, weight_decay: float) -> None:
        grad: Any = parameter.grad
        if grad.shape != parameter.shape:
            raise ShapeError(
                f"{type(self).__name__}: a gradient of {tuple(grad.shape)} for a parameter of "
                f"{tuple(parameter.shape)}; backward gives one of its shape."
            )
        backend = parameter.backend
        try:
            if position not in self.state:
                self.state[position] = {name: backend.xp.zeros_like(parameter.data) for name in self.buffers}
            self.move(backend, parameter.data, grad, lr, weight_decay, **self.state[position])
        except Exception as error:
            backend.explain(error, f"{type(self).__name__}'s step of {tuple(parameter.shape)}", [id(parameter)])
            raise

    def move(
        self, backend: Backend, parameter: Array, grad: Array, lr: float, weight_decay: float, **buffers: Array
    ) -> None:
        """Move one parameter and its buffers, in place; the gradient stays as it is."""
        raise NotImplementedError(f"{type(self).__name__} does not define move")

    def state_dict(self) -> tuple[dict[str, np.ndarray], int]:
        """The buffers as host arrays by "position.name", and the number of steps."""
        parameters = self.parameters()
        arrays = {
            f"{position}.{name}": np.array(parameters[position].backend.to_numpy(array))
            for position, buffers in self.state.items()
            for name, array in buffers.items()
        }
        return arrays, self.steps

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], steps: int) -> None:
        """Continue from a saved state. Raises WeightsError, and changes nothing, if it is not of this optimiser."""
        left, state = dict(arrays), {}
        for position, parameter in enumerate(self.parameters()):
            keys = {name: f"{position}.{name}" for name in self.buffers}
            if all(key in left and left[key].shape == parameter.shape for key in keys.values()):
                buffers = {name: np.array(left.pop(key)) for name, key in keys.items()}
                state[position] = {name: parameter.backend.asarray(array) for name, array in buffers.items()}
        if left:
            listed = ", ".join(f"{key} {array.shape}" for key, array in left.items())
            raise WeightsError(
                f"{type(self).__name__}: these saved buffers fit no parameter: {listed}. Were they saved with another "
                "optimiser, or for another network?"
            )
        self.state, self.steps = state, steps


class SGD(Optimizer):
    """Stochastic gradient descent with momentum:  v ← μ v + (g + λ p),  p ← p − lr · v.

    μ is momentum, λ weight_decay. (Caffe keeps lr inside v; the two differ only in the steps after lr has changed.)
    """

    buffers = ("velocity",)

    def __init__(self, parameters: Groups, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        if not 0 <= momentum < 1:
            raise UsageError(f"SGD: momentum is at least 0 and less than 1, not {momentum}.")
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self.momentum = momentum

    def move(
        self, backend: Backend, parameter: Array, grad: Array, lr: float, weight_decay: float, **buffers: Array
    ) -> None:
        sgd_step(backend, parameter, buffers["velocity"], grad, lr=lr, momentum=self.momentum, decay=weight_decay)


@with_kernel
def sgd_step(
    backend: Backend, parameter: Array, velocity: Array, grad: Array, *, lr: float, momentum: float, decay: float
) -> None:
    """v ← μ v + (g + λ p),  p ← p − lr · v, in place; see SGD."""
    xp = backend.xp

    def step(p: Array, v: Array, g: Array) -> None:
        scratch = backend.scratch("step", p.shape, p.dtype)
        v *= momentum
        v += _with_decay(xp, g, p, decay, scratch)
        p -= xp.multiply(v, lr, out=scratch)

    _part_by_part(backend, step, parameter, velocity, grad)


class Adam(Optimizer):
    """Adam: steps of about lr in every coordinate, whatever the size of its gradients.

        m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²        p ← p − lr · m̂ / (√v̂ + ε)

    with m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ), which undo the start from zero; t counts this
    optimiser's steps. Source: Kingma and Ba 2015.
    """

    buffers = ("mean", "square")

    def __init__(
        self,
        parameters: Groups,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas) or not eps >= 0:
            raise UsageError(f"Adam: betas are at least 0 and less than 1, eps at least 0, not {betas} and {eps}.")
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self.betas, self.eps = betas, eps

    def move(
        self, backend: Backend, parameter: Array, grad: Array, lr: float, weight_decay: float, **buffers: Array
    ) -> None:
        settings: dict[str, Any] = {"betas": self.betas, "eps": self.eps, "decay": weight_decay, "step": self.steps}
        adam_step(backend, parameter, buffers["mean"], buffers["square"], grad, lr=lr, **settings)


@with_kernel
def adam_step(
    backend: Backend, parameter: Array, mean: Array, square: Array, grad: Array, *, lr: float,
    betas: tuple[float, float], eps: float, decay: float, step: int,
) -> None:  # fmt: skip
    """m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  p ← p − lr · m̂ / (√v̂ + ε), in place; see Adam.

    step: its number t, from 1.
    """
    xp, (beta1, beta2) = backend.xp, betas

    def move(p: Array, m: Array, v: Array, g: Array) -> None:
        scratch, decayed = (backend.scratch(name, p.shape, p.dtype) for name in ("step", "decayed"))
        g = _with_decay(xp, g, p, decay, decayed)
        m *= beta1
        m += xp.multiply(g, 1 - beta1, out=scratch)
        xp.multiply(g, g, out=scratch)
        scratch *= 1 - beta2
        v *= beta2
        v += scratch
        root = xp.sqrt(v, out=scratch)
        root /= (1 - beta2**step) ** 0.5
        root += eps
        xp.divide(m, root, out=root)
        root *= lr / (1 - beta1**step)
        p -= root

    _part_by_part(backend, move, parameter, mean, square, grad)


def _with_decay(xp: Any, grad: Array, parameter: Array, decay: float, out: Array) -> Array:
    """g + λ p, in `out`; or g itself, if λ is 0."""
    return xp.add(grad, xp.multiply(parameter, decay, out=out), out=out) if decay else grad


def _part_by_part(backend: Backend, step: Callable[..., None], *arrays: Array) -> None:
    """step(…) of the parts of arrays that have one shape, so that each part is in the cache until all is done with it.

    The whole of fc6 takes 411 MB: each line of a step would read and write all of it, and make a temporary as large.
    """
    parts: Sequence[Any] = [...]
    if all(array.flags.c_contiguous for array in arrays):
        arrays = tuple(array.reshape(-1) for array in arrays)  # views, to be changed in place
        parts = backend.ranges(arrays[0].size, arrays[0].itemsize)
    backend.map(lambda part: step(*(array[part] for array in arrays)), parts)


def paper_groups(model: Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Weights at lr with decay, biases at twice lr without, as in FCN's released solvers (Long et al. 2015)."""
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if not name.endswith(".bias")], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for name, p in named if name.endswith(".bias")], "lr": 2 * lr, "weight_decay": 0.0},
    ]
