"""Threads: whether this Python can start them, and a crew of them that works through a list of items.

In a browser (Pyodide) none can be started, and everything is done in turn.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any


@functools.cache
def can_start_threads() -> bool:
    """Found by starting one."""
    thread = threading.Thread(target=int)
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread"
        return False
    thread.join()
    return True


class Crew:
    """The calling thread and some helpers, who take items from one list until none is left.

    A thread that sleeps needs 50 to 200 µs to wake up, which is as long as a small layer takes. So the caller does not
    hand work out and wait, as with concurrent.futures: it begins at once, and the helpers join in when they are awake.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        for number in range(1, threads):
            threading.Thread(target=self._help, name=f"minifcn-{number}", daemon=True).start()

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """`[function(item) for item in items]`, on all threads. Raises the exception of the first item that has one."""
        if len(items) < 2:
            return [function(item) for item in items]
        job = _Job(function, items)
        for _ in range(min(self.threads, len(items)) - 1):
            self._jobs.put(job)
        job.work()
        return job.wait()

    def dismiss(self) -> None:
        """End the helpers, as soon as they are done with what they are at."""
        for _ in range(1, self.threads):
            self._jobs.put(None)

    def _help(self) -> None:
        while self._take():
            pass

    def _take(self) -> bool:
        """One job; a function of its own, so that a helper that sleeps holds on to no arrays of the last one."""
        job = self._jobs.get()
        if job is not None:
            job.work()
        return job is not None


class _Job:
    """The items of one `map`. Taking from a list and appending to it are atomic in CPython, so they need no lock."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self.function, self.items = function, items
        self.results: list[Any] = [None] * len(items)
        self.errors: dict[int, BaseException] = {}
        self.left = list(range(len(items)))[::-1]  # numbers of items that nobody has taken yet
        self.finished: list[int] = []
        self.done = threading.Event()

    def work(self) -> None:
        """Take items, and do them, until none is left. After an error the others are not done any more."""
        while self.left:
            try:
                number = self.left.pop()
            except IndexError:  # another thread was faster
                return
            try:
                if not self.errors:
                    self.results[number] = self.function(self.items[number])
            except BaseException as error:
                self.errors[number] = error
            self.finished.append(number)
            if len(self.finished) == len(self.items):
                self.done.set()

    def wait(self) -> list[Any]:
        """The results, once no helper is at work any more."""
        try:
            self.done.wait()
            if self.errors:
                raise self.errors[min(self.errors)]
            return self.results
        finally:
            self.left.clear()  # if the caller was interrupted: helpers stop after what they are at
            self.errors = {}  # an error holds this frame, which would hold the error
            self.function, self.items = (
                _nothing,
                (),
            )  # a helper that is still asleep has this job before it, not its arrays


def _nothing(item: Any) -> None:
    """What is left of a job that is done."""
