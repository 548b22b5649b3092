"""Weight files: files in, named NumPy arrays and a record of their preprocessing out.

It knows the published networks by their tensors' names and shapes, but builds none: that is for `models`.
"""

import os
from pathlib import Path

from minifcn.errors import UsageError, WeightsError
from minifcn.weights.catalogue import CATALOGUE, Published
from minifcn.weights.file import WeightFile, load, save_weights
from minifcn.weights.preprocessing import PRESETS, Preprocessing


def fetch(name: str, cache: str | os.PathLike[str] | None = None, *, progress: bool = True) -> Path:
    """Published weights by their name in CATALOGUE, downloaded into the cache folder if they are not there: their path.

    cache: the folder; by default the user's. progress: whether to show a bar. Raises UsageError for an unknown name,
    WeightsError if no address gives the file.
    """
    from minifcn.downloads import download  # here, since it takes a moment to import and is seldom used

    if name not in CATALOGUE:
        raise UsageError(f"there are no published weights of the name {name}; known are {', '.join(CATALOGUE)}.")
    return download(CATALOGUE[name], None if cache is None else Path(cache), error=WeightsError, progress=progress)


__all__ = ["CATALOGUE", "PRESETS", "Preprocessing", "Published", "WeightFile", "fetch", "load", "save_weights"]
