import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from minifcn.data import VOC2012, voc_palette
from minifcn.errors import DataError

LABELS = np.array([[0, 0, 255, 20, 20], [0, 0, 255, 20, 20]], dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    """A VOCdevkit of two images."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    mask = Image.frombytes("P", (5, 2), LABELS.tobytes())
    mask.putpalette(voc_palette().tobytes())
    for name in ("2007_000001", "2007_000002"):
        Image.new("RGB", (5, 2), "gray").save(root / "JPEGImages" / f"{name}.jpg")
        mask.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000002\n2007_000001\n")
    return root


def test_the_root_may_be_any_of_three_folders(tree):
    for root in (tree, tree.parent, tree.parent.parent):
        dataset = VOC2012(root, "train")
        assert dataset.name == f"voc:{root}"
        assert [dataset[i].name for i in range(len(dataset))] == ["2007_000002", "2007_000001"]


def test_samples_hold_labels_not_colours(tree):
    sample = VOC2012(tree, "train")[0]
    assert_array_equal(sample.labels, LABELS)
    assert sample.image.shape == (2, 5, 3)
    assert sample.image.dtype == sample.labels.dtype == np.uint8


def test_twenty_classes_and_background():
    assert len(VOC2012.classes) == 21
    assert (VOC2012.classes[0], VOC2012.classes[15], VOC2012.classes[20]) == ("background", "person", "tvmonitor")


def test_what_is_missing_is_named(tree, tmp_path):
    with pytest.raises(DataError, match=r"no VOC2012 here: looked for ImageSets/Segmentation"):
        VOC2012(tmp_path / "gone", "train")
    with pytest.raises(DataError, match=r"no list of images called 'val'. Lists found: train"):
        VOC2012(tree, "val")
    (tree / "SegmentationClass" / "2007_000001.png").unlink()
    with pytest.raises(DataError, match=r"2007_000001\.png: missing.*1 files of 4"):
        VOC2012(tree, "train")


@pytest.mark.parametrize("content", ["../../secret\n", "a.jpg\n", "/etc/passwd", "", "\n", "a\x00b"])
def test_lists_of_anything_but_names_are_refused(tree, content):
    """`../` in a list reads files outside the data set."""
    (tree / "ImageSets" / "Segmentation" / "odd.txt").write_text(content)
    with pytest.raises(DataError, match=r"odd\.txt"):
        VOC2012(tree, "odd")


def test_lists_outside_their_folder_are_refused(tree):
    with pytest.raises(DataError, match="no list of images"):
        VOC2012(tree, "../Segmentation/train")


def test_sizes_and_labels_are_checked_when_read(tree):
    dataset = VOC2012(tree, "train")
    Image.fromarray(np.full((2, 5), 21, dtype=np.uint8)).save(tree / "SegmentationClass" / "2007_000002.png")
    with pytest.raises(DataError, match=r"2007_000002\.png: label 21 in 10 pixels, but the data set has 21 classes"):
        dataset[0]
    Image.fromarray(np.zeros((5, 2), dtype=np.uint8)).save(tree / "SegmentationClass" / "2007_000002.png")
    with pytest.raises(DataError, match=r"2007_000002\.jpg is 2 × 5 pixels .*2007_000002\.png is 5 × 2"):
        dataset[0]
