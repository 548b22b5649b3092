"""`python -m minifcn.benchmark` as a user calls it."""

import json
import subprocess
import sys

import pytest


def run(*arguments):
    command = [sys.executable, "-m", "minifcn.benchmark", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_cases_are_listed():
    process = run("--list")
    assert process.returncode == 0, process.stderr
    for name in ("conv1_1/forward", "fc6/forward+backward", "fcn8s-375x500/training-step", "narrow/training-step"):
        assert name in process.stdout
    chosen = run("--list", "--cases", "relu").stdout
    assert "relu/forward+backward" in chosen
    assert "conv1_1" not in chosen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cases", "conv9"], "--cases conv9: no case has this name"),
        (["--repeat", "0"], "--repeat 0: at least 1 is needed"),
        (["--threads", "0"], "--threads 0: at least 1 is needed"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_measured(tmp_path, arguments, words):
    process = run(*arguments, "--out", tmp_path / "out")
    assert process.returncode == 2
    assert words in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()


def test_a_case_is_measured_and_reported(tmp_path):
    """The smallest case there is, on one thread, without other libraries."""
    process = run(
        "--cases", "upsample-x2/forward", "--quick", "--repeat", 1, "--no-torch", "--threads", 1, "--out", tmp_path
    )
    assert process.returncode == 0, process.stderr
    assert "torch: not asked for" in process.stdout
    report = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    assert report["threads"] == 1
    assert [case["name"] for case in report["cases"]] == ["upsample-x2/forward"]
    assert report["cases"][0]["results"]["minifcn"]["median_seconds"] > 0
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
