import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minifcn.data import VOID, Augment, Sample, collate, resize
from minifcn.data.transforms import IMAGENET_MEAN, crop, flip, pad
from minifcn.errors import UsageError


def sample_of(labels, name="x"):
    """A sample whose image repeats its labels in every channel, so that one tells where the other went."""
    labels = np.array(labels, dtype=np.uint8)
    return Sample(np.stack([labels] * 3, axis=-1), labels, name)


def normalise(image):
    return image.transpose(2, 0, 1).astype(np.float32) - 100


def assert_aligned(sample):
    """Image and labels were moved alike; padding is the mean in one and void in the other."""
    void = sample.labels == VOID
    assert_array_equal(sample.image[..., 0][~void], sample.labels[~void])
    assert (sample.image[void] == IMAGENET_MEAN).all()
    for array in sample[:2]:
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_resize_takes_nearest_labels_and_bilinear_colours():
    """Bilinear labels between classes 0 and 2 invent class 1."""
    sample = resize(sample_of([[0, 2], [0, 2]]), (4, 8))
    assert sample.labels.tolist() == [[0, 0, 0, 0, 2, 2, 2, 2]] * 4
    wide = resize(Sample(np.array([[[0] * 3, [200] * 3]], dtype=np.uint8), np.zeros((1, 2), np.uint8), "x"), (1, 4))
    assert wide.image[0, :, 0].tolist() == [0, 50, 150, 200]


def test_resize_has_height_before_width():
    assert resize(sample_of(np.zeros((4, 6))), (8, 3)).image.shape == (8, 3, 3)
    assert resize(sample_of(np.zeros((4, 6))), 5).labels.shape == (5, 5)
    with pytest.raises(UsageError, match="0 × 3"):
        resize(sample_of([[1]]), (0, 3))


def test_flip_crop_and_pad_move_image_and_labels_together():
    sample = sample_of([[1, 2, 3], [4, 5, 6]])
    assert flip(sample).labels.tolist() == [[3, 2, 1], [6, 5, 4]]
    assert crop(sample, 1, 1, (1, 2)).labels.tolist() == [[5, 6]]
    assert pad(sample, (3, 2)).labels.tolist() == [[1, 2, 3], [4, 5, 6], [VOID] * 3]
    for changed in (flip(sample), crop(sample, 1, 1, (1, 2)), pad(sample, (3, 5))):
        assert_aligned(changed)
    assert sample.labels.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_augment_gives_the_crop_s_size_whatever_the_scale():
    augment = Augment(crop=(20, 30), scale=(0.3, 2.0))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (25, 25))
    for _ in range(50):
        changed = augment(sample_of(labels), rng)
        assert changed.labels.shape == (20, 30)
        assert changed.image.shape == (20, 30, 3)
        assert set(np.unique(changed.labels)) <= {0, 1, 2, VOID}


def test_augment_repeats_with_its_generator_and_reaches_everything():
    """A generator of its own, or a crop that never reaches the last row."""
    sample = sample_of(np.arange(16).reshape(4, 4))
    augment = Augment(crop=2)
    seen = set()
    for seed in range(200):
        first, again = (augment(sample, np.random.default_rng(seed)) for _ in range(2))
        assert_array_equal(first.labels, again.labels)
        assert_aligned(first)
        seen.add(tuple(first.labels.ravel().tolist()))
    assert len(seen) == 2 * 9  # nine places, mirrored or not


def test_augment_mirrors_every_second_time():
    sample = sample_of([[1, 2]])
    rng = np.random.default_rng(0)
    mirrored = [Augment()(sample, rng).labels[0, 0] == 2 for _ in range(400)]
    assert 0.4 < np.mean(mirrored) < 0.6
    assert Augment(flip=False)(sample, rng).labels.tolist() == [[1, 2]]


def test_augment_halves_as_often_as_it_doubles():
    """Factors uniform in the range enlarge three times as often as they shrink."""
    rng = np.random.default_rng(0)
    sides = [
        Augment(flip=False, scale=(0.5, 2))(sample_of(np.zeros((20, 20))), rng).labels.shape[0] for _ in range(400)
    ]
    assert min(sides) >= 10
    assert max(sides) <= 40
    assert 0.4 < np.mean(np.array(sides) < 20) < 0.6


@pytest.mark.parametrize("arguments", [{"scale": (0, 1)}, {"scale": (2, 1)}, {"crop": 0}])
def test_impossible_augmentation_is_refused(arguments):
    with pytest.raises(UsageError, match="Augment"):
        Augment(**arguments)


def test_collate_pads_below_and_right_with_the_mean_and_void():
    """Padding before normalisation puts -mean into the borders; labels padded with 0 count as background."""
    images, labels, sizes = collate([sample_of([[1, 2]]), sample_of([[3], [4], [5]])], normalise)
    assert images.dtype == np.float32
    assert labels.dtype == np.uint8
    assert images.shape == (2, 3, 3, 2)
    assert images[0, 1].tolist() == [[-99, -98], [0, 0], [0, 0]]
    assert images[1, 2].tolist() == [[-97, 0], [-96, 0], [-95, 0]]
    assert labels.tolist() == [[[1, 2], [255, 255], [255, 255]], [[3, 255], [4, 255], [5, 255]]]
    assert sizes == [(1, 2), (3, 1)]


def test_collate_takes_any_number_of_channels():
    images, _, _ = collate([sample_of([[1, 2]])], lambda image: normalise(image)[:1])
    assert images.shape == (1, 1, 1, 2)
    with pytest.raises(UsageError, match="no sample"):
        collate([], normalise)
