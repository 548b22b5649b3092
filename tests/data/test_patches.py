"""Patches with one class: which part of the picture, which class, and how often."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minifcn import Tensor
from minifcn.data import VOID, Loader, Sample
from minifcn.data.patches import CentrePatch, patch_around
from minifcn.errors import UsageError
from minifcn.models import patches_around

FILL = (7, 8, 9)


def rng(seed=0):
    return np.random.default_rng(seed)


def numbered(height, width):
    """A picture whose pixel (y, x) is (y, x, 100)."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, np.full((height, width), 100)], axis=2).astype(np.uint8)


def sample(labels):
    labels = np.array(labels, np.uint8)
    return Sample(numbered(*labels.shape), labels, "picture")


def test_a_patch_inside_the_picture_has_its_pixel_in_the_middle():
    """Height taken for width, or off by one: pixel (3, 4) of 3×5 pixels has rows 2 to 4 and columns 2 to 6."""
    patch = patch_around(numbered(8, 9), 3, 4, (3, 5), FILL)
    assert patch.shape == (3, 5, 3)
    assert_array_equal(patch[:, :, 0], np.tile([[2], [3], [4]], 5))
    assert_array_equal(patch[:, :, 1], np.tile([2, 3, 4, 5, 6], (3, 1)))


def test_beyond_the_edge_there_is_the_filling():
    """The picture stretched, wrapped around or shifted into the corner; and both sides at once, where it is smaller."""
    patch = patch_around(numbered(3, 4), 0, 3, (3, 5), FILL)
    assert_array_equal(patch[0], np.tile(FILL, (5, 1)))
    assert_array_equal(patch[1:, :3, 0], [[0, 0, 0], [1, 1, 1]])
    assert_array_equal(patch[1:, :3, 1], [[1, 2, 3], [1, 2, 3]])
    assert_array_equal(patch[1:, 3:], np.broadcast_to(FILL, (2, 2, 3)))
    patch = patch_around(numbered(1, 1), 0, 0, (4, 4), FILL)
    assert_array_equal(patch[1, 1], [0, 0, 100])
    assert (patch == FILL).all(axis=2).sum() == 15


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 2), (9, 30)], ids=str)
def test_patches_lie_as_those_of_the_patch_classifier(size):
    """One that is trained on patches whose pixel lies elsewhere than in those it is later applied to."""
    image = rng().integers(0, 256, (6, 7, 3)).astype(np.uint8)
    images = Tensor(image.transpose(2, 0, 1)[None].astype(np.float32))
    for row, column in np.ndindex(6, 7):
        theirs, _ = patches_around(images, np.zeros((1, 6, 7), int), np.array([[0, row, column]]), size)
        ours = patch_around(image, row, column, size, fill=(0, 0, 0))
        assert_array_equal(ours.transpose(2, 0, 1), theirs.data[0])


def test_the_label_is_that_of_the_pixel_in_the_middle_throughout():
    """The class of a corner, or the part of the labels that the patch covers."""
    picture = sample(rng(1).integers(0, 4, (10, 12)))
    before = picture.image.copy(), picture.labels.copy()
    for seed in range(30):
        patch = CentrePatch((5, 3), FILL)(picture, rng(seed))
        assert (patch.image.shape, patch.labels.shape, patch.name) == ((5, 3, 3), (5, 3), "picture")
        assert (patch.image.dtype, patch.labels.dtype) == (np.uint8, np.uint8)
        row, column, _ = patch.image[2, 1]
        assert_array_equal(patch.labels, picture.labels[row, column])
    assert_array_equal(picture.image, before[0])
    assert_array_equal(picture.labels, before[1])


def test_every_class_of_the_picture_is_as_likely_and_so_is_every_pixel_of_a_class():
    """Pixels drawn alike, of which a hundredth shows the small class; void drawn as if it were one; always the first.

    3 classes: a third each, of which the two pixels of class 2 have a sixth each. 3000 draws: 4 σ are 0.035."""
    labels = np.zeros((10, 10))
    labels[2, 3], labels[7, 8], labels[5, 5], labels[0] = 2, 2, 9, VOID
    draw, generator, count = CentrePatch(1), rng(), 3000
    patches = [draw(sample(labels), generator) for _ in range(count)]
    drawn = np.array([patch.labels[0, 0] for patch in patches])
    assert set(drawn) == {0, 2, 9}
    for kind in (0, 2, 9):
        assert abs((drawn == kind).mean() - 1 / 3) < 0.035
    at = [tuple(map(int, patch.image[0, 0, :2])) for patch in patches]
    for place in ((2, 3), (7, 8)):
        assert abs(at.count(place) / count - 1 / 6) < 0.03
    assert {place for place, kind in zip(at, drawn, strict=True) if kind == 0} == {
        (row, column) for row in range(1, 10) for column in range(10) if labels[row, column] == 0
    }


def test_a_picture_without_labels_gives_a_patch_without_a_label():
    """An exception in the middle of an epoch, or background learnt from pixels that nobody labelled."""
    patch = CentrePatch(4)(sample(np.full((3, 3), VOID)), rng())
    assert_array_equal(patch.labels, VOID)


def test_the_generator_decides_everything():
    """Chance from elsewhere: a run that cannot be repeated."""
    picture = sample(rng(1).integers(0, 4, (10, 12)))
    first, again, other = (CentrePatch(5)(picture, rng(seed)) for seed in (3, 3, 4))
    assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_it_is_a_loader_s_augmentation():
    """Batches of pictures of different sizes, each with its patch of the one size that was asked for."""

    class Pictures:
        classes, name = ("a", "b", "c", "d"), "pictures"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return sample(rng(index).integers(0, 4, (6 + index, 9)))

    loader = Loader(
        Pictures(), 3, normalise=lambda image: image.transpose(2, 0, 1) / np.float32(1), augment=CentrePatch(8)
    )
    (batch,) = loader.epoch(0)
    assert (batch.images.shape, batch.labels.shape) == ((3, 3, 8, 8), (3, 8, 8))
    assert all(len(np.unique(labels)) == 1 for labels in batch.labels)


@pytest.mark.parametrize("size", [0, (3, 0), (-1, 4)])
def test_a_size_that_is_not_positive_is_refused(size):
    """An empty patch, which fails in the first convolution."""
    with pytest.raises(UsageError, match=r"CentrePatch: the size .* is not a positive \(height, width\)"):
        CentrePatch(size)
