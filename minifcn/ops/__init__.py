"""The differentiable operations. Each module holds the derivations of its own."""

from minifcn.ops.batch_norm import batch_norm
from minifcn.ops.conv import conv2d
from minifcn.ops.conv_transpose import conv_transpose2d
from minifcn.ops.dice import dice_loss
from minifcn.ops.dropout import dropout, dropout2d
from minifcn.ops.elementwise import (
    add,
    divide,
    exp,
    log,
    multiply,
    negative,
    pow,
    relu,
    sigmoid,
    subtract,
    tanh,
)
from minifcn.ops.geometry import ConvGeometry, CoordinateMap, conv_matrix, patch_matrix
from minifcn.ops.kept_filters import keep_filters
from minifcn.ops.linalg import linear, matmul
from minifcn.ops.loss import softmax_cross_entropy
from minifcn.ops.patches import col2im, im2col
from minifcn.ops.pool import max_pool2d
from minifcn.ops.reduce import amax, mean, sum
from minifcn.ops.routes import conv_route
from minifcn.ops.shape import concatenate, crop, pad, permute, reshape, to_device, transpose

__all__ = [
    "ConvGeometry",
    "CoordinateMap",
    "add",
    "amax",
    "batch_norm",
    "col2im",
    "concatenate",
    "conv2d",
    "conv_matrix",
    "conv_route",
    "conv_transpose2d",
    "crop",
    "dice_loss",
    "divide",
    "dropout",
    "dropout2d",
    "exp",
    "im2col",
    "keep_filters",
    "linear",
    "log",
    "matmul",
    "max_pool2d",
    "mean",
    "multiply",
    "negative",
    "pad",
    "patch_matrix",
    "permute",
    "pow",
    "relu",
    "reshape",
    "sigmoid",
    "softmax_cross_entropy",
    "subtract",
    "sum",
    "tanh",
    "to_device",
    "transpose",
]
