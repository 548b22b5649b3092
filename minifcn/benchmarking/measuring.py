"""Times of libraries that take turns, so that whatever slows the machine down for a while slows all of them down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minifcn.benchmarking import cards
from minifcn.benchmarking.cards import seconds_of
from minifcn.benchmarking.cases import WATCHED
from minifcn.benchmarking.side import Card, Side, Workload
from minifcn.errors import BenchmarkError

SAMPLE_SECONDS = 0.05  # calls that are shorter are timed several at a time: a thread's waking up counts for less
REST_SECONDS = 0.3  # at most, before each sample, until the threads of the library before have come to rest
ROUNDS = (5, 25)  # at least and at most, however much time there is
QUICK_ROUNDS = (3, 9)
TOLERANCE = 1e-3  # of the largest number of an output or gradient
# Of the gradient that has come through a whole network. In float32 it is 1e-2 off the one in float64 on either side, by
# the narrow network's pooling and normalisation, which turn the last digit of an input into another winner.
TOLERANCE_THROUGH_NETWORK = 0.1
# With TF32, whose 10 bits make such other winners everywhere: that nothing else is computed, no more.
TOLERANCE_TF32, TOLERANCE_TF32_THROUGH_NETWORK = 2e-2, 0.5
PRODUCT_SIZE = 2048  # rows and columns: 17 GFLOP, and operands of 16 MiB, more than most caches hold


@dataclass
class Timing:
    """Seconds of one library in one case: its very first call, and one call in each round of the steady state."""

    first: float
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Effort:
    """How long to measure: exactly `repeat` rounds, or as many as fit into `seconds`, within `limits`."""

    repeat: int | None = None
    seconds: float = 3.0
    limits: tuple[int, int] = ROUNDS

    def rounds(self, seconds_per_round: float) -> int:
        if self.repeat is not None:
            return self.repeat
        least, most = self.limits
        return max(least, min(most, int(self.seconds / seconds_per_round)))


def rest() -> None:
    """Wait until no thread of this process computes. OpenBLAS's spin for 2**28 cycles after a product, 0.1 s, and
    take a core away from whoever comes next.
    """
    last = time.perf_counter() + REST_SECONDS
    while time.perf_counter() < last:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.002:
            return


class Turns:
    """Workloads by the name of their library, which are called in turns: first, second, first, second, …

    synchronize: by the same names; called before a clock is read. clock: time.perf_counter. pause: `rest`.
    cards: on a GPU, whose events then time the rounds.
    """

    def __init__(
        self,
        workloads: Mapping[str, Workload],
        synchronize: Mapping[str, Callable[[], None]],
        *,
        clock: Callable[[], float] = time.perf_counter,
        pause: Callable[[], None] | None = None,
        cards: Mapping[str, Card] | None = None,
    ) -> None:
        self.workloads, self.synchronize, self.clock, self.pause = dict(workloads), synchronize, clock, pause or rest
        self.cards = cards or {}
        self.timings: dict[str, Timing] = {}

    def first_call(self, name: str) -> dict[str, Any]:
        """The first call of a library, timed; what it gave."""
        start = self.clock()
        outputs = self.workloads[name]()
        self.synchronize[name]()
        self.timings[name] = Timing(self.clock() - start)
        return outputs

    def leave_out(self, name: str) -> None:
        del self.workloads[name]
        self.timings.pop(name, None)

    def measure(self, effort: Effort) -> None:
        """Rounds in which every library has its turn, after one round to warm up, which also says how long they take.

        In a round each library makes the same number of calls; a round's time is that of one call.
        """
        warm_up = {name: self._seconds(name, calls=1) for name in self.workloads}
        calls = max(1, int(SAMPLE_SECONDS / max(max(warm_up.values()), 1e-6)))
        for _ in range(effort.rounds(calls * sum(warm_up.values()))):
            for name in self.workloads:
                self.timings[name].rounds.append(self._seconds(name, calls))

    def _seconds(self, name: str, calls: int) -> float:
        self.pause()
        workload = self.workloads[name]
        if name in self.cards:
            return seconds_of(self.cards[name], workload, calls)
        start = self.clock()
        for _ in range(calls):
            workload()
        self.synchronize[name]()
        return (self.clock() - start) / calls


def check_agreement(
    name: str, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], *, tf32: bool = False
) -> None:
    """BenchmarkError unless library `name` gave the same outputs and gradients as minifcn, up to a tolerance."""
    for kind in expected:
        if kind not in found or found[kind].shape != expected[kind].shape:
            shape = found[kind].shape if kind in found else "none"
            raise BenchmarkError(f"{name}: its {kind} is {shape}, minifcn's {expected[kind].shape}; not measured.")
        error = float(np.abs(found[kind] - expected[kind]).max() / max(float(np.abs(expected[kind]).max()), 1e-30))
        layer, network = (TOLERANCE, TOLERANCE_THROUGH_NETWORK)
        if tf32:
            layer, network = TOLERANCE_TF32, TOLERANCE_TF32_THROUGH_NETWORK
        tolerance = network if kind == WATCHED else layer
        if not error <= tolerance:  # NaN is not
            raise BenchmarkError(
                f"{name}: its {kind} differs from minifcn's by {error:.1e} of the largest number, more than "
                f"{tolerance:g}; they do not compute the same, so their times are not compared."
            )


class ProductRates:
    """FLOP/s of each library's own matrix product, at the best of all rounds. The largest is the machine's peak."""

    def __init__(self, sides: Sequence[Side], device: str, effort: Effort) -> None:
        self.sides, self.device, self.effort = sides, device, effort
        self.rates: dict[str, float] = {}

    @property
    def size(self) -> int:
        return PRODUCT_SIZE if self.device == "cpu" else cards.PRODUCT_SIZE

    def measure(self) -> None:
        workloads, synchronize, size = {}, {}, self.size
        for side in self.sides:
            try:
                workloads[side.name] = side.matrix_product(size, self.device)
            except BenchmarkError:  # the library has none of its own
                continue
            synchronize[side.name] = synchronizer(side, self.device)
        turns = Turns(workloads, synchronize, cards=cards_of(self.sides, self.device))
        for name in workloads:
            turns.first_call(name)
        turns.measure(self.effort)
        for name, timing in turns.timings.items():
            self.rates[name] = max(self.rates.get(name, 0.0), 2 * size**3 / min(timing.rounds))


def synchronizer(side: Side, device: str) -> Callable[[], None]:
    return lambda: side.synchronize(device)


def cards_of(sides: Sequence[Side], device: str) -> dict[str, Card]:
    """The GPU as each library sees it that computes there; none on the CPU."""
    found: dict[str, Card] = {}
    for side in sides if device != "cpu" else []:
        with suppress(BenchmarkError):  # for the CPU only
            found[side.name] = side.card(device)
    return found
