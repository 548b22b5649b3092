"""Where the pixels of feature maps lie in the image."""

from collections.abc import Mapping, Sequence

from minifcn.errors import ShapeError
from minifcn.visualize.diagrams import BLUE, VERMILION, Picture, _figure
from minifcn.visualize.style import TEXT, matplotlib_color

Row = tuple[int, float, float]  # number of pixels, scale, offset


def positions(named: Mapping[str, Row], *, alt: str, outline: Mapping[str, Sequence[int]] | None = None) -> Picture:
    """Maps along one axis, one below the other, each pixel as a box with its number over the place where it lies.

    named: by title, (number of pixels, scale, offset): pixel i is centred on scale·i + offset and `scale` wide, in
    pixels of the image. outline: by title, the pixels to point out.
    """
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    if not named:
        raise ShapeError("positions: there is nothing to draw; give at least one map.")
    ends = [(offset - scale / 2, offset + scale * (count - 0.5)) for count, scale, offset in map(tuple, named.values())]
    left, right = min(start for start, _ in ends), max(end for _, end in ends)
    figure, (axes,) = _figure((min(11, 1.5 + 0.3 * (right - left)), 0.55 * len(named) + 0.6), columns=1)
    axes.axis("on")
    for row, (title, (count, scale, offset)) in enumerate(named.items()):
        marked = (outline or {}).get(title, ())
        for pixel in sorted(range(count), key=lambda number: number in marked):  # outlines lie on top
            centre, is_marked = scale * pixel + offset, pixel in marked
            box = Rectangle(
                (centre - scale / 2, row - 0.36),
                scale,
                0.72,
                facecolor="#ffffff",
                edgecolor=VERMILION if is_marked else BLUE,
                linewidth=2.5 if is_marked else 0.9,
            )
            axes.add_patch(box)
            axes.text(centre, row, str(pixel), ha="center", va="center", fontsize=8, color=matplotlib_color(TEXT))
    axes.set_xlim(left - 0.5, right + 0.5)
    axes.set_ylim(len(named) - 0.4, -0.6)  # the first at the top
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks(range(len(named)), list(named))
    axes.tick_params(colors=matplotlib_color(TEXT), labelsize=10, length=0)
    axes.set_xlabel("pixels of the image", color=matplotlib_color(TEXT), fontsize=10)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#dddddd")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return Picture(figure, alt)
