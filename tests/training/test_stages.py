"""Stages and techniques as a run carries them out: what each starts from, what stays fixed, and that a stopped run
ends where an undisturbed one does, whatever was chosen."""

import functools
import json
from dataclasses import replace
from itertools import pairwise

import devices
import numpy as np
import pytest
from networks import fill
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file
from tiny_runs import STAGES, assert_same_weights, few_pictures, rows_of, start, stop_after, tiny, write_pictures

from minifcn import models, nn, weights
from minifcn.data import resize
from minifcn.errors import ShapeError, UsageError, WeightsError
from minifcn.training import run as run_module
from minifcn.training.checkpoint import read_progress
from minifcn.training.config import CLASSIFIER
from minifcn.weights import Preprocessing, save_weights

on_every_device = pytest.mark.usefixtures("device")
long = pytest.mark.cpu_only("long")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    few_pictures(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_pictures(tmp_path_factory.mktemp("data") / "pictures"))


def filled(model, path):
    """A weight file with random numbers in every layer, and variances above 0."""
    state = fill(model).astype(np.float32).state_dict()
    state |= {name: np.abs(array) + 0.5 for name, array in state.items() if name.endswith("running_var")}
    save_weights(path, state, architecture=model.architecture, preprocessing=Preprocessing(), record={})
    return path


# One stage after the other


@pytest.mark.parametrize("data", ["shapes", "folder"])
def test_each_stage_has_a_file_and_a_row(tmp_path, folder, data):
    """A stage that overwrites the one before, or is missing from the report."""
    config = tiny(data=folder if data == "folder" else data, stages=STAGES, validate_every=1)
    results = start(config, tmp_path / "run").run()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [result["stage"] for result in results] == list(STAGES)
    assert [stage["stage"] for stage in report["stages"]] == list(STAGES[1:])
    assert report["classifier"]["stage"] == CLASSIFIER
    assert 0 <= report["classifier"]["accuracy"] <= 1
    for stage in STAGES:
        name = "vgg16" if stage == CLASSIFIER else stage
        assert weights.load(tmp_path / "run" / f"{stage}.safetensors").architecture["name"] == name
    assert weights.load(tmp_path / "run" / "model.safetensors").architecture["name"] == "fcn8s"
    rows = [(row["stage"], row["step"]) for row in rows_of(tmp_path / "run") if row["mean_iu"]]
    assert rows == [(stage, step) for stage in STAGES[1:] for step in ("1", "2")]


def test_each_stage_is_trained_for_its_own_time_at_its_own_rate(tmp_path, monkeypatch):
    """The first stage's numbers for all of them, in what is done or in what is written; or chances of another seed."""
    train, used = run_module.loop.train, []

    def remember(model, loader, optimizer, **options):
        used.append((options["steps"], *(group["lr"] for group in optimizer.groups), loader.seed, options["seed"]))
        return train(model, loader, optimizer, **options)

    monkeypatch.setattr(run_module.loop, "train", remember)
    config = tiny(stages=STAGES, steps=(1, 2, 3, 4), lr=(4e-3, 3e-3, 2e-3, 1e-3), schedule="fixed", seed=7)
    start(config, tmp_path / "run").run()
    assert used == [(steps, lr, 2 * lr, 7, 7) for steps, lr in zip(config.steps, config.lr, strict=True)]
    rows = [(row["stage"], row["step"], float(row["lr"])) for row in rows_of(tmp_path / "run") if row["lr"]]
    assert rows == [(stage, str(n), lr) for stage, n, lr in zip(STAGES, config.steps, config.lr, strict=True)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_epoch_is_as_many_steps_as_there_are_pictures_for(tmp_path, accumulate):
    """Ten pictures in batches of two: five steps, or two and a half with two batches a step."""
    config = tiny(stages=("fcn32s", "fcn8s"), epochs=(1, 2), accumulate=accumulate)
    start(config, tmp_path / "run").run()
    rows = [(row["stage"], int(row["step"])) for row in rows_of(tmp_path / "run") if row["mean_iu"]]
    assert rows == [("fcn32s", 5 // accumulate), ("fcn8s", 10 // accumulate)]


@on_every_device
@pytest.mark.parametrize(("data", "batch_norm"), [pytest.param("shapes", "none", marks=long), ("folder", "train")])
def test_a_stage_begins_with_the_weights_of_the_one_before(tmp_path, folder, monkeypatch, data, batch_norm):
    """Before its first step: every layer that the two share, running means too; new skips zero, upsampling bilinear."""
    config = tiny(data=folder if data == "folder" else data, stages=STAGES, lr=(1e-2,), batch_norm=batch_norm)
    train, began_with = run_module.loop.train, []

    def remember(model, *arguments, **options):
        began_with.append({name: np.array(value) for name, value in model.state_dict().items()})
        return train(model, *arguments, **options)

    monkeypatch.setattr(run_module.loop, "train", remember)
    start(config, tmp_path / "run").run()
    for (before, after), start_state in zip(pairwise(STAGES), began_with[1:], strict=True):
        ended = load_file(tmp_path / "run" / f"{before}.safetensors")
        shared = ended.keys() & start_state.keys()
        assert {"conv1_1.weight", "conv5_3.weight", "fc6.weight", "fc7.weight"} <= shared
        assert len(shared) >= (13 + 2) * (5 if batch_norm == "train" else 2)
        for name in shared:
            if not name.startswith("upscore"):
                assert_array_equal(start_state[name], ended[name].reshape(start_state[name].shape), err_msg=name)
        for name in start_state.keys() - shared:
            expected = np.zeros_like(start_state[name])
            if name.startswith("upscore"):
                expected = nn.bilinear_weight(len(expected), expected.shape[2])
            assert_array_equal(start_state[name], expected, err_msg=f"{after}: {name}")


def test_a_stage_is_trained_on_from_there(tmp_path):
    """The test above must not pass because nothing is trained."""
    start(tiny(stages=STAGES, steps=(3,), lr=(1e-2,), dropout=0.0, fc_width=8), tmp_path / "run").run()
    for before, after in pairwise(STAGES):
        first, second = (load_file(tmp_path / "run" / f"{stage}.safetensors") for stage in (before, after))
        assert not np.array_equal(first["conv1_1.weight"], second["conv1_1.weight"])


def test_the_classifier_of_other_data_learns_their_classes(tmp_path, folder):
    """Eight drawn objects, for pictures of three classes; void that counts as a class."""
    start(tiny(data=folder, stages=(CLASSIFIER, "fcn32s")), tmp_path / "run").run()
    assert weights.load(tmp_path / "run" / "classifier.safetensors").architecture["num_classes"] == 3


@pytest.mark.parametrize("stages", [("fcn32s", "fcn-basic"), (CLASSIFIER, "fcn-basic"), ("fcn-basic", "fcn8s")])
def test_fcn_basic_starts_from_no_other_and_no_other_from_it(stages):
    """Found out only when the first stage has been trained, for days."""
    with pytest.raises(UsageError, match=r"--stages .*fcn-basic has no layers in common.*train it alone"):
        tiny(stages=stages)


# Stopped and resumed

EVERYTHING = {
    "class_weights": "median-frequency",
    "keep_pixels": 0.6,
    "accumulate": 2,
    "warm_up": 2,
    "schedule": "step",
    "step_every": 1,
    "jitter": 0.3,
    "scale": (0.8, 1.2),
    "crop": (24, 28),
    "dropout": 0.3,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-3,
}
CASES = {
    "folder": {**EVERYTHING, "size": None, "batch_norm": "train", "stages": (CLASSIFIER, "fcn32s", "fcn8s")},
    "dice": {**EVERYTHING, "loss": "cross-entropy+dice", "optimizer": "adam", "stages": ("fcn8s",)},
    "summed": {**EVERYTHING, "reduction": "sum", "lr": (1e-6,), "stages": ("fcn16s", "fcn8s")},
    "fcn-basic": {**EVERYTHING, "stages": ("fcn-basic",), "optimizer": "adam"},
}


def configuration(case, folder, **changes):
    values = {"steps": (2,), "lr": (1e-2,), "data": folder if case == "folder" else "shapes"}
    return tiny(**{**values, **CASES[case], **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, folder):
    """The configuration of each case and the folder of its run, made when it is first asked for."""
    return remembered(tmp_path_factory, lambda case: configuration(case, folder))


@pytest.fixture(scope="module")
def last_stages(tmp_path_factory, folder):
    """The same for the last stage alone."""
    return remembered(tmp_path_factory, lambda case: configuration(case, folder, stages=CASES[case]["stages"][-1:]))


def remembered(tmp_path_factory, configure):
    @functools.cache
    def run(case, device):
        config, out = configure(case), tmp_path_factory.mktemp(f"{case}-{device}") / "run"
        start(config, out).run()
        return config, out

    return lambda case: run(case, devices.device_in_use())


@on_every_device
@pytest.mark.parametrize(
    ("case", "after"),
    [
        *(pytest.param("folder", after, marks=long) for after in (1, 2, 5)),
        pytest.param("summed", 3, marks=long),
        *[("folder", 3), ("dice", 1), ("fcn-basic", 1)],
    ],
)
def test_a_stopped_run_ends_in_the_same_weights(undisturbed, tmp_path, monkeypatch, case, after):
    """In the first stage, at its end, in the next: the pixels that are kept, the order and colours of the pictures,
    the height of the learning rate, momentum, running means: each has to go on as if nothing had been.

    The classes' weights are in the checkpoint: counted anew, a data set that has grown would shift them.
    """
    config, whole = undisturbed(case)
    with monkeypatch.context() as patch:
        stop_after(patch, after)
        with pytest.raises(KeyboardInterrupt):
            start(config, tmp_path / "run").run()

    def counted_again(*arguments, **options):
        raise AssertionError("the classes were counted again")

    monkeypatch.setattr(run_module, "count_pixels", counted_again)
    start(config, tmp_path / "run", resume=True).run()
    assert_same_weights(whole, tmp_path / "run", *config.stages, "model")
    wanted, got = (
        [(row["stage"], row["step"], row["lr"]) for row in rows_of(out)] for out in (whole, tmp_path / "run")
    )
    assert wanted == got


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("folder", {"class_weights": "none"}),
        ("folder", {"class_weight_power": 0.5}),
        ("folder", {"keep_pixels": 1.0}),
        ("folder", {"accumulate": 1}),
        ("folder", {"warm_up": 0}),
        ("folder", {"step_every": 2}),
        ("folder", {"jitter": 0.0}),
        ("folder", {"scale": None}),
        ("folder", {"crop": None}),
        ("folder", {"flip": False}),
        ("folder", {"skips": "none"}),
        ("folder", {"momentum": 0.5}),
        ("folder", {"weight_decay": 0.1}),
        ("dice", {"loss": "cross-entropy"}),
        ("dice", {"loss": "dice", "keep_pixels": 1.0}),
        ("summed", {"reduction": "mean"}),
        ("fcn-basic", {"skips": "none"}),
    ],
)
def test_every_choice_reaches_the_run(last_stages, tmp_path, case, change):
    """An option that is read, written down, and never used; the test above would pass without it."""
    config, with_it = last_stages(case)
    start(replace(config, **change), tmp_path / "without").run()
    first, second = (load_file(out / "model.safetensors") for out in (with_it, tmp_path / "without"))
    common = first.keys() & second.keys()
    assert any(not np.array_equal(first[name], second[name]) for name in common)


@on_every_device
def test_the_weights_of_the_classes_are_those_of_the_data(tmp_path, folder):
    """Counted on val, at another size, or with void among the classes."""
    run = start(tiny(data=folder, class_weights="median-frequency", size=(16, 24)), tmp_path / "run")
    run.run()
    pixels, around = np.zeros(3), np.zeros(3)
    for index in range(len(run.train_set)):
        labels = resize(run.train_set[index], (16, 24)).labels
        here = np.bincount(labels[labels != 255], minlength=3)
        pixels, around = pixels + here, around + np.where(here > 0, here.sum(), 0)
    frequencies = pixels / around
    expected = np.sort(frequencies)[1] / frequencies
    np.testing.assert_allclose(read_progress(run.folder.checkpoint).class_weights, expected, rtol=1e-6)
    assert 1.0 in read_progress(run.folder.checkpoint).class_weights


# Batch normalisation


@on_every_device
def test_frozen_batch_normalisation_stays_as_it_was(tmp_path):
    """Running means that move with every batch, or scales that are learnt, in any stage; convolutions do learn."""
    file = filled(models.VGG16(5, 2, 4, batch_norm=True), tmp_path / "vgg.safetensors")
    config = tiny(stages=("fcn32s", "fcn8s"), weights=str(file), batch_norm="frozen", lr=(1e-2,), dropout=0.0)
    start(config, tmp_path / "run").run()
    theirs = load_file(file)
    for stage in config.stages:
        ours = load_file(tmp_path / "run" / f"{stage}.safetensors")
        normalisation = [name for name in ours if "_bn." in name]
        assert len(normalisation) == 4 * 15
        for name in normalisation:
            assert_array_equal(ours[name], theirs[name], err_msg=f"{stage}: {name}")
        assert not np.array_equal(ours["conv1_1.weight"], theirs["conv1_1.weight"])


@on_every_device
def test_trained_batch_normalisation_moves(tmp_path):
    file = filled(models.VGG16(5, 2, 4, batch_norm=True), tmp_path / "vgg.safetensors")
    start(tiny(weights=str(file), batch_norm="train", steps=(3,), lr=(1e-2,)), tmp_path / "run").run()
    theirs, ours = load_file(file), load_file(tmp_path / "run" / "model.safetensors")
    for kind in ("weight", "bias", "running_mean", "running_var"):
        assert not np.array_equal(ours[f"conv1_1_bn.{kind}"], theirs[f"conv1_1_bn.{kind}"])


def test_there_must_be_something_to_freeze(tmp_path):
    """Means of 0 and variances of 1 of a network that never saw a picture; said before anything is written."""
    with pytest.raises(UsageError, match="--batch-norm frozen: needs --weights"):
        tiny(batch_norm="frozen")
    file = filled(models.VGG16(5, 2, 4), tmp_path / "vgg.safetensors")
    with pytest.raises(WeightsError, match=r"vgg\.safetensors: has no batch normalisation.*leave out --batch-norm"):
        start(tiny(weights=str(file), batch_norm="frozen"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@on_every_device
def test_a_map_of_one_pixel_and_a_batch_of_one_have_no_variance(tmp_path):
    """A division by zero, and a network of NaN; frozen, or in batches of two, it works."""
    with pytest.raises(ShapeError, match=r"^batch_norm: .*larger batch or larger pictures, or freeze"):
        start(tiny(batch_norm="train", batch_size=1), tmp_path / "run").run()
    start(tiny(batch_norm="train", batch_size=2), tmp_path / "two").run()
    file = str(tmp_path / "two" / "model.safetensors")
    start(tiny(batch_norm="frozen", batch_size=1, weights=file), tmp_path / "frozen").run()


# The networks


@on_every_device
def test_fcn_basic_is_a_stage_like_others(tmp_path, folder):
    """Trained, reported, loaded, and trained on from its own file with all its numbers."""
    config = tiny(data=folder, stages=("fcn-basic",), class_weights="median-frequency")
    (result,) = start(config, tmp_path / "first").run()
    assert 0 <= result["mean_iu"] <= 1
    file = tmp_path / "first" / "model.safetensors"
    assert models.from_weights(file).architecture["name"] == "fcn-basic"
    again = tiny(data=folder, stages=("fcn-basic",), weights=str(file), batch_norm="frozen", lr=(0.0,))
    start(again, tmp_path / "second").run()
    first, second = load_file(file), load_file(tmp_path / "second" / "model.safetensors")
    for name in first:
        assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize(
    ("make", "stage"),
    [(lambda: models.VGG16(5, 2, 4), "fcn-basic"), (lambda: models.FCNBasic(9, 2), "fcn8s")],
)
def test_weights_of_another_family_are_refused(tmp_path, make, stage):
    """Not one layer in common: a network from scratch that is taken for a pretrained one."""
    file = filled(make(), tmp_path / "file.safetensors")
    with pytest.raises(WeightsError, match=rf"file\.safetensors: holds (vgg16|fcn-basic), .*{stage}"):
        start(tiny(stages=(stage,), weights=str(file)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "skips"), [("fcn8s", ("score_pool4", "score_pool3")), ("fcn-basic", ("score_pool1",))]
)
def test_without_skips_there_are_none(tmp_path, stage, skips):
    start(tiny(stages=(stage,), skips="none"), tmp_path / "none").run()
    start(tiny(stages=(stage,), skips="add"), tmp_path / "add").run()
    for name in skips:
        assert f"{name}.weight" in load_file(tmp_path / "add" / "model.safetensors")
        assert f"{name}.weight" not in load_file(tmp_path / "none" / "model.safetensors")
    assert models.from_weights(tmp_path / "none" / "model.safetensors").architecture["skips"] == "none"


@on_every_device
@pytest.mark.parametrize(
    ("stage", "learned_upsampling", "learned"),
    [
        pytest.param("fcn8s", "none", (), marks=long),
        ("fcn8s", "intermediate", ("upscore2", "upscore_pool4")),
        pytest.param("fcn8s", "all", ("upscore2", "upscore_pool4", "upscore8"), marks=long),
        pytest.param("fcn32s", "intermediate", (), marks=long),
        pytest.param("fcn-basic", "none", (), marks=long),
        ("fcn-basic", "intermediate", ("upscore_pool1", "upscore_pool2", "upscore_pool3", "upscore_pool4")),
    ],
)
def test_only_learned_upsampling_moves(tmp_path, stage, learned_upsampling, learned):
    """A fixed one that decays with the weights, or is learnt; a learned one that stays bilinear."""
    config = tiny(
        stages=(stage,),
        learned_upsampling=learned_upsampling,
        steps=(3,),
        lr=(1e-2,),
        optimizer="sgd",
        weight_decay=0.1,
    )
    classes = start(config, tmp_path / "run").train_set.classes
    start(config, tmp_path / "run", resume=True).run()
    begun = run_module.assembly.build_network(config, stage, classes).state_dict()
    ended = load_file(tmp_path / "run" / "model.safetensors")
    moved = {name.partition(".")[0] for name in begun if not np.array_equal(begun[name], ended[name])}
    assert {name for name in moved if name.startswith("upscore")} == set(learned)
    assert any(name.startswith("conv") for name in moved)


# The parts of a data set


def test_the_splits_that_are_named_are_used_and_remembered(tmp_path):
    """Trained on what was meant for validation, or evaluated later on what was trained on."""
    root = write_pictures(tmp_path / "pictures", ("train", "val", "spare"))
    config = tiny(data=str(root), split="spare", val_split="train")
    run = start(config, tmp_path / "run")
    assert {name[:5] for name in run.train_set.names} == {"spare"}
    assert {name[:5] for name in run.val_set.names} == {"train"}
    run.run()
    record = weights.load(tmp_path / "run" / "model.safetensors").record
    assert record["split"] == "train"
    assert 'split = "spare"\nval_split = "train"\n' in (tmp_path / "run" / "config.toml").read_text()


def test_a_split_that_is_missing_is_named_before_anything_is_written(tmp_path):
    root = write_pictures(tmp_path / "pictures")
    for splits in ({"split": "spare"}, {"val_split": "spare"}):
        with pytest.raises(ValueError, match="spare"):
            start(tiny(data=str(root), **splits), tmp_path / "run")
    assert not (tmp_path / "run").exists()
