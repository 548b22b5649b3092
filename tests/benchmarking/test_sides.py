"""Every library that is installed gives the same results as minifcn, in small cases of each kind."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

from minifcn import ops
from minifcn.benchmarking import measuring, minifcn_side
from minifcn.benchmarking.cases import BACKWARD, FORWARD, TRAINING, all_cases, make_arrays, network_case
from minifcn.benchmarking.measuring import check_agreement
from minifcn.benchmarking.side import find_sides, open_side
from minifcn.errors import BenchmarkError
from minifcn.threads import get_threads, set_threads

SIDES, _ = find_sides()
OTHERS = SIDES[1:]
OURS = SIDES[0]

SMALL = {
    "conv1_1": ((2, 3, 9, 8), (4, 3, 3, 3)),  # of the image, which needs no gradient
    "conv3_2": ((1, 5, 7, 10), (5, 5, 3, 3)),
    "fc6": ((1, 3, 5, 4), (6, 3, 7, 7)),
    "fc7": ((1, 6, 3, 4), (6, 6, 1, 1)),
    "upsample-x2": ((1, 3, 5, 4), (3, 3, 4, 4)),
    "upsample-x8": ((2, 3, 2, 3), (3, 3, 16, 16)),
    "max-pool2d": ((2, 3, 8, 6), ()),
    "relu": ((2, 3, 8, 6), ()),
    "loss": ((2, 4, 8, 6), ()),
}
LAYERS = [
    replace(case, input_shape=SMALL[name][0], weight_shape=SMALL[name][1])
    for case in all_cases()
    if (name := case.name.partition("/")[0]) in SMALL
]
NARROW = {"num_classes": 4, "width": 4, "fc_width": 6, "dropout": 0.0}
NETWORKS = [
    network_case("fcn8s", {**NARROW, "name": "fcn8s", "geometry": "paper"}, (1, 3, 11, 30), FORWARD, "sgd"),
    network_case("fcn8s", {**NARROW, "name": "fcn8s", "geometry": "paper"}, (1, 3, 11, 30), TRAINING, "sgd"),
    network_case(
        "fcn4s", {**NARROW, "name": "fcn4s", "geometry": "same", "batch_norm": True}, (2, 3, 70, 45), TRAINING, "adam"
    ),
    network_case("fcn32s", {**NARROW, "name": "fcn32s", "geometry": "same"}, (2, 3, 33, 65), TRAINING, "adam"),
]


@pytest.fixture(autouse=True)
def _as_close_as_layers(monkeypatch):
    """These networks are too small for float32 to make other winners: their gradients are held to what layers are."""
    monkeypatch.setattr(measuring, "TOLERANCE_THROUGH_NETWORK", measuring.TOLERANCE)


def results(side, case, calls=1):
    workload = side.workload(case, make_arrays(case), "cpu")
    for _ in range(calls):
        outputs = workload()
    return {name: np.array(side.to_numpy(array)) for name, array in outputs.items()}


@pytest.mark.parametrize("side", OTHERS, ids=lambda side: side.name)
@pytest.mark.parametrize("case", [*LAYERS, *NETWORKS], ids=lambda case: case.name)
def test_the_others_compute_the_same(side, case):
    """A stride, a padding, a bias or a void label that one library sees and the other does not."""
    try:
        theirs = results(side, case)
    except BenchmarkError as error:
        pytest.skip(str(error))
    ours = results(OURS, case)
    assert set(theirs) == set(ours)
    check_agreement(side.name, theirs, ours)


@pytest.mark.parametrize("side", OTHERS, ids=lambda side: side.name)
@pytest.mark.parametrize("case", [case for case in NETWORKS if case.pass_ == TRAINING], ids=lambda case: case.name)
def test_the_others_still_agree_after_some_steps(monkeypatch, side, case):
    """An optimiser that does less than the other: no decay, one learning rate for all, no momentum.

    Such a step takes less time. With rates so large that it shows in the loss. On the exact route: in the frame of a
    padded picture all numbers are alike, and Winograd's rounding decides which of them a pooling takes for the largest.
    """
    monkeypatch.setattr(minifcn_side, "SGD_LR", 0.02)
    monkeypatch.setattr(minifcn_side, "SGD_DECAY", 0.5)
    try:
        theirs = results(side, case, calls=4)
    except BenchmarkError as error:
        pytest.skip(str(error))
    with ops.conv_route("im2col"):
        ours = results(OURS, case, calls=4)
    check_agreement(side.name, theirs, ours)


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_gradients_are_those_that_the_case_asks_for(case):
    """What is not asked for is not counted, so it must not be computed."""
    wanted = {"output"}
    if case.pass_ == BACKWARD:
        wanted |= {"input"} if case.input_gradient else set()
        wanted |= {"weight"} if case.weight_gradient and case.weight_shape else set()
        wanted |= {"bias"} if case.weight_gradient and case.operation == "conv2d" else set()
    assert set(results(OURS, case)) == wanted


def test_a_comparison_without_scores_would_compare_nothing():
    """Score layers start at zero: whatever the trunk computes, the output would be zero."""
    assert all(np.abs(output).max() > 0 for case in NETWORKS for output in results(OURS, case).values())


def test_training_goes_on_from_step_to_step():
    """A step that leaves the weights alone would be timed all the same."""
    for case in NETWORKS:
        if case.pass_ == TRAINING:
            assert results(OURS, case)["loss"] != results(OURS, case, calls=2)["loss"]


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_threads_are_set(side):
    before = get_threads()
    try:
        for threads in (2, 1):
            side.set_threads(threads)
            assert side.get_threads() == threads
    finally:
        side.set_threads(before)
        set_threads(before)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_the_matrix_product_is_one(side):
    """Of matrices full of ½: each entry is size/4."""
    try:
        product = side.matrix_product(12, "cpu")()
    except BenchmarkError:
        assert side.name in ("Chainer", "DeZero")  # NumPy's, which is measured already
        return
    np.testing.assert_array_equal(side.to_numpy(product["product"]), np.full((12, 12), 3, np.float32))


def test_libraries_that_cannot_be_used_are_named(monkeypatch, tmp_path):
    """A library that breaks on a new NumPy must not stop the others, nor vanish without a word."""
    (tmp_path / "dezero.py").write_text("import numpy\nnumpy.nothing_of_this_name", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "dezero", raising=False)
    sides, absent = find_sides(without=["torch", "chainer"])
    assert [side.name for side in sides] == ["minifcn"]
    assert absent["torch"] == absent["chainer"] == "not asked for"
    assert absent["dezero"].startswith("installed, but cannot be imported: AttributeError: module 'numpy' has no")


def test_libraries_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sides, absent = find_sides()
    assert [side.name for side in sides] == ["minifcn"]
    assert absent == dict.fromkeys(["torch", "dezero", "chainer"], "not installed")


def test_a_side_says_its_name_and_version():
    side = open_side("minifcn")
    assert (side.name, side.library, side.version) == (
        "minifcn",
        "minifcn",
        importlib.import_module("minifcn").__version__,
    )


def test_the_loader_reads_other_pictures_each_time():
    """The same batch again and again would measure a cache; a library without a loader would have failed."""
    case = next(case for case in all_cases() if case.operation == "loader")
    case = replace(case, input_shape=(2, 3, 40, 50))
    workload = OURS.workload(case, make_arrays(case), "cpu")
    first, second = workload(), workload()
    assert first["images"].shape == (2, 3, 40, 50)
    assert first["labels"].shape == (2, 40, 50)
    assert (first["images"] != second["images"]).any()
    for other in OTHERS:
        with pytest.raises(BenchmarkError, match="no such computation"):
            other.workload(case, make_arrays(case), "cpu")
