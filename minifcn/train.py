"""`python -m minifcn.train`: train a fully convolutional network.

Without arguments: the four stages of the paper in miniature, on pictures drawn on the fly.
"""

import argparse
import sys
import textwrap
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from minifcn import data, models, weights
from minifcn.commands import ACCEPTED_DATA, Parser, parse_numbers, parse_size, run_command
from minifcn.errors import DataError, UsageError, WeightsError
from minifcn.metrics import figures_table, summary_table
from minifcn.models.fcn import GEOMETRIES, LEARNED_UPSAMPLING, SKIPS
from minifcn.training import RECIPES, Config, Run, resolve
from minifcn.training.checkpoint import read_progress
from minifcn.training.config import (
    BATCH_NORM,
    CLASS_WEIGHTS,
    CLASSIFIER,
    FCN_STAGES,
    FREE,
    OPTIMIZERS,
    read_values,
)
from minifcn.training.cross_validation import CrossValidation, cross_validate
from minifcn.training.folder import RunFolder
from minifcn.training.losses import LOSSES, REDUCTIONS
from minifcn.training.recipes import NEEDING_WEIGHTS, about_recipe
from minifcn.training.schedule import SCHEDULES
from minifcn.weights import WeightFile

EPILOG = """examples:
  python -m minifcn.train
      no arguments: a classifier, then FCN-32s, FCN-16s and FCN-8s on drawn pictures, in a few minutes
  python -m minifcn.train --data pictures --size 180x240 --epochs 40 --out runs/mine
      your own pictures: a folder with images/ and masks/ (see README)
  python -m minifcn.train --recipe heavy --weights vgg16.safetensors --data voc+sbd:DATA --out runs/voc
      as the paper: FCN-32s, FCN-16s, then FCN-8s from pretrained weights (python -m minifcn.convert --list)
  python -m minifcn.train --config runs/mine/config.toml --seed 1 --out runs/again
      repeat a run, with one change
  python -m minifcn.train --out runs/mine --resume
      go on where that run was stopped
  python -m minifcn.train --out runs/mine --resume --set lr=1e-4
      the same, at another learning rate from there on

What an option says wins over the file of --config, that over the recipe, that over the defaults above. The recipes:
RECIPES

Ctrl-C saves a checkpoint and stops. Exit codes: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted."""


def make_parser() -> Parser:
    recipes = [f"  {name}\n{textwrap.indent(textwrap.fill(about_recipe(name), 100), ' ' * 6)}" for name in RECIPES]
    epilog = EPILOG.replace("RECIPES", "\n".join(recipes))
    about = "Train a fully convolutional network for semantic segmentation.\n\n"
    about += "A default named below holds where the recipe says nothing (the recipes: at the end, and --recipe)."
    parser = Parser("train", about, epilog)
    _add_network(parser)
    _add_training(parser)
    _add_loss(parser)
    _add_pictures(parser)
    _add_run(parser)
    parser.add_machine_options()
    return parser


def _add_network(parser: Parser) -> None:
    group = parser.add_argument_group("what to train")
    add = group.add_argument
    recipe = "choices by name, see below (default: miniature on shapes, fine-tune with --weights, else from-scratch)"
    add("--recipe", choices=RECIPES, help=recipe)
    add("--config", type=Path, metavar="FILE", help="choices from a TOML file, such as the config.toml of a run")
    pretrained = "weights to start from: a VGG classifier or an FCN, in any container that convert reads"
    add("--weights", metavar="FILE", help=pretrained)
    networks = group.add_mutually_exclusive_group()
    stages = "networks to train one after the other, each from the one before: "
    stages += "classifier, 32s, 16s, 8s, 4s, 2s, 8s-at-once; or basic, alone"
    networks.add_argument("--stages", type=parse_stages, metavar="NAME,NAME,…", help=stages)
    networks.add_argument("--model", choices=FCN_STAGES, help="train only this; short for --stages with one name")
    width = "channels of the first convolutions; VGG16 has 64 (default: 16; with --weights, the file's)"
    add("--width", type=int, metavar="N", help=width)
    fc_width = "channels of fc6 and fc7; 0 for 64 times the width, as VGG16 has (default: 0)"
    add("--fc-width", type=int, metavar="N", help=fc_width)
    geometry = "paper: pad by 100 pixels, as the released networks; same: far cheaper on small pictures (default: same)"
    add("--geometry", choices=tuple(GEOMETRIES), help=geometry)
    add("--skips", choices=SKIPS, help="whether the scores of finer layers are added, or there are none (default: add)")
    learned = "transposed convolutions to learn; the others stay bilinear (default: intermediate)"
    add("--learned-upsampling", choices=LEARNED_UPSAMPLING, help=learned)
    normalisation = "batch normalisation: none, train, or frozen at the values of --weights (default: none)"
    add("--batch-norm", choices=BATCH_NORM, help=normalisation)
    add("--dropout", type=float, metavar="P", help="share of values dropped after fc6 and fc7 (default: 0.5)")


def _add_training(parser: Parser) -> None:
    group = parser.add_argument_group("how to train")
    length = group.add_mutually_exclusive_group()
    for_stages = "; one number, or one for each stage, with commas"
    length.add_argument("--epochs", type=parse_whole, metavar="N", help=f"passes over the training set{for_stages}")
    length.add_argument("--steps", type=parse_whole, metavar="N", help=f"steps, in place of epochs{for_stages}")
    add = group.add_argument
    add("--batch-size", type=int, metavar="N", help="pictures a batch (default: 4)")
    add("--accumulate", type=int, metavar="N", help="add up the gradients of N batches for each step (default: 1)")
    add("--lr", type=parse_numbers, metavar="RATE", help=f"learning rate; biases get twice as much{for_stages}")
    add("--optimizer", choices=OPTIMIZERS, help="(default: adam)")
    add("--momentum", type=float, metavar="MU", help="of sgd (default: 0.9)")
    add("--weight-decay", type=float, metavar="RATE", help="of weights, not of biases (default: 0)")
    schedule = "of the learning rate: fixed, poly, which falls to 0, or step, in steps (default: poly)"
    add("--schedule", choices=tuple(SCHEDULES), help=schedule)
    add("--warm-up", type=int, metavar="STEPS", help="let the learning rate rise over so many steps (default: 0)")
    every = "with --schedule step: how often it falls; 0 for after each third of all steps (default: 0)"
    add("--step-every", type=int, metavar="STEPS", help=every)
    add("--step-factor", type=float, metavar="FACTOR", help="with --schedule step: to what part (default: 0.1)")
    drawn = "of drawn pictures, of the split of a folder without train and val, "
    add("--seed", type=int, metavar="N", help=drawn + "of initial values, order, augmentation and dropout (default: 0)")


def _add_loss(parser: Parser) -> None:
    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=LOSSES, help="(default: cross-entropy)")
    weights_help = "weigh classes by how rare they are in the training set (default: none)"
    add("--class-weights", choices=CLASS_WEIGHTS, help=weights_help)
    power = "raise these weights to this power; 0.5, the square root, softens them (default: 1)"
    add("--class-weight-power", type=float, metavar="P", help=power)
    reduction = "over pixels; a sum needs a far smaller lr (default: mean)"
    add("--reduction", choices=REDUCTIONS, help=reduction)
    sampling = "learn from a random share of each picture's pixels, as patchwise training does (default: 1)"
    add("--keep-pixels", type=float, metavar="SHARE", help=sampling)


def _add_pictures(parser: Parser) -> None:
    add = parser.add_argument_group("pictures").add_argument
    add("--data", metavar="DATA", help=f"{ACCEPTED_DATA} (default: shapes, drawn on the fly)")
    add("--download", action="store_true", help="fetch the data set first, if it is one that is published")
    add("--split", metavar="NAME", help="what to train on: the name of a part of the data (default: train)")
    add("--val-split", metavar="NAME", help="what to measure on (default: val)")
    folds = "cross-validation: train N networks, each on all but an Nth of train and val, and measure it on that"
    add("--folds", type=int, metavar="N", help=folds)
    add("--fold", type=int, metavar="NUMBER", help="train only this one of the --folds, from 1")
    add("--group", metavar="PATTERN", help="keep pictures together whose names match alike, such as '(patient[0-9]+)_'")
    add("--foreground", type=int, metavar="VALUE", help="a folder whose masks hold only 0 and VALUE: make it class 1")
    size = "scale pictures to this height and width (default: their own; 96 for shapes)"
    add("--size", type=parse_size, metavar="HxW", help=size)
    scale = "train on pictures scaled by a random factor, of which a part of --size is used (or --crop, if given)"
    add("--crop", type=parse_size, metavar="HxW", help="train on random parts of this size")
    add("--scale", type=float, nargs=2, metavar=("MIN", "MAX"), help=scale)
    add("--jitter", type=float, metavar="J", help="vary brightness, contrast and saturation by 1 ± J (default: 0)")
    add("--flip", action=argparse.BooleanOptionalAction, help="mirror half of the pictures (default: yes)")


def _add_run(parser: Parser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--out", type=Path, metavar="DIR", help="folder of the run (default: the first free runs/NAME-N)")
    group = parser.add_argument_group("a run that is there already")
    choice = group.add_mutually_exclusive_group()
    resume = "go on from the checkpoint in --out; with the options of a run, start it if there is none"
    choice.add_argument("--resume", action="store_true", help=resume)
    choice.add_argument("--overwrite", action="store_true", help="remove the run in --out, and start anew")
    changes = "with --resume: go on with another value, such as lr=1e-4 (lr=1e-3,1e-4 for the stages); may be repeated"
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help=changes)
    validate = "measure on the val split every STEPS; 0 for only at the end of each stage (default: 0)"
    add("--validate-every", type=int, metavar="STEPS", help=validate)
    add("--checkpoint-every", type=int, metavar="STEPS", help="save what --resume needs every STEPS (default: 100)")
    skip = "leave out pictures that cannot be read, and count them (default: end at the first)"
    add("--skip-bad", action="store_true", help=skip)
    add("--quiet", action="store_true", help="no progress, only warnings and the result")


def main(arguments: argparse.Namespace) -> int:
    given = {key: value for key, value in vars(arguments).items() if key in _CONFIGURATION and value is not None}
    if "scale" in given:
        given["scale"] = tuple(given["scale"])
    if arguments.download:
        spec = given.get("data", _written(arguments).get("data", "shapes"))
        given["data"] = data.download(spec, progress=sys.stderr.isatty(), say=partial(print, file=sys.stderr))
    config, out, pretrained = _configuration(given, arguments)
    if arguments.recipe in NEEDING_WEIGHTS and not config.weights and config.stages[0] != CLASSIFIER:
        print(
            f"warning: --recipe {arguments.recipe} is made to start from pretrained weights, but there are none, so "
            "the network starts from random ones and will hardly learn. Add --weights vgg16.safetensors (python -m "
            "minifcn.convert --list), or use --recipe from-scratch.",
            file=sys.stderr,
        )
    options: dict[str, Any] = {
        "pretrained": pretrained,
        "resume": arguments.resume,
        "overwrite": arguments.overwrite,
        "skip_bad": arguments.skip_bad,
        "device": arguments.device,
        "say": (lambda line: None) if arguments.quiet else lambda line: print(line, flush=True),
        "bar": sys.stderr.isatty() and not arguments.quiet,
    }
    again = f"python -m minifcn.train --resume --out {out}"
    try:
        if config.folds and not config.fold:
            return _report_folds(cross_validate(config, out, **options), out)
        run = Run(config, out, **options)
        results = run.run()
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: {again}", file=sys.stderr)
        raise
    except (OSError, DataError):
        if (out / "checkpoint.safetensors").exists():
            print(f"The last checkpoint is kept; once this is mended, go on with: {again}", file=sys.stderr)
        raise
    labelling = [result for result in results if "mean_iu" in result]
    shown = [{**result, "intervals": {"mean_iu": result["intervals"]["mean_iu"]}} for result in labelling]
    print("\n" + summary_table(shown, run.progress.baselines))
    print(f"\nwritten to {out}: model.safetensors, report.json, metrics.csv, curves.png, predictions.png, config.toml")
    print(f"next: python -m minifcn.predict {out / 'model.safetensors'} IMAGE... --out predictions")
    return 0


def _report_folds(result: CrossValidation, out: Path) -> int:
    baselines = result.evaluation.baselines(result.dataset.classes, result.report["confidence"])
    print("\n" + summary_table(result.rows, baselines))
    print("\n" + figures_table({"stage": "all folds", **result.report}, baselines))
    print(f"\nwritten to {out}: report.json, images.csv, confusion.csv, confusion.png; a run for each fold in fold-N")
    return 0


_CONFIGURATION = {field.name for field in fields(Config)} | {"model"}


def _configuration(given: dict[str, Any], arguments: argparse.Namespace) -> tuple[Config, Path, WeightFile | None]:
    """What to do, where, and the weights to start from. On resuming, the folder says it, and nothing may contradict."""
    out = arguments.out
    if arguments.resume and out is None:
        raise UsageError("--resume: say which run to go on with, by --out DIR.")
    if arguments.changes and not arguments.resume:
        raise UsageError(f"--set {arguments.changes[0]}: is for --resume; a new run takes it as an option of its own.")
    if arguments.resume and (out / "config.toml").exists():
        saved = Config.from_toml(out / "config.toml")
        _check_same(saved, given, arguments)
        same = replace(saved, **{key: given[key] for key in FREE if key in given})
        return _changed(same, arguments), out, None
    if arguments.resume and not RunFolder(out).is_empty():
        raise UsageError(f"--resume: {out} holds no run (no config.toml); leave out --resume, and name another --out.")
    if arguments.resume and not given and not arguments.recipe and not arguments.config:
        raise UsageError(f"--resume: there is no run in {out}; see whether the name is right, or say what to train on.")
    path = given.get("weights", _written(arguments).get("weights"))
    pretrained = weights.load(path) if path else None
    if pretrained is not None:
        models.check_known(str(path), pretrained)
    architecture = pretrained.architecture if pretrained else None
    config = resolve(given, architecture, recipe=arguments.recipe, file=arguments.config)
    if arguments.resume:
        print(f"--resume: there is no run in {out} yet; starting anew", file=sys.stderr)
    return config, out or _free_folder(config), pretrained


def _changed(saved: Config, arguments: argparse.Namespace) -> Config:
    """The configuration of a run that is resumed, with the changes of --set, which are said."""
    config = saved.changed(arguments.changes)
    checkpoint = RunFolder(arguments.out).checkpoint
    if arguments.changes and checkpoint.exists() and read_progress(checkpoint).stage >= len(saved.stages):
        raise UsageError(
            f"--set {arguments.changes[0]}: the run in {arguments.out} is finished, and nothing would follow the new "
            f"value. To train on, start a run with --weights {arguments.out / 'model.safetensors'} and another --out."
        )
    for key, (was, now) in saved.differences(config).items():
        print(f"--set: {key} was {_in_words(was)}, is now {_in_words(now)}", file=sys.stderr)
    return config


def _in_words(value: Any) -> str:
    """As the command line has it: numbers for the stages with commas."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _written(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the file of --config says."""
    return read_values(arguments.config) if arguments.config else {}


def _check_same(saved: Config, given: dict[str, Any], arguments: argparse.Namespace) -> None:
    """UsageError if the command line, or what it names, asks for anything else than the run that is to be resumed."""
    recipe, architecture = arguments.recipe, None
    if recipe and saved.weights:
        try:
            architecture = weights.load(saved.weights).architecture
        except WeightsError:  # it is gone; so nobody knows any more what the recipe meant for it
            recipe = None
    wanted = resolve(given, architecture, recipe=recipe, file=arguments.config, saved=saved)
    differences = {key: both for key, both in saved.differences(wanted).items() if key not in FREE}
    differing = [f"{key} is {mine}, not {other}" for key, (mine, other) in differences.items()]
    if differing:
        raise UsageError(
            f"--resume: the run in {arguments.out} has another configuration ({'; '.join(differing)}). Leave these "
            "options out to go on with it, or start another run in another --out. (--set lr=1e-4 changes what can be.)"
        )


def parse_stages(text: str) -> tuple[str, ...]:
    """ "classifier,32s,8s" -> ("classifier", "fcn32s", "fcn8s")."""
    short = {stage.removeprefix("fcn").removeprefix("-"): stage for stage in (CLASSIFIER, *FCN_STAGES)}
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in short and name not in short.values()]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(short)}")
    return tuple(short.get(name, name) for name in names)


def parse_whole(text: str) -> tuple[int, ...]:
    """ "100,200" -> (100, 200)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, nor such with commas between") from None


def _free_folder(config: Config) -> Path:
    name = Path(config.data.split(":")[-1]).name or "run"
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


if __name__ == "__main__":
    run_command(main, make_parser())
