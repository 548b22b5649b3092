"""Containers, a module each: a file in, arrays by the names they have in it out. None of them knows a network."""

import numpy as np


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """uint16 bit patterns -> the same numbers as float32: a bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
