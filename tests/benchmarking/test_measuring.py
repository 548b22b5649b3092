"""Turns, rounds and clocks. No test here waits: the clock is a number that the workloads move."""

import itertools

import numpy as np
import pytest

from minifcn.benchmarking import measuring
from minifcn.benchmarking.measuring import Effort, Turns, check_agreement
from minifcn.errors import BenchmarkError


class Machine:
    """Workloads that take a known time on a fake clock, and the order in which everything happened."""

    def __init__(self, **seconds):
        self.now, self.events, self.seconds = 0.0, [], {name: list(steps) for name, steps in seconds.items()}

    def turns(self):
        workloads = {name: lambda name=name: self.work(name) for name in self.seconds}
        synchronize = {name: lambda name=name: self.events.append(f"wait for {name}") for name in self.seconds}
        return Turns(workloads, synchronize, clock=lambda: self.now, pause=self.pause)

    def work(self, name):
        self.events.append(name)
        steps = self.seconds[name]
        self.now += steps.pop(0) if len(steps) > 1 else steps[0]
        return {"output": name}

    def pause(self):
        self.events.append("pause")
        self.now += 1000  # never counted


def test_a_sample_waits_for_threads_that_still_spin(monkeypatch):
    """Who comes after a library whose threads spin on would have a core less; one that never rests holds nobody up."""
    looks, pauses, endless = iter([0, 1, 1, 2, 2, 3, 3, 3]), [], itertools.count()  # before and after each of 4 pauses
    monkeypatch.setattr(measuring.time, "sleep", pauses.append)
    monkeypatch.setattr(measuring.time, "process_time", lambda: next(looks))
    measuring.rest()
    assert len(pauses) == 4
    monkeypatch.setattr(measuring, "REST_SECONDS", 0.01)
    monkeypatch.setattr(measuring.time, "process_time", lambda: next(endless))
    measuring.rest()


def test_libraries_take_turns_and_are_waited_for():
    """All rounds of one and then all of the other: a busy minute of the machine would fall on one of them."""
    machine = Machine(ours=[5, 2, 1, 3], theirs=[7, 4, 4, 6])
    turns = machine.turns()
    assert turns.first_call("ours") == {"output": "ours"}
    turns.first_call("theirs")
    turns.measure(Effort(repeat=2))
    first = ["ours", "wait for ours", "theirs", "wait for theirs"]
    in_turn = ["pause", "ours", "wait for ours", "pause", "theirs", "wait for theirs"]
    assert machine.events == first + in_turn * 3  # a round to warm up, and two
    assert (turns.timings["ours"].first, turns.timings["theirs"].first) == (5, 7)
    assert (turns.timings["ours"].rounds, turns.timings["theirs"].rounds) == ([1, 3], [4, 6])
    assert (turns.timings["ours"].median, turns.timings["theirs"].median) == (2, 5)


def test_short_calls_are_timed_several_at_a_time():
    """A time of microseconds is that of the clock and of a thread's waking up."""
    machine = Machine(ours=[0.01], theirs=[0.02])
    turns = machine.turns()
    for name in ("ours", "theirs"):
        turns.first_call(name)
    machine.events.clear()
    turns.measure(Effort(repeat=1))
    assert machine.events[6:] == ["pause", *["ours"] * 2, "wait for ours", "pause", *["theirs"] * 2, "wait for theirs"]
    assert turns.timings["ours"].rounds == pytest.approx([0.01])
    assert turns.timings["theirs"].rounds == pytest.approx([0.02])


def test_who_is_left_out_is_called_no_more():
    machine = Machine(ours=[1], theirs=[1])
    turns = machine.turns()
    for name in ("ours", "theirs"):
        turns.first_call(name)
    turns.leave_out("theirs")
    turns.measure(Effort(repeat=3))
    assert machine.events.count("theirs") == 1
    assert list(turns.timings) == ["ours"]


def test_rounds_fit_into_the_time_there_is():
    effort = Effort(seconds=3, limits=(5, 25))
    assert effort.rounds(0.3) == 10
    assert effort.rounds(20) == 5
    assert effort.rounds(0.001) == 25
    assert Effort(repeat=2, seconds=3).rounds(0.001) == 2


def test_results_that_differ_are_refused():
    """Two libraries that do not compute the same are compared all the same."""
    expected = {"output": np.array([1.0, -1000.0])}
    check_agreement("PyTorch", {"output": np.array([1.9, -1000.0]), "more": np.zeros(3)}, expected)
    with pytest.raises(BenchmarkError, match=r"PyTorch: its output differs from minifcn's by 2.0e-03"):
        check_agreement("PyTorch", {"output": np.array([3.0, -1000.0])}, expected)
    with pytest.raises(BenchmarkError, match="nan of the largest number"):
        check_agreement("PyTorch", {"output": np.array([np.nan, -1000.0])}, expected)
    with pytest.raises(BenchmarkError, match=r"its output is \(1, 2\), minifcn's \(2,\)"):
        check_agreement("PyTorch", {"output": np.zeros((1, 2))}, expected)
    with pytest.raises(BenchmarkError, match="its output is none"):
        check_agreement("PyTorch", {}, expected)
