"""Small trained networks for the pictures of the lessons, in lessons/models/; models/make.py trains them."""

from pathlib import Path
from typing import Any

import numpy as np

from minifcn import models, weights

FOLDER = Path(__file__).parents[1] / "models"


def state(name: str) -> dict[str, np.ndarray]:
    """The weights of a checkpoint by their names, such as state("fcn8s")["conv1_1.weight"]."""
    return {
        tensor: array.astype(np.float32)
        for tensor, array in weights.load(FOLDER / f"{name}.safetensors").tensors.items()
    }


def network(name: str) -> Any:
    """The library's network with the weights of a checkpoint, ready for use."""
    file = weights.load(FOLDER / f"{name}.safetensors")
    model = models.build(file.architecture)
    models.load_pretrained(model, file)  # bilinear upsampling that was never learned is not in the file
    return model.eval()
