import numpy as np
import pytest
from data_sets import SHAPE, labels_of, make_camvid, save_image, save_mask
from numpy.testing import assert_array_equal
from PIL import Image

from minifcn.data import CamVid, camvid_palette, voc_palette
from minifcn.errors import DataError

A, B, C, D = "0001TP_006690", "0001TP_006720", "0006R0_f00930", "Seq05VD_f00001"


@pytest.fixture
def tree(tmp_path):
    return make_camvid(tmp_path, train=[B, A], val=[C], test=[D])


@pytest.fixture
def folder(tmp_path):
    """The plain layout, in which void is 255; but whoever copied the published masks has 11."""
    for split, name in (("train", A), ("val", B)):
        save_image(tmp_path / split / "images" / f"{name}.jpg")
        labels = labels_of(name, classes=11)
        labels[1] = 11
        save_mask(tmp_path / split / "masks" / f"{name}.png", labels)
    return tmp_path


def test_the_published_layout(tree):
    """Label 11 as a twelfth class; the order of the list lost."""
    for root in (tree, tree.parent):
        dataset = CamVid(root, "train")
        assert dataset.name == f"camvid:{root}"
        assert dataset.names == [dataset[i].name for i in range(2)] == [B, A]
    expected = labels_of(B, classes=11)
    assert {255} < set(expected.ravel().tolist())
    assert_array_equal(dataset[0].labels, expected)
    assert dataset[0].image.shape == (*SHAPE, 3)
    assert CamVid.splits(tree) == ("train", "val", "test")
    assert CamVid(tree, "test").names == [D]


def test_the_published_layout_without_lists(tmp_path):
    root = make_camvid(tmp_path, with_lists=False, train=[B, A])
    assert CamVid(root, "train").names == [A, B]
    assert CamVid.splits(root) == ("train",)


def test_a_list_may_name_a_part(tree):
    (tree / "train.txt").write_text(f"train/{A}.png trainannot/{A}.png\n\n")
    assert CamVid(tree, "train").names == [A]


@pytest.mark.parametrize("line", ["a/.. b/x.png", "a b c", "x.png ../..", "x", "a/.png b.png", r"..\..\x y.png"])
def test_a_list_of_something_else_is_refused(tree, line):
    (tree / "train.txt").write_text(line)
    with pytest.raises(DataError, match=r"train\.txt: .* is not `IMAGE MASK`"):
        CamVid(tree, "train")


def test_the_plain_layout(folder):
    """Label 11 refused, since it is no class; or 255 left out."""
    dataset = CamVid(folder, "train")
    expected = labels_of(A, classes=11)
    expected[1] = 255
    assert_array_equal(dataset[0].labels, expected)
    assert dataset.names == [A]
    assert CamVid.splits(folder) == ("train", "val")


def test_the_plain_layout_with_other_classes_is_refused(folder):
    """CamVid's 32 classes under the names of 11."""
    (folder / "classes.txt").write_text("\n".join(CamVid.classes))
    CamVid(folder, "train")
    (folder / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"classes\.txt: 2 classes, but camvid: means CamVid's 11.*without `camvid:`"):
        CamVid(folder, "train")


def test_labels_above_eleven_are_refused(folder):
    dataset = CamVid(folder, "train")
    save_mask(folder / "train" / "masks" / f"{A}.png", np.full(SHAPE, 12, np.uint8))
    with pytest.raises(DataError, match=r"label 12 in 24 pixels, but the data set has 11 classes"):
        dataset[0]


def test_eleven_classes_in_the_published_order():
    """The order is in the masks: another one calls roads trees."""
    classes = "sky building pole road pavement tree sign_symbol fence car pedestrian bicyclist"
    assert " ".join(CamVid.classes) == classes


def test_the_palette_is_camvids(tree):
    """Roads in the colour of VOC's cats. Colours from CamVid's label_colors.txt."""
    palette = CamVid(tree, "train").palette
    assert palette.dtype == np.uint8
    assert palette[3].tolist() == [128, 64, 128]
    assert palette[8].tolist() == [64, 0, 128]
    assert palette[255].tolist() == [0, 0, 0]
    assert len({tuple(color) for color in palette[[*range(11), 255]].tolist()}) == 12
    assert_array_equal(palette[11:255], voc_palette()[11:255])
    assert_array_equal(palette, camvid_palette())


def test_what_is_missing_is_named_or_collected(tree):
    (tree / "trainannot" / f"{A}.png").unlink()
    with pytest.raises(DataError, match=rf"trainannot/{A}\.png: missing.*1 files of 4"):
        CamVid(tree, "train")
    problems = []
    assert CamVid(tree, "train", problems=problems).names == [B]
    assert len(problems) == 1
    with pytest.raises(DataError, match=r"there is no split '\.\.'"):
        CamVid(tree, "..")


def test_partners_that_are_missing_are_found_without_a_list(folder):
    """An image without a mask passed over, or a mask without an image, since nothing lists them."""
    save_image(folder / "train" / "images" / f"{B}.jpg")
    save_mask(folder / "train" / "masks" / f"{C}.png", labels_of(C, 11))
    problems = []
    assert CamVid(folder, "train", problems=problems).names == [A]
    assert [f"{B}.png" in problems[0], f"{C}.*" in problems[1], len(problems)] == [True, True, 2]


def test_splits_that_are_not_there_are_named(tree, tmp_path):
    (tree / "val").rename(tree / "elsewhere")
    with pytest.raises(DataError, match=r"there is no split 'val'.*found here: train, test"):
        CamVid(tree, "val")
    with pytest.raises(DataError, match=r"no CamVid here: looked for train/ and trainannot/.*--download"):
        CamVid(tmp_path / "nowhere", "train")
    (tmp_path / "empty" / "trainannot").mkdir(parents=True)
    (tmp_path / "empty" / "train").mkdir()
    with pytest.raises(DataError, match="no image in this folder"):
        CamVid(tmp_path / "empty", "train")


def test_images_of_the_other_split_are_left_out(tree):
    with (tree / "train.txt").open("a") as file:
        file.write(f"val/{C}.png valannot/{C}.png\n")
    Image.new("RGB", SHAPE[::-1]).save(tree / "train" / f"{C}.png")
    Image.new("L", SHAPE[::-1]).save(tree / "trainannot" / f"{C}.png")
    dataset = CamVid(tree, "train", without="val")
    assert dataset.names == [B, A]
    assert dataset.note == "1 of the 3 images of train are in val too and are left out."


def test_the_shared_camvid(shared_data):
    """The plain folder of real pictures: the shares of the classes as its description states them."""
    dataset = CamVid(shared_data / "camvid", "val")
    assert len(dataset) == 101
    counts = sum(np.bincount(dataset[i].labels.ravel(), minlength=256) for i in range(0, 101, 10))
    assert counts[11:255].sum() == 0
    assert (counts[:11] > 0).all()
    assert dataset[0].labels.shape == (360, 480)
