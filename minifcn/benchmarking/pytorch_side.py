"""PyTorch's side of the benchmark: eager mode, default layout (NCHW), each operation as its documentation has it.

The one place in the library that imports PyTorch, and only if the benchmark finds it installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minifcn import nn
from minifcn.backend import get_backend
from minifcn.benchmarking import minifcn_side
from minifcn.benchmarking.cards import DEFAULT_FLAGS, TorchCard
from minifcn.benchmarking.cases import FORWARD, TRAINING, WATCHED, Case
from minifcn.benchmarking.side import Workload
from minifcn.data import VOID
from minifcn.errors import BenchmarkError
from minifcn.ops.geometry import pair


class PyTorchSide:
    name, library = "PyTorch", "torch"

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.version: str = torch.__version__

    def set_threads(self, threads: int) -> None:
        self.torch.set_num_threads(threads)

    def get_threads(self) -> int:
        return self.torch.get_num_threads()

    def flags(self, device: str) -> dict[str, bool]:
        """On a GPU: TF32 wherever minifcn has it and nowhere else, and cuDNN tries out its algorithms (faster)."""
        tf32 = get_backend(device).describe()["precision"] == "tf32"
        return {"cudnn.allow_tf32": tf32, "matmul.allow_tf32": tf32, "cudnn.benchmark": True}

    def card(self, device: str) -> TorchCard:
        return TorchCard(self.torch, _device(device), self.flags(device))

    def _flagged(self, work: Workload, device: str) -> Workload:
        return work if device == "cpu" else self.card(device).with_flags(work)

    def workload(self, case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
        make = self._network if case.operation == "network" else self._operation
        return self._flagged(make(case, arrays, device), device)

    def matrix_product(self, size: int, device: str) -> Workload:
        torch = self.torch
        left, right = (torch.full((size, size), 0.5, device=_device(device)) for _ in range(2))
        product = torch.empty_like(left)
        return self._flagged(lambda: {"product": torch.mm(left, right, out=product)}, device)

    def synchronize(self, device: str) -> None:
        if device != "cpu":
            self.torch.cuda.synchronize(_device(device))

    def to_numpy(self, array: Any) -> np.ndarray:
        return array.detach().cpu().numpy()

    def _tensor(self, array: np.ndarray, device: str) -> Any:
        return self.torch.from_numpy(array).to(_device(device))

    def _operation(self, case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
        functional, backward = self.torch.nn.functional, case.pass_ != FORWARD
        wanted = {"input": case.input_gradient, "weight": case.weight_gradient, "bias": case.weight_gradient}
        inputs = {
            name: self._tensor(arrays[name], device).requires_grad_(backward and wants)
            for name, wants in wanted.items()
            if name in arrays
        }
        x, others = inputs["input"], {name: self._tensor(arrays[name], device) for name in arrays if name not in wanted}
        geometry = {"stride": case.stride, "padding": case.padding}
        compute: dict[str, Callable[[], Any]] = {
            "conv2d": lambda: functional.conv2d(x, inputs["weight"], inputs["bias"], **geometry),
            "conv_transpose2d": lambda: functional.conv_transpose2d(x, inputs["weight"], **geometry),
            "max_pool2d": lambda: functional.max_pool2d(x, 2),
            "relu": lambda: functional.relu(x),
            "loss": lambda: functional.cross_entropy(x, others["labels"], ignore_index=VOID),
        }
        if case.operation not in compute:
            raise BenchmarkError(f"{self.name}: has no such computation, or the benchmark does not know it.")
        forward = compute[case.operation]

        def run_forward() -> dict[str, Any]:
            with self.torch.no_grad():
                return {"output": forward()}

        def run_both() -> dict[str, Any]:
            for tensor in inputs.values():
                tensor.grad = None
            y = forward()
            y.backward(others.get("cotangent"))
            return {"output": y.detach(), **{name: t.grad for name, t in inputs.items() if t.requires_grad}}

        return run_both if backward else run_forward

    def _network(self, case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
        network = build_network(self.torch, minifcn_side.make_network(case)).to(_device(device))
        x = self._tensor(arrays["input"], device)
        if case.pass_ != TRAINING:
            network.eval()

            def predict() -> dict[str, Any]:
                with self.torch.no_grad():
                    return {"output": network(x)}

            return predict

        network.train()
        labels = self._tensor(arrays["labels"], device)
        watched, optimizer = network.get_parameter(WATCHED), self._make_optimizer(case, network)

        def train() -> dict[str, Any]:
            optimizer.zero_grad()
            loss = self.torch.nn.functional.cross_entropy(network(x), labels, ignore_index=VOID)
            loss.backward()
            outputs = {"loss": loss.detach(), WATCHED: watched.grad.clone()}
            optimizer.step()
            return outputs

        return train

    def _make_optimizer(self, case: Case, network: Any) -> Any:
        """The same groups as training.paper_groups: biases at twice the rate, without decay."""
        adam = case.optimizer == "adam"
        lr, decay = (minifcn_side.ADAM_LR, 0.0) if adam else (minifcn_side.SGD_LR, minifcn_side.SGD_DECAY)
        named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for name, p in named if not name.endswith(".bias")], "lr": lr, "weight_decay": decay},
            {"params": [p for name, p in named if name.endswith(".bias")], "lr": 2 * lr, "weight_decay": 0.0},
        ]
        if adam:
            return self.torch.optim.Adam(groups, lr=lr)
        return self.torch.optim.SGD(groups, lr=lr, momentum=minifcn_side.SGD_MOMENTUM)


class PyTorchAsItComes(PyTorchSide):
    """On a GPU, with the flags that PyTorch has if nobody sets them."""

    name = "PyTorch (defaults)"

    def flags(self, device: str) -> dict[str, bool]:
        return dict(DEFAULT_FLAGS)


def _device(device: str) -> str:
    """minifcn's "gpu:1" is PyTorch's "cuda:1"."""
    return device.replace("gpu", "cuda")


def build_network(torch: Any, model: Any) -> Any:
    """An FCN of minifcn as a torch.nn.Module: its layers with copies of its weights, connected in the same way.

    ReLU works in place, as in torchvision's VGG. Dropout is left out (the cases have none).
    """
    functional = torch.nn.functional

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, module in model.named_modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                    self.add_module(name, _build_layer(torch, module))

        def activate(self, name: str, x: Any) -> Any:
            x = getattr(self, name)(x)
            return functional.relu(getattr(self, f"{name}_bn")(x) if model.batch_norm else x, inplace=True)

        def forward(self, x: Any) -> Any:
            return minifcn_side.connect(
                model,
                x,
                lambda y: functional.max_pool2d(y, 2, ceil_mode=True),
                self.activate,
                lambda name, y: getattr(self, name)(y),
            )

    return Network()


def _build_layer(torch: Any, module: nn.Module) -> Any:
    """The same layer with copies of its parameters; those that are fixed stay fixed."""
    if isinstance(module, nn.BatchNorm2d):
        layer = torch.nn.BatchNorm2d(module.weight.size, eps=module.eps, momentum=module.momentum)
        layer.load_state_dict({name: torch.from_numpy(a) for name, a in module.state_dict().items()}, strict=False)
        return layer
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    kind = torch.nn.Conv2d if isinstance(module, nn.Conv2d) else torch.nn.ConvTranspose2d
    channels = module.weight.shape[:2] if kind is torch.nn.ConvTranspose2d else module.weight.shape[1::-1]
    layer = torch.nn.utils.skip_init(
        kind,
        *channels,
        module.weight.shape[2:],
        stride=pair("stride", module.stride, minimum=1),
        padding=pair("padding", module.padding, minimum=0),
        bias=module.bias is not None,
    )
    for name, parameter in module.named_parameters():
        copied = torch.from_numpy(np.array(parameter.numpy()))
        setattr(layer, name, torch.nn.Parameter(copied, requires_grad=parameter.requires_grad))
    return layer
