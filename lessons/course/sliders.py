"""Sliders in a live notebook, and pictures of a few settings where there are none."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from course.verdict import show

Draw = Callable[..., Any]
Settings = Mapping[str, int]
Ranges = Mapping[str, tuple[int, int]]


def sliders(draw: Draw, *, examples: Sequence[Settings], **ranges: tuple[int, int]) -> None:
    """Show draw(**settings) with a slider for each setting, which goes from the lowest to the highest of its range.

        sliders(draw, kernel_size=(1, 5), stride=(1, 3), examples=[{"kernel_size": 3, "stride": 1}, …])

    draw: returns a picture, or a sentence for settings that make none.
    examples: where nothing can be dragged (ipywidgets is missing, or the lesson is run for a page or a test), these are
    drawn instead, one after the other. The sliders begin at the first.
    """
    pictures = [draw(**settings) for settings in examples]
    widgets = _widgets()
    if widgets is None:
        for picture in pictures:
            _show(picture)
        return
    from IPython.display import display

    box = _box(widgets, draw, examples[0], ranges)
    # A page that cannot show widgets (a preview, a saved notebook elsewhere) takes the pictures.
    static = "".join(picture._repr_html_() for picture in pictures if hasattr(picture, "_repr_html_"))
    display({**box._repr_mimebundle_(), "text/html": static}, raw=True)


def _widgets() -> Any:
    """The module ipywidgets, or None where there is nobody to drag: MINIFCN_SLIDERS=pictures, or no notebook."""
    if os.environ.get("MINIFCN_SLIDERS") == "pictures":
        return None
    try:
        import ipywidgets
        from IPython import get_ipython
    except ImportError:
        return None
    return None if type(get_ipython()).__name__ in ("NoneType", "TerminalInteractiveShell") else ipywidgets


def _box(widgets: Any, draw: Draw, first: Settings, ranges: Ranges) -> Any:
    """The sliders in a row, and the picture below, drawn anew when one of them moves."""
    controls = {
        name: widgets.IntSlider(
            value=first[name], min=lowest, max=highest, description=name, style={"description_width": "initial"}
        )
        for name, (lowest, highest) in ranges.items()
    }
    picture = widgets.interactive_output(lambda **settings: _show(draw(**settings)), controls)
    row = widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
    return widgets.VBox([row, picture])


def _show(picture: Any) -> None:
    if isinstance(picture, str):
        print(picture)
    else:
        show(picture)
