"""The loss of semantic segmentation: softmax cross entropy at every pixel that has a label."""

from typing import Any, NamedTuple

import numpy as np

from minifcn.autograd.function import Context, Function
from minifcn.autograd.tensor import Tensor
from minifcn.backend import Array, Backend, with_kernel
from minifcn.errors import DeviceError, DtypeError, ShapeError, UsageError

_REDUCTIONS = ("mean", "sum", "none")


class SoftmaxCrossEntropy(Function):
    """l = −ln p_y, with p = softmax(z) over the classes, for each pixel with label y; weighted by v.

    Shapes: z (N, C, …), labels y and pixel weights v (N, …) -> l (N, …) or their sum.

        ln p_c = z_c − m − ln Σ_k e^(z_k − m),  m = max z     (any m gives the same; this one cannot overflow)
        dl/dz_c = v (p_c − [c = y])                           since dm cancels, d ln Σ e^z / dz_c = p_c

    A pixel with weight 0 (void, or outside the mask) adds nothing to the loss and gets no gradient.
    The probabilities are not kept: backward makes them again from m and Σ_k e^(z_k − m), one number each for a pixel.
    """

    @staticmethod
    def forward(ctx: Context, logits: Array, *, labels: Array, pixel_weight: Array, total: bool) -> Array:
        loss, largest, sums = cross_entropy(ctx.backend, logits, labels, pixel_weight)
        if ctx.needs_input_grad[0]:
            ctx.save(logits, largest, sums, labels, pixel_weight)
        return loss.sum() if total else loss

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Array:
        logits, largest, sums, labels, pixel_weight = ctx.saved
        return cross_entropy_gradient(ctx.backend, logits, largest, sums, labels, pixel_weight, grad)


@with_kernel
def cross_entropy(backend: Backend, logits: Array, labels: Array, pixel_weight: Array) -> tuple[Array, Array, Array]:
    """v l for each pixel, and what the gradient makes p_c = e^(z_c − m) / s of: m = max z and s = Σ_k e^(z_k − m).

    logits (N, C, …), labels and pixel_weight (N, …) -> three times (N, …). Some pixels at a time, which stay in the
    cache from the first line to the last; the exponentials are not kept.
    """
    xp = backend.xp
    loss, largest, sums = (xp.empty(labels.shape, logits.dtype) for _ in range(3))

    def compute(part: _Pixels) -> None:
        z, m, s = part.of_classes(logits), part.of(largest), part.of(sums)  # (C, P), (P,), (P,)
        shifted = backend.scratch("shifted", z.shape, z.dtype)
        xp.subtract(z, z.max(axis=0, out=m), out=shifted)
        xp.exp(shifted, out=shifted).sum(axis=0, out=s)
        of_label = logits[part.image].reshape(-1).take(part.places(xp, labels)) - m
        part.of(loss)[...] = (xp.log(s) - of_label) * part.of(pixel_weight)

    backend.map(compute, _pixel_blocks(backend, logits))
    return loss, largest, sums


@with_kernel
def cross_entropy_gradient(
    backend: Backend, logits: Array, largest: Array, sums: Array, labels: Array, pixel_weight: Array, grad: Array
) -> Array:
    """g v (p_c − [c = y]), (N, C, …). grad: g for each pixel (N, …), or one g for all, ()."""
    xp, grad_logits = backend.xp, backend.xp.empty(logits.shape, logits.dtype)

    def compute(part: _Pixels) -> None:
        result = part.of_classes(grad_logits)  # (C, P)
        scale = part.of(pixel_weight) * (part.of(grad) if grad.ndim else grad)  # (P,)
        xp.exp(xp.subtract(part.of_classes(logits), part.of(largest), out=result), out=result)
        result *= scale / part.of(sums)
        grad_logits[part.image].reshape(-1)[part.places(xp, labels)] -= scale

    backend.map(compute, _pixel_blocks(backend, logits))
    return grad_logits


class _Pixels(NamedTuple):
    """Some pixels of one image: views of them in arrays (N, …) and (N, C, …)."""

    image: int
    pixels: slice

    def of(self, array: Array) -> Array:
        return array[self.image : self.image + 1].reshape(-1)[self.pixels]  # a view, of (N,) too

    def places(self, xp: Any, labels: Array) -> Array:
        """Where the number of each pixel's label stands in its image's (C, …), read as one row."""
        positions = xp.arange(self.pixels.start, self.pixels.stop)
        return self.of(labels) * labels[self.image].size + positions

    def of_classes(self, array: Array) -> Array:
        return array[self.image].reshape(array.shape[1], -1)[:, self.pixels]


def _pixel_blocks(backend: Backend, logits: Array) -> list[_Pixels]:
    """All pixels of (N, C, …) logits, in blocks whose logits fit in the cache: items for `map`."""
    positions = logits.size // max(1, logits.shape[0] * logits.shape[1])
    parts = backend.ranges(positions, logits.shape[1] * logits.itemsize)
    return [_Pixels(image, part) for image in range(len(logits)) for part in parts]


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
    op, backend = "softmax_cross_entropy", logits.backend
    labels, counted = checked_labels(op, logits, labels, ignore_index)
    pixel_weight = counted.astype(logits.dtype)
    if weight is not None:
        pixel_weight *= checked_weights(op, logits, "weight", weight, logits.shape[1:2])[labels]
    if mask is not None:
        pixel_weight *= checked_weights(op, logits, "mask", mask, labels.shape)
    if reduction == "mean":
        whole = pixel_weight.sum()
        pixel_weight = pixel_weight / backend.xp.where(whole > 0, whole, 1)
    return SoftmaxCrossEntropy.apply(logits, labels=labels, pixel_weight=pixel_weight, total=reduction != "none")


def checked_labels(op: str, logits: Tensor, labels: Any, ignore_index: int | None) -> tuple[Array, Array]:
    """Labels (N, …) intp with the ignored ones replaced by 0, and which of them count (bool), for (N, C, …) logits."""
    if logits.ndim < 2:
        raise ShapeError(f"{op}: logits of {tuple(logits.shape)}; (N, C, …) is expected.")
    backend, num_classes = logits.backend, logits.shape[1]
    # Checked where they are: labels from the host are, so that nobody waits for a GPU to say whether they are in range.
    given = labels if isinstance(labels, np.ndarray) else _raw(op, backend, "labels", labels)
    xp, expected = np if isinstance(given, np.ndarray) else backend.xp, (logits.shape[0], *logits.shape[2:])
    if given.shape != expected:
        raise ShapeError(f"{op}: logits of {tuple(logits.shape)} need labels of {expected}, not {given.shape}.")
    if given.dtype.kind not in "iu":
        raise DtypeError(f"{op}: labels are integers, not {given.dtype}; convert with .astype(int).")
    counted = xp.ones(given.shape, bool) if ignore_index is None else given != ignore_index
    filled = xp.where(counted, given, 0)
    if filled.size and not 0 <= int(filled.min()) <= int(filled.max()) < num_classes:
        found, counts = np.unique(backend.to_numpy(filled), return_counts=True)
        wrong = [f"{f} in {c} pixels" for f, c in zip(found, counts, strict=True) if not 0 <= f < num_classes]
        void = "no label" if ignore_index is None else ignore_index
        remedy = "set ignore_index" if ignore_index is None else f"map the label to {ignore_index}"
        raise UsageError(
            f"{op}: label {'; '.join(wrong[:5])}, but the logits have {num_classes} classes "
            f"(0–{num_classes - 1}) and {void} is ignored. Use more classes or {remedy}."
        )
    return backend.asarray(filled).astype(np.intp), backend.asarray(counted)  # indices: int32 in a browser


def checked_weights(op: str, logits: Tensor, name: str, weights: Any, shape: tuple[int, ...]) -> Array:
    """Numbers of this shape, in the logits' dtype."""
    weights = _raw(op, logits.backend, name, weights)
    if weights.shape != tuple(shape):
        raise ShapeError(f"{op}: {name} has shape {weights.shape}; {tuple(shape)} is expected.")
    return weights.astype(logits.dtype)


def _raw(op: str, backend: Backend, name: str, value: Any) -> Array:
    """A constant argument as a raw array on the logits' device; host arrays are copied there."""
    if isinstance(value, Tensor):
        if value.backend is not backend:
            raise DeviceError(
                f"{op}: the logits are on {backend.name}, the {name} on {value.device}; "
                f"move them with .to({backend.name!r})."
            )
        value = value.data
    return backend.asarray(value)
