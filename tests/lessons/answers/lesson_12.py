"""Answers to the exercises of lesson 12 as learners might write them."""

import numpy as np


def right_pixel_by_pixel(predictions, labels, num_classes, ignore_index=255):
    counts = [[0] * num_classes for _ in range(num_classes)]
    for prediction, label in zip(predictions, labels, strict=True):
        for row in range(label.shape[0]):
            for column in range(label.shape[1]):
                truth = int(label[row, column])
                if truth != ignore_index:
                    counts[truth][int(prediction[row, column])] += 1
    return counts


def right_add_at(predictions, labels, num_classes, ignore_index=255):
    counts = np.zeros((num_classes, num_classes))
    for prediction, label in zip(predictions, labels, strict=True):
        known = label != ignore_index
        np.add.at(counts, (label[known], prediction[known]), 1)
    return counts


def right_class_by_class(predictions, labels, num_classes, ignore_index=255):
    prediction = np.concatenate([one.ravel() for one in predictions])
    label = np.concatenate([one.ravel() for one in labels])
    prediction, label = prediction[label != ignore_index], label[label != ignore_index]
    return np.array(
        [[np.sum((label == i) & (prediction == j)) for j in range(num_classes)] for i in range(num_classes)]
    )


def exchanged(predictions, labels, num_classes, ignore_index=255):
    return right_add_at(predictions, labels, num_classes, ignore_index).T


def void_as_background(predictions, labels, num_classes, ignore_index=255):
    labels = [np.where(label == ignore_index, 0, label) for label in labels]
    return right_add_at(predictions, labels, num_classes, -1)


def void_is_right(predictions, labels, num_classes, ignore_index=255):
    labels = [np.where(label == ignore_index, one, label) for one, label in zip(predictions, labels, strict=True)]
    return right_add_at(predictions, labels, num_classes, -1)


def void_zeroed_in_both(predictions, labels, num_classes, ignore_index=255):
    counts = np.zeros((num_classes, num_classes))
    for prediction, label in zip(predictions, labels, strict=True):
        known = label != ignore_index
        np.add.at(counts, (label * known, prediction * known), 1)
    return counts


def only_the_last(predictions, labels, num_classes, ignore_index=255):
    for prediction, label in zip(predictions, labels, strict=True):
        counts = np.zeros((num_classes, num_classes), int)
        known = label != ignore_index
        np.add.at(counts, (label[known], prediction[known]), 1)
    return counts


def returns_in_the_loop(predictions, labels, num_classes, ignore_index=255):
    counts = np.zeros((num_classes, num_classes), int)
    for prediction, label in zip(predictions, labels, strict=True):
        known = label != ignore_index
        np.add.at(counts, (label[known], prediction[known]), 1)
        return counts
    return None


def counts_pairs_once(predictions, labels, num_classes, ignore_index=255):
    counts = np.zeros((num_classes, num_classes), int)
    for prediction, label in zip(predictions, labels, strict=True):
        known = label != ignore_index
        counts[label[known], prediction[known]] += 1
    return counts


def wraps_around(predictions, labels, num_classes, ignore_index=255):
    counts = np.zeros(num_classes**2, int)
    for prediction, label in zip(predictions, labels, strict=True):
        known = label != ignore_index
        counts += np.bincount(num_classes * label[known] + prediction[known], minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def always_255(predictions, labels, num_classes, ignore_index=255):
    return right_add_at(predictions, labels, num_classes)


def mean_over_pictures(predictions, labels, num_classes, ignore_index=255):
    return right_add_at(predictions, labels, num_classes, ignore_index) / len(labels)


def shares(predictions, labels, num_classes, ignore_index=255):
    counts = right_add_at(predictions, labels, num_classes, ignore_index)
    return counts / counts.sum()


def relabels_in_place(predictions, labels, num_classes, ignore_index=255):
    counts = np.zeros((num_classes + 1, num_classes), int)
    for prediction, label in zip(predictions, labels, strict=True):
        label[label == ignore_index] = num_classes
        np.add.at(counts, (label, prediction), 1)
    return counts[:-1]


def right_loop(confusion):
    ius = []
    for k in range(len(confusion)):
        union = sum(confusion[k]) + sum(row[k] for row in confusion) - confusion[k][k]
        if union > 0:
            ius.append(confusion[k][k] / union)
    return sum(ius) / len(ius)


def right_nanmean(confusion):
    correct = np.diagonal(confusion)
    with np.errstate(invalid="ignore"):
        return np.nanmean(correct / (confusion.sum(0) + confusion.sum(1) - correct))


def pixel_accuracy(confusion):
    return np.trace(confusion) / np.sum(confusion)


def mean_accuracy(confusion):
    rows = confusion.sum(axis=1)
    return np.mean(np.diag(confusion)[rows > 0] / rows[rows > 0])


def by_columns(confusion):
    columns = confusion.sum(axis=0)
    return np.mean(np.diag(confusion)[columns > 0] / columns[columns > 0])


def intersection_twice(confusion):
    union = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.mean(np.diag(confusion)[union > 0] / union[union > 0])


def absent_is_zero(confusion):
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    return np.mean(np.diag(confusion) / np.maximum(union, 1))


def absent_is_nan(confusion):
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    return np.mean(np.diag(confusion) / union)


def absent_by_truth(confusion):
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    there = confusion.sum(axis=1) > 0
    return np.mean(np.diag(confusion)[there] / union[there])


def one_ratio(confusion):
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    return np.diag(confusion).sum() / union.sum()


def dice(confusion):
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.mean(2 * np.diag(confusion)[both > 0] / both[both > 0])


def each_class(confusion):
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    return np.diag(confusion) / np.maximum(union, 1)


def right_diagnosis():
    return {
        "E": "BGR swapped",
        "D": "learning rate against loss sum",
        "C": "void as background",
        "B": "bilinear masks",
        "A": "weights not copied",
    }


def right_from_a_list():
    causes = [
        "Weights not copied",
        "bilinear masks ",
        "void as background",
        "learning rate against loss sum",
        "BGR swapped",
    ]
    return dict(zip("ABCDE", causes, strict=True))


def a_and_d_exchanged():
    return right_diagnosis() | {"A": "learning rate against loss sum", "D": "weights not copied"}


def b_and_c_exchanged():
    return right_diagnosis() | {"B": "void as background", "C": "bilinear masks"}


def c_and_e_exchanged():
    return right_diagnosis() | {"C": "BGR swapped", "E": "void as background"}


def one_for_all():
    return dict.fromkeys("ABCDE", "weights not copied")


def one_missing():
    answer = right_diagnosis()
    del answer["B"]
    return answer


def in_other_words():
    return right_diagnosis() | {"E": "RGB and BGR are swapped"}


def a_list():
    return list(right_diagnosis().values())


CORRECT = {
    "confusion_matrix": [right_pixel_by_pixel, right_add_at, right_class_by_class],
    "mean_iu": [right_loop, right_nanmean],
    "diagnose": [right_diagnosis, right_from_a_list],
}
WRONG = {
    "confusion_matrix": [
        (exchanged, "rows are the truth"),
        (void_as_background, "void is counted as class 0"),
        (void_is_right, "void pixels are counted as right"),
        (void_zeroed_in_both, "predicted as background. Leave them out"),
        (only_the_last, "only the last picture"),
        (returns_in_the_loop, "only the first picture"),
        (counts_pairs_once, "each pair is counted once"),
        (wraps_around, "wrapped around"),
        (always_255, "not 255 in its place"),
        (mean_over_pictures, "the mean over the pictures"),
        (shares, "shares, not counts"),
        (relabels_in_place, "has changed a mask"),
    ],
    "mean_iu": [
        (pixel_accuracy, "this is pixel accuracy"),
        (mean_accuracy, "over the rows"),
        (by_columns, "divides by the columns only"),
        (intersection_twice, "the intersection twice"),
        (absent_is_zero, "counts as 0"),
        (absent_is_nan, "has 0/0"),
        (absent_by_truth, "was predicted, but is not in the truth"),
        (one_ratio, "one ratio for all classes"),
        (dice, "the Dice coefficient"),
        (each_class, "one number is expected"),
    ],
    "diagnose": [
        (a_and_d_exchanged, "run A"),
        (b_and_c_exchanged, "run B"),
        (c_and_e_exchanged, "run C"),
        (one_for_all, "run B"),
        (one_missing, "run B has no cause"),
        (in_other_words, "is none of the five"),
        (a_list, "a dictionary is expected"),
    ],
}
