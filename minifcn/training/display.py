"""What a run shows while a stage is trained: a bar in a terminal, lines of text elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from tqdm.auto import tqdm

from minifcn.training.loop import Step

SECONDS_A_LINE = 30  # without a bar: a line at the first row of metrics.csv after so many seconds,
STEPS_A_LINE = 100  # or after so many steps


def warn(text: str) -> None:
    """Lines on stderr, also for those who want it quiet, that do not tear a bar."""
    tqdm.write(text, file=sys.stderr)


class Display:
    """The means over the last few steps, and how they are shown. To be used in a `with`.

    steps: of the stage; start: how many are done already; losses: of those since the last summary, a list that is kept
    up to date, so that a checkpoint can hold it. bar: whether to draw one; else lines go to `say`.
    """

    def __init__(
        self, stage: str, steps: int, start: int, losses: list[float], say: Callable[[str], None], bar: bool
    ) -> None:
        self.stage, self.steps, self.start, self.say, self.bar = stage, steps, start, say, bar
        self._bar = tqdm(desc=stage, total=steps, initial=start, unit="step", file=sys.stderr, disable=not bar)
        self._begin = self._last_line = time.perf_counter()
        self._losses, self._images, self._window_begin = losses, 0, self._begin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()

    def add(self, step: Step) -> None:
        self._losses.append(step.loss)
        self._images += step.images
        self._bar.update()

    def summary(self, step: Step, lr: float) -> dict[str, float]:
        """The means since the last summary, which are shown, too: loss and images_per_second."""
        now = time.perf_counter()
        speed = self._images / max(now - self._window_begin, 1e-9)
        values = {"loss": sum(self._losses) / len(self._losses), "images_per_second": speed}
        self._bar.set_postfix(loss=f"{values['loss']:.3f}", lr=f"{lr:.3g}", images=f"{speed:.3g}/s", refresh=False)
        if not self.bar and (step.number % STEPS_A_LINE == 0 or now - self._last_line > SECONDS_A_LINE):
            self._last_line = now
            left = (now - self._begin) / (step.number - self.start) * (self.steps - step.number)
            self.say(
                f"{self.stage}: step {step.number} of {self.steps}, loss {values['loss']:.3f}, lr {lr:.3g}, "
                f"{speed:.3g} images/s, {tqdm.format_interval(left)} left"
            )
        self._losses.clear()
        self._images, self._window_begin = 0, now
        return values

    def write(self, line: str) -> None:
        """A line that does not tear the bar."""
        if self.bar:
            tqdm.write(line)
        else:
            self.say(line)
