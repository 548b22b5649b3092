"""Runs killed at random moments; the work is done by tests/kill_runs.py, in a process that has started no threads."""

import os
import subprocess
import sys
from pathlib import Path

import kill_runs
import pytest

SCRIPT = Path(kill_runs.__file__)


def kill(count, seed):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), "--kills", str(count), "--seed", str(seed)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives of a run are forks")
@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_however_often_a_run_is_killed_it_ends_in_the_same_weights(count):
    """Anything of a run's state that is not in its checkpoint, or is not there whole at some instant."""
    process = kill(count, seed=count)
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"{count} kills" in process.stdout
