"""Is a data set fit for training? Everything that is wrong with it, and what is in it, in one pass.

A run that stops in its third hour at a damaged picture, or a validation figure that is too good because half of its
pictures were trained on, costs more than reading every file once. `check_data` reads picture after picture and keeps
of each only counts, a digest and a thumbnail.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from minifcn.data import known_splits, masks, open_dataset
from minifcn.data.duplicates import near_duplicates, picture_digest, thumbnail
from minifcn.data.folder import collecting, some
from minifcn.data.frequency import PixelCounts, class_frequencies
from minifcn.data.sample import VOID, Dataset, Sample
from minifcn.data.transforms import resize
from minifcn.errors import DataError

Progress = Callable[[Sequence[int], str], Iterable[int]]
"""(indices, split) -> the same indices: where a command puts its progress bar."""


@dataclass
class SplitSummary:
    """What one split holds. Only pictures with which nothing is wrong count.

    sizes: how many pictures have each (height, width).  labels: int64 (256,), pixels of each label, void among them.
    images: int64 (C,), pictures that contain each class.  around: int64 (C,), labelled pixels in those pictures.
    names, digests, thumbnails: of each picture; a digest stands for all its pixels, a thumbnail is uint8 (768,).
    """

    split: str
    classes: tuple[str, ...]
    palette: np.ndarray
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(init=False)
    around: np.ndarray = field(init=False)
    names: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images, self.around = (np.zeros(len(self.classes), np.int64) for _ in range(2))

    def add(self, sample: Sample) -> None:
        here = np.bincount(sample.labels.ravel(), minlength=256)
        present = here[: len(self.classes)] > 0
        self.labels += here
        self.images += present
        self.around[present] += here[:VOID].sum()
        height, width = sample.labels.shape
        self.sizes[height, width] += 1
        self.names.append(sample.name)
        self.digests.append(picture_digest(sample.image))
        self.thumbnails.append(thumbnail(sample.image))

    @property
    def counts(self) -> PixelCounts:
        return PixelCounts(self.labels[: len(self.classes)], self.around)

    @property
    def void_share(self) -> float:
        return float(self.labels[VOID] / max(1, self.labels.sum()))

    def size_range(self) -> dict[str, tuple[int, int]]:
        """(height, width) of the smallest, the largest and the most frequent picture; area decides."""
        by_area = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        return {"smallest": by_area[0], "largest": by_area[-1], "most_frequent": self.sizes.most_common(1)[0][0]}

    def class_rows(self) -> list[dict[str, Any]]:
        """For each class: pixels, its share of the labelled pixels, its share where it occurs, pictures with it.

        The second share, over the labelled pixels of the pictures that contain the class, is the frequency of which
        median-frequency weights are made.
        """
        pixels, frequencies = self.counts.pixels, class_frequencies(self.counts)
        return [
            {
                "class": name,
                "pixels": int(pixels[number]),
                "share": float(pixels[number] / max(1, pixels.sum())),
                "share_where_present": float(frequencies[number]),
                "images": int(self.images[number]),
            }
            for number, name in enumerate(self.classes)
        ]


@dataclass
class Report:
    """errors: training cannot start, or its figures would mislead.  warnings: look at these.  notes: good to know.

    A message ends with its remedy. examples: (split, sample scaled down), spread over each split.
    """

    data: str
    splits: list[SplitSummary] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    examples: list[tuple[str, Sample]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All figures and messages, for JSON."""
        return {
            "data": self.data,
            "splits": {
                summary.split: {
                    "pictures": len(summary.names),
                    **({"sizes": {**summary.size_range(), "different": len(summary.sizes)}} if summary.names else {}),
                    "void_share": summary.void_share,
                    "classes": summary.class_rows(),
                }
                for summary in self.splits
            },
            **{kind: getattr(self, kind) for kind in ("errors", "warnings", "notes")},
        }


def check_data(
    spec: str,
    splits: Sequence[str] | None = None,
    *,
    foreground: int | None = None,
    examples: int = 16,
    example_size: int = 256,
    progress: Progress = lambda indices, split: indices,
) -> Report:
    """Read every picture of a data set once and report all that is wrong with it, instead of raising the first.

    spec, foreground: as for `open_dataset`.  splits: by default all, but not trainval: that is train and val together.
    examples: how many samples the report keeps to be looked at, scaled down to example_size on the longer side.
    Raises UsageError for a spec or an option that means nothing, DataError if there is no data set at all.
    """
    report = Report(spec)
    splits = _usual_splits(spec) if splits is None else list(dict.fromkeys(splits))
    for split in splits:
        with collecting(report.errors):
            dataset = open_dataset(spec, split, foreground=foreground, problems=report.errors)
            if note := getattr(dataset, "note", ""):
                report.notes.append(f"{split}: {note}")
            _read(dataset, split, report, -(-examples // len(splits)), example_size, progress)
    _compare_classes(report)
    _compare_pictures(report)
    report.errors = list(dict.fromkeys(report.errors))  # a list of classes that is at fault is so for every split
    return report


def _usual_splits(spec: str) -> list[str]:
    """The splits that the data set has; a missing one of train and val as well, so that its absence is reported."""
    splits = list(known_splits(spec))
    if "train" in splits or "val" in splits:
        splits = ["train", "val", *(split for split in splits if split not in ("train", "val", "trainval"))]
    return splits


def _read(dataset: Dataset, split: str, report: Report, examples: int, example_size: int, progress: Progress) -> None:
    """One pass over a split: its summary, its examples and its errors go into the report."""
    summary = SplitSummary(split, dataset.classes, dataset.palette)
    report.splits.append(summary)
    shown = set(np.linspace(0, len(dataset) - 1, min(examples, len(dataset))).round().astype(int).tolist())
    for index in progress(range(len(dataset)), split):
        with collecting(report.errors):
            sample = dataset[index]
            summary.add(sample)
            if index in shown:
                height, width = sample.labels.shape
                factor = min(1.0, example_size / max(height, width))
                scaled = resize(sample, (max(1, round(factor * height)), max(1, round(factor * width))))
                report.examples.append((split, scaled))
    where = f"{dataset.name} ({split})"
    if not summary.names:
        raise DataError(f"{where}: there is no picture that can be used. Put right what is wrong with its files.")
    if len(summary.sizes) > 1:
        report.notes.append(
            f"{split}: the pictures have {len(summary.sizes)} different sizes. In batches of more than one, small ones "
            f"are padded with void; with --size HxW all are scaled to one size."
        )
    masks.check_not_only_void(summary.labels, where)
    masks.check_two_classes(summary.labels, where, needed=2 if split == "train" else 1)


# ---------------------------------------------------------------------------------------------------- comparisons


def _compare_classes(report: Report) -> None:
    """Classes that never occur in a split, and splits that do not have the same classes."""
    for a, b in combinations(report.splits, 2):
        if a.classes != b.classes:
            report.errors.append(
                f"{a.split} has the classes {', '.join(a.classes)}, but {b.split} has {', '.join(b.classes)}. "
                f"Give both the same list, in the same order."
            )
    seen = {name for summary in report.splits for name in _present(summary)}
    for summary in report.splits:
        absent = [name for name in summary.classes if name not in _present(summary)]
        if not absent or not summary.names:
            continue
        elsewhere = [name for name in absent if name in seen]
        though = f", though another split has {some(elsewhere)}" if elsewhere else ""
        remedy = (
            "A network cannot learn what it never sees: add pictures of it, or leave the class out."
            if _trains(summary.split)
            else "Its IU cannot be measured there: it shows as - and drops out of the mean."
        )
        report.warnings.append(f"{summary.split}: no pixel of {some(absent)}{though}. {remedy}")


def _present(summary: SplitSummary) -> set[str]:
    return {name for name, images in zip(summary.classes, summary.images, strict=True) if images}


def _compare_pictures(report: Report) -> None:
    """The same picture twice, in two splits or in one; pictures that look alike; and names that come twice."""
    places = [(summary.split, name) for summary in report.splits for name in summary.names]
    firsts: dict[bytes, int] = {}  # where each picture was met first
    for number, digest in enumerate(digest for summary in report.splits for digest in summary.digests):
        first = firsts.setdefault(digest, number)
        if first != number:
            _report_same(report, places[first], places[number], "are the same picture, pixel by pixel")
    thumbnails = [small for summary in report.splits for small in summary.thumbnails]
    different, saved_twice = list(firsts.values()), set()
    for earlier, later in near_duplicates([thumbnails[number] for number in different]):
        one, other = places[different[earlier]], places[different[later]]
        if one[1] == other[1]:
            saved_twice.add(one[1])
            _report_same(report, one, other, "have one name and look alike: the same picture, saved twice")
        else:
            report.warnings.append(
                f"{'/'.join(one)} and {'/'.join(other)} look alike, as one picture saved twice or two frames of a "
                f"still scene. See that both are in one split, and whether you need both."
            )
    for a, b in combinations(report.splits, 2):
        digest_of = dict(zip(b.names, b.digests, strict=True))
        both = [name for name, digest in zip(a.names, a.digests, strict=True) if digest_of.get(name, digest) != digest]
        both = [name for name in both if name not in saved_twice]
        if both:
            report.warnings.append(
                f"{a.split} and {b.split}: in both, names stand for different pictures: {some(both)}. "
                f"No harm if numbering starts anew in each; if not, find out which picture belongs there."
            )


def _report_same(report: Report, one: tuple[str, str], other: tuple[str, str], what: str) -> None:
    """one, other: (split, name)."""
    message = f"{'/'.join(one)} and {'/'.join(other)} {what}. "
    if one[0] == other[0]:
        report.warnings.append(message + "It counts twice: keep one.")
    elif _trains(one[0]) != _trains(other[0]):
        report.errors.append(message + "What is trained on must not be measured on: take it out of one of the two.")
    else:
        report.warnings.append(message + "Unless one split is meant to be part of the other, take it out of one.")


def _trains(split: str) -> bool:
    """Whether a split is for training: train, trainval, train_extra, …"""
    return split.startswith("train")
