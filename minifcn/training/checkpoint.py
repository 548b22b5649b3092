"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minifcn import nn
from minifcn.errors import WeightsError
from minifcn.nn import Module
from minifcn.training.optim import Optimizer
from minifcn.weights.file import CHECKPOINT
from minifcn.weights.formats import safetensors

FORMAT = 2
READ = (1, 2)  # 1 ended with config; what comes after it in Progress was added since


@dataclass
class Progress:
    """Where a run stands.

    stage: by number. step: how many are done in it. seconds: spent on it so far.
    results: of the finished stages. baselines: what predicting one class everywhere scores on the same pictures.
    preprocessing: how pictures become inputs. source: the pretrained weights it started from.
    class_weights: each class's in the loss, [] for equal ones. config: Config.to_toml() of the run so far.
    metrics: the text of metrics.csv so far. losses: of the steps since its last row.
    best: stage, step and mean_iu of the best network on the val split, {} before the first validation.
    skipped: how often each bad file was skipped, by what is wrong with it. pictures: in the training set.
    machines: what it was computed on so far.
    Older checkpoints have neither config nor metrics (""), nor pictures (0).
    """

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)
    baselines: list[dict[str, Any]] = field(default_factory=list)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    class_weights: list[float] = field(default_factory=list)
    config: str = ""
    metrics: str = ""
    losses: list[float] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    pictures: int = 0
    machines: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(path: Path, model: Module, optimizer: Optimizer, progress: Progress) -> None:
    """Weights, the optimiser's buffers, the state of dropout's generators and the progress, in one file, atomically.

    The order of the data needs no saving: it follows from the seed and the step.
    """
    buffers, optimizer_steps = optimizer.state_dict()
    tensors = {f"model.{name}": array for name, array in model.state_dict().items()}
    tensors |= {f"optimizer.{name}": array for name, array in buffers.items()}
    about = {
        "format": FORMAT,
        "progress": vars(progress),
        "optimizer_steps": optimizer_steps,
        "generators": [generator.bit_generator.state for generator in _generators(model)],
    }
    safetensors.write(path, tensors, {CHECKPOINT: json.dumps(about)})


def read_progress(path: Path) -> Progress:
    """How far the run had come; WeightsError, naming the file, if it is no checkpoint that this version reads."""
    try:
        return Progress(**_about(path, safetensors.read_metadata(path))["progress"])
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: its record of the progress is damaged ({error}).") from None


def restore_checkpoint(path: Path, model: Module, optimizer: Optimizer) -> None:
    """Put the saved values into a model and an optimiser of the same configuration.

    Raises WeightsError, naming the file, if it does not hold them.
    """
    tensors, metadata = safetensors.read(path)
    about = _about(path, metadata)
    parts: dict[str, dict[str, np.ndarray]] = {"model": {}, "optimizer": {}}
    try:
        for name, array in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = array
        model.load_state_dict(parts["model"])
        optimizer.load_state_dict(parts["optimizer"], about["optimizer_steps"])
        for generator, state in zip(_generators(model), about["generators"], strict=True):
            generator.bit_generator.state = state
    except (KeyError, TypeError, ValueError) as error:  # WeightsError is a ValueError too
        raise WeightsError(f"{path}: does not fit this run. {error}") from None


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What save_checkpoint has written beside the tensors; WeightsError if that is nothing that is known here."""
    try:
        about = json.loads(metadata.get(CHECKPOINT, "{}"))
    except (ValueError, RecursionError):
        about = {}
    if not isinstance(about, dict) or "format" not in about:
        raise WeightsError(f"{path}: is not the checkpoint of a run; one that training has written is needed.")
    if about["format"] not in READ:
        raise WeightsError(
            f"{path}: is a checkpoint of format {about['format']}; this version of minifcn reads the formats "
            f"{' and '.join(map(str, READ))}. Go on with the version that wrote it, or start again in another --out."
        )
    return about


def _generators(model: Module) -> list[np.random.Generator]:
    return [module.generator for _, module in model.named_modules() if isinstance(module, nn.Dropout)]
