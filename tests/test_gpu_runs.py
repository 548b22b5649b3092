"""Whole runs on a GPU beside the same runs on the CPU: under `-m gpu` on a real one, else on the fake one.

What passes on the fake was not computed on a GPU.
"""

import json

import devices
import numpy as np
import pytest
from devices import FAKE, GPU
from numpy.testing import assert_allclose
from safetensors.numpy import load_file
from tiny_runs import few_pictures, start, stop_after, tiny

from minifcn import models, train
from minifcn.backend import get_backend
from minifcn.commands import parse_memory, set_up_machine
from minifcn.data import Loader, Shapes, shapes
from minifcn.ops import geometry
from minifcn.training import SGD, loop, paper_groups, segmentation_loss
from minifcn.weights import Preprocessing


@pytest.fixture(params=[FAKE, pytest.param(GPU, marks=pytest.mark.gpu)])
def card(request):
    """ "gpu" is the fake device or a real one. Which."""
    if request.param == GPU:
        yield GPU
    else:
        with devices.fake_gpu():
            yield FAKE


@pytest.fixture
def unlimited():
    """No limit of memory is left behind, nor, from tests before, sparse matrices on the device."""
    geometry._cache.entries.clear()
    yield
    pool = get_backend("gpu").xp.get_default_memory_pool()
    pool.set_limit(size=0)
    pool.free_all_blocks()


@pytest.mark.parametrize(("first", "second"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_a_run_goes_on_on_another_device(card, tmp_path, monkeypatch, first, second):
    """A checkpoint that only one device reads; another order of the pictures, or another dropout, after the change."""
    few_pictures(monkeypatch)
    config = tiny(stages=("fcn32s", "fcn8s"), steps=(3, 3), optimizer="sgd", lr=(1e-2,), dropout=0.3, jitter=0.2)
    train, losses = loop.train, []

    def recorded(*arguments, **options):
        for step in train(*arguments, **options):
            losses.append(step.loss)
            yield step

    monkeypatch.setattr(loop, "train", recorded)
    start(config, tmp_path / "whole", device=first).run()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            start(config, tmp_path / "part", device=first).run()
    start(config, tmp_path / "part", device=second, resume=True).run()
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    for name in whole:
        assert_allclose(part[name], whole[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert len(losses) == 12
    assert losses[6:] == pytest.approx(losses[:6], rel=1e-3)  # step by step
    report = json.loads((tmp_path / "part" / "report.json").read_text())
    assert [machine["device"] for machine in report["machines"]] == [first, second]


def test_training_reaches_the_same_mean_iu(card, tmp_path, monkeypatch):
    """Steps that are near those of the CPU one by one, and lead elsewhere: a gradient that is wrong by a little. Or two
    runs that agree because neither learns.

    Whether they learn is seen on the pictures that they are trained on, which a few steps suffice for.
    """
    few_pictures(monkeypatch)
    length = {"steps": (200,), "width": 16, "batch_size": 4}
    if card == FAKE:
        monkeypatch.setitem(shapes._LENGTHS, "train", 2)
        length = {"steps": (20,), "width": 4, "batch_size": 2}
    found, background = {}, {}
    for device in ("cpu", "gpu"):
        (result,) = start(learning(**length), tmp_path / device, device=device).run()
        found[device] = result["mean_iu"]
        report = json.loads((tmp_path / device / "report.json").read_text())
        background[device] = report["all_background"]["mean_iu"]
    # The fake's sums are nearly NumPy's; a GPU's differ in the last digit from the first step on.
    assert found["gpu"] == pytest.approx(found["cpu"], abs=0.01 if card == FAKE else 0.05)
    assert background["gpu"] == background["cpu"] < 0.2
    assert found["gpu"] > (0.35 if card == FAKE else 0.7)  # seen on the CPU: 0.42, and 0.93


def learning(**changes):
    """The configuration of a run that soon knows its pictures by heart."""
    values = {
        "stages": ("fcn-basic",),
        "lr": (1e-2,),
        "optimizer": "adam",
        "flip": False,
        "class_weights": "median-frequency",
        "val_split": "train",
        "checkpoint_every": 1000,
    }
    return tiny(**values, **changes)


def test_a_step_of_the_large_network_fits_into_eight_gibibytes(card, unlimited, monkeypatch):
    """FCN-8s on VGG16, 500×500, batch 1: most people's cards are small.

    On the fake a narrow one, with as narrow a limit: it takes 19 MiB, if the operations' budget does not follow that.
    """
    backend = get_backend("gpu")
    backend.xp.get_default_memory_pool().free_all_blocks()
    limit, size, narrow = ("8G", 500, {}) if card == GPU else ("16M", 100, {"width": 2, "fc_width": 4})
    monkeypatch.setenv("CUPY_TF32", "0")  # set_up_machine sets it, and nobody sets it back
    options = ["--device", "gpu", "--gpu-memory-limit", limit]
    set_up_machine(train.make_parser().parse_args(options))
    assert backend.describe()["memory_limit"] == parse_memory(limit)
    model = models.FCN8s(21, **narrow).to("gpu")
    before = model.score_fr.bias.numpy().copy()
    optimizer = SGD(paper_groups(model, lr=1e-4, weight_decay=5e-4), lr=1e-4, momentum=0.9)
    loader = Loader(Shapes(size=size, length=2), 1, normalise=Preprocessing().apply)
    steps = list(loop.train(model, loader, optimizer, steps=2, loss=segmentation_loss(), device="gpu"))
    assert all(np.isfinite(step.loss) for step in steps)
    assert np.any(model.score_fr.bias.numpy() != before)
    assert backend.describe()["memory_limit"] == parse_memory(limit)  # nothing has set it anew
