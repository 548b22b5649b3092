"""Peak memory of processes that allocate what is known beforehand."""

import subprocess
import sys
from dataclasses import replace

import pytest

from minifcn.benchmarking import memory
from minifcn.benchmarking.cases import all_cases
from minifcn.errors import BenchmarkError

pytestmark = pytest.mark.skipif(not memory.can_measure(), reason="only Linux counts a process's peak memory this way")

MIB = 2**20
# 400 MiB while it is prepared, and freed again; then 100 MiB in each call, freed as well; 50 MiB are there all along.
PROGRAM = """
import numpy as np
from minifcn.benchmarking import memory
kept = np.ones(50 * 2**20, np.uint8)
prepared = np.ones(400 * 2**20, np.uint8)
del prepared
peak = memory.peak_of(lambda: np.ones(100 * 2**20, np.uint8))
print(peak.ready, peak.peak)
"""


def test_the_peak_is_that_of_the_calls():
    """The mark never set back (400 MiB), or what is held at the end instead of the peak (0)."""
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    ready, peak = map(int, process.stdout.split())
    assert 99 * MIB <= peak - ready <= 120 * MIB  # the kernel counts in batches of pages
    assert 50 * MIB < ready < 350 * MIB


def test_a_case_in_a_process_of_its_own():
    """ReLU of 64 MiB makes 64 MiB more. (The test's own process has other libraries and arrays in it.)"""
    relu = next(case for case in all_cases() if case.name == "relu/forward")
    peak = memory.peak_in_new_process("minifcn", replace(relu, input_shape=(1, 16, 1024, 1024)), threads=1)
    assert 63 * MIB <= peak.peak - peak.ready <= 90 * MIB
    assert peak.ready >= 64 * MIB  # the input


def test_a_process_that_fails_says_why():
    relu = next(case for case in all_cases() if case.name == "relu/forward")
    with pytest.raises(BenchmarkError, match=r"minifcn: its peak memory was not measured: KeyError: 'neither'"):
        memory.peak_in_new_process("minifcn", replace(relu, operation="neither"), threads=1)
