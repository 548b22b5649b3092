"""draw_nodes, which draws graphs of anything."""

from minifcn.autograd.graph import draw_nodes

MADE_FROM = {"loss": ["sum"], "sum": ["product", "b", "b"], "product": ["w", "x"]}


def parents(name):
    return MADE_FROM.get(name, ())


def drawing():
    return draw_nodes("loss", parents, label=lambda name: f"box {name}").axes[0]


def test_each_node_has_its_box_and_each_use_its_arrow():
    """A node that is used twice by the same one, with a single arrow."""
    texts = [text.get_text() for text in drawing().texts]
    assert sorted(filter(None, texts)) == [f"box {name}" for name in ("b", "loss", "product", "sum", "w", "x")]
    assert texts.count("") == 6


def test_arrows_between_the_same_boxes_do_not_lie_on_each_other():
    arrows = [text.arrow_patch for text in drawing().texts if not text.get_text()]
    curves = {arrow.get_connectionstyle().rad for arrow in arrows}
    assert {0.3, -0.3} <= curves


def test_a_long_arrow_goes_around_the_boxes_between():
    """A straight line from a to c through the box of b, which cannot be told from two arrows."""
    chain = {"c": ["b", "a"], "b": ["a"]}
    axes = draw_nodes("c", lambda name: chain.get(name, ()), str).axes[0]
    bends = [text.arrow_patch.get_connectionstyle().rad for text in axes.texts if not text.get_text()]
    assert sorted(bends)[-1] > 0.2


def test_leaves_have_their_own_colour():
    colours = {text.get_text(): text.get_bbox_patch().get_facecolor() for text in drawing().texts if text.get_text()}
    assert colours["box w"] == colours["box b"] != colours["box sum"]


def test_a_leaf_alone_can_be_drawn():
    axes = draw_nodes("x", lambda name: (), str).axes[0]
    assert [text.get_text() for text in axes.texts] == ["x"]


def test_parents_are_asked_once_for_each_node():
    """A graph of 60 doublings, along whose 2⁶⁰ ways nobody should walk."""
    asked = []

    def doubled(number):
        asked.append(number)
        return (number - 1, number - 1) if number else ()

    draw_nodes(60, doubled, str)
    assert len(asked) == 61
