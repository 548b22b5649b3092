"""The Semantic Boundaries Dataset (Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011).

It labels 11,355 images of PASCAL VOC 2011, four times as many as VOC itself, with the same classes. Its lists, train
(8,498) and val (2,857), are its own: images of VOC's val are in its train. `voc_sbd` says how both are used together.
"""

from pathlib import Path

from minifcn.data.archive import FolderTree
from minifcn.data.listed import IMAGE_NAME, Entry, Listed, Place, leave_out, read_names
from minifcn.data.voc import VOC_CLASSES
from minifcn.errors import DataError

SBD_TGZ = "benchmark.tgz"
SBD_TREE = "benchmark_RELEASE/dataset"


class SBD(Listed):
    """SBD(root, "train" | "val")[i] -> Sample(image uint8 (H, W, 3), labels uint8 (H, W), name)

    root: the folder with cls/*.mat, img/*.jpg, train.txt and val.txt; or benchmark_RELEASE, or the folder with that.
    split: the name of a list in it. The classes are VOC's; nothing is void.
    without: another split, whose images are left out, since a network is validated on them.
    problems: see `Listed`.

    Raises DataError for a missing folder, list, image or mask, and, when a sample is read, for files that are damaged,
    differ in size or hold a label above 20.
    """

    classes = VOC_CLASSES
    advice = f"Unpack or download {SBD_TGZ} again."

    def __init__(
        self, root: str | Path, split: str, *, without: str | None = None, problems: list[str] | None = None
    ) -> None:
        files = SbdFiles(Path(root))
        names, note = files.names(split), ""
        if without is not None:
            names, note = leave_out(names, files.names(without), split, without)
        self.root = files.tree.root
        super().__init__(f"sbd:{root}", split, [files.entry(name) for name in names], problems, note)

    @staticmethod
    def splits(root: str | Path) -> tuple[str, ...]:
        """train and val; or, if neither is there, all lists."""
        lists = SbdFiles(Path(root)).lists()
        return tuple(split for split in ("train", "val") if split in lists) or tuple(lists)


class SbdFiles:
    """Where the images, masks and lists of SBD are, below a root that `SBD` accepts."""

    def __init__(self, root: Path) -> None:
        self.tree = FolderTree(_find_folder(root))

    def entry(self, name: str) -> Entry:
        return Entry(name, Place(self.tree, f"img/{name}.jpg"), Place(self.tree, f"cls/{name}.mat"))

    def lists(self) -> list[str]:
        return self.tree.stems(".", ".txt")

    def names(self, split: str) -> list[str]:
        file = self.tree.find(f"{split}.txt") if IMAGE_NAME.fullmatch(split) else None
        if file is None:
            raise DataError(
                f"{self.tree}/{split}.txt: there is no list of images called {split!r}. "
                f"Lists found: {', '.join(self.lists()) or 'none'}."
            )
        return read_names(file)


def _find_folder(given: Path) -> Path:
    for folder in (given, given / "dataset", given / SBD_TREE):
        if (folder / "cls").is_dir() and (folder / "img").is_dir():
            return folder
    packed = given if given.is_file() else given / SBD_TGZ
    if packed.is_file():
        raise DataError(f"{packed}: SBD is compressed, so it must be unpacked first: tar -xf {packed.name}.")
    raise DataError(
        f"{given}: no Semantic Boundaries Dataset here: looked for the folders cls and img in it, in dataset/ and in "
        f"{SBD_TREE}/. Give the folder into which {SBD_TGZ} was unpacked, or download it with --download."
    )
