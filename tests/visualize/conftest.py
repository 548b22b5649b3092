"""The palette of the tests' pictures."""

import numpy as np
import pytest
from pictures import small_palette


@pytest.fixture
def palette() -> np.ndarray:
    return small_palette()
