"""A check of gradients against finite differences, built so that it cannot be fooled.

Summing the outputs before differentiating hides mistakes: the outputs of a softmax sum to one, so an all-zero backward
would pass. Here the output is weighted by a *random* cotangent v, and L(x) = <v, f(x)> is differentiated instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minifcn.autograd.tensor import Tensor, no_grad
from minifcn.errors import DtypeError, GradientError, UsageError

_SHOWN = 5  # disagreeing elements listed in an error


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    mode: str = "directional",
    directions: int = 3,
    seed: int = 0,
) -> bool:
    """True if backward of `function` agrees with central differences at `inputs`; GradientError showing both if not.

    function: takes the inputs, returns one Tensor of any shape; called several times, it must give the same result.
    inputs: float64 Tensors of one device; those with requires_grad are checked. float32 has too few digits.
    eps: step of the difference (f(x + eps u) − f(x − eps u)) / (2 eps); its error is of order eps² and 1e-16 / eps.
    rtol, atol: |numerical − backward| ≤ atol + rtol · max(|numerical|, |backward|).
    mode: "directional" compares the slope along `directions` random directions u for each input, whatever its size;
      "elementwise" compares each element of each gradient (slow; for lessons and for finding the culprit).
    seed: of the cotangent and the directions; stated in the error.

    Source: the identity <v, J u> = <Jᵀ v, u>: the left side is the slope of <v, f> along u, the right side uses the
    gradient Jᵀ v that backward gives.
    """
    if mode not in ("directional", "elementwise"):
        raise UsageError(f'gradcheck: mode {mode!r} is not known; use "directional" or "elementwise".')
    checked = [position for position, tensor in enumerate(inputs) if tensor.requires_grad]
    if not checked:
        raise UsageError("gradcheck: none of the inputs has requires_grad=True, so there is nothing to check.")
    for position in checked:
        if inputs[position].dtype != np.float64:
            raise DtypeError(
                f"gradcheck: input {position} is {inputs[position].dtype}; finite differences need float64."
            )
    generator = np.random.default_rng(seed)
    cotangent, gradients = _backward(function, inputs, checked, generator)
    for position in checked:
        tensor = inputs[position]

        def slope(direction: np.ndarray, tensor: Tensor = tensor) -> float:
            return _slope(function, inputs, tensor, direction, cotangent, eps)

        if mode == "elementwise":
            _compare_elements(slope, gradients[position], position, rtol, atol, seed)
        for _ in range(directions if mode == "directional" else 0):
            direction = generator.standard_normal(tensor.shape)
            numerical, backward = slope(direction), float(np.vdot(gradients[position], direction))
            if not _close(numerical, backward, rtol, atol):
                raise GradientError(
                    f"gradcheck: input {position} of shape {tensor.shape}: along a random direction (seed {seed}) the "
                    f"numerical slope is {numerical:.9g}, but the gradient from backward gives {backward:.9g}.\n"
                    + _worst_elements(slope, gradients[position], generator)
                )
    return True


def _backward(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], checked: list[int], generator: np.random.Generator
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A random cotangent, and the gradient of <cotangent, output> for each checked input."""
    before = [tensor.grad for tensor in inputs]
    for tensor in inputs:
        tensor.grad = None
    try:
        output = function(*inputs)
        cotangent = generator.standard_normal(output.shape)
        output.backward(output.backend.asarray(cotangent))
        grads = [tensor.grad for tensor in inputs]
    finally:
        for tensor, grad in zip(inputs, before, strict=True):
            tensor.grad = grad
    gradients: dict[int, np.ndarray] = {}
    for position in checked:
        if grads[position] is None:
            raise GradientError(f"gradcheck: backward left no gradient for input {position}; does the output use it?")
        gradients[position] = inputs[position].backend.to_numpy(grads[position])
    return cotangent, gradients


def _slope(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    tensor: Tensor,
    direction: np.ndarray,
    cotangent: np.ndarray,
    eps: float,
) -> float:
    """d/dt <cotangent, function(inputs with tensor + t·direction)> at t = 0, by a central difference."""
    original, step = tensor.data, tensor.backend.asarray(eps * direction)
    values = []
    try:
        for sign in (1, -1):
            tensor.data = original + sign * step
            with no_grad():
                values.append(np.asarray(function(*inputs).numpy()))
    finally:
        tensor.data = original
    # The difference of the outputs first: their common part would cost digits in two separate sums.
    return float(np.vdot(cotangent, values[0] - values[1])) / (2 * eps)


def _close(numerical: float, backward: float, rtol: float, atol: float) -> bool:
    return abs(numerical - backward) <= atol + rtol * max(abs(numerical), abs(backward))  # False for NaN


def _element(shape: tuple[int, ...], flat_index: int) -> np.ndarray:
    """The direction that changes one element only."""
    direction = np.zeros(shape)
    direction.flat[flat_index] = 1.0
    return direction


def _compare_elements(
    slope: Callable[[np.ndarray], float], gradient: np.ndarray, position: int, rtol: float, atol: float, seed: int
) -> None:
    numerical = np.array([slope(_element(gradient.shape, index)) for index in range(gradient.size)])
    numerical = numerical.reshape(gradient.shape)
    close = np.abs(numerical - gradient) <= atol + rtol * np.maximum(np.abs(numerical), np.abs(gradient))
    if not close.all():
        wrong = int((~close).sum())
        raise GradientError(
            f"gradcheck: input {position} of shape {gradient.shape}: {wrong} of {gradient.size} elements disagree "
            f"(seed {seed}).\nnumerical gradient:\n{numerical}\ngradient from backward:\n{gradient}"
        )


def _worst_elements(
    slope: Callable[[np.ndarray], float], gradient: np.ndarray, generator: np.random.Generator, tried: int = 200
) -> str:
    """The elements (of at most `tried`) where the two gradients differ most, side by side."""
    indices: Any = np.arange(gradient.size)
    if gradient.size > tried:
        indices = np.sort(generator.choice(gradient.size, tried, replace=False))
    pairs: list[Any] = [(slope(_element(gradient.shape, i)), float(gradient.flat[i]), i) for i in indices]
    pairs.sort(key=lambda pair: -abs(pair[0] - pair[1]))
    lines = [f"the largest differences among {len(indices)} of {gradient.size} elements:"]
    for numerical, backward, i in pairs[:_SHOWN]:
        place = ", ".join(str(int(k)) for k in np.unravel_index(i, gradient.shape))
        lines.append(f"  [{place}]  numerical {numerical:+.9g}   backward {backward:+.9g}")
    return "\n".join(lines)
