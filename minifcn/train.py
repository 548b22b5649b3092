"""`python -m minifcn.train`: train a fully convolutional network.

Without arguments: the four stages of the paper in miniature, on pictures drawn on the fly.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from minifcn import models, weights
from minifcn.commands import Parser, parse_size, run_command
from minifcn.errors import UsageError
from minifcn.metrics import summary_table
from minifcn.models.fcn import GEOMETRIES, LEARNED_UPSAMPLING
from minifcn.training import Config, Run, resolve
from minifcn.training.config import FCN_STAGES, OPTIMIZERS, REDUCTIONS, spread
from minifcn.training.schedule import SCHEDULES
from minifcn.weights import WeightFile

EPILOG = """examples:
  python -m minifcn.train
      no arguments: a classifier, then FCN-32s, FCN-16s and FCN-8s on drawn pictures, in a few minutes
  python -m minifcn.train --data pictures --model fcn8s --size 180x240 --epochs 40 --out runs/mine
      your own pictures: a folder with images/ and masks/ (see README)
  python -m minifcn.train --weights vgg16.safetensors --data voc:VOCdevkit/VOC2012 --out runs/voc
      from pretrained weights (python -m minifcn.convert --list): FCN-32s, FCN-16s, then FCN-8s
  python -m minifcn.train --out runs/mine --resume
      go on where that run was stopped

Ctrl-C saves a checkpoint and stops. Exit codes: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted."""


def make_parser() -> Parser:
    parser = Parser("train", "Train a fully convolutional network for semantic segmentation.", EPILOG)
    _add_network(parser)
    _add_training(parser)
    _add_pictures(parser)
    _add_run(parser)
    parser.add_machine_options()
    return parser


def _add_network(parser: Parser) -> None:
    add = parser.add_argument_group("what to train").add_argument
    add("--data", help="a folder of images and masks, voc:ROOT, or shapes (default: shapes, drawn on the fly)")
    add("--foreground", type=int, metavar="VALUE", help="a folder whose masks hold only 0 and VALUE: make it class 1")
    pretrained = "weights to start from: a VGG classifier or an FCN, in any container that convert reads"
    add("--weights", metavar="FILE", help=pretrained)
    model = "train only this (default: all stages on shapes and from a classifier; else the FCN of --weights, or fcn8s)"
    add("--model", choices=FCN_STAGES, help=model)
    width = "channels of the first convolutions; VGG16 has 64 (default: 16; all stages: 8; else that of --weights)"
    add("--width", type=int, help=width)
    add("--fc-width", type=int, help="channels of fc6 and fc7 (default: 64 times the width; all stages: 128)")
    geometry = "paper: pad by 100 pixels; same: far cheaper (default: same; with --weights paper, or the FCN's)"
    add("--geometry", choices=tuple(GEOMETRIES), help=geometry)
    learned = "transposed convolutions to learn; the others stay bilinear (default: intermediate)"
    add("--learned-upsampling", choices=LEARNED_UPSAMPLING, help=learned)
    add("--dropout", type=float, metavar="P", help="after fc6 and fc7 (default: 0.5; all stages: 0.1)")


def _add_training(parser: Parser) -> None:
    group = parser.add_argument_group("how to train")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="passes over the training set (default: 30; 10 with --weights)")
    length.add_argument("--steps", type=int, help="batches a stage, in place of epochs (default on shapes: 1000)")
    add = group.add_argument
    add("--batch-size", type=int, help="pictures a batch (default: 4; all stages: 8; 1 with --weights)")
    add("--lr", type=float, help="learning rate; biases get twice as much (default: 1e-3; 1e-5 with --weights)")
    add("--optimizer", choices=OPTIMIZERS, help="(default: adam)")
    add("--momentum", type=float, help="of sgd (default: 0.9)")
    add("--weight-decay", type=float, help="of weights, not of biases (default: 0)")
    add("--schedule", choices=tuple(SCHEDULES), help="of the learning rate (default: poly, which falls to 0)")
    add(
        "--reduction",
        choices=REDUCTIONS,
        help="of the loss over pixels; a sum needs a far smaller lr (default: mean)",
    )
    drawn = "of drawn pictures, of the split of a folder without train and val, "
    add("--seed", type=int, help=drawn + "of initial values, order, augmentation and dropout (default: 0)")


def _add_pictures(parser: Parser) -> None:
    add = parser.add_argument_group("pictures").add_argument
    size = "scale pictures to this height and width (default: their own; 96 for shapes)"
    add("--size", type=parse_size, metavar="HxW", help=size)
    add("--crop", type=parse_size, metavar="HxW", help="train on random parts of this size")
    add("--scale", type=float, nargs=2, metavar=("MIN", "MAX"), help="train on pictures scaled by a random factor")
    add("--no-flip", dest="flip", action="store_const", const=False, help="do not mirror half of the pictures")


def _add_run(parser: Parser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--out", type=Path, metavar="DIR", help="folder of the run (default: the first free runs/NAME-N)")
    add("--resume", action="store_true", help="go on from the checkpoint in --out; options may be left out")
    validate = "measure on the val split every STEPS (default: at the end of a stage)"
    add("--validate-every", type=int, metavar="STEPS", help=validate)
    add("--checkpoint-every", type=int, metavar="STEPS", help="(default: 100)")
    add("--quiet", action="store_true", help="no progress, only the result")


def main(arguments: argparse.Namespace) -> int:
    not_configuration = {"out", "resume", "quiet", "device", "threads", "debug"}
    given = {key: value for key, value in vars(arguments).items() if key not in not_configuration and value is not None}
    if "scale" in given:
        given["scale"] = tuple(given["scale"])
    pretrained = None
    if arguments.weights and not (arguments.resume and _has_begun(arguments.out)):
        pretrained = weights.load(arguments.weights)
        models.check_known(arguments.weights, pretrained)
    config, out = _configuration(given, arguments.out, arguments.resume, pretrained)
    run = Run(
        config,
        out,
        pretrained=pretrained,
        resume=arguments.resume,
        device=arguments.device,
        say=(lambda line: None) if arguments.quiet else lambda line: print(line, flush=True),
        bar=sys.stderr.isatty() and not arguments.quiet,
    )
    try:
        results = run.run()
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: python -m minifcn.train --resume --out {out}", file=sys.stderr)
        raise
    labelling = [result for result in results if "mean_iu" in result]
    print("\n" + summary_table(labelling, run.progress.baseline))
    print(f"\nwritten to {out}: model.safetensors, report.json, metrics.csv, curves.png, predictions.png, config.toml")
    print(f"next: python -m minifcn.predict {out / 'model.safetensors'} IMAGE... --out predictions")
    return 0


def _has_begun(out: Path | None) -> bool:
    return out is not None and (out / "config.toml").exists()


def _configuration(
    given: dict[str, Any], out: Path | None, resume: bool, pretrained: WeightFile | None
) -> tuple[Config, Path]:
    """From the command line; or, on resuming, from the folder, which the command line must not contradict."""
    architecture = pretrained.architecture if pretrained else None
    if not resume:
        config = resolve(given, architecture)
        return config, out or _free_folder(config)
    if out is None:
        raise UsageError("--resume: say which run to go on with, by --out DIR.")
    if not _has_begun(out):
        if out.exists() and any(out.iterdir()):
            raise UsageError(
                f"--resume: {out} holds no run (no config.toml); leave out --resume, and name another --out."
            )
        return resolve(given, architecture), out  # stopped before it began: start
    saved = Config.from_toml(out / "config.toml")
    if "model" in given:
        given["stages"] = (given.pop("model"),)
    wanted = spread(given, len(saved.stages))
    differing = [
        f"{key} is {getattr(saved, key)}, not {value}" for key, value in wanted.items() if getattr(saved, key) != value
    ]
    if differing:
        raise UsageError(
            f"--resume: the run in {out} has another configuration ({'; '.join(differing)}). Leave these options out "
            "to go on with it, or start another run in another --out."
        )
    return saved, out


def _free_folder(config: Config) -> Path:
    name = Path(config.data.split(":")[-1]).name or "run"
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


if __name__ == "__main__":
    run_command(main, make_parser())
