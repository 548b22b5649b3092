"""minifcn: fully convolutional networks for semantic segmentation, written by hand down to the last gradient."""

from minifcn import autograd, nn, ops
from minifcn.autograd import Tensor, no_grad
from minifcn.errors import MinifcnError

__version__ = "0.1.0"
__all__ = ["MinifcnError", "Tensor", "autograd", "nn", "no_grad", "ops"]
