"""k-fold cross-validation: what a small data set has in place of one large validation set.

The pictures are dealt into k folds. Each fold is the validation set once, while a network is trained on the others, so
that every picture is predicted exactly once by a network that has not seen it. Pictures of one group (a scene, a
patient, a video) resemble each other: with some of them on both sides, the network is asked what it was told, and the
figure is too good. So a group is never divided.

    names = picture_names(dataset)
    for train, val in folds(names, 5, groups=groups_of(names, r"(patient\\d+)_")):
        train_set, val_set = Subset(dataset, train, "patients (train)"), Subset(dataset, val, "patients (val)")
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from minifcn.data.sample import Dataset, Sample
from minifcn.errors import DataError, UsageError


class Fold(NamedTuple):
    """train, val: indices into the names, ascending. Together they are every index once."""

    train: list[int]
    val: list[int]


def folds(names: Sequence[str], k: int, *, groups: Sequence[str] | None = None, seed: int = 0) -> list[Fold]:
    """Divide pictures into k folds; every picture is in `val` of exactly one, and no group on both sides of any.

    names: of the pictures.  groups: the group of each, by default every name is a group of its own.
    The folds depend on names, groups and seed, not on the order in which the pictures are listed. Their sizes differ by
    one at most without groups, and otherwise by no more than the largest group holds.

    Raises UsageError for a k below 2 or above the number of groups, and if names and groups are not equally many.
    """
    group_of_each = list(names if groups is None else groups)
    if len(group_of_each) != len(names):
        raise UsageError(f"folds: {len(names)} names but {len(group_of_each)} groups; give the group of each name.")
    sizes = Counter(group_of_each)
    if not 2 <= k <= len(sizes):
        what = "pictures" if groups is None else f"groups (of {len(names)} pictures)"
        raise UsageError(
            f"folds: {k} folds of {len(sizes)} {what}; there must be at least 2, and no more than there are {what}, "
            f"since each fold validates on one of them at least."
        )
    # Large groups first, each into the fold that is smallest so far; chance, fixed by the names, decides between equals
    ranked = sorted(sizes, key=lambda group: (-sizes[group], _chance(seed, group)))
    fold_of_group: dict[str, int] = {}
    fold_sizes = [0] * k
    for group in ranked:
        smallest = fold_sizes.index(min(fold_sizes))
        fold_of_group[group] = smallest
        fold_sizes[smallest] += sizes[group]
    fold_of_each = [fold_of_group[group] for group in group_of_each]
    return [
        Fold(
            [index for index, own in enumerate(fold_of_each) if own != fold],
            [index for index, own in enumerate(fold_of_each) if own == fold],
        )
        for fold in range(k)
    ]


def _chance(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}/{group}".encode()).digest()


def groups_of(names: Sequence[str], pattern: str) -> list[str]:
    """The group of each name: what the first parentheses of a regular expression match, anywhere in the name.

    groups_of(["p07_001", "p07_002", "p11_001"], r"(p\\d+)_") -> ["p07", "p07", "p11"]

    Raises UsageError for a pattern that is no regular expression or has no parentheses, and lists the names in which
    it finds no group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is not a regular expression ({error}); an example is '(patient[0-9]+)_'."
        ) from None
    if not expression.groups:
        raise UsageError(
            f"{pattern!r} has no parentheses. Put them around the part of the name that tells the group, "
            f"as in '(patient[0-9]+)_'."
        )
    matches = [expression.search(name) for name in names]
    found = [match[1] if match else None for match in matches]
    without = [name for name, group in zip(names, found, strict=True) if not group]
    if without:
        more = f" and {len(without) - 10} more" if len(without) > 10 else ""
        raise UsageError(
            f"{pattern!r} finds no group in {len(without)} of {len(names)} names: {', '.join(without[:10])}{more}. "
            f"Every picture needs one: change the pattern or rename the pictures."
        )
    return [group for group in found if group]


def picture_names(dataset: Dataset) -> list[str]:
    """The name of every sample: the data set's own list, `names`, or, where it has none, by reading the samples."""
    names = getattr(dataset, "names", None)
    return [dataset[index].name for index in range(len(dataset))] if names is None else list(names)


class Joined:
    """Joined([train, val], "both"): the samples of several data sets with the same classes, one after the other.

    Raises DataError if the classes differ.
    """

    def __init__(self, datasets: Sequence[Dataset], name: str) -> None:
        self.datasets, self.name = list(datasets), name
        self.classes, self.palette = self.datasets[0].classes, self.datasets[0].palette
        for dataset in self.datasets:
            if dataset.classes != self.classes:
                raise DataError(
                    f"{name}: the classes {dataset.classes} and {self.classes} differ; give both the same "
                    "classes, in the same order, or use one of them alone."
                )
        self._places = [(dataset, index) for dataset in self.datasets for index in range(len(dataset))]

    @property
    def names(self) -> list[str]:
        return [name for dataset in self.datasets for name in picture_names(dataset)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        dataset, own_index = self._places[index]
        return dataset[own_index]


class Subset:
    """Subset(dataset, [4, 0, 7], "val of fold 1"): some of the samples of a data set, in the order given; a Dataset.

    Raises UsageError for an index that the data set does not have.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int], name: str) -> None:
        self.dataset, self.name = dataset, name
        self.indices = [int(index) for index in indices]
        all_names = getattr(dataset, "names", None)
        if all_names is not None:
            self.names = [all_names[index] for index in self.indices]
        outside = [index for index in self.indices if not 0 <= index < len(dataset)]
        if outside:
            raise UsageError(f"{name}: there is no sample {outside[0]} in {dataset.name}, which has {len(dataset)}.")
        self.classes, self.palette = dataset.classes, dataset.palette

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]
