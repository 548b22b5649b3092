"""Drawings of graphs: leaves on the left, the result on the right."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from minifcn.autograd.tensor import Node, Tensor
from minifcn.errors import GraphError

_LEAF_COLOR, _NODE_COLOR = "#cfe8fc", "#fde3b5"
_COLUMN, _ROW = 1.7, 0.8  # inches


def draw_graph(tensor: Tensor, names: Mapping[str, Tensor] | None = None) -> Any:
    """A matplotlib Figure of the operations that made `tensor`; `figure.savefig(path)` writes it, notebooks show it.

    names: labels for leaves, for example `dict(module.named_parameters())` or `{"x": x, "w": w}`; others show their
    shape only. Inputs that need no gradient are not part of the graph and so not of the picture. Each box is placed
    one column right of its last input. Draw before backward, which frees the graph.
    """
    if tensor.node is None:
        raise GraphError(
            "draw_graph: no recorded operation made this tensor; compute it from one with requires_grad=True."
        )
    labels = {id(leaf): name for name, leaf in (names or {}).items()}
    return draw_nodes(
        tensor.node,
        parents=_parents,
        label=lambda item: _leaf_label(item, labels) if isinstance(item, Tensor) else item.name,
    )


def draw_nodes(
    root: Hashable, parents: Callable[[Any], Iterable[Any]], label: Callable[[Any], str], *, row_height: float = _ROW
) -> Any:
    """A matplotlib Figure of `root` and of everything that it was made from, an arrow for each use.

    parents: what a node was made from, one entry for each use; nothing for a leaf. label: the text in a node's box.
    Nodes may be anything that can be the key of a dictionary. row_height: in inches; labels of several lines need more.
    """
    from matplotlib.figure import Figure

    made_from = _made_from(root, parents)
    columns = _columns(made_from)
    places = _places(columns)
    rows = max(len(column) for column in columns)
    size = (1.2 + _COLUMN * len(columns), row_height * (rows + 1))
    figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor="white")
    axes = figure.add_subplot(111)
    axes.axis("off")
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_ylim(-0.6, rows - 0.4)
    boxes = {}
    for item, (x, y) in places.items():
        color = _NODE_COLOR if made_from[item] else _LEAF_COLOR
        box = {"boxstyle": "round,pad=0.35", "facecolor": color, "edgecolor": "#555555"}
        text = axes.text(x, y, label(item), ha="center", va="center", fontsize=10, color="black", bbox=box)
        boxes[item] = text.get_bbox_patch()
    heights = [[places[item][1] for item in column] for column in columns]
    for item, used in made_from.items():
        for parent in dict.fromkeys(used):
            for bend in _bends(places[parent], places[item], used.count(parent), heights):
                style: dict[str, Any] = {
                    "arrowstyle": "-|>",
                    "color": "#555555",
                    "connectionstyle": f"arc3,rad={bend:.2f}",
                }
                style |= {"patchA": boxes[parent], "patchB": boxes[item], "shrinkA": 2, "shrinkB": 3}
                axes.annotate("", xy=places[item], xytext=places[parent], arrowprops=style)
    return figure


def _parents(item: Node | Tensor) -> list[Node | Tensor]:
    if isinstance(item, Tensor):
        return []
    if item.context is None:
        raise GraphError("draw_graph: backward has freed this graph; draw it before calling backward.")
    return [parent for parent in item.parents if parent is not None]


def _leaf_label(leaf: Tensor, labels: Mapping[int, str]) -> str:
    shape = "×".join(map(str, leaf.shape)) or "number"
    name = labels.get(id(leaf))
    return f"{name}\n{shape}" if name else shape


def _made_from(root: Any, parents: Callable[[Any], Iterable[Any]]) -> dict[Any, list[Any]]:
    """The parents of each node, every node after all of its parents. Found without recursion."""
    finished: dict[Any, list[Any]] = {}
    entered: dict[Any, list[Any]] = {}
    stack = [root]
    while stack:
        item = stack[-1]
        if item not in entered:
            entered[item] = list(parents(item))
        waiting = [parent for parent in entered[item] if parent not in finished]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        finished[item] = entered[item]
    return finished


def _columns(made_from: dict[Any, list[Any]]) -> list[list[Any]]:
    """Nodes by depth: a node stands one column right of its deepest parent, a leaf just left of its first use."""
    depth: dict[Any, int] = {}
    first_use: dict[Any, int] = {}
    for item, used in made_from.items():
        depth[item] = 1 + max((depth[parent] for parent in used), default=-1)
        for parent in used:
            first_use[parent] = min(depth[item], first_use.get(parent, depth[item]))
    columns: list[list[Any]] = [[] for _ in range(max(depth.values()) + 1)]
    leaves = [item for item, used in made_from.items() if not used]
    for item, used in made_from.items():
        if used:
            columns[depth[item]].append(item)
    for leaf in leaves:
        columns[first_use.get(leaf, 1) - 1].append(leaf)
    return columns


def _places(columns: list[list[Any]]) -> dict[Any, tuple[float, float]]:
    rows = max(len(column) for column in columns)
    return {
        item: (float(x), rows - 1 - (row + (rows - len(column)) / 2))
        for x, column in enumerate(columns)
        for row, item in enumerate(column)
    }


def _bends(start: tuple[float, float], end: tuple[float, float], uses: int, heights: list[list[float]]) -> list[float]:
    """How much each arrow from one box to another is curved, positive downward: several arrows apart from each other,
    a long one around the first box that it would pass through. heights: of the boxes in each column.
    """
    if uses > 1:
        return [0.3 - 0.6 * number / (uses - 1) for number in range(uses)]
    first, last = int(start[0]), int(end[0])
    for column in range(first + 1, last):
        line = start[1] + (end[1] - start[1]) * (column - first) / (last - first)
        for height in heights[column]:
            if abs(height - line) < 0.4:
                return [(0.55 if height >= line else -0.55) / (last - first)]
    return [0.06]
