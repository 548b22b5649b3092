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

from tqdm.auto import tqdm

from minifcn import data, models, weights
from minifcn.data import Dataset, Loader
from minifcn.errors import DataError, WeightsError
from minifcn.models import surgery
from minifcn.training import evaluation, loop
from minifcn.training.checkpoint import Progress, read_progress, restore_checkpoint, save_checkpoint
from minifcn.training.config import CLASSIFIER, Config
from minifcn.training.folder import RunFolder
from minifcn.training.optim import SGD, Adam, Optimizer, paper_groups
from minifcn.training.schedule import SCHEDULES
from minifcn.weights import Preprocessing, WeightFile

LOG_EVERY = 10  # steps to a row of metrics.csv


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
        self.train_set, self.val_set = open_split(config, "train"), open_split(config, "val")
        if self.train_set.classes != self.val_set.classes:
            raise DataError(
                f"{config.data}: the classes of train {self.train_set.classes} and val {self.val_set.classes} differ."
            )
        self.folder = RunFolder(out)
        self.progress = Progress()
        self._first_network: Any = None  # that of the first stage, if it starts from a file
        if resume and self.folder.checkpoint.exists():
            self.progress = read_progress(self.folder.checkpoint)
            self.folder.keep_rows(config.stages, self.progress.stage, self.progress.step)
        elif config.weights:
            self._start_from(weights.load(config.weights) if pretrained is None else pretrained)
        self.preprocessing = Preprocessing.from_dict(self.progress.preprocessing)
        self.folder.open(config, resume=resume)
        self.folder.start_rows()

    def run(self) -> list[dict[str, Any]]:
        """Train the stages that are left; write report and pictures. Returns the finished stages' results."""
        model = None
        for number in range(self.progress.stage, len(self.config.stages)):
            model = self._run_stage(number, model)
        stages = [stage for stage in self.config.stages if stage != CLASSIFIER]
        self.folder.write_report(self.progress.results, self.progress.baseline)
        self.folder.draw(stages, self.val_set, self.preprocessing, self._scaled_size(), self.device)
        return self.progress.results

    def _run_stage(self, number: int, before: Any) -> Any:
        stage = self.config.stages[number]
        model = (self._build(stage) if self._first_network is None else self._first_network).to(self.device)
        self._first_network = None
        optimizer = self._optimizer(model, self.config.lr[number])
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
        loader = self._classifier_loader("train") if stage == CLASSIFIER else self._loader()
        steps = config.epochs * len(loader) if config.epochs else config.steps[number]
        loss = loop.classification_loss if stage == CLASSIFIER else loop.segmentation_loss(config.reduction)
        every = config.validate_every if stage != CLASSIFIER else 0
        begin, window = time.perf_counter(), _Window()
        with self._progress_bar(stage, steps) as bar, _interrupts() as interrupted:
            for step in loop.train(
                model,
                loader,
                optimizer,
                steps=steps,
                loss=loss,
                schedule=SCHEDULES[config.schedule],
                start=self.progress.step,
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
        network = self._build(self.config.stages[0])
        try:
            self.say(f"{models.load_pretrained(network, file)}\n")
        except WeightsError as error:
            remedy = "Without --model, --width and --fc-width the file's are taken."
            raise WeightsError(f"--weights {self.config.weights}: {error}\n{remedy}") from None
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
        config = self.config
        architecture: dict[str, Any] = {"name": "vgg16", "num_classes": len(data.ClassifiedShapes.classes)}
        if stage != CLASSIFIER:
            architecture = {
                "name": stage,
                "num_classes": len(self.train_set.classes),
                "geometry": config.geometry,
                "learned_upsampling": config.learned_upsampling,
            }
        architecture |= {"width": config.width, "fc_width": config.fc_width or None, "dropout": config.dropout}
        return models.build(architecture, seed=config.seed)

    def _optimizer(self, model: Any, lr: float) -> Optimizer:
        groups = paper_groups(model, lr=lr, weight_decay=self.config.weight_decay)
        if self.config.optimizer == "sgd":
            return SGD(groups, lr=lr, momentum=self.config.momentum)
        return Adam(groups, lr=lr)

    def _loader(self) -> Loader:
        config = self.config
        return Loader(
            self.train_set,
            config.batch_size,
            normalise=self.preprocessing.apply,
            augment=data.Augment(flip=config.flip, crop=config.crop, scale=config.scale),
            size=self._scaled_size(),
            seed=config.seed,
            drop_last=len(self.train_set) >= config.batch_size,
        )

    def _classifier_loader(self, split: str) -> Loader:
        """Pictures with one object in the middle, of the size at which the segmenter will see such objects."""
        config = self.config
        pictures = data.ClassifiedShapes(split, size=config.size or 96, seed=config.seed)
        return Loader(
            pictures,
            config.batch_size,
            normalise=self.preprocessing.apply,
            shuffle=split == "train",
            seed=config.seed,
        )

    def _scaled_size(self) -> tuple[int, int] | None:
        """What pictures are scaled to; shapes are drawn at their size."""
        return None if self.config.data == "shapes" else self.config.size

    def _evaluate(self, model: Any) -> dict[str, float]:
        size = self._scaled_size()
        result = evaluation.evaluate(model, self.val_set, self.preprocessing, size=size, device=self.device)
        self.progress.baseline = result.baseline()
        return result.summary()

    def _validate(self, stage: str, step: int, model: Any) -> None:
        summary = self._evaluate(model)
        self.folder.add_row(stage=stage, step=step, **summary)
        self._write(f"{stage}: step {step}: mean IU {100 * summary['mean_iu']:.1f} % on val")

    def _measure(self, stage: str, model: Any) -> dict[str, float]:
        """The result of a finished stage on data that it has not seen."""
        if stage != CLASSIFIER:
            summary = self._evaluate(model)
            self.folder.add_row(stage=stage, step=self.progress.step, **summary)
            self.say(f"{stage}: mean IU {100 * summary['mean_iu']:.1f} %")
            return summary
        right = total = 0
        for batch in self._classifier_loader("val").epoch(0):
            predicted = evaluation.predict_labels(model, batch.images, self.device)
            right, total = right + int((predicted == batch.labels[:, 0, 0]).sum()), total + len(predicted)
        self.say(f"{stage}: names the object in {100 * right / total:.1f} % of new pictures")
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


def open_split(config: Config, split: str) -> Dataset:
    """The data set of a configuration."""
    return data.open_for(config.data, split, size=config.size, foreground=config.foreground, seed=config.seed)
