"""Curves of a run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minifcn.visualize.save import save_figure
from minifcn.visualize.style import LINE_COLORS, PANEL, TEXT, matplotlib_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves(rows: Iterable[Mapping[str, Any]], path: str | Path | None = None) -> "Figure":
    """Loss and mean IU against the step, one colour for each stage; written to `path` as PNG if one is given.

    rows are those of metrics.csv, numbers or their text, with the keys "stage", "step", "loss" and "mean_iu" (a
    fraction). A value that is missing, empty, NaN or infinite is left out, so a row may hold only one of the two.
    Stages that count their steps from the start are drawn one after the other, in the order of the rows. A long curve
    of losses is drawn twice: faint as it is, and in full as a running mean.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = ("stage", "step", "loss", "mean_iu")  # the other columns of a long run would take most of its memory
    rows = [{key: row.get(key) for key in drawn} for row in rows]
    stages = list(dict.fromkeys(str(row["stage"]) for row in rows))
    figure = Figure(figsize=(9, 7), dpi=100, layout="constrained", facecolor=matplotlib_color(PANEL))
    FigureCanvasAgg(figure)
    loss_axes, iu_axes = figure.subplots(2, 1, sharex=True)
    end = 0.0  # where the stage before ended
    for number, stage in enumerate(stages):
        # When the colours are used up, the next round is dashed.
        style: dict[str, Any] = {
            "color": LINE_COLORS[number % len(LINE_COLORS)],
            "linestyle": ("-", "--", ":")[number // len(LINE_COLORS) % 3],
        }
        own = [row for row in rows if str(row["stage"]) == stage]
        begin = end if float(own[0]["step"]) <= end else 0.0
        end = begin + float(own[-1]["step"])
        steps, losses = _points(own, "loss")
        smooth = _running_mean(losses)
        if smooth is not losses:
            loss_axes.plot(begin + steps, losses, linewidth=1, alpha=0.3, **style)
        loss_axes.plot(begin + steps, smooth, linewidth=2.5, label=stage, **style)
        steps, mean_ius = _points(own, "mean_iu")
        iu_axes.plot(begin + steps, 100 * mean_ius, linewidth=2.5, marker="o", markersize=6, **style)
    if stages and not any(line.get_xdata().size for line in iu_axes.lines):
        middle = {"transform": iu_axes.transAxes, "ha": "center", "fontsize": 14, "color": matplotlib_color(TEXT)}
        iu_axes.text(0.5, 0.5, "comes with the first validation", **middle)
    _label_axes(loss_axes, "loss")
    _label_axes(iu_axes, "mean IU %")
    iu_axes.set_xlabel("step", fontsize=15, color=matplotlib_color(TEXT))
    for axes in (loss_axes, iu_axes):
        axes.set_ylim(bottom=0)
    if stages:
        loss_axes.legend(
            fontsize=14, framealpha=0.9, facecolor=matplotlib_color(PANEL), labelcolor=matplotlib_color(TEXT)
        )
    if path is not None:
        save_figure(figure, path)
    return figure


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the rows that have a finite number under the key."""
    filled = [row for row in rows if row.get(key) not in (None, "")]
    points = np.array([(float(row["step"]), float(row[key])) for row in filled]).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a window of about a twentieth of the values, narrower at the ends; short curves as they are."""
    reach = len(values) // 40
    if reach == 0:
        return values
    window = np.ones(2 * reach + 1)
    return np.convolve(values, window, mode="same") / np.convolve(np.ones_like(values), window, mode="same")


def _label_axes(axes: "Axes", name: str) -> None:
    axes.set_ylabel(name, fontsize=15, color=matplotlib_color(TEXT))
    axes.tick_params(labelsize=13, colors=matplotlib_color(TEXT))
    axes.set_facecolor("white")
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
