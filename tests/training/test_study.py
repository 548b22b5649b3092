"""The study: A and B differ in one thing, nothing is trained twice, and chance is not called a finding."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minifcn.data import shapes
from minifcn.errors import DataError, TrainingError, UsageError
from minifcn.metrics import METRIC_HEADERS
from minifcn.training import run as run_module
from minifcn.training import study
from minifcn.training.comparisons import (
    COMPARISONS,
    HIGHER,
    LOWER,
    SAME,
    Figure,
    compare,
    markdown_table,
    notes,
    read_report,
    rows_of,
    table,
    verdict,
)
from minifcn.training.config import CLASSIFIER, Config
from minifcn.training.folder import RunFolder

TINY = replace(study.base_config(), steps=(2, 2, 2, 2), width=2, fc_width=4, size=(32, 32), batch_size=2)
NUMBERED = replace(TINY, steps=(1, 20, 300, 4000), lr=(0.1, 0.2, 0.3, 0.4), size=(90, 121), batch_size=8)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Validation on 4 pictures, and none drawn at the end."""
    monkeypatch.setattr(shapes, "_LENGTHS", {"train": 10, "val": 4})
    monkeypatch.setattr(RunFolder, "draw", lambda *arguments: None)


def run_tiny(out, base=TINY, **options):
    said = []
    report = study.run_study(base, out, say=said.append, bar=False, **options)
    return report, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of the stages and of class weights, with two seeds."""
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_LENGTHS", {"train": 10, "val": 4})
        patch.setattr(RunFolder, "draw", lambda *arguments: None)
        report, said = run_tiny(out, seeds=2, only=("stages", "class-weights"))
    return out, report, said


# What is trained


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("staged", {}),
        ("scratch", {"stages": ("fcn32s", "fcn16s", "fcn8s"), "steps": (21, 300, 4000), "lr": (0.2, 0.3, 0.4)}),
        ("at-once", {"stages": ("fcn8s-at-once",), "steps": (4320,), "lr": (0.4,), "weights": CLASSIFIER}),
        ("no-skips", {"weights": "fcn32s", "skips": "none"}),
        ("fixed", {"weights": "fcn32s", "learned_upsampling": "none"}),
        ("weighted", {"weights": "fcn16s", "class_weights": "median-frequency"}),
        ("crops", {"weights": "fcn16s", "crop": (45, 61), "batch_size": 32}),
        ("sampled", {"weights": "fcn16s", "keep_pixels": 0.5, "batch_size": 16}),
    ],
)
def test_each_run_differs_from_its_base_in_what_its_name_says(tmp_path, name, changed):
    """A second difference, such as a stage more, another rate or another seed, would make the comparison worthless."""
    rest = {
        "fcn32s": {"stages": ("fcn16s", "fcn8s"), "steps": (300, 4000), "lr": (0.3, 0.4)},
        "fcn16s": {"stages": ("fcn8s",), "steps": (4000,), "lr": (0.4,)},
    }
    base = replace(NUMBERED, seed=7)
    expected = rest.get(changed.get("weights", ""), {}) | changed
    if "weights" in changed:
        expected["weights"] = str(tmp_path / "staged-seed7" / f"{changed['weights']}.safetensors")
    config = study.configurations(base, tmp_path)[name]
    assert {key: value for key, (_, value) in base.differences(config).items()} == expected


def test_every_run_is_known_and_compared(tmp_path):
    """A run that no row compares is trained for nothing; one that is missing fails after hours."""
    compared = {name for row in rows_of() for name, _ in (row.a, row.b)}
    assert compared == set(study.RUNS) == set(study.configurations(TINY, tmp_path))


def test_the_base_is_the_miniature_and_has_what_the_comparisons_take_away():
    """If the recipe learned no upsampling, or weighed classes, A and B would be the same network."""
    base = study.base_config("shapes")
    assert base.stages == (CLASSIFIER, "fcn32s", "fcn16s", "fcn8s")
    assert not base.epochs
    assert (base.skips, base.learned_upsampling, base.class_weights) == ("add", "intermediate", "none")
    assert (base.crop, base.keep_pixels, base.weights) == (None, 1.0, "")


def test_the_length_of_all_stages_is_scaled():
    whole, half, least = (study.base_config(steps_factor=factor) for factor in (1.0, 0.5, 1e-9))
    assert half.steps == tuple(round(steps / 2) for steps in whole.steps)
    assert least.steps == (1, 1, 1, 1)
    assert set(whole.differences(half)) == {"steps"}


def test_other_data_are_studied_with_the_same_recipe():
    """Without saying so, other data than shapes get the recipe from-scratch, which has one stage."""
    base = study.base_config("camvid:somewhere", (90, 120))
    assert set(study.base_config().differences(base)) == {"data", "size"}
    assert base.size == (90, 120)


def test_only_what_is_compared_is_trained(tmp_path):
    planned = study.plan(TINY, tmp_path, 2, ("upsampling", "at-once"))
    assert [run.folder.name for run in planned] == [
        f"{name}-seed{seed}" for seed in (0, 1) for name in ("staged", "at-once", "fixed")
    ]
    assert [run.config.seed for run in planned] == [0, 0, 0, 1, 1, 1]


def test_a_run_that_goes_on_from_a_stage_s_file_is_the_staged_run(finished, tmp_path):
    """Bit for bit, if nothing is changed: so whatever differs in a comparison comes from the one change."""
    weights = str(finished[0] / "staged-seed0" / "fcn16s.safetensors")
    last = replace(TINY, stages=("fcn8s",), steps=TINY.steps[3:], lr=TINY.lr[3:], weights=weights)
    run_module.Run(last, tmp_path / "again", say=lambda line: None, bar=False).run()
    staged, again = (
        load_file(path / "fcn8s.safetensors") for path in (finished[0] / "staged-seed0", tmp_path / "again")
    )
    assert staged.keys() == again.keys()
    for name in staged:
        np.testing.assert_array_equal(staged[name], again[name], err_msg=name)


# How it is trained


def test_a_study_leaves_runs_logs_and_figures(finished):
    out, report, said = finished
    runs = [f"{name}-seed{seed}" for name in ("staged", "weighted") for seed in (0, 1)]
    assert {path.name for path in out.iterdir()} == {*runs, *(f"{run}.log" for run in runs), "study.json", "study.md"}
    for run in runs:
        assert Config.from_toml(out / run / "config.toml").seed == int(run[-1])
    assert "class weights (median-frequency)" in (out / "weighted-seed0.log").read_text(encoding="utf-8")
    written = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert written["seeds"] == [0, 1]
    assert [row["found"] for row in written["rows"]] == [row["found"] for row in report["rows"]]
    assert markdown_table(report) in (out / "study.md").read_text(encoding="utf-8")
    assert [line for line in said if line.startswith("run")] == [
        f"run {number} of 4: {run}"
        for number, run in enumerate(("staged, seed 0", "weighted, seed 0", "staged, seed 1", "weighted, seed 1"), 1)
    ]


def test_the_figures_are_those_of_the_runs(finished):
    """Stages, seeds or A and B exchanged would show here."""
    out, report, _ = finished
    for row in report["rows"]:
        for side in (row["a"], row["b"]):
            for value, seed in zip(side["values"], (0, 1), strict=True):
                figures = json.loads((out / f"{side['run']}-seed{seed}" / "report.json").read_text())["stages"]
                [stage] = [figures for figures in figures if figures["stage"] == side["stage"]]
                assert value == stage[row["metric"]]


def test_what_is_finished_is_not_trained_again(finished, tmp_path, monkeypatch):
    """Nor are its files touched; another comparison of the same runs costs nothing."""
    out, report = shutil.copytree(finished[0], tmp_path / "out"), finished[1]
    before = {path: path.stat().st_mtime_ns for path in out.glob("*-seed*/*")}
    monkeypatch.setattr(study, "Run", None)  # to train would fail
    again, said = run_tiny(out, seeds=2, only=("class-weights",))
    assert said == []
    assert again["rows"] == [row for row in report["rows"] if row["change"] == "unweighted → weighted"]
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*-seed*/*")}


def test_a_study_that_was_stopped_goes_on_in_the_middle_of_a_run(finished, tmp_path, monkeypatch):
    """To start the run anew would be refused, or lose what was done."""
    train, taken = run_module.loop.train, []

    def stop_in_the_third_stage(*arguments, **options):
        for step in train(*arguments, **options):
            taken.append(step)
            if len(taken) == 5:
                raise KeyboardInterrupt
            yield step

    base = replace(TINY, checkpoint_every=1)
    monkeypatch.setattr(run_module.loop, "train", stop_in_the_third_stage)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "out", base, seeds=1, only=("stages",))
    monkeypatch.setattr(
        run_module.loop, "train", lambda *a, **k: (taken.append(step) or step for step in train(*a, **k))
    )
    report, _ = run_tiny(tmp_path / "out", base, seeds=1, only=("stages",))
    assert len(taken) == 5 + 4  # the interrupted step once more, the three after it
    for mine, theirs in zip(report["rows"], finished[1]["rows"], strict=False):
        assert mine["b"]["values"] == theirs["b"]["values"][:1]


def test_folders_of_another_study_are_refused_before_anything_is_trained(finished):
    """To go on with them would compare runs of different lengths."""
    before = sorted(finished[0].iterdir())
    longer = replace(TINY, steps=(2, 2, 2, 3))
    with pytest.raises(UsageError, match=r"staged-seed0 has another configuration \(steps .*\(2, 2, 2, 3\)"):
        run_tiny(finished[0], longer, seeds=2, only=("stages", "upsampling"))
    assert sorted(finished[0].iterdir()) == before


def test_a_study_may_be_moved(finished, tmp_path, monkeypatch):
    """The paths of the weights within it differ then, and nothing else."""
    monkeypatch.chdir(shutil.copytree(finished[0], tmp_path / "out").parent)
    monkeypatch.setattr(study, "Run", None)
    assert run_tiny(Path("out"), seeds=2, only=("class-weights",))[1] == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seeds": 0}, "--seeds 0"),
        ({"jobs": 0}, "--jobs 0"),
        ({"only": ("stages", "stagse")}, r"--only stagse.*stages, skips, upsampling"),
    ],
)
def test_what_cannot_be_asked_for_is_said_at_once(tmp_path, options, named):
    with pytest.raises(UsageError, match=named):
        run_tiny(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_length_that_is_none_is_refused(factor):
    with pytest.raises(UsageError, match="--steps-factor"):
        study.base_config(steps_factor=factor)


def test_data_of_one_class_have_nothing_to_compare(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes.Shapes, "classes", ("background",))
    with pytest.raises(DataError, match=r"shapes: the only class of train is background"):
        run_tiny(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_process_stops_the_study_and_is_quoted(tmp_path):
    """With --jobs, what went wrong is in a log: the message must say where, and what."""
    folder = tmp_path / "staged-seed0"
    RunFolder(folder).open(TINY, resume=False)
    (folder / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"staged, seed 0: ended with exit code 1.*seed0.log .*checkpoint"):
        run_tiny(tmp_path, seeds=1, only=("stages",), jobs=2)


def test_a_process_that_failed_after_its_report_has_failed(finished):
    """A disk that is full when the pictures are drawn, for example."""
    [run] = study.plan(TINY, finished[0], 1, ("stages",))
    study._check_ended(run, 0)
    with pytest.raises(TrainingError, match="exit code 1"):
        study._check_ended(run, 1)


def test_a_stage_s_file_that_was_removed_is_missed(tmp_path):
    """Otherwise runs that wait for it wait for ever."""
    planned = study.plan(TINY, tmp_path, 1, ("upsampling",))
    with pytest.raises(UsageError, match=r"fcn32s.safetensors: is not there any more"):
        study._train_in_processes([run for run in planned if run.name == "fixed"], 2, "cpu", print)


# What is compared


def report_of(background=0.1, **figures):
    """A run's report as read_report gives it: for each stage the same number for all metrics, or a dict of them."""
    everything = (*METRIC_HEADERS, "seconds")
    stages = {
        stage: {metric: value.get(metric, 0.0) if isinstance(value, dict) else value for metric in everything}
        for stage, value in figures.items()
    }
    return {"stages": stages, "all_background": dict.fromkeys(METRIC_HEADERS, background)}


def cells_of(text):
    """The lines of a table, each as its cells."""
    return [re.split(r"  +", line) for line in text.splitlines()]


def test_mean_and_spread_by_hand():
    """Dividing by n in place of n − 1 gives 0.0816."""
    figure = Figure.of([0.1, 0.2, 0.3])
    assert figure.mean == pytest.approx(0.2)
    assert figure.spread == pytest.approx(0.1)
    assert Figure.of([0.4]).spread is None


@pytest.mark.parametrize(
    ("differences", "published", "found"),
    [
        ([2, 3, 4], HIGHER, "reproduced"),
        ([2, 3, 4], LOWER, "opposite"),
        ([-2, -3, -4], LOWER, "reproduced"),
        ([-2, -3, -4], HIGHER, "opposite"),
        ([0, 1, 2], HIGHER, "not told apart"),  # the mean, 1, is the spread
        ([-5, 1, 6], HIGHER, "not told apart"),
        ([5, -1, -6], LOWER, "not told apart"),
        ([0, 0, 0], HIGHER, "not told apart"),
        ([0, 0, 0], SAME, "not told apart"),
        ([2, 3, 4], SAME, "higher"),
        ([-2, -3, -4], None, "lower"),
        ([math.nan, 1, 1], HIGHER, "not told apart"),
        ([9], HIGHER, "one seed"),
    ],
)
def test_a_difference_within_its_spread_is_never_called_reproduced(differences, published, found):
    assert verdict(Figure.of(differences), published) == found


def test_differences_are_taken_within_a_seed():
    """Seeds differ by 0.3 here, yet each gains 0.1: unpaired, that would be lost; paired wrongly, it would be −0.2."""
    reports = {
        ("staged", 2): report_of(fcn32s=0.5, fcn16s=0.6, fcn8s=0.6),
        ("staged", 0): report_of(fcn32s=0.2, fcn16s=0.3, fcn8s=0.3),
    }
    first, second = compare(reports, ("stages",))["rows"]
    assert first["difference"]["values"] == pytest.approx([0.1, 0.1])
    assert (first["a"]["values"], first["b"]["values"]) == ([0.2, 0.5], [0.3, 0.6])
    assert (first["found"], second["found"]) == ("reproduced", "not told apart")


def test_weights_for_classes_are_judged_in_both_directions():
    """Class accuracy up and global accuracy down is what is published: a direction for both, not one for all."""
    fair, plain = {"mean_accuracy": 0.5, "pixel_accuracy": 0.7, "mean_iu": 0.3}, {"mean_accuracy": 0.4}
    plain |= {"pixel_accuracy": 0.8, "mean_iu": 0.3}
    reports = {
        (name, seed): report_of(fcn8s=value)
        for name, value in (("staged", plain), ("weighted", fair))
        for seed in (0, 1)
    }
    found = {row["metric"]: row["found"] for row in compare(reports, ("class-weights",))["rows"]}
    assert found == {"mean_accuracy": "reproduced", "pixel_accuracy": "reproduced", "mean_iu": "not told apart"}


def test_no_accuracy_is_compared_without_mean_iu():
    """Where three quarters are background, an accuracy alone says nothing."""
    for rows in COMPARISONS.values():
        sides = {(row.a, row.b) for row in rows if row.metric == "mean_iu"}
        assert {(row.a, row.b) for row in rows} <= sides


def test_the_table_shows_both_sides_the_spread_and_the_baseline():
    reports = {
        ("staged", seed): report_of(0.07, fcn32s=0.2 + shift, fcn16s=0.3 + shift, fcn8s=0.3)
        for seed, shift in enumerate((-0.01, 0, 0.01))
    }
    header, _, first, second = cells_of(table(compare(reports, ("stages",))))
    assert header == ["A → B", "metric", "A", "B", "B − A", "all background", "published", "found"]
    assert first == ["32s → 16s", "mean IU %", "20.0 ± 1.0", "30.0 ± 1.0", "+10.0 ± 0.0", "7.0", "higher", "reproduced"]
    assert second[2:] == ["30.0 ± 1.0", "30.0 ± 0.0", "+0.0 ± 1.0", "7.0", "higher", "not told apart"]


def test_seconds_are_no_percentages_and_have_no_baseline():
    reports = {
        (name, seed): report_of(fcn8s={"seconds": seconds, "mean_iu": 0.5})
        for name, seconds in (("staged", 10.0), ("crops", 10.0), ("sampled", 19.5))
        for seed in (0, 1)
    }
    last = cells_of(table(compare(reports, ("patches",))))[-1]
    assert last[1:] == ["seconds", "10.0 ± 0.0", "19.5 ± 0.0", "+9.5 ± 0.0", "-", "higher", "reproduced"]


def test_one_seed_gets_no_verdict():
    report = {
        "data": "shapes",
        "size": (96, 96),
        "seeds": [0],
        "patch_classifier_work": 9216.0,
        **compare({("staged", 0): report_of(fcn32s=0.1, fcn16s=0.5, fcn8s=0.6)}, ("stages",)),
    }
    assert [row["found"] for row in report["rows"]] == ["one seed", "one seed"]
    assert "±" not in table(report) + markdown_table(report) + notes(report)
    assert "--seeds 3" in notes(report)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"stages": [], "all_background": {}}',
        '{"stages": [{"stage": "fcn8s"}], "all_background": {}}',
        "[" * 9,
    ],
)
def test_a_damaged_report_is_named(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DataError, match=r"report.json: does not hold the figures of fcn8s.*Remove its folder"):
        read_report(tmp_path / "report.json", ["fcn8s"])


def test_a_figure_that_could_not_be_computed_stays_unknown(tmp_path):
    """As 0 it would be a finding."""
    figures = dict.fromkeys((*METRIC_HEADERS, "seconds"), 0.5)
    report = {"stages": [{"stage": "fcn8s", **figures, "mean_iu": None}], "all_background": figures}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert math.isnan(read_report(tmp_path / "report.json", ["fcn8s"])["stages"]["fcn8s"]["mean_iu"])


def test_the_work_of_a_patch_for_each_pixel():
    """Patches as large as the picture cost the whole network for each of its pixels; smaller ones as much less."""
    assert study.patch_classifier_work(TINY, ("a", "b")) == 32 * 32
    photographs = replace(TINY, data="camvid:somewhere", size=(192, 192))
    smaller = study.patch_classifier_work(photographs, ("a", "b"))
    assert smaller == pytest.approx(192 * 192 / 4)
