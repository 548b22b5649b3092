"""Modules: parameters with names, and the layers that hold them."""

from minifcn.nn.init import bilinear_filter, bilinear_weight, he_normal
from minifcn.nn.layers import BatchNorm2d, Conv2d, ConvTranspose2d, Dropout, Dropout2d, Linear
from minifcn.nn.module import Module, Parameter

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Dropout2d",
    "Linear",
    "Module",
    "Parameter",
    "bilinear_filter",
    "bilinear_weight",
    "he_normal",
]
