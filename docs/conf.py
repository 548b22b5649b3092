"""The site: the lessons with what they print and draw, the pages of docs/, and the library's docstrings.

Built by `python -m course site FOLDER` (in lessons/), which puts everything into one folder of sources first.
"""

import re
from typing import Any

project = "minifcn"
html_title = "minifcn"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx-mathjax-offline"]
html_theme = "furo"
html_favicon = "favicon.svg"  # a browser asks for one, and would complain
exclude_patterns = ["_build"]

nb_execution_mode = "off"  # the lessons have been run already
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures stay short; docstrings say shapes and dtypes


def _as_lines(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text whose line breaks and indents mean something: keep them, as a line block.

    A long line goes on in the next one, which is how paragraphs are written.
    """
    shown: list[str] = []
    before = ""
    for line in lines:
        text = re.sub(r"([*_|\\])", r"\\\1", line.strip())
        text = re.sub(r"`([^`]+)`", lambda found: "``" + found[1].replace("\\", "") + "``", text)
        if len(before) > 90 and line.strip():
            shown[-1] += " " + text
        else:
            shown.append("| " + " " * (len(line) - len(line.lstrip())) + text)
        before = line
    lines[:] = [*shown, ""]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _as_lines)
