"""The whole benchmark: every case by every library, into one report."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

from minifcn.backend import get_backend
from minifcn.benchmarking import cards, memory
from minifcn.benchmarking.cards import busy_seconds, copy_rate
from minifcn.benchmarking.cases import BACKWARD, FORWARD, GROUP_3X3, Case, make_arrays
from minifcn.benchmarking.machine import describe_machine
from minifcn.benchmarking.measuring import Effort, ProductRates, Turns, cards_of, check_agreement, synchronizer
from minifcn.benchmarking.side import Side
from minifcn.errors import BenchmarkError
from minifcn.threads import get_threads

OURS = "minifcn"


def run_suite(
    cases: Sequence[Case],
    sides: Sequence[Side],
    *,
    effort: Effort,
    device: str = "cpu",
    measure_memory: Callable[[Case], bool] = lambda case: True,
    absent: dict[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure the cases, and return the report: plain numbers, texts, lists and dictionaries; docs/benchmark.md says
    what they are.

    sides: minifcn's first. All of them use as many threads as minifcn does now (threads.set_threads).
    absent: libraries that are not among the sides, and why. measure_memory: whether to, for a case.
    A library that has no such computation is left out of a case; one that fails, or whose results are not minifcn's,
    has failed in it. The report says why.
    """
    threads = get_threads()
    for side in sides:
        side.set_threads(threads)
    products = ProductRates(sides, device, effort)
    products.measure()
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "device": device,
        "threads": threads,
        "libraries": {side.name: {"version": side.version, "threads": side.get_threads()} for side in sides},
        "absent": absent or {},
        "cases": [],
    }
    if seen := cards_of(sides, device):
        report["card"] = {**get_backend(device).describe(), "copy_bytes_per_second": max(map(copy_rate, seen.values()))}
        for name, card in seen.items():
            report["libraries"][name]["flags"] = getattr(card, "flags", {"tf32": card.tf32})
    for number, case in enumerate(cases, start=1):
        say(f"{number} of {len(cases)}: {case.name}")
        result = measure_case(case, sides, effort=effort, device=device)
        if (device != "cpu" or memory.can_measure()) and measure_memory(case):
            _add_memory(result, case, sides, threads, device)
        _add_ratios(result)
        report["cases"].append(result)
    products.measure()  # again: whoever kept the machine busy at the beginning may be gone
    report["matrix_product"] = {"flops": products.rates, "peak_flops": max(products.rates.values())}
    _add_shares(report)
    report["geometric_means"] = geometric_means(report["cases"])
    return report


def measure_case(case: Case, sides: Sequence[Side], *, effort: Effort, device: str) -> dict[str, Any]:
    """Times of one case by every library that computes it as minifcn does; all the rest comes later."""
    arrays, workloads, left_out = make_arrays(case), {}, {}
    failed: dict[str, str] = {}
    for side in sides:
        try:
            workloads[side.name] = side.workload(case, arrays, device)
        except BenchmarkError as error:
            left_out[side.name] = str(error)
    seen = cards_of(sides, device)
    turns = Turns(workloads, {side.name: synchronizer(side, device) for side in sides}, cards=seen)
    moved = _first_calls(turns, [side for side in sides if side.name in workloads], failed)
    moved += sum(array.nbytes for array in arrays.values())
    turns.measure(effort)
    results = {}
    for name, timing in turns.timings.items():
        results[name] = {
            "first_seconds": timing.first,
            "median_seconds": timing.median,
            "seconds": timing.rounds,
            "flops": case.floating_point_operations / timing.median or None,
        }
        if name in seen:
            side = next(side for side in sides if side.name == name)
            busy = busy_seconds(seen[name], turns.workloads[name], side.matrix_product(cards.PRODUCT_SIZE, device))
            results[name] |= {"busy_seconds": busy, "idle_share": max(0.0, 1 - busy / timing.median)}
    del turns, workloads
    gc.collect()  # graphs and networks, before the next case
    return {
        "name": case.name,
        "group": case.group,
        "pass": case.pass_,
        "floating_point_operations": case.floating_point_operations,
        "bytes": moved,
        "results": results,
        "left_out": left_out,
        "failed": failed,
    }


def _first_calls(turns: Turns, sides: Sequence[Side], failed: dict[str, str]) -> int:
    """The first call of each side; who fails, or does not give what minifcn gives, takes part no more.

    Returns the bytes of what comes out: outputs and gradients.
    """
    expected: dict[str, Any] = {}
    for side in sides:
        try:
            outputs = {kind: side.to_numpy(array) for kind, array in turns.first_call(side.name).items()}
            expected = expected or outputs
            tf32 = any(card.tf32 for name, card in turns.cards.items() if name in (OURS, side.name))
            check_agreement(side.name, outputs, expected, tf32=tf32)
        except BenchmarkError as error:
            reason = str(error)
        except Exception as error:
            if side.name == OURS:
                raise
            reason = f"{side.name}: {type(error).__name__}: {error}"  # whatever another library meets
        else:
            continue
        failed[side.name] = reason
        turns.leave_out(side.name)
    return sum(array.nbytes for array in expected.values())


def _add_memory(result: dict[str, Any], case: Case, sides: Sequence[Side], threads: int, device: str) -> None:
    """On the CPU in a process of its own; on a GPU in this one, where each library has its own pool of memory, once
    for each library."""
    measured: list[str] = []
    for side in sides:
        if side.name in result["results"] and side.library not in measured:
            if device == "cpu":
                peak = memory.peak_in_new_process(side.library, case, threads)
            else:
                measured.append(side.library)
                peak = side.card(device).peak(side.workload(case, make_arrays(case), device))
            result["results"][side.name] |= {"peak_bytes": peak.peak, "ready_bytes": peak.ready}


def _add_shares(report: dict[str, Any]) -> None:
    peak = report["matrix_product"]["peak_flops"]
    for result in report["cases"]:
        for measured in result["results"].values():
            measured["share_of_peak"] = measured["flops"] and measured["flops"] / peak
            if "card" in report:
                rate = result["bytes"] / measured["median_seconds"]
                measured["share_of_copy_rate"] = rate / report["card"]["copy_bytes_per_second"]


def _add_ratios(result: dict[str, Any]) -> None:
    """minifcn's figure over each other library's: below 1 minifcn is faster, or takes less."""
    figures = {"time": "median_seconds", "first_call": "first_seconds", "peak_memory": "peak_bytes"}
    ours = result["results"][OURS]
    result["ratios"] = {
        name: {word: ours[key] / theirs[key] for word, key in figures.items() if key in ours and key in theirs}
        for name, theirs in result["results"].items()
        if name != OURS
    }


def geometric_means(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of the ratios of time over VGG16's distinct 3×3 layers, by library and pass; only where all were measured."""
    means: dict[str, dict[str, float]] = {}
    for pass_ in (FORWARD, BACKWARD):
        layers = [result for result in results if (result["group"], result["pass"]) == (GROUP_3X3, pass_)]
        names = set.intersection(*(set(layer["ratios"]) for layer in layers)) if layers else set()
        for name in sorted(names):
            logarithms = [math.log(layer["ratios"][name]["time"]) for layer in layers]
            means.setdefault(name, {})[pass_] = math.exp(sum(logarithms) / len(logarithms))
    return means
