"""The configuration of a run: every choice by name, written into the run's folder, from which it can be repeated."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from minifcn.data.frequency import WEIGHTINGS
from minifcn.errors import UsageError
from minifcn.models import MODELS, FCNBasic
from minifcn.models.fcn import GEOMETRIES, LEARNED_UPSAMPLING, SKIPS
from minifcn.training.losses import LOSSES, REDUCTIONS, segmentation_loss
from minifcn.training.schedule import SCHEDULES

CLASSIFIER = "classifier"
FCN_STAGES = tuple(name for name in MODELS if name.startswith("fcn"))
OPTIMIZERS = ("adam", "sgd")
BATCH_NORM = ("none", "train", "frozen")
CLASS_WEIGHTS = ("none", *WEIGHTINGS)
LARGEST_CLASSIFIED = 224  # pixels: 7×7 cells of 32
PER_STAGE = ("steps", "epochs", "lr")
FREE = ("checkpoint_every",)  # what a run may be resumed with in another form: it has no effect on the weights
# What a checkpoint's tensors, or what the network has seen of the val split, depend on: nothing that --set can change.
FIXED = (
    *("data", "stages", "weights", "split", "val_split", "folds", "fold", "group", "foreground", "seed"),
    *("width", "fc_width", "geometry", "skips", "learned_upsampling", "batch_norm", "optimizer"),
)


@dataclass(frozen=True)
class Config:
    """What determines a run. Equal configurations (and thread counts) give equal weights, bit for bit, on the CPU.

    stages: networks trained one after the other, each starting from the one before; "classifier" is VGG16 on patches.
    steps, lr: for each stage. epochs: for each stage, passes over the training set in place of steps; () for none.
    weights: the file that the first stage starts from; "" for none.
    folds: if above 0, split and val_split are joined and divided into so many folds, of which number `fold`, from 1, is
    validated on; group: the part of a name that tells its group (data.groups_of), of which none is divided.
    size: (height, width) that pictures are scaled to, or None for their own (96×96 for shapes).
    fc_width: 0 means 64·width. batch_norm: "none", "train", or "frozen" at the values of `weights`.
    loss, class_weights, keep_pixels: see losses.segmentation_loss. class_weight_power: what the weights are raised to.
    reduction: "mean" over pixels, or "sum".
    accumulate: batches whose gradients are added up for one step. jitter: of colours, see data.Augment.
    warm_up: steps over which the learning rate rises; step_every, step_factor: of the schedule "step".
    See `python -m minifcn.train --help` for the rest.
    """

    data: str
    stages: tuple[str, ...]
    steps: tuple[int, ...]
    lr: tuple[float, ...]
    epochs: tuple[int, ...] = ()
    weights: str = ""
    split: str = "train"
    val_split: str = "val"
    folds: int = 0
    fold: int = 0
    group: str = ""
    foreground: int | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    jitter: float = 0.0
    flip: bool = True
    width: int = 16
    fc_width: int = 0
    geometry: str = "same"
    skips: str = "add"
    learned_upsampling: str = "intermediate"
    batch_norm: str = "none"
    dropout: float = 0.5
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "poly"
    warm_up: int = 0
    step_every: int = 0
    step_factor: float = 0.1
    loss: str = "cross-entropy"
    class_weights: str = "none"
    class_weight_power: float = 1.0
    keep_pixels: float = 1.0
    reduction: str = "mean"
    batch_size: int = 4
    accumulate: int = 1
    seed: int = 0
    validate_every: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        _choose("--geometry", self.geometry, tuple(GEOMETRIES))
        _choose("--learned-upsampling", self.learned_upsampling, LEARNED_UPSAMPLING)
        _choose("--skips", self.skips, SKIPS)
        _choose("--batch-norm", self.batch_norm, BATCH_NORM)
        _choose("--loss", self.loss, LOSSES)
        _choose("--class-weights", self.class_weights, CLASS_WEIGHTS)
        _choose("--optimizer", self.optimizer, OPTIMIZERS)
        _choose("--schedule", self.schedule, tuple(SCHEDULES))
        _choose("--reduction", self.reduction, REDUCTIONS)
        for stage in self.stages:
            _choose("--stages", stage, (CLASSIFIER, *FCN_STAGES))
        if not self.stages or self.stages[-1] == CLASSIFIER:
            raise UsageError(
                "a run ends with one of " + ", ".join(FCN_STAGES) + "; a classifier alone segments nothing."
            )
        if len(set(self.stages)) < len(self.stages):
            raise UsageError(f"--stages {', '.join(self.stages)}: each may come once; its files are named after it.")
        if FCNBasic.name in self.stages and len(self.stages) > 1:
            raise UsageError(
                f"--stages {', '.join(self.stages)}: {FCNBasic.name} has no layers in common with the others, and "
                "neither can start from the other; train it alone."
            )
        if self.batch_norm == "frozen" and not self.weights:
            raise UsageError("--batch-norm frozen: needs --weights, whose means and variances it keeps; or use train.")
        drawn = CLASSIFIER in self.stages and self.data == "shapes"
        if drawn and self.size is not None and max(self.size) > LARGEST_CLASSIFIED:
            raise UsageError(
                f"--size {self.size[0]}x{self.size[1]}: the classifier takes drawn pictures of at most "
                f"{LARGEST_CLASSIFIED} pixels; draw smaller ones, or leave it out by --stages 32s,16s,8s."
            )
        for key in PER_STAGE:
            values = getattr(self, key)
            if len(values) != len(self.stages) and not (key == "epochs" and not values):
                raise UsageError(
                    f"--{key} {', '.join(map(str, values))}: one value, or one for each of the {len(self.stages)} "
                    f"stages ({', '.join(self.stages)}), is needed."
                )
        self._check_numbers()
        self._check_folds()
        segmentation_loss(self.loss, self.reduction, keep_pixels=self.keep_pixels)  # some do not go together

    def _check_numbers(self) -> None:
        at_least: dict[str, tuple[float, int]] = {
            "--steps": (min(self.steps), 1),
            "--epochs": (min(self.epochs, default=1), 1),
            "--batch-size": (self.batch_size, 1),
            "--accumulate": (self.accumulate, 1),
            "--width": (self.width, 1),
            "--fc-width": (self.fc_width, 0),
            "--folds": (self.folds, 2 if self.folds else 0),
            "--fold": (self.fold, 0),
            "--warm-up": (self.warm_up, 0),
            "--step-every": (self.step_every, 0),
            "--seed": (self.seed, 0),
            "--validate-every": (self.validate_every, 0),
            "--checkpoint-every": (self.checkpoint_every, 1),
        }
        for name, (value, minimum) in at_least.items():
            if value < minimum:
                raise UsageError(f"{name} {value}: at least {minimum} is needed.")
        for name, value in {"--dropout": self.dropout, "--momentum": self.momentum, "--jitter": self.jitter}.items():
            if not 0 <= value < 1:
                raise UsageError(f"{name} {value}: a number from 0 to below 1 is needed.")
        for name, value in {
            "--keep-pixels": self.keep_pixels,
            "--step-factor": self.step_factor,
            "--class-weight-power": self.class_weight_power,
        }.items():
            if not 0 < value <= 1:
                raise UsageError(f"{name} {value}: a number above 0, at most 1, is needed.")
        for name, value in [*(("--lr", rate) for rate in self.lr), ("--weight-decay", self.weight_decay)]:
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} {value}: a finite number, at least 0, is needed.")
        for name, size in {"--size": self.size, "--crop": self.crop}.items():
            if size is not None and min(size) < 1:
                raise UsageError(f"{name} {size[0]}x{size[1]}: at least 1 pixel is needed.")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise UsageError(
                f"--scale {self.scale[0]} {self.scale[1]}: MIN and MAX are needed, above 0, in this order."
            )

    def _check_folds(self) -> None:
        for name, value in {"--fold": self.fold, "--group": self.group}.items():
            if value and not self.folds:
                raise UsageError(f"{name} {value}: is for cross-validation; give --folds, too.")
        if self.fold > self.folds:
            raise UsageError(f"--fold {self.fold}: there are the folds 1 to {self.folds}.")
        if self.folds and self.split == self.val_split:
            raise UsageError(
                f"--folds {self.folds}: divides the pictures of --split and --val-split, which are both {self.split}; "
                "with each of them twice, a network would be measured on what it was trained on. Name two splits."
            )

    def to_toml(self) -> str:
        """One line a key; [] stands for None, for which TOML has no word."""
        values = {name: [] if value is None else value for name, value in asdict(self).items()}
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())

    @classmethod
    def from_toml(cls, path: Path) -> Config:
        """Read a run's config.toml; UsageError if it is missing, not TOML, or has keys or values that mean nothing."""
        values = read_values(path)
        needed = [field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING]
        if missing := [name for name in needed if name not in values]:
            raise UsageError(f"{path}: lacks {', '.join(missing)}; write them as in the config.toml of a run.")
        try:
            return cls(**values)
        except UsageError as error:  # which names the option of the command line that stands for the key
            raise UsageError(f"{path}: {error}") from None

    def changed(self, settings: Sequence[str]) -> Config:
        """This configuration with other values, each as "key=value", the value as in config.toml or with bare commas.

        UsageError for a key that is not known, or on which what was trained so far depends, and for a wrong value.
        """
        values = vars(self).copy()
        for setting in settings:
            key, equals, text = setting.partition("=")
            key = key.strip().removeprefix("--").replace("-", "_")
            if not equals:
                raise UsageError(f"--set {setting}: KEY=VALUE is needed, such as lr=1e-4.")
            _check_known([key], "--set")
            if key in FIXED:
                free = ", ".join(name for name in values if name not in FIXED)
                raise UsageError(
                    f"--set {setting}: what was trained so far depends on {key}. Choose it in another --out "
                    f"(--weights takes the network along). What --set can change: {free}."
                )
            value = _from_toml(key, _parsed(text), "--set")
            if key in PER_STAGE and len(value) == 1:
                value *= len(self.stages)
            values |= {key: value} | ({"epochs": ()} if key == "steps" else {})
        return Config(**values)

    def differences(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """Keys whose values differ, with (this one's, the other's)."""
        mine, others = asdict(self), asdict(other)
        return {name: (mine[name], others[name]) for name in mine if mine[name] != others[name]}


def read_values(path: Path) -> dict[str, Any]:
    """The keys and values of a TOML file of configuration: some of Config's, or all.

    Raises UsageError, naming the file, if it cannot be read, or has keys that mean nothing.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: not found; a file as a run writes it, config.toml, is expected.") from None
    except (ValueError, RecursionError, OSError) as error:  # no TOML, no UTF-8, numbers or lists without end; no file
        raise UsageError(f"{path}: cannot be read ({error}); a file as a run writes it is expected.") from None
    _check_known(found, path)
    return {name: _from_toml(name, value, path) for name, value in found.items()}


def _check_known(names: Iterable[str], source: object) -> None:
    known = [field.name for field in fields(Config)]
    if unknown := sorted(set(names) - set(known)):
        near = {name: ["stages"] if name == "model" else get_close_matches(name, known, 1) for name in unknown}
        listed = [f"{name} (did you mean {guess[0]}?)" if guess else name for name, guess in near.items()]
        raise UsageError(f"{source}: unknown keys {', '.join(listed)}. Known are {', '.join(known)}.")


def _parsed(text: str) -> Any:
    """A value as TOML has it, numbers with commas between them, or else a text without its quotes."""
    for form in (text, f"[{text}]"):
        try:
            return tomllib.loads(f"value = {form}")["value"]
        except tomllib.TOMLDecodeError:
            pass
    return text.strip()


def _from_toml(name: str, value: Any, path: object) -> Any:
    """A value as Config has it: tuples for lists, or for one value where there may be many; None for [].

    UsageError for a value of another type than the key's.
    """
    annotation = next(str(field.type) for field in fields(Config) if field.name == name)
    kind = annotation.removesuffix(" | None")
    if value == [] and kind != annotation:
        return None
    if kind.startswith("tuple"):
        element = kind.removeprefix("tuple[").partition(",")[0]
        values = value if isinstance(value, list) else [value]
        fits = bool(values) or name == "epochs" if kind.endswith("...]") else len(values) == kind.count(element)
        if fits and all(type(one) in _ELEMENTS[element] for one in values):
            return tuple(values)
    elif type(value) in _ELEMENTS[kind]:
        return value
    shown = json.dumps(value, default=str, ensure_ascii=False)
    raise UsageError(f"{path}: {name} = {shown[:100]}, but {_in_words(annotation)} is expected.")


_ELEMENTS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
_WORDS = {"str": "a text in quotes", "int": "a whole number", "float": "a number", "bool": "true or false"}


def _in_words(annotation: str) -> str:
    """ "tuple[int, int] | None" -> "[a whole number, a whole number], or [] for none"."""
    kind = annotation.removesuffix(" | None")
    words = kind.removeprefix("tuple")
    for name, word in _WORDS.items():
        words = words.replace(name, word)
    return words if kind == annotation else f"{words}, or [] for none,"


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value}: choose one of {', '.join(choices)}.")
