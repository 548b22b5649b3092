"""Schedules: by how much the learning rate is multiplied at each step."""

from collections.abc import Callable

Schedule = Callable[[int, int], float]  # (step, steps in all) -> factor


def fixed(step: int, steps: int) -> float:
    """The same learning rate throughout, as in the paper."""
    return 1.0


def poly(step: int, steps: int) -> float:
    """(1 − step/steps)^0.9, down to almost nothing at the end (Chen et al. 2018, DeepLab), and 0 beyond it."""
    return max(0.0, 1 - step / max(steps, 1)) ** 0.9


SCHEDULES: dict[str, Schedule] = {"fixed": fixed, "poly": poly}
