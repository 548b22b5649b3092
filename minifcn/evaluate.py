"""`python -m minifcn.evaluate CHECKPOINT --data …`: how well a trained network labels a data set."""

import argparse
import sys
from typing import Any

from tqdm.auto import tqdm

from minifcn.commands import Parser, parse_size, run_command
from minifcn.data import open_for
from minifcn.errors import DataError, UsageError
from minifcn.files import to_json, write_atomically
from minifcn.metrics import per_class_table, summary_table
from minifcn.training import evaluate, load_segmenter, training_size

EPILOG = """examples:
  python -m minifcn.evaluate runs/shapes-1/model.safetensors
  python -m minifcn.evaluate model.safetensors --data voc:VOCdevkit/VOC2012 --json result.json

All figures come from one confusion matrix over the whole set; void pixels do not count.
Exit codes: 0 done, 1 the evaluation failed, 2 wrong usage, 130 interrupted."""


def make_parser() -> Parser:
    parser = Parser("evaluate", "Measure a trained network: pixel accuracy, mean accuracy, mean IU, f.w. IU.", EPILOG)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="model.safetensors of a run")
    parser.add_argument(
        "--data", help="a folder of images and masks, voc:ROOT, or shapes (default: what it was trained on)"
    )
    parser.add_argument("--split", default="val", help="which part of the data (default: val)")
    parser.add_argument(
        "--foreground", type=int, metavar="VALUE", help="a folder whose masks hold only 0 and VALUE: make it class 1"
    )
    parser.add_argument(
        "--size", type=parse_size, metavar="HxW", help="scale images and masks to this size (default: that of training)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="of drawn pictures, and of the split of a folder without train and val (default: that of training)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE, or to standard output for -")
    parser.add_machine_options()
    return parser


def main(arguments: argparse.Namespace) -> int:
    model, file = load_segmenter(arguments.checkpoint, arguments.device)
    spec = arguments.data or file.record.get("data")
    if spec is None:
        raise UsageError("--data: the checkpoint does not say what it was trained on; name a data set.")
    size = arguments.size or training_size(file)
    foreground, seed = arguments.foreground, arguments.seed
    if arguments.data is None:  # the very data of training: the same split, and masks read in the same way
        foreground = file.record.get("foreground") if foreground is None else foreground
    seed = file.record.get("seed", 0) if seed is None else seed
    dataset = open_for(spec, arguments.split, size=size, foreground=foreground, seed=seed)
    classes = tuple(file.record.get("classes", ()))
    if len(dataset.classes) != model.architecture["num_classes"] or (classes and classes != tuple(dataset.classes)):
        raise DataError(
            f"{spec}: has the classes {', '.join(dataset.classes)}, but {arguments.checkpoint} was trained for "
            f"{', '.join(classes) or model.architecture['num_classes']}; evaluate it on data with those classes."
        )

    def progress(batches: Any) -> Any:
        return tqdm(batches, unit="batch", disable=not sys.stderr.isatty())

    scaled = None if spec == "shapes" else size
    evaluation = evaluate(model, dataset, file.preprocessing, size=scaled, device=arguments.device, progress=progress)
    summary, baseline = evaluation.summary(), evaluation.baseline()
    confusion = evaluation.confusion
    if arguments.json != "-":
        at = f" at {size[0]}×{size[1]}" if size else ""
        print(f"{arguments.checkpoint} on {spec}, {arguments.split}, {len(dataset)} pictures{at}\n")
        print(per_class_table(confusion, dataset.classes))
        print("\n" + summary_table([{"stage": model.architecture["name"], **summary}], baseline))
    if arguments.json:
        _write_json(
            arguments.json,
            {
                "checkpoint": arguments.checkpoint,
                "data": spec,
                "split": arguments.split,
                "size": size,
                "pictures": len(dataset),
                **summary,
                "all_background": baseline,
                "classes": {
                    name: {"accuracy": float(accuracy), "iu": float(iu)}
                    for name, accuracy, iu in zip(
                        dataset.classes, confusion.class_accuracy, confusion.class_iu, strict=True
                    )
                },
                "confusion": confusion.counts.tolist(),
            },
        )
    return 0


def _write_json(target: str, result: dict[str, Any]) -> None:
    text = to_json(result)
    if target == "-":
        print(text, end="")
    else:
        write_atomically(target, text.encode())
        print(f"\nwritten to {target}")


if __name__ == "__main__":
    run_command(main, make_parser())
