"""What a study compares, what it finds, and the table of it: A against B, with one thing changed.

What is published is from Long, Shelhamer and Darrell 2015, Shelhamer, Long and Darrell 2017 and the notes to their
released code; on class weights, and networks without skips, from Badrinarayanan, Kendall and Cipolla 2017 (SegNet).
docs/study.md has the figures and the sections.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minifcn.errors import DataError, UsageError
from minifcn.metrics import METRIC_HEADERS, format_table

HIGHER, LOWER, SAME = "higher", "lower", "the same"
NOT_TOLD_APART = "not told apart"
STAGED = "staged"  # the run that is one side of every comparison


class Row(NamedTuple):
    """One line of the table. a, b: (run, stage). published: B is HIGHER, LOWER or the SAME; None if nobody has said."""

    change: str
    a: tuple[str, str]
    b: tuple[str, str]
    metric: str
    published: str | None


_32S, _16S, _8S = (STAGED, "fcn32s"), (STAGED, "fcn16s"), (STAGED, "fcn8s")

COMPARISONS: dict[str, tuple[Row, ...]] = {
    "stages": (
        Row("32s → 16s", _32S, _16S, "mean_iu", HIGHER),
        Row("16s → 8s", _16S, _8S, "mean_iu", HIGHER),
    ),
    "skips": (
        Row("8s without → with skips", ("no-skips", "fcn8s"), _8S, "mean_iu", HIGHER),
        Row("32s → 8s without skips", _32S, ("no-skips", "fcn8s"), "mean_iu", SAME),
    ),
    "upsampling": (Row("fixed → learned upsampling", ("fixed", "fcn8s"), _8S, "mean_iu", None),),
    "at-once": (Row("in stages → at once", _8S, ("at-once", "fcn8s-at-once"), "mean_iu", SAME),),
    "class-weights": (
        Row("unweighted → weighted", _8S, ("weighted", "fcn8s"), "mean_accuracy", HIGHER),
        Row("unweighted → weighted", _8S, ("weighted", "fcn8s"), "pixel_accuracy", LOWER),
        Row("unweighted → weighted", _8S, ("weighted", "fcn8s"), "mean_iu", None),
    ),
    "patches": (
        Row("whole pictures → crops", _8S, ("crops", "fcn8s"), "mean_iu", SAME),
        Row("all pixels → a sample", _8S, ("sampled", "fcn8s"), "mean_iu", SAME),
        Row("all pixels → a sample", _8S, ("sampled", "fcn8s"), "seconds", HIGHER),
    ),
    "pretraining": (Row("from scratch → pretrained", ("scratch", "fcn8s"), _8S, "mean_iu", HIGHER),),
}


def rows_of(only: Sequence[str] = ()) -> list[Row]:
    """The rows of the comparisons of these names, all if there are none; UsageError for one that is not known."""
    if unknown := [name for name in only if name not in COMPARISONS]:
        raise UsageError(f"--only {unknown[0]}: there is {', '.join(COMPARISONS)}.")
    return [row for name, rows in COMPARISONS.items() if name in only or not only for row in rows]


def runs_of(rows: Sequence[Row]) -> list[str]:
    """The runs that rows compare, each once."""
    return list(dict.fromkeys(name for row in rows for name, _ in (row.a, row.b)))


def read_report(path: Path, stages: Sequence[str]) -> dict[str, Any]:
    """Figures from a run's report.json: "stages", by name, and "all_background"; what is null there is NaN.

    Raises DataError if the file does not hold them.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        found = {figures["stage"]: figures for figures in report["stages"]}
        return {
            "stages": {stage: _numbers(found[stage], (*METRIC_HEADERS, "seconds")) for stage in stages},
            "all_background": _numbers(report["all_background"], METRIC_HEADERS),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: does not hold the figures of {', '.join(stages)} ({error!r}). Remove its folder, and it is "
            "trained again."
        ) from None


def _numbers(figures: Mapping[str, Any], keys: Iterable[str]) -> dict[str, float]:
    return {key: math.nan if figures[key] is None else float(figures[key]) for key in keys}


class Figure(NamedTuple):
    """The mean over the seeds, the standard deviation from seed to seed (None for one), and each seed's value."""

    mean: float
    spread: float | None
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), spread, list(values))


def compare(reports: Mapping[tuple[str, int], Mapping[str, Any]], only: Sequence[str] = ()) -> dict[str, Any]:
    """Each row of the comparisons `only`, from the reports (`read_report`) by (run, seed): "rows", ready for to_json.

    "all_background" is what predicting class 0 everywhere scores, and "networks" has all figures of every stage.
    """
    seeds = sorted({seed for _, seed in reports})
    names = list(dict.fromkeys(name for name, _ in reports))

    def figure(name: str, stage: str, metric: str) -> Figure:
        return Figure.of([reports[name, seed]["stages"][stage][metric] for seed in seeds])

    baseline = {
        metric: Figure.of([reports[STAGED, seed]["all_background"][metric] for seed in seeds])
        for metric in METRIC_HEADERS
    }
    rows = []
    for row in rows_of(only):
        a, b = figure(*row.a, row.metric), figure(*row.b, row.metric)
        difference = Figure.of([after - before for before, after in zip(a.values, b.values, strict=True)])
        rows.append(
            {
                "change": row.change,
                "metric": row.metric,
                "a": {"run": row.a[0], "stage": row.a[1], **a._asdict()},
                "b": {"run": row.b[0], "stage": row.b[1], **b._asdict()},
                "difference": difference._asdict(),
                "all_background": baseline[row.metric]._asdict() if row.metric in baseline else None,
                "published": row.published,
                "found": verdict(difference, row.published),
            }
        )
    networks = {
        name: {
            stage: {metric: figure(name, stage, metric)._asdict() for metric in (*METRIC_HEADERS, "seconds")}
            for stage in reports[name, seeds[0]]["stages"]
        }
        for name in names
    }
    all_background = {metric: one._asdict() for metric, one in baseline.items()}
    return {"rows": rows, "all_background": all_background, "networks": networks}


def verdict(difference: Figure, published: str | None) -> str:
    """What the differences B − A, seed by seed, say about the published direction.

    The two sides share pictures, order and first weights of a seed, so that much of what differs between seeds cancels
    in the difference; what is left is its spread. A mean that is not larger could be chance. If the published direction
    is SAME, or None, what is found stands by itself: to be not told apart is no proof of being the same.
    """
    if difference.spread is None:
        return "one seed"
    if not abs(difference.mean) > difference.spread:  # so that NaN is not told apart either
        return NOT_TOLD_APART
    found = HIGHER if difference.mean > 0 else LOWER
    if published in (SAME, None):
        return found
    return "reproduced" if found == published else "opposite"


# ------------------------------------------------------------------------------------------------ how it is shown

HEADERS = ("A → B", "metric", "A", "B", "B − A", "all background", "published", "found")


def table(report: Mapping[str, Any]) -> str:
    """The rows of what `run_study` returns, as lines of text."""
    return format_table(HEADERS, [_cells(row) for row in report["rows"]], formats=["", "", *[">"] * 4, "", ""])


def markdown_table(report: Mapping[str, Any]) -> str:
    """The same in Markdown."""
    lines = [HEADERS, ["---"] * len(HEADERS), *(_cells(row) for row in report["rows"])]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    metric, background = row["metric"], row["all_background"]
    return [
        row["change"],
        METRIC_HEADERS.get(metric, metric),
        _in_words(row["a"], metric),
        _in_words(row["b"], metric),
        _in_words(row["difference"], metric, sign="+"),
        "-" if background is None else f"{100 * background['mean']:.1f}",
        row["published"] or "-",
        row["found"],
    ]


def _in_words(figure: Mapping[str, Any], metric: str, sign: str = "") -> str:
    """ "45.4 ± 1.2", in percent but for seconds; "45.4" for one seed."""
    scale = 100 if metric in METRIC_HEADERS else 1
    spread = "" if figure["spread"] is None else f" ± {scale * figure['spread']:.1f}"
    return f"{scale * figure['mean']:{sign}.1f}{spread}"


def notes(report: Mapping[str, Any]) -> str:
    """What the figures of the table are, and how to read them."""
    seeds, (height, width) = len(report["seeds"]), report["size"]
    spread = (
        f"Means of {seeds} seeds ± standard deviation from seed to seed. B − A is taken within each seed; unless it\n"
        "is larger than its own spread, A and B are not told apart, which does not mean that they are the same."
        if seeds > 1
        else "One seed has no spread: whether a difference is more than chance cannot be told. Use --seeds 3 or more."
    )
    return (
        f"{report['data']} at {height}×{width}, measured on val.\n{spread}\n"
        "all background: what predicting class 0 everywhere scores. published: what B is known to be, beside A.\n"
        "Not trained: a network that is asked for the patch around each pixel, as before FCN; that is "
        f"{report['patch_classifier_work']:,.0f} times the multiply-adds of one pass over the picture."
    )
