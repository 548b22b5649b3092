"""What every test may use: the folder of real data, where there is one."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder that holds camvid/, nuclei/ and voc/; the pictures' licences keep them out of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MINIFCN_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real pictures at {folder}; MINIFCN_TEST_DATA names the folder of camvid/, nuclei/ and voc/")
    return folder
