"""The loss of semantic segmentation: softmax cross entropy at every pixel that has a label."""

from typing import Any

import numpy as np

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend
from minifcn.errors import DeviceError, DtypeError, ShapeError, UsageError

_REDUCTIONS = ("mean", "sum", "none")


class SoftmaxCrossEntropy(Function):
    """l = −ln p_y, with p = softmax(z) over the classes, for each pixel with label y; weighted by v.

    Shapes: z (N, C, …), labels y and pixel weights v (N, …) -> l (N, …) or their sum.

        ln p_c = z_c − m − ln Σ_k e^(z_k − m),  m = max z     (any m gives the same; this one cannot overflow)
        dl/dz_c = v (p_c − [c = y])                           since dm cancels, d ln Σ e^z / dz_c = p_c

    A pixel with weight 0 (void, or outside the mask) adds nothing to the loss and gets no gradient.
    """

    @staticmethod
    def forward(ctx: Context, logits: Array, *, labels: Array, pixel_weight: Array, total: bool) -> Array:
        xp = ctx.backend.xp
        log_p = logits - logits.max(axis=1, keepdims=True)
        exponentials = xp.exp(log_p)
        sums = exponentials.sum(axis=1, keepdims=True)
        loss = xp.log(sums) - xp.take_along_axis(log_p, labels[:, None], axis=1)  # (N, 1, …)
        loss = loss[:, 0] * pixel_weight
        if ctx.needs_input_grad[0]:
            ctx.save(xp.divide(exponentials, sums, out=exponentials), labels, pixel_weight)
        return loss.sum() if total else loss

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        (probabilities, labels, pixel_weight), xp = ctx.saved, ctx.backend.xp
        classes = xp.arange(probabilities.shape[1]).reshape(-1, *(1,) * (labels.ndim - 1))  # (C, 1, …)
        grad_logits = probabilities - (labels[:, None] == classes)  # p_c − [c = y]
        grad_logits *= (grad * pixel_weight)[:, None]
        return grad_logits


def softmax_cross_entropy(
    logits: Tensor,
    labels: Any,
    *,
    weight: Any = None,
    ignore_index: int | None = 255,
    reduction: str = "mean",
    mask: Any = None,
) -> Tensor:
    """Softmax cross entropy of (N, C, …) logits against integer labels (N, …).

    labels: an array or Tensor of class numbers 0 … C − 1; pixels labelled ignore_index (255, the field's "void") count
      for nothing. (PyTorch's default is −100; here it is what segmentation data sets use.)
    weight: (C,) class weights w. mask: (N, …), bool or numbers ≥ 0, multiplies each pixel's weight.
    reduction: "sum" gives Σ w_y l; "mean" divides it by Σ w_y over the pixels that count, as PyTorch does, and is 0
      (not NaN) where none counts; "none" gives each pixel's w_y l. A learning rate goes with a reduction: a sum over a
      500-pixel image is 250,000 times the mean.

    Raises ShapeError, DtypeError, or UsageError (a label out of range: which, and how many pixels have it).
    Source: Long et al. 2015, section 4; the loss of the released solvers is the sum.
    """
    if reduction not in _REDUCTIONS:
        raise UsageError(f"softmax_cross_entropy: reduction {reduction!r} is not one of {', '.join(_REDUCTIONS)}.")
    if logits.ndim < 2:
        raise ShapeError(f"softmax_cross_entropy: logits of {tuple(logits.shape)}; (N, C, …) is expected.")
    backend = logits.backend
    expected = (logits.shape[0], *logits.shape[2:])
    labels = _raw(backend, "labels", labels)
    if labels.shape != expected:
        raise ShapeError(
            f"softmax_cross_entropy: logits of {tuple(logits.shape)} need labels of {expected}, not {labels.shape}."
        )
    labels, pixel_weight = _weigh(backend, logits, labels, weight, ignore_index, mask)
    if reduction == "mean":
        whole = pixel_weight.sum()
        pixel_weight = pixel_weight / backend.xp.where(whole > 0, whole, 1)
    return SoftmaxCrossEntropy.apply(logits, labels=labels, pixel_weight=pixel_weight, total=reduction != "none")


def _weigh(
    backend: Backend, logits: Tensor, labels: Array, weight: Any, ignore_index: int | None, mask: Any
) -> tuple[Array, Array]:
    """Labels with the ignored ones replaced by 0, and the weight of each pixel, 0 for those."""
    xp, num_classes = backend.xp, logits.shape[1]
    counted = xp.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    labels = xp.where(counted, labels, 0).astype(np.int64)
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        found, counts = np.unique(backend.to_numpy(labels), return_counts=True)
        wrong = [f"{f} in {c} pixels" for f, c in zip(found, counts, strict=True) if not 0 <= f < num_classes]
        void = "no label" if ignore_index is None else ignore_index
        remedy = "set ignore_index" if ignore_index is None else f"map the label to {ignore_index}"
        raise UsageError(
            f"softmax_cross_entropy: label {'; '.join(wrong[:5])}, but the logits have {num_classes} classes "
            f"(0–{num_classes - 1}) and {void} is ignored. Use more classes or {remedy}."
        )
    pixel_weight = counted.astype(logits.dtype)
    if weight is not None:
        weight = _raw(backend, "weight", weight)
        if weight.shape != (num_classes,):
            raise ShapeError(f"softmax_cross_entropy: weight has shape {weight.shape}; ({num_classes},) is expected.")
        pixel_weight *= weight.astype(logits.dtype)[labels]
    if mask is not None:
        mask = _raw(backend, "mask", mask)
        if mask.shape != labels.shape:
            raise ShapeError(
                f"softmax_cross_entropy: mask has shape {mask.shape}; that of the labels is {labels.shape}."
            )
        pixel_weight *= mask.astype(logits.dtype)
    return labels, pixel_weight


def _raw(backend: Backend, name: str, value: Any) -> Array:
    """A constant argument as a raw array on the logits' device; host arrays are copied there."""
    if isinstance(value, Tensor):
        if value.backend is not backend:
            raise DeviceError(
                f"softmax_cross_entropy: the logits are on {backend.name}, the {name} on {value.device}; "
                f"move them with .to({backend.name!r})."
            )
        value = value.data
    array = backend.asarray(value)
    if name == "labels" and array.dtype.kind not in "iu":
        raise DtypeError(f"softmax_cross_entropy: labels are integers, not {array.dtype}; convert with .astype(int).")
    return array
