"""PASCAL VOC 2012, as it is unpacked or in the tar in which it is published."""

from pathlib import Path

from minifcn.data.archive import File, FolderTree, TarTree, Tree
from minifcn.data.listed import IMAGE_NAME, Entry, Listed, Place, leave_out, read_names
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
VOC_TAR = "VOCtrainval_11-May-2012.tar"
LISTS = "ImageSets/Segmentation"
_PUBLISHED_LISTS = ("train", "val", "trainval", "test")


class VOC2012(Listed):
    """VOC2012(root, "train" | "val" | "trainval" | …)[i] -> Sample(image uint8 (H, W, 3), labels uint8 (H, W), name)

    root: VOC2012 itself, the VOCdevkit that holds it, the folder that holds the VOCdevkit, the tar, or the folder that
    holds the tar, from which images are then read one by one, without unpacking it.
    split: the name of a list in ImageSets/Segmentation, or beside the tar. 20 classes and background; 255 is void.
    without: another split, whose images are left out, since a network is validated on them.
    problems: see `Listed`.

    Raises DataError for a missing folder, list, image or mask, for a damaged tar, and, when a sample is read, for files
    that are damaged, differ in size or hold a label above 20.
    """

    classes = VOC_CLASSES
    advice = f"Unpack or download {VOC_TAR} again."

    def __init__(
        self, root: str | Path, split: str, *, without: str | None = None, problems: list[str] | None = None
    ) -> None:
        files = VocFiles(Path(root))
        names, note = files.names(split), ""
        if without is not None:
            names, note = leave_out(names, files.names(without), split, without)
        self.root = files.tree.root
        super().__init__(f"voc:{root}", split, [files.entry(name) for name in names], problems, note)

    @staticmethod
    def splits(root: str | Path) -> tuple[str, ...]:
        """The published splits that are there. Other lists may be parts of these; they are named if there is none."""
        lists = VocFiles(Path(root)).lists()
        return tuple(split for split in _PUBLISHED_LISTS if split in lists) or tuple(lists)


class VocFiles:
    """Where the images, masks and lists of VOC 2012 are, below a root that `VOC2012` accepts."""

    def __init__(self, root: Path) -> None:
        self.tree = _find_tree(root)

    def entry(self, name: str) -> Entry:
        image, mask = (Place(self.tree, path) for path in (f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png"))
        return Entry(name, image, mask)

    def lists(self) -> list[str]:
        return self.tree.stems(LISTS, ".txt")

    def find_list(self, split: str) -> File | None:
        """A list in the tree, or one that was put beside the tar, since nothing can be put into it."""
        if not IMAGE_NAME.fullmatch(split):  # such as ../../elsewhere
            return None
        return self.tree.find(f"{LISTS}/{split}.txt") or FolderTree(self.place_for_lists).find(f"{split}.txt")

    @property
    def place_for_lists(self) -> Path:
        """The folder into which further lists may be put."""
        return self.tree.root / LISTS if isinstance(self.tree, FolderTree) else self.tree.root.parent

    def names(self, split: str) -> list[str]:
        file = self.find_list(split)
        if file is None:
            raise DataError(
                f"{self.tree}/{LISTS}/{split}.txt: there is no list of images called {split!r}. "
                f"Lists found: {', '.join(self.lists()) or 'none'}."
            )
        return read_names(file)


def _find_tree(given: Path) -> Tree:
    for folder in (given, given / "VOC2012", given / "VOCdevkit" / "VOC2012"):
        if (folder / LISTS).is_dir():
            return FolderTree(folder)
    for tar in (given, given / VOC_TAR):
        if tar.is_file():
            return TarTree(tar, LISTS)
    raise DataError(
        f"{given}: no VOC2012 here: looked for {LISTS} in it, in VOC2012/ and in VOCdevkit/VOC2012/, "
        f"and for {VOC_TAR}. Give the tar, or the folder into which it was unpacked, or download it with --download."
    )
