"""PASCAL VOC 2012, as it is unpacked."""

import re
from pathlib import Path

from minifcn.data.images import read_image, read_mask
from minifcn.data.masks import check_labels
from minifcn.data.palette import voc_palette
from minifcn.data.sample import Sample
from minifcn.errors import DataError

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_IMAGE_NAME = re.compile(r"[A-Za-z0-9_\-]+")


class VOC2012:
    """VOC2012(root, "train" | "val" | "trainval" | …)[i] -> Sample(image uint8 (H, W, 3), labels uint8 (H, W), name)

    root: VOC2012 itself, the VOCdevkit that holds it, or the folder that holds the VOCdevkit.
    split: the name of a list in ImageSets/Segmentation. 20 classes and background; 255 is void.

    Raises DataError for a missing folder, list, image or mask, and, when a sample is read, for files that are damaged,
    differ in size or hold a label above 20.
    """

    classes = VOC_CLASSES

    def __init__(self, root: str | Path, split: str) -> None:
        self.root, self.split = _find_root(Path(root)), split
        self.name = f"voc:{root}"
        self.palette = voc_palette()
        self.ids = _read_split(self.root / "ImageSets" / "Segmentation", split)
        wanted = [path for name in self.ids for path in (self._image_path(name), self._mask_path(name))]
        missing = [path for path in wanted if not path.is_file()]
        if missing:
            raise DataError(
                f"{missing[0]}: missing, though the list of {split} names it ({len(missing)} files of {len(wanted)} "
                f"are missing in all). Unpack VOCtrainval_11-May-2012.tar again."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        name = self.ids[index]
        image, labels = read_image(self._image_path(name)), read_mask(self._mask_path(name))
        if image.shape[:2] != labels.shape:
            raise DataError(
                f"{self._image_path(name)} is {image.shape[0]} × {image.shape[1]} pixels (height × width) but its mask "
                f"{self._mask_path(name)} is {labels.shape[0]} × {labels.shape[1]}. Unpack the data set again."
            )
        check_labels(self._mask_path(name), labels, len(self.classes))
        return Sample(image, labels, name)

    def _image_path(self, name: str) -> Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def _mask_path(self, name: str) -> Path:
        return self.root / "SegmentationClass" / f"{name}.png"


def _find_root(given: Path) -> Path:
    for candidate in (given, given / "VOC2012", given / "VOCdevkit" / "VOC2012"):
        if (candidate / "ImageSets" / "Segmentation").is_dir():
            return candidate
    raise DataError(
        f"{given}: no VOC2012 here: looked for ImageSets/Segmentation in it, in VOC2012/ and in VOCdevkit/VOC2012/. "
        f"Give the folder into which VOCtrainval_11-May-2012.tar was unpacked."
    )


def _read_split(folder: Path, split: str) -> list[str]:
    """The image names in ImageSets/Segmentation/SPLIT.txt."""
    path = folder / f"{split}.txt"
    if Path(split).name != split or not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise DataError(f"{path}: there is no list of images called {split!r}. Lists found: {known}.")
    try:
        names = path.read_text(encoding="utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: this list is not a text file ({error}).") from error
    wrong = [name for name in names if not _IMAGE_NAME.fullmatch(name)]
    if wrong or not names:
        what = f"{wrong[0]!r} is not the name of an image" if wrong else "the list is empty"
        raise DataError(f"{path}: {what}. Expected one name a line, such as 2007_000032, without folder or ending.")
    return names
