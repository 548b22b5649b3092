"""The masks of the Semantic Boundaries Dataset, which are files of MATLAB."""

from pathlib import Path

import numpy as np

from minifcn.data.archive import File
from minifcn.errors import DataError

_LARGEST = 4_000_000  # bytes; theirs have some 10,000, and zlib lets a file claim a thousand times its size


def read_matlab_mask(file: File) -> np.ndarray:
    """The labels in a file of SBD's folder cls: uint8 (H, W), 0 is background. It has no void.

    They are `GTcls.Segmentation`; what else is in it, such as the boundaries of each category, is passed over.
    Raises DataError, with the file's name, for a file that is missing, damaged, or holds something else.
    """
    import scipy.io  # here, since it takes a moment to import and only SBD needs it

    try:
        with file.open("rb") if isinstance(file, Path) else file.open() as opened:
            if len(opened.read(_LARGEST + 1)) > _LARGEST:
                raise DataError(f"{file}: larger than a mask can be. Unpack the data set again.")
            opened.seek(0)
            content = scipy.io.loadmat(opened, variable_names=["GTcls"])
        labels = content["GTcls"][0]["Segmentation"][0]
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such file.") from error
    except Exception as error:  # damaged bytes make SciPy's reader raise almost any type
        raise DataError(
            f"{file}: GTcls.Segmentation cannot be read from this file of MATLAB, which is probably damaged "
            f"({type(error).__name__}: {error}). Unpack the data set again."
        ) from error
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "iu" or not labels.size:
        raise DataError(f"{file}: GTcls.Segmentation is no matrix of labels. Unpack the data set again.")
    if labels.min() < 0 or labels.max() > 255:
        raise DataError(f"{file}: labels from {labels.min()} to {labels.max()}. Unpack the data set again.")
    return np.ascontiguousarray(labels, dtype=np.uint8)  # MATLAB's order is by columns
