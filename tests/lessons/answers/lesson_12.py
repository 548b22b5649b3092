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


def one_matrix_for_each(predictions, labels, num_classes, ignore_index=255):
    pairs = zip(predictions, labels, strict=True)
    return [right_add_at([one], [two], num_classes, ignore_index) for one, two in pairs]


def _counted_where(predictions, labels, num_classes, counts):
    confusion = np.zeros((num_classes, num_classes), int)
    for prediction, label in zip(predictions, labels, strict=True):
        where = counts(prediction, label)
        np.add.at(confusion, (label[where], prediction[where]), 1)
    return confusion


def without_predicted_background(predictions, labels, num_classes, ignore_index=255):
    return _counted_where(predictions, labels, num_classes, lambda p, t: (t != ignore_index) & (p != 0))


def void_by_prediction_too(predictions, labels, num_classes, ignore_index=255):
    return _counted_where(predictions, labels, num_classes, lambda p, t: (t != ignore_index) & (p != ignore_index))


def without_a_mask(predictions, labels, num_classes, ignore_index=255):
    return sum(
        np.bincount(num_classes * label.astype(int) + one, minlength=num_classes**2)
        for one, label in zip(predictions, labels, strict=True)
    )


def other_pixels_of_the_prediction(predictions, labels, num_classes, ignore_index=255):
    label, prediction = labels[0], predictions[0]
    return np.bincount(num_classes * label[label != ignore_index].astype(int) + prediction)


def all_in_one_array(predictions, labels, num_classes, ignore_index=255):
    label, prediction = np.array(labels), np.array(predictions)
    return right_add_at([prediction], [label], num_classes, ignore_index)


def by_all_pixels(confusion):
    return np.mean(np.diag(confusion) / confusion.sum())


def intersection_subtracted_twice(confusion):
    correct = np.diag(confusion)
    return np.nanmean(correct / (confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * correct))


def small_number_added(confusion):
    correct = np.diag(confusion)
    return np.mean(correct / (confusion.sum(axis=0) + confusion.sum(axis=1) - correct + 1e-6))


def letters_as_values():
    return {cause: letter for letter, cause in right_diagnosis().items()}


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
        (one_matrix_for_each, "one matrix for each picture"),
        (without_predicted_background, "predicted as class 0 are left out"),
        (void_by_prediction_too, "only the label that may be void"),
        (without_a_mask, "takes one row of numbers"),
        (other_pixels_of_the_prediction, "Take the same pixels"),
        (all_in_one_array, "differ in size"),
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
        (by_all_pixels, "divided by all pixels"),
        (intersection_subtracted_twice, "subtracted twice"),
        (small_number_added, "is added to the union"),
    ],
    "diagnose": [
        (a_and_d_exchanged, "run A"),
        (letters_as_values, "the letters are the keys"),
        (b_and_c_exchanged, "run B"),
        (c_and_e_exchanged, "run C"),
        (one_for_all, "run B"),
        (one_missing, "run B has no cause"),
        (in_other_words, "is none of the five"),
        (a_list, "a dictionary is expected"),
    ],
}
