import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minifcn import Tensor, nn, ops
from minifcn.data import VOID, Augment, Sample, collate, resize
from minifcn.data.transforms import IMAGENET_MEAN, adjust_color, crop, flip, pad
from minifcn.errors import UsageError
from minifcn.training.optim import Adam


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


def test_a_crop_covers_the_middle_more_often_than_the_edge():
    """The stated probability, by hand for 4 rows and then by drawing: a crop that misses the last place differs."""

    def coverage(length, part):
        y = np.arange(length)
        return (np.minimum(y, length - part) - np.maximum(0, y - part + 1) + 1) / (length - part + 1)

    assert coverage(4, 2).tolist() == [1 / 3, 2 / 3, 2 / 3, 1 / 3]
    assert coverage(7, 3).sum() == pytest.approx(3)  # a crop of 3 rows holds 3 rows
    sample, augment, rng = (
        sample_of(np.arange(35).reshape(5, 7)),
        Augment(flip=False, crop=(2, 3)),
        np.random.default_rng(0),
    )
    seen, draws = np.zeros(35), 3000
    for _ in range(draws):
        seen[augment(sample, rng).labels] += 1
    expected = np.outer(coverage(5, 2), coverage(7, 3)).ravel()
    standard_errors = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(seen / draws - expected) < 4 * standard_errors).all()


def test_brightness_contrast_and_saturation_by_hand():
    """One white and one red pixel, (255, 255, 255) and (200, 0, 0), whose greys are 255 and 0.299 · 200 = 59.8."""
    image = np.array([[[255, 255, 255], [200, 0, 0]]], np.uint8)
    sample = Sample(image, np.array([[1, 2]], np.uint8), "x")
    assert adjust_color(sample, 0.5, 1, 1).image.tolist() == [[[128, 128, 128], [100, 0, 0]]]  # 127.5 is rounded
    assert adjust_color(sample, 2, 1, 1).image.tolist() == [[[255, 255, 255], [255, 0, 0]]]  # clipped, not wrapped
    assert adjust_color(sample, 1, 0, 1).image.tolist() == [[[157] * 3, [157] * 3]]  # (255 + 59.8) / 2 = 157.4
    assert adjust_color(sample, 1, 1, 0).image.tolist() == [[[255] * 3, [60] * 3]]
    assert adjust_color(sample, 1, 1, 1.5).image.tolist() == [[[255] * 3, [255, 0, 0]]]  # 1.5 · 200 − 0.5 · 59.8 = 270
    assert adjust_color(sample, 0.5, 0, 1).image.tolist() == [[[79] * 3, [79] * 3]]  # the mean of the darkened picture
    assert image[0, 1, 0] == 200


def test_factors_of_one_change_nothing_and_greys_stay_grey():
    """Rounding down by one at each pass, or weights of the channels that do not add up to one."""
    rng = np.random.default_rng(0)
    sample = Sample(rng.integers(0, 256, (9, 8, 3), np.uint8), np.zeros((9, 8), np.uint8), "x")
    assert_array_equal(adjust_color(sample, 1, 1, 1).image, sample.image)
    grey = Sample(np.repeat(sample.image[..., :1], 3, axis=-1), sample.labels, "x")
    assert_array_equal(adjust_color(grey, 1, 1, 0.3).image, grey.image)


def test_the_three_adjustments_are_made_one_after_the_other():
    """The single affine map against three passes in float64; where nothing is clipped they agree to rounding."""
    rng = np.random.default_rng(1)
    sample = Sample(rng.integers(90, 140, (6, 5, 3), np.uint8), np.zeros((6, 5), np.uint8), "x")
    x = sample.image * 1.2
    x = 0.7 * x + 0.3 * (x @ [0.299, 0.587, 0.114]).mean()
    x = 1.4 * x - 0.4 * (x @ [0.299, 0.587, 0.114])[..., None]
    assert_allclose(adjust_color(sample, 1.2, 0.7, 1.4).image, x, rtol=0, atol=0.501)  # rounded to whole numbers


def test_jitter_changes_colours_and_nothing_else():
    """Labels that move along, an image of floats, one factor for every picture, or a factor beyond its range."""
    rng = np.random.default_rng(0)
    sample = Sample(rng.integers(60, 180, (12, 10, 3), np.uint8), rng.integers(0, 3, (12, 10), np.uint8), "x")
    augment = Augment(flip=False, jitter=0.3)
    changed = [augment(sample, rng) for _ in range(200)]
    for one in changed:
        assert_array_equal(one.labels, sample.labels)
        assert one.image.dtype == np.uint8
        assert one.image.flags.c_contiguous
        assert one.name == "x"
    brightness = np.array([one.image.mean() for one in changed]) / sample.image.mean()
    assert 0.69 < brightness.min() < 0.75
    assert 1.25 < brightness.max() < 1.32
    assert brightness.mean() == pytest.approx(1, abs=0.04)  # of 200 factors: three standard errors
    spread = np.array([one.image.std() for one in changed]) / sample.image.std() / brightness
    assert spread.std() > 0.1  # contrast and saturation of their own


def test_without_jitter_the_random_numbers_are_those_of_before():
    """A draw more, and every run of an earlier version would give other weights from the same seed."""
    rng, expected = np.random.default_rng(3), np.random.default_rng(3)
    Augment(crop=2, scale=(0.5, 2), jitter=0.0)(sample_of(np.zeros((8, 8))), rng)
    side = max(round(8 * np.exp(expected.uniform(np.log(0.5), np.log(2)))), 2)
    expected.integers(side - 1), expected.integers(side - 1), expected.integers(2)
    assert rng.random() == expected.random()


def test_padding_keeps_its_colour_under_jitter():
    """Padding that is brightened is no longer 0 after normalisation."""
    sample = sample_of(np.full((2, 2), 100))
    for seed in range(5):
        changed = Augment(crop=4, jitter=0.5)(sample, np.random.default_rng(seed))
        assert (changed.image[changed.labels == VOID] == IMAGENET_MEAN).all()


def learnt(samples, augment, kernel_size, padding, steps=120):
    """A convolution from colours to two classes, trained on augmented samples; returns its accuracy on others."""
    model, rng = nn.Conv2d(3, 2, kernel_size, padding=padding), np.random.default_rng(0)
    model.weight.data[:] = 0  # so that it knows nothing of what it has not seen
    optimizer = Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        images, labels, _ = collate([augment(sample, rng) for sample in samples], lambda x: normalise(x) / 50)
        optimizer.zero_grad()
        ops.softmax_cross_entropy(model(Tensor(images)), labels).backward()
        optimizer.step()

    def accuracy(others):
        images, labels, _ = collate(others, lambda x: normalise(x) / 50)
        return (model(Tensor(images)).data.argmax(axis=1) == labels)[labels != VOID].mean()

    return accuracy


def test_jitter_teaches_the_hue_where_brightness_is_a_coincidence():
    """In training, the red things happen to be bright and the green ones dark; elsewhere it is the other way round."""

    def picture(green, red):
        image, labels = np.empty((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
        image[:, :2], image[:, 2:] = green, red
        labels[:, 2:] = 1
        return Sample(image, labels, "x")

    seen, unseen = picture((70, 90, 70), (170, 130, 130)), picture((130, 170, 130), (90, 70, 70))
    plain, jittered = (learnt([seen] * 4, Augment(flip=False, jitter=jitter), 1, 0) for jitter in (0, 0.6))
    assert plain([seen]) == jittered([seen]) == 1
    assert plain([unseen]) <= 0.5
    assert jittered([unseen]) == 1


def test_flip_teaches_the_mirror_image():
    """Class 1 lies beside a white stripe, in training always to the right of it."""

    def picture(stripe, beside):
        image, labels = np.zeros((3, 6, 3), np.uint8), np.zeros((3, 6), np.uint8)
        image[:, stripe], labels[:, beside] = 255, 1
        return Sample(image, labels, "x")

    seen, mirrored = picture(0, 1), picture(5, 4)
    plain, flipped = (learnt([seen] * 4, Augment(flip=flip), (1, 3), (0, 1)) for flip in (False, True))
    assert plain([seen]) == flipped([seen]) == flipped([mirrored]) == 1
    assert plain([mirrored]) < 1


@pytest.mark.parametrize(
    "arguments", [{"scale": (0, 1)}, {"scale": (2, 1)}, {"crop": 0}, {"jitter": -0.1}, {"jitter": 1}]
)
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
