"""Lesson 8: max pooling window by window, and receptive fields measured by changing one pixel after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course.comparing import Wrong, compare, compare_all, new_here, unchanged

Array = np.ndarray
Pair = tuple[int, int]

# shape, kernel_size, stride, padding, ceil_mode
_POOLINGS = (
    ((1, 1, 4, 6), (2, 2), 2, 0, False),
    ((1, 2, 5, 4), (2, 3), 1, 0, False),
    ((2, 3, 6, 7), (3, 2), 2, 0, False),
    ((1, 1, 5, 7), (2, 2), 2, 0, False),
    ((1, 1, 5, 4), (2, 2), 2, 0, True),
    ((1, 2, 3, 5), (3, 3), 2, 1, False),
    ((2, 2, 6, 5), (3, 2), 2, 1, True),
    ((1, 2, 3, 7), (2, 2), 2, 1, True),
    ((2, 2, 8, 6), (3, 4), 3, 0, True),
)
_FRAME = "Without padding and ceil mode your function is right. Does the frame reach as far as the last window?"
_OVERLAP = "For windows side by side your function is right. Here they overlap: do they stand `stride` apart?"
_STACKS = (
    [(5, 1)],
    [(3, 1), (5, 1)],
    [(3, 1)],
    [(2, 2)],
    [(3, 1), (2, 2), (3, 1)],
    [(2, 2), (2, 2), (3, 1)],
)


def check_max_pool2d(max_pool2d: Callable[..., Array], generator: np.random.Generator) -> None:
    small = np.array([[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8], [9, 7, 9, 3]], dtype=float)[None, None]
    _check_maxima(max_pool2d, small, (2, 2), 2, 0, False, "a picture of 4×4 pixels")
    for shape, *options in _POOLINGS:
        # Mostly negative, so that a zero in the frame shows.
        _check_maxima(max_pool2d, generator.normal(-1.5, 1, size=shape), *options, f"x of shape {shape}")
    far_below = 1e300 * generator.normal(-1, 0.1, size=(1, 1, 3, 5))
    _check_maxima(max_pool2d, far_below, (3, 3), 2, 1, False, "x of numbers around −10³⁰⁰")


def check_max_pool2d_backward(max_pool2d_backward: Callable[..., Array], generator: np.random.Generator) -> None:
    small = np.array([[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8], [1, 7, 2, 3]], dtype=float)[None, None]
    grad = np.array([[10.0, 20.0], [30.0, 40.0]])[None, None]
    _check_routes(max_pool2d_backward, grad, small, (2, 2), 2, 0, False, "a picture of 4×4 pixels")
    # Ties only after distinct numbers, so that their hints come when everything else is right.
    for ties in (False, True):
        for shape, *options in _POOLINGS:
            few = generator.integers(-2, 1, size=shape).astype(float)
            x = few if ties else generator.normal(-1.5, 1, size=shape)
            grad = generator.normal(size=_pool(x, *options).shape)
            what = f"x of shape {shape}" + (", with equal numbers," if ties else "")
            _check_routes(max_pool2d_backward, grad, x, *options, what)


def check_receptive_field(receptive_field: Callable[..., Any], generator: np.random.Generator) -> None:
    stacks = list(_STACKS)
    for depth in (3, 4, 5, 4, 5):
        strides = generator.integers(1, 4, size=depth)
        stacks.append([(int(generator.integers(stride, 5)), int(stride)) for stride in strides])
    for layers in stacks:
        call = f"receptive_field({layers})"
        given = list(layers)
        yours = receptive_field(given)
        if given != layers:
            raise Wrong(call, "your function has changed the list that it was given.", yours=given, expected=layers)
        size, step = _measured(layers)
        if isinstance(yours, np.ndarray) and yours.ndim:
            yours = tuple(yours)
        if yours in ((step, size), [step, size]) and size != step:
            hint = "the two are right, but in the wrong order: (size, step)."
            raise Wrong(call, hint, yours=tuple(yours), expected=(size, step))
        mistakes = {"size": _wrong_sizes(layers), "step": _wrong_steps(layers)}
        compare_all(yours, {"size": size, "step": step}, call, mistakes)


def _check_maxima(
    max_pool2d: Callable[..., Array], x: Array, kernel_size: Pair, stride: int, padding: int, ceil_mode: bool, what: str
) -> None:
    call = f"max_pool2d({what}, {kernel_size}{_options(stride, padding, ceil_mode)})"
    framed = ceil_mode or padding > 0
    with new_here(call, framed or kernel_size != (stride, stride), _FRAME if framed else _OVERLAP):
        yours = unchanged(call, max_pool2d, x, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    options = (kernel_size, stride, padding, ceil_mode)
    right = _pool(x, *options)
    missing = (
        "a last window is missing, which hangs over the edge. It is left out only if it begins at n + padding or "
        "beyond."
        if padding
        else "ceil_mode has no effect: what is left at the edge needs a last window, which hangs over."
    )
    mistakes: dict[str, Any] = {
        "the frame is made of zeros, and a zero wins over negative numbers. Fill it with −np.inf.": lambda: _pool(
            x, *options, frame=0.0
        ),
        missing: lambda: _pool(x, kernel_size, stride, padding, False),
        "this is what ceil_mode=True gives; here the number of windows is rounded down.": lambda: _pool(
            x, kernel_size, stride, padding, True
        ),
        "the last window begins in the padding behind the picture and sees nothing of it: −∞ came out. Leave such a "
        "window out.": lambda: _pool(x, *options, drop=False),
        "in ceil mode there is one window too many where the windows fit: rounding up leaves a whole number as it is. "
        "⌈a / b⌉ is −(−a // b).": lambda: _pool(x, *options, more=int(ceil_mode)),
        "the stride has no effect: the windows stand one pixel apart.": lambda: _pool(
            x, kernel_size, 1, padding, ceil_mode
        ),
        "the windows stand side by side, kernel_size apart; they are to stand stride apart.": lambda: _pool(
            x, kernel_size, kernel_size, padding, ceil_mode
        ),
        "the padding has no effect.": lambda: _pool(x, kernel_size, stride, 0, ceil_mode),
        "all of the padding is behind the picture; the first window begins `padding` pixels before it.": lambda: _pool(
            x, *options, lead=0
        ),
        "kernel_size is read as (width, height); it is (height, width).": lambda: _pool(
            x, kernel_size[::-1], stride, padding, ceil_mode
        ),
        "this is the smallest number of each window.": lambda: _pool(x, *options, frame=np.inf, of=np.min),
        "this is the sum of each window.": lambda: _pool(x, *options, frame=0.0, of=np.sum),
        "this is the mean of each window, not its largest number.": lambda: (
            _pool(x, *options, frame=0.0, of=np.sum) / (kernel_size[0] * kernel_size[1])
        ),
        "these are the places of the largest numbers (argmax), not the numbers.": lambda: _windows(x, *options)[
            0
        ].argmax(axis=-1),
        "channels are mixed: in a column of im2col the channel comes first. Reshape to (N, C, kh·kw, …), and take the "
        "maximum over axis 2.": lambda: _pool(x, *options, of=_max_with_channels_mixed),
        "the maximum is taken over the channels, axis 1, and not over the kh·kw numbers of a window, axis 2.": lambda: (
            np.moveaxis(_windows(x, *options)[0], -1, 2).max(axis=1)
        ),
        "the maximum is taken over the channels as well; each channel is pooled on its own.": right.max(
            axis=1, keepdims=True
        ),
        "the maximum is taken over the channels as well, and their axis is gone; each is pooled on its own.": right.max(
            axis=1
        ),
        "the maximum is taken over the pictures as well; each picture is pooled on its own.": right.max(
            axis=0, keepdims=True
        ),
        "only the first picture of the batch came back.": right[:1],
        "the result is still (N, C, places); the last step is a reshape to (N, C, Ho, Wo).": right.reshape(
            *right.shape[:2], -1
        ),
        "the places are laid out with the width before the height: reshape to (…, Ho, Wo).": right.reshape(
            *right.shape[:2], right.shape[3], right.shape[2]
        ),
    }
    numbers = isinstance(yours, np.ndarray) and yours.dtype.kind in "biuf"
    strange = np.setdiff1d(yours, x) if numbers else np.zeros(0)
    if strange.size == 1 and strange[0] != -np.inf:  # a single number that stands nowhere in x
        text = f"{strange[0]:g}".replace("-", "−")
        hint = f"the frame is made of {text}, which wins over still smaller numbers. Only −np.inf never wins."
        mistakes[hint] = lambda: _pool(x, *options, frame=float(strange[0]))
    compare(yours, right, call, mistakes)


def _check_routes(
    max_pool2d_backward: Callable[..., Array],
    grad: Array,
    x: Array,
    kernel_size: Pair,
    stride: int,
    padding: int,
    ceil_mode: bool,
    what: str,
) -> None:
    call = f"max_pool2d_backward(grad, {what}, {kernel_size}{_options(stride, padding, ceil_mode)})"
    arguments = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    with_frame = ceil_mode or padding > 0
    with new_here(call, with_frame or kernel_size != (stride, stride), _FRAME if with_frame else _OVERLAP):
        yours = unchanged(call, max_pool2d_backward, grad, x, kernel_size, **arguments)
    options = (kernel_size, stride, padding, ceil_mode)

    def route(winners: Callable[[Array], Array] = _first, values: Array = grad, x: Array = x, **changes: Any) -> Array:
        return _route(values, x, *options, winners=winners, **changes)

    right, framed = route(), route(cut=False)
    height, width = x.shape[2:]
    columns = np.moveaxis(_first(_windows(x, *options)[0]) * grad[..., None], -1, 2)  # (N, C, kh·kw, Ho, Wo)
    places = np.arange(kernel_size[0] * kernel_size[1])
    mistakes: dict[str, Any] = {
        "where several numbers of a window are equally large, each of them gets the whole gradient. It goes to one "
        "only, the first: argmax finds it.": lambda: route(_all_equal),
        "where several numbers of a window are equally large, they share the gradient. It goes to one only, the "
        "first.": lambda: route(lambda windows: _all_equal(windows) / _all_equal(windows).sum(axis=-1, keepdims=True)),
        "of equally large numbers the last gets the gradient; it goes to the first, in reading order.": lambda: route(
            lambda windows: _first(windows[..., ::-1])[..., ::-1]
        ),
        "where windows overlap, a later gradient overwrites an earlier one. They must add: +=, or col2im. (With arrays "
        "of indices, += counts equal ones only once; np.add.at counts all.)": lambda: route(overwrite="winner"),
        "where windows overlap, a later window overwrites what an earlier one has routed, with its zeros as well. They "
        "must add: += in place of =.": lambda: route(overwrite="window"),
        "where windows overlap, a later place of the window overwrites what an earlier one has routed, with its zeros "
        "as well. They must add: += in place of =.": lambda: route(overwrite="place"),
        "ones are routed in the place of the gradients: multiply by grad.": lambda: route(values=np.ones_like(grad)),
        "this only marks the winners: multiply by grad.": lambda: (route(values=np.ones_like(grad)) > 0) * 1.0,
        "every number of a window gets the whole gradient. Only the largest has moved the result.": lambda: route(
            np.ones_like
        ),
        "the gradient is spread evenly over the window. Only the largest number has moved the result.": lambda: route(
            lambda windows: np.ones_like(windows) / places.size
        ),
        "each gradient goes to the smallest number of its window: argmax, not argmin.": lambda: route(
            lambda windows: _first(-windows)
        ),
        "the largest numbers come back in the places of the gradients.": lambda: route(values=_pool(x, *options)),
        "each gradient goes to the upper left corner of its window, whatever stands there. Is argmax taken over the "
        "axis of kh·kw?": lambda: route(lambda windows: np.broadcast_to(places == 0, windows.shape)),
        "the gradients are multiplied by the numbers of x. A maximum has the slope 1 towards its winner.": right * x,
        "the frame is made of zeros, and a zero wins over negative numbers; their gradient is lost. Fill it with "
        "−np.inf.": lambda: route(frame=0.0),
        "the windows begin at the picture's corner; with padding the first begins `padding` pixels before "
        "it.": lambda: route(lead=0),
        "the windows that hang over the edge are left out.": lambda: route(values=grad * _complete(x, *options)),
        "the frame is still there; cut it off in the end.": framed,
        "the frame is cut off at the wrong side: the picture begins at (padding, padding), not at (0, 0).": framed[
            ..., :height, :width
        ],
        "with padding 0, the slice [padding:-padding] is empty, because −0 is 0. Use padding : padding + "
        "height.": right[..., :0, :0],
        "the frame is cut off at the top and left only.": framed[..., padding:, padding:],
        "these are the columns with the gradients at their winners; col2im brings them back to a "
        "picture.": columns.reshape(len(x), x.shape[1] * places.size, -1),
        "channels are mixed: in a column of im2col the channel comes first. Reshape to (N, C, kh·kw, …), and take "
        "argmax over axis 2.": lambda: route(_first_with_channels_mixed, values=np.ones_like(grad), weigh=grad),
        "the winners of the first channel are used for all; each channel has its own.": lambda: route(
            x=np.broadcast_to(x[:, :1], x.shape)
        ),
        "the winners of the first picture are used for all; each picture has its own.": lambda: route(
            x=np.broadcast_to(x[:1], x.shape)
        ),
        "the gradients are added over the channels; each channel has its own.": lambda: np.broadcast_to(
            right.sum(axis=1, keepdims=True), right.shape
        ),
    }
    compare(yours, right, call, mistakes)


def _options(stride: int, padding: int, ceil_mode: bool) -> str:
    more = (f", padding={padding}" if padding else "") + (", ceil_mode=True" if ceil_mode else "")
    return f", stride={stride}{more}"


def _starts(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool, drop: bool, more: int) -> list[int]:
    """Where the windows begin along an axis, in pixels of the picture."""
    starts = []
    start = -padding
    while start + kernel <= n + padding:
        starts.append(start)
        start += stride
    left_over = starts[-1] + kernel < n + padding
    if more or (ceil_mode and left_over and (start < n or not drop)):
        starts.append(start)
    return starts


def _windows(
    x: Array,
    kernel_size: Pair,
    stride: int | Pair,
    padding: int,
    ceil_mode: bool,
    *,
    frame: float = -np.inf,
    lead: int | None = None,
    drop: bool = True,
    more: int = 0,
) -> tuple[Array, list[int], list[int]]:
    """Windows (N, C, Ho, Wo, kh·kw), and where they begin in each axis of the framed picture.

    frame: what it is made of. lead: how much of it is before the picture. drop, more: see _starts.
    """
    strides = (stride, stride) if isinstance(stride, int) else stride
    rows, places = (
        [start + padding for start in _starts(n, kernel, step, padding, ceil_mode, drop, more)]
        for n, kernel, step in zip(x.shape[2:], kernel_size, strides, strict=True)
    )
    sides = (padding if lead is None else lead, 2 * padding + max(kernel_size) + max(strides))
    framed = np.pad(x, ((0, 0), (0, 0), sides, sides), constant_values=frame)
    windows = np.zeros((*x.shape[:2], len(rows), len(places), kernel_size[0] * kernel_size[1]))
    for i, top in enumerate(rows):
        for j, left in enumerate(places):
            window = framed[:, :, top : top + kernel_size[0], left : left + kernel_size[1]]
            windows[:, :, i, j] = window.reshape(*x.shape[:2], -1)
    return windows, rows, places


def _pool(x: Array, *options: Any, of: Callable[..., Array] = np.max, **changes: Any) -> Array:
    return of(_windows(x, *options, **changes)[0], axis=-1)


def _mixed(windows: Array) -> Array:
    """Windows (N, C, Ho, Wo, kh·kw) as if im2col's rows were ordered (kh·kw, C): (N, kh·kw, C, Ho, Wo)."""
    columns = np.moveaxis(windows, -1, 2)  # (N, C, kh·kw, Ho, Wo)
    return columns.reshape(len(columns), columns.shape[2], columns.shape[1], *columns.shape[3:])


def _max_with_channels_mixed(windows: Array, axis: int) -> Array:
    return _mixed(windows).max(axis=1)


def _first(windows: Array) -> Array:
    """1 at the first of the largest numbers of each window, 0 elsewhere."""
    return (np.arange(windows.shape[-1]) == windows.argmax(axis=-1)[..., None]).astype(float)


def _all_equal(windows: Array) -> Array:
    return (windows == windows.max(axis=-1, keepdims=True)).astype(float)


def _first_with_channels_mixed(windows: Array, grad: Array) -> Array:
    mixed = _mixed(windows)
    winners = np.arange(mixed.shape[1])[:, None, None, None] == mixed.argmax(axis=1)[:, None]
    routed = (winners * grad[:, None]).reshape(len(mixed), windows.shape[1], windows.shape[-1], *windows.shape[2:4])
    return np.moveaxis(routed, 2, -1)


def _route(
    grad: Array,
    x: Array,
    *options: Any,
    winners: Callable[..., Array] = _first,
    weigh: Array | None = None,
    overwrite: str = "",
    cut: bool = True,
    lead: int | None = None,
    **changes: Any,
) -> Array:
    """Window by window: each gradient to the winner; or to whom a mistake gives it, or over what was there before."""
    kernel_size, _, padding, _ = options
    windows, rows, places = _windows(x, *options, lead=lead, **changes)
    share = (winners(windows) if weigh is None else winners(windows, weigh)) * grad[..., None]
    share = share.reshape(*share.shape[:4], *kernel_size)  # (N, C, Ho, Wo, kh, kw)
    height, width = (
        max(n + 2 * padding, starts[-1] + kernel)
        for n, starts, kernel in zip(x.shape[2:], (rows, places), kernel_size, strict=True)
    )
    framed = np.zeros((*x.shape[:2], height, width))
    if overwrite == "place":
        for i, j in np.ndindex(kernel_size):
            framed[:, :, np.array(rows)[:, None] + i, np.array(places) + j] = share[..., i, j]
    else:
        for i, top in enumerate(rows):
            for j, left in enumerate(places):
                spot = framed[:, :, top : top + kernel_size[0], left : left + kernel_size[1]]
                one = share[:, :, i, j]
                spot[...] = one if overwrite == "window" else np.where(one, one, spot) if overwrite else spot + one
    start = padding if lead is None else lead
    return framed[..., start : start + x.shape[2], start : start + x.shape[3]] if cut else framed


def _complete(x: Array, kernel_size: Pair, stride: int, padding: int, ceil_mode: bool) -> Array:
    """1 for the windows that do not hang over the edge, 0 for those that do; (Ho, Wo)."""
    rows, places = (
        np.array([start + kernel <= n + padding for start in _starts(n, kernel, stride, padding, ceil_mode, True, 0)])
        for n, kernel in zip(x.shape[2:], kernel_size, strict=True)
    )
    return (rows[:, None] & places).astype(float)


def _measured(layers: Sequence[Pair]) -> Pair:
    """(size, step): change one pixel after the other, and see which of the first two outputs notice.

    Every layer adds up its windows, so that no change can be lost; sums see what maxima see.
    """
    n = 2
    for kernel_size, stride in reversed(layers):
        n = (n - 1) * stride + kernel_size  # so long that there are two outputs
    maps = np.eye(n)  # one row for each picture in which one pixel was changed
    for kernel_size, stride in layers:
        windows = np.lib.stride_tricks.sliding_window_view(maps, kernel_size, axis=1)[:, ::stride]
        maps = windows.sum(axis=-1)
    first, second = np.flatnonzero(maps[:, 0]), np.flatnonzero(maps[:, 1])
    return int(first[-1] - first[0] + 1), int(second[0] - first[0])


def _wrong_sizes(layers: Sequence[Pair]) -> dict[str, Any]:
    kernels, strides = [kernel_size for kernel_size, _ in layers], [stride for _, stride in layers]
    forward = 1
    for kernel_size, stride in layers:
        forward = (forward - 1) * stride + kernel_size

    def size(steps: Sequence[Any], reach: Callable[[int], int] = lambda kernel_size: kernel_size - 1) -> int:
        """With these steps between the numbers that each layer's kernel lies on."""
        return 1 + int(sum(reach(kernel_size) * step for kernel_size, step in zip(kernels, steps, strict=True)))

    steps = [int(np.prod(strides[:number])) for number in range(len(layers))]  # before each layer
    with_own = [int(np.prod(strides[: number + 1])) for number in range(len(layers))]
    return {
        "the strides have no effect on it. After a stride of 2, the next layer's numbers lie two pixels apart: "
        "(kernel_size − 1) · step.": size([1] * len(layers)),
        "a layer's own stride is counted too early. Its kernel lies on numbers that are as far apart as the layers "
        "before have made them: change the size first, and then the step.": size(with_own),
        "a kernel of k numbers reaches from its first to its last over k − 1 steps, not k.": size(steps, lambda k: k),
        "k // 2 counts one side of the kernel only; from its first to its last number it is k − 1 steps.": size(
            steps, lambda k: k // 2
        ),
        "only the stride of the layer just before is counted. The strides of all layers before multiply.": size(
            [1, *strides[:-1]]
        ),
        "the strides of the layers before are added; they multiply: two halvings make a quarter.": size(
            [1 + sum(stride - 1 for stride in strides[:number]) for number in range(len(layers))]
        ),
        "the strides of the layers before are added to 1; they multiply: two halvings make a quarter.": size(
            [1 + sum(strides[:number]) for number in range(len(layers))]
        ),
        "this recursion, (size − 1) · stride + kernel_size, begins with the last layer and ends with the "
        "first.": forward,
        "the kernel sizes are multiplied. Two kernels of 3 in a row see 5 pixels, not 9.": int(np.prod(kernels)),
        "the kernel sizes are added. Two kernels of 3 in a row see 5 pixels, not 6: the second adds two.": sum(kernels),
        "a kernel reaches over k − 1 steps, whatever its stride is; here k − stride is taken.": 1
        + sum((kernel_size - stride) * step for (kernel_size, stride), step in zip(layers, steps, strict=True)),
        "a kernel of k numbers reaches from its first to its last over k − 1 steps, not k + 1.": size(
            steps, lambda k: k + 1
        ),
        "it is one too small: an output with no layer before it sees one pixel, so begin with 1.": size(steps) - 1,
        "kernel_size and stride are swapped; the pairs are (kernel_size, stride).": 1
        + sum((stride - 1) * int(np.prod(kernels[:number])) for number, stride in enumerate(strides)),
        "only the first layer counts. Is there a `return` inside the loop?": kernels[0],
        "only the last layer counts.": kernels[-1],
    }


def _wrong_steps(layers: Sequence[Pair]) -> dict[str, Any]:
    strides = [stride for _, stride in layers]
    return {
        "the strides are added; they multiply: two halvings make a quarter.": sum(strides),
        "this is the last layer's stride; those of all layers multiply.": strides[-1],
        "the strides are added to 1; they multiply: two halvings make a quarter.": 1 + sum(strides),
        "the last layer's stride is missing: its neighbouring outputs lie that much further apart.": int(
            np.prod(strides[:-1])
        ),
        "this is the first layer's stride; those of all layers multiply.": strides[0],
    }
