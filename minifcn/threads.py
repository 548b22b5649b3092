"""Threads: how many this process computes with, and a crew of them that works through a list of items.

In a browser (Pyodide) none can be started, and everything is done in turn.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from threadpoolctl import ThreadpoolController

from minifcn.errors import UsageError


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


def get_threads() -> int:
    """How many threads the CPU backend uses: what `set_threads` said, else what BLAS was set to (OMP_NUM_THREADS,
    OPENBLAS_NUM_THREADS), else the cores this process may use; 1 where threads cannot be started, as in a browser.
    """
    global _thread_count
    if _thread_count is None:
        with _lock:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            pools = [library.get_num_threads() for library in _blas().lib_controllers]
            _thread_count = min([cores, *pools]) if can_start_threads() else 1
    return _thread_count


def set_threads(threads: int) -> None:
    """Use `threads` threads for matrix products and for the blocks of a convolution, in this whole process.

    Results are the same from run to run for one number of threads; between numbers they differ by rounding, because
    sums are grouped differently. Raises UsageError below 1, and above 1 where threads cannot be started.
    """
    global _thread_count
    if threads < 1:
        raise UsageError(f"--threads {threads}: at least 1 is needed.")
    if threads > 1 and not can_start_threads():
        raise UsageError(f"--threads {threads}: this Python cannot start threads; use --threads 1, or leave it out.")
    _thread_count = threads
    _blas().limit(limits=threads)


def map_on_threads(function: Callable[[Any], Any], items: Sequence[Any], threads: int) -> list[Any]:
    """`[function(item) for item in items]`, on so many threads, while BLAS is held to one in each of them.

    Raises the exception of the first item that has one.
    """
    with _blas_on_one_thread():
        return _find_crew(threads).map(function, items)


@contextlib.contextmanager
def _blas_on_one_thread() -> Iterator[None]:
    """As threadpoolctl's own limit, which looks up more and takes 25 µs: the time of a small layer's share of work."""
    libraries = _blas().lib_controllers
    before = [library.get_num_threads() for library in libraries]
    for library in libraries:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, threads in zip(libraries, before, strict=True):
            library.set_num_threads(threads)


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
            job.help()
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
        self.context = contextvars.copy_context()  # with the caller's settings, such as a forced route

    def help(self) -> None:
        """Work as the caller would, in another thread."""
        self.context.copy().run(self.work)

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
        """The results, once no helper is at work any more.

        So too if the caller is interrupted: a helper that went on would write to arrays that the next operation uses.
        """
        try:
            while not self.done.is_set():
                try:
                    self.done.wait()
                except BaseException as error:  # as if it were an item's, and the first one's
                    self.errors[-1] = error
            if self.errors:
                raise self.errors[min(self.errors)]
            return self.results
        finally:
            self.errors = {}  # an error holds this frame, which would hold the error
            # A helper that is still asleep has this job before it, but no arrays of the caller's.
            self.function, self.items, self.results = _nothing, (), []


def _nothing(item: Any) -> None:
    """What is left of a job that is done."""


_thread_count: int | None = None
_crew: Crew | None = None
_lock = threading.Lock()


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _find_crew(threads: int) -> Crew:
    """The crew of so many threads; one of another number is dismissed."""
    global _crew
    with _lock:
        if _crew is None or _crew.threads != threads:
            _forget_crew()
            _crew = Crew(threads)
        return _crew


def _forget_crew() -> None:
    global _crew
    if _crew is not None:
        _crew.dismiss()
    _crew = None


def _after_fork() -> None:
    """Threads do not live on in a child process: it makes its own, when it needs them."""
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it
    _forget_crew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
