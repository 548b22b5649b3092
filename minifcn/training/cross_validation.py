"""Cross-validation: a run for each fold, and one figure from all pictures.

With thirty pictures, six for validation say little. Divided into five folds, all thirty are predicted, each by a
network that has not seen it (nor others of its group); their confusion matrices add up to one figure, and how the folds
differ shows how much it depends on which pictures were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from minifcn.data import Dataset
from minifcn.metrics import Evaluation, figures_report
from minifcn.training import evaluation
from minifcn.training.assembly import open_split, scaled_size
from minifcn.training.config import Config
from minifcn.training.folder import RunFolder
from minifcn.training.run import Run
from minifcn.weights import WeightFile


class CrossValidation(NamedTuple):
    """evaluation: of all pictures, each by the network of the fold that left it out. rows: a table's, one a fold.

    dataset: the last fold's pictures, for the names of the classes. report: all figures, as in report.json.
    """

    evaluation: Evaluation
    rows: list[dict[str, Any]]
    dataset: Dataset
    report: Mapping[str, Any]


def cross_validate(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
    pretrained: WeightFile | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    bar: bool = True,
) -> CrossValidation:
    """Train config.folds networks in out/fold-1, out/fold-2, …, and evaluate each on the pictures that it left out.

    Each fold's folder is that of an ordinary run, which its config.toml repeats. `out` itself gets config.toml,
    report.json (all figures, with intervals), confusion.csv and .png, and images.csv. Arguments and errors as for Run;
    with resume, finished folds are not trained again.
    """
    problems: list[str] | None = [] if skip_bad else None
    open_split(replace(config, fold=1), config.val_split, problems)  # bad data or groups, before there is a folder
    whole = RunFolder(out)
    whole.open(config, resume=resume, overwrite=overwrite)
    options: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "skip_bad": skip_bad, "device": device}
    rows, evaluations = [], []
    for number in range(1, config.folds + 1):
        say(f"\nfold {number} of {config.folds}")
        fold = replace(config, fold=number)
        folder = out / f"fold-{number}"
        run = Run(fold, folder, pretrained=pretrained, say=say, bar=bar, **options)
        result = run.run()[-1]
        model, file = evaluation.load_segmenter(folder / "model.safetensors", device)
        dataset = run.val_set
        found = evaluation.evaluate(model, dataset, file.preprocessing, size=scaled_size(fold), device=device)
        evaluations.append(found)
        rows.append({**result, "stage": f"fold {number}", **found.summary()})
    total = sum(evaluations[1:], start=evaluations[0])
    intervals, baselines = total.intervals(), total.baselines(dataset.classes, 0.95)
    report = {
        "folds": rows,
        "pictures": len(total.names),
        **figures_report(total, dataset.classes, intervals, baselines),
    }
    evaluation.write_evaluation(out, report, total, dataset, None)
    whole.release()
    return CrossValidation(total, rows, dataset, report)
