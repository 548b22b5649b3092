"""`python -m minifcn.predict CHECKPOINT IMAGE… --out DIR`: label the pixels of pictures."""

import argparse
import glob
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from minifcn import ops, visualize
from minifcn.commands import Parser, parse_numbers, parse_size, run_command
from minifcn.data import Picture, voc_palette
from minifcn.data.images import readable_suffixes
from minifcn.data.voc import VOC_CLASSES
from minifcn.errors import MinifcnError, UsageError, WeightsError
from minifcn.files import npz_file
from minifcn.prediction import TILE, check_options, label_pixels
from minifcn.training import load_segmenter, training_size
from minifcn.weights import WeightFile

EPILOG = """examples:
  python -m minifcn.predict runs/shapes-1/model.safetensors holiday/*.jpg --out predictions
  python -m minifcn.predict model.safetensors survey --out maps --size own --scales 0.75,1,1.25 --flip

For each image two pictures are written, at its own size: NAME.png, whose pixel values are the classes (shown in the
palette's colours), and NAME-overlay.png, the image with the classes laid over it, and a legend beneath. A picture
larger than --tile is computed in parts, with so much around each that the result is that of the whole; memory beyond
the decoded picture and its mask does not grow with it.
Exit codes: 0 done, 1 some image failed (the others are done), 2 wrong usage, 130 interrupted."""

OWN = "own"


def make_parser() -> Parser:
    parser = Parser("predict", "Label every pixel of pictures with a trained network.", EPILOG)
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="model.safetensors of a run, or what convert reads")
    images = (
        "pictures in any format that Pillow opens, folders of them, or patterns in quotes such as 'survey/**/*.tif'"
    )
    add("images", nargs="+", metavar="IMAGE", help=images)
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results; made if needed")
    add = parser.add_argument_group("how the network looks at a picture").add_argument
    size = "scale pictures to this size for the network, or own for none (default: that of training, if there was one)"
    add("--size", type=_size, metavar="HxW", help=size)
    scales = "look in each of these sizes, as factors, and average the probabilities, as in 0.75,1,1.25 (default: 1)"
    add("--scales", type=parse_numbers, default=(1.0,), metavar="FACTORS", help=scales)
    add("--flip", action="store_true", help="look at the mirror image too, and average; takes twice the time")
    add = parser.add_argument_group("large pictures").add_argument
    tile = f"a picture larger than this is computed in parts; smaller parts need less memory (default: {TILE})"
    add("--tile", type=int, default=TILE, metavar="PIXELS", help=tile)
    overlap = "computed around each part (default: all that the network can see; less is faster, and approximate)"
    add("--overlap", type=int, metavar="PIXELS", help=overlap)
    limit = (
        "refuse larger pictures, since a small file can claim to be one that fills the memory (default: %(default)s)"
    )
    add("--max-pixels", type=int, default=Image.MAX_IMAGE_PIXELS, metavar="NUMBER", help=limit)
    add = parser.add_argument_group("results").add_argument
    add("--alpha", type=float, default=0.6, metavar="SHARE", help="of colour in the overlay, 0 to 1 (default: 0.6)")
    probabilities = "write NAME.npz too: probabilities, float32 (classes, height, width), and the classes' names"
    add("--probabilities", action="store_true", help=probabilities)
    parser.add_machine_options()
    return parser


def _size(text: str) -> tuple[int, int] | str:
    return OWN if text == OWN else parse_size(text)


def main(arguments: argparse.Namespace) -> int:
    _check(arguments)
    paths = _pictures(arguments.images)
    _refuse_collisions(paths, arguments.out)
    Image.MAX_IMAGE_PIXELS = arguments.max_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # read_image refuses, and says what to do
    model, file = load_segmenter(arguments.checkpoint, arguments.device)
    size = training_size(file) if arguments.size is None else arguments.size
    options = {
        "size": None if size == OWN else size,
        "device": arguments.device,
        "scales": arguments.scales,
        "flip": arguments.flip,
        "tile": arguments.tile,
        "overlap": arguments.overlap,
    }
    predict = partial(label_pixels, model, preprocessing=file.preprocessing, **options)
    job = _Job(predict, *_classes(file, arguments.checkpoint), arguments.out, arguments.alpha, arguments.probabilities)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with ops.keep_filters(model.parameters()):  # from one picture to the next; label_pixels by itself, only within one
        return _predict_all(job, paths)


def _check(arguments: argparse.Namespace) -> None:
    """UsageError for what cannot work, before anything is read."""
    check_options(arguments.scales, arguments.tile, arguments.overlap)
    if not 0 <= arguments.alpha <= 1:
        raise UsageError(f"--alpha {arguments.alpha}: a number from 0 (only the image) to 1 (only colour) is needed.")
    if arguments.max_pixels < 1:
        raise UsageError(f"--max-pixels {arguments.max_pixels}: at least 1 is needed, such as 1_000_000_000.")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UsageError(f"--out {arguments.out}: is a file; name a folder.")


def _classes(file: WeightFile, checkpoint: str) -> tuple[Sequence[str], np.ndarray]:
    """The names of the classes, and the palette."""
    count = file.architecture["num_classes"]
    classes = file.record.get("classes") or []
    if not classes and count == len(VOC_CLASSES):  # as released FCNs have
        print(f"The file names no classes; {count} are taken for those of PASCAL VOC.", file=sys.stderr)
        classes = list(VOC_CLASSES)
    elif not classes:
        classes = [f"class {number}" for number in range(count)]
    if not isinstance(classes, list) or len(classes) != count or not all(isinstance(name, str) for name in classes):
        raise WeightsError(
            f"{checkpoint}: its record is damaged; {count} classes are expected in it. Copy or convert it again."
        )
    palette = voc_palette()
    stored = file.record.get("palette", palette)
    try:
        palette[: len(stored)] = stored
    except (TypeError, ValueError, OverflowError):
        raise WeightsError(
            f"{checkpoint}: its record is damaged; a palette is colours of 0 to 255. Copy or convert it again."
        ) from None
    return classes, palette


# ---------------------------------------------------------------------------------------------------- which pictures


def _pictures(arguments: Sequence[str]) -> list[Path]:
    """Pictures, the pictures in folders, and what patterns match, each once and in this order."""
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = [one for one in sorted(path.iterdir()) if _looks_like_a_picture(one)]
            missing = "no picture is in this folder; give one that holds some, or a pattern such as '**/*.png'"
        elif glob.has_magic(argument) and not path.exists():
            matches = [
                one for one in map(Path, sorted(glob.glob(argument, recursive=True))) if _looks_like_a_picture(one)
            ]
            missing = "this pattern matches no picture; check the folder and the ending in it"
        else:
            matches, missing = [path], ""  # should it not be there, that is said in its turn, and the others are done
        if not matches:
            raise UsageError(f"{argument}: {missing}.")
        found |= dict.fromkeys(matches)
    return list(found)


def _looks_like_a_picture(path: Path) -> bool:
    return path.suffix.lower() in readable_suffixes() and not path.name.startswith(".") and path.is_file()


def _refuse_collisions(paths: Sequence[Path], out: Path) -> None:
    """Nothing may overwrite a picture, nor another picture's result."""
    pictures = {path.resolve() for path in paths}
    seen: dict[str, Path] = {}
    for path in paths:
        for name in (f"{path.stem}.png", f"{path.stem}-overlay.png"):
            if seen.setdefault(name, path) != path:
                raise UsageError(f"{seen[name]} and {path}: would both be written to {name}; predict into two folders.")
            if (out / name).resolve() in pictures:
                raise UsageError(f"--out {out}: the result {name} would overwrite a picture; name another folder.")


# ---------------------------------------------------------------------------------------------------- their results


@dataclass(frozen=True)
class _Job:
    """What to do with each picture. predict: label_pixels, with all but the image."""

    predict: Callable[..., np.ndarray]
    classes: Sequence[str]
    palette: np.ndarray
    out: Path
    alpha: float
    probabilities: bool

    def do(self, path: Path) -> tuple[int, str]:
        """Label a picture and write the results. How many pixels it has, and what was found, in words."""
        picture = Picture.read(path)
        height, width = picture.shape[:2]
        shape = len(self.classes), height, width
        names = np.array(self.classes)
        progress = partial(_progress, name=path.name)
        file = npz_file(self.out / f"{path.stem}.npz", "probabilities", shape, classes=names)
        with file if self.probabilities else nullcontext() as probabilities:
            labels = self.predict(image=picture, probabilities=probabilities, progress=progress)
        background = 0 if self.classes[0] == "background" else None  # it stays as it is in the picture
        overlay = self.out / f"{path.stem}-overlay.png"
        visualize.save_overlay(
            picture, labels, self.palette, self.classes, overlay, alpha=self.alpha, background=background
        )
        visualize.save_mask(labels, self.palette, self.out / f"{path.stem}.png")
        shares = visualize.pixel_counts(labels) / labels.size
        commonest = [label for label in np.argsort(-shares)[:4] if shares[label] >= 0.005]
        found = ", ".join(f"{self.classes[label]} {100 * shares[label]:.0f} %" for label in commonest)
        return labels.size, f"{self.out / path.stem}.png: {found}"


def _predict_all(job: _Job, paths: Sequence[Path]) -> int:
    """The exit code. A picture that fails is reported at the end, and stops none of the others."""
    start, pixels = time.perf_counter(), 0
    failed: dict[Path, str] = {}
    in_terminal = sys.stderr.isatty()
    say: Any = tqdm.write if in_terminal else partial(print, flush=True)  # which keeps lines and the bar apart
    for path in tqdm(paths, unit="picture", disable=not in_terminal or len(paths) == 1):
        try:
            done, found = job.do(path)
        except UsageError:  # the options are at fault, and will be for every picture
            raise
        except (MinifcnError, MemoryError) as error:
            failed[path] = str(error)
            if isinstance(error, MemoryError):
                failed[path] = f"{path}: {str(error) or 'out of memory.'} Try a smaller --tile or --scales."
            say(f"{path} -> failed")
            continue
        pixels += done
        say(f"{path} -> {found}")
    seconds, count = time.perf_counter() - start, len(paths) - len(failed)
    if count:
        rates = f"{count / seconds:.2g} pictures and {pixels / 1e6 / seconds:.2g} megapixels a second"
        print(f"{count} {'picture' if count == 1 else 'pictures'} in {seconds:.1f} s: {rates}")
    if failed:
        print(f"{len(failed)} of {len(paths)} pictures failed, the others are done:", file=sys.stderr)
        print("\n".join(f"error: {message}" for message in failed.values()), file=sys.stderr)
    return 1 if failed else 0


def _progress(tiles: Sequence[Any], name: str) -> Iterable[Any]:
    return tqdm(tiles, desc=name, unit="tile", leave=False, disable=not sys.stderr.isatty() or len(tiles) == 1)


if __name__ == "__main__":
    run_command(main, make_parser())
