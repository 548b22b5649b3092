"""Schedules of the learning rate."""

import numpy as np
import pytest

from minifcn.errors import UsageError
from minifcn.training.schedule import SCHEDULES, fixed, make_schedule, poly, step_down, with_warm_up


def test_fixed_is_one_throughout():
    """A factor that creeps in."""
    assert [fixed(step, 3) for step in range(4)] == [1, 1, 1, 1]


def test_poly_falls_from_one_to_zero():
    """Counting from 1, a power of 1, or a last step that still has a part of the rate. 0.5^0.9 = 0.5359."""
    assert poly(0, 10) == 1
    assert poly(5, 10) == pytest.approx(0.5358867)
    assert poly(9, 10) == pytest.approx(0.1**0.9)
    assert poly(10, 10) == 0
    factors = [poly(step, 10) for step in range(11)]
    assert factors == sorted(factors, reverse=True)


def test_step_down_multiplies_every_so_many_steps():
    """One step early or late, or a factor subtracted."""
    schedule = step_down(every=3, factor=0.5)
    assert [schedule(step, 10) for step in range(10)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_step_down_without_a_number_falls_at_the_thirds():
    """A last step beyond the second third that falls a third time."""
    assert [step_down(factor=0.5)(step, 6) for step in range(7)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert step_down()(899, 900) == pytest.approx(0.01)


def test_warm_up_rises_to_the_schedule():
    """A first step of zero, a jump at the end, or a schedule that starts only when it is warm."""
    assert [with_warm_up(fixed, 3)(step, 8) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    warmed = with_warm_up(poly, 4)
    assert [warmed(step, 10) for step in range(4, 11)] == [poly(step, 10) for step in range(4, 11)]
    assert warmed(1, 10) == pytest.approx(2 / 5 * 0.9**0.9)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), step_down(1, 0.1), with_warm_up(poly, 3)])
@pytest.mark.parametrize(("step", "steps"), [(0, 0), (0, 1), (1, 1), (11, 10), (5, 0)])
def test_factors_stay_between_zero_and_one_at_the_ends(schedule, step, steps):
    """Division by zero in an empty run; a complex number (of a negative one to the power 0.9) in a run that went on
    beyond its end."""
    factor = schedule(step, steps)
    assert isinstance(factor, float)
    assert 0 <= factor <= 1


def test_schedules_are_found_by_their_names():
    """A name of the command line that stands for another schedule."""
    assert set(SCHEDULES) == {"fixed", "poly", "step"}
    assert make_schedule("fixed") is fixed
    assert make_schedule("poly") is poly
    assert make_schedule("step", step_every=2, step_factor=0.5)(5, 10) == 0.25
    assert make_schedule("step")(500, 900) == SCHEDULES["step"](500, 900) == pytest.approx(0.1)
    assert make_schedule("step", warm_up=3, step_every=2, step_factor=0.5)(2, 10) == 0.75 * 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "cosine"}, "--schedule cosine: choose one of fixed, poly, step"),
        ({"name": "poly", "warm_up": -1}, "--warm-up -1"),
        ({"name": "step", "step_every": -5}, "--step-every -5"),
        ({"name": "step", "step_factor": 0}, "--step-factor 0"),
        ({"name": "step", "step_factor": 1.5}, "--step-factor 1.5"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    """A KeyError, or a learning rate that grows a hundredfold."""
    with pytest.raises(UsageError, match=words):
        make_schedule(**arguments)


def noisy_descent(schedule, steps=400):
    """Mean distance from the minimum of w²/2 after gradient descent with noise in every gradient, over 200 runs."""
    rng, w = np.random.default_rng(0), np.full(200, 5.0)
    for step in range(steps):
        w -= 0.2 * schedule(step, steps) * (w + rng.standard_normal(200))
    return np.abs(w).mean()


@pytest.mark.parametrize("name", ["poly", "step"])
def test_a_falling_rate_ends_nearer_the_minimum(name):
    """A factor that the steps do not feel: with a fixed rate the noise of single batches stays."""
    assert noisy_descent(make_schedule(name)) < 0.5 * noisy_descent(fixed)


def test_warm_up_survives_a_steep_start():
    """w⁴/4 from w = 3: the first full step overshoots to −5.1, and each one after it farther."""

    def descent(schedule):
        w = 3.0
        for step in range(60):
            w = float(np.clip(w - 0.3 * schedule(step, 60) * w**3, -1e6, 1e6))
        return abs(w)

    assert descent(fixed) == 1e6
    assert descent(make_schedule("fixed", warm_up=10)) < 0.5
