import numpy as np


def softmax_cross_entropy(logits, labels, ignore_index=255):
    """(mean loss over the labelled positions, its gradient): logits (N, C, …), labels (N, …) -> (number, (N, C, …))."""
    counted = labels != ignore_index
    labels = np.where(counted, labels, 0)[:, None]  # (N, …) -> (N, 1, …); void gets some class, and no weight
    weight = counted[:, None] / max(counted.sum(), 1)
    shifted = logits - logits.max(axis=1, keepdims=True)  # the largest is 0, so that no exponential overflows
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -(np.take_along_axis(log_p, labels, axis=1) * weight).sum()
    classes = np.arange(logits.shape[1]).reshape(-1, *[1] * (logits.ndim - 2))  # (C, 1, …)
    return loss, (np.exp(log_p) - (classes == labels)) * weight
