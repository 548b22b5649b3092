"""The training loop: what turns a network, a data set and an optimiser into a segmenter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from minifcn.autograd.tensor import Tensor
from minifcn.data import Batch, Loader
from minifcn.errors import TrainingError
from minifcn.nn import Module
from minifcn.training.losses import Loss
from minifcn.training.optim import Optimizer
from minifcn.training.schedule import Schedule, fixed

# A kind of random stream, beside those of data/loader.py, whose seeds begin with [seed, 0] and [seed, 1].
_LOSS = 2


class Step(NamedTuple):
    """What happened in one step: `number` steps are done now."""

    number: int
    loss: float
    lr_factor: float
    images: int


def train(
    model: Module,
    loader: Loader,
    optimizer: Optimizer,
    *,
    steps: int,
    loss: Loss,
    schedule: Schedule = fixed,
    accumulate: int = 1,
    start: int = 0,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[Step]:
    """Train up to step number `steps`, from `start`; yields after each step, when model and optimiser agree.

    accumulate: batches to a step. Their gradients are added up and divided by their number, as if they had been one
      large batch, in the memory of a small one. (Batch normalisation sees the small ones. A loss that is a sum over
      pixels is divided as well: it stays the sum for one batch, whatever their number.)
    The caller logs, validates, saves, or stops, in between. Batches depend only on the loader's seed and the step's
    number, and a loss's random choices on `seed` and the step, so starting in the middle continues exactly.
    Raises TrainingError if the loss is not a number.
    """
    batches = _batches(loader, start * accumulate)
    for number in range(start, steps):
        model.train()
        optimizer.lr_factor = schedule(number, steps)
        optimizer.zero_grad()
        generator = np.random.default_rng([seed, _LOSS, number, 0])
        total, images = 0.0, 0
        for batch in islice(batches, accumulate):
            value = loss(model(Tensor(batch.images, device=device)), batch.labels, generator)
            found = value.item()  # the one number of a step that is waited for
            _check_finite(found, number + 1, batch, optimizer)
            (value / accumulate if accumulate > 1 else value).backward()
            total, images = total + found / accumulate, images + len(batch.images)
        optimizer.step()
        yield Step(number + 1, total, optimizer.lr_factor, images)


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
