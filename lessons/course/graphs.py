"""Drawings of small graphs, for the lessons in which the backward pass is built."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from minifcn.autograd.graph import draw_nodes
from minifcn.visualize import PANEL, Picture


def draw(
    root: Hashable,
    *,
    parents: Callable[[Any], Iterable[Any]],
    label: Callable[[Any], str],
    alt: str,
    row_height: float = 0.8,
) -> Picture:
    """`root` and all that it was made from, an arrow for each use; leaves are blue. See autograd.graph.draw_nodes."""
    figure = draw_nodes(root, parents, lambda node: label(node).replace("-", "−"), row_height=row_height)
    figure.set_facecolor(tuple(value / 255 for value in PANEL))
    return Picture(figure, alt)
