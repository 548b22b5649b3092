"""What a configuration means: the data sets, the network of a stage, its loss and optimiser, the batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minifcn import data, models
from minifcn.data import Dataset, Loader
from minifcn.data.patches import CentrePatch
from minifcn.models import FCNBasic
from minifcn.training.config import CLASSIFIER, Config
from minifcn.training.losses import Loss, check_scale, classification_loss, segmentation_loss
from minifcn.training.optim import SGD, Adam, Optimizer, paper_groups
from minifcn.training.schedule import Schedule, make_schedule
from minifcn.weights import Preprocessing

PATCH_SIZE = 96  # pixels: what a classifier sees of pictures that are not drawn for it


def open_split(config: Config, split: str, problems: list[str] | None = None) -> Dataset:
    """A part of the configuration's data set: what it trains on (its `split`), or validates on (its `val_split`).

    With folds, the two are joined and dealt out anew; see data/folds.py. problems: see data.open_dataset.
    """
    options: dict[str, Any] = {"size": config.size, "foreground": config.foreground, "seed": config.seed}
    options["problems"] = problems
    if config.folds:
        part = "train" if split == config.split else "val"
        options |= {"number": config.fold, "count": config.folds, "group": config.group}
        return data.open_fold(config.data, (config.split, config.val_split), part, **options)
    without = config.val_split if split == config.split else None  # whatever lists say, val is never trained on
    return data.open_for(config.data, split, **options, without=without)


def scaled_size(config: Config) -> tuple[int, int] | None:
    """What pictures are scaled to; shapes are drawn at their size."""
    return None if config.data == "shapes" else config.size


def build_network(config: Config, stage: str, classes: tuple[str, ...]) -> Any:
    """The untrained network of a stage; `classes` are those of the pictures."""
    if stage == FCNBasic.name:  # always normalised, and without dense layers
        learned = "none" if config.learned_upsampling == "none" else "all"
        return _frozen_if_asked(
            config,
            FCNBasic(len(classes), config.width, skips=config.skips, learned_upsampling=learned, seed=config.seed),
        )
    architecture: dict[str, Any] = {
        "width": config.width,
        "fc_width": config.fc_width or None,
        "dropout": config.dropout,
        "batch_norm": config.batch_norm != "none",
    }
    if stage == CLASSIFIER:
        objects = data.ClassifiedShapes.classes if config.data == "shapes" else classes
        architecture |= {"name": "vgg16", "num_classes": len(objects)}
    else:
        architecture |= {
            "name": stage,
            "num_classes": len(classes),
            "geometry": config.geometry,
            "skips": config.skips,
            "learned_upsampling": config.learned_upsampling,
        }
    return _frozen_if_asked(config, models.build(architecture, seed=config.seed))


def _frozen_if_asked(config: Config, model: Any) -> Any:
    if config.batch_norm == "frozen":
        model.freeze_batch_norm()
    return model


def make_optimizer(config: Config, model: Any, lr: float) -> Optimizer:
    groups = paper_groups(model, lr=lr, weight_decay=config.weight_decay)
    if config.optimizer == "sgd":
        return SGD(groups, lr=lr, momentum=config.momentum)
    return Adam(groups, lr=lr)


def make_loss(config: Config, stage: str, class_weights: list[float]) -> Loss:
    """class_weights: one for each class, or [] for equal ones."""
    if stage == CLASSIFIER:
        return classification_loss
    return segmentation_loss(
        config.loss,
        reduction=config.reduction,
        class_weights=np.array(class_weights, np.float32) if class_weights else None,
        keep_pixels=config.keep_pixels,
    )


def schedule_of(config: Config) -> Schedule:
    return make_schedule(
        config.schedule, warm_up=config.warm_up, step_every=config.step_every, step_factor=config.step_factor
    )


def clash(config: Config, stage: str, lr: float, picture_size: tuple[int, ...]) -> str | None:
    """What is wrong if a stage's learning rate does not go with the loss's normalisation; None if nothing is.

    picture_size: (height, width) of the pictures, where the configuration does not set it.
    """
    if stage == CLASSIFIER:
        return None
    height, width = config.crop or config.size or picture_size
    return check_scale(
        config.reduction,
        lr,
        optimizer=config.optimizer,
        momentum=config.momentum,
        pixels=config.batch_size * height * width,
    )


def segmentation_loader(
    config: Config, dataset: Dataset, preprocessing: Preprocessing, skip: Callable[[str], None] | None = None
) -> Loader:
    """Training batches. What was scaled at random is cut or padded back to the size that was asked for."""
    crop = config.crop or (config.size if config.scale else None)
    return Loader(
        dataset,
        config.batch_size,
        normalise=preprocessing.apply,
        augment=data.Augment(flip=config.flip, crop=crop, scale=config.scale, jitter=config.jitter),
        size=scaled_size(config),
        seed=config.seed,
        drop_last=len(dataset) >= config.batch_size,
        skip=skip,
    )


def classifier_loader(
    config: Config,
    dataset: Dataset,
    preprocessing: Preprocessing,
    train: bool,
    skip: Callable[[str], None] | None = None,
) -> Loader:
    """Drawn pictures with one object in the middle, of the size at which the segmenter will see such objects; of
    other data, patches with the class of the pixel in the middle.
    """
    drawn = config.data == "shapes"
    if drawn:
        size = config.size or PATCH_SIZE
        dataset = data.ClassifiedShapes("train" if train else "val", size=size, seed=config.seed)
    return Loader(
        dataset,
        config.batch_size,
        normalise=preprocessing.apply,
        augment=None if drawn else CentrePatch(PATCH_SIZE),
        size=scaled_size(config),
        shuffle=train,
        seed=config.seed,
        drop_last=train and len(dataset) >= config.batch_size,
        skip=skip,
    )
