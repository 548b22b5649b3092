import os

import numpy as np
import pytest
from data_sets import make_camvid, make_sbd, make_voc
from PIL import Image

from minifcn.data import SBD, VOC2012, CamVid, Folder, Shapes, VocSbd, known_splits, open_dataset, open_for
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


A, B = "2007_000001", "2007_000002"


@pytest.fixture
def published(tmp_path):
    """A root that holds every published data set."""
    make_voc(tmp_path, train=[A], val=[B], trainval=[A, B], seg11valid=[B])
    make_sbd(tmp_path, train=[A], val=[B])
    make_camvid(tmp_path, train=[A], val=[B])
    return tmp_path


KINDS = {"voc": VOC2012, "sbd": SBD, "voc+sbd": VocSbd, "camvid": CamVid}


@pytest.mark.parametrize("kind", KINDS)
def test_published_data_sets_by_prefix(published, kind):
    """A name that a checkpoint records, and that does not open the data set again."""
    dataset = open_dataset(f"{kind}:{published}", "val")
    assert isinstance(dataset, KINDS[kind])
    assert dataset.names == [B]
    again = open_for(dataset.name, "train", seed=3, size=(32, 32), without="val")
    assert (again.names, again.note, again.split) == ([A], "", "train")
    with pytest.raises(UsageError, match=r"--foreground 255: is for the masks of a folder"):
        open_for(dataset.name, "val", foreground=255)
    with pytest.raises(UsageError, match=r"has no option size. Its options are: without\."):
        open_dataset(dataset.name, "val", size=96)


def test_images_to_validate_on_are_left_out(published, folder):
    """--split trainval --val-split val; an option that drawn pictures and folders cannot take."""
    dataset = open_for(f"voc:{published}", "trainval", without="val")
    assert (dataset.names, dataset.note[:12]) == ([A], "1 of the 2 i")
    open_for("shapes", "train", without="val")
    open_for(str(folder), "train", without="val")


@pytest.mark.parametrize("kind", KINDS)
def test_problems_are_collected(published, kind):
    """check_data, which should name every missing file, stopped by the first."""
    gone = {"voc": "VOCdevkit", "sbd": "benchmark_RELEASE", "voc+sbd": "benchmark_RELEASE", "camvid": "CamVid"}[kind]
    for path in (published / gone).rglob(f"{A}.*"):
        path.unlink()
    problems = []
    assert len(open_dataset(f"{kind}:{published}", "train", problems=problems)) == 0
    assert len(problems) == 2
    assert open_dataset("shapes", "train", problems=problems, length=3)[2].name
    assert len(problems) == 2


def test_splits_are_known(published, folder):
    assert known_splits("shapes") == ("train", "val")
    assert known_splits(f"voc:{published}") == ("train", "val", "trainval")
    assert known_splits(f"sbd:{published}") == ("train", "val")
    assert known_splits(f"voc+sbd:{published}") == ("train", "val")
    assert known_splits(f"camvid:{published}") == ("train", "val")
    assert set(known_splits(str(folder))) == {"train", "val"}
    with pytest.raises(DataError, match="no VOC2012 here"):
        known_splits(f"voc:{folder}")
    with pytest.raises(UsageError, match="is not a data set"):
        known_splits("coco")


@pytest.mark.parametrize("kind", [*KINDS, "folder"])
def test_a_name_that_no_file_can_have_is_a_dataerror(kind):
    """OSError: File name too long."""
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(DataError):
            open_dataset(f"{kind}:{name}", "train")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="for root nothing is forbidden")
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_permission_is_a_dataerror(kind, tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError):
        open_dataset(f"{kind}:{tmp_path / 'closed'}", "train")


@pytest.mark.parametrize("spec", ["shape", "camvid", "sbd:", "voc", "voc:", "folder:", "coco:somewhere/else", ""])
def test_unknown_specs_name_what_is_accepted(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"shapes.*voc:ROOT.*sbd:ROOT.*voc\+sbd:ROOT.*camvid:ROOT.*folder"):
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
