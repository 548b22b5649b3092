"""What the tests ask of every reader of weight files: the very bits; or one line that names the file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from minifcn.errors import WeightsError

Reader = Callable[[Path], dict[str, np.ndarray]]


def refused(read: Reader, path: Path, content: bytes | None = None) -> str:
    """The message with which a file is refused; anything but one line that names the file fails.

    content: written to the file first, if given.
    """
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_or_refused(read: Reader, path: Path, content: bytes) -> dict[str, np.ndarray] | None:
    """The arrays of a damaged file, or None if it is refused as it should be."""
    path.write_bytes(content)
    try:
        return read(path)
    except WeightsError:
        refused(read, path)
        return None


def assert_same_bits(arrays: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Names, shapes, dtypes in native byte order, and every bit (NaNs, too), in arrays that are the caller's own."""
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert type(arrays[name]) is np.ndarray, name
        assert (arrays[name].shape, arrays[name].dtype) == (native.shape, native.dtype), name
        assert arrays[name].dtype.isnative, name
        assert arrays[name].tobytes() == native.tobytes(), name
        assert arrays[name].flags.writeable, name
