"""A whole run: stage after stage, each from the weights of the one before."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from minifcn import models, weights
from minifcn.backend import get_backend
from minifcn.data import Loader
from minifcn.data.frequency import class_weights, count_pixels
from minifcn.errors import DataError, UsageError, WeightsError
from minifcn.metrics import Evaluation
from minifcn.models import FCNBasic, surgery
from minifcn.training import assembly, evaluation, loop
from minifcn.training.assembly import open_split, scaled_size
from minifcn.training.checkpoint import Progress, read_progress, restore_checkpoint, save_checkpoint
from minifcn.training.config import CLASSIFIER, Config
from minifcn.training.folder import RunFolder
from minifcn.training.optim import Optimizer
from minifcn.weights import Preprocessing, WeightFile

LOG_EVERY = 10  # steps to a row of metrics.csv
COUNTED = 400  # drawn pictures whose pixels are counted for the classes' weights; of others, all are


class Run:
    """The run of one configuration in one folder; `run()` does it.

    pretrained: what `weights.load(config.weights)` gave, if that was called already.
    resume: go on from the folder's checkpoint (or start, if there is none yet). device: where the network computes.
    say: where lines of text go. bar: whether to draw a progress bar on stderr.
    Everything that can be checked before training is checked here, before the folder is made.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        *,
        pretrained: WeightFile | None = None,
        resume: bool = False,
        device: str = "cpu",
        say: Callable[[str], None] = print,
        bar: bool = True,
    ) -> None:
        self.config, self.device, self.say, self.bar = config, device, say, bar
        self.train_set, self.val_set = open_split(config, config.split), open_split(config, config.val_split)
        if self.train_set.classes != self.val_set.classes:
            raise DataError(
                f"{config.data}: the classes of {config.split} {self.train_set.classes} and {config.val_split} "
                f"{self.val_set.classes} differ. Give both the same classes, in the same order."
            )
        for note in filter(None, (getattr(one, "note", "") for one in (self.train_set, self.val_set))):
            self.say(note)
        self.folder = RunFolder(out)
        self.progress = Progress()
        self._first_network: Any = None  # that of the first stage, if it starts from a file
        if resume and self.folder.checkpoint.exists():
            self.progress = read_progress(self.folder.checkpoint)
            self._warn_of_another_config()
            self.folder.keep_rows(config.stages, self.progress.stage, self.progress.step)
        elif resume and self.folder.model.exists():
            raise UsageError(
                f"--resume: {out} holds a trained network but no checkpoint.safetensors to go on from, and training "
                "would start over and write over it. Leave out --resume, and name another --out."
            )
        else:
            self._warn_of_clashes()
            self._warn_of_training_on_val()
            if config.weights:
                self._start_from(weights.load(config.weights) if pretrained is None else pretrained)
            self.progress.class_weights = self._weigh_classes()
        self.progress.config = config.to_toml()
        self._note_machine()
        self.preprocessing = Preprocessing.from_dict(self.progress.preprocessing)
        self.folder.open(config, resume=resume)
        self.folder.start_rows()

    def run(self) -> list[dict[str, Any]]:
        """Train the stages that are left; write report and pictures. Returns the finished stages' results."""
        model = None
        for number in range(self.progress.stage, len(self.config.stages)):
            model = self._run_stage(number, model)
        stages = [stage for stage in self.config.stages if stage != CLASSIFIER]
        self.folder.write_report(self.progress.results, self.progress.baselines, self.progress.machines)
        self.folder.draw(stages, self.val_set, self.preprocessing, scaled_size(self.config), self.device)
        return self.progress.results

    def _run_stage(self, number: int, before: Any) -> Any:
        stage = self.config.stages[number]
        model = (self._build(stage) if self._first_network is None else self._first_network).to(self.device)
        self._first_network = None
        optimizer = assembly.make_optimizer(self.config, model, self.config.lr[number])
        if self.progress.step > 0:
            restore_checkpoint(self.folder.checkpoint, model, optimizer)
            self.say(f"{stage}: resumed after step {self.progress.step}")
        elif number > 0:
            self._inherit(number, model, before)
        self._train(number, model, optimizer)
        result = {"stage": stage, **self._measure(stage, model), "seconds": round(self.progress.seconds, 1)}
        self._save_model(self.folder.stage_weights(stage), model)
        if stage != CLASSIFIER:
            self._save_model(self.folder.model, model)
        results = [*self.progress.results, result]
        self.progress = replace(self.progress, stage=number + 1, step=0, seconds=0.0, results=results)
        save_checkpoint(self.folder.checkpoint, model, optimizer, self.progress)
        return model

    def _train(self, number: int, model: Any, optimizer: Optimizer) -> None:
        """Steps of one stage, with logging, validation and checkpoints in between."""
        stage, config, already = self.config.stages[number], self.config, self.progress.seconds
        loader = self._loader(stage)
        steps = config.steps[number]
        if config.epochs:
            steps = max(1, config.epochs[number] * len(loader) // config.accumulate)
        every = config.validate_every if stage != CLASSIFIER else 0
        begin, window = time.perf_counter(), _Window()
        with self._progress_bar(stage, steps) as bar, _interrupts() as interrupted:
            for step in loop.train(
                model,
                loader,
                optimizer,
                steps=steps,
                loss=assembly.make_loss(config, stage, self.progress.class_weights),
                schedule=assembly.schedule_of(config),
                accumulate=config.accumulate,
                start=self.progress.step,
                seed=config.seed,
                device=self.device,
            ):
                self.progress.step, self.progress.seconds = step.number, already + time.perf_counter() - begin
                window.add(step)
                if step.number % LOG_EVERY == 0 or step.number == steps:
                    lr = config.lr[number] * step.lr_factor
                    self.folder.add_row(stage=stage, step=step.number, lr=lr, **window.summary())
                    self._show(bar, stage, step.number, steps, window)
                    window = _Window()
                if every and step.number % every == 0 and step.number < steps:
                    self._validate(stage, step.number, model)
                bar.update()
                if step.number % config.checkpoint_every == 0 or step.number == steps or interrupted():
                    loop.check_weights(model, step.number)
                    save_checkpoint(self.folder.checkpoint, model, optimizer, self.progress)
                if interrupted():
                    raise KeyboardInterrupt

    def _start_from(self, file: WeightFile) -> None:
        """Build the first stage's network with a file's weights, and say what became of each tensor."""
        network, what = self._build(self.config.stages[0]), f"--weights {self.config.weights}"
        theirs, ours = file.architecture.get("name"), network.architecture["name"]
        if FCNBasic.name in (theirs, ours) and theirs != ours:
            raise WeightsError(f"{what}: holds {theirs}, which has no layers in common with {ours}.")
        if self.config.batch_norm == "frozen" and not any(name.endswith("running_mean") for name in file.tensors):
            raise WeightsError(f"{what}: has no batch normalisation that could be frozen; leave out --batch-norm.")
        try:
            self.say(f"{models.load_pretrained(network, file)}\n")
        except WeightsError as error:
            remedy = "Without --model, --width, --fc-width and --batch-norm the file's are taken."
            raise WeightsError(f"{what}: {error}\n{remedy}") from None
        self._first_network = network
        self.progress.preprocessing = file.preprocessing.to_dict()
        self.progress.source = dict(file.record.get("source", {})) or {"name": Path(self.config.weights).name}

    def _save_model(self, path: Path, model: Any) -> None:
        source = {"source": self.progress.source} if self.progress.source else {}
        self.folder.save_model(path, model, self.config, self.train_set, self.preprocessing, source)

    def _inherit(self, number: int, model: Any, before: Any) -> None:
        """Take over the weights of the stage before; `before` is None if that stage was run before a resume."""
        source = self.config.stages[number - 1]
        if before is None:
            before = models.from_weights(self.folder.stage_weights(source))
        report = surgery.transplant(before.state_dict(), model)
        self.say(f"{self.config.stages[number]}: starts from {source}; new are {', '.join(report.new) or 'none'}")

    def _build(self, stage: str) -> Any:
        return assembly.build_network(self.config, stage, self.train_set.classes)

    def _loader(self, stage: str) -> Loader:
        if stage == CLASSIFIER:
            return assembly.classifier_loader(self.config, self.train_set, self.preprocessing, train=True)
        return assembly.segmentation_loader(self.config, self.train_set, self.preprocessing)

    def _weigh_classes(self) -> list[float]:
        """Each class's weight in the loss, from how often it occurs in the training set; [] for equal ones."""
        config = self.config
        if config.class_weights == "none":
            return []
        most = COUNTED if config.data == "shapes" else None
        counts = count_pixels(self.train_set, size=scaled_size(self.config), most=most, progress=self._counting)
        found = class_weights(counts, config.class_weights) ** np.float32(config.class_weight_power)
        named = zip(self.train_set.classes, found, strict=True)
        self.say(f"class weights ({config.class_weights}): " + ", ".join(f"{name} {w:.3g}" for name, w in named))
        return [float(weight) for weight in found]

    def _counting(self, items: Any) -> Any:
        return tqdm(items, desc="counting classes", unit="picture", file=sys.stderr, disable=not self.bar)

    def _warn_of_clashes(self) -> None:
        """Say so, even to those who want it quiet, if a learning rate does not go with the loss's normalisation."""
        picture_size = self.train_set[0].labels.shape
        for stage, lr in zip(self.config.stages, self.config.lr, strict=True):
            if explanation := assembly.clash(self.config, stage, lr, picture_size):
                print(f"warning: {stage}: {explanation}", file=sys.stderr)

    def _warn_of_training_on_val(self) -> None:
        if self.config.split == self.config.val_split and not self.config.folds:
            print(
                f"warning: --val-split {self.config.val_split} is what is trained on, too: the figures say how well it "
                "was learnt by heart, not how well new pictures will be labelled.",
                file=sys.stderr,
            )

    def _note_machine(self) -> None:
        """Add the device to those the run was computed on, unless the last part was computed on the same."""
        machine = get_backend(self.device).describe()
        if self.progress.machines[-1:] != [machine]:
            self.progress.machines.append(machine)

    def _warn_of_another_config(self) -> None:
        """Say so if config.toml was changed since the checkpoint was saved: then it does not repeat the run."""
        was, now = (text.splitlines() for text in (self.progress.config, self.config.to_toml()))
        known = {line.partition(" = ")[0] for line in was}  # none in checkpoints of older versions
        if changed := [line for line in now if line not in was and line.partition(" = ")[0] in known]:
            print(
                f"warning: {self.folder.path / 'config.toml'} was changed since the checkpoint was saved (now "
                f"{'; '.join(changed)}): what is finished stays as it was trained before, only the rest follows the "
                "new values, and the run can no longer be repeated from this file.",
                file=sys.stderr,
            )

    def _evaluate(self, model: Any) -> Evaluation:
        size = scaled_size(self.config)
        return evaluation.evaluate(model, self.val_set, self.preprocessing, size=size, device=self.device)

    def _validate(self, stage: str, step: int, model: Any) -> None:
        summary = self._evaluate(model).summary()
        self.folder.add_row(stage=stage, step=step, **summary)
        self._write(f"{stage}: step {step}: mean IU {100 * summary['mean_iu']:.1f} % on val")

    def _measure(self, stage: str, model: Any) -> dict[str, Any]:
        """The result of a finished stage on data that it has not seen."""
        if stage != CLASSIFIER:
            found, classes = self._evaluate(model), self.val_set.classes
            summary, intervals = found.summary(), found.intervals()
            self.progress.baselines = found.baselines(classes)
            self.folder.add_row(stage=stage, step=self.progress.step, **summary)
            self.say(f"{stage}: mean IU {100 * summary['mean_iu']:.1f} %")
            class_iu = dict(zip(classes, found.confusion.class_iu.tolist(), strict=True))
            return {**summary, "class_iu": class_iu, "intervals": intervals.figures, "confidence": intervals.confidence}
        right = total = 0
        loader = assembly.classifier_loader(self.config, self.val_set, self.preprocessing, train=False)
        for batch in loader.epoch(0):
            predicted = evaluation.predict_labels(model, batch.images, self.device)
            right, total = right + int((predicted == batch.labels[:, 0, 0]).sum()), total + len(predicted)
        what = "the object" if self.config.data == "shapes" else "the class in the middle"
        self.say(f"{stage}: names {what} in {100 * right / total:.1f} % of new pictures")
        return {"accuracy": right / total}

    def _progress_bar(self, stage: str, steps: int) -> Any:
        initial = self.progress.step
        return tqdm(desc=stage, total=steps, initial=initial, unit="step", file=sys.stderr, disable=not self.bar)

    def _show(self, bar: Any, stage: str, step: int, steps: int, window: _Window) -> None:
        """The last few steps on the bar; or, without a bar, a line now and then."""
        values = window.summary()
        bar.set_postfix(loss=f"{values['loss']:.3f}", images=f"{values['images_per_second']:.0f}/s", refresh=False)
        if not self.bar and step % (10 * LOG_EVERY) == 0:
            speed = values["images_per_second"]
            self.say(f"{stage}: step {step} of {steps}, loss {values['loss']:.3f}, {speed:.1f} images/s")

    def _write(self, line: str) -> None:
        """A line that does not tear the progress bar."""
        if self.bar:
            tqdm.write(line)
        else:
            self.say(line)


class _Window:
    """Means over the last few steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.images, self.begin = 0, time.perf_counter()

    def add(self, step: loop.Step) -> None:
        self.losses.append(step.loss)
        self.images += step.images

    def summary(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self.begin, 1e-9)
        return {"loss": sum(self.losses) / len(self.losses), "images_per_second": self.images / elapsed}


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C and SIGTERM only set a flag, which is asked for between steps, when a checkpoint is consistent.

    A second one interrupts at once. Only the main thread can do this; in others nothing changes.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(signal_number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(signal_number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
