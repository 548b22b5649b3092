"""Automatic differentiation: tensors, the functions that connect them, and a check of their gradients."""

from minifcn.autograd.function import Context, Function
from minifcn.autograd.gradcheck import gradcheck
from minifcn.autograd.graph import draw_graph
from minifcn.autograd.tensor import Tensor, no_grad

__all__ = ["Context", "Function", "Tensor", "draw_graph", "gradcheck", "no_grad"]
