"""dropout of elements and of channels."""

import numpy as np
import pytest
from devices import assert_array_equal
from strategies import seeded

from minifcn import Tensor, ops
from minifcn.autograd import gradcheck
from minifcn.errors import ShapeError, UsageError

pytestmark = pytest.mark.usefixtures("device")


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("drop", [ops.dropout, ops.dropout2d])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(drop, p):
    """Probability p to *keep*, or a scale forgotten, so that predictions differ from training."""
    y = drop(Tensor(np.ones((100, 100, 2, 2))), p, generator=generator()).numpy()
    dropped = (y == 0).mean()
    sigma = np.sqrt(p * (1 - p) / 10_000)  # of 10,000 channels; of more elements it is smaller
    assert abs(dropped - p) < 4 * sigma
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p))
    assert abs(y.mean() - 1) < 4 * sigma / (1 - p)


def test_channels_are_dropped_whole():
    """Single elements of a feature map, whose neighbours say the same."""
    y = ops.dropout2d(Tensor(np.ones((20, 30, 4, 5))), 0.5, generator=generator()).numpy()
    kept = y.reshape(20, 30, 20).all(axis=2)
    assert_array_equal(kept, y.reshape(20, 30, 20).any(axis=2))
    assert 0 < kept.mean() < 1
    assert len({tuple(row) for row in kept}) > 1  # another choice for each image
    single = ops.dropout(Tensor(np.ones((20, 30, 4, 5))), 0.5, generator=generator()).numpy()
    assert (single.reshape(600, 20).all(axis=1) != single.reshape(600, 20).any(axis=1)).mean() > 0.9


def test_the_gradient_passes_where_the_value_did():
    """Another mask in backward than in forward."""
    x = seeded(4, 6, 3, 2)
    for drop in (ops.dropout, ops.dropout2d):
        assert gradcheck(lambda x, drop=drop: drop(x, 0.4, generator=generator(7)), [x])


def test_nothing_is_dropped_at_zero_and_everything_at_one():
    """1/(1 − p) is infinite at p = 1, and 0 · ∞ is NaN."""
    x = seeded(2, 3, 4, 5)
    for drop in (ops.dropout, ops.dropout2d):
        assert drop(x, 0, generator=generator()) is x
        y = drop(x, 1, generator=generator())
        assert_array_equal(y.data, np.zeros(x.shape))
        y.backward(np.ones(y.shape))
        assert_array_equal(x.grad, np.zeros(x.shape))


def test_nothing_is_dropped_outside_training():
    """Predictions that change from run to run; a generator that moves on although nothing was drawn."""
    x, source = seeded(2, 3), generator()
    before = source.bit_generator.state
    assert ops.dropout(x, 0.5, generator=source, training=False) is x
    assert source.bit_generator.state == before


def test_a_generator_repeats():
    """Randomness from anywhere else: a global seed, the time."""
    x = Tensor(np.ones((50, 50)))
    first, second = (ops.dropout(x, 0.5, generator=generator(3)).data for _ in range(2))
    assert_array_equal(first, second)
    source = generator(3)
    assert_array_equal(ops.dropout(x, 0.5, generator=source).data, first)
    assert (ops.dropout(x, 0.5, generator=source).data != first).any()


@pytest.mark.parametrize("p", [0.5, np.float64(0.5), np.float32(0.5)])
def test_float32_stays_float32(p):
    """A probability that NumPy computed (np.linspace) promotes the whole rest of the network."""
    x = Tensor(np.ones((4, 4), np.float32), requires_grad=True)
    y = ops.dropout(x, p, generator=generator())
    y.backward(np.ones((4, 4), np.float32))
    assert y.dtype == x.grad.dtype == np.float32


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), 50])
def test_p_is_a_probability(p):
    """50 for 50 %."""
    with pytest.raises(UsageError, match="dropout: p is a probability between 0 and 1, not"):
        ops.dropout(Tensor(np.ones(3)), p, generator=generator())


def test_channels_need_two_dimensions():
    """An IndexError."""
    with pytest.raises(ShapeError, match=r"dropout2d: the input has shape \(3,\)"):
        ops.dropout2d(Tensor(np.ones(3)), 0.5, generator=generator())
