import threading
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minifcn.data import Augment, ClassifiedShapes, Loader, Sample, Shapes
from minifcn.errors import DataError, UsageError


def normalise(image):
    return image.transpose(2, 0, 1).astype(np.float32) / 255


class Numbers:
    """Sample i is a picture of (1 + i % 3) × 2 pixels of value i; `broken` ones cannot be read."""

    classes, name, palette = ("a", "b"), "numbers", np.zeros((256, 3), np.uint8)

    def __init__(self, count, broken=()):
        self.count, self.broken, self.read = count, broken, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.broken:
            raise DataError(f"{index}.png: this picture cannot be read.")
        shape = (1 + index % 3, 2)
        return Sample(np.full((*shape, 3), index % 256, np.uint8), np.zeros(shape, np.uint8), str(index))


def names(batches):
    return [batch.names for batch in batches]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("minifcn-loader")]


def test_batches_come_in_order_and_the_last_is_short():
    loader = Loader(Numbers(5), 2, normalise=normalise, shuffle=False)
    assert len(loader) == 3
    batches = list(loader.epoch(0))
    assert names(batches) == [["0", "1"], ["2", "3"], ["4"]]
    assert batches[0].sizes == [(1, 2), (2, 2)]
    assert batches[0].images.shape == (2, 3, 2, 2)
    assert batches[0].labels[0].tolist() == [[0, 0], [255, 255]]
    assert batches[0].images.dtype == np.float32
    assert batches[2].images.flags.c_contiguous


def test_drop_last_leaves_out_the_short_batch():
    loader = Loader(Numbers(5), 2, normalise=normalise, shuffle=False, drop_last=True)
    assert len(loader) == 2
    assert names(loader.epoch(0)) == [["0", "1"], ["2", "3"]]
    with pytest.raises(UsageError, match="batches of 6 from the 5 samples of numbers"):
        Loader(Numbers(5), 6, normalise=normalise, drop_last=True)


def test_every_epoch_shows_every_sample_once_in_another_order():
    loader = Loader(Numbers(20), 3, normalise=normalise)
    orders = [[name for batch in loader.epoch(epoch) for name in batch.names] for epoch in range(3)]
    assert all(sorted(map(int, order)) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert names(loader.epoch(1)) == names(Loader(Numbers(20), 3, normalise=normalise).epoch(1))
    assert names(loader.epoch(1)) != names(Loader(Numbers(20), 3, normalise=normalise, seed=1).epoch(1))


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_threads_change_nothing(prefetch):
    """A generator shared by threads gives whichever thread comes first the next number."""
    arguments = {"normalise": normalise, "augment": Augment(crop=24, scale=(0.5, 2)), "size": (32, 40)}
    alone = list(Loader(Shapes(size=32, length=14), 3, prefetch=0, **arguments).epoch(2))
    ahead = list(Loader(Shapes(size=32, length=14), 3, prefetch=prefetch, **arguments).epoch(2))
    assert len(alone) == len(ahead) == 5
    for one, other in zip(alone, ahead, strict=True):
        assert_array_equal(one.images, other.images)
        assert_array_equal(one.labels, other.labels)
        assert (one.names, one.sizes) == (other.names, other.sizes)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_an_epoch_resumes_at_any_batch(start, prefetch):
    """Augmentation drawn from one stream an epoch would begin anew."""
    arguments = {"normalise": normalise, "augment": Augment(crop=24), "prefetch": prefetch}
    loader = Loader(Shapes(size=32, length=14), 3, **arguments)
    whole, rest = list(loader.epoch(1))[start:], list(loader.epoch(1, start=start))
    assert names(whole) == names(rest)
    for one, other in zip(whole, rest, strict=True):
        assert_array_equal(one.images, other.images)


def test_augmentation_differs_between_epochs_and_positions():
    """The same crop of a picture in every epoch is no augmentation."""
    arguments = {"normalise": normalise, "augment": Augment(flip=False, crop=24), "shuffle": False}
    loader = Loader(Shapes(size=64, length=6), 1, **arguments)
    epochs = [np.concatenate([batch.images for batch in loader.epoch(epoch)]) for epoch in range(2)]
    assert (epochs[0] != epochs[1]).any(axis=(1, 2, 3)).all()


def test_augmentation_differs_within_a_batch():
    """A generator made once a batch, or once an epoch, mirrors all pictures or none."""
    lone = Shapes(size=64, length=1)[0]

    class Copies(Numbers):
        def __getitem__(self, index):
            return lone

    loader = Loader(Copies(8), 8, normalise=normalise, augment=Augment(flip=False, crop=24))
    images = next(loader.epoch(0)).images
    assert len({image.tobytes() for image in images}) == 8


def test_scaling_comes_before_augmentation():
    batch = next(Loader(Shapes(size=32), 2, normalise=normalise, size=(48, 40)).epoch(0))
    assert batch.images.shape == (2, 3, 48, 40)
    assert batch.labels.shape == (2, 48, 40)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_exception_comes_where_its_batch_would(prefetch):
    """Raised at once it would lose good batches; swallowed it would hang or shorten the epoch."""
    loader = Loader(Numbers(8, broken=[5]), 2, normalise=normalise, shuffle=False, prefetch=prefetch)
    batches = loader.epoch(4)
    assert [next(batches).names for _ in range(2)] == [["0", "1"], ["2", "3"]]
    with pytest.raises(DataError, match=r"5\.png") as caught:
        next(batches)
    assert caught.value.__notes__ == ["This was sample 5 of numbers, at position 5 of epoch 4."]
    assert loader_threads() == []


def test_no_more_than_prefetch_batches_are_read_ahead():
    """Without a bound the whole data set ends up in memory."""
    dataset = Numbers(100)
    batches = Loader(dataset, 1, normalise=normalise, shuffle=False, prefetch=3).epoch(0)
    next(batches)
    time.sleep(0.2)  # time enough for threads without a bound to read everything
    assert len(dataset.read) <= 4
    batches.close()


def test_closing_early_stops_the_threads():
    """Threads that wait for room in a queue keep the program from ending."""
    batches = Loader(Numbers(1000), 1, normalise=normalise, prefetch=4).epoch(0)
    next(batches)
    assert loader_threads()
    batches.close()
    assert loader_threads() == []


def test_leaving_the_loop_stops_the_threads():
    for _ in Loader(Numbers(1000), 1, normalise=normalise, prefetch=2).epoch(0):
        break
    assert loader_threads() == []


def test_an_iterator_never_started_has_no_threads():
    batches = Loader(Numbers(10), 1, normalise=normalise).epoch(0)
    assert loader_threads() == []
    batches.close()


def test_prefetch_0_reads_in_the_caller_s_thread():
    """Where threads are not to be had, as in a browser."""
    dataset = Numbers(10)
    batches = Loader(dataset, 2, normalise=normalise, shuffle=False, prefetch=0).epoch(0)
    next(batches)
    assert dataset.read == [0, 1]


def test_classified_shapes_go_through_the_same_loader():
    """Every pixel of a picture carries its class, so the first one's label is the picture's."""
    dataset = ClassifiedShapes(size=32, length=5)
    batches = list(Loader(dataset, 2, normalise=normalise, shuffle=False).epoch(0))
    assert [batch.labels.shape for batch in batches] == [(2, 32, 32), (2, 32, 32), (1, 32, 32)]
    classes = np.concatenate([batch.labels[:, 0, 0] for batch in batches]).tolist()
    assert classes == [dataset[i].labels[0, 0] for i in range(5)]
    assert_array_equal(batches[1].images[0], normalise(dataset[2].image))


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"prefetch": -1}, {"seed": -1}])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(UsageError, match="Loader"):
        Loader(Numbers(3), **{"batch_size": 1, "normalise": normalise, **arguments})


@pytest.mark.parametrize("where", [(0, 4), (0, -1), (-1, 0)])
def test_impossible_places_are_refused_at_once(where):
    """A generator that checks only when it is first asked raises far from the mistake."""
    with pytest.raises(UsageError, match="3 batches an epoch"):
        Loader(Numbers(3), 1, normalise=normalise).epoch(*where)
