"""The library's functions under the exercises' names: what a lesson runs on where an exercise is not yet solved.

Arrays in, arrays out; gradients come from the library's own graph. Each function states what its exercise must do.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from minifcn import Tensor, metrics, ops
from minifcn.nn import bilinear_filter
from minifcn.ops import CoordinateMap

Array = np.ndarray
Pair = tuple[int, int]  # (height, width)


def tanh(x: Any) -> Any:
    """(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ), of a number or of each entry of an array."""
    return ops.tanh(_tensor(x)).data


def tanh_backward(grad: Any, y: Any) -> Any:
    """dL/dx from grad = dL/dy and y = tanh(x)."""
    return grad * (1 - y * y)


def backward_pass(root: Any, grad: Any) -> None:
    """Give `root` the gradient `grad`, and every tensor behind it the sum of what comes back to it on all ways.

    Each tensor has .parents and .pass_back(grad) -> one gradient for each parent; pass_back is called once, when the
    tensor's own gradient is complete. What a tensor's .grad held before is forgotten.
    """
    order, entered, stack = [], set(), [(root, False)]
    while stack:
        tensor, parents_done = stack.pop()
        if parents_done:
            order.append(tensor)
        elif tensor not in entered:
            entered.add(tensor)
            tensor.grad = None
            stack.append((tensor, True))
            stack.extend((parent, False) for parent in tensor.parents)
    root.grad = grad
    for tensor in reversed(order):
        for parent, part in zip(tensor.parents, tensor.pass_back(tensor.grad) if tensor.parents else (), strict=True):
            parent.grad = part if parent.grad is None else parent.grad + part


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """`grad` summed over the axes along which an array of `shape` was repeated; the result has that shape."""
    return _gradients(lambda x: x + Tensor(np.zeros_like(grad)), grad, np.zeros(shape, np.asarray(grad).dtype))[0]


def matmul_backward(grad: Array, x: Array, w: Array) -> tuple[Array, Array]:
    """(dL/dx, dL/dw) of y = x @ w, for matrices x (N, K) and w (K, M)."""
    return _gradients(ops.matmul, grad, x, w)


def gradcheck(
    function: Callable[..., Array],
    backward: Callable[..., Sequence[Array]],
    inputs: Sequence[Array],
    generator: np.random.Generator,
) -> bool:
    """Whether backward(grad, *inputs) -> (one gradient for each input) belongs to function(*inputs) -> array.

    Compares the slope of Σ v · function along random directions with what backward says of it; v is random as well.
    False also if a gradient does not have the shape of its input. The inputs are left as they were.
    """

    eps = 1e-6
    v = generator.standard_normal(np.shape(function(*inputs)))
    for position, (x, gradient) in enumerate(zip(inputs, backward(v, *inputs), strict=True)):
        if np.shape(gradient) != x.shape:
            return False
        for _ in range(3):
            u = generator.standard_normal(x.shape)
            ahead, behind = ([*inputs[:position], x + step * u, *inputs[position + 1 :]] for step in (eps, -eps))
            slope = np.vdot(v, function(*ahead) - function(*behind)) / (2 * eps)
            if not np.isclose(slope, np.vdot(u, gradient), rtol=1e-5, atol=1e-7):
                return False
    return True


def softmax_cross_entropy(logits: Array, labels: Array, ignore_index: int = 255) -> tuple[Any, Array]:
    """(the mean loss over the labelled positions, its gradient with respect to the logits).

    logits (N, C, …), labels (N, …) integers; positions labelled ignore_index count in neither.
    """
    x = Tensor(logits, requires_grad=True)
    loss = ops.softmax_cross_entropy(x, labels, ignore_index=ignore_index)
    loss.backward()
    return loss.data, x.grad


def sgd_step(
    parameters: Sequence[Array], gradients: Sequence[Array], velocities: Sequence[Array], lr: float, momentum: float
) -> None:
    """v ← momentum · v + g, then p ← p − lr · v, in place, for each parameter, its gradient and its velocity."""
    for parameter, grad, velocity in zip(parameters, gradients, velocities, strict=True):
        velocity *= momentum
        velocity += grad
        parameter -= lr * velocity


def im2col(x: Array, kernel_size: Pair, *, stride: int = 1, padding: int = 0) -> Array:
    """All patches of x as columns: (N, C, H, W) -> (N, C·kh·kw, Ho·Wo); rows ordered (C, kh, kw)."""
    return ops.im2col(Tensor(x), kernel_size, stride=stride, padding=padding).data


def conv2d(x: Array, weight: Array, bias: Array, *, stride: int = 1, padding: int = 0) -> Array:
    """x (N, C, H, W), weight (out, C, kh, kw), bias (out,) -> (N, out, Ho, Wo)."""
    return ops.conv2d(Tensor(x), Tensor(weight), Tensor(bias), stride=stride, padding=padding).data


def overlap_counts() -> list[list[int]]:
    """In how many 3×3 patches (stride 1, no padding) does each pixel of a 4×4 image lie?"""
    image = np.ones((1, 1, 4, 4))
    return col2im(im2col(image, (3, 3)), (4, 4), (3, 3))[0, 0].astype(int).tolist()


def col2im(columns: Array, input_size: Pair, kernel_size: Pair, *, stride: int = 1, padding: int = 0) -> Array:
    """Columns added back into images: (N, C·kh·kw, Ho·Wo) -> (N, C, *input_size); the adjoint of im2col."""
    return ops.col2im(Tensor(columns), input_size, kernel_size, stride=stride, padding=padding).data


def conv2d_backward(
    grad: Array, x: Array, weight: Array, *, stride: int = 1, padding: int = 0
) -> tuple[Array, Array, Array]:
    """(dL/dx, dL/dweight, dL/dbias) of conv2d, from grad = dL/dy (N, out, Ho, Wo)."""
    return _gradients(
        lambda x, weight, bias: ops.conv2d(x, weight, bias, stride=stride, padding=padding),
        grad,
        x,
        weight,
        np.zeros(len(weight), x.dtype),
    )


def max_pool2d(x: Array, kernel_size: Pair, *, stride: int, padding: int = 0, ceil_mode: bool = False) -> Array:
    """The maximum of each window: (N, C, H, W) -> (N, C, Ho, Wo). Padding is −∞; ceil_mode keeps the windows that
    reach beyond the bottom and right edges, but none that begins beyond the image and its padding on the left.
    """
    return ops.max_pool2d(Tensor(x), kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode).data


def max_pool2d_backward(
    grad: Array, x: Array, kernel_size: Pair, *, stride: int, padding: int = 0, ceil_mode: bool = False
) -> Array:
    """dL/dx of max_pool2d: each gradient goes to the place of its window's maximum, to the first of equal ones."""
    return _gradients(
        lambda x: ops.max_pool2d(x, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode), grad, x
    )[0]


def receptive_field(layers: Sequence[Pair]) -> Pair:
    """(size, step) of a stack of (kernel_size, stride) along one axis: how many input pixels one output pixel sees,
    and how many input pixels lie between what two neighbours see.
    """
    size, step = 1, 1
    for kernel_size, stride in layers:
        size, step = size + (kernel_size - 1) * step, step * stride
    return size, step


def transposed_sizes() -> list[int]:
    """The output sizes of six transposed convolutions, given as (input size, kernel_size, stride, padding)."""
    return [
        conv_transpose2d(np.zeros((1, 1, n, n)), np.zeros((1, 1, k, k)), stride=s, padding=p).shape[-1]
        for n, k, s, p in ((4, 3, 1, 0), (4, 4, 2, 1), (1, 16, 8, 0), (5, 4, 2, 0), (7, 3, 2, 1), (10, 16, 8, 4))
    ]


def conv_transpose2d(y: Array, weight: Array, *, stride: int = 1, padding: int = 0) -> Array:
    """y (N, in, H, W), weight (in, out, kh, kw) -> (N, out, (H−1)·stride + kh − 2·padding, and likewise the width)."""
    return ops.conv_transpose2d(Tensor(y), Tensor(weight), stride=stride, padding=padding).data


def conv_transpose2d_backward(
    grad: Array, y: Array, weight: Array, *, stride: int = 1, padding: int = 0
) -> tuple[Array, Array]:
    """(dL/dy, dL/dweight) of conv_transpose2d, from grad = dL/dx (N, out, Ho, Wo)."""
    return _gradients(
        lambda y, weight: ops.conv_transpose2d(y, weight, stride=stride, padding=padding), grad, y, weight
    )


def bilinear_kernel(kernel_size: int) -> Array:
    """The kernel (kernel_size, kernel_size) that interpolates bilinearly with a stride of kernel_size/2, rounded up."""
    return bilinear_filter(kernel_size)


def dense_to_conv(weight: Array, in_channels: int, kernel_size: Pair) -> Array:
    """The weight (out, in_channels·kh·kw) of a dense layer on flattened (C, kh, kw) maps, as one of a convolution."""
    return weight.reshape(len(weight), in_channels, *kernel_size)


def patch_classifier(image: Array, classify: Callable[[Array], Array], window: int, stride: int) -> Array:
    """classify(patches (n, C, window, window)) -> (n, K) at every window of the image (C, H, W): (K, rows, columns)."""
    rows = range(0, image.shape[1] - window + 1, stride)
    columns = range(0, image.shape[2] - window + 1, stride)
    scores = [
        [classify(image[None, :, top : top + window, left : left + window])[0] for left in columns] for top in rows
    ]
    return np.array(scores).transpose(2, 0, 1)  # (rows, columns, K) -> (K, rows, columns)


def count_multiplications(layers: Sequence[tuple[str, int, int, int]], size: int) -> int:
    """Multiplications of a stack on a square image of `size`, without padding.

    Layers are (kind, out_channels, kernel_size, stride) with kind "conv" or "pool"; pooling multiplies nothing, and its
    out_channels are those that come in; the image has 3 channels.
    """
    channels, total = 3, 0
    for kind, out_channels, kernel_size, stride in layers:
        size = (size - kernel_size) // stride + 1
        if kind == "conv":
            total += out_channels * channels * kernel_size**2 * size**2
            channels = out_channels
    return total


def compose(path: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The map of a whole path of layers from the maps (scale, offset) of its layers, the first layer first.

    A map says where the centre of output pixel i lies in the layer's input: at scale·i + offset.
    """
    place = CoordinateMap()
    for scale, offset in path:
        place = place.then(CoordinateMap(Fraction(scale), Fraction(offset)))
    return place.scale, place.offset


def decoder(
    score_fr: Any,
    score_pool4: Any,
    score_pool3: Any,
    filters: Sequence[Any],
    image_size: Pair,
    *,
    crops: Sequence[int] = (5, 9, 31),
    paddings: Sequence[int] = (0, 0, 0),
) -> Any:
    """From the scores of FCN-8s to scores for each pixel of the image; everything is a tensor of course.engine.

    filters: the weights of the transposed convolutions ×2, ×2 and ×8. crops: where the upsampled map begins in
    score_pool4, in score_pool3, and the image in the last map. paddings: of the three transposed convolutions. Where
    a skip and the upsampled map differ in size, the part that both cover is used.
    """
    from course.engine import conv_transpose2d, crop  # it imports this module

    scores = score_fr
    for skip, weight, start, padding in zip((score_pool4, score_pool3), filters, crops, paddings, strict=False):
        scores = conv_transpose2d(scores, weight, stride=2, padding=padding)
        shared = [min(have - start, up) for have, up in zip(skip.shape[2:], scores.shape[2:], strict=True)]
        scores = crop(scores, 0, shared) + crop(skip, start, shared)
    scores = conv_transpose2d(scores, filters[2], stride=8, padding=paddings[2])
    return crop(scores, crops[2], image_size)


def confusion_matrix(
    predictions: Sequence[Array], labels: Sequence[Array], num_classes: int, ignore_index: int = 255
) -> Array:
    """Counts (num_classes, num_classes) over a whole set: how many pixels of class i were predicted as class j."""
    confusion = metrics.ConfusionMatrix(num_classes, ignore_index=ignore_index)
    for prediction, label in zip(predictions, labels, strict=True):
        confusion.update(label, prediction)
    return confusion.counts


def mean_iu(confusion: Array) -> float:
    """The mean over the classes that occur, of intersection over union."""
    correct = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - correct
    return float(np.mean(correct[union > 0] / union[union > 0]))


def diagnose() -> dict[str, str]:
    """The cause of each of the five sick runs of lesson 12."""
    return {
        "A": "weights not copied",
        "B": "bilinear masks",
        "C": "void as background",
        "D": "learning rate against loss sum",
        "E": "BGR swapped",
    }


def _tensor(x: Any) -> Tensor:
    return Tensor(np.asarray(x, dtype=np.float64) if np.asarray(x).dtype.kind != "f" else np.asarray(x))


def _gradients(function: Callable[..., Tensor], grad: Any, *arrays: Array) -> tuple[Array, ...]:
    """The gradients of Σ grad · function(*arrays) with respect to each of the arrays."""
    inputs = [Tensor(array, requires_grad=True) for array in arrays]
    function(*inputs).backward(np.asarray(grad))
    return tuple(one.grad for one in inputs)
