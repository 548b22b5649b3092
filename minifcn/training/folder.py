"""The folder that a run leaves behind: what is in it, and how it is written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minifcn import models, visualize
from minifcn.data import Dataset, resize
from minifcn.errors import UsageError
from minifcn.files import to_json, write_atomically
from minifcn.metrics import METRIC_HEADERS
from minifcn.training import evaluation
from minifcn.training.config import Config
from minifcn.weights import Preprocessing, save_weights

COLUMNS = ("stage", "step", "loss", "lr", "images_per_second", *METRIC_HEADERS)
SHOWN = 4  # pictures on the prediction sheet


class RunFolder:
    """A run's files:

    config.toml        every choice; the run can be repeated from it
    metrics.csv        a row for every few steps, and for every validation
    STAGE.safetensors  the weights at the end of each stage
    model.safetensors  those of the last one; all that evaluate and predict need
    checkpoint.safetensors  for --resume
    report.json, curves.png, predictions.png  at the end
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self.model = path / "model.safetensors"
        self.rows: list[dict[str, Any]] = []

    def open(self, config: Config, *, resume: bool) -> None:
        """Make the folder and write the configuration; UsageError if it holds files that are not this run's."""
        if not resume and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(
                f"--out {self.path}: is there and not empty. Continue its run with --resume, or name another folder."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "config.toml", config.to_toml().encode())
        except OSError as error:
            raise UsageError(f"--out {self.path}: cannot be written ({error.strerror}); name another folder.") from None

    def keep_rows(self, stages: Sequence[str], stage: int, step: int) -> None:
        """Read metrics.csv up to a checkpoint, and drop what came after it, which will be done again."""
        before = {name: float("inf") for name in stages[:stage]}
        limits = before | ({stages[stage]: step} if stage < len(stages) else {})
        try:
            with open(self.path / "metrics.csv", encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except FileNotFoundError:
            rows = []
        self.rows = [row for row in rows if _number(row.get("step")) <= limits.get(row["stage"], -1)]

    def start_rows(self) -> None:
        """Write metrics.csv anew, with the rows there are."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path / "metrics.csv", text.getvalue().encode())

    def add_row(self, **values: Any) -> None:
        """One more row of metrics.csv, on the disk at once. Missing columns stay empty."""
        row = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values.items()}
        self.rows.append(row)
        with open(self.path / "metrics.csv", "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)

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

    def write_report(
        self,
        results: Sequence[Mapping[str, Any]],
        baselines: Sequence[Mapping[str, Any]],
        machines: Sequence[Mapping[str, Any]],
    ) -> None:
        """report.json: the classifier apart, since it labels pictures, not pixels.

        machines: what the run was computed on, in order, as Backend.describe says it.
        """
        report = {
            "stages": [dict(result) for result in results if "mean_iu" in result],
            "classifier": next((dict(result) for result in results if "mean_iu" not in result), None),
            "all_background": dict(baselines[0]),
            "most_frequent": dict(baselines[1]) if len(baselines) > 1 else None,
            "machines": [dict(machine) for machine in machines],
        }
        write_atomically(self.path / "report.json", to_json(report).encode())

    def draw(
        self,
        stages: Sequence[str],
        dataset: Dataset,
        preprocessing: Preprocessing,
        size: tuple[int, int] | None,
        device: str,
    ) -> None:
        """curves.png, and predictions.png: a few validation pictures, the truth, and what each stage makes of them."""
        visualize.curves(self.rows, self.path / "curves.png")
        samples = [dataset[i * len(dataset) // SHOWN] for i in range(min(SHOWN, len(dataset)))]
        if size is not None:
            samples = [resize(sample, size) for sample in samples]
        predictions = {}
        for stage in stages:
            network = models.from_weights(self.stage_weights(stage)).to(device)
            inputs = [preprocessing.apply(sample.image)[None] for sample in samples]
            predictions[stage] = [evaluation.predict_labels(network, one, device)[0] for one in inputs]
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


def _number(text: str | None) -> float:
    """A step as a number; NaN, which is at most nothing, for a row that was cut off."""
    try:
        return float(text or "")
    except ValueError:
        return math.nan
