"""Two runs in one folder, at the same time or one after the other."""

import errno
import os
import subprocess
import sys

import pytest
from tiny_runs import STAGES, few_pictures, start, tiny

from minifcn.errors import UsageError
from minifcn.training import lock
from minifcn.training.lock import FolderLock

HOLD = """
import sys
from pathlib import Path
from minifcn.training.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    few_pictures(monkeypatch)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_folder_is_locked_until_its_process_is_dead(tmp_path, holder):
    """A file whose mere presence is the lock: after a kill, somebody has to find and remove it."""
    with pytest.raises(UsageError, match=rf"{tmp_path}: another run is writing into it \(process {holder.pid}\)"):
        FolderLock(tmp_path)
    holder.kill()
    holder.wait()
    FolderLock(tmp_path).release()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_no_option_lets_two_runs_write_at_the_same_time(tmp_path, options):
    """With --resume or --overwrite, two processes would take turns in writing one checkpoint."""
    out = tmp_path / "run"
    first = start(tiny(), out)
    with pytest.raises(UsageError, match=r"another run is writing into it|not empty"):
        start(tiny(), out, **options)
    first.run()
    start(tiny(), out, resume=True).run()


def test_a_run_that_failed_lets_go_of_its_folder(tmp_path, monkeypatch):
    """In a notebook the process lives on, and the second try would be refused for ever."""
    out = tmp_path / "run"
    run = start(tiny(), out)
    monkeypatch.setattr(run, "_train", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:  # and with it, all of the run's objects
        run.run()
    assert kept
    start(tiny(), out, resume=True).run()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    """Some network file systems; silence would be a promise."""

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    FolderLock(tmp_path).release()
    assert f"warning: --out {tmp_path}: its file system has no locks" in capsys.readouterr().err


# One after the other


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    """Weights of a stage that the new run has not got, or a checkpoint that --resume would take for the new run's."""
    out = tmp_path / "run"
    start(tiny(stages=STAGES), out).run()
    (out / "notes.txt").write_text("mine")
    start(tiny(seed=5), out, overwrite=True).run()
    kept = {path.name for path in out.iterdir()}
    assert "seed = 5" in (out / "config.toml").read_text()
    assert "notes.txt" in kept
    assert not kept & {"classifier.safetensors", "fcn32s.safetensors"}
    rows = (out / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["stage", "fcn8s", "fcn8s"]


def test_overwrite_is_for_runs_only(tmp_path):
    """A mistyped --out: somebody's pictures would be the price."""
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(UsageError, match="not empty") as caught:
        start(tiny(), tmp_path, overwrite=True)
    assert "--overwrite" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_without_either_option_the_first_run_is_safe(tmp_path):
    out = tmp_path / "run"
    start(tiny(), out).run()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match=r"not empty.*--resume, replace it with --overwrite, or name another"):
        start(tiny(), out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_run_killed_before_it_had_written_anything_starts_afresh(tmp_path):
    """The folder, the lock and half a configuration: neither a run, nor anybody's files."""
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").write_text("process 1")
    (out / ".config.toml.123-456.tmp").write_text("data =")
    start(tiny(), out, resume=True).run()
    assert not (out / ".config.toml.123-456.tmp").exists()
