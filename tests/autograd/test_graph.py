"""draw_graph."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from strategies import seeded

from minifcn import Tensor, ops
from minifcn.autograd import draw_graph
from minifcn.errors import GraphError


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def arrows(figure):
    return [text for text in figure.axes[0].texts if not text.get_text()]


def test_operations_and_leaves_are_named():
    """Boxes without words, leaves left out, constants drawn."""
    x, weight = seeded(1, 2, 5, 4), seeded(3, 2, 3, 3)
    y = (ops.relu(ops.conv2d(x, weight)) * Tensor(2.0)).sum()
    figure = draw_graph(y, {"picture": x, "weight": weight})
    assert isinstance(figure, Figure)
    assert sorted(texts(figure)) == sorted(["Conv2d", "ReLU", "Multiply", "Sum", "picture\n1×2×5×4", "weight\n3×2×3×3"])
    assert len(arrows(figure)) == 5


def test_inputs_stand_left_of_what_is_made_of_them():
    """Arrows that point backwards."""
    x = seeded(2)
    figure = draw_graph(ops.exp(x) + ops.exp(ops.tanh(x)), {"x": x})
    place = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts if text.get_text()}
    assert place["x\n2"] < place["Tanh"] < place["Add"]


def test_branches_stand_one_above_the_other():
    """All operations in one row, in which the structure cannot be seen."""
    x = seeded(2)
    figure = draw_graph(ops.tanh(x) + ops.sigmoid(x))
    place = {text.get_text(): text.get_position() for text in figure.axes[0].texts if text.get_text()}
    assert place["Tanh"][0] == place["Sigmoid"][0]
    assert place["Tanh"][1] != place["Sigmoid"][1]


def test_a_leaf_used_twice_is_drawn_once():
    """One box for each use."""
    x = seeded(2)
    figure = draw_graph(x * x + x)
    assert texts(figure).count("2") == 1
    assert len(arrows(figure)) == 4


def test_it_can_be_saved_and_the_graph_still_used():
    """A drawing that frees the graph, or that only an open window can show."""
    x = seeded(3)
    y = ops.exp(x).sum()
    stream = io.BytesIO()
    draw_graph(y).savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")
    y.backward()
    assert_array_equal(x.grad, np.exp(x.data))


def test_a_deep_graph():
    """Recursion: a drawing of 2,000 steps is useless, but no reason to crash."""
    x = y = seeded(1)
    for _ in range(2000):
        y = y + x
    figure = draw_graph(y)
    assert texts(figure).count("Add") == 2000


def test_a_network_of_a_hundred_layers_can_be_saved():
    """A picture too wide for its format."""
    y = seeded(1)
    for _ in range(100):
        y = ops.relu(y)
    stream = io.BytesIO()
    draw_graph(y).savefig(stream, format="png")
    assert stream.tell() > 0


def test_what_has_no_graph_is_refused():
    """An empty picture."""
    x = seeded(2)
    with pytest.raises(GraphError, match="no recorded operation made this tensor"):
        draw_graph(x)
    y = x.sum()
    y.backward()
    with pytest.raises(GraphError, match="draw it before calling backward"):
        draw_graph(y)
