"""What every test may use: the devices, and the folder of real data, where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import devices
import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder that holds camvid/, nuclei/ and voc/; the pictures' licences keep them out of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MINIFCN_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real pictures at {folder}; MINIFCN_TEST_DATA names the folder of camvid/, nuclei/ and voc/")
    return folder


@pytest.fixture(params=devices.everywhere)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test on each device: what it makes without saying where is made there.

    A module asks for it with `pytestmark = pytest.mark.usefixtures("device")`.
    """
    if request.param == devices.CPU:
        yield request.param
    elif request.param == devices.GPU:
        with devices.by_default("gpu"):
            yield request.param
    else:
        with devices.fake_gpu(), devices.by_default("gpu"), devices.fewer_examples(request.function):
            yield request.param


@pytest.hookimpl(tryfirst=True)  # before any fixture, which would fail without a GPU
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that are for a GPU where none answers: whatever passes there, no GPU had a part in it."""
    if item.get_closest_marker("gpu") is not None and (reason := devices.why_no_gpu()):
        pytest.skip(f"not run on a GPU: {reason}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other devices of tests that are marked `cpu_only`."""

    def elsewhere(item: pytest.Item) -> bool:
        device = getattr(item, "callspec", None) and item.callspec.params.get("device", devices.CPU)
        return item.get_closest_marker("cpu_only") is not None and device not in (None, devices.CPU)

    left_out = [item for item in items if elsewhere(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]
