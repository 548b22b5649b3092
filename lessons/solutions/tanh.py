import numpy as np


def tanh(x):
    """(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ), of a number or of each entry of an array."""
    small = np.exp(-2 * np.abs(x))  # from 0 to 1, so nothing is ever too large
    return np.sign(x) * (1 - small) / (1 + small)
