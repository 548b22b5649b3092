"""PASCAL VOC 2012 and SBD together: the training and validation sets of the paper, and those of later work.

The lists of the two diverge: images of VOC's val are in SBD's train. So the paper, which trains on SBD's train,
validates on seg11valid, the 736 images of VOC 2011's val that are not in it. Later work trains on "trainaug", whatever
either data set labels except the 1,449 images of VOC 2012's val, which include all of seg11valid: 10,582 images.
"""

from pathlib import Path

from minifcn.data.archive import FolderTree
from minifcn.data.listed import Entry, Listed, leave_out, read_names
from minifcn.data.sbd import SbdFiles
from minifcn.data.voc import LISTS, VOC_CLASSES, VocFiles
from minifcn.errors import DataError

VALID = "seg11valid"
_VOC_2011 = ("VOCdevkit/VOC2011", "TrainVal/VOCdevkit/VOC2011", "VOC2011")


class VocSbd(Listed):
    """VocSbd(root, "train" | "val" | …)[i] -> Sample(image uint8 (H, W, 3), labels uint8 (H, W), name)

    root: a folder that holds both VOC 2012 (unpacked, or its tar) and SBD (unpacked).

    split        images                                                     labels
    train        SBD's train: 8,498                                         SBD's
    val          seg11valid: 736 (seg11valid is another name for it)        VOC's
    trainaug     VOC 2012's train and all of SBD, without val2012: 10,582   VOC's where it has some, else SBD's
    val2012      VOC 2012's val: 1,449                                      VOC's
    other names  the list of that name in ImageSets/Segmentation            VOC's

    Whatever list is asked for, the images of seg11valid are left out of it unless it is one of the two for validation,
    and `note` says how many they were.
    without: another split whose images are left out as well, for those who validate on another one.
    problems: see `Listed`.

    Raises DataError as VOC2012 and SBD do, and if seg11valid is neither there nor can be computed.
    """

    classes = VOC_CLASSES
    advice = "Unpack or download the data set again."

    def __init__(
        self, root: str | Path, split: str, *, without: str | None = None, problems: list[str] | None = None
    ) -> None:
        self.root = Path(root)
        self._voc, self._sbd = VocFiles(self.root), SbdFiles(self.root)
        entries = self._entries(split)
        notes = []
        for other in dict.fromkeys([*self._always_without(split), *([without] if without else [])]):
            kept, note = leave_out(list(entries), self._entries(other), split, other)
            entries = {name: entries[name] for name in kept}
            notes += [note] if note else []
        super().__init__(f"voc+sbd:{root}", split, list(entries.values()), problems, " ".join(notes))

    @staticmethod
    def splits(root: str | Path) -> tuple[str, ...]:
        """The paper's. The others share images with these."""
        return ("train", "val")

    def _entries(self, split: str) -> dict[str, Entry]:
        """Every image of a split by name, before any is left out."""
        voc, sbd = self._voc.entry, self._sbd.entry
        if split == "train":
            return {name: sbd(name) for name in self._sbd.names("train")}
        if split == "trainaug":
            of_sbd = {name: sbd(name) for part in ("train", "val") for name in self._sbd.names(part)}
            return of_sbd | {name: voc(name) for name in self._voc.names("train")}  # VOC's where both have the image
        if split in ("val", VALID):
            return {name: voc(name) for name in self._seg11valid()}
        return {name: voc(name) for name in self._voc.names("val" if split == "val2012" else split)}

    def _always_without(self, split: str) -> list[str]:
        if split in ("val", VALID, "val2012"):
            return []
        return ["val2012"] if split == "trainaug" else [VALID]

    def _seg11valid(self) -> list[str]:
        """VOC 2011's val without SBD's train: from its own list, or from the two."""
        file = self._voc.find_list(VALID)
        if file is not None:
            return read_names(file)
        for folder in _VOC_2011:
            file = FolderTree(self.root / folder).find(f"{LISTS}/val.txt")
            if file is not None:
                return leave_out(read_names(file), self._sbd.names("train"), "VOC 2011's val", "SBD's train")[0]
        raise DataError(
            f"{self._voc.tree}/{LISTS}/{VALID}.txt: missing, the list of the 736 images on which the paper validates. "
            f"It is data/pascal/{VALID}.txt in github.com/shelhamer/fcn.berkeleyvision.org, and comes with --download; "
            f"or unpack VOC 2011 beside VOC 2012, from whose val it is computed."
        )
