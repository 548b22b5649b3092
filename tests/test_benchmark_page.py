"""docs/benchmark.md says what each figure in benchmark.json is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import devices

from minifcn.benchmarking import cards, measuring
from minifcn.benchmarking.cases import all_cases
from minifcn.benchmarking.measuring import Effort
from minifcn.benchmarking.minifcn_side import MinifcnSide
from minifcn.benchmarking.suite import run_suite

PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"
BY_NAME = ("libraries", "results", "ratios", "flops", "absent", "left_out", "failed", "geometric_means")  # of libraries
TELLING = ("machine",)  # whose keys say what they are


def keys_of(value: Any) -> Iterator[str]:
    """The keys of nested dictionaries, and of the first of each list, without names of libraries."""
    if isinstance(value, list):
        value = value[0] if value else None
    for key, inner in value.items() if isinstance(value, dict) else []:
        yield key
        by_name = key in BY_NAME and isinstance(inner, dict)
        for one in inner.values() if by_name else [] if key in TELLING else [inner]:
            yield from keys_of(one)


def test_every_key_of_the_report_is_described(monkeypatch):
    """One that is new, of a GPU above all, where nobody sees it beside the table."""
    monkeypatch.setattr(measuring, "PRODUCT_SIZE", 32)
    monkeypatch.setattr(cards, "PRODUCT_SIZE", 32)
    monkeypatch.setattr(cards, "COPIED_BYTES", 2**12)
    case = replace(next(case for case in all_cases("gpu") if case.operation == "relu"), input_shape=(1, 1, 4, 4))
    with devices.fake_gpu():
        report = run_suite([case], [MinifcnSide()], effort=Effort(repeat=1), device="gpu")
    found = set(keys_of(report))
    assert {"card", "flags", "bytes", "busy_seconds", "idle_share", "share_of_copy_rate", "cupy", "tf32"} <= found
    page = PAGE.read_text(encoding="utf-8")
    assert {key for key in found if f"`{key}`" not in page and f".{key}`" not in page} == set()
