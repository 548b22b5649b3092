"""`python -m minifcn.evaluate CHECKPOINT --data …`: how well a trained network labels a data set."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from minifcn import data
from minifcn.backend import get_backend
from minifcn.commands import ACCEPTED_DATA, Parser, parse_size, run_command
from minifcn.data import Dataset
from minifcn.errors import DataError, UsageError
from minifcn.files import to_json, write_atomically
from minifcn.metrics import Evaluation, figures_report, figures_table, interval_note, per_class_table
from minifcn.training import evaluate, load_segmenter, training_size
from minifcn.training.evaluation import worst_sheet, write_evaluation
from minifcn.weights import WeightFile

EPILOG = """examples:
  python -m minifcn.evaluate runs/shapes-1/model.safetensors
  python -m minifcn.evaluate model.safetensors --data voc:VOCdevkit/VOC2012 --out evaluation

All figures come from one confusion matrix over the whole set; void pixels do not count. Beside them stands what
predicting one class everywhere would get: class 0, by convention the background, and the most frequent class if that is
another. An interval says how far a figure would move with other pictures of the same kind.
Exit codes: 0 done, 1 the evaluation failed, 2 wrong usage, 130 interrupted."""


def make_parser() -> Parser:
    parser = Parser("evaluate", "Measure a trained network: pixel accuracy, mean accuracy, mean IU, f.w. IU.", EPILOG)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="model.safetensors of a run, or what convert reads")
    add = parser.add_argument_group("pictures").add_argument
    add("--data", help=f"{ACCEPTED_DATA} (default: what it was trained on)")
    add("--download", action="store_true", help="fetch the data set first, if it is one that is published")
    add("--split", help="which part of the data (default: val, or what training was measured on)")
    add("--foreground", type=int, metavar="VALUE", help="a folder whose masks hold only 0 and VALUE: make it class 1")
    size = "scale images and masks to this size (default: that of training)"
    add("--size", type=parse_size, metavar="HxW", help=size)
    seed = "of drawn pictures, and of the split of a folder without train and val (default: that of training)"
    add("--seed", type=int, help=seed)
    add = parser.add_argument_group("what to measure").add_argument
    band = "boundary IU is that of pixels at most so far from a border in the truth (default: 3)"
    add("--boundary-width", type=int, default=3, metavar="PIXELS", help=band)
    ignored = "leave out pixels of this label too, for example 0 (void, 255, never counts)"
    add("--ignore-label", type=int, metavar="LABEL", help=ignored)
    confidence = "of the intervals: a bootstrap over pictures (default: 0.95)"
    add("--confidence", type=float, default=0.95, metavar="SHARE", help=confidence)
    add = parser.add_argument_group("results").add_argument
    files = "write report.json, confusion.csv and .png, images.csv, and the worst pictures as worst.png"
    add("--out", type=Path, metavar="DIR", help=files)
    add("--json", metavar="FILE", help="write all figures to FILE, or to standard output for -")
    parser.add_machine_options()
    return parser


def main(arguments: argparse.Namespace) -> int:
    _check(arguments)
    model, file = load_segmenter(arguments.checkpoint, arguments.device)
    size = arguments.size or training_size(file)
    dataset, spec, split = _open(arguments, file, size)
    _check_classes(dataset, spec, model.architecture["num_classes"], file, arguments.checkpoint)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "size": None if spec == "shapes" else size,  # shapes are drawn at their size
        "device": arguments.device,
        "ignore_label": arguments.ignore_label,
    }
    result = evaluate(
        model, dataset, file.preprocessing, boundary_width=arguments.boundary_width, progress=_progress, **options
    )
    intervals = result.intervals(arguments.confidence)
    baselines = result.baselines(dataset.classes, arguments.confidence)
    report = {
        "checkpoint": arguments.checkpoint,
        "data": spec,
        "split": split,
        "size": size,
        "pictures": len(dataset),
        "machine": get_backend(arguments.device).describe(),
        **figures_report(result, dataset.classes, intervals, baselines),
    }
    quiet = arguments.json == "-"
    if not quiet:
        at = f" at {size[0]}×{size[1]}" if size else ""
        print(f"{arguments.checkpoint} on {spec}, {split}, {len(dataset)} pictures{at}\n")
        print(per_class_table(result.confusion, dataset.classes, intervals))
        print("\n" + figures_table({"stage": model.architecture["name"], **report}, baselines))
        print("\n" + _notes(result, arguments.confidence))
    if quiet:
        print(to_json(report), end="")
    elif arguments.json:
        write_atomically(arguments.json, to_json(report).encode())
        print(f"\nwritten to {arguments.json}")
    if arguments.out:
        worst = worst_sheet(model, dataset, file.preprocessing, result, **options)
        written = write_evaluation(arguments.out, report, result, dataset, worst)
        if not quiet:
            print(f"\nwritten to {arguments.out}:")
            print("\n".join(f"  {name:<13}  {what}" for name, what in written.items()))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """UsageError for what cannot work, before anything is read."""
    if arguments.boundary_width < 1:
        raise UsageError(f"--boundary-width {arguments.boundary_width}: at least 1 pixel is needed.")
    if not 0 < arguments.confidence < 1:
        raise UsageError(f"--confidence {arguments.confidence}: a share between 0 and 1 is needed, such as 0.95.")
    if arguments.ignore_label is not None and not 0 <= arguments.ignore_label <= 255:
        raise UsageError(f"--ignore-label {arguments.ignore_label}: labels are 0 to 255.")
    out = arguments.out
    if out is not None and (out / "config.toml").exists():  # the run has a report.json of its own
        raise UsageError(f"--out {out}: is the folder of a run; name another, such as {out / 'evaluation'}.")


def _open(arguments: argparse.Namespace, file: WeightFile, size: tuple[int, int] | None) -> tuple[Dataset, str, str]:
    """The pictures to measure on, what the user would type for them, and which part of them they are."""
    record = file.record
    spec = arguments.data or record.get("data")
    if spec is None:
        raise UsageError("--data: the checkpoint does not say what it was trained on; name a data set.")
    if arguments.download:
        spec = data.download(spec, progress=sys.stderr.isatty(), say=lambda line: print(line, file=sys.stderr))
    split, foreground, seed = arguments.split, arguments.foreground, arguments.seed
    seed = record.get("seed", 0) if seed is None else seed
    if arguments.data is None:  # the very data of training: the same split, and masks read in the same way
        foreground = record.get("foreground") if foreground is None else foreground
        fold = None if split else _left_out(record)
        if fold is not None:
            pictures = data.open_fold(spec, part="val", size=size, foreground=foreground, seed=seed, **fold)
            return pictures, spec, f"val of fold {fold['number']}"
        split = split or record.get("split")
    split = split or "val"
    return data.open_for(spec, split, size=size, foreground=foreground, seed=seed), spec, split


def _left_out(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fold on which the network was not trained, as data.open_fold takes it; None without cross-validation."""
    match record.get("folds"):
        case {"splits": [*splits], "number": int(number), "count": int(count), "group": str(group)}:
            return {"splits": splits, "number": number, "count": count, "group": group}
    return None


def _check_classes(dataset: Dataset, spec: str, number: int, file: WeightFile, checkpoint: str) -> None:
    """DataError unless the data have the classes that the network was trained for."""
    names = tuple(file.record.get("classes", ()))
    if len(dataset.classes) != number or (names and names != tuple(dataset.classes)):
        raise DataError(
            f"{spec}: has the classes {', '.join(dataset.classes)}, but {checkpoint} was trained for "
            f"{', '.join(names) or number}; evaluate it on data with those classes."
        )


def _notes(result: Evaluation, confidence: float) -> str:
    width = result.boundary_width
    return (
        f"{interval_note(len(result.names), confidence)}\n"
        f"boundary IU: the mean IU of pixels at most {width} {'pixel' if width == 1 else 'pixels'} from a border."
    )


def _progress(batches: Any) -> Any:
    return tqdm(batches, unit="batch", disable=not sys.stderr.isatty())


if __name__ == "__main__":
    run_command(main, make_parser())
