"""Initial values."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minifcn.nn import bilinear_filter, bilinear_weight, he_normal


def test_the_filter_of_size_four():
    """[1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 16, as in the paper's release."""
    assert_allclose(bilinear_filter(4), np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16)


def test_the_filter_of_size_three():
    """The centre of an odd kernel is a pixel: [1, 2, 1] ⊗ [1, 2, 1] / 4."""
    assert_allclose(bilinear_filter(3), np.outer([1, 2, 1], [1, 2, 1]) / 4)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 32])
def test_the_sum_is_the_square_of_the_stride(stride):
    """Each input pixel is spread over stride² output pixels; any other sum changes the scores' size."""
    kernel = bilinear_filter(2 * stride)
    assert kernel.sum() == pytest.approx(stride**2)
    assert_array_equal(kernel, kernel[::-1])
    assert_array_equal(kernel, kernel.T)
    assert (kernel > 0).all()


def test_each_channel_is_enlarged_by_itself():
    """The filter everywhere, so that every class adds to every other."""
    weight = bilinear_weight(3, 4)
    assert (weight.shape, weight.dtype) == ((3, 3, 4, 4), np.float32)
    for i in range(3):
        for j in range(3):
            assert_array_equal(weight[i, j], bilinear_filter(4) if i == j else np.zeros((4, 4)))


def test_he_normal_has_variance_two_by_fan_in():
    """Standard deviation 2/n for variance 2/n: signals that vanish after five layers."""
    values = he_normal((200, 50, 3, 3), 450, np.random.default_rng(0))
    assert values.dtype == np.float32
    assert values.std() == pytest.approx(np.sqrt(2 / 450), rel=0.01)  # of 90,000 values: four standard errors
    assert abs(values.mean()) < 1e-3
    assert_array_equal(values, he_normal((200, 50, 3, 3), 450, np.random.default_rng(0)))
