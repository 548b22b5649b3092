"""`python -m minifcn.predict CHECKPOINT IMAGE… --out DIR`: label the pixels of pictures."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minifcn import visualize
from minifcn.commands import Parser, parse_size, run_command
from minifcn.data import read_image, voc_palette
from minifcn.data.voc import VOC_CLASSES
from minifcn.errors import MinifcnError, UsageError, WeightsError
from minifcn.training import label_pixels, load_segmenter, training_size

EPILOG = """example:
  python -m minifcn.predict runs/shapes-1/model.safetensors holiday/*.jpg --out predictions

For each image two pictures are written, at its own size: NAME.png, whose pixel values are the classes (shown in the
palette's colours), and NAME-overlay.png, the image with the classes laid over it, and a legend beneath.
Exit codes: 0 done, 1 some image failed (the others are done), 2 wrong usage, 130 interrupted."""


def make_parser() -> Parser:
    parser = Parser("predict", "Label every pixel of pictures with a trained network.", EPILOG)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="model.safetensors of a run")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="pictures, in any format that Pillow opens"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results; made if needed")
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="scale pictures to this size for the network (default: that of training, if there was one)",
    )
    parser.add_machine_options()
    return parser


def main(arguments: argparse.Namespace) -> int:
    model, file = load_segmenter(arguments.checkpoint, arguments.device)
    classes = file.record.get("classes") or _usual_classes(model.architecture["num_classes"])
    palette = voc_palette()
    stored = file.record.get("palette", palette)
    try:
        palette[: len(stored)] = stored
    except (TypeError, ValueError, OverflowError):
        raise WeightsError(
            f"{arguments.checkpoint}: its record is damaged; a palette is colours of 0 to 255."
        ) from None
    size = arguments.size or training_size(file)
    background = 0 if classes[0] == "background" else None  # background stays as it is in the picture
    _refuse_collisions(arguments.images, arguments.out)
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for path in arguments.images:
        try:
            image = read_image(path)
        except MinifcnError as error:
            failed.append(path)
            print(f"error: {error}", file=sys.stderr)
            continue
        labels = label_pixels(model, image, file.preprocessing, size, arguments.device)
        visualize.save_mask(labels, palette, arguments.out / f"{path.stem}.png")
        picture = visualize.overlay(image, labels, palette, background=background)
        present = set(np.unique(labels).tolist()) - {background}
        picture = visualize.add_legend(picture, classes, palette, present)
        visualize.save_picture(picture, arguments.out / f"{path.stem}-overlay.png")
        shares = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
        found = ", ".join(f"{classes[i]} {100 * shares[i]:.0f} %" for i in np.argsort(-shares)[:4] if shares[i] > 0)
        print(f"{path} -> {arguments.out / path.stem}.png: {found}", flush=True)
    if failed:
        print(
            f"{len(failed)} of {len(arguments.images)} pictures failed: {', '.join(map(str, failed))}", file=sys.stderr
        )
    return 1 if failed else 0


def _usual_classes(count: int) -> Sequence[str]:
    """Names for a file without any. Released FCNs have PASCAL VOC's 21 classes."""
    if count != len(VOC_CLASSES):
        return [f"class {number}" for number in range(count)]
    print(f"The file names no classes; {count} are taken for those of PASCAL VOC.", file=sys.stderr)
    return VOC_CLASSES


def _refuse_collisions(paths: list[Path], out: Path) -> None:
    """Nothing may overwrite a picture, nor another picture's result."""
    pictures = {path.resolve() for path in paths}
    seen: dict[str, Path] = {}
    for path in paths:
        for name in (f"{path.stem}.png", f"{path.stem}-overlay.png"):
            if seen.setdefault(name, path) != path:
                raise UsageError(f"{seen[name]} and {path}: would both be written to {name}; predict into two folders.")
            if (out / name).resolve() in pictures:
                raise UsageError(f"--out {out}: the result {name} would overwrite a picture; name another folder.")


if __name__ == "__main__":
    run_command(main, make_parser())
