"""The training loop: what turns a network, a data set and an optimiser into a segmenter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from minifcn.autograd.tensor import Tensor, no_grad
from minifcn.backend import get_backend
from minifcn.data import Batch, Loader
from minifcn.data.loader import Upload
from minifcn.errors import OutOfMemoryError, TrainingError
from minifcn.models.vgg import BaseNetwork
from minifcn.nn import Module
from minifcn.training.losses import Loss
from minifcn.training.optim import Optimizer
from minifcn.training.schedule import Schedule, fixed
from minifcn.training.watch import Observation, Signs

# A kind of random stream, beside those of data/loader.py, whose seeds begin with [seed, 0] and [seed, 1].
_LOSS = 2


class Step(NamedTuple):
    """What happened in one step: `number` steps are done now. signs: if the step was to be observed."""

    number: int
    loss: float
    lr_factor: float
    images: int
    signs: Signs | None = None


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
    observed: Callable[[int], bool] = lambda number: False,
) -> Iterator[Step]:
    """Train up to step number `steps`, from `start`; yields after each step, when model and optimiser agree.

    accumulate: batches to a step. Their gradients are added up and divided by their number, as if they had been one
      large batch, in the memory of a small one. (Batch normalisation sees the small ones. A loss that is a sum over
      pixels is divided as well: it stays the sum for one batch, whatever their number.)
    observed: for which steps, numbered from 1, to measure the Signs of their health.
    The caller logs, validates, saves, or stops, in between. Batches depend only on the loader's seed and the step's
    number, and a loss's random choices on `seed` and the step, so starting in the middle continues exactly.
    Raises TrainingError if the loss is not a number, or the memory does not suffice.
    """
    batches = _batches(loader, start * accumulate, get_backend(device).upload)
    for number in range(start, steps):
        model.train()
        observation = Observation(model) if observed(number + 1) else None
        optimizer.lr_factor = schedule(number, steps)
        optimizer.zero_grad()
        generator = np.random.default_rng([seed, _LOSS, number, 0])
        total, images = 0.0, 0
        batch: Batch | None = None
        try:
            for batch in islice(batches, accumulate):
                scores = model(Tensor(batch.uploaded(), device=device))
                value = loss(scores, batch.labels, generator)
                found = value.item()  # the one number of a step that is waited for
                _check_finite(found, number + 1, batch, model, optimizer)
                if observation is not None and images == 0:
                    chance = np.random.default_rng([seed, _LOSS, number, 0])
                    observation.scores(scores, batch.labels, found, loss, chance)
                del scores
                (value / accumulate if accumulate > 1 else value).backward()
                total, images = total + found / accumulate, images + len(batch.images)
            if observation is not None:
                observation.moving()
            optimizer.step()
        except MemoryError as error:
            raise _out_of_memory(error, number + 1, batch, model) from error
        signs = observation.moved() if observation is not None else None
        yield Step(number + 1, total, optimizer.lr_factor, images, signs)


def _batches(loader: Loader, start: int, upload: Upload) -> Iterator[Batch]:
    """Batches from step `start` on, epoch after epoch, without end."""
    epoch, position = divmod(start, len(loader))
    while True:
        yield from loader.epoch(epoch, start=position, upload=upload)
        epoch, position = epoch + 1, 0


def _check_finite(loss: float, step: int, batch: Batch, model: Module, optimizer: Optimizer) -> None:
    if not math.isfinite(loss):
        lr = optimizer.groups[0]["lr"] * optimizer.lr_factor
        raise TrainingError(
            f"step {step}: the loss is {loss}, at a learning rate of {lr:g}, on {', '.join(batch.names[:4])}; "
            f"{_first_not_finite(model, batch)}. "
            "Checkpoints saved before are kept. Go on from there with a learning rate ten times smaller (--resume "
            "--set lr=…; a loss summed over pixels, --reduction sum, needs one smaller by their number), or start anew "
            "with --overwrite."
        )


def _first_not_finite(model: Module, batch: Batch) -> str:
    """Which tensor was the first that is not finite: a picture, a weight, or what a layer makes of finite ones."""
    wrong: list[str] = []
    for name, image in zip(batch.names, batch.images, strict=True):
        if not np.isfinite(image).all():
            return f"the picture {name} holds values that are not finite"
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            return f"the weights of {name} are not finite"
    if isinstance(model, BaseNetwork):  # once more, this time looking at each layer
        model.observe = lambda name, output: None if _is_finite(output) else wrong.append(name)
        with no_grad(), np.errstate(all="ignore"):
            model(Tensor(batch.images, device=next(iter(model.parameters())).device))
        model.observe = None
    return f"the output of {wrong[0]} is the first tensor that is not finite" if wrong else "all weights are finite"


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.backend.xp.isfinite(tensor.data).all())


def _out_of_memory(error: MemoryError, step: int, batch: Batch | None, model: Module) -> TrainingError:
    """What a step wanted, for which layer if that is known, and what to do about it."""
    if isinstance(error, OutOfMemoryError):
        model.name_layer(error)
    what, size = str(error).rstrip(".") or "out of memory", ""
    if batch is not None:
        count, _, height, width = batch.images.shape
        size = f" The batch has {count} pictures of {height}×{width}."
    return TrainingError(
        f"step {step}: {what}.{size} Lower --batch-size (and raise --accumulate as much, for the same "
        "gradient), --crop or --size, or --width; or use --geometry same. "
        "Checkpoints saved before are kept."
    )


def check_weights(model: Module, optimizer: Optimizer, step: int) -> None:
    """Raise TrainingError, naming the tensor, if a weight is not a finite number; called before weights are saved.

    Nor may what the optimiser keeps of it: Adam divides by the root of the squares, and a weight whose squares have
    overflowed would stay where it is for ever.
    """
    kept = {id(p): optimizer.state.get(position, {}) for position, p in enumerate(optimizer.parameters())}
    for name, parameter in model.named_parameters():
        buffers = {f"the optimiser's {what} of {name}": array for what, array in kept.get(id(parameter), {}).items()}
        for what, array in {name: parameter.data, **buffers}.items():
            if parameter.backend.xp.isfinite(array).all():
                continue
            raise TrainingError(
                f"step {step}: {what} holds values that are not finite. Checkpoints saved before are kept. Go on from "
                "there with a learning rate ten times smaller (--resume --set lr=…), or start anew with --overwrite."
            )
