"""Peak memory: the most that a process held at a time, measured in a fresh process for each library and case.

Linux counts it for each process (VmHWM, "high water mark", in /proc/PID/status; see proc(5)), everything included: the
library's code, its buffers, the arrays. It is set back once everything is ready, so that what preparing took does not
count, but what it left behind (weights, inputs) does.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import subprocess
import sys
from pathlib import Path

from minifcn.backend import keep_freed_memory
from minifcn.benchmarking.cases import Case, make_arrays
from minifcn.benchmarking.side import PeakMemory, Workload, open_side
from minifcn.errors import BenchmarkError

CALLS = 2  # the first and one of the steady state: an optimiser makes its buffers in the first
_SET_BACK = "5"  # what /proc/self/clear_refs takes to set the mark back to what is held now


def can_measure() -> bool:
    """Whether this system counts as described above: Linux does."""
    return sys.platform == "linux" and Path("/proc/self/clear_refs").exists()


def peak_of(workload: Workload, calls: int = CALLS) -> PeakMemory:
    """The peak of this process during calls of a workload."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text(_SET_BACK, encoding="ascii")
    ready = _status("VmRSS")
    for _ in range(calls):
        workload()
    return PeakMemory(ready, _status("VmHWM"))


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, field
    return 1024 * int(found[1])


def peak_in_new_process(library: str, case: Case, threads: int) -> PeakMemory:
    """The peak of a library (by its import name) in a case, on the CPU. BenchmarkError with what the process said."""
    task = {"library": library, "case": dataclasses.asdict(case), "threads": threads}
    process = subprocess.run(
        [sys.executable, "-m", "minifcn.benchmarking.memory"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        said = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}, without a word"])[-1]
        raise BenchmarkError(f"{library}: its peak memory was not measured: {said}")
    return PeakMemory(**json.loads(process.stdout))


def _main() -> None:
    """In the new process: a task as JSON in, its peak as JSON out."""
    task = json.load(sys.stdin)
    fields = task["case"]
    case = Case(**{**fields, **{name: tuple(fields[name]) for name in ("input_shape", "weight_shape")}})
    if task["library"] == "minifcn":
        keep_freed_memory()  # as every command of minifcn does
    side = open_side(task["library"])
    side.set_threads(task["threads"])
    print(json.dumps(dataclasses.asdict(peak_of(side.workload(case, make_arrays(case), "cpu")))))


if __name__ == "__main__":
    _main()
