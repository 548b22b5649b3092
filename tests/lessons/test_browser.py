"""What a browser's Python lacks: threads and processes. The library and the lessons up to the ninth do without."""

import json
import subprocess
import sys

import pytest

from course import notebooks

FORBID = """
import _thread, os, subprocess, sys, threading

def forbidden(*arguments, **options):
    raise RuntimeError("can't start new thread")

_thread.start_new_thread = threading._start_new_thread = forbidden
threading.Thread.start = forbidden
subprocess.Popen.__init__ = forbidden
os.fork = os.posix_spawn = os.system = forbidden
sys.modules["multiprocessing"] = None
"""

RUN_CELLS = """
import json, linecache

for lesson, sources in json.load(open({cells!r}, encoding="utf-8")).items():
    names = {{"__name__": "__main__"}}
    for number, source in enumerate(sources):
        file = f"<{{lesson}}, {{number}}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec"), names)
"""

LIBRARY = """
import numpy as np
from minifcn import Tensor, ops, models, data
from minifcn.threads import get_threads
from minifcn.training import Adam
from minifcn.weights import Preprocessing

assert get_threads() == 1
network = models.FCN8s(9, width=2, fc_width=4, geometry="same")
loader = data.Loader(data.Shapes("train", size=32), 2, normalise=Preprocessing().apply)
adam = Adam(network.parameters(), lr=1e-3)
for batch in loader.epoch(0):
    loss = ops.softmax_cross_entropy(network(Tensor(batch.images)), batch.labels)
    adam.zero_grad()
    loss.backward()
    adam.step()
    break
assert np.isfinite(loss.item())
print("trained")
"""


def _run(program, tmp_path):
    environment = {"PYTHONPATH": str(notebooks.LESSONS_FOLDER), "MINIFCN_MINE": str(tmp_path / "mine")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", FORBID + program],
        cwd=notebooks.LESSONS_FOLDER,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_library_trains_without_threads(tmp_path):
    done = _run(LIBRARY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trained\n"


@pytest.mark.parametrize("solutions", [True, False])
def test_lessons_run_without_threads(solutions, tmp_path):
    cells = {}
    for text in notebooks.texts(range(1, 10)):
        notebook = notebooks.read(text)
        notebook = notebooks.with_solutions(notebook) if solutions else notebook
        cells[text.stem] = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (tmp_path / "cells.json").write_text(json.dumps(cells), encoding="utf-8")
    done = _run(RUN_CELLS.format(cells=str(tmp_path / "cells.json")), tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("right. It is kept" in done.stdout) == solutions
    assert ("not written yet" in done.stdout) != solutions


def test_threads_asked_for_where_there_are_none_are_refused(tmp_path):
    done = _run("from minifcn.threads import set_threads\nset_threads(2)", tmp_path)
    assert "use --threads 1" in done.stderr
