"""A whole run: stage after stage, each from the weights of the one before."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from minifcn import data, models, weights
from minifcn.backend import get_backend
from minifcn.data import Loader, Sample
from minifcn.data.frequency import class_weights, count_pixels
from minifcn.errors import DataError, UsageError, WeightsError
from minifcn.metrics import Evaluation
from minifcn.models import FCNBasic, surgery
from minifcn.training import assembly, evaluation, loop
from minifcn.training.assembly import open_split, scaled_size
from minifcn.training.checkpoint import Progress, read_progress, restore_checkpoint, save_checkpoint
from minifcn.training.config import CLASSIFIER, FREE, Config
from minifcn.training.display import Display, warn
from minifcn.training.folder import RunFolder
from minifcn.training.interrupts import interrupts
from minifcn.training.optim import Optimizer
from minifcn.training.watch import Symptoms
from minifcn.weights import Preprocessing, WeightFile

LOG_EVERY = 10  # steps to a row of metrics.csv
REFRESH = 60.0  # seconds from which on curves.png and predictions.png are drawn anew, if they take little of the time
COUNTED = 400  # drawn pictures whose pixels are counted for the classes' weights; of others, all are


class Run:
    """The run of one configuration in one folder; `run()` does it.

    pretrained: what `weights.load(config.weights)` gave, if that was called already.
    resume: go on from the folder's checkpoint (or start, if there is none yet). overwrite: replace the run that the
    folder holds. skip_bad: leave out pictures that cannot be read, and count them, instead of ending at the first.
    device: where the network computes. say: where lines of text go. bar: whether to draw a progress bar on stderr.
    Until `run()` has ended, no other run can use the folder.
    Everything that can be checked before training is checked here, before the folder is made.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        *,
        pretrained: WeightFile | None = None,
        resume: bool = False,
        overwrite: bool = False,
        skip_bad: bool = False,
        device: str = "cpu",
        say: Callable[[str], None] = print,
        bar: bool = True,
    ) -> None:
        self.config, self.device, self.say, self.bar, self.skip_bad = config, device, say, bar, skip_bad
        problems: list[str] | None = [] if skip_bad else None
        self.train_set, self.val_set = (open_split(config, one, problems) for one in (config.split, config.val_split))
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
        self._drawn, self._drawing = time.perf_counter(), 0.0  # when the pictures were last drawn, and how long it took
        try:
            self._begin(pretrained, resume, overwrite, problems)
        except BaseException:
            self.folder.release()
            raise

    def _begin(self, pretrained: WeightFile | None, resume: bool, overwrite: bool, problems: list[str] | None) -> None:
        """Find out where the run stands, and take possession of its folder."""
        config, folder, metrics = self.config, self.folder, ""
        if resume and folder.path.is_dir():
            folder.lock()  # before anything is read that another run may still change
        if resume and folder.checkpoint.exists():
            self.progress = read_progress(folder.checkpoint)
            self._warn_of_another_config()
            metrics = self.progress.metrics
            if not metrics:
                folder.keep_rows(config.stages, self.progress.stage, self.progress.step)
        elif resume and folder.model.exists():
            raise UsageError(
                f"--resume: {folder.path} holds a trained network but no checkpoint.safetensors to go on from, and "
                "training would start over and write over it. Leave out --resume, and name another --out."
            )
        else:
            if not resume:
                folder.refuse_files(overwrite)  # before labels are counted, which takes long
            self._warn_of_clashes()
            self._warn_of_training_on_val()
            if config.weights:
                self._start_from(weights.load(config.weights) if pretrained is None else pretrained)
            self.progress.class_weights = self._weigh_classes()
        for problem in problems or []:
            if problem not in self.progress.skipped:  # else it was counted before the pause
                self._skip(problem)
        self._warn_of_other_pictures()
        self.progress.config = config.to_toml()
        self._note_machine()
        self.preprocessing = Preprocessing.from_dict(self.progress.preprocessing)
        folder.open(config, resume=resume, overwrite=overwrite)
        folder.start_rows(metrics)

    def run(self) -> list[dict[str, Any]]:
        """Train the stages that are left; write report and pictures. Returns the finished stages' results."""
        try:
            model = None
            for number in range(self.progress.stage, len(self.config.stages)):
                model = self._run_stage(number, model)
            self.folder.write_report(self.progress)
            self._draw()
            if skipped := self.progress.skipped:
                times = f"{sum(skipped.values())} times in all, for {len(skipped)} that cannot be used"
                warn(f"warning: a file was skipped {times}; report.json lists them.")
            return self.progress.results
        finally:
            self.folder.release()

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
        self._save(model, optimizer)
        return model

    def _save(self, model: Any, optimizer: Optimizer) -> None:
        self.progress.metrics = self.folder.metrics()
        save_checkpoint(self.folder.checkpoint, model, optimizer, self.progress)

    def _train(self, number: int, model: Any, optimizer: Optimizer) -> None:
        """Steps of one stage, with logging, validation and checkpoints in between."""
        stage, config, already = self.config.stages[number], self.config, self.progress.seconds
        loader, done, begin = self._loader(stage), self.progress.step, time.perf_counter()
        steps = config.steps[number]
        if config.epochs:
            steps = max(1, config.epochs[number] * len(loader) // config.accumulate)
        training = loop.train(
            model,
            loader,
            optimizer,
            steps=steps,
            loss=assembly.make_loss(config, stage, self.progress.class_weights),
            schedule=assembly.schedule_of(config),
            accumulate=config.accumulate,
            start=done,
            seed=config.seed,
            device=self.device,
            observed=lambda step: step % LOG_EVERY == 0 or step == steps,
        )
        self._symptoms = Symptoms(stage, self._classes(stage), warn)
        every = config.validate_every if stage != CLASSIFIER else 0
        display = Display(stage, steps, done, self.progress.losses, self.say, self.bar)
        with display, interrupts() as interrupted:
            for step in training:
                self.progress.step, self.progress.seconds = step.number, already + time.perf_counter() - begin
                display.add(step)
                if step.signs is not None:
                    self._log(step, config.lr[number] * step.lr_factor, display)
                if every and step.number % every == 0 and step.number < steps:
                    mean_iu = self._validate(stage, model).summary()["mean_iu"]
                    display.write(f"{stage}: step {step.number}: mean IU {100 * mean_iu:.1f} % on val")
                stop = interrupted()
                if step.number % config.checkpoint_every == 0 or step.number == steps or stop:
                    loop.check_weights(model, optimizer, step.number)
                    self._save(model, optimizer)
                if stop:
                    raise KeyboardInterrupt
                if time.perf_counter() - self._drawn > max(REFRESH, 100 * self._drawing):
                    self._draw(stage, model)

    def _log(self, step: loop.Step, lr: float, display: Display) -> None:
        """A row of metrics.csv, and what is wrong with the network if something is."""
        stage, signs = display.stage, step.signs
        assert signs is not None  # the step was observed
        self.folder.add_row(stage=stage, step=step.number, lr=lr, **display.summary(step, lr), **signs.row())
        self._symptoms.see(step.number, signs)

    def _classes(self, stage: str) -> tuple[str, ...]:
        if stage == CLASSIFIER and self.config.data == "shapes":
            return data.ClassifiedShapes.classes
        return self.train_set.classes

    def _draw(self, stage: str = CLASSIFIER, model: Any = None) -> None:
        """The pictures, with the predictions of the finished stages and of the one at work."""
        begin = time.perf_counter()
        finished = [result["stage"] for result in self.progress.results if result["stage"] != CLASSIFIER]
        current = {} if stage == CLASSIFIER else {stage: model}
        size = scaled_size(self.config)
        self.folder.draw(finished, self.val_set, self.preprocessing, size, self.device, current)
        gc.collect()  # figures are webs of references, megabytes each, that nobody else collects for a long time
        self._drawn = time.perf_counter()
        self._drawing = self._drawn - begin

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

    def _save_model(self, path: Path, model: Any, about: dict[str, Any] | None = None) -> None:
        source = {**({"source": self.progress.source} if self.progress.source else {}), **(about or {})}
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
            return assembly.classifier_loader(self.config, self.train_set, self.preprocessing, True, self._skipping)
        return assembly.segmentation_loader(self.config, self.train_set, self.preprocessing, self._skipping)

    @property
    def _skipping(self) -> Callable[[str], None] | None:
        return self._skip if self.skip_bad else None

    def _skip(self, what: str) -> None:
        """Count a file that cannot be used; the first time, say what is wrong with it."""
        if what not in self.progress.skipped:
            warn(f"warning: skipped: {what}")
        self.progress.skipped[what] = self.progress.skipped.get(what, 0) + 1

    def _weigh_classes(self) -> list[float]:
        """Each class's weight in the loss, from how often it occurs in the training set; [] for equal ones."""
        config = self.config
        if config.class_weights == "none":
            return []
        most = COUNTED if config.data == "shapes" else None
        counts = count_pixels(
            self.train_set, size=scaled_size(config), most=most, progress=self._counting, skip=self._skipping
        )
        found = class_weights(counts, config.class_weights) ** np.float32(config.class_weight_power)
        named = zip(self.train_set.classes, found, strict=True)
        self.say(f"class weights ({config.class_weights}): " + ", ".join(f"{name} {w:.3g}" for name, w in named))
        return [float(weight) for weight in found]

    def _counting(self, items: Any) -> Any:
        return tqdm(items, desc="counting classes", unit="picture", file=sys.stderr, disable=not self.bar)

    def _warn_of_clashes(self) -> None:
        """Say so, even to those who want it quiet, if a learning rate does not go with the loss's normalisation."""
        picture_size = self._first_picture().labels.shape
        for stage, lr in zip(self.config.stages, self.config.lr, strict=True):
            if explanation := assembly.clash(self.config, stage, lr, picture_size):
                warn(f"warning: {stage}: {explanation}")

    def _first_picture(self) -> Sample:
        """The first one of the training set; with skip_bad, that can be read."""
        for number in range(len(self.train_set)):
            with suppress(*[DataError] if self.skip_bad else []):
                return self.train_set[number]
        raise DataError(f"{self.config.data}: no picture of {self.config.split} can be read; look at one in a viewer.")

    def _warn_of_training_on_val(self) -> None:
        if self.config.split == self.config.val_split and not self.config.folds:
            warn(
                f"warning: --val-split {self.config.val_split} is what is trained on, too: the figures say how well it "
                "was learnt by heart, not how well new pictures will be labelled."
            )

    def _note_machine(self) -> None:
        """Add the device to those the run was computed on, unless the last part was computed on the same."""
        machine = get_backend(self.device).describe()
        if self.progress.machines[-1:] != [machine]:
            self.progress.machines.append(machine)

    def _warn_of_another_config(self) -> None:
        """Say so if config.toml was changed since the checkpoint was saved: then it does not repeat the run."""
        was, now = (text.splitlines() for text in (self.progress.config, self.config.to_toml()))
        known = {line.partition(" = ")[0] for line in was}.difference(FREE)  # none in checkpoints of older versions
        if changed := [line for line in now if line not in was and line.partition(" = ")[0] in known]:
            warn(
                f"warning: {self.folder.path / 'config.toml'} was changed since the checkpoint was saved (now "
                f"{'; '.join(changed)}): what is finished stays as it was trained before, only the rest follows the "
                "new values, and the run can no longer be repeated from this file."
            )

    def _warn_of_other_pictures(self) -> None:
        """Say so if there are more or fewer pictures than when the run began: then they come in another order."""
        was, now = self.progress.pictures, len(self.train_set)
        if was not in (0, now):
            warn(
                f"warning: {self.config.data}: {self.config.split} has {now} pictures now, and had {was} when the run "
                "began; the run goes on with these, but does not end as it would have done."
            )
        self.progress.pictures = now

    def _evaluate(self, model: Any) -> Evaluation:
        size = scaled_size(self.config)
        return evaluation.evaluate(
            model, self.val_set, self.preprocessing, size=size, device=self.device, skip=self._skipping
        )

    def _validate(self, stage: str, model: Any) -> Evaluation:
        """Measure the network on the val split, and keep it if it is the best so far."""
        found, step = self._evaluate(model), self.progress.step
        summary, counts = found.summary(), found.confusion.counts  # (C, C): truth, prediction
        self.folder.add_row(stage=stage, step=step, **summary)
        self._symptoms.measured(step, counts.sum(axis=0), counts.sum(axis=1))
        if summary["mean_iu"] > self.progress.best.get("mean_iu", -1.0):
            self.progress.best = {"stage": stage, "step": step, "mean_iu": summary["mean_iu"]}
            self._save_model(self.folder.best, model, self.progress.best)
        return found

    def _measure(self, stage: str, model: Any) -> dict[str, Any]:
        """The result of a finished stage on data that it has not seen."""
        if stage != CLASSIFIER:
            found, classes = self._validate(stage, model), self.val_set.classes
            summary, intervals = found.summary(), found.intervals()
            self.progress.baselines = found.baselines(classes)
            self.say(f"{stage}: mean IU {100 * summary['mean_iu']:.1f} %")
            class_iu = dict(zip(classes, found.confusion.class_iu.tolist(), strict=True))
            return {**summary, "class_iu": class_iu, "intervals": intervals.figures, "confidence": intervals.confidence}
        right = total = 0
        loader = assembly.classifier_loader(self.config, self.val_set, self.preprocessing, False, self._skipping)
        for batch in loader.epoch(0):
            predicted = evaluation.predict_labels(model, batch.images, self.device)
            right, total = right + int((predicted == batch.labels[:, 0, 0]).sum()), total + len(predicted)
        what = "the object" if self.config.data == "shapes" else "the class in the middle"
        self.say(f"{stage}: names {what} in {100 * right / total:.1f} % of new pictures")
        return {"accuracy": right / total}
