"""A folder of pictures and masks, the data set most people have."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minifcn.data import masks
from minifcn.data.classes import ClassList, read_classes
from minifcn.data.images import image_size, read_image, read_mask, readable_suffixes
from minifcn.data.sample import VOID, Sample
from minifcn.errors import DataError, UsageError

LAYOUTS = """Known layouts, where an image and its mask have the same name apart from the ending:
  ROOT/train/images  ROOT/train/masks  ROOT/val/images  ROOT/val/masks
  ROOT/images/train  ROOT/masks/train  ROOT/images/val  ROOT/masks/val
  ROOT/images  ROOT/masks               (one set, of which a part is kept for val)"""
_MANY = 500  # masks, from which on reading them all is worth a progress bar


class Pair(NamedTuple):
    """An image's file and its mask's."""

    image: Path
    mask: Path


class Folder:
    """Folder(root, "train" | "val", …)[i] -> Sample(image uint8 (H, W, 3), labels uint8 (H, W), name)

    See LAYOUTS for where the files are. Masks are index, grey or palette PNG that hold class numbers, 255 for void, or
    RGB files whose colours ROOT/classes.txt explains (see `classes.read_classes`). Without classes.txt the classes are
    those that occur in the masks of all splits.

    foreground: the value that marks the objects in masks of two values, usually 255; it becomes class 1 (foreground),
    and 0 is class 0 (background). classes.txt may give the two other names.
    seed, val_share: which images of a single set are kept for val, and what share. The choice depends on the names of
    the files, not on the order in which they are listed.

    Everything is checked here, before any training: raises DataError, with the file's name, for a missing folder, an
    image without mask or a mask without image, two files of one name, sizes that differ, unreadable masks, JPEG and
    anti-aliased masks, labels that are no class, masks of only 0 and 255, and fewer than two labelled classes.
    Hidden files and files that are no pictures are passed over.

    problems: a list that takes up what is wrong with single files, a line each, instead of the first being raised;
    these pairs are left out. It is for `minifcn.check_data`, which reads every sample anyway: so masks are read here
    only if the classes have to be found in them, and what else is wrong with a pair is raised when it is read.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        foreground: int | None = None,
        seed: int = 0,
        val_share: float = 0.2,
        problems: list[str] | None = None,
    ) -> None:
        if foreground is not None and not 1 <= foreground <= 255:
            raise UsageError(f"foreground is {foreground}; it must be the value, 1 to 255, that marks the objects.")
        if not 0 < val_share < 1:
            raise UsageError(f"val_share is {val_share}; it is the share of images kept for val, between 0 and 1.")
        self.root, self.split, self.foreground = Path(root), split, foreground
        self.name = f"folder:{root}"
        self._seed, self._val_share, self._problems = seed, val_share, problems
        self.pairs = self._find_pairs(split)
        class_list = self._named_classes()
        self._colors = class_list.colors if class_list else None
        if class_list is None or problems is None:
            class_list = self._scan(class_list)
        self.classes, self.palette = class_list.names, class_list.palette()

    @staticmethod
    def splits(root: str | Path) -> tuple[str, ...]:
        """The splits that have folders of their own, or train and val. Raises DataError for a missing root."""
        _check_root(Path(root))
        return tuple(sorted(_split_folders(Path(root)))) or ("train", "val")

    @property
    def names(self) -> list[str]:
        """The names of the samples, without reading them."""
        return [pair.image.stem for pair in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, labels = read_image(pair.image), self._labels(pair.mask)
        _check_sizes(pair, image.shape[:2], labels.shape)  # again: files may change during a long run
        masks.check_labels(pair.mask, labels, len(self.classes))
        return Sample(image, labels, pair.image.stem)

    def _labels(self, path: Path) -> np.ndarray:
        labels = read_mask(path, self._colors)
        return labels if self.foreground is None else masks.mark_foreground(path, labels, self.foreground)

    def _named_classes(self) -> ClassList | None:
        """The classes that are known without looking into the masks."""
        path = self.root / "classes.txt"
        class_list = read_classes(path) if path.exists() else None
        if self.foreground is None:
            return class_list
        if class_list and len(class_list.names) != 2:
            raise DataError(
                f"{path}: {len(class_list.names)} classes, but with --foreground there are two, what is not marked and "
                f"what is. Name these two, or leave out --foreground."
            )
        return class_list or ClassList(("background", "foreground"), {})

    def _scan(self, named: ClassList | None) -> ClassList:
        """Check every pair of this split. Returns the classes: the named ones, or those that occur."""
        counts = np.zeros(256, dtype=np.int64)
        sound = []
        for pair in _with_progress(self.pairs, f"checking {self.split} masks"):
            with collecting(self._problems):
                counts += self._checked_counts(pair, named)
                sound.append(pair)
        self.pairs = sound
        if self._problems is None:
            masks.check_not_only_void(counts, f"{self.root} ({self.split})")
        classes = named or self._inferred_classes(counts)
        if self._problems is None:
            masks.check_two_classes(counts, f"{self.root} ({self.split})", needed=2 if self.split == "train" else 1)
        return classes

    def _checked_counts(self, pair: Pair, named: ClassList | None) -> np.ndarray:
        """How many pixels each label has, int64 (256,), if nothing is wrong with the pair."""
        labels = self._labels(pair.mask)
        _check_sizes(pair, image_size(pair.image), labels.shape)
        if named is None:
            masks.check_not_soft(pair.mask, labels)
        else:
            masks.check_labels(pair.mask, labels, len(named.names))
        return np.bincount(labels.ravel(), minlength=256)

    def _inferred_classes(self, counts: np.ndarray) -> ClassList:
        """Classes 0 … highest label in any split, so that train and val agree."""
        counts = counts.copy()
        for split in _other_splits(self.root, self.split):
            for pair in self._find_pairs(split):
                with collecting(self._problems):
                    counts += self._checked_counts(pair, None)
        with collecting(self._problems):
            masks.check_numbering(counts, str(self.root))
        if self._problems is None:
            masks.check_two_classes(counts, str(self.root))
        highest = max(np.flatnonzero(counts[:VOID]), default=0)
        return ClassList(tuple(f"class_{label}" for label in range(highest + 1)), {})

    def _find_pairs(self, split: str) -> list[Pair]:
        return _pairs(self.root, split, self._seed, self._val_share, self._problems)


# ---------------------------------------------------------------------------------------------------- files


def _pairs(root: Path, split: str, seed: int, val_share: float, problems: list[str] | None) -> list[Pair]:
    """The files of a split, sorted by name. problems: as for Folder."""
    images_folder, masks_folder = _folders(root, split)
    images, mask_files = _pictures(images_folder, problems), _pictures(masks_folder, problems)
    if not images:
        raise DataError(f"{images_folder}: no image in this folder. It holds {_listing(images_folder)}.\n{LAYOUTS}")
    _check_partners(images, mask_files, masks_folder, problems)
    stems = sorted(images.keys() & mask_files)
    if images_folder == root / "images":
        stems = _share(stems, split, seed, val_share, images_folder)
    return [Pair(images[stem], mask_files[stem]) for stem in stems]


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Where the images and the masks of a split are."""
    _check_root(root)
    if not split or Path(split).name != split or split in ("images", "masks"):
        raise DataError(f"{split!r} cannot be the name of a split; usual ones are train and val.")
    candidates = [(root / split / "images", root / split / "masks"), (root / "images" / split, root / "masks" / split)]
    if split in ("train", "val") and _is_single_set(root):
        candidates.append((root / "images", root / "masks"))
    for images_folder, masks_folder in candidates:
        if images_folder.is_dir():
            if not masks_folder.is_dir():
                raise DataError(f"{masks_folder}: missing, though {images_folder} is there.\n{LAYOUTS}")
            return images_folder, masks_folder
    looked_for = " or ".join(str(images_folder) for images_folder, _ in candidates)
    raise DataError(f"{root}: no images for {split}: looked for {looked_for}, found {_listing(root)}.\n{LAYOUTS}")


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder of images and masks.\n{LAYOUTS}")


def _split_folders(root: Path) -> set[str]:
    """The names of the splits that have folders of their own."""
    beneath = {path.parent.name for path in root.glob("*/images") if path.is_dir()}
    return beneath | {path.name for path in root.glob("images/*") if path.is_dir() and not path.name.startswith(".")}


def _is_single_set(root: Path) -> bool:
    return not {"train", "val"} & _split_folders(root)


def _other_splits(root: Path, split: str) -> list[str]:
    """The splits besides this one that have masks."""
    if _is_single_set(root):
        return ["val" if split == "train" else "train"]
    with_masks = {n for n in _split_folders(root) if (root / n / "masks").is_dir() or (root / "masks" / n).is_dir()}
    return sorted(with_masks - {split})


def _pictures(folder: Path, problems: list[str] | None) -> dict[str, Path]:
    """The pictures of a folder by name without ending."""
    suffixes = readable_suffixes()
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        with collecting(problems):
            if path.stem in pictures:
                raise DataError(
                    f"{folder}: {pictures[path.stem].name} and {path.name} have the same name apart from the ending, "
                    f"so it is not clear which belongs to {path.stem}. Take one away."
                )
            pictures[path.stem] = path
    return pictures


def _check_partners(
    images: dict[str, Path], mask_files: dict[str, Path], masks_folder: Path, problems: list[str] | None
) -> None:
    lonely_images, lonely_masks = sorted(images.keys() - mask_files), sorted(mask_files.keys() - images)
    if problems is not None:
        remedy = "Give both one name, apart from the ending, or take it away."
        problems += [f"{images[stem]}: this image has no mask in {masks_folder}. {remedy}" for stem in lonely_images]
        problems += [f"{mask_files[stem]}: this mask has no image. {remedy}" for stem in lonely_masks]
        return
    found = []
    if lonely_images:
        found.append(f"images without a mask in {masks_folder}: {some(images[s].name for s in lonely_images)}")
    if lonely_masks:
        found.append(f"masks without an image: {some(str(mask_files[s]) for s in lonely_masks)}")
    if found:
        raise DataError(
            f"{'; '.join(found)}. A mask must have its image's name, apart from the ending. "
            f"Rename, add or take away files until they match."
        )


def _share(stems: list[str], split: str, seed: int, val_share: float, folder: Path) -> list[str]:
    """This split's part of a single set: the names with the smallest hashes are val."""
    if len(stems) == 1:
        raise DataError(f"{folder}: one image cannot be split into train and val. Add images.")
    ranked = sorted(stems, key=lambda stem: hashlib.sha256(f"{seed}/{stem}".encode()).digest())
    val_count = min(max(1, round(val_share * len(stems))), len(stems) - 1)
    return sorted(ranked[:val_count] if split == "val" else ranked[val_count:])


def _check_sizes(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    if image != mask:
        raise DataError(
            f"{pair.image} is {image[0]} × {image[1]} pixels (height × width) but its mask {pair.mask} is "
            f"{mask[0]} × {mask[1]}. They must be of one size; scale masks with nearest neighbour only."
        )


@contextmanager
def collecting(problems: list[str] | None) -> Iterator[None]:
    """Let a DataError of the block pass, or, given a list, append its message there and go on after the block."""
    try:
        yield
    except DataError as error:
        if problems is None:
            raise
        problems.append(str(error))


def some(names: Iterable[str], limit: int = 10) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def _listing(folder: Path) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith("."))
    return some(names) if names else "nothing"


def _with_progress(pairs: list[Pair], what: str) -> Iterable[Pair]:
    if len(pairs) > _MANY and sys.stderr.isatty():
        return tqdm(pairs, desc=what, unit="mask", leave=False)
    return pairs
