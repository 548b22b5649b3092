"""Pictures to draw upon, and what is looked for in a drawn one."""

import numpy as np

BLACK, RED, GREEN, BLUE, VOID = (0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200), (224, 224, 192)


def small_palette() -> np.ndarray:
    """Black, red, green and blue for the classes 0 to 3."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[[0, 1, 2, 3, 255]] = [BLACK, RED, GREEN, BLUE, VOID]
    return colours


def occurs(colour: tuple[int, int, int], picture: np.ndarray) -> bool:
    return bool((picture == colour).all(axis=2).any())


def grey(height: int, width: int, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)
