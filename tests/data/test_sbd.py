"""The Semantic Boundaries Dataset, by itself and together with PASCAL VOC."""

import struct

import numpy as np
import pytest
import scipy.io
from data_sets import SHAPE, labels_of, make_sbd, make_voc, pack, save_image, save_matlab_mask, write_list
from numpy.testing import assert_array_equal

from minifcn.data import SBD, VocSbd, matlab
from minifcn.data.matlab import read_matlab_mask
from minifcn.errors import DataError

NAMES = [f"2008_{number:06}" for number in range(1, 13)]
A, B, C, D, E, F, G, H, *_ = NAMES


@pytest.fixture
def tree(tmp_path):
    return make_sbd(tmp_path, train=[B, A], val=[C])


def test_the_root_may_be_any_of_three_folders(tree):
    for root in (tree, tree.parent, tree.parent.parent):
        dataset = SBD(root, "train")
        assert dataset.name == f"sbd:{root}"
        assert dataset.names == [dataset[i].name for i in range(len(dataset))] == [B, A]
    assert SBD.splits(tree) == ("train", "val")


def test_samples_hold_the_labels(tree):
    sample = SBD(tree, "val")[0]
    assert_array_equal(sample.labels, labels_of(C, source=2) % 255)
    assert sample.image.shape == (*SHAPE, 3)
    assert sample.image.dtype == sample.labels.dtype == np.uint8
    assert len(SBD.classes) == 21


def test_what_is_missing_is_named_or_collected(tree):
    (tree / "cls" / f"{A}.mat").unlink()
    with pytest.raises(DataError, match=rf"cls/{A}\.mat: missing.*1 files of 4"):
        SBD(tree, "train")
    problems = []
    assert SBD(tree, "train", problems=problems).names == [B]
    assert len(problems) == 1
    with pytest.raises(DataError, match=r"no list of images called '\.\./x'. Lists found: train, val"):
        SBD(tree, "../x")


def test_what_is_no_sbd_is_named_with_the_remedy(tree, tmp_path):
    """A traceback for the archive, which cannot be read as it is."""
    with pytest.raises(DataError, match=r"nowhere: no Semantic Boundaries Dataset here: looked for.*--download"):
        SBD(tmp_path / "nowhere", "train")
    packed = tmp_path / "packed" / "benchmark.tgz"
    packed.parent.mkdir()
    pack(packed, tree.parent, mode="w:gz")
    for root in (packed, packed.parent):
        with pytest.raises(
            DataError, match=r"benchmark\.tgz: SBD is compressed, so it must be unpacked first: tar -xf"
        ):
            SBD(root, "train")


def test_sizes_and_labels_are_checked_when_read(tree):
    dataset = SBD(tree, "train")
    save_image(tree / "img" / f"{B}.jpg", (6, 4))
    with pytest.raises(DataError, match=rf"{B}\.jpg is 6 × 4 pixels .*{B}\.mat is 4 × 6"):
        dataset[0]
    save_matlab_mask(tree / "cls" / f"{A}.mat", np.full(SHAPE, 21, np.uint8))
    with pytest.raises(DataError, match=rf"{A}\.mat: label 21 in 24 pixels"):
        dataset[1]


def test_images_of_the_other_split_are_left_out(tree):
    write_list(tree / "all.txt", [A, B, C])
    dataset = SBD(tree, "all", without="val")
    assert (dataset.names, dataset.note) == ([A, B], "1 of the 3 images of all are in val too and are left out.")


# MATLAB's files


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("compressed", [True, False])
def test_masks_are_what_scipy_reads(tmp_path, dtype, compressed):
    """Rows and columns exchanged; a type of another width; padding that is forgotten for some sizes."""
    path, rng = tmp_path / "x.mat", np.random.default_rng(0)
    for shape in [(1, 1), (1, 2), (2, 1), (1, 3), (1, 4), (1, 5), (5, 1), (3, 7), (8, 8), (37, 50)]:
        save_matlab_mask(path, rng.integers(0, 21, shape).astype(dtype), do_compression=compressed)
        labels = read_matlab_mask(path)
        assert_array_equal(labels, scipy.io.loadmat(path)["GTcls"][0]["Segmentation"][0])
        assert labels.dtype == np.uint8
        assert labels.flags.c_contiguous
        assert labels.flags.writeable


def test_a_hand_made_file_of_the_other_byte_order_is_read(tmp_path):
    """MATLAB on other machines; and the shape of the format, byte by byte."""

    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def matrix(kind, rows, columns, name, *parts):
        flags, dimensions = struct.pack(">II", kind, 0), struct.pack(">ii", rows, columns)
        return element(14, element(6, flags) + element(5, dimensions) + element(1, name) + b"".join(parts))

    labels = matrix(9, 2, 3, b"", element(2, bytes([1, 4, 2, 5, 3, 6])))
    length = struct.pack(">HHi", 4, 5, 32)  # a small element: size and type in four bytes, then the value
    structure = matrix(2, 1, 1, b"GTcls", length, element(1, b"Segmentation".ljust(32, b"\0")), labels)
    (tmp_path / "x.mat").write_bytes(b"by hand".ljust(124) + b"\x01\x00MI" + structure)
    assert_array_equal(read_matlab_mask(tmp_path / "x.mat"), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"other": 1}, "no variable GTcls"),
        ({"GTcls": 1}, "no structure"),
        ({"GTcls": {"Other": np.ones((2, 2), np.uint8)}}, "Segmentation.* is not in list"),
        ({"GTcls": {"Segmentation": np.ones((2, 2, 2), np.uint8)}}, "a matrix of 2 × 2 × 2"),
        ({"GTcls": {"Segmentation": np.full((2, 2), 0.5)}}, "a matrix of 2 × 2 values of type 9"),
        ({"GTcls": {"Segmentation": np.full((2, 2), 256, np.int16)}}, "labels from 256 to 256"),
        ({"GTcls": {"Segmentation": np.full((2, 2), -1, np.int16)}}, "labels from -1 to -1"),
        ({"GTcls": {"Segmentation": np.zeros((0, 2), np.uint8)}}, "a matrix of 0 × 2"),
        ({"GTcls": {"Segmentation": "text"}}, "a matrix of 1 × 4 values of type 16"),
    ],
)
def test_files_that_hold_something_else_are_named(tmp_path, variables, reason):
    """Labels modulo 256; a KeyError."""
    scipy.io.savemat(tmp_path / "x.mat", variables)
    with pytest.raises(DataError, match=rf"x\.mat: GTcls\.Segmentation cannot be read.*{reason}"):
        read_matlab_mask(tmp_path / "x.mat")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_cut_file_is_named(tmp_path, compressed):
    path = tmp_path / "x.mat"
    save_matlab_mask(path, labels_of(A), do_compression=compressed)
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 8, 3), len(whole) - 1]:
        path.write_bytes(whole[:length])
        try:
            labels = read_matlab_mask(path)  # of a file that is cut behind what is looked for
        except DataError as error:
            assert "x.mat: GTcls.Segmentation cannot be read" in str(error)  # noqa: PT017
        else:
            assert_array_equal(labels, labels_of(A))
    with pytest.raises(DataError, match=r"gone\.mat: cannot be read \(No such file"):
        read_matlab_mask(tmp_path / "gone.mat")


@pytest.mark.parametrize("compressed", [True, False])
def test_random_damage_ends_in_a_dataerror_or_in_labels(tmp_path, compressed):
    """SciPy's reader takes some of these sizes for the truth, fills the memory and does not come back."""
    path, rng = tmp_path / "x.mat", np.random.default_rng(1)
    save_matlab_mask(path, labels_of(A), do_compression=compressed)
    whole = path.read_bytes()
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            damaged[int(rng.integers(124, len(whole)))] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            labels = read_matlab_mask(path)
            assert (labels.dtype, labels.ndim) == (np.uint8, 2)
        except DataError as error:
            refused += 1
            assert "x.mat" in str(error)  # noqa: PT017
    assert refused > 100


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    """33 MB that become 33 GB; here in small."""
    path = tmp_path / "x.mat"
    save_matlab_mask(path, np.zeros((100, 100), np.uint8))
    read_matlab_mask(path)
    monkeypatch.setattr(matlab, "_LARGEST", 5000)
    assert path.stat().st_size < 5000
    with pytest.raises(DataError, match="compressed part is cut off, or too large"):
        read_matlab_mask(path)
    monkeypatch.setattr(matlab, "_LARGEST", 50_000)
    read_matlab_mask(path)
    path.write_bytes(path.read_bytes().ljust(50_001, b"\0"))
    with pytest.raises(DataError, match="not version 5, or too large"):
        read_matlab_mask(path)


# Together with VOC
#
# VOC 2012: train A B, val C D E.  VOC 2011: val C D.  SBD: train A C F, val D E G.
# So seg11valid is D; trainaug is A B F G.


@pytest.fixture
def both(tmp_path):
    make_voc(tmp_path, train=[A, B], val=[C, D, E], trainval=[A, B, C, D, E], seg11valid=[D])
    make_sbd(tmp_path, train=[A, C, F], val=[D, E, G])
    return tmp_path


def sources(dataset):
    """From where the labels of each image are, 1 for VOC and 2 for SBD."""
    return {sample.name: int(sample.labels[1, 0]) for sample in (dataset[i] for i in range(len(dataset)))}


def test_the_paper_trains_on_sbd_and_validates_on_seg11valid(both):
    """VOC's own labels in training, or its train; SBD's labels in validation."""
    train = VocSbd(both, "train")
    assert sources(train) == {A: 2, C: 2, F: 2}
    assert (train.name, train.note) == (f"voc+sbd:{both}", "")
    for split in ("val", "seg11valid"):
        assert sources(VocSbd(both, split)) == {D: 1}
    assert VocSbd.splits(both) == ("train", "val")
    assert len(train.classes) == 21


def test_trainaug_is_all_but_val(both):
    """An image of VOC's val in training; SBD's label where VOC has one; half of SBD forgotten."""
    dataset = VocSbd(both, "trainaug")
    assert sources(dataset) == {A: 1, B: 1, F: 2, G: 2}
    assert dataset.note == "3 of the 7 images of trainaug are in val2012 too and are left out."
    assert sources(VocSbd(both, "val2012")) == {C: 1, D: 1, E: 1}


def test_no_training_list_holds_images_of_seg11valid(both):
    """Whatever list is asked for: the figure on seg11valid would be too good."""
    dataset = VocSbd(both, "trainval")
    assert sources(dataset) == {A: 1, B: 1, C: 1, E: 1}
    assert dataset.note == "1 of the 5 images of trainval are in seg11valid too and are left out."
    write_list(both / "benchmark_RELEASE" / "dataset" / "train.txt", [A, C, D, F])
    dataset = VocSbd(both, "train")
    assert sources(dataset) == {A: 2, C: 2, F: 2}
    assert dataset.note == "1 of the 4 images of train are in seg11valid too and are left out."


def test_another_validation_set_is_kept_out_as_well(both):
    """SBD's train holds images of VOC 2012's val."""
    dataset = VocSbd(both, "train", without="val2012")
    assert sources(dataset) == {A: 2, F: 2}
    assert dataset.note == "1 of the 3 images of train are in val2012 too and are left out."
    dataset = VocSbd(both, "trainval", without="val2012")
    assert sources(dataset) == {A: 1, B: 1}
    assert dataset.note == (
        "1 of the 5 images of trainval are in seg11valid too and are left out. "
        "2 of the 4 images of trainval are in val2012 too and are left out."
    )
    assert VocSbd(both, "train", without="val").note == ""


@pytest.mark.parametrize("place", ["VOCdevkit/VOC2011", "TrainVal/VOCdevkit/VOC2011", "VOC2011"])
def test_seg11valid_is_computed_from_voc_2011(both, place):
    """VOC 2012's val in its place; SBD's train not taken out of it."""
    (both / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "seg11valid.txt").unlink()
    write_list(both / place / "ImageSets" / "Segmentation" / "val.txt", [C, D])
    assert VocSbd(both, "val").names == [D]
    assert VocSbd(both, "trainval").names == [A, B, C, E]


def test_without_seg11valid_the_error_says_where_it_comes_from(both):
    """Training on what nobody can tell from the validation images."""
    (both / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "seg11valid.txt").unlink()
    for split in ("train", "val", "trainval"):
        with pytest.raises(DataError, match=r"seg11valid\.txt: missing.*shelhamer.*--download.*VOC 2011"):
            VocSbd(both, split)
    assert sources(VocSbd(both, "trainaug")) == {A: 1, B: 1, F: 2, G: 2}  # holds none of VOC 2012's val in any case


def test_the_tar_of_voc_serves_as_well(both, tmp_path):
    """seg11valid.txt then lies beside the tar."""
    root = tmp_path / "packed"
    root.mkdir()
    devkit = both / "VOCdevkit"
    (devkit / "VOC2012" / "ImageSets" / "Segmentation" / "seg11valid.txt").rename(root / "seg11valid.txt")
    pack(root / "VOCtrainval_11-May-2012.tar", devkit)
    (both / "benchmark_RELEASE").rename(root / "benchmark_RELEASE")
    assert sources(VocSbd(root, "val")) == {D: 1}
    assert sources(VocSbd(root, "trainaug")) == {A: 1, B: 1, F: 2, G: 2}


def test_both_must_be_there(both):
    (both / "benchmark_RELEASE").rename(both / "elsewhere")
    with pytest.raises(DataError, match="no Semantic Boundaries Dataset here"):
        VocSbd(both, "val")


def test_what_is_missing_in_either_is_collected(both):
    (both / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{A}.png").unlink()
    (both / "benchmark_RELEASE" / "dataset" / "img" / f"{F}.jpg").unlink()
    problems = []
    assert sorted(VocSbd(both, "trainaug", problems=problems).names) == [B, G]
    assert len(problems) == 2
    with pytest.raises(DataError, match="2 files of 8 are missing"):
        VocSbd(both, "trainaug")


def test_merged_at_random(tmp_path):
    """The rules, said once more with sets, for lists that overlap in every way."""
    rng, pool = np.random.default_rng(2), np.array(NAMES)
    for trial in range(15):
        train12, rest = np.split(rng.permutation(pool), [rng.integers(2, 5)])
        val12, val11 = rest[:5], rest[:3]
        sbd_train, sbd_val = np.split(rng.permutation(pool), [rng.integers(1, 8)])
        root = tmp_path / str(trial)
        make_voc(root, train=train12, val=val12)
        make_sbd(root, train=sbd_train, val=sbd_val)
        valid = set(val11) - set(sbd_train)
        if not valid:
            continue
        write_list(root / "VOC2011" / "ImageSets" / "Segmentation" / "val.txt", val11)
        assert set(VocSbd(root, "val").names) == valid
        assert set(VocSbd(root, "train").names) == set(sbd_train)
        augmented = (set(train12) | set(sbd_train) | set(sbd_val)) - set(val12)
        dataset = VocSbd(root, "trainaug")
        assert sources(dataset) == {name: 1 if name in train12 else 2 for name in augmented}, f"seed 2, trial {trial}"
        assert not set(dataset.names) & (valid | set(val12))
        assert len(set(dataset.names)) == len(dataset)
