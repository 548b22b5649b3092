"""Ctrl-C and SIGTERM as a question that is asked between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C, SIGTERM and SIGHUP only set a flag, which is asked for between steps, when a checkpoint is
    consistent. SIGHUP, a terminal closed, not if the run was started to outlive that (nohup).

    A second one interrupts at once. Only the main thread can do this; in others nothing changes.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(signal_number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(signal_number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
