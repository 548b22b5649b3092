"""What data sets have in common whose splits are lists of names: VOC2012, SBD, both together, and CamVid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from minifcn.data.archive import File, Tree, read_list
from minifcn.data.images import NUMBERS_NEEDED, read_image, read_mask
from minifcn.data.masks import check_labels
from minifcn.data.matlab import read_matlab_mask
from minifcn.data.palette import voc_palette
from minifcn.data.sample import Sample
from minifcn.errors import DataError

IMAGE_NAME = re.compile(r"[A-Za-z0-9_\-]+")


class Place(NamedTuple):
    """Where a file should be. `str` names it for messages."""

    tree: Tree
    name: str

    def __str__(self) -> str:
        return f"{self.tree}/{self.name}"


class Entry(NamedTuple):
    """An image, by its name, with the places of its file and its mask's."""

    name: str
    image: Place
    mask: Place


class Listed:
    """A data set of which every image is known by name before any file is read: see `VOC2012` for an example.

    names: of the images, in order.  note: what was left out and why, in one line; "" if nothing was.
    A class derived from it says which `classes` there are, what `advice` to give on wrong files, and calls __init__.

    problems: a list that takes up what is wrong with single files, a line each, instead of the first being raised;
    these images are left out.
    """

    classes: tuple[str, ...]
    advice = "Unpack the data set again."

    def __init__(
        self, name: str, split: str, entries: Sequence[Entry], problems: list[str] | None, note: str = ""
    ) -> None:
        self.name, self.split, self.note = name, split, note
        self.palette = voc_palette()
        self._files: list[tuple[str, File, File]] = []
        missing = []
        for entry in entries:
            image, mask = entry.image.tree.find(entry.image.name), entry.mask.tree.find(entry.mask.name)
            if image is not None and mask is not None:
                self._files.append((entry.name, image, mask))
            missing += [place for place, file in ((entry.image, image), (entry.mask, mask)) if file is None]
        if missing and problems is None:
            raise DataError(
                f"{missing[0]}: missing, though {split} needs it ({len(missing)} files of {2 * len(entries)} are "
                f"missing in all). {self.advice}"
            )
        if problems is not None:
            problems += [f"{place}: missing, though {split} needs it. {self.advice}" for place in missing]

    @property
    def names(self) -> list[str]:
        """The names of the samples, without reading them."""
        return [name for name, _, _ in self._files]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        name, image_file, mask_file = self._files[index]
        image, labels = read_image(image_file), self._labels(mask_file)
        if image.shape[:2] != labels.shape:
            raise DataError(
                f"{image_file} is {image.shape[0]} × {image.shape[1]} pixels (height × width) but its mask "
                f"{mask_file} is {labels.shape[0]} × {labels.shape[1]}. {self.advice}"
            )
        check_labels(mask_file, labels, len(self.classes), self.advice)
        return Sample(image, labels, name)

    def _labels(self, file: File) -> np.ndarray:
        if str(file).endswith(".mat"):
            return read_matlab_mask(file)
        return read_mask(file, without_colors=NUMBERS_NEEDED)


def read_names(file: File) -> list[str]:
    """The image names in a list, one a line. Raises DataError for an empty list and for what is no name."""
    names = [word for line in read_list(file) for word in line]
    wrong = [name for name in names if not IMAGE_NAME.fullmatch(name)]
    if wrong or not names:
        what = f"{wrong[0]!r} is not the name of an image" if wrong else "the list is empty"
        raise DataError(f"{file}: {what}. Expected one name a line, such as 2007_000032, without folder or ending.")
    return names


def leave_out(names: Sequence[str], held_out: Iterable[str], split: str, other: str) -> tuple[list[str], str]:
    """The names that are not held out, and a note about the others, "" if there are none.

    A network must not be trained on images on which it is validated, whatever list is asked for. Raises DataError if
    nothing is left.
    """
    kept_out = set(held_out)
    kept = [name for name in names if name not in kept_out]
    if names and not kept:
        raise DataError(f"{split}: every image is in {other} too, so that nothing is left. Give another split.")
    count = len(names) - len(kept)
    note = f"{count} of the {len(names)} images of {split} are in {other} too and are left out." if count else ""
    return kept, note
