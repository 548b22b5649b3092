"""The drawings of graphs in the lessons."""

from course.graphs import draw
from minifcn.visualize import Picture


def test_a_graph_is_a_picture_with_its_alternative_text():
    made_from = {"loss": ["w", "x"]}
    shown = draw("loss", parents=lambda name: made_from.get(name, ()), label=str, alt="From w and x to the loss.")
    assert isinstance(shown, Picture)
    assert 'alt="From w and x to the loss."' in shown._repr_html_()
