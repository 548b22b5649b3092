import numpy as np


def mean_iu(confusion):
    """The mean of intersection over union, over the classes that occur in the truth or in the predictions."""
    intersection = np.diag(confusion)
    union = confusion.sum(axis=1) + confusion.sum(axis=0) - intersection
    occurs = union > 0
    return float(np.mean(intersection[occurs] / union[occurs]))
