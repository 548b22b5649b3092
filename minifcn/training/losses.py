"""What training minimises: cross entropy, Dice, or both, over all pixels or a random part of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minifcn import ops
from minifcn.autograd.tensor import Tensor
from minifcn.data import VOID
from minifcn.errors import UsageError

Loss = Callable[[Tensor, np.ndarray, np.random.Generator], Tensor]
"""(scores (N, C, …), labels (N, …), the chance of this step) -> one number."""

LOSSES = ("cross-entropy", "dice", "cross-entropy+dice")
REDUCTIONS = ("mean", "sum")

# Steps of SGD that train: the learning rate on a mean loss over 1 − momentum, since momentum μ adds up 1/(1 − μ)
# gradients. FCN's solvers lie at 1e-3 (light: 1e-4, μ = 0.9) and 2.5e-3 (heavy: 1e-10 on the sum of 500 × 500 pixels,
# μ = 0.99), and a hundredth of that for each stage, down to 1e-7; nets with batch normalisation stand 1 (0.1, μ = 0.9).
_SMALLEST_STEP, _USUAL_STEP, _LARGEST_STEP = 2e-8, 1e-3, 3.0
_SMALLEST_ADAM, _LARGEST_ADAM = 1e-8, 0.1


def segmentation_loss(
    loss: str = "cross-entropy",
    reduction: str = "mean",
    class_weights: np.ndarray | None = None,
    keep_pixels: float = 1.0,
) -> Loss:
    """The loss of a segmenter, over the pixels that are not void.

    loss: one of LOSSES; "cross-entropy+dice" adds the two.
    reduction: of the cross entropy; see ops.softmax_cross_entropy. A sum goes with a learning rate of its own kind
      (check_scale), and not with Dice, which is one number between 0 and 1 however many pixels there are.
    class_weights: (C,), such as data.class_weights gives; the mean is a weighted mean, in which Σ weights divides.
    keep_pixels: the probability p with which each pixel takes part in the cross entropy of a step: patchwise training
      as sampling of the loss (Long et al. 2015, section 3.4). Not with Dice alone.

    Why the expected gradient is the same. Let l_i be the loss of pixel i, w_i its class weight, D = Σ w_i over all
    pixels that have a label (with a sum: D = 1), and m_i = 1 with probability p, else 0. A step follows

        L̂ = 1/D Σ m_i/p w_i l_i,      E[m_i/p] = 1,      so E[∇L̂] = 1/D Σ E[m_i/p] w_i ∇l_i = 1/D Σ w_i ∇l_i = ∇L,

    because D is the same whatever the mask. Dividing by the weights that were kept, Σ m_i w_i, would put the mask above
    and below the line: whenever a pixel of large weight is drawn, it makes the divisor larger too, and so counts for
    less than its share. (With equal weights the two effects cancel.) The spread grows as fewer pixels are kept: the
    variance is (1 − p)/p Σ (w_i ∇l_i / D)². The paper makes up for it with 1/p times as many images in a batch.
    """
    if loss not in LOSSES:
        raise UsageError(f"--loss {loss}: choose one of {', '.join(LOSSES)}.")
    if reduction not in REDUCTIONS:
        raise UsageError(f"--reduction {reduction}: choose one of {', '.join(REDUCTIONS)}.")
    if reduction == "sum" and loss != "cross-entropy":
        raise UsageError(f"--reduction sum with --loss {loss}: Dice is not a sum over pixels; use --reduction mean.")
    if not 0 < keep_pixels <= 1:
        raise UsageError(f"--keep-pixels {keep_pixels}: a probability above 0, at most 1, is needed.")
    if keep_pixels < 1 and loss == "dice":
        raise UsageError(
            f"--keep-pixels {keep_pixels} with --loss dice: Dice is a ratio of sums, whose expected gradient a sample "
            "does not keep; use --loss cross-entropy, or leave out --keep-pixels."
        )

    def cross_entropy(scores: Tensor, labels: np.ndarray, generator: np.random.Generator) -> Tensor:
        if keep_pixels == 1:
            return ops.softmax_cross_entropy(scores, labels, weight=class_weights, reduction=reduction)
        mask = (generator.random(labels.shape, np.float32) < keep_pixels) / np.float32(keep_pixels)  # m / p
        total = ops.softmax_cross_entropy(scores, labels, weight=class_weights, reduction="sum", mask=mask)
        return total if reduction == "sum" else total * (1 / _whole_weight(labels, class_weights))

    def dice(scores: Tensor, labels: np.ndarray, generator: np.random.Generator) -> Tensor:
        return ops.dice_loss(scores, labels, weight=class_weights)

    def both(scores: Tensor, labels: np.ndarray, generator: np.random.Generator) -> Tensor:
        return cross_entropy(scores, labels, generator) + dice(scores, labels, generator)

    return {"cross-entropy": cross_entropy, "dice": dice, "cross-entropy+dice": both}[loss]


def classification_loss(scores: Tensor, labels: np.ndarray, generator: np.random.Generator) -> Tensor:
    """Softmax cross entropy of (N, C) scores, for pictures whose every pixel carries the picture's class."""
    return ops.softmax_cross_entropy(scores, labels[:, 0, 0])


def check_scale(reduction: str, lr: float, *, optimizer: str, momentum: float, pixels: int) -> str | None:
    """An explanation, if a learning rate is orders of magnitude off for the loss that it goes with; else None.

    optimizer: "sgd" or "adam". momentum: of SGD. pixels: in a batch, that is images × height × width.
    A learning rate of 0 is taken for intended.
    """
    if lr == 0:
        return None
    if optimizer == "adam":
        return _check_adam(lr)
    steps = {"mean": lr / (1 - momentum), "sum": lr * pixels / (1 - momentum)}
    if _trains(steps[reduction]):
        return None
    too_short = steps[reduction] < _SMALLEST_STEP
    cause = ""
    if too_short == (reduction == "mean"):  # then it is the reduction that makes it so
        how, than = ("averages", "shorter") if too_short else ("adds up", "longer")
        cause = f"the loss {how} the {pixels:,} pixels of a batch, which makes each step {pixels:,} times {than}; "
    symptom = "hardly anything will be learnt." if too_short else "the loss will soon be NaN."
    other = "sum" if reduction == "mean" else "mean"
    belongs = f" {lr:g} would suit --reduction {other}." if _trains(steps[other]) else ""
    suitable = float(f"{_USUAL_STEP * lr / steps[reduction]:.0e}")  # one digit: it is an order of magnitude
    return (
        f"--lr {lr:g} with --reduction {reduction}: {cause}{symptom}{belongs} "
        f"With --reduction {reduction} and momentum {momentum:g}, try --lr {suitable:g}."
    )


def _trains(step: float) -> bool:
    return _SMALLEST_STEP <= step <= _LARGEST_STEP


def _check_adam(lr: float) -> str | None:
    """Adam divides by the size of the gradients, so that its steps are about lr whatever the loss is multiplied by."""
    if _SMALLEST_ADAM <= lr <= _LARGEST_ADAM:
        return None
    symptom = "hardly anything will be learnt" if lr < _SMALLEST_ADAM else "nothing that was learnt will last"
    return (
        f"--lr {lr:g} with --optimizer adam: Adam moves each weight by about the learning rate in a step, whether the "
        f"loss is a mean or a sum, and most weights lie between 0.001 and 1; {symptom}. "
        "Try --lr 0.001 from scratch, --lr 1e-05 from pretrained weights."
    )


def _whole_weight(labels: np.ndarray, class_weights: np.ndarray | None) -> float:
    """Σ w over all pixels with a label; 1 if that is 0, when there is nothing to divide."""
    labelled = labels[labels != VOID]
    weights = np.ones(len(labelled)) if class_weights is None else np.asarray(class_weights, np.float64)[labelled]
    return float(weights.sum()) or 1.0
