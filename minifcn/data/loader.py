"""Batches in an order that can be repeated, prepared by threads while the network computes.

What a batch holds depends on (seed, epoch, position) and on nothing else: not on the number of threads, nor on what
was read before. So a run is resumed in mid-epoch by `epoch(e, start=k)`, and there is no state to save.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minifcn.data.sample import Dataset, Sample
from minifcn.data.transforms import Normalise, collate, resize
from minifcn.errors import DataError, MinifcnError, UsageError
from minifcn.threads import can_start_threads

if TYPE_CHECKING:
    from concurrent.futures import Future

Upload = Callable[[np.ndarray], Callable[[], Any]]
"""A host array -> what gives its copy on a device, when that is computed with."""

# Kinds of random streams. NumPy treats a seed of [1, 2] like one of [1, 2, 0], so every seed here has four numbers.
_ORDER, _AUGMENT = 0, 1


class Batch(NamedTuple):
    """images: float32 (N, C, H, W), padded with 0.  labels: uint8 (N, H, W), padded with 255.

    names: of the samples.  sizes: their (height, width) before padding.
    uploaded: gives the images on the device that they were uploaded to; see Loader.epoch.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    sizes: list[tuple[int, int]]
    uploaded: Callable[[], Any]


def _stay(images: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: images


class _Prepared(NamedTuple):
    """A batch, None if no sample of it can be read, and what is wrong with those that were skipped."""

    batch: Batch | None
    skipped: list[str]


class Loader:
    """Loader(dataset, batch_size, normalise=…).epoch(0) yields the batches of epoch 0.

    normalise: uint8 (H, W, 3) -> float32 (C, H, W).
    size: what every sample is scaled to; by default they keep theirs.  augment: (sample, rng) -> sample, after that.
    shuffle: another order each epoch.
    drop_last: leave out a last batch that is not full.
    prefetch: how many batches are prepared ahead, by at most as many threads; 0 prepares each when it is asked for,
      as does a Python that cannot start threads.

    skip: what to call with the message about a sample that cannot be read (a DataError), in the place of its batch, and
      to go on without it. Where the order is random, the next readable sample of the epoch takes its place; otherwise
      the batch is shorter. Without `skip` the error is raised.

    An exception in a thread reaches the consumer in the place of its batch, with a note that says which sample it was.
    Closing the iterator, or leaving the loop over it, stops the threads.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        normalise: Normalise,
        augment: Callable[[Sample, np.random.Generator], Sample] | None = None,
        size: int | tuple[int, int] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        prefetch: int = 2,
        skip: Callable[[str], None] | None = None,
    ) -> None:
        if batch_size < 1 or prefetch < 0 or seed < 0:
            raise UsageError(
                f"Loader: batch_size {batch_size}, prefetch {prefetch}, seed {seed}; "
                f"batch_size must be at least 1, the others at least 0."
            )
        if drop_last and batch_size > len(dataset):
            raise UsageError(
                f"Loader: batches of {batch_size} from the {len(dataset)} samples of {dataset.name}, and drop_last "
                f"leaves out what does not fill a batch: nothing is left. Lower the batch size."
            )
        self.dataset, self.batch_size, self.normalise = dataset, batch_size, normalise
        self.augment, self.size, self.shuffle, self.seed = augment, size, shuffle, seed
        self.drop_last, self.prefetch, self.skip = drop_last, prefetch, skip

    def __len__(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def epoch(self, epoch: int, start: int = 0, *, upload: Upload = _stay) -> Generator[Batch, None, None]:
        """The batches of an epoch, in order, from number `start` on.

        upload: begins to copy a batch's images to a device, as backend.upload does, as soon as they are prepared, and
          in the same thread: so the copies, too, are made ahead. By default the images stay where they are.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise UsageError(f"Loader: epoch {epoch} from batch {start}; there are {len(self)} batches an epoch.")
        order = self._order(epoch)
        if self.prefetch == 0 or not can_start_threads():
            return self._delivered(self._batch(order, epoch, number, upload) for number in range(start, len(self)))
        return self._delivered(self._prefetched(order, epoch, start, upload))

    def _delivered(self, prepared: Generator[_Prepared, None, None]) -> Generator[Batch, None, None]:
        """The batches that are not empty, after a word about what is missing from them."""
        with closing(prepared):
            for batch, skipped in prepared:
                if self.skip is not None:
                    for what in skipped:
                        self.skip(what)
                if batch is not None:
                    yield batch

    def _order(self, epoch: int) -> np.ndarray:
        """Which sample stands at each position of the epoch."""
        count = len(self.dataset)
        return (
            np.random.default_rng([self.seed, _ORDER, epoch, 0]).permutation(count)
            if self.shuffle
            else np.arange(count)
        )

    def _batch(self, order: np.ndarray, epoch: int, number: int, upload: Upload) -> _Prepared:
        first = number * self.batch_size
        samples: list[Sample] = []
        skipped: list[str] = []
        for position in range(first, min(first + self.batch_size, len(order))):
            if self.skip is None:
                samples.append(self._sample(int(order[position]), epoch, position))
            else:
                samples += self._readable(order, epoch, position, skipped)
        if not samples:
            return _Prepared(None, skipped)
        images, labels, sizes = collate(samples, self.normalise)
        names = [sample.name for sample in samples]
        return _Prepared(Batch(images, labels, names, sizes, upload(images)), skipped)

    def _readable(self, order: np.ndarray, epoch: int, position: int, skipped: list[str]) -> list[Sample]:
        """The sample of a position in a list, or the one that takes its place, or none."""
        error: DataError | None = None
        for distance in range(len(order) if self.shuffle else 1):
            try:
                return [self._sample(int(order[(position + distance) % len(order)]), epoch, position)]
            except DataError as found:
                skipped.append(str(found))
                error = found
        if self.shuffle:
            raise DataError(f"{self.dataset.name}: not one of its {len(order)} samples can be read.") from error
        return []

    def _sample(self, index: int, epoch: int, position: int) -> Sample:
        try:
            sample = self.dataset[index]
            if self.size is not None:
                sample = resize(sample, self.size)
            if self.augment is not None:
                sample = self.augment(sample, np.random.default_rng([self.seed, _AUGMENT, epoch, position]))
            return sample
        except BaseException as error:
            error.add_note(f"This was sample {index} of {self.dataset.name}, at position {position} of epoch {epoch}.")
            raise

    def _prefetched(
        self, order: np.ndarray, epoch: int, start: int, upload: Upload
    ) -> Generator[_Prepared, None, None]:
        from concurrent.futures import ThreadPoolExecutor  # here, for machines without threads

        threads = min(self.prefetch, os.cpu_count() or 1)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="minifcn-loader")
        waiting: deque[Future[_Prepared]] = deque()
        try:
            for number in range(start, len(self)):
                waiting.append(pool.submit(self._batch, order, epoch, number, upload))
                if len(waiting) > self.prefetch:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:  # also when the consumer stops early, or an exception passes
            pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[_Prepared]) -> _Prepared:
    """What a thread has prepared, or the error that ended it; if that is none of ours, with the word that it did."""
    error = future.exception()
    if error is None or isinstance(error, MinifcnError | MemoryError):
        return future.result()
    notes = " ".join(getattr(error, "__notes__", []))
    raise DataError(
        f"a thread that prepares batches has died ({type(error).__name__}: {error}). {notes} Look at this sample; "
        "--debug shows where it happened."
    ) from error
