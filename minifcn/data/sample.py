"""What a data set is: a sequence of pictures with a label for every pixel."""

from typing import NamedTuple, Protocol

import numpy as np

VOID = 255
"""The label of pixels that count neither in the loss nor in the metrics. It is not background."""


class Sample(NamedTuple):
    """One picture and its labels.

    image: uint8 (H, W, 3), RGB.  labels: uint8 (H, W), class of each pixel, 255 = void.  name: for messages.
    """

    image: np.ndarray
    labels: np.ndarray
    name: str


class Dataset(Protocol):
    """What the loader, the training loop and the commands ask of a data set.

    classes: the names, class 0 first; void is not among them.  palette: uint8 (256, 3), the colour of each label.
    name: what the user would type to open it, such as "shapes" or "folder:pictures".
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> np.ndarray: ...

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from a pair, or from one number for a square."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
