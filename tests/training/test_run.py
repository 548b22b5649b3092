"""Whole runs: what they leave behind, and that a stopped one ends where an undisturbed one does."""

import csv
import functools
import json
import shutil
import signal
from dataclasses import replace

import devices
import numpy as np
import pytest
from safetensors.numpy import load_file

from minifcn import models
from minifcn.errors import DataError, TrainingError, UsageError
from minifcn.training import Config, Run, resolve
from minifcn.training import run as run_module
from minifcn.training.config import CLASSIFIER

on_every_device = pytest.mark.usefixtures("device")
TINY = Config(
    data="shapes",
    stages=(CLASSIFIER, "fcn32s", "fcn16s", "fcn8s"),
    steps=(3, 3, 3, 3),
    lr=(1e-3,) * 4,
    width=2,
    fc_width=4,
    size=(32, 32),
    batch_size=2,
    checkpoint_every=2,
    validate_every=2,
)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Validation on 4 pictures instead of 200."""
    from minifcn.data import shapes

    monkeypatch.setattr(shapes, "_LENGTHS", {"train": 10, "val": 4})


def start(config, out, **options):
    return Run(config, out, say=lambda line: None, bar=False, **options)


def read_rows(out):
    with open(out / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished_on(tmp_path_factory):
    """The folder of TINY's run on a device, and its results; made when they are first asked for."""

    @functools.cache
    def run(device):
        out = tmp_path_factory.mktemp(device) / "finished"
        return out, start(TINY, out).run()

    return run


@pytest.fixture
def finished(finished_on):
    """Those on the test's own device."""
    return finished_on(devices.device_in_use())


@on_every_device
def test_a_run_leaves_everything_behind(finished):
    out, results = finished
    assert [result["stage"] for result in results] == list(TINY.stages)
    assert {path.name for path in out.iterdir()} == {
        "config.toml",
        "metrics.csv",
        "curves.png",
        "predictions.png",
        "report.json",
        "model.safetensors",
        "best.safetensors",
        "checkpoint.safetensors",
        ".lock",
        *(f"{stage}.safetensors" for stage in TINY.stages),
    }
    report = json.loads((out / "report.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == ["fcn32s", "fcn16s", "fcn8s"]
    for stage in report["stages"]:
        assert set(stage) == {
            "stage",
            "pixel_accuracy",
            "mean_accuracy",
            "mean_iu",
            "fw_iu",
            "boundary_iu",
            "class_iu",
            "intervals",
            "confidence",
            "seconds",
        }
        known = [iu for iu in stage["class_iu"].values() if iu is not None]  # null: absent from truth and prediction
        assert len(stage["class_iu"]) == 9
        assert stage["mean_iu"] == pytest.approx(np.mean(known))
        low, high = stage["intervals"]["mean_iu"]
        assert low <= high
    assert 0 <= report["classifier"]["accuracy"] <= 1
    assert report["all_background"]["pixel_accuracy"] > 0.5


def test_the_configuration_in_the_folder_is_the_run_s(finished):
    """A key lost on the way, or a None turned into text, would make the run unrepeatable."""
    assert Config.from_toml(finished[0] / "config.toml") == TINY


def test_metrics_have_steps_of_all_stages_and_validations(finished):
    rows = read_rows(finished[0])
    assert [row["stage"] for row in rows if row["mean_iu"]] == [
        "fcn32s",
        "fcn32s",
        "fcn16s",
        "fcn16s",
        "fcn8s",
        "fcn8s",
    ]
    assert [row["step"] for row in rows if row["mean_iu"]] == ["2", "3"] * 3


@on_every_device
def test_the_model_file_alone_suffices(finished):
    out, _ = finished
    model = models.from_weights(out / "model.safetensors")
    assert isinstance(model, models.FCN8s)
    for name, value in load_file(out / "fcn8s.safetensors").items():
        np.testing.assert_array_equal(model.state_dict()[name], value)


def test_each_stage_starts_from_the_one_before(tmp_path):
    """With a learning rate of 0 the trunk of the last stage is the classifier's."""
    start(Config(**{**vars(TINY), "lr": (1e-3, 0, 0, 0)}), tmp_path / "run").run()
    first, last = (load_file(tmp_path / "run" / f"{stage}.safetensors") for stage in (CLASSIFIER, "fcn8s"))
    np.testing.assert_array_equal(first["conv3_2.weight"], last["conv3_2.weight"])
    np.testing.assert_array_equal(first["fc6.weight"].reshape(last["fc6.weight"].shape), last["fc6.weight"])


@pytest.mark.parametrize("stop_after", [2, 3, 5, 8, 11])
def test_a_stopped_run_ends_in_the_same_weights(finished, tmp_path, monkeypatch, stop_after):
    """Stopped in the classifier, at the end of a stage, in mid-stage, in the last: resumed, bit for bit the same.

    Forgetting the optimiser's buffers, dropout's generator, the data's order or the stage shows here.
    """
    original, seen = run_module.save_checkpoint, []
    out = tmp_path / "run"

    def count_and_stop(steps):
        for step in steps:
            seen.append(step)
            if len(seen) == stop_after:
                signal.raise_signal(signal.SIGINT)
            yield step

    train = run_module.loop.train
    monkeypatch.setattr(run_module.loop, "train", lambda *a, **k: count_and_stop(train(*a, **k)))
    with pytest.raises(KeyboardInterrupt):
        start(TINY, out).run()
    assert run_module.save_checkpoint is original
    monkeypatch.setattr(run_module.loop, "train", train)
    start(TINY, out, resume=True).run()
    for stage in TINY.stages:
        undisturbed, resumed = (load_file(folder / f"{stage}.safetensors") for folder in (finished[0], out))
        for name in undisturbed:
            np.testing.assert_array_equal(undisturbed[name], resumed[name], err_msg=f"{stage}: {name}")
    wanted, got = (read_rows(folder) for folder in (finished[0], out))
    assert [(row["stage"], row["step"], row["mean_iu"]) for row in wanted] == [
        (row["stage"], row["step"], row["mean_iu"]) for row in got
    ]


def test_a_killed_run_goes_on_from_its_last_checkpoint(finished, tmp_path, monkeypatch):
    """Killed without warning, the steps since the checkpoint are done again, and metrics.csv has none twice."""
    out = tmp_path / "run"
    train = run_module.loop.train

    def die(steps):
        for number, step in enumerate(steps, start=1):
            if number == 3:
                raise RuntimeError("killed")
            yield step

    config = Config(**{**vars(TINY), "stages": ("fcn8s",), "steps": (5,), "lr": (1e-3,)})
    start(config, tmp_path / "whole").run()
    monkeypatch.setattr(run_module.loop, "train", lambda *a, **k: die(train(*a, **k)))
    with pytest.raises(RuntimeError, match="killed"):
        start(config, out).run()
    monkeypatch.setattr(run_module.loop, "train", train)
    start(config, out, resume=True).run()
    undisturbed, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", out))
    for name in undisturbed:
        np.testing.assert_array_equal(undisturbed[name], resumed[name])


def test_a_row_of_metrics_that_was_cut_off_is_dropped(finished, tmp_path):
    """A full disk or a kill may leave half a line; resuming must not stumble over it."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    with open(out / "metrics.csv", "a") as file:
        file.write("fcn8s")
    start(TINY, out, resume=True).run()
    assert read_rows(out) == read_rows(finished[0])


def test_a_configuration_survives_any_path(tmp_path):
    """JSON's escapes for characters beyond the basic plane are no TOML."""
    config = Config(**{**vars(TINY), "data": 'bilder-😀 "ü"\\x'})
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    assert Config.from_toml(tmp_path / "config.toml") == config


def test_resuming_a_finished_run_changes_nothing(finished):
    out, _ = finished
    before = (out / "model.safetensors").read_bytes(), (out / "report.json").read_bytes()
    start(TINY, out, resume=True).run()
    assert before == ((out / "model.safetensors").read_bytes(), (out / "report.json").read_bytes())


def test_resuming_with_a_changed_config_is_not_silent(tmp_path, finished, capsys):
    """The checkpoint says what was trained; a config.toml that was edited would repeat another run."""
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    start(TINY, out, resume=True)
    assert capsys.readouterr().err == ""
    start(replace(TINY, width=3), out, resume=True)
    assert "changed since the checkpoint was saved (now width = 3): what is finished" in capsys.readouterr().err


def test_measuring_on_what_is_trained_on_is_not_silent(tmp_path, capsys):
    """A folder has no lists that could keep the two apart, and may be meant to be learnt by heart."""
    start(replace(TINY, val_split="train"), tmp_path / "out")
    assert "warning: --val-split train is what is trained on, too" in capsys.readouterr().err


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"not empty.*--resume"):
        start(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_folder_in_use_is_refused_before_labels_are_counted(tmp_path, monkeypatch):
    """Minutes over thousands of masks, and then a word about the folder's name."""
    (tmp_path / "precious.txt").write_text("mine")
    monkeypatch.setattr(Run, "_weigh_classes", lambda self: pytest.fail("labels are counted"))
    with pytest.raises(UsageError, match="not empty"):
        start(TINY, tmp_path)


def test_bad_data_leave_no_folder(tmp_path):
    """What can be known before training must be said before anything is written."""
    with pytest.raises((DataError, UsageError), match="nowhere"):
        start(Config(**{**vars(TINY), "data": str(tmp_path / "nowhere")}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@on_every_device
def test_a_loss_gone_wrong_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    """Weights that are not numbers must never reach a checkpoint."""
    out = tmp_path / "run"
    config = Config(**{**vars(TINY), "stages": ("fcn8s",), "steps": (9,), "lr": (1e-3,), "validate_every": 0})
    check = run_module.loop.check_weights

    def poison(model, optimizer, step):
        if step == 4:
            model.fc7.weight.data[0, 0] = np.inf
        check(model, optimizer, step)

    monkeypatch.setattr(run_module.loop, "check_weights", poison)
    with pytest.raises(TrainingError, match=r"step 4: fc7.weight .*Checkpoints saved before are kept"):
        start(config, out).run()
    saved = load_file(out / "checkpoint.safetensors")
    assert all(np.isfinite(array).all() for array in saved.values())
    assert not (out / "model.safetensors").exists()


def test_without_arguments_the_four_stages_of_the_paper():
    config = resolve({})
    assert config.stages == (CLASSIFIER, "fcn32s", "fcn16s", "fcn8s")
    assert config.data == "shapes"


def test_own_data_train_one_network_for_some_epochs():
    """Steps would be too many for ten pictures and too few for ten thousand; a size would distort them."""
    config = resolve({"data": "pictures", "lr": 0.5})
    assert (len(config.stages), len(config.epochs), config.lr, config.size) == (1, 1, (0.5,), None)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"batch_size": 0}, "--batch-size"),
        ({"steps": 0}, "--steps"),
        ({"lr": -1.0}, "--lr"),
        ({"width": 0}, "--width"),
        ({"dropout": 1.0}, "--dropout"),
        ({"geometry": "round"}, "--geometry"),
        ({"model": "vgg16"}, "--stages vgg16"),
        ({"seed": -1}, "--seed"),
        ({"lr": float("nan")}, "--lr"),
        ({"lr": float("inf")}, "--lr"),
        ({"epochs": 0}, "--epochs"),
        ({"momentum": 2.0}, "--momentum"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"scale": (2.0, 1.0)}, "--scale"),
        ({"learned_upsampling": "some"}, "--learned-upsampling"),
    ],
)
def test_impossible_choices_name_their_option(given, named):
    with pytest.raises(UsageError, match=named):
        resolve(given)


def test_a_configuration_with_unknown_keys_is_refused(tmp_path):
    """A misspelt key silently ignored would run another experiment than the one written down."""
    path = tmp_path / "config.toml"
    path.write_text(TINY.to_toml() + "learning_rte = 3\n")
    with pytest.raises(UsageError, match="learning_rte"):
        Config.from_toml(path)


def test_a_trained_network_is_not_written_over_because_its_checkpoint_is_gone(tmp_path, finished):
    """Who deletes the largest file of a finished run, and resumes by mistake, would lose the run."""
    out = shutil.copytree(finished[0], tmp_path / "run")
    (out / "checkpoint.safetensors").unlink()
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"no checkpoint.safetensors to go on from.*another --out"):
        start(TINY, out, resume=True)
    assert (out / "model.safetensors").read_bytes() == before
