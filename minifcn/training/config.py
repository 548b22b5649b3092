"""The configuration of a run: every choice by name, written into the run's folder, from which it can be repeated."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from minifcn.errors import UsageError
from minifcn.models import MODELS
from minifcn.models.fcn import GEOMETRIES, LEARNED_UPSAMPLING
from minifcn.training.schedule import SCHEDULES

CLASSIFIER = "classifier"
FCN_STAGES = tuple(name for name in MODELS if name.startswith("fcn"))
OPTIMIZERS = ("adam", "sgd")
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class Config:
    """What determines a run. Equal configurations (and thread counts) give equal weights, bit for bit, on the CPU.

    stages: networks trained one after the other, each starting from the one before; "classifier" is VGG16 on shapes.
    steps, lr: for each stage. epochs: if above 0, passes over the training set in place of steps. size: (height, width)
    that pictures are scaled to, or None for their own (96×96 for shapes). fc_width: 0 means 64·width. weights: the file
    that the first stage starts from; "" for none.
    See `python -m minifcn.train --help` for the rest.
    """

    data: str
    stages: tuple[str, ...]
    steps: tuple[int, ...]
    lr: tuple[float, ...]
    epochs: int = 0
    weights: str = ""
    foreground: int | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    flip: bool = True
    width: int = 16
    fc_width: int = 0
    geometry: str = "same"
    learned_upsampling: str = "intermediate"
    dropout: float = 0.5
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "poly"
    reduction: str = "mean"
    batch_size: int = 4
    seed: int = 0
    validate_every: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        _choose("--geometry", self.geometry, tuple(GEOMETRIES))
        _choose("--learned-upsampling", self.learned_upsampling, LEARNED_UPSAMPLING)
        _choose("--optimizer", self.optimizer, OPTIMIZERS)
        _choose("--schedule", self.schedule, tuple(SCHEDULES))
        _choose("--reduction", self.reduction, REDUCTIONS)
        for stage in self.stages:
            _choose("--model", stage, (CLASSIFIER, *FCN_STAGES))
        if not self.stages or self.stages[-1] == CLASSIFIER:
            raise UsageError(
                "a run ends with one of " + ", ".join(FCN_STAGES) + "; a classifier alone segments nothing."
            )
        if not len(self.stages) == len(self.steps) == len(self.lr):
            raise UsageError(f"{len(self.stages)} stages need as many steps ({self.steps}) and lr ({self.lr}).")
        at_least: dict[str, tuple[float, int]] = {
            "--steps": (min(self.steps), 1),
            "--batch-size": (self.batch_size, 1),
            "--width": (self.width, 1),
        }
        at_least |= {"--fc-width": (self.fc_width, 0), "--seed": (self.seed, 0), "--lr": (min(self.lr), 0)}
        at_least |= {"--epochs": (self.epochs, 0)}
        at_least |= {"--validate-every": (self.validate_every, 0), "--checkpoint-every": (self.checkpoint_every, 1)}
        for name, (value, minimum) in at_least.items():
            if value < minimum:
                raise UsageError(f"{name} {value}: at least {minimum} is needed.")
        for name, value in {"--dropout": self.dropout, "--momentum": self.momentum}.items():
            if not 0 <= value < 1:
                raise UsageError(f"{name} {value}: a number from 0 to below 1 is needed.")
        for name, value in {"--lr": max(self.lr), "--weight-decay": self.weight_decay}.items():
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} {value}: a finite number, at least 0, is needed.")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(
                f"--scale {self.scale[0]} {self.scale[1]}: MIN and MAX are needed, above 0, in this order."
            )

    def to_toml(self) -> str:
        """One line a key. Keys that are None are left out, as TOML has no word for that."""
        present = {name: value for name, value in asdict(self).items() if value is not None}
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in present.items())

    @classmethod
    def from_toml(cls, path: Path) -> Config:
        """Read a config.toml; UsageError if it is missing, not TOML, or has keys that mean nothing."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: not found; is this the folder of a run?") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"{path}: cannot be read ({error}); a file as a run writes it is expected.") from None
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise UsageError(f"{path}: unknown keys {', '.join(unknown)}; was it written by another version?")
        try:
            arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            return cls(**arguments)
        except TypeError as error:
            raise UsageError(f"{path}: {error}.") from None

    def differences(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """Keys whose values differ, with (this one's, the other's)."""
        mine, others = asdict(self), asdict(other)
        return {name: (mine[name], others[name]) for name in mine if mine[name] != others[name]}


def resolve(given: Mapping[str, Any], pretrained: Mapping[str, Any] | None = None) -> Config:
    """The configuration that command-line values mean; what is not given takes its default.

    Without a model, on shapes: the miniature. Otherwise one stage: the model (fcn8s unless given), from scratch.
    pretrained: the architecture of the weight file to start from; see `fine_tuning`.
    """
    if given.get("epochs", 1) < 1:
        raise UsageError(f"--epochs {given['epochs']}: at least 1 is needed.")
    given = dict(given)
    model, own_data = given.pop("model", None), given.get("data", MINIATURE.data) != MINIATURE.data
    if model is None and not own_data and pretrained is None:
        config = MINIATURE
    else:
        if pretrained is None:
            config = Config(data=MINIATURE.data, stages=(model or "fcn8s",), steps=(1000,), lr=(1e-3,))
        else:
            config = fine_tuning(pretrained, model)
        given.setdefault("size", None if own_data else MINIATURE.size)
        if own_data and "steps" not in given:
            given.setdefault("epochs", 30 if pretrained is None else 10)
    return replace(config, **spread(given, len(config.stages)))


def fine_tuning(architecture: Mapping[str, Any], model: str | None = None) -> Config:
    """The configuration that starts from pretrained weights of this architecture.

    An FCN goes on being trained as it is; a classifier becomes FCN-32s, 16s and 8s, one from the other, as in the
    paper. The sizes are the file's, and the learning rate is small, so that what was learnt is not lost.
    """
    name = str(architecture.get("name"))
    if name not in MODELS:
        raise UsageError(f"{name} is none of the networks that can be trained on: {', '.join(MODELS)}.")
    is_fcn = name in FCN_STAGES
    stages = (model,) if model else (name,) if is_fcn else ("fcn32s", "fcn16s", "fcn8s")
    return Config(
        data=MINIATURE.data,
        stages=stages,
        steps=(1000,) * len(stages),
        lr=(1e-5,) * len(stages),
        width=architecture.get("width", 64),
        fc_width=architecture.get("fc_width") or 0,
        geometry=architecture["geometry"] if is_fcn else "paper",
        batch_size=1,
    )


def spread(given: Mapping[str, Any], stages: int) -> dict[str, Any]:
    """The same with one value of steps and lr for each stage."""
    return {key: (value,) * stages if key in ("steps", "lr") else value for key, value in given.items()}


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value}: choose one of {', '.join(choices)}.")


# The run without arguments: the four stages of the paper in miniature, on pictures drawn on the fly.
MINIATURE = Config(
    data="shapes",
    stages=(CLASSIFIER, "fcn32s", "fcn16s", "fcn8s"),
    steps=(150, 200, 200, 350),
    lr=(1e-3, 2e-3, 2e-3, 2e-3),
    width=8,
    fc_width=128,
    batch_size=8,
    dropout=0.1,
    size=(96, 96),
)
