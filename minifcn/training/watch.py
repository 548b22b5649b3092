"""Watching a run: what is measured at some of its steps, and what is said when these signs look ill.

Measured where the loop passes by anyway: no second forward, and no array of the network's size is copied. At one step
in ten this costs less than a hundredth of the time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minifcn.autograd.tensor import Tensor, no_grad
from minifcn.data import VOID
from minifcn.models.vgg import BaseNetwork
from minifcn.nn import Module, Parameter
from minifcn.training.losses import Loss

COLUMNS = ("gradient_norm", "update_ratio", "dead_relus", "predicted")  # of metrics.csv; see Signs.row
SAMPLED = 4096  # numbers of a parameter from which the size of its update is estimated
PATIENCE = 5  # rows in a row before something is called a symptom: 50 steps
_SINGLE, _STUCK, _DIVERGED, _EXPLODED = 0.999, 0.01, 10.0, 100.0
_VANISHED = 1e-8
_MANY_DEAD = 0.5
_FLOAT32_STEP = 2.0**-24  # an update smaller than this part of a weight is lost in rounding


@dataclass
class Signs:
    """What was seen of one step.

    gradient_norm: of all gradients together; gradients: of each learned parameter, by name.
    update_ratio: how much the step moved the weights, as a part of them: ‖Δw‖ / ‖w‖, estimated from a sample.
    dead: for each layer with a ReLU, the share of its channels that are 0 everywhere in the batch.
    predicted, labelled: the share of pixels with each class, as predicted (in training mode) and as labelled.
    relative_loss: the loss, as a part of what equal scores for all classes would give (ln C for cross entropy).
    """

    gradients: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = math.nan
    update_ratio: float = math.nan
    dead: dict[str, float] = field(default_factory=dict)
    dead_share: float = math.nan
    predicted: np.ndarray = field(default_factory=lambda: np.zeros(0))
    labelled: np.ndarray = field(default_factory=lambda: np.zeros(0))
    relative_loss: float = math.nan

    def row(self) -> dict[str, Any]:
        """The columns of metrics.csv; `predicted` is the share of each class, class 0 first, with spaces between."""
        shares = " ".join(f"{share:.3g}" for share in self.predicted)
        figures = (self.gradient_norm, self.update_ratio, self.dead_share, shares)
        return dict(zip(COLUMNS, figures, strict=True))


class Observation:
    """Gathers the Signs of one step, told by the loop: `scores` after the first forward, `moving` before the update,
    `moved` after it. Until then, the network's layers report their outputs.
    """

    def __init__(self, model: Module) -> None:
        self.signs = Signs()
        self._model = model
        self._alive: dict[str, Any] = {}  # by layer: whether each channel is above 0 anywhere, bool (C,)
        self._before: list[tuple[Any, Any]] = []
        if isinstance(model, BaseNetwork):
            model.observe = self._layer

    def _layer(self, name: str, output: Tensor) -> None:
        axes = (0, *range(2, output.ndim))  # (N, C) or (N, C, H, W) -> (C,)
        alive = output.data.max(axis=axes) > 0
        self._alive[name] = self._alive[name] | alive if name in self._alive else alive

    def scores(self, scores: Tensor, labels: np.ndarray, value: float, loss: Loss, chance: np.random.Generator) -> None:
        """After the first batch's forward. chance: a generator in the state that the loss found it in."""
        backend, count = scores.backend, scores.shape[1]
        best = backend.to_numpy(scores.data.argmax(axis=1)).ravel()
        self.signs.predicted = np.bincount(best, minlength=count) / max(1, best.size)
        counted = labels if scores.ndim == labels.ndim + 1 else labels[:, 0, 0]  # a classifier's pictures have one
        counted = counted[counted != VOID]
        self.signs.labelled = np.bincount(counted, minlength=count) / max(1, counted.size)
        with no_grad():
            equal = loss(Tensor(backend.xp.zeros_like(scores.data), device=scores.device), labels, chance).item()
        self.signs.relative_loss = value / equal if equal > 0 else math.nan

    def moving(self) -> None:
        """Before the update: the gradients are there, the weights still the old ones."""
        learned = [(name, one) for name, one in self._model.named_parameters() if one.grad is not None]
        self.signs.gradients = {name: _norm(parameter.grad) for name, parameter in learned}
        self.signs.gradient_norm = math.hypot(*self.signs.gradients.values())
        self._before = [(parameter, _sample(parameter).copy()) for _, parameter in learned]
        if self._alive:
            dead = {name: ~self._model_backend().to_numpy(alive) for name, alive in self._alive.items()}
            self.signs.dead = {name: float(one.mean()) for name, one in dead.items()}
            self.signs.dead_share = float(np.concatenate(list(dead.values())).mean())
        if isinstance(self._model, BaseNetwork):
            self._model.observe = None

    def moved(self) -> Signs:
        """After the update."""
        moved = weight = 0.0
        for parameter, before in self._before:
            scale = parameter.data.size / max(1, before.size)  # the sample stands for all
            moved += scale * _norm(_sample(parameter) - before) ** 2
            weight += scale * _norm(before) ** 2
        self.signs.update_ratio = math.sqrt(moved / weight) if weight > 0 else math.nan
        return self.signs

    def _model_backend(self) -> Any:
        return next(iter(self._model.parameters())).backend


def _sample(parameter: Parameter) -> Any:
    flat = parameter.data.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLED)]


def _norm(array: Any) -> float:
    flat = array.reshape(-1)
    return math.sqrt(float(flat.dot(flat)))  # a product by @ would warn of an overflow, which inf says as well


class Symptoms:
    """Says what ails a run, each symptom once a stage, with its likely causes and what to try.

    classes: their names. say: takes a text of several lines.
    """

    def __init__(self, stage: str, classes: Sequence[str], say: Callable[[str], None]) -> None:
        self.stage, self.classes, self.say = stage, classes, say
        self._streak: Counter[str] = Counter()
        self._said: set[str] = set()
        self._norms: list[float] = []

    def see(self, step: int, signs: Signs) -> None:
        """Look at the signs of a step; speak, if they have been ill for long enough."""
        present = dict(self._look(signs))
        for symptom in _ADVICE:
            self._streak[symptom] = self._streak[symptom] + 1 if symptom in present else 0
            if self._streak[symptom] >= _ADVICE[symptom].patience:
                self._speak(symptom, f"step {step}: {present[symptom]}")
        self._norms.append(signs.gradient_norm)

    def measured(self, step: int, predicted: np.ndarray, labelled: np.ndarray) -> None:
        """Look at how many pixels of the val split are of each class; in the first steps this is no sign."""
        late = len(self._norms) >= PATIENCE
        if late and predicted.max() == predicted.sum() and labelled.max() < labelled.sum():
            self._speak("single", f"step {step}: every pixel of the val split is predicted as {self._name(predicted)}")

    def _name(self, counts: np.ndarray) -> str:
        return self.classes[int(counts.argmax())]

    def _speak(self, symptom: str, what: str) -> None:
        if symptom not in self._said:
            self._said.add(symptom)
            advice = _ADVICE[symptom]
            self.say(f"warning: {self.stage}: {what}.\n  Likely causes: {advice.causes}\n  Try: {advice.remedies}")

    def _look(self, signs: Signs) -> Iterator[tuple[str, str]]:
        """The symptoms of one step, and what was seen, in words."""
        if len(signs.predicted) > 1 and signs.predicted.max() >= _SINGLE and signs.labelled.max() < _SINGLE:
            yield "single", f"everything is predicted as {self._name(signs.predicted)}"
        if abs(signs.relative_loss - 1) < _STUCK:
            count = len(signs.predicted)
            yield "stuck", f"the loss stays at that of equal scores for all classes (ln {count}, if it is a mean)"
        if signs.relative_loss > _DIVERGED:
            yield "diverged", f"the loss is {signs.relative_loss:.3g} times that of equal scores for all classes"
        usual = float(np.median(self._norms)) if len(self._norms) >= PATIENCE else math.inf
        if signs.gradient_norm > _EXPLODED * usual > 0:
            yield "exploded", f"the gradients explode: their norm is {signs.gradient_norm:.3g}, {usual:.3g} until now"
        norms = {name: norm for name, norm in signs.gradients.items() if name.endswith("weight")}
        largest, smallest = max(norms.values(), default=0.0), min(norms, key=lambda name: norms[name], default="")
        if largest > 0 and norms[smallest] < _VANISHED * largest:
            what = f"that of {smallest} has the norm {norms[smallest]:.3g}, the largest {largest:.3g}"
            yield "vanished", f"the gradients vanish: {what}"
        if 0 < signs.update_ratio < _FLOAT32_STEP:
            yield "still", f"the weights hardly move: a step changes them by {signs.update_ratio:.2g} of their size"
        blocked = [name for name, share in signs.dead.items() if share == 1]
        if blocked:
            yield "blocked", f"no ReLU of {blocked[0]} passes anything on: all its channels are 0 for every picture"
        elif signs.dead_share > _MANY_DEAD:
            yield (
                "dead",
                f"{100 * signs.dead_share:.0f} % of all channels are dead: their ReLU gives 0 for every picture",
            )


@dataclass(frozen=True)
class _Advice:
    causes: str
    remedies: str
    patience: int = PATIENCE


_TOO_FAST = _Advice(
    "too large a learning rate; a loss that is a sum over pixels with a rate for a mean; a picture unlike all others.",
    "--lr ten times smaller (on the way: --resume --set lr=…), or --warm-up 100; look at the pictures with "
    "python -m minifcn.check_data.",
    patience=1,
)
_DEAD = _Advice(
    "one step that was far too large; pictures not normalised as the pretrained weights expect; too large a --lr.",
    "--lr ten times smaller from the start, --warm-up 100, or --batch-norm train; what is dead does not come back.",
)
_ADVICE = {
    "single": _Advice(
        "the first hundreds of steps, when that is normal; pretrained weights not given, or given with too small a "
        "learning rate; a coarse stage on small pictures; one class in nearly all pixels.",
        "wait for more steps, then --weights vgg16.safetensors (python -m minifcn.convert --list), a larger --lr, "
        "--batch-norm train, or --class-weights inverse-frequency if the other classes are rare.",
    ),
    "stuck": _Advice(
        "too small a learning rate, such as one for a sum with --reduction mean; masks that do not belong to their "
        "pictures; a layer that passes nothing on.",
        "--lr ten times larger; look at pictures and masks with python -m minifcn.check_data.",
    ),
    "diverged": _TOO_FAST,
    "exploded": _TOO_FAST,
    "vanished": _Advice(
        "many layers from random initial values without normalisation; a layer that passes nothing on; a stage whose "
        "new layers are still zero.",
        "--batch-norm train, --weights with a pretrained network, or the stages of the paper (--stages 32s,16s,8s).",
    ),
    "still": _Advice(
        "too small a learning rate for this loss and optimiser, or its schedule's end.",
        "--lr ten times larger; with --reduction mean, a rate as for SGD on a mean loss: 1e-4 to 1e-2.",
    ),
    "blocked": _DEAD,
    "dead": _DEAD,
}
