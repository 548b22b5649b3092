"""What can be wrong with the masks of a data set, and what to say about it.

A mask of class numbers looks like any grey picture, so the commonest mistakes (a mask of 0 and 255, one scaled with
interpolation, one saved as JPEG) can be told only from the values in it.
"""

from pathlib import Path

import numpy as np

from minifcn.data.archive import File
from minifcn.data.sample import VOID
from minifcn.errors import DataError

_GREY_LEVEL = 32  # without a class list, values from here up look like grey levels rather than classes

_SOFT = (
    "Most of its {values} different values occur only along edges, so the mask seems to have been anti-aliased, scaled "
    "with interpolation or saved as JPEG on its way: such values are mixtures and name no class. "
    "Make the mask again from its source without smoothing (scale with nearest neighbour) and save it as PNG."
)


_ADD_THE_CLASS = f"Add the class to classes.txt or map it to {VOID}."


def check_labels(path: File, labels: np.ndarray, num_classes: int, remedy: str = _ADD_THE_CLASS) -> None:
    """Raise DataError, with file, label and count, if a label of uint8 (H, W) is neither a class nor void."""
    counts = np.bincount(labels.ravel(), minlength=256)
    wrong = _listed(counts, start=num_classes)
    if not wrong:
        return
    label = wrong[0]
    others = f" (and {len(wrong) - 1} other such labels, up to {wrong[-1]})" if len(wrong) > 1 else ""
    problem = (
        f"{path}: label {label} in {counts[label]} pixels{others}, "
        f"but the data set has {num_classes} classes (0–{num_classes - 1}) and {VOID} for void. "
    )
    if is_soft(labels):
        raise DataError(problem + _SOFT.format(values=np.count_nonzero(counts)))
    raise DataError(problem + remedy)


def mark_foreground(path: Path, labels: np.ndarray, foreground: int) -> np.ndarray:
    """The mask with `foreground` as class 1. Raises DataError if it holds more than that value, 0 and void."""
    values = labels[(labels != 0) & (labels != foreground) & (labels != VOID)]
    if values.size:
        problem = (
            f"{path}: value {values.min()} in {np.count_nonzero(values == values.min())} pixels, but with --foreground "
            f"{foreground} a mask holds only 0 (background) and {foreground} (foreground). "
        )
        if is_soft(labels):
            raise DataError(problem + _SOFT.format(values=len(np.unique(labels))))
        raise DataError(problem + "Correct the mask, or leave out --foreground and name the classes in classes.txt.")
    return np.where(labels == foreground, np.uint8(1), labels)


def check_not_soft(path: Path, labels: np.ndarray) -> None:
    """Raise DataError if a mask, of which no class list says what it may hold, looks anti-aliased."""
    counts = np.bincount(labels.ravel(), minlength=256)
    if counts[_GREY_LEVEL:VOID].any() and is_soft(labels):
        raise DataError(f"{path}: " + _SOFT.format(values=np.count_nonzero(counts)))


def check_numbering(counts: np.ndarray, where: str) -> None:
    """Raise DataError if labels of unknown meaning have more gaps than labels. counts: pixels (256,) of each label."""
    labels = _listed(counts)
    if labels and 2 * len(labels) < labels[-1] + 1:
        raise DataError(
            f"{where}: the masks hold {describe(counts)}, with so many gaps that these look like grey levels rather "
            f"than class numbers. Number the classes 0, 1, 2, …, or say in classes.txt what they are, one name a line."
        )


def check_not_only_void(counts: np.ndarray, where: str) -> None:
    """Raise DataError if the only labels are 0 and 255: the commonest masks made by hand."""
    if counts[VOID] and not counts[1:VOID].any():
        raise DataError(
            f"{where}: the masks hold only {describe(counts)}. Here {VOID} means void, pixels that count neither in "
            f"the loss nor in the metrics, so there would be nothing to learn. If {VOID} marks your objects, make it a "
            f"class with --foreground {VOID} (in Python: Folder(…, foreground={VOID}))."
        )


def check_two_classes(counts: np.ndarray, where: str, needed: int = 2) -> None:
    """Raise DataError if fewer than `needed` classes are labelled anywhere."""
    if len(_listed(counts)) < needed:
        raise DataError(
            f"{where}: the masks hold only {describe(counts) or 'nothing'}. A network can learn only to tell classes "
            f"apart, so at least {needed} must be labelled (void, {VOID}, is none). Are these the right masks?"
        )


def is_soft(labels: np.ndarray) -> bool:
    """Whether a mask was anti-aliased, scaled with interpolation or compressed with loss.

    Then most of its values occur only along edges: no pixel of such a value lies in a 3 × 3 block of its own kind.
    """
    padded = np.pad(labels, 1, mode="edge")
    flat = np.ones(labels.shape, dtype=bool)
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2), (0, 0), (0, 2), (2, 0), (2, 2)):
        flat &= labels == padded[row : row + labels.shape[0], column : column + labels.shape[1]]
    values, counts = np.unique(labels, return_counts=True)
    flat_counts = np.bincount(labels[flat], minlength=256)[values]
    soft = np.count_nonzero(flat_counts < 0.02 * counts)
    return bool(soft >= 4 and 2 * soft > len(values))


def describe(counts: np.ndarray) -> str:
    """ "label 0 in 900 pixels, label 255 in 124 pixels"."""
    present = np.flatnonzero(counts)
    shown = [f"label {label} in {counts[label]} pixels" for label in present[:10]]
    rest = [f"and {len(present) - 10} other labels up to {present[-1]}"] if len(present) > 10 else []
    return ", ".join(shown + rest)


def _listed(counts: np.ndarray, start: int = 0) -> list[int]:
    """The labels from `start` up that occur, without void."""
    return (start + np.flatnonzero(counts[start:VOID])).tolist()
