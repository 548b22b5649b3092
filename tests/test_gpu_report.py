"""tests/gpu_report.sh where there is no GPU. On a machine with one, it is to be run, not tested."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from minifcn.benchmarking import measuring
from minifcn.benchmarking.cases import all_cases
from minifcn.benchmarking.measuring import Effort
from minifcn.benchmarking.minifcn_side import MinifcnSide
from minifcn.benchmarking.suite import run_suite
from minifcn.files import to_json

SCRIPT = Path(__file__).with_name("gpu_report.sh")


def test_without_a_gpu_it_says_so_and_reports_nothing(tmp_path):
    """A table with a CPU's figures in it, shown as a GPU's."""
    (tmp_path / "cupy.py").write_text("raise ImportError('no CuPy in this test')", encoding="utf-8")
    root = SCRIPT.parents[1]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    out = tmp_path / "report"
    result = subprocess.run(
        ["bash", str(SCRIPT), "gpu", str(tmp_path), str(out)], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 3
    assert "not run on a GPU: --device gpu: CuPy cannot be imported (no CuPy in this test)" in result.stderr
    assert "nothing was run, and no report is written" in result.stderr
    assert not out.exists()


# A Python that knows parts of the script's, in the place of a machine with a GPU. What it says of a device says so.
STUB = """#!/usr/bin/env bash
case "$*" in
    "- "*) cat > /dev/null
        echo '{"name": "no GPU (a stub)", "driver": null, "cuda_of_driver": "0.0", "cupy": "none"}' ;;
    "-m pytest "*) printf '%s' "$STUB_TESTS" > "${!#}"; exit "$STUB_TESTS_CODE" ;;
    "-m minifcn.benchmark "*) [[ "$*" == *tf32* ]] && sleep 60
        mkdir -p "${!#}"; cp "$STUB_BENCHMARK" "${!#}/benchmark.json" ;;
    "-m minifcn.train "*) all=$*; echo "$all" > "$STUB_SEEN"; out=${all##*--out }; out=${out%% --resume}
        mkdir -p "$out"
        printf 'stage,step,mean_iu\\nfcn-basic,300,0.25\\nfcn-basic,310,\\n' > "$out/metrics.csv"; exit 130 ;;
    *) exec "$STUB_PYTHON" "$@" ;;
esac
"""
SUITE = '<testsuites><testsuite tests="9" failures="{}" errors="0" skipped="1"/></testsuites>'


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Run the script with the stub; its result, and the two reports."""
    stub, camvid, out = tmp_path / "python", tmp_path / "camvid", tmp_path / "out"
    stub.write_text(STUB, encoding="utf-8")
    stub.chmod(0o755)
    camvid.mkdir()
    monkeypatch.setattr(measuring, "PRODUCT_SIZE", 32)
    relu = replace(next(case for case in all_cases() if case.operation == "relu"), input_shape=(1, 1, 4, 4))
    figures = run_suite([relu], [MinifcnSide()], effort=Effort(repeat=1), measure_memory=lambda case: False)
    (case,) = figures["cases"]
    case |= {"name": "fcn8s-500x500/training-step", "ratios": {"PyTorch": {"time": 0.957, "peak_memory": 0.5}}}
    case["results"]["minifcn"] |= {"idle_share": 0.03, "share_of_peak": 0.6}
    (tmp_path / "benchmark.json").write_text(to_json(figures), encoding="utf-8")

    def run(**environment):
        known = {
            "PYTHON": str(stub),
            "PYTHONPATH": str(SCRIPT.parents[1]),
            "STUB_PYTHON": sys.executable,
            "STUB_TESTS": SUITE.format(0),
            "STUB_TESTS_CODE": "0",
            "STUB_BENCHMARK": str(tmp_path / "benchmark.json"),
            "STUB_SEEN": str(tmp_path / "seen"),
            "GPU_REPORT_SECONDS": "3",
        }
        environment = {**os.environ, **known, **environment}
        command = ["bash", str(SCRIPT), "gpu", str(camvid), str(out)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        return result, json.loads((out / "report.json").read_text()), (out / "report.md").read_text(encoding="utf-8")

    return run


def test_every_part_is_in_the_report(report):
    """A part that is stopped at its limit ends the script, or is left out, and the report looks whole."""
    result, figures, table = report()
    assert result.returncode == 1
    assert "failed or stopped: benchmark-tf32" in result.stderr
    ends = {name: (part["exit_code"], part["stopped"]) for name, part in figures["parts"].items()}
    stopped = ends.pop("benchmark-tf32")
    assert stopped[1]
    assert ends == {"tests": (0, False), "benchmark-float32": (0, False), "train": (130, True)}
    assert figures["tests"] == {"tests": 9, "failures": 0, "errors": 0, "skipped": 1}
    header, _, cells = table.splitlines()[:3]
    found = dict(zip(header.split(" | "), cells.split(" | "), strict=True))
    assert found["tests failed / run"] == "0 / 8"
    assert found["step 500×500, time over PyTorch's: float32 / tf32"] == "0.96 / -"
    assert found["forward 500×500, time over PyTorch's: float32 / tf32"] == "- / -"
    assert found["its idle share"] == "0.03 / -"
    assert found["CamVid: steps of FCN-Basic"] == "310"
    assert found["val mean IU |"] == "0.25 |"
    assert "no GPU (a stub)" in cells
    assert "- benchmark-tf32: stopped at its limit of time, after " in table
    assert "## benchmark, float32" in table


@pytest.mark.parametrize("left", ["<testsuites><testsuite tests=", SUITE.format(2)])
def test_what_comes_after_a_failed_part_is_done_all_the_same(report, left):
    """Tests that fail, or are killed while they write: no benchmark, no training, no report."""
    result, figures, table = report(STUB_TESTS=left, STUB_TESTS_CODE="1")
    assert result.returncode == 1
    assert "failed or stopped: benchmark-tf32, tests" in result.stderr
    assert figures["training"]["steps"] == "310"
    assert "- tests: exit code 1, after " in table
    if left.endswith(">"):
        assert "| 2 / 8 |" in table
    else:
        assert "| not finished |" in table
        assert "- tests: left what cannot be read (ParseError" in table


def test_training_goes_on_if_asked_to(report, tmp_path):
    """A run of nine minutes, thrown away by the next; or an old one, shown as new."""
    weights = tmp_path / "out" / "camvid" / "checkpoint.safetensors"
    report()
    weights.touch()
    report(GPU_REPORT_RESUME="1")
    assert (tmp_path / "seen").read_text().split()[-1] == "--resume"
    assert weights.exists()
    report()
    assert "--resume" not in (tmp_path / "seen").read_text()
    assert not weights.exists()
