"""Streams and events of the fake device: who may read what, and when.

The fake computes at once, so nothing is ever late. Instead it keeps account of what a GPU would have been told: each
stream counts its work and knows how far it has waited for the others (a vector clock), the host too. Reading an array
of another stream without having waited for it, or giving out memory again that another stream may still read, is a
StreamError; on a GPU both are wrong numbers, now and then.
"""

import threading
import time
from typing import Any

from fake_cupy.device import card


class StreamError(AssertionError):
    """What CUDA would do without a word."""


class Event:
    """What a stream had done, and had waited for, when it was recorded."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.order: dict[Any, int] = {}
        self.seconds = 0.0

    def record(self, stream: "Stream | None" = None) -> None:
        stream = stream or current_stream()
        self.order = {**stream.seen, stream: stream.work}
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        card.wait()
        _merge(_host_seen, self.order)


class Stream:
    """Work in the order in which it was asked for; work of other streams in no order, unless an event is waited for."""

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.work, self.seen = 0, {}
        self.readers_of_freed: list[dict[Stream, int]] = []
        self.device, self.ptr = card.current, 0 if null else id(self)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        card.compute()
        _merge(self.seen, event.order)

    def synchronize(self) -> None:
        card.wait()
        _merge(_host_seen, {**self.seen, self: self.work})

    def has_waited_for(self, stream: "Stream", work: int) -> bool:
        return stream is self or max(self.seen.get(stream, 0), _host_seen.get(stream, 0)) >= work

    def __enter__(self) -> "Stream":
        if self.device != card.current:
            raise RuntimeError(f"the stream is of device {self.device}, but device {card.current} is in use")
        _of_thread().append(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        _of_thread().pop()


class Place:
    """Where an array's memory was made: the stream whose pool it goes back to, and who has read it since."""

    __slots__ = ("readers", "stream", "work")

    def __init__(self) -> None:
        self.stream, self.readers = current_stream(), {}
        with card.lock:
            freed, self.stream.readers_of_freed = self.stream.readers_of_freed, []
        for readers in freed:
            for reader, work in readers.items():
                if not self.stream.has_waited_for(reader, work):
                    raise StreamError("memory is given out again that another stream may still be reading")
        self.stream.work += 1
        self.work = self.stream.work

    def use(self) -> None:
        """The current stream computes with the array."""
        stream = current_stream()
        if stream is not self.stream:
            if not stream.has_waited_for(self.stream, self.work):
                raise StreamError("an array of another stream is used before the event of its copy was waited for")
            stream.work += 1
            self.readers[stream] = stream.work

    def free(self) -> None:
        if self.readers:
            with card.lock:
                self.stream.readers_of_freed.append(self.readers)


def current_stream(device: int | None = None) -> Stream:
    return _of_thread()[-1]


def elapsed_milliseconds(first: Event, last: Event) -> float:
    return 1e3 * (last.seconds - first.seconds)


def _of_thread() -> list[Stream]:
    """The streams that this thread has entered, above the default one, which all threads share."""
    if not hasattr(_threads, "streams"):
        _threads.streams = [DEFAULT]
    return _threads.streams


def _merge(seen: dict[Any, int], order: dict[Any, int]) -> None:
    for stream, work in order.items():
        seen[stream] = max(seen.get(stream, 0), work)


_threads = threading.local()
_host_seen: dict[Any, int] = {}
DEFAULT = Stream(null=True)
