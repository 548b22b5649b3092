"""The benchmark's way on a GPU, on the fake one: its figures mean nothing here, but they are there and add up.

Nothing here was measured on a GPU.
"""

import json
from dataclasses import replace

import devices
import fake_cupy
import numpy as np
import pytest

from minifcn.benchmarking import cards, measuring
from minifcn.benchmarking.cards import CupyCard, busy_seconds, copy_rate
from minifcn.benchmarking.cases import FCN8S, TRAINING, all_cases, make_arrays, network_case
from minifcn.benchmarking.measuring import Effort, check_agreement
from minifcn.benchmarking.minifcn_side import MinifcnSide
from minifcn.benchmarking.report import full_text
from minifcn.benchmarking.side import find_sides
from minifcn.benchmarking.suite import run_suite
from minifcn.errors import BenchmarkError
from minifcn.files import to_json

CASES = {case.name: case for case in all_cases("gpu")}
SMALL_NETWORK = {**FCN8S, "width": 2, "fc_width": 4, "geometry": "same"}
TINY = [
    replace(CASES["conv3_2/forward"], input_shape=(1, 3, 6, 5), weight_shape=(4, 3, 3, 3)),
    network_case("small", SMALL_NETWORK, (2, 3, 33, 40), TRAINING, "sgd"),
]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(cards, "PRODUCT_SIZE", 32)
    monkeypatch.setattr(cards, "COPIED_BYTES", 2**12)
    monkeypatch.setattr(measuring, "REST_SECONDS", 0)
    monkeypatch.setattr(measuring, "SAMPLE_SECONDS", 0)
    with devices.fake_gpu() as backend:
        yield backend


class Again(MinifcnSide):
    """Another library that computes on the same device."""

    name, library = "Again", "again"


def test_the_report_of_a_gpu_says_more(fake):
    """Memory, idle time or the flags left out, without which nobody can read the times."""
    report = run_suite(TINY, [MinifcnSide(), Again()], effort=Effort(repeat=2), device="gpu")
    assert json.loads(to_json(report)) == report
    assert report["card"]["name"] == "fake device"
    assert report["card"]["copy_bytes_per_second"] > 0
    assert report["libraries"]["minifcn"]["flags"] == {"tf32": False}
    convolution, network = report["cases"]
    assert convolution["bytes"] == 4 * (3 * 30 + 4 * 27 + 4 + 4 * 30)  # input, weight, bias, output
    for name in ("minifcn", "Again"):
        measured = network["results"][name]
        assert 0 <= measured["idle_share"] < 1
        assert measured["busy_seconds"] > 0
        assert measured["peak_bytes"] > measured["ready_bytes"] > 0
        rate = convolution["bytes"] / convolution["results"][name]["median_seconds"]
        share = convolution["results"][name]["share_of_copy_rate"]
        assert share == pytest.approx(rate / report["card"]["copy_bytes_per_second"])
    # Whoever is measured first fills the caches of matrices, which then are there before the other begins.
    assert network["ratios"]["Again"]["peak_memory"] == pytest.approx(1, abs=0.05)
    text = full_text(report)
    assert "card      fake device, driver" in text
    assert "flags     minifcn: tf32 False; Again: tf32 False" in text
    assert "in the library's pool on the card" in text


def test_no_call_of_a_case_waits_for_the_device(fake):
    """Labels that the loss looks at on the device: the host would stand still, and the card after it."""
    for case in [*TINY, replace(CASES["loss/forward+backward"], input_shape=(1, 3, 6, 5))]:
        work = MinifcnSide().workload(case, make_arrays(case), "gpu")
        work()
        before = fake_cupy.card.synchronizations
        work()
        assert fake_cupy.card.synchronizations == before, case.name


def test_the_peak_is_what_lives_at_one_time(fake):
    """The sum of everything ever made, or what is left at the end."""
    kept = fake.xp.zeros(10, np.float32)

    def work():
        for _ in range(3):
            fake.xp.zeros(1000, np.float32)

    peak = CupyCard(fake).peak(work)
    assert peak.peak - peak.ready == 4000
    assert peak.ready >= kept.nbytes
    assert fake_cupy.card.hooks == []


class SlowHost:
    """A card whose clock counts what it computes, and an asking host; in seconds."""

    def __init__(self):
        self.host, self.card, self.asked = 0.0, 0.0, []

    def record(self):
        return max(self.host, self.card)

    def seconds(self, first, last):
        return last - first

    def ask(self, what, asking, computing):
        self.asked.append(what)
        self.host += asking
        self.card = max(self.card, self.host) + computing


def test_a_card_is_kept_busy_while_the_host_asks():
    """Time between two kernels, in which the card waits for the host, counted as its work."""
    machine = SlowHost()

    def work():
        for _ in range(10):
            machine.ask("kernel", 2, 1)

    busy = busy_seconds(machine, work, lambda: machine.ask("product", 0, 5), clock=lambda: machine.host)
    assert busy == 10  # not the 20 that asking takes
    assert machine.asked.count("product") == 1 + 6  # 30 seconds, half as many again as asking takes


def test_the_rate_of_copying_counts_both_directions(fake, monkeypatch):
    monkeypatch.setattr(cards, "seconds_of", lambda card, work: (work() and 0) or 0.5)
    assert copy_rate(CupyCard(fake)) == 2 * 2**12 / 0.5


def test_tf32_is_compared_roughly_and_wrong_results_are_still_refused():
    """Ten bits are no fault; a result that is another one is."""
    right, rough, wrong = ({"output": np.full(3, value)} for value in (1.0, 1.005, 1.1))
    check_agreement("Other", rough, right, tf32=True)
    for found, tf32 in ((rough, False), (wrong, True)):
        with pytest.raises(BenchmarkError, match="do not compute the same"):
            check_agreement("Other", found, right, tf32=tf32)


def test_the_networks_of_the_issue_are_among_the_cases():
    quick = {name for name, case in CASES.items() if case.quick}
    assert {"fcn8s-500x500/forward", "fcn8s-500x500/training-step", "fcn8s-8x320x320/training-step"} <= quick
    assert "fcn8s-8x320x320/training-step" not in {case.name for case in all_cases()}


def test_pytorch_stands_there_with_our_precision_and_with_its_own(fake, monkeypatch):
    """TF32 on one side only, which is what PyTorch does by itself, compared as if it were float32."""
    torch = pytest.importorskip("torch")
    sides = {side.name: side for side in find_sides(("chainer", "dezero"), "gpu")[0]}
    assert list(sides) == ["minifcn", "PyTorch", "PyTorch (defaults)"]
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    assert before == tuple(cards.DEFAULT_FLAGS.values())
    seen = lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)  # noqa: E731
    try:
        ours, theirs = (sides[name].card("gpu").with_flags(seen) for name in ("PyTorch", "PyTorch (defaults)"))
        assert [ours(), theirs(), ours()] == [(False, False), (True, False), (False, False)]
        monkeypatch.setenv("CUPY_TF32", "1")
        assert sides["PyTorch"].card("gpu").with_flags(seen)() == (True, True)
        assert sides["PyTorch"].card("gpu").tf32
    finally:
        sides["PyTorch (defaults)"].card("gpu").with_flags(seen)()
