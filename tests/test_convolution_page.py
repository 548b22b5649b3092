"""docs/convolution.md: its example runs, and names every route."""

import re
from pathlib import Path

from minifcn.ops import routes

PAGE = (Path(__file__).parents[1] / "docs" / "convolution.md").read_text(encoding="utf-8")


def test_the_example_takes_every_route_to_the_same_numbers(capsys):
    """A route that is new, or has another name, and is not on the page; an example that a learner cannot run."""
    example = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example[1], {})
    lost = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert lost.keys() == set(routes.ROUTES)
    assert float(lost.pop("sparse")) == 0
    assert all(1e-8 < float(error) < 2e-5 for error in lost.values())
