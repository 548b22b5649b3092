"""tests/gpu_report.sh where there is no GPU. On a machine with one, it is to be run, not tested."""

import os
import subprocess
import sys
from pathlib import Path

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
