"""minifcn's side of the benchmark: only its public interface, as any user would call it."""

from __future__ import annotations

import functools
import itertools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import minifcn
from minifcn import Tensor, data, models, no_grad, ops
from minifcn.backend import get_backend
from minifcn.benchmarking.cards import CupyCard
from minifcn.benchmarking.cases import FORWARD, TRAINING, WATCHED, Case
from minifcn.benchmarking.side import Card, Workload
from minifcn.threads import get_threads, set_threads
from minifcn.training import SGD, Adam, Optimizer, paper_groups
from minifcn.weights.preprocessing import TORCHVISION

# A step of an optimiser takes the same time whatever these are; they keep the numbers finite for many steps.
SGD_LR, SGD_MOMENTUM, SGD_DECAY = 1e-4, 0.9, 5e-4
ADAM_LR = 1e-3


class MinifcnSide:
    name = library = "minifcn"
    version = minifcn.__version__

    def set_threads(self, threads: int) -> None:
        set_threads(threads)

    def get_threads(self) -> int:
        return get_threads()

    def workload(self, case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
        if case.operation == "network":
            return _network(case, arrays, device)
        return _loader(case) if case.operation == "loader" else _operation(case, arrays, device)

    def matrix_product(self, size: int, device: str) -> Workload:
        backend = get_backend(device)
        left, right = (backend.xp.full((size, size), 0.5, np.float32) for _ in range(2))
        product = backend.xp.empty_like(left)
        return lambda: {"product": backend.xp.matmul(left, right, out=product)}

    def synchronize(self, device: str) -> None:
        get_backend(device).synchronize()

    def card(self, device: str) -> Card:
        return CupyCard(get_backend(device))

    def to_numpy(self, array: Any) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else np.asarray(array.get())


def _operation(case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
    backward = case.pass_ != FORWARD
    x = Tensor(arrays["input"], requires_grad=backward and case.input_gradient, device=device)
    inputs = {"input": x}
    for name in ("weight", "bias"):
        if name in arrays:
            inputs[name] = Tensor(arrays[name], requires_grad=backward and case.weight_gradient, device=device)
    labels = arrays.get("labels")  # on the host, as training has them: there they are checked without waiting for a GPU
    cotangent = Tensor(arrays["cotangent"], device=device).data if "cotangent" in arrays else None

    geometry: dict[str, Any] = {"stride": case.stride, "padding": case.padding}
    compute: dict[str, Callable[[], Tensor]] = {
        "conv2d": lambda: ops.conv2d(x, inputs["weight"], inputs["bias"], **geometry),
        "conv_transpose2d": lambda: ops.conv_transpose2d(x, inputs["weight"], **geometry),
        "max_pool2d": lambda: ops.max_pool2d(x, 2),
        "relu": lambda: ops.relu(x),
        "loss": lambda: ops.softmax_cross_entropy(x, labels),
    }
    forward = compute[case.operation]

    def run_both() -> dict[str, Any]:
        for tensor in inputs.values():
            tensor.grad = None
        y = forward()
        y.backward(cotangent)
        return {"output": y.data, **{name: t.grad for name, t in inputs.items() if t.requires_grad}}

    return run_both if backward else _prediction(forward, [one for one in inputs.values() if one is not x])


def _prediction(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> Workload:
    """forward() as prediction calls it for one picture after another: unrecorded, with weights that do not change."""

    def compute() -> Any:
        with no_grad():
            return forward().data

    def outputs() -> Iterator[dict[str, Any]]:
        with ops.keep_filters(weights):  # until the workload is dropped, and this generator with it
            while True:
                yield {"output": compute()}

    return functools.partial(next, outputs())


def _loader(case: Case) -> Workload:
    """Batches of drawn pictures from PNG files, varied as the recipe from-scratch does, one by one in this thread."""
    folder, size = tempfile.mkdtemp(), (case.input_shape[2], case.input_shape[3])
    pictures = data.Shapes(size=size, length=10)
    for index in range(len(pictures)):
        sample = pictures[index]
        for kind, array in (("images", sample.image), ("masks", sample.labels)):
            path = Path(folder, kind, f"{index}.png")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(array).save(path)
    vary = data.Augment(crop=size, scale=(0.75, 1.35), jitter=0.25)
    dataset = data.Folder(folder, "train")
    loader = data.Loader(
        dataset, case.input_shape[0], normalise=TORCHVISION.apply, augment=vary, drop_last=True, prefetch=0
    )
    batches = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))

    def read() -> dict[str, Any]:
        batch = next(batches)
        return {"images": batch.images, "labels": batch.labels}

    weakref.finalize(read, shutil.rmtree, folder)  # the files go when nobody can read them any more
    return read


def make_network(case: Case) -> Any:
    """The network of a case. Score layers start at zero; here they get random weights, so that outputs can differ."""
    model, generator = models.build(case.architecture), np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if name.startswith("score_") and name.endswith(".weight"):
            fan_in = parameter.shape[1]
            parameter.data = generator.standard_normal(parameter.shape, np.float32) / np.float32(fan_in**0.5)
    return model


def connect(
    model: Any, x: Any, pool: Callable[[Any], Any], activate: Callable[..., Any], apply: Callable[..., Any]
) -> Any:
    """The scores that an FCN's layers give for x, computed by another library, whose arrays can be sliced and added.

    apply(name, x): the layer of this name; activate(name, x): with batch normalisation, if the model has it, and ReLU.
    """
    (height, width), pools = x.shape[2:], {}
    for layer in model.trunk:
        if layer.pooling:
            x = pools[layer.name] = pool(x)
        else:
            x = activate(layer.name, x)
    scores = apply("score_fr", activate("fc7", activate("fc6", x)))
    for step in model.upsamplings:
        scores, start = apply(step.name, scores), model.crops[step.name] if step.skip else 0
        if step.skip:
            skip = apply(f"score_{step.skip}", pools[step.skip])[:, :, start:, start:]
            rows, columns = (min(sizes) for sizes in zip(skip.shape[2:], scores.shape[2:], strict=True))
            scores = scores[:, :, :rows, :columns] + skip[:, :, :rows, :columns]
    start = model.crops[model.upsamplings[-1].name]
    return scores[:, :, start : start + height, start : start + width]


def _network(case: Case, arrays: dict[str, np.ndarray], device: str) -> Workload:
    model, x = make_network(case).to(device), Tensor(arrays["input"], device=device)
    if case.pass_ != TRAINING:
        model.eval()
        return _prediction(lambda: model(x), model.parameters())

    model.train()
    labels = arrays["labels"]
    watched, optimizer = dict(model.named_parameters())[WATCHED], _make_optimizer(case, model)

    def train() -> dict[str, Any]:
        optimizer.zero_grad()
        loss = ops.softmax_cross_entropy(model(x), labels)
        loss.backward()
        outputs = {"loss": loss.data, WATCHED: watched.grad.copy()}
        optimizer.step()
        return outputs

    return train


def _make_optimizer(case: Case, model: Any) -> Optimizer:
    if case.optimizer == "adam":
        return Adam(paper_groups(model, lr=ADAM_LR, weight_decay=0), lr=ADAM_LR)
    groups = paper_groups(model, lr=SGD_LR, weight_decay=SGD_DECAY)
    return SGD(groups, lr=SGD_LR, momentum=SGD_MOMENTUM)
