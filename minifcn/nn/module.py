"""Module: anything with parameters, addressed by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from minifcn.autograd.tensor import FLOAT_DTYPES, Tensor
from minifcn.backend import get_backend
from minifcn.errors import DtypeError, OutOfMemoryError, WeightsError


class Parameter(Tensor):
    """A Tensor that belongs to a module. Fixed ones (requires_grad=False) are listed and saved, but not learned."""

    __slots__ = ()

    def __init__(self, data: Any, *, requires_grad: bool = True, device: str = "cpu") -> None:
        super().__init__(data, requires_grad=requires_grad, device=device)


class Module:
    """Base of layers and networks. Parameters and modules set as attributes are found by themselves.

    A subclass defines `forward`; calling the module calls it. `training` tells layers like dropout what to do.
    """

    training: bool = True

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        try:
            return self.forward(*inputs, **options)
        except OutOfMemoryError as error:
            self.name_layer(error)
            raise

    def name_layer(self, error: OutOfMemoryError) -> None:
        """Say in the error which layer of this module it was: the one whose parameter the operation was given."""
        named = [(name.rpartition(".")[0], parameter) for name, parameter in self.named_parameters()]
        names = {id(one): layer for layer, parameter in named for one in (parameter, parameter.data)}
        error.layer = next((names[key] for key in error.inputs if key in names), error.layer)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module ("") and all modules in it, with their dotted names, in the order in which they were set."""
        yield prefix, self
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield from value.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names, fixed ones (requires_grad=False) included."""
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    yield (f"{prefix}.{name}" if prefix else name), value

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, fixed ones included; optimisers skip those."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters as host arrays, by name."""
        return {name: np.array(parameter.numpy()) for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy values into the parameters of the same names, keeping this module's dtype and device.

        strict: names missing from the state, or unknown here, are an error too; shapes that differ always are.
        Raises WeightsError that lists every disagreement, and then changes nothing.
        """
        own = dict(self.named_parameters())
        problems = [
            f"{name}: the state has shape {tuple(state[name].shape)}, the module {tuple(parameter.shape)}"
            for name, parameter in own.items()
            if name in state and tuple(state[name].shape) != tuple(parameter.shape)
        ]
        problems += [
            f"{name}: the state has the dtype {np.dtype(state[name].dtype)}; floating-point numbers are expected"
            for name in own
            if name in state and np.dtype(state[name].dtype).kind != "f"
        ]
        if strict:
            problems += [f"{name}: missing from the state" for name in own if name not in state]
            problems += [f"{name}: not in the module" for name in state if name not in own]
        if problems:
            raise WeightsError(
                f"load_state_dict: {len(problems)} tensors disagree; all of this very network is expected:\n  "
                + "\n  ".join(problems)
            )
        for name in own.keys() & state.keys():
            parameter, value = own[name], state[name]
            value = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
            parameter.data = parameter.backend.asarray(np.array(value, dtype=parameter.dtype, order="C"))

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout on) here and in all modules within; returns the module."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode (dropout off); returns the module."""
        return self.train(False)

    def to(self, device: str) -> Self:
        """Move all parameters to a device, in place; gradients are dropped. Returns the module."""
        backend = get_backend(device)
        for parameter in self.parameters():
            if parameter.backend is not backend:
                parameter.data = backend.asarray(parameter.numpy())
                parameter.backend, parameter.grad = backend, None
        return self

    def astype(self, dtype: Any) -> Self:
        """Convert all parameters to float32 or float64, in place; gradients are dropped. Returns the module."""
        if np.dtype(dtype) not in FLOAT_DTYPES:
            raise DtypeError(f"astype: parameters are float32 or float64, not {np.dtype(dtype)}.")
        for parameter in self.parameters():
            if parameter.dtype != np.dtype(dtype):
                parameter.data, parameter.grad = parameter.data.astype(dtype), None
        return self
