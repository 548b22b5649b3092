"""Answers to the exercises of lesson 5 as learners might write them."""

import math

import numpy as np


def right_with_one_hot(logits, labels, ignore_index=255):
    classes_last = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])
    flat = labels.reshape(-1)
    mask = flat != ignore_index
    n = max(mask.sum(), 1)
    m = classes_last.max(axis=1, keepdims=True)
    log_sum = m + np.log(np.exp(classes_last - m).sum(axis=1, keepdims=True))
    log_p = classes_last - log_sum
    one_hot = np.zeros_like(classes_last)
    one_hot[mask, flat[mask]] = 1
    loss = -(one_hot * log_p).sum() / n
    grad = (np.exp(log_p) - one_hot) * mask[:, None] / n
    shape = (logits.shape[0], *logits.shape[2:], logits.shape[1])
    return float(loss), np.moveaxis(grad.reshape(shape), -1, 1)


def right_position_by_position(logits, labels, ignore_index=255):
    loss, grad, count = 0.0, np.zeros(logits.shape), 0
    for place in np.ndindex(*labels.shape):
        if labels[place] == ignore_index:
            continue
        column = (place[0], slice(None), *place[1:])
        z = logits[column] - logits[column].max()
        p = np.exp(z) / np.exp(z).sum()
        loss += math.log(np.exp(z).sum()) - z[labels[place]]
        p[labels[place]] -= 1
        grad[column] = p
        count += 1
    if count == 0:
        return 0.0, grad
    return loss / count, grad / count


def _softmax(logits, axis=1):
    e = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _answer(logits, labels, ignore_index, p, count, loss_sum=None):
    mask = labels != ignore_index
    index = np.where(mask, labels, 0)[:, None].astype(int)
    losses = -np.log(np.take_along_axis(p, index, axis=1))[:, 0]
    one_hot = np.zeros_like(p)
    np.put_along_axis(one_hot, index, 1.0, axis=1)
    total = losses[mask].sum() if loss_sum is None else loss_sum
    return total / count, (p - one_hot) * mask[:, None] / count


def sums(logits, labels, ignore_index=255):
    return _answer(logits, labels, ignore_index, _softmax(logits), 1)


def divides_by_all_positions(logits, labels, ignore_index=255):
    return _answer(logits, labels, ignore_index, _softmax(logits), labels.size)


def divides_by_the_batch(logits, labels, ignore_index=255):
    return _answer(logits, labels, ignore_index, _softmax(logits), len(labels))


def mean_of_means(logits, labels, ignore_index=255):
    if labels.ndim == 1:
        return right_with_one_hot(logits, labels, ignore_index)
    results = [right_with_one_hot(logits[n : n + 1], labels[n : n + 1], ignore_index) for n in range(len(labels))]
    return np.mean([loss for loss, _ in results]), np.concatenate([grad for _, grad in results]) / len(labels)


def void_is_background(logits, labels, ignore_index=255):
    return right_with_one_hot(logits, np.where(labels == ignore_index, 0, labels), ignore_index=None)


def void_has_a_gradient(logits, labels, ignore_index=255):
    loss, _ = right_with_one_hot(logits, labels, ignore_index)
    as_zero = np.where(labels == ignore_index, 0, labels)
    _, grad = right_with_one_hot(logits, as_zero, None)
    return loss, grad * labels.size / max((labels != ignore_index).sum(), 1)


def always_255(logits, labels, ignore_index=255):
    return right_with_one_hot(logits, labels)


def not_stable(logits, labels, ignore_index=255):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return _answer(logits, labels, ignore_index, p, max((labels != ignore_index).sum(), 1))


def one_maximum(logits, labels, ignore_index=255):
    e = np.exp(logits - logits.max())
    return _answer(
        logits, labels, ignore_index, e / e.sum(axis=1, keepdims=True), max((labels != ignore_index).sum(), 1)
    )


def logarithm_of_a_probability(logits, labels, ignore_index=255):
    return _answer(logits, labels, ignore_index, _softmax(logits), max((labels != ignore_index).sum(), 1))


def small_number_in_the_logarithm(logits, labels, ignore_index=255):
    """Exact but for the smallest probabilities."""
    mask = labels != ignore_index
    index = np.where(mask, labels, 0)[:, None].astype(int)
    p = _softmax(logits)
    losses = -np.log(np.take_along_axis(p, index, axis=1) + 1e-12)[:, 0][mask]
    _, grad = right_with_one_hot(logits, labels, ignore_index)
    return losses.sum() / max(mask.sum(), 1), grad


def smaller_number_in_the_logarithm(logits, labels, ignore_index=255):
    mask = labels != ignore_index
    index = np.where(mask, labels, 0)[:, None].astype(int)
    losses = -np.log(np.take_along_axis(_softmax(logits), index, axis=1) + 1e-30)[:, 0][mask]
    _, grad = right_with_one_hot(logits, labels, ignore_index)
    return losses.sum() / max(mask.sum(), 1), grad


def nan_without_labels(logits, labels, ignore_index=255):
    loss, grad = right_position_by_position(logits, labels, ignore_index)
    count = (labels != ignore_index).sum()
    return loss * max(count, 1) / count, grad


def last_axis(logits, labels, ignore_index=255):
    p = _softmax(logits, axis=-1)
    return _answer(logits, labels, ignore_index, p, max((labels != ignore_index).sum(), 1))


def log10(logits, labels, ignore_index=255):
    loss, grad = right_with_one_hot(logits, labels, ignore_index)
    return loss / math.log(10), grad


def without_logarithm(logits, labels, ignore_index=255):
    mask = labels != ignore_index
    index = np.where(mask, labels, 0)[:, None].astype(int)
    loss = -np.take_along_axis(_softmax(logits), index, axis=1)[:, 0][mask].mean()
    return loss, right_with_one_hot(logits, labels, ignore_index)[1]


def grad_of_the_sum(logits, labels, ignore_index=255):
    loss, grad = right_with_one_hot(logits, labels, ignore_index)
    return loss, grad * max((labels != ignore_index).sum(), 1)


def only_probabilities(logits, labels, ignore_index=255):
    return right_with_one_hot(logits, labels, ignore_index)[0], _softmax(logits)


def swapped(logits, labels, ignore_index=255):
    loss, grad = right_with_one_hot(logits, labels, ignore_index)
    return grad, loss


def loss_alone(logits, labels, ignore_index=255):
    return right_with_one_hot(logits, labels, ignore_index)[0]


def one_loss_each(logits, labels, ignore_index=255):
    mask = labels != ignore_index
    index = np.where(mask, labels, 0)[:, None].astype(int)
    losses = -np.log(np.take_along_axis(_softmax(logits), index, axis=1))[:, 0]
    return np.where(mask, losses, 0), right_with_one_hot(logits, labels, ignore_index)[1]


def changes_the_labels(logits, labels, ignore_index=255):
    result = right_with_one_hot(logits, labels, ignore_index)
    labels[labels == ignore_index] = 0
    return result


def changes_the_logits(logits, labels, ignore_index=255):
    result = right_with_one_hot(logits, labels, ignore_index)
    logits -= logits.max(axis=1, keepdims=True)
    return result


def indexes_with_255(logits, labels, ignore_index=255):
    loss = -np.log(np.take_along_axis(_softmax(logits), labels[:, None], axis=1)).mean()
    return loss, right_with_one_hot(logits, labels)[1]


def right_by_index(parameters, gradients, velocities, lr, momentum):
    for i in range(len(parameters)):
        velocities[i][...] = momentum * velocities[i] + gradients[i]
        parameters[i] -= lr * velocities[i]
    return parameters


def right_copyto(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        np.copyto(v, v * momentum + g)
        np.subtract(p, lr * v, out=p)


def new_names(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v = momentum * v + g
        p = p - lr * v


def new_velocity(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v = momentum * v + g
        p -= lr * v


def new_arrays_in_the_lists(parameters, gradients, velocities, lr, momentum):
    for i in range(len(parameters)):
        velocities[i] = momentum * velocities[i] + gradients[i]
        parameters[i] = parameters[i] - lr * velocities[i]


def returns_new_lists(parameters, gradients, velocities, lr, momentum):
    velocities = [momentum * v + g for v, g in zip(velocities, gradients, strict=True)]
    return [p - lr * v for p, v in zip(parameters, velocities, strict=True)], velocities


def uphill(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += g
        p += lr * v


def without_momentum(parameters, gradients, velocities, lr, momentum):
    for p, g in zip(parameters, gradients, strict=True):
        p -= lr * g


def moves_by_the_gradient(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += g
        p -= lr * g


def moves_first(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        p -= lr * v
        v *= momentum
        v += g


def caffe(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += lr * g
        p -= v


def running_mean(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += (1 - momentum) * g
        p -= lr * v


def adds_then_multiplies(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v += g
        v *= momentum
        p -= lr * v


def nesterov(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += g
        p -= lr * (g + momentum * v)


def scales_the_gradient(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += g
        g *= lr
        p -= lr * v


def first_only(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += g
        p -= lr * v
        return


def without_lr(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += g
        p -= v


def always_nine_tenths(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= 0.9
        v += g
        p -= lr * v


def velocity_points_downhill(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v -= lr * g
        p += v


def labelled_positions_by_a_mask(logits, labels, ignore_index=255):
    counted = labels != ignore_index
    z, y = logits[counted], labels[counted]
    shifted = z - z.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    p[np.arange(len(y)), y] -= 1
    grad = np.zeros_like(logits)
    grad[counted] = p / max(len(y), 1)
    return -log_p[np.arange(len(y)), y].sum() / max(len(y), 1), grad


def one_hot_classes_last(logits, labels, ignore_index=255):
    loss, _ = right_with_one_hot(logits, labels, ignore_index)
    counted = labels != ignore_index
    one_hot = np.eye(logits.shape[1])[np.where(counted, labels, 0)]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    return loss, (p - one_hot) * counted[:, None] / max(counted.sum(), 1)


def log_p_for_p(logits, labels, ignore_index=255):
    loss, grad = right_with_one_hot(logits, labels, ignore_index)
    weight = (labels != ignore_index)[:, None] / max(np.sum(labels != ignore_index), 1)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    return loss, grad + (np.log(p) - p) * weight


def lists_as_a_whole(parameters, gradients, velocities, lr, momentum):
    parameters -= lr * gradients


def momentum_twice(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v *= momentum
        v += g
        p -= lr * v


def lr_and_momentum_exchanged(parameters, gradients, velocities, momentum, lr):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= momentum
        v += g
        p -= lr * v


def clears_the_velocity(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        p -= lr * (momentum * v + g)
        v *= 0


def first_row_only(parameters, gradients, velocities, lr, momentum):
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v[0] = momentum * v[0] + g[0]
        p[0] -= lr * v[0]


CORRECT = {
    "softmax_cross_entropy": [right_with_one_hot, right_position_by_position],
    "sgd_step": [right_by_index, right_copyto],
}
WRONG = {
    "softmax_cross_entropy": [
        (sums, "the sum of the losses"),
        (divides_by_all_positions, "divided by the number of all positions"),
        (divides_by_the_batch, "divided by the number of all positions"),
        (mean_of_means, "the mean of each picture's mean"),
        (void_is_background, "(void) are counted as class 0"),
        (void_has_a_gradient, "have a gradient, as if they were class 0"),
        (always_255, "ignore_index has no effect"),
        (not_stable, "Subtract the largest logit"),
        (one_maximum, "one maximum of the whole array"),
        (logarithm_of_a_probability, "the logarithm of 0 is −∞"),
        (small_number_in_the_logarithm, "a small number within the logarithm"),
        (smaller_number_in_the_logarithm, "a small number within the logarithm"),
        (nan_without_labels, "but at least by 1"),
        (last_axis, "the classes are axis 1"),
        (log10, "base 10"),
        (without_logarithm, "the logarithm is missing"),
        (grad_of_the_sum, "the gradient of the sum"),
        (only_probabilities, "these are the probabilities"),
        (swapped, "in the other order"),
        (loss_alone, "2 things are expected"),
        (one_loss_each, "a loss for each position came back"),
        (changes_the_labels, "has changed its argument number 2"),
        (changes_the_logits, "has changed its argument number 1"),
        (indexes_with_255, "out of bounds"),
        (labelled_positions_by_a_mask, "A mask picks from the first axes"),
        (one_hot_classes_last, "Is an axis of length 1 missing"),
        (log_p_for_p, "this is ln p in the place of p"),
    ],
    "sgd_step": [
        (new_names, "`p -= lr * v` changes the array"),
        (new_velocity, "Change the array itself"),
        (new_arrays_in_the_lists, "holds a new array"),
        (returns_new_lists, "nothing has changed"),
        (uphill, "goes uphill"),
        (without_momentum, "the velocity has not changed"),
        (moves_by_the_gradient, "it is to move by lr · v"),
        (moves_first, "First the velocity, then the parameter"),
        (caffe, "Caffe's"),
        (running_mean, "1 − momentum"),
        (adds_then_multiplies, "the momentum multiplies the gradient as well"),
        (nesterov, "Nesterov"),
        (always_nine_tenths, "it is not always 0.9"),
        (velocity_points_downhill, "the velocity holds −lr · g"),
        (scales_the_gradient, "a gradient has changed"),
        (first_only, "does the loop reach all parameters"),
        (without_lr, "lr is missing"),
        (lists_as_a_whole, "A list or a tuple is no array"),
        (momentum_twice, "by the momentum twice"),
        (lr_and_momentum_exchanged, "lr and momentum are exchanged"),
        (clears_the_velocity, "the velocity is 0 after the step"),
        (first_row_only, "only the first entry, or row"),
    ],
}
