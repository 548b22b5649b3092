"""Data sets, the batches made of them, and the files they are read from."""

from pathlib import Path
from typing import Any

from minifcn.data.folder import Folder
from minifcn.data.images import image_size, read_image, read_mask
from minifcn.data.loader import Batch, Loader
from minifcn.data.palette import voc_palette
from minifcn.data.sample import VOID, Dataset, Sample
from minifcn.data.shapes import ClassifiedShapes, Shapes
from minifcn.data.transforms import Augment, collate, resize
from minifcn.data.voc import VOC2012
from minifcn.errors import UsageError

__all__ = [
    "VOC2012",
    "VOID",
    "Augment",
    "Batch",
    "ClassifiedShapes",
    "Dataset",
    "Folder",
    "Loader",
    "Sample",
    "Shapes",
    "collate",
    "image_size",
    "open_dataset",
    "open_for",
    "read_image",
    "read_mask",
    "resize",
    "voc_palette",
]

_ACCEPTED = (
    "Accepted are shapes (drawn on the fly), voc:ROOT (PASCAL VOC 2012) and the path of a folder of images and masks"
)


def open_dataset(spec: str, split: str, **options: Any) -> Dataset:
    """The data set that `--data SPEC` means.

    spec: "shapes", "voc:ROOT", or a folder's path, also written "folder:PATH" as in `Dataset.name`.
    options: of the data set's class (Shapes, VOC2012, Folder), such as size=96 for shapes or foreground=255 for a
    folder; None stands for the default. Raises UsageError for a spec or option that means nothing, DataError for data
    that are not in order.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "shapes":
        return _open(Shapes, spec, (split,), options)
    if kind == "voc" and rest:
        return _open(VOC2012, spec, (rest, split), options)
    if kind == "folder" and rest:
        return _open(Folder, spec, (rest, split), options)
    looks_like_path = Path(spec).name != spec or spec in (".", "..")
    if (spec and Path(spec).exists()) or (looks_like_path and not colon):
        return _open(Folder, spec, (spec, split), options)
    raise UsageError(f"{spec!r} is not a data set, nor is there a folder of that name. {_ACCEPTED}.")


def open_for(
    spec: str, split: str, *, size: tuple[int, int] | None = None, foreground: int | None = None, seed: int = 0
) -> Dataset:
    """The data set that the commands mean, each kind with those of their options that concern it.

    size: of drawn pictures (others are scaled by the loader). foreground: of a folder. seed: of drawn pictures, and of
    the split of a folder without train and val. Raises UsageError for a foreground where masks cannot need one.
    """
    if spec == "shapes" or spec.startswith("voc:"):
        if foreground is not None:
            raise UsageError(f"--foreground {foreground}: is for the masks of a folder, not for {spec}.")
        drawn: dict[str, Any] = {"seed": seed} | ({"size": size} if size else {})
        return open_dataset(spec, split, **(drawn if spec == "shapes" else {}))
    return open_dataset(spec, split, foreground=foreground, seed=seed)


_OPTIONS: dict[type, tuple[str, ...]] = {
    Shapes: ("size", "length", "seed"),
    VOC2012: (),
    Folder: ("foreground", "seed", "val_share"),
}


def _open(kind: type, spec: str, arguments: tuple[str, ...], options: dict[str, Any]) -> Dataset:
    options = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(options.keys() - _OPTIONS[kind])
    if unknown:
        known = ", ".join(_OPTIONS[kind]) or "none"
        raise UsageError(f"{spec} has no option {', '.join(unknown)}. Its options are: {known}.")
    return kind(*arguments, **options)
