"""Schedules of the learning rate."""

import pytest

from minifcn.training import SCHEDULES, fixed, poly


def test_fixed_is_one_throughout():
    """A factor that creeps in."""
    assert [fixed(step, 3) for step in range(4)] == [1, 1, 1, 1]


def test_poly_falls_from_one_to_zero():
    """Counting from 1, a power of 1, or a last step that still has a part of the rate. 0.5^0.9 = 0.5359."""
    assert poly(0, 10) == 1
    assert poly(5, 10) == pytest.approx(0.535887, rel=1e-5)
    assert poly(9, 10) == pytest.approx(0.1**0.9)
    assert poly(10, 10) == 0
    factors = [poly(step, 10) for step in range(11)]
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES.values())
@pytest.mark.parametrize(("step", "steps"), [(0, 0), (0, 1), (1, 1), (11, 10), (5, 0)])
def test_factors_stay_between_zero_and_one_at_the_ends(schedule, step, steps):
    """Division by zero in an empty run; a complex number (of a negative one to the power 0.9) in a run that went on
    beyond its end."""
    factor = schedule(step, steps)
    assert isinstance(factor, float)
    assert 0 <= factor <= 1


def test_schedules_are_found_by_their_names():
    """A name of the command line that stands for another schedule."""
    assert dict(SCHEDULES.items()) == {"fixed": fixed, "poly": poly}
