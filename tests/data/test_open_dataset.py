import numpy as np
import pytest
from PIL import Image

from minifcn.data import Folder, Shapes, open_dataset
from minifcn.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    labels = np.array([[0, 1], [0, 1]], dtype=np.uint8)
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for name in ("a", "b"):
            Image.fromarray(labels).save(tmp_path / "set" / kind / f"{name}.png")
    return tmp_path / "set"


def test_shapes_take_their_options():
    dataset = open_dataset("shapes", "val", size=32, length=7, seed=None)
    assert isinstance(dataset, Shapes)
    assert (dataset.size, len(dataset), dataset.seed, dataset.split) == ((32, 32), 7, 0, "val")


def test_folders_by_path_and_by_name(folder, monkeypatch):
    """The name of a data set, which a checkpoint records, opens it again."""
    dataset = open_dataset(str(folder), "train", foreground=None, seed=3)
    assert isinstance(dataset, Folder)
    assert open_dataset(dataset.name, "train", seed=3).pairs == dataset.pairs
    monkeypatch.chdir(folder.parent)
    assert isinstance(open_dataset("set", "train"), Folder)


def test_voc_by_prefix(tmp_path):
    with pytest.raises(DataError, match="no VOC2012 here"):
        open_dataset(f"voc:{tmp_path}", "train")


@pytest.mark.parametrize("spec", ["shape", "voc", "voc:", "folder:", "coco:somewhere/else", ""])
def test_unknown_specs_name_what_is_accepted(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"shapes.*voc:ROOT.*folder"):
        open_dataset(spec, "train")


def test_missing_paths_are_missing_folders(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        open_dataset(str(tmp_path / "gone"), "train")


def test_options_of_another_kind_are_refused(folder):
    """`--foreground` with shapes, silently ignored, would leave the user wondering."""
    with pytest.raises(UsageError, match=r"shapes has no option foreground. Its options are: size, length, seed"):
        open_dataset("shapes", "train", foreground=255)
    with pytest.raises(UsageError, match="has no option size"):
        open_dataset(str(folder), "train", size=96)
