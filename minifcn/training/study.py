"""The comparisons of the FCN paper in miniature: the same data, the same length, and one thing changed.

One run through all stages, STAGED, is the base of every seed. Where a comparison concerns only what comes after one of
its stages, the other side starts from that stage's weights, with the same pictures in the same order: so the two differ
in nothing else, and little is trained twice. docs/study.md says what each comparison asks, and how to read the table.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minifcn.backend import get_backend
from minifcn.errors import DataError, TrainingError, UsageError
from minifcn.files import to_json, write_atomically
from minifcn.metrics import format_table
from minifcn.models.dense_prediction import multiply_adds
from minifcn.threads import get_threads
from minifcn.training.assembly import PATCH_SIZE, build_network, open_split
from minifcn.training.comparisons import (
    COMPARISONS,
    STAGED,
    compare,
    markdown_table,
    notes,
    read_report,
    rows_of,
    runs_of,
)
from minifcn.training.config import CLASSIFIER, Config
from minifcn.training.folder import RunFolder
from minifcn.training.recipes import MINIATURE, resolve
from minifcn.training.run import Run

_KEPT = 0.5  # of the pixels, when they are sampled: the larger of the two shares in figure 5 of the paper

# What is trained for each seed, the longest first, so that with --jobs none is left alone at the end.
RUNS = {
    STAGED: "a classifier, FCN-32s, FCN-16s and FCN-8s, each from the one before",
    "scratch": "the same without a classifier to start from; FCN-32s gets its steps on top",
    "at-once": "FCN-8s at once, from the classifier, in as many steps as the three FCNs together",
    "sampled": "on from FCN-16s, on a random half of the pixels, twice as many pictures a batch",
    "no-skips": "on from FCN-32s, without skips",
    "fixed": "on from FCN-32s, with all upsampling bilinear",
    "weighted": "on from FCN-16s, classes weighted by median frequency",
    "crops": "on from FCN-16s, on random quarters of pictures, four times as many a batch",
}


# ------------------------------------------------------------------------------------------------ what is trained


@dataclass(frozen=True)
class Planned:
    """A run of the study, and its folder, OUT/NAME-seedN; OUT/NAME-seedN.log has what it said."""

    name: str
    config: Config
    folder: Path

    @property
    def report(self) -> Path:
        return self.folder / "report.json"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def figures(self) -> dict[str, Any]:
        return read_report(self.report, [stage for stage in self.config.stages if stage != CLASSIFIER])

    def __str__(self) -> str:
        return f"{self.name}, seed {self.config.seed}"


def base_config(data: str = "shapes", size: tuple[int, int] | None = None, steps_factor: float = 1.0) -> Config:
    """The run that all others are compared with: the recipe "miniature", on these data, at this (height, width).

    steps_factor: multiplies the length of every stage. Raises UsageError if it is not above 0.
    """
    if not (math.isfinite(steps_factor) and steps_factor > 0):
        raise UsageError(f"--steps-factor {steps_factor}: a number above 0 is needed.")
    given: dict[str, Any] = {"data": data} if size is None else {"data": data, "size": size}
    steps = resolve(given, recipe=MINIATURE).steps
    return resolve({**given, "steps": tuple(max(1, round(n * steps_factor)) for n in steps)}, recipe=MINIATURE)


def configurations(base: Config, out: Path) -> dict[str, Config]:
    """Each of RUNS for the base's seed. Those that go on from one of its stages take the weights from its folder."""
    if base.size is None:
        raise UsageError("the study: --size HEIGHTxWIDTH is needed, to know how large a part of a picture is.")
    height, width = base.size
    crop = ((height + 1) // 2, (width + 1) // 2)
    crops = round(height * width / (crop[0] * crop[1]))  # as many as make up the pixels of one picture

    def after(stage: str) -> Config:
        later = base.stages.index(stage) + 1
        weights = RunFolder(_folder(out, STAGED, base.seed)).stage_weights(stage)
        return replace(
            base,
            stages=base.stages[later:],
            steps=base.steps[later:],
            lr=base.lr[later:],
            weights=str(weights),
        )

    fcns = after(CLASSIFIER)
    return {
        STAGED: base,
        "scratch": replace(fcns, weights="", steps=(base.steps[0] + base.steps[1], *base.steps[2:])),
        "at-once": replace(fcns, stages=("fcn8s-at-once",), steps=(sum(fcns.steps),), lr=fcns.lr[-1:]),
        "sampled": replace(after("fcn16s"), keep_pixels=_KEPT, batch_size=round(base.batch_size / _KEPT)),
        "no-skips": replace(after("fcn32s"), skips="none"),
        "fixed": replace(after("fcn32s"), learned_upsampling="none"),
        "weighted": replace(after("fcn16s"), class_weights="median-frequency"),
        "crops": replace(after("fcn16s"), crop=crop, batch_size=crops * base.batch_size),
    }


def plan(base: Config, out: Path, seeds: int, only: Sequence[str] = ()) -> list[Planned]:
    """The runs that the comparisons `only` (by name; all if empty) need, seed by seed, none before what it starts from.

    Raises UsageError for a comparison that is not known, or for fewer seeds than one.
    """
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: at least 1 is needed, and 2 or more to see how far chance goes.")
    needed = {STAGED, *runs_of(rows_of(only))}
    return [
        Planned(name, config, _folder(out, name, seed))
        for seed in range(base.seed, base.seed + seeds)
        for name, config in configurations(replace(base, seed=seed), out).items()
        if name in needed
    ]


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-seed{seed}"


# ------------------------------------------------------------------------------------------------ how it is trained


def run_study(
    base: Config,
    out: Path,
    *,
    seeds: int = 3,
    only: Sequence[str] = (),
    jobs: int = 1,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    bar: bool = True,
) -> dict[str, Any]:
    """Train what is not trained yet, and compare: what study.json in `out` holds, with table and notes in study.md.

    A run that is finished is not repeated; one that was stopped goes on where it was.
    jobs: runs at a time. More than one are processes of their own, which share the threads out among themselves: on few
      cores that takes less time than one run with all threads.
    say, bar: as for Run, but only a line or two for each run; the rest goes to the run's log.
    Raises UsageError for what cannot be, or for a folder of another configuration, DataError for data with which
    nothing can be compared, before anything is trained; then what Run raises.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least 1 is needed.")
    planned = plan(base, out, seeds, only)
    classes = _check_data(base)
    waiting = [run for run in planned if not _finished(run)]
    out.mkdir(parents=True, exist_ok=True)
    if jobs == 1:
        for number, run in enumerate(waiting, start=1):
            say(f"run {number} of {len(waiting)}: {run}")
            _train_here(run, device, bar)
            say(f"  {_outcome(run)}")
    else:
        _train_in_processes(waiting, jobs, device, say)
    report = {
        "data": base.data,
        "size": base.size,
        "steps": dict(zip(base.stages, base.steps, strict=True)),
        "seeds": [base.seed + number for number in range(seeds)],
        "patch_classifier_work": patch_classifier_work(base, classes),
        **compare({(run.name, run.config.seed): run.figures() for run in planned}, only),
    }
    write_atomically(out / "study.json", to_json(report).encode())
    write_atomically(out / "study.md", f"{markdown_table(report)}\n\n{notes(report)}\n".encode())
    return report


def _check_data(base: Config) -> tuple[str, ...]:
    """The classes; DataError for data that cannot be read, or have no two classes to tell apart."""
    for split in (base.split, base.val_split):
        classes = open_split(base, split).classes
        if len(classes) < 2:
            raise DataError(
                f"{base.data}: the only class of {split} is {', '.join(classes)}; two or more are needed to tell apart."
            )
    return classes


def _finished(run: Planned) -> bool:
    """Whether a run is done; UsageError if its folder holds one of another configuration."""
    path = run.folder / "config.toml"
    if not path.exists():
        return False
    differing = Config.from_toml(path).differences(run.config)
    differing.pop("weights", None)  # always those of this study, which may be reached by another path
    if differing:
        changes = "; ".join(f"{key} is {there}, not {wanted}" for key, (there, wanted) in differing.items())
        raise UsageError(f"--out: {run.folder} has another configuration ({changes}). Name another --out.")
    if not run.report.exists():
        return False
    run.figures()  # if they cannot be read, that is said now, not at the end
    return True


def _train_here(run: Planned, device: str, bar: bool) -> None:
    resume = (run.folder / "config.toml").exists()
    with open(run.log, "a", encoding="utf-8") as log:
        Run(
            run.config,
            run.folder,
            resume=resume,
            device=device,
            say=lambda line: print(line, file=log, flush=True),
            bar=bar,
        ).run()


def _train_in_processes(waiting: list[Planned], jobs: int, device: str, say: Callable[[str], None]) -> None:
    """Each run as `python -m minifcn.train --resume`, as soon as there is room and the weights that it starts from."""
    threads, total = max(1, get_threads() // jobs), len(waiting)
    running: dict[Planned, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            ready = [run for run in waiting if not run.config.weights or Path(run.config.weights).exists()]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                running[run] = _start(run, device, threads)
                say(f"run {total - len(waiting)} of {total}: {run}")
            if not running:
                raise UsageError(
                    f"{waiting[0].config.weights}: is not there any more; remove its folder, and it is trained again."
                )
            time.sleep(0.1)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                _check_ended(run, running.pop(run).returncode)
                say(f"  {run}: {_outcome(run)}")
    finally:  # after an error or Ctrl-C: each saves a checkpoint and ends
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(run: Planned, device: str, threads: int) -> subprocess.Popen[bytes]:
    folder = RunFolder(run.folder)
    folder.open(run.config, resume=(run.folder / "config.toml").exists())
    folder.release()  # for the process to take
    options = ["--out", str(run.folder), *_machine_options(device, threads)]
    with open(run.log, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "minifcn.train", "--resume", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the study, which then ends each run once, and in order
        )


def _machine_options(device: str, threads: int) -> list[str]:
    """What a run in a process of its own has to be told to compute as this process would."""
    machine = get_backend(device).describe()
    options = ["--device", device, "--threads", str(threads), "--precision", machine["precision"]]
    options += ["--deterministic"] if machine.get("deterministic") else []
    return options + (["--gpu-memory-limit", str(machine["memory_limit"])] if machine.get("memory_limit") else [])


def _check_ended(run: Planned, code: int) -> None:
    if code != 0 or not run.report.exists():
        lines = run.log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        raise TrainingError(f"{run}: ended with exit code {code}; {run.log} ends with: {last}")


def _outcome(run: Planned) -> str:
    return f"mean IU {100 * run.figures()['stages'][run.config.stages[-1]]['mean_iu']:.1f} %"


def patch_classifier_work(config: Config, classes: tuple[str, ...]) -> float:
    """How many times the multiply-adds of one pass it takes to ask the network for the patch around every pixel.

    Counted, not run, up to the coarsest scores, for a picture of the configuration's size; the patches are those that
    the classifier is trained on.
    """
    network, size = build_network(config, config.stages[-1], classes), config.size or (PATCH_SIZE, PATCH_SIZE)
    patch = size if config.data == "shapes" else PATCH_SIZE
    return size[0] * size[1] * multiply_adds(network, patch) / multiply_adds(network, size)


def listing() -> str:
    """The comparisons by name, and the runs that each needs."""
    rows = [
        [name, "; ".join(dict.fromkeys(row.change for row in rows)), ", ".join(runs_of(rows))]
        for name, rows in COMPARISONS.items()
    ]
    runs = format_table(["run", "what is trained"], list(RUNS.items()), formats=["", ""])
    return format_table(["comparison", "A → B", "runs"], rows, formats=["", "", ""]) + "\n\n" + runs
