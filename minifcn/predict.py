"""`python -m minifcn.predict CHECKPOINT IMAGE… --out DIR`: label the pixels of pictures."""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from minifcn import Tensor, models, no_grad, visualize, weights
from minifcn.commands import Parser, parse_size, run_command
from minifcn.data import read_image, voc_palette
from minifcn.errors import MinifcnError, UsageError

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
    file = weights.load(arguments.checkpoint)
    model = models.from_weights(arguments.checkpoint)
    if not isinstance(model, models.FCN):
        raise UsageError(f"{arguments.checkpoint}: holds a classifier, which labels pictures, not pixels.")
    model.to(arguments.device)
    classes = file.record.get("classes") or [f"class {i}" for i in range(model.architecture["num_classes"])]
    palette = voc_palette()
    stored = np.array(file.record.get("palette", palette), np.uint8)
    palette[: len(stored)] = stored
    size = arguments.size or (tuple(file.record["size"]) if file.record.get("size") else None)
    background = 0 if classes[0] == "background" else None  # background stays as it is in the picture
    _refuse_collisions(arguments.images)
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


def label_pixels(
    model: models.FCN,
    image: np.ndarray,
    preprocessing: weights.Preprocessing,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """The class of each pixel of a uint8 (H, W, 3) picture, as uint8 (H, W).

    size: what the picture is scaled to for the network; the scores are scaled back before the best class is chosen, so
    that borders are as smooth as the network sees them.
    """
    height, width = image.shape[:2]
    if size is not None and size != (height, width):
        image = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    model.eval()
    with no_grad():
        scores = model(Tensor(preprocessing.apply(image)[None], device=device)).numpy()[0]  # (C, h, w)
    if scores.shape[1:] == (height, width):
        return scores.argmax(axis=0).astype(np.uint8)
    best, labels = np.full((height, width), -np.inf, np.float32), np.zeros((height, width), np.uint8)
    for number, score in enumerate(scores):  # class by class, so that a large picture needs no C planes of its size
        plane = np.asarray(Image.fromarray(score).resize((width, height), Image.Resampling.BILINEAR))
        labels[plane > best] = number
        np.maximum(best, plane, out=best)
    return labels


def _refuse_collisions(paths: list[Path]) -> None:
    """Two pictures of one name would overwrite each other's result."""
    seen: dict[str, Path] = {}
    for path in paths:
        for name in (path.stem, f"{path.stem}-overlay"):
            if name in seen and seen[name] != path:
                raise UsageError(
                    f"{seen[name]} and {path}: would both be written to {name}.png; predict them into two folders."
                )
            seen[name] = path


if __name__ == "__main__":
    run_command(main, make_parser())
