"""Data sets, the batches made of them, and the files they are read from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minifcn.data.camvid import CamVid, camvid_palette
from minifcn.data.folder import Folder
from minifcn.data.folds import Joined, Subset, folds, groups_of
from minifcn.data.frequency import PixelCounts, class_frequencies, class_weights, count_pixels
from minifcn.data.images import Picture, image_size, read_image, read_mask
from minifcn.data.loader import Batch, Loader
from minifcn.data.palette import voc_palette
from minifcn.data.sample import VOID, Dataset, Sample
from minifcn.data.sbd import SBD
from minifcn.data.shapes import ClassifiedShapes, Shapes
from minifcn.data.transforms import Augment, collate, resize
from minifcn.data.voc import VOC2012
from minifcn.data.voc_sbd import VocSbd
from minifcn.errors import DataError, UsageError

__all__ = [
    "SBD",
    "VOC2012",
    "VOID",
    "Augment",
    "Batch",
    "CamVid",
    "ClassifiedShapes",
    "Dataset",
    "Folder",
    "Joined",
    "Loader",
    "Picture",
    "PixelCounts",
    "Sample",
    "Shapes",
    "Subset",
    "VocSbd",
    "camvid_palette",
    "class_frequencies",
    "class_weights",
    "collate",
    "count_pixels",
    "download",
    "folds",
    "groups_of",
    "image_size",
    "known_splits",
    "open_dataset",
    "open_fold",
    "open_for",
    "read_image",
    "read_mask",
    "resize",
    "voc_palette",
]

_KINDS: dict[str, Any] = {"voc": VOC2012, "sbd": SBD, "voc+sbd": VocSbd, "camvid": CamVid, "folder": Folder}
_OPTIONS = {
    "shapes": ("size", "length", "seed"),
    **dict.fromkeys(_KINDS, ("without",)),
    "folder": ("foreground", "seed", "val_share"),
}
_ACCEPTED = (
    "Accepted are shapes (drawn on the fly), voc:ROOT (PASCAL VOC 2012), sbd:ROOT (Semantic Boundaries Dataset), "
    "voc+sbd:ROOT (both, as the paper uses them), camvid:ROOT and the path of a folder of images and masks; "
    "with --download, voc, sbd, voc+sbd and camvid do not need a ROOT"
)


def open_dataset(spec: str, split: str, *, problems: list[str] | None = None, **options: Any) -> Dataset:
    """The data set that `--data SPEC` means.

    spec: "shapes", "voc:ROOT", "sbd:ROOT", "voc+sbd:ROOT", "camvid:ROOT", or a folder's path, also written
    "folder:PATH" as in `Dataset.name`.
    problems: takes up what is wrong with single files, a line each, and these are left out, instead of the first being
    raised.
    options: of the data set's class (Shapes, VOC2012, Folder, …), such as size=96 for shapes or foreground=255 for a
    folder; None stands for the default. Raises UsageError for a spec or option that means nothing, DataError for data
    that are not in order.
    """
    kind, root = _parse(spec)
    options = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(options.keys() - set(_OPTIONS[kind]))
    if unknown:
        known = ", ".join(_OPTIONS[kind])
        raise UsageError(f"{spec} has no option {', '.join(unknown)}. Its options are: {known}.")
    if kind == "shapes":  # nothing can be wrong with its files
        return Shapes(split, **options)
    with _readable(spec):
        opened: Dataset = _KINDS[kind](root, split, problems=problems, **options)
    return opened


def open_for(
    spec: str,
    split: str,
    *,
    size: tuple[int, int] | None = None,
    foreground: int | None = None,
    seed: int = 0,
    without: str | None = None,
    problems: list[str] | None = None,
) -> Dataset:
    """The data set that the commands mean, each kind with those of their options that concern it.

    size: of drawn pictures (others are scaled by the loader). foreground: of a folder. seed: of drawn pictures, and of
    the split of a folder without train and val. without: the split on which a network is validated, whose images are
    left out of this one if lists say what is in the two. problems: see open_dataset. Raises UsageError for a foreground
    where masks cannot need one.
    """
    kind, _ = _parse(spec)
    if kind == "folder":
        return open_dataset(spec, split, foreground=foreground, seed=seed, problems=problems)
    if foreground is not None:
        raise UsageError(f"--foreground {foreground}: is for the masks of a folder, not for {spec}; leave it out.")
    if kind == "shapes":
        return open_dataset(spec, split, size=size, seed=seed)
    return open_dataset(spec, split, without=without, problems=problems)


def open_fold(
    spec: str,
    splits: Sequence[str],
    part: str,
    *,
    number: int,
    count: int,
    group: str = "",
    seed: int = 0,
    **options: Any,
) -> Subset:
    """The "train" or "val" part of fold `number`, from 1, of `count` into which all pictures of the splits are dealt.

    group: the pattern that tells a name's group (`groups_of`); "" if every picture is one of its own. options: of
    `open_for`. Raises UsageError as `folds` and `groups_of` do, and for a number outside 1..count.
    """
    if not 1 <= number <= count:
        raise UsageError(f"--fold {number}: there are the folds 1 to {count}.")
    whole = Joined([open_for(spec, split, seed=seed, **options) for split in splits], spec)
    groups = groups_of(whole.names, group) if group else None
    chosen = folds(whole.names, count, groups=groups, seed=seed)[number - 1]
    indices = chosen.train if part == "train" else chosen.val
    return Subset(whole, indices, f"{spec} ({part} of fold {number} of {count})")


def known_splits(spec: str) -> tuple[str, ...]:
    """The splits that a data set has.

    Lists that only regroup its images (seg11valid, trainaug, those that a user adds) can be opened but are not named,
    apart from VOC's trainval. Raises UsageError and DataError as `open_dataset` does.
    """
    kind, root = _parse(spec)
    if kind == "shapes":
        return ("train", "val")
    with _readable(spec):
        splits: tuple[str, ...] = _KINDS[kind].splits(root)
    return splits


def download(spec: str, *, progress: bool = True, say: Callable[[str], None] = print) -> str:
    """Make sure that the data set of a spec is there; returns the spec with its root filled in.

    spec: voc, sbd, voc+sbd or camvid; with `:ROOT`, in that folder, otherwise in the cache folder.
    progress: whether to show a bar. say: takes a line about each licence, which comes before its download, and each
    address.

    Raises UsageError for a spec that cannot be downloaded, DataError if it cannot be now, with each address and its
    reason.
    """
    from minifcn.data.published import fetch  # here, since it takes a moment to import and is seldom used

    with _readable(spec):
        return fetch(spec, progress=progress, say=say)


@contextmanager
def _readable(spec: str) -> Iterator[None]:
    """Looking for a file may fail in more ways than not finding it: no permission, or a name longer than any."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{spec}: cannot be read ({error.strerror or error}). Give the path of data that you may read."
        ) from error


def _parse(spec: str) -> tuple[str, str]:
    """("voc", "VOCdevkit") for voc:VOCdevkit; ("folder", path) for a path; ("shapes", "") for shapes."""
    kind, colon, rest = spec.partition(":")
    if spec == "shapes":
        return "shapes", ""
    if kind in _KINDS and rest:
        return kind, rest
    looks_like_path = Path(spec).name != spec or spec in (".", "..")
    with _readable(spec):
        if (spec and Path(spec).exists()) or (looks_like_path and not colon):
            return "folder", spec
    raise UsageError(f"{spec!r} is not a data set, nor is there a folder of that name. {_ACCEPTED}.")
