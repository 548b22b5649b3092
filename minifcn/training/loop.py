"""The training loop: what turns a network, a data set and an optimiser into a segmenter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from minifcn import ops
from minifcn.autograd.tensor import Tensor
from minifcn.data import Batch, Loader
from minifcn.errors import TrainingError
from minifcn.nn import Module
from minifcn.training.optim import Optimizer
from minifcn.training.schedule import Schedule, fixed

Loss = Callable[[Tensor, np.ndarray], Tensor]  # (scores, labels) -> one number


class Step(NamedTuple):
    """What happened in one step: `number` steps are done now."""

    number: int
    loss: float
    lr_factor: float
    images: int


def segmentation_loss(reduction: str = "mean") -> Loss:
    """Softmax cross entropy over all pixels that are not void."""

    def loss(scores: Tensor, labels: np.ndarray) -> Tensor:
        return ops.softmax_cross_entropy(scores, labels, reduction=reduction)

    return loss


def classification_loss(scores: Tensor, labels: np.ndarray) -> Tensor:
    """Softmax cross entropy of (N, C) scores, for pictures whose every pixel carries the picture's class."""
    return ops.softmax_cross_entropy(scores, labels[:, 0, 0])


def train(
    model: Module,
    loader: Loader,
    optimizer: Optimizer,
    *,
    steps: int,
    loss: Loss,
    schedule: Schedule = fixed,
    start: int = 0,
    device: str = "cpu",
) -> Iterator[Step]:
    """Train up to step number `steps`, from `start`; yields after each step, when model and optimiser agree.

    The caller logs, validates, saves, or stops, in between. Batches depend only on the loader's seed and the step's
    number, so starting in the middle continues exactly. Raises TrainingError if the loss is not a number.
    """
    for number, batch in zip(range(start, steps), _batches(loader, start), strict=False):
        model.train()
        optimizer.lr_factor = schedule(number, steps)
        optimizer.zero_grad()
        value = loss(model(Tensor(batch.images, device=device)), batch.labels)
        _check_finite(value.item(), number + 1, batch, optimizer)
        value.backward()
        optimizer.step()
        yield Step(number + 1, value.item(), optimizer.lr_factor, len(batch.images))


def _batches(loader: Loader, start: int) -> Iterator[Batch]:
    """Batches from step `start` on, epoch after epoch, without end."""
    epoch, position = divmod(start, len(loader))
    while True:
        yield from loader.epoch(epoch, start=position)
        epoch, position = epoch + 1, 0


def _check_finite(loss: float, step: int, batch: Batch, optimizer: Optimizer) -> None:
    if not math.isfinite(loss):
        lr = optimizer.groups[0]["lr"] * optimizer.lr_factor
        raise TrainingError(
            f"step {step}: the loss is {loss}, at a learning rate of {lr:g}, on {', '.join(batch.names[:4])}. "
            "Checkpoints saved before are kept. Start again in another --out with a learning rate ten times smaller (a "
            "loss summed over pixels, --reduction sum, needs one smaller by their number)."
        )


def check_weights(model: Module, step: int) -> None:
    """Raise TrainingError, naming the tensor, if a weight is not a finite number; called before weights are saved."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.backend.xp.isfinite(parameter.data).all()):
            raise TrainingError(
                f"step {step}: {name} holds values that are not finite. "
                "Checkpoints saved before are kept. Start again in another --out with a learning rate ten "
                "times smaller."
            )
