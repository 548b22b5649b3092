"""A drawing of the graph behind a tensor: leaves on the left, the result on the right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minifcn.autograd.tensor import Node, Tensor
from minifcn.errors import GraphError

_LEAF_COLOR, _NODE_COLOR = "#cfe8fc", "#fde3b5"


def draw_graph(tensor: Tensor, names: Mapping[str, Tensor] | None = None) -> Any:
    """A matplotlib Figure of the operations that made `tensor`; `figure.savefig(path)` writes it, notebooks show it.

    names: labels for leaves, for example `dict(module.named_parameters())` or `{"x": x, "w": w}`; others show their
    shape only. Inputs that need no gradient are not part of the graph and so not of the picture. Each box is placed
    one column right of its last input. Draw before backward, which frees the graph.
    """
    from matplotlib.figure import Figure

    if tensor.node is None:
        raise GraphError(
            "draw_graph: no recorded operation made this tensor; compute it from one with requires_grad=True."
        )
    labels = {id(leaf): name for name, leaf in (names or {}).items()}
    columns = _columns(tensor.node)
    places = _places(columns)
    rows = max(len(column) for column in columns)
    figure = Figure(figsize=(1.2 + 1.7 * len(columns), 0.8 + 0.8 * rows), layout="constrained", facecolor="white")
    axes = figure.add_subplot(111)
    axes.axis("off")
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_ylim(-0.6, rows - 0.4)
    for item, (x, y) in places.items():
        if isinstance(item, Node):
            for parent in item.parents:
                if parent is not None:
                    _arrow(axes, places[parent], (x, y))
    for item, (x, y) in places.items():
        leaf = isinstance(item, Tensor)
        text = _leaf_label(item, labels) if isinstance(item, Tensor) else item.name
        box = {"boxstyle": "round,pad=0.35", "facecolor": _LEAF_COLOR if leaf else _NODE_COLOR, "edgecolor": "#555555"}
        axes.text(x, y, text, ha="center", va="center", fontsize=9, color="black", bbox=box)
    return figure


def _leaf_label(leaf: Tensor, labels: Mapping[int, str]) -> str:
    shape = "×".join(map(str, leaf.shape)) or "number"
    name = labels.get(id(leaf))
    return f"{name}\n{shape}" if name else shape


def _columns(root: Node) -> list[list[Node | Tensor]]:
    """Nodes and leaves by depth: a node's depth is one more than its deepest input's. Found without recursion."""
    depth: dict[Node | Tensor, int] = {}
    stack: list[Node | Tensor] = [root]
    while stack:
        item = stack[-1]
        if isinstance(item, Node) and item.context is None:
            raise GraphError("draw_graph: backward has freed this graph; draw it before calling backward.")
        parents = [parent for parent in item.parents if parent is not None] if isinstance(item, Node) else []
        waiting = [parent for parent in parents if parent not in depth]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        depth[item] = 1 + max((depth[parent] for parent in parents), default=-1)
    columns: list[list[Node | Tensor]] = [[] for _ in range(max(depth.values()) + 1)]
    for item, column in depth.items():
        if isinstance(item, Node):
            columns[column].append(item)
    # A leaf stands just left of the first operation that uses it, so that arrows stay short.
    for leaf in [item for item in depth if isinstance(item, Tensor)]:
        users = [depth[item] for item in depth if isinstance(item, Node) and leaf in item.parents]
        columns[min(users) - 1].append(leaf)
    return columns


def _places(columns: list[list[Node | Tensor]]) -> dict[Node | Tensor, tuple[float, float]]:
    rows = max(len(column) for column in columns)
    return {
        item: (float(x), rows - 1 - (row + (rows - len(column)) / 2))
        for x, column in enumerate(columns)
        for row, item in enumerate(column)
    }


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 22, "shrinkB": 24, "connectionstyle": "arc3,rad=0.06"}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
