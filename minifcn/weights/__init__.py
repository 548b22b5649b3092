"""Weight files: files in, named NumPy arrays and a record of their preprocessing out. Knows no network."""

from minifcn.weights.file import WeightFile, load, save_weights
from minifcn.weights.preprocessing import Preprocessing

__all__ = ["Preprocessing", "WeightFile", "load", "save_weights"]
