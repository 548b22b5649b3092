"""How the tests choose their devices (tests/devices.py, tests/conftest.py)."""

import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import devices

TESTS = Path(__file__).parent


def test_without_a_gpu_its_tests_are_skipped(tmp_path):
    """Hundreds of errors; or a test that never gets to its device, and passes as one that ran on a GPU."""
    (tmp_path / "cupy.py").write_text("raise ImportError('no CuPy in this test')", encoding="utf-8")
    places = [str(tmp_path), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    files = [str(TESTS / name) for name in ("test_gpu_runs.py", "test_kernels.py", "nn/test_layers.py")]
    options = ["-m", "gpu", "-n", "0", "-p", "no:cacheprovider", "--junitxml", str(tmp_path / "tests.xml")]
    command = [sys.executable, "-m", "pytest", *options, *files]
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    cases = list(xml.parse(tmp_path / "tests.xml").getroot().iter("testcase"))
    assert len(cases) > 10
    reason = "not run on a GPU: --device gpu: CuPy cannot be imported (no CuPy in this test)"
    assert all([child.tag for child in case] == ["skipped"] for case in cases)
    assert all(case[0].get("message", "").startswith(reason) for case in cases)


def test_the_fake_is_not_taken_for_a_gpu():
    """`-m gpu` that passes on the fake, because an earlier test left it behind."""
    devices.why_no_gpu.cache_clear()
    with devices.fake_gpu():
        assert devices.why_no_gpu() == "the fake device stands in its place"
    devices.why_no_gpu.cache_clear()
