"""Schedules: by how much the learning rate is multiplied at each step."""

from collections.abc import Callable

from minifcn.errors import UsageError

Schedule = Callable[[int, int], float]  # (step, steps in all) -> factor


def fixed(step: int, steps: int) -> float:
    """The same learning rate throughout, as in the paper."""
    return 1.0


def poly(step: int, steps: int) -> float:
    """(1 − step/steps)^0.9, down to almost nothing at the end (Chen et al. 2018, DeepLab), and 0 beyond it."""
    return max(0.0, 1 - step / max(steps, 1)) ** 0.9


def step_down(every: int = 0, factor: float = 0.1) -> Schedule:
    """Multiply by `factor` every so many steps; 0: after a third of all steps, and after two."""

    def schedule(step: int, steps: int) -> float:
        times = step // every if every else min(3 * step // max(steps, 1), 2)
        return float(factor) ** times

    return schedule


def with_warm_up(schedule: Schedule, warm_up: int) -> Schedule:
    """The schedule with its first `warm_up` factors multiplied by 1/(warm_up + 1), 2/(warm_up + 1), and so on below 1.

    The first gradients are the largest, and Adam's first averages the least reliable: full steps along them can throw
    the weights to where nothing is learnt any more (Goyal et al. 2017).
    """

    def warmed(step: int, steps: int) -> float:
        return min(1.0, (step + 1) / (warm_up + 1)) * schedule(step, steps)

    return warmed


SCHEDULES: dict[str, Schedule] = {"fixed": fixed, "poly": poly, "step": step_down()}


def make_schedule(name: str, *, warm_up: int = 0, step_every: int = 0, step_factor: float = 0.1) -> Schedule:
    """The schedule of a configuration: one of SCHEDULES by name, warmed up over the first `warm_up` steps.

    step_every, step_factor: what "step" hands to `step_down`. Raises UsageError for what cannot be.
    """
    if name not in SCHEDULES:
        raise UsageError(f"--schedule {name}: choose one of {', '.join(SCHEDULES)}.")
    if warm_up < 0 or step_every < 0 or not 0 < step_factor <= 1:
        raise UsageError(
            f"--warm-up {warm_up} and --step-every {step_every} should be at least 0 steps, "
            f"and --step-factor {step_factor} above 0, at most 1."
        )
    schedule = step_down(step_every, step_factor) if name == "step" else SCHEDULES[name]
    return with_warm_up(schedule, warm_up) if warm_up else schedule
