"""What is measured of a step, what is said of it, and that neither changes the run."""

import math
import re

import numpy as np
import pytest
from devices import on_device
from numpy.testing import assert_allclose, assert_array_equal
from tiny_runs import few_pictures, rows_of, start, tiny

from minifcn import models
from minifcn.data import Loader, Shapes
from minifcn.training import SGD, segmentation_loss, train
from minifcn.training import run as run_module
from minifcn.training.watch import PATIENCE, Signs, Symptoms
from minifcn.weights import Preprocessing

on_every_device = pytest.mark.usefixtures("device")


def small_model(**options):
    model = models.FCN8s(9, width=2, fc_width=4, geometry="same", dropout=0.2, **options)
    rng = np.random.default_rng(5)
    for name, parameter in model.named_parameters():
        if name.startswith("score"):
            parameter.data = on_device(rng.standard_normal(parameter.shape).astype(np.float32))
    return model


def shapes_loader():
    return Loader(Shapes(size=32, length=10), 2, normalise=Preprocessing().apply, prefetch=0)


CLASSES = ("background", "cat", "dog")


def signs(**changes):
    """Of a healthy step."""
    values = {
        "gradients": {"conv1_1.weight": 0.5, "score_fr.weight": 1.0},
        "gradient_norm": 1.2,
        "update_ratio": 1e-3,
        "dead": {"conv1_1": 0.1, "fc6": 0.2},
        "dead_share": 0.15,
        "predicted": np.array([0.8, 0.1, 0.1]),
        "labelled": np.array([0.7, 0.2, 0.1]),
        "relative_loss": 0.6,
    }
    return Signs(**{**values, **changes})


def said_of(*seen):
    said = []
    symptoms = Symptoms("fcn8s", CLASSES, said.append)
    for number, one in enumerate(seen, start=1):
        symptoms.see(10 * number, one)
    return said


ILL = {
    "single": ({"predicted": np.array([1.0, 0, 0])}, "everything is predicted as background"),
    "stuck": ({"relative_loss": 0.999}, r"the loss stays at that of equal scores for all classes \(ln 3"),
    "vanished": (
        {"gradients": {"conv1_1.weight": 1e-12, "score_fr.weight": 1.0}},
        r"the gradients vanish: that of conv1_1\.weight has the norm 1e-12, the largest 1",
    ),
    "still": ({"update_ratio": 1e-9}, "the weights hardly move: a step changes them by 1e-09"),
    "blocked": ({"dead": {"conv1_1": 0.1, "fc6": 1.0}}, "no ReLU of fc6 passes anything on"),
    "dead": ({"dead_share": 0.8}, "80 % of all channels are dead"),
}


@pytest.mark.parametrize("symptom", ILL)
def test_a_symptom_that_stays_is_said_once_with_causes_and_remedies(symptom):
    """At its first step, when it may pass; at every step after that; or as a number without a word of what to do."""
    changes, words = ILL[symptom]
    ill = signs(**changes)
    assert said_of(*[ill] * (PATIENCE - 1)) == []
    assert said_of(*[ill] * (PATIENCE - 1), signs(), *[ill] * (PATIENCE - 1)) == []
    (said,) = said_of(*[ill] * (3 * PATIENCE))
    assert re.search(f"^warning: fcn8s: step {10 * PATIENCE}: {words}", said), said
    assert "\n  Likely causes: " in said
    assert "\n  Try: " in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gradient_norm": 1e3}, "the gradients explode: their norm is 1e+03, 1.2 until now"),
        ({"relative_loss": 12}, "12 "),
    ],
)
def test_what_explodes_is_said_at_once(changes, words):
    """Ten steps later the loss is NaN."""
    (said,) = said_of(*[signs()] * PATIENCE, signs(**changes))
    assert words in said
    assert "--lr ten times smaller" in said


def test_a_healthy_run_is_left_in_peace():
    """Warnings that come in every run are read in none."""
    rng = np.random.default_rng(0)
    assert (
        said_of(*(signs(gradient_norm=rng.uniform(0.2, 5), relative_loss=rng.uniform(0.1, 0.9)) for _ in range(50)))
        == []
    )
    only = {"predicted": np.array([1.0, 0, 0]), "labelled": np.array([1.0, 0, 0])}
    assert said_of(*[signs(**only)] * 50) == []  # pictures of nothing but background are predicted well


def test_a_val_split_of_one_class_is_said_after_the_first_steps():
    counts = np.array([90, 0, 0]), np.array([60, 20, 10])
    said = []
    symptoms = Symptoms("fcn8s", CLASSES, said.append)
    symptoms.measured(2, *counts)
    assert said == []
    for step in range(PATIENCE):
        symptoms.see(step, signs())
    symptoms.measured(50, np.array([89, 1, 0]), counts[1])
    assert said == []
    symptoms.measured(60, *counts)
    assert "step 60: every pixel of the val split is predicted as background" in said[0]


# What is measured


def steps(model, optimizer, count=1, observed=lambda number: True):
    return list(train(model, shapes_loader(), optimizer, steps=count, loss=segmentation_loss(), observed=observed))


@on_every_device
def test_the_figures_are_those_of_the_step():
    """A norm of the gradients after they were cleared, or a ratio to the weights after the step."""
    model = small_model()
    before = {name: parameter.data.copy() for name, parameter in model.named_parameters()}
    (step,) = steps(model, SGD(model.parameters(), lr=1e-2))
    learned = {name: one for name, one in model.named_parameters() if one.requires_grad}
    whole = math.sqrt(sum(float((one.grad.astype(float) ** 2).sum()) for one in learned.values()))
    weight = math.sqrt(sum(float((before[name].astype(float) ** 2).sum()) for name in learned))
    assert step.signs.gradient_norm == pytest.approx(whole)
    assert step.signs.update_ratio == pytest.approx(1e-2 * whole / weight)
    assert step.signs.predicted.sum() == pytest.approx(1)
    assert step.signs.row()["predicted"].count(" ") == 8


@on_every_device
def test_equal_scores_have_a_relative_loss_of_one():
    """Whatever the reduction: a loss that is a sum is ln C as often as there are pixels."""
    for reduction in ("mean", "sum"):
        model = small_model()
        for name, parameter in model.named_parameters():
            if name.startswith("score"):
                parameter.data[:] = 0
        loss = segmentation_loss(reduction=reduction, keep_pixels=0.5)
        (step,) = train(
            model, shapes_loader(), SGD(model.parameters(), lr=0), steps=1, loss=loss, observed=lambda number: True
        )
        assert step.signs.relative_loss == pytest.approx(1, abs=1e-6)


@on_every_device
def test_a_layer_that_is_dead_is_found():
    model = small_model()
    model.conv3_1.bias.data[:] = -1e6
    (step,) = steps(model, SGD(model.parameters(), lr=0))
    assert step.signs.dead["conv3_1"] == 1
    assert step.signs.dead["conv1_1"] < 1
    assert 0 < step.signs.dead_share < 1
    assert step.signs.gradients["conv1_1.weight"] == 0
    assert model.observe is None


@on_every_device
def test_watching_changes_nothing():
    """A number drawn for the watch, or a second forward that moves a running mean, would be another run."""
    states = []
    for observed in (lambda number: True, lambda number: False):
        model = small_model(batch_norm=True)
        steps(model, SGD(model.parameters(), lr=1e-2, momentum=0.9), count=4, observed=observed)
        states.append((model.state_dict(), model.dropout.generator.random()))
    assert states[0][1] == states[1][1]
    for name, value in states[0][0].items():
        assert_array_equal(states[1][0][name], value, err_msg=name)


# In a run


@pytest.fixture
def quick(monkeypatch):
    few_pictures(monkeypatch)


def test_a_run_that_learns_nothing_says_so(tmp_path, quick, capsys):
    """The commonest question of users: why is everything background?"""
    config = tiny(steps=(60,), lr=(1e-9,), schedule="fixed", checkpoint_every=100)
    start(config, tmp_path / "run").run()
    errors = capsys.readouterr().err
    assert "warning: fcn8s: step 50: everything is predicted as background.\n  Likely causes: " in errors
    assert "warning: fcn8s: step 50: the loss stays at that of equal scores" in errors
    assert errors.count("everything is predicted") == 1
    rows = [row for row in rows_of(tmp_path / "run") if row["loss"]]
    assert len(rows) == 6
    for row in rows:
        assert float(row["gradient_norm"]) > 0
        assert float(row["update_ratio"]) < 1e-6
        assert 0 <= float(row["dead_relus"]) <= 1
        assert_allclose(sum(map(float, row["predicted"].split())), 1, atol=5e-3)  # nine shares of three digits


def test_pictures_are_refreshed_as_the_run_goes(tmp_path, monkeypatch):
    """Only at the end, a run of days is blind; and drawn as seldom as they are slow, they cost little."""
    few_pictures(monkeypatch)
    drawn = []
    monkeypatch.setattr(
        run_module.RunFolder, "draw", lambda self, stages, *rest: drawn.append((stages, list(rest[-1])))
    )
    start(tiny(stages=("fcn32s", "fcn8s"), steps=(3,)), tmp_path / "seldom").run()
    assert drawn == [(["fcn32s", "fcn8s"], [])]
    drawn.clear()
    monkeypatch.setattr(run_module, "REFRESH", -1.0)
    run = start(tiny(stages=("fcn32s", "fcn8s"), steps=(3,)), tmp_path / "often")
    monkeypatch.setattr(type(run), "_drawing", property(lambda self: 0.0, lambda self, value: None), raising=False)
    run.run()
    assert drawn == [*[([], ["fcn32s"])] * 3, *[(["fcn32s"], ["fcn8s"])] * 3, (["fcn32s", "fcn8s"], [])]


def test_the_best_network_is_kept(tmp_path, quick, monkeypatch):
    """The last one, if training has spoilt it since."""
    config = tiny(steps=(4,), lr=(1e-2,), validate_every=1)
    run = start(config, tmp_path / "run")
    kept, train_step = [], run._validate

    def validate(stage, model):
        found = train_step(stage, model)
        kept.append((found.summary()["mean_iu"], model.state_dict()))
        return found

    monkeypatch.setattr(run, "_validate", validate)
    monkeypatch.setattr(run.folder, "draw", lambda *arguments: None)
    run.run()
    best, state = max(kept, key=lambda one: one[0])
    file = run_module.weights.load(tmp_path / "run" / "best.safetensors")
    assert file.record["mean_iu"] == best
    for name, value in state.items():
        assert_array_equal(file.tensors[name], value, err_msg=name)
