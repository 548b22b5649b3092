"""Lesson 5: the loss against loops over single positions, the optimiser against steps computed one number at a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course.comparing import Mistakes, Wrong, compare, compare_all, noted, unchanged

Array = np.ndarray
Loss = Callable[..., tuple[Any, Array]]
Step = Callable[..., None]

_OVERFLOW = (
    "np.exp of these logits overflows (e^1000 is infinite), or all of them become 0. Subtract the largest logit of "
    "each position first, which changes nothing."
)


def check_softmax_cross_entropy(softmax_cross_entropy: Loss, generator: np.random.Generator) -> None:
    def numbers(*shape: int) -> Array:
        return generator.normal(size=shape)

    def classes(count: int, *shape: int) -> Array:
        return generator.integers(count, size=shape)

    even = np.zeros((2, 2))
    _check_loss(softmax_cross_entropy, even, np.array([0, 1]), "([[0, 0], [0, 0]], labels [0, 1])")
    quarters = np.log([[1.0, 3.0], [1.0, 1.0], [4.0, 1.0]])
    _check_loss(
        softmax_cross_entropy,
        quarters,
        np.array([1, 255, 0]),
        "([[ln 1, ln 3], [ln 1, ln 1], [ln 4, ln 1]], labels [1, 255, 0])",
    )
    _check_loss(softmax_cross_entropy, numbers(5, 4), classes(4, 5))
    some_void = classes(3, 7)
    some_void[[1, 4, 5]] = 255
    _check_loss(
        softmax_cross_entropy, numbers(7, 3), some_void, f"(logits of shape (7, 3), labels {some_void.tolist()})"
    )
    pictures = classes(4, 2, 3, 5).astype(np.uint8)  # as a mask is read from a file
    pictures[0, 0, :3] = pictures[1, 2, 4] = 255
    _check_loss(softmax_cross_entropy, numbers(2, 4, 3, 5), pictures)
    square = classes(3, 3, 3, 3)  # all axes alike: only the right one is the classes'
    square[0, 1, 1] = 255
    _check_loss(softmax_cross_entropy, numbers(3, 3, 3, 3), square)
    for ignore_index in (-1, 2):
        labels = classes(4, 2, 3, 3)
        labels[0, 0], labels[1, 2] = ignore_index, 3
        _check_loss(softmax_cross_entropy, numbers(2, 4, 3, 3), labels, ignore_index=ignore_index)
    spread = np.array([[700.0, 699.0, 698.0], [-100.0, -101.0, -102.0]])
    _check_loss(softmax_cross_entropy, spread, np.array([1, 2]), f"({spread.tolist()}, labels [1, 2])")
    large = np.array([[1000.0, 1001.0, 999.0], [0.0, 1.0, 2.0], [-1000.0, -1002.0, -1001.0]])
    _check_loss(softmax_cross_entropy, large, np.array([1, 0, 2]), f"({large.tolist()}, labels [1, 0, 2])")
    _check_surely_wrong(softmax_cross_entropy)
    _check_all_void(softmax_cross_entropy, numbers(4, 3), np.full(4, 255))
    _check_all_void(softmax_cross_entropy, numbers(1, 2, 2, 3), np.full((1, 2, 3), 255))


def check_sgd_step(sgd_step: Step, generator: np.random.Generator) -> None:
    def arrays(*numbers: float) -> list[Array]:
        return [np.array([number]) for number in numbers]

    _check_steps(sgd_step, arrays(10.0), [arrays(5.0)], arrays(4.0), 0.5, 0.75)
    _check_steps(sgd_step, arrays(1.0), [arrays(2.0), arrays(1.6), arrays(1.08)], arrays(0.0), 0.1, 0.5)
    _check_steps(sgd_step, arrays(1.0, 5.0), [arrays(2.0, -3.0), arrays(1.0, 4.0)], arrays(0.0, 0.0), 0.1, 0.0)
    shapes = ((3, 4), (4,), (2, 3, 3, 2))

    def random() -> list[Array]:
        return [generator.normal(size=shape) for shape in shapes]

    parameters = random()
    parameters[0] = generator.normal(size=(4, 3)).T  # its rows do not lie one after the other in memory
    _check_steps(sgd_step, parameters, [random(), random(), random()], random(), 0.01, 0.9)


def _check_loss(
    softmax_cross_entropy: Loss, logits: Array, labels: Array, call: str = "", *, ignore_index: int = 255
) -> None:
    option = "" if ignore_index == 255 else f", ignore_index={ignore_index}"
    call = call.removesuffix(")") or f"(logits of shape {logits.shape}, labels of shape {labels.shape}"
    call = f"softmax_cross_entropy{call}{option})"
    if ignore_index == 255:
        yours = unchanged(call, softmax_cross_entropy, logits, labels)
    else:
        yours = unchanged(call, softmax_cross_entropy, logits, labels, ignore_index=ignore_index)
    loss, grad = _loss_and_gradient(logits, labels, ignore_index)
    mistakes = {
        "loss": _loss_mistakes(logits, labels, ignore_index, loss, grad),
        "grad": _grad_mistakes(logits, labels, ignore_index, grad),
    }
    compare_all(yours, {"loss": loss, "grad": grad}, call, mistakes)


def _loss_mistakes(logits: Array, labels: Array, ignore_index: int, loss: float, grad: Array) -> Mistakes:
    counted = labels != ignore_index
    count, total = int(counted.sum()), labels.size
    as_zero, as_last = np.where(counted, labels, 0), np.where(counted, labels, logits.shape[1] - 1)

    def of_labels(values: Array) -> Array:
        return np.take_along_axis(values, as_zero[:, None].astype(int), axis=1)[:, 0]

    def from_probabilities(p: Array) -> float:
        return float(-np.log(of_labels(p)[counted]).mean())

    p, largest = _softmax(logits), logits.max()
    mistakes: dict[str, Any] = {}
    if ignore_index != 255:
        with_all = np.where(labels == -1, logits.shape[1] - 1, labels)  # index −1 is the last
        mistakes[
            f"ignore_index has no effect: positions labelled {ignore_index} are counted. 255 is its default only."
        ] = lambda: _loss_and_gradient(logits, with_all, None)[0]
    mistakes |= {
        "the two results are in the other order: return loss, grad.": grad,
        "it is the sum of the losses; divide by the number of labelled positions. (If you do: does an array of shape "
        "(N, 1) meet one of shape (N,)? Broadcasting makes N × N products of them.)": loss * count,
        "the sum is divided by the number of all positions (for points that is N); divide by the number of those that "
        "have a label.": loss * count / total,
        "the mean of each picture's mean is not the mean over all labelled positions, where pictures have more or "
        "fewer of them.": lambda: _mean_of_means(logits, labels, ignore_index),
        f"positions labelled {ignore_index} (void) are counted as class 0. They count in nothing.": (
            lambda: _loss_and_gradient(logits, as_zero, None)[0]
        ),
        f"positions labelled {ignore_index} (void) are counted as the last class. They count in nothing.": (
            lambda: _loss_and_gradient(logits, as_last, None)[0]
        ),
        "a loss for each position came back; their mean is expected, one number.": np.where(
            counted, -np.log(of_labels(p)), 0
        ),
        "a loss for each labelled position came back; their mean is expected, one number.": (
            -np.log(of_labels(p)[counted])
        ),
        "the logarithm is missing: the loss is the mean of −ln p.": -of_labels(p)[counted].mean(),
        "the logarithm is missing: the loss is the mean of −ln p, not of 1 − p.": (1 - of_labels(p)[counted]).mean(),
        "the logarithm is to the base 10; the natural one is np.log.": loss / math.log(10),
        "the logarithm is to the base 2; the natural one is np.log.": loss / math.log(2),
        "the softmax is missing: the loss takes the probability of the label, not its logit.": (
            -of_labels(logits)[counted].mean()
        ),
        "the probability of the label is rounded to 0 here, and the logarithm of 0 is −∞. Do not take the logarithm of "
        "a probability: ln p = z − m − ln Σ e^(z − m).": from_probabilities(p),
        _OVERFLOW: lambda: from_probabilities(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)),
        "one maximum of the whole array is subtracted. Where all logits lie far below it, each np.exp becomes 0. "
        "Subtract each position's own: logits.max(axis=1, keepdims=True).": (
            lambda: from_probabilities(np.exp(logits - largest) / np.exp(logits - largest).sum(axis=1, keepdims=True))
        ),
        "the probabilities are divided by one sum over the whole array; divide by the sum of each position, over axis "
        "1.": lambda: from_probabilities(np.exp(logits - largest) / np.exp(logits - largest).sum()),
    }
    for axis in (axis for axis in range(logits.ndim) if axis != 1):
        mistakes[f"the softmax runs over axis {axis}; the classes are axis 1."] = from_probabilities(
            _softmax(logits, axis)
        )
    return mistakes


def _grad_mistakes(logits: Array, labels: Array, ignore_index: int, grad: Array) -> Mistakes:
    counted = labels != ignore_index
    count, total = max(int(counted.sum()), 1), labels.size
    as_zero = np.where(counted, labels, 0)
    p, weight = _softmax(logits), counted[:, None] / count
    one_hot = p * weight - grad  # [c = y] at labelled positions, divided by their number
    mistakes: dict[str, Any] = {}
    if count < total:
        mistakes |= {
            f"positions labelled {ignore_index} (void) have a gradient, as if they were class 0. Theirs is zero.": (
                _loss_and_gradient(logits, as_zero, None)[1] * total / count
            ),
            f"positions labelled {ignore_index} (void) are trained as class 0, and counted. Their gradient is zero.": (
                _loss_and_gradient(logits, as_zero, None)[1]
            ),
            f"positions labelled {ignore_index} (void) have a gradient: the probabilities. Theirs is zero.": (
                p / count - one_hot
            ),
            "it is divided by the number of all positions; divide by the number of those that have a label.": (
                grad * count / total
            ),
        }
    naive = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return mistakes | {
        "it is the gradient of the sum; the loss is the mean, so divide by the number of labelled positions.": grad
        * count,
        "the 1 at the label is not subtracted: the gradient is (p − [c = y]) / count.": p * weight,
        "these are the probabilities; the gradient is (p − [c = y]) / count.": p,
        _OVERFLOW: naive * weight - one_hot,
        "this is ln p in the place of p: take np.exp of it.": _log(p) * weight - one_hot,
        "the probabilities are missing: this is −[c = y] / count, without p / count.": -one_hot,
        "only the label's own entry has a gradient; the others get p / count.": grad * (one_hot > 0),
    }


def _check_surely_wrong(softmax_cross_entropy: Loss) -> None:
    logits, labels = np.array([[1000.0, 0.0], [0.0, 3.0]]), np.array([1, 1])
    call = f"({logits.tolist()}, labels {labels.tolist()})"
    loss = np.asarray(softmax_cross_entropy(logits.copy(), labels.copy())[0])
    if loss.size == 1 and loss < 499:
        raise Wrong(
            f"loss of softmax_cross_entropy{call}",
            "the loss of the first position is 1000, and does not arrive. Do you add a small number within the "
            "logarithm? It bounds the loss. Compute ln p = z − m − ln Σ e^(z − m), which needs none.",
            yours=loss,
            expected=np.asarray(_loss_and_gradient(logits, labels, 255)[0]),
        )
    _check_loss(softmax_cross_entropy, logits, labels, call)


def _check_all_void(softmax_cross_entropy: Loss, logits: Array, labels: Array) -> None:
    call = f"softmax_cross_entropy(logits of shape {logits.shape}, labels all 255)"
    yours = unchanged(call, softmax_cross_entropy, logits, labels)
    hint = "no position has a label, and 0/0 is NaN. Divide by the number of labelled positions, but at least by 1."
    compare_all(
        yours,
        {"loss": 0.0, "grad": np.zeros_like(logits)},
        call,
        {"loss": {hint: math.nan}, "grad": {hint: np.full_like(logits, math.nan)}},
    )


def _softmax(logits: Array, axis: int = 1) -> Array:
    exponentials = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def _log(p: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(p)


def _loss_and_gradient(logits: Array, labels: Array, ignore_index: int | None) -> tuple[float, Array]:
    """One position after the other, one number after the other."""
    losses, grad = [], np.zeros_like(logits)
    for place in np.ndindex(labels.shape):
        label = int(labels[place])
        if label == ignore_index:
            continue
        scores = [float(logits[(place[0], c, *place[1:])]) for c in range(logits.shape[1])]
        largest = max(scores)
        log_sum = largest + math.log(math.fsum(math.exp(score - largest) for score in scores))
        losses.append(log_sum - scores[label])
        for c, score in enumerate(scores):
            grad[(place[0], c, *place[1:])] = math.exp(score - log_sum) - (c == label)
    count = max(len(losses), 1)
    return math.fsum(losses) / count, grad / count


def _mean_of_means(logits: Array, labels: Array, ignore_index: int) -> float:
    means = [_loss_and_gradient(logits[n : n + 1], labels[n : n + 1], ignore_index)[0] for n in range(len(labels))]
    return sum(means) / len(means)


def _check_steps(
    sgd_step: Step,
    parameters: Sequence[Array],
    steps: Sequence[Sequence[Array]],
    velocities: Sequence[Array],
    lr: float,
    momentum: float,
) -> None:
    """Several steps on the same arrays, each compared with what it should have done from where it started."""
    parameters, velocities = list(parameters), [velocity.copy() for velocity in velocities]
    shown = all(one.size == 1 for one in parameters)
    for number, gradients in enumerate(steps):
        before = [parameter.copy() for parameter in parameters]
        old = [velocity.copy() for velocity in velocities]
        what = (
            f"sgd_step(p = {_brief(before)}, g = {_brief(gradients)}, v = {_brief(old)}, lr={lr}, momentum={momentum})"
            if shown
            else f"sgd_step({len(before)} parameters, {len(before)} gradients, {len(before)} velocities, "
            f"lr={lr}, momentum={momentum})"
        )
        call = what if number == 0 else f"step {number + 1}, {what}"
        given, moving, slopes = list(parameters), list(velocities), [gradient.copy() for gradient in gradients]
        with noted(call):
            sgd_step(given, slopes, moving, lr, momentum)
        _same_arrays(call, "parameters", given, parameters)
        _same_arrays(call, "velocities", moving, velocities)
        for slope, gradient in zip(slopes, gradients, strict=True):
            if not np.array_equal(slope, gradient):
                raise Wrong(
                    call,
                    "a gradient has changed. Only parameters and velocities are to be changed; beware of `g *= …` and "
                    "of a velocity that is the same array as a gradient.",
                    yours=slope,
                    expected=gradient,
                )
        results = zip(parameters, velocities, before, old, gradients, strict=True)
        for index, (parameter, velocity, p, v, g) in enumerate(results):
            _compare_step(
                f"{call}, of index {index}" if len(before) > 1 else call, parameter, velocity, p, v, g, lr, momentum
            )


def _compare_step(
    call: str, parameter: Array, velocity: Array, p: Array, v: Array, g: Array, lr: float, momentum: float
) -> None:
    new = momentum * v + g
    right = p - lr * new
    if np.array_equal(parameter, p) and np.array_equal(velocity, v):
        raise Wrong(
            f"parameter after {call}",
            "nothing has changed. `p = p − lr * v` makes a new array and gives it the name p; the network's own array "
            "stays. `p -= lr * v` changes the array. And does the loop reach all parameters?",
            yours=parameter,
            expected=right,
        )
    compare(
        velocity,
        new,
        f"velocity after {call}",
        {
            "the velocity has not changed. Change the array itself: `v *= …` and `v += …`.": v,
            "the velocity holds lr · g here. That is another convention (Caffe's); here lr comes in only when the "
            "parameter moves: v ← momentum · v + g.": momentum * v + lr * g,
            "the gradient is multiplied by 1 − momentum. Here it is added whole: v ← momentum · v + g.": (
                momentum * v + (1 - momentum) * g
            ),
            "the momentum multiplies the gradient as well; it belongs to the old velocity only.": momentum * (v + g),
            "the old velocity is forgotten: v ← momentum · v + g.": g,
            "the old velocity is not multiplied by the momentum: v ← momentum · v + g.": v + g,
            "the momentum is an argument; it is not always 0.9.": 0.9 * v + g,
            "the old velocity is multiplied by the momentum twice.": momentum**2 * v + g,
            "lr and momentum are exchanged. The order is (parameters, gradients, velocities, lr, momentum).": lr * v
            + g,
            "the velocity is 0 after the step. It is kept, so that the next step remembers it.": np.zeros_like(v),
            "only the first entry, or row, has changed: v[0] is a part of v; v[...] is all of it.": np.concatenate(
                [new[:1], v[1:]]
            ),
            "the velocity holds −lr · g here. That is another convention; here it is v ← momentum · v + g, and the "
            "parameter moves against it.": momentum * v - lr * g,
            "the gradient is subtracted from the velocity; here it is added, and the parameter moves against it.": (
                momentum * v - g
            ),
        },
    )
    compare(
        parameter,
        right,
        f"parameter after {call}",
        {
            "the parameter has not changed. `p = p − …` makes a new array; `p -= …` changes the network's own.": p,
            "the parameter goes uphill: it moves against the velocity, p ← p − lr · v.": p + lr * new,
            "the parameter moves by lr · g; it is to move by lr · v, which holds the earlier gradients as well.": p
            - lr * g,
            "the parameter moves by the old velocity. First the velocity, then the parameter.": p - lr * v,
            "the parameter moves by v itself; lr is missing.": p - new,
            "the parameter moves by (1 − momentum) · lr · v; it is to move by lr · v.": p - lr * (1 - momentum) * new,
            "this is Nesterov's momentum, which looks one step ahead. Here: p ← p − lr · v.": (
                p - lr * (g + momentum * new)
            ),
            "the parameter moves by lr · v and by lr · g; the gradient is in v already.": p - lr * new - lr * g,
        },
    )


def _same_arrays(call: str, name: str, after: list[Any], before: Sequence[Array]) -> None:
    if len(after) != len(before) or any(one is not other for one, other in zip(after, before, strict=True)):
        raise Wrong(
            call,
            f"the list of {name} holds a new array now, and the network still has the old one. Change the arrays "
            "themselves: `p -= …` in a loop over the arrays, or `parameters[i][...] = …`.",
        )


def _brief(arrays: Sequence[Array]) -> str:
    return ", ".join(f"{one.item():g}" for one in arrays)
