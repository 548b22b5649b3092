"""What is asked of a GPU beside results: the time by its own clock, its memory, how busy it is, how fast it copies.

A library sees the card through a Card (side.py): CUDA events in the stream that it computes in, and the high-water mark
of its own memory pool. The host's clock would time the asking, not the work.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from minifcn.backend import Backend
from minifcn.benchmarking.memory import CALLS
from minifcn.benchmarking.side import Card, PeakMemory

COPIED_BYTES = 2**28  # 256 MiB, more than the card's cache holds
COPIES = 10
PRODUCT_SIZE = 8192  # rows and columns: 1.1 TFLOP; of smaller ones a large card is not full
# PyTorch's flags: what it brings along, which is TF32 in cuDNN's convolutions but not in matrix products.
DEFAULT_FLAGS = {"cudnn.allow_tf32": True, "matmul.allow_tf32": False, "cudnn.benchmark": False}

Work = Callable[[], Any]


class CupyCard:
    """Arrays of CuPy's memory pool. The workspace of cuBLAS is not among them; in PyTorch's pool it is."""

    def __init__(self, backend: Backend) -> None:
        self.cupy: Any = backend.xp
        self.tf32 = backend.describe()["precision"] == "tf32"

    def record(self) -> Any:
        return self.cupy.cuda.get_current_stream().record()

    def seconds(self, first: Any, last: Any) -> float:
        last.synchronize()
        return self.cupy.cuda.get_elapsed_time(first, last) / 1e3

    def peak(self, work: Work) -> PeakMemory:
        pool = self.cupy.get_default_memory_pool()

        class HighWaterMark(self.cupy.cuda.MemoryHook):  # type: ignore[name-defined]
            """The pool itself keeps none."""

            name, most = "HighWaterMark", 0

            def malloc_postprocess(self, **about: Any) -> None:
                self.most = max(self.most, pool.used_bytes())

        gc.collect()
        pool.free_all_blocks()
        ready, mark = pool.used_bytes(), HighWaterMark()
        with mark:
            for _ in range(CALLS):
                work()
        return PeakMemory(ready, max(ready, mark.most))

    def copy(self, size: int) -> Work:
        source, target = (self.cupy.zeros(size // 4, "float32") for _ in range(2))
        return lambda: self.cupy.copyto(target, source)


class TorchCard:
    """Arrays of PyTorch's caching allocator; `flags` are set before each call, for they hold in the whole process."""

    def __init__(self, torch: Any, device: str, flags: Mapping[str, bool]) -> None:
        self.torch, self.device, self.flags = torch, device, dict(flags)
        self.tf32 = flags["cudnn.allow_tf32"] or flags["matmul.allow_tf32"]

    def with_flags(self, work: Work) -> Work:
        backends = self.torch.backends

        def call() -> Any:
            backends.cudnn.allow_tf32 = self.flags["cudnn.allow_tf32"]
            backends.cuda.matmul.allow_tf32 = self.flags["matmul.allow_tf32"]
            backends.cudnn.benchmark = self.flags["cudnn.benchmark"]
            return work()

        return call

    def record(self) -> Any:
        event = self.torch.cuda.Event(enable_timing=True)
        event.record(self.torch.cuda.current_stream(self.device))
        return event

    def seconds(self, first: Any, last: Any) -> float:
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def peak(self, work: Work) -> PeakMemory:
        cuda = self.torch.cuda
        gc.collect()
        cuda.empty_cache()
        cuda.reset_peak_memory_stats(self.device)
        ready = cuda.memory_allocated(self.device)
        for _ in range(CALLS):
            work()
        return PeakMemory(ready, cuda.max_memory_allocated(self.device))

    def copy(self, size: int) -> Work:
        source, target = (self.torch.zeros(size // 4, device=self.device) for _ in range(2))
        return lambda: target.copy_(source)


def seconds_of(card: Card, work: Work, calls: int = 1) -> float:
    """Seconds of one call by the card's clock, from when it could begin until it is done."""
    first = card.record()
    for _ in range(calls):
        work()
    return card.seconds(first, card.record()) / calls


def busy_seconds(card: Card, work: Work, occupy: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long the card computes for one call, without waiting for the host.

    occupy: long work, a large matrix product. So much of it is asked for first that the card is still at it when
    everything of the call has been asked for. Then it goes from kernel to kernel without a pause.
    """
    product = seconds_of(card, occupy)
    start = clock()
    work()
    asking = clock() - start
    for _ in range(math.ceil(1.5 * asking / max(product, 1e-6))):
        occupy()
    return seconds_of(card, work)


def copy_rate(card: Card) -> float:
    """Bytes a second that the card reads and writes, both counted, when it copies a large array: the best of all."""
    work = card.copy(COPIED_BYTES)
    work()
    return 2 * COPIED_BYTES / min(seconds_of(card, work) for _ in range(COPIES))
