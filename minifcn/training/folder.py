"""The folder that a run leaves behind: what is in it, and how it is written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from minifcn import models, visualize
from minifcn.data import Dataset, resize
from minifcn.errors import DataError, UsageError
from minifcn.files import is_leftover, remove_leftovers, to_json, write_atomically
from minifcn.metrics import METRIC_HEADERS
from minifcn.training import evaluation
from minifcn.training.checkpoint import Progress
from minifcn.training.config import CLASSIFIER, FCN_STAGES, Config
from minifcn.training.lock import NAME as LOCK
from minifcn.training.lock import FolderLock
from minifcn.training.watch import COLUMNS as WATCHED
from minifcn.weights import Preprocessing, save_weights

COLUMNS = ("stage", "step", "loss", "lr", "images_per_second", *WATCHED, *METRIC_HEADERS)
SHOWN = 4  # pictures on the prediction sheet


class RunFolder:
    """A run's files:

    config.toml        every choice; the run can be repeated from it
    metrics.csv        a row for every few steps, and for every validation
    STAGE.safetensors  the weights at the end of each stage
    model.safetensors  those of the last one; all that evaluate and predict need
    best.safetensors   those, of whatever stage and step, that were the best on the val split
    checkpoint.safetensors  the last state of the run, for --resume
    report.json        at the end
    curves.png, predictions.png  from time to time, and at the end
    .lock              keeps a second run out, see FolderLock
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self.model = path / "model.safetensors"
        self.best = path / "best.safetensors"
        self._lines: list[str] = []  # of metrics.csv: as text, an eighth of what dictionaries of a long run take
        self._lock: FolderLock | None = None

    def lock(self) -> None:
        """Keep every other run out until `release`, or the process's end; UsageError if one is at work here."""
        if self._lock is None:
            with self._writable():
                self._lock = FolderLock(self.path)
                remove_leftovers(self.path)

    def release(self) -> None:
        """Let other runs in again."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def is_empty(self) -> bool:
        """Whether there is nothing but what a run killed at its very start leaves."""
        return not self.path.exists() or all(path.name == LOCK or is_leftover(path) for path in self.path.iterdir())

    def open(self, config: Config, *, resume: bool, overwrite: bool = False) -> None:
        """Make the folder, lock it and write the configuration.

        UsageError if it holds files that are not this run's. With overwrite, those of an earlier run are removed.
        """
        with self._writable():
            if not resume:
                self.refuse_files(overwrite)
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            if not resume:
                self.refuse_files(overwrite)  # again: another run may have come in between
                self._remove_run()
            write_atomically(self.path / "config.toml", config.to_toml().encode())

    def refuse_files(self, overwrite: bool) -> None:
        """UsageError if the folder holds files that a new run would mix with."""
        if self.path.is_dir() and (self.is_empty() or (overwrite and (self.path / "config.toml").exists())):
            return
        if self.path.exists():
            replace = ", replace it with --overwrite" if (self.path / "config.toml").exists() else ""
            raise UsageError(
                f"--out {self.path}: is there and not empty. Continue its run with --resume{replace}, or name another "
                "folder."
            )

    def _remove_run(self) -> None:
        """Remove what a run leaves and nothing else; the checkpoint first, so that nobody resumes half of it."""
        stages = [self.stage_weights(stage) for stage in (CLASSIFIER, *FCN_STAGES)]
        names = ("report.json", "curves.png", "predictions.png", "metrics.csv", "config.toml")
        for path in (self.checkpoint, self.model, self.best, *stages, *(self.path / name for name in names)):
            path.unlink(missing_ok=True)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"--out {self.path}: cannot be written ({error.strerror}); name another folder.") from None

    def keep_rows(self, stages: Sequence[str], stage: int, step: int) -> None:
        """Read metrics.csv up to a checkpoint that does not hold the rows itself, as those of format 1."""
        before = {name: float("inf") for name in stages[:stage]}
        limits = before | ({stages[stage]: step} if stage < len(stages) else {})
        try:
            with open(self.path / "metrics.csv", encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except FileNotFoundError:
            rows = []
        kept = [row for row in rows if _number(row.get("step")) <= limits.get(row["stage"], -1)]
        self._lines = [_csv_line(row) for row in kept]

    def metrics(self) -> str:
        """The text of metrics.csv, with the rows there are."""
        return "".join([",".join(COLUMNS), "\n", *self._lines])

    def start_rows(self, metrics: str = "") -> None:
        """Write metrics.csv anew: with the rows of this text, or with those there are."""
        if metrics:
            self._lines = [_csv_line(row) for row in csv.DictReader(io.StringIO(metrics))]
        write_atomically(self.path / "metrics.csv", self.metrics().encode())

    def add_row(self, **values: Any) -> None:
        """One more row of metrics.csv, handed to the operating system at once. Missing columns stay empty."""
        row = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values.items()}
        if unknown := row.keys() - set(COLUMNS):
            raise ValueError(f"metrics.csv has no column {', '.join(sorted(unknown))}")
        line = _csv_line(row)
        self._lines.append(line)
        path = self.path / "metrics.csv"
        try:
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(line)
        except OSError as error:  # a full disk does not say what was being written
            error.filename = str(path)
            raise

    def stage_weights(self, stage: str) -> Path:
        return self.path / f"{stage}.safetensors"

    def save_model(
        self,
        path: Path,
        model: Any,
        config: Config,
        dataset: Dataset,
        preprocessing: Preprocessing,
        source: Mapping[str, Any],
    ) -> None:
        """The weights, with all that evaluation and prediction need to know, and the source they started from."""
        record = {
            **source,
            "classes": list(dataset.classes),
            "palette": dataset.palette.tolist(),
            "size": config.size,
            "data": config.data,
            "split": config.val_split,
            "folds": _fold(config),
            "foreground": config.foreground,
            "seed": config.seed,
        }
        save_weights(
            path, model.state_dict(), architecture=model.architecture, preprocessing=preprocessing, record=record
        )

    def write_report(self, progress: Progress) -> None:
        """report.json: the classifier apart, since it labels pictures, not pixels.

        machines in it: what the run was computed on, in order, as Backend.describe says it.
        """
        results, baselines = progress.results, progress.baselines
        report = {
            "stages": [dict(result) for result in results if "mean_iu" in result],
            "classifier": next((dict(result) for result in results if "mean_iu" not in result), None),
            "all_background": dict(baselines[0]),
            "most_frequent": dict(baselines[1]) if len(baselines) > 1 else None,
            "best": progress.best,
            "skipped": progress.skipped,
            "machines": progress.machines,
        }
        write_atomically(self.path / "report.json", to_json(report).encode())

    def draw(
        self,
        stages: Sequence[str],
        dataset: Dataset,
        preprocessing: Preprocessing,
        size: tuple[int, int] | None,
        device: str,
        current: Mapping[str, Any],
    ) -> None:
        """curves.png, and predictions.png: a few validation pictures, the truth, and what each stage makes of them.

        stages: the finished ones, whose weights are in files. current: the networks of others, by stage. Nothing is
        drawn of pictures that cannot be read.
        """
        visualize.curves(csv.DictReader(io.StringIO(self.metrics())), self.path / "curves.png")
        samples = []
        for number in range(min(SHOWN, len(dataset))):
            with suppress(DataError):  # who trains and evaluates has said so, or was told to skip it
                samples.append(dataset[number * len(dataset) // SHOWN])
        if size is not None:
            samples = [resize(sample, size) for sample in samples]
        predictions = {}
        for stage in (*stages, *current):
            network = current.get(stage) or models.from_weights(self.stage_weights(stage)).to(device)
            inputs = [preprocessing.apply(sample.image)[None] for sample in samples]
            predictions[stage] = [evaluation.predict_labels(network, one, device)[0] for one in inputs]
        if not samples or not predictions:
            return
        sheet = visualize.prediction_sheet(
            [sample.image for sample in samples],
            [sample.labels for sample in samples],
            predictions,
            dataset.classes,
            dataset.palette,
        )
        visualize.save_picture(sheet, self.path / "predictions.png")


def _fold(config: Config) -> dict[str, Any] | None:
    """What data.open_fold takes, for evaluation on the pictures that were left out."""
    if not config.folds:
        return None
    splits = [config.split, config.val_split]
    return {"splits": splits, "number": config.fold, "count": config.folds, "group": config.group}


def _csv_line(row: Mapping[str, Any]) -> str:
    """A row of metrics.csv; missing columns stay empty, and those of other versions are left out."""
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore").writerow(row)
    return text.getvalue()


def _number(text: str | None) -> float:
    """A step as a number; NaN, which is at most nothing, for a row that was cut off."""
    try:
        return float(text or "")
    except ValueError:
        return math.nan
