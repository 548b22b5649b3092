import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minifcn.data import VOID, ClassifiedShapes, Shapes
from minifcn.data.shapes import _EXTENT, _HALF_BORDER, _OUTLINES, OBJECTS, Canvas, Object
from minifcn.errors import UsageError


def touching(labels):
    """The pairs of different labels, void aside, that lie side by side or one above the other."""
    pairs = set()
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        meet = (one != other) & (one != VOID) & (other != VOID)
        pairs |= set(zip(one[meet].tolist(), other[meet].tolist(), strict=True))
    return pairs


def test_samples_are_plain_arrays():
    sample = Shapes("train", size=(40, 60))[3]
    assert sample.image.shape == (40, 60, 3)
    assert sample.labels.shape == (40, 60)
    for array in (sample.image, sample.labels):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert array.flags.writeable
    assert sample.name == "shapes-train-000003"


def test_a_sample_depends_on_seed_split_index_and_size_only():
    """A generator shared between samples makes a picture depend on what was drawn before it."""
    first = Shapes("train", size=48, length=10)
    later = Shapes("train", size=48, length=99)
    list(map(later.__getitem__, range(4)))
    for index in (0, 7):
        assert_array_equal(first[index].image, later[index].image)
        assert_array_equal(first[index].labels, later[index].labels)
    base = first[5].image
    others = [Shapes("val", size=48)[5], Shapes("train", size=48, seed=1)[5], first[6]]
    assert all((base != other.image).mean() > 0.5 for other in others)


def test_indices_are_those_of_a_list():
    dataset = Shapes("val", size=16, length=3)
    assert len(dataset) == 3
    assert_array_equal(dataset[-1].image, dataset[2].image)
    with pytest.raises(IndexError):
        dataset[3]
    assert [sample.name[-1] for sample in dataset] == ["0", "1", "2"]


def test_three_quarters_of_the_labelled_pixels_are_background():
    """The balance of PASCAL VOC: all-background must score .75, as there."""
    counts = np.zeros(256, dtype=int)
    for index in range(300):
        counts += np.bincount(Shapes("train")[index].labels.ravel(), minlength=256)
    share = counts[:9] / counts[:9].sum()
    assert abs(share[0] - 0.75) < 0.03
    assert share[1:].min() > 0.015  # every class is common enough to be learned
    assert counts[9:VOID].sum() == 0
    assert 0.04 < counts[VOID] / counts.sum() < 0.12


def test_void_lies_between_any_two_labels():
    """A gap in the border, between an object and the background or between two objects."""
    for index in range(40):
        assert touching(Shapes("val", size=(64, 96))[index].labels) == set()


def test_touching_finds_a_gap():
    """The test above must be able to fail."""
    labels = np.array([[0, VOID, 1], [0, 1, 1]])
    assert touching(labels) == {(1, 0)}


def test_void_border_is_one_pixel_wide():
    """A disc of radius 17 px: a border of one pixel has the area of its circumference."""
    canvas = Canvas(64, 64, np.random.default_rng(0))
    canvas.draw(Object(OBJECTS.index("disc"), 32.3, 31.6, 20.0, 0.3))
    assert abs(np.count_nonzero(canvas.labels == VOID) - 2 * math.pi * 17) < 8
    assert abs(np.count_nonzero(canvas.labels == 1) - math.pi * 16.5**2) < 20
    assert set(np.unique(canvas.labels)) == {0, 1, VOID}


def test_a_later_object_covers_an_earlier_one():
    canvas = Canvas(64, 64, np.random.default_rng(0))
    canvas.draw(Object(0, 32.0, 20.0, 20.0, 0.0))
    canvas.draw(Object(0, 32.0, 40.0, 20.0, 0.0)._replace(kind=1))
    assert canvas.labels[32, 40] == 2
    assert canvas.labels[32, 10] == 1
    assert touching(canvas.labels) == set()


@pytest.mark.parametrize("kind", range(8), ids=OBJECTS)
def test_outlines_change_by_at_most_one_a_pixel(kind):
    """Steeper "distances" leave gaps in the void border; the class must also have an inside and fit its circle."""
    rng = np.random.default_rng(kind)
    for radius in (5.0, 10.0, 20.0):
        u, v = rng.uniform(-1.5 * radius, 1.5 * radius, (2, 4000))
        direction = rng.uniform(0, 2 * np.pi, 4000)
        distance = _OUTLINES[kind](u, v, radius)
        moved = _OUTLINES[kind](u + 0.5 * np.cos(direction), v + 0.5 * np.sin(direction), radius)
        assert np.abs(moved - distance).max() <= 0.5 + 1e-9
        assert (distance < 0).any()
        # what lies outside the box that is drawn would be cut off
        assert (distance[np.hypot(u, v) > _EXTENT * radius + 2] > _HALF_BORDER).all()


@pytest.mark.parametrize("kind", range(8), ids=OBJECTS)
def test_every_class_shows_labelled_pixels_at_96(kind):
    """Parts so thin that the void border eats them: the smallest objects of the default pictures."""
    canvas = Canvas(40, 40, np.random.default_rng(0))
    canvas.draw(Object(kind, 20.0, 20.0, 0.115 * 96, 0.4))
    assert np.count_nonzero(canvas.labels == kind + 1) > 20


@pytest.mark.parametrize("name", ["ring", "gear"])
def test_holes_are_background(name):
    canvas = Canvas(64, 64, np.random.default_rng(0))
    canvas.draw(Object(OBJECTS.index(name), 32.0, 32.0, 20.0, 0.4))
    assert canvas.labels[32, 32] == 0
    assert np.count_nonzero(canvas.labels == OBJECTS.index(name) + 1) > 200


def test_objects_stand_out_from_the_background():
    """An object drawn in the labels but not, or elsewhere, in the picture."""
    for kind in range(8):
        empty, drawn = (Canvas(64, 64, np.random.default_rng(kind)) for _ in range(2))
        drawn.draw(Object(kind, 32.0, 32.0, 22.0, 1.0))
        change = np.abs(drawn.image - empty.image).sum(axis=0)
        assert (change[drawn.labels == kind + 1] > 5).mean() > 0.95
        assert change[:8, :8].max() == 0


@pytest.mark.parametrize("size", [16, (16, 17), (17, 50), (33, 200), (128, 96)])
def test_any_size_works(size):
    """Sizes at which a grid of noise or the box of an object degenerates."""
    for index in range(10):
        sample = Shapes("train", size=size)[index]
        assert sample.labels.shape == ((size, size) if isinstance(size, int) else size)
        assert touching(sample.labels) == set()


def test_objects_scale_with_the_picture():
    """Twice the side: about four times the object pixels, so the balance stays."""
    shares = [np.mean([(Shapes(size=size)[i].labels == 0).mean() for i in range(60)]) for size in (64, 128, (64, 192))]
    assert max(shares) - min(shares) < 0.08


def test_pictures_are_neither_dark_nor_flat():
    """Colours from 0 to 1 that are cast to bytes, or clipped to white."""
    images = np.stack([Shapes(size=48)[i].image for i in range(20)])
    assert images.std() > 30
    assert 60 < images.mean() < 190


def test_hue_alone_does_not_tell_the_class():
    """The nearest mean colour must guess far worse than an outline does, and still better than chance."""
    colors, kinds = [], []
    for index in range(400):
        image, labels, _ = ClassifiedShapes("train", size=64)[index]
        colors.append(image[26:38, 26:38].reshape(-1, 3).mean(axis=0))
        kinds.append(labels[0, 0])
    colors, kinds = np.array(colors), np.array(kinds)
    means = np.stack([colors[:200][kinds[:200] == kind].mean(axis=0) for kind in range(8)])
    guesses = ((colors[200:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert 1 / 8 < (guesses == kinds[200:]).mean() < 0.6


def test_classified_shapes_cover_all_classes_and_repeat():
    dataset = ClassifiedShapes("val", size=(48, 64), length=160)
    items = [dataset[index] for index in range(len(dataset))]
    assert {int(sample.labels[0, 0]) for sample in items} == set(range(8))
    assert all((sample.labels == sample.labels[0, 0]).all() for sample in items)
    image = dataset[9].image
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert_array_equal(image, items[9][0])
    assert dataset.classes == Shapes.classes[1:]


def test_classified_shapes_are_other_pictures_than_shapes():
    """One stream of random numbers for both would show the classifier the validation pictures."""
    pictures = [(ClassifiedShapes("val", size=64)[i][0], Shapes("val", size=64)[i].image) for i in range(10)]
    differences = [np.abs(one.astype(int) - other) for one, other in pictures]
    assert np.median(differences) > 20  # one background with another grain differs by about 8


@pytest.mark.parametrize(
    "arguments",
    [{"split": "test"}, {"size": 15}, {"size": (16, 8)}, {"length": 0}, {"seed": -1}],
)
def test_impossible_arguments_are_refused(arguments):
    for kind in (Shapes, ClassifiedShapes):
        with pytest.raises(UsageError, match="shapes"):
            kind(**arguments)
