"""The Dice loss: how little the predicted regions overlap the labelled ones, each class counting alike."""

from typing import Any

import numpy as np

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array
from minifcn.errors import UsageError
from minifcn.ops.loss import checked_labels, checked_weights


class SoftmaxDice(Function):
    """L = Σ_c v_c (1 − D_c), with D_c = (2 I_c + s) / B_c,  I_c = Σ_i p_ic t_ic,  B_c = Σ_i p_ic + Σ_i t_ic + s.

    p = softmax(z) over the classes, t_ic = 1 where pixel i is labelled c, else 0; i runs over the labelled pixels of
    the whole batch. s = smooth; v_c ≥ 0 adds up to 1 over the classes that occur in the labels, and is 0 elsewhere.

    Shapes: z (N, C, …), labels (N, …) -> L ().

        dD_c/dp_ic = 2 t_ic / B_c − (2 I_c + s) / B_c² = (2 t_ic − D_c) / B_c          since p_ic is in I_c and in B_c
        q_ic = dL/dp_ic = v_c (D_c − 2 t_ic) / B_c
        dL/dz_ic = p_ic (q_ic − Σ_k p_ik q_ik)                     the softmax: dp_k/dz_c = p_k ([k = c] − p_c)

    Void pixels are given p = 0: so they are in no sum, and have no gradient.
    """

    @staticmethod
    def forward(ctx: Context, logits: Array, *, labels: Array, counted: Array, weight: Array, smooth: float) -> Array:
        xp, num_classes = ctx.backend.xp, logits.shape[1]
        p = xp.exp(logits - logits.max(axis=1, keepdims=True))
        p *= counted[:, None] / p.sum(axis=1, keepdims=True)
        p_label = xp.take_along_axis(p, labels[:, None], axis=1)
        overlap = ctx.backend.sum_by_label(p_label, labels[:, None], num_classes)  # I_c (C,), float64
        labelled = ctx.backend.sum_by_label(counted, labels, num_classes)  # Σ t
        predicted = p.sum(axis=(0, *range(2, p.ndim)))  # Σ p
        share = xp.where(labelled > 0, weight, 0.0)
        share /= xp.where(share.sum() > 0, share.sum(), 1)  # v_c; all 0 if nothing is labelled
        whole = xp.where(labelled > 0, predicted + labelled + smooth, 1)  # B_c, and no 0/0 where v_c = 0
        dice = (2 * overlap + smooth) / whole
        if ctx.needs_input_grad[0]:
            offset, step = share * dice / whole, 2 * share / whole  # q_ic = offset_c − step_c t_ic
            ctx.save(p, labels, offset.astype(p.dtype), step.astype(p.dtype))
        return (share * (1 - dice)).sum().astype(p.dtype)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (p, labels, offset, step), xp = ctx.saved, ctx.backend.xp
        along_classes = (-1, *(1,) * (labels.ndim - 1))  # (C,) -> (C, 1, …)
        is_label = labels[:, None] == xp.arange(p.shape[1]).reshape(along_classes)  # t (N, C, …)
        q = offset.reshape(along_classes) - step.reshape(along_classes) * is_label
        q -= (p * q).sum(axis=1, keepdims=True)
        q *= p * grad
        return q


def dice_loss(
    logits: Tensor,
    labels: Any,
    *,
    weight: Any = None,
    ignore_index: int | None = 255,
    smooth: float = 1.0,
) -> Tensor:
    """Soft Dice loss of (N, C, …) logits against integer labels (N, …): one number from 0 (perfect) to 1.

    For each class, D = (2 overlap + smooth) / (predicted + labelled + smooth), where "predicted" adds up its
    probability over the labelled pixels of the whole batch. The loss is 1 − D, averaged over the classes that occur in
    the batch's labels: a class of ten pixels weighs as much as one of a million, which is the point.

    weight: (C,) turns that average into a weighted one. ignore_index: the label of pixels that do not count (void).
    smooth: bounds the gradient of a class of very few pixels; 0 is the bare formula.
    A batch without any label costs 0. Raises ShapeError, DtypeError, or UsageError (a label out of range).

    Source: Milletari et al. 2016, whose denominator adds up squares; here it adds up the terms themselves, as in Sudre
    et al. 2017. Over the batch and not image by image, since in one image most classes are absent.
    """
    if not smooth >= 0:
        raise UsageError(f"dice_loss: smooth is {smooth}; a number of pixels, at least 0, is needed.")
    labels, counted = checked_labels("dice_loss", logits, labels, ignore_index)
    num_classes = logits.shape[1]
    if weight is None:
        weight = np.ones(num_classes)
    weight = checked_weights("dice_loss", logits, "weight", weight, (num_classes,))
    return SoftmaxDice.apply(logits, labels=labels, counted=counted, weight=weight, smooth=float(smooth))
