"""Function and Context: one differentiable operation, and what its forward tells its backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minifcn.autograd.tensor import FLOAT_DTYPES, Node, Tensor, is_recording
from minifcn.backend import Array, Backend
from minifcn.errors import DeviceError, DtypeError


class Context:
    """What one application of a Function passes from its forward to its backward.

    backend: where the arrays live; operations compute with `ctx.backend.xp`.
    output_backend: where the output lives; only the copy to another device changes it.
    needs_input_grad: for each input, whether anybody asked for its gradient; work for the others can be skipped.
    Arrays go through `save`; anything small (a geometry, a number) may be set as an attribute.
    """

    def __init__(self, backend: Backend, needs_input_grad: tuple[bool, ...]) -> None:
        self.backend = backend
        self.output_backend = backend
        self.needs_input_grad = needs_input_grad
        self.saved: tuple[Array, ...] = ()

    if TYPE_CHECKING:  # a Function may set what it likes

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def save(self, *arrays: Array) -> None:
        """Keep arrays for backward, where they are `ctx.saved`."""
        self.saved = arrays


class Function:
    """One differentiable operation: static `forward` and `backward` over raw arrays.

    forward(ctx, *inputs, **constants) -> output, or (output, *extras) where extras are arrays without a gradient;
    backward(ctx, grad) -> the gradient for each input (None where not needed), or the one gradient of a single input.

    Inputs are what can be differentiated: Tensors of one device and one float dtype, or None for an absent bias.
    Constants (geometry, labels, masks) go by keyword and are passed on as they are. A backward may return a gradient
    in its input's broadcast shape: the engine sums it down. It must not change `grad` or the saved arrays in place.
    """

    @staticmethod
    def forward(ctx: Context, *inputs: Any, **constants: Any) -> Any:
        raise NotImplementedError("a Function defines a static forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Context, grad: Array) -> Any:
        raise NotImplementedError("a Function defines a static backward(ctx, grad)")

    @classmethod
    def apply(cls, *inputs: Any, **constants: Any) -> Any:
        """Run forward, and record it unless in no_grad. Returns a Tensor, or (Tensor, *extras) as forward does.

        Inputs that are not Tensors (arrays, numbers) become constants like the first Tensor: its device, and its
        dtype if they are Python numbers. Raises DtypeError for anything but float32 or float64, or a mix of them;
        DeviceError for a mix of devices; OutOfMemoryError.
        """
        tensors = _as_tensors(cls.__name__, inputs)
        backend = next(tensor.backend for tensor in tensors if tensor is not None)
        needs = tuple(tensor is not None and tensor.requires_grad and is_recording() for tensor in tensors)
        ctx = Context(backend, needs)
        try:
            result = cls.forward(ctx, *(None if tensor is None else tensor.data for tensor in tensors), **constants)
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors if tensor is not None)
            backend.explain(error, f"{cls.__name__} of {shapes}", [id(tensor) for tensor in tensors])
            raise
        output, *extras = result if isinstance(result, tuple) else (result,)
        node = Node(cls, ctx, tensors) if any(needs) else None
        tensor = Tensor._made_by(node, ctx.output_backend.asarray(output), ctx.output_backend)
        return (tensor, *extras) if extras else tensor


def _as_tensors(name: str, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    """The inputs as Tensors of one device and one float dtype, or an error that says how to mend the mix."""
    first = next((value for value in inputs if isinstance(value, Tensor)), None)
    device = first.device if first is not None else "cpu"
    tensors: list[Tensor | None] = []
    for value in inputs:
        if value is None or isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, int | float) and first is not None:
            tensors.append(Tensor(np.asarray(value, dtype=first.dtype), device=device))
        elif device != "cpu" and isinstance(value, np.ndarray):
            raise DeviceError(
                f"{name}: a host array meets a tensor on {device}; wrap it in Tensor(array, device={device!r})."
            )
        else:
            tensors.append(Tensor(value, device=device))
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        raise DtypeError(f"{name}: needs a Tensor, not None (does a forward lack its return?).")
    for tensor in present:
        if tensor.dtype not in FLOAT_DTYPES:
            raise DtypeError(
                f"{name}: needs float32 or float64, not {tensor.dtype}; convert the data before they become a Tensor, "
                "with array.astype(numpy.float32)."
            )
    if len({tensor.backend for tensor in present}) > 1:
        places = ", ".join(tensor.device for tensor in present)
        raise DeviceError(
            f"{name}: the inputs live on different devices ({places}); move them together with .to(device)."
        )
    if len({tensor.dtype for tensor in present}) > 1:
        dtypes = ", ".join(str(tensor.dtype) for tensor in present)
        raise DtypeError(
            f"{name}: the inputs have different dtypes ({dtypes}), and nothing is promoted silently; "
            "convert one with .astype before it becomes a Tensor, or a whole module with module.astype(dtype)."
        )
    return tensors
