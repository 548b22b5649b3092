"""`python -m minifcn.study` as a user calls it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from minifcn.training import Config

SHORT = ["--steps-factor", "0.001", "--size", "16x16"]  # one step a stage


def command(*arguments):
    return [sys.executable, "-m", "minifcn.study", *map(str, arguments)]


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment, check=False)


def test_the_comparisons_are_listed():
    process = run("--list")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("comparison")
    for name in ("stages", "pretraining", "fixed → learned upsampling", "median frequency"):
        assert name in process.stdout


def test_two_runs_at_a_time_and_their_table(tmp_path):
    """Each in its own folder, the second from the first one's weights; and nothing to do when called again."""
    out = tmp_path / "study"
    arguments = (*SHORT, "--only", "upsampling,stages", "--seeds", "1", "--out", out)
    process = run(*arguments, "--jobs", "2")
    assert process.returncode == 0, process.stderr
    for words in (
        "run 1 of 2: staged, seed 0",
        "run 2 of 2: fixed, seed 0",
        "32s → 16s",
        "all background",
        "study.json",
    ):
        assert words in process.stdout
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"staged-seed0", "fixed-seed0"}
    fixed = Config.from_toml(out / "fixed-seed0" / "config.toml")
    assert fixed.learned_upsampling == "none"
    assert "copied" in (out / "fixed-seed0.log").read_text(encoding="utf-8")
    report = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert [row["found"] for row in report["rows"]] == ["one seed"] * 3

    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout == process.stdout[process.stdout.index("\nA → B") :]


def test_stopped_processes_save_where_they_are(tmp_path):
    """One that is left running would write on, unseen; one that is killed would lose its steps."""
    out = tmp_path / "study"
    arguments = ("--size", "32x32", "--only", "stages", "--seeds", "2", "--out", out, "--jobs", "2")
    process = subprocess.Popen(
        command(*arguments),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores Ctrl-C
    )
    metrics = [out / f"staged-seed{seed}" / "metrics.csv" for seed in (0, 1)]
    while process.poll() is None and not all(path.exists() and len(path.read_text().split()) > 2 for path in metrics):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that it has started, too
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    for path in metrics:
        assert path.with_name("checkpoint.safetensors").exists()
    sizes = [path.stat().st_size for path in metrics]
    time.sleep(0.5)
    assert sizes == [path.stat().st_size for path in metrics]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "everything"], "there is stages, skips, upsampling"),
        (["--seeds", "0"], "--seeds 0"),
        (["--jobs", "0"], "--jobs 0"),
        (["--steps-factor", "0"], "--steps-factor 0"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, arguments, words):
    process = run(*arguments, "--out", tmp_path / "out")
    assert process.returncode == 2, process.stderr
    assert words in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()
