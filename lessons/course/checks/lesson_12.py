"""Lesson 12: the confusion matrix and mean IU, against counting pixel by pixel; the diagnosis, symptom by symptom."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from course.comparing import Wrong, compare

Array = np.ndarray

CAUSES = (
    "void as background",
    "BGR swapped",
    "learning rate against loss sum",
    "bilinear masks",
    "weights not copied",
)


_CAUSES_OF_ERRORS = {  # by words of NumPy's messages
    "reshape": "np.bincount gives as many numbers as the largest one needs, and at least minlength: there are too few "
    "without minlength=num_classes**2, and too many where void pixels are among them.",
    "object too deep": "np.bincount takes one row of numbers: select pixels with a mask, label[…], or use ravel().",
    "broadcast": "Take the same pixels of the label and of the prediction.",
    "inhomogeneous": "Pictures differ in size, so they make no array together: count each, and add the counts.",
}


def check_confusion_matrix(confusion_matrix: Callable[..., Array], generator: np.random.Generator) -> None:
    label = np.array([[0, 0, 1, 2], [1, 1, 255, 2]], np.uint8)
    prediction = np.array([[0, 1, 1, 2], [1, 1, 1, 0]], np.uint8)
    call = "confusion_matrix([[[0, 1, 1, 2], [1, 1, 1, 0]]], [[[0, 0, 1, 2], [1, 1, 255, 2]]], 3)"
    _check_counts(confusion_matrix, [prediction], [label], 3, 255, call)
    for num_classes, sizes, ignore_index, dtype, what in (
        (3, [(4, 5), (3, 7), (6, 2)], 255, np.uint8, "three pictures of different sizes"),
        (9, [(8, 8)], 255, int, "one picture, and classes that do not occur"),
        (21, [(40, 30), (25, 25)], 255, np.uint8, "21 classes, so that 21 · 20 + 20 is too large for uint8"),
        (4, [(9, 5), (5, 9)], 1, int, "ignore_index=1, so that class 1 itself is never counted"),
    ):
        predictions = [_random(generator, num_classes, size).astype(dtype) for size in sizes]
        labels = [
            np.where(generator.random(size) < 0.2, ignore_index, _random(generator, num_classes, size)).astype(dtype)
            for size in sizes
        ]
        for label in labels:
            label[0, 0] = ignore_index  # void in every picture
        ignore = "" if ignore_index == 255 else f", ignore_index={ignore_index}"
        call = f"confusion_matrix(predictions, labels, {num_classes}{ignore}): {what}"
        _check_counts(confusion_matrix, predictions, labels, num_classes, ignore_index, call)


def _random(generator: np.random.Generator, num_classes: int, size: tuple[int, int]) -> Array:
    """Classes of which the lower ones are more frequent, and the last but one never occurs if there are many."""
    classes = (num_classes * generator.random(size) ** 2).astype(int)
    return np.where(classes == num_classes - 2, 0, classes) if num_classes > 4 else classes


def _check_counts(
    confusion_matrix: Callable[..., Array],
    predictions: Sequence[Array],
    labels: Sequence[Array],
    num_classes: int,
    ignore_index: int,
    call: str,
) -> None:
    given = [one.copy() for one in [*predictions, *labels]]
    options = {} if ignore_index == 255 else {"ignore_index": ignore_index}
    try:
        yours = confusion_matrix(list(predictions), list(labels), num_classes, **options)
    except ValueError as error:
        for words, cause in _CAUSES_OF_ERRORS.items():
            if words in str(error):
                raise Wrong(call, f"{str(error).strip().rstrip('.')}. {cause}") from None
        raise
    for before, after in zip(given, [*predictions, *labels], strict=True):
        if not np.array_equal(before, after):
            raise Wrong(
                call, "your function has changed a mask that belongs to its caller.", yours=after, expected=before
            )
    right = _count(predictions, labels, num_classes, ignore_index)
    ignored = [label == ignore_index for label in labels]
    as_background = [np.where(void, 0, label) for label, void in zip(labels, ignored, strict=True)]
    as_last = [np.where(void, num_classes - 1, label) for label, void in zip(labels, ignored, strict=True)]
    as_predicted = [
        np.where(void, prediction, label) for prediction, label, void in zip(predictions, labels, ignored, strict=True)
    ]
    with_void_predicted = [np.where(void, 0, prediction) for prediction, void in zip(predictions, ignored, strict=True)]
    mistakes = {
        "rows and columns are exchanged: rows are the truth, columns the prediction.": right.T,
        "void is counted as class 0. It is neither right nor wrong: leave these pixels out.": _count(
            predictions, as_background, num_classes
        ),
        "void is counted as the last class. It is neither right nor wrong: leave these pixels out.": _count(
            predictions, as_last, num_classes
        ),
        "void pixels are counted as right. They are neither right nor wrong: leave them out.": _count(
            predictions, as_predicted, num_classes
        ),
        "void pixels are counted as background that was predicted as background. Leave them out.": _count(
            with_void_predicted, as_background, num_classes
        ),
        "void pixels are counted. Is ignore_index used, and not 255 in its place?": _count(
            predictions, labels, num_classes
        ),
        "only the last picture is counted. Is the matrix made anew for each? It belongs before the loop.": _count(
            predictions[-1:], labels[-1:], num_classes, ignore_index
        ),
        "only the first picture is counted. Does `return` stand within the loop?": _count(
            predictions[:1], labels[:1], num_classes, ignore_index
        ),
        "these are shares, not counts.": right / max(1, right.sum()),
        "these are shares of each row, not counts.": right / np.maximum(1, right.sum(axis=1, keepdims=True)),
        "this is the mean over the pictures; the counts of all pictures are added.": right / len(labels),
        "each pair is counted once at most. `counts[i, j] += 1` with arrays i and j counts equal pairs only once; use "
        "np.bincount, or np.add.at.": lambda: sum(
            np.minimum(1, _count([one], [two], num_classes, ignore_index))
            for one, two in zip(predictions, labels, strict=True)
        ),
        "only the diagonal is there; what was confused with what is missing.": np.diag(np.diag(right)),
        "there is one matrix for each picture; add them up.": lambda: np.stack(
            [_count([one], [two], num_classes, ignore_index) for one, two in zip(predictions, labels, strict=True)]
        ),
        "pixels that were predicted as class 0 are left out. Only what the label is decides whether a pixel "
        "counts.": np.where(np.arange(num_classes) == 0, 0, right),
        "the prediction decides whether a pixel counts, too. It is only the label that may be void.": np.where(
            np.arange(num_classes) == ignore_index, 0, right
        ),
    }
    if predictions[0].dtype == np.uint8:
        mistakes[
            "numbers have wrapped around: num_classes · label + prediction does not fit into uint8, whose largest is "
            "255. Convert the labels first: label.astype(int)."
        ] = lambda: _count_wrapped(predictions, labels, num_classes, ignore_index)
    compare(yours, right, call, mistakes)


def _count(
    predictions: Sequence[Array], labels: Sequence[Array], num_classes: int, ignore_index: int | None = None
) -> Array:
    counts = np.zeros((num_classes, num_classes), int)
    for prediction, label in zip(predictions, labels, strict=True):
        for j, i in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
            if i != ignore_index and i < num_classes:
                counts[i, j] += 1
    return counts


def _count_wrapped(predictions: Sequence[Array], labels: Sequence[Array], num_classes: int, ignore_index: int) -> Array:
    """num_classes · label + prediction in uint8."""
    counts = np.zeros(num_classes**2, int)
    for prediction, label in zip(predictions, labels, strict=True):
        counted = label != ignore_index
        pairs = (num_classes * label[counted].astype(int) + prediction[counted]) % 256
        counts += np.bincount(pairs, minlength=num_classes**2)[: num_classes**2]
    return counts.reshape(num_classes, num_classes)


def check_mean_iu(mean_iu: Callable[[Array], float], generator: np.random.Generator) -> None:
    _check_mean_iu(mean_iu, np.array([[7, 1], [2, 3]]), "mean_iu([[7, 1], [2, 3]])")
    _check_mean_iu(mean_iu, np.diag([5, 2, 7]), "mean_iu of a perfect prediction")
    absent = np.array([[7, 1, 0], [2, 3, 0], [0, 0, 0]])
    _check_mean_iu(mean_iu, absent, "mean_iu([[7, 1, 0], [2, 3, 0], [0, 0, 0]]), where class 2 does not occur")
    _check_mean_iu(mean_iu, np.array([[75, 0, 0], [15, 0, 0], [10, 0, 0]]), "mean_iu of predicting class 0 everywhere")
    invented = np.array([[6, 0, 2], [0, 4, 0], [0, 0, 0]])
    _check_mean_iu(mean_iu, invented, "mean_iu([[6, 0, 2], [0, 4, 0], [0, 0, 0]]), where class 2 is only predicted")
    for num_classes in (2, 9, 21):
        counts = generator.integers(0, 1000, (num_classes, num_classes)) + np.diag(
            generator.integers(0, 5000, num_classes)
        )
        if num_classes > 2:
            gone = int(generator.integers(num_classes))
            counts[gone], counts[:, gone] = 0, 0
        _check_mean_iu(mean_iu, counts, f"mean_iu of random counts of {num_classes} classes")


def _check_mean_iu(mean_iu: Callable[[Array], float], counts: Array, call: str) -> None:
    given = counts.copy()
    yours = mean_iu(given)
    if not np.array_equal(given, counts):
        raise Wrong(call, "your function has changed the matrix, which belongs to its caller.")
    if isinstance(yours, np.ndarray) and yours.ndim:
        raise Wrong(call, "one number is expected, the mean over the classes.", yours=yours, expected=_mean_iu(counts))
    right = _mean_iu(counts)
    correct, truth, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    union = truth + predicted - correct
    with np.errstate(all="ignore"):
        ius = correct / union
        mistakes = {
            "a class that was predicted, but is not in the truth, is left out. It occurs, in the wrong place: its "
            "intersection over union is 0, and counts.": np.mean(ius[truth > 0]),
            "classes of which nothing was right are left out. They count, with 0.": np.mean(ius[correct > 0]),
            "a class that does not occur counts as 0. Nobody could be right about it: leave it out.": np.nansum(ius)
            / len(counts),
            "a class that does not occur counts as 1. Nobody could be right about it: leave it out.": np.mean(
                np.where(union > 0, ius, 1)
            ),
            "there are NaNs: a class that does not occur has 0/0. Leave it out of the mean.": np.nan,
            "`//` divides whole numbers and drops the rest; the ratio needs `/`.": np.mean(
                correct // np.maximum(union, 1)
            ),
            "this is pixel accuracy: the share of all pixels that are right.": correct.sum() / counts.sum(),
            "this is the mean over the rows of what was found. A union also holds what was predicted as the class and "
            "is none of it: the column.": np.nanmean(correct / truth),
            "this divides by the columns only. A union also holds the pixels of the class that were missed: the row.": (
                np.nanmean(correct / predicted)
            ),
            "the union counts the intersection twice: row + column − diagonal.": np.nanmean(
                correct / (truth + predicted)
            ),
            "this is 2·intersection / (row + column), the Dice coefficient, not intersection over union.": np.nanmean(
                2 * correct / (truth + predicted)
            ),
            "the sum is not divided by the number of classes.": np.nansum(ius),
            "the classes are weighed by how frequent they are; in mean IU each class counts alike.": np.nansum(
                truth * ius
            )
            / counts.sum(),
            "this is one ratio for all classes together. Take each class's ratio first, then the mean.": correct.sum()
            / union.sum(),
            "class 0 is left out. Background is a class like the others.": np.nanmean(ius[1:]),
            "this is in per cent; a fraction is expected.": 100 * right,
            "each class's pixels that are right are divided by all pixels; they must be by the class's union.": np.mean(
                correct / counts.sum()
            ),
            "the intersection is subtracted twice. Row + column holds it twice, and it must count once.": np.nanmean(
                correct / (union - correct)
            ),
        }
        for small in (1, *(10.0**-k for k in range(1, 10))):
            hint = (
                f"{small:g} is added to the union, so as not to divide by zero. It changes every ratio; leave out the "
                "classes that do not occur."
            )
            mistakes[hint] = np.mean(correct[union > 0] / (union[union > 0] + small))
    compare(yours, right, call, mistakes)


def _mean_iu(counts: Array) -> float:
    """Class by class, from the definition: pixels that are both, over pixels that are either."""
    ius = []
    for one in range(len(counts)):
        both = int(counts[one, one])
        either = sum(int(counts[i, j]) for i in range(len(counts)) for j in range(len(counts)) if one in (i, j))
        if either:
            ius.append(both / either)
    return sum(ius) / len(ius)


RUNS = {
    "A": "weights not copied",
    "B": "bilinear masks",
    "C": "void as background",
    "D": "learning rate against loss sum",
    "E": "BGR swapped",
}
_LEARNS = {  # why a run that learns is neither of the two that do not
    "learning rate against loss sum": "at a learning rate of 1e-10 nothing moves, so the loss would stay at ln 9 = "
    "2.1972. In run {run} it falls.",
    "weights not copied": "a deep network with random weights would predict background everywhere for long, and its "
    "loss would stop at the floor of the frequencies. Run {run} finds objects.",
}
_LOOKS_HEALTHY = {  # why a run that does not learn is none of those whose training was healthy, or nearly
    "void as background": "the network would still learn the objects, all but their rims. In run {run} everything is "
    "background.",
    "BGR swapped": "the channels were swapped at prediction only, so the loss in training would be that of the "
    "healthy run. In run {run} it is not.",
    "bilinear masks": "masks are scaled after the network, so the loss in training would be that of the healthy run. "
    "In run {run} it is not.",
}
CONTRADICTIONS = {  # by run and wrong cause: which symptom speaks against it
    "A": _LOOKS_HEALTHY
    | {
        "learning rate against loss sum": "at a learning rate of 1e-10 nothing moves, so the loss would stay at ln 9 = "
        "2.1972. In run A it falls at first, to the floor of the frequencies, and stays there.",
    },
    "B": _LEARNS
    | {
        "void as background": "rims would be background. Look at them in run B: they are thin lines of classes that "
        "are not in the picture.",
        "BGR swapped": "whole objects would have a wrong class. In run B their inside is as in the healthy run; only "
        "thin lines around them are wrong.",
    },
    "C": _LEARNS
    | {
        "BGR swapped": "objects would be found where they are, with wrong classes. In run C the classes are as right "
        "as in the healthy run; look at how much of the border is background.",
        "bilinear masks": "each object would be surrounded by a thin line of other classes. In run C there is none; "
        "look at how much of the border is background.",
    },
    "D": _LOOKS_HEALTHY
    | {
        "weights not copied": "the last layers would still learn how frequent each class is, and the loss would fall "
        "to that floor. In run D it does not move at all: it is ln 9 = 2.1972 in the first step and in the last.",
    },
    "E": _LEARNS
    | {
        "void as background": "objects would be thinner, but have the right class. In run E whole objects have a "
        "wrong one.",
        "bilinear masks": "only thin lines around the objects would have a wrong class. In run E whole objects have.",
    },
}


def check_diagnose(diagnose: Callable[[], Any], generator: np.random.Generator) -> None:
    answer = diagnose()
    if not isinstance(answer, dict):
        raise Wrong("diagnose()", 'a dictionary is expected, {"A": "BGR swapped", …}.', yours=answer)
    given = {str(letter).strip().upper(): cause for letter, cause in answer.items()}
    known = {cause.lower(): cause for cause in CAUSES}
    if any(str(key).strip().lower() in known for key in answer):
        raise Wrong("diagnose()", 'the letters are the keys, and the causes the values: {"A": "BGR swapped", …}.')
    for run, right in RUNS.items():
        if run not in given:
            raise Wrong("diagnose()", f"run {run} has no cause. There are five runs, A to E.", yours=answer)
        cause = known.get(str(given[run]).strip().lower())
        if cause is None:
            close = get_close_matches(str(given[run]), CAUSES, n=1)
            meant = f" Do you mean {close[0]!r}?" if close else f" They are: {', '.join(CAUSES)}."
            raise Wrong("diagnose()", f"run {run}: {given[run]!r} is none of the five causes.{meant}", yours=answer)
        if cause != right:
            why = CONTRADICTIONS[run][cause].format(run=run)
            raise Wrong("diagnose()", f'run {run}: if it were "{cause}", {why}', yours=answer)
