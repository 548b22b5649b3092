"""Sliders where a reader can drag them, pictures of the examples where nobody can, and nothing else in either."""

import nbformat

from course import sliders
from course.notebooks import LESSONS_FOLDER, execute

EXAMPLES = [{"size": 3, "step": 1}, {"size": 5, "step": 2}]
CELL = """
from minifcn import visualize
from course.sliders import sliders

def draw(size, step):
    return visualize.matrices({"size": [[size, step]]}, alt=f"size {size}, step {step}")

sliders(draw, size=(1, 5), step=(1, 3), examples=[{"size": 3, "step": 1}, {"size": 5, "step": 2}])
"""


def sentence(size, step):
    return f"size {size}, step {step}"


def run_in_notebook():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    execute(notebook, LESSONS_FOLDER)
    return notebook.cells[0].outputs


def test_without_a_notebook_the_examples_are_shown_in_their_order(capsys):
    sliders.sliders(sentence, size=(1, 5), step=(1, 3), examples=EXAMPLES)
    assert capsys.readouterr().out.splitlines() == ["size 3, step 1", "size 5, step 2"]


def test_a_moved_slider_draws_anew(capsys):
    import ipywidgets

    box = sliders._box(ipywidgets, sentence, EXAMPLES[0], {"size": (1, 5), "step": (1, 3)})
    size, step = box.children[0].children
    assert (size.description, size.min, size.max, size.value, step.value) == ("size", 1, 5, 3, 1)
    capsys.readouterr()
    size.value = 4
    assert "size 4, step 1" in capsys.readouterr().out


def test_a_live_notebook_gets_sliders_and_pictures_in_their_place(monkeypatch):
    """A page that knows no widgets shows the pictures of the same output."""
    monkeypatch.delenv("MINIFCN_SLIDERS", raising=False)
    (output,) = run_in_notebook()
    assert output.output_type == "display_data"
    assert "application/vnd.jupyter.widget-view+json" in output.data
    assert 'alt="size 3, step 1"' in output.data["text/html"]
    assert 'alt="size 5, step 2"' in output.data["text/html"]


def test_a_page_or_a_test_gets_pictures_only(monkeypatch):
    monkeypatch.setenv("MINIFCN_SLIDERS", "pictures")
    outputs = run_in_notebook()
    assert [output.output_type for output in outputs] == ["display_data"] * 2
    assert all("application/vnd.jupyter.widget-view+json" not in output.data for output in outputs)
    assert 'alt="size 3, step 1"' in outputs[0].data["text/html"]
