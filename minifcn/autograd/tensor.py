"""Tensor: an array that remembers how it was made, so that gradients can find their way back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minifcn.backend import Array, Backend, get_backend
from minifcn.errors import DeviceError, DtypeError, GraphError, ShapeError

FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class _Mode(threading.local):
    """Whether operations are recorded. One value for each thread: no_grad in one does not stop another's training."""

    recording = True


_mode = _Mode()


def is_recording() -> bool:
    """Whether operations are being recorded for backward (they are, outside `no_grad`)."""
    return _mode.recording


@contextmanager
def no_grad() -> Iterator[None]:
    """Within this context nothing is recorded and nothing is kept for backward: for evaluation and prediction."""
    before, _mode.recording = _mode.recording, False
    try:
        yield
    finally:
        _mode.recording = before


class Tensor:
    """An array on a device, and the record of the operation that made it.

    data: anything an array can be made of; numbers keep NumPy's dtype (a list of Python floats is float64).
    requires_grad: ask for the gradient of a scalar with respect to this tensor; needs float32 or float64.
    device: "cpu", "gpu" or "gpu:N"; the data are copied there if they are elsewhere.

    `.data` is the raw array; `.grad` is a raw array of the same shape and dtype, or None. Only leaves (tensors that
    no recorded operation made) receive a `.grad`; it adds up over calls of backward until it is set to None.
    """

    __slots__ = ("__weakref__", "backend", "data", "grad", "node", "requires_grad")

    def __init__(self, data: Any, *, requires_grad: bool = False, device: str = "cpu") -> None:
        self.backend: Backend = get_backend(device)
        if isinstance(data, Tensor):
            data = data.data if data.backend is self.backend else data.numpy()
        self.data: Array = self.backend.asarray(data)
        if requires_grad and self.data.dtype not in FLOAT_DTYPES:
            raise DtypeError(
                f"Tensor: only float32 and float64 can have a gradient, not {self.data.dtype}; "
                "convert the data first, for example with .astype(numpy.float32)."
            )
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.node: Node | None = None

    @classmethod
    def _made_by(cls, node: Node | None, data: Array, backend: Backend) -> Tensor:
        """The result of an operation; it requires a gradient exactly if the operation was recorded."""
        tensor = Tensor.__new__(Tensor)
        tensor.backend, tensor.data, tensor.node = backend, data, node
        tensor.requires_grad, tensor.grad = node is not None, None
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size

    @property
    def device(self) -> str:
        return self.backend.name

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made = f", made by {self.node.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        place = "" if self.device == "cpu" else f", device={self.device!r}"
        return f"Tensor({self.numpy()!r}{place}{made})"

    def numpy(self) -> np.ndarray:
        """The data as a NumPy array on the host (on the CPU: the array itself, not a copy)."""
        return self.backend.to_numpy(self.data)

    def item(self) -> float:
        """The one number in a tensor of one element, as a Python number."""
        if self.size != 1:
            raise ShapeError(f"item: the tensor has shape {self.shape}; only one with a single element is a number.")
        return self.backend.to_numpy(self.data).item()

    def detach(self) -> Tensor:
        """The same data, without the record of how they were made."""
        return Tensor._made_by(None, self.data, self.backend)

    def to(self, device: str) -> Tensor:
        """A tensor with these data on `device`, itself if they are there already; gradients pass through."""
        if device == self.device:
            return self
        from minifcn.ops.shape import to_device  # an operation like any other: its gradient goes the way back

        return to_device(self, device)

    def backward(self, grad: Any = None) -> None:
        """Add to each leaf's `.grad` the gradient of this tensor, weighted by `grad` (by 1 if it is one number).

        Reverse mode: with dL/dy known for a node's output, its function's backward gives dL/dx for each input; a
        tensor used several times receives the sum. Nodes are visited in reverse topological order, found without
        recursion, so that a graph 10,000 operations deep works. The graph is freed on the way, also if that fails.

        grad: an array of this tensor's shape. Raises GraphError if nothing here requires a gradient, or if (part of)
        the graph was already freed by an earlier backward; ShapeError or DtypeError if `grad` does not fit.
        """
        if not self.requires_grad:
            raise GraphError(
                "backward: this tensor does not depend on anything with requires_grad=True, or it was made in no_grad; "
                "there is nothing to differentiate."
            )
        seed = self._seed(grad)
        if self.node is None:
            _add_to_leaf(self, seed, owned=False)
            return
        for leaf, leaf_grad, owned in backpropagate(self.node, seed):
            _add_to_leaf(leaf, leaf_grad, owned)

    def _seed(self, grad: Any) -> Array:
        if grad is None:
            if self.size != 1:
                raise ShapeError(
                    f"backward: the tensor has shape {self.shape}, so there is no one number to differentiate; reduce "
                    "it, for example with .sum(), or pass the weights of its elements as grad."
                )
            return self.backend.xp.ones_like(self.data)
        if isinstance(grad, Tensor) and grad.backend is not self.backend:
            raise DeviceError(
                f"backward: grad is on {grad.device}, the tensor on {self.device}; move it with .to(device)."
            )
        seed = grad.data if isinstance(grad, Tensor) else self.backend.asarray(grad)
        if seed.shape != self.shape:
            raise ShapeError(f"backward: grad has shape {seed.shape}, the tensor {self.shape}; they must be equal.")
        if seed.dtype != self.dtype:
            raise DtypeError(f"backward: grad is {seed.dtype}, the tensor {self.dtype}; they must be equal.")
        return seed

    # The operators: each imports its operation inside, like `to` above, the one place where an import points up.

    def __add__(self, other: Any) -> Tensor:
        from minifcn.ops import add

        return add(self, other)

    def __sub__(self, other: Any) -> Tensor:
        from minifcn.ops import subtract

        return subtract(self, other)

    def __mul__(self, other: Any) -> Tensor:
        from minifcn.ops import multiply

        return multiply(self, other)

    def __truediv__(self, other: Any) -> Tensor:
        from minifcn.ops import divide

        return divide(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        from minifcn.ops import subtract

        return subtract(other, self)

    def __rtruediv__(self, other: Any) -> Tensor:
        from minifcn.ops import divide

        return divide(other, self)

    def __pow__(self, exponent: float) -> Tensor:
        from minifcn.ops import pow

        return pow(self, exponent)

    def __neg__(self) -> Tensor:
        from minifcn.ops import negative

        return negative(self)

    def __matmul__(self, other: Any) -> Tensor:
        from minifcn.ops import matmul

        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        from minifcn.ops import matmul

        return matmul(other, self)

    __radd__ = __add__
    __rmul__ = __mul__
    __array_ufunc__ = None  # `array + tensor` then asks the tensor, instead of making an array of tensors

    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        from minifcn.ops import sum

        return sum(self, dim, keepdim)

    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        from minifcn.ops import mean

        return mean(self, dim, keepdim)

    def reshape(self, *shape: Any) -> Tensor:
        from minifcn.ops import reshape

        return reshape(self, shape[0] if len(shape) == 1 else shape)


def _add_to_leaf(leaf: Tensor, grad: Array, owned: bool) -> None:
    """Accumulate without ever changing or sharing memory that somebody else holds."""
    try:
        if leaf.grad is not None:
            grad = leaf.grad + grad
        elif not owned:
            grad = grad.copy()
    except Exception as error:
        leaf.backend.explain(error, f"adding up a gradient of {tuple(leaf.shape)}", [id(leaf)])
        raise
    leaf.grad = leaf.backend.asarray(grad)  # sums of single numbers are NumPy scalars, not arrays


class Node:
    """One recorded application of a Function.

    It knows its inputs' makers (their nodes, or the leaves themselves) and shapes, but not their data: what backward
    needs of those is in the context, and everything else may be freed as soon as nobody else holds it.
    """

    __slots__ = ("context", "dtype", "function", "input_shapes", "parents")

    def __init__(self, function: Any, context: Any, inputs: list[Tensor | None]) -> None:
        self.function = function
        self.context: Any = context
        self.parents: tuple[Node | Tensor | None, ...] = tuple(
            (tensor.node or tensor) if tensor is not None and needed else None
            for tensor, needed in zip(inputs, context.needs_input_grad, strict=True)
        )
        self.input_shapes: tuple[Any, ...] = tuple(None if tensor is None else tensor.shape for tensor in inputs)
        self.dtype = next(tensor.dtype for tensor in inputs if tensor is not None)

    @property
    def name(self) -> str:
        return self.function.__name__

    def free(self) -> None:
        """Let go of the saved arrays and of everything behind this node."""
        self.context, self.parents = None, ()

    def explain(self, error: Exception) -> None:
        """Raise what an error on the way back through this node means, if its backend knows."""
        shapes = ", ".join(str(tuple(shape)) for shape in self.input_shapes if shape is not None)
        inputs = [id(one) for one in (*self.parents, *self.context.saved)]  # a fixed weight is no parent
        self.context.backend.explain(error, f"{self.name}.backward of {shapes}", inputs)

    def input_grads(self, found: dict[Node | Tensor, Array]) -> Iterator[tuple[Node | Tensor, Array]]:
        """Each parent that wants a gradient, with that gradient in the shape of the input.

        found: the gradients so far. The output's own is taken out in the call, so that the operation alone holds it,
        and its memory is free as soon as that is done with it.
        """
        grads = self.function.backward(self.context, found.pop(self))
        grads = grads if isinstance(grads, tuple) else (grads,)
        if len(grads) != len(self.parents):
            raise GraphError(f"{self.name}.backward gave {len(grads)} gradients for {len(self.parents)} inputs.")
        for position, (parent, shape, input_grad) in enumerate(
            zip(self.parents, self.input_shapes, grads, strict=True)
        ):
            if parent is None:
                continue
            if input_grad is None:
                raise GraphError(f"{self.name}.backward gave no gradient for input {position}, which needs one.")
            if input_grad.dtype != self.dtype:
                raise DtypeError(
                    f"{self.name}.backward gave a gradient of {input_grad.dtype} for input {position} of {self.dtype}."
                )
            yield parent, _unbroadcast(input_grad, shape, self.name, position)


def backpropagate(root: Node, seed: Array) -> list[tuple[Tensor, Array, bool]]:
    """The gradient of <seed, root's output> for each leaf: (leaf, gradient, whether the array is the leaf's alone).

    Gradients live in a dictionary here, not on the nodes. Leaves get theirs only when the whole walk has succeeded.
    """
    order = _reverse_topological(root)
    grads: dict[Node | Tensor, Array] = {root: seed}
    given: set[int] = {id(seed)}  # arrays that more than one holder may see
    leaves: list[Tensor] = []
    for node in order:
        try:
            leaves += _pass_on(node, grads)
        except Exception as error:
            node.explain(error)
            raise
        finally:  # one that failed, too: it may have let go of what a second try would need
            node.free()
    result = []
    for leaf in leaves:
        grad = grads[leaf]
        result.append((leaf, grad, grad.base is None and id(grad) not in given))
        given.add(id(grad))
    return result


def _pass_on(node: Node, grads: dict[Node | Tensor, Array]) -> list[Tensor]:
    """Add what a node gives its inputs to their gradients so far. Returns the leaves among them that had none.

    A function of its own, so that no variable holds the last gradient, which may be large, until the next.
    """
    leaves = []
    for parent, input_grad in node.input_grads(grads):
        if parent in grads:
            grads[parent] = grads[parent] + input_grad
        else:
            grads[parent] = input_grad
            if isinstance(parent, Tensor):
                leaves.append(parent)
    return leaves


def _reverse_topological(root: Node) -> list[Node]:
    """Every node behind `root`, each before all nodes that it depends on; no recursion.

    A node is entered, its parents are put on the stack above it, and it is finished when they are: the order of
    finishing, reversed, is the order wanted.
    """
    finished: list[Node] = []
    entered: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            finished.append(node)
        elif node not in entered:
            if node.context is None:
                raise GraphError(
                    f"backward: this graph was already used (its {node.name} has been freed); the gradients are in "
                    "the leaves' .grad, unless it failed. To differentiate again, run the forward computation again."
                )
            entered.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in node.parents if isinstance(parent, Node))
    return finished[::-1]


def _unbroadcast(grad: Array, shape: tuple[int, ...], name: str, position: int) -> Array:
    """Sum `grad` over the axes along which an input of `shape` was repeated.

    The adjoint of a copy is a sum: if y_ij = x_j for all i, then dL/dx_j = Σ_i dL/dy_ij.
    """
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    aligned = (1,) * extra + shape
    if extra < 0 or any(have != want and want != 1 for have, want in zip(grad.shape, aligned, strict=True)):
        raise ShapeError(f"{name}.backward gave shape {grad.shape} for input {position}, which has shape {shape}.")
    repeated = tuple(axis for axis, want in enumerate(aligned) if want == 1 and grad.shape[axis] != 1)
    return grad.sum(axis=repeated, keepdims=True).reshape(shape)
