import numpy as np


def confusion_matrix(predictions, labels, num_classes, ignore_index=255):
    """Counts (num_classes, num_classes) over a whole set: how many pixels of class i were predicted as class j."""
    counts = np.zeros((num_classes, num_classes), int)
    for prediction, label in zip(predictions, labels, strict=True):
        counted = label != ignore_index
        pairs = num_classes * label[counted].astype(int) + prediction[counted]  # one number for each pair (i, j)
        counts += np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return counts
