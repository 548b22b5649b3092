"""Chainer's and DeZero's sides of the benchmark: define-by-run libraries on NumPy, whose interfaces are much alike.

Both are on the CPU only here, and DeZero for single operations: it has neither ceil pooling nor ignored labels, which
an FCN needs. Their matrix products are NumPy's, on the threads that minifcn's side sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minifcn.benchmarking.cases import FORWARD, Case
from minifcn.benchmarking.chainer_network import network_workload
from minifcn.benchmarking.side import Card, Workload
from minifcn.data import VOID
from minifcn.errors import BenchmarkError
from minifcn.threads import get_threads, set_threads


class _DefineByRunSide:
    """What the two sides share (see side.Side). The attributes, `operations` and `set_gradient` are each one's own."""

    name: str
    library: str
    version: str
    parameter: Callable[[np.ndarray], Any]  # an array as a variable of the library
    no_grad: Callable[[], Any]  # the context in which nothing is recorded

    def operations(self, case: Case, inputs: dict[str, Any], labels: np.ndarray | None) -> dict[str, Callable[[], Any]]:
        """Those that the library has, by their names in `Case`: each computes y, a variable, from the inputs."""
        raise NotImplementedError(f"{type(self).__name__} does not define operations")

    def set_gradient(self, y: Any, cotangent: np.ndarray) -> None:
        """Let y.backward() begin with this array, of y's shape, in place of 1."""
        raise NotImplementedError(f"{type(self).__name__} does not define set_gradient")

    def set_threads(self, threads: int) -> None:
        set_threads(threads)

    def get_threads(self) -> int:
        return get_threads()

    def synchronize(self, device: str) -> None: ...

    def card(self, device: str) -> Card:
        raise BenchmarkError(f"{self.name}: measured on the CPU only.")

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def matrix_product(self, size: int, device: str) -> Workload:
        raise BenchmarkError(f"{self.name}: its matrix product is NumPy's, which minifcn's side measures.")

    def workload(self, case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
        if device != "cpu":
            raise BenchmarkError(f"{self.name}: measured on the CPU only.")
        wanted = {"input": case.input_gradient, "weight": case.weight_gradient, "bias": case.weight_gradient}
        inputs = {name: self.parameter(arrays[name]) for name in wanted if name in arrays}
        operations = self.operations(case, inputs, arrays.get("labels"))
        if case.operation not in operations:
            raise BenchmarkError(f"{self.name}: has no such computation, or the benchmark does not know it.")
        forward, cotangent = operations[case.operation], arrays.get("cotangent")

        def run_forward() -> dict[str, Any]:
            with self.no_grad():
                return {"output": forward().data}

        def run_both() -> dict[str, Any]:
            for variable in inputs.values():
                variable.cleargrad()
            y = forward()
            if cotangent is not None:
                self.set_gradient(y, cotangent)
            y.backward()
            gradients = {name: _raw(inputs[name].grad) for name in inputs if wanted[name]}
            return {"output": y.data, **gradients}

        return run_forward if case.pass_ == FORWARD else run_both


def _raw(gradient: Any) -> np.ndarray:
    """Chainer's gradients are arrays, DeZero's are variables."""
    return gradient if isinstance(gradient, np.ndarray) else gradient.data


class ChainerSide(_DefineByRunSide):
    name, library = "Chainer", "chainer"

    def __init__(self) -> None:
        import chainer

        self.chainer, self.version = chainer, chainer.__version__
        self.parameter, self.no_grad = chainer.Variable, chainer.no_backprop_mode

    def workload(self, case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
        if case.operation == "network" and device == "cpu":
            return network_workload(self.chainer, case, arrays)
        return super().workload(case, arrays, device)

    def operations(self, case: Case, inputs: dict[str, Any], labels: np.ndarray | None) -> dict[str, Callable[[], Any]]:
        functions, x, geometry = self.chainer.functions, inputs["input"], {"stride": case.stride, "pad": case.padding}
        return {
            "conv2d": lambda: functions.convolution_2d(x, inputs["weight"], inputs["bias"], **geometry),
            "conv_transpose2d": lambda: functions.deconvolution_2d(x, inputs["weight"], **geometry),
            "max_pool2d": lambda: functions.max_pooling_2d(x, 2),
            "relu": lambda: functions.relu(x),
            "loss": lambda: functions.softmax_cross_entropy(x, labels, ignore_label=VOID),
        }

    def set_gradient(self, y: Any, cotangent: np.ndarray) -> None:
        y.grad = cotangent


class DeZeroSide(_DefineByRunSide):
    name, library = "DeZero", "dezero"

    def __init__(self) -> None:
        import importlib.metadata

        import dezero

        self.dezero, self.version = dezero, importlib.metadata.version("dezero")
        self.parameter, self.no_grad = dezero.Variable, dezero.no_grad

    def operations(self, case: Case, inputs: dict[str, Any], labels: np.ndarray | None) -> dict[str, Callable[[], Any]]:
        functions, x, geometry = self.dezero.functions, inputs["input"], {"stride": case.stride, "pad": case.padding}
        return {
            "conv2d": lambda: functions.conv2d(x, inputs["weight"], inputs["bias"], **geometry),
            "conv_transpose2d": lambda: functions.deconv2d(x, inputs["weight"], **geometry),
            "max_pool2d": lambda: functions.pooling(x, 2, 2),
            "relu": lambda: functions.relu(x),
        }

    def set_gradient(self, y: Any, cotangent: np.ndarray) -> None:
        y.grad = self.dezero.Variable(cotangent)
