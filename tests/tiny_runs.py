"""Whole runs that take a fraction of a second: networks two channels wide, on pictures of 32 pixels."""

import csv
import signal

import numpy as np
from numpy.testing import assert_array_equal
from PIL import Image
from safetensors.numpy import load_file

from minifcn.data import shapes
from minifcn.training import Config, Run, assembly
from minifcn.training.config import CLASSIFIER
from minifcn.training.folder import RunFolder
from minifcn.training.run import loop

STAGES = (CLASSIFIER, "fcn32s", "fcn16s", "fcn8s")


def few_pictures(monkeypatch):
    """Ten drawn pictures to train on and four to validate; small patches; no figures, which would take the longest."""
    monkeypatch.setattr(shapes, "_LENGTHS", {"train": 10, "val": 4})
    monkeypatch.setattr(RunFolder, "draw", lambda *arguments: None)
    monkeypatch.setattr(assembly, "PATCH_SIZE", 32)


def tiny(**changes):
    """The configuration of a run through one stage on drawn pictures, or others in its place."""
    values = {
        "data": "shapes",
        "size": (32, 32),
        "stages": ("fcn8s",),
        "steps": (2,),
        "lr": (1e-3,),
        "width": 2,
        "fc_width": 4,
        "batch_size": 2,
        "checkpoint_every": 1,
    }
    values |= changes
    for key in ("steps", "lr"):
        if len(values[key]) == 1:
            values[key] *= len(values["stages"])
    return Config(**values)


def start(config, out, **options):
    return Run(config, out, say=lambda line: None, bar=False, **options)


def call(command, *arguments):
    """Run a command in this process, which is faster than in one of its own; its exit code, or an exception."""
    return command.main(command.make_parser().parse_args([str(argument) for argument in arguments]))


def stop_after(monkeypatch, count):
    """From now on Ctrl-C is pressed once so many steps have been done, whatever their stage."""
    train, seen = loop.train, []

    def interrupted(*arguments, **options):
        for step in train(*arguments, **options):
            seen.append(step)
            if len(seen) == count:
                signal.raise_signal(signal.SIGINT)
            yield step

    monkeypatch.setattr(loop, "train", interrupted)


def rows_of(out):
    with open(out / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(out, other, *stages):
    for stage in stages:
        first, second = (load_file(folder / f"{stage}.safetensors") for folder in (out, other))
        assert first.keys() == second.keys()
        for name in first:
            assert_array_equal(first[name], second[name], err_msg=f"{stage}: {name}")


def write_pictures(root, splits=("train", "val"), count=6, sizes=((40, 30), (33, 37))):
    """A folder of noise with a square of class 1 and a smaller one of class 2, a picture for each of `count`."""
    generator = np.random.default_rng(0)
    for split in splits:
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
        for number in range(count):
            size = sizes[number % len(sizes)]
            mask = np.zeros(size, np.uint8)
            mask[5:20, 5 : 15 + number], mask[22:28, 8:16], mask[-3:] = 1, 2, 255
            image = generator.integers(0, 200, (*size, 3), np.uint8)
            image[mask == 1] += 50
            name = f"{split}{number}.png"
            Image.fromarray(image).save(root / split / "images" / name)
            Image.fromarray(mask).save(root / split / "masks" / name)
    return root
